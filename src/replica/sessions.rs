//! F5: the table of client sessions (VRR §4, the client table): why a request is executed at most
//! once however often it is sent.
//!
//! ```text
//!                register                     request = last + 1
//!   no session ───────────► session, last 0 ─────────────────────► session, last 1 ──► …
//!       ▲                        │                                      │
//!       └────────────────────────┴──────────────────────────────────────┘
//!            deregister, or evicted: the table is full and this session is the longest unused
//! ```
//!
//! A session's number is the op of its register. (A client that is evicted and registers again
//! within one op gets the same number twice; nothing can have used it between, because the op was
//! sealed before anyone knew the number.) For each session the table keeps the last reply, and with
//! it the number and checksum of the last request. `Sessions::decide` says what to do with a
//! request; it is asked before a request is taken and again, bindingly, when it is committed:
//!
//! | request | session | number | decision |
//! |---|---|---|---|
//! | register | none | | execute |
//! | register | there | | the reply to the first register |
//! | other | none | | evict: no session |
//! | other | lower than the table's | | evict: session too low |
//! | other | higher than the table's | | ignore |
//! | other | the table's | last + 1 | execute |
//! | other | the table's | last, same checksum and operation | the stored reply |
//! | other | the table's | anything else | ignore |
//!
//! The table lies in the store, in the framework's own space, so that checkpoints and state sync
//! carry it: a record of fixed size for each session, and the body of its last reply beside it. In
//! memory are the records alone.
//!
//! **Invariants:** a pure function of the committed log: the table changes when an entry is
//! executed and at no other time; one entry touches one session, so `(op, index in the batch)` of
//! the last executed entry orders sessions strictly, and the least is evicted; never more than
//! `clients_max` sessions.
//!
//! **Not here:** requests that are gathered or prepared but not committed (the primary looks
//! through those itself); queries, which have no session.

use crate::store::{Digest, Direction, Stop, Store, TABLE_SYSTEM};
use crate::wire::{
    Author, ClientId, EvictionReason, Header, Message, Op, Operation, Reply, Request,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// A reply as all replicas have it: without the view and the author, which are stamped when it is
/// sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReply {
    /// Whose request.
    pub client: ClientId,
    /// The session; for a register the new one, for a query 0.
    pub session: u64,
    /// The number of the request.
    pub request: u64,
    /// The op that carried it.
    pub op: Op,
    /// The timestamp of its entry, ns.
    pub timestamp: u64,
    /// The checksum of the request's body.
    pub request_checksum: u32,
    /// 0, or the code with which the request was rejected.
    pub result: u32,
    /// The request's operation.
    pub operation: Operation,
    /// The reply of the state machine; empty for the protocol's own operations and with a code.
    pub body: Bytes,
}

impl StoredReply {
    /// The message to send, with the view and replica of `author`.
    pub fn to_message(&self, author: &Author) -> Message {
        assert_ne!(self.client.0, 0);
        assert!(self.result == 0 || self.body.is_empty(), "a code comes without a body");
        assert!(self.session <= self.op);
        let reply = Reply {
            client: self.client,
            session: self.session,
            request: self.request,
            op: self.op,
            timestamp: self.timestamp,
            request_checksum: self.request_checksum,
            result: self.result,
            operation: self.operation as u8,
        };
        Message::new(author, reply, &self.body)
    }
}

/// What tells a request from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestId {
    pub(super) client: ClientId,
    pub(super) session: u64,
    pub(super) request: u64,
    pub(super) operation: Operation,
    /// Of the body.
    pub(super) checksum: u32,
}

impl RequestId {
    /// `None` if the operation is unknown.
    pub(super) fn of(header: &Header<Request>) -> Option<Self> {
        let Request { client, session, request, operation } = header.command;
        let operation = Operation::from_code(operation)?;
        Some(Self { client, session, request, operation, checksum: header.checksum_body })
    }
}

