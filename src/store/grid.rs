//! F3: the traffic with the grid: blocks being read, written, waited for, and the file growing.
//!
//! ```text
//!             read ──► in flight ──► on_read_done ──► the block ──────► its reader
//!                                        │ bad
//!                                        └──► missing ── on_block ──┬──► its readers
//!                                             (from a peer)         └──► repairs ──► written back
//!
//!   | blocks the file has          | being added, zeros | limit
//!   0                          count        one write at a time
//! ```
//!
//! The grid grows ahead of the writes, in steps of an eighth of its size or a MiB. Growing is the
//! one write that may fail: then, and at the limit, the grid is *full* until somebody says to try
//! again, and what lies beyond its end waits. Nothing that is computed depends on it.
//!
//! **Invariants:** an index has one write in flight at most, also if it belongs to another block by
//! then; nothing is written beyond the end; a repair is written only while its place was not given
//! to another block since the fault was found; what is in flight is bounded.
//!
//! **Not here:** what is in the blocks; who has those that are missing.

use crate::constants::SECTOR_SIZE;
use crate::stdx::AlignedBuffer;
use crate::storage::block::StoredBlock;
use crate::storage::free_set::PageAddress;
use crate::storage::{ReadResult, Request, Token};
use crate::wire::{BlockRef, ClusterId, Op};
use std::collections::{BTreeMap, BTreeSet};

/// Writes in flight at most.
pub(super) const WRITES_MAX: usize = 16;
/// The same while nothing waits for them. Few: a write of the journal that comes later waits behind
/// them, and with it every request that is in it.
pub(super) const WRITES_CALM_MAX: usize = 4;
/// Reads in flight at most, for the tree or for a walk.
pub(super) const READS_MAX: usize = 64;
/// Bytes in one write at most.
pub(super) const RUN_SIZE_MAX: u32 = 256 * 1024;
/// The least that the grid grows by at a time, and the most in one write, bytes.
const GROWTH_SIZE: u32 = 1 << 20;

/// Who reads a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reader {
    /// An attempt misses it.
    Page,
    /// The root of the checkpoint being loaded.
    LoadRoot,
    /// A page of its free set.
    LoadFreeSet(PageAddress),
    /// A walk over a checkpoint.
    Walk { generation: u32, item: u32 },
    /// A peer, by the number it was given.
    Peer(u64),
    /// Nobody: whether a block that is missing is bad still.
    Again,
}

/// What a write was for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writer {
    /// A part of a checkpoint, the one being written or the next.
    Tree,
    /// The root of a checkpoint.
    CheckpointRoot,
    /// A block that was bad here.
    Repair,
}

#[derive(Debug)]
struct Write {
    first: u32,
    count: u32,
    writer: Writer,
}

/// A block to be written to its place.
#[derive(Debug)]
struct Repair {
    block: StoredBlock,
    /// It was bad here, and not just not here yet.
    is_bad: bool,
}

/// Counts of the traffic with the grid.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Traffic {
    pub(super) blocks_read: u64,
    pub(super) blocks_written: u64,
    pub(super) blocks_bad: u64,
    pub(super) blocks_repaired: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Grid {
    pub(super) cluster: ClusterId,
    pub(super) block_size: u32,
    /// Of its first byte in the file.
    offset: u64,
    /// Blocks it has.
    count: u32,
    /// Blocks it may have.
    count_limit: u32,
    /// Blocks it is to have.
    count_target: u32,
    /// Blocks being added.
    growing: Option<u32>,
    /// More blocks are needed than there is room for, as far as is known.
    full: bool,
    /// To be tried again, though it is full.
    retry: bool,
    next_id: u32,
    /// Something waits for the writes.
    is_hurried: bool,
    /// Of the checkpoint not all blocks were ever here: one that is missing is not bad.
    pub(super) is_incomplete: bool,
    writes: BTreeMap<u32, Write>,
    writing: BTreeSet<u32>,
    reads: BTreeMap<u32, (BlockRef, Reader)>,
    missing: BTreeMap<BlockRef, BTreeSet<Reader>>,
    repairs: BTreeMap<u32, Repair>,
    pub(super) traffic: Traffic,
}

