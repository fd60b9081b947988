use tenantd::{
    domain::{event::Kind, session::EndCause},
    wire::v1::{self, keep_alive_response::Message},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Running, acquire, eventually, start};

const QUICK: &str = "[lease]\npending = '300ms'\ngrace = '300ms'\nttl = '60s'\n";

fn ends(running: &Running) -> Vec<EndCause> {
    let entries = running.sidecar.events.after(0).unwrap();
    entries
        .iter()
        .filter_map(|entry| match entry.event.kind {
            Kind::SessionEnded { cause, .. } => Some(cause),
            _ => None,
        })
        .collect()
}

async fn nobody_live(running: &Running) {
    eventually("no live session", || async { running.sidecar.live().await == 0 }).await;
}

async fn stream(
    running: &Running,
    attach: &str,
) -> (mpsc::Sender<v1::KeepAliveRequest>, tonic::Streaming<v1::KeepAliveResponse>) {
    let (asks, asked) = mpsc::channel(8);
    let first = v1::KeepAliveRequest {
        worker: "w".to_owned(),
        attach_session_ids: vec![attach.to_owned()],
        ..Default::default()
    };
    asks.send(first).await.unwrap();
    let mut sessions = running.sessions().await;
    let mut answers = sessions.keep_alive(ReceiverStream::new(asked)).await.unwrap().into_inner();
    let first = answers.message().await.unwrap().unwrap().message.unwrap();
    assert!(matches!(first, Message::Attached(attached) if attached.sessions.len() == 1));
    (asks, answers)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pending_session_that_nobody_runs_gives_its_slot_back() {
    let running = start(QUICK).await;
    let pending = v1::AcquireSessionRequest { activate: false, ..acquire("s", "acme") };
    let granted = running.sessions().await.acquire_session(pending).await.unwrap().into_inner();
    assert_eq!(granted.session.unwrap().state(), v1::SessionState::Pending);
    nobody_live(&running).await;
    assert_eq!(ends(&running), [EndCause::PendingExpired]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_worker_without_a_stream_lives_with_its_connection() {
    let running = start(QUICK).await;
    let named = v1::AcquireSessionRequest { worker: "w".to_owned(), ..acquire("s", "acme") };
    let mut sessions = running.sessions().await;
    sessions.acquire_session(named).await.unwrap();
    let unnamed = running.sessions().await.acquire_session(acquire("stays", "acme")).await;
    assert!(unnamed.is_ok(), "its own connection is closed right away");
    drop(sessions);
    eventually("only the unnamed one", || async { running.sidecar.live().await == 1 }).await;
    assert_eq!(ends(&running), [EndCause::WorkerLost]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_leaves_time_to_come_back_and_no_more() {
    let running = start(QUICK).await;
    let named = v1::AcquireSessionRequest { worker: "w".to_owned(), ..acquire("s", "acme") };
    running.sessions().await.acquire_session(named).await.unwrap();
    drop(stream(&running, "s").await);
    let back = stream(&running, "s").await;
    // Longer than the grace that the first break began.
    tokio::time::timeout(
        std::time::Duration::from_millis(800),
        running.sidecar.on_drain().changed(),
    )
    .await
    .expect_err("nothing happens to a session that is back");
    assert_eq!(running.sidecar.live().await, 1);
    drop(back);
    nobody_live(&running).await;
    assert_eq!(ends(&running), [EndCause::WorkerLost], "one end event");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_told_to_its_worker() {
    let running = start(QUICK).await;
    running.sessions().await.acquire_session(acquire("s", "acme")).await.unwrap();
    let (_asks, mut answers) = stream(&running, "s").await;
    let asked = v1::RevokeSessionRequest { session_id: "s".to_owned(), note: "abuse".to_owned() };
    running.admin().await.revoke_session(asked).await.unwrap();
    let told = answers.message().await.unwrap().unwrap().message.unwrap();
    assert!(
        matches!(told, Message::Revoked(revoked) if revoked.session_id == "s" && revoked.note == "abuse")
    );
    assert_eq!(ends(&running), [EndCause::Revoked]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_reports_shows_bounded_and_tagged() {
    let running = start("[limits]\nworker_reports_per_second = 5\n").await;
    running.sessions().await.acquire_session(acquire("s", "acme")).await.unwrap();
    let (asks, _answers) = stream(&running, "s").await;
    for _ in 0..50 {
        let report = v1::KeepAliveRequest {
            loop_blocked: Some(prost_types::Duration { seconds: 0, nanos: 80_000_000 }),
            loop_blocked_session_id: "s".to_owned(),
            memory_bytes: 12_345,
            ..Default::default()
        };
        asks.send(report).await.unwrap();
    }
    let mut watches = running.watches().await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let snapshot =
            watches.get_snapshot(v1::GetSnapshotRequest::default()).await.unwrap().into_inner();
        if snapshot.memory_bytes_by_worker.get("w") == Some(&12_345) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline);
    }
    let slow = || {
        let entries = running.sidecar.events.after(0).unwrap();
        let slow = entries.iter().filter(|e| matches!(e.event.kind, Kind::WorkerSlow { .. }));
        slow.map(|e| e.event.subject.tenant.as_ref().unwrap().to_string()).collect::<Vec<_>>()
    };
    eventually("a report", || async { !slow().is_empty() }).await;
    assert!(slow().iter().all(|tenant| tenant == "acme"));
    // A slow machine may let a part of the next second's through.
    assert!(slow().len() < 20, "{}", slow().len());
    running.stop().await;
}