/// What is to be done with a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision<'a> {
    Execute,
    /// It was executed before, with this reply.
    Reply(&'a ReplyRecord),
    Evict(EvictionReason),
    Ignore(&'static str),
}

/// The table.
#[derive(Debug)]
pub(super) struct Sessions {
    clients_max: u32,
    by_client: BTreeMap<ClientId, Session>,
    /// The order of eviction. The same sessions, by `Session::age`.
    by_age: BTreeMap<(Op, u32), ClientId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Session {
    /// The reply to the register that opened it; its op is the session's number.
    registered: ReplyRecord,
    /// The reply to the last request; at first the same.
    last: ReplyRecord,
    /// Op and index in the batch of the last entry that was executed.
    age: (Op, u32),
}

/// A stored reply without its body, which is in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyRecord {
    pub(super) client: ClientId,
    session: u64,
    request: u64,
    pub(super) op: Op,
    timestamp: u64,
    pub(super) request_checksum: u32,
    result: u32,
    operation: Operation,
    body_size: u32,
}

/// What an executed entry does to the table: first to the store, with whatever else the entry
/// wrote, and when the store has taken it, to the memory.
#[derive(Debug)]
pub(super) struct Change {
    /// The session that ends.
    ended: Option<ClientId>,
    /// The session as it is from now on, and the body of its last reply.
    session: Option<(Session, Bytes)>,
}

/// In the framework's space of the store: the record of a client's session.
const KEY_RECORD: u8 = 1;
/// The body of the last reply in a client's session, if it has one.
const KEY_BODY: u8 = 2;

fn key(kind: u8, client: ClientId) -> [u8; 17] {
    let mut key = [kind; 17];
    // In the order of the numbers.
    key[1..].copy_from_slice(&client.0.to_be_bytes());
    key
}

impl ReplyRecord {
    /// Bytes in the store.
    const SIZE: usize = 48;

    fn of(reply: &StoredReply) -> Self {
        let StoredReply { client, session, request, op, timestamp, .. } = *reply;
        Self {
            client,
            session,
            request,
            op,
            timestamp,
            request_checksum: reply.request_checksum,
            result: reply.result,
            operation: reply.operation,
            body_size: u32::try_from(reply.body.len()).expect("bounded by the message size"),
        }
    }

    /// The whole reply, its body read from the store.
    ///
    /// # Errors
    /// [`Stop::Suspend`].
    pub(super) fn load(&self, store: &Store) -> Result<StoredReply, Stop> {
        let body = if self.body_size == 0 {
            Bytes::new()
        } else {
            let body = store.table_get(TABLE_SYSTEM, &key(KEY_BODY, self.client))?;
            body.expect("the body of a reply is stored with its record")
        };
        assert_eq!(body.len(), self.body_size as usize);
        Ok(StoredReply {
            client: self.client,
            session: self.session,
            request: self.request,
            op: self.op,
            timestamp: self.timestamp,
            request_checksum: self.request_checksum,
            result: self.result,
            operation: self.operation,
            body,
        })
    }

    fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[0..8].copy_from_slice(&self.session.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.request.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.op.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.request_checksum.to_le_bytes());
        bytes[36..40].copy_from_slice(&self.result.to_le_bytes());
        bytes[40..44].copy_from_slice(&self.body_size.to_le_bytes());
        bytes[44] = self.operation as u8;
        bytes
    }

    fn decode(client: ClientId, bytes: &[u8; Self::SIZE]) -> Self {
        let u64_at = |at: usize| u64::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        let u32_at = |at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().expect("inside"));
        Self {
            client,
            session: u64_at(0),
            request: u64_at(8),
            op: u64_at(16),
            timestamp: u64_at(24),
            request_checksum: u32_at(32),
            result: u32_at(36),
            body_size: u32_at(40),
            operation: Operation::from_code(bytes[44]).expect("written by this code"),
        }
    }

    fn digest(&self, digest: &mut Digest) {
        digest.u128(self.client.0);
        digest.bytes(&self.encode());
    }
}

impl Session {
    const SIZE: usize = 2 * ReplyRecord::SIZE + 12;

    fn client(&self) -> ClientId {
        self.registered.client
    }

    fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..ReplyRecord::SIZE].copy_from_slice(&self.registered.encode());
        bytes[ReplyRecord::SIZE..2 * ReplyRecord::SIZE].copy_from_slice(&self.last.encode());
        bytes[2 * ReplyRecord::SIZE..][..8].copy_from_slice(&self.age.0.to_le_bytes());
        bytes[2 * ReplyRecord::SIZE + 8..].copy_from_slice(&self.age.1.to_le_bytes());
        bytes
    }

    fn decode(client: ClientId, bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), Self::SIZE);
        let record = |at: usize| {
            ReplyRecord::decode(client, bytes[at..].first_chunk().expect("the size is right"))
        };
        let age = &bytes[2 * ReplyRecord::SIZE..];
        Self {
            registered: record(0),
            last: record(ReplyRecord::SIZE),
            age: (
                u64::from_le_bytes(*age.first_chunk().expect("the size is right")),
                u32::from_le_bytes(*age[8..].first_chunk().expect("the size is right")),
            ),
        }
    }
}

impl Change {
    /// Into the store, with what the entry wrote.
    ///
    /// # Errors
    /// [`Stop::Suspend`].
    pub(super) fn write(&self, sessions: &Sessions, store: &mut Store) -> Result<(), Stop> {
        let body_of = |client: &ClientId| {
            sessions.by_client.get(client).map_or(0, |session| session.last.body_size)
        };
        if let Some(client) = &self.ended {
            store.table_delete(TABLE_SYSTEM, &key(KEY_RECORD, *client))?;
            if body_of(client) > 0 {
                store.table_delete(TABLE_SYSTEM, &key(KEY_BODY, *client))?;
            }
        }
        let Some((session, body)) = &self.session else { return Ok(()) };
        let client = session.client();
        store.table_put(TABLE_SYSTEM, &key(KEY_RECORD, client), &session.encode())?;
        if !body.is_empty() {
            store.table_put(TABLE_SYSTEM, &key(KEY_BODY, client), body)?;
        } else if body_of(&client) > 0 {
            store.table_delete(TABLE_SYSTEM, &key(KEY_BODY, client))?;
        }
        Ok(())
    }
}

impl Sessions {
    pub(super) fn new(clients_max: u32) -> Self {
        assert!(clients_max > 0);
        Self { clients_max, by_client: BTreeMap::new(), by_age: BTreeMap::new() }
    }

    /// Whether `client` has one.
    pub(super) fn contains(&self, client: ClientId) -> bool {
        self.by_client.contains_key(&client)
    }

    /// The number of open sessions.
    pub(super) fn count(&self) -> u32 {
        let count = u32::try_from(self.by_client.len()).expect("at most clients_max");
        assert!(count <= self.clients_max);
        count
    }

