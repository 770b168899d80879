//! F5: what a replica asks others for, when, how often, and what of their answers it takes.

use super::repair::PREPARES_WANTED_MAX;
use super::test_bench::*;
use super::*;
use crate::storage::Layout;
use crate::wire::{Header, Headers, RequestHeaders, RequestPrepare};

fn headers_of(log: &[Message]) -> Message {
    let body: Vec<u8> =
        log.iter().rev().flat_map(|message| message.prepare_header().encode()).collect();
    Message::new(&author(2, 0), Headers {}, &body)
}

/// The ops of prepares that were asked for.
fn asked(bench: &Bench) -> Vec<Op> {
    let asked = bench.sent.iter().filter_map(|(_, message)| match message.header().command {
        Command::RequestPrepare(request) => Some(request.prepare.op),
        _ => None,
    });
    asked.collect()
}

/// [`Bench::with_log`] of replica 1 in view 0, and all that is executed is durable too.
fn with_durable_log(log: &[Message], commit_max: Op) -> Bench {
    let mut bench = Bench::with_log(1, log, 0, commit_max);
    for prepare in log {
        bench.receive(prepare);
        bench.settle();
    }
    assert_eq!(bench.replica.ops_to_repair(), 0);
    bench.sent.clear();
    bench
}

#[test]
fn headers_that_fill_the_gap_lead_to_their_prepares_at_once() {
    let log = log_of(&[0, 0, 0, 0]);
    let mut bench = with_durable_log(&log[..2], 2);
    bench.receive(&log[4]);
    assert_eq!(bench.count_sent("request_headers"), 1);
    bench.receive(&commit(0, &log[4], 1));
    bench.sent.clear();
    bench.receive(&headers_of(&log[3..4]));
    assert_eq!(bench.count_sent("request_headers"), 1, "on to the ones below");
    assert_eq!(asked(&bench), [4]);
    bench.receive(&headers_of(&log[2..3]));
    assert_eq!(asked(&bench), [4, 3]);
    bench.receive(&headers_of(&log[2..4]));
    assert_eq!(asked(&bench), [4, 3], "asked a moment ago");
    bench.receive(&log[2]);
    bench.receive(&log[3]);
    bench.settle();
    assert_eq!(bench.executed.last(), Some(&5));
}

