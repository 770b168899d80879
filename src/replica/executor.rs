//! F5: executes committed prepares: owns the store, the state machine and the sessions.
//!
//! ```text
//!   committed prepare          for each entry, in order
//!   ┌───────┬───────┬───┐      ┌──────────┐ execute ┌───────────────┐ Ok     ┌────────────────┐
//!   │entry 0│entry 1│ … │ ───► │ sessions ├────────►│ state machine ├───────►│ commit overlay │
//!   └───────┴───────┴───┘      └────┬─────┘         └───┬───────┬───┘        │ store reply    │
//!                         reply, evict, nothing         │       │ rejected   └────────────────┘
//!                                                       │       └──► abandon overlay, store a
//!                                           suspended ◄─┘            reply with a code
//!                                           abandon overlay; the same entry again later
//! ```
//!
//! What the table of sessions said when the request was taken does not bind: the entries of a batch
//! are decided one by one here, each after all before it. So a duplicate within a batch finds its
//! original executed, and a request behind the eviction of its session finds no session.
//!
//! **Invariants:** the store and the sessions are a function of the committed prepares from op 1
//! on, and so are the replies; ops are executed in order, each entry exactly once; an attempt that
//! is suspended leaves nothing behind; between entries the store is settled.
//!
//! **Not here:** which prepares are committed; genesis and recoveries, which change the replica and
//! not the state machine; what is gathered or prepared.

use super::checkpoint::CheckpointLoad;
use super::sessions::{Decision, RequestId, Sessions, StoredReply};
use crate::constants::{HEADER_SIZE, REPLY_BODY_SIZE_MAX};
use crate::state_machine::{
    Context, Keys, RESULT_INVALID, RESULT_OK, RESULT_READ_TOO_LARGE, RESULT_REPLY_TOO_LARGE,
    RESULT_RESERVED_MIN, RESULT_STOP_INVALID, Reply, StateMachine,
};
use crate::stdx::defect;
use crate::storage::Geometry;
use crate::store::{self, Digest, Stop, Store, TABLE_SYSTEM};
use crate::wire::{
    BlockRef, ClientId, Entries, Entry, EvictionReason, Header, IncarnationTable, Message, Op,
    Operation, Prepare, Recover, RejectReason, Request,
};
use bytes::Bytes;

/// In the framework's space of the store, beside the sessions: the table of incarnations.
const KEY_INCARNATIONS: &[u8] = &[3];

/// What one request may read, in messages of the largest size: keys and values that are scanned,
/// values that are got. A request of any size keeps all replicas busy for as long as it reads.
pub const READ_MESSAGES_MAX: u64 = 16;

/// What to do with a request that has come in.
#[derive(Debug, PartialEq, Eq)]
pub enum Admission {
    /// It may be taken.
    Accept,
    /// It is executed already, with this reply.
    Reply(Box<StoredReply>),
    /// Nothing, for this reason.
    Ignore(&'static str),
    /// Its session is over.
    Evict(EvictionReason),
    /// It cannot be taken.
    Reject(RejectReason),
}

/// What a client is to be told after a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientReply {
    /// The result of its request.
    Reply(StoredReply),
    /// Its request was not executed, because its session is over.
    Evicted {
        /// Whose.
        client: ClientId,
        /// The session that the request named.
        session: u64,
        /// Why.
        reason: EvictionReason,
    },
}

/// How far a commit came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum CommitOutcome {
    /// All entries are executed.
    Done,
    /// The store must load something first: then `commit` the same prepare again, and it goes on
    /// where it stopped.
    Suspended,
}

/// The store, the state machine and the sessions, behind the log.
#[derive(Debug)]
pub struct Executor<S: StateMachine> {
    state_machine: S,
    store: Store,
    sessions: Sessions,
    /// The last prepare of which all entries are executed.
    op: Op,
    /// How many entries of the prepare after it are executed.
    entries_done: u32,
    request_size_max: u32,
    /// Replies in sessions, which are stored.
    reply_size_max: u32,
    /// Replies to queries, which are not.
    query_reply_size_max: u32,
    /// What the state machine may read for one request.
    read_size_max: u64,
    /// The most that a query has read since [`Self::take_query_read_size`].
    query_read_size: u64,
    clients_max: u32,
    /// The checkpoint whose state is being taken over.
    loading: Option<CheckpointLoad>,
    /// The next entry is a query that is not to be answered.
    is_query_given_up: bool,
}

