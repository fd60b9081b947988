//! Everything a source can do wrong to one tenant, while its sibling never
//! notices: a clear error at the first try, the last good value at later ones,
//! recovery without a restart, and no key anywhere.

use std::time::Duration;

use serde_json::json;

use crate::{
    backend::{Backend, Behaviour, Serving, entry},
    support::{Running, eventually, reason, start},
    watcher::{
        Worker, all_events, eventually_model, kinds, model, session_config, snapshot, try_acquire,
    },
};

const TTL: &str = "ttl='1s'\nnegative_ttl='0s'\ntimeout='3s'\nstale_for='1h'";

/// What goes wrong, and what the error says of it over HTTP and over gRPC.
fn faults() -> Vec<(&'static str, Behaviour, &'static str, &'static str)> {
    let key = "sk-canary-1";
    vec![
        ("an error", Behaviour::Status(500), "answered with status 500", "answered Internal"),
        ("a garbled error", Behaviour::Garbled, "answered with status 599", "answered Internal"),
        ("a refusal", Behaviour::Status(403), "answered with status 403", "answered Internal"),
        (
            "slow for 30 s",
            Behaviour::Slow(Duration::from_secs(30), entry(5)),
            "did not answer within 3s",
            "did not answer within 3s",
        ),
        ("no end", Behaviour::Hang, "", "did not answer within 3s"),
        ("garbage", Behaviour::Body(format!("<html>{key}")), "is not JSON at line 1", ""),
        (
            "a list",
            Behaviour::Body(format!("[\"{key}\"]")),
            "must be an object in the shape of [tenants.NAME]",
            "",
        ),
        (
            "wrong types",
            Behaviour::Entry(json!({ "cap": key })),
            "cap: must be a whole number",
            "cap: must be a whole number",
        ),
        (
            "an unknown key",
            Behaviour::Entry(json!({ "capp": 5 })),
            "unknown key, did you mean cap?",
            "unknown key, did you mean cap?",
        ),
        (
            "half an entry",
            Behaviour::Entry(json!({ "providers": { "llm": { "model": "m" } } })),
            "missing field `provider`",
            "missing field `provider`",
        ),
        (
            "a key itself",
            Behaviour::Entry(
                json!({ "providers": { "llm": { "provider": "x", "credential": key } } }),
            ),
            "holds a key itself",
            "holds a key itself",
        ),
        (
            "a key in the wrong place",
            Behaviour::Entry(json!({ "providers": { "llm": key } })),
            "must be a provider table",
            "must be a provider table",
        ),
        ("10 MB", Behaviour::Large(10 << 20), "larger than 262144 bytes", "answered OutOfRange"),
        (
            "a redirect loop",
            Behaviour::Redirect("/tenants/{tenant}".to_owned()),
            "too many redirects",
            "answered Internal",
        ),
    ]
}

async fn sidecar(kind: &str, serving: &Serving) -> Running {
    let url =
        if kind == "http" { serving.url() } else { format!("http://127.0.0.1:{}", serving.port) };
    start(&format!("[[sources]]\nkind='{kind}'\nurl='{url}'\n{TTL}")).await
}

async fn serve(kind: &str, backend: &Backend) -> Serving {
    if kind == "http" { backend.serve_http().await } else { backend.serve_grpc(None).await }
}

