//! The threads that serve connections, each on a runtime of its own.
//!
//! On a runtime that several threads share, each answer is flushed by itself and
//! each call wakes somebody: 1.2 to 1.9 times the CPU. Here a connection and all
//! its calls stay on one thread, and the answers that are ready together leave in
//! one write. What may take long (sources, files, exports) runs elsewhere.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::{
    app::{Sidecar, ports::Journal, shed::Shed},
    config::Limits,
    grpc::{direct::Direct, of_peer::OfPeer},
    telemetry::rpc::Traced,
    transport::{
        io::{Accepted, Arrived, Connection, Ending},
        patience::Patience,
        peer::Peer,
        turn::{Round, ToTheTurn, Turns, WINDOW},
    },
};

/// Largest header list of one request, by HTTP/2's count (names, values and 32 bytes
/// each): a larger one is answered 431 and its connection goes on; clients that look at
/// what a server takes refuse it themselves. Headers without end close the connection.
const HEADERS: u32 = 16 * 1024;
/// Calls of one connection that were cancelled before anybody had looked at them. A
/// client that cancels a batch must not lose its connection; one that resets streams
/// as fast as it opens them gets here at once.
const CANCELLED_UNSEEN: usize = 200;
/// Streams of one connection that its peer's errors made end, in all its life.
const ERRORS: usize = 1024;
/// What may wait to be sent on one stream whose peer does not read.
const UNSENT: usize = 256 * 1024;
/// Turns of connections between two looks at what has come in for the others: tokio's
/// own 61 are for tasks of one call, and a turn may have many.
const TURNS: u32 = 8;
/// Connections that wait for a thread to take them.
const WAITING: usize = 64;

/// All services, traced.
pub type Stack = Traced<Direct>;

/// Where an accepted connection goes.
#[derive(Clone)]
pub struct Door {
    arrivals: mpsc::Sender<Arrived>,
    /// Each connection has one.
    seats: Arc<()>,
}

impl Door {
    /// How many connections the thread has, next to what other doors show.
    #[must_use]
    pub fn seats_taken(&self) -> usize {
        Arc::strong_count(&self.seats)
    }

    /// False: the thread serves nobody any more.
    pub async fn enter(&self, socket: Accepted, ending: Ending) -> bool {
        let seat = Arc::clone(&self.seats);
        self.arrivals.send(Arrived { socket, ending, seat }).await.is_ok()
    }
}

/// The threads.
pub struct Threads {
    pub doors: Vec<Door>,
    joins: Vec<thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// Starts threads that serve `stack` until `ended` turns true, and from then on
/// what they have, telling each connection to go.
///
/// # Errors
/// No thread or runtime to be had.
pub fn start(
    sidecar: &Arc<Sidecar>,
    stack: &Stack,
    limits: &Limits,
    journal: &Arc<dyn Journal>,
    ended: &watch::Receiver<bool>,
) -> anyhow::Result<Threads> {
    let mut builder = http2::Builder::new(ToTheTurn);
    builder
        .timer(TokioTimer::new())
        // gRPC has no use for it.
        .auto_date_header(false)
        // Half of it in silence, half of it for the answer to a ping.
        .keep_alive_interval(Some(limits.dead_after / 2))
        .keep_alive_timeout(limits.dead_after / 2)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(CANCELLED_UNSEEN)
        .max_local_error_reset_streams(ERRORS)
        .max_send_buf_size(UNSENT)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(Some(limits.max_streams));
    let patience = Patience { hello: limits.handshake_timeout, stuck: limits.dead_after };
    let stop = watch::Sender::new(false);
    let (mut doors, mut joins) = (Vec::new(), Vec::new());
    for number in 0..limits.threads {
        let (door, arrivals) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .event_interval(TURNS)
            .build()
            .context("no runtime for a thread")?;
        let of = Serve {
            builder: builder.clone(),
            patience,
            sidecar: Arc::clone(sidecar),
            stack: stack.clone(),
            journal: Arc::clone(journal),
            round: Arc::default(),
        };
        let serving = of.serve(arrivals, ended.clone());
        let mut stopped = stop.subscribe();
        let join = thread::Builder::new()
            .name(format!("serve-{number}"))
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        () = serving => {}
                        _ = stopped.wait_for(|stop| *stop) => {}
                    }
                });
                // A credential file on a hung mount must not hold the end up.
                runtime.shutdown_background();
            })
            .context("no thread to serve connections")?;
        doors.push(Door { arrivals: door, seats: Arc::default() });
        joins.push(join);
    }
    Ok(Threads { doors, joins, stop })
}

