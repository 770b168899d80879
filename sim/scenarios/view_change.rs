//! View changes: the primary dies, is cut off, or seems to be; and what is lost, late or stale on
//! the way into a view.

use super::dsl::*;
use super::script::{ANY, Rule, Step};
use super::{Survives, Target};
use vsr::replica::Status;
use vsr::wire::{Commit, DoViewChange, Prepare, PrepareOk, StartView, StartViewChange};

#[test]
fn view_change_primary_dies_next_takes_over() {
    for replicas in 3..=6 {
        let mut t = Scenario::new(replicas);
        t.request(5);
        t.on(R0).stop();
        t.request(5);
        assert_eq!((t.view(R1), t.status(R1)), (1, Status::Normal));
        t.on(R0).start();
        t.run();
        assert_eq!((t.view(R_), t.op(R_), t.commit(R_)), (1, 12, 12));
        t.finish();
    }
}

#[test]
fn view_change_next_primary_dead_too_goes_on_to_the_one_after() {
    let mut t = Scenario::new(5);
    t.request(2);
    t.on(R0).stop();
    t.on(R1).stop();
    t.request(2);
    assert_eq!((t.view(R2), t.status(R2)), (2, Status::Normal));
    t.finish();
}

#[test]
fn view_change_any_two_of_three_go_on() {
    for dead in 0..3 {
        let mut t = Scenario::new(3);
        t.request(2);
        t.on(Who::R(dead)).stop();
        t.request(2);
        assert_eq!(t.answered(C0), 4);
        t.finish();
    }
}

#[test]
fn view_change_views_beyond_the_count_of_replicas() {
    let mut t = Scenario::new(3);
    for _ in 0..8 {
        let a0 = t.by_index(A0);
        t.on(a0).stop();
        t.request(2);
        t.on(a0).start();
        t.run();
    }
    assert!(t.view(R_) >= 8);
    assert_eq!(t.answered(C0), 16);
    t.finish();
}

#[test]
fn view_change_primary_isolated_is_deposed_and_joins() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.on(R0).cut(Both);
    t.request(3);
    assert_eq!((t.view(R1), t.commit(R1)), (1, 7));
    assert_eq!((t.view(R0), t.commit(R0)), (0, 4));
    t.on(R0).join();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (1, 7));
    t.finish();
}

#[test]
fn view_change_primary_deaf_to_backups_falls_silent() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.cut(B_, R0);
    t.request(2);
    assert_eq!((t.view(R1), t.status(R1)), (1, Status::Normal));
    t.finish();
}

#[test]
fn view_change_primary_mute_is_deposed() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R0).cut(Outgoing);
    t.request(2);
    assert_eq!((t.view(R1), t.status(R1)), (1, Status::Normal));
    t.finish();
}

#[test]
fn view_change_primary_cut_from_one_backup_stays() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.cut(A0, B1);
    t.cut(B1, A0);
    t.request(5);
    t.run_for(3000);
    assert_eq!((t.view(R_), t.commit(R0), t.commit(R2)), (0, 9, 9));
    t.finish();
}

#[test]
fn view_change_backup_cut_off_raises_no_view() {
    for direction in [Both, Incoming, Outgoing] {
        let mut t = Scenario::new(3);
        t.request(2);
        t.on(R2).cut(direction);
        t.request(5);
        t.run_for(5000);
        assert_eq!((t.view(R_), t.commit(R0)), (0, 9));
        t.on(R2).join();
        t.run();
        assert_eq!((t.view(R_), t.commit(R_)), (0, 9));
        t.finish();
    }
}

#[test]
fn view_change_prepares_do_not_pass_primary_abdicates() {
    let mut t = Scenario::new(3);
    t.request(2);
    // Small messages pass.
    t.rule(Rule::drop(Prepare::CODE), R0, B_);
    t.request(1);
    assert_eq!((t.status(R1), t.answered(C0)), (Status::Normal, 3));
    assert!(t.view(R1) > 0);
    t.finish();
}

