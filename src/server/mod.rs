//! Puts the parts together: binds, serves, drains, ends.

mod accept;
mod clock;
mod reload;
mod socket;
mod state;
pub mod systemd;
mod threads;
mod tls;

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    sync::{Semaphore, mpsc},
    task::JoinSet,
};
use tonic::service::Routes;
use tower::Layer as _;

use crate::{
    app::{
        Parts, Sidecar,
        events::EventHub,
        ports::{AuditSink, Changed, Clock as _, LogFilter, Process},
    },
    audit,
    config::{AuditPath, Config},
    domain::audit::action,
    grpc::{
        admin_service::Admin, direct::Direct, session_service::Sessions, watch_service::Watches,
    },
    source::{self, Sources, file::FileSource},
    store::memory::MemoryStore,
    telemetry::{self, export::Exports, labels::TenantLabels},
    wire::{
        self, FILE_DESCRIPTOR_SET,
        v1::{
            admin_service_server::AdminServiceServer, session_service_server::SessionServiceServer,
            watch_service_server::WatchServiceServer,
        },
    },
};

/// How often time passes for leases and breakers: the most that an expiry is
/// late.
const TICK: Duration = Duration::from_millis(50);
/// How long streams get to close by themselves at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Changes of sources that wait to be brought to their tenants.
const CHANGES: usize = 4096;

/// Most series of one metric for each tenant: reasons, outcomes with causes.
const MOST_LABELS: usize = 32;

/// The process's log.
struct Log;

impl LogFilter for Log {
    fn set(&self, filter: &str) -> Result<String, String> {
        telemetry::logs::set_filter(filter)
    }
}

/// This process.
struct ThisProcess;

impl Process for ThisProcess {
    fn resident_bytes(&self) -> Option<u64> {
        telemetry::gauges::resident_bytes()
    }
}

/// A sidecar with its listeners bound, before it serves.
pub struct Bound {
    /// The sidecar.
    pub sidecar: Arc<Sidecar>,
    sources: Sources,
    kept: state::Kept,
    unix: Option<(UnixListener, PathBuf)>,
    tcp: Option<TcpListener>,
    tls: Option<Arc<tls::Tls>>,
    config_path: Option<PathBuf>,
    /// How the config file looked when it was loaded.
    looked: reload::Look,
    scrape: Option<(TcpListener, prometheus::Registry)>,
    labels: Arc<TenantLabels>,
    exports: Exports,
}

/// Where to listen, all given.
#[derive(Debug, Clone, Default)]
pub struct Listeners {
    /// Unix socket.
    pub unix: Option<PathBuf>,
    /// TCP, with the config's TLS where it has some.
    pub tcp: Option<std::net::SocketAddr>,
    /// The audit log, where the config leaves its place open.
    pub audit: Option<PathBuf>,
}

/// Binds all listeners, so that a conflict fails at the start.
///
/// # Errors
/// What could not be bound, and what to do.
pub async fn bind(config: Config, listeners: Listeners) -> anyhow::Result<Bound> {
    let looked = config.path.as_deref().and_then(reload::look);
    let unix = match listeners.unix {
        Some(path) => Some((socket::bind(&path, &config.listen).await?, path)),
        None => None,
    };
    let tcp = match listeners.tcp {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            anyhow::anyhow!(
                "cannot listen on {address}: {error}; another process may have the port"
            )
        })?),
        None => None,
    };
    let tls = match config.listen.tls.clone() {
        Some(files) if tcp.is_some() => Some(Arc::new(tls::Tls::load(files)?)),
        Some(_) | None => None,
    };
    let limits = config.limits.clone();
    let config_path = config.path.clone();
    let clock = clock::SystemClock::default();
    let port = listeners.tcp.map(|address| address.port());
    let found = state::open(&config.state, (unix.as_ref().map(|(_, path)| path.as_path()), port))?;
    let events = Arc::new(EventHub::new(
        (limits.events_kept, limits.events_kept_bytes),
        found.epoch.clone(),
        found.head,
        Arc::clone(&found.journal),
    ));
    let store = Arc::new(MemoryStore::new(
        Arc::<EventHub>::clone(&events),
        Arc::clone(&found.journal),
        (limits.ended_remembered, limits.ended_remembered_for),
    ));
    let journal = Arc::clone(&found.journal);
    let kept = found.restore(&store, &events, clock.now()).await;
    let scraped = match config.prometheus {
        Some(address) => Some(TcpListener::bind(address).await.map_err(|error| {
            anyhow::anyhow!("telemetry.prometheus: cannot listen on {address}: {error}")
        })?),
        None => None,
    };
    let labels = Arc::new(TenantLabels::new(limits.metric_tenants));
    let mut exports = Exports::default();
    // Before the first instrument: one made earlier would record for nobody.
    let series = labels.series() * MOST_LABELS;
    let registry = telemetry::export::metrics(&mut exports, scraped.is_some(), series)?;
    let audit = audit(&config, listeners.audit, events.epoch());
    let config = Arc::new(ArcSwap::from_pointee(config));
    let sources = source::build(&config).await?;
    let sidecar = Arc::new(Sidecar::new(Parts {
        config,
        store,
        source: Arc::new(FileSource { path: config_path.clone() }),
        tenant_configs: Arc::<source::chain::Chain>::clone(&sources.chain),
        credentials: Arc::<source::credentials::Resolver>::clone(&sources.credentials),
        meter: Arc::new(telemetry::AcquireTimes::new(Arc::clone(&labels))),
        log: Arc::new(Log),
        audit,
        clock: Arc::new(clock),
        process: Arc::new(ThisProcess),
        journal,
        events,
    }));
    let scrape = scraped.zip(registry);
    Ok(Bound {
        sidecar,
        sources,
        kept,
        unix,
        tcp,
        tls,
        config_path,
        looked,
        scrape,
        labels,
        exports,
    })
}

