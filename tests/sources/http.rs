//! HTTP: conditional questions, caching words, tokens, certificates.

use std::{sync::Arc, time::Duration};

use rcgen::ExtendedKeyUsagePurpose;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::{
    backend::{Backend, Behaviour, entry},
    certificates::Certificates,
    support::{eventually, reason, start},
    watcher::{Worker, eventually_model, model, session_config, snapshot, try_acquire},
};

fn cached(cap: u32, headers: &[(&'static str, &str)]) -> Behaviour {
    let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
    Behaviour::Cached { entry: entry(cap), headers }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_still_the_same_is_not_sent_again() {
    let backend = Backend::default();
    backend.set("acme", cached(5, &[("etag", "\"v1\""), ("cache-control", "no-cache")]));
    let serving = backend.serve_http().await;
    let running = start(&format!("[[sources]]\nkind='http'\nurl='{}'", serving.url())).await;
    let first = try_acquire(&running, "acme").await.unwrap().config.unwrap();
    let second = try_acquire(&running, "acme").await.unwrap().config.unwrap();
    assert_eq!(backend.header("if-none-match").as_deref(), Some("\"v1\""));
    assert_eq!((first.version, backend.asked("acme")), (second.version, 2));
    backend.set("acme", cached(6, &[("etag", "\"v2\""), ("cache-control", "no-cache")]));
    assert_eq!(model(&running, "acme").await.as_deref(), Ok("m6"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn max_age_decides_and_the_sources_ttl_where_nothing_is_said() {
    let backend = Backend::default();
    backend.set("long", cached(5, &[("cache-control", "max-age=3600")]));
    backend.set("each", cached(5, &[("cache-control", "no-store")]));
    backend.set("ttl", Behaviour::Entry(entry(5)));
    let serving = backend.serve_http().await;
    let running =
        start(&format!("[[sources]]\nkind='http'\nurl='{}'\nttl='1s'", serving.url())).await;
    for tenant in ["long", "each", "ttl"] {
        model(&running, tenant).await.unwrap();
        backend.set(tenant, Behaviour::Entry(entry(6)));
    }
    assert_eq!(model(&running, "each").await.as_deref(), Ok("m6"), "no-store");
    eventually_model(&running, "ttl", Ok("m6")).await;
    assert_eq!(model(&running, "long").await.as_deref(), Ok("m5"), "max-age");
    assert_eq!(backend.asked("long"), 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_one_has_is_asked_for_once_in_a_while() {
    let backend = Backend::default();
    let serving = backend.serve_http().await;
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\nnegative_ttl='1h'\nmax_entries=100\n",
        serving.url()
    ))
    .await;
    for _ in 0..20 {
        assert!(!try_acquire(&running, "nobody").await.unwrap().config.unwrap().tenant_known);
    }
    assert_eq!(backend.asked("nobody"), 1);
    for n in 0..300 {
        try_acquire(&running, &format!("t{n}")).await.unwrap();
    }
    let source = snapshot(&running).await.sources.remove(0);
    assert!(source.entries <= 100, "{source:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_found_by_asking_again_reaches_live_sessions() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(5)));
    let serving = backend.serve_http().await;
    let running =
        start(&format!("[[sources]]\nkind='http'\nurl='{}'\nttl='1s'", serving.url())).await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    backend.set("acme", Behaviour::Entry(entry(7)));
    let changed = worker.config_changed().await;
    let now = session_config(&running, "live").await;
    assert_eq!((now.version, now.providers["llm"].model.as_str()), (changed.version, "m7"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bearer_token_is_sent_read_at_each_question_and_goes_nowhere_else() {
    let (backend, elsewhere) = (Backend::default(), Backend::default());
    backend.set("acme", cached(5, &[("cache-control", "no-cache")]));
    elsewhere.set("acme", Behaviour::Entry(entry(9)));
    let (serving, other) = (backend.serve_http().await, elsewhere.serve_http().await);
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "one\n").unwrap();
    let running = start(&format!(
        "[[sources]]\nkind='http'\nurl='{}'\nbearer='file:{}'\nstale_for='0s'",
        serving.url(),
        token.display()
    ))
    .await;
    model(&running, "acme").await.unwrap();
    assert_eq!(backend.header("authorization").as_deref(), Some("Bearer one"));
    std::fs::write(&token, "two\n").unwrap();
    model(&running, "acme").await.unwrap();
    assert_eq!(backend.header("authorization").as_deref(), Some("Bearer two"));
    let away = format!("http://127.0.0.1:{}/tenants/acme", other.port);
    backend.set("acme", Behaviour::Redirect(away));
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert!(refused.message().contains("redirected to another host"), "{}", refused.message());
    assert_eq!(elsewhere.asked("acme"), 0);
    running.stop().await;
}

impl Certificates {
    /// Serves `entry` to whoever shows a certificate of this CA; its port.
    async fn serve(&self, name: &str, entry: serde_json::Value) -> u16 {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        let chain = vec![CertificateDer::from_pem_file(self.path(name, "pem")).unwrap()];
        let key = PrivateKeyDer::from_pem_file(self.path(name, "key")).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca", "pem")).unwrap()).unwrap();
        let clients =
            rustls::server::WebPkiClientVerifier::builder(Arc::new(roots)).build().unwrap();
        let config = rustls::ServerConfig::builder()
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let body = entry.to_string();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(socket).await else { continue };
                let mut asked = [0; 4096];
                let _ = stream.read(&mut asked).await;
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        });
        port
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_and_shown() {
    let certificates = Certificates::new();
    let server = ExtendedKeyUsagePurpose::ServerAuth;
    certificates.issue("good", "localhost", false, server.clone());
    certificates.issue("expired", "localhost", true, server.clone());
    certificates.issue("other", "example.com", false, server);
    certificates.issue("me", "tenantd", false, ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = Certificates::new();
    let ca = certificates.path("ca", "pem");
    let wrong_ca = stranger.path("ca", "pem");
    let mine = format!(
        "cert_file='{}'\nkey_file='{}'",
        certificates.path("me", "pem").display(),
        certificates.path("me", "key").display()
    );
    for (name, ca, identity, says) in [
        ("good", &ca, &*mine, None),
        ("expired", &ca, &*mine, Some("xpired")),
        ("other", &ca, &*mine, Some("not valid for name")),
        ("good", &wrong_ca, &*mine, Some("invalid peer certificate")),
        ("good", &ca, "", Some("")),
    ] {
        let port = certificates.serve(name, entry(5)).await;
        let running = start(&format!(
            "[tenants.globex]\n[[sources]]\nkind='http'\nurl='https://localhost:{port}/{{tenant}}'\nca_file='{}'\n{identity}",
            ca.display()
        ))
        .await;
        let granted = try_acquire(&running, "acme").await;
        match says {
            None => assert!(granted.unwrap().config.unwrap().tenant_known),
            Some(says) => {
                let refused = granted.unwrap_err();
                assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
                assert!(refused.message().contains(says), "{name}: {}", refused.message());
            }
        }
        running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_goes_over_the_source_and_who_gave_what_is_told() {
    let backend = Backend::default();
    backend.set(
        "acme",
        Behaviour::Entry(json!({
            "cap": 9,
            "labels": { "plan": "gold" },
            "providers": { "llm": { "provider": "openai", "model": "m9", "credential": "env:PATH" } },
        })),
    );
    let serving = backend.serve_http().await;
    let running = start(&format!(
        "[defaults.breaker]\nprobes=2\n[tenants.acme]\ncap=4\n\
         [[sources]]\nkind='http'\nname='agency'\nurl='{}'",
        serving.url()
    ))
    .await;
    let asked = tenantd::wire::v1::GetTenantRequest { tenant: "acme".to_owned(), explain: true };
    let answer = running.watches().await.get_tenant(asked).await.unwrap().into_inner();
    let origin = |key: &str| {
        let of = answer.origins.iter().find(|of| of.key == key).unwrap();
        (of.value.clone(), of.source.clone())
    };
    assert_eq!(answer.tenant.unwrap().cap, Some(4));
    assert_eq!(origin("cap"), ("4".to_owned(), "file".to_owned()));
    assert_eq!(origin("labels.plan"), ("gold".to_owned(), "agency".to_owned()));
    assert_eq!(
        origin("providers.llm"),
        ("openai model=m9 api_key=env:PATH".to_owned(), "agency".to_owned())
    );
    assert_eq!(origin("breaker.probes"), ("2".to_owned(), "defaults".to_owned()));
    assert_eq!(origin("breaker.min_samples"), ("5".to_owned(), "built-in".to_owned()));
    assert_eq!(answer.answers[0].state, "entry");
    drop(serving);
    eventually("the source's failure is told", || async {
        let asked =
            tenantd::wire::v1::GetTenantRequest { tenant: "nobody".to_owned(), explain: true };
        let answer = running.watches().await.get_tenant(asked).await.unwrap().into_inner();
        answer.answers[0].state == "failed" && !answer.answers[0].error.is_empty()
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_the_file_holds_over_what_the_source_said() {
    let backend = Backend::default();
    backend.set("acme", Behaviour::Entry(entry(9)));
    let serving = backend.serve_http().await;
    let source = format!("[[sources]]\nkind='http'\nurl='{}'\nttl='1h'\n", serving.url());
    let running = start(&source).await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    crate::support::write(&running.config, &format!("{source}[tenants.acme]\ncap=1\n"));
    running.sidecar.reload("a test").await.unwrap();
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_AT_CAP");
    worker.config_changed().await;
    assert_eq!(backend.asked("acme"), 1, "nobody was asked for it");
    let wait = Duration::from_secs(3600);
    backend.set("acme", Behaviour::Slow(wait, entry(9)));
    running.stop().await;
}
