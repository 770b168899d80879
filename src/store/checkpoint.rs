//! F3: checkpoints: what an interval changed, frozen, and written behind while the next one runs.
//!
//! ```text
//!   freeze(op) ──► pages, by level ──► free set ──► nothing in flight ──► root ──► written
//!      │             write_behind, a budget a turn                                   │
//!      │                                                     take_written_checkpoint │
//!      └── the next freeze waits for on_checkpoint_durable ◄── superblock ◄──────────┘
//! ```
//!
//! A freeze takes only the root of the tree and the set of pages that are dirty: they cannot change
//! any more, because a page of an interval that has ended is copied before it is changed. Then the
//! free set moves its pages (`storage::free_set`). All else is done a budget at a time.
//!
//! # The root block
//!
//! ```text
//! 0          128         148         168      172      176      184      192
//! +----------+-----------+-----------+--------+--------+--------+--------+--------+
//! | header of| root of   | root of   |height,0| size of| records| digest | extra… |
//! | op C     | the tree  | free set  |        | extra  |        |        |        |
//! +----------+-----------+-----------+--------+--------+--------+--------+--------+
//! ```
//!
//! Pages are also written *early*, in the present interval, when dirty ones fill more than half of
//! the cache: to their own place, which no checkpoint refers to. Changed again, they are written
//! again. An attempt waits while there are so many dirty pages that memory is at its bound: three
//! quarters of the cache. While the grid is full, what lies beyond its end cannot be written, and
//! waiting is for a disk with room, so it may be the whole cache; at half of that the store is
//! *filled*, and no new requests should come: what is under way has the other half.
//!
//! **Invariants:** a page is sealed after all those it refers to; the root is written when all else
//! is durable; one checkpoint is under way at a time; what a checkpoint holds is a function of the
//! committed operations and the ops it was frozen at, and never of what was written when.
//!
//! **Not here:** when to freeze; the superblock.

use super::cache::Content;
use super::grid::{self, Writer};
use super::tree::{Root, resolve_children};
use super::{Store, page::Page};
use crate::constants::HEADER_SIZE;
use crate::stdx::defect;
use crate::storage::Request;
use crate::storage::block::{BlockKind, block_body_size_max, block_seal, block_seal_into};
use crate::wire::{BlockRef, Op};
use std::collections::BTreeSet;
use std::ops::Bound;

const TREE_AT: usize = HEADER_SIZE as usize;
const FREE_SET_AT: usize = TREE_AT + BlockRef::SIZE;
const HEIGHT_AT: usize = FREE_SET_AT + BlockRef::SIZE;
const EXTRA_SIZE_AT: usize = HEIGHT_AT + 4;
const RECORDS_AT: usize = EXTRA_SIZE_AT + 4;
const DIGEST_AT: usize = RECORDS_AT + 8;
const EXTRA_AT: usize = DIGEST_AT + 8;

/// The most bytes that a checkpoint keeps for the caller.
pub const EXTRA_SIZE_MAX: usize = 2048;

const _: () = assert!(EXTRA_AT + EXTRA_SIZE_MAX <= 4096 - HEADER_SIZE as usize);

/// So many blocks may be dirty however small the cache is.
const DIRTY_MIN: usize = 64;

/// What a root block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckpointRoot {
    pub(super) header: [u8; HEADER_SIZE as usize],
    pub(super) tree: Root,
    pub(super) free_set: BlockRef,
    pub(super) extra: Vec<u8>,
}

