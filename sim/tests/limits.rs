//! Three replicas under attack, as real processes: whatever comes over their ports, their memory
//! stays bounded, they keep talking to each other, and honest clients keep a share of their
//! throughput.
//!
//! ```text
//!   honest clients ─────────► replica ◄──► replica ◄──► replica
//!   attackers (threads) ─────────┴────────────┴────────────┘
//!
//!   measure, without the attack ──► attack ──► measure, under it ──► the attack ends
//!       answers a second               answers a second, peak memory, view, restarts
//! ```
//!
//! Attackers run on the same machine as the replicas, so the share that is left to honest clients
//! is also a matter of cores; what is asserted is modest, what was measured is printed.
//!
//! **Invariants:** every attack is shown to be in force before anything is measured; one attack at
//! a time; no attack changes the view.
//!
//! **Not here:** who knows the secrets of the cluster: there is no authentication, and whoever can
//! read the traffic between replicas can forge it (`docs/reliability.md`).

/// Bytes as the choices of whoever makes messages of them.
#[path = "../../fuzz/src/cursor.rs"]
pub mod cursor;
/// Messages of strangers.
#[path = "../../fuzz/src/forgery.rs"]
pub mod forgery;
#[expect(dead_code, reason = "shared with tests that need other parts of it")]
mod harness;
#[path = "chaos/proxy.rs"]
#[expect(dead_code, reason = "shared with tests that need other parts of it")]
mod proxy;
#[path = "limits/queries.rs"]
mod queries;
#[path = "limits/strangers.rs"]
mod strangers;

use harness::load::{Kv, Load, PATIENCE};
use harness::{Cluster, DEADLINE, now, pass, run, wait_for};
use proxy::Network;
use socket2::{Domain, Socket, Type};
use std::collections::VecDeque;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command as Process;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vsr::constants::HEADER_SIZE;
use vsr::state_machine::kv::Request as KvRequest;
use vsr::stdx::Prng;
use vsr::storage::Geometry;
use vsr::wire::{
    Author, ClientId, ClusterId, Header, Message, Operation, PingClient, ReplicaIndex, View,
};

/// Bodies of half a message are worth an attack.
const GEOMETRY: Geometry = Geometry {
    message_size: 256 << 10,
    journal_slots: 256,
    block_size: 4096,
    pipeline: 8,
    clients_max: 4096,
};

/// How long answers are counted.
const MEASURE: Duration = Duration::from_secs(3);
/// Clients that are honest.
const HONEST: u32 = 4;
/// The most that an attack may add to the memory of a replica, KiB: 32 MiB of bodies, a quarter of
/// it for those of unknown peers, 32 MiB of queues, 8 KiB for each of 4352 connections, what one
/// turn receives, and as much again for what the allocator does not give back.
const MEMORY_KIB_MAX: u64 = 2 * (32 + 8 + 32 + 34 + 14) * 1024;

/// What an attack may make all replicas log in a second, bytes: some lines of each kind.
const LOG_SIZE_MAX: u64 = 16 << 10;

/// One attack at a time: they are measured.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What attackers share.
struct Siege {
    addresses: Vec<SocketAddr>,
    stop: AtomicBool,
    /// Whatever the attack counts: connections, messages.
    count: AtomicU64,
    /// Attackers that have done what makes the attack one.
    in_force: AtomicU64,
}

