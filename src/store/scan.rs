//! F3: scans: the tree and the overlay walked side by side, either way.
//!
//! ```text
//!   forward    cursor: root ─► inner, at 2 ─► leaf, at 5    gives record 5, then stands before 6
//!   backward                                                gives record 4, then stands before 4
//! ```
//!
//! **Invariants:** a scan that misses a page also wants the pages after it in its range, so that it
//! is suspended a few times and not once a page; where the overlay has a key, the tree's is hidden.
//!
//! **Not here:** ranges in terms of an author's keys beyond their table.

use super::page::Page;
use super::tree::{Miss, Tree};
use super::{Direction, Stop, Store, Table, key_in_table};
use bytes::Bytes;
use std::cmp::Ordering;
use std::ops::{Bound, ControlFlow};

/// Leaves that a scan wants ahead.
const AHEAD_COUNT: usize = 16;

/// A place between two records.
struct Cursor<'a> {
    tree: &'a Tree,
    direction: Direction,
    /// Where the range ends, in the direction of the scan.
    end: Bound<&'a [u8]>,
    /// From the root to the leaf. Of an inner page the child that the way goes to, of the leaf the
    /// record that is next forward.
    path: Vec<(&'a Page, usize)>,
}

impl<'a> Cursor<'a> {
    /// A cursor before the first record of the range, seen in `direction`.
    fn new(
        tree: &'a Tree,
        start: Bound<&'a [u8]>,
        end: Bound<&'a [u8]>,
        direction: Direction,
    ) -> Result<Self, Miss> {
        let (first, last) = match direction {
            Direction::Forward => (start, end),
            Direction::Backward => (end, start),
        };
        let mut cursor = Self { tree, direction, end: last, path: Vec::new() };
        if tree.root.height == 0 {
            return Ok(cursor);
        }
        let mut page = tree.page(&tree.root.reference, tree.root.height - 1)?;
        while page.level() > 0 {
            let at = match (first, direction) {
                (Bound::Included(key) | Bound::Excluded(key), _) => page.search_child(key),
                (Bound::Unbounded, Direction::Forward) => 0,
                (Bound::Unbounded, Direction::Backward) => page.count() - 1,
            };
            cursor.path.push((page, at));
            page = cursor.child(page, at)?;
        }
        let at = match (first, direction) {
            (Bound::Unbounded, Direction::Forward) => 0,
            (Bound::Unbounded, Direction::Backward) => page.count(),
            (Bound::Included(key), Direction::Forward)
            | (Bound::Excluded(key), Direction::Backward) => {
                page.search(key).unwrap_or_else(|at| at)
            }
            (Bound::Excluded(key), Direction::Forward)
            | (Bound::Included(key), Direction::Backward) => {
                page.search(key).map_or_else(|at| at, |at| at + 1)
            }
        };
        cursor.path.push((page, at));
        Ok(cursor)
    }

    /// The next record in the range: its leaf, and where in it.
    fn next(&mut self) -> Result<Option<(&'a Page, usize)>, Miss> {
        loop {
            let Some((leaf, at)) = self.path.last_mut() else { return Ok(None) };
            let found = match self.direction {
                Direction::Forward if *at < leaf.count() => {
                    *at += 1;
                    Some((*leaf, *at - 1))
                }
                Direction::Backward if *at > 0 => {
                    *at -= 1;
                    Some((*leaf, *at))
                }
                _ => None,
            };
            if let Some((leaf, at)) = found {
                let key = leaf.key(at);
                return Ok(self.is_before_end(key).then_some((leaf, at)));
            }
            self.next_leaf()?;
        }
    }

    /// Goes to the next leaf, or nowhere if there is none.
    fn next_leaf(&mut self) -> Result<(), Miss> {
        let leaf = self.path.pop();
        assert!(leaf.is_some_and(|(leaf, _)| leaf.level() == 0));
        while let Some((page, at)) = self.path.last_mut() {
            let next = match self.direction {
                Direction::Forward => Some(*at + 1).filter(|next| *next < page.count()),
                Direction::Backward => at.checked_sub(1),
            };
            if let Some(next) = next {
                *at = next;
                break;
            }
            self.path.pop();
        }
        while let Some((page, at)) = self.path.last().copied() {
            if page.level() == 0 {
                break;
            }
            let child = self.child(page, at)?;
            let at = match self.direction {
                Direction::Forward => 0,
                Direction::Backward if child.level() == 0 => child.count(),
                Direction::Backward => child.count() - 1,
            };
            self.path.push((child, at));
        }
        Ok(())
    }

