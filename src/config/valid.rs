//! From what is written to what holds: every number checked, every problem
//! collected, so that one run of `check` shows them all.

use std::{
    collections::BTreeMap, net::SocketAddr, ops::Range, path::Path, sync::Arc, time::Duration,
};

use toml::Spanned;

use super::{
    Config, Diagnostic, Limits, Listen, UnknownTenants, credential,
    diagnostic::Source,
    raw::{self, Span},
    version_of,
};
use crate::domain::{
    limits::{BreakerPolicy, LeasePolicy, TenantLimits},
    provider::{CredentialRef, Provider, Slot, TenantConfig, merge},
    session::AgentName,
    tenant::TenantId,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const MAX_CAP: u32 = 1_000_000;
/// Most slots, labels and credentials of one tenant.
const MAX_NAMES: usize = 64;

struct Check<'a> {
    source: &'a Source<'a>,
    folder: &'a Path,
    items: Vec<Diagnostic>,
    literals: bool,
}

/// The valid config, and what is wrong with it: used only when nothing is.
pub fn config(
    path: &Path,
    file: raw::File,
    source: &Source<'_>,
    mode: u32,
) -> (Config, Vec<Diagnostic>) {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut check = Check { source, folder, items: Vec::new(), literals: false };
    let builtin = Config::builtin();
    let lease = check.lease(&file.lease, LeasePolicy::default());
    let breaker = check.breaker(&file.defaults.breaker, BreakerPolicy::default());
    let cap = file.defaults.cap.as_ref().and_then(|cap| check.cap(cap));
    let slots = check.slots(file.defaults.providers);
    let labels = check.labels(file.defaults.labels);
    let limits = TenantLimits { cap, lease, breaker };
    let defaults = sealed(TenantConfig {
        version: String::new(),
        known: false,
        limits,
        providers: merge(&slots, &BTreeMap::new()),
        labels,
    });
    let mut tenants = BTreeMap::new();
    for (name, raw) in file.tenants {
        let own = check.tenant(raw, &defaults, &slots);
        match TenantId::parse(name.get_ref()) {
            Ok(id) if id.as_str() == name.get_ref() => _ = tenants.insert(id, Arc::new(own)),
            Ok(_) | Err(_) => check.wrong(name.span(), "must be 1-128 characters of [A-Za-z0-9_-]"),
        }
    }
    let mut agents = BTreeMap::new();
    for (name, raw) in file.agents {
        match (AgentName::parse(name.get_ref()), check.cap(&raw.cap)) {
            (Ok(agent), Some(cap)) => _ = agents.insert(agent, cap),
            (Err(refused), _) => check.wrong(name.span(), &refused.message),
            (Ok(_), None) => {}
        }
    }
    let drain = file.drain.timeout.as_ref();
    let config = Config {
        path: Some(path.to_owned()),
        listen: check.listen(file.listen),
        unknown_tenants: match file.unknown_tenants {
            Some(raw::UnknownTenants::Reject) => UnknownTenants::Reject,
            Some(raw::UnknownTenants::Accept) | None => UnknownTenants::Accept,
        },
        limits: check.limits(&file.limits),
        drain_timeout: check.span(drain, builtin.drain_timeout, Duration::ZERO),
        agents,
        tenants,
        defaults: Arc::new(defaults),
    };
    if check.literals && mode & 0o044 != 0 {
        let message = format!(
            "holds a literal credential and is readable by others (mode {:03o}); run chmod 600, or use env: or file:",
            mode & 0o777
        );
        check.items.push(Diagnostic { line: 0, column: 0, key: String::new(), message });
    }
    (config, check.items)
}

fn sealed(mut config: TenantConfig) -> TenantConfig {
    config.version = version_of(&config);
    config
}

