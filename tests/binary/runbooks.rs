//! Each command of the runbooks and of the reasons' pages is run as it is printed,
//! against a real sidecar, and prints what the page says.
//!
//! A page's console blocks are run in order in one shell. A line after a command is
//! a line that it must print, in this order, with others between; `...` stands for
//! anything; the last may be its exit code. A scene, in a comment of the page, is
//! what callers do meanwhile.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tenantd::wire::v1::{self, session_service_client::SessionServiceClient};
use tonic::transport::{Channel, Endpoint};

use crate::{
    catalog::repository,
    support::{eventually, free, private},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// What a page has, in order.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Scene(String),
    Command { line: String, prints: Vec<String>, code: i32 },
}

fn steps(page: &str) -> Vec<Step> {
    let mut all: Vec<Step> = Vec::new();
    let mut is_console = false;
    for text in page.lines() {
        if text.starts_with("```") {
            is_console = text == "```console";
            continue;
        }
        let scene = text.strip_prefix("<!-- scene: ").and_then(|of| of.strip_suffix(" -->"));
        if let Some(scene) = scene {
            all.push(Step::Scene(scene.to_owned()));
        }
        if !is_console {
            continue;
        }
        if let Some(line) = text.strip_prefix("$ ") {
            all.push(Step::Command { line: line.to_owned(), prints: Vec::new(), code: 0 });
            continue;
        }
        let Some(Step::Command { line, prints, code }) = all.last_mut() else {
            panic!("a line without its command: {text}");
        };
        if let Some(more) = text.strip_prefix('>') {
            line.push('\n');
            line.push_str(more.strip_prefix(' ').unwrap_or(more));
        } else if let Some(of) = text.strip_prefix("exit code ") {
            *code = of.parse().unwrap();
        } else {
            prints.push(text.to_owned());
        }
    }
    all
}

/// Words, so that the width of columns does not count.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn fits(line: &str, pattern: &str) -> bool {
    let (line, pattern) = (words(line), words(pattern));
    let mut rest = line.as_str();
    let parts: Vec<_> = pattern.split("...").map(str::trim).collect();
    for (index, part) in parts.iter().enumerate() {
        let at = match index {
            0 if !part.is_empty() && !rest.starts_with(part) => return false,
            _ => rest.find(part),
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    parts.last().is_some_and(|last| last.is_empty()) || rest.is_empty() || {
        let last = parts.last().unwrap();
        parts.len() > 1 && line.ends_with(last)
    }
}

/// The first line that is promised and not printed.
fn missing<'a>(said: &str, prints: &'a [String]) -> Option<&'a String> {
    let mut lines = said.lines();
    prints.iter().find(|wanted| !lines.any(|line| fits(line, wanted)))
}

/// A machine as the pages see it, under a folder.
struct Machine {
    dir: tempfile::TempDir,
    scrape: SocketAddr,
    sidecar: Option<Child>,
}

impl Machine {
    fn new() -> Self {
        let mut machine = Self { dir: tempfile::tempdir().unwrap(), scrape: free(), sidecar: None };
        for folder in ["etc/keys", "state", "log", "run", "tmp", "bin"] {
            fs::create_dir_all(machine.path(folder)).unwrap();
        }
        private(&machine.path("etc/keys/openai"), "sk-1");
        let index = repository("docs/runbooks/README.md");
        let config = index.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
        private(&machine.path("etc/tenantd.toml"), &machine.here(config));
        machine.stand_ins();
        machine.start();
        machine
    }

    fn path(&self, of: &str) -> PathBuf {
        self.dir.path().join(of)
    }

    /// The pages' paths and ports are this machine's.
    fn here(&self, text: &str) -> String {
        let at = |of: &str| self.path(of).display().to_string();
        text.replace("/etc/tenantd", &at("etc"))
            .replace("/var/lib/tenantd", &at("state"))
            .replace("/var/log/tenantd", &at("log"))
            .replace("/run/tenantd", &at("run"))
            .replace("/tmp/incident", &at("tmp/incident"))
            .replace("127.0.0.1:9464", &self.scrape.to_string())
    }

