//! F3, tests only: surveys of real checkpoints, sound, damaged, and made of anything.

use super::super::page::{large_value, leaf_record_head};
use super::*;
use crate::constants::HEADER_SIZE;
use crate::stdx::Prng;
use crate::storage::test_disk::{Completion, TestDisk};
use crate::store::{Options, Store};

const CLUSTER: ClusterId = ClusterId(5);

const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 4,
};

/// A store that has written the checkpoints of ops 32, 64, … on a disk, all other writes done.
struct Node {
    disk: TestDisk,
    store: Store,
    /// The newest two.
    checkpoints: [BlockRef; 2],
    prng: Prng,
}

impl Node {
    fn new(seed: u64) -> Self {
        let mut disk = TestDisk::new(seed);
        let grid_offset = Layout::new(GEOMETRY).grid_offset();
        disk.bytes.resize(usize::try_from(grid_offset).unwrap(), 0);
        let options = Options {
            cluster: CLUSTER,
            geometry: GEOMETRY,
            cache_size: 1 << 20,
            file_size: grid_offset,
            size_limit: 1 << 40,
        };
        let (store, prng) = (Store::open(&options), Prng::from_seed(seed));
        Self { disk, store, checkpoints: [BlockRef::NONE; 2], prng }
    }

    fn put(&mut self, table: u8, key: &[u8], value: &[u8]) {
        loop {
            let done = self.store.put(Table(table), key, value);
            if done.is_ok() && self.store.commit_overlay().is_ok() {
                return;
            }
            self.store.abandon_overlay();
            self.turn();
        }
    }

    fn turn(&mut self) {
        let mut requests = Vec::new();
        self.store.take_reads(&mut requests);
        self.store.write_behind(1 << 20, false, &mut requests);
        self.disk.submit(&mut requests);
        match self.disk.complete() {
            None => {}
            Some(Completion::Write(token)) => self.store.on_write_done(token),
            Some(Completion::Read(token, result)) => self.store.on_read_done(token, result),
        }
    }

    /// Writes the next checkpoint, after `count` random changes.
    fn checkpoint(&mut self, count: u64) {
        for _ in 0..count {
            let number = self.prng.below(3000);
            let size = match self.prng.below(60) {
                0 => 30_000,
                1 => 900_000,
                _ => self.prng.below(200),
            };
            let mut value = vec![0; usize::try_from(size).unwrap()];
            self.prng.fill(&mut value);
            let table = u8::try_from(number % 3).unwrap();
            self.put(table, &number.to_be_bytes(), &value);
        }
        let op = self.checkpoints[0].op + 32;
        let header = Header::root(CLUSTER).encode();
        self.store.freeze(op, &header, b"extra");
        while !self.store.can_freeze() {
            self.turn();
            if let Some(checkpoint) = self.store.take_written_checkpoint() {
                self.checkpoints = [checkpoint, self.checkpoints[0]];
                self.store.on_checkpoint_durable();
            }
        }
        while !self.disk.pending.is_empty() {
            self.turn();
        }
    }

    fn survey(&self) -> CheckpointSurvey<'static> {
        let [checkpoint, before] = self.checkpoints;
        let size = self.disk.bytes.len() as u64;
        let survey = CheckpointSurvey::new(CLUSTER, GEOMETRY, size, checkpoint, before);
        drive(&self.disk, survey)
    }

    /// Faults of both checkpoints, and what the free set says.
    fn findings(&self) -> (Vec<Fault>, Vec<Fault>, Vec<(u32, Disagreement)>) {
        let mut newer = self.survey();
        let faults = newer.take_faults();
        let mut disagreements = Vec::new();
        if self.checkpoints[1].is_none() {
            newer.compare(None, |index, what| disagreements.push((index, what)));
            return (faults, Vec::new(), disagreements);
        }
        let before = CheckpointSurvey::of_before(&newer, self.checkpoints[1]);
        let mut before = drive(&self.disk, before);
        newer.compare(Some(&before), |index, what| disagreements.push((index, what)));
        (faults, before.take_faults(), disagreements)
    }
}

fn drive<'a>(disk: &TestDisk, mut survey: CheckpointSurvey<'a>) -> CheckpointSurvey<'a> {
    while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
        survey.on_read_done(disk.read(offset, size));
    }
    survey
}

