//! F3: the ordered map that holds all state of a state machine: bytes to bytes, under a table
//! prefix. In memory, and rebuilt from the log at start.
//!
//! ```text
//!   get, scan ──► overlay ──miss──► tree                 one attempt at one entry:
//!   put, delete ─► overlay                               ┌► commit_overlay: overlay ─► tree
//!                                           apply ──────►┤
//!                                                        └► abandon_overlay: overlay ─► nothing
//! ```
//!
//! An entry's writes gather in the overlay, where its own reads see them. They reach the tree
//! together or not at all, so an attempt that is given up leaves no trace, and it may be given up
//! at any access: every access returns a `Result`, and [`Stop::Suspend`] says that something has to
//! be loaded first. Suspension is latched: once an access has suspended, all further ones do, and
//! the attempt is void whatever the state machine made of it.
//!
//! **Invariants:** the content of the tree is a function of the committed writes alone; between two
//! attempts the overlay is empty and nothing is suspended; keys of one table are in the order of
//! their bytes; no access hands out a borrow that would pin a part of the tree.
//!
//! **Not here:** who may write what when (`replica::executor`); durability.

mod digest;

pub(crate) use digest::Digest;

use bytes::Bytes;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// The longest key, in bytes, its table not counted.
pub const KEY_SIZE_MAX: usize = 1024;

/// The first code that is not a state machine's to reject with. See [`Stop::Reject`].
pub const RESULT_RESERVED_MIN: u32 = 0xffff_0000;

/// Why a request ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The store must load something first; the request will be applied again. Only the store
    /// says so.
    Suspend,
    /// The state machine refuses, with its own code (> 0, < [`RESULT_RESERVED_MIN`]). Nothing is
    /// written.
    Reject(u32),
}

/// One of the store's 256 separate key spaces. The author of a state machine deals them out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(pub u8);

/// Which way a scan runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the start of the range, keys ascending.
    Forward,
    /// From the end of the range, keys descending.
    Backward,
}

/// An ordered map of bytes to bytes, in tables.
#[derive(Debug, Default)]
pub struct Store {
    /// What is committed. Keys begin with their table.
    tree: BTreeMap<Bytes, Bytes>,
    /// What the present attempt has written; `None` deletes.
    overlay: BTreeMap<Bytes, Option<Bytes>>,
    /// Latched when an access suspends; cleared with the overlay.
    suspended: Cell<bool>,
    /// How many accesses will be granted before one suspends.
    #[cfg(test)]
    accesses_left: Cell<Option<u64>>,
}

impl Store {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The value under `key`, shared and not copied; `None` if there is none. `key` is at most
    /// [`KEY_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Stop> {
        self.access()?;
        let key = key_in_table(table, key);
        match self.overlay.get(key.as_slice()) {
            Some(written) => Ok(written.clone()),
            None => Ok(self.tree.get(key.as_slice()).cloned()),
        }
    }

    /// Stores `value` under `key`, in place of any other. `key` is at most [`KEY_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn put(&mut self, table: Table, key: &[u8], value: &[u8]) -> Result<(), Stop> {
        self.write(table, key, Some(Bytes::copy_from_slice(value)))
    }

    /// Deletes `key`, if it is there. `key` is at most [`KEY_SIZE_MAX`] bytes.
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn delete(&mut self, table: Table, key: &[u8]) -> Result<(), Stop> {
        self.write(table, key, None)
    }

    /// Hands the keys between `start` and `end` and their values to `visit`, in the order of
    /// `direction`, until it breaks. A range that ends before it starts is empty. After
    /// `Stop::Suspend` what `visit` has gathered is void.
    ///
    /// # Errors
    /// [`Stop::Suspend`], to be passed on.
    pub fn scan(
        &self,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
        mut visit: impl FnMut(&[u8], &Bytes) -> ControlFlow<()>,
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
        let range = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let tree = self.tree.range::<[u8], _>(range);
        let overlay = self.overlay.range::<[u8], _>(range);
        let visit = |key: &Bytes, value: &Bytes| {
            self.access()?;
            assert_eq!(key[0], table.0);
            Ok(visit(&key[1..], value))
        };
        match direction {
            Direction::Forward => merge(tree, overlay, Bytes::cmp, visit),
            Direction::Backward => merge(tree.rev(), overlay.rev(), |a, b| b.cmp(a), visit),
        }
    }

    /// A checksum over all content, in order: equal on replicas with equal content. Its cost is the
    /// size of the store.
    pub fn digest(&self) -> u64 {
        assert!(self.overlay.is_empty());
        let mut digest = Digest::new();
        for (key, value) in &self.tree {
            digest.bytes(key);
            digest.bytes(value);
        }
        digest.finish()
    }

    /// Whether an access of the present attempt has suspended.
    pub(crate) fn is_suspended(&self) -> bool {
        self.suspended.get()
    }

    /// Moves what the attempt has written into the tree.
    ///
    /// # Errors
    /// [`Stop::Suspend`] when the tree is not ready to take it: nothing has moved, and the attempt
    /// must be abandoned.
    pub(crate) fn commit_overlay(&mut self) -> Result<(), Stop> {
        assert!(!self.is_suspended(), "a suspended attempt is abandoned");
        self.access()?;
        for (key, written) in std::mem::take(&mut self.overlay) {
            match written {
                Some(value) => self.tree.insert(key, value),
                None => self.tree.remove(&key),
            };
        }
        assert!(self.overlay.is_empty());
        Ok(())
    }

    /// Forgets what the attempt has written, and that it was suspended.
    pub(crate) fn abandon_overlay(&mut self) {
        self.overlay.clear();
        self.suspended.set(false);
    }

    /// Whether no attempt is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.overlay.is_empty() && !self.is_suspended()
    }

    fn write(&mut self, table: Table, key: &[u8], value: Option<Bytes>) -> Result<(), Stop> {
        self.access()?;
        let key = key_in_table(table, key);
        self.overlay.insert(Bytes::from(key), value);
        Ok(())
    }

    /// Every access begins here: the one place that may suspend.
    fn access(&self) -> Result<(), Stop> {
        #[cfg(test)]
        if let Some(left) = self.accesses_left.get() {
            match left.checked_sub(1) {
                Some(left) => self.accesses_left.set(Some(left)),
                None => {
                    self.accesses_left.set(None);
                    self.suspended.set(true);
                }
            }
        }
        if self.suspended.get() { Err(Stop::Suspend) } else { Ok(()) }
    }

    /// Lets `accesses` more accesses succeed and then one suspend.
    #[cfg(test)]
    pub(crate) fn suspend_after(&self, accesses: u64) {
        self.accesses_left.set(Some(accesses));
    }
}

