//! F2: which places of the grid are free, as a part of each checkpoint.
//!
//! ```text
//!            allocate             release: in a checkpoint
//!   ┌─────► free ───────► used ─────────────────────────► released ──┐ freeze
//!   │                      │ release: of this interval               ▼
//!   │ freeze               └───────► released fresh ──┐      released before
//!   └─────────────────────────────────────────────────┴──────────────┘ freeze
//! ```
//!
//! **When a place may be used again.** Let C, C', C'' be checkpoints one after the other, and let
//! a block be in C and not in C'. It was released in the interval that ends with C', so it is
//! *released before* from the freeze of C' on, and free from the freeze of C'' on. C'' is frozen
//! when op C'' is applied and C' is durable here; then C'' <= commit, hence C' is proven: a
//! replication quorum has it, nobody syncs to C any more, and no restart goes back to it (the
//! arithmetic is in `docs/data_file.md`). A block that was released in the interval it was
//! allocated in is in no checkpoint, but its place waits for the freeze too: so a place is given
//! out at most once in an interval, and (index, op) names one block only.
//!
//! **In a checkpoint.** Two bits for each index, in chunks of one block; their references in index
//! pages, and so on up to one root: a radix tree whose shape follows from the block size alone.
//!
//! ```text
//!   level 2   [root]                     FreeSetIndex: references, 20 bytes each
//!   level 1   [index page] [index page]  FreeSetIndex
//!   level 0   [chunk] [chunk] [chunk]    FreeSet: 4 indexes to a byte, the lowest bits first
//! ```
//!
//! Only what changed is written anew, in places that the free set gives to itself: `freeze` moves
//! each changed page, which changes the chunks of its old and its new place, and its parent. A page
//! moves at most once in a freeze and there are finitely many, so that ends; it ends soon because
//! neighbouring indexes share a chunk. All places are found *before* the freeze makes any free, so
//! they are new in this interval as well. What is written is the state right *after* the freeze:
//! who loads the checkpoint goes on exactly as who froze it.
//!
//! **Invariants:** the state is a function of the calls alone, and `allocate` gives the lowest free
//! index; an index that is given out is given out again only after two freezes (one, if it was
//! released in the same interval); an undone call leaves nothing behind, not even a page to write;
//! the cost of a freeze is bounded by what changed since the last one.
//!
//! **Not here:** how long the grid is on the disk; what is in the blocks (`store`).

use super::block::{BlockKind, block_body_size_max};
use crate::stdx::defect;
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const CODE_FREE: u8 = 0;
const CODE_USED: u8 = 1;
/// In this interval, whether allocated in it or not. In no checkpoint.
const CODE_RELEASED: u8 = 2;
const CODE_RELEASED_BEFORE: u8 = 3;

/// Indexes in one byte of a chunk.
const INDEXES_PER_BYTE: u32 = 4;
/// Indexes in the unit in which a free one is searched for.
const INDEXES_PER_WORD: u32 = 32;

/// Where a page of the free set stands in its tree: level, and position in the level.
pub type PageAddress = (u8, u32);

/// Which blocks of the grid are free.
#[derive(Debug)]
pub struct FreeSet {
    /// Bytes in a chunk.
    page_size: u32,
    chunks: Vec<Chunk>,
    /// Of the pages of each level, chunks first; the last level has one.
    references: Vec<Vec<BlockRef>>,
    /// Released in this interval, a checkpoint refers to them.
    released: Vec<u32>,
    /// Released in this interval, which they were allocated in.
    released_fresh: Vec<u32>,
    released_before: Vec<u32>,
    /// Everything below is not free.
    cursor: u32,
    /// One past the highest that is not free.
    required: u32,
    /// How many are not free.
    used_count: u32,
    /// Pages of the frozen checkpoint that are not sealed; of chunks the content.
    frozen: BTreeMap<PageAddress, Option<Arc<Vec<u8>>>>,
}

#[derive(Debug)]
struct Chunk {
    codes: Arc<Vec<u8>>,
    free_count: u32,
    /// Codes that differ from what is in the last checkpoint. Codes only move forward in an
    /// interval, so each change counts once, and an undone one not at all.
    changes_count: u32,
}

