//! The config file as written. Unknown keys are refused everywhere; values are
//! checked in the parent module, which knows what they mean.

use std::{collections::BTreeMap, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, de};

use super::spanned::Spanned;
use crate::domain::provider::Secret;

/// "30s", "5m", "1h 30m".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl JsonSchema for Span {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "examples": ["30s", "5m", "1h 30m"] })
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(value: D) -> Result<Self, D::Error> {
        let text = String::deserialize(value)?;
        humantime::parse_duration(&text)
            .map(Self)
            .map_err(|_| de::Error::custom("must be a duration, for example \"30s\" or \"5m\""))
    }
}

/// tenantd's config file.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[schemars(title = "tenantd")]
#[serde(deny_unknown_fields, default)]
pub struct File {
    /// What happens to a tenant without an entry. Default "accept".
    pub unknown_tenants: Option<UnknownTenants>,
    /// Where to listen (restart).
    pub listen: Listen,
    /// Who may call, beside the sidecar's own user and root.
    pub identities: Vec<Identity>,
    /// When leases end, for all tenants.
    pub lease: Lease,
    /// Bounds of tables, queues and messages.
    pub limits: Limits,
    /// The end.
    pub drain: Drain,
    /// What outlives the process (restart).
    pub state: State,
    /// Where tenants' entries come from beside this file (restart).
    pub sources: Vec<Source>,
    /// The secret store of vault: credentials (restart).
    pub vault: Option<Vault>,
    /// What is measured, and for whom (restart).
    pub telemetry: Telemetry,
    /// Where what operators do is kept (restart).
    pub audit: Audit,
    /// What tenants run on where their entry says nothing.
    pub defaults: Defaults,
    /// Tenants by id: 1-128 characters of [A-Za-z0-9_-].
    pub tenants: BTreeMap<Spanned<String>, Tenant>,
    /// Agents by name.
    pub agents: BTreeMap<Spanned<String>, Agent>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownTenants {
    Accept,
    Reject,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Listen {
    /// Absolute path of the unix socket. Default: the default socket.
    pub unix: Option<Spanned<String>>,
    /// The socket's mode in octal, for example "0660". Default "0600".
    pub unix_mode: Option<Spanned<String>>,
    /// The socket's group, by number. Default: the sidecar's own.
    pub unix_gid: Option<u32>,
    /// IP and port, for example "127.0.0.1:7443"; other than loopback only with tls and identities.
    pub tcp: Option<Spanned<String>>,
    /// TLS of tcp.
    pub tls: Option<ListenTls>,
}

/// TLS of the TCP listener: PEM files, relative to the config file, read again when they change.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListenTls {
    /// Certificate chain.
    pub cert_file: Spanned<String>,
    /// Its key.
    pub key_file: Spanned<String>,
    /// Who signs client certificates (mTLS). Default: clients show none.
    pub client_ca_file: Option<Spanned<String>>,
    /// Revocation lists (CRLs) of each authority of client certificates. Default: none is revoked.
    pub client_crl_file: Option<Spanned<String>>,
    /// Whether a client must show a certificate. Default "required" with client_ca_file.
    pub client_cert: Option<Spanned<ClientCert>>,
}

/// Whether a client must show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCert {
    Required,
    Optional,
}

/// Somebody who may call.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// 1-64 characters of [A-Za-z0-9_.-]; on events, and as the owner of sessions.
    pub name: Spanned<String>,
    /// What it is for. An admin is a viewer too.
    pub roles: Spanned<Vec<Role>>,
    /// Whom it may act for: "acme", "acme-*" or "*".
    pub tenants: Spanned<Vec<Spanned<String>>>,
    /// Bearer tokens, as `tenantd token new` prints them: "sha256:" and 64 hexadecimal digits. Two during a rotation.
    #[serde(default)]
    pub tokens: Vec<Spanned<String>>,
    /// Users on the unix socket, by number.
    #[serde(default)]
    pub uids: Vec<Spanned<u32>>,
    /// Primary groups on the unix socket, by number.
    #[serde(default)]
    pub gids: Vec<Spanned<u32>>,
    /// URIs in client certificates, for example "spiffe://example.org/agent".
    #[serde(default)]
    pub uris: Vec<Spanned<String>>,
    /// DNS names in client certificates.
    #[serde(default)]
    pub dns_names: Vec<Spanned<String>>,
    /// Processes that need not trust each other use it: calls about a session need its lease token. Default false.
    #[serde(default)]
    pub shared: bool,
}

