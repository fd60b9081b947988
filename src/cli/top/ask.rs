//! The question before something is done, and the word on how it went.

use std::time::Duration;

use super::{
    act::{self, Action, Deed},
    app::{App, Effect, TYPED},
    model::Now,
    press::Key,
    tail,
};

/// How long a success is shown.
const NOTE_FOR: Duration = Duration::from_secs(8);

/// A field of the dialog.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Field {
    Cap,
    Note,
}

/// Asks before something is done.
#[derive(Debug, Clone)]
pub struct Dialog {
    /// What is to be done.
    pub action: Action,
    /// Where keys go.
    pub field: Field,
    /// What is wrong with what was typed.
    pub wrong: String,
}

/// A word on what was done.
#[derive(Debug, Clone)]
pub struct Note {
    /// Inert.
    pub text: String,
    /// Goes away by itself then; one that failed stays until it is read.
    pub until: Option<Duration>,
}

impl App {
    /// An action failed, and that has not been read.
    #[must_use]
    pub fn has_failure(&self) -> bool {
        self.note.as_ref().is_some_and(|note| note.until.is_none())
    }

    /// An action ended.
    pub fn done(&mut self, action: &Action, result: Result<(), String>, now: Now) {
        self.note = Some(match result {
            Ok(()) => Note {
                text: format!("done: {}", action.describe()),
                until: Some(now.mono + NOTE_FOR),
            },
            Err(problem) => {
                let text = format!("could not {}: {problem}", action.describe());
                // Among the events too, where it outlives the next action.
                self.world.note(tail::failed(&text, now));
                Note { text, until: None }
            }
        });
    }

    pub(super) fn ask(&mut self, deed: Deed, now: Now) {
        let target = match deed {
            Deed::Revoke => self.session_chosen(),
            Deed::Suspend | Deed::Resume | Deed::ResetBreaker | Deed::SetCap => {
                self.tenant_chosen(now)
            }
        };
        let Some(target) = target else {
            let what = if deed == Deed::Revoke { "a session" } else { "a tenant or a session" };
            let text = format!("to {}, choose {what} first", deed.words());
            self.note = Some(Note { text, until: Some(now.mono + NOTE_FOR) });
            return;
        };
        let action = Action { deed, target, cap: String::new(), note: String::new() };
        let field = if deed == Deed::SetCap { Field::Cap } else { Field::Note };
        self.note = None;
        self.dialog = Some(Dialog { action, field, wrong: String::new() });
    }

    pub(super) fn key_in_dialog(&mut self, key: Key, now: Now) -> Effect {
        let Some(dialog) = &mut self.dialog else { return Effect::None };
        let typed = match dialog.field {
            Field::Cap => &mut dialog.action.cap,
            Field::Note => &mut dialog.action.note,
        };
        match key {
            Key::Escape => self.dialog = None,
            Key::Enter => {
                if dialog.action.deed == Deed::SetCap
                    && let Err(wrong) = act::cap(&dialog.action.cap)
                {
                    dialog.wrong = wrong;
                    dialog.field = Field::Cap;
                    return Effect::None;
                }
                let action = self.dialog.take().map(|dialog| dialog.action);
                let Some(action) = action else { return Effect::None };
                let text = format!("asking: {}", action.describe());
                self.note = Some(Note { text, until: Some(now.mono + NOTE_FOR * 2) });
                return Effect::Act(action);
            }
            Key::Tab | Key::BackTab | Key::Up | Key::Down if dialog.action.deed == Deed::SetCap => {
                dialog.field = match dialog.field {
                    Field::Cap => Field::Note,
                    Field::Note => Field::Cap,
                };
            }
            Key::Backspace => _ = typed.pop(),
            Key::Control('u') => typed.clear(),
            Key::Char(c) if typed.chars().count() < TYPED => typed.push(c),
            _ => {}
        }
        Effect::None
    }
}
