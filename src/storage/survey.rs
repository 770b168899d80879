//! F2: reads the journal of a data file to see what it is worth, however damaged, and changes
//! nothing.
//!
//! ```text
//!   headers ring ──► slots: their first sectors, or whole ──► every body to its end ──► judged
//!   1 MiB a read                                                                          │
//!                     SlotSurvey: entry, slot, row of the table, what becomes of it ◄─────┘
//! ```
//!
//! What becomes of each slot is decided by the code that decides when a replica opens the file, and
//! from what that one reads. The bodies that it leaves alone (they decide nothing) are read here if
//! that is wanted, and where one is damaged that is said beside the decision.
//!
//! **Invariants:** nothing is written; any bytes are a survey; one read at a time, of a mebibyte or
//! one slot at most.
//!
//! **Not here:** the superblock, whose copies need no survey (`superblock_select` judges them);
//! what is to be told of a survey.

use super::layout::Layout;
use super::opening::{SLOT_SIZE_CONTIGUOUS, is_decisive, shifted};
use super::recovery::{Frame, JournalLost, Outcome, Row, Scanned};
use super::slot::{Place, Redundant, Stored};
use super::{ReadResult, Request, SuperblockState, Token};
use crate::constants::{HEADER_SIZE, HEADERS_PER_SECTOR, SECTOR_SIZE};
use crate::wire::Op;

/// A read of many small things, bytes.
const READ_SIZE: u32 = 1 << 20;

/// What is known of one slot.
#[derive(Debug, Clone)]
pub struct SlotSurvey {
    /// The entry of the headers ring; `None` for a bad one.
    pub redundant: Option<Redundant>,
    /// The slot of the prepares ring, as far as it is read when a replica opens the file.
    pub stored: Stored,
    /// The body, which is not read then, is damaged.
    pub is_body_damaged: bool,
    /// The row of the recovery table.
    pub row: &'static Row,
    /// What becomes of the slot; `None` if the file does not open.
    pub outcome: Option<Outcome>,
}

/// What is known of the journal.
#[derive(Debug, Clone)]
pub struct Survey {
    /// By slot.
    pub slots: Vec<SlotSurvey>,
    /// Ops of writes that were torn, or lie above one that was, and are cut. Nobody was promised
    /// them.
    pub cut_torn: Vec<Op>,
    /// A lone replica does not open this file, and why.
    pub lost: Option<JournalLost>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Headers,
    Slots,
    Bodies,
    Done,
}

/// A journal being read.
#[derive(Debug)]
pub struct JournalSurvey {
    frame: Frame,
    layout: Layout,
    is_lone: bool,
    /// Bodies that decide nothing are read too.
    is_thorough: bool,
    stage: Stage,
    /// The first sector or slot of the next read.
    next: u32,
    /// How many the read in flight is of.
    in_flight: Option<u32>,
    entries: Vec<Option<Redundant>>,
    stored: Vec<Stored>,
    bodies_damaged: Vec<bool>,
}

impl JournalSurvey {
    /// Of the data file whose superblock says `state`, which is valid. A survey that is not
    /// `thorough` reads what a replica reads when it opens the file, and no more.
    pub fn new(state: &SuperblockState, thorough: bool) -> Self {
        assert_eq!(state.invalid(), None);
        let slots = state.geometry.journal_slots as usize;
        Self {
            frame: Frame::of(state),
            layout: Layout::new(state.geometry),
            is_lone: state.replica_count == 1,
            is_thorough: thorough,
            stage: Stage::Headers,
            next: 0,
            in_flight: None,
            entries: Vec::with_capacity(slots),
            stored: Vec::with_capacity(slots),
            bodies_damaged: vec![false; slots],
        }
    }

