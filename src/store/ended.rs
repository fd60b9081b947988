//! Ids of ended sessions, remembered for a while and in a bounded number, so
//! that a late retry is told and does not start a ghost.

use std::{collections::VecDeque, hash::BuildHasher as _, time::Duration};

use hashbrown::HashTable;

use crate::app::ports::{Journal, Unrecorded};
use crate::domain::{
    access::Owner,
    hash::Keyed,
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

/// Endings of a piece: the order grows by pieces, so that no growth copies what is there
/// while the memory is locked.
const PIECE: usize = 256;
/// Tables of numbers, for the same reason: each grows by itself.
const TABLES: usize = 64;

/// The memory. At its bound the oldest id is forgotten first.
#[derive(Debug)]
pub struct Endings {
    /// In the order of their ends, so that they are recorded anew without a look into
    /// the tables for each. Only the last piece has room, and only the first has lost some.
    order: VecDeque<VecDeque<(Timestamp, SessionId, Ending)>>,
    /// The hash of each id, and its number, counted from the first that ever ended. Those
    /// of the forgotten stay until their table is full: to look each one up is to miss
    /// the cache for each, and was 3% of a call.
    numbers: Vec<HashTable<(u64, usize)>>,
    /// How many have been forgotten: the number of the oldest.
    forgotten: usize,
    /// The number of the next.
    next: usize,
    max: usize,
    keep: Duration,
}

impl Endings {
    /// Remembers at most `max` ids, for `keep`.
    #[must_use]
    pub fn new(max: usize, keep: Duration) -> Self {
        Self {
            order: VecDeque::new(),
            numbers: std::iter::repeat_with(HashTable::new).take(TABLES).collect(),
            forgotten: 0,
            next: 0,
            max,
            keep,
        }
    }

    /// Remembers one.
    pub fn insert(&mut self, id: SessionId, ending: Ending, now: Timestamp) {
        self.forget(now);
        let hash = Keyed.hash_one(&id);
        if let Some((_, _, known)) = self.number(hash, &id).and_then(|number| self.at_mut(number)) {
            *known = ending;
            return;
        }
        let number = self.next;
        self.next += 1;
        let forgotten = self.forgotten;
        if let Some(table) = self.numbers.get_mut(table(hash)) {
            if table.len() == table.capacity() {
                table.retain(|(_, number)| *number >= forgotten);
                // Room for as many more, so that it is not full again at once.
                table.reserve(table.len(), |(hash, _)| *hash);
            }
            table.insert_unique(hash, (hash, number), |(hash, _)| *hash);
        }
        match self.order.back_mut() {
            Some(last) if !number.is_multiple_of(PIECE) => last.push_back((now, id, ending)),
            _ => self.order.push_back(VecDeque::from([(now, id, ending)])),
        }
    }

    /// How a session ended, if that is still known.
    #[must_use]
    pub fn get(&self, id: &SessionId) -> Option<&Ending> {
        let number = self.number(Keyed.hash_one(id), id)?;
        self.at(number).map(|(_, _, ending)| ending)
    }

    fn number(&self, hash: u64, id: &SessionId) -> Option<usize> {
        let is_it = |(of, number): &(u64, usize)| {
            *of == hash
                && *number >= self.forgotten
                && self.at(*number).is_some_and(|(_, other, _)| other == id)
        };
        self.numbers.get(table(hash))?.find(hash, is_it).map(|(_, number)| *number)
    }

    /// Where a number is: the piece, and the place in it.
    const fn place(&self, number: usize) -> (usize, usize) {
        let piece = number / PIECE - self.forgotten / PIECE;
        (piece, if piece == 0 { number - self.forgotten } else { number % PIECE })
    }

    fn at(&self, number: usize) -> Option<&(Timestamp, SessionId, Ending)> {
        let (piece, place) = self.place(number);
        self.order.get(piece)?.get(place)
    }

    fn at_mut(&mut self, number: usize) -> Option<&mut (Timestamp, SessionId, Ending)> {
        let (piece, place) = self.place(number);
        self.order.get_mut(piece)?.get_mut(place)
    }

    /// Records some, from the one numbered `from` on; where to go on, if there are
    /// more.
    ///
    /// # Errors
    /// When they could not be recorded.
    pub fn record(&self, from: usize, journal: &dyn Journal) -> Result<Option<usize>, Unrecorded> {
        let from = from.max(self.forgotten);
        let to = (from + RECORD_BATCH).min(self.next);
        let some = (from..to).filter_map(|number| self.at(number));
        let records: Vec<_> = some.map(|(at, id, ending)| ending.record(id.clone(), *at)).collect();
        if !records.is_empty() {
            journal.record(&records)?;
        }
        Ok((to < self.next).then_some(to))
    }

    /// Forgets what is over the bounds.
    pub fn forget(&mut self, now: Timestamp) {
        while let Some((at, ..)) = self.order.front().and_then(VecDeque::front) {
            if self.next - self.forgotten < self.max && now.since(*at) < self.keep {
                break;
            }
            self.forgotten += 1;
            if let Some(first) = self.order.front_mut() {
                first.pop_front();
            }
            if self.forgotten.is_multiple_of(PIECE) {
                self.order.pop_front();
            }
        }
    }
}

/// The table of a hash: by bits that the table itself does not look at.
const fn table(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn id(number: usize) -> SessionId {
        SessionId::parse(&format!("s-{number}")).unwrap()
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(second))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        /// Against a plain list, over the ends of many pieces.
        #[test]
        fn the_latest_ends_are_known_up_to_the_bound_and_for_as_long_as_said(
            max in 1_usize..3 * PIECE,
            steps in prop::collection::vec((1_usize..PIECE, 0_u64..4), 1..12)
        ) {
            let keep = 6;
            let mut endings = Endings::new(max, Duration::from_secs(keep));
            let mut model: BTreeMap<usize, u64> = BTreeMap::new();
            let (mut next, mut now) = (0, 1);
            let ending = Ending {
                tenant: TenantId::parse("acme").unwrap(),
                owner: Owner::default(),
                outcome: Outcome::Success,
            };
            for (some, later) in steps {
                now += later;
                for _ in 0..some {
                    model.retain(|_, ended| now - *ended < keep);
                    while model.len() >= max {
                        model.pop_first();
                    }
                    endings.insert(id(next), ending.clone(), at(now));
                    model.insert(next, now);
                    next += 1;
                }
                let known: Vec<_> = (0..next).filter(|of| endings.get(&id(*of)).is_some()).collect();
                prop_assert!(known.iter().eq(model.keys()), "{} of {}", known.len(), model.len());
            }
        }
    }
}
