//! Which agent processes are there, and how to tell them something.
//!
//! A worker is there while it has a KeepAlive stream open; one that never
//! opened one, while a connection is open over which it called by name.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::domain::{
    access::Owner,
    hash::Keyed,
    reject::{Reason, Rejection},
    session::{EndCause, SessionId, WorkerId},
    tenant::TenantId,
    time::Now,
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
    Draining { deadline: Duration },
    ConfigChanged { tenant: TenantId, version: String, sessions: Vec<SessionId> },
    Suspended { tenant: TenantId, sessions: Vec<SessionId>, note: String },
    Resumed { tenant: TenantId, sessions: Vec<SessionId>, note: String },
}

/// An event loop that stood still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// For how long.
    pub lasted: Duration,
    /// When it was told.
    pub at: Now,
    /// The session to blame, where that is known.
    pub session: Option<SessionId>,
}

/// What a worker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Resident memory; 0: never said.
    pub memory_bytes: u64,
    /// The last time that its event loop was blocked.
    pub blocked: Option<Blocked>,
}

#[derive(Default)]
struct Worker {
    /// Whose process it is: its name means nothing to others.
    owner: Owner,
    streams: HashMap<Link, mpsc::Sender<Notice>, Keyed>,
    connections: HashSet<Link, Keyed>,
    had_stream: bool,
    health: Health,
}

impl Worker {
    fn is_there(&self) -> bool {
        !self.streams.is_empty() || (!self.had_stream && !self.connections.is_empty())
    }
}

/// The two sides of one relation, so that neither can outgrow the other.
#[derive(Default)]
struct Table {
    workers: HashMap<WorkerId, Worker, Keyed>,
    /// Open connections, and who called over each.
    connections: HashMap<Link, HashSet<WorkerId, Keyed>, Keyed>,
}

/// All workers. One lock over both sides: held for a few table operations, and
/// never over an await.
#[derive(Default)]
pub struct Workers(Mutex<Table>);

impl Workers {
    /// How many are there.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().workers.len()
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.0.lock().connections.len()
    }

    /// A connection began.
    pub fn open_connection(&self, connection: Link) {
        self.0.lock().connections.entry(connection).or_default();
    }

    /// A call by name over a connection. True when the worker was not there
    /// before.
    ///
    /// # Errors
    /// `LIMIT_REACHED` at `max` workers; `UNDECIDED` when the connection ended
    /// meanwhile, so that nobody is left in the table by a late call.
    pub fn call(
        &self,
        worker: &WorkerId,
        owner: &Owner,
        connection: Link,
        max: usize,
    ) -> Result<bool, Rejection> {
        let table = &mut *self.0.lock();
        let Some(callers) = table.connections.get_mut(&connection) else {
            return Err(Rejection::new(Reason::Undecided, "the connection was closed"));
        };
        let came = link(&mut table.workers, worker, owner, max, |there| {
            there.connections.insert(connection);
        })?;
        callers.insert(worker.clone());
        Ok(came)
    }

    /// A stream of notices. True when the worker was not there before.
    ///
    /// # Errors
    /// `LIMIT_REACHED` at `max` workers.
    pub fn open_stream(
        &self,
        worker: &WorkerId,
        owner: &Owner,
        stream: Link,
        notices: mpsc::Sender<Notice>,
        max: usize,
    ) -> Result<bool, Rejection> {
        link(&mut self.0.lock().workers, worker, owner, max, |there| {
            there.streams.insert(stream, notices);
            there.had_stream = true;
        })
    }

    /// A stream ended. Whose worker is gone with it, where it is.
    pub fn close_stream(&self, worker: &WorkerId, stream: Link) -> Option<Owner> {
        let table = &mut *self.0.lock();
        let Entry::Occupied(mut there) = table.workers.entry(worker.clone()) else { return None };
        there.get_mut().streams.remove(&stream);
        if there.get().is_there() {
            return None;
        }
        let gone = there.remove();
        for connection in gone.connections {
            if let Some(callers) = table.connections.get_mut(&connection) {
                callers.remove(worker);
            }
        }
        Some(gone.owner)
    }

    /// A connection ended. The workers that are gone with it.
    pub fn close_connection(&self, connection: Link) -> Vec<(WorkerId, Owner)> {
        let table = &mut *self.0.lock();
        let callers = table.connections.remove(&connection).unwrap_or_default();
        let mut gone = Vec::new();
        for worker in callers {
            let Some(there) = table.workers.get_mut(&worker) else { continue };
            there.connections.remove(&connection);
            if !there.is_there()
                && let Some(there) = table.workers.remove(&worker)
            {
                gone.push((worker, there.owner));
            }
        }
        gone
    }

    /// Is it there?
    #[must_use]
    pub fn is_there(&self, worker: &WorkerId) -> bool {
        self.0.lock().workers.contains_key(worker)
    }

    /// Notes the resident memory that a worker reports, in bytes.
    pub fn note_memory(&self, worker: &WorkerId, bytes: u64) {
        if let Some(there) = self.0.lock().workers.get_mut(worker) {
            there.health.memory_bytes = bytes;
        }
    }

    /// Notes that a worker's event loop was blocked.
    pub fn note_blocked(&self, worker: &WorkerId, blocked: Blocked) {
        if let Some(there) = self.0.lock().workers.get_mut(worker) {
            there.health.blocked = Some(blocked);
        }
    }

    /// How each of them is.
    #[must_use]
    pub fn health(&self) -> BTreeMap<WorkerId, Health> {
        let table = self.0.lock();
        table.workers.iter().map(|(worker, there)| (worker.clone(), there.health.clone())).collect()
    }

    /// Tells one worker, if it is of the same identity as the session that it is
    /// told about. A stream that does not keep up is closed.
    pub fn tell(&self, worker: &WorkerId, owner: &Owner, notice: &Notice) {
        if let Some(there) = self.0.lock().workers.get_mut(worker)
            && there.owner.identity == owner.identity
        {
            there.streams.retain(|_, stream| stream.try_send(notice.clone()).is_ok());
        }
    }

    /// Tells all workers.
    pub fn tell_all(&self, notice: &Notice) {
        for there in self.0.lock().workers.values_mut() {
            there.streams.retain(|_, stream| stream.try_send(notice.clone()).is_ok());
        }
    }
}

