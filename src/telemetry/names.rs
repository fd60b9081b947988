//! Every name that a metric or its attributes have. Nothing else spells one.

/// Instrumentation scope.
pub const SCOPE: &str = "tenantd";

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

/// The tenant, as on log fields and spans.
pub const TENANT: &str = "tenant";
/// Reject reason.
pub const REASON: &str = "reason";
/// Outcome of a session.
pub const OUTCOME: &str = "outcome";
/// What ended it.
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
