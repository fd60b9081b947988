//! The docs say what the program does.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

fn doc(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

/// The keys that a table of the config file takes, from its own error.
fn keys_of(table: &str) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.toml");
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    fs::write(&path, format!("{header}no_such_key = 1\n")).unwrap();
    let said = tenantd::config::load(&path).unwrap_err().to_string();
    let line = said.lines().find(|line| line.contains("no_such_key")).unwrap();
    let (_, keys) = line.split_once("valid here: ").unwrap();
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_of_the_config_file_is_documented() {
    let text = doc("config.md");
    let tables = [
        "",
        "listen",
        "[identities]",
        "lease",
        "limits",
        "drain",
        "defaults",
        "defaults.breaker",
        "defaults.providers.llm",
        "tenants.a",
        "agents.a",
        "[sources]",
        "vault",
        "telemetry",
        "audit",
    ];
    let mut seen = 0;
    for table in tables {
        for key in keys_of(table) {
            seen += 1;
            let named = [
                format!("`{key}`"),
                format!(".{key}`"),
                format!("`{key}."),
                format!("[{key}]"),
                format!("`{key} ="),
                format!("[{key}."),
            ];
            let documented = named.iter().any(|name| text.contains(name.as_str()));
            assert!(documented, "docs/config.md does not name {key} of [{table}]");
        }
    }
    assert!(seen > 40, "the keys were not found");
}

#[test]
fn every_default_bound_is_documented_as_it_is() {
    let text = doc("config.md");
    let limits = format!("{:?}", tenantd::config::Limits::default());
    let fields = limits.trim_start_matches("Limits { ").trim_end_matches(" }");
    for field in fields.split(", ") {
        let (name, default) = field.split_once(": ").unwrap();
        // A source may have a key of the same name, with another default.
        let limits = text.split("## `[limits]`").nth(1).unwrap();
        let row = limits.lines().find(|line| line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("docs/config.md does not name {name}"));
        let written = default.parse::<u64>().map_or_else(
            |_| {
                if default == "None" {
                    return "none".to_owned();
                }
                let spoken = humantime::parse_duration(default).unwrap();
                humantime::format_duration(spoken).to_string()
            },
            |number| number.to_string(),
        );
        assert!(row.contains(&written), "the default of {name} is {written}: {row}");
    }
}

#[test]
fn every_reason_is_documented_with_its_code_and_disposition() {
    let text = doc("reasons.md");
    let contract = include_str!("contract/reasons.json");
    let contract: Vec<serde_json::Value> = serde_json::from_str(contract).unwrap();
    for reason in contract {
        let name = reason["reason"].as_str().unwrap();
        let section = text.split("\n## ").find(|section| section.starts_with(&format!("{name}\n")));
        let row = section.unwrap_or_else(|| panic!("docs/reasons.md does not name {name}"));
        for field in ["code", "disposition"] {
            let said = reason[field].as_str().unwrap();
            assert!(row.contains(said), "{name} has {field} {said}: {row}");
        }
    }
}

#[test]
fn every_action_of_the_audit_log_is_documented() {
    let text = doc("audit.md");
    for action in tenantd::domain::audit::action::ALL {
        assert!(text.contains(&format!("| `{action}` |")), "docs/audit.md does not name {action}");
    }
}

#[test]
fn every_metric_is_documented() {
    let text = doc("metrics.md");
    let names = include_str!("../src/telemetry/names.rs");
    let values = names
        .lines()
        .filter(|line| line.starts_with("pub const "))
        .map(|line| line.split('"').nth(1).unwrap());
    for name in values {
        assert!(text.contains(&format!("`{name}`")), "docs/metrics.md does not name {name}");
    }
}

#[test]
fn every_documented_metric_and_attribute_exists() {
    let names = include_str!("../src/telemetry/names.rs");
    let text = doc("metrics.md");
    let table = text.split("| name | kind |").nth(1).unwrap().split("\n\n").next().unwrap();
    let mut seen = 0;
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        for cell in [cells[0], cells[2]] {
            for name in cell.split('`').skip(1).step_by(2) {
                seen += 1;
                assert!(names.contains(&format!("\"{name}\"")), "there is no {name}");
            }
        }
    }
    assert!(seen > 60, "the table was not read");
}
