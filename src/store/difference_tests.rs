//! F3, tests only: what differs between two stores of one history, block by block.

use super::super::page::{large_value, leaf_record_head};
use super::super::test_node::{CLUSTER, History, Node, read_block};
use super::super::{Table, survey::CheckpointSurvey};
use super::*;
use crate::storage::block::block_seal;
use crate::storage::{ReadResult, Request};
use std::collections::BTreeMap;

const PAGE_SIZE: u32 = 4096 - 128;

fn outline(node: &Node) -> Outline {
    let size = node.disk.bytes.len() as u64;
    let geometry = node.options.geometry;
    let mut survey =
        CheckpointSurvey::new(CLUSTER, geometry, size, node.superblock, BlockRef::NONE);
    let mut outline = Outline::default();
    while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
        outline.note(&survey.visit().expect("its read is in flight"));
        survey.on_read_done(node.disk.read(offset, size));
    }
    assert_eq!((survey.faults_count(), survey.visit()), (0, None));
    outline
}

/// Two nodes at op 96, of which the second put something in addition at op `op`.
fn pair(seed: u64, op: Op, key: &[u8], value: &[u8]) -> [Node; 2] {
    let history = History::random(seed);
    [false, true].map(|is_faulty| {
        let mut node = Node::new(history, 4096, 300, seed);
        node.advance_to(op);
        if is_faulty {
            node.attempt(|store| store.put(Table(1), key, value));
        }
        node.advance_to(96);
        node.settle();
        node
    })
}

#[test]
fn an_outline_is_what_can_be_reached_and_from_where() {
    for seed in 0..4 {
        let mut node = Node::new(History::random(seed), 4096, 300, seed);
        node.advance_to(32);
        node.settle();
        let (outline, reachable) = (outline(&node), node.reachable(node.superblock));
        let end = u32::try_from(outline.blocks.len()).unwrap() + 2;
        let noted: BTreeMap<u32, BlockRef> =
            (0..end).filter_map(|index| Some((index, outline.reference(index)?))).collect();
        assert_eq!(noted, reachable);
        assert_eq!(outline.parent(node.superblock.index), None);
        for (index, reference) in &noted {
            let block = read_block(&node.disk, &node.options.geometry, reference).unwrap();
            assert_eq!(outline.kind(*index), Some(block.kind));
            let Some(parent) = outline.parent(*index) else {
                assert_eq!(*index, node.superblock.index);
                continue;
            };
            let parent = read_block(&node.disk, &node.options.geometry, &noted[&parent]).unwrap();
            let bytes = reference.encode();
            assert!(parent.body().windows(bytes.len()).any(|window| window == bytes));
        }
        let free = (0..end).find(|index| !noted.contains_key(index)).unwrap();
        assert_eq!((outline.kind(free), outline.parent(free)), (None, None));
    }
}

#[test]
fn replicas_that_agree_do_not_differ() {
    for seed in 0..4 {
        let history = History::random(seed);
        let outlines = [0, 1].map(|of_node| {
            // Another cache: what is written early, and when, is no matter.
            let mut node = Node::new(history, 4096, [100, 300][of_node], seed);
            node.advance_to(64);
            node.settle();
            outline(&node)
        });
        let found = compare([&outlines[0], &outlines[1]]);
        assert!(found.shared_count > 5);
        assert_eq!(found, Comparison { shared_count: found.shared_count, ..Default::default() });
    }
}

#[test]
fn causes_are_the_lowest_blocks_that_differ() {
    for seed in 0..12 {
        let (op, value) = (70 + seed, vec![b'#'; [20, 20_000][usize::from(seed % 3 == 0)]]);
        let nodes = pair(seed, op, &[b'k', u8::try_from(seed).unwrap()], &value);
        let outlines = [outline(&nodes[0]), outline(&nodes[1])];
        let found = compare([&outlines[0], &outlines[1]]);
        let maps = [0, 1].map(|of| nodes[of].reachable(nodes[of].superblock));
        let at_one_place =
            |index: &&u32| maps[1].get(index).is_some_and(|other| other.op == maps[0][index].op);
        let shared: Vec<u32> = maps[0].keys().filter(at_one_place).copied().collect();
        let differing: Vec<u32> =
            shared.iter().filter(|index| maps[0][index] != maps[1][index]).copied().collect();
        assert_eq!(found.shared_count, shared.len() as u64);
        assert_eq!(found.differing_count, differing.len() as u64);
        let only = [0, 1].map(|of: usize| (maps[of].len() - shared.len()) as u64);
        assert_eq!(found.only_counts, only);
        assert_eq!(found.causes.is_empty(), differing.is_empty());
        for cause in &found.causes {
            assert!(differing.contains(cause));
            let is_child = |index: &&u32| {
                outlines.iter().all(|outline| outline.parent(**index) == Some(*cause))
            };
            assert_eq!(differing.iter().find(is_child), None, "{seed}");
        }
        let is_explained = |index: &u32| {
            let is_child = |other: &&u32| {
                outlines.iter().all(|outline| outline.parent(**other) == Some(*index))
            };
            found.causes.contains(index) || differing.iter().any(|other| is_child(&other))
        };
        assert!(differing.iter().all(is_explained), "{seed}");
        let back = compare([&outlines[1], &outlines[0]]);
        assert_eq!((back.causes, back.differing_count), (found.causes, found.differing_count));
        assert_eq!(back.only_counts, [only[1], only[0]]);
    }
}

