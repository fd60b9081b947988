//! The span that a call runs in, for the events that it causes.

use crate::domain::event::TraceRef;

tokio::task_local! {
    static CURRENT: TraceRef;
}

/// Runs a call in its caller's span, where it has one.
pub async fn scoped<F: Future>(trace: Option<TraceRef>, call: F) -> F::Output {
    match trace {
        Some(trace) => CURRENT.scope(trace, call).await,
        None => call.await,
    }
}

/// The span of the running call.
#[must_use]
pub fn current() -> Option<TraceRef> {
    CURRENT.try_with(|trace| *trace).ok()
}
