//! F3, tests only: trees against plain maps of what should be in them.

use super::super::Table;
use super::super::survey::CheckpointSurvey;
use super::super::test_node::{Batch, CLUSTER, History, Model, Node, apply, read_block};
use super::*;
use crate::stdx::Prng;
use crate::storage::block::BlockKind;
use crate::storage::test_disk::TestDisk;
use crate::wire::Op;
use std::collections::{BTreeMap, BTreeSet};

fn root_of(node: &Node) -> (RootSurvey, u64) {
    let size = node.disk.bytes.len() as u64;
    let (geometry, checkpoint) = (node.options.geometry, node.superblock);
    let mut survey = CheckpointSurvey::new(CLUSTER, geometry, size, checkpoint, BlockRef::NONE);
    let Some(Request::Read { offset, size, .. }) = survey.next_read() else { panic!("no root") };
    survey.on_read_done(node.disk.read(offset, size));
    (survey.root().unwrap().clone(), survey.blocks_count())
}

struct Found {
    records: Vec<RecordContrast>,
    gaps: u64,
    reads: u64,
}

fn differences(nodes: [&Node; 2], disks: [&TestDisk; 2]) -> Found {
    let roots = nodes.map(root_of);
    let counts = [roots[0].1, roots[1].1];
    let geometry = nodes[0].options.geometry;
    let mut trees = TreeDifference::new(CLUSTER, geometry, [&roots[0].0, &roots[1].0], counts);
    let mut found = Found { records: Vec::new(), gaps: 0, reads: 0 };
    while let Some((side, Request::Read { offset, size, .. })) = trees.next_read() {
        found.records.extend(trees.take_found());
        trees.on_read_done(disks[side].read(offset, size));
        found.reads += 1;
    }
    found.records.extend(trees.take_found());
    found.gaps = trees.gaps_count();
    found
}

/// Changes beside the history, after the ops at which they are made.
type Changes = BTreeMap<Op, Batch>;

/// A node at op 64, and what its tree should hold.
fn node(history: History, seed: u64, changes: &Changes) -> (Node, Model) {
    let (mut node, mut model) = (Node::new(history, 4096, 300, seed), Model::new());
    for op in 0..64 {
        if op > 0 {
            apply(&mut model, &history.batch(op));
        }
        if let Some(batch) = changes.get(&op) {
            apply(&mut model, batch);
            node.attempt(|store| {
                for ((table, key), value) in batch {
                    match value {
                        Some(value) => store.put(Table(*table), key, value)?,
                        None => store.delete(Table(*table), key)?,
                    }
                }
                Ok(())
            });
        }
        node.advance();
    }
    apply(&mut model, &history.batch(64));
    node.settle();
    (node, model)
}

fn changes(history: &History, prng: &mut Prng) -> Changes {
    let mut changes = Changes::new();
    for _ in 0..prng.below(6) {
        let mut batch = Vec::new();
        for _ in 0..prng.range_inclusive(1, 12) {
            let key = history.key(prng);
            let size = [0, 10, 3000, 50_000][prng.index(4)];
            let value = (prng.below(4) > 0).then(|| vec![b'#'; size]);
            batch.push((key, value));
        }
        changes.insert(prng.range_inclusive(30, 63), batch);
    }
    changes
}

/// The keys that two maps do not hold alike, and which of them have one.
fn expected(models: [&Model; 2]) -> Vec<(Vec<u8>, [bool; 2])> {
    let keys: BTreeSet<_> = models.iter().flat_map(|model| model.keys()).collect();
    let differs = |key: &&&(u8, Vec<u8>)| models[0].get(*key) != models[1].get(*key);
    let row = |key: &(u8, Vec<u8>)| {
        let bytes = [&[key.0], key.1.as_slice()].concat();
        (bytes, models.map(|model| model.contains_key(key)))
    };
    keys.iter().filter(differs).map(|key| row(key)).collect()
}

