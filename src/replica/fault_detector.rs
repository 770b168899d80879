//! F5: how a backup judges its primary: not by one fixed time-out but by how often it has been
//! heard.
//!
//! ```text
//!  arrival           arrival            yellow            red
//!  --|-----------------|------------------|-----------------|----------> now
//!    |<-- interval --->|<- 1.5 x average >|                 |
//!                      |<-- 3 x average, 120 ms to 2 s ---->|
//!                          quiet            overdue           suspect
//! ```
//!
//! The average is exponential, 4 parts old to 1 part new, in whole nanoseconds. The same detector
//! watches the primary's own sending: *overdue* there means that a heartbeat should go out before
//! the backups begin to wonder, as when a load that kept the interval short ends suddenly.
//!
//! An interval counts at most as much as the one that would have been suspicious, so a single long
//! pause moves the average by less than half and is soon forgotten. And the average grows with
//! whatever slow rhythm really arrives, also if the rhythm is that of heartbeats sent on *overdue*
//! (1.5 times the average each), until the regular heartbeat is the faster of the two; for that,
//! its timer must be reset by every heartbeat that is sent, whatever it was sent for.
//!
//! **Invariants:** overdue is half of suspect, so suspect implies overdue; suspect lies between
//! [`SUSPECT_NS_MIN`] and [`SUSPECT_NS_MAX`].
//!
//! **Not here:** what follows from a suspicion: one backup's suspicion never changes a view.

/// A primary is never suspected sooner than this after it was heard, ns.
pub const SUSPECT_NS_MIN: u64 = 120_000_000;
/// A primary is suspected at the latest this long after it was heard, ns.
pub const SUSPECT_NS_MAX: u64 = 2_000_000_000;

/// Suspicion is at this many averages.
const SUSPECT_FACTOR: u64 = 3;
/// Parts of the old average in the new one, to one part of the interval.
const WEIGHT_OLD: u64 = 4;

/// Watches the arrivals of one primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FaultDetector {
    interval_initial_ns: u64,
    interval_ns: u64,
    /// When it was heard last; `None` until the watch begins.
    arrival_ns: Option<u64>,
}

impl FaultDetector {
    /// A detector that expects an arrival every `interval_initial_ns` until it knows better. It
    /// suspects nobody before the first [`Self::reset`] or [`Self::on_arrival`].
    pub fn new(interval_initial_ns: u64) -> Self {
        assert!(interval_initial_ns > 0);
        assert!(interval_initial_ns <= SUSPECT_NS_MAX);
        Self { interval_initial_ns, interval_ns: interval_initial_ns, arrival_ns: None }
    }

    /// Begins to watch another primary, or the same in another view, as if it was heard now.
    pub fn reset(&mut self, now_ns: u64) {
        assert!(self.arrival_ns.is_none_or(|arrival_ns| arrival_ns <= now_ns));
        self.interval_ns = self.interval_initial_ns;
        self.arrival_ns = Some(now_ns);
        assert!(!self.is_overdue(now_ns));
        assert!(!self.is_suspect(now_ns));
    }

    /// The primary was heard.
    pub fn on_arrival(&mut self, now_ns: u64) {
        if self.arrival_ns.is_some() {
            let sample_ns = self.silence_ns(now_ns).min(self.suspect_after_ns());
            let sum_ns = WEIGHT_OLD * self.interval_ns + sample_ns;
            assert!(sample_ns <= SUSPECT_NS_MAX);
            self.interval_ns = sum_ns / (WEIGHT_OLD + 1);
        }
        self.arrival_ns = Some(now_ns);
        assert!(self.interval_ns <= SUSPECT_NS_MAX);
        assert!(!self.is_overdue(now_ns));
    }

    /// Whether it is time to wonder: half of what is suspicious passed.
    pub fn is_overdue(&self, now_ns: u64) -> bool {
        let overdue_after_ns = self.suspect_after_ns() / 2;
        assert!(overdue_after_ns >= SUSPECT_NS_MIN / 2);
        assert!(overdue_after_ns <= SUSPECT_NS_MAX / 2);
        self.silence_ns(now_ns) > overdue_after_ns
    }

    /// Whether the primary has been silent for too long.
    pub fn is_suspect(&self, now_ns: u64) -> bool {
        let suspect = self.silence_ns(now_ns) > self.suspect_after_ns();
        assert!(!suspect || self.is_overdue(now_ns));
        suspect
    }

    /// The average interval, ns.
    pub fn interval_ns(&self) -> u64 {
        self.interval_ns
    }

    fn suspect_after_ns(&self) -> u64 {
        let suspect_after_ns =
            (SUSPECT_FACTOR * self.interval_ns).clamp(SUSPECT_NS_MIN, SUSPECT_NS_MAX);
        assert!(suspect_after_ns >= SUSPECT_NS_MIN);
        assert!(suspect_after_ns <= SUSPECT_NS_MAX);
        suspect_after_ns
    }