impl CheckpointRoot {
    fn encode(&self) -> Vec<u8> {
        assert!(self.extra.len() <= EXTRA_SIZE_MAX);
        let extra_size = u32::try_from(self.extra.len()).expect("bounded just above");
        let mut body = Vec::with_capacity(EXTRA_AT + self.extra.len());
        body.extend_from_slice(&self.header);
        body.extend_from_slice(&self.tree.reference.encode());
        body.extend_from_slice(&self.free_set.encode());
        body.extend_from_slice(&[self.tree.height, 0, 0, 0]);
        body.extend_from_slice(&extra_size.to_le_bytes());
        body.extend_from_slice(&self.tree.records_count.to_le_bytes());
        body.extend_from_slice(&self.tree.digest.to_le_bytes());
        body.extend_from_slice(&self.extra);
        assert_eq!(body.len(), EXTRA_AT + self.extra.len());
        body
    }

    /// Of the body of a root block.
    ///
    /// # Errors
    /// Why it is none.
    pub(super) fn decode(body: &[u8]) -> Result<Self, &'static str> {
        let Some(header) = body.first_chunk() else { return Err("a short root block") };
        if body.len() < EXTRA_AT {
            return Err("a short root block");
        }
        let reference = |at: usize| BlockRef::decode(body[at..].first_chunk().expect("inside"));
        let u64_at = |at: usize| u64::from_le_bytes(*body[at..].first_chunk().expect("inside"));
        let extra_size = *body[EXTRA_SIZE_AT..].first_chunk().expect("inside");
        if body.len() - EXTRA_AT != u32::from_le_bytes(extra_size) as usize {
            return Err("a root block of another size");
        }
        let tree = Root {
            reference: reference(TREE_AT),
            height: body[HEIGHT_AT],
            records_count: u64_at(RECORDS_AT),
            digest: u64_at(DIGEST_AT),
        };
        if tree.reference.is_none() != (tree.height == 0) || reference(FREE_SET_AT).is_none() {
            return Err("a root block of nothing");
        }
        let extra = body[EXTRA_AT..].to_vec();
        Ok(Self { header: *header, tree, free_set: reference(FREE_SET_AT), extra })
    }
}

/// A checkpoint under way.
#[derive(Debug)]
pub(super) struct Freezing {
    op: Op,
    /// Where its root goes.
    index: u32,
    header: [u8; HEADER_SIZE as usize],
    extra: Vec<u8>,
    tree: Root,
    /// Pages that are not sealed yet, by rank and index.
    pending: BTreeSet<(u8, u32)>,
    /// Its root, being written.
    root: Option<BlockRef>,
}

impl Freezing {
    pub(super) fn pending_count(&self) -> usize {
        self.pending.len()
    }
}

impl Store {
    /// Freezes the state as checkpoint `op`, which ends the present interval: op `op` has just been
    /// applied. `header` is that of op `op`, and `extra` what else the caller wants to find when
    /// the checkpoint is loaded, at most [`EXTRA_SIZE_MAX`] bytes. The checkpoint before is
    /// durable.
    pub fn freeze(&mut self, op: Op, header: &[u8; HEADER_SIZE as usize], extra: &[u8]) {
        assert!(self.can_freeze(), "the checkpoint before is not durable");
        assert!(self.is_settled());
        assert_eq!(op, self.tree.op, "the checkpoint that the interval ends with");
        assert!(extra.len() <= EXTRA_SIZE_MAX);
        self.known = None;
        self.tree.resolve_root();
        let free_set = &mut self.tree.free_set;
        if !self.checkpoint.is_none() {
            free_set.release(&self.checkpoint, op);
        }
        let index = free_set.allocate();
        free_set.freeze(op);
        let mut given_out: BTreeSet<u32> = free_set.frozen_indexes().collect();
        given_out.insert(index);
        self.forget(&given_out);
        self.freezing = Some(Freezing {
            op,
            index,
            header: *header,
            extra: extra.to_vec(),
            tree: self.tree.root,
            pending: std::mem::take(&mut self.tree.dirty),
            root: None,
        });
        self.tree.op = op + self.interval;
        self.tree.sealed.begin(self.tree.op);
        self.early_cursor = (0, 0);
    }

