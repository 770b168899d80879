//! F5: Marzullo's algorithm: from what several sources say about a number, each as an interval, the
//! smallest interval that the most of them agree on.
//!
//! ```text
//!   a   |---------------|
//!   b         |-------------|
//!   c             |---|                 d |-----|        (d is alone: outvoted)
//!                 =====   agreed by 3
//! ```
//!
//! **Invariants:** pure, total, whole numbers; intervals are closed, so sources that touch agree;
//! the result does not depend on the order of the sources; of several answers with equally many
//! sources it is the shortest, then the lowest.
//!
//! **Not here:** what the numbers mean, and how wide an interval must honestly be.

/// A closed interval. `lower <= upper`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval {
    /// The least it can be.
    pub lower: i128,
    /// The most it can be.
    pub upper: i128,
}

impl Interval {
    /// `center`, give or take `error`, which is not negative.
    pub fn around(center: i128, error: i128) -> Self {
        assert!(error >= 0);
        let interval =
            Self { lower: center.saturating_sub(error), upper: center.saturating_add(error) };
        assert!(interval.lower <= interval.upper);
        interval
    }

    fn width(&self) -> u128 {
        assert!(self.lower <= self.upper);
        self.lower.abs_diff(self.upper)
    }
}

/// The smallest interval that lies in as many of `sources` as any; `None` if those are fewer than
/// `quorum`. `quorum` > 0.
pub fn agreed(sources: &[Interval], quorum: usize) -> Option<Interval> {
    assert!(quorum > 0);
    // (where, whether an interval ends there): at one place, those that begin come first.
    let mut edges: Vec<(i128, bool)> = Vec::with_capacity(2 * sources.len());
    for source in sources {
        assert!(source.lower <= source.upper);
        edges.push((source.lower, false));
        edges.push((source.upper, true));
    }
    edges.sort_unstable();
    let mut best: Option<(usize, Interval)> = None;
    let mut count = 0;
    for pair in edges.windows(2) {
        let [(lower, lower_ends), (upper, upper_ends)] = [pair[0], pair[1]];
        count = if lower_ends { count - 1 } else { count + 1 };
        assert!(count <= sources.len());
        // Only between a beginning and an end can there be more sources than on both sides.
        if lower_ends || !upper_ends {
            continue;
        }
        assert!(count > 0);
        assert!(lower <= upper);
        let interval = Interval { lower, upper };
        let better = best.is_none_or(|(best_count, best_interval)| {
            count > best_count || (count == best_count && interval.width() < best_interval.width())
        });
        if better {
            best = Some((count, interval));
        }
    }
    best.filter(|(count, _)| *count >= quorum).map(|(_, interval)| interval)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;

    fn of(bounds: &[(i128, i128)]) -> Vec<Interval> {
        bounds.iter().map(|(lower, upper)| Interval { lower: *lower, upper: *upper }).collect()
    }

    fn check(bounds: &[(i128, i128)], quorum: usize, expected: Option<(i128, i128)>) {
        let found = agreed(&of(bounds), quorum).map(|interval| (interval.lower, interval.upper));
        assert_eq!(found, expected, "{bounds:?} {quorum}");
    }

    #[test]
    fn the_most_sources_decide() {
        check(&[], 1, None);
        check(&[(3, 3)], 1, Some((3, 3)));
        check(&[(3, 3)], 2, None);
        check(&[(8, 12), (11, 13), (10, 12)], 2, Some((11, 12)));
        check(&[(8, 12), (11, 13), (14, 15)], 2, Some((11, 12)));
        check(&[(8, 12), (11, 13), (14, 15)], 3, None);
        check(&[(8, 9), (8, 12), (10, 12)], 2, Some((8, 9)));
        check(&[(1, 5), (5, 9)], 2, Some((5, 5)));
        check(&[(1, 4), (5, 9)], 2, None);
        check(&[(0, 100), (10, 20), (30, 35), (90, 91)], 2, Some((90, 91)));
        check(&[(i128::MIN, i128::MAX), (i128::MAX, i128::MAX)], 2, Some((i128::MAX, i128::MAX)));
        check(&[(i128::MIN, i128::MAX)], 1, Some((i128::MIN, i128::MAX)));
    }

    /// Tries every end of every source as a point, and takes the sources around it.
    fn brute_force(sources: &[Interval], quorum: usize) -> Option<Interval> {
        let mut found: Vec<(usize, Interval)> = Vec::new();
        for point in sources.iter().flat_map(|source| [source.lower, source.upper]) {
            let around: Vec<_> = sources
                .iter()
                .filter(|source| source.lower <= point && point <= source.upper)
                .collect();
            let lower = around.iter().map(|source| source.lower).max()?;
            let upper = around.iter().map(|source| source.upper).min()?;
            found.push((around.len(), Interval { lower, upper }));
        }
        let count_max = found.iter().map(|(count, _)| *count).max()?;
        found
            .into_iter()
            .filter(|(count, _)| *count == count_max && count_max >= quorum)
            .map(|(_, interval)| interval)
            .min_by_key(|interval| (interval.width(), interval.lower))
    }

    #[test]
    fn equals_brute_force_in_any_order() {
        let mut prng = Prng::from_seed(43);
        let mut agreements = 0;
        for _ in 0..50_000 {
            let range = prng.range_inclusive(1, 20);
            let mut sources: Vec<Interval> = (0..prng.below(7))
                .map(|_| {
                    let lower = i128::from(prng.below(range)) - 5;
                    Interval { lower, upper: lower + i128::from(prng.below(range)) }
                })
                .collect();
            let quorum = usize::try_from(prng.range_inclusive(1, 4)).unwrap();
            let expected = brute_force(&sources, quorum);
            assert_eq!(agreed(&sources, quorum), expected, "{sources:?} {quorum}");
            sources.reverse();
            assert_eq!(agreed(&sources, quorum), expected, "{sources:?} {quorum}");
            agreements += u32::from(expected.is_some());
        }
        assert!(agreements > 10_000);
    }
}
