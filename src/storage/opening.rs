//! F2: opens a data file: reads it, decides what it is worth, repairs what it can repair alone.
//!
//! ```text
//!  superblock ──► superblock ──► headers ring ──► first sectors ──► whole bodies ──► recovery ──┐
//!  4 copies       repair         1 MiB a read     of all slots      above the        (a table)  │
//!                 minority                                          checkpoint                  ▼
//!                                                   Opened ◄── durable ◄── redundant headers fixed
//! ```
//!
//! Slots of up to 64 KiB are read as they lie, a mebibyte at a time; of larger ones only the first
//! sector is, and the rest only where the prepare is longer than that and can decide something:
//! above the checkpoint, or without the very same redundant header.
//!
//! **Invariants:** bounded memory: at most `READS_MAX` reads and about `READ_BYTES_MAX` bytes
//! in flight; nothing is written before all was read and judged, except to the superblock's
//! minority; a fatal end has written nothing to the journal.
//!
//! **Not here:** what a replica may do after this (is its head certain?), and the headers of the
//! superblock's head, which it inserts.

use super::journal::{Journal, Slot};
use super::layout::{Layout, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use super::recovery::{Frame, JournalLost, Outcome, Recovery, Scanned};
use super::slot::{Place, Redundant, Stored};
use super::superblock::{
    CopyInvalid, Superblock, SuperblockCopies, SuperblockCopy, SuperblockState, superblock_select,
    unfinished,
};
use super::{ReadResult, Request, Token};
use crate::constants::{HEADER_SIZE, HEADERS_PER_SECTOR, SECTOR_SIZE};
use crate::fatal::{Fatal, FatalKind};
use crate::wire::{Header, Op, Prepare};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Reads in flight at most.
const READS_MAX: usize = 32;
/// Bytes of reads in flight, which one read may exceed.
const READ_BYTES_MAX: u64 = 8 << 20;
/// A read of many small things, bytes.
const READ_SIZE: u32 = 1 << 20;
/// Slots up to this size are read as they lie, bytes.
pub(super) const SLOT_SIZE_CONTIGUOUS: u32 = 64 << 10;

/// What a data file turned out to hold.
#[derive(Debug)]
pub struct Opened {
    /// Where its zones lie.
    pub layout: Layout,
    /// Its superblock; the state is durable.
    pub superblock: Superblock,
    /// Its journal, with nothing in flight.
    pub journal: Journal,
    /// Ops of torn writes, never acknowledged, that were cut.
    pub cut_torn: Vec<Op>,
    /// Slots whose content may have been acknowledged and is damaged.
    pub faulty_count: u32,
}

/// A data file on its way to [`Opened`].
#[derive(Debug)]
pub struct Opening {
    file_size: u64,
    stage: Stage,
    copies: Vec<Result<SuperblockCopy, CopyInvalid>>,
    superblock: Option<Superblock>,
    entries: Vec<Option<Redundant>>,
    stored: Vec<Stored>,
    /// Reads to issue, in order.
    queue: VecDeque<Piece>,
    /// By read id.
    in_flight: BTreeMap<u32, Piece>,
    read_next: u32,
    journal: Option<Journal>,
    recovery: Option<Recovery>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    ReadSuperblock,
    RepairSuperblock,
    ReadHeaders,
    ReadSlots,
    ReadBodies,
    WriteHeaders,
    Done,
    Finished,
}

/// A piece of the file to read.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// The first sector of the headers ring, or the first slot.
    index: u32,
    /// Sectors or slots.
    count: u32,
    offset: u64,
    size: u32,
}

impl Opening {
    /// Begins to open a file of `file_size` bytes. The requests pushed, by this and by the answers
    /// to them, are to be carried out in any order.
    pub fn new(file_size: u64, requests: &mut Vec<Request>) -> Self {
        requests.push(read_copy(0));
        Self {
            file_size,
            stage: Stage::ReadSuperblock,
            copies: Vec::new(),
            superblock: None,
            entries: Vec::new(),
            stored: Vec::new(),
            queue: VecDeque::new(),
            in_flight: BTreeMap::new(),
            read_next: 0,
            journal: None,
            recovery: None,
        }
    }

