//! Sockets that are open before the sidecar is: systemd's, and those of the
//! sidecar whose place it takes.

use std::{io, net, os::unix::net as unix, path::PathBuf};

use listenfd::ListenFd;
use tokio::net::{TcpListener, UnixListener};

/// Listeners, by what they are for.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The unix socket and its place.
    pub unix: Option<(unix::UnixListener, PathBuf)>,
    /// TCP.
    pub tcp: Option<net::TcpListener>,
    /// The Prometheus endpoint.
    pub prometheus: Option<net::TcpListener>,
    /// They belong to systemd: their places are its own to clean.
    pub activated: bool,
}

impl Inherited {
    /// What systemd passes to a service that a socket unit activates.
    ///
    /// # Errors
    /// It passes something else.
    pub fn from_systemd() -> anyhow::Result<Self> {
        let mut passed = ListenFd::from_env();
        let mut found = Self { activated: passed.len() > 0, ..Self::default() };
        for index in 0..passed.len() {
            if let Ok(Some(listener)) = passed.take_unix_listener(index) {
                let address = listener.local_addr()?;
                let path = address.as_pathname().ok_or_else(|| {
                    anyhow::anyhow!(
                        "systemd passes a unix socket without a path; give ListenStream= one"
                    )
                })?;
                anyhow::ensure!(found.unix.is_none(), "systemd passes more than one unix socket");
                found.unix = Some((listener, path.to_owned()));
            } else if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                anyhow::ensure!(found.tcp.is_none(), "systemd passes more than one TCP socket");
                found.tcp = Some(listener);
            } else {
                anyhow::bail!(
                    "systemd passes a socket (number {index}) that is neither a unix nor a TCP stream listener"
                );
            }
        }
        Ok(found)
    }

    /// The unix listener, where it is the one of that place.
    pub fn take_unix(&mut self, path: &std::path::Path) -> io::Result<Option<UnixListener>> {
        match self.unix.take_if(|(_, of)| of == path) {
            Some((listener, _)) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Some)
            }
            None => Ok(None),
        }
    }
}

/// A TCP listener, where it is the one of that address.
pub fn take_tcp(
    from: &mut Option<net::TcpListener>,
    address: net::SocketAddr,
) -> io::Result<Option<TcpListener>> {
    match from.take_if(|listener| listener.local_addr().is_ok_and(|of| of == address)) {
        Some(listener) => {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener).map(Some)
        }
        None => Ok(None),
    }
}
