//! What operators read as text and as JSON: OpenRTC's names, each tenant's
//! figures, and nothing that acts on a terminal.

use std::process::Command;

use prost_types::{Struct, Value, value::Kind};
use serde_json::json;
use tenantd::wire::v1::{
    self, admin_service_client::AdminServiceClient, session_service_client::SessionServiceClient,
};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::{Start, acquire, eventually, release, text};

/// ESC and C1 sequences, bidirectional overrides, line ends, invisible ones.
const HOSTILE: &str =
    "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\r\nforged tenant=other\u{202e}\u{2066}\u{2028}\u{feff}";

fn failure(message: &str) -> v1::Failure {
    v1::Failure { slot: "llm".to_owned(), kind: "timeout".to_owned(), message: message.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_has_openrtcs_names_and_each_tenants_and_workers_figures() {
    let config = "[tenants.acme]\ncap = 1\n[tenants.acme.breaker]\nmin_samples = 50\n\
                  [tenants.globex]\n";
    let running = Start { config, ..Start::default() }.run();
    let read = || -> serde_json::Value {
        serde_json::from_slice(&running.call(&["snapshot", "--json"]).stdout).unwrap()
    };
    let fresh = read();
    assert_eq!(fresh["last_error"], json!(null), "as OpenRTC says it");
    assert_eq!(fresh["last_routed_agent"], json!(null));

    let mut sessions = SessionServiceClient::new(running.channel().await);
    let by = |id: &str, tenant: &str| v1::AcquireSessionRequest {
        agent_name: "receptionist".to_owned(),
        worker: "w1".to_owned(),
        ..acquire(id, tenant)
    };
    sessions.acquire_session(by("a1", "acme")).await.unwrap();
    let failed = v1::ReleaseSessionRequest {
        outcome: v1::Outcome::Failure.into(),
        failure: Some(failure("no answer in 5 s")),
        ..release("a1")
    };
    sessions.release_session(failed).await.unwrap();
    sessions.acquire_session(by("a2", "acme")).await.unwrap();
    sessions.acquire_session(by("a3", "acme")).await.unwrap_err();
    sessions.acquire_session(by("g1", "globex")).await.unwrap();
    let (asks, asked) = tokio::sync::mpsc::channel(4);
    let attach = v1::KeepAliveRequest {
        worker: "w1".to_owned(),
        attach_session_ids: vec!["a2".to_owned(), "g1".to_owned()],
        memory_bytes: 123_456_789,
        loop_blocked: Some(prost_types::Duration { seconds: 0, nanos: 250_000_000 }),
        loop_blocked_session_id: "a2".to_owned(),
        ..Default::default()
    };
    asks.send(attach).await.unwrap();
    let mut answers = sessions.keep_alive(ReceiverStream::new(asked)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();

    let snapshot = read();
    for (name, want) in [
        ("active_sessions", json!(2)),
        ("sessions_by_tenant", json!({ "acme": 1, "globex": 1 })),
        ("sessions_by_agent", json!({ "receptionist": 2 })),
        ("total_sessions_started", json!(3)),
        ("total_session_failures", json!(1)),
        ("last_routed_agent", json!("receptionist")),
        ("last_error", json!("llm: timeout: no answer in 5 s")),
        ("last_error_tenant", json!("acme")),
        ("draining", json!(false)),
        ("pending_sessions", json!(0)),
        ("total_rejections", json!({ "TENANT_AT_CAP": 1 })),
        ("workers", json!(1)),
    ] {
        assert_eq!(snapshot[name], want, "{name}");
    }
    assert!(snapshot["timestamp"].as_f64().unwrap() > 1.7e9);
    assert!(snapshot["uptime_seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(snapshot["resident_set"]["metric"], "linux_vm_rss");
    assert!(snapshot["resident_set"]["bytes"].as_u64().unwrap() > 1 << 20);
    let tenants = snapshot["tenants"].as_array().unwrap();
    let acme = tenants.iter().find(|tenant| tenant["tenant"] == "acme").unwrap();
    for (name, want) in [
        ("live_sessions", json!(1)),
        ("pending_sessions", json!(0)),
        ("cap", json!(1)),
        ("breaker", json!("closed")),
        ("breaker_failures", json!(1)),
        ("total_sessions_started", json!(2)),
        ("total_session_failures", json!(1)),
        ("total_rejections", json!(1)),
        ("suspended", json!(false)),
    ] {
        assert_eq!(acme[name], want, "{name}");
    }
    let worker = &snapshot["attached_workers"][0];
    for (name, want) in [
        ("worker", json!("w1")),
        ("live_sessions", json!(2)),
        ("memory_bytes", json!(123_456_789)),
        ("loop_blocked_seconds", json!(0.25)),
        ("loop_blocked_session_id", json!("a2")),
    ] {
        assert_eq!(worker[name], want, "{name}");
    }
    let shown = text(&running.call(&["snapshot"]));
    for part in ["active_sessions", "llm: timeout: no answer in 5 s", "globex"] {
        assert!(shown.contains(part), "{shown}");
    }
    AdminServiceClient::new(running.channel().await)
        .drain(v1::DrainRequest::default())
        .await
        .unwrap();
    let draining = read();
    assert_eq!(draining["draining"], json!(true));
    assert!(draining["drain_remaining_seconds"].as_f64().unwrap() > 0.0);
}

/// Nothing in it moves a cursor, forges a line, hides or reverses text.
fn assert_inert(what: &str, shown: &str) {
    for (n, line) in shown.lines().enumerate() {
        let active = line.chars().find(|c| {
            c.is_control() || matches!(c, '\u{202e}' | '\u{2066}' | '\u{2028}' | '\u{feff}')
        });
        assert_eq!(active, None, "{what}, line {n}: {line:?}");
        assert!(!line.starts_with("forged"), "{what}, line {n}: {line:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_agents_send_acts_on_the_terminal_that_shows_it() {
    let running = Start::default().run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    sessions.acquire_session(acquire("s1", "acme")).await.unwrap();
    // A tenant that is hostile itself: refused, and shown nowhere as it is.
    let hostile = v1::AcquireSessionRequest {
        job_metadata: json!({ "tenant": HOSTILE }).to_string(),
        session_id: "s2".to_owned(),
        ..Default::default()
    };
    sessions.acquire_session(hostile).await.unwrap_err();
    let string = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let event = v1::PublishedEvent {
        session_id: "s1".to_owned(),
        event: Some(v1::AgentEvent {
            name: "turn_started".to_owned(),
            attributes: Some(Struct {
                fields: [(HOSTILE.to_owned(), string(HOSTILE))].into_iter().collect(),
            }),
            ..Default::default()
        }),
        lease_token: String::new(),
    };
    let published = v1::PublishEventsRequest { events: vec![event] };
    let mut told =
        sessions.publish_events(tokio_stream::once(published)).await.unwrap().into_inner();
    assert_eq!(told.message().await.unwrap().unwrap().accepted, 1);
    let report = v1::ReportFailureRequest {
        session_id: "s1".to_owned(),
        failure: Some(failure(HOSTILE)),
        ..Default::default()
    };
    sessions.report_failure(report).await.unwrap();
    let suspended = running.call(&["suspend", "acme", "--note", HOSTILE]);
    assert_inert("suspend", &text(&suspended));
    for arguments in [
        &["snapshot"][..],
        &["snapshot", "--json"],
        &["tenants"],
        &["tenants", "acme"],
        &["tenants", "acme", "--json"],
        &["sessions"],
        &["sessions", "--json"],
        &["top", "--once", "--refresh", "100ms"],
        &["top", "--once", "--refresh", "100ms", "--json"],
    ] {
        assert_inert(&arguments.join(" "), &text(&running.call(arguments)));
    }
    let snapshot = text(&running.call(&["snapshot"]));
    assert!(snapshot.contains("\\u{1b}[2J"), "it is shown, escaped: {snapshot}");

    let epoch: serde_json::Value =
        serde_json::from_slice(&running.call(&["snapshot", "--json"]).stdout).unwrap();
    let epoch = epoch["cursor"].as_str().unwrap().split(':').next().unwrap().to_owned();
    for json in [false, true] {
        let seen = running.dir.path().join(format!("watched-{json}"));
        let mut watch = Command::new(env!("CARGO_BIN_EXE_tenantd"));
        watch.args(["watch", "--address", &running.address(), "--since", &format!("{epoch}:0")]);
        if json {
            watch.arg("--json");
        }
        let mut watch = watch.stdout(std::fs::File::create(&seen).unwrap()).spawn().unwrap();
        eventually("the last event", || {
            std::fs::read_to_string(&seen).unwrap().contains("tenant_suspended")
        });
        watch.kill().unwrap();
        watch.wait().unwrap();
        let shown = std::fs::read_to_string(&seen).unwrap();
        assert_inert("watch", &shown);
        assert!(shown.contains("turn_started") && shown.contains("owned"), "{shown}");
        if json {
            let event = shown.lines().find(|line| line.contains("turn_started")).unwrap();
            let event: serde_json::Value = serde_json::from_str(event).unwrap();
            assert_eq!(event["detail"]["attributes"][HOSTILE], HOSTILE, "the data are whole");
        }
    }
}
