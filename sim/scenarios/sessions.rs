//! Sessions: a request is executed at most once, whoever is asked, however often, and whoever has
//! died in between; and what a client may believe.

use super::CallResult;
use super::dsl::*;
use super::script::{Packet, Rule, Step};
use vsr::replica::Status;
use vsr::wire::{Command, Commit, Eviction, EvictionReason, Prepare, PrepareOk, Reply, Request};

#[test]
fn sessions_survive_a_failover() {
    let mut t = Scenario::new(3);
    t.request(3);
    t.on(R0).stop();
    t.request(3);
    t.on(R0).start();
    t.run();
    // Nobody registered anew.
    assert_eq!((t.answered(C0), t.commit(R_), t.report(R1).sessions_count), (6, 8, 1));
    t.finish();
}

#[test]
fn sessions_request_in_flight_is_prepared_once() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.rule(Rule::drop(PrepareOk::CODE), B_, A0);
    t.record();
    t.ask(C0, 1);
    t.run_for(1000);
    assert!(t.recorded(Request::CODE, C0, R0).len() > 2, "it asks again");
    assert_eq!(t.op(R_), 4);
    // Nor does the next primary prepare what it finds in the log.
    t.on(R0).stop();
    t.end_all();
    t.run();
    assert_eq!((t.op(R1), t.commit(R1), t.answered(C0)), (4, 4, 2));
    t.finish();
}

#[test]
fn sessions_reply_lost_with_its_primary_is_answered_by_the_next() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.rule(Rule::drop(Reply::CODE), R_, C0);
    t.ask(C0, 1);
    t.run_until("it is executed", |t| t.commit(R1) == 4);
    t.on(R0).stop();
    t.run_for(300);
    t.end_all();
    t.run();
    assert_eq!((t.op(R1), t.answered(C0)), (4, 2));
    t.finish();
}

#[test]
fn sessions_call_cut_by_a_view_change_may_be_asked_again() {
    // The table changes at commit, never at prepare: else the next primary would take the copy for
    // one that was answered.
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.rule(Rule::drop(Prepare::CODE), R0, B_);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.op(R0) == 4);
    t.on(R0).cut(Both);
    t.run_until("the next has answered", |t| t.commit(R1) == 4 && !t.cluster.is_client_busy(0));
    assert_eq!((t.view(R1), t.commit(R1), t.answered(C0)), (1, 4, 2));
    t.on(R0).join();
    t.end_all();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (1, 4));
    t.request(1);
    t.finish();
}

#[test]
fn sessions_more_clients_than_sessions_the_oldest_is_evicted() {
    let mut t = Scenario::with(3, |options| options.sessions = 1);
    t.request(2);
    t.push(C1, Step::Register);
    t.run();
    t.request(1);
    // It may have been executed before the eviction, for all the client knows.
    assert_eq!(t.results(C0).last(), Some(&CallResult::Unknown));
    assert_eq!(t.report(R0).sessions_count, 1);
    t.finish();
}