#[test]
fn view_change_op_on_one_backup_survives() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.rule(Rule::drop(Prepare::CODE).op(4), R0, R2);
    t.rule(Rule::drop(PrepareOk::CODE).op(4), R1, R0);
    t.ask(C0, 1);
    t.run_until("one backup has it", |t| t.has(R1, 4));
    t.on(R0).stop();
    t.end_all();
    t.run();
    // The same op, not another one for the client's next copy.
    assert_eq!((t.op(R1), t.commit(R1), t.answered(C0)), (4, 4, 2));
    t.finish();
}

#[test]
fn view_change_op_on_the_dead_primary_alone_is_cut() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.rule(Rule::drop(Prepare::CODE), R0, B_);
    t.ask(C0, 1);
    t.run_until("the primary has it", |t| t.has(R0, 4));
    t.on(R0).stop();
    t.end_all();
    t.run();
    assert_eq!((t.commit(R1), t.answered(C0)), (4, 2));
    t.on(R0).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (4, 4, 0));
    t.finish();
}

#[test]
fn view_change_tail_is_executed_once_it_is_committed() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.rule(Rule::drop(PrepareOk::CODE), B_, R0);
    t.ask(C0, 1);
    t.run_until("all have it", |t| t.has(R_, 4));
    // The next primary has it from the start, but may not execute it.
    let held = t.rule(Rule::drop(PrepareOk::CODE), R2, R1);
    t.on(R0).stop();
    t.run_until("it works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.run_for(200);
    assert_eq!((t.op(R1), t.commit(R1), t.commit(R2)), (4, 3, 3));
    t.end(held);
    t.run();
    assert_eq!((t.op(R1), t.commit(R1), t.answered(C0)), (4, 4, 2));
    t.finish();
}

#[test]
fn view_change_messages_lost_are_said_again() {
    for command in [StartViewChange::CODE, DoViewChange::CODE, StartView::CODE] {
        let mut t = Scenario::new(3);
        t.request(2);
        t.rule(Rule::drop(command).times(2), R_, R_);
        t.on(R0).stop();
        t.request(2);
        assert_eq!(t.answered(C0), 4);
        assert!(t.view(R1) <= 2, "one patience at most");
        t.finish();
    }
}

#[test]
fn view_change_too_few_logs_begin_no_view() {
    let mut t = Scenario::new(5);
    t.request(2);
    t.run();
    // Whoever is primary has its own log and that of one other, again and again.
    t.rule(Rule::drop(DoViewChange::CODE), Who::R(3), R_);
    t.rule(Rule::drop(DoViewChange::CODE), Who::R(4), R_);
    let others = [R1, R2, Who::R(3), Who::R(4)];
    t.rule(Rule::drop(DoViewChange::CODE), R1, Who::R(3));
    t.rule(Rule::drop(DoViewChange::CODE), R2, Who::R(3));
    t.rule(Rule::drop(DoViewChange::CODE), R1, Who::R(4));
    t.rule(Rule::drop(DoViewChange::CODE), R2, Who::R(4));
    t.on(R0).stop();
    t.run_for(8000);
    for who in others {
        assert_eq!((t.status(who), t.log_view(who), t.op(who)), (Status::ViewChange, 0, 4));
    }
    t.end_all();
    t.request(2);
    t.finish();
}

#[test]
fn view_change_stale_start_views_change_nothing() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.record();
    t.on(R0).stop();
    t.request(2);
    t.on(R0).start();
    t.run();
    let of_view = t.recorded(StartView::CODE, R1, R_);
    // In its own view, where it names less than what is committed by now ...
    t.request(10);
    t.run();
    let op = t.op(R_);
    assert!(t.replay(&of_view) > 0);
    t.run();
    assert_eq!((t.view(R_), t.op(R_), t.commit(R_)), (1, op, op));
    // ... and in the next.
    t.on(R1).restart();
    t.run();
    let view = t.view(R_);
    assert!(view > 1);
    assert!(t.replay(&of_view) > 0);
    t.run();
    assert_eq!((t.view(R_), t.op(R_), t.commit(R_)), (view, op, op));
    t.finish();
}

