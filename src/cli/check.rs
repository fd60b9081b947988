//! `tenantd check`.

use std::{io::Write as _, path::PathBuf};

use crate::config;

/// Validates a config file and exits.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd check tenantd.toml\n\nExit code 0 when the file is fine, 1 when it is not: one line for each problem,\nwith file, line, column, key and what would be valid."
)]
pub struct Args {
    /// Config file (TOML)
    #[arg(env = "TENANTD_CONFIG", value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs it.
///
/// # Errors
/// All that is wrong with the file.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let config = config::load(&args.config).map_err(|wrong| anyhow::anyhow!("{wrong}"))?;
    writeln!(
        std::io::stdout().lock(),
        "{}: fine, {} tenants, {} agents with a cap",
        args.config.display(),
        config.tenants.len(),
        config.agents.len(),
    )?;
    Ok(())
}
