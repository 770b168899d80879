//! F5: the message bus: carries [`Message`]s between processes over the sockets of an [`IO`].
//!
//! ```text
//!            on_event      receive                    send          flush
//!   sockets ----------> marks                messages ---> queue ----------> sockets
//!        '--- bytes ---> Receiver --- messages -->                one vectored send each
//!                           |
//!                    who is it? (peer.rs)
//! ```
//!
//! One connection for each pair of replicas: the higher index dials the lower, again and again,
//! with back-off. A client dials a replica when it has something to send to it. There is no
//! greeting, a peer is known by its first message: so whoever dials is to speak as soon as
//! [`MessageBus::take_connected`] says that it can, or the other side has nobody to send to.
//! A replica that is sent something and says nothing for 10 s is given up and dialled anew, so
//! replicas are to exchange something more often than that: they ping each other every second.
//!
//! Delivery is best effort: while a connection is healthy its messages arrive once and in order;
//! what is queued or under way when it ends is lost, and what does not fit a queue is refused. The
//! protocol sends again.
//!
//! What is bounded, and what happens at the bound:
//!
//! | what | bound | then |
//! |---|---|---|
//! | queue to a replica | 96 messages; 8 MiB or 4 messages | the new message is dropped |
//! | queue to a client | 4 messages; 256 KiB or 1 message | the same; closed when full for 10 s |
//! | queues to all clients | [`BusConfig::queue_size_max`] | the new message is dropped |
//! | bodies half received, of clients | [`BusConfig::body_size_max`] | they wait, in order |
//! | the same, of unknown peers | a quarter of it, or 1 message | the oldest other is closed |
//! | the same, of replicas | one each | |
//! | a client that does not read | one message | it is not read before it has |
//! | a client that asks in vain | 4 messages in a tick | it is not read before the next tick |
//! | clients and unknown peers | [`BusConfig::connections_max`] | the oldest unknown is closed |
//! | clients | that, less an eighth | an idle one is closed, or else the new one |
//! | one call of `receive` | messages and bytes of each class | it says that there is more |
//!
//! Of two connections of one client the newer stays; of two of one replica the older, as long as it
//! is heard and believed ([`MessageBus::set_doubted`]): a stranger cannot cut replicas off from
//! each other by saying to be one of them.
//!
//! So no flood of clients keeps a replica out: connections of replicas are not counted, and a
//! newcomer that may yet turn out to be one always finds a place, memory, and a reader.
//!
//! **Invariants:** a connection is in the table of its peer if and only if it is identified, and
//! there is one for each peer; the error of a connection closes that connection and
//! nothing else; no method but those that are given `io` touches a socket; the same calls and
//! events in the same order do the same.
//!
//! **Not here:** what messages mean; resending; names of hosts; time, but for ticks of 10 ms.

mod connection;
mod counters;
mod dial;
mod peer;
mod receive;
mod send_queue;

#[cfg(test)]
mod soak_tests;
#[cfg(test)]
mod test_io;
#[cfg(test)]
mod test_process;
#[cfg(test)]
mod tests;

pub use connection::ConnectionId;
pub use counters::Counters;
pub use peer::{Identity, Peer};

use crate::constants::{HEADER_SIZE, PIPELINE_MAX, REPLICAS_MAX};
use crate::io::{IO, SocketId};
use crate::stdx::Prng;
use crate::wire::{ClientId, ClusterId, Message, Receiver, ReplicaIndex};
use connection::{Class, Connection, State};
use counters::LogLimit;
use dial::Dial;
use send_queue::{Limits, SLICES_MAX};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;

/// How often connections are looked at for being overdue, in ticks.
const SWEEP_TICKS: u64 = 16;
/// Messages that may wait for one replica: what a pipeline in full and a view change can bring.
const REPLICA_QUEUE_COUNT_MAX: usize = 2 * PIPELINE_MAX as usize + 32;
/// Bytes that may wait for one replica, if that is more than four of the largest messages.
const REPLICA_QUEUE_SIZE_MAX: usize = 8 << 20;
/// Messages that may wait for one client, which has one request in flight.
const CLIENT_QUEUE_COUNT_MAX: usize = 4;
/// Bytes that may wait for one client, if that is more than the largest message.
const CLIENT_QUEUE_SIZE_MAX: usize = 256 << 10;

