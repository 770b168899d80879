//! The one random generator: ChaCha8, seeded, portable, integers only. Ground floor.
//!
//! **Invariants:** a `Prng` is not `Clone`, so two components never replay one stream; a component
//! gets its own by [`Prng::fork`]. Nothing here uses floating point: the same seed gives the same
//! numbers on every machine.
//!
//! **Not here:** entropy. It enters through `IO::entropy` and becomes a seed.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A deterministic stream of random numbers.
#[derive(Debug)]
pub struct Prng {
    rng: ChaCha8Rng,
}

/// A probability as a fraction of integers. `numerator <= denominator`, `denominator > 0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio {
    /// How many of `denominator` draws succeed.
    pub numerator: u32,
    /// Out of how many draws.
    pub denominator: u32,
}

impl Ratio {
    /// `numerator` out of `denominator`.
    pub const fn new(numerator: u32, denominator: u32) -> Self {
        assert!(denominator > 0);
        assert!(numerator <= denominator);
        Self { numerator, denominator }
    }
}

impl Prng {
    /// The stream of `seed`.
    pub fn from_seed(seed: u64) -> Self {
        Self { rng: ChaCha8Rng::seed_from_u64(seed) }
    }

    /// A new, independent stream seeded by this one.
    pub fn fork(&mut self) -> Self {
        let mut seed = [0; 32];
        self.rng.fill_bytes(&mut seed);
        Self { rng: ChaCha8Rng::from_seed(seed) }
    }

    /// A uniform 64-bit number.
    pub fn next_u64(&mut self) -> u64 {
        self.rng.next_u64()
    }

    /// A uniform 128-bit number.
    pub fn next_u128(&mut self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }

    /// A uniform number in `0..end`. `end` > 0.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0);
        // Lemire's multiplication, with rejection of the biased low part.
        let threshold = end.wrapping_neg() % end;
        loop {
            let product = u128::from(self.next_u64()) * u128::from(end);
            #[expect(clippy::cast_possible_truncation, reason = "the low half is wanted")]
            let low = product as u64;
            if low >= threshold {
                return u64::try_from(product >> 64).expect("the high half of 128 bits");
            }
        }
    }

    /// A uniform number in `min..=max`.
    pub fn range_inclusive(&mut self, min: u64, max: u64) -> u64 {
        assert!(min <= max);
        if min == 0 && max == u64::MAX {
            return self.next_u64();
        }
        min + self.below(max - min + 1)
    }

    /// True with probability `ratio`.
    pub fn chance(&mut self, ratio: Ratio) -> bool {
        self.below(u64::from(ratio.denominator)) < u64::from(ratio.numerator)
    }

    /// A uniform index below `count`. `count` > 0.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.below(count as u64)).expect("below a usize")
    }

    /// Fills `bytes` with random bytes.
    pub fn fill(&mut self, bytes: &mut [u8]) {
        self.rng.fill_bytes(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_seed_same_stream_and_forks_differ() {
        let (mut a, mut b) = (Prng::from_seed(7), Prng::from_seed(7));
        assert_eq!(a.next_u64(), b.next_u64());
        let (mut x, mut y) = (a.fork(), a.fork());
        assert_ne!(x.next_u64(), y.next_u64());
        assert_eq!(x.next_u64(), {
            let mut z = b.fork();
            z.next_u64();
            z.next_u64()
        });
    }

    #[test]
    fn below_covers_its_range_evenly() {
        let mut prng = Prng::from_seed(1);
        let mut counts = [0; 7];
        for _ in 0..7000 {
            counts[prng.index(7)] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
