//! F5: execution: committed prepares go to the executor, one at a time, in op order.
//!
//! **Invariants:** an op is executed once in the life of a process, after every op before it, and
//! only if a hash chain binds it to the head: a header that merely lies at the right place in the
//! journal may be of a log that lost.

use super::{ReadPurpose, Replica, Status};
use crate::replica::Effects;
use crate::stdx::defect;
use crate::storage::ReadResult;
use crate::wire::{Message, Op, PrepareId};

/// Prepares read at once for execution: half of the reads that may be in flight.
pub(super) const READ_AHEAD: Op = 8;

impl Replica {
    /// Hands the next committed prepare to the executor, if it is at hand.
    pub(super) fn commit_advance(&mut self, effects: &mut Effects) {
        let op = self.commit_min + 1;
        if self.committing.is_some() || op > self.commit_max.min(self.op) {
            return;
        }
        let is_chained = op >= self.chain_min || defect!("commit_off_chain");
        if !is_chained || self.status == Status::RecoveringHead {
            return;
        }
        if !self.checkpoint_admits(op) {
            return;
        }
        assert!(op <= self.commit_max);
        assert!(is_chained);
        let id = self.journal.header(op).expect("the chain has no holes").id();
        let cached = self.cache.get(&op).filter(|message| message.prepare_header().id() == id);
        if let Some(message) = cached {
            assert!(effects.commit.is_none());
            effects.commit = Some(message.clone());
            self.committing = Some(op);
            return;
        }
        self.read_own(&id, effects);
        self.read_ahead(op, effects);
    }

    /// A log that is executed from the disk would otherwise wait for one read after the other.
    fn read_ahead(&mut self, op: Op, effects: &mut Effects) {
        for ahead in op + 1..=self.commit_max.min(self.op).min(op + READ_AHEAD) {
            let id = self.journal.header(ahead).expect("the chain has no holes").id();
            if !self.cached(&id) {
                self.read_own(&id, effects);
            }
        }
    }

    /// The executor is done with `op`.
    pub fn on_commit_done(&mut self, op: Op, effects: &mut Effects) {
        assert_eq!(self.committing, Some(op));
        assert_eq!(self.commit_min + 1, op);
        self.committing = None;
        self.commit_min = op;
        let message = self.cache.remove(&op).expect("what is executed is in memory");
        let header = message.prepare_header();
        assert_eq!(header.op(), op);
        assert_eq!(self.journal.header(op).map(crate::wire::Header::id), Some(header.id()));
        self.timestamp_next = self
            .timestamp_next
            .max(header.command.timestamp + u64::from(header.command.entry_count));
        self.counters.ops_committed += 1;
        self.counters.requests_committed += u64::from(header.command.entry_count);
        for (client, request) in Self::clients_of(message.body()) {
            if self.requests_in_flight.get(&client) == Some(&request) {
                self.requests_in_flight.remove(&client);
            }
        }
        if op == 1 {
            self.on_genesis_committed(&message, effects);
        }
        self.prepares_wanted.remove(&op);
        self.queries_finish_round(effects);
        self.progress(effects);
    }

    /// Reads a prepare of the own log into memory, unless that is under way.
    pub(super) fn read_own(&mut self, id: &PrepareId, effects: &mut Effects) {
        assert!(id.op > self.commit_min);
        assert!(id.op <= self.op);
        let wanted = (*id, ReadPurpose::Own);
        if self.reads.values().any(|read| *read == wanted) || !self.journal.has_body(id) {
            return;
        }
        if let Some(read) = self.journal.read_prepare(id, &mut effects.requests) {
            self.reads.insert(read, wanted);
        }
    }

    pub(super) fn on_read_prepare_done(
        &mut self,
        read: u32,
        result: ReadResult,
        effects: &mut Effects,
    ) {
        let (id, message) = self.journal.on_read_done(read, result);
        let (wanted, purpose) = self.reads.remove(&read).expect("a read that was begun");
        assert_eq!(wanted, id);
        match (purpose, message) {
            (ReadPurpose::Peer(to), Some(message)) => self.send(to, message, effects),
            (ReadPurpose::Own, Some(message)) => self.on_own_prepare_read(&id, message),
            (_, None) => {
                log::warn!("{self}: the journal is damaged at op {}: asking the others", id.op);
                self.repair_prepares(effects);
            }
        }
        self.progress(effects);
    }

    fn on_own_prepare_read(&mut self, id: &PrepareId, message: Message) {
        assert_eq!(message.prepare_header().id(), *id);
        let current = self.journal.header(id.op).is_some_and(|header| header.id() == *id);
        if current && id.op > self.commit_min && id.op <= self.op {
            self.cache.insert(id.op, message);
        }
    }
}
