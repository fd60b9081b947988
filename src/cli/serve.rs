//! `tenantd serve`.

use std::{io::Write as _, path::PathBuf};

use anyhow::Context as _;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    address::{Address, default_socket},
    audit,
    config::{self, Config},
    domain::audit::action,
    server::{self, Listeners, Stop, inherited::Inherited, systemd},
    telemetry::{self, logs::LogFormat},
};

/// Linux' number of the signal for a file that would be larger than its limit.
const SIGXFSZ: i32 = 25;

/// Runs the sidecar until SIGTERM or Ctrl-C.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tenantd serve\n  tenantd serve --config /etc/tenantd.toml\n  tenantd serve --listen unix:/run/tenantd.sock --listen 127.0.0.1:7443\n  tenantd serve --take-over\n\nSIGTERM or Ctrl-C drains: new sessions are refused, live ones get until the\ndeadline; a second signal ends at once. SIGUSR2 ends without a drain: live\nsessions wait for the next sidecar. SIGHUP reloads the config file. Sockets\nthat systemd passes (LISTEN_FDS) are used."
)]
pub struct Args {
    /// Config file (TOML); without one everything runs on built-in defaults
    #[arg(long, env = "TENANTD_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where to listen, instead of the config's: unix:PATH or IP:PORT; repeatable
    #[arg(long, value_name = "ADDR")]
    pub listen: Vec<Address>,
    /// Take the place of the sidecar that runs, if one does: its listeners and its sessions
    #[arg(long)]
    pub take_over: bool,
    /// Threads that serve connections, instead of limits.threads of the config
    #[arg(long, env = "TENANTD_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: Option<u16>,
    /// Lets a crash leave a core file, and debuggers of the same user attach: it holds
    /// the tenants' keys
    #[arg(long)]
    pub allow_core_dumps: bool,
    /// How log lines look
    #[arg(long, env = "TENANTD_LOG_FORMAT", value_name = "FORMAT", default_value = "auto")]
    pub log_format: LogFormat,
}

/// Runs it.
///
/// # Errors
/// A config or a listener that does not work.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let exports = telemetry::install(args.log_format)?;
    let mut config = match &args.config {
        Some(path) => config::load(path).map_err(|wrong| anyhow::anyhow!("{wrong}"))?,
        None => Config::builtin(),
    };
    if let Some(threads) = args.threads {
        config.limits.threads = usize::from(threads);
    }
    let mut listeners = listeners(&args.listen, &config, Inherited::from_systemd()?)?;
    listeners.take_over = args.take_over;
    let tcp = listeners.tcp;
    let socket = listeners.unix.clone();
    listeners.audit = audit::default_path(|name| std::env::var(name).ok());
    let bound = server::bind(config, listeners).await?;
    let sidecar = std::sync::Arc::clone(&bound.sidecar);
    let tcp = bound.tcp_address().or(tcp);
    // Without a handler the kernel ends a process at the first write beyond a file
    // size limit; with one the write fails, as on a full disk.
    let _too_large = signal(SignalKind::from_raw(SIGXFSZ))?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut leave = signal(SignalKind::user_defined2())?;
    let on_signals = {
        let sidecar = std::sync::Arc::clone(&sidecar);
        async move {
            let mut asked = false;
            loop {
                let name = tokio::select! {
                    _ = hangup.recv() => {
                        systemd::reloading();
                        let _ = sidecar.reload("SIGHUP").await;
                        systemd::ready(&sidecar);
                        continue;
                    }
                    _ = terminate.recv() => "SIGTERM",
                    _ = interrupt.recv() => "SIGINT",
                    _ = leave.recv() => return Stop::Leave,
                };
                if asked {
                    return Stop::Now;
                }
                asked = true;
                let (drain, live) = sidecar.begin_drain(None, None).await;
                let after = json!({ "draining": true, "because": name, "live_sessions": live });
                sidecar.note_soon(action::DRAIN, json!({ "draining": false }), after);
                tracing::info!(live, deadline = ?drain.deadline, "draining; signal again to end at once");
            }
        }
    };
    let say = || {
        banner(&sidecar.config(), socket.as_deref(), tcp);
        systemd::ready(&sidecar);
    };
    let ended = bound.run(on_signals, say).await;
    let _ = tokio::task::spawn_blocking(move || drop(exports)).await;
    ended
}

