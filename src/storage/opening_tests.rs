//! Opening where slots are too large to be read as they lie: what is read, and what is found.

use super::*;
use crate::constants::HEADER_SIZE;
use crate::storage::superblock::superblock_zone;
use crate::storage::test_disk::{Completion, TestDisk};
use crate::storage::{Geometry, SuperblockState};
use crate::wire::{Author, BlockRef, ClusterId, Message, ReplicaIndex, View};
use std::ops::Range;

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
    assert!(!opened.journal.may_nack(7, Some(&messages[6].prepare_header().id())));
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

/// A disk of `geometry` on which op `op` alone was ever written, whole, with its header.
fn disk_with_one_op(geometry: Geometry, op: Op) -> (TestDisk, Message) {
    let state = SuperblockState::formatted(CLUSTER, ReplicaIndex(0), 3, 1, geometry);
    let mut disk = TestDisk::formatted(&state);
    let author =
        Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
    let parent = Header::root(CLUSTER).id().as_parent();
    let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
    let message = Message::new(&author, command, &[9; 1000]);
    let layout = Layout::new(geometry);
    let slot = geometry.slot(op);
    let mut put = |offset: u64, bytes: &[u8]| {
        let start = usize::try_from(offset).unwrap();
        disk.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    };
    let entry = u64::from(slot % HEADERS_PER_SECTOR * HEADER_SIZE);
    let header = message.prepare_header();
    put(layout.headers_offset(slot / HEADERS_PER_SECTOR) + entry, &header.encode());
    put(layout.prepare_offset(slot), &message.sectors());
    (disk, message)
}

/// Of slots: 42 fit one read, and 22 are left. Of headers: 256 sectors fit one, and 2 are left.
#[test]
fn what_does_not_divide_into_whole_reads_is_read_to_its_end_and_no_further() {
    for (message_size, journal_slots, op) in
        [(24576, 64, 43), (24576, 64, 63), (4096, 8256, 255), (4096, 8256, 8250)]
    {
        let geometry = Geometry { message_size, journal_slots, pipeline: 8, ..Geometry::default() };
        let (mut disk, message) = disk_with_one_op(geometry, op);
        let opened = disk.open().unwrap();
        let id = message.prepare_header().id();
        assert!(opened.journal.is_clean(&id), "{op} of {journal_slots}");
        assert_eq!((opened.journal.op_max(), opened.faulty_count), (op, 0));
        assert!(disk.reads_max <= READS_MAX);
    }
}

#[test]
fn an_unreadable_sector_of_headers_takes_the_entries_it_has_and_no_others() {
    let geometry =
        Geometry { message_size: 4096, journal_slots: 128, pipeline: 8, ..Geometry::default() };
    for op in [5, 31, 32, 63, 64, 100] {
        for sector in 0..4 {
            let (mut disk, message) = disk_with_one_op(geometry, op);
            let layout = Layout::new(geometry);
            disk.unreadable.insert(layout.headers_offset(sector));
            let opened = disk.open().unwrap();
            let is_hit = op / 32 == u64::from(sector);
            // The newest prepare is believed without its header, and all else is damaged there.
            assert_eq!(opened.faulty_count, if is_hit { 31 } else { 32 }, "{op} {sector}");
            assert!(opened.journal.is_clean(&message.prepare_header().id()), "{op} {sector}");
        }
    }
}

#[test]
fn unreadable_ranges_are_seen_from_where_a_part_begins() {
    assert_eq!(shifted(&[0..10, 5..20, 30..40], 0), [0..10, 5..20, 30..40]);
    assert_eq!(shifted(&[0..10, 5..20, 30..40], 10), [0..10, 20..30]);
    assert_eq!(shifted(&[0..10, 5..20, 30..40], 35), [Range { start: 0, end: 5 }]);
    assert_eq!(shifted(&[0..10, 2..10], 10), []);
}

#[test]
fn a_body_decides_nothing_at_or_below_the_checkpoint_under_its_very_header() {
    let (_, messages) = disk_with_ops(3, 2);
    let [first, second] = [0, 1].map(|index: usize| messages[index].prepare_header());
    let entry = Redundant::Header(second);
    assert!(is_decisive(&second, Some(&entry), 1));
    assert!(!is_decisive(&second, Some(&entry), 2));
    assert!(!is_decisive(&second, Some(&entry), 3));
    assert!(is_decisive(&second, Some(&Redundant::Header(first)), 3));
    assert!(is_decisive(&second, Some(&Redundant::Formatted), 3));
    assert!(is_decisive(&second, None, 3));
}

