//! Points in time, handed in by the caller. Nothing here can ask for "now".

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A reading of the monotonic clock: time since an origin that is the same for
/// all processes until the machine boots again. Leases and breakers are decided
/// by this one alone, so that a jump of the wall clock changes nothing. In nanoseconds,
/// enough for five centuries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The clock's origin.
    pub const ZERO: Self = Self(0);

    /// A reading of `since_origin` after the origin.
    #[must_use]
    pub const fn new(since_origin: Duration) -> Self {
        Self(whole(since_origin))
    }

    /// Time since the origin.
    #[must_use]
    pub const fn since_origin(self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// `by` later. Saturates instead of overflowing.
    #[must_use]
    pub const fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(whole(by)))
    }

    /// How long after `earlier` this is; zero when it is not after it.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.since_origin().fmt(f)
    }
}

#[expect(clippy::cast_possible_truncation, reason = "compared before")]
const fn whole(time: Duration) -> u64 {
    let nanos = time.as_nanos();
    if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(self.0)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        u64::deserialize(from).map(Self)
    }
}

/// Durations as whole nanoseconds: enough for five centuries.
pub mod nanos {
    use super::{Deserialize as _, Deserializer, Duration, Serializer};

    /// Writes one.
    ///
    /// # Errors
    /// The format's.
    pub fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(super::whole(*time))
    }

    /// Reads one.
    ///
    /// # Errors
    /// The format's.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_nanos)
    }
}

/// The time of one decision, read once at its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    /// Decides.
    pub mono: Timestamp,
    /// Is shown to people: time since the Unix epoch.
    #[serde(with = "nanos")]
    pub wall: Duration,
}

impl Now {
    /// The wall clock's reading at the monotonic `at`, seen from this moment.
    #[must_use]
    pub fn wall_at(&self, at: Timestamp) -> Duration {
        (self.wall + at.since(self.mono)).saturating_sub(self.mono.since(at))
    }
}
