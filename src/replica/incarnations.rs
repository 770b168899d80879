//! F5: which data files belong to the cluster, and how a lost one is replaced.
//!
//! A replica is its promises, and they are in its data file. VRR (§4.3) lets a replica that lost
//! its state ask the others for theirs and go on under its name. That forgets promises that nobody
//! else knows: an acknowledgement that made up a quorum, or a vote to leave a view. Of three, A and
//! C acknowledge an op and A commits it; C loses its disk, recovers from B, which was behind, and
//! with B begins a view without the op. And a nonce per start does not help against a vote cast
//! before the loss. So here a file has a name, its *incarnation*, and a replica that lost its file
//! is another one in its place, which has promised nothing and may do nothing before it stands
//! where the old one can never have been:
//!
//! ```text
//!   vsr recover ──recover{replica, incarnation}──► primary of v
//!     refused: the old file was heard a moment ago ◄──┤
//!                                                     │ no-ops, until nothing that was committed
//!                                                     │ with the help of the old file is within
//!                                                     ▼ the last P
//!   ── op n − 1 ──┬── op n = recover ──► from here on what the old file acknowledges and votes
//!                 │       does not count: not for n, not for what is in flight below it
//!   replied: a file with view v + 2, log_view 0, the table of n
//!     ──► recovering_head: pings v + 2, which the others enter
//!     ──► start_view(w >= v + 2): a member
//! ```
//!
//! **Invariants:**
//! * The table is a function of the log: of the genesis, and of the recoveries in the log since,
//!   whether they are committed or not. It is durable before the prepare that changes it is
//!   written, so that whoever has that prepare, and whoever acknowledged it, knows its table. A log
//!   that is cut before the recovery has the table of before: at most one recovery is not
//!   committed, so the table keeps one predecessor.
//! * Who counts in a view change is what the log says that is going to be the view's: the table of
//!   the highest `log_view` decides (and of several of that view, which are one chain, the newest).
//!   It knows every recovery that was committed: the quorum meets the one that committed it, in a
//!   replica that has it in its log and therefore in its table; so that no superseded file makes up
//!   the quorum, by induction over recoveries.
//! * Whatever was committed with the help of the lost file lies P ops or more below n. A log that
//!   has n then takes it for committed without asking (`select`: what is P below the head), so that
//!   it cannot be nacked away by those who never had it, the new file among them.
//! * A file that took another's place does not vote before a `start_view` of a view >= v + 2. To
//!   enter v + 2 takes a view-change quorum that is durable in v + 1; without the lost replica it
//!   still meets those who acknowledged n in v, after the loss: so the lost file promised v + 1 at
//!   most.
//!
//! **Not here:** the birth (`genesis.rs`); the command that asks and writes the file
//! (`recovery`).

use super::{Effects, NotGathered, Replica};
use crate::wire::{
    ClientId, Command, Entry, Header, IncarnationTable, Message, MessageBuilder, Op, Operation,
    Recover, RejectReason, ReplicaIndex, Request, StartView,
};

/// Ticks without a frame of a file after which it may be taken for lost. Replicas ping each other
/// every second.
const HEARD_TICKS: u64 = 300;

impl Replica {
    // ---- the table of the log

    /// Takes over what a prepare of the own log says of incarnations; durable before the prepare
    /// is.
    pub(super) fn learn_table(&mut self, message: &Message, effects: &mut Effects) {
        let Some(table) = Recover::table_of(message) else { return };
        assert_eq!(table.op, message.prepare_header().op());
        if table.op <= self.table.op {
            return; // Executed again, or told by a start_view already.
        }
        assert!(self.is_born());
        assert!(table.op <= self.op);
        assert!(!self.solo());
        assert!(table.names(self.replica, self.incarnation), "another one is not taken");
        log::info!("{self}: op {} replaces the data file of a replica", table.op);
        self.set_table(table);
        self.head.table = table;
        self.persist(effects);
    }

