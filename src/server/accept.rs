//! Accepts connections, notes who is at the other end, and tells when they end.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc},
};

use crate::{
    app::Sidecar,
    transport::{io::Connection, peer::Peer},
};

/// What each listener's loop needs.
#[derive(Clone)]
pub struct Accept {
    pub sidecar: Arc<Sidecar>,
    pub connections: mpsc::Sender<io::Result<Connection>>,
    pub closed: mpsc::UnboundedSender<u64>,
    pub places: Arc<Semaphore>,
}

impl Accept {
    pub async fn unix(self, listener: UnixListener) {
        let own = rustix::process::getuid().as_raw();
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Some((socket, _)) = accepted(listener.accept().await).await else { continue };
            let cred = socket.peer_cred().ok().map(|of| (of.uid(), of.gid(), of.pid()));
            let peer = Peer::unix(self.sidecar.new_connection(), cred, own);
            let connection = Connection::unix(socket, peer, self.closed.clone(), place);
            if self.connections.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    }

    pub async fn tcp(self, listener: TcpListener) {
        let loopback = listener.local_addr().is_ok_and(|at| at.ip().is_loopback());
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Some((socket, address)) = accepted(listener.accept().await).await else { continue };
            let _ = socket.set_nodelay(true);
            let peer = Peer::tcp(self.sidecar.new_connection(), address, loopback);
            let connection = Connection::tcp(socket, peer, self.closed.clone(), place);
            if self.connections.send(Ok(connection)).await.is_err() {
                return;
            }
        }
    }
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
