//! The use cases: the only place that fixes the order of their steps.

pub mod admin;
pub mod events;
pub mod ports;
pub mod read;
pub mod workers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::{DashMap, DashSet};
use parking_lot::Mutex;
use tokio::sync::watch;

use self::{
    events::EventHub,
    ports::{Clock, ConfigSource, EventSink as _, Publish, SessionStore, SharedCaps},
    workers::{Link, Workers},
};
use crate::{
    config::Config,
    domain::{
        admission::{Acquire, Grant},
        event::{Event, Kind, Subject},
        limits::TenantLimits,
        provider::{ResolvedConfig, TenantConfig},
        reject::{Reason, Rejection},
        session::{AgentName, Failure, Outcome, Session, SessionId, WorkerId},
        tenant::{self, TenantId},
        time::Now,
    },
};

/// Who calls, and over which connection.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The connection.
    pub connection: Link,
    /// Identity, for events.
    pub actor: String,
    /// May call at all.
    pub permitted: bool,
}

/// An acquire as it came over the wire.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "session_service.proto documents each field")]
pub struct AcquireCall {
    pub session_id: String,
    pub job_metadata: String,
    pub room_metadata: String,
    pub tenant: String,
    pub agent_name: String,
    pub worker: String,
    pub ttl: Option<Duration>,
    pub activate: bool,
}

/// How the last reload failed.
#[derive(Debug, Clone)]
pub struct ReloadFailure {
    /// What is wrong.
    pub error: String,
    /// When it was tried.
    pub at: Now,
}

/// A drain under way.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// When it began.
    pub since: Now,
    /// How long live sessions may still run, from then.
    pub deadline: Duration,
}

/// One running sidecar.
pub struct Sidecar {
    store: Arc<dyn SessionStore>,
    source: Arc<dyn ConfigSource>,
    clock: Arc<dyn Clock>,
    /// The event log.
    pub events: Arc<EventHub>,
    /// The agent processes.
    pub workers: Workers,
    config: ArcSwap<Config>,
    loaded: Mutex<Now>,
    reload_failure: Mutex<Option<ReloadFailure>>,
    reloading: tokio::sync::Mutex<()>,
    drain: watch::Sender<Option<Drain>>,
    /// Streams close when it turns true.
    ended: watch::Sender<bool>,
    watchers: AtomicU32,
    rejections: DashMap<Reason, u64>,
    /// Configured tenants whose credentials did not resolve last time: the
    /// change is the event, not each try.
    config_failing: DashSet<TenantId>,
    /// Tenants told of running on the defaults.
    warned: DashSet<TenantId>,
    links: AtomicU64,
    started: Now,
}

impl Sidecar {
    /// A sidecar that runs on `config`.
    #[must_use]
    pub fn new(
        config: Config,
        store: Arc<dyn SessionStore>,
        source: Arc<dyn ConfigSource>,
        clock: Arc<dyn Clock>,
        events: Arc<EventHub>,
    ) -> Self {
        let started = clock.now();
        Self {
            store,
            source,
            clock,
            events,
            workers: Workers::default(),
            config: ArcSwap::from_pointee(config),
            loaded: Mutex::new(started),
            reload_failure: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
            drain: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            watchers: AtomicU32::new(0),
            rejections: DashMap::new(),
            config_failing: DashSet::new(),
            warned: DashSet::new(),
            links: AtomicU64::new(1),
            started,
        }
    }

    /// The running config.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// A name for a new connection or stream.
    #[must_use]
    pub fn new_link(&self) -> Link {
        self.links.fetch_add(1, Ordering::Relaxed)
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clock.now()
    }

    /// Takes a slot: malformed, not permitted, then the tenant's own order.
    ///
    /// # Errors
    /// Why not; each refusal is an event and a count.
    pub async fn acquire(
        &self,
        caller: &Caller,
        call: AcquireCall,
    ) -> Result<(Grant, ResolvedConfig), Rejection> {
        let now = self.now();
        let granted = self.try_acquire(caller, &call, now).await;
        if let Err((refused, told)) = &granted {
            *self.rejections.entry(refused.reason).or_default() += 1;
            if !told {
                let subject = Subject { tenant: refused.tenant.clone(), ..Subject::default() };
                let kind = Kind::SessionRejected(Box::new(refused.clone()));
                self.events.append(vec![Event::new(now, subject, kind)]);
            }
        }
        granted.map_err(|(refused, _)| refused)
    }

