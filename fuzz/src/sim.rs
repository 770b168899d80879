//! Fuzz target `sim`: the input is a schedule: what several bare replicas, their disks and the
//! network between them do next.
//!
//! ```text
//!   byte 0: how many replicas │ byte 1: born already, or blank files
//!   then steps: kind % 16, which replica or message in the other half of the byte
//!   deliver, drop, repeat, replay │ disk │ turn, tick │ crash, start │ request │ cut │ rounds
//!   at the end: everything heals, and the cluster must agree
//! ```
//!
//! Asserted: no two replicas execute different prepares at one op, each executes in order; no
//! message speaks of a view that is not durable; what is acknowledged is on the disk, header and
//! prepare; when all is healed, all agree, nothing that a primary executed is lost, and a new
//! request commits.
//!
//! Planted: the disks report the writes of prepares as done and forget them.
//!
//! **Not here:** rot, lost files, checkpoints (a schedule is shorter than a log), clients, sockets:
//! `vsr sim`.

use super::Plant;
use super::cursor::{CLUSTER, Cursor};
use super::disk::{Completion, Disk};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use vsr::constants::TICK_NS;
use vsr::replica::{Effects, Now, Replica, Route, Status};
use vsr::stdx::{Prng, Ratio};
use vsr::storage::{Geometry, Layout, Request, SuperblockState, Token};
use vsr::wire::{
    Author, ClientId, Command, Header, Message, Op, Operation, PrepareId, ReplicaIndex,
};

pub(super) const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 8,
};
/// Messages under way at most; the oldest is lost.
const MAIL_MAX: usize = 256;
/// Messages that may come again later.
const REMEMBERED_MAX: usize = 64;
/// Requests come up to this op, so that the log never needs a checkpoint.
const OP_MAX: Op = 40;
/// Rounds in which a healed cluster must agree.
const ROUNDS_MAX: u32 = 3000;

thread_local! {
    /// By replica count: the files of a cluster that was born.
    static BORN: RefCell<BTreeMap<u8, Vec<Disk>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many executions were compared.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let replica_count = [3, 3, 3, 5, 4, 2, 1, 3][cursor.index(8)];
    let disks = if cursor.bool() { born(replica_count) } else { blank(replica_count) };
    let mut world = World::new(disks, plant);
    for _ in 0..600 {
        if cursor.is_empty() {
            break;
        }
        world.step(&mut cursor);
    }
    world.heal();
    world.compared
}

fn blank(replica_count: u8) -> Vec<Disk> {
    let file = |index: u8| {
        let (replica, incarnation) = (ReplicaIndex(index), u64::from(index) + 10);
        let state =
            SuperblockState::formatted(CLUSTER, replica, replica_count, incarnation, GEOMETRY);
        Disk::formatted(&state)
    };
    (0..replica_count).map(file).collect()
}

/// The files of a cluster that was born and then lost power.
pub(super) fn born(replica_count: u8) -> Vec<Disk> {
    if let Some(disks) = BORN.with_borrow(|born| born.get(&replica_count).cloned()) {
        return disks;
    }
    let mut world = World::new(blank(replica_count), Plant::Nothing);
    for _ in 0..ROUNDS_MAX {
        world.round();
        if world.nodes.iter().all(|node| node.replica.as_ref().is_some_and(Replica::is_born)) {
            break;
        }
    }
    let disks: Vec<Disk> = world
        .nodes
        .into_iter()
        .map(|node| Disk { bytes: node.disk.bytes, pending: Vec::new() })
        .collect();
    BORN.with_borrow_mut(|born| born.insert(replica_count, disks.clone()));
    disks
}

pub(super) struct Node {
    pub(super) disk: Disk,
    pub(super) replica: Option<Replica>,
    executed: Op,
    ticks: u64,
    starts: u64,
}

#[derive(Clone)]
struct Mail {
    from: u8,
    to: u8,
    message: Message,
}

/// Replicas, their disks, and the mail between them.
pub(super) struct World {
    pub(super) nodes: Vec<Node>,
    mail: Vec<Mail>,
    remembered: Vec<Mail>,
    /// Links that lose everything: (from, to).
    cut: BTreeSet<(u8, u8)>,
    /// What was executed at each op, by whomever first.
    canonical: BTreeMap<Op, PrepareId>,
    /// The highest op that a primary executed: its clients may know.
    acknowledged: Op,
    clients: u128,
    plant: Plant,
    pub(super) compared: u32,
}

