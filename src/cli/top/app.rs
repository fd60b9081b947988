//! What the screen shows of the world: which table, which rows, which of them is
//! chosen. Pure: `now` comes in. `press` says what keys do to it, `ask` asks
//! before something is done.

use super::{
    act::Action,
    ask::{Dialog, Note},
    model::{Fed, Now, World},
    rows::{self, SessionRow, TenantRow},
    wanted::{Sort, Status, Wanted},
};

/// Longest text that can be typed.
pub(super) const TYPED: usize = 200;

/// A table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Table {
    Tenants,
    Sessions,
    Events,
}

/// One tenant or session on the whole screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detail {
    /// By id.
    Tenant(String),
    /// By id.
    Session(String),
}

/// A place in a table. Held by id, so that the row stays chosen wherever the
/// order takes it, and no key acts on another that came into its place.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The chosen row.
    pub id: Option<String>,
    /// Where it was last.
    pub index: usize,
    /// First row on the screen.
    pub top: usize,
}

impl Place {
    /// Chooses the row that the chosen one left, brings it into view of `room`
    /// rows, and says which it is.
    pub fn settle<'a>(
        &mut self,
        count: usize,
        id: impl Fn(usize) -> &'a str,
        room: usize,
    ) -> usize {
        let index = self.index(count, &id);
        self.choose(index, (index < count).then(|| id(index)));
        self.top = self.top.min(count.saturating_sub(room));
        self.top = self.top.clamp((index + 1).saturating_sub(room), index);
        index
    }

    fn index<'a>(&self, count: usize, id: impl Fn(usize) -> &'a str) -> usize {
        let found = self.id.as_ref().and_then(|chosen| (0..count).find(|n| id(*n) == chosen));
        // One that is gone leaves its line to the next.
        found.unwrap_or_else(|| self.index.min(count.saturating_sub(1)))
    }

    pub(super) fn choose(&mut self, index: usize, id: Option<&str>) {
        self.index = index;
        self.id = id.map(str::to_owned);
    }
}

/// What is to be done outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// End.
    Quit,
    /// Stop, as a shell's job.
    Stop,
    /// Draw all of it anew, over what others wrote there.
    Redraw,
    /// Ask the sidecar.
    Act(Action),
}

/// Where things are on the screen, as drawn last: what a click hits.
#[derive(Debug, Clone, Default)]
pub struct Hits {
    /// First line of rows, and how many there are room for.
    pub rows: (u16, u16),
    /// Line of the tables' names, with where each begins and ends.
    pub tabs: (u16, Vec<(u16, u16, Table)>),
    /// Line of the columns' names, with where each begins and ends.
    pub columns: (u16, Vec<(u16, u16, Sort)>),
}

/// All of it.
#[derive(Debug)]
pub struct App {
    /// What is known.
    pub world: World,
    /// What is shown while paused.
    pub frozen: Option<Box<(World, Now)>>,
    /// The table.
    pub table: Table,
    /// Over it.
    pub detail: Vec<Detail>,
    /// How far the detail, the events or the help is scrolled.
    pub scroll: usize,
    /// What rows are wanted: the flags', and by text.
    pub wanted: Wanted,
    /// By table.
    pub status: [Option<Status>; 2],
    /// By table: by what, and whether reversed.
    pub sort: [(Sort, bool); 2],
    /// By table.
    pub place: [Place; 2],
    /// The filter is being typed.
    pub typing: bool,
    /// The help is shown.
    pub help: bool,
    /// The events are shown below the table.
    pub events: bool,
    /// Asks before something is done.
    pub dialog: Option<Dialog>,
    /// What was done.
    pub note: Option<Note>,
    /// What a click hits.
    pub hits: Hits,
}

impl App {
    /// The beginning.
    #[must_use]
    pub fn new(wanted: Wanted) -> Self {
        Self {
            world: World::default(),
            frozen: None,
            table: Table::Tenants,
            detail: Vec::new(),
            scroll: 0,
            wanted,
            status: [None, None],
            sort: [(Sort::Active, false), (Sort::Age, false)],
            place: [Place::default(), Place::default()],
            typing: false,
            help: false,
            events: true,
            dialog: None,
            note: None,
            hits: Hits::default(),
        }
    }

