//! F6: the client library: a blocking [`Client`] over any [`IO`].
//!
//! ```text
//!   Client::connect(io, config)
//!     request(body) ──► Ok(Answer)                      executed, once
//!                   ──► Err(Rejected)                   not executed, and why
//!                   ──► Err(Unavailable)                not executed: nobody took it in time
//!                   ──► Err(OutcomeUnknown)             executed, or not, or it still will be
//!     query(body)   ──► the same without OutcomeUnknown: a query changes nothing
//!     close()                                           leaves the session cleanly
//! ```
//!
//! ```no_run
//! # fn demo<I: vsr::io::IO>(io: I) -> Result<(), vsr::client::ClientError> {
//! use vsr::client::{Client, ClientConfig};
//! let addresses = vec!["127.0.0.1:3000".parse().expect("an address")];
//! let mut client = Client::connect(io, ClientConfig { addresses, ..ClientConfig::default() });
//! let answer = client.request(b"a request of the state machine")?;
//! println!("op {} in view {}: {:?}", answer.op, answer.view, answer.body);
//! client.close();
//! # Ok(())
//! # }
//! ```
//!
//! **Invariants:** a request is never sent again under another number: after an unknown outcome the
//! next request opens a session of its own, and what to do about the first is the caller's
//! decision; every call returns within its time-out.
//!
//! **Not here:** the protocol (`core`), connections (`endpoint`), the bodies of a state machine.

pub mod core;
pub mod endpoint;

pub use self::core::{Answer, GaveUp, Outcome};
pub use self::endpoint::Endpoint;

use crate::io::{Event, IO};
use crate::stdx::Prng;
use crate::wire::{ClusterId, EvictionReason, RejectReason, ReplicaIndex, StatusReport};
use bytes::Bytes;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

/// How long [`Client::close`] tries to close the session.
pub const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a status is asked for again, of replicas that have not answered.
const STATUS_PERIOD_NS: u64 = 200_000_000;

/// Where the cluster is, and how patient the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// The cluster's number.
    pub cluster: ClusterId,
    /// The addresses of all replicas by index, 1 to 6.
    pub addresses: Vec<SocketAddr>,
    /// The time-out of each request and query.
    pub timeout: Duration,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientError {
    /// Not done: no replica took the request within the time-out.
    Unavailable,
    /// It may have been done, may not have been, or may still be.
    OutcomeUnknown(Unknown),
    /// Not done: the cluster refused it.
    Rejected(RejectReason),
}

/// Why an outcome is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Sent, and not answered within the time-out.
    Timeout,
    /// Sent, and then the session was evicted.
    Evicted(EvictionReason),
}

/// A client that blocks until it has its answer. One request at a time.
#[derive(Debug)]
pub struct Client<I: IO> {
    io: I,
    config: ClientConfig,
    prng: Prng,
    endpoint: Endpoint,
    events: Vec<Event>,
    terminated: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        let timeout = Duration::from_secs(10);
        Self { cluster: ClusterId(0), addresses: Vec::new(), timeout }
    }
}

impl<I: IO> Client<I> {
    /// A client of the cluster at `config.addresses`. Dials nobody yet: connections are made when
    /// there is something to send, and the session is opened by the first request.
    pub fn connect(mut io: I, config: ClientConfig) -> Self {
        let mut prng = Prng::from_seed(io.entropy());
        let now_ns = io.monotonic();
        let endpoint = Endpoint::new(config.cluster, &config.addresses, &mut prng, now_ns);
        Self { io, config, prng, endpoint, events: Vec::new(), terminated: false }
    }

    /// Has the state machine apply `body`, at most once.
    ///
    /// # Errors
    /// See [`ClientError`]: the difference between *not done* and *unknown* matters.
    pub fn request(&mut self, body: &[u8]) -> Result<Answer, ClientError> {
        let deadline_ns = self.deadline(self.config.timeout);
        if self.endpoint.is_over() {
            self.renew();
        }
        if !self.endpoint.core().is_registered() {
            self.endpoint.register();
            match self.wait(deadline_ns)? {
                Outcome::Registered => {}
                Outcome::Rejected(reason) => return Err(ClientError::Rejected(reason)),
                other => unreachable!("{other:?} is no answer to a register"),
            }
            // A session that was evicted in the very turn in which it was opened.
            if !self.endpoint.core().is_registered() {
                return Err(ClientError::Unavailable);
            }
        }
        self.endpoint.request(Bytes::copy_from_slice(body));
        self.answer(deadline_ns)
    }