    /// What to do with a request that belongs, or should belong, to a session. Changes nothing.
    pub(super) fn decide(&self, id: &RequestId) -> Decision<'_> {
        assert_ne!(id.operation, Operation::Query, "a query has no session");
        assert_ne!(id.client.0, 0);
        let session = self.by_client.get(&id.client);
        if id.operation == Operation::Register {
            return match session {
                Some(session) => Decision::Reply(&session.registered),
                None => Decision::Execute,
            };
        }
        let Some(session) = session else {
            return Decision::Evict(EvictionReason::NoSession);
        };
        let Session { registered, last, .. } = session;
        assert_eq!(registered.client, id.client);
        assert_eq!(registered.session, last.session);
        if id.session < registered.session {
            return Decision::Evict(EvictionReason::SessionTooLow);
        }
        if id.session > registered.session {
            return Decision::Ignore("a session that is newer than the table's");
        }
        if id.request == last.request {
            let same = id.operation == last.operation && id.checksum == last.request_checksum;
            return if same {
                Decision::Reply(last)
            } else {
                Decision::Ignore("another request with the number of the last")
            };
        }
        if id.request < last.request {
            return Decision::Ignore("a request older than the last");
        }
        // The number is above the last, so the last can be counted up.
        if id.request == last.request + 1 {
            Decision::Execute
        } else {
            Decision::Ignore("a request that leaves out a number")
        }
    }

    /// The table that is in the store.
    ///
    /// # Errors
    /// [`Stop::Suspend`].
    pub(super) fn load(clients_max: u32, store: &Store) -> Result<Self, Stop> {
        let mut sessions = Self::new(clients_max);
        let (start, end) = ([KEY_RECORD], [KEY_RECORD + 1]);
        let range = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
        store.table_scan(TABLE_SYSTEM, range.0, range.1, Direction::Forward, |key, value| {
            let client = u128::from_be_bytes(*key[1..].first_chunk().expect("16 bytes"));
            let session = Session::decode(ClientId(client), value);
            sessions.by_age.insert(session.age, session.client());
            sessions.by_client.insert(session.client(), session);
            Ok(ControlFlow::Continue(()))
        })?;
        sessions.invariants();
        Ok(sessions)
    }

    /// Does to the memory what the store has taken.
    pub(super) fn apply(&mut self, change: Change) {
        let mut remove = |client: &ClientId| {
            let session = self.by_client.remove(client)?;
            let removed = self.by_age.remove(&session.age);
            assert_eq!(removed, Some(*client));
            Some(session)
        };
        if let Some(client) = &change.ended {
            let session = remove(client);
            assert!(session.is_some(), "a session that ends was there");
        }
        if let Some((session, _)) = change.session {
            remove(&session.client());
            assert!(self.age_max() < Some(session.age), "entries come in order");
            self.by_age.insert(session.age, session.client());
            self.by_client.insert(session.client(), session);
        }
        self.invariants();
    }

    /// Opens a session with the reply to its register, entry `index` of its op. If the table is
    /// full, the longest unused session ends.
    pub(super) fn register(&self, reply: &StoredReply, index: u32) -> Change {
        assert_eq!(reply.operation, Operation::Register);
        assert_eq!(reply.session, reply.op);
        assert!(reply.session > 0);
        assert!(reply.body.is_empty());
        assert!(!self.by_client.contains_key(&reply.client));
        let is_full = self.count() == self.clients_max;
        let ended = self.by_age.values().next().copied().filter(|_| is_full);
        assert_eq!(ended.is_some(), is_full);
        let age = (reply.op, index);
        assert!(self.age_max() < Some(age), "entries come in order");
        let registered = ReplyRecord::of(reply);
        let session = Session { registered, last: registered, age };
        Change { ended, session: Some((session, Bytes::new())) }
    }

    /// Keeps the reply to the request that [`Self::decide`] said to execute, entry `index` of its
    /// op.
    pub(super) fn record(&self, reply: &StoredReply, index: u32) -> Change {
        assert!(matches!(
            reply.operation,
            Operation::Apply | Operation::Deregister | Operation::Recover
        ));
        let age = (reply.op, index);
        assert!(self.age_max() < Some(age), "entries come in order");
        let session = self.by_client.get(&reply.client).expect("its request was executed");
        let registered = session.registered;
        assert_eq!(reply.session, registered.session);
        assert_eq!(reply.request, session.last.request + 1);
        assert!(reply.op > registered.op);
        let session = Session { registered, last: ReplyRecord::of(reply), age };
        Change { ended: None, session: Some((session, reply.body.clone())) }
    }

    /// The defect `table_at_prepare`: takes the number of a request that may yet be forgotten.
    pub(super) fn enter_early(&mut self, request: &Request) {
        if let Some(session) = self.by_client.get_mut(&request.client) {
            session.last.request = session.last.request.max(request.request);
        }
    }

    /// Closes the session of `client`.
    pub(super) fn deregister(&self, client: ClientId) -> Change {
        assert!(self.by_client.contains_key(&client), "its request was executed");
        Change { ended: Some(client), session: None }
    }

    pub(super) fn digest(&self, digest: &mut Digest) {
        digest.u64(u64::from(self.count()));
        for session in self.by_client.values() {
            session.registered.digest(digest);
            session.last.digest(digest);
            digest.u64(session.age.0);
            digest.u64(u64::from(session.age.1));
        }
    }

    /// Of the session used last.
    fn age_max(&self) -> Option<(Op, u32)> {
        let (age, client) = self.by_age.last_key_value()?;
        assert_eq!(self.by_client[client].age, *age);
        Some(*age)
    }

    fn invariants(&self) {
        assert!(self.by_client.len() <= self.clients_max as usize);
        assert_eq!(self.by_client.len(), self.by_age.len());
        if let Some((age, client)) = self.by_age.first_key_value() {
            assert_eq!(self.by_client[client].age, *age);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{ClusterId, Command, ReplicaIndex, View};

    const CLIENT: ClientId = ClientId(7);

    #[test]
    fn decide_follows_its_table() {
        let mut sessions = Sessions::new(4);
        let reason = EvictionReason::NoSession;
        assert_eq!(sessions.decide(&id(10, 1, 0)), Decision::Evict(reason));
        assert_eq!(sessions.decide(&register_id(CLIENT)), Decision::Execute);
        register(&mut sessions, CLIENT, 10, 0);
        record(&mut sessions, CLIENT, 1, 11);
        record(&mut sessions, CLIENT, 2, 12);

        let registered = ReplyRecord::of(&register_reply(CLIENT, 10));
        assert_eq!(sessions.decide(&register_id(CLIENT)), Decision::Reply(&registered));
        let too_low = Decision::Evict(EvictionReason::SessionTooLow);
        assert_eq!(sessions.decide(&id(9, 3, 0)), too_low);
        assert!(matches!(sessions.decide(&id(11, 3, 0)), Decision::Ignore(_)));
        let last = ReplyRecord::of(&reply(CLIENT, 10, 2, 12));
        assert_eq!(sessions.decide(&id(10, 2, 2)), Decision::Reply(&last));
        assert!(matches!(sessions.decide(&id(10, 2, 3)), Decision::Ignore(_)));
        let other = RequestId { operation: Operation::Deregister, ..id(10, 2, 2) };
        assert!(matches!(sessions.decide(&other), Decision::Ignore(_)));
        assert_eq!(sessions.decide(&id(10, 3, 99)), Decision::Execute);
        for request in [0, 1, 4, u64::MAX] {
            assert!(matches!(sessions.decide(&id(10, request, 1)), Decision::Ignore(_)));
        }
    }

    #[test]
    fn deregister_makes_room_and_forgets() {
        let mut sessions = Sessions::new(1);
        register(&mut sessions, CLIENT, 10, 0);
        sessions.apply(sessions.deregister(CLIENT));
        assert_eq!(sessions.count(), 0);
        let no_session = Decision::Evict(EvictionReason::NoSession);
        assert_eq!(sessions.decide(&id(10, 1, 0)), no_session);
        register(&mut sessions, CLIENT, 11, 0);
        let too_low = Decision::Evict(EvictionReason::SessionTooLow);
        assert_eq!(sessions.decide(&id(10, 1, 0)), too_low);
    }

    #[test]
    fn full_table_evicts_the_longest_unused() {
        let mut sessions = Sessions::new(3);
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(ClientId);
        // Within one op the index in the batch decides.
        register(&mut sessions, b, 10, 0);
        register(&mut sessions, a, 10, 1);
        register(&mut sessions, c, 10, 2);
        record(&mut sessions, b, 1, 11);
        register(&mut sessions, d, 12, 0);
        assert_eq!(clients(&sessions), [b, c, d]);
        record(&mut sessions, c, 1, 13);
        register(&mut sessions, e, 14, 0);
        assert_eq!(clients(&sessions), [c, d, e]);
        assert_eq!(sessions.count(), 3);
    }

    #[test]
    fn message_of_a_reply_carries_everything_and_the_stamp() {
        let reply = StoredReply { body: Bytes::from_static(b"body"), ..reply(CLIENT, 10, 1, 11) };
        let author = Author {
            cluster: ClusterId(3),
            view: View(5),
            replica: ReplicaIndex(2),
            incarnation: 9,
        };
        let message = reply.to_message(&author);
        let decoded = Message::decode(message.bytes()).unwrap();
        assert_eq!(decoded.body(), b"body");
        assert_eq!(decoded.header().view, View(5));
        assert_eq!(decoded.header().replica, ReplicaIndex(2));
        let Command::Reply(command) = decoded.header().command else {
            panic!("not a reply");
        };
        let expected = Reply {
            client: CLIENT,
            session: 10,
            request: 1,
            op: 11,
            timestamp: 1100,
            request_checksum: 1,
            result: 0,
            operation: Operation::Apply as u8,
        };
        assert_eq!(command, expected);
    }

    fn register(sessions: &mut Sessions, client: ClientId, op: Op, index: u32) {
        sessions.apply(sessions.register(&register_reply(client, op), index));
    }

    /// In a session that was registered in op 10.
    fn record(sessions: &mut Sessions, client: ClientId, request: u64, op: Op) {
        sessions.apply(sessions.record(&reply(client, 10, request, op), 0));
    }

    #[test]
    fn what_is_in_the_store_is_the_table() {
        let mut sessions = Sessions::new(2);
        let mut store = Store::new();
        let [a, b, c] = [1, 2, 3].map(ClientId);
        let mut change = |sessions: &mut Sessions, change: Change| {
            change.write(sessions, &mut store).unwrap();
            store.commit_overlay().unwrap();
            sessions.apply(change);
            let loaded = Sessions::load(2, &store).unwrap();
            assert_eq!(loaded.by_client, sessions.by_client);
            assert_eq!(loaded.by_age, sessions.by_age);
            [a, c].map(|client| store.table_get(TABLE_SYSTEM, &key(KEY_BODY, client)).unwrap())
        };
        for (op, client) in [(10, a), (11, b)] {
            let next = sessions.register(&register_reply(client, op), 0);
            change(&mut sessions, next);
        }
        let body = Bytes::from_static(b"body");
        let next = sessions.record(&StoredReply { body, ..reply(a, 10, 1, 12) }, 3);
        let bodies = change(&mut sessions, next);
        assert_eq!(bodies, [Some(Bytes::from_static(b"body")), None]);
        let next = sessions.register(&register_reply(c, 13), 0);
        change(&mut sessions, next);
        assert_eq!(clients(&sessions), [a, c]);
        let next = sessions.record(&reply(c, 13, 1, 14), 0);
        change(&mut sessions, next);
        let next = sessions.record(&reply(a, 10, 2, 15), 0);
        assert_eq!(change(&mut sessions, next), [None, None], "replaced by an empty one");
        let body = Bytes::from_static(b"last");
        let next = sessions.record(&StoredReply { body, ..reply(a, 10, 3, 16) }, 0);
        let bodies = change(&mut sessions, next);
        assert_eq!(bodies, [Some(Bytes::from_static(b"last")), None]);
        let next = sessions.deregister(a);
        assert_eq!(change(&mut sessions, next), [None, None], "it went with its session");
        assert_eq!(clients(&sessions), [c]);
    }

    fn clients(sessions: &Sessions) -> Vec<ClientId> {
        sessions.by_client.keys().copied().collect()
    }

    fn id(session: u64, request: u64, checksum: u32) -> RequestId {
        RequestId { client: CLIENT, session, request, operation: Operation::Apply, checksum }
    }

    fn register_id(client: ClientId) -> RequestId {
        RequestId { client, session: 0, request: 0, operation: Operation::Register, checksum: 0 }
    }

    fn register_reply(client: ClientId, op: Op) -> StoredReply {
        StoredReply {
            request_checksum: 0,
            operation: Operation::Register,
            ..reply(client, op, 0, op)
        }
    }

    /// The checksum of the request is its number.
    fn reply(client: ClientId, session: u64, request: u64, op: Op) -> StoredReply {
        StoredReply {
            client,
            session,
            request,
            op,
            timestamp: op * 100,
            request_checksum: u32::try_from(request).unwrap(),
            result: 0,
            operation: Operation::Apply,
            body: Bytes::new(),
        }
    }
}
