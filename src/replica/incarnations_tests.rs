//! F5: one bare replica, on its bench: what becomes of a lost data file and of the one that
//! replaces it.

use super::cluster_tests::{Disk, format};
use super::test_bench::*;
use super::*;
use crate::storage::{Request, SuperblockState};
use crate::wire::{DoViewChange, Entry, Operation, PrepareOk, RejectReason, StartViewChange};

/// What replica 2 has in place of its file from a recovery on.
const NEW: u64 = 202;

fn recover_of(base: &IncarnationTable) -> Recover {
    Recover { replica: ReplicaIndex(2), incarnation: NEW, table: base.alone() }
}

/// The recovery of replica 2 as the op behind `parent`.
fn recovery(view: u32, parent: &Message, commit: Op) -> Message {
    let body = recover_of(&table(3)).encode();
    let entry = Entry {
        client: ClientId(77),
        session: 1,
        request: 1,
        size: u32::try_from(body.len()).unwrap(),
        checksum: crc32c::crc32c(&body),
        operation: Operation::Recover,
    };
    prepare(view, &parent.prepare_header(), commit, &entry, &body)
}

/// A log of view 0 with the recovery of replica 2 at its head, op 4, and the table of it.
fn log_with_recovery() -> (Vec<Message>, IncarnationTable) {
    let mut log = log_of(&[0, 0]);
    log.push(recovery(0, &log[2], 3));
    let table = recover_of(&table(3)).table_at(4);
    assert_eq!(Recover::table_of(&log[3]), Some(table));
    (log, table)
}

/// Replica 1, a backup of view 0 that has the recovery and does not know that it is committed.
fn backup_with_recovery() -> (Bench, Vec<Message>, IncarnationTable) {
    let (log, table) = log_with_recovery();
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    bench.receive(&log[3]);
    bench.settle();
    bench.sent.clear();
    (bench, log, table)
}

#[test]
fn recovery_is_durable_before_its_prepare_and_counts_from_there_on() {
    let (log, table) = log_with_recovery();
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    bench.receive(&message(2, 0, StartViewChange {}));
    assert_ne!(bench.replica.votes, 0);
    bench.receive(&log[3]);
    assert_eq!((bench.replica.table, bench.replica.votes), (table, 0));
    let is_prepare = |request: &Request| !is_superblock(request);
    assert!(!bench.pending.iter().any(is_prepare), "the table comes first");
    while bench.complete(is_superblock) {}
    assert_eq!(bench.replica.superblock.state().head.table, table);
    bench.settle();
    assert_eq!(bench.drain_sent("prepare_ok"), 1);
    // The old file is none of them any more.
    bench.receive(&message(2, 0, StartViewChange {}));
    assert_eq!(bench.replica.votes, 0);
    let new = Author { incarnation: NEW, ..author(2, 0) };
    bench.receive(&Message::new(&new, StartViewChange {}, &[]));
    assert_eq!(bench.replica.votes, 1 << 2);
    // A restart knows it.
    let bench = bench.restart();
    assert_eq!((bench.replica.op(), bench.replica.table), (4, table));
}

#[test]
fn recovery_whose_prepare_was_not_written_is_forgotten() {
    let (log, _) = log_with_recovery();
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    bench.receive(&log[3]);
    while bench.complete(is_superblock) {}
    assert_eq!(bench.replica.superblock.state().head.table.op, 4);
    let mut bench = bench.restart();
    assert_eq!((bench.replica.op(), bench.replica.table), (3, table(3)));
    bench.settle();
    assert_eq!(bench.replica.superblock.state().head.table, table(3));
    assert_eq!(bench.replica.status(), Status::Normal);
    bench.receive(&message(2, 0, StartViewChange {}));
    assert_eq!(bench.replica.votes, 1 << 2, "the old file counts");
}

