//! Refusals, as data. Knows no transport: `grpc::status` maps them.

use std::time::Duration;

use super::{session::Outcome, tenant::TenantId};

/// Why something was refused. The names are part of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "docs/reasons.md has a section for each")]
pub enum Reason {
    TenantMalformed,
    TenantConflict,
    InvalidField,
    NotPermitted,
    Draining,
    TenantSuspended,
    CircuitOpen,
    TenantAtCap,
    AgentAtCap,
    MachineAtCap,
    ConfigUnavailable,
    TenantUnknown,
    SessionConflict,
    SessionEnded,
    SessionUnknown,
    LimitReached,
    ReloadFailed,
    Undecided,
    AuditUnavailable,
    RateLimited,
    Overloaded,
}

impl Reason {
    /// All of them, in the order of the wire's enum.
    pub const ALL: [Self; 21] = [
        Self::TenantMalformed,
        Self::TenantConflict,
        Self::InvalidField,
        Self::NotPermitted,
        Self::Draining,
        Self::TenantSuspended,
        Self::CircuitOpen,
        Self::TenantAtCap,
        Self::AgentAtCap,
        Self::MachineAtCap,
        Self::ConfigUnavailable,
        Self::TenantUnknown,
        Self::SessionConflict,
        Self::SessionEnded,
        Self::SessionUnknown,
        Self::LimitReached,
        Self::ReloadFailed,
        Self::Undecided,
        Self::AuditUnavailable,
        Self::RateLimited,
        Self::Overloaded,
    ];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TenantMalformed => "TENANT_MALFORMED",
            Self::TenantConflict => "TENANT_CONFLICT",
            Self::InvalidField => "INVALID_FIELD",
            Self::NotPermitted => "NOT_PERMITTED",
            Self::Draining => "DRAINING",
            Self::TenantSuspended => "TENANT_SUSPENDED",
            Self::CircuitOpen => "CIRCUIT_OPEN",
            Self::TenantAtCap => "TENANT_AT_CAP",
            Self::AgentAtCap => "AGENT_AT_CAP",
            Self::MachineAtCap => "MACHINE_AT_CAP",
            Self::ConfigUnavailable => "CONFIG_UNAVAILABLE",
            Self::TenantUnknown => "TENANT_UNKNOWN",
            Self::SessionConflict => "SESSION_CONFLICT",
            Self::SessionEnded => "SESSION_ENDED",
            Self::SessionUnknown => "SESSION_UNKNOWN",
            Self::LimitReached => "LIMIT_REACHED",
            Self::ReloadFailed => "RELOAD_FAILED",
            Self::Undecided => "UNDECIDED",
            Self::AuditUnavailable => "AUDIT_UNAVAILABLE",
            Self::RateLimited => "RATE_LIMITED",
            Self::Overloaded => "OVERLOADED",
        }
    }

    /// What a dispatcher should do with the refused session.
    #[must_use]
    pub const fn disposition(self) -> Disposition {
        match self {
            // Caps and drains are this machine's; another may have room.
            Self::Draining
            | Self::TenantAtCap
            | Self::AgentAtCap
            | Self::MachineAtCap
            | Self::LimitReached
            | Self::Overloaded => Disposition::RetryElsewhere,
            Self::CircuitOpen
            | Self::ConfigUnavailable
            | Self::Undecided
            | Self::AuditUnavailable
            | Self::RateLimited => Disposition::RetryLater,
            Self::TenantMalformed
            | Self::TenantConflict
            | Self::InvalidField
            | Self::NotPermitted
            | Self::TenantSuspended
            | Self::TenantUnknown
            | Self::SessionConflict
            | Self::SessionEnded
            | Self::SessionUnknown
            | Self::ReloadFailed => Disposition::Final,
        }
    }
}

/// What a dispatcher should do with a refused session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Another machine may take it now.
    RetryElsewhere,
    /// A later try may succeed.
    RetryLater,
    /// No retry of the same call can succeed.
    Final,
}

impl Disposition {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RetryElsewhere => "retry_elsewhere",
            Self::RetryLater => "retry_later",
            Self::Final => "final",
        }
    }
}

