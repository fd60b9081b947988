//! One tenant's circuit breaker: closed (admits), open (rejects), half-open
//! (admits probes).
//!
//! A *period* is the time between two state changes. Sessions carry the ticket
//! of the period that admitted them, and an outcome counts for that period
//! only: late failures of sessions from before an opening cannot open it again.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    limits::BreakerPolicy,
    record::says_nothing,
    time::{Now, Timestamp, nanos},
};

/// Buckets of the sliding window. With 12, a sample counts for between 11/12
/// of the window and all of it, and the cost of a sample is fixed.
const BUCKETS: usize = 12;

/// What a session keeps of its admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    pub(super) period: u64,
    /// Admitted while half-open.
    #[serde(default, skip_serializing_if = "says_nothing")]
    pub probe: bool,
}

/// Current state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Admits.
    Closed,
    /// Rejects until then.
    Open {
        /// When it half-opens.
        until: Timestamp,
    },
    /// Admits probes.
    HalfOpen {
        /// Probes under way.
        live: u32,
        /// Probes that ended well or lived healthily.
        healthy: u32,
    },
}

/// A state change, to be told to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Opened.
    Opened {
        /// Bad samples in the window.
        failures: u32,
        /// All samples in the window.
        samples: u32,
        /// How long it stays open.
        cooldown: Duration,
    },
    /// The cooldown is over.
    HalfOpened,
    /// Recovered, or reset.
    Closed,
}

/// The breaker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    state: State,
    period: u64,
    /// Openings since it was last closed: each doubles the cooldown.
    openings: u32,
    /// None before the first sample: most breakers of a large sidecar have none. Shared
    /// with what was last recorded, until one of them differs.
    #[serde(with = "window")]
    window: Option<Arc<Window>>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { state: State::Closed, period: 0, openings: 0, window: None }
    }
}

impl Breaker {
    /// Current state, as of the last call that took `now`.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Good and bad samples in the window.
    #[must_use]
    pub fn samples(&self, now: Timestamp, policy: &BreakerPolicy) -> (u32, u32) {
        self.window.as_ref().map_or((0, 0), |window| window.totals(now, policy.window))
    }

    /// Nothing would be lost by forgetting it.
    #[must_use]
    pub fn is_pristine(&self, now: Timestamp, policy: &BreakerPolicy) -> bool {
        self.state == State::Closed && self.samples(now, policy) == (0, 0)
    }

    /// When it changes by itself.
    #[must_use]
    pub const fn next_change(&self) -> Option<Timestamp> {
        match self.state {
            State::Open { until } => Some(until),
            State::Closed | State::HalfOpen { .. } => None,
        }
    }

    /// Lets time pass: an open breaker half-opens on time, one that was switched
    /// off closes.
    pub fn advance(&mut self, now: Timestamp, policy: &BreakerPolicy) -> Option<Change> {
        if !policy.enabled && self.state != State::Closed {
            return Some(self.close());
        }
        match self.state {
            State::Open { until } if until <= now => {
                self.enter(State::HalfOpen { live: 0, healthy: 0 });
                Some(Change::HalfOpened)
            }
            State::Open { .. } | State::Closed | State::HalfOpen { .. } => None,
        }
    }

    /// May a session start?
    ///
    /// # Errors
    /// When to come back. While half-open with all probes taken nobody knows;
    /// the time after which a probe counts as healthy is the honest guess.
    pub fn check(&self, now: Timestamp, policy: &BreakerPolicy) -> Result<(), Duration> {
        match self.state {
            State::Closed => Ok(()),
            State::Open { until } => Err(until.since(now)),
            State::HalfOpen { live, .. } if live < policy.probes => Ok(()),
            State::HalfOpen { .. } => Err(policy.probe_healthy_after),
        }
    }

    /// Books a session that `check` and everything after it let in.
    pub const fn admit(&mut self) -> Ticket {
        let probe = match &mut self.state {
            State::HalfOpen { live, .. } => {
                *live += 1;
                true
            }
            State::Closed | State::Open { .. } => false,
        };
        Ticket { period: self.period, probe }
    }

    /// A session ended without a sample: a probe gives its place back.
    pub const fn give_back(&mut self, ticket: Ticket) {
        if ticket.period != self.period {
            return;
        }
        if let State::HalfOpen { live, .. } = &mut self.state {
            *live = live.saturating_sub(1);
        }
    }

