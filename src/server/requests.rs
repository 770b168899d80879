//! F6: what clients ask: the replica says whose it is, the sessions say whether it is new, and only
//! then it gathers.
//!
//! ```text
//!   client ──► backup ──► primary ──► the log ──► executed by the primary: replies if it can
//!                 └─ remembers it                 └─ executed by the backup: replies as well
//! ```
//!
//! Who hands a request on owes its reply: the primary may have no path to the client. The stored
//! reply of a session would be there for the next copy of the request, but that of a query is
//! stored nowhere, and a query may be read at its place in the log by whoever executes the log.
//!
//! **Invariants:** only a normal primary evicts or refuses, and it evicts only once it has executed
//! the log that its view began with; a backup answers from its own table, or hands the request on
//! and answers it when it executes it; nothing here changes the sessions; a client whose request
//! comes to nothing is not read again before the next tick.

use super::Server;
use crate::bus::Peer;
use crate::replica::executor::{Admission, ClientReply};
use crate::replica::{NotGathered, Route, is_recover};
use crate::state_machine::StateMachine;
use crate::stdx::{Bound, defect};
use crate::wire::{
    ClientId, Command, Eviction, EvictionReason, Header, Message, Operation, PingClient,
    RejectReason, ReplicaIndex, Request, RequestStatus,
};
use std::collections::BTreeMap;

/// Requests that this replica handed on to a primary, and has not executed since.
#[derive(Debug, Default)]
pub(super) struct Forwarded {
    /// By client, which has one request in flight: its number.
    requests: BTreeMap<ClientId, u64>,
    /// How many were handed on in the present tick.
    in_tick: u32,
}

/// How many are remembered. One more, and all are forgotten: their clients ask again.
const FORWARDED_MAX: usize = 4096;
/// Requests that are handed on in one tick. A flood must not fill the queue to the primary, which
/// carries acknowledgements as well.
const FORWARDED_TICK_MAX: u32 = 16;
/// Queries that are remembered to be in the log. One more, and all are forgotten.
const ASKED_MAX: usize = 8192;
/// A query that was not answered for so long, in ticks (1 s), may be lost with a view.
const ASKED_TICKS_MAX: u64 = 100;
/// Bytes that queries in the log may read and answer, as far as the last ones tell: what is
/// executed at once must not take so long that this replica looks dead to its peers.
const ASKED_SIZE_MAX: u64 = 4 << 20;
/// So many queries may be in the log, whatever the last ones cost.
const ASKED_COUNT_MIN: usize = 4;

/// Queries in the log of this primary, one of each client: nothing else bounds the work that a
/// client can ask for before it takes the first answer.
#[derive(Debug, Default)]
pub(super) struct Asked {
    /// By client: the tick at which it gathered.
    queries: BTreeMap<ClientId, u64>,
    /// Bytes that a query answered or read: the last one, or of a larger one before it what has not
    /// faded yet.
    cost: u64,
}

impl Asked {
    /// How full it is.
    pub(super) fn bound(&self) -> Bound {
        Bound::new("queries_in_log", self.queries.len(), ASKED_MAX as u64)
    }

    /// Whether a query may gather at `tick`; it is remembered then.
    fn admits(&mut self, client: ClientId, tick: u64) -> bool {
        let asked = self.queries.get(&client);
        if asked.is_some_and(|since| tick - since < ASKED_TICKS_MAX) {
            return false;
        }
        let count = self.queries.len();
        if count >= ASKED_COUNT_MIN && count as u64 * self.cost >= ASKED_SIZE_MAX {
            return false;
        }
        if self.queries.len() == ASKED_MAX {
            self.queries.clear();
        }
        self.queries.insert(client, tick);
        assert!(self.queries.len() <= ASKED_MAX);
        true
    }

    /// The time goes on by a tick: what may be lost is not waited for.
    pub(super) fn on_tick(&mut self, tick: u64) {
        if tick.is_multiple_of(ASKED_TICKS_MAX / 4) {
            self.queries.retain(|_, since| tick - *since < ASKED_TICKS_MAX);
        }
    }

    /// A query was executed that read so many bytes at most: its client may ask again.
    pub(super) fn take(&mut self, reply: &ClientReply, read_size: u64) {
        if let ClientReply::Reply(reply) = reply
            && reply.operation == Operation::Query
        {
            self.queries.remove(&reply.client);
            let faded = self.cost - self.cost / 16;
            self.cost = faded.max(reply.body.len() as u64).max(read_size);
        }
    }
}

impl Forwarded {
    /// How full it is.
    pub(super) fn bound(&self) -> Bound {
        Bound::new("requests_handed_on", self.requests.len(), FORWARDED_MAX as u64)
    }