/// One refusal with everything that a caller may learn of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// Why.
    pub reason: Reason,
    /// For people; lower case, no secret, no raw input.
    pub message: String,
    /// The tenant, once it is known to be well-formed.
    pub tenant: Option<TenantId>,
    /// When to come back, where that is known.
    pub retry_after: Option<Duration>,
    /// The limit met.
    pub limit: Option<u32>,
    /// The figure that met it.
    pub current: Option<u32>,
    /// How an ended session ended.
    pub outcome: Option<Outcome>,
    /// The field that is wrong.
    pub field: Option<String>,
    /// It is there, but not for this caller: told as an event, and never to the
    /// caller.
    pub hidden: Option<Box<TenantId>>,
    /// How many milliseconds the answer waits, so that whoever floods is slowed down
    /// by it.
    pub pause_millis: u16,
}

impl Rejection {
    /// A refusal with nothing but its reason and words.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            tenant: None,
            retry_after: None,
            limit: None,
            current: None,
            outcome: None,
            field: None,
            hidden: None,
            pause_millis: 0,
        }
    }

    /// Names the tenant.
    #[must_use]
    pub fn of(mut self, tenant: &TenantId) -> Self {
        self.tenant = Some(tenant.clone());
        self
    }

    /// A field out of its bounds. `problem` says what would be valid.
    #[must_use]
    pub fn field(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let field = field.into();
        let mut refused = Self::new(Reason::InvalidField, format!("{field}: {problem}"));
        refused.field = Some(field);
        refused
    }

    /// A malformed tenant id; `shown` is the value as it may be shown.
    #[must_use]
    pub fn tenant_malformed(shown: &str) -> Self {
        let mut refused = Self::new(
            Reason::TenantMalformed,
            format!(
                "tenant must be a string of 1-128 characters of [A-Za-z0-9_-] after trimming ASCII white space, got {shown}"
            ),
        );
        refused.field = Some("tenant".to_owned());
        refused
    }

    /// Two different tenants named for one session.
    #[must_use]
    pub fn tenant_conflict(explicit: &TenantId, claimed: &TenantId) -> Self {
        let mut refused = Self::new(
            Reason::TenantConflict,
            format!(
                "the explicit tenant {explicit} differs from {claimed} in the metadata; give one, or the same"
            ),
        );
        refused.field = Some("tenant".to_owned());
        refused
    }

    /// A cap that is full.
    #[must_use]
    pub fn at_cap(reason: Reason, whose: &str, limit: u32, current: u32) -> Self {
        let mut refused = Self::new(
            reason,
            format!("{whose} is at its cap: {current} of {limit} sessions are live"),
        );
        refused.limit = Some(limit);
        refused.current = Some(current);
        refused
    }

    /// A bounded table that is full.
    #[must_use]
    pub fn limit_reached(what: &str, limit: u32) -> Self {
        let mut refused =
            Self::new(Reason::LimitReached, format!("{what}: the limit of {limit} is reached"));
        refused.limit = Some(limit);
        refused.current = Some(limit);
        refused
    }

    /// A session id that is another session's.
    #[must_use]
    pub fn session_conflict() -> Self {
        Self::new(
            Reason::SessionConflict,
            "the session id is in use elsewhere; session ids must be unique",
        )
    }

    /// A session that has ended.
    #[must_use]
    pub fn ended(outcome: Outcome) -> Self {
        let mut refused = Self::new(
            Reason::SessionEnded,
            format!("the session has ended with outcome {}", outcome.name()),
        );
        refused.outcome = Some(outcome);
        refused
    }

    /// A session that is not the caller's, in the words of one that nobody knows.
    #[must_use]
    pub fn session_hidden(tenant: &TenantId) -> Self {
        let mut refused = Self::session_unknown();
        refused.hidden = Some(Box::new(tenant.clone()));
        refused
    }

    /// A session that nobody knows.
    #[must_use]
    pub fn session_unknown() -> Self {
        Self::new(Reason::SessionUnknown, "no session of this id is known")
    }
}
