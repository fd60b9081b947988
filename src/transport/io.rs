//! One accepted connection, unix, TCP or TLS, that tells when it ends.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, mpsc},
};
use tokio_rustls::server::TlsStream;

use super::{AuthorityFix, crowd::Seat, movable::Movable, peer::Peer};
use crate::app::workers::Link;

/// See [`writes`].
static WRITES: AtomicU64 = AtomicU64::new(0);

/// Write calls on connections since the process began: `tests/gates` holds them to
/// what they are by call, which no noise on the machine moves.
#[must_use]
pub fn writes() -> u64 {
    WRITES.load(Ordering::Relaxed)
}

enum Socket {
    Unix(AuthorityFix<UnixStream>),
    Tcp(TcpStream),
    Tls(Box<TlsStream<Movable>>),
}

/// An accepted socket, of no runtime yet: the thread that serves it takes it in.
pub enum Accepted {
    /// Unix.
    Unix(std::os::unix::net::UnixStream),
    /// TCP.
    Tcp(std::net::TcpStream),
    /// TCP after its TLS handshake, which runs in the background.
    Tls(Box<TlsStream<Movable>>),
}

/// An accepted connection on its way to its thread.
pub struct Arrived {
    /// The socket.
    pub socket: Accepted,
    /// Its end.
    pub ending: Ending,
    /// At its thread, until it is dropped.
    pub seat: Arc<()>,
}

/// Tells of a connection's end, when dropped.
pub struct Ending {
    peer: Peer,
    closed: mpsc::UnboundedSender<Link>,
    /// Its place among the most connections, and among its peer's.
    _place: (OwnedSemaphorePermit, Seat),
}

impl Ending {
    /// Of the connection of `peer`.
    #[must_use]
    pub const fn new(
        peer: Peer,
        closed: mpsc::UnboundedSender<Link>,
        place: (OwnedSemaphorePermit, Seat),
    ) -> Self {
        Self { peer, closed, _place: place }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Unbounded, yet bounded by the most connections: one message each.
        let _ = self.closed.send(self.peer.connection);
    }
}

/// The connection as the gRPC server gets it.
///
/// It does not claim vectored writes, and must not: h2 would write each frame of
/// 256 bytes or more by itself instead of gathering what is ready.
pub struct Connection {
    socket: Socket,
    ending: Ending,
    _seat: Arc<()>,
}

impl Connection {
    /// Takes the connection into the running runtime; a unix one with its
    /// authority made valid for h2.
    ///
    /// # Errors
    /// The runtime's own.
    pub fn open(arrived: Arrived) -> io::Result<Self> {
        let Arrived { socket, ending, seat } = arrived;
        let socket = match socket {
            Accepted::Unix(socket) => {
                Socket::Unix(AuthorityFix::new(UnixStream::from_std(socket)?))
            }
            Accepted::Tcp(socket) => Socket::Tcp(TcpStream::from_std(socket)?),
            Accepted::Tls(mut stream) => {
                stream.get_mut().0.come()?;
                Socket::Tls(stream)
            }
        };
        Ok(Self { socket, ending, _seat: seat })
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.ending.peer
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
        WRITES.fetch_add(1, Ordering::Relaxed);
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
