//! F5: several bare replicas in one thread, with disks and a network made of vectors that lose,
//! delay, repeat, tear and rot, all drawn from a seed.
//!
//! What must hold in every run: no two replicas execute different prepares at one op; an op that a
//! primary could have acknowledged to a client is executed by all in the end; after healing, the
//! cluster takes new requests and all replicas agree.

use super::{Effects, Now, Replica, Route, Status};
use crate::constants::{SECTOR_SIZE, TICK_NS};
use crate::stdx::{AlignedBuffer, Prng, Ratio};
use crate::storage::{Format, Geometry, Opening, ReadResult, Request, SuperblockState, Token};
use crate::wire::{
    Author, ClientId, ClusterId, Command, Message, Op, Operation, PrepareId, ReplicaIndex, View,
};
use std::collections::{BTreeMap, BTreeSet};

const CLUSTER: ClusterId = ClusterId(7);

/// How hard the world is; 0 is not at all.
#[derive(Debug, Clone, Copy)]
struct Faults {
    loss: Ratio,
    repeat: Ratio,
    delay_ticks_max: u64,
    write_ticks_max: u64,
    crash: Ratio,
    restart: Ratio,
    partition: Ratio,
    heal: Ratio,
    /// Of a crash, to damage what the atlas allows.
    rot: Ratio,
    request: Ratio,
}

const NEVER: Ratio = Ratio::new(0, 1);

impl Faults {
    fn none() -> Self {
        Self {
            loss: NEVER,
            repeat: NEVER,
            delay_ticks_max: 0,
            write_ticks_max: 0,
            crash: NEVER,
            restart: Ratio::new(1, 10),
            partition: NEVER,
            heal: Ratio::new(1, 2),
            rot: NEVER,
            request: Ratio::new(1, 4),
        }
    }

    /// Each kind is there or not, and hard or not: subsets of faults, not low levels of all.
    fn draw(prng: &mut Prng) -> Self {
        let mut pick = |ratios: [Ratio; 3]| ratios[prng.index(3)];
        let loss = pick([NEVER, Ratio::new(1, 50), Ratio::new(1, 5)]);
        let repeat = pick([NEVER, Ratio::new(1, 20), Ratio::new(1, 3)]);
        let crash = pick([NEVER, Ratio::new(1, 2000), Ratio::new(1, 300)]);
        let restart = pick([Ratio::new(1, 10), Ratio::new(1, 50), Ratio::new(1, 200)]);
        let partition = pick([NEVER, Ratio::new(1, 500), Ratio::new(1, 100)]);
        let heal = pick([Ratio::new(1, 20), Ratio::new(1, 100), Ratio::new(1, 300)]);
        let rot = pick([NEVER, NEVER, Ratio::new(1, 3)]);
        let request = pick([Ratio::new(1, 2), Ratio::new(1, 10), Ratio::new(1, 50)]);
        let delay_ticks_max = [0, 2, 20][prng.index(3)];
        let write_ticks_max = [0, 2, 20][prng.index(3)];
        Self {
            loss,
            repeat,
            delay_ticks_max,
            write_ticks_max,
            crash,
            restart,
            partition,
            heal,
            rot,
            request,
        }
    }
}

struct Pending {
    due: u64,
    order: u64,
    request: Request,
}

#[derive(Default)]
struct Disk {
    bytes: Vec<u8>,
    pending: Vec<Pending>,
}

impl Disk {
    fn write(&mut self, offset: u64, sectors: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        self.bytes[offset..offset + sectors.len()].copy_from_slice(sectors);
    }

    fn read(&self, offset: u64, size: u32) -> ReadResult {
        let offset = usize::try_from(offset).unwrap();
        let mut buffer = AlignedBuffer::zeroed(size);
        buffer.as_mut().copy_from_slice(&self.bytes[offset..offset + size as usize]);
        ReadResult { buffer, unreadable: Vec::new() }
    }

