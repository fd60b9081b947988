//! Selects records, for `tenantd audit show`.

use std::{
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::{Map, Value};

use super::{files::Files, line::MAX_LINE};

/// Which records.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Of this tenant.
    pub tenant: Option<String>,
    /// By this actor.
    pub actor: Option<String>,
    /// Of this action.
    pub action: Option<String>,
    /// At this time since the epoch, or later.
    pub since: Option<Duration>,
}

impl Wanted {
    fn has(&self, record: &Map<String, Value>) -> bool {
        let is = |key: &str, wanted: &Option<String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| record.get(key).and_then(Value::as_str) == Some(wanted))
        };
        is("tenant", &self.tenant)
            && is("actor", &self.actor)
            && is("action", &self.action)
            && self.since.is_none_or(|since| time_of(record).is_some_and(|time| time >= since))
    }
}

fn time_of(record: &Map<String, Value>) -> Option<Duration> {
    let time: SystemTime = humantime::parse_rfc3339(record.get("time")?.as_str()?).ok()?;
    time.duration_since(UNIX_EPOCH).ok()
}

/// One record.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The line as it is.
    pub line: String,
    /// Its fields.
    pub fields: Map<String, Value>,
}

/// Tells `to` the wanted records, oldest first. Lines that are none are left out:
/// `verify` tells them.
///
/// # Errors
/// Files that cannot be read; what `to` says.
pub fn show<E: From<io::Error>>(
    active: &Path,
    wanted: &Wanted,
    mut to: impl FnMut(Entry) -> Result<(), E>,
) -> Result<(), E> {
    let files = Files { active: active.to_owned() };
    for (_, file) in files.read()?.files {
        let mut reader = BufReader::new(file);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            if (&mut reader).take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes)? == 0 {
                break;
            }
            let line = String::from_utf8_lossy(bytes.trim_ascii_end()).into_owned();
            let Ok(fields) = serde_json::from_str::<Map<String, Value>>(&line) else { continue };
            if wanted.has(&fields) {
                to(Entry { line, fields })?;
            }
        }
    }
    Ok(())
}
