//! Credentials in files that change under live sessions.

use std::{fs, os::unix::fs::symlink, path::Path};

use crate::{
    support::{eventually, start},
    watcher::{Worker, key, session_config, try_acquire},
};

/// A secret volume as the kubelet mounts it: `name -> ..data/name`, and
/// `..data -> ..TIME`, swapped by a rename.
fn mount(volume: &Path, time: &str, key: &str) {
    let folder = volume.join(time);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("key"), key).unwrap();
    symlink(time, volume.join("..data_tmp")).unwrap();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if !volume.join("key").is_symlink() {
        symlink("..data/key", volume.join("key")).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_secret_mount_reaches_new_and_live_sessions_of_its_tenant_alone() {
    let volume = tempfile::tempdir().unwrap();
    mount(volume.path(), "..2026_01", "sk-old");
    let running = start(&format!(
        "[tenants.acme.providers.llm]\nprovider='x'\ncredential='file:{}'\n\
         [tenants.globex.providers.llm]\nprovider='x'\ncredential='env:CARGO_PKG_NAME'",
        volume.path().join("key").display()
    ))
    .await;
    let mut worker = Worker::start(&running, "w").await;
    let first = worker.acquire(&running, "live", "acme").await;
    worker.acquire(&running, "sibling", "globex").await;
    assert_eq!(key(&running, "acme").await, "sk-old");
    mount(volume.path(), "..2026_02", "sk-new");
    assert_eq!(key(&running, "acme").await, "sk-new", "the next session has it at once");
    let changed = worker.config_changed().await;
    assert_eq!(changed.session_ids, ["live"], "the sibling is not told");
    let now = session_config(&running, "live").await;
    assert_eq!(now.providers["llm"].credentials["api_key"].value, "sk-new");
    assert_eq!(now.version, changed.version);
    assert_ne!(now.version, first.version);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_file_is_noticed_although_no_new_session_comes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    fs::write(&path, "sk-old").unwrap();
    let running = start(&format!(
        "[tenants.acme.providers.llm]\nprovider='x'\ncredential='file:{}'",
        path.display()
    ))
    .await;
    let mut worker = Worker::start(&running, "w").await;
    worker.acquire(&running, "live", "acme").await;
    fs::write(&path, "sk-new").unwrap();
    worker.config_changed().await;
    assert_eq!(
        session_config(&running, "live").await.providers["llm"].credentials["api_key"].value,
        "sk-new"
    );
    // Gone for a while: new sessions are refused, and it comes back by itself.
    fs::remove_file(&path).unwrap();
    let refused = try_acquire(&running, "acme").await.unwrap_err();
    assert!(refused.message().contains("llm.api_key: file:"), "{}", refused.message());
    fs::write(&path, "sk-newer").unwrap();
    eventually("it resolves again", || async { try_acquire(&running, "acme").await.is_ok() }).await;
    worker.config_changed().await;
    running.stop().await;
}
