//! The config file: read, checked, and valid by construction afterwards.

mod credential;
pub mod describe;
pub mod diagnostic;
pub mod entry;
mod raw;
pub mod source;
mod spanned;
mod valid;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, Hash as _, Hasher as _, RandomState},
    io::Read as _,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

pub use self::diagnostic::{Diagnostic, Diagnostics};
use self::{
    entry::{Base, Entry},
    source::SourceConfig,
};
use crate::domain::{
    access::Access,
    limits::TenantLimits,
    provider::{CredentialRef, Provider, TenantConfig},
    session::AgentName,
    tenant::TenantId,
};

/// Largest config file.
pub const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What happens to a tenant without an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownTenants {
    /// Runs on the defaults, warned once.
    Accept,
    /// Is refused.
    Reject,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listen {
    /// Unix socket; none: the default address rule.
    pub unix: Option<PathBuf>,
    /// The socket's mode.
    pub unix_mode: u32,
    /// The socket's group; none: the sidecar's own.
    pub unix_gid: Option<u32>,
    /// TCP.
    pub tcp: Option<SocketAddr>,
    /// TLS of `tcp`.
    pub tls: Option<ListenTls>,
}

impl Default for Listen {
    fn default() -> Self {
        Self { unix: None, unix_mode: 0o600, unix_gid: None, tcp: None, tls: None }
    }
}

/// TLS of the TCP listener. Files, read again when they change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenTls {
    /// Certificate chain.
    pub cert_file: PathBuf,
    /// Its key.
    pub key_file: PathBuf,
    /// Who signs client certificates; none: clients show none.
    pub client_ca_file: Option<PathBuf>,
    /// Which of them are not good any more; none: nobody is asked.
    pub client_crl_file: Option<PathBuf>,
    /// A client without a certificate is not let in.
    pub client_cert_required: bool,
}

impl Listen {
    /// Why it would not be safe to listen at `address`, and which settings make it
    /// so.
    #[must_use]
    pub fn unsafe_at(&self, address: SocketAddr, access: &Access) -> Option<&'static str> {
        if address.ip().is_loopback() {
            return None;
        }
        let Some(tls) = &self.tls else {
            return Some(
                "is not a loopback address: it needs TLS, listen.tls with cert_file and key_file, and [[identities]] with tokens, or with uris or dns_names and listen.tls.client_ca_file",
            );
        };
        let known = access.identities().iter().any(|identity| {
            !identity.tokens.is_empty()
                || (!identity.certificates.is_empty() && tls.client_ca_file.is_some())
        });
        (!known).then_some(
            "is not a loopback address: it needs [[identities]] with tokens, or with uris or dns_names and listen.tls.client_ca_file; nobody else may call from afar",
        )
    }
}

/// Where it is kept what outlives the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// It is kept.
    pub enabled: bool,
    /// The directory; none: the default rule.
    pub path: Option<PathBuf>,
}

impl Default for State {
    fn default() -> Self {
        Self { enabled: true, path: None }
    }
}