/// What an identity is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    Agent,
    Viewer,
    Admin,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Lease {
    /// How long a session waits for its first sign of life. Default 15s.
    pub pending: Option<Spanned<Span>>,
    /// How long an active session lives without a renewal. Default 60s.
    pub ttl: Option<Spanned<Span>>,
    /// Shortest TTL that a client may ask for. Default 5s.
    pub ttl_min: Option<Spanned<Span>>,
    /// Longest TTL that a client may ask for. Default 24h.
    pub ttl_max: Option<Spanned<Span>>,
    /// How long sessions wait for a worker that went away. Default 10s.
    pub grace: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub max_sessions: Option<Spanned<u32>>,
    pub max_tenants: Option<Spanned<u32>>,
    pub max_workers: Option<Spanned<u32>>,
    pub max_watchers: Option<Spanned<u32>>,
    pub max_connections: Option<Spanned<u32>>,
    pub max_streams: Option<Spanned<u32>>,
    pub connections_per_peer: Option<Spanned<u32>>,
    pub calls_per_peer: Option<Spanned<u32>>,
    pub partial_bytes: Option<Spanned<u32>>,
    pub handshake_timeout: Option<Spanned<Span>>,
    pub dead_after: Option<Spanned<Span>>,
    pub acquires_per_second: Option<Spanned<u32>>,
    pub acquires_waiting: Option<Spanned<u32>>,
    pub tenant_acquires_waiting: Option<Spanned<u32>>,
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
    pub threads: Option<Spanned<u32>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long live sessions may run after SIGTERM. Default 30s.
    pub timeout: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct State {
    /// False: a restart forgets all live sessions. Default true.
    pub enabled: Option<bool>,
    /// Absolute path of the state directory. Default: $STATE_DIRECTORY, else beside the socket.
    pub path: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// IP and port of the Prometheus endpoint, for example "127.0.0.1:9464".
    pub prometheus: Option<Spanned<String>>,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Absolute path of the audit log, or "none". Default: audit.jsonl in the state folder.
    pub path: Option<Spanned<String>>,
    /// Largest file; then it goes on in a new one. Default 16777216.
    pub max_bytes: Option<Spanned<u32>>,
    /// Files kept before it. Default 10.
    pub keep: Option<Spanned<u32>>,
}

/// A place that tenants' entries come from beside this file. Which keys go with
/// which kind is checked by the parent module.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// What is asked.
    pub kind: Spanned<SourceKind>,
    /// Shown in errors, events and --explain. Default: the kind.
    pub name: Option<Spanned<String>>,
    /// sqlite:PATH, postgres://..., https://.../{tenant}, unix:PATH, or env:/file: that holds it.
    pub url: Spanned<Credential>,
    /// sql: a SELECT with $1, the tenant. Default: the documented table.
    pub query: Option<Spanned<String>>,
    /// sql: how often SQLite is looked at for changes. Default 1s.
    pub poll: Option<Spanned<Span>>,
    /// sql: most connections. Default 5.
    pub max_connections: Option<Spanned<u32>>,
    /// http, grpc: token, a credential.
    pub bearer: Option<Spanned<Credential>>,
    /// http, grpc: PEM certificates to trust. Default: the system's.
    pub ca_file: Option<Spanned<String>>,
    /// http, grpc: PEM client certificate.
    pub cert_file: Option<Spanned<String>>,
    /// http, grpc: its PEM key.
    pub key_file: Option<Spanned<String>>,
    /// How long an entry is served without asking again. Default 60s.
    pub ttl: Option<Spanned<Span>>,
    /// How long "it has none" is. Default 5s.
    pub negative_ttl: Option<Spanned<Span>>,
    /// How long past its TTL an entry is served while the source fails. Default 10m.
    pub stale_for: Option<Spanned<Span>>,
    /// Longest wait for one answer. Default 5s.
    pub timeout: Option<Spanned<Span>>,
    /// Most questions at once. Default 16.
    pub max_in_flight: Option<Spanned<u32>>,
    /// Most entries kept. Default 10000.
    pub max_entries: Option<Spanned<u32>>,
    /// Largest answer, in bytes. Default 262144.
    pub max_entry_bytes: Option<Spanned<u32>>,
    /// Entries may hold keys themselves. Default false.
    pub literals: Option<bool>,
}

