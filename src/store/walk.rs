//! F3: walks over all blocks of a checkpoint: state sync, and the scrub.
//!
//! ```text
//!   root block ──► free set ──► tree ──► large values       depth first, the frontier is a stack
//!       │ each block: read, verify
//!       ├── good ──► what it refers to
//!       └── bad ──► missing ──► from a peer ──► what it refers to, and written to its place
//! ```
//!
//! **Sync** makes sure that every block of the loaded checkpoint C is here. It leaves out what is
//! beneath a reference of an op up to K, the newest checkpoint that was complete here. *That is
//! here:* a block that C refers to and that was allocated in the interval of k <= K has not been
//! released between k and C, so it is a block of every checkpoint from k to C, also of K, and all
//! of those were here when K was complete. No other block was given its place since, in any history
//! that leads to C; and all that this replica wrote since were blocks of such histories: its own
//! intervals after K, and blocks fetched for checkpoints between K and C. The same holds for all
//! that is beneath it: what a block refers to is not younger than the block. A sync that is begun
//! anew finds what it has fetched before by reading it.
//!
//! **The scrub** is the same walk, over the newest durable checkpoint, with K = 0, one block at a
//! time, without end. A block of C is not reused before the freeze of C'', and when C' is durable
//! the scrub goes over to C': it finds its place again by the last key it has seen, and begins anew
//! when it has seen all. It does not wait for a bad block but notes it as missing.
//!
//! **Invariants:** the frontier is bounded: pages on the way down, times their children; a reader
//! of an older walk finds nobody; when a sync is over, every block of the checkpoint is durable
//! here.
//!
//! **Not here:** who has the blocks that are missing.

use super::Store;
use super::checkpoint::CheckpointRoot;
use super::grid::Reader;
use super::page::{Page, Value};
use super::value::{value_children, value_levels};
use crate::constants::HEADER_SIZE;
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::free_set::PageAddress;
use crate::storage::{FreeSet, Request};
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;

/// Blocks that a sync reads or waits for at a time.
const SYNC_WINDOW: usize = 32;
/// Blocks that the scrub finds bad before it waits for their repair.
const SCRUB_MISSING_MAX: usize = 64;

/// How far a sync has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncProgress {
    /// Blocks that were here already.
    pub blocks_found: u64,
    /// Blocks that came from peers.
    pub blocks_fetched: u64,
    /// Blocks that are being read, or waited for.
    pub blocks_outstanding: u64,
    /// Blocks that are known to be missing here.
    pub blocks_missing: u64,
}

/// What a block of a checkpoint is, and so what it refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Root,
    FreeSet(PageAddress),
    /// Of this level.
    Node(u8),
    /// With so many levels of references beneath.
    Value(u8),
}

