//! A new sidecar in the place of the old one: nobody is refused, nothing is lost.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use tenantd::wire::v1::{
    self, keep_alive_response, session_service_client::SessionServiceClient,
    watch_service_client::WatchServiceClient, watch_sessions_response::Item,
};
use tonic::{Code, transport::Channel};

use crate::support::{Running, Start, Watchdog, acquire, eventually, release, text};

const CONFIG: &str = "[defaults]\ncap = 1000\n[lease]\ngrace = '30s'\n[tenants.small]\ncap = 1\n";

/// None of it takes so long, on no machine.
const HANGS: Duration = Duration::from_secs(150);

/// A call's deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer came from no server: a call that met a connection that was told to go.
/// Other gRPC clients send it anew by themselves; tonic leaves that to its caller.
fn is_transport(status: &tonic::Status) -> bool {
    std::error::Error::source(status).is_some_and(|of| of.is::<tonic::transport::Error>())
}

/// Asks again as gRPC's own retry policy does: when the answer is UNAVAILABLE.
macro_rules! patient {
    ($retries:expr, $call:expr) => {{
        let mut attempt = 0_u32;
        loop {
            let answer = tokio::time::timeout(PATIENCE, $call).await;
            match answer.unwrap_or_else(|_| Err(tonic::Status::unavailable("no answer in time"))) {
                Err(status)
                    if (status.code() == Code::Unavailable || is_transport(&status))
                        && attempt < 4 =>
                {
                    $retries.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(50 << attempt)).await;
                    attempt += 1;
                }
                other => break other,
            }
        }
    }};
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    retries: AtomicU32,
    /// Sessions that came and went.
    done: AtomicU32,
}

