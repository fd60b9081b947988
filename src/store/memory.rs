//! One machine's sessions, in memory.
//!
//! Each tenant has one small mutex round its pure state, so one tenant's flood
//! contends with itself. Lock order, never the other way: a tenant's mutex, then
//! an entry of `index`, `agents`, `workers`, then `ended`, the agenda, the event log.
//! Nothing awaits under any of them.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use dashmap::Entry;
use parking_lot::Mutex;

use super::{
    agenda::{Agenda, Plannable, Planned},
    ended::{Ending, Endings},
    table::{Table, in_pieces},
};
use crate::{
    app::atomic::{AtomicU32, AtomicU64, Ordering},
    app::ports::{
        Change, EventSink, Journal, Publish, SessionStore, SharedCaps, StoreTotals, TenantSnapshot,
        Unrecorded,
    },
    domain::{
        access::{Claim, Owner},
        admission::{Acquire, Changes, Ended, Grant, TenantState, View, Waiting},
        event::{Actor, Event, Kind, Subject},
        hash::Keyed,
        limits::Terms,
        record::{Image, Record},
        reject::{Reason, Rejection},
        session::{AgentName, EndCause, Failure, Outcome, Renewal, Session, SessionId, WorkerId},
        tenant::TenantId,
        time::{Now, Timestamp},
    },
};

/// When a tenant is due that waits for nothing.
const NEVER: u64 = u64::MAX;
/// Sessions of a tenant that are recorded anew at a time: it is locked meanwhile.
const RECORD_BATCH: u32 = 256;
/// Pieces of the table of sessions: one that grows is locked, and there may be a million.
const SHARDS: usize = 128;
/// How long after its last session a tenant that is not dropped is looked at: one that goes
/// on need not make anew what only live sessions need.
const TRIM_AFTER: u64 = 1_000_000;
/// How often one without sessions that cannot be dropped yet is looked at: a made-up one,
/// whose place others may need, and a configured one at most.
const SWEEP_EVERY: (u64, u64) = (1_000_000, 60_000_000);
/// Tenants taken from the agenda at a time.
const AT_ONCE: usize = 256;

struct Tenant {
    planned: Planned,
    slot: Mutex<Slot>,
}

impl Tenant {
    fn new(state: TenantState, terms: Arc<Terms>) -> Self {
        let slot = Slot { state, terms, recorded: None, gone: false };
        Self { planned: Planned::default(), slot: Mutex::new(slot) }
    }
}

impl Plannable for Tenant {
    fn planned(&self) -> &Planned {
        &self.planned
    }
}

struct Slot {
    state: TenantState,
    /// What it runs on.
    terms: Arc<Terms>,
    /// The terms that are recorded.
    recorded: Option<Arc<Terms>>,
    /// Dropped from the table: whoever still holds it must look again.
    gone: bool,
}

impl Slot {
    /// When its state next changes by itself, in microseconds of the monotonic clock.
    fn due(&self) -> u64 {
        self.state.next_due().map_or(NEVER, micros)
    }
}

/// The store.
pub struct MemoryStore {
    tenants: Table<TenantId, Arc<Tenant>>,
    /// Live sessions only. A tenant that has one stays.
    index: Table<SessionId, Arc<Tenant>>,
    /// Live sessions by agent; unnamed agents under none.
    agents: Table<AgentName, u32>,
    /// Live sessions by worker and tenant: says whom to blame for its death.
    workers: Table<WorkerId, HashMap<TenantId, u32, Keyed>>,
    ended: Mutex<Endings>,
    agenda: Agenda<Tenant>,
    live: AtomicU32,
    unknown: AtomicU32,
    started: AtomicU64,
    failures: AtomicU64,
    sink: Arc<dyn EventSink>,
    journal: Arc<dyn Journal>,
}

impl MemoryStore {
    /// An empty store that remembers at most `ended` ids of ended sessions, for
    /// `ended_for`.
    #[must_use]
    pub fn new(
        sink: Arc<dyn EventSink>,
        journal: Arc<dyn Journal>,
        (ended, ended_for): (usize, Duration),
    ) -> Self {
        Self {
            tenants: Table::default(),
            index: in_pieces(SHARDS),
            agents: Table::default(),
            workers: Table::default(),
            ended: Mutex::new(Endings::new(ended, ended_for)),
            agenda: Agenda::default(),
            live: AtomicU32::new(0),
            unknown: AtomicU32::new(0),
            started: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            sink,
            journal,
        }
    }

