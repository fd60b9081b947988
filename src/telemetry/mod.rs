//! What operators see from outside: log lines and metrics. Both are made from
//! the event log by a reader of its own, so that a slow terminal or collector
//! never holds an acquire up.

pub mod logs;
pub mod metrics;
pub mod names;
pub mod sources;

use std::sync::Arc;

use self::metrics::Metrics;
use crate::app::Sidecar;

/// Tells events to the logs and the metrics until the sidecar ends.
pub async fn follow(sidecar: Arc<Sidecar>) {
    let meter = opentelemetry::global::meter(names::SCOPE);
    let mut metrics = Metrics::new(&meter, sidecar.config().limits.metric_tenants);
    let watched = Arc::clone(&sidecar);
    sources::observe(&meter, move || watched.source_status());
    let mut head = sidecar.events.subscribe();
    let mut place = 0;
    loop {
        match sidecar.events.after(place) {
            Ok(entries) if entries.is_empty() => {
                if head.changed().await.is_err() {
                    return;
                }
            }
            Ok(entries) => {
                for entry in entries {
                    place = entry.sequence;
                    logs::log(&entry.event, entry.sequence);
                    let tenant = entry.event.subject.tenant.as_ref();
                    let configured = tenant.is_some_and(|t| sidecar.is_configured(t));
                    metrics.record(&entry.event, configured);
                }
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
