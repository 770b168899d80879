//! SIGSTOP and SIGCONT: a primary that sleeps, is deposed, wakes up, and still believes.

use crate::harness::load::{Kv, Load, PATIENCE};
use crate::harness::raw::{Incoming, Raw};
use crate::harness::{Cluster, DEADLINE, now, pass, wait_for};
use std::time::Duration;
use vsr::state_machine::kv::{OperationResult, Outcome, Reply, Request};
use vsr::wire::{Command, Operation};

const KEY: &str = "key";

/// Puts a question for the key to the replica at the other end, and to no other.
fn ask(raw: &mut Raw, number: u64) -> bool {
    let body = Request::get(KEY.as_bytes()).encode();
    let query = raw.request(0, (1 << 63) + number, Operation::Query, &body);
    raw.send(query.as_bytes())
}

/// The values in the replies to questions, until there are `count` or `patience` ends.
fn answers(raw: &mut Raw, count: usize, patience: Duration) -> Vec<Option<Vec<u8>>> {
    let mut values = Vec::new();
    let start = now();
    while values.len() < count && start.elapsed() < patience {
        match raw.receive(patience.saturating_sub(start.elapsed())) {
            Incoming::Message(message) => {
                if let Command::Reply(_) = message.header().command {
                    let reply = Reply::decode(message.body()).expect("a reply of kv");
                    let [Outcome::Done(results)] = &reply.outcomes[..] else { panic!("{reply:?}") };
                    let [OperationResult::Get(record)] = &results[..] else { panic!("{reply:?}") };
                    values.push(record.map(|record| record.value.to_vec()));
                }
            }
            Incoming::Silence | Incoming::Closed => break,
        }
    }
    values
}

/// Pauses the primary for `duration` under load, with a question put to it before, in and after its
/// sleep.
fn pause_primary(duration: Duration) {
    let cluster = Cluster::new(3);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    kv.put(KEY, b"old").expect("available");
    let before = cluster.wait_all();
    let primary = before.primary.expect("available");
    let load = Load::start(cluster.addresses(), "pause", 2, Duration::from_millis(10));
    load.wait_acknowledged(5);

    // A connection that the primary knows already, so that the question lies in its socket when it
    // wakes up: before it has heard of anything else.
    let mut raw = Raw::connect(cluster.addresses()[primary], 77);
    assert!(ask(&mut raw, 0));
    assert_eq!(answers(&mut raw, 1, DEADLINE), [Some(b"old".to_vec())]);
    sleep_and_ask(&cluster, primary, duration, &mut kv, &mut raw);
    kv.close();
    load.wait_acknowledged(5);
    let history = load.finish().no_errors().and_one_more_write();
    history.verify(&cluster.addresses());
    cluster.wait_all();
}

fn sleep_and_ask(
    cluster: &Cluster,
    primary: usize,
    duration: Duration,
    kv: &mut Kv,
    raw: &mut Raw,
) {
    cluster.pause(primary);
    let start = now();
    // A short sleep may not be noticed by anybody: then the put waits for its end.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| kv.put(KEY, b"new").expect("the others go on"));
        if duration >= Duration::from_secs(3) {
            // The others are to have written before it wakes up.
            wait_for("the others go on", DEADLINE, || writer.is_finished().then_some(()));
        }
        let mut stranger = Raw::connect(cluster.addresses()[primary], 78);
        assert!(ask(raw, 1) && ask(&mut stranger, 2));
        pass(duration.saturating_sub(start.elapsed()));
        let written = writer.is_finished();
        cluster.resume(primary);
        assert!(ask(raw, 3) && ask(&mut stranger, 4));
        for raw in [raw, &mut stranger] {
            for value in answers(raw, 2, Duration::from_millis(500)) {
                let new = value.as_deref() == Some(b"new");
                let old = value.as_deref() == Some(b"old");
                assert!(new || (old && !written), "a stale answer: {value:?}");
            }
        }
    });
}

#[test]
fn primary_sleeps_100_ms_nothing_stale_nothing_lost() {
    pause_primary(Duration::from_millis(100));
}

#[test]
fn primary_sleeps_1_s_nothing_stale_nothing_lost() {
    pause_primary(Duration::from_secs(1));
}

#[test]
fn primary_sleeps_3_s_nothing_stale_nothing_lost() {
    pause_primary(Duration::from_secs(3));
}

#[test]
fn primary_sleeps_10_s_nothing_stale_nothing_lost() {
    pause_primary(Duration::from_secs(10));
}

#[test]
fn all_sleep_they_go_on_where_they_were() {
    let cluster = Cluster::new(3);
    let load = Load::start(cluster.addresses(), "sleep", 2, Duration::from_millis(10));
    load.wait_acknowledged(5);
    for replica in 0..3 {
        cluster.pause(replica);
    }
    pass(Duration::from_secs(2));
    for replica in 0..3 {
        cluster.resume(replica);
    }
    load.wait_acknowledged(5);
    load.finish().no_errors().verify(&cluster.addresses());
    cluster.wait_all();
}
