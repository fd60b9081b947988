//! A tenant's config on its way to its sessions: found, resolved, and brought to
//! the tenant's state when it changes.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    Sidecar,
    ports::{Changed, EventSink as _, Found},
};
use crate::domain::{
    event::{Event, Kind, Subject},
    limits::Terms,
    provider::{ResolvedConfig, TenantConfig},
    reject::{Reason, Rejection},
    tenant::TenantId,
    time::Now,
};

/// Most tenants of which it is remembered that their config fails, or that they
/// run on the defaults. Beyond it an unconfigured one is not told of.
const MAX_TOLD: usize = 10_000;
/// Most tenants brought to a changed config at once: one whose source is slow
/// must not hold the others up.
const AT_ONCE: usize = 64;
/// How often tenants with live sessions are looked after. Bounds how late a
/// change that no source tells reaches them.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What an acquire is decided on.
pub(super) struct Resolved {
    pub terms: Terms,
    pub config: Result<Arc<ResolvedConfig>, Rejection>,
}

/// The terms of what was found.
fn terms(found: &Found, credentials: Option<u64>) -> Terms {
    // One that is not served has the built-in limits, for the sessions that it
    // still has.
    found.config.as_ref().map_or_else(
        || Terms { generation: found.generation, credentials: Some(0), ..Terms::default() },
        |config| Terms {
            known: config.known,
            limits: Arc::clone(&config.limits),
            version: config.version.clone(),
            generation: found.generation,
            credentials,
        },
    )
}

impl Sidecar {
    /// Finds and resolves a tenant's config; tells what fails, once. `patience` is how
    /// long the caller waits, where that is known: it gets a refusal with its reason
    /// before it gives up, and the question goes on for the next one.
    pub(super) async fn resolve(
        &self,
        tenant: &TenantId,
        now: Now,
        patience: Option<Duration>,
    ) -> Resolved {
        let Some(patience) = patience else { return self.ask(tenant, now).await };
        if let Ok(resolved) = tokio::time::timeout(patience, self.ask(tenant, now)).await {
            return resolved;
        }
        let patience = humantime::format_duration(patience);
        let message = format!("there was no answer within {patience}, as long as the caller waits");
        let terms = self.known_terms(tenant);
        self.note_config(tenant, terms.known, Some((&message, false)), now);
        Resolved { terms, config: Err(unavailable(tenant, &message)) }
    }

    async fn ask(&self, tenant: &TenantId, now: Now) -> Resolved {
        let found = match self.tenant_configs.find(tenant).await {
            Ok(found) => found,
            Err(message) => {
                let terms = self.known_terms(tenant);
                self.note_config(tenant, terms.known, Some((&message, false)), now);
                return Resolved { terms, config: Err(unavailable(tenant, &message)) };
            }
        };
        let Some(config) = found.config.clone() else {
            self.config_failing.remove(tenant);
            let message =
                format!("tenant {tenant} has no config entry and unknown tenants are rejected");
            let refused = Rejection::new(Reason::TenantUnknown, message);
            return Resolved { terms: terms(&found, None), config: Err(refused) };
        };
        let known = config.known;
        if !known && self.warned.len() < MAX_TOLD && self.warned.insert(tenant.clone()) {
            tracing::warn!(%tenant, "tenant has no config entry and runs on the defaults");
        }
        let max_bytes = self.config().limits.credential_bytes;
        match self.credentials.resolve(config, max_bytes).await {
            Ok(resolved) => {
                let terms = terms(&found, Some(resolved.credentials));
                let resolved = match found.stale {
                    Some(why) => Arc::new(resolved.stale(why)),
                    None => resolved,
                };
                let stale = resolved.stale.as_ref().map(|why| (why.as_str(), true));
                self.note_config(tenant, known, stale, now);
                Resolved { terms, config: Ok(resolved) }
            }
            Err(message) => {
                self.note_config(tenant, known, Some((&message, false)), now);
                Resolved { terms: terms(&found, None), config: Err(unavailable(tenant, &message)) }
            }
        }
    }

    /// What is known of a tenant without asking anybody. Of one that nobody was
    /// asked about yet: the built-in terms, that any others are later than.
    pub(super) fn known_terms(&self, tenant: &TenantId) -> Terms {
        self.tenant_configs
            .peek(tenant)
            .map(|found| {
                let credentials =
                    found.config.as_ref().and_then(|config| self.credentials.peek(config));
                terms(&found, credentials)
            })
            .unwrap_or_default()
    }

