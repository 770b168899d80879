//! F5: the replica: Viewstamped Replication Revisited (VRR) as a value. Inputs are calls
//! (`on_message`, `on_tick`, `on_write_done`, …), outputs are data pushed to [`Effects`].
//!
//! ```text
//!                     a view-change quorum votes, or any message of a higher view
//!        ┌──────────────────────────────────────────────────────────────┐
//!        ▼                                                              │
//!   view_change ── start_view, or log selected and repaired ──► normal ─┘
//!        ▲  ▲                                                    ▲
//!        │  └─ primary that restarts in its own view             │ backup that restarts
//!   recovering ──────────────────────────────────────────────────┤
//!        └──► recovering_head ── start_view with own nonce ──────┘ head uncertain
//! ```
//!
//! This file holds all state and the one `match` on commands; the siblings hold `impl Replica`
//! blocks by protocol. Start reading at `normal.rs`; skim `repair.rs`.
//!
//! **Invariants:**
//! * `log_view <= view`; neither ever goes back. `view` is durable before any message of it;
//!   `log_view` and its headers before `do_view_change`, `start_view`, `prepare_ok`.
//! * `commit_min <= commit_max`; neither ever goes back while the process lives. Ops are executed
//!   in order, once, and only when a hash chain binds them to the head (`chain_min`).
//! * A replica votes (`prepare_ok`, `start_view_change`, `do_view_change`) only while its durable
//!   table of incarnations names it: a blank or a foreign file never votes.
//! * A *new* view is entered only with a view-change quorum of `start_view_change`; an existing one
//!   is adopted from any valid message of it.
//!
//! **Not here:** sockets, files, clocks, the state machine, the sessions.

mod bounds;
mod checkpoint;
mod commit;
mod effects;
mod genesis;
mod incarnations;
mod normal;
mod open;
mod queries;
mod quorums;
mod recovering_head;
mod repair;
mod select;
mod status;
mod timeout;
mod view_change;

pub mod clock;
pub mod executor;
pub mod fault_detector;
pub mod marzullo;
pub mod sessions;

#[cfg(test)]
mod admission_tests;
#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod divergence_tests;
#[cfg(test)]
mod genesis_tests;
#[cfg(test)]
mod incarnations_tests;
#[cfg(test)]
mod normal_tests;
#[cfg(test)]
mod prepare_ok_tests;
#[cfg(test)]
mod recovering_head_tests;
#[cfg(test)]
mod repair_tests;
#[cfg(test)]
mod replica_tests;
#[cfg(test)]
mod status_tests;
#[cfg(test)]
mod test_bench;
#[cfg(test)]
mod view_change_tests;

pub use checkpoint::{BLOCKS_WANTED_MAX, CheckpointLoad};
pub use effects::Effects;
pub use incarnations::is_recover;
pub use normal::{NotGathered, Route};
pub use quorums::Quorums;
pub use select::{Selection, ViewLog, select};

use crate::constants::{REPLICAS_MAX, TICK_NS};
use crate::stdx::{Prng, defect};
use crate::storage::{Geometry, Journal, ReadResult, Superblock, SuperblockState, Token};
use crate::wire::{
    Author, ClientId, ClusterId, Command, HeaderSet, IncarnationTable, Invalid, Message, Op, Ping,
    Pong, PrepareId, Recover, ReplicaIndex, View,
};
use checkpoint::Checkpoints;
use clock::ClusterClock;
use fault_detector::FaultDetector;
use queries::Queries;
use std::collections::{BTreeMap, VecDeque};
use timeout::Timeout;

/// Ticks between two lines of the log about messages in the name of one replica.
const COMPLAIN_TICKS: u64 = 100;

/// What a replica is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Takes part in `view`.
    Normal,
    /// Between views: `view` is promised, its log is not known here yet.
    ViewChange,
    /// Opening; only with one replica.
    Recovering,
    /// The head of the own log is uncertain: takes no part until a `start_view` comes.
    RecoveringHead,
}

