//! The processes of a run and what befalls them: replicas and clients have their turns, are killed,
//! started, paused and cut off, and their clocks jump.
//!
//! ```text
//!   step ──► a turn of a replica ──► checkers (what it executed, what it is)
//!        ├─► a turn of a client ───► checkers (what it asked and was told)
//!        └─► the driver, every 10 ms: crashes, restarts, pauses, partitions, clogs, clocks
//! ```
//!
//! **Invariants:** a replica that is dead has no server and no sockets, and its disk has nothing in
//! flight; the first failure ends the run.
//!
//! **Not here:** phases and their ends (`run`); single faults of frames and sectors.

use super::checkers::{Checkers, Commit, FinalState, Record, ReplicaState, Row};
use super::disk::{Atlas, Disk};
use super::fault::Fault;
use super::faulty_io::FaultyIO;
use super::machine::Machine;
use super::network::{Network, address_of};
use super::options::{Options, delay, ppm};
use super::partition::Partition;
use super::run::Failure;
use super::scheduler::{Clock, MS, Scheduler, What};
use super::speaker::Speaker;
use super::workload::{Budget, ClientSlot};
use super::world::{SharedWorld, Step, World};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use vsr::fatal::FatalKind;
use vsr::recovery::Recovery;
use vsr::replica::executor::Executor;
use vsr::replica::{Quorums, Status};
use vsr::server::{Observer, Server, ServerConfig};
use vsr::state_machine::Reply;
use vsr::state_machine::kv::{self, OperationResult, Outcome, Request, Scan};
use vsr::stdx::Prng;
use vsr::storage::superblock::superblock_zone;
use vsr::storage::{Format, Request as StorageRequest, SuperblockState};
use vsr::wire::{BlockRef, ClusterId, Message, Op, ReplicaIndex};

#[path = "core.rs"]
mod core;
#[cfg(test)]
#[path = "scenarios/hooks_cluster.rs"]
mod hooks;
#[path = "operator.rs"]
mod operator;

use operator::FileFate;

/// How often the driver looks around, ns.
const DRIVER_NS: u64 = 10 * MS;
/// How long a replica of an agreed core may wait for blocks of its own state, ns.
const FINALS_NS: u64 = 60_000 * MS;
/// The cluster's number.
const CLUSTER: ClusterId = ClusterId(0x5eed);
/// What the wall clocks show at the beginning, in the mean, ns since 1970.
const WALL_START: u64 = 1_800_000_000_000_000_000;

/// What replicas did beyond their daily work, over all their lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Repairs {
    pub(crate) prepares: u64,
    pub(crate) headers: u64,
    pub(crate) view_changes: u64,
    /// Uncertain heads that the logs of others made certain.
    pub(crate) heads: u64,
    /// Ends of a replica that had lost a block of its own before it was in a checkpoint.
    pub(crate) blocks_lost: u64,
    /// Checkpoints written.
    pub(crate) checkpoints: u64,
    /// Checkpoints taken over from others.
    pub(crate) syncs: u64,
    /// Blocks that were bad, or not there, and came from others.
    pub(crate) blocks: u64,
    /// How often a replica whose file was lost and formatted anew was turned away.
    pub(crate) files_refused: u64,
    /// How often a lost file was replaced by one that the cluster took for it.
    pub(crate) files_recovered: u64,
}

