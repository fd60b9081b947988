//! `Work`: the calls of one agent process over one stream.
//!
//! They are polled by the stream itself, on the thread that serves its connection:
//! no task, no queue, and answers that are ready together leave in one message. What
//! is not answered yet is bounded; beyond it the stream is not read.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use prost::Message as _;
use tokio_stream::Stream;
use tonic::{Code, Status};

use super::{
    calls, convert, deadline,
    status::{explained, status, timed_out},
};
use crate::{
    app::{Caller, Sidecar},
    domain::reject::Rejection,
    transport::turn::{self, Share},
    wire::{
        served::{WorkAnswer, WorkResponse, work_answer::Answer},
        v1::{WorkCall, WorkRequest, work_call::Call},
    },
};

/// Most calls in one `WorkRequest`.
const MAX_CALLS: usize = 100;
/// Bytes of answers beyond which no more go into their message: clients take 4 MiB by
/// default, and a tenant's config alone may have many KiB.
const TOGETHER: usize = 32 * 1024;

/// A call under way, and then its status code beside its answer.
pub type Working = Pin<Box<dyn Future<Output = (WorkAnswer, i32)> + Send>>;
/// One that is observed.
pub type Observed = Pin<Box<dyn Future<Output = WorkAnswer> + Send>>;

/// Traces and times calls, as the layer round the services does for unary ones.
pub trait CallMeter: Send + Sync {
    /// `method` is `package.Service/Method`; `traceparent` the caller's, or empty.
    fn observe(&self, method: &'static str, traceparent: String, call: Working) -> Observed;
}

/// For nobody.
pub struct Unmetered;

impl CallMeter for Unmetered {
    fn observe(&self, _: &'static str, _: String, call: Working) -> Observed {
        Box::pin(async move { call.await.0 })
    }
}

/// The answers to one stream of requests.
pub fn run(
    sidecar: Arc<Sidecar>,
    meter: Arc<dyn CallMeter>,
    caller: Caller,
    asked: impl Stream<Item = Result<WorkRequest, Status>> + Send + 'static,
) -> impl Stream<Item = Result<WorkResponse, Status>> + Send {
    let at_once = usize::try_from(sidecar.config().limits.max_streams).unwrap_or(usize::MAX);
    let mut ended = sidecar.on_end();
    // What is under way when the sidecar ends is still answered.
    let asked = asked.take_until(async move { _ = ended.wait_for(|ended| *ended).await });
    WorkStream {
        sidecar,
        meter,
        caller: Arc::new(caller),
        at_once,
        asked: Some(Box::pin(asked)),
        broken: None,
        calls: VecDeque::new(),
        waiting: FuturesUnordered::new(),
    }
}

/// One stream, read and answered in the turns of its connection.
struct WorkStream<S> {
    sidecar: Arc<Sidecar>,
    meter: Arc<dyn CallMeter>,
    caller: Arc<Caller>,
    /// Most calls that are read and not answered.
    at_once: usize,
    /// Until its end.
    asked: Option<Pin<Box<S>>>,
    /// Why it ended, where it broke: what would be read behind that says nothing more.
    broken: Option<Status>,
    /// Read, and not begun.
    calls: VecDeque<WorkCall>,
    /// Begun, and not answered by their first poll.
    waiting: FuturesUnordered<Share<Observed>>,
}

impl<S: Stream<Item = Result<WorkRequest, Status>>> WorkStream<S> {
    /// As far ahead as the bound allows, whether or not they can be begun in this turn:
    /// h2 ends a connection that has many small frames which nobody looks at.
    fn read(&mut self, context: &mut Context<'_>) {
        while self.calls.len() + self.waiting.len() < self.at_once {
            let Some(asked) = &mut self.asked else { return };
            let Poll::Ready(read) = asked.as_mut().poll_next(context) else { return };
            match read.transpose().map_err(explained).and_then(within_bound) {
                Ok(Some(asked)) => {
                    // One that asks for nothing is as much work as a call.
                    if asked.calls.is_empty() && turn::poll_step(context).is_pending() {
                        return;
                    }
                    self.calls.extend(asked.calls);
                }
                Ok(None) => self.asked = None,
                Err(broken) => {
                    self.broken = Some(broken);
                    self.asked = None;
                }
            }
        }
    }

