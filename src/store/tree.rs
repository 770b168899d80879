//! F3: the tree: a copy-on-write B+tree of packed pages, in memory as far as the cache goes.
//!
//! ```text
//!             root ──► [ inner: separators, references ]           level 2
//!                        │                    │
//!               [ inner ]               [ inner ]                  level 1
//!               │       │               │       │
//!            [leaf]   [leaf]         [leaf]   [leaf] ──► blocks    level 0
//!                                                        of large values
//! ```
//!
//! A change makes all pages from the root to the leaf pages of the present interval: one of an
//! older interval is copied to a new place, and the old one released; one of the present interval
//! is changed in place, since no checkpoint refers to it. The rules, each a function of the pages
//! alone:
//!
//! * A record without room splits its page: after the last record only the new one goes to the page
//!   on the right, else the halves are as even as can be.
//! * A page that lost bytes and has less than a quarter is merged with its left neighbour under the
//!   same parent, else with its right one, if both together fill no more than three quarters. A
//!   page without records leaves its parent, and a root with one child makes room for it.
//!
//! What an attempt changes can be taken back until [`Tree::commit`]: the images of pages as they
//! were, and the places given out and released, in reverse. So when a page is missing in the middle
//! of an attempt, [`Tree::rollback`] leaves the tree as if there had been none.
//!
//! **Invariants:** structure and addresses are a function of the committed operations and of where
//! the intervals end; neither the cache, nor what was written when, nor attempts that were taken
//! back have a part in it. A page that is not cached is sealed, and so are those beneath it. The
//! pages above a dirty page of the present interval are dirty and cached, or the present attempt is
//! on its way to them.
//!
//! **Not here:** attempts and what suspends them (`mod`); how pages come and go (`checkpoint`,
//! `load`).

use super::Start;
use super::cache::{Cache, Content, Entry, Slot};
use super::digest::record_hash;
use super::page::{self, Page, Value};
use super::sealed::Sealed;
use crate::storage::FreeSet;
use crate::storage::block::{BlockKind, block_body_size_max};
use crate::wire::{BlockRef, ClusterId, Op};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeSet;

/// A block that is needed is not here. It is in [`Tree::wanted`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Miss;

/// The root of a tree, and what is known of the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Root {
    /// [`BlockRef::NONE`] of an empty tree.
    pub(super) reference: BlockRef,
    /// Levels; 0 of an empty tree.
    pub(super) height: u8,
    pub(super) records_count: u64,
    /// The sum of the hashes of all records.
    pub(super) digest: u64,
}

/// What an attempt did, to be taken back in reverse.
#[derive(Debug)]
enum Undo {
    Image { slot: Slot, page: Page },
    Allocated { slot: Slot },
    Released { reference: BlockRef },
}

/// A page on the way to a leaf, and which child the way goes on to.
#[derive(Debug, Clone, Copy)]
struct Step {
    slot: Slot,
    child: usize,
}

/// See the head of this file.
#[derive(Debug)]
pub(super) struct Tree {
    pub(super) cluster: ClusterId,
    /// Bytes in the body of a block.
    pub(super) page_size: u32,
    /// The checkpoint that the present interval ends with.
    pub(super) op: Op,
    pub(super) root: Root,
    pub(super) free_set: FreeSet,
    pub(super) cache: Cache,
    pub(super) sealed: Sealed,
    /// Of the present interval, by rank and index: what differs from the disk.
    pub(super) dirty: BTreeSet<(u8, u32)>,
    /// What accesses missed.
    pub(super) wanted: RefCell<BTreeSet<BlockRef>>,
    /// Places given out, and blocks released, since they were asked for.
    allocated: BTreeSet<u32>,
    released: BTreeSet<(u32, Op)>,
    attempt: u64,
    undo: Vec<Undo>,
    /// Before the attempt.
    root_before: Root,
    /// Spare images.
    images: Vec<Page>,
}

