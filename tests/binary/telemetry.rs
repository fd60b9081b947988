//! What a Prometheus scrapes, and what the log shows.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use tenantd::wire::v1::{
    self, admin_service_client::AdminServiceClient, session_service_client::SessionServiceClient,
};
use tonic::Request;

use crate::support::{Running, Start, acquire, eventually, free, text};

pub fn scrape(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    answer
}

async fn sessions(running: &Running) -> SessionServiceClient<tonic::transport::Channel> {
    SessionServiceClient::new(running.channel().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_what_is_true_now_with_the_tenant() {
    let address = free();
    let config = format!("[telemetry]\nprometheus='{address}'\n[tenants.acme]\ncap=1\n");
    let running = Start { config: &config, ..Start::default() }.run();
    let mut client = sessions(&running).await;
    client.acquire_session(acquire("s1", "acme")).await.unwrap();
    client.acquire_session(acquire("s2", "acme")).await.unwrap_err();
    client.acquire_session(acquire("s3", "a b")).await.unwrap_err();
    let wanted = [
        "tenantd_sessions_active{tenant=\"acme\"} 1",
        "tenantd_sessions_cap{tenant=\"acme\"} 1",
        "tenantd_sessions_acquired_total{tenant=\"acme\"} 1",
        "tenantd_sessions_rejected_total{reason=\"TENANT_AT_CAP\",tenant=\"acme\"} 1",
        "tenantd_sessions_rejected_total{reason=\"TENANT_MALFORMED\"} 1",
        "tenantd_breaker_state{state=\"closed\",tenant=\"acme\"} 1",
        "tenantd_acquire_duration_seconds_count{result=\"granted\",tenant=\"acme\"} 1",
        "tenantd_build_info{version=",
        "process_memory_usage_bytes ",
        "rpc_method=\"tenantd.v1.SessionService/AcquireSession\",rpc_response_status_code=\"RESOURCE_EXHAUSTED\"",
    ];
    eventually("all figures", || {
        let told = scrape(address);
        wanted.iter().all(|line| told.contains(line))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_call_names_its_trace_on_its_events_and_lines() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let running = Start { config: "[tenants.acme]\n", ..Start::default() }.run();
    let mut request = Request::new(acquire("s1", "acme"));
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    request.metadata_mut().insert("traceparent", parent.parse().unwrap());
    sessions(&running).await.acquire_session(request).await.unwrap();
    eventually("the line of the acquire has it", || {
        running.said().lines().any(|line| line.contains("session_acquired") && line.contains(TRACE))
    });
    let log = running.dir.path().join("log");
    std::fs::write(&log, running.said()).unwrap();
    let lines =
        running.call(&["logs", log.to_str().unwrap(), "--trace", TRACE, "--tenant", "acme"]);
    assert!(text(&lines).contains("session_acquired"), "{}", text(&lines));
    let none = running.call(&["logs", log.to_str().unwrap(), "--tenant", "globex"]);
    assert!(none.stdout.is_empty(), "{}", text(&none));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_filter_is_changed_while_it_runs_and_a_wrong_one_is_refused() {
    let env = [("TENANTD_LOG", "error")];
    let running = Start { config: "[tenants.acme]\n", env: &env, ..Start::default() }.run();
    let mut client = sessions(&running).await;
    client.acquire_session(acquire("quiet", "acme")).await.unwrap();
    let mut admin = AdminServiceClient::new(running.channel().await);
    let wrong = v1::SetLogFilterRequest { filter: "x=y=z".to_owned() };
    let refused = admin.set_log_filter(wrong).await.unwrap_err();
    assert!(refused.message().contains("a filter is a level"), "{}", refused.message());
    assert!(running.call(&["log-filter", "info"]).status.success());
    client.acquire_session(acquire("loud", "acme")).await.unwrap();
    eventually("it is shown now", || running.said().contains("loud"));
    assert!(!running.said().contains("quiet"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_refused_again_and_again_does_not_fill_the_log() {
    let running = Start { config: "[tenants.acme]\ncap=1\n", ..Start::default() }.run();
    let mut client = sessions(&running).await;
    client.acquire_session(acquire("s", "acme")).await.unwrap();
    for n in 0..300 {
        client.acquire_session(acquire(&format!("r{n}"), "acme")).await.unwrap_err();
    }
    client.acquire_session(acquire("sibling", "globex")).await.unwrap();
    eventually("the sibling's line comes", || running.said().contains("sibling"));
    let lines = running.said().lines().filter(|line| line.contains("TENANT_AT_CAP")).count();
    assert_eq!(lines, tenantd::telemetry::logs::LINES_PER_MINUTE as usize);
}
