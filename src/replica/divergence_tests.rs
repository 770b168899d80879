//! F5: replicas that have another state at the same op: who stops, who goes on, and what a third
//! one is offered meanwhile. And a replica whose execution waits for a block.

use super::admission_tests::primary_with_ops;
use super::checkpoint::Offer;
use super::cluster_tests::{Disk, format, open};
use super::test_bench::{Bench, GEOMETRY, commit, log_of, message, primary, request};
use super::{Effects, Now, Replica};
use crate::fatal::{Fatal, FatalKind};
use crate::stdx::Prng;
use crate::storage::SuperblockState;
use crate::wire::{BlockRef, ClusterId, Header, IncarnationTable, Op, PrepareOk, ReplicaIndex};

const OP: Op = 32;

fn checkpoint(op: Op, checksum: u32) -> BlockRef {
    BlockRef { index: 5, op, checksum, checksum_body: 9 }
}

/// Replica 0 of so many, born, whose newest checkpoint has this checksum.
fn replica(replica_count: u8, checksum: u32) -> Replica {
    let index = ReplicaIndex(0);
    let mut state = SuperblockState::formatted(ClusterId(7), index, replica_count, 100, GEOMETRY);
    let mut table = IncarnationTable { op: 1, ..IncarnationTable::default() };
    (0..replica_count).for_each(|other| {
        table.incarnations[usize::from(other)] = 100 + u64::from(other);
    });
    state.head.table = table;
    let mut disk = Disk::default();
    format(&state, &mut disk);
    let opened = open(&mut disk).unwrap();
    let mut effects = Effects::default();
    let mut replica = Replica::open(opened, Now::default(), Prng::from_seed(1), &mut effects);
    replica.checkpoints.current = checkpoint(OP, checksum);
    replica
}

/// What replica `from` says of the checkpoint of `op`.
fn claim(replica: &mut Replica, from: u8, op: Op, checksum: u32) -> Option<Fatal> {
    let mut effects = Effects::default();
    let id = checkpoint(op, checksum).checkpoint_id();
    replica.on_checkpoint_claim(ReplicaIndex(from), id, &mut effects);
    effects.fatal
}

/// Whether a replica with checksum 1 stops when the others have these, or were not heard.
fn stops(others: &[Option<u32>]) -> bool {
    let replica_count = 1 + u8::try_from(others.len()).unwrap();
    let mut replica = replica(replica_count, 1);
    let mut fatal = None;
    for (from, checksum) in (1..).zip(others) {
        if let Some(checksum) = checksum {
            fatal = claim(&mut replica, from, OP, *checksum).or(fatal);
        }
    }
    let differ = others.iter().flatten().any(|checksum| *checksum != 1);
    let agree = 1 + others.iter().flatten().filter(|checksum| **checksum == 1).count();
    let is_doubted = differ && agree <= usize::from(replica_count) / 2;
    assert_eq!(replica.diverged().is_some(), is_doubted);
    assert!(fatal.as_ref().is_none_or(|fatal| fatal.kind == FatalKind::CheckpointDiverged));
    fatal.is_some()
}

#[test]
fn who_cannot_be_of_a_majority_stops() {
    // Of two nobody knows who is right.
    assert!(!stops(&[None]) && !stops(&[Some(1)]));
    assert!(stops(&[Some(2)]));
    // Of three, one against one waits for the third.
    assert!(!stops(&[Some(2), None]));
    assert!(!stops(&[None, Some(2)]));
    assert!(!stops(&[Some(2), Some(1)]));
    assert!(stops(&[Some(2), Some(2)]));
    assert!(stops(&[Some(2), Some(3)]), "all three differ");
    // Of four, two against two is no majority, and one against two never will be.
    assert!(!stops(&[Some(2), None, None]));
    assert!(!stops(&[Some(2), Some(1), None]));
    assert!(!stops(&[Some(2), Some(1), Some(1)]));
    assert!(stops(&[Some(2), Some(2), None]));
    assert!(stops(&[Some(2), Some(1), Some(2)]));
    assert!(stops(&[Some(2), Some(2), Some(2)]));
    assert!(stops(&[Some(2), Some(3), None]));
}

