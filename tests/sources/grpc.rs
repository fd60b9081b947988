//! An operator's own service: what it tells by its watch, its death and its
//! return, and certificates.

use crate::{
    backend::{Backend, Behaviour, entry},
    support::{eventually, start},
    watcher::{Worker, eventually_model, model, session_config, snapshot, try_acquire, watching},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_is_told_reaches_new_and_live_sessions_of_that_tenant() {
    let backend = Backend::default();
    for tenant in ["acme", "globex"] {
        backend.set(tenant, Behaviour::Entry(entry(5)));
    }
    let serving = backend.serve_grpc(None).await;
    let running = start(&format!(
        "[[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{}'\nttl='1h'",
        serving.port
    ))
    .await;
    watching(&running).await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    model(&running, "globex").await.unwrap();
    backend.set("acme", Behaviour::Entry(entry(7)));
    backend.tell(&["acme"]);
    let changed = worker.config_changed().await;
    assert_eq!((changed.tenant.as_str(), changed.session_ids.len()), ("acme", 1));
    assert_eq!(session_config(&running, "live").await.version, changed.version);
    assert_eq!(model(&running, "acme").await.as_deref(), Ok("m7"));
    assert_eq!(backend.asked("globex"), 1, "the sibling was not asked about");
    backend.set("globex", Behaviour::Entry(entry(8)));
    backend.tell(&[]);
    eventually_model(&running, "globex", Ok("m8")).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_death_and_return_need_no_restart() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_grpc(None).await;
    let port = serving.port;
    let running = start(&format!(
        "[[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{port}'\nttl='1s'\nstale_for='1h'"
    ))
    .await;
    model(&running, "acme").await.unwrap();
    watching(&running).await;
    drop(serving);
    eventually("what is known is served as stale", || async {
        try_acquire(&running, "acme").await.unwrap().config.unwrap().stale
    })
    .await;
    assert!(!snapshot(&running).await.sources[0].watching, "and this shows");
    backend.set("acme", Behaviour::Entry(entry(6)));
    let _serving = backend.serve_grpc_at(port, None).await;
    eventually_model(&running, "acme", Ok("m6")).await;
    assert!(!try_acquire(&running, "acme").await.unwrap().config.unwrap().stale);
    watching(&running).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bearer_token_is_sent() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_grpc(None).await;
    let running = start(&format!(
        "[[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{}'\nbearer='env:CARGO_PKG_NAME'",
        serving.port
    ))
    .await;
    model(&running, "acme").await.unwrap();
    assert_eq!(backend.header("authorization").as_deref(), Some("Bearer tenantd"));
    running.stop().await;
}
