//! What the use cases need from the world.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    config::Config,
    domain::{
        access::{Claim, Owner},
        admission::{Acquire, Grant, View, Waiting},
        audit::Record,
        event::{Actor, Event, Severity},
        limits::Terms,
        provider::{ResolvedConfig, TenantConfig},
        record,
        reject::Rejection,
        session::{EndCause, Failure, Outcome, Renewal, Session, SessionId, WorkerId},
        tenant::TenantId,
        time::Now,
    },
};

/// Where `now` comes from. Read once per call, at its start.
pub trait Clock: Send + Sync {
    /// The time.
    fn now(&self) -> Now;
}

/// The sidecar's own process.
pub trait Process: Send + Sync {
    /// Resident memory in bytes; none where that cannot be read.
    fn resident_bytes(&self) -> Option<u64>;
}

/// Where events go.
pub trait EventSink: Send + Sync {
    /// Appends in order. Called under the lock of the tenant that the events
    /// are about, so that one tenant's events are in the order of its changes:
    /// must not block.
    fn append(&self, events: Vec<Event>);
    /// The last sequence appended.
    fn head(&self) -> u64;
}

/// It could not be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unrecorded;

/// Where it is recorded what outlives the process.
pub trait Journal: Send + Sync {
    /// Records what one step changed. Called under the lock of the tenant that it
    /// is about: must not wait for a disk. Nobody may be told of the step before
    /// [`Self::settle`].
    ///
    /// # Errors
    /// When it may not outlive the process.
    fn record(&self, records: &[record::Record]) -> Result<(), Unrecorded>;
    /// What was recorded outlives the process from here on: called before anything
    /// is told, so that steps that are told together are written together. Gives how
    /// often that failed so far: who was about to tell and finds the number raised
    /// must not.
    fn settle(&self) -> u64;
    /// The session was granted and the record of it failed to settle: nobody was told.
    fn is_doubtful(&self, session: &SessionId) -> bool;
    /// Sequences of events up to this one may be given: after a restart later
    /// ones are.
    fn reserve(&self, sequence: u64);
    /// Why nothing is recorded now; none while all is.
    fn problem(&self) -> Option<String>;
    /// What an earlier process had recorded could not be read.
    fn has_lost(&self) -> bool;
}

/// Keeps nothing.
pub struct NoJournal;

impl Journal for NoJournal {
    fn record(&self, _: &[record::Record]) -> Result<(), Unrecorded> {
        Ok(())
    }

    fn settle(&self) -> u64 {
        0
    }

    fn is_doubtful(&self, _: &SessionId) -> bool {
        false
    }

    fn reserve(&self, _: u64) {}

    fn problem(&self) -> Option<String> {
        None
    }

    fn has_lost(&self) -> bool {
        false
    }
}

/// The machine-wide numbers that bind an acquire.
#[derive(Debug, Clone, Copy)]
pub struct SharedCaps {
    /// Most live sessions of the request's agent.
    pub agent: Option<u32>,
    /// Most live sessions on the machine.
    pub machine: u32,
    /// Most tenants without a config entry that have state.
    pub unknown_tenants: u32,
}

/// An agent's event, for a live session.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "event.proto documents each field")]
pub struct Publish {
    pub session: SessionId,
    pub name: String,
    pub severity: Severity,
    pub attributes: serde_json::Map<String, serde_json::Value>,
}

/// What an operator changes about a tenant.
#[derive(Debug, Clone)]
pub enum Change {
    /// Sets, lifts (`Some(None)`) or clears (`None`) the run-time cap.
    Cap(Option<Option<u32>>),
    /// Refuses new sessions.
    Suspend,
    /// Takes them again.
    Resume,
    /// Opens the breaker.
    OpenBreaker(Option<Duration>),
    /// Closes it and forgets its samples.
    ResetBreaker,
}

/// A tenant and its sessions at one place of the event log.
#[derive(Debug, Clone)]
pub struct TenantSnapshot {
    /// The tenant.
    pub view: View,
    /// Its live sessions.
    pub sessions: Vec<Session>,
    /// Names the config that it runs on.
    pub version: String,
    /// Every event of the tenant up to here is in the snapshot, and none after.
    pub as_of: u64,
}

/// Figures of the whole store.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct StoreTotals {
    pub started: u64,
    pub failures: u64,
    pub live: u32,
    pub tenants: u32,
}

