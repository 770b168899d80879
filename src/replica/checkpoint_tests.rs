//! F5: checkpoints as one replica sees them: what it executes, keeps and offers with the one that
//! it has, and which of another's it takes over. Three replicas, 64 slots, a pipeline of 3: a
//! checkpoint every 32 ops, and that of op 32 is proven by op 62.

use super::test_bench::{Bench, commit, log_of};
use super::*;
use crate::storage::Request;
use crate::wire::{BlockRef, StartView};

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
        bench.replica.wants_sync(&StartView { op, commit_max, checkpoint, nonce: 0 })
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
