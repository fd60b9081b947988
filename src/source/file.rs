//! The config file as the source, with credentials read at their use.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use crate::{
    app::ports::ConfigSource,
    config::{self, Config},
    domain::provider::{CredentialRef, ResolvedConfig, ResolvedProvider, Secret, TenantConfig},
};

/// Longest wait for a credential file: a hung mount refuses this session, and
/// holds nothing else up.
const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// The file; none: built-in defaults.
pub struct FileSource {
    /// Its path.
    pub path: Option<PathBuf>,
}

#[async_trait]
impl ConfigSource for FileSource {
    async fn load(&self) -> Result<Config, String> {
        let Some(path) = self.path.clone() else { return Ok(Config::builtin()) };
        tokio::task::spawn_blocking(move || config::load(&path))
            .await
            .map_err(|_| "reading the config file was interrupted".to_owned())?
            .map_err(|wrong| wrong.to_string())
    }

    async fn resolve(
        &self,
        config: Arc<TenantConfig>,
        max_bytes: usize,
    ) -> Result<ResolvedConfig, String> {
        let mut providers = BTreeMap::new();
        for (slot, provider) in &config.providers {
            let mut credentials = BTreeMap::new();
            for (name, reference) in &provider.credentials {
                let secret = secret(reference, max_bytes)
                    .await
                    .map_err(|problem| format!("{slot}.{name}: {problem}"))?;
                credentials.insert(name.clone(), secret);
            }
            let resolved = ResolvedProvider { provider: Arc::clone(provider), credentials };
            providers.insert(slot.clone(), resolved);
        }
        Ok(ResolvedConfig { config, providers })
    }
}

async fn secret(reference: &CredentialRef, max_bytes: usize) -> Result<Secret, String> {
    match reference {
        CredentialRef::Literal(secret) => Ok(secret.clone()),
        CredentialRef::Env(name) => match std::env::var(name) {
            Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
            Ok(_) => Err(format!("env:{name} is empty")),
            Err(std::env::VarError::NotPresent) => Err(format!("env:{name} is not set")),
            Err(std::env::VarError::NotUnicode(_)) => Err(format!("env:{name} is not UTF-8")),
        },
        CredentialRef::File(path) => {
            let at = path.clone();
            let read = tokio::task::spawn_blocking(move || read(&at, max_bytes));
            let said = match tokio::time::timeout(READ_TIMEOUT, read).await {
                Ok(Ok(result)) => result,
                Ok(Err(_)) => Err("reading it was interrupted".to_owned()),
                Err(_) => Err(format!("reading it took longer than {READ_TIMEOUT:?}")),
            };
            said.map_err(|problem| format!("file:{}: {problem}", path.display()))
        }
    }
}

fn read(path: &Path, max_bytes: usize) -> Result<Secret, String> {
    let said = |error: std::io::Error| error.to_string();
    if !std::fs::metadata(path).map_err(said)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(said)?;
    file.take(max_bytes as u64 + 1).read_to_string(&mut text).map_err(said)?;
    let secret = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    zeroize::Zeroize::zeroize(&mut text);
    match secret.expose().len() {
        0 => Err("is empty".to_owned()),
        len if len > max_bytes => Err(format!("is larger than {max_bytes} bytes")),
        _ => Ok(secret),
    }
}