impl Grid {
    /// The grid from byte `offset` of a file of `file_size` bytes, that may grow to `size_limit`.
    pub(super) fn new(
        cluster: ClusterId,
        block_size: u32,
        offset: u64,
        file_size: u64,
        size_limit: u64,
    ) -> Self {
        let blocks = |end: u64| {
            let count = end.saturating_sub(offset) / u64::from(block_size);
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        Self {
            cluster,
            block_size,
            offset,
            count: blocks(file_size),
            count_limit: blocks(size_limit).max(blocks(file_size)),
            count_target: 0,
            growing: None,
            full: false,
            retry: false,
            next_id: 0,
            is_hurried: false,
            is_incomplete: false,
            writes: BTreeMap::new(),
            writing: BTreeSet::new(),
            reads: BTreeMap::new(),
            missing: BTreeMap::new(),
            repairs: BTreeMap::new(),
            traffic: Traffic::default(),
        }
    }

    /// Forgets all reads and faults, and repairs that there is no room for yet. The other repairs,
    /// and writes in flight, are still to be done: [`Self::has_repairs_due`].
    pub(super) fn reset(&mut self) {
        self.reads.clear();
        self.missing.clear();
        self.repairs.retain(|index, _| *index < self.count);
        for write in self.writes.values_mut() {
            write.writer = Writer::Repair;
        }
        assert!(self.writes.len() <= WRITES_MAX);
    }

    /// Asks for a block. False if it cannot be here.
    pub(super) fn read(
        &mut self,
        reference: &BlockRef,
        reader: Reader,
        requests: &mut Vec<Request>,
    ) -> bool {
        assert!(!reference.is_none());
        if reference.index >= self.count {
            return false;
        }
        let id = self.id();
        self.reads.insert(id, (*reference, reader));
        let (offset, size) = (self.offset_of(reference.index), self.block_size);
        requests.push(Request::Read { token: Token::ReadBlock { id }, offset, size });
        true
    }

    /// The result of a read, unless it is not wanted any more.
    pub(super) fn on_read_done(
        &mut self,
        id: u32,
        result: ReadResult,
    ) -> Option<(BlockRef, Reader, Result<StoredBlock, &'static str>)> {
        let (reference, reader) = self.reads.remove(&id)?;
        self.traffic.blocks_read += 1;
        let block = StoredBlock::decode_read(self.cluster, &reference, result);
        if let Ok(block) = &block {
            assert_eq!(block.reference, reference);
        }
        Some((reference, reader, block))
    }

    /// How many reads are in flight for readers of this kind.
    pub(super) fn reads_count(&self, of: impl Fn(&Reader) -> bool) -> usize {
        self.reads.values().filter(|(_, reader)| of(reader)).count()
    }

    /// Whether this reader waits for this block already.
    pub(super) fn is_reading(&self, reference: &BlockRef, reader: Reader) -> bool {
        self.reads.values().any(|read| *read == (*reference, reader))
            || self.missing.get(reference).is_some_and(|readers| readers.contains(&reader))
    }

    /// The block is bad here. `reader`, if any, waits for it.
    pub(super) fn miss(&mut self, reference: &BlockRef, reader: Option<Reader>) {
        if !self.missing.contains_key(reference) && !self.is_incomplete {
            self.traffic.blocks_bad += 1;
        }
        self.missing.entry(*reference).or_default().extend(reader);
    }

    /// What peers are to be asked for.
    pub(super) fn missing(&self) -> impl Iterator<Item = BlockRef> + '_ {
        self.missing.keys().copied()
    }

    /// The first of those that are missing for which a reader of this kind waits.
    pub(super) fn missing_for(&self, of: impl Fn(&Reader) -> bool) -> Option<BlockRef> {
        self.missing.iter().find(|(_, readers)| readers.iter().any(&of)).map(|(block, _)| *block)
    }

    /// A block is good here after all: who waited for it, if it was missing.
    pub(super) fn found(&mut self, reference: &BlockRef) -> BTreeSet<Reader> {
        self.missing.remove(reference).unwrap_or_default()
    }

    /// Attempts wait for none of the blocks that are missing any more.
    pub(super) fn release_pages(&mut self) {
        for readers in self.missing.values_mut() {
            readers.remove(&Reader::Page);
        }
    }

    pub(super) fn missing_count(&self, of: impl Fn(&Reader) -> bool) -> usize {
        self.missing.values().filter(|readers| readers.iter().any(&of)).count()
    }

