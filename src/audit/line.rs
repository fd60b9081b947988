//! One record as a line, and how lines hang together: each has the SHA-256 of the
//! line before it, without its newline. `sha256sum` can check it by hand.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::domain::audit::{Outcome, Record};

/// Largest line; what would make it longer is left out, and that is said.
pub const MAX_LINE: usize = 64 * 1024;

/// A record's place in the chain: its sequence and its line's hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// From 1, without gaps.
    pub sequence: u64,
    /// Of the line, in hex.
    pub hash: String,
}

impl Place {
    /// Before the first record.
    #[must_use]
    pub fn start() -> Self {
        Self { sequence: 0, hash: "0".repeat(64) }
    }

    /// As the head file and `--head` have it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (sequence, hash) = text.trim_end().split_once([':', ' '])?;
        let hash = hash.to_ascii_lowercase();
        let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
        Some(Self { sequence: sequence.parse().ok()?, hash }).filter(|_| is_hash)
    }

    /// As [`Self::parse`] reads it, always of the same length: the head file is
    /// overwritten in place, which needs no room on a full disk.
    #[must_use]
    pub fn line(&self) -> String {
        format!("{:020} {}\n", self.sequence, self.hash)
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn hash(line: &[u8]) -> String {
    Sha256::digest(line).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Serialize)]
struct Line<'a> {
    sequence: u64,
    time: String,
    run: &'a str,
    actor: &'a str,
    action: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<&'a str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    note: &'a str,
    #[serde(skip_serializing_if = "Value::is_null")]
    asked: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    before: &'a Value,
    #[serde(skip_serializing_if = "Value::is_null")]
    after: &'a Value,
    result: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    begun: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    prev: &'a str,
}

/// The line of a record after `last`, without its newline.
#[must_use]
pub fn write(record: &Record, run: &str, last: &Place) -> String {
    let (reason, message) = match &record.outcome {
        Outcome::Refused { reason, message } => (Some(reason.name()), Some(cut(message))),
        Outcome::Begun | Outcome::Done => (None, None),
    };
    let time = UNIX_EPOCH + record.at.min(Duration::from_secs(253_402_300_799));
    let mut line = Line {
        sequence: last.sequence.saturating_add(1),
        time: humantime::format_rfc3339_millis(time).to_string(),
        run,
        actor: &record.actor,
        action: record.action,
        tenant: record.tenant.as_ref().map(|tenant| tenant.as_str()),
        session_id: record.session.as_ref().map(|session| session.as_str()),
        note: &record.note,
        asked: &record.asked,
        before: &record.before,
        after: &record.after,
        result: record.outcome.name(),
        reason,
        message,
        begun: record.begun,
        trace_id: record.trace.map(|of| format!("{:032x}", of.trace)),
        prev: &last.hash,
    };
    // Strings, numbers and maps with string keys: nothing that JSON cannot hold.
    let whole = serde_json::to_string(&line).unwrap_or_default();
    if whole.len() <= MAX_LINE {
        return whole;
    }
    let left_out = json!({ "left_out": format!("the record would have {} bytes", whole.len()) });
    (line.asked, line.before, line.after) = (&Value::Null, &Value::Null, &left_out);
    serde_json::to_string(&line).unwrap_or_default()
}

fn cut(message: &str) -> &str {
    &message[..message.floor_char_boundary(4096)]
}

/// What the chain is checked by.
#[derive(Debug, Deserialize)]
pub struct Links {
    /// Its place.
    pub sequence: u64,
    /// Hash of the line before.
    pub prev: String,
    /// What it is about.
    pub action: String,
    /// What is there now.
    #[serde(default)]
    pub after: Value,
}

/// A line's links; none where it is no record.
#[must_use]
pub fn read(line: &[u8]) -> Option<Links> {
    serde_json::from_slice(line).ok()
}