#[test]
fn headers_are_answered_by_as_many_as_fit_a_message() {
    let log = log_of(&[0; 60]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    for prepare in &log[3..] {
        bench.receive(prepare);
        bench.settle();
    }
    bench.sent.clear();
    bench.receive(&message(2, 0, RequestHeaders { op_min: 1, op_max: 60 }));
    let (to, answer) = &bench.sent[0];
    assert_eq!(to.0, 2);
    // 32 headers to a message of 4096 bytes, one of them its own.
    assert_eq!(answer.body(), headers_of(&log[29..60]).body());
    bench.receive(&message(2, 0, RequestHeaders { op_min: 7, op_max: 9 }));
    assert_eq!(bench.sent[1].1.body(), headers_of(&log[6..9]).body());
}

/// Its body is found damaged, and then its header goes, too.
fn lose(bench: &mut Bench, prepare: &Message) {
    let id = id(prepare);
    let slot = u32::try_from(id.op).unwrap();
    bench.disk.write(Layout::new(GEOMETRY).prepare_offset(slot), &[0xAA; 4096]);
    bench.receive(&message(0, 0, RequestPrepare { prepare: id }));
    bench.settle();
    bench.replica.journal.remove(id.op);
    bench.replica.begin_chain();
    bench.sent.clear();
}

#[test]
fn a_header_whose_body_is_here_is_nobody_elses_to_tell() {
    let log = log_of(&[0; 5]);
    let mut bench = with_durable_log(&log, 6);
    bench.replica.journal.remove(3);
    assert!(bench.replica.journal.header(3).is_none());
    bench.replica.begin_chain();
    assert_eq!(bench.replica.chain_min, 1);
    bench.act(Replica::on_turn_end);
    bench.settle();
    assert!(bench.replica.journal.is_clean(&id(&log[2])));
    assert!(asked(&bench).is_empty() && asked_headers(&bench).is_empty());
}

/// Who has lost it, and knows of no birth, needs it to be a member.
#[test]
fn the_genesis_is_told_though_the_journal_has_forgotten_it() {
    let log = log_of(&[0; 5]);
    let mut bench = with_durable_log(&log, 6);
    lose(&mut bench, &log[0]);
    let ask = |bench: &mut Bench| {
        bench.sent.clear();
        bench.receive(&message(2, 0, RequestHeaders { op_min: 1, op_max: 1 }));
        bench.receive(&message(2, 0, RequestPrepare { prepare: id(&log[0]) }));
        bench.settle();
        bench.sent.iter().map(|(_, message)| message.body().to_vec()).collect::<Vec<_>>()
    };
    let told = ask(&mut bench);
    assert_eq!(told, [headers_of(&log[..1]).body().to_vec(), log[0].body().to_vec()]);
    assert_eq!(id(&bench.sent[1].1), id(&log[0]));
    // Of a file that was replaced since nobody knows the incarnation any more.
    bench.replica.table.op = 5;
    assert!(ask(&mut bench).is_empty());
}

/// A peer that is behind needs what lies beneath a hole of this log, and judges by its own chain.
#[test]
fn headers_beneath_a_hole_are_answered_and_none_across_it() {
    let log = log_of(&[0; 5]);
    let mut bench = with_durable_log(&log, 6);
    lose(&mut bench, &log[2]);
    assert_eq!(bench.replica.chain_min, 4);
    bench.receive(&message(2, 0, RequestHeaders { op_min: 1, op_max: 2 }));
    assert_eq!(bench.sent[0].1.body(), headers_of(&log[..2]).body());
    bench.receive(&message(2, 0, RequestHeaders { op_min: 1, op_max: 5 }));
    assert_eq!(bench.sent[1].1.body(), headers_of(&log[3..5]).body());
    bench.receive(&message(2, 0, RequestHeaders { op_min: 1, op_max: 3 }));
    assert_eq!(bench.sent.len(), 2, "the hole itself");
}

/// The ranges of headers that were asked for.
fn asked_headers(bench: &Bench) -> Vec<(Op, Op)> {
    let asked = bench.sent.iter().filter_map(|(_, message)| match message.header().command {
        Command::RequestHeaders(RequestHeaders { op_min, op_max }) => Some((op_min, op_max)),
        _ => None,
    });
    asked.collect()
}

#[test]
fn a_hole_in_what_is_executed_is_filled_now_and_then() {
    let log = log_of(&[0; 5]);
    let mut bench = with_durable_log(&log, 6);
    lose(&mut bench, &log[2]);
    assert_eq!((bench.replica.chain_min, bench.replica.commit_min()), (4, 6));
    assert_eq!(bench.replica.ops_to_repair(), 1, "a hole counts");
    bench.ticks(450);
    let ranges = asked_headers(&bench);
    assert!((3..10).contains(&ranges.len()), "{ranges:?}");
    assert!(ranges.iter().all(|range| *range == (1, 3)));
    bench.receive(&headers_of(&log[1..2]));
    assert_eq!(bench.replica.chain_min, 4, "not the one above it");
    bench.receive(&headers_of(&log[..3]));
    assert_eq!(bench.replica.chain_min, 1);
    bench.ticks(450);
    assert!(asked(&bench).contains(&3));
    bench.receive(&log[2]);
    bench.settle();
    assert!(bench.replica.journal.is_clean(&id(&log[2])));
    assert_eq!(bench.replica.ops_to_repair(), 0);
    bench.sent.clear();
    bench.ticks(450);
    assert!(asked_headers(&bench).is_empty());
}

#[test]
fn rot_in_what_is_executed_is_repaired_now_and_then() {
    let log = log_of(&[0, 0]);
    let mut bench = with_durable_log(&log, 3);
    bench.disk.write(Layout::new(GEOMETRY).prepare_offset(2), &[0xAA; 4096]);
    // It is found when somebody asks for it.
    bench.receive(&message(0, 0, RequestPrepare { prepare: id(&log[1]) }));
    bench.settle();
    assert!(bench.replica.journal.is_dirty(2));
    assert_eq!(bench.replica.commit_min(), 3);
    bench.sent.clear();
    bench.ticks(450);
    let count = asked(&bench).len();
    assert!((3..10).contains(&count), "{count}");
    assert!(asked(&bench).iter().all(|op| *op == 2));
    bench.receive(&log[1]);
    bench.settle();
    assert!(bench.replica.journal.is_clean(&id(&log[1])));
    assert!(bench.replica.cache.keys().all(|op| *op > 3), "it is executed");
    bench.sent.clear();
    bench.ticks(300);
    assert_eq!(asked(&bench), []);
}

#[test]
fn what_nobody_answers_makes_room_for_other_wishes() {
    let mut bench = with_durable_log(&log_of(&[0, 0]), 3);
    for op in 0..PREPARES_WANTED_MAX as Op {
        bench.replica.prepares_wanted.insert(100 + op, 0);
    }
    bench.ticks(250);
    assert!(!bench.replica.prepares_wanted.contains_key(&100));
}

#[test]
fn a_broken_chain_is_asked_for_and_nothing_below_it() {
    let log = log_of(&[0, 0, 0, 0]);
    let mut bench = with_durable_log(&log[..2], 2);
    bench.receive(&log[4]);
    bench.settle();
    bench.sent.clear();
    bench.ticks(300);
    assert!(bench.count_sent("request_headers") > 10);
    assert_eq!(asked(&bench), []);
}

#[test]
fn what_is_whole_here_is_not_asked_for() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = with_durable_log(&log, 2).restart();
    bench.ticks(300);
    assert_eq!(bench.replica.op(), 4);
    assert_eq!(asked(&bench), []);
}

