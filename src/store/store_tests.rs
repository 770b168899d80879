//! F3, tests only: stores on disks that crash, rot and fill up, against plain maps and each other.
//!
//! A history is a function of its seed: which batch an op applies. So any store can be at any op,
//! and two stores are compared by the references of their checkpoints, which cover every byte.

use super::grid::{READS_MAX, WRITES_MAX};
use super::page::{Page, Value};
use super::value::{value_children, value_levels};
use super::*;
use crate::stdx::{Prng, Ratio};
use crate::storage::FreeSet;
use crate::storage::Token;
use crate::storage::block::{BlockKind, block_body_size_max};
use crate::storage::test_disk::{Completion, TestDisk};
use crate::wire::Op;

const CLUSTER: ClusterId = ClusterId(5);
const TABLES: u8 = 3;

type Key = (u8, Vec<u8>);
type Model = BTreeMap<Key, Vec<u8>>;
type Batch = Vec<(Key, Option<Vec<u8>>)>;
type Rows = Vec<(Vec<u8>, Vec<u8>)>;

fn geometry(block_size: u32) -> Geometry {
    let geometry =
        Geometry { message_size: 4096, journal_slots: 64, block_size, pipeline: 4, clients_max: 4 };
    assert_eq!(geometry.invalid(), None);
    geometry
}

/// What a history looks like.
#[derive(Debug, Clone, Copy)]
struct History {
    seed: u64,
    keys_count: u64,
    key_size_max: u64,
    value_size_max: u64,
    batch_max: u64,
}

impl History {
    fn random(seed: u64) -> Self {
        let mut prng = Prng::from_seed(seed);
        let (keys_count, value_size_max) =
            [(20, 30_000), (300, 3000), (3000, 300), (3000, 20), (300, 30_000)][prng.index(5)];
        Self {
            seed,
            keys_count,
            key_size_max: [8, 60, 1024][prng.index(3)],
            value_size_max,
            batch_max: [3, 20][prng.index(2)],
        }
    }

    fn key(&self, prng: &mut Prng) -> Key {
        let number = prng.below(self.keys_count);
        let table = u8::try_from(number % u64::from(TABLES)).unwrap();
        // A function of the number, so that keys come again.
        let mut of_key = Prng::from_seed(self.seed ^ number << 20);
        let size = of_key.range_inclusive(1, self.key_size_max);
        let mut key: Vec<u8> = (0..size).map(|_| b"abc"[of_key.index(3)]).collect();
        if of_key.below(2) == 0 {
            key = number.to_be_bytes()[4..].to_vec();
        }
        (table, key)
    }

    fn batch(&self, op: Op) -> Batch {
        let mut prng = Prng::from_seed(self.seed.wrapping_mul(1 << 32).wrapping_add(op));
        // Phases of growth and of shrinking.
        let deletes = Ratio::new([10, 10, 60, 90][usize::try_from(op / 50 % 4).unwrap()], 100);
        let count = prng.range_inclusive(1, self.batch_max);
        let mut batch = Vec::new();
        for _ in 0..count {
            let key = self.key(&mut prng);
            if prng.chance(deletes) {
                batch.push((key, None));
                continue;
            }
            let large = prng.below(200) == 0 && self.value_size_max > 1000;
            let size_max = if large { 900_000 } else { self.value_size_max };
            let mut value = vec![0; usize::try_from(prng.below(size_max + 1)).unwrap()];
            prng.fill(&mut value);
            batch.push((key, Some(value)));
        }
        batch
    }

    fn model(&self, op: Op) -> Model {
        let mut model = Model::new();
        for op in 1..=op {
            apply(&mut model, &self.batch(op));
        }
        model
    }
}

