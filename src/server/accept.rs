//! Accepts connections, notes who is at the other end, and tells when they end.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::unix::net::UnixListener,
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::JoinSet,
};

use super::{
    listener::{Listener, credentials},
    threads::Door,
    tls::{Secured, Tls},
};
use crate::{
    app::{Sidecar, shed::Shed},
    transport::{
        crowd::{Crowd, Seat, Whose},
        farewell::Farewells,
        io::{Accepted, Ending},
        peer::Peer,
    },
};

/// How long a listener waits after the process had no file descriptor left.
const STARVED: Duration = Duration::from_millis(100);
/// Connections that a listener sheds before it pauses: whoever opens them in a loop is
/// to wait in the listener's queue, and not to take the time of those that are served.
/// Not fewer, since whoever else connects waits in the same queue.
const SHED_AT_ONCE: u32 = 128;
/// And before it offers the core that it runs on to the threads that serve, where they
/// have to share it. Without this a connection loop was 4 times the p99 of others on
/// one core, and 1 with it.
const SHED_IN_A_ROW: u32 = 4;
/// The pause.
const SHED_PAUSE: Duration = Duration::from_millis(1);

/// What each listener's loop needs.
#[derive(Clone)]
pub struct Accept {
    pub sidecar: Arc<Sidecar>,
    /// One for each thread.
    pub doors: Vec<Door>,
    pub closed: mpsc::UnboundedSender<u64>,
    /// For TLS.
    pub handshake_timeout: Duration,
    /// How many connections it may have.
    pub most: usize,
    pub places: Arc<Semaphore>,
    /// Connections of each peer.
    pub crowd: Crowd,
    /// Those that were shed since the last pause.
    pub shed: u32,
    /// True when no more are to be accepted: whoever connects waits for the next
    /// sidecar, where one takes over.
    pub stop: watch::Receiver<bool>,
}

/// A connection's place among the listener's, and among its peer's.
type Place = (OwnedSemaphorePermit, Seat);

/// Why there is none, in words for whoever connects.
#[derive(Debug, thiserror::Error)]
enum Full {
    #[error("you have {0} connections already, as many as limits.connections_per_peer allows")]
    Peer(u32),
    #[error("there are {0} connections already, as many as limits.max_connections allows")]
    Listener(usize),
}

impl Accept {
    pub async fn unix(mut self, listener: Listener<UnixListener>) {
        let own = rustix::process::getuid().as_raw();
        let (mut farewells, mut starved) = (Farewells::default(), false);
        while let Some(next) = self.next(listener.accept()).await {
            let Some(socket) = self.accepted(next, &mut starved).await else { continue };
            let cred = credentials(&socket);
            let process = cred.and_then(|(_, _, pid)| pid).map(Whose::Process);
            let place = match self.place(process) {
                Ok(place) => place,
                Err(why) => {
                    if farewells.may_say(self.sidecar.now().mono)
                        && let Ok(socket) = UnixStream::from_std(socket)
                    {
                        farewells.say(socket, &why.to_string());
                    }
                    self.rest().await;
                    continue;
                }
            };
            let peer = Peer::unix(self.sidecar.new_connection(), cred, own);
            let ending = Ending::new(peer, self.closed.clone(), place);
            if !self.deal(Accepted::Unix(socket), ending).await {
                return;
            }
        }
    }

    pub async fn tcp(mut self, listener: Listener<TcpListener>) {
        let open = self.is_open(&listener);
        let (mut farewells, mut starved) = (Farewells::default(), false);
        while let Some(next) = self.next(listener.accept()).await {
            let Some((socket, address)) = self.accepted(next, &mut starved).await else {
                continue;
            };
            let place = match self.place(Some(Whose::at(address.ip()))) {
                Ok(place) => place,
                Err(why) => {
                    if farewells.may_say(self.sidecar.now().mono)
                        && let Ok(socket) = TcpStream::from_std(socket)
                    {
                        farewells.say(socket, &why.to_string());
                    }
                    self.rest().await;
                    continue;
                }
            };
            let _ = socket.set_nodelay(true);
            let peer = Peer::tcp(self.sidecar.new_connection(), address, open, Arc::default());
            let ending = Ending::new(peer, self.closed.clone(), place);
            if !self.deal(Accepted::Tcp(socket), ending).await {
                return;
            }
        }
    }

