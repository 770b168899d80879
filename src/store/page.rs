//! F3: a packed page: sorted records in the bytes of a block's body. A node of the tree.
//!
//! ```text
//! 0        2       3      4            4+2n
//! +--------+-------+------+------------+----------------------------------------+
//! | count n| level | zero | ends, u16  | records, in the order of their keys    |
//! +--------+-------+------+------------+----------------------------------------+
//!                           end of record i, counted from the first record
//!
//! leaf, level 0    0           2             6
//!                  +-----------+-------------+--------+-------------------------------+
//!                  | key size  | value size  | key    | value                         |
//!                  +-----------+-------------+--------+-------------------------------+
//!                                            or, large: | hash 8 | reference of value |
//!
//! inner, level > 0 +------------------------------------------------+------------------------+
//!                  | separator: no key beneath is below it          | reference of the child |
//!                  +------------------------------------------------+------------------------+
//! ```
//!
//! A value lies in its record if the record then fits a quarter of a page, or if it is no larger
//! than what would stand for it; so whether it does follows from the size of the record. The first
//! separator of a page is empty: the page above bounds its first child.
//!
//! **Invariants:** the bytes are a function of the records alone; keys ascend strictly; a page of
//! an empty tree does not exist, and a page with no records exists only within an operation; any
//! two records and a new one can be split so that each part fits a page; no page is ever longer
//! than a block's body.
//!
//! **Not here:** where pages lie and when they split (`tree`); what is in large values (`value`).

use crate::constants::HEADER_SIZE;
use crate::store::KEY_SIZE_MAX;
use crate::wire::BlockRef;
use std::cmp::Ordering;

const HEAD_SIZE: usize = 4;
const END_SIZE: usize = 2;
const LEAF_RECORD_HEAD_SIZE: usize = 6;
/// What stands for a large value in its record: a hash of it, and its reference.
const LARGE_SIZE: usize = 8 + BlockRef::SIZE;

/// The longest key with its table.
const TABLE_KEY_SIZE_MAX: usize = 1 + KEY_SIZE_MAX;

const _: () = {
    // The smallest page holds three of the largest records, so two of four go to each side.
    let page = 4096 - HEADER_SIZE as usize;
    let leaf = LEAF_RECORD_HEAD_SIZE + TABLE_KEY_SIZE_MAX + LARGE_SIZE;
    let largest = END_SIZE + if leaf > page / 4 { leaf } else { page / 4 };
    assert!(HEAD_SIZE + 3 * largest <= page);
    // The largest page can be addressed by its ends.
    assert!(65536 - HEADER_SIZE as usize <= u16::MAX as usize);
};

/// A value as its leaf holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// In the record itself.
    Inline(&'a [u8]),
    /// In blocks of its own.
    Large { size: u32, hash: u64, reference: BlockRef },
}

/// Whether a value of `value_size` lies in its record, in pages of `page_size`.
pub(super) fn is_inline(key_size: usize, value_size: usize, page_size: u32) -> bool {
    let record_size = LEAF_RECORD_HEAD_SIZE + key_size + value_size;
    value_size <= LARGE_SIZE || record_size <= page_size as usize / 4
}

/// The bytes of a leaf record in front of its key.
pub(super) fn leaf_record_head(key: &[u8], value_size: u32) -> [u8; LEAF_RECORD_HEAD_SIZE] {
    let key_size = u16::try_from(key.len()).expect("at most 1025");
    let mut head = [0; LEAF_RECORD_HEAD_SIZE];
    head[..2].copy_from_slice(&key_size.to_le_bytes());
    head[2..].copy_from_slice(&value_size.to_le_bytes());
    head
}

/// What stands for a large value.
pub(super) fn large_value(hash: u64, reference: &BlockRef) -> [u8; LARGE_SIZE] {
    let mut bytes = [0; LARGE_SIZE];
    bytes[..8].copy_from_slice(&hash.to_le_bytes());
    bytes[8..].copy_from_slice(&reference.encode());
    bytes
}

/// A node of the tree. See the head of this file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Page {
    bytes: Vec<u8>,
}

impl Page {
    /// An empty page with room for `page_size` bytes.
    pub(super) fn new(level: u8, page_size: u32) -> Self {
        let mut bytes = Vec::with_capacity(page_size as usize);
        bytes.extend_from_slice(&[0, 0, level, 0]);
        Self { bytes }
    }