impl Repairs {
    /// All of them, by name.
    pub(crate) fn counts(&self) -> [(&'static str, u64); 10] {
        [
            ("prepares", self.prepares),
            ("headers", self.headers),
            ("view_changes", self.view_changes),
            ("heads", self.heads),
            ("checkpoints", self.checkpoints),
            ("syncs", self.syncs),
            ("blocks", self.blocks),
            ("blocks_lost", self.blocks_lost),
            ("files_refused", self.files_refused),
            ("files_recovered", self.files_recovered),
        ]
    }

    /// What the replica did in this life.
    fn add(&mut self, server: &Server<Machine>) {
        let counters = server.replica().counters();
        self.prepares += counters.prepares_repaired;
        self.headers += counters.headers_repaired;
        self.view_changes += counters.view_changes;
        self.heads += counters.heads_resolved;
        self.syncs += counters.syncs;
        let counters = server.executor().store().counters();
        self.checkpoints += counters.checkpoints_written;
        self.blocks += counters.blocks_repaired;
    }
}

#[derive(Debug)]
struct ReplicaSlot {
    io: FaultyIO,
    server: Option<Server<Machine>>,
    /// When a dead one is started, ns.
    restart_at: u64,
    /// It is never started again.
    is_abandoned: bool,
    /// It knows, durably, that the cluster was born with it.
    is_member: bool,
    /// What became of its file.
    file: FileFate,
    /// Its file is being recovered.
    recovery: Option<Recovery>,
    /// The newest checkpoint that it has in full.
    complete: BlockRef,
    /// The checkpoint that its file says is being taken over.
    syncing: BlockRef,
    /// The op of the checkpoint that was last looked for on its disk in this life.
    surveyed: Op,
    /// Uncertain heads that became certain in this life, as far as was seen.
    heads_resolved: u64,
    /// What was last noted of it.
    noted: (u64, u64, u64, u64),
}

impl ReplicaSlot {
    fn new(io: FaultyIO) -> Self {
        Self {
            io,
            server: None,
            restart_at: 0,
            is_abandoned: false,
            is_member: false,
            file: FileFate::Whole,
            recovery: None,
            complete: BlockRef::NONE,
            syncing: BlockRef::NONE,
            surveyed: 0,
            heads_resolved: 0,
            noted: (0, 0, 0, 0),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) options: Options,
    pub(crate) world: SharedWorld,
    pub(crate) checkers: Checkers,
    pub(crate) budget: Budget,
    pub(crate) repairs: Repairs,
    replicas: Vec<ReplicaSlot>,
    clients: Vec<ClientSlot>,
    prng: Prng,
    /// By process: until when it is paused, ns.
    paused_until: Vec<u64>,
    /// Until when there is a partition; 0 without one.
    partition_until: u64,
    /// The replicas that a rolling restart has still to kill, and when the next one is due.
    rolling: Vec<usize>,
    rolling_at: u64,
    /// The faults of processes, paths and clocks are over.
    is_calm: bool,
    /// The replica that may lose its file.
    doomed: Option<usize>,
    /// Kept to keep its memory.
    spoken: Vec<(usize, usize, Bytes)>,
}

/// Tells the checkers what a replica executes.
struct Watcher<'a> {
    checkers: &'a mut Checkers,
    replica: u8,
    now: u64,
    failure: Option<String>,
}

impl Observer<Machine> for Watcher<'_> {
    fn on_commit(&mut self, prepare: &Message, executor: &Executor<Machine>) {
        let header = prepare.prepare_header();
        let id = header.id();
        let digest = Some(executor.digest());
        let checkpoint = executor.store().checkpoint();
        let parent = header.command.parent;
        let commit = Commit { op: executor.op(), id, parent, digest, checkpoint };
        let result = self.checkers.on_commit(self.replica, commit, self.now / DRIVER_NS);
        self.checkers.on_ledger_commit(prepare);
        if self.failure.is_none() {
            self.failure = result.err();
        }
    }
}

