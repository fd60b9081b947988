//! Operators' actions and config changes on their way to the audit log. An action is
//! written down before it is done, and again with what came of it; what happens
//! without anybody asking is written down after it happened.

use std::{collections::HashMap, sync::Arc, time::Duration};

use serde_json::{Map, Value, json};

use super::{Caller, Sidecar, guard::Permit, ports::EventSink as _, trace};
use crate::domain::{
    access::{Action, Scope},
    admission::View,
    audit::{Outcome, Record, SIDECAR, action},
    breaker,
    event::{Event, Kind},
    reject::{Reason, Rejection},
    tenant::TenantId,
};

/// Refusals recorded each minute; the rest are counted, and the count is recorded: who
/// may not call must not fill the disk.
pub const REFUSALS_PER_MINUTE: u32 = 600;
/// Most tenants whose config is remembered, to say what changed.
const MAX_REMEMBERED: usize = 10_000;
/// How often records that wait for a full disk are tried again.
const TRY_EVERY: Duration = Duration::from_secs(5);
const MINUTE: Duration = Duration::from_secs(60);

/// Refusals of this minute.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    since: Duration,
    noted: u32,
    left_out: u64,
}

/// What an action did.
pub(super) struct Done<T> {
    pub value: T,
    pub before: Value,
    pub after: Value,
}

/// What an operator can change about a tenant.
pub(super) fn standing(view: &View) -> Value {
    let breaker = match view.breaker.state {
        _ if !view.breaker.enabled => "off",
        breaker::State::Closed => "closed",
        breaker::State::Open { .. } => "open",
        breaker::State::HalfOpen { .. } => "half_open",
    };
    json!({
        "cap": view.cap,
        "cap_overridden": view.cap_overridden,
        "suspended": view.suspension.is_some(),
        "breaker": breaker,
    })
}

/// What differs, as it was and as it is.
#[must_use]
pub fn differing(
    before: impl IntoIterator<Item = (String, String)>,
    after: impl IntoIterator<Item = (String, String)>,
) -> (Value, Value) {
    let before: Map<_, _> = before.into_iter().map(|(key, of)| (key, of.into())).collect();
    let after: Map<_, _> = after.into_iter().map(|(key, of)| (key, of.into())).collect();
    let only = |of: &Map<String, Value>, other: &Map<String, Value>| {
        let changed = of.iter().filter(|(key, value)| other.get(*key) != Some(value));
        Value::Object(changed.map(|(key, value)| (key.clone(), value.clone())).collect())
    };
    (only(&before, &after), only(&after, &before))
}

impl Sidecar {
    /// A record of now, by that caller.
    pub(super) fn record(&self, actor: &str, action: &'static str) -> Record {
        let mut record = Record::new(self.now().wall, actor, action);
        record.trace = trace::current();
        record
    }

    /// As [`Self::record`], by a caller.
    pub(super) fn record_by(&self, caller: &Caller, action: &'static str) -> Record {
        self.record(&self.actor(caller).name, action)
    }

    /// Does what an operator asked for, recorded before and after. Goes on when the
    /// operator's call is gone: what was begun is not left without its end.
    pub(super) async fn audited<T, F>(
        self: &Arc<Self>,
        caller: &Caller,
        what: Action,
        record: Record,
        work: impl FnOnce(Arc<Self>, Permit) -> F + Send + 'static,
    ) -> Result<T, Rejection>
    where
        T: Send + 'static,
        F: Future<Output = Result<Done<T>, Rejection>> + Send + 'static,
    {
        // A session's tenant is not the caller's to know.
        let tenant = record.tenant.as_ref().filter(|_| what.rule().scope == Scope::Tenant);
        let who = match self.permit(caller, what, tenant) {
            Ok(who) => who,
            Err(refused) => {
                self.note_refusal(record.refused(&refused)).await;
                return Err(refused);
            }
        };
        let sidecar = Arc::clone(self);
        let doing = async move {
            let begun = match sidecar.audit.write(record.begins()).await {
                Ok(begun) => begun,
                Err(error) => {
                    let message =
                        format!("nothing was done, since the audit log takes no record: {error}");
                    let refused = Rejection::new(Reason::AuditUnavailable, message);
                    // Told when the disk takes it: a record that it was begun may have been
                    // under way.
                    sidecar.defer_refusal(record.refused(&refused));
                    return Err(refused);
                }
            };
            let mut record = record;
            record.begun = Some(begun).filter(|_| sidecar.audit.status().is_on);
            let done = work(Arc::clone(&sidecar), who).await;
            record.at = sidecar.now().wall;
            match done {
                Ok(Done { value, before, after }) => {
                    sidecar.audit.note(vec![record.change(before, after)]).await;
                    Ok(value)
                }
                Err(refused) => {
                    sidecar.audit.note(vec![record.refused(&refused)]).await;
                    Err(refused)
                }
            }
        };
        self.actions.spawn(trace::scoped(trace::current(), doing)).await.unwrap_or_else(|_| {
            Err(Rejection::new(Reason::Undecided, "the call failed; the log says how"))
        })
    }

    /// Records an admin call that was refused before anything was looked at: by its
    /// form, or because its caller may not call.
    pub async fn refuse(
        &self,
        caller: &Caller,
        action: &'static str,
        tenant: Option<&TenantId>,
        refused: &Rejection,
    ) {
        let mut record = self.record_by(caller, action).refused(refused);
        record.tenant = tenant.cloned().or(record.tenant);
        self.note_refusal(record).await;
    }

