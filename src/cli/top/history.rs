//! Counters over time: rates, and the shape of the last minutes.

use std::{collections::VecDeque, time::Duration};

/// Most samples kept.
const SAMPLES: usize = 120;
/// What a rate is taken over.
const RATE_OVER: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    at: Duration,
    acquired: u64,
    refused: u64,
}

/// Acquires and refusals, as counted at times.
#[derive(Debug, Clone, Default)]
pub struct History(VecDeque<Sample>);

/// Per second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// Sessions that took a slot.
    pub acquires: f64,
    /// Acquires refused.
    pub refusals: f64,
}

impl History {
    /// Nothing was counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the counters of `at`. `made_since`: they were at zero then.
    pub fn push(
        &mut self,
        made_since: Option<Duration>,
        at: Duration,
        acquired: u64,
        refused: u64,
    ) {
        let turned_back =
            self.0.back().is_some_and(|last| last.acquired > acquired || last.refused > refused);
        if turned_back {
            // They began anew, with the sidecar or with the tenant's state.
            self.0.clear();
        }
        if let Some(at) = made_since {
            self.0.push_back(Sample { at, acquired: 0, refused: 0 });
        }
        self.0.push_back(Sample { at, acquired, refused });
        while self.0.len() > SAMPLES {
            self.0.pop_front();
        }
    }

    /// Over the last seconds; none before there are two samples.
    #[must_use]
    pub fn rates(&self) -> Option<Rates> {
        let last = self.0.back()?;
        let since = last.at.saturating_sub(RATE_OVER);
        // The last sample that lies before the span, else the oldest.
        let first = self.0.iter().rev().find(|sample| sample.at <= since).or(self.0.front())?;
        let seconds = last.at.saturating_sub(first.at).as_secs_f64();
        (seconds > 0.0).then(|| Rates {
            acquires: (last.acquired - first.acquired) as f64 / seconds,
            refusals: (last.refused - first.refused) as f64 / seconds,
        })
    }

    /// Acquires and refusals between the last `count + 1` samples, oldest first.
    #[must_use]
    pub fn trend(&self, count: usize) -> Vec<(u64, u64)> {
        let skip = self.0.len().saturating_sub(count + 1);
        let pairs = self.0.iter().skip(skip).zip(self.0.iter().skip(skip + 1));
        pairs.map(|(a, b)| (b.acquired - a.acquired, b.refused - a.refused)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_rate_is_of_the_last_seconds_not_of_all_time() {
        let mut history = History::default();
        assert_eq!(history.rates(), None);
        history.push(None, at(0), 1000, 0);
        assert_eq!(history.rates(), None, "one sample is no rate");
        history.push(None, at(10), 1000, 0);
        history.push(None, at(15), 1010, 5);
        assert_eq!(history.rates(), Some(Rates { acquires: 2.0, refusals: 1.0 }));
        assert_eq!(history.trend(10), [(0, 0), (10, 5)]);
        assert_eq!(history.trend(1), [(10, 5)]);
    }

    #[test]
    fn counters_that_begin_anew_give_no_nonsense() {
        let mut history = History::default();
        history.push(None, at(0), 1000, 50);
        history.push(None, at(1), 3, 0);
        assert_eq!(history.rates(), None);
        history.push(None, at(2), 5, 0);
        assert_eq!(history.rates(), Some(Rates { acquires: 2.0, refusals: 0.0 }));
    }

    #[test]
    fn one_that_came_between_two_looks_is_counted_whole() {
        let mut history = History::default();
        history.push(Some(at(1)), at(2), 3, 1);
        assert_eq!(history.rates(), Some(Rates { acquires: 3.0, refusals: 1.0 }));
    }

    #[test]
    fn it_is_bounded() {
        let mut history = History::default();
        (0..1000).for_each(|n| history.push(None, at(n), n, 0));
        assert_eq!(history.trend(usize::MAX - 1).len(), SAMPLES - 1);
    }
}
