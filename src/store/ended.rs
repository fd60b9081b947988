//! Ids of ended sessions, remembered for a while and in a bounded number, so
//! that a late retry is told and does not start a ghost.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use crate::app::ports::{Journal, Unrecorded};
use crate::domain::{
    access::Owner,
    record::Record,
    session::{Outcome, SessionId},
    tenant::TenantId,
    time::Timestamp,
};

/// How many are recorded at a time: the memory is locked meanwhile.
const RECORD_BATCH: usize = 256;

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

impl Ending {
    /// What is recorded of it.
    #[must_use]
    pub fn record(&self, session: SessionId, at: Timestamp) -> Record {
        let Self { tenant, owner, outcome } = self.clone();
        Record::Ended { session, tenant, owner, outcome, at }
    }
}

/// The memory. At its bound the oldest id is forgotten first.
#[derive(Debug)]
pub struct Endings {
    /// In the order of their ends, so that they are recorded anew without a look into
    /// the table for each.
    order: VecDeque<(Timestamp, SessionId, Ending)>,
    /// The number of each, counted from the first that ever ended.
    numbers: HashMap<SessionId, usize>,
    /// How many have been forgotten: the number of the oldest.
    forgotten: usize,
    max: usize,
    keep: Duration,
}

impl Endings {
    /// Remembers at most `max` ids, for `keep`.
    #[must_use]
    pub fn new(max: usize, keep: Duration) -> Self {
        Self { order: VecDeque::new(), numbers: HashMap::new(), forgotten: 0, max, keep }
    }

    /// Remembers one.
    pub fn insert(&mut self, id: SessionId, ending: Ending, now: Timestamp) {
        self.forget(now);
        if let Some(number) = self.numbers.get(&id) {
            if let Some((_, _, known)) = self.order.get_mut(number - self.forgotten) {
                *known = ending;
            }
            return;
        }
        self.numbers.insert(id.clone(), self.forgotten + self.order.len());
        self.order.push_back((now, id, ending));
    }

    /// How a session ended, if that is still known.
    #[must_use]
    pub fn get(&self, id: &SessionId) -> Option<&Ending> {
        let number = self.numbers.get(id)?;
        self.order.get(number - self.forgotten).map(|(_, _, ending)| ending)
    }

    /// Records some, from the one numbered `from` on; where to go on, if there are
    /// more.
    ///
    /// # Errors
    /// When they could not be recorded.
    pub fn record(&self, from: usize, journal: &dyn Journal) -> Result<Option<usize>, Unrecorded> {
        let skip = from.saturating_sub(self.forgotten);
        let some = self.order.iter().skip(skip).take(RECORD_BATCH);
        let records: Vec<_> = some.map(|(at, id, ending)| ending.record(id.clone(), *at)).collect();
        if !records.is_empty() {
            journal.record(&records)?;
        }
        let next = skip + RECORD_BATCH;
        Ok((next < self.order.len()).then_some(self.forgotten + next))
    }

    /// Forgets what is over the bounds.
    pub fn forget(&mut self, now: Timestamp) {
        while let Some((at, _, _)) = self.order.front() {
            if self.order.len() < self.max && now.since(*at) < self.keep {
                break;
            }
            if let Some((_, id, _)) = self.order.pop_front() {
                self.forgotten += 1;
                self.numbers.remove(&id);
            }
        }
    }
}
