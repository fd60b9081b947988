//! Puts the parts together: binds, serves, drains, ends.

mod accept;
mod clock;
mod descriptors;
mod hand_over;
pub mod inherited;
mod listener;
mod reload;
mod scrapes;
mod socket;
mod state;
pub mod systemd;
mod threads;
mod tls;

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, UnixListener},
    runtime::Handle,
    sync::{Semaphore, mpsc, watch},
    task::JoinSet,
};
use tonic::service::Routes;
use tower::Layer as _;

use self::{inherited::Inherited, listener::Listener};
use crate::{
    app::{
        Parts, Sidecar,
        events::{EventHub, PACE},
        ports::{AuditSink, Changed, LogFilter, Process},
    },
    audit,
    config::{AuditPath, Config},
    domain::{audit::action, validity::Validity},
    grpc::{
        admin_service::Admin,
        direct::{Calls, Direct},
        session_service::Sessions,
        watch_service::Watches,
        work,
    },
    source::{self, Sources, file::FileSource},
    store::memory::MemoryStore,
    telemetry::{self, export::Exports, labels::TenantLabels},
    transport::{account::Share, crowd::Crowd},
    wire::{
        self, FILE_DESCRIPTOR_SET, served::session_service_server::SessionServiceServer,
        served::watch_service_server::WatchServiceServer,
        v1::admin_service_server::AdminServiceServer,
    },
};

/// How often time passes for leases and breakers: the most that an expiry is
/// late.
const TICK: Duration = Duration::from_millis(50);
/// How long streams get to close by themselves at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Calls are over when none is under way at so many looks.
const QUIET_LOOKS: u32 = 3;
const QUIET_EVERY: Duration = Duration::from_millis(10);
/// And where another sidecar waits to serve in this one's place.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Calls other than agents' that one peer may have under way: their answers are large.
const OPERATORS_CALLS: u32 = 500;
/// Of these beside watchers, where there may be many: it is `limits.max_watchers` that
/// says how many there are.
const BESIDE_WATCHERS: u32 = 100;

/// Changes of sources that wait to be brought to their tenants.
const CHANGES: usize = 4096;

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

/// Traces and times the calls over streams as those of their own.
struct Metered(telemetry::rpc::Streamed);

impl work::CallMeter for Metered {
    fn observe(
        &self,
        method: &'static str,
        traceparent: String,
        call: work::Working,
    ) -> work::Observed {
        self.0.observe(method, traceparent, call)
    }
}

/// A sidecar with its listeners bound, before it serves.
pub struct Bound {
    /// The sidecar.
    pub sidecar: Arc<Sidecar>,
    sources: Sources,
    kept: state::Kept,
    offer: Option<hand_over::Offer>,
    unix: Option<(UnixListener, socket::Place)>,
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
#[derive(Debug, Default)]
pub struct Listeners {
    /// Unix socket.
    pub unix: Option<PathBuf>,
    /// TCP, with the config's TLS where it has some.
    pub tcp: Option<std::net::SocketAddr>,
    /// The audit log, where the config leaves its place open.
    pub audit: Option<PathBuf>,
    /// Those that are open already.
    pub inherited: Inherited,
    /// Takes the place of the sidecar that runs, if one does.
    pub take_over: bool,
}

/// How it ends before a drain has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Now.
    Now,
    /// Once the calls that are there are answered; live sessions wait for the next
    /// sidecar.
    Leave,
}

/// The files of the listener's TLS do, for so long.
///
/// # Errors
/// Which does not, and why.
pub fn check_tls(files: &crate::config::ListenTls) -> anyhow::Result<Vec<Validity>> {
    tls::Tls::load(files.clone()).map(|tls| tls.validities().to_vec())
}

