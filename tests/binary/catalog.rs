//! The metrics as docs/metrics.md has them, by the names that Prometheus shows.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

/// A file of the repository.
pub fn repository(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Words in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The rows of the table: names, kind and labels.
fn rows() -> Vec<(Vec<String>, String, Vec<String>)> {
    let text = repository("docs/metrics.md");
    let table = text.split("| name | kind |").nth(1).unwrap().split("\n\n").next().unwrap();
    let row = |line: &str| {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        (quoted(cells[0]), cells[1].to_owned(), quoted(cells[2]))
    };
    table.lines().filter(|line| line.starts_with("| `")).map(row).collect()
}

/// Each metric by its own name.
pub fn metrics() -> Vec<String> {
    rows().into_iter().flat_map(|(names, ..)| names).collect()
}

/// Each series' name with its labels.
pub fn series() -> BTreeMap<String, BTreeSet<String>> {
    let mut all = BTreeMap::new();
    for (names, kind, labels) in rows() {
        let labels: BTreeSet<String> = labels.into_iter().map(|of| of.replace('.', "_")).collect();
        for name in names {
            let mut name = name.replace('.', "_");
            if kind.ends_with(", s") {
                name += "_seconds";
            } else if kind.ends_with(", By") {
                name += "_bytes";
            }
            if kind.starts_with("counter") {
                all.insert(name + "_total", labels.clone());
            } else if kind.starts_with("histogram") {
                let mut with_bound = labels.clone();
                with_bound.insert("le".to_owned());
                all.insert(format!("{name}_bucket"), with_bound);
                all.insert(format!("{name}_sum"), labels.clone());
                all.insert(format!("{name}_count"), labels.clone());
            } else {
                all.insert(name, labels.clone());
            }
        }
    }
    assert!(all.len() > 40, "the table of docs/metrics.md was not read");
    all
}

/// The values that a label has, where they are few.
pub fn values(label: &str) -> Option<Vec<String>> {
    let owned = |all: &[&str]| Some(all.iter().map(|of| (*of).to_owned()).collect());
    match label {
        "state" => owned(&["closed", "open", "half_open"]),
        "outcome" => owned(&["success", "failure", "cancelled", "lost", "revoked"]),
        "result" => owned(&["ok", "failed", "granted", "refused"]),
        "stale" => owned(&["true", "false"]),
        "reason" => {
            let contract: Vec<serde_json::Value> =
                serde_json::from_str(&repository("tests/contract/reasons.json")).unwrap();
            Some(contract.iter().map(|of| of["reason"].as_str().unwrap().to_owned()).collect())
        }
        _ => None,
    }
}
