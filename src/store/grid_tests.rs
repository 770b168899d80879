//! F3, tests only: what the grid knows of reads, of blocks that are bad, of repairs and of growing.

use super::*;
use crate::storage::block::{BlockKind, block_seal};

const CLUSTER: ClusterId = ClusterId(5);
const BLOCK_SIZE: u32 = 4096;

/// Of `count` blocks, with room for as many as are said.
fn grid(count: u64, count_limit: u64) -> Grid {
    let size = u64::from(BLOCK_SIZE);
    Grid::new(CLUSTER, BLOCK_SIZE, 0, count * size, count_limit * size)
}

fn block(index: u32, op: Op) -> StoredBlock {
    let (reference, buffer) = block_seal(CLUSTER, index, op, BlockKind::Value, b"body", BLOCK_SIZE);
    let result = ReadResult { buffer, unreadable: Vec::new() };
    StoredBlock::decode_read(CLUSTER, &reference, result).unwrap()
}

fn read(grid: &mut Grid, block: &StoredBlock, reader: Reader) -> u32 {
    let mut requests = Vec::new();
    assert!(grid.read(&block.reference, reader, &mut requests));
    let [Request::Read { token: Token::ReadBlock { id }, .. }] = requests.as_slice() else {
        panic!("a read")
    };
    *id
}

fn write_repairs(grid: &mut Grid, budget: u32) -> Vec<u32> {
    let mut requests = Vec::new();
    let mut left = budget;
    grid.write_repairs(&mut left, &mut requests);
    let ids = requests.iter().map(|request| match request {
        Request::Write { token: Token::WriteBlock { id }, .. } => *id,
        other => panic!("{other:?}"),
    });
    ids.collect()
}

#[test]
fn a_reader_waits_for_a_block_until_it_has_come() {
    let mut grid = grid(8, 8);
    let (one, two) = (block(1, 4), block(2, 4));
    assert!(!grid.is_reading_or_missing());
    let id = read(&mut grid, &one, Reader::Page);
    assert!(grid.is_reading(&one.reference, Reader::Page));
    assert!(!grid.is_reading(&one.reference, Reader::Again));
    assert!(!grid.is_reading(&two.reference, Reader::Page));
    assert!(grid.is_reading_or_missing());
    let nothing = ReadResult { buffer: AlignedBuffer::zeroed(BLOCK_SIZE), unreadable: Vec::new() };
    let (reference, reader, result) = grid.on_read_done(id, nothing).unwrap();
    assert_eq!((reference, reader, result.is_err()), (one.reference, Reader::Page, true));
    assert!(!grid.is_reading_or_missing());
    for _ in 0..5 {
        grid.miss(&one.reference, Some(Reader::Page));
    }
    grid.miss(&two.reference, None);
    assert_eq!((grid.traffic.blocks_read, grid.traffic.blocks_bad), (1, 2));
    assert!(grid.is_reading(&one.reference, Reader::Page));
    assert!(!grid.is_reading(&two.reference, Reader::Page));
    assert!(grid.is_reading_or_missing());
    assert_eq!((grid.missing_count(|_| true), grid.missing().count()), (1, 2));
    assert_eq!(grid.on_block(&one), Some([Reader::Page].into()));
    assert_eq!(grid.on_block(&one), None, "it is not missing");
    assert_eq!((grid.missing_count(|_| true), grid.repairs_count()), (0, 1));
}

/// A grid of so many blocks, in which the blocks of these places are to be repaired.
fn repairing(count: u64, places: impl IntoIterator<Item = u32>) -> Grid {
    let mut grid = grid(count, count);
    for index in places {
        grid.miss(&block(index, 4).reference, None);
        grid.on_block(&block(index, 4));
    }
    grid
}

#[test]
fn repairs_are_written_as_far_as_the_budget_and_the_writes_go() {
    let mut grid = repairing(12, [0, 1, 2, 4, 6, 8, 10]);
    assert!(grid.is_reading_or_missing(), "what is to be written may be pointless soon");
    assert_eq!(write_repairs(&mut grid, 0), []);
    let ids = write_repairs(&mut grid, BLOCK_SIZE + 1);
    assert_eq!((ids.len(), grid.repairs_count()), (1, 6));
    assert_eq!((grid.traffic.blocks_repaired, grid.traffic.blocks_written), (2, 2));
    assert_eq!((grid.writing_count(), grid.writes_left()), (2, WRITES_CALM_MAX - 1));
    assert!(grid.is_writing(0) && grid.is_writing(1) && !grid.is_writing(2));
    assert!(!grid.can_write(1) && grid.can_write(2) && !grid.can_write(12));
    assert_eq!(write_repairs(&mut grid, 1 << 20).len(), WRITES_CALM_MAX - 1);
    assert_eq!(write_repairs(&mut grid, 1 << 20), []);
    assert!(grid.is_quiet());
    for id in ids {
        assert_eq!(grid.on_write_done(id), Writer::Repair);
    }
    assert_eq!((grid.writing_count(), grid.repairs_count()), (WRITES_CALM_MAX - 1, 5));
    let sectors = run_buffer(2, BLOCK_SIZE);
    let mut requests = Vec::new();
    grid.write(0, sectors, Writer::Tree, &mut requests);
    assert_eq!((grid.writing_count(), grid.repairs_count()), (WRITES_CALM_MAX + 1, 5));
    assert!(!grid.is_quiet());
    // When something waits for them, more are written at a time.
    grid.hurry(true);
    assert_eq!(grid.writes_left(), WRITES_MAX - WRITES_CALM_MAX);
    assert_eq!(write_repairs(&mut grid, 1 << 20).len(), 2);
    grid.hurry(false);
    assert_eq!((grid.writes_count(), grid.writes_left()), (WRITES_CALM_MAX + 2, 0));
}

