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
        if block_size > message_size {
            return Some(format!(
                "block size {block_size}: a block travels in a message, so at most the message \
                 size, {message_size}"
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

#[cfg(test)]
mod tests {
    //! Every small geometry, and in each every op, commit number and checkpoint of four laps of
    //! the ring, against what `docs/data_file.md` says of them.

    use super::*;
    use crate::wire::Op;

    /// Geometries too small to be formatted, which have the same arithmetic.
    fn geometries() -> impl Iterator<Item = Geometry> {
        let slots = (8..=64).step_by(2);
        slots.flat_map(|journal_slots| {
            (1..=journal_slots / 8).map(move |pipeline| Geometry {
                journal_slots,
                pipeline,
                ..Geometry::default()
            })
        })
    }

    /// The ops of four laps.
    fn ops(geometry: &Geometry) -> std::ops::RangeInclusive<Op> {
        0..=4 * u64::from(geometry.journal_slots)
    }

    fn checkpoints(geometry: &Geometry) -> impl Iterator<Item = Op> + use<> {
        ops(geometry).step_by(usize::try_from(geometry.checkpoint_interval()).unwrap())
    }

    /// The newest checkpoint that is proven, by search.
    fn newest_proven(geometry: &Geometry, commit: Op) -> Op {
        checkpoints(geometry).filter(|op| geometry.is_proven(*op, commit)).max().unwrap()
    }

    #[test]
    fn the_one_inequality_holds_and_is_sharp() {
        let mut count = 0;
        for geometry in geometries() {
            let (interval, window) =
                (geometry.checkpoint_interval(), geometry.write_behind_window());
            let Geometry { journal_slots, pipeline, .. } = geometry;
            assert_eq!(u64::from(journal_slots), interval + window + u64::from(pipeline));
            for op in checkpoints(&geometry) {
                assert_eq!(geometry.op_prepare_max(op), op + u64::from(journal_slots));
                assert_eq!(geometry.op_prepare_ok_max(op), op + interval + window);
                assert_eq!(geometry.is_checkpoint(op), op > 0);
            }
            let expected = ops(&geometry).filter(|op| op % interval == 0).skip(1);
            assert!(expected.eq(ops(&geometry).filter(|op| geometry.is_checkpoint(*op))));
            count += 1;
        }
        assert_eq!(count, 120);
    }

    /// (1): proven is what every acknowledgement of the op needs, neither more nor less.
    #[test]
    fn a_checkpoint_is_proven_by_what_cannot_be_acknowledged_without_it() {
        for geometry in geometries() {
            for op in checkpoints(&geometry) {
                for commit in ops(&geometry) {
                    let needs_it = checkpoints(&geometry)
                        .filter(|own| commit <= geometry.op_prepare_ok_max(*own))
                        .all(|own| own >= op);
                    assert_eq!(
                        geometry.is_proven(op, commit),
                        op == 0 || needs_it,
                        "{op} {commit}: {geometry:?}"
                    );
                    if geometry.is_proven(op, commit) {
                        assert!(op <= commit && geometry.is_proven(op, commit + 1));
                    }
                }
            }
        }
    }

    /// (2): a slot is written over only when its op is in a proven checkpoint, and in the own.
    #[test]
    fn a_slot_is_not_overwritten_before_its_op_is_in_a_proven_checkpoint() {
        let mut sharp = 0;
        for geometry in geometries() {
            let (slots, pipeline) =
                (u64::from(geometry.journal_slots), u64::from(geometry.pipeline));
            for commit in ops(&geometry) {
                // The primary prepares up to here.
                for op in slots + 1..=commit + pipeline {
                    let overwritten = op - slots;
                    assert_eq!(geometry.slot(op), geometry.slot(overwritten));
                    assert!(newest_proven(&geometry, commit) >= overwritten, "{op} {commit}");
                    for own in checkpoints(&geometry) {
                        assert!(op > geometry.op_prepare_max(own) || overwritten <= own);
                    }
                }
                // With a window one op longer, some op would be overwritten unproven.
                let window = geometry.write_behind_window() + 1;
                let op_max = commit + pipeline;
                let is_covered = |own: &Op| commit > *own + window || *own == 0;
                let newest = checkpoints(&geometry).filter(is_covered).max().unwrap();
                sharp += u64::from(op_max > slots && newest < op_max - slots);
            }
        }
        assert!(sharp > 100, "{sharp}");
    }

    /// (3): what C had and C' has not is given out from the freeze of C'' on: then C' is proven,
    /// so nobody takes over C any more, and whoever has C' as its own does not go back.
    #[test]
    fn a_block_is_not_used_again_before_the_checkpoint_that_let_go_of_it_is_proven() {
        for geometry in geometries() {
            let interval = geometry.checkpoint_interval();
            for released_by in checkpoints(&geometry).filter(|op| *op > 0) {
                let frozen = released_by + interval;
                // What is executed is committed.
                for commit in frozen..frozen + 2 * interval {
                    assert!(geometry.is_proven(released_by, commit), "{released_by} {commit}");
                    assert!(newest_proven(&geometry, commit) >= released_by);
                }
                // A freeze earlier it need not be.
                assert!(!geometry.is_proven(released_by, released_by));
            }
        }
    }

    /// (4): whoever prepares or acknowledges an op has the checkpoint that it names.
    #[test]
    fn the_checkpoint_that_a_prepare_names_is_known_to_all_who_have_room_for_it() {
        for geometry in geometries() {
            let interval = geometry.checkpoint_interval();
            for op in ops(&geometry).skip(1) {
                let named = checkpoints(&geometry).filter(|own| own + interval < op).max();
                let named = named.unwrap_or(0);
                assert_eq!(geometry.checkpoint_named_by(op), named, "{op}: {geometry:?}");
                for own in checkpoints(&geometry) {
                    if op <= geometry.op_prepare_max(own) {
                        assert!(own >= named, "{own} {named}");
                    }
                    // And not one that it has let go of: it keeps two.
                    if op > own {
                        assert!(named + interval >= own, "{own} {named}");
                    }
                }
            }
        }
    }

    /// State sync: of the two checkpoints that a replica keeps one is proven, with the log after
    /// it still in the ring; and whoever takes it over has room for the head.
    #[test]
    fn one_of_two_checkpoints_is_proven_and_the_log_above_it_is_in_the_ring() {
        for geometry in geometries() {
            let (interval, pipeline) =
                (geometry.checkpoint_interval(), u64::from(geometry.pipeline));
            for own in checkpoints(&geometry) {
                let previous = own.saturating_sub(interval);
                for commit in own..=geometry.op_prepare_ok_max(own) {
                    let is_proven = |op| geometry.is_proven(op, commit);
                    let offered = if is_proven(own) { own } else { previous };
                    assert!(is_proven(offered), "{own} {commit}: {geometry:?}");
                    let head = (commit + pipeline).min(geometry.op_prepare_max(own));
                    assert!(head <= geometry.op_prepare_max(offered), "{head} {offered}");
                }
            }
        }
    }

    /// The log reaches the next checkpoint, also while none is durable beyond the last.
    #[test]
    fn the_log_has_room_to_the_next_checkpoint() {
        for geometry in geometries() {
            let interval = geometry.checkpoint_interval();
            for own in checkpoints(&geometry) {
                let last = geometry.op_prepare_ok_max(own);
                assert!(own + interval < last, "{own}: {geometry:?}");
                // And no op that may be executed is one that ends the interval after it.
                assert!(last < own + 2 * interval, "{own}: {geometry:?}");
            }
        }
    }
}