    /// What can be answered now, and may leave together.
    fn answers(&mut self, context: &mut Context<'_>) -> Vec<WorkAnswer> {
        let (mut answers, mut bytes) = (Vec::new(), 0);
        let mut add = |answer: WorkAnswer| {
            bytes += answer.encoded_len();
            answers.push(answer);
            bytes < TOGETHER
        };
        loop {
            while let Poll::Ready(Some(answer)) = self.waiting.poll_next_unpin(context) {
                if !add(answer) {
                    return answers;
                }
            }
            self.read(context);
            let had = self.waiting.len();
            while !self.calls.is_empty() {
                // A flood of calls must not hold the thread's other connections up.
                if turn::poll_step(context).is_pending() {
                    return answers;
                }
                let Some(asked) = self.calls.pop_front() else { break };
                let caller = Arc::clone(&self.caller);
                let mut call = call(Arc::clone(&self.sidecar), &*self.meter, caller, asked);
                match call.as_mut().poll(context) {
                    Poll::Ready(answer) => {
                        if !add(answer) {
                            return answers;
                        }
                    }
                    Poll::Pending => self.waiting.push(Share(call)),
                }
                if self.calls.is_empty() {
                    self.read(context);
                }
            }
            // Those are to wake their set, and not only the stream.
            if self.waiting.len() == had {
                return answers;
            }
        }
    }
}

impl<S: Stream<Item = Result<WorkRequest, Status>>> Stream for WorkStream<S> {
    type Item = Result<WorkResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let answers = self.answers(context);
        if !answers.is_empty() {
            return Poll::Ready(Some(Ok(WorkResponse { answers })));
        }
        if self.asked.is_some() || !self.calls.is_empty() {
            return Poll::Pending;
        }
        if let Some(broken) = self.broken.take() {
            self.waiting.clear();
            return Poll::Ready(Some(Err(broken)));
        }
        if self.waiting.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

fn within_bound(asked: Option<WorkRequest>) -> Result<Option<WorkRequest>, Status> {
    match &asked {
        Some(asked) if asked.calls.len() > MAX_CALLS => {
            let got = asked.calls.len();
            let must = format_args!("must be at most {MAX_CALLS}, got {got}");
            Err(status(Rejection::field("calls", must)))
        }
        _ => Ok(asked),
    }
}

fn call(
    sidecar: Arc<Sidecar>,
    meter: &dyn CallMeter,
    caller: Arc<Caller>,
    asked: WorkCall,
) -> Observed {
    let WorkCall { id, call, timeout, traceparent } = asked;
    let method = match &call {
        Some(Call::AcquireSession(_)) => "tenantd.v1.SessionService/AcquireSession",
        Some(Call::RenewSession(_)) => "tenantd.v1.SessionService/RenewSession",
        Some(Call::ReleaseSession(_)) => "tenantd.v1.SessionService/ReleaseSession",
        Some(Call::ReportFailure(_)) => "tenantd.v1.SessionService/ReportFailure",
        Some(Call::GetSessionConfig(_)) => "tenantd.v1.SessionService/GetSessionConfig",
        None => "tenantd.v1.SessionService/Work",
    };
    let work = async move {
        let answer = match convert::checked_duration("timeout", timeout) {
            Err(refused) => Err(status(refused)),
            Ok(None) => answer(&sidecar, &caller, None, call).await,
            Ok(Some(timeout)) => in_time(&sidecar, &caller, timeout, call).await,
        };
        let code = answer.as_ref().err().map_or(Code::Ok, Status::code);
        let answer = answer.unwrap_or_else(|said| Answer::Error(details(&said).into()));
        (WorkAnswer { id, answer: Some(answer) }, code.into())
    };
    meter.observe(method, traceparent, Box::pin(work))
}

async fn in_time(
    sidecar: &Sidecar,
    caller: &Caller,
    timeout: Duration,
    call: Option<Call>,
) -> Result<Answer, Status> {
    let answer = answer(sidecar, caller, Some(deadline::share(timeout)), call);
    tokio::time::timeout(timeout, answer).await.unwrap_or_else(|_| Err(timed_out()))
}

async fn answer(
    sidecar: &Sidecar,
    caller: &Caller,
    patience: Option<Duration>,
    call: Option<Call>,
) -> Result<Answer, Status> {
    Ok(match call {
        Some(Call::AcquireSession(asked)) => {
            Answer::AcquireSession(calls::acquire(sidecar, caller, patience, asked).await?)
        }
        Some(Call::RenewSession(asked)) => {
            Answer::RenewSession(calls::renew(sidecar, caller, asked).await?)
        }
        Some(Call::ReleaseSession(asked)) => {
            Answer::ReleaseSession(calls::release(sidecar, caller, asked).await?)
        }
        Some(Call::ReportFailure(asked)) => {
            Answer::ReportFailure(calls::report(sidecar, caller, asked).await?)
        }
        Some(Call::GetSessionConfig(asked)) => {
            Answer::GetSessionConfig(calls::config(sidecar, caller, patience, asked).await?)
        }
        None => return Err(status(Rejection::field("call", "is required"))),
    })
}

/// As in `grpc-status-details-bin`.
fn details(said: &Status) -> Vec<u8> {
    if !said.details().is_empty() {
        return said.details().to_vec();
    }
    let message = said.message().to_owned();
    tonic_types::pb::Status { code: said.code().into(), message, details: Vec::new() }
        .encode_to_vec()
}
