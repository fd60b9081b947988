//! Events as watchers are told them, encoded once for all who follow.
//!
//! The newest are kept as batches, each made by the first watcher that comes to the end
//! of them; the others take it as it is. Who is further behind has its own made.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use prost::Message as _;

use crate::{
    app::events::EventHub,
    domain::event_log::{Entry, Gap},
    grpc::convert,
};

/// About how many bytes of events are kept encoded, with the events themselves, which
/// the log may have dropped: some seconds of a busy sidecar, and followers are at most
/// one round of bells behind.
const MAX_BYTES: usize = 2 << 20;

/// An event, and its message.
pub struct Told {
    /// The event.
    pub entry: Arc<Entry>,
    /// `tenantd.v1.Event`.
    pub bytes: Bytes,
}

/// Events that follow each other, at least one.
pub struct Batch {
    told: Vec<Told>,
    last: u64,
    bytes: usize,
}

impl Batch {
    fn new(entries: Vec<Arc<Entry>>) -> Option<Self> {
        let last = entries.last()?.sequence;
        let mut all = BytesMut::new();
        let told = entries.into_iter().map(|entry| {
            let event = convert::event(&entry);
            all.reserve(event.encoded_len());
            // Cannot fail: there is room.
            let _ = event.encode(&mut all);
            Told { entry, bytes: all.split().freeze() }
        });
        let told: Vec<_> = told.collect();
        let bytes = told.iter().map(|of| of.bytes.len() + of.entry.event.weight()).sum();
        Some(Self { told, last, bytes })
    }

    fn first(&self) -> u64 {
        self.told.first().map_or(self.last, |of| of.entry.sequence)
    }

    /// The last sequence in it.
    pub const fn last(&self) -> u64 {
        self.last
    }

    /// Where the event after `place` is.
    pub fn index_after(&self, place: u64) -> usize {
        usize::try_from((place + 1).saturating_sub(self.first())).unwrap_or(usize::MAX)
    }

    /// All of it.
    pub fn told(&self) -> &[Told] {
        &self.told
    }
}

/// What a place in the log is followed by.
pub enum Next {
    /// By nothing yet.
    Nothing,
    /// By events that others are told too.
    Shared(Arc<Batch>),
    /// By events of long ago.
    Own(Arc<Batch>),
}

/// The newest events.
#[derive(Default)]
pub struct Encoded(Mutex<Tail>);

#[derive(Default)]
struct Tail {
    batches: VecDeque<Arc<Batch>>,
    bytes: usize,
}

impl Encoded {
    /// What comes after `place`.
    ///
    /// # Errors
    /// The range that the log no longer holds.
    pub fn after(&self, events: &EventHub, place: u64) -> Result<Next, Gap> {
        let tail = &mut *self.0.lock();
        let first = tail.batches.front().map_or(u64::MAX, |batch| batch.first());
        let last = tail.batches.back().map_or(0, |batch| batch.last);
        if place < last && place + 1 >= first {
            let at = tail.batches.partition_point(|batch| batch.last <= place);
            if let Some(batch) = tail.batches.get(at) {
                return Ok(Next::Shared(Arc::clone(batch)));
            }
        }
        let batch = Batch::new(events.after(place)?);
        let Some(batch) = batch.map(Arc::new) else { return Ok(Next::Nothing) };
        if place < last {
            return Ok(Next::Own(batch));
        }
        // They follow each other; after a time without watchers they begin anew.
        if place > last {
            *tail = Tail::default();
        }
        tail.bytes += batch.bytes;
        tail.batches.push_back(Arc::clone(&batch));
        while tail.bytes > MAX_BYTES && tail.batches.len() > 1 {
            tail.bytes -= tail.batches.pop_front().map_or(0, |oldest| oldest.bytes);
        }
        Ok(Next::Shared(batch))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        app::ports::{EventSink as _, NoJournal},
        domain::{
            event::{Event, Kind, Subject},
            time::Now,
        },
        wire::v1,
    };

    fn hub(kept: usize) -> EventHub {
        EventHub::new((kept, usize::MAX), "e".to_owned(), 0, Arc::new(NoJournal))
    }

    fn append(hub: &EventHub, count: usize) {
        let event = || Event::new(Now::default(), Subject::default(), Kind::Suspended);
        (0..count).for_each(|_| hub.append(vec![event()]));
    }

    /// The sequences that are told to whoever is at `place`, as a client reads them.
    fn told(encoded: &Encoded, hub: &EventHub, mut place: u64) -> Vec<u64> {
        let mut sequences = Vec::new();
        while let Next::Shared(batch) | Next::Own(batch) = encoded.after(hub, place).unwrap() {
            for of in &batch.told()[batch.index_after(place)..] {
                let event = v1::Event::decode(of.bytes.clone()).unwrap();
                assert_eq!(event.sequence, of.entry.sequence);
                sequences.push(event.sequence);
            }
            place = batch.last();
        }
        sequences
    }

    #[test]
    fn whoever_follows_from_wherever_is_told_each_event_once() {
        let (encoded, hub) = (Encoded::default(), hub(10_000));
        append(&hub, 10);
        assert_eq!(told(&encoded, &hub, 7), [8, 9, 10]);
        append(&hub, 300);
        for place in [9, 10, 8, 3, 0, 310, 200, 10] {
            let expected: Vec<u64> = (place + 1..=310).collect();
            assert_eq!(told(&encoded, &hub, place), expected, "from {place}");
        }
        append(&hub, 1);
        assert_eq!(told(&encoded, &hub, 310), [311]);
        assert_eq!(told(&encoded, &hub, 309), [310, 311]);
    }

    #[test]
    fn what_one_is_told_is_not_encoded_again_for_the_next() {
        let (encoded, hub) = (Encoded::default(), hub(10_000));
        append(&hub, 10);
        let taken = || match encoded.after(&hub, 0).unwrap() {
            Next::Shared(batch) => batch,
            Next::Nothing | Next::Own(_) => panic!("not shared"),
        };
        assert!(Arc::ptr_eq(&taken(), &taken()));
    }

    #[test]
    fn encoded_events_are_bounded_and_who_missed_some_is_told_the_gap() {
        let (encoded, hub) = (Encoded::default(), hub(1_000));
        for _ in 0..500 {
            append(&hub, 256);
            let place = hub.head() - 256;
            assert!(matches!(encoded.after(&hub, place), Ok(Next::Shared(_))));
        }
        let tail = encoded.0.lock();
        assert!(tail.bytes <= MAX_BYTES, "{} bytes", tail.bytes);
        assert_eq!(tail.bytes, tail.batches.iter().map(|batch| batch.bytes).sum::<usize>());
        drop(tail);
        // The log of before, and what is encoded, is forgotten.
        let missed = encoded.after(&hub, 5).err();
        assert_eq!(missed, Some(Gap { from: 6, to: hub.head() - 1_000 }));
    }
}
