//! Peers that do not read what they asked for, or do not finish what they say.

use prost::Message as _;
use tenantd::wire::v1::{self, session_service_client::SessionServiceClient};

use super::{
    COUNTED, Holds, Neighbour, QUIET, calls_shed, figure, shed,
    wire::{DATA, END_HEADERS, END_STREAM, HEADERS, Peer, WINDOW_UPDATE, call, frame, message},
};
use crate::support::{Running, Start, acquire, eventually, free, release};

const ACQUIRE: &str = "/tenantd.v1.SessionService/AcquireSession";
const WATCH: &str = "/tenantd.v1.WatchService/WatchSessions";
const LIST: &str = "/tenantd.v1.WatchService/ListSessions";
/// HTTP/2's setting: what each stream may be sent at first.
const INITIAL_WINDOW: u16 = 4;

/// A sidecar that is attacked over TCP while its neighbour, another peer, is on the
/// socket.
struct Scene {
    running: Running,
    neighbour: Neighbour,
    tcp: std::net::SocketAddr,
    metrics: std::net::SocketAddr,
    before: Holds,
}

impl Scene {
    async fn new(limits: &str) -> Self {
        let (tcp, metrics) = (free(), free());
        let config = format!("[telemetry]\nprometheus = '{metrics}'\n[limits]\n{limits}\n");
        let listen = tcp.to_string();
        let start = Start {
            config: &config,
            listen: &[&listen],
            with: COUNTED,
            env: QUIET,
            ..Start::default()
        };
        let running = start.run();
        let neighbour = Neighbour::of(&running).await;
        neighbour.is_served();
        let before = Holds::of(&running);
        Self { running, neighbour, tcp, metrics, before }
    }
}

