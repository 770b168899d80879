//! F6: one [`ClientCore`] and its connections: what a client does in one turn of whoever owns the
//! loop. The blocking [`super::Client`] owns one of them, the benchmark a thousand on one IO.
//!
//! ```text
//!   events of the owner's IO ──► on_event            turn ──► Outcome
//!                                   │                  │
//!                                MessageBus ──► ClientCore ──► sends ──► MessageBus ──► flush
//! ```
//!
//! **Invariants:** the core hears of every connection that may have taken a copy of its request:
//! connections are looked at before and after every call that may send.
//!
//! **Not here:** waiting, time-outs, new sessions (`client`).

use super::core::{ClientCore, CoreConfig, GaveUp, Outcome, Send};
use crate::bus::{BusConfig, Dropped, Identity, MessageBus, Peer, Received};
use crate::constants::TICK_NS;
use crate::io::{IO, SocketId};
use crate::stdx::Prng;
use crate::wire::{
    Author, ClientId, ClusterId, Command, Message, Recover, ReplicaIndex, RequestStatus,
    StatusReport, View,
};
use bytes::Bytes;
use std::net::SocketAddr;
use std::time::Duration;

/// The largest message of any geometry, bytes: a client learns its cluster's only later.
const MESSAGE_SIZE_MAX: u32 = 16 << 20;
/// Ticks made up for at most, after the process was away.
const TICKS_BEHIND_MAX: u64 = 10;

/// A client and its connections, to be driven by its owner.
#[derive(Debug)]
pub struct Endpoint {
    core: ClientCore,
    bus: MessageBus,
    cluster: ClusterId,
    replica_count: u8,
    sends: Vec<Send>,
    received: Vec<Received>,
    /// A bit for each replica whose connection stood when last looked at.
    connected: u8,
    /// Something received waits inside the bus.
    more: bool,
    closed: bool,
    /// When the next tick is due, ns on the monotonic clock.
    tick_next_ns: u64,
    /// The newest report of each replica since they were asked.
    reports: Vec<Option<StatusReport>>,
    /// A bit for each replica that was dialled in vain since that was last forgotten.
    refused: u8,
}

impl Endpoint {
    /// A client of the cluster at `addresses` (by replica index, 1 to 6), with a random id. Dials
    /// nobody before it has something to send.
    pub fn new(cluster: ClusterId, addresses: &[SocketAddr], prng: &mut Prng, now_ns: u64) -> Self {
        let replica_count = u8::try_from(addresses.len()).expect("at most 6 replicas");
        let client = ClientId(prng.next_u128().max(1));
        let core = CoreConfig { cluster, client, replica_count };
        let identity = Identity::Client(client);
        let bus = BusConfig::new(identity, cluster, addresses.to_vec(), MESSAGE_SIZE_MAX);
        Self {
            core: ClientCore::new(core, prng.fork()),
            bus: MessageBus::new(bus, prng.fork()),
            cluster,
            replica_count,
            sends: Vec::new(),
            received: Vec::new(),
            connected: 0,
            more: false,
            closed: false,
            tick_next_ns: now_ns + TICK_NS,
            reports: vec![None; addresses.len()],
            refused: 0,
        }
    }

    /// The protocol's state.
    pub fn core(&self) -> &ClientCore {
        &self.core
    }

    /// Opens the session: see [`ClientCore::register`]. Sent by the next [`Endpoint::turn`], as
    /// everything else.
    pub fn register(&mut self) {
        self.core.register(&mut self.sends);
    }

    /// See [`ClientCore::request`].
    pub fn request(&mut self, body: Bytes) {
        self.core.request(body, &mut self.sends);
    }

    /// See [`ClientCore::query`].
    pub fn query(&mut self, body: Bytes) {
        self.core.query(body, &mut self.sends);
    }

    /// See [`ClientCore::recover`].
    pub fn recover(&mut self, recover: &Recover) {
        self.core.recover(recover, &mut self.sends);
    }

    /// See [`ClientCore::deregister`].
    pub fn deregister(&mut self) {
        self.core.deregister(&mut self.sends);
    }

    /// See [`ClientCore::give_up`]. Closes the connections, so that nothing queued goes out later.
    pub fn give_up<I: IO>(&mut self, io: &mut I) -> GaveUp {
        self.note_connections();
        let gave_up = self.core.give_up();
        self.close(io);
        gave_up
    }

    /// Whether an event of `socket` is for this endpoint.
    pub fn owns(&self, socket: SocketId) -> bool {
        self.bus.owns(socket)
    }

    /// An event of an own socket.
    pub fn on_event<I: IO>(
        &mut self,
        io: &mut I,
        socket: SocketId,
        readable: bool,
        writable: bool,
    ) {
        self.bus.on_event(io, socket, readable, writable);
    }

