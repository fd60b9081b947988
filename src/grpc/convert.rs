//! Domain types to wire types, and wire values to checked ones.
#![deny(clippy::wildcard_enum_match_arm)]

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use prost_types::{Struct, Timestamp as WireTime, Value, value::Kind as ValueKind};

use crate::{
    app::{
        ports::{Origin, SourceAnswer, SourceStatus},
        read::TenantReport,
        workers::Health,
    },
    domain::{
        breaker,
        event::{Event, Kind, Severity},
        event_log::Entry,
        provider::{Encoded, ResolvedConfig},
        reject::{Disposition, Reason, Rejection},
        session::{EndCause, Failure, Outcome, Session, State, WorkerId},
        time::Now,
    },
    wire::v1,
};

pub fn time(since_epoch: Duration) -> WireTime {
    WireTime {
        seconds: i64::try_from(since_epoch.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since_epoch.subsec_nanos()).unwrap_or(0),
    }
}

pub fn duration(of: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}

/// A wire duration that must not be negative.
pub fn checked_duration(
    field: &str,
    of: Option<prost_types::Duration>,
) -> Result<Option<Duration>, Rejection> {
    of.map(|of| Duration::try_from(of).map_err(|_| Rejection::field(field, "must not be negative")))
        .transpose()
}

/// A token of a bounded length; empty is fine.
pub fn checked_token(field: &str, text: &str, extra: &str, max: usize) -> Result<(), Rejection> {
    let valid = |c: char| c.is_ascii_alphanumeric() || extra.contains(c);
    if text.len() <= max && text.chars().all(valid) {
        Ok(())
    } else {
        Err(Rejection::field(
            field,
            format_args!(
                "must be at most {max} characters of [A-Za-z0-9{extra}], got {} characters",
                text.chars().count()
            ),
        ))
    }
}

/// Free text, cut at a character's border.
pub fn cut(text: &str, max: usize) -> String {
    text[..text.floor_char_boundary(max)].to_owned()
}

pub fn failure_in(failure: Option<v1::Failure>) -> Result<Option<Failure>, Rejection> {
    failure
        .map(|failure| {
            checked_token("failure.slot", &failure.slot, "_-", 64)?;
            checked_token("failure.kind", &failure.kind, "_.-", 64)?;
            Ok(Failure {
                slot: failure.slot,
                kind: failure.kind,
                message: cut(&failure.message, 1024),
            })
        })
        .transpose()
}

fn failure_out(failure: &Failure) -> v1::Failure {
    v1::Failure {
        slot: failure.slot.clone(),
        kind: failure.kind.clone(),
        message: failure.message.clone(),
    }
}

pub fn session(session: &Session, now: Now) -> v1::Session {
    v1::Session {
        session_id: session.id.to_string(),
        tenant: session.tenant.to_string(),
        agent_name: name(session.agent.as_ref()),
        worker: name(session.worker.as_ref()),
        state: state(session.state).into(),
        acquire_time: Some(time(session.acquired.wall)),
        expire_time: Some(time(now.wall_at(session.deadline))),
        ttl: Some(duration(session.ttl)),
        probe: session.probe,
        failed: session.failed,
    }
}

pub fn name<T: ToString>(of: Option<&T>) -> String {
    of.map(ToString::to_string).unwrap_or_default()
}

const fn state(state: State) -> v1::SessionState {
    match state {
        State::Pending => v1::SessionState::Pending,
        State::Active => v1::SessionState::Active,
        State::Grace => v1::SessionState::Grace,
    }
}

pub const fn outcome(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Success => v1::Outcome::Success,
        Outcome::Failure => v1::Outcome::Failure,
        Outcome::Cancelled => v1::Outcome::Cancelled,
        Outcome::Lost => v1::Outcome::Lost,
        Outcome::Revoked => v1::Outcome::Revoked,
    }
}

pub const fn cause(cause: EndCause) -> v1::EndCause {
    match cause {
        EndCause::Released => v1::EndCause::Released,
        EndCause::Reported => v1::EndCause::Reported,
        EndCause::PendingExpired => v1::EndCause::PendingExpired,
        EndCause::TtlExpired => v1::EndCause::TtlExpired,
        EndCause::WorkerLost => v1::EndCause::WorkerLost,
        EndCause::Revoked => v1::EndCause::Revoked,
        EndCause::DrainDeadline => v1::EndCause::DrainDeadline,
    }
}

