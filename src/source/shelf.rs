//! What was said, kept by key: fresh values without asking, one question in
//! flight per key, stale values while there is no answer, and bounds on all of it.
//!
//! A value is *fresh* for its TTL. In the TTL after that it is served as it is
//! while one question refreshes it. Later than that, or when it is known to have
//! changed, whoever wants it waits for the answer, for a moment. When there is none,
//! what was said last is served as *stale* until `stale_for` past the TTL, and nobody
//! waits again: the next answer is taken when it comes.

use std::{
    future::Future,
    hash::Hash,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use moka::Expiry;
use tokio::runtime::Handle;

use crate::app::ports::Freshness;

/// How long a failure is remembered before the same is asked again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Longest wait for an answer while there is something stale to serve: a source that
/// hangs must not make sessions wait that can run on what it said before.
const STALE_WAIT: Duration = Duration::from_secs(1);
/// Longest time that anything is served without asking again, and as stale.
pub const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// A value and how long it may be served.
#[derive(Debug)]
pub struct Held<V> {
    /// The value.
    pub value: V,
    /// Changes told before it was asked for.
    pub stamp: u64,
    said: Instant,
    fresh_until: Instant,
    refresh_until: Instant,
    stale_until: Instant,
    /// Why a question for a newer one failed, or was late. From then on nobody waits
    /// for the next.
    trouble: OnceLock<Arc<str>>,
}

impl<V> Held<V> {
    /// Said just now.
    pub fn new(value: V, stamp: u64, ttl: Duration, stale_for: Duration) -> Self {
        let (ttl, stale_for) = (ttl.min(MAX_TTL), stale_for.min(MAX_TTL));
        let said = Instant::now();
        Self {
            value,
            stamp,
            said,
            fresh_until: said + ttl,
            refresh_until: said + ttl + ttl.min(stale_for),
            stale_until: said + ttl + stale_for,
            trouble: OnceLock::new(),
        }
    }

    /// With the times that who said it gave, where it did.
    pub fn of(value: V, stamp: u64, said: Freshness, ttl: Duration, stale_for: Duration) -> Self {
        Self::new(value, stamp, said.ttl.unwrap_or(ttl), said.stale_for.unwrap_or(stale_for))
    }

    /// How long ago it was said.
    pub fn age(&self) -> Duration {
        self.said.elapsed()
    }

    /// It may be served without asking.
    pub fn is_fresh(&self) -> bool {
        Instant::now() < self.fresh_until
    }
}

/// What came of one question.
pub type Said<V> = Result<Arc<Held<V>>, Arc<str>>;
/// One question.
pub type Question<V> = Pin<Box<dyn Future<Output = Said<V>> + Send>>;

/// What is served.
#[derive(Debug)]
pub struct Served<V> {
    /// The value.
    pub held: Arc<Held<V>>,
    /// Why it is not newer, while nobody answers.
    pub stale: Option<Arc<str>>,
    /// Nobody was asked.
    pub hit: bool,
}

/// Values go when they may no longer be served.
struct WhileServable;

impl<K, V> Expiry<K, Arc<Held<V>>> for WhileServable {
    fn expire_after_create(&self, _: &K, held: &Arc<Held<V>>, now: Instant) -> Option<Duration> {
        Some(held.stale_until.saturating_duration_since(now))
    }

    fn expire_after_update(
        &self,
        _: &K,
        held: &Arc<Held<V>>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(held.stale_until.saturating_duration_since(now))
    }
}

/// Answers are handed to those who wait and forgotten; failures stay a little.
struct Failures;

impl<K, V> Expiry<K, Said<V>> for Failures {
    fn expire_after_create(&self, _: &K, said: &Said<V>, _: Instant) -> Option<Duration> {
        Some(if said.is_ok() { Duration::ZERO } else { RETRY_AFTER })
    }
}

/// The shelf.
pub struct Shelf<K, V> {
    /// Bounded: the least used go first, and a flood of keys asked for once does
    /// not push out those in use (TinyLFU).
    held: moka::sync::Cache<K, Arc<Held<V>>>,
    flights: moka::future::Cache<K, Said<V>>,
    /// Where questions are asked: whoever serves calls must not be held up by an
    /// answer that is large, and what a question opens outlives its caller.
    background: Handle,
}

impl<K, V> Shelf<K, V>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// An empty shelf for at most `max` values, whose questions are asked on the
    /// runtime that this is called on.
    ///
    /// # Panics
    /// Outside of one.
    pub fn new(max: u64) -> Self {
        Self {
            held: moka::sync::Cache::builder()
                .max_capacity(max)
                .expire_after(WhileServable)
                .build(),
            flights: moka::future::Cache::builder()
                .max_capacity(max)
                .expire_after(Failures)
                .build(),
            background: Handle::current(),
        }
    }

    /// What is held, without asking.
    pub fn peek(&self, key: &K) -> Option<Arc<Held<V>>> {
        self.held.get(key)
    }

    /// Puts what was said in the place of what was said before.
    pub fn put(&self, key: K, held: Held<V>) -> Arc<Held<V>> {
        let held = Arc::new(held);
        self.held.insert(key, Arc::clone(&held));
        held
    }

    /// How many values it holds.
    pub fn len(&self) -> u64 {
        self.held.run_pending_tasks();
        self.held.entry_count()
    }

    /// The value of a key; `ask` puts the question, and puts the answer here.
    pub async fn get(
        self: &Arc<Self>,
        key: &K,
        is_changed: impl Fn(&Held<V>) -> bool,
        ask: impl Fn() -> Question<V>,
    ) -> Result<Served<V>, Arc<str>> {
        let held = self.held.get(key);
        let stale_or = |held: Option<Arc<Held<V>>>, why: Arc<str>| match held {
            Some(held) if Instant::now() < held.stale_until => {
                Ok(Served { held, stale: Some(why), hit: true })
            }
            Some(_) | None => Err(why),
        };
        let now = Instant::now();
        if let Some(held) = &held {
            let changed = is_changed(held);
            if !changed && now < held.fresh_until {
                return Ok(Served { held: Arc::clone(held), stale: None, hit: true });
            }
            if let Some(Err(why)) = self.flights.get(key).await {
                return stale_or(Some(Arc::clone(held)), why);
            }
            let trouble = held.trouble.get().cloned();
            if !changed && (now < held.refresh_until || trouble.is_some()) {
                // Ends with its answer or the timeout of whom it asks.
                let seen = Some(Arc::clone(held));
                self.background.spawn(Arc::clone(self).fly(key.clone(), seen, ask()));
                return match trouble {
                    Some(why) if now >= held.refresh_until => stale_or(Some(Arc::clone(held)), why),
                    Some(_) | None => Ok(Served { held: Arc::clone(held), stale: None, hit: true }),
                };
            }
        }
        // In a task of its own: a caller that gives up must not stop it for the
        // others.
        let fly = |seen| self.background.spawn(Arc::clone(self).fly(key.clone(), seen, ask()));
        let answer = async {
            match fly(held.clone()).await {
                // It began before the change that this caller knows of.
                Ok(Ok(held)) if is_changed(&held) => fly(Some(held)).await,
                flight => flight,
            }
        };
        let flight = if held.as_ref().is_some_and(|held| now < held.stale_until) {
            match tokio::time::timeout(STALE_WAIT, answer).await {
                Ok(flight) => flight,
                Err(_) => {
                    let wait = humantime::format_duration(STALE_WAIT);
                    let why: Arc<str> = format!("there was no answer within {wait}").into();
                    if let Some(held) = &held {
                        let _ = held.trouble.set(Arc::clone(&why));
                    }
                    return stale_or(held, why);
                }
            }
        } else {
            answer.await
        };
        match flight {
            Ok(Ok(held)) => Ok(Served { held, stale: None, hit: false }),
            Ok(Err(why)) => stale_or(held, why),
            Err(_) => stale_or(held, "the question was interrupted".into()),
        }
    }

    /// One question in flight per key, whose answer all get who wait. `seen` is what
    /// the caller looked at: an answer that came between its look and its question is
    /// taken, so that many first callers ask once.
    async fn fly(
        self: Arc<Self>,
        key: K,
        seen: Option<Arc<Held<V>>>,
        question: Question<V>,
    ) -> Said<V> {
        let asked = async {
            let held = self.held.get(&key);
            match held {
                Some(held) if !seen.is_some_and(|seen| Arc::ptr_eq(&seen, &held)) => Ok(held),
                held => question.await.inspect_err(|why| {
                    held.map(|held| held.trouble.set(Arc::clone(why)));
                }),
            }
        };
        self.flights.get_with(key.clone(), asked).await
    }
}
