//! F5: which acknowledgements a primary counts.

use super::test_bench::*;
use super::*;
use crate::wire::PrepareOk;

/// Replica 1, primary of view 1 with op 3 of view 0 in flight, which it has itself.
fn primary_with_one_in_flight() -> (Bench, PrepareId) {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, 2));
    bench.settle();
    assert!(bench.replica.is_primary());
    assert_eq!((bench.replica.op(), bench.replica.commit_max()), (3, 2));
    (bench, id(&log[2]))
}

#[test]
fn prepare_ok_of_an_older_view_does_not_count() {
    // Who has gone on to another view may have cut what it had acknowledged in an older one.
    let (mut bench, prepare) = primary_with_one_in_flight();
    let ok = PrepareOk { prepare, ..PrepareOk::default() };
    bench.receive(&message(2, 0, ok));
    assert_eq!(bench.replica.commit_max(), 2);
    bench.receive(&message(2, 1, ok));
    assert_eq!(bench.replica.commit_max(), 3);
}

#[test]
fn prepare_ok_on_another_checkpoint_does_not_count() {
    let (mut bench, prepare) = primary_with_one_in_flight();
    let ok = PrepareOk { prepare, ..PrepareOk::default() };
    bench.receive(&message(2, 1, PrepareOk { checkpoint_id: (32 << 64) | 7, ..ok }));
    assert_eq!(bench.replica.commit_max(), 2);
    bench.receive(&message(2, 1, ok));
    assert_eq!(bench.replica.commit_max(), 3);
}