fn link(
    workers: &mut HashMap<WorkerId, Worker, Keyed>,
    worker: &WorkerId,
    owner: &Owner,
    max: usize,
    add: impl FnOnce(&mut Worker),
) -> Result<bool, Rejection> {
    let full = workers.len() >= max;
    match workers.entry(worker.clone()) {
        // Its notices and its sessions' lives would be the other's.
        Entry::Occupied(there) if there.get().owner.identity != owner.identity => {
            Err(Rejection::field("worker", "is the name of another process; names must be unique"))
        }
        Entry::Occupied(mut there) => {
            add(there.get_mut());
            Ok(false)
        }
        Entry::Vacant(_) if full => {
            Err(Rejection::limit_reached("workers", u32::try_from(max).unwrap_or(u32::MAX)))
        }
        Entry::Vacant(place) => {
            add(place.insert(Worker { owner: owner.clone(), ..Worker::default() }));
            Ok(true)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker() -> WorkerId {
        WorkerId::parse("w1").unwrap()
    }

    fn with_connections() -> Workers {
        let workers = Workers::default();
        workers.open_connection(1);
        workers.open_connection(2);
        workers
    }

    #[test]
    fn a_worker_without_a_stream_lives_with_its_last_connection() {
        let workers = with_connections();
        assert!(workers.call(&worker(), &Owner::default(), 1, 10).unwrap());
        assert!(!workers.call(&worker(), &Owner::default(), 2, 10).unwrap());
        assert!(workers.close_connection(1).is_empty());
        assert_eq!(workers.close_connection(2), [(worker(), Owner::default())]);
    }

    #[test]
    fn a_worker_with_a_stream_lives_with_its_streams() {
        let workers = with_connections();
        let (notices, _kept) = mpsc::channel(1);
        workers.call(&worker(), &Owner::default(), 1, 10).unwrap();
        workers.open_stream(&worker(), &Owner::default(), 7, notices.clone(), 10).unwrap();
        workers.open_stream(&worker(), &Owner::default(), 8, notices, 10).unwrap();
        assert!(workers.close_stream(&worker(), 7).is_none());
        assert!(workers.close_stream(&worker(), 8).is_some(), "the open connection does not count");
    }

    #[test]
    fn names_that_come_and_go_over_one_connection_leave_nothing() {
        let workers = with_connections();
        for n in 0..100 {
            let worker = WorkerId::parse(&format!("w{n}")).unwrap();
            let (notices, _kept) = mpsc::channel(1);
            workers.call(&worker, &Owner::default(), 1, 10).unwrap();
            workers.open_stream(&worker, &Owner::default(), n, notices, 10).unwrap();
            assert!(workers.close_stream(&worker, n).is_some());
        }
        assert_eq!(workers.0.lock().connections[&1].len(), 0);
    }

    #[test]
    fn a_call_that_outlives_its_connection_leaves_nobody_behind() {
        let workers = with_connections();
        workers.close_connection(1);
        assert!(workers.call(&worker(), &Owner::default(), 1, 10).is_err());
        assert_eq!(workers.count(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let workers = with_connections();
        workers.call(&worker(), &Owner::default(), 1, 1).unwrap();
        let other = WorkerId::parse("w2").unwrap();
        assert_eq!(workers.call(&other, &Owner::default(), 1, 1).unwrap_err().limit, Some(1));
        assert!(
            workers.call(&worker(), &Owner::default(), 2, 1).is_ok(),
            "one that is there may go on"
        );
    }

    #[test]
    fn a_name_is_its_identitys_while_it_is_there() {
        let of = |name: &str| Owner { identity: Some(name.into()), lease: None };
        let workers = with_connections();
        let (notices, mut heard) = mpsc::channel(1);
        workers.open_stream(&worker(), &of("a"), 7, notices.clone(), 10).unwrap();
        assert!(workers.call(&worker(), &of("b"), 1, 10).is_err());
        assert!(workers.open_stream(&worker(), &of("b"), 8, notices, 10).is_err());
        let notice = Notice::Draining { deadline: std::time::Duration::ZERO };
        workers.tell(&worker(), &of("b"), &notice);
        assert!(heard.try_recv().is_err(), "not told of another's sessions");
        workers.tell(&worker(), &of("a"), &notice);
        assert!(heard.try_recv().is_ok());
        assert_eq!(workers.close_stream(&worker(), 7), Some(of("a")));
        assert!(workers.call(&worker(), &of("b"), 1, 10).unwrap(), "it is free now");
    }
}