    fn child(&self, page: &Page, at: usize) -> Result<&'a Page, Miss> {
        let child = self.tree.page(&page.child(at), page.level() - 1);
        if child.is_err() && page.level() == 1 {
            self.want_ahead(page, at);
        }
        child
    }

    /// Wants the leaves after child `at` that are in the range.
    fn want_ahead(&self, page: &Page, at: usize) {
        let mut next = at;
        for _ in 0..AHEAD_COUNT {
            let is_in_range = match self.direction {
                Direction::Forward => {
                    next += 1;
                    next < page.count() && self.is_before_end(page.key(next))
                }
                Direction::Backward => {
                    let is_in_range = next > 0 && self.is_before_end(page.key(next));
                    next = next.saturating_sub(1);
                    is_in_range
                }
            };
            if !is_in_range {
                return;
            }
            // To miss it is to want it.
            let _ = self.tree.page(&page.child(next), 0);
        }
    }

    fn is_before_end(&self, key: &[u8]) -> bool {
        let (Bound::Included(end) | Bound::Excluded(end)) = self.end else { return true };
        match (key.cmp(end), self.direction) {
            (Ordering::Equal, _) => matches!(self.end, Bound::Included(_)),
            (order, Direction::Forward) => order.is_lt(),
            (order, Direction::Backward) => order.is_gt(),
        }
    }
}

impl Store {
    /// [`Store::scan`] of any table.
    pub(crate) fn table_scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &Bytes) -> Result<ControlFlow<()>, Stop>,
    ) -> Result<(), Stop> {
        self.access()?;
        let start = match start {
            Bound::Included(key) => Bound::Included(key_in_table(table, key)),
            Bound::Excluded(key) => Bound::Excluded(key_in_table(table, key)),
            Bound::Unbounded => Bound::Included(vec![table.0]),
        };
        let end = match end {
            Bound::Included(key) => Bound::Included(key_in_table(table, key)),
            Bound::Excluded(key) => Bound::Excluded(key_in_table(table, key)),
            Bound::Unbounded => match table.0.checked_add(1) {
                Some(next) => Bound::Excluded(vec![next]),
                None => Bound::Unbounded,
            },
        };
        if range_is_empty(&start, &end) {
            return Ok(());
        }
        let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let mut visit = |key: &[u8], value: &Bytes| {
            self.access()?;
            assert_eq!(key[0], table.0);
            visit(&key[1..], value)
        };
        let overlay = self.overlay.range::<[u8], _>((start, end));
        match direction {
            Direction::Forward => self.merge(start, end, direction, overlay, &mut visit),
            Direction::Backward => self.merge(start, end, direction, overlay.rev(), &mut visit),
        }
    }

    /// Walks tree and overlay; where both have a key, the overlay hides the tree.
    fn merge<'a>(
        &'a self,
        start: Bound<&'a [u8]>,
        end: Bound<&'a [u8]>,
        direction: Direction,
        overlay: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
        visit: &mut impl FnMut(&[u8], &Bytes) -> Result<ControlFlow<()>, Stop>,
    ) -> Result<(), Stop> {
        let mut overlay = overlay.peekable();
        let cursor = Cursor::new(&self.tree, start, end, direction);
        let mut cursor = cursor.map_err(|miss| self.suspend(miss))?;
        let mut old = cursor.next().map_err(|miss| self.suspend(miss))?;
        loop {
            let order = match (old, overlay.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((leaf, at)), Some((new, _))) => match direction {
                    Direction::Forward => leaf.key(at).cmp(new),
                    Direction::Backward => new.as_ref().cmp(leaf.key(at)),
                },
            };
            // Less: the tree alone has the next key. Equal: both have it.
            let flow = if order.is_ge() {
                match overlay.next() {
                    Some((key, Some(value))) => visit(key, value)?,
                    _ => ControlFlow::Continue(()),
                }
            } else {
                let (leaf, at) = old.expect("the tree has the next key");
                let value = self.tree.value(leaf, at).map_err(|miss| self.suspend(miss))?;
                visit(leaf.key(at), &value)?
            };
            if flow.is_break() {
                return Ok(());
            }
            if order.is_le() {
                old = cursor.next().map_err(|miss| self.suspend(miss))?;
            }
        }
    }
}

/// `BTreeMap::range` panics on some of these.
fn range_is_empty(start: &Bound<Vec<u8>>, end: &Bound<Vec<u8>>) -> bool {
    match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (
            Bound::Included(start) | Bound::Excluded(start),
            Bound::Included(end) | Bound::Excluded(end),
        ) => start >= end,
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
    }
}
