//! From a request to its service.
//!
//! The calls of agents take the short way, with no router in between, on the thread
//! that serves their connection. The rest is rare, may take long, goes through
//! tonic's router and runs in the background.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::{body::Body, service::Routes};
use tower::Service;
use tracing::Instrument as _;

use super::{deadline, of_peer::Inbound, session_service::Sessions, status};
use crate::{
    app::trace,
    wire::served::session_service_server::{SERVICE_NAME, SessionServiceServer},
};

/// A call's answer.
pub type Answer = Result<http::Response<Body>, Infallible>;
/// A call under way.
pub type Answering = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// Calls that wait for their answer; not the streams, which last.
#[derive(Clone, Default)]
pub struct Calls(Arc<AtomicUsize>);

impl Calls {
    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Acquire)
    }

    fn begin(&self) -> Counted {
        self.0.fetch_add(1, Ordering::AcqRel);
        Counted(self.clone())
    }
}

/// One of them.
struct Counted(Calls);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All services.
#[derive(Clone)]
pub struct Direct {
    calls: Calls,
    sessions: SessionServiceServer<Sessions>,
    rest: Routes,
    background: Handle,
}

impl Direct {
    /// `rest` has all services but the agents', and runs in `background`.
    #[must_use]
    pub fn new(
        sessions: SessionServiceServer<Sessions>,
        rest: Routes,
        background: Handle,
        calls: Calls,
    ) -> Self {
        Self { calls, sessions, rest, background }
    }

    /// What operators ask may take long (a reload, everybody's sessions): it must
    /// not hold up the agents that the same thread serves.
    fn elsewhere(&self, request: http::Request<Inbound>) -> Answering {
        let (mut rest, background) = (self.rest.clone(), self.background.clone());
        Box::pin(async move {
            let call = rest.call(request.map(Body::new));
            let call = trace::scoped(trace::current(), call.in_current_span());
            // A caller that goes away takes its call with it.
            let call = AbortOnDropHandle::new(background.spawn(call));
            call.await.unwrap_or_else(|_| Ok(status::interrupted()))
        })
    }
}

impl Service<http::Request<Inbound>> for Direct {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Call;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Both are always ready.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Inbound>) -> Call {
        if !is_grpc(request.headers()) {
            let call: Answering = Box::pin(std::future::ready(Ok(status::not_grpc())));
            return Call { call, patience: None, timer: None, _counted: None };
        }
        let patience = deadline::of(request.headers());
        let mine = method_of_agents(request.uri().path());
        // A stream of events is answered at its end, which is its client's.
        let lasts = mine == Some("/PublishEvents");
        let counted = (!lasts).then(|| self.calls.begin());
        let call: Answering =
            if mine.is_some() { self.sessions.call(request) } else { self.elsewhere(request) };
        Call { call, patience, timer: None, _counted: counted }
    }
}

/// "/Method", where the path is one of the agents' service.
fn method_of_agents(path: &str) -> Option<&str> {
    let method = path.strip_prefix('/')?.strip_prefix(SERVICE_NAME)?;
    method.starts_with('/').then_some(method)
}

/// The call is an agent's.
pub(super) fn is_of_agents(path: &str) -> bool {
    method_of_agents(path).is_some()
}

/// What a web page has its reader's browser send, with his client certificate, is of
/// another type: browsers ask before they send this one.
fn is_grpc(headers: &http::HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE).map(http::HeaderValue::as_bytes);
    let rest = kind.and_then(|kind| kind.strip_prefix(b"application/grpc"));
    matches!(rest, Some([] | [b'+' | b';', ..]))
}

/// A call, for as long as its caller waits.
pub struct Call {
    call: Answering,
    patience: Option<Duration>,
    /// Made when the call first waits: most never do.
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    _counted: Option<Counted>,
}

impl Future for Call {
    type Output = Answer;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Answer> {
        let me = &mut *self;
        if let Poll::Ready(answer) = me.call.as_mut().poll(context) {
            return Poll::Ready(answer.map(status::explain));
        }
        let Some(patience) = me.patience else { return Poll::Pending };
        let timer = me.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        timer.as_mut().poll(context).map(|()| Ok(status::timed_out().into_http()))
    }
}