#[test]
fn neighbours_are_repaired_with_one_write_each_in_its_place() {
    let mut grid = repairing(200, (3..6).chain(7..9).chain(50..150));
    let mut requests = Vec::new();
    // The place of 4 is being written: it belonged to another block.
    grid.write(4, run_buffer(1, BLOCK_SIZE), Writer::Tree, &mut requests);
    requests.clear();
    let mut budget = u32::MAX;
    grid.write_repairs(&mut budget, &mut requests);
    let written = requests.iter().map(|request| match request {
        Request::Write { offset, sectors, .. } => {
            let first = u32::try_from(offset / u64::from(BLOCK_SIZE)).unwrap();
            for (index, sector) in (first..).zip(sectors.chunks(BLOCK_SIZE as usize)) {
                let buffer = AlignedBuffer::copy_of(sector);
                let result = ReadResult { buffer, unreadable: Vec::new() };
                StoredBlock::decode_read(CLUSTER, &block(index, 4).reference, result).unwrap();
            }
            (first, sectors.len() / BLOCK_SIZE as usize)
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(written.collect::<Vec<_>>(), [(3, 1), (5, 1), (7, 2)], "three are free");
    assert_eq!(budget, u32::MAX - 4 * BLOCK_SIZE);
    for request in std::mem::take(&mut requests) {
        let Request::Write { token: Token::WriteBlock { id }, .. } = request else { panic!() };
        grid.on_write_done(id);
    }
    grid.write_repairs(&mut budget, &mut requests);
    let run = RUN_SIZE_MAX / BLOCK_SIZE;
    assert_eq!(grid.writing_count(), 1 + 100, "4 is being written still");
    assert_eq!(requests.len(), 2, "no write is longer than a run, {run} blocks");
}

#[test]
fn places_that_were_given_out_again_are_neither_read_nor_repaired() {
    for (given_out, left) in [(1, 2), (2, 1)] {
        let mut grid = grid(8, 8);
        for index in [1, 2] {
            read(&mut grid, &block(index, 4), Reader::Page);
            grid.miss(&block(index, 4).reference, Some(Reader::Page));
            grid.miss(&block(index + 2, 4).reference, None);
            grid.on_block(&block(index + 2, 4));
        }
        grid.forget(&[given_out, given_out + 2].into());
        let rest = block(left, 4).reference;
        assert_eq!(grid.missing().collect::<Vec<_>>(), [rest]);
        assert_eq!(grid.reads.values().copied().collect::<Vec<_>>(), [(rest, Reader::Page)]);
        assert_eq!(grid.repairs.keys().copied().collect::<Vec<_>>(), [left + 2]);
    }
}

#[test]
fn a_reset_forgets_all_but_what_can_be_written() {
    let mut grid = grid(8, 16);
    for index in [1, 8] {
        read(&mut grid, &block(7, 4), Reader::Page);
        grid.miss(&block(index, 4).reference, Some(Reader::Page));
        grid.on_block(&block(index, 4));
        grid.miss(&block(index + 1, 4).reference, None);
    }
    assert!(grid.has_room_for(7) && !grid.has_room_for(8));
    grid.reset();
    assert_eq!((grid.missing().count(), grid.reads.len()), (0, 0));
    assert_eq!(grid.repairs.keys().copied().collect::<Vec<_>>(), [1]);
    assert!(grid.has_repairs_due());
    let ids = write_repairs(&mut grid, 1 << 20);
    assert!(grid.has_repairs_due(), "it is on its way");
    for id in ids {
        grid.on_write_done(id);
    }
    grid.miss(&block(8, 4).reference, None);
    grid.on_block(&block(8, 4));
    assert!(grid.repairs_count() == 1 && !grid.has_repairs_due(), "it waits for room");
}

#[test]
fn nobody_waits_for_what_is_released_and_of_this_interval_nothing_is_left() {
    let old = |index: u32| block(index, 4);
    let new = |index: u32| block(index, 8);
    let mut grid = grid(16, 16);
    for block in [old(1), old(2), new(3), new(4)] {
        read(&mut grid, &block, Reader::Page);
        read(&mut grid, &block, Reader::Peer(1));
        grid.miss(&block.reference, Some(Reader::Page));
        grid.miss(&block.reference, Some(Reader::Again));
    }
    for block in [old(5), old(6), new(7), new(8)] {
        grid.miss(&block.reference, None);
        grid.on_block(&block);
    }
    grid.release(&[(1, 4), (3, 8), (5, 4), (7, 8)].into(), 8);
    let waits = |block: &StoredBlock, reader: Reader| grid.is_reading(&block.reference, reader);
    assert_eq!(
        [old(1), old(2), new(3), new(4)].map(|block| waits(&block, Reader::Page)),
        [false, true, false, true]
    );
    let missing: Vec<u32> = grid.missing().map(|reference| reference.index).collect();
    assert_eq!(missing, [1, 2, 4]);
    let again = grid.missing[&old(1).reference].iter().copied().collect::<Vec<_>>();
    assert_eq!(again, [Reader::Again], "a checkpoint still refers to it");
    let peers = grid.reads.values().filter(|(_, reader)| *reader == Reader::Peer(1)).count();
    assert_eq!(peers, 4);
    assert_eq!(grid.repairs.keys().copied().collect::<Vec<_>>(), [5, 6, 8]);
}

/// How many blocks the grid asks for, if it has to have so many.
fn asks(grid: &mut Grid, required: u32) -> Option<u32> {
    let mut requests = Vec::new();
    grid.grow(required, &mut requests);
    match requests.as_slice() {
        [] => None,
        [Request::Write { token: Token::GrowGrid, offset, sectors }] => {
            assert_eq!(*offset, u64::from(grid.count) * u64::from(BLOCK_SIZE));
            Some(u32::try_from(sectors.len()).unwrap() / BLOCK_SIZE)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_grid_grows_by_an_eighth_or_a_mebibyte_up_to_its_limit() {
    // A MiB is 256 blocks, which is also the most of one write.
    let mut grid = grid(100, 3000);
    assert_eq!(asks(&mut grid, 100), None);
    assert_eq!(asks(&mut grid, 101), Some(256));
    assert_eq!(asks(&mut grid, 101), None, "it grows already");
    grid.on_growth_done(true);
    assert_eq!((grid.count, asks(&mut grid, 101)), (356, None));
    // A MiB more each time that there is not enough.
    for _ in 0..3 {
        assert_eq!(asks(&mut grid, 900), Some(256));
        grid.on_growth_done(true);
    }
    assert_eq!((grid.count, asks(&mut grid, 900)), (356 + 3 * 256, None));
    let mut large = self::grid(8000, 20000);
    let mut grown = 0;
    while let Some(count) = asks(&mut large, 8001) {
        grown += count;
        large.on_growth_done(true);
    }
    assert_eq!(grown, 1000, "an eighth");
    // The limit.
    let mut small = self::grid(10, 20);
    assert_eq!(asks(&mut small, 15), Some(10));
    small.on_growth_done(true);
    assert_eq!(asks(&mut small, 20), None);
    assert!(!small.is_full());
    assert_eq!(asks(&mut small, 21), None);
    assert!(small.is_full());
    assert_eq!(asks(&mut small, 20), None);
    assert!(!small.is_full(), "what is needed is there");
    // Room for a repair is needed too.
    let mut grid = self::grid(10, 600);
    grid.miss(&block(400, 4).reference, None);
    grid.on_block(&block(400, 4));
    assert_eq!(asks(&mut grid, 3), Some(256));
    grid.on_growth_done(true);
    assert_eq!(asks(&mut grid, 3), Some(256));
    grid.on_growth_done(true);
    assert_eq!((grid.count, asks(&mut grid, 3)), (10 + 2 * 256, None));
    let mut grid = self::grid(10, 600);
    grid.miss(&block(10, 4).reference, None);
    grid.on_block(&block(10, 4));
    assert_eq!(asks(&mut grid, 3), Some(256), "the first place beyond the end");
}

#[test]
fn a_grid_without_space_tries_again_when_it_is_told_to() {
    let mut grid = grid(10, 1000);
    assert_eq!(asks(&mut grid, 11), Some(256));
    grid.on_growth_done(false);
    assert!(grid.is_full());
    assert_eq!(asks(&mut grid, 11), None);
    grid.retry_growth();
    assert_eq!(asks(&mut grid, 11), Some(256));
    assert!(grid.is_full(), "until it has succeeded");
    grid.on_growth_done(false);
    assert_eq!(asks(&mut grid, 11), None, "once");
    grid.retry_growth();
    assert_eq!(asks(&mut grid, 11), Some(256));
    grid.on_growth_done(true);
    assert!(!grid.is_full());
}

#[test]
fn numbers_of_requests_in_flight_are_not_given_out_again() {
    let mut grid = grid(8, 8);
    let first = read(&mut grid, &block(1, 4), Reader::Page);
    grid.next_id = first.wrapping_sub(1);
    let second = read(&mut grid, &block(2, 4), Reader::Page);
    assert_ne!(first, second);
    let mut requests = Vec::new();
    grid.next_id = first.wrapping_sub(1);
    grid.write(3, run_buffer(1, BLOCK_SIZE), Writer::Tree, &mut requests);
    let [Request::Write { token: Token::WriteBlock { id }, .. }] = requests.as_slice() else {
        panic!("a write")
    };
    assert!(*id != first && *id != second);
}
