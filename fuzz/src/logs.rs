//! `tenantd logs` passes on the lines that are asked for and no others, and
//! what it shows to people cannot move their terminal.

use clap::Parser;
use serde_json::{Map, Value};
use tenantd::cli::logs;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: logs::Args,
}

/// The log.
pub fn check(data: &[u8]) {
    let objects: Vec<Map<String, Value>> = data
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    let is = |line: &Map<String, Value>, key: &str, wanted: &str| {
        line.get(key).and_then(Value::as_str) == Some(wanted)
    };
    let (out, left_out) = filtered(&["-"], data);
    assert_eq!(read(&out), objects);
    let lines = data.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty());
    assert_eq!(left_out, (lines.count() - objects.len()) as u64);
    let (out, _) = filtered(&["-", "--tenant", "acme"], data);
    let wanted: Vec<_> =
        objects.iter().filter(|line| is(line, "tenant", "acme")).cloned().collect();
    assert_eq!(read(&out), wanted);
    let (out, _) = filtered(&["-", "--level", "warn"], data);
    assert!(read(&out).iter().all(|line| line.contains_key("level")));
    let (out, _) = filtered(&["-", "--human"], data);
    let shown = String::from_utf8(out).expect("is text");
    assert_eq!(shown.lines().count(), objects.len(), "a line was forged");
    assert!(!shown.chars().any(|c| c.is_control() && c != '\n'), "{shown:?}");
}

fn filtered(args: &[&str], data: &[u8]) -> (Vec<u8>, u64) {
    let cli = Cli::try_parse_from(["logs"].iter().chain(args)).expect("are arguments");
    let mut out = Vec::new();
    let left_out = logs::filter(&cli.args, data, &mut out).expect("writes to memory");
    (out, left_out)
}

fn read(out: &[u8]) -> Vec<Map<String, Value>> {
    let lines = out.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("is an object")).collect()
}
