//! What differs between two configs, in words for the audit log. A credential is
//! shown as its reference, never by value.

use std::collections::BTreeSet;

use super::Config;
use crate::domain::{
    access::{Identity, TenantPattern},
    provider::TenantConfig,
    tenant::TenantId,
};

/// Keys and values, in words.
pub type Values = Vec<(String, String)>;

/// Each setting of the whole by its key, in words: not the tenants'.
#[must_use]
pub fn settings(config: &Config) -> Values {
    let or_none = |of: Option<String>| of.unwrap_or_else(|| "none".to_owned());
    let mut all = vec![
        ("unknown_tenants".to_owned(), format!("{:?}", config.unknown_tenants).to_lowercase()),
        ("drain.timeout".to_owned(), format!("{:?}", config.drain_timeout)),
        (
            "listen.unix".to_owned(),
            or_none(config.listen.unix.as_ref().map(|path| path.display().to_string())),
        ),
        ("listen.tcp".to_owned(), or_none(config.listen.tcp.map(|at| at.to_string()))),
        ("listen.unix_mode".to_owned(), format!("{:o}", config.listen.unix_mode)),
        ("listen.unix_gid".to_owned(), or_none(config.listen.unix_gid.map(|gid| gid.to_string()))),
        (
            "listen.tls".to_owned(),
            // Paths of files, and no key.
            or_none(config.listen.tls.as_ref().map(|tls| format!("{tls:?}"))),
        ),
        ("telemetry.prometheus".to_owned(), or_none(config.prometheus.map(|at| at.to_string()))),
        ("audit".to_owned(), format!("{:?}", config.audit)),
    ];
    // By the names of their fields, so that a new one cannot be forgotten.
    let limits = format!("{:?}", config.limits);
    let fields = limits.trim_start_matches("Limits { ").trim_end_matches(" }");
    for (name, value) in fields.split(", ").filter_map(|field| field.split_once(": ")) {
        all.push((format!("limits.{name}"), value.to_owned()));
    }
    for (agent, cap) in &config.agents {
        all.push((format!("agents.{agent}.cap"), cap.to_string()));
    }
    for identity in config.access.identities() {
        all.push((format!("identities.{}", identity.name), rights(identity)));
    }
    for source in &config.sources {
        all.push((format!("sources.{}", source.name), "configured".to_owned()));
    }
    for (key, value) in config.defaults.values() {
        all.push((format!("defaults.{key}"), value));
    }
    all
}

/// What an identity may, and how it is known. Of a token the beginning of its hash:
/// enough to see that it was rotated, too little to look for it.
fn rights(of: &Identity) -> String {
    let list = |items: Vec<String>| items.join(" ");
    let mut all = vec![
        format!("roles={}", list(of.roles.iter().map(|role| role.name().to_owned()).collect())),
        format!("tenants={}", list(of.tenants.iter().map(pattern).collect())),
    ];
    if of.shared {
        all.push("shared".to_owned());
    }
    for (name, items) in [
        ("tokens", of.tokens.iter().map(|token| format!("{:.8}...", token.hex())).collect()),
        ("uids", of.uids.iter().map(ToString::to_string).collect()),
        ("gids", of.gids.iter().map(ToString::to_string).collect()),
        ("certificates", of.certificates.clone()),
    ] {
        if !Vec::is_empty(&items) {
            all.push(format!("{name}={}", list(items)));
        }
    }
    all.join(", ")
}

fn pattern(of: &TenantPattern) -> String {
    match of {
        TenantPattern::All => "*".to_owned(),
        TenantPattern::Prefix(prefix) => format!("{prefix}*"),
        TenantPattern::One(tenant) => tenant.to_string(),
    }
}

/// Tenants whose entry came, went or changed, with what it said before and says now;
/// nothing where there is none.
#[must_use]
pub fn tenants(old: &Config, new: &Config) -> Vec<(TenantId, Values, Values)> {
    let ids: BTreeSet<_> = old.tenants.keys().chain(new.tenants.keys()).collect();
    let values = |config: &Config, id: &TenantId| {
        config
            .tenants
            .get(id)
            .map_or_else(Vec::new, |of: &std::sync::Arc<TenantConfig>| of.values())
    };
    let version = |config: &Config, id: &TenantId| {
        config.tenants.get(id).map(|of: &std::sync::Arc<TenantConfig>| of.version.clone())
    };
    ids.into_iter()
        .filter(|id| version(old, id) != version(new, id))
        .map(|id| (id.clone(), values(old, id), values(new, id)))
        .collect()
}
