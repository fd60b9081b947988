//! `tenantd healthcheck`: for probes that cannot speak gRPC over a unix socket.

use std::{io::Write as _, time::Duration};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use super::client::{self, Target};
/// Longest wait for the answer: below the second that Kubernetes gives a probe.
const TIMEOUT: Duration = Duration::from_millis(800);

/// Asks whether the sidecar takes sessions, and tells by the exit code
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd healthcheck\n  tenantd healthcheck --address unix:/run/tenantd/tenantd.sock\n  tenantd healthcheck --alive\n\nExit code 0 when it serves, 1 when it drains or does not answer in 800 ms, 69 when nobody listens."
)]
pub struct Args {
    /// Only whether it answers: a sidecar that drains is alive
    #[arg(long)]
    pub alive: bool,
}

/// Runs it.
///
/// # Errors
/// Not serving, or not reachable.
pub async fn run(target: Target, args: Args) -> anyhow::Result<()> {
    let mut health = HealthClient::new(client::connect(&target).await?);
    let asked = health.check(HealthCheckRequest::default());
    let answer = tokio::time::timeout(TIMEOUT, asked)
        .await
        .map_err(|_| anyhow::anyhow!("the sidecar at {target} did not answer in {TIMEOUT:?}"))?
        .map_err(|status| client::refused(&status))?
        .into_inner();
    let serves = answer.status() == ServingStatus::Serving;
    anyhow::ensure!(
        serves || args.alive,
        "the sidecar at {target} takes no new sessions: {}",
        answer.status().as_str_name()
    );
    writeln!(std::io::stdout().lock(), "{}", if serves { "serving" } else { "draining" })?;
    Ok(())
}
