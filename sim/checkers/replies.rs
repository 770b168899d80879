//! A request that is sent again is answered with the same reply, by whomever, after whatever.
//!
//! ```text
//!   (client, session, request) ──► op, timestamp, checksum, result, operation, body
//! ```
//!
//! A stored reply is replicated state: it outlives views, restarts and its author. What is stamped
//! when it is sent (view, replica) is not part of it. Replies in no session are not stored: a query
//! that is sent again is answered anew. The timestamp of a register is left out: a client that is
//! evicted and registers again within one op gets the same session twice.
//!
//! **Invariants:** the first reply to a request is the one all others are compared with.
//!
//! **Not here:** whether the reply is right (`order`, `linearizability`).

use super::{CheckerReport, FirstFailure};
use bytes::Bytes;
use std::collections::BTreeMap;
use vsr::wire::{ClientId, Command, Message, Operation, Reply};

#[derive(Debug, Default)]
pub(super) struct Replies {
    replies: BTreeMap<(ClientId, u64, u64), (Reply, Bytes)>,
    compared: u64,
    failure: FirstFailure,
}

impl Replies {
    /// A replica sent `message`; anything but a reply is ignored.
    pub(super) fn on_reply(&mut self, message: &Message) -> Result<(), String> {
        let Command::Reply(mut reply) = message.header().command else {
            return Ok(());
        };
        if reply.session == 0 {
            return Ok(());
        }
        if reply.operation == Operation::Register as u8 {
            reply.timestamp = 0;
        }
        let key = (reply.client, reply.session, reply.request);
        let Some((known, body)) = self.replies.get(&key) else {
            self.replies.insert(key, (reply, Bytes::copy_from_slice(message.body())));
            return Ok(());
        };
        self.compared += 1;
        let result = if *known == reply && body == message.body() {
            Ok(())
        } else {
            Err(format!(
                "replica {} answers anew: {reply:?} ({} bytes) after {known:?} ({} bytes)",
                message.header().replica,
                message.body().len(),
                body.len()
            ))
        };
        self.failure.note(result)
    }

    /// Whether anything is sent twice is up to the world.
    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "replies",
            compared: self.compared,
            undecided: 0,
            vacuous: self.replies.is_empty(),
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr::wire::{Author, ClusterId, PingClient, ReplicaIndex, View};

    fn reply() -> Reply {
        Reply {
            client: ClientId(7),
            session: 3,
            request: 2,
            op: 9,
            timestamp: 100,
            request_checksum: 1,
            result: 0,
            operation: Operation::Apply as u8,
        }
    }

    fn message(replica: u8, reply: Reply, body: &[u8]) -> Message {
        let (cluster, view) = (ClusterId(0), View(u32::from(replica)));
        let author = Author { cluster, view, replica: ReplicaIndex(replica), incarnation: 0 };
        Message::new(&author, reply, body)
    }

    #[test]
    fn the_same_reply_passes_whoever_sends_it() {
        let mut replies = Replies::default();
        assert!(replies.report().vacuous);
        replies.on_reply(&message(0, reply(), b"a")).unwrap();
        assert_eq!((replies.report().compared, replies.report().vacuous), (0, false));
        replies.on_reply(&message(2, reply(), b"a")).unwrap();
        replies.on_reply(&message(2, Reply { request: 3, ..reply() }, b"b")).unwrap();
        replies.on_reply(&message(2, Reply { session: 8, ..reply() }, b"b")).unwrap();
        replies.on_reply(&message(2, Reply { client: ClientId(8), ..reply() }, b"b")).unwrap();
        assert_eq!((replies.report().compared, replies.report().failure), (1, None));
    }

    #[test]
    fn another_reply_does_not() {
        let wrong = |other: Reply, body: &[u8]| {
            let mut replies = Replies::default();
            replies.on_reply(&message(0, reply(), b"a")).unwrap();
            let error = replies.on_reply(&message(1, other, body)).unwrap_err();
            assert_eq!(replies.report().failure, Some(error));
        };
        wrong(reply(), b"b");
        wrong(reply(), b"aa");
        wrong(Reply { op: 10, ..reply() }, b"a");
        wrong(Reply { timestamp: 101, ..reply() }, b"a");
        wrong(Reply { request_checksum: 2, ..reply() }, b"a");
        wrong(Reply { result: 1, ..reply() }, b"a");
        wrong(Reply { operation: Operation::Deregister as u8, ..reply() }, b"a");
    }

    #[test]
    fn what_is_not_stored_may_differ() {
        let mut replies = Replies::default();
        let query = Reply { session: 0, operation: Operation::Query as u8, ..reply() };
        replies.on_reply(&message(0, query, b"a")).unwrap();
        replies.on_reply(&message(0, query, b"b")).unwrap();
        let register = Reply { request: 0, operation: Operation::Register as u8, ..reply() };
        replies.on_reply(&message(0, register, b"")).unwrap();
        replies.on_reply(&message(0, Reply { timestamp: 200, ..register }, b"")).unwrap();
        assert!(replies.on_reply(&message(0, Reply { op: 10, ..register }, b"")).is_err());
        let (cluster, view, replica) = (ClusterId(0), View(0), ReplicaIndex(0));
        let author = Author { cluster, view, replica, incarnation: 0 };
        let ping = PingClient { client: ClientId(7), timestamp_monotonic: 1 };
        let other = Message::new(&author, ping, b"");
        replies.on_reply(&other).unwrap();
    }
}
