//! One tenant or one session on the whole screen.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{events, format, look::Look, sessions::state_tone, tenants::breaker_tone};
use crate::cli::{
    text,
    top::{
        app::App,
        model::{Now, World, age},
        rows::{self, SessionRow, TenantRow},
        tail::Tone,
        wanted::{Sort, Wanted},
    },
};

/// Most sessions of a tenant listed here; the table has all.
const SESSIONS: usize = 50;

struct Page<'a> {
    lines: Vec<Line<'a>>,
    look: Look,
    width: u16,
}

impl Page<'_> {
    fn field(&mut self, name: &str, value: String, tone: Tone) {
        self.lines.push(Line::from(vec![
            Span::styled(format!("{name:<14} "), self.look.dim()),
            Span::styled(value, self.look.tone(tone)),
        ]));
    }

    fn rule(&mut self, title: &str) {
        self.lines.push(Line::styled(self.look.rule(title, self.width), self.look.dim()));
    }

    fn tail(&mut self, world: &World, about: impl Fn(&crate::cli::top::tail::Line) -> bool) {
        self.rule("events");
        let before = self.lines.len();
        let newest = world.tail.iter().rev().filter(|line| about(line));
        let look = self.look;
        self.lines.extend(newest.map(|line| events::line(line, look)));
        if self.lines.len() == before {
            self.lines.push(Line::styled("none so far", look.dim()));
        }
    }

    fn show(self, frame: &mut Frame, area: Rect, scroll: &mut usize) {
        *scroll = (*scroll).min(self.lines.len().saturating_sub(usize::from(area.height)));
        let lines: Vec<_> =
            self.lines.into_iter().skip(*scroll).take(usize::from(area.height)).collect();
        frame.render_widget(Paragraph::new(lines), area);
    }
}

pub fn tenant(frame: &mut Frame, area: Rect, app: &mut App, id: &str, look: Look, now: Now) {
    let mut page = Page { lines: Vec::new(), look, width: area.width };
    page.lines.push(Line::styled(format!("tenant {}", text::escape(id)), look.head()));
    let (world, now) = app.shown(now);
    if let Some(tenant) = world.tenants.get(id) {
        let row = TenantRow::of(tenant, now);
        tenant_fields(&mut page, &row, now);
    } else {
        page.field(
            "state",
            "none in memory: it has had no sessions lately".to_owned(),
            Tone::Plain,
        );
    }
    let wanted = Wanted { one_tenant: Some(id.to_owned()), ..Wanted::default() };
    let sessions = rows::sessions(world, &wanted, (Sort::Age, false), now);
    page.rule(&format!("sessions {}", sessions.len()));
    for row in sessions.iter().take(SESSIONS) {
        page.lines.push(session_line(row, look));
    }
    page.tail(world, |line| line.tenant == id);
    let mut scroll = app.scroll;
    page.show(frame, area, &mut scroll);
    app.scroll = scroll;
}

fn tenant_fields(page: &mut Page<'_>, row: &TenantRow<'_>, now: Now) {
    let look = page.look;
    let state = &row.tenant.state;
    let bar = look.bar(state.live_sessions, state.pending_sessions, state.cap, 20);
    let set = if state.cap_overridden { "  cap set by hand" } else { "" };
    page.field(
        "live / cap",
        format!(
            "{} {bar} {} pending{set}",
            format::of_cap(state.live_sessions, state.cap),
            state.pending_sessions
        ),
        if row.is_full() { Tone::Warn } else { Tone::Plain },
    );
    if let Some(by) = &state.suspension {
        let note = if by.note.is_empty() { String::new() } else { format!(": {}", by.note) };
        page.field(
            "suspended",
            text::escape(&format!(
                "{} ago by {}{note}",
                format::span(age(by.since.as_ref(), now)),
                by.actor
            )),
            Tone::Warn,
        );
    }
    let breaker = state.breaker.unwrap_or_default();
    page.field(
        "breaker",
        format!(
            "{}  {} failed of {} in the window ({})",
            format::breaker(row.breaker, false),
            breaker.failures,
            breaker.failures + breaker.successes,
            format::percent(row.failure_ratio),
        ),
        breaker_tone(row),
    );
    let rate = |of: Option<f64>| format::rate(of);
    page.field(
        "per second",
        format!(
            "acquires {}  refusals {}",
            rate(row.rates.map(|rates| rates.acquires)),
            rate(row.rates.map(|rates| rates.refusals)),
        ),
        Tone::Plain,
    );
    page.field(
        "in all",
        format!(
            "started {}  failed {}  refused {}",
            state.total_sessions_started, state.total_session_failures, state.total_rejections
        ),
        Tone::Plain,
    );
    let room = usize::from(page.width).saturating_sub(15);
    let trend = row.tenant.history.trend(room);
    let acquired: Vec<_> = trend.iter().map(|pair| pair.0).collect();
    let refused: Vec<_> = trend.iter().map(|pair| pair.1).collect();
    page.field("acquires", look.sparkline(&acquired), Tone::Plain);
    page.field("refusals", look.sparkline(&refused), Tone::Plain);
    if !row.tenant.reasons.is_empty() {
        let reasons: Vec<_> =
            row.tenant.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
        page.field(
            "refused since",
            format!("{} (since top looks)", reasons.join("  ")),
            Tone::Plain,
        );
    }
    let entry = if state.known { "own entry" } else { "no entry: runs on the defaults" };
    page.field("config", format!("{}  {entry}", text::escape(&state.config_version)), Tone::Plain);
}

