//! The screen, drawn anew each time out of what is known. Text that came from
//! outside goes through `text::escape` or is a line of the tail, made inert
//! already.

mod detail;
mod events;
pub mod format;
pub mod look;
mod over;
mod sessions;
mod tenants;

use std::time::Duration;

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};

use self::{format::fit, look::Look};
use super::{
    app::{App, Detail, Table},
    model::{Link, Now},
    tail::Tone,
};
use crate::cli::text;

/// Most lines for the words of a failure.
const FAILURE: usize = 3;
/// The least that it can be drawn in.
const LEAST: (u16, u16) = (60, 10);
/// From this height on the events have a pane below the table.
const EVENTS_FROM: u16 = 18;
/// From this height on they have a larger part of it.
const TALL_FROM: u16 = 40;

/// Draws it.
pub fn draw(frame: &mut Frame, app: &mut App, look: Look, now: Now) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let words = format!("tenantd top needs {} x {} characters", LEAST.0, LEAST.1);
        frame.render_widget(Paragraph::new(words), area);
        return;
    }
    let pane = match area.height {
        _ if !app.events || !app.detail.is_empty() || app.table == Table::Events => 0,
        height if height < EVENTS_FROM => 0,
        height if height < TALL_FROM => height / 4,
        height => height / 3,
    };
    let [head, tabs, main, below, foot] = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(1),
        Constraint::Min(3),
        Constraint::Length(pane),
        Constraint::Length(foot_height(app, area.width)),
    ])
    .areas(area);
    draw_head(frame, head, app, look, now);
    draw_tabs(frame, tabs, app, look, now);
    app.hits.rows = (0, 0);
    app.hits.columns.1.clear();
    match (app.detail.last().cloned(), app.table) {
        (Some(Detail::Tenant(id)), _) => detail::tenant(frame, main, app, &id, look, now),
        (Some(Detail::Session(id)), _) => detail::session(frame, main, app, &id, look, now),
        (None, Table::Tenants) => tenants::draw(frame, main, app, look, now),
        (None, Table::Sessions) => sessions::draw(frame, main, app, look, now),
        (None, Table::Events) => events::draw(frame, main, app, look, now),
    }
    if pane > 0 {
        events::pane(frame, below, app, look, now);
    }
    draw_foot(frame, foot, app, look);
    if app.help {
        over::help(frame, app, look);
    }
    if app.dialog.is_some() {
        over::dialog(frame, app, look, now);
    }
}

/// What the sidecar is at.
fn draw_head(frame: &mut Frame, area: Rect, app: &App, look: Look, now: Now) {
    let (word, tone) = link(&app.world.link, now);
    let paused = app.frozen.is_some();
    let (world, _) = app.shown(now);
    let (mut first, mut second) = (vec![Span::styled("tenantd", look.head())], Vec::new());
    if let Some(figures) = &world.figures {
        let up = figures.uptime.as_ref().map(text::span).unwrap_or_default();
        let memory = match figures.resident_bytes {
            0 => String::new(),
            bytes => format!("  mem {}", format::bytes(bytes)),
        };
        first.push(Span::raw(format!(
            " {}  up {}  live {} ({} pending)  workers {}{memory}",
            text::escape(&figures.version),
            format::span(up),
            format::of_cap(figures.active_sessions, Some(figures.machine_cap)),
            figures.pending_sessions,
            figures.workers,
        )));
        let rates = world.history.rates();
        second.push(Span::raw(format!(
            "acquires {}/s  refusals {}/s  failed {}",
            format::rate(rates.map(|rates| rates.acquires)),
            format::rate(rates.map(|rates| rates.refusals)),
            figures.total_session_failures,
        )));
        if figures.draining {
            let left = figures.drain_remaining.as_ref().map(text::span).unwrap_or_default();
            let words = format!("  DRAINING {}", format::span(left));
            second.push(Span::styled(words, look.tone(Tone::Warn)));
        }
        if let Some(config) = figures.config.as_ref().filter(|config| !config.last_error.is_empty())
        {
            let words = format!("  reload refused: {}", text::escape(&config.last_error));
            second.push(Span::styled(words, look.tone(Tone::Bad)));
        } else if !figures.last_error.is_empty() {
            let words = format!(
                "  last: {} {}",
                text::escape(&figures.last_error_tenant),
                text::escape(&figures.last_error),
            );
            second.push(Span::styled(words, look.dim()));
        }
    }
    frame.render_widget(Paragraph::new(vec![Line::from(first), Line::from(second)]), area);
    let word = if paused && tone != Tone::Bad { "PAUSED".to_owned() } else { word };
    let word = format!("  {}", fit(&word, usize::from(area.width) / 2));
    let style = if tone == Tone::Bad || paused {
        look.tone(tone).patch(look.chosen())
    } else {
        look.tone(tone)
    };
    let width = u16::try_from(Span::raw(&word).width()).unwrap_or(area.width).min(area.width);
    let right = Rect { x: area.right() - width, width, height: 1, ..area };
    frame.render_widget(
        Paragraph::new(Span::styled(word, style)).alignment(Alignment::Right),
        right,
    );
}

