//! F5: when to dial a replica again: exponential back-off with jitter.
//!
//! ```text
//!   attempts    0          1           2           3           4 and more
//!   delay       50..100    100..200    200..400    400..800    500..1000 ms
//! ```
//!
//! **Invariants:** the first attempt is due at once; a failure is followed by another attempt, for
//! ever; only a validated message takes the back-off down again, because a peer that accepts and
//! closes would otherwise be dialled in a storm.

use crate::stdx::Prng;

/// The shortest delay, in ticks.
const DELAY_TICKS_MIN: u64 = 5;
/// The longest delay, in ticks.
const DELAY_TICKS_MAX: u64 = 100;

const _: () = assert!(DELAY_TICKS_MIN > 0 && 2 * DELAY_TICKS_MIN <= DELAY_TICKS_MAX);

/// The dialling of one replica.
#[derive(Debug, Default)]
pub(super) struct Dial {
    /// Failures since the last validated message; stops counting where it no longer matters.
    attempts: u32,
    /// No attempt before this tick.
    due_tick: u64,
    /// There is a reason to dial: for a replica always, for a client something to send.
    pub(super) wanted: bool,
}

impl Dial {
    /// Whether an attempt may be made at `tick`.
    pub(super) fn is_due(&self, tick: u64) -> bool {
        tick >= self.due_tick
    }

    /// The attempt, or the connection it led to, came to its end at `tick`.
    pub(super) fn failed(&mut self, tick: u64, prng: &mut Prng) {
        let base = (DELAY_TICKS_MIN << self.attempts).min(DELAY_TICKS_MAX / 2);
        self.due_tick = tick + prng.range_inclusive(base, 2 * base);
        // Five doublings pass the maximum.
        self.attempts = (self.attempts + 1).min(5);
        assert!(self.due_tick <= tick + DELAY_TICKS_MAX);
    }

    /// A validated message came.
    pub(super) fn succeeded(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_and_starts_again_after_a_message() {
        let mut prng = Prng::from_seed(3);
        for _ in 0..100 {
            let mut dial = Dial::default();
            assert!(dial.is_due(0));
            let mut delays = Vec::new();
            for attempt in 0..20 {
                dial.failed(1000 * attempt, &mut prng);
                delays.push(dial.due_tick - 1000 * attempt);
            }
            assert!((5..=10).contains(&delays[0]));
            assert!((10..=20).contains(&delays[1]));
            assert!((40..=80).contains(&delays[3]));
            assert!(delays[4..].iter().all(|delay| (50..=100).contains(delay)), "{delays:?}");
            dial.succeeded();
            dial.failed(0, &mut prng);
            assert!(!dial.is_due(4));
            assert!(dial.is_due(10));
        }
    }
}
