//! Proves that a log is whole, or says what is wrong and where.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::domain::audit::action;

use super::{
    files::Files,
    line::{self, MAX_LINE, Place},
};

/// Most problems told; the rest are counted.
const MAX_PROBLEMS: usize = 1000;

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub file: PathBuf,
    /// From 1; 0 for the file as a whole.
    pub line: u64,
    /// What.
    pub message: String,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Verified {
    /// Lines read.
    pub records: u64,
    /// Files read.
    pub files: usize,
    /// First and last sequence.
    pub range: Option<(u64, u64)>,
    /// The last record's place.
    pub last: Option<Place>,
    /// What is wrong.
    pub problems: Vec<Problem>,
    /// Problems beyond those told.
    pub more: u64,
}

impl Verified {
    fn wrong(&mut self, file: &Path, line: u64, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(Problem { file: file.to_owned(), line, message });
        } else {
            self.more += 1;
        }
    }
}

/// One line as the proof needs it.
struct Seen {
    file: usize,
    line: u64,
    /// None: it is no record.
    links: Option<(u64, String)>,
    hash: String,
}

/// Proves one log. `anchors`: places noted elsewhere, that the log must have.
///
/// # Errors
/// Files that cannot be read.
pub fn verify(active: &Path, anchors: &[Place]) -> io::Result<Verified> {
    let files = Files { active: active.to_owned() };
    let log = files.read()?;
    let mut found = Verified { files: log.files.len(), ..Verified::default() };
    let (mut seen, mut kept_from, mut paths) = (Vec::new(), Vec::new(), Vec::new());
    for (index, (path, file)) in log.files.into_iter().enumerate() {
        read(index, &path, file, &mut seen, &mut kept_from, &mut found)?;
        paths.push(path);
    }
    found.records = seen.len() as u64;
    chain(&paths, &seen, &kept_from, &mut found);
    ends(&files, log.head.as_ref(), &mut found);
    let by_sequence: BTreeMap<u64, &str> =
        seen.iter().filter_map(|of| Some((of.links.as_ref()?.0, of.hash.as_str()))).collect();
    if let Some(head) = &log.head
        && found.last.as_ref().is_some_and(|last| head.sequence < last.sequence)
        && by_sequence.get(&head.sequence).is_some_and(|hash| *hash != head.hash)
    {
        let message = format!("record {}, the last that the head has, was altered", head.sequence);
        found.wrong(active, 0, message);
    }
    for anchor in anchors {
        match by_sequence.get(&anchor.sequence) {
            Some(hash) if *hash == anchor.hash => {}
            Some(_) => {
                let message = format!("record {} is another than was noted", anchor.sequence);
                found.wrong(active, 0, message);
            }
            None => {
                let message = format!("record {}, that was noted, is not here", anchor.sequence);
                found.wrong(active, 0, message);
            }
        }
    }
    Ok(found)
}

fn read(
    index: usize,
    path: &Path,
    file: io::Take<File>,
    seen: &mut Vec<Seen>,
    kept_from: &mut Vec<(u64, String)>,
    found: &mut Verified,
) -> io::Result<()> {
    let mut reader = BufReader::new(file);
    let (mut number, mut bytes) = (0, Vec::new());
    loop {
        bytes.clear();
        let max = MAX_LINE as u64 + 1;
        if (&mut reader).take(max).read_until(b'\n', &mut bytes)? == 0 {
            return Ok(());
        }
        number += 1;
        if bytes.pop_if(|byte| *byte == b'\n').is_none() {
            if bytes.len() as u64 >= max {
                reader.skip_until(b'\n')?;
                found.wrong(path, number, format!("longer than {MAX_LINE} bytes: no record"));
                continue;
            }
            let message = format!(
                "the last line is torn after {} bytes: by a crash, which the next start records, or by hand",
                bytes.len()
            );
            found.wrong(path, number, message);
            return Ok(());
        }
        let links = line::read(&bytes);
        if let Some(links) = &links
            && links.action == action::ROTATED
        {
            let oldest = &links.after["kept_from"];
            if let (Some(from), Some(prev)) = (oldest["sequence"].as_u64(), oldest["prev"].as_str())
            {
                kept_from.push((from, prev.to_owned()));
            }
        }
        let links = links.map(|links| (links.sequence, links.prev));
        seen.push(Seen { file: index, line: number, links, hash: line::hash(&bytes) });
    }
}