fn session_line<'a>(row: &SessionRow<'_>, look: Look) -> Line<'a> {
    let state = row.wire();
    let lag = row.lag.map(|lag| format!("  slow {}", format::lag(lag))).unwrap_or_default();
    Line::from(vec![
        Span::raw(format!(
            "{} ",
            format::place(&format::fit_middle(&text::escape(&state.session_id), 28), 28, false)
        )),
        Span::styled(format!("{:<8} ", row.state), look.tone(state_tone(row))),
        Span::raw(format!("{:>7}  ", format::span(row.age))),
        Span::raw(text::escape(&state.agent_name)),
        Span::styled(lag, look.tone(Tone::Warn)),
    ])
}

pub fn session(frame: &mut Frame, area: Rect, app: &mut App, id: &str, look: Look, now: Now) {
    let mut page = Page { lines: Vec::new(), look, width: area.width };
    page.lines.push(Line::styled(format!("session {}", text::escape(id)), look.head()));
    let (world, now) = app.shown(now);
    if let Some(session) = world.sessions.get(id) {
        let row = SessionRow::of(session, world, now);
        session_fields(&mut page, &row, world, now);
    } else {
        page.field("state", "ended".to_owned(), Tone::Plain);
    }
    page.tail(world, |line| line.session == id);
    let mut scroll = app.scroll;
    page.show(frame, area, &mut scroll);
    app.scroll = scroll;
}

fn session_fields(page: &mut Page<'_>, row: &SessionRow<'_>, world: &World, now: Now) {
    let state = row.wire();
    let said = |text: &str| if text.is_empty() { "-".to_owned() } else { text::escape(text) };
    page.field("tenant", format!("{} (Enter shows it)", said(&state.tenant)), Tone::Plain);
    page.field("agent", said(&state.agent_name), Tone::Plain);
    page.field("state", row.state.to_owned(), state_tone(row));
    page.field(
        "acquired",
        format!("{} ago, {}", format::span(row.age), text::time(state.acquire_time.as_ref())),
        Tone::Plain,
    );
    if let Some(ttl) = &state.ttl {
        page.field("ttl", format::span(text::span(ttl)), Tone::Plain);
    }
    if state.probe {
        page.field("probe", "admitted by the half-open breaker".to_owned(), Tone::Warn);
    }
    if state.failed {
        page.field("failed", "reported as failed".to_owned(), Tone::Bad);
    }
    page.rule("worker");
    page.field("worker", said(&state.worker), Tone::Plain);
    match world.workers.get(&state.worker) {
        Some(worker) => {
            let memory = worker.state.memory_bytes;
            let memory = if memory > 0 { format::bytes(memory) } else { "not said".to_owned() };
            page.field("memory", memory, Tone::Plain);
            page.field("sessions", worker.state.live_sessions.to_string(), Tone::Plain);
            if let Some((at, lasted)) = worker.blocked {
                let by = &worker.state.loop_blocked_session_id;
                let by = if by.is_empty() { String::new() } else { format!(" by {by}") };
                page.field(
                    "event loop",
                    text::escape(&format!(
                        "blocked {} {} ago{by}",
                        format::lag(lasted),
                        format::span(now.mono.saturating_sub(at))
                    )),
                    if row.lag.is_some() { Tone::Warn } else { Tone::Plain },
                );
            }
        }
        None if state.worker.is_empty() => {}
        None => page.field("", "no figures: gone, or not yours to see".to_owned(), Tone::Plain),
    }
}
