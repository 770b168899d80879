//! Blocks of the store that nobody has, and replicas whose states differ.

use crate::harness::json::Json;
use crate::harness::load::{Kv, PATIENCE};
use crate::harness::{Cluster, DEADLINE, run, vsr, wait_for};
use bytes::Bytes;
use std::fs;
use std::path::Path;
use vsr::stdx::AlignedBuffer;
use vsr::storage::block::{BlockKind, StoredBlock, block_reference, block_seal};
use vsr::storage::layout::SUPERBLOCK_COPY_SIZE;
use vsr::storage::superblock::{SuperblockCopy, superblock_zone};
use vsr::storage::{Geometry, Layout, ReadResult};
use vsr::wire::{BlockRef, Command, Message};

/// A journal that wraps soon, so that there are checkpoints.
const GEOMETRY: Geometry = Geometry {
    message_size: 16384,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 16,
};
const BLOCK: usize = GEOMETRY.block_size as usize;

/// Replicas that have ended, with the same checkpoint and some ops after it.
fn ended(replica_count: usize) -> Cluster {
    let mut cluster = Cluster::formatted(replica_count, GEOMETRY);
    cluster.start_all();
    cluster.wait_available();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 0..45 {
        kv.put(&format!("key-{}", number % 10), b"right").expect("available");
    }
    kv.close();
    cluster.wait_all();
    wait_for("a checkpoint on each", DEADLINE, || {
        let json = cluster.vsr(&["status", "--json", "--timeout=300ms"]).json();
        let replicas = json.member("replicas").array().iter();
        let mut ops = replicas.map(|it| it.member("op_checkpoint").as_u64());
        ops.all(|op| op == Some(32)).then_some(())
    });
    for replica in 0..replica_count {
        assert_eq!(cluster.terminate(replica), Some(0));
    }
    cluster
}

/// The one leaf of the tree of a small state: its index.
fn leaf(path: &Path) -> usize {
    let json = run(vsr().arg("inspect").args(["checkpoint", "--json"]).arg(path)).exits(0).json();
    let checkpoint = json.member("checkpoint");
    assert_eq!(checkpoint.member("tree_height").as_u64(), Some(1), "{checkpoint:?}");
    let index = checkpoint.member("tree_block").as_u64().expect("a tree");
    usize::try_from(index).expect("a small file")
}

fn grid_offset() -> usize {
    usize::try_from(Layout::new(GEOMETRY).grid_offset()).expect("a small file")
}

/// A bit of the leaf is another one, or what it was again.
fn flip_leaf(path: &Path, leaf: usize) {
    let mut bytes = fs::read(path).expect("a data file");
    bytes[grid_offset() + leaf * BLOCK + 1000] ^= 1;
    fs::write(path, &bytes).expect("a data file");
}

#[test]
fn a_rotten_block_of_a_lone_replica_is_the_end_with_its_name() {
    let mut cluster = ended(1);
    let path = cluster.data(0);
    let leaf = leaf(&path);
    flip_leaf(&path, leaf);
    cluster.start(0);
    assert_eq!(cluster.wait_exit(0), Some(26));
    let log = cluster.log(0);
    let line = log.lines().last().expect("a line").to_owned();
    let name = format!("block {leaf} (op 32, checksums ");
    for part in ["error:", name.as_str(), "checkpoint 32", "restore", "backup", "inspect"] {
        assert!(line.contains(part), "{line}");
    }
    let inspected = run(vsr().args(["inspect", "integrity"]).arg(&path)).exits(5);
    assert!(inspected.stdout.contains(&format!("damage: block {leaf} (")), "{inspected:#?}");
    // It is as good as it was.
    flip_leaf(&path, leaf);
    cluster.start(0);
    cluster.wait_all();
    cluster.vsr(&["get", "key-3"]).exits(0).prints("right");
}

#[test]
fn a_rotten_block_that_nobody_has_is_waited_for_and_shown() {
    let mut cluster = ended(3);
    let leaf = leaf(&cluster.data(0));
    for replica in 0..3 {
        flip_leaf(&cluster.data(replica), leaf);
    }
    cluster.start_all();
    let shown = wait_for("the status shows it", DEADLINE, || {
        let shown = cluster.vsr(&["status", "--timeout=300ms"]).stdout;
        (shown.matches("is waiting for a block").count() == 3).then_some(shown)
    });
    assert!(shown.contains("1 are missing"), "{shown}");
    let json = cluster.vsr(&["status", "--json", "--timeout=300ms"]).json();
    for replica in json.member("replicas").array() {
        assert_eq!(replica.member("awaits_block"), &Json::Bool(true), "{json:?}");
        assert_eq!(replica.member("blocks_missing").as_u64(), Some(1), "{json:?}");
    }
    let line = format!("execution is waiting for block {leaf}");
    wait_for("each of them says so", DEADLINE, || {
        (0..3).all(|replica| cluster.log(replica).contains(&line)).then_some(())
    });
    // One copy is found, and is enough for all.
    cluster.assert_alive();
    cluster.kill(1);
    flip_leaf(&cluster.data(1), leaf);
    cluster.start(1);
    cluster.wait_all();
    cluster.vsr(&["get", "key-3"]).exits(0).prints("right");
    wait_for("it is repaired", DEADLINE, || {
        let json = cluster.vsr(&["status", "--json", "--timeout=300ms"]).json();
        let repaired = |index: usize| {
            let replica = &json.member("replicas").array()[index];
            replica.member("blocks_repaired").as_u64() >= Some(1)
                && replica.member("blocks_missing").as_u64() == Some(0)
        };
        (repaired(0) && repaired(2)).then_some(())
    });
    cluster.assert_alive();
}

