//! One row as an entry: columns are keys of `[tenants.NAME]`, with `__` or `.`
//! between the parts of a key.

use serde_json::{Map, Value};

use super::Row;
use crate::{config::entry::wipe, domain::tenant::TenantId};

/// The entry of a row. `tenant` is checked and left out, `config` is the whole
/// entry as JSON, and any other column one key: `cap`, `breaker__window`,
/// `providers__llm__model`. NULL is not given. A text that begins with `{` is
/// JSON where the key is a table.
///
/// # Errors
/// Which column is wrong, without its value.
pub fn entry(row: Row, tenant: &TenantId, max_bytes: usize) -> Result<Value, String> {
    let mut entry = Map::new();
    let mut bytes = 0;
    for (column, value) in row {
        bytes += weight(&value);
        if bytes > max_bytes {
            wipe(value);
            wipe(Value::Object(entry));
            return Err(format!("the row is larger than {max_bytes} bytes"));
        }
        if column == "tenant" {
            // A query that forgot its WHERE must not hand out another's keys.
            if value.as_str() != Some(tenant.as_str()) {
                return Err("the query gave the row of another tenant".to_owned());
            }
            continue;
        }
        if value.is_null() {
            continue;
        }
        let path: Vec<&str> = match column.as_str() {
            "config" => Vec::new(),
            column if column.contains("__") => column.split("__").collect(),
            column => column.split('.').collect(),
        };
        let value = understood(&column, &path, value)?;
        put(&mut entry, &path, value)
            .map_err(|()| format!("column {column} does not go with the columns before it"))?;
    }
    Ok(Value::Object(entry))
}

fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(weight).sum(),
        Value::Object(map) => map.iter().map(|(key, value)| key.len() + weight(value)).sum(),
    }
}

fn understood(column: &str, path: &[&str], value: Value) -> Result<Value, String> {
    let is_table = match path {
        [] | ["providers" | "labels" | "breaker" | "lease"] => true,
        ["providers", _] => matches!(&value, Value::String(text) if text != "none"),
        ["providers", _, "params" | "credentials"] => true,
        _ => false,
    };
    match value {
        Value::String(mut text) if is_table => {
            let read = serde_json::from_str(&text);
            zeroize::Zeroize::zeroize(&mut text);
            read.map_err(|error| {
                format!(
                    "column {column} must be a JSON object; it is not JSON at character {}",
                    error.column()
                )
            })
        }
        // SQLite has no booleans.
        Value::Number(number) if path == ["breaker", "enabled"] => match number.as_i64() {
            Some(0) => Ok(Value::Bool(false)),
            Some(1) => Ok(Value::Bool(true)),
            _ => Err(format!("column {column} must be true or false")),
        },
        other => Ok(other),
    }
}

/// Puts a value at its path; tables met there are joined, the later one wins.
fn put(entry: &mut Map<String, Value>, path: &[&str], value: Value) -> Result<(), ()> {
    let [key, rest @ ..] = path else {
        let Value::Object(whole) = value else { return Err(()) };
        for (key, value) in whole {
            join(entry, key, value);
        }
        return Ok(());
    };
    if rest.is_empty() {
        join(entry, (*key).to_owned(), value);
        return Ok(());
    }
    match entry.entry(*key).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => put(inner, rest, value),
        _ => Err(()),
    }
}

fn join(entry: &mut Map<String, Value>, key: String, value: Value) {
    match (entry.get_mut(&key), value) {
        (Some(Value::Object(there)), Value::Object(more)) => {
            for (key, value) in more {
                join(there, key, value);
            }
        }
        (_, value) => _ = entry.insert(key, value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(columns: &[(&str, Value)]) -> Result<Value, String> {
        let row = columns.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        entry(row.collect(), &TenantId::parse("acme").unwrap(), 1000)
    }

    #[test]
    fn columns_are_keys_and_null_is_not_given() {
        let got = of(&[
            ("tenant", json!("acme")),
            ("cap", json!(5)),
            ("providers__llm__provider", json!("openai")),
            ("providers__llm__model", Value::Null),
            ("providers__tts", json!("none")),
            ("labels", json!("{\"plan\":\"gold\"}")),
            ("breaker.window", json!("30s")),
            ("breaker__enabled", json!(0)),
        ]);
        let want = json!({
            "cap": 5,
            "providers": { "llm": { "provider": "openai" }, "tts": "none" },
            "labels": { "plan": "gold" },
            "breaker": { "window": "30s", "enabled": false },
        });
        assert_eq!(got.unwrap(), want);
    }

    #[test]
    fn single_columns_go_over_the_whole_entry() {
        let whole = json!({ "cap": 1, "labels": { "a": "x" } });
        let got = of(&[("config", json!(whole.to_string())), ("cap", json!(9))]).unwrap();
        assert_eq!(got, json!({ "cap": 9, "labels": { "a": "x" } }));
    }

    #[test]
    fn a_row_of_another_tenant_is_never_taken() {
        assert!(of(&[("tenant", json!("globex")), ("cap", json!(1))]).is_err());
        assert!(of(&[("tenant", Value::Null)]).is_err());
    }

    #[test]
    fn what_is_wrong_is_said_by_column_and_without_the_value() {
        for (row, says) in [
            (vec![("config", json!("{sk-canary"))], "column config must be a JSON object"),
            (vec![("config", json!("\"sk-canary\""))], "column config does not go"),
            (vec![("cap", json!(1)), ("cap__x", json!(2))], "column cap__x does not go"),
            (vec![("labels", json!("x".repeat(2000)))], "larger than 1000 bytes"),
        ] {
            let said = of(&row).unwrap_err();
            assert!(said.contains(says), "{said}");
            assert!(!said.contains("canary"), "{said}");
        }
    }
}
