//! One line of a journal: a checksum, and JSON that any tool can read.

use serde::{Deserialize, Serialize};

use crate::domain::record::Record;

/// Changes when an older version could not read what a newer one writes. Fields
/// and kinds of records may be added without.
pub const FORMAT: u32 = 1;

/// The first line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Begin {
    pub format: u32,
    pub epoch: String,
    pub boot: String,
    pub version: String,
}

impl Begin {
    /// As this version writes it.
    #[must_use]
    pub fn new(epoch: String, boot: String) -> Self {
        Self { format: FORMAT, epoch, boot, version: env!("CARGO_PKG_VERSION").to_owned() }
    }
}

/// Lines about the file itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Mark {
    Begin(Begin),
    /// Sequences of events up to this one may have been given.
    Reserved {
        sequence: u64,
    },
    /// So many nanoseconds of the machine's clock are left out of all times from
    /// here on.
    LeftOut {
        nanos: u64,
    },
    /// Everything is in this file: earlier ones are not needed.
    Complete,
    #[serde(other)]
    Other,
}

/// Either kind of line.
#[derive(Debug, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Line {
    Mark(Mark),
    Record(Record),
}

/// Appends one line to `to`.
pub fn write<T: Serialize>(to: &mut Vec<u8>, line: &T) {
    const SUM: usize = 9;
    let start = to.len();
    to.extend_from_slice(b"00000000 ");
    // Into memory, of types that have only string keys: cannot fail.
    if serde_json::to_writer(&mut *to, line).is_err() {
        to.truncate(start);
        return;
    }
    let sum = format!("{:08x}", crc32fast::hash(to.get(start + SUM..).unwrap_or_default()));
    if let Some(place) = to.get_mut(start..start + SUM - 1) {
        place.copy_from_slice(sum.as_bytes());
    }
    to.push(b'\n');
}

/// Reads one line, without its end.
///
/// # Errors
/// What is wrong with it.
pub fn read(line: &[u8]) -> Result<Line, &'static str> {
    let (sum, json) = line.split_at_checked(9).ok_or("is cut short")?;
    let sum = std::str::from_utf8(sum)
        .ok()
        .and_then(|sum| sum.strip_suffix(' '))
        .and_then(|sum| u32::from_str_radix(sum, 16).ok())
        .ok_or("has no checksum")?;
    if sum != crc32fast::hash(json) {
        return Err("has another checksum than it says");
    }
    match serde_json::from_slice(json).map_err(|_| "is of no known form")? {
        Mark::Other => serde_json::from_slice(json)
            .map(Line::Record)
            .map_err(|_| "is a record that this version cannot read"),
        mark => Ok(Line::Mark(mark)),
    }
}