fn visit(index: u32, op: Op, checksum: u32, parent: Option<u32>) -> Visit {
    let reference = BlockRef { index, op, checksum, checksum_body: 0 };
    Visit { reference, kind: BlockKind::Leaf, parent }
}

#[test]
fn what_has_moved_to_another_parent_explains_neither() {
    let outline = |visits: &[Visit]| {
        let mut outline = Outline::default();
        visits.iter().for_each(|visit| outline.note(visit));
        outline
    };
    let here = outline(&[
        visit(9, 96, 1, None),
        visit(5, 64, 1, Some(9)),
        visit(6, 32, 1, Some(9)),
        visit(3, 96, 1, Some(5)),
        visit(1, 96, 1, Some(9)),
        visit(2, 32, 1, Some(9)),
    ]);
    let there = outline(&[
        visit(9, 96, 2, None),
        visit(5, 64, 2, Some(9)),
        visit(6, 32, 2, Some(9)),
        visit(3, 96, 2, Some(6)),
        visit(1, 64, 2, Some(9)),
        visit(4, 32, 1, Some(9)),
    ]);
    let found = compare([&here, &there]);
    let expected = Comparison {
        shared_count: 4,
        differing_count: 4,
        only_counts: [2, 2],
        // The oldest first.
        causes: vec![6, 5, 3],
    };
    assert_eq!(found, expected);
    assert_eq!(compare([&here, &here]).causes, []);
    assert_eq!(compare([&Outline::default(), &here]).only_counts, [0, 6]);
}

fn block(kind: BlockKind, body: &[u8]) -> StoredBlock {
    let (reference, buffer) = block_seal(CLUSTER, 9, 32, kind, body, 4096);
    let result = ReadResult { buffer, unreadable: Vec::new() };
    StoredBlock::decode_read(CLUSTER, &reference, result).unwrap()
}

fn contrast_of(kind: BlockKind, here: &[u8], there: &[u8]) -> Contrast {
    contrast(&block(kind, here), &block(kind, there), 4096)
}

/// A leaf of small values, and of large ones: size, hash, reference.
fn leaf(records: &[(&str, &str)], large: &[(&str, u32, u64, BlockRef)]) -> Vec<u8> {
    let mut page = Page::new(0, PAGE_SIZE);
    for (key, value) in records {
        let at = page.search(key.as_bytes()).unwrap_err();
        let head = leaf_record_head(key.as_bytes(), u32::try_from(value.len()).unwrap());
        page.insert(at, &[&head, key.as_bytes(), value.as_bytes()]);
    }
    for (key, size, hash, reference) in large {
        let at = page.search(key.as_bytes()).unwrap_err();
        let head = leaf_record_head(key.as_bytes(), *size);
        page.insert(at, &[&head, key.as_bytes(), &large_value(*hash, reference)]);
    }
    page.bytes().to_vec()
}

fn reference(index: u32, op: Op, checksum: u32) -> BlockRef {
    BlockRef { index, op, checksum, checksum_body: 7 }
}

#[test]
fn of_two_leaves_the_first_other_record_is_told() {
    let found = |here: &[(&str, &str)], there: &[(&str, &str)]| match contrast_of(
        BlockKind::Leaf,
        &leaf(here, &[]),
        &leaf(there, &[]),
    ) {
        Contrast::Record(RecordContrast { key, held, leaves }) => {
            let is_held = [held[0].is_some(), held[1].is_some()];
            assert_eq!(leaves.map(|leaf| leaf == Some(9)), is_held);
            (String::from_utf8(key).unwrap(), held)
        }
        other => panic!("{other:?}"),
    };
    let value = |text: &str| Some(Held::Inline(text.as_bytes().to_vec()));
    let (a, b, c, other) = (("a", "1"), ("b", "2"), ("c", "3"), ("b", "4"));
    assert_eq!(found(&[a, b, c], &[a, other, c]), ("b".into(), [value("2"), value("4")]));
    assert_eq!(found(&[a, b, c], &[a, c]), ("b".into(), [value("2"), None]));
    assert_eq!(found(&[a, c], &[a, b]), ("b".into(), [None, value("2")]));
    assert_eq!(found(&[a], &[a, b, c]), ("b".into(), [None, value("2")]));
    assert_eq!(found(&[b, c], &[c]), ("b".into(), [value("2"), None]));
}

