//! Numbers: how long writes take while checkpoints are written and while none is, how much memory
//! the replicas take when their state is many times larger than their cache, and what a replica
//! that takes over a checkpoint costs the others.
//!
//! ```text
//!   op    0 … 7            8 … 23   24 … 31            of each interval of 32 ops (64 slots)
//!         the checkpoint            without it the log
//!         is written                went no farther
//! ```
//!
//! A run to report; without the variable it is a short one:
//! `VSR_NUMBERS_WRITES=1000000 cargo test --release --test process numbers -- --nocapture`.
//!
//! **Invariants:** what a clock measured is printed, and nothing depends on it.

use crate::harness::json::Json;
use crate::harness::{Cluster, DEADLINE, GEOMETRY, now, wait_for};
use std::fs;
use std::thread;
use std::time::Duration;
use vsr::client::{Client, ClientConfig};
use vsr::io::{MioIO, MioOptions};
use vsr::state_machine::kv::Request;
use vsr::storage::Geometry;

const WRITES_DEFAULT: u64 = 20_000;
const CLIENTS: u64 = 32;
const CACHE_SIZE: u64 = 4 << 20;
/// What a replica takes beside its cache at most: the program, queues, messages, sessions.
const RESIDENT_MAX: u64 = CACHE_SIZE + (48 << 20);
const SLOTS: u32 = 64;
/// Ops of an interval: as the checkpoint is written, and from where on it must be durable.
const PARTS: [(&str, std::ops::Range<u64>); 3] = [
    ("while a checkpoint is written", 0..8),
    ("where the log has waited for it, if it was late", 24..32),
    ("between", 8..24),
];
/// Parts in which writes are counted while a checkpoint is taken over, at most.
const PARTS_MAX: usize = 20;
const TICK: Duration = Duration::from_millis(10);

/// One acknowledged write: the op that carried it, and how long it took.
type Sample = (u64, Duration);

/// How many writes a run makes.
fn writes_of_run() -> u64 {
    let writes = std::env::var("VSR_NUMBERS_WRITES").ok();
    writes.map_or(WRITES_DEFAULT, |text| text.parse().expect("a number"))
}

/// Writes of all clients, a new place of the key space for each.
fn write_all(cluster: &Cluster, first: u64, writes: u64) -> Vec<Sample> {
    let config = ClientConfig {
        addresses: cluster.addresses(),
        timeout: Duration::from_secs(60),
        ..ClientConfig::default()
    };
    thread::scope(|scope| {
        let spawn = |client| {
            let config = config.clone();
            let (first, writes) = (first / CLIENTS, writes / CLIENTS);
            scope.spawn(move || write(config, client, first..first + writes))
        };
        let threads: Vec<_> = (0..CLIENTS).map(spawn).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("it wrote")).collect()
    })
}

/// The writes of one client, each one to a place of its own, all over the key space.
fn write(config: ClientConfig, client: u64, writes: std::ops::Range<u64>) -> Vec<Sample> {
    let io = MioIO::new(MioOptions::default()).expect("the system has descriptors");
    let mut connection = Client::connect(io, config);
    let mut samples = Vec::new();
    for number in writes {
        // An odd factor: a permutation of all numbers of 32 bits.
        let place = u32::try_from(number * CLIENTS + client).expect("fewer than 2^32");
        let place = place.wrapping_mul(2_654_435_761);
        let request = Request::put(&place.to_be_bytes(), &[b'v'; 100]).encode();
        let begun = now();
        let answer = connection.request(&request).expect("the cluster goes on");
        samples.push((answer.op, begun.elapsed()));
    }
    connection.close();
    samples
}

fn print_latencies(name: &str, latencies: &mut [Duration]) {
    latencies.sort_unstable();
    let count = latencies.len();
    let quantile = |parts: usize| latencies[(count - 1) * parts / 1000];
    println!(
        "{name}: {count} writes, p50 {:?}, p90 {:?}, p99 {:?}, p99.9 {:?}, max {:?}",
        quantile(500),
        quantile(900),
        quantile(990),
        quantile(999),
        quantile(1000)
    );
    let mut ticks = [0_u64; 11];
    for latency in &*latencies {
        let tick = latency.as_millis() / TICK.as_millis();
        ticks[usize::try_from(tick).map_or(10, |tick| tick.min(10))] += 1;
    }
    let ticks: Vec<String> = ticks.iter().map(u64::to_string).collect();
    println!("{name}: by ticks of 10 ms, the last is 100 ms and more: {}", ticks.join(" "));
}

