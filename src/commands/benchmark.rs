//! F6: `vsr benchmark`: many clients with one request in flight each, on one thread and one IO.
//!
//! ```text
//!   register all ──► warm-up ──► measured ──► drain: no new requests, close the sessions
//!                    not counted               ▲
//!                        └── the log is full, or a signal ──┘
//! ```
//!
//! A latency is from the moment a request is handed to its client until its reply is taken out,
//! resends included. The load is closed: a client sends its next request when it has its reply, so
//! a slow cluster is asked for less, and percentiles do not tell what an open load would suffer.
//!
//! **Invariants:** a full log ends the measurement and says so; it is not an error of a request.
//!
//! **Not here:** clusters of several machines: give their `--addresses`.

use super::cluster::LocalCluster;
use super::histogram::Histogram;
use super::json::Object;
use super::{Exit, Result, io_new, print};
use crate::cli;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use vsr::client::{ClientError, Endpoint, Outcome};
use vsr::constants::TICK_NS;
use vsr::io::{Event, IO, SocketId};
use vsr::state_machine::kv::Request;
use vsr::stdx::{Prng, Ratio};
use vsr::storage::Geometry;
use vsr::wire::{ClusterId, RejectReason};

/// A request that takes longer is given up and counted as an error.
const REQUEST_TIMEOUT_NS: u64 = 10_000_000_000;
/// The longest warm-up.
const WARM_UP_NS_MAX: u64 = 2_000_000_000;
/// How long sessions may take to close.
const DRAIN_NS_MAX: u64 = 2_000_000_000;
/// What the journal of a replica of our own may take, bytes.
const JOURNAL_SIZE_MAX: u64 = 512 << 20;
/// Bytes of a request around its value: entry, kv's encoding, key.
const AROUND_VALUE: u32 = 64 + 16 + 16;

/// `vsr benchmark`.
pub(super) fn run(arguments: cli::Benchmark) -> Result {
    let mut io = io_new(true)?;
    let Some(addresses) = &arguments.addresses else {
        let geometry = geometry(arguments.clients, arguments.value_size);
        let mut cluster = LocalCluster::new(&mut io, "benchmark", geometry)?;
        let mut client = cluster.start_all(io)?;
        if client.is_terminated() {
            return Ok(Exit::Done);
        }
        let addresses = cluster.addresses().to_vec();
        client.pause(Duration::ZERO);
        return measure(client.close(), &arguments, &addresses);
    };
    measure(io, &arguments, addresses)
}

/// Small slots and many of them: the log is what a benchmark uses up.
fn geometry(clients: u32, value_size: u32) -> Geometry {
    let default = Geometry::default();
    // Room for what gathers while a pipeline is in flight, if it is not too much.
    let batch = u64::from(clients.min(64)) * u64::from(AROUND_VALUE + value_size);
    let one = u64::from(AROUND_VALUE + value_size);
    let body = batch.min(256 << 10).max(one);
    let message_size = (128 + body).next_multiple_of(4096).max(8192);
    let slots = (JOURNAL_SIZE_MAX / message_size).clamp(1024, 1 << 16) / 64 * 64;
    let geometry = Geometry {
        message_size: u32::try_from(message_size).expect("below 1 MiB"),
        journal_slots: u32::try_from(slots).expect("clamped"),
        ..default
    };
    assert_eq!(geometry.invalid(), None);
    geometry
}

fn measure<I: IO>(mut io: I, arguments: &cli::Benchmark, addresses: &[SocketAddr]) -> Result {
    let mut load = Load::new(&mut io, arguments, addresses);
    load.run(&mut io)?;
    let result = load.result();
    load.drain(&mut io);
    print(&if arguments.json { result.json(arguments) } else { result.text(arguments) })?;
    // Figures of nothing are no measurement.
    Ok(if result.requests == 0 { Exit::Unavailable } else { Exit::Done })
}

/// One client of the load.
#[derive(Debug)]
struct Worker {
    endpoint: Endpoint,
    /// When what is in flight was begun, ns.
    start_ns: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measured,
    Over,
}

