//! F5: normal operation (VRR §4.1, §6.2): requests gather, a prepare is sealed, replicated,
//! acknowledged, committed.
//!
//! ```text
//!   client        primary                     backup
//!     │ request      │                           │
//!     ├─────────────►│ gather … end of turn: seal│
//!     │              ├──────── prepare ─────────►│
//!     │              │ write ‖                   │ write, then its redundant header
//!     │              │◄─────── prepare_ok ───────┤
//!     │◄── reply ────┤ quorum: commit, execute   │
//!     │              ├─ commit (heartbeat) ─────►│ execute
//! ```
//!
//! **Invariants:** at most P prepares are in flight, at most up to `commit_max + P`; op 2 is not
//! prepared before op 1 (the genesis) is committed; a `prepare_ok` is born only in
//! `on_prepare_durable` and `send_prepare_oks`, of prepares that are durable; the primary commits
//! in op order.
//!
//! **Not here:** at-most-once beyond what is in flight: the table of sessions is the executor's.

use super::{InFlight, Replica, Status};
use crate::constants::{ENTRY_SIZE, HEADER_SIZE};
use crate::replica::Effects;
use crate::replica::clock;
use crate::stdx::defect;
use crate::wire::{
    ClientId, Command, Commit, CommitOk, Entries, Entry, Header, Message, MessageBuilder, Op,
    Operation, PongClient, Prepare, PrepareId, PrepareOk, Reject, RejectReason, ReplicaIndex,
    Request,
};

/// What to do with a request of a client: decided by the replica's place, before the sessions are
/// asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// The primary: ask the sessions, then `gather`.
    Primary,
    /// A backup: answer from the sessions if they can, else hand it to the primary.
    Backup {
        /// The primary of the view.
        primary: ReplicaIndex,
    },
    /// Answer with this reason.
    Reject(RejectReason),
    /// Drop it; the client will try again.
    Ignore(&'static str),
}

/// Why a request did not gather.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotGathered {
    /// Drop it; the client will try again.
    Ignore(&'static str),
    /// Answer with this reason.
    Reject(RejectReason),
}

/// The requests that may gather, in messages' worth of bytes.
pub(super) const GATHERED_MESSAGES_MAX: u64 = 4;

impl Replica {
    /// Where a request goes.
    pub fn route(&self, header: &Header<Request>) -> Route {
        if self.status != Status::Normal || !self.view_is_durable() {
            return Route::Ignore("not in normal operation");
        }
        if !self.is_born() {
            return Route::Ignore("the cluster is not born yet");
        }
        if header.view > self.view {
            return Route::Ignore("the client knows a newer view");
        }
        if header.size - HEADER_SIZE > self.geometry.request_size_max() {
            return Route::Reject(RejectReason::TooLarge);
        }
        if header.view < self.view {
            // Also the primary takes a request in the view that it names alone: whoever was told
            // that it is not done must not fear a copy that comes late, to a later view.
            return Route::Reject(RejectReason::NotPrimary);
        }
        assert_eq!(header.view, self.view);
        let primary = self.primary_of_view();
        if primary != self.replica {
            // A client that knows the view and still asks here cannot reach the primary.
            return Route::Backup { primary };
        }
        if self.abdicating {
            return Route::Ignore("abdicating");
        }
        Route::Primary
    }

    /// Whether the log cannot go on, since the checkpoint that would make room for it does not come
    /// about for want of space.
    fn store_stops_log(&self) -> bool {
        self.store_full && (self.log_is_full() || self.store_filled)
    }

    /// Whether that is to be told to clients: where the others have room, one of them will take the
    /// request soon.
    fn store_is_full(&self) -> bool {
        self.store_stops_log() && !self.leaves_for_room()
    }

    /// Whether no further op can be acknowledged until a checkpoint frees room in the journal.
    pub fn log_is_full(&self) -> bool {
        self.op >= self.geometry.op_prepare_ok_max(self.op_checkpoint())
    }

    /// Whether the queue of requests is full: stop reading from clients.
    pub fn is_gathering_full(&self) -> bool {
        self.gathered_size >= GATHERED_MESSAGES_MAX * u64::from(self.geometry.message_size)
            || self.gathered.len() >= 2 * self.geometry.clients_max as usize
    }

    /// Whether a turn would seal something at once.
    pub fn wants_turn(&self) -> bool {
        (!self.gathered.is_empty() || self.recover.is_some()) && self.primary_may_seal()
    }

