//! Floods of acquires, and acquires that wait.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tenantd::wire::v1::session_service_client::SessionServiceClient;
use tonic::Code;
use tonic_types::StatusExt as _;

use super::{Neighbour, QUIET};
use crate::support::{Running, Start, acquire, eventually, private, release, text};

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

/// How many of so many new sessions at once are granted.
async fn granted(running: &Running, tenant: &str, asked: usize) -> usize {
    let mut calls = client(running).await;
    let mut granted = 0;
    for n in 0..asked {
        let id = format!("{tenant}-{n}-{}", nonce());
        match calls.acquire_session(acquire(&id, tenant)).await {
            Ok(_) => {
                granted += 1;
                calls.release_session(release(&id)).await.unwrap();
            }
            Err(status) => {
                let reason = status.get_details_error_info().unwrap().reason;
                assert_eq!(reason, "RATE_LIMITED");
            }
        }
    }
    granted
}

fn nonce() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_own_rate_and_a_changed_one_holds_at_the_next_acquire() {
    // So slow that the test's own time gives nobody another one.
    let rates = |small: u32, large: u32| {
        format!(
            "[limits]\nacquires_per_second = 2\n[tenants.small]\nacquires_per_second = {small}\n\
             [tenants.large]\nacquires_per_second = {large}\n"
        )
    };
    let running = Start { config: &rates(1, 1000), ..Start::default() }.run();
    assert_eq!(granted(&running, "large", 100).await, 100);
    let of_small = granted(&running, "small", 60).await;
    let of_other = granted(&running, "other", 60).await;
    assert!(of_small >= 1 && of_other >= 2, "a burst of one second's: {of_small}, {of_other}");
    assert!(of_small < 30 && of_other < 40, "no more than the rate: {of_small}, {of_other}");
    let shown = |tenant: &str| {
        let answer = running.call(&["tenants", tenant, "--json"]);
        let json: serde_json::Value = serde_json::from_slice(&answer.stdout).unwrap();
        json["max_acquires_per_second"].as_u64()
    };
    assert_eq!([shown("small"), shown("large"), shown("default")], [Some(1), Some(1000), Some(2)]);
    let explained = text(&running.call(&["tenants", "small", "--explain"]));
    assert!(explained.contains("acquires_per_second"), "{explained}");
    private(&running.config(), &rates(1000, 1));
    eventually("the new rates are taken over", || shown("small") == Some(1000));
    // It gains a thousand a second from here on.
    let mut all = 0;
    for _ in 0..200 {
        all += granted(&running, "small", 10).await;
        if all >= 100 {
            break;
        }
    }
    assert!(all >= 100, "{all}");
    assert!(granted(&running, "large", 60).await < 30, "what was saved up is cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refusals_at_once_are_all_told_and_the_neighbour_is_served() {
    let config = "[tenants.flood]\nacquires_per_second = 1\n";
    let running = Start { config, env: QUIET, ..Start::default() }.run();
    let neighbour = Neighbour::of(&running).await;
    let calls = client(&running).await;
    let flood = |name: &'static str, asked: usize| {
        let mut all = tokio::task::JoinSet::new();
        for n in 0..asked {
            let mut calls = calls.clone();
            all.spawn(async move {
                let asked = acquire(&format!("{name}-{n}"), "flood");
                calls.acquire_session(asked).await.err().map(|said| said.code())
            });
        }
        all.join_all()
    };
    flood("first", 10).await;
    let said = flood("more", 2000).await;
    let refused = said.iter().filter(|said| **said == Some(Code::ResourceExhausted)).count();
    assert!(refused > 1900, "{refused}");
    neighbour.ends().await;
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
