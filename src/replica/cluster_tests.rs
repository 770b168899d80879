//! F5: several bare replicas in one thread, with disks and a network made of vectors that lose,
//! delay, repeat, replay, tear and rot, all drawn from a seed.
//!
//! What must hold in every run: no two replicas execute different prepares at one op; an op that a
//! primary could have acknowledged to a client is executed by all in the end; nothing is sent that
//! is not durable yet (views, logs, acknowledged prepares: looked up on the disk); after healing,
//! the cluster takes new requests and all replicas agree.

use super::executor::Loaded;
use super::{CheckpointLoad, Effects, Now, Replica, Route, Status};
use crate::constants::{SECTOR_SIZE, TICK_NS};
use crate::stdx::{AlignedBuffer, Prng, Ratio};
use crate::storage::{
    Format, Geometry, Layout, Opening, ReadResult, Request, SuperblockState, Token,
};
use crate::wire::{
    Author, BlockRef, ClientId, ClusterId, Command, Message, Op, Operation, PrepareId,
    ReplicaIndex, View,
};
use std::collections::{BTreeMap, BTreeSet};

const CLUSTER: ClusterId = ClusterId(7);
/// Packets kept to be replayed.
const REMEMBERED_MAX: usize = 300;
/// Neighbouring slots that may rot on the same replica.
const ATLAS_SLOTS: u32 = 8;

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
    /// Of a tick, to damage it under a running replica.
    rot_running: Ratio,
    /// Of a read, not to deliver what the atlas allows.
    unreadable: Ratio,
    /// Of a tick, that a replica stops for a while.
    pause: Ratio,
    /// Of a tick, that a packet of long ago arrives again.
    replay: Ratio,
    /// Of a tick, that all lose power at once.
    blackout: Ratio,
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
            rot_running: NEVER,
            unreadable: NEVER,
            pause: NEVER,
            replay: NEVER,
            blackout: NEVER,
            request: Ratio::new(1, 4),
        }
    }

    /// Each kind is there or not, and hard or not: subsets of faults, not low levels of all.
    fn draw(prng: &mut Prng) -> Self {
        let mut pick = |ratios: [Ratio; 3]| ratios[prng.index(3)];
        let loss = pick([NEVER, Ratio::new(1, 50), Ratio::new(1, 5)]);
        let repeat = pick([NEVER, Ratio::new(1, 20), Ratio::new(1, 3)]);
        let crash = pick([NEVER, Ratio::new(1, 2000), Ratio::new(1, 300)]);
        let restart = pick([Ratio::new(1, 10), Ratio::new(1, 50), Ratio::new(1, 500)]);
        let partition = pick([NEVER, Ratio::new(1, 500), Ratio::new(1, 100)]);
        let heal = pick([Ratio::new(1, 20), Ratio::new(1, 100), Ratio::new(1, 300)]);
        let rot = pick([NEVER, NEVER, Ratio::new(1, 3)]);
        let request = pick([Ratio::new(1, 1), Ratio::new(1, 3), Ratio::new(1, 20)]);
        let some = rot != NEVER;
        let rot_running = pick([NEVER, NEVER, if some { Ratio::new(1, 100) } else { NEVER }]);
        let unreadable = pick([NEVER, NEVER, if some { Ratio::new(1, 10) } else { NEVER }]);
        let pause = pick([NEVER, NEVER, Ratio::new(1, 200)]);
        let replay = pick([NEVER, NEVER, Ratio::new(1, 3)]);
        let blackout = pick([NEVER, NEVER, Ratio::new(1, 700)]);
        let delay_ticks_max = [0, 2, 20, 60][prng.index(4)];
        let write_ticks_max = [0, 2, 20, 60][prng.index(4)];
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
            rot_running,
            unreadable,
            pause,
            replay,
            blackout,
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
pub(super) struct Disk {
    pub(super) bytes: Vec<u8>,
    pending: Vec<Pending>,
}

impl Disk {
    pub(super) fn write(&mut self, offset: u64, sectors: &[u8]) {
        let offset = usize::try_from(offset).unwrap();
        self.bytes[offset..offset + sectors.len()].copy_from_slice(sectors);
    }

    pub(super) fn read(&self, offset: u64, size: u32) -> ReadResult {
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
    /// The tick until which it stands still.
    paused_until: u64,
    /// Something on the disk is not what was written.
    rotten: bool,
    /// Checkpoints whose blocks are all on the disk.
    blocks: BTreeSet<Op>,
    /// A checkpoint that is being written, and the tick when it is.
    frozen: Option<(Op, u64)>,
    /// A checkpoint that is being loaded or fetched, and the tick when the next try is made.
    load: Option<(CheckpointLoad, u64)>,
}

#[derive(Clone)]
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
    /// Some that were sent, to be replayed.
    remembered: Vec<Packet>,
    /// Links that are cut: (from, to).
    cut: BTreeSet<(u8, u8)>,
    /// What was executed at each op, by whomever first.
    canonical: BTreeMap<Op, PrepareId>,
    /// The state after each of them.
    states: BTreeMap<Op, u32>,
    /// Checkpoints taken over.
    syncs: u64,
    /// The highest op that some primary executed: it may have been acknowledged.
    acknowledged: Op,
    clients: u128,
    crashes: u64,
    rots: u64,
    stuck: bool,
    /// Bit r: the disk of replica r has no room for a checkpoint.
    full: u8,
}

impl World {
    fn new(seed: u64, replica_count: u8, faults: Faults) -> Self {
        let mut prng = Prng::from_seed(seed);
        let geometry = Geometry {
            message_size: 4096,
            journal_slots: [64, 64, 128, 512][prng.index(4)],
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
                let mut node = Node {
                    disk: Disk::default(),
                    replica: None,
                    executed: 0,
                    paused_until: 0,
                    rotten: false,
                    blocks: BTreeSet::new(),
                    frozen: None,
                    load: None,
                };
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
            remembered: Vec::new(),
            cut: BTreeSet::new(),
            canonical: BTreeMap::new(),
            states: BTreeMap::from([(0, 0)]),
            syncs: 0,
            acknowledged: 0,
            clients: 0,
            crashes: 0,
            rots: 0,
            stuck: false,
            full: 0,
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
        assert!(node.frozen.is_none() && node.load.is_none());
        node.executed = 0;
        self.drain(index, &mut effects);
    }

    fn crash(&mut self, index: u8) {
        self.crashes += 1;
        let node = &mut self.nodes[usize::from(index)];
        node.replica = None;
        node.frozen = None;
        node.load = None;
        node.disk.crash(&mut self.prng);
        node.paused_until = 0;
        if self.prng.chance(self.faults.rot) {
            self.rot(index);
        }
        if self.prng.chance(self.faults.rot) && self.prng.below(2) == 0 {
            // Always the same copy: an update tears at most one more.
            let offset = self.layout().superblock_offset(index % 4);
            self.damage(index, offset, 64);
        }
    }

    fn layout(&self) -> Layout {
        Layout::new(self.geometry)
    }

    /// Whether the atlas lets this replica lose what is in that slot: no other may.
    fn may_rot(&self, index: u8, slot: u32) -> bool {
        let count = u32::try_from(self.nodes.len()).unwrap();
        count > 2 && slot / ATLAS_SLOTS % count == u32::from(index)
    }

    fn damage(&mut self, index: u8, offset: u64, size: usize) {
        let mut garbage = vec![0; size];
        self.prng.fill(&mut garbage);
        self.nodes[usize::from(index)].disk.write(offset, &garbage);
    }

    /// Damages something of the journal that no other replica may have damaged: mostly near the
    /// head, where it hurts.
    fn rot(&mut self, index: u8) {
        let slots = u64::from(self.geometry.journal_slots);
        let head = self.canonical.keys().next_back().map_or(0, |op| *op) + 4;
        let slot = match self.prng.below(4) {
            0 => self.prng.below(slots),
            _ => head.saturating_sub(self.prng.below(16)) % slots,
        };
        let slot = u32::try_from(slot).unwrap();
        if !self.may_rot(index, slot) {
            return;
        }
        self.rots += 1;
        self.nodes[usize::from(index)].rotten = true;
        let layout = self.layout();
        let entry = |slot: u32| layout.headers_offset(slot / 32) + u64::from(slot % 32) * 128;
        let body = layout.prepare_offset(slot);
        let (offset, size) = match self.prng.below(6) {
            0 => (entry(slot), 128),
            // As many neighbours as the atlas lets go.
            1 => (entry(slot - slot % ATLAS_SLOTS), ATLAS_SLOTS as usize * 128),
            2 => (body, 128),
            3 => {
                self.damage(index, entry(slot), 128);
                (body, 4096)
            }
            _ => (body, 4096),
        };
        self.damage(index, offset, size);
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
                self.check_durable(index, &message);
                self.send(index, to, message);
            }
            effects.client_sends.clear();
            if let Some(op) = effects.checkpoint_durable.take() {
                let interval = self.interval();
                self.nodes[usize::from(index)].blocks.retain(|old| *old + interval >= op);
            }
            if let Some(load) = effects.load.take() {
                self.load(index, load);
            }
            if let Some(prepare) = effects.commit.take() {
                self.execute(index, &prepare, effects);
            }
        }
    }

    /// Durable before sent, judged by the superblock that was read back and by the bytes on disk.
    fn check_durable(&self, index: u8, message: &Message) {
        let node = &self.nodes[usize::from(index)];
        let header = message.header();
        let durable = node.replica.as_ref().unwrap().superblock.state();
        if header.replica.0 != index || matches!(header.command, Command::RequestStartView(_)) {
            return;
        }
        assert!(header.view <= durable.view, "{:?} of a view that is not durable", header.command);
        match header.command {
            Command::DoViewChange(log) => {
                assert_eq!((header.view, log.log_view), (durable.view, durable.log_view));
                assert_eq!(log.op, durable.head.op);
            }
            Command::StartView(_) => assert_eq!(header.view, durable.log_view),
            Command::PrepareOk(ok) => {
                assert_eq!(header.view, durable.log_view);
                if node.rotten {
                    return;
                }
                let slot = self.geometry.slot(ok.prepare.op);
                let entry = self.layout().headers_offset(slot / 32) + u64::from(slot % 32) * 128;
                for offset in [entry, self.layout().prepare_offset(slot)] {
                    let offset = usize::try_from(offset).unwrap();
                    let bytes = node.disk.bytes[offset..].first_chunk().unwrap();
                    let on_disk = crate::wire::Header::decode_prepare(bytes).map(|own| own.id());
                    assert_eq!(on_disk, Ok(ok.prepare), "acknowledged, and not on disk");
                }
            }
            _ => {}
        }
    }

    fn interval(&self) -> Op {
        self.geometry.checkpoint_interval()
    }

    /// The root of the checkpoint of `op`, a function of all that was executed.
    fn checkpoint(&self, op: Op) -> BlockRef {
        if op == 0 {
            return BlockRef::NONE;
        }
        BlockRef { index: 7, op, checksum: self.states[&op], checksum_body: 8 }
    }

    fn load(&mut self, index: u8, load: CheckpointLoad) {
        let due = self.tick + self.prng.below(self.faults.write_ticks_max + 1);
        assert_eq!(load.checkpoint, self.checkpoint(load.checkpoint.op));
        let node = &mut self.nodes[usize::from(index)];
        if load.op_complete < load.checkpoint.op {
            // What is fetched is written over what was there.
            self.syncs += 1;
            node.blocks.clear();
        } else {
            assert!(node.blocks.contains(&load.checkpoint.op), "complete, and not there");
        }
        node.frozen = None;
        node.executed = load.checkpoint.op;
        node.load = Some((load, due));
    }

    /// Blocks get on: what was frozen is written, what is missing is fetched.
    fn blocks(&mut self, index: u8) {
        let tick = self.tick;
        let node = &mut self.nodes[usize::from(index)];
        let Some(replica) = &mut node.replica else { return };
        let is_fetching = node.load.is_some_and(|(load, _)| load.op_complete < load.checkpoint.op);
        let is_full = self.full >> index & 1 == 1 && (node.frozen.is_some() || is_fetching);
        replica.set_store_full(is_full, false);
        if is_full {
            return;
        }
        let node = &self.nodes[usize::from(index)];
        if let Some((op, _)) = node.frozen.filter(|(_, due)| *due <= tick) {
            let node = &mut self.nodes[usize::from(index)];
            node.frozen = None;
            node.blocks.insert(op);
            let checkpoint = self.checkpoint(op);
            self.input(index, |replica, effects| {
                replica.on_checkpoint_written(checkpoint, effects);
            });
        }
        let node = &self.nodes[usize::from(index)];
        let Some((load, _)) = node.load.filter(|(_, due)| *due <= tick) else { return };
        let op = load.checkpoint.op;
        if load.op_complete < op {
            let from = u8::try_from(self.prng.index(self.nodes.len())).unwrap();
            let peer = &self.nodes[usize::from(from)];
            let cut = self.cut.contains(&(from, index)) || self.cut.contains(&(index, from));
            if cut || peer.replica.is_none() || !peer.blocks.contains(&op) {
                return;
            }
        }
        let previous = self.checkpoint(op - self.interval());
        let node = &mut self.nodes[usize::from(index)];
        node.load = None;
        node.blocks.insert(op);
        let command = crate::wire::Prepare { op, ..crate::wire::Prepare::default() };
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let header = crate::wire::Header::seal(&author, command, &[]);
        let loaded = Loaded { checkpoint: load.checkpoint, previous, header, table: None };
        self.input(index, |replica, effects| replica.on_checkpoint_loaded(&loaded, effects));
    }

    fn execute(&mut self, index: u8, prepare: &Message, effects: &mut Effects) {
        let id = prepare.prepare_header().id();
        let due = self.tick + self.prng.below(4 * self.faults.write_ticks_max + 1);
        let node = &mut self.nodes[usize::from(index)];
        assert_eq!(node.executed + 1, id.op, "in order, each op once");
        node.executed = id.op;
        if self.geometry.is_checkpoint(id.op) {
            assert!(node.frozen.is_none(), "one checkpoint at a time");
            node.frozen = Some((id.op, due));
        }
        let state = self.states[&(id.op - 1)];
        let state = crc32c::crc32c_append(state, &id.checksum.to_le_bytes());
        self.states.entry(id.op).or_insert(state);
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
            let packet = Packet { due, order: self.order, from, to, message };
            self.remember(&packet);
            self.packets.push(packet);
        }
    }

    fn remember(&mut self, packet: &Packet) {
        if self.faults.replay == NEVER {
            return;
        }
        if self.remembered.len() < REMEMBERED_MAX {
            self.remembered.push(packet.clone());
        } else if self.prng.below(20) == 0 {
            let index = self.prng.index(REMEMBERED_MAX);
            self.remembered[index] = packet.clone();
        }
    }

    fn is_paused(&self, index: u8) -> bool {
        self.nodes[usize::from(index)].paused_until > self.tick
    }

    fn deliver(&mut self) {
        self.packets.sort_by_key(|packet| (packet.due, packet.order));
        let due = self.packets.partition_point(|packet| packet.due <= self.tick);
        for packet in self.packets.drain(..due).collect::<Vec<_>>() {
            if self.is_paused(packet.to.0) {
                let due = self.nodes[packet.to.index()].paused_until;
                self.packets.push(Packet { due, ..packet });
                continue;
            }
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
                    let mut result = disk.read(offset, size);
                    if matches!(token, Token::ReadPrepare { .. }) {
                        self.disturb_read(index, offset, &mut result);
                    }
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

    fn disturb_read(&mut self, index: u8, offset: u64, result: &mut ReadResult) {
        let distance = offset - self.layout().prepare_offset(0);
        let slot = u32::try_from(distance / u64::from(self.geometry.message_size)).unwrap();
        if self.may_rot(index, slot) && self.prng.chance(self.faults.unreadable) {
            self.rots += 1;
            result.unreadable.push(0..SECTOR_SIZE);
        }
    }

    fn request(&mut self) {
        self.clients += 1;
        let client = ClientId(self.clients);
        let size = self.prng.index(1500);
        let body: Vec<u8> = vec![u8::try_from(self.clients % 251).unwrap(); size];
        for index in 0..u8::try_from(self.nodes.len()).unwrap() {
            let body = body.clone();
            if self.is_paused(index) {
                continue;
            }
            self.input(index, |replica, _| {
                let author = Author {
                    cluster: CLUSTER,
                    view: replica.view(),
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
        let mode = self.prng.below(5);
        if mode >= 3 {
            // Two groups, or any links, each way by itself.
            let groups = self.prng.next_u64();
            for (from, to) in (0..count).flat_map(|from| (0..count).map(move |to| (from, to))) {
                let apart = (groups >> from ^ groups >> to) & 1 == 1;
                let is_cut = if mode == 3 { apart } else { self.prng.below(3) == 0 };
                if is_cut {
                    self.cut.insert((from, to));
                }
            }
            return;
        }
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
        let blackout = self.prng.chance(self.faults.blackout);
        if self.prng.chance(self.faults.replay) && !self.remembered.is_empty() {
            let index = self.prng.index(self.remembered.len());
            let packet = self.remembered[index].clone();
            self.packets.push(Packet { due: self.tick, ..packet });
        }
        for index in 0..count {
            if self.prng.chance(self.faults.pause) {
                let ticks = self.prng.below(100);
                self.nodes[usize::from(index)].paused_until = self.tick + ticks;
            }
            if self.prng.chance(self.faults.rot_running) {
                self.rot(index);
            }
            let up = self.nodes[usize::from(index)].replica.is_some();
            if up && (blackout || self.prng.chance(self.faults.crash)) {
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
            for index in (0..count).filter(|index| !self.is_paused(*index)).collect::<Vec<_>>() {
                self.complete_disk(index);
                self.blocks(index);
                self.input(index, Replica::on_turn_end);
            }
        }
        for index in (0..count).filter(|index| !self.is_paused(*index)).collect::<Vec<_>>() {
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
                    let next = replica.commit_min + 1;
                    text.push_str(&format!(
                        "     chain_min {} reads {:?} committing {:?} wanted {:?} next op: {:?} \
                         dirty {} faulty {} cached {} tick {}\n",
                        replica.chain_min,
                        replica.reads,
                        replica.committing,
                        replica.prepares_wanted,
                        replica.journal.header(next).map(|header| {
                            let id = header.id();
                            (id, replica.journal.has_body(&id), replica.journal.is_writing(&id))
                        }),
                        replica.journal.is_dirty(next),
                        replica.journal.is_faulty(next),
                        replica.cache.contains_key(&next),
                        replica.tick
                    ));
                    if replica.status() == Status::ViewChange && replica.log_view < replica.view {
                        let log = replica.own_view_log();
                        let ids: Vec<_> = log
                            .set
                            .headers
                            .iter()
                            .map(|header| {
                                header.map(|header| {
                                    (header.op(), header.view.0, header.command.commit)
                                })
                            })
                            .collect();
                        text.push_str(&format!(
                            "     head {} present {:b} nack {:b} {ids:?}\n",
                            log.set.op, log.present, log.nack
                        ));
                    }
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

    /// Damage may leave too few that may vote, their heads uncertain or their birth forgotten. That
    /// is allowed, and only that.
    fn may_be_stuck(&self) -> bool {
        if self.rots == 0 {
            return false;
        }
        let replicas: Vec<_> =
            self.nodes.iter().map(|node| node.replica.as_ref().expect("healed")).collect();
        let count = |predicate: fn(&Replica) -> bool| {
            replicas.iter().filter(|replica| predicate(replica)).count()
        };
        let voters =
            count(|replica| replica.status() != Status::RecoveringHead && replica.may_vote());
        let quorums = super::Quorums::new(u8::try_from(replicas.len()).unwrap());
        let born = replicas.iter().any(|replica| replica.is_born());
        born && voters < usize::from(quorums.view_change)
    }

    fn heal_and_check(&mut self, seed: u64) {
        // Slow is not broken: half of the runs stay as slow as they were.
        let Faults { delay_ticks_max, write_ticks_max, .. } = self.faults;
        self.faults = Faults::none();
        if seed.is_multiple_of(2) {
            self.faults.delay_ticks_max = delay_ticks_max.min(20);
            self.faults.write_ticks_max = write_ticks_max.min(20);
        }
        self.cut.clear();
        self.remembered.clear();
        for _ in 0..3000 {
            self.faults.request = NEVER;
            self.step();
            if self.agreed() && self.canonical.len() as u64 >= self.acknowledged {
                break;
            }
        }
        if !self.agreed() && self.may_be_stuck() {
            self.stuck = true;
            return;
        }
        assert!(self.agreed(), "seed {seed}: no agreement after healing\n{}", self.summary());
        let before = self.canonical.len() as u64;
        assert!(before >= self.acknowledged);
        for tick in 0..3000 {
            if tick % 10 == 0 {
                self.request();
            }
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

pub(super) fn format(state: &SuperblockState, disk: &mut Disk) {
    let layout = Layout::new(state.geometry);
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

pub(super) fn open(disk: &mut Disk) -> Option<crate::storage::Opened> {
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
    let (mut crashes, mut rots, mut ops, mut stuck, mut syncs) = (0, 0, 0, 0, 0);
    for seed in seeds() {
        let mut prng = Prng::from_seed(seed);
        let faults = Faults::draw(&mut prng);
        let replica_count = u8::try_from(1 + prng.below(6)).unwrap();
        let world = run(seed, replica_count, faults, 2500);
        crashes += world.crashes;
        rots += world.rots;
        stuck += u64::from(world.stuck);
        syncs += world.syncs;
        ops += world.canonical.len();
    }
    assert!(stuck <= 3 + seeds().count() as u64 / 30, "{stuck} runs were stuck");
    let enough = crashes > 20 && rots > 3 && ops > 1000 && syncs > 5;
    assert!(
        enough || seeds().count() < 60,
        "{crashes} crashes, {rots} rots, {ops} ops, {syncs} checkpoints taken over"
    );
}

/// A world without other faults, in which the disks of `full` fill up, after as many ticks more.
fn fill_disks(replica_count: u8, full: u8, ticks: u64) -> World {
    let mut worlds = (0..).map(|seed| World::new(seed, replica_count, Faults::none()));
    let mut world = worlds.find(|world| world.geometry.journal_slots == 64).unwrap();
    world.full = full;
    for _ in 0..ticks {
        world.step();
    }
    world
}

impl World {
    fn view(&self) -> u32 {
        let views = self.nodes.iter().map(|node| node.replica.as_ref().unwrap().view().0);
        views.max().unwrap()
    }
}

#[test]
fn primaries_with_a_full_disk_leave_one_after_the_other_where_the_rest_has_room() {
    for (replica_count, full, view) in
        [(3, 0b001, 1), (3, 0b010, 0), (4, 0b0011, 2), (5, 0b00011, 2), (5, 0b10001, 1)]
    {
        let mut world = fill_disks(replica_count, full, 4000);
        let ops = world.canonical.len();
        assert!(ops > 400, "{ops} ops\n{}", world.summary());
        assert_eq!(world.view(), view, "{replica_count} {full:b}\n{}", world.summary());
        world.full = 0;
        world.heal_and_check(1);
    }
}

#[test]
fn a_primary_with_a_full_disk_stays_where_too_few_have_room() {
    for (replica_count, full) in
        [(1, 0b1), (2, 0b01), (3, 0b011), (3, 0b111), (4, 0b0111), (5, 0b00111), (5, 0b01111)]
    {
        let mut world = fill_disks(replica_count, full, 3000);
        let interval = 32;
        let ops = world.canonical.len() as u64;
        let ops_max = world.geometry.op_prepare_ok_max(0);
        assert!(interval < ops && ops <= ops_max, "{ops} ops\n{}", world.summary());
        // A replica alone enters a view when it opens.
        let view = u32::from(replica_count == 1);
        assert_eq!(world.view(), view, "{replica_count} {full:b}\n{}", world.summary());
        world.full = 0;
        for _ in 0..2000 {
            world.step();
        }
        assert!(world.canonical.len() as u64 > 2 * ops, "{}", world.summary());
        world.heal_and_check(1);
    }
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
