//! Fuzz target `superblock`: four arbitrary copies, and updates that crash anywhere.
//!
//! ```text
//!   byte 0 even: copies                     odd: rounds
//!   for each copy: which update of a chain, │ write a state ─► so many steps ─► crash, torn ─►
//!   what is wrong with it, sealed or not    │ one copy rots, perhaps ─► open ─► …
//! ```
//!
//! Asserted of copies: decoding is total, and encodes to the same bytes again; the one that is
//! selected is the one that a plain reading of the rule selects; opening a file with them ends well
//! with that state, and again with the same, or with a reason. Of rounds: what was durable is there
//! after any crash and the rot of one copy, and what is there was written once.
//!
//! Planted: an update counts as durable when its first copy is written.
//!
//! **Not here:** the journal (`journal_recovery`); two copies that rot in one round, which nothing
//! survives.

use super::Plant;
use super::cursor::{CLUSTER, Cursor, prepare_of};
use super::disk::{Completion, Disk};
use vsr::constants::SECTOR_SIZE;
use vsr::stdx::{Prng, Ratio};
use vsr::storage::layout::{SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use vsr::storage::superblock::{
    SuperblockCopies, SuperblockCopy, superblock_select, superblock_zone,
};
use vsr::storage::{Geometry, SuperblockState, Token};
use vsr::wire::{HeaderSet, IncarnationTable, ReplicaIndex, View};

const COPY: usize = SUPERBLOCK_COPY_SIZE as usize;
/// Where the head lies in a copy.
const HEAD_AT: usize = 4096;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many files were opened.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    if cursor.bool() {
        return rounds(&mut cursor, plant);
    }
    let replica_count = if cursor.bool() { 1 } else { 3 };
    let history = history(replica_count);
    let images: Vec<Vec<u8>> =
        (0..SUPERBLOCK_COPIES).map(|number| copy(&mut cursor, &history, number)).collect();
    let copies: SuperblockCopies = std::array::from_fn(|index| {
        let number = u8::try_from(index).expect("four copies");
        let decoded = SuperblockCopy::decode(&images[index], number);
        if let Ok(copy) = &decoded {
            assert_eq!(encode(copy, number), images[index]);
            assert_eq!(copy.state.invalid(), None);
        }
        decoded
    });
    let selected = superblock_select(&copies);
    match (selected, plain_select(&copies)) {
        (Ok(number), Some(expected)) => {
            assert_eq!(copies[usize::from(number)].as_ref().ok(), Some(expected));
            open(&images, expected)
        }
        (Err(fatal), None) => {
            assert!(!fatal.text.is_empty());
            0
        }
        (selected, expected) => panic!("selected {selected:?}, by the rule {expected:?}"),
    }
}

fn geometry() -> Geometry {
    Geometry {
        message_size: 4096,
        journal_slots: 64,
        block_size: 4096,
        pipeline: 4,
        clients_max: 8,
    }
}

fn state(replica_count: u8, view: u32) -> SuperblockState {
    let formatted =
        SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 9, geometry());
    let mut headers = Vec::new();
    // A head of the view's own, so that no two updates agree in either sector.
    let description = [u8::try_from(view % 8).expect("below 8"), 0];
    if view > 0 {
        headers.push(Some(prepare_of(&mut Cursor::new(&description), u64::from(view))));
    }
    headers.push((view < 2).then_some(formatted.head.headers[0]).flatten());
    let head = HeaderSet {
        table: IncarnationTable {
            op: 1,
            incarnations: [9, 2, 3, 0, 0, 0],
            ..IncarnationTable::default()
        },
        op: u64::from(view),
        headers,
    };
    let commit_max = u64::from(view);
    SuperblockState { view: View(view), log_view: View(view), commit_max, head, ..formatted }
}

/// The bytes of copy `number` of what `copy` says.
fn encode(copy: &SuperblockCopy, number: u8) -> Vec<u8> {
    image(&copy.state, copy.sequence, copy.parent, number)
}

