//! What scenarios do to a disk: named damage at named places, and crashes that leave exactly what
//! they say.
//!
//! **Invariants:** nothing is drawn: the same call leaves the same bytes.

use super::{Disk, Operation, Place, SECTOR};
use crate::sim::random::{Delay, Ppm};
use vsr::storage::Geometry;
use vsr::wire::{BlockRef, ClusterId, Op};

/// All sectors of a disk.
pub(crate) type Image = Vec<Option<std::rc::Rc<[u8]>>>;

/// What of the writes in flight a crash leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Survives {
    /// All of them.
    All,
    /// None of them.
    Nothing,
    /// Of writes of prepares all but the first sector; of others nothing.
    PrepareTails,
    /// Prepares, but not their redundant headers, nor the superblock.
    Prepares,
    /// Of the copies of the superblock in flight only the second half; all else.
    SuperblockTails,
}

/// What is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    /// The first sector of the prepare's slot.
    Prepare(Op),
    /// The body of the prepare alone.
    Body(Op),
    /// The redundant header.
    Header(Op),
    /// The whole sector of the headers ring with the redundant header.
    HeaderSector(Op),
    /// A copy of the superblock.
    Superblock(u8),
    /// Every block that was ever written.
    Blocks,
    /// The blocks whose number leaves this rest when it is divided by three.
    BlocksThird(u32),
}

impl Disk {
    /// How long reads and writes take from now on, ns.
    pub(crate) fn set_latency(&mut self, read: u64, write: u64) {
        self.options.read = Delay { min: read, mean: 0 };
        self.options.write = Delay { min: write, mean: 0 };
    }

    /// How long reads take from now on, ns; writes as before.
    pub(crate) fn set_read_latency(&mut self, read: u64) {
        self.options.read = Delay { min: read, mean: 0 };
    }

    fn geometry(&self) -> &Geometry {
        &self.layout.geometry
    }

    fn offset(&self, target: Target) -> u64 {
        let per_sector = vsr::constants::HEADERS_PER_SECTOR;
        match target {
            Target::Prepare(op) => self.layout.prepare_offset(self.geometry().slot(op)),
            Target::Body(op) => {
                self.offset(Target::Prepare(op)) + u64::from(vsr::constants::HEADER_SIZE)
            }
            Target::HeaderSector(op) => {
                self.layout.headers_offset(self.geometry().slot(op) / per_sector)
            }
            Target::Header(op) => {
                let slot = self.geometry().slot(op);
                let entry = u64::from(slot % per_sector) * u64::from(vsr::constants::HEADER_SIZE);
                self.layout.headers_offset(slot / per_sector) + entry
            }
            Target::Superblock(copy) => self.layout.superblock_offset(copy),
            Target::Blocks | Target::BlocksThird(_) => self.layout.grid_offset(),
        }
    }

    /// Damages what lies there: some bits are others, in each header of a whole sector.
    pub(crate) fn corrupt(&mut self, target: Target) {
        match target {
            Target::Blocks => return self.corrupt_blocks(|_| true),
            Target::BlocksThird(rest) => return self.corrupt_blocks(|block| block % 3 == rest),
            _ => {}
        }
        self.hurt(self.offset(target));
        let offset = usize::try_from(self.offset(target)).expect("some MiB");
        let place = &mut self.sectors[offset / SECTOR];
        let mut sector = [0; SECTOR];
        if let Some(stored) = place {
            sector[..stored.len()].copy_from_slice(stored);
        }
        match target {
            Target::HeaderSector(_) => {
                sector.iter_mut().step_by(64).for_each(|byte| *byte ^= 0x55);
            }
            _ => sector[offset % SECTOR + 17] ^= 0x55,
        }
        *place = Some(sector.as_slice().into());
    }

    fn corrupt_blocks(&mut self, is_hit: impl Fn(u32) -> bool) {
        let first = usize::try_from(self.layout.grid_offset()).expect("some MiB") / SECTOR;
        for at in first..self.sectors.len() {
            let block = u32::try_from(at - first).expect("a few");
            let Some(place) = self.sectors[at].as_mut().filter(|_| is_hit(block)) else { continue };
            let mut sector = place.to_vec();
            sector[17] ^= 0x55;
            *place = sector.into();
            self.hurt((at * SECTOR) as u64);
        }
    }

    /// Whether all blocks of a checkpoint lie here, whatever happened to them.
    pub(crate) fn is_whole(&self, cluster: ClusterId, root: BlockRef) -> bool {
        self.survey_faults(cluster, root).1.is_empty()
    }