    /// Handshakes in tasks of their own, which end with the listener: a slow peer
    /// holds up nobody. Each holds a place among the most connections. Whoever is not
    /// let in finds the connection closed: a word would cost a handshake, which is
    /// what the bound is to spare.
    pub async fn tls(mut self, listener: Listener<TcpListener>, tls: Arc<Tls>) {
        // Whoever must show a certificate is known by it alone.
        let open = self.is_open(&listener) && !tls.asks_certificates();
        let mut handshakes = JoinSet::new();
        let mut starved = false;
        while let Some(next) = self.next(listener.accept()).await {
            while handshakes.try_join_next().is_some() {}
            let Some((socket, address)) = self.accepted(next, &mut starved).await else {
                continue;
            };
            let Ok(place) = self.place(Some(Whose::at(address.ip()))) else {
                drop(socket);
                self.rest().await;
                continue;
            };
            let Ok(socket) = in_runtime(socket) else { continue };
            let (accept, tls) = (self.clone(), Arc::clone(&tls));
            handshakes.spawn(async move {
                match tls.handshake(socket, accept.handshake_timeout).await {
                    Ok(Secured { stream, names }) => {
                        let link = accept.sidecar.new_connection();
                        let peer = Peer::tcp(link, address, open, names);
                        let ending = Ending::new(peer, accept.closed.clone(), place);
                        accept.deal(Accepted::Tls(stream), ending).await;
                    }
                    Err(error) => accept.failed(address, &error),
                }
            });
        }
        while handshakes.join_next().await.is_some() {}
    }

    /// After a connection was shed: others come first, after each few and each so many.
    async fn rest(&mut self) {
        self.shed += 1;
        if self.shed.is_multiple_of(SHED_IN_A_ROW) {
            std::thread::yield_now();
        }
        if self.shed == SHED_AT_ONCE {
            self.shed = 0;
            tokio::time::sleep(SHED_PAUSE).await;
        }
    }

    fn failed(&self, address: SocketAddr, error: &io::Error) {
        if self.sidecar.shed(Shed::Handshake) {
            tracing::warn!(peer = %address.ip(), %error, "a TLS handshake failed");
        }
    }

    /// A place for a connection; or why there is none, and it is to be closed.
    fn place(&self, whose: Option<Whose>) -> Result<Place, Full> {
        let Some(seat) = self.crowd.enter(whose) else {
            let most = whose.map_or(0, |whose| self.crowd.most(whose));
            if self.sidecar.shed(Shed::PeerAtBound) {
                let peer = whose.map(|whose| whose.to_string());
                tracing::warn!(
                    peer,
                    most,
                    "a peer has as many connections as limits.connections_per_peer allows; further ones are closed"
                );
            }
            return Err(Full::Peer(most));
        };
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            let most = self.most;
            if self.sidecar.shed(Shed::ListenerAtBound) {
                let peer = whose.map(|whose| whose.to_string());
                tracing::warn!(
                    peer,
                    most,
                    "a listener has as many connections as limits.max_connections allows; further ones are closed"
                );
            }
            return Err(Full::Listener(most));
        };
        Ok((place, seat))
    }

    /// The next connection; none: no more. Nothing is lost between the two: a
    /// connection that was accepted is dealt.
    async fn next<T>(
        &mut self,
        accept: impl Future<Output = io::Result<T>>,
    ) -> Option<io::Result<T>> {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => None,
            next = accept => Some(next),
        }
    }

    /// A failed accept may be the machine's trouble, no file descriptor left: that is
    /// said when it begins and when it is over, and tried again a little later instead
    /// of in a hot loop. Any other is one peer's that left.
    async fn accepted<T>(&self, accepted: io::Result<T>, starved: &mut bool) -> Option<T> {
        let error = match accepted {
            Ok(accepted) => {
                if std::mem::take(starved) {
                    tracing::info!("connections are accepted again");
                }
                return Some(accepted);
            }
            Err(error) => error,
        };
        use rustix::io::Errno;
        let shortage = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];
        if Errno::from_io_error(&error).is_some_and(|error| shortage.contains(&error)) {
            self.sidecar.shed(Shed::NoDescriptor);
            if !std::mem::replace(starved, true) {
                tracing::error!(%error, "no connection can be accepted; whoever connects waits");
            }
            tokio::time::sleep(STARVED).await;
        }
        None
    }

    /// For anybody while no identity is configured: on loopback, where there was
    /// none at the start. One that is taken away later opens nothing.
    fn is_open(&self, listener: &Listener<TcpListener>) -> bool {
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

/// Of the running runtime.
fn in_runtime(socket: std::net::TcpStream) -> io::Result<TcpStream> {
    socket.set_nodelay(true)?;
    TcpStream::from_std(socket)
}

/// Tells the use cases of connections that ended.
pub async fn bury(sidecar: Arc<Sidecar>, mut closings: mpsc::UnboundedReceiver<u64>) {
    while let Some(connection) = closings.recv().await {
        sidecar.connection_closed(connection).await;
    }
}
