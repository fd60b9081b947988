//! Dependencies point one way. A module that reaches outward fails here.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

/// Module, the `crate::` modules that it may name, and what it must not name.
const RULES: [(&str, &[&str], &[&str]); 12] = [
    (
        "domain",
        &["domain"],
        &[
            "tonic",
            "tokio",
            "prost",
            "dashmap",
            "std::fs",
            "std::net",
            "std::thread",
            "Instant::now",
            "SystemTime",
            "tracing",
            "parking_lot",
            "async fn",
        ],
    ),
    ("config", &["config", "domain"], &["tonic", "tokio", "prost", "dashmap"]),
    ("app", &["app", "config", "domain"], &["tonic", "prost", "std::fs", "std::net"]),
    ("store", &["store", "app", "domain"], &["tonic", "prost", "tokio", "std::fs"]),
    ("state", &["state", "app", "domain"], &["tonic", "prost", "tokio", "dashmap"]),
    ("source", &["source", "app", "config", "domain", "wire"], &["dashmap"]),
    ("audit", &["audit", "app", "domain"], &["tonic", "prost", "dashmap"]),
    ("transport", &["transport", "app", "domain"], &["prost", "dashmap"]),
    ("grpc", &["grpc", "app", "domain", "transport", "wire"], &["std::fs", "dashmap"]),
    ("telemetry", &["telemetry", "app", "domain"], &["tonic", "prost", "dashmap", "std::fs"]),
    (
        "server",
        &[
            "server",
            "address",
            "app",
            "audit",
            "config",
            "domain",
            "grpc",
            "source",
            "state",
            "store",
            "telemetry",
            "transport",
            "wire",
        ],
        &["prost", "dashmap"],
    ),
    // A client of the sidecar like any other, but for `serve`, `check`, `demo` and the
    // commands on a database.
    (
        "cli",
        &[
            "cli",
            "address",
            "app",
            "audit",
            "config",
            "domain",
            "server",
            "source",
            "telemetry",
            "wire",
        ],
        &["dashmap"],
    ),
];

fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            // Tests may reach anywhere, and prose may name anything.
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
            let code: Vec<_> =
                code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            found.push((path.display().to_string(), code.join("\n")));
        }
    }
}

/// The modules named as `crate::x`, and as the roots of `use crate::{ .. }`.
fn named(code: &str) -> Vec<String> {
    let mut names = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            names.push(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
            continue;
        };
        let (mut depth, mut word, mut fresh) = (0, String::new(), true);
        for c in group.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => fresh = true,
                _ if depth == 0 && fresh && (c.is_alphanumeric() || c == '_') => word.push(c),
                _ if depth == 0 && !word.is_empty() => {
                    names.push(std::mem::take(&mut word));
                    fresh = false;
                }
                _ => {}
            }
        }
    }
    names
}

#[test]
fn no_module_reaches_outward() {
    let mut wrong = Vec::new();
    for (module, allowed, banned) in RULES {
        let mut files = Vec::new();
        sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(module), &mut files);
        assert!(!files.is_empty(), "{module} has moved: mend the table");
        for (path, code) in files {
            for name in named(&code).into_iter().filter(|name| !allowed.contains(&name.as_str())) {
                wrong.push(format!("{path} names crate::{name}"));
            }
            for ban in banned.iter().filter(|ban| code.contains(**ban)) {
                wrong.push(format!("{path} names {ban}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn only_one_file_names_status_codes_of_answers() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let named: Vec<_> = files
        .iter()
        .filter(|(_, code)| code.contains("tonic::Code") || code.contains("Status::new"))
        .map(|(path, _)| path)
        // Clients read codes, of the sidecar and of an operator's service.
        .filter(|path| !path.ends_with("grpc/status.rs") && !path.contains("/cli/"))
        .collect();
    assert!(named.is_empty(), "{named:?}");
}

#[test]
fn only_one_file_names_metrics() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let named: Vec<_> = files
        .iter()
        .filter(|(path, _)| !path.ends_with("telemetry/names.rs"))
        .filter(|(_, code)| {
            [
                "session", "breaker", "config.", "worker", "metrics", "source.", "acquire",
                "machine", "tenant.", "watch", "events", "draining", "build", "audit",
            ]
            .iter()
            .any(|group| code.contains(&format!("\"tenantd.{group}")))
        })
        .map(|(path, _)| path)
        .collect();
    assert!(named.is_empty(), "{named:?}");
}