    fn silence_ns(&self, now_ns: u64) -> u64 {
        let arrival_ns = self.arrival_ns.unwrap_or(now_ns);
        assert!(arrival_ns <= now_ns, "the monotonic clock went back");
        now_ns - arrival_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::constants::TICK_NS;
    use crate::stdx::Prng;

    const MS: u64 = 1_000_000;

    /// The silence after which `detector` suspects, ns, by asking it alone.
    fn patience(detector: &FaultDetector, heard_ns: u64) -> u64 {
        let (mut low, mut high) = (0, 2 * SUSPECT_NS_MAX);
        while low < high {
            let middle = low.midpoint(high);
            if detector.is_suspect(heard_ns + middle) { high = middle } else { low = middle + 1 }
        }
        low - 1
    }

    fn heard_every(detector: &mut FaultDetector, now_ns: &mut u64, interval_ns: u64, count: u32) {
        for _ in 0..count {
            *now_ns += interval_ns;
            detector.on_arrival(*now_ns);
        }
    }

    #[test]
    fn patience_is_three_intervals_within_bounds() {
        for (interval_ms, patience_ms) in
            [(1, 120), (30, 120), (40, 120), (100, 300), (500, 1500), (700, 2000), (1900, 2000)]
        {
            let mut detector = FaultDetector::new(30 * MS);
            let mut now_ns = 0;
            detector.reset(now_ns);
            heard_every(&mut detector, &mut now_ns, interval_ms * MS, 100);
            let found_ns = patience(&detector, now_ns);
            assert!(found_ns.abs_diff(patience_ms * MS) < MS, "{interval_ms}: {found_ns}");
            assert!(!detector.is_overdue(now_ns + found_ns / 2));
            assert!(detector.is_overdue(now_ns + found_ns / 2 + MS));
        }
    }

    #[test]
    fn suspects_nobody_before_it_watches_and_then_also_who_never_speaks() {
        let mut detector = FaultDetector::new(30 * MS);
        assert!(!detector.is_suspect(u64::MAX));
        detector.reset(5000 * MS);
        assert!(!detector.is_overdue(5000 * MS + 60 * MS));
        assert!(detector.is_overdue(5000 * MS + 60 * MS + 1));
        assert!(!detector.is_suspect(5000 * MS + 120 * MS));
        assert!(detector.is_suspect(5000 * MS + 120 * MS + 1));
    }

    #[test]
    fn one_long_pause_is_soon_forgotten() {
        let mut detector = FaultDetector::new(30 * MS);
        let mut now_ns = 0;
        detector.reset(now_ns);
        heard_every(&mut detector, &mut now_ns, 30 * MS, 100);
        heard_every(&mut detector, &mut now_ns, 3600 * 1000 * MS, 1);
        assert!(patience(&detector, now_ns) <= 160 * MS);
        heard_every(&mut detector, &mut now_ns, 30 * MS, 5);
        assert!(patience(&detector, now_ns) <= 121 * MS);
    }

    #[test]
    fn a_sudden_end_of_load_is_no_fault() {
        let mut detector = FaultDetector::new(30 * MS);
        let mut now_ns = 0;
        detector.reset(now_ns);
        heard_every(&mut detector, &mut now_ns, MS / 20, 100_000);
        for _ in 0..100 {
            assert!(!detector.is_overdue(now_ns + 60 * MS));
            heard_every(&mut detector, &mut now_ns, 30 * MS, 1);
        }
        assert!(detector.interval_ns().abs_diff(30 * MS) < 10);
    }

    /// The primary sends a heartbeat when its timer fires or its own detector is overdue. Sending
    /// on overdue makes the rhythm that the average follows: the two must not settle on it below
    /// the timer's interval, nor a backup ever suspect.
    #[test]
    fn heartbeats_on_overdue_are_no_fixed_point() {
        for timer_ms in [30, 100, 250, 500] {
            let mut primary = FaultDetector::new(30 * MS);
            let mut backup = FaultDetector::new(30 * MS);
            let mut now_ns = 0;
            let mut sent_ns = 0;
            primary.reset(now_ns);
            backup.reset(now_ns);
            for tick in 0..10_000 {
                now_ns += TICK_NS;
                let load = tick < 1000;
                let timer = now_ns - sent_ns >= timer_ms * MS;
                assert!(!backup.is_suspect(now_ns), "timer {timer_ms} tick {tick}");
                if load || timer || primary.is_overdue(now_ns) {
                    sent_ns = now_ns;
                    primary.on_arrival(now_ns);
                    backup.on_arrival(now_ns);
                }
            }
            let interval_ms = primary.interval_ns().div_ceil(MS);
            assert!(interval_ms.abs_diff(timer_ms) <= 1, "{timer_ms}: {interval_ms}");
        }
    }

    #[test]
    fn stays_within_bounds_for_any_arrivals() {
        let mut prng = Prng::from_seed(41);
        for _ in 0..100 {
            let mut detector = FaultDetector::new(prng.range_inclusive(1, SUSPECT_NS_MAX));
            let mut now_ns = prng.below(1 << 60);
            for _ in 0..200 {
                let bits = prng.range_inclusive(1, 40);
                now_ns += prng.below(1 << bits);
                if prng.below(20) == 0 {
                    detector.reset(now_ns);
                } else {
                    detector.on_arrival(now_ns);
                }
                let found_ns = patience(&detector, now_ns);
                assert!((SUSPECT_NS_MIN..=SUSPECT_NS_MAX).contains(&found_ns), "{found_ns}");
            }
        }
    }
}
