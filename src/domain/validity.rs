//! How long certificates and revocation lists are good, and when that is to be
//! told. By the wall clock: it is a date that stands in them.

use std::time::Duration;

/// An end is told this long before, or in the last fifth of the whole time, where
/// that is shorter: certificates of an hour are renewed within it.
const AHEAD: Duration = Duration::from_secs(14 * 24 * 3600);
const LAST_PART: u32 = 5;

/// From when until when the file of a setting is good, as time since the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The setting.
    pub file: &'static str,
    /// Begins.
    pub from: Duration,
    /// Ends.
    pub until: Duration,
}

impl Validity {
    /// The time that is left; none when it is over.
    #[must_use]
    pub fn left(&self, wall: Duration) -> Option<Duration> {
        self.until.checked_sub(wall).filter(|left| !left.is_zero())
    }

    /// It is time to renew it.
    #[must_use]
    pub fn is_ending(&self, wall: Duration) -> bool {
        let whole = self.until.saturating_sub(self.from);
        self.left(wall).is_none_or(|left| left < AHEAD.min(whole / LAST_PART))
    }

    /// "ends in 12 days", "ended 3 hours ago".
    #[must_use]
    pub fn told(&self, wall: Duration) -> String {
        match self.left(wall) {
            Some(left) => format!("ends in {}", rough(left)),
            None => format!("ended {} ago", rough(wall.saturating_sub(self.until))),
        }
    }
}

fn rough(time: Duration) -> String {
    const UNITS: [(u64, &str); 3] = [(24 * 3600, "days"), (3600, "hours"), (60, "minutes")];
    let seconds = time.as_secs();
    let unit = UNITS.iter().find(|(of, _)| seconds >= 2 * of);
    unit.map_or_else(
        || format!("{seconds} seconds"),
        |(of, name)| format!("{} {name}", seconds / of),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn good_for(seconds: u64) -> Validity {
        let from = Duration::from_secs(1000 * DAY);
        Validity { file: "cert_file", from, until: from + Duration::from_secs(seconds) }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(1000 * DAY + seconds)
    }

    #[test]
    fn an_end_is_told_two_weeks_ahead_or_in_the_last_fifth_of_a_short_time() {
        let quarter = good_for(90 * DAY);
        assert!(!quarter.is_ending(at(75 * DAY)));
        assert!(quarter.is_ending(at(76 * DAY + 1)));
        let hour = good_for(HOUR);
        assert!(!hour.is_ending(at(47 * 60)), "it is renewed in time");
        assert!(hour.is_ending(at(49 * 60)));
        assert!(hour.is_ending(at(HOUR)), "it is over");
    }

    #[test]
    fn the_time_left_is_told_in_days_and_nearer_the_end_in_less() {
        let quarter = good_for(90 * DAY);
        for (seconds, told) in [
            (0, "ends in 90 days"),
            (88 * DAY, "ends in 2 days"),
            (89 * DAY, "ends in 24 hours"),
            (90 * DAY - 90, "ends in 90 seconds"),
            (90 * DAY, "ended 0 seconds ago"),
            (93 * DAY, "ended 3 days ago"),
        ] {
            assert_eq!(quarter.told(at(seconds)), told);
        }
    }
}
