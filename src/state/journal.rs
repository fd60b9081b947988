//! Writes the journal. One write a step, into the page cache, under the lock of
//! the tenant that it is about: when it has returned the kernel has it, whatever
//! becomes of this process.
//!
//! A file is begun anew when it has grown: everything is recorded into the new one
//! while steps go on, each of them recorded there as well, and then the old one is
//! removed. Records are whole things, so that reading both in order gives the
//! same, wherever that was cut off.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use parking_lot::Mutex;

use super::{
    line::{self, Begin, Mark},
    read,
};
use crate::{
    app::ports::{Journal, Unrecorded},
    domain::record::Record,
};

/// A file is begun anew when it has grown by this and twice what everything took.
const GROWTH: u64 = 2 << 20;
/// Disk space that is taken beforehand, so that others who fill the disk do not
/// stop this.
const AHEAD: u64 = 2 * GROWTH;

/// The files.
pub struct Files {
    writer: Mutex<Writer>,
    /// As the writer's problem: read by each acquire.
    has_problem: AtomicBool,
    has_lost: bool,
}

struct Writer {
    folder: PathBuf,
    begin: Begin,
    /// None before the first.
    file: Option<File>,
    number: u64,
    size: u64,
    /// Space taken beforehand.
    taken: u64,
    /// What everything took when this file was begun.
    whole: u64,
    reserved: u64,
    /// Nanoseconds that the clock leaves out.
    left_out: u64,
    /// An operator's change is to be synced.
    to_sync: bool,
    problem: Option<String>,
    buffer: Vec<u8>,
    /// Held until it is left.
    lock: Option<File>,
}

impl Files {
    /// Writes after the file `last`.
    pub(super) fn new(
        folder: PathBuf,
        begin: Begin,
        (last, reserved, left_out): (u64, u64, u64),
        has_lost: bool,
        lock: File,
    ) -> Self {
        let writer = Writer {
            folder,
            begin,
            file: None,
            number: last,
            size: 0,
            taken: 0,
            whole: 0,
            reserved,
            left_out,
            to_sync: false,
            problem: None,
            buffer: Vec::new(),
            lock: Some(lock),
        };
        Self { writer: Mutex::new(writer), has_problem: AtomicBool::new(false), has_lost }
    }

    /// It is time to begin a file anew.
    pub fn is_due(&self) -> bool {
        let writer = self.writer.lock();
        writer.problem.is_some() || writer.size > GROWTH + 2 * writer.whole
    }

    /// Begins a file; everything must be recorded next, and then
    /// [`Self::complete`] called.
    ///
    /// # Errors
    /// When it cannot be written. The one before goes on, where there is one.
    pub fn begin(&self) -> io::Result<()> {
        let writer = &mut *self.writer.lock();
        writer.begin_file().inspect_err(|error| {
            if writer.file.is_none() {
                writer.fail(error);
                self.has_problem.store(true, Ordering::Release);
            }
        })
    }

    /// Everything is recorded in the file begun last.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn complete(&self) -> Result<(), Unrecorded> {
        let writer = &mut *self.writer.lock();
        writer.buffer.clear();
        line::write(&mut writer.buffer, &Mark::Complete);
        writer.flush().inspect_err(|_| self.has_problem.store(true, Ordering::Release))?;
        writer.whole = writer.size;
        if let Some(problem) = writer.problem.take() {
            tracing::info!(problem, "the state can be written again; all of it is recorded");
        }
        self.has_problem.store(false, Ordering::Release);
        writer.to_sync = true;
        Ok(())
    }

    /// Removes the files before the last complete one, once that is synced.
    pub fn remove_old(&self) {
        let writer = self.writer.lock();
        if writer.problem.is_some() || writer.file.is_none() {
            return;
        }
        for (number, path) in read::files(&writer.folder).unwrap_or_default() {
            if number < writer.number
                && let Err(error) = fs::remove_file(&path)
            {
                tracing::warn!(%error, path = %path.display(), "an old state file stays");
            }
        }
    }

    /// From here on the clock leaves out so many nanoseconds.
    pub fn leave_out(&self, nanos: u64) {
        let writer = &mut *self.writer.lock();
        if writer.left_out == nanos {
            return;
        }
        writer.left_out = nanos;
        if writer.file.is_some() {
            writer.buffer.clear();
            line::write(&mut writer.buffer, &Mark::LeftOut { nanos });
            if writer.flush().is_err() {
                self.has_problem.store(true, Ordering::Release);
            }
        }
    }

    /// Leaves the state to the next: nothing is recorded from here on.
    pub fn leave(&self) {
        let writer = &mut *self.writer.lock();
        writer.file = None;
        writer.problem = Some("it is another sidecar's by now".to_owned());
        self.has_problem.store(true, Ordering::Release);
        writer.lock = None;
    }

    /// The file and its folder, where they are to be synced now.
    pub fn to_sync(&self) -> Option<(File, PathBuf)> {
        let writer = &mut *self.writer.lock();
        let file = writer.file.as_ref().filter(|_| writer.to_sync)?.try_clone().ok()?;
        writer.to_sync = false;
        Some((file, writer.folder.clone()))
    }
}