fn listeners(
    asked: &[Address],
    config: &Config,
    inherited: Inherited,
) -> anyhow::Result<Listeners> {
    let mut listeners = Listeners::default();
    for address in asked {
        match address {
            Address::Unix(path) => listeners.unix = Some(path.clone()),
            Address::Tcp(place) | Address::Tls(place) => {
                let place = place.replace("localhost", "127.0.0.1");
                let address: std::net::SocketAddr = place.parse().with_context(|| {
                    format!("--listen {place} must be an IP address and a port")
                })?;
                listeners.tcp = Some(address);
            }
        }
        let wants_tls = matches!(address, Address::Tls(_));
        anyhow::ensure!(
            !wants_tls || config.listen.tls.is_some(),
            "--listen {address} needs listen.tls with cert_file and key_file in the config file"
        );
    }
    if asked.is_empty() && !inherited.activated {
        let uid = rustix::process::getuid().as_raw();
        let env = |name: &str| std::env::var(name).ok();
        let default = || match Address::resolve(env, uid) {
            Ok(Address::Unix(path)) => path,
            Ok(Address::Tcp(_) | Address::Tls(_)) | Err(_) => default_socket(env, uid),
        };
        listeners.unix = Some(config.listen.unix.clone().unwrap_or_else(default));
        listeners.tcp = config.listen.tcp;
    }
    if let Some((_, path)) = &inherited.unix {
        listeners.unix = Some(path.clone());
    }
    if let Some(listener) = &inherited.tcp {
        listeners.tcp = Some(listener.local_addr()?);
    }
    listeners.inherited = inherited;
    // The config's own address was checked with it; a flag's was not.
    if let Some(address) = listeners.tcp
        && let Some(problem) = config.listen.unsafe_at(address, &config.access)
    {
        anyhow::bail!("--listen {address} {problem}");
    }
    let identities = config.access.identities();
    if listeners.tcp.is_some() && identities.is_empty() {
        let certified = config.listen.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if certified {
            tracing::warn!("no identity is configured: nobody may call over TLS");
        } else {
            tracing::warn!(
                "TCP on loopback has no credentials: every process on this machine can call, admin calls included; [[identities]] with tokens close it"
            );
        }
    }
    let own = [0, rustix::process::getuid().as_raw()];
    let others = |of: &std::sync::Arc<crate::domain::access::Identity>| {
        !of.gids.is_empty() || of.uids.iter().any(|uid| !own.contains(uid))
    };
    let others = identities.iter().any(others);
    if others && listeners.unix.is_some() && config.listen.unix_mode & 0o066 == 0 {
        tracing::warn!(
            "identities name users or groups, and the socket's mode lets in nobody but the sidecar's own; set listen.unix_mode = \"0660\" and listen.unix_gid"
        );
    }
    Ok(listeners)
}

/// One screen: where it listens, what it loaded, how to try it.
fn banner(config: &Config, socket: Option<&std::path::Path>, tcp: Option<std::net::SocketAddr>) {
    let mut out = std::io::stderr().lock();
    let mut say = |line: String| {
        let _ = writeln!(out, "{line}");
    };
    say(format!("tenantd {} is ready", env!("CARGO_PKG_VERSION")));
    if let Some(path) = socket {
        say(format!("  listens on  unix:{}", path.display()));
    }
    if let Some(address) = tcp {
        say(format!("  listens on  {}", shown(config, address)));
    }
    match &config.path {
        Some(path) => say(format!(
            "  config      {}: {} tenants, machine cap {}",
            path.display(),
            config.tenants.len(),
            config.limits.max_sessions,
        )),
        None => {
            say("  config      none: every tenant runs on built-in defaults (--config FILE)"
                .to_owned())
        }
    }
    let address = socket.map(|path| format!("unix:{}", path.display()));
    let address = address.or(tcp.map(|at| match config.listen.tls {
        Some(_) => format!("https://{at}"),
        None => at.to_string(),
    }));
    say(format!("  try it      TENANTD_ADDRESS={} tenantd watch", address.unwrap_or_default()));
}

fn shown(config: &Config, address: std::net::SocketAddr) -> String {
    let open = config.access.identities().is_empty();
    match &config.listen.tls {
        Some(tls) if tls.client_ca_file.is_some() && tls.client_cert_required => {
            format!("https://{address}  (TLS; clients show a certificate)")
        }
        Some(tls) if tls.client_ca_file.is_some() => {
            format!("https://{address}  (TLS; clients show a certificate or a token)")
        }
        Some(_) if open => format!("https://{address}  (TLS, no credentials: loopback only)"),
        Some(_) => format!("https://{address}  (TLS; clients show a token)"),
        None if open => format!("http://{address}  (no credentials: loopback only)"),
        None => format!("http://{address}  (clients show a token; loopback only)"),
    }
}
