//! `Work`: the calls of one agent process over one stream.
//!
//! They are polled by the stream itself, on the thread that serves its connection:
//! no task, no queue, and answers that are ready together leave in one frame. What
//! is not answered yet is bounded; beyond it the stream is not read.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
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
    transport::turn,
    wire::{
        served::{WorkResponse, work_response::Answer},
        v1::{WorkRequest, work_request::Call},
    },
};

/// A call under way, and then its status code beside its answer.
pub type Working = Pin<Box<dyn Future<Output = (WorkResponse, i32)> + Send>>;
/// One that is observed.
pub type Observed = Pin<Box<dyn Future<Output = WorkResponse> + Send>>;

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
    // What breaks a stream is its end: what would be read behind it says nothing more.
    let asked = asked.scan(false, |broken, asked| {
        let next = (!*broken).then_some(asked);
        *broken = next.as_ref().is_some_and(Result::is_err);
        std::future::ready(next)
    });
    let caller = Arc::new(caller);
    let calls = asked.map(move |asked| {
        let (sidecar, meter, caller) =
            (Arc::clone(&sidecar), Arc::clone(&meter), Arc::clone(&caller));
        async move {
            // A flood of requests must not hold the thread's other connections up.
            turn::step().await;
            let asked = asked.map_err(explained)?;
            Ok(call(sidecar, meter.as_ref(), caller, asked).await)
        }
    });
    calls.buffer_unordered(at_once)
}

fn call(
    sidecar: Arc<Sidecar>,
    meter: &dyn CallMeter,
    caller: Arc<Caller>,
    asked: WorkRequest,
) -> Observed {
    let WorkRequest { id, call, timeout, traceparent } = asked;
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
        (WorkResponse { id, answer: Some(answer) }, code.into())
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