    fn find(&self, tenant: &TenantId) -> Option<Arc<Tenant>> {
        self.tenants.get(tenant).map(|found| Arc::clone(&found))
    }

    /// The tenant's state, made where there is none. A made-up tenant can be
    /// refused one; a configured one never is, its number is the config's.
    fn find_or_make(
        &self,
        tenant: &TenantId,
        terms: &Terms,
        max_unknown: u32,
        now: Now,
    ) -> Result<Arc<Tenant>, Rejection> {
        if let Some(found) = self.find(tenant) {
            return Ok(found);
        }
        match self.tenants.entry(tenant.clone()) {
            Entry::Occupied(found) => Ok(Arc::clone(found.get())),
            Entry::Vacant(place) => {
                if !terms.known {
                    take_one(&self.unknown, max_unknown).map_err(|_| {
                        Rejection::limit_reached("tenants without a config entry", max_unknown)
                    })?;
                }
                let state = TenantState::new(tenant.clone(), Arc::clone(&terms.limits), now);
                let made = Arc::new(Tenant::new(state, Arc::new(terms.clone())));
                Ok(Arc::clone(&place.insert(made)))
            }
        }
    }

    /// One step on a tenant's state: decides, books what changed, tells it.
    /// `None` when the state was dropped meanwhile.
    fn step<R>(
        &self,
        tenant: &Arc<Tenant>,
        now: Now,
        decide: impl FnOnce(&mut Slot, &mut Vec<Event>) -> R,
    ) -> Option<R> {
        self.recorded_step(tenant, now, decide, |_, _, result| result)
    }

    /// As [`Self::step`]; `undo` is asked when what was decided could not be
    /// recorded.
    fn recorded_step<R>(
        &self,
        tenant: &Arc<Tenant>,
        now: Now,
        decide: impl FnOnce(&mut Slot, &mut Vec<Event>) -> R,
        undo: impl FnOnce(&mut Slot, &mut Vec<Event>, R) -> R,
    ) -> Option<R> {
        let mut slot = tenant.slot.lock();
        if slot.gone {
            return None;
        }
        let before = slot.state.totals();
        let mut events = Vec::new();
        // Booked before the decision, which looks into the tables: a session
        // that is due has ended by now, also for a retry of its own id.
        slot.state.expire(now, &mut events);
        let due = events.len();
        if due > 0 {
            // Before it is booked: another tenant may take its place on the
            // machine. What could not be recorded comes back and ends again.
            let _ = self.record(&mut slot, now);
        }
        events.iter().for_each(|event| self.book(tenant, event));
        let mut result = decide(&mut slot, &mut events);
        // Before anybody is told: what was told must outlive the process.
        if self.record(&mut slot, now).is_err() {
            result = undo(&mut slot, &mut events, result);
        }
        events.iter().skip(due).for_each(|event| self.book(tenant, event));
        let after = slot.state.totals();
        self.started.fetch_add(after.started - before.started, Ordering::Relaxed);
        self.failures.fetch_add(after.failures - before.failures, Ordering::Relaxed);
        let due = slot.due();
        let look = if slot.state.is_live() {
            NEVER
        } else if slot.terms.known || !slot.state.is_idle(now, false, Duration::ZERO) {
            micros(now.mono) + TRIM_AFTER
        } else {
            micros(now.mono)
        };
        // Never at once: what could not be done now is tried at the next tick.
        self.agenda.plan(tenant, due.min(look).max(micros(now.mono) + 1));
        if !events.is_empty() {
            self.sink.append(events);
        }
        Some(result)
    }

    /// Ends what is due of a tenant, and drops it where nothing would be lost; else plans
    /// the next look.
    fn look_at(&self, tenant: &Arc<Tenant>, idle_after: Duration, now: Now) {
        let time = micros(now.mono);
        let is_due = || tenant.slot.lock().due() <= time;
        while is_due()
            && self.step(tenant, now, |slot, events| slot.state.expire(now, events)) == Some(true)
        {
        }
        let mut slot = tenant.slot.lock();
        if slot.gone {
            return;
        }
        let mut next = slot.due();
        if !slot.state.is_live() {
            slot.state.trim();
            let known = slot.terms.known;
            if slot.state.is_idle(now, known, idle_after) {
                slot.gone = true;
                if !known {
                    self.unknown.fetch_sub(1, Ordering::AcqRel);
                }
                self.tenants.remove(slot.state.tenant());
                self.agenda.leave(tenant);
                return;
            }
            let (least, most) = SWEEP_EVERY;
            let idle_after = u64::try_from(idle_after.as_micros()).unwrap_or(NEVER);
            next = next.min(time + if known { idle_after.clamp(least, most) } else { least });
        }
        self.agenda.plan(tenant, next.max(time + 1));
    }