fn link(link: &Link, now: Now) -> (String, Tone) {
    let ago = |since: Duration| format::span(now.mono.saturating_sub(since));
    match link {
        Link::Connecting => ("connecting".to_owned(), Tone::Plain),
        Link::Live => ("live".to_owned(), Tone::Good),
        Link::Stalled { since, .. } => (format!("no answer {}", ago(*since)), Tone::Bad),
        Link::Down { since, problem } => {
            (format!("reconnecting {}: {}", ago(*since), text::escape(problem)), Tone::Bad)
        }
    }
}

/// The tables' names, and what is filtered and sorted by.
fn draw_tabs(frame: &mut Frame, area: Rect, app: &mut App, look: Look, now: Now) {
    let counts = app.counts(now);
    let mut spans = Vec::new();
    let mut at = area.x;
    app.hits.tabs = (area.y, Vec::new());
    for (table, name) in [
        (Table::Tenants, format!(" Tenants {} ", counts[0])),
        (Table::Sessions, format!(" Sessions {} ", counts[1])),
        (Table::Events, " Events ".to_owned()),
    ] {
        let end = at + u16::try_from(name.chars().count()).unwrap_or_default();
        app.hits.tabs.1.push((at, end, table));
        at = end;
        let style = if app.table == table { look.head().patch(look.chosen()) } else { look.head() };
        spans.push(Span::styled(name, style));
    }
    let mut said = Vec::new();
    if app.typing || !app.wanted.text.is_empty() {
        let caret = if app.typing { "_" } else { "" };
        said.push(format!("/{}{caret}", text::escape(&app.wanted.text)));
    }
    if let Some(tenant) = &app.wanted.one_tenant {
        said.push(format!("of {}", text::escape(tenant)));
    }
    let index = match app.table {
        Table::Tenants => Some(0),
        Table::Sessions => Some(1),
        Table::Events => None,
    };
    if let Some(index) = index {
        if let Some(status) = app.status[index] {
            said.push(format!("status {}", status.name()));
        }
        let (sort, reverse) = app.sort[index];
        said.push(format!("sort {}{}", sort.name(), look.arrow(sort.descends() != reverse)));
    }
    let room = usize::from(area.width).saturating_sub(usize::from(at - area.x) + 1);
    spans.push(Span::raw(format::place(&said.join("  "), room, true)));
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// The words of a failure, in lines.
fn failure(words: &str, width: u16) -> Vec<String> {
    format::wrap(&format!("{words} (Esc)"), usize::from(width), FAILURE)
}

/// One line, but for the words of a failure.
fn foot_height(app: &App, width: u16) -> u16 {
    let note = app.note.as_ref().filter(|_| app.has_failure());
    let lines = note.map_or(1, |note| failure(&note.text, width).len());
    u16::try_from(lines).unwrap_or(1)
}

/// Keys; or what was done, which is more important.
fn draw_foot(frame: &mut Frame, area: Rect, app: &App, look: Look) {
    let line = match &app.note {
        Some(note) if note.until.is_none() => {
            let style = look.tone(Tone::Bad).patch(look.chosen());
            let lines = failure(&note.text, area.width).into_iter().map(Line::from);
            frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).style(style), area);
            return;
        }
        Some(note) => Line::styled(note.text.clone(), look.tone(Tone::Good)),
        None => {
            let keys: &[(&str, &str)] = match (app.detail.last(), app.table) {
                _ if app.typing => &[("Enter", "keep"), ("Esc", "drop the filter")],
                (Some(_), _) => &[
                    ("Esc", "back"),
                    ("S", "suspend"),
                    ("R", "resume"),
                    ("B", "reset breaker"),
                    ("C", "cap"),
                    ("K", "revoke"),
                    ("?", "help"),
                    ("q", "quit"),
                ],
                (None, Table::Sessions) => &[
                    ("?", "help"),
                    ("q", "quit"),
                    ("/", "filter"),
                    ("s", "sort"),
                    ("f", "status"),
                    ("t", "tenant"),
                    ("Tab", "table"),
                    ("Enter", "detail"),
                    ("K", "revoke"),
                    ("S", "suspend"),
                ],
                (None, _) => &[
                    ("?", "help"),
                    ("q", "quit"),
                    ("/", "filter"),
                    ("s", "sort"),
                    ("f", "status"),
                    ("t", "sessions"),
                    ("Tab", "table"),
                    ("Enter", "detail"),
                    ("S", "suspend"),
                    ("C", "cap"),
                ],
            };
            let mut spans = Vec::new();
            for (key, does) in keys {
                spans.push(Span::styled(*key, look.head()));
                spans.push(Span::styled(format!(" {does}  "), look.dim()));
            }
            Line::from(spans)
        }
    };
    frame.render_widget(Paragraph::new(line), area);
}

