//! One source behind its cache: how often it is asked, how many at once, for how
//! long, and what is served meanwhile.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::shelf::{self, MAX_TTL, Said, Served, Shelf};
use crate::{
    app::ports::{Changed, Fetched, Freshness, SourceStatus, TenantSource},
    config::{Config, entry::Entry, source::SourceConfig},
    domain::tenant::TenantId,
};

/// Changes that wait to be passed on.
const CHANGES: usize = 1024;

/// What a source said of a tenant.
#[derive(Debug)]
pub struct Word {
    /// Its entry; none: it has none.
    pub entry: Option<Arc<Entry>>,
    revision: Option<String>,
}

/// A word and how long it holds.
pub type Held = shelf::Held<Word>;

#[derive(Default)]
struct Figures {
    loads: AtomicU64,
    failures: AtomicU64,
    hits: AtomicU64,
    stale_hits: AtomicU64,
    last_error: Mutex<String>,
}

/// One source and what it said.
pub struct Cached {
    config: SourceConfig,
    source: Arc<dyn TenantSource>,
    /// What entries are checked against.
    file: Arc<ArcSwap<Config>>,
    shelf: Arc<Shelf<TenantId, Word>>,
    /// The number of the last change told, by tenant.
    changed: moka::sync::Cache<TenantId, u64>,
    all_changed: AtomicU64,
    changes: AtomicU64,
    turns: Semaphore,
    /// Turns that only tenants with an entry may take, so that a flood of made-up
    /// ids to a slow source cannot keep theirs from being refreshed.
    kept_turns: Semaphore,
    figures: Figures,
    watching: AtomicBool,
    /// Whom changes are told that were found by asking.
    found: OnceLock<mpsc::Sender<Changed>>,
}

impl Cached {
    /// An empty cache.
    #[must_use]
    pub fn new(
        config: SourceConfig,
        source: Arc<dyn TenantSource>,
        file: Arc<ArcSwap<Config>>,
    ) -> Self {
        Self {
            shelf: Arc::new(Shelf::new(config.max_entries)),
            // Kept for as long as a question that began before it may take to
            // be answered and served.
            changed: moka::sync::Cache::builder()
                .max_capacity(config.max_entries)
                .time_to_live(MAX_TTL + config.timeout)
                .build(),
            all_changed: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            turns: Semaphore::new(config.max_in_flight - config.max_in_flight / 4),
            kept_turns: Semaphore::new(config.max_in_flight / 4),
            figures: Figures::default(),
            watching: AtomicBool::new(false),
            found: OnceLock::new(),
            config,
            source,
            file,
        }
    }

    /// Its name in the config.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What it said, without asking.
    #[must_use]
    pub fn peek(&self, tenant: &TenantId) -> Option<Arc<Held>> {
        self.shelf.peek(tenant)
    }

    /// It is time to ask again.
    #[must_use]
    pub fn is_due(&self, tenant: &TenantId) -> bool {
        self.shelf
            .peek(tenant)
            .is_none_or(|held| !held.is_fresh() || self.is_changed(tenant, &held))
    }

    fn is_changed(&self, tenant: &TenantId, held: &Held) -> bool {
        self.all_changed.load(Ordering::Acquire) > held.stamp
            || self.changed.get(tenant).is_some_and(|change| change > held.stamp)
    }

    /// What it says of a tenant.
    ///
    /// # Errors
    /// How it failed, when it said nothing before that may still be served.
    pub async fn get(self: &Arc<Self>, tenant: &TenantId) -> Result<Served<Word>, Arc<str>> {
        let served = self
            .shelf
            .get(
                tenant,
                |held| self.is_changed(tenant, held),
                || {
                    let (this, tenant) = (Arc::clone(self), tenant.clone());
                    Box::pin(async move { this.ask(&tenant).await })
                },
            )
            .await;
        if let Ok(served) = &served
            && served.hit
        {
            let figure = match served.stale {
                Some(_) => &self.figures.stale_hits,
                None => &self.figures.hits,
            };
            figure.fetch_add(1, Ordering::Relaxed);
        }
        served
    }

