//! Checkpoints of the same op are the same, byte for byte: their roots name all their blocks by
//! checksums, so it is enough to compare the references of the roots. And whoever takes one over
//! from the others takes one that a replication quorum has, or had, in full.
//!
//! ```text
//!   op           32   64   96
//!   replica 0    a    b    c  complete      replica 2 begins to take over 64: two of three had it
//!   replica 1    a    b       complete      96 would be wrong: replica 0 alone has it, and may be
//!   replica 2    a                          gone before the others do
//! ```
//!
//! **Invariants:** the first root of an op is the one all others are compared with; a file that was
//! lost has had what it had.
//!
//! **Not here:** whether the blocks are on the disks: whoever executes on has had them.

use super::{CheckerReport, FirstFailure, ReplicaState};
use std::collections::BTreeMap;
use vsr::replica::Quorums;
use vsr::wire::{BlockRef, Op};

#[derive(Debug)]
pub(super) struct Checkpoints {
    roots: BTreeMap<Op, BlockRef>,
    /// By replica: the root that it stands on, as far as it was seen.
    stands: Vec<BlockRef>,
    /// By replica: the newest that it has had in full.
    complete: Vec<Op>,
    /// By replica: the one that it was seen to take over last.
    syncing: Vec<Option<Op>>,
    quorum: u8,
    compared: u64,
    failure: FirstFailure,
}

impl Checkpoints {
    pub(super) fn new(replica_count: u8) -> Self {
        let replicas = usize::from(replica_count);
        Self {
            roots: BTreeMap::new(),
            stands: vec![BlockRef::NONE; replicas],
            complete: vec![0; replicas],
            syncing: vec![None; replicas],
            quorum: Quorums::new(replica_count).replication,
            compared: 0,
            failure: FirstFailure::default(),
        }
    }

    /// `replica` stands on this checkpoint.
    pub(super) fn on_checkpoint(&mut self, replica: u8, root: BlockRef) -> Result<(), String> {
        let before = std::mem::replace(&mut self.stands[usize::from(replica)], root);
        if root.is_none() || root == before {
            return Ok(());
        }
        // The first of an op is compared with nothing.
        self.compared += u64::from(self.roots.contains_key(&root.op));
        let known = *self.roots.entry(root.op).or_insert(root);
        let result = if known == root {
            Ok(())
        } else {
            Err(format!("replica {replica} has checkpoint {root:?} where {known:?} is another's"))
        };
        self.failure.note(result)
    }

    /// What the superblock of `replica` says.
    pub(super) fn on_state(&mut self, replica: u8, state: &ReplicaState) -> Result<(), String> {
        let index = usize::from(replica);
        self.complete[index] = self.complete[index].max(state.op_complete);
        let before = std::mem::replace(&mut self.syncing[index], state.op_syncing);
        let Some(op) = state.op_syncing.filter(|_| before != state.op_syncing) else {
            return Ok(());
        };
        self.compared += 1;
        let count = self.complete.iter().filter(|complete| **complete >= op).count();
        let result = if count >= usize::from(self.quorum) {
            Ok(())
        } else {
            Err(format!("replica {replica} takes over checkpoint {op}, which {count} ever had"))
        };
        self.failure.note(result)
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "checkpoints",
            compared: self.compared,
            undecided: 0,
            // Not every run is long enough for a checkpoint.
            vacuous: false,
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
        let mut checkpoints = Checkpoints::new(3);
        for replica in 0..3 {
            assert!(checkpoints.on_checkpoint(replica, BlockRef::NONE).is_ok());
            assert!(checkpoints.on_checkpoint(replica, root).is_ok());
            assert!(checkpoints.on_checkpoint(replica, root).is_ok());
            assert_eq!(checkpoints.report().compared, u64::from(replica), "with another's");
        }
        let other = BlockRef { checksum_body: 9, ..root };
        assert!(checkpoints.on_checkpoint(1, other).is_err());
        assert!(checkpoints.report().failure.is_some());
        assert!(checkpoints.on_checkpoint(1, BlockRef { op: 64, ..other }).is_ok());
    }

    #[test]
    fn a_checkpoint_that_no_quorum_has_is_not_to_be_taken_over() {
        let has = |op_complete| ReplicaState { op_complete, ..ReplicaState::default() };
        let takes = |op| ReplicaState { op_syncing: Some(op), ..ReplicaState::default() };
        let mut checkpoints = Checkpoints::new(3);
        checkpoints.on_state(0, &has(96)).unwrap();
        checkpoints.on_state(1, &has(64)).unwrap();
        checkpoints.on_state(2, &takes(64)).unwrap();
        checkpoints.on_state(2, &takes(64)).unwrap();
        assert_eq!(checkpoints.report().compared, 1);
        assert!(checkpoints.on_state(2, &takes(96)).is_err());
        // A file that was lost has had what it had.
        let mut checkpoints = Checkpoints::new(3);
        checkpoints.on_state(0, &has(96)).unwrap();
        checkpoints.on_state(1, &has(96)).unwrap();
        checkpoints.on_state(1, &has(0)).unwrap();
        checkpoints.on_state(2, &takes(96)).unwrap();
    }
}
