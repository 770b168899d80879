//! Partitions: how the processes of a run are divided.
//!
//! ```text
//!   any subset ──► half of them, mostly      one process      a size, and then who
//!   cut both ways, or the one side is heard and does not hear
//! ```
//!
//! **Invariants:** there is somebody on each side; whatever is drawn is drawn whether its knob is
//! set or not, but for what a size takes.
//!
//! **Not here:** when there is one, and for how long (`cluster`).

use super::fault::Fault;
use super::options::Options;
use vsr::stdx::Prng;

/// Two sides that do not hear each other, or one not the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Partition {
    /// By process.
    pub(crate) sides: Vec<bool>,
    /// Only what the one side says is lost.
    pub(crate) is_one_way: bool,
    /// Whom it is told of: the one that is alone, if it was meant to be.
    pub(crate) named: usize,
}

impl Partition {
    /// Draws one of the ways that there are; `None` if there is none.
    pub(crate) fn draw(options: &Options, processes: usize, prng: &mut Prng) -> Option<Self> {
        assert!(processes > 1, "a replica and a client");
        let Options { partition_symmetric, partition_one_way, partition_isolate, .. } = *options;
        if partition_symmetric + partition_one_way + partition_isolate == 0 {
            return None;
        }
        let named = prng.index(processes);
        let mut sides = vec![false; processes];
        while sides.iter().all(|side| *side == sides[0]) {
            sides.fill_with(|| prng.below(2) == 0);
        }
        let is_sized = prng.below(2) == 0;
        let one_way = prng.below(2) == 0;
        let isolate = prng.below(2) == 0;
        if partition_isolate == 1 && (isolate || partition_symmetric + partition_one_way == 0) {
            sides = (0..processes).map(|process| process == named).collect();
        } else if options.partition_sizes == 1 && is_sized {
            sides = sides_of_any_size(processes, prng);
        }
        let is_one_way = partition_one_way == 1 && (one_way || partition_symmetric == 0);
        Some(Self { sides, is_one_way, named })
    }

    /// What it counts as.
    pub(crate) fn fault(&self) -> Fault {
        let count = self.sides.iter().filter(|side| **side).count();
        assert!(count > 0 && count < self.sides.len());
        match (count == 1 || count == self.sides.len() - 1, self.is_one_way) {
            (true, _) => Fault::PartitionIsolated,
            (false, true) => Fault::PartitionOneWay,
            (false, false) => Fault::PartitionSymmetric,
        }
    }
}

/// First how many are on one side, and then who: few and many are as likely as half of them.
fn sides_of_any_size(processes: usize, prng: &mut Prng) -> Vec<bool> {
    let count = 1 + prng.index(processes - 1);
    let mut rest: Vec<usize> = (0..processes).collect();
    let mut sides = vec![false; processes];
    for _ in 0..count {
        sides[rest.swap_remove(prng.index(rest.len()))] = true;
    }
    assert_eq!(rest.len(), processes - count);
    sides
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn counts(options: &Options, processes: usize) -> BTreeMap<usize, u32> {
        let mut prng = Prng::from_seed(3);
        let mut counts = BTreeMap::new();
        for _ in 0..4000 {
            let partition = Partition::draw(options, processes, &mut prng).expect("there are some");
            let count = partition.sides.iter().filter(|side| **side).count();
            *counts.entry(count).or_default() += 1;
        }
        counts
    }

    #[test]
    fn without_a_way_there_is_none() {
        let mut prng = Prng::from_seed(1);
        assert_eq!(Partition::draw(&Options::default(), 5, &mut prng), None);
    }

    #[test]
    fn somebody_is_on_each_side_and_every_size_is_as_likely() {
        let mut options = Options { partition_symmetric: 1, ..Options::default() };
        let subsets = counts(&options, 9);
        assert!(subsets.keys().all(|count| (1..9).contains(count)));
        assert!(subsets[&1] * 5 < subsets[&4], "{subsets:?}");
        options.partition_sizes = 1;
        let sized = counts(&options, 9);
        assert_eq!(sized.len(), 8);
        // Half of them have a size that was drawn: 250 of each.
        assert!(sized.values().all(|count| *count > 200), "{sized:?}");
        assert_eq!(counts(&options, 2), BTreeMap::from([(1, 4000)]));
    }

    #[test]
    fn one_that_is_meant_to_be_alone_is() {
        let options = Options { partition_isolate: 1, partition_sizes: 1, ..Options::default() };
        let partition = Partition::draw(&options, 7, &mut Prng::from_seed(1)).expect("there is");
        assert!(partition.sides[partition.named]);
        assert_eq!(partition.fault(), Fault::PartitionIsolated);
    }
}
