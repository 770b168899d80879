//! F3: large values: the blocks they are in.
//!
//! ```text
//!   reference in the leaf ──► ValueIndex: references       2,000,000 bytes in blocks of 4 KiB:
//!                               │        │                 505 blocks, 3 pages of 198 references,
//!                          ValueIndex  ValueIndex          1 page of 3
//!                          │  │  │ …    │  │  │ …
//!                          Value Value  Value Value
//! ```
//!
//! A value of one block is referred to directly. The shape follows from the size, so nothing but
//! the size has to be stored. The blocks are made whole and never changed: their references are
//! complete from the start.
//!
//! **Invariants:** blocks are given out in the order of their bytes, then level by level upwards; a
//! value is released whole or, in an attempt that is taken back, not at all.
//!
//! **Not here:** which values are large (`page`).

use super::cache::Content;
use super::tree::{Miss, Tree};
use crate::storage::block::{BlockKind, block_seal_reference};
use crate::wire::BlockRef;
use bytes::Bytes;

/// References in a ValueIndex block.
pub(super) fn value_fanout(page_size: u32) -> usize {
    page_size as usize / BlockRef::SIZE
}

/// Levels of ValueIndex blocks above the blocks of a value.
pub(super) fn value_levels(size: u32, page_size: u32) -> u8 {
    let mut blocks = (size as usize).div_ceil(page_size as usize);
    let mut levels = 0;
    while blocks > 1 {
        blocks = blocks.div_ceil(value_fanout(page_size));
        levels += 1;
    }
    levels
}

/// The references in a ValueIndex block. Any bytes are some.
pub(super) fn value_children(body: &[u8]) -> impl Iterator<Item = BlockRef> {
    let references = body.chunks_exact(BlockRef::SIZE);
    references.map(|bytes| BlockRef::decode(bytes.first_chunk().expect("of this size")))
}

impl Tree {
    /// Puts a value into blocks.
    pub(super) fn write_value(&mut self, value: &[u8]) -> BlockRef {
        assert!(!value.is_empty());
        let mut references: Vec<BlockRef> = Vec::new();
        for part in value.chunks(self.page_size as usize) {
            references.push(self.write_value_block(BlockKind::Value, part.to_vec()));
        }
        while references.len() > 1 {
            let mut above = Vec::new();
            for group in references.chunks(value_fanout(self.page_size)) {
                let body = group.iter().flat_map(BlockRef::encode).collect();
                above.push(self.write_value_block(BlockKind::ValueIndex, body));
            }
            references = above;
        }
        references[0]
    }

    fn write_value_block(&mut self, kind: BlockKind, body: Vec<u8>) -> BlockRef {
        let index = self.free_set.allocate();
        let reference = block_seal_reference(self.cluster, index, self.op, kind, &body);
        self.new_entry(index, kind, Content::Value(body));
        reference
    }

    /// The value of `size` bytes that `reference` names.
    pub(super) fn read_value(&self, reference: &BlockRef, size: u32) -> Result<Bytes, Miss> {
        let mut references = vec![*reference];
        for _ in 0..value_levels(size, self.page_size) {
            references = self.value_children_of(&references)?;
        }
        let mut value = Vec::with_capacity(size as usize);
        let mut missed = false;
        for reference in &references {
            match self.cache.find(reference.index, reference.op) {
                Some(slot) if !missed => value.extend_from_slice(self.cache.entry(slot).body()),
                Some(_) => {}
                None => {
                    self.want(*reference);
                    missed = true;
                }
            }
        }
        if missed {
            return Err(Miss);
        }
        assert_eq!(value.len(), size as usize);
        Ok(Bytes::from(value))
    }

    /// The first bytes of that value, at most as many as one block has.
    pub(super) fn read_value_start(
        &self,
        reference: &BlockRef,
        size: u32,
        start_size: u32,
    ) -> Result<Bytes, Miss> {
        assert!(start_size <= size.min(self.page_size));
        let mut first = *reference;
        for _ in 0..value_levels(size, self.page_size) {
            first = self.value_children_of(&[first])?[0];
        }
        let Some(slot) = self.cache.find(first.index, first.op) else {
            self.want(first);
            return Err(Miss);
        };
        Ok(Bytes::copy_from_slice(&self.cache.entry(slot).body()[..start_size as usize]))
    }

    /// Gives up the blocks of a value.
    pub(super) fn release_value(&mut self, reference: &BlockRef, size: u32) -> Result<(), Miss> {
        let mut references = vec![*reference];
        for _ in 0..value_levels(size, self.page_size) {
            let beneath = self.value_children_of(&references)?;
            for reference in &references {
                self.release(reference);
            }
            references = beneath;
        }
        for reference in &references {
            self.release(reference);
        }
        Ok(())
    }

    fn value_children_of(&self, references: &[BlockRef]) -> Result<Vec<BlockRef>, Miss> {
        let mut children = Vec::new();
        let mut missed = false;
        for reference in references {
            match self.cache.find(reference.index, reference.op) {
                Some(slot) => children.extend(value_children(self.cache.entry(slot).body())),
                None => {
                    self.want(*reference);
                    missed = true;
                }
            }
        }
        if missed { Err(Miss) } else { Ok(children) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_levels_of_a_value_follow_from_its_size() {
        assert_eq!((value_fanout(3968), value_fanout(65408)), (198, 3270));
        for (blocks, levels) in [(1, 0), (2, 1), (198, 1), (199, 2), (198 * 198, 2)] {
            assert_eq!(value_levels(blocks * 3968, 3968), levels, "{blocks}");
        }
        assert_eq!((value_levels(0, 3968), value_levels(198 * 3968 + 1, 3968)), (0, 2));
    }
}
