//! F5: the cluster clock: the time that a majority of the replicas can agree on, from pings.
//!
//! ```text
//!   here    m0 ----- ping -----.                 .----- pong, t1 ----- m2
//!   there                       `---- t1 -------'
//!
//!   round trip = m2 - m0, one way = about half of it, give or take the other half
//!   offset     = (t1 + one way) - (what the own wall clock shows at m2)
//!
//!             window: at most 20 s of samples                     next window
//!   |----------------------------------------|----------------------------------------|--
//!                                     agreed ^ and from here on used for 60 s: the epoch
//! ```
//!
//! Of each replica the sample with the shortest way counts: its error is at most that way. The own
//! clock is a source like the others, without error. Marzullo's algorithm finds the interval that a
//! majority agrees on; since honest clocks differ by more than a local network's delay, all
//! intervals are widened, by 10 s at first and then by half as long as a majority still agrees.
//! Without an epoch a window is tried at every tick; to replace a good one it gathers for 2 s.
//!
//! Time between samples is measured by the monotonic clock alone: a wall clock that jumps, here or
//! elsewhere, moves nothing until the next window, and then it is one voice among several.
//!
//! **Invariants:** what is used was agreed by a majority less than a minute ago, or there is no
//! synchronized time at all; a single replica agrees with itself; a machine that believes in the
//! year 2200 is outvoted wherever it sits. No arithmetic overflows, whatever a peer says.
//!
//! **Not here:** reading clocks; safety, which no clock decides.

use super::marzullo::{self, Interval};
use crate::wire::ReplicaIndex;

/// A window that is to replace a good epoch gathers samples for this long, ns.
const WINDOW_NS_MIN: u64 = 2_000_000_000;
/// A window that leads to no agreement for this long is dropped with its samples, ns.
const WINDOW_NS_MAX: u64 = 20_000_000_000;
/// An epoch is good for this long after its window began, ns.
const EPOCH_NS_MAX: u64 = 60_000_000_000;
/// Clocks that differ by up to about twice this can agree, ns.
const TOLERANCE_NS_MAX: i128 = 10_000_000_000;

const _: () = assert!(WINDOW_NS_MIN < WINDOW_NS_MAX && WINDOW_NS_MAX < EPOCH_NS_MAX);

/// What one answer said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sample {
    /// Their wall clock minus ours, ns.
    offset_ns: i128,
    /// Half of the round trip, rounded up: how wrong `offset_ns` can be.
    error_ns: u64,
}

/// Samples that share one reference.
#[derive(Debug, Clone)]
struct Window {
    /// The own clocks when it began; offsets are relative to `realtime_ns` + monotonic elapsed.
    monotonic_ns: u64,
    realtime_ns: u64,
    /// By replica index; the own one stays empty.
    samples: Vec<Option<Sample>>,
}

/// What was agreed, and relative to what.
#[derive(Debug, Clone, Copy)]
struct Epoch {
    monotonic_ns: u64,
    realtime_ns: u64,
    /// Of the offset from `realtime_ns` + monotonic elapsed.
    offset_ns: Interval,
}

/// One replica's view of the cluster's time.
#[derive(Debug)]
pub struct ClusterClock {
    replica_count: u8,
    own: ReplicaIndex,
    quorum_majority: u8,
    /// Begins with the first tick.
    window: Option<Window>,
    epoch: Option<Epoch>,
}

impl ClusterClock {
    /// The clock of replica `own` of `replica_count`, of which `quorum_majority` must agree.
    pub fn new(replica_count: u8, own: ReplicaIndex, quorum_majority: u8) -> Self {
        assert!(own.0 < replica_count);
        assert!(quorum_majority <= replica_count);
        assert!(quorum_majority > replica_count / 2);
        Self { replica_count, own, quorum_majority, window: None, epoch: None }
    }

