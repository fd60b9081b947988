//! Agents' own events: bound to their session's tenant, and within bounds.

use tenantd::wire::v1;
use tokio_stream::iter;

use crate::support::{acquire, reason, start};

fn event(session: &str, name: &str) -> v1::PublishedEvent {
    let event = v1::AgentEvent { name: name.to_owned(), ..Default::default() };
    v1::PublishedEvent { session_id: session.to_owned(), event: Some(event), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_tagged_by_their_session_and_the_others_are_refused_one_by_one() {
    let running = start("[limits]\nagent_event_bytes = 256\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("a", "acme")).await.unwrap();
    sessions.acquire_session(acquire("g", "globex")).await.unwrap();
    let long = "x".repeat(1000);
    let batch = vec![
        event("a", "turn.started"),
        event("nobody", "turn.started"),
        event("g", "turn.started"),
        event("a", "has space"),
        event("a", &long),
        v1::PublishedEvent { session_id: "a".into(), event: None, ..Default::default() },
    ];
    let request = iter([v1::PublishEventsRequest { events: batch }]);
    let mut answers = sessions.publish_events(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert_eq!(answer.accepted, 2);
    let refused: Vec<_> =
        answer.refused.iter().map(|refusal| (refusal.index, refusal.reason.as_str())).collect();
    assert_eq!(
        refused,
        [(1, "SESSION_UNKNOWN"), (3, "INVALID_FIELD"), (4, "INVALID_FIELD"), (5, "INVALID_FIELD")]
    );
    let entries = running.sidecar.events.after(0).unwrap();
    let told: Vec<_> = entries
        .iter()
        .filter(|entry| entry.event.kind.name() == "agent_event")
        .map(|entry| entry.event.subject.tenant.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(told, ["acme", "globex"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_flood_of_events_is_bounded_and_leaves_its_siblings_their_own() {
    let running = start("[limits]\nagent_events_per_second = 10\n").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("a", "acme")).await.unwrap();
    sessions.acquire_session(acquire("g", "globex")).await.unwrap();
    let flood = v1::PublishEventsRequest { events: vec![event("a", "turn"); 90] };
    let sibling = v1::PublishEventsRequest { events: vec![event("g", "turn")] };
    let mut answers = sessions.publish_events(iter([flood, sibling])).await.unwrap().into_inner();
    let flooded = answers.message().await.unwrap().unwrap();
    // A slow machine may let a part of the next second's through.
    assert!((10..90).contains(&flooded.accepted), "{}", flooded.accepted);
    assert!(flooded.refused.iter().all(|refusal| refusal.reason == "LIMIT_REACHED"));
    assert_eq!(answers.message().await.unwrap().unwrap().accepted, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_over_the_bound_ends_the_stream_with_the_bound() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("a", "acme")).await.unwrap();
    let batch = v1::PublishEventsRequest { events: vec![event("a", "turn"); 101] };
    let mut answers = sessions.publish_events(iter([batch])).await.unwrap().into_inner();
    let refused = answers.message().await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");
    assert!(refused.message().contains("at most 100"), "{refused}");
    running.stop().await;
}