    fn serve(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenantd"));
        command.arg("serve").arg("--listen").arg(self.address());
        self.env(&mut command);
        command
    }

    /// No service manager runs here: `systemctl` does what the unit says, and starts
    /// nothing while the last one is still ending.
    fn stand_ins(&self) {
        let binary = env!("CARGO_BIN_EXE_tenantd");
        std::os::unix::fs::symlink(binary, self.path("bin/tenantd")).unwrap();
        let (pid, log) = (self.path("run/pid"), self.path("log/tenantd.log"));
        let (pid, log) = (pid.display(), log.display());
        let script = format!(
            "#!/bin/bash\n\
             gone() {{ while readlink /proc/$(cat {pid})/exe >/dev/null; do sleep 0.05; done; }}\n\
             start() {{ gone; tenantd serve --config $TENANTD_CONFIG --listen $TENANTD_ADDRESS >>{log} 2>&1 </dev/null & echo $! >{pid}; }}\n\
             stop() {{ kill -s $1 $(cat {pid}); gone; }}\n\
             case $1 in\n\
             reload) kill -s HUP $(cat {pid});;\n\
             stop) stop TERM;;\n\
             start) start;;\n\
             restart) stop USR2; start;;\n\
             esac\n"
        );
        self.stand_in("systemctl", &script);
        if Command::new("curl").arg("--version").output().is_err() {
            let get =
                "import sys,urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())";
            self.stand_in(
                "curl",
                &format!("#!/bin/bash\nexec python3 -c '{get}' \"${{@: -1}}\"\n"),
            );
        }
    }

    fn stand_in(&self, name: &str, script: &str) {
        let path = self.path("bin").join(name);
        fs::write(&path, script).unwrap();
        let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(path, executable).unwrap();
    }

    fn address(&self) -> String {
        format!("unix:{}", self.path("run/tenantd.sock").display())
    }

    fn env(&self, command: &mut Command) {
        let path = std::env::var("PATH").unwrap_or_default();
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("TENANTD_ADDRESS", self.address())
            .env("TENANTD_CONFIG", self.path("etc/tenantd.toml"))
            .env("STATE_DIRECTORY", self.path("state"))
            .env("TENANTD_LOG_FORMAT", "json")
            .current_dir(self.path("tmp"));
    }

    fn start(&mut self) {
        let log = fs::File::create(self.path("log/tenantd.log")).unwrap();
        let child = self.serve().stderr(log).stdin(Stdio::null()).spawn().unwrap();
        fs::write(self.path("run/pid"), child.id().to_string()).unwrap();
        self.sidecar = Some(child);
        eventually("it serves", || self.run("tenantd healthcheck").1 == 0);
    }

    /// What a command prints, and its exit code.
    fn run(&self, line: &str) -> (String, i32) {
        let mut command = Command::new("bash");
        command.args(["-o", "pipefail", "-c", &self.here(line)]);
        self.env(&mut command);
        let output = command.output().unwrap();
        (crate::support::text(&output), output.status.code().unwrap_or(-1))
    }

