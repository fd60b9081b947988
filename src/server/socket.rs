//! The unix socket's place in the file system.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use tokio::net::UnixListener;

use crate::config::Listen;

/// A socket's place, and which socket was there at the start.
pub struct Place {
    pub path: PathBuf,
    /// Its file, where it is ours to remove.
    own: Option<(u64, u64)>,
}

impl Place {
    /// Of a socket that is bound.
    pub fn of(path: PathBuf, own: bool) -> Self {
        let own = own.then(|| identity(&path)).flatten();
        Self { path, own }
    }

    /// Removes the file, unless it is another socket's by now.
    pub fn remove(&self) {
        if self.own.is_some() && self.own == identity(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Binds a socket that only its owner can reach, or as the config says, in a
/// folder where nobody else can put one in its place.
///
/// # Errors
/// What is in the way, and what to do.
pub async fn bind(path: &Path, listen: &Listen) -> anyhow::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        create(folder, listen)?;
    }
    private_folder(folder)?;
    if path.exists() {
        // A socket that answers is another sidecar's; one that does not is left
        // over from a crash.
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            anyhow::bail!(
                "another process serves {}; stop it, or give another --listen unix:PATH",
                path.display()
            );
        }
        let is_socket =
            std::os::unix::fs::FileTypeExt::is_socket(&fs::symlink_metadata(path)?.file_type());
        anyhow::ensure!(is_socket, "{} is there and is no socket", path.display());
        fs::remove_file(path)?;
    }
    // Nobody else may connect in the moment before the mode is set.
    let listener = private(path)
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", path.display()))?;
    give(path, listen)?;
    fs::set_permissions(path, fs::Permissions::from_mode(listen.unix_mode))?;
    Ok(listener)
}

/// Connections that wait to be accepted, as tokio's own bind has it.
const BACKLOG: u32 = 1024;

/// Binds a socket that only its owner can reach. On Linux a bound socket gets the mode
/// that it had before: the umask, which is one for all threads, is left alone.
pub fn private(path: &Path) -> io::Result<UnixListener> {
    let socket = tokio::net::UnixSocket::new_stream()?;
    rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(0o600))?;
    socket.bind(path)?;
    socket.listen(BACKLOG)
}

/// A folder that whoever may use the socket can pass through, and nobody else.
fn create(folder: &Path, listen: &Listen) -> anyhow::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    give(folder, listen)?;
    let mut mode = 0o700;
    for (may_connect, may_pass) in [(0o020, 0o010), (0o002, 0o001)] {
        if listen.unix_mode & may_connect != 0 {
            mode |= may_pass;
        }
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(mode))?;
    Ok(())
}

fn give(path: &Path, listen: &Listen) -> anyhow::Result<()> {
    let Some(gid) = listen.unix_gid else { return Ok(()) };
    std::os::unix::fs::chown(path, None, Some(gid)).with_context(|| {
        format!("{} cannot be given to the group {gid} of listen.unix_gid", path.display())
    })
}

/// The folder must not let another user put a socket of his own in our place.
fn private_folder(folder: &Path) -> anyhow::Result<()> {
    let meta = fs::metadata(folder)?;
    let own = rustix::process::getuid().as_raw();
    let trusted = meta.uid() == own || meta.uid() == 0;
    let writable = meta.mode() & 0o022 != 0 && meta.mode() & 0o1000 == 0;
    anyhow::ensure!(
        trusted && !writable,
        "{} belongs to or can be written by another user (uid {}, mode {:o}); remove it, or give another --listen unix:PATH",
        folder.display(),
        meta.uid(),
        meta.mode() & 0o7777,
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_its_owners_alone_from_the_moment_it_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s.sock");
        let _listener = private(&path).unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    }
}