/// What a bus is made of.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// Who this process is.
    pub identity: Identity,
    /// The cluster; messages of any other end their connection.
    pub cluster: ClusterId,
    /// Where the replicas listen, by replica index. All of them: their count is the cluster's.
    pub addresses: Vec<SocketAddr>,
    /// The largest message, in bytes, header included.
    pub message_size_max: u32,
    /// Connections to clients and to peers not known yet, together. At least 2.
    pub connections_max: u32,
    /// Bytes of memory for the bodies (above 4 KiB) of clients that are half received.
    pub body_size_max: usize,
    /// Bytes of messages that may wait for all clients together.
    pub queue_size_max: usize,
}

impl BusConfig {
    /// A configuration with the default bounds: 4096 + 256 connections, 32 MiB each of bodies and
    /// queues (or eight messages, if that is more).
    pub fn new(
        identity: Identity,
        cluster: ClusterId,
        addresses: Vec<SocketAddr>,
        message_size_max: u32,
    ) -> Self {
        let memory = (32 << 20).max(8 * message_size_max as usize);
        Self {
            identity,
            cluster,
            addresses,
            message_size_max,
            connections_max: 4096 + 256,
            body_size_max: memory,
            queue_size_max: memory,
        }
    }
}

/// A message that came.
#[derive(Debug, Clone)]
pub struct Received {
    /// The message: valid, of this cluster.
    pub message: Message,
    /// Who sent it (not necessarily its author), if that is known.
    pub peer: Option<Peer>,
    /// Over which connection.
    pub connection: ConnectionId,
}

/// Why a message was not queued. It is gone; the protocol sends again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// There is no connection to the peer, nor one under way.
    NotConnected,
    /// Too much waits already.
    Full,
}

/// A bound on bytes, and what of it is in use.
#[derive(Debug)]
struct Budget {
    used: usize,
    max: usize,
}

impl Budget {
    fn new(max: usize) -> Self {
        Self { used: 0, max }
    }

    fn fits(&self, size: usize) -> bool {
        self.used + size <= self.max
    }

    fn charge(&mut self, size: usize) {
        assert!(self.fits(size));
        self.used += size;
    }

    fn release(&mut self, size: usize) {
        assert!(size <= self.used);
        self.used -= size;
    }
}

/// See the module.
#[derive(Debug)]
pub struct MessageBus {
    config: BusConfig,
    replica_count: u8,
    prng: Prng,
    tick: u64,

    listener: Option<SocketId>,
    /// The listener may have connections to accept.
    is_accept_ready: bool,
    /// It failed in between: to be tried again at the next tick.
    is_accept_failed: bool,

    connections: BTreeMap<ConnectionId, Connection>,
    connection_next: u64,
    sockets: BTreeMap<SocketId, ConnectionId>,
    /// By replica index.
    replicas: Vec<Option<ConnectionId>>,
    clients: BTreeMap<ClientId, ConnectionId>,
    /// Accepted and not identified yet, the oldest first.
    unknown: BTreeSet<ConnectionId>,
    /// By replica index.
    dials: Vec<Dial>,
    /// A bit for each replica that was dialled and has accepted, since that was last asked for.
    connected: u8,
    /// A bit for each replica that was dialled in vain, since that was last asked for.
    refused: u8,

    /// The connections with something to read, by class, each once, in the order of service.
    ready_replicas: VecDeque<ConnectionId>,
    ready_unknown: VecDeque<ConnectionId>,
    ready_clients: VecDeque<ConnectionId>,
    /// The clients that wait for memory, in order.
    stalled: VecDeque<ConnectionId>,
    /// The clients that are not read in this tick any more. Some may be closed by now.
    resting: Vec<ConnectionId>,
    /// The connections to flush, each once.
    to_flush: Vec<ConnectionId>,

    client_bodies: Budget,
    unknown_bodies: Budget,
    client_queues: Budget,
    clients_are_paused: bool,
    /// No client is looked for to be closed before this tick: they are not all to be looked at, nor
    /// one after the other closed, for each newcomer.
    reclaim_tick: u64,
    /// Some clients that were idle when all were looked at, the longest first.
    idle: VecDeque<ConnectionId>,

    counters: Counters,
    log_invalid: LogLimit,
    log_mismatch: LogLimit,
    log_accept: LogLimit,
}

