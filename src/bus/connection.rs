//! F5: one connection: its socket, its peer, what is half received and what waits to be sent.
//!
//! ```text
//!   send of a client            dial            accept
//!         |                       |                |
//!         v                       v                |
//!      Pending --- connect ---> Connecting         |
//!                                 | connected      |
//!                                 v                v
//!                               Connected  <-------+
//! ```
//!
//! Every state ends by being closed, which forgets the connection: ids are never used twice.
//!
//! An edge of readiness is remembered in `readable` and `writable` until the socket says
//! `WouldBlock`, so nothing is lost when a connection is not served at once.
//!
//! **Invariants:** dialled if and only if it was a replica from its beginning; only a connected one
//! is readable or writable; a stalled one waits for memory, a parked one for its peer to take what
//! it was sent, or for the next tick, and neither is in a ready queue.
//!
//! **Not here:** the calls to the socket, which need `IO`; they are the bus's.

use super::peer::Peer;
use super::send_queue::SendQueue;
use crate::io::SocketId;
use crate::wire::{Receiver, ReplicaIndex};
use std::net::SocketAddr;

/// A connection, in the order of their beginnings. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId(pub(super) u64);

/// A connect that takes longer has failed, in ticks (3 s).
pub(super) const CONNECT_TICKS_MAX: u64 = 300;
/// Who says nothing valid for so long without being known is not a peer, in ticks (10 s).
pub(super) const UNKNOWN_TICKS_MAX: u64 = 1000;
/// Silence in the middle of a frame, or of a replica that was sent something, in ticks (10 s).
pub(super) const SILENCE_TICKS_MAX: u64 = 1000;
/// The time a frame of a client may take to arrive in drops, in ticks (60 s).
pub(super) const FRAME_TICKS_MAX: u64 = 6000;
/// The time a peer may take to read anything of what it is sent, in ticks (10 s).
pub(super) const STUCK_TICKS_MAX: u64 = 1000;
/// A replica that was heard so long ago keeps its place against whoever says to be it, in ticks
/// (2.5 s). Replicas exchange something each second.
pub(super) const ALIVE_TICKS_MAX: u64 = 250;
/// A client that did nothing for so long may be closed to make room, in ticks (5 s).
pub(super) const IDLE_TICKS_MIN: u64 = 500;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// To be dialled at the next flush.
    Pending,
    /// The connect is under way.
    Connecting(SocketId),
    /// Open.
    Connected(SocketId),
}

/// What connections are told apart by when something is scarce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// A replica.
    Replica,
    /// Not identified yet.
    Unknown,
    /// A client.
    Client,
}

/// See the module. All times are ticks.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) state: State,
    pub(super) address: SocketAddr,
    /// The replica that was dialled.
    pub(super) dialled: Option<ReplicaIndex>,
    pub(super) peer: Option<Peer>,
    pub(super) receiver: Receiver,
    pub(super) queue: SendQueue,
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// It is in the ready queue of its class.
    pub(super) is_ready: bool,
    /// It is in the list of connections to flush.
    pub(super) is_flushing: bool,
    /// A valid message came.
    pub(super) is_heard: bool,
    /// Its owner does not believe who it says it is.
    pub(super) is_doubted: bool,
    /// It waits for the memory of a body.
    pub(super) is_stalled: bool,
    /// A client that is not read in this tick any more.
    pub(super) is_resting: bool,
    /// A client with a turn, that is not read before it has taken what it was sent, and has rested.
    pub(super) is_parked: bool,
    /// The bytes a budget was charged for the body under way.
    pub(super) charged: usize,
    /// The beginning: of the connect, then of the connection.
    pub(super) opened: u64,
    /// When bytes came last.
    pub(super) received: u64,
    /// When a valid message came last.
    pub(super) message: u64,
    /// When bytes were sent last, or could first have been.
    pub(super) sent: u64,
    /// When the frame that is incomplete began.
    pub(super) frame: u64,
    /// When the first bytes were sent since any were received.
    pub(super) unanswered: Option<u64>,
    /// When a message was refused first since the queue was empty.
    pub(super) full: Option<u64>,
}

impl Connection {
    pub(super) fn new(
        state: State,
        address: SocketAddr,
        dialled: Option<ReplicaIndex>,
        receiver: Receiver,
        tick: u64,
    ) -> Self {
        assert_eq!(dialled.is_none(), matches!(state, State::Connected(_)));
        let accepted = dialled.is_none();
        Self {
            state,
            address,
            dialled,
            peer: dialled.map(Peer::Replica),
            receiver,
            queue: SendQueue::default(),
            // There may be no edge for what was there before the socket was registered.
            readable: accepted,
            writable: accepted,
            is_ready: false,
            is_flushing: false,
            is_heard: false,
            is_doubted: false,
            is_stalled: false,
            is_resting: false,
            is_parked: false,
            charged: 0,
            opened: tick,
            received: tick,
            message: tick,
            sent: tick,
            frame: tick,
            unanswered: None,
            full: None,
        }
    }