/// For every cluster and all that can be said: who is of the largest majority never stops, and who
/// contradicts one always does; nobody stops for what was not said.
#[test]
fn judgements_match_what_all_together_would_decide() {
    let mut counts = [0; 2];
    for replica_count in 2_u32..=6 {
        let majority = replica_count / 2 + 1;
        for code in 0..4_u32.pow(replica_count - 1) {
            let said = |index: u32| match code / 4_u32.pow(index) % 4 {
                0 => None,
                checksum => Some(checksum),
            };
            let others: Vec<_> = (0..replica_count - 1).map(said).collect();
            let with = |checksum: u32| others.iter().filter(|it| **it == Some(checksum)).count();
            let with = |checksum: u32| u32::try_from(with(checksum)).unwrap();
            let silent = u32::try_from(others.iter().filter(|it| it.is_none()).count()).unwrap();
            let is_wrong = with(2).max(with(3)) > 0 && 1 + with(1) + silent < majority;
            let is_outvoted = with(2).max(with(3)) >= majority;
            assert!(!is_outvoted || is_wrong);
            assert_eq!(stops(&others), is_wrong, "{others:?}");
            counts[usize::from(is_wrong)] += 1;
        }
    }
    assert!(counts.iter().all(|count| *count > 100), "{counts:?}");
}

#[test]
fn the_line_names_the_op_and_both_ids() {
    let mut replica = replica(3, 0x0a0b_0c0d);
    assert_eq!(claim(&mut replica, 1, OP, 0x1111_2222), None);
    assert_eq!(replica.diverged(), Some((OP, 0b010)));
    let fatal = claim(&mut replica, 2, OP, 0x1111_2222).unwrap();
    assert_eq!(fatal.exit_status(), 25);
    for part in ["op 32", "0a0b0c0d", "11112222", "on 2 of the 3", "vsr recover --replica=0"] {
        assert!(fatal.text.contains(part), "{fatal}");
    }
    let mut replica = self::replica(2, 1);
    let fatal = claim(&mut replica, 1, OP, 2).unwrap();
    assert!(!fatal.text.contains("vsr recover"), "it cannot be had: {fatal}");
}

#[test]
fn claims_are_of_the_file_that_made_them() {
    let mut replica = replica(3, 1);
    assert_eq!(claim(&mut replica, 1, OP, 2), None);
    assert_eq!(replica.diverged(), Some((OP, 0b010)));
    // Its file is lost, and another one is in its place, which has said nothing.
    replica.table.incarnations[1] = 999;
    assert_eq!(replica.diverged(), None);
    assert_eq!(claim(&mut replica, 2, OP, 2), None, "one against one");
    // What the new one says of older ones does not bring it back.
    assert_eq!(claim(&mut replica, 1, 3 * OP, 7), None);
    assert_eq!(replica.diverged(), Some((OP, 0b100)));
    assert!(claim(&mut replica, 1, OP, 2).is_some());
}

#[test]
fn claims_of_two_checkpoints_are_kept() {
    let mut replica = replica(3, 1);
    replica.checkpoints.previous = checkpoint(OP, 1);
    replica.checkpoints.current = checkpoint(2 * OP, 1);
    // Prepares speak of the one before the newest, heartbeats of the newest.
    for _ in 0..3 {
        assert_eq!(claim(&mut replica, 1, OP, 2), None);
        assert_eq!(claim(&mut replica, 1, 2 * OP, 1), None);
    }
    assert_eq!(replica.diverged(), Some((OP, 0b010)));
    assert_eq!(claim(&mut replica, 1, 3 * OP, 1), None);
    assert_eq!(replica.diverged(), None, "it has let go of it, and so will this one");
    assert_eq!(claim(&mut replica, 1, OP, 3), None, "what is older than both says nothing");
    assert_eq!(replica.diverged(), None);
}

/// A backup that has the checkpoint of op 32, and has executed so many more that it is proven.
fn with_checkpoint() -> Bench {
    let log = log_of(&[0; 65]);
    let mut bench = Bench::with_log(1, &log[..4], 0, 4);
    for message in &log[4..40] {
        bench.receive(message);
        bench.settle();
    }
    bench.act(|replica, effects| replica.on_checkpoint_written(checkpoint(OP, 1), effects));
    bench.settle();
    for message in &log[40..] {
        bench.receive(message);
        bench.settle();
    }
    bench.receive(&commit(0, &log[62], 100));
    bench.settle();
    assert_eq!((bench.replica.op_checkpoint(), bench.replica.commit_min()), (OP, 63));
    bench
}

