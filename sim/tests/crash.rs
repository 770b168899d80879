//! SIGKILL, at any moment, of one replica or of all, in clusters of every size.

use crate::harness::load::{Kv, Load, PATIENCE};
use crate::harness::raw::{Incoming, Raw};
use crate::harness::{Cluster, DEADLINE, now, wait_for};
use std::time::Duration;
use vsr::state_machine::kv::Request;
use vsr::wire::{Command, Operation};

const PACE: Duration = Duration::from_millis(5);

/// How long a client may wait for an answer when the primary dies.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Kills the primary under load, three times at most, restarts it each time, and verifies that
/// nothing was lost. The pause is a claim about a machine that is not busy with other things:
/// the shortest of the three counts. Everything else must hold each time.
fn kill_primaries_under_load(replica_count: usize) {
    let mut cluster = Cluster::new(replica_count);
    cluster.wait_all();
    let load = Load::start(cluster.addresses(), "kill", 4, PACE);
    let mut pauses = Vec::new();
    for kill in 0..3 {
        load.wait_acknowledged(20);
        let before = cluster.wait_all_normal();
        let primary = before.primary.expect("available");
        let killed_at = now();
        cluster.kill(primary);
        load.wait_acknowledged(20);
        let pause = load.longest_wait(killed_at);
        println!("{replica_count} replicas, kill {kill}: the longest wait was {pause:?}");
        pauses.push(pause);
        let after = cluster.wait("a higher view", |status| status.view > before.view);
        assert_ne!(after.primary, Some(primary), "{after:?}");
        assert!(!after.replicas[primary].reachable);
        cluster.start(primary);
        cluster.wait_all_normal();
        // It serves as well as the others: the next kill may leave it the primary.
        if kill >= 1 && pauses.iter().any(|pause| *pause < PAUSE_MAX) {
            break;
        }
    }
    load.finish().no_errors().verify(&cluster.addresses());
    cluster.wait_all();
    cluster.assert_alive();
    assert!(pauses.iter().any(|pause| *pause < PAUSE_MAX), "{pauses:?}");
}

#[test]
fn primary_killed_of_3_clients_see_a_pause_below_a_second() {
    kill_primaries_under_load(3);
}

#[test]
fn primary_killed_of_4_clients_see_a_pause_below_a_second() {
    kill_primaries_under_load(4);
}

#[test]
fn primary_killed_of_5_clients_see_a_pause_below_a_second() {
    kill_primaries_under_load(5);
}

#[test]
fn primary_killed_of_6_clients_see_a_pause_below_a_second() {
    kill_primaries_under_load(6);
}

/// The session was opened by a primary that dies at once; its successor may have the register in
/// its log and not have executed it. It must not say that there is no such session.
#[test]
fn session_opened_just_before_the_primary_dies_is_not_evicted() {
    let mut cluster = Cluster::new(3);
    for round in 0..8 {
        let primary = cluster.wait_all_normal().primary.expect("available");
        let addresses = cluster.addresses();
        let mut backups: Vec<Raw> = (0..3)
            .filter(|replica| *replica != primary)
            .map(|replica| Raw::connect(addresses[replica], 100 + round))
            .collect();
        let session = Raw::connect(addresses[primary], 100 + round).register();
        cluster.kill(primary);
        let body = Request::put(b"round", round.to_string().as_bytes()).encode();
        // Again and again: the successor is to be asked in its very first moment.
        let reply = wait_for("a reply", DEADLINE, || {
            for raw in &mut backups {
                let put = raw.request(session, 1, Operation::Apply, &body);
                assert!(raw.send(put.as_bytes()));
                if let Incoming::Message(message) = raw.receive(Duration::from_millis(1)) {
                    match message.header().command {
                        Command::Reply(reply) if reply.request == 1 => return Some(reply),
                        Command::Eviction(eviction) => panic!("round {round}: {eviction:?}"),
                        _ => {}
                    }
                }
            }
            None
        });
        assert_eq!((reply.session, reply.result), (session, 0));
        cluster.start(primary);
    }
    cluster.assert_alive();
}

#[test]
fn backup_killed_clients_see_no_pause_and_it_catches_up() {
    let mut cluster = Cluster::new(3);
    let primary = cluster.wait_all().primary.expect("available");
    let backup = (primary + 1) % 3;
    let load = Load::start(cluster.addresses(), "backup", 4, PACE);
    load.wait_acknowledged(20);
    let view = cluster.status().view;
    cluster.kill(backup);
    load.wait_acknowledged(100);
    assert_eq!(cluster.status().view, view, "a dead backup is no reason for a view change");
    cluster.start(backup);
    let history = load.finish().no_errors();
    cluster.wait_all();
    history.verify(&cluster.addresses());
    // What it caught up with is its own: it serves all of it when another is gone.
    cluster.kill(primary);
    cluster.wait_available();
    history.verify(&cluster.addresses());
}

