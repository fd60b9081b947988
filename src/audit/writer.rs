//! Writes the chain. Blocks on the disk: for threads that may.
//!
//! Each write holds the lock file for its time only, and goes on from where the
//! head file says that the chain is: two sidecars of one user, or one that hands
//! over to the next, share one log.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    thread,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    Settings,
    files::{self, Files},
    line::{self, Place},
};
use crate::domain::audit::{Record, SIDECAR, action};

/// Longest wait for another process that writes.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
const LOCK_LOOK: Duration = Duration::from_millis(5);

/// The file written to, as it was left.
struct Open {
    file: File,
    length: u64,
    last: Place,
}

/// The one writer of this process.
pub struct Writer {
    files: Files,
    settings: Settings,
    run: String,
    open: Option<Open>,
}

impl Writer {
    /// Opens nothing yet.
    pub fn new(settings: Settings, run: String) -> Self {
        Self { files: Files { active: settings.path.clone() }, settings, run, open: None }
    }

    /// Writes records in their order, on disk when it returns; all of them or, after
    /// an error, none that a reader takes for whole.
    ///
    /// # Errors
    /// The disk's, with the file.
    pub fn write(&mut self, records: &[Record], at: Duration) -> Result<Place, String> {
        let result = self
            .locked(records, at)
            .map_err(|error| format!("{}: {error}", self.settings.path.display()));
        if result.is_err() {
            // What is on the disk is looked at anew.
            self.open = None;
        }
        result
    }

    fn locked(&mut self, records: &[Record], at: Duration) -> io::Result<Place> {
        self.files.make_folder()?;
        let lock = files::open(&self.files.lock())?;
        lock_within(&lock, LOCK_TIMEOUT)?;
        let head = read_head(&self.files);
        let mut open = match self.open.take() {
            Some(open) if is_as_left(&open, head.as_ref(), &self.files) => open,
            _ => self.reopen(head, at)?,
        };
        let lines = records.iter().map(|record| line::write(record, &self.run, &open.last).len());
        let size = lines.sum::<usize>() as u64;
        if open.length > 0 && open.length + size > self.settings.max_bytes {
            open = self.rotate(open, at)?;
        }
        append(&mut open, &self.files, records, &self.run)?;
        let last = open.last.clone();
        self.open = Some(open);
        Ok(last)
        // The lock goes with its file.
    }

    /// Finds the end of the chain, and records what is wrong with it.
    fn reopen(&self, head: Option<Place>, at: Duration) -> io::Result<Open> {
        let mut file = files::open(&self.files.active)?;
        let mut tail = files::tail(&mut file)?;
        if tail.last.is_none()
            && !tail.is_broken
            && let Some((_, newest)) = self.files.before()?.last()
        {
            // It ended between two files.
            let before = files::tail(&mut File::open(newest)?)?;
            (tail.last, tail.is_broken) = (before.last, before.is_broken);
        }
        let mut found = Vec::new();
        let length = file.metadata()?.len();
        let mut whole = length - tail.torn.len() as u64;
        if !tail.torn.is_empty() {
            let torn = line::hash(&tail.torn);
            let links = line::read(&tail.torn);
            if let Some(links) = links.filter(|_| head.as_ref().is_some_and(|at| at.hash == torn)) {
                // Only its newline is gone.
                file.write_all_at(b"\n", length)?;
                whole = length + 1;
                tail.last = Some(Place { sequence: links.sequence, hash: torn });
            } else {
                file.set_len(whole)?;
                let bytes = tail.torn.len();
                found.push(format!("{bytes} bytes of a record that was not written to its end"));
            }
            file.sync_all()?;
        }
        if !tail.is_ended {
            file.write_all_at(b"\n", whole)?;
            whole += 1;
        }
        let mut last = tail.last.clone().unwrap_or_else(Place::start);
        if tail.is_broken {
            found.push("the last line is no record".to_owned());
        }
        match head {
            // It ended between a record and its head.
            Some(head) if head.sequence < last.sequence => {}
            Some(head) if head == last => {}
            Some(head) => {
                found.push(format!(
                    "record {} was written and is not here as it was; the last one here is {}",
                    head.sequence, last.sequence
                ));
                // What is gone stays seen as gone.
                last = head;
            }
            None if last.sequence > 0 => found.push("the head file is gone".to_owned()),
            None => {}
        }
        let mut open = Open { file, length: whole, last };
        if !found.is_empty() {
            tracing::error!(
                file = %self.settings.path.display(),
                "the audit log was not left as it was written: {}; it goes on, with a record of it",
                found.join("; ")
            );
            let record =
                Record::new(at, SIDECAR, action::RECOVERED).change(json!(null), json!(found));
            append(&mut open, &self.files, &[record], &self.run)?;
        }
        Ok(open)
    }

