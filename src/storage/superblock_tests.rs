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

/// Different from that of any other view in its fields and in its head: in two sectors.
fn state_of_view(view: u32) -> SuperblockState {
    let mut state =
        SuperblockState { view: View(view), commit_max: u64::from(view) * 3, ..formatted() };
    state.head.table = IncarnationTable {
        op: 1,
        incarnations: [1 + u64::from(view); 6],
        ..IncarnationTable::default()
    };
    state
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
    assert_eq!(SuperblockCopy::decode(&bytes, 0), Err(CopyInvalid::Blank));
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

#[test]
fn numbers_that_nobody_counts_to_are_damage() {
    let decode = |offset: usize, number: u64| {
        let mut image = SuperblockCopy::encode(&state_of_view(1), 1, 0);
        image[offset..offset + 8].copy_from_slice(&number.to_le_bytes());
        let checksum = crc32c::crc32c(&image[CHECKED_OFFSET..]);
        image[0..4].copy_from_slice(&checksum.to_le_bytes());
        SuperblockCopy::decode(&image, 0)
    };
    let (sequence, commit_max) = (24, 56);
    for offset in [sequence, commit_max] {
        assert!(decode(offset, NUMBER_MAX).is_ok());
        for number in [NUMBER_MAX + 1, u64::MAX] {
            assert_eq!(decode(offset, number), Err(CopyInvalid::Damaged));
        }
    }
    assert_eq!(decode(sequence, 0), Err(CopyInvalid::Damaged));
    let copies: SuperblockCopies = [
        decode(sequence, NUMBER_MAX),
        Err(CopyInvalid::Damaged),
        Ok(copy_of(&state_of_view(2), NUMBER_MAX - 1, 3)),
        Err(CopyInvalid::Damaged),
    ];
    assert!(superblock_select(&copies).is_err(), "neither succeeds the other");
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

/// Four copies whose writes may be lost, and that the process may die over.
#[derive(Clone)]
struct Copybook {
    copies: [Vec<u8>; 4],
    /// By copy: how many of the next writes to it are lost.
    writes_lost: [u32; 4],
    /// Writes and reads until the process dies in the midst of one.
    steps: u32,
}

/// What becomes of the write in which the process dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Undone,
    Torn,
    Done,
}

impl Copybook {
    fn new(state: &SuperblockState) -> Self {
        let image = SuperblockCopy::encode(state, 1, 0);
        let copies = [0, 1, 2, 3].map(|number| copy_sectors(&image, number).as_ref().to_vec());
        Self { copies, writes_lost: [0; 4], steps: u32::MAX }
    }

    fn write(&mut self, number: u8, sectors: &[u8], death: Option<Death>) {
        let copy = &mut self.copies[usize::from(number)];
        if self.writes_lost[usize::from(number)] > 0 {
            self.writes_lost[usize::from(number)] -= 1;
            return;
        }
        match death {
            Some(Death::Undone) => {}
            Some(Death::Torn) => copy[..4096].copy_from_slice(&sectors[..4096]),
            Some(Death::Done) | None => copy.copy_from_slice(sectors),
        }
    }

    /// Carries out what is asked for. `Ok(true)`: the update is durable; `Ok(false)`: the process
    /// has died.
    fn run(
        &mut self,
        superblock: &mut Superblock,
        requests: &mut Vec<Request>,
        death: Death,
    ) -> Result<bool, String> {
        loop {
            assert_eq!(requests.len(), 1, "one after the other");
            let dies = self.steps == 0;
            self.steps = self.steps.saturating_sub(1);
            match requests.pop().unwrap() {
                Request::Write { token: Token::WriteSuperblock { copy }, sectors, .. } => {
                    self.write(copy, &sectors, dies.then_some(death));
                    if !dies {
                        superblock.on_write_done(copy, requests);
                    }
                }
                Request::Read { token: Token::ReadSuperblock { copy }, .. } => {
                    let result = read_result(&self.copies[usize::from(copy)]);
                    if !dies && superblock.on_read_done(copy, result, requests)? {
                        return Ok(true);
                    }
                }
                other => panic!("not of the superblock: {other:?}"),
            }
            if dies {
                return Ok(false);
            }
        }
    }

    fn select(&self) -> Result<SuperblockCopy, Fatal> {
        let decoded: SuperblockCopies = std::array::from_fn(|number| {
            SuperblockCopy::decode(&self.copies[number], u8::try_from(number).unwrap())
        });
        superblock_select(&decoded)
            .map(|number| decoded[usize::from(number)].as_ref().unwrap().clone())
    }

    /// The copies that hold `state`.
    fn holding(&self, state: &SuperblockState) -> Vec<u8> {
        let holds = |number: &u8| {
            let bytes = &self.copies[usize::from(*number)];
            SuperblockCopy::decode(bytes, *number).is_ok_and(|copy| copy.state == *state)
        };
        (0..4).filter(holds).collect()
    }
}

#[test]
fn a_copy_that_missed_its_write_is_written_again_before_the_update_is_durable() {
    for number in 0..4 {
        for lost in 1..u32::from(ATTEMPTS_MAX) {
            let mut book = Copybook::new(&formatted());
            book.writes_lost[number] = lost;
            let mut superblock = Superblock::opened(&book.select().unwrap());
            let mut requests = Vec::new();
            superblock.write(state_of_view(1), &mut requests);
            assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
            assert_eq!(book.holding(&state_of_view(1)), [0, 1, 2, 3]);
            assert_eq!(superblock.broken, Copies::NONE);
        }
    }
}

#[test]
fn a_copy_that_misses_every_write_is_left_out_and_written_first_from_then_on() {
    let mut book = Copybook::new(&formatted());
    book.writes_lost[2] = u32::MAX;
    let mut superblock = Superblock::opened(&book.select().unwrap());
    let mut requests = Vec::new();
    superblock.write(state_of_view(1), &mut requests);
    assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
    assert_eq!(book.writes_lost[2], u32::MAX - u32::from(ATTEMPTS_MAX));
    assert_eq!(book.holding(&state_of_view(1)), [0, 1, 3]);

    superblock.write(state_of_view(2), &mut requests);
    assert!(matches!(requests[0], Request::Write { token, .. }
        if token == Token::WriteSuperblock { copy: 2 }));
    assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
    let once = u32::MAX - u32::from(ATTEMPTS_MAX) - 1;
    assert_eq!(book.writes_lost[2], once, "known to be broken: tried once");

    book.writes_lost[2] = 0;
    superblock.write(state_of_view(3), &mut requests);
    assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
    assert_eq!(book.holding(&state_of_view(3)), [0, 1, 2, 3]);
    assert_eq!(superblock.broken, Copies::NONE);
}

#[test]
fn a_write_that_three_copies_never_hold_is_an_error() {
    for broken_before in [false, true] {
        let mut book = Copybook::new(&formatted());
        let mut superblock = Superblock::opened(&book.select().unwrap());
        let mut requests = Vec::new();
        if broken_before {
            book.writes_lost[1] = u32::MAX;
            superblock.write(state_of_view(1), &mut requests);
            assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
        }
        let before = superblock.state().clone();
        book.writes_lost[1] = u32::MAX;
        book.writes_lost[3] = u32::MAX;
        superblock.write(state_of_view(2), &mut requests);
        let error = book.run(&mut superblock, &mut requests, Death::Done).unwrap_err();
        assert!(error.contains("2 of 4"), "{error}");
        assert_eq!(superblock.state(), &before);
    }
}

/// Two updates; in each of them one copy, any, misses one write, or all; the process dies anywhere,
/// leaving the write in flight done, undone or torn. What is found then is at least what was
/// durable and at most what was wanted.
#[test]
fn two_updates_that_each_lose_a_write_survive_a_crash_anywhere() {
    const COUNTS: [u32; 4] = [0, 1, 2, u32::MAX];
    let mut crashes = 0;
    for case in 0..4u32.pow(4) {
        let digits = [0, 1, 2, 3].map(|place| (case / 4u32.pow(place) % 4) as usize);
        let faults = [(digits[0], COUNTS[digits[1]]), (digits[2], COUNTS[digits[3]])];
        for death in [Death::Undone, Death::Torn, Death::Done] {
            for steps in 0.. {
                let mut book = Copybook::new(&formatted());
                book.steps = steps;
                let (durable, wanted, is_dead) = update_twice(&mut book, faults, death);
                assert_bounds(&book, durable, wanted);
                crashes += 1;
                if !is_dead {
                    break;
                }
            }
        }
    }
    assert!(crashes > 5_000, "{crashes}");
}

/// Returns the view that is durable, the one that was wanted, and whether the process has died.
fn update_twice(book: &mut Copybook, faults: [(usize, u32); 2], death: Death) -> (u32, u32, bool) {
    let mut superblock = Superblock::opened(&book.select().unwrap());
    for (view, (number, lost)) in (1..).zip(faults) {
        book.writes_lost = [0; 4];
        book.writes_lost[number] = lost;
        let mut requests = Vec::new();
        superblock.write(state_of_view(view), &mut requests);
        if !book.run(&mut superblock, &mut requests, death).unwrap() {
            return (view - 1, view, true);
        }
        assert!(book.holding(&state_of_view(view)).len() >= 3);
    }
    (2, 2, false)
}

fn assert_bounds(book: &Copybook, durable: u32, wanted: u32) {
    let view = book.select().expect("never lost").state.view.0;
    assert!((durable..=wanted).contains(&view), "{view} of {durable} to {wanted}");
}

/// The bytes of a data file: a copy that missed an update and a crash in the next that tears
/// another one leave one copy each of three sequences.
#[test]
fn a_copy_that_is_too_old_and_one_that_is_torn_leave_the_newest() {
    let history = history(5);
    let copy = |sequence: usize| Ok(history[sequence - 1].clone());
    let torn = Err(CopyInvalid::Damaged);
    let selected = |copies: [Result<SuperblockCopy, CopyInvalid>; 4]| superblock_select(&copies);
    assert_eq!(selected([copy(5), torn.clone(), copy(4), copy(3)]).unwrap(), 0);
    assert_eq!(selected([copy(2), copy(5), torn.clone(), copy(4)]).unwrap(), 1);
    // Without the one that it succeeds nothing is known.
    assert!(selected([copy(5), torn.clone(), copy(3), copy(2)]).is_err());
    // Two that claim to be the newest: neither was completed.
    let other = copy_of(&state_of_view(6), 5, history[3].checksum);
    assert_eq!(selected([Ok(other), copy(5), torn, copy(4)]).unwrap(), 3);
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

fn block_ref(op: Op) -> BlockRef {
    BlockRef { index: 1, op, checksum: 2, checksum_body: 3 }
}

/// With two checkpoints, every 32 ops.
fn state_with_checkpoints() -> SuperblockState {
    SuperblockState {
        view: View(5),
        log_view: View(5),
        commit_max: 100,
        checkpoint: block_ref(64),
        checkpoint_previous: block_ref(32),
        op_complete: 64,
        ..formatted()
    }
}

const HEADERS_MAX: usize = PIPELINE_MAX as usize + 2;

#[test]
fn a_state_that_no_correct_replica_writes_is_refused_by_name() {
    type Change = fn(&mut SuperblockState);
    let cases: [(&str, Change); 18] = [
        ("replica count 0", |state| state.replica_count = 0),
        ("replica count 7", |state| state.replica_count = 7),
        ("replica 3 of 3", |state| state.replica = ReplicaIndex(3)),
        ("an incarnation of 0", |state| state.incarnation = 0),
        ("pipeline 0", |state| state.geometry.pipeline = 0),
        ("log view 6 above view 5", |state| state.log_view = View(6)),
        ("op 9223372036854775808", |state| state.commit_max = NUMBER_MAX + 1),
        ("op 9223372036854775808", |state| state.head.op = NUMBER_MAX + 1),
        ("checkpoints of op 63 and 32", |state| state.checkpoint.op = 63),
        ("checkpoints of op 64 and 31", |state| state.checkpoint_previous.op = 31),
        ("of op 64 before that of 64", |state| state.checkpoint_previous = block_ref(64)),
        ("of op 32 before that of 0", |state| {
            (state.checkpoint, state.op_complete) = (BlockRef::NONE, 0);
        }),
        ("a checkpoint of no op", |state| {
            (state.checkpoint, state.op_complete) = (block_ref(0), 0);
            state.checkpoint_previous = BlockRef::NONE;
        }),
        ("a checkpoint of no op", |state| state.checkpoint_previous = block_ref(0)),
        ("checkpoint 64 of commit 100", |state| state.op_complete = 96),
        ("checkpoint 64 of commit 63", |state| state.commit_max = 63),
        ("headers of another cluster", |state| {
            state.head.headers.push(Some(Header::root(ClusterId(8))));
        }),
        ("headers do not fit", |state| state.head.headers = vec![None; HEADERS_MAX + 1]),
    ];
    for (reason, change) in cases {
        let mut state = state_with_checkpoints();
        change(&mut state);
        let invalid = state.invalid().expect(reason);
        assert!(invalid.contains(reason), "{invalid}");
    }
}

#[test]
fn a_state_at_the_bounds_is_valid() {
    let cases: [fn(&mut SuperblockState); 10] = [
        |_| {},
        |state| state.replica_count = 6,
        |state| (state.replica, state.replica_count) = (ReplicaIndex(0), 1),
        |state| state.log_view = View(4),
        |state| state.commit_max = NUMBER_MAX,
        |state| state.head.op = NUMBER_MAX,
        |state| state.commit_max = 64,
        |state| (state.op_complete, state.checkpoint_previous) = (0, BlockRef::NONE),
        |state| state.op_complete = 32,
        |state| state.head.headers.resize(HEADERS_MAX, None),
    ];
    for change in cases {
        let mut state = state_with_checkpoints();
        change(&mut state);
        assert_eq!(state.invalid(), None);
    }
    assert!(!state_with_checkpoints().is_syncing());
    assert!(SuperblockState { op_complete: 32, ..state_with_checkpoints() }.is_syncing());
}

#[test]
fn the_longest_head_is_encoded_and_decoded() {
    let mut state = formatted();
    let root = state.head.headers[0].unwrap();
    state.head.op = HEADERS_MAX as u64;
    let command = crate::wire::Prepare { op: state.head.op, entry_count: 1, ..root.command };
    let author = crate::wire::Author {
        cluster: ClusterId(7),
        view: View(0),
        replica: ReplicaIndex(0),
        incarnation: 1,
    };
    state.head.headers = vec![None; HEADERS_MAX];
    state.head.headers[0] = Some(Header::seal(&author, command, &[1; 64]));
    let image = SuperblockCopy::encode(&state, 1, 0);
    assert_eq!(SuperblockCopy::decode(&image, 0).unwrap().state, state);
}

#[test]
fn reserved_bytes_and_long_heads_under_a_right_checksum_are_damage() {
    let whole = SuperblockCopy::encode(&state_of_view(1), 1, 0);
    let head_size = u32::from_le_bytes(*whole[84..].first_chunk().unwrap()) as usize;
    let sealed = |change: &dyn Fn(&mut [u8])| {
        let mut image = whole.clone();
        change(&mut image);
        let checksum = crc32c::crc32c(&image[CHECKED_OFFSET..]);
        image[0..4].copy_from_slice(&checksum.to_le_bytes());
        SuperblockCopy::decode(&image, 0)
    };
    assert!(sealed(&|_| {}).is_ok());
    let reserved = [5, 7, 22, 23, 108, 111, FIELDS_END, HEAD_OFFSET - 1, HEAD_OFFSET + head_size];
    for offset in reserved.into_iter().chain([whole.len() - 1]) {
        assert_eq!(sealed(&|image| image[offset] = 1), Err(CopyInvalid::Damaged), "{offset}");
    }
    let head_size_max = u32::try_from(HEAD_SIZE_MAX).unwrap();
    for size in [0, head_size_max + 1, head_size_max + 128, SUPERBLOCK_COPY_SIZE, u32::MAX] {
        let decoded = sealed(&|image| image[84..88].copy_from_slice(&size.to_le_bytes()));
        assert_eq!(decoded, Err(CopyInvalid::Damaged), "{size}");
    }
    let protocol = sealed(&|image| image[18..20].copy_from_slice(&[9, 9]));
    let copies: SuperblockCopies = std::array::from_fn(|_| protocol.clone());
    let fatal = superblock_select(&copies).unwrap_err();
    assert_eq!(fatal.kind, FatalKind::NotADataFile);
    assert!(fatal.text.contains("protocol 2313"), "{}", fatal.text);
}

#[test]
fn only_a_file_in_the_place_of_a_lost_one_is_recovered() {
    let file = SuperblockState { view: View(3), ..formatted() };
    assert!(!file.is_recovered(), "it knows no table");
    let table = IncarnationTable {
        op: 40,
        incarnations: [1, 99, 3, 0, 0, 0],
        op_before: 1,
        incarnations_before: [1, 2, 3, 0, 0, 0],
    };
    let recovered = SuperblockState::recovered(formatted(), View(7), table);
    assert!(recovered.is_recovered());
    assert_eq!((recovered.view, recovered.log_view), (View(7), View(0)));
    assert_eq!(recovered.commit_max, 40);
    assert_eq!((recovered.head.op, recovered.head.table), (0, table));
    assert!(!SuperblockState { log_view: View(7), ..recovered }.is_recovered());
}

#[test]
fn a_state_that_forgets_a_promise_is_never_written() {
    let from = || SuperblockState { op_complete: 32, ..state_with_checkpoints() };
    let forgets = |change: fn(&mut SuperblockState)| {
        let mut next = from();
        change(&mut next);
        std::panic::catch_unwind(|| from().assert_monotonic(&next)).is_err()
    };
    assert!(!forgets(|_| {}));
    assert!(!forgets(|next| next.view = View(6)));
    assert!(!forgets(|next| next.op_complete = 64));
    assert!(!forgets(|next| (next.checkpoint, next.commit_max) = (block_ref(96), 101)));
    assert!(forgets(|next| next.cluster = ClusterId(8)));
    assert!(forgets(|next| next.replica = ReplicaIndex(2)));
    assert!(forgets(|next| next.replica_count = 5));
    assert!(forgets(|next| next.incarnation = 98));
    assert!(forgets(|next| next.geometry.clients_max -= 1));
    assert!(forgets(|next| (next.view, next.log_view) = (View(4), View(4))));
    assert!(forgets(|next| next.log_view = View(4)));
    assert!(forgets(|next| next.commit_max = 99));
    assert!(forgets(|next| {
        (next.checkpoint, next.checkpoint_previous) = (block_ref(32), BlockRef::NONE);
    }));
    assert!(forgets(|next| next.op_complete = 0));
    assert!(forgets(|next| next.checkpoint.checksum = 9));
}

#[test]
fn each_update_has_the_next_sequence() {
    let mut book = Copybook::new(&formatted());
    let mut superblock = Superblock::opened(&book.select().unwrap());
    assert_eq!(superblock.sequence(), 1);
    let mut requests = Vec::new();
    for view in 1..=3 {
        superblock.write(state_of_view(view), &mut requests);
        assert_eq!(book.run(&mut superblock, &mut requests, Death::Done), Ok(true));
        assert_eq!(superblock.sequence(), u64::from(view) + 1);
        assert_eq!(book.select().unwrap().sequence, u64::from(view) + 1);
    }
}

#[test]
fn a_view_that_is_never_reached_is_invalid() {
    for (view, is_valid) in [(1, true), (VIEW_MAX, true), (VIEW_MAX + 1, false), (u32::MAX, false)]
    {
        let state = SuperblockState { view: View(view), ..formatted() };
        assert_eq!(state.invalid().is_none(), is_valid, "{view}");
    }
}
