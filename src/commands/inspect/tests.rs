//! Inspections of a real data file, sound and damaged: one that was formatted, and written by a
//! replica that is alone, without a process, so that every byte of it is the same each time.

use super::*;
use crate::commands::json::Object;
use std::collections::VecDeque;
use vsr::replica::executor::{CommitOutcome, Executor};
use vsr::replica::{Effects, Now, Replica};
use vsr::state_machine::kv::{self, Kv};
use vsr::state_machine::{Context, InvalidRequest, Reply, StateMachine, Stop, Store};
use vsr::stdx::Prng;
use vsr::storage::{Format, Geometry, Layout, Opening, Token};
use vsr::store::Options;
use vsr::wire::{
    Author, ClientId, ClusterId, Message, Op, Operation, ReplicaIndex, Request as ClientRequest,
    View,
};

pub(super) const CLUSTER: ClusterId = ClusterId(7);

pub(super) const GEOMETRY: Geometry = Geometry {
    message_size: 8192,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 8,
};

impl Disk for Vec<u8> {
    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&mut self, offset: u64, size: u32) -> ReadResult {
        let mut buffer = AlignedBuffer::zeroed(size);
        let mut unreadable = Vec::new();
        for (start, sector) in (0..).step_by(4096).zip(buffer.as_mut().chunks_exact_mut(4096)) {
            let at = usize::try_from(offset).unwrap() + start as usize;
            match self.get(at..at + 4096) {
                Some(bytes) => sector.copy_from_slice(bytes),
                None => unreadable.push(start..start + 4096),
            }
        }
        ReadResult { buffer, unreadable }
    }

    fn progress(&mut self, _: &'static str, done: u64, all: u64) {
        assert!(done <= all.max(1) * 10, "{done} of {all}");
    }
}

/// A replica that is alone, and its file.
pub(super) struct World {
    pub(super) disk: Vec<u8>,
    pending: VecDeque<Request>,
    replica: Replica,
    executor: Executor<Faulty>,
    tick: u64,
}

/// The store of keys and values, on a machine that gets one request wrong.
#[derive(Default)]
pub(super) struct Faulty {
    kv: Kv,
    /// The op, and what is carried out in place of its request.
    fault: Option<(Op, Vec<u8>)>,
}

impl StateMachine for Faulty {
    fn validate(&self, request: &[u8]) -> std::result::Result<(), InvalidRequest> {
        self.kv.validate(request)
    }

    fn apply(
        &self,
        store: &mut Store,
        context: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> std::result::Result<(), Stop> {
        let fault = self.fault.as_ref().filter(|(op, _)| *op == context.op);
        let carried_out = fault.map_or(request, |(_, wrong)| wrong);
        self.kv.apply(store, context, carried_out, reply)
    }

    fn query(
        &self,
        store: &Store,
        request: &[u8],
        reply: &mut Reply,
    ) -> std::result::Result<(), Stop> {
        self.kv.query(store, request, reply)
    }
}

impl World {
    pub(super) fn new(machine: Faulty) -> Self {
        let mut disk = formatted();
        let mut requests = Vec::new();
        let mut opening = Opening::new(disk.len() as u64, &mut requests);
        let opened = loop {
            for request in std::mem::take(&mut requests) {
                let Request::Read { token, offset, size } = request else {
                    panic!("a fresh file is not repaired")
                };
                let result = disk.read(offset, size);
                opening.on_read_done(token, result, &mut requests).unwrap();
            }
            if let Some(opened) = opening.finish() {
                break opened;
            }
        };
        let options = Options {
            cluster: CLUSTER,
            geometry: GEOMETRY,
            cache_size: 1 << 20,
            file_size: disk.len() as u64,
            size_limit: 1 << 40,
        };
        let executor = Executor::open(machine, &options);
        let mut effects = Effects::default();
        let now = Now { monotonic: 1, realtime: 1_700_000_000_000_000_000 };
        let replica = Replica::open(opened, now, Prng::from_seed(1), &mut effects);
        let mut world = Self { disk, pending: VecDeque::new(), replica, executor, tick: 0 };
        world.drain(&mut effects);
        world.settle();
        world
    }

