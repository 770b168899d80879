//! The birth of a cluster, and files that were lost before it or after.

use super::dsl::*;
use super::script::Rule;
use super::{Survives, Target};
use vsr::replica::Status;
use vsr::wire::{Ping, Prepare, PrepareOk};

#[test]
fn genesis_waits_for_every_replica() {
    let mut t = Scenario::unborn(3);
    t.on(R2).hold();
    t.ask(C0, 1);
    t.run_for(5000);
    assert_eq!((t.op(R0), t.commit_max(R0), t.answered(C0)), (0, 0, 0));
    t.on(R2).start();
    t.run();
    assert_eq!((t.commit(R_), t.answered(C0)), (3, 1));
    t.finish();
}

#[test]
fn genesis_is_not_committed_by_a_mere_quorum() {
    let mut t = Scenario::unborn(3);
    t.rule(Rule::drop(PrepareOk::CODE).op(1), R2, R0);
    t.ask(C0, 1);
    t.run_for(3000);
    assert_eq!((t.op(R_), t.commit_max(R_), t.answered(C0)), (1, 0, 0));
    t.end_all();
    t.run();
    assert_eq!((t.commit(R_), t.answered(C0)), (3, 1));
    t.finish();
}

/// A blank file in the place of one that no genesis named is as good as that one: the cluster is
/// born with it, and its replica is waited for like any other.
#[test]
fn genesis_file_lost_before_it_was_named_is_replaced_by_a_blank_one() {
    let mut t = Scenario::unborn(3);
    t.on(R2).hold();
    t.run_for(500);
    t.cluster.lose_and_format(2);
    t.on(R2).start();
    t.ask(C0, 1);
    t.run();
    assert_eq!((t.commit(R_), t.answered(C0)), (3, 1));
    assert_eq!(t.cluster.pending(&[0, 1, 2]), None);
    t.on(R2).cut(Both);
    t.request(5);
    assert_ne!(t.cluster.pending(&[0, 1, 2]), None);
    t.finish();
}

#[test]
fn genesis_messages_lost_are_said_again() {
    for command in [Ping::CODE, Prepare::CODE, PrepareOk::CODE] {
        let mut t = Scenario::unborn(3);
        t.rule(Rule::drop(command).times(4), R_, R_);
        t.ask(C0, 1);
        t.run();
        assert_eq!((t.commit(R_), t.answered(C0)), (3, 1));
        t.finish();
    }
}

#[test]
fn genesis_crash_of_anybody_at_any_moment_delays_it() {
    for survives in [Survives::Nothing, Survives::Prepares, Survives::All] {
        for index in 0..3 {
            for delay in [10, 25, 40, 60] {
                let mut t = Scenario::unborn(3);
                t.run_for(12);
                t.on(R_).slow_writes(10);
                t.ask(C0, 1);
                t.run_for(delay);
                t.on(Who::R(index)).stop_leaving(survives);
                t.run_for(20);
                t.on(Who::R(index)).start();
                t.run();
                assert_eq!(t.answered(C0), 1);
                t.finish();
            }
        }
    }
}

#[test]
fn genesis_over_a_damaged_header_is_prepared_again() {
    // What the slot held is not known, so that its marker stays until the genesis is there; a crash
    // leaves the body of the genesis beneath it.
    let mut t = Scenario::unborn(3);
    t.cut(R0, __);
    t.cut(__, R0);
    t.run_until("all live", |t| t.is(R_, Status::Normal));
    t.on(R0).stop();
    t.on(R0).corrupt(Target::HeaderSector(1));
    t.on(R0).start();
    t.run_for(200);
    assert_eq!(t.op(R0), 0);
    t.on(R0).slow_writes(1000);
    t.join(__, __);
    t.run_until("it is prepared", |t| t.op(R0) == 1);
    t.on(R0).stop_leaving(Survives::Prepares);
    t.on(R0).slow_writes(0);
    t.on(R0).start();
    assert_eq!(t.op(R0), 0, "the slot may have held something else");
    t.finish();
}

#[test]
fn genesis_file_lost_after_birth_is_refused() {
    for index in 0..3 {
        let mut t = Scenario::new(3);
        t.request(3);
        t.run();
        t.on(Who::R(index)).stop();
        t.on(Who::R(index)).reformat();
        t.on(Who::R(index)).start();
        t.on(Who::R(index)).dies("another data file");
        t.request(3);
        t.finish();
    }
}

#[test]
fn genesis_file_lost_after_birth_forgets_no_acknowledgement() {
    // Answered by replicas 0 and 1. A blank 1 and a lagging 2 are no quorum for a log without it.
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.on(R2).cut(Both);
    t.request(1);
    t.run_until("a backup has it", |t| t.has(R1, 5));
    t.on(R0).stop();
    t.on(R1).stop();
    t.on(R1).reformat();
    t.on(R2).join();
    t.on(R1).start();
    t.on(R1).dies("another data file");
    t.run_for(5000);
    assert_eq!((t.view(R2), t.commit(R2)), (0, 4));
    t.on(R0).start();
    t.run();
    assert_eq!((t.commit(R0), t.commit(R2)), (5, 5));
    t.finish();
}

#[test]
fn genesis_file_lost_before_birth_is_never_born() {
    let mut t = Scenario::unborn(3);
    t.rule(Rule::drop(PrepareOk::CODE).op(1), R2, R0);
    t.ask(C0, 1);
    t.run_until("all have it", |t| t.has(R_, 1));
    t.run_for(50);
    t.on(R2).stop();
    t.on(R2).reformat();
    t.end_all();
    t.on(R2).start();
    t.run_for(3000);
    assert_eq!((t.commit_max(R0), t.answered(C0)), (0, 0));
    t.vanish(C0);
    t.finish_stuck();
}

#[test]
fn genesis_of_another_geometry_is_not_listened_to() {
    let mut t = Scenario::unborn(3);
    t.on(R2).hold();
    let geometry = t.cluster.options.geometry();
    let other = vsr::storage::Geometry { pipeline: 4, ..geometry };
    t.cluster.reformat_as(2, 2, None, other);
    t.on(R2).start();
    t.ask(C0, 1);
    t.run_for(3000);
    assert_eq!((t.op(R0), t.answered(C0)), (0, 0));
    t.on(R2).stop();
    t.on(R2).reformat();
    t.on(R2).start();
    t.run();
    assert_eq!(t.answered(C0), 1);
    t.finish();
}
