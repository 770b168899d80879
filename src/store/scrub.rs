//! F3: the scrub: reads all blocks of the newest durable checkpoint, lap after lap, to find those
//! that have gone bad while a good copy is to be had elsewhere.
//!
//! ```text
//!   tick ──► credit ──► blocks due ──► walk over C ──► … ──► walk over C', from the same place
//!            used blocks in a day                        │
//!                                          C' is durable ┘
//! ```
//!
//! It is a walk, one block at a time. A block of C is not reused before the freeze of C'', and when
//! C' is durable the scrub goes over to C': it goes down to the place it had come to (`Place`), and
//! on from there. Blocks *on the way* there are read again, as many as the tree has levels, and the
//! value it is in. They do not wait for a turn, nor do inner pages: what is due is a leaf, a part
//! of a value or a chunk of the free set that was not read before. So a lap advances by each block
//! that is due, however many checkpoints come meanwhile.
//!
//! **What a lap sees.** Every block that is in use from its begin to its end: beneath a block that
//! has not changed nothing has, so all it refers to is on the same side of the place as it is, and
//! the way down meets it. Chunks of the free set and parts of values that are younger than the lap
//! are left out; younger pages are not, since they refer to older ones. So a lap reads at most the
//! blocks in use when it began, the pages that were written in its course, each once, and the ways.
//!
//! **How fast.** A lap takes a day: each tick, the share of a tick in a day of the blocks in use,
//! but not less than [`RATE_MIN`] nor more than [`RATE_MAX`]. One read is in flight, so the log has
//! to wait for one block at most.
//!
//! **Invariants:** the place never goes back in a lap; what is due and was not read is bounded.
//!
//! **Not here:** how a bad block is repaired (`grid`). It is noted as missing and not waited for;
//! what is beneath it the next lap sees.

use super::Store;
use super::walk::{Place, Walk};
use crate::constants::TICK_NS;
use crate::storage::Request;

/// Seconds that a lap is to take.
const LAP_SECONDS: u64 = 24 * 60 * 60;
/// Ticks that a lap is to take.
const LAP_TICKS: u64 = LAP_SECONDS * (1_000_000_000 / TICK_NS);
/// Bytes of blocks read in a second at least: a small store has shorter laps.
const RATE_MIN: u64 = 128 * 1024;
/// Bytes of blocks read in a second at most: a large store has longer laps.
const RATE_MAX: u64 = 4 * 1024 * 1024;
/// Blocks that are due at most: what could not be read in time is not made up for.
const DUE_MAX: u64 = 32;
/// Blocks that the scrub finds bad before it waits for their repair.
const MISSING_MAX: usize = 64;

/// When the next block is due.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// In parts of a block, of which there are [`LAP_TICKS`].
    credit: u64,
}

impl Pace {
    /// A tick has passed, with so many blocks in use.
    fn tick(&mut self, blocks_used: u64, block_size: u32) {
        let per_lap = |rate: u64| rate * LAP_SECONDS / u64::from(block_size);
        let blocks = blocks_used.clamp(per_lap(RATE_MIN), per_lap(RATE_MAX));
        self.credit = (self.credit + blocks).min(DUE_MAX * LAP_TICKS);
        assert!(blocks > 0);
    }

    fn is_due(self) -> bool {
        self.credit >= LAP_TICKS
    }

    fn add_one(&mut self) {
        self.credit = (self.credit + LAP_TICKS).min(DUE_MAX * LAP_TICKS);
        assert!(self.is_due());
    }

    fn take_one(&mut self) {
        assert!(self.is_due());
        self.credit -= LAP_TICKS;
    }
}

impl Store {
    /// A tick has passed: scrubs what is due, if there is a checkpoint and nothing is being loaded
    /// or taken over.
    pub fn scrub_tick(&mut self, requests: &mut Vec<Request>) {
        let blocks_used = u64::from(self.tree.free_set.used_count());
        self.pace.tick(blocks_used, self.grid.block_size);
        self.take_scrub_reads(requests);
    }

    /// Scrubs one more block than is due.
    pub fn scrub(&mut self, requests: &mut Vec<Request>) {
        self.pace.add_one();
        self.take_scrub_reads(requests);
    }

    /// Reads on, if the last block has come.
    pub(super) fn take_scrub_reads(&mut self, requests: &mut Vec<Request>) {
        if !self.is_loaded() || self.is_syncing() || self.is_draining || self.checkpoint.is_none() {
            return;
        }
        let mut walk = match self.walk.take() {
            Some(walk) => walk,
            None => self.walk_new(true),
        };
        assert!(walk.is_scrub);
        while walk.outstanding.is_empty() && self.grid.missing().count() < MISSING_MAX {
            let is_due = self.pace.is_due();
            let next = match walk.stack.last() {
                Some(next) => next,
                None if is_due => {
                    walk = self.scrub_lap_done();
                    continue;
                }
                None => break,
            };
            if walk.is_paced(next) {
                if !is_due {
                    break;
                }
                self.pace.take_one();
            }
            self.counters.scrub_blocks_read += 1;
            self.walk_read(&mut walk, requests);
        }
        self.walk = Some(walk);
    }

    /// There is a newer checkpoint to scrub.
    pub(super) fn scrub_restart(&mut self) {
        let Some(old) = self.walk.take() else { return };
        assert!(old.is_scrub, "no checkpoint is written while one is synced");
        let walk = match old.place() {
            None => self.scrub_lap_done(),
            Some(place) => {
                assert!(place >= old.position, "the place never goes back");
                let mut walk = self.walk_new(true);
                (walk.position, walk.op_begin) = (place, old.op_begin);
                walk
            }
        };
        assert!(walk.op_begin <= self.checkpoint.op);
        self.walk = Some(walk);
    }

    fn scrub_lap_done(&mut self) -> Walk {
        self.counters.scrub_laps += 1;
        let walk = self.walk_new(true);
        assert_eq!(walk.position, Place::START);
        walk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lap_takes_a_day_between_the_least_rate_and_the_most() {
        for (block_size, bytes_used, bytes_expected) in [
            (4096, 0, RATE_MIN * LAP_SECONDS),
            (65536, 1 << 30, RATE_MIN * LAP_SECONDS),
            (4096, 100 << 30, 100 << 30),
            (16384, 200 << 30, 200 << 30),
            (4096, 1 << 40, RATE_MAX * LAP_SECONDS),
        ] {
            let mut pace = Pace::default();
            let mut blocks = 0;
            let (mut ticks_most, ticks) = (0, LAP_TICKS / 100);
            for _ in 0..ticks {
                pace.tick(bytes_used / u64::from(block_size), block_size);
                let before = blocks;
                while pace.is_due() {
                    pace.take_one();
                    blocks += 1;
                }
                ticks_most = ticks_most.max(blocks - before);
            }
            let bytes = blocks * u64::from(block_size);
            let expected = bytes_expected / 100;
            assert!(bytes.abs_diff(expected) <= u64::from(block_size), "{bytes} and {expected}");
            assert!(ticks_most * u64::from(block_size) <= RATE_MAX / 100 + u64::from(block_size));
        }
    }

    #[test]
    fn what_is_due_is_bounded() {
        let mut pace = Pace::default();
        for _ in 0..100_000 {
            pace.tick(u64::from(u32::MAX), 4096);
            pace.add_one();
        }
        let mut blocks = 0;
        while pace.is_due() {
            pace.take_one();
            blocks += 1;
        }
        assert_eq!(blocks, DUE_MAX);
    }
}
