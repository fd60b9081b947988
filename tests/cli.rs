//! The command line as a user meets it: help, errors and exit codes.
//! `UPDATE_GOLDEN=1` rewrites the golden files.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
};

fn tenantd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tenantd"))
        .args(arguments)
        .env_remove("TENANTD_CONFIG")
        .env("TENANTD_ADDRESS", "unix:/nonexistent/tenantd.sock")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden"))
        .output()
        .unwrap()
}

fn golden(file: PathBuf, got: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{} differs; UPDATE_GOLDEN=1 rewrites it", path.display());
}

#[test]
fn help_is_as_written_down_and_every_command_has_examples() {
    let commands = [
        "",
        "serve",
        "check",
        "demo",
        "watch",
        "healthcheck",
        "snapshot",
        "sessions",
        "tenants",
        "suspend",
        "resume",
        "cap",
        "breaker",
        "revoke",
        "drain",
        "reload",
        "completions",
    ];
    for command in commands {
        let arguments: Vec<_> = [command, "--help"].into_iter().filter(|a| !a.is_empty()).collect();
        let text = String::from_utf8(tenantd(&arguments).stdout).unwrap();
        assert!(text.contains("Examples:"), "{command} has no examples");
        let name = if command.is_empty() { "tenantd" } else { command };
        golden(format!("help/{name}.txt").into(), &text);
    }
}

#[test]
fn check_names_file_line_key_and_what_would_be_valid() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/check");
    let mut seen = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "toml") {
            continue;
        }
        seen += 1;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let output = tenantd(&["check", &format!("check/{name}.toml")]);
        assert_eq!(output.status.code(), Some(1), "{name}");
        assert!(output.stdout.is_empty());
        golden(format!("check/{name}.txt").into(), &String::from_utf8(output.stderr).unwrap());
    }
    assert!(seen >= 5);
}

#[test]
fn exit_codes_tell_bad_usage_from_an_unreachable_sidecar() {
    let output = tenantd(&["tenants"]);
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("unix:/nonexistent/tenantd.sock") && said.contains("tenantd serve"));
    assert!(output.stdout.is_empty(), "talk goes to stderr");
    assert_eq!(tenantd(&["nonsense"]).status.code(), Some(2));
    assert_eq!(tenantd(&["--address", "nonsense", "tenants"]).status.code(), Some(2));
}

#[test]
fn completions_are_made_for_each_shell() {
    for shell in ["bash", "zsh", "fish"] {
        let output = tenantd(&["completions", shell]);
        assert!(String::from_utf8(output.stdout).unwrap().contains("suspend"), "{shell}");
    }
}

#[test]
fn the_demo_shows_that_the_four_guarantees_hold() {
    let output = tenantd(&["demo"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.ends_with("all four guarantees held\n"), "{shown}");
    assert!(!shown.contains("made-up"), "keys are shown redacted");
}
