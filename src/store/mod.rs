//! F3: the ordered map that holds all state of a state machine: bytes to bytes, under a table
//! prefix. Durable by checkpoints, larger than memory.
//!
//! ```text
//!   get, scan ──► overlay ──miss──► tree                 one attempt at one entry:
//!   put, delete ─► overlay           │ miss              ┌► commit_overlay: overlay ─► tree
//!                                    ▼       apply ──────┤
//!                       Suspend, and wanted              └► abandon_overlay: overlay ─► nothing
//!
//!   take_reads ──► disk ──► on_read_done ──► cache       tree ── freeze ──► write_behind ──► disk
//!                    │ bad
//!                    └──► missing ──► peers ──► on_block
//! ```
//!
//! An entry's writes gather in the overlay, where its own reads see them. They reach the tree
//! together or not at all, so an attempt that is given up leaves no trace, and it may be given up
//! at any access: every access returns a `Result`, and [`Stop::Suspend`] says that something has to
//! be loaded first. Suspension is latched: once an access has suspended, all further ones do, and
//! the attempt is void whatever the state machine made of it.
//!
//! The parts: `page` (the bytes of a node), `tree` (the algorithms), `value` (large values),
//! `cache`, `sealed` (checksums of what is written late), `checkpoint` (freeze, write-behind),
//! `grid` (what is in flight), `load` and `walk` (a checkpoint from the disk and from peers),
//! `scrub`, and for those who look at a file: `survey`, `difference`, `tree_difference`.
//!
//! **Invariants:** the content of the tree is a function of the committed writes alone, and its
//! blocks of those and of where the checkpoints are; between two attempts the overlay is empty and
//! nothing is suspended; keys of one table are in the order of their bytes; no access hands out a
//! borrow that would pin a part of the tree.
//!
//! **Not here:** who may write what when (`replica::executor`); who peers are.

mod bounds;
mod cache;
mod checkpoint;
pub mod difference;
mod digest;
mod grid;
mod known;
mod load;
mod page;
mod scan;
mod scrub;
mod sealed;
#[cfg(test)]
mod store_tests;
pub mod survey;
#[cfg(test)]
mod sync_tests;
#[cfg(test)]
mod test_node;
mod tree;
pub mod tree_difference;
mod value;
mod walk;

pub use checkpoint::EXTRA_SIZE_MAX;
pub(crate) use digest::Digest;
pub use walk::SyncProgress;

use crate::constants::HEADER_SIZE;
use crate::stdx::defect;
use crate::storage::block::{StoredBlock, block_seal};
use crate::storage::{Geometry, Layout, ReadResult, Request};
use crate::wire::{BlockRef, ClusterId};
use bytes::Bytes;
use checkpoint::Freezing;
use grid::{Grid, Reader};
use known::Known;
use load::Load;
use scrub::Pace;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use tree::{Miss, Tree};
use walk::Walk;

/// The longest key, in bytes, its table not counted.
pub const KEY_SIZE_MAX: usize = 1024;

/// The longest value, in bytes.
pub const VALUE_SIZE_MAX: usize = 16 << 20;

/// The table that is not an author's to use: sessions.
pub(crate) const TABLE_SYSTEM: Table = Table(255);

/// The first code that is not a state machine's to reject with. See [`Stop::Reject`].
pub const RESULT_RESERVED_MIN: u32 = 0xffff_0000;

/// The result of a request that has read more than one may; nothing was written.
pub const RESULT_READ_TOO_LARGE: u32 = RESULT_RESERVED_MIN + 4;

/// The most bytes of the start of a value: one block has them.
pub const START_SIZE_MAX: u32 = 1024;

/// Why a request ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The store must load something first; the request will be applied again. Only the store
    /// says so.
    Suspend,
    /// The state machine refuses, with its own code (> 0, < [`RESULT_RESERVED_MIN`]). Nothing is
    /// written.
    Reject(u32),
}

/// One of the store's separate key spaces, 0 to 254; 255 is the framework's own. The author of a
/// state machine deals them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// Which way a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the start of the range, keys ascending.
    Forward,
    /// From the end of the range, keys descending.
    Backward,
}

