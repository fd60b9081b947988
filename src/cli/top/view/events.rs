//! The tail of events: as a pane below a table, and as a table of its own.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::look::Look;
use crate::cli::top::{app::App, model::Now, tail};

/// Below a table: the newest.
pub fn pane(frame: &mut Frame, area: Rect, app: &App, look: Look, now: Now) {
    let rule = look.rule("events", area.width);
    let head = Rect { height: 1, ..area };
    let body = Rect { y: area.y + 1, height: area.height.saturating_sub(1), ..area };
    frame.render_widget(Paragraph::new(Span::styled(rule, look.dim())), head);
    let lines = app.lines(now);
    let skip = lines.len().saturating_sub(usize::from(body.height));
    let lines: Vec<_> = lines.into_iter().skip(skip).map(|of| line(of, look)).collect();
    frame.render_widget(Paragraph::new(lines), body);
}

/// The whole tail, newest below; scrolled up, it stays where it is until the
/// end is gone to again.
pub fn draw(frame: &mut Frame, area: Rect, app: &mut App, look: Look, now: Now) {
    let room = usize::from(area.height);
    app.hits.rows = (area.y, area.height);
    let count = app.lines(now).len();
    app.scroll = app.scroll.min(count.saturating_sub(room));
    let end = count - app.scroll;
    let lines = app.lines(now);
    let shown = lines[end.saturating_sub(room)..end].iter();
    let lines: Vec<_> = shown.map(|of| line(of, look)).collect();
    if lines.is_empty() {
        frame.render_widget(Paragraph::new(Span::styled("no events so far", look.dim())), area);
        return;
    }
    frame.render_widget(Paragraph::new(lines), area);
}

/// One.
pub fn line<'a>(of: &tail::Line, look: Look) -> Line<'a> {
    Line::from(vec![
        Span::styled(format!("{} ", of.time), look.dim()),
        Span::styled(format!("{:<18} ", of.kind), look.tone(of.tone)),
        Span::raw(of.shown.clone()),
    ])
}
