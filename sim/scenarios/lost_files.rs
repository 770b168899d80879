//! Files that were lost after the birth, and are recovered from the others.

use super::Target;
use super::dsl::*;
use super::script::Rule;
use vsr::recovery::{Obstacle, OldFile, Stage};
use vsr::replica::Status;
use vsr::wire::{DoViewChange, Prepare, Reply};

/// The replica dies, and its file is lost.
fn lose(t: &mut Scenario, who: Who) -> Who {
    let who = t.by_index(who);
    t.on(who).stop();
    t.on(who).lose_file();
    who
}

fn recover(t: &mut Scenario, who: Who) {
    t.on(who).recover();
    t.run_until("the file is recovered, and a member", |t| t.is(who, Status::Normal));
}

#[test]
fn lost_file_of_a_backup_is_recovered() {
    for replicas in 3..=6 {
        let mut t = Scenario::new(replicas);
        t.request(5);
        let lost = lose(&mut t, B1);
        t.request(2);
        recover(&mut t, lost);
        t.request(3);
        t.run();
        assert_eq!(t.answered(C0), 10);
        assert_eq!(t.commit(lost), t.commit(A0));
        t.finish();
    }
}

#[test]
fn lost_file_of_the_primary_is_recovered() {
    for replicas in 3..=6 {
        let mut t = Scenario::new(replicas);
        t.request(5);
        let lost = lose(&mut t, A0);
        t.request(2);
        recover(&mut t, lost);
        t.request(3);
        t.run();
        assert_eq!(t.answered(C0), 10);
        t.finish();
    }
}

#[test]
fn lost_file_of_the_primary_of_the_view_it_begins_in_joins_the_one_after() {
    let mut t = Scenario::new(3);
    t.request(5);
    // The recovery is committed in view 0, so the file begins in view 2, whose primary it is.
    lose(&mut t, R2);
    recover(&mut t, R2);
    assert!(t.view(R2) >= 3);
    t.request(3);
    t.run();
    assert_eq!(t.answered(C0), 8);
    t.finish();
}

#[test]
fn lost_file_is_not_recovered_while_another_of_three_is_down() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.on(R1).stop();
    lose(&mut t, R2);
    t.on(R2).recover();
    // As often as it is tried.
    t.run_for(30_000);
    assert_eq!(t.stage(R2), Some(Stage::Looking));
    assert_eq!(t.obstacle(R2), Some(Obstacle::TooFew(1, 2)));
    t.on(R1).start();
    t.run_until("the file is recovered", |t| t.is(R2, Status::Normal));
    t.request(3);
    t.run();
    t.finish();
}

#[test]
fn lost_file_is_not_recovered_while_the_replica_was_heard_a_moment_ago() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run_for(4000);
    lose(&mut t, B1);
    t.on(R1).recover();
    t.run_for(1500);
    assert_eq!((t.stage(R1), t.obstacle(R1)), (Some(Stage::Looking), Some(Obstacle::Heard)));
    t.run_until("the file is recovered", |t| t.is(R1, Status::Normal));
    t.finish();
}

#[test]
fn lost_file_before_birth_cannot_be_recovered() {
    let mut t = Scenario::unborn(3);
    t.on(R2).hold();
    t.run_for(1000);
    t.on(R2).lose_file();
    t.on(R2).recover();
    t.run_for(5000);
    assert_eq!(t.obstacle(R2), Some(Obstacle::NotBorn));
    t.finish_stuck();
}

#[test]
fn lost_file_recovery_killed_at_any_stage_is_begun_again() {
    for (stage, old_file) in [
        (Stage::Looking, OldFile::Member),
        (Stage::Preparing, OldFile::Member),
        (Stage::Asking, OldFile::Member),
        (Stage::Confirming, OldFile::Replaced),
        (Stage::Writing, OldFile::Replaced),
    ] {
        let mut t = Scenario::new(3);
        t.request(5);
        lose(&mut t, R2);
        t.on(R2).slow_writes(20);
        t.on(R2).recover();
        t.run_until("it is at that stage", |t| t.stage(R2) == Some(stage));
        // It begins to ask with a session of its own, which replaces nothing.
        assert_eq!(t.old_file(R2), Some(old_file));
        t.on(R2).stop();
        let before = t.report(R0).incarnations[2];
        recover(&mut t, R2);
        assert_ne!(t.report(R0).incarnations[2], before);
        assert_eq!(t.report(R2).incarnation, t.report(R0).incarnations[2]);
        t.request(3);
        t.run();
        assert_eq!(t.answered(C0), 8);
        t.finish();
    }
}

#[test]
fn lost_file_for_which_there_is_no_room_changes_nothing() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    let image = t.on(R2).image();
    let before = t.report(R0);
    t.on(R2).lose_file();
    t.on(R2).fill(true);
    t.on(R2).recover();
    t.run_until("the file is begun", |t| t.stage(R2) == Some(Stage::Preparing));
    t.run_for(10_000);
    assert_ne!(t.stage(R2), Some(Stage::Writing));
    let after = t.report(R0);
    assert_eq!((after.table_op, after.incarnations), (before.table_op, before.incarnations));
    assert_eq!(after.op, before.op, "not even a session was opened");
    // What was lost is found again, and a member.
    t.on(R2).stop();
    t.on(R2).fill(false);
    t.on(R2).bring_back(&image);
    t.on(R2).start();
    t.request(3);
    t.run();
    assert_eq!((t.answered(C0), t.commit(R2)), (8, t.commit(A0)));
    t.finish();
}

