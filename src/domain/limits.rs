//! The numbers that bind a tenant. Valid by construction: `config` refuses
//! nonsense before one of these exists.

use std::time::Duration;

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeasePolicy {
    /// How long a pending lease waits for its first sign of life.
    pub pending: Duration,
    /// How long an active lease lives without a renewal.
    pub ttl: Duration,
    /// Shortest TTL that a client may ask for.
    pub ttl_min: Duration,
    /// Longest TTL that a client may ask for.
    pub ttl_max: Duration,
    /// How long leases wait for a worker that went away.
    pub grace: Duration,
}

impl Default for LeasePolicy {
    fn default() -> Self {
        Self {
            pending: Duration::from_secs(15),
            ttl: Duration::from_secs(60),
            ttl_min: Duration::from_secs(5),
            ttl_max: Duration::from_secs(24 * 3600),
            grace: Duration::from_secs(10),
        }
    }
}

/// When a breaker opens, and how it recovers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerPolicy {
    /// Off: always closed, no samples.
    pub enabled: bool,
    /// How far back samples count.
    pub window: Duration,
    /// Fewest samples that can open it.
    pub min_samples: u32,
    /// Opens above this ratio of failures, strictly.
    pub failure_ratio: f64,
    /// First time open.
    pub cooldown: Duration,
    /// Longest time open, after doublings.
    pub cooldown_max: Duration,
    /// Sessions at once while half-open, and good ones needed to close.
    pub probes: u32,
    /// An active probe this old counts as a good one.
    pub probe_healthy_after: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self {
            enabled: true,
            window: Duration::from_secs(60),
            min_samples: 5,
            failure_ratio: 0.5,
            cooldown: Duration::from_secs(30),
            cooldown_max: Duration::from_secs(300),
            probes: 3,
            probe_healthy_after: Duration::from_secs(10),
        }
    }
}

/// What the config says of a tenant: read once per decision, so that the
/// numbers, the standing and the version cannot come from two configs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Terms {
    /// It has an entry of its own.
    pub known: bool,
    /// The numbers that bind it.
    pub limits: TenantLimits,
    /// Names this state of its config; empty: it has none.
    pub version: String,
}

/// All numbers that bind one tenant's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct TenantLimits {
    /// Most live sessions; none: no limit.
    pub cap: Option<u32>,
    /// Its leases.
    pub lease: LeasePolicy,
    /// Its breaker.
    pub breaker: BreakerPolicy,
}