#[derive(Debug)]
struct Load<'a> {
    arguments: &'a cli::Benchmark,
    addresses: &'a [SocketAddr],
    cluster: ClusterId,
    prng: Prng,
    workers: Vec<Worker>,
    /// Whose socket it is. Ids are not reused, so entries are never wrong.
    sockets: BTreeMap<SocketId, usize>,
    /// Workers to be given a turn.
    ready: BTreeSet<usize>,
    phase: Phase,
    phase_end_ns: u64,
    measured_start_ns: u64,
    measured_end_ns: u64,
    tick_next_ns: u64,
    answered: bool,
    value: Vec<u8>,
    latencies: Histogram,
    errors: u64,
    stopped: Option<&'static str>,
}

impl<'a> Load<'a> {
    fn new<I: IO>(io: &mut I, arguments: &'a cli::Benchmark, addresses: &'a [SocketAddr]) -> Self {
        let mut prng = Prng::from_seed(io.entropy());
        let now_ns = io.monotonic();
        let cluster = arguments.cluster;
        let mut value = vec![0; arguments.value_size as usize];
        prng.fill(&mut value);
        let workers = (0..arguments.clients).map(|_| {
            let mut endpoint = Endpoint::new(cluster, addresses, &mut prng, now_ns);
            endpoint.register();
            Worker { endpoint, start_ns: now_ns }
        });
        let workers: Vec<Worker> = workers.collect();
        Self {
            arguments,
            addresses,
            cluster,
            ready: (0..workers.len()).collect(),
            workers,
            prng,
            sockets: BTreeMap::new(),
            phase: Phase::WarmUp,
            phase_end_ns: now_ns + nanoseconds(arguments.duration / 5).min(WARM_UP_NS_MAX),
            measured_start_ns: now_ns,
            measured_end_ns: now_ns,
            tick_next_ns: now_ns + TICK_NS,
            answered: false,
            value,
            latencies: Histogram::new(),
            errors: 0,
            stopped: None,
        }
    }

    fn run<I: IO>(&mut self, io: &mut I) -> std::result::Result<(), ClientError> {
        let start_ns = io.monotonic();
        let mut events = Vec::new();
        while self.phase != Phase::Over {
            self.turn(io, &mut events);
            let now_ns = io.monotonic();
            if !self.answered && now_ns >= start_ns + REQUEST_TIMEOUT_NS {
                return Err(ClientError::Unavailable);
            }
            // The warm-up begins to count with the first answer: opening sessions is none of it.
            if now_ns < self.phase_end_ns || !self.answered {
                continue;
            }
            match self.phase {
                Phase::WarmUp => {
                    self.phase = Phase::Measured;
                    self.measured_start_ns = now_ns;
                    self.phase_end_ns = now_ns + nanoseconds(self.arguments.duration);
                }
                Phase::Measured => self.stop(now_ns, None),
                Phase::Over => {}
            }
        }
        Ok(())
    }

    fn stop(&mut self, now_ns: u64, reason: Option<&'static str>) {
        if self.phase != Phase::Over {
            if self.phase == Phase::WarmUp {
                self.measured_start_ns = now_ns;
            }
            self.phase = Phase::Over;
            self.measured_end_ns = now_ns;
            self.stopped = reason;
        }
    }

    /// Waits for events, at most until the next tick, and gives a turn to whom they concern.
    fn turn<I: IO>(&mut self, io: &mut I, events: &mut Vec<Event>) {
        let now_ns = io.monotonic();
        let wait_ns =
            if self.ready.is_empty() { self.tick_next_ns.saturating_sub(now_ns) } else { 0 };
        io.run(Duration::from_nanos(wait_ns), events);
        for event in events.drain(..) {
            match event {
                Event::Socket { socket, readable, writable } => {
                    if let Some(index) = self.owner(socket) {
                        self.workers[index].endpoint.on_event(io, socket, readable, writable);
                        self.ready.insert(index);
                    }
                }
                Event::Terminate => self.stop(now_ns, Some("interrupted by a signal")),
                Event::ReadDone { .. } | Event::WriteDone { .. } => {
                    unreachable!("a client has no files")
                }
            }
        }
        let now_ns = io.monotonic();
        if now_ns >= self.tick_next_ns {
            self.tick_next_ns = now_ns + TICK_NS;
            self.ready = (0..self.workers.len()).collect();
        }
        for index in std::mem::take(&mut self.ready) {
            self.turn_of(io, index);
        }
    }

