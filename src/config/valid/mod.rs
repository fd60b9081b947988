//! From what is written to what holds: every number checked, every problem
//! collected, so that one run of `check` shows them all.

use std::{
    collections::BTreeMap, net::SocketAddr, ops::Range, path::Path, sync::Arc, time::Duration,
};

mod identities;
mod limits;
mod listen;
mod sources;

use super::{
    Audit, AuditPath, Config, Diagnostic, State, UnknownTenants, credential,
    diagnostic::Source,
    entry::{Base, Entry},
    raw::{self, Span},
    spanned::Spanned,
    version_of,
};
use crate::domain::{
    limits::{BreakerPolicy, LeasePolicy, TenantLimits},
    provider::{CredentialRef, Provider, Slot, TenantConfig, merge},
    session::AgentName,
    tenant::TenantId,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MAX_CAP: u32 = 1_000_000;
/// Largest rate of new sessions.
const MAX_RATE: u32 = 1_000_000;
/// Most slots, labels and credentials of one tenant.
const MAX_NAMES: usize = 64;

struct Check<'a> {
    source: &'a Source<'a>,
    folder: &'a Path,
    items: Vec<Diagnostic>,
    literals: bool,
    /// There is a secret store.
    vault: bool,
    /// Only a part of what will hold is here: rules between keys wait for the
    /// whole.
    partial: bool,
}

/// The valid config, and what is wrong with it: used only when nothing is.
pub fn config(
    path: &Path,
    file: raw::File,
    source: &Source<'_>,
    mode: u32,
) -> (Config, Vec<Diagnostic>) {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut check = Check { vault: file.vault.is_some(), ..Check::new(source, folder) };
    let builtin = Config::builtin();
    let given = file.default_keys();
    let lease = check.lease(&file.lease, LeasePolicy::default());
    let breaker = check.breaker(&file.defaults.breaker, BreakerPolicy::default());
    let cap = file.defaults.cap.as_ref().and_then(|cap| check.cap(cap));
    let slots = check.slots(file.defaults.providers);
    let labels = check.labels(file.defaults.labels);
    let rate = file.defaults.acquires_per_second.as_ref().map(|rate| check.rate(rate));
    let limits = Arc::new(TenantLimits { cap, acquires_per_second: rate, lease, breaker });
    let defaults = sealed(TenantConfig {
        version: String::new(),
        known: false,
        limits,
        providers: merge(&slots, &BTreeMap::new()),
        labels,
    });
    let sources = check.sources(file.sources);
    let listen = check.listen(&file.listen);
    let access = Arc::new(check.identities(file.identities, listen.tls.as_ref()));
    if let (Some(address), Some(place)) = (listen.tcp, &file.listen.tcp)
        && let Some(problem) = listen.unsafe_at(address, &access)
    {
        check.wrong(place.span(), problem);
    }
    let vault = file.vault.and_then(|vault| check.vault(&vault));
    let mut tenants = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for (name, raw) in file.tenants {
        if let Ok(id) = TenantId::parse(name.get_ref()) {
            entries.insert(id, Arc::new(Entry::new(raw.clone())));
        }
        let own = check.tenant(raw, &defaults, &slots);
        match TenantId::parse(name.get_ref()) {
            Ok(id) if id.as_str() == name.get_ref() => _ = tenants.insert(id, Arc::new(own)),
            Ok(_) | Err(_) => check.wrong(name.span(), "must be 1-128 characters of [A-Za-z0-9_-]"),
        }
    }
    let mut agents = BTreeMap::new();
    for (name, raw) in file.agents {
        match (AgentName::parse(name.get_ref()), check.cap(&raw.cap)) {
            (Ok(agent), Some(cap)) => _ = agents.insert(agent, cap),
            (Err(refused), _) => check.wrong(name.span(), &refused.message),
            (Ok(_), None) => {}
        }
    }
    let drain = file.drain.timeout.as_ref();
    let config = Config {
        path: Some(path.to_owned()),
        listen,
        unknown_tenants: match file.unknown_tenants {
            Some(raw::UnknownTenants::Reject) => UnknownTenants::Reject,
            Some(raw::UnknownTenants::Accept) | None => UnknownTenants::Accept,
        },
        state: check.state(file.state),
        limits: check.limits(&file.limits),
        drain_timeout: check.span(drain, builtin.drain_timeout, Duration::ZERO),
        agents,
        tenants,
        base: Arc::new(Base {
            folder: folder.to_owned(),
            defaults: defaults.clone(),
            slots,
            given,
            vault: vault.is_some(),
        }),
        entries,
        sources,
        access,
        prometheus: file.telemetry.prometheus.and_then(|at| check.scraped(&at)),
        vault,
        audit: check.audit(&file.audit),
        generation: super::next_generation(),
        defaults: Arc::new(defaults),
    };
    if check.literals && mode & 0o044 != 0 {
        let message = format!(
            "holds a literal credential and is readable by others (mode {:03o}); run chmod 600, or use env: or file:",
            mode & 0o777
        );
        check.items.push(Diagnostic { line: 0, column: 0, key: String::new(), message });
    }
    (config, check.items)
}

