//! F3: the blocks in memory, by their index, and the order in which they leave it.
//!
//! ```text
//!   by_index: index ──► slot          slots: [entry][      ][entry][entry] …
//!                                               ▲ vacant      ▲ hand (CLOCK)
//! ```
//!
//! The hand goes around the slots: an entry that was used since it last came by stays for another
//! round, any other one leaves, if it can: what was changed and is not on the disk cannot, and what
//! a suspended attempt waits for must not.
//!
//! **Invariants:** an index has at most one entry; the order of eviction follows from the slots and
//! never from the hash; more entries than the limit are only those that cannot leave.
//!
//! **Not here:** what may be written when (`checkpoint`); whether an entry belongs to the tree.

use super::page::Page;
use crate::storage::block::BlockKind;
use crate::wire::{BlockRef, Op};
use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by the index of a block, never walked.
pub(super) type ByIndex<T> = HashMap<u32, T, BuildHasherDefault<IndexHasher>>;

/// Spreads indexes, which are dense, over 64 bits.
#[derive(Debug, Default)]
pub(super) struct IndexHasher(u64);

impl Hasher for IndexHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, value: u32) {
        let mixed = (self.0 ^ u64::from(value)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ mixed >> 32;
    }
}

/// Where an entry is, as long as it is.
pub(super) type Slot = usize;

/// What is in a block.
#[derive(Debug)]
pub(super) enum Content {
    Page(Page),
    /// A block of a large value.
    Value(Vec<u8>),
}

/// A block in memory.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) index: u32,
    pub(super) op: Op,
    pub(super) kind: BlockKind,
    pub(super) content: Content,
    /// It differs from what was last handed to the disk.
    pub(super) dirty: bool,
    /// The last attempt that changed it.
    pub(super) attempt: u64,
    referenced: Cell<bool>,
    pinned: bool,
}

impl Entry {
    pub(super) fn new(reference: &BlockRef, kind: BlockKind, content: Content) -> Self {
        Self {
            index: reference.index,
            op: reference.op,
            kind,
            content,
            dirty: false,
            attempt: 0,
            referenced: Cell::new(true),
            pinned: false,
        }
    }

    pub(super) fn page(&self) -> &Page {
        match &self.content {
            Content::Page(page) => page,
            Content::Value(_) => panic!("block {} is no page of the tree", self.index),
        }
    }

    pub(super) fn page_mut(&mut self) -> &mut Page {
        match &mut self.content {
            Content::Page(page) => page,
            Content::Value(_) => panic!("block {} is no page of the tree", self.index),
        }
    }

    pub(super) fn body(&self) -> &[u8] {
        match &self.content {
            Content::Page(page) => page.bytes(),
            Content::Value(bytes) => bytes,
        }
    }

    /// Blocks are written in this order, so that those a block refers to come before it.
    pub(super) fn rank(&self) -> u8 {
        match &self.content {
            Content::Page(page) => page.level() + 1,
            Content::Value(_) => 0,
        }
    }
}

/// The blocks in memory.
#[derive(Debug)]
pub(super) struct Cache {
    slots: Vec<Option<Entry>>,
    vacant: Vec<Slot>,
    by_index: ByIndex<Slot>,
    hand: Slot,
    count_max: usize,
    pinned: Vec<(u32, Op)>,
    hits: Cell<u64>,
    misses: Cell<u64>,
}

