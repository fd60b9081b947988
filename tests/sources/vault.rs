//! Secrets in Vault, over the fake of `vault_server`.

use serde_json::json;

use crate::{
    support::{Running, eventually, reason, start},
    vault_server::{Serving, Vault},
    watcher::{Worker, all_events, key, kinds, session_config, try_acquire},
};

const TENANTS: &str = "[tenants.acme.providers.llm]\nprovider='x'\ncredential='vault:secret/clients/acme#openai'\n\
     [tenants.globex.providers.llm]\nprovider='x'\ncredential='vault:secret/clients/globex#openai'\n\
     [tenants.plain.providers.llm]\nprovider='x'\ncredential='env:CARGO_PKG_NAME'\n";

async fn sidecar(serving: &Serving, login: &str) -> Running {
    start(&format!(
        "[vault]\naddress='http://127.0.0.1:{}'\nttl='1s'\nstale_for='1h'\ntimeout='1s'\n{login}\n{TENANTS}",
        serving.port
    ))
    .await
}

fn filled(token: &str) -> Vault {
    let vault = Vault::default();
    vault.0.lock().tokens.push(token.to_owned());
    vault.put("secret/clients/acme", json!({ "openai": "sk-acme", "other": "x" }));
    vault.put("secret/clients/globex", json!({ "openai": "sk-globex" }));
    vault
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_reaches_new_and_live_sessions_of_its_tenant_alone() {
    let vault = filled("t");
    let serving = vault.serve(0).await;
    let running = sidecar(&serving, "token='t'").await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    worker.acquire(&running, "sibling", "globex").await;
    assert_eq!(key(&running, "acme").await, "sk-acme");
    assert_eq!(key(&running, "globex").await, "sk-globex");
    vault.put("secret/clients/acme", json!({ "openai": "sk-rotated" }));
    let changed = worker.config_changed().await;
    assert_eq!((changed.tenant.as_str(), changed.session_ids), ("acme", vec!["live".to_owned()]));
    let now = session_config(&running, "live").await;
    assert_eq!(now.providers["llm"].credentials["api_key"].value, "sk-rotated");
    assert_eq!(key(&running, "acme").await, "sk-rotated");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_first_acquires_read_the_secret_once() {
    let vault = filled("t");
    let serving = vault.serve(0).await;
    let running = sidecar(&serving, "token='t'").await;
    let tries = (0..100).map(|_| key(&running, "acme"));
    futures_util::future::join_all(tries).await;
    assert!(vault.0.lock().reads <= 3, "once, and once more per second that it took");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_death_serves_what_is_known_and_its_return_needs_no_restart() {
    let vault = filled("t");
    let serving = vault.serve(0).await;
    let port = serving.port;
    let running = sidecar(&serving, "token='t'").await;
    assert_eq!(key(&running, "acme").await, "sk-acme");
    drop(serving);
    eventually("the known secret is served as stale", || async {
        try_acquire(&running, "acme").await.unwrap().config.unwrap().stale
    })
    .await;
    let refused = try_acquire(&running, "globex").await.unwrap_err();
    assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
    assert!(refused.message().contains("vault:secret/clients/globex#openai"), "{refused:?}");
    assert_eq!(key(&running, "plain").await, "tenantd", "others never notice");
    assert!(kinds(&running, "acme").await.contains(&"tenant_config_failed"));
    let _serving = vault.serve(port).await;
    eventually("it is fresh again", || async {
        let acme = try_acquire(&running, "acme").await.unwrap().config.unwrap();
        !acme.stale && try_acquire(&running, "globex").await.is_ok()
    })
    .await;
    assert!(kinds(&running, "acme").await.contains(&"tenant_config_recovered"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_by_kubernetes_is_renewed_and_done_anew_when_it_ended() {
    let vault = filled("unused");
    vault.0.lock().lasts = 3;
    let serving = vault.serve(0).await;
    let dir = tempfile::tempdir().unwrap();
    let jwt = dir.path().join("jwt");
    std::fs::write(&jwt, "the-jwt").unwrap();
    let login = format!("role='tenantd'\njwt_file='{}'", jwt.display());
    let running = sidecar(&serving, &login).await;
    assert_eq!(key(&running, "acme").await, "sk-acme");
    eventually("it is renewed", || async { vault.0.lock().renewals > 0 }).await;
    // Revoked on the server: the next read logs in again.
    vault.0.lock().tokens.clear();
    vault.put("secret/clients/acme", json!({ "openai": "sk-rotated" }));
    eventually("it is read with a new login", || async {
        key(&running, "acme").await == "sk-rotated"
    })
    .await;
    assert!(vault.0.lock().logins >= 2);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_token_file_is_read_again() {
    let vault = filled("one");
    let serving = vault.serve(0).await;
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "one").unwrap();
    let running = sidecar(&serving, &format!("token='file:{}'", token.display())).await;
    assert_eq!(key(&running, "acme").await, "sk-acme");
    std::fs::write(&token, "two").unwrap();
    vault.0.lock().tokens = vec!["two".to_owned()];
    vault.put("secret/clients/acme", json!({ "openai": "sk-rotated" }));
    eventually("it is read with the new token", || async {
        key(&running, "acme").await == "sk-rotated"
    })
    .await;
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_said_without_the_servers_words() {
    let vault = filled("t");
    let serving = vault.serve(0).await;
    vault.put("secret/clients/globex", json!({ "anthropic": "sk-canary" }));
    let running = sidecar(&serving, "token='t'").await;
    vault.0.lock().secrets.remove("secret/clients/acme");
    for (tenant, says) in [("acme", "no such secret"), ("globex", "no such field")] {
        let refused = try_acquire(&running, tenant).await.unwrap_err();
        assert!(refused.message().contains(says), "{}", refused.message());
    }
    running.stop().await;
    let running = sidecar(&serving, "token='wrong'").await;
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert!(refused.message().contains("refuses the login"), "{}", refused.message());
    assert!(!all_events(&running).await.contains("canary"));
    running.stop().await;
}
