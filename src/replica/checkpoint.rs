//! F5: checkpoints as the protocol sees them: when the state is frozen, what a durable checkpoint
//! lets go of, what a replica that is too far behind takes over from the others (state sync), and
//! what happens when two replicas disagree on one.
//!
//! ```text
//!   op C' = C + I executed ──► frozen, written behind while ops go on ──► on_checkpoint_written
//!                                                          superblock: C', C durable ◄──┘
//!                                                          journal: slots of ops <= C' are free
//!
//!   start_view, or a do_view_change that makes an uncertain head certain, whose head has no room
//!   here; or repair stands still
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
use crate::stdx::defect;
use crate::storage::SuperblockState;
use crate::wire::{BlockRef, DoViewChange, Message, Op, ReplicaIndex, RequestBlocks, StartView};

/// Ticks without progress in execution, though there is something to execute, after which what is
/// missing is believed to be gone.
const STUCK_TICKS: u64 = 300;

/// Ticks that a primary waits for its own checkpoint with a full log.
const FULL_TICKS: u64 = 300;

/// Ticks that a primary waits for a block without which it cannot execute.
const BLOCK_TICKS: u64 = 300;

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

/// A checkpoint that comes with a log, for whom the log begins too late.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    /// The head of the log.
    pub(super) op: Op,
    /// What is committed of it.
    pub(super) commit_max: Op,
    /// Of the sender, proven; or none.
    pub(super) checkpoint: BlockRef,
}

impl From<&StartView> for Offer {
    fn from(start: &StartView) -> Self {
        let StartView { op, commit_max, checkpoint, .. } = *start;
        Self { op, commit_max, checkpoint }
    }
}

impl From<&DoViewChange> for Offer {
    fn from(log: &DoViewChange) -> Self {
        let DoViewChange { op, commit_max, checkpoint, .. } = *log;
        Self { op, commit_max, checkpoint }
    }
}

/// What a data file has said of its checkpoints: op and id of the newest two.
#[derive(Debug, Clone, Copy, Default)]
struct Claims {
    /// Of the file. Another one in its place has said nothing yet.
    incarnation: u64,
    newest: [(Op, u128); 2],
}

impl Claims {
    /// Notes one; false if there is nothing new in it.
    fn note(&mut self, incarnation: u64, op: Op, id: u128) -> bool {
        if self.incarnation != incarnation {
            *self = Self { incarnation, ..Self::default() };
        }
        if let Some(known) = self.newest.iter_mut().find(|(known, _)| *known == op) {
            return std::mem::replace(&mut known.1, id) != id;
        }
        let [first, second] = &mut self.newest;
        let oldest = if first.0 <= second.0 { first } else { second };
        let is_newer = op > oldest.0;
        if is_newer {
            *oldest = (op, id);
        }
        is_newer
    }
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
    /// By replica: the checkpoints it spoke of.
    claims: [Claims; crate::constants::REPLICAS_MAX as usize],
    /// Of the last progress of execution: `commit_min`, and the tick.
    progress: (Op, u64),
    /// Primary: the tick since which the log cannot go on for want of a checkpoint, or now.
    full_since: u64,
    /// What is to be executed next is believed to be gone from all journals.
    stuck: bool,
    /// Execution cannot go on without a block that is bad here.
    awaits_block: bool,
    /// Primary: the tick since which that is so, or now.
    block_since: u64,
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
            claims: [Claims::default(); crate::constants::REPLICAS_MAX as usize],
            progress: (current.op, 0),
            full_since: 0,
            stuck: false,
            awaits_block: false,
            block_since: 0,
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

    /// The checkpoint that the data file names and has in full; `None` before the first one, and
    /// while one is being taken over.
    pub fn checkpoint_complete_durable(&self) -> Option<BlockRef> {
        let durable = self.superblock.state();
        let is_there = !durable.checkpoint.is_none() && !durable.is_syncing();
        is_there.then_some(durable.checkpoint)
    }

    /// The checkpoint that the data file says is being taken over from others.
    pub fn checkpoint_syncing_durable(&self) -> Option<BlockRef> {
        let durable = self.superblock.state();
        durable.is_syncing().then_some(durable.checkpoint)
    }

    /// Whether blocks of the checkpoint are still to be fetched from others.
    pub fn is_syncing(&self) -> bool {
        self.checkpoints.op_complete < self.checkpoints.current.op
    }

    /// The checkpoint that is being taken over from others, and for how many ticks already one is.
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