    /// It can no longer be read.
    pub(crate) fn lose_sector(&mut self, target: Target) {
        let offset = self.offset(target);
        self.hurt(offset);
        self.unreadable.insert(offset / SECTOR as u64);
    }

    /// Another disk, of zeros, is in its place.
    pub(crate) fn erase(&mut self) {
        assert!(self.in_flight.is_empty(), "of a process that is dead");
        self.sectors.fill(None);
        self.unreadable.clear();
        self.hurt_prepares.clear();
        self.hurt_headers.clear();
        self.hurt_blocks.clear();
    }

    /// Whether there is room for no write beyond its end.
    pub(crate) fn set_full(&mut self, is_full: bool) {
        self.options.full = Ppm(if is_full { 1_000_000 } else { 0 });
    }

    /// All sectors as they are.
    pub(crate) fn image(&self) -> Image {
        self.sectors.clone()
    }

    /// Puts back a file that was lost.
    pub(crate) fn bring_back(&mut self, image: &Image) {
        self.sectors.clone_from(image);
        self.exists = true;
    }

    /// Puts all sectors back: what was written since was lost.
    pub(crate) fn restore(&mut self, image: &Image) {
        assert!(self.in_flight.is_empty(), "of a process that is dead");
        let places = self.sectors.len().max(image.len());
        let differs = |at: &usize| self.sectors.get(*at) != image.get(*at);
        let lost: Vec<usize> = (0..places).filter(differs).collect();
        lost.into_iter().for_each(|at| self.hurt((at * SECTOR) as u64));
        self.sectors.clone_from(image);
    }

    /// The slot of `op` holds what it held in `image`: its write was lost.
    pub(crate) fn lose_prepare_write(&mut self, op: Op, image: &Image) {
        let range = self.slot_sectors(op);
        self.hurt(self.offset(Target::Prepare(op)));
        self.sectors[range.clone()].clone_from_slice(&image[range]);
    }

    /// The sector with the redundant header of `op` holds what it held: its write was lost.
    pub(crate) fn lose_header_write(&mut self, op: Op, image: &Image) {
        let offset = self.offset(Target::HeaderSector(op));
        self.hurt(offset);
        let at = usize::try_from(offset).expect("some MiB") / SECTOR;
        self.sectors[at].clone_from(&image[at]);
    }

    /// The prepare of `op` lies in the slot of `target`, and its own slot holds what it held in
    /// `image`: its write was misdirected.
    pub(crate) fn misdirect_prepare_write(&mut self, op: Op, target: Op, image: &Image) {
        let (from, to) = (self.slot_sectors(op), self.slot_sectors(target));
        self.hurt(self.offset(Target::Prepare(target)));
        let sectors = self.sectors[from].to_vec();
        self.sectors[to].clone_from_slice(&sectors);
        self.lose_prepare_write(op, image);
    }

    fn slot_sectors(&self, op: Op) -> std::ops::Range<usize> {
        let offset = usize::try_from(self.offset(Target::Prepare(op))).expect("some MiB");
        let first = offset / SECTOR;
        first..first + self.geometry().message_size as usize / SECTOR
    }

    /// How many writes are in flight.
    pub(crate) fn writes_in_flight(&self) -> usize {
        let is_write = |operation: &Operation| matches!(operation, Operation::Write { .. });
        self.in_flight.values().filter(|(_, operation)| is_write(operation)).count()
    }

    /// The process is about to die: of what is in flight this much is done, and no more.
    pub(crate) fn settle_in_flight(&mut self, survives: Survives) {
        for (_, operation) in std::mem::take(&mut self.in_flight).into_values() {
            let Operation::Write { offset, sectors } = operation else { continue };
            let place = self.place(offset);
            for (index, sector) in sectors.chunks(SECTOR).enumerate() {
                let is_second_half = index >= sectors.len() / SECTOR / 2;
                let is_kept = match (survives, place) {
                    (Survives::All, _) | (Survives::Prepares, Place::Prepare { .. }) => true,
                    (Survives::PrepareTails, Place::Prepare { .. }) => index > 0,
                    (Survives::SuperblockTails, Place::Superblock { .. }) => is_second_half,
                    (Survives::SuperblockTails, _) => true,
                    _ => false,
                };
                if is_kept {
                    self.store(offset + (index * SECTOR) as u64, sector);
                }
            }
        }
    }
}
