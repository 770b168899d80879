//! F5: checkpoints as the protocol sees them: when the state is frozen, what a durable checkpoint
//! lets go of, what a replica that is too far behind takes over from the others (state sync), and
//! what happens when two replicas disagree on one.
//!
//! ```text
//!   op C' = C + I executed ──► frozen, written behind while ops go on ──► on_checkpoint_written
//!                                                          superblock: C', C durable ◄──┘
//!                                                          journal: slots of ops <= C' are free
//!
//!   start_view whose head has no room here, or repair stands still
//!     ──► superblock: its checkpoint K, incomplete, with the view's log ──► load(K): fetch blocks
//!     ──► on_checkpoint_loaded ──► superblock: complete; execute K + 1 …
//! ```
//!
//! S slots, P pipeline, I = S/2, X = I - P (`Geometry`); `docs/data_file.md` has the table and its
//! proofs. The arithmetic is about the log alone: a checkpoint is *proven* (complete on a
//! replication quorum) as soon as an op beyond K + X is committed, since nobody acknowledges such
//! an op without having K.
//!
//! **Invariants:** op C + 2I is not executed before the checkpoint of C + I is durable; the journal
//! lets go of an op only when the superblock says so; only a proven checkpoint is taken over, and
//! the superblock names it before its first block is written here; a replica that lacks blocks of
//! its checkpoint executes nothing, is no primary, and offers its checkpoint to nobody.
//!
//! **Not here:** what a checkpoint consists of (`store`).

use super::executor::Loaded;
use super::{Effects, Replica, Status};
use crate::fatal::{Fatal, FatalKind};
use crate::storage::SuperblockState;
use crate::wire::{BlockRef, Message, Op, ReplicaIndex, RequestBlocks, StartView};

/// Ticks without progress in execution, though there is something to execute, after which what is
/// missing is believed to be gone.
const STUCK_TICKS: u64 = 300;

/// Ticks that a primary waits for its own checkpoint with a full log.
const FULL_TICKS: u64 = 300;

/// Ticks that it waits with a full disk, so as to have heard from the others whether they have
/// room: they say so with each ping.
const FULL_DISK_TICKS: u64 = 200;

/// Blocks asked for in one message.
pub const BLOCKS_WANTED_MAX: usize = 64;

const _: () = assert!(BLOCKS_WANTED_MAX * BlockRef::SIZE + 128 <= 4096);

/// What the executor is to have before it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointLoad {
    /// The root of the checkpoint.
    pub checkpoint: BlockRef,
    /// The newest checkpoint of which all blocks were here once: what is newer is to be looked for
    /// on the own disk, and else fetched from the others.
    pub op_complete: Op,
}

/// What the replica knows of checkpoints beyond the durable superblock.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// What the superblock is to say.
    pub(super) current: BlockRef,
    pub(super) previous: BlockRef,
    pub(super) op_complete: Op,
    /// The executor has not got the state of `current`.
    pub(super) loading: bool,
    /// It is to be told so once `current` is durable.
    load_pending: bool,
    /// The tick since which `current` is being taken over from others, while it is.
    sync_since: u64,
    /// By replica: the op and the id of the last checkpoint it spoke of.
    claims: [(Op, u128); crate::constants::REPLICAS_MAX as usize],
    /// Of the last progress of execution: `commit_min`, and the tick.
    progress: (Op, u64),
    /// Primary: the tick since which the log cannot go on for want of a checkpoint, or now.
    full_since: u64,
    /// What is to be executed next is believed to be gone from all journals.
    stuck: bool,
}

impl Checkpoints {
    /// What the superblock says.
    pub(super) fn new(state: &SuperblockState) -> Self {
        let (current, op_complete) = (state.checkpoint, state.op_complete);
        let previous = state.checkpoint_previous;
        assert!(previous.op < current.op || current.is_none());
        assert!(op_complete <= current.op);
        let loading = !current.is_none();
        Self {
            current,
            previous,
            op_complete,
            loading,
            load_pending: loading,
            sync_since: 0,
            claims: Default::default(),
            progress: (current.op, 0),
            full_since: 0,
            stuck: false,
        }
    }
}

