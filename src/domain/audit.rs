//! What somebody did to the sidecar, or what changed in it, as the audit log keeps
//! it. Holds no secret: credentials are shown by reference, never by value.

use std::time::Duration;

use serde_json::Value;

use super::{
    event::TraceRef,
    reject::{Reason, Rejection},
    session::SessionId,
    tenant::TenantId,
};

/// The sidecar itself, where nobody's hand caused it.
pub const SIDECAR: &str = "sidecar";

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Is about to be done: written before anything changes, so that no change can
    /// go unrecorded.
    Begun,
    /// Was done.
    Done,
    /// Was not.
    Refused {
        /// Why.
        reason: Reason,
        /// In words.
        message: String,
    },
}

impl Outcome {
    /// The stable name.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Done => "ok",
            Self::Refused {
                reason: Reason::ReloadFailed | Reason::Undecided | Reason::ConfigUnavailable,
                ..
            } => "failed",
            Self::Refused { .. } => "refused",
        }
    }
}

/// One entry, before it gets its place.
#[derive(Debug, Clone)]
pub struct Record {
    /// When, since the epoch.
    pub at: Duration,
    /// Who: identity from the connection, or what caused it.
    pub actor: String,
    /// What, by a stable name: `tenant.suspend`.
    pub action: &'static str,
    /// To which tenant.
    pub tenant: Option<TenantId>,
    /// To which session.
    pub session: Option<SessionId>,
    /// The operator's words.
    pub note: String,
    /// What was asked for.
    pub asked: Value,
    /// What was there.
    pub before: Value,
    /// What is there now.
    pub after: Value,
    /// How it went.
    pub outcome: Outcome,
    /// Sequence of the entry that said it was begun.
    pub begun: Option<u64>,
    /// The caller's span.
    pub trace: Option<TraceRef>,
}

impl Record {
    /// Something that was done.
    #[must_use]
    pub fn new(at: Duration, actor: &str, action: &'static str) -> Self {
        Self {
            at,
            actor: actor.to_owned(),
            action,
            tenant: None,
            session: None,
            note: String::new(),
            asked: Value::Null,
            before: Value::Null,
            after: Value::Null,
            outcome: Outcome::Done,
            begun: None,
            trace: None,
        }
    }

    /// Names the tenant.
    #[must_use]
    pub fn of_tenant(mut self, tenant: &TenantId) -> Self {
        self.tenant = Some(tenant.clone());
        self
    }

    /// Names the session.
    #[must_use]
    pub fn of_session(mut self, session: &SessionId) -> Self {
        self.session = Some(session.clone());
        self
    }

    /// The operator's words.
    #[must_use]
    pub fn saying(mut self, note: &str) -> Self {
        note.clone_into(&mut self.note);
        self
    }

    /// What was asked for.
    #[must_use]
    pub fn asking(mut self, asked: Value) -> Self {
        self.asked = asked;
        self
    }

    /// What was there, and what is there now.
    #[must_use]
    pub fn change(mut self, before: Value, after: Value) -> Self {
        (self.before, self.after) = (before, after);
        self
    }

    /// The same, about to be done.
    #[must_use]
    pub fn begins(&self) -> Self {
        Self { outcome: Outcome::Begun, ..self.clone() }
    }

    /// The same, not done.
    #[must_use]
    pub fn refused(mut self, refused: &Rejection) -> Self {
        self.outcome =
            Outcome::Refused { reason: refused.reason, message: refused.message.clone() };
        self.tenant = self.tenant.or_else(|| refused.tenant.clone());
        self
    }
}

/// The actions. docs/audit.md has a line for each.
#[allow(missing_docs, reason = "docs/audit.md has a line for each")]
pub mod action {
    pub const TENANT_CAP: &str = "tenant.cap";
    pub const TENANT_SUSPEND: &str = "tenant.suspend";
    pub const TENANT_RESUME: &str = "tenant.resume";
    pub const BREAKER_OPEN: &str = "breaker.open";
    pub const BREAKER_RESET: &str = "breaker.reset";
    pub const SESSION_REVOKE: &str = "session.revoke";
    pub const DRAIN: &str = "sidecar.drain";
    pub const RELOAD: &str = "config.reload";
    pub const LOG_FILTER: &str = "log.filter";
    pub const TENANT_CONFIG: &str = "tenant.config";
    pub const TENANT_CREDENTIALS: &str = "tenant.credentials";
    pub const DENIED: &str = "access.denied";
    pub const START: &str = "sidecar.start";
    pub const END: &str = "sidecar.end";
    pub const RECOVERED: &str = "audit.recovered";
    pub const ROTATED: &str = "audit.rotated";
    pub const LEFT_OUT: &str = "audit.left_out";

    /// All of them.
    pub const ALL: [&str; 17] = [
        TENANT_CAP,
        TENANT_SUSPEND,
        TENANT_RESUME,
        BREAKER_OPEN,
        BREAKER_RESET,
        SESSION_REVOKE,
        DRAIN,
        RELOAD,
        LOG_FILTER,
        TENANT_CONFIG,
        TENANT_CREDENTIALS,
        DENIED,
        START,
        END,
        RECOVERED,
        ROTATED,
        LEFT_OUT,
    ];
}
