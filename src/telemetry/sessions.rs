//! One span per session, from its acquire to its end, linked to the call that
//! acquired it and told within the call that ended it.

use std::{
    collections::HashMap,
    time::{Duration, UNIX_EPOCH},
};

use opentelemetry::{
    Context, KeyValue, global,
    trace::{
        Link, Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId,
        TraceState, Tracer as _,
    },
};

use super::names;
use crate::domain::{
    event::{Event, Kind, TraceRef},
    session::SessionId,
};

/// Traces of live sessions; as many as are live.
#[derive(Default)]
pub struct SessionSpans {
    acquired: HashMap<SessionId, (Option<TraceRef>, Duration)>,
}

fn context(of: TraceRef) -> SpanContext {
    let (trace, span) = (TraceId::from(of.trace), SpanId::from(of.span));
    SpanContext::new(trace, span, TraceFlags::SAMPLED, true, TraceState::default())
}

impl SessionSpans {
    /// Follows one event. Nothing is kept where nobody is told of spans.
    pub fn follow(&mut self, event: &Event) {
        if !tracing::span_enabled!(target: super::rpc::TARGET, tracing::Level::INFO) {
            return;
        }
        let Some(id) = &event.subject.session else { return };
        match &event.kind {
            Kind::SessionAcquired { .. } => {
                self.acquired.insert(id.clone(), (event.trace, event.at.wall));
            }
            Kind::SessionEnded { outcome, cause, .. } => {
                let Some((acquired, since)) = self.acquired.remove(id) else { return };
                let tracer = global::tracer(names::SCOPE);
                let mut labels = vec![
                    KeyValue::new("session_id", id.to_string()),
                    KeyValue::new(names::OUTCOME, outcome.name()),
                    KeyValue::new(names::CAUSE, cause.name()),
                ];
                let subject = &event.subject;
                labels.extend(
                    subject.tenant.as_ref().map(|of| KeyValue::new(names::TENANT, of.to_string())),
                );
                labels.extend(
                    subject.agent.as_ref().map(|of| KeyValue::new("agent_name", of.to_string())),
                );
                let links =
                    acquired.map(|of| Link::with_context(context(of))).into_iter().collect();
                // Ended by a call: told in its trace. Ended by itself: in that of
                // its acquire.
                let parent = event.trace.or(acquired).map_or_else(Context::new, |of| {
                    Context::new().with_remote_span_context(context(of))
                });
                let mut span = tracer
                    .span_builder("session")
                    .with_kind(SpanKind::Internal)
                    .with_start_time(UNIX_EPOCH + since)
                    .with_attributes(labels)
                    .with_links(links)
                    .start_with_context(&tracer, &parent);
                span.end_with_timestamp(UNIX_EPOCH + event.at.wall);
            }
            _ => {}
        }
    }
}
