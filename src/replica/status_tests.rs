//! F5: what a replica says of itself, and to whom it listens.

use super::replica_tests::uncertain;
use super::test_bench::*;
use super::*;
use crate::store::Store;
use crate::wire::{BlockRef, StartView, StatusReport};

fn report(bench: &Bench) -> StatusReport {
    let store = Store::in_memory();
    let message = bench.replica.status_message(ClientId(9), 5, &store);
    StatusReport::decode(message.body()).unwrap()
}

#[test]
fn a_report_has_the_numbers_of_the_replica() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 2);
    bench.receive(&start_view(&log, 3, 3, 0));
    bench.settle();
    for prepare in &log[..3] {
        bench.receive(prepare);
        bench.settle();
    }
    // One that nobody has sent yet, above what is executed.
    bench.votes_of_others(2);
    bench.settle();
    bench.replica.counters.headers_repaired = 21;
    bench.replica.counters.prepares_repaired = 22;
    bench.ticks(3);
    let said = report(&bench);
    assert_eq!((said.view, said.log_view), (View(4), View(3)));
    assert_eq!((said.op, said.commit_min, said.commit_max), (4, 3, 3));
    assert_eq!((said.headers_repaired, said.prepares_repaired), (21, 22));
    assert_eq!((said.requests_committed, said.ops_committed), (3, 3));
    assert_eq!((said.journal_dirty, said.journal_faulty), (1, 0));
    assert_eq!(bench.replica.ops_to_repair(), 1, "op 4, of which the header alone is here");
    assert_eq!((said.uptime_ticks, said.log_capacity_left), (3, 61 - 4));
    assert_eq!((said.op_checkpoint, said.op_sync, said.sync_ticks), (0, 0, 0));
    assert_eq!((said.sessions_count, said.heard), (5, 0b111));
    assert_eq!((bench.replica.replica_count(), *bench.replica.geometry()), (3, GEOMETRY));
    assert_eq!(bench.replica.counters().view_changes, 1);
}

#[test]
fn a_report_tells_of_a_checkpoint_that_is_taken_over_and_of_damage() {
    let log = log_of(&[0; 69]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    let checkpoint = BlockRef { index: 1, op: 32, checksum: 2, checksum_body: 3 };
    let command = StartView { op: 70, commit_max: 68, checkpoint, nonce: 0 };
    bench.receive(&Message::new(&author(0, 3), command, &set_of(&log, 4).encode()));
    bench.settle();
    bench.ticks(4);
    let said = report(&bench);
    assert_eq!((said.op_checkpoint, said.op_sync, said.sync_ticks), (32, 32, 4));
    assert_eq!((said.commit_min, said.op), (32, 70));
    let (bench, _) = uncertain();
    assert!(report(&bench).journal_faulty > 0);
    let (mut bench, _) = primary();
    bench.replica.set_store_full(true, false);
    bench.replica.set_awaits_block(true);
    bench.replica.checkpoints.current = checkpoint;
    let other = BlockRef { checksum: 9, ..checkpoint };
    bench.act(|replica, effects| {
        replica.on_checkpoint_claim(ReplicaIndex(2), other.checkpoint_id(), effects);
    });
    let said = report(&bench);
    assert!(said.store_full && said.awaits_block);
    assert_eq!((said.op_diverged, said.diverged), (32, 1 << 2));
}

#[test]
fn only_the_primary_in_normal_operation_acts_as_primary() {
    let (bench, log) = primary();
    assert!(bench.replica.acts_as_primary());
    let bench = bench.restart();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    assert!(!bench.replica.acts_as_primary());
    assert!(!Bench::with_log(1, &log, 0, 3).replica.acts_as_primary());
}

#[test]
fn clocks_of_a_server_that_go_back_do_not() {
    let (mut bench, _) = primary();
    bench.replica.set_now(Now { monotonic: 50, realtime: 1 });
    bench.replica.set_now(Now { monotonic: 30, realtime: 2 });
    assert_eq!((bench.replica.now.monotonic, bench.replica.now.realtime), (50, 2));
}

#[test]
fn whoever_is_connected_is_told_at_once_who_this_is() {
    let (mut bench, _) = primary();
    bench.act(|replica, effects| replica.on_connected(ReplicaIndex(2), effects));
    let [(to, ping)] = bench.sent.as_slice() else { panic!() };
    assert_eq!((to.0, ping.header().command.name()), (2, "ping"));
}

#[test]
fn a_prepare_that_is_passed_on_says_nothing_of_its_author() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 3);
    bench.ticks(400);
    bench.receive(&log[2]);
    assert_eq!(bench.replica.heard_bits(), 1 << 1);
}

#[test]
fn each_peer_of_another_geometry_is_not_listened_to_until_it_has_the_same() {
    let log = log_of(&[0]);
    let foreign = Geometry { clients_max: 7, ..GEOMETRY };
    for from in [0, 1] {
        let mut bench = Bench::with_log(2, &log, 0, 2);
        bench.receive(&ping(&author(from, 0), foreign, incarnation(2)));
        assert_eq!(bench.replica.foreign, 1 << from);
        let ask = crate::wire::RequestHeaders { op_min: 1, op_max: 2 };
        bench.receive(&message(1 - from, 0, ask));
        assert_eq!(bench.count_sent("headers"), 1, "the other one is listened to");
        bench.receive(&message(from, 0, ask));
        assert_eq!(bench.count_sent("headers"), 1);
        bench.receive(&ping(&author(from, 0), GEOMETRY, incarnation(2)));
        assert_eq!(bench.replica.foreign, 0);
        bench.receive(&message(from, 0, ask));
        assert_eq!(bench.count_sent("headers"), 2);
    }
}

#[test]
fn what_a_file_that_is_no_member_says_of_its_store_is_nothing() {
    let (mut bench, _) = primary();
    let full = |from: &Author| {
        let said = ping(from, GEOMETRY, incarnation(1));
        let Command::Ping(command) = said.header().command else { panic!() };
        Message::new(from, Ping { store_full: 1, ..command }, &[])
    };
    bench.receive(&full(&Author { incarnation: 999, ..author(2, 1) }));
    assert_eq!(bench.replica.stores_full, 0);
    for _ in 0..2 {
        bench.receive(&full(&author(2, 1)));
        assert_eq!(bench.replica.stores_full, 1 << 2);
    }
    bench.receive(&full(&author(0, 1)));
    for _ in 0..2 {
        bench.receive(&ping(&author(2, 1), GEOMETRY, incarnation(1)));
        assert_eq!(bench.replica.stores_full, 1 << 0);
    }
}
