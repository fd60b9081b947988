//! What lies over the screen: the help, and the question before something is
//! done.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    symbols::border,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph, Wrap},
};

use super::{format, look::Look};
use crate::cli::{
    text,
    top::{
        act::{Action, Deed},
        app::App,
        ask::{Dialog, Field},
        model::Now,
        rows::{SessionRow, TenantRow},
        tail::Tone,
    },
};

const HELP: [(&str, &str); 31] = [
    ("", "MOVE"),
    ("Tab  1 2 3", "tenants, sessions, events"),
    ("arrows  j k", "choose a row"),
    ("PgUp PgDn  g G", "a page; first, last"),
    ("Enter", "the row in detail; from a session on, its tenant"),
    ("Esc", "back; then take away failure, filters, status"),
    ("t", "the sessions of the chosen tenant; again: all"),
    ("mouse", "click row, column, table; wheel; Shift selects text"),
    ("", "LOOK"),
    ("/", "only rows and events with this text"),
    ("f", "only rows of the next status"),
    ("s  r", "sort by the next column; the other way round"),
    ("e", "the events below the table, or not"),
    ("p", "hold the screen still; the rest goes on"),
    ("q  Ctrl-C", "end"),
    ("Ctrl-Z  Ctrl-L", "stop as a job; draw anew"),
    ("", "ACT (asks first)"),
    ("S  R", "suspend the tenant; resume it"),
    ("B", "reset its breaker"),
    ("C", "set its cap: a number, unlimited, default"),
    ("K", "revoke the session"),
    ("", "COLUMNS"),
    ("ACT/CAP", "live sessions; the bar shows pending ones lighter"),
    ("BREAKER", "closed, open and for how long, off, suspended"),
    ("half-open 1+2", "probes under way + probes that were healthy"),
    ("ACQ/S REF/S", "acquires and refusals a second, over 5 s"),
    ("FAIL%", "failed of all outcomes in the breaker's window"),
    ("TREND", "acquires and refusals, one bar a refresh"),
    ("LAG", "the event loop's last block within 30 s, and its session's"),
    ("MEM", "the worker process's memory; shared by its sessions"),
    ("", "`tenantd top --help` has the flags, docs/top.md all of it"),
];

fn framed(title: &str, look: Look) -> Block<'_> {
    let block = Block::bordered().title(title);
    if look.ascii {
        block.border_set(border::Set {
            top_left: "+",
            top_right: "+",
            bottom_left: "+",
            bottom_right: "+",
            vertical_left: "|",
            vertical_right: "|",
            horizontal_top: "-",
            horizontal_bottom: "-",
        })
    } else {
        block
    }
}

fn middle(of: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(of.width), height.min(of.height));
    Rect { x: of.x + (of.width - width) / 2, y: of.y + (of.height - height) / 2, width, height }
}

pub fn help(frame: &mut Frame, app: &mut App, look: Look) {
    let rows = u16::try_from(HELP.len()).unwrap_or(u16::MAX);
    let area = middle(frame.area(), 76, rows + 2);
    let room = usize::from(area.height.saturating_sub(2));
    app.scroll = app.scroll.min(HELP.len().saturating_sub(room));
    let lines: Vec<_> = HELP
        .iter()
        .skip(app.scroll)
        .take(room)
        .map(|(key, does)| {
            if key.is_empty() {
                Line::styled(*does, look.head())
            } else {
                Line::from(vec![
                    Span::styled(format!("  {key:<15} "), look.head()),
                    Span::raw(*does),
                ])
            }
        })
        .collect();
    let title = if HELP.len() > room {
        " keys (arrows scroll, Esc closes) "
    } else {
        " keys (Esc closes) "
    };
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(framed(title, look)), area);
}

/// How that stands now which something is to be done to.
fn stands(app: &App, action: &Action, now: Now) -> String {
    if action.deed == Deed::Revoke {
        return match app.world.sessions.get(&action.target) {
            None => "now: ended".to_owned(),
            Some(session) => {
                let row = SessionRow::of(session, &app.world, now);
                let tenant = text::escape(&session.state.tenant);
                format!("now: {} for {}, of tenant {tenant}", row.state, format::span(row.age))
            }
        };
    }
    match app.world.tenants.get(&action.target) {
        None => "now: nothing of it in memory".to_owned(),
        Some(tenant) => {
            let row = TenantRow::of(tenant, now);
            let live = format::of_cap(tenant.state.live_sessions, tenant.state.cap);
            let suspended = if row.is_suspended() { ", suspended" } else { "" };
            format!("now: {live} live, breaker {}{suspended}", format::breaker(row.breaker, false))
        }
    }
}

pub fn dialog(frame: &mut Frame, app: &App, look: Look, now: Now) {
    let Some(Dialog { action, field, wrong }) = &app.dialog else { return };
    let mut lines = vec![
        Line::from(vec![
            Span::raw(format!("{} ", action.deed.words())),
            Span::styled(text::escape(&action.target), look.head()),
            Span::raw("?"),
        ]),
        Line::styled(action.deed.meaning(), look.dim()),
        Line::styled(stands(app, action, now), look.dim()),
        Line::default(),
    ];
    let input = |name: &str, typed: &str, here: bool| {
        let style = if here { look.chosen() } else { Style::new() };
        let caret = if here { "_" } else { "" };
        Line::from(vec![
            Span::raw(format!("{name:<6}")),
            Span::styled(format!("{}{caret}", text::escape(typed)), style),
        ])
    };
    if action.deed == Deed::SetCap {
        lines.push(input("cap:", &action.cap, *field == Field::Cap));
    }
    lines.push(input("note:", &action.note, *field == Field::Note));
    if !wrong.is_empty() {
        lines.push(Line::styled(wrong.clone(), look.tone(Tone::Bad)));
    }
    lines.push(Line::default());
    let next = if action.deed == Deed::SetCap { "   Tab next field" } else { "" };
    lines.push(Line::from(vec![
        Span::styled("Enter", look.head()),
        Span::raw(" do it   "),
        Span::styled("Esc", look.head()),
        Span::raw(format!(" leave it{next}")),
    ]));
    let width = 64;
    let room = usize::from(width - 2);
    let rows: usize =
        lines.iter().map(|line| line.width().div_ceil(room).max(1)).sum::<usize>() + 2;
    let area = middle(frame.area(), width, u16::try_from(rows).unwrap_or(u16::MAX));
    let body = Paragraph::new(lines).wrap(Wrap { trim: false }).block(framed(" sure? ", look));
    frame.render_widget(Clear, area);
    frame.render_widget(body, area);
}
