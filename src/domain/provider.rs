//! What a tenant runs on: providers by slot, merged over the defaults.

use std::{collections::BTreeMap, fmt, sync::Arc};

use secrecy::{ExposeSecret as _, SecretString};

use super::limits::TenantLimits;

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
    /// Written in the config itself.
    Literal(Secret),
}

impl PartialEq for CredentialRef {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Env(a), Self::Env(b)) => a == b,
            (Self::File(a), Self::File(b)) => a == b,
            // Not on a path that a stranger can time: both sides are config.
            (Self::Literal(a), Self::Literal(b)) => a.expose() == b.expose(),
            (Self::Env(_) | Self::File(_) | Self::Literal(_), _) => false,
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
    pub limits: TenantLimits,
    /// Providers in use, by slot.
    pub providers: BTreeMap<String, Arc<Provider>>,
    /// Labels for the agent.
    pub labels: BTreeMap<String, String>,
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

/// Everything one session gets.
#[derive(Debug, Clone)]
pub struct ResolvedConfig {
    /// The tenant's config.
    pub config: Arc<TenantConfig>,
    /// Its providers, by slot.
    pub providers: BTreeMap<String, ResolvedProvider>,
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
