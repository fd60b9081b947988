//! One event as one line. Everything in it is made inert here, once.

use super::{model::Now, view::format};
use crate::{
    cli::{text, watch},
    wire::v1::{self, event::Detail},
};

/// Longest text of a line, in characters; agents' attributes may be longer.
const MOST: usize = 500;

/// How grave a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Ordinary.
    Plain,
    /// Better than before.
    Good,
    /// Worth a look.
    Warn,
    /// Something failed.
    Bad,
}

/// A line of the tail.
#[derive(Debug, Clone)]
pub struct Line {
    /// Time of the day, UTC.
    pub time: String,
    /// What happened.
    pub kind: String,
    /// The tenant; may be empty. As it came: compare it, show `shown`.
    pub tenant: String,
    /// The session; may be empty. As it came.
    pub session: String,
    /// How grave.
    pub tone: Tone,
    /// Whom it is about, and more as `key=value`; inert.
    pub shown: String,
}

/// An event's.
#[must_use]
pub fn event(event: &v1::Event) -> Line {
    let mut shown = Vec::new();
    for subject in [&event.tenant, &event.session_id] {
        if !subject.is_empty() {
            shown.push(text::value(subject));
        }
    }
    shown.extend(event.detail.as_ref().map(words).filter(|words| !words.is_empty()));
    for (key, value) in [
        ("agent", &event.agent_name),
        ("worker", &event.worker),
        ("by", &event.actor),
        ("note", &event.note),
    ] {
        if !value.is_empty() {
            shown.push(format!("{key}={}", text::value(value)));
        }
    }
    Line {
        time: clock(event.time.as_ref()),
        kind: text::lower(event.kind().as_str_name(), "EVENT_KIND_"),
        tenant: event.tenant.clone(),
        session: event.session_id.clone(),
        tone: tone(event),
        shown: cut(&shown.join(" ")),
    }
}

/// What an operator looks for, before the rest.
fn words(detail: &Detail) -> String {
    match detail {
        Detail::SessionAcquired(of) => {
            let cap = of.cap.map_or_else(|| "-".to_owned(), |cap| cap.to_string());
            let state = text::lower(of.state().as_str_name(), "SESSION_STATE_");
            let probe = if of.probe { " probe" } else { "" };
            format!("{}/{cap} {state}{probe}", of.live_sessions)
        }
        Detail::SessionEnded(of) => {
            let outcome = text::lower(of.outcome().as_str_name(), "OUTCOME_");
            let cause = text::lower(of.cause().as_str_name(), "END_CAUSE_");
            let held = of.held.as_ref().map(text::span).unwrap_or_default();
            let failure = of.failure.as_ref().map(|of| format!(" {}", failure(of)));
            let failure = failure.unwrap_or_default();
            format!("{outcome}{failure} after {} ({cause})", format::lag(held))
        }
        Detail::FailureReported(of) => failure(of),
        Detail::SessionRejected(of) => {
            let reason = of.reason().as_str_name().trim_start_matches("REASON_");
            format!("{reason} {}", text::value(&of.message))
        }
        Detail::BreakerChanged(of) if of.samples > 0 => {
            let cooldown = of.cooldown.as_ref().map(text::span).unwrap_or_default();
            format!("{} of {} failed, for {}", of.failures, of.samples, format::span(cooldown))
        }
        Detail::BreakerChanged(of) => of
            .cooldown
            .as_ref()
            .map(|cooldown| format!("for {}", format::span(text::span(cooldown))))
            .unwrap_or_default(),
        Detail::WorkerSlow(of) => {
            format!(
                "blocked {}",
                format::lag(of.blocked.as_ref().map(text::span).unwrap_or_default())
            )
        }
        other => watch::pairs(&watch::detail_json(other)),
    }
}

fn failure(of: &v1::Failure) -> String {
    let said = [&of.slot, &of.kind, &of.message].into_iter().filter(|part| !part.is_empty());
    said.map(|part| text::value(part)).collect::<Vec<_>>().join(" ")
}

/// A gap's.
#[must_use]
pub fn gap(gap: &v1::Gap, now: Now) -> Line {
    let missed = match gap.from_sequence {
        0 => String::new(),
        from => format!("{} events missed: ", (gap.to_sequence + 1).saturating_sub(from)),
    };
    own("gap", Tone::Warn, &format!("{missed}{}", text::escape(&gap.message)), now)
}

/// An action's that failed; `what` is inert.
#[must_use]
pub fn failed(what: &str, now: Now) -> Line {
    own("action_failed", Tone::Bad, what, now)
}

fn own(kind: &str, tone: Tone, shown: &str, now: Now) -> Line {
    let seconds = i64::try_from(now.wall.as_secs()).unwrap_or_default();
    Line {
        time: clock(Some(&prost_types::Timestamp { seconds, nanos: 0 })),
        kind: kind.to_owned(),
        tenant: String::new(),
        session: String::new(),
        tone,
        shown: cut(shown),
    }
}

fn clock(at: Option<&prost_types::Timestamp>) -> String {
    text::time(at).get(11..19).unwrap_or("--:--:--").to_owned()
}

fn cut(text: &str) -> String {
    text.chars().take(MOST).collect()
}

fn tone(event: &v1::Event) -> Tone {
    use v1::{EventKind as Kind, Outcome, Severity};
    match (event.kind(), &event.detail) {
        (Kind::SessionEnded, Some(Detail::SessionEnded(ended))) => match ended.outcome() {
            Outcome::Failure | Outcome::Lost => Tone::Bad,
            Outcome::Revoked => Tone::Warn,
            _ => Tone::Plain,
        },
        (Kind::AgentEvent, Some(Detail::AgentEvent(agents))) => match agents.severity() {
            Severity::Error => Tone::Bad,
            Severity::Warning => Tone::Warn,
            _ => Tone::Plain,
        },
        (Kind::SidecarReloaded, Some(Detail::SidecarReloaded(done))) if !done.ok => Tone::Bad,
        (
            Kind::BreakerOpened
            | Kind::SessionFailureReported
            | Kind::WorkerLost
            | Kind::TenantConfigFailed,
            _,
        ) => Tone::Bad,
        (
            Kind::SessionRejected
            | Kind::CallDenied
            | Kind::BreakerHalfOpened
            | Kind::TenantSuspended
            | Kind::WorkerSlow
            | Kind::SidecarDraining,
            _,
        ) => Tone::Warn,
        (Kind::BreakerClosed | Kind::TenantResumed | Kind::TenantConfigRecovered, _) => Tone::Good,
        _ => Tone::Plain,
    }
}
