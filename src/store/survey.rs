//! F3: reads a checkpoint to see what it is worth, however damaged, and changes nothing.
//!
//! ```text
//!   root block ──► free set ──► tree ──► large values       depth first, one block at a time
//!       │ each block: read, verified by its reference, and looked into
//!       ├── sound ──► counted, reached, and what it refers to is next
//!       └── not ────► a Fault; what is beneath it stays unknown
//!
//!   all seen ──► counts and digest against the root; what was reached against the free set
//! ```
//!
//! Beside its checksums, a node must hold keys of the range that its parent gives it, a large value
//! must have the hash that stands in its leaf, and all records together the count and the digest
//! that stand in the root. No block may be referred to twice, and the free set must name exactly
//! what was reached.
//!
//! The checkpoint *before* another one shares most blocks with it: what the newer one has reached
//! and the older one refers to as well is the same block, and is not read again.
//!
//! **Invariants:** nothing is written; any bytes are a survey; memory is bounded by the depth of
//! the tree, the largest value, and some bits for each block.
//!
//! **Not here:** whether a fault matters, and who would repair it; where two checkpoints differ
//! (`difference`).

use super::checkpoint::CheckpointRoot;
use super::digest::{record_hash, record_hash_of};
use super::page::{Page, Value};
use super::value::{value_children, value_levels};
use super::walk::Role;
use super::{Table, VALUE_SIZE_MAX};
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::{FreeSet, Geometry, Layout, ReadResult, Request, Token};
use crate::wire::{BlockRef, ClusterId, Header, Op, Prepare};
use std::collections::BTreeMap;

/// A block that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What refers to it calls it so.
    pub reference: BlockRef,
    /// What it should hold.
    pub kind: BlockKind,
    /// What is wrong.
    pub what: &'static str,
}

/// A block that a survey comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visit {
    /// As what refers to it calls it, whether or not that is what lies there.
    pub reference: BlockRef,
    /// What it should hold.
    pub kind: BlockKind,
    /// The place of what refers to it; `None` of the root of the checkpoint.
    pub parent: Option<u32>,
}

/// What a root block says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootSurvey {
    /// The header of the op that the checkpoint is of.
    pub header: Option<Header<Prepare>>,
    /// The root of the tree; none of an empty one.
    pub tree: BlockRef,
    /// Levels of the tree; 0 of an empty one.
    pub height: u8,
    /// The root of the free set.
    pub free_set: BlockRef,
    /// Records in all tables.
    pub records_count: u64,
    /// The sum of the hashes of all records.
    pub digest: u64,
    /// What the owner of the store keeps beside it.
    pub extra: Vec<u8>,
}

/// What one table holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableSurvey {
    /// Its records.
    pub records_count: u64,
    /// Bytes of their keys, the table's own byte not counted.
    pub key_bytes: u64,
    /// Bytes of their values, those in blocks of their own included.
    pub value_bytes: u64,
    /// Records whose value is in blocks of its own.
    pub large_count: u64,
}

/// What the free set and what was reached do not agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disagreement {
    /// The checkpoint refers to a block whose place is free.
    ReferencedAndFree,
    /// Nothing refers to a block whose place is in use.
    Leaked,
    /// The checkpoint before refers to a block whose place is free already.
    FreedTooEarly,
    /// A place is kept for the checkpoint before, which does not refer to it.
    KeptInVain,
}

/// Bits, as many as there are blocks.
#[derive(Debug, Default)]
pub(super) struct Bits {
    words: Vec<u64>,
}

impl Bits {
    /// Whether it was there already.
    pub(super) fn insert(&mut self, index: u32) -> bool {
        let (word, bit) = ((index / 64) as usize, 1 << (index % 64));
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let before = self.words[word] & bit != 0;
        self.words[word] |= bit;
        before
    }

    pub(super) fn contains(&self, index: u32) -> bool {
        let word = self.words.get((index / 64) as usize).copied().unwrap_or(0);
        word >> (index % 64) & 1 == 1
    }

    fn end(&self) -> u32 {
        u32::try_from(self.words.len() * 64).unwrap_or(u32::MAX)
    }
}

#[derive(Debug)]
struct Item {
    reference: BlockRef,
    role: Role,
    parent: Option<u32>,
    /// Of a node: the keys that belong beneath it.
    range: Range,
    /// Of the first block of a large value: its size and hash.
    value: Option<(u32, u64)>,
}

