//! Connections that are closed, and calls that are refused, for the sake of the others: counted, and told as
//! often as an operator can read.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::Sidecar;
use crate::domain::budget::Budget;

/// Most log lines about one cause in a second.
const TOLD_PER_SECOND: u32 = 1;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shed {
    /// Its peer has `limits.connections_per_peer`.
    PeerAtBound,
    /// Its listener has `limits.max_connections`.
    ListenerAtBound,
    /// Its TLS handshake failed or did not end.
    Handshake,
    /// Nothing came from it in time, or nothing is taken.
    Silent,
    /// It floods in a way that HTTP/2 has a word for: streams that are reset, headers
    /// without end.
    Flood,
    /// It breaks HTTP/2's rules, or speaks none of it.
    Protocol,
    /// There was no file descriptor for it; it waits until there is.
    NoDescriptor,
    /// Of calls: their peer has as many under way as it may.
    CallsAtBound,
    /// Of calls: of messages that are not whole, their peer has as much as it may.
    PartialAtBound,
    /// Of calls: they have more headers than a call may.
    TooManyHeaders,
}

impl Shed {
    /// All of them, connections' first.
    pub const ALL: [Self; 10] = [
        Self::PeerAtBound,
        Self::ListenerAtBound,
        Self::Handshake,
        Self::Silent,
        Self::Flood,
        Self::Protocol,
        Self::NoDescriptor,
        Self::CallsAtBound,
        Self::PartialAtBound,
        Self::TooManyHeaders,
    ];

    /// A call was refused, and no connection closed.
    #[must_use]
    pub const fn is_of_calls(self) -> bool {
        matches!(self, Self::CallsAtBound | Self::PartialAtBound | Self::TooManyHeaders)
    }

    /// As metrics have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PeerAtBound => "peer_at_bound",
            Self::ListenerAtBound => "listener_at_bound",
            Self::Handshake => "handshake",
            Self::Silent => "silent",
            Self::Flood => "flood",
            Self::Protocol => "protocol",
            Self::NoDescriptor => "no_descriptor",
            Self::CallsAtBound => "calls_at_bound",
            Self::PartialAtBound => "partial_at_bound",
            Self::TooManyHeaders => "too_many_headers",
        }
    }
}

/// How many were, by cause.
pub type Counts = [u64; Shed::ALL.len()];

/// Of one cause.
#[derive(Default)]
struct Tally {
    count: AtomicU64,
    told: Mutex<Budget>,
}

/// By cause.
#[derive(Default)]
pub struct Sheds([Tally; Shed::ALL.len()]);

impl Sheds {
    /// How many were, by cause.
    pub fn counts(&self) -> Counts {
        std::array::from_fn(|at| self.0[at].count.load(Ordering::Relaxed))
    }
}

impl Sidecar {
    /// Counts one. True where it may be told, too.
    pub fn shed(&self, why: Shed) -> bool {
        let tally = &self.sheds.0[why as usize];
        tally.count.fetch_add(1, Ordering::Relaxed);
        tally.told.lock().take(TOLD_PER_SECOND, self.now().mono)
    }
}