    /// Takes what came.
    pub fn hear(&mut self, fed: Fed, now: Now) {
        self.world.hear(fed, now);
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Now) {
        self.note.take_if(|note| note.until.is_some_and(|until| until <= now.mono));
    }

    /// What is shown, and the time that it is of.
    #[must_use]
    pub fn shown(&self, now: Now) -> (&World, Now) {
        self.frozen.as_ref().map_or((&self.world, now), |frozen| (&frozen.0, frozen.1))
    }

    /// The tenants' rows.
    #[must_use]
    pub fn tenants(&self, now: Now) -> Vec<TenantRow<'_>> {
        let (world, now) = self.shown(now);
        let wanted = Wanted { status: self.status[0], ..self.wanted.clone() };
        rows::tenants(world, &wanted, self.sort[0], now)
    }

    /// The sessions' rows.
    #[must_use]
    pub fn sessions(&self, now: Now) -> Vec<SessionRow<'_>> {
        let (world, now) = self.shown(now);
        let wanted = Wanted { status: self.status[1], ..self.wanted.clone() };
        rows::sessions(world, &wanted, self.sort[1], now)
    }

    /// The lines of the tail that the filters let through, oldest first.
    #[must_use]
    pub fn lines(&self, now: Now) -> Vec<&super::tail::Line> {
        let text = self.wanted.text.to_lowercase();
        let one = self.wanted.one_tenant.as_deref();
        self.shown(now)
            .0
            .tail
            .iter()
            .filter(|line| one.is_none_or(|tenant| line.tenant == tenant))
            .filter(|line| {
                text.is_empty()
                    || line.kind.contains(&text)
                    || line.shown.to_lowercase().contains(&text)
            })
            .collect()
    }

    /// The index of the table with rows.
    pub(super) fn at(&self) -> Option<usize> {
        match self.table {
            Table::Tenants => Some(0),
            Table::Sessions => Some(1),
            Table::Events => None,
        }
    }

    pub(super) fn page(&self) -> isize {
        isize::try_from(self.hits.rows.1.max(2) - 1).unwrap_or(1)
    }

    /// How many rows each table has.
    #[must_use]
    pub fn counts(&self, now: Now) -> [usize; 2] {
        let (world, now) = self.shown(now);
        let wanted = |at: usize| Wanted { status: self.status[at], ..self.wanted.clone() };
        [
            rows::all_tenants(world, &wanted(0), now).count(),
            rows::all_sessions(world, &wanted(1), now).count(),
        ]
    }

    /// Moves the choice by so many rows.
    pub(super) fn choose_by(&mut self, at: usize, by: isize, now: Now) {
        self.choose(at, now, |place, ids| {
            let from = place.index(ids.len(), |n| ids[n]);
            from.saturating_add_signed(by).min(ids.len().saturating_sub(1))
        });
    }

    /// Chooses a row by its index; says whether it was chosen before.
    pub(super) fn choose(
        &mut self,
        at: usize,
        now: Now,
        index: impl FnOnce(&Place, &[&str]) -> usize,
    ) -> bool {
        let mut place = std::mem::take(&mut self.place[at]);
        let ids: Vec<_> = match at {
            0 => self.tenants(now).iter().map(TenantRow::id).collect(),
            _ => self.sessions(now).iter().map(SessionRow::id).collect(),
        };
        let to = index(&place, &ids);
        let was = place.id.as_deref() == ids.get(to).copied();
        if let Some(id) = ids.get(to) {
            place.choose(to, Some(id));
        }
        self.place[at] = place;
        was
    }

    /// As it was drawn last: a key means the row that its user saw, even when
    /// that has gone meanwhile.
    fn chosen(&self, at: usize) -> Option<String> {
        self.place[at].id.clone()
    }

    pub(super) fn session_chosen(&self) -> Option<String> {
        match (self.detail.last(), self.table) {
            (Some(Detail::Session(id)), _) => Some(id.clone()),
            (None, Table::Sessions) => self.chosen(1),
            _ => None,
        }
    }

    pub(super) fn tenant_chosen(&self, now: Now) -> Option<String> {
        match (self.detail.last(), self.table) {
            (Some(Detail::Tenant(id)), _) => Some(id.clone()),
            (None, Table::Tenants) => self.chosen(0),
            _ => {
                let session = self.session_chosen()?;
                Some(self.shown(now).0.sessions.get(&session)?.state.tenant.clone())
            }
        }
    }
}
