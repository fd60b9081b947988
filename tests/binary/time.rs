//! Clocks that jump, and processes that stand still.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use tenantd::wire::v1::{
    self, EventKind, admin_service_client::AdminServiceClient, keep_alive_response,
    session_service_client::SessionServiceClient, watch_sessions_response::Item,
};

use crate::{
    restart::{client, hold, next, sessions, watch},
    support::{Running, Start, acquire, call, eventually, release, skipped, text},
};

/// Seconds of the wall clock.
fn seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill").args(["-s", name, &pid.to_string()]).status();
    assert!(sent.unwrap().success());
}

/// Stops a process and waits until it stands still.
fn stop(pid: u32) {
    signal(pid, "STOP");
    eventually("it stands still", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit(')').next().unwrap().trim_start().starts_with('T')
    });
}

fn ids(running: &Running) -> Vec<String> {
    let listed = sessions(running);
    let ids = listed.as_array().unwrap().iter().map(|session| &session["session_id"]);
    ids.map(|id| id.as_str().unwrap().to_owned()).collect()
}

async fn open_breaker(running: &Running, tenant: &str, seconds: i64) {
    let asked = v1::OpenBreakerRequest {
        tenant: tenant.to_owned(),
        duration: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..Default::default()
    };
    AdminServiceClient::new(running.channel().await).open_breaker(asked).await.unwrap();
}

fn breaker(running: &Running, tenant: &str) -> serde_json::Value {
    let shown = running.call(&["tenants", tenant, "--json"]);
    serde_json::from_slice(&shown.stdout).unwrap_or_else(|_| panic!("{}", text(&shown)))
}