#[test]
fn view_change_start_view_late_for_a_newer_view_is_ignored() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.rule(Rule::hold(StartView::CODE), R1, R2);
    t.on(R0).stop();
    t.run_until("two are in view 1", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.on(R0).start();
    t.run_for(50);
    t.on(R1).stop();
    t.request(3);
    let (view, op) = (t.view(R2), t.op(R2));
    assert!(view > 1);
    t.on(R1).start();
    t.run();
    t.end_all();
    t.release();
    t.run();
    assert!(t.view(R_) >= view);
    assert_eq!((t.op(R_), t.commit(R_)), (op, op));
    t.finish();
}

#[test]
fn view_change_promise_survives_a_restart() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    // Replica 1 votes, in vain, and forgets it in a crash; its vote is still on the way.
    let silence = t.rule(Rule::drop(Commit::CODE), R0, R1);
    t.rule(Rule::hold(StartViewChange::CODE), R1, R2);
    t.rule(Rule::drop(StartViewChange::CODE), R1, R0);
    t.run_for(1500);
    t.end(silence);
    t.on(R1).restart();
    t.run_for(100);
    // Replica 2 misses the primary for a moment, hears the old vote and promises view 1.
    let silence = t.rule(Rule::drop(Commit::CODE), R0, R2);
    t.rule(Rule::drop(ANY), R2, R_);
    t.run_until("it votes", |t| t.hits(silence) > 30);
    t.release();
    t.run_until("it promises", |t| t.view(R2) == 1);
    t.run_for(50);
    t.end(silence);
    t.on(R2).restart();
    assert_eq!((t.view(R2), t.status(R2)), (1, Status::ViewChange));
    // So it acknowledges nothing of view 0 any more: what is answered is on 0 and 1.
    t.ask(C0, 1);
    t.run_for(300);
    assert_eq!((t.op(R2), t.commit(R0), t.commit_max(R1)), (3, 4, 4));
    t.end_all();
    t.run();
    assert_eq!(t.commit(R_), 4);
    t.finish();
}

#[test]
fn view_change_start_view_lost_keeps_the_log_and_raises_no_log_view() {
    let mut t = Scenario::new(3);
    t.request(3);
    t.run();
    t.rule(Rule::drop(StartView::CODE), R1, R2);
    t.on(R0).stop();
    t.run_until("view 1 works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.run_for(300);
    assert_eq!((t.view(R2), t.log_view(R2), t.op(R2), t.to_repair(R2)), (1, 0, 5, 0));
    // What it says in the next view is still of view 0: the log of view 1 wins.
    t.on(R0).start();
    t.run_until("two go on", |t| t.is(R0, Status::Normal) && t.view(R0) >= 1);
    t.request(2);
    t.on(R1).stop();
    t.run_for(100);
    t.request(2);
    t.finish();
}

#[test]
fn view_change_primary_restarted_never_resumes_its_view() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R0).restart();
    assert_eq!((t.view(R0), t.status(R0)), (0, Status::ViewChange));
    t.request(2);
    t.run();
    assert!(t.view(R_) > 0);
    t.finish();
}

#[test]
fn view_change_lagging_primary_repairs_before_it_works() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.on(R1).cut(Both);
    t.request(30);
    t.on(R1).join();
    t.on(R0).stop();
    t.run_until("view 1 works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    // The last may be in flight again: nobody alive knew that it was committed.
    assert!(t.op(R1) == 34 && t.commit(R1) >= 33);
    assert!(t.repaired(R1) >= 28);
    t.request(2);
    t.finish();
}

