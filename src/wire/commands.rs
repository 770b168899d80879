//! F1: one struct per command, each with its place in the header and its rules.
//!
//! The fields lie one after the other, in the order written here, from byte 48 on, unaligned; what
//! is left up to byte 128 is zero. `docs/protocol.md` draws each one.
//!
//! **Invariants:** codes are never reused; `invalid` is pure and total and is asked of every header
//! that comes from a socket or a disk.
//!
//! **Not here:** what a replica does with a command.

use super::header::{COMMAND_OFFSET, COMMAND_SIZE, Header, Invalid};
use super::types::{BlockRef, ClientId, Field, Op, Parent, Place, PrepareId, View, layout};
use super::{Operation, StatusReport};
use crate::constants::{ENTRY_SIZE, HEADER_SIZE, NUMBER_MAX, PIPELINE_MAX, REPLICAS_MAX, VIEW_MAX};

/// The command part of a header: [`Command`] or one command's struct.
pub trait CommandPart: Copy + std::fmt::Debug {
    /// The command's code on the wire.
    fn code(&self) -> u8;
    /// Writes the fields to the (zeroed) command part of a header.
    fn put(&self, bytes: &mut [u8]);
}

macro_rules! commands {
    ($(
        $(#[$doc:meta])*
        $code:literal $name:ident $text:literal {
            $( $(#[$field_doc:meta])* $field:ident: $type:ty, )*
        }
    )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
            pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

            impl $name {
                /// The command's code on the wire.
                pub const CODE: u8 = $code;
                /// The bytes its fields take of the command part.
                pub const FIELDS_SIZE: usize = 0 $( + <$type as Field>::SIZE )*;
                /// Its fields as they lie in the header: name, offset and size in bytes.
                pub const FIELDS: &'static [Place] =
                    &layout(COMMAND_OFFSET, [$( (stringify!($field), <$type as Field>::SIZE), )*]);
            }

            impl CommandPart for $name {
                fn code(&self) -> u8 {
                    Self::CODE
                }

                fn put(&self, bytes: &mut [u8]) {
                    let rest = bytes;
                    $( let (place, rest) = rest.split_at_mut(<$type as Field>::SIZE);
                    self.$field.put(place); )*
                    debug_assert!(rest.iter().all(|byte| *byte == 0));
                }
            }

            impl From<$name> for Command {
                fn from(command: $name) -> Self {
                    Self::$name(command)
                }
            }

            const _: () = assert!($name::FIELDS_SIZE <= COMMAND_SIZE);
        )*

        /// Any command, with its fields.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Command { $( $(#[$doc])* $name($name), )* }

        impl Command {
            /// Every command: its code, its name as the documents write it, and its fields as they
            /// lie in the header (name, offset, size).
            pub const LAYOUTS: &'static [(u8, &'static str, &'static [Place])] =
                &[$( ($code, $text, $name::FIELDS), )*];

            /// The command's name as the documents write it.
            pub fn name(&self) -> &'static str {
                match self { $( Self::$name(_) => $text, )* }
            }

            pub(super) fn get(code: u8, bytes: &[u8]) -> Result<Self, Invalid> {
                assert_eq!(bytes.len(), COMMAND_SIZE);
                match code {
                    $( $code => {
                        let rest = bytes;
                        $( let (place, rest) = rest.split_at(<$type as Field>::SIZE);
                        let $field = <$type>::get(place); )*
                        if rest.iter().any(|byte| *byte != 0) {
                            return Err(Invalid::Field("reserved bytes of a command are not zero"));
                        }
                        Ok(Self::$name($name { $($field,)* }))
                    } )*
                    _ => Err(Invalid::CommandUnknown(code)),
                }
            }
        }

        impl CommandPart for Command {
            fn code(&self) -> u8 {
                match self { $( Self::$name(_) => $code, )* }
            }

            fn put(&self, bytes: &mut [u8]) {
                match self { $( Self::$name(command) => command.put(bytes), )* }
            }
        }
    };
}

commands! {
    /// Client to replica: one operation of one session. `view`: the client's guess.
    1 Request "request" {
        /// Who asks.
        client: ClientId,
        /// The session, from the reply to `register`; 0 for `register` and for queries.
        session: u64,
        /// The number of the request in its session: 0 for `register`, then 1, 2, …
        request: u64,
        /// An [`super::Operation`] a client may send.
        operation: u8,
    }
    /// Primary to backups, and in the journal: a log entry, a batch of requests (VRR §6.2).
    /// `view`: the view in which it was prepared first.
    2 Prepare "prepare" {
        /// The prepare before this one.
        parent: Parent,
        /// Its position in the log.
        op: Op,
        /// The primary's `commit_max` when it was sealed.
        commit: Op,
        /// The timestamp of its first entry, ns; entry i has `timestamp + i`.
        timestamp: u64,
        /// The id of the checkpoint of the largest k·I with k·I + I < op; 0 before the first.
        checkpoint_id: u128,
        /// Entries in the body.
        entry_count: u32,
    }
    /// Backup to primary: the prepare is durable here. `view`: the sender's.
    3 PrepareOk "prepare_ok" {
        /// Which prepare.
        prepare: PrepareId,
        /// The sender's `commit_min`.
        commit_min: Op,
        /// The sender's checkpoint id for that op.
        checkpoint_id: u128,
    }
    /// Replica to client: the result of a committed request. `view`: the sender's durable
    /// `log_view`.
    4 Reply "reply" {
        /// Whose request.
        client: ClientId,
        /// The session; for `register` the new one.
        session: u64,
        /// The request's number.
        request: u64,
        /// The op that carried it.
        op: Op,
        /// The timestamp of its entry, ns.
        timestamp: u64,
        /// The checksum of the request's body.
        request_checksum: u32,
        /// 0, or the code with which the state machine rejected it.
        result: u32,
        /// The request's operation.
        operation: u8,
    }
    /// Primary to backups: heartbeat and commit number. `view`: the primary's.
    5 Commit "commit" {
        /// The newest prepare that is known to be committed.
        commit: PrepareId,
        /// The root of the primary's checkpoint.
        checkpoint: BlockRef,
        /// A fresh number for each heartbeat; read rounds refer to it.
        round: u64,
        /// The primary's monotonic clock, ns: older heartbeats are recognized.
        timestamp_monotonic: u64,
        /// 1: the backups are to answer with `commit_ok`; else 0.
        answer: u8,
    }
    /// Backup to primary: the answer to a `commit` in exactly this view.
    6 CommitOk "commit_ok" {
        /// The heartbeat's round.
        round: u64,
    }
    /// Replica to all: a vote to leave `view` for the next one.
    7 StartViewChange "start_view_change" {}
    /// Replica to all, on entering `view`: its log's suffix. The body is a [`super::HeaderSet`].
    8 DoViewChange "do_view_change" {
        /// The op of the first header in the body.
        op: Op,
        /// What the sender has executed.
        commit_min: Op,
        /// What the sender knows to be committed.
        commit_max: Op,
        /// The root of the newer of the sender's two checkpoints that `commit_max` proves: what a
        /// replica that is too far behind takes over.
        checkpoint: BlockRef,
        /// The last view in which the sender's head was defined.
        log_view: View,
        /// Bit i: the body of the prepare of header i is intact here.
        present: u64,
        /// Bit i: the sender is certain that it never acknowledged the prepare of header i.
        nack: u64,
    }
    /// Primary of `view` to all: the view's log. The body is a [`super::HeaderSet`].
    9 StartView "start_view" {
        /// The head: the op of the first header in the body.
        op: Op,
        /// What is known to be committed.
        commit_max: Op,
        /// The root of the newer of the sender's two checkpoints that `commit_max` proves: what a
        /// replica that is too far behind takes over.
        checkpoint: BlockRef,
        /// Of the `request_start_view` this answers, or 0.
        nonce: u64,
    }
    /// Replica to the primary of `view`: send me your `start_view`.
    10 RequestStartView "request_start_view" {
        /// Random, not 0.
        nonce: u64,
    }
    /// Replica to replica: headers of this range, please.
    11 RequestHeaders "request_headers" {
        /// First op wanted.
        op_min: Op,
        /// Last op wanted.
        op_max: Op,
    }
    /// The answer: prepare headers in the body, op descending.
    12 Headers "headers" {}
    /// Replica to replica: this prepare, please.
    13 RequestPrepare "request_prepare" {
        /// Which.
        prepare: PrepareId,
    }
    /// Replica to all others, once a second and when blank more often. `view`: the durable view.
    14 Ping "ping" {
        /// The sender's monotonic clock, ns; echoed.
        timestamp_monotonic: u64,
        /// What the sender's table of incarnations says of the target; 0 without a table.
        incarnation_target: u64,
        /// The root of the sender's checkpoint.
        checkpoint: BlockRef,
        /// Geometry: message size, bytes.
        message_size: u32,
        /// Geometry: slots in the journal.
        journal_slots: u32,
        /// Geometry: block size, bytes.
        block_size: u32,
        /// Geometry: prepares in flight.
        pipeline: u32,
        /// Geometry: sessions.
        clients_max: u32,
        /// Replicas in the cluster.
        replica_count: u8,
        /// 1: the sender's store has no room for its next checkpoint; else 0.
        store_full: u8,
    }
    /// The answer to a ping. `view`: the durable view.
    15 Pong "pong" {
        /// Of the ping.
        ping_timestamp_monotonic: u64,
        /// The sender's wall clock, ns since 1970.
        timestamp_realtime: u64,
    }
    /// Client to replica: who is primary?
    16 PingClient "ping_client" {
        /// Who asks.
        client: ClientId,
        /// The client's monotonic clock, ns; echoed.
        timestamp_monotonic: u64,
    }
    /// The answer. `view`: the durable `log_view`.
    17 PongClient "pong_client" {
        /// Whom this answers.
        client: ClientId,
        /// Of the ping.
        ping_timestamp_monotonic: u64,
        /// The largest message, bytes.
        message_size: u32,
        /// Replicas in the cluster.
        replica_count: u8,
    }
    /// Primary to client: the session does not exist (any more). Terminal for the session.
    18 Eviction "eviction" {
        /// Whose.
        client: ClientId,
        /// Which session.
        session: u64,
        /// An [`EvictionReason`].
        reason: u8,
    }
    /// Replica to client: this request was not taken. Not terminal.
    19 Reject "reject" {
        /// Whose request.
        client: ClientId,
        /// Its number.
        request: u64,
        /// A [`RejectReason`].
        reason: u8,
    }
    /// Replica to replica: blocks wanted; references in the body.
    20 RequestBlocks "request_blocks" {}
    /// A grid block, on the wire and on disk.
    21 Block "block" {
        /// Its place in the grid.
        index: u32,
        /// The checkpoint whose interval it was allocated in.
        checkpoint_op: Op,
        /// What it holds.
        kind: u8,
    }
    /// Operator to replica: how are you?
    22 RequestStatus "request_status" {
        /// Who asks.
        client: ClientId,
    }
    /// The answer: a `StatusReport` in the body.
    23 Status "status" {
        /// Whom this answers.
        client: ClientId,
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum EvictionReason {
    /// The table of sessions does not hold it: it was evicted for a newer one, or it never was.
    NoSession = 1,
    /// The client registered again since.
    SessionTooLow = 2,
}

/// Why a request was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum RejectReason {
    /// This replica is not the primary; `view` says who is.
    NotPrimary = 1,
    /// `StateMachine::validate` refused it.
    Invalid = 2,
    /// The data file has no room for another op.
    StoreFull = 3,
    /// The queue of the primary is full: try again.
    Busy = 4,
    /// The request is larger than this cluster's messages allow.
    TooLarge = 5,
    /// The replica to recover was heard a moment ago: its file is not lost.
    ReplicaHeard = 6,
    /// The recovery is of another table of incarnations than the log's, or another one is under
    /// way.
    TableChanged = 7,
}

impl EvictionReason {
    /// The reason with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::NoSession, Self::SessionTooLow].into_iter().find(|reason| *reason as u8 == code)
    }
}

impl RejectReason {
    /// The reason with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::NotPrimary,
            Self::Invalid,
            Self::StoreFull,
            Self::Busy,
            Self::TooLarge,
            Self::ReplicaHeard,
            Self::TableChanged,
        ]
        .into_iter()
        .find(|reason| *reason as u8 == code)
    }
}