    /// A read is complete.
    ///
    /// # Errors
    /// The file is not a data file, or not one to go on with.
    pub fn on_read_done(
        &mut self,
        token: Token,
        result: ReadResult,
        requests: &mut Vec<Request>,
    ) -> Result<(), Fatal> {
        match token {
            Token::ReadSuperblock { copy } if self.stage == Stage::ReadSuperblock => {
                self.on_copy_read(copy, &result, requests)
            }
            Token::ReadSuperblock { copy } => {
                assert_eq!(self.stage, Stage::RepairSuperblock);
                let superblock = self.superblock.as_mut().expect("it was selected");
                let durable = superblock
                    .on_read_done(copy, result, requests)
                    .map_err(|text| Fatal::new(FatalKind::SuperblockLost, text))?;
                if durable {
                    self.begin_journal(requests);
                }
                Ok(())
            }
            Token::Scan { id } => {
                let piece = self.in_flight.remove(&id).expect("a read was in flight");
                self.on_piece_read(&piece, &result);
                self.advance(requests)
            }
            _ => panic!("not a read of an opening: {token:?}"),
        }
    }

    /// A write is complete.
    ///
    /// # Errors
    /// As for reads.
    pub fn on_write_done(
        &mut self,
        token: Token,
        requests: &mut Vec<Request>,
    ) -> Result<(), Fatal> {
        match token {
            Token::WriteSuperblock { copy } => {
                assert_eq!(self.stage, Stage::RepairSuperblock);
                let superblock = self.superblock.as_mut().expect("it was selected");
                superblock.on_write_done(copy, requests);
            }
            Token::WriteHeaders { .. } => {
                assert_eq!(self.stage, Stage::WriteHeaders);
                let journal = self.journal.as_mut().expect("it was recovered");
                journal.on_write_done(token, &mut Vec::new());
                self.fix_headers(requests);
            }
            _ => panic!("not a write of an opening: {token:?}"),
        }
        Ok(())
    }

    /// The superblock, once it is known: before the first write is asked for.
    pub fn state(&self) -> Option<&SuperblockState> {
        self.superblock.as_ref().map(Superblock::state)
    }

    /// The open file, once, when there is nothing more to wait for.
    pub fn finish(&mut self) -> Option<Opened> {
        if self.stage != Stage::Done {
            return None;
        }
        self.stage = Stage::Finished;
        let superblock = self.superblock.take().expect("it was selected");
        let journal = self.journal.take().expect("it was recovered");
        let recovery = self.recovery.take().expect("it was recovered");
        assert!(journal.is_idle());
        assert!(!superblock.is_writing());
        let faulty = recovery.outcomes.iter().filter(|outcome| **outcome == Outcome::Faulty);
        Some(Opened {
            layout: Layout::new(superblock.state().geometry),
            faulty_count: u32::try_from(faulty.count()).expect("at most a slot each"),
            superblock,
            journal,
            cut_torn: recovery.cut_torn,
        })
    }

    fn on_copy_read(
        &mut self,
        copy: u8,
        result: &ReadResult,
        requests: &mut Vec<Request>,
    ) -> Result<(), Fatal> {
        assert_eq!(usize::from(copy), self.copies.len());
        self.copies.push(SuperblockCopy::decode_read(result, copy));
        if copy + 1 < SUPERBLOCK_COPIES {
            requests.push(read_copy(copy + 1));
            return Ok(());
        }
        let copies: SuperblockCopies =
            std::mem::take(&mut self.copies).try_into().expect("each copy was read once");
        if self.file_size == 0 {
            return Err(unfinished());
        }
        let number = superblock_select(&copies)?;
        let selected = copies[usize::from(number)].as_ref().expect("a valid copy was selected");
        let layout = Layout::new(selected.state.geometry);
        if self.file_size < layout.grid_offset() {
            return Err(Fatal::new(
                FatalKind::Truncated,
                format!(
                    "data file is truncated: it has {} bytes, its geometry needs {}: restore it, \
                     or rebuild it from the others by `vsr recover`",
                    self.file_size,
                    layout.grid_offset()
                ),
            ));
        }
        let mut superblock = Superblock::opened(selected);
        let minority = minority(&copies, selected);
        if minority.is_empty() {
            self.superblock = Some(superblock);
            self.begin_journal(requests);
        } else {
            log::info!("superblock: copies {minority:?} are repaired");
            superblock.repair(selected, minority, requests);
            self.superblock = Some(superblock);
            self.stage = Stage::RepairSuperblock;
        }
        Ok(())
    }

