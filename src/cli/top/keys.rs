//! A terminal's events, as what the screen understands.

use crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, MouseButton, MouseEventKind};

use super::{
    app::{App, Effect},
    model::Now,
    press::Key,
};

/// The mouse only moves: nothing to draw anew for.
pub fn is_idle(event: &Event) -> bool {
    matches!(event, Event::Mouse(mouse) if matches!(mouse.kind, MouseEventKind::Moved | MouseEventKind::Drag(_)))
}

/// Hands one on.
pub fn handle(app: &mut App, event: &Event, now: Now) -> Effect {
    match event {
        Event::Key(pressed) if pressed.kind != KeyEventKind::Release => {
            let control = pressed.modifiers.contains(KeyModifiers::CONTROL);
            let key = match pressed.code {
                KeyCode::Char(c) if control => Key::Control(c.to_ascii_lowercase()),
                // What is typed is shown: nothing active gets in.
                KeyCode::Char(c) if !c.is_control() => Key::Char(c),
                KeyCode::Up => Key::Up,
                KeyCode::Down => Key::Down,
                KeyCode::PageUp => Key::PageUp,
                KeyCode::PageDown => Key::PageDown,
                KeyCode::Home => Key::Home,
                KeyCode::End => Key::End,
                KeyCode::Enter => Key::Enter,
                KeyCode::Esc => Key::Escape,
                KeyCode::Tab => Key::Tab,
                KeyCode::BackTab => Key::BackTab,
                KeyCode::Backspace => Key::Backspace,
                KeyCode::F(1) => Key::Char('?'),
                KeyCode::F(10) => Key::Char('q'),
                _ => return Effect::None,
            };
            app.key(key, now)
        }
        Event::Paste(text) => {
            app.paste(text, now);
            Effect::None
        }
        Event::Mouse(mouse) => {
            match mouse.kind {
                MouseEventKind::Down(MouseButton::Left) => app.click(mouse.column, mouse.row, now),
                MouseEventKind::ScrollDown => app.wheel(true, now),
                MouseEventKind::ScrollUp => app.wheel(false, now),
                _ => {}
            }
            Effect::None
        }
        _ => Effect::None,
    }
}