impl Header<Command> {
    /// Why no correct author would write this header; `None` for a valid one.
    ///
    /// Pure and total. Sizes beyond the geometry's message size are the receiver's to refuse.
    pub fn invalid(&self) -> Option<&'static str> {
        if self.size < HEADER_SIZE {
            return Some("smaller than its header");
        }
        if self.replica.0 >= REPLICAS_MAX {
            return Some("replica index out of range");
        }
        if self.view.0 > VIEW_MAX {
            return Some("a view that is never reached");
        }
        if self.command.op_max() > NUMBER_MAX {
            return Some("an op that is never reached");
        }
        if self.size == HEADER_SIZE && self.checksum_body != 0 {
            return Some("a body checksum without a body");
        }
        if !self.command.may_have_body() && self.size != HEADER_SIZE {
            return Some("a body where none belongs");
        }
        if self.command.from_client() && (self.replica.0 != 0 || self.incarnation != 0) {
            return Some("a client that claims to be a replica");
        }
        if self.command.client().is_some_and(|client| client.0 == 0) {
            return Some("no client");
        }
        self.invalid_command()
    }

    fn invalid_command(&self) -> Option<&'static str> {
        let body_size = self.body_size();
        match &self.command {
            Command::Request(request) => request.invalid(body_size),
            Command::Prepare(prepare) => prepare.invalid(self),
            Command::PrepareOk(ok) => ok.invalid(self.view),
            Command::Reply(reply) => client_operation(reply.operation).err(),
            Command::Commit(commit) => commit.invalid(self.view),
            Command::DoViewChange(message) => message.invalid(self.view, body_size),
            Command::StartView(message) => message.invalid(body_size),
            Command::RequestStartView(request) => (request.nonce == 0).then_some("no nonce"),
            Command::RequestHeaders(request) => {
                (request.op_min > request.op_max).then_some("an empty range")
            }
            Command::Headers(_) => {
                (body_size == 0 || !body_size.is_multiple_of(HEADER_SIZE)).then_some("not headers")
            }
            Command::RequestPrepare(request) => {
                (request.prepare.op == 0).then_some("everybody knows op 0")
            }
            Command::Ping(ping) => ping.invalid(),
            Command::PongClient(pong) => replica_count_invalid(pong.replica_count),
            Command::Eviction(eviction) => {
                EvictionReason::from_code(eviction.reason).is_none().then_some("unknown eviction")
            }
            Command::Reject(reject) => {
                RejectReason::from_code(reject.reason).is_none().then_some("unknown reject")
            }
            Command::RequestBlocks(_) => (body_size == 0
                || !(body_size as usize).is_multiple_of(BlockRef::SIZE))
            .then_some("not references of blocks"),
            Command::Status(_) => {
                (body_size != StatusReport::SIZE).then_some("not the size of a status report")
            }
            Command::CommitOk(_)
            | Command::StartViewChange(_)
            | Command::Pong(_)
            | Command::PingClient(_)
            | Command::Block(_)
            | Command::RequestStatus(_) => None,
        }
    }
}

