//! What live sessions' processes are told when something changes about their
//! tenant. Made from the event log, so that whoever changes it cannot forget.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Sidecar, ports::EventSink as _, workers::Notice};
use crate::domain::{
    access::Owner,
    event::{Event, Kind},
    session::SessionId,
    tenant::TenantId,
    time::Now,
};

impl Sidecar {
    /// Tells workers. Runs as long as the sidecar.
    pub async fn tell_workers(self: Arc<Self>) {
        let mut head = self.events.subscribe();
        let mut seen = self.events.head();
        loop {
            match self.events.after(seen) {
                Ok(entries) if entries.is_empty() => {
                    if head.changed().await.is_err() {
                        return;
                    }
                }
                Ok(entries) => {
                    let taken = entries.len();
                    // Told is the config of now: once is enough for all its changes.
                    let mut configs = BTreeSet::new();
                    for entry in entries {
                        seen = entry.sequence;
                        match (&entry.event.kind, &entry.event.subject.tenant) {
                            (Kind::ConfigChanged { .. } | Kind::ConfigRecovered, Some(tenant)) => {
                                configs.insert(tenant.clone());
                            }
                            _ => self.tell_about(&entry.event).await,
                        }
                    }
                    for tenant in &configs {
                        self.tell_config(tenant).await;
                    }
                    self.events.pace(taken).await;
                }
                Err(gap) => {
                    // What changed is not known any more: all may refresh.
                    seen = gap.to;
                    for tenant in self.store.tenants().await {
                        self.tell_config(&tenant).await;
                    }
                }
            }
        }
    }

    async fn tell_about(&self, event: &Event) {
        let Some(tenant) = &event.subject.tenant else { return };
        let note = event.actor.as_ref().map(|actor| actor.note.clone()).unwrap_or_default();
        match &event.kind {
            Kind::Suspended => {
                self.tell_each(tenant, None, |tenant, sessions, _| Notice::Suspended {
                    tenant,
                    sessions,
                    note: note.clone(),
                })
                .await;
            }
            Kind::Resumed => {
                // One that began later was never told of the suspension.
                self.tell_each(tenant, Some(event.at), |tenant, sessions, _| Notice::Resumed {
                    tenant,
                    sessions,
                    note: note.clone(),
                })
                .await;
            }
            _ => {}
        }
    }

    async fn tell_config(&self, tenant: &TenantId) {
        self.tell_each(tenant, None, |tenant, sessions, version| Notice::ConfigChanged {
            tenant,
            version: version.to_owned(),
            sessions,
        })
        .await;
    }

    /// Each worker that has live sessions of the tenant, with these; only those that
    /// began `before` a time, where one is given.
    async fn tell_each(
        &self,
        tenant: &TenantId,
        before: Option<Now>,
        notice: impl Fn(TenantId, Vec<SessionId>, &str) -> Notice,
    ) {
        let Some(snapshot) = self.store.snapshot(tenant, self.now()).await else { return };
        let mut by_worker = BTreeMap::<_, Vec<SessionId>>::new();
        for session in snapshot.sessions {
            let told = before.is_none_or(|before| session.acquired.mono < before.mono);
            if let Some(worker) = session.worker.filter(|_| told) {
                let of = by_worker.entry((worker, session.owner.identity.clone())).or_default();
                of.push(session.id);
            }
        }
        for ((worker, identity), sessions) in by_worker {
            let owner = Owner { identity, lease: None };
            self.workers.tell(
                &worker,
                &owner,
                &notice(tenant.clone(), sessions, &snapshot.version),
            );
        }
    }
}
