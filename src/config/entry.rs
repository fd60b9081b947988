//! A tenant's entry from one source, and the whole out of several.

use std::{collections::BTreeMap, path::PathBuf};

use zeroize::Zeroize as _;

use super::{Diagnostic, diagnostic::Source, raw, valid};
use crate::domain::{
    provider::{CredentialRef, Slot, TenantConfig},
    tenant::TenantId,
};

/// What entries are laid over.
#[derive(Debug, Clone)]
pub struct Base {
    /// Where relative paths of credentials start.
    pub folder: PathBuf,
    /// The defaults.
    pub defaults: TenantConfig,
    /// Their slots as written.
    pub slots: BTreeMap<String, Slot>,
    /// Keys that the file gives for them.
    pub given: Vec<String>,
    /// There is a secret store.
    pub vault: bool,
}

/// One source's word on one tenant: checked, and not yet merged.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry(raw::Tenant);

impl Entry {
    pub(super) const fn new(raw: raw::Tenant) -> Self {
        Self(raw)
    }

    /// Reads an entry in the file's shape. `null` means not given.
    ///
    /// # Errors
    /// All that is wrong with it, by key; never a value.
    pub fn from_json(
        tenant: &TenantId,
        mut value: serde_json::Value,
        base: &Base,
        literals: bool,
    ) -> Result<Self, String> {
        drop_nulls(&mut value);
        if !value.is_object() {
            return Err("the entry must be an object in the shape of [tenants.NAME]".to_owned());
        }
        // By way of the file's own text, so that one set of rules and messages
        // holds for every source.
        let of = serde_json::json!({ "tenants": { tenant.as_str(): value } });
        let text = toml::to_string(&of);
        wipe(of);
        let mut text =
            text.map_err(|_| "the entry has a value that TOML cannot hold".to_owned())?;
        let read = read(tenant, &text, base, literals);
        text.zeroize();
        read
    }

    /// Keys that it gives.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.0.keys()
    }

    /// This one's keys, and `below`'s where it gives none.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self(self.0.clone().over(below.0.clone()))
    }

    /// The whole config of a tenant whose entry this is.
    ///
    /// # Errors
    /// Rules between keys that its parts break together.
    pub fn complete(&self, base: &Base) -> Result<TenantConfig, String> {
        let (config, items) = valid::whole(self.0.clone(), base);
        if items.is_empty() { Ok(config) } else { Err(said(&items, "")) }
    }
}

fn read(tenant: &TenantId, text: &str, base: &Base, literals: bool) -> Result<Entry, String> {
    let prefix = format!("tenants.{tenant}.");
    let source = Source::new(text);
    let (file, mut items) = source.read::<raw::File>();
    let raw = file.and_then(|mut file| file.tenants.remove(tenant.as_str()));
    if let Some(raw) = &raw {
        items.extend(valid::part(raw, &source, base, literals));
    }
    match raw {
        Some(raw) if items.is_empty() => Ok(Entry(raw)),
        // An empty object: an entry that gives nothing.
        None if items.is_empty() => Ok(Entry(raw::Tenant::default())),
        Some(_) | None => Err(said(&items, &prefix)),
    }
}

/// Places in a text that nobody wrote are left out.
fn said(items: &[Diagnostic], prefix: &str) -> String {
    let lines: Vec<_> = items
        .iter()
        .map(|item| {
            let key = item.key.strip_prefix(prefix).unwrap_or(&item.key);
            if key.is_empty() { item.message.clone() } else { format!("{key}: {}", item.message) }
        })
        .collect();
    lines.join("; ")
}

fn drop_nulls(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(map) => {
            map.retain(|_, inner| !inner.is_null());
            map.values_mut().for_each(drop_nulls);
        }
        serde_json::Value::Array(items) => {
            items.retain(|inner| !inner.is_null());
            items.iter_mut().for_each(drop_nulls);
        }
        _ => {}
    }
}

/// The text of a credential is a key itself, or nothing that is known.
#[must_use]
pub fn is_literal(text: &str) -> bool {
    !matches!(
        super::credential::parse(text, std::path::Path::new("")),
        Ok(CredentialRef::Env(_) | CredentialRef::File(_) | CredentialRef::Vault { .. })
    )
}

/// Overwrites the texts of a value that may hold keys.
pub fn wipe(mut value: serde_json::Value) {
    fn texts(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::String(text) => text.zeroize(),
            serde_json::Value::Array(items) => items.iter_mut().for_each(texts),
            serde_json::Value::Object(map) => map.values_mut().for_each(texts),
            serde_json::Value::Null | serde_json::Value::Bool(_) | serde_json::Value::Number(_) => {
            }
        }
    }
    texts(&mut value);
}

/// For a table of optional keys: which are given, and the merge key by key.
macro_rules! layered {
    ($table:ty { $($key:ident),* $(,)? }) => {
        impl $table {
            fn over(self, below: Self) -> Self {
                Self { $($key: self.$key.or(below.$key)),* }
            }

            fn given(&self, prefix: &str, keys: &mut Vec<String>) {
                $(if self.$key.is_some() {
                    keys.push(format!("{prefix}.{}", stringify!($key)));
                })*
            }
        }
    };
}