impl Cluster {
    /// A cluster of freshly formatted replicas, all of them started, and its clients.
    pub(crate) fn new(seed: u64, options: Options, is_logged: bool, prng: &mut Prng) -> Self {
        let replica_count = u8::try_from(options.replicas).expect("at most six");
        let replicas = usize::from(replica_count);
        let client_count = usize::try_from(options.clients).expect("a few");
        let processes = replicas + client_count;
        let mut scheduler = Scheduler::new(seed, options.turn_time * 1000, is_logged);
        let mut clocks = prng.fork();
        for process in 0..processes {
            let clock = draw_clock(&options, &mut clocks);
            let has_drift = clock.drift_ppm != 0;
            scheduler.add_process(clock, prng.fork());
            if has_drift {
                scheduler.fault(process, Fault::ClockDrift, 0, 0);
            }
        }
        let geometry = options.geometry();
        let quorums = Quorums::new(replica_count);
        let mut fates = prng.fork();
        let doomed = (options.file_lost > 0 && replicas > 2).then(|| fates.index(replicas));
        let atlas = Atlas::new(replica_count, quorums.replication, &geometry, doomed, &mut fates);
        let network = Network::new(options.network(), replicas, processes, prng.fork());
        let mut incarnations = prng.fork();
        let mut disks: Vec<Disk> = Vec::new();
        for replica in 0..replicas {
            let mut disk = Disk::new(replica, options.disk(), geometry, &atlas, prng.fork());
            let incarnation = incarnations.next_u64().max(1);
            let index = ReplicaIndex(u8::try_from(replica).expect("at most six"));
            let state =
                SuperblockState::formatted(CLUSTER, index, replica_count, incarnation, geometry);
            format(&mut disk, disks.first(), &state);
            disks.push(disk);
        }
        scheduler.after(DRIVER_NS, What::Driver);
        let world = Rc::new(RefCell::new(World { scheduler, network, disks }));
        let io = |process| FaultyIO::new(world.clone(), process);
        let slots = (0..replicas).map(|process| ReplicaSlot::new(io(process)));
        let clients = (replicas..processes).map(|process| {
            world.borrow_mut().scheduler.start(process);
            ClientSlot::new(&world, process, replicas, CLUSTER, prng.fork())
        });
        let checkers = match options.machine {
            0 => Checkers::new(replica_count),
            _ => Checkers::of_ledger(replica_count, options.sessions),
        };
        Self {
            replicas: slots.collect(),
            clients: clients.collect(),
            checkers,
            budget: Budget { max: options.requests, ..Budget::default() },
            repairs: Repairs::default(),
            prng: prng.fork(),
            paused_until: vec![0; processes],
            partition_until: 0,
            rolling: Vec::new(),
            rolling_at: 0,
            is_calm: false,
            doomed,
            spoken: Vec::new(),
            world,
            options,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.world.borrow().scheduler.now()
    }

    pub(crate) fn quorums(&self) -> Quorums {
        Quorums::new(u8::try_from(self.replicas.len()).expect("at most six"))
    }

    /// Goes on to the next event. True if it was the driver's.
    ///
    /// # Errors
    /// What must never happen.
    pub(crate) fn step(&mut self) -> Result<bool, Failure> {
        let step = self.world.borrow_mut().step();
        match step {
            Step::Turn(process) if process < self.replicas.len() => self.turn_replica(process)?,
            Step::Turn(process) => self.turn_client(process)?,
            Step::Driver => {
                self.drive()?;
                self.world.borrow_mut().scheduler.after(DRIVER_NS, What::Driver);
                return Ok(true);
            }
            Step::Nothing => {}
        }
        Ok(false)
    }

    fn turn_replica(&mut self, process: usize) -> Result<(), Failure> {
        let now = self.now();
        super::run::set_context(now, process);
        if self.replicas[process].recovery.is_some() {
            return self.turn_recovery(process);
        }
        let slot = &mut self.replicas[process];
        let server = slot.server.as_mut().expect("a process that is alive has a server");
        let mut watcher = Watcher {
            checkers: &mut self.checkers,
            replica: u8::try_from(process).expect("at most six"),
            now,
            failure: None,
        };
        let turn = server.turn_observed(&mut slot.io, &mut watcher);
        if let Some(reason) = watcher.failure {
            return Err(Failure::Correctness(reason));
        }
        if let Err(fatal) = turn {
            if slot.file == FileFate::Formatted && fatal.kind == FatalKind::Replaced {
                self.refuse(process);
                return Ok(());
            }
            // Never for nothing: the disk has hurt a block of it.
            let is_hurt = self.world.borrow().disks[process].has_hurt_block();
            if fatal.kind == FatalKind::BlockLost && is_hurt {
                self.world.borrow_mut().scheduler.note(process, "block_lost", 0, 0);
                self.repairs.blocks_lost += 1;
                self.crash(process);
                return Ok(());
            }
            return Err(Failure::Crash(format!("replica {process} ended: {fatal}")));
        }
        self.look_at(process)
    }

    /// Shows the state of a replica after a turn to the checkers, and lets it wait.
    fn look_at(&mut self, process: usize) -> Result<(), Failure> {
        let slot = &mut self.replicas[process];
        let server = slot.server.as_ref().expect("it had its turn");
        let replica = server.replica();
        let state = ReplicaState {
            view: replica.view(),
            log_view: replica.log_view(),
            op: replica.op(),
            commit_min: replica.commit_min(),
            commit_max: replica.commit_max(),
            op_checkpoint: replica.op_checkpoint(),
            view_durable: Some(replica.view_durable()),
            log_view_durable: Some(replica.log_view_durable()),
            op_complete: replica.op_complete_durable(),
            op_syncing: replica.checkpoint_syncing_durable().map(|checkpoint| checkpoint.op),
        };
        let heads_resolved = replica.counters().heads_resolved;
        let status = replica.status() as u64;
        // What is durable stays: a replica that has once known of the birth always will.
        slot.is_member |= replica.may_vote();
        slot.file.note(replica);
        let noted = (status, u64::from(state.view.0), state.op, state.commit_min);
        let wait = server.wait(vsr::io::IO::monotonic(&mut slot.io));
        let is_news = noted != slot.noted;
        slot.noted = noted;
        let world = &mut *self.world.borrow_mut();
        if is_news {
            let (status, view, op, commit_min) = noted;
            let name = status_name(replica.status(), replica.is_primary());
            world.scheduler.note(process, name, view, (op << 32) | commit_min);
            world.scheduler.trace.mix(status);
        }
        let wait = u64::try_from(wait.as_nanos()).expect("a tick");
        world.scheduler.end_turn(process, wait);
        let index = u8::try_from(process).expect("at most six");
        self.checkers.on_bounds(index, &server.bounds()).map_err(Failure::Correctness)?;
        slot.complete = replica.checkpoint_complete_durable().unwrap_or(BlockRef::NONE);
        slot.syncing = replica.checkpoint_syncing_durable().unwrap_or(BlockRef::NONE);
        let root = slot.complete;
        if root.op > slot.surveyed {
            slot.surveyed = root.op;
            let found = world.disks[process].survey(CLUSTER, root);
            self.checkers.on_blocks(index, root.op, found).map_err(Failure::Correctness)?;
        }
        let speaker = Speaker::new(index, &state, self.options.geometry());
        if heads_resolved != slot.heads_resolved {
            slot.heads_resolved = heads_resolved;
            let (disk, geometry) = (&world.disks[process], self.options.geometry());
            let is_hurt = |op| disk.is_hurt(geometry.slot(op));
            let resolved = self.checkers.on_head_resolved(index, state.op, is_hurt);
            resolved.map_err(Failure::Correctness)?;
        }
        self.checkers.on_state(index, state).map_err(Failure::Correctness)?;
        let mut spoken = std::mem::take(&mut self.spoken);
        world.network.take_spoken(&mut spoken);
        for (from, to, frame) in spoken.drain(..) {
            assert_eq!(from, process, "frames leave in the turn of their sender");
            let is_to_replica = to < self.replicas.len();
            let disk = &world.disks[process];
            let result = speaker.hear(&mut self.checkers, disk, is_to_replica, &frame);
            result.map_err(Failure::Correctness)?;
        }
        self.spoken = spoken;
        Ok(())
    }

    fn turn_client(&mut self, process: usize) -> Result<(), Failure> {
        super::run::set_context(self.now(), process);
        let client = &mut self.clients[process - self.replicas.len()];
        let wait = client
            .turn(&self.options, &mut self.budget, &mut self.checkers)
            .map_err(Failure::Correctness)?;
        let wait = u64::try_from(wait.as_nanos()).expect("some seconds");
        self.world.borrow_mut().scheduler.end_turn(process, wait);
        Ok(())
    }

    // ---- the driver

    fn drive(&mut self) -> Result<(), Failure> {
        let now = self.now();
        for replica in 0..self.replicas.len() {
            let slot = &self.replicas[replica];
            let is_dead = slot.server.is_none() && slot.recovery.is_none();
            if is_dead && now >= slot.restart_at && !slot.is_abandoned {
                match slot.file {
                    FileFate::Missing => self.begin_recovery(replica),
                    _ => self.start(replica)?,
                }
            }
        }
        for process in 0..self.paused_until.len() {
            let is_paused = self.world.borrow().scheduler.processes[process].is_paused;
            if is_paused && now >= self.paused_until[process] {
                self.resume(process);
            }
        }
        if self.is_calm {
            return Ok(());
        }
        self.drive_replicas(now);
        self.drive_pauses(now);
        self.drive_paths(now);
        Ok(())
    }

    fn drive_replicas(&mut self, now: u64) {
        if self.rolling.is_empty() && ppm(self.options.rolling).happens(&mut self.prng) {
            self.rolling = (0..self.replicas.len()).collect();
            self.world.borrow_mut().scheduler.fault(0, Fault::RestartRolling, 0, 0);
        }
        if now >= self.rolling_at
            && let Some(replica) = self.rolling.pop()
        {
            self.rolling_at = now + self.prng.range_inclusive(200 * MS, 1500 * MS);
            self.crash(replica);
            self.replicas[replica].restart_at = now + 50 * MS;
        }
        for replica in 0..self.replicas.len() {
            if ppm(self.options.crash).happens(&mut self.prng) {
                self.crash(replica);
            }
            if ppm(self.options.clock_jump).happens(&mut self.prng) {
                self.jump_clock(replica);
            }
        }
    }

    fn drive_pauses(&mut self, now: u64) {
        for process in 0..self.paused_until.len() {
            if !ppm(self.options.pause).happens(&mut self.prng) {
                continue;
            }
            let duration = delay(1000, self.options.pause_mean).draw(&mut self.prng);
            let scheduler = &mut self.world.borrow_mut().scheduler;
            let state = &scheduler.processes[process];
            if state.is_alive && !state.is_paused {
                scheduler.pause(process, true);
                scheduler.fault(process, Fault::Pause, duration, 0);
                self.paused_until[process] = now + duration;
            }
        }
    }

    fn drive_paths(&mut self, now: u64) {
        let processes = self.paused_until.len();
        if ppm(self.options.clog).happens(&mut self.prng) {
            let (from, to) = (self.prng.index(processes), self.prng.index(processes));
            let until = now + delay(1000, self.options.clog_mean).draw(&mut self.prng);
            self.world.borrow_mut().network.clog(from, to, until);
        }
        if self.partition_until > 0 && now >= self.partition_until {
            self.partition_until = 0;
            self.cut_all(false);
        }
        if self.partition_until == 0 && ppm(self.options.partition).happens(&mut self.prng) {
            let duration = delay(100_000, self.options.partition_mean).draw(&mut self.prng);
            self.partition_until = now + duration;
            self.partition();
        }
    }

    fn cut_all(&mut self, is_cut: bool) {
        let processes = self.paused_until.len();
        let network = &mut self.world.borrow_mut().network;
        for from in 0..processes {
            for to in 0..processes {
                network.cut(from, to, is_cut);
            }
        }
    }

    /// Divides the processes in two sides that do not hear each other, or one not the other.
    fn partition(&mut self) {
        let processes = self.paused_until.len();
        let Some(partition) = Partition::draw(&self.options, processes, &mut self.prng) else {
            return;
        };
        let Partition { sides, is_one_way, named } = &partition;
        let world = &mut *self.world.borrow_mut();
        for from in 0..processes {
            for to in 0..processes {
                if sides[from] != sides[to] && (!is_one_way || sides[from]) {
                    world.network.cut(from, to, true);
                }
            }
        }
        let fault = partition.fault();
        world.scheduler.fault(*named, fault, u64::from(*is_one_way), 0);
        if sides[self.replicas.len()..].iter().any(|side| *side != sides[0]) {
            world.scheduler.fault(*named, Fault::PartitionClient, 0, 0);
        }
    }

    fn jump_clock(&mut self, replica: usize) {
        let jump = self.prng.range_inclusive(1, self.options.clock_jump_max * 1000);
        let forward = self.prng.below(2) == 0;
        let scheduler = &mut self.world.borrow_mut().scheduler;
        let wall = &mut scheduler.processes[replica].clock.wall_ahead;
        *wall = if forward { wall.saturating_add(jump) } else { wall.saturating_sub(jump) };
        // The sum with the monotonic clock must stay a number.
        *wall = (*wall).min(u64::MAX / 2);
        let fault = if forward { Fault::ClockForward } else { Fault::ClockBack };
        scheduler.fault(replica, fault, jump, 0);
    }

    // ---- processes

    /// Starts a dead replica.
    fn start(&mut self, replica: usize) -> Result<(), Failure> {
        assert!(self.replicas[replica].server.is_none());
        let now = self.now();
        super::run::set_context(now, replica);
        let ends_after = if ppm(self.options.crash_opening).happens(&mut self.prng) && !self.is_calm
        {
            Some(u32::try_from(self.prng.below(6)).expect("below six"))
        } else {
            None
        };
        {
            let world = &mut *self.world.borrow_mut();
            if world.scheduler.processes[replica].life > 0 {
                world.scheduler.fault(replica, Fault::Restart, 0, 0);
                world.disks[replica].rot(&mut world.scheduler);
            }
            world.scheduler.start(replica);
        }
        let slot = &mut self.replicas[replica];
        slot.io.begin_opening(ends_after);
        let config = ServerConfig {
            path: format!("replica-{replica}.vsr").into(),
            replica: ReplicaIndex(u8::try_from(replica).expect("at most six")),
            cluster: Some(CLUSTER),
            addresses: (0..self.options.replicas)
                .map(|replica| address_of(usize::try_from(replica).expect("at most six")))
                .collect(),
            listen: None,
            cache_size: self.options.cache << 10,
            size_limit: u64::MAX,
        };
        let opened = Server::open(&mut slot.io, config, Machine::new(self.options.machine));
        let was_ended = slot.io.end_opening();
        match opened {
            Ok(server) => {
                slot.server = Some(server);
                self.look_at(replica)
            }
            Err(_) if was_ended => {
                self.world.borrow_mut().scheduler.fault(replica, Fault::CrashOpening, 0, 0);
                self.kill(replica, false);
                Ok(())
            }
            Err(fatal) => {
                Err(Failure::Crash(format!("replica {replica} cannot be started: {fatal}")))
            }
        }
    }

    /// Kills a replica, if it lives.
    fn crash(&mut self, replica: usize) {
        if self.replicas[replica].recovery.is_some() {
            self.world.borrow_mut().scheduler.fault(replica, Fault::CrashRecovering, 0, 0);
            return self.abandon_recovery(replica);
        }
        let Some(server) = self.replicas[replica].server.take() else { return };
        self.repairs.add(&server);
        drop(server);
        let is_silent = ppm(self.options.crash_silent).happens(&mut self.prng);
        let fault = if is_silent { Fault::CrashSilent } else { Fault::CrashReset };
        self.world.borrow_mut().scheduler.fault(replica, fault, 0, 0);
        self.kill(replica, is_silent);
        // Before the birth it is the end of the cluster, which is seldom worth a look.
        let is_time = self.is_born() || self.prng.below(16) == 0;
        let is_doomed = self.doomed == Some(replica) && is_time && !self.is_calm;
        if is_doomed && ppm(self.options.file_lost).happens(&mut self.prng) {
            self.lose_file(replica);
        }
    }

    fn kill(&mut self, replica: usize, is_silent: bool) {
        let restart = delay(1000, self.options.restart_mean).draw(&mut self.prng);
        let world = &mut *self.world.borrow_mut();
        world.network.crash(&mut world.scheduler, replica, is_silent);
        world.disks[replica].crash(&mut world.scheduler);
        world.scheduler.stop(replica);
        self.replicas[replica].restart_at = world.scheduler.now() + restart;
        self.replicas[replica].surveyed = 0;
        self.replicas[replica].heads_resolved = 0;
        self.replicas[replica].noted = (0, 0, 0, 0);
        self.checkers.on_restart(u8::try_from(replica).expect("at most six"));
    }

    fn resume(&mut self, process: usize) {
        let scheduler = &mut self.world.borrow_mut().scheduler;
        scheduler.pause(process, false);
        scheduler.note(process, "resume", 0, 0);
    }

    /// Whether some replica knows that the cluster was born with the file it has.
    fn is_born(&self) -> bool {
        self.replicas.iter().any(|slot| slot.is_member)
    }

    /// Whether all calls have ended, and no more are to come.
    pub(crate) fn is_workload_done(&self) -> bool {
        self.budget.begun == self.budget.max && !self.clients.iter().any(ClientSlot::has_call)
    }

    /// The highest op of any living replica.
    pub(crate) fn op_max(&self) -> u64 {
        self.op_max_of(0..self.replicas.len())
    }

    fn op_max_of(&self, replicas: impl Iterator<Item = usize>) -> u64 {
        let servers = replicas.filter_map(|replica| self.replicas[replica].server.as_ref());
        servers.map(|server| server.replica().op()).max().unwrap_or(0)
    }

    /// Whether the core agrees on everything and has nothing left to do; if not, why.
    pub(crate) fn pending(&self, core: &[usize]) -> Option<String> {
        if !self.is_workload_done() {
            let (begun, max) = (self.budget.begun, self.budget.max);
            let open = self.clients.iter().filter(|client| client.has_call()).count();
            return Some(format!("{begun} of {max} calls begun, {open} without an end"));
        }
        let op = self.op_max_of(core.iter().copied());
        let mut view = None;
        for &index in core {
            // It was drawn while nobody knew yet that the cluster is born, and is refused since.
            if self.replicas[index].file == FileFate::Formatted && self.is_born() {
                continue;
            }
            let Some(server) = &self.replicas[index].server else {
                return Some(format!("replica {index} is not up"));
            };
            let replica = server.replica();
            if *view.get_or_insert(replica.view()) != replica.view() {
                return Some(format!("replica {replica} is in another view"));
            }
            if replica.status() != Status::Normal || replica.commit_min() < op {
                return Some(format!("replica {replica} is not at op {op}"));
            }
            if replica.is_loading() || replica.is_syncing() {
                return Some(format!("replica {replica} has not all of its checkpoint"));
            }
            let to_repair = replica.ops_to_repair();
            if to_repair > 0 {
                return Some(format!("replica {replica}: {to_repair} ops are not durable"));
            }
        }
        None
    }

    /// What the replicas of the converged core have stored. What a ledger has is judged at once.
    ///
    /// # Errors
    /// What fails while blocks are waited for, or that they do not come.
    pub(crate) fn finals(&mut self, core: &[usize]) -> Result<Vec<FinalState>, Failure> {
        if self.options.machine != 0 {
            self.judge_ledgers(core)?;
            return Ok(Vec::new());
        }
        let deadline = self.now() + FINALS_NS;
        let mut states = Vec::new();
        for &index in core {
            if self.replicas[index].file == FileFate::Formatted {
                continue; // It was refused.
            }
            let (op, (revision, rows)) = loop {
                let server = self.replicas[index].server.as_mut();
                let executor = server.expect("who is in the core stays up").executor_mut();
                if let Some(found) = all_rows(executor) {
                    break (executor.op(), found);
                }
                self.await_blocks(index, deadline)?;
            };
            let replica = u8::try_from(index).expect("at most six");
            states.push(FinalState { replica, op, revision, rows });
        }
        Ok(states)
    }

    /// Blocks that are not in memory come while the world goes on.
    fn await_blocks(&mut self, replica: usize, deadline: u64) -> Result<(), Failure> {
        if self.now() > deadline {
            let reason = format!("replica {replica} does not get the blocks of its own state");
            return Err(Failure::Liveness(reason));
        }
        self.step().map(|_| ())
    }

    /// Shows the checkers what lies on the disks of a core that has agreed.
    pub(crate) fn show_disks(&mut self, core: &[usize]) {
        let slots = u64::from(self.options.geometry().journal_slots);
        for &index in core {
            let Some(server) = &self.replicas[index].server else { continue };
            let replica = server.replica();
            let disk = &self.world.borrow().disks[index];
            let index = u8::try_from(index).expect("at most six");
            if let Some(root) = replica.checkpoint_complete_durable() {
                // It is told by the report.
                let _ = self.checkers.on_blocks(index, root.op, disk.survey(CLUSTER, root));
            }
            for op in replica.op_checkpoint() + 1..=replica.commit_min() {
                if !disk.is_hurt(u32::try_from(op % slots).expect("of few slots")) {
                    self.checkers.on_slot(index, op, disk.slot_of(op));
                }
            }
        }
    }

    fn judge_ledgers(&mut self, core: &[usize]) -> Result<(), Failure> {
        let accounts = self.checkers.ledger_accounts();
        for &index in core {
            if self.replicas[index].file == FileFate::Formatted {
                continue; // It was refused.
            }
            let total = self.ask_ledger(index, "total")?.expect("there is always a total");
            let mut balances = BTreeMap::new();
            for account in &accounts {
                if let Some(balance) = self.ask_ledger(index, &format!("balance {account}"))? {
                    balances.insert(*account, balance);
                }
            }
            let op = self.replicas[index].server.as_ref().map(|server| server.executor().op());
            let op = op.expect("who is in the core stays up");
            self.checkers.on_ledger_final(index, op, &balances, total);
        }
        Ok(())
    }

    /// The number that a replica answers a query with, if it does not refuse it.
    fn ask_ledger(&mut self, replica: usize, query: &str) -> Result<Option<u64>, Failure> {
        let deadline = self.now() + FINALS_NS;
        loop {
            let slot = &mut self.replicas[replica];
            let server = slot.server.as_mut().expect("who is in the core stays up");
            let mut reply = Reply::new(100);
            if server.executor_mut().peek(query.as_bytes(), &mut reply) {
                let text = String::from_utf8(reply.bytes).expect("digits");
                return Ok(Some(text.parse().expect("a number")));
            }
            if server.executor().store().is_ready() {
                return Ok(None);
            }
            self.await_blocks(replica, deadline)?;
        }
    }

    /// Ends the counting of repairs: adds those of the living.
    pub(crate) fn repairs_total(&self) -> Repairs {
        let mut total = self.repairs;
        for server in self.replicas.iter().filter_map(|slot| slot.server.as_ref()) {
            total.add(server);
        }
        total
    }
}

/// Whether an event of this name tells of the status of a replica: its `b` is two numbers then, the
/// head of the log and what was executed, of 32 bits each.
pub(crate) fn is_status(name: &str) -> bool {
    ["primary", "backup", "view_change", "recovering", "recovering_head"].contains(&name)
}

fn status_name(status: Status, is_primary: bool) -> &'static str {
    match status {
        Status::Normal if is_primary => "primary",
        Status::Normal => "backup",
        Status::ViewChange => "view_change",
        Status::Recovering => "recovering",
        Status::RecoveringHead => "recovering_head",
    }
}

