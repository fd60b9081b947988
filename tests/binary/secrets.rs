use std::fs;

use tenantd::wire::v1::{
    self, session_service_client::SessionServiceClient, watch_service_client::WatchServiceClient,
};

use crate::support::{Start, acquire, eventually, private, text};

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
    running.signal("TERM");
    running.ends();
    let log = running.said();
    assert!(log.contains("TRACE") || log.contains("\"level\":\"TRACE\""), "not at trace level");
    assert!(log.contains("session_acquired"));
    seen.push_str(&log);
    for canary in CANARIES {
        assert!(!seen.contains(canary), "{canary} leaked");
    }
    let socket_folder = fs::read_dir(running.dir.path()).unwrap().count();
    assert_eq!(socket_folder, 1, "only the config is left behind");
}