/// From a key on, and below another.
#[derive(Debug, Clone, Default)]
pub(super) struct Range {
    pub(super) start: Vec<u8>,
    /// None: up to the last key there is.
    pub(super) end: Option<Vec<u8>>,
}

impl Range {
    fn contains(&self, key: &[u8]) -> bool {
        key >= self.start.as_slice() && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// The children of an inner node that has the keys of this range, in their order, each with the
    /// range that is its own.
    ///
    /// # Errors
    /// Why it is no node of this range.
    pub(super) fn children(&self, page: &Page) -> Result<Vec<(BlockRef, Self)>, &'static str> {
        let count = page.count();
        if !(1..count).all(|at| self.contains(page.key(at))) {
            return Err("a node with keys of another range than its parent gives it");
        }
        let child = |at: usize| {
            let start = if at == 0 { self.start.clone() } else { page.key(at).to_vec() };
            let end =
                if at + 1 == count { self.end.clone() } else { Some(page.key(at + 1).to_vec()) };
            (page.child(at), Self { start, end })
        };
        Ok((0..count).map(child).collect())
    }

    /// Whether a leaf may have this range.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn check_leaf(&self, page: &Page) -> Result<(), &'static str> {
        if !(0..page.count()).all(|at| self.contains(page.key(at))) {
            return Err("a leaf with keys of another range than its parent gives it");
        }
        if page.key(0).is_empty() { Err("a leaf with a key of no table") } else { Ok(()) }
    }
}

/// A large value, part by part.
#[derive(Debug)]
struct Gathered {
    reference: BlockRef,
    size: u32,
    hash: u64,
    bytes: Vec<u8>,
    /// A part of it is not sound.
    is_broken: bool,
}

/// A checkpoint being read.
#[derive(Debug)]
pub struct CheckpointSurvey<'a> {
    cluster: ClusterId,
    geometry: Geometry,
    grid_offset: u64,
    /// Blocks that the file has room for.
    blocks_count: u64,
    checkpoint: BlockRef,
    /// What is newer than this is noted as such.
    op_before: Op,
    newer: Option<&'a Self>,
    stack: Vec<Item>,
    in_flight: Option<Item>,
    gathered: Option<Gathered>,
    faults: Vec<Fault>,
    faults_count: u64,
    root: Option<RootSurvey>,
    free_set: FreeSet,
    is_free_set_whole: bool,
    is_tree_whole: bool,
    is_done: bool,
    reached: Bits,
    /// Of what was reached, what is newer than `op_before`.
    fresh: Bits,
    kinds: BTreeMap<u8, u64>,
    tables: BTreeMap<u8, TableSurvey>,
    digest: u64,
}

impl<'a> CheckpointSurvey<'a> {
    /// Of the checkpoint with this root, in a file of `file_size` bytes. `before` is the root of
    /// the one before it, or none.
    pub fn new(
        cluster: ClusterId,
        geometry: Geometry,
        file_size: u64,
        checkpoint: BlockRef,
        before: BlockRef,
    ) -> Self {
        assert_eq!(geometry.invalid(), None);
        assert!(!checkpoint.is_none());
        let grid_offset = Layout::new(geometry).grid_offset();
        let blocks = file_size.saturating_sub(grid_offset) / u64::from(geometry.block_size);
        let root = Item {
            reference: checkpoint,
            role: Role::Root,
            parent: None,
            range: Range::default(),
            value: None,
        };
        Self {
            cluster,
            geometry,
            grid_offset,
            blocks_count: blocks.min(u64::from(u32::MAX)),
            checkpoint,
            op_before: before.op,
            newer: None,
            stack: vec![root],
            in_flight: None,
            gathered: None,
            faults: Vec::new(),
            faults_count: 0,
            root: None,
            free_set: FreeSet::new(geometry.block_size),
            is_free_set_whole: true,
            is_tree_whole: true,
            is_done: false,
            reached: Bits::default(),
            fresh: Bits::default(),
            kinds: BTreeMap::new(),
            tables: BTreeMap::new(),
            digest: 0,
        }
    }

    /// Of the checkpoint `before` the one that `newer` has seen.
    pub fn of_before(newer: &'a Self, before: BlockRef) -> Self {
        assert!(newer.is_done);
        assert_eq!(newer.op_before, before.op);
        let size = newer.grid_offset + newer.blocks_count * u64::from(newer.geometry.block_size);
        let survey = Self::new(newer.cluster, newer.geometry, size, before, BlockRef::NONE);
        Self { newer: Some(newer), ..survey }
    }

