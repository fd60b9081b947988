//! The files of one audit log: the one written to, those before it, the head and
//! the lock.

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::line::{self, MAX_LINE, Place};

/// Only their owner may read what operators do.
const MODE: u32 = 0o600;

/// Where the files are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The one written to.
    pub active: PathBuf,
}

/// A log, opened to be read.
pub struct Read {
    /// Oldest first.
    pub files: Vec<(PathBuf, io::Take<File>)>,
    /// Where it ends; none where there is no head that can be read.
    pub head: Option<Place>,
}

impl Files {
    fn beside(&self, ending: &str) -> PathBuf {
        let mut name = OsString::from(&self.active);
        name.push(ending);
        name.into()
    }

    /// Holds the last record's place.
    #[must_use]
    pub fn head(&self) -> PathBuf {
        self.beside(".head")
    }

    /// Held while something is written.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.beside(".lock")
    }

    /// Where the active one goes when it is full.
    #[must_use]
    pub fn rotated(&self, first: u64) -> PathBuf {
        self.beside(&format!(".{first:012}"))
    }

    /// Those before the active one, oldest first, with their first sequence.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn before(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let Some(name) = self.active.file_name().and_then(|name| name.to_str()) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for entry in fs::read_dir(folder(&self.active))? {
            let entry = entry?;
            let file = entry.file_name();
            let ending = file.to_str().and_then(|file| file.strip_prefix(name)?.strip_prefix('.'));
            let Some(ending) = ending.filter(|ending| ending.len() >= 12) else { continue };
            if ending.bytes().all(|byte| byte.is_ascii_digit())
                && let Ok(first) = ending.parse()
            {
                all.push((first, entry.path()));
            }
        }
        all.sort_unstable();
        Ok(all)
    }

    /// The log as it is now: nobody writes while it is opened, and whoever reads it
    /// afterwards holds up nobody.
    ///
    /// # Errors
    /// Files that cannot be opened.
    pub fn read(&self) -> io::Result<Read> {
        // A copy elsewhere has no lock, and needs none.
        let lock = File::open(self.lock()).ok();
        if let Some(lock) = &lock {
            lock.lock_shared()?;
        }
        let mut paths: Vec<PathBuf> = self.before()?.into_iter().map(|(_, path)| path).collect();
        if self.active.exists() || paths.is_empty() {
            paths.push(self.active.clone());
        }
        let mut files = Vec::new();
        for path in paths {
            let file = File::open(&path)?;
            let length = file.metadata()?.len();
            files.push((path, file.take(length)));
        }
        let head = fs::read_to_string(self.head()).ok();
        Ok(Read { files, head: head.as_deref().and_then(Place::parse) })
        // The lock goes with its file.
    }

    /// Makes the folder, where there is none, for its owner alone.
    ///
    /// # Errors
    /// What cannot be made.
    pub fn make_folder(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(folder(&self.active))
    }

    /// The folder's own entries, on disk.
    ///
    /// # Errors
    /// The disk's.
    pub fn sync_folder(&self) -> io::Result<()> {
        File::open(folder(&self.active))?.sync_all()
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Opens for reading and writing; makes it where there is none.
///
/// # Errors
/// One that is no regular file, or cannot be opened.
pub fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(MODE)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.permissions().mode() & 0o777 != MODE {
        file.set_permissions(fs::Permissions::from_mode(MODE))?;
    }
    Ok(file)
}

/// How a file ends.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tail {
    /// The last whole record's place; none in a file without records.
    pub last: Option<Place>,
    /// Bytes after the last newline: of a record that was not written to its end.
    pub torn: Vec<u8>,
    /// The last whole line is no record.
    pub is_broken: bool,
    /// It has its newline.
    pub is_ended: bool,
}

/// Reads how a file ends.
///
/// # Errors
/// The disk's.
pub fn tail(file: &mut File) -> io::Result<Tail> {
    let length = file.metadata()?.len();
    // Two lines: a whole one, and one torn.
    let wanted = length.min(2 * (MAX_LINE as u64 + 1));
    file.seek(SeekFrom::Start(length - wanted))?;
    let mut bytes = Vec::new();
    file.take(wanted).read_to_end(&mut bytes)?;
    let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') else {
        if wanted < length {
            // Longer than any record, so none that was torn: it is left as it is.
            return Ok(Tail { is_broken: true, ..Tail::default() });
        }
        return Ok(Tail { torn: bytes, is_ended: true, ..Tail::default() });
    };
    let whole = &bytes[..end];
    let start = whole.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let last_line = &whole[start..];
    let links = line::read(last_line);
    Ok(Tail {
        is_broken: links.is_none(),
        last: links.map(|links| Place { sequence: links.sequence, hash: line::hash(last_line) }),
        torn: bytes[end + 1..].to_vec(),
        is_ended: true,
    })
}

/// The first record's sequence and link.
///
/// # Errors
/// The disk's.
pub fn first(path: &Path) -> io::Result<Option<line::Links>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_LINE as u64 + 1).read_to_end(&mut bytes)?;
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    Ok(line::read(&bytes[..end]))
}
