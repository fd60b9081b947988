//! Where tenants' entries come from beside the file: `[[sources]]`.

use std::{path::PathBuf, time::Duration};

use crate::domain::provider::CredentialRef;

/// One source, all numbers given.
#[derive(Debug, Clone, PartialEq)]
pub struct SourceConfig {
    /// Told in errors, events and `--explain`; unique.
    pub name: String,
    /// What is asked, and how.
    pub kind: SourceKind,
    /// How long an entry is served without asking again.
    pub ttl: Duration,
    /// How long "it has no entry" is.
    pub negative_ttl: Duration,
    /// How long past its TTL an entry is served while the source fails.
    pub stale_for: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// Most questions to it at once.
    pub max_in_flight: usize,
    /// Most entries cached; the least used are dropped.
    pub max_entries: u64,
    /// Largest entry.
    pub max_entry_bytes: usize,
    /// Entries may hold keys themselves, beside references to them.
    pub literals: bool,
}

/// What is asked. Addresses and tokens are references, since both may be secret.
#[derive(Debug, Clone, PartialEq)]
pub enum SourceKind {
    /// A database.
    Sql {
        /// `sqlite:PATH` or `postgres://...`.
        url: CredentialRef,
        /// The operator's own query, with one parameter, the tenant; none: the
        /// documented table.
        query: Option<String>,
        /// How often changes are looked for where the database does not tell.
        poll: Duration,
        /// Most connections.
        max_connections: u32,
    },
    /// An HTTP(S) endpoint.
    Http {
        /// With `{tenant}` in its path or query.
        url: CredentialRef,
        /// Bearer token.
        bearer: Option<CredentialRef>,
        /// TLS.
        tls: Tls,
    },
    /// A `tenantd.v1.TenantConfigService`.
    Grpc {
        /// `http://`, `https://` or `unix:`.
        url: CredentialRef,
        /// Bearer token, sent as metadata.
        bearer: Option<CredentialRef>,
        /// TLS.
        tls: Tls,
    },
}

impl SourceKind {
    /// As in the config.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Sql { .. } => "sql",
            Self::Http { .. } => "http",
            Self::Grpc { .. } => "grpc",
        }
    }
}

/// The secret store: `[vault]`.
#[derive(Debug, Clone, PartialEq)]
pub struct VaultConfig {
    /// `https://vault.example.com:8200`.
    pub address: String,
    /// How to get in.
    pub auth: VaultAuth,
    /// Namespace, where the server has them.
    pub namespace: Option<String>,
    /// Certificates to trust; none: the usual ones.
    pub ca_file: Option<PathBuf>,
    /// How long a secret is served without asking again.
    pub ttl: Duration,
    /// How long past its TTL it is served while the store fails.
    pub stale_for: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
}

/// How to get into the secret store.
#[derive(Debug, Clone, PartialEq)]
pub enum VaultAuth {
    /// A token; renewed while it can be.
    Token(CredentialRef),
    /// A service account's token against a role; done again when it ends.
    Kubernetes {
        /// Where the method is mounted, `kubernetes` by default.
        mount: String,
        /// The role.
        role: String,
        /// The service account's token.
        jwt_file: PathBuf,
    },
}

/// Whom to trust, and who to be. Files, read at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates to trust; none: the usual ones.
    pub ca_file: Option<PathBuf>,
    /// Client certificate chain and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}
