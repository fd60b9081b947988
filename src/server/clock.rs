//! The machine's clocks.
//!
//! What decides is CLOCK_MONOTONIC: no jump of the wall clock moves it, it stands
//! still while the machine sleeps (whoever holds a lease slept, too, and gets the
//! time that was left), and it is one for all processes of a boot, so that times
//! outlive this one. CLOCK_BOOTTIME would end every lease at the wake-up.
//!
//! A process that is stopped (SIGSTOP, a frozen cgroup, a paused VM that does not
//! stop its clock, no CPU) finds on waking that time has run on while nobody could
//! renew a lease. That time is not held against anybody: the clock is read
//! several times a second, and a hole between two readings is left out.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use parking_lot::Mutex;

use crate::{
    app::ports::Clock,
    domain::time::{Now, Timestamp},
};

/// The longest time between two readings that is taken for running.
const HOLE: Duration = Duration::from_secs(1);

/// The clocks. What was left out is kept with the state, so that the times of a
/// process and of its successor lie on one line.
#[derive(Debug, Default)]
pub struct SystemClock {
    /// The last reading, in nanoseconds.
    read: AtomicU64,
    /// The holes left out so far, in nanoseconds.
    left_out: AtomicU64,
    /// What was said last before the last hole: no later answer is earlier.
    floor: AtomicU64,
    /// Held while a hole is left out, by the first who meets it.
    hole: Mutex<()>,
}

impl SystemClock {
    /// One that goes on after a process that had left so much out, in nanoseconds.
    pub fn after(left_out: u64) -> Self {
        Self { left_out: AtomicU64::new(left_out), ..Self::default() }
    }

    /// What was left out since the boot, in nanoseconds.
    pub fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Acquire)
    }

    /// What decides, when the machine's clock says `raw`.
    fn running(&self, raw: u64) -> u64 {
        let is_hole = |last: u64| last != 0 && raw.saturating_sub(last) > HOLE.as_nanos() as u64;
        if is_hole(self.read.load(Ordering::Acquire)) {
            let _first = self.hole.lock();
            let last = self.read.load(Ordering::Acquire);
            if is_hole(last) {
                let stopped = Duration::from_nanos(raw - last);
                let left_out = self.left_out.load(Ordering::Acquire);
                self.floor.store(last.saturating_sub(left_out), Ordering::Release);
                self.left_out.store(left_out + (raw - last), Ordering::Release);
                // Last: whoever sees no hole any more sees what was left out.
                self.read.store(raw, Ordering::Release);
                tracing::warn!(
                    ?stopped,
                    "this process did not run for a while; leases and breakers go on from where they were"
                );
            }
        } else {
            self.read.fetch_max(raw, Ordering::AcqRel);
        }
        // One who read the machine's clock before the hole comes out at its start.
        let running = raw.saturating_sub(self.left_out.load(Ordering::Acquire));
        running.max(self.floor.load(Ordering::Acquire))
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let raw = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let raw = Duration::new(raw.tv_sec.unsigned_abs(), raw.tv_nsec.unsigned_abs() as u32);
        let raw = u64::try_from(raw.as_nanos()).unwrap_or(u64::MAX);
        Now {
            mono: Timestamp::new(Duration::from_nanos(self.running(raw))),
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn time_in_which_the_process_stood_still_is_left_out_once() {
        let clock = SystemClock::default();
        assert_eq!(clock.running(1000 * SECOND), 1000 * SECOND, "the first reading is no hole");
        assert_eq!(clock.running(1001 * SECOND), 1001 * SECOND);
        let stood = clock.running(1301 * SECOND);
        assert_eq!(stood, 1001 * SECOND);
        assert_eq!(clock.running(1301 * SECOND + 5), stood + 5);
        let late = clock.running(1001 * SECOND);
        assert_eq!(late, stood, "one who was stopped with an old reading does not go back");
    }

    #[test]
    fn a_successor_goes_on_from_where_the_clock_of_the_one_before_was() {
        let clock = SystemClock::default();
        clock.running(1000 * SECOND);
        let before = clock.running(1300 * SECOND);
        let next = SystemClock::after(clock.left_out());
        assert_eq!(next.running(1302 * SECOND), before + 2 * SECOND);
    }
}