impl World {
    pub(super) fn new(disks: Vec<Disk>, plant: Plant) -> Self {
        let node = |disk: Disk| Node { disk, replica: None, executed: 0, ticks: 0, starts: 0 };
        let mut world = Self {
            nodes: disks.into_iter().map(node).collect(),
            mail: Vec::new(),
            remembered: Vec::new(),
            cut: BTreeSet::new(),
            canonical: BTreeMap::new(),
            acknowledged: 0,
            clients: 0,
            plant,
            compared: 0,
        };
        (0..world.count()).for_each(|index| world.start(index));
        world
    }

    pub(super) fn count(&self) -> u8 {
        u8::try_from(self.nodes.len()).expect("at most six")
    }

    fn node(&mut self, index: u8) -> &mut Node {
        &mut self.nodes[usize::from(index)]
    }

    pub(super) fn step(&mut self, cursor: &mut Cursor<'_>) {
        let byte = cursor.u8();
        let choice = usize::from(byte >> 4);
        let index = byte >> 4;
        let index = index % self.count();
        match byte % 16 {
            0 | 1 => self.deliver(usize::from(cursor.u8())),
            2 => self.deliver_all(index),
            3 => {
                if let Some(at) = choice.checked_rem(self.mail.len()) {
                    self.mail.remove(at);
                }
            }
            4 => {
                if let Some(at) = choice.checked_rem(self.mail.len()) {
                    let mail = self.mail[at].clone();
                    self.post(mail);
                }
            }
            5 => {
                let at = usize::from(cursor.u8());
                if let Some(at) = at.checked_rem(self.remembered.len()) {
                    let mail = self.remembered[at].clone();
                    self.post(mail);
                }
            }
            6 => self.complete(index, usize::from(cursor.u8())),
            7 => self.complete_all(index),
            8 => self.tick(index),
            9 => {
                let ticks = cursor.u8() % 64;
                (0..ticks).for_each(|_| self.tick(index));
            }
            10 => {
                let mut prng = cursor.prng();
                self.crash(index, &mut prng);
            }
            11 => self.start(index),
            12 => self.request(),
            13 => self.cut(cursor, index),
            _ => (0..=choice).for_each(|_| self.round()),
        }
    }

    // ---- the network

    fn post(&mut self, mail: Mail) {
        if self.mail.len() == MAIL_MAX {
            self.mail.remove(0);
        }
        self.mail.push(mail);
    }

    fn deliver(&mut self, choice: usize) {
        if let Some(at) = choice.checked_rem(self.mail.len()) {
            let mail = self.mail.remove(at);
            self.arrive(&mail);
        }
    }

    fn deliver_all(&mut self, to: u8) {
        for mail in self.mail.extract_if(.., |mail| mail.to == to).collect::<Vec<_>>() {
            self.arrive(&mail);
        }
        self.act(to, Replica::on_turn_end);
    }

