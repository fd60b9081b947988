//! `SessionService`: what agents call.

use std::{pin::Pin, sync::Arc};

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    caller, convert, deadline, keep_alive,
    status::{explained, status},
};
use crate::{
    app::{AcquireCall, Caller, LeaseToken, Sidecar, ports::Publish},
    domain::{
        event::Severity,
        reject::Rejection,
        session::{Outcome, SessionId, WorkerId},
    },
    wire::{
        served::{self, session_service_server::SessionService},
        v1,
    },
};

/// Most events in one `PublishEventsRequest`.
const MAX_EVENTS: usize = 100;

/// The service.
pub struct Sessions(pub Arc<Sidecar>);

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
        let known = asked.known_config_version;
        let call = AcquireCall {
            patience,
            ttl: convert::checked_duration("ttl", asked.ttl).map_err(status)?,
            session_id: asked.session_id,
            job_metadata: asked.job_metadata,
            room_metadata: asked.room_metadata,
            tenant: asked.tenant,
            agent_name: asked.agent_name,
            worker: asked.worker,
            activate: asked.activate,
            lease_token: LeaseToken(asked.lease_token),
        };
        let got = self.0.acquire(&caller, call).await.map_err(status)?;
        // Stale for a while is no version: whoever runs on it must be told.
        let config_unchanged =
            !known.is_empty() && got.config.version == known && got.config.stale.is_none();
        let config = if config_unchanged { Bytes::new() } else { convert::config(&got.config) };
        Ok(Response::new(served::AcquireSessionResponse {
            session: Some(convert::session(&got.grant.session, self.0.now())),
            config,
            created: got.grant.created,
            lease_token: got.lease_token.0,
            config_unchanged,
        }))
    }

    async fn renew_session(
        &self,
        request: Request<v1::RenewSessionRequest>,
    ) -> Result<Response<v1::RenewSessionResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let id = SessionId::parse(&asked.session_id).map_err(status)?;
        let worker = WorkerId::parse_optional(&asked.worker).map_err(status)?;
        let ttl = convert::checked_duration("ttl", asked.ttl).map_err(status)?;
        let lease = &asked.lease_token;
        let session =
            self.0.renew(&caller, &id, worker.as_ref(), ttl, lease).await.map_err(status)?;
        let session = Some(convert::session(&session, self.0.now()));
        Ok(Response::new(v1::RenewSessionResponse { session }))
    }

    async fn release_session(
        &self,
        request: Request<v1::ReleaseSessionRequest>,
    ) -> Result<Response<v1::ReleaseSessionResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let id = SessionId::parse(&asked.session_id).map_err(status)?;
        let outcome = match v1::Outcome::try_from(asked.outcome) {
            Ok(v1::Outcome::Success) => Outcome::Success,
            Ok(v1::Outcome::Failure) => Outcome::Failure,
            Ok(v1::Outcome::Cancelled) => Outcome::Cancelled,
            Ok(v1::Outcome::Unspecified | v1::Outcome::Lost | v1::Outcome::Revoked) | Err(_) => {
                return Err(status(Rejection::field(
                    "outcome",
                    format_args!("must be SUCCESS, FAILURE or CANCELLED, got {}", asked.outcome),
                )));
            }
        };
        let failure = convert::failure_in(asked.failure).map_err(status)?;
        if failure.is_some() && outcome != Outcome::Failure {
            return Err(status(Rejection::field("failure", "goes only with outcome FAILURE")));
        }
        let lease = &asked.lease_token;
        let booked = self.0.release(&caller, &id, outcome, failure, lease).await.map_err(status)?;
        Ok(Response::new(v1::ReleaseSessionResponse { outcome: convert::outcome(booked).into() }))
    }

    async fn report_failure(
        &self,
        request: Request<v1::ReportFailureRequest>,
    ) -> Result<Response<v1::ReportFailureResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let id = SessionId::parse(&asked.session_id).map_err(status)?;
        let failure = convert::failure_in(asked.failure).map_err(status)?.unwrap_or_default();
        let (end, lease) = (asked.end_session, &asked.lease_token);
        let (session, counted) =
            self.0.report(&caller, &id, failure, end, lease).await.map_err(status)?;
        let session = Some(convert::session(&session, self.0.now()));
        Ok(Response::new(v1::ReportFailureResponse { session, counted }))
    }

    async fn get_session_config(
        &self,
        request: Request<v1::GetSessionConfigRequest>,
    ) -> Result<Response<served::GetSessionConfigResponse>, Status> {
        let caller = caller(&request)?;
        let patience = deadline::patience(request.metadata());
        let asked = request.into_inner();
        let id = SessionId::parse(&asked.session_id).map_err(status)?;
        let lease = &asked.lease_token;
        let config = self.0.session_config(&caller, &id, lease, patience).await.map_err(status)?;
        let config = convert::config(&config);
        Ok(Response::new(served::GetSessionConfigResponse { config }))
    }

    type KeepAliveStream = Outgoing<v1::KeepAliveResponse>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::KeepAliveRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        let caller = caller(&request)?;
        let answers = keep_alive::run(Arc::clone(&self.0), caller, request.into_inner());
        Ok(Response::new(Box::pin(answers)))
    }

    type PublishEventsStream = Outgoing<v1::PublishEventsResponse>;

    async fn publish_events(
        &self,
        request: Request<Streaming<v1::PublishEventsRequest>>,
    ) -> Result<Response<Self::PublishEventsStream>, Status> {
        let caller = caller(&request)?;
        let sidecar = Arc::clone(&self.0);
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
