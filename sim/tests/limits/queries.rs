//! Requests that cost as much as one request can: thousands of steps, each of which looks at one
//! large value; as queries of clients without a session, and in the log for clients with one.
//!
//! **Invariants:** each client has one request in flight, as an honest one; so the cost is that of
//! the requests, and not of their number.
//!
//! **Not here:** answers that nobody reads (`slow_readers`).

use super::harness::load::{Kv, PATIENCE};
use super::harness::raw::{Incoming, Raw};
use super::harness::{now, pass};
use super::{Siege, author, besiege, cluster, offer, one_at_a_time};
use std::io::{ErrorKind, Read};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vsr::state_machine::kv::{Compare, Condition, Operation as KvOperation, Request, Scan};
use vsr::wire::{ClientId, Command, Message, Operation, RequestStatus, StatusReport};

/// Clients that ask the most expensive thing they can.
const CLIENTS: usize = 27;
/// The value that all of them look at, bytes.
const VALUE_SIZE: usize = 200 << 10;
/// The most steps that a request may have.
const STEPS: usize = 4096;
const KEY: &[u8] = b"large";
/// Patience with an answer.
const AGAIN: Duration = Duration::from_millis(500);

/// Requests with as many steps as there may be, which change nothing: all writes are counted.
fn expensive() -> Vec<Vec<u8>> {
    let value = vec![7; VALUE_SIZE];
    // Room for some beside the steps; equal to what is there up to its end.
    let beginning = &value[..32 << 10];
    let compare = |condition| Compare { key: KEY, condition };
    let mut requests = Vec::new();
    for condition in [
        Condition::Value(b""),
        Condition::Value(b"7"),
        Condition::Revision(1),
        Condition::Present,
        Condition::Absent,
    ] {
        let compares = vec![compare(condition); STEPS - 1];
        let operations = vec![KvOperation::Get { key: KEY }];
        requests.push(Request::transaction(compares, operations).encode());
    }
    let mut compares = vec![compare(Condition::Present); STEPS - 4];
    compares.extend([beginning; 4].map(|value| compare(Condition::Value(value))));
    requests.push(Request::transaction(compares, Vec::new()).encode());
    let get = KvOperation::Get { key: KEY };
    let scan = KvOperation::Scan(Scan::all());
    for operation in [get, scan] {
        requests.push(Request::transaction(Vec::new(), vec![operation; STEPS]).encode());
    }
    requests
}

/// One who asks, and asks again when he was answered or has waited for long.
struct Asker {
    stream: TcpStream,
    client: u128,
    session: u64,
    number: u64,
    asked: Option<Instant>,
    /// What of the request the socket has not taken yet.
    rest: Vec<u8>,
}

impl Asker {
    /// Sends what there is to send. False: the connection is over.
    fn turn(&mut self, view: u32, bodies: &[Vec<u8>], answers: &mut usize) -> bool {
        match self.take() {
            None => return false,
            Some(0) => {}
            Some(_) => {
                *answers += 1;
                self.number += 1;
                self.asked = None;
            }
        }
        if self.rest.is_empty() && self.asked.is_none_or(|asked| asked.elapsed() > AGAIN) {
            let index = usize::try_from(self.number).expect("64 bits") % bodies.len();
            self.rest = self.request(view, &bodies[index]).as_bytes().to_vec();
            self.asked = Some(now());
        }
        let Some(size) = offer(&mut self.stream, &self.rest) else { return false };
        self.rest.drain(..size);
        true
    }

    fn request(&self, view: u32, body: &[u8]) -> Message {
        let operation = if self.session == 0 { Operation::Query } else { Operation::Apply } as u8;
        let (client, session, request) = (ClientId(self.client), self.session, self.number);
        let command = vsr::wire::Request { client, session, request, operation };
        Message::new(&author(0, view, 0), command, body)
    }

    /// How many bytes came.
    fn take(&mut self) -> Option<usize> {
        let (mut sink, mut total) = ([0; 16 << 10], 0);
        loop {
            match self.stream.read(&mut sink) {
                Ok(0) => return None,
                Ok(size) => total += size,
                Err(error) => return (error.kind() == ErrorKind::WouldBlock).then_some(total),
            }
        }
    }
}

/// The view and the primary, as a replica knows them.
fn look(siege: &Siege, client: u128) -> Option<(u32, usize)> {
    let mut raw = Raw::try_connect(siege.addresses[0], client)?;
    let request = RequestStatus { client: ClientId(client) };
    raw.send(Message::new(&author(0, 0, 0), request, &[]).as_bytes());
    let Incoming::Message(message) = raw.receive(Duration::from_secs(5)) else { return None };
    let view = StatusReport::decode(message.body()).ok()?.view;
    Some((view.0, usize::from(view.primary(3).0)))
}

/// Opens a session, if it can be had now.
fn register(siege: &Siege, to: usize, view: u32, client: u128) -> Option<u64> {
    let mut raw = Raw::try_connect(siege.addresses[to], client)?;
    let command = vsr::wire::Request {
        client: ClientId(client),
        session: 0,
        request: 0,
        operation: Operation::Register as u8,
    };
    raw.send(Message::new(&author(0, view, 0), command, &[]).as_bytes());
    let Incoming::Message(message) = raw.receive(Duration::from_secs(5)) else { return None };
    let Command::Reply(reply) = message.header().command else { return None };
    Some(reply.session)
}

fn attack(siege: &Siege, is_query: bool) {
    // A client that was there before would go on where it was.
    static CLIENT: AtomicU64 = AtomicU64::new(1_000_000);
    let client_next = || u128::from(CLIENT.fetch_add(1, Ordering::Relaxed));
    let bodies = expensive();
    let mut askers: Vec<Asker> = Vec::new();
    let (mut view, mut primary) = (0, 0);
    let (mut turns, mut answers, mut said) = (0u64, 0, false);
    while siege.goes_on() {
        if turns.is_multiple_of(1000) {
            (view, primary) = look(siege, client_next()).unwrap_or((view, primary));
        }
        turns += 1;
        if askers.len() < CLIENTS {
            let client = client_next();
            let session = if is_query { Some(0) } else { register(siege, primary, view, client) };
            if let (Some(session), Some(stream)) = (session, siege.connect(primary)) {
                let number = if is_query { 1 << 63 } else { 1 };
                let rest = Vec::new();
                askers.push(Asker { stream, client, session, number, asked: None, rest });
            }
        }
        let before = answers;
        askers.retain_mut(|asker| asker.turn(view, &bodies, &mut answers));
        siege.count((answers - before) as u64);
        let is_under_way = askers.len() == CLIENTS && answers >= 2 * CLIENTS;
        if is_under_way && !std::mem::replace(&mut said, true) {
            siege.in_force.fetch_add(1, Ordering::Relaxed);
        }
        pass(Duration::from_millis(1));
    }
}

/// How much of the throughput honest clients keep, in a thousand: those who ask have 27 turns for
/// their four, and take as long in each as a request may.
const SHARE_MIN: u64 = 5;

fn ask_for_much(name: &str, is_query: bool) {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    kv.put("large", &vec![7; VALUE_SIZE]).expect("available");
    kv.close();
    besiege(name, &mut cluster, 1, SHARE_MIN, |siege, _| attack(siege, is_query));
}

/// Queries of clients that have no session: each would read hundreds of megabytes.
#[test]
fn expensive_queries() {
    ask_for_much("expensive queries", true);
}

/// The same in sessions: executed by all replicas, each at its place in the log.
#[test]
fn expensive_requests_in_sessions() {
    ask_for_much("expensive requests", false);
}
