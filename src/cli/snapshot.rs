//! `tenantd snapshot`: figures of the whole sidecar, by OpenRTC's names where it
//! has them, so that what reads those reads these.

use serde_json::{Value, json};

use super::{
    operate::{self, TENANT_COLUMNS, tenant_json},
    text,
};
use crate::wire::v1;

/// Prints one: JSON, or figures line by line, then the tenants.
///
/// # Errors
/// What cannot be written.
pub fn show(of: &v1::GetSnapshotResponse, json: bool) -> anyhow::Result<()> {
    let mut object = snapshot_json(of);
    if json {
        return operate::show(&object, true);
    }
    if let Some(fields) = object.as_object_mut() {
        fields.retain(|key, _| key != "tenants" && key != "attached_workers");
    }
    operate::show(&object, false)?;
    operate::line("")?;
    let tenants: Vec<_> = of.tenants.iter().map(tenant_json).collect();
    operate::list(&tenants, &TENANT_COLUMNS, false)
}

/// The figures as JSON.
#[must_use]
pub fn snapshot_json(of: &v1::GetSnapshotResponse) -> Value {
    let cursor = of.cursor.clone().unwrap_or_default();
    let config = of.config.clone().unwrap_or_default();
    let seconds = |span: Option<&prost_types::Duration>| span.map(|s| text::span(s).as_secs_f64());
    let time = |at: Option<&prost_types::Timestamp>| at.map(|at| text::time(Some(at)));
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "version": of.version,
        "cursor": format!("{}:{}", cursor.epoch, cursor.sequence),
        "time": time(of.time.as_ref()),
        "timestamp": of.time.map(|at| at.seconds as f64 + f64::from(at.nanos) / 1e9),
        "start_time": time(of.start_time.as_ref()),
        "uptime_seconds": seconds(of.uptime.as_ref()),
        "draining": of.draining,
        "drain_remaining_seconds": seconds(of.drain_remaining.as_ref()),
        "active_sessions": of.active_sessions,
        "pending_sessions": of.pending_sessions,
        "machine_cap": of.machine_cap,
        "sessions_by_tenant": of.sessions_by_tenant,
        "sessions_by_agent": of.sessions_by_agent,
        "total_sessions_started": of.total_sessions_started,
        "total_session_failures": of.total_session_failures,
        "total_rejections": of.total_rejections,
        "last_routed_agent": said(&of.last_routed_agent),
        "last_error": said(&of.last_error),
        "last_error_time": time(of.last_error_time.as_ref()),
        "last_error_tenant": said(&of.last_error_tenant),
        "resident_set": {
            "bytes": (of.resident_bytes > 0).then_some(of.resident_bytes),
            "metric": if of.resident_bytes > 0 { "linux_vm_rss" } else { "unavailable" },
            "description": "resident memory of the sidecar process",
        },
        "workers": of.workers,
        "memory_bytes_by_worker": of.memory_bytes_by_worker,
        "watchers": of.watchers,
        "tenants_in_memory": of.tenants_in_memory,
        "config_path": config.path,
        "config_tenants": config.tenants,
        "config_load_time": time(config.load_time.as_ref()),
        "config_last_error": config.last_error,
        "config_last_error_time": time(config.last_error_time.as_ref()),
        "sources": of.sources.iter().map(source_json).collect::<Vec<_>>(),
        "tenants": of.tenants.iter().map(tenant_json).collect::<Vec<_>>(),
        "attached_workers": of.attached_workers.iter().map(worker_json).collect::<Vec<_>>(),
    })
}

fn source_json(of: &v1::SourceStatus) -> Value {
    json!({
        "name": of.name,
        "kind": of.kind,
        "entries": of.entries,
        "loads": of.loads,
        "failures": of.failures,
        "hits": of.hits,
        "stale_hits": of.stale_hits,
        "last_error": of.last_error,
        "watching": of.watching,
    })
}

/// One worker as JSON.
#[must_use]
pub fn worker_json(of: &v1::Worker) -> Value {
    let said = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "worker": of.worker,
        "live_sessions": of.live_sessions,
        "memory_bytes": (of.memory_bytes > 0).then_some(of.memory_bytes),
        "loop_blocked_seconds": of.loop_blocked.as_ref().map(|s| text::span(s).as_secs_f64()),
        "loop_blocked_time": of.loop_blocked_time.as_ref().map(|at| text::time(Some(at))),
        "loop_blocked_session_id": said(&of.loop_blocked_session_id),
    })
}
