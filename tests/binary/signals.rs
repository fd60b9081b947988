use tenantd::wire::v1::session_service_client::SessionServiceClient;

use crate::support::{Start, acquire, eventually, private, release, text};

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_refuses_new_sessions_lets_live_ones_end_and_exits_with_0() {
    let mut running = Start::default().run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(0));
    running.signal("TERM");
    eventually("draining", || running.call(&["healthcheck"]).status.code() == Some(1));
    let refused = sessions.acquire_session(acquire("late", "acme")).await.unwrap_err();
    assert!(refused.message().contains("draining"), "{refused}");
    sessions.release_session(release("s")).await.unwrap();
    assert_eq!(running.ends(), Some(0), "{}", running.said());
    assert!(!running.socket().exists());
    assert_eq!(running.call(&["healthcheck"]).status.code(), Some(69));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_at_once() {
    let mut running = Start { config: "[drain]\ntimeout = '1h'\n", ..Start::default() }.run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    sessions.acquire_session(acquire("s", "acme")).await.unwrap();
    running.signal("TERM");
    eventually("draining", || running.said().contains("draining"));
    running.signal("INT");
    assert_eq!(running.ends(), Some(0));
}

#[test]
fn sighup_reloads_and_a_bad_edit_keeps_the_running_config() {
    let running = Start { config: "[tenants.acme]\ncap = 1\n", ..Start::default() }.run();
    let cap = || {
        let output = running.call(&["tenants", "acme", "--json"]);
        let tenant: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        tenant["cap"].to_string()
    };
    assert_eq!(cap(), "1");
    private(&running.config(), "[tenants.acme]\ncap = 2\n");
    running.signal("HUP");
    eventually("the new cap", || cap() == "2");
    private(&running.config(), "[tenants.acme]\ncapp = 3\n");
    running.signal("HUP");
    eventually("the error in the snapshot", || {
        text(&running.call(&["snapshot", "--json"])).contains("did you mean cap?")
    });
    assert_eq!(cap(), "2");
}
