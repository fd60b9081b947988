//! What the event log alone says, and what must be true of it: the promises that
//! can be read off it event by event.

use std::collections::{BTreeMap, BTreeSet};

use tenantd::wire::v1::{self, EventKind, event::Detail, watch_sessions_response::Item};

/// How many events an end may be behind the acquire that took its place on the
/// machine: each tenant tells its own changes in order, not those of all.
const LAG: u32 = 64;

/// How many events after its cursor a snapshot may already show. Each tenant is
/// shown as of its own moment, and the cursor is the earliest one: what is shown
/// already is not sent again, unless a stream goes on from a cursor within.
const BLUR: u64 = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    pub tenant: String,
    pub agent: String,
    pub worker: String,
}

#[derive(Debug, Default)]
struct Shown {
    live: BTreeMap<String, Live>,
    caps: BTreeMap<String, Option<u32>>,
}

#[derive(Debug, Default)]
pub struct Model {
    pub epoch: String,
    pub place: u64,
    pub live: BTreeMap<String, Live>,
    /// Sessions seen to end, and how.
    pub ended: BTreeMap<String, v1::Outcome>,
    /// Caps as last told of tenants with live sessions; those of others may change
    /// untold, with the config. `None` within: there is none.
    pub caps: BTreeMap<String, Option<u32>>,
    pub machine: usize,
    pub agent: (String, usize),
    over: u32,
    /// The last snapshot may show what happened up to here.
    blurred: u64,
    /// Within a snapshot: what it has shown.
    snapshot: Option<Shown>,
    /// The stream goes on from a cursor: all that was missed is told before a
    /// snapshot.
    resumes: bool,
    pub events: u64,
    pub gaps: u64,
    pub epochs: u64,
    pub acquired: u64,
    pub kinds: BTreeMap<EventKind, u64>,
    /// Sessions that a snapshot no longer had, after a gap that said so.
    pub vanished: BTreeSet<String>,
}

impl Model {
    pub fn new(machine: u32, agent: (&str, u32)) -> Self {
        let agent = (agent.0.to_owned(), agent.1 as usize);
        Self { machine: machine as usize, agent, ..Self::default() }
    }

    /// A stream begins, with the cursor where there is one.
    pub fn begin(&mut self) -> Option<v1::Cursor> {
        self.snapshot = None;
        self.resumes = !self.epoch.is_empty();
        let cursor = v1::Cursor { epoch: self.epoch.clone(), sequence: self.place };
        self.resumes.then_some(cursor)
    }

    /// The state was destroyed: what follows has nothing to do with what was.
    pub fn forget(&mut self) {
        self.epoch.clear();
        self.live.clear();
        self.ended.clear();
        self.vanished.clear();
        self.caps.clear();
    }

    /// Takes one item of the stream; a broken promise as words.
    pub fn take(&mut self, item: Item) -> Result<(), String> {
        match item {
            Item::Tenant(tenant) => {
                let shown = self.shown()?;
                if tenant.live_sessions > 0 {
                    shown.caps.insert(tenant.tenant, tenant.cap);
                }
                Ok(())
            }
            Item::Session(session) => {
                let live = Live {
                    tenant: session.tenant,
                    agent: session.agent_name,
                    worker: session.worker,
                };
                let id = session.session_id;
                if self.shown()?.live.insert(id.clone(), live).is_some() {
                    return Err(format!("the snapshot shows {id} twice"));
                }
                Ok(())
            }
            Item::SnapshotEnd(end) => self.end_of_snapshot(end.cursor.unwrap_or_default()),
            Item::Event(event) => self.event(event),
            Item::Gap(gap) => {
                self.gaps += 1;
                self.resumes = false;
                if gap.message.is_empty() {
                    return Err("a gap does not say why".to_owned());
                }
                if ![0, self.place + 1].contains(&gap.from_sequence) {
                    return Err(format!("{gap:?} follows {}", self.place));
                }
                Ok(())
            }
            Item::Heartbeat(beat) => {
                let cursor = beat.cursor.unwrap_or_default();
                if cursor.epoch == self.epoch && cursor.sequence == self.place {
                    return Ok(());
                }
                Err(format!("a heartbeat at {}, the stream is at {}", cursor.sequence, self.place))
            }
        }
    }

    fn shown(&mut self) -> Result<&mut Shown, String> {
        if self.resumes {
            return Err("a snapshot instead of what follows the cursor, and no gap".to_owned());
        }
        Ok(self.snapshot.get_or_insert_default())
    }