    /// The read that the survey wants next, of a [`Token::Scan`]; `None` when it has seen all. The
    /// one before was answered.
    pub fn next_read(&mut self) -> Option<Request> {
        assert!(self.in_flight.is_none(), "one read at a time");
        while let Some(item) = self.stack.pop() {
            self.gather(&item);
            let BlockRef { index, op, .. } = item.reference;
            if u64::from(index) >= self.blocks_count {
                self.fault(&item, "beyond the end of the file");
                continue;
            }
            if op > self.checkpoint.op {
                self.fault(&item, "newer than what refers to it");
                continue;
            }
            if let Some(newer) = self.newer
                && newer.reached.contains(index)
            {
                if newer.fresh.contains(index) {
                    self.fault(&item, "its place was given out again in the newer checkpoint");
                } else {
                    // It and all beneath it were seen there.
                    self.skip(&item);
                }
                continue;
            }
            if self.reached.insert(index) {
                self.fault(&item, "something else refers to its place as well");
                continue;
            }
            if op > self.op_before {
                self.fresh.insert(index);
            }
            self.in_flight = Some(item);
            let size = self.geometry.block_size;
            let offset = self.offset_of(index);
            return Some(Request::Read { token: Token::Scan { id: index }, offset, size });
        }
        if !self.is_done {
            self.finish();
        }
        None
    }

    /// The answer to [`Self::next_read`].
    pub fn on_read_done(&mut self, result: ReadResult) {
        let item = self.in_flight.take().expect("a read was in flight");
        match StoredBlock::decode_read(self.cluster, &item.reference, result) {
            Err(what) => self.fault(&item, what),
            Ok(block) if block.kind != item.role.kind() => {
                self.fault(&item, "a block of another kind");
            }
            Ok(block) => {
                *self.kinds.entry(block.kind as u8).or_default() += 1;
                if let Err(what) = self.look_into(&item, &block) {
                    self.fault(&item, what);
                }
            }
        }
    }

    /// The block whose read is in flight.
    pub fn visit(&self) -> Option<Visit> {
        let Item { reference, role, parent, .. } = self.in_flight.as_ref()?;
        Some(Visit { reference: *reference, kind: role.kind(), parent: *parent })
    }

    /// The root of the checkpoint.
    pub fn checkpoint(&self) -> BlockRef {
        self.checkpoint
    }

    /// What was found wrong since the last call. To be taken often: there may be many.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    /// How much was found wrong in all.
    pub fn faults_count(&self) -> u64 {
        self.faults_count
    }

    /// What the root block says, if it could be read.
    pub fn root(&self) -> Option<&RootSurvey> {
        self.root.as_ref()
    }

    /// How many blocks of this kind are sound; of the checkpoint before, without those it shares.
    pub fn blocks_sound(&self, kind: BlockKind) -> u64 {
        self.kinds.get(&(kind as u8)).copied().unwrap_or(0)
    }

    /// The same of all kinds.
    pub fn blocks_sound_all(&self) -> u64 {
        self.kinds.values().sum()
    }

    /// What was counted in each table, as far as it could be read.
    pub fn tables(&self) -> impl Iterator<Item = (Table, &TableSurvey)> {
        self.tables.iter().map(|(table, survey)| (Table(*table), survey))
    }

    /// The free set, if all of it could be read.
    pub fn free_set(&self) -> Option<&FreeSet> {
        assert!(self.is_done);
        (self.is_free_set_whole && self.root.is_some()).then_some(&self.free_set)
    }

    /// The size of a block, bytes.
    pub fn block_size(&self) -> u32 {
        self.geometry.block_size
    }

    /// Blocks that the file has room for.
    pub fn blocks_count(&self) -> u64 {
        self.blocks_count
    }

    /// Whether the checkpoint refers to this place.
    pub fn has_reached(&self, index: u32) -> bool {
        self.reached.contains(index)
    }

    /// Where a block lies, bytes from the start of the file.
    pub fn offset_of(&self, index: u32) -> u64 {
        self.grid_offset + u64::from(index) * u64::from(self.geometry.block_size)
    }