const FROM_LATER_VIEW: &str = "a prepare of a later view than its messenger's";

/// Headers in a body of `body_size` bytes that is a [`super::HeaderSet`]; `None` if it cannot be.
fn header_set_count(body_size: u32) -> Option<u32> {
    // The table, then the head and at most a pipeline below it.
    let count = (body_size / HEADER_SIZE).checked_sub(1)?;
    let whole = body_size.is_multiple_of(HEADER_SIZE);
    (whole && (1..=PIPELINE_MAX + 1).contains(&count)).then_some(count)
}

fn client_operation(code: u8) -> Result<Operation, &'static str> {
    match Operation::from_code(code) {
        Some(operation) if operation.from_client() => Ok(operation),
        Some(_) => Err("not a client's operation"),
        None => Err("unknown operation"),
    }
}

fn replica_count_invalid(replica_count: u8) -> Option<&'static str> {
    (!(1..=REPLICAS_MAX).contains(&replica_count)).then_some("replica count out of range")
}

impl Command {
    fn may_have_body(&self) -> bool {
        matches!(
            self,
            Self::Request(_)
                | Self::Prepare(_)
                | Self::Reply(_)
                | Self::DoViewChange(_)
                | Self::StartView(_)
                | Self::Headers(_)
                | Self::RequestBlocks(_)
                | Self::Block(_)
                | Self::Status(_)
        )
    }

