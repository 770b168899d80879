//! F3: walks over all blocks of a checkpoint: state sync, and the scrub (`scrub`).
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
//! **A place** in the order of a walk is as good in the next checkpoint: a chunk of the free set,
//! or a key and a part of its value. A walk from a place on visits what is not wholly before it.
//!
//! **Invariants:** the frontier is bounded: pages on the way down, times their children; a reader
//! of an older walk finds nobody; when a sync is over, every block of the checkpoint is durable
//! here.
//!
//! **Not here:** who has the blocks that are missing; when the scrub reads what.

use super::Store;
use super::checkpoint::CheckpointRoot;
use super::grid::Reader;
use super::page::{Page, Value};
use super::value::{value_children, value_fanout, value_levels};
use crate::constants::HEADER_SIZE;
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::free_set::PageAddress;
use crate::storage::{FreeSet, Request};
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;

/// Blocks that a sync reads or waits for at a time.
const SYNC_WINDOW: usize = 32;

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

/// Where a walk is, in the order in which it visits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// So many chunks of the free set are behind.
    FreeSet(u64),
    /// All keys below this one are behind. `step` 0: the pages that begin with it are not; else
    /// they are, and `step - 1` blocks of its value.
    Tree { key: Vec<u8>, step: u64 },
}

impl Place {
    /// Where each walk begins.
    pub(super) const START: Self = Self::FreeSet(0);

    fn page(key: &[u8]) -> Self {
        Self::Tree { key: key.to_vec(), step: 0 }
    }

    fn value(key: &[u8], blocks: u64) -> Self {
        Self::Tree { key: key.to_vec(), step: blocks + 1 }
    }
}