impl MessageBus {
    /// A bus without connections. `prng` gives the jitter of its dialling: another for each
    /// process, so that peers do not dial in step.
    pub fn new(config: BusConfig, prng: Prng) -> Self {
        let replica_count = u8::try_from(config.addresses.len()).expect("a handful of replicas");
        assert!((1..=REPLICAS_MAX).contains(&replica_count));
        assert!(config.message_size_max >= HEADER_SIZE);
        assert!(config.connections_max >= 2);
        if let Identity::Replica(own) = config.identity {
            assert!(own.0 < replica_count);
        }
        let message_size_max = config.message_size_max as usize;
        let mut dials: Vec<Dial> = (0..replica_count).map(|_| Dial::default()).collect();
        if let Identity::Replica(own) = config.identity {
            dials[..own.index()].iter_mut().for_each(|dial| dial.wanted = true);
        }
        Self {
            replica_count,
            prng,
            tick: 0,
            listener: None,
            is_accept_ready: false,
            is_accept_failed: false,
            connections: BTreeMap::new(),
            connection_next: 0,
            sockets: BTreeMap::new(),
            replicas: vec![None; usize::from(replica_count)],
            clients: BTreeMap::new(),
            unknown: BTreeSet::new(),
            dials,
            connected: 0,
            refused: 0,
            ready_replicas: VecDeque::new(),
            ready_unknown: VecDeque::new(),
            ready_clients: VecDeque::new(),
            stalled: VecDeque::new(),
            resting: Vec::new(),
            to_flush: Vec::new(),
            client_bodies: Budget::new(config.body_size_max.max(message_size_max)),
            unknown_bodies: Budget::new((config.body_size_max / 4).max(message_size_max)),
            client_queues: Budget::new(config.queue_size_max.max(message_size_max)),
            clients_are_paused: false,
            reclaim_tick: 0,
            idle: VecDeque::new(),
            counters: Counters::default(),
            log_invalid: LogLimit::default(),
            log_mismatch: LogLimit::default(),
            log_accept: LogLimit::default(),
            config,
        }
    }

    /// Listens for replicas and clients, and returns the address in force. Once, and for a replica.
    ///
    /// # Errors
    /// Those of [`IO::listen`].
    pub fn listen<I: IO>(
        &mut self,
        io: &mut I,
        address: SocketAddr,
    ) -> std::io::Result<SocketAddr> {
        assert!(self.listener.is_none());
        assert!(matches!(self.config.identity, Identity::Replica(_)));
        let (listener, address) = io.listen(address)?;
        self.listener = Some(listener);
        self.is_accept_ready = true;
        Ok(address)
    }

    /// Whether events of `socket` are for this bus.
    pub fn owns(&self, socket: SocketId) -> bool {
        self.listener == Some(socket) || self.sockets.contains_key(&socket)
    }

    /// The time goes on by a tick: dials who is to be dialled, closes who is overdue.
    pub fn tick<I: IO>(&mut self, io: &mut I) {
        self.tick += 1;
        self.resume_resting();
        if self.is_accept_failed {
            self.is_accept_failed = false;
            self.is_accept_ready = self.listener.is_some();
        }
        for replica in 0..self.replica_count {
            let replica = ReplicaIndex(replica);
            let dial = &self.dials[replica.index()];
            if dial.wanted && dial.is_due(self.tick) && self.replicas[replica.index()].is_none() {
                let id = self.dial(replica);
                self.connect(io, id);
            }
        }
        if self.tick.is_multiple_of(SWEEP_TICKS) {
            self.sweep(io);
        }
        self.invariants();
    }

    /// The replicas that were dialled and have accepted since the last call: they do not know yet
    /// who it was.
    pub fn take_connected(&mut self) -> impl Iterator<Item = ReplicaIndex> + use<> {
        let connected = std::mem::take(&mut self.connected);
        (0..self.replica_count).filter(move |index| connected >> index & 1 == 1).map(ReplicaIndex)
    }

    /// A bit for each replica that was dialled in vain since the last call: nobody listens there,
    /// or the network says that it cannot be reached.
    pub fn take_refused(&mut self) -> u8 {
        std::mem::take(&mut self.refused)
    }

