//! What of a tenant's state outlives the process, and how it comes back.
//!
//! A record is a whole lease, breaker or set of switches as it is after a step,
//! never a difference: reading them in order and keeping the last of each gives
//! the state, whatever is read twice. Sessions come back waiting for a sign of
//! life; what nobody shows one for ends as lost.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Lease, Suspension, TenantState};
use crate::domain::{
    access::Owner,
    breaker::{Breaker, Ticket},
    limits::TenantLimits,
    record::says_nothing,
    session::{Failure, Outcome, Session, SessionId, State},
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
    #[serde(default, skip_serializing_if = "says_nothing")]
    held: bool,
    #[serde(default, skip_serializing_if = "says_nothing")]
    sampled: bool,
    #[serde(default, skip_serializing_if = "says_nothing")]
    healthy_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "says_nothing")]
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

/// A session that has ended.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Ended {
    pub session: SessionId,
    pub owner: Owner,
    pub outcome: Outcome,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Changes {
    pub ended: Vec<Ended>,
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
    /// By slot.
    leases: Vec<u32>,
    ended: Vec<Ended>,
    switches: bool,
    /// As last recorded; the breaker is compared, so that no change of it can
    /// forget to be noted.
    breaker: Breaker,
}

impl Unrecorded {
    pub(super) fn lease(&mut self, slot: u32) {
        if self.leases.last() != Some(&slot) {
            self.leases.push(slot);
        }
    }

    pub(super) fn ended(&mut self, lease: &Lease, outcome: Outcome) {
        let (session, owner) = (lease.id().clone(), lease.owner().clone());
        self.ended.push(Ended { session, owner, outcome });
    }

    pub(super) const fn switches(&mut self) {
        self.switches = true;
    }
}

impl Lease {
    fn record(&self, tenant: &TenantId) -> LeaseRecord {
        LeaseRecord {
            session: self.session(tenant),
            ticket: self.ticket(),
            held: self.held,
            sampled: self.sampled,
            healthy_at: self.healthy_at(),
            failure: self.failure().cloned(),
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
        Switches { suspension: self.suspension.as_deref().cloned(), cap }
    }

    /// What changed since this was last asked.
    pub fn take_changes(&mut self) -> Changes {
        let touched = std::mem::take(&mut self.unrecorded.leases);
        let leases = touched.iter().filter_map(|slot| self.leases.get(*slot));
        let leases = leases.map(|lease| lease.record(&self.tenant)).collect();
        let ended = std::mem::take(&mut self.unrecorded.ended);
        let breaker = (self.breaker != self.unrecorded.breaker).then(|| self.breaker.clone());
        if let Some(breaker) = &breaker {
            self.unrecorded.breaker = breaker.clone();
        }
        let switches =
            std::mem::take(&mut self.unrecorded.switches).then(|| self.recorded_switches());
        Changes { ended, leases, breaker, switches }
    }

    /// What there is to record, in pieces: of some leases, from the place `from` on, and
    /// with the first of them what is there once. Where to go on, if there may be more.
    #[must_use]
    pub fn record(&self, from: u32, some: u32) -> (Changes, Option<u32>) {
        let first = from == 0;
        let to = from.saturating_add(some);
        let leases = (from..to).filter_map(|slot| self.leases.get(slot));
        let changes = Changes {
            ended: Vec::new(),
            leases: leases.map(|lease| lease.record(&self.tenant)).collect(),
            breaker: first.then(|| self.breaker.clone()),
            switches: first.then(|| self.recorded_switches()),
        };
        (changes, (to < self.leases.places()).then_some(to))
    }

    /// A tenant as it was recorded. Sessions that a stream held wait for it for
    /// the grace, as if it had just broken; others, whose processes need not
    /// notice, live until their deadline, and for the grace at least, since nobody
    /// could renew them meanwhile. `rebooted`: the machine has been down, so that its
    /// agents' processes are gone and its old times mean nothing.
    #[must_use]
    pub fn restore(
        tenant: TenantId,
        limits: Arc<TenantLimits>,
        saved: Saved,
        rebooted: bool,
        now: Now,
    ) -> Self {
        let mut state = Self::new(tenant, Arc::clone(&limits), now);
        state.cap_override = match saved.switches.cap {
            CapChoice::Config => None,
            CapChoice::Lifted => Some(None),
            CapChoice::Most(cap) => Some(Some(cap)),
        };
        state.suspension = saved.switches.suspension.map(Box::new);
        if let Some(suspension) = state.suspension.as_mut().filter(|_| rebooted) {
            suspension.since = before_boot(suspension.since, now);
        }
        if let Some(breaker) = saved.breaker.filter(|_| !rebooted) {
            state.breaker = breaker.resumed(saved.leases.values().map(|lease| lease.ticket));
            state.unrecorded.breaker = state.breaker.clone();
        }
        let grace = now.mono.plus(limits.lease.grace);
        for recorded in saved.leases.into_values() {
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
            // Whose fault it is that nobody comes back is not known.
            let slot = state.leases.insert(session, ticket);
            if let Some(lease) = state.leases.get_mut(slot) {
                lease.sampled = sampled;
                lease.set_healthy_at(healthy_at);
                lease.set_failure(failure);
            }
            state.leases.rearm(slot);
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
