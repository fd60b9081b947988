//! The append-only log of events: bounded by count and by bytes, with a
//! sequence that has no gaps. Readers hold a sequence, never a queue, so a slow
//! one costs nothing and learns what it missed.

use std::{collections::VecDeque, sync::Arc};

use super::event::Event;

/// An event in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// From 1, without gaps.
    pub sequence: u64,
    /// What happened.
    pub event: Event,
}

/// The log no longer holds what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// First missed.
    pub from: u64,
    /// Last missed.
    pub to: u64,
}

/// The log.
#[derive(Debug)]
pub struct EventLog {
    entries: VecDeque<Arc<Entry>>,
    next: u64,
    weight: usize,
    max_entries: usize,
    max_weight: usize,
}

impl EventLog {
    /// An empty log that keeps at most so many events and about so many bytes.
    #[must_use]
    pub const fn new(max_entries: usize, max_weight: usize) -> Self {
        Self::resuming(max_entries, max_weight, 0)
    }

    /// As [`Self::new`], after an earlier run that gave sequences up to `head`
    /// and whose entries are gone.
    #[must_use]
    pub const fn resuming(max_entries: usize, max_weight: usize, head: u64) -> Self {
        Self { entries: VecDeque::new(), next: head + 1, weight: 0, max_entries, max_weight }
    }

    /// The last sequence given; 0 before the first.
    #[must_use]
    pub const fn head(&self) -> u64 {
        self.next - 1
    }

    /// Appends, dropping the oldest entries over the bounds. The newest is kept
    /// whatever it weighs.
    pub fn append(&mut self, event: Event) -> Arc<Entry> {
        self.weight += event.weight();
        let entry = Arc::new(Entry { sequence: self.next, event });
        self.next += 1;
        self.entries.push_back(Arc::clone(&entry));
        while self.entries.len() > 1
            && (self.entries.len() > self.max_entries || self.weight > self.max_weight)
        {
            if let Some(oldest) = self.entries.pop_front() {
                self.weight -= oldest.event.weight();
            }
        }
        entry
    }

    /// The entries after `sequence`, oldest first, at most `max`.
    ///
    /// # Errors
    /// The range that is no longer held.
    pub fn after(&self, sequence: u64, max: usize) -> Result<Vec<Arc<Entry>>, Gap> {
        let oldest = self.entries.front().map_or(self.next, |entry| entry.sequence);
        if sequence + 1 < oldest {
            return Err(Gap { from: sequence + 1, to: oldest - 1 });
        }
        let skip = usize::try_from(sequence + 1 - oldest).unwrap_or(usize::MAX);
        Ok(self.entries.iter().skip(skip).take(max).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        event::{Kind, Subject},
        time::Now,
    };

    fn event() -> Event {
        Event::new(Now::default(), Subject::default(), Kind::Suspended)
    }

    fn sequences(log: &EventLog, after: u64) -> Result<Vec<u64>, Gap> {
        log.after(after, 100).map(|entries| entries.iter().map(|e| e.sequence).collect())
    }

    #[test]
    fn a_reader_gets_all_after_its_place_or_the_gap() {
        let mut log = EventLog::new(3, usize::MAX);
        assert_eq!(sequences(&log, 0), Ok(vec![]));
        for _ in 0..5 {
            log.append(event());
        }
        assert_eq!(sequences(&log, 5), Ok(vec![]));
        assert_eq!(sequences(&log, 2), Ok(vec![3, 4, 5]));
        assert_eq!(sequences(&log, 1), Err(Gap { from: 2, to: 2 }));
        assert_eq!(sequences(&log, 0), Err(Gap { from: 1, to: 2 }));
        assert_eq!(log.head(), 5);
    }

    #[test]
    fn a_log_that_resumes_gives_no_sequence_twice_and_tells_what_it_no_longer_has() {
        let mut log = EventLog::resuming(3, usize::MAX, 7);
        assert_eq!(sequences(&log, 7), Ok(vec![]));
        assert_eq!(sequences(&log, 4), Err(Gap { from: 5, to: 7 }));
        log.append(event());
        assert_eq!(sequences(&log, 7), Ok(vec![8]));
        assert_eq!(sequences(&log, 0), Err(Gap { from: 1, to: 7 }));
    }

    #[test]
    fn heavy_events_push_out_more_but_never_the_newest() {
        let mut log = EventLog::new(100, event().weight() * 2);
        for _ in 0..5 {
            log.append(event());
        }
        assert_eq!(sequences(&log, 3), Ok(vec![4, 5]));
        let mut tiny = EventLog::new(100, 1);
        tiny.append(event());
        assert_eq!(sequences(&tiny, 0), Ok(vec![1]));
    }
}
