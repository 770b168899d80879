//! F5: which log a new view begins with: a pure function of the `do_view_change` messages
//! (VRR §4.2 step 3, with the nacks of Protocol-Aware Recovery for disks that lie).
//!
//! ```text
//!            lo = known committed by anyone                    hi = the canonical head
//!  ───────────┼──────────────┬──────────────┬──────────────────┤
//!   kept      │ kept         │ kept         │ nacked by a nack quorum: cut here
//! ```
//!
//! The *canonical* logs are those of the highest `log_view`. For every op above `lo`, in order:
//!
//! | a nack quorum is certain never to have acknowledged it | cut the log before it |
//! | somebody has the body, and the canonical header is known | keep it |
//! | neither | wait for more messages; with all of them in hand the view cannot begin |
//!
//! What says "never acknowledged" of the canonical header h at an op:
//!
//! | the sender's log | counts as |
//! |---|---|
//! | ends before the op | nack |
//! | explicit nack bit | nack |
//! | another header than h, or a header where no canonical log has one | nack |
//! | blank without a nack bit (damaged), or not covered | silence |
//!
//! The canonical header is the one of any canonical log; or, where all of those are blank, the one
//! that any log has and that the canonical successor names as its parent.
//!
//! **Invariants:** canonical logs never contradict each other; the result is a hash chain as far as
//! it is known; nothing at or below `lo` is ever cut.
//!
//! **Not here:** who may vote (incarnations), counting of duplicates: the caller hands over one
//! message per replica.

use super::quorums::Quorums;
use crate::stdx::defect;
use crate::wire::{Header, HeaderSet, Op, Prepare, View};

/// One replica's `do_view_change`, decoded.
#[derive(Debug, Clone)]
pub struct ViewLog {
    /// The last view in which its head was defined.
    pub log_view: View,
    /// What it knows to be committed.
    pub commit_max: Op,
    /// The suffix of its log.
    pub set: HeaderSet,
    /// Bit i: the body of header i is intact there.
    pub present: u64,
    /// Bit i: it never acknowledged header i.
    pub nack: u64,
}

/// What the messages at hand say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// Fewer than a view-change quorum.
    AwaitingQuorum,
    /// An op that can neither be kept nor cut yet: another message may tell.
    AwaitingRepair {
        /// The first such op.
        op: Op,
    },
    /// All replicas have spoken and an op can neither be kept nor cut.
    Stuck {
        /// The first such op.
        op: Op,
    },
    /// The log of the new view.
    Complete {
        /// Its head.
        op: Op,
        /// Everything up to here is certainly committed.
        commit_max: Op,
        /// Headers of `op` downwards, as far as they are known.
        headers: Vec<Option<Header<Prepare>>>,
    },
}

impl ViewLog {
    fn bit(set: &HeaderSet, bits: u64, op: Op) -> bool {
        op <= set.op && op >= set.op_min() && bits >> (set.op - op) & 1 == 1
    }

    /// Whether this log is silent, against, or for the canonical header at `op`.
    fn nacks(&self, op: Op, canonical: Option<&Header<Prepare>>) -> bool {
        if self.set.op < op || Self::bit(&self.set, self.nack, op) {
            return true;
        }
        match (self.set.header(op), canonical) {
            (Some(header), Some(canonical)) => header.id() != canonical.id(),
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    fn has_copy(&self, op: Op, canonical: &Header<Prepare>) -> bool {
        Self::bit(&self.set, self.present, op)
            && self.set.header(op).is_some_and(|header| header.id() == canonical.id())
    }

    /// Everything this log proves to be committed.
    fn committed(&self, pipeline: u32) -> Op {
        let head_commit = self.set.header(self.set.op).map_or(0, |head| head.command.commit);
        self.commit_max.max(head_commit).max(self.set.op.saturating_sub(u64::from(pipeline)))
    }
}

/// Selects the log of a new view. `logs`: at most one per replica, the own included.
pub fn select(logs: &[&ViewLog], quorums: &Quorums, replica_count: u8, pipeline: u32) -> Selection {
    assert!(logs.len() <= usize::from(replica_count));
    let quorum = quorums.view_change - u8::from(defect!("view_change_quorum_small"));
    if logs.len() < usize::from(quorum) {
        return Selection::AwaitingQuorum;
    }
    let log_view = logs.iter().map(|log| log.log_view).max().expect("a quorum is not empty");
    let canonical_logs = || logs.iter().filter(|log| log.log_view == log_view);
    let op_max = canonical_logs().map(|log| log.set.op).max().expect("the highest exists");
    let commit_max =
        logs.iter().map(|log| log.committed(pipeline)).max().expect("a quorum is not empty");
    assert!(commit_max <= op_max, "committed op {commit_max} above the canonical head {op_max}");

    let known = |op: Op| {
        let mut headers = canonical_logs().filter_map(|log| log.set.header(op));
        let first = headers.next();
        for other in headers {
            assert_eq!(first.map(Header::id), Some(other.id()), "canonical logs contradict");
        }
        first
    };
    // What is blank in the canonical logs has a name all the same if they know its successor.
    let canonical = |op: Op| {
        known(op).or_else(|| {
            let id = known(op + 1)?.parent_id();
            logs.iter().filter_map(|log| log.set.header(op)).find(|header| header.id() == id)
        })
    };
    let mut head = commit_max;
    for op in commit_max + 1..=op_max {
        let header = canonical(op);
        let nacks = logs.iter().filter(|log| log.nacks(op, header)).count();
        if nacks >= usize::from(quorums.nack - u8::from(defect!("nack_quorum_small"))) {
            break;
        }
        if !header.is_some_and(|header| logs.iter().any(|log| log.has_copy(op, header))) {
            return undecided(logs, replica_count, op);
        }
        head = op;
    }
    // What a log holds at or below its own commit point is the same in all logs: so one that is
    // older may know a header that is damaged in the canonical ones.
    let committed =
        |op: Op| logs.iter().filter(|log| log.commit_max >= op).find_map(|log| log.set.header(op));
    let headers: Vec<_> = (head.saturating_sub(u64::from(pipeline))..=head)
        .rev()
        .map(|op| canonical(op).or_else(|| committed(op)).copied())
        .collect();
    if headers[0].is_none() {
        return undecided(logs, replica_count, head);
    }
    for pair in headers.windows(2) {
        if let [Some(header), Some(before)] = pair {
            assert_eq!(header.parent_id(), before.id(), "the canonical log is a hash chain");
        }
    }
    Selection::Complete { op: head, commit_max, headers }
}

fn undecided(logs: &[&ViewLog], replica_count: u8, op: Op) -> Selection {
    if logs.len() < usize::from(replica_count) {
        Selection::AwaitingRepair { op }
    } else {
        Selection::Stuck { op }
    }
}

#[cfg(test)]
#[path = "select_tests.rs"]
mod tests;
