//! What keys and the mouse do.

use super::{
    act::Deed,
    app::{App, Detail, Effect, TYPED, Table},
    model::Now,
    wanted::{Sort, Status},
};

/// Lines that a page key scrolls the help by.
const HELP_PAGE: usize = 8;

/// A key, without its terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Key {
    Char(char),
    Control(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    Tab,
    BackTab,
    Backspace,
}

impl App {
    /// A key was pressed.
    pub fn key(&mut self, key: Key, now: Now) -> Effect {
        match key {
            Key::Control('c') => return Effect::Quit,
            Key::Control('z') => return Effect::Stop,
            Key::Control('l') => return Effect::Redraw,
            _ => {}
        }
        if key == Key::Escape && self.dialog.is_none() && self.has_failure() {
            // Shown until it is read.
            self.note = None;
            return Effect::None;
        }
        if self.dialog.is_some() {
            return self.key_in_dialog(key, now);
        }
        if self.typing {
            self.key_in_filter(key);
            return Effect::None;
        }
        if self.help {
            match key {
                Key::Up | Key::Char('k') => self.scroll = self.scroll.saturating_sub(1),
                Key::Down | Key::Char('j') => self.scroll = self.scroll.saturating_add(1),
                Key::PageUp => self.scroll = self.scroll.saturating_sub(HELP_PAGE),
                Key::PageDown => self.scroll = self.scroll.saturating_add(HELP_PAGE),
                Key::Home => self.scroll = 0,
                Key::End => self.scroll = usize::MAX,
                Key::Char('q' | '?' | 'h') | Key::Escape | Key::Enter => {
                    self.help = false;
                    self.scroll = 0;
                }
                _ => {}
            }
            return Effect::None;
        }
        self.key_on_screen(key, now)
    }