fn image(state: &SuperblockState, sequence: u64, parent: u32, number: u8) -> Vec<u8> {
    let mut bytes = superblock_zone(state).as_ref()[..COPY].to_vec();
    bytes[24..32].copy_from_slice(&sequence.to_le_bytes());
    bytes[80..84].copy_from_slice(&parent.to_le_bytes());
    bytes[4] = number;
    seal(&mut bytes);
    bytes
}

fn seal(bytes: &mut [u8]) {
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[0..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Copy 0 of six updates, each on top of the one before.
fn history(replica_count: u8) -> Vec<Vec<u8>> {
    let mut images: Vec<Vec<u8>> = Vec::new();
    for view in 0..6 {
        let parent = images
            .last()
            .map_or(0, |image| u32::from_le_bytes(*image.first_chunk().expect("a copy is longer")));
        let sequence = u64::from(view) + 1;
        images.push(image(&state(replica_count, view), sequence, parent, 0));
    }
    images
}

/// Copy `number`, as wrong as the input wants it.
fn copy(cursor: &mut Cursor<'_>, history: &[Vec<u8>], number: u8) -> Vec<u8> {
    let mut bytes = history[cursor.index(history.len())].clone();
    bytes[4] = number;
    match cursor.u8() % 8 {
        0..=2 => {}
        3 => {
            let bit = usize::from(cursor.u16()) % (COPY * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        4 | 5 => {
            for _ in 0..=cursor.u8() % 3 {
                let at = 8 + cursor.index(144);
                let taken = cursor.u8() % 8 + 1;
                let field = cursor.bytes(usize::from(taken));
                bytes[at..at + field.len()].copy_from_slice(field);
            }
            seal(&mut bytes);
        }
        6 => {
            let at = HEAD_AT + usize::from(cursor.u16()) % 600;
            bytes[at] ^= cursor.u8();
            let (headers, _) = bytes[HEAD_AT + 128..HEAD_AT + 384].as_chunks_mut::<128>();
            headers.iter_mut().for_each(|header| super::cursor::seal_header(header));
            seal(&mut bytes);
        }
        _ => match cursor.u8() % 4 {
            0 => bytes.fill(0),
            1 => bytes[4] = cursor.u8(),
            2 => {
                let other = &history[cursor.index(history.len())];
                bytes[HEAD_AT..].copy_from_slice(&other[HEAD_AT..]);
            }
            _ => {
                let raw = cursor.bytes(200);
                bytes[..raw.len()].copy_from_slice(raw);
                seal(&mut bytes);
            }
        },
    }
    bytes
}

/// The rule of the module's documentation, as plainly as it can be written.
fn plain_select(copies: &SuperblockCopies) -> Option<&SuperblockCopy> {
    let valid: Vec<&SuperblockCopy> = copies.iter().flatten().collect();
    let count = |copy: &SuperblockCopy| valid.iter().filter(|other| **other == copy).count();
    let pairs: Vec<_> = valid.iter().filter(|copy| count(copy) >= 2).collect();
    if let Some(sequence) = pairs.iter().map(|copy| copy.sequence).max() {
        let mut best = pairs.iter().filter(|copy| copy.sequence == sequence);
        let first = best.next().expect("the highest is there");
        return best.all(|other| other == first).then_some(first);
    }
    let sequence = valid.iter().map(|copy| copy.sequence).max()?;
    let newest: Vec<_> = valid.iter().filter(|copy| copy.sequence == sequence).collect();
    let before = valid.iter().find(|copy| {
        newest.iter().all(|newest| {
            newest.sequence.checked_sub(1) == Some(copy.sequence) && newest.parent == copy.checksum
        })
    })?;
    Some(if let [only] = newest.as_slice() { only } else { before })
}

/// Opens a file with these copies, twice.
fn open(images: &[Vec<u8>], expected: &SuperblockCopy) -> u32 {
    let formatted = state_formatted(expected.state.replica_count);
    let mut disk = Disk::formatted(&formatted);
    for (number, image) in images.iter().enumerate() {
        disk.write((number * COPY) as u64, image);
    }
    for _ in 0..2 {
        match disk.open() {
            Ok(opened) => {
                assert_eq!(*opened.superblock.state(), expected.state);
                assert_eq!(opened.superblock.sequence(), expected.sequence);
                assert_eq!(opened.journal.op_checkpoint(), expected.state.op_checkpoint());
            }
            Err(fatal) => assert!(!fatal.text.is_empty()),
        }
    }
    1
}

/// The state of a file like ours that `Disk::formatted` may keep.
fn state_formatted(replica_count: u8) -> SuperblockState {
    let replica_count = if replica_count == 1 { 1 } else { 3 };
    SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 9, geometry())
}

/// Updates, crashes, rot.
fn rounds(cursor: &mut Cursor<'_>, plant: Plant) -> u32 {
    let mut disk = Disk::formatted(&state_formatted(3));
    let mut durable = state_formatted(3);
    let mut opens = 0;
    for round in 0..20 {
        let opened = disk.open().expect("one rotten copy is none too many");
        opens += 1;
        let found = opened.superblock.state().clone();
        assert!(found.view >= durable.view, "view {} of {}", found.view, durable.view);
        let view = found.view.0;
        assert!(view <= durable.view.0 + 1, "a state that nobody wrote");
        if view > 0 {
            assert_eq!(found, next_state(view));
        }
        durable = found;
        if cursor.is_empty() {
            break;
        }
        let mut superblock = opened.superblock;
        let mut requests = Vec::new();
        superblock.write(next_state(view + 1), &mut requests);
        for step in 0..cursor.u8() % 12 {
            disk.submit(&mut requests);
            let done = match disk.complete(0) {
                Completion::Write(Token::WriteSuperblock { copy }) => {
                    superblock.on_write_done(copy, &mut requests);
                    plant == Plant::Error && step == 0
                }
                Completion::Read(Token::ReadSuperblock { copy }, result) => superblock
                    .on_read_done(copy, result, &mut requests)
                    .expect("nothing is lost on this disk"),
                other => panic!("not of a superblock: {other:?}"),
            };
            if done {
                durable = next_state(view + 1);
                break;
            }
        }
        disk.submit(&mut requests);
        let mut prng = cursor.prng();
        disk.crash(|| prng.chance(Ratio::new(1, 2)));
        rot(cursor, &mut disk, &mut prng, round);
    }
    opens
}

fn next_state(view: u32) -> SuperblockState {
    state(3, view)
}

/// One copy at most, and always the same one within a few rounds: an opening repairs it.
fn rot(cursor: &mut Cursor<'_>, disk: &mut Disk, prng: &mut Prng, round: u32) {
    let byte = cursor.u8();
    if !byte.is_multiple_of(3) {
        return;
    }
    let copy = usize::from(byte / 3 % 4);
    let sector = prng.index(COPY / SECTOR_SIZE as usize) * SECTOR_SIZE as usize;
    let at = copy * COPY + sector + usize::from(byte % 64);
    disk.bytes[at] ^= 1 + u8::try_from(round % 8).expect("below 8");
}

/// Copies in all states that crashes leave, and updates that end in all places.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        vec![0, 0, 1, 0, 1, 0, 1, 0, 1, 0],
        vec![0, 0, 2, 0, 2, 0, 1, 0, 1, 0],
        vec![0, 0, 2, 0, 1, 3, 9, 9, 1, 0, 1, 0],
        vec![0, 0, 3, 0, 3, 7, 2, 2, 2, 0, 2, 3, 0, 64],
        vec![0, 1, 5, 4, 0, 16, 7, 9, 9, 9, 9, 9, 9, 9, 9, 5, 0, 5, 0, 5, 0],
        vec![0, 0, 5, 6, 200, 0, 1, 5, 6, 200, 0, 1, 5, 0, 5, 0],
        vec![0, 0, 1, 7, 0, 1, 7, 1, 3, 1, 7, 3, 1, 2, 3, 4, 1, 7, 0],
    ];
    let rounds = |steps: u8, rot: u8| {
        let mut seed = vec![1];
        (0..8).for_each(|round| seed.extend([steps.wrapping_add(round), round, 0, rot + round]));
        seed
    };
    seeds.extend([rounds(0, 1), rounds(3, 0), rounds(9, 3)]);
    seeds
}
