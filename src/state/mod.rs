//! The state directory: what outlives the process, in files that only its owner
//! can read. `journal` writes, `read` reads.
//!
//! Agents share the machine with the sidecar, so that a machine that goes down
//! takes their sessions along: what must survive is the death of the process, and
//! a write that has returned does, without waiting for a disk. The boot's id is in
//! each file; after another boot only what operators set comes back, and that is
//! synced, in the background.

pub mod journal;
pub mod line;
pub mod read;

use std::{
    fs::{self, File, TryLockError},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use self::{journal::Files, line::Begin};
use crate::domain::record::Image;

/// Most sets of unreadable files that are kept aside.
const KEPT_ASIDE: usize = 3;

/// What was found, and where to write from now on.
pub struct Opened {
    /// Writes.
    pub journal: Arc<Files>,
    /// What an earlier process left.
    pub image: Image,
    /// The machine has been down since.
    pub rebooted: bool,
    /// Names the row of events that goes on.
    pub epoch: String,
    /// Its last sequence that may have been given.
    pub head: u64,
    /// Nanoseconds that its clock had left out.
    pub left_out: u64,
    /// What could not be read, and where it is kept.
    pub lost: Option<String>,
}

/// It cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Error {
    #[error("the state directory {path} cannot be used: {error}; give another [state] path, or switch it off with enabled = false", path = path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error(
        "another sidecar (process {pid}) uses the state directory {path}; stop it, take its place with --take-over, or give another [state] path", path = path.display()
    )]
    InUse { path: PathBuf, pid: String },
    #[error(
        "the state directory {path} belongs to or can be written by another user (uid {uid}, mode {mode:o}); give another [state] path", path = path.display()
    )]
    Exposed { path: PathBuf, uid: u32, mode: u32 },
}

/// Opens a state directory, made where there is none. What cannot be read is
/// kept aside, and the state begins anew: never a wrong one, and no crash loop.
///
/// # Errors
/// When the directory cannot be used, or another sidecar uses it.
pub fn open(path: &Path) -> Result<Opened, Error> {
    let failed = |error| Error::Io { path: path.to_owned(), error };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
    let meta = fs::metadata(path).map_err(failed)?;
    let own = rustix::process::getuid().as_raw();
    if meta.uid() != own || meta.mode() & 0o022 != 0 {
        return Err(Error::Exposed {
            path: path.to_owned(),
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
        });
    }
    let lock = lock(path)?;
    let boot = boot();
    let (found, lost) = match read::all(path, &boot) {
        Ok(found) => (found, None),
        Err(read::Error::Io(error)) => return Err(failed(error)),
        Err(read::Error::Unreadable(what)) => {
            let aside = keep_aside(path).map_err(failed)?;
            let lost = format!("{what}; the files are kept in {}", aside.display());
            (
                read::Found { last: read::last(path).map_err(failed)?, ..Default::default() },
                Some(lost),
            )
        }
    };
    let epoch = found.epoch.unwrap_or_else(|| uuid::Uuid::new_v4().simple().to_string());
    let begin = Begin::new(epoch.clone(), boot);
    let last = (found.last, found.reserved, found.left_out);
    let journal = Arc::new(Files::new(path.to_owned(), begin, last, lost.is_some(), lock));
    Ok(Opened {
        journal,
        image: found.image,
        rebooted: found.rebooted,
        epoch,
        head: found.reserved,
        left_out: found.left_out,
        lost,
    })
}

/// Held as long as the process lives, whatever way it dies.
fn lock(path: &Path) -> Result<File, Error> {
    let failed = |error| Error::Io { path: path.to_owned(), error };
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(16).read_to_string(&mut pid);
            let pid = pid.trim().to_owned();
            return Err(Error::InUse { path: path.to_owned(), pid });
        }
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // For people; a full disk must not matter.
    let _ = file.set_len(0);
    let _ = writeln!(file, "{}", std::process::id());
    Ok(file)
}

/// Names the time since the machine was started. Where it cannot be known each
/// start counts as a boot: sessions are forgotten rather than made up.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .inspect_err(|error| {
            tracing::warn!(
                %error,
                "a restart will forget live sessions: /proc/sys/kernel/random/boot_id cannot be read"
            );
        })
        .unwrap_or_default()
}

fn keep_aside(path: &Path) -> io::Result<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with("unreadable.") {
            kept.push(entry.path());
        }
    }
    kept.sort();
    while kept.len() >= KEPT_ASIDE {
        fs::remove_dir_all(kept.remove(0))?;
    }
    let name = format!("unreadable.{}", uuid::Uuid::now_v7().simple());
    let aside = path.join(name);
    fs::DirBuilder::new().mode(0o700).create(&aside)?;
    for (_, file) in read::files(path)? {
        if let Some(name) = file.file_name() {
            fs::rename(&file, aside.join(name))?;
        }
    }
    Ok(aside)
}
