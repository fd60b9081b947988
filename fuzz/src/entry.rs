//! What a source says of a tenant, as JSON or as a row: taken whole and valid,
//! or refused by key and without a value.

use serde_json::Value;
use tenantd::{
    config::{Config, entry::Entry},
    domain::tenant::TenantId,
    source::sql::{Row, columns},
};

use super::{CANARY, config::is_valid_tenant};

/// An entry of one tenant in JSON.
pub fn check(data: &[u8]) {
    if let Ok(value) = serde_json::from_slice::<Value>(data) {
        entry(&value);
    }
}

fn entry(value: &Value) {
    let tenant = TenantId::parse("acme").expect("is one");
    let base = Config::builtin().base;
    let (in_a_key, is_shown) = (in_a_key(value), shown(value));
    for literals in [false, true] {
        let read = match Entry::from_json(&tenant, value.clone(), &base, literals) {
            Ok(read) => read,
            Err(said) => {
                assert!(!said.is_empty());
                assert!(in_a_key || !said.contains(CANARY), "{said}");
                continue;
            }
        };
        assert!(is_shown || !format!("{read:?}").contains(CANARY), "in Debug");
        // Laid over itself it stays what it is, and over nothing too.
        assert_eq!(read.over(&read), read);
        let nothing = Entry::from_json(&tenant, serde_json::json!({}), &base, false);
        let nothing = nothing.expect("an empty entry gives nothing");
        assert_eq!(read.over(&nothing).keys(), read.keys());
        assert_eq!(nothing.over(&read).keys(), read.keys());
        match read.complete(&base) {
            Ok(whole) => {
                is_valid_tenant(&whole);
                assert!(is_shown || !format!("{whole:?}").contains(CANARY), "in Debug");
                let shown = format!("{:?}", whole.values());
                assert!(is_shown || !shown.contains(CANARY), "{shown}");
            }
            Err(said) => assert!(in_a_key || !said.contains(CANARY), "{said}"),
        }
    }
}

/// A row as a JSON list of pairs: name of the column, value.
pub fn check_row(data: &[u8]) {
    const MAX: usize = 4096;
    let Ok(row) = serde_json::from_slice::<Row>(data) else { return };
    let tenant = TenantId::parse("acme").expect("is one");
    let others = row.iter().any(|(name, value)| name == "tenant" && value != "acme");
    let in_a_name = row.iter().any(|(name, _)| name.contains(CANARY));
    match columns::entry(row, &tenant, MAX) {
        Ok(value) => {
            assert!(!others, "the row of another tenant was taken");
            entry(&value);
        }
        Err(said) => assert!(in_a_name || !said.contains(CANARY), "{said}"),
    }
}

fn in_a_key(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.iter().any(|(k, v)| k.contains(CANARY) || in_a_key(v)),
        Value::Array(items) => items.iter().any(in_a_key),
        _ => false,
    }
}

/// The canary stands in a key, or in a value that is no secret: all but a
/// credential itself, which is not the reference to one.
fn shown(value: &Value) -> bool {
    fn credential(value: &Value) -> bool {
        match value {
            Value::String(text) => {
                ["env:", "file:", "vault:"].iter().any(|of| text.starts_with(of))
            }
            other => shown(other),
        }
    }
    match value {
        Value::Object(map) => map.iter().any(|(key, inner)| {
            key.contains(CANARY)
                || match (key.as_str(), inner) {
                    ("credential", inner) => credential(inner),
                    ("credentials", Value::Object(all)) => {
                        all.iter().any(|(name, of)| name.contains(CANARY) || credential(of))
                    }
                    (_, inner) => shown(inner),
                }
        }),
        Value::Array(items) => items.iter().any(shown),
        Value::String(text) => text.contains(CANARY),
        _ => false,
    }
}
