//! What the use cases need from the world.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    config::Config,
    domain::{
        admission::{Acquire, Grant, View, Waiting},
        event::{Actor, Event, Severity},
        limits::Terms,
        provider::{ResolvedConfig, TenantConfig},
        reject::Rejection,
        session::{EndCause, Failure, Outcome, Renewal, Session, SessionId, WorkerId},
        tenant::TenantId,
        time::{Now, Timestamp},
    },
};

/// Where `now` comes from. Read once per call, at its start.
pub trait Clock: Send + Sync {
    /// The time.
    fn now(&self) -> Now;
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
    pub per_second: u32,
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

/// Holds sessions, and speaks in decisions: each method is one atomic step.
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
    async fn renew(&self, id: &SessionId, renewal: Renewal, now: Now)
    -> Result<Session, Rejection>;

    /// Ends a session for its client; returns the outcome booked.
    async fn release(
        &self,
        id: &SessionId,
        outcome: Outcome,
        failure: Option<Failure>,
        now: Now,
    ) -> Result<Outcome, Rejection>;

    /// Marks a session as failed; true when it was a breaker sample.
    async fn report(
        &self,
        id: &SessionId,
        failure: Failure,
        end: bool,
        now: Now,
    ) -> Result<(Session, bool), Rejection>;

    /// Ends a session by hand.
    async fn revoke(
        &self,
        id: &SessionId,
        cause: EndCause,
        actor: Option<&Actor>,
        now: Now,
    ) -> Result<Session, Rejection>;

    /// Logs an agent's event.
    async fn publish(&self, event: Publish, now: Now) -> Result<(), Rejection>;

    /// The worker went away. Returns what waits for it.
    async fn detach(&self, worker: &WorkerId, now: Now) -> Waiting;

    /// The worker is back: its waiting sessions go on.
    async fn attach(&self, worker: &WorkerId, now: Now);

    /// Lets time pass. Returns when it wants to be asked again, at the latest.
    async fn expire(&self, idle_after: Duration, now: Now) -> Option<Timestamp>;

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
    async fn session(&self, id: &SessionId) -> Result<Session, Rejection>;

    /// Tenants that have state.
    async fn tenants(&self) -> Vec<TenantId>;

    /// One tenant with its sessions; none when it has no state.
    async fn snapshot(&self, tenant: &TenantId, now: Now) -> Option<TenantSnapshot>;

    /// Figures of the whole.
    async fn totals(&self) -> StoreTotals;
}

/// Where config comes from.
#[async_trait]
pub trait ConfigSource: Send + Sync {
    /// Reads and validates the whole config anew.
    ///
    /// # Errors
    /// What is wrong, without any secret.
    async fn load(&self) -> Result<Config, String>;

    /// Puts a tenant's credentials in the place of their references.
    ///
    /// # Errors
    /// What could not be resolved, without any secret.
    async fn resolve(
        &self,
        config: Arc<TenantConfig>,
        max_bytes: usize,
    ) -> Result<ResolvedConfig, String>;
}