#[test]
fn view_change_lagging_backup_executes_from_its_own_commit_on() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.on(R2).cut(Both);
    t.request(30);
    t.run_until("the other knows what is committed", |t| t.commit(R1) == 34);
    t.on(R0).stop();
    t.on(R2).join();
    t.run_until("view 1 works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.run();
    assert_eq!((t.view(R2), t.commit(R2), t.to_repair(R2)), (1, 34, 0));
    t.finish();
}

#[test]
fn view_change_votes_of_long_ago_do_not_count() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    // One backup misses the primary for a while, and the other long after that.
    for who in [R1, R2, R1] {
        let silence = t.rule(Rule::drop(Commit::CODE), R0, who);
        t.run_for(500);
        t.end(silence);
        t.run_for(6000);
    }
    assert_eq!(t.view(R_), 0);
    t.finish();
}

#[test]
fn view_change_primary_deaf_to_all_is_deposed() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R0).cut(Incoming);
    t.request(2);
    assert_eq!((t.view(R1), t.status(R1)), (1, Status::Normal));
    t.finish();
}

#[test]
fn view_change_crash_while_the_view_is_written_promises_nothing() {
    for survives in [Survives::Nothing, Survives::SuperblockTails, Survives::All] {
        let mut t = Scenario::new(3);
        t.request(2);
        t.record();
        t.on(R1).slow_writes(100);
        t.on(R0).stop();
        t.run_until("the view is written", |t| t.view(R1) == 1);
        t.on(R1).stop_leaving(survives);
        assert!(t.recorded(DoViewChange::CODE, R1, R_).is_empty());
        t.run_for(100);
        t.on(R1).start();
        t.on(R1).slow_writes(0);
        assert!(t.view(R1) <= 1);
        t.request(2);
        t.finish();
    }
}

#[test]
fn view_change_two_primaries_of_different_views_agree() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.cut(R0, R_);
    t.cut(R_, R0);
    t.run_until("view 1 works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    // Each is primary of a view; the one that could judge them is gone.
    t.on(R2).cut(Both);
    t.join(R0, R1);
    t.join(R1, R0);
    assert!(t.is(R0, Status::Normal) && t.view(R0) == 0);
    t.request(3);
    assert_eq!(t.view(R0), t.view(R1));
    t.finish();
}

#[test]
fn view_change_replica_ahead_alone_locks_no_client_out() {
    let mut t = Scenario::new(3);
    t.request(2);
    // Replica 2 hears the vote of replica 1 and goes to view 1; nobody hears of it but clients.
    t.rule(Rule::drop(ANY), R2, R_);
    let silence = t.rule(Rule::drop(Commit::CODE), R0, B_);
    t.run_until("it is ahead", |t| t.view(R2) == 1);
    t.end(silence);
    t.push(C1, Step::Register);
    t.ask(C1, 5);
    t.request(5);
    t.run_until("both are answered", |t| !t.cluster.is_client_busy(1));
    assert_eq!((t.view(R0), t.view(R1), t.view(R2)), (0, 0, 1));
    t.end_all();
    t.run();
    assert!(t.view(R_) >= 1);
    t.finish();
}

#[test]
fn view_change_damaged_op_is_not_nacked() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    // Answered: on replicas 0 and 1.
    t.on(R2).cut(Incoming);
    t.request(1);
    t.run_until("one backup has it", |t| t.has(R1, 4));
    t.on(R0).stop();
    t.on(R2).join();
    t.rule(Rule::drop(DoViewChange::CODE), R2, R1);
    t.run_until("view 1 is promised", |t| t.view(R1) == 1 && t.view(R2) == 1);
    t.run_for(100);
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Body(4));
    t.on(R1).start();
    t.end_all();
    t.run_for(5000);
    // One never had it, one has lost it: that is no quorum of nacks.
    assert_eq!((t.status(R1), t.status(R2)), (Status::ViewChange, Status::ViewChange));
    t.on(R0).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (4, 4, 0));
    t.finish();
}