    fn act(&mut self, act: impl FnOnce(&mut Replica, &mut Effects)) {
        let mut effects = Effects::default();
        self.tick += 1;
        let ns = self.tick * 10_000_000;
        let realtime = 1_700_000_000_000_000_000 + ns;
        self.replica.set_now(Now { monotonic: ns, realtime });
        act(&mut self.replica, &mut effects);
        self.drain(&mut effects);
    }

    fn drain(&mut self, effects: &mut Effects) {
        while !effects.is_empty() {
            assert!(effects.fatal.is_none() && effects.load.is_none());
            effects.sends.clear();
            effects.client_sends.clear();
            self.pending.extend(effects.requests.drain(..));
            if effects.checkpoint_durable.take().is_some() {
                self.executor.store_mut().on_checkpoint_durable();
            }
            if let Some(prepare) = effects.commit.take() {
                while self.executor.commit(&prepare, &mut Vec::new()) == CommitOutcome::Suspended {
                    self.write_behind();
                    while self.complete() {}
                }
                self.replica.on_commit_done(prepare.prepare_header().op(), effects);
            }
        }
    }

    fn write_behind(&mut self) {
        let mut requests = Vec::new();
        let store = self.executor.store_mut();
        store.take_reads(&mut requests);
        store.write_behind(1 << 20, false, &mut requests);
        self.pending.extend(requests);
    }

    fn complete(&mut self) -> bool {
        let Some(request) = self.pending.pop_front() else { return false };
        match request {
            Request::Read { token, offset, size } => {
                let result = self.disk.read(offset, size);
                if matches!(token, Token::ReadBlock { .. }) {
                    self.executor.store_mut().on_read_done(token, result);
                } else {
                    self.act(|replica, effects| replica.on_read_done(token, result, effects));
                }
            }
            Request::Write { token, offset, sectors } => {
                let start = usize::try_from(offset).unwrap();
                self.disk.resize(self.disk.len().max(start + sectors.len()), 0);
                self.disk[start..start + sectors.len()].copy_from_slice(&sectors);
                if matches!(token, Token::WriteBlock { .. } | Token::GrowGrid) {
                    self.executor.store_mut().on_write_done(token);
                } else {
                    self.act(|replica, effects| replica.on_write_done(token, effects));
                }
            }
        }
        true
    }

    /// Until nothing is to be done any more.
    fn settle(&mut self) {
        for _ in 0..20 {
            while self.complete() {}
            self.act(|replica, effects| replica.on_turn_end(effects));
            self.write_behind();
            if let Some(checkpoint) = self.executor.store_mut().take_written_checkpoint() {
                self.act(|replica, effects| replica.on_checkpoint_written(checkpoint, effects));
            }
            self.act(Replica::on_tick);
        }
        assert!(self.pending.is_empty());
    }

    fn request(&mut self, operation: Operation, session: u64, request: u64, body: &[u8]) {
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let client = ClientId(0xc1);
        let command = ClientRequest { client, session, request, operation: operation as u8 };
        let message = Message::new(&author, command, body);
        self.replica.gather(&message).unwrap();
        self.settle();
    }

    /// A file with `writes` of one client after the genesis and its register, ops 1 and 2.
    pub(super) fn file(writes: u64) -> Vec<u8> {
        Self::new(Faulty::default()).with(writes)
    }

    /// The same, if the replica carries out `wrong` in place of the request of op `op`.
    pub(super) fn file_of_faulty(writes: u64, op: Op, wrong: &kv::Request<'_>) -> Vec<u8> {
        let fault = Some((op, wrong.encode()));
        Self::new(Faulty { fault, ..Faulty::default() }).with(writes)
    }

    fn with(mut self, writes: u64) -> Vec<u8> {
        let world = &mut self;
        world.request(Operation::Register, 0, 0, &[]);
        for number in 1..=writes {
            let key = format!("key-{:03}", number % 40);
            let size = if number % 10 == 0 { 6000 } else { 20 };
            let value = vec![b'a' + u8::try_from(number % 26).unwrap(); size];
            let body = kv::Request::put(key.as_bytes(), &value).encode();
            world.request(Operation::Apply, 2, number, &body);
        }
        self.disk
    }
}

fn formatted() -> Vec<u8> {
    format(&SuperblockState::formatted(CLUSTER, ReplicaIndex(0), 1, 0xabcd, GEOMETRY))
}

/// A fresh file.
pub(super) fn format(state: &SuperblockState) -> Vec<u8> {
    let mut disk = vec![0; usize::try_from(Layout::new(state.geometry).grid_offset()).unwrap()];
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        for request in requests.drain(..) {
            let Request::Write { token, offset, sectors } = request else { panic!("a read") };
            let start = usize::try_from(offset).unwrap();
            disk[start..start + sectors.len()].copy_from_slice(&sectors);
            format.on_write_done(token);
        }
    }
    disk
}

