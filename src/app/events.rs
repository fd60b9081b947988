//! The event log and the bell that wakes its readers.

use parking_lot::Mutex;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

use super::{
    bells::Bells,
    ports::{EventSink, Journal},
};
use crate::domain::{
    event::{Event, Kind},
    event_log::{Entry, EventLog, Gap},
    session::{AgentName, Failure, Outcome},
    tenant::TenantId,
    time::Now,
};

/// Most entries that one reader takes at a time: bounds how long the log is
/// locked for it.
const BATCH: usize = 256;

/// How long a reader that has caught up leaves the log alone: under load it is woken
/// once for what happened meanwhile, and not for each event. The first event after a
/// quiet time is told at once.
pub const PACE: Duration = Duration::from_millis(10);
/// How long one leaves it that has not caught up: where there is one core it is not to
/// take it for long at a time. Well below what it takes to write so many events.
const BREATH: Duration = Duration::from_millis(1);

/// How a session failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastFailure {
    /// What failed, in its client's words.
    pub error: String,
    /// Whose session.
    pub tenant: Option<TenantId>,
    /// When.
    pub at: Now,
}

/// What came last of a kind; outlives the log's bound.
#[derive(Debug, Clone, Default)]
pub struct Latest {
    /// The agent of the session acquired last.
    pub agent: Option<AgentName>,
    /// The last failure.
    pub failure: Option<LastFailure>,
}

impl Latest {
    fn note(&mut self, event: &Event) {
        let error = match &event.kind {
            Kind::SessionAcquired { .. } => {
                self.agent.clone_from(&event.subject.agent);
                return;
            }
            Kind::FailureReported(failure) => words(failure),
            Kind::SessionEnded { outcome: Outcome::Failure, failure, .. } => {
                failure.as_ref().map_or_else(|| "no word of what failed".to_owned(), words)
            }
            Kind::SessionEnded { outcome: Outcome::Lost, cause, counted: true, .. } => {
                format!("lost: {}", cause.name())
            }
            _ => return,
        };
        let tenant = event.subject.tenant.clone();
        self.failure = Some(LastFailure { error, tenant, at: event.at });
    }
}

fn words(failure: &Failure) -> String {
    let parts = [&failure.slot, &failure.kind, &failure.message];
    let said: Vec<_> =
        parts.into_iter().filter(|part| !part.is_empty()).map(String::as_str).collect();
    if said.is_empty() { "no word of what failed".to_owned() } else { said.join(": ") }
}

/// How many sequences are reserved at a time: the most that a cursor is told to
/// have missed after a crash without having missed any.
const RESERVE: u64 = 4096;

struct Log {
    kept: EventLog,
    reserved: u64,
    latest: Latest,
}

/// One epoch's log, shared by writers and readers.
pub struct EventHub {
    log: Mutex<Log>,
    head: watch::Sender<u64>,
    /// Rings each time that a quarter of what is kept is new.
    quarters: watch::Sender<u64>,
    quarter: u64,
    bells: Bells,
    epoch: String,
    start: u64,
    journal: Arc<dyn Journal>,
}

impl EventHub {
    /// An empty log that goes on in `epoch` after the sequence `head`, of which
    /// the journal knows.
    #[must_use]
    pub fn new(
        (max_entries, max_weight): (usize, usize),
        epoch: String,
        head: u64,
        journal: Arc<dyn Journal>,
    ) -> Self {
        let kept = EventLog::resuming(max_entries, max_weight, head);
        let log = Mutex::new(Log { kept, reserved: head, latest: Latest::default() });
        let quarter = u64::try_from(max_entries / 4).unwrap_or(u64::MAX).max(1);
        let (head, quarters) = (watch::Sender::new(head), watch::Sender::new(head / quarter));
        let start = *head.borrow();
        let bells = Bells::new(start);
        Self { log, head, quarters, quarter, bells, epoch, start, journal }
    }

    /// The last sequence before this process.
    #[must_use]
    pub const fn start(&self) -> u64 {
        self.start
    }

    /// The last sequence that may have been given. Told to the journal when its
    /// file is a new one.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.log.lock().reserved
    }

    /// No more events come: what was reserved and not given is given back.
    pub fn close(&self) {
        self.journal.reserve(self.log.lock().kept.head());
    }

    /// Names the row of sequences that none is given twice in.
    #[must_use]
    pub fn epoch(&self) -> &str {
        &self.epoch
    }

    /// Tells when the head moves.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// For one of many followers: rings at a pace when there is something new, so that
    /// whoever appends wakes one task and not each of them.
    #[must_use]
    pub fn bell(&self) -> watch::Receiver<u64> {
        self.bells.take_one()
    }

    /// Rings the followers' bells. Runs as long as the sidecar.
    pub async fn ring(self: Arc<Self>) {
        self.bells.ring(self.subscribe(), |pace| self.leave(pace)).await;
    }

    /// The next entries after `sequence`, a bounded number of them.
    ///
    /// # Errors
    /// The range that is no longer held.
    pub fn after(&self, sequence: u64) -> Result<Vec<Arc<Entry>>, Gap> {
        let entries = self.log.lock().kept.after(sequence, BATCH)?;
        if !entries.is_empty() {
            // Before anybody is told. What could not be recorded is told all the
            // same: it has happened.
            self.journal.settle();
        }
        Ok(entries)
    }

    /// To be awaited by a reader that took so many entries: see [`PACE`].
    pub async fn pace(&self, taken: usize) {
        self.leave(if taken < BATCH { PACE } else { BREATH }).await;
    }

    /// Waits so long, or until so much is new that a reader must hurry.
    pub async fn leave(&self, pace: Duration) {
        let mut quarters = self.quarters.subscribe();
        let _ = tokio::time::timeout(pace, quarters.changed()).await;
    }

    /// What came last of a kind.
    #[must_use]
    pub fn latest(&self) -> Latest {
        self.log.lock().latest.clone()
    }
}

impl EventSink for EventHub {
    fn append(&self, events: Vec<Event>) {
        let trace = super::trace::current();
        let log = &mut *self.log.lock();
        let head = log.kept.head() + events.len() as u64;
        if head > log.reserved {
            // Before the first of them is told to anybody.
            log.reserved = head + RESERVE;
            self.journal.reserve(log.reserved);
        }
        for mut event in events {
            event.trace = event.trace.or(trace);
            log.latest.note(&event);
            log.kept.append(event);
        }
        // Under the lock, so that the bell never goes backwards.
        let head = log.kept.head();
        self.head.send_replace(head);
        if *self.quarters.borrow() < head / self.quarter {
            self.quarters.send_replace(head / self.quarter);
        }
    }

    fn head(&self) -> u64 {
        self.log.lock().kept.head()
    }
}
