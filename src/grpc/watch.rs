//! One watcher: a snapshot, then every change, without a hole between them.
//!
//! A watcher holds a place in the log and takes what comes after it when its
//! client is ready for more. Nothing is queued for it, so a slow one costs
//! nothing; when the log has moved past it, it learns the gap and gets a new
//! snapshot.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tonic::Status;

use super::{convert, status::status};
use crate::{
    app::{Sidecar, ports::EventSink as _, read::Watching},
    domain::{event_log::Entry, reject::Rejection, tenant::TenantId},
    wire::v1::{self, watch_sessions_response::Item},
};

/// Items on their way to one watcher: a socket's worth, not a queue.
const IN_FLIGHT: usize = 32;

/// How long a watcher that has caught up leaves the log alone. The first event after
/// a quiet time is told at once; under load many are told with one wake-up, and
/// leave in one write.
const PACE: Duration = Duration::from_millis(50);

/// Checked filters; an empty one matches all.
#[derive(Debug, Default)]
pub struct Filter {
    /// Tenants.
    pub tenants: HashSet<String>,
    /// Agents.
    pub agents: HashSet<String>,
    /// Kinds.
    pub kinds: HashSet<i32>,
}

impl Filter {
    fn wants(&self, entry: &Entry) -> bool {
        let subject = &entry.event.subject;
        let tenant = subject.tenant.as_ref().map_or("", TenantId::as_str);
        let agent = subject.agent.as_ref().map_or("", |agent| agent.as_str());
        (self.tenants.is_empty() || self.tenants.contains(tenant))
            && (self.agents.is_empty() || self.agents.contains(agent))
            && (self.kinds.is_empty()
                || self.kinds.contains(&i32::from(convert::event_kind(&entry.event.kind))))
    }

    /// The tenants that it names.
    ///
    /// # Errors
    /// `TENANT_MALFORMED`.
    pub fn named(&self) -> Result<Vec<TenantId>, Rejection> {
        self.tenants.iter().map(|tenant| TenantId::parse(tenant)).collect()
    }

    fn wants_tenant(&self, tenant: &TenantId) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant.as_str())
    }
}

type Answers = mpsc::Sender<Result<v1::WatchSessionsResponse, Status>>;

/// The client has gone.
struct Gone;

struct Watcher {
    sidecar: Arc<Sidecar>,
    filter: Filter,
    answers: Answers,
    /// Everything up to here is told.
    place: u64,
    /// Tenants whose snapshot is newer than `place`: their events up to there
    /// are in it already.
    ahead: HashMap<TenantId, u64>,
    allowed: Watching,
}

/// Serves one watcher in a task of its own, which ends with its client or the
/// sidecar. `cursor` is a checked one: (epoch, sequence).
pub fn run(
    sidecar: Arc<Sidecar>,
    counted: Watching,
    filter: Filter,
    cursor: Option<(String, u64)>,
) -> impl Stream<Item = Result<v1::WatchSessionsResponse, Status>> + Send {
    let (answers, outgoing) = mpsc::channel(IN_FLIGHT);
    let place = sidecar.events.head();
    let mut watcher =
        Watcher { sidecar, filter, answers, place, ahead: HashMap::new(), allowed: counted };
    tokio::spawn(async move {
        let _ = watcher.serve(cursor).await;
    });
    ReceiverStream::new(outgoing)
}

