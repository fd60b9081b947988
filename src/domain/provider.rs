//! What a tenant runs on: providers by slot, merged over the defaults.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use secrecy::{ExposeSecret as _, SecretSlice, SecretString};

use super::limits::{self, TenantLimits};

/// One secret from its source to the wire: redacted wherever it is printed,
/// zeroed when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Takes the value over.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(SecretString::from(value))
    }

    /// The value, for the one place that puts it on the wire.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([redacted])")
    }
}

/// Where a credential comes from.
#[derive(Debug, Clone)]
pub enum CredentialRef {
    /// Environment variable of the sidecar.
    Env(String),
    /// File, read at each use.
    File(std::path::PathBuf),
    /// One field of a secret in HashiCorp Vault or OpenBao (KV version 2).
    Vault {
        /// Mount and path, as in `vault kv get`: `secret/acme/openai`.
        path: String,
        /// The field.
        field: String,
    },
    /// Written in the config itself.
    Literal(Secret),
}

impl CredentialRef {
    /// Cannot change while the sidecar runs.
    #[must_use]
    pub const fn is_fixed(&self) -> bool {
        match self {
            Self::Env(_) | Self::Literal(_) => true,
            Self::File(_) | Self::Vault { .. } => false,
        }
    }
}

impl PartialEq for CredentialRef {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Env(a), Self::Env(b)) => a == b,
            (Self::File(a), Self::File(b)) => a == b,
            (Self::Vault { path: a, field: x }, Self::Vault { path: b, field: y }) => {
                a == b && x == y
            }
            // Not on a path that a stranger can time: both sides are config.
            (Self::Literal(a), Self::Literal(b)) => a.expose() == b.expose(),
            (Self::Env(_) | Self::File(_) | Self::Vault { .. } | Self::Literal(_), _) => false,
        }
    }
}

/// As written in the config; a key itself as `(literal)`.
impl fmt::Display for CredentialRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Vault { path, field } => write!(f, "vault:{path}#{field}"),
            Self::Literal(_) => f.write_str("(literal)"),
        }
    }
}

/// One slot's settings, its credentials still by reference.
#[derive(Debug, Clone, PartialEq)]
pub struct Provider {
    /// Provider name.
    pub provider: String,
    /// Model; empty: the provider's default.
    pub model: String,
    /// Endpoint; empty: the provider's default.
    pub base_url: String,
    /// Credentials by name.
    pub credentials: BTreeMap<String, CredentialRef>,
    /// Free parameters.
    pub params: serde_json::Map<String, serde_json::Value>,
}

/// A tenant's word on one slot.
#[derive(Debug, Clone, PartialEq)]
pub enum Slot {
    /// Uses this.
    Use(Arc<Provider>),
    /// Switched off: not even the default.
    Off,
}

/// One tenant's whole config, defaults merged in.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantConfig {
    /// Opaque; differs whenever anything else here does.
    pub version: String,
    /// Has an entry of its own.
    pub known: bool,
    /// Its numbers.
    pub limits: Arc<TenantLimits>,
    /// Providers in use, by slot.
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Labels for the agent.
    pub labels: BTreeMap<String, String>,
}

impl TenantConfig {
    /// Each value by its key in the config file, in words. A credential is shown
    /// as its reference.
    #[must_use]
    pub fn values(&self) -> Vec<(String, String)> {
        let (lease, breaker) = (self.limits.lease, self.limits.breaker);
        let mut values = vec![(
            "cap".to_owned(),
            self.limits.cap.map_or_else(|| "none".to_owned(), |cap| cap.to_string()),
        )];
        let mut put = |key: &str, value: String| values.push((key.to_owned(), value));
        let rate = self.limits.acquires_per_second;
        put("acquires_per_second", rate.map_or_else(|| "none".to_owned(), |rate| rate.to_string()));
        put("breaker.enabled", breaker.enabled.to_string());
        put("breaker.window", format!("{:?}", breaker.window));
        put("breaker.min_samples", breaker.min_samples.to_string());
        put("breaker.failure_ratio", breaker.failure_ratio.to_string());
        put("breaker.cooldown", format!("{:?}", breaker.cooldown));
        put("breaker.cooldown_max", format!("{:?}", breaker.cooldown_max));
        put("breaker.probes", breaker.probes.to_string());
        put("breaker.probe_healthy_after", format!("{:?}", breaker.probe_healthy_after));
        put("lease.pending", format!("{:?}", lease.pending));
        put("lease.ttl", format!("{:?}", lease.ttl));
        put("lease.ttl_min", format!("{:?}", lease.ttl_min));
        put("lease.ttl_max", format!("{:?}", lease.ttl_max));
        put("lease.grace", format!("{:?}", lease.grace));
        for (name, text) in &self.labels {
            put(&format!("labels.{name}"), text.clone());
        }
        for (slot, provider) in &self.providers {
            put(&format!("providers.{slot}"), provider.to_string());
        }
        values
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.provider)?;
        for (name, value) in [("model", &self.model), ("base_url", &self.base_url)] {
            if !value.is_empty() {
                write!(f, " {name}={value}")?;
            }
        }
        for (name, reference) in &self.credentials {
            write!(f, " {name}={reference}")?;
        }
        if !self.params.is_empty() {
            let names: Vec<_> = self.params.keys().map(String::as_str).collect();
            write!(f, " params={}", names.join(","))?;
        }
        Ok(())
    }
}