/// Where a store lives, and how much it may take.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whose blocks these are.
    pub cluster: ClusterId,
    /// Of the data file; valid.
    pub geometry: Geometry,
    /// Bytes of blocks in memory, more or less.
    pub cache_size: u64,
    /// The size of the data file at this moment, bytes.
    pub file_size: u64,
    /// The size that the data file may grow to, bytes.
    pub size_limit: u64,
}

/// A block that a peer asked for. See [`Store::read_for_peer`].
#[derive(Debug, Clone)]
pub struct PeerBlock {
    /// The number that the caller gave.
    pub requester: u64,
    /// The block.
    pub block: StoredBlock,
}

/// What the store has done so far, for `status` and tests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks read from the disk.
    pub blocks_read: u64,
    /// Blocks written to the disk, for whatever reason.
    pub blocks_written: u64,
    /// Blocks that were found bad.
    pub blocks_bad: u64,
    /// Blocks that were bad and written anew.
    pub blocks_repaired: u64,
    /// Blocks written for checkpoints after they were frozen.
    pub checkpoint_blocks_written: u64,
    /// Checkpoints written in full.
    pub checkpoints_written: u64,
    /// How often the scrub has seen everything.
    pub scrub_laps: u64,
    /// Blocks that the scrub has read.
    pub scrub_blocks_read: u64,
    /// Accesses to blocks that were in memory.
    pub cache_hits: u64,
    /// Accesses to blocks that were not.
    pub cache_misses: u64,
    /// Blocks in memory.
    pub cache_blocks: u64,
    /// Blocks of the grid that are not free.
    pub grid_blocks_used: u64,
    /// Records in all tables.
    pub records: u64,
}

/// An ordered map of bytes to bytes, in tables.
#[derive(Debug)]
pub struct Store {
    /// What is committed. Keys begin with their table.
    tree: Tree,
    /// What the present attempt has written; `None` deletes.
    overlay: BTreeMap<Bytes, Option<Bytes>>,
    /// Latched when an access suspends; cleared with the overlay.
    suspended: Cell<bool>,
    is_in_memory: bool,
    /// Ops between two checkpoints.
    interval: u64,
    grid: Grid,
    /// The newest durable checkpoint, or the one being loaded.
    checkpoint: BlockRef,
    freezing: Option<Freezing>,
    /// A checkpoint that is written and not in the superblock, and whether the caller knows it.
    written: Option<(BlockRef, bool)>,
    load: Option<Load>,
    /// Writes of the time before `load` are in flight.
    is_draining: bool,
    header: [u8; HEADER_SIZE as usize],
    extra: Vec<u8>,
    walk: Option<Walk>,
    /// What syncs have done that were left for a newer checkpoint, or are over, until one is made
    /// here.
    known: Option<Known>,
    walk_generation: u32,
    pace: Pace,
    synced: SyncProgress,
    early_cursor: (u8, u32),
    peer_blocks: Vec<PeerBlock>,
    counters: Counters,
    /// Bytes that the state machine may yet read; `None` when it wanted more.
    read_left: Cell<Option<u64>>,
    /// How many accesses will be granted before one suspends.
    #[cfg(test)]
    accesses_left: Cell<Option<u64>>,
}

/// A value as far as it was asked for. See [`Store::get_start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Bytes of the whole value.
    pub size: u32,
    /// The first of them.
    pub bytes: Bytes,
}

impl Default for Store {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl Store {
    /// An empty store in memory alone. It has no checkpoints and never suspends.
    pub fn in_memory() -> Self {
        let geometry = Geometry::default();
        let grid = Grid::new(ClusterId(0), geometry.block_size, 0, 0, 0);
        let tree = Tree::new(ClusterId(0), geometry.block_size, 1, usize::MAX);
        Self::with(tree, grid, 1, true)
    }

    /// See [`Self::in_memory`].
    pub fn new() -> Self {
        Self::in_memory()
    }

    /// The empty store of a fresh data file. [`Self::load`] makes it that of a checkpoint.
    pub fn open(options: &Options) -> Self {
        let Options { cluster, geometry, cache_size, file_size, size_limit } = *options;
        let offset = Layout::new(geometry).grid_offset();
        let (block_size, interval) = (geometry.block_size, geometry.checkpoint_interval());
        let cache_count_max = usize::try_from(cache_size / u64::from(block_size));
        let cache_count_max = cache_count_max.unwrap_or(usize::MAX).max(1);
        let grid = Grid::new(cluster, block_size, offset, file_size, size_limit);
        let tree = Tree::new(cluster, block_size, interval, cache_count_max);
        Self::with(tree, grid, interval, false)
    }