#[test]
fn checkpoints_of_any_history_are_sound() {
    for seed in 0..12 {
        let mut node = Node::new(seed);
        for round in 0..6 {
            let count = [0, 1, 40, 300][node.prng.index(4)];
            node.checkpoint(count);
            let (faults, before, disagreements) = node.findings();
            assert_eq!((faults, before, disagreements), (vec![], vec![], vec![]), "{seed} {round}");
            let survey = node.survey();
            let counted: u64 = survey.tables().map(|(_, table)| table.records_count).sum();
            assert_eq!(counted, node.store.counters().records);
            let root = survey.root().unwrap();
            assert_eq!((root.records_count, &root.extra[..]), (counted, &b"extra"[..]));
            assert_eq!(root.header.map(|header| header.op()), Some(0));
        }
    }
}

#[test]
fn intervals_that_change_nothing_hand_the_tree_on() {
    let mut node = Node::new(6);
    node.put(0, b"key", b"value");
    for _ in 0..4 {
        node.checkpoint(0);
        assert_eq!(node.findings(), (vec![], vec![], vec![]));
    }
    let [checkpoint, _] = node.checkpoints;
    node.store.load(checkpoint, checkpoint.op);
    while !node.store.is_loaded() {
        node.turn();
    }
    while node.store.get(Table(0), b"key").is_err() {
        node.store.abandon_overlay();
        node.turn();
        assert_eq!(node.store.missing().count(), 0);
    }
    assert_eq!(node.store.get(Table(0), b"key").unwrap().as_deref(), Some(&b"value"[..]));
}

#[test]
fn what_is_counted_is_what_is_there() {
    let mut node = Node::new(1);
    node.put(0, b"a", b"12");
    node.put(0, b"bc", &[7; 10_000]);
    node.put(2, b"d", b"");
    node.checkpoint(0);
    let survey = node.survey();
    let tables: Vec<(Table, TableSurvey)> =
        survey.tables().map(|(table, survey)| (table, *survey)).collect();
    let first = TableSurvey { records_count: 2, key_bytes: 3, value_bytes: 10_002, large_count: 1 };
    let second = TableSurvey { records_count: 1, key_bytes: 1, value_bytes: 0, large_count: 0 };
    assert_eq!(tables, [(Table(0), first), (Table(2), second)]);
    assert_eq!(survey.blocks_sound(BlockKind::Leaf), 1);
    assert_eq!(survey.blocks_sound(BlockKind::Value), 3);
    assert_eq!(survey.blocks_sound(BlockKind::ValueIndex), 1);
    let free_set = survey.free_set().unwrap();
    assert_eq!(survey.blocks_sound_all(), u64::from(free_set.used_count()));
}

#[test]
fn any_flipped_byte_of_a_reached_block_is_a_fault_of_that_block() {
    let mut node = Node::new(2);
    for _ in 0..3 {
        node.checkpoint(200);
    }
    let survey = node.survey();
    let reached: Vec<u32> = (0..4096).filter(|index| survey.has_reached(*index)).collect();
    for _ in 0..200 {
        let index = reached[node.prng.index(reached.len())];
        let at = usize::try_from(survey.offset_of(index)).unwrap() + node.prng.index(4096);
        node.disk.bytes[at] ^= 0x20;
        let (faults, _, disagreements) = node.findings();
        node.disk.bytes[at] ^= 0x20;
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].reference.index, index);
        assert!(!disagreements.iter().any(|(_, what)| *what != Disagreement::FreedTooEarly));
        assert!(disagreements.is_empty());
    }
    assert_eq!(node.findings(), (vec![], vec![], vec![]));
}

#[test]
fn any_bytes_are_a_survey() {
    let mut node = Node::new(3);
    node.checkpoint(200);
    node.checkpoint(50);
    let grid = usize::try_from(Layout::new(GEOMETRY).grid_offset()).unwrap();
    let sound = node.disk.bytes.clone();
    for seed in 0..200 {
        let mut prng = Prng::from_seed(seed);
        let start = grid + prng.index(sound.len() - grid);
        let end = start + prng.index(sound.len() - start);
        prng.fill(&mut node.disk.bytes[start..end]);
        if seed % 4 == 0 {
            node.disk.bytes.truncate(grid + prng.index(sound.len() - grid));
        }
        let _ = node.findings();
        node.disk.bytes.clone_from(&sound);
    }
}

