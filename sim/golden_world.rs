//! Three bare replicas whose every message, write and state goes to a text: what the golden traces
//! are made of. Nothing happens but what a scenario asks for.
//!
//! ```text
//!   scenario ── request, tick, crash, cut ──► World { mail, Node × 3 { disk, replica, executor } }
//!                                               │ settle: turns, then disks, until nothing waits
//!                                               └──► lines "tick from -> to command fields"
//! ```
//!
//! A turn hands a replica all the mail that waits for it, then ends, as the server's loop does. A
//! line is written when a message arrives, or is lost: so each message is there exactly once.
//!
//! **Invariants:** no socket, no thread, no clock but the count of ticks; who comes next is fixed;
//! what was not settled at the end of a scenario is an error.
//!
//! **Not here:** which scenarios there are (`golden_scenarios`), what is done with the text
//! (`golden`).

#[path = "golden_blocks.rs"]
mod blocks;

use std::collections::{BTreeSet, VecDeque};
use std::fmt::{self, Write};
use vsr::replica::executor::{Admission, ClientReply, CommitOutcome, Executor};
use vsr::replica::{Effects, Now, Replica, Route, Status, is_recover};
use vsr::state_machine::kv::{self, Kv};
use vsr::stdx::{AlignedBuffer, Prng};
use vsr::storage::{
    Format, Geometry, Layout, Opening, ReadResult, Request as DiskRequest, SuperblockState, Token,
};
use vsr::store;
use vsr::wire::{
    Author, BlockRef, ClientId, ClusterId, Command, Eviction, EvictionReason, Header, HeaderSet,
    IncarnationTable, Message, Op, Operation, PingClient, Recover, RejectReason, ReplicaIndex,
    Request, RequestStatus, StatusReport, View, decode_headers,
};

const CLUSTER: ClusterId = ClusterId(7);
const REPLICAS: u8 = 3;
const TICK_NS: u64 = vsr::constants::TICK_NS;
/// What the wall clocks show at tick 0, ns.
const WALL: u64 = 1_000_000_000;

const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 3,
    clients_max: 6,
};

/// Who sends and receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Party {
    Replica(u8),
    Client(u128),
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(replica) => write!(f, "{replica}"),
            Self::Client(client) => write!(f, "c{client}"),
        }
    }
}

struct Mail {
    from: Party,
    to: Party,
    message: Message,
}

struct Process {
    replica: Replica,
    executor: Executor<Kv>,
    /// A prepare that waits for blocks.
    suspended: Option<Message>,
    /// Blocks asked for.
    wanted: BTreeSet<BlockRef>,
}

struct Node {
    disk: Vec<u8>,
    /// Queued and not done.
    pending: VecDeque<DiskRequest>,
    /// Nothing that is queued gets done.
    is_stalled: bool,
    process: Option<Process>,
    starts: u64,
    /// The last state that was written down.
    shown: String,
    /// What its wall clock is ahead, ns.
    wall_ahead: u64,
}

/// See the module.
pub(super) struct World {
    nodes: Vec<Node>,
    mail: VecDeque<Mail>,
    tick: u64,
    /// When the recording began.
    tick_start: u64,
    /// Paths over which everything is lost.
    cut: BTreeSet<(Party, Party)>,
    is_recording: bool,
    text: String,
}

impl World {
    /// Three freshly formatted files; nobody is started.
    pub(super) fn new() -> Self {
        let nodes = (0..REPLICAS).map(|replica| Node {
            disk: formatted(replica, 100 + u64::from(replica)),
            pending: VecDeque::new(),
            is_stalled: false,
            process: None,
            starts: 0,
            shown: String::new(),
            wall_ahead: 0,
        });
        Self {
            nodes: nodes.collect(),
            mail: VecDeque::new(),
            tick: 0,
            tick_start: 0,
            cut: BTreeSet::new(),
            is_recording: false,
            text: String::new(),
        }
    }