    /// Takes a request that `route` sent to the primary and the sessions accept.
    ///
    /// `reject(store_full)` says that the request is not done, however many copies there are: it is
    /// executed nowhere, in no prepare of the log, and no view up to this one takes it any more,
    /// because this one remembers it, and copies are taken in the view that they name alone.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn gather(&mut self, request: &Message) -> Result<(), NotGathered> {
        let header = request.header();
        let Command::Request(command) = header.command else {
            panic!("only requests gather");
        };
        assert!(self.is_primary());
        assert!(!self.abdicating);
        // Queries change nothing and are not remembered.
        let is_query = command.operation == Operation::Query as u8;
        if is_query && self.store_stops_log() {
            return self.queries_gather(request).map_err(NotGathered::Ignore);
        }
        if !is_query {
            let is_in_flight = self.requests_in_flight.contains_key(&command.client);
            if is_in_flight && !defect!("retry_executed_twice") {
                return Err(NotGathered::Ignore("in flight already"));
            }
            if self.is_refused(&command) {
                return Err(NotGathered::Reject(RejectReason::StoreFull));
            }
        }
        if self.is_gathering_full() && !defect!("gathers_without_end") {
            return Err(NotGathered::Ignore("the queue is full"));
        }
        if !is_query {
            self.requests_in_flight.insert(command.client, command.request);
        }
        self.gathered_size += u64::from(ENTRY_SIZE) + u64::from(header.body_size());
        self.gathered.push_back(request.clone());
        Ok(())
    }

    /// Whether there is no room for the request, or was none before in this view.
    pub(super) fn is_refused(&mut self, request: &Request) -> bool {
        if self.store_is_full() {
            self.refuse(request);
            return true;
        }
        self.requests_refused.get(&request.client) == Some(&request.request)
    }

    /// The request is told `store_full`: remembered, so that no copy of it is taken in this view. A
    /// `register` needs no memory: another session does no harm.
    pub(super) fn refuse(&mut self, request: &Request) {
        assert!(self.is_primary());
        assert!(!self.requests_in_flight.contains_key(&request.client));
        if request.session != 0 {
            self.requests_refused.insert(request.client, request.request);
        }
    }

    /// Forgets refusals of clients that have no session any more, if there are more than there can
    /// be sessions: their requests are evicted.
    pub fn forget_refused(&mut self, has_session: impl Fn(ClientId) -> bool) {
        if self.requests_refused.len() > self.geometry.clients_max as usize {
            self.requests_refused.retain(|client, _| has_session(*client));
        }
    }

    /// Whether a new session may be gathered, where what is executed leaves room for
    /// `sessions_left`. One that ends the session used longest ago is let in once a tick: so
    /// however many ask, a session that is used every `clients_max` ticks is not ended by them.
    pub fn admits_session(&mut self, sessions_left: u32) -> bool {
        assert!(self.is_primary());
        // Of all requests, those that open a session alone have the number 0.
        let opening = self.requests_in_flight.values().filter(|request| **request == 0).count();
        if opening < sessions_left as usize {
            return true;
        }
        let admits = self.tick > self.session_tick;
        self.session_tick = self.tick;
        admits
    }

    /// The answer to a client that asks who is primary, if this replica can tell.
    pub fn pong_client(&self, client: ClientId, ping_timestamp_monotonic: u64) -> Option<Message> {
        if self.status != Status::Normal || !self.view_is_durable() || !self.is_born() {
            return None;
        }
        let pong = PongClient {
            client,
            ping_timestamp_monotonic,
            message_size: self.geometry.message_size,
            replica_count: self.replica_count,
        };
        Some(Message::new(&self.author_for_clients(), pong, &[]))
    }

    /// A refusal of a request.
    pub fn reject(&self, request: &Request, reason: RejectReason) -> Message {
        let reject =
            Reject { client: request.client, request: request.request, reason: reason as u8 };
        Message::new(&self.author_for_clients(), reject, &[])
    }

    // ---- primary: sealing

    pub(super) fn primary_may_seal(&self) -> bool {
        self.is_primary()
            && self.is_born()
            && !self.abdicating
            && self.pipeline.len() < self.geometry.pipeline as usize
            && (self.pipeline.is_empty() || !self.checkpoint_is_late())
            && !self.log_is_full()
            && !self.store_stops_log()
            && self.op < self.commit_min + self.cache_ops_max()
            && self.journal.can_write(self.op + 1)
            && !self.names_what_is_in_doubt(self.op + 1)
    }

    /// Seals what has gathered, as long as there is room in the pipeline.
    pub(super) fn primary_seal(&mut self, effects: &mut Effects) {
        self.primary_seal_recover(effects);
        while !self.gathered.is_empty() && self.primary_may_seal() {
            self.primary_seal_one(effects);
        }
        if self.store_is_full() && self.is_primary() {
            self.reject_gathered(RejectReason::StoreFull, effects);
        }
    }

    /// Answers everything that waits; nothing of it was prepared. Queries wait for a round.
    fn reject_gathered(&mut self, reason: RejectReason, effects: &mut Effects) {
        assert!(self.is_primary());
        for message in std::mem::take(&mut self.gathered) {
            let Command::Request(request) = message.header().command else {
                panic!("only requests gather");
            };
            if request.operation == Operation::Query as u8 {
                // One that finds no room is asked again by its client.
                let _ = self.queries_gather(&message);
                continue;
            }
            self.requests_in_flight.remove(&request.client);
            self.refuse(&request);
            effects.client_sends.push((request.client, self.reject(&request, reason)));
        }
        self.gathered_size = 0;
        self.reject_recover(reason, effects);
    }

    fn primary_seal_one(&mut self, effects: &mut Effects) {
        let room = self.geometry.message_size - HEADER_SIZE;
        assert!(self.is_primary());
        assert!(self.pipeline.len() < self.geometry.pipeline as usize);
        let (mut size, mut entry_count) = (0u32, 0u32);
        for request in &self.gathered {
            let entry_size = ENTRY_SIZE + request.header().body_size();
            if size + entry_size > room {
                break;
            }
            size += entry_size;
            entry_count += 1;
        }
        assert!(entry_count > 0, "a request always fits");
        let mut builder = MessageBuilder::new(size);
        for request in self.gathered.drain(..entry_count as usize) {
            let header = request.header();
            let Command::Request(command) = header.command else {
                panic!("only requests gather");
            };
            let entry = Entry {
                client: command.client,
                session: command.session,
                request: command.request,
                size: header.body_size(),
                checksum: header.checksum_body,
                operation: Operation::from_code(command.operation).expect("validated"),
            };
            builder.append(&entry.encode());
            builder.append(request.body());
        }
        self.gathered_size -= u64::from(size);
        self.primary_seal_built(builder, entry_count, effects);
    }

    /// Seals a batch of `entry_count` entries as the next op.
    pub(super) fn primary_seal_built(
        &mut self,
        builder: MessageBuilder,
        entry_count: u32,
        effects: &mut Effects,
    ) {
        assert!(self.is_primary());
        let timestamp = self.primary_timestamp(entry_count);
        let parent = self.journal.header(self.op).expect("the head is known").id().as_parent();
        let prepare = Prepare {
            parent,
            op: self.op + 1,
            commit: if defect!("commit_is_op") { self.op } else { self.commit_max },
            timestamp,
            checkpoint_id: self
                .checkpoint_id_for(self.op + 1)
                .expect("a primary has the checkpoint before the last"),
            entry_count,
        };
        let message = builder.seal(&self.author(), prepare);
        assert_eq!(message.header().view, self.view);
        assert!(message.header().size <= self.geometry.message_size);
        self.counters.prepares_sealed += 1;
        self.counters.requests_sealed += u64::from(entry_count);
        self.primary_prepare(message, effects);
    }

    /// The timestamp of the first of `entry_count` entries: after everything before, and as near to
    /// the cluster's time as its clocks agree.
    fn primary_timestamp(&mut self, entry_count: u32) -> u64 {
        let synchronized = self.clock.realtime_synchronized(self.now.monotonic, self.now.realtime);
        let timestamp = clock::timestamp_next(
            self.timestamp_next,
            self.timestamp_monotonic,
            self.now.monotonic,
            synchronized,
        );
        assert!(timestamp >= self.timestamp_next, "timestamps strictly increase");
        assert!(entry_count > 0);
        self.timestamp_next = timestamp + u64::from(entry_count);
        self.timestamp_monotonic = self.now.monotonic;
        if defect!("own_wall_clock") {
            return self.now.realtime;
        }
        timestamp
    }

    /// Appends a new prepare to the own log and replicates it.
    pub(super) fn primary_prepare(&mut self, message: Message, effects: &mut Effects) {
        let header = message.prepare_header();
        assert_eq!(header.op(), self.op + 1);
        assert!(header.op() <= self.commit_max + u64::from(self.geometry.pipeline));
        assert!(header.command.commit < header.op());
        self.advance_head(header.op());
        self.pipeline.push_back(InFlight { id: header.id(), oks: 0 });
        self.journal.insert_header(&header);
        self.learn_table(&message, effects);
        // A genesis is the same each time: its body may lie in the slot already, whole.
        let is_due = !self.journal.is_writing(&header.id());
        if is_due && (self.view_is_durable() || !self.is_born()) {
            self.journal.write_prepare(&message, &mut effects.requests);
        }
        self.broadcast(&message, effects);
        self.cache.insert(header.op(), message);
        self.timeouts.prepare.start_if_stopped(&mut self.prng);
        self.timeouts.abdicate.start_if_stopped(&mut self.prng);
        self.timeouts.heartbeat.start(&mut self.prng);
    }

    // ---- backup: prepares

    /// A prepare: replicated by the primary of this view, sent again, or asked for.
    pub(super) fn on_prepare(&mut self, message: &Message, effects: &mut Effects) {
        let header = message.prepare_header();
        if header.op() == 0 {
            return self.ignore("on_prepare", "everybody knows the root");
        }
        if header.size > self.geometry.message_size {
            return self.ignore("on_prepare", "larger than a slot");
        }
        if Entries::check(message.body(), header.command.entry_count).is_err() {
            return self.ignore("on_prepare", "its body is no batch");
        }
        self.acknowledge_any_genesis(message, effects);
        if self.take_lost_genesis(message, effects) || self.is_replaced_by(message, effects) {
            return;
        }
        if header.view > self.view {
            // Only a normal primary prepares: its view exists and has a log.
            return self.request_start_view_of(header.view, effects);
        }
        if header.view == self.view && self.status == Status::ViewChange && !self.selected {
            return self.request_start_view_of(header.view, effects);
        }
        if self.is_replication(&header) {
            return self.on_prepare_replicated(message, &header, effects);
        }
        self.on_prepare_wanted(message, &header, effects);
    }

    /// Whether the prepare extends the log of the view this replica is a backup in.
    fn is_replication(&self, header: &Header<Prepare>) -> bool {
        self.status == Status::Normal
            && self.is_prepared_in_view(header)
            && self.primary_of_view() != self.replica
            && header.op() > self.op
    }

    /// Whether the primary of this view prepared it in this view: then it is in the log of the
    /// view, which is one chain.
    pub(super) fn is_prepared_in_view(&self, header: &Header<Prepare>) -> bool {
        header.view == self.view
            && header.replica == self.primary_of_view()
            && (!self.is_born() || self.counts(header.replica, header.incarnation))
    }

    fn on_prepare_replicated(
        &mut self,
        message: &Message,
        header: &Header<Prepare>,
        effects: &mut Effects,
    ) {
        assert!(header.op() > self.op);
        assert_eq!(header.view, self.view);
        assert_eq!(self.log_view, self.view);
        assert_ne!(self.primary_of_view(), self.replica);
        self.backup_heard_primary();
        if !self.is_born() && !self.genesis_names_me(message) {
            return self.ignore("on_prepare", "not born, and this is no genesis that names me");
        }
        self.on_checkpoint_claim(header.replica, header.command.checkpoint_id, effects);
        if header.op() > self.geometry.op_prepare_max(self.op_checkpoint()) {
            // Room comes with the next checkpoint, the own one or the primary's.
            self.backup_learn_commit(header.command.commit);
            self.progress(effects);
            return self.request_start_view_of(self.view, effects);
        }
        if header.op() == self.op + 1 {
            let head = self.journal.header(self.op).map(Header::id);
            assert_eq!(head, Some(header.parent_id()), "the log of one view is one chain");
            self.advance_head(header.op());
        } else {
            // A gap: take the new head at once, and ask for what is between.
            log::debug!("{self}: on_prepare: jumping to op {}", header.op());
            self.advance_head(header.op());
            self.chain_min = header.op();
        }
        self.backup_learn_commit(header.command.commit);
        self.take_prepare(message, effects);
        if self.chain_min == self.op {
            self.repair_headers(effects);
        }
        self.progress(effects);
    }

    /// Keeps a prepare whose header belongs to the log: in memory for execution, and on disk.
    pub(super) fn take_prepare(&mut self, message: &Message, effects: &mut Effects) {
        let header = message.prepare_header();
        let op = header.op();
        assert!(op <= self.op);
        let known = self.journal.header(op).is_some_and(|own| own.id() == header.id());
        assert!(op > self.op_checkpoint() || known, "only rot is repaired below the checkpoint");
        assert!(header.size <= self.geometry.message_size);
        if op > self.commit_min && op <= self.commit_min + self.cache_ops_max() {
            self.cache.insert(op, message.clone());
        }
        self.journal.insert_header(&header);
        self.learn_table(message, effects);
        if !self.journal.is_dirty(op) || self.journal.is_writing(&header.id()) {
            return;
        }
        // The log that the view began with is made durable before anything of the old is
        // overwritten.
        if self.view_is_durable() && self.journal.can_write(op) {
            self.journal.write_prepare(message, &mut effects.requests);
            if defect!("prepare_ok_early") {
                self.acknowledge(&header.id(), effects);
            }
        }
    }

    /// Prepares kept in memory above `commit_min`. A backup reads what is beyond from its log, when
    /// its turn has come; a primary, whose clients wait for what it executes, seals no more.
    pub(super) fn cache_ops_max(&self) -> u64 {
        u64::from(self.geometry.pipeline) * 4
    }

    /// Writes what arrived while the view was not durable, or while no write was free.
    pub(super) fn write_deferred(&mut self, effects: &mut Effects) {
        if !self.view_is_durable() {
            return;
        }
        for (op, message) in &self.cache {
            let id = message.prepare_header().id();
            let wanted = self.journal.header(*op).is_some_and(|header| header.id() == id)
                && self.journal.is_dirty(*op)
                && !self.journal.is_writing(&id);
            if wanted && self.journal.can_write(*op) {
                self.journal.write_prepare(message, &mut effects.requests);
            }
        }
    }

    // ---- acknowledgements

    /// A prepare and its redundant header are durable here.
    pub(super) fn on_prepare_durable(&mut self, id: &PrepareId, effects: &mut Effects) {
        log::trace!("{self}: on_prepare_durable: op={}", id.op);
        self.acknowledge(id, effects);
        self.write_deferred(effects);
    }

    /// Acknowledges every durable prepare that may not be committed yet: after a view change, a
    /// restart, a birth.
    pub(super) fn send_prepare_oks(&mut self, effects: &mut Effects) {
        for op in self.commit_max + 1..=self.op {
            if let Some(header) = self.journal.header(op) {
                let id = header.id();
                self.acknowledge(&id, effects);
            }
        }
    }

    pub(super) fn acknowledge(&mut self, id: &PrepareId, effects: &mut Effects) {
        if id.op == 0 {
            return self.ignore("acknowledge", "the root, whose header was damaged here");
        }
        if self.log_view != self.view || !self.view_is_durable() {
            return self.ignore("acknowledge", "the view is not durable");
        }
        let primary = self.primary_of_view();
        if self.status != Status::Normal && !(self.selected && primary == self.replica) {
            return self.ignore("acknowledge", "not in normal operation");
        }
        if !self.may_vote() && !self.may_acknowledge_genesis(id) {
            return self.ignore("acknowledge", "not a member");
        }
        if !self.journal.is_clean(id) && !self.acknowledges_early(id) {
            return self.ignore("acknowledge", "not durable here");
        }
        let op_max = self.geometry.op_prepare_ok_max(self.op_checkpoint());
        if id.op > op_max && !defect!("prepare_ok_beyond") {
            return self.ignore("acknowledge", "beyond what the checkpoint allows");
        }
        assert!(id.op <= self.op);
        assert_eq!(self.superblock.state().log_view, self.view);
        if primary == self.replica {
            return self.primary_count_ok(id, self.replica, effects);
        }
        let checkpoint_id = self.checkpoint_id_for(id.op).unwrap_or(0);
        let ok = PrepareOk { prepare: *id, commit_min: self.commit_min, checkpoint_id };
        self.send_command(primary, ok, effects);
    }

    /// The defects `prepare_ok_early` and `prepare_ok_before_header`.
    fn acknowledges_early(&self, id: &PrepareId) -> bool {
        if defect!("prepare_ok_before_header") {
            return self.journal.is_header_due(id);
        }
        defect!("prepare_ok_early")
    }

    /// A backup has a prepare durable.
    pub(super) fn on_prepare_ok(&mut self, header: &Header<PrepareOk>, effects: &mut Effects) {
        if header.view != self.view {
            if header.view > self.view {
                return self.on_view_heard(
                    header.replica,
                    header.view,
                    header.incarnation,
                    effects,
                );
            }
            return self.ignore("on_prepare_ok", "older view");
        }
        if self.primary_of_view() != self.replica || self.log_view != self.view {
            return self.ignore("on_prepare_ok", "not the primary of a log");
        }
        let PrepareOk { prepare, checkpoint_id, .. } = header.command;
        if checkpoint_id != 0 && prepare.op > 0 {
            self.on_checkpoint_claim(header.replica, checkpoint_id, effects);
            let own = self.checkpoint_id_for(prepare.op);
            if own.is_some_and(|own| own != checkpoint_id) {
                return self.ignore("on_prepare_ok", "another checkpoint: its state is not ours");
            }
        }
        self.primary_count_ok(&prepare, header.replica, effects);
    }

    fn primary_count_ok(&mut self, id: &PrepareId, from: ReplicaIndex, effects: &mut Effects) {
        assert_eq!(self.primary_of_view(), self.replica);
        assert_eq!(self.log_view, self.view);
        let Some(index) = id.op.checked_sub(self.commit_max + 1) else {
            return self.ignore("on_prepare_ok", "committed already");
        };
        let index = usize::try_from(index).expect("usize holds a u64 here");
        let Some(in_flight) = self.pipeline.get_mut(index) else {
            return self.ignore("on_prepare_ok", "not in flight");
        };
        if in_flight.id != *id {
            return self.ignore("on_prepare_ok", "another prepare");
        }
        assert!(from.0 < self.replica_count);
        in_flight.oks |= 1 << from.0;
        self.primary_advance_commit(effects);
    }

    /// Commits from the front of the pipeline, in op order.
    pub(super) fn primary_advance_commit(&mut self, effects: &mut Effects) {
        if self.status != Status::Normal || self.primary_of_view() != self.replica {
            return;
        }
        let before = self.commit_max;
        while let Some(front) = self.pipeline.front() {
            let (op, oks) = (front.id.op, front.oks);
            let quorum = self.quorum_for(op);
            if oks.count_ones() < u32::from(quorum) {
                break;
            }
            assert_eq!(op, self.commit_max + 1, "in op order");
            self.note_relied_on(op, oks, quorum);
            self.commit_max = op;
            self.pipeline.pop_front();
        }
        if self.commit_max == before {
            return;
        }
        assert!(self.commit_max <= self.op);
        self.primary_progressed();
        self.progress(effects);
    }

    /// The genesis commits only when all have met.
    fn quorum_for(&self, op: Op) -> u8 {
        let is_genesis = op == 1 && self.view.0 == 0 && !self.solo();
        if is_genesis && !defect!("genesis_by_quorum") {
            self.replica_count
        } else {
            self.quorums.replication - u8::from(defect!("replication_quorum_small"))
        }
    }

    /// Something was committed: the links work.
    pub(super) fn primary_progressed(&mut self) {
        if self.abdicating && !self.is_block_overdue() {
            log::info!("{self}: the primary stays: its prepares are acknowledged again");
            self.abdicating = false;
            self.votes &= !(1 << self.replica.0);
            self.timeouts.vote.stop();
            self.timeouts.heartbeat.start(&mut self.prng);
        }
        self.timeouts.prepare.stop();
        self.timeouts.abdicate.stop();
        if !self.pipeline.is_empty() {
            self.timeouts.prepare.start(&mut self.prng);
            self.timeouts.abdicate.start(&mut self.prng);
        }
    }

    // ---- heartbeats

    pub(super) fn on_heartbeat_timeout(&mut self, effects: &mut Effects) {
        if !self.acts_as_primary() || self.abdicating {
            return self.timeouts.heartbeat.stop();
        }
        self.timeouts.heartbeat.start(&mut self.prng);
        self.primary_send_commit(effects);
    }

    /// The heartbeat: what is committed, not what is prepared.
    pub(super) fn primary_send_commit(&mut self, effects: &mut Effects) {
        assert_eq!(self.primary_of_view(), self.replica);
        if !self.view_is_durable() || !self.may_vote() {
            return;
        }
        let Some(header) = self.journal.header(self.commit_max) else {
            return self.ignore("send_commit", "the committed header is damaged");
        };
        assert_eq!(header.op(), self.commit_max, "what is committed, not what is prepared");
        self.round += 1;
        let commit = Commit {
            commit: header.id(),
            checkpoint: self.checkpoint_claimed(),
            round: self.round,
            timestamp_monotonic: self.now.monotonic,
            answer: u8::from(self.queries.is_asking()),
        };
        self.broadcast(&Message::new(&self.author(), commit, &[]), effects);
    }

    /// The heartbeat of the primary.
    pub(super) fn on_commit(&mut self, header: &Header<Commit>, effects: &mut Effects) {
        if header.view < self.view {
            return self.ignore("on_commit", "older view");
        }
        if header.replica != header.view.primary(self.replica_count) {
            return self.ignore("on_commit", "not from the primary");
        }
        if header.view > self.view || self.status != Status::Normal {
            return self.request_start_view_of(header.view, effects);
        }
        assert_ne!(self.primary_of_view(), self.replica);
        assert_eq!(header.view, self.view);
        assert_eq!(self.log_view, self.view);
        if header.command.round <= self.heartbeat_last {
            return self.ignore("on_commit", "an old heartbeat");
        }
        self.heartbeat_last = header.command.round;
        self.on_checkpoint_claim(
            header.replica,
            header.command.checkpoint.checkpoint_id(),
            effects,
        );
        self.backup_heard_primary();
        self.timeouts.view_change_status.stop();
        self.backup_learn_commit(header.command.commit.op);
        if header.command.answer == 1 && self.view_is_durable() && self.may_vote() {
            let ok = CommitOk { round: header.command.round };
            self.send_command(header.replica, ok, effects);
        }
        if self.op < header.command.commit.op {
            self.request_start_view_of(self.view, effects);
        }
        self.progress(effects);
    }

    /// A sign of life of the primary of this view.
    pub(super) fn backup_heard_primary(&mut self) {
        self.detector.on_arrival(self.logical_ns());
        if self.votes >> self.replica.0 & 1 == 1 {
            self.votes &= !(1 << self.replica.0);
            self.timeouts.vote.stop();
        }
    }

    pub(super) fn backup_learn_commit(&mut self, commit: Op) {
        self.commit_max = self.commit_max.max(commit);
    }

    // ---- the primary's patience

    /// The oldest prepare in flight lacks acknowledgements: send it again to whoever is silent.
    pub(super) fn on_prepare_timeout(&mut self, effects: &mut Effects) {
        let Some(front) = self.pipeline.front() else { return self.timeouts.prepare.stop() };
        if !self.acts_as_primary() {
            return self.timeouts.prepare.stop();
        }
        let (op, oks) = (front.id.op, front.oks);
        assert_eq!(op, self.commit_max + 1);
        self.timeouts.prepare.back_off(&mut self.prng);
        let Some(message) = self.cache.get(&op).cloned() else {
            panic!("a prepare in flight is in memory");
        };
        for to in self.others() {
            if oks >> to.0 & 1 == 0 {
                self.send(to, message.clone(), effects);
            }
        }
        self.write_deferred(effects);
    }

    /// Heartbeats may pass where prepares do not: a primary that gets nothing acknowledged keeps
    /// silent, so that the others elect another.
    pub(super) fn on_abdicate_timeout(&mut self, effects: &mut Effects) {
        if !self.acts_as_primary() || self.pipeline.is_empty() || self.solo() {
            return self.timeouts.abdicate.stop();
        }
        self.timeouts.abdicate.start(&mut self.prng);
        if !self.may_vote() {
            return; // Before birth there is nobody to hand over to.
        }
        assert!(!self.solo());
        if !self.abdicating {
            log::warn!("{self}: nothing is acknowledged: the primary keeps silent and votes to go");
        }
        self.abdicate(effects);
    }

    /// Keeps silent, so that the others elect another.
    pub(super) fn abdicate(&mut self, effects: &mut Effects) {
        assert!(self.acts_as_primary());
        self.abdicating = true;
        self.timeouts.heartbeat.stop();
        self.vote(effects);
    }

    // ---- requests in flight

    /// The clients that have something in `body`.
    pub(super) fn clients_of(body: &[u8]) -> impl Iterator<Item = (ClientId, u64)> {
        Entries::new(body)
            .map_while(Result::ok)
            .filter(|(entry, _)| entry.client.0 != 0 && entry.operation != Operation::Query)
            .map(|(entry, _)| (entry.client, entry.request))
    }
}
