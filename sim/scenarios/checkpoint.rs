//! Deaths in the middle of a checkpoint: of one's own, and of one that is taken over from others.
//! Wherever the death falls, between the first block and the superblock, what comes back has the
//! checkpoint before or this one, and goes on as the others do.

use super::Survives;
use super::dsl::*;

/// The primary dies so many ms after it has executed the op that ends the first interval. Whether
/// its checkpoint was durable by then.
fn kill_primary_in_its_checkpoint(ms: u64, survives: Survives) -> bool {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.request(20);
    t.on(R0).slow_writes(5);
    t.ask(C0, 40);
    t.run_until("the state is frozen", |t| t.commit(R0) >= 32);
    assert_eq!((t.checkpoint(R0), t.view(R0)), (0, 0));
    t.run_for(ms);
    let is_durable = t.checkpoint(R0) == 32;
    t.on(R0).stop_leaving(survives);
    t.on(R0).hold();
    t.run_until("the others go on", |t| !t.cluster.is_client_busy(0));
    assert!(t.checkpoint(R1) >= 32);
    t.on(R0).slow_writes(0);
    t.on(R0).start();
    t.run();
    assert!(t.checkpoint(R0) >= 32);
    t.finish();
    is_durable
}

#[test]
fn checkpoint_primary_killed_in_the_middle_of_its_own() {
    for survives in [Survives::All, Survives::Nothing, Survives::SuperblockTails] {
        let durable = [0, 4, 8, 12, 16, 20, 24, 28, 32, 40, 400]
            .map(|ms| kill_primary_in_its_checkpoint(ms, survives));
        assert!(!durable[0] && !durable[1] && durable[10], "{durable:?}");
    }
}

#[test]
fn checkpoint_replica_killed_in_the_middle_of_taking_one_over() {
    for survives in [Survives::All, Survives::Nothing, Survives::SuperblockTails] {
        let mut t = Scenario::with(3, |options| options.slots = 64);
        t.request(5);
        t.on(R2).stop();
        t.request(200);
        t.on(R2).slow_writes(3);
        let mut deaths = 0;
        for ms in [0, 2, 5, 9, 14, 20, 30] {
            t.on(R2).start();
            t.run_until("it takes over a checkpoint, or has it", |t| {
                t.is_syncing(R2) || t.has_at_least(R2, 160)
            });
            if !t.is_syncing(R2) {
                break;
            }
            t.run_for(ms);
            deaths += u64::from(t.is_syncing(R2));
            t.on(R2).stop_leaving(survives);
            t.on(R2).hold();
        }
        assert!(deaths >= 3, "{deaths} times it died in the middle");
        t.on(R2).slow_writes(0);
        t.on(R2).start();
        t.run();
        assert!(t.checkpoint(R2) >= 160 && !t.is_syncing(R2));
        t.finish();
    }
}
