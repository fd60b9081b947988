use std::fs;

use tenantd::wire::v1::{
    self, session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient,
};

use crate::support::{Running, Start, acquire, release};

/// Resident memory of the sidecar, in KiB.
fn resident(running: &Running) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", running.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn churn(running: &Running, name: &str, sessions: usize) {
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..4 {
        let mut client = SessionServiceClient::new(running.channel().await);
        let name = name.to_owned();
        tasks.spawn(async move {
            for n in 0..sessions / 4 {
                let id = format!("{name}-{task}-{n}");
                client.acquire_session(acquire(&id, "acme")).await.unwrap();
                client.release_session(release(&id)).await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_that_stop_reading_cost_a_bounded_memory() {
    let config = "[limits]\nevents_kept = 1000\nended_remembered = 1000\n";
    let running = Start { config, env: &[("TENANTD_LOG", "error")], ..Start::default() }.run();
    churn(&running, "warm", 2000).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut watches = WatchServiceClient::new(running.channel().await);
        let asked = v1::WatchSessionsRequest::default();
        stalled.push(watches.watch_sessions(asked).await.unwrap().into_inner());
    }
    // Their sockets and windows fill.
    churn(&running, "fill", 2000).await;
    let before = resident(&running);
    // 12,000 events, each of about 200 bytes, for each of 20 watchers: 48 MB if
    // they waited anywhere.
    churn(&running, "more", 6000).await;
    let grown = resident(&running).saturating_sub(before);
    assert!(grown < 8 * 1024, "grew by {grown} KiB");
    for mut stream in stalled {
        let gap = async {
            loop {
                let item = stream.message().await.unwrap().unwrap().item;
                if let Some(v1::watch_sessions_response::Item::Gap(_)) = item {
                    return;
                }
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(20), gap).await.expect("a gap");
    }
}
