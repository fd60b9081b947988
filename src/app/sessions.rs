//! What agents ask for: slots, signs of life, ends, config.

use std::{pin::pin, sync::Arc, time::Duration};

use futures_util::future::poll_immediate;
use tracing::Instrument as _;

use super::{
    Caller, Sidecar,
    guard::Permit,
    ports::{EventSink as _, Publish, SharedCaps},
};
use crate::{
    config::Config,
    domain::{
        access::{Action, Owner},
        admission::{Acquire, Grant},
        event::{Event, Kind, Subject},
        provider::ResolvedConfig,
        reject::{Reason, Rejection},
        session::{AgentName, Failure, Outcome, Renewal, Session, SessionId, WorkerId},
        tenant,
        time::Now,
    },
};

/// An acquire as it came over the wire.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "session_service.proto documents each field")]
pub struct AcquireCall {
    pub session_id: String,
    pub job_metadata: String,
    pub room_metadata: String,
    pub tenant: String,
    pub agent_name: String,
    pub worker: String,
    pub ttl: Option<Duration>,
    pub activate: bool,
    pub patience: Option<Duration>,
    pub lease_token: LeaseToken,
}

/// A granted slot with what goes to its holder alone.
#[derive(Debug)]
pub struct Acquired {
    /// The slot.
    pub grant: Grant,
    /// The tenant's config, credentials in clear.
    pub config: Arc<ResolvedConfig>,
    /// What to show in later calls; empty where the identity is enough.
    pub lease_token: LeaseToken,
}

/// A lease token in clear: not printed.
#[derive(Clone, Default)]
pub struct LeaseToken(pub String);

impl std::fmt::Debug for LeaseToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LeaseToken([redacted])")
    }
}

/// A step of an acquire, as a span of its own.
fn child(step: &'static str, tenant: &tenant::TenantId) -> tracing::Span {
    tracing::info_span!(target: "tenantd::rpc", "step", otel.name = step, tenant = tenant.as_str())
}

/// Shortest and longest lease token that a client may choose.
const LEASE_TOKEN: std::ops::RangeInclusive<usize> = 16..=256;

/// The client's own, so that a retry shows the same; else a new one. None where
/// the identity is enough.
fn lease_token(who: &Permit, chosen: &LeaseToken) -> Result<LeaseToken, Rejection> {
    if !who.identity.shared {
        return Ok(LeaseToken::default());
    }
    if chosen.0.is_empty() {
        return Ok(LeaseToken(uuid::Uuid::new_v4().simple().to_string()));
    }
    let (min, max) = (LEASE_TOKEN.start(), LEASE_TOKEN.end());
    if LEASE_TOKEN.contains(&chosen.0.len()) && chosen.0.bytes().all(|b| b.is_ascii_graphic()) {
        Ok(chosen.clone())
    } else {
        let problem = format!("must be {min} to {max} printable ASCII characters without spaces");
        Err(Rejection::field("lease_token", problem))
    }
}