    fn turn_of<I: IO>(&mut self, io: &mut I, index: usize) {
        let now_ns = io.monotonic();
        let worker = &mut self.workers[index];
        if let Some(outcome) = worker.endpoint.turn(io, now_ns) {
            self.ended(index, &outcome, now_ns);
        }
        let worker = &mut self.workers[index];
        let in_flight = worker.endpoint.core().is_in_flight();
        if in_flight && now_ns - worker.start_ns > REQUEST_TIMEOUT_NS {
            worker.endpoint.give_up(io);
            self.errors += 1;
        }
        if self.phase != Phase::Over && !self.workers[index].endpoint.core().is_in_flight() {
            self.begin(io, index, now_ns);
        }
        let worker = &self.workers[index];
        if worker.endpoint.wait(now_ns).is_zero() && !worker.endpoint.is_over() {
            self.ready.insert(index);
        }
    }

    fn ended(&mut self, index: usize, outcome: &Outcome, now_ns: u64) {
        match outcome {
            Outcome::Registered | Outcome::Deregistered => {}
            Outcome::Answered(answer) => {
                self.answered = true;
                if self.phase != Phase::Measured {
                    return;
                }
                if answer.result == 0 {
                    self.latencies.record(now_ns - self.workers[index].start_ns);
                } else {
                    self.errors += 1;
                }
            }
            Outcome::Rejected(RejectReason::StoreFull) => {
                self.answered = true;
                self.stop(now_ns, Some("the cluster has no room for more (store_full)"));
            }
            Outcome::Rejected(RejectReason::TooLarge) => {
                self.answered = true;
                self.stop(now_ns, Some("a value is larger than a message of the cluster allows"));
            }
            Outcome::Rejected(_) | Outcome::Evicted(_) => self.errors += 1,
        }
    }

    /// The next request of a worker that has nothing in flight.
    fn begin<I: IO>(&mut self, io: &mut I, index: usize, now_ns: u64) {
        if self.workers[index].endpoint.is_over() {
            self.workers[index].endpoint.close(io);
            let (cluster, prng) = (self.cluster, &mut self.prng);
            self.workers[index].endpoint = Endpoint::new(cluster, self.addresses, prng, now_ns);
        }
        let key = format!("benchmark-{:06x}", self.prng.below(self.arguments.keys));
        let read = self.prng.chance(Ratio::new(self.arguments.read_percent, 100));
        let worker = &mut self.workers[index];
        worker.start_ns = now_ns;
        if !worker.endpoint.core().is_registered() {
            worker.endpoint.register();
        } else if read {
            worker.endpoint.query(Bytes::from(Request::get(key.as_bytes()).encode()));
        } else {
            let request = Request::put(key.as_bytes(), &self.value);
            worker.endpoint.request(Bytes::from(request.encode()));
        }
    }

    fn owner(&mut self, socket: SocketId) -> Option<usize> {
        if let Some(index) = self.sockets.get(&socket) {
            return Some(*index);
        }
        let index = self.workers.iter().position(|worker| worker.endpoint.owns(socket))?;
        self.sockets.insert(socket, index);
        Some(index)
    }

    /// Lets what is in flight end and closes the sessions, for a while.
    fn drain<I: IO>(&mut self, io: &mut I) {
        assert_eq!(self.phase, Phase::Over);
        let deadline_ns = io.monotonic() + DRAIN_NS_MAX;
        let mut events = Vec::new();
        while io.monotonic() < deadline_ns {
            for (index, worker) in self.workers.iter_mut().enumerate() {
                let core = worker.endpoint.core();
                if core.is_registered() && !core.is_in_flight() && !worker.endpoint.is_over() {
                    worker.endpoint.deregister();
                    self.ready.insert(index);
                }
            }
            let left = self.workers.iter().filter(|worker| worker.endpoint.core().is_in_flight());
            if left.count() == 0 {
                break;
            }
            self.turn(io, &mut events);
        }
        for worker in &mut self.workers {
            worker.endpoint.close(io);
        }
    }

