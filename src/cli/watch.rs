//! `tenantd watch`: follows events, through restarts of the sidecar.

use std::{io::Write as _, time::Duration};

use serde_json::{Map, Value, json};

use super::{
    client::{self, Target},
    operate, text,
};
use crate::wire::v1::{
    self, event::Detail, watch_service_client::WatchServiceClient, watch_sessions_response::Item,
};

/// Longest wait before a new try to reach the sidecar.
const BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Follows events: first what is live, then every change
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd watch --tenant acme\n  tenantd watch --kind session_rejected --kind breaker_opened\n  tenantd watch --json | jq -c 'select(.kind == \"session_ended\")'"
)]
pub struct Args {
    /// Only this tenant's; repeatable
    #[arg(long)]
    tenant: Vec<String>,
    /// Only this agent's; repeatable
    #[arg(long)]
    agent: Vec<String>,
    /// Only events of this kind, for example session_rejected; repeatable
    #[arg(long)]
    kind: Vec<String>,
    /// Resume after this event: EPOCH:SEQUENCE, as shown by --json
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

/// Runs it until Ctrl-C.
///
/// # Errors
/// `Unreachable` at the start, or the sidecar's refusal.
pub async fn run(target: Target, args: Args) -> anyhow::Result<()> {
    tokio::select! {
        result = follow(&target, &args) => result,
        _ = tokio::signal::ctrl_c() => Ok(()),
    }
}

async fn follow(target: &Target, args: &Args) -> anyhow::Result<()> {
    let mut cursor = args.since.as_deref().map(cursor).transpose()?;
    let kinds = args.kind.iter().map(|kind| kind_of(kind)).collect::<Result<Vec<_>, _>>()?;
    let mut channel = Some(client::connect(target).await?);
    let mut wait = Duration::from_millis(100);
    loop {
        let connected = match channel.take() {
            Some(channel) => Ok(channel),
            None => client::connect(target).await,
        };
        if let Ok(channel) = connected {
            let asked = v1::WatchSessionsRequest {
                tenants: args.tenant.clone(),
                agent_names: args.agent.clone(),
                kinds: kinds.clone(),
                cursor: cursor.clone(),
            };
            match WatchServiceClient::new(channel).watch_sessions(asked).await {
                Ok(stream) => {
                    wait = Duration::from_millis(100);
                    let mut stream = stream.into_inner();
                    while let Ok(Some(answer)) = stream.message().await {
                        if let Some(item) = answer.item {
                            tell(&item, args.json, &mut cursor)?;
                        }
                    }
                }
                Err(status) if status.code() != tonic::Code::Unavailable => {
                    return Err(client::refused(&status));
                }
                Err(_) => {}
            }
            writeln!(std::io::stderr().lock(), "tenantd: the sidecar went away; waiting for it")?;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(BACKOFF_MAX);
    }
}

fn cursor(text: &str) -> anyhow::Result<v1::Cursor> {
    let parsed = text.rsplit_once(':').and_then(|(epoch, sequence)| {
        Some(v1::Cursor { epoch: epoch.to_owned(), sequence: sequence.parse().ok()? })
    });
    parsed.ok_or_else(|| anyhow::anyhow!("--since must be EPOCH:SEQUENCE, as shown by --json"))
}

fn kind_of(name: &str) -> anyhow::Result<i32> {
    v1::EventKind::from_str_name(&format!("EVENT_KIND_{}", name.to_ascii_uppercase()))
        .map(i32::from)
        .ok_or_else(|| {
            anyhow::anyhow!("--kind {} is no kind of event; see event.proto", text::escape(name))
        })
}

fn tell(item: &Item, json: bool, cursor: &mut Option<v1::Cursor>) -> anyhow::Result<()> {
    let object = match item {
        Item::Tenant(tenant) => with("tenant_state", operate::tenant_json(tenant)),
        Item::Session(session) => with("session", operate::session_json(session)),
        Item::SnapshotEnd(end) => {
            cursor.clone_from(&end.cursor);
            with("snapshot_end", json!({ "cursor": shown(cursor.as_ref()) }))
        }
        Item::Gap(gap) => with(
            "gap",
            json!({ "from": gap.from_sequence, "to": gap.to_sequence, "message": gap.message }),
        ),
        Item::Heartbeat(beat) => {
            cursor.clone_from(&beat.cursor);
            return Ok(());
        }
        Item::Event(event) => {
            if let Some(cursor) = cursor {
                cursor.sequence = event.sequence;
            }
            with("event", event_json(event, cursor.as_ref()))
        }
    };
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", text::json_line(&Value::Object(object)))?;
    } else {
        writeln!(out, "{}", human(&object))?;
    }
    Ok(out.flush()?)
}

fn shown(cursor: Option<&v1::Cursor>) -> String {
    cursor.map(|at| format!("{}:{}", at.epoch, at.sequence)).unwrap_or_default()
}

fn with(item: &str, value: Value) -> Map<String, Value> {
    let mut object = Map::from_iter([("item".to_owned(), item.into())]);
    if let Value::Object(fields) = value {
        object.extend(fields);
    }
    object
}

fn event_json(event: &v1::Event, cursor: Option<&v1::Cursor>) -> Value {
    json!({
        "sequence": event.sequence,
        "cursor": shown(cursor),
        "time": text::time(event.time.as_ref()),
        "kind": text::lower(event.kind().as_str_name(), "EVENT_KIND_"),
        "tenant": event.tenant,
        "session_id": event.session_id,
        "agent_name": event.agent_name,
        "worker": event.worker,
        "actor": event.actor,
        "note": event.note,
        "detail": event.detail.as_ref().map_or_else(|| json!({}), detail_json),
    })
}

fn failure_json(failure: &v1::Failure) -> Value {
    json!({ "slot": failure.slot, "kind": failure.kind, "message": failure.message })
}

/// What an event says beside whom it is about.
pub fn detail_json(detail: &Detail) -> Value {
    let seconds = |of: Option<&prost_types::Duration>| of.map(|of| text::span(of).as_secs_f64());
    match detail {
        Detail::SessionAcquired(d) => json!({
            "state": text::lower(d.state().as_str_name(), "SESSION_STATE_"),
            "live_sessions": d.live_sessions, "cap": d.cap, "probe": d.probe,
            "config_version": d.config_version,
        }),
        Detail::FailureReported(d) => failure_json(d),
        Detail::SessionEnded(d) => json!({
            "outcome": text::lower(d.outcome().as_str_name(), "OUTCOME_"),
            "cause": text::lower(d.cause().as_str_name(), "END_CAUSE_"),
            "held_seconds": seconds(d.held.as_ref()), "counted": d.counted,
            "failure": d.failure.as_ref().map(failure_json),
        }),
        Detail::SessionRejected(d) => json!({
            "reason": d.reason().as_str_name().trim_start_matches("REASON_"),
            "disposition": text::lower(d.disposition().as_str_name(), "DISPOSITION_"),
            "limit": d.limit, "current": d.current,
            "retry_after_seconds": seconds(d.retry_after.as_ref()), "message": d.message,
        }),
        Detail::BreakerChanged(d) => json!({
            "failures": d.failures, "samples": d.samples,
            "cooldown_seconds": seconds(d.cooldown.as_ref()),
        }),
        Detail::ConfigChanged(d) => json!({ "version": d.version }),
        Detail::ConfigFailed(d) => json!({ "message": d.message, "stale": d.stale }),
        Detail::CapChanged(d) => json!({ "before": d.before, "after": d.after }),
        Detail::AgentEvent(d) => json!({
            "name": d.name,
            "severity": text::lower(d.severity().as_str_name(), "SEVERITY_"),
            "attributes": d.attributes.as_ref().map(text::json),
        }),
        Detail::WorkerLost(d) => {
            json!({ "sessions": d.sessions, "grace_seconds": seconds(d.grace.as_ref()) })
        }
        Detail::WorkerSlow(d) => json!({ "blocked_seconds": seconds(d.blocked.as_ref()) }),
        Detail::SidecarDraining(d) => json!({
            "deadline_seconds": seconds(d.deadline.as_ref()), "live_sessions": d.live_sessions,
        }),
        Detail::CallDenied(d) => json!({ "rpc": d.rpc, "message": d.message }),
        Detail::SidecarReloaded(d) => {
            json!({ "ok": d.ok, "error": d.error, "tenants_changed": d.tenants_changed })
        }
    }
}

/// One line: time and kind first, then what is known as `key=value`.
fn human(object: &Map<String, Value>) -> String {
    let get = |key: &str| object.get(key).and_then(Value::as_str).unwrap_or_default();
    let mut line = match get("item") {
        "event" => format!("{} {:>6} {:<24}", get("time"), object["sequence"], get("kind")),
        item => format!("{item:<56}"),
    };
    for (key, value) in object {
        if matches!(key.as_str(), "item" | "time" | "kind" | "sequence" | "cursor") {
            continue;
        }
        match value {
            Value::Object(_) => {
                line.push(' ');
                line.push_str(&pairs(value));
            }
            value => push(&mut line, key, value),
        }
    }
    line.trim_end().to_owned()
}

/// An object's fields as inert `key=value`; what is null or empty is left out.
pub fn pairs(object: &Value) -> String {
    let mut line = String::new();
    for (key, value) in object.as_object().into_iter().flatten() {
        push(&mut line, key, value);
    }
    line.trim_start().to_owned()
}

fn push(line: &mut String, key: &str, value: &Value) {
    let shown = match value {
        Value::Null => return,
        Value::Object(fields) => {
            for (inner, value) in fields {
                push(line, &format!("{key}.{inner}"), value);
            }
            return;
        }
        Value::String(text) if text.is_empty() => return,
        Value::String(text) => text::value(text),
        other => text::value(&other.to_string()),
    };
    line.push(' ');
    // The names of attributes are agents' own words too.
    line.push_str(&text::value(key));
    line.push('=');
    line.push_str(&shown);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_tags_and_nothing_active() {
        let event = v1::Event {
            sequence: 7,
            kind: v1::EventKind::AgentEvent.into(),
            tenant: "acme".to_owned(),
            note: "\u{1b}[31m\nforged".to_owned(),
            ..v1::Event::default()
        };
        let line = human(&with("event", event_json(&event, None)));
        assert!(line.contains("agent_event") && line.contains(" tenant=acme"), "{line}");
        assert!(!line.contains(['\u{1b}', '\n']), "{line:?}");
    }
}
