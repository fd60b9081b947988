//! What a real Prometheus makes of the endpoint, with the configuration, the alerts
//! and the dashboard of deploy/.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use serde_json::Value;
use tenantd::wire::v1::{self, session_service_client::SessionServiceClient};

use crate::{
    catalog::{self, repository},
    deploy::{alerts, panels},
    support::{Running, Start, acquire, eventually, free, release, skipped, text},
    telemetry::scrape,
};

struct Prometheus {
    child: Child,
    _dir: tempfile::TempDir,
    at: SocketAddr,
}

impl Prometheus {
    /// With deploy/'s own configuration, looking at one sidecar each second.
    fn start(scraped: SocketAddr) -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/prometheus.sh");
        let found = Command::new(script).output().unwrap();
        if !found.status.success() {
            skipped(&text(&found));
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = repository("deploy/prometheus/prometheus.yml")
            .replace("127.0.0.1:9464", &scraped.to_string())
            .replace("15s", "1s");
        fs::write(dir.path().join("prometheus.yml"), config).unwrap();
        let rules = repository("deploy/prometheus/tenantd.rules.yml");
        fs::write(dir.path().join("tenantd.rules.yml"), rules).unwrap();
        let at = free();
        let child = Command::new("prometheus")
            .current_dir(dir.path())
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address={at}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Some(Self { child, _dir: dir, at })
    }

    fn get(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(self.at).ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: x\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// A query's result, or what is wrong with it.
    fn ask(&self, query: &str) -> Result<Vec<Value>, String> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let answer = self.get(&format!("/api/v1/query?query={encoded}"));
        let answer = answer.ok_or_else(|| "no answer".to_owned())?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        Ok(answer["data"]["result"].as_array().cloned().unwrap_or_default())
    }

