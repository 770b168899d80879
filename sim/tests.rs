//! The simulator as a whole: the same seed is the same run, seeds pass, and every fault happens.

use super::fault::{Fault, FaultCounts};
use super::run::{Outcome, options_of, run};

fn run_seed(seed: u64) -> Outcome {
    run(seed, options_of(seed, &[]).expect("drawn"), false)
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [1, 2, 3] {
        let (a, b) = (run_seed(seed), run_seed(seed));
        assert_eq!((a.hash, a.events, a.time), (b.hash, b.events, b.time), "seed {seed}");
        assert_eq!(a.counts, b.counts);
    }
    assert_ne!(run_seed(1).hash, run_seed(2).hash);
}

#[test]
fn seeds_pass_and_every_fault_happens() {
    let mut counts = FaultCounts::new();
    for seed in 1..=40 {
        let outcome = run_seed(seed);
        assert_eq!(outcome.failure, None, "seed {seed}");
        counts.add(&outcome.counts);
    }
    let missing: Vec<&str> = Fault::ALL
        .iter()
        .filter(|fault| counts.count(**fault) == 0)
        .map(|fault| fault.name())
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
}
