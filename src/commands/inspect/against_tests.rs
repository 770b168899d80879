//! Comparisons of real data files: of replicas that agree, of one that carried out something else,
//! and of files that were made to differ in one block, with right checksums up to the superblock.

use super::tests::{CLUSTER, GEOMETRY, World, format, golden};
use super::*;
use vsr::state_machine::kv::Request as KvRequest;
use vsr::stdx::Prng;
use vsr::storage::block::{BlockKind, StoredBlock, block_seal};
use vsr::storage::superblock::superblock_zone;
use vsr::storage::{Geometry, Layout};
use vsr::store::difference::Outline;
use vsr::store::survey::CheckpointSurvey;
use vsr::wire::{BlockRef, ClusterId, ReplicaIndex};

const BLOCK: usize = GEOMETRY.block_size as usize;

struct Compared {
    exit: std::result::Result<Exit, Fatal>,
    text: String,
    json: String,
    differences: u64,
    damages: u64,
    notes: u64,
}

fn compare(here: &[u8], there: &[u8]) -> Compared {
    let (mut here, mut there) = (here.to_vec(), there.to_vec());
    let mut report = Report::of_comparison();
    let paths = [Path::new("a.vsr"), Path::new("b.vsr")];
    let exit = against::inspect([&mut here, &mut there], paths, &mut report);
    Compared {
        exit,
        text: report.text(),
        json: report.json(Object::default()),
        differences: report.differences_count(),
        damages: report.damages_count(),
        notes: report.notes_count(),
    }
}

fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

/// What stands behind a fact.
fn fact<'a>(compared: &'a Compared, name: &str) -> &'a str {
    let name = format!("  {name}  ");
    let line = compared.text.lines().find(|line| line.starts_with(&name)).expect("a fact");
    line[name.len()..].trim_start()
}

fn state_of(disk: &[u8]) -> SuperblockState {
    superblock::read(&mut disk.to_vec()).selected().unwrap().clone()
}

fn outline_of(disk: &[u8]) -> Outline {
    let (state, mut disk) = (state_of(disk), disk.to_vec());
    let size = disk.len() as u64;
    let mut survey =
        CheckpointSurvey::new(CLUSTER, GEOMETRY, size, state.checkpoint, BlockRef::NONE);
    let mut outline = Outline::default();
    while let Some(request) = survey.next_read() {
        outline.note(&survey.visit().unwrap());
        survey.on_read_done(answer(&mut disk, &request));
    }
    outline
}

fn find(disk: &[u8], kind: BlockKind) -> u32 {
    let outline = outline_of(disk);
    (0..1000).find(|index| outline.kind(*index) == Some(kind)).expect("a block of the kind")
}

fn place(index: u32) -> std::ops::Range<usize> {
    let start = usize::try_from(Layout::new(GEOMETRY).grid_offset()).unwrap();
    let start = start + index as usize * BLOCK;
    start..start + BLOCK
}

/// The newest checkpoint has another body in one block, and every checksum from there up to the
/// superblock is right.
fn forge(disk: &mut [u8], index: u32, change: impl FnOnce(&mut Vec<u8>)) {
    let (mut state, outline) = (state_of(disk), outline_of(disk));
    let mut reseal = |reference: BlockRef, change: &mut dyn FnMut(&mut Vec<u8>)| {
        let place = place(reference.index);
        let buffer = AlignedBuffer::copy_of(&disk[place.clone()]);
        let read = ReadResult { buffer, unreadable: Vec::new() };
        let block = StoredBlock::decode_read(CLUSTER, &reference, read).unwrap();
        let mut body = block.body().to_vec();
        change(&mut body);
        let BlockRef { index, op, .. } = reference;
        let (sealed, sectors) =
            block_seal(CLUSTER, index, op, block.kind, &body, GEOMETRY.block_size);
        disk[place].copy_from_slice(sectors.as_ref());
        sealed
    };
    let mut change = Some(change);
    let mut old = outline.reference(index).unwrap();
    let mut new = reseal(old, &mut |body| change.take().unwrap()(body));
    let mut at = index;
    while let Some(parent) = outline.parent(at) {
        let reference = outline.reference(parent).unwrap();
        let (from, to) = (old.encode(), new.encode());
        new = reseal(reference, &mut |body| {
            let found = body.windows(from.len()).position(|window| window == from).unwrap();
            body[found..found + to.len()].copy_from_slice(&to);
        });
        (old, at) = (reference, parent);
    }
    assert_eq!(old, state.checkpoint);
    state.checkpoint = new;
    let zone = superblock_zone(&state);
    disk[..zone.len()].copy_from_slice(zone.as_ref());
}

