//! `AdminService`: what operators change.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{caller, convert, status::status};
use crate::{
    app::{Caller, Sidecar, ports::Change},
    domain::{reject::Rejection, session::SessionId, tenant::TenantId},
    wire::v1::{self, admin_service_server::AdminService, set_tenant_cap_request},
};

/// Longest note, in bytes.
const MAX_NOTE: usize = 1024;
/// Highest cap that can be set by hand.
const MAX_CAP: u32 = 1_000_000;
/// Longest time for which a breaker is opened or a drain may last.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);

/// Longest log filter.
const MAX_FILTER: usize = 1024;

/// The service.
pub struct Admin(pub Arc<Sidecar>);

impl Admin {
    async fn change(
        &self,
        caller: &Caller,
        tenant: &str,
        note: String,
        change: Change,
    ) -> Result<Option<v1::Tenant>, Status> {
        let tenant = TenantId::parse(tenant).map_err(status)?;
        let report =
            self.0.change(caller, &tenant, change, checked(note)?).await.map_err(status)?;
        Ok(Some(convert::tenant(&report)))
    }
}

fn checked(note: String) -> Result<String, Status> {
    if note.len() > MAX_NOTE {
        let got = note.len();
        return Err(status(Rejection::field(
            "note",
            format_args!("must be at most {MAX_NOTE} bytes, got {got}"),
        )));
    }
    Ok(note)
}

fn bounded(
    field: &str,
    of: Option<prost_types::Duration>,
    min: Duration,
) -> Result<Option<Duration>, Status> {
    let of = convert::checked_duration(field, of).map_err(status)?;
    match of {
        Some(got) if got < min || got > MAX_DURATION => Err(status(Rejection::field(
            field,
            format_args!("must be {min:?} to 24 h, got {got:?}"),
        ))),
        of => Ok(of),
    }
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn set_tenant_cap(
        &self,
        request: Request<v1::SetTenantCapRequest>,
    ) -> Result<Response<v1::SetTenantCapResponse>, Status> {
        use set_tenant_cap_request::Change as Asked;
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let cap = match asked.change {
            Some(Asked::Cap(cap)) if cap <= MAX_CAP => Some(Some(cap)),
            Some(Asked::Unlimited(true)) => Some(None),
            Some(Asked::ClearOverride(true)) => None,
            Some(Asked::Cap(_) | Asked::Unlimited(_) | Asked::ClearOverride(_)) | None => {
                return Err(status(Rejection::field(
                    "change",
                    format_args!(
                        "must be cap (0 to {MAX_CAP}), unlimited (true) or clear_override (true)"
                    ),
                )));
            }
        };
        let tenant = self.change(&caller, &asked.tenant, asked.note, Change::Cap(cap)).await?;
        Ok(Response::new(v1::SetTenantCapResponse { tenant }))
    }

    async fn suspend_tenant(
        &self,
        request: Request<v1::SuspendTenantRequest>,
    ) -> Result<Response<v1::SuspendTenantResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let tenant = self.change(&caller, &asked.tenant, asked.note, Change::Suspend).await?;
        Ok(Response::new(v1::SuspendTenantResponse { tenant }))
    }

    async fn resume_tenant(
        &self,
        request: Request<v1::ResumeTenantRequest>,
    ) -> Result<Response<v1::ResumeTenantResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let tenant = self.change(&caller, &asked.tenant, asked.note, Change::Resume).await?;
        Ok(Response::new(v1::ResumeTenantResponse { tenant }))
    }

    async fn open_breaker(
        &self,
        request: Request<v1::OpenBreakerRequest>,
    ) -> Result<Response<v1::OpenBreakerResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let duration = bounded("duration", asked.duration, Duration::from_secs(1))?;
        let change = Change::OpenBreaker(duration);
        let tenant = self.change(&caller, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::OpenBreakerResponse { tenant }))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let tenant = self.change(&caller, &asked.tenant, asked.note, Change::ResetBreaker).await?;
        Ok(Response::new(v1::ResetBreakerResponse { tenant }))
    }

    async fn revoke_session(
        &self,
        request: Request<v1::RevokeSessionRequest>,
    ) -> Result<Response<v1::RevokeSessionResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let id = SessionId::parse(&asked.session_id).map_err(status)?;
        let note = checked(asked.note)?;
        let session = self.0.revoke(&caller, &id, note).await.map_err(status)?;
        let session = Some(convert::session(&session, self.0.now()));
        Ok(Response::new(v1::RevokeSessionResponse { session }))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::DrainResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let note = checked(asked.note)?;
        let timeout = bounded("timeout", asked.timeout, Duration::ZERO)?;
        let (drain, live_sessions) =
            self.0.drain_by(&caller, timeout, note).await.map_err(status)?;
        let deadline = Some(convert::duration(drain.deadline));
        Ok(Response::new(v1::DrainResponse { live_sessions, deadline }))
    }

    async fn reload_config(
        &self,
        request: Request<v1::ReloadConfigRequest>,
    ) -> Result<Response<v1::ReloadConfigResponse>, Status> {
        let caller = caller(&request)?;
        let note = checked(request.into_inner().note)?;
        let reloaded = self.0.reload_by(&caller, note).await.map_err(status)?;
        Ok(Response::new(v1::ReloadConfigResponse {
            tenants_changed: reloaded.tenants_changed,
            restart_required: reloaded.restart_required,
        }))
    }

    async fn set_log_filter(
        &self,
        request: Request<v1::SetLogFilterRequest>,
    ) -> Result<Response<v1::SetLogFilterResponse>, Status> {
        let caller = caller(&request)?;
        let filter = request.into_inner().filter;
        if filter.len() > MAX_FILTER {
            let problem = format!("must be at most {MAX_FILTER} bytes, got {}", filter.len());
            return Err(status(Rejection::field("filter", problem)));
        }
        self.0.set_log_filter(&caller, &filter).map_err(status)?;
        Ok(Response::new(v1::SetLogFilterResponse {}))
    }
}
