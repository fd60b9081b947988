//! The table of sessions.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{Column, format, look::Look, show_rows, titles};
use crate::cli::{
    text,
    top::{app::App, model::Now, rows::SessionRow, tail::Tone, wanted::Sort},
};

pub fn draw(frame: &mut Frame, area: Rect, app: &mut App, look: Look, now: Now) {
    let columns = columns(area.width);
    let head = Rect { height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    titles(frame, head, app, &columns, app.sort[1], look);
    app.hits.rows = (body.y, body.height);
    let room = usize::from(body.height);
    let mut place = std::mem::take(&mut app.place[1]);
    let rows = app.sessions(now);
    let chosen = place.settle(rows.len(), |n| rows[n].id(), room);
    if rows.is_empty() {
        app.place[1] = place;
        let words = if app.world.is_complete() { "no live sessions" } else { "" };
        let words = if app.world.sessions.is_empty() { words } else { "no session matches" };
        frame.render_widget(Paragraph::new(Span::styled(words, look.dim())), body);
        return;
    }
    let lines =
        rows.iter().skip(place.top).take(room).map(|row| line(row, &columns, look)).collect();
    show_rows(frame, body, lines, chosen - place.top, look);
    app.place[1] = place;
}

fn columns(width: u16) -> Vec<Column> {
    let column = |sort, title, width, right| Column { sort: Some(sort), title, width, right };
    // What the fixed ones leave is shared out among the names.
    let rest = usize::from(width).saturating_sub(6 + 7 + 6 + 5 + 8).max(32);
    let name = rest * 2 / 9;
    vec![
        column(Sort::Session, "SESSION", rest - 3 * name, false),
        column(Sort::Agent, "AGENT", name, false),
        column(Sort::Tenant, "TENANT", name, false),
        column(Sort::Worker, "WORKER", name, false),
        column(Sort::Age, "AGE", 6, true),
        column(Sort::State, "STATE", 7, false),
        column(Sort::Lag, "LAG", 6, true),
        column(Sort::Memory, "MEM", 5, true),
    ]
}

fn line<'a>(row: &SessionRow<'_>, columns: &[Column], look: Look) -> Line<'a> {
    let state = row.wire();
    let cells = [
        (format::fit_middle(&text::escape(&state.session_id), columns[0].width), Tone::Plain),
        (text::escape(&state.agent_name), Tone::Plain),
        (text::escape(&state.tenant), Tone::Plain),
        (format::fit_middle(&text::escape(&state.worker), columns[3].width), Tone::Plain),
        (format::span(row.age), Tone::Plain),
        (row.state.to_owned(), state_tone(row)),
        (
            row.lag.map_or_else(|| "-".to_owned(), format::lag),
            if row.lag.is_some() { Tone::Warn } else { Tone::Plain },
        ),
        (row.memory.map_or_else(|| "-".to_owned(), format::bytes), Tone::Plain),
    ];
    let mut spans = Vec::new();
    for (column, (text, tone)) in columns.iter().zip(cells) {
        spans.push(Span::styled(column.place(&text), look.tone(tone)));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

/// How grave a session's state is.
pub fn state_tone(row: &SessionRow<'_>) -> Tone {
    match row.state {
        "failed" | "grace" => Tone::Bad,
        "pending" | "probe" => Tone::Warn,
        _ => Tone::Good,
    }
}
