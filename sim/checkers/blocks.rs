//! Whoever says that it has a checkpoint in full has it: as soon as the superblock of a replica
//! says so, at each of its starts, and at the end, all that the root of the checkpoint refers to
//! lies on the disk.
//!
//! ```text
//!   superblock: 64, complete ──► root ──► free set, tree, values     each block: whole, or hurt by
//!                                                                    a fault since it was written
//! ```
//!
//! **Invariants:** the disk is read as it is, past the product; what a fault has hurt, and all that
//! only it refers to, is nobody's word, and is left out.
//!
//! **Not here:** whether it is the right checkpoint for the op (`checkpoints`).

use super::{CheckerReport, FirstFailure};
use vsr::wire::Op;

#[derive(Debug, Default)]
pub(super) struct Blocks {
    compared: u64,
    failure: FirstFailure,
}

impl Blocks {
    /// `replica` says that it has the checkpoint of `op`, of which so many blocks are on its disk.
    pub(super) fn on_checkpoint(
        &mut self,
        replica: u8,
        op: Op,
        found: Result<u64, String>,
    ) -> Result<(), String> {
        let result = match found {
            Ok(count) => {
                self.compared += count;
                Ok(())
            }
            Err(what) => Err(format!("replica {replica} has not all of checkpoint {op}: {what}")),
        };
        self.failure.note(result)
    }

    /// Short runs have no checkpoint.
    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "blocks",
            compared: self.compared,
            undecided: 0,
            vacuous: false,
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_that_is_not_there_is_found() {
        let mut blocks = Blocks::default();
        assert!(blocks.on_checkpoint(0, 32, Ok(7)).is_ok());
        assert_eq!((blocks.report().compared, blocks.report().failure), (7, None));
        assert!(blocks.on_checkpoint(1, 32, Err("block 3: damaged".to_owned())).is_err());
        let failure = blocks.report().failure.expect("it was found");
        assert!(failure.contains("replica 1") && failure.contains("block 3"), "{failure}");
    }
}