impl Check<'_> {
    fn wrong(&mut self, span: Range<usize>, message: &str) {
        self.items.push(self.source.at(span, message));
    }

    fn span(&mut self, raw: Option<&Spanned<Span>>, default: Duration, min: Duration) -> Duration {
        let Some(raw) = raw else { return default };
        let got = raw.get_ref().0;
        if got < min || got > YEAR {
            self.wrong(raw.span(), &format!("must be {min:?} to 365 days, for example \"30s\""));
        }
        got
    }

    fn count(&mut self, raw: Option<&Spanned<u32>>, default: u32, min: u32, max: u32) -> u32 {
        let Some(raw) = raw else { return default };
        let got = *raw.get_ref();
        if !(min..=max).contains(&got) {
            self.wrong(raw.span(), &format!("must be {min} to {max}, got {got}"));
        }
        got
    }

    fn cap(&mut self, raw: &Spanned<u32>) -> Option<u32> {
        let got = *raw.get_ref();
        if (1..=MAX_CAP).contains(&got) {
            return Some(got);
        }
        self.wrong(
            raw.span(),
            &format!("must be 1 to {MAX_CAP}, got {got}; leave it out for no cap, suspend a tenant to stop it"),
        );
        None
    }

    fn lease(&mut self, raw: &raw::Lease, base: LeasePolicy) -> LeasePolicy {
        let least = Duration::from_millis(100);
        let lease = LeasePolicy {
            pending: self.span(raw.pending.as_ref(), base.pending, least),
            ttl: self.span(raw.ttl.as_ref(), base.ttl, Duration::from_secs(1)),
            ttl_min: self.span(raw.ttl_min.as_ref(), base.ttl_min, Duration::from_secs(1)),
            ttl_max: self.span(raw.ttl_max.as_ref(), base.ttl_max, Duration::from_secs(1)),
            grace: self.span(raw.grace.as_ref(), base.grace, least),
        };
        let place = [&raw.ttl, &raw.ttl_min, &raw.ttl_max].into_iter().flatten().next();
        if let Some(place) = place
            && !(lease.ttl_min <= lease.ttl && lease.ttl <= lease.ttl_max)
        {
            self.wrong(
                place.span(),
                &format!(
                    "ttl_min, ttl and ttl_max must be in this order, got {:?}, {:?} and {:?}",
                    lease.ttl_min, lease.ttl, lease.ttl_max,
                ),
            );
        }
        lease
    }

    fn breaker(&mut self, raw: &raw::Breaker, base: BreakerPolicy) -> BreakerPolicy {
        let least = Duration::from_millis(10);
        let policy = BreakerPolicy {
            enabled: raw.enabled.unwrap_or(base.enabled),
            window: self.span(raw.window.as_ref(), base.window, Duration::from_millis(120)),
            min_samples: self.count(raw.min_samples.as_ref(), base.min_samples, 1, 1_000_000),
            failure_ratio: raw.failure_ratio.as_ref().map_or(base.failure_ratio, |r| *r.get_ref()),
            cooldown: self.span(raw.cooldown.as_ref(), base.cooldown, least),
            cooldown_max: self.span(raw.cooldown_max.as_ref(), base.cooldown_max, least),
            probes: self.count(raw.probes.as_ref(), base.probes, 1, 10_000),
            probe_healthy_after: self.span(
                raw.probe_healthy_after.as_ref(),
                base.probe_healthy_after,
                least,
            ),
        };
        if let Some(ratio) = &raw.failure_ratio
            && !(0.0..1.0).contains(ratio.get_ref())
        {
            self.wrong(ratio.span(), "must be 0 or more and less than 1, for example 0.5");
        }
        let place = raw.cooldown_max.as_ref().or(raw.cooldown.as_ref());
        if let Some(place) = place
            && policy.cooldown_max < policy.cooldown
        {
            self.wrong(
                place.span(),
                &format!(
                    "cooldown_max ({:?}) must not be shorter than cooldown ({:?})",
                    policy.cooldown_max, policy.cooldown,
                ),
            );
        }
        policy
    }

    fn tenant(
        &mut self,
        raw: raw::Tenant,
        defaults: &TenantConfig,
        slots: &BTreeMap<String, Slot>,
    ) -> TenantConfig {
        let base = defaults.limits;
        let limits = TenantLimits {
            cap: raw.cap.as_ref().map_or(base.cap, |cap| self.cap(cap)),
            lease: self.lease(&raw.lease, base.lease),
            breaker: self.breaker(&raw.breaker, base.breaker),
        };
        let own = self.slots(raw.providers);
        let mut labels = defaults.labels.clone();
        labels.extend(self.labels(raw.labels));
        sealed(TenantConfig {
            version: String::new(),
            known: true,
            limits,
            providers: merge(slots, &own),
            labels,
        })
    }

    fn labels(&mut self, raw: BTreeMap<String, Spanned<String>>) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        for (name, text) in raw {
            if !is_name(&name) || labels.len() >= MAX_NAMES || text.get_ref().len() > 1024 {
                self.wrong(text.span(), "labels must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-] with at most 1,024 bytes each");
            }
            labels.insert(name, text.into_inner());
        }
        labels
    }

    fn slots(&mut self, raw: BTreeMap<Spanned<String>, raw::Slot>) -> BTreeMap<String, Slot> {
        let mut slots = BTreeMap::new();
        for (name, word) in raw {
            let span = name.span();
            if !is_name(name.get_ref()) || slots.len() >= MAX_NAMES {
                self.wrong(
                    span.clone(),
                    "slots must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-]",
                );
            }
            let slot = match word {
                raw::Slot::Off => Slot::Off,
                raw::Slot::Use(provider) => Slot::Use(Arc::new(self.provider(*provider, &span))),
            };
            slots.insert(name.into_inner(), slot);
        }
        slots
    }

    fn provider(&mut self, raw: raw::Provider, span: &Range<usize>) -> Provider {
        if raw.provider.get_ref().is_empty() || raw.provider.get_ref().len() > 128 {
            let place = raw.provider.span();
            self.wrong(place, "must be a name of 1-128 bytes, for example \"openai\"");
        }
        if let Some(url) = &raw.base_url
            && !is_http(url.get_ref())
        {
            let example = "\"https://api.example.com/v1\"";
            let message = format!(
                "must be an http:// or https:// address, for example {example}; leave it out for the provider's own"
            );
            self.wrong(url.span(), &message);
        }
        let mut credentials = BTreeMap::new();
        let single = raw.credential.into_iter().map(|text| ("api_key".to_owned(), text));
        for (name, text) in single.chain(raw.credentials) {
            let span = text.span();
            if !is_name(&name) || credentials.len() >= MAX_NAMES {
                self.wrong(
                    span.clone(),
                    "credentials must be at most 64 names of 1-64 characters of [A-Za-z0-9_.-]",
                );
            }
            match credential::parse(text.get_ref(), self.folder) {
                Ok(reference) => {
                    self.literals |= matches!(reference, CredentialRef::Literal(_));
                    if credentials.insert(name, reference).is_some() {
                        self.wrong(span, "credential is the same as credentials.api_key; give one");
                    }
                }
                Err(problem) => self.wrong(span, &problem),
            }
        }
        let params = match serde_json::to_value(&raw.params) {
            Ok(serde_json::Value::Object(params)) => params,
            Ok(_) | Err(_) => {
                self.wrong(span.clone(), "params must be values that JSON can hold");
                serde_json::Map::new()
            }
        };
        Provider {
            provider: raw.provider.into_inner(),
            model: raw.model,
            base_url: raw.base_url.map(Spanned::into_inner).unwrap_or_default(),
            credentials,
            params,
        }
    }

    fn listen(&mut self, raw: raw::Listen) -> Listen {
        let unix = raw.unix.map(|path| {
            if !path.get_ref().starts_with('/') || path.get_ref().len() > 107 {
                self.wrong(path.span(), "must be an absolute path of at most 107 bytes");
            }
            path.into_inner().into()
        });
        let tcp = raw.tcp.and_then(|text| match text.get_ref().parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Some(address),
            Ok(_) => {
                self.wrong(text.span(), "must be a loopback address; any other needs TLS and client identities, which this version does not have");
                None
            }
            Err(_) => {
                self.wrong(text.span(), "must be an IP address and a port, for example \"127.0.0.1:7443\"");
                None
            }
        });
        Listen { unix, tcp }
    }

    fn limits(&mut self, raw: &raw::Limits) -> Limits {
        const MILLION: u32 = 1_000_000;
        const MIB: u32 = 1024 * 1024;
        let base = Limits::default();
        let size = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        let of = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let second = Duration::from_secs(1);
        Limits {
            max_sessions: self.count(raw.max_sessions.as_ref(), base.max_sessions, 1, MILLION),
            max_tenants: self.count(raw.max_tenants.as_ref(), base.max_tenants, 1, MILLION),
            max_workers: size(self.count(
                raw.max_workers.as_ref(),
                of(base.max_workers),
                1,
                MILLION,
            )),
            max_watchers: self.count(raw.max_watchers.as_ref(), base.max_watchers, 1, 10_000),
            max_connections: size(self.count(
                raw.max_connections.as_ref(),
                of(base.max_connections),
                1,
                MILLION,
            )),
            max_streams: self.count(raw.max_streams.as_ref(), base.max_streams, 1, MILLION),
            metadata_bytes: size(self.count(
                raw.metadata_bytes.as_ref(),
                of(base.metadata_bytes),
                256,
                MIB,
            )),
            message_bytes: size(self.count(
                raw.message_bytes.as_ref(),
                of(base.message_bytes),
                64 * 1024,
                64 * MIB,
            )),
            credential_bytes: size(self.count(
                raw.credential_bytes.as_ref(),
                of(base.credential_bytes),
                16,
                MIB,
            )),
            events_kept: size(self.count(
                raw.events_kept.as_ref(),
                of(base.events_kept),
                16,
                10 * MILLION,
            )),
            events_kept_bytes: size(self.count(
                raw.events_kept_bytes.as_ref(),
                of(base.events_kept_bytes),
                64 * 1024,
                2048 * MIB - 1,
            )),
            agent_events_per_second: self.count(
                raw.agent_events_per_second.as_ref(),
                base.agent_events_per_second,
                1,
                MILLION,
            ),
            agent_event_bytes: size(self.count(
                raw.agent_event_bytes.as_ref(),
                of(base.agent_event_bytes),
                64,
                64 * 1024,
            )),
            worker_reports_per_second: self.count(
                raw.worker_reports_per_second.as_ref(),
                base.worker_reports_per_second,
                1,
                10_000,
            ),
            ended_remembered: size(self.count(
                raw.ended_remembered.as_ref(),
                of(base.ended_remembered),
                16,
                10 * MILLION,
            )),
            ended_remembered_for: self.span(
                raw.ended_remembered_for.as_ref(),
                base.ended_remembered_for,
                second,
            ),
            tenant_idle_after: self.span(
                raw.tenant_idle_after.as_ref(),
                base.tenant_idle_after,
                second,
            ),
            heartbeat: self.span(raw.heartbeat.as_ref(), base.heartbeat, second),
            metric_tenants: size(self.count(
                raw.metric_tenants.as_ref(),
                of(base.metric_tenants),
                0,
                100_000,
            )),
        }
    }
}

fn is_http(url: &str) -> bool {
    url.parse::<http::Uri>().is_ok_and(|url| {
        matches!(url.scheme_str(), Some("http" | "https"))
            && url.host().is_some_and(|host| !host.is_empty())
    })
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}