/// The audit log, where one is kept.
fn audit(config: &Config, default: Option<PathBuf>, epoch: &str) -> Arc<dyn AuditSink> {
    let path = match &config.audit.path {
        AuditPath::File(path) => path.clone(),
        AuditPath::Off => return Arc::new(audit::Off),
        AuditPath::Default => match default {
            Some(path) => path,
            None => {
                tracing::warn!(
                    "no audit log is kept: there is no state folder (set audit.path, or HOME)"
                );
                return Arc::new(audit::Off);
            }
        },
    };
    let settings =
        audit::Settings { path, max_bytes: config.audit.max_bytes, keep: config.audit.keep };
    Arc::new(audit::AuditLog::new(settings, epoch))
}

impl Bound {
    /// The TCP address, with its real port.
    #[must_use]
    pub fn tcp_address(&self) -> Option<std::net::SocketAddr> {
        self.tcp.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// Serves until a drain has ended or `force` tells to end at once. `ready`
    /// is called when calls are answered.
    ///
    /// # Errors
    /// The server's own.
    pub async fn run(
        self,
        force: impl Future<Output = ()> + Send,
        ready: impl FnOnce(),
    ) -> anyhow::Result<()> {
        let Self {
            sidecar,
            sources,
            kept,
            unix,
            tcp,
            tls,
            config_path,
            looked,
            scrape,
            labels,
            exports,
        } = self;
        let limits = sidecar.config().limits.clone();
        let socket_path = unix.as_ref().map(|(_, path)| path.clone());
        let (closed, closings) = mpsc::unbounded_channel();
        let places = Arc::new(Semaphore::new(limits.max_connections));
        let mut tasks = JoinSet::new();
        let (told, changes) = mpsc::channel(CHANGES);
        // Tenants that came back are brought to the config as it is now.
        let _ = told.try_send(Changed::All);
        tasks.spawn(Arc::clone(&sources.chain).watch(told));
        tasks.spawn(Arc::clone(&sidecar).follow_sources(changes));
        tasks.spawn(Arc::clone(&sidecar).tell_workers());
        note(&sidecar, action::START, started(&sidecar)).await;
        tasks.spawn(Arc::clone(&sidecar).record_changes());
        tasks.spawn(systemd::follow(Arc::clone(&sidecar)));
        if let Some(vault) = sources.vault {
            tasks.spawn(vault.keep_login());
        }
        tasks.spawn(accept::bury(Arc::clone(&sidecar), closings));
        tasks.spawn(pass_time(Arc::clone(&sidecar)));
        tasks.spawn(kept.clone().keep());
        let latest = telemetry::latest();
        tasks.spawn(telemetry::follow(Arc::clone(&sidecar), labels, Arc::clone(&latest)));
        if let Some((listener, registry)) = scrape {
            let sidecar = Arc::clone(&sidecar);
            tasks.spawn(telemetry::scrape::serve(listener, registry, sidecar, latest));
        }
        if let Some(path) = config_path {
            tasks.spawn(reload::on_change(Arc::clone(&sidecar), path, looked));
        }
        let (health, health_service) = tonic_health::server::health_reporter();
        let max = limits.message_bytes;
        let rest = Routes::new(health_service)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(
                WatchServiceServer::new(Watches(Arc::clone(&sidecar)))
                    .max_decoding_message_size(max),
            )
            .add_service(
                AdminServiceServer::new(Admin(Arc::clone(&sidecar))).max_decoding_message_size(max),
            )
            .prepare();
        let sessions = SessionServiceServer::new(Sessions(Arc::clone(&sidecar)))
            .max_decoding_message_size(max);
        let meter = opentelemetry::global::meter(telemetry::names::SCOPE);
        let stack = telemetry::rpc::RpcLayer::new(&meter, wire::methods()).layer(Direct::new(
            sessions,
            rest,
            Handle::current(),
        ));
        let threads = threads::start(&stack, &limits, &sidecar.on_end())?;
        let accept = accept::Accept {
            sidecar: Arc::clone(&sidecar),
            doors: threads.doors.clone(),
            closed,
            places,
        };
        let mut accepting = JoinSet::new();
        if let Some((listener, _)) = unix {
            accepting.spawn(accept.clone().unix(listener));
        }
        match (tcp, tls) {
            (Some(listener), Some(tls)) => {
                tasks.spawn(Arc::clone(&tls).follow(Arc::clone(&sidecar)));
                accepting.spawn(accept.clone().tls(listener, tls));
            }
            (Some(listener), None) => _ = accepting.spawn(accept.clone().tcp(listener)),
            (None, _) => {}
        }
        drop(accept);
        set_health(&health, true).await;
        tasks.spawn(kept.clone().tell_health(Arc::clone(&sidecar), health.clone()));
        ready();
        let drained = drained(&sidecar, &health);
        tokio::select! {
            () = drained => {}
            () = force => tracing::warn!("ending at once"),
        }
        sidecar.end_streams();
        if let Some(path) = socket_path {
            let _ = fs::remove_file(path);
        }
        // Nobody is let in any more, before the doors close.
        accepting.shutdown().await;
        threads.end(CLOSE_TIMEOUT).await;
        // What operators began is recorded to its end before the end is.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sidecar.end_actions()).await;
        let left = json!({ "live_sessions": sidecar.live().await });
        note(&sidecar, action::END, left).await;
        tasks.shutdown().await;
        kept.close();
        // The last figures are sent by threads that may wait for a collector.
        let _ = tokio::task::spawn_blocking(move || drop(exports)).await;
        Ok(())
    }
}

/// Records a start or an end. A disk that hangs must hold up neither.
async fn note(sidecar: &Sidecar, action: &'static str, after: Value) {
    let note = sidecar.note(action, Value::Null, after);
    if tokio::time::timeout(CLOSE_TIMEOUT, note).await.is_err() {
        tracing::warn!(action, "the audit log takes long to write; it is not waited for");
    }
}

/// What the audit log says of a start.
fn started(sidecar: &Sidecar) -> Value {
    let config = sidecar.config();
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "config": config.path.as_ref().map(|path| path.display().to_string()),
        "tenants": config.tenants.len(),
    })
}

