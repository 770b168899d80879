//! F3: where two checkpoints of one history differ, block by block.
//!
//! ```text
//!   survey of one ────► Outline ──┐             what both have at the same index, of the same op
//!                                 ├─► compare ──► same reference: the same bytes, and all beneath
//!   survey of the other ► Outline ┘             └► another one: they differ, and with them every
//!                                                  block above, up to the root
//!        root *          * differs: 4 blocks; the cause is the leaf, and what is in it
//!       /      \           is told by `contrast`
//!   inner *   inner
//!    /   \
//!  leaf  leaf *
//! ```
//!
//! Blocks are placed by the ops alone, so replicas that agree have the same bytes at the same
//! index, of the same op. A block that differs only because a block beneath it does holds nothing
//! that is worth a look: the *causes* are those that differ while none of their own children does.
//! A child is one of both: what moved from one parent to another explains neither of them.
//!
//! **Invariants:** any two outlines have a comparison, and if blocks differ it has a cause: the
//! causes are the lowest in one tree, which has no cycles. Memory is 24 bytes for each block up to
//! the last one of a checkpoint. Any two blocks have a contrast.
//!
//! **Not here:** reading the blocks (`survey`); the records of two whole trees
//! (`tree_difference`).

use super::checkpoint::CheckpointRoot;
use super::page::{self, Page};
use super::survey::{Bits, Visit};
use super::value::value_children;
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::free_set::chunk_codes;
use crate::wire::{BlockRef, Op};

/// What an outline keeps of a block.
#[derive(Debug, Clone, Copy)]
struct Noted {
    /// 0: no block.
    op: Op,
    checksum: u32,
    checksum_body: u32,
    /// Of the root, its own index.
    parent: u32,
    kind: BlockKind,
}

const _: () = assert!(size_of::<Noted>() == 24);

const NOTHING: Noted =
    Noted { op: 0, checksum: 0, checksum_body: 0, parent: 0, kind: BlockKind::Checkpoint };

/// All blocks that a survey came to: their references, and what refers to them.
#[derive(Debug, Default)]
pub struct Outline {
    blocks: Vec<Noted>,
}

impl Outline {
    /// The survey has come to this block, whose place is within the file.
    pub fn note(&mut self, visit: &Visit) {
        let BlockRef { index, op, checksum, checksum_body } = visit.reference;
        let at = index as usize;
        if self.blocks.len() <= at {
            self.blocks.resize(at + 1, NOTHING);
        }
        assert_eq!(self.blocks[at].op, 0, "a survey comes to a place once");
        let parent = visit.parent.unwrap_or(index);
        self.blocks[at] = Noted { op, checksum, checksum_body, parent, kind: visit.kind };
    }

    /// The block at this place, as what refers to it calls it.
    pub fn reference(&self, index: u32) -> Option<BlockRef> {
        let Noted { op, checksum, checksum_body, .. } = *self.noted(index)?;
        Some(BlockRef { index, op, checksum, checksum_body })
    }

    /// What it should hold.
    pub fn kind(&self, index: u32) -> Option<BlockKind> {
        Some(self.noted(index)?.kind)
    }

    /// The place of what refers to it; `None` of the root.
    pub fn parent(&self, index: u32) -> Option<u32> {
        Some(self.noted(index)?.parent).filter(|parent| *parent != index)
    }

    fn noted(&self, index: u32) -> Option<&Noted> {
        self.blocks.get(index as usize).filter(|block| block.op > 0)
    }
}

/// What two outlines have in common, and what not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    /// Places at which both have a block of the same op.
    pub shared_count: u64,
    /// Of these, with other checksums.
    pub differing_count: u64,
    /// Blocks that only the one or only the other has at their place.
    pub only_counts: [u64; 2],
    /// The places of the differing blocks that have no differing child, the oldest first.
    pub causes: Vec<u32>,
}

