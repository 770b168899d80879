//! F5: the receiving half of the bus: accepting, reading fairly, and knowing who is who.
//!
//! ```text
//!   accept  ->  ready_unknown --- first message ---> ready_replicas, ready_clients
//!
//!   receive:  replicas  ->  unknown  ->  clients (unless paused)
//!             each class has its own allowance; each connection its turn
//! ```
//!
//! A connection is taken from the front of its queue, read for one turn, and put back at the end if
//! there may be more, so that none waits for another's flood. A client has one turn in a call.
//!
//! **Invariants:** an edge is forgotten only at `WouldBlock`; every turn consumes allowance or
//! leaves the connection drained, so a call ends; a message is delivered only after its sender was
//! judged.
//!
//! **Not here:** sending, closing.

use super::connection::{Class, ConnectionId, State};
use super::peer::{Peer, identify};
use super::{CLIENT_QUEUE_COUNT_MAX, MessageBus, Received};
use crate::io::IO;
use crate::wire::{Header, Invalid, ReplicaIndex};
use std::io::{Error, ErrorKind};

/// Connections accepted in one call, failed attempts included.
const ACCEPTS_MAX: u32 = 64;
/// Failed attempts to accept in one call; then it rests until the next tick.
const ACCEPT_FAILURES_MAX: u32 = 8;
/// An unknown peer has this long to speak before others' lack of descriptors ends it, in ticks.
const GRACE_TICKS: u64 = 100;
/// How long no client is closed again for others, after none was idle, in ticks.
const RECLAIM_TICKS: u64 = 16;
/// Idle clients remembered from one look at all of them.
const IDLE_COUNT_MAX: usize = 64;
/// What one read costs at least, in bytes of the allowance, so that drops are bounded too.
const READ_COST_MIN: usize = 256;

/// What may be read.
#[derive(Debug, Clone, Copy)]
struct Allowance {
    messages: usize,
    bytes: usize,
}

/// Of all replicas in one call.
const REPLICAS: Allowance = Allowance { messages: 1024, bytes: 8 << 20 };
/// Of all unknown peers in one call.
const UNKNOWN: Allowance = Allowance { messages: 256, bytes: 2 << 20 };
/// Of all clients in one call.
const CLIENTS: Allowance = Allowance { messages: 1024, bytes: 4 << 20 };
/// Of one connection in one turn.
const TURN: Allowance = Allowance { messages: 64, bytes: 256 << 10 };
/// Of a client in one turn. One that waits for its answers has one request in flight: whoever sends
/// more does not take more of a turn than its queue has room for answers.
const TURN_CLIENT: Allowance = Allowance { messages: CLIENT_QUEUE_COUNT_MAX, bytes: TURN.bytes };

impl Allowance {
    fn is_spent(&self) -> bool {
        self.messages == 0 || self.bytes == 0
    }

    /// Takes `size` bytes, or what is left.
    fn spend_bytes(&mut self, size: usize) {
        self.bytes = self.bytes.saturating_sub(size.max(READ_COST_MIN));
    }

    /// The part of this that one connection may take.
    fn turn(&self, class: Class) -> Self {
        let turn = if class == Class::Client { TURN_CLIENT } else { TURN };
        Self { messages: self.messages.min(turn.messages), bytes: self.bytes.min(turn.bytes) }
    }
}

/// How a turn of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// There is nothing more, or it waits for memory.
    Drained,
    /// There may be more.
    More,
    /// It was closed.
    Closed,
}

impl MessageBus {
    /// Accepts who knocks and appends what was received to `received`: from replicas first, then
    /// from peers not known yet, then from clients; fairly, and up to a bound. True when more may
    /// be waiting: then call again in the next turn, without sleeping before it.
    pub fn receive<I: IO>(&mut self, io: &mut I, received: &mut Vec<Received>) -> bool {
        self.accept(io);
        self.receive_class(io, Class::Replica, REPLICAS, received);
        self.receive_class(io, Class::Unknown, UNKNOWN, received);
        if !self.clients_are_paused {
            self.resume_stalled();
            self.receive_class(io, Class::Client, CLIENTS, received);
            self.resume_stalled();
        }
        self.invariants();
        self.has_more()
    }