#[test]
fn recovery_that_is_cut_from_the_log_is_none() {
    let (mut bench, log, _) = backup_with_recovery();
    // View 2, of replica 2 itself: its old file lives after all, and has never seen the recovery.
    bench.receive(&start_view(&log[..3], 2, 3, 0));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.table), (3, table(3)));
    assert_eq!((bench.replica.view(), bench.replica.status()), (View(2), Status::Normal));
    let bench = bench.restart();
    assert_eq!((bench.replica.op(), bench.replica.table), (3, table(3)));
}

#[test]
fn recovery_that_is_committed_is_never_unlearnt() {
    let (mut bench, log, table) = backup_with_recovery();
    bench.receive(&commit(0, &log[3], 9));
    assert_eq!(bench.executed.last(), Some(&4));
    bench.receive(&start_view(&log, 3, 4, 0));
    bench.settle();
    assert_eq!((bench.replica.view(), bench.replica.table), (View(0), table), "an older table");
    let set = HeaderSet { table, ..set_of(&log, 4) };
    bench.receive(&start_view_of(&set, 0, 3, 4, 0));
    assert_eq!((bench.replica.view(), bench.replica.table), (View(3), table));
}

#[test]
fn recovery_table_of_the_newest_log_decides_who_counts() {
    // Replica 1 has the recovery of view 0, which came to nothing: 2, with the log of view 3, is
    // who it was.
    let (mut bench, log, _) = backup_with_recovery();
    bench.votes_of_others(1);
    let newer = [&log[..3], &[next(3, &log[2], 3, 50)]].concat();
    let newer = do_view_change(&newer, 2, 4, 3, 3);
    bench.receive(&newer);
    // Whom its own table does not name it does not follow.
    assert_eq!(bench.replica.view(), View(0));
    bench.receive(&ping(&author(0, 4), GEOMETRY, incarnation(1)));
    bench.settle();
    assert_eq!((bench.replica.view(), bench.replica.log_view()), (View(4), View(0)));
    bench.receive(&newer);
    bench.settle();
    assert_eq!((bench.replica.log_view(), bench.replica.table), (View(4), table(3)));
    assert_eq!(bench.replica.journal.header(4).unwrap().view, View(3));

    // The other way round: the recovery is in the newer log, so the old file does not count.
    let (log, newer_table) = log_with_recovery();
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    let logs = [next(3, &log[2], 3, 50), recovery(3, &next(3, &log[2], 3, 50), 3)];
    let newer = [&log[..3], &logs].concat();
    bench.receive(&ping(&author(0, 4), GEOMETRY, incarnation(1)));
    bench.settle();
    bench.receive(&do_view_change(&log[..3], 2, 4, 0, 3));
    bench.settle();
    assert!(bench.replica.log_view() == View(4), "two of three, and nobody knows of a recovery");
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    bench.receive(&ping(&author(0, 4), GEOMETRY, incarnation(1)));
    bench.receive(&do_view_change(&log[..3], 2, 4, 0, 3));
    let newer_table = IncarnationTable { op: 5, ..newer_table };
    let set = HeaderSet { table: newer_table, ..set_of(&newer, 4) };
    let command =
        DoViewChange { op: 5, commit_max: 3, log_view: View(3), present: 15, ..Default::default() };
    bench.receive(&Message::new(&author(0, 4), command, &set.encode()));
    bench.settle();
    assert_eq!((bench.replica.log_view(), bench.replica.table), (View(4), newer_table));
}

