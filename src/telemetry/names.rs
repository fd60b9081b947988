//! Every name that a metric or its attributes have. Nothing else spells one.

/// Instrumentation scope.
pub const SCOPE: &str = "tenantd";

/// Most series of a metric, where so many tenants are told by name. The SDK takes the room
/// for all of them at its start.
#[must_use]
pub fn most_series(metric: &str, tenants: usize) -> usize {
    match metric {
        // By reason; by outcome and cause.
        SESSIONS_REJECTED | SESSIONS_ENDED => tenants * 32,
        // By outcome, state or result.
        SESSION_DURATION | BREAKER_TRANSITIONS | BREAKER_STATE | ACQUIRE_DURATION => tenants * 5,
        SESSIONS_ACQUIRED | SESSIONS_ACTIVE | SESSIONS_PENDING | SESSIONS_CAP
        | TENANT_SUSPENDED | CONFIG_FAILURES => tenants,
        // And those of a loop whose session nobody knows.
        LOOP_BLOCKED => tenants + 1,
        // The widest are the durations of calls: methods by status codes.
        _ => 1_024,
    }
}

/// Sessions that took a slot.
pub const SESSIONS_ACQUIRED: &str = "tenantd.sessions.acquired";
/// Acquires refused, by reason.
pub const SESSIONS_REJECTED: &str = "tenantd.sessions.rejected";
/// Sessions that ended, by outcome and cause.
pub const SESSIONS_ENDED: &str = "tenantd.sessions.ended";
/// How long they were held, in seconds.
pub const SESSION_DURATION: &str = "tenantd.session.duration";
/// Breaker changes, by the state gone to.
pub const BREAKER_TRANSITIONS: &str = "tenantd.breaker.transitions";
/// Configs that could not be resolved.
pub const CONFIG_FAILURES: &str = "tenantd.config.failures";
/// Reloads, by result.
pub const RELOADS: &str = "tenantd.config.reloads";
/// Workers that went away.
pub const WORKERS_LOST: &str = "tenantd.workers.lost";
/// How long event loops were blocked, in seconds.
pub const LOOP_BLOCKED: &str = "tenantd.worker.loop_blocked";
/// Events that came and went too fast to be counted: the figures of this run
/// are too low by as many.
pub const EVENTS_MISSED: &str = "tenantd.metrics.events_missed";
/// Tenants told under `__other__`, at most the bound is told by name.
pub const TENANTS_FOLDED: &str = "tenantd.metrics.tenants_folded";

/// Questions to a source of tenants' entries, by source.
pub const SOURCE_LOADS: &str = "tenantd.source.loads";
/// Of these, those without a usable answer.
pub const SOURCE_FAILURES: &str = "tenantd.source.failures";
/// Configs served from what a source had said.
pub const SOURCE_HITS: &str = "tenantd.source.hits";
/// Entries held.
pub const SOURCE_ENTRIES: &str = "tenantd.source.entries";
/// 1 while the source tells changes by itself.
pub const SOURCE_WATCHING: &str = "tenantd.source.watching";