    /// Compares the free set with what this checkpoint and the one `before` it refer to, as far as
    /// both were seen, and tells `visit` of each place on which they disagree.
    pub fn compare(
        &self,
        before: Option<&CheckpointSurvey<'_>>,
        mut visit: impl FnMut(u32, Disagreement),
    ) {
        let Some(free_set) = self.free_set() else { return };
        let is_whole = self.faults_count == 0;
        let is_before_whole = before.is_some_and(|before| before.faults_count == 0);
        let end_before = before.map_or(0, |before| before.reached.end());
        let end = free_set.required().max(self.reached.end()).max(end_before);
        for index in 0..end {
            let is_of_before = before.is_some_and(|before| before.reached.contains(index));
            let disagreement = if self.reached.contains(index) {
                (!free_set.is_used(index)).then_some(Disagreement::ReferencedAndFree)
            } else if is_of_before {
                free_set.is_free(index).then_some(Disagreement::FreedTooEarly)
            } else if free_set.is_used(index) {
                is_whole.then_some(Disagreement::Leaked)
            } else if free_set.is_free(index) {
                None
            } else {
                (is_whole && is_before_whole).then_some(Disagreement::KeptInVain)
            };
            if let Some(disagreement) = disagreement {
                visit(index, disagreement);
            }
        }
    }

    fn fault(&mut self, item: &Item, what: &'static str) {
        match item.role {
            Role::Root => (self.is_free_set_whole, self.is_tree_whole) = (false, false),
            Role::FreeSet(_) => self.is_free_set_whole = false,
            Role::Node(_) | Role::Value(_) => self.is_tree_whole = false,
        }
        if let Some(gathered) = &mut self.gathered {
            gathered.is_broken = true;
        }
        self.fault_at(item.reference, item.role.kind(), what);
    }

    fn fault_at(&mut self, reference: BlockRef, kind: BlockKind, what: &'static str) {
        self.faults_count += 1;
        self.faults.push(Fault { reference, kind, what });
    }

    /// What the newer checkpoint shares is sound, and not seen from here.
    fn skip(&mut self, item: &Item) {
        match item.role {
            Role::FreeSet(_) => self.is_free_set_whole = false,
            Role::Root | Role::Node(_) | Role::Value(_) => self.is_tree_whole = false,
        }
        if let Some(gathered) = &mut self.gathered {
            gathered.is_broken = true;
        }
    }

