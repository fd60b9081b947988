//! What operators change: tenants by hand, the config, and the end.

use std::time::Duration;

use tokio::sync::watch;

use super::{
    Caller, Drain, ReloadFailure, Sidecar,
    ports::{Change, EventSink as _},
    read::TenantReport,
    workers::Notice,
};
use crate::{
    config::{self, Config},
    domain::{
        access::{Action, Claim},
        event::{Actor, Event, Kind, Subject},
        reject::{Reason, Rejection},
        session::{EndCause, Session, SessionId},
        tenant::TenantId,
    },
};

/// What a reload did.
#[derive(Debug, Clone)]
pub struct Reloaded {
    /// Tenants whose config changed.
    pub tenants_changed: u32,
    /// Settings that need a restart to hold.
    pub restart_required: Vec<String>,
}

const fn action_of(change: &Change) -> Action {
    match change {
        Change::Cap(_) => Action::SetCap,
        Change::Suspend => Action::Suspend,
        Change::Resume => Action::Resume,
        Change::OpenBreaker(_) => Action::OpenBreaker,
        Change::ResetBreaker => Action::ResetBreaker,
    }
}

impl Sidecar {
    /// Changes a tenant by hand.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `TENANT_UNKNOWN`, `INVALID_FIELD`.
    pub async fn change(
        &self,
        caller: &Caller,
        tenant: &TenantId,
        change: Change,
        note: String,
    ) -> Result<TenantReport, Rejection> {
        let actor = self.permit(caller, action_of(&change), Some(tenant))?.says(note);
        // Nobody is asked: an operator must be able to stop a tenant while its
        // source is down.
        let terms = self.known_terms(tenant);
        let now = self.now();
        let view = self.store.change(tenant, &terms, change, &actor, now).await?;
        let version = match self.store.snapshot(tenant, now).await {
            Some(snapshot) => snapshot.version,
            None => terms.told(),
        };
        Ok(TenantReport { view, config: self.known_config(tenant), version })
    }

