//! F5: queries that do not go through the log: one that finds no room in the log is answered from
//! the executed state, once a quorum says that no later view can have begun.
//!
//! ```text
//!   query ──► waiting ──► asked ── commit{round, answer} ──► backups, normal in exactly this view
//!                           │                                    │
//!                           ◄────────── commit_ok{round} ────────┘
//!                           └─ a replication quorum, and `op` executed ──► effects.queries
//! ```
//!
//! Every replication quorum meets every view-change quorum, and whoever has sent `do_view_change`
//! is normal in this view no more. So when a replication quorum, this replica included, has
//! answered a round that was begun after the query came, no later view had begun when it came: all
//! that was acknowledged until then is committed in this view, up to `commit_max`, or lies in the
//! log that the view began with. The round's `op` is the larger of the two ends, and the state
//! that has executed it has all of that.
//!
//! **Invariants:** one round is under way at a time, and is begun after each of its queries came;
//! only answers to it, or to a later one, count; a view that ends takes its queries along.
//!
//! **Not here:** queries while the log has room: they have a place in it. Execution (`executor`).

use super::{Effects, Replica, Status};
use crate::wire::{CommitOk, Header, Message, Op};

/// Queries that wait, in messages' worth of bytes.
pub(super) const WAITING_MESSAGES_MAX: u64 = 4;

/// See the head of this file.
#[derive(Debug, Default)]
pub(super) struct Queries {
    /// For the next round.
    waiting: Vec<Message>,
    /// Bytes of `waiting`.
    waiting_size: u64,
    /// Of the round under way.
    asked: Vec<Message>,
    /// The first heartbeat whose answers count.
    round: u64,
    /// What must be executed.
    op: Op,
    /// Bit r: replica r has answered.
    oks: u8,
}

impl Queries {
    /// Bytes of those that wait, and of those of the round under way.
    pub(super) fn sizes(&self) -> (u64, u64) {
        let asked = self.asked.iter().map(|query| u64::from(query.header().size)).sum();
        (self.waiting_size, asked)
    }

    /// Whether heartbeats are to be answered.
    pub(super) fn is_asking(&self) -> bool {
        !self.asked.is_empty()
    }
}

impl Replica {
    /// Takes a query for the next round.
    ///
    /// # Errors
    /// Why it is dropped; the client will try again.
    pub(super) fn queries_gather(&mut self, query: &Message) -> Result<(), &'static str> {
        assert!(self.is_primary());
        let size = u64::from(query.header().size);
        let size_max = WAITING_MESSAGES_MAX * u64::from(self.geometry.message_size);
        if self.queries.waiting_size + size > size_max {
            return Err("the queue of queries is full");
        }
        self.queries.waiting_size += size;
        self.queries.waiting.push(query.clone());
        assert!(self.queries.waiting_size <= size_max);
        Ok(())
    }

    /// The end of a turn: begins a round for what waits, unless one is under way.
    pub(super) fn queries_begin_round(&mut self, effects: &mut Effects) {
        if self.queries.waiting.is_empty() || self.queries.is_asking() || !self.is_primary() {
            return;
        }
        assert!(self.view_op <= self.op);
        self.queries.asked = std::mem::take(&mut self.queries.waiting);
        self.queries.waiting_size = 0;
        self.queries.op = self.commit_max.max(self.view_op);
        self.queries.round = self.round + 1;
        self.queries.oks = 1 << self.replica.0;
        if !self.solo() && !self.abdicating {
            self.primary_send_commit(effects);
        }
        assert!(self.queries.is_asking());
        self.queries_finish_round(effects);
    }

    /// A backup is normal in the view of a heartbeat.
    pub(super) fn on_commit_ok(&mut self, header: &Header<CommitOk>, effects: &mut Effects) {
        if header.view != self.view || !self.acts_as_primary() {
            return self.ignore("on_commit_ok", "not the primary of that view");
        }
        if !self.queries.is_asking() || header.command.round < self.queries.round {
            return self.ignore("on_commit_ok", "of an earlier round");
        }
        if header.command.round > self.round {
            return self.ignore("on_commit_ok", "of a round that was never begun");
        }
        assert!(header.replica.0 < self.replica_count);
        self.queries.oks |= 1 << header.replica.0;
        self.queries_finish_round(effects);
    }

    /// Hands the queries of the round over, if they may be answered.
    pub(super) fn queries_finish_round(&mut self, effects: &mut Effects) {
        let Self { queries, quorums, .. } = self;
        let count = u8::try_from(queries.oks.count_ones()).expect("8 bits");
        if !queries.is_asking() || count < quorums.replication || self.commit_min < queries.op {
            return;
        }
        assert_eq!(self.status, Status::Normal);
        assert!(queries.op >= self.view_op);
        effects.queries.append(&mut queries.asked);
    }
}