/// Kills every replica at once under load, restarts them, and verifies.
fn kill_all_under_load(replica_count: usize) {
    let mut cluster = Cluster::new(replica_count);
    let load = Load::start(cluster.addresses(), "all", 4, Duration::from_millis(1));
    for _ in 0..2 {
        load.wait_acknowledged(30);
        cluster.kill_all();
        let count = load.acknowledged();
        cluster.start_all();
        cluster.wait_available();
        load.wait_acknowledged(10);
        assert!(load.acknowledged() > count);
    }
    // The clients had patience: even this is no error for them.
    let history = load.finish().no_errors();
    history.verify(&cluster.addresses());
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_available();
    history.verify(&cluster.addresses());
    cluster.wait_all();
}

#[test]
fn all_3_killed_at_once_every_acknowledged_write_is_there() {
    kill_all_under_load(3);
}

#[test]
fn all_5_killed_at_once_every_acknowledged_write_is_there() {
    kill_all_under_load(5);
}

#[test]
fn only_replica_killed_its_data_is_there() {
    kill_all_under_load(1);
}

#[test]
fn both_of_2_killed_every_acknowledged_write_is_there() {
    kill_all_under_load(2);
}

/// Nothing is acknowledged and nothing is answered by what is left.
#[track_caller]
fn assert_no_progress(cluster: &Cluster, value: &str) {
    let put = cluster.vsr(&["put", "lonely", value, "--timeout=700ms"]);
    assert!(matches!(put.status, Some(3 | 4)), "{put:#?}");
    // A read changes nothing: it is never of unknown outcome.
    cluster.vsr(&["get", "key", "--timeout=700ms"]).exits(3).says(&["unavailable"]);
    cluster.vsr(&["status"]).exits(3);
}

#[test]
fn one_of_2_killed_no_progress_until_it_is_back() {
    let mut cluster = Cluster::new(2);
    // First the backup, so that the primary is left alone, then the primary.
    for (round, of_primary) in [1, 0].into_iter().enumerate() {
        let value = format!("round {round}");
        cluster.vsr(&["put", "key", &value]).exits(0);
        let down = (cluster.wait_all().primary.expect("available") + of_primary) % 2;
        cluster.kill(down);
        assert_no_progress(&cluster, &value);
        cluster.start(down);
        cluster.wait_available();
        cluster.vsr(&["get", "key"]).exits(0).prints(&value);
        cluster.vsr(&["put", "key", "again"]).exits(0);
    }
    cluster.wait_all();
}

#[test]
fn majority_down_nothing_is_acknowledged_and_nothing_is_lost() {
    let mut cluster = Cluster::new(3);
    // The primary is left alone, then a backup.
    for (round, of_primary) in [0, 1].into_iter().enumerate() {
        let value = format!("round {round}");
        cluster.vsr(&["put", "key", &value]).exits(0);
        let left = (cluster.wait_all().primary.expect("available") + of_primary) % 3;
        let down = [(left + 1) % 3, (left + 2) % 3];
        for replica in down {
            cluster.kill(replica);
        }
        assert_no_progress(&cluster, &value);
        cluster.start(down[0]);
        cluster.wait_available();
        cluster.vsr(&["get", "key"]).exits(0).prints(&value);
        cluster.start(down[1]);
        cluster.wait_all();
    }
}

#[test]
fn replica_killed_again_and_again_under_load_nothing_is_lost() {
    let mut cluster = Cluster::new(3);
    let load = Load::start(cluster.addresses(), "again", 3, PACE);
    for round in 0..6 {
        load.wait_acknowledged(5);
        let victim = round % 3;
        cluster.kill(victim);
        load.wait_acknowledged(5);
        cluster.start(victim);
        // The next victim falls as soon as a quorum can do without it, not when all is quiet.
        cluster.wait("the victim is back", |status| {
            status.available && status.replicas[victim].status == "normal"
        });
    }
    let history = load.finish().no_errors();
    history.verify(&cluster.addresses());
    cluster.wait_all();
    // Each replica by itself has it: read through clusters that miss one of them each.
    for down in 0..3 {
        cluster.kill(down);
        cluster.wait_available();
        history.verify(&cluster.addresses());
        cluster.start(down);
        cluster.wait_all();
    }
}

#[test]
fn client_survives_its_primary_without_a_new_session() {
    let mut cluster = Cluster::new(3);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    let first = kv.put("key", b"1").expect("available");
    let primary = cluster.wait_all().primary.expect("available");
    cluster.kill(primary);
    let second = kv.put("key", b"2").expect("the others go on");
    assert_eq!(second, first + 1);
    assert_eq!(kv.get("key").expect("available"), Some((second, b"2".to_vec())));
    kv.close();
}