fn draw_clock(options: &Options, prng: &mut Prng) -> Clock {
    let span = i64::try_from(options.drift).expect("a part of a million");
    let drawn = i64::try_from(prng.below(options.drift * 2 + 1)).expect("small");
    // A few tens of milliseconds apart, as machines are.
    let apart = prng.below(20 * MS);
    let base = prng.below(1 << 40);
    // Monotonic clocks begin anywhere; wall clocks do not.
    Clock { drift_ppm: drawn - span, base, wall_ahead: WALL_START + apart - base }
}

/// Formats a disk. Files that were formatted differ in their superblocks alone: so with the disk of
/// another replica of the cluster, only that is written.
fn format(disk: &mut Disk, formatted: Option<&Disk>, state: &SuperblockState) {
    if let Some(formatted) = formatted {
        disk.format_like(formatted);
        return disk.format(0, superblock_zone(state).as_ref());
    }
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        for request in requests.drain(..) {
            let StorageRequest::Write { token, offset, sectors } = request else {
                unreachable!("a format does not read");
            };
            disk.format(offset, &sectors);
            format.on_write_done(token);
        }
    }
}

/// All that kv has stored, and its counter of writes.
fn all_rows(executor: &mut Executor<Machine>) -> Option<(u64, Vec<Row>)> {
    let request = Request::scan(Scan::all()).encode();
    let mut reply = Reply::new(64 << 20);
    if !executor.peek(&request, &mut reply) {
        return None;
    }
    let reply = kv::Reply::decode(&reply.bytes).expect("kv's own reply");
    let [Outcome::Done(results)] = &reply.outcomes[..] else { panic!("one transaction") };
    let [OperationResult::Scan { rows, more: false }] = &results[..] else { panic!("one scan") };
    let row = |row: &kv::Row<'_>| {
        let value = Bytes::copy_from_slice(row.record.value);
        let record = Record { revision: row.record.revision, value };
        Row { key: Bytes::copy_from_slice(row.key), record }
    };
    Some((reply.revision, rows.iter().map(row).collect()))
}