    fn result(&self) -> Figures {
        let elapsed_ns = self.measured_end_ns - self.measured_start_ns;
        let requests = self.latencies.count();
        let per_second = u128::from(requests) * 1_000_000_000 / u128::from(elapsed_ns.max(1));
        Figures {
            elapsed_ms: elapsed_ns / 1_000_000,
            requests,
            per_second: u64::try_from(per_second).unwrap_or(u64::MAX),
            latencies_us: [500, 900, 990, 999]
                .map(|per_mille| self.latencies.percentile(per_mille) / 1000),
            latency_us_max: self.latencies.max() / 1000,
            errors: self.errors,
            stopped: self.stopped,
        }
    }
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Figures {
    elapsed_ms: u64,
    requests: u64,
    per_second: u64,
    /// p50, p90, p99, p99.9.
    latencies_us: [u64; 4],
    latency_us_max: u64,
    errors: u64,
    /// Why it ended before its time.
    stopped: Option<&'static str>,
}

impl Figures {
    fn text(&self, arguments: &cli::Benchmark) -> String {
        let [p50, p90, p99, p999] = self.latencies_us;
        let Self { elapsed_ms, requests, per_second, latency_us_max, errors, stopped, .. } = self;
        let cli::Benchmark { clients, value_size, keys, read_percent, .. } = arguments;
        let mut text = format!(
            "{clients} clients, values of {value_size} B, {keys} keys, {read_percent}% reads\n\
             {requests} requests in {elapsed_ms} ms: {per_second} requests/s, {errors} errors\n\
             latency us: p50 {p50}, p90 {p90}, p99 {p99}, p99.9 {p999}, max {latency_us_max}\n"
        );
        if let Some(reason) = stopped {
            text.push_str(&format!("ended early: {reason}\n"));
        }
        text
    }

    fn json(&self, arguments: &cli::Benchmark) -> String {
        let [p50, p90, p99, p999] = self.latencies_us;
        let latencies = Object::default()
            .raw("p50", p50)
            .raw("p90", p90)
            .raw("p99", p99)
            .raw("p99.9", p999)
            .raw("max", self.latency_us_max);
        let object = Object::default()
            .raw("clients", arguments.clients)
            .raw("value_size", arguments.value_size)
            .raw("keys", arguments.keys)
            .raw("read_percent", arguments.read_percent)
            .raw("elapsed_ms", self.elapsed_ms)
            .raw("requests", self.requests)
            .raw("requests_per_second", self.per_second)
            .raw("latency_us", latencies.finish())
            .raw("errors", self.errors);
        let object = match self.stopped {
            Some(reason) => object.text("ended_early", reason),
            None => object.raw("ended_early", "null"),
        };
        object.finish() + "\n"
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("at most a day")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometry_fits_every_load() {
        for clients in [1, 32, 1000] {
            for value_size in [0, 128, 4096, 512 << 10] {
                let geometry = geometry(clients, value_size);
                assert_eq!(geometry.invalid(), None);
                assert!(geometry.request_size_max() >= value_size + 32, "{clients} {value_size}");
            }
        }
    }

    #[test]
    fn figures_as_text_and_json() {
        let arguments = cli::Benchmark {
            clients: 2,
            value_size: 3,
            duration: Duration::from_secs(1),
            keys: 4,
            read_percent: 5,
            addresses: None,
            cluster: ClusterId(0),
            json: false,
        };
        let figures = Figures {
            elapsed_ms: 1000,
            requests: 77,
            per_second: 76,
            latencies_us: [1, 2, 3, 4],
            latency_us_max: 5,
            errors: 0,
            stopped: Some("the log is full"),
        };
        let text = figures.text(&arguments);
        assert!(text.contains("77 requests in 1000 ms: 76 requests/s, 0 errors"));
        assert!(text.contains("p50 1, p90 2, p99 3, p99.9 4, max 5"));
        assert!(text.ends_with("ended early: the log is full\n"));
        let json = figures.json(&arguments);
        assert!(
            json.contains(r#""latency_us": {"p50": 1, "p90": 2, "p99": 3, "p99.9": 4, "max": 5}"#)
        );
        assert!(json.ends_with("\"ended_early\": \"the log is full\"}\n"));
    }
}