/// Made once by config and version: encoding it anew costs more than deciding.
pub fn config(resolved: &ResolvedConfig) -> Bytes {
    Bytes::from_owner(resolved.encoded(|resolved| {
        // Of the right size at once: growing would leave copies of keys behind.
        let config = session_config(resolved);
        let mut bytes = Vec::with_capacity(prost::Message::encoded_len(&config));
        prost::Message::encode_raw(&config, &mut bytes);
        Encoded::new(bytes)
    }))
}

fn session_config(resolved: &ResolvedConfig) -> v1::SessionConfig {
    let providers = resolved.providers.iter().map(|(slot, resolved)| {
        let credentials = resolved.credentials.iter().map(|(name, secret)| {
            (name.clone(), v1::Credential { value: secret.expose().to_owned() })
        });
        let provider = v1::Provider {
            provider: resolved.provider.provider.clone(),
            model: resolved.provider.model.clone(),
            base_url: resolved.provider.base_url.clone(),
            credentials: credentials.collect(),
            params: Some(struct_out(&resolved.provider.params)),
        };
        (slot.clone(), provider)
    });
    v1::SessionConfig {
        version: resolved.version.clone(),
        providers: providers.collect(),
        labels: resolved.config.labels.clone().into_iter().collect(),
        tenant_known: resolved.config.known,
        stale: resolved.stale.is_some(),
    }
}

pub fn struct_out(map: &serde_json::Map<String, serde_json::Value>) -> Struct {
    Struct { fields: map.iter().map(|(k, v)| (k.clone(), value_out(v))).collect() }
}

fn value_out(value: &serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => ValueKind::NullValue(0),
        Json::Bool(b) => ValueKind::BoolValue(*b),
        Json::Number(n) => ValueKind::NumberValue(n.as_f64().unwrap_or(f64::NAN)),
        Json::String(s) => ValueKind::StringValue(s.clone()),
        Json::Array(items) => ValueKind::ListValue(prost_types::ListValue {
            values: items.iter().map(value_out).collect(),
        }),
        Json::Object(map) => ValueKind::StructValue(struct_out(map)),
    };
    Value { kind: Some(kind) }
}

pub fn struct_in(fields: BTreeMap<String, Value>) -> serde_json::Map<String, serde_json::Value> {
    fields.into_iter().map(|(k, v)| (k, value_in(v))).collect()
}

fn value_in(value: Value) -> serde_json::Value {
    use serde_json::Value as Json;
    match value.kind {
        None | Some(ValueKind::NullValue(_)) => Json::Null,
        Some(ValueKind::BoolValue(b)) => Json::Bool(b),
        Some(ValueKind::NumberValue(n)) => {
            serde_json::Number::from_f64(n).map_or(Json::Null, Json::Number)
        }
        Some(ValueKind::StringValue(s)) => Json::String(s),
        Some(ValueKind::ListValue(list)) => {
            Json::Array(list.values.into_iter().map(value_in).collect())
        }
        Some(ValueKind::StructValue(map)) => Json::Object(struct_in(map.fields)),
    }
}

pub fn tenant(report: &TenantReport) -> v1::Tenant {
    let view = &report.view;
    let breaker_state = match view.breaker.state {
        breaker::State::Closed => v1::BreakerState::Closed,
        breaker::State::Open { .. } => v1::BreakerState::Open,
        breaker::State::HalfOpen { .. } => v1::BreakerState::HalfOpen,
    };
    v1::Tenant {
        tenant: view.tenant.to_string(),
        known: report.config.as_ref().is_some_and(|config| config.known),
        live_sessions: view.live,
        pending_sessions: view.pending,
        cap: view.cap,
        cap_overridden: view.cap_overridden,
        max_acquires_per_second: view.max_acquires_per_second,
        suspension: view.suspension.as_ref().map(|suspension| v1::Suspension {
            actor: suspension.actor.name.clone(),
            note: suspension.actor.note.clone(),
            since: Some(time(suspension.since.wall)),
        }),
        breaker: Some(v1::Breaker {
            enabled: view.breaker.enabled,
            state: breaker_state.into(),
            successes: view.breaker.successes,
            failures: view.breaker.failures,
            open_remaining: view.breaker.open_remaining.map(duration),
            probes_live: view.probes.0,
            probes_healthy: view.probes.1,
        }),
        config_version: report.version.clone(),
        total_sessions_started: view.totals.started,
        total_session_failures: view.totals.failures,
        total_rejections: view.totals.rejections,
    }
}

pub fn worker((worker, (health, live)): (&WorkerId, &(Health, u32))) -> v1::Worker {
    let blocked = health.blocked.as_ref();
    v1::Worker {
        worker: worker.to_string(),
        live_sessions: *live,
        memory_bytes: health.memory_bytes,
        loop_blocked: blocked.map(|blocked| duration(blocked.lasted)),
        loop_blocked_time: blocked.map(|blocked| time(blocked.at.wall)),
        loop_blocked_session_id: name(blocked.and_then(|blocked| blocked.session.as_ref())),
    }
}

