//! Tests of attempts that are suspended, and of checkpoints that are loaded.

use super::*;
use crate::storage::block::StoredBlock;
use crate::storage::test_disk::{Completion, TestDisk};

/// Op 2, whose first attempt may be suspended after so many accesses: then `on_suspended` is told
/// what was answered so far, and it is committed again. Returns all answers.
fn commit_suspended(
    accesses: u64,
    batch: &[Asked],
    on_suspended: impl FnOnce(&mut Fixture, &[ClientReply]),
) -> (Fixture, Vec<ClientReply>) {
    let mut fixture = Fixture::with_sessions();
    fixture.executor.store.suspend_after(accesses);
    let prepare = prepare(2, fixture.timestamp, batch);
    let mut replies = Vec::new();
    if fixture.executor.commit(&prepare, &mut replies) == CommitOutcome::Suspended {
        on_suspended(&mut fixture, &replies);
        assert_eq!(fixture.executor.commit(&prepare, &mut replies), CommitOutcome::Done);
    }
    fixture.executor.store = disarmed(std::mem::take(&mut fixture.executor.store));
    (fixture, replies)
}

#[test]
fn reply_of_an_op_that_is_suspended_is_kept_until_all_of_it_is_executed() {
    let batch = [count(A, 1, 1, "before"), count(B, 1, 1, "behind")];
    let mut kept = 0;
    for accesses in 0..30 {
        let (mut fixture, _) = commit_suspended(accesses, &batch, |fixture, replies| {
            if replies.len() == 1 {
                let admission = fixture.admit(&batch[0]);
                assert!(matches!(admission, Admission::Ignore(_)), "{admission:?}");
                kept += 1;
            }
        });
        for asked in &batch {
            assert!(matches!(fixture.admit(asked), Admission::Reply(_)));
        }
    }
    assert!(kept > 0, "some attempt stopped between the two");
}

#[test]
fn suspension_abandons_the_attempt_whatever_it_returned() {
    for body in [command(b'c', 1), command(b'w', 1)] {
        let asked = Asked { body, ..count(A, 1, 1, "") };
        let batch = [count(B, 1, 1, "before"), asked, count(B, 1, 2, "behind")];
        let mut undisturbed = Fixture::with_sessions();
        let expected = undisturbed.commit(&batch);
        assert_eq!(expected.len(), 3);
        let mut suspensions = 0;
        for accesses in 0..30 {
            let (fixture, replies) = commit_suspended(accesses, &batch, |fixture, replies| {
                suspensions += 1;
                assert!(fixture.executor.store.is_settled());
                assert_eq!(fixture.executor.op(), 1);
                assert!(replies.len() < 3);
            });
            assert_eq!(replies, expected);
            assert_eq!(fixture.executor.digest(), undisturbed.executor.digest());
        }
        assert!(suspensions >= 9, "{suspensions}");
    }
}

/// What it does to the table and to the session of who asked for it is one attempt.
#[test]
fn a_recovery_that_is_suspended_leaves_nothing_behind() {
    let table = IncarnationTable { op: 1, incarnations: [5, 6, 7, 0, 0, 0], ..Default::default() };
    let recover = Recover { replica: ReplicaIndex(1), incarnation: 8, table };
    let body = recover.encode().to_vec();
    let asked = Asked { operation: Operation::Recover, body, ..count(A, 1, 1, "") };
    let mut undisturbed = Fixture::with_sessions();
    let expected = undisturbed.commit(std::slice::from_ref(&asked));
    let kept = undisturbed.executor.table_kept().unwrap().expect("it is in the state");
    assert_eq!(kept.incarnations[1], 8);
    let mut suspensions = 0;
    for accesses in 0..10 {
        let batch = std::slice::from_ref(&asked);
        let (fixture, replies) = commit_suspended(accesses, batch, |fixture, _| {
            suspensions += 1;
            assert!(fixture.executor.table_kept().unwrap().is_none());
        });
        assert_eq!(replies, expected);
        assert_eq!(fixture.executor.digest(), undisturbed.executor.digest());
    }
    assert!(suspensions >= 3, "{suspensions}");
}

#[test]
fn a_query_that_is_given_up_is_left_out_and_nothing_else() {
    let batch = [count(A, 1, 1, "before"), query("before"), count(B, 1, 1, "behind")];
    let mut undisturbed = Fixture::with_sessions();
    let expected = undisturbed.commit(&batch);
    let mut counts = [0; 2];
    for accesses in 0..30 {
        let mut fixture = Fixture::with_sessions();
        fixture.executor.store.suspend_after(accesses);
        let prepare = prepare(2, fixture.timestamp, &batch);
        let mut replies = Vec::new();
        if fixture.executor.commit(&prepare, &mut replies) == CommitOutcome::Done {
            break;
        }
        let is_query = replies.len() == 1;
        assert_eq!(fixture.executor.give_up_query(&prepare), is_query);
        assert_eq!(fixture.executor.commit(&prepare, &mut replies), CommitOutcome::Done);
        fixture.executor.store = disarmed(std::mem::take(&mut fixture.executor.store));
        if is_query {
            assert_eq!(replies, [expected[0].clone(), expected[2].clone()]);
        } else {
            assert_eq!(replies, expected, "a write is never left out");
        }
        assert_eq!(fixture.executor.digest(), undisturbed.executor.digest());
        // The next one is answered.
        assert_eq!(fixture.commit(&[query("before")]).len(), 1);
        counts[usize::from(is_query)] += 1;
    }
    assert!(counts[0] > 3 && counts[1] > 0, "{counts:?}");
}