#[test]
fn recovered_file_waits_for_a_log_and_then_takes_part() {
    let (log, table) = log_with_recovery();
    let recovered = || {
        let formatted = SuperblockState::formatted(CLUSTER, ReplicaIndex(2), 3, NEW, GEOMETRY);
        let state = SuperblockState::recovered(formatted, View(3), table);
        let mut disk = Disk::default();
        format(&state, &mut disk);
        Bench::start(disk, 1)
    };
    let mut bench = recovered();
    assert_eq!(bench.replica.status(), Status::RecoveringHead);
    let told = |view: u32, nonce: u64| {
        let set = HeaderSet { table, ..set_of(&log, 4) };
        start_view_of(&set, View(view).primary(3).0, view, 4, nonce)
    };
    bench.votes_of_others(2);
    bench.receive(&do_view_change(&log, 0, 3, 0, 4));
    bench.receive(&told(1, 0));
    bench.receive(&told(3, 0));
    bench.ticks(300);
    for name in ["start_view_change", "do_view_change", "start_view", "prepare_ok"] {
        assert_eq!(bench.count_sent(name), 0, "{name}");
    }
    let pings = bench.sent.iter().filter(|(_, message)| message.header().command.name() == "ping");
    assert!(pings.clone().count() > 2);
    assert!(pings.clone().all(|(_, ping)| ping.header().view == View(3)));
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::RecoveringHead, 0));
    // It stays so over a restart.
    let mut bench = bench.restart();
    assert_eq!(bench.replica.status(), Status::RecoveringHead);
    bench.ticks(20);
    let nonce = bench.replica.nonce;
    bench.receive(&told(3, nonce));
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::Normal, 4));
    for message in &log {
        bench.receive(message);
    }
    bench.settle();
    assert_eq!(bench.executed, [1, 2, 3, 4]);
    // A newer view needs no nonce.
    let mut bench = recovered();
    bench.receive(&told(4, 0));
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::Normal, View(4)));
    let bench = bench.restart();
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::Normal, 4));
}

#[test]
fn recovery_of_a_file_that_lives_is_ignored_until_it_is_committed() {
    let (log, table) = log_with_recovery();
    let mut bench = Bench::with_log(2, &log[..3], 0, 3);
    bench.receive(&log[3]);
    bench.settle();
    assert_eq!((bench.replica.op(), bench.count_sent("prepare_ok")), (3, 0));
    let set = HeaderSet { table, ..set_of(&log, 4) };
    bench.receive(&start_view_of(&set, 0, 0, 3, 0));
    assert!(!bench.fatal);
    assert_eq!(bench.replica.op(), 3);
    bench.receive(&start_view_of(&set, 0, 0, 4, 0));
    assert!(bench.fatal);
}

/// The request for a recovery of `base`.
fn recover_request(client: u128, base: &IncarnationTable) -> Message {
    let Command::Request(command) = request(client, 1).header().command else { panic!() };
    let command = crate::wire::Request { operation: Operation::Recover as u8, ..command };
    let author =
        Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
    Message::new(&author, command, &recover_of(base).encode())
}

#[test]
fn recovery_is_refused_of_whom_was_heard_and_of_another_table() {
    let (mut bench, _) = primary();
    let ask = |bench: &mut Bench, message: &Message| bench.replica.gather_recover(message);
    let reject = |reason| Err(NotGathered::Reject(reason));
    let wanted = recover_request(9, &table(3));
    assert_eq!(ask(&mut bench, &wanted), reject(RejectReason::ReplicaHeard));
    bench.ticks(400);
    bench.receive(&ping(&author(2, 1), GEOMETRY, incarnation(1)));
    assert_eq!(ask(&mut bench, &wanted), reject(RejectReason::ReplicaHeard));
    bench.ticks(150);
    // What another file in its place says is not heard.
    let stranger = Author { incarnation: 999, ..author(2, 1) };
    bench.receive(&ping(&stranger, GEOMETRY, incarnation(1)));
    bench.ticks(150);
    let other = IncarnationTable { op: 2, ..table(3) };
    let refused = ask(&mut bench, &recover_request(9, &other));
    assert_eq!(refused, reject(RejectReason::TableChanged));
    assert_eq!(ask(&mut bench, &wanted), Ok(()));
    assert_eq!(ask(&mut bench, &wanted), Err(NotGathered::Ignore("in flight already")));
    let second = ask(&mut bench, &recover_request(10, &table(3)));
    assert_eq!(second, reject(RejectReason::TableChanged));
}