    /// Has the state machine answer `body`, which changes nothing.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] or [`ClientError::Rejected`].
    pub fn query(&mut self, body: &[u8]) -> Result<Answer, ClientError> {
        let deadline_ns = self.deadline(self.config.timeout);
        if self.endpoint.is_over() {
            self.renew();
        }
        self.endpoint.query(Bytes::copy_from_slice(body));
        self.answer(deadline_ns)
    }

    /// Closes the session, if there is one, so that it does not take up room until it is evicted,
    /// and all connections. Bounded by [`CLOSE_TIMEOUT`], and not reported: the session of a client
    /// that cannot say good-bye is evicted in its time. Gives the IO back.
    pub fn close(mut self) -> I {
        if self.endpoint.core().is_registered() && !self.terminated {
            self.endpoint.deregister();
            let deadline_ns = self.deadline(CLOSE_TIMEOUT);
            let _ = self.wait(deadline_ns);
        }
        self.endpoint.close(&mut self.io);
        self.io
    }

    /// What one replica says of itself, within `timeout`.
    pub fn status(&mut self, replica: ReplicaIndex, timeout: Duration) -> Option<StatusReport> {
        self.statuses(&[replica], timeout).pop().expect("one for each asked")
    }

    /// What all replicas say of themselves, asked at once, within `timeout`.
    pub fn status_all(&mut self, timeout: Duration) -> Vec<Option<StatusReport>> {
        let count = u8::try_from(self.config.addresses.len()).expect("at most 6 replicas");
        let replicas: Vec<ReplicaIndex> = (0..count).map(ReplicaIndex).collect();
        self.statuses(&replicas, timeout)
    }

    /// Lets `duration` pass, or less if the process is asked to end.
    pub fn pause(&mut self, duration: Duration) {
        let deadline_ns = self.deadline(duration);
        while self.io.monotonic() < deadline_ns && !self.terminated {
            self.turn(deadline_ns);
        }
    }

    /// The world it lives in, for its clock.
    pub fn io(&mut self) -> &mut I {
        &mut self.io
    }

    /// See [`Endpoint::is_dismissed`]: what to say where there is no answer.
    pub fn is_dismissed(&self) -> bool {
        self.endpoint.is_dismissed()
    }

    /// See [`Endpoint::is_misdirected`].
    pub fn is_misdirected(&self) -> bool {
        self.endpoint.is_misdirected()
    }

    /// Whether the process was asked to end (SIGTERM, SIGINT), as far as the IO reports it. Calls
    /// end early then, as if by their time-out.
    pub fn is_terminated(&self) -> bool {
        self.terminated
    }

    fn statuses(
        &mut self,
        replicas: &[ReplicaIndex],
        timeout: Duration,
    ) -> Vec<Option<StatusReport>> {
        if self.endpoint.is_over() {
            self.renew();
        }
        self.endpoint.forget_refused();
        for replica in replicas {
            self.endpoint.request_status(*replica);
        }
        let deadline_ns = self.deadline(timeout);
        let mut ask_at_ns = self.deadline(Duration::from_nanos(STATUS_PERIOD_NS));
        // One that refuses is not waited for, though it may come while others are.
        let is_open = |endpoint: &Endpoint, replica: &ReplicaIndex| {
            endpoint.report(*replica).is_none() && !endpoint.is_refused(*replica)
        };
        while replicas.iter().any(|replica| is_open(&self.endpoint, replica)) {
            let now_ns = self.io.monotonic();
            if now_ns >= deadline_ns || self.terminated {
                break;
            }
            if now_ns >= ask_at_ns {
                ask_at_ns = now_ns + STATUS_PERIOD_NS;
                for replica in replicas {
                    if self.endpoint.report(*replica).is_none() {
                        self.endpoint.request_status(*replica);
                    }
                }
            }
            self.turn(deadline_ns);
        }
        replicas.iter().map(|replica| self.endpoint.report(*replica).copied()).collect()
    }

