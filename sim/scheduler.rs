//! Virtual time: the queue of everything that will happen, and what waits to be handed to each
//! process.
//!
//! ```text
//!   network, disks ── after(delay, what) ──► queue by (time, sequence) ──► pop ──► now
//!        │                                                                  │
//!        └── mark, complete ──► Process { ready, completed } ──► Wake ──► a turn ──► IO::run
//! ```
//!
//! **Invariants:** time never goes back; events at one time come in the order they were made; a
//! process has at most one wake-up that counts.
//!
//! **Not here:** what events mean.

use super::fault::{Fault, FaultCounts};
use super::trace::{Entry, Trace};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use vsr::io::{Event, SocketId};
use vsr::stdx::Prng;

/// A millisecond, ns.
pub(crate) const MS: u64 = 1_000_000;
/// A second, ns.
pub(crate) const SECOND: u64 = 1000 * MS;

/// What happens to a connection.
#[derive(Debug)]
pub(crate) enum Transit {
    /// The dialler's wish arrives.
    Syn,
    /// The answer to it arrives.
    SynAck {
        /// Connected; else refused.
        accepted: bool,
    },
    /// Bytes arrive.
    Bytes {
        /// Over which path, by the network's numbering.
        path: usize,
        /// What.
        bytes: bytes::Bytes,
        /// They come off the sender's account; a duplicate does not.
        charged: bool,
    },
    /// The end of the stream arrives.
    Fin,
    /// A reset arrives.
    Reset,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum What {
    /// Process `process` has its turn, if it has not been asked for at another time since.
    Wake { process: usize },
    /// Something arrives at side `side` of a connection.
    Transit { connection: u64, side: usize, transit: Transit },
    /// An edge for no reason.
    Spurious { process: usize, socket: SocketId },
    /// A file operation of the process in its life `life` is done.
    Disk { process: usize, life: u32, operation: u64 },
    /// The driver looks around.
    Driver,
}

/// When something happens: the time, a number that orders what happens at one time, and the place
/// of what it is. Small, because a heap moves its elements about.
type Scheduled = Reverse<(u64, u64, usize)>;

/// The clocks of a machine.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Parts of a million that it runs too fast.
    pub(crate) drift_ppm: i64,
    /// What the monotonic clock showed at virtual time 0, ns.
    pub(crate) base: u64,
    /// What the wall clock is ahead of the monotonic one, ns.
    pub(crate) wall_ahead: u64,
}

impl Clock {
    pub(crate) fn monotonic(&self, now: u64) -> u64 {
        // In two parts, for the product of both would not fit.
        let (whole, rest) = (now / 1_000_000, now % 1_000_000);
        let signed = |number: u64| i64::try_from(number).expect("some minutes");
        let drift = signed(whole) * self.drift_ppm + signed(rest) * self.drift_ppm / 1_000_000;
        let drifted = signed(now) + drift;
        self.base + u64::try_from(drifted).expect("drift is far below a million")
    }

    pub(crate) fn realtime(&self, now: u64) -> u64 {
        self.monotonic(now) + self.wall_ahead
    }

    /// How long it takes until this clock has gone on by `duration` ns.
    fn real(&self, duration: u64) -> u64 {
        let rate = u64::try_from(1_000_000 + self.drift_ppm).expect("drift is below a million");
        match duration.checked_mul(1_000_000) {
            Some(product) => product / rate + 1,
            None => {
                let real = u128::from(duration) * 1_000_000 / u128::from(rate);
                u64::try_from(real).expect("a time-out") + 1
            }
        }
    }
}