/// How long an acquire took to be decided, in seconds, by result.
pub const ACQUIRE_DURATION: &str = "tenantd.acquire.duration";
/// Live sessions.
pub const SESSIONS_ACTIVE: &str = "tenantd.sessions.active";
/// Of these, those without a sign of life so far.
pub const SESSIONS_PENDING: &str = "tenantd.sessions.pending";
/// Most live sessions; absent where there is no cap.
pub const SESSIONS_CAP: &str = "tenantd.sessions.cap";
/// Most live sessions on the machine.
pub const MACHINE_CAP: &str = "tenantd.machine.cap";
/// 1 for the state that a breaker is in.
pub const BREAKER_STATE: &str = "tenantd.breaker.state";
/// 1 while an operator keeps a tenant suspended.
pub const TENANT_SUSPENDED: &str = "tenantd.tenant.suspended";
/// Tenants with state in memory.
pub const TENANTS: &str = "tenantd.tenants";
/// Agent processes attached.
pub const WORKERS: &str = "tenantd.workers";
/// WatchSessions streams open.
pub const WATCHERS: &str = "tenantd.watchers";
/// Gaps told to watchers that were too slow or came back too late.
pub const WATCH_GAPS: &str = "tenantd.watch.gaps";
/// Last sequence of the event log.
pub const EVENTS_HEAD: &str = "tenantd.events.head";
/// 1 while draining.
pub const DRAINING: &str = "tenantd.draining";
/// 1 when the last reload of the config file was refused.
pub const RELOAD_FAILED: &str = "tenantd.config.reload_failed";
/// Last sequence of the audit log.
pub const AUDIT_HEAD: &str = "tenantd.audit.head";
/// Records that wait for a disk that takes none.
pub const AUDIT_WAITING: &str = "tenantd.audit.waiting";
/// 1 while the audit log takes no records, and admin calls are refused.
pub const AUDIT_FAILING: &str = "tenantd.audit.failing";
/// 1 while the state that outlives the process cannot be written.
pub const STATE_FAILING: &str = "tenantd.state.failing";
/// 1 when the state of the run before could not be read.
pub const STATE_LOST: &str = "tenantd.state.lost";
/// 1, with the version.
pub const BUILD_INFO: &str = "tenantd.build.info";
/// How long calls took, in seconds: semantic conventions for RPC.
pub const RPC_DURATION: &str = "rpc.server.call.duration";
/// Resident memory: semantic conventions for processes, as those below.
pub const PROCESS_MEMORY: &str = "process.memory.usage";
/// CPU time in seconds, by mode.
pub const PROCESS_CPU: &str = "process.cpu.time";
/// Open file descriptors.
pub const PROCESS_FDS: &str = "process.unix.file_descriptor.count";
/// Threads.
pub const PROCESS_THREADS: &str = "process.thread.count";
/// Seconds since the start.
pub const PROCESS_UPTIME: &str = "process.uptime";

/// Connections open.
pub const CONNECTIONS: &str = "tenantd.connections";
/// Connections closed for the sake of the others, by cause.
pub const CONNECTIONS_SHED: &str = "tenantd.connections.shed";
/// Calls refused for the sake of the others, by cause.
pub const CALLS_SHED: &str = "tenantd.calls.shed";
/// When a file of the TCP listener's TLS ends, in seconds since the Unix epoch.
pub const TLS_EXPIRY: &str = "tenantd.tls.expiry";
/// 1 when it is time to renew it.
pub const TLS_EXPIRING: &str = "tenantd.tls.expiring";
/// Setting that names a file.
pub const FILE: &str = "file";
/// Calls denied to their callers.
pub const CALLS_DENIED: &str = "tenantd.calls.denied";
/// CPU mode: "user" or "system".
pub const CPU_MODE: &str = "cpu.mode";
/// Version of the sidecar.
pub const VERSION: &str = "version";
/// Always "grpc".
pub const RPC_SYSTEM: &str = "rpc.system.name";
/// Full name of the method.
pub const RPC_METHOD: &str = "rpc.method";
/// Name of the gRPC status code.
pub const RPC_STATUS: &str = "rpc.response.status_code";

/// The tenant, as on log fields and spans.
pub const TENANT: &str = "tenant";
/// Reject reason.
pub const REASON: &str = "reason";
/// Outcome of a session.
pub const OUTCOME: &str = "outcome";
/// What ended a session, or why a connection was closed.
pub const CAUSE: &str = "cause";
/// Breaker state.
pub const STATE: &str = "state";
/// Source of tenants' entries.
pub const SOURCE: &str = "source";
/// True on what was served although it was past its time.
pub const STALE: &str = "stale";
/// "ok" or "failed".
pub const RESULT: &str = "result";

/// Stands for the tenants beyond the bound.
pub const OTHER: &str = "__other__";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_metric_by_tenant_has_room_for_every_tenant_and_no_other_takes_so_much() {
        const TENANTS: usize = 10_000;
        let rows = include_str!("../../docs/metrics.md").lines().filter(|l| l.starts_with("| `"));
        let mut by_tenant = 0;
        for row in rows {
            let cells: Vec<_> = row.split(" | ").collect();
            let Some(labels) = cells.get(2).map(|of| of.matches("`tenant`").count()) else {
                continue;
            };
            for name in cells[0].split('`').skip(1).step_by(2).filter(|name| name.contains('.')) {
                let room = most_series(name, TENANTS);
                assert_eq!(room >= TENANTS, labels > 0, "{name} has room for {room}");
                by_tenant += labels;
            }
        }
        assert_eq!(by_tenant, 13, "metrics by tenant are documented");
    }
}