/// Holds sessions, and speaks in decisions: each method is one atomic step. Who
/// may act on a session is part of the step: a `claim` that does not hold for it
/// is refused in the words of a session that is not there.
/// A store for a fleet answers the same questions from elsewhere.
#[async_trait]
pub trait SessionStore: Send + Sync {
    /// Takes a slot, or says why not.
    async fn acquire(
        &self,
        tenant: &TenantId,
        terms: &Terms,
        request: Acquire,
        caps: SharedCaps,
        now: Now,
    ) -> Result<Grant, Rejection>;

    /// A sign of life.
    async fn renew(
        &self,
        id: &SessionId,
        claim: &Claim,
        renewal: Renewal,
        now: Now,
    ) -> Result<Session, Rejection>;

    /// Ends a session for its client; returns the outcome booked.
    async fn release(
        &self,
        id: &SessionId,
        claim: &Claim,
        outcome: Outcome,
        failure: Option<Failure>,
        now: Now,
    ) -> Result<Outcome, Rejection>;

    /// Marks a session as failed; true when it was a breaker sample.
    async fn report(
        &self,
        id: &SessionId,
        claim: &Claim,
        failure: Failure,
        end: bool,
        now: Now,
    ) -> Result<(Session, bool), Rejection>;

    /// Ends a session by hand.
    async fn revoke(
        &self,
        id: &SessionId,
        claim: &Claim,
        cause: EndCause,
        actor: Option<&Actor>,
        now: Now,
    ) -> Result<Session, Rejection>;

    /// Logs an agent's event, at most so many a second of its tenant.
    async fn publish(
        &self,
        event: Publish,
        claim: &Claim,
        per_second: u32,
        now: Now,
    ) -> Result<(), Rejection>;

    /// The worker went away. Returns what waits for it: sessions of its identity
    /// only, since any other may have used its name.
    async fn detach(&self, worker: &WorkerId, owner: &Owner, now: Now) -> Waiting;

    /// The worker is back: its waiting sessions go on.
    async fn attach(&self, worker: &WorkerId, owner: &Owner, now: Now);

    /// Lets time pass.
    async fn expire(&self, idle_after: Duration, now: Now);

    /// An operator's change. Makes the tenant's state where there is none.
    async fn change(
        &self,
        tenant: &TenantId,
        terms: &Terms,
        change: Change,
        actor: &Actor,
        now: Now,
    ) -> Result<View, Rejection>;

    /// Brings the tenant's state to `terms`; true when it was on others.
    /// Nothing happens for a tenant without state.
    async fn configure(&self, tenant: &TenantId, terms: &Terms, now: Now) -> bool;

    /// One live session.
    async fn session(&self, id: &SessionId, claim: &Claim) -> Result<Session, Rejection>;

    /// Tenants that have state.
    async fn tenants(&self) -> Vec<TenantId>;

    /// One tenant with its sessions; none when it has no state.
    async fn snapshot(&self, tenant: &TenantId, now: Now) -> Option<TenantSnapshot>;

    /// Figures of the whole.
    async fn totals(&self) -> StoreTotals;
}

/// Who is told how long acquires took.
pub trait AcquireMeter: Send + Sync {
    /// One was decided. `tenant`: none when it was malformed.
    fn decided(&self, tenant: Option<&TenantId>, known: bool, granted: bool, took: Duration);
}

/// What the log shows.
pub trait LogFilter: Send + Sync {
    /// Changes it from now on; what it was before.
    ///
    /// # Errors
    /// What would be valid.
    fn set(&self, filter: &str) -> Result<String, String>;
}

/// How the audit log does.
#[derive(Debug, Clone, Default)]
pub struct AuditStatus {
    /// There is one.
    pub is_on: bool,
    /// The last record's.
    pub sequence: u64,
    /// Records that wait for a disk that takes none.
    pub waiting: u64,
    /// The last write failed.
    pub is_failing: bool,
    /// How.
    pub error: String,
}

/// Where what operators do, and what changes in the config, is kept.
#[async_trait]
pub trait AuditSink: Send + Sync {
    /// Keeps a record durably, after those that wait; its sequence. Nothing may be
    /// done that could not be recorded before.
    ///
    /// # Errors
    /// Why it cannot be kept.
    async fn write(&self, record: Record) -> Result<u64, String>;

    /// Keeps records of what has happened already: now, or as soon as that works. An
    /// empty list tries those that wait.
    async fn note(&self, records: Vec<Record>);

    /// Keeps a record with the next that is kept.
    fn defer(&self, record: Record);

    /// How it does.
    fn status(&self) -> AuditStatus;
}

/// The config file.
#[async_trait]
pub trait ConfigSource: Send + Sync {
    /// Reads and validates the whole config anew.
    ///
    /// # Errors
    /// What is wrong, without any secret.
    async fn load(&self) -> Result<Config, String>;
}

