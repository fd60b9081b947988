//! What deploy/ has is what runs: each tool's own check, and the real names.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use serde_json::Value;

use crate::{
    catalog::{self, repository},
    support::{Start, call, private, skipped, text},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The folder of tools that a script finds or installs; none, told, where it may not.
fn tools(script: &str) -> Option<PathBuf> {
    let found = Command::new(root().join("scripts").join(script)).output().unwrap();
    if found.status.success() {
        return Some(String::from_utf8(found.stdout).unwrap().trim().into());
    }
    skipped(&text(&found));
    None
}

fn run(tool: PathBuf, arguments: &[&str]) -> Output {
    Command::new(tool).args(arguments).current_dir(root()).output().unwrap()
}

fn succeeds(output: &Output) {
    assert!(output.status.success(), "{}", text(output));
}

#[test]
fn the_alert_rules_are_valid_and_each_fires_when_it_should_and_only_then() {
    let Some(folder) = tools("prometheus.sh") else { return };
    let promtool = || folder.join("promtool");
    succeeds(&run(promtool(), &["check", "config", "deploy/prometheus/prometheus.yml"]));
    let test = "deploy/prometheus/tenantd.rules.test.yml";
    succeeds(&run(promtool(), &["test", "rules", test]));
    // Each alert has its case.
    let cases = repository(test);
    for line in repository("deploy/prometheus/tenantd.rules.yml").lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            assert!(cases.contains(&format!("alertname=\"{name}\"")), "{name} has no case");
        }
    }
}

/// The expressions of the alert rules.
pub fn alerts() -> Vec<String> {
    let text = repository("deploy/prometheus/tenantd.rules.yml");
    let mut all: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines() {
        if let Some(expression) = line.trim().strip_prefix("expr: ") {
            is_open = expression == "|";
            all.push(if is_open { String::new() } else { expression.to_owned() });
        } else if line.trim().starts_with("for:") || line.trim().starts_with("labels:") {
            is_open = false;
        } else if is_open {
            let last = all.last_mut().unwrap();
            last.push_str(line);
            last.push('\n');
        }
    }
    assert!(all.len() > 10);
    all
}

/// The expressions of the dashboard's panels, annotations and variables.
pub fn panels() -> Vec<String> {
    let dashboard: Value =
        serde_json::from_str(&repository("deploy/grafana/tenantd.json")).unwrap();
    let mut all = Vec::new();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let annotations = dashboard["annotations"]["list"].as_array().unwrap();
    for of in
        panels.flat_map(|of| of["targets"].as_array().into_iter().flatten()).chain(annotations)
    {
        all.push(of["expr"].as_str().unwrap().to_owned());
    }
    assert!(all.len() > 30);
    all
}

/// Names that stand before a place, back to the last that is none.
fn is_word(of: char) -> bool {
    of.is_ascii_alphanumeric() || of == '_'
}

/// Checks each metric, label and label value of an expression.
fn is_known(expression: &str) -> usize {
    let series = catalog::series();
    let added = ["job", "instance"].map(str::to_owned);
    let everything: BTreeSet<&String> = series.values().flatten().chain(&added).collect();
    let mut found = 0;
    let mut rest = expression;
    while let Some(start) = rest.find(is_word) {
        let end = rest[start..].find(|of| !is_word(of)).map_or(rest.len(), |at| start + at);
        let word = &rest[start..end];
        rest = &rest[end..];
        if ["tenantd_", "rpc_server", "process_"].iter().any(|of| word.starts_with(of)) {
            found += 1;
            let labels = series.get(word);
            let labels = labels.unwrap_or_else(|| panic!("no such metric: {word} in {expression}"));
            if let Some(selector) = rest.strip_prefix('{') {
                let selector = selector.split('}').next().unwrap();
                rest = &rest[selector.len() + 2..];
                for part in selector.split(", ") {
                    let label: String = part.chars().take_while(|of| is_word(*of)).collect();
                    assert!(
                        labels.contains(&label) || added.contains(&label),
                        "{word} has no label {label}: {expression}"
                    );
                    let value = part.split('"').nth(1).unwrap();
                    if let Some(values) = catalog::values(&label) {
                        assert!(values.iter().any(|of| of == value), "{label}={value}");
                    }
                }
            }
        } else if word == "by" || word == "on" {
            let list = rest.split('(').nth(1).unwrap().split(')').next().unwrap();
            for label in list.split(", ") {
                assert!(everything.contains(&label.to_owned()), "no label {label}: {expression}");
            }
        }
    }
    found
}

#[test]
fn dashboard_and_alerts_use_metrics_labels_and_values_that_exist() {
    for expression in panels() {
        assert!(is_known(&expression) > 0, "{expression}");
    }
    for expression in alerts() {
        assert!(is_known(&expression) > 0 || expression.starts_with("up{"), "{expression}");
    }
    let is_refused = |wrong: &'static str| std::panic::catch_unwind(|| is_known(wrong)).is_err();
    assert!(is_refused("rate(tenantd_no_such_total[5m])"), "this test finds a wrong name");
    assert!(is_refused("tenantd_sessions_active{state=\"open\"}"), "and a wrong label");
    assert!(is_refused("tenantd_breaker_state{state=\"ajar\"}"), "and a wrong value");
}

#[test]
fn the_dashboard_has_only_panels_that_grafana_keeps_and_each_is_whole() {
    let dashboard: Value =
        serde_json::from_str(&repository("deploy/grafana/tenantd.json")).unwrap();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title} has another's id");
        let at = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        for (x, y) in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(x < 24 && taken.insert((x, y)), "{title} lies over another panel");
        }
        let kind = panel["type"].as_str().unwrap();
        if kind == "row" {
            continue;
        }
        assert!(["timeseries", "stat", "table"].contains(&kind), "{title} is a {kind}");
        assert!(!panel["description"].as_str().unwrap().is_empty(), "{title} says nothing");
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

