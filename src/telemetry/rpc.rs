//! One server span and one duration per call, by the semantic conventions for RPC.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use opentelemetry::{
    KeyValue,
    metrics::{Histogram, Meter},
    propagation::{Extractor, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tower::{Layer, Service};
use tracing::{Instrument as _, field::Empty};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::names;
use crate::{app::trace, domain::event::TraceRef};

/// Target of all spans: the exporter's filter passes no other, so that neither
/// HTTP/2's own spans nor those of the export itself are exported.
pub const TARGET: &str = "tenantd::rpc";
/// Bounds of call durations, in seconds.
const DURATIONS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0];
/// gRPC's status codes by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
/// Where callers say in which span they are.
const TRACEPARENT: &str = "traceparent";
/// Place of "UNKNOWN" in it.
const UNKNOWN: usize = 2;

struct Headers<'a>(&'a http::HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(http::HeaderName::as_str).collect()
    }
}

/// One method, with the labels of each of its answers made beforehand.
struct Method {
    name: &'static str,
    labels: [[KeyValue; 3]; CODES.len()],
}

impl Method {
    fn new(name: String) -> Self {
        // As many as the API has, once in a process's life.
        let name: &'static str = name.leak();
        let labels = CODES.map(|code| {
            [
                KeyValue::new(names::RPC_SYSTEM, "grpc"),
                KeyValue::new(names::RPC_METHOD, name),
                KeyValue::new(names::RPC_STATUS, code),
            ]
        });
        Self { name, labels }
    }
}

struct Shared {
    /// Those that the API has: a path is anybody's text.
    methods: HashMap<&'static str, Arc<Method>>,
    other: Arc<Method>,
    duration: Histogram<f64>,
    propagator: TraceContextPropagator,
}

/// The layer.
#[derive(Clone)]
pub struct RpcLayer(Arc<Shared>);

impl RpcLayer {
    /// Tells the given methods (`package.Service/Method`) apart.
    #[must_use]
    pub fn new(meter: &Meter, methods: impl IntoIterator<Item = String>) -> Self {
        let methods = methods.into_iter().map(Method::new);
        Self(Arc::new(Shared {
            methods: methods.map(|method| (method.name, Arc::new(method))).collect(),
            other: Arc::new(Method::new("_OTHER".to_owned())),
            duration: meter
                .f64_histogram(names::RPC_DURATION)
                .with_unit("s")
                .with_description("How long calls took; of streams, until they were open")
                .with_boundaries(DURATIONS.to_vec())
                .build(),
            propagator: TraceContextPropagator::new(),
        }))
    }

    /// For calls over streams.
    #[must_use]
    pub fn streamed(&self) -> Streamed {
        Streamed(Arc::clone(&self.0))
    }
}

impl<S> Layer<S> for RpcLayer {
    type Service = Traced<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Traced { inner, shared: Arc::clone(&self.0) }
    }
}

/// A service whose calls are traced.
#[derive(Clone)]
pub struct Traced<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, A, B> Service<http::Request<A>> for Traced<S>
where
    S: Service<http::Request<A>, Response = http::Response<B>> + Send,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<A>) -> Self::Future {
        let began = Instant::now();
        let shared = Arc::clone(&self.shared);
        let method = shared.method(request.uri().path().trim_start_matches('/'));
        let caller = request
            .headers()
            .contains_key(TRACEPARENT)
            .then(|| shared.propagator.extract(&Headers(request.headers())));
        let span = method.span(caller.as_ref());
        let call = span.in_scope(|| self.inner.call(request));
        let code =
            |answer: &Result<S::Response, S::Error>| answer.as_ref().map_or(UNKNOWN, code_of);
        shared.observe(method, began, span, caller, call, code)
    }
}

/// Observes calls that are no requests of their own, over streams.
#[derive(Clone)]
pub struct Streamed(Arc<Shared>);

