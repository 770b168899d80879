//! Repair: what a replica has missed comes from the others, whoever answers, and however often.

use super::Target;
use super::dsl::*;
use super::script::{Rule, Step};
use vsr::wire::{Headers, Prepare, RequestHeaders, RequestPrepare, StartView};

#[test]
fn repair_backup_cut_off_catches_up() {
    for replicas in 3..=6 {
        let mut t = Scenario::new(replicas);
        t.request(2);
        t.on(R2).cut(Both);
        t.request(40);
        t.on(R2).join();
        t.run();
        assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, 44, 0));
        assert!(t.repaired(R2) >= 39);
        t.finish();
    }
}

#[test]
fn repair_backup_dead_for_long_catches_up_without_new_requests() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R1).stop();
    t.request(40);
    t.on(R1).start();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, 44, 0));
    t.finish();
}

#[test]
fn repair_gap_longer_than_an_answer_is_filled_in_steps() {
    // A message has room for 31 headers.
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).cut(Both);
    t.request(100);
    t.on(R2).join();
    t.run();
    assert_eq!((t.commit(R_), t.to_repair(R_)), (104, 0));
    t.finish();
}

#[test]
fn repair_requests_and_answers_lost_are_asked_again() {
    for (command, from, to) in [
        (RequestHeaders::CODE, R2, R_),
        (Headers::CODE, R_, R2),
        (RequestPrepare::CODE, R2, R_),
        (Prepare::CODE, R_, R2),
    ] {
        let mut t = Scenario::new(3);
        t.request(2);
        t.on(R2).cut(Both);
        t.request(20);
        t.on(R2).join();
        t.rule(Rule::drop(command).times(5), from, to);
        t.run();
        assert_eq!((t.commit(R_), t.to_repair(R_)), (24, 0));
        t.finish();
    }
}

#[test]
fn repair_answers_said_again_change_nothing() {
    let mut t = Scenario::with(3, |options| options.duplicate = 500_000);
    t.request(2);
    t.record();
    t.on(R2).cut(Both);
    t.request(20);
    t.on(R2).join();
    t.run();
    let mut said = t.recorded(Headers::CODE, R_, R2);
    said.extend(t.recorded(Prepare::CODE, R_, R2));
    said.extend(t.recorded(StartView::CODE, R_, R2));
    assert!(t.replay(&said) > 20);
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (24, 24, 0));
    t.finish();
}

#[test]
fn repair_from_whoever_lives() {
    // The primary of the log and one more are dead: what is missing comes from any other.
    let mut t = Scenario::new(5);
    t.request(2);
    t.on(Who::R(4)).cut(Both);
    t.request(20);
    t.on(R0).stop();
    t.on(R1).stop();
    t.on(Who::R(4)).join();
    t.request(2);
    t.run();
    assert_eq!((t.commit(Who::R(4)), t.to_repair(Who::R(4))), (26, 0));
    t.finish();
}

#[test]
fn repair_damage_at_the_helper_is_found_and_another_helps() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).cut(Both);
    t.request(20);
    t.run_until("the helper has it", |t| t.has(R1, 24));
    for op in 5..=24 {
        t.on(R1).corrupt(Target::Body(op));
    }
    t.on(R2).join();
    t.run();
    assert_eq!((t.commit(R_), t.to_repair(R2)), (24, 0));
    t.run_until("the helper has repaired what it found", |t| t.to_repair(R1) == 0);
    t.finish();
}

#[test]
fn repair_two_lagging_backups_of_five_catch_up_together() {
    let mut t = Scenario::new(5);
    t.request(2);
    t.on(Who::R(3)).cut(Both);
    t.on(Who::R(4)).cut(Both);
    t.request(20);
    t.cut(Who::R(3), R0);
    t.on(Who::R(3)).join();
    t.on(Who::R(4)).join();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, 24, 0));
    t.finish();
}

/// Two of four are a replication quorum, and the others are wanted for no commit: they must come
/// by what they have missed though nobody asks for anything any more.
#[test]
fn repair_two_of_four_ahead_and_then_silent_the_others_catch_up() {
    let (third, fourth) = (Who::R(2), Who::R(3));
    for is_cut in [false, true] {
        let mut t = Scenario::new(4);
        t.request(2);
        for who in [third, fourth] {
            if is_cut { t.on(who).cut(Both) } else { t.on(who).stop() }
        }
        t.request(40);
        assert_eq!((t.commit(R0), t.has(R1, 44)), (44, true));
        for who in [third, fourth] {
            if is_cut { t.on(who).join() } else { t.on(who).start() }
        }
        t.run();
        assert_eq!((t.commit(R_), t.to_repair(R_), t.op(R_)), (44, 0, 44));
        t.finish();
    }
}

/// The same without the primary of the two: one copy is left among the three that go on.
#[test]
fn repair_two_of_four_ahead_and_one_of_them_dead_the_others_catch_up() {
    for dead in [R0, R1] {
        let mut t = Scenario::new(4);
        t.request(2);
        t.on(R2).cut(Both);
        t.on(Who::R(3)).cut(Both);
        t.request(40);
        t.run_until("both have all of it", |t| t.has(R0, 44) && t.has(R1, 44));
        t.on(dead).stop();
        t.on(R2).join();
        t.on(Who::R(3)).join();
        t.run();
        assert_eq!((t.commit(R2), t.commit(Who::R(3)), t.to_repair(R2)), (44, 44, 0));
        assert_eq!(t.answered(C0), 42);
        t.finish();
    }
}

#[test]
fn repair_chain_broken_within_a_view_stalls_no_commit() {
    // Several prepares of one view arrive in the wrong order, and one does not arrive at all.
    let mut t = Scenario::with(3, |options| options.clients = 4);
    for client in 0..4 {
        t.push(Who::C(client), Step::Register);
    }
    t.run();
    let head = t.op(R_);
    t.rule(Rule::hold(Prepare::CODE).op(head + 1).times(1), R0, R1);
    t.rule(Rule::drop(Prepare::CODE).op(head + 2).times(1), R0, R1);
    for client in 0..4 {
        t.ask(Who::C(client), 1);
        t.run_until("it is prepared", |t| t.op(R0) == head + 1 + client as u64);
    }
    t.run_until("the backup has the last", |t| t.op(R1) == head + 4);
    t.release();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, head + 4, 0));
    t.finish();
}