    /// Whether a checkpoint may be frozen: the one before is durable, and nothing is being loaded.
    pub fn can_freeze(&self) -> bool {
        self.freezing.is_none()
            && self.written.is_none()
            && self.load.is_none()
            && !self.is_syncing()
            && !self.is_in_memory
    }

    /// Asks for writes of up to `budget` bytes: repairs, the frozen checkpoint, the growth of the
    /// grid, and, when memory is short, pages of the present interval. More at a time if the
    /// checkpoint `is_late`, or a sync waits for them. To be called each turn.
    pub fn write_behind(&mut self, budget: u32, is_late: bool, requests: &mut Vec<Request>) {
        if self.is_in_memory {
            return;
        }
        self.grid.hurry(is_late || self.is_syncing() || self.load.is_some());
        let mut budget = budget;
        if self.is_draining {
            return self.grid.write_repairs(&mut budget, requests);
        }
        self.grid.grow(self.tree.free_set.required(), requests);
        self.grid.write_repairs(&mut budget, requests);
        if self.freezing.is_some() && !self.write_frozen(&mut budget, requests) {
            return;
        }
        self.write_early(&mut budget, requests);
    }

    /// The checkpoint that has been written in full, once: its reference is for the superblock, and
    /// then [`Self::on_checkpoint_durable`] is due.
    pub fn take_written_checkpoint(&mut self) -> Option<BlockRef> {
        let written = self.written.as_mut()?;
        let first = !std::mem::replace(&mut written.1, true);
        first.then_some(written.0)
    }

    /// The superblock that names the checkpoint of [`Self::take_written_checkpoint`] is durable.
    pub fn on_checkpoint_durable(&mut self) {
        let (checkpoint, _) = self.written.take().expect("a checkpoint was written");
        assert!(checkpoint.op > self.checkpoint.op);
        assert_eq!(checkpoint.op + self.interval, self.tree.op);
        self.checkpoint = checkpoint;
        self.scrub_restart();
    }

    /// The root of the checkpoint is durable, and with it the whole.
    pub(super) fn on_root_written(&mut self) {
        let freezing = self.freezing.take().expect("it was being written");
        assert!(freezing.pending.is_empty());
        self.tree.sealed.on_complete(freezing.op);
        assert!(self.written.is_none());
        self.written = Some((freezing.root.expect("it was being written"), false));
        self.counters.checkpoints_written += 1;
    }

    /// Whether dirty blocks have filled the memory that they may.
    pub(super) fn is_congested(&self) -> bool {
        self.unwritten_count() > self.unwritten_max() && !self.is_in_memory
    }

    /// How many may be, before attempts wait: more if the grid is full, where waiting does not
    /// help.
    pub(super) fn unwritten_max(&self) -> usize {
        let count_max = self.tree.cache.count_max();
        let limit = (count_max / 4 * 3).max(DIRTY_MIN);
        let limit_full = count_max.max(2 * DIRTY_MIN);
        assert!(limit <= limit_full);
        if self.grid.is_full() { limit_full } else { limit }
    }

    /// Whether the grid is full, and dirty blocks have filled half of the memory that they may.
    pub fn is_filled(&self) -> bool {
        let limit = (self.tree.cache.count_max() / 2).max(DIRTY_MIN);
        self.grid.is_full() && self.unwritten_count() > limit && !self.is_in_memory
    }

    pub(super) fn unwritten_count(&self) -> usize {
        let frozen = self.freezing.as_ref().map_or(0, Freezing::pending_count);
        self.tree.dirty.len() + frozen + self.grid.writing_count()
    }

    /// Goes on with the frozen checkpoint. Whether all of it has been handed out.
    fn write_frozen(&mut self, budget: &mut u32, requests: &mut Vec<Request>) -> bool {
        let written_before = self.grid.traffic.blocks_written;
        let done = self.write_frozen_blocks(budget, requests);
        let blocks = self.grid.traffic.blocks_written - written_before;
        self.counters.checkpoint_blocks_written += blocks;
        done
    }