#[test]
fn sessions_eviction_is_the_same_after_a_failover() {
    let mut t = Scenario::with(3, |options| options.sessions = 1);
    t.request(2);
    t.push(C1, Step::Register);
    t.ask(C1, 1);
    t.run();
    t.on(R0).stop();
    t.run_until("the next works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.ask(C1, 1);
    t.run();
    t.request(1);
    assert_eq!(t.answered(C1), 2);
    assert_eq!(t.results(C0).last(), Some(&CallResult::Unknown));
    t.finish();
}

/// A session was evicted, and a copy of its `register` that had been on its way for long has opened
/// another one of the same client: the number of the first is too low, whoever is asked.
#[test]
fn sessions_number_of_a_session_before_is_too_low() {
    for is_view_changed in [false, true] {
        let mut t = Scenario::with(3, |options| options.sessions = 1);
        t.record();
        t.push(C0, Step::Register);
        t.run();
        let registers = t.recorded(Request::CODE, C0, R_);
        t.request(2);
        t.push(C1, Step::Register);
        t.ask(C1, 1);
        t.run();
        assert_eq!((t.answered(C1), t.report(R0).sessions_count), (1, 1));
        let head = t.op(R_);
        assert!(t.replay(&registers[..1]) > 0);
        t.run();
        assert_eq!(t.commit(R_), head + 1, "the copy has opened a session");
        if is_view_changed {
            t.on(R0).stop();
            t.run_until("the next works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
        }
        assert_eq!(t.recorded(Eviction::CODE, R_, C0).len(), 0, "it was never told");
        t.request(1);
        assert_eq!(t.results(C0).last(), Some(&CallResult::Unknown));
        let told = t.recorded(Eviction::CODE, R_, C0);
        let too_low = EvictionReason::SessionTooLow as u8;
        let is_too_low = |packet: &Packet| match packet.header.command {
            Command::Eviction(Eviction { reason, .. }) => reason == too_low,
            _ => false,
        };
        assert!(!told.is_empty() && told.iter().all(is_too_low), "{told:?}");
        assert!(told.iter().all(|packet| packet.from == usize::from(is_view_changed)));
        t.finish();
    }
}

#[test]
fn sessions_unknown_to_a_new_primary_with_an_unexecuted_log_are_not_evicted() {
    let mut t = Scenario::new(3);
    // The session is open, and only the old primary knows that.
    let by_way = t.rule(Rule::drop(Request::CODE).optional(), C0, B_);
    let lost = t.rule(Rule::drop(Commit::CODE).op(2), R0, B_);
    t.push(C0, Step::Register);
    t.run_until("it is told", |t| t.cluster.is_client_registered(0) && t.hits(lost) > 0);
    assert_eq!((t.commit(R0), t.op(R1), t.commit(R1), t.view(R1)), (2, 2, 1, 0));
    t.on(R0).stop();
    t.end(by_way);
    t.rule(Rule::drop(PrepareOk::CODE), R2, R1);
    t.run_until("the next works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.ask(C0, 1);
    t.run_for(1000);
    assert_eq!((t.commit(R1), t.results(C0)), (1, Vec::new()));
    t.end_all();
    t.run();
    assert_eq!((t.answered(C0), t.report(R1).sessions_count), (1, 1));
    t.finish();
}

#[test]
fn sessions_call_given_up_is_unknown() {
    let mut t = Scenario::with(3, |options| options.call_timeout = 1_000_000);
    t.request(1);
    t.rule(Rule::drop(Prepare::CODE), R0, R_);
    t.request(1);
    assert_eq!(t.results(C0).last(), Some(&CallResult::Unknown));
    t.finish();
}

#[test]
fn sessions_call_that_was_never_sent_is_not_done() {
    let mut t = Scenario::with(3, |options| options.call_timeout = 1_000_000);
    t.request(1);
    t.on(R_).stop();
    t.run_for(200);
    t.request(1);
    assert_eq!(t.results(C0).last(), Some(&CallResult::NotDone));
    t.finish();
}

#[test]
fn sessions_client_gone_before_its_reply_hurts_nobody() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.ask(C0, 1);
    t.run_until("it is prepared", |t| t.op(R0) == 4);
    t.vanish(C0);
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (0, 4));
    // Whoever comes again is another client, whose numbers begin anew.
    t.request(2);
    assert_eq!((t.answered(C0), t.report(R0).sessions_count), (3, 2));
    t.finish();
}

#[test]
fn sessions_client_cut_from_the_primary_is_served_by_way_of_a_backup() {
    for (from, to) in [(C0, R0), (R0, C0)] {
        let mut t = Scenario::new(3);
        t.request(2);
        t.cut(from, to);
        t.request(5);
        assert_eq!((t.view(R_), t.answered(C0), t.commit(R0)), (0, 7, 9));
        t.finish();
    }
}

#[test]
fn sessions_replies_of_older_requests_are_not_taken_for_newer() {
    let mut t = Scenario::new(3);
    t.record();
    t.request(5);
    let replies = t.recorded(Reply::CODE, R_, C0);
    t.rule(Rule::hold(Request::CODE), C0, R_);
    t.ask(C0, 1);
    t.run_for(50);
    assert!(t.replay(&replies) > 0);
    t.run_for(50);
    assert_eq!(t.answered(C0), 5);
    t.end_all();
    t.run();
    assert_eq!(t.answered(C0), 6);
    t.finish();
}

#[test]
fn sessions_requests_of_older_numbers_are_not_executed_again() {
    let mut t = Scenario::new(3);
    t.record();
    t.request(10);
    t.run();
    let requests = t.recorded(Request::CODE, C0, R_);
    for packet in &requests {
        t.inject(packet);
        t.run_for(20);
    }
    t.run();
    assert_eq!(t.op(R_), 12);
    t.finish();
}

#[test]
fn sessions_client_that_leaves_is_forgotten_everywhere() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.push(C0, Step::Leave);
    t.run();
    t.run_for(200);
    assert!([R0, R1, R2].iter().all(|who| t.report(*who).sessions_count == 0));
    t.finish();
}
