//! Whoever scrapes the figures: not many at once, and nobody who does not come to the point.

use std::{sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};
use tokio_io_timeout::TimeoutStream;

use crate::{
    app::{Sidecar, shed::Shed},
    config::Limits,
    transport::{
        account::Share,
        crowd::{Crowd, Whose},
    },
};

/// Connections at once: a scrape is one every few seconds.
const MOST: usize = 64;
/// Of one address; of this machine all, where nobody else can come in.
const EACH: u32 = 16;
/// Of one request's head.
const HEAD: usize = 16 * 1024;
/// After a connection could not be accepted, as where no file descriptor was left.
const REST: Duration = Duration::from_millis(100);
/// No calls of gRPC come in here.
const NOTHING: Share = Share { calls: 0, operators: 0, partial: 0 };

/// Serves until it is dropped, and its connections with it.
pub async fn serve(listener: TcpListener, router: Router, sidecar: Arc<Sidecar>, limits: Limits) {
    let loopback = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
    let crowd = Crowd::of_addresses(EACH, MOST, loopback, NOTHING);
    let places = Arc::new(Semaphore::new(MOST));
    let mut http = http1::Builder::new();
    // From the end of one request to that of the next one's head.
    http.timer(TokioTimer::new()).header_read_timeout(limits.handshake_timeout).max_buf_size(HEAD);
    let mut serving = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = serving.join_next() => continue,
        };
        let Ok((socket, address)) = accepted else {
            tokio::time::sleep(REST).await;
            continue;
        };
        let whose = Whose::at(address.ip());
        let place = match (crowd.enter(Some(whose)), Arc::clone(&places).try_acquire_owned()) {
            (Some(seat), Ok(place)) => (seat, place),
            (seat, _) => {
                let why = if seat.is_some() { Shed::ListenerAtBound } else { Shed::PeerAtBound };
                if sidecar.shed(why) {
                    let most = if seat.is_some() { MOST as u32 } else { crowd.most(whose) };
                    tracing::warn!(
                        peer = %whose,
                        most,
                        "the Prometheus endpoint has as many connections as it may; further ones are closed"
                    );
                }
                continue;
            }
        };
        let mut socket = TimeoutStream::new(socket);
        socket.set_write_timeout(Some(limits.dead_after));
        let served = http.serve_connection(
            TokioIo::new(Box::pin(socket)),
            TowerToHyperService::new(router.clone()),
        );
        serving.spawn(async move {
            // How a peer leaves is its own affair.
            let _ = served.await;
            drop(place);
        });
    }
}