/// Write number n is op n + 2.
fn faulty(writes: u64, write: u64, key: &[u8], value: &[u8]) -> Vec<u8> {
    World::file_of_faulty(writes, write + 2, &KvRequest::put(key, value))
}

#[test]
fn files_as_text_and_as_json() {
    let sound = World::file(100);
    let mut text = String::new();
    let mut json = String::new();
    let mut chunk = sound.clone();
    let index = find(&chunk, BlockKind::FreeSet);
    forge(&mut chunk, index, |body| body[30] ^= 1);
    let cases = [
        ("the same", sound.clone()),
        ("another value of key-014", faulty(100, 94, b"key-014", &[b'#'; 20])),
        ("another large value of key-010", faulty(100, 90, b"key-010", &[b'#'; 6000])),
        ("another key in place of key-014", faulty(100, 94, b"new-014", &[b'a'; 20])),
        ("another free set", chunk),
        ("of an older op", World::file(70)),
        ("a much older one", World::file(31)),
        ("none yet", World::file(5)),
    ];
    for (name, other) in cases {
        let compared = compare(&sound, &other);
        let is_same = compared.exit == Ok(Exit::Done);
        assert_eq!(is_same, compared.differences == 0, "{name}\n{}", compared.text);
        assert_eq!(compared.damages, 0, "{name}\n{}", compared.text);
        text.push_str(&format!("# {name}\n{}\n", compared.text));
        json.push_str(&format!("{}\n", compared.json));
    }
    golden("against.txt", &text);
    golden("against.json", &json);
}

#[test]
fn a_file_against_itself_and_one_that_agrees() {
    let sound = World::file(100);
    let compared = compare(&sound, &sound);
    assert_eq!(compared.exit, Ok(Exit::Done), "{}", compared.text);
    assert!(fact(&compared, "same").starts_with("yes"));
    assert_eq!((compared.differences, compared.damages, compared.notes), (0, 0, 0));
    // Ops above the checkpoint are no part of it.
    assert!(fact(&compare(&sound, &World::file(110)), "same").starts_with("yes"));
}

#[test]
fn the_leaf_and_the_key_of_a_wrong_value_are_named() {
    let sound = World::file(100);
    let leaf = find(&sound, BlockKind::Leaf);
    for key in ["key-003", "key-014", "key-029"] {
        let number: u64 = key[4..].parse().unwrap();
        // The newest write of the key that is in the checkpoint of op 96.
        let write = if number + 80 <= 94 { number + 80 } else { number + 40 };
        let compared = compare(&sound, &faulty(100, write, key.as_bytes(), b"#"));
        assert_eq!(compared.exit, Ok(Exit::Damaged));
        let told = lines(&compared.text, "difference: ");
        assert_eq!(told.len(), 1, "{}", compared.text);
        let start = format!("difference: block {leaf} (leaf of op 96), byte ");
        assert!(told[0].starts_with(&start), "{told:?}");
        let named = format!("table 1 (kv: keys), key \"{key}\": \"");
        assert!(told[0].contains(&named) && told[0].contains("here, \"#\" of"), "{told:?}");
        assert_eq!(fact(&compared, "records differing"), "1");
        // The other way round it is told the other way round.
        let back = compare(&faulty(100, write, key.as_bytes(), b"#"), &sound);
        assert!(back.text.contains("\"#\" of revision"), "{}", back.text);
        assert_eq!(back.differences, 1);
    }
}

#[test]
fn the_part_of_a_large_value_and_its_key_are_named() {
    let sound = World::file(100);
    let mut value = vec![b'a' + 90 % 26; 6000];
    value[5000] = b'#';
    let compared = compare(&sound, &faulty(100, 90, b"key-010", &value));
    let told = lines(&compared.text, "difference: ");
    assert_eq!(told.len(), 1, "{}", compared.text);
    // 8 bytes of revision are in front, and 3968 in the part before.
    let expected = "byte 1040 of this part of the value of table 1 (kv: keys), key \"key-010\"";
    assert!(told[0].contains("(part of a large value of op 96)"), "{told:?}");
    assert!(told[0].contains(expected), "{told:?}");
    assert_eq!(fact(&compared, "records differing"), "1");
}

#[test]
fn what_only_the_free_set_has_is_told() {
    let sound = World::file(100);
    let mut other = sound.clone();
    let chunk = find(&sound, BlockKind::FreeSet);
    // Place 44 is that of the free set's root, which is in use.
    forge(&mut other, chunk, |body| body[11] ^= 1);
    let compared = compare(&sound, &other);
    let told = lines(&compared.text, "difference: ");
    assert_eq!(told.len(), 1, "{}", compared.text);
    let start = format!("difference: block {chunk} (free set of op 96)");
    assert!(told[0].starts_with(&start), "{told:?}");
    assert!(told[0].contains("block 44 is in use here and free there"), "{told:?}");
    assert_eq!(fact(&compared, "records differing"), "0");
}

