//! The commands that ask once: what is there, and changes by hand.

use std::io::Write as _;

use serde_json::{Value, json};

use super::{
    client::{self, Target},
    snapshot, tenants, text,
};
use crate::wire::v1::{
    self, admin_service_client::AdminServiceClient, set_tenant_cap_request::Change,
    watch_service_client::WatchServiceClient,
};

/// What a table of tenants shows.
pub const TENANT_COLUMNS: [&str; 7] =
    ["tenant", "live_sessions", "cap", "breaker", "suspended", "known", "total_rejections"];

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Shows figures of the whole sidecar
    #[command(
        after_help = "Examples:\n  tenantd snapshot\n  tenantd snapshot --json | jq .sessions_by_tenant"
    )]
    Snapshot(Output),
    /// Lists live sessions
    #[command(
        after_help = "Examples:\n  tenantd sessions --tenant acme\n  tenantd sessions --json"
    )]
    Sessions {
        /// Only this tenant's
        #[arg(long)]
        tenant: Option<String>,
        /// Only this agent's
        #[arg(long)]
        agent: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Lists tenants, shows one, or changes entries in a database
    #[command(
        args_conflicts_with_subcommands = true,
        after_help = "Examples:\n  tenantd tenants\n  tenantd tenants acme --json\n  tenantd tenants acme --explain\n  tenantd tenants set acme cap=5 --database sqlite:tenants.db\n\nA tenant that is named like a command: tenantd tenants -- export"
    )]
    Tenants {
        /// Only this one
        tenant: Option<String>,
        /// Also who gave each value of its config, and what each source said
        #[arg(long, requires = "tenant")]
        explain: bool,
        #[command(flatten)]
        output: Output,
        #[command(subcommand)]
        database: Option<tenants::Command>,
    },
    /// Refuses a tenant's new sessions; live ones go on
    #[command(after_help = "Examples:\n  tenantd suspend acme --note \"key leaked, ticket 123\"")]
    Suspend(OnTenant),
    /// Takes a suspended tenant's sessions again
    #[command(after_help = "Examples:\n  tenantd resume acme")]
    Resume(OnTenant),
    /// Sets a tenant's cap at run time, until it is set to "default"
    #[command(
        after_help = "Examples:\n  tenantd cap acme 5\n  tenantd cap acme unlimited\n  tenantd cap acme default"
    )]
    Cap {
        /// Tenant id
        tenant: String,
        /// A number, "unlimited", or "default" for the config's
        cap: String,
        /// Why; goes into the event
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Opens or resets a tenant's circuit breaker
    #[command(
        after_help = "Examples:\n  tenantd breaker open acme --for 5m\n  tenantd breaker reset acme"
    )]
    Breaker {
        /// What to do
        #[arg(value_enum)]
        action: BreakerAction,
        /// Tenant id
        tenant: String,
        /// For how long it opens; default: the tenant's cooldown
        #[arg(long = "for", value_parser = humantime::parse_duration)]
        duration: Option<std::time::Duration>,
        /// Why; goes into the event
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Ends a live session as revoked and tells its worker
    #[command(after_help = "Examples:\n  tenantd revoke AJ_000001 --note abuse")]
    Revoke {
        /// Session id
        session: String,
        /// Why; goes into the event
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Refuses new sessions and ends with the last one or at the deadline
    #[command(after_help = "Examples:\n  tenantd drain --timeout 5m")]
    Drain {
        /// How long live sessions may still run; default: drain.timeout
        #[arg(long, value_parser = humantime::parse_duration)]
        timeout: Option<std::time::Duration>,
        /// Why; goes into the event
        #[arg(long, default_value = "")]
        note: String,
    },
    /// Changes what the sidecar's log shows, until it ends
    #[command(
        after_help = "Examples:\n  tenantd log-filter debug\n  tenantd log-filter info,tenantd::app=trace\n  tenantd log-filter info"
    )]
    LogFilter {
        /// As TENANTD_LOG: a level, or TARGET=LEVEL with commas
        filter: String,
    },
    /// Reads the config file again
    #[command(after_help = "Examples:\n  tenantd check tenantd.toml && tenantd reload")]
    Reload {
        /// Why; goes into the event
        #[arg(long, default_value = "")]
        note: String,
    },
}

/// How data is shown.
#[derive(Debug, clap::Args)]
pub struct Output {
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// A tenant and why.
#[derive(Debug, clap::Args)]
pub struct OnTenant {
    /// Tenant id
    tenant: String,
    /// Why; goes into the event
    #[arg(long, default_value = "")]
    note: String,
}

/// What to do with a breaker.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum BreakerAction {
    /// Reject the tenant's new sessions for a while
    Open,
    /// Close it and forget its samples
    Reset,
}