    /// The time goes on by a tick.
    pub(super) fn on_tick(&mut self) {
        self.in_tick = 0;
    }

    /// Whether one more may be handed on in this tick.
    fn has_room(&self) -> bool {
        self.in_tick < FORWARDED_TICK_MAX
    }

    fn note(&mut self, request: &Request) {
        let is_known = self.requests.contains_key(&request.client);
        if !is_known && self.requests.len() == FORWARDED_MAX {
            self.requests.clear();
        }
        self.requests.insert(request.client, request.request);
        self.in_tick += 1;
        assert!(self.in_tick <= FORWARDED_TICK_MAX);
        assert!(self.requests.len() <= FORWARDED_MAX);
    }

    /// Whether `reply` answers one of them, which then is done with.
    pub(super) fn take(&mut self, reply: &ClientReply) -> bool {
        let ClientReply::Reply(reply) = reply else { return false };
        let is_owed = self.requests.get(&reply.client) == Some(&reply.request);
        if is_owed {
            self.requests.remove(&reply.client);
        }
        is_owed
    }
}

impl<S: StateMachine> Server<S> {
    pub(super) fn on_request(&mut self, header: &Header<Request>, message: &Message) {
        match self.replica.route(header) {
            Route::Primary => self.primary_on_request(header, message),
            Route::Backup { primary } => self.backup_on_request(header, message, primary),
            Route::Reject(reason) => self.send_reject(&header.command, reason),
            Route::Ignore(reason) => self.ignore(&header.command, reason),
        }
    }

    fn primary_on_request(&mut self, header: &Header<Request>, message: &Message) {
        match self.executor.admit(header, message.body()) {
            Admission::Accept
                if defect!("deposed_primary_reads")
                    && header.command.operation == Operation::Query as u8 =>
            {
                if let Some(reply) = self.executor.answer(header, message.body()) {
                    self.send_client_reply(&ClientReply::Reply(reply));
                }
            }
            Admission::Accept
                if header.command.operation == Operation::Query as u8
                    && !self.asked.admits(header.command.client, self.ticks) =>
            {
                self.ignore(&header.command, "a query of its client is in the log already");
            }
            Admission::Accept
                if header.command.operation == Operation::Register as u8
                    && !self.replica.admits_session(self.executor.sessions_left()) =>
            {
                self.send_reject(&header.command, RejectReason::Busy);
            }
            Admission::Accept if is_recover(header) => match self.replica.gather_recover(message) {
                Ok(()) => {}
                Err(refused) => self.on_not_gathered(header, refused),
            },
            Admission::Accept => match self.replica.gather(message) {
                Ok(()) if defect!("table_at_prepare") => {
                    self.executor.enter_early(&header.command);
                }
                Ok(()) => {}
                Err(refused) => self.on_not_gathered(header, refused),
            },
            Admission::Reply(reply) => self.send_client_reply(&ClientReply::Reply(*reply)),
            Admission::Ignore(reason) => self.ignore(&header.command, reason),
            Admission::Evict(_) if !self.replica.has_executed_view_log() => {
                self.ignore(&header.command, "the log of the view before may hold its session");
            }
            Admission::Evict(reason) => {
                let Request { client, session, .. } = header.command;
                self.send_eviction(client, session, reason);
                self.bus.rest(client);
            }
            Admission::Reject(reason) => self.send_reject(&header.command, reason),
        }
    }

    /// The client cannot reach the primary, or its reply was lost on the way.
    fn backup_on_request(
        &mut self,
        header: &Header<Request>,
        message: &Message,
        primary: ReplicaIndex,
    ) {
        match self.executor.admit(header, message.body()) {
            Admission::Reply(reply) => self.send_client_reply(&ClientReply::Reply(*reply)),
            Admission::Reject(reason) => self.send_reject(&header.command, reason),
            // The table here may be behind: the primary decides.
            Admission::Accept | Admission::Evict(_) | Admission::Ignore(_) => {
                if self.forwarded.has_room()
                    && self.bus.send(Peer::Replica(primary), message).is_ok()
                {
                    self.forwarded.note(&header.command);
                } else {
                    self.bus.rest(header.command.client);
                }
            }
        }
    }

    /// Answers queries that have no place in the log, as far as what they read is in memory.
    pub(super) fn answer_queries(&mut self) {
        while let Some(query) = self.queries.front() {
            let header = query.header();
            let Command::Request(request) = header.command else {
                panic!("only requests are queries");
            };
            let reply = self.executor.answer(&header.with(request), query.body());
            let Some(reply) = reply else { return };
            self.queries.pop_front();
            self.send_client_reply(&ClientReply::Reply(reply));
        }
    }

