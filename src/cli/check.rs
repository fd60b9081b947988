//! `tenantd check`.

use std::{
    collections::BTreeSet,
    io::Write as _,
    path::PathBuf,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use serde_json::{Value, json};

use super::operate::{Output, list};
use crate::{
    app::ports::TenantConfigs as _,
    config::{self, Config},
    domain::{provider::TenantConfig, tenant::TenantId, validity::Validity},
    source,
};

/// Validates a config file and exits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd check tenantd.toml\n  tenantd check tenantd.toml --resolve\n  tenantd check tenantd.toml --resolve --tenant acme --json\n\nExit code 0 when the file is fine, 1 when it is not: one line for each problem,\nwith file, line, column, key and what would be valid. With --resolve also 1 when\na credential does not resolve; no credential is shown."
)]
pub struct Args {
    /// Config file (TOML)
    #[arg(env = "TENANTD_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
    /// Also asks the sources, and tries each credential of each tenant and the
    /// listener's certificates
    #[arg(long)]
    pub resolve: bool,
    /// Only this tenant's, also one that only a source knows; repeatable
    #[arg(long, requires = "resolve", value_name = "TENANT")]
    pub tenant: Vec<String>,
    #[command(flatten)]
    output: Output,
}

/// Runs it.
///
/// # Errors
/// All that is wrong with the file, or how many credentials do not resolve.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let config = config::load(&args.config).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
    if args.resolve {
        return resolve(config, &args.tenant, args.output.json).await;
    }
    writeln!(
        std::io::stdout().lock(),
        "{}: fine, {} tenants, {} agents with a cap, {} sources",
        args.config.display(),
        config.tenants.len(),
        config.agents.len(),
        config.sources.len(),
    )?;
    Ok(())
}

async fn resolve(config: Config, only: &[String], json: bool) -> anyhow::Result<()> {
    let config = Arc::new(ArcSwap::from_pointee(config));
    let now = config.load_full();
    let sources = source::build(&config).await?;
    let mut tenants = BTreeSet::new();
    for tenant in only {
        tenants.insert(TenantId::parse(tenant)?);
    }
    let mut rows = Vec::new();
    if only.is_empty() {
        tenants.extend(now.tenants.keys().cloned());
        for source in &now.sources {
            match listed(source, &now).await {
                Ok(more) => tenants.extend(more),
                Err(problem) => rows.push(row("-", "-", &source.name, "-", Err(problem))),
            }
        }
        if let Some(files) = &now.listen.tls {
            let tried = crate::server::check_tls(files).map_err(|error| format!("{error:#}"));
            let tried = tried.and_then(|validities| good_for(&validities));
            let shown = files.cert_file.display().to_string();
            rows.push(row("-", "-", "listen.tls", &shown, tried));
        }
        try_all(&sources, "(defaults)", &now.defaults, &mut rows).await;
    }
    for tenant in &tenants {
        let found = sources.chain.find(tenant).await.map(|found| found.config);
        match found {
            Ok(Some(config)) => try_all(&sources, tenant.as_str(), &config, &mut rows).await,
            Ok(None) => {
                let problem = "has no entry, and unknown tenants are rejected".to_owned();
                rows.push(row(tenant.as_str(), "-", "-", "-", Err(problem)));
            }
            Err(problem) => rows.push(row(tenant.as_str(), "-", "-", "-", Err(problem))),
        }
    }
    list(&rows, &["tenant", "slot", "credential", "reference", "result"], json)?;
    let failed = rows.iter().filter(|row| row["ok"] == json!(false)).count();
    anyhow::ensure!(failed == 0, "{failed} of {} do not resolve", rows.len());
    Ok(())
}

/// Tenants of a source that can list them: the documented table.
async fn listed(
    source: &config::source::SourceConfig,
    config: &Config,
) -> Result<Vec<TenantId>, String> {
    if !matches!(source.kind, config::source::SourceKind::Sql { query: None, .. }) {
        return Ok(Vec::new());
    }
    let all = source::database(source, config).await?.all().await?;
    Ok(all.iter().filter_map(|(tenant, _)| TenantId::parse(tenant).ok()).collect())
}

/// How long the listener's certificates are good; one that has ended does not do.
fn good_for(validities: &[Validity]) -> Result<String, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let told = validities.iter().map(|of| format!("{} {}", of.file, of.told(now)));
    let told = told.collect::<Vec<_>>().join(", ");
    let has_ended = validities.iter().any(|of| of.left(now).is_none());
    if has_ended { Err(told) } else { Ok(format!("resolves; {told}")) }
}

async fn try_all(
    sources: &source::Sources,
    tenant: &str,
    config: &TenantConfig,
    rows: &mut Vec<Value>,
) {
    let max = config::Limits::default().credential_bytes;
    for (slot, provider) in &config.providers {
        for (name, reference) in &provider.credentials {
            let tried = sources.credentials.secret(reference, max).await;
            let tried = tried.map(|_| "resolves".to_owned());
            rows.push(row(tenant, slot, name, &reference.to_string(), tried));
        }
    }
}

fn row(
    tenant: &str,
    slot: &str,
    credential: &str,
    reference: &str,
    tried: Result<String, String>,
) -> Value {
    json!({
        "tenant": tenant,
        "slot": slot,
        "credential": credential,
        "reference": reference,
        "ok": tried.is_ok(),
        "result": tried.unwrap_or_else(|problem| problem),
    })
}
