use tenantd::wire::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{acquire, reason, start};

#[tokio::test(flavor = "multi_thread")]
async fn each_malformed_field_is_named_and_takes_nothing() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
    let good = acquire("s", "acme");
    let cases = [
        ("session_id", v1::AcquireSessionRequest { session_id: "a b".into(), ..good.clone() }),
        ("session_id", v1::AcquireSessionRequest { session_id: "x".repeat(129), ..good.clone() }),
        ("session_id", v1::AcquireSessionRequest { session_id: "é".into(), ..good.clone() }),
        (
            "agent_name",
            v1::AcquireSessionRequest { agent_name: "a\u{1b}[m".into(), ..good.clone() },
        ),
        ("worker", v1::AcquireSessionRequest { worker: "x".repeat(129), ..good.clone() }),
        ("tenant", v1::AcquireSessionRequest { tenant: "a b".into(), ..good.clone() }),
        ("ttl", v1::AcquireSessionRequest { ttl: seconds(-1), ..good.clone() }),
        ("ttl", v1::AcquireSessionRequest { ttl: seconds(1), ..good.clone() }),
        ("ttl", v1::AcquireSessionRequest { ttl: seconds(i64::MAX), ..good.clone() }),
        (
            "job_metadata",
            v1::AcquireSessionRequest { job_metadata: "x".repeat(65_537), ..good.clone() },
        ),
        (
            "room_metadata",
            v1::AcquireSessionRequest { room_metadata: "x".repeat(65_537), ..good.clone() },
        ),
    ];
    for (field, request) in cases {
        let refused = sessions.acquire_session(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{field}: {refused}");
        let details = refused.get_error_details();
        let named = &details.bad_request().expect("field violations").field_violations[0];
        assert_eq!(named.field, field);
    }
    assert_eq!(running.sidecar.live().await, 0);
    sessions.acquire_session(good).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_oversized_message_is_refused_and_the_connection_goes_on() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    let huge = v1::AcquireSessionRequest { job_metadata: "x".repeat(2 << 20), ..acquire("s", "a") };
    let refused = sessions.acquire_session(huge).await.unwrap_err();
    assert!(refused.message().contains("1048576"), "the bound is named: {refused}");
    assert_eq!(reason(&refused), "INVALID_FIELD");
    assert_eq!(
        refused.get_error_details().bad_request().unwrap().field_violations[0].field,
        "message"
    );
    // On a stream as well.
    let huge = v1::PublishEventsRequest {
        events: vec![v1::PublishedEvent {
            session_id: "x".repeat(2 << 20),
            event: None,
            ..Default::default()
        }],
    };
    let mut answers =
        sessions.publish_events(tokio_stream::iter([huge])).await.unwrap().into_inner();
    assert_eq!(reason(&answers.message().await.unwrap_err()), "INVALID_FIELD");
    sessions.acquire_session(acquire("s", "a")).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_outcome_releases_nothing() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    for outcome in [0, 4, 5, 99, -1] {
        let asked = v1::ReleaseSessionRequest {
            session_id: "s".into(),
            outcome,
            failure: None,
            ..Default::default()
        };
        let refused = sessions.release_session(asked).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_FIELD");
    }
    assert_eq!(running.sidecar.live().await, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_of_another_tenants_session_is_a_conflict_live_or_ended() {
    let running = start("").await;
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    let refused = sessions.acquire_session(acquire("s", "globex")).await.unwrap_err();
    assert_eq!(reason(&refused), "SESSION_CONFLICT");
    sessions.release_session(crate::support::release("s")).await.unwrap();
    let refused = sessions.acquire_session(acquire("s", "globex")).await.unwrap_err();
    assert_eq!(reason(&refused), "SESSION_CONFLICT");
    let refused = sessions.acquire_session(acquire("s", "acme")).await.unwrap_err();
    assert_eq!(reason(&refused), "SESSION_ENDED");
    running.stop().await;
}