    /// Any subset of the sectors in flight survives.
    fn crash(&mut self, prng: &mut Prng) {
        for Pending { request, .. } in std::mem::take(&mut self.pending) {
            if let Request::Write { offset, sectors, .. } = request {
                let survive = Ratio::new(u32::try_from(prng.below(4)).unwrap(), 3);
                for (index, sector) in sectors.chunks(SECTOR_SIZE as usize).enumerate() {
                    if prng.chance(survive) {
                        self.write(offset + index as u64 * u64::from(SECTOR_SIZE), sector);
                    }
                }
            }
        }
    }
}

struct Node {
    disk: Disk,
    replica: Option<Replica>,
    /// The highest op for which a reply could have gone out.
    executed: Op,
}

struct Packet {
    due: u64,
    order: u64,
    from: ReplicaIndex,
    to: ReplicaIndex,
    message: Message,
}

struct World {
    prng: Prng,
    geometry: Geometry,
    faults: Faults,
    tick: u64,
    order: u64,
    nodes: Vec<Node>,
    packets: Vec<Packet>,
    /// Links that are cut: (from, to).
    cut: BTreeSet<(u8, u8)>,
    /// What was executed at each op, by whomever first.
    canonical: BTreeMap<Op, PrepareId>,
    /// The highest op that some primary executed: it may have been acknowledged.
    acknowledged: Op,
    clients: u128,
    crashes: u64,
    rots: u64,
}

impl World {
    fn new(seed: u64, replica_count: u8, faults: Faults) -> Self {
        let mut prng = Prng::from_seed(seed);
        let geometry = Geometry {
            message_size: 4096,
            journal_slots: 256,
            block_size: 4096,
            pipeline: 4,
            clients_max: 64,
        };
        let nodes = (0..replica_count)
            .map(|index| {
                let state = SuperblockState::formatted(
                    CLUSTER,
                    ReplicaIndex(index),
                    replica_count,
                    prng.next_u64().max(1),
                    geometry,
                );
                let mut node = Node { disk: Disk::default(), replica: None, executed: 0 };
                format(&state, &mut node.disk);
                node
            })
            .collect();
        let mut world = Self {
            prng,
            geometry,
            faults,
            tick: 0,
            order: 0,
            nodes,
            packets: Vec::new(),
            cut: BTreeSet::new(),
            canonical: BTreeMap::new(),
            acknowledged: 0,
            clients: 0,
            crashes: 0,
            rots: 0,
        };
        for index in 0..replica_count {
            world.start(index);
        }
        world
    }

    fn now(&self) -> Now {
        Now { monotonic: self.tick * TICK_NS, realtime: (1 << 60) + self.tick * TICK_NS }
    }

    fn start(&mut self, index: u8) {
        let now = self.now();
        let prng = self.prng.fork();
        let node = &mut self.nodes[usize::from(index)];
        assert!(node.replica.is_none());
        let Some(opened) = open(&mut node.disk) else { return };
        let mut effects = Effects::default();
        node.replica = Some(Replica::open(opened, now, prng, &mut effects));
        node.executed = 0;
        self.drain(index, &mut effects);
    }

    fn crash(&mut self, index: u8) {
        self.crashes += 1;
        let node = &mut self.nodes[usize::from(index)];
        node.replica = None;
        node.disk.crash(&mut self.prng);
        if self.prng.chance(self.faults.rot) {
            self.rot(index);
        }
    }

