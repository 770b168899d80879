//! Recovery: what comes back from the own data file, and what has to be asked of others first.

use super::dsl::*;
use super::script::Rule;
use super::{Survives, Target};
use vsr::replica::Status;
use vsr::wire::{DoViewChange, Op, PrepareOk, RequestStartView, StartView, StartViewChange};

const ALL: [Survives; 5] = [
    Survives::Nothing,
    Survives::PrepareTails,
    Survives::Prepares,
    Survives::SuperblockTails,
    Survives::All,
];

#[test]
fn recovery_all_restart_together_come_back() {
    for replicas in 1..=6 {
        let mut t = Scenario::new(replicas);
        t.request(10);
        t.run();
        t.on(R_).stop();
        t.on(R_).start();
        t.request(3);
        t.run();
        assert_eq!((t.commit(R_), t.answered(C0)), (15, 13));
        t.finish();
    }
}

#[test]
fn recovery_all_crash_in_the_middle_of_writes() {
    for replicas in [1, 2, 3, 5] {
        for survives in ALL {
            let mut t = Scenario::new(replicas);
            t.request(3);
            t.on(R_).slow_writes(20);
            t.ask(C0, 3);
            t.run_until("it is prepared", |t| t.op(A0) >= 6);
            t.on(R_).stop_leaving(survives);
            t.run_for(50);
            t.on(R_).start();
            t.on(R_).slow_writes(0);
            t.run();
            assert_eq!(t.answered(C0), 6);
            t.finish();
        }
    }
}

#[test]
fn recovery_rolling_restart_loses_nothing() {
    let mut t = Scenario::new(3);
    for round in 0..6 {
        t.ask(C0, 5);
        t.run_for(20);
        t.on(Who::R(round % 3)).restart();
        t.run();
    }
    assert_eq!(t.answered(C0), 30);
    t.finish();
}

#[test]
fn recovery_one_replica_prepare_damaged_is_refused() {
    let mut t = Scenario::new(1);
    t.request(5);
    t.on(R0).stop();
    t.on(R0).corrupt(Target::Prepare(4));
    t.on(R0).refuses_to_start("op 4");
    t.finish_stuck();
}

#[test]
fn recovery_one_replica_header_damaged_is_repaired() {
    let mut t = Scenario::new(1);
    t.request(5);
    t.on(R0).stop();
    t.on(R0).corrupt(Target::Header(4));
    t.on(R0).start();
    t.run();
    assert_eq!((t.commit(R0), t.to_repair(R0)), (7, 0));
    t.finish();
}

#[test]
fn recovery_head_uncertain_casts_no_vote() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    t.on(R2).corrupt(Target::Prepare(7));
    t.rule(Rule::drop(StartView::CODE), R_, R2);
    t.rule(Rule::drop(DoViewChange::CODE), R_, R2);
    t.record();
    t.on(R2).start();
    t.run_for(300);
    t.on(R0).stop();
    t.run_for(5000);
    assert_eq!((t.status(R2), t.view(R1), t.view(R2)), (Status::RecoveringHead, 0, 0));
    for command in [StartViewChange::CODE, DoViewChange::CODE, PrepareOk::CODE] {
        assert!(t.recorded(command, R2, R_).is_empty());
    }
    // The one that votes alone is answered by the third: it takes the two of them.
    t.on(R0).start();
    t.run_until("the two go on", |t| t.is(R1, Status::Normal) && t.view(R1) >= 1);
    assert_eq!(t.status(R2), Status::RecoveringHead);
    t.end_all();
    t.run();
    assert_eq!((t.commit(R_), t.to_repair(R_)), (7, 0));
    t.finish();
}

#[test]
fn recovery_head_uncertain_believes_no_answer_to_another_life() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    t.on(R2).corrupt(Target::Prepare(7));
    t.record();
    t.rule(Rule::drop(StartView::CODE), R_, R2);
    t.on(R2).start();
    t.run_for(300);
    // The answers to this life are on their way when it ends.
    let late = t.recorded(StartView::CODE, R0, R2);
    t.on(R2).restart();
    t.run_for(100);
    assert!(t.replay(&late) > 0);
    t.run_for(300);
    assert_eq!(t.status(R2), Status::RecoveringHead);
    t.end_all();
    t.run();
    assert_eq!(t.status(R_), Status::Normal);
    t.finish();
}

/// Two others have left view 0; the log of one ends in an op that is damaged there and was nowhere
/// else, so that no log can begin without the third.
fn view_change_waits_for(t: &mut Scenario, victim: Who, other: Who, op: Op) {
    let rule = t.rule(Rule::drop(DoViewChange::CODE), R_, R_);
    t.join(victim, R_);
    t.run_until("it has left its view, durably", |t| t.log_view(victim) < t.view(victim));
    t.run_for(200);
    t.on(victim).stop();
    t.on(victim).corrupt(Target::Prepare(op));
    t.on(victim).start();
    t.run_until("both have left it", |t| t.log_view(other) < t.view(other) && t.hits(rule) > 0);
    t.end_all();
    t.run_for(5000);
    assert_eq!((t.status(victim), t.status(other)), (Status::ViewChange, Status::ViewChange));
}

