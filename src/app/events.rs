//! The event log and the bell that wakes its readers.

use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::watch;

use super::ports::EventSink;
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

struct Log {
    entries: EventLog,
    latest: Latest,
}

/// One run's log, shared by writers and readers.
pub struct EventHub {
    log: Mutex<Log>,
    head: watch::Sender<u64>,
    epoch: String,
}

impl EventHub {
    /// An empty log for a new epoch.
    #[must_use]
    pub fn new(max_entries: usize, max_weight: usize) -> Self {
        Self {
            log: Mutex::new(Log {
                entries: EventLog::new(max_entries, max_weight),
                latest: Latest::default(),
            }),
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
        self.log.lock().entries.after(sequence, BATCH)
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
        let mut log = self.log.lock();
        for mut event in events {
            event.trace = event.trace.or(trace);
            log.latest.note(&event);
            log.entries.append(event);
        }
        // Under the lock, so that the bell never goes backwards.
        self.head.send_replace(log.entries.head());
    }

    fn head(&self) -> u64 {
        self.log.lock().entries.head()
    }
}
