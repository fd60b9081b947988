//! The operator: changes things at run time, straight at the sidecar.

use std::{path::PathBuf, time::Instant};

use tenantd::wire::v1::{
    self, admin_service_client::AdminServiceClient, watch_service_client::WatchServiceClient,
};
use tonic::{Status, transport::Channel};

use crate::{
    bare::{channel, prompt, reason, timed},
    dice::Dice,
    table::{Table, Went},
    truth::Change as Set,
};

pub struct Operator {
    admin: AdminServiceClient<Channel>,
    watch: WatchServiceClient<Channel>,
}

impl Operator {
    pub fn new(socket: PathBuf) -> Self {
        let channel = channel(socket);
        Self {
            admin: AdminServiceClient::new(channel.clone()),
            watch: WatchServiceClient::new(channel),
        }
    }

    /// One change of one tenant that is not the sibling; what it is, and whether
    /// it was answered that it is done.
    pub async fn act(
        &mut self,
        dice: &mut Dice,
        tenant: &str,
        session: Option<&str>,
        table: &mut Table,
    ) -> Result<(Set, Option<bool>), String> {
        let tenant = tenant.to_owned();
        let note = "fault suite".to_owned();
        let at = Instant::now();
        let what = dice.weighted(&[
            (4, "set cap"),
            (1, "lift cap"),
            (2, "clear cap"),
            (1, "suspend"),
            (6, "resume"),
            (1, "open breaker"),
            (5, "reset breaker"),
            (2, "revoke"),
            (1, "reload"),
        ]);
        use v1::set_tenant_cap_request::Change;
        let mut set = Set::None;
        let result = match what {
            "set cap" | "lift cap" | "clear cap" => {
                let cap = u32::try_from(2 + dice.roll(7)).unwrap();
                let (change, cap) = match what {
                    "set cap" => (Change::Cap(cap), Some(Some(cap))),
                    "lift cap" => (Change::Unlimited(true), Some(None)),
                    _ => (Change::ClearOverride(true), None),
                };
                set = Set::Cap(cap);
                let asked = v1::SetTenantCapRequest { tenant, change: Some(change), note };
                prompt(self.admin.set_tenant_cap(timed(asked))).await.map(drop)
            }
            "suspend" => {
                set = Set::Suspended(true);
                let asked = v1::SuspendTenantRequest { tenant, note };
                prompt(self.admin.suspend_tenant(timed(asked))).await.map(drop)
            }
            "resume" => {
                set = Set::Suspended(false);
                let asked = v1::ResumeTenantRequest { tenant, note };
                prompt(self.admin.resume_tenant(timed(asked))).await.map(drop)
            }
            "open breaker" => {
                let duration = Some(prost_types::Duration { seconds: 1, nanos: 0 });
                let asked = v1::OpenBreakerRequest { tenant, duration, note };
                prompt(self.admin.open_breaker(timed(asked))).await.map(drop)
            }
            "reset breaker" => {
                let asked = v1::ResetBreakerRequest { tenant, note };
                prompt(self.admin.reset_breaker(timed(asked))).await.map(drop)
            }
            "revoke" => {
                set = Set::Revoked;
                let session_id = session.unwrap_or("nobody").to_owned();
                let asked = v1::RevokeSessionRequest { session_id, note };
                prompt(self.admin.revoke_session(timed(asked))).await.map(drop)
            }
            _ => prompt(self.admin.reload_config(timed(v1::ReloadConfigRequest { note })))
                .await
                .map(drop),
        };
        let answered = noted(what, result, at, table)?;
        Ok((set, answered))
    }

    pub async fn drain(&mut self, table: &mut Table) -> Result<(), String> {
        let at = Instant::now();
        let timeout = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let asked = v1::DrainRequest { timeout, note: "fault suite".to_owned() };
        let result = prompt(self.admin.drain(timed(asked))).await.map(drop);
        noted("drain", result, at, table).map(drop)
    }

    /// Live sessions; none while nobody answers.
    pub async fn sessions(&mut self) -> Option<Vec<v1::Session>> {
        let asked = v1::ListSessionsRequest { page_size: 1000, ..Default::default() };
        let answer = prompt(self.watch.list_sessions(timed(asked))).await.ok()?.into_inner();
        Some(answer.sessions)
    }

    /// Tenants that have state; none while nobody answers.
    pub async fn tenants(&mut self) -> Option<Vec<v1::Tenant>> {
        let asked = v1::ListTenantsRequest { page_size: 1000, ..Default::default() };
        let answer = prompt(self.watch.list_tenants(timed(asked))).await.ok()?.into_inner();
        Some(answer.tenants)
    }
}

fn noted(
    what: &str,
    result: Result<(), Status>,
    at: Instant,
    table: &mut Table,
) -> Result<Option<bool>, String> {
    let went = match &result {
        Ok(()) => Went::Well,
        Err(refused) => match reason(refused).as_str() {
            "UNAVAILABLE" => Went::Unavailable,
            "?" => return Err(format!("operator, {what}: {refused:?}")),
            _ => Went::Refused,
        },
    };
    table.note(&format!("operator {what}"), went, at.elapsed());
    Ok(match went {
        Went::Well => Some(true),
        Went::Refused => Some(false),
        Went::Unavailable | Went::Unanswered => None,
    })
}
