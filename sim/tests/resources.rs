//! What a replica takes while nothing happens: CPU, memory, and the time to get ready.

use crate::harness::{Cluster, DEADLINE, now, pass, wait_for};
use std::fs;
use std::time::Duration;
use vsr::storage::Geometry;

/// CPU time of all threads of a process so far.
fn cpu(pid: u32) -> Duration {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).expect("it runs") {
        let schedstat = task.expect("a task").path().join("schedstat");
        let text = fs::read_to_string(schedstat).expect("the kernel counts");
        let ns: u64 = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).expect("ns");
        total += ns;
    }
    Duration::from_nanos(total)
}

/// Resident memory of a process, KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("resident memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
}

/// Asserts that a process takes less than 1 % of a core, over the best of three spans: what it
/// takes is its own, but the first seconds after a start may still have something to do.
#[track_caller]
fn assert_idle(pid: u32) {
    let mut shares = Vec::new();
    for _ in 0..3 {
        let (start, before) = (now(), cpu(pid));
        pass(Duration::from_secs(3));
        let (used, passed) = (cpu(pid) - before, start.elapsed());
        println!("idle process {pid}: {used:?} of CPU in {passed:?}");
        if used * 100 < passed {
            return;
        }
        shares.push((used, passed));
    }
    panic!("an idle replica takes more than 1 % of a core: {shares:?}");
}

#[test]
fn idle_replica_of_default_geometry_is_small_and_ready_within_a_second() {
    let mut cluster = Cluster::formatted(1, Geometry::default());
    cluster.start(0);
    cluster.wait_available();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.vsr(&["get", "key"]).exits(0).prints("value");
    assert_idle(cluster.pid(0));
    let resident = resident_kib(cluster.pid(0));
    println!("resident: {resident} KiB");
    assert!(resident < 64 * 1024, "{resident} KiB resident");

    // The best of three: the machine may be busy with other tests.
    let mut times = Vec::new();
    for _ in 0..3 {
        cluster.kill(0);
        let listening = |cluster: &Cluster| cluster.log(0).matches("listening on").count();
        let before = listening(&cluster);
        let start = now();
        cluster.start(0);
        wait_for("it listens", DEADLINE, || (listening(&cluster) > before).then_some(()));
        times.push(start.elapsed());
        cluster.wait_available();
    }
    println!("ready after {times:?}");
    assert!(times.iter().any(|time| *time < Duration::from_secs(1)), "{times:?}");
}

#[test]
fn idle_cluster_takes_less_than_one_percent_of_a_core_each() {
    let cluster = Cluster::new(3);
    cluster.wait_all();
    for replica in 0..3 {
        assert_idle(cluster.pid(replica));
    }
}
