//! The audit log: what operators did and what changed in the config, each a line
//! that a reader can prove to be whole. `line` is the chain, `files` its files,
//! `writer` appends, `verify` proves, `show` selects.
//!
//! It proves against mistakes and against whoever cannot write all its files. Who
//! can could make a whole new chain: that is seen only against a place noted
//! elsewhere, which is why each write also says its place in the log.

mod files;
mod line;
mod show;
mod verify;
mod writer;

use std::{
    collections::VecDeque,
    mem,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::Semaphore;

use self::writer::Writer;
pub use self::{
    line::Place,
    show::{Entry, Wanted, show},
    verify::{Problem, Verified, verify},
};
use crate::{
    app::ports::{AuditSink, AuditStatus},
    domain::audit::{Record, SIDECAR, action},
};

/// Records that wait for a disk that takes none. Beyond it they are counted, and
/// the count is recorded.
const MAX_WAITING: usize = 1000;
/// Longest wait for a disk that neither takes a record nor refuses it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where it is, and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file written to; those before it lie beside it.
    pub path: PathBuf,
    /// When it goes on in a new one.
    pub max_bytes: u64,
    /// Files kept before it.
    pub keep: usize,
}

/// Where it is where nobody says: the state folder that systemd gives, else the
/// user's own.
#[must_use]
pub fn default_path(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |text: &str| {
        let path = PathBuf::from(text);
        path.is_absolute().then_some(path)
    };
    let folder = env("STATE_DIRECTORY")
        .and_then(|all| absolute(all.split(':').next().unwrap_or_default()))
        .or_else(|| env("XDG_STATE_HOME").and_then(|of| Some(absolute(&of)?.join("tenantd"))))
        .or_else(|| env("HOME").and_then(|of| Some(absolute(&of)?.join(".local/state/tenantd"))));
    Some(folder?.join("audit.jsonl"))
}

/// The audit log of one sidecar.
pub struct AuditLog {
    shared: Arc<Shared>,
    /// Whoever writes holds it: a disk that hangs holds one thread, not all those that
    /// look up names and read keys too.
    turn: Arc<Semaphore>,
}

struct Shared {
    writer: Mutex<Writer>,
    backlog: Mutex<Backlog>,
    figures: Figures,
}

/// What waits to be written.
#[derive(Default)]
struct Backlog {
    records: VecDeque<Record>,
    left_out: u64,
}

#[derive(Default)]
struct Figures {
    sequence: AtomicU64,
    failing: AtomicBool,
    error: Mutex<String>,
}

impl AuditLog {
    /// Opens nothing yet: a disk that takes nothing must not keep a sidecar from
    /// starting. `run` names it in its records.
    #[must_use]
    pub fn new(settings: Settings, run: &str) -> Self {
        let shared = Shared {
            writer: Mutex::new(Writer::new(settings, run.to_owned())),
            backlog: Mutex::default(),
            figures: Figures::default(),
        };
        Self { shared: Arc::new(shared), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Writes what waits and then `record`, on a thread that may block.
    async fn flush(&self, record: Option<Record>) -> Result<u64, String> {
        let writing = async {
            let turn = Arc::clone(&self.turn).acquire_owned().await;
            let shared = Arc::clone(&self.shared);
            let write = move || {
                let _turn = turn;
                shared.write(record)
            };
            tokio::task::spawn_blocking(write)
                .await
                .unwrap_or_else(|_| Err("its writer failed".to_owned()))
        };
        tokio::time::timeout(PATIENCE, writing).await.unwrap_or_else(|_| {
            let error = format!("the disk has not taken it within {PATIENCE:?}");
            self.shared.fails(&error);
            Err(error)
        })
    }
}

impl Shared {
    fn write(&self, record: Option<Record>) -> Result<u64, String> {
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (waited, left_out) = {
            let mut backlog = self.backlog.lock();
            (mem::take(&mut backlog.records), mem::take(&mut backlog.left_out))
        };
        let mut all: Vec<Record> = waited.iter().cloned().collect();
        if left_out > 0 {
            let told = json!({ "records": left_out });
            all.push(Record::new(at, SIDECAR, action::LEFT_OUT).change(json!(null), told));
        }
        all.extend(record);
        if all.is_empty() {
            return Ok(self.figures.sequence.load(Ordering::Acquire));
        }
        match self.writer.lock().write(&all, at) {
            Ok(place) => {
                self.figures.sequence.store(place.sequence, Ordering::Release);
                if self.figures.failing.swap(false, Ordering::AcqRel) {
                    tracing::info!("the audit log takes records again");
                }
                Ok(place.sequence)
            }
            Err(error) => {
                self.backlog.lock().again(waited, left_out);
                self.fails(&error);
                Err(error)
            }
        }
    }

    fn fails(&self, error: &str) {
        error.clone_into(&mut self.figures.error.lock());
        if !self.figures.failing.swap(true, Ordering::AcqRel) {
            tracing::error!(
                %error,
                "the audit log takes no records: admin calls are refused until it does"
            );
        }
    }
}

impl Backlog {
    fn push(&mut self, record: Record) {
        if self.records.len() < MAX_WAITING {
            self.records.push_back(record);
        } else {
            self.left_out += 1;
        }
    }

    /// Puts back what could not be written, before what came meanwhile.
    fn again(&mut self, waited: VecDeque<Record>, left_out: u64) {
        let later = mem::replace(&mut self.records, waited);
        self.left_out += left_out;
        later.into_iter().for_each(|record| self.push(record));
    }
}

#[async_trait]
impl AuditSink for AuditLog {
    async fn write(&self, record: Record) -> Result<u64, String> {
        self.flush(Some(record)).await
    }

    async fn note(&self, records: Vec<Record>) {
        {
            let mut backlog = self.shared.backlog.lock();
            records.into_iter().for_each(|record| backlog.push(record));
        }
        let _ = self.flush(None).await;
    }

    fn defer(&self, record: Record) {
        self.shared.backlog.lock().push(record);
    }

    fn status(&self) -> AuditStatus {
        let waiting = {
            let backlog = self.shared.backlog.lock();
            backlog.records.len() as u64 + backlog.left_out
        };
        let figures = &self.shared.figures;
        AuditStatus {
            is_on: true,
            sequence: figures.sequence.load(Ordering::Acquire),
            waiting,
            is_failing: figures.failing.load(Ordering::Acquire),
            error: figures.error.lock().clone(),
        }
    }
}

/// Keeps nothing.
pub struct Off;

#[async_trait]
impl AuditSink for Off {
    async fn write(&self, _: Record) -> Result<u64, String> {
        Ok(0)
    }

    async fn note(&self, _: Vec<Record>) {}

    fn defer(&self, _: Record) {}

    fn status(&self) -> AuditStatus {
        AuditStatus::default()
    }
}

#[cfg(test)]
mod tests;