/// The state of a checkpoint is here.
#[derive(Debug, Clone, Copy)]
pub struct Loaded {
    /// The root of the checkpoint.
    pub checkpoint: BlockRef,
    /// The root of the one before it.
    pub previous: BlockRef,
    /// The header of the op that it is of.
    pub header: Header<Prepare>,
    /// The table of incarnations in it; `None` if it is still that of the genesis.
    pub table: Option<IncarnationTable>,
}

/// An attempt at an entry was suspended and abandoned.
#[derive(Debug)]
struct Suspended;

/// An entry, and where in the log it is.
#[derive(Clone, Copy)]
struct Placed<'a> {
    entry: &'a Entry,
    body: &'a [u8],
    op: Op,
    /// From 0, in its prepare.
    index: u32,
    /// Its own.
    timestamp: u64,
}

impl<S: StateMachine> Executor<S> {
    /// An executor that has executed nothing, with a store in memory that is never checkpointed.
    /// `geometry` is valid.
    pub fn new(state_machine: S, geometry: &Geometry) -> Self {
        Self::with(state_machine, geometry, Store::in_memory())
    }

    /// An executor that has executed nothing, over the grid of a data file.
    pub fn open(state_machine: S, options: &store::Options) -> Self {
        Self::with(state_machine, &options.geometry, Store::open(options))
    }

    fn with(state_machine: S, geometry: &Geometry, store: Store) -> Self {
        assert_eq!(geometry.invalid(), None);
        let message_body_size_max = geometry.message_size - HEADER_SIZE;
        assert!(geometry.request_size_max() < message_body_size_max);
        Self {
            state_machine,
            store,
            sessions: Sessions::new(geometry.clients_max),
            op: 0,
            entries_done: 0,
            request_size_max: geometry.request_size_max(),
            reply_size_max: REPLY_BODY_SIZE_MAX.min(message_body_size_max),
            query_reply_size_max: message_body_size_max,
            read_size_max: u64::from(geometry.message_size) * READ_MESSAGES_MAX,
            query_read_size: 0,
            clients_max: geometry.clients_max,
            loading: None,
            is_query_given_up: false,
        }
    }

    // ---- checkpoints

    /// Drops everything and takes over the state of a checkpoint; [`Self::take_loaded`] tells when.
    pub fn load(&mut self, load: &CheckpointLoad) {
        assert!(!load.checkpoint.is_none());
        self.store.load(load.checkpoint, load.op_complete);
        self.sessions = Sessions::new(self.clients_max);
        self.op = load.checkpoint.op;
        self.entries_done = 0;
        self.is_query_given_up = false;
        self.loading = Some(*load);
    }

    /// Gets on with a load, when blocks have come. The result once, when all is here.
    pub fn take_loaded(&mut self) -> Option<Loaded> {
        let load = self.loading?;
        if !self.store.is_loaded() || self.store.is_syncing() {
            return None;
        }
        if load.op_complete < load.checkpoint.op {
            // The blocks are looked for once the store knows which there are.
            self.loading = Some(CheckpointLoad { op_complete: load.checkpoint.op, ..load });
            self.store.sync(load.op_complete);
            return None;
        }
        match Sessions::load(self.clients_max, &self.store) {
            Ok(_)
                if defect!("sync_without_sessions")
                    && self.store.sync_progress().blocks_fetched > 0 => {}
            Ok(sessions) => self.sessions = sessions,
            Err(_) => {
                self.abandon();
                return None;
            }
        }
        let Ok(table) = self.table_kept() else { return None };
        self.loading = None;
        let header = Header::decode_prepare(self.store.loaded_header());
        let header = header.expect("the block was verified, and written by this code");
        assert_eq!(header.op(), load.checkpoint.op);
        let previous = self.store.loaded_extra().first_chunk().map(BlockRef::decode);
        let previous = previous.expect("what a checkpoint keeps beside the store");
        Some(Loaded { checkpoint: load.checkpoint, previous, header, table })
    }

    /// Answers a query from what is executed here, newest or not: for whoever inspects a replica.
    /// False: blocks have to be loaded first, and then it may be asked again.
    pub fn peek(&mut self, request: &[u8], reply: &mut Reply) -> bool {
        assert!(self.store.is_settled());
        if self.loading.is_some() {
            return false;
        }
        let is_answered = self.state_machine.query(&self.store, request, reply).is_ok();
        self.store.abandon_overlay();
        is_answered
    }

