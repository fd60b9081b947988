//! The event log and the bell that wakes its readers.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

use super::ports::EventSink;
use crate::domain::{
    event::Event,
    event_log::{Entry, EventLog, Gap},
};

/// Most entries that one reader takes at a time: bounds how long the log is
/// locked for it.
const BATCH: usize = 256;

/// One run's log, shared by writers and readers.
pub struct EventHub {
    log: Mutex<EventLog>,
    head: watch::Sender<u64>,
    epoch: String,
}

impl EventHub {
    /// An empty log for a new epoch.
    #[must_use]
    pub fn new(max_entries: usize, max_weight: usize) -> Self {
        Self {
            log: Mutex::new(EventLog::new(max_entries, max_weight)),
            head: watch::Sender::new(0),
            epoch: uuid::Uuid::new_v4().simple().to_string(),
        }
    }

    /// Names this run.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Tells when the head moves.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// The next entries after `sequence`, a bounded number of them.
    ///
    /// # Errors
    /// The range that is no longer held.
    pub fn after(&self, sequence: u64) -> Result<Vec<Arc<Entry>>, Gap> {
        self.log.lock().after(sequence, BATCH)
    }
}

impl EventSink for EventHub {
    fn append(&self, events: Vec<Event>) {
        let trace = super::trace::current();
        let mut log = self.log.lock();
        for mut event in events {
            event.trace = event.trace.or(trace);
            log.append(event);
        }
        // Under the lock, so that the bell never goes backwards.
        self.head.send_replace(log.head());
    }

    fn head(&self) -> u64 {
        self.log.lock().head()
    }
}
