//! `AdminService`: what operators change.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};

use super::{caller, convert, status::status};
use crate::{
    app::{Caller, Sidecar, ports::Change},
    domain::{audit::action, reject::Rejection, session::SessionId, tenant::TenantId},
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
    /// What was asked for, or its refusal: which is recorded, as any other.
    async fn checked<T>(
        &self,
        caller: &Caller,
        action: &'static str,
        decoded: Result<T, Rejection>,
    ) -> Result<T, Status> {
        match decoded {
            Ok(decoded) => Ok(decoded),
            Err(refused) => {
                self.0.refuse(caller, action, None, &refused).await;
                Err(status(refused))
            }
        }
    }

    async fn change(
        &self,
        caller: &Caller,
        action: &'static str,
        tenant: &str,
        note: String,
        change: Result<Change, Rejection>,
    ) -> Result<Option<v1::Tenant>, Status> {
        let tenant = self.checked(caller, action, TenantId::parse(tenant)).await?;
        let decoded = noted(note).and_then(|note| Ok((note, change?)));
        let (note, change) = match decoded {
            Ok(decoded) => decoded,
            Err(refused) => {
                self.0.refuse(caller, action, Some(&tenant), &refused).await;
                return Err(status(refused));
            }
        };
        let report = self.0.change(caller, &tenant, change, note).await.map_err(status)?;
        Ok(Some(convert::tenant(&report)))
    }
}

fn noted(note: String) -> Result<String, Rejection> {
    if note.len() > MAX_NOTE {
        let got = note.len();
        return Err(Rejection::field(
            "note",
            format_args!("must be at most {MAX_NOTE} bytes, got {got}"),
        ));
    }
    Ok(note)
}

fn bounded(
    field: &str,
    of: Option<prost_types::Duration>,
    min: Duration,
) -> Result<Option<Duration>, Rejection> {
    match convert::checked_duration(field, of)? {
        Some(got) if got < min || got > MAX_DURATION => {
            Err(Rejection::field(field, format_args!("must be {min:?} to 24 h, got {got:?}")))
        }
        of => Ok(of),
    }
}

fn cap(asked: Option<set_tenant_cap_request::Change>) -> Result<Change, Rejection> {
    use set_tenant_cap_request::Change as Asked;
    let cap = match asked {
        Some(Asked::Cap(cap)) if cap <= MAX_CAP => Some(Some(cap)),
        Some(Asked::Unlimited(true)) => Some(None),
        Some(Asked::ClearOverride(true)) => None,
        Some(Asked::Cap(_) | Asked::Unlimited(_) | Asked::ClearOverride(_)) | None => {
            return Err(Rejection::field(
                "change",
                format_args!(
                    "must be cap (0 to {MAX_CAP}), unlimited (true) or clear_override (true)"
                ),
            ));
        }
    };
    Ok(Change::Cap(cap))
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn set_tenant_cap(
        &self,
        request: Request<v1::SetTenantCapRequest>,
    ) -> Result<Response<v1::SetTenantCapResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let change = cap(asked.change);
        let tenant =
            self.change(&caller, action::TENANT_CAP, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::SetTenantCapResponse { tenant }))
    }

    async fn suspend_tenant(
        &self,
        request: Request<v1::SuspendTenantRequest>,
    ) -> Result<Response<v1::SuspendTenantResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let change = Ok(Change::Suspend);
        let tenant =
            self.change(&caller, action::TENANT_SUSPEND, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::SuspendTenantResponse { tenant }))
    }

    async fn resume_tenant(
        &self,
        request: Request<v1::ResumeTenantRequest>,
    ) -> Result<Response<v1::ResumeTenantResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let change = Ok(Change::Resume);
        let tenant =
            self.change(&caller, action::TENANT_RESUME, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::ResumeTenantResponse { tenant }))
    }

    async fn open_breaker(
        &self,
        request: Request<v1::OpenBreakerRequest>,
    ) -> Result<Response<v1::OpenBreakerResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let duration = bounded("duration", asked.duration, Duration::from_secs(1));
        let change = duration.map(Change::OpenBreaker);
        let tenant =
            self.change(&caller, action::BREAKER_OPEN, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::OpenBreakerResponse { tenant }))
    }

    async fn reset_breaker(
        &self,
        request: Request<v1::ResetBreakerRequest>,
    ) -> Result<Response<v1::ResetBreakerResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let change = Ok(Change::ResetBreaker);
        let tenant =
            self.change(&caller, action::BREAKER_RESET, &asked.tenant, asked.note, change).await?;
        Ok(Response::new(v1::ResetBreakerResponse { tenant }))
    }

    async fn revoke_session(
        &self,
        request: Request<v1::RevokeSessionRequest>,
    ) -> Result<Response<v1::RevokeSessionResponse>, Status> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        let decoded =
            SessionId::parse(&asked.session_id).and_then(|id| Ok((id, noted(asked.note)?)));
        let (id, note) = self.checked(&caller, action::SESSION_REVOKE, decoded).await?;
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
        let decoded = noted(asked.note)
            .and_then(|note| Ok((note, bounded("timeout", asked.timeout, Duration::ZERO)?)));
        let (note, timeout) = self.checked(&caller, action::DRAIN, decoded).await?;
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
        let decoded = noted(request.into_inner().note);
        let note = self.checked(&caller, action::RELOAD, decoded).await?;
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
        let decoded = if filter.len() > MAX_FILTER {
            let problem = format!("must be at most {MAX_FILTER} bytes, got {}", filter.len());
            Err(Rejection::field("filter", problem))
        } else {
            Ok(filter)
        };
        let filter = self.checked(&caller, action::LOG_FILTER, decoded).await?;
        self.0.set_log_filter(&caller, &filter).await.map_err(status)?;
        Ok(Response::new(v1::SetLogFilterResponse {}))
    }
}