    /// The store, for whoever brings it its blocks.
    pub fn store_mut(&mut self) -> &mut Store {
        &mut self.store
    }

    /// The last op that is executed; 0 before the first.
    pub fn op(&self) -> Op {
        self.op
    }

    /// What the state machine has stored.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The number of open sessions.
    pub fn sessions_count(&self) -> u32 {
        self.sessions.count()
    }

    /// How many sessions can be opened without ending another.
    pub fn sessions_left(&self) -> u32 {
        assert!(self.sessions.count() <= self.clients_max);
        self.clients_max - self.sessions.count()
    }

    /// A checksum over the store and the sessions, equal on replicas that have executed the same
    /// log up to the same op. Its cost is the size of both.
    pub fn digest(&self) -> u64 {
        assert_eq!(self.entries_done, 0, "in the middle of a prepare");
        let mut digest = Digest::new();
        digest.u64(self.op);
        digest.u64(self.store.digest());
        self.sessions.digest(&mut digest);
        digest.finish()
    }

    /// What committed state says of a request, before it is gathered (primary) or forwarded
    /// (backup). Changes nothing.
    ///
    /// An eviction or an `Ignore` speaks of the log up to [`Self::op`] only: it is not to be acted
    /// upon while the log beyond holds entries of that client.
    pub fn admit(&mut self, header: &Header<Request>, body: &[u8]) -> Admission {
        assert_eq!(header.body_size() as usize, body.len());
        assert!(self.store.is_settled());
        let Some(id) = RequestId::of(header) else {
            return Admission::Reject(RejectReason::Invalid);
        };
        if id.client.0 == 0 {
            return Admission::Ignore("a request of nobody");
        }
        if header.body_size() > self.request_size_max {
            return Admission::Reject(RejectReason::TooLarge);
        }
        match id.operation {
            Operation::Noop | Operation::Genesis => Admission::Reject(RejectReason::Invalid),
            Operation::Query => self.admit_valid(id.operation, body),
            Operation::Register | Operation::Deregister | Operation::Apply | Operation::Recover => {
                match self.sessions.decide(&id) {
                    Decision::Execute => self.admit_valid(id.operation, body),
                    // Its op has been suspended behind it. Nobody is told of an op in part.
                    Decision::Reply(reply) if reply.op > self.op => {
                        assert_eq!(reply.op, self.op + 1);
                        assert!(self.entries_done > 0);
                        Admission::Ignore("its op is being executed")
                    }
                    Decision::Reply(reply) => {
                        assert_eq!(reply.client, id.client);
                        assert_eq!(reply.request_checksum, id.checksum);
                        if let Ok(reply) = reply.load(&self.store) {
                            return Admission::Reply(Box::new(reply));
                        }
                        self.abandon();
                        Admission::Ignore("its reply is being loaded")
                    }
                    Decision::Evict(reason) => Admission::Evict(reason),
                    Decision::Ignore(reason) => Admission::Ignore(reason),
                }
            }
        }
    }

    /// The defect `table_at_prepare`: the sessions change before anything is committed.
    pub fn enter_early(&mut self, request: &Request) {
        self.sessions.enter_early(request);
    }

    /// Whether `client` has a session.
    pub fn has_session(&self, client: ClientId) -> bool {
        self.sessions.contains(client)
    }

    /// Answers a query, which was admitted, from what is executed here. Whether that is all that
    /// the client may have been told of is the caller's to know. `None`: blocks have to be loaded
    /// first, and then it may be asked again.
    pub fn answer(&mut self, request: &Header<Request>, body: &[u8]) -> Option<StoredReply> {
        assert!(self.store.is_settled());
        assert_eq!(request.command.operation, Operation::Query as u8);
        let entry = Entry {
            client: request.command.client,
            session: 0,
            request: request.command.request,
            size: request.body_size(),
            checksum: request.checksum_body,
            operation: Operation::Query,
        };
        let placed = Placed { entry: &entry, body, op: self.op, index: 0, timestamp: 0 };
        let (result, body) = self.run(&placed).ok()?;
        // A query that writes is not to be had: nothing of it stays.
        self.store.abandon_overlay();
        Some(placed.reply(0, result, body))
    }

