//! A TCP socket that moves from one runtime to another, with what was built on it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// The socket under a TLS connection: its handshake runs in the background, and
/// woken from there each of its calls would cost a second wake-up.
pub struct Movable(Option<TcpStream>);

impl Movable {
    /// In the running runtime.
    #[must_use]
    pub const fn new(socket: TcpStream) -> Self {
        Self(Some(socket))
    }

    /// Moves it here from the runtime that it is in.
    ///
    /// # Errors
    /// The runtimes' own. It is closed then.
    pub fn come(&mut self) -> io::Result<()> {
        if let Some(socket) = self.0.take() {
            self.0 = Some(TcpStream::from_std(socket.into_std()?)?);
        }
        Ok(())
    }

    fn socket(self: Pin<&mut Self>) -> io::Result<Pin<&mut TcpStream>> {
        match &mut self.get_mut().0 {
            Some(socket) => Ok(Pin::new(socket)),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl AsyncRead for Movable {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.socket()?.poll_read(cx, buf)
    }
}

impl AsyncWrite for Movable {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.socket()?.poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket()?.poll_shutdown(cx)
    }
}