/// Runs one.
///
/// # Errors
/// `Unreachable`, or the sidecar's refusal.
pub async fn run(target: Target, command: Command) -> anyhow::Result<()> {
    let command = match command {
        Command::Tenants { database: Some(command), .. } => return tenants::run(command).await,
        command => command,
    };
    let channel = client::connect(&target).await?;
    let mut watch = WatchServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
    let mut admin = AdminServiceClient::new(channel);
    let said = |status: tonic::Status| client::refused(&status);
    // A flag's span is far below what does not fit.
    let wire = |of: std::time::Duration| prost_types::Duration::try_from(of).unwrap_or_default();
    match command {
        Command::Snapshot(output) => {
            let asked = v1::GetSnapshotRequest { details: true };
            let snapshot = watch.get_snapshot(asked).await.map_err(said)?.into_inner();
            snapshot::show(&snapshot, output.json)
        }
        Command::Sessions { tenant, agent, output } => {
            let mut asked = v1::ListSessionsRequest {
                tenant: tenant.unwrap_or_default(),
                agent_name: agent.unwrap_or_default(),
                ..Default::default()
            };
            let mut all = Vec::new();
            loop {
                let page = watch.list_sessions(asked.clone()).await.map_err(said)?.into_inner();
                all.extend(page.sessions.iter().map(session_json));
                if page.next_page_token.is_empty() {
                    break;
                }
                asked.page_token = page.next_page_token;
            }
            list(&all, &["session_id", "tenant", "agent_name", "worker", "state"], output.json)
        }
        Command::Tenants { tenant: Some(tenant), explain, output, .. } => {
            let asked = v1::GetTenantRequest { tenant, explain };
            let answer = watch.get_tenant(asked).await.map_err(said)?.into_inner();
            if explain {
                return explained(&answer, output.json);
            }
            show(&tenant_json(&answer.tenant.unwrap_or_default()), output.json)
        }
        Command::Tenants { tenant: None, output, .. } => {
            let mut asked = v1::ListTenantsRequest::default();
            let mut all = Vec::new();
            loop {
                let page = watch.list_tenants(asked.clone()).await.map_err(said)?.into_inner();
                all.extend(page.tenants.iter().map(tenant_json));
                if page.next_page_token.is_empty() {
                    break;
                }
                asked.page_token = page.next_page_token;
            }
            list(&all, &TENANT_COLUMNS, output.json)
        }
        Command::Suspend(OnTenant { tenant, note }) => {
            let asked = v1::SuspendTenantRequest { tenant, note };
            changed(admin.suspend_tenant(asked).await.map_err(said)?.into_inner().tenant)
        }
        Command::Resume(OnTenant { tenant, note }) => {
            let asked = v1::ResumeTenantRequest { tenant, note };
            changed(admin.resume_tenant(asked).await.map_err(said)?.into_inner().tenant)
        }
        Command::Cap { tenant, cap, note } => {
            let change = match cap.as_str() {
                "unlimited" => Change::Unlimited(true),
                "default" => Change::ClearOverride(true),
                number => Change::Cap(number.parse().map_err(|_| {
                    anyhow::anyhow!("the cap must be a number, \"unlimited\" or \"default\"")
                })?),
            };
            let asked = v1::SetTenantCapRequest { tenant, note, change: Some(change) };
            changed(admin.set_tenant_cap(asked).await.map_err(said)?.into_inner().tenant)
        }
        Command::Breaker { action: BreakerAction::Open, tenant, duration, note } => {
            let asked = v1::OpenBreakerRequest { tenant, note, duration: duration.map(wire) };
            changed(admin.open_breaker(asked).await.map_err(said)?.into_inner().tenant)
        }
        Command::Breaker { action: BreakerAction::Reset, tenant, note, .. } => {
            let asked = v1::ResetBreakerRequest { tenant, note };
            changed(admin.reset_breaker(asked).await.map_err(said)?.into_inner().tenant)
        }
        Command::Revoke { session, note } => {
            let asked = v1::RevokeSessionRequest { session_id: session, note };
            let revoked = admin.revoke_session(asked).await.map_err(said)?.into_inner().session;
            show(&session_json(&revoked.unwrap_or_default()), false)
        }
        Command::Drain { timeout, note } => {
            let asked = v1::DrainRequest { timeout: timeout.map(wire), note };
            let answer = admin.drain(asked).await.map_err(said)?.into_inner();
            let left = answer.deadline.as_ref().map(text::span).unwrap_or_default();
            line(&format!("draining: {} live sessions may run for {left:?}", answer.live_sessions))
        }
        Command::LogFilter { filter } => {
            let asked = v1::SetLogFilterRequest { filter };
            admin.set_log_filter(asked).await.map_err(said)?;
            line("the log shows it from now on")
        }
        Command::Reload { note } => {
            let asked = v1::ReloadConfigRequest { note };
            let answer = admin.reload_config(asked).await.map_err(said)?.into_inner();
            line(&format!("reloaded: {} tenants changed", answer.tenants_changed))?;
            for setting in answer.restart_required {
                line(&format!("  {} holds after a restart", text::escape(&setting)))?;
            }
            Ok(())
        }
    }
}