#[test]
fn suspension_that_the_store_knows_nothing_of_is_a_code() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    let asked = Asked { body: command(b's', 0), ..count(A, 1, 1, "") };
    assert_eq!(fixture.reply(asked).result, RESULT_STOP_INVALID);
    assert_eq!(content(&fixture), digest);
}

/// An executor over a disk, and the checkpoint of op 32 on it.
fn with_checkpoint() -> (Executor<Probe>, TestDisk, BlockRef) {
    let (mut executor, mut disk) = over(TestDisk::new(1));
    let mut timestamp = 1000;
    // Long keys, so that there are many blocks and not all of them are in memory.
    let mut request = 0;
    for op in 1..=40 {
        let mut asked = vec![register(A)];
        if op > 1 {
            asked = (0..4)
                .map(|_| {
                    request += 1;
                    let key = format!("{:0>900}", request * 7919 % 1000);
                    count(A, 1, request, &key)
                })
                .collect();
        }
        let prepare = prepare(op, timestamp, &asked);
        timestamp += 100;
        while executor.commit(&prepare, &mut Vec::new()) == CommitOutcome::Suspended {
            drive(&mut executor, &mut disk, None);
        }
        for _ in 0..20 {
            drive(&mut executor, &mut disk, None);
        }
    }
    assert!(executor.store().counters().cache_misses > 0);
    loop {
        if let Some(checkpoint) = executor.store_mut().take_written_checkpoint() {
            executor.store_mut().on_checkpoint_durable();
            assert_eq!(checkpoint.op, 32);
            while !disk.pending.is_empty() {
                drive(&mut executor, &mut disk, None);
            }
            return (executor, disk, checkpoint);
        }
        drive(&mut executor, &mut disk, None);
    }
}

fn over(mut disk: TestDisk) -> (Executor<Probe>, TestDisk) {
    let grid_offset = Layout::new(GEOMETRY).grid_offset();
    disk.bytes.resize(disk.bytes.len().max(usize::try_from(grid_offset).unwrap()), 0);
    let options = store::Options {
        cluster: ClusterId(1),
        geometry: GEOMETRY,
        cache_size: 12 * 4096,
        file_size: disk.bytes.len() as u64,
        size_limit: 1 << 30,
    };
    (Executor::open(Probe, &options), disk)
}

/// One turn of the store; what is missing comes from `peer`.
fn drive(executor: &mut Executor<Probe>, disk: &mut TestDisk, peer: Option<&TestDisk>) {
    let (mut requests, store) = (Vec::new(), executor.store_mut());
    store.take_reads(&mut requests);
    store.write_behind(1 << 20, false, &mut requests);
    disk.submit(&mut requests);
    match disk.complete() {
        None => {}
        Some(Completion::Write(token)) => store.on_write_done(token),
        Some(Completion::Read(token, result)) => store.on_read_done(token, result),
    }
    for reference in store.missing().collect::<Vec<_>>() {
        let peer = peer.expect("a block is bad");
        let size = u64::from(GEOMETRY.block_size);
        let offset = Layout::new(GEOMETRY).grid_offset() + u64::from(reference.index) * size;
        let result = peer.read(offset, GEOMETRY.block_size);
        store.on_block(&StoredBlock::decode_read(ClusterId(1), &reference, result).unwrap());
    }
}

/// From the own disk, and from that of another, whose blocks all come over.
#[test]
fn a_checkpoint_brings_the_state_of_its_op_back() {
    let (_, disk, checkpoint) = with_checkpoint();
    for op_complete in [32, 0] {
        let is_own = op_complete == 32;
        let own = TestDisk { bytes: disk.bytes.clone(), ..TestDisk::new(2) };
        let (mut executor, mut own) = over(if is_own { own } else { TestDisk::new(2) });
        executor.load(&CheckpointLoad { checkpoint, op_complete });
        let loaded = loop {
            if let Some(loaded) = executor.take_loaded() {
                break loaded;
            }
            drive(&mut executor, &mut own, Some(&disk));
        };
        assert_eq!((loaded.checkpoint, loaded.header.op()), (checkpoint, 32));
        assert_eq!((executor.op(), executor.sessions_count()), (32, 1));
        assert!(executor.has_session(A));
        assert!(executor.take_loaded().is_none(), "once");
        if !is_own {
            while !own.pending.is_empty() || executor.store().counters().blocks_written == 0 {
                drive(&mut executor, &mut own, None);
            }
            for _ in 0..100 {
                drive(&mut executor, &mut own, None);
            }
            let counters = executor.store().counters();
            assert!(counters.blocks_written > 20, "{counters:?}");
            assert_eq!(
                (counters.blocks_bad, counters.blocks_repaired),
                (0, 0),
                "only not here yet"
            );
        }
        // What comes after it is as it was.
        let last = count(A, 1, 4 * 31 + 1, "");
        let prepare = prepare(33, 9000, &[Asked { body: b"c-new".to_vec(), ..last }]);
        let mut replies = Vec::new();
        while executor.commit(&prepare, &mut replies) == CommitOutcome::Suspended {
            drive(&mut executor, &mut own, None);
        }
        assert!(matches!(replies.as_slice(), [ClientReply::Reply(reply)] if reply.request == 125));
    }
}
