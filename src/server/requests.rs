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
//! and answers it when it executes it; nothing here changes the sessions.

use super::Server;
use crate::bus::Peer;
use crate::replica::executor::{Admission, ClientReply};
use crate::replica::{NotGathered, Route, is_recover};
use crate::state_machine::StateMachine;
use crate::stdx::defect;
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
}

/// How many are remembered. One more, and all are forgotten: their clients ask again.
const FORWARDED_MAX: usize = 4096;

impl Forwarded {
    fn note(&mut self, request: &Request) {
        let is_known = self.requests.contains_key(&request.client);
        if !is_known && self.requests.len() == FORWARDED_MAX {
            self.requests.clear();
        }
        self.requests.insert(request.client, request.request);
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
            Route::Ignore(reason) => self.ignore(reason),
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
            Admission::Ignore(reason) => self.ignore(reason),
            Admission::Evict(_) if !self.replica.has_executed_view_log() => {
                self.ignore("the log of the view before may hold its session");
            }
            Admission::Evict(reason) => {
                let Request { client, session, .. } = header.command;
                self.send_eviction(client, session, reason);
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
                if self.bus.send(Peer::Replica(primary), message).is_ok() {
                    self.forwarded.note(&header.command);
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
        let (sessions, sync) =
            (self.executor.sessions_count(), self.executor.store().sync_progress());
        let status = self.replica.status_message(request.client, sessions, &sync);
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
        log::info!("{}: client {client} has no session {session} ({reason:?})", self.replica);
        let eviction = Eviction { client, session, reason: reason as u8 };
        let message = Message::new(&self.replica.author_for_clients(), eviction, &[]);
        let _ = self.bus.send(Peer::Client(client), &message);
    }

    fn on_not_gathered(&mut self, header: &Header<Request>, refused: NotGathered) {
        match refused {
            NotGathered::Ignore(reason) => self.ignore(reason),
            NotGathered::Reject(reason) => {
                self.replica.forget_refused(|client| self.executor.has_session(client));
                self.send_reject(&header.command, reason);
            }
        }
    }

    fn send_reject(&mut self, request: &Request, reason: RejectReason) {
        let message = self.replica.reject(request, reason);
        let _ = self.bus.send(Peer::Client(request.client), &message);
    }

    fn ignore(&self, reason: &str) {
        log::debug!("{}: on_request: ignoring ({reason})", self.replica);
    }
}