#[test]
fn what_stands_in_the_root_alone_is_told() {
    let sound = World::file(100);
    let mut other = sound.clone();
    let root = find(&sound, BlockKind::Checkpoint);
    forge(&mut other, root, |body| body[176] ^= 1);
    let compared = compare(&sound, &other);
    let told = lines(&compared.text, "difference: ");
    assert_eq!(told.len(), 1, "{}", compared.text);
    assert!(told[0].contains("the count of records differ"), "{told:?}");
    // The survey counts them: that one is wrong is damage.
    assert_eq!(lines(&compared.text, "damage: there, block ").len(), 1, "{}", compared.text);
}

#[test]
fn the_checkpoint_before_is_compared_if_the_other_has_no_newer_one() {
    let newer = World::file(100);
    for (wrong_write, is_same) in [(0, true), (40, false), (20, false), (75, true)] {
        let older = faulty(80, wrong_write, b"key-555", b"#");
        let compared = compare(&newer, &older);
        assert!(fact(&compared, "op compared").starts_with("64 (the newest there, the one before"));
        let expected = if is_same { Exit::Done } else { Exit::Damaged };
        assert_eq!(compared.exit, Ok(expected), "{}", compared.text);
        assert_eq!(compared.damages, 0, "{}", compared.text);
        let back = compare(&older, &newer);
        assert_eq!((&back.exit, back.differences), (&compared.exit, compared.differences));
        assert!(fact(&back, "op compared").starts_with("64 (the newest here, the one before"));
    }
}

#[test]
fn what_both_still_have_is_compared_without_an_op_in_common() {
    // Here key-030 is written by write 30 and not again, so its value lies in blocks of op 32.
    let (older, newer) = (World::file(31), faulty(102, 70, b"key-777", b"#"));
    let compared = compare(&older, &newer);
    assert!(fact(&compared, "op compared").starts_with("- (the files have no checkpoint of one"));
    assert_eq!(compared.exit, Ok(Exit::Done), "{}", compared.text);
    assert!(fact(&compared, "same").starts_with('-'));
    // A block of the older one that the newer one still has.
    let (here, there) = (outline_of(&older), outline_of(&newer));
    let shared = (0..1000).find(|index| {
        here.reference(*index).is_some() && here.reference(*index) == there.reference(*index)
    });
    let Some(shared) = shared else { panic!("they share nothing: {}", compared.text) };
    let mut wrong = older.clone();
    forge(&mut wrong, shared, |body| body[30] ^= 1);
    let compared = compare(&wrong, &newer);
    assert_eq!(compared.exit, Ok(Exit::Damaged), "{}", compared.text);
    let told = lines(&compared.text, "difference: ");
    assert_eq!(told.len(), 1, "{}", compared.text);
    assert!(told[0].starts_with(&format!("difference: block {shared} (")), "{told:?}");
}

#[test]
fn damage_is_told_with_its_file_and_is_no_difference() {
    let sound = World::file(100);
    for kind in [
        BlockKind::Checkpoint,
        BlockKind::Leaf,
        BlockKind::FreeSet,
        BlockKind::FreeSetIndex,
        BlockKind::Value,
        BlockKind::ValueIndex,
    ] {
        let index = find(&sound, kind);
        let mut rotten = sound.clone();
        rotten[place(index).start + 140] ^= 1;
        for (here, there, side) in [(&rotten, &sound, "here"), (&sound, &rotten, "there")] {
            let compared = compare(here, there);
            assert_eq!(compared.exit, Ok(Exit::Damaged));
            assert_eq!((compared.differences, compared.damages), (0, 1), "{}", compared.text);
            let start = format!("damage: {side}, block {index} (");
            assert_eq!(lines(&compared.text, &start).len(), 1, "{}", compared.text);
            assert!(fact(&compared, "same").starts_with("yes"));
        }
    }
}

#[test]
fn a_difference_in_a_damaged_block_is_told_as_far_as_it_is_known() {
    let sound = World::file(100);
    let leaf = find(&sound, BlockKind::Leaf);
    let mut wrong = faulty(100, 94, b"key-014", b"#");
    wrong[place(leaf).start + 140] ^= 1;
    for (here, there, side) in [(&wrong, &sound, "here"), (&sound, &wrong, "there")] {
        let compared = compare(here, there);
        assert_eq!((compared.differences, compared.damages), (1, 1), "{}", compared.text);
        let told = lines(&compared.text, "difference: ")[0];
        assert!(told.contains(&format!("it is bad {side}; what differs in it")), "{told}");
        assert!(fact(&compared, "records differing").starts_with("0 (as far as"));
    }
    // Nothing can be read but the identities.
    let mut rootless = faulty(100, 94, b"key-014", b"#");
    let root = state_of(&rootless).checkpoint.index;
    rootless[place(root).start + 140] ^= 1;
    let compared = compare(&sound, &rootless);
    assert_eq!((compared.differences, compared.damages), (1, 1), "{}", compared.text);
    assert!(fact(&compared, "records differing").starts_with('-'));
}