    fn layout(&self) -> Layout {
        Layout::new(self.superblock.as_ref().expect("it was selected").state().geometry)
    }

    fn place(&self, slot: u32) -> Place {
        let state = self.superblock.as_ref().expect("it was selected").state();
        Place { cluster: state.cluster, geometry: state.geometry, slot }
    }

    fn begin_journal(&mut self, requests: &mut Vec<Request>) {
        assert!(self.queue.is_empty());
        let layout = self.layout();
        let slots = layout.geometry.journal_slots as usize;
        self.entries = vec![None; slots];
        self.stored = vec![Stored::Bad; slots];
        self.stage = Stage::ReadHeaders;
        let per_read = READ_SIZE / SECTOR_SIZE;
        let sectors = layout.header_sectors();
        for index in (0..sectors).step_by(per_read as usize) {
            let count = per_read.min(sectors - index);
            let offset = layout.headers_offset(index);
            self.queue.push_back(Piece { index, count, offset, size: count * SECTOR_SIZE });
        }
        self.push_reads(requests);
    }

    fn queue_slots(&mut self) {
        assert_eq!(self.stage, Stage::ReadSlots);
        assert!(self.queue.is_empty());
        let layout = self.layout();
        let slots = layout.geometry.journal_slots;
        let slot_size = layout.geometry.message_size;
        let contiguous = slot_size <= SLOT_SIZE_CONTIGUOUS;
        let per_read = if contiguous { READ_SIZE / slot_size } else { 1 };
        for index in (0..slots).step_by(per_read as usize) {
            let count = per_read.min(slots - index);
            let size = if contiguous { count * slot_size } else { SECTOR_SIZE };
            let offset = layout.prepare_offset(index);
            self.queue.push_back(Piece { index, count, offset, size });
        }
    }

    /// Bodies that were not read to their end and can decide something.
    fn queue_bodies(&mut self) {
        assert_eq!(self.stage, Stage::ReadBodies);
        assert!(self.queue.is_empty());
        let layout = self.layout();
        let op_checkpoint =
            self.superblock.as_ref().expect("it was selected").state().op_checkpoint();
        for (index, stored) in (0..).zip(&self.stored) {
            let Stored::Prepare { header, whole: false } = stored else { continue };
            if is_decisive(header, self.entries[index as usize].as_ref(), op_checkpoint) {
                let offset = layout.prepare_offset(index);
                let size = header.size.next_multiple_of(SECTOR_SIZE);
                assert!(size <= layout.geometry.message_size);
                self.queue.push_back(Piece { index, count: 1, offset, size });
            }
        }
    }

    fn push_reads(&mut self, requests: &mut Vec<Request>) {
        let mut bytes: u64 = self.in_flight.values().map(|piece| u64::from(piece.size)).sum();
        while self.in_flight.len() < READS_MAX
            && (bytes < READ_BYTES_MAX || self.in_flight.is_empty())
        {
            let Some(piece) = self.queue.pop_front() else { break };
            assert!(piece.count > 0);
            assert!(piece.size.is_multiple_of(SECTOR_SIZE));
            assert!(piece.offset + u64::from(piece.size) <= self.file_size);
            let id = self.read_next;
            self.read_next += 1;
            bytes += u64::from(piece.size);
            self.in_flight.insert(id, piece);
            let token = Token::Scan { id };
            requests.push(Request::Read { token, offset: piece.offset, size: piece.size });
        }
    }

