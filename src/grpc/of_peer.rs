//! A peer's calls: who makes them, and how many it may have under way.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use tonic::{Status, body::Body};
use tower::Service;

use super::{direct::is_of_agents, status};
use crate::{
    app::{Sidecar, shed::Shed},
    domain::reject::{Reason, Rejection},
    transport::{
        account::{Account, Of, Partial, UnderWay},
        peer::Peer,
    },
};

/// Most headers of one call: within the bound of their bytes, but each costs memory of
/// its own while the call lasts.
const HEADERS: usize = 128;

/// The services, as one peer's connection calls them.
#[derive(Clone)]
pub struct OfPeer<S> {
    inner: S,
    caller: Arc<Calling>,
    account: Arc<Account>,
}

/// Who calls, and where it is told what was refused.
struct Calling {
    sidecar: Arc<Sidecar>,
    peer: Arc<Peer>,
}

impl Calling {
    /// A call that its peer may not have under way beside the others.
    fn overloaded(&self, why: Shed, problem: String) -> Status {
        self.refused(why, Rejection::new(Reason::Overloaded, problem))
    }

    /// A call that was not looked at further.
    fn refused(&self, why: Shed, refused: Rejection) -> Status {
        if self.sidecar.shed(why) {
            let (peer, pid) = (&self.peer.shown, self.peer.pid());
            tracing::warn!(%peer, pid, problem = %refused.message, "a call was refused");
        }
        status::status(refused)
    }
}

impl<S> OfPeer<S> {
    /// `inner`, called by `peer`.
    pub fn new(inner: S, sidecar: Arc<Sidecar>, peer: Arc<Peer>, account: Arc<Account>) -> Self {
        Self { inner, caller: Arc::new(Calling { sidecar, peer }), account }
    }
}

impl<S> hyper::service::Service<http::Request<Incoming>> for OfPeer<S>
where
    S: Service<http::Request<Inbound>, Response = http::Response<Body>, Error = Infallible> + Clone,
    S::Future: Unpin,
{
    type Response = http::Response<Outbound>;
    type Error = Infallible;
    type Future = Held<S::Future>;

    fn call(&self, request: http::Request<Incoming>) -> Self::Future {
        if request.headers().len() > HEADERS {
            let problem = format_args!("must have at most {HEADERS} entries");
            let refused = Rejection::field("metadata", problem);
            return Held::refused(self.caller.refused(Shed::TooManyHeaders, refused));
        }
        let of = if is_of_agents(request.uri().path()) { Of::Agents } else { Of::Operators };
        let under_way = match self.account.begin(of) {
            Ok(under_way) => under_way,
            Err(most) => {
                let problem = match of {
                    Of::Agents => format!(
                        "you have {most} calls under way, as many as limits.calls_per_peer allows"
                    ),
                    Of::Operators => format!(
                        "you have {most} calls other than agents' under way, as many as may be"
                    ),
                };
                return Held::refused(self.caller.overloaded(Shed::CallsAtBound, problem));
            }
        };
        let (partial, caller) = (under_way.partial(), Arc::clone(&self.caller));
        let mut request = request.map(|body| Inbound { body, partial, caller });
        request.extensions_mut().insert(Arc::clone(&self.caller.peer));
        // Services here are handles, and always ready.
        let call = self.inner.clone().call(request);
        Held { call: Some(call), refused: None, under_way: Some(under_way) }
    }
}

/// A call, or why there is none.
pub struct Held<F> {
    call: Option<F>,
    refused: Option<Status>,
    under_way: Option<UnderWay>,
}

impl<F> Held<F> {
    const fn refused(refused: Status) -> Self {
        Self { call: None, refused: Some(refused), under_way: None }
    }
}

impl<F> Future for Held<F>
where
    F: Future<Output = Result<http::Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<http::Response<Outbound>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let me = &mut *self;
        let answer = match (&mut me.call, me.refused.take()) {
            (Some(call), _) => ready!(Pin::new(call).poll(context))?,
            (None, Some(refused)) => refused.into_http(),
            // It was answered before.
            (None, None) => return Poll::Pending,
        };
        let under_way = me.under_way.take();
        Poll::Ready(Ok(answer.map(|body| Outbound { body, _under_way: under_way })))
    }
}

/// What a call's peer sends.
pub struct Inbound {
    body: Incoming,
    partial: Partial,
    caller: Arc<Calling>,
}

impl hyper::body::Body for Inbound {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(frame) = ready!(Pin::new(&mut self.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        if let Some(data) = frame.data_ref()
            && let Err(most) = self.partial.take(data)
        {
            let problem = format!(
                "you have more than {most} bytes of messages that are not whole yet, the most that limits.partial_bytes allows"
            );
            let refused = self.caller.overloaded(Shed::PartialAtBound, problem);
            return Poll::Ready(Some(Err(refused.into())));
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What its peer is sent. The call is under way until it was: an answer that nobody
/// reads holds memory, too.
pub struct Outbound {
    body: Body,
    _under_way: Option<UnderWay>,
}

impl hyper::body::Body for Outbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