    /// Records what a step changed, and remembers what it ended: before that is out of
    /// the index, so that it can always be told from what never was.
    fn record(&self, slot: &mut Slot, now: Now) -> Result<(), Unrecorded> {
        let tenant = slot.state.tenant().clone();
        let changes = slot.state.take_changes();
        let mut records = Vec::new();
        for Ended { session, owner, outcome } in &changes.ended {
            let (owner, outcome) = (owner.clone(), *outcome);
            let ending = Ending { tenant: tenant.clone(), owner, outcome };
            records.push(ending.record(session.clone(), now.mono));
            self.ended.lock().insert(session.clone(), ending, now.mono);
        }
        let recorded = slot.recorded.as_ref();
        if recorded.is_none_or(|r| !Arc::ptr_eq(r, &slot.terms) && r != &slot.terms) {
            slot.recorded = Some(Arc::clone(&slot.terms));
            let terms = Terms::clone(&slot.terms);
            records.push(Record::Terms { tenant: tenant.clone(), terms });
        }
        push(&mut records, &tenant, changes);
        if records.is_empty() { Ok(()) } else { self.journal.record(&records) }
    }

    /// Records some of the ended sessions anew, from the one numbered `from` on;
    /// where to go on, if there are more. After the tenants: whatever was recorded
    /// in the file before has been booked when its tenant could be locked.
    ///
    /// # Errors
    /// When they could not be recorded.
    pub fn record_ended(&self, from: usize) -> Result<Option<usize>, Unrecorded> {
        self.ended.lock().record(from, &*self.journal)
    }