    fn arrive(&mut self, mail: &Mail) {
        if self.cut.contains(&(mail.from, mail.to)) {
            return;
        }
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push(mail.clone());
        } else {
            let at = self.compared as usize % REMEMBERED_MAX;
            self.remembered[at] = mail.clone();
        }
        // What a receiver would refuse proves nothing.
        let message = Message::decode(mail.message.bytes()).expect("what is sent is valid");
        self.act(mail.to, |replica, effects| replica.on_message(&message, effects));
    }

    fn cut(&mut self, cursor: &mut Cursor<'_>, index: u8) {
        let mode = cursor.u8();
        if mode.is_multiple_of(4) {
            self.cut.clear();
        }
        for other in (0..self.count()).filter(|other| *other != index) {
            if mode & 1 != 0 {
                self.cut.insert((index, other));
            }
            if mode & 2 != 0 {
                self.cut.insert((other, index));
            }
        }
    }

    // ---- processes

    fn now(&self, index: u8) -> Now {
        let monotonic = self.nodes[usize::from(index)].ticks * TICK_NS;
        Now { monotonic, realtime: (1 << 60) + monotonic }
    }

    pub(super) fn start(&mut self, index: u8) {
        let now = self.now(index);
        let node = self.node(index);
        if node.replica.is_some() {
            return;
        }
        node.starts += 1;
        node.executed = 0;
        let prng = Prng::from_seed(u64::from(index) * 1000 + node.starts);
        let opened = node.disk.open().expect("a crash leaves a file that opens");
        let mut effects = Effects::default();
        node.replica = Some(Replica::open(opened, now, prng, &mut effects));
        self.drain(index, &mut effects);
    }

    fn crash(&mut self, index: u8, prng: &mut Prng) {
        let survives = Ratio::new(u32::try_from(prng.below(4)).expect("below 4"), 3);
        let node = self.node(index);
        node.replica = None;
        node.disk.crash(|| prng.chance(survives));
    }

    fn tick(&mut self, index: u8) {
        self.node(index).ticks += 1;
        self.act(index, Replica::on_tick);
        self.act(index, Replica::on_turn_end);
    }

    /// Lets one replica handle something, and carries out its effects.
    pub(super) fn act(&mut self, index: u8, act: impl FnOnce(&mut Replica, &mut Effects)) {
        let now = self.now(index);
        let Some(replica) = &mut self.node(index).replica else { return };
        let mut effects = Effects::default();
        replica.set_now(now);
        act(replica, &mut effects);
        self.drain(index, &mut effects);
    }

    fn drain(&mut self, index: u8, effects: &mut Effects) {
        while !effects.is_empty() {
            if let Some(fatal) = effects.fatal.take() {
                panic!("replica {index}: {fatal}");
            }
            self.node(index).disk.submit(&mut effects.requests);
            for (to, message) in std::mem::take(&mut effects.sends) {
                self.check_durable(index, &message);
                self.post(Mail { from: index, to: to.0, message });
            }
            effects.client_sends.clear();
            assert!(effects.load.is_none(), "there is no checkpoint");
            effects.checkpoint_durable = None;
            if let Some(prepare) = effects.commit.take() {
                self.execute(index, &prepare, effects);
            }
        }
    }

    fn execute(&mut self, index: u8, prepare: &Message, effects: &mut Effects) {
        let id = prepare.prepare_header().id();
        let canonical = *self.canonical.entry(id.op).or_insert(id);
        assert_eq!(canonical, id, "replica {index} executes another prepare at op {}", id.op);
        self.compared += 1;
        let node = self.node(index);
        assert_eq!(node.executed + 1, id.op, "in order, each op once");
        node.executed = id.op;
        let replica = node.replica.as_mut().expect("it executes");
        let is_primary = replica.is_primary();
        replica.on_commit_done(id.op, effects);
        if is_primary {
            self.acknowledged = self.acknowledged.max(id.op);
        }
    }

    /// What a message promises is durable.
    fn check_durable(&self, index: u8, message: &Message) {
        let node = &self.nodes[usize::from(index)];
        let (header, replica) = (message.header(), node.replica.as_ref().expect("it sends"));
        if header.replica.0 != index || matches!(header.command, Command::RequestStartView(_)) {
            return;
        }
        assert!(header.view <= replica.view_durable(), "{:?} of a view to be", header.command);
        let Command::PrepareOk(ok) = header.command else { return };
        assert_eq!(header.view, replica.log_view_durable());
        let slot = GEOMETRY.slot(ok.prepare.op);
        let layout = Layout::new(GEOMETRY);
        let entry = layout.headers_offset(slot / 32) + u64::from(slot % 32) * 128;
        for offset in [entry, layout.prepare_offset(slot)] {
            let offset = usize::try_from(offset).expect("a small file");
            let bytes = node.disk.bytes[offset..].first_chunk().expect("inside of the file");
            let on_disk = Header::decode_prepare(bytes).map(|own| own.id());
            assert_eq!(on_disk, Ok(ok.prepare), "acknowledged, and not on the disk");
        }
    }

    // ---- disks

    fn complete(&mut self, index: u8, choice: usize) {
        let plant = self.plant;
        let disk = &mut self.node(index).disk;
        let Some(at) = choice.checked_rem(disk.pending.len()) else { return };
        if plant == Plant::Error
            && let Request::Write { token: Token::WritePrepare { .. }, offset, sectors } =
                &mut disk.pending[at]
        {
            *sectors = disk_bytes(&disk.bytes, *offset, sectors.len());
        }
        match disk.complete(at) {
            Completion::Write(token) => {
                self.act(index, |replica, effects| replica.on_write_done(token, effects));
            }
            Completion::Read(token, result) => {
                self.act(index, |replica, effects| replica.on_read_done(token, result, effects));
            }
        }
    }

    /// What is pending now; what follows from it waits.
    fn complete_all(&mut self, index: u8) {
        for _ in 0..self.node(index).disk.pending.len() {
            self.complete(index, 0);
        }
        self.act(index, Replica::on_turn_end);
    }

    // ---- what a healthy world does

    fn round(&mut self) {
        for _ in 0..3 {
            for index in 0..self.count() {
                self.deliver_all(index);
                self.complete_all(index);
            }
        }
        (0..self.count()).for_each(|index| self.tick(index));
    }

    /// A client asks everybody; whoever is primary takes it.
    fn request(&mut self) {
        let op = self.nodes.iter().filter_map(|node| node.replica.as_ref()).map(Replica::op).max();
        if op.is_none_or(|op| op >= OP_MAX) {
            return;
        }
        self.clients += 1;
        let client = ClientId(self.clients);
        let operation = Operation::Apply as u8;
        let command = vsr::wire::Request { client, session: 1, request: 1, operation };
        for index in 0..self.count() {
            self.act(index, |replica, _| {
                // A primary takes a request in the view that it names alone.
                let (view, replica_index) = (replica.view(), ReplicaIndex(0));
                let author =
                    Author { cluster: CLUSTER, view, replica: replica_index, incarnation: 0 };
                let message = Message::new(&author, command, &[1; 40]);
                let header = message.header().with(command);
                if replica.route(&header) == Route::Primary {
                    // A full queue drops it, and the client would try again.
                    let _ = replica.gather(&message);
                }
            });
        }
    }

    pub(super) fn agreed(&self) -> bool {
        let mut ops = self.nodes.iter().map(|node| {
            let replica = node.replica.as_ref()?;
            let is_level = replica.commit_min() == replica.op();
            (replica.status() == Status::Normal && is_level).then(|| replica.op())
        });
        let first = ops.next().flatten();
        first.is_some() && ops.all(|op| op == first)
    }

    pub(super) fn heal(&mut self) {
        self.cut.clear();
        (0..self.count()).for_each(|index| self.start(index));
        self.rounds_until("agree", |world| {
            world.agreed() && world.canonical.len() as u64 >= world.acknowledged.max(1)
        });
        let before = self.canonical.len();
        if before as u64 >= OP_MAX {
            return;
        }
        let mut round = 0;
        self.rounds_until("take a request", |world| {
            if round % 10 == 0 {
                world.request();
            }
            round += 1;
            world.canonical.len() > before
        });
    }

    pub(super) fn rounds_until(
        &mut self,
        what: &str,
        mut condition: impl FnMut(&mut Self) -> bool,
    ) {
        for _ in 0..ROUNDS_MAX {
            if condition(self) {
                return;
            }
            self.round();
        }
        let states: Vec<String> = self
            .nodes
            .iter()
            .map(|node| match &node.replica {
                Some(replica) => format!(
                    "{replica} {:?} op {} commit {}",
                    replica.status(),
                    replica.op(),
                    replica.commit_min()
                ),
                None => "down".to_owned(),
            })
            .collect();
        panic!("the replicas do not {what}: {states:?}, executed {}", self.canonical.len());
    }
}

