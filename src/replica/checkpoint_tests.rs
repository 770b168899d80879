//! F5: checkpoints as one replica sees them: what it executes, keeps and offers with the one that
//! it has, and which of another's it takes over. Three replicas, 64 slots, a pipeline of 3: a
//! checkpoint every 32 ops, and that of op 32 is proven by op 62.

use super::admission_tests::primary_with_ops;
use super::checkpoint::Offer;
use super::executor::Loaded;
use super::test_bench::{
    Bench, GEOMETRY, author, commit, incarnation, log_of, message, ping, primary, request, set_of,
};
use super::*;
use crate::storage::{Layout, Request};
use crate::wire::{BlockRef, PrepareOk, RequestHeaders, StartView};

fn checkpoint(op: Op) -> BlockRef {
    BlockRef { index: 1, op, checksum: 2, checksum_body: 3 }
}

/// Replica 1, a backup of view 0, with `count` ops, told that those up to `commit_max` are
/// committed.
fn backup_with_ops(count: usize, commit_max: usize) -> (Bench, Vec<Message>) {
    let log = log_of(&[0; 63]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    for prepare in &log[3..count] {
        bench.receive(prepare);
        bench.settle();
    }
    bench.receive(&commit(0, &log[commit_max - 1], 1));
    bench.settle();
    assert_eq!(bench.replica.op(), count as Op);
    (bench, log)
}

/// As [`Bench::act`], and returns the checkpoint that became durable.
fn act(bench: &mut Bench, act: impl FnOnce(&mut Replica, &mut Effects)) -> Option<Op> {
    let mut effects = Effects::default();
    act(&mut bench.replica, &mut effects);
    let durable = effects.checkpoint_durable.take();
    bench.take(&mut effects);
    durable
}

/// The executor has written the checkpoint of `op`, and the superblock says so.
fn write_checkpoint(bench: &mut Bench, op: Op) {
    let mut durable = act(bench, |replica, effects| {
        replica.on_checkpoint_written(checkpoint(op), effects);
    });
    while !bench.pending.is_empty() {
        durable = durable.or(match bench.pending.remove(0) {
            Request::Read { token, offset, size } => {
                let result = bench.disk.read(offset, size);
                act(bench, |replica, effects| replica.on_read_done(token, result, effects))
            }
            Request::Write { token, offset, sectors } => {
                bench.disk.write(offset, &sectors);
                act(bench, |replica, effects| replica.on_write_done(token, effects))
            }
        });
    }
    assert_eq!(durable, Some(op));
    assert_eq!((bench.replica.op_checkpoint(), bench.replica.op_complete_durable()), (op, op));
}

#[test]
fn two_intervals_above_the_durable_checkpoint_nothing_is_executed() {
    let (mut bench, _) = backup_with_ops(64, 64);
    assert_eq!((bench.replica.commit_min(), bench.replica.commit_max()), (63, 64));
    bench.ticks(20);
    assert_eq!(bench.replica.commit_min(), 63);
    write_checkpoint(&mut bench, 32);
    bench.ticks(20);
    assert_eq!(bench.replica.commit_min(), 64);
}

#[test]
fn a_checkpoint_is_offered_and_its_log_let_go_when_it_is_proven() {
    let (mut bench, log) = backup_with_ops(62, 61);
    assert_eq!(bench.replica.op_repair_min(), 1);
    assert_eq!(bench.replica.checkpoint_offered(), BlockRef::NONE);
    write_checkpoint(&mut bench, 32);
    assert_eq!(bench.replica.commit_max(), 61);
    assert_eq!(bench.replica.op_repair_min(), 1);
    assert_eq!(bench.replica.checkpoint_offered(), BlockRef::NONE);
    assert_eq!(bench.replica.checkpoint_claimed(), checkpoint(32));
    bench.receive(&commit(0, &log[61], 2));
    assert_eq!(bench.replica.commit_max(), 62);
    assert_eq!(bench.replica.op_repair_min(), 33);
    assert_eq!(bench.replica.checkpoint_offered(), checkpoint(32));
    let known = [0, 32, 64].map(|op| bench.replica.checkpoint_id_of(op));
    assert_eq!(known, [Some(0), Some(checkpoint(32).checkpoint_id()), None]);
    // Prepares name the checkpoint before the last.
    let named = [1, 64, 65, 96, 97].map(|op| bench.replica.checkpoint_id_for(op));
    let id = Some(checkpoint(32).checkpoint_id());
    assert_eq!(named, [Some(0), Some(0), id, id, None]);
}

#[test]
fn a_checkpoint_is_late_half_a_window_above_its_freeze() {
    // Frozen at op 32, a window of 29.
    for (count, is_late) in [(33, false), (46, false), (47, true), (61, true)] {
        let (bench, _) = backup_with_ops(count, count);
        assert_eq!(bench.replica.checkpoint_is_late(), is_late, "{count}");
    }
    let (mut bench, _) = backup_with_ops(61, 61);
    write_checkpoint(&mut bench, 32);
    assert!(!bench.replica.checkpoint_is_late());
}

#[test]
fn only_a_proven_checkpoint_of_whom_there_is_no_room_to_follow_is_taken_over() {
    let (bench, _) = backup_with_ops(3, 3);
    let wants = |bench: &Bench, op: Op, commit_max: Op, op_checkpoint: Op| {
        let checkpoint = checkpoint(op_checkpoint);
        bench.replica.wants_sync(&Offer { op, commit_max, checkpoint })
    };
    assert!(wants(&bench, 65, 62, 32));
    assert!(!wants(&bench, 64, 62, 32), "there is room in the journal");
    assert!(!wants(&bench, 65, 61, 32), "not proven");
    assert!(!wants(&bench, 65, 62, 33), "no checkpoint");
    assert!(!wants(&bench, 200, 150, 128), "not proven");
    assert!(!wants(&bench, 200, 100, 128), "not committed");
    assert!(!wants(&bench, 65, 62, 0), "none");
    assert!(wants(&bench, 200, 160, 128));
    let (ahead, _) = backup_with_ops(33, 33);
    assert!(!wants(&ahead, 200, 160, 32), "it is executed here");
    assert!(wants(&ahead, 200, 160, 64));
    let (level, _) = backup_with_ops(32, 32);
    assert_eq!(level.replica.commit_min(), 32);
    assert!(!wants(&level, 200, 160, 32));
}

#[test]
fn a_file_knows_its_two_newest_checkpoints_after_a_restart() {
    let (mut bench, log) = backup_with_ops(64, 64);
    write_checkpoint(&mut bench, 32);
    bench.receive(&commit(0, &log[63], 2));
    bench.settle();
    write_checkpoint(&mut bench, 64);
    let known = |bench: &Bench| {
        let state = bench.replica.superblock.state();
        (state.checkpoint, state.checkpoint_previous, state.op_complete)
    };
    assert_eq!(known(&bench), (checkpoint(64), checkpoint(32), 64));
    let bench = bench.restart();
    assert_eq!(known(&bench), (checkpoint(64), checkpoint(32), 64));
    assert_eq!(bench.replica.checkpoint_id_of(32), Some(checkpoint(32).checkpoint_id()));
}

/// The checkpoint of op 32 is not proven, so that who is behind may need the ops below it.
#[test]
fn what_was_lost_below_the_checkpoint_is_fetched_with_its_header() {
    let (mut bench, log) = backup_with_ops(61, 61);
    write_checkpoint(&mut bench, 32);
    assert_eq!(bench.replica.op_repair_min(), 1);
    let layout = Layout::new(GEOMETRY);
    bench.disk.write(layout.headers_offset(0) + 30 * 128, &[0xAA; 128]);
    bench.disk.write(layout.prepare_offset(30), &[0xAA; 128]);
    let mut bench = bench.restart();
    bench.settle();
    // Op 94 is in nobody's reach, so nothing is uncertain: the slot is empty.
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::Normal, 61));
    assert_eq!((bench.replica.commit_min(), bench.replica.chain_min), (32, 31));
    assert!(!bench.replica.journal.is_faulty(30));
    bench.sent.clear();
    bench.ticks(150);
    let wanted = Command::RequestHeaders(RequestHeaders { op_min: 1, op_max: 30 });
    assert!(bench.sent.iter().any(|(_, message)| message.header().command == wanted));
    let headers: Vec<u8> =
        log[..30].iter().rev().flat_map(|op| op.prepare_header().encode()).collect();
    bench.receive(&Message::new(&author(2, 0), crate::wire::Headers {}, &headers));
    assert_eq!(bench.replica.chain_min, 1);
    bench.sent.clear();
    bench.ticks(450);
    assert!(bench.count_sent("request_prepare") > 0);
    for lost in [&log[0], &log[1], &log[2], &log[29]] {
        bench.receive(lost);
        bench.settle();
    }
    assert!(bench.replica.journal.is_clean(&log[29].prepare_header().id()));
    assert_eq!(bench.replica.ops_to_repair(), 0);
    // The op a lap later, which takes its place, was never acknowledged.
    assert!(bench.replica.journal.may_nack(94, None));
}