/// A tenant's config as it is to be served now.
#[derive(Debug, Clone)]
pub struct Found {
    /// The config; none: the tenant has no entry and unknown tenants are
    /// rejected.
    pub config: Option<Arc<TenantConfig>>,
    /// Later states have higher ones.
    pub generation: u64,
    /// Why it is what a source said before, where it is.
    pub stale: Option<String>,
}

/// Who gave one value of a tenant's config.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "watch_service.proto documents each field")]
pub struct Origin {
    pub key: String,
    pub value: String,
    pub source: String,
}

/// What one source said of one tenant.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "watch_service.proto documents each field")]
pub struct SourceAnswer {
    pub source: String,
    /// None: it has no entry. Without an age nothing was ever said.
    pub entry: bool,
    pub age: Option<Duration>,
    pub error: Option<String>,
}

/// How one source does.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "watch_service.proto documents each field")]
pub struct SourceStatus {
    pub name: String,
    pub kind: &'static str,
    pub entries: u64,
    pub loads: u64,
    pub failures: u64,
    pub hits: u64,
    pub stale_hits: u64,
    pub last_error: String,
    pub watching: bool,
}

/// Tenants' configs, out of the file and what lies beside it.
#[async_trait]
pub trait TenantConfigs: Send + Sync {
    /// One tenant's config; asks sources where that is due, and waits for them
    /// for a bounded time.
    ///
    /// # Errors
    /// Which source failed, and how; never a secret.
    async fn find(&self, tenant: &TenantId) -> Result<Found, String>;

    /// What is known now without asking; none where a source would have to be
    /// asked first.
    fn peek(&self, tenant: &TenantId) -> Option<Found>;

    /// A source is due to be asked about this tenant.
    fn is_due(&self, tenant: &TenantId) -> bool;

    /// Whether that may ever be so: else nobody need look through all tenants.
    fn asks_again(&self) -> bool;

    /// Who gave each value, and what each source said.
    async fn explain(&self, tenant: &TenantId) -> (Vec<Origin>, Vec<SourceAnswer>);

    /// How each source does.
    fn status(&self) -> Vec<SourceStatus>;
}

/// What changed in a source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// One tenant's entry.
    Tenant(TenantId),
    /// Perhaps any: changes may have been missed. From here on they are told.
    All,
    /// Changes are not told until the next `All`.
    Lost,
}

/// One source's answer.
#[derive(Debug)]
pub enum Fetched {
    /// Still the one of that revision.
    Unchanged {
        /// As in `Entry`.
        freshness: Freshness,
    },
    /// It has none.
    Missing,
    /// Its entry, in the file's shape.
    Entry {
        /// The entry.
        value: serde_json::Value,
        /// Names its state, for the next question.
        revision: Option<String>,
        /// How long it may be served.
        freshness: Freshness,
    },
}

/// How long an answer may be served, where the source says so itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freshness {
    /// Without asking again.
    pub ttl: Option<Duration>,
    /// Beyond that while the source fails.
    pub stale_for: Option<Duration>,
}

/// One place that tenants' entries come from. Asked about one tenant at a time
/// by a cache that bounds how often, how many at once and for how long.
#[async_trait]
pub trait TenantSource: Send + Sync {
    /// One tenant's entry; `revision` is of the one that is held.
    ///
    /// # Errors
    /// What failed, without any secret.
    async fn fetch(&self, tenant: &TenantId, revision: Option<&str>) -> Result<Fetched, String>;

    /// Tells changes for as long as it is polled. A source that cannot tell
    /// returns at once, and its entries' TTL decides.
    async fn watch(&self, _changed: &tokio::sync::mpsc::Sender<Changed>) {}
}

/// Credentials in the place of their references.
#[async_trait]
pub trait Credentials: Send + Sync {
    /// Resolves all of a config's.
    ///
    /// # Errors
    /// What could not be resolved, by slot and name, without any secret.
    async fn resolve(
        &self,
        config: Arc<TenantConfig>,
        max_bytes: usize,
    ) -> Result<Arc<ResolvedConfig>, String>;

    /// The latest change among a config's credentials, where all of them have
    /// been resolved before.
    fn peek(&self, config: &TenantConfig) -> Option<u64>;

    /// Some of a config's are to be asked for again.
    fn is_due(&self, config: &TenantConfig) -> bool;

    /// Whether that may ever be so.
    fn asks_again(&self) -> bool;

    /// Looks whether any that was resolved before has changed since.
    async fn changed(&self) -> bool;
}