fn key_in_table(table: Table, key: &[u8]) -> Vec<u8> {
    assert!(key.len() <= KEY_SIZE_MAX, "a key of {} bytes", key.len());
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(table.0);
    bytes.extend_from_slice(key);
    bytes
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

/// Walks both in the order of `compare`; where both have a key, the overlay hides the tree.
fn merge<'a>(
    tree: impl Iterator<Item = (&'a Bytes, &'a Bytes)>,
    overlay: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    compare: impl Fn(&Bytes, &Bytes) -> Ordering,
    mut visit: impl FnMut(&Bytes, &Bytes) -> Result<ControlFlow<()>, Stop>,
) -> Result<(), Stop> {
    let (mut tree, mut overlay) = (tree.peekable(), overlay.peekable());
    loop {
        let order = match (tree.peek(), overlay.peek()) {
            (None, None) => return Ok(()),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((old, _)), Some((new, _))) => compare(old, new),
        };
        // Less: the tree alone has the next key. Equal: both have it.
        let old = if order.is_le() { tree.next() } else { None };
        let new = if order.is_ge() { overlay.next() } else { None };
        let row = match new {
            Some((key, written)) => written.as_ref().map(|value| (key, value)),
            None => old,
        };
        if let Some((key, value)) = row
            && visit(key, value)?.is_break()
        {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::{Prng, Ratio};

    const TABLE: Table = Table(7);

    type Model = BTreeMap<(u8, Vec<u8>), Vec<u8>>;
    type Rows = Vec<(Vec<u8>, Vec<u8>)>;

    #[test]
    fn random_operations_match_a_plain_map() {
        for seed in 0..40 {
            let mut prng = Prng::from_seed(seed);
            let mut store = Store::new();
            let mut committed = Model::new();
            for _ in 0..60 {
                let mut attempt = committed.clone();
                for _ in 0..prng.range_inclusive(1, 12) {
                    step(&mut prng, &mut store, &mut attempt);
                }
                if prng.chance(Ratio::new(1, 3)) {
                    store.abandon_overlay();
                } else {
                    store.commit_overlay().unwrap();
                    committed = attempt;
                }
                assert!(store.is_settled());
                check_scan(&mut prng, &store, &committed);
            }
            assert!(committed.len() > 5, "the model saw too little");
        }
    }

    #[test]
    fn scan_ranges_that_end_before_they_start_are_empty() {
        let mut store = Store::new();
        store.put(TABLE, b"b", b"1").unwrap();
        let bounds = |key: &'static [u8]| [Bound::Included(key), Bound::Excluded(key)];
        for direction in [Direction::Forward, Direction::Backward] {
            for start in bounds(b"c") {
                for end in bounds(b"a") {
                    assert_eq!(rows(&store, TABLE, start, end, direction), []);
                }
            }
            for (start, end, count) in [
                (Bound::Included(b"b".as_slice()), Bound::Included(b"b".as_slice()), 1),
                (Bound::Included(b"b"), Bound::Excluded(b"b"), 0),
                (Bound::Excluded(b"b"), Bound::Included(b"b"), 0),
                (Bound::Excluded(b"b"), Bound::Excluded(b"b"), 0),
                (Bound::Unbounded, Bound::Unbounded, 1),
            ] {
                assert_eq!(rows(&store, TABLE, start, end, direction).len(), count);
            }
        }
    }

    #[test]
    fn tables_are_separate_also_at_the_ends() {
        let mut store = Store::new();
        for table in [0, 1, 254, 255] {
            store.put(Table(table), b"", &[table]).unwrap();
            store.put(Table(table), &[0xff; KEY_SIZE_MAX], &[table]).unwrap();
        }
        store.commit_overlay().unwrap();
        for table in [0, 1, 254, 255] {
            for direction in [Direction::Forward, Direction::Backward] {
                let rows =
                    rows(&store, Table(table), Bound::Unbounded, Bound::Unbounded, direction);
                assert_eq!(rows.len(), 2);
                assert!(rows.iter().all(|(_, value)| *value == [table]));
            }
        }
        assert_eq!(rows(&store, TABLE, Bound::Unbounded, Bound::Unbounded, Direction::Forward), []);
    }

    #[test]
    fn suspension_is_latched_until_the_attempt_is_abandoned() {
        let mut store = Store::new();
        store.put(TABLE, b"k", b"1").unwrap();
        store.commit_overlay().unwrap();
        store.suspend_after(1);
        store.put(TABLE, b"k", b"2").unwrap();
        assert_eq!(store.get(TABLE, b"k"), Err(Stop::Suspend));
        assert_eq!(store.get(TABLE, b"k"), Err(Stop::Suspend));
        assert_eq!(store.put(TABLE, b"k", b"3"), Err(Stop::Suspend));
        assert_eq!(store.delete(TABLE, b"k"), Err(Stop::Suspend));
        assert!(store.is_suspended());
        store.abandon_overlay();
        assert!(store.is_settled());
        assert_eq!(store.get(TABLE, b"k").unwrap().unwrap(), b"1".as_slice());
    }

    #[test]
    fn commit_that_suspends_moves_nothing() {
        let mut store = Store::new();
        let empty = store.digest();
        store.put(TABLE, b"k", b"1").unwrap();
        store.suspend_after(0);
        assert_eq!(store.commit_overlay(), Err(Stop::Suspend));
        store.abandon_overlay();
        assert_eq!(store.digest(), empty);
    }

    #[test]
    fn digest_tells_where_bytes_belong() {
        let digest = |rows: &[(u8, &str, &str)]| {
            let mut store = Store::new();
            for (table, key, value) in rows {
                store.put(Table(*table), key.as_bytes(), value.as_bytes()).unwrap();
            }
            store.commit_overlay().unwrap();
            store.digest()
        };
        let one = digest(&[(1, "ab", "c"), (1, "b", "")]);
        assert_eq!(one, digest(&[(1, "b", ""), (1, "ab", "x"), (1, "ab", "c")]));
        for other in [
            digest(&[(1, "a", "bc"), (1, "b", "")]),
            digest(&[(2, "ab", "c"), (1, "b", "")]),
            digest(&[(1, "ab", "c")]),
            digest(&[]),
        ] {
            assert_ne!(one, other);
        }
    }

    fn step(prng: &mut Prng, store: &mut Store, model: &mut Model) {
        let table = Table(u8::try_from(prng.below(3)).unwrap());
        let key = random_key(prng);
        match prng.below(6) {
            0..3 => {
                let value = prng.next_u64().to_le_bytes();
                store.put(table, &key, &value).unwrap();
                model.insert((table.0, key), value.to_vec());
            }
            3 => {
                store.delete(table, &key).unwrap();
                model.remove(&(table.0, key));
            }
            4 => {
                let expected = model.get(&(table.0, key.clone())).map(Vec::as_slice);
                assert_eq!(store.get(table, &key).unwrap().as_deref(), expected);
            }
            _ => check_scan(prng, store, model),
        }
    }

    fn check_scan(prng: &mut Prng, store: &Store, model: &Model) {
        let table = u8::try_from(prng.below(3)).unwrap();
        let (start_key, end_key) = (random_key(prng), random_key(prng));
        let (start, end) = (random_bound(prng, &start_key), random_bound(prng, &end_key));
        let inside = |key: &[u8]| {
            let after = match start {
                Bound::Included(start) => key >= start,
                Bound::Excluded(start) => key > start,
                Bound::Unbounded => true,
            };
            let before = match end {
                Bound::Included(end) => key <= end,
                Bound::Excluded(end) => key < end,
                Bound::Unbounded => true,
            };
            after && before
        };
        let mut expected: Rows = model
            .iter()
            .filter(|((of, key), _)| *of == table && inside(key))
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect();
        assert_eq!(rows(store, Table(table), start, end, Direction::Forward), expected);
        expected.reverse();
        assert_eq!(rows(store, Table(table), start, end, Direction::Backward), expected);
    }

    fn rows(
        store: &Store,
        table: Table,
        start: Bound<&[u8]>,
        end: Bound<&[u8]>,
        direction: Direction,
    ) -> Rows {
        let mut rows = Vec::new();
        store
            .scan(table, start, end, direction, |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        rows
    }

    fn random_key(prng: &mut Prng) -> Vec<u8> {
        (0..prng.below(3)).map(|_| [0, 1, 0xff][prng.index(3)]).collect()
    }

    fn random_bound<'a>(prng: &mut Prng, key: &'a [u8]) -> Bound<&'a [u8]> {
        [Bound::Included(key), Bound::Excluded(key), Bound::Unbounded][prng.index(3)]
    }
}