    /// Damages something of the journal that no other replica may have damaged.
    fn rot(&mut self, index: u8) {
        let count = self.nodes.len() as u64;
        let layout = crate::storage::Layout::new(self.geometry);
        let sector = self.prng.below(u64::from(layout.header_sectors()));
        if sector % count != u64::from(index) || count < 3 {
            return;
        }
        self.rots += 1;
        let sector = u32::try_from(sector).unwrap();
        let slot = sector * 32 + u32::try_from(self.prng.below(32)).unwrap();
        let offset = match self.prng.below(3) {
            0 => layout.headers_offset(sector) + u64::from(slot % 32) * 128,
            1 => layout.headers_offset(sector),
            _ => layout.prepare_offset(slot),
        };
        let size = if self.prng.below(2) == 0 { 128 } else { 4096 };
        let size = size.min(layout.grid_offset() - offset).min(4096 - offset % 4096);
        let mut garbage = vec![0; usize::try_from(size).unwrap()];
        self.prng.fill(&mut garbage);
        self.nodes[usize::from(index)].disk.write(offset, &garbage);
    }

    /// Lets one replica handle something, and carries out its effects.
    fn input(&mut self, index: u8, act: impl FnOnce(&mut Replica, &mut Effects)) {
        let now = self.now();
        let Some(replica) = &mut self.nodes[usize::from(index)].replica else { return };
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
            for request in effects.requests.drain(..) {
                let due = self.tick + self.prng.below(self.faults.write_ticks_max + 1);
                self.order += 1;
                let pending = Pending { due, order: self.order, request };
                self.nodes[usize::from(index)].disk.pending.push(pending);
            }
            for (to, message) in std::mem::take(&mut effects.sends) {
                self.send(index, to, message);
            }
            effects.client_sends.clear();
            if let Some(prepare) = effects.commit.take() {
                self.execute(index, &prepare, effects);
            }
        }
    }

    fn execute(&mut self, index: u8, prepare: &Message, effects: &mut Effects) {
        let id = prepare.prepare_header().id();
        let node = &mut self.nodes[usize::from(index)];
        assert_eq!(node.executed + 1, id.op, "in order, each op once");
        node.executed = id.op;
        let canonical = *self.canonical.entry(id.op).or_insert(id);
        assert_eq!(canonical, id, "replica {index} executes another prepare at op {}", id.op);
        let replica = node.replica.as_mut().unwrap();
        if replica.is_primary() {
            self.acknowledged = self.acknowledged.max(id.op);
        }
        replica.on_commit_done(id.op, effects);
    }

    fn send(&mut self, from: u8, to: ReplicaIndex, message: Message) {
        let copies = 1 + u32::from(self.prng.chance(self.faults.repeat));
        for _ in 0..copies {
            if self.prng.chance(self.faults.loss) {
                continue;
            }
            let due = self.tick + self.prng.below(self.faults.delay_ticks_max + 1);
            self.order += 1;
            let (from, message) = (ReplicaIndex(from), message.clone());
            self.packets.push(Packet { due, order: self.order, from, to, message });
        }
    }

    fn deliver(&mut self) {
        self.packets.sort_by_key(|packet| (packet.due, packet.order));
        let due = self.packets.partition_point(|packet| packet.due <= self.tick);
        for packet in self.packets.drain(..due).collect::<Vec<_>>() {
            if !self.cut.contains(&(packet.from.0, packet.to.0)) {
                self.input(packet.to.0, |replica, effects| {
                    replica.on_message(&packet.message, effects);
                });
            }
        }
    }

    fn complete_disk(&mut self, index: u8) {
        let tick = self.tick;
        let disk = &mut self.nodes[usize::from(index)].disk;
        disk.pending.sort_by_key(|pending| (pending.due, pending.order));
        let due = disk.pending.partition_point(|pending| pending.due <= tick);
        for pending in disk.pending.drain(..due).collect::<Vec<_>>() {
            let disk = &mut self.nodes[usize::from(index)].disk;
            match pending.request {
                Request::Read { token, offset, size } => {
                    let result = disk.read(offset, size);
                    self.input(index, |replica, effects| {
                        replica.on_read_done(token, result, effects);
                    });
                }
                Request::Write { token, offset, sectors } => {
                    disk.write(offset, &sectors);
                    self.input(index, |replica, effects| replica.on_write_done(token, effects));
                }
            }
        }
    }

    fn request(&mut self) {
        self.clients += 1;
        let client = ClientId(self.clients);
        let size = self.prng.index(1500);
        let body: Vec<u8> = vec![u8::try_from(self.clients % 251).unwrap(); size];
        for index in 0..u8::try_from(self.nodes.len()).unwrap() {
            let body = body.clone();
            self.input(index, |replica, _| {
                let author = Author {
                    cluster: CLUSTER,
                    view: View(0),
                    replica: ReplicaIndex(0),
                    incarnation: 0,
                };
                let request = crate::wire::Request {
                    client,
                    session: 1,
                    request: 1,
                    operation: Operation::Apply as u8,
                };
                let message = Message::new(&author, request, &body);
                let header = message.header().with(request);
                assert!(matches!(message.header().command, Command::Request(_)));
                if replica.route(&header) == Route::Primary {
                    let _ = replica.gather(&message);
                }
            });
        }
    }

    fn partition(&mut self) {
        let count = u8::try_from(self.nodes.len()).unwrap();
        self.cut.clear();
        let lonely = u8::try_from(self.prng.below(u64::from(count))).unwrap();
        let mode = self.prng.below(3);
        for other in (0..count).filter(|other| *other != lonely) {
            if mode != 1 {
                self.cut.insert((lonely, other));
            }
            if mode != 2 {
                self.cut.insert((other, lonely));
            }
        }
    }

    fn step(&mut self) {
        self.tick += 1;
        let count = u8::try_from(self.nodes.len()).unwrap();
        if self.prng.chance(self.faults.partition) {
            self.partition();
        }
        if self.prng.chance(self.faults.heal) {
            self.cut.clear();
        }
        for index in 0..count {
            let up = self.nodes[usize::from(index)].replica.is_some();
            if up && self.prng.chance(self.faults.crash) {
                self.crash(index);
            } else if !up && self.prng.chance(self.faults.restart) {
                self.start(index);
            }
        }
        if self.prng.chance(self.faults.request) {
            self.request();
        }
        // A few rounds a tick, so that a healthy cluster is fast.
        for _ in 0..4 {
            self.deliver();
            for index in 0..count {
                self.complete_disk(index);
                self.input(index, Replica::on_turn_end);
            }
        }
        for index in 0..count {
            self.input(index, Replica::on_tick);
            self.input(index, Replica::on_turn_end);
        }
    }

    fn summary(&self) -> String {
        let mut text = format!("tick {} canonical {}\n", self.tick, self.canonical.len());
        for node in &self.nodes {
            match &node.replica {
                Some(replica) => {
                    text.push_str(&format!(
                        "  {replica} {:?} log_view {} born {}\n",
                        replica.status(),
                        replica.log_view(),
                        replica.is_born()
                    ));
                }
                None => text.push_str("  down\n"),
            }
        }
        text
    }

    fn agreed(&self) -> bool {
        let ops: BTreeSet<_> = self
            .nodes
            .iter()
            .map(|node| node.replica.as_ref().map(|replica| (replica.commit_min(), replica.op())))
            .collect();
        ops.len() == 1
            && ops.iter().all(|op| op.is_some_and(|(commit, op)| commit == op))
            && self.nodes.iter().all(|node| {
                node.replica.as_ref().is_some_and(|replica| replica.status() == Status::Normal)
            })
    }

    /// Damage may leave too few heads that are certain: that is allowed, and only that.
    fn may_be_stuck(&self) -> bool {
        self.rots > 0
            && self.nodes.iter().filter(|node| !self.is_certain(node)).count()
                > self.nodes.len()
                    - usize::from(
                        super::Quorums::new(u8::try_from(self.nodes.len()).unwrap()).view_change,
                    )
    }

    fn is_certain(&self, node: &Node) -> bool {
        node.replica.as_ref().is_some_and(|replica| replica.status() != Status::RecoveringHead)
    }

    fn heal_and_check(&mut self, seed: u64) {
        let Faults { .. } = self.faults;
        self.faults = Faults::none();
        self.cut.clear();
        let room = u64::from(self.geometry.journal_slots - self.geometry.pipeline);
        for _ in 0..3000 {
            self.faults.request = NEVER;
            self.step();
            if self.agreed() && self.canonical.len() as u64 >= self.acknowledged {
                break;
            }
            if self.may_be_stuck() {
                return;
            }
        }
        assert!(self.agreed(), "seed {seed}: no agreement after healing\n{}", self.summary());
        let before = self.canonical.len() as u64;
        assert!(before >= self.acknowledged);
        if before >= room {
            return;
        }
        for _ in 0..300 {
            self.request();
            self.step();
            if self.canonical.len() as u64 > before {
                break;
            }
        }
        assert!(
            self.canonical.len() as u64 > before,
            "seed {seed}: no new op after healing\n{}",
            self.summary()
        );
    }
}

