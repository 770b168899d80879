//! The disk of a replica: sectors, and all the ways in which they are not what was written.
//!
//! ```text
//!   write ─► in flight ── latency ──► fate ──► sectors      done, lost, misdirected, corrupted
//!     └── beyond the end ──► refused: full, perhaps with room at the next attempt
//!               │ crash: any subset of its sectors
//!   read  ─► in flight ── latency ──► sectors ──► fate      as it is, a bit flipped, unreadable
//! ```
//!
//! The *atlas* keeps one good copy of everything somewhere. A chunk of the journal is the 32 slots
//! of one sector of the headers ring. At most a replication quorum less one of the replicas may
//! damage a chunk, and each such replica in one way, because no replica can see through two lies
//! about one slot:
//!
//! | damage of a chunk | prepares | sector of headers |
//! |---|---|---|
//! | `Prepares` | corrupt, unreadable, lost, misdirected | as written |
//! | `Headers` | as written | corrupt, unreadable, lost |
//! | `Both` | corrupt, unreadable | corrupt, unreadable |
//!
//! Of the blocks of the grid each region, 16 that are neighbours, may be damaged on as many
//! replicas, each region on others, in any way but misdirected: corrupt, unreadable, lost. (What
//! refers to a block tells a lie from it.)
//!
//! A replica whose file may be lost is one of those that may damage, everywhere.
//!
//! Of the superblock, one copy of each disk may be damaged. With one or two replicas no journal is
//! damaged, with one no superblock either: there is nobody, or not always somebody, to ask.
//!
//! A slot whose header or prepare was damaged is *hurt*, until that is written anew, and with more
//! than the marker which says that nobody knows what was there: see [`Disk::is_hurt`].
//!
//! **Invariants:** every operation completes once, or dies with its process; what the atlas does
//! not allow happens at a crash only, and then to writes in flight only; a sector is written whole
//! or not at all; a slot that is not hurt holds what was last written to it, but for a write that a
//! crash cut short; a write that was refused leaves nothing behind.
//!
//! **Not here:** when the disk of a process is healed (`cluster`).

use super::checkers::SlotOnDisk;
use super::fault::Fault;
use super::random::{Delay, Ppm};
use super::scheduler::{Scheduler, What};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::ops::Range;
use std::rc::Rc;
use vsr::constants::{HEADER_SIZE, HEADERS_PER_SECTOR, SECTOR_SIZE};
use vsr::io::{Event, FileToken, OpenError};
use vsr::stdx::{AlignedBuffer, Prng};
use vsr::storage::block::StoredBlock;
use vsr::storage::layout::{SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use vsr::storage::{Geometry, Layout, ReadResult, Request, Token};
use vsr::store::survey::{self, CheckpointSurvey};
use vsr::wire::{BlockRef, ClusterId, Header, Message, Op, Prepare, PrepareId};

#[cfg(test)]
#[path = "scenarios/hooks_disk.rs"]
pub(super) mod hooks;

const SECTOR: usize = SECTOR_SIZE as usize;
/// Neighbouring blocks that may be damaged on the same replicas.
const REGION_BLOCKS: u32 = 16;
/// After so many regions they begin anew.
const REGIONS: u32 = 64;
/// The kind of a marker in the headers ring that says no more than that something was there.
const MARKER_INVALIDATED: [u8; 4] = 2_u32.to_le_bytes();
/// Of a healed disk.
const LATENCY_HEALED: Delay = Delay { min: 20_000, mean: 500_000 };

/// How bad the disks are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskOptions {
    pub(crate) read: Delay,
    pub(crate) write: Delay,
    /// Of each write.
    pub(crate) write_corrupt: Ppm,
    /// Of each write.
    pub(crate) write_lost: Ppm,
    /// Of each write.
    pub(crate) write_misdirected: Ppm,
    /// Of each read.
    pub(crate) read_corrupt: Ppm,
    /// Of each read and write.
    pub(crate) unreadable: Ppm,
    /// Of each start of a replica: that some sectors have rotten.
    pub(crate) rot: Ppm,
    /// Of each write in flight at a crash: that all, or none, of it is done; else a part.
    pub(crate) whole_at_crash: Ppm,
    /// Of each write beyond the end: that there is no room for it.
    pub(crate) full: Ppm,
}