/// A page of the free set that is to be written.
#[derive(Debug, PartialEq, Eq)]
pub struct FreeSetPage {
    /// Where in the grid.
    pub index: u32,
    /// A chunk or an index page.
    pub kind: BlockKind,
    /// What it holds.
    pub body: Vec<u8>,
}

impl FreeSet {
    /// All free, for blocks of `block_size` bytes.
    pub fn new(block_size: u32) -> Self {
        Self::with_page_size(block_body_size_max(block_size))
    }

    fn with_page_size(page_size: u32) -> Self {
        assert!(page_size.is_multiple_of(8), "searched by words");
        assert!(page_size as usize >= 2 * BlockRef::SIZE);
        let mut free_set = Self {
            page_size,
            chunks: Vec::new(),
            references: vec![Vec::new()],
            released: Vec::new(),
            released_fresh: Vec::new(),
            released_before: Vec::new(),
            cursor: 0,
            required: 0,
            used_count: 0,
            frozen: BTreeMap::new(),
        };
        let mut pages = u32::MAX.div_ceil(free_set.indexes_per_chunk());
        while pages > 1 {
            pages = pages.div_ceil(free_set.fanout());
            free_set.references.push(Vec::new());
        }
        free_set
    }

    /// Takes the lowest free index.
    pub fn allocate(&mut self) -> u32 {
        let per_chunk = self.indexes_per_chunk();
        loop {
            let chunk_index = self.cursor / per_chunk;
            if chunk_index as usize == self.chunks.len() {
                self.chunks.push(Chunk::new(self.page_size));
            }
            let chunk = &self.chunks[chunk_index as usize];
            let start = chunk_index * per_chunk;
            if chunk.free_count == 0 {
                self.cursor = start.checked_add(per_chunk).expect("fewer than 2^32 blocks");
                continue;
            }
            let index = start + lowest_free(&chunk.codes, self.cursor - start);
            assert_eq!(self.code(index), CODE_FREE);
            self.set_code(index, CODE_USED);
            self.chunk_mut(index).changes_count += 1;
            self.cursor = index.checked_add(1).expect("fewer than 2^32 blocks");
            return index;
        }
    }

    /// Takes back the last [`Self::allocate`] that was not taken back, which gave `index`, as if it
    /// had never been.
    pub fn undo_allocate(&mut self, index: u32) {
        assert_eq!(self.code(index), CODE_USED);
        self.set_code(index, CODE_FREE);
        self.shrink_required();
        let chunk = self.chunk_mut(index);
        assert!(chunk.changes_count > 0);
        chunk.changes_count -= 1;
        self.cursor = self.cursor.min(index);
    }

    /// Gives up a block in the interval that ends with checkpoint `op`.
    pub fn release(&mut self, reference: &BlockRef, op: Op) {
        assert!(!reference.is_none());
        assert!(reference.op <= op, "a block of a later interval");
        assert_eq!(self.code(reference.index), CODE_USED);
        self.set_code(reference.index, CODE_RELEASED);
        self.chunk_mut(reference.index).changes_count += 1;
        self.released_list(reference, op).push(reference.index);
    }

    /// Takes back the last [`Self::release`] that was not taken back, as if it had never been.
    pub fn undo_release(&mut self, reference: &BlockRef, op: Op) {
        let last = self.released_list(reference, op).pop();
        assert_eq!(last, Some(reference.index), "undone in reverse");
        assert_eq!(self.code(reference.index), CODE_RELEASED);
        self.set_code(reference.index, CODE_USED);
        let chunk = self.chunk_mut(reference.index);
        assert!(chunk.changes_count > 0);
        chunk.changes_count -= 1;
    }

    /// Ends the interval of checkpoint `op`. The pages that this changes are to be written:
    /// [`Self::frozen_next`].
    pub fn freeze(&mut self, op: Op) {
        assert!(op > 0);
        assert!(self.frozen.is_empty(), "the checkpoint before is not written");
        let changed = self.chunks_changed();
        self.relocate(changed, op);
        for index in std::mem::take(&mut self.released_before) {
            assert_eq!(self.code(index), CODE_RELEASED_BEFORE);
            self.free(index);
        }
        for index in std::mem::take(&mut self.released_fresh) {
            assert_eq!(self.code(index), CODE_RELEASED);
            self.free(index);
        }
        for index in std::mem::take(&mut self.released) {
            assert_eq!(self.code(index), CODE_RELEASED);
            if defect!("block_reused_early") {
                self.free(index);
                continue;
            }
            self.set_code(index, CODE_RELEASED_BEFORE);
            self.released_before.push(index);
        }
        // A set: whoever loads the checkpoint finds them in this order.
        self.released_before.sort_unstable();
        self.shrink_required();
        for ((level, position), content) in &mut self.frozen {
            if *level == 0 {
                let chunk = &mut self.chunks[*position as usize];
                chunk.changes_count = 0;
                *content = Some(Arc::clone(&chunk.codes));
            }
        }
        assert!(self.chunks.iter().all(|chunk| chunk.changes_count == 0));
    }

