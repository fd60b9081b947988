//! The use cases: the only place that fixes the order of their steps.

pub mod admin;
pub mod audit;
mod bells;
pub mod events;
pub mod figures;
mod guard;
mod notices;
pub mod ports;
mod presence;
pub mod read;
mod sessions;
pub mod shed;
mod tenant_config;
pub mod trace;
mod waiting;
mod watchers;
pub mod workers;

/// Of the smallest critical pieces, by a name of our own: `tests/interleave` puts
/// shuttle's in their place.
pub use std::sync::atomic;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use dashmap::{DashMap, DashSet};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use self::{
    events::EventHub,
    ports::{
        AcquireMeter, AuditSink, Clock, ConfigSource, Credentials, Journal, LogFilter, Process,
        SessionStore, TenantConfigs,
    },
    workers::{Link, Workers},
};
pub use self::{
    guard::Caller,
    sessions::{AcquireCall, Acquired, LeaseToken},
};
use crate::{
    config::Config,
    domain::{reject::Reason, tenant::TenantId, time::Now, validity::Validity},
};

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
    tenant_configs: Arc<dyn TenantConfigs>,
    credentials: Arc<dyn Credentials>,
    meter: Arc<dyn AcquireMeter>,
    log: Arc<dyn LogFilter>,
    audit: Arc<dyn AuditSink>,
    clock: Arc<dyn Clock>,
    process: Arc<dyn Process>,
    journal: Arc<dyn Journal>,
    /// The event log.
    pub events: Arc<EventHub>,
    waiting: Arc<waiting::Waiting>,
    /// The agent processes.
    pub workers: Workers,
    /// Read by the tenants' configs too, which are made out of it.
    config: Arc<ArcSwap<Config>>,
    /// What listeners, sources and tables were made of: they stay until a restart.
    started_with: Arc<Config>,
    loaded: Mutex<Now>,
    reload_failure: Mutex<Option<ReloadFailure>>,
    reloading: tokio::sync::Mutex<()>,
    /// Of the listener's certificates.
    validities: Mutex<Vec<Validity>>,
    drain: watch::Sender<Option<Drain>>,
    /// Streams close when it turns true.
    ended: watch::Sender<bool>,
    watchers: Arc<watchers::Watchers>,
    gaps: AtomicU64,
    rejections: DashMap<Reason, u64>,
    /// Tenants whose config failed last time, and whether what was known before
    /// is served.
    config_failing: DashMap<TenantId, bool>,
    /// Tenants told of running on the defaults.
    warned: DashSet<TenantId>,
    /// Refusals recorded in this minute.
    refusals: Mutex<audit::Refusals>,
    /// What operators asked for and is being done.
    actions: TaskTracker,
    links: AtomicU64,
    guard: guard::Guard,
    sheds: shed::Sheds,
    started: Now,
}

/// What a sidecar is made of.
#[allow(missing_docs, reason = "the ports say what each is for")]
pub struct Parts {
    pub config: Arc<ArcSwap<Config>>,
    pub store: Arc<dyn SessionStore>,
    pub source: Arc<dyn ConfigSource>,
    pub tenant_configs: Arc<dyn TenantConfigs>,
    pub credentials: Arc<dyn Credentials>,
    pub meter: Arc<dyn AcquireMeter>,
    pub log: Arc<dyn LogFilter>,
    pub audit: Arc<dyn AuditSink>,
    pub clock: Arc<dyn Clock>,
    pub process: Arc<dyn Process>,
    pub journal: Arc<dyn Journal>,
    pub events: Arc<EventHub>,
}

impl Sidecar {
    /// A sidecar out of its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts {
            config,
            store,
            source,
            tenant_configs,
            credentials,
            meter,
            log,
            audit,
            clock,
            process,
            journal,
            events,
        } = parts;
        let started = clock.now();
        Self {
            store,
            source,
            tenant_configs,
            credentials,
            meter,
            log,
            audit,
            clock,
            process,
            journal,
            events,
            waiting: Arc::default(),
            workers: Workers::default(),
            started_with: config.load_full(),
            config,
            loaded: Mutex::new(started),
            reload_failure: Mutex::new(None),
            reloading: tokio::sync::Mutex::new(()),
            validities: Mutex::default(),
            drain: watch::Sender::new(None),
            ended: watch::Sender::new(false),
            watchers: Arc::default(),
            gaps: AtomicU64::new(0),
            rejections: DashMap::new(),
            config_failing: DashMap::new(),
            warned: DashSet::new(),
            refusals: Mutex::default(),
            actions: TaskTracker::new(),
            links: AtomicU64::new(1),
            guard: guard::Guard::default(),
            sheds: shed::Sheds::default(),
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

    /// Lets time pass.
    pub async fn tick(&self) {
        let idle_after = self.config().limits.tenant_idle_after;
        self.store.expire(idle_after, self.now()).await;
    }
}
