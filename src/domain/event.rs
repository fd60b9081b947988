//! What happened, and to whom. One event for each change of state.

use std::time::Duration;

use super::{
    breaker,
    reject::Rejection,
    session::{AgentName, EndCause, Failure, Outcome, Session, SessionId, State, WorkerId},
    tenant::TenantId,
    time::Now,
};

/// Who changed something by hand.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Actor {
    /// Identity from the connection.
    pub name: String,
    /// The operator's words.
    pub note: String,
}

/// How grave an agent says its event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Severity {
    Debug,
    Info,
    Warning,
    Error,
}

/// Whom an event is about. Made from a tenant or a session, so that tagging
/// cannot be forgotten; the empty one is for the sidecar itself, for workers
/// that serve several tenants and for refusals of a malformed tenant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subject {
    /// The tenant.
    pub tenant: Option<TenantId>,
    /// The session.
    pub session: Option<SessionId>,
    /// The agent.
    pub agent: Option<AgentName>,
    /// The worker.
    pub worker: Option<WorkerId>,
}

impl Subject {
    /// A tenant as a whole.
    #[must_use]
    pub fn tenant(tenant: &TenantId) -> Self {
        Self { tenant: Some(tenant.clone()), ..Self::default() }
    }

    /// A session.
    #[must_use]
    pub fn session(session: &Session) -> Self {
        Self {
            tenant: Some(session.tenant.clone()),
            session: Some(session.id.clone()),
            agent: session.agent.clone(),
            worker: session.worker.clone(),
        }
    }

    /// A worker.
    #[must_use]
    pub fn worker(worker: &WorkerId) -> Self {
        Self { worker: Some(worker.clone()), ..Self::default() }
    }
}

/// The span that something happened in, as W3C Trace Context names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceRef {
    /// The trace.
    pub trace: u128,
    /// The span.
    pub span: u64,
}

/// One entry of the log, before it gets its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When.
    pub at: Now,
    /// Whom.
    pub subject: Subject,
    /// By whose hand, where it was one.
    pub actor: Option<Actor>,
    /// In which span, where its caller is traced.
    pub trace: Option<TraceRef>,
    /// What.
    pub kind: Kind,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "event.proto documents each field")]
pub enum Kind {
    SessionAcquired {
        state: State,
        probe: bool,
        live: u32,
        cap: Option<u32>,
        config_version: String,
    },
    SessionActivated,
    FailureReported(Failure),
    SessionEnded {
        outcome: Outcome,
        cause: EndCause,
        held: Duration,
        failure: Option<Failure>,
        counted: bool,
    },
    SessionRejected(Box<Rejection>),
    BreakerOpened {
        failures: u32,
        samples: u32,
        cooldown: Duration,
    },
    BreakerHalfOpened,
    BreakerClosed,
    ConfigChanged {
        version: String,
    },
    ConfigFailed {
        message: String,
        stale: bool,
    },
    ConfigRecovered,
    CapChanged {
        before: Option<u32>,
        after: Option<u32>,
    },
    Suspended,
    Resumed,
    AgentEvent {
        name: String,
        severity: Severity,
        attributes: serde_json::Map<String, serde_json::Value>,
    },
    WorkerAttached,
    WorkerLost {
        sessions: u32,
        grace: Duration,
    },
    WorkerSlow {
        blocked: Duration,
    },
    Draining {
        deadline: Duration,
        live: u32,
    },
    Reloaded {
        error: Option<String>,
        tenants_changed: u32,
    },
    CallDenied {
        rpc: &'static str,
        message: String,
    },
}

impl Kind {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SessionAcquired { .. } => "session_acquired",
            Self::SessionActivated => "session_activated",
            Self::FailureReported(_) => "session_failure_reported",
            Self::SessionEnded { .. } => "session_ended",
            Self::SessionRejected(_) => "session_rejected",
            Self::BreakerOpened { .. } => "breaker_opened",
            Self::BreakerHalfOpened => "breaker_half_opened",
            Self::BreakerClosed => "breaker_closed",
            Self::ConfigChanged { .. } => "tenant_config_changed",
            Self::ConfigFailed { .. } => "tenant_config_failed",
            Self::ConfigRecovered => "tenant_config_recovered",
            Self::CapChanged { .. } => "tenant_cap_changed",
            Self::Suspended => "tenant_suspended",
            Self::Resumed => "tenant_resumed",
            Self::AgentEvent { .. } => "agent_event",
            Self::WorkerAttached => "worker_attached",
            Self::WorkerLost { .. } => "worker_lost",
            Self::WorkerSlow { .. } => "worker_slow",
            Self::Draining { .. } => "sidecar_draining",
            Self::Reloaded { .. } => "sidecar_reloaded",
            Self::CallDenied { .. } => "call_denied",
        }
    }
}

impl From<breaker::Change> for Kind {
    fn from(change: breaker::Change) -> Self {
        match change {
            breaker::Change::Opened { failures, samples, cooldown } => {
                Self::BreakerOpened { failures, samples, cooldown }
            }
            breaker::Change::HalfOpened => Self::BreakerHalfOpened,
            breaker::Change::Closed => Self::BreakerClosed,
        }
    }
}

impl Event {
    /// An event that nobody's hand caused.
    #[must_use]
    pub const fn new(at: Now, subject: Subject, kind: Kind) -> Self {
        Self { at, subject, actor: None, trace: None, kind }
    }

    /// Names the hand.
    #[must_use]
    pub fn by(mut self, actor: Option<&Actor>) -> Self {
        self.actor = actor.cloned();
        self
    }

    /// Bytes that it holds, about: what the log's bound counts.
    #[must_use]
    pub fn weight(&self) -> usize {
        let variable = match &self.kind {
            Kind::AgentEvent { name, attributes, .. } => {
                name.len() + attributes.iter().map(|(k, v)| k.len() + json_weight(v)).sum::<usize>()
            }
            Kind::FailureReported(failure) | Kind::SessionEnded { failure: Some(failure), .. } => {
                failure.slot.len() + failure.kind.len() + failure.message.len()
            }
            Kind::SessionRejected(rejection) => {
                std::mem::size_of::<Rejection>() + rejection.message.len()
            }
            Kind::ConfigFailed { message, .. } | Kind::CallDenied { message, .. } => message.len(),
            Kind::Reloaded { error, .. } => error.as_ref().map_or(0, String::len),
            Kind::SessionAcquired { config_version, .. } => config_version.len(),
            _ => 0,
        };
        let actor = self.actor.as_ref().map_or(0, |a| a.name.len() + a.note.len());
        std::mem::size_of::<Self>() + variable + actor
    }
}

fn json_weight(value: &serde_json::Value) -> usize {
    use serde_json::Value;
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => 32 + text.len(),
        Value::Array(items) => 32 + items.iter().map(json_weight).sum::<usize>(),
        Value::Object(map) => {
            32 + map.iter().map(|(k, v)| 64 + k.len() + json_weight(v)).sum::<usize>()
        }
    }
}
