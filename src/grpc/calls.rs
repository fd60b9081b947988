//! The calls of agents, whether each comes by itself or over a `Work` stream.

use std::time::Duration;

use bytes::Bytes;
use tonic::Status;

use super::{convert, status::status};
use crate::{
    app::{AcquireCall, Caller, LeaseToken, Sidecar},
    domain::{
        reject::Rejection,
        session::{Outcome, SessionId, WorkerId},
    },
    wire::{served, v1},
};

pub async fn acquire(
    sidecar: &Sidecar,
    caller: &Caller,
    patience: Option<Duration>,
    asked: v1::AcquireSessionRequest,
) -> Result<served::AcquireSessionResponse, Status> {
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
    let got = sidecar.acquire(caller, call).await.map_err(status)?;
    // Stale for a while is no version: whoever runs on it must be told.
    let config_unchanged =
        !known.is_empty() && got.config.version == known && got.config.stale.is_none();
    let config = if config_unchanged { Bytes::new() } else { convert::config(&got.config) };
    Ok(served::AcquireSessionResponse {
        session: Some(convert::session(&got.grant.session, sidecar.now())),
        config,
        created: got.grant.created,
        lease_token: got.lease_token.0,
        config_unchanged,
    })
}

pub async fn renew(
    sidecar: &Sidecar,
    caller: &Caller,
    asked: v1::RenewSessionRequest,
) -> Result<v1::RenewSessionResponse, Status> {
    let id = SessionId::parse(&asked.session_id).map_err(status)?;
    let worker = WorkerId::parse_optional(&asked.worker).map_err(status)?;
    let ttl = convert::checked_duration("ttl", asked.ttl).map_err(status)?;
    let lease = &asked.lease_token;
    let session = sidecar.renew(caller, &id, worker.as_ref(), ttl, lease).await.map_err(status)?;
    let session = Some(convert::session(&session, sidecar.now()));
    Ok(v1::RenewSessionResponse { session })
}

pub async fn release(
    sidecar: &Sidecar,
    caller: &Caller,
    asked: v1::ReleaseSessionRequest,
) -> Result<v1::ReleaseSessionResponse, Status> {
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
    let booked = sidecar.release(caller, &id, outcome, failure, lease).await.map_err(status)?;
    Ok(v1::ReleaseSessionResponse { outcome: convert::outcome(booked).into() })
}

pub async fn report(
    sidecar: &Sidecar,
    caller: &Caller,
    asked: v1::ReportFailureRequest,
) -> Result<v1::ReportFailureResponse, Status> {
    let id = SessionId::parse(&asked.session_id).map_err(status)?;
    let failure = convert::failure_in(asked.failure).map_err(status)?.unwrap_or_default();
    let (end, lease) = (asked.end_session, &asked.lease_token);
    let (session, counted) =
        sidecar.report(caller, &id, failure, end, lease).await.map_err(status)?;
    let session = Some(convert::session(&session, sidecar.now()));
    Ok(v1::ReportFailureResponse { session, counted })
}

pub async fn config(
    sidecar: &Sidecar,
    caller: &Caller,
    patience: Option<Duration>,
    asked: v1::GetSessionConfigRequest,
) -> Result<served::GetSessionConfigResponse, Status> {
    let id = SessionId::parse(&asked.session_id).map_err(status)?;
    let lease = &asked.lease_token;
    let config = sidecar.session_config(caller, &id, lease, patience).await.map_err(status)?;
    Ok(served::GetSessionConfigResponse { config: convert::config(&config) })
}
