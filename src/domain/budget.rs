//! So many a second, and no more.

use std::time::Duration;

use super::time::Timestamp;

/// A token bucket that holds one second's worth.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    left: f64,
    /// What it held when it was full, by the latest rate.
    full: f64,
    filled: Option<Timestamp>,
}

impl Budget {
    /// Takes one of `per_second`; false when there is none left.
    pub fn take(&mut self, per_second: u32, now: Timestamp) -> bool {
        let full = f64::from(per_second);
        let gained = self.filled.map_or(full, |at| now.since(at).as_secs_f64() * full);
        self.left = (self.left + gained).min(full);
        (self.full, self.filled) = (full, Some(now));
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }

    /// So little is missing that nothing is lost by beginning anew.
    #[must_use]
    pub fn is_full(&self, now: Timestamp) -> bool {
        let gained = self.filled.map_or(self.full, |at| now.since(at).as_secs_f64() * self.full);
        self.left + gained >= self.full * 0.9
    }

    /// How long until there is one to take, as of the last try.
    #[must_use]
    pub fn wait(&self, per_second: u32) -> Duration {
        let missing = (1.0 - self.left).max(0.0);
        Duration::try_from_secs_f64(missing / f64::from(per_second.max(1))).unwrap_or_default()
    }
}

/// Turns for what comes too fast: so many a second at once, and each further one a
/// little later than the one before, but never much later.
#[derive(Debug, Default)]
pub struct Turns {
    next: Timestamp,
}

impl Turns {
    /// How long to wait for a turn.
    pub fn take(&mut self, per_second: u32, longest: Duration, now: Timestamp) -> Duration {
        let wait = self.next.since(now).min(longest);
        self.next = now.plus(wait + Duration::from_secs(1) / per_second.max(1));
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_gets_one_seconds_worth_and_then_the_rate() {
        let mut budget = Budget::default();
        let at = |millis| Timestamp::new(Duration::from_millis(millis));
        let taken = (0..100).filter(|_| budget.take(10, at(0))).count();
        assert_eq!(taken, 10);
        let taken = (0..100).filter(|_| budget.take(10, at(500))).count();
        assert_eq!(taken, 5);
        let taken = (0..100).filter(|_| budget.take(10, at(3_600_000))).count();
        assert_eq!(taken, 10, "an idle hour saves nothing up");
    }

    #[test]
    fn a_changed_rate_holds_at_once_and_gives_nobody_a_second_burst() {
        let mut budget = Budget::default();
        let at = |millis| Timestamp::new(Duration::from_millis(millis));
        let mut taken = |rate, millis| (0..1000).filter(|_| budget.take(rate, at(millis))).count();
        assert_eq!(taken(10, 0), 10);
        assert_eq!(taken(100, 0), 0, "what was spent stays spent");
        assert_eq!(taken(100, 500), 50);
        assert_eq!(taken(100, 1500), 100);
        assert_eq!(taken(10, 2500), 10, "and what was saved up is cut");
    }

    #[test]
    fn it_is_full_again_after_a_second() {
        let mut budget = Budget::default();
        let at = |millis| Timestamp::new(Duration::from_millis(millis));
        assert!(budget.is_full(at(0)), "never used");
        for _ in 0..10 {
            assert!(budget.take(10, at(0)));
        }
        assert!(!budget.is_full(at(0)) && !budget.is_full(at(800)));
        assert!(budget.is_full(at(1000)));
    }

    #[test]
    fn turns_come_one_after_the_other_and_nobody_waits_longer_than_the_longest() {
        let mut turns = Turns::default();
        let longest = Duration::from_millis(50);
        let at = |millis| Timestamp::new(Duration::from_millis(millis));
        let mut wait = |millis| turns.take(100, longest, at(millis)).as_millis();
        assert_eq!([wait(0), wait(0), wait(0), wait(15)], [0, 10, 20, 15]);
        let last = (0..100).map(|_| wait(20)).last();
        assert_eq!(last, Some(50));
        assert_eq!([wait(1000), wait(1010)], [0, 0], "who comes in time waits for nothing");
    }
}
