//! What outlives the process.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
};

use tenantd::wire::v1::{
    self, keep_alive_response, session_service_client::SessionServiceClient,
    watch_service_client::WatchServiceClient, watch_sessions_response::Item,
};
use tonic::transport::Channel;

use crate::support::{Running, Start, acquire, eventually, private, release, text};

fn state(running: &Running) -> PathBuf {
    running.dir.path().join("s.state")
}

fn journals(running: &Running) -> Vec<PathBuf> {
    let files = fs::read_dir(state(running)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        files.filter(|path| path.to_string_lossy().contains("/journal.")).collect();
    found.sort();
    found
}

pub fn sessions(running: &Running) -> serde_json::Value {
    let listed = running.call(&["sessions", "--json"]);
    assert!(listed.status.success(), "{}", text(&listed));
    let lines = String::from_utf8(listed.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()).collect()
}

pub async fn client(running: &Running) -> SessionServiceClient<Channel> {
    SessionServiceClient::new(running.channel().await)
}

/// A stream of a worker that holds one session.
pub struct Stream {
    _to: tokio::sync::mpsc::Sender<v1::KeepAliveRequest>,
    pub from: tonic::Streaming<v1::KeepAliveResponse>,
}

pub async fn hold(
    client: &mut SessionServiceClient<Channel>,
    worker: &str,
    session: &str,
) -> Stream {
    let (to, asked) = tokio::sync::mpsc::channel(4);
    to.send(v1::KeepAliveRequest {
        worker: worker.to_owned(),
        attach_session_ids: vec![session.to_owned()],
        ..Default::default()
    })
    .await
    .unwrap();
    let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
    let mut stream = Stream { _to: to, from: client.keep_alive(asked).await.unwrap().into_inner() };
    let first = stream.from.message().await.unwrap().unwrap();
    let Some(keep_alive_response::Message::Attached(attached)) = first.message else {
        panic!("{first:?}")
    };
    assert_eq!(attached.sessions.len(), 1, "{attached:?}");
    stream
}

pub async fn watch(
    running: &Running,
    cursor: Option<v1::Cursor>,
) -> tonic::Streaming<v1::WatchSessionsResponse> {
    let mut watches = WatchServiceClient::new(running.channel().await);
    let asked = v1::WatchSessionsRequest { cursor, ..Default::default() };
    watches.watch_sessions(asked).await.unwrap().into_inner()
}

pub async fn next(stream: &mut tonic::Streaming<v1::WatchSessionsResponse>) -> Item {
    let next = tokio::time::timeout(std::time::Duration::from_secs(20), stream.message()).await;
    next.expect("in time").unwrap().unwrap().item.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_forgets_no_live_session_and_opens_no_cap() {
    let config = "[tenants.acme]\ncap = 3\n[lease]\ngrace = '2s'\n";
    let mut running = Start { config, ..Start::default() }.run();
    let mut before = client(&running).await;
    for (id, worker) in [("back", "w1"), ("dead", "w2"), ("bare", "")] {
        let ask = v1::AcquireSessionRequest { worker: worker.to_owned(), ..acquire(id, "acme") };
        before.acquire_session(ask).await.unwrap();
    }
    let kept = (hold(&mut before, "w1", "back").await, hold(&mut before, "w2", "dead").await);
    before.acquire_session(acquire("ended", "globex")).await.unwrap();
    before.release_session(release("ended")).await.unwrap();
    for call in [
        &["suspend", "initech", "--note", "unpaid"][..],
        &["breaker", "open", "hooli"],
        &["cap", "umbrella", "7"],
    ] {
        let called = running.call(call);
        assert!(called.status.success(), "{}", text(&called));
    }
    running.restart("KILL");
    drop(kept);
    let mut after = client(&running).await;
    let refused = after.acquire_session(acquire("fourth", "acme")).await.unwrap_err();
    assert!(refused.message().contains("3 of 3"), "{refused}");
    let listed = sessions(&running);
    assert_eq!(listed.as_array().unwrap().len(), 3, "{listed}");
    let late = after.acquire_session(acquire("ended", "globex")).await.unwrap_err();
    assert!(late.message().contains("has ended"), "{late}");
    for (tenant, says) in [("initech", "unpaid"), ("hooli", "circuit breaker")] {
        let refused = after.acquire_session(acquire("x", tenant)).await.unwrap_err();
        assert!(refused.message().contains(says), "{refused}");
    }
    let umbrella = text(&running.call(&["tenants", "umbrella", "--json"]));
    assert!(umbrella.contains("\"cap\":7") || umbrella.contains("\"cap\": 7"), "{umbrella}");
    // Over the grace one worker comes back, the other one does not.
    let _stream = hold(&mut after, "w1", "back").await;
    eventually("the dead one's end", || sessions(&running).as_array().unwrap().len() == 2);
    after.release_session(release("back")).await.unwrap();
    after.release_session(release("bare")).await.unwrap();
    let gone = after.release_session(release("dead")).await.unwrap_err();
    assert!(gone.message().contains("lost"), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_any_number_of_kills_sequences_rise_and_a_cursor_gets_all_or_a_gap() {
    let mut running = Start::default().run();
    let (mut last, mut snapshot, mut cursor) = (0, 0, None::<v1::Cursor>);
    let mut ends = std::collections::BTreeMap::<String, u32>::new();
    for round in 0..4 {
        let mut calls = client(&running).await;
        let mut stream = watch(&running, cursor.clone()).await;
        let (mut asked, mut seen) = (false, 0);
        while !asked || seen < if round > 0 { 6 } else { 3 } {
            match next(&mut stream).await {
                Item::Event(event) => {
                    assert!(event.sequence > last, "{} after {last}", event.sequence);
                    // What a tenant that was read late has in its snapshot is not told again.
                    let shown = event.sequence <= snapshot + 20;
                    assert!(shown || event.sequence == last + 1, "a silent hole");
                    last = event.sequence;
                    let kind = event.kind();
                    seen += i32::from(kind == v1::EventKind::SessionAcquired);
                    if kind == v1::EventKind::SessionEnded {
                        seen += 1;
                        *ends.entry(event.session_id).or_default() += 1;
                    }
                }
                Item::Gap(gap) => {
                    assert_eq!(gap.from_sequence, last + 1);
                    last = gap.to_sequence;
                }
                Item::SnapshotEnd(end) => {
                    let epoch = end.cursor.unwrap();
                    assert!(cursor.as_ref().is_none_or(|held| held.epoch == epoch.epoch));
                    (last, snapshot) = (epoch.sequence, epoch.sequence);
                    cursor = Some(epoch);
                    // Not before: the snapshot would have it, and no event tell it.
                    for n in 0..3 {
                        let id = format!("s{round}-{n}");
                        calls.acquire_session(acquire(&id, "acme")).await.unwrap();
                        if round > 0 {
                            let earlier = format!("s{}-{n}", round - 1);
                            calls.release_session(release(&earlier)).await.unwrap();
                        }
                    }
                    asked = true;
                }
                _ => {}
            }
        }
        cursor.as_mut().unwrap().sequence = last;
        running.restart("KILL");
    }
    assert_eq!(ends.len(), 9);
    assert!(ends.values().all(|times| *times == 1), "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_state_is_said_and_kept_aside_and_the_sidecar_starts_clean() {
    let mut running = Start::default().run();
    client(&running).await.acquire_session(acquire("s", "acme")).await.unwrap();
    let file = journals(&running).pop().unwrap();
    running.kill();
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    running.start_again();
    assert!(running.said().contains("cannot be read"), "{}", running.said());
    assert_eq!(sessions(&running).as_array().unwrap().len(), 0);
    let aside = fs::read_dir(state(&running)).unwrap().filter(|entry| {
        entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("unreadable.")
    });
    assert_eq!(aside.count(), 1);
    // And goes on keeping what comes now.
    client(&running).await.acquire_session(acquire("s2", "acme")).await.unwrap();
    running.restart("KILL");
    assert_eq!(sessions(&running).as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_was_cut_short_loses_nothing_that_was_answered() {
    let mut running = Start::default().run();
    client(&running).await.acquire_session(acquire("s", "acme")).await.unwrap();
    let file = journals(&running).pop().unwrap();
    running.kill();
    let whole = fs::read(&file).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[..30]);
    fs::write(&file, torn).unwrap();
    running.start_again();
    assert_eq!(sessions(&running).as_array().unwrap().len(), 1, "{}", running.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn after_another_boot_no_session_comes_back_and_what_operators_set_does() {
    let mut running = Start::default().run();
    client(&running).await.acquire_session(acquire("s", "acme")).await.unwrap();
    assert!(running.call(&["suspend", "initech", "--note", "unpaid"]).status.success());
    assert!(running.call(&["cap", "umbrella", "7"]).status.success());
    running.kill();
    // The machine cannot be started anew here: its boot's id becomes another one.
    for file in journals(&running) {
        let text = fs::read_to_string(&file).unwrap();
        let mut of_another = String::new();
        for line in text.lines() {
            let mut json: serde_json::Value = serde_json::from_str(&line[9..]).unwrap();
            if json["is"] == "begin" {
                json["boot"] = "another".into();
            }
            let json = json.to_string();
            let sum = crc32fast::hash(json.as_bytes());
            of_another.push_str(&format!("{sum:08x} {json}\n"));
        }
        fs::write(&file, of_another).unwrap();
    }
    running.start_again();
    assert!(!running.said().contains("cannot be read"), "{}", running.said());
    let listed = sessions(&running);
    assert_eq!(listed.as_array().unwrap().len(), 0, "its process is gone: {listed}");
    let mut calls = client(&running).await;
    let refused = calls.acquire_session(acquire("x", "initech")).await.unwrap_err();
    assert!(refused.message().contains("unpaid"), "{refused}");
    let umbrella = text(&running.call(&["tenants", "umbrella", "--json"]));
    assert!(umbrella.contains("\"cap\":7") || umbrella.contains("\"cap\": 7"), "{umbrella}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_is_private_and_holds_no_secret() {
    let config = "[tenants.acme.providers.llm]\nprovider = 'openai'\ncredential = 'sk-canary-1'\n";
    let mut running = Start { config, ..Start::default() }.run();
    client(&running).await.acquire_session(acquire("s", "acme")).await.unwrap();
    running.restart("KILL");
    assert_eq!(fs::metadata(state(&running)).unwrap().permissions().mode() & 0o777, 0o700);
    let files = fs::read_dir(state(&running)).unwrap().map(|entry| entry.unwrap().path());
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600, "{}", file.display());
        if file.is_file() {
            assert!(!fs::read_to_string(&file).unwrap().contains("canary"), "{}", file.display());
        }
    }
    assert_eq!(journals(&running).len(), 1, "old files go");
}

#[test]
fn a_second_sidecar_on_one_state_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let config = format!("[state]\npath = '{}'\n", dir.path().join("st").display());
    let first = Start { config: &config, ..Start::default() }.run();
    let other = tempfile::tempdir().unwrap();
    let second = std::process::Command::new(env!("CARGO_BIN_EXE_tenantd"))
        .arg("serve")
        .arg("--config")
        .arg(first.config())
        .arg("--listen")
        .arg(format!("unix:{}", other.path().join("s.sock").display()))
        .output()
        .unwrap();
    assert_eq!(second.status.code(), Some(1));
    let pid = format!("process {}", first.child.id());
    assert!(text(&second).contains(&pid), "{}", text(&second));
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_it_leaves_no_file_and_forgets() {
    let mut running = Start { config: "[state]\nenabled = false\n", ..Start::default() }.run();
    client(&running).await.acquire_session(acquire("s", "acme")).await.unwrap();
    assert!(!state(&running).exists());
    running.restart("KILL");
    assert_eq!(sessions(&running).as_array().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_new_sessions_only_and_passes() {
    let config = "[tenants.acme]\ncap = 2\n[telemetry]\nprometheus = '127.0.0.1:0'\n";
    // Writes beyond a size fail as on a full disk.
    let mut running = Start { config, ..Start::default() }.run();
    let mut calls = client(&running).await;
    for id in ["one", "two"] {
        calls.acquire_session(acquire(id, "acme")).await.unwrap();
    }
    let full = |size: &str| {
        let pid = running.child.id().to_string();
        let limited = std::process::Command::new("prlimit")
            .args(["--pid", &pid, &format!("--fsize={size}:unlimited")])
            .status();
        assert!(limited.unwrap().success());
    };
    full("1");
    let refused = calls.acquire_session(acquire("other", "globex")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(refused.message().contains("state cannot be written"), "{refused}");
    eventually("it is said", || running.said().contains("the state cannot be written"));
    // Not only the one that met the full disk.
    let again = calls.acquire_session(acquire("another", "globex")).await.unwrap_err();
    assert!(again.message().contains("state cannot be written"), "{again}");
    // What is there goes on, and its end frees its place.
    let renewal = v1::RenewSessionRequest { session_id: "one".into(), ..Default::default() };
    calls.renew_session(renewal).await.unwrap();
    calls.release_session(release("two")).await.unwrap();
    assert_eq!(sessions(&running).as_array().unwrap().len(), 1);
    full("unlimited");
    eventually("it is written again", || running.said().contains("can be written again"));
    calls.acquire_session(acquire("other", "globex")).await.unwrap();
    running.restart("KILL");
    let ids = sessions(&running).to_string();
    assert!(
        ids.contains("\"one\"") && ids.contains("\"other\"") && !ids.contains("\"two\""),
        "{ids}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_with_a_full_disk_it_comes_back_with_all_that_was_granted_and_in_another_epoch() {
    let mut running = Start::default().run();
    let mut calls = client(&running).await;
    calls.acquire_session(acquire("s", "acme")).await.unwrap();
    let epoch = async |running: &Running| {
        let mut stream = watch(running, None).await;
        loop {
            if let Item::SnapshotEnd(end) = next(&mut stream).await {
                break end.cursor.unwrap().epoch;
            }
        }
    };
    calls.release_session(release("s")).await.unwrap();
    let before = epoch(&running).await;
    calls.acquire_session(acquire("live", "acme")).await.unwrap();
    let pid = running.child.id().to_string();
    let limit = ["--pid", &pid, "--fsize=1:unlimited"];
    assert!(std::process::Command::new("prlimit").args(limit).status().unwrap().success());
    calls.acquire_session(acquire("no", "acme")).await.unwrap_err();
    running.restart("KILL");
    let ids = sessions(&running).to_string();
    assert!(ids.contains("live") && !ids.contains("no\""), "{ids}");
    client(&running).await.release_session(release("live")).await.unwrap();
    assert_ne!(
        epoch(&running).await,
        before,
        "sequences may have been given that nobody wrote down"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_in_the_config_meanwhile_reaches_the_sessions_that_came_back() {
    let mut running = Start { config: "[tenants.acme]\ncap = 3\n", ..Start::default() }.run();
    let mut before = client(&running).await;
    let ask = v1::AcquireSessionRequest { worker: "w".to_owned(), ..acquire("s", "acme") };
    before.acquire_session(ask).await.unwrap();
    running.kill();
    private(&running.config(), "[tenants.acme]\ncap = 1\n");
    running.start_again();
    // Without anybody asking for the tenant.
    eventually("the new cap", || {
        let shown = text(&running.call(&["tenants", "acme", "--json"]));
        shown.contains("\"cap\":1") || shown.contains("\"cap\": 1")
    });
    let mut after = client(&running).await;
    let mut stream = hold(&mut after, "w", "s").await;
    let refused = after.acquire_session(acquire("second", "acme")).await.unwrap_err();
    assert!(refused.message().contains("1 of 1"), "{refused}");
    // Changed again, so that the worker must hear of it over the new stream.
    private(&running.config(), "[tenants.acme]\ncap = 2\n");
    assert!(running.call(&["reload"]).status.success());
    loop {
        let told = tokio::time::timeout(std::time::Duration::from_secs(20), stream.from.message());
        let told = told.await.expect("in time").unwrap().unwrap();
        if matches!(told.message, Some(keep_alive_response::Message::ConfigChanged(_))) {
            break;
        }
    }
}
