//! One line of a journal: a checksum, and JSON that any tool can read.

use std::io::Write as _;

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
    let sum = crc32fast::hash(to.get(start + SUM..).unwrap_or_default());
    if let Some(mut place) = to.get_mut(start..start + SUM - 1) {
        // Eight digits for eight places.
        let _ = write!(place, "{sum:08x}");
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A lease's line, with everything that may be left out.
    const WHOLE: &str = r#"{"is":"lease","session":{"id":"s-1","tenant":"acme","owner":{"identity":null,"lease":null},"agent":null,"worker":null,"state":"active","acquired":{"mono":5,"wall":7},"deadline":60,"ttl":50,"probe":false,"failed":false},"ticket":{"period":3,"probe":false},"held":false,"sampled":false,"healthy_at":null,"failure":null}"#;
    const SHORT: &str = r#"{"is":"lease","session":{"id":"s-1","tenant":"acme","state":"active","acquired":{"mono":5,"wall":7},"deadline":60,"ttl":50},"ticket":{"period":3}}"#;

    fn summed(json: &str) -> Vec<u8> {
        format!("{:08x} {json}", crc32fast::hash(json.as_bytes())).into_bytes()
    }

    #[test]
    fn what_says_nothing_is_not_written_and_is_read_with_and_without() {
        let whole = read(&summed(WHOLE)).unwrap();
        assert_eq!(read(&summed(SHORT)).unwrap(), whole);
        let Line::Record(record) = whole else { panic!("{whole:?}") };
        let mut written = Vec::new();
        write(&mut written, &record);
        assert_eq!(written.strip_suffix(b"\n"), Some(&summed(SHORT)[..]));
    }

    #[test]
    fn what_says_something_comes_back() {
        for (from, to) in [
            (r#""identity":null"#, r#""identity":"ci""#),
            (r#""agent":null"#, r#""agent":"desk""#),
            (r#""worker":null"#, r#""worker":"w-1""#),
            (
                r#""wall":7},"deadline":60,"ttl":50,"probe":false"#,
                r#""wall":7},"deadline":60,"ttl":50,"probe":true"#,
            ),
            (r#""failed":false"#, r#""failed":true"#),
            (r#""period":3,"probe":false"#, r#""period":3,"probe":true"#),
            (r#""held":false"#, r#""held":true"#),
            (r#""sampled":false"#, r#""sampled":true"#),
            (r#""healthy_at":null"#, r#""healthy_at":9"#),
            (r#""failure":null"#, r#""failure":{"slot":"llm","kind":"timeout","message":""}"#),
        ] {
            let changed = WHOLE.replace(from, to);
            assert_ne!(changed, WHOLE, "{from}");
            let read_as = read(&summed(&changed)).unwrap();
            let Line::Record(record) = &read_as else { panic!("{read_as:?}") };
            let mut written = Vec::new();
            write(&mut written, record);
            let again = read(written.strip_suffix(b"\n").unwrap()).unwrap();
            assert_eq!(again, read_as, "{to}");
            assert_ne!(again, read(&summed(WHOLE)).unwrap(), "{to}");
        }
    }
}
