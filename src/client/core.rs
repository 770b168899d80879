//! F5: the client's side of the protocol (VRR §4.1, §4.5), sans-IO: messages to send come out,
//! messages received and ticks of 10 ms go in. It knows no socket, no clock and no key-value store.
//!
//! ```text
//!              register()            reply                 request(), deregister()
//!  unregistered ────────► registering ────► ready ◄──────────────────────► in flight
//!       ▲                     │               ▲        reply                   │
//!       └── give_up(), reject ┘               │                                │ eviction, reject,
//!       │                                     │                                │ give_up(),
//!       └─────── query() and its reply ───────┘                                ▼ deregistered
//!        (in no session: from both, and back)                                ended
//! ```
//!
//! # What the caller may believe
//!
//! One request is *sent* any number of times, always with the same client, session, number and
//! body, and executed at most once, because replicas keep the last number and reply of each
//! session.
//!
//! * A **reply** is final.
//! * A **reject** says that one copy was not taken. If it answers the only copy that was ever sent,
//!   nobody has the request and it is *not done*. If there were more copies, another one may be in
//!   the log of a primary that lost its view and may still be committed: the reject says nothing,
//!   and the core keeps trying. `store_full` says more, because it may not be so any more when a
//!   late copy arrives: its author takes no copy of the request in its view, and nobody takes one
//!   in a later view than the copy names. So it is *not done* if the reject is of the newest view
//!   that a copy names, or of a later one, however many copies there are. `register` and queries
//!   change nothing that the caller asked for, so any reject of them is final. `not_primary` and
//!   `busy` are never final: they ask to try elsewhere, or later.
//! * That the first copy usually meets the primary is what makes a plain reject the common case: a
//!   session is registered first, and its reply says which view is in force.
//! * An **eviction** of the session ends it. A request in flight may have been executed before:
//!   *outcome unknown*. Only `deregister` takes it for success: the session is gone either way.
//! * **Giving up** ([`ClientCore::give_up`]) is the owner's decision. If no copy was ever handed to
//!   a connection, nothing was done; otherwise the outcome is unknown. A query has changed nothing.
//!
//! After anything but a reply a session with an undecided number cannot go on: the next number
//! would never be executed if the undecided one was not. So the core is *ended*, and its owner
//! makes a new one, with a new client id, for whatever is next; the undecided request is never sent
//! again.
//!
//! # Where to send
//!
//! First to the primary of the newest view heard of (a random replica if none was heard), then by
//! turns to a random other replica and to the primary: a client that is cut off from the primary
//! alone still succeeds, since a backup in the view that the request names forwards it. A body
//! that might be larger than a message of the smallest geometry is held back until a `pong_client`
//! tells the cluster's message size: larger ones would cost the connection and leave no answer.
//!
//! **Invariants:** at most one request is in flight; its number, session and body never change;
//! numbers
//! of queries are from 2^63 on, so that no reject of one is taken for a request's; the view never
//! goes back.
//!
//! **Not here:** connections (`client::endpoint`), waiting and time-outs (`client`), what bodies
//! mean.

use crate::constants::{ENTRY_SIZE, HEADER_SIZE, REPLICAS_MAX, TICK_NS};
use crate::stdx::{Prng, defect};
use crate::wire::{
    Author, ClientId, ClusterId, Command, Eviction, EvictionReason, Header, Message, Op, Operation,
    PingClient, PongClient, Recover, Reject, RejectReason, ReplicaIndex, Reply, Request, View,
};
use bytes::Bytes;

/// Ticks until the second copy of a request is sent; doubles from there.
pub const RESEND_TICKS_MIN: u64 = 5;
/// The longest pause between copies, in ticks, while a view change may be all that is wrong.
pub const RESEND_TICKS_MAX: u64 = 20;
/// Copies sent at that pace, for about three seconds; then the pace is slow.
pub const RESEND_FAST_COUNT: u32 = 18;
/// The pause between copies, in ticks, of a client whose cluster is away.
pub const RESEND_TICKS_SLOW: u64 = 100;
/// A body up to this size fits a request of every geometry: the smallest message is 4 KiB.
pub const BODY_SIZE_SURE: u32 = 4096 - HEADER_SIZE - ENTRY_SIZE;
/// The first number of a query.
const QUERY_FIRST: u64 = 1 << 63;

