//! Fuzz target `store`: operations of a state machine against plain maps, on a disk that is read
//! and written in any order, with crashes, bad blocks, and checkpoints that are lost and fetched.
//!
//! ```text
//!   each step a byte and what it wants:
//!   a prepare of some entries ─► Executor::commit ─► store ─► requests ─► disk, in any order
//!   up to the next checkpoint │ crash: load, apply the log again │ rot │ the whole grid is lost
//! ```
//!
//! The store is used as its users do: by a state machine, behind the executor. An entry is a
//! sequence of puts, deletes, gets, scans and rejections, and its reply says what it read.
//!
//! Asserted: replies are those of the map, whatever had to be loaded for them; a rejected entry
//! writes nothing; the digest after an op is the same each time it is applied; a checkpoint that is
//! loaded is the one that was written; a full scan both ways at the end finds the map; an attempt
//! that is suspended comes to its end.
//!
//! Planted: a map from which nothing can be deleted.
//!
//! **Not here:** sessions and their evictions; a file that is full.

use super::Plant;
use super::cursor::{CLUSTER, Cursor};
use super::disk::{Completion, Disk};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use vsr::replica::CheckpointLoad;
use vsr::replica::executor::{ClientReply, CommitOutcome, Executor, Loaded, READ_MESSAGES_MAX};
use vsr::state_machine::{
    Context, Direction, InvalidRequest, Keys, RESULT_READ_TOO_LARGE, RESULT_REPLY_TOO_LARGE, Reply,
    StateMachine, Stop, Store, Table,
};
use vsr::stdx::{AlignedBuffer, Ratio};
use vsr::storage::block::StoredBlock;
use vsr::storage::{Geometry, Layout, ReadResult, Request, Token};
use vsr::store::Options;
use vsr::wire::{
    Author, BlockRef, ClientId, Entry, Header, Message, Op, Operation, Prepare, ReplicaIndex, View,
};

const CLIENT: ClientId = ClientId(5);
const TABLES: u8 = 2;
/// Keys that there may be.
const KEYS: u8 = 48;
/// Turns after which something that waits is stuck.
const TURNS_MAX: u32 = 100_000;
/// Bytes written behind in a turn.
const BUDGET: u32 = 64 << 10;
const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 4,
};

type Key = (u8, Vec<u8>);
type Model = BTreeMap<Key, Vec<u8>>;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many replies were compared.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let cache_blocks = [1, 4, 16, 256][cursor.index(4)];
    let mut world = World::new(cache_blocks, plant);
    for _ in 0..200 {
        if cursor.is_empty() || world.op() > 400 {
            break;
        }
        world.step(&mut cursor);
    }
    world.finish();
    world.compared
}

// ---- the state machine: one step after the other

/// One thing that an entry does.
#[derive(Debug, Clone)]
enum Step {
    Put(Key, Vec<u8>),
    Delete(Key),
    Get(Key),
    /// From one key to another of a table, at most so many rows.
    Scan {
        table: u8,
        start: Vec<u8>,
        end: Vec<u8>,
        direction: Direction,
        limit: usize,
    },
    Reject,
}

/// Key `number`: a few are long, many share a beginning.
fn key(number: u8) -> Vec<u8> {
    let number = number % KEYS;
    let size = match number % 8 {
        7 => 1024,
        6 => 300,
        size => usize::from(size),
    };
    let mut key = vec![b'k'; size];
    key.extend([number / 8, number]);
    key.truncate(1024);
    if size == 1024 {
        key[1023] = number;
    }
    key
}

/// Any bytes are steps.
fn steps(bytes: &[u8]) -> Vec<Step> {
    let mut cursor = Cursor::new(bytes);
    let mut steps = Vec::new();
    while !cursor.is_empty() {
        let byte = cursor.u8();
        let table = byte >> 4 & 1;
        let key = |cursor: &mut Cursor<'_>| (table, key(cursor.u8()));
        steps.push(match byte % 16 {
            0..=6 => Step::Put(key(&mut cursor), value(&mut cursor)),
            7..=9 => Step::Delete(key(&mut cursor)),
            10 | 11 => Step::Get(key(&mut cursor)),
            12..=14 => Step::Scan {
                table,
                start: key(&mut cursor).1,
                end: key(&mut cursor).1,
                direction: if byte & 32 == 0 { Direction::Forward } else { Direction::Backward },
                limit: usize::from(byte >> 5),
            },
            _ if byte >> 4 == 15 => Step::Reject,
            _ => Step::Get(key(&mut cursor)),
        });
    }
    steps
}