impl Role {
    /// The kind that such a block has.
    pub(super) fn kind(self) -> BlockKind {
        match self {
            Self::Root => BlockKind::Checkpoint,
            Self::FreeSet((0, _)) => BlockKind::FreeSet,
            Self::FreeSet(_) => BlockKind::FreeSetIndex,
            Self::Node(0) => BlockKind::Leaf,
            Self::Node(_) => BlockKind::Inner,
            Self::Value(0) => BlockKind::Value,
            Self::Value(_) => BlockKind::ValueIndex,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    reference: BlockRef,
    role: Role,
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    generation: u32,
    is_scrub: bool,
    /// What is beneath a reference of an op up to this is not visited.
    op_complete: Op,
    /// Of the tree, only what is not below this key is visited.
    position: Vec<u8>,
    /// The scrub has seen the free set in this lap.
    is_free_set_done: bool,
    stack: Vec<Item>,
    outstanding: BTreeMap<u32, Item>,
    next_item: u32,
    blocks_found: u64,
    blocks_fetched: u64,
}

impl Store {
    /// Makes sure that all blocks of the loaded checkpoint are on the disk, except for those up to
    /// `op_complete`, the op of a checkpoint that was complete here. Then [`Self::take_reads`] and
    /// [`Self::write_behind`] until it is over: [`Self::is_syncing`].
    pub fn sync(&mut self, op_complete: Op) {
        assert!(self.is_loaded() && self.freezing.is_none());
        assert!(op_complete <= self.checkpoint.op);
        if op_complete < self.checkpoint.op {
            self.walk = Some(self.walk_new(false, op_complete));
        }
    }

    /// Whether a sync is not over.
    pub fn is_syncing(&self) -> bool {
        self.walk.as_ref().is_some_and(|walk| !walk.is_scrub)
    }

    /// How far the sync has come, or had, when it was over.
    pub fn sync_progress(&self) -> SyncProgress {
        let progress = match self.walk.as_ref().filter(|walk| !walk.is_scrub) {
            None => self.synced,
            Some(walk) => walk.progress(),
        };
        SyncProgress { blocks_missing: self.missing().count() as u64, ..progress }
    }

    /// Scrubs one more block, if none is being scrubbed. Nothing while the store loads or syncs, or
    /// has no checkpoint.
    pub fn scrub(&mut self, requests: &mut Vec<Request>) {
        if !self.is_loaded() || self.is_syncing() || self.is_draining || self.checkpoint.is_none() {
            return;
        }
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => self.walk_new(true, 0),
        };
        if walk.outstanding.is_empty() && walk.stack.is_empty() {
            self.counters.scrub_laps += 1;
            walk = self.walk_new(true, 0);
        }
        if walk.outstanding.is_empty() && self.grid.missing_count(|_| true) < SCRUB_MISSING_MAX {
            self.walk_read(&mut walk, requests);
        }
        self.walk = Some(walk);
    }

    /// There is a newer checkpoint to scrub.
    pub(super) fn scrub_restart(&mut self) {
        let Some(old) = self.walk.take() else { return };
        assert!(old.is_scrub, "no checkpoint is written while one is synced");
        let mut walk = self.walk_new(true, 0);
        if !(old.stack.is_empty() && old.outstanding.is_empty()) {
            (walk.position, walk.is_free_set_done) = (old.position, old.is_free_set_done);
        } else {
            self.counters.scrub_laps += 1;
        }
        self.walk = Some(walk);
    }

    pub(super) fn take_walk_reads(&mut self, requests: &mut Vec<Request>) {
        if !self.is_syncing() {
            return;
        }
        let mut walk = self.walk.take().expect("a sync");
        let busy = |walk: &Walk, store: &Self| walk.outstanding.len() + store.grid.repairs_count();
        while !walk.stack.is_empty() && busy(&walk, self) < SYNC_WINDOW {
            self.walk_read(&mut walk, requests);
        }
        if busy(&walk, self) == 0 && walk.stack.is_empty() {
            self.synced = walk.progress();
        } else {
            self.walk = Some(walk);
        }
    }

    fn walk_new(&mut self, is_scrub: bool, op_complete: Op) -> Walk {
        assert!(!self.checkpoint.is_none());
        self.walk_generation += 1;
        Walk {
            generation: self.walk_generation,
            is_scrub,
            op_complete,
            position: Vec::new(),
            is_free_set_done: false,
            stack: vec![Item { reference: self.checkpoint, role: Role::Root }],
            outstanding: BTreeMap::new(),
            next_item: 0,
            blocks_found: 0,
            blocks_fetched: 0,
        }
    }

    fn walk_read(&mut self, walk: &mut Walk, requests: &mut Vec<Request>) {
        let Some(item) = walk.stack.pop() else { return };
        let id = walk.next_item;
        walk.next_item = walk.next_item.wrapping_add(1);
        walk.outstanding.insert(id, item);
        let reader = Reader::Walk { generation: walk.generation, item: id };
        if !self.grid.read(&item.reference, reader, requests) {
            self.walk_miss(walk, &item.reference, id);
        }
    }

    fn walk_miss(&mut self, walk: &mut Walk, reference: &BlockRef, item: u32) {
        if walk.is_scrub {
            walk.outstanding.remove(&item);
            self.grid.miss(reference, None);
        } else {
            let reader = Reader::Walk { generation: walk.generation, item };
            self.grid.miss(reference, Some(reader));
        }
    }

    pub(super) fn on_walk_bad(&mut self, reference: &BlockRef, reader: Reader) {
        let Some(mut walk) = self.walk.take() else { return };
        if let Reader::Walk { generation, item } = reader
            && generation == walk.generation
        {
            self.walk_miss(&mut walk, reference, item);
        }
        self.walk = Some(walk);
    }

    pub(super) fn on_walk_block(
        &mut self,
        reader: Reader,
        item: u32,
        block: &StoredBlock,
        is_fetched: bool,
    ) -> Result<(), &'static str> {
        let page_size = block_body_size_max(self.grid.block_size);
        let Some(walk) = &mut self.walk else { return Ok(()) };
        if reader != (Reader::Walk { generation: walk.generation, item }) {
            return Ok(());
        }
        let role = walk.outstanding[&item].role;
        assert_eq!(walk.outstanding[&item].reference, block.reference);
        let children = walk.children(role, block, page_size)?;
        walk.outstanding.remove(&item);
        walk.blocks_fetched += u64::from(is_fetched);
        walk.blocks_found += u64::from(!is_fetched);
        let newer = |item: &Item| !item.reference.is_none();
        let op_complete = walk.op_complete;
        let visited = children.into_iter().filter(newer);
        walk.stack.extend(visited.filter(|item| item.reference.op > op_complete).rev());
        Ok(())
    }
}

