//! F5: a timer in ticks of the logical clock.
//!
//! ```text
//!   stopped ──start──► counting ──0──► fired (tick returns true) ──reset / back_off / stop──►
//! ```
//!
//! **Invariants:** whoever handles a fired timeout resets, backs off or stops it before the next
//! tick. Every period carries jitter, so that replicas that were started together drift apart.

use crate::stdx::Prng;

#[derive(Debug)]
pub(super) struct Timeout {
    name: &'static str,
    after_ticks: u64,
    after_ticks_max: u64,
    remaining: Option<u64>,
    attempts: u32,
}

impl Timeout {
    /// Fires `after_ticks` after a start, at most `after_ticks_max` when backing off.
    pub(super) fn new(name: &'static str, after_ticks: u64, after_ticks_max: u64) -> Self {
        assert!(after_ticks > 0);
        assert!(after_ticks_max >= after_ticks);
        Self { name, after_ticks, after_ticks_max, remaining: None, attempts: 0 }
    }

    /// Begins anew with the shortest period.
    pub(super) fn start(&mut self, prng: &mut Prng) {
        self.attempts = 0;
        self.arm(self.after_ticks, prng);
    }

    /// Starts unless it is counting already.
    pub(super) fn start_if_stopped(&mut self, prng: &mut Prng) {
        if self.remaining.is_none() {
            self.start(prng);
        }
    }

    /// Begins anew with the period it had: patience once learnt is kept until a `stop`.
    pub(super) fn start_as_before(&mut self, prng: &mut Prng) {
        self.arm(self.period(), prng);
    }

    /// Counts no more, and keeps its period for `start_as_before`.
    pub(super) fn pause(&mut self) {
        self.remaining = None;
    }

    /// Begins anew with a period twice as long as the last, up to the bound.
    pub(super) fn back_off(&mut self, prng: &mut Prng) {
        self.attempts = self.attempts.saturating_add(1);
        self.arm(self.period(), prng);
    }

    fn period(&self) -> u64 {
        let factor = 1u64 << self.attempts.min(16);
        (self.after_ticks * factor).min(self.after_ticks_max)
    }

    pub(super) fn stop(&mut self) {
        self.remaining = None;
        self.attempts = 0;
    }

    pub(super) fn is_running(&self) -> bool {
        self.remaining.is_some()
    }

    /// Counts one tick; true when it fires.
    pub(super) fn tick(&mut self) -> bool {
        let Some(remaining) = &mut self.remaining else { return false };
        assert!(*remaining > 0, "timeout {} fired and was not handled", self.name);
        *remaining -= 1;
        *remaining == 0
    }

    /// The period, up to a quarter longer by chance.
    fn arm(&mut self, ticks: u64, prng: &mut Prng) {
        self.remaining = Some(ticks + prng.below(ticks / 4 + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_once_within_its_jitter_and_backs_off_to_its_bound() {
        let mut prng = Prng::from_seed(3);
        let mut timeout = Timeout::new("test", 8, 20);
        assert!(!timeout.tick());
        timeout.start(&mut prng);
        for (least, most) in [(8, 10), (16, 20), (20, 25), (20, 25)] {
            let ticks = (1..).find(|_| timeout.tick()).unwrap();
            assert!((least..=most).contains(&ticks), "{ticks}");
            timeout.back_off(&mut prng);
        }
        assert_eq!(timeout.attempts, 4);
        timeout.pause();
        assert!(!timeout.is_running());
        timeout.start_as_before(&mut prng);
        assert!((20..=25).contains(&(1..).find(|_| timeout.tick()).unwrap()));
        timeout.stop();
        assert!(!timeout.is_running());
        timeout.start_as_before(&mut prng);
        assert!((8..=10).contains(&(1..).find(|_| timeout.tick()).unwrap()));
    }
}
