//! Commands and their results, start orders, clean ends.

use crate::harness::json::Json;
use crate::harness::{Cluster, DEADLINE, GEOMETRY, now, wait_for};
use std::time::Duration;
use vsr::storage::Geometry;

const SMALL: Geometry = Geometry { journal_slots: 256, ..GEOMETRY };

#[test]
fn start_in_any_order_first_put_is_read_back() {
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let mut cluster = Cluster::formatted(3, SMALL);
        for (started, replica) in order.into_iter().enumerate() {
            cluster.start(replica);
            let status =
                cluster.wait("the replica answers", |status| status.replicas[replica].reachable);
            // A cluster is born when all have met, and not before.
            assert!(started == 2 || !status.available, "{order:?}: {status:?}");
        }
        cluster.wait_available();
        cluster.vsr(&["put", "first", "value"]).exits(0);
        cluster.vsr(&["get", "first"]).exits(0).prints("value");
        cluster.wait_all();
        cluster.assert_alive();
    }
}

#[test]
fn commands_give_their_results_and_exit_statuses() {
    let cluster = Cluster::new(3);
    cluster.vsr(&["get", "a"]).exits(1);
    cluster.vsr(&["delete", "a"]).exits(1);
    cluster.vsr(&["put", "a", "1"]).exits(0);
    cluster.vsr(&["get", "a"]).exits(0).prints("1");
    cluster.vsr(&["cas", "a", "2", "3"]).exits(1);
    cluster.vsr(&["get", "a"]).exits(0).prints("1");
    cluster.vsr(&["cas", "a", "1", "2"]).exits(0);
    cluster.vsr(&["get", "a"]).exits(0).prints("2");
    cluster.vsr(&["put", "b", ""]).exits(0);
    cluster.vsr(&["put", "aa", "x y"]).exits(0);
    let scan = cluster.vsr(&["scan", "a"]).exits(0).stdout;
    let rows: Vec<&str> = scan.lines().collect();
    assert_eq!(rows.len(), 2, "{scan}");
    assert!(rows[0].starts_with('a') && rows[0].ends_with('2'), "{scan}");
    assert!(rows[1].starts_with("aa") && rows[1].ends_with("x y"), "{scan}");
    cluster.vsr(&["delete", "a"]).exits(0);
    cluster.vsr(&["get", "a"]).exits(1);
    let scan = cluster.vsr(&["scan"]).exits(0).stdout;
    assert_eq!(scan.lines().count(), 2, "{scan}");
    cluster.vsr(&["scan", "nothing-begins-so"]).exits(0);
}

#[test]
fn commands_print_json() {
    let cluster = Cluster::new(3);
    let put = cluster.vsr(&["put", "a", "line\n\"quoted\"", "--json"]).exits(0).json();
    let revision = put.member("revision").as_u64().expect("a number");
    let get = cluster.vsr(&["get", "a", "--json"]).exits(0).json();
    assert_eq!(get.member("key").as_string().as_deref(), Some("a"));
    assert_eq!(get.member("value").as_string().as_deref(), Some("line\n\"quoted\""));
    assert_eq!(get.member("revision").as_u64(), Some(revision));
    assert!(get.member("op").as_u64() > put.member("op").as_u64());
    assert!(get.member("view").as_u64().is_some());
    let cas = cluster.vsr(&["cas", "a", "wrong", "x", "--json"]).exits(1).json();
    assert_eq!(cas.member("key").as_string().as_deref(), Some("a"));
    let missing = cluster.vsr(&["get", "none", "--json"]).exits(1);
    assert!(missing.stdout.is_empty() || missing.json().get("key").is_some(), "{missing:?}");
    let scan = cluster.vsr(&["scan", "--json"]).exits(0);
    assert!(scan.stdout.lines().all(|line| Json::parse(line).is_ok()) || scan.json() != Json::Null);
    let status = cluster.status();
    assert!(status.available);
    assert_eq!(status.replicas.len(), 3);
    assert!(status.primary.is_some_and(|primary| primary < 3));
}

#[test]
fn sigterm_ends_every_replica_cleanly_and_fast() {
    let mut cluster = Cluster::new(3);
    cluster.vsr(&["put", "kept", "yes"]).exits(0);
    for replica in 0..3 {
        let start = now();
        assert_eq!(cluster.terminate(replica), Some(0));
        assert!(start.elapsed() < Duration::from_secs(2), "took {:?}", start.elapsed());
    }
    cluster.start_all();
    cluster.wait_available();
    cluster.vsr(&["get", "kept"]).exits(0).prints("yes");
}

#[test]
fn a_closed_pipe_is_success() {
    let cluster = Cluster::new(1);
    for key in 0..20 {
        cluster.vsr(&["put", &format!("key-{key}"), &"v".repeat(2000)]).exits(0);
    }
    let mut scan = cluster.client(&["scan"]);
    let mut child = scan.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let status =
        wait_for("scan ends", DEADLINE, || child.try_wait().expect("it can be waited for"));
    assert_eq!(status.code(), Some(0));
}