impl Cache {
    /// Of at most `count_max` blocks, if it can be.
    pub(super) fn new(count_max: usize) -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
            by_index: ByIndex::default(),
            hand: 0,
            count_max,
            pinned: Vec::new(),
            hits: Cell::new(0),
            misses: Cell::new(0),
        }
    }

    /// The block of this index and op, if it is here. Counts, and keeps it here.
    pub(super) fn find(&self, index: u32, op: Op) -> Option<Slot> {
        let slot = self.peek(index, op);
        match slot {
            Some(slot) => {
                self.entry(slot).referenced.set(true);
                self.hits.set(self.hits.get() + 1);
            }
            None => self.misses.set(self.misses.get() + 1),
        }
        slot
    }

    /// The block of this index and op, if it is here.
    pub(super) fn peek(&self, index: u32, op: Op) -> Option<Slot> {
        self.by_index.get(&index).copied().filter(|slot| self.entry(*slot).op == op)
    }

    /// The op of the block that is here of this index.
    pub(super) fn op_at(&self, index: u32) -> Option<Op> {
        self.by_index.get(&index).map(|slot| self.entry(*slot).op)
    }

    pub(super) fn entry(&self, slot: Slot) -> &Entry {
        self.slots[slot].as_ref().expect("slots that are handed out are occupied")
    }

    pub(super) fn entry_mut(&mut self, slot: Slot) -> &mut Entry {
        self.slots[slot].as_mut().expect("slots that are handed out are occupied")
    }

    /// Takes in a block. One of another op in the same place leaves: it is in no tree any more.
    pub(super) fn insert(&mut self, entry: Entry) -> Slot {
        if let Some(old) = self.by_index.get(&entry.index).copied() {
            let old = self.entry(old);
            assert!(!old.dirty, "block {} given out before it was written", old.index);
            assert_ne!(old.op, entry.op);
            self.remove(entry.index);
        }
        let index = entry.index;
        let slot = match self.vacant.pop() {
            Some(slot) => {
                assert!(self.slots[slot].is_none());
                self.slots[slot] = Some(entry);
                slot
            }
            None => {
                self.slots.push(Some(entry));
                self.slots.len() - 1
            }
        };
        self.by_index.insert(index, slot);
        slot
    }

    /// Lets the block leave.
    pub(super) fn remove(&mut self, index: u32) -> Option<Entry> {
        let slot = self.by_index.remove(&index)?;
        self.vacant.push(slot);
        self.slots[slot].take()
    }

    /// Keeps the block here until [`Self::unpin`].
    pub(super) fn pin(&mut self, slot: Slot) {
        let entry = self.entry_mut(slot);
        if !entry.pinned {
            entry.pinned = true;
            let key = (entry.index, entry.op);
            self.pinned.push(key);
        }
    }

    /// Lets all go that [`Self::pin`] keeps.
    pub(super) fn unpin(&mut self) {
        for (index, op) in std::mem::take(&mut self.pinned) {
            if let Some(slot) = self.peek(index, op) {
                self.entry_mut(slot).pinned = false;
            }
        }
    }

    /// Evicts down to the limit, as far as `may_leave` and the rules above allow.
    pub(super) fn trim(&mut self, may_leave: impl Fn(&Entry) -> bool) {
        // Once around to find what was not used, and once more.
        let mut steps = 2 * self.slots.len();
        while self.count() > self.count_max && steps > 0 {
            steps -= 1;
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let Some(entry) = &self.slots[self.hand] else { continue };
            if entry.dirty || entry.pinned || !may_leave(entry) {
                continue;
            }
            if entry.referenced.replace(false) {
                continue;
            }
            let index = entry.index;
            self.remove(index);
        }
    }

    /// Whether it was used since it was last asked.
    pub(super) fn take_referenced(&self, slot: Slot) -> bool {
        self.entry(slot).referenced.replace(false)
    }

    pub(super) fn count(&self) -> usize {
        self.by_index.len()
    }

    pub(super) fn count_max(&self) -> usize {
        self.count_max
    }

    /// How often a block was here, and was not.
    pub(super) fn hits_and_misses(&self) -> (u64, u64) {
        (self.hits.get(), self.misses.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(cache: &mut Cache, index: u32, op: Op) -> Slot {
        let reference = BlockRef { index, op, ..BlockRef::NONE };
        cache.insert(Entry::new(&reference, BlockKind::Value, Content::Value(vec![1])))
    }

    fn indexes(cache: &Cache) -> Vec<u32> {
        (0..100).filter(|index| cache.op_at(*index).is_some()).collect()
    }

    #[test]
    fn what_is_here_is_found_by_index_and_op_and_counted() {
        let mut cache = Cache::new(3);
        let slot = insert(&mut cache, 7, 4);
        assert_eq!(
            (cache.find(7, 4), cache.find(7, 5), cache.find(8, 4)),
            (Some(slot), None, None)
        );
        assert_eq!((cache.op_at(7), cache.op_at(8)), (Some(4), None));
        assert_eq!(cache.hits_and_misses(), (1, 2));
        assert_eq!((cache.find(7, 4), cache.find(7, 4)), (Some(slot), Some(slot)));
        assert_eq!(cache.hits_and_misses(), (3, 2));
        assert_eq!((cache.count(), cache.count_max()), (1, 3));
        insert(&mut cache, 7, 9);
        assert_eq!((cache.op_at(7), cache.count()), (Some(9), 1));
    }

    #[test]
    fn what_is_beyond_the_limit_leaves_and_no_more() {
        let mut cache = Cache::new(5);
        for index in 0..12 {
            insert(&mut cache, index, 1);
        }
        // All were used a moment ago.
        cache.trim(|_| true);
        assert_eq!(cache.count(), 5);
        cache.trim(|_| true);
        assert_eq!(cache.count(), 5);
        let kept = indexes(&cache);
        insert(&mut cache, 50, 1);
        cache.trim(|entry| entry.index == kept[2]);
        assert_eq!(cache.op_at(kept[2]), None);
        assert_eq!(cache.count(), 5);
    }

    #[test]
    fn what_is_pinned_stays_until_it_is_let_go() {
        let mut cache = Cache::new(1);
        let slots: Vec<Slot> = (0..4).map(|index| insert(&mut cache, index, 1)).collect();
        for slot in &slots[1..] {
            cache.pin(*slot);
        }
        cache.trim(|_| true);
        assert_eq!(indexes(&cache), [1, 2, 3]);
        cache.unpin();
        cache.trim(|_| true);
        assert_eq!(cache.count(), 1);
    }

    #[test]
    fn what_was_used_is_told_once() {
        let mut cache = Cache::new(1);
        let slot = insert(&mut cache, 3, 1);
        assert!(cache.take_referenced(slot), "it has just come");
        assert!(!cache.take_referenced(slot));
        cache.find(3, 1);
        assert!(cache.take_referenced(slot) && !cache.take_referenced(slot));
    }
}
