//! What an operator does to a tenant or a session from `top`.

use std::time::Duration;

use crate::{
    cli::{
        client::{self, Target},
        text,
    },
    wire::v1::{self, admin_service_client::AdminServiceClient, set_tenant_cap_request::Change},
};

/// How long the sidecar may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Refuse a tenant's new sessions.
    Suspend,
    /// Take them again.
    Resume,
    /// Close a tenant's breaker and forget its samples.
    ResetBreaker,
    /// Set a tenant's cap.
    SetCap,
    /// End a session.
    Revoke,
}

impl Deed {
    /// As a command to a person, with its object's kind.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Suspend => "suspend tenant",
            Self::Resume => "resume tenant",
            Self::ResetBreaker => "reset breaker of tenant",
            Self::SetCap => "set cap of tenant",
            Self::Revoke => "revoke session",
        }
    }

    /// What it means for those concerned.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Suspend => "new sessions are refused, live ones go on",
            Self::Resume => "new sessions are taken again",
            Self::ResetBreaker => "it closes at once and forgets its samples",
            Self::SetCap => "until the sidecar ends; live sessions above it go on",
            Self::Revoke => "it ends now, and its worker is told",
        }
    }
}

/// One deed on one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Action {
    /// What.
    pub deed: Deed,
    /// The tenant, or the session to revoke.
    pub target: String,
    /// The cap to set: a number, "unlimited" or "default".
    pub cap: String,
    /// Why; goes into the event.
    pub note: String,
}

impl Action {
    /// What it does, for people; inert.
    #[must_use]
    pub fn describe(&self) -> String {
        let to = if self.deed == Deed::SetCap {
            format!(" to {}", text::escape(&self.cap))
        } else {
            String::new()
        };
        format!("{} {}{to}", self.deed.words(), text::escape(&self.target))
    }
}

/// A cap as it is typed.
///
/// # Errors
/// What would be valid.
pub fn cap(typed: &str) -> Result<Change, String> {
    match typed.trim() {
        "unlimited" => Ok(Change::Unlimited(true)),
        "default" => Ok(Change::ClearOverride(true)),
        number => number
            .parse()
            .map(Change::Cap)
            .map_err(|_| "the cap must be a number, \"unlimited\" or \"default\"".to_owned()),
    }
}

/// Does it, over a connection of its own.
///
/// # Errors
/// In words: the sidecar's refusal, or that it does not answer.
pub async fn perform(sidecar: Target, action: Action) -> Result<(), String> {
    match tokio::time::timeout(PATIENCE, ask(&sidecar, action)).await {
        Ok(done) => done.map_err(|error| {
            // On one line: of several, the first says what, and the rest what to do.
            format!("{error:#}").lines().collect::<Vec<_>>().join("; ")
        }),
        Err(_) => Err(format!(
            "no answer within {PATIENCE:?}; it may have been done: look before trying again"
        )),
    }
}

async fn ask(sidecar: &Target, action: Action) -> anyhow::Result<()> {
    let mut admin = AdminServiceClient::new(client::connect(sidecar).await?);
    let Action { deed, target, cap: typed, note } = action;
    let said = match deed {
        Deed::Suspend => {
            admin.suspend_tenant(v1::SuspendTenantRequest { tenant: target, note }).await.map(drop)
        }
        Deed::Resume => {
            admin.resume_tenant(v1::ResumeTenantRequest { tenant: target, note }).await.map(drop)
        }
        Deed::ResetBreaker => {
            admin.reset_breaker(v1::ResetBreakerRequest { tenant: target, note }).await.map(drop)
        }
        Deed::SetCap => {
            let change = Some(cap(&typed).map_err(anyhow::Error::msg)?);
            let asked = v1::SetTenantCapRequest { tenant: target, note, change };
            admin.set_tenant_cap(asked).await.map(drop)
        }
        Deed::Revoke => {
            let asked = v1::RevokeSessionRequest { session_id: target, note };
            admin.revoke_session(asked).await.map(drop)
        }
    };
    said.map_err(|status| client::refused(&status))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cap_is_a_number_or_a_word() {
        assert!(matches!(cap(" 5 "), Ok(Change::Cap(5))));
        assert!(matches!(cap("unlimited"), Ok(Change::Unlimited(true))));
        assert!(matches!(cap("default"), Ok(Change::ClearOverride(true))));
        for wrong in ["", "-1", "five", "5.5"] {
            assert!(cap(wrong).unwrap_err().contains("must be a number"), "{wrong}");
        }
    }
}