    /// A good sample of the ticket's period. True when it counted.
    pub fn good(
        &mut self,
        ticket: Ticket,
        now: Timestamp,
        policy: &BreakerPolicy,
    ) -> (bool, Option<Change>) {
        if !policy.enabled || ticket.period != self.period {
            return (false, None);
        }
        match &mut self.state {
            State::Closed => {
                self.count(now, policy, true);
                (true, self.judge(now, policy))
            }
            State::HalfOpen { healthy, .. } => {
                *healthy += 1;
                let recovered = *healthy >= policy.probes;
                (true, recovered.then(|| self.close()))
            }
            State::Open { .. } => (false, None),
        }
    }

    /// A bad sample of the ticket's period. True when it counted.
    pub fn bad(
        &mut self,
        ticket: Ticket,
        now: Timestamp,
        policy: &BreakerPolicy,
    ) -> (bool, Option<Change>) {
        if !policy.enabled || ticket.period != self.period {
            return (false, None);
        }
        match self.state {
            State::Closed => {
                self.count(now, policy, false);
                (true, self.judge(now, policy))
            }
            State::HalfOpen { .. } => (true, Some(self.open(now, policy, None, (1, 1)))),
            State::Open { .. } => (false, None),
        }
    }

    /// Opens by hand, for `duration` or the cooldown.
    pub fn force_open(
        &mut self,
        now: Timestamp,
        policy: &BreakerPolicy,
        duration: Option<Duration>,
    ) -> Change {
        let (good, bad) = self.samples(now, policy);
        self.open(now, policy, duration, (bad, good + bad))
    }

    /// Comes back after a restart, with `probes` of this period still live.
    #[must_use]
    pub fn resumed(mut self, tickets: impl Iterator<Item = Ticket>) -> Self {
        let period = self.period;
        if let State::HalfOpen { live, .. } = &mut self.state {
            let held = tickets.filter(|ticket| ticket.period == period).count();
            *live = u32::try_from(held).unwrap_or(u32::MAX);
        }
        self
    }

    /// Closes and forgets all samples.
    pub fn reset(&mut self) -> Change {
        self.close()
    }

    fn count(&mut self, now: Timestamp, policy: &BreakerPolicy, good: bool) {
        Arc::make_mut(self.window.get_or_insert_default()).add(now, policy.window, good);
    }

    fn judge(&mut self, now: Timestamp, policy: &BreakerPolicy) -> Option<Change> {
        let (good, bad) = self.samples(now, policy);
        let samples = good + bad;
        let too_many = f64::from(bad) > policy.failure_ratio * f64::from(samples);
        (samples >= policy.min_samples && too_many)
            .then(|| self.open(now, policy, None, (bad, samples)))
    }

    fn open(
        &mut self,
        now: Timestamp,
        policy: &BreakerPolicy,
        duration: Option<Duration>,
        (failures, samples): (u32, u32),
    ) -> Change {
        let doubled =
            policy.cooldown.saturating_mul(1_u32.checked_shl(self.openings).unwrap_or(u32::MAX));
        let cooldown = duration.unwrap_or_else(|| doubled.min(policy.cooldown_max));
        self.openings = (self.openings + 1).min(31);
        self.enter(State::Open { until: now.plus(cooldown) });
        Change::Opened { failures, samples, cooldown }
    }

    fn close(&mut self) -> Change {
        self.openings = 0;
        self.enter(State::Closed);
        Change::Closed
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.period += 1;
        self.window = None;
    }
}

/// What one operator call or timer did to a breaker, seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    /// Switched on.
    pub enabled: bool,
    /// Its state.
    pub state: State,
    /// Good samples in the window.
    pub successes: u32,
    /// Bad samples in the window.
    pub failures: u32,
    /// Until it half-opens; only while open.
    pub open_remaining: Option<Duration>,
}

impl Breaker {
    /// The breaker as others may see it.
    #[must_use]
    pub fn view(&self, now: Now, policy: &BreakerPolicy) -> View {
        let (successes, failures) = self.samples(now.mono, policy);
        let open_remaining = self.next_change().map(|until| until.since(now.mono));
        View { enabled: policy.enabled, state: self.state, successes, failures, open_remaining }
    }
}

/// Good and bad samples of one stretch of time.
type Bucket = (u32, u32);

/// Counts of the last `window`, in a ring of buckets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Written", into = "Written")]
struct Window {
    /// The window that the buckets were cut for: a reload may change it.
    cut_for: Duration,
    /// The newest stretch of time that has a bucket; those before it have the others.
    newest: u64,
    buckets: [Bucket; BUCKETS],
}

/// As it is written: only the buckets that hold something, each with its stretch.
#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(with = "nanos")]
    cut_for: Duration,
    buckets: Vec<(u64, u32, u32)>,
}

impl From<Window> for Written {
    fn from(window: Window) -> Self {
        let filled = window.stretches().map(|(stretch, (good, bad))| (stretch, good, bad));
        let buckets = filled.filter(|(_, good, bad)| good + bad > 0).collect();
        Self { cut_for: window.cut_for, buckets }
    }
}

