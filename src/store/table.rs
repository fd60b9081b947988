//! Tables that threads share. `tests/interleave` puts others in their place.

use std::hash::Hash;

use dashmap::DashMap;

use crate::domain::hash::Keyed;

/// A table.
pub type Table<K, V> = DashMap<K, V, Keyed>;

/// One of so many pieces, each with a lock of its own: a power of two.
pub fn in_pieces<K: Eq + Hash, V>(pieces: usize) -> Table<K, V> {
    DashMap::with_hasher_and_shard_amount(Keyed, pieces)
}
