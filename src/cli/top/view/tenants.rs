//! The table of tenants.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{Column, format, look::Look, show_rows, titles};
use crate::cli::{
    text,
    top::{
        app::App,
        model::Now,
        rows::{Breaker, TenantRow},
        tail::Tone,
        wanted::Sort,
    },
};

/// From this width on the totals have columns.
const TOTALS_FROM: u16 = 120;

pub fn draw(frame: &mut Frame, area: Rect, app: &mut App, look: Look, now: Now) {
    let columns = columns(area.width);
    let head = Rect { height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    titles(frame, head, app, &columns, app.sort[0], look);
    app.hits.rows = (body.y, body.height);
    let room = usize::from(body.height);
    let mut place = std::mem::take(&mut app.place[0]);
    let rows = app.tenants(now);
    let chosen = place.settle(rows.len(), |n| rows[n].id(), room);
    if rows.is_empty() {
        app.place[0] = place;
        let words = if app.world.is_complete() { "no tenants with sessions or state" } else { "" };
        let words = if app.world.tenants.is_empty() { words } else { "no tenant matches" };
        frame.render_widget(Paragraph::new(Span::styled(words, look.dim())), body);
        return;
    }
    let lines =
        rows.iter().skip(place.top).take(room).map(|row| line(row, &columns, look)).collect();
    show_rows(frame, body, lines, chosen - place.top, look);
    app.place[0] = place;
}

fn columns(width: u16) -> Vec<Column> {
    let column = |sort, title, width, right| Column { sort, title, width, right };
    let wide = width >= TOTALS_FROM;
    let name = if wide { 28 } else { 16 };
    let mut columns = vec![
        column(Some(Sort::Tenant), "TENANT", name, false),
        column(Some(Sort::Active), "ACT/CAP", 9, true),
        column(None, "", if wide { 20 } else { 7 }, false),
        column(Some(Sort::Pending), "PEND", 4, true),
        column(Some(Sort::Breaker), "BREAKER", 13, false),
        column(Some(Sort::Acquires), "ACQ/S", 5, true),
        column(Some(Sort::Refusals), "REF/S", 5, true),
        column(Some(Sort::Failures), "FAIL%", 5, true),
    ];
    if wide {
        columns.push(column(None, "STARTED", 8, true));
        columns.push(column(None, "FAILED", 7, true));
        columns.push(column(None, "REFUSED", 8, true));
    }
    let taken: usize = columns.iter().map(|column| column.width + 1).sum();
    columns.push(column(None, "TREND", usize::from(width).saturating_sub(taken).max(1), false));
    columns
}

fn line<'a>(row: &TenantRow<'_>, columns: &[Column], look: Look) -> Line<'a> {
    let state = &row.tenant.state;
    let trend = columns.last().map_or(0, |column| column.width);
    let values: Vec<_> = row
        .tenant
        .history
        .trend(trend)
        .iter()
        .map(|(acquired, refused)| acquired + refused)
        .collect();
    let full = if row.is_full() && state.cap != Some(0) { Tone::Warn } else { Tone::Plain };
    let refuses = row.rates.is_some_and(|rates| rates.refusals > 0.0);
    let fails = row.failure_ratio.is_some_and(|ratio| ratio > 0.0);
    let cells = [
        (text::escape(row.id()), Tone::Plain),
        (format::of_cap(state.live_sessions, state.cap), full),
        (
            look.bar(state.live_sessions, state.pending_sessions, state.cap, columns[2].width),
            if full == Tone::Warn { full } else { Tone::Good },
        ),
        (state.pending_sessions.to_string(), Tone::Plain),
        (format::breaker(row.breaker, row.is_suspended()), breaker_tone(row)),
        (format::rate(row.rates.map(|rates| rates.acquires)), Tone::Plain),
        (
            format::rate(row.rates.map(|rates| rates.refusals)),
            if refuses { Tone::Warn } else { Tone::Plain },
        ),
        (format::percent(row.failure_ratio), if fails { Tone::Bad } else { Tone::Plain }),
    ];
    let totals =
        [state.total_sessions_started, state.total_session_failures, state.total_rejections]
            .map(|total| (total.to_string(), Tone::Plain));
    let totals = totals.into_iter().take(columns.len() - cells.len() - 1);
    let trend = (look.sparkline(&values), Tone::Plain);
    let mut spans = Vec::new();
    for (column, (text, tone)) in columns.iter().zip(cells.into_iter().chain(totals).chain([trend]))
    {
        spans.push(Span::styled(column.place(&text), look.tone(tone)));
        spans.push(Span::raw(" "));
    }
    Line::from(spans)
}

/// How grave the state of a breaker is.
pub fn breaker_tone(row: &TenantRow<'_>) -> Tone {
    match row.breaker {
        _ if row.is_suspended() => Tone::Warn,
        Breaker::Open(_) => Tone::Bad,
        Breaker::HalfOpen(..) => Tone::Warn,
        Breaker::Closed | Breaker::Off => Tone::Plain,
    }
}