/// A process: what waits for its next turn.
#[derive(Debug)]
pub(crate) struct Process {
    ready: BTreeMap<SocketId, (bool, bool)>,
    completed: Vec<Event>,
    /// When the wake-up that counts is due; `u64::MAX` for none.
    wake_at: u64,
    /// The turn before takes until then.
    busy_until: u64,
    pub(crate) is_alive: bool,
    pub(crate) is_paused: bool,
    /// Counts its starts.
    pub(crate) life: u32,
    pub(crate) clock: Clock,
    pub(crate) entropy: Prng,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Scheduler {
    now: u64,
    sequence: u64,
    queue: BinaryHeap<Scheduled>,
    /// What will happen, by place.
    ahead: Vec<Option<What>>,
    /// The places that are free.
    free: Vec<usize>,
    pub(crate) processes: Vec<Process>,
    pub(crate) counts: FaultCounts,
    pub(crate) trace: Trace,
    /// Whether each event is a line on stdout.
    is_logged: bool,
    /// Of each turn: what it takes, ns.
    turn_ns: u64,
}

impl Scheduler {
    pub(crate) fn new(seed: u64, turn_ns: u64, is_logged: bool) -> Self {
        assert!(turn_ns > 0);
        Self {
            now: 0,
            sequence: 0,
            queue: BinaryHeap::new(),
            ahead: Vec::new(),
            free: Vec::new(),
            processes: Vec::new(),
            counts: FaultCounts::new(),
            trace: Trace::new(seed),
            is_logged,
            turn_ns,
        }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// A process that is not alive yet.
    pub(crate) fn add_process(&mut self, clock: Clock, entropy: Prng) -> usize {
        self.processes.push(Process {
            ready: BTreeMap::new(),
            completed: Vec::new(),
            wake_at: u64::MAX,
            busy_until: 0,
            is_alive: false,
            is_paused: false,
            life: 0,
            clock,
            entropy,
        });
        self.processes.len() - 1
    }

    /// The next event, at whose time it then is.
    pub(crate) fn pop(&mut self) -> Option<What> {
        let Reverse((time, _, place)) = self.queue.pop()?;
        assert!(time >= self.now);
        self.now = time;
        self.free.push(place);
        let what = self.ahead[place].take();
        assert!(what.is_some(), "what is queued happens once");
        what
    }

    /// Lets `what` happen after `delay` ns.
    pub(crate) fn after(&mut self, delay: u64, what: What) {
        self.at(self.now + delay, what);
    }

    /// Lets `what` happen at `time`, or now if that is past.
    pub(crate) fn at(&mut self, time: u64, what: What) {
        self.sequence += 1;
        let place = self.free.pop().unwrap_or_else(|| {
            self.ahead.push(None);
            self.ahead.len() - 1
        });
        self.ahead[place] = Some(what);
        self.queue.push(Reverse((time.max(self.now), self.sequence, place)));
    }

    // ---- processes

    /// The process begins: it has its first turn at once.
    pub(crate) fn start(&mut self, process: usize) {
        let state = &mut self.processes[process];
        assert!(!state.is_alive);
        state.is_alive = true;
        state.is_paused = false;
        state.life += 1;
        state.busy_until = self.now;
        self.wake(process, self.now);
    }

    /// The process ends: nothing waits for it any more.
    pub(crate) fn stop(&mut self, process: usize) {
        let state = &mut self.processes[process];
        assert!(state.is_alive);
        state.is_alive = false;
        state.is_paused = false;
        state.ready.clear();
        state.completed.clear();
        state.wake_at = u64::MAX;
    }

    /// Stands still, or goes on.
    pub(crate) fn pause(&mut self, process: usize, is_paused: bool) {
        assert!(self.processes[process].is_alive);
        self.processes[process].is_paused = is_paused;
        if !is_paused {
            self.processes[process].wake_at = u64::MAX;
            self.wake(process, self.now);
        }
    }

    fn wake(&mut self, process: usize, time: u64) {
        let state = &mut self.processes[process];
        if !state.is_alive || state.is_paused {
            return;
        }
        let time = time.max(state.busy_until).max(self.now);
        if time < state.wake_at {
            state.wake_at = time;
            self.at(time, What::Wake { process });
        }
    }

    /// Whether a wake-up that was popped counts: then the turn begins.
    pub(crate) fn begin_turn(&mut self, process: usize) -> bool {
        let state = &mut self.processes[process];
        if !state.is_alive || state.is_paused || state.wake_at != self.now {
            return false;
        }
        state.wake_at = u64::MAX;
        state.busy_until = self.now + self.turn_ns;
        true
    }

    /// The turn is over; the next one is due after `wait` ns on the process's clock, or earlier if
    /// something comes, or has come.
    pub(crate) fn end_turn(&mut self, process: usize, wait: u64) {
        let state = &self.processes[process];
        let pending = !state.ready.is_empty() || !state.completed.is_empty();
        let wait = if pending { 0 } else { state.clock.real(wait) };
        self.wake(process, self.now + wait);
    }

    /// An edge of a socket.
    pub(crate) fn mark(
        &mut self,
        process: usize,
        socket: SocketId,
        readable: bool,
        writable: bool,
    ) {
        if !self.processes[process].is_alive {
            return;
        }
        let edges = self.processes[process].ready.entry(socket).or_default();
        edges.0 |= readable;
        edges.1 |= writable;
        self.wake(process, self.now);
    }

    /// No event of this socket is reported any more.
    pub(crate) fn unmark(&mut self, process: usize, socket: SocketId) {
        self.processes[process].ready.remove(&socket);
    }

    /// A file operation is complete.
    pub(crate) fn complete(&mut self, process: usize, event: Event) {
        self.processes[process].completed.push(event);
        self.wake(process, self.now);
    }

    /// Hands over what waits for a process.
    pub(crate) fn take(&mut self, process: usize, events: &mut Vec<Event>) {
        let state = &mut self.processes[process];
        events.append(&mut state.completed);
        while let Some((socket, (readable, writable))) = state.ready.pop_first() {
            events.push(Event::Socket { socket, readable, writable });
        }
    }

    // ---- the record

    /// Something happened to a process.
    pub(crate) fn note(&mut self, process: usize, what: &'static str, a: u64, b: u64) {
        let entry = Entry { time: self.now, process, what, a, b };
        self.trace.note(entry);
        if self.is_logged {
            super::report::log_entry(&entry);
        }
    }

    /// A fault happened to a process.
    pub(crate) fn fault(&mut self, process: usize, fault: Fault, a: u64, b: u64) {
        self.counts.note(fault);
        self.note(process, fault.name(), a, b);
    }
}
