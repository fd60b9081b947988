//! Log lines: one for each event, with the tenant as a field.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

use crate::domain::event::{Event, Kind};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Installs the subscriber: stderr, filtered by `TENANTD_LOG` (default "info").
pub fn install(format: LogFormat) {
    let filter = EnvFilter::try_from_env("TENANTD_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // A log file next to the config file: each line would be a change to tell of.
    // The client of the secret store quotes answers, keys included: never.
    let filter = ["notify=warn", "rustify=off", "vaultrs=off"]
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive);
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second install (tests in one process) keeps the first.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
}

/// Writes one event's line.
pub fn log(event: &Event, sequence: u64) {
    let tenant = event.subject.tenant.as_ref().map_or("", |t| t.as_str());
    let session_id = event.subject.session.as_ref().map_or("", |s| s.as_str());
    let agent_name = event.subject.agent.as_ref().map_or("", |a| a.as_str());
    let worker = event.subject.worker.as_ref().map_or("", |w| w.as_str());
    macro_rules! line {
        ($level:ident $(, $field:ident = $value:expr)*) => {
            tracing::$level!(sequence, tenant, session_id, agent_name, worker, $($field = $value,)* "{}", event.kind.name())
        };
    }
    match &event.kind {
        Kind::SessionRejected(refused) => {
            line!(info, reason = refused.reason.name(), detail = refused.message.as_str());
        }
        Kind::SessionEnded { outcome, cause, .. } => {
            line!(info, outcome = outcome.name(), cause = cause.name());
        }
        Kind::Reloaded { error: Some(error), .. } => line!(error, detail = error.as_str()),
        Kind::ConfigFailed { message, stale } => {
            line!(warn, detail = message.as_str(), stale = *stale);
        }
        Kind::BreakerOpened { .. } | Kind::WorkerLost { .. } | Kind::WorkerSlow { .. } => {
            line!(warn)
        }
        Kind::AgentEvent { name, .. } => line!(debug, name = name.as_str()),
        _ => line!(info),
    }
}
