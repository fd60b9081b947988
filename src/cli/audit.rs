//! `tenantd audit`: proves and shows the audit log. Reads its files, and needs no
//! running sidecar.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{
    operate::{Output, line, list},
    text,
};
use crate::{
    audit::{self, Entry, Place, Wanted},
    config::{self, AuditPath},
};

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Proves that no record was removed, altered, moved or cut
    #[command(
        after_help = "Examples:\n  tenantd audit verify\n  tenantd audit verify /var/lib/tenantd/audit.jsonl\n  tenantd audit verify --head 1042:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n\nExit code 1 when something is not as it was written; a line for each problem. Who can\nwrite all files of the log can make a new one: --head compares with a place that was\nnoted elsewhere, as each \"audit\" line of the sidecar's log has it."
    )]
    Verify {
        #[command(flatten)]
        which: Which,
        /// A place that the log must have, SEQUENCE:HASH; repeatable
        #[arg(long, value_name = "PLACE", value_parser = place)]
        head: Vec<Place>,
        #[command(flatten)]
        output: Output,
    },
    /// Shows records, oldest first
    #[command(
        after_help = "Examples:\n  tenantd audit show --tenant acme\n  tenantd audit show --since 2h --actor uid:1000\n  tenantd audit show --json | jq 'select(.result != \"ok\")'\n\nA record that an action was begun is left out where the next says what came of it;\n--json shows all of them, as they are written."
    )]
    Show {
        #[command(flatten)]
        which: Which,
        /// Only records about this tenant
        #[arg(long)]
        tenant: Option<String>,
        /// Only those by this actor, for example uid:1000
        #[arg(long)]
        actor: Option<String>,
        /// Only those of this action, for example tenant.suspend
        #[arg(long)]
        action: Option<String>,
        /// Only those since then: a duration ago ("2h") or an RFC 3339 time
        #[arg(long, value_name = "WHEN", value_parser = since)]
        since: Option<Duration>,
        #[command(flatten)]
        output: Output,
    },
}

/// Which log.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The log [default: that of the config file, else audit.jsonl in the state folder]
    path: Option<PathBuf>,
    /// Config file whose audit.path it is, where no path is given
    #[arg(long, env = "TENANTD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Which {
    fn path(self) -> anyhow::Result<PathBuf> {
        if let Some(path) = self.path {
            return Ok(path);
        }
        let asked = match self.config {
            Some(file) => {
                config::load(&file).map_err(|wrong| anyhow::anyhow!("{wrong}"))?.audit.path
            }
            None => AuditPath::Default,
        };
        match asked {
            AuditPath::File(path) => Ok(path),
            AuditPath::Off => anyhow::bail!("the config file says that no audit log is kept"),
            AuditPath::Default => audit::default_path(|name| std::env::var(name).ok())
                .context("there is no state folder (no HOME, no XDG_STATE_HOME); give the path"),
        }
    }
}

fn place(text: &str) -> Result<Place, String> {
    Place::parse(text).ok_or_else(|| {
        "must be SEQUENCE:HASH, for example 12: and 64 hexadecimal digits".to_owned()
    })
}

fn since(text: &str) -> Result<Duration, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now.saturating_sub(ago));
    }
    humantime::parse_rfc3339_weak(text)
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .ok_or_else(|| {
            "must be a duration (\"2h\") or a time (\"2026-11-25T08:00:00Z\")".to_owned()
        })
}

/// Runs one.
///
/// # Errors
/// Files that cannot be read, and a log that is not whole.
pub fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Verify { which, head, output } => verify(which.path()?, &head, output.json),
        Command::Show { which, tenant, actor, action, since, output } => {
            let wanted = Wanted { tenant, actor, action, since };
            show(which.path()?, &wanted, output.json)
        }
    }
}

fn verify(path: PathBuf, heads: &[Place], as_json: bool) -> anyhow::Result<()> {
    let found =
        audit::verify(&path, heads).with_context(|| format!("cannot read {}", path.display()))?;
    let told = |place: &Place| format!("{}:{}", place.sequence, place.hash);
    let head = found.last.as_ref().map(told);
    let count = found.problems.len() as u64 + found.more;
    if as_json {
        let problems: Vec<_> = found
            .problems
            .iter()
            .map(|of| json!({ "file": of.file, "line": of.line, "message": of.message }))
            .collect();
        line(
            &json!({
                "path": path,
                "records": found.records,
                "files": found.files,
                "first": found.range.map(|(first, _)| first),
                "last": found.range.map(|(_, last)| last),
                "head": head,
                "problems": problems,
                "problems_left_out": found.more,
            })
            .to_string(),
        )?;
    } else {
        for of in &found.problems {
            let place = if of.line == 0 { String::new() } else { format!(":{}", of.line) };
            line(&format!("{}{place}: {}", of.file.display(), of.message))?;
        }
        if count == 0 {
            let (first, last) = found.range.unwrap_or_default();
            line(&format!(
                "{}: whole, {} records in {} files, {first} to {last}",
                path.display(),
                found.records,
                found.files
            ))?;
            line(&format!("head {}", head.unwrap_or_else(|| "none".to_owned())))?;
        }
    }
    anyhow::ensure!(count == 0, "the audit log is not as it was written: {count} problems");
    Ok(())
}

fn show(path: PathBuf, wanted: &Wanted, as_json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(path.is_file(), "there is no audit log at {}", path.display());
    let mut out = std::io::stdout().lock();
    if as_json {
        return audit::show(&path, wanted, |entry: Entry| Ok(writeln!(out, "{}", entry.line)?));
    }
    drop(out);
    let mut rows: Vec<Map<String, Value>> = Vec::new();
    audit::show::<anyhow::Error>(&path, wanted, |entry| {
        let fields = entry.fields;
        if let Some(begun) = fields.get("begun") {
            // Begun and ended are near each other.
            let at = rows.iter().rposition(|row| row.get("sequence") == Some(begun));
            at.map(|at| rows.remove(at));
        }
        rows.push(fields);
        Ok(())
    })?;
    let rows: Vec<_> = rows.into_iter().map(row).collect();
    let columns = ["sequence", "time", "actor", "action", "target", "result", "what"];
    list(&rows, &columns, false)
}

/// A record in the columns of the table.
fn row(fields: Map<String, Value>) -> Value {
    let text_of = |key: &str| fields.get(key).and_then(Value::as_str).unwrap_or_default();
    let target: Vec<_> = ["tenant", "session_id"]
        .iter()
        .map(|key| text_of(key))
        .filter(|of| !of.is_empty())
        .collect();
    let mut what: Vec<String> = Vec::new();
    if !text_of("reason").is_empty() {
        what.push(format!("{}: {}", text_of("reason"), text_of("message")));
    }
    let object = |key: &str| fields.get(key).and_then(Value::as_object);
    for (key, after) in object("after").into_iter().flatten() {
        let before = object("before").and_then(|before| before.get(key));
        if before != Some(after) {
            let was = before.map_or_else(String::new, |before| format!("{} -> ", short(before)));
            what.push(format!("{key} {was}{}", short(after)));
        }
    }
    for (key, before) in object("before").into_iter().flatten() {
        if object("after").is_none_or(|after| !after.contains_key(key)) {
            what.push(format!("{key} {} -> none", short(before)));
        }
    }
    if !text_of("note").is_empty() {
        what.push(text::value(text_of("note")));
    }
    json!({
        "sequence": fields.get("sequence"),
        "time": fields.get("time"),
        "actor": fields.get("actor"),
        "action": fields.get("action"),
        "target": target.join(" "),
        "result": fields.get("result"),
        "what": what.join(", "),
    })
}

fn short(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