fn sealed(mut config: TenantConfig) -> TenantConfig {
    config.version = version_of(&config);
    config
}

impl<'a> Check<'a> {
    const fn new(source: &'a Source<'a>, folder: &'a Path) -> Self {
        Self { source, folder, items: Vec::new(), literals: false, vault: true, partial: false }
    }
}

/// Checks a part of a tenant's config, that comes from beside the file.
/// `literals`: it may hold keys themselves.
pub fn part(
    raw: &raw::Tenant,
    source: &Source<'_>,
    base: &Base,
    literals: bool,
) -> Vec<Diagnostic> {
    let mut check = Check { partial: true, vault: base.vault, ..Check::new(source, &base.folder) };
    check.tenant(raw.clone(), &base.defaults, &base.slots);
    if check.literals && !literals {
        let message = "holds a key itself; put a reference in its place (env:NAME, file:PATH), or set literals = true for this source";
        check.items.push(Diagnostic {
            line: 0,
            column: 0,
            key: "credential".to_owned(),
            message: message.to_owned(),
        });
    }
    check.items
}

/// The whole of a tenant's config out of its checked parts.
pub fn whole(raw: raw::Tenant, base: &Base) -> (TenantConfig, Vec<Diagnostic>) {
    // The parts come from several texts, so that places mean nothing here.
    let source = Source::new("");
    let mut check = Check::new(&source, &base.folder);
    let config = check.tenant(raw, &base.defaults, &base.slots);
    (config, check.items)
}