/// Binds all listeners, so that a conflict fails at the start.
///
/// # Errors
/// What could not be bound, and what to do.
pub async fn bind(config: Config, listeners: Listeners) -> anyhow::Result<Bound> {
    let looked = config.path.as_deref().and_then(reload::look);
    let Listeners { unix, tcp, audit: default_audit, mut inherited, take_over } = listeners;
    let place = (unix.as_deref(), tcp.map(|address| address.port()));
    let folder = state::place(&config.state, place);
    let mut predecessor = None;
    if take_over {
        let folder = folder.as_deref().context("--take-over needs a state directory")?;
        if let Some((before, sockets)) = hand_over::ask(folder).await? {
            predecessor = Some(before);
            inherited = sockets;
        }
    }
    let activated = inherited.activated;
    let unix = match unix {
        Some(path) => {
            let listener = match inherited.take_unix(&path)? {
                Some(listener) => listener,
                None => socket::bind(&path, &config.listen).await?,
            };
            Some((listener, socket::Place::of(path, !activated)))
        }
        None => None,
    };
    let tcp = match tcp {
        Some(address) => Some(listen(&mut inherited.tcp, address).await.map_err(|error| {
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
    let scraped = match config.prometheus {
        Some(address) => {
            Some(listen(&mut inherited.prometheus, address).await.map_err(|error| {
                anyhow::anyhow!("telemetry.prometheus: cannot listen on {address}: {error}")
            })?)
        }
        None => None,
    };
    let limits = config.limits.clone();
    let config_path = config.path.clone();
    let labels = Arc::new(TenantLabels::new(limits.metric_tenants));
    let mut exports = Exports::default();
    // Before the first instrument: one made earlier would record for nobody.
    let registry = telemetry::export::metrics(&mut exports, scraped.is_some(), labels.most())?;
    let config = Arc::new(ArcSwap::from_pointee(config));
    let sources = source::build(&config).await?;
    if let Some(predecessor) = predecessor {
        // All that may fail has not.
        let pid = predecessor.pid;
        predecessor.leaves().await?;
        tracing::info!(pid, "took the place of the sidecar that ran");
        if let Some((_, path)) = &inherited.unix {
            // It listened elsewhere.
            let _ = std::fs::remove_file(path);
        }
    }
    let found = if take_over { state::open_left(folder).await? } else { state::open(folder)? };
    let clock = Arc::new(clock::SystemClock::after(found.left_out));
    let offer = match &found.folder {
        Some(folder) => {
            let goods = hand_over::Goods {
                unix: match &unix {
                    Some((listener, place)) => {
                        Some((listener.as_fd().try_clone_to_owned()?, place.path.clone()))
                    }
                    None => None,
                },
                tcp: duplicate(tcp.as_ref())?,
                prometheus: duplicate(scraped.as_ref())?,
            };
            let offer = hand_over::Offer::open(folder, goods);
            offer
                .inspect_err(|error| tracing::warn!(%error, "nobody can take this one's place"))
                .ok()
        }
        None => None,
    };
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
    let kept = found.restore(&store, &events, &clock).await;
    let audit = audit(&config.load(), default_audit, events.epoch());
    let sidecar = Arc::new(Sidecar::new(Parts {
        config,
        store,
        source: Arc::new(FileSource { path: config_path.clone() }),
        tenant_configs: Arc::<source::chain::Chain>::clone(&sources.chain),
        credentials: Arc::<source::credentials::Resolver>::clone(&sources.credentials),
        meter: Arc::new(telemetry::AcquireTimes::new(Arc::clone(&labels))),
        log: Arc::new(Log),
        audit,
        clock,
        process: Arc::new(ThisProcess),
        journal,
        events,
    }));
    let scrape = scraped.zip(registry);
    Ok(Bound {
        sidecar,
        sources,
        kept,
        offer,
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

async fn listen(
    inherited: &mut Option<std::net::TcpListener>,
    address: std::net::SocketAddr,
) -> std::io::Result<TcpListener> {
    match inherited::take_tcp(inherited, address)? {
        Some(listener) => Ok(listener),
        None => TcpListener::bind(address).await,
    }
}

fn duplicate(listener: Option<&TcpListener>) -> std::io::Result<Option<OwnedFd>> {
    listener.map(|listener| listener.as_fd().try_clone_to_owned()).transpose()
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
        force: impl Future<Output = Stop> + Send,
        ready: impl FnOnce(),
    ) -> anyhow::Result<()> {
        let Self {
            sidecar,
            sources,
            kept,
            offer,
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
        let (closed, closings) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        let (told, changes) = mpsc::channel(CHANGES);
        // Tenants that came back are brought to the config as it is now.
        let _ = told.try_send(Changed::All);
        tasks.spawn(Arc::clone(&sources.chain).watch(told));
        tasks.spawn(Arc::clone(&sidecar).follow_sources(changes));
        tasks.spawn(Arc::clone(&sidecar).tell_workers());
        tasks.spawn(Arc::clone(&sidecar.events).ring());
        note(&sidecar, action::START, started(&sidecar)).await;
        tasks.spawn(Arc::clone(&sidecar).record_changes());
        tasks.spawn(systemd::follow(Arc::clone(&sidecar)));
        if let Some(vault) = sources.vault {
            tasks.spawn(vault.keep_login());
        }
        tasks.spawn(accept::bury(Arc::clone(&sidecar), closings));
        tasks.spawn(pass_time(Arc::clone(&sidecar), kept.clone()));
        tasks.spawn(kept.clone().keep());
        let latest = telemetry::latest();
        tasks.spawn(telemetry::follow(Arc::clone(&sidecar), labels, Arc::clone(&latest)));
        if let Some((listener, registry)) = scrape {
            let router = telemetry::scrape::router(registry, Arc::clone(&sidecar), latest);
            let sidecar = Arc::clone(&sidecar);
            tasks.spawn(scrapes::serve(listener, router, sidecar, limits.clone()));
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
                WatchServiceServer::new(Watches::new(Arc::clone(&sidecar)))
                    .max_decoding_message_size(max),
            )
            .add_service(
                AdminServiceServer::new(Admin(Arc::clone(&sidecar))).max_decoding_message_size(max),
            )
            .prepare();
        let meter = opentelemetry::global::meter(telemetry::names::SCOPE);
        let observed = telemetry::rpc::RpcLayer::new(&meter, wire::methods());
        let streamed = Arc::new(Metered(observed.streamed()));
        let sessions = SessionServiceServer::new(Sessions::new(Arc::clone(&sidecar), streamed))
            .max_decoding_message_size(max);
        let calls = Calls::default();
        let stack = observed.layer(Direct::new(sessions, rest, Handle::current(), calls.clone()));
        let (stop, leave) = (watch::Sender::new(false), watch::Sender::new(false));
        let threads =
            threads::start(&sidecar, &stack, &limits, &kept.batched(), &leave.subscribe())?;
        let most = places(limits.max_connections, &unix, &tcp);
        let accept = |crowd| accept::Accept {
            sidecar: Arc::clone(&sidecar),
            doors: threads.doors.clone(),
            closed: closed.clone(),
            handshake_timeout: limits.handshake_timeout,
            most,
            // Each listener's own, so that nobody from afar takes the places of
            // agents here.
            places: Arc::new(Semaphore::new(most)),
            crowd,
            shed: 0,
            stop: stop.subscribe(),
        };
        let share = Share {
            calls: limits.calls_per_peer,
            operators: OPERATORS_CALLS.max(limits.max_watchers.saturating_add(BESIDE_WATCHERS)),
            partial: limits.partial_bytes,
        };
        let mut accepting = JoinSet::new();
        let socket = match unix {
            Some((listener, place)) => {
                let crowd = Crowd::of_processes(limits.connections_per_peer, share);
                let listener = Listener::new(listener.into_std()?)?;
                accepting.spawn(accept(crowd).unix(listener));
                Some(place)
            }
            None => None,
        };
        if let Some(listener) = tcp {
            let listener = Listener::new(listener.into_std()?)?;
            let loopback = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
            let crowd = Crowd::of_addresses(limits.connections_per_peer, most, loopback, share);
            match tls {
                Some(tls) => {
                    tasks.spawn(Arc::clone(&tls).follow(Arc::clone(&sidecar)));
                    accepting.spawn(accept(crowd).tls(listener, tls));
                }
                None => _ = accepting.spawn(accept(crowd).tcp(listener)),
            }
        }
        drop(closed);
        set_health(&health, true).await;
        tasks.spawn(kept.clone().tell_health(Arc::clone(&sidecar), health.clone()));
        ready();
        let taken = async {
            match &offer {
                Some(offer) => offer.taken().await,
                None => std::future::pending().await,
            }
        };
        let drained = drained(&sidecar, &health);
        let mut patience = CLOSE_TIMEOUT;
        let successor = tokio::select! {
            () = drained => None,
            stop = force => {
                match stop {
                    Stop::Now => tracing::warn!("ending at once"),
                    Stop::Leave => tracing::info!("ending; live sessions wait for the next sidecar"),
                }
                None
            }
            successor = taken => {
                tracing::info!("another sidecar takes over");
                patience = LEAVE_TIMEOUT;
                Some(successor)
            }
        };
        // Nobody is let in any more, before the doors close.
        stop.send_replace(true);
        let accepted = async { while accepting.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(patience, accepted).await;
        accepting.shutdown().await;
        if successor.is_none()
            && let Some(place) = socket
        {
            place.remove();
        }
        // Connections are told to go, and what was asked on them is answered; then
        // streams end with the last of what there is to tell.
        leave.send_replace(true);
        let _ = tokio::time::timeout(patience, quiet(&calls)).await;
        sidecar.end_streams();
        threads.end(patience).await;
        // What operators began is recorded to its end before the end is.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, sidecar.end_actions()).await;
        let left = json!({ "live_sessions": sidecar.live().await });
        note(&sidecar, action::END, left).await;
        // Whoever reads the event log looks once more.
        tokio::time::sleep(2 * PACE).await;
        tasks.shutdown().await;
        kept.leave();
        drop(successor);
        // The last figures are sent by threads that may wait for a collector.
        let _ = tokio::task::spawn_blocking(move || drop(exports)).await;
        Ok(())
    }
}

/// Places for connections on each listener.
fn places<U, T>(wanted: usize, unix: &Option<U>, tcp: &Option<T>) -> usize {
    let limit = descriptors::raise();
    let listeners = usize::from(unix.is_some()) + usize::from(tcp.is_some());
    let places = descriptors::places(wanted, listeners, limit);
    if places < wanted {
        tracing::warn!(
            files = limit,
            limits.max_connections = wanted,
            "the process may open too few files for limits.max_connections: {places} connections are served on each listener; raise the limit (ulimit -n, LimitNOFILE=) or lower the bound"
        );
    }
    places
}

/// Waits until no call has been under way for a moment: what its clients had sent
/// before they were told to go has come in by then.
async fn quiet(calls: &Calls) {
    let mut looks = 0;
    while looks < QUIET_LOOKS {
        tokio::time::sleep(QUIET_EVERY).await;
        looks = if calls.count() == 0 { looks + 1 } else { 0 };
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

async fn pass_time(sidecar: Arc<Sidecar>, kept: state::Kept) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        kept.keep_clock();
        sidecar.tick().await;
    }
}