    /// A cluster in view 0 that was born, with the sessions of clients 1 to `clients` (2, 3, …)
    /// and all that is committed executed everywhere.
    pub(super) fn born(clients: u128) -> Self {
        let mut world = Self::new();
        (0..REPLICAS).for_each(|replica| world.start(replica));
        world.settle();
        world.tick_until(|world| (0..REPLICAS).all(|index| world.replica(index).is_born()));
        for client in 1..=clients {
            world.register(client, 0);
            world.settle();
        }
        world.tick_until(Self::is_level);
        // The pings of the birth are over; the next come in a second.
        (0..15).for_each(|_| world.tick());
        world
    }

    /// Begins to write down what happens.
    pub(super) fn record(&mut self) {
        self.is_recording = true;
        self.tick_start = self.tick;
        (0..REPLICAS).for_each(|replica| self.show(replica));
    }

    /// A sentence in the text.
    pub(super) fn say(&mut self, sentence: &str) {
        if self.is_recording {
            writeln!(self.text, "\n# {sentence}").expect("a string takes all");
        }
    }

    /// The text, when the scenario is over.
    pub(super) fn finish(mut self) -> String {
        self.settle();
        self.text
    }

    // ---- what a scenario looks at

    pub(super) fn replica(&self, index: u8) -> &Replica {
        &self.nodes[usize::from(index)].process.as_ref().expect("it is up").replica
    }

    pub(super) fn is_up(&self, replica: u8) -> bool {
        self.nodes[usize::from(replica)].process.is_some()
    }

    /// Whether all that are up have executed the same and know of it.
    pub(super) fn is_level(&self) -> bool {
        let alive = self.nodes.iter().filter_map(|node| node.process.as_ref());
        let mut states = alive.map(|process| {
            let replica = &process.replica;
            (replica.status() == Status::Normal, replica.view(), replica.commit_min())
        });
        let Some(first) = states.next() else { return true };
        first.0 && states.all(|state| state == first)
    }

    // ---- what a scenario does

    pub(super) fn start(&mut self, replica: u8) {
        self.event(replica, "starts");
        let now = self.now(replica);
        let node = &mut self.nodes[usize::from(replica)];
        assert!(node.process.is_none());
        node.starts += 1;
        let prng = Prng::from_seed(u64::from(replica) * 100 + node.starts);
        let opened = open(&mut node.disk);
        let options = store::Options {
            cluster: CLUSTER,
            geometry: GEOMETRY,
            cache_size: 1 << 20,
            file_size: node.disk.len() as u64,
            size_limit: u64::MAX,
        };
        let executor = Executor::open(Kv::new(), &options);
        let mut effects = Effects::default();
        let core = Replica::open(opened, now, prng, &mut effects);
        let wanted = BTreeSet::new();
        node.process = Some(Process { replica: core, executor, suspended: None, wanted });
        self.drain(replica, &mut effects);
        self.show(replica);
    }

    /// Ends a process. What it has queued for its disk is not written.
    pub(super) fn crash(&mut self, replica: u8) {
        self.event(replica, "dies");
        let node = &mut self.nodes[usize::from(replica)];
        assert!(node.process.take().is_some());
        node.pending.clear();
        node.is_stalled = false;
        node.shown.clear();
    }