    pub(super) fn on_ping_client(&mut self, ping: &PingClient) {
        let PingClient { client, timestamp_monotonic } = *ping;
        if let Some(pong) = self.replica.pong_client(client, timestamp_monotonic) {
            let _ = self.bus.send(Peer::Client(client), &pong);
        }
    }

    pub(super) fn on_request_status(&mut self, request: &RequestStatus) {
        let (sessions, store) = (self.executor.sessions_count(), self.executor.store());
        let status = self.replica.status_message(request.client, sessions, store);
        let _ = self.bus.send(Peer::Client(request.client), &status);
    }

    pub(super) fn send_client_reply(&mut self, reply: &ClientReply) {
        match reply {
            ClientReply::Reply(reply) => {
                let peer = Peer::Client(reply.client);
                if self.bus.is_connected(peer) {
                    let message = reply.to_message(&self.replica.author_for_clients());
                    let _ = self.bus.send(peer, &message);
                }
            }
            ClientReply::Evicted { client, session, reason } => {
                self.send_eviction(*client, *session, *reason);
            }
        }
    }

    fn send_eviction(&mut self, client: ClientId, session: u64, reason: EvictionReason) {
        // Not louder: a client may cause as many as it likes.
        log::debug!("{}: client {client} has no session {session} ({reason:?})", self.replica);
        let eviction = Eviction { client, session, reason: reason as u8 };
        let message = Message::new(&self.replica.author_for_clients(), eviction, &[]);
        let _ = self.bus.send(Peer::Client(client), &message);
    }

    fn on_not_gathered(&mut self, header: &Header<Request>, refused: NotGathered) {
        match refused {
            NotGathered::Ignore(reason) => self.ignore(&header.command, reason),
            NotGathered::Reject(reason) => {
                self.replica.forget_refused(|client| self.executor.has_session(client));
                self.send_reject(&header.command, reason);
            }
        }
    }

    fn send_reject(&mut self, request: &Request, reason: RejectReason) {
        let message = self.replica.reject(request, reason);
        let _ = self.bus.send(Peer::Client(request.client), &message);
        self.bus.rest(request.client);
    }

    fn ignore(&mut self, request: &Request, reason: &str) {
        log::debug!("{}: on_request: ignoring ({reason})", self.replica);
        self.bus.rest(request.client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_has_one_query_in_the_log_or_one_a_second() {
        let mut asked = Asked::default();
        assert!(asked.admits(ClientId(1), 5));
        assert!(!asked.admits(ClientId(1), 5));
        assert!(asked.admits(ClientId(2), 5));
        assert!(!asked.admits(ClientId(1), 4 + ASKED_TICKS_MAX));
        assert!(asked.admits(ClientId(1), 5 + ASKED_TICKS_MAX));
        for client in 10..20_000 {
            assert!(asked.admits(ClientId(client), 500));
        }
        assert!(asked.queries.len() <= ASKED_MAX);
    }

    #[test]
    fn queries_with_large_answers_are_few_at_a_time() {
        let mut asked = Asked::default();
        let answer = |client: u128, size: usize| {
            ClientReply::Reply(crate::replica::sessions::StoredReply {
                client: ClientId(client),
                session: 0,
                request: 1 << 63,
                op: 1,
                timestamp: 1,
                request_checksum: 0,
                result: 0,
                operation: Operation::Query,
                body: vec![0; size].into(),
            })
        };
        let admitted = |asked: &mut Asked, tick| {
            (1..=1000).filter(|client| asked.admits(ClientId(*client), tick)).count()
        };
        assert_eq!(admitted(&mut asked, 1), 1000);
        for client in 1..=1000 {
            asked.take(&answer(client, 1 << 20), 0);
        }
        assert_eq!(admitted(&mut asked, 1), ASKED_COUNT_MIN);
        // Those are lost with a view.
        asked.on_tick(200);
        assert_eq!(admitted(&mut asked, 200), ASKED_COUNT_MIN);
        for _ in 0..200 {
            asked.take(&answer(1, 100), 100);
        }
        asked.on_tick(400);
        assert_eq!(admitted(&mut asked, 400), 1000);
        // What reads much costs as much, whatever it answers.
        for client in 1..=1000 {
            asked.take(&answer(client, 10), 1 << 20);
        }
        assert_eq!(admitted(&mut asked, 400), ASKED_COUNT_MIN);
    }

    #[test]
    fn few_requests_are_handed_on_in_one_tick() {
        let mut forwarded = Forwarded::default();
        for client in 1..=u128::from(FORWARDED_TICK_MAX) {
            assert!(forwarded.has_room());
            let client = ClientId(client);
            forwarded.note(&Request { client, session: 1, request: 1, operation: 128 });
        }
        assert!(!forwarded.has_room());
        forwarded.on_tick();
        assert!(forwarded.has_room());
    }
}
