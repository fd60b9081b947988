//! The numbers that bind a tenant. Valid by construction: `config` refuses
//! nonsense before one of these exists.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::time::nanos;

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LeasePolicy {
    /// How long a pending lease waits for its first sign of life.
    #[serde(with = "nanos")]
    pub pending: Duration,
    /// How long an active lease lives without a renewal.
    #[serde(with = "nanos")]
    pub ttl: Duration,
    /// Shortest TTL that a client may ask for.
    #[serde(with = "nanos")]
    pub ttl_min: Duration,
    /// Longest TTL that a client may ask for.
    #[serde(with = "nanos")]
    pub ttl_max: Duration,
    /// How long leases wait for a worker that went away.
    #[serde(with = "nanos")]
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
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct BreakerPolicy {
    /// Off: always closed, no samples.
    pub enabled: bool,
    /// How far back samples count.
    #[serde(with = "nanos")]
    pub window: Duration,
    /// Fewest samples that can open it.
    pub min_samples: u32,
    /// Opens above this ratio of failures, strictly.
    pub failure_ratio: f64,
    /// First time open.
    #[serde(with = "nanos")]
    pub cooldown: Duration,
    /// Longest time open, after doublings.
    #[serde(with = "nanos")]
    pub cooldown_max: Duration,
    /// Sessions at once while half-open, and good ones needed to close.
    pub probes: u32,
    /// An active probe this old counts as a good one.
    #[serde(with = "nanos")]
    pub probe_healthy_after: Duration,
}

impl BreakerPolicy {
    /// All of it as whole numbers: what differs in them differs, and nothing else.
    #[must_use]
    pub const fn numbers(&self) -> (bool, [Duration; 4], [u32; 2], u64) {
        let Self {
            enabled,
            window,
            min_samples,
            failure_ratio,
            cooldown,
            cooldown_max,
            probes,
            probe_healthy_after,
        } = *self;
        let times = [window, cooldown, cooldown_max, probe_healthy_after];
        (enabled, times, [min_samples, probes], failure_ratio.to_bits())
    }
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
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Terms {
    /// It has an entry of its own.
    pub known: bool,
    /// The numbers that bind it: most tenants have those of the defaults.
    #[serde(with = "shared")]
    pub limits: Arc<TenantLimits>,
    /// Names this state of its config; empty: it has none.
    pub version: String,
    /// Later states of the config have higher ones. Among those of one number
    /// nothing differs.
    #[serde(skip)]
    pub generation: u64,
    /// The latest change among its credentials; none: not known.
    pub credentials: Option<u64>,
}

/// The version that users see, of a config and the latest change of its credentials.
#[must_use]
pub fn told(version: &str, credentials: Option<u64>) -> String {
    match credentials {
        None | Some(0) => version.to_owned(),
        Some(changed) => format!("{version}.{changed:x}"),
    }
}

/// As what it points to.
mod shared {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::TenantLimits;

    pub fn serialize<S: Serializer>(limits: &Arc<TenantLimits>, to: S) -> Result<S::Ok, S::Error> {
        TenantLimits::serialize(limits, to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<TenantLimits>, D::Error> {
        TenantLimits::deserialize(from).map(Arc::new)
    }
}

impl Terms {
    /// The version that users see: differs when a credential does.
    #[must_use]
    pub fn told(&self) -> String {
        told(&self.version, self.credentials)
    }

    /// `other` may have something newer.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        other.generation > self.generation
            || (other.version == self.version && other.credentials > self.credentials)
    }

    /// Takes later terms over; true when users must be told. Of two that come
    /// in the wrong order the later one stays.
    pub fn update(&mut self, other: &Self) -> bool {
        let mut changed = false;
        if other.generation > self.generation {
            changed = self.version != other.version || self.known != other.known;
            let credentials = if changed { other.credentials } else { self.credentials };
            *self = Self { credentials, ..other.clone() };
        }
        if other.version == self.version && other.credentials > self.credentials {
            // Not known before: whoever runs on them has them by now.
            changed |= self.credentials.is_some();
            self.credentials = other.credentials;
        }
        changed
    }
}

/// All numbers that bind one tenant's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct TenantLimits {
    /// Most live sessions; none: no limit.
    pub cap: Option<u32>,
    /// Most new sessions in a second; none: that of all tenants, if there is one.
    #[serde(default)]
    pub acquires_per_second: Option<u32>,
    /// Its leases.
    pub lease: LeasePolicy,
    /// Its breaker.
    pub breaker: BreakerPolicy,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(version: &str, generation: u64, credentials: Option<u64>) -> Terms {
        Terms { version: version.to_owned(), generation, credentials, ..Terms::default() }
    }

    #[test]
    fn the_later_terms_stay_in_whatever_order_they_come() {
        let mut held = terms("a", 1, Some(0));
        assert!(held.update(&terms("c", 3, Some(0))));
        assert!(!held.update(&terms("b", 2, Some(0))));
        assert_eq!(held.told(), "c");
        assert!(!held.update(&terms("c", 4, Some(0))), "nothing that users see differs");
        assert_eq!(held.generation, 4);
    }

    #[test]
    fn a_changed_credential_is_a_new_version_and_an_older_one_is_none() {
        let mut held = terms("a", 1, Some(7));
        assert!(held.update(&terms("a", 1, Some(9))));
        assert_eq!(held.told(), "a.9");
        assert!(!held.update(&terms("a", 1, Some(7))));
        assert!(!held.update(&terms("a", 2, None)), "not known now is no change");
        assert_eq!(held.told(), "a.9");
    }

    #[test]
    fn credentials_learnt_after_the_config_are_no_second_change() {
        let mut held = terms("a", 1, Some(7));
        assert!(held.update(&terms("b", 2, None)));
        assert!(!held.update(&terms("b", 2, Some(8))));
        assert_eq!(held.told(), "b.8");
    }
}
