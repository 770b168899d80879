//! Format and open: what is written is what is found, and what is not a data file is named.

use super::*;
use crate::fatal::{Fatal, FatalKind};
use crate::stdx::Prng;
use crate::storage::test_disk::{Completion, TestDisk};
use crate::storage::{Geometry, Layout, Opened};
use crate::wire::ReplicaIndex;

fn state(replica_count: u8, geometry: Geometry) -> SuperblockState {
    SuperblockState::formatted(ClusterId(7), ReplicaIndex(0), replica_count, 99, geometry)
}

fn geometry(message_size: u32, journal_slots: u32) -> Geometry {
    Geometry { message_size, journal_slots, pipeline: 4, ..Geometry::default() }
}

fn format(state: &SuperblockState) -> TestDisk {
    let mut disk = TestDisk::new(1);
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    let (_, total) = format.progress();
    // What nobody writes keeps this, so that every byte is seen to be written.
    disk.bytes = vec![0xaa; usize::try_from(total).unwrap()];
    while !format.is_done() {
        format.advance(&mut requests);
        disk.submit(&mut requests);
        assert!(disk.pending.len() <= 8);
        match disk.complete().unwrap() {
            Completion::Write(token) => format.on_write_done(token),
            Completion::Read(..) => panic!("format does not read"),
        }
    }
    assert!(disk.pending.is_empty());
    assert_eq!(format.progress(), (total, total));
    disk
}

fn assert_empty(opened: &Opened, state: &SuperblockState) {
    assert_eq!(opened.superblock.state(), state);
    assert_eq!(opened.superblock.sequence(), 1);
    assert_eq!(opened.faulty_count, 0);
    assert_eq!(opened.cut_torn, []);
    let root = Header::root(state.cluster);
    let journal = &opened.journal;
    assert_eq!(journal.op_max(), 0);
    assert_eq!(journal.header(0), Some(&root));
    assert!(journal.is_clean(&root.id()));
    assert!(journal.has_body(&root.id()));
    for op in 1..=journal.op_prepare_max() {
        assert_eq!(journal.header(op), None);
        assert!(!journal.is_dirty(op) && !journal.is_faulty(op));
        assert!(journal.may_nack(op, None));
    }
}

#[test]
fn a_formatted_file_opens_empty_in_all_geometries() {
    for (message_size, slots) in
        [(4096, 64), (16384, 64), (65536, 128), (69632, 64), (1 << 20, 64), (3 << 20, 64)]
    {
        for replica_count in [1, 3] {
            let state = state(replica_count, geometry(message_size, slots));
            let mut disk = format(&state);
            assert_eq!(disk.bytes.len() as u64, Layout::new(state.geometry).grid_offset());
            assert!(!disk.bytes.chunks_exact(4096).any(|sector| sector == [0xaa; 4096]));
            let opened = disk.open().unwrap();
            assert_empty(&opened, &state);
            assert!(disk.reads_max <= 32);
        }
    }
}

#[test]
fn a_prepared_file_has_all_its_room_and_is_no_data_file_until_it_is_complete() {
    let state = state(3, geometry(4096, 64));
    let total = Layout::new(state.geometry).grid_offset();
    let mut disk = TestDisk::new(3);
    disk.bytes = vec![0xaa; usize::try_from(total).unwrap()];
    let mut format = Format::prepared(state.cluster, state.geometry);
    let mut requests = Vec::new();
    format.advance(&mut requests);
    disk.submit(&mut requests);
    while !format.is_prepared() {
        assert!(!format.is_done());
        let Some(Completion::Write(token)) = disk.complete() else { panic!("writes alone") };
        format.on_write_done(token);
        format.advance(&mut requests);
        disk.submit(&mut requests);
    }
    assert!(disk.pending.is_empty(), "it waits for what the superblock is to say");
    assert!(!disk.bytes.chunks_exact(4096).any(|sector| sector == [0xaa; 4096]));
    let fatal = reopen(&disk).unwrap_err();
    assert_eq!(fatal.kind, FatalKind::NotADataFile);
    assert!(fatal.text.contains("vsr recover") && fatal.text.contains("remove it"), "{fatal}");

    format.complete(&state);
    format.advance(&mut requests);
    assert_eq!(requests.len(), 1);
    assert!(format.is_prepared() && !format.is_done());
    disk.submit(&mut requests);
    let Some(Completion::Write(token)) = disk.complete() else { panic!("the superblock") };
    format.on_write_done(token);
    format.advance(&mut requests);
    assert!(requests.is_empty() && format.is_done());
    assert_eq!(format.progress(), (total, total));
    assert_eq!(disk.bytes.len() as u64, total);
    assert_empty(&reopen(&disk).unwrap(), &state);
}

