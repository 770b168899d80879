//! Chaos on real processes: three and five replicas with real files, behind proxies that break the
//! network, on disks that lose power, with clocks that jump; clients record what they asked and
//! were told, and the simulator's checkers judge it.
//!
//! ```text
//!   schedule ──► run ──► Cluster (harness)    SIGKILL, SIGSTOP, restarts, rot
//!                 ├────► proxy                partitions, delay, resets, flipped bits
//!                 ├────► disk                 power loss, a full disk
//!                 ├────► clock.c              a wall clock that jumps
//!                 └────► clients ──► sim/checkers: linearizable, nothing acknowledged is lost
//! ```
//!
//! `scripts/chaos.sh SECONDS SEED` runs it for longer. `VSR_CHAOS_SECONDS` and `VSR_CHAOS_SEED` are
//! what it sets.
//!
//! **Invariants:** one seed, one schedule; every wait for a condition has a deadline far beyond
//! what a slow machine needs; what fails prints seed, schedule and the ends of the logs.
//!
//! **Not here:** what the simulator reaches better: every interleaving, again and again.

#[path = "../checkers/mod.rs"]
#[expect(dead_code, reason = "what replicas tell of their insides is the simulator's to compare")]
mod checkers;
#[path = "chaos/clients.rs"]
mod clients;
#[path = "chaos/disk.rs"]
mod disk;
#[expect(dead_code, reason = "shared with tests that need other parts of it")]
mod harness;
#[path = "../../docs/examples/ledger.rs"]
#[expect(dead_code, reason = "the checkers know it, and nobody asks them for it here")]
mod ledger;
#[path = "chaos/proxy.rs"]
#[expect(dead_code, reason = "shared with tests that need other parts of it")]
mod proxy;
#[path = "chaos/run.rs"]
mod run;
#[path = "chaos/schedule.rs"]
mod schedule;

use harness::now;
use std::time::Duration;
use vsr::stdx::Prng;

/// How long faults go on in one run.
const RUN: Duration = Duration::from_secs(20);
/// How long there are runs without `VSR_CHAOS_SECONDS`: one of each size.
const SECONDS: u64 = 12;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

#[test]
fn clusters_survive_chaos() {
    let seconds = number("VSR_CHAOS_SECONDS").unwrap_or(SECONDS);
    let seed = number("VSR_CHAOS_SEED").unwrap_or(1);
    let total = Duration::from_secs(seconds);
    let duration = RUN.min(total / 2);
    let start = now();
    let mut seeds = Prng::from_seed(seed);
    let mut totals = run::Totals::default();
    let mut runs = 0;
    while runs < 2 || start.elapsed() + duration < total {
        // The first run is that of the seed itself: this is how a failure is run again.
        let seed = if runs < 2 { seed } else { seeds.next_u64() >> 16 };
        let replica_count = if runs % 2 == 0 { 3 } else { 5 };
        totals.add(&run::run(seed, replica_count, duration));
        runs += 1;
    }
    println!("chaos: {runs} runs in {:.0?}: {totals}", start.elapsed());
}