impl Threads {
    /// Waits for the last connection, at most `patience`: idle connections of
    /// clients that never close must not hold the end up.
    pub async fn end(self, patience: Duration) {
        let Self { doors, joins, stop } = self;
        drop(doors);
        let joined = tokio::task::spawn_blocking(move || {
            joins.into_iter().for_each(|join| _ = join.join());
        });
        tokio::pin!(joined);
        if tokio::time::timeout(patience, &mut joined).await.is_err() {
            let _ = stop.send(true);
            let _ = joined.await;
        }
    }
}

/// What one thread serves with.
struct Serve {
    builder: http2::Builder<ToTheTurn>,
    patience: Patience,
    sidecar: Arc<Sidecar>,
    stack: Stack,
    journal: Arc<dyn Journal>,
    round: Arc<Round>,
}

impl Serve {
    async fn serve(self, mut arrivals: mpsc::Receiver<Arrived>, mut ended: watch::Receiver<bool>) {
        let connections = TaskTracker::new();
        let over = ended.clone();
        loop {
            let arrived = tokio::select! {
                arrived = arrivals.recv() => arrived,
                _ = ended.wait_for(|ended| *ended) => None,
            };
            match arrived {
                Some(arrived) => self.take(arrived, &connections, &over),
                None => break,
            }
        }
        // Whoever was let in is answered, and told to go.
        arrivals.close();
        while let Some(arrived) = arrivals.recv().await {
            self.take(arrived, &connections, &over);
        }
        connections.close();
        connections.wait().await;
    }

    fn take(&self, arrived: Arrived, connections: &TaskTracker, over: &watch::Receiver<bool>) {
        let Ok(connection) = Connection::open(arrived, self.patience, Arc::clone(&self.journal))
        else {
            return;
        };
        let peer = Arc::new(connection.peer().clone());
        let account = Arc::clone(connection.account());
        let (stack, sidecar) = (self.stack.clone(), Arc::clone(&self.sidecar));
        let calls = OfPeer::new(stack, sidecar, Arc::clone(&peer), account);
        let serving = self.builder.serve_connection(TokioIo::new(connection), calls);
        let mut serving = Turns::new(serving, Arc::clone(&self.round));
        let mut over = over.clone();
        let sidecar = Arc::clone(&self.sidecar);
        connections.spawn(async move {
            let left = tokio::select! {
                left = &mut serving => Some(left),
                _ = over.wait_for(|ended| *ended) => None,
            };
            let left = match left {
                Some(left) => left,
                None => {
                    serving.serving().graceful_shutdown();
                    serving.await
                }
            };
            if let Err(error) = left {
                closed(&sidecar, &peer, &error);
            }
        });
    }
}

/// How a peer leaves is its own affair; that it was made to leave is told.
fn closed(sidecar: &Sidecar, peer: &Peer, error: &hyper::Error) {
    let Some((why, problem)) = made_to_leave(error) else { return };
    if sidecar.shed(why) {
        tracing::warn!(peer = %peer.shown, pid = peer.pid(), problem, "a connection was closed");
    }
}

fn made_to_leave(error: &hyper::Error) -> Option<(Shed, String)> {
    if error.is_timeout() {
        return Some((Shed::Silent, "no answer to a ping".to_owned()));
    }
    let cause = std::error::Error::source(error)?;
    if let Some(io) = cause.downcast_ref::<std::io::Error>() {
        let waited = io.kind() == std::io::ErrorKind::TimedOut;
        return waited.then(|| (Shed::Silent, io.to_string()));
    }
    let of_http2 = cause.downcast_ref::<h2::Error>().filter(|error| error.is_library())?;
    let calm = of_http2.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    Some((if calm { Shed::Flood } else { Shed::Protocol }, of_http2.to_string()))
}