/// Every bound, with its default. `docs/config.md` says what happens at each.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "docs/config.md has a line for each")]
pub struct Limits {
    pub max_sessions: u32,
    pub max_tenants: u32,
    pub max_workers: usize,
    pub max_watchers: u32,
    pub max_connections: usize,
    pub max_streams: u32,
    pub connections_per_peer: u32,
    pub calls_per_peer: u32,
    pub partial_bytes: usize,
    pub handshake_timeout: Duration,
    pub dead_after: Duration,
    pub acquires_per_second: Option<u32>,
    pub acquires_waiting: u32,
    pub tenant_acquires_waiting: u32,
    pub metadata_bytes: usize,
    pub message_bytes: usize,
    pub credential_bytes: usize,
    pub events_kept: usize,
    pub events_kept_bytes: usize,
    pub agent_events_per_second: u32,
    pub agent_event_bytes: usize,
    pub worker_reports_per_second: u32,
    pub ended_remembered: usize,
    pub ended_remembered_for: Duration,
    pub tenant_idle_after: Duration,
    pub heartbeat: Duration,
    pub metric_tenants: usize,
    pub threads: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_sessions: 10_000,
            max_tenants: 10_000,
            max_workers: 10_000,
            max_watchers: 256,
            max_connections: 10_000,
            max_streams: 10_000,
            connections_per_peer: 1000,
            calls_per_peer: 10_000,
            partial_bytes: 64 * 1024 * 1024,
            handshake_timeout: Duration::from_secs(10),
            dead_after: Duration::from_secs(40),
            acquires_per_second: None,
            acquires_waiting: 10_000,
            tenant_acquires_waiting: 1000,
            metadata_bytes: 64 * 1024,
            message_bytes: 1024 * 1024,
            credential_bytes: 64 * 1024,
            events_kept: 65_536,
            events_kept_bytes: 32 * 1024 * 1024,
            agent_events_per_second: 100,
            agent_event_bytes: 4096,
            worker_reports_per_second: 10,
            ended_remembered: 100_000,
            ended_remembered_for: Duration::from_secs(600),
            tenant_idle_after: Duration::from_secs(600),
            heartbeat: Duration::from_secs(10),
            metric_tenants: 1000,
            threads: 1,
        }
    }
}

/// Where what operators do is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The file.
    pub path: AuditPath,
    /// When it goes on in a new one.
    pub max_bytes: u64,
    /// Files kept before it.
    pub keep: usize,
}

/// Which file, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditPath {
    /// In the state folder; none where there is no such folder.
    Default,
    /// Nowhere.
    Off,
    /// This one.
    File(PathBuf),
}

impl Default for Audit {
    fn default() -> Self {
        Self { path: AuditPath::Default, max_bytes: 16 * 1024 * 1024, keep: 10 }
    }
}

/// A whole config.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file; none: built-in defaults.
    pub path: Option<PathBuf>,
    /// Listeners.
    pub listen: Listen,
    /// Tenants without an entry.
    pub unknown_tenants: UnknownTenants,
    /// What outlives the process.
    pub state: State,
    /// Bounds.
    pub limits: Limits,
    /// How long live sessions may run after a drain began.
    pub drain_timeout: Duration,
    /// Caps by agent.
    pub agents: BTreeMap<AgentName, u32>,
    /// Tenants with an entry.
    pub tenants: BTreeMap<TenantId, Arc<TenantConfig>>,
    /// What tenants without one run on.
    pub defaults: Arc<TenantConfig>,
    /// What entries from other sources are laid over.
    pub base: Arc<Base>,
    /// The file's entries as written.
    pub entries: BTreeMap<TenantId, Arc<Entry>>,
    /// Other sources, asked in this order after the file.
    pub sources: Vec<SourceConfig>,
    /// Who may call.
    pub access: Arc<Access>,
    /// Where Prometheus scrapes.
    pub prometheus: Option<SocketAddr>,
    /// Where `vault:` credentials are.
    pub vault: Option<source::VaultConfig>,
    /// Where what operators do is kept.
    pub audit: Audit,
    /// Later loads have higher ones.
    pub generation: u64,
}