/// Replica 1, which knows op 62 to be committed, has the headers of all, and executed three: and
/// the `start_view` that offers the checkpoint of op 32.
fn far_behind() -> (Bench, Vec<Message>, Message) {
    let log = log_of(&[0; 61]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    bench.ticks(20);
    let command = StartView { op: 62, commit_max: 62, checkpoint: checkpoint(32), nonce: 0 };
    let told = Message::new(&author(0, 0), command, &set_of(&log, 4).encode());
    bench.receive(&told);
    bench.settle();
    // A message has room for 31 headers.
    for range in [28..59, 3..28] {
        let headers = log[range].iter().rev().flat_map(|op| op.prepare_header().encode());
        let body: Vec<u8> = headers.collect();
        bench.receive(&Message::new(&author(2, 0), crate::wire::Headers {}, &body));
    }
    assert_eq!(bench.replica.chain_min, 1);
    // One that waits in memory for those below it.
    bench.receive(&log[5]);
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.commit_min()), (62, 3));
    (bench, log, told)
}

#[test]
fn a_checkpoint_is_taken_over_when_what_is_missing_was_not_to_be_had_for_long() {
    let (mut bench, log, told) = far_behind();
    bench.ticks(280);
    bench.receive(&told);
    assert!(!bench.replica.is_syncing(), "it may be had by repair");
    bench.ticks(30);
    bench.sent.clear();
    bench.ticks(10);
    assert!(bench.count_sent("request_start_view") > 0);
    bench.receive(&told);
    assert!(bench.replica.is_syncing() && bench.replica.is_loading());
    assert!(bench.replica.cache.is_empty());
    let loaded = Loaded {
        checkpoint: checkpoint(32),
        previous: BlockRef::NONE,
        header: log[31].prepare_header(),
        table: None,
    };
    bench.act(|replica, effects| replica.on_checkpoint_loaded(&loaded, effects));
    assert!(bench.replica.is_loading(), "the superblock does not name it yet");
    for _ in 0..7 {
        bench.tick();
    }
    assert_eq!(bench.replica.syncing(), Some((32, 7)));
    assert_eq!(bench.replica.checkpoint_syncing_durable(), None);
    bench.settle();
    assert_eq!(bench.replica.checkpoint_syncing_durable(), Some(checkpoint(32)));
    assert_eq!(bench.replica.checkpoint_complete_durable(), None);
    let before = bench.replica.timestamp_next;
    bench.act(|replica, effects| replica.on_checkpoint_loaded(&loaded, effects));
    let end = log[31].prepare_header().command.timestamp + 1;
    assert!(before < end && bench.replica.timestamp_next == end);
    assert!(!bench.replica.is_loading() && !bench.replica.is_syncing());
    // Up to the next freeze, as long as the file does not say that it is complete.
    assert_eq!([33, 64, 65].map(|op| bench.replica.checkpoint_admits(op)), [true, true, false]);
    bench.settle();
    assert_eq!(
        [64, 65, 95, 96].map(|op| bench.replica.checkpoint_admits(op)),
        [true, true, true, false]
    );
    assert_eq!(bench.replica.checkpoint_complete_durable(), Some(checkpoint(32)));
}

