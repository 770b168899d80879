//! `vsr inspect` on the files of real replicas, and what `vsr status` says of one that takes over a
//! checkpoint.

use crate::harness::json::Json;
use crate::harness::load::{Kv, PATIENCE};
use crate::harness::{Cluster, DEADLINE, Finished, run, vsr, wait_for};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use vsr::storage::Geometry;

/// A journal that wraps soon, so that there are checkpoints.
const GEOMETRY: Geometry = Geometry {
    message_size: 16384,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 16,
};

const PARTS: [&[&str]; 4] =
    [&["superblock"], &["journal", "--all"], &["checkpoint"], &["integrity"]];

fn inspect(path: &Path, arguments: &[&str]) -> Finished {
    run(vsr().arg("inspect").args(arguments).arg(path))
}

fn running() -> Cluster {
    let mut cluster = Cluster::formatted(3, GEOMETRY);
    cluster.start_all();
    cluster.wait_available();
    cluster
}

fn write(cluster: &Cluster, count: u64, value_size: usize) {
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 0..count {
        let value = vec![b'v'; value_size];
        kv.put(&format!("key-{number}"), &value).expect("available");
    }
    kv.close();
}

fn flip(path: &Path, offset: u64) {
    let file = fs::File::options().read(true).write(true).open(path).expect("a data file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("inside the file");
    file.write_all_at(&[byte[0] ^ 1], offset).expect("inside the file");
}

#[test]
fn files_of_replicas_are_sound_however_they_ended_and_damage_is_named() {
    let mut cluster = running();
    write(&cluster, 150, 3000);
    // In the middle of something, or not.
    cluster.kill_all();
    for replica in 0..3 {
        let path = cluster.data(replica);
        for part in PARTS {
            inspect(&path, part).exits(0);
        }
        let json = inspect(&path, &["integrity", "--json"]).exits(0).json();
        assert_eq!(json.member("sound"), &Json::Bool(true));
        assert_eq!(json.member("in_use"), &Json::Bool(false));
        let checkpoint = inspect(&path, &["checkpoint", "--json"]).exits(0).json();
        let checkpoint = checkpoint.member("checkpoint");
        assert!(checkpoint.member("op_checkpoint").as_u64() >= Some(96));
        assert!(checkpoint.member("records").as_u64() >= Some(50));
    }
    cluster.start_all();
    cluster.wait_all();
    // Beside a replica that runs, with a warning in front.
    let status = inspect(&cluster.data(0), &["superblock"]).says(&["warning", "open"]).status;
    assert!(matches!(status, Some(0 | 5)));
    for replica in 0..3 {
        assert_eq!(cluster.terminate(replica), Some(0));
    }
    let path = cluster.data(1);
    inspect(&path, &["integrity"]).exits(0);
    let known = inspect(&path, &["journal", "--json"]).exits(0).json();
    let op = known.member("journal").member("op_max").as_u64().expect("a head");
    let held = inspect(&path, &["op", &op.to_string()]).exits(0);
    assert!(held.stdout.contains("in the log, above the checkpoint"), "{held:#?}");
    inspect(&path, &["op", "3"]).exits(1);
    inspect(&path, &["op", "100000"]).exits(1);

    // A copy of the superblock, and the newest prepare: a start repairs both.
    flip(&path, 2 * 16384 + 500);
    let slot = op % 64;
    flip(&path, 65536 + 2 * 4096 + slot * 16384 + 130);
    let damaged = inspect(&path, &["integrity"]).exits(5);
    assert!(damaged.stdout.contains("damage: copy 2, byte 32768: damaged"), "{damaged:#?}");
    let expected = format!("damage: slot {slot} (op {op})");
    assert!(damaged.stdout.contains(&expected), "{damaged:#?}");
    assert!(damaged.stdout.contains("fetches it from the others by itself"), "{damaged:#?}");
    cluster.start_all();
    cluster.wait_all();
    for replica in 0..3 {
        assert_eq!(cluster.terminate(replica), Some(0));
    }
    inspect(&path, &["integrity"]).exits(0);

    // A block of the checkpoint.
    let json = inspect(&path, &["checkpoint", "--json"]).exits(0).json();
    let block = json.member("checkpoint").member("tree_block").as_u64().expect("a tree");
    let grid = inspect(&path, &["superblock", "--json"]).exits(0).json();
    let grid = grid.member("superblock").member("grid_offset").as_u64().expect("an offset");
    flip(&path, grid + block * 4096 + 1000);
    let damaged = inspect(&path, &["checkpoint"]).exits(5);
    assert!(damaged.stdout.contains(&format!("damage: block {block} (")), "{damaged:#?}");
}

#[test]
fn what_is_no_data_file_is_said_clearly() {
    let cluster = Cluster::formatted(1, GEOMETRY);
    let path = cluster.folder.path("other");
    inspect(&path, &["superblock"]).exits(10).says(&["other", "no such file"]);
    inspect(cluster.folder.path("").as_path(), &["journal"]).exits(15).says(&["regular file"]);
    fs::write(&path, b"").expect("a file");
    inspect(&path, &["integrity"]).exits(15).says(&["not a data file"]);
    fs::write(&path, vec![7; 100_000]).expect("a file");
    for part in PARTS {
        let finished = inspect(&path, part).exits(15);
        assert_eq!(finished.stdout.matches("damage: copy").count(), 4, "{finished:#?}");
    }
    let whole = fs::read(cluster.data(0)).expect("a data file");
    fs::write(&path, &whole[..whole.len() - 5000]).expect("a file");
    let finished = inspect(&path, &["integrity"]).exits(5);
    assert!(finished.stdout.contains("the file ends here"), "{finished:#?}");
}

#[test]
fn status_shows_a_checkpoint_being_taken_over() {
    let mut cluster = running();
    cluster.wait_all();
    cluster.kill(2);
    write(&cluster, 600, 12_000);
    cluster.start(2);
    // The others stand still in the middle of it.
    wait_for("a checkpoint is taken over", DEADLINE, || {
        cluster.log(2).contains("taking over checkpoint").then_some(())
    });
    cluster.pause(0);
    cluster.pause(1);
    let sync = |cluster: &Cluster| {
        let json = cluster.vsr(&["status", "--json", "--timeout=300ms"]).json();
        json.member("replicas").array()[2].get("sync").cloned()
    };
    let seen = wait_for("the status shows it", DEADLINE, || {
        // It has to ask its disk first.
        let missing = |sync: &Json| sync.get("blocks_missing").and_then(Json::as_u64);
        sync(&cluster).filter(|sync| missing(sync) >= Some(1))
    });
    assert!(seen.member("op_checkpoint").as_u64() >= Some(32), "{seen:?}");
    let text = cluster.vsr(&["status", "--timeout=300ms"]).stdout;
    assert!(text.contains("replica 2 takes over checkpoint"), "{text}");
    let integrity = inspect(&cluster.data(2), &["integrity"]);
    assert!(integrity.stdout.contains("it is being taken over"), "{integrity:#?}");
    cluster.resume(0);
    cluster.resume(1);
    cluster.wait_all();
    assert_eq!(sync(&cluster), Some(Json::Null));
    for replica in 0..3 {
        assert_eq!(cluster.terminate(replica), Some(0));
    }
    inspect(&cluster.data(2), &["integrity"]).exits(0);
}
