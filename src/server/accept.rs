//! Accepts connections, notes who is at the other end, and tells when they end.

use std::{io, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};

use super::{
    threads::Door,
    tls::{Secured, Tls},
};
use crate::{
    app::Sidecar,
    domain::budget::Budget,
    transport::{
        crowd::{Crowd, Seat, Whose},
        io::{Accepted, Ending},
        peer::Peer,
    },
};

/// Most failed handshakes that are logged in a second.
const HANDSHAKE_FAILURES_PER_SECOND: u32 = 1;

/// What each listener's loop needs.
#[derive(Clone)]
pub struct Accept {
    pub sidecar: Arc<Sidecar>,
    /// One for each thread.
    pub doors: Vec<Door>,
    pub closed: mpsc::UnboundedSender<u64>,
    pub places: Arc<Semaphore>,
    /// Connections of each peer.
    pub crowd: Crowd,
    /// How often it is logged that a peer has too many.
    pub crowded: Arc<Mutex<Budget>>,
    /// True when no more are to be accepted: whoever connects waits for the next
    /// sidecar, where one takes over.
    pub stop: watch::Receiver<bool>,
}

impl Accept {
    pub async fn unix(mut self, listener: UnixListener) {
        let own = rustix::process::getuid().as_raw();
        loop {
            let Some((place, next)) = self.next(listener.accept()).await else { return };
            let Some((socket, _)) = accepted(next).await else { continue };
            let cred = socket.peer_cred().ok().map(|of| (of.uid(), of.gid(), of.pid()));
            let process = cred.and_then(|(_, _, pid)| pid).map(Whose::Process);
            let Some(seat) = self.seat(process) else { continue };
            let place = (place, seat);
            let peer = Peer::unix(self.sidecar.new_connection(), cred, own);
            let ending = Ending::new(peer, self.closed.clone(), place);
            let Ok(socket) = socket.into_std() else { continue };
            if !self.deal(Accepted::Unix(socket), ending).await {
                return;
            }
        }
    }

    pub async fn tcp(mut self, listener: TcpListener) {
        let open = self.is_open(&listener);
        loop {
            let Some((place, next)) = self.next(listener.accept()).await else { return };
            let Some((socket, address)) = accepted(next).await else { continue };
            let Some(seat) = self.seat(far(address)) else { continue };
            let place = (place, seat);
            let _ = socket.set_nodelay(true);
            let peer = Peer::tcp(self.sidecar.new_connection(), address, open, Arc::default());
            let ending = Ending::new(peer, self.closed.clone(), place);
            let Ok(socket) = socket.into_std() else { continue };
            if !self.deal(Accepted::Tcp(socket), ending).await {
                return;
            }
        }
    }

    /// Handshakes in tasks of their own, which end with the listener: a slow peer
    /// holds up nobody. Each holds a place among the most connections.
    pub async fn tls(mut self, listener: TcpListener, tls: Arc<Tls>) {
        // Whoever must show a certificate is known by it alone.
        let open = self.is_open(&listener) && !tls.asks_certificates();
        let mut handshakes = JoinSet::new();
        let failures = Arc::new(Mutex::new(Budget::default()));
        loop {
            while handshakes.try_join_next().is_some() {}
            let Some((place, next)) = self.next(listener.accept()).await else { break };
            let Some((socket, address)) = accepted(next).await else { continue };
            let Some(seat) = self.seat(far(address)) else { continue };
            let place = (place, seat);
            let _ = socket.set_nodelay(true);
            let (accept, tls, failures) = (self.clone(), Arc::clone(&tls), Arc::clone(&failures));
            handshakes.spawn(async move {
                match tls.handshake(socket).await {
                    Ok(Secured { stream, names }) => {
                        let link = accept.sidecar.new_connection();
                        let peer = Peer::tcp(link, address, open, names);
                        let ending = Ending::new(peer, accept.closed.clone(), place);
                        accept.deal(Accepted::Tls(stream), ending).await;
                    }
                    Err(error) => {
                        let now = accept.sidecar.now().mono;
                        if failures.lock().take(HANDSHAKE_FAILURES_PER_SECOND, now) {
                            tracing::warn!(peer = %address.ip(), %error, "a TLS handshake failed");
                        }
                    }
                }
            });
        }
        while handshakes.join_next().await.is_some() {}
    }

    /// A place among a peer's connections; none: it has too many, and this one is
    /// closed.
    fn seat(&self, whose: Option<Whose>) -> Option<Seat> {
        let seat = self.crowd.enter(whose);
        if seat.is_none() && self.crowded.lock().take(1, self.sidecar.now().mono) {
            tracing::warn!(
                peer = ?whose,
                "a peer has limits.connections_per_peer connections; further ones are closed"
            );
        }
        seat
    }

    /// The next connection, once there is a place for it; none: no more. Nothing
    /// is lost between the two: a connection that was accepted is dealt.
    async fn next<T>(
        &mut self,
        accept: impl Future<Output = io::Result<T>>,
    ) -> Option<(OwnedSemaphorePermit, io::Result<T>)> {
        let places = Arc::clone(&self.places);
        let next = async {
            let place = places.acquire_owned().await.ok()?;
            Some((place, accept.await))
        };
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => None,
            next = next => next,
        }
    }

    /// For anybody while no identity is configured: on loopback, where there was
    /// none at the start. One that is taken away later opens nothing.
    fn is_open(&self, listener: &TcpListener) -> bool {
        let loopback = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
        loopback && self.sidecar.started_without_identities()
    }

    /// To the thread that has the fewest connections. False: nobody serves any more.
    async fn deal(&self, socket: Accepted, ending: Ending) -> bool {
        match self.doors.iter().min_by_key(|door| door.seats_taken()) {
            Some(door) => door.enter(socket, ending).await,
            None => false,
        }
    }
}

/// Loopback is everybody on this machine.
fn far(address: std::net::SocketAddr) -> Option<Whose> {
    (!address.ip().is_loopback()).then(|| Whose::Address(address.ip()))
}

/// A failed accept is the machine's trouble (no file descriptors left): it is
/// said, and tried again a little later instead of in a hot loop.
async fn accepted<T>(accepted: io::Result<T>) -> Option<T> {
    match accepted {
        Ok(accepted) => Some(accepted),
        Err(error) => {
            tracing::warn!(%error, "a connection could not be accepted");
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Tells the use cases of connections that ended.
pub async fn bury(sidecar: Arc<Sidecar>, mut closings: mpsc::UnboundedReceiver<u64>) {
    while let Some(connection) = closings.recv().await {
        sidecar.connection_closed(connection).await;
    }
}