/// Compares two checkpoints of one history, of the same op or of different ones.
pub fn compare(outlines: [&Outline; 2]) -> Comparison {
    let mut comparison = Comparison::default();
    let mut above = Bits::default();
    let mut differing = Vec::new();
    let end = outlines.map(|outline| outline.blocks.len()).into_iter().max().unwrap_or(0);
    for index in 0..u32::try_from(end).expect("indexes are 32 bits") {
        let [here, there] = outlines.map(|outline| outline.reference(index));
        match (here, there) {
            (Some(here), Some(there)) if here.op == there.op => {
                comparison.shared_count += 1;
                if here == there {
                    continue;
                }
                differing.push((here.op, index));
                let [parent, other] = outlines.map(|outline| outline.parent(index));
                if let Some(parent) = parent.filter(|parent| Some(*parent) == other) {
                    above.insert(parent);
                }
            }
            _ => {
                comparison.only_counts[0] += u64::from(here.is_some());
                comparison.only_counts[1] += u64::from(there.is_some());
            }
        }
    }
    comparison.differing_count = differing.len() as u64;
    differing.retain(|(_, index)| !above.contains(*index));
    differing.sort_unstable();
    assert_eq!(differing.is_empty(), comparison.differing_count == 0);
    comparison.causes = differing.into_iter().map(|(_, index)| index).collect();
    comparison
}

/// A value as a leaf holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Held {
    /// The value itself.
    Inline(Vec<u8>),
    /// In blocks of its own.
    Large {
        /// Bytes.
        size: u32,
        /// Of the bytes.
        hash: u64,
        /// The topmost of its blocks.
        reference: BlockRef,
    },
}

impl Held {
    pub(super) fn of(value: page::Value<'_>) -> Self {
        match value {
            page::Value::Inline(value) => Self::Inline(value.to_vec()),
            page::Value::Large { size, hash, reference } => Self::Large { size, hash, reference },
        }
    }
}

/// Whether these are two values. The same one may lie at two places; one place of one op that has
/// two contents has two values, whatever the hash was made of.
pub(super) fn is_another(here: page::Value<'_>, there: page::Value<'_>) -> bool {
    match (here, there) {
        (
            page::Value::Large { size, hash, reference },
            page::Value::Large { size: size_there, hash: hash_there, reference: other },
        ) => {
            let is_one_place = (reference.index, reference.op) == (other.index, other.op);
            (size, hash) != (size_there, hash_there) || is_one_place && reference != other
        }
        (here, there) => here != there,
    }
}

/// A key with two values, or with none in one of two places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordContrast {
    /// The table's byte, then the key.
    pub key: Vec<u8>,
    /// Here, and there.
    pub held: [Option<Held>; 2],
    /// The places of the leaves that hold it.
    pub leaves: [Option<u32>; 2],
}

/// The first thing in which two blocks differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contrast {
    /// They are for different things.
    Kind([BlockKind; 2]),
    /// A record of two leaves.
    Record(RecordContrast),
    /// A place in two chunks of the free set.
    Place {
        /// Counted from the chunk's first.
        at: u32,
        /// Here and there: 0 free, 1 used, 3 released before.
        codes: [u8; 2],
    },
    /// What they refer to.
    Child {
        /// Counted from their first reference.
        at: usize,
        /// Here and there. If only the checksums differ, the blocks beneath were not compared.
        references: [Option<BlockRef>; 2],
    },
    /// Fields of two roots.
    Root(Vec<&'static str>),
    /// A byte of their bodies.
    Byte(usize),
    /// Not the bodies: the headers.
    Header,
}

/// What differs between two blocks of one place, of a grid with blocks of `block_size` bytes.
pub fn contrast(here: &StoredBlock, there: &StoredBlock, block_size: u32) -> Contrast {
    if here.kind != there.kind {
        return Contrast::Kind([here.kind, there.kind]);
    }
    let blocks = [here, there];
    let bodies = blocks.map(StoredBlock::body);
    let found = match here.kind {
        BlockKind::Leaf => record_contrast(blocks, block_size).map(Contrast::Record),
        BlockKind::FreeSet => place_contrast(bodies),
        BlockKind::FreeSetIndex | BlockKind::ValueIndex => {
            child_contrast(bodies.map(|body| value_children(body).collect()))
        }
        BlockKind::Inner => inner_contrast(blocks, block_size),
        BlockKind::Checkpoint => root_contrast(bodies),
        BlockKind::Value => None,
    };
    found.or_else(|| byte_contrast(bodies)).unwrap_or(Contrast::Header)
}

fn page_of(block: &StoredBlock, block_size: u32) -> Option<Page> {
    let level = block.body().get(2).copied()?;
    Page::decode(block.body(), level, block_body_size_max(block_size)).ok()
}

fn leaf_of(block: &StoredBlock, block_size: u32) -> Option<Page> {
    page_of(block, block_size).filter(|page| page.level() == 0)
}

