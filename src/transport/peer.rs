//! Who is at the other end of a connection.

use crate::app::{Caller, workers::Link};

/// Noted once, when the connection is accepted.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Names the connection within this run.
    pub connection: Link,
    /// For events: "uid:1000" or "tcp:127.0.0.1".
    pub actor: String,
    /// May call at all.
    pub permitted: bool,
}

impl Peer {
    /// A peer on the unix socket. The socket's mode keeps others out; the uid
    /// is asked all the same, since a mode can be changed by hand.
    #[must_use]
    pub fn unix(connection: Link, uid: Option<u32>, own_uid: u32) -> Self {
        let permitted = uid.is_some_and(|uid| uid == own_uid || uid == 0);
        let actor = uid.map_or_else(|| "uid:?".to_owned(), |uid| format!("uid:{uid}"));
        Self { connection, actor, permitted }
    }

    /// A peer on loopback TCP: anybody on this machine.
    #[must_use]
    pub fn tcp(connection: Link, address: std::net::SocketAddr) -> Self {
        Self { connection, actor: format!("tcp:{}", address.ip()), permitted: true }
    }

    /// As the use cases know it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        Caller { connection: self.connection, actor: self.actor.clone(), permitted: self.permitted }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_own_user_and_root_may_call_over_the_socket() {
        let permitted = |uid| Peer::unix(1, uid, 1000).permitted;
        assert!(permitted(Some(1000)) && permitted(Some(0)));
        assert!(!permitted(Some(1001)) && !permitted(None));
    }
}
