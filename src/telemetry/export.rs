//! Where telemetry goes: OTLP by the standard `OTEL_*` variables, and a Prometheus
//! registry for the scrape.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::{
    Resource,
    metrics::{Instrument, SdkMeterProvider, Stream},
    trace::{SdkTracer, SdkTracerProvider},
};

use super::names;

/// Flushes and ends what exports, when dropped.
#[derive(Default)]
pub struct Exports {
    meters: Option<SdkMeterProvider>,
    tracers: Option<SdkTracerProvider>,
}

impl Drop for Exports {
    fn drop(&mut self) {
        if let Some(meters) = self.meters.take() {
            let _ = meters.shutdown();
        }
        if let Some(tracers) = self.tracers.take() {
            let _ = tracers.shutdown();
        }
    }
}

/// The variables of one signal ask for OTLP.
fn wanted(signal: &str, env: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| env(name).filter(|value| !value.is_empty());
    let off = set("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        || set(&format!("OTEL_{signal}_EXPORTER")).is_some_and(|value| value == "none");
    let on = set("OTEL_EXPORTER_OTLP_ENDPOINT")
        .or_else(|| set(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")))
        .is_some();
    on && !off
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn resource() -> Resource {
    let builder = Resource::builder();
    // The detectors of the builder take OTEL_SERVICE_NAME where it is set.
    let named = env("OTEL_SERVICE_NAME").is_some()
        || env("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|all| all.contains("service.name="));
    let builder = if named { builder } else { builder.with_service_name("tenantd") };
    let version = opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    builder.with_attribute(version).build()
}

/// A tracer, where `OTEL_EXPORTER_OTLP_ENDPOINT` (or `..._TRACES_ENDPOINT`) is set.
/// Within a tokio runtime.
///
/// # Errors
/// Variables that are not valid.
pub fn traces(exports: &mut Exports) -> anyhow::Result<Option<SdkTracer>> {
    if !wanted("TRACES", env) {
        return Ok(None);
    }
    let _ = rustls::crypto::ring::default_provider().install_default();
    let exporter = opentelemetry_otlp::SpanExporter::builder().build()?;
    let provider = SdkTracerProvider::builder()
        .with_resource(resource())
        .with_batch_exporter(exporter)
        .build();
    let tracer = provider.tracer(names::SCOPE);
    opentelemetry::global::set_tracer_provider(provider.clone());
    exports.tracers = Some(provider);
    Ok(Some(tracer))
}

/// A registry to scrape, where `scraped`; and OTLP where the variables ask for
/// it. At most `tenants` tenants are told by name.
///
/// # Errors
/// Variables that are not valid.
pub fn metrics(
    exports: &mut Exports,
    scraped: bool,
    tenants: usize,
) -> anyhow::Result<Option<prometheus::Registry>> {
    let pushed = wanted("METRICS", env);
    if !scraped && !pushed {
        return Ok(None);
    }
    // The bound is ours, on tenants; the SDK's own of 2,000 would fold others.
    let room = move |of: &Instrument| {
        let most = names::most_series(of.name(), tenants);
        Stream::builder().with_cardinality_limit(most).build().ok()
    };
    let mut builder = SdkMeterProvider::builder().with_resource(resource()).with_view(room);
    if pushed {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let exporter = opentelemetry_otlp::MetricExporter::builder().build()?;
        builder = builder.with_periodic_exporter(exporter);
    }
    let mut registry = None;
    if scraped {
        let own = prometheus::Registry::new();
        let reader = opentelemetry_prometheus::exporter()
            .with_registry(own.clone())
            .scope_info_enabled(false)
            .build()?;
        builder = builder.with_reader(reader);
        registry = Some(own);
    }
    let provider = builder.build();
    opentelemetry::global::set_meter_provider(provider.clone());
    exports.meters = Some(provider);
    Ok(registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_variables_switch_each_signal() {
        let on = |signal: &str, set: &[(&str, &str)]| {
            wanted(signal, |name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://localhost:4317");
        assert!(!on("TRACES", &[]));
        assert!(!on("TRACES", &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")]));
        assert!(on("TRACES", &[endpoint]) && on("METRICS", &[endpoint]));
        assert!(!on("TRACES", &[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        assert!(on("METRICS", &[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        assert!(!on("METRICS", &[endpoint, ("OTEL_SDK_DISABLED", "true")]));
        assert!(!on("METRICS", &[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://h")]));
    }
}