impl Watcher {
    async fn serve(&mut self, cursor: Option<(String, u64)>) -> Result<(), Gone> {
        match cursor {
            Some((epoch, sequence)) if epoch == self.sidecar.events.epoch() => {
                self.place = sequence
            }
            Some(_) => {
                self.gap(0, self.place, "the cursor is of an earlier run of the sidecar").await?;
            }
            None => self.snapshot().await?,
        }
        let every = self.sidecar.config().limits.heartbeat;
        let mut head = self.sidecar.events.subscribe();
        let mut ended = self.sidecar.on_end();
        let mut access = self.sidecar.on_access_change();
        loop {
            if access.has_changed().unwrap_or(false) {
                access.borrow_and_update();
                if let Err(refused) = self.allowed.look_again() {
                    let _ = self.answers.send(Err(status(refused))).await;
                    return Err(Gone);
                }
            }
            let before = self.place;
            self.catch_up().await?;
            if *ended.borrow_and_update() {
                // What happened while it caught up, the last events included.
                return self.catch_up().await;
            }
            if self.place > before {
                tokio::select! {
                    () = self.sidecar.events.leave(PACE) => {}
                    _ = ended.changed() => continue,
                }
            }
            tokio::select! {
                moved = async { head.wait_for(|head| *head > self.place).await.is_ok() } => {
                    if !moved {
                        return Ok(());
                    }
                }
                () = tokio::time::sleep(every) => {
                    let cursor = Some(self.cursor());
                    self.send(Item::Heartbeat(v1::Heartbeat { cursor })).await?;
                }
                () = self.answers.closed() => return Err(Gone),
                _ = ended.changed() => {}
                _ = access.changed() => access.mark_changed(),
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), Gone> {
        loop {
            match self.sidecar.events.after(self.place) {
                Ok(entries) if entries.is_empty() => return Ok(()),
                Ok(entries) => {
                    for entry in entries {
                        self.tell(&entry).await?;
                    }
                }
                Err(missed) => {
                    self.gap(
                        missed.from,
                        missed.to,
                        "this watcher was slower than the log is long",
                    )
                    .await?;
                }
            }
        }
    }

    async fn tell(&mut self, entry: &Entry) -> Result<(), Gone> {
        self.place = entry.sequence;
        let tenant = entry.event.subject.tenant.as_ref();
        let in_snapshot = tenant
            .and_then(|tenant| self.ahead.get(tenant))
            .is_some_and(|as_of| entry.sequence <= *as_of);
        if in_snapshot || !self.allowed.sees(tenant) || !self.filter.wants(entry) {
            return Ok(());
        }
        self.send(Item::Event(convert::event(entry))).await
    }

    async fn gap(&mut self, from: u64, to: u64, why: &str) -> Result<(), Gone> {
        let message = why.to_owned();
        self.sidecar.note_gap();
        self.send(Item::Gap(v1::Gap { from_sequence: from, to_sequence: to, message })).await?;
        self.snapshot().await
    }

    /// Each tenant is read in one step, at its own place of the log. The
    /// snapshot's cursor is the earliest; `ahead` keeps what a later tenant has
    /// in it already from being told twice.
    async fn snapshot(&mut self) -> Result<(), Gone> {
        self.place = self.sidecar.events.head();
        self.ahead.clear();
        for tenant in self.sidecar.tenants_in_memory().await {
            if !self.filter.wants_tenant(&tenant) || !self.allowed.sees(Some(&tenant)) {
                continue;
            }
            let Some((report, sessions, as_of)) = self.sidecar.tenant_snapshot(&tenant).await
            else {
                continue;
            };
            self.ahead.insert(tenant, as_of);
            self.send(Item::Tenant(convert::tenant(&report))).await?;
            let now = self.sidecar.now();
            for session in sessions {
                let agent = session.agent.as_ref().map_or("", |agent| agent.as_str());
                if self.filter.agents.is_empty() || self.filter.agents.contains(agent) {
                    self.send(Item::Session(convert::session(&session, now))).await?;
                }
            }
        }
        let cursor = Some(self.cursor());
        self.send(Item::SnapshotEnd(v1::SnapshotEnd { cursor })).await
    }

    fn cursor(&self) -> v1::Cursor {
        v1::Cursor { epoch: self.sidecar.events.epoch().to_owned(), sequence: self.place }
    }

    async fn send(&self, item: Item) -> Result<(), Gone> {
        let answer = v1::WatchSessionsResponse { item: Some(item) };
        self.answers.send(Ok(answer)).await.map_err(|_| Gone)
    }
}