fn rows(found: &Found) -> Vec<(Vec<u8>, [bool; 2])> {
    let row = |record: &RecordContrast| {
        let is_held = [record.held[0].is_some(), record.held[1].is_some()];
        assert_eq!(record.leaves.map(|leaf| leaf.is_some()), is_held);
        (record.key.clone(), is_held)
    };
    found.records.iter().map(row).collect()
}

#[test]
fn what_differs_is_found_however_the_records_lie() {
    let mut count = 0;
    for seed in 0..40 {
        let (history, mut prng) = (History::random(seed % 10), Prng::from_seed(seed));
        let (one, model) = node(history, seed, &changes(&history, &mut prng));
        let (other, model_other) = node(history, seed, &changes(&history, &mut prng));
        let found = differences([&one, &other], [&one.disk, &other.disk]);
        assert_eq!(found.gaps, 0);
        assert!(rows(&found) == expected([&model, &model_other]), "{seed}");
        count += found.records.len();
        let back = differences([&other, &one], [&other.disk, &one.disk]);
        assert!(rows(&back) == expected([&model_other, &model]), "{seed}");
    }
    assert!(count > 100, "{count}");
}

#[test]
fn what_is_the_same_is_not_read() {
    let history = History { keys_count: 3000, value_size_max: 300, ..History::random(2) };
    let (one, _) = node(history, 1, &Changes::new());
    let (other, _) = node(history, 2, &Changes::new());
    assert_eq!(one.superblock, other.superblock);
    assert_eq!(differences([&one, &other], [&one.disk, &other.disk]).reads, 0);
    let change = ((1, b"a key of its own".to_vec()), Some(b"value".to_vec()));
    let (other, _) = node(history, 1, &Changes::from([(63, vec![change])]));
    let found = differences([&one, &other], [&one.disk, &other.disk]);
    assert_eq!(found.records.len(), 1);
    let height = u64::from(root_of(&one).0.height);
    assert!(height > 1 && found.reads <= 2 * (height + 1), "{} of {height}", found.reads);
}

/// What is told is true whatever cannot be read, and what is not told lies beneath it.
#[test]
fn what_cannot_be_read_hides_what_is_beneath_it_and_no_more() {
    let mut gaps = 0;
    for seed in 0..40 {
        let (history, mut prng) = (History::random(seed % 10), Prng::from_seed(seed));
        let (one, model) = node(history, seed, &changes(&history, &mut prng));
        let (other, model_other) = node(history, seed, &changes(&history, &mut prng));
        let nodes = [&one, &other];
        let mut hidden: Vec<Range> = Vec::new();
        let disks = nodes.map(|node| {
            let mut disk = TestDisk::new(0);
            disk.bytes.clone_from(&node.disk.bytes);
            for (reference, range) in nodes_of(node) {
                if prng.below(8) == 0 {
                    let at = Layout::new(node.options.geometry).grid_offset();
                    let at = usize::try_from(at).unwrap() + reference.index as usize * 4096;
                    disk.bytes[at + 150] ^= 1;
                    hidden.push(range);
                }
            }
            disk
        });
        let found = differences(nodes, [&disks[0], &disks[1]]);
        gaps += found.gaps;
        let expected = expected([&model, &model_other]);
        let told = rows(&found);
        assert!(told.iter().all(|row| expected.contains(row)), "{seed}");
        for row in expected.iter().filter(|row| !told.contains(row)) {
            let is_hidden = |range: &Range| {
                row.0 >= range.start && range.end.as_ref().is_none_or(|end| row.0 < *end)
            };
            assert!(hidden.iter().any(is_hidden), "{seed}");
        }
    }
    assert!(gaps > 20, "{gaps}");
}