/// How long a tenant's breaker stays open.
fn remaining(running: &Running, tenant: &str) -> f64 {
    let shown = breaker(running, tenant);
    assert_eq!(shown["breaker"], "open", "{shown}");
    shown["breaker_open_remaining_seconds"].as_f64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_that_stood_still_ends_no_lease_and_no_cooldown_early_nor_does_the_next_one() {
    const SPAN: i64 = 3;
    let config = format!("[lease]\nttl = '{SPAN}s'\nttl_min = '1s'\ngrace = '1s'\n");
    let mut running = Start { config: &config, ..Start::default() }.run();
    let mut calls = client(&running).await;
    let ask = v1::AcquireSessionRequest { worker: "w".into(), ..acquire("held", "acme") };
    calls.acquire_session(ask).await.unwrap();
    let mut stream = hold(&mut calls, "w", "held").await;
    open_breaker(&running, "unwell", 3600).await;
    let begun = seconds(SystemTime::now());
    open_breaker(&running, "hooli", SPAN).await;
    calls.acquire_session(acquire("bare", "acme")).await.unwrap();
    stop(running.child.id());
    let stopped = Instant::now();
    eventually("it stood still for longer than anything may last", || {
        stopped.elapsed() > Duration::from_secs(SPAN as u64 + 1)
    });
    let stopped = stopped.elapsed().as_secs_f64();
    running.signal("CONT");
    assert_eq!(ids(&running), ["bare", "held"], "{}", running.said());
    assert!(running.said().contains("did not run for a while"), "{}", running.said());
    let answer = tokio::time::timeout(Duration::from_millis(1), stream.from.message()).await;
    assert!(answer.is_err(), "the stream goes on: {answer:?}");
    assert!(remaining(&running, "unwell") > 3600.0 - 60.0, "the time is left out there, too");
    // The next process has a clock of its own.
    running.restart("KILL");
    let due = begun + SPAN as f64 + stopped;
    eventually("the lease ends", || !ids(&running).contains(&"bare".to_owned()));
    let ended = seconds(SystemTime::now());
    eventually("the cooldown ends", || breaker(&running, "hooli")["breaker"] != "open");
    let half_open = seconds(SystemTime::now());
    assert!(ended >= due, "the lease ended {} s early", due - ended);
    assert!(half_open >= due, "the cooldown ended {} s early", due - half_open);
}

/// Where libfaketime is; None where it cannot be had.
fn faketime() -> Option<String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/faketime.sh");
    let found = Command::new(script).output().unwrap();
    if !found.status.success() {
        skipped(&text(&found));
        return None;
    }
    Some(String::from_utf8(found.stdout).unwrap().trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_jump_of_the_wall_clock_changes_a_lease_or_a_breaker() {
    const HOUR: f64 = 3600.0;
    let Some(library) = faketime() else { return };
    let dir = tempfile::tempdir().unwrap();
    let offset = dir.path().join("offset");
    let jump = |to: &str| {
        fs::write(dir.path().join("new"), to).unwrap();
        fs::rename(dir.path().join("new"), &offset).unwrap();
    };
    jump("+0");
    let env = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", offset.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    let config = "[lease]\nttl_min = '1s'\ngrace = '1h'\n";
    let mut running = Start { config, env: &env, ..Start::default() }.run();
    // How far its clock is from ours, as it shows it.
    let shown = |running: &Running| {
        let snapshot = running.call(&["snapshot", "--json"]);
        let snapshot: serde_json::Value = serde_json::from_slice(&snapshot.stdout).unwrap();
        snapshot["timestamp"].as_f64().unwrap() - seconds(SystemTime::now())
    };
    let mut calls = client(&running).await;
    let ask = v1::AcquireSessionRequest { worker: "w".into(), ..acquire("held", "acme") };
    calls.acquire_session(ask).await.unwrap();
    let stream = hold(&mut calls, "w", "held").await;
    calls.acquire_session(acquire("bare", "acme")).await.unwrap();
    assert!(running.call(&["suspend", "initech"]).status.success());
    open_breaker(&running, "unwell", 3600).await;
    let begun = Instant::now();
    open_breaker(&running, "brief", 2).await;
    let brief = v1::AcquireSessionRequest {
        ttl: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
        ..acquire("brief", "acme")
    };
    calls.acquire_session(brief).await.unwrap();
    let mut events = watch(&running, None).await;
    let unmoved = |running: &Running| {
        let left = remaining(running, "unwell");
        let passed = begun.elapsed().as_secs_f64();
        assert!(left < HOUR && left + passed > HOUR - 30.0, "{left} s left after {passed} s");
        let ids = ids(running);
        assert!(ids.contains(&"held".to_owned()) && ids.contains(&"bare".to_owned()), "{ids:?}");
    };
    // Hours and days, forwards and backwards, while it runs.
    for (to, hours) in [("+5h", 5.0), ("-7h", -7.0), ("+40d", 960.0), ("-1d", -24.0)] {
        jump(to);
        eventually("its clock jumps", || (shown(&running) - hours * HOUR).abs() < 60.0);
        unmoved(&running);
    }
    // What was to end meanwhile does, neither early nor never.
    let both = async {
        let (mut ended, mut half_open) = (false, false);
        while !(ended && half_open) {
            let Item::Event(event) = next(&mut events).await else { continue };
            let kind = event.kind();
            let is_end = kind == EventKind::SessionEnded && event.session_id == "brief";
            let is_half = kind == EventKind::BreakerHalfOpened && event.tenant == "brief";
            assert!(!(is_end || is_half) || begun.elapsed() >= Duration::from_secs(2), "{event:?}");
            (ended, half_open) = (ended || is_end, half_open || is_half);
        }
    };
    tokio::time::timeout(Duration::from_secs(20), both).await.expect("both end");
    // And between one process and the next.
    drop(stream);
    for to in ["+9h", "-30d"] {
        running.kill();
        jump(to);
        running.start_again();
        unmoved(&running);
    }
    let mut calls = client(&running).await;
    let refused = calls.acquire_session(acquire("x", "initech")).await.unwrap_err();
    assert!(refused.message().contains("suspended"), "{refused}");
    let _stream = hold(&mut calls, "w", "held").await;
    for id in ["held", "bare"] {
        calls.release_session(release(id)).await.unwrap();
    }
    let audit = running.audit();
    let verified = call("unix:/nonexistent", &["audit", "verify", audit.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", text(&verified));
}

/// An agent in a process of its own: this program, which does what
/// [`an_agent`] says.
struct Agent {
    process: Child,
    said: PathBuf,
}

impl Agent {
    fn start(running: &Running) -> Self {
        let said = running.dir.path().join("agent");
        let process = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "time::an_agent", "--nocapture"])
            .env("AGENT_OF", running.socket())
            .env("AGENT_SAYS", &said)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { process, said }
    }

    /// Waits until it has said a word.
    fn says(&self, word: &str) {
        eventually(word, || fs::read_to_string(&self.said).is_ok_and(|said| said.contains(word)));
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
#[ignore = "no test: what an agent does"]
async fn an_agent() {
    use std::io::Write as _;
    let (Ok(socket), Ok(says)) = (std::env::var("AGENT_OF"), std::env::var("AGENT_SAYS")) else {
        return;
    };
    let mut file = fs::File::options().append(true).create(true).open(says).unwrap();
    let mut say = |word: &str| file.write_all(format!("{word}\n").as_bytes()).unwrap();
    let mut acquired = false;
    loop {
        let channel = Running::connect(Path::new(&socket)).await;
        let mut calls = SessionServiceClient::new(channel);
        if !acquired {
            let ask = v1::AcquireSessionRequest { worker: "w".into(), ..acquire("s", "acme") };
            calls.acquire_session(ask).await.unwrap();
            acquired = true;
        }
        let (to, asked) = tokio::sync::mpsc::channel(4);
        let attach = v1::KeepAliveRequest {
            worker: "w".to_owned(),
            attach_session_ids: vec!["s".to_owned()],
            ..Default::default()
        };
        to.send(attach).await.unwrap();
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let Ok(stream) = calls.keep_alive(asked).await else { continue };
        let mut stream = stream.into_inner();
        while let Ok(Some(told)) = stream.message().await {
            let Some(keep_alive_response::Message::Attached(attached)) = told.message else {
                continue;
            };
            say(if attached.sessions.is_empty() { "too late" } else { "attached" });
        }
        say("broken off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stands_still_keeps_its_session_until_its_connection_is_given_up() {
    let Some(library) = faketime() else { return };
    // Its timers run eight times as fast: a ping each 20 s, an answer within 20 s. The
    // clock of leases does not, which is asked of the kernel without a library.
    let env = [("LD_PRELOAD", library.as_str()), ("FAKETIME", "+0 x8")];
    let config = "[lease]\nttl = '1500ms'\nttl_min = '1s'\ngrace = '3s'\n[tenants.acme]\ncap = 1\n";
    let running = Start { config, env: &env, ..Start::default() }.run();
    let mut calls = client(&running).await;
    let agent = Agent::start(&running);
    agent.says("attached");
    let pid = agent.process.id();
    stop(pid);
    let stopped = Instant::now();
    eventually("more than its TTL has passed", || stopped.elapsed() > Duration::from_secs(2));
    assert_eq!(ids(&running), ["s"], "{}", running.said());
    signal(pid, "CONT");
    eventually("it is held", || sessions(&running)[0]["state"] == "active");
    stop(pid);
    eventually("it is given up", || ids(&running).is_empty());
    calls.acquire_session(acquire("next", "acme")).await.expect("its place is free");
    signal(pid, "CONT");
    agent.says("too late");
    let late = calls.release_session(release("s")).await.unwrap_err();
    assert!(late.message().contains("lost"), "{late}");
}