/// Mostly small, sometimes of many blocks.
fn value(cursor: &mut Cursor<'_>) -> Vec<u8> {
    let (size, fill) = (cursor.u8(), cursor.u8());
    let size = match size {
        0..=199 => usize::from(size),
        200..=250 => usize::from(size - 199) * 90,
        _ => usize::from(size - 250) * 9000,
    };
    let mut value = vec![fill; size];
    if let Some(last) = value.last_mut() {
        *last = fill.wrapping_add(1);
    }
    value
}

/// What is read goes to the reply as its size and checksum.
fn note(reply: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    let bytes = value.unwrap_or(b"nothing");
    reply.extend_from_slice(&crc32c::crc32c(key).to_le_bytes());
    reply.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
    reply.extend_from_slice(&u32::try_from(bytes.len()).expect("small").to_le_bytes());
}

#[derive(Debug)]
struct Machine;

impl StateMachine for Machine {
    fn validate(&self, _: &[u8]) -> Result<(), InvalidRequest> {
        Ok(())
    }

    fn keys(&self, request: &[u8], keys: &mut Keys) {
        for step in steps(request) {
            if let Step::Put((table, key), _)
            | Step::Delete((table, key))
            | Step::Get((table, key)) = step
            {
                keys.keys.push((Table(table), key));
            }
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        _: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop> {
        for step in steps(request) {
            match step {
                Step::Put((table, key), value) => store.put(Table(table), &key, &value)?,
                Step::Delete((table, key)) => store.delete(Table(table), &key)?,
                Step::Get((table, key)) => {
                    let start = store.get_start(Table(table), &key, 8)?;
                    let found = store.get(Table(table), &key)?;
                    let told = start.map(|start| (start.size as usize, start.bytes));
                    let expected = |found: &Bytes| (found.len(), found.slice(..found.len().min(8)));
                    assert_eq!(told, found.as_ref().map(expected));
                    note(&mut reply.bytes, &key, found.as_deref());
                }
                Step::Scan { table, start, end, direction, limit } => {
                    let (start, end) = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
                    let mut left = limit;
                    store.scan(Table(table), start, end, direction, |key, value| {
                        if left == 0 {
                            return ControlFlow::Break(());
                        }
                        left -= 1;
                        note(&mut reply.bytes, key, Some(value));
                        ControlFlow::Continue(())
                    })?;
                }
                Step::Reject => return Err(Stop::Reject(7)),
            }
        }
        Ok(())
    }

    /// All tables, there and back.
    fn query(&self, store: &Store, _: &[u8], reply: &mut Reply) -> Result<(), Stop> {
        for table in (0..TABLES).map(Table) {
            for direction in [Direction::Forward, Direction::Backward] {
                let all = (Bound::Unbounded, Bound::Unbounded);
                store.scan(table, all.0, all.1, direction, |key, value| {
                    note(&mut reply.bytes, key, Some(value));
                    ControlFlow::Continue(())
                })?;
            }
        }
        Ok(())
    }
}

/// The same on a map: the result and the reply.
fn apply(model: &mut Model, steps: &[Step], plant: Plant) -> (u32, Vec<u8>) {
    let before = model.clone();
    let (mut reply, mut read) = (Vec::new(), 0);
    for step in steps {
        match step {
            Step::Put(key, value) => drop(model.insert(key.clone(), value.clone())),
            Step::Delete(key) if plant == Plant::Nothing => drop(model.remove(key)),
            Step::Delete(_) => {}
            Step::Get(key) => {
                let found = model.get(key);
                read += found.map_or(0, |value| value.len() + value.len().min(8));
                note(&mut reply, &key.1, found.map(Vec::as_slice));
            }
            Step::Scan { table, start, end, direction, limit } => {
                let in_range = |key: &Key| key.0 == *table && key.1 >= *start && key.1 < *end;
                let mut rows: Vec<_> = model.iter().filter(|(key, _)| in_range(key)).collect();
                if *direction == Direction::Backward {
                    rows.reverse();
                }
                // The scan sees one more, and breaks.
                read +=
                    rows.iter().take(limit + 1).map(|it| it.0.1.len() + it.1.len()).sum::<usize>();
                for (key, value) in rows.into_iter().take(*limit) {
                    note(&mut reply, &key.1, Some(value));
                }
            }
            Step::Reject => {
                *model = before;
                return (7, Vec::new());
            }
        }
        if read as u64 > READ_MESSAGES_MAX * u64::from(GEOMETRY.message_size) {
            *model = before;
            return (RESULT_READ_TOO_LARGE, Vec::new());
        }
    }
    if reply.len() > (GEOMETRY.message_size - 128) as usize {
        *model = before;
        return (RESULT_REPLY_TOO_LARGE, Vec::new());
    }
    (0, reply)
}

// ---- the world

struct World {
    executor: Executor<Machine>,
    disk: Disk,
    cache_size: u64,
    requests: Vec<Request>,
    model: Model,
    /// The log from op 1 on, and after each op the digest and what clients were told.
    log: Vec<Message>,
    told: Vec<(u64, Vec<ClientReply>)>,
    request: u64,
    /// What the superblock names, and the checkpoint before.
    checkpoint: BlockRef,
    previous: BlockRef,
    /// Every block that was ever written, as a peer would have it.
    blocks: BTreeMap<(u32, Op), AlignedBytes>,
    choices: u64,
    plant: Plant,
    compared: u32,
}

type AlignedBytes = Vec<u8>;

impl World {
    fn new(cache_blocks: u64, plant: Plant) -> Self {
        let mut world = Self {
            executor: Executor::open(Machine, &options(0, 4096 * cache_blocks)),
            disk: Disk::default(),
            cache_size: 4096 * cache_blocks,
            requests: Vec::new(),
            model: Model::new(),
            log: Vec::new(),
            told: Vec::new(),
            request: 0,
            checkpoint: BlockRef::NONE,
            previous: BlockRef::NONE,
            blocks: BTreeMap::new(),
            choices: 1,
            plant,
            compared: 0,
        };
        let size = usize::try_from(grid_offset()).expect("a small file");
        world.disk.bytes.resize(size, 0);
        world.executor = Executor::open(Machine, &options(grid_offset(), world.cache_size));
        let register = Entry {
            client: CLIENT,
            session: 0,
            request: 0,
            size: 0,
            checksum: 0,
            operation: Operation::Register,
        };
        world.prepare(1, &register.encode());
        world
    }

    fn op(&self) -> Op {
        self.log.len() as Op
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) {
        let byte = cursor.u8();
        self.choices = self.choices.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        match byte % 16 {
            0..=7 => self.entries(cursor, byte >> 4),
            8 | 9 => self.pass_checkpoint(),
            10 => (0..=byte >> 4).for_each(|_| self.turn()),
            11 => self.settle(),
            12 | 13 => self.crash(cursor, false),
            14 => self.rot(cursor),
            _ => self.crash(cursor, true),
        }
    }

    /// Executes a prepare of some entries, against the model.
    fn entries(&mut self, cursor: &mut Cursor<'_>, choice: u8) {
        let (mut body, count) = (Vec::new(), 1 + u32::from(choice % 4));
        let mut expected = Vec::new();
        for _ in 0..count {
            let size = usize::from(cursor.u8() % 64);
            let bytes = cursor.bytes(size);
            self.request += 1;
            let entry = Entry {
                client: CLIENT,
                session: 1,
                request: self.request,
                size: u32::try_from(bytes.len()).expect("below 64"),
                checksum: crc32c::crc32c(bytes),
                operation: Operation::Apply,
            };
            body.extend_from_slice(&entry.encode());
            body.extend_from_slice(bytes);
            expected.push(apply(&mut self.model, &steps(bytes), self.plant));
        }
        self.prepare(count, &body);
        let (_, told) = self.told.last().expect("just told");
        assert_eq!(told.len(), expected.len());
        for (told, (result, reply)) in told.iter().zip(&expected) {
            let ClientReply::Reply(told) = told else { panic!("no session ends") };
            assert_eq!((told.result, &told.body[..]), (*result, &reply[..]), "op {}", self.op());
            self.compared += 1;
        }
    }

    /// Appends a prepare to the log and executes it.
    fn prepare(&mut self, entry_count: u32, body: &[u8]) {
        let op = self.op() + 1;
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
        let parent = self.log.last().map_or(Header::root(CLUSTER), Message::prepare_header);
        let command = Prepare {
            parent: parent.id().as_parent(),
            op,
            commit: op - 1,
            timestamp: op * 1000,
            entry_count,
            ..Prepare::default()
        };
        self.log.push(Message::new(&author, command, body));
        self.execute(op);
    }

    /// Executes an op; not for the first time, it must end as then.
    fn execute(&mut self, op: Op) {
        if op == self.executor.store().op_freeze() {
            for turn in 0.. {
                assert!(turn < TURNS_MAX, "the checkpoint before op {op} does not come about");
                if self.executor.store().can_freeze() {
                    break;
                }
                self.turn();
            }
        }
        let index = usize::try_from(op - 1).expect("a small log");
        let prepare = self.log[index].clone();
        let mut replies = Vec::new();
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "op {op} is suspended for ever");
            if self.executor.commit(&prepare, &mut replies) == CommitOutcome::Done {
                break;
            }
            for wait in 0.. {
                assert!(wait < TURNS_MAX, "op {op} waits for ever");
                self.turn();
                if self.executor.store().is_ready() {
                    break;
                }
            }
        }
        let outcome = (self.executor.digest(), replies);
        match self.told.get(index) {
            Some(before) => assert_eq!(*before, outcome, "op {op}, applied again"),
            None => self.told.push(outcome),
        }
    }

