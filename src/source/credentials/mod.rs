//! Credentials in the place of their references, and when they last changed.

pub mod vault;

use std::{
    collections::BTreeMap,
    hash::{BuildHasher as _, RandomState},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use moka::sync::Cache;
use parking_lot::Mutex;

use self::vault::Vault;
use super::reference;
use crate::{
    app::ports::Credentials,
    config::next_generation,
    domain::provider::{CredentialRef, ResolvedConfig, ResolvedProvider, Secret, TenantConfig},
};

/// Most references whose last change is remembered. One that was forgotten
/// counts as changed when it is read again.
const MAX_REMEMBERED: u64 = 100_000;

/// Most configs kept with their credentials; one that is not is resolved again.
const MAX_READY: u64 = 100_000;
/// One that nobody asks for is dropped.
const IDLE: Duration = Duration::from_secs(600);

/// When a credential was last seen to change.
#[derive(Clone)]
struct Seen {
    /// Of the value, under a key of this process: no secret is kept for this.
    digest: u64,
    /// Higher than that of any change before.
    changed: u64,
    /// Of a file.
    identity: Option<reference::Identity>,
}

/// A credential that was read.
pub struct Read {
    secret: Secret,
    /// When it last changed.
    changed: u64,
    /// Why it is what was read before.
    stale: Option<String>,
}

impl Read {
    const fn fixed(secret: Secret) -> Self {
        Self { secret, changed: 0, stale: None }
    }
}

/// Resolves `env:`, `file:`, `vault:` and literals.
pub struct Resolver {
    seen: Cache<String, Seen>,
    /// One writer of `seen` at a time, so that a slow reader of the old value
    /// cannot overwrite what a later one saw.
    noting: Mutex<()>,
    key: RandomState,
    vault: Option<Arc<Vault>>,
    /// The last of each config, by where it lies: it holds its config, so that no
    /// other can come to lie there.
    ready: Cache<usize, Arc<ResolvedConfig>>,
}

impl Resolver {
    /// Over a secret store, where one is configured.
    #[must_use]
    pub fn new(vault: Option<Arc<Vault>>) -> Self {
        Self {
            seen: Cache::new(MAX_REMEMBERED),
            noting: Mutex::new(()),
            key: RandomState::new(),
            vault,
            ready: Cache::builder().max_capacity(MAX_READY).time_to_idle(IDLE).build(),
        }
    }

    /// One reference.
    ///
    /// # Errors
    /// What could not be read; never a value.
    pub async fn secret(
        &self,
        reference: &CredentialRef,
        max_bytes: usize,
    ) -> Result<Read, String> {
        match reference {
            CredentialRef::Literal(secret) => Ok(Read::fixed(secret.clone())),
            CredentialRef::Env(name) => reference::env(name).map(Read::fixed),
            CredentialRef::File(path) => loop {
                let key = reference.to_string();
                let before = self.seen.get(&key).map(|seen| seen.changed);
                let (secret, identity) = reference::file(path, max_bytes).await?;
                if let Some(changed) = self.note(key, &secret, Some(identity), before) {
                    return Ok(Read { secret, changed, stale: None });
                }
            },
            CredentialRef::Vault { path, field } => loop {
                let key = reference.to_string();
                let before = self.seen.get(&key).map(|seen| seen.changed);
                let Some(vault) = &self.vault else {
                    return Err(format!("{key}: the config has no [vault]"));
                };
                let (secret, stale) =
                    vault.read(path, field).await.map_err(|problem| format!("{key}: {problem}"))?;
                let stale = stale.map(|why| format!("{key}: {why}"));
                if secret.expose().len() > max_bytes {
                    return Err(format!("{key}: is larger than {max_bytes} bytes"));
                }
                if let Some(changed) = self.note(key, &secret, None, before) {
                    return Ok(Read { secret, changed, stale });
                }
            },
        }
    }

    /// When the value last changed; none when another reader saw a change since
    /// this one began: which of them read the later value cannot be told.
    fn note(
        &self,
        key: String,
        secret: &Secret,
        identity: Option<reference::Identity>,
        before: Option<u64>,
    ) -> Option<u64> {
        let digest = self.key.hash_one(secret.expose());
        let _turn = self.noting.lock();
        let seen = self.seen.get(&key);
        if let Some(seen) = &seen {
            if seen.digest == digest {
                if seen.identity != identity {
                    self.seen.insert(key, Seen { identity, ..seen.clone() });
                }
                return Some(seen.changed);
            }
            if Some(seen.changed) != before {
                return None;
            }
        }
        let changed = next_generation();
        self.seen.insert(key, Seen { digest, changed, identity });
        Some(changed)
    }
}

fn references(config: &TenantConfig) -> impl Iterator<Item = &CredentialRef> {
    config.providers.values().flat_map(|provider| provider.credentials.values())
}

#[async_trait]
impl Credentials for Resolver {
    async fn resolve(
        &self,
        config: Arc<TenantConfig>,
        max_bytes: usize,
    ) -> Result<Arc<ResolvedConfig>, String> {
        let place = Arc::as_ptr(&config).addr();
        let ready = self.ready.get(&place);
        if let Some(ready) = &ready
            && references(&config).all(CredentialRef::is_fixed)
        {
            return Ok(Arc::clone(ready));
        }
        let mut providers = BTreeMap::new();
        let mut latest = 0;
        let mut stale = None;
        for (slot, provider) in &config.providers {
            let mut credentials = BTreeMap::new();
            for (name, reference) in &provider.credentials {
                let read = self
                    .secret(reference, max_bytes)
                    .await
                    .map_err(|problem| format!("{slot}.{name}: {problem}"))?;
                latest = latest.max(read.changed);
                stale = stale.or_else(|| read.stale.map(|why| format!("{slot}.{name}: {why}")));
                credentials.insert(name.clone(), read.secret);
            }
            let resolved = ResolvedProvider { provider: Arc::clone(provider), credentials };
            providers.insert(slot.clone(), resolved);
        }
        if let Some(ready) = ready
            && ready.credentials == latest
            && stale.is_none()
        {
            // What was read is what it has: encoded once, it stays so.
            return Ok(ready);
        }
        let fresh = stale.is_none();
        let resolved = Arc::new(ResolvedConfig::new(config, providers, latest, stale));
        if fresh {
            self.ready.insert(place, Arc::clone(&resolved));
        }
        Ok(resolved)
    }

    fn peek(&self, config: &TenantConfig) -> Option<u64> {
        let mut latest = 0;
        for reference in references(config) {
            latest = latest.max(match reference {
                CredentialRef::Env(_) | CredentialRef::Literal(_) => 0,
                CredentialRef::File(_) | CredentialRef::Vault { .. } => {
                    self.seen.get(&reference.to_string())?.changed
                }
            });
        }
        Some(latest)
    }

    fn is_due(&self, config: &TenantConfig) -> bool {
        self.vault.as_ref().is_some_and(|vault| {
            references(config).any(|reference| match reference {
                CredentialRef::Vault { path, .. } => vault.is_due(path),
                CredentialRef::Env(_) | CredentialRef::File(_) | CredentialRef::Literal(_) => false,
            })
        })
    }

    fn asks_again(&self) -> bool {
        self.vault.is_some()
    }

    async fn changed(&self) -> bool {
        let files: Vec<(PathBuf, Option<reference::Identity>)> = self
            .seen
            .iter()
            .filter_map(|(key, seen)| key.strip_prefix("file:").map(|p| (p.into(), seen.identity)))
            .collect();
        let vault = self.vault.as_ref().is_some_and(|vault| vault.take_changed());
        // One job for all: a hung mount costs one thread, and only this look.
        let look = tokio::task::spawn_blocking(move || {
            files.iter().any(|(path, seen)| {
                let present = reference::identity(path);
                present.is_some() && present != *seen
            })
        });
        let file =
            matches!(tokio::time::timeout(reference::READ_TIMEOUT, look).await, Ok(Ok(true)));
        vault || file
    }
}
