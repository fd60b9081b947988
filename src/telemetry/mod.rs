//! What operators see from outside: log lines, metrics and traces. Those of events
//! are made from the event log by a reader of its own, so that a slow terminal or
//! collector never holds an acquire up.

pub mod export;
pub mod gauges;
pub mod labels;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod rpc;
pub mod scrape;
mod sessions;
pub mod sources;

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use opentelemetry::{KeyValue, metrics::Histogram};

use self::{
    export::Exports, gauges::Latest, labels::TenantLabels, logs::LogFormat, metrics::Metrics,
};
use crate::{
    app::{Sidecar, figures::Figures, ports::AcquireMeter},
    domain::tenant::TenantId,
};

/// How often gauges are read for those who are pushed to.
const READ_EVERY: Duration = Duration::from_secs(5);
/// Bounds of acquire durations, in seconds: from a warm cache to a slow source.
const ACQUIRES: [f64; 12] =
    [0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0];

/// Installs logs and traces. Within a tokio runtime.
///
/// # Errors
/// `OTEL_*` variables that are not valid.
pub fn install(format: LogFormat) -> anyhow::Result<Exports> {
    let mut exports = Exports::default();
    let tracer = export::traces(&mut exports)?;
    logs::install(format, tracer);
    Ok(exports)
}

/// Times acquires.
pub struct AcquireTimes {
    duration: Histogram<f64>,
    tenants: Arc<TenantLabels>,
}

impl AcquireTimes {
    /// Tells the tenants apart that `tenants` does.
    #[must_use]
    pub fn new(tenants: Arc<TenantLabels>) -> Self {
        let duration = opentelemetry::global::meter(names::SCOPE)
            .f64_histogram(names::ACQUIRE_DURATION)
            .with_unit("s")
            .with_description("How long acquires took to be decided")
            .with_boundaries(ACQUIRES.to_vec())
            .build();
        Self { duration, tenants }
    }
}

impl AcquireMeter for AcquireTimes {
    fn decided(&self, tenant: Option<&TenantId>, known: bool, granted: bool, took: Duration) {
        let result = if granted { "granted" } else { "refused" };
        let mut labels = vec![KeyValue::new(names::RESULT, result)];
        labels.extend(tenant.map(|tenant| self.tenants.label(tenant, known).0));
        self.duration.record(took.as_secs_f64(), &labels);
    }
}

/// Events that are told before the core is offered to the threads that serve, where they
/// have to share it: without this the p99 of a tenant beside a flood of granted calls was
/// 2 to 3 times its quiet one on one core, and 1.2 to 1.4 with it.
const IN_A_ROW: usize = 16;

/// Tells events to logs, metrics and traces until the sidecar ends.
pub async fn follow(sidecar: Arc<Sidecar>, tenants: Arc<TenantLabels>, latest: Latest) {
    let meter = opentelemetry::global::meter(names::SCOPE);
    gauges::observe(&meter, &latest, &tenants);
    let watched = Arc::clone(&sidecar);
    sources::observe(&meter, move || watched.source_status());
    let mut metrics = Metrics::new(&meter, tenants);
    let mut lines = logs::EventLines::default();
    let mut spans = sessions::SessionSpans::default();
    let mut head = sidecar.events.subscribe();
    let mut read = tokio::time::interval(READ_EVERY);
    read.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut place = sidecar.events.start();
    loop {
        match sidecar.events.after(place) {
            Ok(entries) if entries.is_empty() => {
                tokio::select! {
                    changed = head.changed() => if changed.is_err() { return },
                    _ = read.tick() => latest.store(Arc::new(sidecar.figures().await)),
                }
            }
            Ok(entries) => {
                let taken = entries.len();
                for (number, entry) in (1..).zip(entries) {
                    if number % IN_A_ROW == 0 {
                        std::thread::yield_now();
                    }
                    place = entry.sequence;
                    lines.write(&entry.event, entry.sequence);
                    spans.follow(&entry.event);
                    let tenant = entry.event.subject.tenant.as_ref();
                    let configured = tenant.is_some_and(|t| sidecar.is_configured(t));
                    metrics.record(&entry.event, configured);
                }
                // A flood of events must keep neither others nor the gauges waiting.
                tokio::task::yield_now().await;
                sidecar.events.pace(taken).await;
            }
            Err(gap) => {
                tracing::warn!(
                    from = gap.from,
                    to = gap.to,
                    "events were told too slowly; some are missing in the logs and metrics"
                );
                metrics.missed(gap.to + 1 - gap.from);
                place = gap.to;
            }
        }
    }
}

/// Where the figures of now are put.
#[must_use]
pub fn latest() -> Latest {
    Arc::new(ArcSwap::from_pointee(Figures::default()))
}
