//! Reads: whatever was acknowledged before a read began is in its answer.

use super::dsl::*;
use super::script::Rule;
use vsr::replica::Status;
use vsr::wire::PrepareOk;

#[test]
fn reads_see_what_was_acknowledged_before() {
    let mut t = Scenario::new(3);
    for _ in 0..5 {
        t.request(1);
        t.query(C1);
        t.run();
    }
    assert_eq!(t.answered(C1), 5);
    t.finish();
}

#[test]
fn reads_after_a_failover_see_what_the_old_primary_acknowledged() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.query(C1);
    t.run();
    // Acknowledged by 0 and 1; neither knows of 1 that it is committed.
    t.on(R2).cut(Both);
    t.request(1);
    t.on(R0).stop();
    t.on(R2).join();
    t.query(C1);
    t.run();
    assert_eq!((t.view(R1), t.answered(C1)), (1, 2));
    t.finish();
}

#[test]
fn reads_of_a_deposed_primary_are_not_answered() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.query(C1);
    t.run();
    let commit = t.commit(R0);
    // One client has only the old primary, the other has all the rest.
    t.cut(R0, B_);
    t.cut(B_, R0);
    t.cut(C1, B_);
    t.cut(B_, C1);
    t.query(C1);
    t.run_for(50);
    t.cut(C0, R0);
    t.cut(R0, C0);
    t.ask(C0, 3);
    t.run_until("the other is served", |t| !t.cluster.is_client_busy(0));
    t.run_for(3000);
    assert_eq!((t.answered(C1), t.commit(R0), t.view(R0)), (1, commit, 0));
    t.join(__, __);
    t.run();
    assert_eq!(t.answered(C1), 2);
    t.finish();
}

#[test]
fn reads_wait_for_writes_that_may_be_committed() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.query(C1);
    t.run();
    let head = t.op(R_);
    t.rule(Rule::drop(PrepareOk::CODE), B_, R0);
    t.ask(C0, 1);
    t.run_until("all have it", |t| t.has(R_, head + 1));
    t.on(R0).stop();
    t.run_until("the next works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
    t.query(C1);
    t.end_all();
    t.run();
    assert_eq!((t.answered(C0), t.answered(C1)), (2, 2));
    t.finish();
}
