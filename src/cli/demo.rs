//! `tenantd demo`: the four guarantees on one terminal, with nothing else
//! installed. The sidecar is a real one on a private socket, called over gRPC;
//! `make demo` shows the same with Python and Node agents.

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhow::ensure;
use tonic::Status;
use tonic_types::StatusExt as _;

use super::client;
use crate::{
    address::Address,
    config,
    domain::event::Kind,
    server::{self, Listeners},
    wire::v1::{self, session_service_client::SessionServiceClient},
};

/// Shows the four guarantees with simulated agents, and ends.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd demo\n\nStarts a sidecar of its own on a private socket; exit code 1 when a guarantee\ndoes not hold. `make demo` shows the same with Python and Node agents."
)]
pub struct Args {}

const CONFIG: &str = r#"
[defaults]
cap = 10
[defaults.providers.llm]
provider = "openai"
model = "gpt-4o-mini"
credential = "literal:sk-agency-made-up"
[tenants.acme.providers.llm]
provider = "anthropic"
model = "claude-sonnet"
credential = "literal:an-acme-made-up"
[tenants.small]
cap = 3
[tenants.broken.breaker]
min_samples = 4
cooldown = "2s"
probes = 2
"#;

type Sessions = SessionServiceClient<client::Calls>;

/// Runs it.
///
/// # Errors
/// The first guarantee that does not hold.
pub async fn run(_: Args) -> anyhow::Result<()> {
    let folder =
        std::env::temp_dir().join(format!("tenantd-demo-{}", uuid::Uuid::new_v4().simple()));
    let result = show(&folder).await;
    let _ = std::fs::remove_dir_all(&folder);
    result
}

async fn show(folder: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    std::fs::DirBuilder::new().mode(0o700).create(folder)?;
    let file = folder.join("tenantd.toml");
    std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&file)?
        .write_all(CONFIG.as_bytes())?;
    let socket = folder.join("tenantd.sock");
    let config = config::load(&file).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
    let listeners = Listeners { unix: Some(socket.clone()), ..Listeners::default() };
    let bound = server::bind(config, listeners).await?;
    let sidecar = Arc::clone(&bound.sidecar);
    let served = tokio::spawn(bound.run(std::future::pending(), || {}));
    let sessions = SessionServiceClient::new(client::connect(&Address::Unix(socket).into()).await?);
    isolation(sessions.clone()).await?;
    fairness(sessions.clone()).await?;
    blast_radius(sessions).await?;
    tagging(&sidecar)?;
    sidecar.begin_drain(Some(Duration::ZERO), None).await;
    served.await??;
    say("all four guarantees held")
}

fn say(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{line}")?)
}

async fn acquire(
    sessions: &mut Sessions,
    id: &str,
    metadata: &str,
) -> Result<v1::AcquireSessionResponse, Status> {
    let asked = v1::AcquireSessionRequest {
        session_id: id.to_owned(),
        job_metadata: metadata.to_owned(),
        agent_name: "demo".to_owned(),
        activate: true,
        ..Default::default()
    };
    sessions.acquire_session(asked).await.map(tonic::Response::into_inner)
}

