use std::fs;

use tenantd::wire::v1::{
    self, session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient,
};

use crate::{
    backend::{Backend, Behaviour},
    support::{Start, acquire, eventually, private, text},
    vault_server::Vault,
};

const CANARIES: [&str; 3] = ["sk-canary-literal", "sk-canary-env", "sk-canary-file"];

fn config(folder: &str) -> String {
    format!(
        "[tenants.literal.providers.llm]\nprovider='openai'\ncredential='{}'\n\
         [tenants.env.providers.llm]\nprovider='openai'\ncredential='env:TENANTD_TEST_CANARY'\n\
         [tenants.file.providers.llm]\nprovider='openai'\ncredential='file:{folder}/key'\n\
         [tenants.gone.providers.llm]\nprovider='openai'\ncredential='file:{folder}/gone'\n",
        CANARIES[0]
    )
}

/// Every way out of the sidecar, at the most talkative level.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_leaves_only_in_the_reply_to_its_own_tenants_session() {
    let keys = tempfile::tempdir().unwrap();
    private(&keys.path().join("key"), CANARIES[2]);
    let text_of = config(&keys.path().display().to_string());
    let env = [("TENANTD_LOG", "trace"), ("TENANTD_TEST_CANARY", CANARIES[1])];
    let mut running = Start { config: &text_of, env: &env, ..Start::default() }.run();
    let mut watches = WatchServiceClient::new(running.channel().await);
    let mut watch =
        watches.watch_sessions(v1::WatchSessionsRequest::default()).await.unwrap().into_inner();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    let mut seen = String::new();
    for (tenant, canary) in [("literal", 0), ("env", 1), ("file", 2)] {
        let granted = sessions.acquire_session(acquire(tenant, tenant)).await.unwrap().into_inner();
        seen.push_str(&format!("{granted:?}"));
        let provider = &granted.config.unwrap().providers["llm"];
        let keys: Vec<_> = provider.credentials.values().map(|key| key.value.clone()).collect();
        assert_eq!(keys, [CANARIES[canary]], "its own key and no other");
    }
    let refused = sessions.acquire_session(acquire("gone", "gone")).await.unwrap_err();
    seen.push_str(&format!("{refused:?}"));
    let asked = v1::ReportFailureRequest {
        session_id: "env".to_owned(),
        failure: Some(v1::Failure {
            slot: "llm".into(),
            kind: "auth".into(),
            message: "401".into(),
        }),
        end_session: true,
        ..Default::default()
    };
    sessions.report_failure(asked).await.unwrap();
    for arguments in [
        &["snapshot"][..],
        &["snapshot", "--json"],
        &["tenants"],
        &["tenants", "literal", "--json"],
        &["sessions", "--json"],
        &["suspend", "literal"],
        &["check", running.config().to_str().unwrap()],
    ] {
        seen.push_str(&text(&running.call(arguments)));
    }
    // A key that lands in the wrong place of the file.
    private(&running.config(), &format!("[tenants.literal.providers]\nllm='{}'\n", CANARIES[0]));
    running.signal("HUP");
    eventually("the bad edit", || text(&running.call(&["snapshot"])).contains("provider table"));
    seen.push_str(&text(&running.call(&["reload"])));
    loop {
        let item = watch.message().await.unwrap().unwrap();
        let shown = format!("{item:?}");
        seen.push_str(&shown);
        if shown.contains("SidecarReloaded") {
            break;
        }
    }
    running.signal("TERM");
    // Two at once may be one.
    eventually("it drains", || running.said().contains("signal again to end at once"));
    running.signal("TERM");
    running.ends();
    let log = running.said();
    assert!(log.contains("TRACE") || log.contains("\"level\":\"TRACE\""), "not at trace level");
    assert!(log.contains("session_acquired"));
    seen.push_str(&log);
    let audit = fs::read_to_string(running.audit()).unwrap();
    assert!(audit.contains("tenant.suspend") && audit.contains("config.reload"), "{audit}");
    seen.push_str(&audit);
    let state = fs::read_dir(running.dir.path().join("s.state")).unwrap();
    for file in state.map(Result::unwrap).filter(|file| file.file_type().unwrap().is_file()) {
        seen.push_str(&fs::read_to_string(file.path()).unwrap());
    }
    assert!(seen.contains(r#"{"is":"ended","#), "the state was not looked at");
    for canary in CANARIES {
        assert!(!seen.contains(canary), "{canary} leaked");
    }
    let socket_folder = fs::read_dir(running.dir.path()).unwrap().count();
    assert_eq!(socket_folder, 3, "only the config, the state and the audit log are left behind");
}

/// A tenant whose key is in an entry itself, over each source; the tokens that the
/// sidecar shows, and those who answer with an error that quotes a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_from_a_source_or_a_store_leaves_only_in_the_reply_too() {
    const KEY: &str = "sk-canary-entry";
    const TOKEN: &str = "token-canary";
    let entry = |key: &str| {
        let provider = serde_json::json!({ "provider": "openai", "credential": key });
        serde_json::json!({ "cap": 9, "providers": { "llm": provider } })
    };
    let (http, grpc, vault) = (Backend::default(), Backend::default(), Vault::default());
    http.set("over-http", Behaviour::Entry(entry(KEY)));
    grpc.set("over-grpc", Behaviour::Entry(entry(KEY)));
    http.set("wrong", Behaviour::Entry(serde_json::json!({ "cap": KEY })));
    http.set("broken", Behaviour::Body(format!("{{{KEY}")));
    grpc.set("refused", Behaviour::Status(500));
    vault.0.lock().tokens.push(TOKEN.to_owned());
    vault.put("kv/acme", serde_json::json!({ "llm": KEY }));
    let (over_http, over_grpc) = (http.serve_http().await, grpc.serve_grpc(None).await);
    let store = vault.serve(0).await;
    let dir = tempfile::tempdir().unwrap();
    let database = format!("sqlite:{}", dir.path().join("t.db").display());
    let made = crate::support::call("unix:/nowhere", &["tenants", "init", "--database", &database]);
    assert!(made.status.success(), "{}", text(&made));
    let key = format!("providers.llm.credential={KEY}");
    let set = ["tenants", "set", "over-sql", "providers.llm.provider=x", &key, "--literals"];
    let made =
        crate::support::call("unix:/nowhere", &[&set[..], &["--database", &database]].concat());
    assert!(made.status.success(), "{}", text(&made));
    let config = format!(
        "[vault]\naddress='http://127.0.0.1:{}'\ntoken='{TOKEN}'\n\
         [tenants.over-vault.providers.llm]\nprovider='x'\ncredential='vault:kv/acme#llm'\n\
         [tenants.no-secret.providers.llm]\nprovider='x'\ncredential='vault:kv/none#llm'\n\
         [[sources]]\nkind='sql'\nurl='{database}'\nliterals=true\n\
         [[sources]]\nkind='http'\nurl='{}'\nbearer='{TOKEN}'\nliterals=true\n\
         [[sources]]\nkind='grpc'\nurl='http://127.0.0.1:{}'\nbearer='{TOKEN}'\nliterals=true\n",
        store.port,
        over_http.url(),
        over_grpc.port
    );
    let env = [("TENANTD_LOG", "trace,vaultrs=trace,rustify=trace")];
    let mut running = Start { config: &config, env: &env, ..Start::default() }.run();
    let mut sessions = SessionServiceClient::new(running.channel().await);
    let mut seen = String::new();
    for tenant in ["over-http", "over-grpc", "over-sql", "over-vault"] {
        let granted = sessions.acquire_session(acquire(tenant, tenant)).await.unwrap().into_inner();
        seen.push_str(&format!("{granted:?}"));
        assert_eq!(granted.config.unwrap().providers["llm"].credentials["api_key"].value, KEY);
    }
    for tenant in ["wrong", "broken", "refused", "no-secret"] {
        let refused = sessions.acquire_session(acquire(tenant, tenant)).await.unwrap_err();
        seen.push_str(&format!("{refused:?}"));
    }
    for arguments in [
        &["snapshot", "--json"][..],
        &["tenants"],
        &["tenants", "over-http", "--explain"],
        &["tenants", "over-sql", "--explain", "--json"],
        &["tenants", "wrong", "--explain"],
        &["check", running.config().to_str().unwrap(), "--resolve"],
        &["tenants", "export", "--database", &database],
    ] {
        seen.push_str(&text(&running.call(arguments)));
    }
    running.signal("TERM");
    // Two at once may be one.
    eventually("it drains", || running.said().contains("signal again to end at once"));
    running.signal("TERM");
    running.ends();
    seen.push_str(&running.said());
    assert!(seen.contains("over-http"), "it was looked at");
    for canary in [KEY, TOKEN] {
        let at = seen.find(canary).map(|at| seen[at.saturating_sub(400)..].chars().take(500));
        assert!(at.is_none(), "{canary} in: {}", at.unwrap().collect::<String>());
    }
}
