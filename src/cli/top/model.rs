//! What `top` knows: a pure state, fed by the answers of `WatchSessions` and
//! `GetSnapshot` and by `now`. It never asks, draws or reads a clock.
//!
//! Sessions and switches follow the events as they come. Figures that no event
//! carries (samples, totals, memory) are set by each snapshot, which also mends
//! what was counted on in between.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{history::History, tail};
use crate::{
    cli::text,
    wire::v1::{self, watch_sessions_response::Item},
};

/// Most events kept for the tail and the detail views.
pub const TAIL: usize = 1000;
/// How long a blocked event loop is shown as slow.
pub const SLOW_FOR: Duration = Duration::from_secs(30);

/// The time, read once for each thing that happens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Since the program began.
    pub mono: Duration,
    /// Since 1970.
    pub wall: Duration,
}

/// One item of what is asked of the sidecar.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "nearly all of them are items")]
pub enum Fed {
    /// A stream began; a resumed one has no snapshot.
    Up {
        /// By a cursor.
        resumed: bool,
    },
    /// An item of it.
    Item(Item),
    /// Figures.
    Figures(Box<v1::GetSnapshotResponse>),
    /// It does not answer in time.
    Stalled(String),
    /// It went away.
    Down(String),
}

/// How the sidecar answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Not yet.
    Connecting,
    /// It does.
    Live,
    /// Not in time.
    Stalled {
        /// Since when.
        since: Duration,
        /// How.
        problem: String,
    },
    /// It is away; what is shown is what it was.
    Down {
        /// Since when.
        since: Duration,
        /// How.
        problem: String,
    },
}

/// A tenant.
#[derive(Debug, Clone, Default)]
pub struct Tenant {
    /// As the sidecar tells it.
    pub state: v1::Tenant,
    /// When its open breaker half-opens.
    pub open_until: Option<Duration>,
    /// Its acquires and refusals.
    pub history: History,
    /// Its refusals by reason since `top` began to look.
    pub reasons: BTreeMap<&'static str, u64>,
    /// Sequence of the last event that set a switch of it: older figures must
    /// not set it back.
    pub(super) switched: u64,
}

/// A live session.
#[derive(Debug, Clone, Default)]
pub struct Session {
    /// As the sidecar tells it.
    pub state: v1::Session,
    /// When it last blocked its worker's event loop, and for how long.
    pub blocked: Option<(Duration, Duration)>,
}

/// An agent process.
#[derive(Debug, Clone, Default)]
pub struct Worker {
    /// As the sidecar tells it.
    pub state: v1::Worker,
    /// When its event loop was last blocked, and for how long.
    pub blocked: Option<(Duration, Duration)>,
}

/// All.
#[derive(Debug, Clone)]
pub struct World {
    /// By id.
    pub tenants: BTreeMap<String, Tenant>,
    /// By id.
    pub sessions: BTreeMap<String, Session>,
    /// By name.
    pub workers: BTreeMap<String, Worker>,
    /// The whole sidecar's, without the tenants.
    pub figures: Option<Box<v1::GetSnapshotResponse>>,
    /// All tenants' acquires and refusals.
    pub history: History,
    /// The last events, oldest first.
    pub tail: VecDeque<tail::Line>,
    /// How the sidecar answers.
    pub link: Link,
    /// A snapshot on its way.
    staging: Option<Staging>,
    /// When figures came last.
    figured: Option<Duration>,
    /// The last event that the tenants' counts have in them.
    pub(super) known_to: u64,
}

#[derive(Debug, Clone, Default)]
struct Staging {
    tenants: Vec<v1::Tenant>,
    sessions: Vec<v1::Session>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            tenants: BTreeMap::new(),
            sessions: BTreeMap::new(),
            workers: BTreeMap::new(),
            figures: None,
            history: History::default(),
            tail: VecDeque::new(),
            link: Link::Connecting,
            staging: None,
            figured: None,
            known_to: 0,
        }
    }
}

impl World {
    /// Takes what came.
    pub fn hear(&mut self, fed: Fed, now: Now) {
        match fed {
            Fed::Up { resumed } => {
                self.link = Link::Live;
                self.staging = (!resumed).then(Staging::default);
            }
            Fed::Item(item) => self.item(item, now),
            Fed::Figures(figures) => self.figures(*figures, now),
            Fed::Stalled(problem) => {
                let since = match self.link {
                    Link::Stalled { since, .. } => since,
                    _ => now.mono,
                };
                self.link = Link::Stalled { since, problem };
            }
            Fed::Down(problem) => {
                let since = match self.link {
                    Link::Down { since, .. } => since,
                    _ => now.mono,
                };
                self.link = Link::Down { since, problem };
            }
        }
    }