async fn release(sessions: &mut Sessions, id: &str, outcome: v1::Outcome) -> Result<(), Status> {
    let asked = v1::ReleaseSessionRequest {
        session_id: id.to_owned(),
        outcome: outcome.into(),
        failure: None,
        ..Default::default()
    };
    sessions.release_session(asked).await.map(drop)
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

async fn isolation(mut sessions: Sessions) -> anyhow::Result<()> {
    say("1. config isolation: each tenant gets its own provider and key")?;
    for (id, metadata, want) in [
        ("one-acme", r#"{"tenant": " acme "}"#, "anthropic"),
        ("one-other", r#"{"tenant": "globex"}"#, "openai"),
        ("one-none", "free text", "openai"),
    ] {
        let granted = acquire(&mut sessions, id, metadata).await?;
        let config = granted.config.unwrap_or_default();
        let llm = config.providers.get("llm").cloned().unwrap_or_default();
        let key = llm.credentials.get("api_key").map(|key| key.value.as_str()).unwrap_or_default();
        let tenant = granted.session.unwrap_or_default().tenant;
        say(&format!(
            "   {tenant:<8} llm={}/{} key={}... ({} characters)",
            llm.provider,
            llm.model,
            key.get(..3).unwrap_or_default(),
            key.len()
        ))?;
        ensure!(llm.provider == want, "{tenant} got {} instead of {want}", llm.provider);
        release(&mut sessions, id, v1::Outcome::Success).await?;
    }
    Ok(())
}

async fn fairness(mut sessions: Sessions) -> anyhow::Result<()> {
    say("2. resource fairness: 20 calls at the same instant at cap 3; a sibling goes on")?;
    let mut calls = tokio::task::JoinSet::new();
    for n in 0..20 {
        let mut sessions = sessions.clone();
        calls.spawn(async move {
            acquire(&mut sessions, &format!("two-{n}"), r#"{"tenant": "small"}"#).await
        });
    }
    let (mut accepted, mut refused) = (0, 0);
    while let Some(call) = calls.join_next().await {
        match call? {
            Ok(_) => accepted += 1,
            Err(status) if reason(&status) == "TENANT_AT_CAP" => refused += 1,
            Err(status) => return Err(client::refused(&status)),
        }
    }
    say(&format!("   small: {accepted} accepted, {refused} refused with TENANT_AT_CAP"))?;
    ensure!((accepted, refused) == (3, 17), "the cap of 3 did not hold");
    acquire(&mut sessions, "two-sibling", r#"{"tenant": "acme"}"#).await?;
    say("   acme: accepted meanwhile")
}

async fn blast_radius(mut sessions: Sessions) -> anyhow::Result<()> {
    const BROKEN: &str = r#"{"tenant": "broken"}"#;
    say("3. blast radius: a failing tenant's breaker opens, half-opens and closes")?;
    for n in 0..4 {
        let id = format!("three-{n}");
        acquire(&mut sessions, &id, BROKEN).await?;
        release(&mut sessions, &id, v1::Outcome::Failure).await?;
    }
    let Err(open) = acquire(&mut sessions, "three-open", BROKEN).await else {
        anyhow::bail!("the breaker did not open");
    };
    ensure!(reason(&open) == "CIRCUIT_OPEN", "refused with {}", reason(&open));
    let after =
        open.get_error_details().retry_info().and_then(|info| info.retry_delay).unwrap_or_default();
    say(&format!(
        "   broken: 4 failures, then refused with CIRCUIT_OPEN, retry after {after:.1?}"
    ))?;
    acquire(&mut sessions, "three-sibling", r#"{"tenant": "acme"}"#).await?;
    say("   acme: accepted meanwhile")?;
    tokio::time::sleep(after + Duration::from_millis(200)).await;
    for n in 0..2 {
        let id = format!("three-probe-{n}");
        let probe = acquire(&mut sessions, &id, BROKEN).await?.session.unwrap_or_default();
        ensure!(probe.probe, "the breaker did not half-open");
        release(&mut sessions, &id, v1::Outcome::Success).await?;
    }
    let closed = acquire(&mut sessions, "three-closed", BROKEN).await?.session.unwrap_or_default();
    ensure!(!closed.probe, "two good probes did not close the breaker");
    say("   broken: half-open, 2 probes end well, closed")
}

fn tagging(sidecar: &crate::app::Sidecar) -> anyhow::Result<()> {
    say("4. tagging: every event carries its tenant")?;
    let (mut place, mut sessions) = (0, 0);
    while let Ok(entries) = sidecar.events.after(place) {
        let Some(last) = entries.last() else { break };
        place = last.sequence;
        for entry in &entries {
            let tenant = entry.event.subject.tenant.as_ref();
            ensure!(tenant.is_some(), "event {} has no tenant", entry.sequence);
            sessions += u32::from(matches!(entry.event.kind, Kind::SessionAcquired { .. }));
            let breaker = matches!(
                entry.event.kind,
                Kind::BreakerOpened { .. } | Kind::BreakerHalfOpened | Kind::BreakerClosed
            );
            if let Some(tenant) = tenant.filter(|_| breaker) {
                say(&format!(
                    "   event {:>3} {:<20} tenant={tenant}",
                    entry.sequence,
                    entry.event.kind.name()
                ))?;
            }
        }
    }
    say(&format!("   {place} events of {sessions} sessions, each with its tenant"))
}