/// The clocks of this machine, read by the server before it hands over inputs. Never decides
/// safety.
#[derive(Debug, Clone, Copy, Default)]
pub struct Now {
    /// Nanoseconds that never go back.
    pub monotonic: u64,
    /// Nanoseconds since 1970, perhaps.
    pub realtime: u64,
}

/// A prepare in flight at the primary: above `commit_max`.
#[derive(Debug)]
struct InFlight {
    id: PrepareId,
    /// Bit r: replica r has it durable.
    oks: u8,
}

/// A `do_view_change`, with its author's incarnation: which count is settled in the quorum.
#[derive(Debug)]
struct MemberLog {
    incarnation: u64,
    log: ViewLog,
}

/// Why a prepare is being read from the journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadPurpose {
    /// To keep it in memory: for execution, or for the pipeline of a new primary.
    Own,
    /// A peer asked for it.
    Peer(ReplicaIndex),
}

/// What the replica did beyond its daily work, for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Prepares fetched from peers.
    pub prepares_repaired: u64,
    /// Headers fetched from peers.
    pub headers_repaired: u64,
    /// Prepares sealed here as primary.
    pub prepares_sealed: u64,
    /// Requests in them.
    pub requests_sealed: u64,
    /// Checkpoints taken over from others.
    pub syncs: u64,
    /// Views entered.
    pub view_changes: u64,
    /// Uncertain heads that the logs of others made certain.
    pub heads_resolved: u64,
    /// Prepares executed.
    pub ops_committed: u64,
    /// Requests in them.
    pub requests_committed: u64,
}

/// One replica of a cluster, without IO.
#[derive(Debug)]
pub struct Replica {
    cluster: ClusterId,
    replica: ReplicaIndex,
    replica_count: u8,
    incarnation: u64,
    geometry: Geometry,
    quorums: Quorums,

    superblock: Superblock,
    journal: Journal,
    checkpoints: Checkpoints,

    status: Status,
    view: View,
    log_view: View,
    /// The head of the log.
    op: Op,
    /// Executed here.
    commit_min: Op,
    /// Known to be committed.
    commit_max: Op,
    /// Headers `chain_min..=op` are a hash chain down from the head.
    chain_min: Op,
    /// Which incarnations belong to the cluster; `op` 0 before birth.
    table: IncarnationTable,
    /// The headers of the last `do_view_change` (`log_view < view`) or `start_view` (equal).
    head: HeaderSet,

    /// Prepares of `commit_min + 1 ..`, in memory until they are executed.
    cache: BTreeMap<Op, Message>,
    /// The op that the executor has in hand.
    committing: Option<Op>,
    reads: BTreeMap<u32, (PrepareId, ReadPurpose)>,

    /// Primary: requests that wait for the next prepare.
    gathered: VecDeque<Message>,
    gathered_size: u64,
    /// Primary: a recovery that waits to be sealed, and its request.
    recover: Option<(Recover, Message)>,
    /// Requests gathered or in prepares that are not executed: one per client.
    requests_in_flight: BTreeMap<ClientId, u64>,
    /// Requests that were told `store_full` in this view, one per client: it never takes them.
    requests_refused: BTreeMap<ClientId, u64>,
    /// Primary: queries that wait for a round.
    queries: Queries,
    /// The tick at which a session was last let in that ends another.
    session_tick: u64,
    /// Primary: the head when its view became normal.
    view_op: Op,
    /// Primary: `commit_max + 1 ..= op`.
    pipeline: VecDeque<InFlight>,
    /// Primary: by replica, the last op of the own log that was, or may have been, committed with
    /// the help of its acknowledgement.
    relied_on: [Op; REPLICAS_MAX as usize],
    /// The end of the last timestamp given, and the monotonic clock then.
    timestamp_next: u64,
    timestamp_monotonic: u64,
    /// Primary: the number of the last heartbeat.
    round: u64,
    /// The newest heartbeat of the primary of `view`.
    heartbeat_last: u64,
    /// The executor cannot have more blocks: the next checkpoint does not come about.
    store_full: bool,
    /// And what it keeps in memory for want of them is as much as it should be.
    store_filled: bool,
    /// Bit r: replica r said so of itself when it was last heard.
    stores_full: u8,
    /// Primary: nothing is acknowledged, so it keeps silent and votes to leave.
    abdicating: bool,