    /// Whether [`Self::receive`] has something to do without another event.
    pub fn has_more(&self) -> bool {
        self.is_accept_ready
            || !self.ready_replicas.is_empty()
            || !self.ready_unknown.is_empty()
            || (!self.clients_are_paused && !self.ready_clients.is_empty())
    }

    fn receive_class<I: IO>(
        &mut self,
        io: &mut I,
        class: Class,
        mut allowance: Allowance,
        received: &mut Vec<Received>,
    ) {
        // A client has one turn in a call: what it said has to be judged before more of it is read.
        let mut turns = if class == Class::Client { self.ready(class).len() } else { usize::MAX };
        while turns > 0 && !allowance.is_spent() {
            let Some(id) = self.ready(class).pop_front() else { break };
            turns -= 1;
            let connection = self.connections.get_mut(&id).expect("closing takes it out");
            assert!(connection.is_ready);
            assert_eq!(connection.class(), class);
            connection.is_ready = false;
            if self.take_turn(io, id, &mut allowance, received) == Turn::More {
                // The class may be another by now: a client that is paused keeps its place there.
                let connection = self.connections.get_mut(&id).expect("not closed");
                connection.is_ready = true;
                let class = connection.class();
                self.ready(class).push_back(id);
            }
        }
    }

    /// Reads from one connection until it has no more or its turn is over.
    fn take_turn<I: IO>(
        &mut self,
        io: &mut I,
        id: ConnectionId,
        allowance: &mut Allowance,
        received: &mut Vec<Received>,
    ) -> Turn {
        let connection = self.connections.get_mut(&id).expect("not closed");
        let class = connection.class();
        if connection.has_to_wait() {
            connection.is_parked = true;
            return Turn::Drained;
        }
        let mut turn = allowance.turn(class);
        while !turn.is_spent() {
            let connection = self.connections.get_mut(&id).expect("not closed");
            match connection.receiver.next() {
                Ok(Some(message)) => {
                    connection.on_message(self.tick);
                    turn.messages -= 1;
                    allowance.messages -= 1;
                    let class = connection.class();
                    self.release_body(id);
                    if !self.judge(io, id, message.header()) {
                        return Turn::Closed;
                    }
                    let peer = self.connections[&id].peer;
                    self.counters.messages_received += 1;
                    received.push(Received { message, peer, connection: id });
                    if self.connections[&id].class() != class {
                        return Turn::More;
                    }
                }
                Ok(None) => {
                    if !self.grant(io, id) || !self.connections[&id].readable {
                        return Turn::Drained;
                    }
                    match self.read(io, id) {
                        Some(size) => {
                            turn.spend_bytes(size);
                            allowance.spend_bytes(size);
                        }
                        None => return Turn::Closed,
                    }
                }
                Err(invalid) => {
                    self.close_invalid(io, id, invalid);
                    return Turn::Closed;
                }
            }
        }
        Turn::More
    }

