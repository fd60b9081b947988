//! The sources of a config, put together.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::{
    cache::Cached,
    chain::Chain,
    credentials::{Resolver, vault::Vault},
    grpc::GrpcSource,
    http::HttpSource,
    reference,
    sql::{self, SqlSource},
};
use crate::{
    app::ports::TenantSource,
    config::{
        Config,
        source::{SourceConfig, SourceKind},
    },
    domain::provider::{CredentialRef, Secret},
};

/// Longest address.
const MAX_URL: usize = 8192;

/// What serves tenants' configs.
pub struct Sources {
    /// The chain.
    pub chain: Arc<Chain>,
    /// The credentials.
    pub credentials: Arc<Resolver>,
    /// The secret store, whose login wants to be kept.
    pub vault: Option<Arc<Vault>>,
}

/// Builds the sources that `config` names. Nobody is asked yet: one that is down
/// must not stop the sidecar.
///
/// # Errors
/// What is wrong with an address, a reference to one, or a certificate.
pub async fn build(config: &Arc<ArcSwap<Config>>) -> anyhow::Result<Sources> {
    // More than one TLS library may be linked: the choice is made here.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let now = config.load_full();
    let mut sources = Vec::new();
    for source in &now.sources {
        let built = source_of(source, &now)
            .await
            .map_err(|problem| anyhow::anyhow!("source {}: {problem}", source.name))?;
        sources.push(Arc::new(Cached::new(source.clone(), built, Arc::clone(config))));
    }
    let vault = now.vault.clone().map(|vault| Arc::new(Vault::new(vault)));
    Ok(Sources {
        chain: Arc::new(Chain::new(Arc::clone(config), sources)),
        credentials: Arc::new(Resolver::new(vault.clone())),
        vault,
    })
}

async fn source_of(
    source: &SourceConfig,
    config: &Config,
) -> Result<Arc<dyn TenantSource>, String> {
    let (timeout, max) = (source.timeout, source.max_entry_bytes);
    Ok(match &source.kind {
        SourceKind::Sql { query, poll, .. } => {
            let database = database(source, config).await?;
            Arc::new(SqlSource::new(database, query.clone(), *poll, max))
        }
        SourceKind::Http { url, bearer, tls } => {
            let url = address(url).await?;
            if !url.expose().contains("{tenant}") {
                return Err("the address must have {tenant} in its path or query".to_owned());
            }
            Arc::new(HttpSource::new(url, bearer.clone(), tls, max)?)
        }
        SourceKind::Grpc { url, bearer, tls } => {
            let url = address(url).await?;
            let name = source.name.clone();
            Arc::new(GrpcSource::new(name, url.expose(), bearer.clone(), tls, timeout, max)?)
        }
    })
}

/// The database of a source.
///
/// # Errors
/// What is wrong with its address.
pub async fn database(
    source: &SourceConfig,
    config: &Config,
) -> Result<Arc<dyn sql::Database>, String> {
    let SourceKind::Sql { url, max_connections, .. } = &source.kind else {
        return Err(format!("source {} is no database", source.name));
    };
    let url = address(url).await?;
    sql::open(url.expose(), &config.base.folder, *max_connections, source.timeout)
}

async fn address(reference: &CredentialRef) -> Result<Secret, String> {
    match reference {
        CredentialRef::Literal(secret) => Ok(secret.clone()),
        CredentialRef::Env(name) => reference::env(name),
        CredentialRef::File(path) => Ok(reference::file(path, MAX_URL).await?.0),
        CredentialRef::Vault { .. } => Err("the address cannot be a vault: reference".to_owned()),
    }
}