    /// The read that the survey wants next, of a [`Token::Scan`]; `None` when it has seen all. The
    /// one before was answered.
    pub fn next_read(&mut self) -> Option<Request> {
        assert!(self.in_flight.is_none(), "one read at a time");
        let slots = self.layout.geometry.journal_slots;
        loop {
            let end = match self.stage {
                Stage::Headers => self.layout.header_sectors(),
                Stage::Slots | Stage::Bodies => slots,
                Stage::Done => return None,
            };
            if self.next < end && self.wants(self.next) {
                break;
            }
            if self.next < end {
                self.next += 1;
                continue;
            }
            self.next = 0;
            self.stage = match self.stage {
                Stage::Headers => Stage::Slots,
                Stage::Slots => Stage::Bodies,
                Stage::Bodies | Stage::Done => Stage::Done,
            };
        }
        let (count, offset, size) = self.piece();
        assert!(count > 0 && size.is_multiple_of(SECTOR_SIZE));
        self.in_flight = Some(count);
        Some(Request::Read { token: Token::Scan { id: self.next }, offset, size })
    }

    /// How far the survey has come: slots seen, of how many. Each counts twice, once in each ring.
    pub fn progress(&self) -> (u64, u64) {
        let slots = u64::from(self.layout.geometry.journal_slots);
        let next = u64::from(self.next);
        let done = match self.stage {
            Stage::Headers => next * u64::from(HEADERS_PER_SECTOR),
            Stage::Slots => slots + next,
            Stage::Bodies => 2 * slots + next,
            Stage::Done => 3 * slots,
        };
        (done.min(3 * slots), 3 * slots)
    }

    /// The answer to [`Self::next_read`].
    pub fn on_read_done(&mut self, result: &ReadResult) {
        let count = self.in_flight.take().expect("a read was in flight");
        let bytes = result.buffer.as_ref();
        assert!(!bytes.is_empty());
        match self.stage {
            Stage::Headers => self.on_headers_read(count, result),
            Stage::Slots => {
                let stride = bytes.len() / count as usize;
                for (slot, part) in (self.next..).zip(bytes.chunks_exact(stride)) {
                    let start = (slot - self.next) * size_u32(stride);
                    let unreadable = shifted(&result.unreadable, start);
                    self.stored.push(Stored::decode(part, &unreadable, &self.place(slot)));
                }
            }
            Stage::Bodies => {
                let at = self.next as usize;
                let found = Stored::decode(bytes, &result.unreadable, &self.place(self.next));
                let Stored::Prepare { header, whole: false } = self.stored[at] else {
                    panic!("only what was not read to its end is read again")
                };
                if is_decisive(&header, self.entries[at].as_ref(), self.frame.op_checkpoint) {
                    self.stored[at] = found;
                } else {
                    self.bodies_damaged[at] = found != Stored::Prepare { header, whole: true };
                }
            }
            Stage::Done => panic!("nothing was being read"),
        }
        self.next += count;
    }

    /// What all the reads amount to.
    pub fn finish(self) -> Survey {
        assert_eq!(self.stage, Stage::Done);
        assert_eq!(self.entries.len(), self.stored.len());
        let pairs = self.entries.into_iter().zip(self.stored);
        let scanned: Vec<Scanned> =
            pairs.map(|(redundant, stored)| Scanned { redundant, stored }).collect();
        let rows = self.frame.rows(&scanned);
        let recovery = if self.is_lone {
            self.frame.recover_one(&scanned)
        } else {
            Ok(self.frame.recover_many(&scanned))
        };
        let (outcomes, cut_torn, lost) = match recovery {
            Ok(recovery) => {
                (recovery.outcomes.into_iter().map(Some).collect(), recovery.cut_torn, None)
            }
            Err(lost) => (vec![None; scanned.len()], Vec::new(), Some(lost)),
        };
        let slots = scanned.iter().zip(rows).zip(outcomes).zip(self.bodies_damaged);
        let slots = slots.map(|(((scanned, row), outcome), is_body_damaged)| SlotSurvey {
            redundant: scanned.redundant,
            stored: scanned.stored,
            is_body_damaged,
            row,
            outcome,
        });
        Survey { slots: slots.collect(), cut_torn, lost }
    }

    fn place(&self, slot: u32) -> Place {
        Place { cluster: self.frame.cluster, geometry: self.frame.geometry, slot }
    }

    /// Whether there is anything to read of sector or slot `at` in this stage.
    fn wants(&self, at: u32) -> bool {
        if self.stage != Stage::Bodies {
            return true;
        }
        let at = at as usize;
        let Stored::Prepare { header, whole: false } = &self.stored[at] else { return false };
        let op_checkpoint = self.frame.op_checkpoint;
        self.is_thorough || is_decisive(header, self.entries[at].as_ref(), op_checkpoint)
    }

