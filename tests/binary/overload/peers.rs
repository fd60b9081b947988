//! Peers that connect: too many, too slow, or saying nothing.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use hyper_util::rt::TokioIo;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tenantd::{domain::access::TokenHash, wire::v1};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use v1::session_service_client::SessionServiceClient;

use super::{
    COUNTED, Holds, Neighbour, QUIET, figure, shed,
    wire::{CALM, HEADERS, PREFACE, Peer, SETTINGS, frame},
};
use crate::{
    certificates::{Authority, Files},
    support::{Start, acquire, eventually, free, skipped},
};

const TOKEN: &str = "tnd_0123456789abcdef0123456789abcdef";

/// As many files as this process may have: it holds the other ends.
fn many_files() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

/// Connections that the sidecar has.
fn open(metrics: SocketAddr) -> u64 {
    figure(metrics, "tenantd_connections")
}

/// What a connection beyond a bound is told; told are only so many at a time.
fn told(path: &Path) -> (u32, String) {
    for _ in 0..400 {
        if let Some(word) = Peer::unix(path).farewell() {
            return word;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    panic!("nobody is told");
}

/// As [`told`], through a client library, which may find the connection closed before
/// it has read the word.
async fn told_by_a_library(path: &Path, word: &str) {
    let mut last = None;
    for _ in 0..400 {
        let path = path.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_static("http://localhost");
        let mut calls = SessionServiceClient::new(endpoint.connect_with_connector_lazy(connector));
        let said = format!("{:?}", calls.acquire_session(acquire("s", "acme")).await.unwrap_err());
        if said.contains(word) {
            return;
        }
        last = Some(said);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("nobody is told: {last:?}");
}

fn is_closed(mut peer: Peer) {
    let _ = peer.farewell();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_or_half_a_hello_is_closed_in_time() {
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let (tls, plain, metrics) = (free(), free(), free());
    let limits = "[limits]\nhandshake_timeout = '2s'\n";
    let config =
        format!("[telemetry]\nprometheus = '{metrics}'\n{limits}{}", files.config("optional"));
    let secured = tls.to_string();
    let secured = Start {
        config: &config,
        listen: &[&secured],
        with: COUNTED,
        env: QUIET,
        ..Start::default()
    }
    .run();
    let open = plain.to_string();
    let open =
        Start { config: limits, listen: &[&open], with: COUNTED, env: QUIET, ..Start::default() }
            .run();
    let neighbours = [Neighbour::of(&secured).await, Neighbour::of(&open).await];
    for neighbour in &neighbours {
        neighbour.is_served();
    }
    let before = [Holds::of(&secured), Holds::of(&open)];
    // The beginning of a TLS handshake.
    let half_tls: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    let mut peers = Vec::new();
    for said in [&[][..], &PREFACE[..12]] {
        for _ in 0..10 {
            for mut peer in [Peer::unix(&secured.socket()), Peer::tcp(plain)] {
                peer.send(said).unwrap();
                peers.push(peer);
            }
        }
    }
    for said in [&[][..], half_tls] {
        for _ in 0..10 {
            let mut peer = Peer::tcp(tls);
            peer.send(said).unwrap();
            peers.push(peer);
        }
    }
    for neighbour in &neighbours {
        neighbour.is_served();
    }
    // None of them leaves by itself.
    tokio::task::spawn_blocking(|| peers.into_iter().for_each(is_closed)).await.unwrap();
    assert_eq!(shed(metrics, "silent"), 20);
    assert_eq!(shed(metrics, "handshake"), 20);
    let said = secured.said();
    assert!(said.contains("no HTTP/2 preface came in"), "{said}");
    assert!(said.contains("it did not end in limits.handshake_timeout"), "{said}");
    for neighbour in neighbours {
        neighbour.ends().await;
    }
    before[0].is_over(&secured, 32);
    before[1].is_over(&open, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_answers_no_ping_is_closed_in_time() {
    let metrics = free();
    let config = format!("[telemetry]\nprometheus = '{metrics}'\n[limits]\ndead_after = '4s'\n");
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let before = Holds::of(&running);
    let settings = frame(SETTINGS, 0, 0, &[]);
    let half_a_call = &frame(HEADERS, 0, 1, &[0; 100])[..20];
    let mut peers = Vec::new();
    for said in [
        &PREFACE.to_vec(),
        &[PREFACE, &settings].concat(),
        &[PREFACE, &settings, half_a_call].concat(),
    ] {
        for _ in 0..20 {
            let mut peer = Peer::unix(&running.socket());
            peer.send(said).unwrap();
            peers.push(peer);
        }
    }
    neighbour.is_served();
    tokio::task::spawn_blocking(|| peers.into_iter().for_each(is_closed)).await.unwrap();
    eventually("all are counted", || shed(metrics, "silent") == 60);
    neighbour.ends().await;
    before.is_over(&running, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_connects_without_end_is_told_and_leaves_room_for_the_others() {
    let metrics = free();
    let config = format!(
        "[telemetry]\nprometheus = '{metrics}'\n[limits]\nconnections_per_peer = 50\nmax_connections = 1000\n"
    );
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let before = Holds::of(&running);
    // Idle, and never closed: this process's own.
    let mut flood = Vec::new();
    for _ in 0..2000 {
        match UnixStream::connect(running.socket()) {
            Ok(stream) => flood.push(stream),
            // Its queue is full for a moment.
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
    eventually("they are counted", || shed(metrics, "peer_at_bound") > 1000);
    let said = running.said();
    let process = format!("process {}", std::process::id());
    assert!(said.contains("limits.connections_per_peer") && said.contains(&process), "{said}");
    // It is told, and so is whoever asks through a library.
    let (code, why) = told(&running.socket());
    assert_eq!(code, CALM);
    assert!(why.contains("you have 50 connections already"), "{why}");
    told_by_a_library(&running.socket(), "you have 50 connections").await;
    // Another process is served.
    assert!(running.call(&["snapshot"]).status.success());
    neighbour.is_served();
    drop(flood);
    // And this one again, once its own have gone.
    eventually("its places are given back", || open(metrics) == 1);
    let mut calls = SessionServiceClient::new(running.channel().await);
    calls.acquire_session(acquire("s", "acme")).await.unwrap();
    drop(calls);
    neighbour.ends().await;
    before.is_over(&running, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_idle_connections_cost_little_and_beyond_the_bound_all_are_told() {
    many_files();
    let metrics = free();
    let config = format!(
        "[telemetry]\nprometheus = '{metrics}'\n[limits]\nconnections_per_peer = 5000\nmax_connections = 2000\n"
    );
    let running = Start { config: &config, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let before = Holds::of(&running);
    let mut idle = Vec::new();
    for _ in 0..1999 {
        let mut peer = Peer::unix(&running.socket());
        peer.hello(&[]);
        idle.push(peer);
    }
    eventually("all are there", || open(metrics) == 2000);
    let now = Holds::of(&running);
    assert!(now.mib < before.mib + 100, "{before:?} before, {now:?} with all of them");
    neighbour.is_served();
    // This process and others are told alike.
    let (code, why) = told(&running.socket());
    assert_eq!(code, CALM);
    assert!(why.contains("limits.max_connections"), "{why}");
    eventually("a command says so", || {
        let refused = running.call(&["snapshot"]);
        let said = crate::support::text(&refused);
        assert_eq!(refused.status.code(), Some(69), "{said}");
        said.contains("there are 2000 connections already")
    });
    assert!(shed(metrics, "listener_at_bound") >= 2);
    assert!(running.said().contains("limits.max_connections"));
    drop(idle);
    eventually("there is room again", || running.call(&["snapshot"]).status.success());
    neighbour.ends().await;
    before.is_over(&running, 100);
}

/// The listener's port on this machine's own address from outside, where it has one.
fn outside() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // Nothing is sent: it only asks for the way there.
    socket.connect("198.51.100.1:9").ok()?;
    let own = socket.local_addr().ok()?.ip();
    (!own.is_loopback() && !own.is_unspecified()).then_some(own)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_address_takes_all_places_of_the_tcp_listener() {
    let Some(outside) = outside() else {
        return skipped("this machine has no address but loopback");
    };
    let (servers, clients) = (Authority::new(), Authority::new());
    let files = Files::new(&servers.server(), &clients.pem());
    let identity = format!(
        "[[identities]]\nname='a'\nroles=['agent']\ntenants=['*']\ntokens=['sha256:{}']\n",
        TokenHash::of(TOKEN).hex()
    );
    let limits = "[limits]\nmax_connections = 8\n";
    let (port, metrics) = (free().port(), free());
    let config = format!(
        "[telemetry]\nprometheus = '{metrics}'\n{limits}{}{identity}",
        files.config("optional")
    );
    let listen = format!("0.0.0.0:{port}");
    let running =
        Start { config: &config, listen: &[&listen], env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    // Each of them secure, and idle from then on.
    let connect = async |at: SocketAddr| {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(servers.pem()))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{at}")).unwrap();
        let endpoint = endpoint.tls_config(tls).unwrap();
        tokio::time::timeout(Duration::from_secs(20), endpoint.connect()).await.unwrap()
    };
    for (flooder, other) in
        [(IpAddr::from([127, 0, 0, 1]), outside), (outside, [127, 0, 0, 1].into())]
    {
        let mut taken = Vec::new();
        while let Ok(channel) = connect((flooder, port).into()).await {
            taken.push(channel);
            assert!(taken.len() < 8, "{flooder} has all places");
        }
        assert_eq!(taken.len(), 6, "{flooder}");
        let mut calls = SessionServiceClient::new(connect((other, port).into()).await.unwrap());
        let mut asked = tonic::Request::new(acquire("s", "acme"));
        asked.metadata_mut().insert("authorization", format!("Bearer {TOKEN}").parse().unwrap());
        calls.acquire_session(asked).await.unwrap();
        drop((taken, calls));
        eventually("they have gone", || open(metrics) == 1);
    }
    neighbour.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_without_file_descriptors_waits_and_comes_back() {
    let metrics = free();
    let config =
        format!("[telemetry]\nprometheus = '{metrics}'\n[limits]\nconnections_per_peer = 5000\n");
    // Fewer than it has of its own and is to have of connections.
    let before = "ulimit -n 44";
    let running =
        Start { config: &config, before, with: COUNTED, env: QUIET, ..Start::default() }.run();
    let said = running.said();
    assert!(said.contains("too few files for limits.max_connections"), "{said}");
    let neighbour = Neighbour::of(&running).await;
    neighbour.is_served();
    let began = Instant::now();
    let flood: Vec<_> = (0..100).map(|_| UnixStream::connect(running.socket())).collect();
    eventually("it is said", || running.said().contains("no connection can be accepted"));
    // Who has a connection is served; and it waits instead of spinning.
    for _ in 0..20 {
        neighbour.is_served();
    }
    drop(flood);
    eventually("it is over", || running.said().contains("connections are accepted again"));
    assert!(running.call(&["snapshot"]).status.success());
    let tries = shed(metrics, "no_descriptor");
    let most = 2 * began.elapsed().as_millis() / 100 + 2;
    assert!((1..=most).contains(&u128::from(tries)), "{tries} tries, at most {most} expected");
    let told = running.said().matches("no connection can be accepted").count();
    assert!(told < 10, "{}", running.said());
    neighbour.ends().await;
}

#[test]
fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let hard = maximum.map_or("unlimited".to_owned(), |most| most.to_string());
    let running =
        Start { before: "ulimit -Sn 256", with: COUNTED, env: QUIET, ..Start::default() }.run();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let soft = line.split_whitespace().nth(3).unwrap();
    assert_eq!(soft, hard, "{line}");
}
