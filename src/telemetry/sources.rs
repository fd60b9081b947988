//! Metrics of sources, read when they are collected.

use std::sync::Arc;

use opentelemetry::{KeyValue, metrics::Meter};

use super::names;
use crate::app::ports::SourceStatus;

/// Asks `status` at each collection.
pub fn observe(meter: &Meter, status: impl Fn() -> Vec<SourceStatus> + Send + Sync + 'static) {
    let status = Arc::new(status);
    let label = |of: &SourceStatus| KeyValue::new(names::SOURCE, of.name.clone());
    let read = Arc::clone(&status);
    meter
        .u64_observable_counter(names::SOURCE_LOADS)
        .with_description("Questions to a source")
        .with_callback(move |to| read().iter().for_each(|of| to.observe(of.loads, &[label(of)])))
        .build();
    let read = Arc::clone(&status);
    meter
        .u64_observable_counter(names::SOURCE_FAILURES)
        .with_description("Questions without a usable answer")
        .with_callback(move |to| read().iter().for_each(|of| to.observe(of.failures, &[label(of)])))
        .build();
    let read = Arc::clone(&status);
    meter
        .u64_observable_counter(names::SOURCE_HITS)
        .with_description("Configs served from what a source had said")
        .with_callback(move |to| {
            for of in read() {
                for (stale, hits) in [(false, of.hits), (true, of.stale_hits)] {
                    to.observe(hits, &[label(&of), KeyValue::new(names::STALE, stale)]);
                }
            }
        })
        .build();
    let read = Arc::clone(&status);
    meter
        .u64_observable_gauge(names::SOURCE_ENTRIES)
        .with_description("Entries held")
        .with_callback(move |to| read().iter().for_each(|of| to.observe(of.entries, &[label(of)])))
        .build();
    meter
        .u64_observable_gauge(names::SOURCE_WATCHING)
        .with_description("1 while the source tells changes by itself")
        .with_callback(move |to| {
            status().iter().for_each(|of| to.observe(of.watching.into(), &[label(of)]));
        })
        .build();
}

#[cfg(test)]
mod tests {
    use opentelemetry::metrics::MeterProvider as _;
    use opentelemetry_sdk::metrics::{
        InMemoryMetricExporter, SdkMeterProvider,
        data::{AggregatedMetrics, MetricData},
    };

    use super::*;

    #[test]
    fn each_figure_has_its_source() {
        let exporter = InMemoryMetricExporter::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(exporter.clone()).build();
        observe(&provider.meter("t"), || {
            let (name, loads, stale_hits) = ("agency".to_owned(), 7, 3);
            vec![SourceStatus { name, loads, stale_hits, watching: true, ..Default::default() }]
        });
        provider.force_flush().unwrap();
        let told = exporter.get_finished_metrics().unwrap();
        let mut points = Vec::new();
        for metric in told[0].scope_metrics().flat_map(|scope| scope.metrics()) {
            let mut put = |labels: Vec<String>, value: u64| {
                points.push(format!("{}{{{}}} {value}", metric.name(), labels.join(",")));
            };
            let labels = |of: &mut dyn Iterator<Item = &KeyValue>| {
                let mut all: Vec<_> = of.map(|kv| format!("{}={}", kv.key, kv.value)).collect();
                all.sort();
                all
            };
            match metric.data() {
                AggregatedMetrics::U64(MetricData::Sum(sum)) => sum
                    .data_points()
                    .for_each(|point| put(labels(&mut point.attributes()), point.value())),
                AggregatedMetrics::U64(MetricData::Gauge(gauge)) => gauge
                    .data_points()
                    .for_each(|point| put(labels(&mut point.attributes()), point.value())),
                _ => {}
            }
        }
        for wanted in [
            "tenantd.source.loads{source=agency} 7",
            "tenantd.source.hits{source=agency,stale=true} 3",
            "tenantd.source.watching{source=agency} 1",
        ] {
            assert!(points.iter().any(|point| point == wanted), "{wanted} in {points:?}");
        }
    }
}