    fn admit_valid(&self, operation: Operation, body: &[u8]) -> Admission {
        if self.valid(operation, body) {
            Admission::Accept
        } else {
            Admission::Reject(RejectReason::Invalid)
        }
    }

    /// Whether the body is one that the operation may have.
    fn valid(&self, operation: Operation, body: &[u8]) -> bool {
        match operation {
            Operation::Register | Operation::Deregister => body.is_empty(),
            Operation::Apply | Operation::Query => self.state_machine.validate(body).is_ok(),
            Operation::Recover => Recover::decode(body).is_ok(),
            Operation::Noop | Operation::Genesis => false,
        }
    }

    /// Executes the entries of `prepare`, which is committed, is the one after [`Self::op`], and
    /// has a body that passed [`Entries::check`]. Pushes what clients are to be told; after
    /// [`CommitOutcome::Suspended`] that is final for the entries it speaks of.
    pub fn commit(&mut self, prepare: &Message, replies: &mut Vec<ClientReply>) -> CommitOutcome {
        let header = prepare.prepare_header();
        assert_eq!(header.op(), self.op + 1);
        assert!(header.command.commit <= self.op, "what it commits is executed");
        assert!(self.entries_done <= header.command.entry_count);
        assert!(self.store.is_settled());
        let mut entries = Entries::new(prepare.body());
        for _ in 0..self.entries_done {
            let done = entries.next();
            assert!(done.is_some(), "the prepare is the one that was suspended");
        }
        for item in entries {
            let (entry, body) = item.expect("checked when the prepare came in");
            let index = self.entries_done;
            // Saturating: a timestamp of nonsense is the primary's fault, and what is committed
            // must not stop every replica at every start.
            let timestamp = header.command.timestamp.saturating_add(u64::from(index));
            let placed = Placed { entry: &entry, body, op: header.op(), index, timestamp };
            match self.commit_entry(&placed) {
                Ok(reply) => replies.extend(reply),
                Err(Suspended) => {
                    self.prefetch(prepare);
                    return CommitOutcome::Suspended;
                }
            }
            assert!(self.store.is_settled());
            self.entries_done += 1;
        }
        assert_eq!(self.entries_done, header.command.entry_count);
        self.entries_done = 0;
        self.op = header.op();
        let op_freeze = self.store.op_freeze();
        let is_late = defect!("checkpoint_elsewhere")
            && self.op == op_freeze
            && self.store.counters().cache_misses > 0;
        if self.op >= op_freeze && !self.store.is_in_memory() && !is_late {
            let previous = self.store.checkpoint();
            self.store.freeze(op_freeze, &header.encode(), &previous.encode());
        }
        CommitOutcome::Done
    }

    /// Gives up what of `prepare` is next, if that is a query: it changes nothing, so nobody else
    /// need know whether it was answered, and its client asks again. False if it is none, and so
    /// must be executed. `prepare` is the one that was suspended.
    pub fn give_up_query(&mut self, prepare: &Message) -> bool {
        assert_eq!(prepare.prepare_header().op(), self.op + 1);
        assert!(self.store.is_settled());
        let next = Entries::new(prepare.body()).nth(self.entries_done as usize);
        let (entry, _) = next.and_then(Result::ok).expect("an entry of it was suspended");
        self.is_query_given_up = entry.operation == Operation::Query;
        self.is_query_given_up
    }

    /// What the rest of the prepare is going to touch is loaded together.
    fn prefetch(&self, prepare: &Message) {
        let mut keys = Keys::default();
        for (entry, body) in Entries::new(prepare.body()).map_while(Result::ok) {
            if matches!(entry.operation, Operation::Apply | Operation::Query)
                && self.valid(entry.operation, body)
            {
                self.state_machine.keys(body, &mut keys);
            }
        }
        self.store.prefetch(keys.keys.iter().map(|(table, key)| (*table, key.as_slice())));
    }

    /// The most bytes that a query has read since this was asked.
    pub fn take_query_read_size(&mut self) -> u64 {
        std::mem::take(&mut self.query_read_size)
    }