    fn with(tree: Tree, grid: Grid, interval: u64, is_in_memory: bool) -> Self {
        assert!(interval > 0);
        assert_eq!(tree.op, interval);
        Self {
            tree,
            overlay: BTreeMap::new(),
            suspended: Cell::new(false),
            is_in_memory,
            interval,
            grid,
            checkpoint: BlockRef::NONE,
            freezing: None,
            written: None,
            load: None,
            is_draining: false,
            header: [0; HEADER_SIZE as usize],
            extra: Vec::new(),
            walk: None,
            known: None,
            walk_generation: 0,
            pace: Pace::default(),
            synced: SyncProgress::default(),
            early_cursor: (0, 0),
            peer_blocks: Vec::new(),
            counters: Counters::default(),
            read_left: Cell::new(Some(u64::MAX)),
            #[cfg(test)]
            accesses_left: Cell::new(None),
        }
    }

    /// The value under `key`; `None` if there is none. `key` is at most [`KEY_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// [`Stop::Suspend`], or that the request has read too much; to be passed on.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Stop> {
        assert_ne!(table, TABLE_SYSTEM, "the table is not an author's");
        let value = self.table_get(table, key)?;
        self.charge(value.as_ref().map_or(0, Bytes::len))?;
        Ok(value)
    }

    /// The first bytes of the value under `key`, `size_max` of them or all, and how many there are;
    /// `None` if there is no such key. Of a large value this loads and costs one block. `size_max`
    /// is at most [`START_SIZE_MAX`].
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn get_start(
        &self,
        table: Table,
        key: &[u8],
        size_max: u32,
    ) -> Result<Option<Start>, Stop> {
        assert_ne!(table, TABLE_SYSTEM, "the table is not an author's");
        assert!(size_max <= START_SIZE_MAX, "the first {size_max} bytes");
        self.access()?;
        let key = key_in_table(table, key);
        let start = match self.overlay.get(key.as_slice()) {
            Some(None) => None,
            Some(Some(value)) => {
                let size = u32::try_from(value.len()).expect("a value is smaller than a message");
                Some(Start { size, bytes: value.slice(..size.min(size_max) as usize) })
            }
            None => {
                let start = self.tree.get_start(key.as_slice(), size_max);
                start.map_err(|miss| self.suspend(miss))?
            }
        };
        self.charge(start.as_ref().map_or(0, |start| start.bytes.len()))?;
        Ok(start)
    }

