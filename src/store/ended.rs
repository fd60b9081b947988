//! Ids of ended sessions, remembered for a while and in a bounded number, so
//! that a late retry is told and does not start a ghost.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::domain::{
    access::Owner,
    session::{Outcome, SessionId},
    tenant::TenantId,
    time::Timestamp,
};

/// How a remembered session ended.
#[derive(Debug, Clone)]
pub struct Ending {
    /// Whose it was.
    pub tenant: TenantId,
    /// Who had acquired it.
    pub owner: Owner,
    /// How it ended.
    pub outcome: Outcome,
}

/// The memory. At its bound the oldest id is forgotten first.
#[derive(Debug)]
pub struct Ended {
    by_id: HashMap<SessionId, Ending>,
    order: VecDeque<(Timestamp, SessionId)>,
    max: usize,
    keep: Duration,
}

impl Ended {
    /// Remembers at most `max` ids, for `keep`.
    #[must_use]
    pub fn new(max: usize, keep: Duration) -> Self {
        Self { by_id: HashMap::new(), order: VecDeque::new(), max, keep }
    }

    /// Remembers one.
    pub fn insert(&mut self, id: SessionId, ending: Ending, now: Timestamp) {
        self.forget(now);
        if self.by_id.insert(id.clone(), ending).is_none() {
            self.order.push_back((now, id));
        }
    }

    /// How a session ended, if that is still known.
    #[must_use]
    pub fn get(&self, id: &SessionId) -> Option<&Ending> {
        self.by_id.get(id)
    }

    /// Forgets what is over the bounds.
    pub fn forget(&mut self, now: Timestamp) {
        while let Some((at, _)) = self.order.front() {
            if self.order.len() < self.max && now.since(*at) < self.keep {
                break;
            }
            if let Some((_, id)) = self.order.pop_front() {
                self.by_id.remove(&id);
            }
        }
    }
}