/// Each record follows the one before it.
fn chain(paths: &[PathBuf], seen: &[Seen], kept_from: &[(u64, String)], found: &mut Verified) {
    let mut present: Vec<u64> =
        seen.iter().filter_map(|of| of.links.as_ref().map(|(sequence, _)| *sequence)).collect();
    present.sort_unstable();
    present.dedup();
    let mut last = Place::start();
    let mut before: Option<&Seen> = None;
    for of in seen {
        let place = &paths[of.file];
        let Some((sequence, prev)) = &of.links else {
            let sequence = last.sequence.saturating_add(1);
            let message = format!("record {sequence} was altered: it is no record");
            found.wrong(place, of.line, message);
            last = Place { sequence, hash: of.hash.clone() };
            before = Some(of);
            continue;
        };
        let expected = last.sequence.saturating_add(1);
        let dropped = before.is_none()
            && *sequence > 1
            && kept_from.iter().any(|(from, hash)| from == sequence && hash == prev);
        if *sequence < expected {
            let message = format!("record {sequence} is out of order: after {}", last.sequence);
            found.wrong(place, of.line, message);
        } else if *sequence > expected && !dropped {
            gap(place, of.line, (expected, *sequence - 1), &present, found);
        } else if !dropped && *prev != last.hash {
            match before {
                Some(altered) => {
                    let message = format!(
                        "record {} was altered: record {sequence} has another hash of it",
                        last.sequence
                    );
                    found.wrong(&paths[altered.file], altered.line, message);
                }
                None => {
                    let message = format!("record {sequence} does not begin the chain");
                    found.wrong(place, of.line, message);
                }
            }
        }
        last = Place { sequence: *sequence, hash: of.hash.clone() };
        before = Some(of);
        let (first, _) = found.range.unwrap_or((*sequence, *sequence));
        found.range = Some((first, *sequence));
    }
    found.last = before.map(|_| last);
}

/// What should be between two records: elsewhere in the log, or nowhere.
fn gap(place: &Path, line: u64, (from, to): (u64, u64), present: &[u64], found: &mut Verified) {
    let said = |from: u64, to: u64| {
        if from == to { format!("record {from}") } else { format!("records {from} to {to}") }
    };
    let start = present.partition_point(|sequence| *sequence < from);
    let mut next = from;
    for here in present[start..].iter().take_while(|sequence| **sequence <= to) {
        if *here > next {
            found.wrong(place, line, format!("{} removed before this line", said(next, *here - 1)));
        }
        found.wrong(place, line, format!("record {here} should be before this line: reordered"));
        next = here.saturating_add(1);
    }
    if next <= to {
        found.wrong(place, line, format!("{} removed before this line", said(next, to)));
    }
}

/// The end is where the head says.
fn ends(files: &Files, head: Option<&Place>, found: &mut Verified) {
    let last = found.last.clone().unwrap_or_else(Place::start);
    let Some(head) = head else {
        if found.records > 0 {
            let message = "is gone: whether records were removed from the end is not known";
            found.wrong(&files.head(), 0, message.to_owned());
        }
        return;
    };
    if head.sequence > last.sequence {
        let message =
            format!("records {} to {} were removed from the end", last.sequence + 1, head.sequence);
        found.wrong(&files.active, 0, message);
    } else if head.sequence == last.sequence && head.hash != last.hash {
        let message = format!("record {}, the last, was altered", last.sequence);
        found.wrong(&files.active, 0, message);
    }
}
