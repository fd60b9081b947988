//! A listening socket as its loop reads it. What it accepts stays out of the reactor of
//! the loop's runtime: a connection that is shed costs an accept and a close, and one
//! that is let in is registered once, by the thread that serves it.

use std::{
    io, net,
    os::{fd::AsRawFd, unix},
};

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use tokio::io::{Interest, unix::AsyncFd};

/// New connections are waited for on it. Their sockets do not block.
pub struct Listener<L: AsRawFd>(AsyncFd<L>);

/// Who the kernel says is at the other end of a unix socket: uid, gid and pid. A
/// process that this one cannot see has no pid.
pub type Credentials = (u32, u32, Option<i32>);

impl<L: AsRawFd> Listener<L> {
    /// Of a bound socket that does not block, in the running runtime.
    ///
    /// # Errors
    /// The runtime's own.
    #[expect(
        deprecated,
        reason = "the one after it is unsafe; a listener keeps its descriptor, which is all that it asks"
    )]
    pub fn new(of: L) -> io::Result<Self> {
        AsyncFd::with_interest(of, Interest::READABLE).map(Self)
    }
}

impl Listener<unix::net::UnixListener> {
    /// The next connection. None is lost where this is dropped before it is done.
    ///
    /// # Errors
    /// accept(2)'s own.
    pub async fn accept(&self) -> io::Result<unix::net::UnixStream> {
        let accept = |from: &unix::net::UnixListener| from.accept();
        let (socket, _) = self.0.async_io(Interest::READABLE, accept).await?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    }
}

impl Listener<net::TcpListener> {
    /// Where it listens.
    ///
    /// # Errors
    /// getsockname(2)'s own.
    pub fn local_addr(&self) -> io::Result<net::SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// The next connection, and where from. None is lost where this is dropped before
    /// it is done.
    ///
    /// # Errors
    /// accept(2)'s own.
    pub async fn accept(&self) -> io::Result<(net::TcpStream, net::SocketAddr)> {
        let accept = |from: &net::TcpListener| from.accept();
        let (socket, address) = self.0.async_io(Interest::READABLE, accept).await?;
        socket.set_nonblocking(true)?;
        Ok((socket, address))
    }
}

/// Who connected; none: the kernel does not say.
#[must_use]
pub fn credentials(socket: &unix::net::UnixStream) -> Option<Credentials> {
    let of = getsockopt(socket, PeerCredentials).ok()?;
    Some((of.uid(), of.gid(), (of.pid() > 0).then(|| of.pid())))
}
