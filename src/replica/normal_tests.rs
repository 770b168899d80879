//! F5: normal operation at its bounds: what one prepare takes, what a backup keeps and
//! acknowledges, and what a primary does that gets nothing acknowledged. Three replicas, a pipeline
//! of 3.

use super::admission_tests::primary_with_ops;
use super::test_bench::*;
use super::*;
use crate::wire::{CommitOk, Entry, Operation, PrepareOk};

fn request_of_size(client: u128, size: usize) -> Message {
    let Command::Request(command) = request(client, 1).header().command else { panic!() };
    let author = Author { incarnation: 0, ..author(0, 0) };
    Message::new(&author, command, &vec![1; size])
}

fn ok_of(replica: u8, view: u32, prepare: PrepareId) -> Message {
    message(replica, view, PrepareOk { prepare, ..PrepareOk::default() })
}

/// The ops whose acknowledgement went out.
fn acknowledged(bench: &Bench) -> Vec<Op> {
    let oks = bench.sent.iter().filter_map(|(_, message)| match message.header().command {
        Command::PrepareOk(ok) => Some(ok.prepare.op),
        _ => None,
    });
    oks.collect()
}

/// A prepare after `parent` whose message has this size.
fn prepare_of_size(parent: &Message, size: usize) -> Message {
    let body = vec![3; size - 128 - 64];
    let entry = Entry {
        client: ClientId(5),
        session: 1,
        request: 1,
        size: u32::try_from(body.len()).unwrap(),
        checksum: crc32c::crc32c(&body),
        operation: Operation::Apply,
    };
    prepare(0, &parent.prepare_header(), 2, &entry, &body)
}

// ---- the primary

#[test]
fn a_prepare_takes_what_fits_a_message_and_not_a_byte_more() {
    // 4096 bytes, less the header's 128 and 64 for each entry.
    for (sizes, entries) in [([1920, 1920], vec![2]), ([1920, 1928], vec![1, 1])] {
        let (mut bench, _) = primary();
        for (client, size) in (1..).zip(sizes) {
            bench.replica.gather(&request_of_size(client, size)).unwrap();
        }
        bench.act(Replica::on_turn_end);
        let sealed: Vec<u32> = (4..=bench.replica.op())
            .map(|op| bench.replica.journal.header(op).unwrap().command.entry_count)
            .collect();
        assert_eq!(sealed, entries, "{sizes:?}");
        assert_eq!((bench.replica.gathered.len(), bench.replica.gathered_size), (0, 0));
        let counters = bench.replica.counters();
        assert_eq!(counters.prepares_sealed, entries.len() as u64);
        assert_eq!(counters.requests_sealed, 2);
    }
}

#[test]
fn a_primary_seals_the_next_op_while_the_last_is_being_written() {
    let (mut bench, _) = primary();
    for (client, op) in [(1, 4), (2, 5)] {
        bench.replica.gather(&request(client, 1)).unwrap();
        bench.act(Replica::on_turn_end);
        assert_eq!(bench.replica.op(), op);
    }
    assert!(!bench.pending.is_empty());
}

#[test]
fn a_new_primary_gives_no_timestamp_of_the_log_again() {
    let log = log_of(&[0, 0]);
    for commit_max in [2, 3] {
        let mut bench = Bench::with_log(1, &log, 0, commit_max);
        bench.votes_of_others(2);
        bench.settle();
        bench.receive(&do_view_change(&log, 2, 1, 0, commit_max));
        bench.settle();
        let last = log[2].prepare_header().command;
        bench.replica.gather(&request(1, 1)).unwrap();
        bench.act(Replica::on_turn_end);
        let sealed = bench.replica.journal.header(4).unwrap().command;
        assert!(sealed.timestamp >= last.timestamp + u64::from(last.entry_count));
    }
}

#[test]
fn a_primary_that_repairs_its_log_commits_nothing() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, 2));
    bench.settle();
    assert!(bench.replica.selected && !bench.replica.is_primary());
    for from in [0, 2] {
        bench.receive(&ok_of(from, 1, id(&log[2])));
    }
    bench.settle();
    assert_eq!(bench.replica.commit_max(), 2);
    bench.receive(&log[3]);
    bench.settle();
    assert!(bench.replica.is_primary());
    assert_eq!(bench.replica.commit_max(), 3);
}

