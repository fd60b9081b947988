//! A config file of any bytes is either refused in words that show no value, or
//! valid in every number; and reading it twice gives the same config.

use std::{path::Path, time::Duration};

use tenantd::{
    config::{self, Config},
    domain::provider::TenantConfig,
};

use super::CANARY;

/// The text of the file. What is no UTF-8 is refused before this is asked.
pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for mode in [0o600, 0o644] {
        let path = Path::new("/etc/tenantd/tenantd.toml");
        match (config::parse(path, text, mode), config::parse(path, text, mode)) {
            (Ok(read), Ok(again)) => {
                let changes = config::diff(&read, &again);
                assert!(changes.tenants.is_empty() && !changes.defaults_changed, "{changes:?}");
                assert!(changes.restart_required.is_empty(), "{changes:?}");
                is_valid(&read);
                assert!(shown(text) || !format!("{read:?}").contains(CANARY), "in Debug");
            }
            (Err(problems), Err(again)) => {
                assert_eq!(problems, again);
                assert!(!problems.items.is_empty());
                let said = problems.to_string();
                assert!(in_a_key(text) || !said.contains(CANARY), "{said}");
                for item in &problems.items {
                    assert!(item.line <= text.matches('\n').count() + 1, "{item:?}");
                }
            }
            (read, _) => panic!("it was read once, and not twice: {}", read.is_ok()),
        }
    }
}

fn is_valid(config: &Config) {
    assert!(!config.drain_timeout.is_zero() || config.drain_timeout == Duration::ZERO);
    let limits = &config.limits;
    assert!(limits.max_sessions > 0 && limits.events_kept > 0 && limits.message_bytes > 0);
    assert!(config.agents.values().all(|cap| (1..=1_000_000).contains(cap)));
    let tenants = config.tenants.values().chain([&config.defaults]);
    tenants.for_each(|tenant| is_valid_tenant(tenant));
}

/// The rules of docs/config.md, written once more.
pub fn is_valid_tenant(tenant: &TenantConfig) {
    let limits = &tenant.limits;
    assert!(limits.cap.is_none_or(|cap| (1..=1_000_000).contains(&cap)));
    let lease = &limits.lease;
    assert!(lease.ttl_min <= lease.ttl && lease.ttl <= lease.ttl_max, "{lease:?}");
    assert!(!lease.ttl_min.is_zero() && !lease.pending.is_zero(), "{lease:?}");
    let breaker = &limits.breaker;
    assert!((0.0..1.0).contains(&breaker.failure_ratio), "{breaker:?}");
    assert!(breaker.min_samples > 0 && breaker.probes > 0, "{breaker:?}");
    assert!(!breaker.window.is_zero() && !breaker.cooldown.is_zero(), "{breaker:?}");
    assert!(breaker.cooldown <= breaker.cooldown_max, "{breaker:?}");
    assert!(tenant.providers.len() <= 64 && tenant.labels.len() <= 64);
}

/// The canary stands in a name: names are shown, values are not.
fn in_a_key(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok_and(|table| any(&table, &mut |key, _| key.contains(CANARY)))
}

/// The canary stands in a name, or in a value that is no secret: all but a
/// credential itself, which is not the reference to one.
fn shown(text: &str) -> bool {
    let open = |key: &str, value: &str| {
        let is_credential = ["credential", "credentials", "bearer", "token", "url"].contains(&key);
        let is_reference = ["env:", "file:", "vault:"].iter().any(|of| value.starts_with(of));
        key.contains(CANARY) || value.contains(CANARY) && (!is_credential || is_reference)
    };
    text.parse::<toml::Table>().is_ok_and(|table| any(&table, &mut |key, value| open(key, value)))
}

/// Asks about each key with its text, at any depth; what is in `credentials` is
/// asked about under that name.
fn any(table: &toml::Table, ask: &mut impl FnMut(&str, &str) -> bool) -> bool {
    fn inner(key: &str, value: &toml::Value, ask: &mut impl FnMut(&str, &str) -> bool) -> bool {
        match value {
            toml::Value::Table(table) if key == "credentials" => {
                table.iter().any(|(name, value)| ask(name, "") || inner(key, value, ask))
            }
            toml::Value::Table(table) => any(table, ask),
            toml::Value::Array(items) => items.iter().any(|item| inner(key, item, ask)),
            toml::Value::String(text) => ask(key, text),
            _ => ask(key, ""),
        }
    }
    table.iter().any(|(key, value)| ask(key, "") || inner(key, value, ask))
}