    /// Records a tenant anew, some of its sessions at a time, from the place `from` on;
    /// where to go on, if there are more. Others go on, and in between the tenant itself:
    /// what changes meanwhile is recorded by the step that changes it.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub fn record_tenant(&self, tenant: &TenantId, from: u32) -> Result<Option<u32>, Unrecorded> {
        let Some(found) = self.find(tenant) else { return Ok(None) };
        let mut slot = found.slot.lock();
        if slot.gone {
            return Ok(None);
        }
        let mut records = Vec::new();
        if from == 0 {
            slot.recorded = Some(Arc::clone(&slot.terms));
            let terms = Terms::clone(&slot.terms);
            records.push(Record::Terms { tenant: tenant.clone(), terms });
        }
        let (some, next) = slot.state.record(from, RECORD_BATCH);
        push(&mut records, tenant, some);
        if !records.is_empty() {
            self.journal.record(&records)?;
        }
        Ok(next)
    }

    /// Takes over what an earlier process recorded, before the first call.
    /// Sessions that cannot be live any more end at once.
    pub fn restore(&self, image: Image, rebooted: bool, now: Now) {
        let mut ended: Vec<_> = image.ended.into_iter().collect();
        ended.sort_unstable_by_key(|(_, ended)| ended.at);
        for (id, of) in ended {
            let ending = Ending { tenant: of.tenant, owner: of.owner, outcome: of.outcome };
            // Over a boot nobody retries.
            if !rebooted {
                self.ended.lock().insert(id, ending, of.at);
            }
        }
        for (id, (mut terms, saved)) in image.tenants {
            if !saved.leases.is_empty() {
                // Config and keys may have changed meanwhile: live sessions are
                // told once too often rather than once too little.
                (terms.version, terms.credentials) = (String::new(), None);
            }
            let mut live = Vec::with_capacity(saved.leases.len());
            for lease in saved.leases.values() {
                let session = &lease.session;
                live.push(session.id.clone());
                self.live.fetch_add(1, Ordering::AcqRel);
                if let Some(agent) = &session.agent {
                    *self.agents.entry(agent.clone()).or_insert(0) += 1;
                }
                self.count_worker(session.worker.as_ref(), &id, 1);
            }
            if !terms.known {
                self.unknown.fetch_add(1, Ordering::AcqRel);
            }
            let limits = Arc::clone(&terms.limits);
            let state = TenantState::restore(id.clone(), limits, saved, rebooted, now);
            let tenant = Arc::new(Tenant::new(state, Arc::new(terms)));
            for session in live {
                self.index.insert(session, Arc::clone(&tenant));
            }
            self.tenants.insert(id, Arc::clone(&tenant));
            // Also sets when it is due.
            while self.step(&tenant, now, |slot, events| slot.state.expire(now, events))
                == Some(true)
            {}
        }
    }

    /// Brings a tenant to `terms`, unless it is on later ones; true when users
    /// must be told.
    fn reconfigure(
        &self,
        slot: &mut Slot,
        tenant: &TenantId,
        terms: &Terms,
        now: Now,
        events: &mut Vec<Event>,
    ) -> bool {
        if !slot.terms.is_behind(terms) {
            return false;
        }
        let was_known = slot.terms.known;
        let limits = Arc::clone(&slot.terms.limits);
        let changed = Arc::make_mut(&mut slot.terms).update(terms);
        match (was_known, slot.terms.known) {
            (true, false) => _ = self.unknown.fetch_add(1, Ordering::AcqRel),
            (false, true) => _ = self.unknown.fetch_sub(1, Ordering::AcqRel),
            (true, true) | (false, false) => {}
        }
        if changed {
            let kind = Kind::ConfigChanged { version: slot.terms.told() };
            events.push(Event::new(now, Subject::tenant(tenant), kind));
        }
        if changed || limits != slot.terms.limits {
            slot.state.configure(Arc::clone(&slot.terms.limits), now, events);
        }
        changed
    }

    /// Keeps the tables beside the tenants true to their events.
    fn book(&self, of: &Arc<Tenant>, event: &Event) {
        let Subject { tenant: Some(tenant), session: Some(id), agent, worker } = &event.subject
        else {
            return;
        };
        match &event.kind {
            Kind::SessionAcquired { .. } => {
                self.index.insert(id.clone(), Arc::clone(of));
                self.count_worker(worker.as_ref(), tenant, 1);
            }
            Kind::SessionEnded { .. } => {
                self.index.remove(id);
                self.give_shared_back(agent.as_ref());
                self.count_worker(worker.as_ref(), tenant, -1);
            }
            _ => {}
        }
    }

    fn count_worker(&self, worker: Option<&WorkerId>, tenant: &TenantId, by: i32) {
        let Some(worker) = worker else { return };
        let mut counts = self.workers.entry(worker.clone()).or_default();
        let count = counts.entry(tenant.clone()).or_default();
        *count = count.saturating_add_signed(by);
        if *count == 0 {
            counts.remove(tenant);
        }
        let empty = counts.is_empty();
        drop(counts);
        if empty {
            self.workers.remove_if(worker, |_, counts| counts.is_empty());
        }
    }

    /// A step on the tenant of a session.
    fn on_session<R>(
        &self,
        id: &SessionId,
        claim: &Claim,
        now: Now,
        decide: impl FnOnce(&mut Slot, &mut Vec<Event>) -> Result<R, Rejection>,
    ) -> Result<R, Rejection> {
        let found = self.index.get(id).map(|tenant| Arc::clone(&tenant));
        let Some(found) = found else { return Err(self.not_live(id, claim)) };
        let decided = self.step(&found, now, |slot, events| {
            let result = slot.state.check(id, claim).and_then(|()| decide(slot, events));
            result.map_err(|refused| match refused.hidden {
                Some(_) => refused,
                None => refused.of(slot.state.tenant()),
            })
        });
        match decided {
            // It may have ended by being due in this very step.
            None => Err(self.not_live(id, claim)),
            Some(Err(refused)) if refused.hidden.is_some() => Err(refused),
            Some(Err(refused)) if refused.reason == Reason::SessionUnknown => {
                Err(self.not_live(id, claim))
            }
            Some(result) => result,
        }
    }

    /// A session just granted was not: its grant could not be recorded, and a
    /// restart would forget it and open the cap.
    fn take_back(&self, slot: &mut Slot, events: &mut Vec<Event>, session: &Session) {
        slot.state.take_back(&session.id);
        events.retain(|event| {
            event.subject.session.as_ref() != Some(&session.id)
                || !matches!(event.kind, Kind::SessionAcquired { .. })
        });
        self.index.remove(&session.id);
        self.give_shared_back(session.agent.as_ref());
    }

    fn give_shared_back(&self, agent: Option<&AgentName>) {
        self.live.fetch_sub(1, Ordering::AcqRel);
        if let Some(agent) = agent
            && let Entry::Occupied(mut count) = self.agents.entry(agent.clone())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    fn ending(&self, id: &SessionId) -> Option<Ending> {
        self.ended.lock().get(id).cloned()
    }

    fn not_live(&self, id: &SessionId, claim: &Claim) -> Rejection {
        match self.ended.lock().get(id) {
            Some(ending) if !claim.admits(&ending.tenant, &ending.owner) => {
                Rejection::session_hidden(&ending.tenant)
            }
            Some(ending) => Rejection::ended(ending.outcome).of(&ending.tenant),
            None => Rejection::session_unknown(),
        }
    }

    /// Room for one more on the machine and the agent, in the order of the
    /// refusals; taken when `take`.
    fn claim(
        &self,
        agent: Option<&AgentName>,
        caps: SharedCaps,
        take: bool,
    ) -> Result<(), Rejection> {
        let full_machine =
            |live| Rejection::at_cap(Reason::MachineAtCap, "this machine", caps.machine, live);
        let take_machine = || {
            if take {
                take_one(&self.live, caps.machine).map_err(full_machine)
            } else {
                let live = self.live.load(Ordering::Acquire);
                if live < caps.machine { Ok(()) } else { Err(full_machine(live)) }
            }
        };
        let Some(agent) = agent else { return take_machine() };
        let entry = self.agents.entry(agent.clone());
        let live = if let Entry::Occupied(count) = &entry { *count.get() } else { 0 };
        if let Some(cap) = caps.agent.filter(|cap| live >= *cap) {
            return Err(Rejection::at_cap(
                Reason::AgentAtCap,
                &format!("agent {agent}"),
                cap,
                live,
            ));
        }
        take_machine()?;
        if take {
            *entry.or_insert(0) += 1;
        }
        Ok(())
    }
}

