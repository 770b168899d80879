//! The checkers: what must hold of every run, however the world behaves.
//!
//! ```text
//!   driver ── on_commit ──────► commits, digests, checkpoints: the log, as it is executed
//!          ── on_state ───────► commits, monotonic,      the state after each turn
//!                               checkpoints
//!          ── on_bounds ──────► bounds                   how full queues are
//!          ── on_blocks ──────► blocks                   a checkpoint as the disk has it
//!          ── on_slot ────────► journal                  a slot as the disk has it
//!          ── on_restart ─────► commits, monotonic       a process life ends
//!          ── on_view_spoken ─► monotonic                what others have heard
//!          ── on_prepare_ok ──► promises                 what a replica says that it has
//!          ── on_log_told ────► promises                 a log as it is told to the others
//!          ── on_head_resolved► promises                 an uncertain end of a log is certain
//!          ── on_reply ───────► replies                  what replicas send to clients
//!          ── on_invoke ──┐
//!          ── on_return ──┴───► history ─┐               what clients asked and were told
//!          ── finish(finals) ────────────┴─► effects ──► order, linearizability,
//!                  │                                     acknowledged, at_most_once
//!                  └──► one CheckerReport for each
//! ```
//!
//! A run of the ledger has one checker, `ledger`, in place of the four of kv.
//!
//! Checks of the log speak at once, with the event that contradicts; checks of histories need all
//! of it and speak in `finish`. Any failure is kept and appears in the report of its checker.
//!
//! **Invariants:** every checker counts what it compared, and says itself whether that was too
//! little ([`CheckerReport::vacuous`]); nothing depends on the order of a hash table, a clock or a
//! float.
//!
//! **Not here:** making events happen (`sim`); whether a cluster makes progress (liveness).

mod acknowledged;
mod at_most_once;
mod blocks;
mod bounds;
pub(crate) mod call;
mod checkpoints;
mod commits;
mod digests;
mod effects;
mod history;
mod journal;
mod ledger;
mod linearizability;
mod monotonic;
mod order;
mod promises;
mod replies;

pub(crate) use call::{Call, CallResult, Observed, Record, Row};
pub(crate) use journal::SlotOnDisk;
pub(crate) use promises::LogTold;

use blocks::Blocks;
use bounds::Bounds;
use bytes::Bytes;
use checkpoints::Checkpoints;
use commits::Commits;
use digests::Digests;
use effects::Effects;
use history::History;
use journal::Journal;
use ledger::Ledger;
use monotonic::Monotonic;
use promises::Promises;
use replies::Replies;
use std::collections::BTreeMap;
use vsr::stdx::Bound;
use vsr::wire::{BlockRef, Message, Op, Parent, PrepareId, View};

/// The most characters of a byte string in a message.
const TEXT_CHARS_MAX: usize = 40;

/// All checkers of one run.
#[derive(Debug)]
pub(crate) struct Checkers {
    replica_count: u8,
    commits: Commits,
    digests: Digests,
    checkpoints: Checkpoints,
    blocks: Blocks,
    bounds: Bounds,
    journal: Journal,
    monotonic: Monotonic,
    promises: Promises,
    replies: Replies,
    history: History,
    /// Instead of what is asked of kv.
    ledger: Option<Ledger>,
}

/// An op that a replica executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The executor's op after it.
    pub(crate) op: Op,
    /// The identity of the prepare that was executed.
    pub(crate) id: PrepareId,
    /// What the prepare's header names as its predecessor.
    pub(crate) parent: Parent,
    /// `Executor::digest` right after it, if it was taken.
    pub(crate) digest: Option<u64>,
    /// The root of the newest checkpoint that the executor stands on.
    pub(crate) checkpoint: BlockRef,
}

