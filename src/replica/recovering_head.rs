//! F5: a replica whose head is uncertain, and how the logs of others make it certain.
//!
//! A slot above the last op that was found may have held a prepare of `log_view` that was
//! acknowledged, and is damaged. So the head is not known: the replica votes for nothing and
//! acknowledges nothing (VRR §4.3, with disks that lie).
//!
//! ```text
//!                     ┌── a start_view, fresh or of a newer view ──► normal
//!   recovering_head ──┤
//!                     └── do_view_changes for a higher view ──► head certain ──► view change
//! ```
//!
//! The second way out is for a cluster that has no log to give, because its view change waits for
//! this very replica: an op that is damaged elsewhere is intact here, or certainly never was. A
//! `do_view_change` for a view above L, the `log_view` here, shows a log that is final:
//!
//! | its `log_view` | says |
//! |---|---|
//! | above L | this log takes the place of the one of L, as its `start_view` would have |
//! | L | all logs of one view are beginnings of one chain: what is longer there continues here; |
//! | | and above its head the sender acknowledged nothing of L, and never will |
//! | below L | the sender acknowledged nothing of L, and never will |
//!
//! A log that has no room here is taken with the checkpoint that comes with it. If it is of L, then
//! whatever was acknowledged here lies below its head, in the same chain.
//!
//! The head is certain when no damaged slot is left above it, or when what such slots may have held
//! was not acknowledged by a nack quorum of others: then too few are left to have committed it in
//! L, and nobody will. (Nor in a later view: who took part in one shows its log, and the first row
//! holds.) A slot that is damaged at or below the head has a name then, and stays damaged: nothing
//! here says that it was never acknowledged.
//!
//! **Invariants:** a replica in `recovering_head` acknowledges nothing, so that it takes headers
//! promises nothing; what is cut lies above everything known to be committed; the view L is left in
//! the same step in which the head becomes certain.
//!
//! **Not here:** how a head is found to be uncertain (`open.rs`); the answer of a primary.

use super::checkpoint::Offer;
use super::{Replica, Status, ViewLog};
use crate::replica::Effects;
use crate::stdx::defect;
use crate::wire::{DoViewChange, Header, HeaderSet, Op};

impl Replica {
    /// Ops above the head whose slots are damaged here, and may have held what was acknowledged:
    /// while there are any, the head is uncertain.
    pub fn ops_uncertain(&self) -> impl Iterator<Item = Op> {
        let op_max = self.geometry.op_prepare_ok_max(self.op_checkpoint());
        (self.op + 1..=op_max).filter(|op| self.journal.is_faulty(*op))
    }

    /// Takes from the log of a member what it says of the own head.
    pub(super) fn on_log_of_member(
        &mut self,
        header: &Header<DoViewChange>,
        log: &ViewLog,
        effects: &mut Effects,
    ) {
        if self.status != Status::RecoveringHead {
            return;
        }
        assert_ne!(header.replica, self.replica);
        assert!(log.log_view < header.view);
        if self.log_view < self.view || header.view <= self.view || !self.view_is_durable() {
            return self.ignore("on_log_of_member", "not about the log of this view");
        }
        if !self.may_vote() {
            return self.ignore("on_log_of_member", "not a member");
        }
        let set = &log.set;
        // A log that has no room here comes with its checkpoint.
        let offer = Offer::from(&header.command);
        let sync = self.wants_sync(&offer);
        let op_checkpoint = if sync { offer.checkpoint.op } else { self.op_checkpoint() };
        let may_install = set.op >= self.op || log.log_view > self.log_view;
        let may_install = may_install && self.may_install(log, op_checkpoint);
        if log.log_view > self.log_view {
            if !may_install {
                return self.ignore("on_log_of_member", "not a log to go on with");
            }
            if sync {
                self.begin_sync(&offer);
            }
            self.log_view = log.log_view;
            self.install_log(set.op, log.commit_max, &set.headers);
            self.table = set.table;
            self.head = set.clone();
            return self.leave_recovering_head(header, effects);
        }
        if !self.counts(header.replica, header.incarnation) {
            return self.ignore("on_log_of_member", "another incarnation");
        }
        if log.log_view == self.log_view && may_install {
            if sync {
                self.begin_sync(&offer);
                self.install_log(set.op, log.commit_max, &set.headers);
                self.table = set.table;
                self.head.table = set.table;
                assert!(
                    self.ops_uncertain().next().is_none(),
                    "all that it may have held is below"
                );
            } else {
                self.extend_head(set);
            }
        }
        let Some(faulty) = self.ops_uncertain().next() else {
            return self.leave_recovering_head(header, effects);
        };
        if log.log_view < self.log_view || set.op < faulty {
            self.head_nacks |= 1 << header.replica.0;
        }
        let nacks = u8::try_from(self.head_nacks.count_ones()).expect("8 bits");
        assert_eq!(self.head_nacks >> self.replica.0 & 1, 0, "others only");
        if nacks >= self.quorums.nack - u8::from(defect!("head_nack_quorum_small")) {
            self.leave_recovering_head(header, effects);
        }
    }

    /// Whether a log can be that of this replica, on top of a checkpoint.
    pub(super) fn may_install(&self, log: &ViewLog, op_checkpoint: Op) -> bool {
        assert!(op_checkpoint >= self.op_checkpoint());
        let set = &log.set;
        let has_room = set.op <= self.geometry.op_prepare_max(op_checkpoint);
        let known = self.journal.header(self.op);
        let continues = match (set.header(self.op), known) {
            (Some(theirs), Some(own)) => theirs.id() == own.id() || log.log_view > self.log_view,
            _ => true,
        };
        let is_committed_kept = set.op >= self.commit_max && set.op >= log.commit_max;
        // A recovery that is not committed may have been cut from a log, but not from this view's.
        let is_of_view = log.log_view == self.log_view;
        let op_table =
            if is_of_view { self.table.op } else { self.table.up_to(self.commit_max).op };
        let is_member = set.table.op >= op_table && set.table.names(self.replica, self.incarnation);
        has_room && continues && is_committed_kept && is_member && set.header(set.op).is_some()
    }

    /// The log of this view goes on, by its headers; the bodies come by repair.
    fn extend_head(&mut self, set: &HeaderSet) {
        assert!(set.op >= self.op);
        for header in set.headers.iter().rev().flatten() {
            if header.op() >= self.op {
                self.journal.insert_header(header);
            }
        }
        self.op = set.op;
        self.table = set.table;
        self.head.table = set.table;
        self.begin_chain();
        assert!(self.journal.header(self.op).is_some(), "the head is known");
    }

    fn leave_recovering_head(&mut self, header: &Header<DoViewChange>, effects: &mut Effects) {
        assert_eq!(self.status, Status::RecoveringHead);
        assert!(header.view > self.view);
        // Of a log that ends below what it is known to have held, more than the damage is missing.
        if self.journal.header(self.op).is_none() || self.commit_max > self.op {
            return self.ignore("leave_recovering_head", "the log is not whole");
        }
        assert!(self.commit_min <= self.op);
        log::info!("{self}: the logs of others make op {} the head", self.op);
        // A recovery above the head goes with it.
        self.recover_table();
        self.head_nacks = 0;
        self.nonce = 0;
        self.timeouts.request_start_view.stop();
        self.counters.heads_resolved += 1;
        self.status = Status::ViewChange;
        self.transition_to_view_change(header.view, effects);
    }
}