    /// Ends a session by hand and tells its worker.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn revoke(
        &self,
        caller: &Caller,
        id: &SessionId,
        note: String,
    ) -> Result<Session, Rejection> {
        let who = self.permit(caller, Action::Revoke, None)?;
        let claim = Claim::Operator(std::sync::Arc::clone(&who.identity));
        let actor = who.says(note);
        let ended = self.end_by_hand(id, &claim, EndCause::Revoked, Some(&actor)).await;
        self.of_session(caller, Action::Revoke, ended)
    }

    async fn end_by_hand(
        &self,
        id: &SessionId,
        claim: &Claim,
        cause: EndCause,
        actor: Option<&Actor>,
    ) -> Result<Session, Rejection> {
        let session = self.store.revoke(id, claim, cause, actor, self.now()).await?;
        if let Some(worker) = &session.worker {
            let notice = Notice::Revoked {
                session: session.id.clone(),
                tenant: session.tenant.clone(),
                cause,
                note: actor.map(|actor| actor.note.clone()).unwrap_or_default(),
            };
            self.workers.tell(worker, &session.owner, &notice);
        }
        Ok(session)
    }

    /// Reads the config again; a bad one is refused and the running one kept.
    ///
    /// # Errors
    /// `RELOAD_FAILED`.
    pub async fn reload(&self, actor: Option<&Actor>) -> Result<Reloaded, Rejection> {
        // One at a time: two could otherwise finish in the wrong order.
        let _turn = self.reloading.lock().await;
        let loaded = self.source.load().await;
        let now = self.now();
        let (result, kind) = match loaded {
            Ok(new) => {
                let reloaded = self.swap(new).await;
                *self.loaded.lock() = now;
                *self.reload_failure.lock() = None;
                let kind =
                    Kind::Reloaded { error: None, tenants_changed: reloaded.tenants_changed };
                (Ok(reloaded), kind)
            }
            Err(error) => {
                *self.reload_failure.lock() = Some(ReloadFailure { error: error.clone(), at: now });
                let kind = Kind::Reloaded { error: Some(error.clone()), tenants_changed: 0 };
                let refused = Rejection::new(
                    Reason::ReloadFailed,
                    format!("the running config is kept: {error}"),
                );
                (Err(refused), kind)
            }
        };
        self.events.append(vec![Event::new(now, Subject::default(), kind).by(actor)]);
        result
    }

    /// Tells that the listener's certificates changed: taken over, or why not.
    pub fn certificates_changed(&self, taken: Result<(), String>) {
        let kind = Kind::Reloaded { error: taken.err(), tenants_changed: 0 };
        self.events.append(vec![Event::new(self.now(), Subject::default(), kind)]);
    }

    async fn swap(&self, new: Config) -> Reloaded {
        let old = self.config();
        let changes = config::diff(&old, &new);
        // Against what runs, not what was read last: the file is also reloaded when
        // it changes, before anybody asks what is left to do.
        let restart_required = config::diff(&self.started_with, &new).restart_required;
        if !restart_required.is_empty() {
            let settings = restart_required.join(", ");
            tracing::warn!(settings, "some settings hold after a restart");
        }
        self.config.store(std::sync::Arc::new(new));
        self.guard.changed();
        let new = self.config();
        // Those on the defaults, and those that sources add to, are known only by
        // their state.
        let live = self.store.tenants().await;
        let concerned = live.into_iter().filter(|id| {
            !self.started_with.sources.is_empty()
                || changes.tenants.contains(id)
                || (changes.defaults_changed && !new.tenants.contains_key(id))
        });
        self.apply_known(&concerned.collect()).await;
        Reloaded {
            tenants_changed: u32::try_from(changes.tenants.len()).unwrap_or(u32::MAX),
            restart_required,
        }
    }

    /// The drain under way.
    #[must_use]
    pub fn draining(&self) -> Option<Drain> {
        *self.drain.borrow()
    }

    /// Tells when a drain begins.
    #[must_use]
    pub fn on_drain(&self) -> watch::Receiver<Option<Drain>> {
        self.drain.subscribe()
    }

    /// As [`Self::begin_drain`], for an operator.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub async fn drain_by(
        &self,
        caller: &Caller,
        deadline: Option<Duration>,
        note: String,
    ) -> Result<(Drain, u32), Rejection> {
        let actor = self.permit(caller, Action::Drain, None)?.says(note);
        Ok(self.begin_drain(deadline, Some(&actor)).await)
    }

    /// As [`Self::reload`], for an operator.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `RELOAD_FAILED`.
    pub async fn reload_by(&self, caller: &Caller, note: String) -> Result<Reloaded, Rejection> {
        let actor = self.permit(caller, Action::Reload, None)?.says(note);
        self.reload(Some(&actor)).await
    }

    /// Changes what the log shows.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `INVALID_FIELD`.
    pub fn set_log_filter(&self, caller: &Caller, filter: &str) -> Result<(), Rejection> {
        self.permit(caller, Action::SetLogFilter, None)?;
        self.log.set(filter).map_err(|problem| Rejection::field("filter", problem))
    }

    /// Begins to drain; a second call changes nothing. Returns the drain and
    /// the sessions still live.
    pub async fn begin_drain(
        &self,
        deadline: Option<Duration>,
        actor: Option<&Actor>,
    ) -> (Drain, u32) {
        let now = self.now();
        let asked =
            Drain { since: now, deadline: deadline.unwrap_or_else(|| self.config().drain_timeout) };
        let began = self.drain.send_if_modified(|drain| {
            let first = drain.is_none();
            drain.get_or_insert(asked);
            first
        });
        let live = self.store.totals().await.live;
        let drain = self.draining().unwrap_or(asked);
        if began {
            let kind = Kind::Draining { deadline: drain.deadline, live };
            self.events.append(vec![Event::new(now, Subject::default(), kind).by(actor)]);
            self.workers.tell_all(&Notice::Draining { deadline: drain.deadline });
        }
        (drain, live)
    }

    /// Tells streams when to close.
    #[must_use]
    pub fn on_end(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// Closes all streams.
    pub fn end_streams(&self) {
        self.ended.send_replace(true);
    }

    /// How many sessions are live.
    pub async fn live(&self) -> u32 {
        self.store.totals().await.live
    }

    /// Ends what is still live at the drain deadline.
    pub async fn end_all(&self) -> u32 {
        let now = self.now();
        let mut ended = 0;
        for tenant in self.store.tenants().await {
            let Some(snapshot) = self.store.snapshot(&tenant, now).await else { continue };
            for session in snapshot.sessions {
                let done = self
                    .end_by_hand(&session.id, &Claim::Sidecar, EndCause::DrainDeadline, None)
                    .await;
                ended += u32::from(done.is_ok());
            }
        }
        ended
    }
}
