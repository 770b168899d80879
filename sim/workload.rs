//! The clients of a run: each opens a session, makes calls, one at a time, and leaves or vanishes,
//! and comes again as another client. What they asked and were told goes to the checkers.
//!
//! ```text
//!   Away ──► Registering ──► Idle ◄──► InFlight
//!    ▲            │           │            │
//!    │ gave up ◄──┘           ▼            │ gave up, evicted, rejected
//!    └─── deregistered ── Leaving          │
//!    └─────────────────────────────────────┘
//! ```
//!
//! **Invariants:** no value is written by two calls; a call is returned once, or its client has
//! vanished; a call that was given up is never asked again.
//!
//! **Not here:** resending, which is the client's own; when processes pause.

use super::checkers::{Call, CallResult, Checkers, Observed};
use super::fault::Fault;
use super::faulty_io::FaultyIO;
use super::network::address_of;
use super::options::{Options, delay, ppm};
use super::random::Ppm;
use super::scheduler::{MS, SECOND};
use super::world::SharedWorld;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use vsr::client::{Endpoint, GaveUp, Outcome};
use vsr::io::{Event, IO};
use vsr::stdx::Prng;
use vsr::wire::ClusterId;

#[cfg(test)]
#[path = "scenarios/hooks_client.rs"]
mod hooks;

/// How many calls there are to be made, over all clients.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    /// Calls begun.
    pub(crate) begun: u64,
    /// Calls to begin, at most.
    pub(crate) max: u64,
    /// A call begun from now on that comes to no answer is made good by another one: it takes an
    /// answer to each to be done.
    pub(crate) is_answer_owed: bool,
    /// Calls that came to an answer.
    pub(crate) answered: u64,
    /// Calls of which nobody knows.
    pub(crate) unknown: u64,
}

/// What a client is doing. Times are virtual, ns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Away { until: u64 },
    Registering { deadline: u64 },
    Idle { until: u64 },
    InFlight { deadline: u64 },
    Leaving { deadline: u64 },
}

/// A call, of either state machine.
#[derive(Debug)]
enum Asked {
    Kv(Call),
    Ledger(Bytes),
}

/// One client after the other, in one process.
#[derive(Debug)]
pub(crate) struct ClientSlot {
    world: SharedWorld,
    process: usize,
    cluster: ClusterId,
    addresses: Vec<SocketAddr>,
    io: FaultyIO,
    prng: Prng,
    endpoint: Option<Endpoint>,
    phase: Phase,
    /// For the checkers: a number for each endpoint.
    client: u64,
    generation: u64,
    call: Option<Asked>,
    /// The open call must be made good if it is not answered.
    is_answer_owed: bool,
    calls: u64,
    /// It does not come again.
    is_retired: bool,
    /// The last that was seen of each key.
    seen: BTreeMap<Bytes, Option<Bytes>>,
    events: Vec<Event>,
    /// What it is to do, if a scenario says so.
    #[cfg(test)]
    pub(crate) script: Option<super::scenarios::ClientScript>,
}

impl ClientSlot {
    pub(crate) fn new(
        world: &SharedWorld,
        process: usize,
        replica_count: usize,
        cluster: ClusterId,
        prng: Prng,
    ) -> Self {
        Self {
            world: world.clone(),
            process,
            cluster,
            addresses: (0..replica_count).map(address_of).collect(),
            io: FaultyIO::new(world.clone(), process),
            prng,
            endpoint: None,
            phase: Phase::Away { until: 0 },
            client: 0,
            generation: 0,
            call: None,
            is_answer_owed: false,
            calls: 0,
            is_retired: false,
            seen: BTreeMap::new(),
            events: Vec::new(),
            #[cfg(test)]
            script: None,
        }
    }

    /// Whether a call of it has no end yet.
    pub(crate) fn has_call(&self) -> bool {
        self.call.is_some()
    }

    /// Once it has left it stays away.
    pub(crate) fn retire(&mut self) {
        self.is_retired = true;
    }

    /// One turn; returns how long the next one may wait on the process's clock.
    ///
    /// # Errors
    /// An answer that is none.
    pub(crate) fn turn(
        &mut self,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) -> Result<Duration, String> {
        let now = self.world.borrow().scheduler.now();
        let outcome = self.pump();
        if let Some(outcome) = outcome {
            self.on_outcome(outcome, now, options, budget, checkers)?;
        }
        if self.endpoint.as_ref().is_some_and(Endpoint::is_over) {
            self.leave(now, CallResult::Unknown, budget, checkers);
        }
        self.on_time(now, options, budget, checkers);
        let until = match self.phase {
            Phase::Away { until } | Phase::Idle { until } => until,
            Phase::Registering { deadline }
            | Phase::InFlight { deadline }
            | Phase::Leaving { deadline } => deadline,
        };
        let own = Duration::from_nanos(until.saturating_sub(now).max(1000));
        let monotonic = self.io.monotonic();
        Ok(self.endpoint.as_ref().map_or(own, |endpoint| own.min(endpoint.wait(monotonic))))
    }

