//! Answers that are ready together leave in one write, and are recorded by one.

use std::path::Path;

use futures_util::future::join_all;
use hyper_util::rt::TokioIo;
use tenantd::{
    config::Config,
    server::{self, Listeners, Stop},
    state::journal,
    transport::io::writes,
    wire::v1::session_service_client::SessionServiceClient,
};
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

use crate::support::{acquire, release};

const WARM_UP: usize = 5;
const ROUNDS: usize = 60;

/// One round: each connection's calls are sent together, and all answers awaited.
async fn round(
    sessions: &[SessionServiceClient<Channel>],
    streams: usize,
    number: usize,
    acquires: bool,
) {
    let calls = sessions.iter().enumerate().flat_map(|(connection, sessions)| {
        (0..streams).map(move |stream| {
            let (mut sessions, id) =
                (sessions.clone(), format!("s-{number}-{connection}-{stream}"));
            async move {
                if acquires {
                    sessions.acquire_session(acquire(&id, "acme")).await.map(|_| ())
                } else {
                    sessions.release_session(release(&id)).await.map(|_| ())
                }
            }
        })
    });
    for answer in join_all(calls).await {
        answer.unwrap();
    }
}

/// Of the connections, and of the journal.
async fn writes_per_call(connections: usize, streams: usize) -> (f64, f64) {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s.sock");
    let listeners = Listeners { unix: Some(socket.clone()), ..Listeners::default() };
    let bound = server::bind(Config::builtin(), listeners).await.unwrap();
    let (force, forced) = oneshot::channel::<()>();
    let served = tokio::spawn(bound.run(
        async move {
            _ = forced.await;
            Stop::Now
        },
        || {},
    ));
    let mut sessions = Vec::new();
    for _ in 0..connections {
        sessions.push(SessionServiceClient::new(connect(&socket).await));
    }
    let mut before = (0, 0);
    for number in 0..WARM_UP + ROUNDS {
        if number == WARM_UP {
            before = (writes(), journal::writes());
        }
        round(&sessions, streams, number, true).await;
        round(&sessions, streams, number, false).await;
    }
    let calls = (2 * ROUNDS * connections * streams) as f64;
    let by_call = |now: u64, before: u64| (now - before) as f64 / calls;
    let found = (by_call(writes(), before.0), by_call(journal::writes(), before.1));
    drop((sessions, force));
    served.await.unwrap().unwrap();
    found
}

async fn connect(socket: &Path) -> Channel {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap()
}

#[tokio::test]
async fn answers_that_are_ready_together_leave_in_one_write_and_are_recorded_by_one() {
    for (connections, streams, most) in [(1, 32, 0.10), (8, 4, 0.35), (64, 1, 1.05)] {
        let (sent, recorded) = writes_per_call(connections, streams).await;
        eprintln!("{connections}x{streams}: {sent:.3} writes per call, {recorded:.3} records");
        for (what, found) in [("writes", sent), ("writes of records", recorded)] {
            assert!(
                found <= most,
                "{connections}x{streams}: {found:.3} {what} per call, at most {most}"
            );
            assert!(found > 0.0, "no {what} were counted");
        }
    }
}