    /// A block came from a peer: who waited for it, if it was missing. It will be written back.
    pub(super) fn on_block(&mut self, block: &StoredBlock) -> Option<BTreeSet<Reader>> {
        let readers = self.missing.remove(&block.reference)?;
        let repair = Repair { block: block.clone(), is_bad: !self.is_incomplete };
        self.repairs.insert(block.reference.index, repair);
        Some(readers)
    }

    /// These places belong to other blocks from here on: reads and repairs of what was there are
    /// pointless, and would do harm.
    pub(super) fn forget(&mut self, indexes: &BTreeSet<u32>) {
        let gone = |reference: &BlockRef| indexes.contains(&reference.index);
        self.reads.retain(|_, (reference, _)| !gone(reference));
        self.missing.retain(|reference, _| !gone(reference));
        self.repairs.retain(|_, repair| !gone(&repair.block.reference));
    }

    /// The tree does not refer to these blocks, by index and op, any more: no attempt waits for
    /// them. Of those of the interval of `op`, no checkpoint will either.
    pub(super) fn release(&mut self, released: &BTreeSet<(u32, Op)>, op: Op) {
        let gone = |reference: &BlockRef| released.contains(&(reference.index, reference.op));
        self.reads.retain(|_, (reference, reader)| *reader != Reader::Page || !gone(reference));
        self.repairs.retain(|_, repair| {
            let reference = &repair.block.reference;
            reference.op != op || !gone(reference)
        });
        self.missing.retain(|reference, readers| {
            if gone(reference) {
                readers.remove(&Reader::Page);
            }
            reference.op != op || !gone(reference)
        });
    }

    /// Whether [`Self::forget`] would have anything to do.
    pub(super) fn is_reading_or_missing(&self) -> bool {
        !(self.reads.is_empty() && self.missing.is_empty() && self.repairs.is_empty())
    }

    /// Repairs that are not on the disk yet.
    pub(super) fn repairs_count(&self) -> usize {
        let writes = self.writes.values().filter(|write| write.writer == Writer::Repair);
        self.repairs.len() + writes.count()
    }

    /// Whether the file has this block.
    pub(super) fn has_room_for(&self, index: u32) -> bool {
        index < self.count
    }

    /// Whether there are repairs to write, or being written, that do not wait for room.
    pub(super) fn has_repairs_due(&self) -> bool {
        let is_due = self.repairs.first_key_value().is_some_and(|(index, _)| *index < self.count);
        is_due || self.writes.values().any(|write| write.writer == Writer::Repair)
    }

    /// Writes repairs, up to `budget` bytes and a part of a block: neighbours with one write.
    pub(super) fn write_repairs(&mut self, budget: &mut u32, requests: &mut Vec<Request>) {
        let mut from = 0;
        while *budget > 0 && self.writes_left() > 0 {
            let mut places = self.repairs.range(from..).map(|(index, _)| *index);
            let Some(first) = places.find(|index| self.can_write(*index)) else { return };
            let count_max = budget.div_ceil(self.block_size).min(RUN_SIZE_MAX / self.block_size);
            let is_ready = |index: &u32| self.repairs.contains_key(index) && self.can_write(*index);
            let run: Vec<u32> = (first..).take(count_max as usize).take_while(is_ready).collect();
            let mut sectors = run_buffer(run.len(), self.block_size);
            for (index, at) in run.iter().zip((0..).step_by(self.block_size as usize)) {
                let Repair { block, is_bad } = self.repairs.remove(index).expect("it is ready");
                sectors.put(at, block.message().as_bytes());
                self.traffic.blocks_repaired += u64::from(is_bad);
            }
            from = first + u32::try_from(run.len()).expect("a run is bounded");
            *budget = budget.saturating_sub((from - first) * self.block_size);
            self.write(first, sectors, Writer::Repair, requests);
        }
    }

    /// Whether a block may be written there at this moment.
    pub(super) fn can_write(&self, index: u32) -> bool {
        index < self.count && !self.writing.contains(&index)
    }

    /// Whether a write of this place is in flight.
    pub(super) fn is_writing(&self, index: u32) -> bool {
        self.writing.contains(&index)
    }

    /// Blocks being written.
    pub(super) fn writing_count(&self) -> usize {
        self.writing.len()
    }

    /// How many more writes may be begun.
    pub(super) fn writes_left(&self) -> usize {
        let writes_max = if self.is_hurried { WRITES_MAX } else { WRITES_CALM_MAX };
        writes_max.saturating_sub(self.writes.len())
    }

