//! F3: how much of the store waits for the disk, and how much of it there may be.
//!
//! **Invariants:** each queue has a bound at all times; where there is no room for a longer file,
//! so that nothing can be written, it is a higher one.
//!
//! **Not here:** what waits then, and for what (`checkpoint`).

use super::Store;
use super::grid::WRITES_MAX;
use crate::stdx::Bound;

/// Blocks beyond the limit that one entry may change, once it has begun to: about one for each of
/// its records.
const ENTRY_BLOCKS_MAX: usize = 1024;

impl Store {
    /// How full all queues are.
    pub fn bounds(&self) -> Vec<Bound> {
        let writes = self.grid.writes_count();
        let mut bounds = vec![Bound::new("writes_of_blocks", writes, WRITES_MAX as u64)];
        if !self.is_in_memory {
            let max = self.unwritten_max() + ENTRY_BLOCKS_MAX;
            bounds.push(Bound::new("blocks_unwritten", self.unwritten_count(), max as u64));
        }
        bounds
    }
}
