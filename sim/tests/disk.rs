//! Rot in a data file, a log that is full, a disk that is full, writes that fail.

use crate::harness::load::{History, Kv, Load, PATIENCE};
use crate::harness::raw::Raw;
use crate::harness::{Cluster, Folder, GEOMETRY, now, run, vsr};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;
use vsr::constants::SECTOR_SIZE;
use vsr::state_machine::kv::Request as KvRequest;
use vsr::stdx::Prng;
use vsr::storage::{Geometry, Layout};
use vsr::wire::Operation;

/// Overwrites `size` bytes from `offset` with noise.
fn rot(path: &Path, offset: u64, size: u64, prng: &mut Prng) {
    let mut file = File::options().write(true).open(path).expect("the data file");
    file.seek(SeekFrom::Start(offset)).expect("an offset in the file");
    let mut noise = vec![0; usize::try_from(size).expect("a part of the file")];
    prng.fill(&mut noise);
    file.write_all(&noise).expect("the data file can be written");
    file.sync_all().expect("the data file can be synced");
}

/// A cluster with some hundreds of ops in its log, and a backup that is down.
fn damaged_backup(
    damage: impl FnOnce(&Path, &Layout, u64, &mut Prng),
) -> (Cluster, usize, History) {
    let mut cluster = Cluster::new(3);
    let load = Load::start(cluster.addresses(), "rot", 4, Duration::from_millis(2));
    load.wait_acknowledged(50);
    let history = load.finish().no_errors();
    let status = cluster.wait_all();
    let victim = (status.primary.expect("available") + 1) % 3;
    let head = status.replicas[victim].op;
    assert!(head > 50, "{status:?}");
    cluster.kill(victim);
    let layout = Layout::new(cluster.geometry);
    damage(&cluster.data(victim), &layout, head, &mut Prng::from_seed(head));
    cluster.start(victim);
    (cluster, victim, history)
}

/// The damaged replica repairs itself; what the cluster promised is there, through each pair of
/// replicas, also when the one that was damaged is needed for every answer.
fn assert_repaired(mut cluster: Cluster, victim: usize, history: &History) {
    cluster.wait_all();
    history.verify(&cluster.addresses());
    for other in [(victim + 1) % 3, (victim + 2) % 3] {
        cluster.wait_all();
        cluster.kill(other);
        cluster.wait_available();
        history.verify(&cluster.addresses());
        cluster.start(other);
    }
    cluster.wait_all();
    // Repaired on disk and not only in memory.
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_all();
    history.verify(&cluster.addresses());
    cluster.assert_alive();
}

