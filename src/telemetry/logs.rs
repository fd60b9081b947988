//! Log lines: one for each event, with the tenant as a field; filtered by
//! `TENANTD_LOG`, which can be changed while the sidecar runs.

use std::{collections::HashMap, io::IsTerminal as _, sync::OnceLock, time::Duration};

use opentelemetry_sdk::trace::SdkTracer;
use parking_lot::Mutex;
use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    layer::SubscriberExt as _,
    reload,
    util::SubscriberInitExt as _,
};

use super::rpc;
use crate::domain::{
    event::{Event, Kind},
    tenant::TenantId,
};

/// Lines of one tenant and kind that are written each minute; the rest are
/// counted, and the count is written.
pub const LINES_PER_MINUTE: u32 = 60;
/// Tenants and kinds that are counted at once; beyond it lines are written.
const MAX_COUNTED: usize = 10_000;
const MINUTE: Duration = Duration::from_secs(60);

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

/// The filter in use, as it was written.
static SHOWN: Mutex<String> = Mutex::new(String::new());
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// Never shown, whatever the filter says: a log file next to the config file would
/// make each line a change to tell of, and the client of the secret store quotes
/// answers, keys included.
const ALWAYS: [&str; 3] = ["notify=warn", "rustify=off", "vaultrs=off"];

/// Holds unless the filter says otherwise: HTTP/2 warns of each connection that
/// floods, as often as somebody likes to flood.
const UNLESS: &str = "h2=error";

fn filter(text: &str) -> Result<EnvFilter, String> {
    let whole = if text.trim().is_empty() { String::new() } else { format!("{UNLESS},{text}") };
    let filter = EnvFilter::try_new(whole).map_err(|error| {
        format!("{error}; a filter is a level or TARGET=LEVEL, with commas, for example \"info,tenantd=debug\"")
    })?;
    Ok(ALWAYS
        .into_iter()
        .filter_map(|directive| directive.parse().ok())
        .fold(filter, EnvFilter::add_directive))
}

/// Installs the subscriber: lines on stderr, filtered by `TENANTD_LOG` (default
/// "info"), and spans to `tracer`.
pub fn install(format: LogFormat, tracer: Option<SdkTracer>) {
    let wanted = std::env::var("TENANTD_LOG").unwrap_or_default();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let (filter, wrong) = match filter(wanted) {
        Ok(filter) => (filter, None),
        Err(wrong) => (EnvFilter::new("info"), Some(wrong)),
    };
    let (filter, handle) = reload::Layer::new(filter);
    let json = match format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Human => false,
        LogFormat::Json => true,
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    // The lines of events name their trace themselves; a span's fields on every
    // line within it would say the same twice.
    let lines = if json {
        lines.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    // Spans of calls are for those who trace. Lines name what they are about
    // themselves, and a span that nobody wants is never made. A filter without a
    // level of its own would open the way down to TRACE for all: h2 alone has a
    // dozen spans a call there.
    let lines_only = filter_fn(|meta| !is_call(meta)).with_max_level_hint(LevelFilter::TRACE);
    let lines = lines.with_filter(lines_only.and(filter));
    let spans = tracer.map(|tracer| {
        // What the conventions have, and nothing about this program's own sources.
        tracing_opentelemetry::layer()
            .with_tracer(tracer)
            .with_location(false)
            .with_threads(false)
            .with_target(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_call).with_max_level_hint(LevelFilter::INFO))
    });
    // Not as an option: an absent layer without a filter lets all spans be made.
    let lines = tracing_subscriber::registry().with(lines);
    let installed = match spans {
        Some(spans) => lines.with(spans).try_init(),
        None => lines.try_init(),
    };
    // A second install (tests in one process) keeps the first.
    if installed.is_ok() {
        *SHOWN.lock() = if wrong.is_none() { wanted.to_owned() } else { "info".to_owned() };
        let _ = FILTER.set(handle);
    }
    if let Some(wrong) = wrong {
        tracing::warn!("TENANTD_LOG is not valid, \"info\" is used: {wrong}");
    }
}

fn is_call(meta: &tracing::Metadata<'_>) -> bool {
    meta.is_span() && meta.target() == rpc::TARGET
}

/// Changes the filter of the running process; what it was before.
///
/// # Errors
/// What would be valid.
pub fn set_filter(text: &str) -> Result<String, String> {
    let filter = filter(text)?;
    let handle = FILTER.get().ok_or("this process has no log")?;
    let mut shown = SHOWN.lock();
    handle.reload(filter).map_err(|error| error.to_string())?;
    Ok(std::mem::replace(&mut *shown, text.to_owned()))
}

/// Writes lines of events, few of those that say the same again and again.
#[derive(Default)]
pub struct EventLines {
    counts: HashMap<(Option<TenantId>, &'static str), Count>,
    swept: Duration,
}

struct Count {
    since: Duration,
    lines: u32,
}

impl EventLines {
    /// Writes one event's line, unless its tenant had enough of its kind in this
    /// minute.
    pub fn write(&mut self, event: &Event, sequence: u64) {
        let now = event.at.mono.since_origin();
        self.sweep(now);
        let what = match &event.kind {
            Kind::SessionRejected(refused) => refused.reason.name(),
            kind => kind.name(),
        };
        let key = (event.subject.tenant.clone(), what);
        if self.counts.len() < MAX_COUNTED || self.counts.contains_key(&key) {
            let count = self.counts.entry(key).or_insert(Count { since: now, lines: 0 });
            count.lines = count.lines.saturating_add(1);
            if count.lines > LINES_PER_MINUTE {
                return;
            }
        }
        log(event, sequence);
    }

    /// Ends minutes that are over, with how many lines each left out.
    fn sweep(&mut self, now: Duration) {
        if now.saturating_sub(self.swept) < Duration::from_secs(1) {
            return;
        }
        self.swept = now;
        self.counts.retain(|(tenant, what), count| {
            if now.saturating_sub(count.since) < MINUTE {
                return true;
            }
            let left_out = count.lines.saturating_sub(LINES_PER_MINUTE);
            if left_out > 0 {
                let tenant = tenant.as_ref().map_or("", |tenant| tenant.as_str());
                tracing::warn!(tenant, left_out, "{what}: lines were left out in the last minute");
            }
            false
        });
    }
}

fn log(event: &Event, sequence: u64) {
    let tenant = event.subject.tenant.as_ref().map_or("", |t| t.as_str());
    let session_id = event.subject.session.as_ref().map_or("", |s| s.as_str());
    let agent_name = event.subject.agent.as_ref().map_or("", |a| a.as_str());
    let worker = event.subject.worker.as_ref().map_or("", |w| w.as_str());
    // Absent, not empty, where the caller is not traced.
    let trace_id = event.trace.map(|of| tracing::field::display(format!("{:032x}", of.trace)));
    let span_id = event.trace.map(|of| tracing::field::display(format!("{:016x}", of.span)));
    macro_rules! line {
        ($level:ident $(, $field:ident = $value:expr)*) => {
            tracing::$level!(sequence, tenant, session_id, agent_name, worker, trace_id, span_id, $($field = $value,)* "{}", event.kind.name())
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
        Kind::CallDenied { rpc, message } => {
            let actor = event.actor.as_ref().map_or("", |actor| actor.name.as_str());
            line!(warn, actor = actor, rpc = *rpc, detail = message.as_str());
        }
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
