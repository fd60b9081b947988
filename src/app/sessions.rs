//! What agents ask for: slots, signs of life, ends, config.

use std::time::Duration;

use tracing::Instrument as _;

use super::{
    Caller, Sidecar, permit,
    ports::{EventSink as _, Publish, SharedCaps},
};
use crate::{
    config::Config,
    domain::{
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
}

/// A step of an acquire, as a span of its own.
fn child(step: &'static str, tenant: &tenant::TenantId) -> tracing::Span {
    tracing::info_span!(target: "tenantd::rpc", "step", otel.name = step, tenant = tenant.as_str())
}

impl Sidecar {
    /// Takes a slot: malformed, not permitted, then the tenant's own order.
    ///
    /// # Errors
    /// Why not; each refusal is an event and a count.
    pub async fn acquire(
        &self,
        caller: &Caller,
        call: AcquireCall,
    ) -> Result<(Grant, ResolvedConfig), Rejection> {
        let now = self.now();
        let granted = self.try_acquire(caller, &call, now).await;
        let (tenant, reason) = match &granted {
            Ok((grant, _)) => (Some(&grant.session.tenant), None),
            Err((refused, _)) => (refused.tenant.as_ref(), Some(refused.reason)),
        };
        let known = tenant.is_some_and(|tenant| self.is_configured(tenant));
        self.meter.decided(tenant, known, reason.is_none(), self.now().mono.since(now.mono));
        let span = tracing::Span::current();
        if let Some(tenant) = tenant {
            span.record("tenant", tenant.as_str());
        }
        span.record("reason", reason.map(crate::domain::reject::Reason::name));
        span.record(
            "session_id",
            granted.as_ref().ok().map(|(grant, _)| grant.session.id.as_str()),
        );
        span.record("agent_name", (!call.agent_name.is_empty()).then_some(&*call.agent_name));
        if let Err((refused, told)) = &granted {
            *self.rejections.entry(refused.reason).or_default() += 1;
            if !told {
                let subject = Subject { tenant: refused.tenant.clone(), ..Subject::default() };
                let kind = Kind::SessionRejected(Box::new(refused.clone()));
                self.events.append(vec![Event::new(now, subject, kind)]);
            }
        }
        granted.map_err(|(refused, _)| refused)
    }

    /// The flag beside a refusal: its event is told already, by the store.
    async fn try_acquire(
        &self,
        caller: &Caller,
        call: &AcquireCall,
        now: Now,
    ) -> Result<(Grant, ResolvedConfig), (Rejection, bool)> {
        let config = self.config();
        let untold = |refused| (refused, false);
        let request = self.parse(call, &config).map_err(untold)?;
        let tenant =
            tenant::bind(&call.job_metadata, &call.room_metadata, &call.tenant).map_err(untold)?;
        permit(caller).map_err(|refused| untold(refused.of(&tenant)))?;
        if let Some(worker) = &request.worker {
            self.greet(worker, caller, now).await.map_err(|refused| untold(refused.of(&tenant)))?;
        }
        let super::tenant_config::Resolved { terms, config: resolved } =
            self.resolve(&tenant, now, call.patience).instrument(child("resolve", &tenant)).await;
        let caps = SharedCaps {
            agent: request.agent.as_ref().and_then(|agent| config.agents.get(agent).copied()),
            machine: config.limits.max_sessions,
            unknown_tenants: config.limits.max_tenants,
        };
        let request = Acquire {
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
                Reason::SessionConflict | Reason::SessionEnded | Reason::LimitReached
            );
            (refused.of(&tenant), told)
        })?;
        if let Some(worker) = worker.filter(|worker| !self.workers.is_there(worker)) {
            // Its connection broke while the slot was being taken.
            self.store.detach(&worker, now).await;
        }
        match resolved {
            Ok(resolved) => Ok((grant, resolved)),
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
            agent: AgentName::parse_optional(&call.agent_name)?,
            worker: WorkerId::parse_optional(&call.worker)?,
            ttl: call.ttl,
            activate: call.activate,
            draining: false,
            config_failed: None,
            config_version: String::new(),
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
    ) -> Result<Session, Rejection> {
        permit(caller)?;
        let now = self.now();
        if let Some(worker) = worker {
            self.greet(worker, caller, now).await?;
        }
        let renewal = Renewal { worker: worker.cloned(), ttl, held: false };
        self.store.renew(id, renewal, now).await
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
    ) -> Result<Outcome, Rejection> {
        permit(caller)?;
        self.store.release(id, outcome, failure, self.now()).await
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
    ) -> Result<(Session, bool), Rejection> {
        permit(caller)?;
        self.store.report(id, failure, end, self.now()).await
    }

    /// The current config of a live session.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `TENANT_UNKNOWN`, `CONFIG_UNAVAILABLE`.
    pub async fn session_config(
        &self,
        caller: &Caller,
        id: &SessionId,
        patience: Option<Duration>,
    ) -> Result<ResolvedConfig, Rejection> {
        permit(caller)?;
        let session = self.store.session(id).await?;
        let resolved = self.resolve(&session.tenant, self.now(), patience).await;
        resolved.config.map_err(|refused| refused.of(&session.tenant))
    }

    /// Logs an agent's event, bound to its session's tenant.
    ///
    /// # Errors
    /// `SESSION_UNKNOWN`, `SESSION_ENDED`, `LIMIT_REACHED`.
    pub async fn publish(&self, caller: &Caller, mut event: Publish) -> Result<(), Rejection> {
        permit(caller)?;
        event.per_second = self.config().limits.agent_events_per_second;
        self.store.publish(event, self.now()).await
    }
}
