//! F3: the checksums of pages that were written after the page above them was made.
//!
//! A page refers to a child by index, op and checksums. In memory the checksums of a child that is
//! not written yet are unknown, and those of one that is written early and changed again are wrong.
//! So of the intervals whose checkpoint is not complete (and the one after) this map alone says
//! what was last written, and a page takes the checksums of its children from it when it is sealed.
//!
//! ```text
//!   op of the interval      T - I             T                T + I
//!                           complete          frozen           present
//!   map of                  until T is        until T + I is   …
//!                           complete          complete
//! ```
//!
//! **How long a map is needed.** Copying a page into the present interval T + I resolves what can
//! be: references of op T - I and below, all of which are sealed, since T is frozen only when T - I
//! is complete. What stays open in pages of T + I is of op T or T + I; by the same argument, in
//! pages of T, of op T - I or T. When T is complete, all pages of T are sealed, and sealing closed
//! their references for good. So then the map of T - I is not needed any more.
//!
//! The reference to the root of the tree lies in no page. If nothing changes for an interval, the
//! root is not copied either, so each freeze resolves that reference by the same argument.
//!
//! **Invariants:** an op has a map from its interval's begin until the checkpoint after its own is
//! complete; where there is a map, it is the authority, and no entry means not sealed; where there
//! is none, the reference itself is complete.
//!
//! **Not here:** large values: their blocks are never changed, and sealed when they are made.

use super::cache::ByIndex;
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Sealed {
    by_op: BTreeMap<Op, ByIndex<(u32, u32)>>,
}

impl Sealed {
    /// The interval of checkpoint `op` begins.
    pub(super) fn begin(&mut self, op: Op) {
        let existing = self.by_op.insert(op, ByIndex::default());
        assert!(existing.is_none());
        assert!(self.by_op.len() <= 3);
    }

    /// Checkpoint `op` is complete.
    pub(super) fn on_complete(&mut self, op: Op) {
        self.by_op = self.by_op.split_off(&op);
        assert!(self.by_op.len() <= 2);
    }

    /// The page is handed to the disk as this.
    pub(super) fn insert(&mut self, sealed: &BlockRef) {
        let map = self.by_op.get_mut(&sealed.op).expect("only pages of open intervals are sealed");
        map.insert(sealed.index, (sealed.checksum, sealed.checksum_body));
    }

    /// The page differs from what was handed to the disk.
    pub(super) fn remove(&mut self, index: u32, op: Op) {
        let map = self.by_op.get_mut(&op).expect("only pages of the present interval change");
        map.remove(&index);
    }

    /// The whole reference, if the page is sealed.
    pub(super) fn resolve(&self, reference: &BlockRef) -> Option<BlockRef> {
        let Some(map) = self.by_op.get(&reference.op) else { return Some(*reference) };
        let (checksum, checksum_body) = *map.get(&reference.index)?;
        Some(BlockRef { checksum, checksum_body, ..*reference })
    }
}
