use std::time::Duration;

use tenantd::wire::v1::{self, watch_sessions_response::Item};

use crate::support::{acquire, release, start};

async fn next(stream: &mut tonic::Streaming<v1::WatchSessionsResponse>) -> Item {
    let answer = tokio::time::timeout(Duration::from_secs(20), stream.message());
    answer.await.expect("an item in time").unwrap().expect("the stream goes on").item.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_resumes_misses_nothing_while_10_000_sessions_come_and_go() {
    const SESSIONS: usize = 10_000;
    let running = start("").await;
    let churn = {
        let sessions = running.sessions().await;
        tokio::spawn(async move {
            let mut tasks = tokio::task::JoinSet::new();
            for part in 0..20 {
                let mut sessions = sessions.clone();
                tasks.spawn(async move {
                    for n in 0..SESSIONS / 20 {
                        let id = format!("s-{part}-{n}");
                        sessions.acquire_session(acquire(&id, "acme")).await.unwrap();
                        sessions.release_session(release(&id)).await.unwrap();
                    }
                });
            }
            while tasks.join_next().await.is_some() {}
        })
    };
    let mut watches = running.watches().await;
    let mut cursor =
        Some(v1::Cursor { epoch: running.sidecar.events.epoch().to_owned(), sequence: 0 });
    let (mut last, mut ended) = (0, std::collections::HashSet::new());
    while ended.len() < SESSIONS {
        let asked = v1::WatchSessionsRequest { cursor: cursor.clone(), ..Default::default() };
        let mut stream = watches.watch_sessions(asked).await.unwrap().into_inner();
        // Broken off again and again in the middle.
        for _ in 0..1500 {
            match next(&mut stream).await {
                Item::Event(event) => {
                    assert_eq!(event.sequence, last + 1, "an event is missing or told twice");
                    assert_eq!(event.tenant, "acme");
                    last = event.sequence;
                    if event.kind() == v1::EventKind::SessionEnded {
                        assert!(ended.insert(event.session_id), "ended twice");
                    }
                }
                Item::Heartbeat(_) => {}
                other => panic!("a resumed watch within the log has only events, got {other:?}"),
            }
            if ended.len() == SESSIONS {
                break;
            }
        }
        cursor.as_mut().unwrap().sequence = last;
    }
    churn.await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_does_not_read_gets_a_gap_and_then_the_present() {
    let running = start("[limits]\nevents_kept = 64\n").await;
    let mut watches = running.watches().await;
    let mut stream =
        watches.watch_sessions(v1::WatchSessionsRequest::default()).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Item::SnapshotEnd(_)));
    let mut sessions = running.sessions().await;
    for n in 0..5000 {
        let id = format!("s{n}");
        sessions.acquire_session(acquire(&id, "acme")).await.unwrap();
        sessions.release_session(release(&id)).await.unwrap();
    }
    sessions.acquire_session(acquire("live", "acme")).await.unwrap();
    let mut last = 0;
    let gap = loop {
        match next(&mut stream).await {
            Item::Event(event) => last = event.sequence,
            Item::Gap(gap) => break gap,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(gap.from_sequence, last + 1, "the gap begins where the events ended");
    assert!(gap.to_sequence > gap.from_sequence);
    assert!(matches!(next(&mut stream).await, Item::Tenant(tenant) if tenant.live_sessions == 1));
    assert!(
        matches!(next(&mut stream).await, Item::Session(session) if session.session_id == "live")
    );
    let Item::SnapshotEnd(end) = next(&mut stream).await else { panic!("no end of the snapshot") };
    assert_eq!(end.cursor.unwrap().sequence, 10_001, "the snapshot is of the present");
    sessions.release_session(release("live")).await.unwrap();
    assert!(matches!(next(&mut stream).await, Item::Event(event) if event.sequence == 10_002));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_of_another_run_is_told_a_gap_and_the_future_is_refused() {
    let running = start("").await;
    let mut watches = running.watches().await;
    let with = |epoch: &str, sequence| v1::WatchSessionsRequest {
        cursor: Some(v1::Cursor { epoch: epoch.to_owned(), sequence }),
        ..Default::default()
    };
    let mut stream = watches.watch_sessions(with("earlier", 7)).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Item::Gap(gap) if gap.from_sequence == 0));
    assert!(matches!(next(&mut stream).await, Item::SnapshotEnd(_)));
    let epoch = running.sidecar.events.epoch().to_owned();
    let refused = watches.watch_sessions(with(&epoch, 99)).await.unwrap_err();
    assert!(refused.message().starts_with("cursor.sequence"), "{refused}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_show_one_tenants_events_of_one_kind() {
    let running = start("").await;
    let mut watches = running.watches().await;
    let asked = v1::WatchSessionsRequest {
        tenants: vec!["acme".to_owned()],
        kinds: vec![v1::EventKind::SessionEnded.into()],
        ..Default::default()
    };
    let mut stream = watches.watch_sessions(asked).await.unwrap().into_inner();
    assert!(matches!(next(&mut stream).await, Item::SnapshotEnd(_)));
    let mut sessions = running.sessions().await;
    for (id, tenant) in [("g", "globex"), ("a", "acme")] {
        sessions.acquire_session(acquire(id, tenant)).await.unwrap();
        sessions.release_session(release(id)).await.unwrap();
    }
    let Item::Event(event) = next(&mut stream).await else { panic!("no event") };
    assert_eq!((event.tenant.as_str(), event.session_id.as_str()), ("acme", "a"));
    assert_eq!(event.kind(), v1::EventKind::SessionEnded);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_is_for_the_answer_to_begin_and_an_open_stream_outlives_it() {
    let running = start("[limits]\nheartbeat = \"1s\"\n").await;
    let mut watches = running.watches().await;
    let mut request = tonic::Request::new(v1::WatchSessionsRequest::default());
    request.metadata_mut().insert("grpc-timeout", "500m".parse().unwrap());
    let mut stream = watches.watch_sessions(request).await.unwrap().into_inner();
    // The first comes when the deadline has passed.
    let mut heartbeats = 0;
    while heartbeats < 2 {
        heartbeats += u32::from(matches!(next(&mut stream).await, Item::Heartbeat(_)));
    }
    running.stop().await;
}

/// What one watcher is told of a churn, from its first item to the event `until`.
async fn follow(
    mut watches: v1::watch_service_client::WatchServiceClient<tonic::transport::Channel>,
    asked: v1::WatchSessionsRequest,
    until: u64,
) -> (std::collections::HashSet<String>, Vec<v1::Event>) {
    let mut stream = watches.watch_sessions(asked).await.unwrap().into_inner();
    let (mut live, mut told) = (std::collections::HashSet::new(), Vec::new());
    loop {
        match next(&mut stream).await {
            Item::Session(session) => _ = live.insert(session.session_id),
            Item::Event(event) => {
                let over = event.sequence >= until;
                if event.session_id != "last" {
                    told.push(event);
                }
                if over {
                    return (live, told);
                }
            }
            Item::Gap(gap) => panic!("nobody was slow: {gap:?}"),
            // Whoever came so late that it is in the snapshot.
            Item::SnapshotEnd(v1::SnapshotEnd { cursor: Some(at) })
            | Item::Heartbeat(v1::Heartbeat { cursor: Some(at) })
                if at.sequence >= until =>
            {
                return (live, told);
            }
            Item::Tenant(_) | Item::SnapshotEnd(_) | Item::Heartbeat(_) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_of_many_watchers_that_come_at_any_time_is_told_each_change_once() {
    const SESSIONS: u64 = 1_500;
    const WATCHERS: u64 = 90;
    let running = start("[limits]\nheartbeat = \"1s\"\n").await;
    let watches = running.watches().await;
    let mut watching = tokio::task::JoinSet::new();
    let mut sessions = running.sessions().await;
    // Each step is one event, so that the last one's sequence is known.
    for n in 0..SESSIONS {
        if n % (SESSIONS / WATCHERS) == 0 {
            let asked = v1::WatchSessionsRequest {
                tenants: if n % 3 == 0 { vec!["globex".to_owned()] } else { vec![] },
                ..Default::default()
            };
            let watches = watches.clone();
            watching.spawn(async move {
                let told = follow(watches, asked.clone(), 2 * SESSIONS + 1).await;
                (asked, told)
            });
        }
        let (id, tenant) = (format!("s{n}"), ["acme", "globex"][(n % 2) as usize]);
        sessions.acquire_session(acquire(&id, tenant)).await.unwrap();
        if n >= 20 {
            sessions.release_session(release(&format!("s{}", n - 20))).await.unwrap();
        }
    }
    for n in SESSIONS - 20..SESSIONS {
        sessions.release_session(release(&format!("s{n}"))).await.unwrap();
    }
    sessions.acquire_session(acquire("last", "globex")).await.unwrap();
    while let Some(done) = watching.join_next().await {
        let (asked, (mut live, told)) = done.unwrap();
        let only = !asked.tenants.is_empty();
        assert!(told.windows(2).all(|two| two[0].sequence < two[1].sequence), "out of order");
        if !only {
            assert!(told.windows(2).all(|two| two[0].sequence + 1 == two[1].sequence), "a hole");
        }
        // The snapshot and the changes after it add up, with nothing told twice.
        for event in told {
            assert!(!only || event.tenant == "globex", "{event:?}");
            match event.kind() {
                v1::EventKind::SessionAcquired => assert!(live.insert(event.session_id), "twice"),
                v1::EventKind::SessionEnded => assert!(live.remove(&event.session_id), "twice"),
                other => panic!("{other:?}"),
            }
        }
        assert!(live.is_empty() || live == ["last".to_owned()].into(), "left: {live:?}");
    }
    running.stop().await;
}