/// Adds one unless that would pass `max`; the count that was met otherwise.
fn take_one(count: &AtomicU32, max: u32) -> Result<(), u32> {
    count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < max).then_some(n + 1))
        .map(|_| ())
}

fn micros(at: Timestamp) -> u64 {
    u64::try_from(at.since_origin().as_micros()).unwrap_or(NEVER - 1)
}

#[async_trait]
impl SessionStore for MemoryStore {
    async fn acquire(
        &self,
        tenant: &TenantId,
        terms: &Terms,
        request: Acquire,
        caps: SharedCaps,
        now: Now,
    ) -> Result<Grant, Rejection> {
        loop {
            let found = self.find_or_make(tenant, terms, caps.unknown_tenants, now)?;
            let decide = |slot: &mut Slot, events: &mut Vec<Event>| {
                // In the same step: a cap that was changed before this acquire
                // asked for the config holds for it.
                self.reconfigure(slot, tenant, terms, now, events);
                let asked = &request.session;
                if let Some(owner) = slot.state.end_due(asked, now, events) {
                    return Err(if owner.is(&request.owner) {
                        Rejection::ended(Outcome::Lost).of(tenant)
                    } else {
                        Rejection::session_conflict().of(tenant)
                    });
                }
                let live = slot.state.has(&request.session);
                let previous = slot.state.worker_of(&request.session).cloned();
                let place = match self.index.entry(request.session.clone()) {
                    Entry::Occupied(holder) if !Arc::ptr_eq(holder.get(), &found) => {
                        return Err(Rejection::session_conflict().of(tenant));
                    }
                    place => place,
                };
                // Not held across the transition: booking what it ends takes
                // the table again.
                let fresh = matches!(place, Entry::Vacant(_));
                place.or_insert_with(|| Arc::clone(&found));
                let refuse = |refusal: Rejection| {
                    if fresh {
                        self.index.remove(&request.session);
                    }
                    Err(refusal.of(tenant))
                };
                // With its place taken: another tenant's session may end meanwhile,
                // and is remembered before it leaves its place.
                let ending = if live { None } else { self.ending(&request.session) };
                if let Some(ending) = ending {
                    let is_own = ending.tenant == *tenant && ending.owner.is(&request.owner);
                    return refuse(if is_own {
                        Rejection::ended(ending.outcome)
                    } else {
                        Rejection::session_conflict()
                    });
                }
                if let Some(problem) = self.journal.problem()
                    && (!live || self.journal.is_doubtful(&request.session))
                {
                    return refuse(unrecorded(&problem));
                }
                let claim = |take| self.claim(request.agent.as_ref(), caps, take);
                let granted = slot.state.acquire(&request, claim, now, events);
                match &granted {
                    Ok(grant) if !grant.created => {
                        let now_with = grant.session.worker.as_ref();
                        if now_with != previous.as_ref() {
                            self.count_worker(previous.as_ref(), tenant, -1);
                            self.count_worker(now_with, tenant, 1);
                        }
                    }
                    Ok(_) => {}
                    Err(_) if fresh => {
                        self.index.remove(&request.session);
                    }
                    Err(_) => {}
                }
                granted
            };
            let undo =
                |slot: &mut Slot, events: &mut Vec<Event>, granted: Result<Grant, _>| match granted
                {
                    Ok(grant) if grant.created => {
                        self.take_back(slot, events, &grant.session);
                        let problem = self.journal.problem().unwrap_or_default();
                        Err(unrecorded(&problem).of(tenant))
                    }
                    other => other,
                };
            if let Some(result) = self.recorded_step(&found, now, decide, undo) {
                return result;
            }
        }
    }

