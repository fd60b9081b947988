//! One tenant's sessions, breaker and switches, and every transition between
//! them. The one place that fixes the order in which a session is refused.
//!
//! Each transition first lets time pass (due leases end, the breaker moves),
//! then decides, and appends exactly one event for each thing that it changed.

mod due;
mod leases;
mod record;

use std::{sync::Arc, time::Duration};

use self::leases::{Lease, Leases};
pub use self::record::{CapChoice, Changes, Ended, LeaseRecord, Saved, Switches};
use super::{
    access::{Claim, Owner},
    breaker::{self, Breaker, Ticket},
    budget::{Budget, Turns},
    event::{Actor, Event, Kind, Subject},
    limits::TenantLimits,
    reject::{Reason, Rejection},
    session::{
        AgentName, EndCause, Failure, Outcome, Renewal, Session, SessionId, State, WorkerId,
    },
    tenant::TenantId,
    time::{Now, Timestamp},
};

/// Most leases that one transition ends for being due, so that a mass expiry
/// holds nobody up: well under a millisecond's. The rest is ended by the next, and the
/// session that a transition is about in any case.
pub const EXPIRE_BATCH: usize = 64;

/// Most refusals of one tenant for its rate that have an event, in a second; all are
/// counted.
const FLOODS_TOLD_PER_SECOND: u32 = 10;

/// Refusals of one tenant that are answered at once, in a second. Further ones are
/// answered in turn, as many a second: a caller that asks again as soon as it is
/// answered slows down instead of taking the time of the others.
const REFUSED_AT_ONCE: u32 = 1000;
/// The longest that a refusal waits for its turn.
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// A request for a slot, with what the caller has found out beforehand.
#[derive(Debug, Clone)]
pub struct Acquire {
    /// The session.
    pub session: SessionId,
    /// Who asks.
    pub owner: Owner,
    /// The agent that serves it.
    pub agent: Option<AgentName>,
    /// The calling process.
    pub worker: Option<WorkerId>,
    /// Wished TTL, within the tenant's bounds.
    pub ttl: Option<Duration>,
    /// The caller runs the session itself.
    pub activate: bool,
    /// The sidecar takes no new sessions.
    pub draining: bool,
    /// The tenant's config could not be resolved.
    pub config_failed: Option<Rejection>,
    /// Version of the config that the session gets.
    pub config_version: String,
    /// Most new sessions of the tenant in a second; none: no limit.
    pub per_second: Option<u32>,
}

/// A granted slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The session.
    pub session: Session,
    /// It was not there before.
    pub created: bool,
}

/// Sessions whose worker went away.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// How many wait for it.
    pub sessions: u32,
    /// For how long, at most.
    pub grace: Duration,
}

/// Who stopped a tenant.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Suspension {
    /// By whose hand.
    pub actor: Actor,
    /// When.
    pub since: Now,
}

/// Figures since the state was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Totals {
    pub started: u64,
    pub failures: u64,
    pub rejections: u64,
}

/// A tenant as others may see it.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "tenant.proto documents each field")]
pub struct View {
    pub tenant: TenantId,
    pub live: u32,
    pub pending: u32,
    pub cap: Option<u32>,
    pub cap_overridden: bool,
    pub max_acquires_per_second: Option<u32>,
    pub suspension: Option<Suspension>,
    pub breaker: breaker::View,
    pub probes: (u32, u32),
    pub totals: Totals,
}

/// Everything that decides about one tenant.
#[derive(Debug)]
pub struct TenantState {
    tenant: TenantId,
    limits: Arc<TenantLimits>,
    leases: Leases,
    pending: u32,
    breaker: Breaker,
    suspension: Option<Box<Suspension>>,
    cap_override: Option<Option<u32>>,
    totals: Totals,
    events_budget: Budget,
    acquires: Budget,
    refusals: Budget,
    refusals_in_turn: Turns,
    /// Refusals for their rate that are told: a flood must not wash the log away.
    flood_told: Budget,
    last_used: Timestamp,
    unrecorded: record::Unrecorded,
}