#[test]
fn what_is_contradicted_is_offered_to_nobody() {
    let mut bench = with_checkpoint();
    assert_eq!(bench.replica.checkpoint_offered(), checkpoint(OP, 1));
    assert_eq!(claim(&mut bench.replica, 2, OP, 2), None);
    assert_eq!(bench.replica.checkpoint_offered(), BlockRef::NONE);
    // Neither is what came of it, when it has become the one before.
    bench.replica.checkpoints.previous = bench.replica.checkpoints.current;
    bench.replica.checkpoints.current = checkpoint(2 * OP, 5);
    assert_eq!(bench.replica.checkpoint_offered(), BlockRef::NONE);
}

#[test]
fn the_checkpoint_before_is_offered_until_the_one_after_the_newest_is_frozen() {
    let mut bench = with_checkpoint();
    bench.receive(&commit(0, &log_of(&[0; 65])[64], 101));
    bench.settle();
    bench.act(|replica, effects| replica.on_checkpoint_written(checkpoint(2 * OP, 5), effects));
    bench.settle();
    assert_eq!((bench.replica.op_checkpoint(), bench.replica.commit_min()), (2 * OP, 65));
    let before = checkpoint(OP, 1);
    for (commit_min, offered) in [(65, before), (95, before), (96, BlockRef::NONE)] {
        bench.replica.commit_min = commit_min;
        assert_eq!(bench.replica.checkpoint_offered(), offered, "{commit_min}");
    }
    bench.replica.commit_min = 65;
    assert_eq!(claim(&mut bench.replica, 2, OP, 2), None);
    assert_eq!(bench.replica.checkpoint_offered(), BlockRef::NONE, "it is in doubt itself");
}

/// The first op that names it is 65.
#[test]
fn a_primary_seals_up_to_what_names_a_checkpoint_in_doubt() {
    let mut bench = primary_with_ops(60);
    bench.act(|replica, effects| replica.on_checkpoint_written(checkpoint(OP, 1), effects));
    bench.settle();
    let seal = |bench: &mut Bench| {
        bench.replica.gather(&request(u128::from(bench.replica.op()), 1)).unwrap();
        bench.settle();
        let op = bench.replica.op();
        let prepare = bench.replica.journal.header(op).map(Header::id).unwrap();
        // It names none: of one that has taken over a newer one it would be so.
        bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
        bench.settle();
        (op, bench.replica.commit_max())
    };
    for op in 61..=2 * OP {
        assert_eq!(seal(&mut bench), (op, op));
    }
    assert!(bench.replica.primary_may_seal());
    assert_eq!(claim(&mut bench.replica, 2, OP, 2), None);
    assert!(!bench.replica.primary_may_seal());
    assert_eq!(claim(&mut bench.replica, 2, OP, 1), None);
    assert!(bench.replica.primary_may_seal());
    assert_eq!(seal(&mut bench), (65, 65), "who names none has said nothing of it");
}

#[test]
fn a_primary_prepares_nothing_that_names_what_is_in_doubt() {
    let mut replica = replica(3, 1);
    // The log may go on to the next checkpoint, and no further.
    assert!(!replica.names_what_is_in_doubt(2 * OP + 1));
    assert_eq!(claim(&mut replica, 1, OP, 2), None);
    assert!(!replica.names_what_is_in_doubt(2 * OP));
    assert!(replica.names_what_is_in_doubt(2 * OP + 1));
    assert!(replica.names_what_is_in_doubt(3 * OP));
    // The third is heard: there is a majority, and the other one has to go.
    assert_eq!(claim(&mut replica, 2, OP, 1), None);
    assert!(!replica.names_what_is_in_doubt(2 * OP + 1));
    assert_eq!(replica.diverged(), None);
    // Of four, two are enough to go on, and no majority.
    let mut replica = self::replica(4, 1);
    assert_eq!(claim(&mut replica, 1, OP, 2), None);
    assert!(replica.names_what_is_in_doubt(2 * OP + 1));
    assert_eq!(claim(&mut replica, 2, OP, 1), None);
    assert!(!replica.names_what_is_in_doubt(2 * OP + 1));
    assert_eq!(replica.diverged(), Some((OP, 0b0010)));
}

