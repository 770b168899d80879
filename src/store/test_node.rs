//! F3, tests only: a store on a disk that crashes, rots and fills up, and a plain map beside it.
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

pub(super) const CLUSTER: ClusterId = ClusterId(5);
pub(super) const TABLES: u8 = 3;

pub(super) type Key = (u8, Vec<u8>);
pub(super) type Model = BTreeMap<Key, Vec<u8>>;
pub(super) type Batch = Vec<(Key, Option<Vec<u8>>)>;
pub(super) type Rows = Vec<(Vec<u8>, Vec<u8>)>;

pub(super) fn geometry(block_size: u32) -> Geometry {
    let geometry = Geometry {
        message_size: block_size,
        journal_slots: 64,
        block_size,
        pipeline: 4,
        clients_max: 4,
    };
    assert_eq!(geometry.invalid(), None);
    geometry
}

/// What a history looks like.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    pub(super) seed: u64,
    pub(super) keys_count: u64,
    pub(super) key_size_max: u64,
    pub(super) value_size_max: u64,
    pub(super) batch_max: u64,
}

impl History {
    pub(super) fn random(seed: u64) -> Self {
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

    pub(super) fn key(&self, prng: &mut Prng) -> Key {
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

    pub(super) fn batch(&self, op: Op) -> Batch {
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

    pub(super) fn model(&self, op: Op) -> Model {
        let mut model = Model::new();
        for op in 1..=op {
            apply(&mut model, &self.batch(op));
        }
        model
    }
}

pub(super) fn apply(model: &mut Model, batch: &Batch) {
    for (key, written) in batch {
        match written {
            Some(value) => model.insert(key.clone(), value.clone()),
            None => model.remove(key),
        };
    }
}

/// A store on a disk.
pub(super) struct Node {
    pub(super) history: History,
    pub(super) options: Options,
    pub(super) store: Store,
    pub(super) disk: TestDisk,
    pub(super) prng: Prng,
    /// What the superblock names.
    pub(super) superblock: BlockRef,
    pub(super) op: Op,
    /// Of every checkpoint that was written, the reference.
    pub(super) checkpoints: BTreeMap<Op, BlockRef>,
    /// Where blocks that are bad here come from.
    pub(super) peer: Option<TestDisk>,
    /// Blocks that no write may hit, with what they hold.
    pub(super) protected: BTreeMap<u32, BlockRef>,
    pub(super) growth_fails: Ratio,
    /// Ops write nothing, as those that only read.
    pub(super) is_reading: bool,
    pub(super) requests: Vec<Request>,
    /// Blocks that were read.
    pub(super) reads: BTreeSet<u32>,
    pub(super) suspends_count: u64,
}

impl Node {
    pub(super) fn new(history: History, block_size: u32, cache_blocks: u64, seed: u64) -> Self {
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

    pub(super) fn interval(&self) -> u64 {
        self.options.geometry.checkpoint_interval()
    }

    /// The process ends and begins anew; the disk tears what is in flight.
    pub(super) fn crash(&mut self) {
        self.disk.crash();
        self.reopen();
    }

    pub(super) fn reopen(&mut self) {
        assert!(self.disk.pending.is_empty());
        self.options.file_size = self.disk.bytes.len() as u64;
        self.store = Store::open(&self.options);
        self.load(self.superblock);
    }

    pub(super) fn load(&mut self, checkpoint: BlockRef) {
        self.store.load(checkpoint, checkpoint.op);
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
    pub(super) fn step(&mut self) {
        self.turn();
        self.complete();
    }

    pub(super) fn turn(&mut self) {
        let budget = [0, 4096, 100_000, 1 << 20][self.prng.index(4)];
        self.store.take_reads(&mut self.requests);
        let is_late = self.prng.below(2) == 0;
        self.store.write_behind(budget, is_late, &mut self.requests);
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

    pub(super) fn submit(&mut self) {
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
    pub(super) fn check_write(&self, offset: u64, sectors: &[u8]) {
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
    pub(super) fn fetch(&mut self) {
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

    pub(super) fn complete(&mut self) {
        match self.disk.complete() {
            None => {}
            Some(Completion::Write(token)) => self.store.on_write_done(token),
            Some(Completion::Read(token, result)) => self.store.on_read_done(token, result),
        }
    }

    /// One turn, and one completion, with nobody to ask for what is missing.
    pub(super) fn step_alone(&mut self) {
        self.store.take_reads(&mut self.requests);
        self.store.write_behind(1 << 20, false, &mut self.requests);
        self.submit();
        self.complete();
    }

    /// Makes the next checkpoint, with nobody to ask.
    pub(super) fn checkpoint_alone(&mut self) {
        self.op = self.store.op_freeze();
        self.store.freeze(self.op, &header(self.op), &extra(self.op));
        while !self.store.can_freeze() || !self.disk.pending.is_empty() {
            self.step_alone();
            if let Some(checkpoint) = self.store.take_written_checkpoint() {
                assert_eq!(self.store.take_written_checkpoint(), None, "it is handed out once");
                self.superblock = checkpoint;
                self.store.on_checkpoint_durable();
            }
        }
        assert_eq!((self.superblock.op, self.store.checkpoint()), (self.op, self.superblock));
    }

    /// Begins to load what the superblock names, in a new process.
    pub(super) fn begin_load(&mut self) {
        assert!(self.disk.pending.is_empty());
        self.options.file_size = self.disk.bytes.len() as u64;
        self.store = Store::open(&self.options);
        self.store.load(self.superblock, self.superblock.op);
    }

    /// Makes an attempt until it succeeds.
    pub(super) fn attempt<T>(&mut self, attempt: impl Fn(&mut Store) -> Result<T, Stop>) -> T {
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
    pub(super) fn advance(&mut self) {
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

    pub(super) fn freeze(&mut self) {
        while !self.store.can_freeze() {
            self.step();
        }
        self.store.freeze(self.op, &header(self.op), &extra(self.op));
        // From here on only the newest one is for good.
        self.protected = self.reachable(self.superblock);
    }

    /// The ops up to the next checkpoint write nothing.
    pub(super) fn idle(&mut self) {
        self.op = self.store.op_freeze();
        self.freeze();
        self.settle();
    }

    pub(super) fn advance_to(&mut self, op: Op) {
        while self.op < op {
            self.advance();
        }
    }

    /// Waits until the checkpoint under way is durable.
    pub(super) fn settle(&mut self) {
        while !self.store.can_freeze() || !self.disk.pending.is_empty() {
            self.step();
        }
    }

    pub(super) fn reachable(&self, checkpoint: BlockRef) -> BTreeMap<u32, BlockRef> {
        reachable(&self.disk, &self.options.geometry, checkpoint)
    }

    /// The blocks of the newest checkpoint, and until the next freeze those of the one before.
    pub(super) fn protect(&mut self) {
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
    pub(super) fn check(&mut self, model: &Model) {
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

    pub(super) fn rows(&mut self, table: u8, direction: Direction) -> Rows {
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

pub(super) fn header(op: Op) -> [u8; HEADER_SIZE as usize] {
    [u8::try_from(op % 251).unwrap(); HEADER_SIZE as usize]
}

pub(super) fn extra(op: Op) -> Vec<u8> {
    vec![7; usize::try_from(op % 100).unwrap()]
}

pub(super) fn read_block(
    disk: &TestDisk,
    geometry: &Geometry,
    reference: &BlockRef,
) -> Option<StoredBlock> {
    let offset = Layout::new(*geometry).grid_offset();
    let offset = offset + u64::from(reference.index) * u64::from(geometry.block_size);
    let result = disk.read(offset, geometry.block_size);
    StoredBlock::decode_read(CLUSTER, reference, result).ok()
}

/// All blocks of a checkpoint, by another walk than the store's.
pub(super) fn reachable(
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