/// One column of a table: its title, its width, whether figures stand right.
struct Column {
    sort: Option<super::wanted::Sort>,
    title: &'static str,
    width: usize,
    right: bool,
}

impl Column {
    fn place(&self, text: &str) -> String {
        format::place(text, self.width, self.right)
    }
}

/// The line of titles, clickable.
fn titles(
    frame: &mut Frame,
    area: Rect,
    app: &mut App,
    columns: &[Column],
    (sort, reverse): (super::wanted::Sort, bool),
    look: Look,
) {
    let mut spans = Vec::new();
    let mut at = area.x;
    app.hits.columns = (area.y, Vec::new());
    for column in columns {
        let sorted = column.sort == Some(sort);
        let title = if sorted {
            let arrow = look.arrow(sort.descends() != reverse);
            let room = column.width.saturating_sub(1).min(column.title.len());
            format!("{}{arrow}", &column.title[..room])
        } else {
            column.title.to_owned()
        };
        spans.push(Span::styled(column.place(&title), look.head()));
        spans.push(Span::raw(" "));
        let end = at + u16::try_from(column.width).unwrap_or_default();
        if let Some(sort) = column.sort {
            app.hits.columns.1.push((at, end, sort));
        }
        at = end + 1;
    }
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// The lines of a table's rows, the chosen one reversed over the whole width.
fn show_rows(frame: &mut Frame, area: Rect, lines: Vec<Line<'_>>, chosen: usize, look: Look) {
    for (n, line) in lines.into_iter().enumerate() {
        let y = area.y + u16::try_from(n).unwrap_or_default();
        let row = Rect { y, height: 1, ..area };
        frame.render_widget(Paragraph::new(line), row);
        if n == chosen {
            frame.buffer_mut().set_style(row, look.chosen());
        }
    }
}
