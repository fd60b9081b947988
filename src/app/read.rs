//! What operators read: snapshots and lists. Never a credential.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Caller, Drain, ReloadFailure, Sidecar,
    events::Latest,
    ports::{Origin, SourceAnswer, SourceStatus, StoreTotals},
    watchers::Place,
    workers::Health,
};
use crate::domain::{
    access::{Action, Identity},
    admission::{TenantState, View},
    provider::TenantConfig,
    reject::{Reason, Rejection},
    session::{Session, WorkerId},
    tenant::TenantId,
    time::Now,
};

/// A tenant with what its config says.
#[derive(Debug, Clone)]
pub struct TenantReport {
    /// Its state.
    pub view: View,
    /// Its config; none when it is unknown and unknown tenants are rejected.
    pub config: Option<Arc<TenantConfig>>,
    /// Names the config that it runs on.
    pub version: String,
}

/// Figures of the whole sidecar.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "watch_service.proto documents each field")]
pub struct Report {
    pub now: Now,
    pub started: Now,
    pub totals: StoreTotals,
    pub pending: u32,
    pub by_tenant: BTreeMap<String, u32>,
    pub by_agent: BTreeMap<String, u32>,
    pub rejections: BTreeMap<&'static str, u64>,
    /// How each worker is, and its live sessions.
    pub workers: BTreeMap<WorkerId, (Health, u32)>,
    pub watchers: u32,
    pub loaded: Now,
    pub reload_failure: Option<ReloadFailure>,
    pub drain: Option<Drain>,
    pub head: u64,
    pub sources: Vec<SourceStatus>,
    /// Each with a state; only where they were asked for.
    pub tenants: Vec<TenantReport>,
    pub resident_bytes: Option<u64>,
    pub latest: Latest,
    pub config: Option<ConfigReport>,
}

/// The config file, as operators of the whole may see it.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "watch_service.proto documents each field")]
pub struct ConfigReport {
    pub path: String,
    pub tenants: usize,
}

impl Report {
    /// Leaves out what would tell of tenants that the caller may not see.
    fn narrow(&mut self) {
        self.totals = StoreTotals::default();
        self.rejections.clear();
        self.workers.clear();
        self.watchers = 0;
        self.resident_bytes = None;
        self.latest = Latest::default();
        self.reload_failure = None;
        self.sources.clear();
        self.config = None;
    }
}

/// A watcher's place among the most watchers, and what it may see; the place is
/// given back when dropped.
pub struct Watching {
    sidecar: Arc<Sidecar>,
    caller: Caller,
    identity: Arc<Identity>,
    _place: Place,
}

/// What a watcher may see, as of when it was last asked.
#[derive(Clone)]
pub struct Sight(Arc<Identity>);

impl Sight {
    /// It may see what concerns this tenant. What concerns none, the sidecar or
    /// workers of several, is for those who may see all.
    #[must_use]
    pub fn sees(&self, tenant: Option<&TenantId>) -> bool {
        match tenant {
            Some(tenant) => self.0.covers(tenant),
            None => self.0.covers_all(),
        }
    }

    /// There is nothing that it may not see.
    #[must_use]
    pub fn sees_all(&self) -> bool {
        self.0.covers_all()
    }
}

impl Watching {
    /// What it may see.
    #[must_use]
    pub fn sight(&self) -> Sight {
        Sight(Arc::clone(&self.identity))
    }

    /// Asks again, after identities may have changed.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub fn look_again(&mut self) -> Result<(), Rejection> {
        self.identity = self.sidecar.permit(&self.caller, Action::Watch, None)?.identity;
        Ok(())
    }
}

impl Sidecar {
    /// Takes a place for one more watcher, of these tenants where some are named.
    ///
    /// # Errors
    /// `NOT_PERMITTED`, `LIMIT_REACHED`.
    pub fn watching(
        self: &Arc<Self>,
        caller: &Caller,
        tenants: &[TenantId],
    ) -> Result<Watching, Rejection> {
        let identity = self.permit(caller, Action::Watch, None)?.identity;
        for tenant in tenants {
            self.permit(caller, Action::Watch, Some(tenant))?;
        }
        let max = self.config().limits.max_watchers;
        let place = self.watchers.enter(max);
        let place = place.ok_or_else(|| Rejection::limit_reached("watchers", max))?;
        let (sidecar, caller) = (Arc::clone(self), caller.clone());
        Ok(Watching { sidecar, caller, identity, _place: place })
    }