impl From<Written> for Window {
    fn from(written: Written) -> Self {
        let mut window = Self { cut_for: written.cut_for, ..Self::default() };
        for (stretch, good, bad) in written.buckets {
            if let Some(bucket) = window.bucket(stretch) {
                *bucket = (good, bad);
            }
        }
        window
    }
}

/// A breaker without samples is written as one with an empty window.
mod window {
    use std::sync::Arc;

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::Window;

    pub fn serialize<S: Serializer>(
        window: &Option<Arc<Window>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match window {
            Some(window) => window.serialize(to),
            None => Window::default().serialize(to),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<Window>>, D::Error> {
        let window = Window::deserialize(from)?;
        Ok((window != Window::default()).then(|| Arc::new(window)))
    }
}

impl Window {
    fn stretch(now: Timestamp, window: Duration) -> u64 {
        let width = (window / BUCKETS as u32).max(Duration::from_nanos(1));
        let index = now.since_origin().as_nanos() / width.as_nanos();
        u64::try_from(index).unwrap_or(u64::MAX - 1) + 1
    }

    fn place(stretch: u64) -> usize {
        usize::try_from(stretch % BUCKETS as u64).unwrap_or(0)
    }

    /// The stretches that have a bucket, and what they hold.
    fn stretches(&self) -> impl Iterator<Item = (u64, Bucket)> {
        let oldest = (self.newest + 1).saturating_sub(BUCKETS as u64).max(1);
        (oldest..=self.newest).map(|stretch| {
            (stretch, self.buckets.get(Self::place(stretch)).copied().unwrap_or_default())
        })
    }

    /// The bucket of a stretch; none when it is out of the window already.
    fn bucket(&mut self, stretch: u64) -> Option<&mut Bucket> {
        let new = stretch.saturating_sub(self.newest).min(BUCKETS as u64);
        for later in (stretch + 1).saturating_sub(new)..=stretch {
            if new > 0
                && let Some(bucket) = self.buckets.get_mut(Self::place(later))
            {
                *bucket = (0, 0);
            }
        }
        self.newest = self.newest.max(stretch);
        if stretch + BUCKETS as u64 <= self.newest {
            return None;
        }
        self.buckets.get_mut(Self::place(stretch))
    }

    fn add(&mut self, now: Timestamp, window: Duration, good: bool) {
        if self.cut_for != window {
            *self = Self { cut_for: window, ..Self::default() };
        }
        if let Some((well, badly)) = self.bucket(Self::stretch(now, window)) {
            let count = if good { well } else { badly };
            *count = count.saturating_add(1);
        }
    }

    fn totals(&self, now: Timestamp, window: Duration) -> (u32, u32) {
        if self.cut_for != window {
            return (0, 0);
        }
        let newest = Self::stretch(now, window);
        let oldest = newest.saturating_sub(BUCKETS as u64 - 1);
        self.stretches().filter(|(stretch, _)| (oldest..=newest).contains(stretch)).fold(
            (0, 0),
            |(good, bad): Bucket, (_, (well, badly))| {
                (good.saturating_add(well), bad.saturating_add(badly))
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy {
        enabled: true,
        window: Duration::from_secs(60),
        min_samples: 5,
        failure_ratio: 0.5,
        cooldown: Duration::from_secs(30),
        cooldown_max: Duration::from_secs(100),
        probes: 3,
        probe_healthy_after: Duration::from_secs(10),
    };

    fn at(seconds: u64) -> Timestamp {
        Timestamp::new(Duration::from_secs(seconds))
    }

    fn opened_at(seconds: u64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..5 {
            let ticket = breaker.admit();
            breaker.bad(ticket, at(seconds), &POLICY);
        }
        assert!(matches!(breaker.state(), State::Open { .. }));
        breaker
    }

    fn half_open_at(seconds: u64) -> Breaker {
        let mut breaker = opened_at(seconds - 30);
        assert_eq!(breaker.advance(at(seconds), &POLICY), Some(Change::HalfOpened));
        breaker
    }

    #[test]
    fn opens_only_above_the_ratio_and_from_min_samples_on() {
        let mut breaker = Breaker::default();
        let ticket = breaker.admit();
        for good in [false, false, true, true] {
            let _ = if good {
                breaker.good(ticket, at(1), &POLICY)
            } else {
                breaker.bad(ticket, at(1), &POLICY)
            };
        }
        assert_eq!(breaker.state(), State::Closed, "four samples are too few");
        breaker.good(ticket, at(1), &POLICY);
        breaker.bad(ticket, at(1), &POLICY);
        assert_eq!(breaker.state(), State::Closed, "exactly half is not more than half");
        let (_, change) = breaker.bad(ticket, at(1), &POLICY);
        assert_eq!(
            change,
            Some(Change::Opened { failures: 4, samples: 7, cooldown: POLICY.cooldown })
        );
    }

    #[test]
    fn samples_older_than_the_window_do_not_count() {
        let mut breaker = Breaker::default();
        let ticket = breaker.admit();
        for _ in 0..4 {
            breaker.bad(ticket, at(0), &POLICY);
        }
        breaker.bad(ticket, at(61), &POLICY);
        assert_eq!(breaker.state(), State::Closed);
        assert_eq!(breaker.samples(at(61), &POLICY), (0, 1));
    }

    #[test]
    fn samples_come_back_from_the_state_as_they_were_written_also_by_earlier_versions() {
        let mut breaker = Breaker::default();
        let ticket = breaker.admit();
        let written = serde_json::to_string(&breaker).unwrap();
        assert!(written.ends_with(r#""window":{"cut_for":0,"buckets":[]}}"#), "{written}");
        assert_eq!(serde_json::from_str::<Breaker>(&written).unwrap(), breaker);
        for (second, good) in [(2, true), (3, false), (13, true), (58, true), (70, true)] {
            let _ = if good {
                breaker.good(ticket, at(second), &POLICY)
            } else {
                breaker.bad(ticket, at(second), &POLICY)
            };
        }
        let written = serde_json::to_string(&breaker).unwrap();
        let buckets = r#"{"cut_for":60000000000,"buckets":[[12,1,0],[15,1,0]]}"#;
        assert!(written.contains(buckets), "{written}");
        let read: Breaker = serde_json::from_str(&written).unwrap();
        assert_eq!(read, breaker);
        assert_eq!(read.samples(at(70), &POLICY), (2, 0));
        assert_eq!(read.samples(at(116), &POLICY), (1, 0));
    }

    #[test]
    fn open_rejects_with_the_time_left_and_half_opens_by_itself() {
        let mut breaker = opened_at(100);
        assert_eq!(breaker.check(at(110), &POLICY), Err(Duration::from_secs(20)));
        assert_eq!(breaker.advance(at(129), &POLICY), None);
        assert_eq!(breaker.next_change(), Some(at(130)));
        assert_eq!(breaker.advance(at(130), &POLICY), Some(Change::HalfOpened));
    }

    #[test]
    fn half_open_admits_exactly_the_probes_and_takes_places_back() {
        let mut breaker = half_open_at(200);
        let tickets: Vec<_> = (0..3)
            .map(|_| {
                breaker.check(at(200), &POLICY).unwrap();
                breaker.admit()
            })
            .collect();
        assert!(tickets.iter().all(|t| t.probe));
        assert_eq!(breaker.check(at(200), &POLICY), Err(POLICY.probe_healthy_after));
        breaker.give_back(tickets[0]);
        assert_eq!(breaker.check(at(200), &POLICY), Ok(()));
    }

    #[test]
    fn probes_that_end_well_close_it_and_one_that_fails_reopens_it_for_twice_as_long() {
        let mut breaker = half_open_at(200);
        for left in [2, 1, 0] {
            let ticket = breaker.admit();
            let (counted, change) = breaker.good(ticket, at(201), &POLICY);
            assert!(counted);
            assert_eq!(change, (left == 0).then_some(Change::Closed));
        }
        let mut breaker = half_open_at(200);
        let mut cooldowns = Vec::new();
        let mut now = 200;
        for _ in 0..3 {
            let ticket = breaker.admit();
            let (_, change) = breaker.bad(ticket, at(now), &POLICY);
            let Some(Change::Opened { cooldown, .. }) = change else { panic!("{change:?}") };
            cooldowns.push(cooldown.as_secs());
            now += cooldown.as_secs();
            breaker.advance(at(now), &POLICY);
        }
        assert_eq!(cooldowns, [60, 100, 100], "doubled up to the maximum");
    }

    #[test]
    fn an_outcome_of_an_earlier_period_changes_nothing() {
        let mut early = Breaker::default();
        let old = early.admit();
        let mut breaker = half_open_at(200);
        assert_eq!(breaker.bad(old, at(200), &POLICY), (false, None));
        assert!(matches!(breaker.state(), State::HalfOpen { .. }));
    }

    #[test]
    fn switching_it_off_closes_it() {
        let mut breaker = opened_at(100);
        let off = BreakerPolicy { enabled: false, ..POLICY };
        assert_eq!(breaker.advance(at(101), &off), Some(Change::Closed));
    }
}