    /// How many sectors or slots the next read is of, where, and how large it is.
    fn piece(&self) -> (u32, u64, u32) {
        let slot_size = self.layout.geometry.message_size;
        match self.stage {
            Stage::Headers => {
                let left = self.layout.header_sectors() - self.next;
                let count = left.min(READ_SIZE / SECTOR_SIZE);
                (count, self.layout.headers_offset(self.next), count * SECTOR_SIZE)
            }
            Stage::Slots => {
                let offset = self.layout.prepare_offset(self.next);
                if slot_size > SLOT_SIZE_CONTIGUOUS {
                    return (1, offset, SECTOR_SIZE);
                }
                let left = self.layout.geometry.journal_slots - self.next;
                let count = left.min(READ_SIZE / slot_size);
                (count, offset, count * slot_size)
            }
            Stage::Bodies => {
                let Stored::Prepare { header, .. } = self.stored[self.next as usize] else {
                    panic!("a body has a header")
                };
                let size = header.size.next_multiple_of(SECTOR_SIZE);
                assert!(size <= slot_size);
                (1, self.layout.prepare_offset(self.next), size)
            }
            Stage::Done => panic!("there is nothing more to read"),
        }
    }

    fn on_headers_read(&mut self, count: u32, result: &ReadResult) {
        let (chunks, rest) = result.buffer.as_ref().as_chunks::<{ HEADER_SIZE as usize }>();
        assert!(rest.is_empty());
        assert_eq!(chunks.len(), (count * HEADERS_PER_SECTOR) as usize);
        for (index, chunk) in (0..).zip(chunks) {
            let place = self.place(self.next * HEADERS_PER_SECTOR + index);
            let start = index * HEADER_SIZE;
            let readable = result
                .unreadable
                .iter()
                .all(|range| range.end <= start || range.start >= start + HEADER_SIZE);
            self.entries.push(readable.then(|| Redundant::decode(chunk, &place)).flatten());
        }
    }
}

