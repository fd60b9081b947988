//! Metrics, recorded from events. Without an exporter installed the instruments
//! cost next to nothing.

use std::sync::Arc;

use opentelemetry::{
    KeyValue,
    metrics::{Counter, Histogram, Meter},
};

use super::{labels::TenantLabels, names};
use crate::domain::event::{Event, Kind};

/// Bounds of the duration histograms, in seconds: calls last from seconds to an
/// hour.
const DURATIONS: [f64; 12] =
    [0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0];
/// Bounds of the blocked times, in seconds.
const BLOCKED: [f64; 8] = [0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// All instruments.
pub struct Metrics {
    acquired: Counter<u64>,
    rejected: Counter<u64>,
    ended: Counter<u64>,
    duration: Histogram<f64>,
    breaker: Counter<u64>,
    config_failures: Counter<u64>,
    reloads: Counter<u64>,
    workers_lost: Counter<u64>,
    loop_blocked: Histogram<f64>,
    missed: Counter<u64>,
    folded: Counter<u64>,
    tenants: Arc<TenantLabels>,
}

impl Metrics {
    /// Instruments of `meter` that tell the tenants apart that `tenants` does.
    #[must_use]
    pub fn new(meter: &Meter, tenants: Arc<TenantLabels>) -> Self {
        let counter = |name, about| meter.u64_counter(name).with_description(about).build();
        let seconds = |name, about, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(about)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        Self {
            acquired: counter(names::SESSIONS_ACQUIRED, "Sessions that took a slot"),
            rejected: counter(names::SESSIONS_REJECTED, "Acquires refused"),
            ended: counter(names::SESSIONS_ENDED, "Sessions that ended"),
            duration: seconds(names::SESSION_DURATION, "How long sessions were held", &DURATIONS),
            breaker: counter(names::BREAKER_TRANSITIONS, "Breaker changes"),
            config_failures: counter(names::CONFIG_FAILURES, "Configs that did not resolve"),
            reloads: counter(names::RELOADS, "Config reloads"),
            workers_lost: counter(names::WORKERS_LOST, "Agent processes that went away"),
            loop_blocked: seconds(
                names::LOOP_BLOCKED,
                "How long event loops stood still",
                &BLOCKED,
            ),
            missed: counter(names::EVENTS_MISSED, "Events that these metrics missed"),
            folded: counter(names::TENANTS_FOLDED, "Records told under __other__"),
            tenants,
        }
    }

    /// Events that could not be recorded.
    pub fn missed(&self, events: u64) {
        self.missed.add(events, &[]);
    }

    /// Records one event; `configured` tells whether its tenant has an entry.
    pub fn record(&mut self, event: &Event, configured: bool) {
        let mut labels = Vec::with_capacity(3);
        if let Some(tenant) = &event.subject.tenant {
            let (label, folded) = self.tenants.label(tenant, configured);
            labels.push(label);
            if folded {
                self.folded.add(1, &[]);
            }
        }
        let mut with = |key, value| {
            labels.push(KeyValue::new(key, value));
            labels.clone()
        };
        match &event.kind {
            Kind::SessionAcquired { .. } => self.acquired.add(1, &labels),
            Kind::SessionRejected(refused) => {
                self.rejected.add(1, &with(names::REASON, refused.reason.name()));
            }
            Kind::SessionEnded { outcome, cause, held, .. } => {
                let by_outcome = with(names::OUTCOME, outcome.name());
                self.duration.record(held.as_secs_f64(), &by_outcome);
                self.ended.add(1, &with(names::CAUSE, cause.name()));
            }
            Kind::BreakerOpened { .. } => self.breaker.add(1, &with(names::STATE, "open")),
            Kind::BreakerHalfOpened => self.breaker.add(1, &with(names::STATE, "half_open")),
            Kind::BreakerClosed => self.breaker.add(1, &with(names::STATE, "closed")),
            Kind::ConfigFailed { .. } => self.config_failures.add(1, &labels),
            Kind::Reloaded { error, .. } => {
                let result = if error.is_none() { "ok" } else { "failed" };
                self.reloads.add(1, &with(names::RESULT, result));
            }
            Kind::WorkerLost { .. } => self.workers_lost.add(1, &labels),
            Kind::WorkerSlow { blocked } => {
                self.loop_blocked.record(blocked.as_secs_f64(), &labels)
            }
            Kind::SessionActivated
            | Kind::FailureReported(_)
            | Kind::ConfigChanged { .. }
            | Kind::ConfigRecovered
            | Kind::CapChanged { .. }
            | Kind::Suspended
            | Kind::Resumed
            | Kind::AgentEvent { .. }
            | Kind::WorkerAttached
            // Counted as they are made: not each of them is an event.
            | Kind::CallDenied { .. }
            | Kind::Draining { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    };

    use super::*;
    use crate::domain::{
        event::Subject,
        reject::{Reason, Rejection},
        session::{EndCause, Outcome},
        tenant::TenantId,
        time::{Now, Timestamp},
    };

    fn told(events: &[(&str, Kind)], max_tenants: usize) -> BTreeMap<String, u64> {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        let mut metrics =
            Metrics::new(&provider.meter("t"), Arc::new(TenantLabels::new(max_tenants)));
        let now = Now { mono: Timestamp::new(Duration::ZERO), wall: Duration::ZERO };
        for (tenant, kind) in events {
            let subject = Subject::tenant(&TenantId::parse(tenant).unwrap());
            metrics.record(&Event::new(now, subject, kind.clone()), *tenant == "configured");
        }
        provider.force_flush().unwrap();
        let mut points = BTreeMap::new();
        for metric in exporter
            .get_finished_metrics()
            .unwrap()
            .iter()
            .flat_map(|resource| resource.scope_metrics())
            .flat_map(|scope| scope.metrics())
        {
            if let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() {
                for point in sum.data_points() {
                    let mut labels: Vec<_> =
                        point.attributes().map(|kv| format!("{}={}", kv.key, kv.value)).collect();
                    labels.sort();
                    points.insert(
                        format!("{}{{{}}}", metric.name(), labels.join(",")),
                        point.value(),
                    );
                }
            }
        }
        points
    }

    #[test]
    fn each_figure_has_its_tenant_and_its_cause() {
        let refused = Rejection::new(Reason::TenantAtCap, "full");
        let ended = Kind::SessionEnded {
            outcome: Outcome::Lost,
            cause: EndCause::WorkerLost,
            held: Duration::from_secs(3),
            failure: None,
            counted: false,
        };
        let told = told(
            &[
                ("acme", Kind::SessionRejected(Box::new(refused))),
                ("globex", ended),
                ("acme", Kind::BreakerHalfOpened),
            ],
            10,
        );
        assert_eq!(told["tenantd.sessions.rejected{reason=TENANT_AT_CAP,tenant=acme}"], 1);
        assert_eq!(told["tenantd.sessions.ended{cause=worker_lost,outcome=lost,tenant=globex}"], 1);
        assert_eq!(told["tenantd.breaker.transitions{state=half_open,tenant=acme}"], 1);
    }

    #[test]
    fn made_up_tenants_share_one_label_beyond_the_bound() {
        let ids: Vec<String> = (0..100).map(|n| format!("t{n}")).collect();
        let mut events: Vec<_> = ids
            .iter()
            .map(|id| (id.as_str(), Kind::ConfigFailed { message: String::new(), stale: false }))
            .collect();
        events.push(("configured", Kind::ConfigFailed { message: String::new(), stale: false }));
        let told = told(&events, 3);
        let series = told.keys().filter(|key| key.starts_with(names::CONFIG_FAILURES)).count();
        assert_eq!(series, 5);
        assert_eq!(told["tenantd.config.failures{tenant=configured}"], 1, "it came last");
        assert_eq!(told["tenantd.config.failures{tenant=__other__}"], 97);
        assert_eq!(told["tenantd.metrics.tenants_folded{}"], 97);
    }
}