    /// Goes on in a new file, and drops the oldest beyond those to be kept.
    fn rotate(&self, old: Open, at: Duration) -> io::Result<Open> {
        let first = files::first(&self.files.active)?.map_or(1, |links| links.sequence);
        let target = self.files.rotated(first);
        fs::rename(&self.files.active, &target)?;
        let file = files::open(&self.files.active)?;
        self.files.sync_folder()?;
        let mut open = Open { file, length: 0, last: old.last };
        let before = self.files.before()?;
        let surplus = before.len().saturating_sub(self.settings.keep);
        let kept = before.get(surplus).map(|(_, path)| path.as_path());
        let oldest = match kept {
            Some(path) => files::first(path)?
                .map(|links| json!({ "sequence": links.sequence, "prev": links.prev })),
            None => Some(
                json!({ "sequence": open.last.sequence.saturating_add(1), "prev": open.last.hash }),
            ),
        };
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned());
        let record = Record::new(at, SIDECAR, action::ROTATED)
            .change(json!({ "file": name }), json!({ "kept_from": oldest }));
        append(&mut open, &self.files, &[record], &self.run)?;
        // Only once it is written down that they are dropped.
        for (_, path) in &before[..surplus] {
            fs::remove_file(path)?;
        }
        self.files.sync_folder()?;
        Ok(open)
    }
}

fn lock_within(lock: &File, timeout: Duration) -> io::Result<()> {
    let deadline = Instant::now() + timeout;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(io::Error::other("another process holds its lock"));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_LOOK),
        }
    }
}

/// The head; none where there is none that can be read.
pub fn read_head(files: &Files) -> Option<Place> {
    Place::parse(&fs::read_to_string(files.head()).ok()?)
}

/// Nobody else wrote, moved or cut anything since.
fn is_as_left(open: &Open, head: Option<&Place>, files: &Files) -> bool {
    let (Ok(named), Ok(held)) = (fs::symlink_metadata(&files.active), open.file.metadata()) else {
        return false;
    };
    head == Some(&open.last)
        && (named.dev(), named.ino()) == (held.dev(), held.ino())
        && held.len() == open.length
}

fn write_head(files: &Files, last: &Place) -> io::Result<()> {
    let head = files::open(&files.head())?;
    head.write_all_at(last.line().as_bytes(), 0)?;
    head.sync_data()
}

fn append(open: &mut Open, files: &Files, records: &[Record], run: &str) -> io::Result<()> {
    if records.is_empty() {
        return Ok(());
    }
    let (mut last, mut text) = (open.last.clone(), String::new());
    for record in records {
        let line = line::write(record, run, &last);
        last =
            Place { sequence: last.sequence.saturating_add(1), hash: line::hash(line.as_bytes()) };
        text.push_str(&line);
        text.push('\n');
    }
    // Where this process saw the end: the length was compared under the lock.
    let written = open
        .file
        .write_all_at(text.as_bytes(), open.length)
        .and_then(|()| open.file.sync_data())
        .and_then(|()| write_head(files, &last));
    if let Err(error) = written {
        // A part of a record is none, and one that is refused must not stay.
        let _ = open.file.set_len(open.length);
        let _ = write_head(files, &open.last);
        return Err(error);
    }
    open.length += text.len() as u64;
    for (at, record) in records.iter().enumerate() {
        let sequence = open.last.sequence.saturating_add(1 + at as u64);
        let told = record.tenant.as_ref().map_or("", |tenant| tenant.as_str());
        let hash = if sequence == last.sequence { last.hash.as_str() } else { "" };
        tracing::info!(
            sequence,
            hash,
            actor = record.actor.as_str(),
            action = record.action,
            tenant = told,
            result = record.outcome.name(),
            "audit"
        );
    }
    open.last = last;
    Ok(())
}