/// What is on a disk already, as a write of it.
fn disk_bytes(bytes: &[u8], offset: u64, size: usize) -> bytes::Bytes {
    let start = usize::try_from(offset).expect("a small file");
    bytes::Bytes::copy_from_slice(&bytes[start..start + size])
}

/// Births, busy clusters, crashes of one and of all, partitions, view changes, replays.
pub fn seeds() -> Vec<Vec<u8>> {
    let busy = [12, 12, 30, 12, 46, 12, 12, 14];
    let all = |kind: u8| (0..5).map(|index| kind | index << 4).collect::<Vec<u8>>();
    let crash_all: Vec<u8> = (0..5).flat_map(|index| [10 | index << 4, index, 3]).collect();
    let by_hand = |count: u8| -> Vec<u8> {
        (0..count).flat_map(|index| [12, 2 | index << 4, 6 | 16, index, 0, 3, 7 | 32]).collect()
    };
    let view_change = [13, 3, 9 | 16, 60, 9 | 32, 60, 254, 254, 254, 254, 254, 12, 254, 13, 0];
    vec![
        [&[0, 0][..], &[254; 4], &busy].concat(),
        [&[0, 1][..], &[254; 4], &busy, &crash_all, &all(11), &[254; 3], &busy].concat(),
        [&[0, 1][..], &[254; 4], &busy, &view_change, &busy, &[254]].concat(),
        [&[0, 1][..], &[254; 4], &by_hand(20), &[10, 1, 0, 254, 254], &by_hand(5)].concat(),
        [&[3, 1][..], &[254; 4], &busy, &view_change, &crash_all, &all(11), &busy].concat(),
        [&[5, 1][..], &[254; 4], &busy, &[10, 2, 0, 254, 11], &[254; 2]].concat(),
        [&[6, 1][..], &[254; 2], &busy, &[12, 6, 0, 10, 1, 0, 11, 254, 12, 254]].concat(),
        [&[4, 0][..], &[254; 6], &busy, &[5, 1, 5, 9, 4, 20, 3, 19, 254]].concat(),
    ]
}