fn apply(model: &mut Model, batch: &Batch) {
    for (key, written) in batch {
        match written {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// A store on a disk.
struct Node {
    history: History,
    options: Options,
    store: Store,
    disk: TestDisk,
    prng: Prng,
    /// What the superblock names.
    superblock: BlockRef,
    op: Op,
    /// Of every checkpoint that was written, the reference.
    checkpoints: BTreeMap<Op, BlockRef>,
    /// Where blocks that are bad here come from.
    peer: Option<TestDisk>,
    /// Blocks that no write may hit, with what they hold.
    protected: BTreeMap<u32, BlockRef>,
    growth_fails: Ratio,
    /// Ops write nothing, as those that only read.
    is_reading: bool,
    requests: Vec<Request>,
    /// Blocks that were read.
    reads: BTreeSet<u32>,
    suspends_count: u64,
}

impl Node {
    fn new(history: History, block_size: u32, cache_blocks: u64, seed: u64) -> Self {
        let geometry = geometry(block_size);
        let mut disk = TestDisk::new(seed);
        let grid_offset = Layout::new(geometry).grid_offset();
        disk.bytes.resize(usize::try_from(grid_offset).unwrap(), 0);
        let options = Options {
            cluster: CLUSTER,
            geometry,
            cache_size: cache_blocks * u64::from(block_size),
            file_size: grid_offset,
            size_limit: 1 << 40,
        };
        Self {
            history,
            options,
            store: Store::open(&options),
            disk,
            prng: Prng::from_seed(seed + 1000),
            superblock: BlockRef::NONE,
            op: 0,
            checkpoints: BTreeMap::new(),
            peer: None,
            protected: BTreeMap::new(),
            growth_fails: Ratio::new(0, 1),
            is_reading: false,
            requests: Vec::new(),
            reads: BTreeSet::new(),
            suspends_count: 0,
        }
    }

    fn interval(&self) -> u64 {
        self.options.geometry.checkpoint_interval()
    }

    /// The process ends and begins anew; the disk tears what is in flight.
    fn crash(&mut self) {
        self.disk.crash();
        self.reopen();
    }

    fn reopen(&mut self) {
        assert!(self.disk.pending.is_empty());
        self.options.file_size = self.disk.bytes.len() as u64;
        self.store = Store::open(&self.options);
        self.load(self.superblock);
    }

    fn load(&mut self, checkpoint: BlockRef) {
        self.store.load(checkpoint);
        self.op = checkpoint.op;
        while !self.store.is_loaded() {
            self.step();
        }
        if !checkpoint.is_none() {
            assert_eq!(self.store.loaded_header(), &header(checkpoint.op));
            assert_eq!(self.store.loaded_extra(), extra(checkpoint.op));
        }
        self.protect();
    }

    /// One turn, and one completion.
    fn step(&mut self) {
        self.turn();
        self.complete();
    }

    fn turn(&mut self) {
        let budget = [0, 4096, 100_000, 1 << 20][self.prng.index(4)];
        self.store.take_reads(&mut self.requests);
        self.store.write_behind(budget, &mut self.requests);
        self.submit();
        self.fetch();
        if let Some(checkpoint) = self.store.take_written_checkpoint() {
            let before = self.checkpoints.insert(checkpoint.op, checkpoint);
            assert!(before.is_none_or(|before| before == checkpoint), "another one than before");
            self.superblock = checkpoint;
            self.store.on_checkpoint_durable();
            assert_eq!(self.store.checkpoint(), checkpoint);
            self.protect();
        }
        assert!(self.disk.pending.len() <= 4 * READS_MAX + WRITES_MAX);
    }

    fn submit(&mut self) {
        let mut requests = std::mem::take(&mut self.requests);
        let grid_offset = Layout::new(self.options.geometry).grid_offset();
        let block_size = u64::from(self.options.geometry.block_size);
        self.reads.extend(requests.iter().filter_map(|request| match request {
            Request::Read { offset, .. } => {
                Some(u32::try_from((offset - grid_offset) / block_size).unwrap())
            }
            Request::Write { .. } => None,
        }));
        requests.retain(|request| match request {
            Request::Write { token: Token::GrowGrid, .. }
                if self.prng.chance(self.growth_fails) =>
            {
                self.store.on_growth_failed();
                false
            }
            Request::Write { token: Token::WriteBlock { .. }, offset, sectors } => {
                self.check_write(*offset, sectors);
                true
            }
            _ => true,
        });
        self.disk.submit(&mut requests);
        if self.store.is_full() && self.prng.below(10) == 0 {
            self.store.retry_growth();
        }
    }

    /// Nothing that a restart or a peer may need is written over, except by itself.
    fn check_write(&self, offset: u64, sectors: &[u8]) {
        let block_size = self.options.geometry.block_size as usize;
        let offset = offset - Layout::new(self.options.geometry).grid_offset();
        let first = usize::try_from(offset).unwrap() / block_size;
        for (index, block) in (first..).zip(sectors.chunks_exact(block_size)) {
            let Some(reference) = self.protected.get(&u32::try_from(index).unwrap()) else {
                continue;
            };
            let buffer = crate::stdx::AlignedBuffer::copy_of(block);
            let result = ReadResult { buffer, unreadable: Vec::new() };
            let same = StoredBlock::decode_read(CLUSTER, reference, result);
            assert!(same.is_ok(), "block {index} of a checkpoint is written over");
        }
    }

    /// Fetches what is missing.
    fn fetch(&mut self) {
        let missing: Vec<BlockRef> = self.store.missing().collect();
        let Some(peer) = &self.peer else {
            assert!(missing.is_empty(), "bad blocks and no peer");
            return;
        };
        for reference in missing {
            if self.prng.below(3) == 0 {
                let block = read_block(peer, &self.options.geometry, &reference);
                self.store.on_block(&block.expect("the peer has it"));
            }
        }
    }

    fn complete(&mut self) {
        match self.disk.complete() {
            None => {}
            Some(Completion::Write(token)) => self.store.on_write_done(token),
            Some(Completion::Read(token, result)) => self.store.on_read_done(token, result),
        }
    }

    /// Makes an attempt until it succeeds.
    fn attempt<T>(&mut self, attempt: impl Fn(&mut Store) -> Result<T, Stop>) -> T {
        for _ in 0..10_000 {
            let before = self.store.digest();
            let root = self.store.tree.root;
            let done = attempt(&mut self.store);
            if let Ok(result) = done
                && self.store.commit_overlay().is_ok()
            {
                return result;
            }
            assert!(self.store.is_suspended());
            self.store.abandon_overlay();
            assert_eq!((self.store.digest(), self.store.tree.root), (before, root));
            self.suspends_count += 1;
            self.step();
            while !self.store.is_ready() {
                self.step();
            }
        }
        panic!("an attempt that never succeeds");
    }

    /// Applies the next op.
    fn advance(&mut self) {
        let mut batch = self.history.batch(self.op + 1);
        if self.is_reading {
            batch.clear();
        }
        self.attempt(|store| {
            for ((table, key), written) in &batch {
                match written {
                    Some(value) => store.put(Table(*table), key, value)?,
                    None => store.delete(Table(*table), key)?,
                }
            }
            Ok(())
        });
        self.op += 1;
        if self.op.is_multiple_of(self.interval()) {
            self.freeze();
        }
        for _ in 0..self.prng.below(4) {
            self.step();
        }
    }

    fn freeze(&mut self) {
        while !self.store.can_freeze() {
            self.step();
        }
        self.store.freeze(self.op, &header(self.op), &extra(self.op));
        // From here on only the newest one is for good.
        self.protected = self.reachable(self.superblock);
    }

    /// The ops up to the next checkpoint write nothing.
    fn idle(&mut self) {
        self.op = self.store.op_freeze();
        self.freeze();
        self.settle();
    }

    fn advance_to(&mut self, op: Op) {
        while self.op < op {
            self.advance();
        }
    }

    /// Waits until the checkpoint under way is durable.
    fn settle(&mut self) {
        while !self.store.can_freeze() || !self.disk.pending.is_empty() {
            self.step();
        }
    }

    fn reachable(&self, checkpoint: BlockRef) -> BTreeMap<u32, BlockRef> {
        reachable(&self.disk, &self.options.geometry, checkpoint)
    }

    /// The blocks of the newest checkpoint, and until the next freeze those of the one before.
    fn protect(&mut self) {
        if self.peer.is_some() {
            self.protected.clear();
            return;
        }
        let newest = self.reachable(self.superblock);
        let mut protected = std::mem::take(&mut self.protected);
        for (index, reference) in newest {
            protected.insert(index, reference);
        }
        self.protected = protected;
    }

    /// All that the store holds, by scans, is what the model holds.
    fn check(&mut self, model: &Model) {
        for table in 0..TABLES {
            let mut expected: Rows = Vec::new();
            for ((_, key), value) in model.range((table, Vec::new())..(table + 1, Vec::new())) {
                expected.push((key.clone(), value.clone()));
            }
            assert!(self.rows(table, Direction::Forward) == expected, "op {}", self.op);
            expected.reverse();
            assert!(self.rows(table, Direction::Backward) == expected, "op {}", self.op);
        }
        let records = self.store.counters().records;
        assert_eq!(records, model.len() as u64);
    }

    fn rows(&mut self, table: u8, direction: Direction) -> Rows {
        self.attempt(|store| {
            let mut rows = Vec::new();
            let all = (Bound::Unbounded, Bound::Unbounded);
            store.scan(Table(table), all.0, all.1, direction, |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
            Ok(rows)
        })
    }
}

fn header(op: Op) -> [u8; HEADER_SIZE as usize] {
    [u8::try_from(op % 251).unwrap(); HEADER_SIZE as usize]
}

fn extra(op: Op) -> Vec<u8> {
    vec![7; usize::try_from(op % 100).unwrap()]
}

fn read_block(disk: &TestDisk, geometry: &Geometry, reference: &BlockRef) -> Option<StoredBlock> {
    let offset = Layout::new(*geometry).grid_offset();
    let offset = offset + u64::from(reference.index) * u64::from(geometry.block_size);
    let result = disk.read(offset, geometry.block_size);
    StoredBlock::decode_read(CLUSTER, reference, result).ok()
}

/// All blocks of a checkpoint, by another walk than the store's.
fn reachable(
    disk: &TestDisk,
    geometry: &Geometry,
    checkpoint: BlockRef,
) -> BTreeMap<u32, BlockRef> {
    let mut blocks = BTreeMap::new();
    if checkpoint.is_none() {
        return blocks;
    }
    let page_size = block_body_size_max(geometry.block_size);
    let mut read = |reference: BlockRef| {
        let again = blocks.insert(reference.index, reference);
        assert!(again.is_none(), "two references to block {}", reference.index);
        read_block(disk, geometry, &reference).unwrap_or_else(|| panic!("{reference:?} is bad"))
    };
    let root = checkpoint::CheckpointRoot::decode(read(checkpoint).body()).unwrap();
    let free_set = FreeSet::new(geometry.block_size);
    let mut pages = vec![(free_set.root_address(), root.free_set)];
    while let Some((address, reference)) = pages.pop() {
        free_set.page_children(address, read(reference).body(), &mut pages).unwrap();
    }
    let mut nodes = Vec::new();
    if root.tree.height > 0 {
        nodes.push((root.tree.height - 1, root.tree.reference));
    }
    while let Some((level, reference)) = nodes.pop() {
        let block = read(reference);
        assert_eq!(block.kind == BlockKind::Leaf, level == 0);
        let page = Page::decode(block.body(), level, page_size).unwrap();
        for at in 0..page.count() {
            if level > 0 {
                nodes.push((level - 1, page.child(at)));
            } else if let Value::Large { size, reference, .. } = page.value(at) {
                let mut values = vec![(value_levels(size, page_size), reference)];
                while let Some((levels, reference)) = values.pop() {
                    let block = read(reference);
                    if levels > 0 {
                        values.extend(value_children(block.body()).map(|one| (levels - 1, one)));
                    }
                }
            }
        }
    }
    blocks
}

#[test]
fn an_attempt_that_discards_its_writes_keeps_what_it_loaded() {
    let history =
        History { seed: 3, keys_count: 300, key_size_max: 60, value_size_max: 3000, batch_max: 20 };
    let mut node = Node::new(history, 4096, 1, 1);
    node.advance_to(64);
    node.settle();
    node.reopen();
    let records = node.store.counters().records;
    let read_all = |store: &Store| {
        let (mut count, all) = (0, (Bound::Unbounded, Bound::Unbounded));
        for table in (0..TABLES).map(Table) {
            store.scan(table, all.0, all.1, Direction::Forward, |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok(count)
    };
    let (before, after) = node.attempt(|store| {
        store.put(Table(0), b"discarded", b"value")?;
        let before = read_all(store)?;
        store.discard_writes();
        Ok((before, read_all(store)?))
    });
    assert_eq!((before, after), (records + 1, records));
    assert!(node.suspends_count > 0, "not all was in memory");
}

#[test]
fn checkpoints_after_idle_intervals_hold_everything() {
    for cache_blocks in [1, 1000] {
        let history = History::random(1);
        let mut node = Node::new(history, 4096, cache_blocks, 1);
        node.advance_to(20);
        let mut model = history.model(20);
        for _ in 0..5 {
            node.idle();
            node.check(&model);
        }
        // With little memory, pages are missed when they are to be changed, and all is undone.
        node.advance();
        apply(&mut model, &history.batch(node.op));
        node.check(&model);
        for _ in 0..2 {
            node.idle();
            node.crash();
            node.check(&model);
        }
    }
}

#[test]
fn stores_that_live_differently_write_the_same_checkpoints() {
    let mut suspends_count = 0;
    for seed in 0..12 {
        let history = History::random(seed);
        let block_size = [4096, 4096, 8192][usize::try_from(seed % 3).unwrap()];
        let mut quiet = Node::new(history, block_size, 1 << 20, seed);
        let mut small = Node::new(history, block_size, 1 + seed, seed + 1);
        let op_end = 32 * 7;
        quiet.advance_to(op_end);
        quiet.settle();
        while small.op < op_end {
            small.advance();
            if small.prng.below(60) == 0 {
                small.crash();
            }
        }
        small.settle();
        assert_eq!(quiet.checkpoints, small.checkpoints, "seed {seed}");
        assert_eq!(quiet.checkpoints.len(), 7);
        assert_eq!(quiet.suspends_count, 0);
        let model = history.model(op_end);
        assert_eq!(quiet.store.digest(), small.store.digest());
        quiet.check(&model);
        small.check(&model);
        small.crash();
        small.check(&model);
        suspends_count += small.suspends_count;
    }
    assert!(suspends_count > 1000, "{suspends_count}");
}

#[test]
fn checkpoints_of_intervals_without_a_write_can_be_loaded() {
    for op in [32, 40, 64 + 5] {
        let history = History::random(op);
        let mut node = Node::new(history, 4096, 50, op);
        node.advance_to(op);
        let model = history.model(op);
        node.is_reading = true;
        for checkpoint in 3..9 {
            node.advance_to(checkpoint * 32);
            node.settle();
            node.protect();
            node.check(&model);
        }
        node.crash();
        node.check(&model);
    }
}

#[test]
fn what_a_checkpoint_uses_is_what_it_refers_to() {
    for seed in 20..26 {
        let history = History::random(seed);
        let mut node = Node::new(history, 4096, 50, seed);
        for checkpoint in 1..10 {
            node.advance_to(checkpoint * 32);
            node.settle();
            node.reopen();
            let reachable = node.reachable(node.superblock);
            let free_set = &node.store.tree.free_set;
            for index in 0..free_set.required() {
                let is_reachable = reachable.contains_key(&index);
                assert_eq!(free_set.is_used(index), is_reachable, "block {index}");
            }
            assert!(reachable.keys().all(|index| *index < free_set.required()));
        }
    }
}

#[test]
fn a_crash_after_any_write_loads_the_superblocks_checkpoint() {
    let history =
        History { seed: 30, keys_count: 300, key_size_max: 60, value_size_max: 3000, batch_max: 8 };
    let mut node = Node::new(history, 4096, 30, 30);
    let mut writes_count = 0;
    while node.op < 32 * 6 {
        node.advance();
        if node.disk.writes_count > writes_count + 5 {
            let model = history.model(node.superblock.op);
            node.crash();
            writes_count = node.disk.writes_count;
            node.check(&model);
            // On to where it was, and a little further.
            node.advance_to(node.op + 40);
        }
    }
    assert!(node.checkpoints.len() >= 5);
}

#[test]
fn a_crash_at_every_step_of_a_checkpoint() {
    let history =
        History { seed: 35, keys_count: 200, key_size_max: 60, value_size_max: 3000, batch_max: 4 };
    let mut undisturbed = Node::new(history, 4096, 1000, 35);
    undisturbed.advance_to(32 * 4);
    undisturbed.settle();
    let models = [history.model(32), history.model(64)];
    let mut loaded = BTreeMap::new();
    for steps in 0.. {
        let mut node = Node::new(history, 4096, 6, 36);
        node.advance_to(63);
        node.settle();
        node.advance();
        let mut left = steps;
        while left > 0 && !node.store.can_freeze() {
            node.step();
            left -= 1;
        }
        let is_settled = node.store.can_freeze();
        node.crash();
        *loaded.entry(node.op).or_insert(0) += 1;
        node.check(&models[usize::try_from(node.op / 32 - 1).unwrap()]);
        node.advance_to(32 * 4);
        node.settle();
        for (op, checkpoint) in &node.checkpoints {
            assert_eq!(undisturbed.checkpoints[op], *checkpoint);
        }
        assert_eq!(node.superblock, undisturbed.superblock);
        if is_settled {
            break;
        }
    }
    assert!(loaded[&32] > 10, "{loaded:?}");
    assert!(loaded[&64] >= 1, "{loaded:?}");
}

#[test]
fn a_full_disk_stops_checkpoints_and_nothing_else() {
    let history =
        History { keys_count: 3000, value_size_max: 3000, batch_max: 20, ..History::random(40) };
    let mut undisturbed = Node::new(history, 4096, 100, 40);
    let mut node = Node::new(history, 4096, 2000, 41);
    undisturbed.advance_to(64);
    undisturbed.settle();
    node.advance_to(32);
    node.growth_fails = Ratio::new(1, 1);
    while !node.store.is_full() {
        node.advance();
        assert!(node.op < 60, "there is more than the grid has room for");
    }
    node.advance_to(60);
    let model = history.model(60);
    node.check(&model);
    node.growth_fails = Ratio::new(1, 2);
    node.advance_to(64);
    node.settle();
    assert!(!node.store.is_full());
    assert_eq!(node.checkpoints, undisturbed.checkpoints);
}

#[test]
fn memory_is_bounded_while_the_disk_is_full() {
    let history = History {
        seed: 45,
        keys_count: 3000,
        key_size_max: 60,
        value_size_max: 1000,
        batch_max: 60,
    };
    let mut undisturbed = Node::new(history, 4096, 2000, 45);
    undisturbed.advance_to(96);
    undisturbed.settle();
    for cache_blocks in [1, 160] {
        let mut node = Node::new(history, 4096, cache_blocks, 46);
        node.advance_to(32);
        node.settle();
        node.growth_fails = Ratio::new(1, 1);
        let (mut blocks_max, mut filled_count) = (0, 0);
        let bound = cache_blocks.max(128);
        loop {
            // What there is a place for is written.
            for _ in 0..300 {
                node.step();
            }
            if node.store.is_full() && node.store.is_congested() {
                break;
            }
            node.advance();
            filled_count += u64::from(node.store.is_filled());
            assert!(node.op < 95, "there is more than memory may hold");
        }
        assert!(filled_count > 0, "a warning comes first");
        for _ in 0..1000 {
            // An attempt suspends, and reading does not.
            let put = node.store.put(Table(0), b"more", b"");
            assert!(put.is_err() || node.store.commit_overlay().is_err());
            node.store.abandon_overlay();
            node.step();
            blocks_max = blocks_max.max(node.store.unwritten_count() as u64);
        }
        // A batch that is under way when the bound is met ends.
        assert!(blocks_max <= bound + 130, "{blocks_max} blocks in memory, of {cache_blocks}");
        assert!(node.store.is_filled() && node.op < 96);
        node.growth_fails = Ratio::new(1, 3);
        node.advance_to(96);
        node.settle();
        assert!(!node.store.is_full() && !node.store.is_filled());
        assert_eq!(node.checkpoints, undisturbed.checkpoints);
    }
}

#[test]
fn at_the_size_limit_the_grid_is_full() {
    let history = History { value_size_max: 3000, batch_max: 20, ..History::random(42) };
    let mut node = Node::new(history, 4096, 20, 42);
    node.options.size_limit = node.options.file_size + (1 << 20);
    node.store = Store::open(&node.options);
    while !node.store.is_full() {
        node.advance();
        assert!(node.op < 31, "the limit is reached in the first interval");
    }
    let model = history.model(node.op);
    node.check(&model);
    assert!(node.disk.bytes.len() as u64 <= node.options.size_limit);
}

#[test]
fn sync_fetches_what_is_newer_and_nothing_else() {
    for seed in 50..56 {
        let history = History::random(seed);
        let mut peer = Node::new(history, 4096, 1000, seed);
        let mut node = Node::new(history, 4096, 8, seed + 1);
        let behind = 32 * (seed % 4);
        node.advance_to(behind);
        node.settle();
        peer.advance_to(32 * 7);
        peer.settle();
        let target = peer.superblock;
        let complete = node.superblock.op;
        let newer = peer.reachable(target);
        let newer: Vec<_> = newer.values().filter(|block| block.op > complete).collect();
        let mut disk = TestDisk::new(seed);
        disk.bytes.clone_from(&peer.disk.bytes);
        node.peer = Some(disk);
        node.protected.clear();
        node.superblock = target;
        let mut crashes = node.prng.below(3);
        // The store may have writes in flight when it is told to jump.
        for _ in 0..node.prng.below(4) {
            node.turn();
        }
        node.load(target);
        node.store.sync(complete);
        let mut fetched = 0;
        while node.store.is_syncing() {
            node.step();
            if crashes > 0 && node.prng.below(100) == 0 {
                crashes -= 1;
                fetched += node.store.sync_progress().blocks_fetched;
                node.crash();
                node.store.sync(complete);
            }
        }
        let progress = node.store.sync_progress();
        fetched += progress.blocks_fetched;
        assert!(fetched <= newer.len() as u64 + 3 * 64, "seed {seed}: {fetched}");
        let seen = progress.blocks_fetched + progress.blocks_found;
        assert_eq!(seen, newer.len() as u64, "seed {seed}");
        node.peer = None;
        node.reopen();
        node.protected = node.reachable(target);
        let model = history.model(target.op);
        node.check(&model);
        node.advance_to(32 * 10);
        node.settle();
        peer.advance_to(32 * 10);
        peer.settle();
        assert_eq!(node.superblock, peer.superblock);
    }
}

#[test]
fn a_sync_goes_on_where_it_was_when_a_newer_checkpoint_is_to_be_taken_over() {
    for (seed, steps, crash_every) in
        [(80, 60, 1000), (81, 100, 1000), (82, 250, 1000), (83, 150, 4), (84, 120, 7)]
    {
        let mut peer = node_to_scrub(seed);
        let mut prng = Prng::from_seed(seed);
        let mut node = Node::new(peer.history, 4096, 8, seed + 1);
        // A bound for what is visited: each block once, and for each target what is new in it, the
        // ways to where the last one came to, and what was on its way to the disk.
        let (mut visited_before, mut bound, mut targets) = (0, 0, 0);
        let mut before = BTreeMap::new();
        loop {
            targets += 1;
            let target = peer.superblock;
            let blocks = peer.reachable(target);
            let is_new = |entry: &(&u32, &BlockRef)| before.get(entry.0) != Some(entry.1);
            bound += blocks.iter().filter(is_new).count() as u64;
            bound += 10 + 64 + u64::from(peer.store.tree.root.height);
            before = blocks;
            let mut disk = TestDisk::new(seed);
            disk.bytes.clone_from(&peer.disk.bytes);
            (node.peer, node.superblock) = (Some(disk), target);
            node.protected.clear();
            node.load(target);
            node.store.sync(0);
            let is_crash = targets % crash_every == 0;
            for _ in 0..steps {
                node.step();
                if !node.store.is_syncing() {
                    break;
                }
            }
            let progress = node.store.sync_progress();
            let visited_last = progress.blocks_fetched + progress.blocks_found;
            let visited = visited_before + visited_last;
            assert!(
                visited <= bound,
                "seed {seed}: {visited} blocks of {bound}, {targets} targets"
            );
            if !node.store.is_syncing() {
                break;
            }
            if is_crash {
                // What was on the disk is found there, and read once more.
                node.crash();
                bound += visited;
                visited_before = visited;
            }
            delete_or_insert_many(&mut peer, &mut prng);
            change_and_checkpoint(&mut peer, &mut prng);
            assert!(targets < 100, "seed {seed}: no end of it");
        }
        assert!(targets > 2, "seed {seed}: {targets}");
        node.peer = None;
        assert_eq!(node.reachable(peer.superblock), before);
        node.reopen();
        assert_eq!(node.store.digest(), peer.store.digest());
    }
}

#[test]
fn rot_is_found_and_repaired() {
    for seed in 60..64 {
        let history = History::random(seed);
        let mut node = Node::new(history, 4096, 8, seed);
        node.advance_to(32 * 6);
        node.settle();
        node.reopen();
        let blocks = node.reachable(node.superblock);
        let mut peer = TestDisk::new(seed);
        peer.bytes.clone_from(&node.disk.bytes);
        node.peer = Some(peer);
        let indexes: Vec<u32> = blocks.keys().copied().collect();
        let grid_offset = Layout::new(node.options.geometry).grid_offset();
        for _ in 0..10 {
            let index = indexes[node.prng.index(indexes.len())];
            node.disk.rot(grid_offset + u64::from(index) * 4096);
        }
        if seed % 2 == 0 {
            // By what reads it first.
            node.reopen();
            let model = history.model(node.op);
            node.check(&model);
        }
        let laps = node.store.counters().scrub_laps;
        while node.store.counters().scrub_laps < laps + 3 || node.store.missing().count() > 0 {
            node.store.scrub(&mut node.requests);
            node.step();
            if seed % 3 == 0 && node.prng.below(50) == 0 && node.store.can_freeze() {
                // The scrub goes on over a new checkpoint.
                node.advance();
            }
        }
        node.settle();
        assert!(node.store.counters().blocks_repaired > 0);
        node.reachable(node.superblock);
    }
}

/// A store with a wide leaf of large values, one value of two levels, and many small ones.
fn node_to_scrub(seed: u64) -> Node {
    let history = History { value_size_max: 3000, key_size_max: 60, ..History::random(seed) };
    let mut node = Node::new(history, 4096, 1 << 20, seed);
    let (value, many) = (vec![3; 9000], vec![4; 198 * 3968 + 20_000]);
    for number in 0..30_u8 {
        node.attempt(|store| store.put(Table(4), &[number], &value));
    }
    node.attempt(|store| store.put(Table(4), &[15, 1], &many));
    for number in 0..700_u32 {
        let key = number.to_be_bytes();
        node.attempt(|store| store.put(Table([2, 6][number as usize % 2]), &key, &[5; 100]));
    }
    node.idle();
    node.protect();
    node
}

/// Scrubs one more block, and what is on the way to it.
fn scrub_one(node: &mut Node) {
    let read_before = node.store.counters().scrub_blocks_read;
    node.store.scrub(&mut node.requests);
    loop {
        node.step();
        let walk = node.store.walk.as_ref().unwrap();
        let is_reading = !walk.outstanding.is_empty() || !node.requests.is_empty();
        let next = walk.stack.last();
        if !is_reading && next.is_none_or(|next| walk.is_paced(next)) {
            break;
        }
    }
    assert!(node.store.counters().scrub_blocks_read > read_before);
}

/// Changes a few records, and makes a checkpoint of it.
fn change_and_checkpoint(node: &mut Node, prng: &mut Prng) {
    for _ in 0..prng.below(3) {
        let table = Table(u8::try_from(prng.below(9)).unwrap());
        let key = [u8::try_from(prng.below(70)).unwrap()];
        let value = vec![6; prng.index(6) * 1500];
        node.attempt(|store| store.put(table, &key, &value));
    }
    node.idle();
}

/// Deletes or inserts records of one range, so that pages merge, split, and lose neighbours.
fn delete_or_insert_many(node: &mut Node, prng: &mut Prng) {
    let (table, first) = (Table([2, 4, 6][prng.index(3)]), prng.below(700));
    let is_delete = prng.below(2) == 0;
    let count = prng.below(if is_delete { 60 } else { 10 });
    for number in first..first + count {
        let mut key = u32::try_from(number).unwrap().to_be_bytes().to_vec();
        if table == Table(4) {
            key = vec![key[3] % 30];
        }
        node.attempt(|store| match is_delete {
            true => store.delete(table, &key),
            false => store.put(table, &key, &[7; 100]),
        });
    }
}

#[test]
fn a_lap_of_the_scrub_ends_and_sees_all_however_often_checkpoints_come() {
    for (seed, blocks_between, laps_count) in [(200, 1, 2), (201, 3, 2), (202, 60, 3)] {
        let mut node = node_to_scrub(seed);
        node.peer = Some(TestDisk::new(seed));
        let mut prng = Prng::from_seed(seed);
        let mut seen = BTreeSet::new();
        for laps in 0..laps_count {
            let read_before = node.store.counters().scrub_blocks_read;
            // In use all the time, and what a lap may read.
            let mut stable = node.reachable(node.superblock);
            let in_use = stable.len() as u64;
            let mut bound = in_use;
            'lap: loop {
                for _ in 0..blocks_between {
                    scrub_one(&mut node);
                    seen.append(&mut node.reads.clone());
                    if node.store.counters().scrub_laps > laps {
                        break 'lap;
                    }
                    node.reads.clear();
                }
                change_and_checkpoint(&mut node, &mut prng);
                let after = node.reachable(node.superblock);
                let is_new = |block: &&BlockRef| block.op == node.superblock.op;
                bound += after.values().filter(is_new).count() as u64;
                // The root, of the free set and of a value two, and the tree.
                bound += 5 + u64::from(node.store.tree.root.height);
                stable.retain(|index, block| after.get(index) == Some(block));
                let read = node.store.counters().scrub_blocks_read - read_before;
                assert!(read <= bound, "{read} blocks read in a lap, of {in_use}");
                if node.store.counters().scrub_laps > laps {
                    break;
                }
            }
            seen.extend(&node.reads);
            let missed = stable.keys().filter(|index| !seen.contains(index)).count();
            assert_eq!(missed, 0, "seed {seed}, of {} that were in use all the time", stable.len());
            assert!(stable.len() as u64 > in_use / 2, "{} of {in_use}", stable.len());
            // The next lap may have begun with the last block of this one.
            seen = std::mem::take(&mut node.reads);
        }
    }
}

#[test]
fn the_scrub_reads_no_block_twice_in_a_quiet_lap() {
    let mut node = node_to_scrub(210);
    let in_use = node.reachable(node.superblock);
    node.reads.clear();
    while node.store.counters().scrub_laps == 0 {
        scrub_one(&mut node);
    }
    assert!(in_use.keys().all(|index| node.reads.contains(index)));
    let read = node.store.counters().scrub_blocks_read;
    // The first of the next lap, and the pages on the way to the second.
    assert!(read <= in_use.len() as u64 + 8, "{read} of {}", in_use.len());
}

#[test]
fn what_waits_for_a_missing_block_is_let_go_or_goes_on_when_it_reads_well() {
    let mut node = Node::new(History::random(70), 4096, 8, 70);
    node.advance_to(32);
    node.settle();
    node.reopen();
    let disk = node.disk.bytes.clone();
    let offset = usize::try_from(Layout::new(node.options.geometry).grid_offset()).unwrap();
    node.disk.bytes[offset..].fill(0);
    // Not by the steps of the others, which expect somebody to have it.
    let miss = |node: &mut Node| {
        assert_eq!(node.store.get(Table(0), b"key"), Err(Stop::Suspend));
        node.store.abandon_overlay();
        node.store.take_reads(&mut node.requests);
        node.submit();
        node.complete();
        assert!(!node.store.is_ready());
        node.store.awaited().expect("the first page of the tree")
    };
    let block = miss(&mut node);
    assert_eq!(node.store.missing().collect::<Vec<_>>(), [block]);
    node.store.release_attempts();
    assert_eq!(node.store.awaited(), None);
    assert!(node.store.is_ready(), "others may be tried");
    assert_eq!(node.store.missing().count(), 1, "it is asked for all the same");
    assert_eq!(miss(&mut node), block, "who cannot do without it waits again");
    assert_eq!(node.store.counters().blocks_bad, 1);

    let again = |node: &mut Node| {
        node.store.read_missing_again(&mut node.requests);
        node.store.read_missing_again(&mut node.requests);
        assert_eq!(node.requests.len(), 1, "once at a time");
        node.submit();
        node.complete();
    };
    again(&mut node);
    assert_eq!(node.store.awaited(), Some(block));
    node.disk.bytes = disk;
    again(&mut node);
    assert_eq!((node.store.awaited(), node.store.missing().count()), (None, 0));
    assert!(node.store.is_ready());
    let model = node.history.model(node.op);
    node.check(&model);
    assert_eq!(node.store.counters().blocks_repaired, 0, "there was nothing to write");
}

#[test]
fn a_block_that_was_written_early_and_rots_is_lost() {
    let history = History { keys_count: 3000, value_size_max: 300, ..History::random(68) };
    let mut node = Node::new(history, 4096, 1, 68);
    node.peer = Some(TestDisk::new(68));
    node.advance_to(32);
    node.settle();
    assert!(!node.store.is_lost());
    node.attempt(|store| store.put(Table(0), b"new", &[1; 10_000]));
    for index in 0..2000 {
        node.attempt(|store| {
            store.put(Table(1), &[1, u8::try_from(index % 250).unwrap()], &[2; 800])
        });
    }
    for _ in 0..200 {
        node.step();
    }
    assert!(node.store.tree.dirty.len() < 10);
    let offset = usize::try_from(Layout::new(node.options.geometry).grid_offset()).unwrap();
    let checkpoint = node.reachable(node.superblock);
    for (index, block) in node.disk.bytes[offset..].chunks_exact_mut(4096).enumerate() {
        if !checkpoint.contains_key(&u32::try_from(index).unwrap()) {
            block.fill(0);
        }
    }
    assert_eq!(node.store.get(Table(0), b"new"), Err(Stop::Suspend));
    node.store.abandon_overlay();
    for _ in 0..10 {
        node.store.take_reads(&mut node.requests);
        node.submit();
        node.complete();
    }
    assert!(node.store.is_lost() && !node.store.is_ready());
    // Deleting asks for what is lost too; loading the checkpoint is the way out.
    node.reopen();
    assert!(!node.store.is_lost());
    let model = history.model(32);
    node.check(&model);
}

#[test]
fn peers_are_served() {
    let history = History::random(70);
    let mut node = Node::new(history, 4096, 50, 70);
    node.advance_to(64);
    node.settle();
    let blocks = node.reachable(node.superblock);
    let mut left: BTreeSet<BlockRef> = blocks.values().copied().collect();
    for reference in blocks.values() {
        node.store.read_for_peer(reference, 3, &mut node.requests);
        node.step();
        for PeerBlock { requester, block } in node.store.take_peer_blocks() {
            assert_eq!(requester, 3);
            left.remove(&block.reference);
        }
    }
    for _ in 0..100 {
        node.step();
    }
    for PeerBlock { block, .. } in node.store.take_peer_blocks() {
        left.remove(&block.reference);
    }
    assert_eq!(left, BTreeSet::new());
    let other = BlockRef { checksum: 1, ..node.superblock };
    node.store.read_for_peer(&other, 3, &mut node.requests);
    for _ in 0..10 {
        node.step();
    }
    assert!(node.store.take_peer_blocks().is_empty());
}

/// A store of `count` records of 100 bytes, and what its checkpoint costs after a change of
/// `changed` neighbours, or of as many anywhere: blocks, and blocks in all.
fn cost_of_change(count: u32, changed: u32, are_neighbours: bool) -> (u64, u64) {
    let history = History::random(80);
    let mut node = Node::new(history, 4096, 1 << 20, 80);
    let put = |store: &mut Store, number: u32, value: u8| {
        store.put(Table(1), &number.to_be_bytes(), &[value; 90])
    };
    let freeze = |node: &mut Node| {
        let op = node.store.op_freeze();
        node.store.freeze(op, &header(op), &extra(op));
        node.settle();
        node.store.counters()
    };
    for start in (0..count).step_by(1000) {
        for number in start..start + 1000 {
            put(&mut node.store, number, 1).unwrap();
        }
        node.store.commit_overlay().unwrap();
    }
    freeze(&mut node);
    let before = freeze(&mut node);
    let mut prng = Prng::from_seed(81);
    for neighbour in count / 2..count / 2 + changed {
        let anywhere = u32::try_from(prng.below(u64::from(count))).unwrap();
        let number = if are_neighbours { neighbour } else { anywhere };
        put(&mut node.store, number, 2).unwrap();
    }
    node.store.commit_overlay().unwrap();
    let after = freeze(&mut node);
    (after.checkpoint_blocks_written - before.checkpoint_blocks_written, after.grid_blocks_used)
}

#[test]
fn a_checkpoint_costs_what_changed() {
    for (count, changed, are_neighbours) in [
        (100_000, 1000, true),
        (400_000, 4000, true),
        (400_000, 1000, true),
        (400_000, 4000, false),
        (400_000, 400, false),
    ] {
        let (cost, blocks) = cost_of_change(count, changed, are_neighbours);
        println!(
            "{changed} of {count} records changed, {}: {} bytes written, of {} bytes in use",
            if are_neighbours { "neighbours" } else { "anywhere" },
            cost * 4096,
            blocks * 4096
        );
    }
    let (cost, blocks) = cost_of_change(100_000, 1000, true);
    assert!(blocks > 2500, "{blocks} blocks");
    // The leaves, the way to them, the free set and its tree, the root.
    assert!(cost <= blocks / 100 + 16, "{cost} of {blocks} blocks for 1%");
    let (of_smaller, _) = cost_of_change(20_000, 1000, true);
    assert!(cost <= of_smaller + 4, "{cost} and {of_smaller}");
    // Anywhere: at most a leaf for each record, and all inner pages.
    let (cost, blocks) = cost_of_change(100_000, 100, false);
    assert!(cost <= 100 + blocks / 20 + 16, "{cost} of {blocks} blocks for 100 records");
}

#[test]
fn values_of_all_sizes_come_back() {
    let page = 4096 - 128;
    let mut node = Node::new(History::random(90), 4096, 10, 90);
    let sizes = [0, 1, 28, 29, 900, 985, 986, 987, page - 1, page, page + 1];
    let large = [page * 198, page * 198 + 1, 8 << 20];
    for key_size in [0, 1, 100, 1024] {
        for size in sizes.into_iter().chain(large).filter(|size| *size < 2000 || key_size == 1) {
            let value = vec![u8::try_from(size % 250).unwrap(); size];
            let key = vec![9; key_size];
            node.attempt(|store| store.put(Table(0), &key, &value));
            let found = node.attempt(|store| store.get(Table(0), &key));
            assert_eq!(found.unwrap().len(), size);
            for _ in 0..20 {
                node.step();
            }
        }
        node.attempt(|store| store.delete(Table(0), &vec![9; key_size]));
    }
    assert_eq!(node.store.counters().records, 0);
    assert_eq!(node.store.tree.root, tree::Root::default());
    assert_eq!(node.store.digest(), Store::new().digest());
}

#[test]
fn memory_is_bounded() {
    let history = History {
        seed: 100,
        keys_count: 20_000,
        key_size_max: 8,
        value_size_max: 900,
        batch_max: 40,
    };
    let mut node = Node::new(history, 4096, 200, 100);
    let mut blocks_max = 0;
    while node.op < 32 * 6 {
        node.advance();
        blocks_max = blocks_max.max(node.store.counters().cache_blocks);
    }
    assert!(node.store.counters().grid_blocks_used > 400);
    assert!(blocks_max < 200 + 200, "{blocks_max} blocks in memory");
}

#[test]
fn queues_say_how_full_they_are_and_may_be() {
    let found = |store: &Store| -> Vec<(&'static str, u64, u64)> {
        store.bounds().iter().map(|bound| (bound.name, bound.count, bound.max)).collect()
    };
    assert_eq!(found(&Store::in_memory()), [("writes_of_blocks", 0, 4)]);
    let node = Node::new(History::random(1), 4096, 100, 1);
    let max = node.store.unwritten_max() as u64 + 1024;
    let expected = [("writes_of_blocks", 0, 4), ("blocks_unwritten", 0, max)];
    assert_eq!(found(&node.store), expected);
}

#[test]
fn prefetch_brings_all_paths_together() {
    let history = History { value_size_max: 300, batch_max: 20, ..History::random(2) };
    let mut node = Node::new(history, 4096, 4000, 110);
    node.advance_to(64);
    node.settle();
    node.reopen();
    let model = history.model(64);
    let mut rounds = 0;
    while !node.store.prefetch(model.keys().map(|(table, key)| (Table(*table), key.as_slice()))) {
        rounds += 1;
        node.step();
        while !node.store.is_ready() {
            node.step();
        }
    }
    assert!(rounds <= u64::from(node.store.tree.root.height), "a level at a time");
}

#[test]
fn the_systems_table_has_its_own_door() {
    let mut store = Store::new();
    store.table_put(TABLE_SYSTEM, b"k", b"v").unwrap();
    store.put(Table(254), b"k", b"w").unwrap();
    store.commit_overlay().unwrap();
    assert_eq!(store.table_get(TABLE_SYSTEM, b"k").unwrap().unwrap(), b"v".as_slice());
    let mut rows = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let visit = |key: &[u8], _: &Bytes| {
        rows.push(key.to_vec());
        ControlFlow::Continue(())
    };
    store.table_scan(TABLE_SYSTEM, all.0, all.1, Direction::Backward, visit).unwrap();
    assert_eq!(rows, [b"k"]);
}