    /// The first snapshot is whole.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.staging.is_none() && self.figures.is_some()
    }

    fn item(&mut self, item: Item, now: Now) {
        match item {
            Item::Tenant(tenant) => self.staged().tenants.push(tenant),
            Item::Session(session) => self.staged().sessions.push(session),
            Item::SnapshotEnd(end) => {
                self.known_to = end.cursor.map_or(0, |cursor| cursor.sequence);
                self.settle(now);
            }
            Item::Gap(gap) => {
                self.staging = Some(Staging::default());
                self.note(tail::gap(&gap, now));
            }
            Item::Event(event) => {
                self.note(tail::event(&event));
                self.event(&event, now);
            }
            Item::Heartbeat(_) => {}
        }
    }

    fn staged(&mut self) -> &mut Staging {
        self.staging.get_or_insert_default()
    }

    /// Adds a line to the tail.
    pub fn note(&mut self, line: tail::Line) {
        if self.tail.len() == TAIL {
            self.tail.pop_front();
        }
        self.tail.push_back(line);
    }

    /// A snapshot replaces what was there, as one step: no half of it is shown.
    fn settle(&mut self, now: Now) {
        let Some(staged) = self.staging.take() else { return };
        let mut before = std::mem::take(&mut self.sessions);
        for state in staged.sessions {
            let blocked = before.remove(&state.session_id).and_then(|session| session.blocked);
            self.sessions.insert(state.session_id.clone(), Session { state, blocked });
        }
        let mut before = std::mem::take(&mut self.tenants);
        for state in staged.tenants {
            let mut tenant = before.remove(&state.tenant).unwrap_or_default();
            tenant.switched = 0;
            tenant.set(state, now);
            self.tenants.insert(tenant.state.tenant.clone(), tenant);
        }
    }

    fn figures(&mut self, mut figures: v1::GetSnapshotResponse, now: Now) {
        self.link = Link::Live;
        let known_to = figures.cursor.as_ref().map_or(0, |cursor| cursor.sequence);
        self.known_to = known_to;
        let same_run =
            self.figures.as_ref().is_none_or(|before| before.start_time == figures.start_time);
        let before = self.figured.replace(now.mono).filter(|_| same_run);
        let mut gone = std::mem::take(&mut self.tenants);
        for state in std::mem::take(&mut figures.tenants) {
            let mut tenant = gone.remove(&state.tenant).unwrap_or_default();
            let made_since = before.filter(|_| tenant.history.is_empty());
            tenant.history.push(
                made_since,
                now.mono,
                state.total_sessions_started,
                state.total_rejections,
            );
            if tenant.switched <= known_to || !same_run {
                tenant.set(state, now);
            }
            self.tenants.insert(tenant.state.tenant.clone(), tenant);
        }
        // One that an event has just made is not in older figures yet.
        gone.retain(|_, tenant| same_run && tenant.switched > known_to);
        self.tenants.append(&mut gone);
        let mut old = std::mem::take(&mut self.workers);
        for state in std::mem::take(&mut figures.attached_workers) {
            let mut worker = old.remove(&state.worker).unwrap_or_default();
            worker.set(state, now);
            self.workers.insert(worker.state.worker.clone(), worker);
        }
        // Who may see some tenants only gets no totals by reason.
        let of_tenants = self.tenants.values().map(|tenant| tenant.state.total_rejections).sum();
        let refused = figures.total_rejections.values().sum::<u64>().max(of_tenants);
        self.history.push(None, now.mono, figures.total_sessions_started, refused);
        self.figures = Some(Box::new(figures));
    }
}

impl Tenant {
    fn set(&mut self, state: v1::Tenant, now: Now) {
        let left = state.breaker.as_ref().and_then(|breaker| breaker.open_remaining);
        self.open_until = left.map(|left| now.mono + text::span(&left));
        self.state = state;
    }
}

impl Worker {
    fn set(&mut self, state: v1::Worker, now: Now) {
        self.blocked = state
            .loop_blocked
            .as_ref()
            .map(|lasted| (ago(state.loop_blocked_time.as_ref(), now), text::span(lasted)));
        self.state = state;
    }
}

/// A wall time of the sidecar's on this program's clock.
pub(super) fn ago(at: Option<&prost_types::Timestamp>, now: Now) -> Duration {
    now.mono.saturating_sub(age(at, now))
}

/// How long ago a wall time is; one in the future, by clocks that differ, is now.
#[must_use]
pub fn age(at: Option<&prost_types::Timestamp>, now: Now) -> Duration {
    let Some(at) = at else { return Duration::ZERO };
    let wall = Duration::new(
        u64::try_from(at.seconds).unwrap_or_default(),
        u32::try_from(at.nanos).unwrap_or_default().min(999_999_999),
    );
    now.wall.saturating_sub(wall)
}