#[test]
fn a_prepare_is_sent_again_to_those_alone_that_are_silent() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.act(Replica::on_turn_end);
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&ok_of(2, 1, prepare));
    assert_eq!(bench.replica.commit_max(), 3, "the own copy is not durable");
    bench.sent.clear();
    for _ in 0..40 {
        bench.tick();
    }
    let is_prepare = |message: &Message| message.header().command.name() == "prepare";
    let to = |replica: u8| {
        let sent = bench.sent.iter().filter(|(to, sent)| to.0 == replica && is_prepare(sent));
        sent.count()
    };
    assert!(to(0) > 0);
    assert_eq!(to(2), 0);
}

#[test]
fn an_acknowledgement_takes_back_what_a_primary_gave_up() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    bench.ticks(300);
    assert!(bench.replica.abdicating);
    assert_eq!(bench.replica.votes, 1 << 1);
    // While it keeps silent it does so whatever becomes durable.
    bench.act(Replica::on_durable);
    bench.sent.clear();
    bench.ticks(30);
    bench.replica.queries_gather(&request(7, 1)).unwrap();
    bench.act(Replica::on_turn_end);
    assert_eq!(bench.count_sent("commit"), 0);
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&ok_of(2, 1, prepare));
    assert_eq!((bench.replica.abdicating, bench.replica.votes), (false, 0));
    bench.sent.clear();
    bench.ticks(30);
    assert!(bench.count_sent("commit") > 0);
    assert_eq!(bench.count_sent("start_view_change"), 0);
}

#[test]
fn what_is_in_flight_is_of_clients_that_change_something() {
    let entry = |client: u128, operation: Operation| Entry {
        client: ClientId(client),
        session: 1,
        request: 6,
        size: 0,
        checksum: 0,
        operation,
    };
    let entries = [
        entry(1, Operation::Apply),
        entry(2, Operation::Query),
        entry(0, Operation::Noop),
        entry(3, Operation::Register),
    ];
    let body: Vec<u8> = entries.iter().flat_map(Entry::encode).collect();
    let found: Vec<_> = Replica::clients_of(&body).collect();
    assert_eq!(found, [(ClientId(1), 6), (ClientId(3), 6)]);
}

#[test]
fn nobody_is_told_of_a_view_that_is_not_durable() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 3);
    bench.receive(&start_view(&log, 1, 3, 0));
    assert_eq!(bench.replica.status(), Status::Normal);
    assert!(bench.replica.pong_client(ClientId(1), 1).is_none());
    bench.settle();
    assert!(bench.replica.pong_client(ClientId(1), 1).is_some());
}

// ---- a backup

#[test]
fn a_prepare_as_large_as_a_slot_is_taken_and_a_larger_one_is_not() {
    let log = log_of(&[0]);
    for (size, is_taken) in [(4096, true), (4104, false)] {
        let mut bench = Bench::with_log(1, &log, 0, 2);
        bench.receive(&prepare_of_size(&log[1], size));
        bench.settle();
        assert_eq!(bench.replica.op() == 3, is_taken, "{size}");
    }
}

#[test]
fn a_prepare_of_an_older_view_of_the_same_primary_extends_nothing() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(1, &log, 3, 2);
    bench.receive(&next(0, &log[1], 2, 9));
    bench.settle();
    assert_eq!(bench.replica.op(), 2);
    bench.receive(&next(3, &log[1], 2, 9));
    assert_eq!(bench.replica.op(), 3);
}

#[test]
fn a_prepare_of_a_view_that_began_without_this_replica_makes_it_ask() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    bench.sent.clear();
    bench.receive(&next(0, &log[1], 2, 9));
    assert_eq!(bench.count_sent("request_start_view"), 0, "its own view is the newer one");
    bench.receive(&next(1, &log[1], 2, 9));
    assert_eq!(bench.count_sent("request_start_view"), 1);
}

/// Op 61 of 64 slots without a checkpoint: what is prepared above would not be proven.
#[test]
fn a_backup_acknowledges_up_to_what_its_checkpoint_allows() {
    let log = log_of(&[0; 62]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    for prepare in &log[3..] {
        bench.receive(prepare);
        bench.settle();
    }
    assert_eq!(bench.replica.op(), 63);
    assert_eq!(acknowledged(&bench), (4..=61).collect::<Vec<_>>());
}

#[test]
fn a_prepare_that_comes_again_is_not_acknowledged_before_the_view_is_durable() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&start_view(&log, 1, 2, 0));
    bench.receive(&log[2]);
    assert_eq!(acknowledged(&bench), []);
    bench.settle();
    assert_eq!(acknowledged(&bench), [3]);
}

