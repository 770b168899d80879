//! F5: logs that no correct replica offers, and logs that are too far ahead: what a view change
//! does with them. Three replicas, a pipeline of 3: a set of headers has at most 4.

use super::test_bench::{Bench, author, do_view_change, log_of, next, set_of, start_view, table};
use super::*;
use crate::wire::{DoViewChange, StartView};

/// Sets of headers for the log of `log_of(&[0; 4])`, each of which contradicts itself in one way.
fn contradictions(log: &[Message]) -> [(&'static str, HeaderSet); 4] {
    let right = set_of(log, 4);
    let mut unlinked = right.clone();
    unlinked.headers[1] = Some(next(0, &log[2], 0, 99).prepare_header());
    let late = IncarnationTable { op: 9, op_before: 1, ..table(3) };
    let late = IncarnationTable { incarnations_before: late.incarnations, ..late };
    let mut unnamed = table(3);
    unnamed.incarnations[1] = 999;
    unnamed.incarnations[2] = 998;
    [
        ("neighbours that do not name each other", unlinked),
        ("more headers than a pipeline", set_of(log, 5)),
        ("a table from beyond its head", HeaderSet { table: late, ..right.clone() }),
        ("a table that does not name the sender", HeaderSet { table: unnamed, ..right }),
    ]
}

fn do_view_change_of(set: &HeaderSet, log_view: u32) -> Message {
    let command = DoViewChange {
        op: set.op,
        commit_max: 5,
        log_view: View(log_view),
        present: (1 << set.headers.len()) - 1,
        ..DoViewChange::default()
    };
    Message::new(&author(2, 1), command, &set.encode())
}

#[test]
fn a_do_view_change_that_contradicts_itself_does_not_count() {
    let log = log_of(&[0; 4]);
    let mut bench = Bench::with_log(1, &log, 0, 5);
    bench.votes_of_others(2);
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    for (what, set) in contradictions(&log) {
        bench.receive(&do_view_change_of(&set, 0));
        bench.settle();
        assert_eq!(bench.replica.log_view(), View(0), "{what}");
    }
    bench.receive(&do_view_change_of(&set_of(&log, 4), 1));
    bench.settle();
    assert_eq!(bench.replica.log_view(), View(0), "a log of the view that is yet to begin");
    bench.receive(&do_view_change_of(&set_of(&log, 4), 0));
    bench.settle();
    assert!(bench.replica.is_primary());
}

#[test]
fn a_start_view_that_contradicts_itself_begins_no_view() {
    let log = log_of(&[0; 4]);
    for (what, set) in contradictions(&log) {
        let mut bench = Bench::with_log(2, &log, 0, 5);
        let command = StartView { op: set.op, commit_max: 5, ..StartView::default() };
        bench.receive(&Message::new(&author(1, 1), command, &set.encode()));
        bench.settle();
        assert_eq!(bench.replica.log_view(), View(0), "{what}");
        bench.receive(&start_view(&log, 1, 5, 0));
        bench.settle();
        assert_eq!((bench.replica.status(), bench.replica.log_view()), (Status::Normal, View(1)));
    }
}

/// Without a checkpoint the journal has room up to op 64.
#[test]
fn a_primary_without_room_for_the_log_votes_for_the_next_view() {
    let log = log_of(&[0; 64]);
    for (count, leads) in [(64, true), (65, false)] {
        let mut bench = Bench::with_log(1, &log[..3], 0, 3);
        bench.votes_of_others(2);
        bench.settle();
        bench.sent.clear();
        bench.receive(&do_view_change(&log[..count], 2, 1, 0, 62));
        bench.settle();
        assert_eq!(bench.replica.log_view() == View(1), leads, "{count}");
        assert_eq!(bench.count_sent("start_view_change") > 0, !leads, "{count}");
    }
}
