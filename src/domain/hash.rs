//! How the tables hash what others choose: ids and names.
//!
//! By one key for the whole process, drawn at its first use: nobody outside can make ids
//! that fall together, and no table pays for a key of its own. aHash takes a third of the
//! time of the standard library's SipHash, which was 4% of a call.

use std::{hash::BuildHasher, sync::LazyLock};

use ahash::{AHasher, RandomState};

static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// For tables.
#[derive(Debug, Clone, Copy, Default)]
pub struct Keyed;

impl BuildHasher for Keyed {
    type Hasher = AHasher;

    fn build_hasher(&self) -> AHasher {
        KEY.build_hasher()
    }
}