impl Check<'_> {
    fn wrong(&mut self, span: Range<usize>, message: &str) {
        self.items.push(self.source.at(span, message));
    }

    fn span(&mut self, raw: Option<&Spanned<Span>>, default: Duration, min: Duration) -> Duration {
        let Some(raw) = raw else { return default };
        let got = raw.get_ref().0;
        if got < min || got > YEAR {
            self.wrong(raw.span(), &format!("must be {min:?} to 365 days, for example \"30s\""));
        }
        got
    }

    fn count(&mut self, raw: Option<&Spanned<u32>>, default: u32, min: u32, max: u32) -> u32 {
        let Some(raw) = raw else { return default };
        let got = *raw.get_ref();
        if !(min..=max).contains(&got) {
            self.wrong(raw.span(), &format!("must be {min} to {max}, got {got}"));
        }
        got
    }

    fn rate(&mut self, raw: &Spanned<u32>) -> u32 {
        self.count(Some(raw), 1, 1, MAX_RATE)
    }

    fn cap(&mut self, raw: &Spanned<u32>) -> Option<u32> {
        let got = *raw.get_ref();
        if (1..=MAX_CAP).contains(&got) {
            return Some(got);
        }
        self.wrong(
            raw.span(),
            &format!("must be 1 to {MAX_CAP}, got {got}; leave it out for no cap, suspend a tenant to stop it"),
        );
        None
    }

    fn lease(&mut self, raw: &raw::Lease, base: LeasePolicy) -> LeasePolicy {
        let least = Duration::from_millis(100);
        let lease = LeasePolicy {
            pending: self.span(raw.pending.as_ref(), base.pending, least),
            ttl: self.span(raw.ttl.as_ref(), base.ttl, Duration::from_secs(1)),
            ttl_min: self.span(raw.ttl_min.as_ref(), base.ttl_min, Duration::from_secs(1)),
            ttl_max: self.span(raw.ttl_max.as_ref(), base.ttl_max, Duration::from_secs(1)),
            grace: self.span(raw.grace.as_ref(), base.grace, least),
        };
        let place = [&raw.ttl, &raw.ttl_min, &raw.ttl_max].into_iter().flatten().next();
        if let Some(place) = place
            && !self.partial
            && !(lease.ttl_min <= lease.ttl && lease.ttl <= lease.ttl_max)
        {
            self.wrong(
                place.span(),
                &format!(
                    "ttl_min, ttl and ttl_max must be in this order, got {:?}, {:?} and {:?}",
                    lease.ttl_min, lease.ttl, lease.ttl_max,
                ),
            );
        }
        lease
    }

    fn breaker(&mut self, raw: &raw::Breaker, base: BreakerPolicy) -> BreakerPolicy {
        let least = Duration::from_millis(10);
        let policy = BreakerPolicy {
            enabled: raw.enabled.unwrap_or(base.enabled),
            window: self.span(raw.window.as_ref(), base.window, Duration::from_millis(120)),
            min_samples: self.count(raw.min_samples.as_ref(), base.min_samples, 1, 1_000_000),
            failure_ratio: raw.failure_ratio.as_ref().map_or(base.failure_ratio, |r| *r.get_ref()),
            cooldown: self.span(raw.cooldown.as_ref(), base.cooldown, least),
            cooldown_max: self.span(raw.cooldown_max.as_ref(), base.cooldown_max, least),
            probes: self.count(raw.probes.as_ref(), base.probes, 1, 10_000),
            probe_healthy_after: self.span(
                raw.probe_healthy_after.as_ref(),
                base.probe_healthy_after,
                least,
            ),
        };
        if let Some(ratio) = &raw.failure_ratio
            && !(0.0..1.0).contains(ratio.get_ref())
        {
            self.wrong(ratio.span(), "must be 0 or more and less than 1, for example 0.5");
        }
        let place = raw.cooldown_max.as_ref().or(raw.cooldown.as_ref());
        if let Some(place) = place
            && !self.partial
            && policy.cooldown_max < policy.cooldown
        {
            self.wrong(
                place.span(),
                &format!(
                    "cooldown_max ({:?}) must not be shorter than cooldown ({:?})",
                    policy.cooldown_max, policy.cooldown,
                ),
            );
        }
        policy
    }

    fn tenant(
        &mut self,
        raw: raw::Tenant,
        defaults: &TenantConfig,
        slots: &BTreeMap<String, Slot>,
    ) -> TenantConfig {
        let base = *defaults.limits;
        let limits = TenantLimits {
            cap: raw.cap.as_ref().map_or(base.cap, |cap| self.cap(cap)),
            acquires_per_second: raw
                .acquires_per_second
                .as_ref()
                .map_or(base.acquires_per_second, |rate| Some(self.rate(rate))),
            lease: self.lease(&raw.lease, base.lease),
            breaker: self.breaker(&raw.breaker, base.breaker),
        };
        let limits = if limits == base { Arc::clone(&defaults.limits) } else { Arc::new(limits) };
        let own = self.slots(raw.providers);
        let mut labels = defaults.labels.clone();
        labels.extend(self.labels(raw.labels));
        sealed(TenantConfig {
            version: String::new(),
            known: true,
            limits,
            providers: merge(slots, &own),
            labels,
        })
    }

    fn labels(&mut self, raw: BTreeMap<String, Spanned<String>>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (name, text) in raw {
            if !is_name(&name) || labels.len() >= MAX_NAMES || text.get_ref().len() > 1024 {
                self.wrong(text.span(), "labels must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-] with at most 1,024 bytes each");
            }
            labels.insert(name, text.into_inner());
        }
        labels
    }

    fn slots(&mut self, raw: BTreeMap<Spanned<String>, raw::Slot>) -> BTreeMap<String, Slot> {
        let mut slots = BTreeMap::new();
        for (name, word) in raw {
            let span = name.span();
            if !is_name(name.get_ref()) || slots.len() >= MAX_NAMES {
                self.wrong(
                    span.clone(),
                    "slots must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-]",
                );
            }
            let slot = match word {
                raw::Slot::Off => Slot::Off,
                raw::Slot::Use(provider) => Slot::Use(Arc::new(self.provider(*provider, &span))),
            };
            slots.insert(name.into_inner(), slot);
        }
        slots
    }

    fn provider(&mut self, raw: raw::Provider, span: &Range<usize>) -> Provider {
        if raw.provider.get_ref().is_empty() || raw.provider.get_ref().len() > 128 {
            let place = raw.provider.span();
            self.wrong(place, "must be a name of 1-128 bytes, for example \"openai\"");
        }
        if let Some(url) = &raw.base_url
            && !is_http(url.get_ref())
        {
            let example = "\"https://api.example.com/v1\"";
            let message = format!(
                "must be an http:// or https:// address, for example {example}; leave it out for the provider's own"
            );
            self.wrong(url.span(), &message);
        }
        let mut credentials = BTreeMap::new();
        let single = raw.credential.into_iter().map(|text| ("api_key".to_owned(), text));
        for (name, text) in single.chain(raw.credentials) {
            let span = text.span();
            if !is_name(&name) || credentials.len() >= MAX_NAMES {
                self.wrong(
                    span.clone(),
                    "credentials must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-]",
                );
            }
            match credential::parse(text.get_ref().0.expose(), self.folder) {
                Ok(CredentialRef::Vault { .. }) if !self.vault => {
                    self.wrong(span, "vault: needs a [vault] table in the config file");
                }
                Ok(reference) => {
                    self.literals |= matches!(reference, CredentialRef::Literal(_));
                    if credentials.insert(name, reference).is_some() {
                        self.wrong(span, "credential is the same as credentials.api_key; give one");
                    }
                }
                Err(problem) => self.wrong(span, &problem),
            }
        }
        let params = match serde_json::to_value(&raw.params) {
            Ok(serde_json::Value::Object(params)) => params,
            Ok(_) | Err(_) => {
                self.wrong(span.clone(), "params must be values that JSON can hold");
                serde_json::Map::new()
            }
        };
        Provider {
            provider: raw.provider.into_inner(),
            model: raw.model,
            base_url: raw.base_url.map(Spanned::into_inner).unwrap_or_default(),
            credentials,
            params,
        }
    }

    fn audit(&mut self, raw: &raw::Audit) -> Audit {
        let base = Audit::default();
        let path = raw.path.as_ref().map_or(base.path, |path| match path.get_ref().as_str() {
            "none" => AuditPath::Off,
            text if text.starts_with('/') && !text.ends_with('/') => AuditPath::File(text.into()),
            _ => {
                let example =
                    "must be an absolute path, for example \"/var/lib/tenantd/audit.jsonl\", or \"none\"";
                self.wrong(path.span(), example);
                AuditPath::Off
            }
        });
        let count = |of: u64| u32::try_from(of).unwrap_or(u32::MAX);
        let max = 1024 * 1024 * 1024;
        let max_bytes = count(base.max_bytes);
        let max_bytes = self.count(raw.max_bytes.as_ref(), max_bytes, 64 * 1024, max);
        let keep = self.count(raw.keep.as_ref(), count(base.keep as u64), 1, 500);
        Audit { path, max_bytes: max_bytes.into(), keep: keep as usize }
    }

    fn scraped(&mut self, at: &Spanned<String>) -> Option<SocketAddr> {
        let parsed = at.get_ref().parse().ok();
        if parsed.is_none() {
            let example = "must be an IP address and a port, for example \"127.0.0.1:9464\"";
            self.wrong(at.span(), example);
        }
        parsed
    }

    fn state(&mut self, raw: raw::State) -> State {
        let path = raw.path.map(|path| {
            if !path.get_ref().starts_with('/') {
                self.wrong(path.span(), "must be an absolute path");
            }
            path.into_inner().into()
        });
        State { enabled: raw.enabled.unwrap_or(true), path }
    }
}

fn is_http(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
    })
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
