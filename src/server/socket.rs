//! The unix socket's place in the file system.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use tokio::net::UnixListener;

/// Binds a socket that only its owner can reach, in a folder where nobody else
/// can put one in its place.
///
/// # Errors
/// What is in the way, and what to do.
pub async fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    if !folder.exists() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
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
    let listener = UnixListener::bind(path)
        .map_err(|error| anyhow::anyhow!("cannot listen on {}: {error}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
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