#[test]
fn a_query_for_what_nobody_has_keeps_no_other_waiting() {
    let mut cluster = Cluster::formatted(3, GEOMETRY);
    cluster.start_all();
    cluster.wait_available();
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for number in 100..200 {
        kv.put(&format!("key-{number}"), &[b'v'; 300]).expect("available");
    }
    kv.close();
    cluster.wait_all();
    for replica in 0..3 {
        assert_eq!(cluster.terminate(replica), Some(0));
        let path = cluster.data(replica);
        let mut bytes = fs::read(&path).expect("a data file");
        let needle = b"key-120";
        let mut count = 0;
        for block in bytes[grid_offset()..].chunks_exact_mut(BLOCK) {
            let Ok(message) = Message::decode(Bytes::copy_from_slice(block)) else { continue };
            let Command::Block(command) = message.header().command else { continue };
            let is_leaf = BlockKind::from_code(command.kind) == Some(BlockKind::Leaf);
            if is_leaf && block.windows(needle.len()).any(|window| window == needle) {
                block[200] ^= 1;
                count += 1;
            }
        }
        assert!(count > 0);
        fs::write(&path, &bytes).expect("a data file");
    }
    cluster.start_all();
    cluster.wait_all();
    let mut lost = cluster.client(&["get", "key-120", "--timeout=8s"]).spawn().expect("a client");
    // From the moment on at which the first has come, for as long as it waits.
    let mut count = 0;
    while lost.try_wait().expect("a child").is_none() {
        cluster.vsr(&["get", "key-198", "--timeout=5s"]).exits(0);
        count += 1;
    }
    assert_eq!(lost.wait().expect("a child").code(), Some(3));
    assert!(count > 3, "{count}");
    assert!(cluster.vsr(&["status"]).stdout.contains("bad blocks"));
    cluster.vsr(&["put", "key-199", "again"]).exits(0);
    cluster.assert_alive();
}

/// Another value is in the checkpoint of a data file, and every checksum from the leaf up to the
/// superblock agrees with it: what a fault of the program would leave, and not one of a disk.
fn diverge(path: &Path, leaf: usize) {
    let mut bytes = fs::read(path).expect("a data file");
    let copy = SuperblockCopy::decode(&bytes[..SUPERBLOCK_COPY_SIZE as usize], 0);
    let mut state = copy.expect("a sound superblock").state;
    let place = |index: usize| {
        let start = grid_offset() + index * BLOCK;
        start..start + BLOCK
    };
    let mut reseal = |reference: BlockRef, old: &[u8], new: &[u8]| {
        assert_eq!(old.len(), new.len());
        let place = place(reference.index as usize);
        let buffer = AlignedBuffer::copy_of(&bytes[place.clone()]);
        let result = ReadResult { buffer, unreadable: Vec::new() };
        let block = StoredBlock::decode_read(state.cluster, &reference, result);
        let block = block.expect("a sound block");
        let mut body = block.body().to_vec();
        let at = body.windows(old.len()).position(|window| window == old).expect("it is there");
        body[at..at + new.len()].copy_from_slice(new);
        let BlockRef { index, op, .. } = reference;
        let (sealed, sectors) =
            block_seal(state.cluster, index, op, block.kind, &body, GEOMETRY.block_size);
        bytes[place].copy_from_slice(sectors.as_ref());
        sealed
    };
    let file = fs::read(path).expect("a data file");
    let block = Message::decode(Bytes::copy_from_slice(&file[place(leaf)]));
    let block = block.expect("a sound block");
    let Command::Block(command) = block.header().command else { panic!("no block") };
    let reference = block_reference(block.header(), &command);
    let other = reseal(reference, b"right", b"wrong");
    assert_ne!(other, reference);
    state.checkpoint = reseal(state.checkpoint, &reference.encode(), &other.encode());
    let zone = superblock_zone(&state);
    bytes[..zone.len()].copy_from_slice(zone.as_ref());
    fs::write(path, &bytes).expect("a data file");
}