    fn key_on_screen(&mut self, key: Key, now: Now) -> Effect {
        match key {
            Key::Char('q') => return Effect::Quit,
            Key::Char('?' | 'h') => {
                self.help = true;
                self.scroll = 0;
            }
            Key::Char('/') => {
                self.detail.clear();
                self.typing = true;
            }
            Key::Char('s') => self.next_sort(),
            Key::Char('r') => {
                if let Some(at) = self.at() {
                    self.sort[at].1 = !self.sort[at].1;
                }
            }
            Key::Char('f') => self.next_status(),
            Key::Char('t') => self.tenants_sessions(now),
            Key::Char('e') => self.events = !self.events,
            Key::Char('p' | ' ') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some(Box::new((self.world.clone(), now))),
                };
            }
            Key::Tab => self.show(match self.table {
                Table::Tenants => Table::Sessions,
                Table::Sessions => Table::Events,
                Table::Events => Table::Tenants,
            }),
            Key::BackTab => self.show(match self.table {
                Table::Tenants => Table::Events,
                Table::Sessions => Table::Tenants,
                Table::Events => Table::Sessions,
            }),
            Key::Char('1') => self.show(Table::Tenants),
            Key::Char('2') => self.show(Table::Sessions),
            Key::Char('3') => self.show(Table::Events),
            Key::Enter => self.open(now),
            Key::Escape => self.back(),
            Key::Up | Key::Char('k') => self.step(-1, now),
            Key::Down | Key::Char('j') => self.step(1, now),
            Key::PageUp => self.step(-self.page(), now),
            Key::PageDown => self.step(self.page(), now),
            Key::Home | Key::Char('g') => self.step(isize::MIN / 2, now),
            Key::End | Key::Char('G') => self.step(isize::MAX / 2, now),
            Key::Char('S') => self.ask(Deed::Suspend, now),
            Key::Char('R') => self.ask(Deed::Resume, now),
            Key::Char('B') => self.ask(Deed::ResetBreaker, now),
            Key::Char('C') => self.ask(Deed::SetCap, now),
            Key::Char('K') => self.ask(Deed::Revoke, now),
            Key::Char(_) | Key::Control(_) | Key::Backspace => {}
        }
        Effect::None
    }

    /// Changes the table.
    pub fn show(&mut self, table: Table) {
        self.table = table;
        self.detail.clear();
        self.scroll = 0;
    }

    fn next_sort(&mut self) {
        let Some(at) = self.at() else { return };
        let all: &[Sort] = if at == 0 { &Sort::TENANTS } else { &Sort::SESSIONS };
        let next = all.iter().position(|sort| *sort == self.sort[at].0).map_or(0, |n| n + 1);
        self.sort[at] = (all[next % all.len()], false);
    }

    /// By a column; by the same again, the other way round.
    pub fn sort_by(&mut self, sort: Sort) {
        let Some(at) = self.at() else { return };
        let again = self.sort[at].0 == sort;
        self.sort[at] = (sort, again && !self.sort[at].1);
    }

    fn next_status(&mut self) {
        let Some(at) = self.at() else { return };
        let all: &[Status] = if at == 0 { &Status::TENANTS } else { &Status::SESSIONS };
        self.status[at] = match self.status[at] {
            None => all.first().copied(),
            Some(now) => {
                let next = all.iter().position(|status| *status == now).map_or(0, |n| n + 1);
                all.get(next).copied()
            }
        };
    }

    /// The sessions of the chosen tenant, or of the chosen session's; all again
    /// where they were of one.
    fn tenants_sessions(&mut self, now: Now) {
        if self.wanted.one_tenant.take().is_none() || self.table == Table::Tenants {
            self.wanted.one_tenant = self.tenant_chosen(now);
        }
        if self.wanted.one_tenant.is_some() {
            self.show(Table::Sessions);
        }
    }

    fn open(&mut self, now: Now) {
        let detail = match (self.detail.last(), self.table) {
            // From a session to its tenant.
            (Some(Detail::Session(id)), _) => {
                self.shown(now).0.sessions.get(id).map(|s| Detail::Tenant(s.state.tenant.clone()))
            }
            (Some(Detail::Tenant(_)), _) => None,
            (None, Table::Tenants) => self.place[0].id.clone().map(Detail::Tenant),
            (None, Table::Sessions) => self.place[1].id.clone().map(Detail::Session),
            (None, Table::Events) => None,
        };
        if let Some(detail) = detail {
            self.detail.push(detail);
            self.scroll = 0;
        }
    }

    /// One thing less: the detail, the filters, one after the other.
    fn back(&mut self) {
        self.note = None;
        if self.detail.pop().is_some() {
            self.scroll = 0;
        } else if !self.wanted.text.is_empty() {
            self.wanted.text.clear();
        } else if self.wanted.one_tenant.take().is_some() {
        } else if let Some(at) = self.at() {
            self.status[at] = None;
        }
    }

    fn step(&mut self, by: isize, now: Now) {
        if !self.detail.is_empty() {
            self.scroll = self.scroll.saturating_add_signed(by);
        } else if let Some(at) = self.at() {
            self.choose_by(at, by, now);
        } else {
            // The newest are below: scrolled away from them.
            self.scroll = self.scroll.saturating_add_signed(-by);
        }
    }

    fn key_in_filter(&mut self, key: Key) {
        match key {
            Key::Enter | Key::Tab | Key::Up | Key::Down => self.typing = false,
            Key::Escape => {
                self.typing = false;
                self.wanted.text.clear();
            }
            Key::Backspace => self.typing = self.wanted.text.pop().is_some(),
            Key::Control('u') => self.wanted.text.clear(),
            Key::Char(c) if self.wanted.text.chars().count() < TYPED => self.wanted.text.push(c),
            _ => {}
        }
    }

    /// Text was pasted. It is text only where text is typed, and its first line
    /// only: pasted into the table, it must not be taken for keys that act.
    pub fn paste(&mut self, text: &str, now: Now) {
        if !self.typing && self.dialog.is_none() {
            return;
        }
        // Terminals paste ends of lines as carriage returns.
        let line = text.split(['\r', '\n']).next().unwrap_or_default();
        for c in line.chars().filter(|c| !c.is_control()) {
            self.key(Key::Char(c), now);
        }
    }

    /// A click; on the chosen row it opens it.
    pub fn click(&mut self, column: u16, line: u16, now: Now) {
        if self.dialog.is_some() || self.help {
            return;
        }
        let hit = |(from, to): (u16, u16)| (from..to).contains(&column);
        if line == self.hits.tabs.0
            && let Some(tab) = self.hits.tabs.1.iter().find(|tab| hit((tab.0, tab.1)))
        {
            self.show(tab.2);
            return;
        }
        let Some(at) = self.at().filter(|_| self.detail.is_empty()) else { return };
        if line == self.hits.columns.0
            && let Some(named) = self.hits.columns.1.iter().find(|named| hit((named.0, named.1)))
        {
            self.sort_by(named.2);
            return;
        }
        let (first, room) = self.hits.rows;
        if (first..first + room).contains(&line) {
            let index = self.place[at].top + usize::from(line - first);
            if self.choose(at, now, |_, _| index) {
                self.open(now);
            }
        }
    }

    /// The wheel was turned.
    pub fn wheel(&mut self, down: bool, now: Now) {
        if self.dialog.is_some() {
            return;
        }
        let by = if down { 3 } else { -3 };
        if self.help {
            self.scroll = self.scroll.saturating_add_signed(by);
        } else {
            self.step(by, now);
        }
    }
}