    async fn channel(&self) -> Channel {
        let path = self.path("run/tenantd.sock");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let socket = tokio::net::UnixStream::connect(path).await;
                socket.map(hyper_util::rt::TokioIo::new)
            }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel().await)
    }

    /// A session as an agent has it: acquired, and alive.
    async fn session(&self, tenant: &str, id: &str) {
        let mut sessions = self.sessions().await;
        let acquire = v1::AcquireSessionRequest {
            session_id: id.to_owned(),
            tenant: tenant.to_owned(),
            agent_name: "support".to_owned(),
            ttl: Some(prost_types::Duration { seconds: 600, nanos: 0 }),
            activate: true,
            ..Default::default()
        };
        sessions.acquire_session(acquire).await.unwrap();
    }

    async fn refused(&self, tenant: &str, id: &str) {
        let acquire = v1::AcquireSessionRequest {
            session_id: id.to_owned(),
            tenant: tenant.to_owned(),
            ..Default::default()
        };
        self.sessions().await.acquire_session(acquire).await.unwrap_err();
    }

    async fn play(&self, scene: &str) {
        match scene {
            "acme fails" => {
                self.session("globex", "AJ_globex_1").await;
                self.session("globex", "AJ_globex_2").await;
                for n in 0..5 {
                    let id = format!("AJ_acme_{n}");
                    self.session("acme", &id).await;
                    let report = v1::ReportFailureRequest {
                        session_id: id,
                        failure: Some(v1::Failure {
                            slot: "llm".to_owned(),
                            kind: "auth".to_owned(),
                            message: "401 from the provider".to_owned(),
                        }),
                        end_session: true,
                        ..Default::default()
                    };
                    self.sessions().await.report_failure(report).await.unwrap();
                }
                self.refused("acme", "AJ_acme_5").await;
            }
            "acme is at its cap" => {
                for n in 1..=3 {
                    self.session("acme", &format!("AJ_acme_{n}")).await;
                }
                self.refused("acme", "AJ_acme_4").await;
            }
            "initech calls" => self.session("initech", "AJ_initech_1").await,
            "a session of acme" => self.session("acme", "AJ_acme_9").await,
            "a session of globex" => self.session("globex", "AJ_globex_9").await,
            "umbrella calls" => self.refused("umbrella", "AJ_umbrella_1").await,
            "acme calls in vain" => self.refused("acme", "AJ_acme_1").await,
            "acme's session ends" => {
                let release = v1::ReleaseSessionRequest {
                    session_id: "AJ_acme_9".to_owned(),
                    outcome: v1::Outcome::Success.into(),
                    ..Default::default()
                };
                self.sessions().await.release_session(release).await.unwrap();
            }
            other => panic!("no such scene: {other}"),
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let pid = fs::read_to_string(self.path("run/pid")).unwrap_or_default();
        let _ = Command::new("kill").args(["-s", "KILL", pid.trim()]).output();
        if let Some(mut child) = self.sidecar.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Those that may be run again until what they look at is there.
fn only_looks(line: &str) -> bool {
    let looks = ["tenantd audit", "tenantd tenants", "tenantd sessions", "tenantd snapshot"];
    let more = ["tenantd logs", "tenantd top", "tenantd healthcheck", "curl", "tenantd watch"];
    let changes = ["tenants init", "tenants set", "tenants rm", "tenants import"];
    looks.iter().chain(&more).any(|of| line.starts_with(of))
        && !changes.iter().any(|of| line.contains(of))
}

async fn run_page(path: &str) {
    let steps = steps(&repository(path));
    let machine = Machine::new();
    let mut commands = 0;
    for step in steps {
        let (line, prints, code) = match step {
            Step::Scene(scene) => {
                machine.play(&scene).await;
                continue;
            }
            Step::Command { line, prints, code } => (line, prints, code),
        };
        commands += 1;
        let prints: Vec<_> = prints.iter().map(|line| machine.here(line)).collect();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (said, got) = machine.run(&line);
            let missing = missing(&said, &prints);
            if got == code && missing.is_none() {
                break;
            }
            assert!(
                only_looks(&line) && Instant::now() < deadline,
                "{path}: `{line}` ended with {got}, and does not print {missing:?}:\n{said}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(commands > 0, "{path} has no command");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_on_onboarding_works_as_printed() {
    run_page("docs/runbooks/onboarding.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_on_incidents_works_as_printed() {
    run_page("docs/runbooks/tenant-incident.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_on_keys_works_as_printed() {
    run_page("docs/runbooks/key-rotation.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_on_breakers_works_as_printed() {
    run_page("docs/runbooks/breaker-tuning.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_of_the_page_on_upgrades_works_as_printed() {
    run_page("docs/runbooks/drain-and-upgrade.md").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_reason_has_a_page_whose_commands_work_as_printed() {
    let contract: Vec<serde_json::Value> =
        serde_json::from_str(&repository("tests/contract/reasons.json")).unwrap();
    let (python, node) = (
        repository("clients/python/src/tenantd/errors.py"),
        repository("clients/node/src/errors.ts"),
    );
    let (mut run, index) = (0, repository("docs/reasons.md"));
    for reason in contract {
        let of = |key: &str| reason[key].as_str().unwrap().to_owned();
        let path = format!("docs/reasons/{}.md", of("reason"));
        assert!(index.contains(&path["docs/".len()..]), "{path} is not linked");
        let page = repository(&path);
        let head = format!("# {}\n\n`{}`, `{}`. ", of("reason"), of("code"), of("disposition"));
        assert!(page.starts_with(&head), "{path} begins otherwise than {head}");
        let class = page.split("Python `").nth(1).unwrap().split('`').next().unwrap();
        let defined = format!("class {class}(TenantdError):");
        let class_of = python.split(&defined).nth(1).unwrap().split("class ").next().unwrap();
        assert!(class_of.contains(&format!("REASON = \"{}\"", of("reason"))), "{path}: {class}");
        assert!(node.contains(&format!("class {class}Error extends")), "{path}");
        for heading in ["## Cause", "## What the caller sees", "## What to do"] {
            assert!(page.contains(heading), "{path} has no {heading}");
        }
        if page.contains("```console") {
            run_page(&path).await;
            run += 1;
        }
    }
    assert!(run > 10);
}

#[test]
fn each_link_of_the_docs_leads_somewhere_and_each_named_test_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut links = 0;
    let pages = ["docs", "docs/runbooks", "docs/reasons"].map(|of| root.join(of));
    for entry in pages.iter().flat_map(|of| fs::read_dir(of).unwrap()) {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|of| of != "md") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for link in text.split("](").skip(1).map(|of| of.split(')').next().unwrap()) {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                links += 1;
                let there = path.parent().unwrap().join(file).exists();
                assert!(there, "{}: {link} leads nowhere", path.display());
            }
        }
        for name in text.split('`').skip(1).step_by(2).filter(|of| of.starts_with("tests/")) {
            assert!(root.join(name).exists(), "{}: there is no {name}", path.display());
        }
    }
    assert!(links > 40);
}

#[test]
fn a_page_that_promises_what_is_not_printed_is_noticed() {
    assert!(fits(" acme   0/3  open ", "acme 0/3 ..."));
    assert!(fits("2 x tenant.suspend acme ok y", "... tenant.suspend acme ok ..."));
    assert!(!fits("acme 1/3 open", "acme 0/3 ..."));
    assert!(!fits("cap 30", "cap 3"));
    assert!(!fits("breaker open", "breaker closed"));
    let prints = ["b".to_owned(), "a".to_owned()];
    assert!(missing("a\nb", &prints).is_some(), "order counts");
    let page = "```console\n$ one \\\n> two\nsays\nexit code 1\n```\n";
    let wanted = Step::Command { line: "one \\\ntwo".into(), prints: vec!["says".into()], code: 1 };
    assert_eq!(steps(page), [wanted]);
}

#[test]
fn each_runbook_is_run_and_linked_and_each_alert_names_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/runbooks");
    let index = repository("docs/runbooks/README.md");
    let here = include_str!("runbooks.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name != "README.md" {
            assert!(index.contains(&format!("({name})")), "README.md does not link {name}");
            assert!(here.contains(&format!("\"docs/runbooks/{name}\"")), "{name} is not run");
        }
    }
    let rules = repository("deploy/prometheus/tenantd.rules.yml");
    let pages: Vec<_> =
        rules.lines().filter_map(|of| of.trim().strip_prefix("runbook: ")).collect();
    assert_eq!(pages.len(), rules.matches("- alert: ").count());
    for page in pages {
        assert!(!repository(page).is_empty());
    }
}
