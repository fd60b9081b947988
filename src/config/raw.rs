//! The config file as written. Unknown keys are refused everywhere; values are
//! checked in the parent module, which knows what they mean.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

use crate::domain::provider::Secret;

/// "30s", "5m", "1h 30m".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|_| de::Error::custom("must be a duration, for example \"30s\" or \"5m\""))
    }
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct File {
    pub unknown_tenants: Option<UnknownTenants>,
    pub listen: Listen,
    pub lease: Lease,
    pub limits: Limits,
    pub drain: Drain,
    pub sources: Vec<Source>,
    pub vault: Option<Vault>,
    pub defaults: Defaults,
    pub tenants: BTreeMap<Spanned<String>, Tenant>,
    pub agents: BTreeMap<Spanned<String>, Agent>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnknownTenants {
    Accept,
    Reject,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    pub unix: Option<Spanned<String>>,
    pub tcp: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    pub pending: Option<Spanned<Span>>,
    pub ttl: Option<Spanned<Span>>,
    pub ttl_min: Option<Spanned<Span>>,
    pub ttl_max: Option<Spanned<Span>>,
    pub grace: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_sessions: Option<Spanned<u32>>,
    pub max_tenants: Option<Spanned<u32>>,
    pub max_workers: Option<Spanned<u32>>,
    pub max_watchers: Option<Spanned<u32>>,
    pub max_connections: Option<Spanned<u32>>,
    pub max_streams: Option<Spanned<u32>>,
    pub metadata_bytes: Option<Spanned<u32>>,
    pub message_bytes: Option<Spanned<u32>>,
    pub credential_bytes: Option<Spanned<u32>>,
    pub events_kept: Option<Spanned<u32>>,
    pub events_kept_bytes: Option<Spanned<u32>>,
    pub agent_events_per_second: Option<Spanned<u32>>,
    pub agent_event_bytes: Option<Spanned<u32>>,
    pub worker_reports_per_second: Option<Spanned<u32>>,
    pub ended_remembered: Option<Spanned<u32>>,
    pub ended_remembered_for: Option<Spanned<Span>>,
    pub tenant_idle_after: Option<Spanned<Span>>,
    pub heartbeat: Option<Spanned<Span>>,
    pub metric_tenants: Option<Spanned<u32>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    pub timeout: Option<Spanned<Span>>,
}

/// A place that tenants' entries come from beside this file. Which keys go with
/// which kind is checked by the parent module.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    pub kind: Spanned<SourceKind>,
    pub name: Option<Spanned<String>>,
    pub url: Spanned<Credential>,
    pub query: Option<Spanned<String>>,
    pub poll: Option<Spanned<Span>>,
    pub max_connections: Option<Spanned<u32>>,
    pub bearer: Option<Spanned<Credential>>,
    pub ca_file: Option<Spanned<String>>,
    pub cert_file: Option<Spanned<String>>,
    pub key_file: Option<Spanned<String>>,
    pub ttl: Option<Spanned<Span>>,
    pub negative_ttl: Option<Spanned<Span>>,
    pub stale_for: Option<Spanned<Span>>,
    pub timeout: Option<Spanned<Span>>,
    pub max_in_flight: Option<Spanned<u32>>,
    pub max_entries: Option<Spanned<u32>>,
    pub max_entry_bytes: Option<Spanned<u32>>,
    pub literals: Option<bool>,
}

/// The secret store that `vault:` credentials are in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    pub address: Spanned<String>,
    pub token: Option<Spanned<Credential>>,
    pub role: Option<Spanned<String>>,
    pub mount: Option<Spanned<String>>,
    pub jwt_file: Option<Spanned<String>>,
    pub namespace: Option<Spanned<String>>,
    pub ca_file: Option<Spanned<String>>,
    pub ttl: Option<Spanned<Span>>,
    pub stale_for: Option<Spanned<Span>>,
    pub timeout: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Sql,
    Http,
    Grpc,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    pub cap: Option<Spanned<u32>>,
    pub labels: BTreeMap<String, Spanned<String>>,
    pub breaker: Breaker,
    pub providers: BTreeMap<Spanned<String>, Slot>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    pub cap: Option<Spanned<u32>>,
    pub labels: BTreeMap<String, Spanned<String>>,
    pub breaker: Breaker,
    pub lease: Lease,
    pub providers: BTreeMap<Spanned<String>, Slot>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    pub cap: Spanned<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    pub enabled: Option<bool>,
    pub window: Option<Spanned<Span>>,
    pub min_samples: Option<Spanned<u32>>,
    pub failure_ratio: Option<Spanned<f64>>,
    pub cooldown: Option<Spanned<Span>>,
    pub cooldown_max: Option<Spanned<Span>>,
    pub probes: Option<Spanned<u32>>,
    pub probe_healthy_after: Option<Spanned<Span>>,
}

/// A credential as written: a reference or the key itself, so a secret from the
/// first moment on.
#[derive(Debug, Clone)]
pub struct Credential(pub Secret);

impl PartialEq for Credential {
    /// Not on a path that a stranger can time: both sides are config.
    fn eq(&self, other: &Self) -> bool {
        self.0.expose() == other.0.expose()
    }
}

impl<'de> Deserialize<'de> for Credential {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        String::deserialize(value).map(|text| Self(Secret::new(text)))
    }
}

/// A provider's table, or the word "none".
#[derive(Debug, Clone, PartialEq)]
pub enum Slot {
    Off,
    Use(Box<Provider>),
}

impl<'de> Deserialize<'de> for Slot {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> de::Visitor<'de> for Either {
            type Value = Slot;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a provider table, or \"none\" to switch the slot off")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slot, E> {
                if text == "none" {
                    Ok(Slot::Off)
                } else {
                    Err(E::custom("must be a provider table, or \"none\" to switch the slot off"))
                }
            }
            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Slot, A::Error> {
                let provider = Provider::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Slot::Use(Box::new(provider)))
            }
        }
        value.deserialize_any(Either)
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    pub provider: Spanned<String>,
    #[serde(default)]
    pub model: String,
    pub base_url: Option<Spanned<String>>,
    pub credential: Option<Spanned<Credential>>,
    #[serde(default)]
    pub credentials: BTreeMap<String, Spanned<Credential>>,
    #[serde(default)]
    pub params: toml::Table,
}