    /// Notes what an event says of a socket that this bus [`Self::owns`]; events of others are
    /// ignored. Nothing is read or sent here.
    pub fn on_event<I: IO>(
        &mut self,
        io: &mut I,
        socket: SocketId,
        readable: bool,
        writable: bool,
    ) {
        if self.listener == Some(socket) {
            self.is_accept_ready |= readable;
            return;
        }
        let Some(&id) = self.sockets.get(&socket) else { return };
        let connection = self.connections.get_mut(&id).expect("a socket has its connection");
        if matches!(connection.state, State::Connecting(_)) {
            match io.connected(socket) {
                Ok(false) => return,
                Ok(true) => {
                    connection.on_connected(self.tick);
                    let replica = connection.dialled.expect("it was connecting");
                    self.connected |= 1 << replica.0;
                }
                Err(error) => {
                    log::debug!("{}: connect: {error}", self.config.identity);
                    let replica = connection.dialled.expect("it was connecting");
                    self.refused |= 1 << replica.0;
                    self.close(io, id, "the connect failed");
                    return;
                }
            }
        } else {
            connection.readable |= readable;
            connection.writable |= writable;
        }
        self.mark_ready(id);
        self.mark_to_flush(id);
    }

    /// Queues a shared reference to `message` for `peer`. It leaves with [`Self::flush`]. A client
    /// that sends to a replica it has no connection to thereby dials it.
    ///
    /// # Errors
    /// The message was dropped: see [`Dropped`].
    pub fn send(&mut self, peer: Peer, message: &Message) -> Result<(), Dropped> {
        assert!(message.header().size <= self.config.message_size_max);
        let result = self.enqueue(peer, message);
        if let Err(dropped) = result {
            match dropped {
                Dropped::NotConnected => self.counters.dropped_not_connected += 1,
                Dropped::Full => self.counters.dropped_full += 1,
            }
            let command = message.header().command.name();
            log::debug!(
                "{}: send: dropped {command} to {peer} ({dropped:?})",
                self.config.identity
            );
        }
        result
    }

    fn enqueue(&mut self, peer: Peer, message: &Message) -> Result<(), Dropped> {
        let id = match peer {
            Peer::Client(client) => {
                assert!(matches!(self.config.identity, Identity::Replica(_)));
                *self.clients.get(&client).ok_or(Dropped::NotConnected)?
            }
            Peer::Replica(replica) => {
                assert_ne!(self.config.identity, Identity::Replica(replica));
                self.replica_or_dial(replica).ok_or(Dropped::NotConnected)?
            }
        };
        let size = message.header().size as usize;
        let limits = self.limits(peer);
        let connection = self.connections.get_mut(&id).expect("a peer has its connection");
        let is_client = connection.class() == Class::Client;
        if connection.queue.is_empty() {
            connection.sent = self.tick;
        }
        if (is_client && !self.client_queues.fits(size)) || !connection.queue.push(message, &limits)
        {
            if !connection.queue.is_empty() {
                connection.full.get_or_insert(self.tick);
            }
            return Err(Dropped::Full);
        }
        if is_client {
            self.client_queues.charge(size);
        }
        self.mark_to_flush(id);
        Ok(())
    }

    /// The connection to `replica`; for a client that has none, a new one if it may dial now.
    fn replica_or_dial(&mut self, replica: ReplicaIndex) -> Option<ConnectionId> {
        assert!(replica.0 < self.replica_count);
        if let Some(id) = self.replicas[replica.index()] {
            return Some(id);
        }
        if !matches!(self.config.identity, Identity::Client(_)) {
            return None;
        }
        if self.dials[replica.index()].is_due(self.tick) {
            return Some(self.dial(replica));
        }
        self.dials[replica.index()].wanted = true;
        None
    }

    fn limits(&self, peer: Peer) -> Limits {
        let message_size_max = self.config.message_size_max as usize;
        match peer {
            Peer::Replica(_) => Limits {
                count_max: REPLICA_QUEUE_COUNT_MAX,
                size_max: REPLICA_QUEUE_SIZE_MAX.max(4 * message_size_max),
            },
            Peer::Client(_) => Limits {
                count_max: CLIENT_QUEUE_COUNT_MAX,
                size_max: CLIENT_QUEUE_SIZE_MAX.max(message_size_max),
            },
        }
    }

