//! Several sources, and what an operator does by hand while one is down.

use serde_json::json;
use tenantd::wire::v1::{self, keep_alive_response::Message};

use crate::{
    backend::{Backend, Behaviour, entry},
    support::start,
    watcher::{Worker, model, try_acquire},
};

#[tokio::test(flavor = "multi_thread")]
async fn the_first_source_that_gives_a_key_wins() {
    let (first, second) = (Backend::default(), Backend::default());
    first.set("acme", Behaviour::Entry(json!({ "labels": { "from": "first" } })));
    second.set(
        "acme",
        Behaviour::Entry(json!({ "cap": 3, "labels": { "from": "second", "more": "x" } })),
    );
    second.set("globex", Behaviour::Entry(entry(4)));
    let (one, two) = (first.serve_http().await, second.serve_grpc(None).await);
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\n[[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{}'",
        one.url(),
        two.port
    ))
    .await;
    let granted = try_acquire(&running, "acme").await.unwrap();
    let labels = granted.config.unwrap().labels;
    assert_eq!((labels["from"].as_str(), labels["more"].as_str()), ("first", "x"));
    assert_eq!(model(&running, "globex").await.as_deref(), Ok("m4"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_do_not_go_together_refuse_their_tenant_alone() {
    let (first, second) = (Backend::default(), Backend::default());
    first.set("acme", Behaviour::Entry(json!({ "lease": { "ttl": "2h" } })));
    second.set("acme", Behaviour::Entry(json!({ "lease": { "ttl_max": "1h" } })));
    second.set("globex", Behaviour::Entry(entry(4)));
    let (one, two) = (first.serve_http().await, second.serve_http().await);
    let running = start(&format!(
        "[[sources]]\nkind='http'\nname='a'\nurl='{}'\n[[sources]]\nkind='http'\nname='b'\nurl='{}'",
        one.url(),
        two.url()
    ))
    .await;
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert!(refused.message().contains("do not go together"), "{}", refused.message());
    assert_eq!(model(&running, "globex").await.as_deref(), Ok("m4"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_can_stop_a_tenant_whose_source_is_down_and_its_sessions_are_told() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_http().await;
    let running = start(&format!("[[sources]]\nkind='http'\nurl='{}'", serving.url())).await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    drop(serving);
    let mut admin = running.admin().await;
    let asked = |tenant: &str| v1::SuspendTenantRequest {
        tenant: tenant.to_owned(),
        note: "key leaked".to_owned(),
    };
    admin.suspend_tenant(asked("acme")).await.unwrap();
    match worker.notice().await {
        Message::Suspended(told) => {
            assert_eq!((told.tenant.as_str(), told.note.as_str()), ("acme", "key leaked"));
            assert_eq!(told.session_ids, ["live"]);
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_SUSPENDED");
    admin.suspend_tenant(asked("never-seen")).await.unwrap();
    assert_eq!(model(&running, "never-seen").await.unwrap_err(), "TENANT_SUSPENDED");
    let asked = v1::ResumeTenantRequest { tenant: "acme".to_owned(), note: String::new() };
    admin.resume_tenant(asked).await.unwrap();
    assert!(matches!(worker.notice().await, Message::Resumed(told) if told.tenant == "acme"));
    running.stop().await;
}
