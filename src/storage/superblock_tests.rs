//! The superblock: which copy is believed, and updates that crash anywhere.

use super::*;
use crate::stdx::{Prng, Ratio};
use crate::storage::Opened;
use crate::storage::test_disk::{Completion, TestDisk};

fn formatted() -> SuperblockState {
    let geometry =
        Geometry { message_size: 4096, journal_slots: 64, pipeline: 4, ..Geometry::default() };
    SuperblockState::formatted(ClusterId(7), ReplicaIndex(1), 3, 99, geometry)
}

fn state_of_view(view: u32) -> SuperblockState {
    SuperblockState { view: View(view), commit_max: u64::from(view) * 3, ..formatted() }
}

fn copy_of(state: &SuperblockState, sequence: u64, parent: u32) -> SuperblockCopy {
    let image = SuperblockCopy::encode(state, sequence, parent);
    SuperblockCopy::decode(&image, 0).unwrap()
}

/// Copies of consecutive updates 1, 2, …
fn history(count: u32) -> Vec<SuperblockCopy> {
    let mut copies: Vec<SuperblockCopy> = Vec::new();
    for view in 1..=count {
        let parent = copies.last().map_or(0, |copy| copy.checksum);
        copies.push(copy_of(&state_of_view(view), u64::from(view), parent));
    }
    copies
}

fn read_result(bytes: &[u8]) -> ReadResult {
    ReadResult { buffer: AlignedBuffer::copy_of(bytes), unreadable: Vec::new() }
}

#[test]
fn encodes_and_decodes() {
    let state = state_of_view(5);
    let image = SuperblockCopy::encode(&state, 8, 77);
    for number in 0..SUPERBLOCK_COPIES {
        let sectors = copy_sectors(&image, number);
        let copy = SuperblockCopy::decode(sectors.as_ref(), number).unwrap();
        assert_eq!((copy.state, copy.sequence, copy.parent), (state.clone(), 8, 77));
        let other = (number + 1) % SUPERBLOCK_COPIES;
        assert_eq!(
            SuperblockCopy::decode(sectors.as_ref(), other),
            Err(CopyInvalid::Misdirected(number))
        );
    }
}

#[test]
fn any_flipped_bit_is_seen() {
    let image = SuperblockCopy::encode(&state_of_view(5), 8, 77);
    let mut prng = Prng::from_seed(1);
    for _ in 0..2000 {
        let bit = prng.index(image.len() * 8);
        let mut bytes = image.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let decoded = SuperblockCopy::decode(&bytes, 0);
        // The bytes beside the number of the copy are not under the checksum but must be zero.
        assert!(decoded.is_err(), "bit {bit}");
    }
}

#[test]
fn garbage_is_a_reason_and_other_versions_are_named() {
    let mut prng = Prng::from_seed(2);
    let mut bytes = vec![0; SUPERBLOCK_COPY_SIZE as usize];
    assert_eq!(SuperblockCopy::decode(&bytes, 0), Err(CopyInvalid::Magic));
    prng.fill(&mut bytes);
    assert_eq!(SuperblockCopy::decode(&bytes, 0), Err(CopyInvalid::Magic));
    let mut image = SuperblockCopy::encode(&state_of_view(1), 1, 0);
    image[16] = 9;
    let checksum = crc32c::crc32c(&image[CHECKED_OFFSET..]);
    image[0..4].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(SuperblockCopy::decode(&image, 0), Err(CopyInvalid::Version(9)));
    let copies: SuperblockCopies = std::array::from_fn(|_| SuperblockCopy::decode(&image, 0));
    let fatal = superblock_select(&copies).unwrap_err();
    assert_eq!(fatal.kind, FatalKind::NotADataFile);
    assert!(fatal.text.contains("version 9"));
}

/// Every arrangement of four copies, each bad or of one of four updates: an update that had its
/// quorum is never missed, whichever one copy rots; and what is selected is never of thin air.
#[test]
fn no_arrangement_loses_a_completed_update() {
    let history = history(4);
    for arrangement in 0..5usize.pow(4) {
        let digits = [0, 1, 2, 3].map(|place| arrangement / 5usize.pow(place) % 5);
        let copies: SuperblockCopies = digits.map(|digit| match digit {
            0 => Err(CopyInvalid::Damaged),
            sequence => Ok(history[sequence - 1].clone()),
        });
        let selected = superblock_select(&copies)
            .map(|number| copies[usize::from(number)].as_ref().unwrap().sequence);
        for sequence in 1..=4usize {
            let equal = digits.iter().filter(|digit| **digit == sequence).count();
            // Three after the write, one of them rotten since: two.
            if equal >= 2 && digits.iter().all(|digit| *digit <= sequence) {
                assert_eq!(selected, Ok(sequence as u64), "{digits:?}");
            }
            if equal >= 2 {
                assert!(selected.as_ref().is_ok_and(|best| *best >= sequence as u64), "{digits:?}");
            }
        }
        let valid = digits.iter().filter(|digit| **digit > 0).count();
        if valid < 2 {
            assert!(selected.is_err(), "{digits:?}");
        }
    }
}