    fn pump(&mut self) -> Option<Outcome> {
        self.io.run(Duration::ZERO, &mut self.events);
        let monotonic = self.io.monotonic();
        let endpoint = self.endpoint.as_mut();
        let Some(endpoint) = endpoint else {
            self.events.clear();
            return None;
        };
        for event in self.events.drain(..) {
            if let Event::Socket { socket, readable, writable } = event
                && endpoint.owns(socket)
            {
                endpoint.on_event(&mut self.io, socket, readable, writable);
            }
        }
        endpoint.turn(&mut self.io, monotonic)
    }

    fn on_outcome(
        &mut self,
        outcome: Outcome,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) -> Result<(), String> {
        match outcome {
            Outcome::Registered => self.rest(now, options),
            Outcome::Answered(answer) => {
                let asked = self.call.take().expect("only calls are answered");
                self.note("answered", answer.op, answer.view.0.into());
                budget.answered += 1;
                match asked {
                    Asked::Ledger(_) => checkers.on_ledger_return(self.client, Some(answer.op)),
                    Asked::Kv(call) => {
                        let result = call.result(&answer)?;
                        self.remember(&call, &result);
                        self.end_call(now, result, checkers);
                    }
                }
                self.rest(now, options);
            }
            Outcome::Deregistered => self.leave(now, CallResult::NotDone, budget, checkers),
            Outcome::Rejected(reason) => {
                self.note("rejected", reason as u64, 0);
                self.leave(now, CallResult::NotDone, budget, checkers);
            }
            Outcome::Evicted(reason) => {
                self.note("evicted", reason as u64, 0);
                self.leave(now, CallResult::Unknown, budget, checkers);
            }
        }
        Ok(())
    }

    /// The open call has ended, and has been taken.
    fn end_call(&mut self, now: u64, result: CallResult, checkers: &mut Checkers) {
        #[cfg(test)]
        self.note_result(&result);
        checkers.on_return(self.client, now, result);
    }

    /// Does what is due.
    fn on_time(
        &mut self,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) {
        #[cfg(test)]
        if self.on_time_scripted(now, options, budget, checkers) {
            return;
        }
        match self.phase {
            Phase::Away { until }
                if now >= until && budget.begun < budget.max && !self.is_retired =>
            {
                self.come(now, options);
            }
            Phase::Idle { until } if now >= until => {
                let is_last = self.prng.below(options.session_calls) == 0 && self.calls > 0;
                if budget.begun == budget.max || is_last {
                    self.end_session(now, options, budget, checkers);
                } else {
                    self.begin_call(now, options, budget, checkers);
                }
            }
            Phase::Registering { deadline }
            | Phase::InFlight { deadline }
            | Phase::Leaving { deadline }
                if now >= deadline =>
            {
                let endpoint = self.endpoint.as_mut().expect("something is in flight");
                let result = match endpoint.give_up(&mut self.io) {
                    GaveUp::NotDone => CallResult::NotDone,
                    GaveUp::Unknown => CallResult::Unknown,
                };
                self.note("gave_up", u64::from(result == CallResult::Unknown), 0);
                self.leave(now, result, budget, checkers);
            }
            Phase::Away { until } if now >= until => {
                self.phase = Phase::Away { until: now + 50 * MS };
            }
            _ => {}
        }
    }

    fn come(&mut self, now: u64, options: &Options) {
        assert!(self.endpoint.is_none());
        self.generation += 1;
        self.client = self.process as u64 * 1_000_000 + self.generation;
        self.calls = 0;
        let monotonic = self.io.monotonic();
        let mut endpoint = Endpoint::new(self.cluster, &self.addresses, &mut self.prng, monotonic);
        endpoint.register();
        self.endpoint = Some(endpoint);
        self.phase = Phase::Registering { deadline: now + options.call_timeout * 1000 };
        self.note("register", self.generation, 0);
    }

    fn rest(&mut self, now: u64, options: &Options) {
        let think = delay(1, options.think_mean).draw(&mut self.prng);
        self.phase = Phase::Idle { until: now + think };
    }

    /// The client is gone; what it may have had in flight ended with `result`.
    fn leave(
        &mut self,
        now: u64,
        result: CallResult,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) {
        if let Some(asked) = self.call.take() {
            if result == CallResult::Unknown {
                budget.unknown += 1;
            }
            budget.max += u64::from(self.is_answer_owed);
            match asked {
                Asked::Ledger(_) => checkers.on_ledger_return(self.client, None),
                Asked::Kv(_) => self.end_call(now, result, checkers),
            }
        }
        if let Some(mut endpoint) = self.endpoint.take() {
            endpoint.close(&mut self.io);
        }
        let pause = self.prng.range_inclusive(MS, 100 * MS);
        self.phase = Phase::Away { until: now + pause };
    }