    pub(super) fn class(&self) -> Class {
        match self.peer {
            Some(Peer::Replica(_)) => Class::Replica,
            Some(Peer::Client(_)) => Class::Client,
            None => Class::Unknown,
        }
    }

    pub(super) fn socket(&self) -> Option<SocketId> {
        match self.state {
            State::Pending => None,
            State::Connecting(socket) | State::Connected(socket) => Some(socket),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected(_))
    }

    /// The connect came to a good end at `tick`.
    pub(super) fn on_connected(&mut self, tick: u64) {
        let State::Connecting(socket) = self.state else { panic!("was not connecting") };
        assert!(self.dialled.is_some());
        self.state = State::Connected(socket);
        self.readable = true;
        self.writable = true;
        self.opened = tick;
        self.received = tick;
        self.message = tick;
        self.sent = tick;
    }

    /// Bytes came at `tick`.
    pub(super) fn on_received(&mut self, size: usize, tick: u64) {
        assert!(self.is_connected());
        if self.receiver.buffered() == 0 {
            self.frame = tick;
        }
        self.receiver.advance(size);
        self.received = tick;
        self.unanswered = None;
    }

    /// A valid message was taken out of the receiver at `tick`.
    pub(super) fn on_message(&mut self, tick: u64) {
        assert_eq!(self.receiver.granted(), 0);
        self.is_heard = true;
        self.message = tick;
        self.frame = tick;
    }

    /// Bytes were sent at `tick`. Returns how many messages they complete.
    pub(super) fn on_sent(&mut self, size: usize, tick: u64) -> u64 {
        assert!(size > 0);
        let completed = self.queue.advance(size);
        self.sent = tick;
        if self.unanswered.is_none() {
            self.unanswered = Some(tick);
        }
        if self.queue.is_empty() {
            self.full = None;
        }
        completed
    }

    /// The receiver waits for this process and not for the peer, so the frame's clock stands.
    pub(super) fn hold_frame_clock(&mut self, tick: u64) {
        self.frame = tick;
        self.received = tick;
    }

    /// It was dialled and spoken to, and nothing was ever answered.
    pub(super) fn is_unanswered(&self) -> bool {
        self.dialled.is_some() && !self.is_heard && self.unanswered.is_some()
    }

    /// Whether a client has to wait before its next request is taken in: it would be carried out
    /// for an answer that there is no room for, or in vain like the last one.
    pub(super) fn has_to_wait(&self) -> bool {
        self.class() == Class::Client && (!self.queue.is_empty() || self.is_resting)
    }

    /// Makes a parked client ready that does not have to wait any more. Not only if there is
    /// something to read: messages may be in its receiver already.
    pub(super) fn unpark(&mut self) -> bool {
        if !self.is_parked || self.has_to_wait() {
            return false;
        }
        assert!(!self.is_ready);
        self.is_parked = false;
        self.is_ready = true;
        true
    }

    /// Whether its peer is there: heard lately, and believed.
    pub(super) fn is_alive(&self, tick: u64) -> bool {
        self.is_connected() && !self.is_doubted && tick - self.received <= ALIVE_TICKS_MAX
    }

    /// A client that would not miss its connection now: it has nothing under way.
    pub(super) fn is_idle(&self, tick: u64) -> bool {
        self.class() == Class::Client
            && !self.is_ready
            && !self.is_stalled
            && self.queue.is_empty()
            && self.receiver.buffered() == 0
            && tick - self.message >= IDLE_TICKS_MIN
    }

    /// Why the connection must end at `tick`, if it must.
    pub(super) fn overdue(&self, tick: u64) -> Option<&'static str> {
        if !self.is_connected() {
            return (tick - self.opened > CONNECT_TICKS_MAX)
                .then_some("the connect takes too long");
        }
        if !self.queue.is_empty() && tick - self.sent > STUCK_TICKS_MAX {
            return Some("the peer does not read");
        }
        if self.class() == Class::Replica {
            let silent = self.unanswered.is_some_and(|since| tick - since > SILENCE_TICKS_MAX);
            return (silent && !self.is_ready).then_some("the replica does not answer");
        }
        if self.full.is_some_and(|since| tick - since > STUCK_TICKS_MAX) {
            return Some("the peer reads too slowly");
        }
        if self.class() == Class::Unknown && tick - self.message > UNKNOWN_TICKS_MAX {
            return Some("no valid message");
        }
        if self.is_ready || self.is_stalled || self.receiver.buffered() == 0 {
            return None;
        }
        if tick - self.received > SILENCE_TICKS_MAX {
            return Some("silence in the middle of a message");
        }
        (tick - self.frame > FRAME_TICKS_MAX).then_some("a message that takes too long")
    }
}