    fn on_piece_read(&mut self, piece: &Piece, result: &ReadResult) {
        let bytes = result.buffer.as_ref();
        assert_eq!(bytes.len(), piece.size as usize);
        match self.stage {
            Stage::ReadHeaders => self.on_headers_read(piece, result),
            Stage::ReadSlots | Stage::ReadBodies => {
                let stride = piece.size / piece.count;
                for index in 0..piece.count {
                    let place = self.place(piece.index + index);
                    let start = index * stride;
                    let unreadable = shifted(&result.unreadable, start);
                    let part = &bytes[start as usize..(start + stride) as usize];
                    self.stored[place.slot as usize] = Stored::decode(part, &unreadable, &place);
                }
            }
            stage => panic!("no read of a piece belongs to {stage:?}"),
        }
    }

    fn on_headers_read(&mut self, piece: &Piece, result: &ReadResult) {
        let (chunks, rest) = result.buffer.as_ref().as_chunks::<{ HEADER_SIZE as usize }>();
        assert!(rest.is_empty());
        assert_eq!(chunks.len(), (piece.count * HEADERS_PER_SECTOR) as usize);
        for (index, chunk) in (0..).zip(chunks) {
            let place = self.place(piece.index * HEADERS_PER_SECTOR + index);
            let start = index * HEADER_SIZE;
            let readable = result
                .unreadable
                .iter()
                .all(|range| range.end <= start || range.start >= start + HEADER_SIZE);
            self.entries[place.slot as usize] =
                readable.then(|| Redundant::decode(chunk, &place)).flatten();
        }
    }

    /// Goes on when a stage has read all it wants.
    fn advance(&mut self, requests: &mut Vec<Request>) -> Result<(), Fatal> {
        while self.queue.is_empty() && self.in_flight.is_empty() {
            match self.stage {
                Stage::ReadHeaders => {
                    self.stage = Stage::ReadSlots;
                    self.queue_slots();
                }
                Stage::ReadSlots => {
                    self.stage = Stage::ReadBodies;
                    self.queue_bodies();
                }
                Stage::ReadBodies => return self.recover(requests),
                stage => panic!("nothing was being read in {stage:?}"),
            }
        }
        self.push_reads(requests);
        Ok(())
    }

    fn recover(&mut self, requests: &mut Vec<Request>) -> Result<(), Fatal> {
        assert_eq!(self.stage, Stage::ReadBodies);
        assert_eq!(self.entries.len(), self.stored.len());
        let state = self.superblock.as_ref().expect("it was selected").state();
        let frame = Frame::of(state);
        let entries = std::mem::take(&mut self.entries);
        let stored = std::mem::take(&mut self.stored);
        let scanned: Vec<Scanned> = entries
            .into_iter()
            .zip(stored)
            .map(|(redundant, stored)| Scanned { redundant, stored })
            .collect();
        let recovery = if state.replica_count == 1 {
            frame.recover_one(&scanned).map_err(journal_lost)?
        } else {
            frame.recover_many(&scanned)
        };
        self.journal = Some(journal_of(&frame, &scanned, &recovery));
        self.recovery = Some(recovery);
        self.stage = Stage::WriteHeaders;
        self.fix_headers(requests);
        Ok(())
    }

    fn fix_headers(&mut self, requests: &mut Vec<Request>) {
        assert_eq!(self.stage, Stage::WriteHeaders);
        let journal = self.journal.as_mut().expect("it was recovered");
        journal.flush_headers(requests);
        if journal.is_idle() {
            self.stage = Stage::Done;
        }
    }
}

fn read_copy(copy: u8) -> Request {
    Request::Read {
        token: Token::ReadSuperblock { copy },
        offset: u64::from(copy) * u64::from(SUPERBLOCK_COPY_SIZE),
        size: SUPERBLOCK_COPY_SIZE,
    }
}

