//! No way of printing a thing that holds a key prints the key.

use tenantd::{app::ports::Credentials as _, domain::tenant::TenantId};

use crate::support::{acquire, start};

#[tokio::test(flavor = "multi_thread")]
async fn debug_output_of_all_that_holds_a_key_is_redacted() {
    const KEY: &str = "sk-canary-debug";
    let running = start(&format!(
        "[tenants.acme.providers.llm]\nprovider='openai'\ncredential='{KEY}'\n\
         [tenants.acme.providers.tts]\nprovider='x'\ncredentials={{ token = '{KEY}' }}\n"
    ))
    .await;
    let config = running.sidecar.config();
    let tenant = config.tenant(&TenantId::parse("acme").unwrap()).unwrap();
    let credentials = tenantd::source::credentials::Resolver::new(None);
    let resolved = credentials.resolve(tenant.clone(), 1000).await.unwrap();
    let granted =
        running.sessions().await.acquire_session(acquire("s", "acme")).await.unwrap().into_inner();
    assert_eq!(granted.config.as_ref().unwrap().providers["llm"].credentials["api_key"].value, KEY);
    for shown in [
        format!("{config:?}"),
        format!("{tenant:#?}"),
        format!("{resolved:?}"),
        format!("{granted:?}"),
        format!("{:?}", granted.config.unwrap().providers["llm"].credentials["api_key"]),
    ] {
        assert!(!shown.contains(KEY), "{shown}");
    }
    running.stop().await;
}
