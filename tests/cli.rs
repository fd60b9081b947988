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
        "top",
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
        "log-filter",
        "logs",
        "audit",
        "audit verify",
        "audit show",
        "config schema",
        "token new",
        "token hash",
        "tenants init",
        "tenants import",
        "tenants export",
        "tenants set",
        "tenants rm",
    ];
    for command in commands {
        let arguments: Vec<_> = command.split_whitespace().chain(["--help"]).collect();
        let text = String::from_utf8(tenantd(&arguments).stdout).unwrap();
        assert!(text.contains("Examples:"), "{command} has no examples");
        let name =
            if command.is_empty() { "tenantd".to_owned() } else { command.replace(' ', "-") };
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
fn a_sidecar_does_not_start_on_a_config_file_that_an_edit_has_only_emptied() {
    let output = tenantd(&["serve", "--config", "check/empty.toml", "--listen", "unix:/nowhere/s"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains("check/empty.toml: is empty"), "{}", said(&output));
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

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn entries_of_a_database_are_made_imported_changed_exported_and_removed() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("t.db").display());
    let run = |arguments: &[&str]| {
        let all = [&["tenants"], arguments, &["--database", &url]].concat();
        tenantd(&all)
    };
    assert!(!run(&["export"]).status.success(), "there is no table");
    assert!(run(&["init"]).status.success());
    assert!(run(&["init"]).status.success(), "a second time changes nothing");
    let file = dir.path().join("agency.toml");
    fs::write(
        &file,
        "[tenants.acme]\ncap = 5\n[tenants.acme.providers.llm]\nprovider = 'openai'\ncredential = 'env:K'\n\
         [tenants.globex.labels]\nplan = 'gold'\n",
    )
    .unwrap();
    let imported = run(&["import", file.to_str().unwrap()]);
    assert!(said(&imported).contains("2 tenants imported"), "{}", said(&imported));
    let set = run(&[
        "set",
        "acme",
        "cap=",
        "labels.plan=silver",
        "breaker.probes=7",
        "providers.tts=none",
    ]);
    assert!(set.status.success(), "{}", said(&set));
    assert!(run(&["rm", "globex"]).status.success());
    assert!(!run(&["rm", "globex"]).status.success(), "it is gone");
    let exported = run(&["export", "--json"]);
    let exported: serde_json::Value = serde_json::from_slice(&exported.stdout).unwrap();
    let want = serde_json::json!({ "acme": {
        "labels": { "plan": "silver" },
        "breaker": { "probes": 7 },
        "providers": { "llm": { "provider": "openai", "credential": "env:K" }, "tts": "none" },
    } });
    assert_eq!(exported, want);
    let again = dir.path().join("again.toml");
    fs::write(&again, run(&["export"]).stdout).unwrap();
    assert!(run(&["import", again.to_str().unwrap()]).status.success(), "what is exported imports");
}

#[test]
fn a_wrong_entry_is_refused_before_it_reaches_the_database() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("t.db").display());
    let run = |arguments: &[&str]| {
        let all = [&["tenants"], arguments, &["--database", &url]].concat();
        tenantd(&all)
    };
    assert!(run(&["init"]).status.success());
    for (values, says) in [
        (&["cap=x"][..], "cap: must be a whole number"),
        (&["capp=1"], "did you mean cap?"),
        (&["lease.ttl=2h", "lease.ttl_max=1h"], "must be in this order"),
        (&["providers.llm.provider=x", "providers.llm.credential=sk-canary"], "--literals"),
        (&["cap"], "KEY=VALUE"),
        (&["cap=1", "cap.x=1"], "goes through a value that is no table"),
    ] {
        let output = run(&[&["set", "acme"], values].concat());
        assert_eq!(output.status.code(), Some(1));
        assert!(said(&output).contains(says), "{}", said(&output));
        assert!(!said(&output).contains("canary"), "{}", said(&output));
    }
    assert_eq!(run(&["export", "--json"]).stdout, b"{}\n", "nothing was put");
    let output = run(&["set", "a b", "cap=1"]);
    assert!(said(&output).contains("1-128 characters"), "{}", said(&output));
    let literal = [
        "set",
        "acme",
        "--literals",
        "providers.llm.provider=x",
        "providers.llm.credential=sk-canary",
    ];
    assert!(run(&literal).status.success());
    let output = run(&["export"]);
    assert!(!said(&output).contains("canary") && said(&output).contains("1 keys were left out"));
    assert!(said(&run(&["export", "--with-keys"])).contains("sk-canary"));
}