#[test]
fn a_replica_whose_state_is_not_that_of_the_others_stops() {
    let mut cluster = ended(3);
    let leaf = leaf(&cluster.data(1));
    let integrity =
        |cluster: &Cluster| run(vsr().args(["inspect", "integrity"]).arg(cluster.data(1)));
    integrity(&cluster).exits(0);
    diverge(&cluster.data(1), leaf);
    cluster.start_all();
    assert_eq!(cluster.wait_exit(1), Some(25));
    let log = cluster.log(1);
    let line = log.lines().last().expect("a line").to_owned();
    for part in [
        "error:",
        "checkpoint of op 32 is ",
        "on 2 of the 3",
        "vsr inspect checkpoint FILE --against OTHER_FILE",
        "vsr recover --replica=1",
    ] {
        assert!(line.contains(part), "{line}");
    }
    // Each id is the op, and two checksums.
    let ids = line.split(|it: char| !it.is_ascii_hexdigit()).filter(|word| word.len() == 32);
    let ids: Vec<&str> = ids.collect();
    assert_eq!(ids.len(), 2, "{line}");
    assert!(ids[0] != ids[1] && ids.iter().all(|id| id.starts_with("0000000000000020")), "{line}");
    let inspected = integrity(&cluster).exits(5);
    assert!(inspected.stdout.contains("not those of the digest in the root"), "{inspected:#?}");
    // The others go on without it.
    cluster.wait_available();
    cluster.vsr(&["get", "key-3"]).exits(0).prints("right");
    // One of them may run on while its file is compared.
    let compare = |flags: &[&str]| {
        let mut command = vsr();
        command.args(["inspect", "checkpoint"]).args(flags).arg(cluster.data(1));
        run(command.arg("--against").arg(cluster.data(0))).exits(5)
    };
    let text = compare(&[]).stdout;
    let told: Vec<&str> = text.lines().filter(|it| it.starts_with("difference: ")).collect();
    let start = format!("difference: block {leaf} (leaf of op 32), byte ");
    assert!(told.len() == 1 && told[0].starts_with(&start), "{text}");
    let record = "table 1 (kv: keys), key \"key-0\": \"wrong\" of revision ";
    for part in [record, " here, \"right\" of revision ", " there; "] {
        assert!(told[0].contains(part), "{text}");
    }
    assert!(ids.iter().all(|id| text.contains(id)), "{text}");
    let json = compare(&["--json"]).json();
    assert_eq!(json.member("differences_count").as_u64(), Some(1), "{json:?}");
    assert_eq!(json.member("against").member("in_use"), &Json::Bool(true), "{json:?}");
    let comparison = json.member("comparison");
    assert_eq!(comparison.member("op_compared").as_u64(), Some(32), "{json:?}");
    assert_eq!(comparison.member("same"), &Json::Bool(false), "{json:?}");
    assert_eq!(comparison.member("records_differing").as_u64(), Some(1), "{json:?}");
    // The two that agree have the same.
    let mut command = vsr();
    command.args(["inspect", "checkpoint"]).arg(cluster.data(0)).arg("--against");
    run(command.arg(cluster.data(2))).exits(0).says(&["warning"]);
    // It comes back as another one.
    fs::remove_file(cluster.data(1)).expect("the file was there");
    let mut recover = cluster.client(&["recover", "--replica=1", "--data"]);
    run(recover.arg(cluster.data(1))).exits(0);
    cluster.start(1);
    cluster.wait_all();
    cluster.assert_alive();
}

#[test]
fn replicas_of_which_nobody_knows_who_is_right_say_so() {
    let mut cluster = ended(3);
    let leaf = leaf(&cluster.data(1));
    diverge(&cluster.data(1), leaf);
    // The third one is away: neither stops, and both say so.
    cluster.start(0);
    cluster.start(1);
    let text = wait_for("the status shows it", DEADLINE, || {
        let text = cluster.vsr(&["status", "--timeout=300ms"]).stdout;
        (text.matches("has diverged").count() == 2).then_some(text)
    });
    assert!(text.contains("replica 0 has diverged: its checkpoint 32 is not that of replica 1"));
    assert!(text.contains("replica 1 has diverged: its checkpoint 32 is not that of replica 0"));
    cluster.assert_alive();
    for replica in 0..2 {
        assert!(cluster.log(replica).contains("diverged: checkpoint 32 is"));
    }
    // It comes back, and the majority is clear.
    cluster.start(2);
    assert_eq!(cluster.wait_exit(1), Some(25));
    cluster.wait_available();
    cluster.vsr(&["get", "key-3"]).exits(0).prints("right");

    // Of two, both stop.
    let mut cluster = ended(2);
    diverge(&cluster.data(1), leaf);
    cluster.start_all();
    for replica in 0..2 {
        assert_eq!(cluster.wait_exit(replica), Some(25));
        assert!(cluster.log(replica).contains("find out which data file is right"));
    }
}
