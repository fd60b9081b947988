use tenantd::wire::v1;

use crate::support::{acquire, eventually, reason, start, write};

const KEY: &str = "sk-canary-reload";

fn with(cap: u32, key: &str) -> String {
    format!(
        "[tenants.acme]\ncap = {cap}\n[tenants.acme.providers.llm]\nprovider = 'openai'\ncredential = '{key}'\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_holds_by_itself_and_reaches_live_sessions() {
    let running = start(&with(1, "sk-one")).await;
    let mut sessions = running.sessions().await;
    let granted = sessions.acquire_session(acquire("s1", "acme")).await.unwrap().into_inner();
    let refused = sessions.acquire_session(acquire("s2", "acme")).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_AT_CAP");
    write(&running.config, &with(2, KEY));
    let channel = sessions.clone();
    eventually("the new cap", || {
        let mut sessions = channel.clone();
        async move { sessions.acquire_session(acquire("s2", "acme")).await.is_ok() }
    })
    .await;
    let asked = v1::GetSessionConfigRequest { session_id: "s1".to_owned(), ..Default::default() };
    let config = sessions.get_session_config(asked).await.unwrap().into_inner().config.unwrap();
    assert_ne!(config.version, granted.config.unwrap().version);
    assert_eq!(config.providers["llm"].credentials["api_key"].value, KEY);
    assert!(!format!("{config:?}").contains(KEY), "generated Debug must not print a key");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_edit_keeps_the_running_config_says_why_and_shows_no_key() {
    let running = start(&with(1, "sk-one")).await;
    let mut admin = running.admin().await;
    write(&running.config, &format!("{}credentials = '{KEY}'\n", with(5, KEY)));
    let refused = admin.reload_config(v1::ReloadConfigRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "RELOAD_FAILED");
    assert!(
        refused.message().contains("tenantd.toml:6:") && !refused.message().contains(KEY),
        "{refused}"
    );
    let mut watches = running.watches().await;
    let snapshot =
        watches.get_snapshot(v1::GetSnapshotRequest::default()).await.unwrap().into_inner();
    let error = snapshot.config.unwrap().last_error;
    assert!(error.contains("tenants.acme.providers.llm") && !error.contains(KEY), "{error}");
    let asked = v1::GetTenantRequest { tenant: "acme".to_owned(), explain: false };
    assert_eq!(watches.get_tenant(asked).await.unwrap().into_inner().tenant.unwrap().cap, Some(1));
    write(&running.config, &with(5, KEY));
    admin.reload_config(v1::ReloadConfigRequest::default()).await.unwrap();
    let snapshot =
        watches.get_snapshot(v1::GetSnapshotRequest::default()).await.unwrap().into_inner();
    assert_eq!(snapshot.config.unwrap().last_error, "", "a good file clears the error");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reloads_under_load_never_let_one_over_the_cap() {
    let running = start(&with(3, "sk-0")).await;
    // Two of the three slots stay taken, so that the last one is fought over.
    for id in ["held-1", "held-2"] {
        running.sessions().await.acquire_session(acquire(id, "acme")).await.unwrap();
    }
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..8 {
        let mut sessions = running.sessions().await;
        tasks.spawn(async move {
            for n in 0..100 {
                let id = format!("s-{part}-{n}");
                if let Ok(granted) = sessions.acquire_session(acquire(&id, "acme")).await {
                    let key = &granted.get_ref().config.as_ref().unwrap().providers["llm"];
                    assert!(key.credentials["api_key"].value.starts_with("sk-"));
                    sessions.release_session(crate::support::release(&id)).await.unwrap();
                }
            }
        });
    }
    for n in 1..20 {
        write(&running.config, &with(3, &format!("sk-{n}")));
        running.sidecar.reload("a test").await.unwrap();
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut place = 0;
    let mut most = 0;
    while let Ok(entries) = running.sidecar.events.after(place) {
        let Some(last) = entries.last() else { break };
        place = last.sequence;
        for entry in entries {
            if let tenantd::domain::event::Kind::SessionAcquired { live, .. } = entry.event.kind {
                most = most.max(live);
            }
        }
    }
    assert_eq!(most, 3, "the cap was reached and never passed");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setting_that_waits_for_a_restart_is_told_at_each_reload_until_then() {
    let running = start("[tenants.acme]\ncap=1\n").await;
    let source = "[[sources]]\nkind='http'\nurl='http://127.0.0.1:1/{tenant}'\n";
    write(&running.config, &format!("{source}[tenants.acme]\ncap=2\n"));
    for _ in 0..2 {
        let reloaded = running.sidecar.reload("a test").await.unwrap();
        assert_eq!(reloaded.restart_required, ["sources"]);
    }
    let granted = running.sessions().await.acquire_session(acquire("s", "acme")).await;
    assert!(granted.is_ok(), "what is not there yet is not asked");
    write(&running.config, "[tenants.acme]\ncap=2\n");
    assert!(running.sidecar.reload("a test").await.unwrap().restart_required.is_empty());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_an_edit_has_only_emptied_lifts_no_cap() {
    let running = start(&with(1, "sk-one")).await;
    let mut admin = running.admin().await;
    write(&running.config, "");
    let refused = admin.reload_config(v1::ReloadConfigRequest::default()).await.unwrap_err();
    assert_eq!(reason(&refused), "RELOAD_FAILED");
    assert!(refused.message().contains("is empty"), "{refused}");
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s1", "acme")).await.unwrap();
    let refused = sessions.acquire_session(acquire("s2", "acme")).await.unwrap_err();
    assert_eq!(reason(&refused), "TENANT_AT_CAP");
    // Meant so.
    write(&running.config, "# none\n");
    admin.reload_config(v1::ReloadConfigRequest::default()).await.unwrap();
    sessions.acquire_session(acquire("s2", "acme")).await.unwrap();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_is_noticed_in_a_folder_that_is_never_quiet() {
    let running = start(&with(1, "sk-one")).await;
    let beside = running.config.with_file_name("busy.log");
    let busy = tokio::spawn(async move {
        for n in 0_u64.. {
            std::fs::write(&beside, n.to_string()).unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    });
    let mut sessions = running.sessions().await;
    sessions.acquire_session(acquire("s1", "acme")).await.unwrap();
    write(&running.config, &with(2, "sk-one"));
    let channel = sessions.clone();
    eventually("the new cap", || {
        let mut sessions = channel.clone();
        async move { sessions.acquire_session(acquire("s2", "acme")).await.is_ok() }
    })
    .await;
    busy.abort();
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_config_that_the_caller_holds_is_not_sent_again_until_it_or_its_key_changes() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    write(&key, "sk-one");
    let config = format!(
        "[tenants.acme.providers.llm]\nprovider = 'openai'\ncredential = 'file:{}'\n[tenants.globex]\n",
        key.display()
    );
    let running = start(&config).await;
    let mut sessions = running.sessions().await;
    let mut number = 0;
    let mut holding = async |tenant: &str, version: &str| {
        number += 1;
        let asked = v1::AcquireSessionRequest {
            known_config_version: version.to_owned(),
            ..acquire(&format!("s{number}"), tenant)
        };
        sessions.acquire_session(asked).await.unwrap().into_inner()
    };
    let first = holding("acme", "").await;
    assert!(!first.config_unchanged);
    let first = first.config.unwrap();
    assert_eq!(first.providers["llm"].credentials["api_key"].value, "sk-one");
    let again = holding("acme", &first.version).await;
    assert!(again.config_unchanged && again.config.is_none());
    assert_eq!(again.session.unwrap().tenant, "acme");
    assert!(!holding("globex", &first.version).await.config_unchanged, "another tenant's");
    write(&key, "sk-two");
    let rotated = holding("acme", &first.version).await;
    assert!(!rotated.config_unchanged);
    let rotated = rotated.config.unwrap();
    assert_eq!(rotated.providers["llm"].credentials["api_key"].value, "sk-two");
    assert!(holding("acme", &rotated.version).await.config_unchanged);
    assert!(!holding("acme", &first.version).await.config_unchanged, "the version before");
    running.stop().await;
}