    /// Everything from one to the other is lost, or no longer.
    pub(super) fn cut(&mut self, from: Party, to: Party, is_cut: bool) {
        if is_cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// The disk of a replica completes nothing, or goes on.
    pub(super) fn stall(&mut self, replica: u8, is_stalled: bool) {
        self.nodes[usize::from(replica)].is_stalled = is_stalled;
        self.event(replica, if is_stalled { "disk stands still" } else { "disk goes on" });
    }

    /// Sets the wall clock of a replica ahead, ns.
    pub(super) fn set_clock_ahead(&mut self, replica: u8, wall_ahead: u64) {
        self.nodes[usize::from(replica)].wall_ahead = wall_ahead;
    }

    /// The prepare in the slot of `op` rots; its redundant header does not.
    pub(super) fn damage(&mut self, replica: u8, op: Op) {
        let offset = Layout::new(GEOMETRY).prepare_offset(GEOMETRY.slot(op));
        let offset = usize::try_from(offset).expect("a small file");
        self.nodes[usize::from(replica)].disk[offset..offset + 4096].fill(0xDA);
        self.event(replica, &format!("slot of op {op} rots"));
    }

    /// All blocks that the replica has written rot.
    pub(super) fn damage_blocks(&mut self, replica: u8) {
        let grid = usize::try_from(Layout::new(GEOMETRY).grid_offset()).expect("a small file");
        self.nodes[usize::from(replica)].disk[grid..].fill(0xDA);
        self.event(replica, "all blocks rot");
    }

    /// How many blocks that were bad the replica has written anew.
    pub(super) fn blocks_repaired(&self, replica: u8) -> u64 {
        let process = self.nodes[usize::from(replica)].process.as_ref().expect("it is up");
        process.executor.store().counters().blocks_repaired
    }

    /// The file is lost, and formatted again.
    pub(super) fn format_again(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        assert!(node.process.is_none());
        node.disk = formatted(replica, 200 + u64::from(replica));
        self.event(replica, "is formatted again");
    }

    /// The file is lost, and nothing is in its place.
    pub(super) fn lose(&mut self, replica: u8) {
        let node = &mut self.nodes[usize::from(replica)];
        assert!(node.process.is_none());
        node.disk.clear();
        self.event(replica, "has lost its file");
    }

    /// The superblock of the file in its place is written: it begins in `view`, and op `op` wrote
    /// the table that names it.
    pub(super) fn recovered(&mut self, recover: &Recover, op: Op, view: u32) {
        let Recover { replica, incarnation, .. } = *recover;
        let state = SuperblockState::formatted(CLUSTER, replica, REPLICAS, incarnation, GEOMETRY);
        let state = SuperblockState::recovered(state, View(view), recover.table_at(op));
        self.nodes[replica.index()].disk = format(&state);
        self.event(replica.0, &format!("has a file of incarnation {incarnation}, view {view}"));
    }

    /// A client asks how a replica is.
    pub(super) fn request_status(&mut self, client: u128, to: u8) {
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let message = Message::new(&author, RequestStatus { client: ClientId(client) }, &[]);
        self.post(Party::Client(client), Party::Replica(to), message);
    }

    /// Lets `ticks` pass and leaves out what happens.
    pub(super) fn skip(&mut self, ticks: u64) {
        self.say(&format!("{ticks} ticks are left out."));
        self.is_recording = false;
        (0..ticks).for_each(|_| self.tick());
        self.is_recording = true;
        (0..REPLICAS).for_each(|replica| self.show(replica));
    }

    /// A client asks.
    pub(super) fn request(&mut self, client: u128, to: u8, request: &ClientRequest<'_>) {
        let ClientRequest { view, session, request, operation, body } = *request;
        let author =
            Author { cluster: CLUSTER, view: View(view), replica: ReplicaIndex(0), incarnation: 0 };
        let operation = operation as u8;
        let command = Request { client: ClientId(client), session, request, operation };
        let message = Message::new(&author, command, body);
        self.post(Party::Client(client), Party::Replica(to), message);
    }

    pub(super) fn register(&mut self, client: u128, to: u8) {
        let view = 0;
        let operation = Operation::Register;
        self.request(
            client,
            to,
            &ClientRequest { view, session: 0, request: 0, operation, body: &[] },
        );
    }

    /// A client of session `session` stores something; its number in the session is `request`.
    pub(super) fn apply(&mut self, client: u128, to: u8, view: u32, session: u64, request: u64) {
        let body = kv::Request::put(b"key", b"value").encode();
        let operation = Operation::Apply;
        self.request(client, to, &ClientRequest { view, session, request, operation, body: &body });
    }

    /// A client asks who is primary.
    pub(super) fn ping_client(&mut self, client: u128, to: u8) {
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let ping = PingClient { client: ClientId(client), timestamp_monotonic: 5 };
        let message = Message::new(&author, ping, &[]);
        self.post(Party::Client(client), Party::Replica(to), message);
    }

    /// All that are up count a tick, and everything that follows happens.
    pub(super) fn tick(&mut self) {
        self.tick_some(&[0, 1, 2]);
    }

    /// Some count a tick; the others stand still.
    pub(super) fn tick_some(&mut self, replicas: &[u8]) {
        self.tick += 1;
        for &replica in replicas {
            if self.nodes[usize::from(replica)].process.is_some() {
                self.act(replica, |core, effects| core.on_tick(effects));
                self.act(replica, |core, effects| core.on_turn_end(effects));
            }
        }
        self.settle();
    }

    /// Ticks until something holds.
    pub(super) fn tick_until(&mut self, condition: impl Fn(&Self) -> bool) {
        self.tick_some_until(&[0, 1, 2], condition);
    }

    /// Some tick until something holds.
    pub(super) fn tick_some_until(&mut self, replicas: &[u8], condition: impl Fn(&Self) -> bool) {
        let limit = self.tick + 2000;
        while !condition(self) {
            assert!(self.tick < limit, "it never comes to that:\n{}", self.text);
            self.tick_some(replicas);
        }
    }

    /// Lets everything happen that needs no time.
    pub(super) fn settle(&mut self) {
        while self.step() {}
    }

    /// All mail that waits arrives; then each disk completes what it had queued. False if there was
    /// nothing to do.
    pub(super) fn step(&mut self) -> bool {
        let mut is_busy = self.deliver();
        for replica in 0..REPLICAS {
            is_busy |= self.complete(replica);
        }
        is_busy
    }

    // ---- turns

    fn now(&self, replica: u8) -> Now {
        let monotonic = self.tick * TICK_NS;
        let wall_ahead = self.nodes[usize::from(replica)].wall_ahead;
        Now { monotonic, realtime: WALL + wall_ahead + monotonic }
    }

    fn post(&mut self, from: Party, to: Party, message: Message) {
        self.mail.push_back(Mail { from, to, message });
    }

    /// A turn for each replica that has mail; clients read theirs, and keep silent.
    fn deliver(&mut self) -> bool {
        let mail = std::mem::take(&mut self.mail);
        let is_busy = !mail.is_empty();
        let (for_replicas, for_clients): (VecDeque<_>, VecDeque<_>) =
            mail.into_iter().partition(|mail| matches!(mail.to, Party::Replica(_)));
        let mut boxes: Vec<Vec<Mail>> = (0..REPLICAS).map(|_| Vec::new()).collect();
        for mail in for_replicas {
            let Party::Replica(replica) = mail.to else { unreachable!("partitioned") };
            boxes[usize::from(replica)].push(mail);
        }
        for (replica, mails) in (0..REPLICAS).zip(boxes) {
            let mut had_turn = false;
            for mail in mails {
                if self.arrives(&mail) {
                    had_turn = true;
                    self.on_message(replica, &mail.message);
                }
            }
            if had_turn {
                self.act(replica, |core, effects| core.on_turn_end(effects));
            }
        }
        for mail in for_clients {
            self.arrives(&mail);
        }
        is_busy
    }

    /// Writes a message down; false if it is lost.
    fn arrives(&mut self, mail: &Mail) -> bool {
        let Mail { from, to, message } = mail;
        let is_up = match to {
            Party::Replica(replica) => self.nodes[usize::from(*replica)].process.is_some(),
            Party::Client(_) => true,
        };
        let arrives = is_up && !self.cut.contains(&(*from, *to));
        let arrow = match (arrives, is_up) {
            (true, _) => "->",
            (false, true) => "-x",
            // Nobody is there.
            (false, false) => "--",
        };
        let name = message.header().command.name();
        let path = format!("{from} {arrow} {to}");
        self.line(&format!("{path:<10}{name:<19}{}", fields(message)));
        arrives
    }

    fn on_message(&mut self, replica: u8, message: &Message) {
        // What a receiver would refuse to decode proves nothing.
        let message = Message::decode(message.bytes()).expect("what a replica sends is valid");
        let header = *message.header();
        match header.command {
            Command::Request(request) => {
                self.on_request(replica, &header.with(request), &message);
            }
            Command::PingClient(ping) => {
                let pong = self.replica(replica).pong_client(ping.client, ping.timestamp_monotonic);
                if let Some(pong) = pong {
                    self.post(Party::Replica(replica), Party::Client(ping.client.0), pong);
                }
            }
            Command::RequestStatus(request) => {
                let Process { replica: core, executor, .. } =
                    self.nodes[usize::from(replica)].process.as_ref().expect("it is up");
                let (sessions, store) = (executor.sessions_count(), executor.store());
                let status = core.status_message(request.client, sessions, store);
                self.post(Party::Replica(replica), Party::Client(request.client.0), status);
            }
            Command::RequestBlocks(_) | Command::Block(_) => self.on_blocks(replica, &message),
            _ => self.act(replica, |core, effects| core.on_message(&message, effects)),
        }
    }

    /// What a server does with the request of a client, without its connections.
    fn on_request(&mut self, replica: u8, header: &Header<Request>, message: &Message) {
        let now = self.now(replica);
        let process = self.nodes[usize::from(replica)].process.as_mut().expect("it is up");
        let Process { replica: core, executor, .. } = process;
        core.set_now(now);
        let author = core.author_for_clients();
        let route = core.route(header);
        let admission = executor.admit(header, message.body());
        let client = Party::Client(header.command.client.0);
        let reject =
            |core: &Replica, reason: RejectReason| (client, core.reject(&header.command, reason));
        let answer = match (route, admission) {
            (Route::Ignore(_), _) => None,
            (Route::Reject(reason), _) => Some(reject(core, reason)),
            (_, Admission::Reply(reply)) => Some((client, reply.to_message(&author))),
            (_, Admission::Reject(reason)) => Some(reject(core, reason)),
            (Route::Backup { primary }, _) => Some((Party::Replica(primary.0), message.clone())),
            (Route::Primary, Admission::Accept) if is_recover(header) => {
                core.gather_recover(message).expect("nothing speaks against it");
                None
            }
            (Route::Primary, Admission::Accept) => {
                core.gather(message).expect("scenarios do not flood");
                None
            }
            (Route::Primary, Admission::Evict(reason)) => {
                assert!(core.has_executed_view_log());
                Some((client, eviction(&author, header.command.session, client, reason)))
            }
            (Route::Primary, Admission::Ignore(_)) => None,
        };
        if let Some((to, message)) = answer {
            self.post(Party::Replica(replica), to, message);
        }
    }

    /// Hands an input to a replica, and carries out what it wants.
    fn act(&mut self, replica: u8, act: impl FnOnce(&mut Replica, &mut Effects)) {
        let now = self.now(replica);
        // It may have ended in this very turn.
        let Some(process) = &mut self.nodes[usize::from(replica)].process else { return };
        let mut effects = Effects::default();
        process.replica.set_now(now);
        act(&mut process.replica, &mut effects);
        self.drain(replica, &mut effects);
        self.blocks_advance(replica, &mut effects);
        self.drain(replica, &mut effects);
        self.execute_suspended(replica, &mut effects);
        self.show(replica);
    }

    fn drain(&mut self, replica: u8, effects: &mut Effects) {
        while !effects.is_empty() {
            if let Some(fatal) = effects.fatal.take() {
                self.event(replica, &format!("ends: {:?}", fatal.kind));
                self.nodes[usize::from(replica)].process = None;
                *effects = Effects::default();
                return;
            }
            self.nodes[usize::from(replica)].pending.extend(effects.requests.drain(..));
            for (to, message) in std::mem::take(&mut effects.sends) {
                self.post(Party::Replica(replica), Party::Replica(to.0), message);
            }
            for (client, message) in std::mem::take(&mut effects.client_sends) {
                self.post(Party::Replica(replica), Party::Client(client.0), message);
            }
            let process = self.nodes[usize::from(replica)].process.as_mut().expect("it is up");
            if effects.checkpoint_durable.take().is_some() {
                process.executor.store_mut().on_checkpoint_durable();
            }
            if let Some(load) = effects.load.take() {
                process.suspended = None;
                process.executor.load(&load);
                self.event(replica, &format!("loads checkpoint {}", load.checkpoint.op));
            }
            if let Some(prepare) = effects.commit.take() {
                self.execute(replica, &prepare, effects);
            }
        }
    }

    fn execute(&mut self, replica: u8, prepare: &Message, effects: &mut Effects) {
        let op = prepare.prepare_header().op();
        let process = self.nodes[usize::from(replica)].process.as_mut().expect("it is up");
        let mut replies = Vec::new();
        let outcome = process.executor.commit(prepare, &mut replies);
        if outcome == CommitOutcome::Suspended {
            process.suspended = Some(prepare.clone());
            return;
        }
        self.event(replica, &format!("executes op {op}"));
        let process = self.nodes[usize::from(replica)].process.as_mut().expect("it is up");
        let is_primary = process.replica.is_primary();
        let author = process.replica.author_for_clients();
        process.replica.on_commit_done(op, effects);
        for reply in replies.into_iter().filter(|_| is_primary) {
            let (client, message) = match reply {
                ClientReply::Reply(reply) => (reply.client, reply.to_message(&author)),
                ClientReply::Evicted { client, session, reason } => {
                    (client, eviction(&author, session, Party::Client(client.0), reason))
                }
            };
            self.post(Party::Replica(replica), Party::Client(client.0), message);
        }
    }

    /// What waited for blocks is tried again, when they are there.
    fn execute_suspended(&mut self, replica: u8, effects: &mut Effects) {
        let Some(process) = &mut self.nodes[usize::from(replica)].process else { return };
        let is_ready = process.executor.store().is_ready();
        if let Some(prepare) = process.suspended.take_if(|_| is_ready) {
            self.execute(replica, &prepare, effects);
            self.drain(replica, effects);
        }
    }

    // ---- disks

    /// Completes what a disk has queued, in order; what that queues in turn waits.
    fn complete(&mut self, replica: u8) -> bool {
        let node = &mut self.nodes[usize::from(replica)];
        if node.is_stalled || node.pending.is_empty() {
            return false;
        }
        for request in std::mem::take(&mut node.pending) {
            self.complete_one(replica, request);
        }
        self.act(replica, |core, effects| core.on_turn_end(effects));
        true
    }

    fn complete_one(&mut self, replica: u8, request: DiskRequest) {
        let disk = &mut self.nodes[usize::from(replica)].disk;
        match request {
            DiskRequest::Read { token, offset, size } => {
                let result = read(disk, offset, size);
                if let Token::ReadBlock { .. } = token {
                    self.act_on_store(replica, |store| store.on_read_done(token, result));
                    return;
                }
                if let Token::ReadPrepare { .. } = token {
                    self.event(replica, "has read a prepare");
                }
                self.act(replica, |core, effects| core.on_read_done(token, result, effects));
            }
            DiskRequest::Write { token, offset, sectors } => {
                write(disk, offset, &sectors);
                match token {
                    Token::WritePrepare { op, .. } => {
                        self.event(replica, &format!("has written prepare {op}"));
                    }
                    Token::WriteHeaders { sector } => {
                        self.event(replica, &format!("has written header sector {sector}"));
                    }
                    Token::WriteBlock { .. } | Token::GrowGrid => {
                        self.act_on_store(replica, |store| store.on_write_done(token));
                        return;
                    }
                    _ => {}
                }
                self.act(replica, |core, effects| core.on_write_done(token, effects));
            }
        }
    }

    fn act_on_store(&mut self, replica: u8, act: impl FnOnce(&mut store::Store)) {
        if let Some(process) = &mut self.nodes[usize::from(replica)].process {
            act(process.executor.store_mut());
        }
        self.act(replica, |_, _| {});
    }

    // ---- the text

    fn line(&mut self, text: &str) {
        if self.is_recording {
            let line = format!("{:>5}  {text}", self.tick - self.tick_start);
            writeln!(self.text, "{}", line.trim_end()).expect("a string takes all");
        }
    }

    fn event(&mut self, replica: u8, what: &str) {
        self.line(&format!("{replica:<10}{what}"));
    }

    /// Writes down what a replica is, if that has changed.
    fn show(&mut self, replica: u8) {
        let node = &self.nodes[usize::from(replica)];
        let Some(process) = &node.process else { return };
        let core = &process.replica;
        let role = match core.status() {
            Status::Normal if core.view().primary(REPLICAS) == core.replica() => "primary",
            Status::Normal => "backup",
            Status::ViewChange => "view_change",
            Status::Recovering => "recovering",
            Status::RecoveringHead => "recovering_head",
        };
        let born = if core.is_born() { "" } else { " unborn" };
        let state = format!(
            "is {role}{born} view={} log_view={} durable={}/{} op={} commit={}/{}",
            core.view(),
            core.log_view(),
            core.view_durable(),
            core.log_view_durable(),
            core.op(),
            core.commit_min(),
            core.commit_max(),
        );
        if self.is_recording && state != node.shown {
            self.event(replica, &state);
            self.nodes[usize::from(replica)].shown = state;
        }
    }
}

/// What a client asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct ClientRequest<'a> {
    pub(super) view: u32,
    pub(super) session: u64,
    pub(super) request: u64,
    pub(super) operation: Operation,
    pub(super) body: &'a [u8],
}

