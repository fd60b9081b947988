//! Writes the journal, into the page cache: when a write has returned the kernel has
//! it, whatever becomes of this process.
//!
//! A step is recorded under the lock of the tenant that it is about, and written
//! before anybody is told of it: at the latest by `settle`, which whoever tells calls
//! first. Until then the records of several steps may wait to be written together,
//! but only where the space for them is taken already, so that a full disk is met by
//! the step itself, which is then refused. What else may fail (a disk that breaks)
//! fails with nobody told: connections end, and clients ask again.
//!
//! A file is begun anew when it has grown: everything is recorded into the new one
//! while steps go on, each of them recorded there as well, and then the old one is
//! removed. Records are whole things, so that reading both in order gives the
//! same, wherever that was cut off.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    path::PathBuf,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use parking_lot::Mutex;

use super::{
    line::{self, Begin, Line, Mark},
    read,
};
use crate::{
    app::ports::{Journal, Unrecorded},
    domain::{record::Record, session::SessionId},
};

/// A file is begun anew when it has grown by this and twice what everything took.
const GROWTH: u64 = 2 << 20;
/// Disk space that is taken beforehand, so that others who fill the disk do not
/// stop this.
const AHEAD: u64 = 2 * GROWTH;
/// Most that waits to be written together.
const MOST_WAITING: usize = 64 << 10;

/// See [`writes`].
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Writes of records since the process began: `tests/gates` holds them to what they
/// are by call.
#[must_use]
pub fn writes() -> u64 {
    WRITES.load(Ordering::Relaxed)
}

