//! What the cases share.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tenantd::{
    app::ports::{EventSink, SessionStore, SharedCaps},
    domain::{
        access::Owner,
        admission::{Acquire, Grant},
        event::{Event, Kind},
        limits::{BreakerPolicy, TenantLimits, Terms},
        reject::Rejection,
        session::{AgentName, SessionId, WorkerId},
        tenant::TenantId,
        time::{Now, Timestamp},
    },
};

/// Makes an empty store of the kind under test.
pub type Make = fn(Arc<dyn EventSink>) -> Arc<dyn SessionStore>;

/// Keeps what is told.
#[derive(Default)]
pub struct Log(Mutex<Vec<Event>>);

impl EventSink for Log {
    fn append(&self, events: Vec<Event>) {
        self.0.lock().unwrap().extend(events);
    }

    fn head(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }
}

impl Log {
    pub fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    pub fn count(&self, wanted: impl Fn(&Kind) -> bool) -> usize {
        self.0.lock().unwrap().iter().filter(|event| wanted(&event.kind)).count()
    }
}

/// A store, its log and a clock that only the test moves.
pub struct Bench {
    pub store: Arc<dyn SessionStore>,
    pub log: Arc<Log>,
    pub now: Now,
}

impl Bench {
    pub fn new(make: Make) -> Self {
        let log = Arc::new(Log::default());
        let second = Duration::from_secs(1);
        let now = Now { mono: Timestamp::new(second), wall: second };
        Self { store: make(log.clone()), log, now }
    }

    pub async fn wait(&mut self, by: Duration) {
        self.now = Now { mono: self.now.mono.plus(by), wall: self.now.wall + by };
        self.store.expire(Duration::from_secs(60), self.now).await;
    }

    pub async fn acquire(&self, ask: &Ask) -> Result<Grant, Rejection> {
        let request = Acquire {
            session: session(&ask.session),
            owner: ask.owner.clone(),
            agent: AgentName::parse_optional(ask.agent).unwrap(),
            worker: WorkerId::parse_optional(ask.worker).unwrap(),
            ttl: None,
            activate: ask.activate,
            draining: false,
            config_failed: None,
            config_version: String::new(),
            per_second: None,
        };
        self.store.acquire(&tenant(ask.tenant), &ask.terms, request, ask.caps, self.now).await
    }
}

/// An acquire, with what most cases want.
#[derive(Clone)]
pub struct Ask {
    pub tenant: &'static str,
    pub session: String,
    pub owner: Owner,
    pub agent: &'static str,
    pub worker: &'static str,
    pub activate: bool,
    pub terms: Terms,
    pub caps: SharedCaps,
}

impl Ask {
    pub fn new(tenant: &'static str, session: impl Into<String>) -> Self {
        Self {
            tenant,
            session: session.into(),
            owner: Owner::default(),
            agent: "",
            worker: "",
            activate: true,
            terms: terms(None),
            caps: SharedCaps { agent: None, machine: 1000, unknown_tenants: 10 },
        }
    }

    pub fn cap(mut self, cap: u32) -> Self {
        self.terms = terms(Some(cap));
        self
    }

    pub fn worker(mut self, worker: &'static str) -> Self {
        self.worker = worker;
        self
    }
}

pub fn terms(cap: Option<u32>) -> Terms {
    let breaker = BreakerPolicy { min_samples: 2, probes: 1, ..BreakerPolicy::default() };
    let limits = Arc::new(TenantLimits { cap, breaker, ..TenantLimits::default() });
    let generation = tenantd::config::next_generation();
    Terms { known: true, limits, version: format!("{cap:?}"), generation, credentials: Some(0) }
}

pub fn session(id: &str) -> SessionId {
    SessionId::parse(id).unwrap()
}

pub fn worker(id: &str) -> WorkerId {
    WorkerId::parse(id).unwrap()
}

pub fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).unwrap()
}