    /// The largest of the ops that a command of a replica names, as far as its own rules do not
    /// bound it by another.
    fn op_max(&self) -> Op {
        match self {
            Self::Prepare(prepare) => prepare.op,
            Self::PrepareOk(ok) => ok.prepare.op.max(ok.commit_min),
            Self::Commit(commit) => commit.commit.op.max(commit.checkpoint.op),
            Self::DoViewChange(message) => {
                message.op.max(message.commit_max).max(message.checkpoint.op)
            }
            Self::StartView(message) => message.op.max(message.checkpoint.op),
            Self::RequestHeaders(request) => request.op_max,
            Self::RequestPrepare(request) => request.prepare.op,
            Self::Ping(ping) => ping.checkpoint.op,
            Self::Block(block) => block.checkpoint_op,
            _ => 0,
        }
    }

    /// The client this message is from or for, for the commands that name one.
    pub fn client(&self) -> Option<ClientId> {
        match self {
            Self::Request(Request { client, .. })
            | Self::Reply(Reply { client, .. })
            | Self::PingClient(PingClient { client, .. })
            | Self::PongClient(PongClient { client, .. })
            | Self::Eviction(Eviction { client, .. })
            | Self::Reject(Reject { client, .. })
            | Self::RequestStatus(RequestStatus { client })
            | Self::Status(Status { client }) => Some(*client),
            _ => None,
        }
    }