pub fn source_status(of: SourceStatus) -> v1::SourceStatus {
    v1::SourceStatus {
        name: of.name,
        kind: of.kind.to_owned(),
        entries: of.entries,
        loads: of.loads,
        failures: of.failures,
        hits: of.hits,
        stale_hits: of.stale_hits,
        last_error: of.last_error,
        watching: of.watching,
    }
}

pub fn origin(of: Origin) -> v1::ConfigOrigin {
    v1::ConfigOrigin { key: of.key, value: of.value, source: of.source }
}

pub fn source_answer(of: SourceAnswer) -> v1::SourceAnswer {
    let state = match (of.age, of.entry) {
        (None, _) => "failed",
        (Some(_), true) => "entry",
        (Some(_), false) => "none",
    };
    v1::SourceAnswer {
        source: of.source,
        state: state.to_owned(),
        stale: of.age.is_some() && of.error.is_some(),
        age: of.age.map(duration),
        error: of.error.unwrap_or_default(),
    }
}

pub const fn event_kind(kind: &Kind) -> v1::EventKind {
    match kind {
        Kind::SessionAcquired { .. } => v1::EventKind::SessionAcquired,
        Kind::SessionActivated => v1::EventKind::SessionActivated,
        Kind::FailureReported(_) => v1::EventKind::SessionFailureReported,
        Kind::SessionEnded { .. } => v1::EventKind::SessionEnded,
        Kind::SessionRejected(_) => v1::EventKind::SessionRejected,
        Kind::BreakerOpened { .. } => v1::EventKind::BreakerOpened,
        Kind::BreakerHalfOpened => v1::EventKind::BreakerHalfOpened,
        Kind::BreakerClosed => v1::EventKind::BreakerClosed,
        Kind::ConfigChanged { .. } => v1::EventKind::TenantConfigChanged,
        Kind::ConfigFailed { .. } => v1::EventKind::TenantConfigFailed,
        Kind::ConfigRecovered => v1::EventKind::TenantConfigRecovered,
        Kind::CapChanged { .. } => v1::EventKind::TenantCapChanged,
        Kind::Suspended => v1::EventKind::TenantSuspended,
        Kind::Resumed => v1::EventKind::TenantResumed,
        Kind::AgentEvent { .. } => v1::EventKind::AgentEvent,
        Kind::WorkerAttached => v1::EventKind::WorkerAttached,
        Kind::WorkerLost { .. } => v1::EventKind::WorkerLost,
        Kind::WorkerSlow { .. } => v1::EventKind::WorkerSlow,
        Kind::Draining { .. } => v1::EventKind::SidecarDraining,
        Kind::Reloaded { .. } => v1::EventKind::SidecarReloaded,
        Kind::CallDenied { .. } => v1::EventKind::CallDenied,
    }
}

pub fn event(entry: &Entry) -> v1::Event {
    let Event { at, subject, actor, trace, kind } = &entry.event;
    v1::Event {
        sequence: entry.sequence,
        time: Some(time(at.wall)),
        kind: event_kind(kind).into(),
        tenant: name(subject.tenant.as_ref()),
        session_id: name(subject.session.as_ref()),
        agent_name: name(subject.agent.as_ref()),
        worker: name(subject.worker.as_ref()),
        actor: actor.as_ref().map(|actor| actor.name.clone()).unwrap_or_default(),
        note: actor.as_ref().map(|actor| actor.note.clone()).unwrap_or_default(),
        trace_id: trace.map(|of| format!("{:032x}", of.trace)).unwrap_or_default(),
        span_id: trace.map(|of| format!("{:016x}", of.span)).unwrap_or_default(),
        detail: detail(kind),
    }
}