/// A tenant's slot replaces the default's whole, an omitted one falls back, and
/// one switched off is gone.
#[must_use]
pub fn merge(
    defaults: &BTreeMap<String, Slot>,
    tenant: &BTreeMap<String, Slot>,
) -> BTreeMap<String, Arc<Provider>> {
    let mut merged = defaults.clone();
    merged.extend(tenant.iter().map(|(slot, word)| (slot.clone(), word.clone())));
    merged
        .into_iter()
        .filter_map(|(slot, word)| match word {
            Slot::Use(provider) => Some((slot, provider)),
            Slot::Off => None,
        })
        .collect()
}

/// A provider with its credentials in clear, for one reply.
#[derive(Debug, Clone)]
pub struct ResolvedProvider {
    /// The settings.
    pub provider: Arc<Provider>,
    /// The credentials.
    pub credentials: BTreeMap<String, Secret>,
}

/// A config as it goes on the wire, secrets in clear: made once by the edge that
/// speaks the wire's language, redacted and zeroed like any secret.
#[derive(Clone)]
pub struct Encoded(Arc<SecretSlice<u8>>);

impl Encoded {
    /// Takes the bytes over.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(SecretSlice::from(bytes)))
    }
}

impl AsRef<[u8]> for Encoded {
    fn as_ref(&self) -> &[u8] {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encoded([redacted])")
    }
}

/// Everything one session gets.
#[derive(Debug)]
pub struct ResolvedConfig {
    /// The tenant's config.
    pub config: Arc<TenantConfig>,
    /// Its providers, by slot.
    pub providers: BTreeMap<String, ResolvedProvider>,
    /// The version that users see.
    pub version: String,
    /// The latest change among its credentials.
    pub credentials: u64,
    /// Why this is what was said last, where who is asked fails now.
    pub stale: Option<String>,
    encoded: OnceLock<Encoded>,
}

impl ResolvedConfig {
    /// Of a config, its credentials read. `credentials`: the latest change among them.
    #[must_use]
    pub fn new(
        config: Arc<TenantConfig>,
        providers: BTreeMap<String, ResolvedProvider>,
        credentials: u64,
        stale: Option<String>,
    ) -> Self {
        let version = limits::told(&config.version, Some(credentials));
        Self { config, providers, version, credentials, stale, encoded: OnceLock::new() }
    }

    /// The same, served for the reason that `why` gives.
    #[must_use]
    pub fn stale(&self, why: String) -> Self {
        let (config, providers) = (Arc::clone(&self.config), self.providers.clone());
        Self::new(config, providers, self.credentials, Some(why))
    }

    /// As it goes on the wire, by `encode` where it has not been asked for before.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Encoded) -> Encoded {
        self.encoded.get_or_init(|| encode(self)).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(name: &str) -> Slot {
        Slot::Use(Arc::new(Provider {
            provider: name.to_owned(),
            model: String::new(),
            base_url: String::new(),
            credentials: BTreeMap::new(),
            params: serde_json::Map::new(),
        }))
    }

    #[test]
    fn a_tenants_slot_replaces_whole_omitted_ones_fall_back_and_off_is_gone() {
        let defaults = BTreeMap::from([
            ("llm".to_owned(), provider("openai")),
            ("tts".to_owned(), provider("cartesia")),
            ("stt".to_owned(), provider("deepgram")),
        ]);
        let tenant = BTreeMap::from([
            ("llm".to_owned(), provider("anthropic")),
            ("tts".to_owned(), Slot::Off),
            ("avatar".to_owned(), provider("tavus")),
        ]);
        let merged = merge(&defaults, &tenant);
        let names: Vec<_> = merged.iter().map(|(s, p)| (s.as_str(), p.provider.as_str())).collect();
        assert_eq!(names, [("avatar", "tavus"), ("llm", "anthropic"), ("stt", "deepgram")]);
    }

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("sk-canary".to_owned());
        let literal = CredentialRef::Literal(secret.clone());
        assert!(!format!("{secret:?} {literal:?}").contains("canary"));
    }
}