/// A block to visit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    reference: BlockRef,
    role: Role,
    /// Nothing beneath is before this.
    place: Place,
}

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    generation: u32,
    pub(super) is_scrub: bool,
    /// What is beneath a reference of an op up to this is not visited.
    op_complete: Op,
    /// What is wholly before this is not visited.
    pub(super) position: Place,
    /// Of a scrub: the checkpoint that its lap began with.
    pub(super) op_begin: Op,
    pub(super) stack: Vec<Item>,
    pub(super) outstanding: BTreeMap<u32, Item>,
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

    pub(super) fn walk_new(&mut self, is_scrub: bool, op_complete: Op) -> Walk {
        assert!(!self.checkpoint.is_none());
        self.walk_generation += 1;
        Walk {
            generation: self.walk_generation,
            is_scrub,
            op_complete,
            position: Place::START,
            op_begin: self.checkpoint.op,
            stack: vec![Item { reference: self.checkpoint, role: Role::Root, place: Place::START }],
            outstanding: BTreeMap::new(),
            next_item: 0,
            blocks_found: 0,
            blocks_fetched: 0,
        }
    }

    pub(super) fn walk_read(&mut self, walk: &mut Walk, requests: &mut Vec<Request>) {
        let Some(item) = walk.stack.pop() else { return };
        let id = walk.next_item;
        walk.next_item = walk.next_item.wrapping_add(1);
        let reference = item.reference;
        walk.outstanding.insert(id, item);
        let reader = Reader::Walk { generation: walk.generation, item: id };
        if !self.grid.read(&reference, reader, requests) {
            self.walk_miss(walk, &reference, id);
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
        assert_eq!(walk.outstanding[&item].reference, block.reference);
        let children = walk.children(&walk.outstanding[&item], block, page_size)?;
        walk.outstanding.remove(&item);
        walk.blocks_fetched += u64::from(is_fetched);
        walk.blocks_found += u64::from(!is_fetched);
        let visited: Vec<Item> = children.into_iter().filter(|child| walk.visits(child)).collect();
        walk.stack.extend(visited.into_iter().rev());
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

    /// The place that it has come to; `None` at the end.
    pub(super) fn place(&self) -> Option<Place> {
        assert!(self.is_scrub && self.outstanding.len() <= 1);
        let next = self.outstanding.values().next().or(self.stack.last())?;
        // A block on the way to the place begins before it.
        Some(next.place.clone().max(self.position.clone()))
    }

    /// Whether the block is one of those that a lap is made of: its first, or one with nothing
    /// beneath, or a leaf; and not just on the way to the place where the walk began.
    pub(super) fn is_paced(&self, item: &Item) -> bool {
        let is_counted = matches!(
            item.role,
            Role::Root | Role::FreeSet((0, _)) | Role::Node(0) | Role::Value(0)
        );
        is_counted && item.place >= self.position
    }

    /// Whether a block is to be visited that may have parts after the position.
    fn visits(&self, item: &Item) -> bool {
        let op = item.reference.op;
        // Leaves and pages above may refer to what is older than they are, others do not.
        let is_whole = matches!(item.role, Role::Value(_) | Role::FreeSet((0, _)));
        let is_young = self.is_scrub && is_whole && op > self.op_begin;
        !item.reference.is_none() && op > self.op_complete && !is_young
    }

    /// What a block refers to and is not wholly before the position, in order.
    fn children(
        &self,
        item: &Item,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        if block.kind != item.role.kind() {
            return Err("a block of another kind");
        }
        match item.role {
            Role::Root => self.children_of_root(block, page_size),
            Role::FreeSet(address) => self.children_of_free_set(address, block, page_size),
            Role::Node(0) => self.children_of_leaf(block, page_size),
            Role::Node(level) => {
                let page = Page::decode(block.body(), level, page_size)?;
                let first = match &self.position {
                    Place::Tree { key, .. } => page.search_child(key),
                    Place::FreeSet(_) => 0,
                };
                let role = Role::Node(level - 1);
                let children = (first..page.count()).map(|at| {
                    // The first separator is empty: what bounds the page bounds its first child.
                    let place = Place::page(page.key(at)).max(item.place.clone());
                    Item { reference: page.child(at), role, place }
                });
                Ok(children.collect())
            }
            Role::Value(0) => Ok(Vec::new()),
            Role::Value(levels) => Ok(self.children_of_value(item, levels, block, page_size)),
        }
    }

    fn children_of_root(
        &self,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        let root = CheckpointRoot::decode(block.body())?;
        let mut items = Vec::new();
        if let Place::FreeSet(_) = self.position {
            let free_set = FreeSet::new(page_size + HEADER_SIZE);
            let role = Role::FreeSet(free_set.root_address());
            items.push(Item { reference: root.free_set, role, place: Place::START });
        }
        if root.tree.height > 0 {
            let role = Role::Node(root.tree.height - 1);
            let place = Place::page(&[]);
            items.push(Item { reference: root.tree.reference, role, place });
        }
        Ok(items)
    }

    fn children_of_free_set(
        &self,
        address: PageAddress,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        let Place::FreeSet(behind) = self.position else {
            panic!("the free set is behind, and was not to be visited");
        };
        let free_set = FreeSet::new(page_size + HEADER_SIZE);
        let mut beneath = Vec::new();
        free_set.page_children(address, block.body(), &mut beneath)?;
        let items = beneath.into_iter().filter_map(|(address, reference)| {
            let chunks = free_set.chunks_beneath(address);
            let item = || {
                let place = Place::FreeSet(chunks.start);
                Item { reference, role: Role::FreeSet(address), place }
            };
            (chunks.end > behind).then(item)
        });
        Ok(items.collect())
    }

    fn children_of_leaf(
        &self,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        let leaf = Page::decode(block.body(), 0, page_size)?;
        let values = (0..leaf.count()).filter_map(|at| match leaf.value(at) {
            Value::Inline(_) => None,
            Value::Large { size, reference, .. } => {
                let role = Role::Value(value_levels(size, page_size));
                let blocks = u64::from(size.div_ceil(page_size));
                let place = Place::value(leaf.key(at), 0);
                let end = Place::value(leaf.key(at), blocks);
                (end > self.position).then_some(Item { reference, role, place })
            }
        });
        Ok(values.collect())
    }

    fn children_of_value(
        &self,
        item: &Item,
        levels: u8,
        block: &StoredBlock,
        page_size: u32,
    ) -> Vec<Item> {
        assert!(levels > 0);
        let Place::Tree { key, step } = &item.place else {
            panic!("values are in the tree");
        };
        let first = step.checked_sub(1).expect("the place of a value");
        let blocks_each = (value_fanout(page_size) as u64).pow(u32::from(levels) - 1);
        let starts = (first..).step_by(usize::try_from(blocks_each).expect("of one value"));
        let children = value_children(block.body()).zip(starts).filter_map(|(reference, start)| {
            let role = Role::Value(levels - 1);
            let end = Place::value(key, start + blocks_each);
            let place = Place::value(key, start);
            (end > self.position).then_some(Item { reference, role, place })
        });
        children.collect()
    }
}