struct Inspected {
    exit: std::result::Result<Exit, Fatal>,
    text: String,
    json: String,
    notes: u64,
}

fn look(disk: &mut Vec<u8>, part: Part) -> Inspected {
    let mut report = Report::default();
    let exit = inspect(disk, part, &mut report);
    let (text, json) = (report.text(), report.json(Object::default()));
    Inspected { exit, text, json, notes: report.notes_count() }
}

const PARTS: [Part; 5] = [
    Part::Superblock,
    Part::Journal { all: true },
    Part::Checkpoint,
    Part::Op(90),
    Part::Integrity,
];

/// Compares with what stands in the golden file, or writes it if `UPDATE` is set.
pub(super) fn golden(name: &str, text: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/commands/inspect/testdata");
    let path = folder.join(name);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(text, expected, "{name}: run with UPDATE=1 to write it anew, and look at it");
}

#[test]
fn a_sound_file_as_text_and_as_json() {
    let mut disk = World::file(100);
    let mut text = String::new();
    let parts = [
        ("superblock", Part::Superblock),
        ("journal", Part::Journal { all: false }),
        ("checkpoint", Part::Checkpoint),
        ("op 90", Part::Op(90)),
        ("op 12", Part::Op(12)),
        ("op 999", Part::Op(999)),
        ("integrity", Part::Integrity),
    ];
    let mut json = String::new();
    for (name, part) in parts {
        let inspected = look(&mut disk, part);
        let is_held = !matches!(part, Part::Op(12 | 999));
        assert_eq!(inspected.exit, Ok(if is_held { Exit::Done } else { Exit::Not }), "{name}");
        text.push_str(&format!("$ vsr inspect {name}\n{}\n", inspected.text));
        json.push_str(&format!("{}\n", inspected.json));
    }
    golden("sound.txt", &text);
    golden("sound.json", &json);
}

#[test]
fn a_fresh_file_is_sound() {
    let mut disk = formatted();
    for part in PARTS {
        let inspected = look(&mut disk, part);
        let expected = if part == Part::Op(90) { Exit::Not } else { Exit::Done };
        assert_eq!(inspected.exit, Ok(expected), "{part:?}\n{}", inspected.text);
        assert_eq!(inspected.notes, 0);
    }
}

#[test]
fn every_number_of_writes_leaves_a_sound_file() {
    for writes in [0, 1, 28, 29, 30, 31, 61, 62, 63, 64, 95, 126, 127, 160, 200] {
        let mut disk = World::file(writes);
        let inspected = look(&mut disk, Part::Integrity);
        assert_eq!(inspected.exit, Ok(Exit::Done), "{writes}: {}", inspected.text);
        assert_eq!(inspected.notes, 0, "{writes}: {}", inspected.text);
    }
}

#[test]
fn a_damaged_file_as_text() {
    let layout = Layout::new(GEOMETRY);
    let sound = World::file(100);
    let at = |offset: u64| usize::try_from(offset).unwrap();
    let state = superblock::read(&mut sound.clone()).selected().unwrap().clone();
    let root = at(layout.grid_offset()) + state.checkpoint.index as usize * 4096;
    let mut text = String::new();
    let cases = [
        ("a copy of the superblock", vec![20_000], Part::Superblock),
        ("two copies", vec![100, 20_000], Part::Superblock),
        ("the prepare of op 100", vec![at(layout.prepare_offset(100 % 64)) + 200], Part::Op(100)),
        ("the same", vec![at(layout.prepare_offset(100 % 64)) + 200], Part::Journal { all: false }),
        (
            "a prepare below the checkpoint",
            vec![at(layout.prepare_offset(80 % 64)) + 200],
            Part::Integrity,
        ),
        ("an entry", vec![at(layout.headers_offset(0)) + 128 * 20], Part::Integrity),
        ("the root of the checkpoint", vec![root + 300], Part::Checkpoint),
        ("another block", vec![root + 300 - 4096], Part::Integrity),
    ];
    for (name, bytes, part) in cases {
        let mut disk = sound.clone();
        bytes.iter().for_each(|byte| disk[*byte] ^= 1);
        let inspected = look(&mut disk, part);
        assert_eq!(inspected.exit, Ok(Exit::Damaged), "{name}\n{}", inspected.text);
        let found = inspected.text.lines().filter(|line| {
            ["note: ", "damage: ", "    0  ", "    1  "].iter().any(|start| line.starts_with(start))
        });
        text.push_str(&format!("# {name}\n{}\n\n", found.collect::<Vec<_>>().join("\n")));
    }
    golden("damaged.txt", &text);
}

