//! What each event changes of what is known.

use super::model::{Now, Session, Tenant, World, ago};
use crate::{
    cli::text,
    wire::v1::{self, event::Detail},
};

impl World {
    pub(super) fn event(&mut self, event: &v1::Event, now: Now) {
        use v1::EventKind as Kind;
        let kind = event.kind();
        match kind {
            Kind::SessionAcquired => self.acquired(event),
            Kind::SessionActivated => {
                if let Some(session) = self.sessions.get_mut(&event.session_id) {
                    session.state.state = v1::SessionState::Active.into();
                    if !event.worker.is_empty() {
                        session.state.worker.clone_from(&event.worker);
                    }
                }
                self.count(event, 0, -1);
            }
            Kind::SessionFailureReported => {
                if let Some(session) = self.sessions.get_mut(&event.session_id) {
                    session.state.failed = true;
                }
            }
            Kind::SessionEnded => {
                let ended = self.sessions.remove(&event.session_id);
                let pending = ended.is_some_and(|s| s.state.state() == v1::SessionState::Pending);
                self.count(event, -1, -i32::from(pending));
            }
            Kind::SessionRejected => {
                // A made-up tenant gets no row by being refused.
                if let Some(tenant) = self.tenants.get_mut(&event.tenant)
                    && let Some(Detail::SessionRejected(detail)) = &event.detail
                {
                    let reason = detail.reason().as_str_name().trim_start_matches("REASON_");
                    *tenant.reasons.entry(reason).or_default() += 1;
                }
            }
            Kind::WorkerAttached => {
                self.workers
                    .entry(event.worker.clone())
                    .or_default()
                    .state
                    .worker
                    .clone_from(&event.worker);
                self.of_worker(&event.worker, v1::SessionState::Grace, v1::SessionState::Active);
            }
            Kind::WorkerLost => {
                self.workers.remove(&event.worker);
                self.of_worker(&event.worker, v1::SessionState::Active, v1::SessionState::Grace);
            }
            Kind::WorkerSlow => self.slow(event, now),
            Kind::SidecarDraining => {
                if let Some(figures) = &mut self.figures {
                    figures.draining = true;
                }
            }
            _ if !event.tenant.is_empty() => self.switch(kind, event, now),
            _ => {}
        }
    }

    fn acquired(&mut self, event: &v1::Event) {
        let Some(Detail::SessionAcquired(detail)) = &event.detail else { return };
        let state = v1::Session {
            session_id: event.session_id.clone(),
            tenant: event.tenant.clone(),
            agent_name: event.agent_name.clone(),
            worker: event.worker.clone(),
            state: detail.state,
            acquire_time: event.time,
            probe: detail.probe,
            ..Default::default()
        };
        self.tenants.entry(event.tenant.clone()).or_insert_with(|| Tenant {
            state: v1::Tenant { tenant: event.tenant.clone(), ..Default::default() },
            switched: event.sequence,
            ..Tenant::default()
        });
        let pending = state.state() == v1::SessionState::Pending;
        self.count(event, 1, i32::from(pending));
        if let Some(tenant) = self.tenants.get_mut(&event.tenant)
            && event.sequence > self.known_to
        {
            tenant.state.cap = detail.cap;
        }
        self.sessions.insert(state.session_id.clone(), Session { state, blocked: None });
    }

    /// Live and pending sessions more or fewer, unless the figures that came
    /// last have this event in them already.
    fn count(&mut self, event: &v1::Event, live: i32, pending: i32) {
        let add = |count: &mut u32, by| *count = count.saturating_add_signed(by);
        if let Some(tenant) = self.tenants.get_mut(&event.tenant)
            && event.sequence > self.known_to
        {
            add(&mut tenant.state.live_sessions, live);
            add(&mut tenant.state.pending_sessions, pending);
        }
        if let Some(figures) = &mut self.figures
            && figures.cursor.as_ref().is_some_and(|cursor| event.sequence > cursor.sequence)
        {
            add(&mut figures.active_sessions, live);
            add(&mut figures.pending_sessions, pending);
        }
    }

    fn of_worker(&mut self, worker: &str, from: v1::SessionState, to: v1::SessionState) {
        for session in self.sessions.values_mut() {
            if session.state.worker == worker && session.state.state() == from {
                session.state.state = to.into();
            }
        }
    }

    fn slow(&mut self, event: &v1::Event, now: Now) {
        let Some(Detail::WorkerSlow(detail)) = &event.detail else { return };
        let lasted = detail.blocked.as_ref().map(text::span).unwrap_or_default();
        let blocked = Some((ago(event.time.as_ref(), now), lasted));
        if let Some(worker) = self.workers.get_mut(&event.worker) {
            worker.blocked = blocked;
            worker.state.loop_blocked_session_id.clone_from(&event.session_id);
        }
        if let Some(session) = self.sessions.get_mut(&event.session_id) {
            session.blocked = blocked;
        }
    }

    fn switch(&mut self, kind: v1::EventKind, event: &v1::Event, now: Now) {
        use v1::{BreakerState, EventKind as Kind};
        // Only of those that are shown: a change of another makes no row.
        let Some(tenant) = self.tenants.get_mut(&event.tenant) else { return };
        let breaker = tenant.state.breaker.get_or_insert_default();
        match kind {
            Kind::BreakerOpened => {
                breaker.set_state(BreakerState::Open);
                if let Some(Detail::BreakerChanged(detail)) = &event.detail {
                    let cooldown = detail.cooldown.as_ref().map(text::span).unwrap_or_default();
                    tenant.open_until = Some(ago(event.time.as_ref(), now) + cooldown);
                    breaker.failures = detail.failures;
                    breaker.successes = detail.samples.saturating_sub(detail.failures);
                }
            }
            Kind::BreakerHalfOpened => {
                breaker.set_state(BreakerState::HalfOpen);
                (breaker.probes_live, breaker.probes_healthy) = (0, 0);
                tenant.open_until = None;
            }
            Kind::BreakerClosed => {
                breaker.set_state(BreakerState::Closed);
                tenant.open_until = None;
            }
            Kind::TenantCapChanged => {
                if let Some(Detail::CapChanged(detail)) = &event.detail {
                    tenant.state.cap = detail.after;
                }
            }
            Kind::TenantSuspended => {
                tenant.state.suspension = Some(v1::Suspension {
                    actor: event.actor.clone(),
                    note: event.note.clone(),
                    since: event.time,
                });
            }
            Kind::TenantResumed => tenant.state.suspension = None,
            Kind::TenantConfigChanged => {
                if let Some(Detail::ConfigChanged(detail)) = &event.detail {
                    tenant.state.config_version.clone_from(&detail.version);
                }
            }
            _ => return,
        }
        tenant.switched = event.sequence;
    }
}