    fn look_into(&mut self, item: &Item, block: &StoredBlock) -> Result<(), &'static str> {
        match item.role {
            Role::Root => self.look_into_root(item, block),
            Role::FreeSet(address) => {
                let mut beneath = Vec::new();
                if address.0 == 0 && self.is_beyond_end(address.1) {
                    self.free_set.page_children(address, block.body(), &mut beneath)?;
                    // The file was to grow to there, and what needed it went again.
                    let is_free = block.body().iter().all(|codes| *codes == 0);
                    return if is_free { Ok(()) } else { Err("places beyond the end of the file") };
                }
                let reference = &item.reference;
                self.free_set.load_page(address, reference, block.body(), &mut beneath)?;
                for (address, reference) in beneath.into_iter().rev() {
                    self.push(item, reference, Role::FreeSet(address), None);
                }
                Ok(())
            }
            Role::Node(0) => self.look_into_leaf(item, block),
            Role::Node(level) => self.look_into_inner(item, block, level),
            Role::Value(0) => {
                let gathered = self.gathered.as_mut().expect("its value was begun");
                if gathered.bytes.len() + block.body().len() > gathered.size as usize {
                    return Err("a large value of more bytes than its leaf says");
                }
                gathered.bytes.extend_from_slice(block.body());
                Ok(())
            }
            Role::Value(levels) => {
                let children: Vec<BlockRef> = value_children(block.body()).collect();
                for reference in children.into_iter().rev() {
                    self.push(item, reference, Role::Value(levels - 1), None);
                }
                Ok(())
            }
        }
    }

    /// Whether the file has none of the places of this chunk of the free set.
    fn is_beyond_end(&self, chunk: u32) -> bool {
        let places_each = u64::from(self.page_size()) * 4;
        u64::from(chunk) * places_each >= self.blocks_count
    }

    /// To be read next: what `parent` refers to, and is no node of the tree with a range.
    fn push(&mut self, parent: &Item, reference: BlockRef, role: Role, value: Option<(u32, u64)>) {
        let (parent, range) = (Some(parent.reference.index), Range::default());
        self.stack.push(Item { reference, role, parent, range, value });
    }

    fn look_into_root(&mut self, item: &Item, block: &StoredBlock) -> Result<(), &'static str> {
        let CheckpointRoot { header, tree, free_set, extra } =
            CheckpointRoot::decode(block.body())?;
        let header = Header::decode_prepare(&header).ok();
        if tree.height > 0 {
            let role = Role::Node(tree.height - 1);
            self.push(item, tree.reference, role, None);
        }
        let role = Role::FreeSet(self.free_set.root_address());
        self.push(item, free_set, role, None);
        self.root = Some(RootSurvey {
            header,
            tree: tree.reference,
            height: tree.height,
            free_set,
            records_count: tree.records_count,
            digest: tree.digest,
            extra,
        });
        Ok(())
    }

    fn look_into_inner(
        &mut self,
        item: &Item,
        block: &StoredBlock,
        level: u8,
    ) -> Result<(), &'static str> {
        let page = Page::decode(block.body(), level, self.page_size())?;
        let (role, parent) = (Role::Node(level - 1), Some(item.reference.index));
        for (reference, range) in item.range.children(&page)?.into_iter().rev() {
            self.stack.push(Item { reference, role, parent, range, value: None });
        }
        Ok(())
    }

    fn look_into_leaf(&mut self, item: &Item, block: &StoredBlock) -> Result<(), &'static str> {
        let page_size = self.page_size();
        let page = Page::decode(block.body(), 0, page_size)?;
        item.range.check_leaf(&page)?;
        let mut large = Vec::new();
        for at in 0..page.count() {
            let key = page.key(at);
            let table = self.tables.entry(key[0]).or_default();
            table.records_count += 1;
            table.key_bytes += key.len() as u64 - 1;
            let (size, hash) = match page.value(at) {
                Value::Inline(value) => {
                    let (_, hash) = record_hash(key, value);
                    (value.len() as u64, hash)
                }
                Value::Large { size, hash, reference } => {
                    table.large_count += 1;
                    large.push((reference, size, hash));
                    (u64::from(size), record_hash_of(key, size, hash))
                }
            };
            table.value_bytes += size;
            self.digest = self.digest.wrapping_add(hash);
        }
        for (reference, size, hash) in large.into_iter().rev() {
            if size as usize > VALUE_SIZE_MAX {
                return Err("a leaf with a value larger than any");
            }
            let role = Role::Value(value_levels(size, page_size));
            self.push(item, reference, role, Some((size, hash)));
        }
        Ok(())
    }

    /// Goes over to the next large value, and judges the one before, when `item` is not of it.
    fn gather(&mut self, item: &Item) {
        if matches!(item.role, Role::Value(_)) && item.value.is_none() {
            return;
        }
        self.judge_gathered();
        self.gathered = item.value.map(|(size, hash)| Gathered {
            reference: item.reference,
            size,
            hash,
            bytes: Vec::new(),
            is_broken: false,
        });
    }

    fn judge_gathered(&mut self) {
        let Some(gathered) = self.gathered.take() else { return };
        let Gathered { reference, size, hash, bytes, is_broken } = gathered;
        let is_sound = bytes.len() == size as usize && record_hash(&[], &bytes).0 == hash;
        if !is_broken && !is_sound {
            self.is_tree_whole = false;
            self.fault_at(reference, BlockKind::Value, "a large value that is not its leaf's");
        }
    }

    /// What can be told only of the whole.
    fn finish(&mut self) {
        self.judge_gathered();
        self.is_done = true;
        if self.is_free_set_whole && self.root.is_some() {
            self.free_set.load_finish();
        }
        let Some(root) = &self.root else { return };
        let records_count: u64 = self.tables.values().map(|table| table.records_count).sum();
        if !self.is_tree_whole {
            return;
        }
        if records_count != root.records_count {
            self.fault_at(
                self.checkpoint,
                BlockKind::Checkpoint,
                "the tree has another number of records than the root says",
            );
        } else if self.digest != root.digest {
            self.fault_at(
                self.checkpoint,
                BlockKind::Checkpoint,
                "the records of the tree are not those of the digest in the root",
            );
        }
    }

    fn page_size(&self) -> u32 {
        block_body_size_max(self.geometry.block_size)
    }
}

#[cfg(test)]
#[path = "survey_tests.rs"]
mod tests;