fn eviction(author: &Author, session: u64, client: Party, reason: EvictionReason) -> Message {
    let Party::Client(client) = client else { panic!("only clients are evicted") };
    let eviction = Eviction { client: ClientId(client), session, reason: reason as u8 };
    Message::new(author, eviction, &[])
}

/// The fields of a message that matter, as `name=value`.
fn fields(message: &Message) -> String {
    let header = message.header();
    let view = header.view;
    let operation = |code: u8| Operation::from_code(code).expect("it was sealed");
    match header.command {
        Command::Request(request) => {
            let Request { session, request: number, operation: code, .. } = request;
            let operation = operation(code);
            format!("view={view} session={session} request={number} operation={operation:?}")
        }
        Command::Prepare(prepare) => format!(
            "view={view} op={} commit={} entries={} timestamp={}",
            prepare.op, prepare.commit, prepare.entry_count, prepare.timestamp
        ),
        Command::PrepareOk(ok) => {
            let id = ok.prepare;
            format!("view={view} op={} prepared={} commit_min={}", id.op, id.view, ok.commit_min)
        }
        Command::Reply(reply) => format!(
            "view={view} session={} request={} op={} operation={:?} result={}",
            reply.session,
            reply.request,
            reply.op,
            operation(reply.operation),
            reply.result
        ),
        Command::Commit(commit) => {
            format!("view={view} op={} round={}", commit.commit.op, commit.round)
        }
        Command::RequestHeaders(request) => {
            format!("view={view} op_min={} op_max={}", request.op_min, request.op_max)
        }
        Command::Headers(_) => {
            let headers = decode_headers(message).expect("what a replica sends is valid");
            let ops: Vec<String> = headers.iter().map(|header| header.op().to_string()).collect();
            format!("view={view} ops={}", ops.join(","))
        }
        Command::RequestPrepare(request) => {
            let id = request.prepare;
            format!("view={view} op={} prepared={}", id.op, id.view)
        }
        Command::Ping(ping) => format!(
            "view={view} incarnation={} incarnation_target={} monotonic={}",
            header.incarnation, ping.incarnation_target, ping.timestamp_monotonic
        ),
        Command::Pong(pong) => format!(
            "view={view} incarnation={} monotonic={} realtime={}",
            header.incarnation, pong.ping_timestamp_monotonic, pong.timestamp_realtime
        ),
        Command::PongClient(pong) => {
            format!("view={view} message_size={}", pong.message_size)
        }
        Command::Eviction(eviction) => {
            let reason = EvictionReason::from_code(eviction.reason).expect("it was sealed");
            format!("view={view} session={} reason={reason:?}", eviction.session)
        }
        Command::Status(_) => {
            let report =
                StatusReport::decode(message.body()).expect("what a replica sends is valid");
            let StatusReport { view, table_op, heard, .. } = report;
            format!("view={view} table_op={table_op} heard={heard:03b}")
        }
        Command::Reject(reject) => {
            let reason = RejectReason::from_code(reject.reason).expect("it was sealed");
            format!("view={view} request={} reason={reason:?}", reject.request)
        }
        _ => fields_of_log(message),
    }
}

