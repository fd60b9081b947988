//! How many watch: a bounded number.

use std::sync::Arc;

use super::atomic::{AtomicU32, Ordering};

/// Those that watch.
#[derive(Default)]
pub struct Watchers(AtomicU32);

/// One that watches, until it is dropped.
pub struct Place(Arc<Watchers>);

impl Watchers {
    /// A place among at most so many; none: they are taken.
    pub fn enter(self: &Arc<Self>, most: u32) -> Option<Place> {
        self.0
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| (n < most).then_some(n + 1))
            .is_ok()
            .then(|| Place(Arc::clone(self)))
    }

    /// How many there are.
    pub fn count(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