type Reporter = tonic_health::server::HealthReporter;

async fn set_health(health: &Reporter, serving: bool) {
    let status = if serving {
        tonic_health::ServingStatus::Serving
    } else {
        tonic_health::ServingStatus::NotServing
    };
    let services =
        ["", "tenantd.v1.SessionService", "tenantd.v1.WatchService", "tenantd.v1.AdminService"];
    for service in services {
        health.set_service_status(service, status).await;
    }
}

/// Waits for a drain, and then for its last session or its deadline.
async fn drained(sidecar: &Arc<Sidecar>, health: &Reporter) {
    let mut began = sidecar.on_drain();
    let deadline = match began.wait_for(Option::is_some).await.map(|drain| *drain) {
        Ok(Some(drain)) => drain.deadline,
        Ok(None) | Err(_) => return,
    };
    set_health(health, false).await;
    let wait = async {
        let mut head = sidecar.events.subscribe();
        while sidecar.live().await > 0 {
            if head.changed().await.is_err() {
                return;
            }
        }
    };
    if tokio::time::timeout(deadline, wait).await.is_err() {
        let ended = sidecar.end_all().await;
        tracing::warn!(sessions = ended, "drain deadline passed; live sessions were ended");
    }
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

async fn pass_time(sidecar: Arc<Sidecar>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        sidecar.tick().await;
    }
}
