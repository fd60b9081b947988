use std::time::Duration;

use tenantd::wire::v1;

use crate::support::{acquire, reason, release, start};

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_refuses_new_sessions_confirms_old_ones_and_ends_with_the_last() {
    let mut running = start("").await;
    let mut sessions = running.sessions().await;
    let mut admin = running.admin().await;
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    let drain = v1::DrainRequest::default();
    assert_eq!(admin.drain(drain.clone()).await.unwrap().into_inner().live_sessions, 1);
    assert_eq!(admin.drain(drain).await.unwrap().into_inner().live_sessions, 1, "idempotent");
    let refused = sessions.acquire_session(acquire("new", "acme")).await.unwrap_err();
    assert_eq!(reason(&refused), "DRAINING");
    let again = sessions.acquire_session(acquire("s", "acme")).await.unwrap().into_inner();
    assert!(!again.created, "the process that runs the session still gets it");
    sessions.release_session(release("s")).await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut running.served).await;
    ended.expect("ends with its last session").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_drain_deadline_live_sessions_end_as_revoked_and_watchers_see_it() {
    let mut running = start("[drain]\ntimeout = \"200ms\"\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    let mut watches = running.watches().await;
    let mut stream =
        watches.watch_sessions(v1::WatchSessionsRequest::default()).await.unwrap().into_inner();
    running.admin().await.drain(v1::DrainRequest::default()).await.unwrap();
    let mut kinds = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        if let Some(v1::watch_sessions_response::Item::Event(event)) = answer.item {
            if let Some(v1::event::Detail::SessionEnded(end)) = &event.detail {
                assert_eq!(end.outcome(), v1::Outcome::Revoked);
                assert_eq!(end.cause(), v1::EndCause::DrainDeadline);
            }
            kinds.push(event.kind());
        }
    }
    assert_eq!(kinds, [v1::EventKind::SidecarDraining, v1::EventKind::SessionEnded]);
    let ended = tokio::time::timeout(Duration::from_secs(10), &mut running.served).await;
    ended.expect("ends at the deadline").unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once_with_sessions_live() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    running.admin().await.drain(v1::DrainRequest::default()).await.unwrap();
    running.stop().await;
}
