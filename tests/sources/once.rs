//! A hundred first acquires of one tenant load it once, from every source.

use tenantd::wire::v1;

use crate::{
    backend::{Backend, Behaviour, entry},
    postgres::Server,
    support::{Running, acquire, start},
    watcher::{snapshot, watching},
};

async fn a_hundred_at_once(running: &Running) {
    let sessions = running.sessions().await;
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(100));
    let tries: Vec<_> = (0..100)
        .map(|n| {
            let (mut sessions, start) = (sessions.clone(), std::sync::Arc::clone(&start));
            tokio::spawn(async move {
                start.wait().await;
                sessions.acquire_session(acquire(&format!("s{n}"), "acme")).await
            })
        })
        .collect();
    for tried in tries {
        let config = tried.await.unwrap().unwrap().into_inner().config.unwrap();
        assert_eq!(config.providers["llm"].model, "m500");
    }
    let source: v1::SourceStatus = snapshot(running).await.sources.remove(0);
    assert_eq!((source.loads, source.failures), (1, 0), "{source:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http() {
    let backend = Backend::default();
    let wait = std::time::Duration::from_millis(100);
    backend.set("acme", Behaviour::Slow(wait, entry(500)));
    let serving = backend.serve_http().await;
    let running = start(&format!("[[sources]]\nkind='http'\nurl='{}'", serving.url())).await;
    a_hundred_at_once(&running).await;
    assert_eq!(backend.asked("acme"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc() {
    let backend = Backend::default();
    let wait = std::time::Duration::from_millis(100);
    backend.set("acme", Behaviour::Slow(wait, entry(500)));
    let serving = backend.serve_grpc(None).await;
    let running =
        start(&format!("[[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{}'", serving.port)).await;
    watching(&running).await;
    a_hundred_at_once(&running).await;
    assert_eq!(backend.asked("acme"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", dir.path().join("t.db").display());
    let database = crate::sqlite::with(&url, &[("acme", entry(500))]).await;
    let running = start(&format!("[[sources]]\nkind='sql'\nurl='{url}'")).await;
    watching(&running).await;
    a_hundred_at_once(&running).await;
    running.stop().await;
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn over_postgres() {
    let Some(server) = Server::start() else { return };
    let url = server.url();
    crate::sqlite::with(&url, &[("acme", entry(500))]).await;
    let running = start(&format!("[[sources]]\nkind='sql'\nurl='{url}'")).await;
    watching(&running).await;
    a_hundred_at_once(&running).await;
    running.stop().await;
}