#[test]
fn trees_of_another_shape_are_told_record_by_record() {
    let sound = World::file(100);
    // A large value in place of a small one takes two places more, in the middle of an interval.
    let other = faulty(100, 85, b"key-031", &[b'#'; 6000]);
    let compared = compare(&sound, &other);
    assert_eq!(compared.exit, Ok(Exit::Damaged));
    assert_eq!(compared.damages, 0, "{}", compared.text);
    // key-005 was to be written, and key-031 to stay what it was.
    assert_eq!(fact(&compared, "records differing"), "2", "{}", compared.text);
    for key in ["key-005", "key-031"] {
        let row = format!("    table 1 (kv: keys), key \"{key}\"");
        assert_eq!(lines(&compared.text, &row).len(), 1, "{}", compared.text);
    }
}

#[test]
fn files_of_two_clusters_are_refused() {
    let sound = World::file(70);
    let of = |cluster, count, geometry, incarnation| {
        format(&SuperblockState::formatted(cluster, ReplicaIndex(0), count, incarnation, geometry))
    };
    let other = Geometry { block_size: 8192, message_size: 8192, ..GEOMETRY };
    let cases = [
        (of(ClusterId(8), 1, GEOMETRY, 5), "the cluster is 7 here and 8 there"),
        (of(CLUSTER, 3, GEOMETRY, 5), "there are 1 replicas here and 3 there"),
        (of(CLUSTER, 1, other, 5), "the block size is 4096 here and 8192 there"),
    ];
    for (other, what) in cases {
        let compared = compare(&sound, &other);
        let fatal = compared.exit.unwrap_err();
        assert_eq!(fatal.kind, FatalKind::Mismatch);
        for part in ["a.vsr", "b.vsr", what, "check the paths"] {
            assert!(fatal.text.contains(part), "{}", fatal.text);
        }
    }
    // Another cluster of the same number: born with other incarnations.
    let mut state = state_of(&sound);
    assert_ne!(state.head.table.op, 0);
    state.head.table.incarnations[0] ^= 1;
    let mut other = sound.clone();
    let zone = superblock_zone(&state);
    other[..zone.len()].copy_from_slice(zone.as_ref());
    let fatal = compare(&sound, &other).exit.unwrap_err();
    assert_eq!(fatal.kind, FatalKind::Mismatch);
    assert!(fatal.text.contains("no incarnation of any replica in common"), "{}", fatal.text);
}

#[test]
fn a_file_without_a_superblock_is_named() {
    let sound = World::file(70);
    let noise = vec![7; 100_000];
    let compared = compare(&sound, &noise);
    let fatal = compared.exit.unwrap_err();
    assert_eq!(fatal.kind, FatalKind::NotADataFile);
    assert!(fatal.text.starts_with("b.vsr: "), "{}", fatal.text);
    assert_eq!(lines(&compared.text, "damage: there, copy ").len(), 4, "{}", compared.text);
    assert!(compare(&noise, &sound).exit.unwrap_err().text.starts_with("a.vsr: "));
}

#[test]
fn any_bytes_end_with_a_comparison() {
    let sound = World::file(100);
    let wrong = faulty(100, 94, b"key-014", b"#");
    let grid = usize::try_from(Layout::new(GEOMETRY).grid_offset()).unwrap();
    for seed in 0..150 {
        let mut prng = Prng::from_seed(seed);
        let mut disks = [sound.clone(), [&sound, &wrong][prng.index(2)].clone()];
        for disk in &mut disks {
            let from = if seed % 5 == 0 { 0 } else { grid };
            let start = from + prng.index(disk.len() - from);
            let end = start + prng.index(disk.len() - start).min(100_000) + 1;
            prng.fill(&mut disk[start..end]);
            if seed % 7 == 0 {
                disk.truncate(prng.index(disk.len()));
            }
        }
        let compared = compare(&disks[0], &disks[1]);
        assert!(compared.json.starts_with('{') && compared.json.ends_with('}'));
        let is_clean = compared.damages == 0 && compared.differences == 0;
        assert!(compared.exit.is_err() || (compared.exit == Ok(Exit::Done)) == is_clean);
    }
}