    /// The flag beside a refusal: its event is told already, by the store.
    async fn try_acquire(
        &self,
        caller: &Caller,
        call: &AcquireCall,
        now: Now,
    ) -> Result<(Grant, ResolvedConfig), (Rejection, bool)> {
        let config = self.config();
        let untold = |refused| (refused, false);
        let request = self.parse(call, &config).map_err(untold)?;
        let tenant =
            tenant::bind(&call.job_metadata, &call.room_metadata, &call.tenant).map_err(untold)?;
        permit(caller).map_err(|refused| untold(refused.of(&tenant)))?;
        if let Some(worker) = &request.worker {
            self.greet(worker, caller, now).await.map_err(|refused| untold(refused.of(&tenant)))?;
        }
        let found = config.tenant(&tenant);
        let known = found.as_ref().is_some_and(|found| found.known);
        let limits = found.as_ref().map_or_else(TenantLimits::default, |found| found.limits);
        let resolved = match found {
            Some(found) => self.resolve(&tenant, found, now).await,
            None => Err(Rejection::new(
                Reason::TenantUnknown,
                format!("tenant {tenant} has no config entry and unknown tenants are rejected"),
            )),
        };
        let caps = SharedCaps {
            agent: request.agent.as_ref().and_then(|agent| config.agents.get(agent).copied()),
            machine: config.limits.max_sessions,
            unknown_tenants: config.limits.max_tenants,
        };
        let request = Acquire {
            draining: self.draining().is_some(),
            config_failed: resolved.as_ref().err().cloned(),
            config_version: resolved.as_ref().map(|r| r.config.version.clone()).unwrap_or_default(),
            ..request
        };
        let worker = request.worker.clone();
        // Read again: resolving may have taken seconds.
        let now = self.now();
        let grant = self.store.acquire(&tenant, known, limits, request, caps, now).await.map_err(
            |refused| {
                // Refused before the tenant's own step, which tells its own.
                let told = !matches!(
                    refused.reason,
                    Reason::SessionConflict | Reason::SessionEnded | Reason::LimitReached
                );
                (refused.of(&tenant), told)
            },
        )?;
        if let Some(worker) = worker.filter(|worker| !self.workers.is_there(worker)) {
            // Its connection broke while the slot was being taken.
            self.store.detach(&worker, now).await;
        }
        match resolved {
            Ok(resolved) => Ok((grant, resolved)),
            // A live session asked again while its config is broken: the lease
            // stands, the config cannot be given.
            Err(refused) => Err((refused.of(&tenant), false)),
        }
    }

    fn parse(&self, call: &AcquireCall, config: &Config) -> Result<Acquire, Rejection> {
        let max = config.limits.metadata_bytes;
        for (field, text) in
            [("job_metadata", &call.job_metadata), ("room_metadata", &call.room_metadata)]
        {
            if text.len() > max {
                let got = text.len();
                return Err(Rejection::field(
                    field,
                    format_args!("must be at most {max} bytes, got {got}"),
                ));
            }
        }
        let session = if call.session_id.is_empty() {
            SessionId::parse(&uuid::Uuid::now_v7().to_string())?
        } else {
            SessionId::parse(&call.session_id)?
        };
        Ok(Acquire {
            session,
            agent: AgentName::parse_optional(&call.agent_name)?,
            worker: WorkerId::parse_optional(&call.worker)?,
            ttl: call.ttl,
            activate: call.activate,
            draining: false,
            config_failed: None,
            config_version: String::new(),
        })
    }

    async fn resolve(
        &self,
        tenant: &TenantId,
        config: Arc<TenantConfig>,
        now: Now,
    ) -> Result<ResolvedConfig, Rejection> {
        let known = config.known;
        if !known && self.warned.len() < 10_000 && self.warned.insert(tenant.clone()) {
            tracing::warn!(%tenant, "tenant has no config entry and runs on the defaults");
        }
        let max_bytes = self.config().limits.credential_bytes;
        match self.source.resolve(config, max_bytes).await {
            Ok(resolved) => {
                if known {
                    self.config_failing.remove(tenant);
                }
                Ok(resolved)
            }
            Err(message) => {
                if known && self.config_failing.insert(tenant.clone()) {
                    let kind = Kind::ConfigFailed { message: message.clone() };
                    self.events.append(vec![Event::new(now, Subject::tenant(tenant), kind)]);
                }
                Err(Rejection::new(
                    Reason::ConfigUnavailable,
                    format!("the config of tenant {tenant} could not be resolved: {message}"),
                ))
            }
        }
    }

    /// A call by a named worker: it is there, and what waited for it goes on.
    async fn greet(&self, worker: &WorkerId, caller: &Caller, now: Now) -> Result<(), Rejection> {
        let max = self.config().limits.max_workers;
        if self.workers.call(worker, caller.connection, max)? {
            self.welcome(worker, now).await;
        }
        Ok(())
    }

