//! Notices that the config file became another one.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use crate::app::Sidecar;

/// Reloads when the file becomes another one: edited, renamed over, or behind a
/// swapped symlink, as Kubernetes mounts do.
pub async fn on_change(sidecar: Arc<Sidecar>, path: PathBuf) {
    use notify::Watcher as _;
    let (rang, mut bell) = mpsc::channel(1);
    let watcher = notify::recommended_watcher(move |_| {
        let _ = rang.try_send(());
    });
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let watching = watcher.and_then(|mut watcher| {
        watcher.watch(folder, notify::RecursiveMode::NonRecursive)?;
        Ok(watcher)
    });
    let _watcher = match watching {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "the config file is not watched; use SIGHUP or `tenantd reload`");
            return;
        }
    };
    let identity = |path: &Path| {
        fs::metadata(path).ok().map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()))
    };
    let mut seen = identity(&path);
    while bell.recv().await.is_some() {
        // Editors write in several steps: wait until it is quiet.
        while tokio::time::timeout(Duration::from_millis(100), bell.recv()).await.is_ok() {}
        let present = identity(&path);
        if present != seen && present.is_some() {
            seen = present;
            let _ = sidecar.reload(None).await;
        }
    }
}
