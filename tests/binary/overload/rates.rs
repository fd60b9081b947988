//! Floods of acquires, and acquires that wait.

use std::time::Duration;

use tenantd::wire::v1::session_service_client::SessionServiceClient;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::support::{Running, Start, acquire, eventually, release, text};

async fn client(running: &Running) -> SessionServiceClient<tonic::transport::Channel> {
    SessionServiceClient::new(running.channel().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_floods_is_told_when_to_come_back_and_its_neighbours_are_not_touched() {
    let config = "[limits]\nacquires_per_second = 20\n";
    let running = Start { config, ..Start::default() }.run();
    let mut calls = client(&running).await;
    let mut refused = None;
    for n in 0..2000 {
        // Known, and live: asked again it costs nothing.
        let id = format!("f{n}");
        if let Err(status) = calls.acquire_session(acquire(&id, "flood")).await {
            refused = Some(status);
            break;
        }
        calls.acquire_session(acquire(&id, "flood")).await.unwrap();
        calls.release_session(release(&id)).await.unwrap();
    }
    let refused = refused.expect("so many in a row are too many");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "RATE_LIMITED");
    let wait = refused.get_details_retry_info().unwrap().retry_delay.unwrap();
    assert!(wait > Duration::ZERO && wait <= Duration::from_millis(50), "{wait:?}");
    calls.acquire_session(acquire("n", "neighbour")).await.unwrap();
    eventually("there is one again", || {
        let shown = text(&running.call(&["snapshot", "--json"]));
        assert!(shown.contains("RATE_LIMITED"), "{shown}");
        true
    });
    for attempt in 0.. {
        match calls.acquire_session(acquire("later", "flood")).await {
            Ok(_) => break,
            Err(status) if attempt < 200 => {
                assert_eq!(status.code(), Code::ResourceExhausted);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(status) => panic!("{status}"),
        }
    }
}

/// A source of tenants' config that takes a connection and never answers.
fn silent() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/{{tenant}}", listener.local_addr().unwrap());
    (listener, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn acquires_that_wait_for_a_source_are_bounded_for_each_tenant() {
    let (_listener, url) = silent();
    let config = format!(
        "[limits]\ntenant_acquires_waiting = 3\n[[sources]]\nname = 'slow'\nkind = 'http'\nurl = '{url}'\ntimeout = '30s'\n"
    );
    let running = Start { config: &config, ..Start::default() }.run();
    let mut waiting = tokio::task::JoinSet::new();
    for n in 0..8 {
        let mut calls = client(&running).await;
        waiting
            .spawn(async move { calls.acquire_session(acquire(&format!("w{n}"), "slow")).await });
    }
    // Three may wait; the rest is told at once.
    for _ in 0..5 {
        let told = tokio::time::timeout(Duration::from_secs(20), waiting.join_next()).await;
        let refused = told.expect("at once").unwrap().unwrap().unwrap_err();
        assert_eq!(refused.get_details_error_info().unwrap().reason, "OVERLOADED", "{refused}");
        assert!(refused.message().contains("3 acquires of the tenant"), "{refused}");
    }
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    // Their callers went away, and gave their places back.
    let mut calls = client(&running).await;
    for n in 0..200 {
        let mut ask = tonic::Request::new(acquire(&format!("a{n}"), "slow"));
        ask.set_timeout(Duration::from_millis(300));
        let refused = calls.acquire_session(ask).await.unwrap_err();
        if !refused.message().contains("3 acquires of the tenant") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the places are not given back");
}