#[test]
fn what_the_free_set_gets_wrong_is_named() {
    let mut node = Node::new(4);
    node.checkpoint(100);
    let mut survey = node.survey();
    let free = survey.free_set().unwrap().required() - 1;
    assert!(survey.has_reached(free));
    let at = u64::from(free / 64);
    survey.reached.words[usize::try_from(at).unwrap()] &= !(1 << (free % 64));
    survey.reached.insert(100_000);
    let mut found = Vec::new();
    survey.compare(None, |index, what| found.push((index, what)));
    let expected = [(free, Disagreement::Leaked), (100_000, Disagreement::ReferencedAndFree)];
    assert_eq!(found, expected);
}

#[test]
fn a_root_that_miscounts_is_a_fault() {
    let mut node = Node::new(5);
    node.checkpoint(100);
    let [checkpoint, _] = node.checkpoints;
    let survey = node.survey();
    let at = survey.offset_of(checkpoint.index);
    let block = StoredBlock::decode_read(CLUSTER, &checkpoint, node.disk.read(at, 4096)).unwrap();
    // Of the count, and of the digest.
    for byte in [176, 184] {
        let mut body = block.body().to_vec();
        body[byte] ^= 1;
        let (index, op) = (checkpoint.index, checkpoint.op);
        let kind = BlockKind::Checkpoint;
        let (forged, sectors) =
            crate::storage::block::block_seal(CLUSTER, index, op, kind, &body, 4096);
        let start = usize::try_from(at).unwrap();
        node.disk.bytes[start..start + 4096].copy_from_slice(sectors.as_ref());
        node.checkpoints[0] = forged;
        let (faults, _, _) = node.findings();
        assert_eq!(faults.len(), 1, "{faults:?}");
        assert_eq!(faults[0].kind, BlockKind::Checkpoint);
    }
    assert_eq!(block.body().len() + HEADER_SIZE as usize, 128 + 192 + 5);
}

#[test]
fn a_range_has_its_start_and_not_its_end() {
    let range = Range { start: b"b".to_vec(), end: Some(b"d".to_vec()) };
    let found: Vec<bool> =
        ["a", "b", "c", "d", "e"].map(|key| range.contains(key.as_bytes())).to_vec();
    assert_eq!(found, [false, true, true, false, false]);
    assert!(Range { end: None, ..range }.contains(b"x"));
}

#[test]
fn what_a_sound_survey_says_of_itself() {
    let mut node = Node::new(1);
    node.checkpoint(200);
    let mut survey = node.survey();
    assert_eq!((survey.faults_count(), survey.take_faults().len()), (0, 0));
    assert!(survey.root().is_some() && survey.free_set().is_some());
    let root = node.checkpoints[0].index;
    assert!(survey.has_reached(root));
    let blocks = u32::try_from(survey.blocks_count()).unwrap();
    let reached = (0..blocks).filter(|index| survey.has_reached(*index)).count() as u64;
    assert_eq!(reached, survey.blocks_sound_all());
    // The root block cannot be read: nothing is known of the rest.
    let offset = Layout::new(GEOMETRY).grid_offset() + u64::from(root) * 4096;
    node.disk.bytes[usize::try_from(offset).unwrap() + 200] ^= 1;
    let mut survey = node.survey();
    assert_eq!((survey.faults_count(), survey.take_faults().len()), (1, 1));
    assert!(survey.root().is_none() && survey.free_set().is_none());
}

/// A block that says what it is told to say.
fn forged(kind: BlockKind, body: &[u8]) -> StoredBlock {
    let (reference, buffer) = crate::storage::block::block_seal(CLUSTER, 9, 32, kind, body, 4096);
    let result = ReadResult { buffer, unreadable: Vec::new() };
    StoredBlock::decode_read(CLUSTER, &reference, result).unwrap()
}

/// A survey that has read nothing yet, of a file with room for so many blocks.
fn survey_of(blocks: u64) -> CheckpointSurvey<'static> {
    let size = Layout::new(GEOMETRY).grid_offset() + blocks * 4096;
    let checkpoint = BlockRef { index: 1, op: 32, checksum: 2, checksum_body: 3 };
    CheckpointSurvey::new(CLUSTER, GEOMETRY, size, checkpoint, BlockRef::NONE)
}

fn item(block: &StoredBlock, role: Role) -> Item {
    let (reference, range) = (block.reference, Range::default());
    Item { reference, role, parent: None, range, value: None }
}

