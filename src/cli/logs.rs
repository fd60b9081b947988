//! `tenantd logs`: JSON log lines of the sidecar and of both clients, filtered.

use std::{
    io::{BufRead, BufReader, Read as _, Write},
    path::PathBuf,
    time::Duration,
};

use serde_json::{Map, Value};

use super::text;

/// Longest line that is read; a longer one is left out and counted.
const MAX_LINE: u64 = 1024 * 1024;
/// How often a followed file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Filters JSON logs of the sidecar and of both clients.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd logs /var/log/tenantd.log --tenant acme\n  journalctl -u tenantd -o cat | tenantd logs - --tenant acme --level warn\n  tenantd logs agent.log --session AJ_000001 --human\n\nLines that are no JSON objects are left out, and counted on stderr."
)]
pub struct Args {
    /// Log file; - for standard input
    pub file: PathBuf,
    /// Only lines of this tenant
    #[arg(long)]
    pub tenant: Option<String>,
    /// Only lines of this session
    #[arg(long, value_name = "ID")]
    pub session: Option<String>,
    /// Only lines of this agent
    #[arg(long)]
    pub agent: Option<String>,
    /// Only lines of this trace
    #[arg(long, value_name = "ID")]
    pub trace: Option<String>,
    /// Only lines at this level and above
    #[arg(long, value_enum)]
    pub level: Option<Level>,
    /// For people: time, level, tags and message
    #[arg(long)]
    pub human: bool,
    /// Goes on with what is appended
    #[arg(long, short)]
    pub follow: bool,
}

/// How bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Level {
    /// Everything.
    Trace,
    /// For developers.
    Debug,
    /// Ordinary.
    Info,
    /// Worth a look.
    Warn,
    /// Something failed.
    Error,
}

impl Level {
    /// By name (the sidecar, Python) or by pino's number (Node).
    fn of(value: &Value) -> Option<Self> {
        if let Some(number) = value.as_u64() {
            return Some(match number {
                0..=19 => Self::Trace,
                20..=29 => Self::Debug,
                30..=39 => Self::Info,
                40..=49 => Self::Warn,
                _ => Self::Error,
            });
        }
        Some(match value.as_str()?.to_ascii_lowercase().as_str() {
            "trace" => Self::Trace,
            "debug" => Self::Debug,
            "info" => Self::Info,
            "warn" | "warning" => Self::Warn,
            "error" | "critical" | "fatal" => Self::Error,
            _ => return None,
        })
    }
}

impl Args {
    fn wants(&self, line: &Map<String, Value>) -> bool {
        let is = |key: &str, wanted: &Option<String>| {
            wanted
                .as_ref()
                .is_none_or(|wanted| line.get(key).and_then(Value::as_str) == Some(wanted))
        };
        is("tenant", &self.tenant)
            && is("session_id", &self.session)
            && is("agent_name", &self.agent)
            && is("trace_id", &self.trace)
            && self.level.is_none_or(|least| {
                line.get("level").and_then(Level::of).is_some_and(|level| level >= least)
            })
    }
}

/// Runs it.
///
/// # Errors
/// A file that cannot be read.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let input: Box<dyn std::io::Read> = if args.file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        let file = std::fs::File::open(&args.file)
            .map_err(|error| anyhow::anyhow!("{}: {error}", args.file.display()))?;
        Box::new(file)
    };
    let left_out = filter(args, BufReader::new(input), &mut std::io::stdout().lock())?;
    if left_out > 0 {
        writeln!(std::io::stderr().lock(), "tenantd: {left_out} lines are no JSON objects")?;
    }
    Ok(())
}

/// Passes on the lines that are asked for; returns how many were no JSON objects.
///
/// # Errors
/// Those of reading and writing.
pub fn filter(args: &Args, mut input: impl BufRead, out: &mut impl Write) -> std::io::Result<u64> {
    let (mut line, mut left_out) = (Vec::new(), 0_u64);
    loop {
        let read = (&mut input).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if read == 0 {
            if !args.follow {
                break;
            }
            std::thread::sleep(LOOK_EVERY);
            continue;
        }
        if line.last() != Some(&b'\n') {
            if line.len() as u64 >= MAX_LINE {
                input.skip_until(b'\n')?;
            } else if args.follow {
                // The rest is still being written.
                continue;
            }
        }
        match serde_json::from_slice::<Map<String, Value>>(&line) {
            Ok(object) if args.wants(&object) => {
                if args.human {
                    writeln!(out, "{}", human(&object))?;
                } else {
                    writeln!(out, "{}", text::json_line(&Value::Object(object)))?;
                }
                if args.follow {
                    out.flush()?;
                }
            }
            Ok(_) => {}
            Err(_) => left_out += u64::from(!line.trim_ascii().is_empty()),
        }
        line.clear();
    }
    Ok(left_out)
}

fn human(line: &Map<String, Value>) -> String {
    let text_of = |keys: &[&str]| {
        let found = keys.iter().find_map(|key| line.get(*key));
        found.map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let level = line.get("level").and_then(Level::of);
    // pino's is in milliseconds since the epoch.
    let millis = line.get("time").and_then(Value::as_u64).filter(|of| *of < 253_402_300_799_000);
    let time = millis.map(|of| {
        let at = std::time::UNIX_EPOCH + Duration::from_millis(of);
        humantime::format_rfc3339_millis(at).to_string()
    });
    let mut words = vec![
        time.or_else(|| text_of(&["timestamp", "time", "asctime"])).unwrap_or_default(),
        level.map_or_else(String::new, |level| format!("{level:?}").to_uppercase()),
    ];
    for tag in ["tenant", "session_id", "agent_name", "reason"] {
        if let Some(value) = text_of(&[tag]).filter(|value| !value.is_empty()) {
            words.push(format!("{tag}={value}"));
        }
    }
    words.extend(text_of(&["message", "msg"]));
    words.extend(text_of(&["detail"]).filter(|detail| !detail.is_empty()));
    text::escape(&words.join(" "))
}