/// The copies that do not hold the selected update, the damaged ones first.
fn minority(copies: &SuperblockCopies, selected: &SuperblockCopy) -> Vec<u8> {
    assert!(copies.iter().flatten().any(|copy| copy == selected));
    let of_kind = |damaged: bool| {
        (0..)
            .zip(copies)
            .filter(move |(_, copy)| copy.is_err() == damaged)
            .filter_map(|(number, copy)| (copy.as_ref().ok() != Some(selected)).then_some(number))
    };
    of_kind(true).chain(of_kind(false)).collect()
}

/// Whether the body under `header` can decide anything, and so is read to its end.
pub(super) fn is_decisive(
    header: &Header<Prepare>,
    entry: Option<&Redundant>,
    op_checkpoint: Op,
) -> bool {
    header.op() > op_checkpoint || entry != Some(&Redundant::Header(*header))
}

/// Unreadable ranges as seen from `start` on.
pub(super) fn shifted(
    unreadable: &[std::ops::Range<u32>],
    start: u32,
) -> Vec<std::ops::Range<u32>> {
    assert!(unreadable.iter().all(|range| range.start < range.end));
    unreadable
        .iter()
        .filter(|range| range.end > start)
        .map(|range| range.start.saturating_sub(start)..range.end - start)
        .collect()
}

fn journal_lost(lost: JournalLost) -> Fatal {
    Fatal::new(
        FatalKind::JournalLost,
        format!(
            "journal: op {} (slot {}) is damaged ({}) and may have been acknowledged, and a lone \
             replica has nobody to ask: restore the data file from a backup",
            lost.op, lost.slot, lost.what
        ),
    )
}

/// The journal that follows from the outcomes.
fn journal_of(frame: &Frame, scanned: &[Scanned], recovery: &Recovery) -> Journal {
    assert_eq!(scanned.len(), recovery.outcomes.len());
    assert_eq!(scanned.len(), frame.geometry.journal_slots as usize);
    let mut slots = Vec::with_capacity(scanned.len());
    let mut written = Vec::new();
    let mut sectors = BTreeSet::new();
    for (index, (scanned, outcome)) in (0..).zip(scanned.iter().zip(&recovery.outcomes)) {
        let slot = slot_of(scanned, *outcome);
        if *outcome == Outcome::Fix {
            written.push(index);
        }
        if slot.unmarked || *outcome == Outcome::Reset {
            sectors.insert(index / HEADERS_PER_SECTOR);
        }
        slots.push(slot);
    }
    let layout = Layout::new(frame.geometry);
    Journal::recovered(frame.cluster, layout, frame.op_checkpoint, slots, &written, sectors)
}

fn slot_of(scanned: &Scanned, outcome: Outcome) -> Slot {
    let prepare: Option<&Header<Prepare>> = scanned.prepare();
    let as_read = scanned.redundant.unwrap_or(Redundant::Invalidated);
    let slot = Slot {
        header: None,
        body: prepare.copied(),
        durable: as_read,
        dirty: false,
        faulty: false,
        unmarked: false,
        sequence: 0,
    };
    match outcome {
        Outcome::Keep | Outcome::Fix => {
            assert!(prepare.is_some(), "only what was found whole is in the log");
            let dirty = outcome == Outcome::Fix;
            Slot { header: prepare.copied(), dirty, ..slot }
        }
        Outcome::Empty => slot,
        Outcome::Reset => Slot { durable: Redundant::Formatted, ..slot },
        Outcome::Drop => {
            let id = prepare.expect("a whole prepare is dropped").id();
            Slot { durable: Redundant::Truncated(id), unmarked: true, ..slot }
        }
        Outcome::Faulty => {
            Slot { durable: Redundant::Invalidated, dirty: true, faulty: true, ..slot }
        }
    }
}

#[cfg(test)]
#[path = "opening_tests.rs"]
mod tests;