/// The same for those that carry a log, or blocks.
fn fields_of_log(message: &Message) -> String {
    let view = message.header().view;
    match message.header().command {
        Command::RequestBlocks(_) => {
            let count = message.body().len() / BlockRef::SIZE;
            format!("view={view} blocks={count}")
        }
        Command::Block(block) => {
            format!("view={view} index={} op={}", block.index, block.checkpoint_op)
        }
        Command::DoViewChange(log) => {
            let set = HeaderSet::decode(message).expect("what a replica sends is valid");
            let count = set.headers.len();
            let bits = |bits: u64| ops((0..count).map(|index| bits >> index & 1 == 1), log.op);
            format!(
                "view={view} log_view={} op={} commit_max={} headers={} present={} nack={}",
                log.log_view,
                log.op,
                log.commit_max,
                ops(set.headers.iter().map(Option::is_some), log.op),
                bits(log.present),
                bits(log.nack)
            )
        }
        Command::StartView(start) => {
            let set = HeaderSet::decode(message).expect("what a replica sends is valid");
            let headers = ops(set.headers.iter().map(Option::is_some), start.op);
            let nonce = if start.nonce == 0 { "none" } else { "yes" };
            let checkpoint = match start.checkpoint.op {
                0 => String::new(),
                op => format!(" checkpoint={op}"),
            };
            format!(
                "view={view} op={} commit_max={}{checkpoint} headers={headers} nonce={nonce}",
                start.op, start.commit_max
            )
        }
        _ => format!("view={view}"),
    }
}