    /// From now on other incarnations count: whose changed said nothing yet.
    fn set_table(&mut self, table: IncarnationTable) {
        assert!(table.op > self.table.op);
        assert_eq!(self.head.table, self.table);
        for replica in self.others() {
            let index = replica.index();
            if table.incarnations[index] == self.table.incarnations[index] {
                continue;
            }
            self.votes &= !(1 << replica.0);
            for in_flight in &mut self.pipeline {
                in_flight.oks &= !(1 << replica.0);
            }
        }
        self.table = table;
    }

    /// The log that was found may end before the recovery that the superblock knows of.
    pub(super) fn recover_table(&mut self) {
        let op = self.op.max(self.op_checkpoint()).max(self.commit_max);
        assert_eq!(self.head.table, self.table);
        assert!(!self.superblock.state().is_recovered(), "it has no log that could be cut");
        self.table = self.table.up_to(op);
        self.head.table = self.table;
    }

    /// Whether `message` is a recovery that puts another file in the place of this one. It is not
    /// taken, and once it is committed this one has to go.
    pub(super) fn is_replaced_by(&self, message: &Message, effects: &mut Effects) -> bool {
        let Some(table) = Recover::table_of(message).filter(|_| self.is_born()) else {
            return false;
        };
        if table.op <= self.table.op || table.names(self.replica, self.incarnation) {
            return false;
        }
        let id = message.prepare_header().id();
        let is_mine = id.op >= self.chain_min
            && self.journal.header(id.op).is_some_and(|header| header.id() == id);
        if is_mine && id.op <= self.commit_max {
            effects.fatal = Some(self.fatal_replaced());
        }
        true
    }

    /// What the table of a `start_view` means to this file; false if the message is not to be taken
    /// for that reason.
    pub(super) fn judge_table(
        &self,
        header: &Header<StartView>,
        table: &IncarnationTable,
        effects: &mut Effects,
    ) -> bool {
        if table.names(self.replica, self.incarnation) {
            return true;
        }
        // Whoever brings a table can be named by it. One that takes this file out of the cluster
        // has to come from a member, or to know whom it takes out.
        let was_member = table.incarnations_before[self.replica.index()] == self.incarnation;
        if !was_member && !self.counts(header.replica, header.incarnation) {
            return false;
        }
        // A recovery that is not committed may be cut from the log yet.
        if !table.up_to(header.command.commit_max).names(self.replica, self.incarnation) {
            effects.fatal = Some(self.fatal_replaced());
        }
        false
    }

    // ---- who is there

    /// A message whose author is what it says.
    pub(super) fn note_heard(&mut self, from: ReplicaIndex, incarnation: u64) {
        assert_ne!(from, self.replica);
        if self.counts(from, incarnation) {
            self.heard_at[from.index()] = self.tick;
        }
    }

    /// Whether the replica was heard a moment ago; of the time before this process nothing is
    /// known.
    fn is_heard(&self, replica: ReplicaIndex) -> bool {
        assert!(replica.0 < self.replica_count);
        replica == self.replica || self.tick - self.heard_at[replica.index()] < HEARD_TICKS
    }

    /// Bit r: replica r is this one, or was heard a moment ago.
    pub(super) fn heard_bits(&self) -> u8 {
        let all = (0..self.replica_count).map(ReplicaIndex);
        all.filter(|replica| self.is_heard(*replica)).fold(0, |bits, replica| bits | 1 << replica.0)
    }

    /// An op of the own pipeline was committed: notes which replicas that took.
    pub(super) fn note_relied_on(&mut self, op: Op, oks: u8, quorum: u8) {
        assert!(op <= self.op);
        assert!(op > self.commit_max);
        assert!(oks.count_ones() >= u32::from(quorum));
        for replica in self.others() {
            if (oks & !(1 << replica.0)).count_ones() < u32::from(quorum) {
                self.relied_on[replica.index()] = op;
            }
        }
    }

    // ---- primary: a recovery