async fn every_fault_refuses_its_tenant_alone(kind: &str) {
    let backend = Backend::default();
    backend.set("globex", Behaviour::Entry(entry(5000)));
    let serving = serve(kind, &backend).await;
    let running = sidecar(kind, &serving).await;
    let sibling = || async { assert_eq!(model(&running, "globex").await.as_deref(), Ok("m5000")) };
    sibling().await;
    let each = faults().into_iter().enumerate().map(async |(n, fault)| {
        let (what, behaviour, over_http, over_grpc) = fault;
        let tenant = format!("acme{n}");
        let says = if kind == "http" { over_http } else { over_grpc };
        if kind == "grpc" && says.is_empty() {
            return;
        }
        backend.set(&tenant, behaviour.of(&tenant));
        let refused = try_acquire(&running, &tenant).await.expect_err(what);
        sibling().await;
        assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE", "{what}");
        assert!(refused.message().contains(says), "{what}: {}", refused.message());
        assert!(refused.message().contains(&format!("source {kind}")), "{}", refused.message());
        backend.set(&tenant, Behaviour::Entry(entry(5)));
        eventually_model(&running, &tenant, Ok("m5")).await;
        let told = kinds(&running, &tenant).await;
        assert!(told.contains(&"tenant_config_failed"), "{what}: {told:?}");
        assert!(told.contains(&"tenant_config_recovered"), "{what}: {told:?}");
    });
    futures_util::future::join_all(each).await;
    let told = kinds(&running, "globex").await;
    assert!(!told.iter().any(|kind| kind.starts_with("tenant_config")), "{told:?}");
    assert!(!all_events(&running).await.contains("canary"));
    assert!(!format!("{:?}", snapshot(&running).await).contains("canary"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_every_fault_refuses_its_tenant_alone() {
    every_fault_refuses_its_tenant_alone("http").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_grpc_every_fault_refuses_its_tenant_alone() {
    every_fault_refuses_its_tenant_alone("grpc").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_good_value_every_fault_serves_it_as_stale_and_says_so() {
    let backend = Backend::default();
    let serving = backend.serve_http().await;
    let running = sidecar("http", &serving).await;
    let each = faults().into_iter().enumerate().map(async |(n, (what, behaviour, ..))| {
        let tenant = format!("acme{n}");
        backend.set(&tenant, Behaviour::Entry(entry(5)));
        let mut worker = Worker::start(&running, &format!("w{n}")).await;
        let live = format!("live{n}");
        worker.acquire(&running, &live, &tenant).await;
        backend.set(&tenant, behaviour.of(&tenant));
        eventually(&format!("{what}: served as stale"), || async {
            let config = try_acquire(&running, &tenant).await.expect(what).config.unwrap();
            assert_eq!(config.providers["llm"].model, "m5", "{what}");
            config.stale
        })
        .await;
        assert_eq!(session_config(&running, &live).await.providers["llm"].model, "m5");
        backend.set(&tenant, Behaviour::Entry(entry(6)));
        let changed = worker.config_changed().await;
        assert_eq!(changed.tenant, tenant, "{what}: the recovered value reaches live sessions");
        eventually_model(&running, &tenant, Ok("m6")).await;
    });
    futures_util::future::join_all(each).await;
    let source = snapshot(&running).await.sources.remove(0);
    assert!(source.stale_hits > 0 && source.failures > 0, "{source:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_hangs_lets_nobody_wait_for_its_timeout() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    backend.set("new", Behaviour::Hang);
    let serving = backend.serve_http().await;
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\nttl='1s'\ntimeout='5m'",
        serving.url()
    ))
    .await;
    model(&running, "acme").await.unwrap();
    backend.set("acme", Behaviour::Hang);
    eventually("acme runs on the stale value", || async {
        try_acquire(&running, "acme").await.unwrap().config.unwrap().stale
    })
    .await;
    // Each of them waiting a second would take longer than this.
    let sixty = async {
        for _ in 0..60 {
            assert!(try_acquire(&running, "acme").await.unwrap().config.unwrap().stale);
        }
    };
    tokio::time::timeout(Duration::from_secs(30), sixty).await.expect("nobody waits again");
    // Nothing is known of this one: refused while the caller still listens.
    let mut asked = tonic::Request::new(crate::support::acquire("n1", "new"));
    asked.set_timeout(Duration::from_secs(2));
    let refused = running.sessions().await.acquire_session(asked).await.unwrap_err();
    assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE", "{refused:?}");
    assert!(refused.message().contains("as long as the caller waits"), "{refused:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_value_is_served_for_a_bounded_time() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_http().await;
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\nttl='1s'\nstale_for='1s'",
        serving.url()
    ))
    .await;
    model(&running, "acme").await.unwrap();
    drop(serving);
    eventually_model(&running, "acme", Err("CONFIG_UNAVAILABLE")).await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_answer_takes_300_ms_delays_no_other() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Slow(Duration::from_millis(300), entry(50)));
    for n in 0..20 {
        backend.set(&format!("t{n}"), Behaviour::Entry(entry(50)));
    }
    let serving = backend.serve_http().await;
    let running = sidecar("http", &serving).await;
    let slow = tokio::spawn({
        let mut sessions = running.sessions().await;
        async move { sessions.acquire_session(crate::support::acquire("slow", "acme")).await }
    });
    eventually("acme is being asked about", || async { backend.asked("acme") > 0 }).await;
    let mut sessions = running.sessions().await;
    for n in 0..20 {
        let asked = crate::support::acquire(&format!("s{n}"), &format!("t{n}"));
        sessions.acquire_session(asked).await.unwrap();
    }
    assert!(!slow.is_finished(), "twenty first sessions of others came before");
    slow.await.unwrap().unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flapping_source_never_refuses_a_tenant_that_it_served() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_http().await;
    let running = sidecar("http", &serving).await;
    model(&running, "acme").await.unwrap();
    let until = tokio::time::Instant::now() + Duration::from_secs(5);
    let mut turn = 0;
    while tokio::time::Instant::now() < until {
        turn += 1;
        let behaviour =
            if turn % 3 == 0 { Behaviour::Entry(entry(5)) } else { Behaviour::Status(503) };
        backend.set("acme", behaviour);
        assert_eq!(model(&running, "acme").await.as_deref(), Ok("m5"));
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_made_up_tenants_keeps_no_known_one_from_being_refreshed() {
    let backend = Backend::default();
    for n in 0..200 {
        backend.set(&format!("flood{n}"), Behaviour::Hang);
    }
    backend.set("acme", Behaviour::Entry(entry(1000)));
    let serving = backend.serve_http().await;
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\nttl='1s'\ntimeout='30s'\nmax_in_flight=4",
        serving.url()
    ))
    .await;
    model(&running, "acme").await.unwrap();
    let sessions = running.sessions().await;
    let flood: Vec<_> = (0..200)
        .map(|n| {
            let mut sessions = sessions.clone();
            tokio::spawn(async move {
                let asked = crate::support::acquire(&format!("f{n}"), &format!("flood{n}"));
                sessions.acquire_session(asked).await
            })
        })
        .collect();
    eventually("the source has no turn left", || async { backend.asked_in_all() >= 4 }).await;
    let before = backend.asked("acme");
    eventually("acme is refreshed in the flood", || async {
        let config = try_acquire(&running, "acme").await.unwrap().config.unwrap();
        assert!(!config.stale);
        backend.asked("acme") > before
    })
    .await;
    assert!(flood.iter().all(|tried| !tried.is_finished()), "the flood still waits");
    running.stop().await;
}
