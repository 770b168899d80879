//! `vsr recover`: a data file that is gone, on real disks, by real processes.

use crate::harness::load::Load;
use crate::harness::{Cluster, GEOMETRY, run, vsr};
use std::fs;
use std::process::Command;
use std::time::Duration;
use vsr::storage::Geometry;

const PACE: Duration = Duration::from_millis(5);
const SMALL: Geometry = Geometry { journal_slots: 256, ..GEOMETRY };

fn recover_command(cluster: &Cluster, replica: usize) -> Command {
    let mut command = cluster.client(&["recover"]);
    command.arg(format!("--replica={replica}")).arg("--data").arg(cluster.data(replica));
    command
}

/// Kills a replica, deletes its file, recovers and starts it.
fn lose_and_recover(cluster: &mut Cluster, replica: usize) {
    cluster.kill(replica);
    fs::remove_file(cluster.data(replica)).expect("the file was there");
    let finished = run(&mut recover_command(cluster, replica)).exits(0);
    assert!(finished.stdout.contains("vsr start --replica="), "{finished:#?}");
    assert!(cluster.data(replica).exists());
    cluster.start(replica);
    cluster.wait_all_normal();
}

#[test]
fn lost_files_are_recovered_one_after_the_other_under_load() {
    let mut cluster = Cluster::formatted(3, SMALL);
    cluster.start_all();
    cluster.wait_all();
    let load = Load::start(cluster.addresses(), "lost", 4, PACE);
    load.wait_acknowledged(50);
    let primary = cluster.wait_available();
    // A backup, then the primary of the time, then the one that was recovered first again.
    let backup = (primary + 1) % 3;
    lose_and_recover(&mut cluster, backup);
    load.wait_acknowledged(50);
    let primary = cluster.wait_available();
    lose_and_recover(&mut cluster, primary);
    load.wait_acknowledged(50);
    lose_and_recover(&mut cluster, backup);
    // It counts as any other: another one may be missing now.
    cluster.wait_all_normal();
    cluster.kill((backup + 1) % 3);
    load.wait_acknowledged(50);
    load.finish().no_errors().verify(&cluster.addresses());
    cluster.start((backup + 1) % 3);
    cluster.wait_all();
    cluster.assert_alive();
}

#[test]
fn recover_refuses_what_it_must_not_do() {
    let mut cluster = Cluster::formatted(3, SMALL);
    cluster.start_all();
    cluster.wait_all();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    // There is a file.
    run(&mut recover_command(&cluster, 1)).exits(11).says(&["replica-1.vsr", "overwrites"]);
    // The replica runs.
    let elsewhere = cluster.folder.path("elsewhere.vsr");
    let recover = |cluster: &Cluster, replica: usize, timeout: &str| {
        let mut command = cluster.client(&["recover", timeout]);
        command.arg(format!("--replica={replica}")).arg("--data").arg(&elsewhere);
        run(&mut command)
    };
    recover(&cluster, 1, "--timeout=10s").exits(3).says(&["replica 1", "runs"]);
    // Another one of three is down as well.
    cluster.kill(1);
    cluster.kill(2);
    recover(&cluster, 1, "--timeout=1s").exits(3).says(&["view-change quorum"]);
    // A cluster of two cannot.
    let mut command = vsr();
    command.args(["recover", "--replica=1", "--addresses=4000,4001", "--data"]).arg(&elsewhere);
    run(&mut command).exits(2).says(&["3 or more"]);
    let mut command = vsr();
    command.args(["recover", "--replica=3", "--addresses=4000,4001,4002"]);
    run(&mut command).exits(2).says(&["--replica=3"]);
    assert!(!elsewhere.exists(), "nothing is left behind");
    cluster.start(1);
    cluster.start(2);
    cluster.wait_all();
    cluster.vsr(&["get", "key"]).exits(0).prints("value");
}

#[test]
fn recover_makes_the_old_file_worthless() {
    let mut cluster = Cluster::formatted(3, SMALL);
    cluster.start_all();
    cluster.wait_all();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.kill(2);
    let old = cluster.folder.path("old.vsr");
    fs::rename(cluster.data(2), &old).expect("the file was there");
    run(&mut recover_command(&cluster, 2)).exits(0);
    let new = cluster.folder.path("new.vsr");
    fs::rename(cluster.data(2), &new).expect("the file was written");
    // The old one turns up again, and is started in its place.
    fs::rename(&old, cluster.data(2)).expect("the file was there");
    cluster.start(2);
    assert_eq!(cluster.wait_exit(2), Some(23));
    assert!(cluster.log(2).contains("another data file"), "{}", cluster.log(2));
    fs::rename(&new, cluster.data(2)).expect("the file was written");
    cluster.start(2);
    cluster.wait_all();
    cluster.vsr(&["get", "key"]).exits(0).prints("value");
}

#[test]
fn recover_that_has_no_room_or_no_folder_changes_nothing() {
    let mut cluster = Cluster::formatted(3, SMALL);
    cluster.start_all();
    cluster.wait_all();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.kill(2);
    let op = cluster.wait_agreement(&[0, 1]).replicas[0].op;
    let nowhere = cluster.folder.path("none/replica-2.vsr");
    let mut command = cluster.client(&["recover", "--replica=2", "--data"]);
    let finished = run(command.arg(&nowhere)).exits(10);
    finished.says(&["folder", "asked for nothing", "run this command again"]);
    // The signal that comes with the limit is ignored, so that the write fails instead.
    let small = cluster.folder.path("small.vsr");
    let mut command = Command::new("sh");
    command.arg("-c").arg("trap '' XFSZ; ulimit -f 512; exec \"$0\" \"$@\"");
    command.arg(env!("CARGO_BIN_EXE_vsr")).args(["recover", "--replica=2", "--data"]).arg(&small);
    command.env("VSR_ADDRESSES", cluster.addresses_text()).env_remove("RUST_LOG");
    let finished = run(&mut command).exits(22);
    let stages = finished.stderr.lines().filter(|line| line.ends_with('…')).count();
    assert_eq!(stages, 2, "{finished:#?}");
    finished.says(&["small.vsr", "full", "asked for nothing", "run this command again"]);
    assert!(!small.exists(), "nothing is left behind");
    assert_eq!(cluster.wait_agreement(&[0, 1]).replicas[0].op, op, "not even a session");
    // The old file is a member as before: another one may be missing.
    cluster.start(2);
    cluster.wait_all();
    cluster.kill(1);
    cluster.vsr(&["put", "key", "again"]).exits(0);
    cluster.start(1);
    cluster.wait_all();
    cluster.assert_alive();
}

#[test]
fn recover_that_was_killed_leaves_no_data_file() {
    let cluster = Cluster::unformatted(3, SMALL);
    for size in [0, 1 << 20] {
        fs::write(cluster.data(0), vec![0; size]).expect("a file");
        run(&mut cluster.start_command(0)).exits(15).says(&["no superblock", "vsr recover"]);
        run(&mut recover_command(&cluster, 0)).exits(11).says(&["interrupted", "move it away"]);
    }
}