    /// One read. How many bytes came, 0 at `WouldBlock`; `None` if the connection was closed.
    fn read<I: IO>(&mut self, io: &mut I, id: ConnectionId) -> Option<usize> {
        let connection = self.connections.get_mut(&id).expect("not closed");
        let State::Connected(socket) = connection.state else { panic!("it is readable") };
        match io.recv(socket, connection.receiver.space()) {
            Ok(0) => {
                self.note_dismissed(id);
                self.close(io, id, "the peer closed");
            }
            Ok(size) => {
                connection.on_received(size, self.tick);
                self.counters.bytes_received += size as u64;
                return Some(size);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                connection.readable = false;
                return Some(0);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Some(0),
            Err(error) => {
                log::debug!("{}: receive: {error}", self.config.identity);
                self.note_dismissed(id);
                self.close(io, id, "receiving failed");
            }
        }
        None
    }

    /// A replica that takes a connection, hears who it is, and closes it without a word has found
    /// the first message to be none of its own: it logs why, and only this process can tell here.
    fn note_dismissed(&mut self, id: ConnectionId) {
        let connection = &self.connections[&id];
        if !connection.is_unanswered() {
            return;
        }
        self.counters.dismissed += 1;
        if let Some(suppressed) = self.log_mismatch.admit(self.tick) {
            let identity = self.config.identity;
            let address = connection.address;
            log::warn!(
                "{identity}: receive: {address} closed without an answer (another cluster, \
                 protocol or order of the addresses? its log says why) suppressed={suppressed}"
            );
        }
    }

    /// Gives a large frame its memory, if one waits for it. False if there is none to give: then
    /// the connection is stalled.
    fn grant<I: IO>(&mut self, io: &mut I, id: ConnectionId) -> bool {
        let connection = self.connections.get_mut(&id).expect("not closed");
        let Some(size) = connection.receiver.wants().map(|header| header.size as usize) else {
            return true;
        };
        assert_eq!(connection.charged, 0);
        match connection.class() {
            Class::Replica => connection.receiver.grant(),
            Class::Unknown => {
                // Not to be kept waiting: it may be a replica.
                while !self.unknown_bodies.fits(size) {
                    self.reclaim_unknown_body(io, id);
                }
                self.charge(id, size);
            }
            Class::Client => {
                if !self.stalled.is_empty() || !self.client_bodies.fits(size) {
                    connection.is_stalled = true;
                    self.stalled.push_back(id);
                    self.counters.stalled += 1;
                    return false;
                }
                self.charge(id, size);
            }
        }
        true
    }

    fn charge(&mut self, id: ConnectionId, size: usize) {
        let connection = self.connections.get_mut(&id).expect("not closed");
        match connection.class() {
            Class::Replica => unreachable!("replicas are not charged"),
            Class::Unknown => self.unknown_bodies.charge(size),
            Class::Client => self.client_bodies.charge(size),
        }
        connection.charged = size;
        connection.receiver.grant();
        assert_eq!(connection.receiver.granted() as usize, size);
    }

    /// Lets stalled clients go on for which there is memory again, in their order.
    fn resume_stalled(&mut self) {
        while let Some(&id) = self.stalled.front() {
            let connection = self.connections.get_mut(&id).expect("closing takes it out");
            assert!(connection.is_stalled);
            let header = connection.receiver.wants().expect("that is why it is stalled");
            let size = header.size as usize;
            if !self.client_bodies.fits(size) {
                break;
            }
            self.stalled.pop_front();
            connection.is_stalled = false;
            connection.hold_frame_clock(self.tick);
            self.charge(id, size);
            self.mark_ready(id);
        }
    }

    /// Closes the oldest unknown peer, other than `id`, that holds memory for a body.
    fn reclaim_unknown_body<I: IO>(&mut self, io: &mut I, id: ConnectionId) {
        let holds = |other: &&ConnectionId| **other != id && self.connections[other].charged > 0;
        let oldest = *self.unknown.iter().find(holds).expect("one message fits the budget");
        self.counters.reclaimed += 1;
        self.close(io, oldest, "its memory is needed");
    }

    /// Judges the sender of a valid message. False if the connection was closed.
    fn judge<I: IO>(&mut self, io: &mut I, id: ConnectionId, header: &Header) -> bool {
        let connection = &self.connections[&id];
        let known = connection.peer;
        let peer = match identify(known, header, self.config.identity, self.replica_count) {
            Ok(peer) => peer,
            Err(reason) => {
                self.close_misidentified(io, id, header, reason);
                return false;
            }
        };
        if let Some(replica) = connection.dialled {
            self.dials[replica.index()].succeeded();
        }
        match peer {
            Some(peer) if known.is_none() => self.introduce(io, id, peer),
            _ => {
                assert_eq!(peer, known);
                true
            }
        }
    }

    /// Enters an unknown connection as that of `peer`. False if it was closed instead.
    fn introduce<I: IO>(&mut self, io: &mut I, id: ConnectionId, peer: Peer) -> bool {
        assert!(self.unknown.contains(&id));
        let other = match peer {
            Peer::Replica(replica) => self.replicas[replica.index()],
            Peer::Client(client) => self.clients.get(&client).copied(),
        };
        if let (Some(other), Peer::Replica(replica)) = (other, peer)
            && other < id
            && self.connections[&other].is_alive(self.tick)
        {
            self.close_usurper(io, id, replica);
            return false;
        }
        if let Some(other) = other {
            self.counters.superseded += 1;
            if other > id {
                // What the peer had said before it began anew was read late.
                self.close(io, id, "there is a newer connection of this peer");
                return false;
            }
            self.close(io, other, "there is a newer connection of this peer");
        }
        if matches!(peer, Peer::Client(_))
            && self.clients.len() >= self.clients_max()
            && !self.reclaim_idle(io)
        {
            self.counters.refused += 1;
            self.close(io, id, "too many clients");
            return false;
        }
        self.unknown.remove(&id);
        self.connections.get_mut(&id).expect("not closed").peer = Some(peer);
        match peer {
            Peer::Replica(replica) => self.replicas[replica.index()] = Some(id),
            Peer::Client(client) => {
                self.clients.insert(client, id);
            }
        }
        log::debug!("{}: receive: {peer} is here", self.config.identity);
        true
    }

    /// Who says to be a replica that is there already is not let in: it may be anybody. The replica
    /// itself, if its end of the old connection is gone, dials again until this one is silent.
    fn close_usurper<I: IO>(&mut self, io: &mut I, id: ConnectionId, replica: ReplicaIndex) {
        self.counters.usurpers += 1;
        if let Some(suppressed) = self.log_mismatch.admit(self.tick) {
            let identity = self.config.identity;
            let address = self.connections[&id].address;
            log::warn!(
                "{identity}: receive: closing {address} (it says to be replica {replica}, which \
                 is connected already) suppressed={suppressed}"
            );
        }
        self.close(io, id, "its replica is connected already");
    }

    /// Closes a client that has been idle for long. False if none is.
    fn reclaim_idle<I: IO>(&mut self, io: &mut I) -> bool {
        if self.idle.is_empty() && self.tick >= self.reclaim_tick {
            self.find_idle();
        }
        while let Some(id) = self.idle.pop_front() {
            // It may be gone, or have woken up since.
            if self.connections.get(&id).is_some_and(|connection| connection.is_idle(self.tick)) {
                self.counters.reclaimed += 1;
                self.close(io, id, "idle, and its place is needed");
                return true;
            }
        }
        false
    }

    /// Looks for idle clients among all.
    fn find_idle(&mut self) {
        let mut idle = Vec::new();
        for id in self.clients.values() {
            let connection = &self.connections[id];
            if connection.is_idle(self.tick) {
                idle.push((connection.message, *id));
            }
        }
        idle.sort_unstable();
        if idle.is_empty() {
            self.reclaim_tick = self.tick + RECLAIM_TICKS;
        }
        self.idle.clear();
        self.idle.extend(idle.into_iter().take(IDLE_COUNT_MAX).map(|(_, id)| id));
    }

    /// Closes somebody, so that there is a descriptor: the next to be accepted may be a replica.
    fn reclaim_descriptor<I: IO>(&mut self, io: &mut I) {
        let opened = |id: &ConnectionId| self.connections[id].opened;
        if let Some(&oldest) = self.unknown.first()
            && self.tick - opened(&oldest) > GRACE_TICKS
        {
            self.counters.reclaimed += 1;
            return self.close(io, oldest, "unknown, and its descriptor is needed");
        }
        if self.tick < self.reclaim_tick || self.reclaim_idle(io) {
            return;
        }
        // None is idle. One after the other then, and not all at once.
        self.reclaim_tick = self.tick + RECLAIM_TICKS;
        let silent = self.clients.values().min_by_key(|id| (self.connections[*id].message, **id));
        if let Some(&id) = silent {
            self.counters.reclaimed += 1;
            self.close(io, id, "its descriptor is needed");
        }
    }

    fn accept<I: IO>(&mut self, io: &mut I) {
        let Some(listener) = self.listener else { return };
        let mut failures = 0;
        for _ in 0..ACCEPTS_MAX {
            if !self.is_accept_ready {
                break;
            }
            match io.accept(listener) {
                Ok((socket, address)) => {
                    self.counters.accepted += 1;
                    if self.clients.len() + self.unknown.len()
                        >= self.config.connections_max as usize
                    {
                        // Clients leave some room, so there is one.
                        let oldest = *self.unknown.first().expect("clients leave room");
                        self.counters.reclaimed += 1;
                        self.close(io, oldest, "unknown, and its place is needed");
                    }
                    let id = self.open(State::Connected(socket), address, None);
                    let before = self.sockets.insert(socket, id);
                    assert_eq!(before, None);
                    self.unknown.insert(id);
                    self.mark_ready(id);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_accept_ready = false,
                Err(error) => {
                    failures += 1;
                    self.accept_failed(io, &error);
                    if failures == ACCEPT_FAILURES_MAX {
                        self.is_accept_ready = false;
                        self.is_accept_failed = true;
                    }
                }
            }
        }
    }

    /// An attempt to accept failed: for that one connection, or for want of descriptors. Then the
    /// next may be a replica, so room is made for it.
    fn accept_failed<I: IO>(&mut self, io: &mut I, error: &Error) {
        self.counters.accept_failed += 1;
        if let Some(suppressed) = self.log_accept.admit(self.tick) {
            let identity = self.config.identity;
            log::warn!("{identity}: accept: failed ({error}) suppressed={suppressed}");
        }
        let concerns_one = matches!(
            error.kind(),
            ErrorKind::ConnectionAborted
                | ErrorKind::ConnectionReset
                | ErrorKind::TimedOut
                | ErrorKind::HostUnreachable
                | ErrorKind::NetworkUnreachable
                | ErrorKind::NetworkDown
                | ErrorKind::Interrupted
        );
        if !concerns_one {
            self.reclaim_descriptor(io);
        }
    }

    fn close_invalid<I: IO>(&mut self, io: &mut I, id: ConnectionId, invalid: Invalid) {
        self.counters.invalid += 1;
        let limit = match invalid {
            Invalid::Protocol(_) | Invalid::Cluster { .. } => &mut self.log_mismatch,
            _ => &mut self.log_invalid,
        };
        if let Some(suppressed) = limit.admit(self.tick) {
            let identity = self.config.identity;
            let address = self.connections[&id].address;
            log::warn!(
                "{identity}: receive: closing {address} ({invalid}) suppressed={suppressed}"
            );
        }
        self.close(io, id, "what it sent is not a message");
    }

    fn close_misidentified<I: IO>(
        &mut self,
        io: &mut I,
        id: ConnectionId,
        header: &Header,
        reason: &str,
    ) {
        self.counters.misidentified += 1;
        if let Some(suppressed) = self.log_mismatch.admit(self.tick) {
            let identity = self.config.identity;
            let address = self.connections[&id].address;
            let command = header.command.name();
            let replica = header.replica;
            log::warn!(
                "{identity}: receive: closing {address} ({reason}) command={command} \
                 replica={replica} suppressed={suppressed}"
            );
        }
        self.close(io, id, "its message is somebody else's");
    }
}