#[test]
fn view_change_damaged_op_that_others_never_had_is_cut() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    // On replica 1 alone, and damaged there: two nacks are a quorum.
    t.rule(Rule::drop(Prepare::CODE), R0, R2);
    t.rule(Rule::drop(PrepareOk::CODE), R1, R0);
    t.on(R0).slow_writes(60_000);
    t.ask(C0, 1);
    t.run_until("one backup has it", |t| t.has(R1, 4));
    t.on(R0).stop();
    t.end_all();
    t.vanish(C0);
    t.rule(Rule::drop(DoViewChange::CODE), R2, R1);
    t.run_until("view 1 is promised", |t| t.view(R1) == 1 && t.view(R2) == 1);
    t.run_for(100);
    t.on(R1).stop();
    t.on(R1).corrupt(Target::Body(4));
    t.on(R1).start();
    t.end_all();
    t.on(R0).slow_writes(0);
    t.on(R0).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (3, 3, 0));
    t.finish();
}

/// Op 4 is cut by a view that two know of, and selected again by one that the others begin. One of
/// the two has its body, so that a write of its redundant header makes it durable; it is lost.
#[test]
fn view_change_op_cut_and_selected_again_is_not_nacked_though_its_header_was_lost() {
    let (last, before) = (Who::R(4), Who::R(3));
    let mut t = Scenario::new(5);
    t.request(1);
    t.run();
    for never in [R2, before, last] {
        t.cut(R0, never);
    }
    t.rule(Rule::drop(PrepareOk::CODE), R1, R0);
    t.ask(C0, 1);
    t.run_until("two have it", |t| t.has(R0, 4) && t.has(R1, 4));
    t.end_all();
    t.vanish(C0);
    t.on(R0).cut(Both);
    t.on(R1).cut(Both);
    for other in [before, last] {
        t.rule(Rule::drop(StartView::CODE), R2, other);
    }
    t.run_until("it is cut", |t| t.log_view(R2) == 2 && t.op(R2) == 3);
    t.on(R2).cut(Both);
    t.join(R1, R2);
    t.join(R2, R1);
    t.run_until("by another one, too", |t| t.log_view(R1) == 2 && t.op(R1) == 3);
    t.run_for(100);
    t.end_all();
    let image = t.on(R1).image();
    t.on(R1).cut(Both);
    for other in [before, last] {
        t.join(R0, other);
        t.join(other, R0);
    }
    t.rule(Rule::drop(Prepare::CODE).optional(), R_, last);
    t.run_until("it is selected again", |t| t.log_view(before) == 3 && t.op(before) == 4);
    t.join(R1, before);
    t.join(before, R1);
    t.run_until("it is committed", |t| t.commit(before) == 4);
    assert!(t.has(R1, 4) && !t.has(last, 4));
    t.on(R0).stop();
    t.on(before).stop();
    t.join(R_, R_);
    let rule = t.rule(Rule::drop(DoViewChange::CODE), R_, R_);
    t.run_until("it leaves its view", |t| t.hits(rule) > 0 && t.view(R1) > 3);
    t.run_for(100);
    t.on(R1).stop();
    t.end(rule);
    t.on(R1).lose_header_write(4, &image);
    t.on(R1).slow_writes(2000);
    t.on(R1).start();
    t.run_for(1500);
    t.on(R1).slow_writes(0);
    t.end_all();
    t.run();
    assert_eq!((t.op(R1), t.commit(R1), t.commit(last)), (4, 4, 4));
    t.finish();
}

#[test]
fn view_change_fewer_than_its_quorum_begin_no_view() {
    for (replicas, dead) in [(4, 2), (5, 3), (6, 3)] {
        let mut t = Scenario::new(replicas);
        t.request(1);
        t.run();
        for index in 0..dead {
            t.on(Who::R(index)).stop();
        }
        t.run_for(5000);
        for index in dead..usize::try_from(replicas).expect("six") {
            assert_eq!((t.view(Who::R(index)), t.commit(Who::R(index))), (0, 3));
        }
        t.finish();
    }
}