impl Siege {
    fn new(cluster: &Cluster) -> Self {
        Self {
            addresses: cluster.addresses(),
            stop: AtomicBool::new(false),
            count: AtomicU64::new(0),
            in_force: AtomicU64::new(0),
        }
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn count(&self, count: u64) {
        self.count.fetch_add(count, Ordering::Relaxed);
    }

    /// A connection to a replica, if it takes one.
    fn connect(&self, replica: usize) -> Option<TcpStream> {
        let address = self.addresses[replica % self.addresses.len()];
        let stream = TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(stream)
    }
}

/// Attackers have machines of their own. Here they leave the cores to the replicas and to honest
/// clients, as far as the scheduler lets them, and take the rest.
fn be_elsewhere() {
    let own = fs::read_link("/proc/thread-self").expect("this thread");
    let thread = own.file_name().and_then(|name| name.to_str()).expect("a number").to_string();
    run(Process::new("renice").args(["-n", "10", "-p", &thread])).exits(0);
}

/// Sends without waiting. False: the connection is over.
fn offer(stream: &mut TcpStream, bytes: &[u8]) -> Option<usize> {
    match stream.write(bytes) {
        Ok(size) => Some(size),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Some(0),
        Err(_) => None,
    }
}

/// Throws away what came. False: the connection is over.
fn discard(stream: &mut TcpStream) -> bool {
    let mut sink = [0; 16 << 10];
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

/// A number of /proc/PID/status, KiB.
fn memory_kib(pid: u32, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("the kernel counts");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// Answers a second, of all honest clients together.
fn rate(load: &Load) -> u64 {
    let (start, before) = (now(), load.acknowledged());
    pass(MEASURE);
    let answers = (load.acknowledged() - before) as u64;
    answers * 1000 / u64::try_from(start.elapsed().as_millis()).expect("seconds")
}

/// Bytes that these replicas have logged.
fn logs_size(cluster: &Cluster, replicas: &[usize]) -> u64 {
    replicas.iter().map(|replica| cluster.log(*replica).len() as u64).sum()
}

/// What was measured of an attack.
struct Measured {
    calm: u64,
    under: u64,
    views: [u64; 2],
}

/// How often an attack is repeated, until what must be possible was seen.
const ATTEMPTS_MAX: u32 = 6;

/// Runs `attack` in `attackers` threads against `cluster`, and asserts what must hold. Honest
/// clients must keep `share_min` in a thousand of their throughput, and the view must stay. Both
/// must be seen, once: the machine may be busy with other things, and a replica that is not run
/// looks dead to its peers with or without an attack. All else must hold each time.
fn besiege(
    name: &str,
    cluster: &mut Cluster,
    attackers: usize,
    share_min: u64,
    attack: impl Fn(&Siege, usize) + Sync,
) {
    let (mut share_is_kept, mut view_is_kept) = (false, false);
    for attempt in 1..=ATTEMPTS_MAX {
        let Measured { calm, under, views } =
            besiege_once(&format!("{name} {attempt}"), cluster, attackers, &attack);
        share_is_kept |= under * 1000 >= calm * share_min;
        view_is_kept |= views[0] == views[1];
        if share_is_kept && view_is_kept {
            return;
        }
        println!("limits: {name}: again; at least {share_min}‰, views {views:?}");
    }
    panic!("{name}: share kept: {share_is_kept}, view kept: {view_is_kept}");
}

/// Attacks those that run once. Whatever was measured, nothing is lost, memory is bounded, and all
/// of them come back.
fn besiege_once(
    name: &str,
    cluster: &mut Cluster,
    attackers: usize,
    attack: &(impl Fn(&Siege, usize) + Sync),
) -> Measured {
    let running: Vec<usize> = (0..3).filter(|it| cluster.runs(*it)).collect();
    let memory_of = |cluster: &Cluster, name: &str| -> Vec<u64> {
        running.iter().map(|it| memory_kib(cluster.pid(*it), name)).collect()
    };
    let before = cluster.wait_agreement(&running);
    let load = Load::start(cluster.addresses(), name, HONEST, Duration::ZERO);
    load.wait_acknowledged(20);
    let calm = rate(&load);
    let memory = memory_of(cluster, "VmRSS:");
    let (begun, logs) = (now(), logs_size(cluster, &running));
    let siege = Siege::new(cluster);
    let under = std::thread::scope(|scope| {
        let _stop = StopAtEnd(&siege);
        for attacker in 0..attackers {
            let siege = &siege;
            scope.spawn(move || {
                be_elsewhere();
                attack(siege, attacker);
            });
        }
        wait_for(&format!("{name}: the attack is in force"), 2 * DEADLINE, || {
            (siege.in_force.load(Ordering::Relaxed) >= attackers as u64).then_some(())
        });
        let under = rate(&load);
        cluster.assert_alive();
        under
    });
    load.wait_acknowledged(5);
    let count = siege.count.load(Ordering::Relaxed);
    let peaks = memory_of(cluster, "VmHWM:");
    println!(
        "limits: {name}: {count} times; honest clients: {calm}/s before, {under}/s under it \
         ({}‰); memory, KiB: {memory:?} before, peak {peaks:?}, bound +{MEMORY_KIB_MAX}",
        under * 1000 / calm.max(1)
    );
    load.finish().no_errors().verify(&cluster.addresses());
    let after = cluster.wait_agreement(&running);
    let logged = logs_size(cluster, &running) - logs;
    let seconds = begun.elapsed().as_secs() + 1;
    println!("limits: {name}: {logged} bytes of logs in {seconds} s");
    assert!(logged <= seconds * LOG_SIZE_MAX, "{name}: {logged} bytes of logs in {seconds} s");
    for (peak, before) in peaks.iter().zip(&memory) {
        assert!(*peak <= before + MEMORY_KIB_MAX, "{name}: {peak} KiB, {before} KiB before");
    }
    for &replica in &running {
        assert!(!cluster.log(replica).contains("panicked"), "replica {replica} panicked");
    }
    cluster.assert_alive();
    Measured { calm, under, views: [before.view, after.view] }
}

/// Ends the attack also when the test fails, or its threads would be waited for for ever.
struct StopAtEnd<'a>(&'a Siege);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn cluster() -> Cluster {
    let mut cluster = Cluster::formatted(3, GEOMETRY);
    cluster.start_all();
    cluster.wait_available();
    cluster.wait_all();
    cluster
}

/// Gives this process as many descriptors as it may have. Returns how many.
fn descriptors() -> usize {
    let pid = std::process::id();
    let limits = fs::read_to_string("/proc/self/limits").expect("the kernel knows");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a limit");
    let hard: usize = line.split_whitespace().nth(4).and_then(|it| it.parse().ok()).expect("one");
    let mut raise = Process::new("prlimit");
    raise.arg(format!("--pid={pid}")).arg(format!("--nofile={hard}:{hard}"));
    run(&mut raise).exits(0);
    hard
}

fn author(replica: u8, view: u32, incarnation: u64) -> Author {
    let (cluster, view) = (ClusterId(0), View(view));
    Author { cluster, view, replica: ReplicaIndex(replica), incarnation }
}

fn request(client: u128, session: u64, request: u64, operation: Operation, body: &[u8]) -> Message {
    let client = ClientId(client);
    let operation = operation as u8;
    let command = vsr::wire::Request { client, session, request, operation };
    Message::new(&author(0, 0, 0), command, body)
}

/// Tens of thousands of connections: silent ones, ones with three bytes, ones with half a header.
/// Each replica has room for 4352 and must close the others.
#[test]
fn tens_of_thousands_of_connections() {
    let _turn = one_at_a_time();
    let held_max = (descriptors() - 1000).min(30_000);
    let opened_min = 30_000;
    let attackers = 4;
    let mut cluster = cluster();
    besiege("connections", &mut cluster, attackers, 50, |siege, attacker| {
        let mut held = VecDeque::new();
        let mut opened = 0;
        while siege.goes_on() {
            let Some(mut stream) = siege.connect(opened) else { continue };
            let noise: &[u8] = [&[][..], &[1; 3], &[0; 64]][opened % 3];
            let _ = stream.write(noise);
            held.push_back(stream);
            if held.len() > held_max / attackers {
                held.pop_front();
            }
            opened += 1;
            siege.count(1);
            if opened == opened_min / attackers {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
            // Once all are there, they are kept there, and no faster.
            if opened > opened_min / attackers && attacker > 0 {
                pass(Duration::from_millis(1));
            }
        }
    });
}

/// Clients that ask for much and never read.
#[test]
fn slow_readers() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    kv.put("large", &vec![7; 200 << 10]).expect("available");
    kv.close();
    let get = KvRequest::get(b"large").encode();
    besiege("slow readers", &mut cluster, 2, 50, |siege, attacker| {
        let mut readers: Vec<(TcpStream, u128, u64)> = Vec::new();
        let mut client = 1_000_000 * (attacker as u128 + 1);
        while siege.goes_on() {
            while readers.len() < 150 {
                let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
                socket.set_recv_buffer_size(4096).expect("a socket option");
                let address = siege.addresses[readers.len() % 3];
                if socket.connect_timeout(&address.into(), DEADLINE).is_err() {
                    break;
                }
                socket.set_nonblocking(true).expect("a socket option");
                client += 1;
                readers.push((socket.into(), client, 1 << 63));
            }
            readers.retain_mut(|(stream, client, number)| {
                *number += 1;
                let query = request(*client, 0, *number, Operation::Query, &get);
                siege.count(1);
                // What is not taken whole is begun anew with the next connection.
                offer(stream, query.as_bytes()).is_some_and(|size| size == query.as_bytes().len())
            });
            if siege.count.load(Ordering::Relaxed) > 3000 {
                siege.in_force.fetch_max(2, Ordering::Relaxed);
            }
            pass(Duration::from_millis(20));
        }
    });
}

/// Headers that promise a large body, half of it, and silence: by unknown peers and by clients.
#[test]
fn half_a_message_and_silence() {
    let _turn = one_at_a_time();
    descriptors();
    let mut cluster = cluster();
    let body = KvRequest::put(b"half", &vec![1; 200 << 10]).encode();
    besiege("half a message", &mut cluster, 2, 50, |siege, attacker| {
        let mut held = VecDeque::new();
        let mut client = 1_000_000 * (attacker as u128 + 1);
        let mut opened = 0;
        while siege.goes_on() {
            let Some(mut stream) = siege.connect(opened) else { continue };
            client += 1;
            let put = request(client, 1, 1, Operation::Apply, &body);
            if opened % 2 == 0 {
                let ping = PingClient { client: ClientId(client), timestamp_monotonic: 1 };
                let _ = stream.write(Message::new(&author(0, 0, 0), ping, &[]).as_bytes());
            }
            let half = put.as_bytes().len() / 2;
            let _ = stream.write(&put.as_bytes()[..half]);
            held.push_back(stream);
            if held.len() > 1000 {
                held.pop_front();
                pass(Duration::from_millis(1));
            }
            opened += 1;
            siege.count(1);
            if opened == 1200 {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

/// A header whose checksum is right, and that lies about what comes behind it.
struct Lie {
    operation: Operation,
    size: u32,
    /// Bytes that come behind it.
    sent: u32,
    /// What the replica says when it closes the connection; nothing if it waits for more.
    reason: Option<&'static str>,
}

impl Lie {
    const fn new(operation: Operation, size: u32, sent: u32, reason: &'static str) -> Self {
        Self { operation, size, sent, reason: Some(reason) }
    }

    fn tell(&self, client: u128, stream: &mut TcpStream) {
        let (session, number) = match self.operation {
            Operation::Register => (0, 0),
            Operation::Query => (0, 1 << 63),
            _ => (1, 1),
        };
        let body: &[u8] = if self.operation == Operation::Register { &[] } else { &[1; 64] };
        let mut header = *request(client, session, number, self.operation, body).header();
        header.size = self.size;
        header.checksum_body = 1;
        header.checksum = header.checksum_computed();
        let _ = stream.write(&header.encode());
        let _ = stream.write(&vec![0xff; self.sent as usize]);
    }
}

const TOO_SHORT: &str = "impossible size";
const NO_BODY: &str = "a body where none belongs";
const WRONG_BODY: &str = "body checksum mismatch";
const WITHOUT_BODY: &str = "a body checksum without a body";
const LIES: &[Lie] = &[
    Lie::new(Operation::Register, 0, 512, TOO_SHORT),
    Lie::new(Operation::Apply, 127, 512, TOO_SHORT),
    Lie::new(Operation::Register, 129, 512, NO_BODY),
    Lie::new(Operation::Register, 256 << 10, 512, NO_BODY),
    Lie::new(Operation::Apply, 128, 512, WITHOUT_BODY),
    Lie::new(Operation::Query, 128, 512, WITHOUT_BODY),
    Lie::new(Operation::Apply, 129, 512, WRONG_BODY),
    Lie::new(Operation::Query, 129, 512, WRONG_BODY),
    Lie::new(Operation::Apply, 640, 512, WRONG_BODY),
    Lie::new(Operation::Query, 16 << 10, 16 << 10, WRONG_BODY),
    Lie::new(Operation::Apply, (256 << 10) + 1, 512, "impossible size 262145"),
    Lie::new(Operation::Query, 257 << 10, 512, "impossible size 263168"),
    Lie::new(Operation::Apply, 1 << 30, 512, "impossible size 1073741824"),
    Lie::new(Operation::Query, u32::MAX, 512, "impossible size 4294967295"),
    // The largest that there may be, of which the most never comes.
    Lie { operation: Operation::Apply, size: 256 << 10, sent: 512, reason: None },
    Lie { operation: Operation::Query, size: 256 << 10, sent: 512, reason: None },
];

/// Headers whose checksum is right and whose size is a lie, each refused for its own reason.
#[test]
fn headers_with_lying_sizes() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    besiege("lying sizes", &mut cluster, 2, 50, |siege, attacker| {
        let mut sent = 0;
        while siege.goes_on() {
            let Some(mut stream) = siege.connect(sent) else { continue };
            LIES[sent % LIES.len()].tell(1 + attacker as u128, &mut stream);
            sent += 1;
            siege.count(1);
            if sent == 500 {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    // One line a second is logged: each lie is told until the line is its own.
    let siege = Siege::new(&cluster);
    for (index, lie) in LIES.iter().enumerate() {
        let Some(reason) = lie.reason else { continue };
        let replica = index % 3;
        let before = cluster.log(replica).len();
        wait_for(&format!("lie {index} is refused: {reason}"), DEADLINE, || {
            let mut stream = siege.connect(replica)?;
            lie.tell(1 + index as u128, &mut stream);
            wait_for("the connection is closed", DEADLINE, || {
                (!discard(&mut stream)).then_some(())
            });
            let log = cluster.log(replica);
            let mut lines = log[before..].lines();
            lines.any(|line| line.contains("closing") && line.contains(reason)).then_some(())
        });
    }
    cluster.assert_alive();
}

/// Valid requests, as fast as they are taken, of sessions that do not exist.
#[test]
fn floods_of_unregistered_clients() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let body = KvRequest::put(b"flood", &[1; 100]).encode();
    besiege("unregistered clients", &mut cluster, 2, 200, |siege, attacker| {
        let mut streams: Vec<(TcpStream, Vec<u8>, usize)> = Vec::new();
        let mut client = 1_000_000 * (attacker as u128 + 1);
        while siege.goes_on() {
            while streams.len() < 16 {
                let Some(stream) = siege.connect(streams.len()) else { break };
                client += 1;
                let one = request(client, 77, 1, Operation::Apply, &body);
                streams.push((stream, one.as_bytes().repeat(64), 0));
            }
            streams.retain_mut(|(stream, bytes, sent)| {
                let Some(size) = offer(stream, &bytes[*sent..]) else { return false };
                *sent = (*sent + size) % bytes.len();
                siege.count(size as u64 * 64 / bytes.len() as u64);
                discard(stream)
            });
            if siege.count.load(Ordering::Relaxed) > 5000 {
                siege.in_force.fetch_max(2, Ordering::Relaxed);
            }
        }
    });
}

/// One session after the other, each for a client of its own that never comes back.
#[test]
fn registrations_without_end() {
    let _turn = one_at_a_time();
    descriptors();
    let mut cluster = cluster();
    besiege("registrations", &mut cluster, 2, 50, |siege, attacker| {
        let mut held = VecDeque::new();
        let mut client = 1_000_000 * (attacker as u128 + 1);
        let mut sent = 0;
        while siege.goes_on() {
            let Some(mut stream) = siege.connect(sent) else { continue };
            client += 1;
            let register = request(client, 0, 0, Operation::Register, &[]);
            let _ = stream.write(register.as_bytes());
            held.push_back(stream);
            if held.len() > 200 {
                held.pop_front();
            }
            sent += 1;
            siege.count(1);
            // More than there are sessions.
            if sent == 3000 {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}

/// The messages of a recorded stream.
fn messages(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    let mut rest = stream;
    while let Some(head) = rest.first_chunk::<{ HEADER_SIZE as usize }>() {
        let header = Header::decode(head).expect("a stream of messages");
        let Some((message, behind)) = rest.split_at_checked(header.size as usize) else { break };
        messages.push(message.to_vec());
        rest = behind;
    }
    messages
}

/// What replicas said to each other before, again, in any order, from elsewhere.
#[test]
fn old_traffic_of_replicas_replayed_and_reordered() {
    let _turn = one_at_a_time();
    let mut cluster = Cluster::formatted(3, GEOMETRY);
    let own = cluster.addresses();
    let network = Network::new(&own, &mut Prng::from_seed(1));
    network.record(4 << 20);
    for (replica, own) in own.into_iter().enumerate() {
        cluster.launches[replica].addresses = Some(network.addresses_of_replica(replica, own));
    }
    cluster.start_all();
    cluster.wait_available();
    cluster.wait_all();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 0..200 {
        kv.put("recorded", format!("{number}").as_bytes()).expect("available");
    }
    kv.close();
    let mut recorded: Vec<(usize, Vec<u8>)> = Vec::new();
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)] {
        for stream in network.recorded(from, to) {
            recorded.extend(messages(&stream).into_iter().map(|message| (to, message)));
        }
    }
    assert!(recorded.len() > 500, "{} messages", recorded.len());
    besiege("replayed traffic", &mut cluster, 2, 50, |siege, attacker| {
        let mut prng = Prng::from_seed(attacker as u64);
        let (mut sent, mut said) = (0, false);
        while siege.goes_on() {
            let to = prng.index(3);
            let Some(mut stream) = siege.connect(to) else { continue };
            for _ in 0..20 {
                let (_, message) = loop {
                    let one = &recorded[prng.index(recorded.len())];
                    // To whom it was said, or, for once, to another.
                    if one.0 == to || prng.below(20) == 0 {
                        break one;
                    }
                };
                sent += 1;
                siege.count(1);
                if offer(&mut stream, message) != Some(message.len()) || !discard(&mut stream) {
                    break;
                }
            }
            if sent > 1000 && !std::mem::replace(&mut said, true) {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
}