/// The one with the damaged head came back: with the log of the others it is whole enough to speak.
fn view_change_goes_on_with(t: &mut Scenario, who: Who) {
    t.on(who).start();
    t.run();
    assert_eq!((t.status(R_), t.to_repair(R_)), (Status::Normal, 0));
    assert!(t.view(R_) > 0);
}

#[test]
fn recovery_head_uncertain_is_told_by_a_log_of_its_own_view() {
    let t = told_by_its_own_view(Scenario::new(3), 0);
    assert_eq!(t.cluster.repairs_total().syncs, 0);
    t.finish();
}

/// As with a later view: the log comes with the checkpoint that it stands on.
#[test]
fn recovery_head_uncertain_and_far_behind_in_its_own_view_takes_a_checkpoint_over() {
    let t = Scenario::with(3, |options| options.slots = 64);
    let t = told_by_its_own_view(t, 100);
    assert_eq!(t.cluster.repairs_total().syncs, 1);
    t.finish();
}

/// Replica 1 misses so many requests of its view; then it is what the next one waits for.
fn told_by_its_own_view(mut t: Scenario, requests: u64) -> Scenario {
    t.request(5);
    t.run();
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Prepare(7));
    t.request(requests);
    t.run_until("both have it all", |t| t.op(R2) == t.op(R0));
    let op = t.op(R0) + 1;
    t.cut(R0, R2);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.has(R0, op));
    t.on(R0).restart();
    view_change_waits_for(&mut t, R0, R2, op);
    view_change_goes_on_with(&mut t, R1);
    t
}

#[test]
fn recovery_head_uncertain_is_told_by_a_log_of_a_later_view() {
    let t = Scenario::new(3);
    let t = told_by_a_later_view(t, 1);
    assert_eq!(t.cluster.repairs_total().syncs, 0);
    t.finish();
}

/// Its journal has no room for the log that the view change waits to go on with: it comes with the
/// checkpoint that it stands on. Found by a seed with the damage of disks set to its most.
#[test]
fn recovery_head_uncertain_and_far_behind_takes_a_checkpoint_over() {
    let t = Scenario::with(3, |options| options.slots = 64);
    let t = told_by_a_later_view(t, 100);
    assert_eq!(t.cluster.repairs_total().syncs, 1);
    t.finish();
}

/// Replica 1 misses a view with so many requests; then it is what the next one waits for.
fn told_by_a_later_view(mut t: Scenario, requests: u64) -> Scenario {
    t.request(5);
    t.run();
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Prepare(7));
    t.on(R0).stop();
    t.run_for(100);
    t.on(R0).start();
    t.request(requests);
    let primary = t.by_index(A0);
    let backup = if primary == R0 { R2 } else { R0 };
    assert!(t.log_view(primary) > 0);
    let op = t.op(primary) + 1;
    t.run();
    t.cut(primary, backup);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.has(primary, op));
    t.on(primary).restart();
    view_change_waits_for(&mut t, primary, backup, op);
    view_change_goes_on_with(&mut t, R1);
    t
}

#[test]
fn recovery_head_uncertain_is_told_by_a_nack_quorum_that_left_its_view() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.cut(R0, R2);
    t.cut(R0, R1);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.has(R0, 8));
    // The primary of view 1 begins a log that nobody else ever sees, and prepares in it.
    t.rule(Rule::drop(StartView::CODE), R1, R_);
    t.run_until("view 1 has a log", |t| t.log_view(R1) == 1 && t.has(R1, 8));
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Prepare(8));
    t.end_all();
    assert_eq!((t.log_view(R0), t.log_view(R2)), (0, 0));
    view_change_waits_for(&mut t, R0, R2, 8);
    view_change_goes_on_with(&mut t, R1);
    t.finish();
}

/// Replica 0 has prepared an op 8 of its own, and takes the log over in which another one is blank,
/// known by its successor alone. Found by a seed with the damage of disks set to its most.
#[test]
fn recovery_head_uncertain_with_another_op_than_the_blank_one_speaks_against_it() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.cut(R0, R_);
    t.ask(C0, 1);
    t.run_until("the first primary has it", |t| t.has(R0, 8));
    t.on(R0).stop();
    t.on(R0).corrupt(Target::Header(12));
    t.run_until("view 1 has begun", |t| t.log_view(R1) == 1 && t.log_view(R2) == 1);
    t.cut(R1, R2);
    t.ask(C0, 1);
    t.ask(C1, 1);
    t.run_until("the next primary has others", |t| t.has(R1, 9));
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Prepare(8));
    t.on(R1).corrupt(Target::Header(8));
    t.on(R1).start();
    t.join(R1, R2);
    t.run_for(5000);
    assert_eq!((t.status(R1), t.status(R2)), (Status::ViewChange, Status::ViewChange));
    // The log with the blank op reaches it first.
    t.rule(Rule::drop(DoViewChange::CODE), R2, R0);
    t.join(R0, R_);
    t.on(R0).start();
    assert_eq!(t.status(R0), Status::RecoveringHead);
    t.run_until("it takes that log", |t| t.status(R0) == Status::ViewChange && t.op(R0) == 9);
    t.end_all();
    t.run();
    assert_eq!((t.status(R_), t.to_repair(R_)), (Status::Normal, 0));
    assert_eq!((t.answered(C0), t.answered(C1)), (7, 1));
    t.finish();
}