    async fn welcome(&self, worker: &WorkerId, now: Now) {
        self.store.attach(worker, now).await;
        self.events.append(vec![Event::new(now, Subject::worker(worker), Kind::WorkerAttached)]);
    }

    async fn mourn(&self, worker: &WorkerId) {
        let now = self.now();
        let sessions = self.store.detach(worker, now).await;
        let grace = self.config().defaults.limits.lease.grace;
        let kind = Kind::WorkerLost { sessions, grace };
        self.events.append(vec![Event::new(now, Subject::worker(worker), kind)]);
    }

    /// A KeepAlive stream opened.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `LIMIT_REACHED`.
    pub async fn stream_opened(
        &self,
        caller: &Caller,
        worker: &WorkerId,
        stream: Link,
        notices: tokio::sync::mpsc::Sender<workers::Notice>,
    ) -> Result<(), Rejection> {
        permit(caller)?;
        let max = self.config().limits.max_workers;
        if self.workers.open_stream(worker, stream, notices, max)? {
            self.welcome(worker, self.now()).await;
        }
        Ok(())
    }

    /// A KeepAlive stream ended.
    pub async fn stream_closed(&self, worker: &WorkerId, stream: Link) {
        if self.workers.close_stream(worker, stream) {
            self.mourn(worker).await;
        }
    }

    /// A connection ended.
    pub async fn connection_closed(&self, connection: Link) {
        for worker in self.workers.close_connection(connection) {
            self.mourn(&worker).await;
        }
    }

    /// A sign of life.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `INVALID_FIELD`.
    pub async fn renew(
        &self,
        caller: &Caller,
        id: &SessionId,
        worker: Option<&WorkerId>,
        ttl: Option<Duration>,
    ) -> Result<Session, Rejection> {
        permit(caller)?;
        let now = self.now();
        if let Some(worker) = worker {
            self.greet(worker, caller, now).await?;
        }
        self.store.renew(id, worker, ttl, now).await
    }

    /// Keeps a session of an open stream alive.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn keep(&self, id: &SessionId, worker: &WorkerId) -> Result<Session, Rejection> {
        self.store.renew(id, Some(worker), None, self.now()).await
    }

    /// Ends a session for its client.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn release(
        &self,
        caller: &Caller,
        id: &SessionId,
        outcome: Outcome,
        failure: Option<Failure>,
    ) -> Result<Outcome, Rejection> {
        permit(caller)?;
        self.store.release(id, outcome, failure, self.now()).await
    }

    /// Marks a session as failed.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn report(
        &self,
        caller: &Caller,
        id: &SessionId,
        failure: Failure,
        end: bool,
    ) -> Result<(Session, bool), Rejection> {
        permit(caller)?;
        self.store.report(id, failure, end, self.now()).await
    }

    /// The current config of a live session.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `TENANT_UNKNOWN`, `CONFIG_UNAVAILABLE`.
    pub async fn session_config(
        &self,
        caller: &Caller,
        id: &SessionId,
    ) -> Result<ResolvedConfig, Rejection> {
        permit(caller)?;
        let session = self.store.session(id).await?;
        let found = self.config().tenant(&session.tenant).ok_or_else(|| {
            Rejection::new(Reason::TenantUnknown, "the tenant's config entry was removed")
                .of(&session.tenant)
        })?;
        self.resolve(&session.tenant, found, self.now())
            .await
            .map_err(|refused| refused.of(&session.tenant))
    }

    /// Logs an agent's event, bound to its session's tenant.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `LIMIT_REACHED`.
    pub async fn publish(&self, caller: &Caller, mut event: Publish) -> Result<(), Rejection> {
        permit(caller)?;
        event.per_second = self.config().limits.agent_events_per_second;
        self.store.publish(event, self.now()).await
    }

    /// A worker's event loop was blocked, by `session` where that is known.
    pub async fn slow(&self, worker: &WorkerId, session: Option<&SessionId>, blocked: Duration) {
        let mut subject = Subject::worker(worker);
        if let Some(id) = session
            && let Ok(session) = self.store.session(id).await
        {
            subject = Subject { worker: Some(worker.clone()), ..Subject::session(&session) };
        }
        self.events.append(vec![Event::new(self.now(), subject, Kind::WorkerSlow { blocked })]);
    }

    /// Lets time pass.
    pub async fn tick(&self) {
        let idle_after = self.config().limits.tenant_idle_after;
        self.store.expire(idle_after, self.now()).await;
    }
}

/// One rule for all calls, so that none forgets it.
fn permit(caller: &Caller) -> Result<(), Rejection> {
    if caller.permitted {
        Ok(())
    } else {
        Err(Rejection::new(
            Reason::NotPermitted,
            "only the sidecar's own user and root may call over this socket",
        ))
    }
}
