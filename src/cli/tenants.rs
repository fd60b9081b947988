//! `tenantd tenants init · import · export · set · rm`: entries in the documented
//! table of a database, which running sidecars are told of.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use serde_json::{Map, Value, json};

use super::{operate::line, text};
use crate::{
    config::{
        self, Config,
        entry::{Base, Entry, is_literal},
        source::SourceKind,
    },
    domain::tenant::TenantId,
    source::{self, sql},
};

/// Longest wait for the database.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The commands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Makes the documented table where there is none
    #[command(after_help = "Examples:\n  tenantd tenants init --database sqlite:tenants.db")]
    Init {
        #[command(flatten)]
        at: At,
    },
    /// Puts the tenants of a config file, or of a JSON object, into the table
    #[command(
        after_help = "Examples:\n  tenantd tenants import agency.toml --database sqlite:tenants.db\n  tenantd tenants import tenants.json --config tenantd.toml\n\nEntries that are there are replaced; others stay. All or nothing."
    )]
    Import {
        /// TOML in the shape of the config file, or a JSON object of entries by tenant
        file: PathBuf,
        #[command(flatten)]
        at: At,
    },
    /// Prints the table in the shape of the config file
    #[command(
        after_help = "Examples:\n  tenantd tenants export --config tenantd.toml > tenants.toml"
    )]
    Export {
        /// As one JSON object of entries by tenant
        #[arg(long)]
        json: bool,
        /// Also keys that are written in entries themselves
        #[arg(long)]
        with_keys: bool,
        #[command(flatten)]
        at: At,
    },
    /// Changes keys of one tenant's entry, made where there is none
    #[command(
        after_help = "Examples:\n  tenantd tenants set acme cap=5 --config tenantd.toml\n  tenantd tenants set acme providers.llm.provider=openai providers.llm.credential=env:ACME_KEY\n  tenantd tenants set acme cap= labels.plan=gold\n\nA value is JSON, or else a text; without one the key is removed."
    )]
    Set {
        /// Tenant id
        tenant: String,
        /// KEY=VALUE, the key as in the config file
        #[arg(required = true, value_name = "KEY=VALUE")]
        values: Vec<String>,
        #[command(flatten)]
        at: At,
    },
    /// Removes a tenant's entry
    #[command(after_help = "Examples:\n  tenantd tenants rm acme --config tenantd.toml")]
    Rm {
        /// Tenant id
        tenant: String,
        #[command(flatten)]
        at: At,
    },
}

/// Which database.
#[derive(Debug, clap::Args)]
pub struct At {
    /// Its address: sqlite:PATH or postgres://USER@HOST/NAME
    // An address may hold a password: an environment's value is not shown.
    #[arg(long, env = "TENANTD_DATABASE", hide_env_values = true, value_name = "URL")]
    database: Option<String>,
    /// Config file that names it in [[sources]]
    #[arg(long, env = "TENANTD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which of its sources, where several are databases
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Takes entries that hold keys themselves, not only references
    #[arg(long)]
    literals: bool,
}

/// An open database, and what entries are checked against.
struct Open {
    database: Arc<dyn sql::Database>,
    base: Arc<Base>,
    literals: bool,
}

impl At {
    async fn open(&self) -> anyhow::Result<Open> {
        let said = |problem: String| anyhow::anyhow!("{problem}");
        if let Some(url) = &self.database {
            anyhow::ensure!(
                ["sqlite:", "postgres://", "postgresql://"].iter().any(|s| url.starts_with(s)),
                "--database must begin with sqlite:, postgres:// or postgresql://"
            );
            let folder = std::env::current_dir()?;
            let database = sql::open(url, &folder, 1, TIMEOUT).map_err(said)?;
            // Whether the sidecar has a secret store is not known here.
            let base = Base { vault: true, folder, ..Base::clone(&Config::builtin().base) };
            return Ok(Open { database, base: Arc::new(base), literals: self.literals });
        }
        let path = self.config.as_ref().context(
            "which database? give --database URL, or --config FILE whose [[sources]] names it",
        )?;
        let config = config::load(path).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
        let mut databases = config.sources.iter().filter(|source| {
            matches!(source.kind, SourceKind::Sql { .. })
                && self.source.as_ref().is_none_or(|name| *name == source.name)
        });
        let source = databases.next().context("the config names no such database")?;
        anyhow::ensure!(
            databases.next().is_none(),
            "the config names several databases; choose one with --source NAME"
        );
        anyhow::ensure!(
            matches!(source.kind, SourceKind::Sql { query: None, .. }),
            "source {} has a query of its own: change what it reads with your own tools",
            source.name
        );
        let database = source::database(source, &config).await.map_err(said)?;
        let literals = self.literals || source.literals;
        Ok(Open { database, base: Arc::clone(&config.base), literals })
    }
}

