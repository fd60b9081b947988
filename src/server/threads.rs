//! The threads that serve connections, each on a runtime of its own.
//!
//! On a runtime that several threads share, each answer is flushed by itself and
//! each call wakes somebody: 1.2 to 1.9 times the CPU. Here a connection and all
//! its calls stay on one thread, and the answers that are ready together leave in
//! one write. What may take long (sources, files, exports) runs elsewhere.

use std::{sync::Arc, thread, time::Duration};

use anyhow::Context as _;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

use crate::{
    config::Limits,
    grpc::direct::{Direct, OfPeer},
    telemetry::rpc::Traced,
    transport::io::{Accepted, Arrived, Connection, Ending},
};

/// A peer that answers no ping for this long is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
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
    stack: &Stack,
    limits: &Limits,
    ended: &watch::Receiver<bool>,
) -> anyhow::Result<Threads> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // gRPC has no use for it.
        .auto_date_header(false)
        .keep_alive_interval(Some(PING_EVERY))
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(Some(limits.max_streams));
    let stop = watch::Sender::new(false);
    let (mut doors, mut joins) = (Vec::new(), Vec::new());
    for number in 0..limits.threads {
        let (door, arrivals) = mpsc::channel(WAITING);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("no runtime for a thread")?;
        let serving = serve(builder.clone(), stack.clone(), arrivals, ended.clone());
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

async fn serve(
    builder: http2::Builder<TokioExecutor>,
    stack: Stack,
    mut arrivals: mpsc::Receiver<Arrived>,
    mut ended: watch::Receiver<bool>,
) {
    let connections = TaskTracker::new();
    let over = ended.clone();
    let take = |arrived| {
        let Ok(connection) = Connection::open(arrived) else { return };
        let calls = OfPeer::new(stack.clone(), Arc::new(connection.peer().clone()));
        let mut serving = Box::pin(builder.serve_connection(TokioIo::new(connection), calls));
        let mut over = over.clone();
        connections.spawn(async move {
            tokio::select! {
                // How a peer leaves is its own affair.
                _ = &mut serving => return,
                _ = over.wait_for(|ended| *ended) => serving.as_mut().graceful_shutdown(),
            }
            let _ = serving.await;
        });
    };
    loop {
        let arrived = tokio::select! {
            arrived = arrivals.recv() => arrived,
            _ = ended.wait_for(|ended| *ended) => None,
        };
        match arrived {
            Some(arrived) => take(arrived),
            None => break,
        }
    }
    // Whoever was let in is answered, and told to go.
    arrivals.close();
    while let Some(arrived) = arrivals.recv().await {
        take(arrived);
    }
    connections.close();
    connections.wait().await;
}
