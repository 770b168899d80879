//! Opening where slots are too large to be read as they lie: what is read, and what is found.

use super::*;
use crate::constants::HEADER_SIZE;
use crate::storage::superblock::superblock_zone;
use crate::storage::test_disk::{Completion, TestDisk};
use crate::storage::{Geometry, SuperblockState};
use crate::wire::{Author, BlockRef, ClusterId, Message, ReplicaIndex, View};

const CLUSTER: ClusterId = ClusterId(6);
const BODY_SIZE: usize = 100_000;

fn state(replica_count: u8) -> SuperblockState {
    let geometry =
        Geometry { message_size: 128 << 10, journal_slots: 64, pipeline: 8, ..Geometry::default() };
    SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 1, geometry)
}

/// A disk with ops 1 to `count`, all clean.
fn disk_with_ops(replica_count: u8, count: Op) -> (TestDisk, Vec<Message>) {
    let mut disk = TestDisk::formatted(&state(replica_count));
    let mut journal = disk.open().unwrap().journal;
    let mut messages = Vec::new();
    let mut parent = Header::root(CLUSTER).id().as_parent();
    for op in 1..=count {
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
        let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
        let message = Message::new(&author, command, &[9; BODY_SIZE]);
        parent = message.prepare_header().id().as_parent();
        let (mut requests, mut durable) = (Vec::new(), Vec::new());
        journal.write_prepare(&message, &mut requests);
        while durable.is_empty() {
            journal.flush_headers(&mut requests);
            disk.submit(&mut requests);
            match disk.complete().unwrap() {
                Completion::Write(token) => journal.on_write_done(token, &mut durable),
                Completion::Read(..) => panic!("nothing is read"),
            }
        }
        messages.push(message);
    }
    (disk, messages)
}

/// Where the last sector of the prepare in `slot` lies.
fn last_sector(slot: u32) -> u64 {
    let size = HEADER_SIZE + u32::try_from(BODY_SIZE).unwrap();
    Layout::new(state(3).geometry).prepare_offset(slot)
        + u64::from(size.next_multiple_of(SECTOR_SIZE) - SECTOR_SIZE)
}

#[test]
fn whole_bodies_above_the_checkpoint_are_verified() {
    let (mut disk, messages) = disk_with_ops(3, 10);
    let opened = disk.open().unwrap();
    assert_eq!((opened.faulty_count, opened.journal.op_max()), (0, 10));
    let id = messages[6].prepare_header().id();
    assert!(opened.journal.is_clean(&id));

    disk.rot(last_sector(7));
    let opened = disk.open().unwrap();
    assert_eq!(opened.faulty_count, 1);
    assert!(opened.journal.is_faulty(7) && !opened.journal.has_body(&id));
    assert!(!opened.journal.may_nack(7, Some(&messages[6].prepare_header())));
}

#[test]
fn a_lone_replica_names_what_is_damaged() {
    let (mut disk, _) = disk_with_ops(1, 10);
    assert_eq!(disk.open().unwrap().journal.op_max(), 10);
    disk.rot(last_sector(7));
    let fatal = disk.open().unwrap_err();
    assert_eq!(fatal.kind, FatalKind::JournalLost);
    assert!(fatal.text.contains("op 7 (slot 7)"), "{fatal}");
}

#[test]
fn bodies_up_to_the_checkpoint_are_not_read() {
    let (mut disk, messages) = disk_with_ops(3, 40);
    let checkpointed = SuperblockState {
        checkpoint: BlockRef { op: 32, ..BlockRef::NONE },
        op_complete: 32,
        commit_max: 32,
        ..state(3)
    };
    let zone = superblock_zone(&checkpointed);
    disk.bytes[..zone.len()].copy_from_slice(zone.as_ref());
    disk.rot(last_sector(7));
    let mut opened = disk.open().unwrap();
    assert_eq!((opened.faulty_count, opened.journal.op_max()), (0, 40));
    let id = messages[6].prepare_header().id();
    assert!(opened.journal.is_clean(&id));

    // Whoever wants it finds out.
    let mut requests = Vec::new();
    let read = opened.journal.read_prepare(&id, &mut requests).unwrap();
    let Some(Request::Read { offset, size, .. }) = requests.pop() else { panic!() };
    let (found, message) = opened.journal.on_read_done(read, disk.read(offset, size));
    assert_eq!(found, id);
    assert!(message.is_none() && opened.journal.is_faulty(7));
}

#[test]
fn a_body_without_its_very_header_is_verified_below_the_checkpoint_too() {
    let (mut disk, messages) = disk_with_ops(3, 40);
    let checkpointed = SuperblockState {
        checkpoint: BlockRef { op: 32, ..BlockRef::NONE },
        op_complete: 32,
        commit_max: 32,
        ..state(3)
    };
    let zone = superblock_zone(&checkpointed);
    disk.bytes[..zone.len()].copy_from_slice(zone.as_ref());
    let entry = Layout::new(checkpointed.geometry).headers_offset(0) + 7 * u64::from(HEADER_SIZE);
    let entry = usize::try_from(entry).unwrap();
    let formatted = Redundant::Formatted.encode(CLUSTER, 7);
    disk.bytes[entry..entry + formatted.len()].copy_from_slice(&formatted);
    let id = messages[6].prepare_header().id();
    assert!(disk.open().unwrap().journal.is_clean(&id));
    disk.bytes[entry..entry + formatted.len()].copy_from_slice(&formatted);
    disk.rot(last_sector(7));
    let opened = disk.open().unwrap();
    assert!(!opened.journal.is_clean(&id) && !opened.journal.has_body(&id));
}
