//! So many a second, and no more.

use std::time::Duration;

use super::time::Timestamp;

/// A token bucket that holds one second's worth.
#[derive(Debug, Default)]
pub struct Budget {
    left: f64,
    filled: Option<Timestamp>,
}

impl Budget {
    /// Takes one of `per_second`; false when there is none left.
    pub fn take(&mut self, per_second: u32, now: Timestamp) -> bool {
        let full = f64::from(per_second);
        let gained = self.filled.map_or(full, |at| now.since(at).as_secs_f64() * full);
        self.left = (self.left + gained).min(full);
        self.filled = Some(now);
        let taken = self.left >= 1.0;
        if taken {
            self.left -= 1.0;
        }
        taken
    }

    /// How long until there is one to take, as of the last try.
    #[must_use]
    pub fn wait(&self, per_second: u32) -> Duration {
        let missing = (1.0 - self.left).max(0.0);
        Duration::try_from_secs_f64(missing / f64::from(per_second.max(1))).unwrap_or_default()
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
}