    /// The page in the body of a block, if it is one of `level`.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn decode(body: &[u8], level: u8, page_size: u32) -> Result<Self, &'static str> {
        assert!(body.len() <= page_size as usize);
        if body.len() < HEAD_SIZE || body[2] != level || body[3] != 0 {
            return Err("no page of this level");
        }
        let mut bytes = Vec::with_capacity(page_size as usize);
        bytes.extend_from_slice(body);
        let page = Self { bytes };
        let records_start = page.records_start();
        if records_start > body.len() {
            return Err("a page of more records than bytes");
        }
        let ends = (0..page.count()).map(|at| page.end(at)).collect::<Vec<_>>();
        let record_size_min = if level == 0 { LEAF_RECORD_HEAD_SIZE } else { BlockRef::SIZE };
        let mut start = 0;
        for end in &ends {
            if *end < start + record_size_min || records_start + end > page.bytes.len() {
                return Err("a page with a record of no size");
            }
            start = *end;
        }
        if ends.is_empty() || records_start + start != page.bytes.len() {
            return Err("a page of another size than its records");
        }
        if level == 0 && !(0..page.count()).all(|at| page.leaf_record_is_valid(at)) {
            return Err("a leaf with a damaged record");
        }
        if level > 0 && !page.key(0).is_empty() {
            return Err("an inner page whose first child is bounded");
        }
        if !(1..page.count()).all(|at| page.key(at - 1) < page.key(at)) {
            return Err("a page with keys in disorder");
        }
        Ok(page)
    }

    fn leaf_record_is_valid(&self, at: usize) -> bool {
        let record = self.record(at);
        let key_size = usize::from(u16::from_le_bytes([record[0], record[1]]));
        let value_size = self.value_size(at) as usize;
        let payload_start = LEAF_RECORD_HEAD_SIZE + key_size;
        record.len() == payload_start + value_size || record.len() == payload_start + LARGE_SIZE
    }

    /// As it is in its block.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// 0 for a leaf.
    pub(super) fn level(&self) -> u8 {
        self.bytes[2]
    }

    /// Records in it.
    pub(super) fn count(&self) -> usize {
        usize::from(u16::from_le_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// Bytes in use.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    /// The key of record `at`: of a leaf a table's key, of an inner page a separator.
    pub(super) fn key(&self, at: usize) -> &[u8] {
        let record = self.record(at);
        if self.level() == 0 {
            let key_size = usize::from(u16::from_le_bytes([record[0], record[1]]));
            &record[LEAF_RECORD_HEAD_SIZE..LEAF_RECORD_HEAD_SIZE + key_size]
        } else {
            &record[..record.len() - BlockRef::SIZE]
        }
    }

    /// The value of record `at` of a leaf.
    pub(super) fn value(&self, at: usize) -> Value<'_> {
        assert_eq!(self.level(), 0);
        let record = self.record(at);
        let payload = &record[LEAF_RECORD_HEAD_SIZE + self.key(at).len()..];
        let size = self.value_size(at);
        if payload.len() == size as usize {
            return Value::Inline(payload);
        }
        let (hash, reference) = payload.split_first_chunk().expect("a large value");
        let reference = BlockRef::decode(reference.first_chunk().expect("a large value"));
        Value::Large { size, hash: u64::from_le_bytes(*hash), reference }
    }

    fn value_size(&self, at: usize) -> u32 {
        u32::from_le_bytes(*self.record(at)[2..].first_chunk().expect("a leaf record"))
    }

    /// The child of record `at` of an inner page.
    pub(super) fn child(&self, at: usize) -> BlockRef {
        assert!(self.level() > 0);
        let record = self.record(at);
        BlockRef::decode(record[record.len() - BlockRef::SIZE..].first_chunk().expect("its size"))
    }

    /// Puts another child in the place of that of record `at` of an inner page.
    pub(super) fn set_child(&mut self, at: usize, child: &BlockRef) {
        assert!(self.level() > 0);
        let end = self.records_start() + self.end(at);
        self.bytes[end - BlockRef::SIZE..end].copy_from_slice(&child.encode());
    }

    /// Where `key` is, or would be.
    pub(super) fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = usize::midpoint(low, high);
            match self.key(middle).cmp(key) {
                Ordering::Equal => return Ok(middle),
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
            }
        }
        Err(low)
    }

    /// Which child of an inner page bounds `key`.
    pub(super) fn search_child(&self, key: &[u8]) -> usize {
        assert!(self.level() > 0);
        match self.search(key) {
            Ok(at) => at,
            // The first separator is empty, and nothing is below it.
            Err(at) => at - 1,
        }
    }

    /// The bytes of record `at`.
    pub(super) fn record(&self, at: usize) -> &[u8] {
        let records_start = self.records_start();
        let start = if at == 0 { 0 } else { self.end(at - 1) };
        &self.bytes[records_start + start..records_start + self.end(at)]
    }

    /// What a record of `size` bytes adds to a page.
    pub(super) fn size_of_record(size: usize) -> usize {
        END_SIZE + size
    }

    /// Inserts a record, made of `parts`, at `at`. It must have room.
    pub(super) fn insert(&mut self, at: usize, parts: &[&[u8]]) {
        let count = self.count();
        assert!(at <= count);
        let size: usize = parts.iter().map(|part| part.len()).sum();
        let start = if at == 0 { 0 } else { self.end(at - 1) };
        let ends_at = HEAD_SIZE + END_SIZE * at;
        let gap_at = self.records_start() + start;
        let size_old = self.bytes.len();
        self.bytes.resize(size_old + END_SIZE + size, 0);
        self.bytes.copy_within(gap_at..size_old, gap_at + END_SIZE + size);
        self.bytes.copy_within(ends_at..gap_at, ends_at + END_SIZE);
        let mut position = gap_at + END_SIZE;
        for part in parts {
            self.bytes[position..position + part.len()].copy_from_slice(part);
            position += part.len();
        }
        self.set_count(count + 1);
        self.set_end(at, start + size);
        for later in at + 1..=count {
            self.set_end(later, self.end(later) + size);
        }
    }

    /// Removes record `at`.
    pub(super) fn remove(&mut self, at: usize) {
        let count = self.count();
        assert!(at < count);
        let size = self.record(at).len();
        let start = if at == 0 { 0 } else { self.end(at - 1) };
        let ends_at = HEAD_SIZE + END_SIZE * at;
        let gap_at = self.records_start() + start;
        for later in at + 1..count {
            self.set_end(later, self.end(later) - size);
        }
        self.bytes.copy_within(ends_at + END_SIZE..gap_at, ends_at);
        self.bytes.copy_within(gap_at + size.., gap_at - END_SIZE);
        self.bytes.truncate(self.bytes.len() - size - END_SIZE);
        self.set_count(count - 1);
    }

    /// Becomes a copy of `other`, and keeps its capacity.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.bytes.clear();
        self.bytes.extend_from_slice(&other.bytes);
    }

    /// A copy with room for `page_size` bytes.
    pub(super) fn copy(&self, page_size: u32) -> Self {
        let mut bytes = Vec::with_capacity(page_size as usize);
        bytes.extend_from_slice(&self.bytes);
        Self { bytes }
    }

    /// Inserts a record that has no room: the records from some place on become the page to the
    /// right, which is returned. After the last record, only the new one; else the parts differ
    /// least in size.
    pub(super) fn split_insert(&mut self, at: usize, parts: &[&[u8]], page_size: u32) -> Self {
        let count = self.count();
        assert!(at <= count && count >= 1);
        let new_size = END_SIZE + parts.iter().map(|part| part.len()).sum::<usize>();
        let total = self.bytes.len() - HEAD_SIZE + new_size;
        // Of the first `records` of the old and the new ones together.
        let left_size = |records: usize| {
            let old = if records <= at { records } else { records - 1 };
            let old_size = if old == 0 { 0 } else { self.end(old - 1) + END_SIZE * old };
            if records <= at { old_size } else { old_size + new_size }
        };
        let even = (1..=count).min_by_key(|records| (2 * left_size(*records)).abs_diff(total));
        let left_count = if at == count { count } else { even.expect("one record or more") };
        let mut right;
        if left_count <= at {
            right = self.split_off(left_count, page_size);
            right.insert(at - left_count, parts);
        } else {
            right = self.split_off(left_count - 1, page_size);
            self.insert(at, parts);
        }
        assert!(self.count() > 0 && self.size() <= page_size as usize);
        assert!(right.count() > 0 && right.size() <= page_size as usize);
        right
    }

    /// Moves the records from `at` on into a page of their own; either may be left empty.
    fn split_off(&mut self, at: usize, page_size: u32) -> Self {
        let (count, records_start) = (self.count(), self.records_start());
        assert!(at <= count);
        let start = if at == 0 { 0 } else { self.end(at - 1) };
        let mut right = Self::new(self.level(), page_size);
        right.set_count(count - at);
        right.bytes.resize(HEAD_SIZE + END_SIZE * (count - at), 0);
        right.bytes.extend_from_slice(&self.bytes[records_start + start..]);
        for record in at..count {
            right.set_end(record - at, self.end(record) - start);
        }
        let records = records_start..records_start + start;
        self.bytes.copy_within(records, HEAD_SIZE + END_SIZE * at);
        self.bytes.truncate(HEAD_SIZE + END_SIZE * at + start);
        self.set_count(at);
        right
    }

    /// Of an inner page: gives the first child another bound, or none.
    pub(super) fn set_first_separator(&mut self, separator: &[u8]) {
        let child = self.child(0).encode();
        self.remove(0);
        self.insert(0, &[separator, &child]);
    }

    /// What [`Self::append`] would make of this page and `right`.
    pub(super) fn size_appended(&self, right: &Self, separator: &[u8]) -> usize {
        let bound = if self.level() == 0 { 0 } else { separator.len() };
        self.size() + right.size() - HEAD_SIZE + bound
    }

    /// Appends the records of the page to the right, which `separator` bounds.
    pub(super) fn append(&mut self, right: &Self, separator: &[u8]) {
        assert_eq!(self.level(), right.level());
        for at in 0..right.count() {
            let bound: &[u8] = if at == 0 && self.level() > 0 { separator } else { &[] };
            self.insert(self.count(), &[bound, right.record(at)]);
        }
    }

    fn records_start(&self) -> usize {
        HEAD_SIZE + END_SIZE * self.count()
    }

    fn end(&self, at: usize) -> usize {
        let start = HEAD_SIZE + END_SIZE * at;
        usize::from(u16::from_le_bytes([self.bytes[start], self.bytes[start + 1]]))
    }

    fn set_end(&mut self, at: usize, end: usize) {
        let start = HEAD_SIZE + END_SIZE * at;
        let end = u16::try_from(end).expect("a page and a record are below 64 KiB");
        self.bytes[start..start + END_SIZE].copy_from_slice(&end.to_le_bytes());
    }

    fn set_count(&mut self, count: usize) {
        let count = u16::try_from(count).expect("fewer records than bytes");
        self.bytes[..2].copy_from_slice(&count.to_le_bytes());
    }
}