impl Streamed {
    /// One call; it gives its status code beside its answer.
    pub fn observe<T: Send + 'static>(
        &self,
        method: &str,
        traceparent: String,
        call: impl Future<Output = (T, i32)> + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send>> {
        let method = self.0.method(method);
        let caller = (!traceparent.is_empty()).then(|| {
            self.0.propagator.extract(&HashMap::from([(TRACEPARENT.to_owned(), traceparent)]))
        });
        let span = method.span(caller.as_ref());
        let code = |(_, code): &(T, i32)| {
            usize::try_from(*code).ok().filter(|code| *code < CODES.len()).unwrap_or(UNKNOWN)
        };
        let observed =
            Arc::clone(&self.0).observe(method, Instant::now(), span, caller, call, code);
        Box::pin(async move { observed.await.0 })
    }
}

impl Method {
    /// Its span, below its caller's: a span that was entered once keeps its parent.
    fn span(&self, caller: Option<&opentelemetry::Context>) -> tracing::Span {
        let span = tracing::info_span!(
            target: TARGET,
            "rpc",
            otel.name = self.name,
            otel.kind = "server",
            otel.status_code = Empty,
            rpc.system.name = "grpc",
            rpc.method = self.name,
            rpc.response.status_code = Empty,
            error.type = Empty,
            tenant = Empty,
            session_id = Empty,
            agent_name = Empty,
            reason = Empty,
        );
        if let Some(caller) = caller {
            let _ = span.set_parent(caller.clone());
        }
        span
    }
}

impl Shared {
    fn method(&self, path: &str) -> Arc<Method> {
        Arc::clone(self.methods.get(path).unwrap_or(&self.other))
    }

    /// Runs a call in its span, under its caller's, and times it.
    fn observe<T: 'static>(
        self: Arc<Self>,
        method: Arc<Method>,
        began: Instant,
        span: tracing::Span,
        caller: Option<opentelemetry::Context>,
        call: impl Future<Output = T> + Send + 'static,
        code_of: impl FnOnce(&T) -> usize + Send + 'static,
    ) -> Pin<Box<dyn Future<Output = T> + Send>> {
        // By far the most usual: nobody traces, on either side.
        if span.is_disabled() && caller.is_none() {
            return Box::pin(async move {
                let answer = call.await;
                self.time(&method, began, code_of(&answer));
                answer
            });
        }
        let parent = caller.unwrap_or_default();
        let own = span.context().span().span_context().clone();
        let caller = parent.span().span_context().clone();
        let trace = [own, caller].into_iter().find(|of| of.is_valid()).map(|of| TraceRef {
            trace: u128::from_be_bytes(of.trace_id().to_bytes()),
            span: u64::from_be_bytes(of.span_id().to_bytes()),
        });
        let call = call.instrument(span.clone());
        Box::pin(trace::scoped(trace, async move {
            let answer = call.await;
            let code = code_of(&answer);
            let name = CODES[code];
            span.record("rpc.response.status_code", name);
            // What the caller did wrong is no error of the server.
            let failed = matches!(
                name,
                "UNKNOWN"
                    | "DEADLINE_EXCEEDED"
                    | "UNIMPLEMENTED"
                    | "INTERNAL"
                    | "UNAVAILABLE"
                    | "DATA_LOSS"
            );
            if failed {
                span.record("otel.status_code", "ERROR");
                span.record("error.type", name);
            }
            self.time(&method, began, code);
            answer
        }))
    }

    fn time(&self, method: &Method, began: Instant, code: usize) {
        self.duration.record(began.elapsed().as_secs_f64(), &method.labels[code]);
    }
}

/// The status of an answer that ended with its headers; any other began well.
fn code_of<B>(answer: &http::Response<B>) -> usize {
    let Some(number) = answer.headers().get("grpc-status") else { return 0 };
    let number = number.to_str().ok().and_then(|number| number.parse::<usize>().ok());
    number.filter(|number| *number < CODES.len()).unwrap_or(UNKNOWN)
}