#[test]
fn recovery_comes_a_pipeline_after_what_the_lost_file_helped_to_commit() {
    let (mut bench, _) = primary();
    let op = bench.replica.op();
    bench.ticks(400);
    bench.replica.gather_recover(&recover_request(9, &table(3))).unwrap();
    bench.settle();
    // The log of the view before may rely on the lost file: P − 1 no-ops, then the recovery.
    let pipeline = u64::from(GEOMETRY.pipeline);
    assert_eq!((bench.replica.op(), bench.replica.table.op), (op + pipeline, op + pipeline));
    let ids: Vec<PrepareId> =
        (op + 1..=op + pipeline).map(|op| bench.replica.journal.header(op).unwrap().id()).collect();
    // An acknowledgement of the old file that was on its way commits nothing.
    for prepare in &ids {
        let ok = PrepareOk { prepare: *prepare, ..PrepareOk::default() };
        bench.receive(&message(2, 1, ok));
    }
    assert_eq!(bench.replica.commit_max(), op);
    for prepare in &ids {
        let ok = PrepareOk { prepare: *prepare, ..PrepareOk::default() };
        bench.receive(&message(0, 1, ok));
    }
    assert_eq!((bench.replica.commit_max(), bench.executed.last()), (ids[2].op, Some(&ids[2].op)));
    let bodies = bench.sent.iter().filter_map(|(_, message)| match message.header().command {
        Command::Prepare(_) => Some(message.body()[40]),
        _ => None,
    });
    let operations: BTreeMap<u8, usize> = bodies.fold(BTreeMap::new(), |mut counts, operation| {
        *counts.entry(operation).or_default() += 1;
        counts
    });
    assert_eq!(operations.keys().copied().collect::<Vec<_>>(), [3, 5]);
    // The next one may follow at once: nothing since was committed with its help.
    let base = bench.replica.table;
    bench.replica.gather_recover(&recover_request(10, &base)).unwrap_err();
    let next = Recover { incarnation: 303, ..recover_of(&base) };
    let Command::Request(command) = recover_request(11, &base).header().command else { panic!() };
    let author = Author { incarnation: 0, ..author(0, 0) };
    bench.replica.gather_recover(&Message::new(&author, command, &next.encode())).unwrap();
    bench.settle();
    assert_eq!(bench.replica.table.op, ids[2].op + 1);
    assert_eq!(bench.replica.table.up_to(ids[2].op), base.alone());
}

#[test]
fn recovery_that_waits_is_refused_when_the_replica_is_heard() {
    let (mut bench, _) = primary();
    bench.ticks(400);
    // The pipeline is full, so it waits.
    for client in 1..=u128::from(GEOMETRY.pipeline) {
        bench.replica.gather(&request(client, 1)).unwrap();
        bench.settle();
    }
    bench.replica.gather_recover(&recover_request(9, &table(3))).unwrap();
    bench.settle();
    assert!(bench.replica.recover.is_some());
    let op = bench.replica.op();
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    bench.settle();
    assert!(bench.replica.recover.is_none());
    assert_eq!((bench.replica.op(), bench.replica.table), (op, table(3)));
    assert!(!bench.replica.requests_in_flight.contains_key(&ClientId(9)));
}

#[test]
fn recovery_makes_acknowledgements_of_the_lost_file_void() {
    let (mut bench, _) = primary();
    bench.ticks(400);
    bench.replica.relied_on = Default::default();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.act(Replica::on_turn_end);
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.pipeline[0].oks, 1 << 2, "the own copy is not durable");
    bench.replica.heard_at = Default::default();
    let before = bench.pending.len();
    bench.replica.gather_recover(&recover_request(9, &table(3))).unwrap();
    bench.act(Replica::on_turn_end);
    assert_eq!((bench.replica.table.op, bench.replica.op()), (5, 5));
    assert_eq!(bench.replica.pipeline[0].oks, 0);
    // The table is durable before the prepare that changes it is written.
    assert!(bench.pending[before..].iter().all(is_superblock));
    bench.settle();
    assert_eq!(bench.replica.commit_max(), 3, "the own copy alone");
}