    /// The tenant has an entry of its own, as far as is known without asking.
    #[must_use]
    pub fn is_configured(&self, tenant: &TenantId) -> bool {
        self.known_config(tenant).is_some_and(|config| config.known)
    }

    /// What is known of a tenant's config without asking anybody.
    pub(super) fn known_config(&self, tenant: &TenantId) -> Option<Arc<TenantConfig>> {
        self.tenant_configs.peek(tenant).and_then(|found| found.config)
    }

    /// The change is the event, not each try. `failing`: why, and whether what
    /// was known before is served.
    fn note_config(&self, tenant: &TenantId, known: bool, failing: Option<(&str, bool)>, now: Now) {
        let kind = match failing {
            None => match self.config_failing.remove(tenant) {
                Some(_) => Kind::ConfigRecovered,
                None => return,
            },
            Some((message, stale)) => {
                if !known && self.config_failing.len() >= MAX_TOLD {
                    return;
                }
                if self.config_failing.insert(tenant.clone(), stale) == Some(stale) {
                    return;
                }
                Kind::ConfigFailed { message: message.to_owned(), stale }
            }
        };
        self.events.append(vec![Event::new(now, Subject::tenant(tenant), kind)]);
    }

    /// Brings a tenant's state to its config, asking where that is due.
    async fn apply(&self, tenant: &TenantId) {
        let resolved = self.resolve(tenant, self.now(), None).await;
        self.store.configure(tenant, &resolved.terms, self.now()).await;
    }

    /// Brings tenants to the config file just loaded, before anybody is asked:
    /// a cap that was changed holds when the reload is answered.
    pub(super) async fn apply_known(&self, tenants: &BTreeSet<TenantId>) {
        for tenant in tenants {
            self.config_failing.remove(tenant);
            if self.tenant_configs.peek(tenant).is_some() {
                let terms = self.known_terms(tenant);
                self.store.configure(tenant, &terms, self.now()).await;
            }
        }
    }

    /// Brings tenants with state to what sources change, and looks after those
    /// with live sessions. Runs as long as the sidecar.
    pub async fn follow_sources(self: Arc<Self>, mut changes: mpsc::Receiver<Changed>) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looking = JoinSet::new();
        let mut changed = BTreeSet::new();
        let mut open = true;
        loop {
            tokio::select! {
                next = changes.recv(), if open => match next {
                    Some(Changed::Tenant(tenant)) => _ = changed.insert(tenant),
                    Some(Changed::All) => changed.extend(self.store.tenants().await),
                    Some(Changed::Lost) => {}
                    None => open = false,
                },
                Some(_) = looking.join_next() => {}
                _ = look.tick() => {
                    if looking.is_empty() {
                        let sidecar = Arc::clone(&self);
                        looking.spawn(async move { sidecar.look_after().await });
                    }
                }
            }
            // What was told meanwhile goes along, so that a burst of changes of
            // one tenant is one.
            if !changed.is_empty() && looking.len() < 2 {
                let tenants = std::mem::take(&mut changed);
                let sidecar = Arc::clone(&self);
                looking.spawn(async move { sidecar.apply_all(tenants).await });
            }
        }
    }

    async fn apply_all(&self, tenants: BTreeSet<TenantId>) {
        stream::iter(tenants)
            .for_each_concurrent(AT_ONCE, |tenant| async move { self.apply(&tenant).await })
            .await;
    }

    /// Tenants that somebody runs on are kept fresh, so that a change reaches
    /// live sessions of a tenant that starts no new ones.
    async fn look_after(&self) {
        let credentials = self.credentials.changed().await;
        if !credentials && !self.tenant_configs.asks_again() && !self.credentials.asks_again() {
            return;
        }
        let mut due = BTreeSet::new();
        for tenant in self.store.tenants().await {
            let is_due = || {
                self.tenant_configs.is_due(&tenant)
                    || self
                        .known_config(&tenant)
                        .is_some_and(|config| self.credentials.is_due(&config))
            };
            if credentials || is_due() {
                due.insert(tenant);
            }
        }
        self.apply_all(due).await;
    }
}

fn unavailable(tenant: &TenantId, message: &str) -> Rejection {
    let message = format!("the config of tenant {tenant} could not be resolved: {message}");
    Rejection::new(Reason::ConfigUnavailable, message).of(tenant)
}
