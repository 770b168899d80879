//! What a replica has acknowledged it keeps: the primary counts it as durable, and may have told a
//! client.
//!
//! ```text
//!   prepare_ok(view v, op n) ──► n lies in its slot, whole, and its header in the other ring
//!            │ remembered
//!            ▼
//!   do_view_change(log_view v) ──► the log goes to n at least, has that prepare there or a blank,
//!                                  and does not say that it never acknowledged it
//! ```
//!
//! A log is of one view: what was acknowledged in an earlier one may have been replaced, so it is
//! asked of a log of that view alone. In one case an acknowledged op may be missing from such a
//! log: a disk has hurt it above the head, and a nack quorum of others is certain that it was not
//! committed. Then the head was uncertain and is not any more, and what is hurt above it is
//! forgotten; but if somebody has executed it, the certainty was none.
//!
//! **Invariants:** what was acknowledged is remembered over restarts, and until the file is lost;
//! the disk is read as it is, past the product; a slot that a fault has hurt since it was written
//! is nobody's word.
//!
//! **Not here:** whether enough have acknowledged what is committed (`commits`).

use super::journal::SlotOnDisk;
use super::{CheckerReport, FirstFailure};
use std::collections::BTreeMap;
use vsr::wire::{Op, PrepareId, View};

/// A log as its replica tells the others of it.
#[derive(Debug)]
pub(crate) struct LogTold<'a> {
    /// The view of the log.
    pub(crate) log_view: View,
    /// Its head.
    pub(crate) op: Op,
    /// The prepares that it names, if they are near the head.
    pub(crate) prepares: &'a [PrepareId],
    /// The ops of which the replica says that it never acknowledged what the log has there.
    pub(crate) nacks: &'a [Op],
}

#[derive(Debug, Default)]
struct Known {
    /// By op: the last acknowledgement of it, and the view in which it was made.
    acknowledged: BTreeMap<Op, (View, PrepareId)>,
}

#[derive(Debug)]
pub(super) struct Promises {
    replicas: Vec<Known>,
    compared: u64,
    failure: FirstFailure,
}

impl Promises {
    pub(super) fn new(replica_count: u8) -> Self {
        let replicas = (0..replica_count).map(|_| Known::default()).collect();
        Self { replicas, compared: 0, failure: FirstFailure::default() }
    }

    pub(super) fn on_file_lost(&mut self, replica: u8) {
        self.replicas[usize::from(replica)] = Known::default();
    }

    /// The head of the log was uncertain, and is `op`. `executed` is what everybody executed at an
    /// op, as far as that was seen.
    pub(super) fn on_head_resolved(
        &mut self,
        replica: u8,
        op: Op,
        is_hurt: impl Fn(Op) -> bool,
        executed: impl Fn(Op) -> Option<PrepareId>,
    ) -> Result<(), String> {
        let known = &mut self.replicas[usize::from(replica)];
        let mut result = Ok(());
        for (own, (_, id)) in known.acknowledged.range(op + 1..) {
            self.compared += 1;
            if executed(*own) == Some(*id) {
                result = Err(format!(
                    "replica {replica} has acknowledged {id:?}, which was executed, and takes op \
                     {op} for its head"
                ));
                break;
            }
        }
        known.acknowledged.retain(|own, _| *own <= op || !is_hurt(*own));
        self.failure.note(result)
    }

    /// `replica` told in `view` that it has a prepare. `on_disk` is what its disk has of it, if
    /// nothing has hurt that, and if it is still of this log.
    pub(super) fn on_prepare_ok(
        &mut self,
        replica: u8,
        view: View,
        id: PrepareId,
        on_disk: Option<SlotOnDisk>,
    ) -> Result<(), String> {
        let known = &mut self.replicas[usize::from(replica)];
        let newest = known.acknowledged.entry(id.op).or_insert((view, id));
        if newest.0 <= view {
            *newest = (view, id);
        }
        let Some(on_disk) = on_disk else { return Ok(()) };
        self.compared += 1;
        let both = SlotOnDisk { prepare: Some(id), header: Some(id) };
        let result = if on_disk == both {
            Ok(())
        } else {
            Err(format!("replica {replica} has acknowledged {id:?} and has {on_disk:?}"))
        };
        self.failure.note(result)
    }

    /// `replica` told what its log is.
    pub(super) fn on_log_told(&mut self, replica: u8, log: &LogTold<'_>) -> Result<(), String> {
        let known = &self.replicas[usize::from(replica)];
        let mut result = Ok(());
        for (op, (_, id)) in known.acknowledged.iter().filter(|(_, own)| own.0 == log.log_view) {
            self.compared += 1;
            let told = log.prepares.iter().find(|prepare| prepare.op == *op);
            let wrong = if *op > log.op {
                "its log ends below"
            } else if told.is_some_and(|told| told != id) {
                "its log has another"
            } else if log.nacks.contains(op) {
                "it says that it never did"
            } else {
                continue;
            };
            result =
                Err(format!("replica {replica} has acknowledged {id:?}, and {wrong}: {log:?}"));
            break;
        }
        self.failure.note(result)
    }