    fn commit_entry(&mut self, placed: &Placed<'_>) -> Result<Option<ClientReply>, Suspended> {
        let entry = placed.entry;
        assert_eq!(entry.size as usize, placed.body.len());
        assert_eq!(placed.op, self.op + 1);
        if entry.client.0 == 0 {
            // The protocol's own. A request of nobody has nobody to answer.
            return Ok(None);
        }
        match entry.operation {
            Operation::Noop | Operation::Genesis => Ok(None),
            Operation::Query if std::mem::take(&mut self.is_query_given_up) => Ok(None),
            Operation::Query => {
                let (result, body) = self.run(placed)?;
                // A query that writes is not to be had: nothing of it stays.
                self.store.abandon_overlay();
                Ok(Some(ClientReply::Reply(placed.reply(0, result, body))))
            }
            Operation::Register | Operation::Deregister | Operation::Apply | Operation::Recover => {
                let is_recover = entry.operation == Operation::Recover;
                if is_recover {
                    self.keep_table(placed)?;
                }
                let reply = match self.sessions.decide(&placed.request_id()) {
                    Decision::Execute => return self.execute(placed).map(Some),
                    Decision::Reply(reply) => {
                        assert_eq!(reply.client, entry.client);
                        assert!(reply.op <= placed.op);
                        let Ok(reply) = reply.load(&self.store) else {
                            return Err(self.abandon());
                        };
                        if defect!("retry_executed_twice") && entry.operation == Operation::Apply {
                            self.run(placed)?;
                            let _ = self.store.commit_overlay();
                        }
                        Some(ClientReply::Reply(reply))
                    }
                    Decision::Evict(reason) => {
                        let Entry { client, session, .. } = *entry;
                        Some(ClientReply::Evicted { client, session, reason })
                    }
                    Decision::Ignore(_) => None,
                };
                if is_recover && self.store.commit_overlay().is_err() {
                    return Err(self.abandon());
                }
                Ok(reply)
            }
        }
    }

    /// Executes what the sessions said to execute, and enters it into them.
    fn execute(&mut self, placed: &Placed<'_>) -> Result<ClientReply, Suspended> {
        assert_ne!(placed.entry.client.0, 0);
        assert!(placed.op > self.op);
        let (reply, change) = match placed.entry.operation {
            Operation::Register => {
                if self.valid(Operation::Register, placed.body) {
                    let reply = placed.reply(placed.op, RESULT_OK, Bytes::new());
                    let change = self.sessions.register(&reply, placed.index);
                    (reply, change)
                } else {
                    // There is no session that could keep it: it is told again each time it comes.
                    let reply = placed.reply(0, RESULT_INVALID, Bytes::new());
                    return Ok(ClientReply::Reply(reply));
                }
            }
            Operation::Deregister if self.valid(Operation::Deregister, placed.body) => {
                let reply = placed.reply(placed.entry.session, RESULT_OK, Bytes::new());
                (reply, self.sessions.deregister(placed.entry.client))
            }
            Operation::Recover if self.valid(Operation::Recover, placed.body) => {
                let reply = placed.reply(placed.entry.session, RESULT_OK, Bytes::new());
                let change = self.sessions.record(&reply, placed.index);
                (reply, change)
            }
            // What is left here of the protocol's own is not valid, and `run` says so.
            Operation::Apply | Operation::Deregister | Operation::Recover => {
                let (result, body) = self.run(placed)?;
                let reply = placed.reply(placed.entry.session, result, body);
                let mut stored = reply.clone();
                if defect!("reply_not_stored") {
                    stored.body = Bytes::new();
                }
                let change = self.sessions.record(&stored, placed.index);
                (reply, change)
            }
            Operation::Noop | Operation::Genesis | Operation::Query => {
                unreachable!("not an operation of a session")
            }
        };
        // What the request wrote and that it was executed are one write: together or not at all.
        let written = change.write(&self.sessions, &mut self.store);
        if written.and_then(|()| self.store.commit_overlay()).is_err() {
            return Err(self.abandon());
        }
        self.sessions.apply(change);
        Ok(ClientReply::Reply(reply))
    }

    /// The state is to say which table of incarnations the log has come to. The log says so by
    /// itself, whatever the sessions make of the request. It is one attempt with what they make of
    /// it: if it were over before, what was loaded for it would go, and come again, for ever.
    fn keep_table(&mut self, placed: &Placed<'_>) -> Result<(), Suspended> {
        assert_eq!(placed.entry.operation, Operation::Recover);
        let Ok(recover) = Recover::decode(placed.body) else { return Ok(()) };
        if recover.table.op >= placed.op {
            return Ok(()); // Of no table that there can be.
        }
        let table = recover.table_at(placed.op).alone();
        let written = self.store.table_put(TABLE_SYSTEM, KEY_INCARNATIONS, &table.encode());
        written.map_err(|_| self.abandon())
    }