#[test]
fn recovery_that_is_committed_in_the_own_log_is_the_end_of_the_lost_file() {
    let (log, _) = log_with_recovery();
    let later = next(0, &log[3], 3, 50);
    let header = log[3].prepare_header().encode();
    let named = Message::new(&author(1, 0), crate::wire::Headers {}, &header);
    let lost = || Bench::with_log(2, &log[..3], 0, 3);
    // It is committed, but nothing says that it is of the log that this file has.
    let mut bench = lost();
    bench.receive(&commit(0, &log[3], 9));
    bench.receive(&log[3]);
    assert!(!bench.fatal);
    // It is of the log, and may be cut from it yet.
    let mut bench = lost();
    bench.receive(&later);
    bench.receive(&log[3]);
    bench.receive(&named);
    bench.receive(&log[3]);
    assert!(!bench.fatal);
    assert_eq!((bench.replica.chain_min, bench.replica.commit_max()), (1, 3));
    bench.receive(&commit(0, &log[3], 9));
    bench.receive(&log[3]);
    assert!(bench.fatal);
}

#[test]
fn a_primary_knows_with_whose_help_each_op_was_committed() {
    let (mut bench, _) = primary();
    assert_eq!(bench.replica.relied_on[..3], [3, 3, 3]);
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.commit_max(), 4);
    assert_eq!(bench.replica.relied_on[..3], [3, 3, 4], "of the others, on 2 alone");
}

#[test]
fn whoever_was_heard_is_heard_for_three_seconds() {
    let (mut bench, _) = primary();
    bench.ticks(400);
    assert_eq!(bench.replica.heard_bits(), 1 << 1);
    bench.receive(&ping(&author(2, 1), GEOMETRY, incarnation(1)));
    assert_eq!(bench.replica.heard_bits(), 1 << 1 | 1 << 2);
    bench.ticks(299);
    assert_eq!(bench.replica.heard_bits(), 1 << 1 | 1 << 2);
    bench.ticks(1);
    assert_eq!(bench.replica.heard_bits(), 1 << 1);
}

#[test]
fn recovery_of_no_replica_of_the_cluster_is_invalid() {
    let (mut bench, _) = primary();
    bench.ticks(400);
    let mut wide = table(3);
    wide.incarnations[5] = 105;
    let recover = Recover { replica: ReplicaIndex(5), incarnation: NEW, table: wide };
    let asked = recover_request(9, &table(3));
    let Command::Request(command) = asked.header().command else { panic!() };
    assert!(is_recover(&asked.header().with(command)));
    let Command::Request(other) = request(9, 1).header().command else { panic!() };
    assert!(!is_recover(&asked.header().with(other)));
    let author = Author { incarnation: 0, ..author(0, 0) };
    let refused = bench.replica.gather_recover(&Message::new(&author, command, &recover.encode()));
    assert_eq!(refused, Err(NotGathered::Reject(RejectReason::Invalid)));
}

/// A full store is remembered: the client may have another request accepted elsewhere meanwhile.
#[test]
fn recovery_that_was_refused_for_want_of_room_stays_refused_and_others_do_not() {
    for (reason, is_refused) in
        [(RejectReason::StoreFull, true), (RejectReason::TableChanged, false)]
    {
        let (mut bench, _) = primary();
        bench.ticks(400);
        let asked = recover_request(9, &table(3));
        bench.replica.gather_recover(&asked).unwrap();
        bench.act(|replica, effects| replica.reject_recover(reason, effects));
        let again = bench.replica.gather_recover(&asked);
        assert_eq!(again.is_err(), is_refused, "{reason:?}");
    }
}
