//! F3: in which records the trees of two checkpoints of the same op differ.
//!
//! ```text
//!   here    [ subtree A ][ subtree B ][ leaf: b c e ][ subtree D ]…     key order ──►
//!   there   [ subtree A ][ subtree X        ][ leaf: c f ]…
//!              │            └ not the same: the higher one of the two is opened
//!              └ the same reference: the same records, not read
//! ```
//!
//! Two cursors go through both trees side by side, from the lowest key to the highest. Whatever is
//! the same block in both is skipped with all beneath it, so what is read is about what differs.
//! How records are spread over blocks does not matter.
//!
//! What cannot be read leaves a *gap*, from a key on and below another, which its parent knows: in
//! a gap nothing is compared, on either side.
//!
//! **Invariants:** nothing is written; any bytes have differences; on both sides everything below
//! the front was compared or lies in a gap; memory is bounded by the depth of the trees, and by
//! what differs between two leaves, which is to be taken after each read.
//!
//! **Not here:** the blocks that hold the records (`difference`).

use super::difference::{Held, RecordContrast, is_another};
use super::page::Page;
use super::survey::{Range, RootSurvey};
use super::walk::Role;
use crate::storage::block::{StoredBlock, block_body_size_max};
use crate::storage::{Geometry, Layout, ReadResult, Request, Token};
use crate::wire::{BlockRef, ClusterId};
use std::cmp::Ordering;

/// A node that was not opened.
#[derive(Debug)]
struct Subtree {
    reference: BlockRef,
    level: u8,
    range: Range,
}

/// A leaf that was opened.
#[derive(Debug)]
struct Leaf {
    page: Page,
    /// Its place in the grid.
    index: u32,
    /// The next record.
    at: usize,
}

/// How far one of the trees was gone through.
#[derive(Debug)]
struct Cursor {
    /// Blocks that the file has room for.
    blocks_count: u64,
    /// The lowest keys on top.
    subtrees: Vec<Subtree>,
    /// In front of all subtrees: an open leaf, and its next record.
    leaf: Option<Leaf>,
    /// In front of all subtrees: a range of keys of which nothing is known.
    gap: Option<Range>,
}