    async fn ask(&self, tenant: &TenantId) -> Said<Word> {
        // Before the question: what changes from here on may not be in the answer.
        let stamp = self.changes.load(Ordering::Acquire);
        let before = self.shelf.peek(tenant);
        let known = before.as_ref().is_some_and(|held| held.value.entry.is_some());
        let revision = before.as_ref().and_then(|held| held.value.revision.clone());
        self.figures.loads.fetch_add(1, Ordering::Relaxed);
        let question = async {
            // The wait for a turn counts: nobody waits longer than the timeout.
            let _turn = if known {
                tokio::select! {
                    turn = self.turns.acquire() => turn,
                    turn = self.kept_turns.acquire() => turn,
                }
            } else {
                self.turns.acquire().await
            };
            self.source.fetch(tenant, revision.as_deref()).await
        };
        let said = match tokio::time::timeout(self.config.timeout, question).await {
            Ok(Ok(fetched)) => self.hold(tenant, fetched, before.as_deref(), stamp),
            Ok(Err(problem)) => Err(self.say(&problem)),
            Err(_) => {
                let timeout = humantime::format_duration(self.config.timeout);
                Err(self.say(&format!("did not answer within {timeout}")))
            }
        };
        let mut last_error = self.figures.last_error.lock();
        match &said {
            Ok(_) => last_error.clear(),
            Err(why) => {
                self.figures.failures.fetch_add(1, Ordering::Relaxed);
                *last_error = format!("tenant {tenant}: {why}");
            }
        }
        said
    }

    fn hold(
        &self,
        tenant: &TenantId,
        fetched: Fetched,
        before: Option<&Held>,
        stamp: u64,
    ) -> Said<Word> {
        let known = before.and_then(|before| before.value.entry.clone());
        let (entry, revision, freshness) = match fetched {
            Fetched::Unchanged { freshness } => match before {
                Some(before) => (known.clone(), before.value.revision.clone(), freshness),
                None => return Err(self.say("answered \"unchanged\" to a first question")),
            },
            Fetched::Missing => {
                let ttl = Some(self.config.negative_ttl);
                (None, None, Freshness { ttl, stale_for: None })
            }
            Fetched::Entry { value, revision, freshness } => {
                let base = Arc::clone(&self.file.load().base);
                let entry = Entry::from_json(tenant, value, &base, self.config.literals)
                    .map_err(|problem| self.say(&format!("gave a wrong entry: {problem}")))?;
                // The same entry again is the same config: nothing is made anew.
                let entry = match &known {
                    Some(same) if **same == entry => Arc::clone(same),
                    _ => Arc::new(entry),
                };
                (Some(entry), revision, freshness)
            }
        };
        let same = match (&known, &entry) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        let word = Word { entry, revision };
        let (ttl, stale_for) = (self.config.ttl, self.config.stale_for);
        let held = Held::of(word, stamp, freshness, ttl, stale_for);
        let held = self.shelf.put(tenant.clone(), held);
        if !same
            && before.is_some()
            && let Some(found) = self.found.get()
        {
            // When it is full, the tenant's next acquire brings the change.
            let _ = found.try_send(Changed::Tenant(tenant.clone()));
        }
        Ok(held)
    }

    fn say(&self, problem: &str) -> Arc<str> {
        format!("source {}: {problem}", self.config.name).into()
    }

    /// Passes on what the source tells, for as long as it is polled.
    pub async fn watch(self: Arc<Self>, to: mpsc::Sender<Changed>) {
        let _ = self.found.set(to.clone());
        let (told, mut changes) = mpsc::channel(CHANGES);
        let watching = async {
            self.source.watch(&told).await;
            drop(told);
        };
        let passing_on = async {
            while let Some(change) = changes.recv().await {
                let number = self.changes.fetch_add(1, Ordering::AcqRel) + 1;
                match &change {
                    Changed::Tenant(tenant) => self.changed.insert(tenant.clone(), number),
                    Changed::All => {
                        self.all_changed.store(number, Ordering::Release);
                        self.watching.store(true, Ordering::Release);
                    }
                    Changed::Lost => {
                        self.watching.store(false, Ordering::Release);
                        continue;
                    }
                }
                if to.send(change).await.is_err() {
                    return;
                }
            }
        };
        tokio::join!(watching, passing_on);
    }

    /// How it does.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        SourceStatus {
            name: self.config.name.clone(),
            kind: self.config.kind.name(),
            entries: self.shelf.len(),
            loads: read(&self.figures.loads),
            failures: read(&self.figures.failures),
            hits: read(&self.figures.hits),
            stale_hits: read(&self.figures.stale_hits),
            last_error: self.figures.last_error.lock().clone(),
            watching: self.watching.load(Ordering::Acquire),
        }
    }
}