    /// Stores `value` under `key`, in place of any other. `key` is at most [`KEY_SIZE_MAX`] bytes,
    /// `value` at most [`VALUE_SIZE_MAX`].
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        assert_ne!(table, TABLE_SYSTEM, "the table is not an author's");
        self.table_put(table, key, value)
    }

    /// Deletes `key`, if it is there. `key` is at most [`KEY_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Stop> {
        assert_ne!(table, TABLE_SYSTEM, "the table is not an author's");
        self.table_delete(table, key)
    }

    /// Hands the keys between `start` and `end` and their values to `visit`, in the order of
    /// `direction`, until it breaks. A range that ends before it starts is empty. After
    /// an error what `visit` has gathered is void.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), Stop> {
        assert_ne!(table, TABLE_SYSTEM, "the table is not an author's");
        self.table_scan(table, start, end, direction, |key, value| {
            self.charge(key.len() + value.len())?;
            Ok(visit(key, value))
        })
    }

    /// The state machine has read so many bytes.
    fn charge(&self, size: usize) -> Result<(), Stop> {
        let left = self.read_left.get().and_then(|left| left.checked_sub(size as u64));
        self.read_left.set(left);
        if left.is_none() { Err(Stop::Reject(RESULT_READ_TOO_LARGE)) } else { Ok(()) }
    }

    /// From here on the state machine may read `size_max` bytes.
    pub(crate) fn limit_reads(&self, size_max: u64) {
        self.read_left.set(Some(size_max));
    }

    /// Lifts the limit. What was left of it; `None` if it was exceeded.
    pub(crate) fn lift_read_limit(&self) -> Option<u64> {
        self.read_left.replace(Some(u64::MAX))
    }

    /// [`Self::get`] of any table.
    pub(crate) fn table_get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Stop> {
        self.access()?;
        let key = key_in_table(table, key);
        match self.overlay.get(key.as_slice()) {
            Some(written) => Ok(written.clone()),
            None => self.tree.get(key.as_slice()).map_err(|miss| self.suspend(miss)),
        }
    }

    /// [`Self::put`] of any table.
    pub(crate) fn table_put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        assert!(value.len() <= VALUE_SIZE_MAX, "a value of {} bytes", value.len());
        self.write(table, key, Some(Bytes::copy_from_slice(value)))
    }

    /// [`Self::delete`] of any table.
    pub(crate) fn table_delete(&mut self, table: Table, key: &[u8]) -> Result<(), Stop> {
        self.write(table, key, None)
    }

    /// Wants all that is on the way to the values of `keys`, as far as it can be seen: the next
    /// level at each call. Whether all is here, large values excepted. Suspends nothing.
    pub fn prefetch<'a>(&self, keys: impl Iterator<Item = (Table, &'a [u8])>) -> bool {
        let mut is_here = self.is_loaded();
        for (table, key) in keys {
            if self.is_loaded() && key.len() <= KEY_SIZE_MAX {
                is_here &= self.tree.prefetch(&key_in_table(table, key));
            }
        }
        is_here
    }

    /// A checksum over all content: equal on replicas with equal content. It is kept up to date
    /// with each change and costs nothing.
    pub fn digest(&self) -> u64 {
        assert!(self.overlay.is_empty());
        let mut digest = Digest::new();
        digest.u64(self.tree.root.digest);
        digest.u64(self.tree.root.records_count);
        digest.finish()
    }

    /// Whether an access of the present attempt has suspended.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.get()
    }

    /// Whether an attempt may be made again with some hope: nothing that accesses missed is being
    /// read or fetched, and there is memory. Reads must have been taken.
    pub fn is_ready(&self) -> bool {
        let is_page = |reader: &Reader| *reader == Reader::Page;
        self.is_loaded()
            && self.tree.wanted.borrow().is_empty()
            && self.grid.reads_count(is_page) == 0
            && self.grid.missing_count(is_page) == 0
            && !self.is_congested()
    }

    /// Moves what the attempt has written into the tree.
    ///
    /// # Errors
    /// [`Stop::Suspend`] when the tree is not ready to take it: nothing has moved, and the attempt
    /// must be abandoned.
    pub(crate) fn commit_overlay(&mut self) -> Result<(), Stop> {
        assert!(!self.is_suspended(), "a suspended attempt is abandoned");
        self.access()?;
        if !self.overlay.is_empty() {
            if self.is_congested() {
                self.suspended.set(true);
                return Err(Stop::Suspend);
            }
            self.apply_overlay()?;
        }
        assert!(self.overlay.is_empty());
        self.tree.cache.unpin();
        self.trim();
        Ok(())
    }

    fn apply_overlay(&mut self) -> Result<(), Stop> {
        let overlay = std::mem::take(&mut self.overlay);
        for (key, written) in &overlay {
            let done = match written {
                Some(value) => self.tree.put(key, value),
                None => self.tree.delete(key),
            };
            if let Err(miss) = done {
                if defect!("suspend_leaves_writes") {
                    self.tree.commit();
                    self.tree.take_changes();
                } else {
                    self.tree.rollback();
                }
                for key in overlay.keys() {
                    self.tree.prefetch(key);
                }
                self.overlay = overlay;
                return Err(self.suspend(miss));
            }
        }
        self.tree.commit();
        let (allocated, released) = self.tree.take_changes();
        if self.grid.is_reading_or_missing() || !self.tree.wanted.borrow().is_empty() {
            self.forget(&allocated);
            self.grid.release(&released, self.tree.op);
            let gone = |reference: &BlockRef| released.contains(&(reference.index, reference.op));
            self.tree.wanted.borrow_mut().retain(|reference| !gone(reference));
        }
        Ok(())
    }

    /// These places belong to other blocks from here on.
    fn forget(&mut self, indexes: &BTreeSet<u32>) {
        self.grid.forget(indexes);
        self.tree.wanted.borrow_mut().retain(|reference| !indexes.contains(&reference.index));
    }

    /// Forgets what the attempt has written, and that it was suspended.
    pub(crate) fn abandon_overlay(&mut self) {
        self.overlay.clear();
        if !self.suspended.replace(false) {
            self.tree.cache.unpin();
            self.trim();
        }
    }

    /// Forgets what the attempt has written, and goes on with it: what it has loaded stays.
    pub(crate) fn discard_writes(&mut self) {
        assert!(!self.is_suspended(), "a suspended attempt is abandoned");
        self.overlay.clear();
    }

    /// Whether no attempt is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.overlay.is_empty() && !self.is_suspended()
    }

    /// A peer asks for a block: from memory at once or from the disk later, it comes out of
    /// [`Self::take_peer_blocks`] with the number of the `requester`; or never, if it is not here.
    pub fn read_for_peer(
        &mut self,
        reference: &BlockRef,
        requester: u64,
        requests: &mut Vec<Request>,
    ) {
        let peers = self.grid.reads_count(|reader| matches!(reader, Reader::Peer(_)));
        if reference.is_none() || self.is_draining || peers >= grid::READS_MAX {
            return;
        }
        if let Some(block) = self.block_in_memory(reference) {
            self.peer_blocks.push(PeerBlock { requester, block });
        } else {
            self.grid.read(reference, Reader::Peer(requester), requests);
        }
    }

    /// The blocks that peers asked for and that were found.
    pub fn take_peer_blocks(&mut self) -> Vec<PeerBlock> {
        std::mem::take(&mut self.peer_blocks)
    }

    /// A block that is on its way to the disk.
    fn block_in_memory(&self, reference: &BlockRef) -> Option<StoredBlock> {
        let slot = self.tree.cache.peek(reference.index, reference.op)?;
        let entry = self.tree.cache.entry(slot);
        if entry.dirty {
            return None;
        }
        let (cluster, size) = (self.grid.cluster, self.grid.block_size);
        let (_, buffer) =
            block_seal(cluster, entry.index, entry.op, entry.kind, entry.body(), size);
        let result = ReadResult { buffer, unreadable: Vec::new() };
        StoredBlock::decode_read(cluster, reference, result).ok()
    }

    /// Whether a block is bad that is in no checkpoint yet: written early, since the newest one. A
    /// peer that has the next checkpoint can send it; else it comes again only by loading the
    /// newest checkpoint and applying the log after it.
    pub fn is_lost(&self) -> bool {
        self.grid.missing().any(|reference| reference.op > self.checkpoint.op)
    }

    /// The newest durable checkpoint, or the one being loaded; [`BlockRef::NONE`] before the first.
    pub fn checkpoint(&self) -> BlockRef {
        self.checkpoint
    }

    /// The op that the present interval ends with: the one to freeze at.
    pub fn op_freeze(&self) -> crate::wire::Op {
        self.tree.op
    }

    /// Whether it is in memory alone.
    pub fn is_in_memory(&self) -> bool {
        self.is_in_memory
    }

    /// Whether more blocks are needed than the file can have: the checkpoint waits, nothing else.
    pub fn is_full(&self) -> bool {
        self.grid.is_full()
    }

    /// There may be space again: growing is tried at the next [`Self::write_behind`].
    pub fn retry_growth(&mut self) {
        self.grid.retry_growth();
    }

    /// The write of [`crate::storage::Token::GrowGrid`] failed for want of space.
    pub fn on_growth_failed(&mut self) {
        self.grid.on_growth_done(false);
    }

    /// What has happened so far.
    pub fn counters(&self) -> Counters {
        let (cache_hits, cache_misses) = self.tree.cache.hits_and_misses();
        Counters {
            blocks_read: self.grid.traffic.blocks_read,
            blocks_written: self.grid.traffic.blocks_written,
            blocks_bad: self.grid.traffic.blocks_bad,
            blocks_repaired: self.grid.traffic.blocks_repaired,
            cache_hits,
            cache_misses,
            cache_blocks: self.tree.cache.count() as u64,
            grid_blocks_used: u64::from(self.tree.free_set.used_count()),
            records: self.tree.root.records_count,
            ..self.counters
        }
    }

    fn write(&mut self, table: Table, key: &[u8], value: Option<Bytes>) -> Result<(), Stop> {
        self.access()?;
        let key = key_in_table(table, key);
        self.overlay.insert(Bytes::from(key), value);
        Ok(())
    }

    /// Every access begins here.
    fn access(&self) -> Result<(), Stop> {
        #[cfg(test)]
        if let Some(left) = self.accesses_left.get() {
            match left.checked_sub(1) {
                Some(left) => self.accesses_left.set(Some(left)),
                None => {
                    self.accesses_left.set(None);
                    self.suspended.set(true);
                }
            }
        }
        if !self.is_loaded() {
            self.suspended.set(true);
        }
        if self.suspended.get() { Err(Stop::Suspend) } else { Ok(()) }
    }

    fn suspend(&self, _: Miss) -> Stop {
        self.suspended.set(true);
        Stop::Suspend
    }

    /// Evicts what memory has no room for.
    fn trim(&mut self) {
        let grid = &self.grid;
        self.tree.cache.trim(|entry| !grid.is_writing(entry.index));
    }

    /// Lets `accesses` more accesses succeed and then one suspend.
    #[cfg(test)]
    pub(crate) fn suspend_after(&self, accesses: u64) {
        self.accesses_left.set(Some(accesses));
    }
}