    fn write_frozen_blocks(&mut self, budget: &mut u32, requests: &mut Vec<Request>) -> bool {
        loop {
            let freezing = self.freezing.as_ref().expect("a checkpoint is under way");
            if freezing.root.is_some() {
                return true;
            }
            if *budget == 0 || self.grid.writes_left() == 0 {
                return false;
            }
            let op = freezing.op;
            if let Some((rank, _)) = freezing.pending.first().copied() {
                // Only of the lowest rank: what is above refers to it.
                let of_rank = freezing.pending.range((rank, 0)..=(rank, u32::MAX));
                let ready = of_rank.map(|(_, index)| *index);
                let run = self.run_of(ready.filter(|index| self.grid.can_write(*index)), *budget);
                if run.is_empty() {
                    return false;
                }
                let freezing = self.freezing.as_mut().expect("a checkpoint is under way");
                for index in &run {
                    freezing.pending.remove(&(rank, *index));
                }
                self.write_run(&run, op, budget, requests);
            } else if let Some(page) = self.tree.free_set.frozen_next() {
                if !self.grid.can_write(page.index) {
                    return false;
                }
                let (cluster, size) = (self.grid.cluster, self.grid.block_size);
                let (reference, sectors) =
                    block_seal(cluster, page.index, op, page.kind, &page.body, size);
                self.tree.free_set.on_sealed(&reference);
                self.grid.write(page.index, sectors, Writer::Tree, requests);
                *budget = budget.saturating_sub(size);
            } else if (self.grid.is_quiet() || defect!("superblock_early"))
                && self.grid.can_write(freezing.index)
            {
                self.write_root(budget, requests);
            } else {
                return false;
            }
        }
    }

    fn write_root(&mut self, budget: &mut u32, requests: &mut Vec<Request>) {
        let freezing = self.freezing.as_mut().expect("a checkpoint is under way");
        let mut tree = freezing.tree;
        tree.reference = self.tree.sealed.resolve(&tree.reference).expect("all pages are sealed");
        let root = CheckpointRoot {
            header: freezing.header,
            tree,
            free_set: self.tree.free_set.root(),
            extra: freezing.extra.clone(),
        };
        let (kind, body) = (BlockKind::Checkpoint, root.encode());
        assert!(body.len() <= block_body_size_max(self.grid.block_size) as usize);
        let (cluster, size) = (self.grid.cluster, self.grid.block_size);
        let (reference, sectors) =
            block_seal(cluster, freezing.index, freezing.op, kind, &body, size);
        freezing.root = Some(reference);
        self.grid.write(freezing.index, sectors, Writer::CheckpointRoot, requests);
        *budget = budget.saturating_sub(size);
    }

    /// Writes pages of the present interval, so that they can leave the cache.
    fn write_early(&mut self, budget: &mut u32, requests: &mut Vec<Request>) {
        let target = self.tree.cache.count_max() / 2;
        // Once around for what was not used lately, and once more.
        let mut examined_left = 2 * self.tree.dirty.len();
        while self.tree.dirty.len() > target
            && examined_left > 0
            && *budget > 0
            && self.grid.writes_left() > 0
        {
            examined_left -= 1;
            let after = (Bound::Excluded(self.early_cursor), Bound::Unbounded);
            let next = self.tree.dirty.range(after).next().or_else(|| self.tree.dirty.first());
            let (rank, index) = *next.expect("there are dirty pages");
            self.early_cursor = (rank, index);
            if !self.can_write_early(rank, index) {
                continue;
            }
            let of_rank = self.tree.dirty.range((rank, index)..=(rank, u32::MAX));
            let ready = of_rank.map(|(_, index)| *index).enumerate();
            let ready = ready.filter(|(at, index)| *at == 0 || self.can_write_early(rank, *index));
            let run = self.run_of(ready.map(|(_, index)| index), *budget);
            for index in &run {
                self.tree.dirty.remove(&(rank, *index));
                self.early_cursor = (rank, *index);
            }
            self.write_run(&run, self.tree.op, budget, requests);
        }
    }