/// Runs one.
///
/// # Errors
/// What is wrong with an entry, by key and never by value, or with the database.
pub async fn run(command: Command) -> anyhow::Result<()> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let said = |problem: String| anyhow::anyhow!("{problem}");
    match command {
        Command::Init { at } => {
            at.open().await?.database.init().await.map_err(said)?;
            line("the table tenantd_tenants is there")
        }
        Command::Import { file, at } => {
            let entries = read(&file)?;
            let open = at.open().await?;
            let mut checked = Vec::new();
            for (tenant, value) in entries {
                checked.push(open.checked(&tenant, value)?);
            }
            open.database.put(&checked).await.map_err(said)?;
            line(&format!("{} tenants imported", checked.len()))
        }
        Command::Export { json, with_keys, at } => {
            let all = at.open().await?.database.all().await.map_err(said)?;
            export(all, json, with_keys)
        }
        Command::Set { tenant, values, at } => {
            let open = at.open().await?;
            let tenant = TenantId::parse(&tenant)?;
            let mut entry = open.entry(&tenant).await?;
            for value in &values {
                let (key, text) = value
                    .split_once('=')
                    .with_context(|| "give KEY=VALUE, for example cap=5".to_owned())?;
                let path: Vec<&str> = key.split('.').collect();
                let value = (!text.is_empty()).then(|| {
                    serde_json::from_str(text).unwrap_or_else(|_| Value::from(text.to_owned()))
                });
                assign(&mut entry, &path, value)
                    .with_context(|| format!("{key} goes through a value that is no table"))?;
            }
            let checked = open.checked(tenant.as_str(), Value::Object(entry))?;
            open.database.put(&[checked]).await.map_err(said)?;
            line(&format!("{tenant} is set"))
        }
        Command::Rm { tenant, at } => {
            let tenant = TenantId::parse(&tenant)?;
            let removed = at.open().await?.database.remove(tenant.as_str()).await.map_err(said)?;
            anyhow::ensure!(removed, "tenant {tenant} has no entry in this database");
            line(&format!("{tenant} is removed"))
        }
    }
}

impl Open {
    /// What may be put: a wrong entry would refuse its tenant's sessions.
    fn checked(&self, tenant: &str, value: Value) -> anyhow::Result<(String, String)> {
        let id = TenantId::parse(tenant)?;
        anyhow::ensure!(id.as_str() == tenant, "tenant ids must not have spaces around them");
        let entry = Entry::from_json(&id, value.clone(), &self.base, self.literals)
            .and_then(|entry| entry.complete(&self.base))
            .map_err(|problem| {
                let hint =
                    if problem.contains("literals = true") { " (or --literals)" } else { "" };
                anyhow::anyhow!("tenant {tenant}: {problem}{hint}")
            });
        entry.map(|_| (tenant.to_owned(), value.to_string()))
    }

    async fn entry(&self, tenant: &TenantId) -> anyhow::Result<Map<String, Value>> {
        let all = self.database.all().await.map_err(|problem| anyhow::anyhow!("{problem}"))?;
        let mine = all.into_iter().find(|(name, _)| name == tenant.as_str());
        Ok(match mine {
            Some((_, Value::Object(entry))) => entry,
            Some(_) | None => Map::new(),
        })
    }
}

/// Entries by tenant out of a config file or a JSON object.
fn read(path: &PathBuf) -> anyhow::Result<Vec<(String, Value)>> {
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let entries: Map<String, Value> = if path.extension().is_some_and(|end| end == "json") {
        serde_json::from_str(&text).map_err(|error| {
            let (at, line) = (error.column(), error.line());
            anyhow::anyhow!("{}:{line}:{at}: must be a JSON object of entries", path.display())
        })?
    } else {
        // The whole file first: its own errors have lines.
        config::load(path).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
        let file: Value =
            toml::from_str(&text).map_err(|_| anyhow::anyhow!("{} is not TOML", path.display()))?;
        file.get("tenants").and_then(Value::as_object).cloned().unwrap_or_default()
    };
    anyhow::ensure!(!entries.is_empty(), "{} has no tenants", path.display());
    Ok(entries.into_iter().collect())
}

fn export(all: Vec<(String, Value)>, as_json: bool, with_keys: bool) -> anyhow::Result<()> {
    let mut left_out = 0;
    let tenants: Map<String, Value> = all
        .into_iter()
        .map(|(tenant, mut entry)| {
            if !with_keys {
                left_out += without_keys(&mut entry);
            }
            (tenant, entry)
        })
        .collect();
    if left_out > 0 {
        let mut out = std::io::stderr().lock();
        writeln!(out, "tenantd: {left_out} keys were left out; --with-keys prints them")?;
    }
    if as_json {
        return line(&text::json_line(&Value::Object(tenants)));
    }
    let text = toml::to_string(&json!({ "tenants": tenants }))
        .map_err(|_| anyhow::anyhow!("an entry has a value that TOML cannot hold"))?;
    line(text.trim_end())
}

/// Takes keys themselves out of an entry; how many there were.
fn without_keys(entry: &mut Value) -> usize {
    let Some(slots) = entry.get_mut("providers").and_then(Value::as_object_mut) else { return 0 };
    let mut taken = 0;
    let is_key = |value: &Value| value.as_str().is_some_and(is_literal);
    for provider in slots.values_mut().filter_map(Value::as_object_mut) {
        if provider.get("credential").is_some_and(is_key) {
            provider.remove("credential");
            taken += 1;
        }
        if let Some(named) = provider.get_mut("credentials").and_then(Value::as_object_mut) {
            let before = named.len();
            named.retain(|_, value| !is_key(value));
            taken += before - named.len();
        }
    }
    taken
}

/// Sets or removes what is at a path.
fn assign(entry: &mut Map<String, Value>, path: &[&str], value: Option<Value>) -> Option<()> {
    let [key, rest @ ..] = path else { return None };
    if rest.is_empty() {
        match value {
            Some(value) => _ = entry.insert((*key).to_owned(), value),
            None => _ = entry.remove(*key),
        }
        return Some(());
    }
    let inner = entry.entry(*key).or_insert_with(|| Value::Object(Map::new()));
    assign(inner.as_object_mut()?, rest, value)
}
