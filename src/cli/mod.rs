//! The command line: data on stdout, talk on stderr.

pub mod audit;
pub mod check;
pub mod client;
pub mod demo;
mod harden;
pub mod healthcheck;
pub mod logs;
pub mod operate;
mod schema;
pub mod serve;
pub mod snapshot;
pub mod tenants;
pub mod text;
mod token;
pub mod top;
pub mod watch;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser};

/// The sidecar could not be reached.
const EX_UNAVAILABLE: u8 = 69;

/// Multi-tenant runtime for AI-agent fleets, as a sidecar.
#[derive(Debug, Parser)]
#[command(
    name = "tenantd",
    version,
    max_term_width = 100,
    after_help = "Examples:\n  tenantd serve --config tenantd.toml\n  tenantd watch --tenant acme\n  tenantd suspend acme --note \"key leaked\"\n\nExit codes: 0 fine, 1 failed, 2 bad usage, 69 sidecar not reachable."
)]
pub struct Cli {
    #[command(flatten)]
    to: client::Flags,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Serve(serve::Args),
    Check(check::Args),
    #[command(subcommand)]
    Config(schema::Command),
    #[command(subcommand)]
    Token(token::Command),
    Demo(demo::Args),
    Top(top::Args),
    Watch(watch::Args),
    Healthcheck(healthcheck::Args),
    Logs(logs::Args),
    /// Proves and shows the audit log
    #[command(
        subcommand,
        after_help = "Examples:\n  tenantd audit verify\n  tenantd audit show --tenant acme --since 2h"
    )]
    Audit(audit::Command),
    #[command(flatten)]
    Operate(operate::Command),
    /// Prints completions for a shell
    #[command(
        after_help = "Examples:\n  tenantd completions bash > /etc/bash_completion.d/tenantd"
    )]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
}

/// Parses, runs, and says how it ended.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let may_dump = matches!(&cli.command, Command::Serve(args) if args.allow_core_dumps);
    if !may_dump && let Err(error) = harden::harden() {
        return fail(&anyhow::anyhow!("core dumps cannot be switched off: {error}"));
    }
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let result = runtime.block_on(run(cli));
    // A credential file on a hung mount must not hold the end up.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

/// Connections are served by threads of their own (`server/threads.rs`): what is
/// left is background work, for which two threads are plenty on any machine.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Serve(args) => serve::run(args).await,
        Command::Check(args) => check::run(args).await,
        Command::Config(command) => schema::run(&command),
        Command::Token(command) => token::run(&command),
        Command::Demo(args) => demo::run(args).await,
        Command::Top(args) => top::run(cli.to.target()?, args).await,
        Command::Watch(args) => watch::run(cli.to.target()?, args).await,
        Command::Healthcheck(args) => healthcheck::run(cli.to.target()?, args).await,
        Command::Logs(args) => logs::run(&args),
        Command::Audit(command) => audit::run(command),
        Command::Operate(command) => operate::run(cli.to.target()?, command).await,
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "tenantd", &mut std::io::stdout());
            Ok(())
        }
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    let broken_pipe = error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe);
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    let _ = writeln!(std::io::stderr().lock(), "tenantd: {error:#}");
    let unreachable = error.downcast_ref::<client::Unreachable>().is_some()
        || error.downcast_ref::<client::Closed>().is_some();
    ExitCode::from(if unreachable { EX_UNAVAILABLE } else { 1 })
}