#[test]
fn lost_file_whose_answer_is_lost_is_asked_for_again_and_recovered_once() {
    let mut t = Scenario::new(3);
    t.request(5);
    lose(&mut t, R2);
    let rule = t.rule(Rule::drop(Reply::CODE).times(3), R_, R2);
    recover(&mut t, R2);
    assert_eq!(t.hits(rule), 3);
    assert_eq!(t.report(R2).incarnation, t.report(R0).incarnations[2]);
    t.finish();
}

#[test]
fn lost_file_far_behind_takes_over_a_checkpoint() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.request(5);
    lose(&mut t, B1);
    t.request(300);
    recover(&mut t, R1);
    t.run();
    assert!(t.report(R1).op_checkpoint > 200);
    // The state it took over knows its incarnation, and so does the state after it.
    t.request(100);
    t.run();
    t.on(R_).stop();
    t.on(R_).start();
    t.run();
    assert_eq!(t.answered(C0), 405);
    assert_eq!(t.report(R1).incarnation, t.report(R1).incarnations[1]);
    t.finish();
}

#[test]
fn lost_files_one_after_the_other_lose_nothing() {
    let mut t = Scenario::new(3);
    for round in 0..6 {
        t.request(5);
        t.run();
        let lost = lose(&mut t, Who::R(round % 3));
        recover(&mut t, lost);
        t.run();
    }
    assert_eq!(t.answered(C0), 30);
    t.finish();
}

#[test]
fn lost_files_of_two_of_five_are_recovered() {
    let mut t = Scenario::new(5);
    t.request(5);
    t.run();
    let (first, second) = (lose(&mut t, B1), lose(&mut t, Who::B(2)));
    t.request(5);
    t.on(first).recover();
    t.on(second).recover();
    t.run_until("both are members", |t| {
        t.is(first, Status::Normal) && t.is(second, Status::Normal)
    });
    t.request(5);
    t.run();
    assert_eq!((t.answered(C0), t.commit(first)), (15, t.commit(second)));
    t.finish();
}

#[test]
fn lost_file_found_again_after_its_recovery_is_refused() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    let image = t.on(R2).image();
    t.on(R2).lose_file();
    recover(&mut t, R2);
    t.request(3);
    t.run();
    t.on(R2).stop();
    t.on(R2).bring_back(&image);
    let view = t.view(A0);
    t.on(R2).start();
    t.on(R2).dies("another data file");
    assert_eq!(t.view(A0), view, "it has no vote");
    t.request(3);
    t.finish();
}

#[test]
fn lost_file_found_again_has_no_vote_that_counts() {
    // It hears of the view, and promises, with what it had long ago, to begin the next one.
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R2).stop();
    let image = t.on(R2).image();
    t.on(R2).lose_file();
    recover(&mut t, R2);
    t.request(3);
    t.run();
    t.on(R2).stop();
    t.on(R2).bring_back(&image);
    let primary = t.by_index(A0);
    let other = if primary == R0 { R1 } else { R0 };
    let view = t.view(other);
    t.on(primary).stop();
    t.record();
    t.on(R2).start();
    t.run_for(5000);
    assert!(!t.recorded(DoViewChange::CODE, R2, other).is_empty());
    assert_eq!(t.view(other), view, "another file counts for the replica");
    t.on(primary).start();
    t.on(R2).dies("another data file");
    t.request(3);
    t.finish();
}

#[test]
fn lost_file_recovered_forgets_no_acknowledgement() {
    // Answered by replicas 0 and 2; 1 never had it. Then 2 is another one, which has not got it
    // either, and 0 is gone for a while: the two must not go on without it.
    let mut t = Scenario::new(3);
    t.request(3);
    t.run();
    let op = t.op(R0) + 1;
    t.rule(Rule::drop(Prepare::CODE).op(op), R_, R1);
    t.request(1);
    t.run_until("it is answered", |t| t.has(R2, op));
    lose(&mut t, R2);
    t.rule(Rule::drop(Prepare::CODE).op(op), R_, R2);
    recover(&mut t, R2);
    t.run_for(2000);
    t.on(R0).stop();
    t.run_for(10_000);
    assert!(t.report(R1).commit_min < op && t.report(R2).commit_min < op);
    t.end_all();
    t.on(R0).start();
    t.run();
    assert!(t.commit(R_) > op);
    t.finish();
}

#[test]
fn lost_file_of_a_cluster_with_damage_elsewhere_is_recovered() {
    let mut t = Scenario::new(5);
    t.request(10);
    t.run();
    let lost = lose(&mut t, B1);
    let hurt = t.by_index(Who::B(2));
    t.on(hurt).stop();
    t.on(hurt).corrupt(Target::Prepare(7));
    t.on(hurt).start();
    recover(&mut t, lost);
    t.request(3);
    t.run();
    assert_eq!((t.answered(C0), t.to_repair(lost), t.to_repair(hurt)), (13, 0, 0));
    t.finish();
}