fn format(state: &SuperblockState, disk: &mut Disk) {
    let layout = crate::storage::Layout::new(state.geometry);
    disk.bytes = vec![0xEE; usize::try_from(layout.grid_offset()).unwrap()];
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        for request in requests.drain(..) {
            let Request::Write { token, offset, sectors } = request else { panic!() };
            disk.write(offset, &sectors);
            format.on_write_done(token);
        }
    }
}

fn open(disk: &mut Disk) -> Option<crate::storage::Opened> {
    let mut requests = Vec::new();
    let mut opening = Opening::new(disk.bytes.len() as u64, &mut requests);
    loop {
        if let Some(opened) = opening.finish() {
            return Some(opened);
        }
        for request in std::mem::take(&mut requests) {
            match request {
                Request::Read { token, offset, size } => {
                    let result = disk.read(offset, size);
                    opening.on_read_done(token, result, &mut requests).expect("opens");
                }
                Request::Write { token, offset, sectors } => {
                    disk.write(offset, &sectors);
                    opening.on_write_done(token, &mut requests).expect("opens");
                }
            }
        }
    }
}

fn run(seed: u64, replica_count: u8, faults: Faults, ticks: u64) -> World {
    let mut world = World::new(seed, replica_count, faults);
    for _ in 0..ticks {
        world.step();
    }
    world.heal_and_check(seed);
    world
}

