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
                "replica {} answers a request anew: {reply:?} ({} bytes) after {known:?} ({} bytes)",
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