impl Sidecar {
    /// Takes a slot: malformed, not permitted, then the tenant's own order.
    ///
    /// # Errors
    /// Why not; each refusal is an event and a count.
    pub async fn acquire(&self, caller: &Caller, call: AcquireCall) -> Result<Acquired, Rejection> {
        let now = self.now();
        let granted = self.try_acquire(caller, &call, now).await;
        let (tenant, reason) = match &granted {
            Ok(got) => (Some(&got.grant.session.tenant), None),
            Err((refused, _)) => (refused.tenant.as_ref(), Some(refused.reason)),
        };
        let known = tenant.is_some_and(|tenant| self.is_configured(tenant));
        self.meter.decided(tenant, known, reason.is_none(), self.now().mono.since(now.mono));
        let span = tracing::Span::current();
        if let Some(tenant) = tenant {
            span.record("tenant", tenant.as_str());
        }
        span.record("reason", reason.map(crate::domain::reject::Reason::name));
        // What was refused is named too, where it is a name: raw input goes nowhere.
        if !span.is_disabled() {
            let asked = SessionId::parse(&call.session_id).ok();
            let id = granted.as_ref().ok().map(|got| &got.grant.session.id).or(asked.as_ref());
            span.record("session_id", id.map(SessionId::as_str));
            let agent = AgentName::parse(&call.agent_name).ok();
            span.record("agent_name", agent.as_ref().map(AgentName::as_str));
        }
        if let Err((refused, told)) = &granted {
            *self.rejections.entry(refused.reason).or_default() += 1;
            let denied = refused.reason == Reason::NotPermitted;
            let may_tell = match refused.reason {
                Reason::NotPermitted => self.may_tell_denied(now),
                Reason::Overloaded => self.waiting.may_tell(now),
                _ => true,
            };
            if !told && may_tell {
                let subject = Subject { tenant: refused.tenant.clone(), ..Subject::default() };
                let kind = Kind::SessionRejected(Box::new(refused.clone()));
                let actor = denied.then(|| self.actor(caller));
                self.events.append(vec![Event::new(now, subject, kind).by(actor.as_ref())]);
            }
        }
        if let Err((refused, _)) = &granted
            && refused.pause_millis > 0
        {
            let pause = Duration::from_millis(refused.pause_millis.into());
            // Its caller must still be there to hear it.
            let most = call.patience.map_or(pause, |patience| patience / 2);
            tokio::time::sleep(pause.min(most)).await;
        }
        granted.map_err(|(refused, _)| refused)
    }

    /// The flag beside a refusal: its event is told already, by the store.
    async fn try_acquire(
        &self,
        caller: &Caller,
        call: &AcquireCall,
        now: Now,
    ) -> Result<Acquired, (Rejection, bool)> {
        let config = self.config();
        let untold = |refused| (refused, false);
        let request = self.parse(call, &config).map_err(untold)?;
        let tenant =
            tenant::bind(&call.job_metadata, &call.room_metadata, &call.tenant).map_err(untold)?;
        let who = self.allows(caller, Action::Acquire, Some(&tenant)).map_err(|refused| {
            self.count_denied();
            untold(refused.of(&tenant))
        })?;
        let lease_token = lease_token(&who, &call.lease_token).map_err(untold)?;
        if let Some(worker) = &request.worker {
            self.greet(worker, caller, &who, now)
                .await
                .map_err(|refused| untold(refused.of(&tenant)))?;
        }
        let super::tenant_config::Resolved { terms, config: resolved } = {
            let resolving = self.resolve(&tenant, now, call.patience);
            let mut resolving = pin!(resolving.instrument(child("resolve", &tenant)));
            // What is known is there at once; only who waits needs a place for it.
            match poll_immediate(resolving.as_mut()).await {
                Some(resolved) => resolved,
                None => {
                    let limits = &config.limits;
                    let most = (limits.acquires_waiting, limits.tenant_acquires_waiting);
                    let _place = self.waiting.enter(&tenant, most).map_err(untold)?;
                    resolving.await
                }
            }
        };
        let caps = SharedCaps {
            agent: request.agent.as_ref().and_then(|agent| config.agents.get(agent).copied()),
            machine: config.limits.max_sessions,
            unknown_tenants: config.limits.max_tenants,
        };
        let owner = who.owner(&lease_token.0);
        let request = Acquire {
            owner: owner.clone(),
            per_second: config.limits.acquires_per_second,
            draining: self.draining().is_some(),
            config_failed: resolved.as_ref().err().cloned(),
            config_version: resolved.as_ref().map(|r| r.version.clone()).unwrap_or_default(),
            ..request
        };
        let worker = request.worker.clone();
        // Read again: resolving may have taken seconds.
        let now = self.now();
        let decided = self
            .store
            .acquire(&tenant, &terms, request, caps, now)
            .instrument(child("admit", &tenant))
            .await;
        let grant = decided.map_err(|refused| {
            // Refused before the tenant's own step, which tells its own.
            let told = !matches!(
                refused.reason,
                Reason::SessionConflict
                    | Reason::SessionEnded
                    | Reason::LimitReached
                    | Reason::Undecided
            );
            (refused.of(&tenant), told)
        })?;
        if let Some(worker) = worker.filter(|worker| !self.workers.is_there(worker)) {
            // Its connection broke while the slot was being taken.
            self.store.detach(&worker, &owner, now).await;
        }
        match resolved {
            Ok(config) => Ok(Acquired { grant, config, lease_token }),
            // A live session asked again while its config is broken: the lease
            // stands, the config cannot be given.
            Err(refused) => Err((refused.of(&tenant), false)),
        }
    }