impl Replica {
    /// The op of the checkpoint that the journal stands on: the durable one, or the one that is
    /// being taken over.
    pub fn op_checkpoint(&self) -> Op {
        self.journal.op_checkpoint()
    }

    /// The op of the newest checkpoint that the data file has in full.
    pub fn op_complete_durable(&self) -> Op {
        let durable = self.superblock.state();
        assert!(durable.op_complete <= durable.op_checkpoint());
        durable.op_complete
    }

    /// The op of the checkpoint that the data file says is being taken over from others.
    pub fn op_syncing_durable(&self) -> Option<Op> {
        let durable = self.superblock.state();
        durable.is_syncing().then_some(durable.op_checkpoint())
    }

    /// Whether blocks of the checkpoint are still to be fetched from others.
    pub fn is_syncing(&self) -> bool {
        self.checkpoints.op_complete < self.checkpoints.current.op
    }

    /// The checkpoint that is being taken over from others, and for how many ticks already.
    pub fn syncing(&self) -> Option<(Op, u64)> {
        let since = self.checkpoints.sync_since;
        assert!(since <= self.tick);
        self.is_syncing().then_some((self.checkpoints.current.op, self.tick - since))
    }

    /// Whether the state of the checkpoint is on its way to the executor.
    pub fn is_loading(&self) -> bool {
        self.checkpoints.loading
    }

    /// The first op that peers may still ask for: what is below is in a checkpoint that a
    /// replication quorum has.
    pub(super) fn op_repair_min(&self) -> Op {
        let Self { checkpoints, .. } = self;
        if self.geometry.is_proven(checkpoints.current.op, self.commit_max) {
            checkpoints.current.op + 1
        } else {
            checkpoints.previous.op + 1
        }
    }

    /// Whether `op` may be executed now, as far as checkpoints go.
    pub(super) fn checkpoint_admits(&self, op: Op) -> bool {
        assert!(op > self.checkpoints.current.op);
        let durable = self.superblock.state();
        let op_frozen = durable.op_checkpoint() + self.geometry.checkpoint_interval();
        let op_end = op_frozen + self.geometry.checkpoint_interval();
        !self.checkpoints.loading && op < op_end && (op <= op_frozen || !durable.is_syncing())
    }

    /// Whether the log has gone far on without the checkpoint that is being written: the primary
    /// then prepares one op at a time, so that its disk is free for the checkpoint.
    pub(super) fn checkpoint_is_late(&self) -> bool {
        let geometry = &self.geometry;
        let op_frozen = self.op_checkpoint() + geometry.checkpoint_interval();
        self.op > op_frozen + geometry.write_behind_window() / 2
    }

    // ---- the own checkpoints

    /// All blocks of the checkpoint that was frozen are durable.
    pub fn on_checkpoint_written(&mut self, checkpoint: BlockRef, effects: &mut Effects) {
        if self.is_loading() {
            return self.ignore("on_checkpoint_written", "another one is being taken over");
        }
        let op_next = self.checkpoints.current.op + self.geometry.checkpoint_interval();
        assert_eq!(checkpoint.op, op_next);
        assert!(checkpoint.op <= self.commit_min);
        assert!(!self.is_syncing());
        log::info!("{self}: checkpoint {} is written", checkpoint.op);
        self.checkpoints.previous = self.checkpoints.current;
        self.checkpoints.current = checkpoint;
        self.checkpoints.op_complete = checkpoint.op;
        self.judge_checkpoints(effects);
        self.persist(effects);
    }

