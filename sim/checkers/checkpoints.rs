//! Checkpoints of the same op are the same, byte for byte: their roots name all their blocks by
//! checksums, so it is enough to compare the references of the roots.
//!
//! **Invariants:** the first root of an op is the one all others are compared with.
//!
//! **Not here:** whether the blocks are on the disks: whoever executes on has had them.

use super::{CheckerReport, FirstFailure};
use std::collections::BTreeMap;
use vsr::wire::{BlockRef, Op};

#[derive(Debug, Default)]
pub(super) struct Checkpoints {
    roots: BTreeMap<Op, BlockRef>,
    compared: u64,
    failure: FirstFailure,
}

impl Checkpoints {
    /// `replica` stands on this checkpoint.
    pub(super) fn on_checkpoint(&mut self, replica: u8, root: BlockRef) -> Result<(), String> {
        self.compared += 1;
        let known = *self.roots.entry(root.op).or_insert(root);
        let result = if known == root {
            Ok(())
        } else {
            Err(format!("replica {replica} has checkpoint {root:?} where {known:?} is another's"))
        };
        self.failure.note(result)
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "checkpoints",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0,
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_root_of_the_same_op_is_found() {
        let root = BlockRef { index: 4, op: 32, checksum: 7, checksum_body: 8 };
        let mut checkpoints = Checkpoints::default();
        assert!(checkpoints.report().vacuous);
        for replica in 0..3 {
            assert!(checkpoints.on_checkpoint(replica, BlockRef::NONE).is_ok());
            assert!(checkpoints.on_checkpoint(replica, root).is_ok());
        }
        let other = BlockRef { checksum_body: 9, ..root };
        assert!(checkpoints.on_checkpoint(1, other).is_err());
        assert!(checkpoints.report().failure.is_some());
        assert!(checkpoints.on_checkpoint(1, BlockRef { op: 64, ..other }).is_ok());
    }
}