/// Takes disk space beforehand without lengthening the file. Where the file
/// system cannot, a full disk is met later.
fn take(file: &File, from: u64) -> u64 {
    use rustix::fs::{FallocateFlags, fallocate};
    match fallocate(file, FallocateFlags::KEEP_SIZE, from, AHEAD) {
        Ok(()) => from + AHEAD,
        Err(_) => u64::MAX,
    }
}

impl Writer {
    fn begin_file(&mut self) -> io::Result<()> {
        if self.lock.is_none() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // One of this number is a try that could not be removed: it holds nothing
        // that the files before it do not.
        let number = self.number + 1;
        let path = read::path(&self.folder, number);
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let taken = take(&file, 0);
        let mut first = Vec::new();
        line::write(&mut first, &Mark::Begin(self.begin.clone()));
        line::write(&mut first, &Mark::Reserved { sequence: self.reserved });
        if self.left_out > 0 {
            line::write(&mut first, &Mark::LeftOut { nanos: self.left_out });
        }
        if let Err(error) = file.write_all_at(&first, 0) {
            let _ = fs::remove_file(path);
            return Err(error);
        }
        self.file = Some(file);
        self.number = number;
        self.size = first.len() as u64;
        self.taken = taken;
        Ok(())
    }

    /// Writes the buffer at the end. What is cut short is taken back.
    fn flush(&mut self) -> Result<(), Unrecorded> {
        let Some(file) = &mut self.file else { return Err(Unrecorded) };
        let end = self.size + self.buffer.len() as u64;
        match file.write_all_at(&self.buffer, self.size) {
            Ok(()) => {
                self.size = end;
                if self.taken.saturating_sub(end) < GROWTH / 2 {
                    self.taken = take(file, end);
                }
                Ok(())
            }
            Err(error) => {
                let _ = file.set_len(self.size);
                self.fail(&error);
                Err(Unrecorded)
            }
        }
    }

    /// From here on the file does not have all in it that happens: its name says
    /// so, which takes no space on the disk.
    fn fail(&mut self, error: &io::Error) {
        let problem = error.to_string();
        if self.problem.is_none() {
            tracing::error!(
                problem,
                folder = %self.folder.display(),
                "the state cannot be written; no new sessions are admitted until it can"
            );
            let (folder, number) = (&self.folder, self.number);
            let _ = fs::rename(read::path(folder, number), read::stale_path(folder, number));
        } else {
            // Begun while nothing was recorded: nothing in it is needed.
            let _ = fs::remove_file(read::path(&self.folder, self.number));
        }
        self.problem = Some(problem);
        self.file = None;
    }
}

impl Journal for Files {
    fn record(&self, records: &[Record]) -> Result<(), Unrecorded> {
        let writer = &mut *self.writer.lock();
        if writer.file.is_none() {
            return Err(Unrecorded);
        }
        writer.buffer.clear();
        for record in records {
            line::write(&mut writer.buffer, record);
            writer.to_sync |= matches!(record, Record::Switches { .. });
        }
        writer.flush().inspect_err(|_| self.has_problem.store(true, Ordering::Release))
    }

    fn reserve(&self, sequence: u64) {
        let writer = &mut *self.writer.lock();
        writer.reserved = sequence;
        if writer.file.is_some() {
            writer.buffer.clear();
            line::write(&mut writer.buffer, &Mark::Reserved { sequence });
            if writer.flush().is_err() {
                self.has_problem.store(true, Ordering::Release);
            }
        }
    }

    fn problem(&self) -> Option<String> {
        if !self.has_problem.load(Ordering::Acquire) {
            return None;
        }
        self.writer.lock().problem.clone()
    }

    fn has_lost(&self) -> bool {
        self.has_lost
    }
}