    /// Noops up to the next checkpoint and one beyond.
    fn pass_checkpoint(&mut self) {
        let noop = Entry {
            client: ClientId(0),
            session: 0,
            request: 0,
            size: 0,
            checksum: 0,
            operation: Operation::Noop,
        };
        let op = self.executor.store().op_freeze();
        while self.op() <= op {
            self.prepare(1, &noop.encode());
        }
    }

    /// One turn: the store asks, the disk does something, peers send what is bad.
    fn turn(&mut self) {
        let store = self.executor.store_mut();
        store.take_reads(&mut self.requests);
        store.write_behind(BUDGET, false, &mut self.requests);
        for request in &self.requests {
            if let Request::Write { token: Token::WriteBlock { .. }, sectors, .. } = request {
                keep(&mut self.blocks, sectors);
            }
        }
        self.disk.submit(&mut self.requests);
        for _ in 0..1 + self.disk.pending.len() / 2 {
            if self.disk.pending.is_empty() {
                break;
            }
            self.choices = self.choices.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            let choice = usize::try_from(self.choices >> 40).expect("24 bits");
            let index = choice % self.disk.pending.len();
            match self.disk.complete(index) {
                Completion::Write(token) => self.executor.store_mut().on_write_done(token),
                Completion::Read(token, result) => {
                    self.executor.store_mut().on_read_done(token, result);
                }
            }
        }
        self.fetch();
        self.name_checkpoint();
    }

