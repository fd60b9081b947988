//! A session and its lease: the words for who holds a slot, and how it ended.

use std::{fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    access::Owner,
    record::says_nothing,
    reject::Rejection,
    tenant::TenantId,
    time::{Now, Timestamp, nanos},
};

/// Longest session id, agent name and worker id, in characters.
pub const MAX_ID_LEN: usize = 128;

/// An id chosen by a client: printable ASCII without spaces.
macro_rules! client_id {
    ($(#[$doc:meta])* $name:ident, $field:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes 1-128 printable ASCII characters without spaces.
            ///
            /// # Errors
            /// `INVALID_FIELD`, naming the field and the bound, not the value.
            pub fn parse(raw: &str) -> Result<Self, Rejection> {
                if (1..=MAX_ID_LEN).contains(&raw.len()) && raw.bytes().all(|b| b.is_ascii_graphic()) {
                    Ok(Self(Arc::from(raw)))
                } else {
                    Err(Rejection::field($field, format_args!(
                        "must be 1-{MAX_ID_LEN} printable ASCII characters without spaces, got {} characters",
                        raw.chars().count(),
                    )))
                }
            }

            /// As [`Self::parse`]; empty is none.
            ///
            /// # Errors
            /// As [`Self::parse`].
            pub fn parse_optional(raw: &str) -> Result<Option<Self>, Rejection> {
                if raw.is_empty() { Ok(None) } else { Self::parse(raw).map(Some) }
            }

            /// The id.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        /// As strict as `parse`: what is read back is no more to be trusted.
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

client_id!(
    /// Names one session for all processes that handle it.
    SessionId,
    "session_id"
);
client_id!(
    /// Names a class of agents.
    AgentName,
    "agent_name"
);
client_id!(
    /// Names one agent process in one run.
    WorkerId,
    "worker"
);

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Acquired; no sign of life yet from the process that is to run it.
    Pending,
    /// Running.
    Active,
    /// Its worker went away; it ends as lost unless the worker re-attaches.
    Grace,
}

impl State {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Grace => "grace",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Well: a good sample.
    Success,
    /// Badly: a bad sample.
    Failure,
    /// Called off: no sample.
    Cancelled,
    /// Its worker died, or its lease ran out.
    Lost,
    /// An operator or a drain deadline ended it: no sample.
    Revoked,
}

impl Outcome {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Lost => "lost",
            Self::Revoked => "revoked",
        }
    }
}

/// What ended a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndCause {
    /// `ReleaseSession`.
    Released,
    /// `ReportFailure` with `end_session`.
    Reported,
    /// No sign of life within the pending time.
    PendingExpired,
    /// The TTL ran out.
    TtlExpired,
    /// Its worker did not come back within the grace.
    WorkerLost,
    /// `RevokeSession`.
    Revoked,
    /// The drain deadline passed.
    DrainDeadline,
}

impl EndCause {
    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Reported => "reported",
            Self::PendingExpired => "pending_expired",
            Self::TtlExpired => "ttl_expired",
            Self::WorkerLost => "worker_lost",
            Self::Revoked => "revoked",
            Self::DrainDeadline => "drain_deadline",
        }
    }
}

/// A sign of life.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Renewal {
    /// The process that shows it; the session moves there.
    pub worker: Option<WorkerId>,
    /// Another TTL, within the tenant's bounds.
    pub ttl: Option<Duration>,
    /// It comes over an open stream of `worker`: the lease renews itself until
    /// that worker goes away or another process shows a sign of life.
    pub held: bool,
}

impl Renewal {
    /// A sign of life by a process, where it gave its name.
    #[must_use]
    pub fn by(worker: Option<&WorkerId>) -> Self {
        Self { worker: worker.cloned(), ..Self::default() }
    }
}

/// What failed in a session, in the client's words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Failure {
    /// Provider slot to blame; may be empty.
    pub slot: String,
    /// Machine-readable kind; may be empty.
    pub kind: String,
    /// For people; may be empty.
    pub message: String,
}

/// A live session as others may see it. Kept over a restart as it is: a field
/// that is added needs a serde default, for what an earlier version wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Its tenant.
    pub tenant: TenantId,
    /// Who acquired it.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub owner: Owner,
    /// The agent class that serves it.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub agent: Option<AgentName>,
    /// The process that holds it.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub worker: Option<WorkerId>,
    /// Where its lease stands.
    pub state: State,
    /// When it took its slot.
    pub acquired: Now,
    /// When the lease ends unless renewed.
    pub deadline: Timestamp,
    /// How long a renewal carries it.
    #[serde(with = "nanos")]
    pub ttl: Duration,
    /// Admitted by a half-open breaker.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub probe: bool,
    /// Reported as failed.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub failed: bool,
}