/// The first key with another value; without any, the first with a value in another place.
fn record_contrast(blocks: [&StoredBlock; 2], block_size: u32) -> Option<RecordContrast> {
    let [here, there] = blocks.map(|block| leaf_of(block, block_size));
    let (here, there) = (here?, there?);
    let mut moved = None;
    let (mut at, mut at_there) = (0, 0);
    while at < here.count() || at_there < there.count() {
        let key = (at < here.count()).then(|| here.key(at));
        let key_there = (at_there < there.count()).then(|| there.key(at_there));
        let lowest = match (key, key_there) {
            (Some(key), Some(other)) => key.min(other),
            (one, other) => one.or(other).expect("one of them has a record"),
        };
        let value = (key == Some(lowest)).then(|| here.value(at));
        let value_there = (key_there == Some(lowest)).then(|| there.value(at_there));
        at += usize::from(value.is_some());
        at_there += usize::from(value_there.is_some());
        if value == value_there {
            continue;
        }
        let held = [value.map(Held::of), value_there.map(Held::of)];
        let leaves = [
            value.map(|_| blocks[0].reference.index),
            value_there.map(|_| blocks[1].reference.index),
        ];
        let found = RecordContrast { key: lowest.to_vec(), held, leaves };
        match (value, value_there) {
            (Some(value), Some(other)) if !is_another(value, other) => {
                moved = moved.or(Some(found));
            }
            _ => return Some(found),
        }
    }
    moved
}

fn place_contrast(bodies: [&[u8]; 2]) -> Option<Contrast> {
    let [here, there] = bodies.map(chunk_codes);
    let mut pairs = (0_u32..).zip(here.zip(there));
    let (at, (code, other)) = pairs.find(|(_, (code, other))| code != other)?;
    Some(Contrast::Place { at, codes: [code, other] })
}

/// References to other places come first: of the others the blocks beneath are to be compared.
fn child_contrast(references: [Vec<BlockRef>; 2]) -> Option<Contrast> {
    let [here, there] = &references;
    let count = here.len().max(there.len());
    let pair = |at: usize| [here.get(at).copied(), there.get(at).copied()];
    let place = |reference: BlockRef| (reference.index, reference.op);
    let is_moved = |at: &usize| {
        let [here, there] = pair(*at).map(|reference| reference.map(place));
        here != there
    };
    let is_other = |at: &usize| {
        let [here, there] = pair(*at);
        here != there
    };
    let at = (0..count).find(is_moved).or_else(|| (0..count).find(is_other))?;
    Some(Contrast::Child { at, references: pair(at) })
}

fn inner_contrast(blocks: [&StoredBlock; 2], block_size: u32) -> Option<Contrast> {
    let children = |block: &StoredBlock| {
        let page = page_of(block, block_size).filter(|page| page.level() > 0)?;
        Some((0..page.count()).map(|at| page.child(at)).collect())
    };
    let [here, there] = blocks;
    child_contrast([children(here)?, children(there)?])
}

fn root_contrast(bodies: [&[u8]; 2]) -> Option<Contrast> {
    let [here, there] = bodies.map(CheckpointRoot::decode);
    let (here, there) = (here.ok()?, there.ok()?);
    let fields = [
        ("the header of its op", here.header != there.header),
        ("the count of records", here.tree.records_count != there.tree.records_count),
        ("the digest of the records", here.tree.digest != there.tree.digest),
        ("the root of the tree", here.tree.reference != there.tree.reference),
        ("the height of the tree", here.tree.height != there.tree.height),
        ("the root of the free set", here.free_set != there.free_set),
        ("the checkpoint before", here.extra != there.extra),
    ];
    let other: Vec<_> = fields.iter().filter(|(_, is_other)| *is_other).collect();
    (!other.is_empty()).then(|| Contrast::Root(other.iter().map(|(name, _)| *name).collect()))
}

fn byte_contrast([here, there]: [&[u8]; 2]) -> Option<Contrast> {
    let at = here.iter().zip(there).position(|(byte, other)| byte != other);
    let shorter = here.len().min(there.len());
    at.or_else(|| (here.len() != there.len()).then_some(shorter)).map(Contrast::Byte)
}

/// The key, table first, whose large value begins at place `index`, if it is in this leaf.
pub fn owner_of_value(leaf: &StoredBlock, block_size: u32, index: u32) -> Option<Vec<u8>> {
    let page = leaf_of(leaf, block_size)?;
    let is_its = |at: &usize| match page.value(*at) {
        page::Value::Large { reference, .. } => reference.index == index,
        page::Value::Inline(_) => false,
    };
    (0..page.count()).find(is_its).map(|at| page.key(at).to_vec())
}

#[cfg(test)]
#[path = "difference_tests.rs"]
mod tests;
