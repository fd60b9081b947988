//! A fleet as the sidecar tells it, for the tests of what is shown.

mod keys;
mod screens;
mod world;

use std::time::Duration;

use prost_types::Timestamp;
use ratatui::{Terminal, backend::TestBackend};

use super::{
    app::{App, Effect},
    model::{Fed, Now},
    press::Key,
    view::{self, look::Look},
    wanted::Wanted,
};
use crate::wire::v1::{self, event::Detail, watch_sessions_response::Item};

const COLOUR: Look = Look { colour: true, ascii: false };
const PLAIN: Look = Look { colour: false, ascii: true };
/// 2027-01-15, 08:00:00 UTC.
const EPOCH: u64 = 1_800_000_000;

fn at(seconds: u64) -> Now {
    Now { mono: Duration::from_secs(seconds), wall: Duration::from_secs(EPOCH + seconds) }
}

fn wall(seconds: u64) -> Option<Timestamp> {
    Some(Timestamp { seconds: i64::try_from(EPOCH + seconds).unwrap(), nanos: 0 })
}

fn span(millis: u64) -> Option<prost_types::Duration> {
    Some(Duration::from_millis(millis).try_into().unwrap())
}

fn cursor(sequence: u64) -> Option<v1::Cursor> {
    Some(v1::Cursor { epoch: "run".to_owned(), sequence })
}

fn tenant(id: &str, live: u32, pending: u32, cap: Option<u32>) -> v1::Tenant {
    v1::Tenant {
        tenant: id.to_owned(),
        known: true,
        live_sessions: live,
        pending_sessions: pending,
        cap,
        breaker: Some(v1::Breaker {
            enabled: true,
            state: v1::BreakerState::Closed.into(),
            successes: 40,
            ..Default::default()
        }),
        config_version: "217f46413c7508ee".to_owned(),
        total_sessions_started: u64::from(live),
        ..Default::default()
    }
}

fn session(id: &str, tenant: &str, worker: &str, since: u64) -> v1::Session {
    v1::Session {
        session_id: id.to_owned(),
        tenant: tenant.to_owned(),
        agent_name: "voice".to_owned(),
        worker: worker.to_owned(),
        state: v1::SessionState::Active.into(),
        acquire_time: wall(since),
        ttl: span(30_000),
        ..Default::default()
    }
}

fn event(sequence: u64, kind: v1::EventKind, tenant: &str, detail: Option<Detail>) -> v1::Event {
    v1::Event {
        sequence,
        time: wall(100 + sequence),
        kind: kind.into(),
        tenant: tenant.to_owned(),
        detail,
        ..Default::default()
    }
}

fn acquired(sequence: u64, id: &str, tenant: &str, live: u32, cap: u32) -> v1::Event {
    let detail = v1::SessionAcquired {
        state: v1::SessionState::Active.into(),
        live_sessions: live,
        cap: Some(cap),
        ..Default::default()
    };
    let detail = Some(Detail::SessionAcquired(detail));
    let event = event(sequence, v1::EventKind::SessionAcquired, tenant, detail);
    v1::Event {
        session_id: id.to_owned(),
        agent_name: "voice".to_owned(),
        worker: "python-11".to_owned(),
        ..event
    }
}

fn ended(sequence: u64, id: &str, tenant: &str) -> v1::Event {
    let detail = v1::SessionEnded {
        outcome: v1::Outcome::Success.into(),
        cause: v1::EndCause::Released.into(),
        held: span(12_300),
        ..Default::default()
    };
    let detail = Some(Detail::SessionEnded(detail));
    let event = event(sequence, v1::EventKind::SessionEnded, tenant, detail);
    v1::Event { session_id: id.to_owned(), ..event }
}

/// The tenants at some second: acme works, small is full and refuses, broken's
/// breaker is open, probing's half-open, halted is suspended, free has no cap.
fn tenants(second: u64) -> Vec<v1::Tenant> {
    let mut all = vec![
        tenant("acme", 12, 3, Some(20)),
        tenant("broken", 2, 0, Some(8)),
        tenant("free", 1, 0, None),
        tenant("halted", 1, 0, Some(10)),
        tenant("probing", 1, 0, Some(8)),
        tenant("small", 3, 0, Some(3)),
    ];
    let state = |of: &mut v1::Tenant, change: &dyn Fn(&mut v1::Breaker)| {
        change(of.breaker.as_mut().unwrap());
    };
    state(&mut all[1], &|breaker| {
        breaker.set_state(v1::BreakerState::Open);
        (breaker.successes, breaker.failures) = (1, 3);
        breaker.open_remaining = span(23_000 - 1000 * second);
    });
    all[1].total_session_failures = 3;
    all[2].breaker = Some(v1::Breaker::default());
    all[3].suspension = Some(v1::Suspension {
        actor: "uid 1000".to_owned(),
        note: "key leaked".to_owned(),
        since: wall(40),
    });
    state(&mut all[4], &|breaker| {
        breaker.set_state(v1::BreakerState::HalfOpen);
        (breaker.successes, breaker.probes_live, breaker.probes_healthy) = (0, 1, 1);
    });
    all[5].cap_overridden = true;
    all[0].total_sessions_started = 100 + 4 * second;
    all[5].total_rejections = 7 * second * second;
    all
}