/// Update 3 under way over a completed update 2 that has one rotten copy: every point of the crash,
/// every rotten copy. There is always an answer, and it is 2 or 3.
#[test]
fn an_update_over_one_rotten_copy_survives_a_crash_anywhere() {
    let history = history(3);
    for rotten in 0..4 {
        for crash in 0..=4 {
            for torn in [false, true] {
                let copies: SuperblockCopies = std::array::from_fn(|number| {
                    if number == rotten || (number == crash && torn) {
                        Err(CopyInvalid::Damaged)
                    } else if number < crash {
                        Ok(history[2].clone())
                    } else {
                        Ok(history[1].clone())
                    }
                });
                let number = superblock_select(&copies).unwrap();
                let sequence = copies[usize::from(number)].as_ref().unwrap().sequence;
                assert!(sequence == 2 || sequence == 3);
                assert!(crash < 4 || sequence == 3);
            }
        }
    }
}

#[test]
fn two_pairs_that_contradict_each_other_are_lost() {
    let (a, b) = (copy_of(&state_of_view(1), 5, 0), copy_of(&state_of_view(2), 5, 0));
    let copies = [Ok(a.clone()), Ok(b.clone()), Ok(a.clone()), Ok(b.clone())];
    assert_eq!(superblock_select(&copies).unwrap_err().kind, FatalKind::SuperblockLost);
    let copies = [Ok(a.clone()), Ok(b), Ok(a.clone()), Ok(a)];
    assert_ne!(superblock_select(&copies).unwrap(), 1);
}

#[test]
fn a_write_that_three_copies_do_not_hold_is_an_error() {
    let copy = copy_of(&formatted(), 1, 0);
    let mut superblock = Superblock::opened(&copy);
    let mut requests = Vec::new();
    superblock.write(state_of_view(1), &mut requests);
    let mut written = Vec::new();
    for number in 0..4 {
        match requests.pop().unwrap() {
            Request::Write { token, sectors, .. } => {
                assert_eq!(token, Token::WriteSuperblock { copy: number });
                written.push(sectors);
            }
            Request::Read { .. } => panic!("all copies are written before one is read"),
        }
        superblock.on_write_done(number, &mut requests);
    }
    let stale = SuperblockCopy::encode(&formatted(), 1, 0);
    for number in 0..3 {
        let bytes = if number == 1 { &stale[..] } else { &written[usize::from(number)][..] };
        let done = superblock.on_read_done(number, read_result(bytes), &mut requests);
        assert_eq!(done, Ok(false));
        assert!(superblock.is_writing());
    }
    let mut last = read_result(&written[3]);
    last.unreadable.push(4096..8192);
    let error = superblock.on_read_done(3, last, &mut requests).unwrap_err();
    assert!(error.contains("2 of 4"), "{error}");
    assert_eq!(superblock.state(), &formatted());
}

/// Updates until the disk has completed `steps` requests; the views known to be durable, at least.
fn update_and_crash(disk: &mut TestDisk, opened: Opened, steps: u64) -> (u32, u32) {
    let mut superblock = opened.superblock;
    let mut view = superblock.state().view.0;
    let mut view_durable = view;
    let mut requests = Vec::new();
    for _ in 0..steps {
        if !superblock.is_writing() {
            view += 1;
            superblock.write(state_of_view(view), &mut requests);
        }
        disk.submit(&mut requests);
        match disk.complete().unwrap() {
            Completion::Write(Token::WriteSuperblock { copy }) => {
                superblock.on_write_done(copy, &mut requests);
            }
            Completion::Read(Token::ReadSuperblock { copy }, result) => {
                if superblock.on_read_done(copy, result, &mut requests).unwrap() {
                    view_durable = view;
                    assert_eq!(superblock.state().view.0, view);
                }
            }
            other => panic!("not of the superblock: {other:?}"),
        }
    }
    disk.submit(&mut requests);
    disk.crash();
    (view_durable, view)
}

/// Updates, crashes, rot of one copy at any time, crashes while opening: never below what was
/// durable, never above what was wanted, never lost.
#[test]
fn crashes_and_one_rotten_copy_never_regress() {
    let base = TestDisk::formatted(&formatted());
    for seed in 0..200 {
        let mut disk = TestDisk::new(seed);
        disk.bytes.clone_from(&base.bytes);
        let (mut view_min, mut view_max) = (0, 0);
        for _ in 0..6 {
            if disk.prng.chance(Ratio::new(1, 3)) {
                let steps = disk.prng.below(30);
                disk.open_and_crash(steps);
            }
            let opened = disk.open().unwrap();
            let view = opened.superblock.state().view.0;
            assert!((view_min..=view_max).contains(&view), "seed {seed}: {view}");
            let image = |number: u8| {
                let bytes =
                    disk.read(opened.layout.superblock_offset(number), SUPERBLOCK_COPY_SIZE);
                SuperblockCopy::decode_read(&bytes, number)
            };
            assert!((0..4).all(|number| image(number).is_ok_and(|copy| copy.state.view.0 == view)));
            if disk.prng.chance(Ratio::new(1, 2)) {
                let sectors = u64::from(SUPERBLOCK_COPY_SIZE) / 4096;
                let number = disk.prng.below(4) * sectors;
                // The first two sectors of a copy: fields and head.
                let sector = number + disk.prng.below(2);
                disk.rot(sector * 4096);
            }
            let steps = disk.prng.below(20);
            (view_min, view_max) = update_and_crash(&mut disk, opened, steps);
        }
    }
}