fn size_u32(size: usize) -> u32 {
    u32::try_from(size).expect("a read of a mebibyte or a message")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;
    use crate::storage::test_disk::TestDisk;
    use crate::storage::{Geometry, Opening};
    use crate::wire::{Author, ClusterId, Header, Message, Parent, Prepare, ReplicaIndex, View};
    use std::collections::BTreeSet;

    const CLUSTER: ClusterId = ClusterId(3);

    fn state(replica_count: u8, message_size: u32) -> SuperblockState {
        let geometry = Geometry {
            message_size,
            journal_slots: 64,
            block_size: 4096,
            pipeline: 4,
            clients_max: 4,
        };
        SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 9, geometry)
    }

    fn survey(disk: &TestDisk, state: &SuperblockState) -> Survey {
        let mut survey = JournalSurvey::new(state, true);
        while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
            survey.on_read_done(&disk.read(offset, size));
        }
        let (done, all) = survey.progress();
        assert_eq!(done, all);
        survey.finish()
    }

    /// Ops 1 to `count` in both rings, as a chain.
    fn fill(disk: &mut TestDisk, state: &SuperblockState, count: Op, body: &[u8]) {
        let layout = Layout::new(state.geometry);
        let mut parent = Header::root(CLUSTER).id().as_parent();
        for op in 1..=count {
            let message = prepare(op, parent, body);
            let header = message.prepare_header();
            parent = header.id().as_parent();
            let slot = state.geometry.slot(op);
            put(disk, layout.prepare_offset(slot), &message.sectors());
            let entry = Redundant::Header(header).encode(CLUSTER, slot);
            put(disk, layout.headers_offset(0) + u64::from(slot * HEADER_SIZE), &entry);
        }
    }

    fn prepare(op: Op, parent: Parent, body: &[u8]) -> Message {
        let author =
            Author { cluster: CLUSTER, view: View(1), replica: ReplicaIndex(0), incarnation: 9 };
        let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
        Message::new(&author, command, body)
    }

    fn put(disk: &mut TestDisk, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        disk.bytes[start..start + bytes.len()].copy_from_slice(bytes);
    }

    #[test]
    fn progress_is_of_all_slots_in_both_rings_and_their_bodies() {
        // Of one MiB: each slot is a read, and a body of more than a sector another.
        let state = state(3, 1 << 20);
        let mut disk = TestDisk::new(1);
        disk.bytes.resize(usize::try_from(Layout::new(state.geometry).grid_offset()).unwrap(), 0);
        fill(&mut disk, &state, 3, &[7; 9000]);
        let mut survey = JournalSurvey::new(&state, true);
        let mut found = vec![survey.progress()];
        while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
            survey.on_read_done(&disk.read(offset, size));
            found.push(survey.progress());
        }
        let expected: Vec<(u64, u64)> =
            (0..=0).chain(64..=128).chain(130..=132).map(|done| (done, 192)).collect();
        assert_eq!(found, expected);
        assert_eq!(survey.progress(), (192, 192));
    }

    #[test]
    fn an_unreadable_sector_of_headers_takes_its_entries_and_no_others() {
        let state = state(3, 4096);
        let mut disk = TestDisk::new(1);
        disk.bytes.resize(usize::try_from(Layout::new(state.geometry).grid_offset()).unwrap(), 0);
        fill(&mut disk, &state, 60, &[7; 100]);
        for (range, left) in [(0..4096, 32..=60), (4096..8192, 1..=31)] {
            let mut survey = JournalSurvey::new(&state, true);
            let mut unreadable = vec![range];
            while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
                let mut result = disk.read(offset, size);
                result.unreadable.append(&mut unreadable);
                survey.on_read_done(&result);
            }
            let slots = survey.finish().slots;
            let whole = |slot: &usize| matches!(slots[*slot].redundant, Some(Redundant::Header(_)));
            let found: Vec<usize> = (1..64).filter(whole).collect();
            assert_eq!(found, left.collect::<Vec<usize>>());
        }
    }

    #[test]
    fn says_what_opening_decides() {
        for (seed, message_size) in (0..60).zip([4096, 16384, 1 << 17].into_iter().cycle()) {
            let state = state(3, message_size);
            let mut disk = TestDisk::formatted(&state);
            let mut prng = Prng::from_seed(seed);
            fill(&mut disk, &state, 40, &vec![7; message_size as usize / 2]);
            let layout = Layout::new(state.geometry);
            for _ in 0..prng.below(4) {
                let slot = u32::try_from(prng.below(64)).unwrap();
                if prng.below(2) == 0 {
                    disk.bytes[usize::try_from(layout.prepare_offset(slot)).unwrap() + 130] ^= 1;
                } else {
                    disk.unreadable.insert(layout.prepare_offset(slot));
                }
            }
            let survey = survey(&disk, &state);
            let faulty = survey.slots.iter().filter(|slot| slot.outcome == Some(Outcome::Faulty));
            let faulty_count = u32::try_from(faulty.count()).unwrap();
            let opened = disk.open().unwrap();
            assert_eq!((survey.cut_torn, faulty_count), (opened.cut_torn, opened.faulty_count));
        }
    }

    #[test]
    fn a_body_that_decides_nothing_is_read_too() {
        let mut state = state(3, 1 << 17);
        let mut disk = TestDisk::formatted(&state);
        fill(&mut disk, &state, 40, &[7; 20_000]);
        state.checkpoint.op = 32;
        state.commit_max = 32;
        assert!(survey(&disk, &state).slots.iter().all(|slot| !slot.is_body_damaged));
        let layout = Layout::new(state.geometry);
        for op in [20, 35] {
            let end = layout.prepare_offset(op) + 20_000;
            disk.bytes[usize::try_from(end).unwrap()] ^= 1;
        }
        let survey = survey(&disk, &state);
        assert!(survey.slots[20].is_body_damaged);
        assert_eq!(survey.slots[20].outcome, Some(Outcome::Keep));
        assert!(!survey.slots[35].is_body_damaged);
        assert_eq!(survey.slots[35].outcome, Some(Outcome::Faulty));
    }

    #[test]
    fn any_bytes_are_a_survey() {
        for seed in 0..200 {
            let state = state(if seed % 2 == 0 { 1 } else { 3 }, 4096);
            let mut disk = TestDisk::formatted(&state);
            fill(&mut disk, &state, 50, &[1; 100]);
            let mut prng = Prng::from_seed(seed);
            let start = 65536 + prng.index(disk.bytes.len() - 65536);
            let end = start + prng.index(disk.bytes.len() - start);
            prng.fill(&mut disk.bytes[start..end]);
            if prng.below(4) == 0 {
                disk.bytes.truncate(prng.index(disk.bytes.len()));
            }
            let survey = survey(&disk, &state);
            assert_eq!(survey.slots.len(), 64);
        }
    }

    #[test]
    fn a_lone_replica_that_lost_something_is_told() {
        let state = state(1, 4096);
        let mut disk = TestDisk::formatted(&state);
        fill(&mut disk, &state, 10, &[1; 100]);
        assert!(survey(&disk, &state).lost.is_none());
        let layout = Layout::new(state.geometry);
        disk.bytes[usize::try_from(layout.prepare_offset(5)).unwrap() + 200] ^= 1;
        let survey = survey(&disk, &state);
        assert_eq!(survey.lost.map(|lost| (lost.op, lost.slot)), Some((5, 5)));
        assert!(survey.slots.iter().all(|slot| slot.outcome.is_none()));
    }

    fn empty_disk(message_size: u32, journal_slots: u32) -> (SuperblockState, TestDisk) {
        let geometry = Geometry { message_size, journal_slots, pipeline: 8, ..Geometry::default() };
        let state = SuperblockState::formatted(CLUSTER, ReplicaIndex(0), 3, 9, geometry);
        let disk = TestDisk::formatted(&state);
        (state, disk)
    }

    #[test]
    fn reads_what_an_opening_reads_and_no_more() {
        // Slots, and sectors of headers, that do and do not divide into whole reads.
        for (message_size, journal_slots) in
            [(24576, 64), (16384, 128), (4096, 8256), (64 << 10, 64), (128 << 10, 64)]
        {
            let (state, mut disk) = empty_disk(message_size, journal_slots);
            fill(&mut disk, &state, 20, &[7; 1000]);
            let (mut expected, mut requests) = (BTreeSet::new(), Vec::new());
            let mut opening = Opening::new(disk.bytes.len() as u64, &mut requests);
            while let Some(request) = requests.pop() {
                let Request::Read { token, offset, size } = request else {
                    panic!("a sound file is not written to")
                };
                if let Token::Scan { .. } = token {
                    expected.insert((offset, size));
                }
                opening.on_read_done(token, disk.read(offset, size), &mut requests).unwrap();
            }
            assert!(opening.finish().is_some());
            let mut survey = JournalSurvey::new(&state, false);
            let mut found = BTreeSet::new();
            while let Some(Request::Read { offset, size, .. }) = survey.next_read() {
                assert!(found.insert((offset, size)));
                survey.on_read_done(&disk.read(offset, size));
            }
            assert_eq!(found, expected, "{journal_slots} slots of {message_size}");
            let slots = survey.finish().slots;
            assert!(slots.iter().all(|slot| slot.redundant.is_some()));
            let is_prepare = |slot: &&SlotSurvey| matches!(slot.stored, Stored::Prepare { .. });
            assert_eq!(slots.iter().filter(is_prepare).count(), 21);
        }
    }

    #[test]
    fn an_unreadable_sector_takes_its_slot_and_no_other_in_whichever_read_it_is() {
        // 64 slots a read. What cannot be read looks like what is there.
        let (state, mut disk) = empty_disk(16384, 128);
        fill(&mut disk, &state, 100, &[0; 9000]);
        for slot in [1, 20, 63, 64, 70, 100] {
            let sector = Layout::new(state.geometry).prepare_offset(slot) + 4096;
            disk.unreadable = BTreeSet::from([sector]);
            let slots = survey(&disk, &state).slots;
            let is_whole = |at: &u32| {
                matches!(slots[*at as usize].stored, Stored::Prepare { whole: true, .. })
            };
            let damaged: Vec<u32> = (1..=100).filter(|at| !is_whole(at)).collect();
            assert_eq!(damaged, [slot]);
        }
    }
}