#[test]
fn an_unfinished_format_is_not_a_data_file() {
    let state = state(3, geometry(4096, 64));
    let mut disk = TestDisk::new(3);
    let mut format = Format::new(&state);
    let mut requests = Vec::new();
    format.advance(&mut requests);
    while format.progress().0 + ZONE_SIZE < format.progress().1 {
        disk.submit(&mut requests);
        match disk.complete().unwrap() {
            Completion::Write(token) => format.on_write_done(token),
            Completion::Read(..) => panic!("format does not read"),
        }
        let fatal = reopen(&disk).unwrap_err();
        assert_eq!(fatal.kind, FatalKind::NotADataFile, "{fatal}");
        format.advance(&mut requests);
    }
    disk.submit(&mut requests);
    let token = Token::Scan { id: format.write_next - 1 };
    assert!(matches!(disk.complete(), Some(Completion::Write(done)) if done == token));
    format.on_write_done(token);
    assert!(format.is_done());
    assert_empty(&reopen(&disk).unwrap(), &state);
}

fn reopen(disk: &TestDisk) -> Result<Opened, Fatal> {
    let mut copy = TestDisk::new(5);
    copy.bytes.clone_from(&disk.bytes);
    copy.open()
}

#[test]
fn what_is_not_a_data_file_is_named() {
    let mut disk = TestDisk::new(4);
    for size in [0, 1 << 20] {
        disk.bytes = vec![0; size];
        let fatal = disk.open().unwrap_err();
        assert_eq!(fatal.kind, FatalKind::NotADataFile);
        assert!(fatal.text.contains("interrupted"), "{fatal}");
    }
    // Zeros are also what stands for sectors that cannot be read.
    for copy in 0..4 {
        disk.rot(copy * u64::from(SUPERBLOCK_COPY_SIZE));
    }
    assert!(!disk.open().unwrap_err().text.contains("interrupted"));
    disk.unreadable.clear();
    Prng::from_seed(4).fill(&mut disk.bytes);
    assert_eq!(disk.open().unwrap_err().kind, FatalKind::NotADataFile);

    let mut disk = format(&state(3, geometry(4096, 64)));
    let size = disk.bytes.len();
    disk.bytes.truncate(size - 4096);
    let fatal = disk.open().unwrap_err();
    assert_eq!(fatal.kind, FatalKind::Truncated);
    assert!(fatal.text.contains(&size.to_string()), "{fatal}");

    let mut disk = format(&state(3, geometry(4096, 64)));
    for copy in 0..3 {
        disk.bytes[copy * SUPERBLOCK_COPY_SIZE as usize + 40] ^= 1;
    }
    assert_eq!(disk.open().unwrap_err().kind, FatalKind::SuperblockLost);
    disk.bytes[3 * SUPERBLOCK_COPY_SIZE as usize + 40] ^= 1;
    assert_eq!(disk.open().unwrap_err().kind, FatalKind::SuperblockLost);
}

#[test]
fn rot_in_an_empty_journal_is_seen() {
    let state3 = state(3, geometry(4096, 64));
    let layout = Layout::new(state3.geometry);
    let mut disk = format(&state3);
    disk.rot(layout.headers_offset(1));
    let opened = disk.open().unwrap();
    assert!((1..=32).contains(&opened.faulty_count));
    assert!((1..=64).any(|op| opened.journal.is_faulty(op)));

    // Alone, an empty slot under a rotten header sector is empty, and the sector is repaired.
    let mut disk = format(&state(1, geometry(4096, 64)));
    disk.rot(layout.headers_offset(1));
    assert_empty(&disk.open().unwrap(), &state(1, geometry(4096, 64)));
    assert!(disk.unreadable.is_empty());
    assert_empty(&disk.open().unwrap(), &state(1, geometry(4096, 64)));
}

#[test]
fn the_root_is_there_even_if_its_slot_is_damaged() {
    let state = state(3, geometry(4096, 64));
    let mut disk = format(&state);
    disk.rot(Layout::new(state.geometry).prepare_offset(0));
    let opened = disk.open().unwrap();
    let root = Header::root(state.cluster);
    assert_eq!(opened.journal.header(0), Some(&root));
    assert!(opened.journal.is_clean(&root.id()));
    assert_eq!(opened.cut_torn, [64]);
}

#[test]
fn a_format_is_prepared_when_nothing_but_the_superblock_is_left_to_write() {
    // More than is in flight at a time.
    let mut format = Format::prepared(ClusterId(7), geometry(1 << 20, 64));
    let (_, total) = format.progress();
    let mut requests = Vec::new();
    assert!(!format.is_prepared());
    let mut rounds = 0;
    loop {
        format.advance(&mut requests);
        if requests.is_empty() {
            break;
        }
        for request in requests.drain(..) {
            let Request::Write { token, .. } = request else { panic!("format does not read") };
            format.on_write_done(token);
        }
        rounds += 1;
        assert_eq!(format.is_prepared(), format.progress().0 == total - ZONE_SIZE, "{rounds}");
    }
    assert!(format.is_prepared() && rounds > 2);
}
