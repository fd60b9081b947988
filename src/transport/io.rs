//! One accepted connection, unix, TCP or TLS, that tells when it ends.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, mpsc},
};
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::{AuthorityFix, peer::Peer};
use crate::app::workers::Link;

enum Socket {
    Unix(AuthorityFix<UnixStream>),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// The connection as the gRPC server gets it.
pub struct Connection {
    socket: Socket,
    peer: Peer,
    closed: mpsc::UnboundedSender<Link>,
    /// Its place among the most connections.
    _place: OwnedSemaphorePermit,
}

impl Connection {
    /// A unix connection, with its authority made valid for h2.
    #[must_use]
    pub fn unix(
        socket: UnixStream,
        peer: Peer,
        closed: mpsc::UnboundedSender<Link>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { socket: Socket::Unix(AuthorityFix::new(socket)), peer, closed, _place: place }
    }

    /// A TCP connection.
    #[must_use]
    pub const fn tcp(
        socket: TcpStream,
        peer: Peer,
        closed: mpsc::UnboundedSender<Link>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { socket: Socket::Tcp(socket), peer, closed, _place: place }
    }

    /// A TCP connection behind TLS.
    #[must_use]
    pub fn tls(
        socket: TlsStream<TcpStream>,
        peer: Peer,
        closed: mpsc::UnboundedSender<Link>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { socket: Socket::Tls(Box::new(socket)), peer, closed, _place: place }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // Unbounded, yet bounded by the most connections: one message each.
        let _ = self.closed.send(self.peer.connection);
    }
}

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Unix(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tcp(socket) => Pin::new(socket).poll_read(cx, buf),
            Socket::Tls(socket) => Pin::new(socket.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().socket {
            Socket::Unix(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Tcp(socket) => Pin::new(socket).poll_write(cx, buf),
            Socket::Tls(socket) => Pin::new(socket.as_mut()).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Unix(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Socket::Tls(socket) => Pin::new(socket.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Unix(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Socket::Tls(socket) => Pin::new(socket.as_mut()).poll_shutdown(cx),
        }
    }
}
