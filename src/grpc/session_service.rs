//! `SessionService`: what agents call.

use std::{pin::Pin, sync::Arc};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller, calls, convert, deadline, keep_alive,
    status::{explained, status},
    work::{self, CallMeter},
};
use crate::{
    app::{Caller, Sidecar, ports::Publish},
    domain::{event::Severity, reject::Rejection, session::SessionId},
    wire::{
        served::{self, session_service_server::SessionService},
        v1,
    },
};

/// Most events in one `PublishEventsRequest`.
const MAX_EVENTS: usize = 100;

/// The service.
pub struct Sessions {
    sidecar: Arc<Sidecar>,
    meter: Arc<dyn CallMeter>,
}

impl Sessions {
    /// Of a sidecar; `meter` for the calls over `Work` streams.
    #[must_use]
    pub fn new(sidecar: Arc<Sidecar>, meter: Arc<dyn CallMeter>) -> Self {
        Self { sidecar, meter }
    }
}

type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SessionService for Sessions {
    async fn acquire_session(
        &self,
        request: Request<v1::AcquireSessionRequest>,
    ) -> Result<Response<served::AcquireSessionResponse>, Status> {
        let caller = caller(&request)?;
        let patience = deadline::patience(request.metadata());
        let asked = request.into_inner();
        calls::acquire(&self.sidecar, &caller, patience, asked).await.map(Response::new)
    }

    async fn renew_session(
        &self,
        request: Request<v1::RenewSessionRequest>,
    ) -> Result<Response<v1::RenewSessionResponse>, Status> {
        let caller = caller(&request)?;
        calls::renew(&self.sidecar, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn release_session(
        &self,
        request: Request<v1::ReleaseSessionRequest>,
    ) -> Result<Response<v1::ReleaseSessionResponse>, Status> {
        let caller = caller(&request)?;
        calls::release(&self.sidecar, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn report_failure(
        &self,
        request: Request<v1::ReportFailureRequest>,
    ) -> Result<Response<v1::ReportFailureResponse>, Status> {
        let caller = caller(&request)?;
        calls::report(&self.sidecar, &caller, request.into_inner()).await.map(Response::new)
    }

    async fn get_session_config(
        &self,
        request: Request<v1::GetSessionConfigRequest>,
    ) -> Result<Response<served::GetSessionConfigResponse>, Status> {
        let caller = caller(&request)?;
        let patience = deadline::patience(request.metadata());
        let asked = request.into_inner();
        calls::config(&self.sidecar, &caller, patience, asked).await.map(Response::new)
    }

    type WorkStream = Outgoing<served::WorkResponse>;

    async fn work(
        &self,
        request: Request<Streaming<v1::WorkRequest>>,
    ) -> Result<Response<Self::WorkStream>, Status> {
        let caller = caller(&request)?;
        self.sidecar.may_work(&caller).map_err(status)?;
        let (sidecar, meter) = (Arc::clone(&self.sidecar), Arc::clone(&self.meter));
        let answers = work::run(sidecar, meter, caller, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    type KeepAliveStream = Outgoing<v1::KeepAliveResponse>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let caller = caller(&request)?;
        let answers = keep_alive::run(Arc::clone(&self.sidecar), caller, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    type PublishEventsStream = Outgoing<v1::PublishEventsResponse>;

    async fn publish_events(
        &self,
        request: Request<Streaming<v1::PublishEventsRequest>>,
    ) -> Result<Response<Self::PublishEventsStream>, Status> {
        let caller = caller(&request)?;
        let sidecar = Arc::clone(&self.sidecar);
        let mut asked = request.into_inner();
        // One answer at a time: an agent that does not read its answers is not
        // read either.
        let (answers, outgoing) = mpsc::channel(1);
        let mut drained = sidecar.on_end();
        tokio::spawn(async move {
            loop {
                let batch = tokio::select! {
                    batch = asked.message() => batch,
                    () = answers.closed() => break,
                    _ = drained.wait_for(|ended| *ended) => break,
                };
                let answer = match batch {
                    Ok(Some(batch)) => publish(&sidecar, &caller, batch).await,
                    Ok(None) => break,
                    Err(broken) => Err(explained(broken)),
                };
                let ends = answer.is_err();
                if answers.send(answer).await.is_err() || ends {
                    break;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(outgoing))))
    }
}

async fn publish(
    sidecar: &Sidecar,
    caller: &Caller,
    batch: v1::PublishEventsRequest,
) -> Result<v1::PublishEventsResponse, Status> {
    if batch.events.len() > MAX_EVENTS {
        let got = batch.events.len();
        let refused =
            Rejection::field("events", format_args!("must be at most {MAX_EVENTS}, got {got}"));
        return Err(status(refused));
    }
    let mut answer = v1::PublishEventsResponse::default();
    let max_bytes = sidecar.config().limits.agent_event_bytes;
    for (index, event) in (0_u32..).zip(batch.events) {
        let published = match event_in(event, max_bytes) {
            Ok((event, lease)) => sidecar.publish(caller, event, &lease).await,
            Err(refused) => Err(refused),
        };
        match published {
            Ok(()) => answer.accepted += 1,
            Err(refused) => answer.refused.push(v1::EventRefusal {
                index,
                reason: refused.reason.name().to_owned(),
                message: refused.message,
            }),
        }
    }
    Ok(answer)
}

/// The event, and the lease token beside it.
fn event_in(
    published: v1::PublishedEvent,
    max_bytes: usize,
) -> Result<(Publish, String), Rejection> {
    let session = SessionId::parse(&published.session_id)?;
    let lease = published.lease_token;
    let event = published.event.ok_or_else(|| Rejection::field("event", "is required"))?;
    let bytes = prost::Message::encoded_len(&event);
    if bytes > max_bytes {
        return Err(Rejection::field(
            "event",
            format_args!("must be at most {max_bytes} bytes, got {bytes}"),
        ));
    }
    if event.name.is_empty() {
        return Err(Rejection::field(
            "event.name",
            "must be 1-64 characters of [A-Za-z0-9_.-], got none",
        ));
    }
    convert::checked_token("event.name", &event.name, "_.-", 64)?;
    let severity = match v1::Severity::try_from(event.severity) {
        Ok(v1::Severity::Unspecified | v1::Severity::Info) => Severity::Info,
        Ok(v1::Severity::Debug) => Severity::Debug,
        Ok(v1::Severity::Warning) => Severity::Warning,
        Ok(v1::Severity::Error) => Severity::Error,
        Err(_) => {
            return Err(Rejection::field(
                "event.severity",
                "is not a value of tenantd.v1.Severity",
            ));
        }
    };
    let attributes = event.attributes.map(|a| convert::struct_in(a.fields)).unwrap_or_default();
    let published = Publish { session, name: event.name, severity, attributes };
    Ok((published, lease))
}