#[test]
fn an_acknowledgement_of_a_newer_view_is_news_and_one_to_a_backup_is_nothing() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&ok_of(1, 0, id(&log[2])));
    assert_eq!((bench.replica.commit_max(), bench.replica.view()), (2, View(0)));
    bench.receive(&ok_of(1, 4, id(&log[2])));
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(4)));
}

#[test]
fn a_heartbeat_takes_back_the_own_vote_and_no_other() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.replica.votes = 1 << 1 | 1 << 2;
    bench.receive(&commit(0, &log[1], 1));
    assert_eq!(bench.replica.votes, 1 << 2);
}

/// Twelve, four pipelines, are kept for execution; the rest is read again.
#[test]
fn what_is_kept_in_memory_is_bounded_by_what_is_executed() {
    let log = log_of(&[0; 30]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    // Op 4 is missing, so nothing is executed.
    bench.receive(&start_view(&log, 3, 28, 0));
    bench.settle();
    let body: Vec<u8> =
        log[3..27].iter().rev().flat_map(|message| message.prepare_header().encode()).collect();
    bench.receive(&Message::new(&author(2, 0), crate::wire::Headers {}, &body));
    for prepare in &log[4..] {
        bench.receive(prepare);
        bench.settle();
    }
    assert_eq!(bench.replica.commit_min(), 3);
    let kept: Vec<Op> = bench.replica.cache.range(4..).map(|(op, _)| *op).collect();
    assert_eq!(kept, (5..=15).collect::<Vec<_>>());
    bench.receive(&log[3]);
    bench.settle();
    assert_eq!(bench.replica.commit_min(), 28);
}

#[test]
fn a_heartbeat_that_asks_is_answered_and_one_of_an_older_round_is_not() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    let asks = |round: u64| {
        let commit = crate::wire::Commit { commit: id(&log[1]), round, ..Default::default() };
        message(0, 0, crate::wire::Commit { answer: 1, ..commit })
    };
    for round in [5, 5, 4, 6] {
        bench.receive(&asks(round));
    }
    let rounds: Vec<u64> = bench
        .sent
        .iter()
        .filter_map(|(_, message)| match message.header().command {
            Command::CommitOk(CommitOk { round }) => Some(round),
            _ => None,
        })
        .collect();
    assert_eq!(rounds, [5, 6]);
}

/// The write of what a view change cut is on its way to the slot that comes next.
#[test]
fn a_primary_does_not_seal_into_a_slot_that_is_being_written() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 3);
    bench.receive(&next(0, &log[2], 3, 9));
    assert!(bench.pending.iter().any(|request| !is_superblock(request)));
    bench.receive(&ping(&author(2, 4), GEOMETRY, incarnation(1)));
    while bench.complete(is_superblock) {}
    bench.receive(&do_view_change(&log, 2, 4, 2, 3));
    while bench.complete(is_superblock) {}
    assert!(bench.replica.is_primary());
    assert_eq!((bench.replica.view(), bench.replica.op()), (View(4), 3));
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.act(Replica::on_turn_end);
    assert_eq!(bench.replica.op(), 3);
    bench.settle();
    assert_eq!(bench.replica.op(), 4);
    assert_eq!(bench.replica.journal.header(4).unwrap().view, View(4));
}

#[test]
fn what_is_read_to_be_executed_is_not_kept_when_it_was_executed_meanwhile() {
    let log = log_of(&[0; 3]);
    let mut bench = Bench::with_log(1, &log, 0, 3).restart();
    bench.receive(&commit(0, &log[3], 9));
    while bench.complete(is_superblock) {}
    assert_eq!((bench.replica.commit_min(), bench.replica.commit_max()), (0, 4));
    let reads = bench.pending.len();
    assert!(reads > 0 && bench.replica.cache.is_empty());
    // They come from the others.
    bench.replica.cache.extend((1..).zip(log));
    bench.act(Replica::progress);
    assert_eq!((bench.replica.commit_min(), bench.pending.len()), (4, reads));
    bench.settle();
    assert!(bench.replica.cache.is_empty());
}

/// Four pipelines.
#[test]
fn a_primary_is_so_far_ahead_of_what_it_has_executed_and_no_further() {
    let mut bench = primary_with_ops(60);
    for (commit_min, may_seal) in [(60, true), (49, true), (48, false), (40, false)] {
        bench.replica.commit_min = commit_min;
        assert_eq!(bench.replica.primary_may_seal(), may_seal, "{commit_min}");
    }
}