    /// Figures of the whole.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub async fn report_all(&self, caller: &Caller, details: bool) -> Result<Report, Rejection> {
        use super::ports::EventSink as _;
        let identity = self.permit(caller, Action::Snapshot, None)?.identity;
        let all = identity.covers_all();
        let config = self.config();
        let now = self.now();
        let mut report = Report {
            now,
            started: self.started,
            totals: self.store.totals().await,
            pending: 0,
            by_tenant: BTreeMap::new(),
            by_agent: BTreeMap::new(),
            rejections: self.rejections.iter().map(|e| (e.key().name(), *e.value())).collect(),
            workers: self
                .workers
                .health()
                .into_iter()
                .map(|(w, health)| (w, (health, 0)))
                .collect(),
            watchers: self.watchers.count(),
            loaded: *self.loaded.lock(),
            reload_failure: self.reload_failure.lock().clone(),
            drain: self.draining(),
            head: self.events.head(),
            sources: self.tenant_configs.status(),
            tenants: Vec::new(),
            resident_bytes: self.process.resident_bytes(),
            latest: self.events.latest(),
            config: Some(ConfigReport {
                path: config.path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
                tenants: config.tenants.len(),
            }),
        };
        if !all {
            report.narrow();
        }
        for tenant in self.tenants_in_memory().await {
            if !identity.covers(&tenant) {
                continue;
            }
            let Some(snapshot) = self.store.snapshot(&tenant, now).await else { continue };
            if !all {
                report.totals.tenants += 1;
                report.totals.started += snapshot.view.totals.started;
                report.totals.failures += snapshot.view.totals.failures;
            }
            report.pending += snapshot.view.pending;
            if snapshot.view.live > 0 {
                report.by_tenant.insert(tenant.to_string(), snapshot.view.live);
            }
            for session in snapshot.sessions {
                let agent = session.agent.map(|agent| agent.to_string()).unwrap_or_default();
                *report.by_agent.entry(agent).or_default() += 1;
                if let Some((_, live)) =
                    session.worker.and_then(|worker| report.workers.get_mut(&worker))
                {
                    *live += 1;
                }
            }
            if details {
                let config = self.known_config(&tenant);
                let (view, version) = (snapshot.view, snapshot.version);
                report.tenants.push(self.reported(view, config, version));
            }
        }
        // The parts are read one by one; the whole must not contradict them.
        report.totals.live = report.by_tenant.values().sum();
        Ok(report)
    }

    /// How each source of tenants' entries does.
    #[must_use]
    pub fn source_status(&self) -> Vec<SourceStatus> {
        self.tenant_configs.status()
    }

    /// Live sessions, of one tenant where it is named, ordered by id.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub async fn sessions(
        &self,
        caller: &Caller,
        of: Option<&TenantId>,
    ) -> Result<Vec<Session>, Rejection> {
        let identity = self.permit(caller, Action::ListSessions, of)?.identity;
        let now = self.now();
        let mut all = Vec::new();
        for tenant in self.store.tenants().await {
            if identity.covers(&tenant)
                && of.is_none_or(|of| *of == tenant)
                && let Some(snapshot) = self.store.snapshot(&tenant, now).await
            {
                all.extend(snapshot.sessions);
            }
        }
        all.sort_unstable_by(|a, b| a.id.cmp(&b.id));
        Ok(all)
    }

    /// Tenants that are configured or have state, ordered by id.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub async fn tenants(&self, caller: &Caller) -> Result<Vec<TenantId>, Rejection> {
        let identity = self.permit(caller, Action::ListTenants, None)?.identity;
        let mut all = self.store.tenants().await;
        all.extend(self.config().tenants.keys().cloned());
        all.retain(|tenant| identity.covers(tenant));
        all.sort_unstable();
        all.dedup();
        Ok(all)
    }

    /// One tenant.
    ///
    /// # Errors
    /// `NOT_PERMITTED`; `TENANT_UNKNOWN` when it is neither configured nor has
    /// state.
    pub async fn tenant(
        &self,
        caller: &Caller,
        tenant: &TenantId,
    ) -> Result<TenantReport, Rejection> {
        self.permit(caller, Action::GetTenant, Some(tenant))?;
        self.show(tenant).await
    }

    /// With what holds for all tenants where its own config says nothing.
    fn reported(
        &self,
        mut view: View,
        config: Option<Arc<TenantConfig>>,
        version: String,
    ) -> TenantReport {
        let of_all = self.config().limits.acquires_per_second;
        view.max_acquires_per_second = view.max_acquires_per_second.or(of_all);
        TenantReport { view, config, version }
    }

    /// As [`Self::tenant`], for one who was let in.
    pub(super) async fn show(&self, tenant: &TenantId) -> Result<TenantReport, Rejection> {
        let now = self.now();
        if let Some(snapshot) = self.store.snapshot(tenant, now).await {
            let config = self.known_config(tenant);
            return Ok(self.reported(snapshot.view, config, snapshot.version));
        }
        // One without state may never have been asked about.
        let found = self
            .tenant_configs
            .find(tenant)
            .await
            .map_err(|message| Rejection::new(Reason::ConfigUnavailable, message).of(tenant))?;
        match found.config.filter(|config| config.known || tenant.as_str() == "default") {
            Some(config) => {
                let view =
                    TenantState::new(tenant.clone(), Arc::clone(&config.limits), now).view(now);
                let version = self.known_terms(tenant).told();
                Ok(self.reported(view, Some(config), version))
            }
            None => Err(Rejection::new(
                Reason::TenantUnknown,
                format!("tenant {tenant} has no config entry and no sessions"),
            )
            .of(tenant)),
        }
    }

    /// Who gave each value of a tenant's config, and what each source said.
    ///
    /// # Errors
    /// `NOT_PERMITTED`.
    pub async fn explain(
        &self,
        caller: &Caller,
        tenant: &TenantId,
    ) -> Result<(Vec<Origin>, Vec<SourceAnswer>), Rejection> {
        self.permit(caller, Action::GetTenant, Some(tenant))?;
        Ok(self.tenant_configs.explain(tenant).await)
    }

    /// One tenant with its sessions, at one place of the log; for watchers.
    pub async fn tenant_snapshot(
        &self,
        tenant: &TenantId,
    ) -> Option<(TenantReport, Vec<Session>, u64)> {
        let snapshot = self.store.snapshot(tenant, self.now()).await?;
        let config = self.known_config(tenant);
        let report = self.reported(snapshot.view, config, snapshot.version);
        Some((report, snapshot.sessions, snapshot.as_of))
    }

    /// Tenants that have state; for watchers.
    pub async fn tenants_in_memory(&self) -> Vec<TenantId> {
        let mut all = self.store.tenants().await;
        all.sort_unstable();
        all
    }
}