    /// A pong arrived: `ping_monotonic_ns` is the own monotonic time it echoes,
    /// `their_realtime_ns` the peer's wall clock. Returns whether it was used: a pong is not, if
    /// its ping is older than the window or it took longer than a better one.
    pub fn on_pong(
        &mut self,
        from: ReplicaIndex,
        ping_monotonic_ns: u64,
        their_realtime_ns: u64,
        now_monotonic_ns: u64,
    ) -> bool {
        if from == self.own || from.0 >= self.replica_count {
            return false;
        }
        let Some(window) = &mut self.window else {
            return false;
        };
        assert!(now_monotonic_ns >= window.monotonic_ns, "the monotonic clock went back");
        if ping_monotonic_ns < window.monotonic_ns || ping_monotonic_ns > now_monotonic_ns {
            return false;
        }
        let error_ns = (now_monotonic_ns - ping_monotonic_ns).div_ceil(2);
        assert!(error_ns <= now_monotonic_ns - window.monotonic_ns);
        assert_eq!(window.samples.len(), usize::from(self.replica_count));
        let ours_ns = at(window.realtime_ns, now_monotonic_ns - window.monotonic_ns);
        let offset_ns = i128::from(their_realtime_ns) + i128::from(error_ns) - ours_ns;
        let place = &mut window.samples[from.index()];
        if place.is_some_and(|sample| sample.error_ns <= error_ns) {
            return false;
        }
        *place = Some(Sample { offset_ns, error_ns });
        true
    }

    /// Time passes: tries to agree, drops what is too old. Call it at every tick.
    pub fn tick(&mut self, now_monotonic_ns: u64, now_realtime_ns: u64) {
        if self.replica_count == 1 {
            return;
        }
        if self.epoch(now_monotonic_ns).is_none() {
            self.epoch = None;
        }
        let Some(window) = &self.window else {
            self.window_begin(now_monotonic_ns, now_realtime_ns);
            return;
        };
        assert!(now_monotonic_ns >= window.monotonic_ns, "the monotonic clock went back");
        let age_ns = now_monotonic_ns - window.monotonic_ns;
        if (self.epoch.is_none() || age_ns >= WINDOW_NS_MIN)
            && let Some(offset_ns) = self.window_agreed(window)
        {
            let Window { monotonic_ns, realtime_ns, .. } = *window;
            self.epoch = Some(Epoch { monotonic_ns, realtime_ns, offset_ns });
            self.window_begin(now_monotonic_ns, now_realtime_ns);
        } else if age_ns >= WINDOW_NS_MAX {
            self.window_begin(now_monotonic_ns, now_realtime_ns);
        }
    }

    /// The own wall clock, ns since 1970, moved into the interval that a majority agrees on; `None`
    /// while none does.
    pub fn realtime_synchronized(
        &self,
        now_monotonic_ns: u64,
        now_realtime_ns: u64,
    ) -> Option<u64> {
        if self.replica_count == 1 {
            return Some(now_realtime_ns);
        }
        let epoch = self.epoch(now_monotonic_ns)?;
        let reference_ns = at(epoch.realtime_ns, now_monotonic_ns - epoch.monotonic_ns);
        let lower_ns = reference_ns + epoch.offset_ns.lower;
        let upper_ns = reference_ns + epoch.offset_ns.upper;
        assert!(lower_ns <= upper_ns);
        let realtime_ns = i128::from(now_realtime_ns).clamp(lower_ns, upper_ns);
        Some(u64::try_from(realtime_ns.max(0)).unwrap_or(u64::MAX))
    }