/// The secret store that `vault:` credentials are in.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vault {
    /// For example "https://vault.example.com:8200".
    pub address: Spanned<String>,
    /// A credential that is the token; or role.
    pub token: Option<Spanned<Credential>>,
    /// Role of Kubernetes auth; or token.
    pub role: Option<Spanned<String>>,
    /// Where Kubernetes auth is mounted. Default "kubernetes".
    pub mount: Option<Spanned<String>>,
    /// The service account's token. Default: the pod's.
    pub jwt_file: Option<Spanned<String>>,
    /// Namespace, where the server has them.
    pub namespace: Option<Spanned<String>>,
    /// PEM certificates to trust. Default: the system's.
    pub ca_file: Option<Spanned<String>>,
    /// How long a secret is served without asking again. Default 60s.
    pub ttl: Option<Spanned<Span>>,
    /// How long past its TTL while the server fails. Default 10m.
    pub stale_for: Option<Spanned<Span>>,
    /// Longest wait for one answer. Default 5s.
    pub timeout: Option<Spanned<Span>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SourceKind {
    Sql,
    Http,
    Grpc,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Most live sessions of a tenant, 1 to 1000000. Default: no cap.
    pub cap: Option<Spanned<u32>>,
    /// Most new sessions of a tenant in a second, 1 to 1000000. Default: limits.acquires_per_second.
    pub acquires_per_second: Option<Spanned<u32>>,
    /// Handed to the agent.
    pub labels: BTreeMap<String, Spanned<String>>,
    /// The circuit breaker.
    pub breaker: Breaker,
    /// Providers by slot: stt, llm, tts, ...
    pub providers: BTreeMap<Spanned<String>, Slot>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Tenant {
    /// Most live sessions, 1 to 1000000.
    pub cap: Option<Spanned<u32>>,
    /// Most new sessions in a second, 1 to 1000000.
    pub acquires_per_second: Option<Spanned<u32>>,
    /// Handed to the agent.
    pub labels: BTreeMap<String, Spanned<String>>,
    /// The circuit breaker.
    pub breaker: Breaker,
    /// When its leases end.
    pub lease: Lease,
    /// Providers by slot: stt, llm, tts, ...
    pub providers: BTreeMap<Spanned<String>, Slot>,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Most live sessions of the agent, over all tenants.
    pub cap: Spanned<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Breaker {
    /// Default true.
    pub enabled: Option<bool>,
    /// How far back samples count. Default 60s.
    pub window: Option<Spanned<Span>>,
    /// Fewest samples that can open it. Default 5.
    pub min_samples: Option<Spanned<u32>>,
    /// Opens above this ratio of failures, strictly. Default 0.5.
    pub failure_ratio: Option<Spanned<f64>>,
    /// Time open. Default 30s.
    pub cooldown: Option<Spanned<Span>>,
    /// Longest time open, after doublings. Default 300s.
    pub cooldown_max: Option<Spanned<Span>>,
    /// Sessions at once while half-open, and good ones needed to close. Default 3.
    pub probes: Option<Spanned<u32>>,
    /// An active probe this old counts as good. Default 10s.
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

impl JsonSchema for Credential {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Credential".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "minLength": 1,
            "description": "env:NAME, file:PATH, vault:MOUNT/PATH#FIELD, or the key itself in a file that others cannot read.",
            "examples": ["env:ACME_OPENAI_KEY", "file:/run/secrets/acme", "vault:secret/acme#openai"],
        })
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

impl JsonSchema for Slot {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Slot".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let provider = generator.subschema_for::<Provider>();
        json_schema!({
            "anyOf": [
                { "const": "none", "description": "Switches a default off." },
                provider,
            ],
        })
    }
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

#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// For example "openai".
    pub provider: Spanned<String>,
    /// Default: the provider's.
    #[serde(default)]
    pub model: String,
    /// http:// or https:// address. Default: the provider's.
    pub base_url: Option<Spanned<String>>,
    /// Handed over as api_key.
    pub credential: Option<Spanned<Credential>>,
    /// Credentials by name.
    #[serde(default)]
    pub credentials: BTreeMap<String, Spanned<Credential>>,
    /// Free parameters, for example temperature or voice.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, serde_json::Value>")]
    pub params: toml::Table,
}