    /// The superblock was written: what it says of checkpoints is in force.
    pub(super) fn on_checkpoint_durable(&mut self, effects: &mut Effects) {
        let durable = self.superblock.state();
        let (checkpoint, op_complete) = (durable.checkpoint, durable.op_complete);
        if checkpoint.op > self.journal.op_checkpoint() {
            self.journal.set_checkpoint(checkpoint.op);
            effects.checkpoint_durable = Some(checkpoint.op);
        }
        if self.checkpoints.load_pending && checkpoint == self.checkpoints.current {
            self.checkpoints.load_pending = false;
            assert!(effects.load.is_none());
            effects.load = Some(CheckpointLoad { checkpoint, op_complete });
        }
    }

    /// The executor has the state of a checkpoint, and all blocks of it are here.
    pub fn on_checkpoint_loaded(&mut self, loaded: &Loaded, effects: &mut Effects) {
        let Loaded { checkpoint, previous, header, table } = *loaded;
        assert_eq!(header.op(), checkpoint.op);
        if checkpoint != self.checkpoints.current || self.checkpoints.load_pending {
            return self.ignore("on_checkpoint_loaded", "another one is being taken over");
        }
        assert!(self.checkpoints.loading);
        assert_eq!(self.commit_min, self.checkpoints.current.op);
        assert!(previous.op < self.commit_min);
        // The superblock that names a checkpoint has the table of the log behind it.
        assert!(table.is_none_or(|table| table.op <= self.table.op));
        self.checkpoints.loading = false;
        let timestamp_end = header.command.timestamp + u64::from(header.command.entry_count);
        self.timestamp_next = self.timestamp_next.max(timestamp_end);
        self.checkpoints.progress = (self.commit_min, self.tick);
        if self.is_syncing() {
            log::info!("{self}: checkpoint {} is complete", self.checkpoints.current.op);
            self.checkpoints.op_complete = self.checkpoints.current.op;
        }
        assert!(self.checkpoints.previous.is_none() || self.checkpoints.previous == previous);
        self.checkpoints.previous = previous;
        self.persist(effects);
        self.progress(effects);
    }

    /// A primary whose own checkpoint does not come about lets another one lead: the rest may have
    /// theirs. If its disk is full, it goes only if the rest is known to have room, and stays with
    /// its refusals if they have not: else view after view would end the same way. So of the
    /// primaries with a full disk each leaves once, and one with room stays.
    fn primary_judge_checkpoint(&mut self, effects: &mut Effects) {
        let waits = self.log_is_full() || (self.store_full && self.store_filled);
        if !self.is_primary() || !waits {
            self.checkpoints.full_since = self.tick;
        }
        assert!(self.tick >= self.checkpoints.full_since);
        let ticks = self.tick - self.checkpoints.full_since;
        let leaves = if self.store_full {
            ticks >= FULL_DISK_TICKS && self.leaves_for_room()
        } else {
            ticks >= FULL_TICKS && !self.solo()
        };
        if !leaves {
            if self.abdicating && self.pipeline.is_empty() {
                self.primary_progressed();
            }
            return;
        }
        assert!(self.is_primary() && !self.solo());
        if !self.abdicating {
            log::warn!("{self}: the checkpoint does not come about here: the primary votes to go");
            self.abdicate(effects);
        }
    }

    /// Whether a primary with a full disk has to expect that the others can do without it: a
    /// replication quorum of them lives and has room, or has not been asked yet.
    pub(super) fn leaves_for_room(&self) -> bool {
        if self.solo() {
            return false;
        }
        let is_news = self.tick - self.checkpoints.full_since < FULL_DISK_TICKS;
        let with_room = self.heard_bits() & !self.stores_full & !(1 << self.replica.0);
        assert!(with_room.count_ones() < u32::from(self.replica_count));
        is_news || with_room.count_ones() >= u32::from(self.quorums.replication)
    }

    /// What a replica said of its store.
    pub(super) fn note_store_full(&mut self, from: ReplicaIndex, is_full: bool) {
        assert_ne!(from, self.replica);
        let bit = 1 << from.0;
        self.stores_full = if is_full { self.stores_full | bit } else { self.stores_full & !bit };
    }