    /// The middle of the agreed interval minus the own wall clock, ns; `None` while nothing is
    /// agreed, 0 for a single replica.
    pub fn offset(&self, now_monotonic_ns: u64, now_realtime_ns: u64) -> Option<i64> {
        if self.replica_count == 1 {
            return Some(0);
        }
        let epoch = self.epoch(now_monotonic_ns)?;
        let Interval { lower, upper } = epoch.offset_ns;
        let reference_ns = at(epoch.realtime_ns, now_monotonic_ns - epoch.monotonic_ns);
        let offset_ns = reference_ns + lower.midpoint(upper) - i128::from(now_realtime_ns);
        assert!(lower <= upper);
        Some(i64::try_from(offset_ns).unwrap_or(if offset_ns < 0 { i64::MIN } else { i64::MAX }))
    }

    /// The epoch, unless it is too old.
    fn epoch(&self, now_monotonic_ns: u64) -> Option<&Epoch> {
        let epoch = self.epoch.as_ref()?;
        assert!(self.replica_count > 1);
        assert!(now_monotonic_ns >= epoch.monotonic_ns, "the monotonic clock went back");
        (now_monotonic_ns - epoch.monotonic_ns <= EPOCH_NS_MAX).then_some(epoch)
    }

    fn window_begin(&mut self, monotonic_ns: u64, realtime_ns: u64) {
        assert!(self.replica_count > 1);
        assert!(self.window.as_ref().is_none_or(|window| window.monotonic_ns <= monotonic_ns));
        assert!(self.own.0 < self.replica_count);
        let samples = vec![None; usize::from(self.replica_count)];
        self.window = Some(Window { monotonic_ns, realtime_ns, samples });
    }

    /// The offset that a majority of the window's sources agrees on, as narrow as it can be had.
    fn window_agreed(&self, window: &Window) -> Option<Interval> {
        assert_eq!(window.samples.len(), usize::from(self.replica_count));
        assert!(window.samples[self.own.index()].is_none());
        let own = Sample { offset_ns: 0, error_ns: 0 };
        let samples = || window.samples.iter().flatten().chain([&own]);
        let quorum = usize::from(self.quorum_majority);
        assert!(quorum > 1, "the own clock alone is no majority");
        if samples().count() < quorum {
            return None;
        }
        let mut best = None;
        let mut tolerance_ns = TOLERANCE_NS_MAX;
        loop {
            let sources: Vec<Interval> = samples()
                .map(|sample| {
                    let error_ns = i128::from(sample.error_ns) + tolerance_ns;
                    Interval::around(sample.offset_ns, error_ns)
                })
                .collect();
            match marzullo::agreed(&sources, quorum) {
                Some(interval) => best = Some(interval),
                None => return best,
            }
            if tolerance_ns == 0 {
                return best;
            }
            tolerance_ns /= 2;
        }
    }
}

/// `elapsed_ns` after `realtime_ns`.
fn at(realtime_ns: u64, elapsed_ns: u64) -> i128 {
    let sum_ns = i128::from(realtime_ns) + i128::from(elapsed_ns);
    assert!(sum_ns >= 0);
    sum_ns
}

/// The timestamp of the first entry of the next prepare, ns.
///
/// `previous_end` is the timestamp of the prepare before plus its entries: the least that is
/// allowed; `previous_monotonic_ns` is when that prepare was sealed, or became known here. With
/// `synchronized`, it is that time or the least allowed. Without, it is the previous time and what
/// passed since: never the own wall clock, which nobody vouches for.
pub fn timestamp_next(
    previous_end: u64,
    previous_monotonic_ns: u64,
    now_monotonic_ns: u64,
    synchronized: Option<u64>,
) -> u64 {
    assert!(now_monotonic_ns >= previous_monotonic_ns, "the monotonic clock went back");
    let elapsed_ns = now_monotonic_ns - previous_monotonic_ns;
    let now = synchronized.unwrap_or(previous_end.saturating_add(elapsed_ns));
    // 0 is the timestamp of the root.
    let timestamp = now.max(previous_end).max(1);
    assert!(timestamp >= previous_end);
    assert!(timestamp > 0);
    timestamp
}

#[cfg(test)]
#[path = "clock_tests.rs"]
mod tests;
