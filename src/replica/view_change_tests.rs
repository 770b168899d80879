//! F5: votes, and what a view change does with logs that no correct replica offers, with those that
//! are too far ahead, and with heartbeats of before; and what a restart finds. Three replicas, a
//! pipeline of 3: a set of headers has at most 4.

use super::cluster_tests::{Disk, format};
use super::test_bench::{
    Bench, CLUSTER, GEOMETRY, author, commit, do_view_change, id, is_superblock, log_of, message,
    next, request, set_of, start_view, start_view_of, table,
};
use super::*;
use crate::storage::{Layout, SuperblockState};
use crate::wire::{BlockRef, DoViewChange, Headers, StartView, StartViewChange};

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

// ---- votes

#[test]
fn a_vote_is_said_again_ever_more_seldom() {
    let mut bench = Bench::with_log(1, &log_of(&[0]), 0, 2);
    bench.ticks(300);
    assert_eq!(bench.replica.votes, 1 << 1);
    let said = bench.count_sent("start_view_change");
    assert!((10..60).contains(&said), "{said} to two others in three seconds");
}

#[test]
fn votes_of_others_go_stale_and_the_own_one_stands() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    bench.replica.votes = 1 << 2 | 1 << 0;
    bench.act(|replica, _| replica.on_vote_window_timeout());
    assert_eq!(bench.replica.votes, 1 << 2);
}

#[test]
fn a_view_that_is_not_durable_is_neither_voted_for_nor_left() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    bench.votes_of_others(2);
    bench.sent.clear();
    for _ in 0..300 {
        bench.tick();
    }
    for name in ["do_view_change", "start_view_change"] {
        assert_eq!(bench.count_sent(name), 0, "{name}");
    }
    assert_eq!((bench.replica.view(), bench.replica.votes), (View(1), 0));
    bench.settle();
    assert_eq!(bench.count_sent("do_view_change"), 2);
}

#[test]
fn a_blank_file_counts_no_votes() {
    let mut bench = Bench::blank(1);
    for from in [0, 2] {
        bench.receive(&message(from, 0, StartViewChange {}));
    }
    assert_eq!((bench.replica.votes, bench.replica.view()), (0, View(0)));
}

// ---- the own log

#[test]
fn what_is_in_memory_and_not_on_disk_yet_is_present() {
    let log = log_of(&[0; 50]);
    let mut bench = Bench::with_log(2, &log[..2], 0, 2);
    // More than there are writes.
    for prepare in &log[2..] {
        bench.receive(prepare);
    }
    assert!(!bench.replica.journal.has_body(&id(&log[50])));
    bench.votes_of_others(2);
    while bench.complete(is_superblock) {}
    let present = bench.sent.iter().find_map(|(_, message)| match message.header().command {
        Command::DoViewChange(log) => Some((log.op, log.present & 1)),
        _ => None,
    });
    assert_eq!(present, Some((51, 1)));
}

/// A prepare that was under way when the view was left: its sender may be gone, and the other
/// one that is left never had it.
#[test]
fn what_was_missing_when_the_view_was_left_and_came_since_is_told() {
    let log = log_of(&[0; 4]);
    let mut bench = Bench::with_log(2, &log[..3], 0, 3);
    bench.receive(&log[4]);
    bench.votes_of_others(2);
    bench.settle();
    let told = |bench: &Bench| {
        let last = bench.sent.iter().rev().find_map(|(_, message)| {
            let Command::DoViewChange(log) = message.header().command else { return None };
            Some((HeaderSet::decode(message).unwrap().header(4).copied(), log.present, log.nack))
        });
        let (header, present, nack) = last.expect("it is told");
        (header.map(|header| header.id()), present >> 1 & 1, nack >> 1 & 1)
    };
    assert_eq!(told(&bench), (None, 0, 1), "it is certain never to have had it");
    let header = log[3].prepare_header().encode();
    bench.receive(&Message::new(&author(1, 1), Headers {}, &header));
    bench.receive(&log[3]);
    bench.settle();
    bench.sent.clear();
    bench.ticks(1000);
    assert_eq!(told(&bench), (Some(id(&log[3])), 1, 0), "and now it has it");
    let mut bench = bench.restart();
    bench.ticks(1000);
    assert_eq!(told(&bench), (Some(id(&log[3])), 1, 0), "after a restart as well");
}

// ---- the start_view

/// Without a checkpoint the journal has room up to op 64.
#[test]
fn a_start_view_is_taken_as_far_as_there_is_room_for_its_log() {
    let log = log_of(&[0; 64]);
    for (count, is_taken) in [(64, true), (65, false)] {
        let mut bench = Bench::with_log(2, &log[..3], 0, 3);
        bench.receive(&start_view(&log[..count], 1, 3, 0));
        bench.settle();
        assert_eq!(bench.replica.log_view() == View(1), is_taken, "{count}");
    }
}

#[test]
fn a_start_view_that_is_not_taken_is_no_sign_of_life() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 3);
    bench.ticks(200);
    assert_eq!(bench.replica.votes, 1 << 2);
    bench.receive(&start_view(&log[..2], 1, 2, 0));
    assert_eq!((bench.replica.log_view(), bench.replica.votes), (View(0), 1 << 2));
}

#[test]
fn heartbeats_are_counted_anew_in_every_view_and_in_one_view_go_on() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&commit(0, &log[1], 1000));
    bench.receive(&start_view(&log, 1, 2, 0));
    bench.settle();
    bench.receive(&commit(1, &log[2], 50));
    bench.settle();
    assert_eq!(bench.replica.commit_max(), 3, "the first heartbeats of another primary");
    let longer = [&log[..], &[next(1, &log[2], 3, 9)]].concat();
    bench.receive(&start_view(&longer, 1, 3, 0));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.heartbeat_last), (4, 50));
}