#[test]
fn a_file_has_a_checkpoint_in_full_once_it_is_written() {
    let (mut bench, _) = backup_with_ops(33, 33);
    assert_eq!(bench.replica.checkpoint_complete_durable(), None);
    write_checkpoint(&mut bench, 32);
    assert_eq!(bench.replica.checkpoint_complete_durable(), Some(checkpoint(32)));
    assert_eq!(bench.replica.checkpoint_syncing_durable(), None);
}

#[test]
fn a_primary_with_room_in_its_log_does_not_go_for_a_full_disk() {
    let (mut bench, _) = primary();
    bench.replica.set_store_full(true, false);
    for _ in 0..10 {
        bench.ticks(100);
        for other in [0, 2] {
            bench.receive(&ping(&author(other, 1), GEOMETRY, incarnation(1)));
        }
    }
    assert!(!bench.replica.abdicating);
    bench.replica.set_store_full(true, true);
    bench.ticks(250);
    assert!(bench.replica.abdicating, "it keeps in memory as much as it should");
}

#[test]
fn a_primary_whose_checkpoint_does_not_come_about_goes_when_its_log_is_full() {
    let mut bench = primary_with_ops(60);
    bench.replica.gather(&request(1000, 1)).unwrap();
    bench.settle();
    let prepare = bench.replica.journal.header(61).map(crate::wire::Header::id).unwrap();
    bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    bench.settle();
    assert!(bench.replica.log_is_full() && bench.replica.pipeline.is_empty());
    bench.ticks(280);
    assert!(!bench.replica.abdicating);
    bench.ticks(40);
    assert!(bench.replica.abdicating);
}

#[test]
fn a_blank_file_asks_for_no_blocks() {
    let mut bench = Bench::blank(1);
    bench.act(|replica, effects| replica.request_blocks(&[checkpoint(32)], effects));
    assert_eq!(bench.count_sent("request_blocks"), 0);
    let (mut bench, _) = primary();
    bench.act(|replica, effects| replica.request_blocks(&[checkpoint(32)], effects));
    assert_eq!(bench.count_sent("request_blocks"), 1);
}

#[test]
fn whoever_gets_on_however_slowly_takes_no_checkpoint_over() {
    let (mut bench, log, told) = far_behind();
    for prepare in &log[3..9] {
        bench.ticks(100);
        bench.receive(prepare);
        bench.settle();
    }
    assert_eq!(bench.replica.commit_min(), 9);
    bench.receive(&told);
    assert!(!bench.replica.is_syncing());
}

#[test]
fn to_those_who_have_no_room_a_full_disk_is_news_for_a_while() {
    let (mut bench, _) = primary();
    bench.ticks(150);
    assert!(bench.replica.is_primary());
    bench.replica.stores_full = 0b101;
    let since = bench.replica.tick;
    let leaves = [0, 1, 100, 190, 210, 350].map(|ticks| {
        bench.replica.tick = since + ticks;
        bench.replica.leaves_for_room()
    });
    assert_eq!(leaves, [true, true, true, true, false, false]);
}