/// A short key above `left` and not above `right`: it bounds a page that begins with `right`, next
/// to one that ends with `left`. As low as it can be, so that what comes between goes to the right.
pub(super) fn separator(left: &[u8], right: &[u8]) -> Vec<u8> {
    assert!(left < right);
    let common = left.iter().zip(right).take_while(|(a, b)| a == b).count();
    let mut separator = right[..common].to_vec();
    // At the first difference `left` is lower, or at its end.
    separator.push(left.get(common).map_or(0, |byte| byte + 1));
    assert!(left < separator.as_slice() && separator.as_slice() <= right);
    separator
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;
    use std::collections::BTreeMap;

    const PAGE_SIZE: u32 = 4096 - HEADER_SIZE;

    fn insert(page: &mut Page, key: &[u8], value: &[u8]) {
        let head = leaf_record_head(key, u32::try_from(value.len()).unwrap());
        let at = page.search(key).unwrap_err();
        page.insert(at, &[&head, key, value]);
    }

    #[test]
    fn is_a_function_of_its_records() {
        for seed in 0..50 {
            let mut prng = Prng::from_seed(seed);
            let mut page = Page::new(0, PAGE_SIZE);
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            for _ in 0..200 {
                let key: Vec<u8> = (0..prng.below(4)).map(|_| b"ab"[prng.index(2)]).collect();
                if let Ok(at) = page.search(&key) {
                    assert_eq!(page.value(at), Value::Inline(&model[&key]));
                    page.remove(at);
                    model.remove(&key);
                } else {
                    let value = vec![7; prng.index(60)];
                    insert(&mut page, &key, &value);
                    model.insert(key, value);
                }
                let mut fresh = Page::new(0, PAGE_SIZE);
                for (key, value) in &model {
                    insert(&mut fresh, key, value);
                }
                assert_eq!(page, fresh);
                if page.count() > 0 {
                    let decoded = Page::decode(page.bytes(), 0, PAGE_SIZE);
                    assert_eq!(decoded.unwrap(), page);
                }
            }
        }
    }

    #[test]
    fn splits_keep_the_order_and_fit() {
        for page_size in [PAGE_SIZE, 65536 - HEADER_SIZE] {
            for seed in 0..100 {
                let mut prng = Prng::from_seed(seed);
                let mut page = Page::new(0, page_size);
                let mut keys = Vec::new();
                let right = loop {
                    let mut key = vec![0; prng.index(TABLE_KEY_SIZE_MAX + 1)];
                    prng.fill(&mut key);
                    let Err(at) = page.search(&key) else { continue };
                    let mut value = vec![1; prng.index(page_size as usize / 4)];
                    if !is_inline(key.len(), value.len(), page_size) {
                        value = vec![2; LARGE_SIZE];
                    }
                    let head = leaf_record_head(&key, u32::try_from(value.len()).unwrap());
                    let parts: [&[u8]; 3] = [&head, &key, &value];
                    keys.push(key.clone());
                    let size = parts.iter().map(|part| part.len()).sum();
                    if page.size() + Page::size_of_record(size) > page_size as usize {
                        break page.split_insert(at, &parts, page_size);
                    }
                    page.insert(at, &parts);
                };
                keys.sort();
                let found: Vec<Vec<u8>> = [&page, &right]
                    .into_iter()
                    .flat_map(|page| (0..page.count()).map(|at| page.key(at).to_vec()))
                    .collect();
                assert_eq!(found, keys);
                assert!(page.count() > 0 && right.count() > 0);
                Page::decode(page.bytes(), 0, page_size).unwrap();
                Page::decode(right.bytes(), 0, page_size).unwrap();
                let bound = separator(page.key(page.count() - 1), right.key(0));
                assert!(bound.len() <= right.key(0).len());
            }
        }
    }

    #[test]
    fn a_split_in_the_middle_is_as_even_as_can_be() {
        for seed in 0..200 {
            let mut prng = Prng::from_seed(seed);
            let mut page = Page::new(0, PAGE_SIZE);
            let mut sizes = std::collections::VecDeque::new();
            // Records of a key of one byte, in the order of their keys, each with its end.
            let (at, key, value) = loop {
                let key = [u8::try_from(prng.below(255)).unwrap()];
                let Err(at) = page.search(&key) else { continue };
                let value = vec![3; prng.index(900)];
                let record = Page::size_of_record(LEAF_RECORD_HEAD_SIZE + 1 + value.len());
                sizes.insert(at, record);
                if page.size() + record > PAGE_SIZE as usize {
                    break (at, key, value);
                }
                insert(&mut page, &key, &value);
            };
            let count = page.count();
            let head = leaf_record_head(&key, u32::try_from(value.len()).unwrap());
            let right = page.split_insert(at, &[&head, &key, &value], PAGE_SIZE);
            let total: usize = sizes.iter().sum();
            let left = |records: usize| sizes.iter().take(records).sum::<usize>();
            let even = (1..=count).min_by_key(|records| (2 * left(*records)).abs_diff(total));
            let expected = if at == count { count } else { even.unwrap() };
            assert_eq!((page.count(), right.count()), (expected, count + 1 - expected));
            assert_eq!(page.size() + right.size(), total + 2 * HEAD_SIZE);
        }
    }

    #[test]
    fn pages_that_are_appended_have_the_size_and_the_bounds_that_were_foretold() {
        let reference = |index: u32| BlockRef { index, op: 1, checksum: 2, checksum_body: 3 };
        let inner = |keys: &[&[u8]]| {
            let mut page = Page::new(1, PAGE_SIZE);
            for (at, key) in keys.iter().enumerate() {
                page.insert(at, &[key, &reference(u32::try_from(at).unwrap()).encode()]);
            }
            page
        };
        let (mut left, right) = (inner(&[b"", b"c"]), inner(&[b"", b"x"]));
        let size = left.size_appended(&right, b"mmm");
        left.append(&right, b"mmm");
        assert_eq!(left.size(), size);
        let keys: Vec<&[u8]> = (0..left.count()).map(|at| left.key(at)).collect();
        assert_eq!(keys, [b"".as_slice(), b"c", b"mmm", b"x"]);
        assert_eq!(Page::decode(left.bytes(), 1, PAGE_SIZE).unwrap(), left);
        let (mut left, mut right) = (Page::new(0, PAGE_SIZE), Page::new(0, PAGE_SIZE));
        insert(&mut left, b"a", b"1");
        insert(&mut right, b"n", b"22");
        insert(&mut right, b"o", b"");
        let size = left.size_appended(&right, b"mmm");
        left.append(&right, b"mmm");
        assert_eq!(left.size(), size);
        let keys: Vec<&[u8]> = (0..left.count()).map(|at| left.key(at)).collect();
        assert_eq!(keys, [b"a", b"n", b"o"]);
    }

    #[test]
    fn pages_that_this_code_does_not_write_are_refused() {
        let mut page = Page::new(0, PAGE_SIZE);
        insert(&mut page, b"a", b"1");
        let mut longer = page.bytes().to_vec();
        longer.push(0);
        assert!(Page::decode(&longer, 0, PAGE_SIZE).is_err(), "a byte of no record");
        assert!(Page::decode(Page::new(0, PAGE_SIZE).bytes(), 0, PAGE_SIZE).is_err(), "empty");
        let head = leaf_record_head(b"a", 1);
        page.insert(1, &[&head, b"a", b"2"]);
        assert!(Page::decode(page.bytes(), 0, PAGE_SIZE).is_err(), "a key twice");
        let child = BlockRef { index: 1, op: 1, checksum: 2, checksum_body: 3 }.encode();
        let mut bounded = Page::new(1, PAGE_SIZE);
        bounded.insert(0, &[b"b", &child]);
        assert!(Page::decode(bounded.bytes(), 1, PAGE_SIZE).is_err(), "a first child with a bound");
        let mut right = Page::new(1, PAGE_SIZE);
        right.insert(0, &[b"", &child]);
        assert!(Page::decode(right.bytes(), 1, PAGE_SIZE).is_ok());
    }

    #[test]
    fn a_value_is_in_its_record_up_to_a_quarter_of_the_page() {
        // Six bytes in front of the key.
        let size = PAGE_SIZE as usize / 4 - LEAF_RECORD_HEAD_SIZE - 10;
        assert!(is_inline(10, size, PAGE_SIZE) && !is_inline(10, size + 1, PAGE_SIZE));
        assert!(is_inline(900, LARGE_SIZE, PAGE_SIZE), "no longer than what would stand for it");
        assert!(is_inline(1025, LARGE_SIZE, PAGE_SIZE) && !is_inline(1025, 100, PAGE_SIZE));
    }

    #[test]
    fn appending_splits_off_one_record() {
        let mut page = Page::new(0, PAGE_SIZE);
        for key in 0..=255_u8 {
            let head = leaf_record_head(&[key], 50);
            let parts: [&[u8]; 3] = [&head, &[key], &[0; 50]];
            if page.size() + Page::size_of_record(57) > PAGE_SIZE as usize {
                let count = page.count();
                let right = page.split_insert(count, &parts, PAGE_SIZE);
                assert_eq!((page.count(), right.count()), (count, 1));
                return;
            }
            page.insert(page.count(), &parts);
        }
        panic!("a page of 256 records of 57 bytes");
    }

    #[test]
    fn separators_are_short_and_low() {
        for (left, right, expected) in [
            ("a", "b", "b"),
            ("a", "c", "b"),
            ("abc", "abd", "abd"),
            ("ab", "abc", "ab\0"),
            ("abzz", "ac", "ac"),
            ("", "x", "\0"),
        ] {
            assert_eq!(separator(left.as_bytes(), right.as_bytes()), expected.as_bytes());
        }
    }

    #[test]
    fn damage_is_refused() {
        let mut page = Page::new(0, PAGE_SIZE);
        insert(&mut page, b"a", b"1");
        insert(&mut page, b"b", b"2");
        let good = page.bytes().to_vec();
        assert!(Page::decode(&good, 0, PAGE_SIZE).is_ok());
        assert!(Page::decode(&good, 1, PAGE_SIZE).is_err());
        for size in 0..good.len() {
            assert!(Page::decode(&good[..size], 0, PAGE_SIZE).is_err());
        }
        let mut prng = Prng::from_seed(1);
        for _ in 0..10_000 {
            let mut damaged = good.clone();
            for _ in 0..prng.range_inclusive(1, 3) {
                let at = prng.index(damaged.len());
                damaged[at] = u8::try_from(prng.below(256)).unwrap();
            }
            // Total: anything but a panic.
            if let Ok(page) = Page::decode(&damaged, 0, PAGE_SIZE) {
                for at in 0..page.count() {
                    let _ = (page.key(at), page.value(at));
                }
            }
        }
    }
}