    fn parse(&self, call: &AcquireCall, config: &Config) -> Result<Acquire, Rejection> {
        let max = config.limits.metadata_bytes;
        for (field, text) in
            [("job_metadata", &call.job_metadata), ("room_metadata", &call.room_metadata)]
        {
            if text.len() > max {
                let got = text.len();
                return Err(Rejection::field(
                    field,
                    format_args!("must be at most {max} bytes, got {got}"),
                ));
            }
        }
        let session = if call.session_id.is_empty() {
            SessionId::parse(&uuid::Uuid::now_v7().to_string())?
        } else {
            SessionId::parse(&call.session_id)?
        };
        Ok(Acquire {
            session,
            owner: Owner::default(),
            agent: AgentName::parse_optional(&call.agent_name)?,
            worker: WorkerId::parse_optional(&call.worker)?,
            ttl: call.ttl,
            activate: call.activate,
            draining: false,
            config_failed: None,
            config_version: String::new(),
            per_second: None,
        })
    }

    /// A sign of life.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `INVALID_FIELD`.
    pub async fn renew(
        &self,
        caller: &Caller,
        id: &SessionId,
        worker: Option<&WorkerId>,
        ttl: Option<Duration>,
        lease: &str,
    ) -> Result<Session, Rejection> {
        let who = self.permit(caller, Action::Renew, None)?;
        let now = self.now();
        if let Some(worker) = worker {
            self.greet(worker, caller, &who, now).await?;
        }
        let renewal = Renewal { worker: worker.cloned(), ttl, held: false };
        let renewed = self.store.renew(id, &who.claim(lease), renewal, now).await;
        self.of_session(caller, Action::Renew, renewed)
    }

    /// Ends a session for its client.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn release(
        &self,
        caller: &Caller,
        id: &SessionId,
        outcome: Outcome,
        failure: Option<Failure>,
        lease: &str,
    ) -> Result<Outcome, Rejection> {
        let claim = self.permit(caller, Action::Release, None)?.claim(lease);
        let booked = self.store.release(id, &claim, outcome, failure, self.now()).await;
        self.of_session(caller, Action::Release, booked)
    }

    /// Marks a session as failed.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`.
    pub async fn report(
        &self,
        caller: &Caller,
        id: &SessionId,
        failure: Failure,
        end: bool,
        lease: &str,
    ) -> Result<(Session, bool), Rejection> {
        let claim = self.permit(caller, Action::Report, None)?.claim(lease);
        let reported = self.store.report(id, &claim, failure, end, self.now()).await;
        self.of_session(caller, Action::Report, reported)
    }

    /// The current config of a live session.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `TENANT_UNKNOWN`, `CONFIG_UNAVAILABLE`.
    pub async fn session_config(
        &self,
        caller: &Caller,
        id: &SessionId,
        lease: &str,
        patience: Option<Duration>,
    ) -> Result<Arc<ResolvedConfig>, Rejection> {
        let claim = self.permit(caller, Action::SessionConfig, None)?.claim(lease);
        let session = self.store.session(id, &claim).await;
        let session = self.of_session(caller, Action::SessionConfig, session)?;
        let resolved = self.resolve(&session.tenant, self.now(), patience).await;
        resolved.config.map_err(|refused| refused.of(&session.tenant))
    }

    /// Logs an agent's event, bound to its session's tenant.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `LIMIT_REACHED`.
    pub async fn publish(
        &self,
        caller: &Caller,
        event: Publish,
        lease: &str,
    ) -> Result<(), Rejection> {
        let claim = self.permit(caller, Action::Publish, None)?.claim(lease);
        let per_second = self.config().limits.agent_events_per_second;
        let published = self.store.publish(event, &claim, per_second, self.now()).await;
        self.of_session(caller, Action::Publish, published)
    }
}