#[test]
fn rotten_prepares_are_repaired_from_the_others() {
    let (cluster, victim, history) = damaged_backup(|path, layout, head, prng| {
        let message_size = u64::from(layout.geometry.message_size);
        for op in 10..head / 2 {
            let slot = layout.geometry.slot(op);
            rot(path, layout.prepare_offset(slot), message_size, prng);
        }
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn rotten_bodies_behind_good_headers_are_repaired_from_the_others() {
    let (cluster, victim, history) = damaged_backup(|path, layout, head, prng| {
        for op in (2..=head).step_by(3) {
            let slot = layout.geometry.slot(op);
            // Behind the header of the prepare, within what every prepare has.
            rot(path, layout.prepare_offset(slot) + 128, 16, prng);
        }
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn rotten_headers_are_repaired_from_the_prepares() {
    let (cluster, victim, history) = damaged_backup(|path, layout, _, prng| {
        for sector in 0..layout.header_sectors() / 2 {
            rot(path, layout.headers_offset(sector), u64::from(SECTOR_SIZE), prng);
        }
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn rotten_head_is_repaired_from_the_others() {
    let (cluster, victim, history) = damaged_backup(|path, layout, head, prng| {
        let slot = layout.geometry.slot(head);
        rot(path, layout.prepare_offset(slot), u64::from(SECTOR_SIZE), prng);
        let sector = slot / 32;
        rot(path, layout.headers_offset(sector), u64::from(SECTOR_SIZE), prng);
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn rotten_root_and_genesis_are_repaired_from_the_others() {
    let (cluster, victim, history) = damaged_backup(|path, layout, _, prng| {
        rot(path, layout.headers_offset(0), u64::from(SECTOR_SIZE), prng);
        let message_size = u64::from(layout.geometry.message_size);
        rot(path, layout.prepare_offset(0), 2 * message_size, prng);
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn journal_wholly_rotten_is_rebuilt_from_the_others() {
    let (cluster, victim, history) = damaged_backup(|path, layout, head, prng| {
        let start = layout.headers_offset(0);
        let used = layout.prepare_offset(layout.geometry.slot(head + 64));
        rot(path, start, used - start, prng);
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn one_superblock_copy_rotten_is_repaired() {
    let (cluster, victim, history) = damaged_backup(|path, layout, _, prng| {
        rot(path, layout.superblock_offset(2), u64::from(SECTOR_SIZE), prng);
    });
    assert_repaired(cluster, victim, &history);
}

#[test]
fn superblock_wholly_rotten_is_refused_and_the_others_go_on() {
    let (mut cluster, victim, history) = damaged_backup(|path, layout, _, prng| {
        rot(path, 0, layout.headers_offset(0), prng);
    });
    let status = cluster.wait_exit(victim);
    assert!(matches!(status, Some(15 | 17)), "{status:?}");
    assert!(cluster.log(victim).contains("replica-"), "the line names the file");
    cluster.wait_available();
    history.verify(&cluster.addresses());
}

#[test]
fn rot_in_the_only_copy_is_refused_naming_op_and_slot() {
    let mut cluster = Cluster::new(1);
    for key in 0..10 {
        cluster.vsr(&["put", &format!("key-{key}"), "value"]).exits(0);
    }
    cluster.kill(0);
    let layout = Layout::new(cluster.geometry);
    rot(&cluster.data(0), layout.prepare_offset(5), 4096, &mut Prng::from_seed(5));
    let refused = run(&mut cluster.start_command(0)).exits(18);
    refused.says(&["op 5", "slot 5"]);
}

#[test]
fn log_goes_round_and_whoever_was_away_takes_over_a_checkpoint() {
    let geometry = Geometry { journal_slots: 64, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    cluster.start_all();
    let primary = cluster.wait_available();
    let mut raw = Raw::connect(cluster.addresses()[primary], 77);
    let session = raw.register();
    let first = KvRequest::put(b"first", b"value").encode();
    let answer = raw.ask(session, 1, Operation::Apply, &first);
    cluster.kill((primary + 1) % 3);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 0..400 {
        kv.put(&format!("key-{number}"), b"value").expect("the log goes round");
    }
    let op = cluster.status().replicas[primary].op;
    assert!(op > 4 * u64::from(geometry.journal_slots), "op {op}: the log did not go round");
    cluster.start((primary + 1) % 3);
    cluster.wait_all();
    let log = cluster.log((primary + 1) % 3);
    assert!(log.contains("taking over checkpoint"), "{log}");
    // Sessions are in the checkpoints: what was answered before is answered again, and the same.
    cluster.kill_all();
    cluster.start_all();
    cluster.wait_all();
    let mut again = Raw::connect(cluster.addresses()[cluster.wait_available()], 77);
    assert_eq!(again.ask(session, 1, Operation::Apply, &first), answer);
    let stored = kv.scan("key-").expect("all of them");
    kv.close();
    assert_eq!(stored.len(), 400);
}

#[test]
fn grid_at_its_limit_refuses_writes_by_name_and_goes_on_reading() {
    let geometry = Geometry { journal_slots: 64, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    let room = Layout::new(geometry).grid_offset() + (1 << 20);
    for launch in &mut cluster.launches {
        launch.arguments = vec![format!("--size-limit={room}")];
    }
    cluster.start_all();
    cluster.wait_available();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    let begun = now();
    let refused = (0..1000).find_map(|number| {
        kv.put(&format!("key-{number}"), &[b'v'; 3000]).err().map(|error| (number, error))
    });
    let (count, error) = refused.expect("3 MB do not fit 1 MiB");
    assert!(count > 50, "{count} fit: {error:?}");
    // Also whoever has read nothing yet reads on, and who writes is told why not.
    for number in [0, count / 2, count - 1] {
        let value = "v".repeat(3000);
        cluster.vsr(&["get", &format!("key-{number}")]).exits(0).prints(&value);
    }
    cluster.vsr(&["put", "key", "value"]).exits(3).says(&["store_full"]);
    cluster.vsr(&["get", "key"]).exits(1);
    let primary = cluster.wait_available();
    let log = cluster.log(primary);
    let lines = log.lines().filter(|line| line.contains("the store is full")).count();
    let seconds = usize::try_from(begun.elapsed().as_secs()).expect("a while");
    assert!((1..=1 + seconds).contains(&lines), "{lines} lines in {seconds} s: {log}");
    // With more room it goes on, and nothing is lost.
    cluster.kill_all();
    for launch in &mut cluster.launches {
        launch.arguments.clear();
    }
    cluster.start_all();
    cluster.wait_all();
    cluster.vsr(&["put", "key", "value"]).exits(0);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    let stored = kv.scan("key-").expect("all of them");
    kv.close();
    assert_eq!(stored.len(), count);
}

/// A file system of 8 MiB, or `None` where mounting is not permitted.
struct Mount(PathBuf);

impl Mount {
    fn new(path: PathBuf) -> Option<Self> {
        fs::create_dir(&path).expect("a folder");
        let mut mount = Process::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(&path);
        (run(&mut mount).status == Some(0)).then_some(Self(path))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Process::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// From this offset on the running replica can write nothing: the kernel refuses, as a disk would.
/// What it says of it has to have room below.
fn refuse_writes(cluster: &Cluster, replica: usize, offset: u64) {
    assert!((cluster.log(replica).len() as u64) < offset / 2, "it talks too much");
    let mut limit = Process::new("prlimit");
    limit.arg(format!("--pid={}", cluster.pid(replica))).arg(format!("--fsize={offset}:{offset}"));
    run(&mut limit).exits(0);
}

/// Replicas that get an error for a write which is beyond a limit, and not the signal that comes
/// with it otherwise.
fn cluster_of_limited() -> Cluster {
    let geometry = Geometry { journal_slots: 64, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    for launch in &mut cluster.launches {
        launch.prelude = Some("trap '' XFSZ".to_owned());
    }
    cluster.start_all();
    cluster.wait_available();
    cluster.wait_all();
    cluster
}

/// It ends with its number, and says once and in one line what happened.
#[track_caller]
fn assert_ends_by_failed_write(cluster: &mut Cluster, replica: usize) {
    assert_eq!(cluster.wait_exit(replica), Some(21), "{}", cluster.log(replica));
    let log = cluster.log(replica);
    assert!(!log.contains("panicked"), "{log}");
    let errors: Vec<&str> = log.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), 1, "{log}");
    assert!(errors[0].contains("a write to the data file failed"), "{log}");
    assert_eq!(log.lines().last(), Some(errors[0]), "it is the last that is said");
}

/// A backup, and then the primary, cannot write from `offset` on. It ends, the others go on
/// without it, and once the cause is gone it comes back.
fn write_fails_under_load(offset: impl Fn(&Layout) -> u64) {
    let mut cluster = cluster_of_limited();
    for is_primary in [false, true] {
        let load =
            Load::start(cluster.addresses(), &format!("fails-{is_primary}"), 4, Duration::ZERO);
        load.wait_acknowledged(20);
        let primary = cluster.wait_available();
        let victim = if is_primary { primary } else { (primary + 1) % 3 };
        refuse_writes(&cluster, victim, offset(&Layout::new(cluster.geometry)));
        assert_ends_by_failed_write(&mut cluster, victim);
        load.wait_acknowledged(40);
        cluster.assert_alive();
        // The limit was that of the process.
        fs::remove_file(cluster.folder.path(&format!("replica-{victim}.log"))).expect("its log");
        cluster.start(victim);
        cluster.wait_all_normal();
        load.finish().no_errors().verify(&cluster.addresses());
        cluster.wait_all();
    }
    cluster.assert_alive();
}

#[test]
fn replica_that_cannot_write_its_log_ends_and_comes_back() {
    write_fails_under_load(|layout| layout.headers_offset(0));
}

#[test]
fn replica_that_cannot_write_its_grid_ends_and_comes_back() {
    write_fails_under_load(Layout::grid_offset);
}

/// Nothing is written but the superblock of a view change: one copy of four.
#[test]
fn replica_that_cannot_write_its_superblock_ends_and_comes_back() {
    let mut cluster = cluster_of_limited();
    let load = Load::start(cluster.addresses(), "superblock", 2, Duration::ZERO);
    load.wait_acknowledged(20);
    let history = load.finish().no_errors();
    let status = cluster.wait_all();
    let primary = status.primary.expect("available");
    let victim = (primary + 1) % 3;
    let superblock_size = Layout::new(cluster.geometry).headers_offset(0);
    refuse_writes(&cluster, victim, superblock_size / 4);
    cluster.kill(primary);
    assert_ends_by_failed_write(&mut cluster, victim);
    cluster.start(primary);
    cluster.wait_available();
    history.verify(&cluster.addresses());
    cluster.start(victim);
    assert!(cluster.wait_all().view > status.view);
    history.verify(&cluster.addresses());
    cluster.assert_alive();
}

#[test]
fn format_on_a_full_disk_says_so_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let arguments = ["format", "--replica=0", "--replica-count=1", "--journal-slots=64"];
    if let Some(mount) = Mount::new(folder.path("disk")) {
        let path = mount.0.join("replica-0.vsr");
        let mut format = vsr();
        format.args(arguments).arg("--data").arg(&path);
        run(&mut format).exits(22).says(&["replica-0.vsr", "full"]);
        assert!(!path.exists(), "half a file is left");
    } else {
        println!("mounting is not permitted here: a limit on the file size takes its place");
        let path = folder.path("replica-0.vsr");
        let mut format = Process::new("sh");
        // The signal that comes with the limit is ignored, so that the write fails instead.
        format.arg("-c").arg("trap '' XFSZ; ulimit -f 8192; exec \"$0\" \"$@\"");
        format.arg(env!("CARGO_BIN_EXE_vsr")).args(arguments).arg("--data").arg(&path);
        let finished = run(&mut format);
        assert!(matches!(finished.status, Some(21 | 22 | 24)), "{finished:#?}");
        finished.says(&["replica-0.vsr"]);
        assert!(!path.exists(), "half a file is left");
    }
}
