//! Which rows a table shows, in which order. The same for the screen, for
//! `--once` and for `--json`.

use std::{cmp::Ordering, time::Duration};

use super::{
    model::{Now, SLOW_FOR, Session, Tenant, World, age},
    wanted::{Sort, Status, Wanted},
};
use crate::wire::v1::{self, BreakerState, SessionState};

/// How a tenant's breaker stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Breaker {
    /// Switched off.
    Off,
    /// Admits.
    Closed,
    /// Rejects for so long.
    Open(Duration),
    /// Admits probes: under way, healthy.
    HalfOpen(u32, u32),
}

/// A row of the tenants' table.
#[derive(Debug, Clone, Copy)]
pub struct TenantRow<'a> {
    /// All of it.
    pub tenant: &'a Tenant,
    /// Its breaker.
    pub breaker: Breaker,
    /// Per second; none before there are two samples.
    pub rates: Option<super::history::Rates>,
    /// Bad samples of all in the breaker's window; none without samples.
    pub failure_ratio: Option<f64>,
}

impl<'a> TenantRow<'a> {
    /// A tenant's.
    #[must_use]
    pub fn of(tenant: &'a Tenant, now: Now) -> Self {
        let breaker = tenant.state.breaker.unwrap_or_default();
        let samples = breaker.failures + breaker.successes;
        Self {
            tenant,
            breaker: match breaker.state() {
                BreakerState::Open => {
                    let left = tenant.open_until.map(|until| until.saturating_sub(now.mono));
                    Breaker::Open(left.unwrap_or_default())
                }
                BreakerState::HalfOpen => {
                    Breaker::HalfOpen(breaker.probes_live, breaker.probes_healthy)
                }
                BreakerState::Closed if breaker.enabled => Breaker::Closed,
                BreakerState::Closed | BreakerState::Unspecified => Breaker::Off,
            },
            rates: tenant.history.rates(),
            failure_ratio: (samples > 0).then(|| f64::from(breaker.failures) / f64::from(samples)),
        }
    }

    /// Its id, as it came.
    #[must_use]
    pub fn id(&self) -> &'a str {
        &self.tenant.state.tenant
    }

    /// No more sessions fit.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.tenant.state.cap.is_some_and(|cap| self.tenant.state.live_sessions >= cap)
    }

    /// An operator stopped it.
    #[must_use]
    pub fn is_suspended(&self) -> bool {
        self.tenant.state.suspension.is_some()
    }

    fn refusals(&self) -> f64 {
        self.rates.unwrap_or_default().refusals
    }

    fn stands(&self, status: Option<Status>) -> bool {
        match status {
            Some(Status::Full) => self.is_full(),
            Some(Status::Open) => matches!(self.breaker, Breaker::Open(_)),
            Some(Status::HalfOpen) => matches!(self.breaker, Breaker::HalfOpen(..)),
            Some(Status::Suspended) => self.is_suspended(),
            Some(Status::Refusing) => self.refusals() > 0.0,
            _ => true,
        }
    }

    /// The gravest first, when descending.
    fn gravity(&self) -> u8 {
        match self.breaker {
            _ if self.is_suspended() => 4,
            Breaker::Open(_) => 3,
            Breaker::HalfOpen(..) => 2,
            Breaker::Closed => 1,
            Breaker::Off => 0,
        }
    }

    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let (a, b) = (&self.tenant.state, &other.tenant.state);
        let rate = |row: &Self| row.rates.unwrap_or_default();
        match sort {
            Sort::Active => a.live_sessions.cmp(&b.live_sessions),
            Sort::Pending => a.pending_sessions.cmp(&b.pending_sessions),
            Sort::Breaker => self.gravity().cmp(&other.gravity()),
            Sort::Acquires => rate(self).acquires.total_cmp(&rate(other).acquires),
            Sort::Refusals => rate(self).refusals.total_cmp(&rate(other).refusals),
            Sort::Failures => self
                .failure_ratio
                .unwrap_or(-1.0)
                .total_cmp(&other.failure_ratio.unwrap_or(-1.0))
                .then(a.total_session_failures.cmp(&b.total_session_failures)),
            _ => self.id().cmp(other.id()),
        }
    }
}

/// A row of the sessions' table.
#[derive(Debug, Clone, Copy)]
pub struct SessionRow<'a> {
    /// All of it.
    pub session: &'a Session,
    /// How long it has held its slot.
    pub age: Duration,
    /// In a word.
    pub state: &'static str,
    /// How long its worker's event loop was blocked last, where that was lately
    /// and not by another session.
    pub lag: Option<Duration>,
    /// Resident memory of its worker.
    pub memory: Option<u64>,
}