    /// Whether the log has gone far on without the checkpoint that is being written: more of it is
    /// then written at a time, and the primary prepares one op at a time, so that its disk is free
    /// for that.
    pub fn checkpoint_is_late(&self) -> bool {
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
        if !defect!("timestamp_forgotten") {
            self.timestamp_next = self.timestamp_next.max(timestamp_end);
        }
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

    /// Execution cannot go on without a block that is bad here and that others are asked for, or it
    /// goes on again.
    pub fn set_awaits_block(&mut self, awaits_block: bool) {
        self.checkpoints.awaits_block = awaits_block;
    }

    /// See [`Self::set_awaits_block`].
    pub fn awaits_block(&self) -> bool {
        self.checkpoints.awaits_block
    }

    /// A primary that cannot execute, because a block is bad here and nobody sends it, lets another
    /// one lead, which may have it.
    fn primary_judge_block(&mut self, effects: &mut Effects) {
        if !self.is_primary() || self.solo() || !self.awaits_block() {
            self.checkpoints.block_since = self.tick;
            return;
        }
        assert!(self.is_born(), "before the birth there are no blocks");
        if self.is_block_overdue() && !self.abdicating {
            log::warn!("{self}: waiting for a block that nobody sends: the primary votes to go");
            self.abdicate(effects);
        }
    }

    /// Whether this primary has waited for a block for so long that it is to go.
    pub(super) fn is_block_overdue(&self) -> bool {
        assert!(self.tick >= self.checkpoints.block_since);
        self.awaits_block() && self.tick - self.checkpoints.block_since >= BLOCK_TICKS
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
        // What is in doubt, and what came of it, is not to be taken over by a third: it would make
        // up a majority, and has executed nothing.
        let majority = self.quorums.majority;
        let is_agreed = |checkpoint: &BlockRef| {
            let mut upto = self.comparable().filter(|own| own.op <= checkpoint.op);
            !upto.any(|own| self.is_doubted(&own, majority))
        };
        let (new, old) = (durable.checkpoint, durable.checkpoint_previous);
        if self.geometry.is_proven(new.op, self.commit_max) && is_agreed(&new) {
            return new;
        }
        // After a sync there is none before: but then the one taken over was proven. And its blocks
        // are there until the one after the newest is frozen.
        let is_whole = self.commit_min < new.op + self.geometry.checkpoint_interval();
        if is_agreed(&old) && is_whole { old } else { BlockRef::NONE }
    }

    /// Whether the checkpoint that comes with a log is to be taken over.
    pub(super) fn wants_sync(&self, offer: &Offer) -> bool {
        let checkpoint = offer.checkpoint;
        if self.solo() || checkpoint.op <= self.commit_min {
            return false;
        }
        let geometry = &self.geometry;
        if !checkpoint.op.is_multiple_of(geometry.checkpoint_interval())
            || checkpoint.op > offer.commit_max
            || !geometry.is_proven(checkpoint.op, offer.commit_max)
        {
            log::warn!("{self}: checkpoint {} is offered, not proven", checkpoint.op);
            return false;
        }
        // This one has not computed it, so it has no say.
        if self.contradictions(&checkpoint) != 0
            && self.confirmations(&checkpoint) < usize::from(self.quorums.majority)
        {
            log::error!("{self}: checkpoint {} is offered, in doubt", checkpoint.op);
            return false;
        }
        self.checkpoints.stuck || offer.op > geometry.op_prepare_max(self.op_checkpoint())
    }

    /// Takes over the checkpoint that comes with a log, before the log. Nothing is written before
    /// the superblock says so, except what is on its way to the slots of a log that is left.
    pub(super) fn begin_sync(&mut self, offer: &Offer) {
        let checkpoint = offer.checkpoint;
        assert!(checkpoint.op > self.commit_min);
        assert!(checkpoint.op > self.checkpoints.current.op);
        assert!(self.geometry.is_proven(checkpoint.op, offer.commit_max));
        log::warn!(
            "{self}: too far behind: taking over checkpoint {} from the others",
            checkpoint.op
        );
        let is_further = self.is_syncing();
        self.checkpoints.current = checkpoint;
        self.checkpoints.previous = BlockRef::NONE;
        self.checkpoints.loading = true;
        self.checkpoints.load_pending = true;
        if !is_further {
            self.checkpoints.sync_since = self.tick;
        }
        self.checkpoints.stuck = false;
        self.checkpoints.awaits_block = false;
        assert!(self.is_syncing());
        if defect!("sync_complete_early") {
            self.checkpoints.op_complete = checkpoint.op;
        }
        self.counters.syncs += 1;
        assert!(self.commit_max >= self.commit_min);
        assert!(offer.op >= checkpoint.op);
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
        self.primary_judge_block(effects);
        // What a peer lacks of the blocks of an old checkpoint is not to be had either.
        let waits = self.status == Status::Normal
            && (self.awaits_block()
                || self.commit_min < self.commit_max
                    && self.committing.is_none()
                    && self.checkpoint_admits(self.commit_min + 1));
        if !waits || self.commit_min > self.checkpoints.progress.0 || self.solo() {
            self.checkpoints.progress = (self.commit_min, self.tick);
            self.checkpoints.stuck = false;
            return;
        }
        assert!(self.awaits_block() || self.commit_min < self.commit_max);
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
        if op == 0 || from == self.replica {
            return;
        }
        let incarnation = self.table.incarnations[from.index()];
        if self.checkpoints.claims[from.index()].note(incarnation, op, id) {
            self.judge_checkpoints(effects);
        }
    }

    /// The id that the checkpoint of `op` has on replica `of`, as far as its file has said so.
    fn claimed(&self, of: ReplicaIndex, op: Op) -> Option<u128> {
        let claims = &self.checkpoints.claims[of.index()];
        // A file that was replaced has no say, whatever it said before.
        let is_member = claims.incarnation == self.table.incarnations[of.index()];
        let found = claims.newest.iter().find(|(claimed, _)| is_member && *claimed == op);
        found.map(|(_, id)| *id)
    }

    /// The own checkpoints that there is something to compare with, the newest first.
    fn comparable(&self) -> impl Iterator<Item = BlockRef> + use<> {
        let Checkpoints { current, previous, .. } = self.checkpoints;
        [current, previous].into_iter().filter(|checkpoint| !checkpoint.is_none())
    }

    /// Bit r: replica r says that this checkpoint is another one.
    fn contradictions(&self, checkpoint: &BlockRef) -> u8 {
        let own = checkpoint.checkpoint_id();
        let is_other = |other: &ReplicaIndex| {
            self.claimed(*other, checkpoint.op).is_some_and(|theirs| theirs != own)
        };
        self.others().filter(is_other).fold(0, |bits, other| bits | 1 << other.0)
    }

    /// Whether another replica contradicts this checkpoint, and less than so many agree on it.
    fn is_doubted(&self, checkpoint: &BlockRef, quorum: u8) -> bool {
        self.contradictions(checkpoint) != 0
            && 1 + self.confirmations(checkpoint) < usize::from(quorum)
    }

    /// How many others say that they have this checkpoint.
    fn confirmations(&self, checkpoint: &BlockRef) -> usize {
        let id = Some(checkpoint.checkpoint_id());
        self.others().filter(|other| self.claimed(*other, checkpoint.op) == id).count()
    }

    /// The op of the newest checkpoint that others have otherwise, while no majority is known to
    /// have this one, and who they are (bit r: replica r).
    pub(super) fn diverged(&self) -> Option<(Op, u8)> {
        let majority = self.quorums.majority;
        let doubted = self.comparable().find(|own| self.is_doubted(own, majority))?;
        Some((doubted.op, self.contradictions(&doubted)))
    }

    /// Whether the prepare of `op` would name a checkpoint that another replica has otherwise: too
    /// few would acknowledge it, and its slot holds what led to that checkpoint.
    pub(super) fn names_what_is_in_doubt(&self, op: Op) -> bool {
        let named = self.geometry.checkpoint_named_by(op);
        let mut own = self.comparable().filter(|own| own.op == named);
        own.any(|own| self.is_doubted(&own, self.quorums.replication))
    }

    /// A replica must not go on whose state is not that of a majority of all, nor one whose state
    /// cannot be, whatever those say that were not heard: with two, or of four two against two,
    /// nobody knows who is right. As long as there may be a majority, it is waited for: what is
    /// prepared beyond the next checkpoint names this one, so the log does not go on for long, and
    /// what led to it stays in the journals, for the one that was away to execute and to judge.
    fn judge_checkpoints(&mut self, effects: &mut Effects) {
        for checkpoint in self.comparable() {
            let (op, own) = (checkpoint.op, checkpoint.checkpoint_id());
            let theirs: Vec<u128> =
                self.others().filter_map(|other| self.claimed(other, op)).collect();
            let count = |id: u128| theirs.iter().filter(|claimed| **claimed == id).count();
            let others = theirs.iter().filter(|id| **id != own);
            let Some(other) = others.max_by_key(|id| count(**id)).copied() else { continue };
            let agree = 1 + count(own);
            let unknown = usize::from(self.replica_count) - 1 - theirs.len();
            let majority = usize::from(self.quorums.majority);
            assert!(agree + unknown + count(other) <= usize::from(self.replica_count));
            log::error!(
                "{self}: diverged: checkpoint {op} is {own:032x} here and {other:032x} on {} of \
                 the {} replicas",
                count(other),
                self.replica_count
            );
            if count(other) >= majority || agree + unknown < majority {
                effects.fatal = Some(self.fatal_diverged(op, own, other, count(other)));
                // Nobody would hear of it any more, and of two both have to know.
                return self.send_pings(effects);
            }
        }
    }

    fn fatal_diverged(&self, op: Op, own: u128, other: u128, count: usize) -> Fatal {
        let Self { replica, replica_count, .. } = self;
        assert_ne!(own, other);
        let (judgement, remedy) = if count >= usize::from(self.quorums.majority) {
            ("the state here is not the cluster's", {
                format!("rebuild the replica by `vsr recover --replica={replica}`")
            })
        } else {
            ("no majority of the replicas can have the state that is here", {
                "find out which data file is right before any of them is started again".to_owned()
            })
        };
        Fatal::new(
            FatalKind::CheckpointDiverged,
            format!(
                "replica {replica}: the checkpoint of op {op} is {own:032x} here, and {other:032x} \
                 on {count} of the {replica_count} replicas: {judgement}; keep the data file \
                 (`vsr inspect checkpoint FILE --against OTHER_FILE` with that of another replica \
                 tells which block differs), and {remedy}"
            ),
        )
    }
}
