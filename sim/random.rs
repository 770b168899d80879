//! Random quantities made of integers: delays with a long tail, chances in parts of a million.
//!
//! **Invariants:** no floating point: the same draws on every machine.

use vsr::stdx::{Prng, Ratio};

/// One thousand times the middle of each 64th of the exponential distribution of mean 1: -ln(1 -
/// q). A table, because the last bits of logarithms differ between machines.
const EXPONENTIAL: [u64; 64] = [
    8, 24, 40, 56, 73, 90, 107, 125, 143, 161, 179, 198, 217, 237, 257, 277, 298, 319, 341, 363,
    386, 409, 433, 458, 483, 508, 535, 562, 589, 618, 647, 678, 709, 741, 774, 809, 845, 882, 920,
    960, 1002, 1045, 1091, 1138, 1188, 1241, 1297, 1356, 1418, 1485, 1556, 1633, 1717, 1808, 1908,
    2019, 2144, 2287, 2454, 2655, 2906, 3243, 3753, 4852,
];

/// A probability in parts of a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ppm(pub(crate) u32);

impl Ppm {
    /// Whether it happens this time. Draws nothing if it never does.
    pub(crate) fn happens(self, prng: &mut Prng) -> bool {
        self.0 > 0 && prng.chance(Ratio::new(self.0, 1_000_000))
    }
}

/// A duration of at least `min`, in the mean `min + mean`, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Delay {
    /// The least, ns.
    pub(crate) min: u64,
    /// The mean of what comes on top, ns.
    pub(crate) mean: u64,
}

impl Delay {
    pub(crate) fn draw(self, prng: &mut Prng) -> u64 {
        let draw = prng.next_u64();
        let quantile = EXPONENTIAL[usize::try_from(draw >> 58).expect("six bits")];
        // Some low bits, so that two draws are seldom equal to the nanosecond.
        self.min + self.mean / 1000 * quantile + draw % 997
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_have_their_mean_and_a_tail() {
        let mut prng = Prng::from_seed(4);
        let delay = Delay { min: 1000, mean: 1_000_000 };
        let draws: Vec<u64> = (0..20_000).map(|_| delay.draw(&mut prng)).collect();
        let mean = draws.iter().sum::<u64>() / draws.len() as u64;
        assert!((950_000..1_050_000).contains(&mean), "{mean}");
        assert!(draws.iter().all(|draw| *draw >= 1000));
        assert!(draws.iter().any(|draw| *draw > 4_000_000));
    }

    #[test]
    fn never_draws_nothing() {
        let (mut a, mut b) = (Prng::from_seed(1), Prng::from_seed(1));
        assert!(!Ppm(0).happens(&mut a));
        assert_eq!(a.next_u64(), b.next_u64());
        assert!(Ppm(1_000_000).happens(&mut a));
    }
}