    /// How long the owner may wait for events before the next [`Endpoint::turn`].
    pub fn wait(&self, now_ns: u64) -> Duration {
        if self.more || !self.sends.is_empty() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.tick_next_ns.saturating_sub(now_ns))
    }

    /// Receives, thinks, ticks if due, sends. What is in flight may come to its end.
    pub fn turn<I: IO>(&mut self, io: &mut I, now_ns: u64) -> Option<Outcome> {
        self.note_connections();
        let mut outcome = None;
        let mut received = std::mem::take(&mut self.received);
        self.more = self.bus.receive(io, &mut received);
        for Received { message, .. } in received.drain(..) {
            self.note_report(&message);
            let next = self.core.on_message(&message, &mut self.sends);
            // An eviction behind the reply it does not touch: the core knows that it has ended.
            outcome = outcome.or(next);
        }
        self.received = received;
        self.tick(io, now_ns);
        for Send { replica, message } in self.sends.drain(..) {
            match self.bus.send(Peer::Replica(replica), &message) {
                Ok(()) => {}
                // The copies before it still wait for the connection, and will do.
                Err(Dropped::Full) => {}
                Err(Dropped::NotConnected) => self.core.on_dropped(replica),
            }
        }
        self.note_connections();
        self.bus.flush(io);
        self.refused |= self.bus.take_refused();
        self.note_connections();
        outcome
    }

    /// Asks `replica` how it is. Forgets its last report.
    pub fn request_status(&mut self, replica: ReplicaIndex) {
        self.reports[replica.index()] = None;
        let (cluster, client) = (self.cluster, self.core.client());
        let author = Author { cluster, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let message = Message::new(&author, RequestStatus { client }, &[]);
        self.sends.push(Send { replica, message });
    }

    /// What `replica` has answered since it was asked.
    pub fn report(&self, replica: ReplicaIndex) -> Option<&StatusReport> {
        self.reports[replica.index()].as_ref()
    }

    /// Whether `replica` was dialled in vain since [`Endpoint::forget_refused`].
    pub fn is_refused(&self, replica: ReplicaIndex) -> bool {
        self.refused >> replica.0 & 1 == 1
    }

    /// Forgets which replicas were dialled in vain.
    pub fn forget_refused(&mut self) {
        self.refused = 0;
    }

    /// Whether the connection to `replica` stands.
    pub fn is_connected(&self, replica: ReplicaIndex) -> bool {
        self.bus.is_connected(Peer::Replica(replica))
    }

    /// Whether replicas closed the connection in answer to what was sent, and none ever answered:
    /// they are of another cluster or version.
    pub fn is_dismissed(&self) -> bool {
        let counters = self.bus.counters();
        counters.dismissed > 0 && counters.messages_received == 0
    }

    /// Whether a replica answered where another was dialled: the addresses are not in order.
    pub fn is_misdirected(&self) -> bool {
        self.bus.counters().misidentified > 0
    }

    /// Closes every connection, and forgets what was to be sent. Nothing can be asked after it.
    pub fn close<I: IO>(&mut self, io: &mut I) {
        self.sends.clear();
        self.bus.close_all(io);
        self.connected = 0;
        self.more = false;
        self.closed = true;
    }

    /// Whether it takes nothing more: it was closed, or its session is over.
    pub fn is_over(&self) -> bool {
        self.closed || self.core.is_ended()
    }

    fn tick<I: IO>(&mut self, io: &mut I, now_ns: u64) {
        for _ in 0..TICKS_BEHIND_MAX {
            if now_ns < self.tick_next_ns {
                return;
            }
            self.tick_next_ns += TICK_NS;
            self.core.on_tick(&mut self.sends);
            self.bus.tick(io);
        }
        self.tick_next_ns = self.tick_next_ns.max(now_ns + 1);
    }

    /// Tells the core which connections stand and which were lost.
    fn note_connections(&mut self) {
        for index in 0..self.replica_count {
            let (replica, bit) = (ReplicaIndex(index), 1 << index);
            let now = self.bus.is_connected(Peer::Replica(replica));
            let before = self.connected & bit != 0;
            if now {
                // Each time: something may have been queued on a connection that stood already.
                self.connected |= bit;
                self.core.on_connection(replica, true);
            } else if before {
                self.connected &= !bit;
                self.core.on_connection(replica, false);
            }
        }
    }

    fn note_report(&mut self, message: &Message) {
        let header = message.header();
        let Command::Status(status) = header.command else { return };
        if status.client != self.core.client() {
            return;
        }
        match StatusReport::decode(message.body()) {
            Ok(report) if report.replica.0 < self.replica_count => {
                self.reports[report.replica.index()] = Some(report);
            }
            Ok(report) => {
                log::warn!("ignoring the status of replica {}: no such replica", report.replica);
            }
            Err(reason) => log::warn!("ignoring a status report ({reason})"),
        }
    }
}