#[test]
fn copies_that_hold_another_update_are_repaired_the_damaged_ones_first() {
    let copies_of = |state: &SuperblockState| -> Vec<SuperblockCopy> {
        let zone = superblock_zone(state);
        let copies = zone.as_ref().chunks(SUPERBLOCK_COPY_SIZE as usize);
        (0..)
            .zip(copies)
            .map(|(number, copy)| SuperblockCopy::decode(copy, number).unwrap())
            .collect()
    };
    let old = copies_of(&state(3));
    let new = copies_of(&SuperblockState { view: View(1), ..state(3) });
    let damaged = || Err(CopyInvalid::Damaged);
    let copies = [Ok(old[0].clone()), damaged(), Ok(new[2].clone()), Ok(new[3].clone())];
    assert_eq!(minority(&copies, &new[2]), [1, 0]);
    let copies = [Ok(new[0].clone()), Ok(old[1].clone()), Ok(new[2].clone()), damaged()];
    assert_eq!(minority(&copies, &new[0]), [3, 1]);
    let copies = [0, 1, 2, 3].map(|number: usize| Ok(new[number].clone()));
    assert_eq!(minority(&copies, &new[0]), []);
}

/// A disk whose superblock copies are of two updates, as a crash leaves them.
#[test]
fn an_opening_writes_the_selected_superblock_over_the_others() {
    let older = superblock_zone(&state(3));
    let mut disk = TestDisk::formatted(&SuperblockState { view: View(1), ..state(3) });
    let size = SUPERBLOCK_COPY_SIZE as usize;
    disk.bytes[size..2 * size].copy_from_slice(&older.as_ref()[size..2 * size]);
    disk.bytes[3 * size + 8] ^= 1;
    let mut requests = Vec::new();
    let mut opening = Opening::new(disk.bytes.len() as u64, &mut requests);
    let mut written = Vec::new();
    let opened = loop {
        disk.submit(&mut requests);
        if let Some(opened) = opening.finish() {
            break opened;
        }
        match disk.complete().unwrap() {
            Completion::Write(token) => {
                assert_eq!(opening.state().map(|state| state.view), Some(View(1)));
                if let Token::WriteSuperblock { copy } = token {
                    written.push(copy);
                }
                opening.on_write_done(token, &mut requests).unwrap();
            }
            Completion::Read(token, result) => {
                opening.on_read_done(token, result, &mut requests).unwrap();
            }
        }
    };
    assert_eq!(written, [3, 1]);
    assert_eq!(opened.superblock.state().view, View(1));
    let zone = superblock_zone(&SuperblockState { view: View(1), ..state(3) });
    assert_eq!(disk.bytes[..zone.len()], *zone.as_ref());
}

/// The entry of the headers ring on the disk.
fn entry_on_disk(disk: &TestDisk, slot: u32) -> Option<Redundant> {
    let geometry = state(3).geometry;
    let start = Layout::new(geometry).headers_offset(0) + u64::from(slot * HEADER_SIZE);
    let entry = disk.bytes[usize::try_from(start).unwrap()..].first_chunk().unwrap();
    Redundant::decode(entry, &Place { cluster: CLUSTER, geometry, slot })
}

#[test]
fn what_an_opening_drops_is_marked_on_the_disk_and_what_it_finds_damaged_beside_it() {
    let (mut disk, messages) = disk_with_ops(3, 10);
    let headers = [messages[7].prepare_header()];
    let mut cut = state(3);
    (cut.view, cut.log_view) = (View(1), View(1));
    (cut.head.op, cut.head.headers) = (8, headers.map(Some).to_vec());
    let zone = superblock_zone(&cut);
    disk.bytes[..zone.len()].copy_from_slice(zone.as_ref());
    disk.rot(last_sector(7));
    let opened = disk.open().unwrap();
    assert_eq!(opened.faulty_count, 1);
    for op in 1..=10_u32 {
        let header = messages[op as usize - 1].prepare_header();
        let expected = match op {
            7 => Redundant::Invalidated,
            9.. => Redundant::Truncated(header.id()),
            _ => Redundant::Header(header),
        };
        assert_eq!(entry_on_disk(&disk, op), Some(expected), "{op}");
    }
    let again = disk.open().unwrap();
    assert_eq!((again.faulty_count, again.journal.op_max()), (1, 8));
    assert!(again.journal.is_faulty(7));
}

#[test]
fn a_lone_replica_writes_the_markers_of_empty_slots_anew() {
    let (mut disk, _) = disk_with_ops(1, 10);
    let sector = usize::try_from(Layout::new(state(1).geometry).headers_offset(1)).unwrap();
    let before = disk.bytes.clone();
    disk.bytes[sector..sector + SECTOR_SIZE as usize].fill(7);
    assert_eq!(entry_on_disk(&disk, 40), None);
    let opened = disk.open().unwrap();
    assert_eq!((opened.faulty_count, opened.journal.op_max()), (0, 10));
    assert_eq!(entry_on_disk(&disk, 40), Some(Redundant::Formatted));
    assert!(disk.bytes == before);
}