    /// A new session in place of one that has ended, with an id of its own.
    fn renew(&mut self) {
        self.endpoint.close(&mut self.io);
        let now_ns = self.io.monotonic();
        let Self { config, prng, .. } = self;
        self.endpoint = Endpoint::new(config.cluster, &config.addresses, prng, now_ns);
    }

    fn deadline(&mut self, timeout: Duration) -> u64 {
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        self.io.monotonic().saturating_add(timeout_ns)
    }

    fn answer(&mut self, deadline_ns: u64) -> Result<Answer, ClientError> {
        match self.wait(deadline_ns)? {
            Outcome::Answered(answer) => Ok(answer),
            Outcome::Rejected(reason) => Err(ClientError::Rejected(reason)),
            Outcome::Evicted(reason) => Err(ClientError::OutcomeUnknown(Unknown::Evicted(reason))),
            other => unreachable!("{other:?} is no answer to a request"),
        }
    }

    /// Turns until what is in flight has come to its end.
    fn wait(&mut self, deadline_ns: u64) -> Result<Outcome, ClientError> {
        assert!(self.endpoint.core().is_in_flight());
        loop {
            if let Some(outcome) = self.turn(deadline_ns) {
                return Ok(outcome);
            }
            if self.io.monotonic() >= deadline_ns || self.terminated {
                return Err(match self.endpoint.give_up(&mut self.io) {
                    GaveUp::NotDone => ClientError::Unavailable,
                    GaveUp::Unknown => ClientError::OutcomeUnknown(Unknown::Timeout),
                });
            }
        }
    }

    /// Waits for events, at most until the next tick or `deadline_ns`, and carries them out.
    fn turn(&mut self, deadline_ns: u64) -> Option<Outcome> {
        let now_ns = self.io.monotonic();
        let until_deadline = Duration::from_nanos(deadline_ns.saturating_sub(now_ns));
        let timeout = self.endpoint.wait(now_ns).min(until_deadline);
        self.io.run(timeout, &mut self.events);
        for event in self.events.drain(..) {
            match event {
                Event::Socket { socket, readable, writable } => {
                    if self.endpoint.owns(socket) {
                        self.endpoint.on_event(&mut self.io, socket, readable, writable);
                    }
                }
                Event::Terminate => self.terminated = true,
                Event::ReadDone { .. } | Event::WriteDone { .. } => {
                    unreachable!("a client has no files")
                }
            }
        }
        let now_ns = self.io.monotonic();
        self.endpoint.turn(&mut self.io, now_ns)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str(
                "unavailable: no primary answered in time, and nothing was done; \
                 see `vsr status`, or try again with a longer --timeout",
            ),
            Self::OutcomeUnknown(Unknown::Timeout) => f.write_str(
                "outcome unknown: the request was sent and not answered in time; \
                 it may have been done, or may still be: read before trying again",
            ),
            Self::OutcomeUnknown(Unknown::Evicted(_)) => f.write_str(
                "outcome unknown: the session was evicted while the request was on its way; \
                 it may have been done: read before trying again",
            ),
            Self::Rejected(RejectReason::StoreFull) => f.write_str(
                "refused, not done: the cluster has no room for more (store_full); \
                 see docs/operating.md, \"Checkpoints, and a full disk\"",
            ),
            Self::Rejected(RejectReason::Invalid) => f.write_str(
                "refused, not done: the state machine does not take this request (invalid); \
                 see docs/operating.md for the limits of keys and values",
            ),
            Self::Rejected(RejectReason::TooLarge) => f.write_str(
                "refused, not done: the request is larger than a message of this cluster \
                 (too_large); its size was chosen with `vsr format --message-size`",
            ),
            Self::Rejected(RejectReason::ReplicaHeard) => f.write_str(
                "refused, not done: the replica was heard within the last 3 s (replica_heard): its \
                 data file is not lost; end it first, or let it live",
            ),
            Self::Rejected(RejectReason::TableChanged) => f.write_str(
                "refused, not done: another recovery came in between (table_changed): try again",
            ),
            Self::Rejected(RejectReason::NotPrimary | RejectReason::Busy) => {
                f.write_str("refused, not done: no primary had room for it; try again")
            }
        }
    }
}

impl std::error::Error for ClientError {}

#[cfg(test)]
mod tests;
