//! Rot in a data file, a log that is full, a disk that is full.

use crate::harness::load::{Failure, History, Kv, Load, PATIENCE};
use crate::harness::{Cluster, Folder, GEOMETRY, run, vsr};
use bytes::Bytes;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;
use vsr::constants::SECTOR_SIZE;
use vsr::stdx::Prng;
use vsr::storage::{Geometry, Layout};
use vsr::wire::{Command, Entries, Message, Operation};

/// Overwrites `size` bytes from `offset` with noise.
fn rot(path: &Path, offset: u64, size: u64, prng: &mut Prng) {
    let mut file = File::options().write(true).open(path).expect("the data file");
    file.seek(SeekFrom::Start(offset)).expect("an offset in the file");
    let mut noise = vec![0; usize::try_from(size).expect("a part of the file")];
    prng.fill(&mut noise);
    file.write_all(&noise).expect("the data file can be written");
    file.sync_all().expect("the data file can be synced");
}

fn read_at(path: &Path, offset: u64, size: u32) -> Vec<u8> {
    let mut file = File::open(path).expect("the data file");
    file.seek(SeekFrom::Start(offset)).expect("an offset in the file");
    let mut bytes = vec![0; size as usize];
    file.read_exact(&mut bytes).expect("a whole file");
    bytes
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

/// Every prepare in the journal of a file that nobody has open, by op, with its entries counted.
fn journal(path: &Path, geometry: Geometry) -> Vec<(u64, u32)> {
    let layout = Layout::new(geometry);
    let mut prepares = Vec::new();
    for slot in 0..geometry.journal_slots {
        let bytes = read_at(path, layout.prepare_offset(slot), geometry.message_size);
        let Ok(message) = Message::decode(Bytes::from(bytes)) else { continue };
        let Command::Prepare(prepare) = message.header().command else { continue };
        assert_eq!(geometry.slot(prepare.op), slot);
        let entries = Entries::new(message.body()).map(|entry| entry.expect("an entry").0);
        let applied = entries.filter(|entry| entry.operation == Operation::Apply).count();
        prepares.push((prepare.op, u32::try_from(applied).expect("a count")));
    }
    prepares.sort_unstable();
    prepares
}

#[test]
fn full_log_refuses_writes_and_keeps_what_it_has() {
    let geometry = Geometry { journal_slots: 64, ..GEOMETRY };
    let mut cluster = Cluster::formatted(3, geometry);
    cluster.start_all();
    cluster.wait_available();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    let mut acknowledged = 0;
    let failure = loop {
        match kv.put(&format!("key-{acknowledged}"), b"value") {
            Ok(_) => acknowledged += 1,
            Err(failure) => break failure,
        }
        assert!(acknowledged < 64, "more writes than the log has slots");
    };
    kv.close();
    let Failure::NotDone(text) = failure else { panic!("{failure:?}") };
    assert!(text.contains("full"), "{text}");
    assert!(acknowledged > 40, "full after {acknowledged} writes");
    cluster.vsr(&["put", "more", "value"]).exits(3).says(&["full"]);

    let before = cluster.wait_all();
    let op = before.replicas[0].op;
    assert!(op <= geometry.op_prepare_ok_max(0));
    cluster.kill_all();
    let journals: Vec<_> =
        (0..3).map(|replica| journal(&cluster.data(replica), geometry)).collect();
    cluster.start_all();
    let after = cluster.wait_all();
    assert_eq!(after.replicas[0].op, op, "nothing came, nothing went");
    cluster.kill_all();
    for (replica, before) in journals.iter().enumerate() {
        let ops: BTreeSet<u64> = before.iter().map(|(op, _)| *op).collect();
        assert!((0..=op).all(|op| ops.contains(&op)), "replica {replica}: {before:?}");
        let applied: u32 = before.iter().map(|(_, applied)| *applied).sum();
        assert!(applied >= acknowledged, "replica {replica}: {applied} of {acknowledged}");
        assert_eq!(*before, journal(&cluster.data(replica), geometry));
    }
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
