//! F3, tests only: the shape of the tree, of pages in memory alone. Small pages and long keys, so
//! that it is deep: three records to a leaf, four children to a node.

use super::super::{Direction, Store, Table};
use super::*;
use crate::stdx::Prng;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

const TABLE: Table = Table(1);

/// Long keys in the order of their numbers, and as long is what separates them.
fn key(number: u32) -> Vec<u8> {
    let mut key = vec![7; 900];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

/// Short ones, whose separators are short.
fn short_key(number: u32) -> Vec<u8> {
    number.to_be_bytes().to_vec()
}

fn write(store: &mut Store, key: &[u8], value: Option<&[u8]>) {
    match value {
        Some(value) => store.put(TABLE, key, value).unwrap(),
        None => store.delete(TABLE, key).unwrap(),
    }
    store.commit_overlay().unwrap();
}

/// Checks every page below `reference`, and returns the records and the number of pages.
fn check(
    tree: &Tree,
    reference: &BlockRef,
    level: u8,
    low: &[u8],
    high: Option<&[u8]>,
    records: &mut Vec<Vec<u8>>,
) -> usize {
    let page = tree.page(reference, level).unwrap();
    assert!(page.count() > 0);
    assert!(page.size() <= tree.page_size as usize);
    if level == 0 {
        for at in 0..page.count() {
            assert!(page.key(at) >= low && high.is_none_or(|high| page.key(at) < high));
            records.push(page.key(at).to_vec());
        }
        return 1;
    }
    assert!(page.key(0).is_empty(), "nothing bounds a first child");
    let mut pages = 1;
    for at in 0..page.count() {
        let low = if at == 0 { low } else { page.key(at) };
        let last = at + 1 == page.count();
        let high = if last { high } else { Some(page.key(at + 1)) };
        assert!(high.is_none_or(|high| low < high));
        pages += check(tree, &page.child(at), level - 1, low, high, records);
    }
    pages
}

/// The number of pages, after a look at all of them.
fn pages(store: &Store) -> usize {
    let (tree, mut records) = (&store.tree, Vec::new());
    if tree.root.height == 0 {
        assert!(tree.root.reference.is_none());
        assert_eq!(tree.root.records_count, 0);
        return 0;
    }
    let top = tree.root.height - 1;
    if top > 0 {
        let root = tree.page(&tree.root.reference, top).unwrap();
        assert!(root.count() > 1, "a root with one child makes room for it");
    }
    let pages = check(tree, &tree.root.reference, top, &[], None, &mut records);
    assert_eq!(records.len() as u64, tree.root.records_count);
    assert!(records.is_sorted());
    pages
}

/// Whether a block is not given up. The last freeze was none: what was given up is not free.
fn has_places_in_use(store: &Store) -> bool {
    let free_set = &store.tree.free_set;
    (0..free_set.required()).any(|index| free_set.is_used(index))
}

/// Of two neighbours under one parent, the one that lost bytes last would have been merged, were
/// both below a quarter.
fn assert_merged(tree: &Tree, reference: &BlockRef, level: u8) {
    if level == 0 {
        return;
    }
    let page = tree.page(reference, level).unwrap();
    let children: Vec<&Page> =
        (0..page.count()).map(|at| tree.page(&page.child(at), level - 1).unwrap()).collect();
    let quarter = tree.page_size as usize / 4;
    for pair in children.windows(2) {
        assert!(pair[0].size() >= quarter || pair[1].size() >= quarter);
    }
    for at in 0..page.count() {
        assert_merged(tree, &page.child(at), level - 1);
    }
}

fn filled(count: u32, key: fn(u32) -> Vec<u8>, value: &[u8]) -> Store {
    let mut store = Store::in_memory();
    for number in 0..count {
        write(&mut store, &key(number), Some(value));
    }
    store
}

/// The numbers of all records, in some orders.
fn orders(count: u32) -> Vec<Vec<u32>> {
    let forwards: Vec<u32> = (0..count).collect();
    let mut drawn = forwards.clone();
    let mut prng = Prng::from_seed(3);
    for at in (1..drawn.len()).rev() {
        drawn.swap(at, prng.index(at + 1));
    }
    let (even, odd): (Vec<u32>, Vec<u32>) = forwards.iter().partition(|number| *number % 2 == 0);
    let backwards = forwards.iter().rev().copied().collect();
    let inwards = even.iter().chain(odd.iter().rev()).copied().collect();
    vec![forwards, backwards, drawn, inwards]
}

#[test]
fn a_tree_that_loses_records_loses_pages_down_to_none() {
    for (count, key, height) in [(120, key as fn(u32) -> Vec<u8>, 4), (1500, short_key, 2)] {
        for order in orders(count) {
            let mut store = filled(count, key, &[5; 40]);
            let most = pages(&store);
            assert!(store.tree.root.height >= height);
            for (removed, number) in (0..).zip(&order) {
                write(&mut store, &key(*number), None);
                if removed % 16 == 15 {
                    pages(&store);
                    if store.tree.root.height > 0 {
                        let top = store.tree.root.height - 1;
                        assert_merged(&store.tree, &store.tree.root.reference, top);
                    }
                }
                if removed == count * 3 / 4 {
                    assert!(pages(&store) < most * 3 / 4, "{} of {most}", pages(&store));
                }
            }
            assert_eq!((store.tree.root.height, pages(&store)), (0, 0));
            assert!(!has_places_in_use(&store));
        }
    }
}

#[test]
fn a_tree_of_any_history_holds_what_a_map_holds() {
    for seed in 0..4 {
        let mut prng = Prng::from_seed(seed);
        let (mut store, mut model) = (Store::in_memory(), BTreeMap::new());
        for round in 0..600_u64 {
            let number = u32::try_from(prng.below(80)).unwrap();
            if prng.below(10) < 3 + 4 * (round / 150 % 2) {
                write(&mut store, &key(number), None);
                model.remove(&key(number));
            } else {
                let value = vec![1; prng.index(300)];
                write(&mut store, &key(number), Some(&value));
                model.insert(key(number), value);
            }
            pages(&store);
        }
        for number in 0..80 {
            let found = store.get(TABLE, &key(number)).unwrap();
            assert_eq!(found.as_deref(), model.get(&key(number)).map(Vec::as_slice));
        }
        assert_eq!(store.counters().records, model.len() as u64);
    }
}

#[test]
fn a_page_that_shrinks_is_merged_and_one_that_does_not_is_left_alone() {
    // Values that become shorter.
    let mut store = filled(300, short_key, &[5; 400]);
    let most = pages(&store);
    for number in 0..300 {
        write(&mut store, &short_key(number), Some(&[6; 10]));
    }
    assert!(pages(&store) < most / 4, "{} of {most}", pages(&store));
    let top = store.tree.root.height - 1;
    assert_merged(&store.tree, &store.tree.root.reference, top);
    // The last leaf has one record, for appending splits off no more; what is written to it has
    // the size that it had, or more.
    let mut store = Store::in_memory();
    let mut number = 0;
    while pages(&store) < 6 {
        write(&mut store, &short_key(number), Some(&[5; 400]));
        number += 1;
    }
    // The leaf beside it has room enough for both.
    let before = pages(&store);
    for other in number - 10..number - 4 {
        write(&mut store, &short_key(other), Some(&[5; 100]));
    }
    assert_eq!(pages(&store), before);
    write(&mut store, &short_key(number - 1), Some(&[6; 400]));
    assert_eq!(pages(&store), before, "as long as before");
    write(&mut store, &short_key(number - 1), Some(&[7; 420]));
    assert_eq!(pages(&store), before, "longer");
    write(&mut store, &short_key(number - 1), Some(&[7; 100]));
    assert_eq!(pages(&store), before - 1, "shorter");
}

/// Leaves and nodes by level, from the first on: how many records or children each has.
fn shape(store: &Store) -> Vec<Vec<usize>> {
    let tree = &store.tree;
    let mut levels = Vec::new();
    let mut references = vec![tree.root.reference];
    for level in (0..tree.root.height).rev() {
        let pages: Vec<&Page> =
            references.iter().map(|reference| tree.page(reference, level).unwrap()).collect();
        levels.push(pages.iter().map(|page| page.count()).collect());
        let children = |page: &Page| (0..page.count()).map(|at| page.child(at)).collect::<Vec<_>>();
        if level > 0 {
            references = pages.iter().flat_map(|page| children(page)).collect();
        }
    }
    levels
}

#[test]
fn a_first_page_that_shrinks_is_merged_with_the_one_on_its_right() {
    // 8 records of 400 bytes to a leaf, in order.
    let mut store = filled(40, short_key, &[5; 400]);
    let before = shape(&store);
    assert_eq!(before.len(), 2);
    let (first, second) = (before[1][0], before[1][1]);
    let mut numbers = 0..40;
    // The second one keeps a half and the first one more than a quarter, then less.
    for number in first + 4..first + second {
        write(&mut store, &short_key(u32::try_from(number).unwrap()), None);
    }
    for number in numbers.by_ref().take(first - 3) {
        write(&mut store, &short_key(number), None);
    }
    assert_eq!(shape(&store)[1][..2], [3, 4]);
    write(&mut store, &short_key(numbers.next().unwrap()), None);
    let after = shape(&store);
    assert_eq!((after[1][0], after[1].len()), (6, before[1].len() - 1));
    pages(&store);
}

#[test]
fn a_scan_backwards_gives_what_a_scan_forwards_does_however_deep_the_tree_is() {
    let store = filled(120, key, &[5; 40]);
    assert!(store.tree.root.height > 3);
    let rows = |direction: Direction| {
        let (mut keys, all) = (Vec::new(), (Bound::Unbounded, Bound::Unbounded));
        let visit = |key: &[u8], _: &Bytes| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        };
        store.scan(TABLE, all.0, all.1, direction, visit).unwrap();
        keys
    };
    let mut expected: Vec<Vec<u8>> = (0..120).map(key).collect();
    assert!(rows(Direction::Forward) == expected);
    expected.reverse();
    assert!(rows(Direction::Backward) == expected);
}

#[test]
fn what_is_deleted_or_replaced_leaves_no_place_in_use() {
    // Inline, of a block, of some, and of so many that there are two levels above them.
    for size in [20, 3000, 9000, 199 * 3968] {
        let mut store = Store::in_memory();
        write(&mut store, b"key", Some(&vec![1; size]));
        assert!(has_places_in_use(&store));
        write(&mut store, b"key", Some(&[2; 20]));
        let leaf = store.tree.root.reference.index;
        let free_set = &store.tree.free_set;
        assert!((0..free_set.required()).all(|index| free_set.is_used(index) == (index == leaf)));
        write(&mut store, b"key", None);
        assert!(!has_places_in_use(&store));
    }
}