    /// The table of incarnations of the state; without a recovery so far, that of the genesis.
    fn table_kept(&mut self) -> Result<Option<IncarnationTable>, Suspended> {
        let Ok(bytes) = self.store.table_get(TABLE_SYSTEM, KEY_INCARNATIONS) else {
            return Err(self.abandon());
        };
        let table = bytes.map(|bytes| {
            let bytes = bytes.first_chunk().expect("written by this code");
            IncarnationTable::decode(bytes).expect("written by this code")
        });
        assert!(table.is_none_or(|table| table.op <= self.op));
        Ok(table)
    }

    /// Gives the attempt up: it is made again when the store has loaded what it lacks.
    fn abandon(&mut self) -> Suspended {
        self.store.abandon_overlay();
        assert!(self.store.is_settled());
        Suspended
    }

    /// Lets the state machine carry out the entry: the result and the reply. What it wrote is in
    /// the overlay of the store exactly if the result is [`RESULT_OK`].
    fn run(&mut self, placed: &Placed<'_>) -> Result<(u32, Bytes), Suspended> {
        assert!(self.store.is_settled());
        let operation = placed.entry.operation;
        if !self.valid(operation, placed.body) {
            // The primary that prepared it had another idea of what is valid.
            return Ok((RESULT_INVALID, Bytes::new()));
        }
        self.store.limit_reads(self.read_size_max);
        let mut reply;
        let outcome = match operation {
            Operation::Apply => {
                reply = Reply::new(self.reply_size_max);
                let context = Context { op: placed.op, timestamp: placed.timestamp };
                self.state_machine.apply(&mut self.store, &context, placed.body, &mut reply)
            }
            Operation::Query => {
                reply = Reply::new(self.query_reply_size_max);
                self.state_machine.query(&self.store, placed.body, &mut reply)
            }
            _ => unreachable!("not an operation of the state machine"),
        };
        // Whatever the state machine made of a suspended access, it has not seen the store.
        let suspended = self.store.is_suspended();
        let read_left = self.store.lift_read_limit();
        if operation == Operation::Query {
            let read = self.read_size_max - read_left.unwrap_or(0);
            self.query_read_size = self.query_read_size.max(read);
        }
        let result = match outcome {
            _ if read_left.is_none() => RESULT_READ_TOO_LARGE,
            Ok(()) if !reply.is_too_large() => RESULT_OK,
            Ok(()) => RESULT_REPLY_TOO_LARGE,
            Err(Stop::Reject(code)) if (1..RESULT_RESERVED_MIN).contains(&code) => code,
            // A code that is not its own, or a suspension that the store knows nothing of.
            Err(Stop::Reject(_) | Stop::Suspend) => RESULT_STOP_INVALID,
        };
        if suspended {
            return Err(self.abandon());
        }
        if result == RESULT_OK {
            // Boxed, because a stored reply is kept and should not keep spare capacity with it.
            return Ok((RESULT_OK, Bytes::from(reply.bytes.into_boxed_slice())));
        }
        assert!(!suspended);
        assert_ne!(result, RESULT_OK);
        // The attempt is not over: the session is still to be written. If what was loaded for it
        // went now, it might never be in memory together.
        if !defect!("refusal_leaves_writes") {
            self.store.discard_writes();
        }
        Ok((result, Bytes::new()))
    }
}

impl Placed<'_> {
    fn request_id(&self) -> RequestId {
        let Entry { client, session, request, checksum, operation, .. } = *self.entry;
        assert_ne!(client.0, 0);
        assert_ne!(operation, Operation::Query);
        RequestId { client, session, request, operation, checksum }
    }

    fn reply(&self, session: u64, result: u32, body: Bytes) -> StoredReply {
        assert!(result == RESULT_OK || body.is_empty(), "a code comes without a body");
        assert!(body.len() < u32::MAX as usize);
        StoredReply {
            client: self.entry.client,
            session,
            request: self.entry.request,
            op: self.op,
            timestamp: self.timestamp,
            request_checksum: self.entry.checksum,
            result,
            operation: self.entry.operation,
            body,
        }
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
