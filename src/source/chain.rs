//! A tenant's whole config: the file's entry over what each source gives, in
//! their order, over the defaults.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::future::join_all;
use moka::sync::Cache;
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};

use super::cache::{Cached, Held};
use crate::{
    app::ports::{Changed, Found, Origin, SourceAnswer, SourceStatus, TenantConfigs},
    config::{Config, entry::Entry, next_generation},
    domain::{provider::TenantConfig, tenant::TenantId},
};

/// Most configs kept ready; one that is not is made again out of its parts.
const MAX_READY: u64 = 100_000;
/// One that nobody asks for is dropped.
const IDLE: Duration = Duration::from_secs(600);

type Part = Option<Arc<Entry>>;

/// A config and what it was made of.
#[derive(Clone)]
struct Ready {
    /// Of the file.
    file: u64,
    parts: Arc<[Part]>,
    generation: u64,
    config: Result<Option<Arc<TenantConfig>>, Arc<str>>,
}

impl Ready {
    fn is_of(&self, file: u64, parts: &[Part]) -> bool {
        self.file == file
            && self.parts.len() == parts.len()
            && self.parts.iter().zip(parts).all(|(a, b)| match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            })
    }
}

/// All sources of tenants' entries.
pub struct Chain {
    file: Arc<ArcSwap<Config>>,
    sources: Vec<Arc<Cached>>,
    ready: Cache<TenantId, Ready>,
    /// One maker at a time: a config out of later parts has the later number.
    making: Mutex<()>,
}

impl Chain {
    /// The file, and the sources beside it in the order asked.
    #[must_use]
    pub fn new(file: Arc<ArcSwap<Config>>, sources: Vec<Arc<Cached>>) -> Self {
        let ready = Cache::builder().max_capacity(MAX_READY).time_to_idle(IDLE).build();
        Self { file, sources, ready, making: Mutex::new(()) }
    }

    /// Listens to all sources, for as long as it is polled.
    pub async fn watch(self: Arc<Self>, to: mpsc::Sender<Changed>) {
        let mut watching = JoinSet::new();
        for source in &self.sources {
            watching.spawn(Arc::clone(source).watch(to.clone()));
        }
        while watching.join_next().await.is_some() {}
    }

    fn of_file(config: &Config, tenant: &TenantId) -> Found {
        Found { config: config.tenant(tenant), generation: config.generation, stale: None }
    }

    /// The config out of `parts`, or out of what the sources said since.
    fn whole(&self, tenant: &TenantId, parts: &[Part]) -> Ready {
        if let Some(ready) = self.ready.get(tenant)
            && ready.is_of(self.file.load().generation, parts)
        {
            return ready;
        }
        let _turn = self.making.lock();
        let config = self.file.load_full();
        // Read again: another may have made one out of later parts meanwhile.
        let parts: Arc<[Part]> = self
            .sources
            .iter()
            .zip(parts)
            .map(|(source, part)| {
                source.peek(tenant).map_or_else(|| part.clone(), |held| held.value.entry.clone())
            })
            .collect();
        if let Some(ready) = self.ready.get(tenant)
            && ready.is_of(config.generation, &parts)
        {
            return ready;
        }
        let ready = Ready {
            file: config.generation,
            generation: next_generation(),
            config: made(&config, tenant, &parts),
            parts,
        };
        self.ready.insert(tenant.clone(), ready.clone());
        ready
    }

    fn found(&self, tenant: &TenantId, parts: &[Part]) -> Result<Found, String> {
        let ready = self.whole(tenant, parts);
        let config = ready.config.map_err(|problem| problem.to_string())?;
        Ok(Found { config, generation: ready.generation, stale: None })
    }

    /// What the sources said, where all of them did.
    fn held(&self, tenant: &TenantId) -> Option<Vec<Arc<Held>>> {
        self.sources.iter().map(|source| source.peek(tenant)).collect()
    }
}

