//! `tenantd config`.

use crate::config;

/// About the config file.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Prints the JSON Schema of the config file, for editors
    #[command(
        after_help = "Examples:\n  tenantd config schema > tenantd.schema.json\n\nTaplo and Even Better TOML take it by a first line in the config file:\n  #:schema ./tenantd.schema.json"
    )]
    Schema,
}

/// Runs it.
///
/// # Errors
/// Standard output that cannot be written to.
pub fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Schema => super::operate::line(&config::schema()),
    }
}