#[test]
fn a_newer_view_is_asked_for_at_once_and_the_same_one_not_again() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    for (view, asked) in [(4, 1), (4, 1), (7, 2), (7, 2), (4, 2)] {
        bench.receive(&commit(view, &log[1], u64::from(view)));
        assert_eq!(bench.count_sent("request_start_view"), asked, "{view}");
    }
}

/// The head is the checkpoint's own op, and its header was lost here.
#[test]
fn a_head_at_the_checkpoint_is_named_by_a_start_view() {
    let log = log_of(&[0; 31]);
    let mut bench = Bench::with_log(2, &log[..3], 0, 3);
    for prepare in &log[3..] {
        bench.receive(prepare);
        bench.settle();
    }
    bench.receive(&commit(0, &log[31], 1));
    bench.settle();
    let checkpoint = BlockRef { index: 1, op: 32, checksum: 2, checksum_body: 3 };
    bench.act(|replica, effects| replica.on_checkpoint_written(checkpoint, effects));
    bench.settle();
    assert_eq!(bench.replica.op_checkpoint(), 32);
    let layout = Layout::new(GEOMETRY);
    bench.disk.write(layout.prepare_offset(32), &[0xAA; 4096]);
    bench.disk.write(layout.headers_offset(1), &[0xAA; 128]);
    let mut bench = bench.restart();
    assert!(bench.replica.journal.header(32).is_none());
    bench.receive(&start_view_of(&set_of(&log, 4), 1, 1, 32, 0));
    bench.settle();
    assert_eq!((bench.replica.view(), bench.replica.op()), (View(1), 32));
    assert_eq!(bench.replica.journal.header(32).map(|header| header.op()), Some(32));
}

// ---- restarts

/// The superblock has the log that the replica votes with: what is damaged above it was not
/// acknowledged.
#[test]
fn a_head_that_is_stored_with_the_view_is_certain() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    let layout = Layout::new(GEOMETRY);
    bench.disk.write(layout.prepare_offset(4), &[0xAA; 4096]);
    bench.disk.write(layout.headers_offset(0) + 4 * 128, &[0xAA; 128]);
    let bench = bench.restart();
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::ViewChange, 3));
}

#[test]
fn a_restart_keeps_what_the_view_began_with_and_forgets_what_it_cut() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&start_view(&log[..3], 1, 2, 0));
    // The log is cut in the superblock, and not in its slots yet.
    while bench.complete(is_superblock) {}
    assert_eq!((bench.replica.log_view_durable(), bench.replica.op()), (View(1), 3));
    let bench = bench.restart();
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::Normal, 3));
    assert!(bench.replica.journal.header(4).is_none());
    assert!(bench.replica.journal.is_clean(&id(&log[2])), "written in view 0");
}

#[test]
fn a_cluster_of_one_works_when_all_of_its_log_is_executed() {
    let state = SuperblockState::formatted(CLUSTER, ReplicaIndex(0), 1, 100, GEOMETRY);
    let mut disk = Disk::default();
    format(&state, &mut disk);
    let mut bench = Bench::start(disk, 1);
    bench.settle();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    assert_eq!(bench.executed, [1, 2]);
    let mut bench = bench.restart();
    while bench.complete(is_superblock) {}
    assert!(bench.replica.view_is_durable());
    assert_eq!((bench.replica.commit_min(), bench.replica.commit_max()), (0, 2));
    assert!(!bench.replica.is_primary());
    bench.settle();
    assert!(bench.replica.is_primary());
    assert_eq!(bench.executed, [1, 2]);
}

/// Op 3 was cut by a view that others knew nothing of, and selected again: its body lay there, so
/// that one write, of its redundant header, made it durable. That write was lost, and over a
/// restart nothing but the body is left of what was acknowledged.
#[test]
fn what_lies_whole_is_not_nacked_though_its_redundant_header_was_lost() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    for prepare in &log {
        bench.receive(prepare);
        bench.settle();
    }
    let third = id(&log[2]);
    assert!(bench.replica.journal.is_clean(&third));
    bench.receive(&start_view(&log[..2], 1, 2, 0));
    bench.settle();
    assert_eq!(bench.replica.op(), 2);
    let offset = Layout::new(GEOMETRY).headers_offset(0);
    let at = usize::try_from(offset).unwrap();
    let marked = bench.disk.bytes[at..at + 4096].to_vec();
    bench.sent.clear();
    bench.receive(&start_view(&log, 3, 2, 0));
    bench.settle();
    let is_ok = |message: &Message| match message.header().command {
        Command::PrepareOk(ok) => ok.prepare == third,
        _ => false,
    };
    assert!(bench.sent.iter().any(|(_, message)| is_ok(message)), "acknowledged");
    bench.disk.write(offset, &marked);
    bench.receive(&do_view_change(&log[..2], 1, 4, 0, 2));
    bench.settle();
    let mut bench = bench.restart();
    bench.settle();
    assert_eq!((bench.replica.view(), bench.replica.log_view()), (View(4), View(3)));
    let told = bench.replica.own_view_log();
    assert_eq!((told.set.op, told.set.header(3).map(crate::wire::Header::id)), (3, Some(third)));
    assert_eq!((told.nack & 1, told.present & 1), (0, 1));
}