impl Config {
    /// What runs without a file.
    #[must_use]
    pub fn builtin() -> Self {
        let mut defaults = TenantConfig {
            version: String::new(),
            known: false,
            limits: Arc::default(),
            providers: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        defaults.version = version_of(&defaults);
        Self {
            path: None,
            listen: Listen::default(),
            unknown_tenants: UnknownTenants::Accept,
            state: State::default(),
            limits: Limits::default(),
            drain_timeout: Duration::from_secs(30),
            agents: BTreeMap::new(),
            tenants: BTreeMap::new(),
            base: Arc::new(Base {
                folder: PathBuf::new(),
                defaults: defaults.clone(),
                slots: BTreeMap::new(),
                given: Vec::new(),
                vault: false,
            }),
            entries: BTreeMap::new(),
            sources: Vec::new(),
            access: Arc::default(),
            prometheus: None,
            vault: None,
            audit: Audit::default(),
            generation: next_generation(),
            defaults: Arc::new(defaults),
        }
    }

    /// A tenant's own entry, or the defaults; none when unknown tenants are
    /// rejected. Sessions that name no tenant are never unknown.
    #[must_use]
    pub fn tenant(&self, tenant: &TenantId) -> Option<Arc<TenantConfig>> {
        if let Some(own) = self.tenants.get(tenant) {
            return Some(Arc::clone(own));
        }
        let served = self.unknown_tenants == UnknownTenants::Accept || tenant.as_str() == "default";
        served.then(|| Arc::clone(&self.defaults))
    }
}

/// Reads and checks a file. One without a byte is an edit half-way, since writing
/// begins with cutting it off: taken over, it would lift every cap, and a start in
/// that moment would let everybody in.
///
/// # Errors
/// All that is wrong with it.
pub fn load(path: &Path) -> Result<Config, Diagnostics> {
    let (text, mode) = read(path).map_err(|message| whole_file(path, message))?;
    if text.is_empty() {
        let message =
            "is empty, as in the middle of an edit; to run on the defaults, leave a comment in it";
        return Err(whole_file(path, message.to_owned()));
    }
    parse(path, &text, mode)
}

fn whole_file(path: &Path, message: String) -> Diagnostics {
    let item = Diagnostic { line: 0, column: 0, key: String::new(), message };
    Diagnostics { path: path.to_owned(), items: vec![item] }
}

fn read(path: &Path) -> Result<(String, u32), String> {
    let said = |error: std::io::Error| format!("cannot be read: {error}");
    // Asked before opening: a FIFO would block the open.
    let meta = std::fs::metadata(path).map_err(said)?;
    if !meta.is_file() {
        return Err("must be a regular file".to_owned());
    }
    let file = std::fs::File::open(path).map_err(said)?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(said)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("must be at most {MAX_FILE_BYTES} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|error| {
        format!("must be UTF-8; byte {} is not", error.utf8_error().valid_up_to())
    })?;
    Ok((text, meta.permissions().mode()))
}

/// Checks the text of a file with this mode.
///
/// # Errors
/// All that is wrong with it.
pub fn parse(path: &Path, text: &str, mode: u32) -> Result<Config, Diagnostics> {
    let source = diagnostic::Source::new(text);
    let fail = |items| Diagnostics { path: path.to_owned(), items };
    let (file, mut items) = source.read::<raw::File>();
    let Some(file) = file else { return Err(fail(items)) };
    let (config, nonsense) = valid::config(path, file, &source, mode);
    items.extend(nonsense);
    items.sort_by_key(|item| (item.line, item.column));
    if items.is_empty() { Ok(config) } else { Err(fail(items)) }
}

/// The JSON Schema (draft 2020-12) of the file, for editors. It has the keys and
/// their shapes; bounds and rules between keys are `check`'s.
#[must_use]
pub fn schema() -> String {
    let schema = schemars::schema_for!(raw::File);
    serde_json::to_string_pretty(&schema).unwrap_or_default()
}

/// What differs between two configs.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Tenants whose entry came, went or changed.
    pub tenants: Vec<TenantId>,
    /// What tenants without an entry run on changed.
    pub defaults_changed: bool,
    /// Settings that need a restart to hold.
    pub restart_required: Vec<String>,
}