#[test]
fn recovery_head_uncertain_while_a_view_change_passes_by() {
    let mut t = Scenario::new(5);
    t.request(5);
    t.run();
    let last = Who::R(4);
    t.on(last).stop();
    t.on(last).corrupt(Target::Prepare(7));
    t.on(last).cut(Both);
    t.on(last).start();
    t.on(R0).stop();
    t.request(3);
    assert_eq!((t.view(R1), t.view(last)), (1, 0));
    t.on(last).join();
    t.run();
    assert_eq!((t.status(last), t.view(last), t.commit(last)), (Status::Normal, 1, 10));
    t.finish();
}

#[test]
fn recovery_request_start_view_lost_is_asked_again() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    t.on(R2).corrupt(Target::Prepare(7));
    t.rule(Rule::drop(RequestStartView::CODE).times(5), R2, R_);
    t.on(R2).start();
    t.run();
    assert_eq!((t.status(R_), t.to_repair(R_)), (Status::Normal, 0));
    t.finish();
}

/// A primary would give the log to who lost the genesis before it knew of the birth. There is none
/// as long as two of three do not vote: but the one that does knows the genesis, though a
/// checkpoint or the whole journal is past it. Found by seeds with disks at their most.
#[test]
fn recovery_genesis_lost_and_no_primary_is_told_by_a_backup() {
    genesis_is_told_by_a_backup(40);
    genesis_is_told_by_a_backup(120);
}

fn genesis_is_told_by_a_backup(requests: u64) {
    let mut t = Scenario::unborn_with(3, |options| options.slots = 64);
    let rule = t.rule(Rule::drop(PrepareOk::CODE), R1, R0);
    t.run_until("both have acknowledged the genesis", |t| {
        t.has(R1, 1) && t.has(R2, 1) && t.hits(rule) > 0
    });
    t.run_for(100);
    t.on(R2).stop();
    t.end_all();
    t.request(requests);
    t.run_until("the checkpoint is whole", |t| t.has_at_least(R0, 32) && t.has_at_least(R1, 32));
    let op = requests + 2;
    assert_eq!((t.op(R1), t.view(R1)), (op, 0));
    t.on(R0).stop();
    t.on(R0).corrupt(Target::Header(op + 4));
    t.on(R0).start();
    t.run_for(2000);
    assert_eq!((t.status(R0), t.view(R1)), (Status::RecoveringHead, 0));
    t.on(R2).corrupt(Target::Prepare(1));
    t.on(R2).corrupt(Target::Header(1));
    t.on(R2).start();
    assert_eq!((t.op(R2), t.commit(R2)), (0, 0));
    t.run();
    assert_eq!((t.status(R_), t.to_repair(R_)), (Status::Normal, 0));
    t.finish();
}

#[test]
fn recovery_every_head_uncertain_stops_the_cluster() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R_).stop();
    t.on(R_).corrupt(Target::Prepare(7));
    t.on(R_).start();
    t.run_for(2000);
    assert_eq!(t.status(R_), Status::RecoveringHead);
    t.finish_stuck();
}

#[test]
fn recovery_cut_tail_does_not_come_back() {
    // The primary alone had an op; the view that cut it was long ago when it returns.
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.cut(R0, B_);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.has(R0, 5));
    t.on(R0).stop();
    t.join(R0, B_);
    t.request(1);
    for _ in 0..3 {
        t.on(R1).restart();
        t.request(1);
        t.on(R2).restart();
        t.request(1);
    }
    t.on(R0).start();
    t.run();
    t.on(R0).restart();
    t.run();
    assert_eq!(t.to_repair(R_), 0);
    t.finish();
}

#[test]
fn recovery_file_of_another_replica_is_refused() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).stop();
    let geometry = t.cluster.options.geometry();
    t.cluster.reformat_as(2, 1, None, geometry);
    t.on(R2).refuses_to_start("replica 1");
    t.finish();
}

#[test]
fn recovery_file_of_another_cluster_is_refused() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).stop();
    t.cluster.reformat(2, Some(77));
    t.on(R2).refuses_to_start("cluster 77");
    t.finish();
}