    /// Writes in flight.
    pub(super) fn writes_count(&self) -> usize {
        self.writes.len()
    }

    /// Whether something waits for the writes, from now on.
    pub(super) fn hurry(&mut self, is_hurried: bool) {
        self.is_hurried = is_hurried;
    }

    /// Whether no part of a checkpoint is being written.
    pub(super) fn is_quiet(&self) -> bool {
        self.writes.values().all(|write| write.writer == Writer::Repair)
    }

    /// Writes blocks one after the other from `first` on.
    pub(super) fn write(
        &mut self,
        first: u32,
        sectors: AlignedBuffer,
        writer: Writer,
        requests: &mut Vec<Request>,
    ) {
        let size = u32::try_from(sectors.len()).expect("a run is bounded");
        let count = size / self.block_size;
        assert!(count > 0 && size.is_multiple_of(self.block_size));
        assert!(self.writes_left() > 0);
        for index in first..first + count {
            assert!(index < self.count, "block {index} of {}", self.count);
            let new = self.writing.insert(index);
            assert!(new, "block {index} is being written");
        }
        self.traffic.blocks_written += u64::from(count);
        let id = self.id();
        self.writes.insert(id, Write { first, count, writer });
        let (token, offset) = (Token::WriteBlock { id }, self.offset_of(first));
        requests.push(Request::Write { token, offset, sectors: sectors.freeze() });
    }

    /// A write is durable: what it was for.
    pub(super) fn on_write_done(&mut self, id: u32) -> Writer {
        let write = self.writes.remove(&id).expect("a write in flight");
        for index in write.first..write.first + write.count {
            let removed = self.writing.remove(&index);
            assert!(removed, "block {index} was being written");
        }
        write.writer
    }

    /// Grows, if there must be `required` blocks.
    pub(super) fn grow(&mut self, required: u32, requests: &mut Vec<Request>) {
        let repairs = self.repairs.last_key_value().map_or(0, |(index, _)| index + 1);
        let required = required.max(repairs);
        if required <= self.count {
            self.full = false;
        } else {
            let step = (self.count / 8).max(GROWTH_SIZE / self.block_size);
            let target = required.max(self.count.saturating_add(step));
            self.count_target = self.count_target.max(target.min(self.count_limit));
        }
        if self.growing.is_some() || (self.full && !self.retry) {
            return;
        }
        self.retry = false;
        let count = self.count_target.saturating_sub(self.count).min(GROWTH_SIZE / self.block_size);
        if count == 0 {
            self.full = required > self.count;
            return;
        }
        self.growing = Some(count);
        let offset = self.offset_of(self.count);
        let sectors = AlignedBuffer::zeroed(count * self.block_size).freeze();
        assert!(sectors.len().is_multiple_of(SECTOR_SIZE as usize));
        requests.push(Request::Write { token: Token::GrowGrid, offset, sectors });
    }

    /// The growth that was asked for is durable, or failed for want of space.
    pub(super) fn on_growth_done(&mut self, done: bool) {
        let count = self.growing.take().expect("the grid was growing");
        self.full = !done;
        if done {
            self.count += count;
            assert!(self.count <= self.count_limit);
        }
    }

    /// Whether more blocks are needed than there can be.
    pub(super) fn is_full(&self) -> bool {
        self.full
    }

    /// There may be space again: the next [`Self::grow`] tries it. Until it has succeeded the grid
    /// is as full as it was.
    pub(super) fn retry_growth(&mut self) {
        self.retry = true;
    }

    fn offset_of(&self, index: u32) -> u64 {
        self.offset + u64::from(index) * u64::from(self.block_size)
    }

    fn id(&mut self) -> u32 {
        loop {
            self.next_id = self.next_id.wrapping_add(1);
            let id = self.next_id;
            if !self.writes.contains_key(&id) && !self.reads.contains_key(&id) {
                return id;
            }
        }
    }
}

/// The sectors of a run of blocks that is being sealed.
pub(super) fn run_buffer(blocks: usize, block_size: u32) -> AlignedBuffer {
    let blocks = u32::try_from(blocks).expect("a run is bounded");
    assert!(blocks > 0 && blocks * block_size <= RUN_SIZE_MAX);
    AlignedBuffer::zeroed(blocks * block_size)
}

/// Blocks of `block_size` in a run at most.
pub(super) fn run_blocks_max(block_size: u32) -> usize {
    (RUN_SIZE_MAX / block_size) as usize
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
