//! Which agent processes are there: what their coming, staying and going means
//! for their sessions.

use std::time::Duration;

use super::{
    Caller, Sidecar,
    guard::Permit,
    ports::EventSink as _,
    workers::{Blocked, Link, Notice},
};
use crate::domain::{
    access::{Action, Owner},
    event::{Event, Kind, Subject},
    reject::Rejection,
    session::{Renewal, Session, SessionId, WorkerId},
    time::Now,
};

impl Sidecar {
    /// A call by a named worker: it is there, and what waited for it goes on.
    pub(super) async fn greet(
        &self,
        worker: &WorkerId,
        caller: &Caller,
        who: &Permit,
        now: Now,
    ) -> Result<(), Rejection> {
        let max = self.config().limits.max_workers;
        let owner = who.owner("");
        if self.workers.call(worker, &owner, caller.connection, max)? {
            self.welcome(worker, &owner, now).await;
        }
        Ok(())
    }

    async fn welcome(&self, worker: &WorkerId, owner: &Owner, now: Now) {
        self.store.attach(worker, owner, now).await;
        if !self.workers.is_there(worker) {
            // It went away while it was welcomed.
            self.store.detach(worker, owner, now).await;
        }
        self.events.append(vec![Event::new(now, Subject::worker(worker), Kind::WorkerAttached)]);
    }

    async fn mourn(&self, worker: &WorkerId, owner: &Owner) {
        let now = self.now();
        let waiting = self.store.detach(worker, owner, now).await;
        let kind = Kind::WorkerLost { sessions: waiting.sessions, grace: waiting.grace };
        self.events.append(vec![Event::new(now, Subject::worker(worker), kind)]);
        if self.workers.is_there(worker) {
            // It came back while it was mourned.
            self.store.attach(worker, owner, now).await;
        }
    }

    /// A KeepAlive stream opened.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `LIMIT_REACHED`.
    pub async fn stream_opened(
        &self,
        caller: &Caller,
        worker: &WorkerId,
        stream: Link,
        notices: tokio::sync::mpsc::Sender<Notice>,
    ) -> Result<(), Rejection> {
        let owner = self.permit(caller, Action::KeepAlive, None)?.owner("");
        let max = self.config().limits.max_workers;
        if self.workers.open_stream(worker, &owner, stream, notices, max)? {
            self.welcome(worker, &owner, self.now()).await;
        }
        Ok(())
    }

    /// A KeepAlive stream ended.
    pub async fn stream_closed(&self, worker: &WorkerId, stream: Link) {
        if self.is_ending() {
            return;
        }
        if let Some(owner) = self.workers.close_stream(worker, stream) {
            self.mourn(worker, &owner).await;
        }
    }

    /// A session of an open stream: it lives as long as the stream's worker.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn hold(
        &self,
        caller: &Caller,
        id: &SessionId,
        worker: &WorkerId,
        lease: &str,
    ) -> Result<Session, Rejection> {
        let claim = self.permit(caller, Action::KeepAlive, None)?.claim(lease);
        let renewal = Renewal { worker: Some(worker.clone()), ttl: None, held: true };
        let held = self.store.renew(id, &claim, renewal, self.now()).await;
        self.of_session(caller, Action::KeepAlive, held)
    }

    /// A connection began; returns its name.
    pub fn new_connection(&self) -> Link {
        let connection = self.new_link();
        self.workers.open_connection(connection);
        connection
    }

    /// A connection ended.
    pub async fn connection_closed(&self, connection: Link) {
        if self.is_ending() {
            return;
        }
        for (worker, owner) in self.workers.close_connection(connection) {
            self.mourn(&worker, &owner).await;
        }
    }

    /// A worker's event loop was blocked, by `session` where that is known.
    pub async fn slow(
        &self,
        caller: &Caller,
        worker: &WorkerId,
        session: Option<(&SessionId, &str)>,
        blocked: Duration,
    ) {
        let mut subject = Subject::worker(worker);
        // Tags its own sessions only.
        if let Some((id, lease)) = session
            && let Ok(who) = self.permit(caller, Action::KeepAlive, None)
            && let Ok(session) = self.store.session(id, &who.claim(lease)).await
        {
            subject = Subject { worker: Some(worker.clone()), ..Subject::session(&session) };
        }
        let now = self.now();
        let known = subject.session.clone();
        self.workers.note_blocked(worker, Blocked { lasted: blocked, at: now, session: known });
        self.events.append(vec![Event::new(now, subject, Kind::WorkerSlow { blocked })]);
    }
}