/// In which way a chunk of a disk may be damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Damage {
    Nothing,
    Prepares,
    Headers,
    Both,
}

/// Which damage is allowed where.
#[derive(Debug, Clone)]
pub(crate) struct Atlas {
    /// By replica, by chunk.
    chunks: Vec<Vec<Damage>>,
    /// By replica, by region of the grid: whether its blocks may be damaged.
    regions: Vec<Vec<bool>>,
    /// By replica: the copy of the superblock.
    superblock_copies: Vec<Option<u8>>,
}

/// What lies at an offset of the data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Superblock { copy: u8 },
    Headers { chunk: u32 },
    Prepare { slot: u32 },
    Grid { block: u32 },
}

#[derive(Debug)]
enum Operation {
    Read {
        offset: u64,
        buffer: AlignedBuffer,
    },
    Write {
        offset: u64,
        sectors: Bytes,
    },
    /// A write for which there is no room.
    Refused {
        offset: u64,
        size: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Disk {
    replica: usize,
    options: DiskOptions,
    layout: Layout,
    chunks: Vec<Damage>,
    regions: Vec<bool>,
    superblock_copy: Option<u8>,
    prng: Prng,
    /// What each begins with; the rest of it is zeros. Freshly formatted ones are shared.
    sectors: Vec<Option<Rc<[u8]>>>,
    unreadable: BTreeSet<u64>,
    /// The slots of which the prepare is damaged.
    hurt_prepares: BTreeSet<u32>,
    /// The slots of which the header is damaged, or a marker says so.
    hurt_headers: BTreeSet<u32>,
    /// The blocks of the grid that are damaged.
    hurt_blocks: BTreeSet<u32>,
    /// A block of this file was damaged once.
    has_hurt_block: bool,
    in_flight: BTreeMap<u64, (FileToken, Operation)>,
    operation_next: u64,
    /// One more than the highest slot that was written since the format.
    slots_used: u32,
    is_healed: bool,
    /// There is a file.
    exists: bool,
    /// It is being created, and nobody counts on it yet.
    is_new: bool,
}

impl Atlas {
    /// `doomed` is the replica that may lose its file, if there is one.
    pub(crate) fn new(
        replica_count: u8,
        replication_quorum: u8,
        geometry: &Geometry,
        doomed: Option<usize>,
        prng: &mut Prng,
    ) -> Self {
        let replicas = usize::from(replica_count);
        let chunk_count = geometry.journal_slots / HEADERS_PER_SECTOR;
        let mut atlas = Self {
            chunks: vec![vec![Damage::Nothing; chunk_count as usize]; replicas],
            regions: vec![vec![false; REGIONS as usize]; replicas],
            superblock_copies: vec![None; replicas],
        };
        if replica_count > 1 {
            for copy in &mut atlas.superblock_copies {
                let drawn = prng.below(u64::from(SUPERBLOCK_COPIES));
                *copy = Some(u8::try_from(drawn).expect("one of four"));
            }
        }
        assert!(doomed.is_none() || replica_count > 2, "nobody has what a lost file had");
        if replica_count > 2 {
            let victims = |prng: &mut Prng| {
                let mut candidates: Vec<usize> = (0..replicas).collect();
                let draw = |index| {
                    let place = match doomed {
                        Some(replica) if index == 1 => replica,
                        _ => prng.index(candidates.len()),
                    };
                    candidates.swap_remove(place)
                };
                (1..replication_quorum).map(draw).collect::<Vec<usize>>()
            };
            for chunk in 0..chunk_count as usize {
                for replica in victims(prng) {
                    let kinds = [Damage::Prepares, Damage::Prepares, Damage::Headers, Damage::Both];
                    atlas.chunks[replica][chunk] = kinds[prng.index(kinds.len())];
                }
            }
            for region in 0..REGIONS as usize {
                for replica in victims(prng) {
                    atlas.regions[replica][region] = true;
                }
            }
        }
        atlas
    }
}

impl Disk {
    /// An empty disk.
    pub(crate) fn new(
        replica: usize,
        options: DiskOptions,
        geometry: Geometry,
        atlas: &Atlas,
        prng: Prng,
    ) -> Self {
        let layout = Layout::new(geometry);
        let sector_count = usize::try_from(layout.grid_offset()).expect("some MiB") / SECTOR;
        Self {
            replica,
            options,
            layout,
            chunks: atlas.chunks[replica].clone(),
            regions: atlas.regions[replica].clone(),
            superblock_copy: atlas.superblock_copies[replica],
            prng,
            sectors: vec![None; sector_count],
            unreadable: BTreeSet::new(),
            hurt_prepares: BTreeSet::new(),
            hurt_headers: BTreeSet::new(),
            hurt_blocks: BTreeSet::new(),
            has_hurt_block: false,
            in_flight: BTreeMap::new(),
            operation_next: 0,
            slots_used: 0,
            is_healed: false,
            exists: true,
            is_new: false,
        }
    }

    /// Bytes.
    pub(crate) fn size(&self) -> u64 {
        (self.sectors.len() * SECTOR) as u64
    }

    /// From now on it does what it is told.
    pub(crate) fn heal(&mut self) {
        self.is_healed = true;
    }

    /// The file is gone.
    pub(crate) fn lose(&mut self) {
        assert!(self.in_flight.is_empty(), "its process is dead");
        self.sectors.clear();
        self.sectors.resize(self.sector_count(), None);
        self.unreadable.clear();
        self.hurt_prepares.clear();
        self.hurt_headers.clear();
        self.hurt_blocks.clear();
        self.has_hurt_block = false;
        self.slots_used = 0;
        self.exists = false;
        self.is_new = false;
    }

    fn sector_count(&self) -> usize {
        usize::try_from(self.layout.grid_offset()).expect("some MiB") / SECTOR
    }

    /// Opens the file that is there.
    pub(crate) fn open(&mut self) -> Result<(), OpenError> {
        if self.exists { Ok(()) } else { Err(OpenError::NotFound) }
    }

    /// Creates the file, empty, whose writes are spared all but a want of room until
    /// [`Disk::end_creation`].
    pub(crate) fn create(&mut self) -> Result<(), OpenError> {
        if self.exists {
            return Err(OpenError::Exists);
        }
        self.sectors.clear();
        self.exists = true;
        self.is_new = true;
        Ok(())
    }

    /// The file is complete: from now on it is as good as the disk is.
    pub(crate) fn end_creation(&mut self) {
        assert!(self.exists && self.is_new);
        assert_eq!(self.sectors.len(), self.sector_count());
        self.is_new = false;
        self.slots_used = 0;
    }

    // ---- calls

    /// Writes at once, faultlessly: for the format.
    pub(crate) fn format(&mut self, offset: u64, bytes: &[u8]) {
        self.exists = true;
        self.store(offset, bytes);
    }

    /// Becomes a copy of another disk of the same geometry: for the format.
    pub(crate) fn format_like(&mut self, other: &Self) {
        assert_eq!(self.layout.geometry, other.layout.geometry);
        self.sectors.clone_from(&other.sectors);
    }

    pub(crate) fn read(
        &mut self,
        scheduler: &mut Scheduler,
        offset: u64,
        buffer: AlignedBuffer,
        token: FileToken,
    ) {
        assert!(offset + buffer.len() as u64 <= self.size(), "a read past the end");
        // It is not cleared again.
        debug_assert!(buffer.as_ref().iter().all(|byte| *byte == 0), "a buffer that was used");
        let latency = if self.is_healed { LATENCY_HEALED } else { self.options.read };
        let delay = latency.draw(&mut self.prng);
        self.submit(scheduler, delay, token, Operation::Read { offset, buffer });
    }

    pub(crate) fn write(
        &mut self,
        scheduler: &mut Scheduler,
        offset: u64,
        sectors: Bytes,
        token: FileToken,
    ) {
        assert!(offset.is_multiple_of(SECTOR as u64) && sectors.len().is_multiple_of(SECTOR));
        let latency = if self.is_healed { LATENCY_HEALED } else { self.options.write };
        let delay = latency.draw(&mut self.prng);
        let end = usize::try_from(offset).expect("some MiB") / SECTOR + sectors.len() / SECTOR;
        if end > self.sectors.len() {
            if !self.is_healed && self.options.full.happens(&mut self.prng) {
                let size = sectors.len();
                return self.submit(scheduler, delay, token, Operation::Refused { offset, size });
            }
            // What lies past the end makes the file longer, whatever becomes of it.
            self.sectors.resize(end, None);
        }
        if let Place::Prepare { slot } = self.place(offset) {
            self.slots_used = self.slots_used.max(slot + 1);
        }
        self.submit(scheduler, delay, token, Operation::Write { offset, sectors });
    }

    fn submit(
        &mut self,
        scheduler: &mut Scheduler,
        delay: u64,
        token: FileToken,
        operation: Operation,
    ) {
        let id = self.operation_next;
        self.operation_next += 1;
        self.in_flight.insert(id, (token, operation));
        let (process, life) = (self.replica, scheduler.processes[self.replica].life);
        scheduler.after(delay, What::Disk { process, life, operation: id });
    }

    // ---- what becomes of them

    /// The operation is done.
    pub(crate) fn on_done(&mut self, scheduler: &mut Scheduler, operation: u64) {
        // One that was done while opening, or died with its process, is not there any more.
        if let Some((token, operation)) = self.in_flight.remove(&operation) {
            let event = self.carry_out(scheduler, token, operation);
            scheduler.complete(self.replica, event);
        }
    }

    /// Completes one of the operations in flight, any one, now. False if there is none.
    pub(crate) fn complete_any(&mut self, scheduler: &mut Scheduler) -> bool {
        // Any of the first few: to find the n-th of a thousand each time would take long.
        let near = self.in_flight.len().min(8);
        if near == 0 {
            return false;
        }
        let chosen = self.prng.index(near);
        let id = *self.in_flight.keys().nth(chosen).expect("so many are there");
        self.on_done(scheduler, id);
        true
    }

    fn carry_out(
        &mut self,
        scheduler: &mut Scheduler,
        token: FileToken,
        operation: Operation,
    ) -> Event {
        match operation {
            Operation::Read { offset, mut buffer } => {
                let unreadable = self.carry_out_read(scheduler, offset, &mut buffer);
                Event::ReadDone { token, buffer, unreadable }
            }
            Operation::Write { offset, sectors } => {
                self.carry_out_write(scheduler, offset, &sectors);
                Event::WriteDone { token, result: Ok(()) }
            }
            Operation::Refused { offset, size } => {
                scheduler.fault(self.replica, Fault::DiskFull, offset, size as u64);
                Event::WriteDone { token, result: Err(ErrorKind::StorageFull.into()) }
            }
        }
    }

    fn carry_out_read(
        &mut self,
        scheduler: &mut Scheduler,
        offset: u64,
        buffer: &mut AlignedBuffer,
    ) -> Vec<Range<u32>> {
        let first = offset / SECTOR as u64;
        let sector = first + self.prng.below((buffer.len() / SECTOR) as u64);
        // One read may be of many chunks: what counts is where it is hit.
        let may_damage = self.may_damage(sector * SECTOR as u64, false);
        if may_damage && self.options.unreadable.happens(&mut self.prng) {
            self.make_unreadable(scheduler, sector);
        }
        self.load(first, buffer);
        if may_damage && self.options.read_corrupt.happens(&mut self.prng) {
            let start = usize::try_from(sector - first).expect("a part of it") * SECTOR;
            let place = start + self.prng.index(SECTOR);
            buffer.as_mut()[place] ^= 1 << self.prng.below(8);
            // A replica that has seen damage does not look again.
            self.hurt(sector * SECTOR as u64);
            scheduler.fault(self.replica, Fault::ReadCorrupted, offset, place as u64);
        }
        self.hide_unreadable(first, buffer)
    }

    fn carry_out_write(&mut self, scheduler: &mut Scheduler, offset: u64, bytes: &[u8]) {
        let replica = self.replica;
        scheduler.trace.mix(offset);
        scheduler.trace.mix(u64::from(crc32c::crc32c(bytes)));
        if self.may_damage_all(offset, bytes.len()) {
            if self.options.write_lost.happens(&mut self.prng) {
                self.hurt_all(offset, bytes.len());
                return scheduler.fault(replica, Fault::WriteLost, offset, bytes.len() as u64);
            }
            if self.options.write_misdirected.happens(&mut self.prng)
                && let Some(target) = self.misdirect(offset)
            {
                scheduler.fault(replica, Fault::WriteMisdirected, offset, target);
                self.hurt(offset);
                self.hurt(target);
                return self.store(target, bytes);
            }
        }
        self.store(offset, bytes);
        if let Place::Prepare { slot } = self.place(offset) {
            self.hurt_prepares.remove(&slot);
        }
        let sector = offset / SECTOR as u64 + self.prng.below((bytes.len() / SECTOR) as u64);
        if self.may_damage(sector * SECTOR as u64, false) {
            if self.options.write_corrupt.happens(&mut self.prng) {
                self.flip(sector);
                scheduler.fault(replica, Fault::WriteCorrupted, offset, sector);
                self.note_superblock(scheduler, offset);
            }
            if self.options.unreadable.happens(&mut self.prng) {
                self.make_unreadable(scheduler, sector);
                self.note_superblock(scheduler, offset);
            }
        }
    }

    /// Damage at rest.
    pub(crate) fn rot(&mut self, scheduler: &mut Scheduler) {
        if self.is_healed || !self.options.rot.happens(&mut self.prng) {
            return;
        }
        for _ in 0..self.prng.range_inclusive(1, 8) {
            let slots = (self.slots_used + 4).min(self.layout.geometry.journal_slots);
            let slot = u32::try_from(self.prng.below(u64::from(slots))).expect("a slot");
            let grid = self.layout.grid_offset();
            let grid_size = self.size() - grid;
            let offset = match (self.prng.below(8), self.superblock_copy) {
                (0, Some(copy)) => self.layout.superblock_offset(copy),
                (1 | 2, _) => self.layout.headers_offset(slot / HEADERS_PER_SECTOR),
                (3, _) if grid_size > 0 => {
                    grid + self.prng.below(grid_size / SECTOR as u64) * SECTOR as u64
                }
                _ => self.layout.prepare_offset(slot),
            };
            if self.may_damage(offset, false) {
                // Mostly where there are bytes: the first sector.
                let sector = offset / SECTOR as u64;
                if self.prng.below(4) == 0 {
                    self.make_unreadable(scheduler, sector);
                } else {
                    self.flip(sector);
                    scheduler.fault(self.replica, Fault::SectorRotten, sector, 0);
                }
                self.note_superblock(scheduler, offset);
            }
        }
    }

    /// The process has died: what is in flight is done in part.
    pub(crate) fn crash(&mut self, scheduler: &mut Scheduler) {
        for (_, operation) in std::mem::take(&mut self.in_flight).into_values() {
            let Operation::Write { offset, sectors } = operation else { continue };
            let count = sectors.len() / SECTOR;
            let is_whole = self.options.whole_at_crash.happens(&mut self.prng);
            let all = self.prng.below(2) == 0;
            let mut stored = 0;
            for (index, sector) in sectors.chunks(SECTOR).enumerate() {
                let survives = if is_whole { all } else { self.prng.below(2) == 0 };
                if survives {
                    self.store(offset + (index * SECTOR) as u64, sector);
                    stored += 1;
                }
            }
            if stored == 0 {
                scheduler.fault(self.replica, Fault::WriteUndone, offset, count as u64);
            } else if stored < count {
                scheduler.fault(self.replica, Fault::WriteTorn, offset, stored as u64);
            }
        }
    }

    // ---- sectors

    /// What lies in the slot of `op`.
    pub(crate) fn slot_of(&self, op: Op) -> SlotOnDisk {
        SlotOnDisk { prepare: self.prepare_of(op), header: self.header_of(op) }
    }

    /// Whom the redundant header in the slot of `op` is of.
    fn header_of(&self, op: Op) -> Option<PrepareId> {
        let slot = self.layout.geometry.slot(op);
        let mut buffer = AlignedBuffer::zeroed(SECTOR_SIZE);
        let offset = self.layout.headers_offset(slot / HEADERS_PER_SECTOR);
        self.load(offset / SECTOR as u64, &mut buffer);
        let (entries, _) = buffer.as_ref().as_chunks::<{ HEADER_SIZE as usize }>();
        let entry = &entries[(slot % HEADERS_PER_SECTOR) as usize];
        Some(Header::<Prepare>::decode_prepare(entry).ok()?.id())
    }

    /// The prepare that lies whole in the slot of `op`.
    fn prepare_of(&self, op: Op) -> Option<PrepareId> {
        let message_size = self.layout.geometry.message_size;
        let first = self.layout.prepare_offset(self.layout.geometry.slot(op)) / SECTOR as u64;
        let mut buffer = AlignedBuffer::zeroed(SECTOR_SIZE);
        self.load(first, &mut buffer);
        let header: &[u8; HEADER_SIZE as usize] = buffer.as_ref().first_chunk().expect("a sector");
        let size = Header::<Prepare>::decode_prepare(header).ok()?.size;
        if size > message_size {
            return None;
        }
        if size > SECTOR_SIZE {
            buffer = AlignedBuffer::zeroed(size.next_multiple_of(SECTOR_SIZE));
            self.load(first, &mut buffer);
        }
        let bytes = &buffer.as_ref()[..size as usize];
        let message = Message::decode(Bytes::copy_from_slice(bytes)).ok()?;
        Some(message.prepare_header().id())
    }

    /// Fills in what is there, between zeros that are there already.
    fn load(&self, first: u64, buffer: &mut AlignedBuffer) {
        let first = usize::try_from(first).expect("a sector");
        let count = buffer.len() / SECTOR;
        for (index, sector) in self.sectors[first..first + count].iter().enumerate() {
            if let Some(sector) = sector {
                buffer.put(index * SECTOR, sector);
            }
        }
    }

    fn store(&mut self, offset: u64, bytes: &[u8]) {
        match self.place(offset) {
            Place::Headers { chunk } => {
                for (chunk, sector) in (chunk..).zip(bytes.chunks(SECTOR)) {
                    self.note_headers(chunk, sector);
                }
            }
            Place::Grid { block } if !self.hurt_blocks.is_empty() => {
                // Of a block of many sectors that a crash cut short nobody has a reference yet.
                let count = bytes.len().div_ceil(self.layout.geometry.block_size as usize);
                for (block, _) in (block..).zip(0..count) {
                    self.hurt_blocks.remove(&block);
                }
            }
            _ => {}
        }
        let first = usize::try_from(offset).expect("some MiB") / SECTOR;
        for (index, chunk) in (first..).zip(bytes.chunks(SECTOR)) {
            if !self.unreadable.is_empty() {
                self.unreadable.remove(&(index as u64));
            }
            let content = without_zeros(chunk);
            self.sectors[index] = (!content.is_empty()).then(|| content.into());
        }
    }

    fn flip(&mut self, sector: u64) {
        let byte = self.prng.index(SECTOR);
        let bit = self.prng.below(8);
        self.hurt(sector * SECTOR as u64);
        let place = &mut self.sectors[usize::try_from(sector).expect("a sector")];
        // Where there is content, it is hit: half of the flips are within the first header.
        let byte = if bit.is_multiple_of(2) { byte % 128 } else { byte };
        let mut content = place.as_deref().unwrap_or_default().to_vec();
        content.resize(content.len().max(byte + 1), 0);
        content[byte] ^= 1 << bit;
        *place = Some(content.into());
    }

    fn make_unreadable(&mut self, scheduler: &mut Scheduler, sector: u64) {
        self.unreadable.insert(sector);
        self.hurt(sector * SECTOR as u64);
        scheduler.fault(self.replica, Fault::SectorUnreadable, sector, 0);
    }

    /// Notes that what lies at `offset` is damaged.
    fn hurt(&mut self, offset: u64) {
        match self.place(offset) {
            Place::Superblock { .. } => {}
            Place::Headers { chunk } => {
                let first = chunk * HEADERS_PER_SECTOR;
                self.hurt_headers.extend(first..first + HEADERS_PER_SECTOR);
            }
            Place::Prepare { slot } => {
                self.hurt_prepares.insert(slot);
            }
            Place::Grid { block } => {
                self.hurt_blocks.insert(block);
                self.has_hurt_block = true;
            }
        }
    }

    /// Notes that all of a write is damaged.
    fn hurt_all(&mut self, offset: u64, size: usize) {
        self.hurt(offset);
        if let Place::Grid { .. } = self.place(offset) {
            (0..size).step_by(SECTOR).for_each(|at| self.hurt(offset + at as u64));
        }
    }

    /// Notes which headers a sector of them, which was written well, knows.
    fn note_headers(&mut self, chunk: u32, sector: &[u8]) {
        assert_eq!(sector.len(), SECTOR);
        let entries = sector.chunks_exact(SECTOR / HEADERS_PER_SECTOR as usize);
        for (slot, entry) in (chunk * HEADERS_PER_SECTOR..).zip(entries) {
            if &entry[24..32] == b"vsr mark" && entry[44..48] == MARKER_INVALIDATED {
                self.hurt_headers.insert(slot);
            } else {
                self.hurt_headers.remove(&slot);
            }
        }
    }

    /// Whether the prepare of `slot` was damaged and not written anew since.
    pub(crate) fn is_prepare_hurt(&self, slot: u32) -> bool {
        self.hurt_prepares.contains(&slot)
    }

    /// Whether the header or the prepare of `slot` was damaged and not written anew since.
    pub(crate) fn is_hurt(&self, slot: u32) -> bool {
        self.hurt_prepares.contains(&slot) || self.hurt_headers.contains(&slot)
    }

    /// How many blocks of a checkpoint lie here, without those that were damaged and not written
    /// anew since, and what is beneath them.
    ///
    /// # Errors
    /// A block that is not there, though nothing has damaged it.
    pub(crate) fn survey(&self, cluster: ClusterId, root: BlockRef) -> Result<u64, String> {
        let (sound, faults) = self.survey_faults(cluster, root);
        let is_unexplained =
            |fault: &&survey::Fault| !self.hurt_blocks.contains(&fault.reference.index);
        match faults.iter().find(is_unexplained) {
            None => Ok(sound),
            Some(fault) => Err(format!("block {:?}: {}", fault.reference, fault.what)),
        }
    }

    /// How many blocks of a checkpoint are sound, and what is wrong with the others.
    fn survey_faults(&self, cluster: ClusterId, root: BlockRef) -> (u64, Vec<survey::Fault>) {
        let mut survey = self.begin_survey(cluster, root);
        while let Some(request) = survey.next_read() {
            survey.on_read_done(self.read_block(request));
        }
        (survey.blocks_sound_all(), survey.take_faults())
    }

    fn begin_survey(&self, cluster: ClusterId, root: BlockRef) -> CheckpointSurvey<'static> {
        let geometry = self.layout.geometry;
        CheckpointSurvey::new(cluster, geometry, self.size(), root, BlockRef::NONE)
    }

    /// The block that a survey asks for, as it lies here.
    fn read_block(&self, request: Request) -> ReadResult {
        let Request::Read { offset, size, .. } = request else {
            unreachable!("a survey changes nothing");
        };
        let mut buffer = AlignedBuffer::zeroed(size);
        self.load(offset / SECTOR as u64, &mut buffer);
        ReadResult { buffer, unreadable: Vec::new() }
    }

    /// Whether each block of a checkpoint lies intact here or on one of `others`: that nothing has
    /// damaged it since it was written.
    pub(crate) fn is_repairable(
        &self,
        cluster: ClusterId,
        root: BlockRef,
        others: &[&Self],
    ) -> bool {
        // By block: whose is taken in place of the own one. Each round sees deeper.
        let mut taken: BTreeMap<u32, &Self> = BTreeMap::new();
        loop {
            let mut survey = self.begin_survey(cluster, root);
            while let Some(request) = survey.next_read() {
                let Request::Read { token: Token::Scan { id }, offset, .. } = request else {
                    unreachable!("a survey reads blocks");
                };
                let disk = taken.get(&id).copied().unwrap_or(self);
                let is_there = !disk.hurt_blocks.contains(&id) && offset < disk.size();
                let read = disk.read_block(request);
                let unreadable = (!is_there).then_some(0..SECTOR_SIZE).into_iter().collect();
                survey.on_read_done(ReadResult { unreadable, ..read });
            }
            let faults = survey.take_faults();
            if faults.is_empty() {
                return true;
            }
            for fault in faults {
                let has = |disk: &&&Self| disk.has_block(cluster, &fault.reference);
                let Some(other) = others.iter().find(has) else { return false };
                if taken.insert(fault.reference.index, other).is_some() {
                    return false;
                }
            }
        }
    }

    /// Whether a block lies here that nothing has damaged.
    fn has_block(&self, cluster: ClusterId, reference: &BlockRef) -> bool {
        let at = u64::from(reference.index) * u64::from(self.layout.geometry.block_size);
        let offset = self.layout.grid_offset() + at;
        if offset >= self.size() || self.hurt_blocks.contains(&reference.index) {
            return false;
        }
        let mut buffer = AlignedBuffer::zeroed(self.layout.geometry.block_size);
        self.load(offset / SECTOR as u64, &mut buffer);
        let read = ReadResult { buffer, unreadable: Vec::new() };
        StoredBlock::decode_read(cluster, reference, read).is_ok()
    }

    /// Whether a block was damaged, ever.
    pub(crate) fn has_hurt_block(&self) -> bool {
        self.has_hurt_block
    }

    /// Zeroes what cannot be read, and lists it.
    fn hide_unreadable(&self, first: u64, buffer: &mut AlignedBuffer) -> Vec<Range<u32>> {
        let count = (buffer.len() / SECTOR) as u64;
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for sector in self.unreadable.range(first..first + count) {
            let start = u32::try_from((sector - first) * SECTOR as u64).expect("a message");
            let end = start + SECTOR_SIZE;
            buffer.as_mut()[start as usize..end as usize].fill(0);
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        ranges
    }

    // ---- the atlas

    fn place(&self, offset: u64) -> Place {
        let (headers, prepares) = (self.layout.headers_offset(0), self.layout.prepare_offset(0));
        let small = |number: u64| u32::try_from(number).expect("a place in the file");
        if offset < headers {
            let copy = offset / u64::from(SUPERBLOCK_COPY_SIZE);
            Place::Superblock { copy: u8::try_from(copy).expect("one of four") }
        } else if offset < prepares {
            Place::Headers { chunk: small((offset - headers) / SECTOR as u64) }
        } else if offset >= self.layout.grid_offset() {
            let start = self.layout.grid_offset();
            let block_size = u64::from(self.layout.geometry.block_size);
            Place::Grid { block: small((offset - start) / block_size) }
        } else {
            let slot = (offset - prepares) / u64::from(self.layout.geometry.message_size);
            Place::Prepare { slot: small(slot) }
        }
    }

    /// Whether what lies at `offset` may be damaged; with `is_lie`, in a way that leaves no trace
    /// there: a write that was lost, or went elsewhere.
    fn may_damage(&self, offset: u64, is_lie: bool) -> bool {
        if self.is_healed || self.is_new {
            return false;
        }
        match self.place(offset) {
            Place::Superblock { copy } => self.superblock_copy == Some(copy),
            Place::Headers { chunk } => match self.chunks[chunk as usize] {
                Damage::Headers => true,
                Damage::Both => !is_lie,
                Damage::Nothing | Damage::Prepares => false,
            },
            Place::Prepare { slot } => match self.chunks[(slot / HEADERS_PER_SECTOR) as usize] {
                Damage::Prepares => true,
                Damage::Both => !is_lie,
                Damage::Nothing | Damage::Headers => false,
            },
            Place::Grid { block } => self.regions[(block / REGION_BLOCKS % REGIONS) as usize],
        }
    }

    /// Whether a write may be lost, or go elsewhere, all of it.
    fn may_damage_all(&self, offset: u64, size: usize) -> bool {
        let is_grid = matches!(self.place(offset), Place::Grid { .. });
        let size = if is_grid { size } else { 1 };
        (0..size).step_by(SECTOR).all(|at| self.may_damage(offset + at as u64, true))
    }

    /// Where a write may go instead: only prepares go astray, to slots whose prepares may be lost.
    fn misdirect(&mut self, offset: u64) -> Option<u64> {
        let Place::Prepare { slot } = self.place(offset) else { return None };
        let reach = (self.slots_used + 1).min(self.layout.geometry.journal_slots);
        let first = u32::try_from(self.prng.below(u64::from(reach))).expect("a slot");
        // The first from there on that may be lost.
        let targets = (first..reach).chain(0..first).filter(|target| *target != slot);
        targets
            .map(|target| self.layout.prepare_offset(target))
            .find(|target| self.may_damage(*target, true))
    }

    fn note_superblock(&self, scheduler: &mut Scheduler, offset: u64) {
        if let Place::Superblock { copy } = self.place(offset) {
            scheduler.fault(self.replica, Fault::SuperblockDamaged, u64::from(copy), 0);
        }
    }
}

/// `bytes` up to about the last that is not zero.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    const STEP: usize = 64;
    let zeros = bytes.rchunks(STEP).take_while(|chunk| **chunk == [0; STEP][..chunk.len()]).count();
    &bytes[..bytes.len().saturating_sub(zeros * STEP)]
}
