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
//! **A moving target.** The others go on meanwhile and let go of C, so C' is to be taken over in
//! its place, before C is complete. What was done for C is not done again: [`Known`] says up to
//! which op blocks are here, by place. So the walk comes to its end as soon as what changes in an
//! interval can be fetched in one.
//!
//! **A place** in the order of a walk is as good in the next checkpoint: a chunk of the free set,
//! or a key and a part of its value. A walk from a place on visits what is not wholly before it.
//!
//! **Invariants:** the stack is bounded: pages read at a time and on the way down, times their
//! children; a reader of an older walk finds nobody; when a sync is over, every block of the
//! checkpoint is durable here.
//!
//! **Not here:** who has the blocks that are missing; when the scrub reads what.

use super::Store;
use super::checkpoint::CheckpointRoot;
use super::grid::{READS_MAX, Reader};
use super::known::Known;
use super::page::{Page, Value};
use super::value::{value_children, value_fanout, value_levels};
use crate::constants::HEADER_SIZE;
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::free_set::PageAddress;
use crate::storage::{FreeSet, Request};
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Blocks that a sync reads or waits for at a time: no more than a peer reads for others at once.
pub(super) const SYNC_WINDOW: usize = READS_MAX;

/// Ranges that a sync has not come to, of those that are told apart.
const GAPS_MAX: usize = 64;

/// How far a sync has come, with those that it was left for a newer checkpoint from.
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
    /// All is behind.
    End,
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
    /// All that is beneath is before this.
    end: Place,
    /// Of a value of one block: the range of its leaf. It is not told apart from its neighbours
    /// when the sync is left.
    leaf: Option<Arc<Range>>,
}

/// From a place on up to another, that is above it.
pub(super) type Range = (Place, Place);