    async fn note_refusal(&self, record: Record) {
        if self.may_note_refusal() {
            self.audit.note(vec![record]).await;
        }
    }

    fn defer_refusal(&self, record: Record) {
        if self.may_note_refusal() {
            self.audit.defer(record);
        }
    }

    fn may_note_refusal(&self) -> bool {
        let mut of = self.refusals.lock();
        let now = self.now().mono.since_origin();
        if now.saturating_sub(of.since) >= MINUTE {
            (of.since, of.noted) = (now, 0);
        }
        of.noted = of.noted.saturating_add(1);
        let may = of.noted <= REFUSALS_PER_MINUTE;
        of.left_out += u64::from(!may);
        may
    }

    /// Waits until all that operators began is done and recorded.
    pub async fn end_actions(&self) {
        self.actions.close();
        self.actions.wait().await;
    }

    /// Records what happened without anybody asking.
    pub async fn note(&self, action: &'static str, before: Value, after: Value) {
        self.audit.note(vec![self.record(SIDECAR, action).change(before, after)]).await;
    }

    /// As [`Self::note`], for whoever must not wait for a disk.
    pub fn note_soon(self: &Arc<Self>, action: &'static str, before: Value, after: Value) {
        let sidecar = Arc::clone(self);
        self.actions.spawn(async move { sidecar.note(action, before, after).await });
    }

    /// How the audit log does.
    #[must_use]
    pub fn audit_status(&self) -> super::ports::AuditStatus {
        self.audit.status()
    }

    /// Records changes of tenants' configs that nobody here asked for: by a source, or
    /// a credential that became another one. Made from the event log, so that no
    /// change can forget it. Runs as long as the sidecar.
    pub async fn record_changes(self: Arc<Self>) {
        let mut head = self.events.subscribe();
        let mut place = self.events.head();
        let mut remembered = HashMap::new();
        let mut tick = tokio::time::interval(TRY_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            match self.events.after(place) {
                Ok(entries) if entries.is_empty() => {
                    tokio::select! {
                        changed = head.changed() => if changed.is_err() { return },
                        _ = tick.tick() => self.try_again().await,
                    }
                }
                Ok(entries) => {
                    let mut records = Vec::new();
                    let taken = entries.len();
                    for entry in entries {
                        place = entry.sequence;
                        records.extend(self.change_of(&entry.event, &mut remembered));
                    }
                    if !records.is_empty() {
                        self.audit.note(records).await;
                    }
                    self.events.pace(taken).await;
                }
                Err(gap) => {
                    let missed = json!({ "events_from": gap.from, "events_to": gap.to });
                    self.note(action::LEFT_OUT, Value::Null, missed).await;
                    place = gap.to;
                }
            }
        }
    }

    async fn try_again(&self) {
        let left_out = std::mem::take(&mut self.refusals.lock().left_out);
        if left_out > 0 {
            self.note(action::LEFT_OUT, Value::Null, json!({ "refusals": left_out })).await;
        } else if self.audit.status().waiting > 0 {
            self.audit.note(Vec::new()).await;
        }
    }

    /// A denied call of an agent or a viewer; an operator's is recorded where it is
    /// refused, with what it asked for.
    fn denied(&self, event: &Event, rpc: &str, message: &str) -> Option<Record> {
        if rpc.starts_with("AdminService/") || !self.may_note_refusal() {
            return None;
        }
        let actor = event.actor.as_ref().map_or("?", |actor| &actor.name);
        let mut record = Record::new(event.at.wall, actor, action::DENIED);
        record.tenant.clone_from(&event.subject.tenant);
        record.outcome =
            Outcome::Refused { reason: Reason::NotPermitted, message: message.to_owned() };
        Some(record.asking(json!({ "rpc": rpc })))
    }

    fn change_of(
        &self,
        event: &Event,
        remembered: &mut HashMap<TenantId, Vec<(String, String)>>,
    ) -> Option<Record> {
        if let Kind::CallDenied { rpc, message } = &event.kind {
            return self.denied(event, rpc, message);
        }
        let tenant = event.subject.tenant.as_ref()?;
        match &event.kind {
            Kind::SessionAcquired { .. }
                if remembered.len() < MAX_REMEMBERED && !remembered.contains_key(tenant) =>
            {
                let config = self.known_config(tenant).filter(|config| config.known)?;
                remembered.insert(tenant.clone(), config.values());
                None
            }
            Kind::ConfigChanged { version } => {
                let values = self.known_config(tenant).map(|config| config.values());
                let was = remembered.get(tenant).cloned();
                if let Some(values) = &values
                    && (was.is_some() || remembered.len() < MAX_REMEMBERED)
                {
                    remembered.insert(tenant.clone(), values.clone());
                }
                let is_same = was.is_some() && was == values;
                // What the file changed is told by its reload.
                if !is_same && self.started_with.sources.is_empty() {
                    return None;
                }
                let action =
                    if is_same { action::TENANT_CREDENTIALS } else { action::TENANT_CONFIG };
                let (before, mut after) = match (was, values) {
                    (Some(was), Some(is)) => differing(was, is),
                    _ => (Value::Null, json!({})),
                };
                if let Value::Object(after) = &mut after {
                    after.insert("config_version".to_owned(), version.as_str().into());
                }
                let record = Record::new(event.at.wall, SIDECAR, action).of_tenant(tenant);
                Some(record.change(before, after))
            }
            _ => None,
        }
    }
}