    /// The page of the frozen checkpoint to seal next; children come before their parents. `None`
    /// when all are sealed.
    pub fn frozen_next(&self) -> Option<FreeSetPage> {
        let ((level, position), content) = self.frozen.first_key_value()?;
        let index = self.references[*level as usize][*position as usize].index;
        let Some(codes) = content else {
            let body = self.index_page(*level, *position);
            return Some(FreeSetPage { index, kind: BlockKind::FreeSetIndex, body });
        };
        assert_eq!(*level, 0);
        Some(FreeSetPage { index, kind: BlockKind::FreeSet, body: codes.to_vec() })
    }

    /// The page of [`Self::frozen_next`] is sealed, and this is its reference.
    pub fn on_sealed(&mut self, sealed: &BlockRef) {
        let ((level, position), _) = self.frozen.pop_first().expect("it was handed out");
        let reference = &mut self.references[level as usize][position as usize];
        assert_eq!((reference.index, reference.op), (sealed.index, sealed.op));
        *reference = *sealed;
    }

    /// The places of the pages that the last freeze moved and that are not sealed.
    pub fn frozen_indexes(&self) -> impl Iterator<Item = u32> + '_ {
        self.frozen.keys().map(|address| self.reference(*address).index)
    }

    /// The root of what the last freeze made, once all its pages are sealed.
    pub fn root(&self) -> BlockRef {
        assert!(self.frozen.is_empty());
        self.references.last().and_then(|level| level.first()).copied().unwrap_or(BlockRef::NONE)
    }

    /// Where the root stands.
    pub fn root_address(&self) -> PageAddress {
        let level = u8::try_from(self.references.len() - 1).expect("a handful of levels");
        (level, 0)
    }

    /// Takes a page of a checkpoint into a set that is being loaded, the root first: `reference` is
    /// that of the page. Pushes what is beneath, to be loaded in any order.
    ///
    /// # Errors
    /// Why this is no such page.
    pub fn load_page(
        &mut self,
        address: PageAddress,
        reference: &BlockRef,
        body: &[u8],
        beneath: &mut Vec<(PageAddress, BlockRef)>,
    ) -> Result<(), &'static str> {
        self.page_children(address, body, beneath)?;
        let (level, position) = address;
        if level == 0 {
            let free_count = chunk_codes(body).map(|code| u32::from(code == CODE_FREE)).sum();
            while self.chunks.len() <= position as usize {
                self.chunks.push(Chunk::new(self.page_size));
            }
            let codes = Arc::new(body.to_vec());
            self.chunks[position as usize] = Chunk { codes, free_count, changes_count: 0 };
        }
        self.set_reference(address, *reference);
        Ok(())
    }

    /// Pushes what is beneath a page.
    ///
    /// # Errors
    /// Why this is no such page.
    pub fn page_children(
        &self,
        (level, position): PageAddress,
        body: &[u8],
        beneath: &mut Vec<(PageAddress, BlockRef)>,
    ) -> Result<(), &'static str> {
        if level == 0 {
            if body.len() != self.page_size as usize {
                return Err("a chunk of another size");
            }
            // The high bit of a pair without the low one.
            if body.iter().any(|byte| byte >> 1 & !byte & 0x55 != 0) {
                return Err("a chunk with a code that is in no checkpoint");
            }
            return Ok(());
        }
        if body.len() != self.fanout() as usize * BlockRef::SIZE {
            return Err("an index page of another size");
        }
        for (child, bytes) in (position * self.fanout()..).zip(body.chunks(BlockRef::SIZE)) {
            let reference = BlockRef::decode(bytes.first_chunk().expect("of this size"));
            if !reference.is_none() {
                beneath.push(((level - 1, child), reference));
            }
        }
        Ok(())
    }

    /// The chunks that are beneath a page, or would be; of a chunk, itself.
    pub fn chunks_beneath(&self, (level, position): PageAddress) -> Range<u64> {
        let each = u64::from(self.fanout()).pow(u32::from(level));
        u64::from(position) * each..(u64::from(position) + 1) * each
    }

    /// All pages are loaded.
    pub fn load_finish(&mut self) {
        assert_eq!(self.used_count, 0);
        assert!(self.released_before.is_empty());
        let per_chunk = self.indexes_per_chunk();
        for (start, chunk) in (0..).step_by(per_chunk as usize).zip(&self.chunks) {
            if chunk.free_count == per_chunk {
                continue;
            }
            for at in 0..per_chunk {
                let code = code_at(&chunk.codes, at);
                if code != CODE_FREE {
                    self.used_count += 1;
                    self.required = start + at + 1;
                }
                if code == CODE_RELEASED_BEFORE {
                    self.released_before.push(start + at);
                }
            }
        }
    }

    /// One past the highest index in use: the grid must have so many blocks.
    pub fn required(&self) -> u32 {
        self.required
    }

    /// How many indexes are not free.
    pub fn used_count(&self) -> u32 {
        self.used_count
    }

    /// The first of the places that the chunk at place `index` of the grid speaks of; `None` if
    /// that is no chunk of this set.
    pub fn chunk_start(&self, index: u32) -> Option<u32> {
        let is_it = |reference: &BlockRef| !reference.is_none() && reference.index == index;
        let position = self.references[0].iter().position(is_it)?;
        Some(u32::try_from(position).expect("indexes are 32 bits") * self.indexes_per_chunk())
    }

    /// Whether `index` is free.
    pub fn is_free(&self, index: u32) -> bool {
        index >= self.required || self.code(index) == CODE_FREE
    }

    /// Whether a checkpoint of this moment refers to `index`.
    pub fn is_used(&self, index: u32) -> bool {
        self.code(index) == CODE_USED
    }

    /// Those whose code in the checkpoint will be another one than in the last.
    fn chunks_changed(&self) -> BTreeMap<PageAddress, ()> {
        let per_chunk = self.indexes_per_chunk();
        let mut changed = BTreeMap::new();
        for (position, chunk) in (0..).zip(&self.chunks) {
            if chunk.changes_count > 0 {
                changed.insert((0, position), ());
            }
        }
        for index in &self.released_before {
            changed.insert((0, index / per_chunk), ());
        }
        changed
    }

    /// Gives new places to the pages of `changed`, and to those that this changes.
    fn relocate(&mut self, mut changed: BTreeMap<PageAddress, ()>, op: Op) {
        let per_chunk = self.indexes_per_chunk();
        while let Some((address, ())) = changed.pop_first() {
            let again = self.frozen.insert(address, None);
            assert!(again.is_none(), "a page moves once");
            let (level, position) = address;
            let mut touched = Vec::new();
            let old = self.reference(address);
            if !old.is_none() {
                assert!(old.op < op, "a page moves once");
                self.release(&old, op);
                touched.push((0, old.index / per_chunk));
            }
            let index = self.allocate();
            touched.push((0, index / per_chunk));
            self.set_reference(address, BlockRef { index, op, ..BlockRef::NONE });
            if address != self.root_address() {
                touched.push((level + 1, position / self.fanout()));
            }
            for address in touched {
                if !self.frozen.contains_key(&address) {
                    changed.insert(address, ());
                }
            }
        }
    }

    fn index_page(&self, level: u8, position: u32) -> Vec<u8> {
        assert!(level > 0);
        let fanout = self.fanout();
        let mut body = Vec::with_capacity(fanout as usize * BlockRef::SIZE);
        for child in position * fanout..(position + 1) * fanout {
            body.extend_from_slice(&self.reference((level - 1, child)).encode());
        }
        body
    }

    fn reference(&self, (level, position): PageAddress) -> BlockRef {
        self.references[level as usize].get(position as usize).copied().unwrap_or(BlockRef::NONE)
    }

    fn set_reference(&mut self, (level, position): PageAddress, reference: BlockRef) {
        let references = &mut self.references[level as usize];
        if references.len() <= position as usize {
            references.resize(position as usize + 1, BlockRef::NONE);
        }
        references[position as usize] = reference;
    }

    fn released_list(&mut self, reference: &BlockRef, op: Op) -> &mut Vec<u32> {
        if reference.op == op { &mut self.released_fresh } else { &mut self.released }
    }

    fn free(&mut self, index: u32) {
        self.set_code(index, CODE_FREE);
        self.cursor = self.cursor.min(index);
    }

    fn shrink_required(&mut self) {
        while self.required > 0 && self.code(self.required - 1) == CODE_FREE {
            self.required -= 1;
        }
    }

    fn code(&self, index: u32) -> u8 {
        let per_chunk = self.indexes_per_chunk();
        match self.chunks.get((index / per_chunk) as usize) {
            Some(chunk) => code_at(&chunk.codes, index % per_chunk),
            None => CODE_FREE,
        }
    }

    fn set_code(&mut self, index: u32, code: u8) {
        let at = index % self.indexes_per_chunk();
        let chunk = self.chunk_mut(index);
        let old = code_at(&chunk.codes, at);
        assert_ne!(old, code);
        let byte = &mut Arc::make_mut(&mut chunk.codes)[(at / INDEXES_PER_BYTE) as usize];
        let shift = 2 * (at % INDEXES_PER_BYTE);
        *byte = *byte & !(3 << shift) | code << shift;
        if code == CODE_FREE {
            chunk.free_count += 1;
            self.used_count -= 1;
        } else if old == CODE_FREE {
            chunk.free_count -= 1;
            self.used_count += 1;
            self.required = self.required.max(index + 1);
        }
    }

    fn chunk_mut(&mut self, index: u32) -> &mut Chunk {
        let per_chunk = self.indexes_per_chunk();
        &mut self.chunks[(index / per_chunk) as usize]
    }

    fn indexes_per_chunk(&self) -> u32 {
        self.page_size * INDEXES_PER_BYTE
    }

    /// References in an index page.
    fn fanout(&self) -> u32 {
        self.page_size / u32::try_from(BlockRef::SIZE).expect("20")
    }
}