impl TenantState {
    /// A tenant without sessions.
    #[must_use]
    pub fn new(tenant: TenantId, limits: Arc<TenantLimits>, now: Now) -> Self {
        Self {
            tenant,
            limits,
            leases: Leases::default(),
            pending: 0,
            breaker: Breaker::default(),
            suspension: None,
            cap_override: None,
            totals: Totals::default(),
            events_budget: Budget::default(),
            acquires: Budget::default(),
            refusals: Budget::default(),
            refusals_in_turn: Turns::default(),
            flood_told: Budget::default(),
            last_used: now.mono,
            unrecorded: record::Unrecorded::default(),
        }
    }

    /// Whose it is.
    #[must_use]
    pub const fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    fn cap(&self) -> Option<u32> {
        self.cap_override.unwrap_or(self.limits.cap)
    }

    fn live(&self) -> u32 {
        self.leases.len()
    }

    /// It has live sessions.
    #[must_use]
    pub fn is_live(&self) -> bool {
        !self.leases.is_empty()
    }

    /// Gives back what only live sessions need, while there are none.
    pub fn trim(&mut self) {
        self.leases.trim();
    }

    /// When something changes by itself.
    #[must_use]
    pub fn next_due(&self) -> Option<Timestamp> {
        let lease = self.leases.first_due().map(|(at, _)| at);
        match (lease, self.breaker.next_change()) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Nothing would be lost by dropping the state. A configured tenant is kept
    /// for `idle_after`, for its figures; one that is not is dropped at once,
    /// so that made-up ids cannot fill the table.
    #[must_use]
    pub fn is_idle(&self, now: Now, known: bool, idle_after: Duration) -> bool {
        self.leases.is_empty()
            && self.suspension.is_none()
            && self.cap_override.is_none()
            && self.breaker.is_pristine(now.mono, &self.limits.breaker)
            // Else a flood of sessions that end at once would have a new burst with
            // each look at it.
            && self.acquires.is_full(now.mono)
            && (!known || now.mono.since(self.last_used) >= idle_after)
    }

    /// New numbers from the config. They hold at once; live sessions above a
    /// lowered cap go on.
    pub fn configure(&mut self, limits: Arc<TenantLimits>, now: Now, out: &mut Vec<Event>) {
        let before = self.cap();
        self.limits = limits;
        let after = self.cap();
        if before != after {
            self.tell(now, Kind::CapChanged { before, after }, None, out);
        }
        self.expire(now, out);
    }

    /// Takes a slot. `claim` answers for the slots that tenants share (agent,
    /// machine); called with `true` it takes them, and is called so only when
    /// nothing else can refuse, so that a refused session never holds one, not
    /// even for a moment in which a sibling asks.
    ///
    /// # Errors
    /// `SESSION_CONFLICT` when another has it; else the first reason that matches,
    /// in this order: rate,
    /// draining, suspended, breaker, tenant cap, `claim`'s (agent cap, machine cap), config.
    pub fn acquire(
        &mut self,
        request: &Acquire,
        claim: impl FnOnce(bool) -> Result<(), Rejection>,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<Grant, Rejection> {
        self.expire(now, out);
        self.last_used = now.mono;
        let live = self.find(&request.session, now, out);
        if let Some(lease) = live.and_then(|slot| self.leases.get(slot)) {
            if !lease.owner().is(&request.owner) {
                return Err(Rejection::session_conflict().of(&self.tenant));
            }
            // A retry of the request process is no sign of life of the process
            // that is to run the session.
            let same_caller = request.worker.is_some() && lease.worker() == request.worker.as_ref();
            if same_caller && !request.activate {
                return Ok(Grant { session: lease.session(&self.tenant), created: false });
            }
            // The worker that holds it keeps holding it; another one takes it.
            let held = lease.held && same_caller;
            let renewal = Renewal { worker: request.worker.clone(), ttl: request.ttl, held };
            let session = self.renew(&request.session, &renewal, now, out)?;
            return Ok(Grant { session, created: false });
        }
        match self.admit(request, claim, now) {
            Ok(ticket) => Ok(self.insert(request, ticket, now, out)),
            Err(rejection) => {
                let mut rejection = rejection.of(&self.tenant);
                self.totals.rejections += 1;
                if !self.refusals.take(REFUSED_AT_ONCE, now.mono) {
                    let turn = self.refusals_in_turn.take(REFUSED_AT_ONCE, LONGEST_TURN, now.mono);
                    rejection.pause_millis = u16::try_from(turn.as_millis()).unwrap_or(u16::MAX);
                }
                if rejection.reason == Reason::RateLimited
                    && !self.flood_told.take(FLOODS_TOLD_PER_SECOND, now.mono)
                {
                    return Err(rejection);
                }
                let subject = Subject {
                    tenant: Some(self.tenant.clone()),
                    session: Some(request.session.clone()),
                    agent: request.agent.clone(),
                    worker: request.worker.clone(),
                };
                out.push(Event::new(
                    now,
                    subject,
                    Kind::SessionRejected(Box::new(rejection.clone())),
                ));
                Err(rejection)
            }
        }
    }

    fn admit(
        &mut self,
        request: &Acquire,
        claim: impl FnOnce(bool) -> Result<(), Rejection>,
        now: Now,
    ) -> Result<Ticket, Rejection> {
        if let Some(per_second) = self.limits.acquires_per_second.or(request.per_second)
            && !self.acquires.take(per_second, now.mono)
        {
            let message = format!(
                "tenant {} asks for more than {per_second} new sessions in a second",
                self.tenant
            );
            let mut refused = Rejection::new(Reason::RateLimited, message);
            refused.retry_after = Some(self.acquires.wait(per_second));
            return Err(refused);
        }
        if request.draining {
            return Err(Rejection::new(
                Reason::Draining,
                "the sidecar is draining and takes no new session",
            ));
        }
        if let Some(suspension) = &self.suspension {
            let note = if suspension.actor.note.is_empty() {
                "no reason given"
            } else {
                &suspension.actor.note
            };
            return Err(Rejection::new(
                Reason::TenantSuspended,
                format!("tenant {} is suspended by an operator: {note}", self.tenant),
            ));
        }
        if let Err(retry_after) = self.breaker.check(now.mono, &self.limits.breaker) {
            let mut refused = Rejection::new(
                Reason::CircuitOpen,
                format!(
                    "the circuit breaker of tenant {} does not admit sessions now",
                    self.tenant
                ),
            );
            refused.retry_after = Some(retry_after);
            return Err(refused);
        }
        let live = self.live();
        if let Some(cap) = self.cap().filter(|cap| live >= *cap) {
            return Err(Rejection::at_cap(
                Reason::TenantAtCap,
                &format!("tenant {}", self.tenant),
                cap,
                live,
            ));
        }
        if let Some(ttl) = request.ttl {
            self.check_ttl(ttl)?;
        }
        claim(request.config_failed.is_none())?;
        match &request.config_failed {
            Some(failed) => Err(failed.clone()),
            None => Ok(self.breaker.admit()),
        }
    }

    fn insert(
        &mut self,
        request: &Acquire,
        ticket: Ticket,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Grant {
        let ttl = request.ttl.unwrap_or(self.limits.lease.ttl);
        let (state, deadline) = if request.activate {
            (State::Active, now.mono.plus(ttl))
        } else {
            (State::Pending, now.mono.plus(self.limits.lease.pending))
        };
        let session = Session {
            id: request.session.clone(),
            tenant: self.tenant.clone(),
            owner: request.owner.clone(),
            agent: request.agent.clone(),
            worker: request.worker.clone(),
            state,
            acquired: now,
            deadline,
            ttl,
            probe: ticket.probe,
            failed: false,
        };
        let slot = self.leases.insert(session.clone(), ticket);
        if state == State::Pending {
            self.pending += 1;
        } else if ticket.probe {
            self.watch_probe(slot, now);
        }
        self.unrecorded.lease(slot);
        self.totals.started += 1;
        let kind = Kind::SessionAcquired {
            state,
            probe: ticket.probe,
            live: self.live(),
            cap: self.cap(),
            config_version: request.config_version.clone(),
        };
        out.push(Event::new(now, Subject::session(&session), kind));
        Grant { session, created: true }
    }

    /// A probe became active: how long it lives counts.
    fn watch_probe(&mut self, slot: u32, now: Now) {
        let healthy_at = now.mono.plus(self.limits.breaker.probe_healthy_after);
        if let Some(lease) = self.leases.get_mut(slot) {
            lease.set_healthy_at(Some(healthy_at));
        }
        self.wake(slot);
    }

    /// Sees to it that a lease is looked at when something changes by itself. A renewal
    /// moves that later and leaves it: who is woken early sleeps on, and a renewal costs
    /// no place in the heap.
    fn wake(&mut self, slot: u32) {
        let next = self.leases.get(slot).map(Lease::next_wake);
        if next < self.leases.due_at(slot) {
            self.leases.rearm(slot);
        }
    }

    /// The slot of a live session. One that is due ends here, however many others are.
    fn find(&mut self, id: &SessionId, now: Now, out: &mut Vec<Event>) -> Option<u32> {
        let slot = self.leases.find(id)?;
        let lease = self.leases.get_mut(slot)?;
        if lease.is_due(now.mono) {
            let cause = cause_of(lease);
            self.end(slot, Outcome::Lost, cause, None, now, out);
            return None;
        }
        Some(slot)
    }

    /// Ends a session that is due; whose it was, if it was.
    pub fn end_due(&mut self, id: &SessionId, now: Now, out: &mut Vec<Event>) -> Option<Owner> {
        let owner = self.lease(id)?.owner().clone();
        self.find(id, now, out).is_none().then_some(owner)
    }

    fn lease(&self, id: &SessionId) -> Option<&Lease> {
        self.leases.get(self.leases.find(id)?)
    }

    fn check_ttl(&self, ttl: Duration) -> Result<(), Rejection> {
        let lease = &self.limits.lease;
        if (lease.ttl_min..=lease.ttl_max).contains(&ttl) {
            Ok(())
        } else {
            Err(Rejection::field(
                "ttl",
                format_args!("must be {:?} to {:?}, got {ttl:?}", lease.ttl_min, lease.ttl_max),
            ))
        }
    }

    /// A sign of life: activates a pending lease, takes one out of grace, moves
    /// it to the worker that shows it, and carries it on.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`; `INVALID_FIELD` for a TTL out of bounds.
    pub fn renew(
        &mut self,
        id: &SessionId,
        renewal: &Renewal,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<Session, Rejection> {
        self.expire(now, out);
        if let Some(ttl) = renewal.ttl {
            self.check_ttl(ttl)?;
        }
        let slot = self.find(id, now, out).ok_or_else(Rejection::session_unknown)?;
        let (before, moves) = match self.leases.get(slot) {
            // A nameless sign of life (an event, a bare renewal) moves nothing.
            Some(lease) => (
                (lease.ttl(), lease.state, lease.held),
                match &renewal.worker {
                    Some(worker) => lease.worker() != Some(worker),
                    None => false,
                },
            ),
            None => return Err(Rejection::session_unknown()),
        };
        if moves {
            self.leases.move_to(slot, renewal);
        }
        let lease = self.leases.get_mut(slot).ok_or_else(Rejection::session_unknown)?;
        if let Some(ttl) = renewal.ttl {
            lease.set_ttl(ttl);
        }
        if renewal.worker.is_some() {
            lease.held = renewal.held || (lease.held && !moves);
        }
        lease.deadline = now.mono.plus(lease.ttl());
        lease.blamed = false;
        let was = std::mem::replace(&mut lease.state, State::Active);
        let far = lease.deadline.since(lease.recorded) >= record::slack(lease.ttl());
        if far || moves || before != (lease.ttl(), lease.state, lease.held) {
            lease.recorded = lease.deadline;
            self.unrecorded.lease(slot);
        }
        let session = lease.session(&self.tenant);
        if was == State::Pending {
            self.pending -= 1;
            out.push(Event::new(now, Subject::session(&session), Kind::SessionActivated));
            if session.probe {
                self.watch_probe(slot, now);
            }
        }
        self.wake(slot);
        self.last_used = now.mono;
        Ok(session)
    }

    /// Ends a session for its client. A session reported as failed ends as a
    /// failure whatever is said now.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`.
    pub fn release(
        &mut self,
        id: &SessionId,
        outcome: Outcome,
        failure: Option<Failure>,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<Outcome, Rejection> {
        self.expire(now, out);
        let slot = self.find(id, now, out).ok_or_else(Rejection::session_unknown)?;
        let lease = self.leases.get_mut(slot).ok_or_else(Rejection::session_unknown)?;
        let outcome = if lease.failed { Outcome::Failure } else { outcome };
        if lease.failure().is_none() {
            lease.set_failure(failure);
        }
        self.end(slot, outcome, EndCause::Released, None, now, out);
        Ok(outcome)
    }

    /// Marks a live session as failed: one sample, at most.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`.
    pub fn report(
        &mut self,
        id: &SessionId,
        failure: Failure,
        end: bool,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<(Session, bool), Rejection> {
        self.expire(now, out);
        let slot = self.find(id, now, out).ok_or_else(Rejection::session_unknown)?;
        let lease = self.leases.get_mut(slot).ok_or_else(Rejection::session_unknown)?;
        lease.set_failure(Some(failure.clone()));
        let first = !std::mem::replace(&mut lease.failed, true);
        let session = lease.session(&self.tenant);
        if first {
            self.totals.failures += 1;
        }
        self.unrecorded.lease(slot);
        out.push(Event::new(now, Subject::session(&session), Kind::FailureReported(failure)));
        let counted = self.sample(slot, false, now, out);
        if end {
            self.end(slot, Outcome::Failure, EndCause::Reported, None, now, out);
        }
        Ok((session, counted))
    }

    /// Ends a session by an operator's hand or a drain's.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`.
    pub fn revoke(
        &mut self,
        id: &SessionId,
        cause: EndCause,
        actor: Option<&Actor>,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<Session, Rejection> {
        self.expire(now, out);
        let slot = self.find(id, now, out).ok_or_else(Rejection::session_unknown)?;
        let lease = self.leases.get(slot).ok_or_else(Rejection::session_unknown)?;
        let session = lease.session(&self.tenant);
        self.end(slot, Outcome::Revoked, cause, actor, now, out);
        Ok(session)
    }

    /// The worker went away: its leases wait for it, no longer than they would
    /// have lived anyhow. Returns how many do, and for how long at most.
    /// `blamed`: it held sessions of this tenant alone.
    pub fn detach(
        &mut self,
        worker: &WorkerId,
        owner: &Owner,
        blamed: bool,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Waiting {
        self.expire(now, out);
        let until = now.mono.plus(self.limits.lease.grace);
        let mut waiting = Waiting { sessions: 0, grace: self.limits.lease.grace };
        for slot in self.leases.slots() {
            let Some(lease) = self.leases.get_mut(slot) else { continue };
            if !lease.is_of(worker, owner) || lease.state == State::Grace {
                continue;
            }
            waiting.sessions += 1;
            lease.held = false;
            // A pending lease keeps its state: it was nobody's to lose yet.
            if lease.state == State::Active {
                lease.state = State::Grace;
                lease.blamed = blamed;
            }
            lease.deadline = lease.deadline.min(until);
            lease.recorded = lease.deadline;
            self.unrecorded.lease(slot);
            self.wake(slot);
        }
        waiting
    }

    /// The worker is back: its waiting leases go on.
    pub fn attach(&mut self, worker: &WorkerId, owner: &Owner, now: Now) {
        for slot in self.leases.slots() {
            let Some(lease) = self.leases.get_mut(slot) else { continue };
            if lease.is_of(worker, owner) && lease.state == State::Grace {
                lease.state = State::Active;
                lease.deadline = now.mono.plus(lease.ttl());
                lease.blamed = false;
                lease.recorded = lease.deadline;
                self.unrecorded.lease(slot);
            }
        }
    }

    /// Lets time pass: due leases end, healthy probes count, the breaker moves.
    /// At most [`EXPIRE_BATCH`] leases; true when more are due.
    pub fn expire(&mut self, now: Now, out: &mut Vec<Event>) -> bool {
        if let Some(change) = self.breaker.advance(now.mono, &self.limits.breaker) {
            self.tell(now, change.into(), None, out);
        }
        for _ in 0..EXPIRE_BATCH {
            let Some((_, slot)) = self.leases.first_due().filter(|(at, _)| *at <= now.mono) else {
                return false;
            };
            let Some(lease) = self.leases.get_mut(slot) else { return false };
            if lease.is_due(now.mono) {
                let cause = cause_of(lease);
                self.end(slot, Outcome::Lost, cause, None, now, out);
                continue;
            }
            let lived = lease.healthy_at().is_some_and(|at| at <= now.mono);
            if lived {
                lease.set_healthy_at(None);
            }
            let healthy = lived && lease.state == State::Active && !lease.failed;
            self.leases.rearm(slot);
            if healthy {
                self.sample(slot, true, now, out);
            }
        }
        true
    }

    /// Gives a session's one sample to the breaker. True when it counted.
    fn sample(&mut self, slot: u32, good: bool, now: Now, out: &mut Vec<Event>) -> bool {
        let Some(lease) = self.leases.get_mut(slot) else { return false };
        let ticket = lease.ticket();
        // A probe that was healthy and fails after all re-opens a half-open
        // breaker: its first sample was wrong, so this is no second one.
        let correction = !good && ticket.probe;
        if std::mem::replace(&mut lease.sampled, true) && !correction {
            return false;
        }
        self.unrecorded.lease(slot);
        let policy = &self.limits.breaker;
        let (counted, change) = if good {
            self.breaker.good(ticket, now.mono, policy)
        } else {
            self.breaker.bad(ticket, now.mono, policy)
        };
        if let Some(change) = change {
            self.tell(now, change.into(), None, out);
        }
        counted
    }

    /// Ends a live session: the only way out of `leases`.
    fn end(
        &mut self,
        slot: u32,
        outcome: Outcome,
        cause: EndCause,
        actor: Option<&Actor>,
        now: Now,
        out: &mut Vec<Event>,
    ) {
        let Some(lease) = self.leases.get(slot) else { return };
        let (failed, blamed) = (lease.failed, lease.blamed);
        let counted = match outcome {
            Outcome::Success => self.sample(slot, true, now, out),
            Outcome::Failure => {
                if !failed {
                    self.totals.failures += 1;
                }
                !failed && self.sample(slot, false, now, out)
            }
            Outcome::Lost => blamed && self.sample(slot, false, now, out),
            Outcome::Cancelled | Outcome::Revoked => false,
        };
        let Some(lease) = self.leases.remove(slot) else { return };
        if lease.state == State::Pending {
            self.pending -= 1;
        }
        self.breaker.give_back(lease.ticket());
        self.last_used = now.mono;
        self.unrecorded.ended(&lease, outcome);
        let kind = Kind::SessionEnded {
            outcome,
            cause,
            held: now.mono.since(lease.acquired()),
            failure: lease.failure().cloned(),
            counted,
        };
        out.push(Event::new(now, lease.subject(&self.tenant), kind).by(actor));
    }

    /// Takes a session just granted back, as if it had never been: its grant
    /// could not be recorded.
    pub fn take_back(&mut self, id: &SessionId) {
        let Some(lease) = self.leases.find(id).and_then(|slot| self.leases.remove(slot)) else {
            return;
        };
        if lease.state == State::Pending {
            self.pending -= 1;
        }
        self.breaker.give_back(lease.ticket());
        self.totals.started -= 1;
    }

    fn tell(&self, now: Now, kind: Kind, actor: Option<&Actor>, out: &mut Vec<Event>) {
        out.push(Event::new(now, Subject::tenant(&self.tenant), kind).by(actor));
    }

    /// Sets the run-time cap: `Some(None)` lifts it, `None` goes back to the
    /// config's.
    pub fn set_cap(
        &mut self,
        cap: Option<Option<u32>>,
        actor: &Actor,
        now: Now,
        out: &mut Vec<Event>,
    ) {
        let before = self.cap();
        self.unrecorded.switches();
        self.cap_override = cap;
        let after = self.cap();
        self.tell(now, Kind::CapChanged { before, after }, Some(actor), out);
    }

    /// Refuses new sessions.
    pub fn suspend(&mut self, actor: &Actor, now: Now, out: &mut Vec<Event>) {
        self.unrecorded.switches();
        self.suspension = Some(Box::new(Suspension { actor: actor.clone(), since: now }));
        self.tell(now, Kind::Suspended, Some(actor), out);
    }

    /// Takes new sessions again.
    pub fn resume(&mut self, actor: &Actor, now: Now, out: &mut Vec<Event>) {
        self.unrecorded.switches();
        self.suspension = None;
        self.tell(now, Kind::Resumed, Some(actor), out);
    }

    /// Opens the breaker by hand.
    ///
    /// # Errors
    /// `INVALID_FIELD` when the tenant's breaker is switched off.
    pub fn open_breaker(
        &mut self,
        duration: Option<Duration>,
        actor: &Actor,
        now: Now,
        out: &mut Vec<Event>,
    ) -> Result<(), Rejection> {
        if !self.limits.breaker.enabled {
            return Err(Rejection::field(
                "tenant",
                "its breaker is switched off in the config; suspend the tenant instead",
            ));
        }
        let change = self.breaker.force_open(now.mono, &self.limits.breaker, duration);
        self.tell(now, change.into(), Some(actor), out);
        Ok(())
    }

    /// Closes the breaker and forgets its samples.
    pub fn reset_breaker(&mut self, actor: &Actor, now: Now, out: &mut Vec<Event>) {
        let change = self.breaker.reset();
        self.tell(now, change.into(), Some(actor), out);
    }

    /// Takes one event from the tenant's budget of agent events per second.
    pub fn may_publish(&mut self, per_second: u32, now: Now) -> bool {
        self.events_budget.take(per_second, now.mono)
    }

    /// Figures since the state was made.
    #[must_use]
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// `claim` holds for a live session.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, in the same words when the session is not there and
    /// when it is somebody else's.
    pub fn check(&self, id: &SessionId, claim: &Claim) -> Result<(), Rejection> {
        let lease = self.lease(id).ok_or_else(Rejection::session_unknown)?;
        if claim.admits(&self.tenant, lease.owner()) {
            Ok(())
        } else {
            Err(Rejection::session_hidden(&self.tenant))
        }
    }

    /// One live session.
    #[must_use]
    pub fn session(&self, id: &SessionId) -> Option<Session> {
        self.lease(id).map(|lease| lease.session(&self.tenant))
    }

    /// A session is live.
    #[must_use]
    pub fn has(&self, id: &SessionId) -> bool {
        self.leases.find(id).is_some()
    }

    /// The process that runs a live session.
    #[must_use]
    pub fn worker_of(&self, id: &SessionId) -> Option<&WorkerId> {
        self.lease(id)?.worker()
    }

    /// All live sessions, in no order.
    pub fn sessions(&self) -> impl Iterator<Item = Session> {
        self.leases.iter().map(|lease| lease.session(&self.tenant))
    }

    /// The tenant as others may see it.
    #[must_use]
    pub fn view(&self, now: Now) -> View {
        View {
            tenant: self.tenant.clone(),
            live: self.live(),
            pending: self.pending,
            cap: self.cap(),
            cap_overridden: self.cap_override.is_some(),
            max_acquires_per_second: self.limits.acquires_per_second,
            suspension: self.suspension.as_deref().cloned(),
            breaker: self.breaker.view(now, &self.limits.breaker),
            probes: match self.breaker.state() {
                breaker::State::HalfOpen { live, healthy } => (live, healthy),
                breaker::State::Closed | breaker::State::Open { .. } => (0, 0),
            },
            totals: self.totals,
        }
    }
}

const fn cause_of(lease: &Lease) -> EndCause {
    match lease.state {
        State::Pending => EndCause::PendingExpired,
        State::Active => EndCause::TtlExpired,
        State::Grace => EndCause::WorkerLost,
    }
}