    fn end_session(
        &mut self,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) {
        if ppm(options.vanish).happens(&mut self.prng) {
            self.vanish();
            self.leave(now, CallResult::Unknown, budget, checkers);
            return;
        }
        let endpoint = self.endpoint.as_mut().expect("it is idle");
        endpoint.deregister();
        self.phase = Phase::Leaving { deadline: now + 2 * SECOND };
    }

    /// The process dies, with all its connections.
    fn vanish(&mut self) {
        self.endpoint = None;
        let is_silent = Ppm(500_000).happens(&mut self.prng);
        let world = &mut *self.world.borrow_mut();
        world.network.crash(&mut world.scheduler, self.process, is_silent);
        world.scheduler.stop(self.process);
        world.scheduler.start(self.process);
        world.scheduler.fault(self.process, Fault::ClientVanished, self.generation, 0);
    }

    fn begin_call(
        &mut self,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) {
        if options.machine != 0 {
            let (body, is_query) = self.draw_ledger_call(options);
            checkers.on_ledger_invoke(self.client, &body);
            return self.ask(Asked::Ledger(body), is_query, now, options, budget);
        }
        let call = self.draw_call(options);
        let is_query = call.is_read() && self.prng.below(100) < options.query_percent;
        self.invoke(call, is_query, now, options, budget, checkers);
    }

    fn invoke(
        &mut self,
        call: Call,
        is_query: bool,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) {
        checkers.on_invoke(self.client, now, call.clone());
        self.ask(Asked::Kv(call), is_query, now, options, budget);
    }

    fn ask(
        &mut self,
        asked: Asked,
        is_query: bool,
        now: u64,
        options: &Options,
        budget: &mut Budget,
    ) {
        let body = match &asked {
            Asked::Kv(call) => Bytes::from(call.request()),
            Asked::Ledger(body) => body.clone(),
        };
        let endpoint = self.endpoint.as_mut().expect("it is idle");
        if is_query {
            endpoint.query(body);
        } else {
            endpoint.request(body);
        }
        self.calls += 1;
        budget.begun += 1;
        self.is_answer_owed = budget.is_answer_owed;
        self.note("call", budget.begun, u64::from(is_query));
        self.call = Some(asked);
        self.phase = Phase::InFlight { deadline: now + options.call_timeout * 1000 };
    }

    fn draw_call(&mut self, options: &Options) -> Call {
        let key = Bytes::from(format!("k{}", self.prng.below(options.keys)));
        if self.prng.below(100) < options.read_percent {
            if self.prng.below(4) == 0 {
                let limit = u32::try_from(self.prng.range_inclusive(1, 20)).expect("small");
                let start = if self.prng.below(2) == 0 { Bytes::new() } else { key };
                return Call::Scan { start, end: Bytes::new(), limit };
            }
            return Call::Get { key };
        }
        let value = self.draw_value(options);
        match self.prng.below(5) {
            0 => Call::Delete { key },
            1 | 2 => {
                let old = self.seen.get(&key).cloned().flatten();
                Call::Cas { key, old, new: value }
            }
            _ => Call::Put { key, value },
        }
    }

    /// What is asked of a ledger, and whether it goes as a query.
    fn draw_ledger_call(&mut self, options: &Options) -> (Bytes, bool) {
        let (account, other) = (self.prng.below(options.keys), self.prng.below(options.keys));
        let amount = self.prng.below(100);
        let is_read = self.prng.below(100) < options.read_percent;
        let text = match (is_read, self.prng.below(4)) {
            (true, 0) => "total".to_owned(),
            (true, _) => format!("balance {account}"),
            (false, 0) => format!("open {account} {amount}"),
            (false, _) => format!("transfer {account} {other} {amount}"),
        };
        let is_query = is_read && self.prng.below(100) < options.query_percent;
        (Bytes::from(text), is_query)
    }

    /// A value of a random length that no other call writes.
    fn draw_value(&mut self, options: &Options) -> Bytes {
        let mut value = format!("{}-{}-", self.client, self.calls).into_bytes();
        let size = self.prng.range_inclusive(value.len() as u64, options.value_size);
        value.resize(usize::try_from(size).expect("a value"), b'.');
        Bytes::from(value)
    }

    /// Keeps what a call shows of its key, for later comparisons.
    fn remember(&mut self, call: &Call, result: &CallResult) {
        let CallResult::Done(done) = result else { return };
        let (Some(key), observed) = (call.key(), &done.observed) else { return };
        let value = match observed {
            Observed::Put | Observed::CasDone => call.value_written().cloned(),
            Observed::Get(record) => record.as_ref().map(|record| record.value.clone()),
            Observed::Delete { .. } => None,
            Observed::CasFailed(_) | Observed::Scan { .. } => return,
        };
        self.seen.insert(key.clone(), value);
    }

    fn note(&self, what: &'static str, a: u64, b: u64) {
        self.world.borrow_mut().scheduler.note(self.process, what, a, b);
    }
}