impl Chunk {
    fn new(page_size: u32) -> Self {
        let codes = Arc::new(vec![0; page_size as usize]);
        Self { codes, free_count: page_size * INDEXES_PER_BYTE, changes_count: 0 }
    }
}

/// What the body of a chunk says of each of its places, in order: 0 free, 1 used, 3 released
/// before.
pub fn chunk_codes(body: &[u8]) -> impl Iterator<Item = u8> + '_ {
    body.iter().flat_map(|byte| (0..INDEXES_PER_BYTE).map(move |at| byte >> (2 * at) & 3))
}

fn code_at(codes: &[u8], at: u32) -> u8 {
    codes[(at / INDEXES_PER_BYTE) as usize] >> (2 * (at % INDEXES_PER_BYTE)) & 3
}

/// The first free one at `from` or after it; there is one.
fn lowest_free(codes: &[u8], from: u32) -> u32 {
    let first = from / INDEXES_PER_WORD;
    for (word, bytes) in (0..).zip(codes.chunks_exact(8)).skip(first as usize) {
        let codes = u64::from_le_bytes(*bytes.first_chunk().expect("a word"));
        // The low bit of each pair of zeros.
        let mut free = !(codes | codes >> 1) & 0x5555_5555_5555_5555;
        if word == first {
            free &= u64::MAX << (2 * (from % INDEXES_PER_WORD));
        }
        if free != 0 {
            return word * INDEXES_PER_WORD + free.trailing_zeros() / 2;
        }
    }
    panic!("a chunk with {from} used in front and none free");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;
    use std::collections::BTreeSet;

    /// What each index is, told plainly.
    #[derive(Debug, Clone, Default)]
    struct Model {
        used: BTreeMap<u32, Op>,
        released: BTreeSet<u32>,
        released_fresh: BTreeSet<u32>,
        released_before: BTreeSet<u32>,
    }

    impl Model {
        fn is_free(&self, index: u32) -> bool {
            !self.used.contains_key(&index)
                && !self.released.contains(&index)
                && !self.released_fresh.contains(&index)
                && !self.released_before.contains(&index)
        }

        fn lowest_free(&self) -> u32 {
            (0..).find(|index| self.is_free(*index)).unwrap()
        }

        fn release(&mut self, index: u32, op: Op) -> BlockRef {
            let of = self.used.remove(&index).unwrap();
            let fresh = of == op;
            let list = if fresh { &mut self.released_fresh } else { &mut self.released };
            list.insert(index);
            BlockRef { index, op: of, ..BlockRef::NONE }
        }

        fn freeze(&mut self) {
            self.released_fresh.clear();
            self.released_before = std::mem::take(&mut self.released);
        }
    }

    /// Seals all pages; those in the places they were given.
    fn seal(free_set: &mut FreeSet, op: Op, pages: &mut BTreeMap<BlockRef, FreeSetPage>) {
        while let Some(page) = free_set.frozen_next() {
            let checksum = crc32c::crc32c(&page.body);
            let reference = BlockRef { index: page.index, op, checksum, checksum_body: 1 };
            free_set.on_sealed(&reference);
            pages.insert(reference, page);
        }
    }

    fn load(page_size: u32, root: BlockRef, pages: &BTreeMap<BlockRef, FreeSetPage>) -> FreeSet {
        let mut free_set = FreeSet::with_page_size(page_size);
        let mut beneath = vec![(free_set.root_address(), root)];
        while let Some((address, reference)) = beneath.pop() {
            let body = &pages[&reference].body;
            free_set.load_page(address, &reference, body, &mut beneath).unwrap();
        }
        free_set.load_finish();
        free_set
    }

    fn assert_same(a: &FreeSet, b: &FreeSet) {
        assert_eq!(a.required, b.required);
        assert_eq!(a.used_count, b.used_count);
        assert_eq!(a.released_before, b.released_before);
        for index in 0..a.required {
            assert_eq!(a.code(index), b.code(index), "{index}");
        }
        for (a, b) in a.references.iter().zip(&b.references) {
            let trimmed = |level: &Vec<BlockRef>| {
                let end = level.iter().rposition(|one| !one.is_none()).map_or(0, |at| at + 1);
                level[..end].to_vec()
            };
            assert_eq!(trimmed(a), trimmed(b));
        }
    }

    #[test]
    fn every_short_history_follows_the_model() {
        // 0: allocate; 1: freeze; 2..: release the lowest, the second, the last used.
        let choices = 5_u64;
        for history in 0..choices.pow(7) {
            let (mut free_set, mut model) = (FreeSet::with_page_size(40), Model::default());
            let (mut op, mut rest) = (32, history);
            for _ in 0..7 {
                let choice = rest % choices;
                rest /= choices;
                let nth = match choice {
                    0 => {
                        let index = free_set.allocate();
                        assert_eq!(index, model.lowest_free());
                        model.used.insert(index, op);
                        continue;
                    }
                    1 => {
                        freeze_both(&mut free_set, &mut model, op);
                        op += 32;
                        continue;
                    }
                    2 => 0,
                    3 => 1,
                    _ => model.used.len().saturating_sub(1),
                };
                if let Some(index) = model.used.keys().nth(nth).copied() {
                    let own = |of: &BlockRef| of.index == index;
                    if !free_set.references.iter().flatten().any(own) {
                        free_set.release(&model.release(index, op), op);
                    }
                }
            }
            let top = free_set.required() + 2;
            assert!((0..top).all(|index| free_set.is_free(index) == model.is_free(index)));
        }
    }

    /// Freezes both; the model is told of the places that the free set gave to itself.
    fn freeze_both(free_set: &mut FreeSet, model: &mut Model, op: Op) {
        let before: Vec<BlockRef> = free_set.references.iter().flatten().copied().collect();
        free_set.freeze(op);
        let after: Vec<BlockRef> = free_set.references.iter().flatten().copied().collect();
        for new in after.iter().filter(|new| new.op == op) {
            assert!(model.is_free(new.index), "given out twice");
            model.used.insert(new.index, op);
        }
        for old in before.iter().filter(|old| !old.is_none() && !after.contains(old)) {
            model.release(old.index, op);
        }
        model.freeze();
        seal(free_set, op, &mut BTreeMap::new());
    }

    #[test]
    fn a_loaded_set_goes_on_as_the_one_that_froze() {
        for seed in 0..20 {
            let mut prng = Prng::from_seed(seed);
            let page_size = [40, 48, 3968][prng.index(3)];
            let mut free_set = FreeSet::with_page_size(page_size);
            let mut pages = BTreeMap::new();
            let mut used: Vec<BlockRef> = Vec::new();
            for op in (1..30).map(|k| k * 32) {
                let mut last_undone = None;
                for _ in 0..prng.below(400) {
                    match prng.below(5) {
                        0 | 1 if !used.is_empty() => {
                            let at = prng.index(used.len());
                            free_set.release(&used[at], op);
                            if prng.below(2) == 0 {
                                free_set.undo_release(&used[at], op);
                            } else {
                                used.swap_remove(at);
                            }
                        }
                        2 => {
                            let index = free_set.allocate();
                            free_set.undo_allocate(index);
                            last_undone = Some(index);
                        }
                        _ => {
                            let index = free_set.allocate();
                            assert!(last_undone.take().is_none_or(|undone| undone >= index));
                            used.push(BlockRef { index, op, ..BlockRef::NONE });
                        }
                    }
                }
                free_set.freeze(op);
                seal(&mut free_set, op, &mut pages);
                let loaded = load(page_size, free_set.root(), &pages);
                assert_same(&free_set, &loaded);
                if prng.below(3) == 0 {
                    free_set = loaded;
                }
            }
            assert!(free_set.used_count() > 100);
        }
    }

    #[test]
    fn what_is_undone_writes_nothing() {
        let mut free_set = FreeSet::new(4096);
        let far: Vec<u32> = (0..40_000).map(|_| free_set.allocate()).collect();
        free_set.freeze(32);
        seal(&mut free_set, 32, &mut BTreeMap::new());
        free_set.freeze(64);
        seal(&mut free_set, 64, &mut BTreeMap::new());
        let old = BlockRef { index: far[0], op: 32, ..BlockRef::NONE };
        let cursor = free_set.cursor;
        free_set.release(&old, 96);
        let index = free_set.allocate();
        free_set.undo_allocate(index);
        free_set.undo_release(&old, 96);
        assert!(free_set.chunks.iter().all(|chunk| chunk.changes_count == 0));
        assert!(free_set.cursor >= cursor);
        assert_eq!(free_set.allocate(), index);
    }

    #[test]
    fn a_freeze_costs_what_changed() {
        let mut free_set = FreeSet::new(4096);
        let mut count = |allocations: u32, op: Op| {
            for _ in 0..allocations {
                free_set.allocate();
            }
            free_set.freeze(op);
            let mut pages = BTreeMap::new();
            seal(&mut free_set, op, &mut pages);
            pages.len()
        };
        let large = count(1_000_000, 32);
        assert!(large > 60);
        // Their own old places come from all over the grid only once.
        for op in (2..6).map(|k| k * 32) {
            let small = count(10, op);
            assert!(op < 4 * 32 || small <= 6, "{small} pages");
        }
    }

    #[test]
    fn damaged_pages_are_refused() {
        let mut free_set = FreeSet::new(4096);
        let mut beneath = Vec::new();
        let reference = BlockRef { index: 1, op: 32, checksum: 1, checksum_body: 1 };
        for (address, body) in [((0, 0), vec![2; 3968]), ((0, 0), vec![0; 8]), ((1, 0), vec![])] {
            let loaded = free_set.load_page(address, &reference, &body, &mut beneath);
            assert!(loaded.is_err());
        }
        assert!(beneath.is_empty());
    }

    #[test]
    fn the_chunks_beneath_a_page_are_those_that_its_references_lead_to() {
        let set = FreeSet::new(4096);
        assert_eq!(set.chunks_beneath((0, 5)), 5..6);
        assert_eq!(set.chunks_beneath((1, 0)), 0..198);
        assert_eq!(set.chunks_beneath((1, 3)), 594..792);
        assert_eq!(set.chunks_beneath((2, 1)), 198 * 198..2 * 198 * 198);
    }

    #[test]
    fn a_full_chunk_is_followed_by_the_next() {
        let mut set = FreeSet::with_page_size(40);
        for index in 0..1000 {
            assert_eq!(set.allocate(), index);
        }
        assert_eq!((set.used_count(), set.required()), (1000, 1000));
    }
}