impl Tree {
    /// An empty tree in the first interval, which ends with checkpoint `op`.
    pub(super) fn new(cluster: ClusterId, block_size: u32, op: Op, cache_count_max: usize) -> Self {
        let mut sealed = Sealed::default();
        sealed.begin(op);
        Self {
            cluster,
            page_size: block_body_size_max(block_size),
            op,
            root: Root::default(),
            free_set: FreeSet::new(block_size),
            cache: Cache::new(cache_count_max),
            sealed,
            dirty: BTreeSet::new(),
            wanted: RefCell::new(BTreeSet::new()),
            allocated: BTreeSet::new(),
            released: BTreeSet::new(),
            attempt: 1,
            undo: Vec::new(),
            root_before: Root::default(),
            images: Vec::new(),
        }
    }

    /// Goes on from a checkpoint.
    pub(super) fn start_from(&mut self, root: Root, free_set: FreeSet) {
        assert_eq!(self.root, Root::default());
        assert!(self.undo.is_empty() && self.dirty.is_empty());
        self.root = root;
        self.root_before = root;
        self.free_set = free_set;
    }

    /// The value under `key`.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Miss> {
        let Some((leaf, at)) = self.find(key)? else { return Ok(None) };
        self.value(leaf, at).map(Some)
    }

    /// The first bytes of the value under `key`, at most as many as a block has.
    pub(super) fn get_start(&self, key: &[u8], size_max: u32) -> Result<Option<Start>, Miss> {
        let Some((leaf, at)) = self.find(key)? else { return Ok(None) };
        let start = match leaf.value(at) {
            Value::Inline(bytes) => {
                let size = u32::try_from(bytes.len()).expect("less than a page");
                let bytes = Bytes::copy_from_slice(&bytes[..size.min(size_max) as usize]);
                Start { size, bytes }
            }
            Value::Large { size, .. } if size_max == 0 => Start { size, bytes: Bytes::new() },
            Value::Large { size, reference, .. } => {
                let bytes = self.read_value_start(&reference, size, size.min(size_max))?;
                Start { size, bytes }
            }
        };
        Ok(Some(start))
    }

    /// The leaf that has `key`, and where in it.
    fn find(&self, key: &[u8]) -> Result<Option<(&Page, usize)>, Miss> {
        if self.root.height == 0 {
            return Ok(None);
        }
        let mut reference = self.root.reference;
        for level in (1..self.root.height).rev() {
            let page = self.page(&reference, level)?;
            reference = page.child(page.search_child(key));
        }
        let leaf = self.page(&reference, 0)?;
        Ok(leaf.search(key).ok().map(|at| (leaf, at)))
    }

    /// The value of record `at` of a leaf.
    pub(super) fn value(&self, leaf: &Page, at: usize) -> Result<Bytes, Miss> {
        match leaf.value(at) {
            Value::Inline(bytes) => Ok(Bytes::copy_from_slice(bytes)),
            Value::Large { size, reference, .. } => self.read_value(&reference, size),
        }
    }

    /// Wants the first page on the way to `key` that is not here. Whether there was none.
    pub(super) fn prefetch(&self, key: &[u8]) -> bool {
        let mut reference = self.root.reference;
        for level in (0..self.root.height).rev() {
            let Ok(page) = self.page(&reference, level) else { return false };
            if level > 0 {
                reference = page.child(page.search_child(key));
            }
        }
        true
    }

    /// The page that `reference` names, of `level`.
    pub(super) fn page(&self, reference: &BlockRef, level: u8) -> Result<&Page, Miss> {
        let slot = self.page_slot(reference, level)?;
        Ok(self.cache.entry(slot).page())
    }

    fn page_slot(&self, reference: &BlockRef, level: u8) -> Result<Slot, Miss> {
        assert!(!reference.is_none());
        let Some(slot) = self.cache.find(reference.index, reference.op) else {
            let reference = self.sealed.resolve(reference);
            self.want(reference.expect("a page that is not here was written"));
            return Err(Miss);
        };
        assert_eq!(self.cache.entry(slot).page().level(), level, "block {}", reference.index);
        Ok(slot)
    }

    /// Notes a block that is needed and not here.
    pub(super) fn want(&self, reference: BlockRef) {
        self.wanted.borrow_mut().insert(reference);
    }

    /// Stores `value` under `key`.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Miss> {
        if self.root.height == 0 {
            self.plant();
        }
        let mut path = self.path(key)?;
        let leaf = path.last().expect("a leaf").slot;
        let found = self.cache.entry(leaf).page().search(key);
        let inline = page::is_inline(key.len(), value.len(), self.page_size);
        let (hash, digest) = record_hash(key, value);
        if let Ok(at) = found {
            if self.cache.entry(leaf).page().value(at) == Value::Inline(value) {
                return Ok(());
            }
            self.forget(leaf, at)?;
        }
        self.make_writable(&mut path);
        let leaf = path.last().expect("a leaf").slot;
        let size = u32::try_from(value.len()).expect("a value is smaller than a message");
        let head = page::leaf_record_head(key, size);
        let large;
        let payload = if inline {
            value
        } else {
            large = page::large_value(hash, &self.write_value(value));
            &large
        };
        self.root.records_count += 1;
        self.root.digest = self.root.digest.wrapping_add(digest);
        let size_before = self.cache.entry(leaf).page().size();
        let at = match found {
            Ok(at) => {
                self.edit(leaf).remove(at);
                at
            }
            Err(at) => at,
        };
        self.insert(&path, at, &[&head, key, payload]);
        if self.cache.entry(leaf).page().size() < size_before {
            self.rebalance(&path)?;
        }
        Ok(())
    }

    /// Deletes `key`, if it is there.
    pub(super) fn delete(&mut self, key: &[u8]) -> Result<(), Miss> {
        if self.root.height == 0 {
            return Ok(());
        }
        let mut path = self.path(key)?;
        let leaf = path.last().expect("a leaf").slot;
        let Ok(at) = self.cache.entry(leaf).page().search(key) else { return Ok(()) };
        self.forget(leaf, at)?;
        self.make_writable(&mut path);
        let leaf = path.last().expect("a leaf").slot;
        self.edit(leaf).remove(at);
        self.rebalance(&path)
    }

    /// Makes what was done since the last commit final.
    pub(super) fn commit(&mut self) {
        for undo in std::mem::take(&mut self.undo) {
            match undo {
                Undo::Image { page, .. } => self.images.push(page),
                Undo::Allocated { slot } => {
                    self.allocated.insert(self.cache.entry(slot).index);
                }
                Undo::Released { .. } => {
                    // After the loop: its place may be one that was given out above.
                    self.undo.push(undo);
                }
            }
        }
        for undo in std::mem::take(&mut self.undo) {
            if let Undo::Released { reference } = undo {
                self.released.insert((reference.index, reference.op));
                self.drop_released(&reference);
            }
        }
        self.images.truncate(IMAGES_MAX);
        self.attempt += 1;
        self.root_before = self.root;
    }

    /// Takes back what was done since the last commit.
    pub(super) fn rollback(&mut self) {
        while let Some(undo) = self.undo.pop() {
            match undo {
                Undo::Image { slot, page } => {
                    self.cache.entry_mut(slot).page_mut().copy_from(&page);
                    self.images.push(page);
                }
                Undo::Allocated { slot } => {
                    let entry = self.cache.entry(slot);
                    let (rank, index) = (entry.rank(), entry.index);
                    let dirty = self.dirty.remove(&(rank, index));
                    assert!(dirty, "nothing is written in an attempt");
                    self.cache.remove(index);
                    self.free_set.undo_allocate(index);
                }
                Undo::Released { reference } => self.free_set.undo_release(&reference, self.op),
            }
        }
        self.images.truncate(IMAGES_MAX);
        self.attempt += 1;
        self.root = self.root_before;
    }

    /// The places given out, and the blocks released, since this was last asked.
    pub(super) fn take_changes(&mut self) -> (BTreeSet<u32>, BTreeSet<(u32, Op)>) {
        (std::mem::take(&mut self.allocated), std::mem::take(&mut self.released))
    }

    /// Lets a block that is not referred to any more leave the cache, if nothing else needs it.
    fn drop_released(&mut self, reference: &BlockRef) {
        let Some(slot) = self.cache.peek(reference.index, reference.op) else { return };
        let entry = self.cache.entry(slot);
        if reference.op == self.op {
            let (rank, index) = (entry.rank(), entry.index);
            self.dirty.remove(&(rank, index));
            self.sealed.remove(index, self.op);
            self.cache.remove(index);
        } else if !entry.dirty {
            self.cache.remove(reference.index);
        }
    }

    fn path(&self, key: &[u8]) -> Result<Vec<Step>, Miss> {
        assert!(self.root.height > 0);
        let mut path = Vec::with_capacity(usize::from(self.root.height));
        let mut reference = self.root.reference;
        for level in (0..self.root.height).rev() {
            let slot = self.page_slot(&reference, level)?;
            let mut child = 0;
            if level > 0 {
                let page = self.cache.entry(slot).page();
                child = page.search_child(key);
                reference = page.child(child);
            }
            path.push(Step { slot, child });
        }
        Ok(path)
    }

    /// The first leaf.
    fn plant(&mut self) {
        assert!(self.root.reference.is_none());
        let leaf = self.new_page(Page::new(0, self.page_size));
        self.root.reference = self.reference(leaf);
        self.root.height = 1;
    }

    /// Gives up the value of a record that is about to go.
    fn forget(&mut self, leaf: Slot, at: usize) -> Result<(), Miss> {
        let page = self.cache.entry(leaf).page();
        let key = page.key(at);
        let digest = match page.value(at) {
            Value::Inline(value) => record_hash(key, value).1,
            Value::Large { size, hash, reference } => {
                let digest = super::digest::record_hash_of(key, size, hash);
                self.release_value(&reference, size)?;
                digest
            }
        };
        self.root.digest = self.root.digest.wrapping_sub(digest);
        self.root.records_count -= 1;
        Ok(())
    }

    /// Inserts a record at `at` of the leaf that `path` leads to, and what follows from it above.
    fn insert(&mut self, path: &[Step], at: usize, parts: &[&[u8]]) {
        let leaf = path.last().expect("a leaf").slot;
        let Some((mut separator, mut right)) = self.insert_record(leaf, at, parts) else { return };
        for step in path[..path.len() - 1].iter().rev() {
            let right_reference = self.reference(right).encode();
            let parts: [&[u8]; 2] = [&separator, &right_reference];
            let Some(split) = self.insert_record(step.slot, step.child + 1, &parts) else { return };
            (separator, right) = split;
        }
        let mut root = Page::new(self.root.height, self.page_size);
        root.insert(0, &[&self.root.reference.encode()]);
        root.insert(1, &[&separator, &self.reference(right).encode()]);
        let root = self.new_page(root);
        self.root.reference = self.reference(root);
        self.root.height += 1;
    }

    /// Inserts a record; if that splits the page, what bounds the page on the right, and it.
    fn insert_record(&mut self, slot: Slot, at: usize, parts: &[&[u8]]) -> Option<(Vec<u8>, Slot)> {
        let page_size = self.page_size;
        let size = parts.iter().map(|part| part.len()).sum();
        let page = self.edit(slot);
        if page.size() + Page::size_of_record(size) <= page_size as usize {
            page.insert(at, parts);
            return None;
        }
        let mut right = page.split_insert(at, parts, page_size);
        let separator = if page.level() == 0 {
            page::separator(page.key(page.count() - 1), right.key(0))
        } else {
            let separator = right.key(0).to_vec();
            right.set_first_separator(&[]);
            separator
        };
        Some((separator, self.new_page(right)))
    }

    /// The page at the end of `path` has lost bytes.
    fn rebalance(&mut self, path: &[Step]) -> Result<(), Miss> {
        for (above, step) in path[..path.len() - 1].iter().zip(&path[1..]).rev() {
            let page = self.cache.entry(step.slot).page();
            if page.count() == 0 {
                let reference = self.reference(step.slot);
                self.release(&reference);
                self.remove_child(above.slot, above.child);
            } else if page.size() >= self.page_size as usize / 4
                || !self.merge(above.slot, above.child, step.slot)?
            {
                return Ok(());
            }
        }
        self.shrink_root()
    }

    /// Merges the page at `slot`, child `at` of `parent`, with a neighbour. Whether it did.
    fn merge(&mut self, parent: Slot, at: usize, slot: Slot) -> Result<bool, Miss> {
        let level = self.cache.entry(slot).page().level();
        let size_max = self.page_size as usize / 4 * 3;
        let above = self.cache.entry(parent).page();
        assert_eq!(above.level(), level + 1);
        let count = above.count();
        if at > 0 {
            let separator = above.key(at).to_vec();
            let left = self.page_slot(&above.child(at - 1), level)?;
            let page = self.cache.entry(slot).page();
            if self.cache.entry(left).page().size_appended(page, &separator) <= size_max {
                let left = self.make_child_writable(parent, at - 1, left);
                self.append(left, slot, &separator);
                self.remove_child(parent, at);
                return Ok(true);
            }
        }
        if at + 1 < count {
            let above = self.cache.entry(parent).page();
            let separator = above.key(at + 1).to_vec();
            let right = self.page_slot(&above.child(at + 1), level)?;
            let page = self.cache.entry(right).page();
            if self.cache.entry(slot).page().size_appended(page, &separator) <= size_max {
                self.append(slot, right, &separator);
                self.remove_child(parent, at + 1);
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Appends the page at `right` to that at `left`, and gives it up.
    fn append(&mut self, left: Slot, right: Slot, separator: &[u8]) {
        let page = self.resolved_copy(right);
        let reference = self.reference(right);
        self.edit(left).append(&page, separator);
        self.images.push(page);
        self.release(&reference);
    }

    fn remove_child(&mut self, parent: Slot, at: usize) {
        let page = self.edit(parent);
        page.remove(at);
        if at == 0 && page.count() > 0 {
            page.set_first_separator(&[]);
        }
    }

    /// Removes roots that bound nothing.
    fn shrink_root(&mut self) -> Result<(), Miss> {
        while self.root.height > 0 {
            let page = self.page(&self.root.reference, self.root.height - 1)?;
            let child = match (page.count(), page.level()) {
                (0, _) => None,
                (1, 1..) => Some(page.child(0)),
                _ => return Ok(()),
            };
            let root = self.root.reference;
            self.release(&root);
            self.root.height = if child.is_some() { self.root.height - 1 } else { 0 };
            let child = child.unwrap_or(BlockRef::NONE);
            self.root.reference = self.sealed.resolve(&child).unwrap_or(child);
        }
        assert!(self.root.reference.is_none());
        Ok(())
    }

    /// Makes the pages of `path` pages of the present interval.
    fn make_writable(&mut self, path: &mut [Step]) {
        let mut above: Option<Step> = None;
        for step in path {
            step.slot = match above {
                None => {
                    let root = self.make_page_writable(step.slot);
                    self.root.reference = self.reference(root);
                    root
                }
                Some(above) => self.make_child_writable(above.slot, above.child, step.slot),
            };
            above = Some(*step);
        }
    }

    fn make_child_writable(&mut self, parent: Slot, at: usize, child: Slot) -> Slot {
        let writable = self.make_page_writable(child);
        if writable != child {
            let reference = self.reference(writable);
            self.edit(parent).set_child(at, &reference);
        }
        writable
    }

    fn make_page_writable(&mut self, slot: Slot) -> Slot {
        let entry = self.cache.entry_mut(slot);
        if entry.op == self.op {
            if !entry.dirty {
                entry.dirty = true;
                let key = (entry.rank(), entry.index);
                self.dirty.insert(key);
                self.sealed.remove(key.1, self.op);
            }
            return slot;
        }
        let page = self.resolved_copy(slot);
        let old = self.reference(slot);
        let new = self.new_page(page);
        self.release(&old);
        new
    }

    /// Completes the reference to the root, if its page is sealed. See `sealed`.
    pub(super) fn resolve_root(&mut self) {
        assert_eq!(self.root, self.root_before, "between two attempts");
        if let Some(resolved) = self.sealed.resolve(&self.root.reference) {
            self.root.reference = resolved;
            self.root_before = self.root;
        }
    }

    /// A copy of a page for the present interval. See `sealed`.
    fn resolved_copy(&mut self, slot: Slot) -> Page {
        let mut page = self.cache.entry(slot).page().copy(self.page_size);
        resolve_children(&mut page, &self.sealed);
        page
    }

    /// The page, to be changed by the present attempt.
    fn edit(&mut self, slot: Slot) -> &mut Page {
        let attempt = self.attempt;
        let entry = self.cache.entry_mut(slot);
        assert_eq!(entry.op, self.op, "a page of an older interval is not changed");
        assert!(entry.dirty);
        if entry.attempt != attempt {
            entry.attempt = attempt;
            let mut image = self.images.pop().unwrap_or_else(|| Page::new(0, self.page_size));
            image.copy_from(entry.page());
            self.undo.push(Undo::Image { slot, page: image });
        }
        self.cache.entry_mut(slot).page_mut()
    }

    fn new_page(&mut self, page: Page) -> Slot {
        let kind = if page.level() == 0 { BlockKind::Leaf } else { BlockKind::Inner };
        let index = self.free_set.allocate();
        self.new_entry(index, kind, Content::Page(page))
    }

    /// A block of the present interval at `index`, which was just given out.
    pub(super) fn new_entry(&mut self, index: u32, kind: BlockKind, content: Content) -> Slot {
        let reference = BlockRef { index, op: self.op, ..BlockRef::NONE };
        let mut entry = Entry::new(&reference, kind, content);
        entry.dirty = true;
        entry.attempt = self.attempt;
        let new = self.dirty.insert((entry.rank(), index));
        assert!(new, "block {index} given out twice");
        let slot = self.cache.insert(entry);
        self.undo.push(Undo::Allocated { slot });
        slot
    }

    /// Gives up a block.
    pub(super) fn release(&mut self, reference: &BlockRef) {
        self.free_set.release(reference, self.op);
        self.undo.push(Undo::Released { reference: *reference });
    }

    /// What refers to a page in memory: the checksums are not known yet.
    fn reference(&self, slot: Slot) -> BlockRef {
        let entry = self.cache.entry(slot);
        BlockRef { index: entry.index, op: entry.op, ..BlockRef::NONE }
    }
}

/// Spare images that are kept.
const IMAGES_MAX: usize = 16;

/// Gives the references of an inner page the checksums that are known. Whether all are.
pub(super) fn resolve_children(page: &mut Page, sealed: &Sealed) -> bool {
    if page.level() == 0 {
        return true;
    }
    let mut complete = true;
    for at in 0..page.count() {
        let child = page.child(at);
        match sealed.resolve(&child) {
            Some(resolved) if resolved == child => {}
            Some(resolved) => page.set_child(at, &resolved),
            None => complete = false,
        }
    }
    complete
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
