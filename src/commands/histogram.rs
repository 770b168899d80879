//! F6: latencies of a benchmark, in nanoseconds: a log-linear histogram.
//!
//! ```text
//!   value    0 1 2 … 127 | 128 129 … 255 | 256 258 … 510 | 512 516 … | …
//!   bucket   0 1 2 … 127 | 128     … 255 | 256     … 383 | 384     … |
//!            exact         exact           steps of 2      steps of 4
//! ```
//!
//! **Invariants:** memory is fixed; a percentile is at most 1/128 above the value of that rank, and
//! never below it; the maximum is exact.

/// Buckets for each power of two.
const STEPS: usize = 128;
const STEPS_LOG2: u32 = STEPS.trailing_zeros();
/// Enough for every `u64`.
const BUCKETS: usize = (64 - STEPS_LOG2 as usize + 1) * STEPS;

/// How often which value was recorded.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Vec<u64>,
    count: u64,
    max: u64,
}

impl Histogram {
    /// Nothing recorded.
    pub(crate) fn new() -> Self {
        Self { buckets: vec![0; BUCKETS], count: 0, max: 0 }
    }

    pub(crate) fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// The value that `per_mille` of 1,000 values are not above: its bucket's upper end. 0 if
    /// empty.
    pub(crate) fn percentile(&self, per_mille: u64) -> u64 {
        assert!(per_mille <= 1000);
        // The nearest rank, from 1.
        let rank = u128::from(self.count) * u128::from(per_mille);
        let rank = u64::try_from(rank.div_ceil(1000)).expect("not above the count").max(1);
        let mut seen = 0;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_end(index).min(self.max);
            }
        }
        assert_eq!(self.count, 0);
        0
    }
}

fn bucket(value: u64) -> usize {
    // The highest bit says which power of two, the seven bits below it which step.
    let shift = (u64::BITS - value.leading_zeros()).saturating_sub(STEPS_LOG2 + 1);
    let step = usize::try_from(value >> shift).expect("below 256");
    assert!(step < 2 * STEPS);
    shift as usize * STEPS + step
}

fn upper_end(bucket: usize) -> u64 {
    let shift = (bucket / STEPS).saturating_sub(1);
    let step = (bucket - shift * STEPS) as u64;
    (step << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr::stdx::Prng;

    #[test]
    fn buckets_follow_each_other_and_hold_what_they_say() {
        for value in (0..10_000).chain([u64::MAX - 1, u64::MAX, 1 << 63]) {
            let index = bucket(value);
            assert!(upper_end(index) >= value, "{value}");
            assert!(index == 0 || upper_end(index - 1) < value, "{value}");
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(upper_end(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn percentiles_against_sorted_values() {
        let mut prng = Prng::from_seed(5);
        for round in 0..50 {
            let mut histogram = Histogram::new();
            let mut values: Vec<u64> =
                (0..1 + prng.below(500)).map(|_| prng.next_u64() >> (round % 60)).collect();
            values.iter().for_each(|value| histogram.record(*value));
            values.sort_unstable();
            for per_mille in [0, 1, 500, 900, 990, 999, 1000] {
                let rank = (values.len() * per_mille).div_ceil(1000).max(1);
                let exact = values[rank - 1];
                let found = histogram.percentile(per_mille as u64);
                assert!(found >= exact, "{per_mille}: {found} < {exact}");
                assert!(found - exact <= exact / 128, "{per_mille}: {found} > {exact}");
            }
            assert_eq!(histogram.percentile(1000), histogram.max());
            assert_eq!(histogram.count(), values.len() as u64);
        }
        assert_eq!(Histogram::new().percentile(500), 0);
    }
}