/// Who gave each value, and what each source said.
fn explained(answer: &v1::GetTenantResponse, json: bool) -> anyhow::Result<()> {
    let origins: Vec<_> = answer
        .origins
        .iter()
        .map(|of| json!({ "key": of.key, "value": of.value, "source": of.source }))
        .collect();
    let answers: Vec<_> = answer
        .answers
        .iter()
        .map(|of| {
            json!({
                "source": of.source,
                "state": of.state,
                "stale": of.stale,
                "age_seconds": of.age.as_ref().map(|age| text::span(age).as_secs_f64()),
                "error": of.error,
            })
        })
        .collect();
    if json {
        let tenant = answer.tenant.as_ref().map(tenant_json);
        let whole = json!({ "tenant": tenant, "origins": origins, "answers": answers });
        return line(&text::json_line(&whole));
    }
    list(&origins, &["key", "value", "source"], false)?;
    if !answers.is_empty() {
        line("")?;
        list(&answers, &["source", "state", "stale", "age_seconds", "error"], false)?;
    }
    Ok(())
}

fn changed(tenant: Option<v1::Tenant>) -> anyhow::Result<()> {
    show(&tenant_json(&tenant.unwrap_or_default()), false)
}

pub fn line(text: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout().lock(), "{text}")?)
}

/// One object: JSON, or a line for each key.
pub fn show(object: &Value, json: bool) -> anyhow::Result<()> {
    if json {
        return line(&text::json_line(object));
    }
    for (key, value) in object.as_object().into_iter().flatten() {
        line(&format!("{key:<24} {}", cell(value)))?;
    }
    Ok(())
}

/// Many objects: a JSON object a line, or a table.
pub fn list(objects: &[Value], columns: &[&str], json: bool) -> anyhow::Result<()> {
    if json {
        return objects.iter().try_for_each(|object| line(&text::json_line(object)));
    }
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(columns);
    for object in objects {
        table.add_row(columns.iter().map(|column| cell(&object[*column])));
    }
    line(&table.to_string())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text::escape(text),
        other => text::escape(&other.to_string()),
    }
}

pub fn session_json(session: &v1::Session) -> Value {
    json!({
        "session_id": session.session_id,
        "tenant": session.tenant,
        "agent_name": session.agent_name,
        "worker": session.worker,
        "state": text::lower(session.state().as_str_name(), "SESSION_STATE_"),
        "acquire_time": session.acquire_time.as_ref().map(|at| text::time(Some(at))),
        "expire_time": session.expire_time.as_ref().map(|at| text::time(Some(at))),
        "ttl_seconds": session.ttl.as_ref().map(|ttl| text::span(ttl).as_secs_f64()),
        "probe": session.probe,
        "failed": session.failed,
    })
}

pub fn tenant_json(tenant: &v1::Tenant) -> Value {
    let breaker = tenant.breaker.unwrap_or_default();
    json!({
        "tenant": tenant.tenant,
        "known": tenant.known,
        "live_sessions": tenant.live_sessions,
        "pending_sessions": tenant.pending_sessions,
        "cap": tenant.cap,
        "cap_overridden": tenant.cap_overridden,
        "max_acquires_per_second": tenant.max_acquires_per_second,
        "suspended": tenant.suspension.is_some(),
        "suspended_by": tenant.suspension.as_ref().map(|by| &by.actor),
        "suspended_note": tenant.suspension.as_ref().map(|by| &by.note),
        "breaker": if breaker.enabled { text::lower(breaker.state().as_str_name(), "BREAKER_STATE_") } else { "off".to_owned() },
        "breaker_successes": breaker.successes,
        "breaker_failures": breaker.failures,
        "breaker_open_remaining_seconds": breaker.open_remaining.as_ref().map(|left| text::span(left).as_secs_f64()),
        "config_version": tenant.config_version,
        "total_sessions_started": tenant.total_sessions_started,
        "total_session_failures": tenant.total_session_failures,
        "total_rejections": tenant.total_rejections,
    })
}
