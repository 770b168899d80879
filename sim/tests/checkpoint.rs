//! SIGKILL in the middle of a checkpoint: of one's own, and of one that is taken over from others.
//!
//! Where a replica is, its file tells, or `vsr status`, while it, or whom it waits for, stands
//! still by SIGSTOP: so the moment is certain, and nothing is timed.

use crate::harness::json::Json;
use crate::harness::load::{Kv, Load, PATIENCE};
use crate::harness::{Cluster, DEADLINE, run, vsr, wait_for};
use std::time::Duration;
use vsr::storage::Geometry;

/// A checkpoint after every 32 ops.
const GEOMETRY: Geometry = Geometry {
    message_size: 16384,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 16,
};
const DEATHS: usize = 4;

fn running() -> Cluster {
    let mut cluster = Cluster::formatted(3, GEOMETRY);
    cluster.start_all();
    cluster.wait_available();
    cluster
}

/// The newest op in the log of a file, and the checkpoint that its superblock names.
fn op_and_checkpoint(cluster: &Cluster, replica: usize) -> Option<(u64, u64)> {
    let path = cluster.data(replica);
    let json = run(vsr().args(["inspect", "journal", "--json"]).arg(path)).json();
    let journal = json.member("journal");
    let number = |name| journal.member(name).as_u64();
    Some((number("op_max")?, number("op_checkpoint")?))
}

/// Whether a replica that stands still has frozen its state and has no checkpoint of it yet: the
/// op that ends the interval is committed, since one that is a pipeline above it is in the log.
fn is_in_checkpoint(cluster: &Cluster, replica: usize) -> bool {
    let interval = u64::from(GEOMETRY.journal_slots) / 2;
    op_and_checkpoint(cluster, replica).is_some_and(|(op, op_checkpoint)| {
        op > op_checkpoint + interval + u64::from(GEOMETRY.pipeline)
    })
}

#[test]
fn primary_killed_in_the_middle_of_its_checkpoint_nothing_is_lost() {
    let mut cluster = running();
    let load = Load::start(cluster.addresses(), "frozen", 8, Duration::ZERO);
    for _ in 0..DEATHS {
        let victim = wait_for("the primary is in a checkpoint", 2 * DEADLINE, || {
            load.wait_acknowledged(1);
            let primary = cluster.status().primary?;
            cluster.pause(primary);
            if is_in_checkpoint(&cluster, primary) {
                return Some(primary);
            }
            cluster.resume(primary);
            None
        });
        cluster.kill(victim);
        let before = op_and_checkpoint(&cluster, victim).expect("a checkpoint before").1;
        load.wait_acknowledged(5);
        cluster.start(victim);
        cluster.wait_all_normal();
        wait_for("it has a later checkpoint", DEADLINE, || {
            load.wait_acknowledged(1);
            op_and_checkpoint(&cluster, victim).filter(|(_, op_checkpoint)| *op_checkpoint > before)
        });
    }
    let history = load.finish().no_errors();
    cluster.wait_all();
    history.verify(&cluster.addresses());
    for replica in 0..3 {
        assert_eq!(cluster.terminate(replica), Some(0));
        run(vsr().args(["inspect", "integrity"]).arg(cluster.data(replica))).exits(0);
    }
}

#[test]
fn replica_killed_in_the_middle_of_taking_over_a_checkpoint_takes_it_over() {
    let mut cluster = running();
    cluster.wait_all();
    cluster.kill(2);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 0..600 {
        kv.put(&format!("key-{number}"), &[b'v'; 12_000]).expect("available");
    }
    kv.close();
    let missing = |cluster: &Cluster| {
        let json = cluster.vsr(&["status", "--json", "--timeout=300ms"]).json();
        let sync = json.member("replicas").array()[2].get("sync").cloned();
        sync.and_then(|sync| sync.get("blocks_missing").and_then(Json::as_u64))
    };
    cluster.start(2);
    wait_for("a checkpoint is taken over", DEADLINE, || {
        cluster.log(2).contains("taking over checkpoint").then_some(())
    });
    // The others stand still in the middle of it; so there is no end of it.
    cluster.pause(0);
    cluster.pause(1);
    for _ in 0..DEATHS {
        wait_for("something is known to be missing", DEADLINE, || {
            missing(&cluster).filter(|blocks| *blocks > 0)
        });
        cluster.kill(2);
        let integrity = run(vsr().args(["inspect", "integrity"]).arg(cluster.data(2)));
        assert!(integrity.stdout.contains("it is being taken over"), "{integrity:#?}");
        cluster.start(2);
    }
    cluster.resume(0);
    cluster.resume(1);
    cluster.wait_all();
    // All of it is its own: it serves it when another is gone.
    cluster.kill(0);
    cluster.wait_available();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    let stored = kv.scan("key-").expect("all of them");
    assert_eq!(stored.len(), 600);
    kv.close();
    assert_eq!(cluster.terminate(2), Some(0));
    run(vsr().args(["inspect", "integrity"]).arg(cluster.data(2))).exits(0);
}