/// The ops for which a bit is set, from `head` down.
fn ops(bits: impl Iterator<Item = bool>, head: Op) -> String {
    let ops: Vec<String> = (0..)
        .zip(bits)
        .filter(|(_, bit)| *bit)
        .map(|(index, _): (u64, bool)| (head - index).to_string())
        .collect();
    if ops.is_empty() { "none".to_owned() } else { ops.join(",") }
}

// ---- the file

/// The table of the genesis of those files.
pub(super) fn genesis_table() -> IncarnationTable {
    let mut incarnations = [0; 6];
    (0..REPLICAS).for_each(|index| incarnations[usize::from(index)] = 100 + u64::from(index));
    IncarnationTable { op: 1, incarnations, ..IncarnationTable::default() }
}

fn formatted(replica: u8, incarnation: u64) -> Vec<u8> {
    let state =
        SuperblockState::formatted(CLUSTER, ReplicaIndex(replica), REPLICAS, incarnation, GEOMETRY);
    format(&state)
}

fn format(state: &SuperblockState) -> Vec<u8> {
    let size = Layout::new(GEOMETRY).grid_offset();
    let mut disk = vec![0; usize::try_from(size).expect("a small file")];
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        for request in requests.drain(..) {
            let DiskRequest::Write { token, offset, sectors } = request else {
                unreachable!("a format does not read");
            };
            write(&mut disk, offset, &sectors);
            format.on_write_done(token);
        }
    }
    disk
}