/// What comes next on one side.
#[derive(Debug, Clone, Copy)]
enum Front<'a> {
    End,
    Gap(&'a Range),
    Record(&'a [u8]),
    Subtree(&'a Subtree),
}

/// What to do about two fronts. A side is 0 or 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Done,
    /// The subtrees are the same.
    SkipBoth,
    /// What is next on this side is in the gap of the other.
    Skip(usize),
    /// The gap of this side is behind.
    CloseGap(usize),
    /// The subtree of this side has to be looked into.
    Open(usize),
    /// The lowest record: of which sides it is.
    Compare([bool; 2]),
}

/// Two trees being compared.
#[derive(Debug)]
pub struct TreeDifference {
    cluster: ClusterId,
    geometry: Geometry,
    cursors: [Cursor; 2],
    in_flight: Option<(usize, Subtree)>,
    found: Vec<RecordContrast>,
    gaps_count: u64,
}

impl TreeDifference {
    /// Of the trees of two checkpoints, each in a file that has room for so many blocks.
    pub fn new(
        cluster: ClusterId,
        geometry: Geometry,
        roots: [&RootSurvey; 2],
        blocks_counts: [u64; 2],
    ) -> Self {
        assert_eq!(geometry.invalid(), None);
        let cursor = |side: usize| {
            let root = roots[side];
            let subtree = root.height.checked_sub(1).map(|level| Subtree {
                reference: root.tree,
                level,
                range: Range::default(),
            });
            let subtrees = subtree.into_iter().collect();
            Cursor { blocks_count: blocks_counts[side], subtrees, leaf: None, gap: None }
        };
        let cursors = [cursor(0), cursor(1)];
        Self { cluster, geometry, cursors, in_flight: None, found: Vec::new(), gaps_count: 0 }
    }

    /// The read that is wanted next, and of which side, 0 or 1; `None` when all was compared. The
    /// one before was answered.
    pub fn next_read(&mut self) -> Option<(usize, Request)> {
        assert!(self.in_flight.is_none(), "one read at a time");
        loop {
            match self.step() {
                Step::Done => return None,
                Step::SkipBoth => {
                    for cursor in &mut self.cursors {
                        cursor.subtrees.pop();
                    }
                }
                Step::Skip(side) => self.cursors[side].skip(),
                Step::CloseGap(side) => self.cursors[side].gap = None,
                Step::Compare(sides) => self.compare(sides),
                Step::Open(side) => {
                    let cursor = &mut self.cursors[side];
                    let subtree = cursor.subtrees.pop().expect("it is in front");
                    let index = subtree.reference.index;
                    if u64::from(index) >= cursor.blocks_count {
                        self.leave_gap(side, subtree.range);
                        continue;
                    }
                    self.in_flight = Some((side, subtree));
                    let (layout, size) = (Layout::new(self.geometry), self.geometry.block_size);
                    let offset = layout.grid_offset() + u64::from(index) * u64::from(size);
                    let token = Token::Scan { id: index };
                    return Some((side, Request::Read { token, offset, size }));
                }
            }
        }
    }

    /// The answer to [`Self::next_read`].
    pub fn on_read_done(&mut self, result: ReadResult) {
        let (side, subtree) = self.in_flight.take().expect("a read was in flight");
        if self.open(side, &subtree, result).is_err() {
            self.leave_gap(side, subtree.range);
        }
    }

    /// What was found since the last call, in the order of keys. To be taken after each read.
    pub fn take_found(&mut self) -> Vec<RecordContrast> {
        std::mem::take(&mut self.found)
    }

    /// Blocks that could not be read, so that not all could be compared.
    pub fn gaps_count(&self) -> u64 {
        self.gaps_count
    }

    fn step(&self) -> Step {
        let [here, there] = &self.cursors;
        match (here.front(), there.front()) {
            (Front::Gap(gap), Front::Gap(other)) => {
                let is_first = match (&gap.end, &other.end) {
                    (Some(end), Some(other)) => end <= other,
                    (end, _) => end.is_some(),
                };
                Step::CloseGap(usize::from(!is_first))
            }
            (Front::Gap(gap), other) => Self::beside_gap(gap, 0, other),
            (other, Front::Gap(gap)) => Self::beside_gap(gap, 1, other),
            (Front::Subtree(subtree), Front::Subtree(other)) => {
                if subtree.reference == other.reference {
                    Step::SkipBoth
                } else {
                    Step::Open(usize::from(other.level > subtree.level))
                }
            }
            (Front::Subtree(_), _) => Step::Open(0),
            (_, Front::Subtree(_)) => Step::Open(1),
            (Front::Record(key), Front::Record(other)) => match key.cmp(other) {
                Ordering::Less => Step::Compare([true, false]),
                Ordering::Equal => Step::Compare([true, true]),
                Ordering::Greater => Step::Compare([false, true]),
            },
            (Front::Record(_), Front::End) => Step::Compare([true, false]),
            (Front::End, Front::Record(_)) => Step::Compare([false, true]),
            (Front::End, Front::End) => Step::Done,
        }
    }

    /// What to do about the front `other` beside the gap of `side`, which has nothing below it.
    fn beside_gap(gap: &Range, side: usize, other: Front<'_>) -> Step {
        let other_side = 1 - side;
        let is_behind = |key: &[u8]| gap.end.as_deref().is_some_and(|end| key >= end);
        match other {
            Front::Record(key) if key < gap.start.as_slice() => {
                Step::Compare([other_side == 0, other_side == 1])
            }
            Front::Record(key) if !is_behind(key) => Step::Skip(other_side),
            Front::Subtree(Subtree { range, .. }) if !is_behind(&range.start) => {
                let is_within = match (&range.end, &gap.end) {
                    (_, None) => true,
                    (Some(end), Some(gap_end)) => end <= gap_end,
                    (None, Some(_)) => false,
                };
                let is_hidden = is_within && range.start >= gap.start;
                if is_hidden { Step::Skip(other_side) } else { Step::Open(other_side) }
            }
            _ => Step::CloseGap(side),
        }
    }

    fn compare(&mut self, sides: [bool; 2]) {
        assert!(sides[0] || sides[1]);
        let fronts = [0, 1].map(|side: usize| {
            let leaf = self.cursors[side].leaf.as_ref().filter(|_| sides[side]);
            assert_eq!(leaf.is_some(), sides[side], "its record is in front");
            leaf.map(|leaf| (leaf.page.key(leaf.at), leaf.page.value(leaf.at), leaf.index))
        });
        let is_found = match fronts {
            [Some((key, value, _)), Some((key_there, value_there, _))] => {
                assert_eq!(key, key_there);
                is_another(value, value_there)
            }
            _ => true,
        };
        if is_found {
            let key = fronts.iter().flatten().next().expect("of one side or both").0.to_vec();
            let held = fronts.map(|front| front.map(|(_, value, _)| Held::of(value)));
            let leaves = fronts.map(|front| front.map(|(_, _, index)| index));
            self.found.push(RecordContrast { key, held, leaves });
        }
        for (cursor, _) in self.cursors.iter_mut().zip(sides).filter(|(_, is_its)| *is_its) {
            cursor.skip();
        }
    }

    fn open(
        &mut self,
        side: usize,
        subtree: &Subtree,
        result: ReadResult,
    ) -> Result<(), &'static str> {
        let Subtree { reference, level, range } = subtree;
        let block = StoredBlock::decode_read(self.cluster, reference, result)?;
        if block.kind != Role::Node(*level).kind() {
            return Err("a block of another kind");
        }
        let page_size = block_body_size_max(self.geometry.block_size);
        let page = Page::decode(block.body(), *level, page_size)?;
        let cursor = &mut self.cursors[side];
        assert!(cursor.leaf.is_none() && cursor.gap.is_none(), "a subtree was in front");
        if *level == 0 {
            range.check_leaf(&page)?;
            cursor.leaf = Some(Leaf { page, index: reference.index, at: 0 });
            return Ok(());
        }
        let level = level - 1;
        let children = range.children(&page)?.into_iter().rev();
        cursor.subtrees.extend(children.map(|(reference, range)| Subtree {
            reference,
            level,
            range,
        }));
        Ok(())
    }

    fn leave_gap(&mut self, side: usize, range: Range) {
        let cursor = &mut self.cursors[side];
        assert!(cursor.leaf.is_none() && cursor.gap.is_none(), "a subtree was in front");
        cursor.gap = Some(range);
        self.gaps_count += 1;
    }
}

impl Cursor {
    fn front(&self) -> Front<'_> {
        if let Some(gap) = &self.gap {
            Front::Gap(gap)
        } else if let Some(Leaf { page, at, .. }) = &self.leaf {
            Front::Record(page.key(*at))
        } else {
            self.subtrees.last().map_or(Front::End, Front::Subtree)
        }
    }

    /// Goes over a record or a subtree.
    fn skip(&mut self) {
        assert!(self.gap.is_none(), "two gaps side by side are closed");
        match &mut self.leaf {
            Some(leaf) if leaf.at + 1 < leaf.page.count() => leaf.at += 1,
            Some(_) => self.leaf = None,
            None => {
                let subtree = self.subtrees.pop();
                assert!(subtree.is_some(), "there was a front");
            }
        }
    }
}

#[cfg(test)]
#[path = "tree_difference_tests.rs"]
mod tests;