#[test]
fn no_live_byte_is_hit_unseen() {
    let mut disk = World::file(100);
    let layout = Layout::new(GEOMETRY);
    let state = superblock::read(&mut disk).selected().unwrap().clone();
    let mut survey = checkpoint::survey(&state, disk.size()).unwrap();
    while let Some(request) = survey.next_read() {
        survey.on_read_done(answer(&mut disk, &request));
    }
    let blocks: Vec<u64> = (0..1000)
        .filter(|index| survey.has_reached(*index))
        .map(|index| survey.offset_of(index))
        .collect();
    assert!(blocks.len() > 5);
    for seed in 0..300 {
        let mut prng = Prng::from_seed(seed);
        let offset = match prng.index(4) {
            0 => prng.below(65536),
            1 => layout.headers_offset(0) + prng.below(64 * 128),
            2 => {
                let op = prng.range_inclusive(state.op_checkpoint() + 1, 102);
                layout.prepare_offset(GEOMETRY.slot(op)) + prng.below(128 + 64 + 20)
            }
            _ => blocks[prng.index(blocks.len())] + prng.below(4096),
        };
        let at = usize::try_from(offset).unwrap();
        let bit = 1 << prng.index(8);
        disk[at] ^= bit;
        let inspected = look(&mut disk, Part::Integrity);
        disk[at] ^= bit;
        assert_eq!(inspected.exit, Ok(Exit::Damaged), "{seed} {offset}\n{}", inspected.text);
    }
    assert_eq!(look(&mut disk, Part::Integrity).exit, Ok(Exit::Done));
}

#[test]
fn any_bytes_end_with_a_report() {
    let sound = World::file(70);
    for seed in 0..200 {
        let mut prng = Prng::from_seed(seed);
        let mut disk = sound.clone();
        let from = if seed % 3 == 0 { 0 } else { 65536 };
        let start = from + prng.index(disk.len() - from);
        let end = start + prng.index(disk.len() - start).min(300_000) + 1;
        prng.fill(&mut disk[start..end]);
        match seed % 5 {
            0 => disk.truncate(prng.index(disk.len())),
            1 => disk.truncate(prng.index(70_000)),
            _ => {}
        }
        for part in PARTS {
            let inspected = look(&mut disk, part);
            assert!(inspected.json.starts_with('{') && inspected.json.ends_with('}'));
        }
    }
    for size in [65_536, 70_000, 300_000] {
        let mut disk = sound[..size].to_vec();
        for part in PARTS {
            let inspected = look(&mut disk, part);
            assert_eq!(inspected.exit, Ok(Exit::Damaged), "{size} {part:?}");
            assert!(inspected.text.contains("damage: the end, byte "), "{}", inspected.text);
        }
    }
    for size in [0, 1, 4095, 4096, 16_384, 65_536, 65_537] {
        let mut disk = sound[..size].to_vec();
        for part in PARTS {
            let inspected = look(&mut disk, part);
            assert!(inspected.exit != Ok(Exit::Done), "{size} {part:?}");
        }
        let mut noise = vec![0; size];
        Prng::from_seed(1).fill(&mut noise);
        let inspected = look(&mut noise, Part::Superblock);
        assert_eq!(inspected.exit.unwrap_err().kind, FatalKind::NotADataFile);
        assert_eq!(inspected.text.matches("damage: ").count(), 4);
    }
}