    /// Whether a client is the author.
    pub fn from_client(&self) -> bool {
        matches!(self, Self::Request(_) | Self::PingClient(_) | Self::RequestStatus(_))
    }
}

impl Request {
    fn invalid(&self, body_size: u32) -> Option<&'static str> {
        let Self { client, session, request, operation } = *self;
        let operation = match client_operation(operation) {
            Ok(operation) => operation,
            Err(reason) => return Some(reason),
        };
        operation.invalid(client, session, request, body_size)
    }
}

impl Prepare {
    fn invalid(&self, header: &Header<Command>) -> Option<&'static str> {
        if self.op == 0 {
            let root = Header::root(header.cluster);
            return (header.with(*self) != root).then_some("not the root");
        }
        if self.entry_count == 0 {
            return Some("a prepare without entries");
        }
        if u64::from(header.body_size()) < u64::from(self.entry_count) * u64::from(ENTRY_SIZE) {
            return Some("more entries than the body can hold");
        }
        if self.commit >= self.op {
            return Some("a prepare that commits itself");
        }
        if self.parent.view > header.view {
            return Some("a parent of a later view");
        }
        if self.timestamp.checked_add(u64::from(self.entry_count)).is_none() {
            return Some("a timestamp at the end of time");
        }
        None
    }
}

impl PrepareOk {
    fn invalid(&self, view: View) -> Option<&'static str> {
        if self.prepare.op == 0 {
            return Some("op 0 is never acknowledged");
        }
        (self.prepare.view > view).then_some(FROM_LATER_VIEW)
    }
}

impl Commit {
    fn invalid(&self, view: View) -> Option<&'static str> {
        if self.answer > 1 {
            return Some("an answer that is neither wanted nor not");
        }
        (self.commit.view > view).then_some(FROM_LATER_VIEW)
    }
}

impl Ping {
    fn invalid(&self) -> Option<&'static str> {
        let is_flag = self.store_full <= 1;
        replica_count_invalid(self.replica_count)
            .or((!is_flag).then_some("a store that is neither full nor not"))
    }
}

impl DoViewChange {
    fn invalid(&self, view: View, body_size: u32) -> Option<&'static str> {
        let Some(count) = header_set_count(body_size) else {
            return Some("not a set of headers");
        };
        assert!(count < u64::BITS);
        if (self.present | self.nack) >> count != 0 {
            return Some("a bit without a header");
        }
        if self.log_view > view {
            return Some("a log of a later view");
        }
        (self.commit_min > self.commit_max).then_some("executed more than is committed")
    }
}

impl StartView {
    fn invalid(&self, body_size: u32) -> Option<&'static str> {
        if header_set_count(body_size).is_none() {
            return Some("not a set of headers");
        }
        (self.commit_max > self.op).then_some("committed beyond the head")
    }
}