/// The files.
pub struct Files {
    writer: Mutex<Writer>,
    /// As the writer's problem: read by each acquire.
    has_problem: AtomicBool,
    /// Something waits to be written: read by each write on a connection.
    waits: AtomicBool,
    /// How often what waited could not be written.
    failures: AtomicU64,
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
    /// What is to be written next.
    buffer: Vec<u8>,
    /// Records may wait: whoever tells calls `settle`.
    batches: bool,
    /// Up to where what waits now may reach.
    room: u64,
    /// Granted by records that could not be written after they had waited.
    doubtful: HashSet<SessionId>,
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
            batches: false,
            room: 0,
            doubtful: HashSet::new(),
            lock: Some(lock),
        };
        Self {
            writer: Mutex::new(writer),
            has_problem: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            failures: AtomicU64::new(0),
            has_lost,
        }
    }

    /// From here on records may wait for [`Journal::settle`].
    pub fn batch(&self) {
        self.writer.lock().batches = true;
    }

    /// Writes what waits.
    fn write_waiting(&self, writer: &mut Writer) -> Result<(), Unrecorded> {
        if writer.buffer.is_empty() {
            return Ok(());
        }
        let granted = std::mem::take(&mut writer.buffer);
        let written = writer.write(&granted);
        if written.is_err() {
            writer.doubtful.extend(sessions(&granted));
            self.has_problem.store(true, Ordering::Release);
            self.failures.fetch_add(1, Ordering::AcqRel);
        }
        // Last: whoever tells on another thread meanwhile must wait for the write, and
        // see how it ended. None is missed, for all that record hold the writer.
        self.waits.store(false, Ordering::Release);
        writer.keep_room(granted);
        written
    }

    /// Writes one line about the file itself, behind what waits.
    fn mark(&self, writer: &mut Writer, mark: &Mark) -> Result<(), Unrecorded> {
        self.write_waiting(writer)?;
        let mut line = Vec::new();
        line::write(&mut line, mark);
        writer.write(&line).inspect_err(|_| self.has_problem.store(true, Ordering::Release))
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
        // Into the file that it belongs to; a failure has been told.
        let _ = self.write_waiting(writer);
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
        self.mark(writer, &Mark::Complete)?;
        writer.whole = writer.size;
        writer.doubtful.clear();
        if let Some(problem) = writer.problem.take() {
            tracing::info!(problem, "the state can be written again; all of it is recorded");
        }
        self.has_problem.store(false, Ordering::Release);
        writer.to_sync = true;
        Ok(())
    }

    /// Removes the files before the last complete one, once that is synced. Not under the
    /// lock: to give back what a large one has takes milliseconds. One that is begun
    /// meanwhile has a higher number.
    pub fn remove_old(&self) {
        let (folder, number) = {
            let writer = self.writer.lock();
            if writer.problem.is_some() || writer.file.is_none() {
                return;
            }
            (writer.folder.clone(), writer.number)
        };
        for (old, path) in read::files(&folder).unwrap_or_default() {
            if old < number
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
            let _ = self.mark(writer, &Mark::LeftOut { nanos });
        }
    }

    /// Leaves the state to the next: nothing is recorded from here on.
    pub fn leave(&self) {
        let writer = &mut *self.writer.lock();
        let _ = self.write_waiting(writer);
        writer.file = None;
        writer.problem = Some("it is another sidecar's by now".to_owned());
        self.has_problem.store(true, Ordering::Release);
        writer.lock = None;
    }

    /// The file that is written to.
    pub fn current(&self) -> Option<File> {
        self.writer.lock().file.as_ref()?.try_clone().ok()
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

    /// How far can be written later: where space is taken, and as far as the process
    /// may write at all.
    fn room(&self) -> u64 {
        use rustix::process::{Resource, getrlimit};
        if !self.batches || self.taken == u64::MAX {
            return 0;
        }
        let most = getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
        self.taken.min(most)
    }

    /// What is in the buffer can be written later.
    fn may_wait(&self) -> bool {
        self.buffer.len() <= MOST_WAITING && self.size + self.buffer.len() as u64 <= self.room
    }

    /// Gives the buffer back, emptied.
    fn keep_room(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.buffer = buffer;
    }

    /// Writes at the end. What is cut short is taken back.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Unrecorded> {
        let Some(file) = &mut self.file else { return Err(Unrecorded) };
        let end = self.size + bytes.len() as u64;
        WRITES.fetch_add(1, Ordering::Relaxed);
        match file.write_all_at(bytes, self.size) {
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
        let waiting = writer.buffer.len();
        if waiting == 0 {
            // Asked once for all that will wait together.
            writer.room = writer.room();
        }
        let mut at_once = false;
        for record in records {
            line::write(&mut writer.buffer, record);
            // Rare, and to be synced.
            at_once |= matches!(record, Record::Switches { .. });
        }
        writer.to_sync |= at_once;
        if !at_once && writer.may_wait() {
            self.waits.store(true, Ordering::Release);
            return Ok(());
        }
        // By itself, so that a failure is this step's alone.
        let own = writer.buffer.split_off(waiting);
        self.write_waiting(writer)?;
        let written = writer.write(&own);
        writer.keep_room(own);
        written.inspect_err(|_| self.has_problem.store(true, Ordering::Release))
    }

    fn settle(&self) -> u64 {
        if self.waits.load(Ordering::Acquire) {
            let writer = &mut *self.writer.lock();
            let _ = self.write_waiting(writer);
        }
        self.failures.load(Ordering::Acquire)
    }

    fn is_doubtful(&self, session: &SessionId) -> bool {
        self.writer.lock().doubtful.contains(session)
    }

    fn reserve(&self, sequence: u64) {
        let writer = &mut *self.writer.lock();
        writer.reserved = sequence;
        if writer.file.is_some() {
            let _ = self.mark(writer, &Mark::Reserved { sequence });
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

/// The sessions that lines grant.
fn sessions(lines: &[u8]) -> impl Iterator<Item = SessionId> {
    lines.split(|byte| *byte == b'\n').filter_map(|line| match line::read(line) {
        Ok(Line::Record(Record::Lease(lease))) => Some(lease.session.id),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use super::*;
    use crate::state;

    /// A session's record, as `tests/binary/restart.rs` has them made.
    fn lease(id: &str) -> Record {
        let time = serde_json::json!({ "mono": 1_000_000_000, "wall": 1_000_000_000 });
        let session = serde_json::json!({
            "id": id, "tenant": "acme", "agent": null, "worker": null, "state": "active",
            "acquired": time, "deadline": 60_000_000_000_u64, "ttl": 60_000_000_000_u64,
            "probe": false, "failed": false,
        });
        let ticket = serde_json::json!({ "period": 0, "probe": false });
        let lease = serde_json::json!({ "is": "lease", "session": session, "ticket": ticket });
        serde_json::from_value(lease).unwrap()
    }

    fn id(text: &str) -> SessionId {
        SessionId::parse(text).unwrap()
    }

    fn begun(folder: &Path) -> Arc<Files> {
        let files = state::open(folder).unwrap().journal;
        files.begin().unwrap();
        files.complete().unwrap();
        files
    }

    fn written(folder: &Path) -> usize {
        let (_, path) = read::files(folder).unwrap().pop().unwrap();
        fs::read(path).unwrap().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count()
    }

    #[test]
    fn steps_wait_for_each_other_until_somebody_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let files = begun(folder.path());
        let before = written(folder.path());
        files.record(&[lease("at-once")]).unwrap();
        assert_eq!(written(folder.path()), before + 1, "nobody has said that he settles");
        files.batch();
        files.record(&[lease("a")]).unwrap();
        files.record(&[lease("b")]).unwrap();
        assert_eq!(written(folder.path()), before + 1);
        assert_eq!(files.settle(), 0);
        assert_eq!(written(folder.path()), before + 3);
        // What is not told is forgotten by a kill, and nothing else.
        files.record(&[lease("untold")]).unwrap();
        drop(files);
        let found = state::open(folder.path()).unwrap().image;
        assert_eq!(found.live(), 3);
    }

    #[test]
    fn what_waits_stands_before_what_comes_later_and_stays_in_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let files = begun(folder.path());
        files.batch();
        files.record(&[lease("a")]).unwrap();
        files.reserve(4096);
        files.record(&[lease("b")]).unwrap();
        files.begin().unwrap();
        files.record(&[lease("c")]).unwrap();
        files.leave();
        drop(files);
        let found = state::open(folder.path()).unwrap();
        assert_eq!((found.image.live(), found.head, found.lost), (3, 4096, None));
    }

    #[test]
    fn no_more_waits_than_there_is_room_taken_for() {
        let folder = tempfile::tempdir().unwrap();
        let files = begun(folder.path());
        files.batch();
        let before = written(folder.path());
        for number in 0..1000 {
            files.record(&[lease(&format!("s-{number}"))]).unwrap();
            assert!(files.writer.lock().buffer.len() <= MOST_WAITING);
        }
        assert!(written(folder.path()) > before);
        // A step for which there is none is written, or refused, by itself.
        let size = files.writer.lock().size;
        files.settle();
        files.writer.lock().taken = size;
        let before = written(folder.path());
        files.record(&[lease("last")]).unwrap();
        assert_eq!(written(folder.path()), before + 1);
    }

    #[test]
    fn when_what_waited_cannot_be_written_nobody_is_told_and_its_sessions_stay_in_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let files = begun(folder.path());
        files.batch();
        files.record(&[lease("told")]).unwrap();
        assert_eq!(files.settle(), 0);
        files.record(&[lease("lost")]).unwrap();
        let (_, path) = read::files(folder.path()).unwrap().pop().unwrap();
        // As a disk that breaks: its file takes no more.
        files.writer.lock().file = Some(File::open(path).unwrap());
        assert_eq!(files.settle(), 1, "whoever was about to tell sees it");
        assert!(files.problem().is_some());
        assert!(files.is_doubtful(&id("lost")) && !files.is_doubtful(&id("told")));
        files.record(&[lease("next")]).unwrap_err();
        assert_eq!(files.settle(), 1, "once for each failure");
        files.begin().unwrap();
        files.record(&[lease("lost")]).unwrap();
        files.complete().unwrap();
        assert!(files.problem().is_none() && !files.is_doubtful(&id("lost")));
    }
}