impl<'a> SessionRow<'a> {
    /// A session's.
    #[must_use]
    pub fn of(session: &'a Session, world: &World, now: Now) -> Self {
        let worker = world.workers.get(&session.state.worker);
        let recent = |blocked: Option<(Duration, Duration)>| {
            blocked
                .filter(|(at, _)| now.mono.saturating_sub(*at) < SLOW_FOR)
                .map(|(_, lasted)| lasted)
        };
        let of_worker = worker.filter(|worker| {
            let by = &worker.state.loop_blocked_session_id;
            by.is_empty() || *by == session.state.session_id
        });
        Self {
            session,
            age: age(session.state.acquire_time.as_ref(), now),
            state: match session.state.state() {
                SessionState::Grace => "grace",
                _ if session.state.failed => "failed",
                SessionState::Pending => "pending",
                _ if session.state.probe => "probe",
                SessionState::Active | SessionState::Unspecified => "active",
            },
            lag: recent(session.blocked).max(of_worker.and_then(|worker| recent(worker.blocked))),
            memory: worker.map(|worker| worker.state.memory_bytes).filter(|bytes| *bytes > 0),
        }
    }

    /// Its id, as it came.
    #[must_use]
    pub fn id(&self) -> &'a str {
        &self.session.state.session_id
    }

    /// Its wire state.
    #[must_use]
    pub fn wire(&self) -> &'a v1::Session {
        &self.session.state
    }

    fn stands(&self, status: Option<Status>) -> bool {
        match status {
            Some(Status::Pending) => self.wire().state() == SessionState::Pending,
            Some(Status::Active) => self.wire().state() == SessionState::Active,
            Some(Status::Grace) => self.wire().state() == SessionState::Grace,
            Some(Status::Failed) => self.wire().failed,
            Some(Status::Probe) => self.wire().probe,
            Some(Status::Slow) => self.lag.is_some(),
            _ => true,
        }
    }

    fn compare(&self, other: &Self, sort: Sort) -> Ordering {
        let (a, b) = (self.wire(), other.wire());
        match sort {
            Sort::Agent => a.agent_name.cmp(&b.agent_name),
            Sort::Tenant => a.tenant.cmp(&b.tenant),
            Sort::Worker => a.worker.cmp(&b.worker),
            Sort::Age => self.age.cmp(&other.age),
            Sort::State => self.state.cmp(other.state),
            Sort::Lag => self.lag.cmp(&other.lag),
            Sort::Memory => self.memory.cmp(&other.memory),
            _ => a.session_id.cmp(&b.session_id),
        }
    }
}

/// The tenants that are wanted, in no order.
pub fn all_tenants<'a>(
    world: &'a World,
    wanted: &Wanted,
    now: Now,
) -> impl Iterator<Item = TenantRow<'a>> {
    let matches = wanted.matcher();
    let rows = world.tenants.values().filter(move |tenant| {
        let id = &tenant.state.tenant;
        wanted.tenant(id) && matches(&[id])
    });
    rows.map(move |tenant| TenantRow::of(tenant, now)).filter(|row| row.stands(wanted.status))
}

/// The sessions that are wanted, in no order.
pub fn all_sessions<'a>(
    world: &'a World,
    wanted: &Wanted,
    now: Now,
) -> impl Iterator<Item = SessionRow<'a>> {
    let matches = wanted.matcher();
    let rows = world.sessions.values().filter(move |session| {
        let state = &session.state;
        wanted.agent(&state.agent_name)
            && wanted.one_tenant.as_ref().is_none_or(|tenant| *tenant == state.tenant)
            && wanted.tenant(&state.tenant)
            && matches(&[&state.session_id, &state.tenant, &state.agent_name, &state.worker])
    });
    rows.map(move |session| SessionRow::of(session, world, now))
        .filter(|row| row.stands(wanted.status))
}

/// The tenants' rows. By id where they are equal, so that rows do not swap
/// places by themselves.
#[must_use]
pub fn tenants<'a>(
    world: &'a World,
    wanted: &Wanted,
    (sort, reverse): (Sort, bool),
    now: Now,
) -> Vec<TenantRow<'a>> {
    let mut rows: Vec<_> = all_tenants(world, wanted, now).collect();
    rows.sort_unstable_by(|a, b| {
        turned(a.compare(b, sort), sort.descends() != reverse).then(a.id().cmp(b.id()))
    });
    rows
}

/// The sessions' rows.
#[must_use]
pub fn sessions<'a>(
    world: &'a World,
    wanted: &Wanted,
    (sort, reverse): (Sort, bool),
    now: Now,
) -> Vec<SessionRow<'a>> {
    let mut rows: Vec<_> = all_sessions(world, wanted, now).collect();
    rows.sort_unstable_by(|a, b| {
        turned(a.compare(b, sort), sort.descends() != reverse).then(a.id().cmp(b.id()))
    });
    rows
}

fn turned(order: Ordering, turn: bool) -> Ordering {
    if turn { order.reverse() } else { order }
}