/// Sessions that come and go, one after the other, until told to stop.
async fn load(channel: Channel, name: String, shared: Arc<Shared>) -> Result<(), String> {
    let mut calls = SessionServiceClient::new(channel);
    let Shared { stop, retries, done } = &*shared;
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let id = format!("{name}-{number}");
        let ask = || acquire(&id, "acme");
        patient!(retries, calls.acquire_session(ask()))
            .map_err(|status| format!("acquire {id}: {status:?}"))?;
        match patient!(retries, calls.release_session(release(&id))) {
            Ok(_) => {}
            // Its answer was lost, the release was not.
            Err(status) if status.message().contains("has ended") => {}
            Err(status) => return Err(format!("release {id}: {status:?}")),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// A worker that holds a session, and comes back whenever its stream ends.
async fn worker(channel: Channel, shared: Arc<Shared>) -> Result<u32, String> {
    let mut calls = SessionServiceClient::new(channel);
    let mut streams = 0;
    while !shared.stop.load(Ordering::Acquire) {
        let (to, asked) = tokio::sync::mpsc::channel(4);
        let first = v1::KeepAliveRequest {
            worker: "w".to_owned(),
            attach_session_ids: vec!["long".to_owned()],
            ..Default::default()
        };
        to.send(first).await.map_err(|error| error.to_string())?;
        let asked = tokio_stream::wrappers::ReceiverStream::new(asked);
        let Ok(stream) = calls.keep_alive(asked).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        streams += 1;
        while let Ok(Some(told)) = stream.message().await {
            match told.message {
                Some(keep_alive_response::Message::Attached(attached))
                    if attached.sessions.len() != 1 =>
                {
                    return Err(format!("lost: {attached:?}"));
                }
                Some(keep_alive_response::Message::Revoked(revoked)) => {
                    return Err(format!("revoked: {revoked:?}"));
                }
                _ => {}
            }
        }
    }
    Ok(streams)
}

/// What a watcher sees that comes back with its cursor: acquired and ended, by
/// session; how many events it was told to have missed; those before which others
/// are missing without a word.
#[derive(Default)]
struct Seen {
    sessions: BTreeMap<String, (u32, u32)>,
    missed: u64,
    silent: Vec<u64>,
}

async fn watcher(channel: Channel, last: &str, begun: Arc<tokio::sync::Notify>) -> Seen {
    let mut watches = WatchServiceClient::new(channel);
    let (mut cursor, mut seen) = (None::<v1::Cursor>, Seen::default());
    // Told of a gap; and where the snapshot after it stands.
    let (mut gap, mut shown) = (false, 0);
    loop {
        let asked = v1::WatchSessionsRequest { cursor: cursor.clone(), ..Default::default() };
        let Ok(stream) = watches.watch_sessions(asked).await else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let mut stream = stream.into_inner();
        while let Ok(Some(told)) = stream.message().await {
            match told.item {
                Some(Item::Event(event)) => {
                    let at = cursor.as_mut().expect("a snapshot before");
                    let hole = event.sequence - at.sequence - 1;
                    if hole > 0 && event.sequence < shown + 100 {
                        // Of tenants that were read later than others for the snapshot.
                        seen.missed += hole;
                    } else if hole > 0 {
                        seen.silent.push(event.sequence);
                    }
                    at.sequence = event.sequence;
                    let kind = event.kind();
                    let of = seen.sessions.entry(event.session_id.clone()).or_default();
                    of.0 += u32::from(kind == v1::EventKind::SessionAcquired);
                    of.1 += u32::from(kind == v1::EventKind::SessionEnded);
                    if kind == v1::EventKind::SessionEnded && event.session_id == last {
                        return seen;
                    }
                }
                Some(Item::SnapshotEnd(end)) => {
                    let at = end.cursor.unwrap();
                    if let Some(before) = &cursor {
                        assert_eq!(before.epoch, at.epoch, "its sequences go on");
                        assert!(gap, "a new snapshot without a word");
                        // In the snapshot, instead of as events.
                        seen.missed += at.sequence - before.sequence;
                        shown = at.sequence;
                    }
                    gap = false;
                    cursor = Some(at);
                    begun.notify_one();
                }
                Some(Item::Gap(_)) => gap = true,
                _ => {}
            }
        }
    }
}

struct Everybody {
    shared: Arc<Shared>,
    loads: Vec<tokio::task::JoinHandle<Result<(), String>>>,
    worker: tokio::task::JoinHandle<Result<u32, String>>,
    watcher: tokio::task::JoinHandle<Seen>,
    channel: Channel,
}

impl Everybody {
    async fn start(channels: impl AsyncFn() -> Channel) -> Self {
        let shared = Arc::<Shared>::default();
        let channel = channels().await;
        let begun = Arc::<tokio::sync::Notify>::default();
        let watcher = tokio::spawn(watcher(channels().await, "last", Arc::clone(&begun)));
        begun.notified().await;
        let mut calls = SessionServiceClient::new(channel.clone());
        let ask = v1::AcquireSessionRequest { worker: "w".to_owned(), ..acquire("long", "small") };
        calls.acquire_session(ask).await.unwrap();
        let worker = tokio::spawn(worker(channels().await, Arc::clone(&shared)));
        let mut loads = Vec::new();
        for n in 0..8 {
            let load = load(channels().await, format!("l{n}"), Arc::clone(&shared));
            loads.push(tokio::spawn(load));
        }
        Self { shared, loads, worker, watcher, channel }
    }

    /// Waits until calls were answered since.
    fn goes_on(&self) {
        let before = self.shared.done.load(Ordering::Relaxed);
        eventually("sessions go on", || {
            self.shared.done.load(Ordering::Relaxed) > before + 20
                || self.loads.iter().any(tokio::task::JoinHandle::is_finished)
        });
    }

    /// Nobody was refused, and all is accounted for.
    async fn check(self, upgrades: u32) {
        let mut calls = SessionServiceClient::new(self.channel);
        // Its slot was never free, not even for a moment.
        let refused = calls.acquire_session(acquire("other", "small")).await.unwrap_err();
        assert!(refused.message().contains("1 of 1"), "{refused}");
        self.shared.stop.store(true, Ordering::Release);
        for load in self.loads {
            load.await.unwrap().expect("nobody is refused");
        }
        calls.release_session(release("long")).await.unwrap();
        calls.acquire_session(acquire("last", "acme")).await.unwrap();
        calls.release_session(release("last")).await.unwrap();
        let seen = tokio::time::timeout(Duration::from_secs(30), self.watcher)
            .await
            .expect("the watcher sees the end")
            .unwrap();
        assert!(seen.silent.is_empty(), "not told: {:?}", seen.silent);
        let whole = |times: &(u32, u32)| *times == (1, 1);
        let loads = seen
            .sessions
            .iter()
            .filter(|(session, _)| session.starts_with('l') && session.contains('-'));
        let torn = loads.filter(|(_, times)| !whole(times)).count() as u64;
        assert!(torn <= seen.missed, "{torn} sessions are not whole, {} are missed", seen.missed);
        assert!(seen.sessions.values().all(|times| times.0 <= 1 && times.1 <= 1));
        self.worker.abort();
        if let Ok(streams) = self.worker.await {
            assert!(streams.expect("its session goes on") > 1);
        }
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!(
                "{upgrades} upgrades, {} retries, {} sessions, {} events missed\n",
                self.shared.retries.load(Ordering::Relaxed),
                seen.sessions.len(),
                seen.missed
            )
            .as_bytes(),
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sidecars_that_take_over_under_load_refuse_nobody_and_lose_nothing() {
    let _dog = Watchdog::new("a take-over", HANGS, Vec::new());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tcp = port.to_string();
    let mut running = Start { config: CONFIG, listen: &[&tcp], ..Start::default() }.run();
    let everybody = Everybody::start(async || running.channel().await).await;
    let far = tonic::transport::Endpoint::new(format!("http://{tcp}")).unwrap();
    let over_tcp = tokio::spawn(load(
        far.connect().await.unwrap(),
        "ltcp".to_owned(),
        Arc::clone(&everybody.shared),
    ));
    for _ in 0..4 {
        tokio::task::block_in_place(|| everybody.goes_on());
        let exit = tokio::task::block_in_place(|| running.take_over());
        assert_eq!(exit, Some(0), "the one before ends by itself");
    }
    everybody.check(4).await;
    over_tcp.await.unwrap().expect("over TCP neither");
    assert!(running.socket().exists());
    running.signal("TERM");
    assert_eq!(running.ends(), Some(0));
    assert!(!running.socket().exists(), "the last one cleans up");
}

/// Does for a socket what systemd does: keeps it open, and passes it on.
const SYSTEMD: &str = r#"
import os, socket, sys
path, binary, arguments = sys.argv[1], sys.argv[2], sys.argv[2:]
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen(128)
while True:
    pid = os.fork()
    if pid == 0:
        os.dup2(listener.fileno(), 3)
        os.set_inheritable(3, True)
        os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
        os.execv(binary, arguments)
    print(pid, flush=True)
    if os.waitpid(pid, 0)[1] != 0:
        sys.exit(1)
"#;

struct Systemd(Child);

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_behind_a_socket_of_systemd_refuse_nobody_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let config = dir.path().join("tenantd.toml");
    crate::support::private(&config, CONFIG);
    let log = dir.path().join("log");
    let told = fs::File::create(&log).unwrap();
    let _dog = Watchdog::new("a restart behind systemd's socket", HANGS, vec![log]);
    let systemd = Command::new("python3")
        .args(["-c", SYSTEMD])
        .arg(&socket)
        .arg(env!("CARGO_BIN_EXE_tenantd"))
        .args(["serve", "--config"])
        .arg(&config)
        .env("XDG_STATE_HOME", dir.path().join("state"))
        .stdout(Stdio::piped())
        .stderr(told)
        .spawn()
        .unwrap();
    let mut systemd = Systemd(systemd);
    let mut pids = BufReader::new(systemd.0.stdout.take().unwrap()).lines();
    let mut next = || pids.next().expect("a sidecar").unwrap();
    let mut pid = next();
    let channels = async || Running::connect(&socket).await;
    let everybody = Everybody::start(channels).await;
    for _ in 0..4 {
        tokio::task::block_in_place(|| everybody.goes_on());
        let sent = Command::new("kill").args(["-s", "USR2", &pid]).status().unwrap();
        assert!(sent.success());
        pid = tokio::task::block_in_place(&mut next);
        // It serves before it is told to end again.
        let mut calls = SessionServiceClient::new(channels().await);
        calls.acquire_session(acquire(&format!("of-{pid}"), "acme")).await.unwrap();
    }
    everybody.check(4).await;
    assert!(socket.exists(), "it is systemd's");
    drop(systemd);
    let _ = Command::new("kill").args(["-s", "KILL", &pid]).status();
}

#[test]
fn a_sidecar_that_cannot_take_over_leaves_the_one_that_runs_alone() {
    let running = Start { config: CONFIG, ..Start::default() }.run();
    let bad = running.dir.path().join("bad.toml");
    crate::support::private(
        &bad,
        "[[sources]]\ntype = 'sqlite'\npath = '/nowhere/at/all.db'\nquery = 'select 1'\n[listen.tls]\ncert_file='/nowhere'\nkey_file='/nowhere'\n",
    );
    let failed = Command::new(env!("CARGO_BIN_EXE_tenantd"))
        .args(["serve", "--take-over", "--listen", &running.address(), "--config"])
        .arg(&bad)
        .env("XDG_STATE_HOME", running.dir.path().join("state"))
        .output()
        .unwrap();
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed));
    eventually("it still serves", || running.call(&["snapshot"]).status.success());
    // And the next one that can may.
    let mut running = running;
    assert_eq!(running.take_over(), Some(0));
    assert!(running.call(&["snapshot"]).status.success());
}

#[test]
fn a_sidecar_that_dies_while_it_is_taken_over_leaves_its_place_to_the_next() {
    let mut running = Start { config: CONFIG, ..Start::default() }.run();
    assert!(running.call(&["suspend", "acme"]).status.success());
    let pid = running.child.id().to_string();
    // It hands nothing over, and does not let go, until it is dead.
    running.signal("STOP");
    let begun = format!("{}.*--take-over", running.config().display());
    let killer = std::thread::spawn(move || {
        eventually("the next one begins", || {
            Command::new("pgrep").args(["-f", "--", &begun]).output().unwrap().status.success()
        });
        let sent = Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap();
        assert!(sent.success());
    });
    assert_eq!(running.take_over(), None, "{}", running.said());
    killer.join().unwrap();
    let acme = text(&running.call(&["tenants", "acme", "--json"]));
    assert!(acme.contains("\"suspended\":true"), "what was there is: {acme}");
}

#[test]
fn with_nobody_there_take_over_is_a_start() {
    let mut running = Start { config: CONFIG, ..Start::default() }.run();
    running.signal("TERM");
    running.ends();
    let dir = running.dir.path().to_owned();
    let mut next = Start { config: CONFIG, ..Start::default() };
    next.env = &[];
    let mut alone = next.run();
    alone.kill();
    // The socket of the killed one is in the way, and nobody answers there.
    assert_eq!(alone.take_over(), None);
    assert!(alone.call(&["snapshot"]).status.success());
    drop(dir);
}