#[test]
fn check_resolve_says_for_each_credential_whether_it_resolves_and_shows_none() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("key"), "sk-canary\n").unwrap();
    let config = dir.path().join("tenantd.toml");
    fs::write(
        &config,
        "[defaults.providers.stt]\nprovider='x'\ncredential='env:NO_SUCH_VARIABLE'\n\
         [tenants.acme.providers.llm]\nprovider='x'\ncredential='file:key'\n\
         [tenants.acme.providers]\nstt='none'\n\
         [[sources]]\nkind='sql'\nurl='sqlite:t.db'\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    assert!(tenantd(&["tenants", "init", "--config", config]).status.success());
    let set = [
        "tenants",
        "set",
        "globex",
        "providers.llm.provider=y",
        "providers.llm.credential=file:none",
        "--config",
        config,
    ];
    assert!(tenantd(&set).status.success());
    let output = tenantd(&["check", config, "--resolve", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    let rows: Vec<serde_json::Value> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let row = |tenant: &str, slot: &str| {
        rows.iter().find(|row| row["tenant"] == tenant && row["slot"] == slot).unwrap()
    };
    assert_eq!(row("acme", "llm")["result"], "resolves");
    assert!(row("globex", "llm")["result"].as_str().unwrap().contains("No such file"));
    assert!(row("(defaults)", "stt")["result"].as_str().unwrap().contains("is not set"));
    assert!(!said(&output).contains("canary"));
    let one = tenantd(&["check", config, "--resolve", "--tenant", "acme"]);
    assert!(one.status.success(), "{}", said(&one));
}

#[test]
fn the_schema_takes_the_example_and_refuses_what_check_refuses() {
    let schema = tenantd(&["config", "schema"]);
    let schema: serde_json::Value = serde_json::from_slice(&schema.stdout).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: PathBuf| -> serde_json::Value {
        toml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    };
    let example = read(root.join("examples/agency.toml"));
    let errors: Vec<_> = validator.iter_errors(&example).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    for wrong in ["unknown-key", "wrong-type"] {
        let wrong = read(root.join(format!("tests/golden/check/{wrong}.toml")));
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
    let sources = serde_json::json!({
        "sources": [{ "kind": "sql", "url": "sqlite:t.db", "ttl": "5s" }],
        "vault": { "address": "https://v", "token": "env:T" },
        "tenants": { "acme": { "providers": { "tts": "none", "llm": { "provider": "x" } } } },
    });
    assert!(validator.is_valid(&sources));
    assert!(
        !validator.is_valid(&serde_json::json!({ "sources": [{ "kind": "ldap", "url": "x" }] }))
    );
}

#[test]
fn a_token_is_printed_once_with_the_hash_that_the_config_takes() {
    let made = tenantd(&["token", "new", "--json"]);
    let made: serde_json::Value = serde_json::from_slice(&made.stdout).unwrap();
    let (token, hash) = (made["token"].as_str().unwrap(), made["hash"].as_str().unwrap());
    assert!(token.len() > 64 && token.starts_with("tnd_"));
    let again = tenantd(&["token", "new", "--json"]);
    assert!(!String::from_utf8(again.stdout).unwrap().contains(token));
    let hashed = |token: &str| {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        fs::write(&file, token).unwrap();
        Command::new(env!("CARGO_BIN_EXE_tenantd"))
            .args(["token", "hash"])
            .stdin(fs::File::open(file).unwrap())
            .output()
            .unwrap()
    };
    let known = hashed(&format!("{token}\n"));
    assert_eq!(String::from_utf8(known.stdout).unwrap().trim(), hash);
    let short = hashed("hunter2");
    assert_eq!(short.status.code(), Some(1));
    assert!(!String::from_utf8(short.stderr).unwrap().contains("hunter2"));
    let text =
        format!("[[identities]]\nname='a'\nroles=['agent']\ntenants=['*']\ntokens=['{hash}']\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, text).unwrap();
    tenantd::config::load(file.path()).unwrap();
}
