//! How fast a batch of runs was, and one hash of all of them.
//!
//! **Invariants:** the hash is a function of the runs alone, in the order of their seeds, whichever
//! ended first; what depends on a clock is for stderr.
//!
//! **Not here:** the clock; whether a run failed.

use std::collections::BTreeMap;

/// What is known of a run from its report, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    /// Virtual, ms.
    simulated: u64,
    /// Requests that were answered.
    answers: u64,
    hash: u64,
    /// Real, ns.
    took: u64,
}

/// The runs of a batch.
#[derive(Debug, Default)]
pub(super) struct Speed {
    /// By seed.
    runs: BTreeMap<u64, Run>,
}

impl Speed {
    /// Takes in the report of a run that took `took` ns. One that broke off has none.
    pub(super) fn note(&mut self, seed: u64, report: &str, took: u64) {
        if let Some(run) = parse(report, took) {
            self.runs.insert(seed, run);
        }
    }

    /// A hash over the hashes of all runs.
    pub(super) fn hash(&self) -> u64 {
        self.runs.iter().fold(0, |hash: u64, (seed, run)| {
            (hash.rotate_left(23) ^ seed ^ run.hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }

    /// The medians: virtual seconds per second, answers per second, and milliseconds.
    pub(super) fn line(&self) -> String {
        let median = |of: &dyn Fn(&Run) -> u64| {
            let mut values: Vec<u64> = self.runs.values().map(of).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or(0)
        };
        let per_second = |amount: u64, run: &Run| amount * 1_000_000_000 / run.took.max(1);
        format!(
            "median of a run: {} simulated seconds and {} answers per second, {} ms",
            median(&|run| per_second(run.simulated, run)) / 1000,
            median(&|run| per_second(run.answers, run)),
            median(&|run| run.took / 1_000_000)
        )
    }
}

fn parse(report: &str, took: u64) -> Option<Run> {
    let after =
        |name: &str| report.lines().find_map(|line| line.strip_prefix(name)).map(str::trim_start);
    let ran = after("ran ")?;
    let hash = u64::from_str_radix(after("hash ")?, 16).ok()?;
    let count = |what: &str| {
        let part = ran.split(", ").find_map(|part| part.strip_suffix(what))?;
        part.trim_end().parse().ok()
    };
    Some(Run { simulated: count("ms")?, answers: count("answers")?, hash, took })
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "checker  x 3\nran      27680 ms, 6341 events, 193 ops, 112 answers, 17 \
                          unknown, core [0, 1]\nhash     35580ce331c716ae\nPASSED\n";

    #[test]
    fn reports_are_read() {
        let run = parse(REPORT, 5).unwrap();
        let hash = 0x3558_0ce3_31c7_16ae;
        assert_eq!(run, Run { simulated: 27680, answers: 112, hash, took: 5 });
        assert_eq!(parse("a panic\n", 5), None);
    }

    #[test]
    fn the_hash_knows_the_seeds_and_not_the_clock() {
        let of = |runs: &[(u64, &str, u64)]| {
            let mut speed = Speed::default();
            runs.iter().for_each(|(seed, report, took)| speed.note(*seed, report, *took));
            speed
        };
        let other = REPORT.replace("35580c", "35580d");
        let first = of(&[(1, REPORT, 1_000_000_000), (2, &other, 500_000_000)]);
        assert_eq!(first.hash(), of(&[(2, &other, 7), (1, REPORT, 9)]).hash());
        assert_ne!(first.hash(), of(&[(1, &other, 7), (2, REPORT, 9)]).hash());
        let expected = "median of a run: 55 simulated seconds and 224 answers per second, 1000 ms";
        assert_eq!(first.line(), expected);
        assert!(of(&[]).line().contains(" 0 ms"));
    }
}