    // ---- the checkpoints of others

    /// The checkpoint to offer to a replica that is too far behind: the newer of the two that is
    /// proven, if its blocks are all here.
    pub(super) fn checkpoint_offered(&self) -> BlockRef {
        let durable = self.superblock.state();
        assert!(durable.op_checkpoint() <= self.commit_max);
        assert!(durable.checkpoint_previous.op <= durable.op_checkpoint());
        if durable.is_syncing() {
            return BlockRef::NONE;
        }
        if self.geometry.is_proven(durable.op_checkpoint(), self.commit_max) {
            return durable.checkpoint;
        }
        // After a sync there is none before: but then the one taken over was proven.
        durable.checkpoint_previous
    }

    /// Whether the checkpoint of this `start_view` is to be taken over.
    pub(super) fn wants_sync(&self, start: &StartView) -> bool {
        let checkpoint = start.checkpoint;
        if self.solo() || checkpoint.op <= self.commit_min {
            return false;
        }
        let geometry = &self.geometry;
        if !checkpoint.op.is_multiple_of(geometry.checkpoint_interval())
            || checkpoint.op > start.commit_max
            || !geometry.is_proven(checkpoint.op, start.commit_max)
        {
            log::warn!("{self}: start_view offers checkpoint {}, not proven", checkpoint.op);
            return false;
        }
        self.checkpoints.stuck || start.op > geometry.op_prepare_max(self.op_checkpoint())
    }

    /// Takes over the checkpoint of a `start_view`, before its log. Nothing is written before the
    /// superblock says so, except what is on its way to the slots of a log that is left.
    pub(super) fn begin_sync(&mut self, start: &StartView) {
        let checkpoint = start.checkpoint;
        assert!(checkpoint.op > self.commit_min);
        assert!(checkpoint.op > self.checkpoints.current.op);
        assert!(self.geometry.is_proven(checkpoint.op, start.commit_max));
        log::warn!(
            "{self}: too far behind: taking over checkpoint {} from the others",
            checkpoint.op
        );
        self.checkpoints.current = checkpoint;
        self.checkpoints.previous = BlockRef::NONE;
        self.checkpoints.loading = true;
        self.checkpoints.load_pending = true;
        self.checkpoints.sync_since = self.tick;
        self.checkpoints.stuck = false;
        assert!(self.is_syncing());
        self.counters.syncs += 1;
        assert!(self.commit_max >= self.commit_min);
        assert!(start.op >= checkpoint.op);
        self.commit_min = checkpoint.op;
        self.commit_max = self.commit_max.max(checkpoint.op);
        self.committing = None;
        self.cache.retain(|op, _| *op > checkpoint.op);
        self.prepares_wanted.clear();
        self.journal.set_checkpoint(checkpoint.op);
    }

    /// Once in a while: does execution get on? What a peer lacks because it took over a checkpoint
    /// itself is not to be had by repair.
    pub(super) fn judge_progress(&mut self, effects: &mut Effects) {
        self.primary_judge_checkpoint(effects);
        let waits = self.status == Status::Normal
            && self.commit_min < self.commit_max
            && self.committing.is_none()
            && self.checkpoint_admits(self.commit_min + 1);
        if !waits || self.commit_min > self.checkpoints.progress.0 || self.solo() {
            self.checkpoints.progress = (self.commit_min, self.tick);
            self.checkpoints.stuck = false;
            return;
        }
        assert!(self.commit_min < self.commit_max);
        assert!(self.tick >= self.checkpoints.progress.1);
        if self.tick - self.checkpoints.progress.1 < STUCK_TICKS {
            return;
        }
        self.checkpoints.stuck = true;
        if self.primary_of_view() != self.replica {
            self.request_start_view_of(self.view, effects);
        }
    }

