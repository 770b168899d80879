//! What memory says of the log is on the disk: when a core has agreed and has nothing left to
//! repair, each op above the checkpoint that a replica has executed lies in its slot of both rings:
//! whole, as the prepare that everybody executed, and its redundant header.
//!
//! **Invariants:** a slot that a fault has hurt since it was written is nobody's word, and is left
//! out; the disk is read as it is, past the product.
//!
//! **Not here:** whether the prepare is the right one for the op: all executed it (`commits`).

use super::{CheckerReport, FirstFailure};
use vsr::wire::PrepareId;

#[derive(Debug, Default)]
pub(super) struct Journal {
    compared: u64,
    failure: FirstFailure,
}

/// What lies in the two rings for an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SlotOnDisk {
    /// The prepare, if it is whole.
    pub(crate) prepare: Option<PrepareId>,
    /// Whom the redundant header is of, if it is one.
    pub(crate) header: Option<PrepareId>,
}

impl Journal {
    /// `replica` has executed `expected`, and this lies in its slot.
    pub(super) fn on_slot(
        &mut self,
        replica: u8,
        expected: PrepareId,
        on_disk: SlotOnDisk,
    ) -> Result<(), String> {
        self.compared += 1;
        let both = SlotOnDisk { prepare: Some(expected), header: Some(expected) };
        let result = if on_disk == both {
            Ok(())
        } else {
            Err(format!("replica {replica} has {on_disk:?} in the slot of {expected:?}"))
        };
        self.failure.note(result)
    }

    /// Nothing is compared where every log ends at a checkpoint, or all slots are hurt.
    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "journal",
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
    fn another_prepare_or_none_in_a_slot_is_found() {
        let expected = PrepareId { op: 7, checksum: 3, ..PrepareId::default() };
        let both = |id| SlotOnDisk { prepare: Some(id), header: Some(id) };
        let mut journal = Journal::default();
        assert!(journal.on_slot(0, expected, both(expected)).is_ok());
        assert!(journal.report().failure.is_none());
        let other = PrepareId { checksum: 4, ..expected };
        assert!(journal.on_slot(1, expected, both(other)).is_err());
        assert!(journal.on_slot(1, expected, SlotOnDisk::default()).is_err());
        let torn = SlotOnDisk { prepare: None, ..both(expected) };
        assert!(journal.on_slot(1, expected, torn).is_err());
        let unnamed = SlotOnDisk { header: Some(other), ..both(expected) };
        assert!(journal.on_slot(1, expected, unnamed).is_err());
        assert_eq!(journal.report().compared, 5);
        assert!(journal.report().failure.is_some());
    }
}
