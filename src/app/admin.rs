//! What operators change: tenants by hand, the config, and the end.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::sync::watch;

use super::{
    Caller, Drain, ReloadFailure, Sidecar,
    audit::{Done, differing, standing},
    ports::{Change, EventSink as _},
    read::TenantReport,
    workers::Notice,
};
use crate::{
    config::{self, Config, describe},
    domain::{
        access::{Action, Claim},
        audit::{Record, SIDECAR, action},
        event::{Actor, Event, Kind, Subject},
        reject::{Reason, Rejection},
        session::{EndCause, Session, SessionId},
        tenant::TenantId,
        validity::Validity,
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

/// Most tenants that one reload's changes are recorded of, each; the rest are counted.
const MAX_TOLD: usize = 1000;

/// What a reload changed, for the audit log.
#[derive(Default)]
struct Changes {
    before: Value,
    after: Value,
    tenants: Vec<Record>,
}

/// A change's name and parameters, for the audit log.
fn named(change: &Change) -> (&'static str, Value) {
    match change {
        Change::Cap(None) => (action::TENANT_CAP, json!({ "cap": "default" })),
        Change::Cap(Some(None)) => (action::TENANT_CAP, json!({ "cap": "unlimited" })),
        Change::Cap(Some(Some(cap))) => (action::TENANT_CAP, json!({ "cap": cap })),
        Change::Suspend => (action::TENANT_SUSPEND, Value::Null),
        Change::Resume => (action::TENANT_RESUME, Value::Null),
        Change::OpenBreaker(duration) => (
            action::BREAKER_OPEN,
            json!({ "duration_seconds": duration.map(|of| of.as_secs_f64()) }),
        ),
        Change::ResetBreaker => (action::BREAKER_RESET, Value::Null),
    }
}

impl Sidecar {
    /// Changes a tenant by hand.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `AUDIT_UNAVAILABLE`, `TENANT_UNKNOWN`, `INVALID_FIELD`.
    pub async fn change(
        self: &Arc<Self>,
        caller: &Caller,
        tenant: &TenantId,
        change: Change,
        note: String,
    ) -> Result<TenantReport, Rejection> {
        let (action, asked) = named(&change);
        let record = self.record_by(caller, action).of_tenant(tenant);
        let record = record.saying(&note).asking(asked);
        let tenant = tenant.clone();
        self.audited(caller, action_of(&change), record, |sidecar, who| async move {
            let actor = who.says(note);
            // Nobody is asked: an operator must be able to stop a tenant while its
            // source is down.
            let terms = sidecar.known_terms(&tenant);
            let now = sidecar.now();
            let before = sidecar.store.snapshot(&tenant, now).await;
            let before = before.map_or(Value::Null, |of| standing(&of.view));
            let view = sidecar.store.change(&tenant, &terms, change, &actor, now).await?;
            let version = match sidecar.store.snapshot(&tenant, now).await {
                Some(snapshot) => snapshot.version,
                None => terms.told(),
            };
            let after = standing(&view);
            let value = TenantReport { view, config: sidecar.known_config(&tenant), version };
            Ok(Done { value, before, after })
        })
        .await
    }

    /// Ends a session by hand and tells its worker.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `AUDIT_UNAVAILABLE`, `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn revoke(
        self: &Arc<Self>,
        caller: &Caller,
        id: &SessionId,
        note: String,
    ) -> Result<Session, Rejection> {
        let mut record = self.record_by(caller, action::SESSION_REVOKE);
        record = record.of_session(id).saying(&note);
        if let Ok(session) = self.store.session(id, &Claim::Sidecar).await {
            record = record.of_tenant(&session.tenant);
        }
        let (id, by) = (id.clone(), caller.clone());
        self.audited(caller, Action::Revoke, record, |sidecar, who| async move {
            let claim = Claim::Operator(Arc::clone(&who.identity));
            let actor = who.says(note);
            let ended = sidecar.end_by_hand(&id, &claim, EndCause::Revoked, Some(&actor)).await;
            let value = sidecar.of_session(&by, Action::Revoke, ended)?;
            let before = json!({ "live": true, "agent_name": value.agent.as_ref().map(ToString::to_string) });
            Ok(Done { value, before, after: json!({ "live": false, "outcome": "revoked" }) })
        })
        .await
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

    /// Reads the config again; a bad one is refused and the running one kept. `why`:
    /// what caused it, for the audit log.
    ///
    /// # Errors
    /// `RELOAD_FAILED`.
    pub async fn reload(&self, why: &'static str) -> Result<Reloaded, Rejection> {
        let record = self.record(SIDECAR, action::RELOAD).asking(json!({ "because": why }));
        let (result, changes) = self.load(None).await;
        let record = match &result {
            Ok(_) => record.change(changes.before, changes.after),
            Err(refused) => record.refused(refused),
        };
        let mut records = vec![record];
        records.extend(changes.tenants);
        self.audit.note(records).await;
        result
    }

    async fn load(&self, actor: Option<&Actor>) -> (Result<Reloaded, Rejection>, Changes) {
        // One at a time: two could otherwise finish in the wrong order.
        let _turn = self.reloading.lock().await;
        let loaded = self.source.load().await;
        let now = self.now();
        let mut changes = Changes::default();
        let (result, kind) = match loaded {
            Ok(new) => {
                changes = self.changes(&new, actor);
                let reloaded = self.swap(new).await;
                if let Value::Object(after) = &mut changes.after
                    && !reloaded.restart_required.is_empty()
                {
                    after.insert("restart_required".to_owned(), json!(reloaded.restart_required));
                }
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
        (result, changes)
    }

    /// What a new config changes, for the audit log.
    fn changes(&self, new: &Config, actor: Option<&Actor>) -> Changes {
        let old = self.config();
        let (before, mut after) = differing(describe::settings(&old), describe::settings(new));
        let changed = describe::tenants(&old, new);
        let told = changed.len().min(MAX_TOLD);
        if let Value::Object(after) = &mut after {
            after.insert("tenants_changed".to_owned(), changed.len().into());
            if told < changed.len() {
                after.insert("tenants_left_out".to_owned(), (changed.len() - told).into());
            }
        }
        let actor = actor.map_or(SIDECAR, |actor| &actor.name);
        let tenants = changed.into_iter().take(told).map(|(tenant, was, is)| {
            let (before, after) = differing(was, is);
            let record = self.record(actor, action::TENANT_CONFIG).of_tenant(&tenant);
            record.asking(json!({ "because": action::RELOAD })).change(before, after)
        });
        Changes { tenants: tenants.collect(), before, after }
    }

    /// How long the listener's certificates are good.
    pub fn certificates(&self) -> Vec<Validity> {
        self.validities.lock().clone()
    }

    /// It serves with certificates that are good for so long.
    pub fn certificates_are(&self, validities: Vec<Validity>) {
        *self.validities.lock() = validities;
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
    /// `NOT_PERMITTED`, `AUDIT_UNAVAILABLE`.
    pub async fn drain_by(
        self: &Arc<Self>,
        caller: &Caller,
        deadline: Option<Duration>,
        note: String,
    ) -> Result<(Drain, u32), Rejection> {
        let record = self.record_by(caller, action::DRAIN).saying(&note);
        let asked = json!({ "timeout_seconds": deadline.map(|of| of.as_secs_f64()) });
        let record = record.asking(asked);
        self.audited(caller, Action::Drain, record, move |sidecar, who| async move {
            let actor = who.says(note);
            let was = sidecar.draining().is_some();
            let (drain, live) = sidecar.begin_drain(deadline, Some(&actor)).await;
            let after = json!({
                "draining": true,
                "deadline_seconds": drain.deadline.as_secs_f64(),
                "live_sessions": live,
            });
            Ok(Done { value: (drain, live), before: json!({ "draining": was }), after })
        })
        .await
    }

    /// As [`Self::reload`], for an operator.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `AUDIT_UNAVAILABLE`, `RELOAD_FAILED`.
    pub async fn reload_by(
        self: &Arc<Self>,
        caller: &Caller,
        note: String,
    ) -> Result<Reloaded, Rejection> {
        let record = self.record_by(caller, action::RELOAD).saying(&note);
        self.audited(caller, Action::Reload, record, |sidecar, who| async move {
            let actor = who.says(note);
            let (result, changes) = sidecar.load(Some(&actor)).await;
            sidecar.audit.note(changes.tenants).await;
            Ok(Done { value: result?, before: changes.before, after: changes.after })
        })
        .await
    }

    /// Changes what the log shows.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `AUDIT_UNAVAILABLE`, `INVALID_FIELD`.
    pub async fn set_log_filter(
        self: &Arc<Self>,
        caller: &Caller,
        filter: &str,
    ) -> Result<(), Rejection> {
        let record = self.record_by(caller, action::LOG_FILTER);
        let record = record.asking(json!({ "filter": filter }));
        let filter = filter.to_owned();
        self.audited(caller, Action::SetLogFilter, record, |sidecar, _| async move {
            let set = sidecar.log.set(&filter);
            let before = set.map_err(|problem| Rejection::field("filter", problem))?;
            let (before, after) = (json!({ "filter": before }), json!({ "filter": filter }));
            Ok(Done { value: (), before, after })
        })
        .await
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

    /// It is this side that closes connections and streams: nobody is lost.
    pub(super) fn is_ending(&self) -> bool {
        *self.ended.borrow()
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