fn detail(kind: &Kind) -> Option<v1::event::Detail> {
    use v1::event::Detail;
    Some(match kind {
        Kind::SessionAcquired { state: at, probe, live, cap, config_version } => {
            Detail::SessionAcquired(v1::SessionAcquired {
                state: state(*at).into(),
                probe: *probe,
                live_sessions: *live,
                cap: *cap,
                config_version: config_version.clone(),
            })
        }
        Kind::FailureReported(failure) => Detail::FailureReported(failure_out(failure)),
        Kind::SessionEnded { outcome: ended, cause: by, held, failure, counted } => {
            Detail::SessionEnded(v1::SessionEnded {
                outcome: outcome(*ended).into(),
                cause: cause(*by).into(),
                held: Some(duration(*held)),
                failure: failure.as_ref().map(failure_out),
                counted: *counted,
            })
        }
        Kind::SessionRejected(refused) => Detail::SessionRejected(v1::SessionRejected {
            reason: reason(refused.reason).into(),
            disposition: match refused.reason.disposition() {
                Disposition::RetryElsewhere => v1::Disposition::RetryElsewhere,
                Disposition::RetryLater => v1::Disposition::RetryLater,
                Disposition::Final => v1::Disposition::Final,
            }
            .into(),
            limit: refused.limit,
            current: refused.current,
            retry_after: refused.retry_after.map(duration),
            message: refused.message.clone(),
        }),
        Kind::BreakerOpened { failures, samples, cooldown } => {
            Detail::BreakerChanged(v1::BreakerChanged {
                failures: *failures,
                samples: *samples,
                cooldown: Some(duration(*cooldown)),
            })
        }
        Kind::ConfigChanged { version } => {
            Detail::ConfigChanged(v1::ConfigChanged { version: version.clone() })
        }
        Kind::ConfigFailed { message, stale } => {
            Detail::ConfigFailed(v1::ConfigFailed { message: message.clone(), stale: *stale })
        }
        Kind::CapChanged { before, after } => {
            Detail::CapChanged(v1::CapChanged { before: *before, after: *after })
        }
        Kind::AgentEvent { name, severity, attributes } => Detail::AgentEvent(v1::AgentEvent {
            name: name.clone(),
            severity: match severity {
                Severity::Debug => v1::Severity::Debug,
                Severity::Info => v1::Severity::Info,
                Severity::Warning => v1::Severity::Warning,
                Severity::Error => v1::Severity::Error,
            }
            .into(),
            attributes: Some(struct_out(attributes)),
        }),
        Kind::WorkerLost { sessions, grace } => Detail::WorkerLost(v1::WorkerLost {
            sessions: *sessions,
            grace: Some(duration(*grace)),
        }),
        Kind::WorkerSlow { blocked } => {
            Detail::WorkerSlow(v1::WorkerSlow { blocked: Some(duration(*blocked)) })
        }
        Kind::Draining { deadline, live } => Detail::SidecarDraining(v1::SidecarDraining {
            deadline: Some(duration(*deadline)),
            live_sessions: *live,
        }),
        Kind::Reloaded { error, tenants_changed } => Detail::SidecarReloaded(v1::SidecarReloaded {
            ok: error.is_none(),
            error: error.clone().unwrap_or_default(),
            tenants_changed: *tenants_changed,
        }),
        Kind::CallDenied { rpc, message } => {
            Detail::CallDenied(v1::CallDenied { rpc: (*rpc).to_owned(), message: message.clone() })
        }
        Kind::SessionActivated
        | Kind::BreakerHalfOpened
        | Kind::BreakerClosed
        | Kind::ConfigRecovered
        | Kind::Suspended
        | Kind::Resumed
        | Kind::WorkerAttached => return None,
    })
}

const fn reason(reason: Reason) -> v1::Reason {
    match reason {
        Reason::TenantMalformed => v1::Reason::TenantMalformed,
        Reason::TenantConflict => v1::Reason::TenantConflict,
        Reason::InvalidField => v1::Reason::InvalidField,
        Reason::NotPermitted => v1::Reason::NotPermitted,
        Reason::Draining => v1::Reason::Draining,
        Reason::TenantSuspended => v1::Reason::TenantSuspended,
        Reason::CircuitOpen => v1::Reason::CircuitOpen,
        Reason::TenantAtCap => v1::Reason::TenantAtCap,
        Reason::AgentAtCap => v1::Reason::AgentAtCap,
        Reason::MachineAtCap => v1::Reason::MachineAtCap,
        Reason::ConfigUnavailable => v1::Reason::ConfigUnavailable,
        Reason::TenantUnknown => v1::Reason::TenantUnknown,
        Reason::SessionConflict => v1::Reason::SessionConflict,
        Reason::SessionEnded => v1::Reason::SessionEnded,
        Reason::SessionUnknown => v1::Reason::SessionUnknown,
        Reason::LimitReached => v1::Reason::LimitReached,
        Reason::ReloadFailed => v1::Reason::ReloadFailed,
        Reason::Undecided => v1::Reason::Undecided,
        Reason::AuditUnavailable => v1::Reason::AuditUnavailable,
        Reason::RateLimited => v1::Reason::RateLimited,
        Reason::Overloaded => v1::Reason::Overloaded,
    }
}