const _: () = {
    assert!(RESEND_TICKS_MIN < RESEND_TICKS_MAX);
    assert!(RESEND_TICKS_MAX < RESEND_TICKS_SLOW);
    assert!(REPLICAS_MAX <= 8, "a bit for each replica in a u8");
};

/// Who the client is and whom it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CoreConfig {
    /// The cluster.
    pub cluster: ClusterId,
    /// Random for each core; not 0.
    pub client: ClientId,
    /// Replicas in the cluster, 1 to 6.
    pub replica_count: u8,
}

/// A message for a replica, to be handed to its connection.
#[derive(Debug, Clone)]
pub struct Send {
    /// To whom.
    pub replica: ReplicaIndex,
    /// What.
    pub message: Message,
}

/// The answer of the state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The op that carried the request; for a query, the op at which it was answered.
    pub op: Op,
    /// The view in which the reply was sent.
    pub view: View,
    /// The timestamp of the request, ns.
    pub timestamp: u64,
    /// 0, or the code with which the state machine refused.
    pub result: u32,
    /// The reply.
    pub body: Bytes,
}

/// How what was asked ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The session is open.
    Registered,
    /// A request or query was answered.
    Answered(Answer),
    /// The session is closed.
    Deregistered,
    /// Not done, for this reason. Never `NotPrimary` or `Busy`.
    Rejected(RejectReason),
    /// The session is gone; what was in flight may or may not have been done.
    Evicted(EvictionReason),
}

/// What is known of a request that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GaveUp {
    /// Nothing was done: no copy of the request ever reached a connection, or it was a query.
    NotDone,
    /// It may have been done, or may still be done.
    Unknown,
}

#[derive(Debug)]
enum State {
    /// Nothing in flight.
    Idle,
    InFlight(InFlight),
    /// The session cannot be used any more.
    Ended,
}

#[derive(Debug)]
struct InFlight {
    operation: Operation,
    session: u64,
    request: u64,
    body: Bytes,
    /// Of the body: what a reply must name.
    checksum: u32,
    /// Copies of the request that left the core.
    copies: u32,
    /// The newest view that a copy names.
    view_max: View,
    /// Copies and pings in its place.
    attempts: u32,
    resend_at_tick: u64,
    target: ReplicaIndex,
    /// A bit for each replica that was sent a copy which no connection is known to have taken.
    queued: u8,
    /// Some connection took a copy.
    handed_over: bool,
}

/// One client: at most one session, at most one request in flight.
#[derive(Debug)]
pub struct ClientCore {
    config: CoreConfig,
    prng: Prng,
    /// The newest view heard of.
    view: View,
    view_heard: bool,
    /// 0 without one.
    session: u64,
    request_next: u64,
    query_next: u64,
    /// The cluster's largest message, once heard, bytes.
    message_size: Option<u32>,
    /// A bit for each replica that cannot be reached as far as known.
    down: u8,
    tick: u64,
    state: State,
}

impl ClientCore {
    /// An unregistered client.
    pub fn new(config: CoreConfig, prng: Prng) -> Self {
        assert_ne!(config.client.0, 0);
        assert!((1..=REPLICAS_MAX).contains(&config.replica_count));
        Self {
            config,
            prng,
            view: View(0),
            view_heard: false,
            session: 0,
            request_next: 1,
            query_next: QUERY_FIRST,
            message_size: None,
            down: 0,
            tick: 0,
            state: State::Idle,
        }
    }

    /// Who it is.
    pub fn client(&self) -> ClientId {
        self.config.client
    }

    /// The newest view it has heard of.
    pub fn view(&self) -> View {
        self.view
    }

    /// Whether the session is open and usable.
    pub fn is_registered(&self) -> bool {
        self.session != 0 && !self.is_ended()
    }