    /// Bit r: replica r votes to leave `view`.
    votes: u8,
    /// By replica: its log, for `view`.
    view_logs: [Option<MemberLog>; REPLICAS_MAX as usize],
    /// As primary of `view`: the log is selected, and is being repaired.
    selected: bool,
    /// In `recovering_head`. Bit r: replica r acknowledged nothing of `log_view` that the damaged
    /// slots above the head may have held.
    head_nacks: u8,
    /// Of the own `request_start_view`.
    nonce: u64,
    /// The highest view that somebody was heard in.
    view_heard: View,

    /// Before birth. Bit r: replica r is born, and its genesis names this very file.
    named_by: u8,
    /// The genesis of one of those, when it is missing here.
    genesis_wanted: Option<PrepareId>,
    /// A genesis in which this very file was seen.
    genesis_named: Option<PrepareId>,
    /// Replica 0 before birth: the incarnation of each replica that was heard blank.
    heard: [u64; REPLICAS_MAX as usize],
    /// By replica: the tick at which the file was last heard that the table names.
    heard_at: [u64; REPLICAS_MAX as usize],
    /// Bit r: replica r speaks of another geometry and is not listened to.
    foreign: u8,
    /// By replica: the tick from which what is wrong with its messages may be logged again. Who
    /// says to be it may be anybody, and send as many as he likes.
    complain_at: [u64; REPLICAS_MAX as usize],

    /// Ops asked for, and the tick from which they may be asked for again.
    prepares_wanted: BTreeMap<Op, u64>,
    repair_rounds: u64,
    pings: u64,

    now: Now,
    tick: u64,
    prng: Prng,
    clock: ClusterClock,
    detector: FaultDetector,
    counters: Counters,
    timeouts: Timeouts,
}

#[derive(Debug)]
struct Timeouts {
    /// All: gossip, clock samples.
    ping: Timeout,
    /// Primary: heartbeat when nothing else was sent.
    heartbeat: Timeout,
    /// Primary: the oldest prepare in flight is not acknowledged.
    prepare: Timeout,
    /// Primary: nothing was acknowledged for long.
    abdicate: Timeout,
    /// Who votes: say it again.
    vote: Timeout,
    /// All: votes of others are forgotten.
    vote_window: Timeout,
    /// View change: say `do_view_change` (or, as its primary, `start_view`) again.
    view_change_message: Timeout,
    /// View change: this view does not come about. Its patience outlives the view, until one works:
    /// or a cluster that is slower than the first period would never begin a view.
    view_change_status: Timeout,
    /// Ask the primary for its `start_view`.
    request_start_view: Timeout,
    /// All: look for what is missing.
    repair: Timeout,
}

impl Timeouts {
    fn ping(born: bool) -> Timeout {
        let after_ticks = if born { PING_TICKS } else { PING_BLANK_TICKS };
        Timeout::new("ping", after_ticks, PING_TICKS)
    }

    fn new(born: bool) -> Self {
        Self {
            ping: Self::ping(born),
            heartbeat: Timeout::new("heartbeat", 3, 3),
            prepare: Timeout::new("prepare", 10, 200),
            abdicate: Timeout::new("abdicate", 200, 200),
            vote: Timeout::new("vote", 5, 50),
            vote_window: Timeout::new("vote_window", 500, 500),
            view_change_message: Timeout::new("view_change_message", 5, 50),
            view_change_status: Timeout::new("view_change_status", 40, 1000),
            request_start_view: Timeout::new("request_start_view", 5, 50),
            repair: Timeout::new("repair", 5, 5),
        }
    }
}

/// How often a replica pings, in ticks.
const PING_TICKS: u64 = 100;
/// How often it does before birth.
const PING_BLANK_TICKS: u64 = 10;