/// What a replica is after a turn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReplicaState {
    pub(crate) view: View,
    pub(crate) log_view: View,
    pub(crate) op: Op,
    /// Executed. Every op up to it was reported by [`Checkers::on_commit`] in this process life.
    pub(crate) commit_min: Op,
    pub(crate) commit_max: Op,
    /// Of the checkpoint that its state begins with.
    pub(crate) op_checkpoint: Op,
    /// In the superblock on disk, if known.
    pub(crate) view_durable: Option<View>,
    /// In the superblock on disk, if known.
    pub(crate) log_view_durable: Option<View>,
    /// In the superblock on disk: the newest checkpoint that is there in full.
    pub(crate) op_complete: Op,
    /// In the superblock on disk: the checkpoint that is being taken over from others.
    pub(crate) op_syncing: Option<Op>,
}

/// What a live replica has in its store at the end, when all have executed the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FinalState {
    pub(crate) replica: u8,
    /// The last executed op.
    pub(crate) op: Op,
    /// kv's counter of writes.
    pub(crate) revision: u64,
    /// All rows, in the order of keys.
    pub(crate) rows: Vec<Row>,
}

/// What a checker has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CheckerReport {
    /// Which checker.
    pub(crate) name: &'static str,
    /// How many comparisons it made.
    pub(crate) compared: u64,
    /// How many questions it gave up. They are neither passed nor failed.
    pub(crate) undecided: u64,
    /// It compared nothing though there should have been something: the run proves nothing.
    pub(crate) vacuous: bool,
    /// The first thing that was wrong.
    pub(crate) failure: Option<String>,
}

/// The first failure of a checker.
#[derive(Debug, Default)]
struct FirstFailure(Option<String>);

impl Checkers {
    /// For a cluster of so many replicas, none of which has run.
    pub(crate) fn new(replica_count: u8) -> Self {
        assert!(replica_count > 0);
        Self {
            replica_count,
            commits: Commits::new(replica_count),
            digests: Digests::new(replica_count),
            checkpoints: Checkpoints::new(replica_count),
            blocks: Blocks::default(),
            bounds: Bounds::default(),
            journal: Journal::default(),
            monotonic: Monotonic::new(replica_count),
            promises: Promises::new(replica_count),
            replies: Replies::default(),
            history: History::default(),
            ledger: None,
        }
    }

    /// The same, for replicas of the ledger with so many sessions.
    pub(crate) fn of_ledger(replica_count: u8, sessions: u64) -> Self {
        Self { ledger: Some(Ledger::new(sessions)), ..Self::new(replica_count) }
    }

    /// A replica executed this prepare, which is checked already.
    pub(crate) fn on_ledger_commit(&mut self, prepare: &Message) {
        if let Some(ledger) = &mut self.ledger {
            ledger.on_commit(prepare);
        }
    }

    /// A client is about to ask a ledger.
    pub(crate) fn on_ledger_invoke(&mut self, client: u64, body: &Bytes) {
        self.ledger.as_mut().expect("it is one").on_invoke(client, body);
    }

    /// A client's open question to a ledger has ended, with an answer from this op if there is one.
    pub(crate) fn on_ledger_return(&mut self, client: u64, op: Option<Op>) {
        self.ledger.as_mut().expect("it is one").on_return(client, op);
    }

    /// All accounts of the ledger.
    pub(crate) fn ledger_accounts(&self) -> Vec<u32> {
        self.ledger.as_ref().expect("it is one").accounts()
    }

    /// What a replica that has converged says of all accounts, and their total.
    pub(crate) fn on_ledger_final(
        &mut self,
        replica: usize,
        op: Op,
        balances: &BTreeMap<u32, u64>,
        total: u64,
    ) {
        let ledger = self.ledger.as_mut().expect("it is one");
        ledger.on_final(replica, op, balances, total);
    }

    /// A replica executed an op: each one, in order, and again after a restart. Before the
    /// [`Checkers::on_state`] of the same turn. `tick` is for the message.
    ///
    /// # Errors
    /// What it contradicts.
    pub(crate) fn on_commit(
        &mut self,
        replica: u8,
        commit: Commit,
        tick: u64,
    ) -> Result<(), String> {
        assert!(replica < self.replica_count);
        let mut result = named("commits", self.commits.on_commit(replica, &commit));
        if let Some(digest) = commit.digest {
            let digests = self.digests.on_digest(replica, commit.op, digest);
            result = result.and(named("digests", digests));
        }
        let checkpoints = self.checkpoints.on_checkpoint(replica, commit.checkpoint);
        result = result.and(named("checkpoints", checkpoints));
        result.map_err(|reason| format!("tick {tick}: {reason}"))
    }

