//! The simulator as a whole: the same seed is the same run, seeds pass, and every fault happens.

use super::cluster::Cluster;
use super::fault::Fault;
use super::options::Options;
use super::run::{Outcome, options_of, run};
use super::scheduler::SECOND;
use std::collections::BTreeMap;
use vsr::stdx::Prng;

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

/// Seeds in which each kind of fault must happen.
const FAULT_SEEDS: u64 = 100;
/// In how many of them at least.
const FAULT_SEEDS_MIN: u32 = 5;
/// Seeds in which each kind of repair must happen, and each checker compare something: some are
/// seldom, and are waited for.
const REPAIR_SEEDS: u64 = 400;

/// Of the first hundred seeds: how many write three checkpoints or more, and how many take one
/// over, at least.
const CHECKPOINT_SEEDS_MIN: u64 = 50;
const SYNC_SEEDS_MIN: u64 = 10;
/// Of a hundred seeds, at most so many cores may be excused from coming to an end.
const EXCUSED_PERCENT_MAX: u64 = 5;

/// The names that never counted anything.
fn never(counts: &BTreeMap<&'static str, u64>) -> Vec<&'static str> {
    counts.iter().filter(|(_, count)| **count == 0).map(|(name, _)| *name).collect()
}

#[test]
fn seeds_pass_and_every_fault_repair_and_comparison_happens() {
    let mut seeds: BTreeMap<&str, u32> = Fault::ALL.iter().map(|fault| (fault.name(), 0)).collect();
    let mut repairs: BTreeMap<&str, u64> = BTreeMap::new();
    let mut compared: BTreeMap<&str, u64> = BTreeMap::new();
    let (mut excused, mut runs) = (0, 0);
    let (mut checkpoint_seeds, mut sync_seeds) = (0, 0);
    for seed in 1..=REPAIR_SEEDS {
        if seed > FAULT_SEEDS && never(&repairs).is_empty() && never(&compared).is_empty() {
            break;
        }
        let outcome = run_seed(seed);
        assert_eq!(outcome.failure, None, "seed {seed}");
        runs += 1;
        if seed <= FAULT_SEEDS {
            checkpoint_seeds += u64::from(outcome.repairs.checkpoints >= 3);
            sync_seeds += u64::from(outcome.repairs.syncs > 0);
        }
        excused += u64::from(outcome.excuse.is_some());
        for fault in Fault::ALL.iter().filter(|_| seed <= FAULT_SEEDS) {
            let happened = outcome.counts.count(*fault) > 0;
            *seeds.entry(fault.name()).or_default() += u32::from(happened);
        }
        for (name, count) in outcome.repairs.counts() {
            *repairs.entry(name).or_default() += count;
        }
        for report in &outcome.reports {
            *compared.entry(report.name).or_default() += report.compared;
        }
    }
    let rare: Vec<_> = seeds.iter().filter(|(_, count)| **count < FAULT_SEEDS_MIN).collect();
    assert_eq!(rare, Vec::new());
    assert!(checkpoint_seeds >= CHECKPOINT_SEEDS_MIN, "{checkpoint_seeds} write checkpoints");
    assert!(sync_seeds >= SYNC_SEEDS_MIN, "{sync_seeds} take one over");
    assert!(excused * 100 <= runs * EXCUSED_PERCENT_MAX, "{excused} of {runs} were excused");
    assert_eq!((never(&repairs), never(&compared)), (Vec::new(), Vec::new()));
}

/// Replicas and clients in a world without faults.
fn calm(settings: &[(&str, u64)]) -> Options {
    let mut options = Options::default();
    let calm = [
        ("replicas", 3),
        ("clients", 1),
        ("requests", 40),
        ("sessions", 64),
        ("slots", 1024),
        ("message_size", 4096),
        ("block_size", 4096),
        ("pipeline", 8),
        ("keys", 3),
        ("value_size", 32),
        ("session_calls", 20),
        ("call_timeout", 3_000_000),
        ("turn_time", 20),
        ("window", 8),
        ("clock_jump_max", 1),
    ];
    for (name, value) in calm.iter().chain(settings) {
        options.set(name, *value).expect("a knob, and in its bounds");
    }
    assert_eq!(options.geometry().invalid(), None);
    options
}

/// Whoever reaches no replica but a backup writes and reads all the same.
#[test]
fn client_cut_off_from_the_primary_is_answered_by_the_backup_that_handed_its_request_on() {
    for (read_percent, query_percent) in [(0, 0), (100, 0), (100, 100), (50, 50)] {
        for seed in 0..4 {
            let options = calm(&[
                ("read_percent", read_percent),
                ("query_percent", query_percent),
                ("delay_mean", 100 * seed),
            ]);
            let mut cluster = Cluster::new(seed, options, false, &mut Prng::from_seed(seed));
            let (primary, client) = (0, 3);
            for (from, to) in [(client, primary), (primary, client)] {
                cluster.world.borrow_mut().network.cut(from, to, true);
            }
            while !cluster.is_workload_done() && cluster.now() < 120 * SECOND {
                cluster.step().expect("nothing forbidden happens");
            }
            let named = format!("seed {seed}, {query_percent} % of {read_percent} % queries");
            assert_eq!((cluster.budget.answered, cluster.budget.unknown), (40, 0), "{named}");
            assert_eq!(cluster.repairs_total().view_changes, 0, "{named}: the primary stayed");
        }
    }
}