#[test]
fn only_what_the_primary_prepared_in_this_view_fills_a_gap_unasked() {
    let log = log_of(&[0, 0]);
    let right = [&log[..], &[next(3, &log[2], 3, 60)]].concat();
    let head = next(3, &right[3], 3, 61);
    let mut set = set_of(&[&right[..], std::slice::from_ref(&head)].concat(), 2);
    set.headers[1] = None;
    let mut bench = Bench::with_log(1, &log, 0, 3);
    bench.receive(&start_view_of(&set, 0, 3, 3, 0));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.chain_min), (5, 5));
    // One that lost in an older view.
    bench.receive(&next(0, &log[2], 3, 70));
    assert!(bench.replica.journal.header(4).is_none());
    bench.receive(&right[3]);
    assert_eq!(bench.replica.journal.header(4).map(Header::id), Some(id(&right[3])));
    assert_eq!(bench.replica.chain_min, 1);
}

#[test]
fn headers_take_the_place_of_what_lost() {
    let log = log_of(&[0, 0]);
    let own = [&log[..], &[next(0, &log[2], 3, 50)]].concat();
    let mut right = log.clone();
    for client in 60..65 {
        right.push(next(3, &right[right.len() - 1], 3, client));
    }
    let mut bench = Bench::with_log(1, &own, 0, 3);
    bench.receive(&start_view_of(&set_of(&right, 4), 0, 3, 3, 0));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.chain_min), (8, 5));
    bench.receive(&headers_of(&right[3..4]));
    assert_eq!(bench.replica.journal.header(4).map(Header::id), Some(id(&right[3])));
    assert_eq!(bench.replica.chain_min, 1);
}