    /// At the end, this lies in the slot of an op that the replica has executed, and that nothing
    /// has hurt. An op that nobody was seen to execute is left out.
    pub(crate) fn on_slot(&mut self, replica: u8, op: Op, on_disk: SlotOnDisk) {
        assert!(replica < self.replica_count);
        if let Some(expected) = self.commits.executed(op) {
            // It is told by the report.
            let _ = self.journal.on_slot(replica, expected, on_disk);
        }
    }

    /// What everybody executed at `op`, if somebody was seen to.
    pub(crate) fn executed(&self, op: Op) -> Option<PrepareId> {
        self.commits.executed(op)
    }

    /// The last op that anybody executed.
    pub(crate) fn op_executed_max(&self) -> Op {
        self.commits.op_executed_max()
    }

    /// So full are all queues of a replica after a turn.
    ///
    /// # Errors
    /// If there is more than there may be.
    pub(crate) fn on_bounds(&mut self, replica: u8, bounds: &[Bound]) -> Result<(), String> {
        assert!(replica < self.replica_count);
        named("bounds", self.bounds.on_turn(replica, bounds))
    }

    /// The superblock of a replica says that it has the checkpoint of `op` in full, of which so
    /// many blocks are on its disk, or what is not.
    ///
    /// # Errors
    /// If there is something that is not.
    pub(crate) fn on_blocks(
        &mut self,
        replica: u8,
        op: Op,
        found: Result<u64, String>,
    ) -> Result<(), String> {
        assert!(replica < self.replica_count);
        named("blocks", self.blocks.on_checkpoint(replica, op, found))
    }

    /// The replica's process ended, in whatever way; the next events are of another one on the same
    /// disk.
    pub(crate) fn on_restart(&mut self, replica: u8) {
        assert!(replica < self.replica_count);
        self.commits.on_restart(replica);
        self.monotonic.on_restart(replica);
    }

    /// The replica's process has ended, and its file is lost: the next begins with a blank one.
    pub(crate) fn on_file_lost(&mut self, replica: u8) {
        assert!(replica < self.replica_count);
        self.monotonic.on_file_lost(replica);
        self.promises.on_file_lost(replica);
    }

    /// The replica is in this state after a turn. Also right after it was opened.
    ///
    /// # Errors
    /// What it contradicts.
    pub(crate) fn on_state(&mut self, replica: u8, state: ReplicaState) -> Result<(), String> {
        assert!(replica < self.replica_count);
        let commits = named("commits", self.commits.on_state(replica, &state));
        let monotonic = named("monotonic", self.monotonic.on_state(replica, &state));
        let checkpoints = named("checkpoints", self.checkpoints.on_state(replica, &state));
        commits.and(monotonic).and(checkpoints)
    }

    /// The replica handed a message to the network that says it takes part in `view`: any message
    /// between replicas whose header has `view`, but those that pass on what others wrote (prepare,
    /// request). It must be durable by the next [`Checkers::on_state`], and a restarted replica
    /// must still know it.
    pub(crate) fn on_view_spoken(&mut self, replica: u8, view: View) {
        assert!(replica < self.replica_count);
        self.monotonic.on_view_spoken(replica, view);
    }

    /// The logs of others made `op` the head of a log whose end was uncertain. `is_hurt` says of
    /// an op whether a fault has hurt its slot.
    ///
    /// # Errors
    /// If what it has acknowledged above was executed.
    pub(crate) fn on_head_resolved(
        &mut self,
        replica: u8,
        op: Op,
        is_hurt: impl Fn(Op) -> bool,
    ) -> Result<(), String> {
        assert!(replica < self.replica_count);
        let executed = |op| self.commits.executed(op);
        named("promises", self.promises.on_head_resolved(replica, op, is_hurt, executed))
    }