    /// Asks a peer for blocks that are bad or not here yet, at most [`BLOCKS_WANTED_MAX`].
    pub fn request_blocks(&mut self, wanted: &[BlockRef], effects: &mut Effects) {
        assert!(!wanted.is_empty() && wanted.len() <= BLOCKS_WANTED_MAX);
        if self.solo() || !self.is_born() {
            return;
        }
        let to = self.random_other();
        let body: Vec<u8> = wanted.iter().flat_map(BlockRef::encode).collect();
        let message = Message::new(&self.author(), RequestBlocks {}, &body);
        self.send(to, message, effects);
    }

    /// The executor cannot have more blocks, or can again; and whether it keeps as much in memory
    /// for want of them as it should.
    pub fn set_store_full(&mut self, full: bool, filled: bool) {
        assert!(full || !filled);
        if full != self.store_full {
            log::warn!("{self}: the store {} full", if full { "is" } else { "is no longer" });
        }
        self.store_full = full;
        self.store_filled = filled;
    }

    // ---- do they agree?

    /// The checkpoint to speak of: none while it is only what others say.
    pub(super) fn checkpoint_claimed(&self) -> BlockRef {
        let durable = self.superblock.state();
        if durable.is_syncing() { BlockRef::NONE } else { durable.checkpoint }
    }

    /// The id of the checkpoint of `op`, if it is known here; 0 for that of op 0.
    pub(super) fn checkpoint_id_of(&self, op: Op) -> Option<u128> {
        let Self { checkpoints, .. } = self;
        [BlockRef::NONE, checkpoints.previous, checkpoints.current]
            .into_iter()
            .find(|checkpoint| checkpoint.op == op)
            .map(|checkpoint| checkpoint.checkpoint_id())
    }

    /// The id that prepare `op` carries, if it is known here.
    pub(super) fn checkpoint_id_for(&self, op: Op) -> Option<u128> {
        self.checkpoint_id_of(self.geometry.checkpoint_named_by(op))
    }

    /// Replica `from` says that the checkpoint of the op in `id` has this id.
    pub(super) fn on_checkpoint_claim(
        &mut self,
        from: ReplicaIndex,
        id: u128,
        effects: &mut Effects,
    ) {
        let op = Op::try_from(id >> 64).expect("the upper half");
        if op == 0 || from == self.replica || self.claims(from) == (op, id) {
            return;
        }
        self.checkpoints.claims[from.index()] = (op, id);
        self.judge_checkpoints(effects);
    }

    fn claims(&self, of: ReplicaIndex) -> (Op, u128) {
        self.checkpoints.claims[of.index()]
    }

    /// A replica whose state is not that of the majority must not go on; where there is no
    /// majority nobody knows who is right, and nobody must.
    fn judge_checkpoints(&self, effects: &mut Effects) {
        let others: Vec<_> = self.others().map(|other| self.claims(other)).collect();
        for (op, theirs) in &others {
            let Some(own) = self.checkpoint_id_of(*op) else { continue };
            if own == *theirs {
                continue;
            }
            let count = |id: u128| others.iter().filter(|claim| **claim == (*op, id)).count();
            let agree = 1 + count(own);
            let unknown = others.iter().filter(|(claimed, _)| claimed != op).count();
            let majority = usize::from(self.quorums.majority);
            assert!(agree + unknown <= usize::from(self.replica_count));
            assert!(count(*theirs) > 0);
            log::error!("{self}: checkpoint {op} is {own:032x} here and {theirs:032x} elsewhere");
            if count(*theirs) >= majority || agree + unknown < majority {
                effects.fatal = Some(Fatal::new(
                    FatalKind::CheckpointDiverged,
                    format!(
                        "replica {}: the checkpoint of op {op} is {own:032x} here, and \
                         {theirs:032x} on {} of the {} replicas: the state here is not the \
                         cluster's, or nobody's is; keep the data file for a look, and rebuild \
                         the replica by `vsr recover --replica={}`",
                        self.replica,
                        count(*theirs),
                        self.replica_count,
                        self.replica
                    ),
                ));
                return;
            }
        }
    }
}