    async fn renew(
        &self,
        id: &SessionId,
        claim: &Claim,
        renewal: Renewal,
        now: Now,
    ) -> Result<Session, Rejection> {
        self.on_session(id, claim, now, |slot, events| {
            let before = slot.state.worker_of(id).cloned();
            let session = slot.state.renew(id, &renewal, now, events)?;
            if session.worker != before {
                self.count_worker(before.as_ref(), &session.tenant, -1);
                self.count_worker(session.worker.as_ref(), &session.tenant, 1);
            }
            Ok(session)
        })
    }

    async fn release(
        &self,
        id: &SessionId,
        claim: &Claim,
        outcome: Outcome,
        failure: Option<Failure>,
        now: Now,
    ) -> Result<Outcome, Rejection> {
        self.on_session(id, claim, now, |slot, events| {
            slot.state.release(id, outcome, failure, now, events)
        })
    }

    async fn report(
        &self,
        id: &SessionId,
        claim: &Claim,
        failure: Failure,
        end: bool,
        now: Now,
    ) -> Result<(Session, bool), Rejection> {
        self.on_session(id, claim, now, |slot, events| {
            slot.state.report(id, failure, end, now, events)
        })
    }

    async fn revoke(
        &self,
        id: &SessionId,
        claim: &Claim,
        cause: EndCause,
        actor: Option<&Actor>,
        now: Now,
    ) -> Result<Session, Rejection> {
        self.on_session(id, claim, now, |slot, events| {
            slot.state.revoke(id, cause, actor, now, events)
        })
    }

    async fn publish(
        &self,
        event: Publish,
        claim: &Claim,
        per_second: u32,
        now: Now,
    ) -> Result<(), Rejection> {
        let id = event.session.clone();
        self.renew(&id, claim, Renewal::default(), now).await?;
        self.on_session(&id, claim, now, |slot, events| {
            let session = slot.state.session(&id).ok_or_else(Rejection::session_unknown)?;
            let subject = Subject::session(&session);
            if !slot.state.may_publish(per_second, now) {
                return Err(Rejection::limit_reached(
                    "agent events per second of the tenant",
                    per_second,
                ));
            }
            let kind = Kind::AgentEvent {
                name: event.name,
                severity: event.severity,
                attributes: event.attributes,
            };
            events.push(Event::new(now, subject, kind));
            Ok(())
        })
    }

    async fn detach(&self, worker: &WorkerId, owner: &Owner, now: Now) -> Waiting {
        let tenants: Vec<TenantId> = match self.workers.get(worker) {
            Some(counts) => counts.keys().cloned().collect(),
            None => return Waiting::default(),
        };
        let blamed = tenants.len() == 1;
        let mut waiting = Waiting::default();
        for tenant in tenants {
            if let Some(found) = self.find(&tenant) {
                let more = self.step(&found, now, |slot, events| {
                    slot.state.detach(worker, owner, blamed, now, events)
                });
                let more = more.unwrap_or_default();
                waiting.sessions += more.sessions;
                waiting.grace = waiting.grace.max(more.grace);
            }
        }
        waiting
    }

