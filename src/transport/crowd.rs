//! How many connections each peer has: a process that opens them without end
//! must not take the places of all others.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;

/// Whose connections are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// A process on this machine.
    Process(i32),
    /// An address.
    Address(IpAddr),
}

/// All of them.
#[derive(Clone)]
pub struct Crowd {
    counts: Arc<Mutex<HashMap<Whose, u32>>>,
    most: u32,
}

/// One connection's place, until it is dropped.
pub struct Seat {
    counts: Arc<Mutex<HashMap<Whose, u32>>>,
    whose: Option<Whose>,
}

impl Crowd {
    /// At most so many for each.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self { counts: Arc::default(), most }
    }

    /// A place for one more. None: the peer has too many. Who cannot be told apart
    /// is not counted.
    #[must_use]
    pub fn enter(&self, whose: Option<Whose>) -> Option<Seat> {
        if let Some(whose) = whose {
            let mut counts = self.counts.lock();
            let count = counts.entry(whose).or_insert(0);
            if *count >= self.most {
                return None;
            }
            *count += 1;
        }
        Some(Seat { counts: Arc::clone(&self.counts), whose })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(whose) = self.whose else { return };
        if let Entry::Occupied(mut count) = self.counts.lock().entry(whose) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_cannot_take_anothers_place() {
        let crowd = Crowd::new(2);
        let of = |pid| crowd.enter(Some(Whose::Process(pid)));
        let seats = (of(1).unwrap(), of(1).unwrap());
        assert!(of(1).is_none());
        let other = of(2).unwrap();
        drop(seats);
        assert!(of(1).is_some());
        drop(other);
        assert!(crowd.counts.lock().is_empty(), "who has none is forgotten");
    }
}