/// A chunk has 15872 places.
#[test]
fn of_a_chunk_beyond_the_end_of_the_file_all_is_free() {
    let (free, mut used) = (vec![0; 3968], vec![0; 3968]);
    used[1] = 1;
    for (body, blocks, is_sound) in [
        (&free, 15_872, true),
        (&used, 15_872, false),
        (&used, 1000, false),
        (&used, 15_873, true),
        (&vec![0; 3967], 15_872, false),
    ] {
        let mut survey = survey_of(blocks);
        let block = forged(BlockKind::FreeSet, body);
        let found = survey.look_into(&item(&block, Role::FreeSet((0, 1))), &block);
        assert_eq!(found.is_ok(), is_sound, "{blocks}: {found:?}");
        // Memory is for what the file has.
        assert_eq!(survey.free_set.is_used(15_876), blocks > 15_872);
    }
    // Of an index page, whatever its position.
    let mut survey = survey_of(100);
    let block = forged(BlockKind::FreeSetIndex, &[0; 3960]);
    assert_eq!(survey.look_into(&item(&block, Role::FreeSet((1, 50))), &block), Ok(()));
}

#[test]
fn the_checkpoint_of_an_empty_store_is_sound() {
    let mut node = Node::new(7);
    node.checkpoint(0);
    assert_eq!(node.findings(), (vec![], vec![], vec![]));
    assert_eq!(node.survey().root().map(|root| (root.height, root.records_count)), Some((0, 0)));
}

#[test]
fn a_block_of_another_kind_than_its_reference_says_is_a_fault() {
    let mut node = Node::new(8);
    node.checkpoint(10);
    let [checkpoint, _] = node.checkpoints;
    let offset = Layout::new(GEOMETRY).grid_offset() + u64::from(checkpoint.index) * 4096;
    let result = node.disk.read(offset, 4096);
    let body = StoredBlock::decode_read(CLUSTER, &checkpoint, result).unwrap().body().to_vec();
    let (index, op, kind) = (checkpoint.index, checkpoint.op, BlockKind::Leaf);
    let (other, sectors) = crate::storage::block::block_seal(CLUSTER, index, op, kind, &body, 4096);
    let start = usize::try_from(offset).unwrap();
    node.disk.bytes[start..start + 4096].copy_from_slice(sectors.as_ref());
    node.checkpoints[0] = other;
    let mut survey = node.survey();
    let faults: Vec<&str> = survey.take_faults().iter().map(|fault| fault.what).collect();
    assert_eq!(faults, ["a block of another kind"]);
    assert!(survey.root().is_none());
}

#[test]
fn a_node_gives_its_children_the_ranges_between_its_keys() {
    let child = |index| BlockRef { index, op: 32, checksum: 1, checksum_body: 1 };
    let mut page = Page::new(1, 3968);
    for (at, key) in (0..).zip(["", "d", "g"]) {
        let index = u32::try_from(at).unwrap();
        page.insert(at, &[key.as_bytes(), &child(index).encode()]);
    }
    let mut survey = survey_of(100);
    survey.stack.clear();
    let block = forged(BlockKind::Inner, page.bytes());
    let range = Range { start: b"b".to_vec(), end: Some(b"k".to_vec()) };
    let node = Item { range, ..item(&block, Role::Node(1)) };
    survey.look_into(&node, &block).unwrap();
    let mut found = Vec::new();
    while let Some(Item { reference, role, range, .. }) = survey.stack.pop() {
        assert_eq!(role, Role::Node(0));
        let end = String::from_utf8(range.end.unwrap()).unwrap();
        found.push((reference.index, String::from_utf8(range.start).unwrap(), end));
    }
    let expected = [(0, "b", "d"), (1, "d", "g"), (2, "g", "k")];
    assert_eq!(found, expected.map(|(at, start, end)| (at, start.to_owned(), end.to_owned())));
    let outside = Range { start: b"e".to_vec(), end: None };
    let node = Item { range: outside, ..item(&block, Role::Node(1)) };
    assert!(survey.look_into(&node, &block).is_err());
}

