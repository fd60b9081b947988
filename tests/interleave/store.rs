//! The shipped files of it, over shuttle's locks, tables and atomics.

#[path = "../../src/store/agenda.rs"]
mod agenda;
#[path = "../../src/store/ended.rs"]
pub mod ended;
#[path = "../../src/store/memory.rs"]
pub mod memory;

/// Shuttle's have no hasher to choose.
mod table {
    use std::hash::Hash;

    use dashmap::DashMap;

    pub type Table<K, V> = DashMap<K, V>;

    pub fn in_pieces<K: Eq + Hash, V>(pieces: usize) -> Table<K, V> {
        DashMap::with_shard_amount(pieces)
    }
}
