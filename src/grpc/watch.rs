//! One watcher: a snapshot, then every change, without a hole between them.
//!
//! A watcher holds a place in the log and takes what comes after it when its
//! client is ready for more: the stream itself looks, when it is polled. Nothing
//! is queued for it, so a slow one costs nothing; when the log has moved past it,
//! it learns the gap and gets a new snapshot.

mod encoded;
mod snapshot;

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{runtime::Handle, sync::watch};
use tokio_stream::Stream;
use tonic::Status;

pub use self::encoded::Encoded;
use self::{
    encoded::{Batch, Next},
    snapshot::{Ahead, Part, Snapshot},
};
use super::{convert, status::status};
use crate::{
    app::{
        Sidecar,
        ports::EventSink as _,
        read::{Sight, Watching},
    },
    domain::{
        event_log::{Entry, Gap},
        reject::Rejection,
        tenant::TenantId,
    },
    wire::{
        served::{WatchSessionsResponse, watch_sessions_response::Item},
        v1,
    },
};

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

    fn wants_all(&self) -> bool {
        self.tenants.is_empty() && self.agents.is_empty() && self.kinds.is_empty()
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

type Answer = Result<WatchSessionsResponse, Status>;

/// What goes to the client before the watcher looks again.
enum Portion {
    /// The events from this one on; whoever watches everything takes them as they are.
    All(Arc<Batch>, usize),
    /// These.
    Some(VecDeque<Answer>),
}

impl Iterator for Portion {
    type Item = Answer;

    fn next(&mut self) -> Option<Answer> {
        match self {
            Self::All(batch, at) => {
                let told = batch.told().get(*at)?;
                *at += 1;
                Some(answer(Item::Event(told.bytes.clone())))
            }
            Self::Some(answers) => answers.pop_front(),
        }
    }
}

const fn answer(item: Item) -> Answer {
    Ok(WatchSessionsResponse { item: Some(item) })
}

fn one(item: Item) -> Portion {
    Portion::Some([answer(item)].into())
}

struct Watcher {
    sidecar: Arc<Sidecar>,
    encoded: Arc<Encoded>,
    filter: Arc<Filter>,
    /// Everything up to here is told.
    place: u64,
    ahead: Ahead,
    /// A snapshot that is not told whole.
    snapshot: Option<Snapshot>,
    /// To be told first.
    missed: Option<(Gap, &'static str)>,
    allowed: Watching,
    sight: Sight,
    bell: watch::Receiver<u64>,
    ended: watch::Receiver<bool>,
    access: watch::Receiver<()>,
    every: Duration,
    background: Handle,
    over: bool,
}

/// Serves one watcher, for as long as the stream is polled. `cursor` is a checked one:
/// (epoch, sequence). To be called in the runtime that reads snapshots.
pub fn run(
    sidecar: Arc<Sidecar>,
    encoded: Arc<Encoded>,
    counted: Watching,
    filter: Filter,
    cursor: Option<(String, u64)>,
) -> impl Stream<Item = Answer> + Send {
    let head = sidecar.events.head();
    let mut watcher = Box::new(Watcher {
        encoded,
        filter: Arc::new(filter),
        place: head,
        ahead: Ahead::default(),
        snapshot: None,
        missed: None,
        sight: counted.sight(),
        allowed: counted,
        bell: sidecar.events.bell(),
        ended: sidecar.on_end(),
        access: sidecar.on_access_change(),
        every: sidecar.config().limits.heartbeat,
        background: Handle::current(),
        over: false,
        sidecar,
    });
    match cursor {
        Some((epoch, sequence)) if epoch == watcher.sidecar.events.epoch() => {
            watcher.place = sequence;
        }
        Some(_) => {
            let why = "the cursor is of an earlier run of the sidecar";
            watcher.missed = Some((Gap { from: 0, to: head }, why));
        }
        None => watcher.look_anew(),
    }
    stream::unfold(watcher, |mut watcher| async move {
        let portion = watcher.next().await?;
        Some((portion, watcher))
    })
    .flat_map(stream::iter)
}

impl Watcher {
    async fn next(&mut self) -> Option<Portion> {
        if self.over {
            return None;
        }
        if let Some((gap, why)) = self.missed.take() {
            return Some(self.gap(gap, why));
        }
        if let Some(snapshot) = &mut self.snapshot {
            let parts = snapshot.next().await;
            return self.more_of_snapshot(parts);
        }
        loop {
            if self.access.has_changed().unwrap_or(false) {
                self.access.borrow_and_update();
                if let Err(refused) = self.allowed.look_again() {
                    self.over = true;
                    return Some(Portion::Some([Err(status(refused))].into()));
                }
                self.sight = self.allowed.sight();
            }
            // Asked before: what happened until then is told.
            let ending = *self.ended.borrow_and_update();
            match self.encoded.after(&self.sidecar.events, self.place) {
                Ok(Next::Shared(batch)) => {
                    if let Some(portion) = self.portion(batch) {
                        return Some(portion);
                    }
                    continue;
                }
                Ok(Next::Own(batch)) => {
                    // Who has far to go must not hold up the others of its thread.
                    tokio::task::yield_now().await;
                    if let Some(portion) = self.portion(batch) {
                        return Some(portion);
                    }
                    continue;
                }
                Ok(Next::Nothing) if ending => return None,
                Ok(Next::Nothing) => {}
                Err(missed) => {
                    return Some(self.gap(missed, "this watcher was slower than the log is long"));
                }
            }
            tokio::select! {
                // Events before a heartbeat, where nobody asked for more for so long that
                // both are due.
                biased;
                rung = async { self.bell.wait_for(|head| *head > self.place).await.is_ok() } => {
                    if !rung {
                        return None;
                    }
                }
                () = tokio::time::sleep(self.every) => {
                    let cursor = Some(self.cursor());
                    return Some(one(Item::Heartbeat(v1::Heartbeat { cursor })));
                }
                changed = self.ended.changed() => changed.ok()?,
                _ = self.access.changed() => self.access.mark_changed(),
            }
        }
    }

    /// What of a batch this watcher is told.
    fn portion(&mut self, batch: Arc<Batch>) -> Option<Portion> {
        let from = batch.index_after(self.place);
        self.place = batch.last();
        let first = batch.told().get(from)?;
        let all = self.filter.wants_all() && self.sight.sees_all();
        if all && !self.ahead.reaches(first.entry.sequence) {
            self.ahead.forget(self.place);
            return Some(Portion::All(batch, from));
        }
        let told = batch.told().iter().skip(from).filter(|told| {
            let tenant = told.entry.event.subject.tenant.as_ref();
            !self.ahead.has(tenant, told.entry.sequence)
                && self.sight.sees(tenant)
                && self.filter.wants(&told.entry)
        });
        let told: VecDeque<_> = told.map(|told| answer(Item::Event(told.bytes.clone()))).collect();
        self.ahead.forget(self.place);
        (!told.is_empty()).then_some(Portion::Some(told))
    }

    fn gap(&mut self, Gap { from, to }: Gap, why: &str) -> Portion {
        self.sidecar.note_gap();
        self.look_anew();
        let message = why.to_owned();
        one(Item::Gap(v1::Gap { from_sequence: from, to_sequence: to, message }))
    }

    fn look_anew(&mut self) {
        let sight = self.sight.clone();
        let snapshot = Snapshot::begin(&self.sidecar, &self.filter, sight, &self.background);
        self.snapshot = Some(snapshot);
    }

    /// None: it was broken off, which is the end of the stream too.
    fn more_of_snapshot(&mut self, parts: Vec<Part>) -> Option<Portion> {
        let mut answers = VecDeque::with_capacity(parts.len());
        for part in parts {
            answers.push_back(answer(match part {
                Part::Item(item) => item,
                Part::Whole(place, ahead) => {
                    (self.place, self.ahead, self.snapshot) = (place, ahead, None);
                    Item::SnapshotEnd(v1::SnapshotEnd { cursor: Some(self.cursor()) })
                }
            }));
        }
        (!answers.is_empty()).then_some(Portion::Some(answers))
    }

    fn cursor(&self) -> v1::Cursor {
        v1::Cursor { epoch: self.sidecar.events.epoch().to_owned(), sequence: self.place }
    }
}