    fn can_write_early(&self, rank: u8, index: u32) -> bool {
        let slot = self.tree.cache.peek(index, self.tree.op).expect("dirty pages are cached");
        if !self.grid.can_write(index) || self.tree.cache.take_referenced(slot) {
            return false;
        }
        let sealed = &self.tree.sealed;
        let is_sealed = |page: &Page| {
            (0..page.count()).all(|child| sealed.resolve(&page.child(child)).is_some())
        };
        rank <= 1 || is_sealed(self.tree.cache.entry(slot).page())
    }

    /// The first of `ready`, and those that follow it without a gap.
    fn run_of(&self, ready: impl Iterator<Item = u32>, budget: u32) -> Vec<u32> {
        let within_budget = (budget / self.grid.block_size).max(1) as usize;
        let blocks_max = grid::run_blocks_max(self.grid.block_size).min(within_budget);
        let mut run: Vec<u32> = Vec::new();
        for index in ready {
            if run.len() == blocks_max || run.last().is_some_and(|last| last + 1 != index) {
                break;
            }
            run.push(index);
        }
        run
    }

    /// Seals and writes the blocks of `run`, one after the other, of the interval of `op`.
    fn write_run(&mut self, run: &[u32], op: Op, budget: &mut u32, requests: &mut Vec<Request>) {
        let size = self.grid.block_size;
        let mut buffer = grid::run_buffer(run.len(), size);
        let tree = &mut self.tree;
        for (index, sectors) in run.iter().zip(buffer.as_mut().chunks_exact_mut(size as usize)) {
            let slot = tree.cache.peek(*index, op).expect("what is not written is here");
            let entry = tree.cache.entry_mut(slot);
            assert!(entry.dirty);
            entry.dirty = false;
            let is_page = match &mut entry.content {
                Content::Page(page) => {
                    let complete = resolve_children(page, &tree.sealed);
                    assert!(complete, "block {index} is sealed after those beneath it");
                    true
                }
                Content::Value(_) => false,
            };
            let reference =
                block_seal_into(tree.cluster, *index, op, entry.kind, entry.body(), sectors);
            if is_page {
                tree.sealed.insert(&reference);
            }
        }
        self.grid.write(run[0], buffer, Writer::Tree, requests);
        *budget = budget.saturating_sub(u32::try_from(run.len()).expect("bounded") * size);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(index: u32) -> BlockRef {
        BlockRef { index, op: 32, checksum: 1, checksum_body: 2 }
    }

    fn root(tree: Root, free_set: BlockRef) -> CheckpointRoot {
        CheckpointRoot { header: [3; HEADER_SIZE as usize], tree, free_set, extra: vec![8; 10] }
    }

    #[test]
    fn a_root_block_is_the_one_that_was_written_or_none() {
        let tree = Root { reference: reference(5), height: 2, records_count: 7, digest: 9 };
        for tree in [tree, Root::default()] {
            let root = root(tree, reference(6));
            let mut body = root.encode();
            assert_eq!(CheckpointRoot::decode(&body), Ok(root));
            for size in 0..body.len() {
                assert!(CheckpointRoot::decode(&body[..size]).is_err(), "{size}");
            }
            body.push(0);
            assert!(CheckpointRoot::decode(&body).is_err());
        }
        for (tree, free_set) in [
            (Root { height: 0, ..tree }, reference(6)),
            (Root { reference: BlockRef::NONE, ..tree }, reference(6)),
            (tree, BlockRef::NONE),
            (Root::default(), BlockRef::NONE),
        ] {
            assert!(CheckpointRoot::decode(&root(tree, free_set).encode()).is_err());
        }
    }
}