    /// A replica alone acknowledges nothing to anybody.
    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "promises",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0 && self.replicas.len() > 1,
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(op: Op, checksum: u32) -> PrepareId {
        PrepareId { op, checksum, view: View(3), ..PrepareId::default() }
    }

    /// Replica 1 of two, which has acknowledged ops 5 to 8 in view 3.
    fn promises() -> Promises {
        let mut promises = Promises::new(2);
        for op in 5..=8 {
            promises.on_prepare_ok(1, View(3), id(op, 1), None).unwrap();
        }
        assert!(promises.report().vacuous, "nothing was looked at");
        promises
    }

    #[test]
    fn what_is_acknowledged_and_is_not_on_the_disk_is_found() {
        let (mine, other) = (id(7, 1), id(7, 2));
        let slot = |prepare, header| Some(SlotOnDisk { prepare, header });
        let check = |on_disk| Promises::new(1).on_prepare_ok(0, View(3), mine, on_disk);
        check(slot(Some(mine), Some(mine))).unwrap();
        check(None).unwrap();
        assert!(check(slot(None, Some(mine))).is_err());
        assert!(check(slot(Some(mine), None)).is_err());
        assert!(check(slot(Some(other), Some(mine))).is_err());
        assert!(check(slot(Some(mine), Some(other))).is_err());
        let mut promises = Promises::new(1);
        promises.on_prepare_ok(0, View(3), mine, slot(None, None)).unwrap_err();
        assert!(promises.report().failure.expect("it is kept").contains("replica 0"));
        assert_eq!(promises.report().compared, 1);
    }

    #[test]
    fn a_log_that_has_lost_what_was_acknowledged_in_its_view_is_found() {
        let told = |promises: &mut Promises, log_view, op, prepares: &[PrepareId], nacks: &[Op]| {
            promises.on_log_told(1, &LogTold { log_view: View(log_view), op, prepares, nacks })
        };
        let all: Vec<PrepareId> = (6..=9).map(|op| id(op, 1)).collect();
        told(&mut promises(), 3, 9, &all, &[9]).unwrap();
        told(&mut promises(), 3, 8, &[], &[]).unwrap();
        let end = told(&mut promises(), 3, 7, &all[..2], &[]).unwrap_err();
        assert!(end.contains("ends below"), "{end}");
        let other = told(&mut promises(), 3, 9, &[id(6, 2), id(9, 1)], &[]).unwrap_err();
        assert!(other.contains("another"), "{other}");
        let nack = told(&mut promises(), 3, 9, &all, &[9, 8]).unwrap_err();
        assert!(nack.contains("never did"), "{nack}");
        // A log of another view has replaced it; and it is the log of nobody else.
        told(&mut promises(), 4, 6, &[id(6, 2)], &[6]).unwrap();
        told(&mut promises(), 2, 6, &[], &[]).unwrap();
        let log = LogTold { log_view: View(3), op: 1, prepares: &[], nacks: &[] };
        promises().on_log_told(0, &log).unwrap();
    }

    #[test]
    fn a_restart_forgets_nothing_and_the_last_acknowledgement_of_an_op_counts() {
        let log = LogTold { log_view: View(3), op: 7, prepares: &[], nacks: &[] };
        let mut restarted = promises();
        assert!(restarted.on_log_told(1, &log).is_err());
        assert_eq!(restarted.report().compared, 4);
        let mut again = promises();
        again.on_prepare_ok(1, View(5), id(8, 2), None).unwrap();
        again.on_prepare_ok(1, View(3), id(8, 1), None).unwrap();
        again.on_log_told(1, &log).unwrap();
        assert!(again.on_log_told(1, &LogTold { log_view: View(5), ..log }).is_err());
    }

    #[test]
    fn what_a_nack_quorum_cut_is_forgotten_and_so_is_a_lost_file() {
        let log = LogTold { log_view: View(3), op: 7, prepares: &[], nacks: &[] };
        let mut resolved = promises();
        resolved.on_head_resolved(1, 7, |op| op == 8, |_| None).unwrap();
        resolved.on_log_told(1, &log).unwrap();
        // What is acknowledged after it counts again.
        resolved.on_prepare_ok(1, View(3), id(8, 1), None).unwrap();
        assert!(resolved.on_log_told(1, &log).is_err());
        let mut whole = promises();
        whole.on_head_resolved(1, 7, |op| op == 7, |_| None).unwrap();
        assert!(whole.on_log_told(1, &log).is_err(), "nothing had hurt it");
        let executed = |checksum| move |op| (op == 8).then(|| id(op, checksum));
        promises().on_head_resolved(1, 7, |_| true, executed(2)).unwrap();
        promises().on_head_resolved(1, 8, |_| true, executed(1)).unwrap();
        let cut = promises().on_head_resolved(1, 7, |_| true, executed(1)).unwrap_err();
        assert!(cut.contains("was executed"), "{cut}");
        let mut lost = promises();
        lost.on_file_lost(1);
        lost.on_log_told(1, &LogTold { op: 0, ..log }).unwrap();
    }
}