    /// Bad blocks come from a peer.
    fn fetch(&mut self) {
        let missing: Vec<BlockRef> = self.executor.store().missing().collect();
        for reference in missing {
            let bytes = self.blocks.get(&(reference.index, reference.op));
            let bytes = bytes.expect("what is missing was written once");
            let buffer = AlignedBuffer::copy_of(bytes);
            let result = ReadResult { buffer, unreadable: Vec::new() };
            let block = StoredBlock::decode_read(CLUSTER, &reference, result);
            self.executor.store_mut().on_block(&block.expect("as it was written"));
        }
    }

    /// A checkpoint that is written is named by the superblock at once.
    fn name_checkpoint(&mut self) {
        let Some(written) = self.executor.store_mut().take_written_checkpoint() else { return };
        assert_eq!(written.op, self.checkpoint.op + GEOMETRY.checkpoint_interval());
        (self.previous, self.checkpoint) = (self.checkpoint, written);
        self.executor.store_mut().on_checkpoint_durable();
    }

    fn settle(&mut self) {
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "the store never rests");
            self.turn();
            if self.disk.pending.is_empty() && self.executor.store().can_freeze() {
                break;
            }
        }
    }

    /// The process ends and begins anew, perhaps without anything that is in the grid.
    fn crash(&mut self, cursor: &mut Cursor<'_>, is_grid_lost: bool) {
        let mut prng = cursor.prng();
        let survives = Ratio::new(u32::try_from(prng.below(4)).expect("below 4"), 3);
        self.disk.crash(|| prng.chance(survives));
        if is_grid_lost {
            let grid = usize::try_from(grid_offset()).expect("a small file");
            self.disk.bytes[grid..].fill(0xDA);
        }
        self.executor =
            Executor::open(Machine, &options(self.disk.bytes.len() as u64, self.cache_size));
        if !self.checkpoint.is_none() {
            let op_complete = if is_grid_lost { 0 } else { self.checkpoint.op };
            self.executor.load(&CheckpointLoad { checkpoint: self.checkpoint, op_complete });
            let loaded = self.loaded();
            assert_eq!(loaded.checkpoint, self.checkpoint);
            assert_eq!(loaded.previous, self.previous);
            let index = usize::try_from(self.checkpoint.op - 1).expect("a small log");
            assert_eq!(loaded.header, self.log[index].prepare_header());
            assert_eq!(self.executor.digest(), self.told[index].0, "the state of the checkpoint");
        }
        for op in self.executor.op() + 1..=self.op() {
            self.execute(op);
        }
    }

    fn loaded(&mut self) -> Loaded {
        for _ in 0..TURNS_MAX {
            self.turn();
            if let Some(loaded) = self.executor.take_loaded() {
                return loaded;
            }
        }
        panic!("the checkpoint is never loaded")
    }

    /// A block of the newest checkpoint or one before rots: those that peers have.
    fn rot(&mut self, cursor: &mut Cursor<'_>) {
        let grid = usize::try_from(grid_offset()).expect("a small file");
        let blocks = (self.disk.bytes.len() - grid) / GEOMETRY.block_size as usize;
        if blocks == 0 {
            return;
        }
        let block = usize::from(cursor.u16()) % blocks;
        let at = grid + block * GEOMETRY.block_size as usize + usize::from(cursor.u8());
        self.disk.bytes[at] ^= 0x11;
    }

    /// Everything that is there is what the map holds.
    fn finish(&mut self) {
        let mut expected = Vec::new();
        for table in 0..TABLES {
            let rows: Vec<_> = self.model.iter().filter(|(key, _)| key.0 == table).collect();
            rows.iter().for_each(|(key, value)| note(&mut expected, &key.1, Some(value)));
            rows.iter().rev().for_each(|(key, value)| note(&mut expected, &key.1, Some(value)));
        }
        for turn in 0.. {
            assert!(turn < TURNS_MAX, "a scan of everything never ends");
            let mut reply = Reply::new(1 << 20);
            if self.executor.peek(&[], &mut reply) {
                assert_eq!(reply.bytes, expected, "everything that is there");
                self.compared += 1;
                return;
            }
            self.turn();
        }
    }
}

