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
//! **Invariants:** a pure function of the committed log: the table changes when an entry is
//! executed and at no other time; one entry touches one session, so `(op, index in the batch)` of
//! the last executed entry orders sessions strictly, and the least is evicted; never more than
//! `clients_max` sessions.
//!
//! **Not here:** requests that are gathered or prepared but not committed (the primary looks
//! through those itself); queries, which have no session.

use crate::store::Digest;
use crate::wire::{
    Author, ClientId, EvictionReason, Header, Message, Op, Operation, Reply, Request,
};
use bytes::Bytes;
use std::collections::BTreeMap;

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

    fn digest(&self, digest: &mut Digest) {
        digest.u128(self.client.0);
        digest.u64(self.session);
        digest.u64(self.request);
        digest.u64(self.op);
        digest.u64(self.timestamp);
        digest.u64(u64::from(self.request_checksum));
        digest.u64(u64::from(self.result));
        digest.u64(u64::from(self.operation as u8));
        digest.bytes(&self.body);
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
    Reply(&'a StoredReply),
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

#[derive(Debug)]
struct Session {
    /// The reply to the register that opened it; its op is the session's number.
    registered: StoredReply,
    /// The reply to the last request; at first the same.
    last: StoredReply,
    /// Op and index in the batch of the last entry that was executed.
    age: (Op, u32),
}

impl Sessions {
    pub(super) fn new(clients_max: u32) -> Self {
        assert!(clients_max > 0);
        Self { clients_max, by_client: BTreeMap::new(), by_age: BTreeMap::new() }
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

    /// Opens a session with the reply to its register, entry `index` of its op. If the table is
    /// full, the longest unused session ends.
    pub(super) fn register(&mut self, reply: StoredReply, index: u32) {
        assert_eq!(reply.operation, Operation::Register);
        assert_eq!(reply.session, reply.op);
        assert!(reply.session > 0);
        assert!(reply.body.is_empty());
        assert!(!self.by_client.contains_key(&reply.client));
        if self.count() == self.clients_max {
            let (_, evicted) = self.by_age.pop_first().expect("a full table has sessions");
            let session = self.by_client.remove(&evicted);
            assert!(session.is_some());
        }
        let age = (reply.op, index);
        let client = reply.client;
        assert!(self.age_max() < Some(age), "entries come in order");
        self.by_client.insert(client, Session { registered: reply.clone(), last: reply, age });
        let same_age = self.by_age.insert(age, client);
        assert_eq!(same_age, None);
        self.invariants();
    }

    /// Keeps the reply to the request that [`Self::decide`] said to execute, entry `index` of its
    /// op.
    pub(super) fn record(&mut self, reply: StoredReply, index: u32) {
        assert!(matches!(reply.operation, Operation::Apply | Operation::Deregister));
        let age = (reply.op, index);
        assert!(self.age_max() < Some(age), "entries come in order");
        let session = self.by_client.get_mut(&reply.client).expect("its request was executed");
        assert_eq!(reply.session, session.registered.session);
        assert_eq!(reply.request, session.last.request + 1);
        assert!(reply.op > session.registered.op);
        let client = self.by_age.remove(&session.age);
        assert_eq!(client, Some(reply.client));
        self.by_age.insert(age, reply.client);
        session.age = age;
        session.last = reply;
        self.invariants();
    }

    /// The defect `table_at_prepare`: takes the number of a request that may yet be forgotten.
    pub(super) fn enter_early(&mut self, request: &Request) {
        if let Some(session) = self.by_client.get_mut(&request.client) {
            session.last.request = session.last.request.max(request.request);
        }
    }

    /// Closes the session of `client`.
    pub(super) fn deregister(&mut self, client: ClientId) {
        let session = self.by_client.remove(&client).expect("its request was executed");
        let removed = self.by_age.remove(&session.age);
        assert_eq!(removed, Some(client));
        assert_eq!(session.registered.client, client);
        self.invariants();
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
        sessions.register(register_reply(CLIENT, 10), 0);
        sessions.record(reply(CLIENT, 10, 1, 11), 0);
        sessions.record(reply(CLIENT, 10, 2, 12), 0);

        let registered = register_reply(CLIENT, 10);
        assert_eq!(sessions.decide(&register_id(CLIENT)), Decision::Reply(&registered));
        let too_low = Decision::Evict(EvictionReason::SessionTooLow);
        assert_eq!(sessions.decide(&id(9, 3, 0)), too_low);
        assert!(matches!(sessions.decide(&id(11, 3, 0)), Decision::Ignore(_)));
        assert_eq!(sessions.decide(&id(10, 2, 2)), Decision::Reply(&reply(CLIENT, 10, 2, 12)));
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
        sessions.register(register_reply(CLIENT, 10), 0);
        sessions.deregister(CLIENT);
        assert_eq!(sessions.count(), 0);
        let no_session = Decision::Evict(EvictionReason::NoSession);
        assert_eq!(sessions.decide(&id(10, 1, 0)), no_session);
        sessions.register(register_reply(CLIENT, 11), 0);
        let too_low = Decision::Evict(EvictionReason::SessionTooLow);
        assert_eq!(sessions.decide(&id(10, 1, 0)), too_low);
    }

    #[test]
    fn full_table_evicts_the_longest_unused() {
        let mut sessions = Sessions::new(3);
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(ClientId);
        // Within one op the index in the batch decides.
        sessions.register(register_reply(b, 10), 0);
        sessions.register(register_reply(a, 10), 1);
        sessions.register(register_reply(c, 10), 2);
        sessions.record(reply(b, 10, 1, 11), 0);
        sessions.register(register_reply(d, 12), 0);
        assert_eq!(clients(&sessions), [b, c, d]);
        sessions.record(reply(c, 10, 1, 13), 0);
        sessions.register(register_reply(e, 14), 0);
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
