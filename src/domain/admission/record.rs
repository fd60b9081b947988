//! What of a tenant's state outlives the process, and how it comes back.
//!
//! A record is a whole lease, breaker or set of switches as it is after a step,
//! never a difference: reading them in order and keeping the last of each gives
//! the state, whatever is read twice. Sessions come back waiting for a sign of
//! life; what nobody shows one for ends as lost.

use std::{collections::HashMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Lease, Suspension, TenantState, rearm};
use crate::domain::{
    breaker::{Breaker, Ticket},
    limits::TenantLimits,
    session::{Failure, Session, SessionId, State},
    tenant::TenantId,
    time::{Now, Timestamp},
};

/// How far a deadline may move without a record of it.
pub(super) fn slack(ttl: Duration) -> Duration {
    ttl / 8
}

/// A lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRecord {
    /// The session.
    pub session: Session,
    ticket: Ticket,
    /// Its worker had an open stream for it.
    #[serde(default)]
    held: bool,
    #[serde(default)]
    sampled: bool,
    #[serde(default)]
    healthy_at: Option<Timestamp>,
    #[serde(default)]
    failure: Option<Failure>,
}

/// The run-time cap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapChoice {
    /// The config's.
    #[default]
    Config,
    /// Lifted.
    Lifted,
    /// So many.
    Most(u32),
}

/// What operators set by hand.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Switches {
    /// Who suspended it.
    #[serde(default)]
    pub suspension: Option<Suspension>,
    /// The run-time cap.
    #[serde(default)]
    pub cap: CapChoice,
}

/// What a step changed; ended sessions are told by their events.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Changes {
    pub leases: Vec<LeaseRecord>,
    pub breaker: Option<Breaker>,
    pub switches: Option<Switches>,
}

/// All that was recorded of a tenant.
#[derive(Debug, Clone, Default, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Saved {
    pub leases: HashMap<SessionId, LeaseRecord>,
    pub breaker: Option<Breaker>,
    pub switches: Switches,
}

/// What has changed since the last record.
#[derive(Debug, Default)]
pub(super) struct Unrecorded {
    leases: Vec<SessionId>,
    switches: bool,
    /// As last recorded; the breaker is compared, so that no change of it can
    /// forget to be noted.
    breaker: Breaker,
}

impl Unrecorded {
    pub(super) fn lease(&mut self, id: &SessionId) {
        if self.leases.last() != Some(id) {
            self.leases.push(id.clone());
        }
    }

    pub(super) const fn switches(&mut self) {
        self.switches = true;
    }
}

impl Lease {
    fn record(&self) -> LeaseRecord {
        LeaseRecord {
            session: self.session.clone(),
            ticket: self.ticket,
            held: self.held,
            sampled: self.sampled,
            healthy_at: self.healthy_at,
            failure: self.failure.clone(),
        }
    }
}

impl TenantState {
    fn recorded_switches(&self) -> Switches {
        let cap = match self.cap_override {
            None => CapChoice::Config,
            Some(None) => CapChoice::Lifted,
            Some(Some(cap)) => CapChoice::Most(cap),
        };
        Switches { suspension: self.suspension.clone(), cap }
    }

    /// What changed since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        let touched = std::mem::take(&mut self.unrecorded.leases);
        let leases = touched.iter().filter_map(|id| self.leases.get(id)).map(Lease::record);
        let leases = leases.collect();
        let breaker = (self.breaker != self.unrecorded.breaker).then(|| self.breaker.clone());
        if let Some(breaker) = &breaker {
            self.unrecorded.breaker = breaker.clone();
        }
        let switches =
            std::mem::take(&mut self.unrecorded.switches).then(|| self.recorded_switches());
        Changes { leases, breaker, switches }
    }

    /// All that there is to record.
    #[must_use]
    pub fn record(&self) -> Changes {
        Changes {
            leases: self.leases.values().map(Lease::record).collect(),
            breaker: Some(self.breaker.clone()),
            switches: Some(self.recorded_switches()),
        }
    }

    /// A tenant as it was recorded. Sessions that a stream held wait for it for
    /// the grace, as if it had just broken; others, whose processes need not
    /// notice, live until their deadline, and for the grace at least, since nobody
    /// could renew them meanwhile. `rebooted`: the machine has been down, so that its
    /// agents' processes are gone and its old times mean nothing.
    #[must_use]
    pub fn restore(
        tenant: TenantId,
        limits: TenantLimits,
        saved: Saved,
        rebooted: bool,
        now: Now,
    ) -> Self {
        let mut state = Self::new(tenant, limits, now);
        state.cap_override = match saved.switches.cap {
            CapChoice::Config => None,
            CapChoice::Lifted => Some(None),
            CapChoice::Most(cap) => Some(Some(cap)),
        };
        state.suspension = saved.switches.suspension;
        if let Some(suspension) = state.suspension.as_mut().filter(|_| rebooted) {
            suspension.since = before_boot(suspension.since, now);
        }
        if let Some(breaker) = saved.breaker.filter(|_| !rebooted) {
            state.breaker = breaker.resumed(saved.leases.values().map(|lease| lease.ticket));
            state.unrecorded.breaker = state.breaker.clone();
        }
        let grace = now.mono.plus(limits.lease.grace);
        for (id, recorded) in saved.leases {
            let LeaseRecord { mut session, ticket, held, sampled, mut healthy_at, failure } =
                recorded;
            if rebooted {
                session.acquired = before_boot(session.acquired, now);
                (session.state, session.deadline, healthy_at) = (State::Grace, now.mono, None);
            } else if held && session.state == State::Active {
                (session.state, session.deadline) = (State::Grace, grace);
            } else {
                session.deadline = session.deadline.plus(slack(session.ttl)).max(grace);
            }
            state.pending += u32::from(session.state == State::Pending);
            let mut lease = Lease {
                recorded: session.deadline,
                timer: session.deadline,
                session,
                ticket,
                sampled,
                healthy_at,
                // Whose fault it is that nobody comes back is not known.
                blamed: false,
                held: false,
                failure,
            };
            rearm(&mut state.timers, &mut lease);
            state.leases.insert(id, lease);
        }
        state
    }
}

/// A time of before the machine was down, on the clock of now: by the wall, the
/// only one that went on.
fn before_boot(then: Now, now: Now) -> Now {
    let ago = now.wall.saturating_sub(then.wall);
    Now { mono: Timestamp::new(now.mono.since_origin().saturating_sub(ago)), wall: then.wall }
}
