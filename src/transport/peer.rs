//! Who is at the other end of a connection.

use std::sync::Arc;

use crate::{
    app::{Caller, workers::Link},
    domain::access::{Shown, TokenHash, Transport},
};

/// Noted once, when the connection is accepted.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Names the connection within this run.
    pub connection: Link,
    /// What it shows of itself, but for the token of each call.
    pub shown: Arc<Shown>,
}

impl Peer {
    fn new(connection: Link, transport: Transport, certificates: Arc<[String]>) -> Self {
        Self { connection, shown: Arc::new(Shown { transport, certificates, token: None }) }
    }

    /// A peer on the unix socket: what the kernel says of it, and not what the
    /// socket's mode lets in, since a mode can be changed by hand.
    #[must_use]
    pub fn unix(connection: Link, peer: Option<(u32, u32, Option<i32>)>, own_uid: u32) -> Self {
        let (uid, gid) = (peer.map(|of| of.0), peer.map(|of| of.1));
        let own = uid.is_some_and(|uid| uid == own_uid || uid == 0);
        let pid = peer.and_then(|of| of.2);
        Self::new(connection, Transport::Unix { uid, gid, pid, own }, Arc::new([]))
    }

    /// A peer on TCP. `open`: as in [`Transport::Tcp`]. `certificates`: the names
    /// in its verified certificate.
    #[must_use]
    pub fn tcp(
        connection: Link,
        address: std::net::SocketAddr,
        open: bool,
        certificates: Arc<[String]>,
    ) -> Self {
        let transport = Transport::Tcp { address: address.ip().to_string(), open };
        Self::new(connection, transport, certificates)
    }

    /// Its process, where the kernel says so.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        match self.shown.transport {
            Transport::Unix { pid, .. } => pid,
            Transport::Tcp { .. } => None,
        }
    }

    /// As the use cases know it, with the token of this call.
    #[must_use]
    pub fn caller(&self, token: Option<TokenHash>) -> Caller {
        let shown = match token {
            None => Arc::clone(&self.shown),
            token => Arc::new(Shown { token, ..(*self.shown).clone() }),
        };
        Caller { connection: self.connection, shown }
    }
}