/// A walk under way.
#[derive(Debug)]
pub(super) struct Walk {
    generation: u32,
    pub(super) is_scrub: bool,
    /// What is not visited.
    known: Known,
    /// Of a sync: the blocks that were fetched and that the file has no room for yet, by index.
    roomless: BTreeMap<u32, Item>,
    /// What is wholly before this is not visited.
    pub(super) position: Place,
    /// The checkpoint that it began with; a scrub goes on over newer ones.
    pub(super) op_begin: Op,
    pub(super) stack: Vec<Item>,
    /// Of a sync: nothing from here on was visited.
    frontier: Place,
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
        let known = self.known.take();
        if op_complete < self.checkpoint.op {
            let mut walk = self.walk_new(false);
            walk.known = known.unwrap_or(Known::all_of(0));
            walk.known.raise(op_complete);
            assert!(walk.known.op_max() <= self.checkpoint.op);
            walk.blocks_found = self.synced.blocks_found;
            walk.blocks_fetched = self.synced.blocks_fetched;
            self.walk = Some(walk);
        }
    }

    /// The checkpoint is not the one to sync any more: what was done of it is kept in mind.
    pub(super) fn sync_leave(&mut self) {
        let Some(mut walk) = self.walk.take().filter(|walk| !walk.is_scrub) else { return };
        let gaps = walk.gaps();
        // The other repairs are written before the next one is read.
        walk.roomless.retain(|index, _| !self.grid.has_room_for(*index));
        let lost = walk.roomless.values().map(|item| (item.place.clone(), item.end.clone()));
        walk.known.learn(walk.op_begin, &gaps, lost);
        self.synced = SyncProgress { blocks_outstanding: 0, ..walk.progress() };
        self.known = Some(walk.known);
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
        let grid = &self.grid;
        if walk.is_at_begin() && grid.has_repairs_due() {
            // What the load has fetched would be fetched again, as is what waits for room.
            self.walk = Some(walk);
            return;
        }
        walk.roomless.retain(|index, _| !grid.has_room_for(*index));
        let busy = |walk: &Walk, store: &Self| walk.outstanding.len() + store.grid.repairs_count();
        while !walk.stack.is_empty() && busy(&walk, self) < SYNC_WINDOW {
            self.walk_read(&mut walk, requests);
        }
        if busy(&walk, self) == 0 && walk.stack.is_empty() {
            self.synced = walk.progress();
            self.known = Some(Known::all_of(self.checkpoint.op));
            self.grid.is_incomplete = false;
        } else {
            self.walk = Some(walk);
        }
    }

    pub(super) fn walk_new(&mut self, is_scrub: bool) -> Walk {
        assert!(!self.checkpoint.is_none());
        self.walk_generation += 1;
        let (reference, role) = (self.checkpoint, Role::Root);
        let root = Item { reference, role, place: Place::START, end: Place::End, leaf: None };
        Walk {
            generation: self.walk_generation,
            is_scrub,
            known: Known::all_of(0),
            roomless: BTreeMap::new(),
            position: Place::START,
            op_begin: self.checkpoint.op,
            stack: vec![root],
            frontier: Place::START,
            outstanding: BTreeMap::new(),
            next_item: 0,
            blocks_found: 0,
            blocks_fetched: 0,
        }
    }

    pub(super) fn walk_read(&mut self, walk: &mut Walk, requests: &mut Vec<Request>) {
        let Some(item) = walk.stack.pop() else { return };
        if !walk.is_scrub && walk.frontier < item.place {
            walk.frontier.clone_from(&item.place);
        }
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
        let item = walk.outstanding.remove(&item).expect("just seen");
        if is_fetched && !self.grid.has_room_for(block.reference.index) {
            walk.roomless.insert(block.reference.index, item);
        }
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

    /// Whether nothing was read yet.
    fn is_at_begin(&self) -> bool {
        self.next_item == 0
    }

    /// What it has not come to, in order. What it leaves out behind the frontier is in the last
    /// one: that is known as before.
    fn gaps(&self) -> Vec<Range> {
        assert!(!self.is_scrub);
        let mut open: Vec<(&Place, &Place)> = Vec::new();
        for item in self.outstanding.values().chain(&self.stack) {
            let (place, end) =
                item.leaf.as_deref().map_or((&item.place, &item.end), |(place, end)| (place, end));
            open.push((place, if item.place < self.frontier { end } else { &Place::End }));
        }
        open.sort();
        let mut gaps: Vec<Range> = Vec::new();
        for (place, end) in open {
            let is_room = gaps.len() < GAPS_MAX;
            match gaps.last_mut() {
                Some(last) if *place <= last.1 || !is_room => {
                    last.1 = end.max(&last.1).clone();
                }
                _ => gaps.push((place.clone(), end.clone())),
            }
        }
        gaps
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
        !item.reference.is_none()
            && !self.known.has(item.reference.op, &item.place, &item.end)
            && !is_young
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
            Role::Node(0) => self.children_of_leaf(item, block, page_size),
            Role::Node(level) => {
                let page = Page::decode(block.body(), level, page_size)?;
                self.children_of_page(item, level, &page)
            }
            Role::Value(0) => Ok(Vec::new()),
            Role::Value(levels) => Ok(self.children_of_value(item, levels, block, page_size)),
        }
    }

    fn children_of_page(
        &self,
        item: &Item,
        level: u8,
        page: &Page,
    ) -> Result<Vec<Item>, &'static str> {
        let first = match &self.position {
            Place::Tree { key, .. } => page.search_child(key),
            Place::FreeSet(_) | Place::End => 0,
        };
        let role = Role::Node(level - 1);
        let children = (first..page.count()).map(|at| {
            // The first separator is empty: what bounds the page bounds its first child, and its
            // last.
            let place = Place::page(page.key(at)).max(item.place.clone());
            let is_last = at + 1 == page.count();
            let end = if is_last { item.end.clone() } else { Place::page(page.key(at + 1)) };
            if place >= end {
                return Err("a page with keys of its neighbour");
            }
            Ok(Item { reference: page.child(at), role, place, end, leaf: None })
        });
        children.collect()
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
            let (place, end) = (Place::START, Place::page(&[]));
            items.push(Item { reference: root.free_set, role, place, end, leaf: None });
        }
        if root.tree.height > 0 {
            let role = Role::Node(root.tree.height - 1);
            let place = Place::page(&[]);
            let (reference, end) = (root.tree.reference, Place::End);
            items.push(Item { reference, role, place, end, leaf: None });
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
                let (place, end) = (Place::FreeSet(chunks.start), Place::FreeSet(chunks.end));
                Item { reference, role: Role::FreeSet(address), place, end, leaf: None }
            };
            (chunks.end > behind).then(item)
        });
        Ok(items.collect())
    }

    fn children_of_leaf(
        &self,
        item: &Item,
        block: &StoredBlock,
        page_size: u32,
    ) -> Result<Vec<Item>, &'static str> {
        let leaf = Page::decode(block.body(), 0, page_size)?;
        let range = Arc::new((item.place.clone(), item.end.clone()));
        let values = (0..leaf.count()).filter_map(|at| match leaf.value(at) {
            Value::Inline(_) => None,
            Value::Large { size, reference, .. } => {
                let role = Role::Value(value_levels(size, page_size));
                let blocks = u64::from(size.div_ceil(page_size).max(1));
                let place = Place::value(leaf.key(at), 0);
                let end = Place::value(leaf.key(at), blocks);
                let is_small = role == Role::Value(0) && !self.is_scrub;
                let leaf = is_small.then(|| range.clone());
                (end > self.position).then_some(Item { reference, role, place, end, leaf })
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
            (end > self.position).then_some(Item { reference, role, place, end, leaf: None })
        });
        children.collect()
    }
}