#[test]
fn the_systemd_unit_is_valid_and_shut_off_and_its_commands_exist() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        skipped("there is no systemd-analyze");
        return;
    }
    let unit = repository("deploy/systemd/tenantd.service");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("tenantd.socket");
    fs::write(&socket, repository("deploy/systemd/tenantd.socket")).unwrap();
    let path = dir.path().join("tenantd.service");
    fs::write(&path, unit.replace("/usr/bin/tenantd", env!("CARGO_BIN_EXE_tenantd"))).unwrap();
    let path = path.to_str().unwrap();
    let verified = run("systemd-analyze".into(), &["verify", path, socket.to_str().unwrap()]);
    succeeds(&verified);
    for file in ["tenantd.service", "tenantd.socket"] {
        assert!(!text(&verified).contains(file), "{}", text(&verified));
    }
    let secure = ["security", "--offline=true", "--threshold=20", "--no-pager", path];
    succeeds(&run("systemd-analyze".into(), &secure));
    for line in unit.lines().filter(|line| line.contains("=/usr/bin/tenantd ")) {
        let command = line.split("/usr/bin/tenantd ").nth(1).unwrap();
        let mut words: Vec<_> = command.split(' ').collect();
        words.push("--help");
        succeeds(&call("unix:/nowhere", &words));
    }
}

#[test]
fn the_kubernetes_example_is_valid_and_its_config_is_taken() {
    let yaml = repository("deploy/kubernetes/sidecar.yaml");
    let config = yaml.split("tenantd.toml: |\n").nth(1).unwrap().split("---").next().unwrap();
    let config: String =
        config.lines().map(|line| line.get(4..).unwrap_or("").to_owned() + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tenantd.toml");
    private(&file, &config);
    succeeds(&call("unix:/nowhere", &["check", file.to_str().unwrap()]));
    for command in yaml.lines().filter_map(|line| line.split("[/usr/local/bin/tenantd, ").nth(1)) {
        let words = command.split(']').next().unwrap();
        let words: Vec<_> = words.split(", ").chain(["--help"]).collect();
        succeeds(&call("unix:/nowhere", &words));
    }
    let Some(folder) = tools("deploy-tools.sh") else { return };
    let path = "deploy/kubernetes/sidecar.yaml";
    succeeds(&run(folder.join("kubernetes-validate"), &["--strict", path]));
}

#[test]
fn a_socket_in_a_folder_of_its_own_serves_where_everybody_may_write_beside_it() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let address = format!("unix:{}/own/tenantd.sock", dir.path().display());
    let listen: [&str; 1] = [&address];
    let _running = Start { listen: &listen, ..Start::default() }.run();
    succeeds(&call(&address, &["healthcheck"]));
    succeeds(&call(&address, &["healthcheck", "--alive"]));
}

#[test]
fn the_dockerfile_passes_its_lint_and_copies_all_that_the_build_needs() {
    let file = repository("deploy/Dockerfile");
    let dir = tempfile::tempdir().unwrap();
    for line in file.lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let words: Vec<_> = line.split(' ').collect();
        if words[0].starts_with("--from") {
            continue;
        }
        let (to, from) = words.split_last().unwrap();
        for from in from {
            let ignored = repository(".dockerignore");
            let kept = ignored.lines().any(|line| line.strip_prefix('!') == Some(from));
            assert!(kept, "{from} is not sent to the builder");
            let to = if from.contains('/') { dir.path().join(to) } else { dir.path().join(from) };
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            let copied = Command::new("cp").arg("-r").arg(root().join(from)).arg(to).status();
            assert!(copied.unwrap().success());
        }
    }
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let looked = Command::new(cargo)
        .args(["metadata", "--offline", "--no-deps", "--format-version", "1"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(text(&looked).contains("\"name\":\"tenantd\""), "{}", text(&looked));
    let Some(folder) = tools("deploy-tools.sh") else { return };
    succeeds(&run(folder.join("hadolint"), &["deploy/Dockerfile"]));
}

/// What a service manager is told next, other than that it is alive.
fn told(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    loop {
        let length = manager.recv(&mut bytes).expect("it is told in time");
        let said = String::from_utf8(bytes[..length].to_vec()).unwrap();
        if said != "WATCHDOG=1\n" {
            return said;
        }
    }
}

#[test]
fn a_service_manager_is_told_that_it_serves_reloads_lives_and_drains() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let env = [("NOTIFY_SOCKET", path.to_str().unwrap()), ("WATCHDOG_USEC", "300000")];
    let config = "[drain]\ntimeout='7s'\n[tenants.acme]\n";
    let mut running = Start { config, env: &env, ..Start::default() }.run();
    let ready = told(&manager);
    assert_eq!(ready, "READY=1\nSTATUS=serves; 1 tenants\n");
    succeeds(&running.call(&["healthcheck"]));
    let mut bytes = [0; 100];
    for _ in 0..3 {
        let length = manager.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"WATCHDOG=1\n");
    }
    running.signal("HUP");
    let reloading = told(&manager);
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert!(told(&manager).starts_with("READY=1\n"));
    running.signal("TERM");
    let stopping = told(&manager);
    assert!(stopping.starts_with("STOPPING=1\nEXTEND_TIMEOUT_USEC=27000000\n"), "{stopping}");
    assert_eq!(running.ends(), Some(0));
}