#[test]
fn a_large_value_is_another_one_by_size_hash_or_content_and_not_by_place() {
    let large = |size, hash, reference| leaf(&[("a", "1")], &[("b", size, hash, reference)]);
    let here = large(5000, 1, reference(3, 32, 5));
    let others = [
        (large(5001, 1, reference(4, 32, 6)), true),
        (large(5000, 2, reference(4, 32, 6)), true),
        (large(5000, 1, reference(3, 32, 6)), true),
        (large(5000, 1, reference(4, 32, 6)), false),
        (large(5000, 1, reference(3, 64, 6)), false),
    ];
    for (there, is_other) in others {
        let [one, other] = [&here, &there].map(|body| leaf_of(&block(BlockKind::Leaf, body), 4096));
        let (one, other) = (one.unwrap(), other.unwrap());
        assert_eq!(is_another(one.value(1), other.value(1)), is_other);
        // What has only moved is told if there is nothing else to tell.
        let Contrast::Record(found) = contrast_of(BlockKind::Leaf, &here, &there) else {
            panic!("two leaves")
        };
        assert_eq!(found.key, b"b");
    }
    let moved = leaf(&[("a", "1"), ("c", "4")], &[("b", 5000, 1, reference(4, 32, 6))]);
    let Contrast::Record(found) = contrast_of(BlockKind::Leaf, &here, &moved) else {
        panic!("two leaves")
    };
    assert_eq!(found.key, b"c");
    let leaf = block(BlockKind::Leaf, &here);
    assert_eq!(owner_of_value(&leaf, 4096, 3).as_deref(), Some(&b"b"[..]));
    assert_eq!(owner_of_value(&leaf, 4096, 4), None);
    assert_eq!(owner_of_value(&block(BlockKind::Value, &here[..3]), 4096, 3), None);
}

#[test]
fn of_two_blocks_with_references_those_to_other_places_come_first() {
    let body =
        |references: &[BlockRef]| references.iter().flat_map(BlockRef::encode).collect::<Vec<u8>>();
    let (one, two) = (reference(1, 32, 1), reference(2, 32, 1));
    let cases = [
        (vec![one, two], vec![reference(1, 32, 9), two], 0),
        (vec![one, two], vec![reference(1, 32, 9), reference(3, 32, 1)], 1),
        (vec![one, two], vec![reference(1, 32, 9), reference(2, 64, 1)], 1),
        (vec![one], vec![one, two], 1),
        (vec![one, two], vec![], 0),
    ];
    for (here, there, expected) in cases {
        let references = [here.get(expected).copied(), there.get(expected).copied()];
        let expected = Contrast::Child { at: expected, references };
        for kind in [BlockKind::FreeSetIndex, BlockKind::ValueIndex] {
            assert_eq!(contrast_of(kind, &body(&here), &body(&there)), expected);
        }
        let inner = |references: &[BlockRef]| {
            let mut page = Page::new(1, PAGE_SIZE);
            for (at, reference) in references.iter().enumerate() {
                let key = if at == 0 { vec![] } else { vec![b'k', u8::try_from(at).unwrap()] };
                page.insert(at, &[&key, &reference.encode()]);
            }
            page.bytes().to_vec()
        };
        if !there.is_empty() {
            let found = contrast_of(BlockKind::Inner, &inner(&here), &inner(&there));
            assert_eq!(found, expected);
        }
    }
}

#[test]
fn all_else_is_told_by_place_field_or_byte() {
    let (mut chunk, zeros) = (vec![0; PAGE_SIZE as usize], vec![0; PAGE_SIZE as usize]);
    chunk[3] = 0b0011_0100;
    let expected = Contrast::Place { at: 13, codes: [1, 0] };
    assert_eq!(contrast_of(BlockKind::FreeSet, &chunk, &zeros), expected);
    assert_eq!(contrast_of(BlockKind::Value, b"abc", b"abd"), Contrast::Byte(2));
    assert_eq!(contrast_of(BlockKind::Value, b"abc", b"ab"), Contrast::Byte(2));
    // Bodies that are none of their kind are bytes.
    for kind in [BlockKind::Leaf, BlockKind::Inner, BlockKind::Checkpoint] {
        assert_eq!(contrast_of(kind, b"abc", b"abd"), Contrast::Byte(2));
    }
    let kinds = [BlockKind::Value, BlockKind::Leaf];
    let [here, there] = kinds.map(|kind| block(kind, b"abc"));
    assert_eq!(contrast(&here, &there, 4096), Contrast::Kind(kinds));
    assert_eq!(contrast(&here, &here, 4096), Contrast::Header);
    let mut node = Node::new(History::random(1), 4096, 300, 1);
    node.advance_to(32);
    node.settle();
    let root = read_block(&node.disk, &node.options.geometry, &node.superblock).unwrap();
    for (at, field) in [
        (5, "the header of its op"),
        (128 + 12, "the root of the tree"),
        (148 + 12, "the root of the free set"),
        (168, "the height of the tree"),
        (176, "the count of records"),
        (184, "the digest of the records"),
        (192, "the checkpoint before"),
    ] {
        let mut other = root.body().to_vec();
        other[at] ^= 4;
        let found = contrast_of(BlockKind::Checkpoint, root.body(), &other);
        assert_eq!(found, Contrast::Root(vec![field]), "{at}");
    }
}
