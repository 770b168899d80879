//! SIGSTOP and SIGCONT: a primary that sleeps, is deposed, wakes up, and still believes.

use crate::harness::load::{Kv, Load, PATIENCE};
use crate::harness::raw::{Incoming, Raw};
use crate::harness::{Cluster, now, pass};
use std::time::Duration;
use vsr::state_machine::kv::{OperationResult, Outcome, Reply, Request};
use vsr::wire::{Command, Operation};

/// Asks the given replica, and no other, for `key`, as long as `patience` lasts: the values of all
/// the replies it gives.
fn ask(raw: &mut Raw, key: &str, patience: Duration) -> Vec<Option<Vec<u8>>> {
    let query = raw.request(0, 1 << 63, Operation::Query, &Request::get(key.as_bytes()).encode());
    let mut values = Vec::new();
    let start = now();
    if !raw.send(query.as_bytes()) {
        return values;
    }
    while start.elapsed() < patience {
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
    kv.put("key", b"old").expect("available");
    let before = cluster.wait_all();
    let primary = before.primary.expect("available");
    let load = Load::start(cluster.addresses(), "pause", 2, Duration::from_millis(10));
    load.wait_acknowledged(5);

    // A connection that the primary knows already, so that the question lies in its socket when it
    // wakes up: before it has heard of anything else.
    let mut raw = Raw::connect(cluster.addresses()[primary], 77);
    assert_eq!(ask(&mut raw, "key", Duration::from_secs(5)).first(), Some(&Some(b"old".to_vec())));
    let history = sleep_and_ask(&cluster, primary, duration, &mut kv, &mut raw, load);
    kv.close();
    history.verify(&cluster.addresses());
    cluster.wait_all();
}

fn sleep_and_ask(
    cluster: &Cluster,
    primary: usize,
    duration: Duration,
    kv: &mut Kv,
    raw: &mut Raw,
    load: Load,
) -> crate::harness::load::History {
    cluster.pause(primary);
    let start = now();
    // A short sleep may not be noticed; then the put waits for its end, in another thread.
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| kv.put("key", b"new").expect("the others go on"));
        let deposed = duration >= Duration::from_secs(3);
        if deposed {
            // The others are to have written before it wakes up.
            while !writer.is_finished() && start.elapsed() < duration {
                pass(Duration::from_millis(5));
            }
            assert!(writer.is_finished(), "the others did not go on within {duration:?}");
        }
        let query = Request::get(b"key").encode();
        let query = raw.request(0, (1 << 63) + 1, Operation::Query, &query);
        let mut early = Raw::connect(cluster.addresses()[primary], 78);
        assert!(raw.send(query.as_bytes()));
        let pending = early.request(0, 1 << 63, Operation::Query, &Request::get(b"key").encode());
        assert!(early.send(pending.as_bytes()));
        pass(duration.saturating_sub(start.elapsed()));
        let written = writer.is_finished();
        cluster.resume(primary);
        for raw in [raw, &mut early] {
            for value in ask(raw, "key", Duration::from_millis(500)) {
                let new = value.as_deref() == Some(b"new");
                let old = value.as_deref() == Some(b"old");
                assert!(new || (old && !written), "a stale answer: {value:?}");
            }
        }
    });
    load.wait_acknowledged(5);
    load.finish().no_errors()
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