    /// Takes the recovery that a client asks for, which the sessions accept.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn gather_recover(&mut self, message: &Message) -> Result<(), NotGathered> {
        let Command::Request(request) = message.header().command else {
            panic!("only requests gather");
        };
        assert!(self.is_primary());
        assert_eq!(request.operation, Operation::Recover as u8);
        if self.requests_in_flight.contains_key(&request.client) {
            return Err(NotGathered::Ignore("in flight already"));
        }
        let recover = Recover::decode(message.body());
        let recover = recover.map_err(|_| NotGathered::Reject(RejectReason::Invalid))?;
        if self.is_refused(&request) {
            return Err(NotGathered::Reject(RejectReason::StoreFull));
        }
        if self.recover.is_some() {
            return Err(NotGathered::Reject(RejectReason::TableChanged));
        }
        if let Some(reason) = self.recover_refused(&recover) {
            return Err(NotGathered::Reject(reason));
        }
        assert!(!self.abdicating);
        assert_ne!(recover.replica, self.replica);
        self.requests_in_flight.insert(request.client, request.request);
        self.recover = Some((recover, message.clone()));
        Ok(())
    }

    fn recover_refused(&self, recover: &Recover) -> Option<RejectReason> {
        // Of two, the other one alone cannot tell what both promised.
        if self.replica_count < 3 || recover.replica.0 >= self.replica_count {
            return Some(RejectReason::Invalid);
        }
        if self.table.op > self.commit_max || recover.table != self.table.alone() {
            return Some(RejectReason::TableChanged);
        }
        self.is_heard(recover.replica).then_some(RejectReason::ReplicaHeard)
    }

    /// Seals the recovery that waits, if nothing speaks against it any more; no-ops, as long as it
    /// would come too near behind what the lost file helped to commit.
    pub(super) fn primary_seal_recover(&mut self, effects: &mut Effects) {
        while self.primary_may_seal() {
            let Some((recover, message)) = &self.recover else { return };
            if let Some(reason) = self.recover_refused(recover) {
                return self.reject_recover(reason, effects);
            }
            let op_min =
                self.relied_on[recover.replica.index()] + u64::from(self.geometry.pipeline);
            if self.op + 1 < op_min {
                let entry = Entry {
                    client: ClientId(0),
                    session: 0,
                    request: 0,
                    size: 0,
                    checksum: 0,
                    operation: Operation::Noop,
                };
                self.primary_seal_alone(&entry, &[], effects);
                continue;
            }
            let message = message.clone();
            self.recover = None;
            let header = message.header();
            let Command::Request(Request { client, session, request, .. }) = header.command else {
                panic!("only requests gather");
            };
            let entry = Entry {
                client,
                session,
                request,
                size: header.body_size(),
                checksum: header.checksum_body,
                operation: Operation::Recover,
            };
            self.primary_seal_alone(&entry, message.body(), effects);
            assert_eq!(self.table.op, self.op);
            assert!(!self.primary_may_seal(), "nothing goes on before the table is durable");
        }
    }

    fn primary_seal_alone(&mut self, entry: &Entry, body: &[u8], effects: &mut Effects) {
        assert_eq!(entry.size as usize, body.len());
        assert!(self.is_primary());
        let mut builder = MessageBuilder::new(crate::constants::ENTRY_SIZE + entry.size);
        builder.append(&entry.encode());
        builder.append(body);
        self.primary_seal_built(builder, 1, effects);
    }

    /// Answers the client of the recovery that waits: it was not prepared.
    pub(super) fn reject_recover(&mut self, reason: RejectReason, effects: &mut Effects) {
        let Some((_, message)) = self.recover.take() else { return };
        let Command::Request(request) = message.header().command else {
            panic!("only requests gather");
        };
        let known = self.requests_in_flight.remove(&request.client);
        assert_eq!(known, Some(request.request));
        if reason == RejectReason::StoreFull {
            self.refuse(&request);
        }
        effects.client_sends.push((request.client, self.reject(&request, reason)));
    }
}

/// Whether a request asks for a recovery.
pub fn is_recover(header: &Header<Request>) -> bool {
    header.command.operation == Operation::Recover as u8
}
