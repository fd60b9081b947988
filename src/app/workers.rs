//! Which agent processes are there, and how to tell them something.
//!
//! A worker is there while it has a KeepAlive stream open; one that never
//! opened one, while a connection is open over which it called by name.

use std::collections::{HashMap, HashSet};

use dashmap::{DashMap, Entry};
use tokio::sync::mpsc;

use crate::domain::{
    reject::Rejection,
    session::{EndCause, SessionId, WorkerId},
    tenant::TenantId,
};

/// Notices that wait for a slow worker. Over it the stream is closed, so that
/// the worker comes back and learns the present state.
pub const NOTICES: usize = 256;

/// Names a connection or a stream within this run.
pub type Link = u64;

/// What a worker is told.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "session_service.proto documents each field")]
pub enum Notice {
    Revoked { session: SessionId, tenant: TenantId, cause: EndCause, note: String },
    Draining { deadline: std::time::Duration },
    ConfigChanged { tenant: TenantId, version: String, sessions: Vec<SessionId> },
}

#[derive(Default)]
struct Worker {
    streams: HashMap<Link, mpsc::Sender<Notice>>,
    connections: HashSet<Link>,
    had_stream: bool,
}

impl Worker {
    fn is_there(&self) -> bool {
        !self.streams.is_empty() || (!self.had_stream && !self.connections.is_empty())
    }
}

/// All workers.
pub struct Workers {
    workers: DashMap<WorkerId, Worker>,
    by_connection: DashMap<Link, HashSet<WorkerId>>,
}

impl Default for Workers {
    fn default() -> Self {
        Self { workers: DashMap::new(), by_connection: DashMap::new() }
    }
}

impl Workers {
    /// How many are there.
    #[must_use]
    pub fn count(&self) -> usize {
        self.workers.len()
    }

    /// A call by name over a connection. True when the worker was not there
    /// before.
    ///
    /// # Errors
    /// `LIMIT_REACHED` at `max` workers.
    pub fn call(&self, worker: &WorkerId, connection: Link, max: usize) -> Result<bool, Rejection> {
        let came = self.link(worker, max, |there| {
            there.connections.insert(connection);
        })?;
        self.by_connection.entry(connection).or_default().insert(worker.clone());
        Ok(came)
    }

    /// A stream of notices. True when the worker was not there before.
    ///
    /// # Errors
    /// `LIMIT_REACHED` at `max` workers.
    pub fn open_stream(
        &self,
        worker: &WorkerId,
        stream: Link,
        notices: mpsc::Sender<Notice>,
        max: usize,
    ) -> Result<bool, Rejection> {
        self.link(worker, max, |there| {
            there.streams.insert(stream, notices);
            there.had_stream = true;
        })
    }

    fn link(
        &self,
        worker: &WorkerId,
        max: usize,
        add: impl FnOnce(&mut Worker),
    ) -> Result<bool, Rejection> {
        let full = self.workers.len() >= max;
        match self.workers.entry(worker.clone()) {
            Entry::Occupied(mut there) => {
                add(there.get_mut());
                Ok(false)
            }
            Entry::Vacant(_) if full => {
                Err(Rejection::limit_reached("workers", u32::try_from(max).unwrap_or(u32::MAX)))
            }
            Entry::Vacant(place) => {
                let mut there = Worker::default();
                add(&mut there);
                place.insert(there);
                Ok(true)
            }
        }
    }

    /// A stream ended. True when the worker is gone with it.
    pub fn close_stream(&self, worker: &WorkerId, stream: Link) -> bool {
        self.unlink(worker, |there| {
            there.streams.remove(&stream);
        })
    }

    /// A connection ended. The workers that are gone with it.
    pub fn close_connection(&self, connection: Link) -> Vec<WorkerId> {
        let Some((_, workers)) = self.by_connection.remove(&connection) else { return Vec::new() };
        workers
            .into_iter()
            .filter(|worker| {
                self.unlink(worker, |there| {
                    there.connections.remove(&connection);
                })
            })
            .collect()
    }

    fn unlink(&self, worker: &WorkerId, drop: impl FnOnce(&mut Worker)) -> bool {
        let Entry::Occupied(mut there) = self.workers.entry(worker.clone()) else { return false };
        drop(there.get_mut());
        let gone = !there.get().is_there();
        if gone {
            there.remove();
        }
        gone
    }

    /// Is it there?
    #[must_use]
    pub fn is_there(&self, worker: &WorkerId) -> bool {
        self.workers.contains_key(worker)
    }

    /// Tells one worker. A stream that does not keep up is closed.
    pub fn tell(&self, worker: &WorkerId, notice: &Notice) {
        if let Some(mut there) = self.workers.get_mut(worker) {
            there.streams.retain(|_, stream| stream.try_send(notice.clone()).is_ok());
        }
    }

    /// Tells all workers.
    pub fn tell_all(&self, notice: &Notice) {
        for mut there in self.workers.iter_mut() {
            there.streams.retain(|_, stream| stream.try_send(notice.clone()).is_ok());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerId {
        WorkerId::parse("w1").unwrap()
    }

    #[test]
    fn a_worker_without_a_stream_lives_with_its_last_connection() {
        let workers = Workers::default();
        assert!(workers.call(&worker(), 1, 10).unwrap());
        assert!(!workers.call(&worker(), 2, 10).unwrap());
        assert!(workers.close_connection(1).is_empty());
        assert_eq!(workers.close_connection(2), [worker()]);
    }

    #[test]
    fn a_worker_with_a_stream_lives_with_its_streams() {
        let workers = Workers::default();
        let (notices, _kept) = mpsc::channel(1);
        workers.call(&worker(), 1, 10).unwrap();
        workers.open_stream(&worker(), 7, notices.clone(), 10).unwrap();
        workers.open_stream(&worker(), 8, notices, 10).unwrap();
        assert!(!workers.close_stream(&worker(), 7));
        assert!(workers.close_stream(&worker(), 8), "the open connection does not count");
    }

    #[test]
    fn the_table_is_bounded() {
        let workers = Workers::default();
        workers.call(&worker(), 1, 1).unwrap();
        let other = WorkerId::parse("w2").unwrap();
        assert_eq!(workers.call(&other, 1, 1).unwrap_err().limit, Some(1));
        assert!(workers.call(&worker(), 2, 1).is_ok(), "one that is there may go on");
    }
}