/// Bytes of resident memory.
fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("resident memory");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

#[test]
fn numbers_of_small_writes_over_many_checkpoints() {
    let writes = writes_of_run();
    let geometry = Geometry { journal_slots: SLOTS, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    for launch in &mut cluster.launches {
        launch.arguments = vec![format!("--cache-size={CACHE_SIZE}")];
    }
    cluster.start_all();
    let primary = cluster.wait_available();
    let begun = now();
    let samples = write_all(&cluster, 0, writes);
    let seconds = begun.elapsed().as_secs_f64();
    let status = cluster.wait_all();
    let ops = status.replicas[primary].op;
    let interval = u64::from(SLOTS) / 2;
    println!(
        "{} writes of {CLIENTS} clients in {seconds:.1} s, {ops} ops, {} checkpoints, view {}",
        samples.len(),
        ops / interval,
        status.view
    );
    for (name, ops) in PARTS {
        let of = samples.iter().filter(|(op, _)| ops.contains(&(op % interval)));
        let mut latencies: Vec<Duration> = of.map(|(_, latency)| *latency).collect();
        print_latencies(name, &mut latencies);
    }
    assert!(ops / interval > writes / 2000, "{ops} ops: the log did not go round");
    for replica in 0..3 {
        let memory = resident(cluster.pid(replica));
        let file = fs::metadata(cluster.data(replica)).expect("the data file").len();
        println!("replica {replica}: {memory} resident, cache {CACHE_SIZE}, file {file} bytes");
        assert!(memory < RESIDENT_MAX, "{memory} bytes resident");
    }
    cluster.assert_alive();
}

#[test]
fn numbers_of_writes_while_a_replica_takes_over_a_checkpoint() {
    let writes = writes_of_run();
    let part = writes / 10 / CLIENTS * CLIENTS;
    let geometry = Geometry { journal_slots: 1024, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    cluster.start_all();
    let primary = cluster.wait_available();
    let away = (primary + 1) % 3;
    cluster.kill(away);
    let mut first = 0;
    // Writes in a second.
    let mut rate = |cluster: &Cluster, writes: u64| {
        let begun = now();
        write_all(cluster, first, writes);
        first += writes;
        writes as f64 / begun.elapsed().as_secs_f64()
    };
    rate(&cluster, writes);
    assert!(
        cluster.status().replicas[primary].op > u64::from(geometry.journal_slots),
        "the log did not go round"
    );
    let rate_before = rate(&cluster, part);
    cluster.start(away);
    let is_taking_over = |cluster: &Cluster| {
        let json = cluster.vsr(&["status", "--json"]).json();
        json.member("replicas").array()[away].get("sync").is_some_and(|sync| *sync != Json::Null)
    };
    wait_for("a checkpoint is taken over", DEADLINE, || is_taking_over(&cluster).then_some(()));
    let begun = now();
    let small = part / 10 / CLIENTS * CLIENTS + CLIENTS;
    let (mut rates, mut is_over) = (Vec::new(), false);
    while !is_over && rates.len() < PARTS_MAX {
        rates.push(rate(&cluster, small));
        is_over = !is_taking_over(&cluster);
    }
    let count = rates.len();
    let rate_during = rates.iter().sum::<f64>() / count as f64;
    println!(
        "{rate_before:.0} writes in a second while one is away, {rate_during:.0} while it takes \
         over checkpoints, for {:.1} s, in {count} parts: {:.2} of it; {}",
        begun.elapsed().as_secs_f64(),
        rate_during / rate_before,
        if is_over { "then it had it" } else { "and was not done" }
    );
    let rate_after = rate(&cluster, part);
    println!("{rate_after:.0} writes in a second after it");
    cluster.wait_all();
    let file = fs::metadata(cluster.data(away)).expect("the data file").len();
    println!("file {file} bytes");
    cluster.assert_alive();
}