fn key_in_table(table: Table, key: &[u8]) -> Vec<u8> {
    assert!(key.len() <= KEY_SIZE_MAX, "a key of {} bytes", key.len());
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(table.0);
    bytes.extend_from_slice(key);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::{Prng, Ratio};

    const TABLE: Table = Table(7);

    type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;
    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    #[test]
    fn random_operations_match_a_plain_map() {
        for seed in 0..40 {
            let mut prng = Prng::from_seed(seed);
            let mut store = Store::new();
            let mut committed = Model::new();
            for _ in 0..60 {
                let mut attempt = committed.clone();
                for _ in 0..prng.range_inclusive(1, 12) {
                    step(&mut prng, &mut store, &mut attempt);
                }
                if prng.chance(Ratio::new(1, 3)) {
                    store.abandon_overlay();
                } else {
                    store.commit_overlay().unwrap();
                    committed = attempt;
                }
                assert!(store.is_settled());
                check_scan(&mut prng, &store, &committed);
            }
            assert!(committed.len() > 5, "the model saw too little");
        }
    }

    #[test]
    fn scan_ranges_that_end_before_they_start_are_empty() {
        let mut store = Store::new();
        store.put(TABLE, b"b", b"1").unwrap();
        let bounds = |key: &'static [u8]| [Bound::Included(key), Bound::Excluded(key)];
        for direction in [Direction::Forward, Direction::Backward] {
            for start in bounds(b"c") {
                for end in bounds(b"a") {
                    assert_eq!(rows(&store, TABLE, start, end, direction), []);
                }
            }
            for (start, end, count) in [
                (Bound::Included(b"b".as_slice()), Bound::Included(b"b".as_slice()), 1),
                (Bound::Included(b"b"), Bound::Excluded(b"b"), 0),
                (Bound::Excluded(b"b"), Bound::Included(b"b"), 0),
                (Bound::Excluded(b"b"), Bound::Excluded(b"b"), 0),
                (Bound::Unbounded, Bound::Unbounded, 1),
            ] {
                assert_eq!(rows(&store, TABLE, start, end, direction).len(), count);
            }
        }
    }

    #[test]
    fn tables_are_separate_also_at_the_ends() {
        let mut store = Store::new();
        for table in [0, 1, 253, 254] {
            store.put(Table(table), b"", &[table]).unwrap();
            store.put(Table(table), &[0xff; KEY_SIZE_MAX], &[table]).unwrap();
        }
        store.commit_overlay().unwrap();
        for table in [0, 1, 253, 254] {
            for direction in [Direction::Forward, Direction::Backward] {
                let rows =
                    rows(&store, Table(table), Bound::Unbounded, Bound::Unbounded, direction);
                assert_eq!(rows.len(), 2);
                assert!(rows.iter().all(|(_, value)| *value == [table]));
            }
        }
        assert_eq!(rows(&store, TABLE, Bound::Unbounded, Bound::Unbounded, Direction::Forward), []);
    }

    #[test]
    fn suspension_is_latched_until_the_attempt_is_abandoned() {
        let mut store = Store::new();
        store.put(TABLE, b"k", b"1").unwrap();
        store.commit_overlay().unwrap();
        store.suspend_after(1);
        store.put(TABLE, b"k", b"2").unwrap();
        assert_eq!(store.get(TABLE, b"k"), Err(Stop::Suspend));
        assert_eq!(store.get(TABLE, b"k"), Err(Stop::Suspend));
        assert_eq!(store.put(TABLE, b"k", b"3"), Err(Stop::Suspend));
        assert_eq!(store.delete(TABLE, b"k"), Err(Stop::Suspend));
        assert!(store.is_suspended());
        store.abandon_overlay();
        assert!(store.is_settled());
        assert_eq!(store.get(TABLE, b"k").unwrap().unwrap(), b"1".as_slice());
    }

    #[test]
    fn commit_that_suspends_moves_nothing() {
        let mut store = Store::new();
        let empty = store.digest();
        store.put(TABLE, b"k", b"1").unwrap();
        store.suspend_after(0);
        assert_eq!(store.commit_overlay(), Err(Stop::Suspend));
        store.abandon_overlay();
        assert_eq!(store.digest(), empty);
    }

    #[test]
    fn digest_tells_where_bytes_belong() {
        let digest = |rows: &[(u8, &str, &str)]| {
            let mut store = Store::new();
            for (table, key, value) in rows {
                store.put(Table(*table), key.as_bytes(), value.as_bytes()).unwrap();
            }
            store.commit_overlay().unwrap();
            store.digest()
        };
        let one = digest(&[(1, "ab", "c"), (1, "b", "")]);
        assert_eq!(one, digest(&[(1, "b", ""), (1, "ab", "x"), (1, "ab", "c")]));
        for other in [
            digest(&[(1, "a", "bc"), (1, "b", "")]),
            digest(&[(2, "ab", "c"), (1, "b", "")]),
            digest(&[(1, "ab", "c")]),
            digest(&[]),
        ] {
            assert_ne!(one, other);
        }
    }

    fn step(prng: &mut Prng, store: &mut Store, model: &mut Model) {
        let table = Table(u8::try_from(prng.below(3)).unwrap());
        let key = random_key(prng);
        match prng.below(6) {
            0..3 => {
                let value = prng.next_u64().to_le_bytes();
                store.put(table, &key, &value).unwrap();
                model.insert((table.0, key), value.to_vec());
            }
            3 => {
                store.delete(table, &key).unwrap();
                model.remove(&(table.0, key));
            }
            4 => {
                let expected = model.get(&(table.0, key.clone())).map(Vec::as_slice);
                assert_eq!(store.get(table, &key).unwrap().as_deref(), expected);
                let start = store.get_start(table, &key, 3).unwrap();
                let start = start.map(|start| (start.size, start.bytes.to_vec()));
                assert_eq!(start, expected.map(|value| (8, value[..3].to_vec())));
            }
            _ => check_scan(prng, store, model),
        }
    }

    fn check_scan(prng: &mut Prng, store: &Store, model: &Model) {
        let table = u8::try_from(prng.below(3)).unwrap();
        let (start_key, end_key) = (random_key(prng), random_key(prng));
        let (start, end) = (random_bound(prng, &start_key), random_bound(prng, &end_key));
        let inside = |key: &[u8]| {
            let after = match start {
                Bound::Included(start) => key >= start,
                Bound::Excluded(start) => key > start,
                Bound::Unbounded => true,
            };
            let before = match end {
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
                Bound::Unbounded => true,
            };
            after && before
        };
        let mut expected: Rows = model
            .iter()
            .filter(|((of, key), _)| *of == table && inside(key))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(rows(store, Table(table), start, end, Direction::Forward), expected);
        expected.reverse();
        assert_eq!(rows(store, Table(table), start, end, Direction::Backward), expected);
    }

    fn rows(
        store: &Store,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
    ) -> Rows {
        let mut rows = Vec::new();
        store
            .scan(table, start, end, direction, |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        rows
    }

    fn random_key(prng: &mut Prng) -> Vec<u8> {
        (0..prng.below(3)).map(|_| [0, 1, 0xff][prng.index(3)]).collect()
    }

    fn random_bound<'a>(prng: &mut Prng, key: &'a [u8]) -> Bound<&'a [u8]> {
        [Bound::Included(key), Bound::Excluded(key), Bound::Unbounded][prng.index(3)]
    }
}
