//! One reference to a secret, read now.

use std::{
    io::Read as _,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::domain::provider::Secret;

/// Longest wait for a credential file: a hung mount refuses this session, and
/// holds nothing else up.
pub const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// Tells one state of a file from another, through symlinks: Kubernetes swaps a
/// link on the way to a mounted secret.
pub type Identity = (u64, u64, u64, i64, i64, i64, i64);

/// An environment variable of the sidecar.
pub fn env(name: &str) -> Result<Secret, String> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
        Ok(_) => Err(format!("env:{name} is empty")),
        Err(std::env::VarError::NotPresent) => Err(format!("env:{name} is not set")),
        Err(std::env::VarError::NotUnicode(_)) => Err(format!("env:{name} is not UTF-8")),
    }
}

/// A file, without the newline at its end.
pub async fn file(path: &Path, max_bytes: usize) -> Result<(Secret, Identity), String> {
    let at = path.to_owned();
    let read = tokio::task::spawn_blocking(move || read(&at, max_bytes));
    let said = match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err("reading it was interrupted".to_owned()),
        Err(_) => Err(format!("reading it took longer than {READ_TIMEOUT:?}")),
    };
    said.map_err(|problem| format!("file:{}: {problem}", path.display()))
}

fn read(path: &PathBuf, max_bytes: usize) -> Result<(Secret, Identity), String> {
    let said = |error: std::io::Error| error.to_string();
    // Asked before opening: a FIFO would block the open.
    if !std::fs::metadata(path).map_err(said)?.is_file() {
        return Err("is not a regular file".to_owned());
    }
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(said)?;
    let identity = of(&file.metadata().map_err(said)?);
    file.take(max_bytes as u64 + 1).read_to_string(&mut text).map_err(said)?;
    let secret = Secret::new(text.trim_end_matches(['\r', '\n']).to_owned());
    zeroize::Zeroize::zeroize(&mut text);
    match secret.expose().len() {
        0 => Err("is empty".to_owned()),
        len if len > max_bytes => Err(format!("is larger than {max_bytes} bytes")),
        _ => Ok((secret, identity)),
    }
}

/// The present state of a file; none: it is not there.
pub fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|meta| of(&meta))
}

fn of(meta: &std::fs::Metadata) -> Identity {
    let (dev, ino, len) = (meta.dev(), meta.ino(), meta.len());
    (dev, ino, len, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}