fn open(disk: &mut Vec<u8>) -> vsr::storage::Opened {
    let mut requests = Vec::new();
    let mut opening = Opening::new(disk.len() as u64, &mut requests);
    loop {
        if let Some(opened) = opening.finish() {
            return opened;
        }
        for request in std::mem::take(&mut requests) {
            match request {
                DiskRequest::Read { token, offset, size } => {
                    let result = read(disk, offset, size);
                    opening.on_read_done(token, result, &mut requests).expect("it opens");
                }
                DiskRequest::Write { token, offset, sectors } => {
                    write(disk, offset, &sectors);
                    opening.on_write_done(token, &mut requests).expect("it opens");
                }
            }
        }
    }
}

fn write(disk: &mut Vec<u8>, offset: u64, sectors: &[u8]) {
    let offset = usize::try_from(offset).expect("a small file");
    // The grid grows.
    disk.resize(disk.len().max(offset + sectors.len()), 0);
    disk[offset..offset + sectors.len()].copy_from_slice(sectors);
}

fn read(disk: &[u8], offset: u64, size: u32) -> ReadResult {
    let offset = usize::try_from(offset).expect("a small file");
    let mut buffer = AlignedBuffer::zeroed(size);
    buffer.as_mut().copy_from_slice(&disk[offset..offset + size as usize]);
    ReadResult { buffer, unreadable: Vec::new() }
}