#[test]
fn a_value_larger_than_any_is_a_fault() {
    let largest = u32::try_from(VALUE_SIZE_MAX).unwrap();
    for (size, is_sound) in [(largest, true), (largest + 1, false), (u32::MAX, false)] {
        let reference = BlockRef { index: 5, op: 32, checksum: 1, checksum_body: 1 };
        let (head, large) = (leaf_record_head(b"key", size), large_value(7, &reference));
        let mut page = Page::new(0, 3968);
        page.insert(0, &[&head, b"key", &large]);
        let mut survey = survey_of(100);
        let block = forged(BlockKind::Leaf, page.bytes());
        let found = survey.look_into(&item(&block, Role::Node(0)), &block);
        assert_eq!(found.is_ok(), is_sound, "{size}");
    }
}

#[test]
fn a_large_value_is_its_leafs_or_a_fault_unless_a_part_of_it_was_one() {
    let bytes = vec![3; 5000];
    let hash = record_hash(&[], &bytes).0;
    for (size, hash, is_broken, faults) in [
        (5000, hash, false, 0),
        (5000, hash ^ 1, false, 1),
        (4999, hash, false, 1),
        (4999, hash ^ 1, false, 1),
        (5000, hash, true, 0),
        (5001, hash ^ 1, true, 0),
    ] {
        let mut survey = survey_of(100);
        let (reference, bytes) = (survey.checkpoint(), bytes.clone());
        survey.gathered = Some(Gathered { reference, size, hash, bytes, is_broken });
        survey.judge_gathered();
        assert_eq!((survey.faults_count(), survey.is_tree_whole), (faults, faults == 0));
    }
}

#[test]
fn the_one_before_is_read_as_far_as_the_newer_one_does_not_share_it() {
    let mut node = Node::new(9);
    node.checkpoint(300);
    node.checkpoint(1);
    let newer = node.survey();
    let mut before = CheckpointSurvey::of_before(&newer, node.checkpoints[1]);
    let (room, mut reads) = (newer.blocks_count(), 0);
    assert_eq!(before.blocks_count(), room);
    while let Some(Request::Read { token: Token::Scan { id }, offset, size }) = before.next_read() {
        assert!(!newer.has_reached(id));
        before.on_read_done(node.disk.read(offset, size));
        reads += 1;
    }
    assert_eq!((before.faults_count(), before.blocks_sound_all()), (0, reads));
    assert!(reads > 0 && reads < newer.blocks_sound_all() / 2);
}

#[test]
fn a_free_set_that_cannot_be_read_whole_is_compared_with_nothing() {
    let mut node = Node::new(10);
    node.checkpoint(100);
    let [checkpoint, before] = node.checkpoints;
    let size = node.disk.bytes.len() as u64;
    let mut survey = CheckpointSurvey::new(CLUSTER, GEOMETRY, size, checkpoint, before);
    let mut chunk = None;
    while let Some(Request::Read { token: Token::Scan { id }, offset, size }) = survey.next_read() {
        let role = survey.in_flight.as_ref().unwrap().role;
        chunk = (role == Role::FreeSet((0, 0))).then_some(id).or(chunk);
        survey.on_read_done(node.disk.read(offset, size));
    }
    let at = node.survey().offset_of(chunk.unwrap());
    node.disk.bytes[usize::try_from(at).unwrap() + 200] ^= 1;
    let (faults, _, disagreements) = node.findings();
    assert_eq!((faults.len(), disagreements), (1, vec![]));
    assert!(node.survey().free_set().is_none() && node.survey().root().is_some());
}

#[test]
fn a_place_kept_for_nothing_is_told_when_both_checkpoints_were_seen_whole() {
    let mut node = Node::new(11);
    node.checkpoint(200);
    node.checkpoint(100);
    let newer = node.survey();
    let kept = {
        let free_set = newer.free_set().unwrap();
        let is_kept = |index: &u32| !free_set.is_used(*index) && !free_set.is_free(*index);
        (0..free_set.required()).find(is_kept).unwrap()
    };
    for (faults_newer, faults_before, is_told) in
        [(0, 0, true), (1, 0, false), (0, 1, false), (1, 1, false)]
    {
        let before = CheckpointSurvey::of_before(&newer, node.checkpoints[1]);
        let mut before = drive(&node.disk, before);
        before.reached.words[kept as usize / 64] &= !(1 << (kept % 64));
        before.faults_count = faults_before;
        let mut found = Vec::new();
        let mut told = node.survey();
        told.faults_count = faults_newer;
        told.compare(Some(&before), |index, what| found.push((index, what)));
        let expected = [(kept, Disagreement::KeptInVain)];
        assert_eq!(found, expected[..usize::from(is_told)]);
    }
}