    /// Sends what waits, as far as the sockets take it: one vectored send for each connection, or
    /// more if the socket takes less.
    pub fn flush<I: IO>(&mut self, io: &mut I) {
        let mut to_flush = std::mem::take(&mut self.to_flush);
        for id in to_flush.drain(..) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            connection.is_flushing = false;
            match connection.state {
                State::Pending => self.connect(io, id),
                State::Connecting(_) => {}
                State::Connected(socket) => self.flush_connection(io, id, socket),
            }
        }
        assert!(self.to_flush.is_empty());
        self.to_flush = to_flush;
        self.invariants();
    }

    fn flush_connection<I: IO>(&mut self, io: &mut I, id: ConnectionId, socket: SocketId) {
        let connection = self.connections.get_mut(&id).expect("it is to be flushed");
        while connection.writable && !connection.queue.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let error = match io.send(socket, connection.queue.slices(&mut slices)) {
                Ok(0) => ErrorKind::WriteZero.into(),
                Ok(size) => {
                    let held = connection.queue.size();
                    self.counters.messages_sent += connection.on_sent(size, self.tick);
                    self.counters.bytes_sent += size as u64;
                    if connection.class() == Class::Client {
                        self.client_queues.release(held - connection.queue.size());
                    }
                    if connection.unpark() {
                        self.ready_clients.push_back(id);
                    }
                    continue;
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::WouldBlock => connection.writable = false,
                ErrorKind::Interrupted => {}
                _ => {
                    log::debug!("{}: flush: {error}", self.config.identity);
                    return self.close(io, id, "sending failed");
                }
            }
        }
    }

    /// Back-pressure: while `paused`, clients are not read. Replicas are, and so are unknown peers
    /// up to the message that shows a client: a replica that comes back may be what the pause waits
    /// for. What was not read is remembered; the next [`Self::receive`] after the pause reads it.
    pub fn pause_clients(&mut self, paused: bool) {
        self.clients_are_paused = paused;
    }

    /// What `client` asked for came to nothing: it is not read any more in this tick, so that who
    /// asks in vain, as fast as it can, takes no time from those whose requests are carried out.
    pub fn rest(&mut self, client: ClientId) {
        let Some(&id) = self.clients.get(&client) else { return };
        let connection = self.connections.get_mut(&id).expect("it is known");
        if !std::mem::replace(&mut connection.is_resting, true) {
            self.resting.push(id);
            self.counters.rested += 1;
        }
    }

    /// A tick has passed: who was not read in it is read again.
    fn resume_resting(&mut self) {
        for id in std::mem::take(&mut self.resting) {
            let Some(connection) = self.connections.get_mut(&id) else { continue };
            assert!(connection.is_resting);
            connection.is_resting = false;
            if connection.unpark() {
                self.ready_clients.push_back(id);
            }
        }
    }

    /// Whether there is a connection over which messages to `peer` leave.
    pub fn is_connected(&self, peer: Peer) -> bool {
        let id = match peer {
            Peer::Replica(replica) => self.replicas.get(replica.index()).copied().flatten(),
            Peer::Client(client) => self.clients.get(&client).copied(),
        };
        id.is_some_and(|id| self.connections[&id].is_connected())
    }

    /// Whether the owner believes that whoever speaks over a connection is the peer it says to be.
    /// Who is not believed gives way to the next that says to be the same replica.
    pub fn set_doubted(&mut self, id: ConnectionId, doubted: bool) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.is_doubted = doubted;
        }
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Closes everything, the listener too. The bus does nothing more after it.
    pub fn close_all<I: IO>(&mut self, io: &mut I) {
        let ids: Vec<ConnectionId> = self.connections.keys().copied().collect();
        for id in ids {
            self.close(io, id, "this process ends");
        }
        if let Some(listener) = self.listener.take() {
            io.close(listener);
        }
        self.is_accept_ready = false;
        self.dials.iter_mut().for_each(|dial| dial.wanted = false);
        self.invariants();
    }

    /// A connection to `replica` that is yet to be begun.
    fn dial(&mut self, replica: ReplicaIndex) -> ConnectionId {
        assert!(self.replicas[replica.index()].is_none());
        if matches!(self.config.identity, Identity::Client(_)) {
            self.dials[replica.index()].wanted = false;
        }
        let address = self.config.addresses[replica.index()];
        let id = self.open(State::Pending, address, Some(replica));
        self.replicas[replica.index()] = Some(id);
        id
    }

    fn connect<I: IO>(&mut self, io: &mut I, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("it is pending");
        assert_eq!(connection.state, State::Pending);
        self.counters.dialled += 1;
        match io.connect(connection.address) {
            Ok(socket) => {
                connection.state = State::Connecting(socket);
                let before = self.sockets.insert(socket, id);
                assert_eq!(before, None);
            }
            Err(error) => {
                log::debug!("{}: connect: {error}", self.config.identity);
                let replica = connection.dialled.expect("it was to be dialled");
                self.refused |= 1 << replica.0;
                self.close(io, id, "the connect failed");
            }
        }
    }

    /// Enters a new connection into the table.
    fn open(
        &mut self,
        state: State,
        address: SocketAddr,
        dialled: Option<ReplicaIndex>,
    ) -> ConnectionId {
        let id = ConnectionId(self.connection_next);
        self.connection_next += 1;
        let receiver = Receiver::new(self.config.cluster, self.config.message_size_max);
        let connection = Connection::new(state, address, dialled, receiver, self.tick);
        let before = self.connections.insert(id, connection);
        assert!(before.is_none());
        id
    }

    /// Closes and forgets a connection. What it held is free again; who was dialled will be again.
    fn close<I: IO>(&mut self, io: &mut I, id: ConnectionId, reason: &str) {
        self.release_body(id);
        let connection = self.connections.remove(&id).expect("closed once");
        let Connection { address, .. } = connection;
        log::debug!("{}: close: {address} ({reason})", self.config.identity);
        self.counters.closed += 1;
        if let Some(socket) = connection.socket() {
            io.close(socket);
            self.sockets.remove(&socket);
        }
        if connection.class() == Class::Client {
            self.client_queues.release(connection.queue.size());
        }
        match connection.peer {
            Some(Peer::Replica(replica)) => {
                let place = &mut self.replicas[replica.index()];
                place.take_if(|place| *place == id);
            }
            Some(Peer::Client(client)) => {
                if self.clients.get(&client) == Some(&id) {
                    self.clients.remove(&client);
                }
            }
            None => {
                self.unknown.remove(&id);
            }
        }
        if connection.is_ready {
            self.ready(connection.class()).retain(|ready| *ready != id);
        }
        if connection.is_stalled {
            self.stalled.retain(|stalled| *stalled != id);
        }
        if let Some(replica) = connection.dialled {
            self.dials[replica.index()].failed(self.tick, &mut self.prng);
        }
    }

    /// Closes what waited too long for something.
    fn sweep<I: IO>(&mut self, io: &mut I) {
        let mut overdue = Vec::new();
        for (id, connection) in &mut self.connections {
            if connection.is_ready || connection.is_stalled || connection.is_parked {
                connection.hold_frame_clock(self.tick);
            }
            if let Some(reason) = connection.overdue(self.tick) {
                overdue.push((*id, reason));
            }
        }
        for (id, reason) in overdue {
            self.counters.timed_out += 1;
            self.close(io, id, reason);
        }
    }

    fn ready(&mut self, class: Class) -> &mut VecDeque<ConnectionId> {
        match class {
            Class::Replica => &mut self.ready_replicas,
            Class::Unknown => &mut self.ready_unknown,
            Class::Client => &mut self.ready_clients,
        }
    }

    /// Queues the connection to be read, if there may be something.
    fn mark_ready(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("it is known");
        let waits = connection.is_ready || connection.is_stalled || connection.is_parked;
        if connection.readable && !waits {
            connection.is_ready = true;
            let class = connection.class();
            self.ready(class).push_back(id);
        }
    }

    /// Lists the connection to be flushed, if there is something to do.
    fn mark_to_flush(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("it is known");
        let can = match connection.state {
            State::Pending => true,
            State::Connecting(_) => false,
            State::Connected(_) => connection.writable && !connection.queue.is_empty(),
        };
        if can && !connection.is_flushing {
            connection.is_flushing = true;
            self.to_flush.push(id);
        }
    }

    /// Gives back the memory that the body under way was charged.
    fn release_body(&mut self, id: ConnectionId) {
        let connection = self.connections.get_mut(&id).expect("it is known");
        let charged = std::mem::take(&mut connection.charged);
        match connection.class() {
            Class::Replica => assert_eq!(charged, 0),
            Class::Unknown => self.unknown_bodies.release(charged),
            Class::Client => self.client_bodies.release(charged),
        }
    }

    fn invariants(&self) {
        let replicas = self.replicas.iter().flatten().count();
        let total = replicas + self.clients.len() + self.unknown.len();
        assert_eq!(self.connections.len(), total);
        assert!(self.sockets.len() <= self.connections.len());
        assert!(self.clients.len() <= self.clients_max());
        assert!(self.clients.len() + self.unknown.len() <= self.config.connections_max as usize);
        assert!(self.client_queues.used <= self.client_queues.max);
    }

    /// Connections of identified clients: some room is always left for who is not known yet.
    fn clients_max(&self) -> usize {
        let connections_max = self.config.connections_max as usize;
        connections_max - (connections_max / 8).clamp(1, 256)
    }
}