/// How many of `calls` were refused: answered by headers alone.
fn refused(peer: &mut Peer, calls: usize) -> usize {
    let (mut answered, mut refused) = (0, 0);
    while answered < calls {
        let (kind, flags, ..) = peer.frame().expect("the connection goes on");
        if kind == HEADERS {
            answered += 1;
            refused += usize::from(flags & END_STREAM != 0);
        }
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_no_answer_fills_its_own_share() {
    let scene = Scene::new("calls_per_peer = 300").await;
    let tcp = scene.tcp;
    let flood = move || {
        let mut peers = Vec::new();
        for n in 0..2 {
            let mut peer = Peer::tcp(tcp);
            peer.hello(&[(INITIAL_WINDOW, 0)]);
            let mut all = Vec::new();
            for of in 0..500_u32 {
                let stream = 2 * of + 1;
                all.extend(frame(HEADERS, END_HEADERS, stream, &call(ACQUIRE)));
                let asked = message(&acquire(&format!("a-{n}-{of}"), "flood"));
                all.extend(frame(DATA, END_STREAM, stream, &asked));
            }
            peer.send(&all).unwrap();
            let refused = refused(&mut peer, 500);
            peers.push((peer, refused));
        }
        peers
    };
    let peers = tokio::task::spawn_blocking(flood).await.unwrap();
    // The 300 that are answered hold their places, over all connections.
    let counts: Vec<_> = peers.iter().map(|(_, refused)| *refused).collect();
    assert_eq!(counts, [200, 500]);
    assert_eq!(calls_shed(scene.metrics, "calls_at_bound"), 700);
    let said = scene.running.said();
    assert!(said.contains("limits.calls_per_peer"), "{said}");
    scene.neighbour.is_served();
    drop(peers);
    // Who is gone holds none, and the next is served.
    eventually("they have gone", || figure(scene.metrics, "tenantd_connections") == 1);
    let again = move || {
        let mut peer = Peer::tcp(tcp);
        peer.hello(&[]);
        peer.send(&frame(HEADERS, END_HEADERS, 1, &call(ACQUIRE))).unwrap();
        peer.send(&frame(DATA, END_STREAM, 1, &message(&acquire("again", "flood")))).unwrap();
        refused(&mut peer, 1)
    };
    assert_eq!(tokio::task::spawn_blocking(again).await.unwrap(), 0);
    scene.neighbour.ends().await;
    scene.before.is_over(&scene.running, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_never_become_whole_fill_their_peers_share() {
    let scene = Scene::new("partial_bytes = 524288").await;
    let tcp = scene.tcp;
    let flood = move || {
        let mut peers = Vec::new();
        for _ in 0..10 {
            let mut peer = Peer::tcp(tcp);
            peer.hello(&[]);
            // Until the connection's whole window is there.
            while !matches!(peer.next(), Some((WINDOW_UPDATE, 0, _))) {}
            let mut all = Vec::new();
            for stream in (1..32).step_by(2) {
                all.extend(frame(HEADERS, END_HEADERS, stream, &call(ACQUIRE)));
                // A message of 1 MB, and 60 KB of it; all together less than a
                // connection's window.
                let head = [&[0_u8][..], &1_000_000_u32.to_be_bytes()].concat();
                all.extend(frame(DATA, 0, stream, &head));
                for _ in 0..4 {
                    all.extend(frame(DATA, 0, stream, &[b'x'; 15_000]));
                }
            }
            peer.send(&all).unwrap();
            peers.push(peer);
        }
        peers
    };
    let peers = tokio::task::spawn_blocking(flood).await.unwrap();
    // Eight messages of 60 KB fit into the share of all connections.
    eventually("they are refused", || calls_shed(scene.metrics, "partial_at_bound") == 160 - 8);
    scene.neighbour.is_served();
    let said = scene.running.said();
    assert!(said.contains("limits.partial_bytes"), "{said}");
    drop(peers);
    eventually("they have gone", || figure(scene.metrics, "tenantd_connections") == 1);
    // What is whole is taken, however large.
    let url = format!("http://{tcp}");
    let mut calls = SessionServiceClient::connect(url).await.unwrap();
    let mut large = acquire("large", "flood");
    large.job_metadata = format!("{{\"x\":\"{}\"}}", "y".repeat(60_000));
    large.room_metadata = large.job_metadata.clone();
    assert!(large.encoded_len() > 120_000);
    calls.acquire_session(large).await.unwrap();
    calls.release_session(release("large")).await.unwrap();
    drop(calls);
    scene.neighbour.ends().await;
    scene.before.is_over(&scene.running, 32);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_may_have_all_watchers_that_there_may_be() {
    let scene = Scene::new("max_watchers = 600").await;
    let mut peer = Peer::unix(&scene.running.socket());
    let watchers = move || {
        peer.hello(&[]);
        let mut all = Vec::new();
        for stream in (1..2 * 601).step_by(2) {
            all.extend(frame(HEADERS, END_HEADERS, stream, &call(WATCH)));
            let asked = message(&v1::WatchSessionsRequest::default());
            all.extend(frame(DATA, END_STREAM, stream, &asked));
        }
        peer.send(&all).unwrap();
        (refused(&mut peer, 601), peer)
    };
    let (refused, _watching) = tokio::task::spawn_blocking(watchers).await.unwrap();
    assert_eq!(refused, 1, "and no more");
    assert_eq!(calls_shed(scene.metrics, "calls_at_bound"), 0);
    scene.neighbour.ends().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_takes_nothing_from_its_socket_is_closed_in_time() {
    let scene = Scene::new("dead_after = '4s'").await;
    let mut calls = SessionServiceClient::new(scene.running.channel().await);
    for n in 0..500 {
        calls.acquire_session(acquire(&format!("many-{n}"), "acme")).await.unwrap();
    }
    drop(calls);
    eventually("one is there", || figure(scene.metrics, "tenantd_connections") == 1);
    let mut stuck = Vec::new();
    for _ in 0..5 {
        let mut peer = Peer::unix(&scene.running.socket());
        // All windows wide open: what stops the answers is the socket alone.
        peer.hello(&[(INITIAL_WINDOW, i32::MAX as u32)]);
        let window_update = frame(WINDOW_UPDATE, 0, 0, &(i32::MAX as u32 - 70_000).to_be_bytes());
        let mut all = window_update;
        for stream in (1..200).step_by(2) {
            all.extend(frame(HEADERS, END_HEADERS, stream, &call(LIST)));
            let asked = v1::ListSessionsRequest { page_size: 1000, ..Default::default() };
            all.extend(frame(DATA, END_STREAM, stream, &message(&asked)));
        }
        peer.send(&all).unwrap();
        stuck.push(peer);
    }
    eventually("they are there", || figure(scene.metrics, "tenantd_connections") == 6);
    scene.neighbour.is_served();
    // They stay, and read nothing.
    eventually("they are closed", || figure(scene.metrics, "tenantd_connections") == 1);
    assert_eq!(shed(scene.metrics, "silent"), 5);
    scene.neighbour.ends().await;
    scene.before.is_over(&scene.running, 64);
    drop(stuck);
}
