//! What a watcher begins with, and begins anew with after a gap.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;
use tokio::{runtime::Handle, sync::mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::Filter;
use crate::{
    app::{Sidecar, ports::EventSink as _, read::Sight},
    domain::tenant::TenantId,
    grpc::convert,
    wire::served::watch_sessions_response::Item,
};

/// Items that wait for the watcher to take them.
const IN_FLIGHT: usize = 32;

/// Tenants whose snapshot is newer than the watcher's place: their events up to there
/// are in it already.
#[derive(Default)]
pub struct Ahead {
    of: HashMap<TenantId, u64>,
    most: u64,
}

impl Ahead {
    fn note(&mut self, tenant: TenantId, as_of: u64) {
        self.most = self.most.max(as_of);
        self.of.insert(tenant, as_of);
    }

    /// It may have in it what is at `sequence`.
    pub const fn reaches(&self, sequence: u64) -> bool {
        sequence <= self.most
    }

    /// What is at `sequence` is in the snapshot.
    pub fn has(&self, tenant: Option<&TenantId>, sequence: u64) -> bool {
        self.reaches(sequence)
            && tenant.and_then(|tenant| self.of.get(tenant)).is_some_and(|as_of| sequence <= *as_of)
    }

    /// Forgets what no event after `place` is in.
    pub fn forget(&mut self, place: u64) {
        if place >= self.most && !self.of.is_empty() {
            *self = Self::default();
        }
    }
}

/// One that is being read: in the background, since there may be many tenants, and only
/// as fast as the watcher takes it.
pub struct Snapshot {
    items: mpsc::Receiver<Part>,
    _reading: AbortOnDropHandle<()>,
}

/// A part of one.
pub enum Part {
    /// An item.
    Item(Item),
    /// It is whole: everything up to this place of the log is in it.
    Whole(u64, Ahead),
}

impl Snapshot {
    /// Begins to read one.
    pub fn begin(
        sidecar: &Arc<Sidecar>,
        filter: &Arc<Filter>,
        sight: Sight,
        background: &Handle,
    ) -> Self {
        let (told, items) = mpsc::channel(IN_FLIGHT);
        let reading = read(Arc::clone(sidecar), Arc::clone(filter), sight, told);
        Self { items, _reading: AbortOnDropHandle::new(background.spawn(reading)) }
    }

    /// The next parts, as many as there are; none when reading was broken off.
    pub async fn next(&mut self) -> Vec<Part> {
        let mut parts = Vec::new();
        self.items.recv_many(&mut parts, IN_FLIGHT).await;
        parts
    }
}

/// Each tenant is read in one step, at its own place of the log. The snapshot's place is
/// the earliest; [`Ahead`] keeps what a later tenant has in it already from being told
/// twice.
async fn read(sidecar: Arc<Sidecar>, filter: Arc<Filter>, sight: Sight, told: mpsc::Sender<Part>) {
    let (place, mut ahead) = (sidecar.events.head(), Ahead::default());
    for tenant in sidecar.tenants_in_memory().await {
        if !filter.wants_tenant(&tenant) || !sight.sees(Some(&tenant)) {
            continue;
        }
        let Some((report, sessions, as_of)) = sidecar.tenant_snapshot(&tenant).await else {
            continue;
        };
        ahead.note(tenant, as_of);
        let item = Item::Tenant(convert::tenant(&report).encode_to_vec().into());
        if told.send(Part::Item(item)).await.is_err() {
            return;
        }
        let now = sidecar.now();
        for session in sessions {
            let agent = session.agent.as_ref().map_or("", |agent| agent.as_str());
            if filter.agents.is_empty() || filter.agents.contains(agent) {
                let session = convert::session(&session, now).encode_to_vec();
                if told.send(Part::Item(Item::Session(session.into()))).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = told.send(Part::Whole(place, ahead)).await;
}