layered!(raw::Lease { pending, ttl, ttl_min, ttl_max, grace });
layered!(raw::Breaker {
    enabled,
    window,
    min_samples,
    failure_ratio,
    cooldown,
    cooldown_max,
    probes,
    probe_healthy_after,
});

impl raw::File {
    /// Keys that it gives for all tenants.
    pub(super) fn default_keys(&self) -> Vec<String> {
        let all = raw::Tenant {
            cap: self.defaults.cap.clone(),
            acquires_per_second: self.defaults.acquires_per_second.clone(),
            labels: self.defaults.labels.clone(),
            breaker: self.defaults.breaker.clone(),
            lease: self.lease.clone(),
            providers: self.defaults.providers.clone(),
        };
        all.keys()
    }
}

impl raw::Tenant {
    fn over(self, below: Self) -> Self {
        let mut labels = below.labels;
        labels.extend(self.labels);
        let mut providers = below.providers;
        providers.extend(self.providers);
        Self {
            cap: self.cap.or(below.cap),
            acquires_per_second: self.acquires_per_second.or(below.acquires_per_second),
            labels,
            breaker: self.breaker.over(below.breaker),
            lease: self.lease.over(below.lease),
            providers,
        }
    }

    fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        if self.cap.is_some() {
            keys.push("cap".to_owned());
        }
        if self.acquires_per_second.is_some() {
            keys.push("acquires_per_second".to_owned());
        }
        self.breaker.given("breaker", &mut keys);
        self.lease.given("lease", &mut keys);
        keys.extend(self.labels.keys().map(|name| format!("labels.{name}")));
        keys.extend(self.providers.keys().map(|slot| format!("providers.{}", slot.get_ref())));
        keys
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::Config;

    fn acme() -> TenantId {
        TenantId::parse("acme").unwrap()
    }

    fn entry(value: serde_json::Value) -> Result<Entry, String> {
        Entry::from_json(&acme(), value, &Config::builtin().base, false)
    }

    #[test]
    fn the_first_source_that_gives_a_key_wins_and_slots_are_replaced_whole() {
        let file = entry(json!({ "cap": 2, "breaker": { "probes": 1 } })).unwrap();
        let database = entry(json!({
            "cap": 9,
            "acquires_per_second": 50,
            "labels": { "plan": "gold" },
            "breaker": { "probes": 7, "min_samples": 3 },
            "providers": { "llm": { "provider": "openai", "credential": "env:K" } },
        }))
        .unwrap();
        let whole = file.over(&database);
        assert_eq!(
            whole.keys(),
            [
                "cap",
                "acquires_per_second",
                "breaker.min_samples",
                "breaker.probes",
                "labels.plan",
                "providers.llm"
            ]
        );
        let config = whole.complete(&Config::builtin().base).unwrap();
        assert_eq!((config.limits.cap, config.limits.acquires_per_second), (Some(2), Some(50)));
        let breaker = config.limits.breaker;
        assert_eq!((breaker.probes, breaker.min_samples), (1, 3));
        assert!(config.known && config.providers.contains_key("llm"));
    }

    #[test]
    fn what_is_wrong_is_said_by_key_and_without_the_value() {
        for (value, says) in [
            (json!({ "capp": 1 }), "capp: unknown key, did you mean cap?"),
            (json!({ "cap": "sk-canary" }), "cap: must be a whole number"),
            (json!({ "cap": 0 }), "cap: must be 1 to 1000000, got 0"),
            (
                json!({ "acquires_per_second": 0 }),
                "acquires_per_second: must be 1 to 1000000, got 0",
            ),
            (json!("sk-canary"), "must be an object"),
            (json!(["sk-canary"]), "must be an object"),
            (
                json!({ "providers": { "llm": "sk-canary" } }),
                "providers.llm: must be a provider table",
            ),
            (
                json!({ "providers": { "llm": { "provider": "x", "credential": "sk-canary" } } }),
                "holds a key itself",
            ),
            (json!({ "providers": { "llm": { "model": "m" } } }), "missing field `provider`"),
        ] {
            let said = entry(value.clone()).unwrap_err();
            assert!(said.contains(says), "{value}\n got: {said}\nwant: {says}");
            assert!(!said.contains("canary"), "{said}");
        }
    }

    #[test]
    fn keys_themselves_are_taken_where_the_source_may_have_them() {
        let value =
            json!({ "providers": { "llm": { "provider": "x", "credential": "sk-canary" } } });
        let read = Entry::from_json(&acme(), value, &Config::builtin().base, true).unwrap();
        assert!(!format!("{read:?}").contains("canary"));
    }

    #[test]
    fn rules_between_keys_hold_for_the_whole_and_not_for_its_parts() {
        let long = entry(json!({ "lease": { "ttl": "2h" } })).unwrap();
        let short = entry(json!({ "lease": { "ttl_max": "1h" } })).unwrap();
        assert!(long.complete(&Config::builtin().base).is_ok());
        let said = long.over(&short).complete(&Config::builtin().base).unwrap_err();
        assert!(said.contains("must be in this order"), "{said}");
    }

    #[test]
    fn null_means_not_given() {
        assert!(entry(json!({ "cap": null, "lease": { "ttl": null } })).unwrap().keys().is_empty());
    }
}