/// Made out of the parts that there are.
fn made(
    config: &Config,
    tenant: &TenantId,
    parts: &[Part],
) -> Result<Option<Arc<TenantConfig>>, Arc<str>> {
    let file = config.entries.get(tenant);
    let mut layers = file.into_iter().chain(parts.iter().flatten());
    let Some(first) = layers.next() else { return Ok(config.tenant(tenant)) };
    let mut whole = Entry::clone(first);
    for below in layers {
        whole = whole.over(below);
    }
    let made = whole
        .complete(&config.base)
        .map_err(|problem| format!("the parts of its entry do not go together: {problem}"))?;
    Ok(Some(Arc::new(made)))
}

#[async_trait]
impl TenantConfigs for Chain {
    async fn find(&self, tenant: &TenantId) -> Result<Found, String> {
        if self.sources.is_empty() {
            return Ok(Self::of_file(&self.file.load(), tenant));
        }
        let answers: Vec<_> = match &self.sources[..] {
            // By far the most usual: nothing is gathered.
            [one] => vec![one.get(tenant).await],
            many => join_all(many.iter().map(|source| source.get(tenant))).await,
        };
        let answers: Vec<_> =
            answers.into_iter().collect::<Result<_, _>>().map_err(|why| why.to_string())?;
        let parts: Vec<Part> =
            answers.iter().map(|answer| answer.held.value.entry.clone()).collect();
        let stale = answers.into_iter().find_map(|answer| answer.stale).map(|why| why.to_string());
        self.found(tenant, &parts).map(|found| Found { stale, ..found })
    }

    fn peek(&self, tenant: &TenantId) -> Option<Found> {
        if self.sources.is_empty() {
            return Some(Self::of_file(&self.file.load(), tenant));
        }
        let parts: Vec<Part> =
            self.held(tenant)?.iter().map(|held| held.value.entry.clone()).collect();
        self.found(tenant, &parts).ok()
    }

    fn is_due(&self, tenant: &TenantId) -> bool {
        self.sources.iter().any(|source| source.is_due(tenant))
    }

    fn asks_again(&self) -> bool {
        !self.sources.is_empty()
    }

    async fn explain(&self, tenant: &TenantId) -> (Vec<Origin>, Vec<SourceAnswer>) {
        let config = self.file.load_full();
        let mut answers = Vec::new();
        let mut layers: Vec<(String, Part)> =
            vec![("file".to_owned(), config.entries.get(tenant).cloned())];
        for source in &self.sources {
            let name = source.name().to_owned();
            let (entry, age, error) = match source.get(tenant).await {
                Ok(answer) => {
                    let age = answer.held.age();
                    let stale = answer.stale.map(|why| why.to_string());
                    (answer.held.value.entry.clone(), Some(age), stale)
                }
                Err(why) => (None, None, Some(why.to_string())),
            };
            answers.push(SourceAnswer { source: name.clone(), entry: entry.is_some(), age, error });
            layers.push((name, entry));
        }
        let parts: Vec<Part> = layers.iter().skip(1).map(|(_, part)| part.clone()).collect();
        let Ok(Some(whole)) = made(&config, tenant, &parts) else { return (Vec::new(), answers) };
        let given: Vec<(&str, Vec<String>)> = layers
            .iter()
            .filter_map(|(name, part)| part.as_ref().map(|part| (name.as_str(), part.keys())))
            .chain([("defaults", config.base.given.clone())])
            .collect();
        let origins = whole.values().into_iter().map(|(key, value)| {
            let source = given.iter().find(|(_, keys)| keys.contains(&key));
            let source = source.map_or("built-in", |(name, _)| name).to_owned();
            Origin { key, value, source }
        });
        (origins.collect(), answers)
    }

    fn status(&self) -> Vec<SourceStatus> {
        self.sources.iter().map(|source| source.status()).collect()
    }
}