    fn number(&self, query: &str) -> Option<f64> {
        self.ask(query).ok()?.first()?["value"][1].as_str()?.parse().ok()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// acme at its cap and refused, globex with a failed session, somebody denied.
async fn traffic(running: &Running) {
    let mut client = SessionServiceClient::new(running.channel().await);
    client.acquire_session(acquire("a1", "acme")).await.unwrap();
    client.acquire_session(acquire("a2", "acme")).await.unwrap_err();
    client.acquire_session(acquire("g1", "globex")).await.unwrap();
    client.acquire_session(acquire("g2", "globex")).await.unwrap();
    client.release_session(release("g1")).await.unwrap();
    client.acquire_session(acquire("x", "a b")).await.unwrap_err();
    assert!(running.call(&["breaker", "open", "globex", "--for", "10m"]).status.success());
    assert!(running.call(&["suspend", "initech"]).status.success());
}

const CONFIG: &str =
    "[tenants.acme]\ncap=1\n[tenants.globex]\n[tenants.initech]\n[lease]\npending='10m'\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_scrapes_it_and_answers_each_question_of_the_dashboard_and_the_alerts() {
    let at = free();
    let config = format!("{CONFIG}[telemetry]\nprometheus='{at}'\n");
    let running = Start { config: &config, ..Start::default() }.run();
    let Some(prometheus) = Prometheus::start(at) else { return };
    traffic(&running).await;
    eventually("it has scraped", || prometheus.number("sum(tenantd_sessions_active)") == Some(2.0));
    for (query, wanted) in [
        ("up{job='tenantd'}", 1.0),
        ("tenantd_sessions_active{tenant='acme'} / tenantd_sessions_cap{tenant='acme'}", 1.0),
        ("tenantd_sessions_rejected_total{tenant='acme',reason='TENANT_AT_CAP'}", 1.0),
        ("sum(tenantd_sessions_rejected_total{reason='TENANT_MALFORMED'})", 1.0),
        ("sum(tenantd_sessions_acquired_total)", 3.0),
        ("tenantd_sessions_ended_total{tenant='globex',outcome='success'}", 1.0),
        ("tenantd_breaker_state{tenant='globex',state='open'}", 1.0),
        ("tenantd_tenant_suspended{tenant='initech'}", 1.0),
        ("count(tenantd_build_info{version!=''})", 1.0),
    ] {
        eventually(query, || prometheus.number(query) == Some(wanted));
    }
    let variables =
        [("$job", "tenantd"), ("$instance", ".*"), ("$tenant", ".*"), ("$__rate_interval", "10s")];
    let answered = || {
        let has_something = |panel: &String| {
            let query = variables.iter().fold(panel.clone(), |of, (from, to)| of.replace(from, to));
            let result = prometheus.ask(&query);
            !result.unwrap_or_else(|wrong| panic!("{query}: {wrong}")).is_empty()
        };
        panels().iter().filter(|panel| has_something(panel)).count()
    };
    // Of the others nothing has happened here: no source, no worker, no lost session.
    eventually("most panels have something to show", || answered() >= 32);
    for alert in alerts() {
        prometheus.ask(&alert).unwrap_or_else(|wrong| panic!("{alert}: {wrong}"));
    }
    eventually("its rules are evaluated, and the open breaker is noticed", || {
        let Some(rules) = prometheus.get("/api/v1/rules") else { return false };
        let rules = rules["data"]["groups"][0]["rules"].as_array().cloned().unwrap_or_default();
        let breaker = rules.iter().find(|of| of["name"] == "TenantdBreakerOpen");
        rules.iter().all(|of| of["health"] == "ok")
            && breaker.is_some_and(|of| of["alerts"][0]["labels"]["tenant"] == "globex")
    });
    let mut running = running;
    let _ = running.child.kill();
    let _ = running.child.wait();
    eventually("it is seen as down", || prometheus.number("up{job='tenantd'}") == Some(0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_series_of_a_scrape_is_documented_with_its_kind_and_labels_and_promtool_finds_no_fault()
 {
    let at = free();
    let config = format!("{CONFIG}[telemetry]\nprometheus='{at}'\n");
    let running = Start { config: &config, ..Start::default() }.run();
    traffic(&running).await;
    eventually("what happened is counted", || {
        scrape(at).contains("tenantd_breaker_transitions_total{")
    });
    let answer = scrape(at);
    let told = answer.split_once("\r\n\r\n").unwrap().1;
    let series = catalog::series();
    let mut seen = 0;
    for line in told.lines().filter(|line| line.contains(' ') && !line.starts_with('#')) {
        let name: String =
            line.chars().take_while(|of| of.is_ascii_alphanumeric() || *of == '_').collect();
        if name == "target_info" {
            continue;
        }
        let labels = series.get(&name).unwrap_or_else(|| panic!("{name} is not documented"));
        let given =
            line.split_once('{').and_then(|(_, of)| of.rsplit_once('}')).map_or("", |of| of.0);
        for pair in given.split("\",").filter(|of| !of.is_empty()) {
            let label = pair.split('=').next().unwrap();
            assert!(labels.contains(label), "{name} has {label}, which is not documented");
        }
        seen += 1;
    }
    assert!(seen > 60, "{seen} lines");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/prometheus.sh");
    if !Command::new(script).output().unwrap().status.success() {
        skipped("there is no promtool");
        return;
    }
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(told.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    // These two have the names of the semantic conventions for processes.
    let is_convention = |line: &&str| {
        ["process_thread_count ", "process_unix_file_descriptor_count "]
            .iter()
            .any(|name| line.starts_with(name) && line.contains("\"_count\" suffix"))
    };
    let said = text(&output);
    let faults: Vec<_> = said.lines().filter(|line| !is_convention(line)).collect();
    assert!(faults.is_empty(), "{faults:?}");
}

/// Resident memory of the sidecar, in KiB.
fn resident(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn flood(running: &Running, ids: std::ops::Range<usize>) {
    let next = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(ids.start));
    let mut tasks = tokio::task::JoinSet::new();
    let client = SessionServiceClient::new(running.channel().await);
    for _ in 0..64 {
        let (mut client, next) = (client.clone(), std::sync::Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if n >= ids.end {
                    return;
                }
                let asked: v1::AcquireSessionRequest =
                    acquire(&format!("f{n}"), &format!("made-up-{n}"));
                // Granted as long as there is room for strangers.
                let _ = client.acquire_session(asked).await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_100_000_made_up_tenants_keeps_series_and_memory_bounded_and_says_so() {
    const FLOOD: usize = 100_000;
    const TOLD: usize = 50;
    let at = free();
    let config = format!(
        "[telemetry]\nprometheus='{at}'\n[limits]\nmetric_tenants={TOLD}\nmax_tenants=2000\nevents_kept=1000\n\
         [lease]\npending='10m'\n[tenants.acme]\ncap=1\n"
    );
    let env = [("TENANTD_LOG", "error")];
    let running = Start { config: &config, env: &env, ..Start::default() }.run();
    flood(&running, 0..20_000).await;
    let _ = scrape(at);
    let before = resident(&running);
    flood(&running, 20_000..FLOOD).await;
    let told = scrape(at);
    let grown = resident(&running).saturating_sub(before);
    assert!(grown < 16 * 1024, "80,000 more tenants cost {grown} KiB");
    let mut client = SessionServiceClient::new(running.channel().await);
    client.acquire_session(acquire("last", "acme")).await.unwrap();
    eventually("the known tenant is told by name, after the flood", || {
        scrape(at).contains("tenantd_sessions_acquired_total{tenant=\"acme\"} 1")
    });
    let by_name = |told: &str, name: &str| {
        told.lines().filter(|line| line.starts_with(&format!("{name}{{"))).count()
    };
    eventually("each acquire is counted", || {
        let told = scrape(at);
        let of = |line: &&str| line.starts_with("tenantd_acquire_duration_seconds_count{");
        let count = |line: &str| line.rsplit_once(' ').unwrap().1.parse::<usize>().unwrap();
        told.lines().filter(of).map(count).sum::<usize>() == FLOOD + 1
    });
    assert!(by_name(&told, "tenantd_sessions_acquired_total") <= TOLD + 2);
    assert!(by_name(&told, "tenantd_sessions_rejected_total") <= TOLD + 2, "{told}");
    assert!(told.contains("tenant=\"__other__\""));
    assert!(by_name(&told, "tenantd_sessions_active") <= TOLD + 2);
    assert!(told.contains("tenantd_metrics_tenants_folded_total "), "and it says so");
    let series = told.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 60 * (TOLD + 2), "{series} series");
}
