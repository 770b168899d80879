//! F5: what files that are not born yet do with pings and headers that come at the wrong time.

use super::test_bench::*;
use super::*;
use crate::wire::Headers;

fn header_of(prepare: &Message, from: u8) -> Message {
    Message::new(&author(from, 0), Headers {}, &prepare.prepare_header().encode())
}

#[test]
fn a_genesis_that_is_known_to_be_committed_is_not_prepared_again() {
    let mut bench = Bench::blank(0);
    for other in [1, 2] {
        bench.receive(&ping(&author(other, 0), GEOMETRY, 0));
    }
    bench.settle();
    bench.receive(&ping(&author(1, 0), GEOMETRY, incarnation(0)));
    assert_eq!((bench.replica.commit_max(), bench.replica.is_born()), (1, true));
    assert!(!bench.replica.may_vote(), "it is not durable");
    bench.sent.clear();
    bench.receive(&ping(&author(2, 0), GEOMETRY, 0));
    assert_eq!((bench.replica.pipeline.len(), bench.count_sent("prepare")), (0, 0));
    bench.settle();
    assert!(bench.replica.is_primary());
}

#[test]
fn a_genesis_is_wanted_of_a_member_alone_and_as_long_as_there_is_none() {
    let log = log_of(&[0]);
    let mut bench = Bench::blank(1);
    bench.receive(&header_of(&log[0], 2));
    assert_eq!(bench.count_sent("request_prepare"), 0, "nobody knows whether 2 is a member");
    bench.receive(&ping(&author(2, 0), GEOMETRY, incarnation(1)));
    bench.receive(&header_of(&log[0], 0));
    bench.receive(&header_of(&log[1], 2));
    assert_eq!(bench.count_sent("request_prepare"), 0, "another replica, another op");
    bench.receive(&header_of(&log[0], 2));
    assert_eq!(bench.count_sent("request_prepare"), 1);
    // It comes from replica 0 instead.
    let mut bench = Bench::blank(1);
    bench.receive(&ping(&author(2, 0), GEOMETRY, incarnation(1)));
    bench.receive(&log[0]);
    bench.receive(&header_of(&log[0], 2));
    assert_eq!((bench.replica.op(), bench.count_sent("request_prepare")), (1, 0));
}

#[test]
fn a_genesis_that_is_being_executed_is_not_prepared_again() {
    let mut bench = Bench::blank(0);
    for other in [1, 2] {
        bench.receive(&ping(&author(other, 0), GEOMETRY, 0));
    }
    bench.settle();
    let mut effects = Effects::default();
    bench.replica.on_message(&ping(&author(1, 0), GEOMETRY, incarnation(0)), &mut effects);
    assert_eq!((bench.replica.commit_max(), bench.replica.commit_min()), (1, 0));
    bench.replica.on_message(&ping(&author(2, 0), GEOMETRY, 0), &mut effects);
    assert!(bench.replica.pipeline.is_empty() && !bench.replica.is_born());
    bench.take(&mut effects);
    bench.settle();
    assert!(bench.replica.is_primary() && bench.replica.is_born());
    assert_eq!(Bench::blank(1).replica.ops_to_repair(), 0);
}
