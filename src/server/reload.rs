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

/// How long the file must stay as it is before it is read.
const QUIET: Duration = Duration::from_millis(100);
/// Longest wait for that.
const QUIET_WITHIN: Duration = Duration::from_secs(5);

/// What tells that a file became another one.
pub type Look = Option<(u64, u64, i64, i64)>;

/// Looks at a file.
pub fn look(path: &Path) -> Look {
    fs::metadata(path).ok().map(|of| (of.ino(), of.len(), of.mtime(), of.mtime_nsec()))
}

/// Reloads when the file becomes another one: edited, renamed over, or behind a
/// swapped symlink, as Kubernetes mounts do.
/// `seen`: how it looked when it was loaded, so that an edit since then counts.
pub async fn on_change(sidecar: Arc<Sidecar>, path: PathBuf, mut seen: Look) {
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
    loop {
        if look(&path) != seen {
            let present = settled(&path).await;
            if present != seen && present.is_some() {
                seen = present;
                let _ = sidecar.reload("the file changed").await;
            }
        }
        if bell.recv().await.is_none() {
            return;
        }
        // Other files of a busy folder ring as well.
        tokio::time::sleep(QUIET).await;
    }
}

/// Waits until the file stays as it is: editors write in several steps. The file
/// itself, not the folder, which may never be quiet; and not for ever.
async fn settled(path: &Path) -> Look {
    let deadline = tokio::time::Instant::now() + QUIET_WITHIN;
    let mut before = look(path);
    loop {
        tokio::time::sleep(QUIET).await;
        let now = look(path);
        if now == before || tokio::time::Instant::now() > deadline {
            return now;
        }
        before = now;
    }
}