impl Walk {
    fn progress(&self) -> SyncProgress {
        SyncProgress {
            blocks_found: self.blocks_found,
            blocks_fetched: self.blocks_fetched,
            blocks_outstanding: self.outstanding.len() as u64,
            blocks_missing: 0,
        }
    }

    /// What a block refers to, in order.
    fn children(
        &mut self,
        role: Role,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        // The free set comes before the tree.
        self.is_free_set_done |= matches!(role, Role::Node(_));
        if block.kind != role.kind() {
            return Err("a block of another kind");
        }
        match role {
            Role::Root => self.children_of_root(block, page_size),
            Role::FreeSet(address) => {
                let mut beneath = Vec::new();
                let free_set = FreeSet::new(page_size + HEADER_SIZE);
                free_set.page_children(address, block.body(), &mut beneath)?;
                let role = Role::FreeSet;
                let items = beneath.into_iter();
                Ok(items.map(|(at, reference)| Item { reference, role: role(at) }).collect())
            }
            Role::Node(0) => {
                let leaf = Page::decode(block.body(), 0, page_size)?;
                self.position = leaf.key(leaf.count() - 1).to_vec();
                let values = (0..leaf.count()).filter_map(|at| match leaf.value(at) {
                    Value::Inline(_) => None,
                    Value::Large { size, reference, .. } => {
                        let role = Role::Value(value_levels(size, page_size));
                        Some(Item { reference, role })
                    }
                });
                Ok(values.collect())
            }
            Role::Node(level) => {
                let page = Page::decode(block.body(), level, page_size)?;
                let first = if self.position.is_empty() || !self.is_scrub {
                    0
                } else {
                    page.search_child(&self.position)
                };
                let role = Role::Node(level - 1);
                let children = first..page.count();
                Ok(children.map(|at| Item { reference: page.child(at), role }).collect())
            }
            Role::Value(0) => Ok(Vec::new()),
            Role::Value(levels) => {
                let role = Role::Value(levels - 1);
                let children = value_children(block.body());
                Ok(children.map(|reference| Item { reference, role }).collect())
            }
        }
    }

    fn children_of_root(
        &mut self,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        let root = CheckpointRoot::decode(block.body())?;
        let mut items = Vec::new();
        if !self.is_free_set_done {
            let free_set = FreeSet::new(page_size + HEADER_SIZE);
            let role = Role::FreeSet(free_set.root_address());
            items.push(Item { reference: root.free_set, role });
        }
        if root.tree.height > 0 {
            let role = Role::Node(root.tree.height - 1);
            items.push(Item { reference: root.tree.reference, role });
        }
        Ok(items)
    }
}
