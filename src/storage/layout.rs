//! F2: the geometry of a data file, chosen at `format`, and where its zones lie.

use crate::constants::{ENTRY_SIZE, HEADER_SIZE, HEADERS_PER_SECTOR, PIPELINE_MAX, SECTOR_SIZE};
use crate::stdx::defect;

/// What all replicas of a cluster must have in common, chosen at `format`, compared in `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// The largest message with its header, bytes: 4 KiB to 16 MiB, whole sectors.
    pub message_size: u32,
    /// Slots in the journal, S: 64 to 1 Mi, a multiple of 64.
    pub journal_slots: u32,
    /// The size of a grid block, bytes: 4 to 64 KiB, a power of two.
    pub block_size: u32,
    /// Prepares in flight, P: 1 to 32, at most an eighth of the slots.
    pub pipeline: u32,
    /// Client sessions: 1 to 65,536.
    pub clients_max: u32,
}

impl Default for Geometry {
    fn default() -> Self {
        Self {
            message_size: 1 << 20,
            journal_slots: 1024,
            block_size: 4096,
            pipeline: 8,
            clients_max: 4096,
        }
    }
}

impl Geometry {
    /// Why this geometry is refused, naming the field and the bounds; `None` for a valid one.
    pub fn invalid(&self) -> Option<String> {
        let Self { message_size, journal_slots, block_size, pipeline, clients_max } = *self;
        if !(4096..=16 << 20).contains(&message_size) || !message_size.is_multiple_of(SECTOR_SIZE) {
            return Some(format!(
                "message size {message_size}: must be 4096 to 16777216 and whole sectors of 4096"
            ));
        }
        if !(64..=1 << 20).contains(&journal_slots) || !journal_slots.is_multiple_of(64) {
            return Some(format!(
                "journal slots {journal_slots}: must be 64 to 1048576 and a multiple of 64"
            ));
        }
        if !(4096..=65536).contains(&block_size) || !block_size.is_power_of_two() {
            return Some(format!(
                "block size {block_size}: must be 4096, 8192, 16384, 32768 or 65536"
            ));
        }
        if !(1..=PIPELINE_MAX).contains(&pipeline) || pipeline > journal_slots / 8 {
            return Some(format!(
                "pipeline {pipeline}: must be 1 to {PIPELINE_MAX} and at most an eighth of the \
                 {journal_slots} journal slots"
            ));
        }
        // A do_view_change carries the table and a header for each prepare in flight and one more.
        if (pipeline + 3) * HEADER_SIZE > message_size {
            return Some(format!(
                "pipeline {pipeline}: its headers do not fit a message of {message_size} bytes"
            ));
        }
        if !(1..=65536).contains(&clients_max) {
            return Some(format!("clients {clients_max}: must be 1 to 65536"));
        }
        None
    }

    /// The largest body of a request, in bytes.
    pub fn request_size_max(&self) -> u32 {
        self.message_size - HEADER_SIZE - ENTRY_SIZE
    }

    /// The slot of an op.
    pub fn slot(&self, op: crate::wire::Op) -> u32 {
        u32::try_from(op % u64::from(self.journal_slots)).expect("below a u32")
    }

    /// Ops between two checkpoints, I = S/2.
    pub fn checkpoint_interval(&self) -> u64 {
        u64::from(self.journal_slots) / 2
    }

    /// How far the log may go on while a checkpoint is written behind, X = I − P.
    pub fn write_behind_window(&self) -> u64 {
        self.checkpoint_interval() - u64::from(self.pipeline)
    }

    /// Whether the state is frozen when `op` has been executed.
    pub fn is_checkpoint(&self, op: crate::wire::Op) -> bool {
        op > 0 && op.is_multiple_of(self.checkpoint_interval())
    }

    /// Whether, with `commit_max` committed, the checkpoint of `op` is complete on a replication
    /// quorum: nobody acknowledges an op above K + X without the checkpoint of K.
    pub fn is_proven(&self, op: crate::wire::Op, commit_max: crate::wire::Op) -> bool {
        assert!(op.is_multiple_of(self.checkpoint_interval()));
        op == 0 || commit_max > op + self.write_behind_window() || defect!("sync_unproven")
    }

    /// The checkpoint whose id the prepare of `op` carries: of the largest k·I with k·I + I < op.
    pub fn checkpoint_named_by(&self, op: crate::wire::Op) -> crate::wire::Op {
        assert!(op > 0);
        let interval = self.checkpoint_interval();
        ((op - 1) / interval).saturating_sub(1) * interval
    }

    /// The highest op that may be written to the journal on top of checkpoint `op_checkpoint`.
    pub fn op_prepare_max(&self, op_checkpoint: crate::wire::Op) -> crate::wire::Op {
        op_checkpoint + u64::from(self.journal_slots)
    }

    /// The highest op that may be acknowledged on top of checkpoint `op_checkpoint`: C + S − P.
    pub fn op_prepare_ok_max(&self, op_checkpoint: crate::wire::Op) -> crate::wire::Op {
        self.op_prepare_max(op_checkpoint) - u64::from(self.pipeline)
    }
}

/// Where the zones lie, in bytes from the start of the file.
///
/// ```text
/// 0              superblock_size     + S/32 sectors        + S * message_size
/// +--------------+-------------------+---------------------+--------
/// | superblock   | wal headers       | wal prepares        | grid …
/// +--------------+-------------------+---------------------+--------
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// The geometry it follows from.
    pub geometry: Geometry,
}

/// The size of one copy of the superblock, in bytes.
pub const SUPERBLOCK_COPY_SIZE: u32 = 16 * 1024;
/// Copies of the superblock.
pub const SUPERBLOCK_COPIES: u8 = 4;

impl Layout {
    /// The layout of a valid geometry.
    pub fn new(geometry: Geometry) -> Self {
        assert_eq!(geometry.invalid(), None);
        Self { geometry }
    }

    /// Of copy `copy` of the superblock.
    pub fn superblock_offset(&self, copy: u8) -> u64 {
        assert!(copy < SUPERBLOCK_COPIES);
        u64::from(SUPERBLOCK_COPY_SIZE) * u64::from(copy)
    }

    /// Of sector `sector` of the headers ring.
    pub fn headers_offset(&self, sector: u32) -> u64 {
        assert!(sector < self.header_sectors());
        u64::from(SUPERBLOCK_COPY_SIZE) * u64::from(SUPERBLOCK_COPIES)
            + u64::from(sector) * u64::from(SECTOR_SIZE)
    }

    /// Sectors in the headers ring.
    pub fn header_sectors(&self) -> u32 {
        self.geometry.journal_slots / HEADERS_PER_SECTOR
    }

    /// Of slot `slot` of the prepares ring.
    pub fn prepare_offset(&self, slot: u32) -> u64 {
        assert!(slot < self.geometry.journal_slots);
        self.headers_offset(0)
            + u64::from(self.header_sectors()) * u64::from(SECTOR_SIZE)
            + u64::from(slot) * u64::from(self.geometry.message_size)
    }

    /// The first byte of the grid, which is also the size of a freshly formatted file.
    pub fn grid_offset(&self) -> u64 {
        self.prepare_offset(0)
            + u64::from(self.geometry.journal_slots) * u64::from(self.geometry.message_size)
    }
}
