//! The documented table and an operator's own query in SQLite.

use std::{path::Path, sync::Arc, time::Duration};

use serde_json::{Value, json};
use tenantd::source::sql::{self, Database};

use crate::{
    backend::entry,
    support::{reason, start},
    watcher::{Worker, eventually_model, model, session_config, snapshot, try_acquire, watching},
};

/// A database with these entries in the documented table.
pub async fn with(url: &str, entries: &[(&str, Value)]) -> Arc<dyn Database> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let database = sql::open(url, Path::new("/"), 2, Duration::from_secs(5)).unwrap();
    database.init().await.unwrap();
    put(&*database, entries).await;
    database
}

pub async fn put(database: &dyn Database, entries: &[(&str, Value)]) {
    let entries: Vec<_> =
        entries.iter().map(|(tenant, entry)| ((*tenant).to_owned(), entry.to_string())).collect();
    database.put(&entries).await.unwrap();
}

fn url(dir: &tempfile::TempDir) -> String {
    format!("sqlite:{}", dir.path().join("tenants.db").display())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_onboarded_changed_and_removed_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let url = url(&dir);
    let database = with(&url, &[]).await;
    let running = start(&format!(
        "unknown_tenants='reject'\n[[sources]]\nkind='sql'\nurl='{url}'\nttl='1h'\nnegative_ttl='1h'\npoll='50ms'"
    ))
    .await;
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_UNKNOWN");
    put(&*database, &[("acme", entry(1))]).await;
    eventually_model(&running, "acme", Ok("m1")).await;
    let mut worker = Worker::start(&running, "w").await;
    let first = worker.acquire(&running, "live", "acme").await;
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_AT_CAP", "cap of the database");
    put(&*database, &[("acme", entry(9))]).await;
    let changed = worker.config_changed().await;
    assert_eq!((changed.tenant.as_str(), changed.session_ids), ("acme", vec!["live".to_owned()]));
    let now = session_config(&running, "live").await;
    assert_eq!((&now.version, now.providers["llm"].model.as_str()), (&changed.version, "m9"));
    assert_ne!(now.version, first.version);
    assert_eq!(model(&running, "acme").await.as_deref(), Ok("m9"), "the raised cap holds");
    database.remove("acme").await.unwrap();
    assert_eq!(worker.config_changed().await.version, "", "removed");
    assert_eq!(model(&running, "acme").await.unwrap_err(), "TENANT_UNKNOWN");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_tenant_asks_about_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let url = url(&dir);
    let database = with(&url, &[("acme", entry(5)), ("globex", entry(6))]).await;
    let running =
        start(&format!("[[sources]]\nkind='sql'\nurl='{url}'\nttl='1h'\npoll='50ms'")).await;
    watching(&running).await;
    let _ = (model(&running, "acme").await, model(&running, "globex").await);
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "globex").await;
    let before = snapshot(&running).await.sources[0].loads;
    put(&*database, &[("acme", entry(7))]).await;
    eventually_model(&running, "acme", Ok("m7")).await;
    assert_eq!(model(&running, "globex").await.as_deref(), Ok("m6"));
    let after = snapshot(&running).await.sources[0].loads;
    assert_eq!(after - before, 1, "only acme was asked about");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_own_query_maps_columns_and_a_wrong_one_is_a_clear_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("own.db");
    std::fs::write(&path, "").unwrap();
    let pool = sqlx::SqlitePool::connect(&format!("sqlite:{}", path.display())).await.unwrap();
    sqlx::raw_sql(
        "CREATE TABLE clients (name TEXT, calls INTEGER, model TEXT, extra TEXT);
         INSERT INTO clients VALUES ('acme', 3, 'm3', '{\"plan\":\"gold\"}'), ('empty', NULL, NULL, NULL),
         ('half', 3, NULL, NULL), ('twice', 1, 'a', NULL), ('twice', 2, 'b', NULL),
         ('words', 'sk-canary', 'm', NULL);",
    )
    .execute(&pool)
    .await
    .unwrap();
    let running = start(&format!(
        "[[sources]]\nkind='sql'\nname='clients'\nurl='sqlite:{}'\nquery='''
SELECT name AS tenant, calls AS cap, CASE WHEN calls IS NULL THEN NULL ELSE 'openai' END AS providers__llm__provider,
       model AS providers__llm__model, extra AS labels FROM clients WHERE name = $1'''",
        path.display()
    ))
    .await;
    let granted = try_acquire(&running, "acme").await.unwrap();
    let config = granted.config.unwrap();
    assert_eq!(config.providers["llm"].model, "m3");
    assert_eq!(config.labels["plan"], "gold");
    assert!(config.tenant_known);
    assert!(try_acquire(&running, "empty").await.unwrap().config.unwrap().tenant_known);
    assert_eq!(model(&running, "half").await.as_deref(), Ok(""), "NULL is not given");
    assert!(!try_acquire(&running, "nobody").await.unwrap().config.unwrap().tenant_known);
    for (tenant, says) in [("twice", "more than one row"), ("words", "cap: must be a whole number")]
    {
        let refused = try_acquire(&running, tenant).await.unwrap_err();
        assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE");
        assert!(refused.message().contains(says), "{}", refused.message());
        assert!(refused.message().contains("clients"), "{}", refused.message());
        assert!(!refused.message().contains("canary"), "{}", refused.message());
    }
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_missing_locked_or_replaced_is_noticed_and_recovered_from() {
    let dir = tempfile::tempdir().unwrap();
    let url = url(&dir);
    let running = start(&format!(
        "[[sources]]\nkind='sql'\nurl='{url}'\nttl='1s'\nstale_for='1h'\npoll='50ms'"
    ))
    .await;
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert_eq!(reason(&refused), "CONFIG_UNAVAILABLE", "the file is not there");
    let database = with(&url, &[("acme", entry(5))]).await;
    eventually_model(&running, "acme", Ok("m5")).await;
    let other = tempfile::tempdir().unwrap();
    let replacement = other.path().join("new.db");
    drop(with(&format!("sqlite:{}", replacement.display()), &[("acme", entry(8))]).await);
    std::fs::rename(&replacement, dir.path().join("tenants.db")).unwrap();
    eventually_model(&running, "acme", Ok("m8")).await;
    drop(database);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_missing_says_what_makes_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tenants.db"), "").unwrap();
    let running = start(&format!("[[sources]]\nkind='sql'\nurl='{}'", url(&dir))).await;
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert!(refused.message().contains("tenantd tenants init"), "{}", refused.message());
    assert_eq!(json!(reason(&refused)), "CONFIG_UNAVAILABLE");
    running.stop().await;
}