/// All nodes of a tree, and their ranges.
fn nodes_of(node: &Node) -> Vec<(BlockRef, Range)> {
    let root = root_of(node).0;
    let mut found = Vec::new();
    let mut stack = Vec::new();
    stack.extend(root.height.checked_sub(1).map(|level| (root.tree, level, Range::default())));
    while let Some((reference, level, range)) = stack.pop() {
        let block = read_block(&node.disk, &node.options.geometry, &reference).unwrap();
        assert_eq!(block.kind == BlockKind::Leaf, level == 0);
        if level > 0 {
            let page = Page::decode(block.body(), level, 3968).unwrap();
            let children = range.children(&page).unwrap();
            stack.extend(children.into_iter().map(|(child, range)| (child, level - 1, range)));
        }
        found.push((reference, range));
    }
    found
}

fn range(start: &str, end: Option<&str>) -> Range {
    let end = end.map(|end| end.as_bytes().to_vec());
    Range { start: start.as_bytes().to_vec(), end }
}

#[test]
fn beside_a_gap_only_what_lies_in_it_is_skipped() {
    let step = |gap: &Range, other: Front<'_>| TreeDifference::beside_gap(gap, 1, other);
    let (gap, endless) = (range("k", Some("m")), range("k", None));
    for (key, expected, expected_endless) in [
        ("c", Step::Compare([true, false]), Step::Compare([true, false])),
        ("k", Step::Skip(0), Step::Skip(0)),
        ("l", Step::Skip(0), Step::Skip(0)),
        ("m", Step::CloseGap(1), Step::Skip(0)),
    ] {
        assert_eq!(step(&gap, Front::Record(key.as_bytes())), expected, "{key}");
        assert_eq!(step(&endless, Front::Record(key.as_bytes())), expected_endless, "{key}");
    }
    for (start, end, expected, expected_endless) in [
        ("a", Some("c"), Step::Open(0), Step::Open(0)),
        ("a", Some("l"), Step::Open(0), Step::Open(0)),
        ("k", Some("l"), Step::Skip(0), Step::Skip(0)),
        ("k", Some("m"), Step::Skip(0), Step::Skip(0)),
        ("l", Some("n"), Step::Open(0), Step::Skip(0)),
        ("l", None, Step::Open(0), Step::Skip(0)),
        ("m", Some("n"), Step::CloseGap(1), Step::Skip(0)),
    ] {
        let subtree = Subtree { reference: BlockRef::NONE, level: 0, range: range(start, end) };
        assert_eq!(step(&gap, Front::Subtree(&subtree)), expected, "{start}");
        assert_eq!(step(&endless, Front::Subtree(&subtree)), expected_endless, "{start}");
    }
    assert_eq!(step(&gap, Front::End), Step::CloseGap(1));
}

#[test]
fn of_two_gaps_the_one_that_ends_first_is_closed() {
    let history = History::random(1);
    let (one, _) = node(history, 1, &Changes::new());
    let (root, count) = root_of(&one);
    let geometry = one.options.geometry;
    for (here, there, expected) in [
        (Some("c"), Some("d"), 0),
        (Some("d"), Some("c"), 1),
        (Some("d"), None, 0),
        (None, Some("d"), 1),
        (None, None, 1),
    ] {
        let mut trees = TreeDifference::new(CLUSTER, geometry, [&root, &root], [count, count]);
        trees.cursors[0].gap = Some(range("a", here));
        trees.cursors[1].gap = Some(range("b", there));
        assert_eq!(trees.step(), Step::CloseGap(expected));
    }
}

#[test]
fn a_place_beyond_the_end_of_the_file_is_a_gap() {
    let history = History::random(3);
    let (one, _) = node(history, 3, &Changes::new());
    let change = ((1, b"key".to_vec()), Some(b"value".to_vec()));
    let (other, _) = node(history, 3, &Changes::from([(40, vec![change])]));
    let roots = [root_of(&one).0, root_of(&other).0];
    let geometry = one.options.geometry;
    let mut trees = TreeDifference::new(CLUSTER, geometry, [&roots[0], &roots[1]], [0, 0]);
    assert!(trees.next_read().is_none());
    // In that of the one lies all that the other has.
    assert_eq!((trees.gaps_count(), trees.take_found().len()), (1, 0));
}
