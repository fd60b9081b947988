//! Figures of the whole, for gauges.

use super::{Sidecar, ports::EventSink as _};
use crate::domain::{breaker, tenant::TenantId, validity::Validity};

/// One tenant's.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "telemetry::names documents each")]
pub struct TenantFigures {
    pub tenant: TenantId,
    pub known: bool,
    pub live: u32,
    pub pending: u32,
    pub cap: Option<u32>,
    /// "closed", "open", "half_open" or "off".
    pub breaker: &'static str,
    pub suspended: bool,
}

/// All.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "telemetry::names documents each")]
pub struct Figures {
    pub tenants: Vec<TenantFigures>,
    pub machine_cap: u32,
    pub workers: u64,
    pub watchers: u32,
    pub gaps: u64,
    pub denied: u64,
    /// Connections open now.
    pub connections: u64,
    /// Connections that were closed for the sake of the others.
    pub shed: super::shed::Counts,
    pub head: u64,
    pub draining: bool,
    pub reload_failed: bool,
    pub audit: super::ports::AuditStatus,
    pub state_failing: bool,
    pub state_lost: bool,
    pub uptime: std::time::Duration,
    /// Of the listener's certificates, and whether it is time to renew each.
    pub certificates: Vec<(Validity, bool)>,
}

impl Sidecar {
    /// The figures of now.
    pub async fn figures(&self) -> Figures {
        use std::sync::atomic::Ordering;
        let now = self.now();
        let mut tenants = Vec::new();
        for tenant in self.store.tenants().await {
            let Some(snapshot) = self.store.snapshot(&tenant, now).await else { continue };
            let view = snapshot.view;
            let breaker = match view.breaker.state {
                _ if !view.breaker.enabled => "off",
                breaker::State::Closed => "closed",
                breaker::State::Open { .. } => "open",
                breaker::State::HalfOpen { .. } => "half_open",
            };
            tenants.push(TenantFigures {
                known: self.is_configured(&tenant),
                tenant,
                live: view.live,
                pending: view.pending,
                cap: view.cap,
                breaker,
                suspended: view.suspension.is_some(),
            });
        }
        Figures {
            tenants,
            machine_cap: self.config().limits.max_sessions,
            workers: self.workers.count() as u64,
            watchers: self.watchers.count(),
            gaps: self.gaps.load(Ordering::Relaxed),
            denied: self.guard.denied(),
            connections: self.workers.connections() as u64,
            shed: self.sheds.counts(),
            head: self.events.head(),
            draining: self.draining().is_some(),
            audit: self.audit_status(),
            reload_failed: self.reload_failure.lock().is_some(),
            state_failing: self.journal.problem().is_some(),
            state_lost: self.journal.has_lost(),
            certificates: self
                .certificates()
                .into_iter()
                .map(|of| (of, of.is_ending(now.wall)))
                .collect(),
            uptime: now.mono.since(self.started.mono),
        }
    }

    /// A watcher was told of a gap.
    pub fn note_gap(&self) {
        self.gaps.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}