    fn end_of_snapshot(&mut self, cursor: v1::Cursor) -> Result<(), String> {
        self.shown()?;
        let Shown { live: shown, caps } = self.snapshot.take().unwrap_or_default();
        if cursor.epoch == self.epoch {
            if cursor.sequence < self.place {
                return Err(format!(
                    "the snapshot is of {}, after {}",
                    cursor.sequence, self.place
                ));
            }
            if let Some(id) = shown.keys().find(|id| self.ended.contains_key(*id)) {
                return Err(format!("{id} has ended, and the snapshot shows it"));
            }
        } else {
            self.epochs += 1;
            self.epoch = cursor.epoch;
            // A sidecar that died while it could not write may not know of an end.
            self.ended.retain(|id, _| !shown.contains_key(id));
        }
        self.place = cursor.sequence;
        self.blurred = self.place + BLUR;
        for (id, live) in std::mem::take(&mut self.live) {
            match shown.get(&id) {
                None => _ = self.vanished.insert(id),
                Some(now) if now.tenant != live.tenant => {
                    return Err(format!("{id} moved from {} to {}", live.tenant, now.tenant));
                }
                Some(_) => {}
            }
        }
        if let Some(id) = shown.keys().find(|id| self.vanished.remove(*id)) {
            return Err(format!("{id} was gone, and the snapshot shows it"));
        }
        (self.live, self.caps) = (shown, caps);
        Ok(())
    }

    fn event(&mut self, event: v1::Event) -> Result<(), String> {
        self.events += 1;
        let is_blurred = event.sequence <= self.blurred;
        if event.sequence != self.place + 1 && !(is_blurred && event.sequence > self.place) {
            return Err(format!("sequence {} follows {}", event.sequence, self.place));
        }
        self.place = event.sequence;
        let kind = event.kind();
        *self.kinds.entry(kind).or_default() += 1;
        let id = event.session_id.clone();
        match (kind, event.detail) {
            (EventKind::SessionAcquired, Some(Detail::SessionAcquired(detail))) => {
                self.acquired += 1;
                let live = Live {
                    tenant: event.tenant.clone(),
                    agent: event.agent_name,
                    worker: event.worker,
                };
                if self.live.insert(id.clone(), live).is_some() && !is_blurred {
                    return Err(format!("{id} was acquired while it was live"));
                }
                if is_blurred {
                    return Ok(());
                }
                if self.ended.contains_key(&id) || self.vanished.contains(&id) {
                    return Err(format!("{id} has ended, and a late retry made a ghost of it"));
                }
                self.caps_hold(&event.tenant, &detail)
            }
            (EventKind::SessionEnded, Some(Detail::SessionEnded(detail))) => {
                if self.live.remove(&id).is_none() && !is_blurred {
                    return Err(format!("{id} ended and was not live"));
                }
                if !self.live.values().any(|live| live.tenant == event.tenant) {
                    self.caps.remove(&event.tenant);
                }
                self.ended.insert(id, detail.outcome());
                self.shared_caps_hold()
            }
            (EventKind::TenantCapChanged, Some(Detail::CapChanged(detail))) => {
                if is_blurred {
                    self.caps.remove(&event.tenant);
                } else if self.live.values().any(|live| live.tenant == event.tenant) {
                    self.caps.insert(event.tenant, detail.after);
                }
                Ok(())
            }
            (EventKind::SessionActivated | EventKind::AgentEvent, _) => {
                if !self.live.contains_key(&id) && !is_blurred {
                    return Err(format!("{kind:?} of {id}, which is not live"));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn caps_hold(&mut self, tenant: &str, detail: &v1::SessionAcquired) -> Result<(), String> {
        let live = self.live.values().filter(|live| live.tenant == tenant).count();
        if live != detail.live_sessions as usize {
            return Err(format!(
                "{tenant} has {live} live sessions by its events, and says {}",
                detail.live_sessions
            ));
        }
        if let Some(cap) = detail.cap
            && live > cap as usize
        {
            return Err(format!("{tenant} has {live} live sessions over its cap of {cap}"));
        }
        if let Some(set) = self.caps.get(tenant)
            && *set != detail.cap
        {
            return Err(format!(
                "{tenant} was admitted under {:?}, its cap is {set:?}",
                detail.cap
            ));
        }
        self.shared_caps_hold()
    }

    fn shared_caps_hold(&mut self) -> Result<(), String> {
        let of_agent = self.live.values().filter(|live| live.agent == self.agent.0).count();
        let over = self.live.len() > self.machine || of_agent > self.agent.1;
        self.over = if over { self.over + 1 } else { 0 };
        if self.over > LAG {
            let all = self.live.len();
            return Err(format!(
                "{all} of {} on the machine, {of_agent} of {} of the agent",
                self.machine, self.agent.1
            ));
        }
        Ok(())
    }
}