    /// Whether something is in flight.
    pub fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight(_))
    }

    /// Whether its session is over, so that it takes no more requests.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// The largest body the cluster takes, bytes, once it is known.
    pub fn body_size_max(&self) -> Option<u32> {
        self.message_size.map(|size| size - HEADER_SIZE - ENTRY_SIZE)
    }

    /// Opens the session. Nothing may be in flight and no session open.
    pub fn register(&mut self, sends: &mut Vec<Send>) {
        assert_eq!(self.session, 0);
        self.begin(Operation::Register, 0, 0, Bytes::new(), sends);
    }

    /// Asks the state machine to apply `body`. The session must be open, and nothing in flight.
    pub fn request(&mut self, body: Bytes, sends: &mut Vec<Send>) {
        assert!(self.is_registered());
        let request = self.request_take();
        self.begin(Operation::Apply, self.session, request, body, sends);
    }

    /// Asks the state machine a question, outside of any session. Nothing may be in flight.
    pub fn query(&mut self, body: Bytes, sends: &mut Vec<Send>) {
        let request = self.query_next;
        self.query_next += 1;
        assert!(request >= QUERY_FIRST);
        self.begin(Operation::Query, 0, request, body, sends);
    }

    /// Asks for `recover`. The session must be open, and nothing in flight.
    pub fn recover(&mut self, recover: &Recover, sends: &mut Vec<Send>) {
        assert!(self.is_registered());
        let request = self.request_take();
        let body = Bytes::copy_from_slice(&recover.encode());
        self.begin(Operation::Recover, self.session, request, body, sends);
    }

    /// Closes the session. It must be open, and nothing in flight.
    pub fn deregister(&mut self, sends: &mut Vec<Send>) {
        assert!(self.is_registered());
        let request = self.request_take();
        self.begin(Operation::Deregister, self.session, request, Bytes::new(), sends);
    }

    /// Takes a message in. Whatever does not belong to what is in flight is ignored.
    pub fn on_message(&mut self, message: &Message, sends: &mut Vec<Send>) -> Option<Outcome> {
        let header = message.header();
        let stranger =
            header.cluster != self.config.cluster || header.replica.0 >= self.config.replica_count;
        if stranger {
            return None;
        }
        match header.command {
            Command::Reply(reply) if reply.client == self.config.client => {
                self.on_reply(header, &reply, message)
            }
            Command::Reject(reject) if reject.client == self.config.client => {
                self.on_reject(header, &reject, sends)
            }
            Command::Eviction(eviction) if eviction.client == self.config.client => {
                self.on_eviction(header, &eviction)
            }
            Command::PongClient(pong) if pong.client == self.config.client => {
                self.on_pong(header, &pong, sends)
            }
            _ => None,
        }
    }

    /// 10 ms have passed.
    pub fn on_tick(&mut self, sends: &mut Vec<Send>) {
        self.tick += 1;
        let State::InFlight(flight) = &mut self.state else { return };
        if self.tick < flight.resend_at_tick {
            return;
        }
        // A connection that never came about tells as much as a refused one.
        self.down |= flight.queued;
        let (turn_of_primary, last) = (flight.attempts.is_multiple_of(2), flight.target);
        let target = self.choose(turn_of_primary, last);
        self.send_to(target, sends);
    }

    /// The connection to `replica` stands (`true`), and takes what was queued for it, or is lost.
    pub fn on_connection(&mut self, replica: ReplicaIndex, connected: bool) {
        assert!(replica.0 < self.config.replica_count);
        let bit = 1 << replica.0;
        if !connected {
            self.down |= bit;
            if let State::InFlight(flight) = &mut self.state
                && flight.target == replica
            {
                // Whoever answers, it is not this one: no need to wait the pause out.
                let soon = self.tick + self.prng.range_inclusive(1, RESEND_TICKS_MIN);
                flight.resend_at_tick = flight.resend_at_tick.min(soon);
            }
            return;
        }
        self.down &= !bit;
        if let State::InFlight(flight) = &mut self.state
            && flight.queued & bit != 0
        {
            flight.queued &= !bit;
            flight.handed_over = true;
        }
    }

    /// What was sent to `replica` was dropped before any connection could take it.
    pub fn on_dropped(&mut self, replica: ReplicaIndex) {
        assert!(replica.0 < self.config.replica_count);
        self.down |= 1 << replica.0;
        if let State::InFlight(flight) = &mut self.state {
            flight.queued &= !(1 << replica.0);
        }
    }

    /// Abandons what is in flight, which must be something, and tells what is known of it. After
    /// [`GaveUp::NotDone`] the owner drops what its connections still have queued.
    pub fn give_up(&mut self) -> GaveUp {
        let State::InFlight(flight) = std::mem::replace(&mut self.state, State::Idle) else {
            panic!("nothing is in flight");
        };
        match flight.operation {
            // A register may still be committed: the next one of this core then finds its session.
            Operation::Query | Operation::Register => GaveUp::NotDone,
            Operation::Apply | Operation::Deregister | Operation::Recover => {
                self.state = State::Ended;
                let is_unknown = flight.handed_over && !defect!("timeout_is_not_done");
                if is_unknown { GaveUp::Unknown } else { GaveUp::NotDone }
            }
            Operation::Genesis | Operation::Noop => unreachable!("not a client's operation"),
        }
    }

    fn request_take(&mut self) -> u64 {
        let request = self.request_next;
        self.request_next += 1;
        assert!(request > 0);
        assert!(self.request_next < QUERY_FIRST);
        request
    }

    fn begin(
        &mut self,
        operation: Operation,
        session: u64,
        request: u64,
        body: Bytes,
        sends: &mut Vec<Send>,
    ) {
        assert!(matches!(self.state, State::Idle), "one request at a time");
        let checksum = crc32c::crc32c(&body);
        let target = if self.view_heard {
            let primary = self.primary();
            self.choose(true, primary)
        } else {
            self.random(0)
        };
        self.state = State::InFlight(InFlight {
            operation,
            session,
            request,
            body,
            checksum,
            copies: 0,
            view_max: View(0),
            attempts: 0,
            resend_at_tick: 0,
            target,
            queued: 0,
            handed_over: false,
        });
        self.send_to(target, sends);
    }

    /// Sends a copy, or, while a large body is held back, a ping in its place.
    fn send_to(&mut self, target: ReplicaIndex, sends: &mut Vec<Send>) {
        assert!(target.0 < self.config.replica_count);
        let State::InFlight(flight) = &mut self.state else { panic!("nothing is in flight") };
        flight.target = target;
        flight.attempts += 1;
        let pause = pause_ticks(flight.attempts);
        // Half of the pause is chance, so that clients that failed together do not return together.
        let jitter = self.prng.below(pause / 2 + 1);
        flight.resend_at_tick = self.tick + pause + jitter;

        let CoreConfig { cluster, client, .. } = self.config;
        let author = Author { cluster, view: self.view, replica: ReplicaIndex(0), incarnation: 0 };
        // One that is known to be too large waits for a pong as well, which then ends it.
        let body_size_max = self.message_size.unwrap_or(4096) - HEADER_SIZE - ENTRY_SIZE;
        let held = flight.body.len() > body_size_max as usize;
        let message = if held {
            let timestamp_monotonic = self.tick * TICK_NS;
            Message::new(&author, PingClient { client, timestamp_monotonic }, &[])
        } else {
            flight.copies += 1;
            assert!(self.view >= flight.view_max, "the view never goes back");
            flight.view_max = self.view;
            flight.queued |= 1 << target.0;
            let (session, request) = (flight.session, flight.request);
            let operation = flight.operation as u8;
            Message::new(&author, Request { client, session, request, operation }, &flight.body)
        };
        sends.push(Send { replica: target, message });
    }

    fn on_reply(&mut self, header: &Header, reply: &Reply, message: &Message) -> Option<Outcome> {
        self.heard(header);
        let State::InFlight(flight) = &self.state else { return None };
        let operation = flight.operation;
        let ours = reply.request == flight.request
            && reply.request_checksum == flight.checksum
            && reply.operation == operation as u8
            && (reply.session == flight.session || operation == Operation::Register);
        if !ours {
            return None;
        }
        match operation {
            Operation::Register => {
                if reply.session == 0 {
                    return None;
                }
                self.session = reply.session;
                self.state = State::Idle;
                Some(Outcome::Registered)
            }
            Operation::Deregister => {
                self.state = State::Ended;
                Some(Outcome::Deregistered)
            }
            Operation::Apply | Operation::Query | Operation::Recover => {
                self.state = State::Idle;
                Some(Outcome::Answered(Answer {
                    op: reply.op,
                    view: header.view,
                    timestamp: reply.timestamp,
                    result: reply.result,
                    body: message.bytes().slice(HEADER_SIZE as usize..),
                }))
            }
            Operation::Genesis | Operation::Noop => unreachable!("not a client's operation"),
        }
    }

    fn on_reject(
        &mut self,
        header: &Header,
        reject: &Reject,
        sends: &mut Vec<Send>,
    ) -> Option<Outcome> {
        let view_new = self.heard(header);
        let State::InFlight(flight) = &self.state else { return None };
        if reject.request != flight.request {
            return None;
        }
        let reason = RejectReason::from_code(reject.reason)?;
        match reason {
            RejectReason::NotPrimary => {
                // At once, but once for each view: two replicas that disagree cause no storm.
                if view_new {
                    let primary = self.primary();
                    self.send_to(primary, sends);
                }
                None
            }
            RejectReason::Busy => None,
            RejectReason::Invalid
            | RejectReason::StoreFull
            | RejectReason::TooLarge
            | RejectReason::ReplicaHeard
            | RejectReason::TableChanged => {
                let in_session = flight.session != 0;
                let is_final = match reason {
                    RejectReason::StoreFull => header.view >= flight.view_max,
                    _ => flight.copies <= 1,
                };
                if in_session && !is_final {
                    return None;
                }
                // The number is not used again: a late duplicate of this reject would be taken for
                // an answer to its next bearer.
                self.state = if in_session { State::Ended } else { State::Idle };
                Some(Outcome::Rejected(reason))
            }
        }
    }

    fn on_eviction(&mut self, header: &Header, eviction: &Eviction) -> Option<Outcome> {
        self.heard(header);
        if self.session == 0 || eviction.session != self.session || self.is_ended() {
            return None;
        }
        let reason = EvictionReason::from_code(eviction.reason)?;
        let operation = match &self.state {
            State::InFlight(flight) => Some(flight.operation),
            State::Idle | State::Ended => None,
        };
        match operation {
            // A query needs no session. It goes on; the next request of the session will find out.
            Some(Operation::Query) => None,
            Some(Operation::Deregister) => {
                self.state = State::Ended;
                Some(Outcome::Deregistered)
            }
            _ => {
                self.state = State::Ended;
                Some(Outcome::Evicted(reason))
            }
        }
    }

    fn on_pong(
        &mut self,
        header: &Header,
        pong: &PongClient,
        sends: &mut Vec<Send>,
    ) -> Option<Outcome> {
        self.heard(header);
        if pong.message_size < HEADER_SIZE + ENTRY_SIZE + BODY_SIZE_SURE {
            return None;
        }
        self.message_size = Some(pong.message_size);
        let body_size_max = self.body_size_max().expect("just set") as usize;
        let State::InFlight(flight) = &self.state else { return None };
        if flight.copies > 0 {
            return None;
        }
        if flight.body.len() > body_size_max {
            // No copy was sent: its number is free again.
            if flight.session != 0 {
                self.request_next -= 1;
            }
            self.state = State::Idle;
            return Some(Outcome::Rejected(RejectReason::TooLarge));
        }
        let primary = self.primary();
        self.send_to(primary, sends);
        None
    }

    /// A message of a replica: it is there, and knows a view. True if the view is news.
    fn heard(&mut self, header: &Header) -> bool {
        self.down &= !(1 << header.replica.0);
        let news = header.view > self.view || !self.view_heard;
        self.view = self.view.max(header.view);
        self.view_heard = true;
        news
    }

    fn primary(&self) -> ReplicaIndex {
        self.view.primary(self.config.replica_count)
    }

    /// The next target: the primary in its turn, unless it cannot be reached; else a random one.
    fn choose(&mut self, turn_of_primary: bool, last: ReplicaIndex) -> ReplicaIndex {
        let primary = self.primary();
        if turn_of_primary && self.view_heard {
            if self.down & (1 << primary.0) == 0 {
                return primary;
            }
            return self.random(self.down);
        }
        self.random(1 << last.0)
    }

    /// A random replica that is not in `except`; any one if all are.
    fn random(&mut self, except: u8) -> ReplicaIndex {
        let count = self.config.replica_count;
        let all: Vec<u8> = (0..count).filter(|index| except & (1 << index) == 0).collect();
        if all.is_empty() {
            let index = self.prng.below(u64::from(count));
            return ReplicaIndex(u8::try_from(index).expect("below a u8"));
        }
        ReplicaIndex(all[self.prng.index(all.len())])
    }
}

/// The pause after this many attempts, in ticks, without jitter.
fn pause_ticks(attempts: u32) -> u64 {
    assert!(attempts > 0);
    if attempts > RESEND_FAST_COUNT {
        return RESEND_TICKS_SLOW;
    }
    (RESEND_TICKS_MIN << (attempts - 1).min(8)).min(RESEND_TICKS_MAX)
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