/// What differs between two configs.
#[must_use]
pub fn diff(old: &Config, new: &Config) -> Changes {
    let ids: std::collections::BTreeSet<_> = old.tenants.keys().chain(new.tenants.keys()).collect();
    let version =
        |config: &Config, id| config.tenants.get(id).map(|t: &Arc<TenantConfig>| t.version.clone());
    let tenants =
        ids.into_iter().filter(|id| version(old, *id) != version(new, *id)).cloned().collect();
    let (was, is) = (&old.limits, &new.limits);
    let fixed = [
        ("listen.unix", old.listen.unix != new.listen.unix),
        (
            "listen.unix_mode",
            (old.listen.unix_mode, old.listen.unix_gid)
                != (new.listen.unix_mode, new.listen.unix_gid),
        ),
        ("listen.tcp", old.listen.tcp != new.listen.tcp),
        ("listen.tls", old.listen.tls != new.listen.tls),
        ("state", old.state != new.state),
        ("sources", old.sources != new.sources),
        ("vault", old.vault != new.vault),
        ("audit", old.audit != new.audit),
        ("telemetry.prometheus", old.prometheus != new.prometheus),
        ("limits.max_connections", was.max_connections != is.max_connections),
        ("limits.max_streams", was.max_streams != is.max_streams),
        ("limits.connections_per_peer", was.connections_per_peer != is.connections_per_peer),
        ("limits.calls_per_peer", was.calls_per_peer != is.calls_per_peer),
        ("limits.partial_bytes", was.partial_bytes != is.partial_bytes),
        ("limits.handshake_timeout", was.handshake_timeout != is.handshake_timeout),
        ("limits.dead_after", was.dead_after != is.dead_after),
        ("limits.threads", was.threads != is.threads),
        ("limits.message_bytes", was.message_bytes != is.message_bytes),
        ("limits.metric_tenants", was.metric_tenants != is.metric_tenants),
        ("limits.events_kept", was.events_kept != is.events_kept),
        ("limits.events_kept_bytes", was.events_kept_bytes != is.events_kept_bytes),
        ("limits.ended_remembered", was.ended_remembered != is.ended_remembered),
        ("limits.ended_remembered_for", was.ended_remembered_for != is.ended_remembered_for),
    ];
    Changes {
        tenants,
        defaults_changed: old.defaults.version != new.defaults.version
            || old.unknown_tenants != new.unknown_tenants,
        restart_required: fixed
            .into_iter()
            .filter(|(_, changed)| *changed)
            .map(|(name, _)| name.to_owned())
            .collect(),
    }
}

/// A number that no config had before: tells the older of two apart.
#[must_use]
pub fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::AcqRel) + 1
}

/// Hashed under a key of this process: the version is told to agents and
/// watchers, and a plain digest over a literal key could be guessed at.
fn version_of(config: &TenantConfig) -> String {
    static KEY: OnceLock<RandomState> = OnceLock::new();
    let key = KEY.get_or_init(RandomState::new);
    // All fields by name, so that one that is added cannot be forgotten.
    let TenantConfig { version: _, known, limits, providers, labels } = config;
    let mut digest = key.build_hasher();
    let TenantLimits { cap, acquires_per_second, lease, breaker } = limits.as_ref();
    (known, cap, acquires_per_second, lease, breaker.numbers(), labels).hash(&mut digest);
    digest.write_usize(providers.len());
    for (slot, provider) in providers {
        let Provider { provider, model, base_url, credentials, params } = provider.as_ref();
        (slot, provider, model, base_url).hash(&mut digest);
        digest.write_usize(credentials.len());
        for (name, reference) in credentials {
            name.hash(&mut digest);
            std::mem::discriminant(reference).hash(&mut digest);
            match reference {
                CredentialRef::Env(name) => name.hash(&mut digest),
                CredentialRef::File(path) => path.hash(&mut digest),
                CredentialRef::Vault { path, field } => (path, field).hash(&mut digest),
                CredentialRef::Literal(secret) => secret.expose().hash(&mut digest),
            }
        }
        params.hash(&mut digest);
    }
    format!("{:016x}", digest.finish())
}

#[cfg(test)]
mod tests;