#[test]
fn a_checkpoint_on_which_others_differ_is_not_taken_over() {
    let mut bench = with_checkpoint();
    let start = crate::wire::StartView {
        op: 200,
        commit_max: 199,
        checkpoint: checkpoint(4 * OP, 6),
        ..crate::wire::StartView::default()
    };
    assert!(bench.replica.wants_sync(&Offer::from(&start)));
    assert_eq!(claim(&mut bench.replica, 0, 4 * OP, 6), None);
    assert!(bench.replica.wants_sync(&Offer::from(&start)));
    assert_eq!(claim(&mut bench.replica, 2, 4 * OP, 7), None);
    assert!(!bench.replica.wants_sync(&Offer::from(&start)));
}

#[test]
fn a_claim_that_changes_is_judged_anew() {
    let mut replica = replica(2, 1);
    assert_eq!(claim(&mut replica, 1, OP, 1), None);
    assert_eq!(
        claim(&mut replica, 1, OP, 2).map(|fatal| fatal.kind),
        Some(FatalKind::CheckpointDiverged)
    );
}

#[test]
fn a_checkpoint_that_a_majority_has_is_taken_over_though_one_differs() {
    let mut replica = replica(5, 1);
    for (from, checksum) in [(1, 6), (2, 6), (4, 7)] {
        claim(&mut replica, from, 4 * OP, checksum);
    }
    let start = crate::wire::StartView {
        op: 200,
        commit_max: 199,
        checkpoint: checkpoint(4 * OP, 6),
        ..crate::wire::StartView::default()
    };
    assert!(!replica.wants_sync(&Offer::from(&start)), "two of five");
    claim(&mut replica, 3, 4 * OP, 6);
    assert!(replica.wants_sync(&Offer::from(&start)));
}

#[test]
fn a_primary_waits_for_a_block_from_when_it_is_missing() {
    let (mut bench, _) = primary();
    bench.ticks(400);
    bench.replica.set_awaits_block(true);
    bench.ticks(250);
    assert!(!bench.replica.abdicating);
    bench.ticks(60);
    assert!(bench.replica.abdicating);
}

#[test]
fn a_primary_that_waits_for_a_block_for_long_lets_another_one_lead() {
    let (mut bench, _) = primary();
    bench.replica.set_awaits_block(true);
    bench.ticks(250);
    assert!(!bench.replica.abdicating);
    bench.ticks(60);
    assert!(bench.replica.abdicating, "it has waited for three seconds");
    // What is acknowledged meanwhile does not keep it.
    bench.replica.primary_progressed();
    assert!(bench.replica.abdicating);
    // The block is there: it stays, if nobody else leads yet.
    bench.replica.set_awaits_block(false);
    bench.ticks(10);
    assert!(!bench.replica.abdicating);
}

#[test]
fn a_backup_that_waits_for_a_block_for_long_asks_for_a_newer_checkpoint() {
    let mut bench = with_checkpoint();
    bench.replica.set_awaits_block(true);
    bench.drain_sent("ping");
    let start = crate::wire::StartView {
        op: 96,
        commit_max: 93,
        checkpoint: checkpoint(2 * OP, 6),
        ..crate::wire::StartView::default()
    };
    let newer = crate::wire::StartView { commit_max: 95, ..start };
    assert!(!bench.replica.wants_sync(&Offer::from(&newer)), "there is room for its log");
    for tick in 0..320 {
        // The primary is heard, or it would be voted out.
        bench.replica.backup_heard_primary();
        bench.ticks(1);
        if tick == 200 {
            assert_eq!(bench.count_sent("request_start_view"), 0);
        }
    }
    assert!(bench.count_sent("request_start_view") > 0);
    assert!(!bench.replica.wants_sync(&Offer::from(&start)), "it is not proven");
    assert!(bench.replica.wants_sync(&Offer::from(&newer)));
    bench.replica.set_awaits_block(false);
    bench.ticks(10);
    assert!(!bench.replica.wants_sync(&Offer::from(&newer)));
}