impl Replica {
    /// The replica's index.
    pub fn replica(&self) -> ReplicaIndex {
        self.replica
    }

    /// The cluster.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// Replicas in the cluster.
    pub fn replica_count(&self) -> u8 {
        self.replica_count
    }

    /// The geometry of the cluster's data files.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        self.status
    }

    /// The current view.
    pub fn view(&self) -> View {
        self.view
    }

    /// The last view in which the head was defined.
    pub fn log_view(&self) -> View {
        self.log_view
    }

    /// The head of the log.
    pub fn op(&self) -> Op {
        self.op
    }

    /// What has been executed here.
    pub fn commit_min(&self) -> Op {
        self.commit_min
    }

    /// What is known to be committed.
    pub fn commit_max(&self) -> Op {
        self.commit_max
    }

    /// The view that the data file remembers.
    pub fn view_durable(&self) -> View {
        self.superblock.state().view
    }

    /// The log view that the data file remembers.
    pub fn log_view_durable(&self) -> View {
        self.superblock.state().log_view
    }

    /// How many ops of the log that a peer may still ask for are not known here, not durable, or
    /// damaged. What is below is in a checkpoint, and of no use to anybody: who took over the
    /// checkpoint never had it.
    pub fn ops_to_repair(&self) -> u32 {
        let is_hurt = |op: &Op| self.journal.header(*op).is_none() || self.journal.is_dirty(*op);
        let count = (self.chain_min_wanted()..=self.op).filter(is_hurt).count();
        assert!(count <= self.geometry.journal_slots as usize);
        u32::try_from(count).expect("at most the slots of a geometry")
    }

    /// What it did beyond its daily work since it started.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The quorums of its cluster.
    pub fn quorums(&self) -> Quorums {
        self.quorums
    }

    /// Whether the cluster is known here to have been born with this very file.
    pub fn is_born(&self) -> bool {
        self.table.op > 0
    }

    /// Whether this replica is the primary of its view and can take requests.
    pub fn is_primary(&self) -> bool {
        self.status == Status::Normal
            && self.primary_of_view() == self.replica
            && self.view_is_durable()
    }

    /// The primary's role, whether or not a change of its superblock is still being written.
    fn acts_as_primary(&self) -> bool {
        self.status == Status::Normal && self.primary_of_view() == self.replica
    }

    /// Whether the sessions here are all that any client may know of. What this primary told in
    /// its view it has executed; what the primaries before it told lies in the log that the view
    /// began with.
    pub fn has_executed_view_log(&self) -> bool {
        assert!(self.is_primary());
        self.commit_min >= self.view_op
    }

    fn primary_of_view(&self) -> ReplicaIndex {
        self.view.primary(self.replica_count)
    }

    fn solo(&self) -> bool {
        self.replica_count == 1
    }

    /// What an author stamps. Messages speak of the durable view: where they promise something,
    /// that is the current one.
    fn author(&self) -> Author {
        if defect!("view_spoken_early") {
            return self.author_of(self.view);
        }
        self.author_of(self.superblock.state().view)
    }

    fn author_of(&self, view: View) -> Author {
        let Self { cluster, replica, incarnation, .. } = *self;
        Author { cluster, view, replica, incarnation }
    }

    /// The author of messages to clients: they only ever see the durable `log_view`, or an isolated
    /// replica with a high view would lock them out.
    pub fn author_for_clients(&self) -> Author {
        self.author_of(self.superblock.state().log_view)
    }

    /// Whether this replica may promise anything: its durable table names it.
    pub fn may_vote(&self) -> bool {
        self.superblock.state().head.table.names(self.replica, self.incarnation)
    }

    /// Whether the view, its log, and the checkpoint that the log stands on are durable.
    fn view_is_durable(&self) -> bool {
        let durable = self.superblock.state();
        durable.view == self.view
            && durable.log_view == self.log_view
            && durable.head == self.head
            && durable.op_checkpoint() >= self.journal.op_checkpoint()
    }

    fn is_durable(&self) -> bool {
        let durable = self.superblock.state();
        let Checkpoints { current, previous, op_complete, .. } = self.checkpoints;
        self.view_is_durable()
            && durable.checkpoint == current
            && durable.checkpoint_previous == previous
            && durable.op_complete == op_complete
    }

    /// Whether a message by this author counts in a quorum.
    fn counts(&self, replica: ReplicaIndex, incarnation: u64) -> bool {
        self.table.names(replica, incarnation)
    }

    /// Whether the author of a message between replicas can be who it says it is: its incarnation
    /// is the cluster's. `None` where nothing can be said of it: what is passed on was written by
    /// others, and before the birth nobody is known.
    pub fn believes(&self, header: &crate::wire::Header) -> Option<bool> {
        let is_passed_on = matches!(
            header.command,
            Command::Request(_)
                | Command::Prepare(_)
                | Command::Reply(_)
                | Command::Headers(_)
                | Command::Block(_)
        );
        (self.is_born() && !is_passed_on).then(|| self.counts(header.replica, header.incarnation))
    }

    /// The server's clocks, read once per turn.
    pub fn set_now(&mut self, now: Now) {
        self.now = Now { monotonic: now.monotonic.max(self.now.monotonic), ..now };
    }

    /// The logical clock, in nanoseconds.
    fn logical_ns(&self) -> u64 {
        self.tick * TICK_NS
    }

    // ---- outputs

    fn send(&self, to: ReplicaIndex, message: Message, effects: &mut Effects) {
        assert_ne!(to, self.replica, "a replica does not send to itself");
        assert!(to.0 < self.replica_count);
        effects.sends.push((to, message));
    }

    fn send_command(&self, to: ReplicaIndex, command: impl Into<Command>, effects: &mut Effects) {
        self.send(to, Message::new(&self.author(), command, &[]), effects);
    }

    fn broadcast(&self, message: &Message, effects: &mut Effects) {
        for to in self.others() {
            effects.sends.push((to, message.clone()));
        }
    }

    fn others(&self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        let own = self.replica;
        (0..self.replica_count).map(ReplicaIndex).filter(move |replica| *replica != own)
    }

    /// A random other replica: every choice of a peer is random, or the same dead one is asked
    /// for ever.
    fn random_other(&mut self) -> ReplicaIndex {
        assert!(self.replica_count > 1);
        let others: Vec<_> = self.others().collect();
        others[self.prng.index(others.len())]
    }

    // ---- durability of the view

    /// Makes `view`, `log_view`, the head, the table and the checkpoints durable; then
    /// [`Self::on_durable`].
    fn persist(&mut self, effects: &mut Effects) {
        if self.superblock.is_writing() || self.is_durable() {
            return;
        }
        let Checkpoints { current, previous, op_complete, .. } = self.checkpoints;
        let state = SuperblockState {
            view: self.view,
            log_view: self.log_view,
            commit_max: self.commit_max,
            head: self.head.clone(),
            checkpoint: current,
            checkpoint_previous: previous,
            op_complete,
            ..self.superblock.state().clone()
        };
        self.superblock.write(state, &mut effects.requests);
    }

    fn on_superblock_written(&mut self, effects: &mut Effects) {
        self.on_checkpoint_durable(effects);
        self.persist(effects);
        if self.view_is_durable() {
            self.on_durable(effects);
        }
    }

    /// The current view is durable, and with it the log it began with: speak.
    fn on_durable(&mut self, effects: &mut Effects) {
        assert!(self.view_is_durable());
        self.write_deferred(effects);
        match self.status {
            Status::ViewChange if self.selected => self.primary_send_start_view(effects),
            Status::ViewChange if self.log_view < self.view => {
                self.send_do_view_change(effects);
                if self.primary_of_view() == self.replica {
                    self.record_own_view_log(effects);
                }
            }
            Status::Normal => {
                self.send_prepare_oks(effects);
                if self.primary_of_view() == self.replica {
                    self.timeouts.heartbeat.start(&mut self.prng);
                    self.primary_send_commit(effects);
                }
            }
            Status::ViewChange | Status::Recovering | Status::RecoveringHead => {}
        }
        self.progress(effects);
    }

    // ---- inputs

    /// A message from another replica. Requests of clients come through `route` and `gather`.
    pub fn on_message(&mut self, message: &Message, effects: &mut Effects) {
        let header = message.header();
        if header.cluster != self.cluster {
            return self.ignore("on_message", "another cluster");
        }
        let from = header.replica;
        if from.0 >= self.replica_count {
            return self.ignore("on_message", "no such replica");
        }
        // A prepare names its author, and comes from whoever has it.
        if from == self.replica && !matches!(header.command, Command::Prepare(_)) {
            return self.ignore("on_message", "a message of mine");
        }
        if from != self.replica && !matches!(header.command, Command::Prepare(_)) {
            self.note_heard(from, header.incarnation);
        }
        if let Command::Ping(ping) = header.command {
            return self.on_ping(&header.with(ping), effects);
        }
        if self.foreign >> from.0 & 1 == 1 {
            return self.ignore("on_message", "a peer of another geometry");
        }
        match header.command {
            Command::Prepare(_) => return self.on_prepare(message, effects),
            // These bring a table of their own.
            Command::StartView(start) => {
                return self.on_start_view(&header.with(start), message, effects);
            }
            Command::DoViewChange(log) => {
                return self.on_do_view_change(&header.with(log), message, effects);
            }
            Command::Pong(pong) => return self.on_pong(&header.with(pong), effects),
            // These promise nothing.
            Command::RequestHeaders(request) => {
                return self.on_request_headers(&header.with(request), effects);
            }
            Command::RequestPrepare(request) => {
                return self.on_request_prepare(&header.with(request), effects);
            }
            Command::RequestStartView(request) => {
                return self.on_request_start_view(&header.with(request), effects);
            }
            Command::Headers(_) => return self.on_headers(message, effects),
            _ => {}
        }
        if self.is_born() && !self.counts(from, header.incarnation) {
            return self.ignore("on_message", "another incarnation");
        }
        match header.command {
            Command::PrepareOk(ok) => self.on_prepare_ok(&header.with(ok), effects),
            Command::Commit(commit) => self.on_commit(&header.with(commit), effects),
            Command::CommitOk(ok) => self.on_commit_ok(&header.with(ok), effects),
            Command::StartViewChange(_) => self.on_start_view_change(header, effects),
            other => {
                log::debug!("{}: on_message: ignoring {} (not for a replica)", self, other.name());
            }
        }
    }

    /// A connection that was dialled here stands. The other side knows who it was, and can send, by
    /// the first message alone: a backup with nothing to say would not hear its primary.
    pub fn on_connected(&mut self, to: ReplicaIndex, effects: &mut Effects) {
        self.send_ping(to, effects);
    }

    /// Ten milliseconds have passed on the logical clock.
    pub fn on_tick(&mut self, effects: &mut Effects) {
        self.tick += 1;
        self.clock.tick(self.now.monotonic, self.now.realtime);
        if self.timeouts.ping.tick() {
            self.on_ping_timeout(effects);
        }
        if self.timeouts.heartbeat.tick() {
            self.on_heartbeat_timeout(effects);
        }
        if self.timeouts.prepare.tick() {
            self.on_prepare_timeout(effects);
        }
        if self.timeouts.abdicate.tick() {
            self.on_abdicate_timeout(effects);
        }
        if self.timeouts.vote.tick() {
            self.on_vote_timeout(effects);
        }
        if self.timeouts.vote_window.tick() {
            self.on_vote_window_timeout();
        }
        if self.timeouts.view_change_message.tick() {
            self.on_view_change_message_timeout(effects);
        }
        if self.timeouts.view_change_status.tick() {
            self.on_view_change_status_timeout(effects);
        }
        if self.timeouts.request_start_view.tick() {
            self.on_request_start_view_timeout(effects);
        }
        if self.timeouts.repair.tick() {
            self.on_repair_timeout(effects);
        }
        self.backup_judge_primary(effects);
        self.invariants();
    }

    /// A write of the data file is durable.
    pub fn on_write_done(&mut self, token: Token, effects: &mut Effects) {
        match token {
            Token::WriteSuperblock { copy } => {
                self.superblock.on_write_done(copy, &mut effects.requests);
            }
            Token::WritePrepare { .. } | Token::WriteHeaders { .. } => {
                let mut durable = Vec::new();
                self.journal.on_write_done(token, &mut durable);
                for id in durable {
                    self.on_prepare_durable(&id, effects);
                }
                if defect!("prepare_ok_before_header") && self.status == Status::Normal {
                    self.send_prepare_oks(effects);
                }
                self.progress(effects);
            }
            other => panic!("{other:?} is not a write of a replica"),
        }
    }

    /// A read of the data file is complete.
    pub fn on_read_done(&mut self, token: Token, result: ReadResult, effects: &mut Effects) {
        match token {
            Token::ReadSuperblock { copy } => {
                match self.superblock.on_read_done(copy, result, &mut effects.requests) {
                    Ok(false) => {}
                    Ok(true) => self.on_superblock_written(effects),
                    Err(text) => {
                        use crate::fatal::{Fatal, FatalKind};
                        effects.fatal = Some(Fatal::new(FatalKind::WriteFailed, text));
                    }
                }
            }
            Token::ReadPrepare { id } => self.on_read_prepare_done(id, result, effects),
            other => panic!("{other:?} is not a read of a replica"),
        }
    }

    /// The end of a turn of the loop: everything that arrived together has been seen. Seals what
    /// has gathered, and lets writes that completed together share a header sector.
    pub fn on_turn_end(&mut self, effects: &mut Effects) {
        self.primary_seal(effects);
        self.queries_begin_round(effects);
        // What a view change cut from the log is only cut on disk once the superblock says so.
        if self.view_is_durable() {
            self.journal.flush_headers(&mut effects.requests);
        }
    }

    // ---- pings

    fn on_ping_timeout(&mut self, effects: &mut Effects) {
        self.timeouts.ping = Timeouts::ping(self.is_born());
        self.timeouts.ping.start(&mut self.prng);
        self.pings += 1;
        self.complain_unborn(self.pings);
        self.send_pings(effects);
    }

    fn send_pings(&mut self, effects: &mut Effects) {
        for to in self.others() {
            self.send_ping(to, effects);
        }
    }

    fn send_ping(&mut self, to: ReplicaIndex, effects: &mut Effects) {
        let Geometry { message_size, journal_slots, block_size, pipeline, clients_max } =
            self.geometry;
        let ping = Ping {
            timestamp_monotonic: self.now.monotonic,
            incarnation_target: self.table.incarnations[to.index()],
            checkpoint: self.checkpoint_claimed(),
            message_size,
            journal_slots,
            block_size,
            pipeline,
            clients_max,
            replica_count: self.replica_count,
            store_full: u8::from(self.store_full),
        };
        self.send_command(to, ping, effects);
    }

    fn on_ping(&mut self, header: &crate::wire::Header<Ping>, effects: &mut Effects) {
        let from = header.replica;
        if let Some(difference) = self.foreign_geometry(&header.command) {
            if self.foreign >> from.0 & 1 == 0 && self.may_complain_of(from) {
                log::error!(
                    "{self}: replica {from} was formatted differently and is not listened to: \
                     {difference}; format its data file with the same flags as the others"
                );
            }
            self.foreign |= 1 << from.0;
            return;
        }
        self.foreign &= !(1 << from.0);
        let pong = Pong {
            ping_timestamp_monotonic: header.command.timestamp_monotonic,
            timestamp_realtime: self.now.realtime,
        };
        let author = self.author();
        self.send(from, Message::new(&author, pong, &[]), effects);
        self.on_ping_incarnation(header, effects);
        if self.is_born() && self.counts(from, header.incarnation) {
            self.on_checkpoint_claim(from, header.command.checkpoint.checkpoint_id(), effects);
            self.note_store_full(from, header.command.store_full == 1);
        }
        self.on_view_heard(from, header.view, header.incarnation, effects);
    }

    fn foreign_geometry(&self, ping: &Ping) -> Option<String> {
        let pairs = [
            ("--replica-count", u32::from(ping.replica_count), u32::from(self.replica_count)),
            ("--message-size", ping.message_size, self.geometry.message_size),
            ("--journal-slots", ping.journal_slots, self.geometry.journal_slots),
            ("--block-size", ping.block_size, self.geometry.block_size),
            ("--pipeline", ping.pipeline, self.geometry.pipeline),
            ("--clients-max", ping.clients_max, self.geometry.clients_max),
        ];
        let (name, theirs, own) = pairs.into_iter().find(|(_, theirs, own)| theirs != own)?;
        Some(format!("its {name} is {theirs}, here it is {own}"))
    }

    fn on_pong(&mut self, header: &crate::wire::Header<Pong>, effects: &mut Effects) {
        if self.is_born() && !self.counts(header.replica, header.incarnation) {
            return self.ignore("on_pong", "another incarnation");
        }
        self.clock.on_pong(
            header.replica,
            header.command.ping_timestamp_monotonic,
            header.command.timestamp_realtime,
            self.now.monotonic,
        );
        self.on_view_heard(header.replica, header.view, header.incarnation, effects);
    }

    // ---- helpers of all

    fn ignore(&self, function: &str, reason: &str) {
        log::debug!("{self}: {function}: ignoring ({reason})");
    }

    /// Whether a line may be logged of what `replica` sends that none would: one in a second.
    fn may_complain_of(&mut self, replica: ReplicaIndex) -> bool {
        assert!(replica.0 < self.replica_count);
        let at = &mut self.complain_at[replica.index()];
        if self.tick < *at {
            return false;
        }
        *at = self.tick + COMPLAIN_TICKS;
        true
    }

    /// A message of `replica` that does not decode.
    fn ignore_undecoded(&mut self, function: &str, replica: ReplicaIndex, reason: &Invalid) {
        if self.may_complain_of(replica) {
            log::warn!("{self}: {function}: ignoring ({reason})");
        }
    }

    /// Whatever may have become possible: execute, repair, finish a view change.
    fn progress(&mut self, effects: &mut Effects) {
        self.commit_advance(effects);
        self.solo_transition_to_normal(effects);
        self.primary_finish_view_change(effects);
    }

    fn invariants(&self) {
        assert!(self.log_view <= self.view);
        assert!(self.commit_min <= self.commit_max);
        assert!(self.chain_min <= self.op + 1);
        assert!(self.op_checkpoint() <= self.commit_min);
        assert!(self.commit_min < self.op_checkpoint() + 2 * self.geometry.checkpoint_interval());
        assert!(self.superblock.state().view <= self.view);
        assert!(self.superblock.state().log_view <= self.log_view);
        if self.status == Status::Normal {
            assert_eq!(self.log_view, self.view);
        }
        if !self.pipeline.is_empty() {
            assert_eq!(self.primary_of_view(), self.replica);
            assert_eq!(self.op, self.commit_max + self.pipeline.len() as u64);
            assert!(self.pipeline.len() <= self.geometry.pipeline as usize);
        }
        if self.selected {
            assert_eq!(self.log_view, self.view);
            assert_eq!(self.primary_of_view(), self.replica);
        }
    }
}

/// The prefix of every log line: replica, status letter, view, `commit_min/commit_max/op`.
impl std::fmt::Display for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let letter = match self.status {
            Status::Normal if self.primary_of_view() == self.replica => 'P',
            Status::Normal => 'B',
            Status::ViewChange => 'V',
            Status::Recovering => 'R',
            Status::RecoveringHead => 'H',
        };
        let Self { replica, view, commit_min, commit_max, op, .. } = self;
        write!(f, "{replica}{letter} v{view} {commit_min}/{commit_max}/{op}")
    }
}