    async fn attach(&self, worker: &WorkerId, owner: &Owner, now: Now) {
        let tenants: Vec<TenantId> = match self.workers.get(worker) {
            Some(counts) => counts.keys().cloned().collect(),
            None => return,
        };
        for found in tenants.iter().filter_map(|tenant| self.find(tenant)) {
            self.step(&found, now, |slot, _| slot.state.attach(worker, owner, now));
        }
    }

    async fn expire(&self, idle_after: Duration, now: Now) {
        loop {
            let some = self.agenda.take(micros(now.mono), AT_ONCE);
            if some.is_empty() {
                break;
            }
            for tenant in some {
                self.look_at(&tenant, idle_after, now);
            }
        }
        self.ended.lock().forget(now.mono);
    }

    async fn change(
        &self,
        tenant: &TenantId,
        terms: &Terms,
        change: Change,
        actor: &Actor,
        now: Now,
    ) -> Result<View, Rejection> {
        loop {
            let found = self.find_or_make(tenant, terms, u32::MAX, now)?;
            let decided = self.step(&found, now, |slot, events| {
                slot.state.expire(now, events);
                match &change {
                    Change::Cap(cap) => slot.state.set_cap(*cap, actor, now, events),
                    Change::Suspend => slot.state.suspend(actor, now, events),
                    Change::Resume => slot.state.resume(actor, now, events),
                    Change::OpenBreaker(duration) => {
                        slot.state.open_breaker(*duration, actor, now, events)?;
                    }
                    Change::ResetBreaker => slot.state.reset_breaker(actor, now, events),
                }
                Ok(slot.state.view(now))
            });
            if let Some(result) = decided {
                return result.map_err(|refused: Rejection| refused.of(tenant));
            }
        }
    }

    async fn configure(&self, tenant: &TenantId, terms: &Terms, now: Now) -> bool {
        let Some(found) = self.find(tenant) else { return false };
        let changed = self
            .step(&found, now, |slot, events| self.reconfigure(slot, tenant, terms, now, events));
        changed.unwrap_or(false)
    }

    async fn session(&self, id: &SessionId, claim: &Claim) -> Result<Session, Rejection> {
        let found = self.index.get(id).map(|tenant| Arc::clone(&tenant));
        let session = found
            .and_then(|found| found.slot.lock().state.session(id))
            .ok_or_else(|| self.not_live(id, claim))?;
        if claim.admits(&session.tenant, &session.owner) {
            Ok(session)
        } else {
            Err(Rejection::session_hidden(&session.tenant))
        }
    }

    async fn tenants(&self) -> Vec<TenantId> {
        self.tenants.iter().map(|entry| entry.key().clone()).collect()
    }

    async fn snapshot(&self, tenant: &TenantId, now: Now) -> Option<TenantSnapshot> {
        let found = self.find(tenant)?;
        let slot = found.slot.lock();
        (!slot.gone).then(|| TenantSnapshot {
            view: slot.state.view(now),
            sessions: slot.state.sessions().collect(),
            version: slot.terms.told(),
            as_of: self.sink.head(),
        })
    }

    async fn totals(&self) -> StoreTotals {
        StoreTotals {
            started: self.started.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            live: self.live.load(Ordering::Acquire),
            tenants: u32::try_from(self.tenants.len()).unwrap_or(u32::MAX),
        }
    }
}

fn push(records: &mut Vec<Record>, tenant: &TenantId, changes: Changes) {
    records.extend(changes.leases.into_iter().map(|lease| Record::Lease(Box::new(lease))));
    if let Some(breaker) = changes.breaker {
        records.push(Record::Breaker { tenant: tenant.clone(), breaker });
    }
    if let Some(switches) = changes.switches {
        records.push(Record::Switches { tenant: tenant.clone(), switches });
    }
}

fn unrecorded(problem: &str) -> Rejection {
    Rejection::new(
        Reason::Undecided,
        format!("a restart would forget a new session: the state cannot be written: {problem}"),
    )
}
