//! Reads the journal files of an earlier process.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::line::{self, Begin, FORMAT, Line, Mark};
use crate::domain::record::Image;

/// Largest file that is read; one is begun anew long before.
const MAX_BYTES: u64 = 1 << 30;
const NAME: &str = "journal.";
/// Ends the name of a file that does not have all in it that happened.
const STALE: &str = ".stale";

/// What earlier processes left.
#[derive(Debug, Default, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Found {
    pub image: Image,
    pub epoch: Option<String>,
    pub rebooted: bool,
    /// Sequences of events up to this one may have been given.
    pub reserved: u64,
    /// Nanoseconds that are left out of the times of this boot.
    pub left_out: u64,
    /// The last file's number.
    pub last: u64,
}

/// A file as it was read.
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Text {
    pub number: u64,
    pub name: String,
    pub bytes: Vec<u8>,
}

impl Text {
    /// It does not have all in it that happened, as its name says.
    fn is_stale(&self) -> bool {
        self.name.ends_with(STALE)
    }
}

/// Why there is nothing to be had.
#[derive(Debug)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Error {
    Io(io::Error),
    Unreadable(String),
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The file of a number.
pub fn path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{NAME}{number:010}"))
}

/// The name of a file that does not have all in it.
pub fn stale_path(folder: &Path, number: u64) -> PathBuf {
    folder.join(format!("{NAME}{number:010}{STALE}"))
}

/// All journal files, in order.
pub fn files(folder: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|name| name.strip_prefix(NAME))
            .and_then(|rest| rest.strip_suffix(STALE).unwrap_or(rest).parse::<u64>().ok());
        found.extend(number.map(|number| (number, entry.path())));
    }
    found.sort_unstable();
    Ok(found)
}

/// The last file's number; 0 where there is none.
pub fn last(folder: &Path) -> io::Result<u64> {
    Ok(files(folder)?.last().map_or(0, |(number, _)| *number))
}

/// Reads all that matters.
///
/// # Errors
/// When a file is not what it was written as.
pub fn all(folder: &Path, boot: &str) -> Result<Found, Error> {
    let mut texts = Vec::new();
    for (number, path) in files(folder)?.into_iter().rev() {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if fs::metadata(&path)?.len() > MAX_BYTES {
            return Err(Error::Unreadable(format!("{name} is larger than {MAX_BYTES} bytes")));
        }
        let bytes = fs::read(&path)?;
        let complete = is_complete(&bytes);
        texts.push(Text { number, name, bytes });
        if complete {
            // What stands in earlier ones may be over.
            break;
        }
    }
    texts.reverse();
    together(&texts, boot).map_err(Error::Unreadable)
}

/// What files amount to that follow each other, in the boot of this id.
///
/// # Errors
/// Which one is not what it was written as, and where.
pub fn together(texts: &[Text], boot: &str) -> Result<Found, String> {
    let mut found = Found::default();
    for (at, text) in texts.iter().enumerate() {
        found.last = text.number;
        let may_end_early = at + 1 == texts.len() || text.is_stale();
        file(&text.bytes, boot, may_end_early, &mut found)
            .map_err(|problem| format!("{}: {problem}", text.name))?;
    }
    if found.rebooted || texts.last().is_some_and(Text::is_stale) {
        // Later sequences may have been given than are known of.
        (found.epoch, found.reserved) = (None, 0);
    }
    Ok(found)
}

/// Everything is in this file.
fn is_complete(bytes: &[u8]) -> bool {
    let lines = bytes.split(|byte| *byte == b'\n');
    lines.into_iter().any(|text| {
        // A look before the checksum: there are many lines.
        text.ends_with(br#""complete"}"#) && line::read(text) == Ok(Line::Mark(Mark::Complete))
    })
}

/// Takes one file over. `may_end_early`: its last line may be cut short, by a
/// write that never returned.
fn file(bytes: &[u8], boot: &str, may_end_early: bool, found: &mut Found) -> Result<(), String> {
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate();
    let wrong = |at: usize, problem: &str| format!("line {} {problem}", at + 1);
    let mut rebooted = false;
    if let Some((at, first)) = lines.next() {
        let Some(first) = first.strip_suffix(b"\n") else {
            // It had just been begun; everything is in the one before.
            return if may_end_early { Ok(()) } else { Err(wrong(at, "is cut short")) };
        };
        match line::read(first).map_err(|problem| wrong(at, problem))? {
            Line::Mark(Mark::Begin(Begin { format, epoch, boot: then, .. })) => {
                if format > FORMAT {
                    return Err(format!(
                        "is of format {format}, later than this version's {FORMAT}"
                    ));
                }
                rebooted = then.is_empty() || then != boot;
                // Also where a file of this boot was begun after it and not
                // completed: no session was admitted before that.
                found.rebooted |= rebooted;
                found.epoch = Some(epoch);
                // Said anew in each file.
                found.left_out = 0;
            }
            Line::Mark(_) | Line::Record(_) => return Err(wrong(at, "does not begin a journal")),
        }
    }
    for (at, text) in lines {
        let parsed = match text.strip_suffix(b"\n") {
            Some(text) => line::read(text),
            None if may_end_early => return Ok(()),
            None => Err("is cut short"),
        };
        match parsed {
            Ok(Line::Record(record)) => found.image.apply(record),
            Ok(Line::Mark(Mark::Reserved { sequence })) => found.reserved = sequence,
            Ok(Line::Mark(Mark::LeftOut { nanos })) if !rebooted => found.left_out = nanos,
            Ok(Line::Mark(_)) => {}
            // A machine that went down may have lost the end of the file: what
            // stands before it is what operators had set by then.
            Err(problem) if rebooted => {
                tracing::warn!(line = at + 1, problem, "the state before the reboot ends early");
                return Ok(());
            }
            Err(problem) => return Err(wrong(at, problem)),
        }
    }
    Ok(())
}