#[test]
fn cluster_without_faults_is_born_and_commits() {
    for replica_count in 1..=6 {
        let world = run(1, replica_count, Faults::none(), 400);
        assert!(world.canonical.len() > 50, "{}", world.summary());
        let views = world.nodes.iter().map(|node| node.replica.as_ref().unwrap().view().0);
        assert!(views.max().unwrap() <= 1, "no view change without a fault\n{}", world.summary());
    }
}

#[test]
fn cluster_under_drawn_faults_agrees_and_recovers() {
    let (mut crashes, mut rots, mut ops) = (0, 0, 0);
    for seed in seeds() {
        let mut prng = Prng::from_seed(seed);
        let faults = Faults::draw(&mut prng);
        let replica_count = u8::try_from(1 + prng.below(6)).unwrap();
        let world = run(seed, replica_count, faults, 2500);
        crashes += world.crashes;
        rots += world.rots;
        ops += world.canonical.len();
    }
    let enough = crashes > 20 && rots > 3 && ops > 1000;
    assert!(enough || seeds().count() < 60, "{crashes} crashes, {rots} rots, {ops} ops");
}

/// Sixty seeds, or the range in `VSR_SEEDS` ("from..to").
fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("VSR_SEEDS") else { return 0..60 };
    let (from, to) = text.split_once("..").expect("from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

#[test]
fn token_is_a_small_value() {
    assert!(size_of::<Token>() <= 24);
}