fn grid_offset() -> u64 {
    Layout::new(GEOMETRY).grid_offset()
}

fn options(file_size: u64, cache_size: u64) -> Options {
    let (cluster, geometry, size_limit) = (CLUSTER, GEOMETRY, 1 << 30);
    Options { cluster, geometry, cache_size, file_size: file_size.max(grid_offset()), size_limit }
}

/// Remembers the blocks of a write.
fn keep(blocks: &mut BTreeMap<(u32, Op), AlignedBytes>, sectors: &[u8]) {
    for block in sectors.chunks(GEOMETRY.block_size as usize) {
        let head = block.first_chunk().expect("a block is longer than its header");
        let header = Header::decode(head).expect("what is written is a block");
        let vsr::wire::Command::Block(command) = header.command else { panic!("not a block") };
        blocks.insert((command.index, command.checkpoint_op), block.to_vec());
    }
}

/// Histories with checkpoints, crashes, bad blocks and lost grids, with little and much memory.
pub fn seeds() -> Vec<Vec<u8>> {
    let batch = |first: u8| {
        let mut batch = vec![32, 30];
        (0..10)
            .for_each(|index| batch.extend([index % 3 * 16, first + index * 3, 180 + index * 8]));
        batch.extend([12, 18, 7, first, 10, first + 3, 0x6c, 0, 47, 11, first + 6]);
        batch.extend([6, 0x2c, 1, 40, 10, 5, 15, 0, 8, 0xff, 1, 2, 3, 4, 5, 6, 7]);
        batch
    };
    let with = |cache: u8, tail: &[u8]| {
        let mut seed = vec![cache];
        for round in 0..3 {
            seed.extend(batch(round * 5));
            seed.extend_from_slice(tail);
        }
        seed
    };
    vec![
        with(0, &[11]),
        with(3, &[8, 11]),
        with(0, &[8, 12, 1, 0]),
        with(1, &[8, 11, 14, 3, 0, 9, 12, 2, 0]),
        with(2, &[8, 11, 15, 1, 0]),
        with(0, &[8, 0x5a, 12, 3, 0, 14, 1, 0, 7]),
        with(1, &[9, 0xaa, 13, 7, 1, 8, 11]),
    ]
}
