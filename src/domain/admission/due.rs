//! When each of many things is due: a heap that knows where each of them is, so that
//! one can be moved or taken out without a search. 20 bytes for each.

use crate::domain::time::Timestamp;

/// Children of a node: wide, so that the way down is short and its steps lie together.
const WIDTH: usize = 4;
/// The place of what is not in the heap.
const NOWHERE: u32 = u32::MAX;

/// The heap. Things are small numbers, as a slab gives them.
#[derive(Debug, Default)]
pub struct Due {
    heap: Vec<(Timestamp, u32)>,
    /// Where in the heap each thing is.
    places: Vec<u32>,
}

impl Due {
    /// The first that is due.
    pub fn first(&self) -> Option<(Timestamp, u32)> {
        self.heap.first().copied()
    }

    /// When this one is due.
    pub fn at(&self, thing: u32) -> Option<Timestamp> {
        let place = *self.places.get(index(thing))?;
        self.heap.get(index(place)).map(|(at, _)| *at)
    }

    /// Sets when it is due, whether it was there or not.
    pub fn set(&mut self, thing: u32, at: Timestamp) {
        if self.places.len() <= index(thing) {
            self.places.resize(index(thing) + 1, NOWHERE);
        }
        let place = self.places.get(index(thing)).copied().unwrap_or(NOWHERE);
        if let Some(entry) = self.heap.get_mut(index(place)) {
            let later = at > entry.0;
            entry.0 = at;
            if later { self.sink(index(place)) } else { self.rise(index(place)) }
        } else {
            self.heap.push((at, thing));
            self.rise(self.heap.len() - 1);
        }
    }

    /// Takes it out.
    pub fn remove(&mut self, thing: u32) {
        let Some(place) = self.places.get_mut(index(thing)) else { return };
        let place = index(std::mem::replace(place, NOWHERE));
        if place >= self.heap.len() {
            return;
        }
        self.heap.swap_remove(place);
        if place < self.heap.len() {
            // The last one took its place: it may belong above or below.
            self.rise(place);
            self.sink(place);
        }
    }

    fn rise(&mut self, mut place: usize) {
        let Some(entry) = self.heap.get(place).copied() else { return };
        while place > 0 {
            let above = (place - 1) / WIDTH;
            match self.heap.get(above).copied() {
                Some(parent) if parent.0 > entry.0 => self.put(place, parent),
                _ => break,
            }
            place = above;
        }
        self.put(place, entry);
    }

    fn sink(&mut self, mut place: usize) {
        let Some(entry) = self.heap.get(place).copied() else { return };
        loop {
            let first = place * WIDTH + 1;
            let children = self.heap.get(first..).unwrap_or_default().iter().take(WIDTH);
            let least = children.enumerate().min_by_key(|(_, child)| child.0);
            match least {
                Some((nth, child)) if child.0 < entry.0 => {
                    let child = *child;
                    self.put(place, child);
                    place = first + nth;
                }
                _ => break,
            }
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (Timestamp, u32)) {
        if let (Some(node), Some(at)) =
            (self.heap.get_mut(place), self.places.get_mut(index(entry.1)))
        {
            *node = entry;
            *at = u32::try_from(place).unwrap_or(NOWHERE);
        }
    }
}

fn index(of: u32) -> usize {
    usize::try_from(of).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use proptest::prelude::*;

    use super::*;

    fn at(nanos: u64) -> Timestamp {
        Timestamp::new(Duration::from_nanos(nanos))
    }

    proptest! {
        /// Against an ordered set, which is slower and cannot be wrong.
        #[test]
        fn the_first_is_always_the_one_that_is_due_first(
            steps in prop::collection::vec((0_u32..40, prop::option::weighted(0.7, 0_u64..50)), 1..400)
        ) {
            let (mut due, mut model) = (Due::default(), BTreeSet::new());
            for (thing, when) in steps {
                model.retain(|(_, other)| *other != thing);
                match when {
                    Some(when) => {
                        model.insert((at(when), thing));
                        due.set(thing, at(when));
                        prop_assert_eq!(due.at(thing), Some(at(when)));
                    }
                    None => {
                        due.remove(thing);
                        prop_assert_eq!(due.at(thing), None);
                    }
                }
                let first = model.first().map(|(at, _)| *at);
                prop_assert_eq!(due.first().map(|(at, _)| at), first);
                prop_assert_eq!(due.heap.len(), model.len());
            }
            // In order to the end.
            let mut left = Vec::new();
            while let Some((when, thing)) = due.first() {
                left.push((when, thing));
                due.remove(thing);
            }
            prop_assert!(left.is_sorted_by_key(|(when, _)| *when));
            prop_assert_eq!(left.into_iter().collect::<BTreeSet<_>>(), model);
        }
    }
}