fn figures(second: u64, sequence: u64) -> Fed {
    let worker = |name: &str, memory| v1::Worker {
        worker: name.to_owned(),
        live_sessions: 10,
        memory_bytes: memory,
        ..Default::default()
    };
    let slow = v1::Worker {
        loop_blocked: span(1_200),
        loop_blocked_time: wall(95),
        loop_blocked_session_id: "AJ_0003".to_owned(),
        ..worker("python-12", 0)
    };
    let all = tenants(second);
    Fed::Figures(Box::new(v1::GetSnapshotResponse {
        version: "0.1.0".to_owned(),
        cursor: cursor(sequence),
        start_time: wall(0),
        uptime: span(1000 * (7260 + second)),
        active_sessions: all.iter().map(|tenant| tenant.live_sessions).sum(),
        pending_sessions: 3,
        machine_cap: 500,
        workers: 2,
        total_sessions_started: all.iter().map(|tenant| tenant.total_sessions_started).sum(),
        total_session_failures: 3,
        total_rejections: [("TENANT_AT_CAP".to_owned(), all[5].total_rejections)].into(),
        tenants: all,
        attached_workers: vec![worker("python-11", 123_456_789), slow],
        resident_bytes: 39_000_000,
        ..Default::default()
    }))
}

/// The fleet, looked at for five seconds until second 105.
fn fleet() -> App {
    let mut app = App::new(Wanted::default());
    app.hear(Fed::Up { resumed: false }, at(100));
    for tenant in tenants(0) {
        app.hear(Fed::Item(Item::Tenant(tenant)), at(100));
    }
    let mut sessions = vec![
        session("AJ_0001", "acme", "python-11", 35),
        session("AJ_0002", "acme", "python-11", 90),
        session("AJ_0003", "broken", "python-12", 80),
        session("AJ_0004", "probing", "python-12", 99),
        session("AJ_0005", "small", "", 50),
        session("AJ_0006", "small", "node-77", 60),
    ];
    sessions[1].set_state(v1::SessionState::Pending);
    sessions[2].failed = true;
    sessions[3].probe = true;
    sessions[5].set_state(v1::SessionState::Grace);
    for session in sessions {
        app.hear(Fed::Item(Item::Session(session)), at(100));
    }
    app.hear(Fed::Item(Item::SnapshotEnd(v1::SnapshotEnd { cursor: cursor(0) })), at(100));
    for second in 0..=5 {
        app.hear(figures(second, 0), at(100 + second));
    }
    let rejected = v1::SessionRejected {
        reason: v1::Reason::TenantAtCap.into(),
        limit: Some(3),
        current: Some(3),
        message: "tenant small is at its cap: 3 of 3 sessions are live".to_owned(),
        ..Default::default()
    };
    let opened = v1::BreakerChanged { failures: 3, samples: 4, cooldown: span(18_000) };
    for event in [
        acquired(1, "AJ_0007", "acme", 13, 20),
        event(2, v1::EventKind::SessionRejected, "small", Some(Detail::SessionRejected(rejected))),
        event(3, v1::EventKind::BreakerOpened, "broken", Some(Detail::BreakerChanged(opened))),
        ended(4, "AJ_0007", "acme"),
    ] {
        app.hear(Fed::Item(Item::Event(event)), at(105));
    }
    app
}

/// What is on the screen, and in which styles.
fn draw(
    app: &mut App,
    (width, height): (u16, u16),
    look: Look,
    now: Now,
) -> ratatui::buffer::Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| view::draw(frame, app, look, now)).unwrap();
    terminal.backend().buffer().clone()
}

fn lines(buffer: &ratatui::buffer::Buffer) -> Vec<String> {
    let area = buffer.area;
    let mut lines = Vec::new();
    for y in 0..area.height {
        let mut line = String::new();
        let mut hidden = 0;
        for x in 0..area.width {
            let symbol = buffer[(x, y)].symbol();
            if hidden == 0 {
                line.push_str(symbol);
                // The cells that a wide character covers hold blanks.
                hidden = unicode_width::UnicodeWidthStr::width(symbol);
            }
            hidden = hidden.saturating_sub(1);
        }
        lines.push(line.trim_end().to_owned());
    }
    lines
}

fn screen(app: &mut App, size: (u16, u16), now: Now) -> String {
    lines(&draw(app, size, COLOUR, now)).join("\n") + "\n"
}

/// Presses keys, each after the screen was drawn, as by a person.
fn press(app: &mut App, keys: &[Key]) -> Effect {
    let mut effect = Effect::None;
    for key in keys {
        draw(app, (100, 30), COLOUR, at(105));
        effect = app.key(*key, at(105));
    }
    effect
}

fn typed(text: &str) -> Vec<Key> {
    text.chars().map(Key::Char).collect()
}
