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

use super::{
    AuthorityFix,
    account::Account,
    crowd::Seat,
    movable::Movable,
    patience::{PREFACE, Patience, Wait},
    peer::Peer,
    turn,
};
use crate::app::{ports::Journal, workers::Link};

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
    place: (OwnedSemaphorePermit, Seat),
}

impl Ending {
    /// Of the connection of `peer`.
    #[must_use]
    pub const fn new(
        peer: Peer,
        closed: mpsc::UnboundedSender<Link>,
        place: (OwnedSemaphorePermit, Seat),
    ) -> Self {
        Self { peer, closed, place }
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
///
/// Before each write the journal settles: no answer leaves whose step a restart would
/// forget, and steps that are answered together are recorded by one write.
pub struct Connection {
    socket: Socket,
    ending: Ending,
    journal: Arc<dyn Journal>,
    /// Of the journal, when this connection began.
    failures: u64,
    /// Until the preface has come in: how much of it is missing.
    hello: Option<(usize, Wait)>,
    stuck: Wait,
    _seat: Arc<()>,
}

impl Connection {
    /// Takes the connection into the running runtime; a unix one with its
    /// authority made valid for h2.
    ///
    /// # Errors
    /// The runtime's own.
    pub fn open(
        arrived: Arrived,
        patience: Patience,
        journal: Arc<dyn Journal>,
    ) -> io::Result<Self> {
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
        let hello = Some((PREFACE, Wait::new(patience.hello, "no HTTP/2 preface came in")));
        let stuck = Wait::new(patience.stuck, "the peer takes nothing of what it is sent");
        let failures = journal.settle();
        Ok(Self { socket, ending, journal, failures, hello, stuck, _seat: seat })
    }

    /// An answer that may be among what is to be written could not be recorded: the
    /// connection ends instead, and its client asks again.
    fn settled(&self) -> io::Result<()> {
        if self.journal.settle() == self.failures {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the state cannot be written"))
        }
    }

    /// What its peer has under way.
    #[must_use]
    pub const fn account(&self) -> &Arc<Account> {
        self.ending.place.1.account()
    }

    /// Who is at the other end.
    #[must_use]
    pub const fn peer(&self) -> &Peer {
        &self.ending.peer
    }
}

/// Asks the socket, whichever it is.
macro_rules! ask {
    ($connection:expr, $call:ident, $($argument:expr),*) => {
        match &mut $connection.socket {
            Socket::Unix(socket) => Pin::new(socket).$call($($argument),*),
            Socket::Tcp(socket) => Pin::new(socket).$call($($argument),*),
            Socket::Tls(socket) => Pin::new(socket.as_mut()).$call($($argument),*),
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        if !turn::may_read() {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let polled = ask!(me, poll_read, cx, buf);
        turn::has_read(buf.filled().len() - before);
        let Some((missing, wait)) = &mut me.hello else { return polled };
        if polled.is_pending() {
            return wait.on(cx);
        }
        *missing = missing.saturating_sub(buf.filled().len() - before);
        if *missing == 0 {
            me.hello = None;
        }
        polled
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let me = self.get_mut();
        me.settled()?;
        WRITES.fetch_add(1, Ordering::Relaxed);
        let polled = ask!(me, poll_write, cx, buf);
        me.stuck.watch(polled, cx)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = ask!(me, poll_flush, cx);
        me.stuck.watch(polled, cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let me = self.get_mut();
        let polled = ask!(me, poll_shutdown, cx);
        me.stuck.watch(polled, cx)
    }
}