    /// The replica handed a `prepare_ok` of `view` to the network. `on_disk` is what its disk has
    /// of that prepare now; without: nothing that could be judged.
    ///
    /// # Errors
    /// If it is not there.
    pub(crate) fn on_prepare_ok(
        &mut self,
        replica: u8,
        view: View,
        id: PrepareId,
        on_disk: Option<SlotOnDisk>,
    ) -> Result<(), String> {
        assert!(replica < self.replica_count);
        named("promises", self.promises.on_prepare_ok(replica, view, id, on_disk))
    }

    /// The replica handed a `do_view_change` to the network.
    ///
    /// # Errors
    /// If what it has acknowledged is not in that log.
    pub(crate) fn on_log_told(&mut self, replica: u8, log: &LogTold<'_>) -> Result<(), String> {
        assert!(replica < self.replica_count);
        named("promises", self.promises.on_log_told(replica, log))
    }

    /// A replica handed a message to the network, for a client. Anything but a reply is ignored.
    ///
    /// # Errors
    /// If another reply to the same request was different.
    pub(crate) fn on_reply(&mut self, message: &Message) -> Result<(), String> {
        let replies = named("replies", self.replies.on_reply(message));
        let ledger = self.ledger.as_mut().map_or(Ok(()), |ledger| ledger.on_reply(message));
        replies.and(named("ledger", ledger))
    }

    /// A client is about to ask. It has no other call open. `time` (ns) is for messages: what
    /// counts is the order in which `on_invoke` and `on_return` are called.
    pub(crate) fn on_invoke(&mut self, client: u64, time: u64, call: Call) {
        self.history.on_invoke(client, time, call);
    }

    /// The open call of a client has ended. A client that vanishes needs no return.
    pub(crate) fn on_return(&mut self, client: u64, time: u64, result: CallResult) {
        self.history.on_return(client, time, result);
    }

    /// The run is over. `finals` are the live replicas that have converged, or none.
    pub(crate) fn finish(&mut self, finals: &[FinalState]) -> Vec<CheckerReport> {
        assert!(finals.iter().all(|state| state.replica < self.replica_count));
        let effects = Effects::new(&self.history, finals);
        let mut reports = vec![
            self.commits.report(),
            self.digests.report(),
            self.checkpoints.report(),
            self.blocks.report(),
            self.journal.report(),
            self.bounds.report(),
            self.monotonic.report(),
            self.promises.report(),
            self.replies.report(),
        ];
        match &self.ledger {
            Some(ledger) => reports.push(ledger.report()),
            None => reports.extend([
                order::report(&self.history, &effects),
                linearizability::report(&self.history, finals),
                acknowledged::report(&self.history, &effects, finals),
                at_most_once::report(&self.history, &effects, finals),
            ]),
        }
        for report in &mut reports {
            report.failure = report.failure.take().map(|reason| shorten(&reason));
        }
        reports
    }
}

/// Says which checker a failure is of.
fn named(name: &str, result: Result<(), String>) -> Result<(), String> {
    result.map_err(|reason| format!("{name}: {reason}"))
}

/// The message with its longest byte strings cut: a value may be as long as a message of the
/// protocol, and what tells it from others is at its beginning.
fn shorten(message: &str) -> String {
    let mut short = String::new();
    let mut size = None;
    let mut escaped = false;
    for c in message.chars() {
        let quote = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        size = match size {
            None if quote => Some(0),
            Some(_) if quote => None,
            size => size.map(|size: usize| size + 1),
        };
        match size {
            Some(size) if size > TEXT_CHARS_MAX => {}
            Some(TEXT_CHARS_MAX) => short.push('…'),
            _ => short.push(c),
        }
    }
    short
}

impl FirstFailure {
    /// Keeps a failure, if it is the first one; passes the result on.
    fn note(&mut self, result: Result<(), String>) -> Result<(), String> {
        if let (Err(reason), None) = (&result, &self.0) {
            self.0 = Some(reason.clone());
        }
        result
    }

    fn get(&self) -> Option<String> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests;
