//! One commit chain: every op is executed with the same prepare by everyone, always.
//!
//! ```text
//!   chain        1 ── 2 ── 3 ── 4 ── 5        the first execution of an op anywhere extends it
//!   replica 0    1 ── 2 ── 3                  every other must match, one op at a time,
//!   replica 1    1 ── 2 ── 3 ── 4 ── 5        from where the process life began
//!   replica 2    1 ──   (restarted) 1 ── 2
//! ```
//!
//! **Invariants:** a link that contradicts the chain never becomes part of it, so that the error of
//! one replica is not reported of all others.
//!
//! **Not here:** what the ops did (`digests`, and the checks of histories).

use super::{CheckerReport, Commit, FirstFailure, ReplicaState};
use vsr::wire::{Op, PrepareId};

#[derive(Debug)]
pub(super) struct Commits {
    /// Of op 1 and up.
    chain: Vec<PrepareId>,
    /// The last op that each replica's executor has in this process life.
    executed: Vec<Op>,
    compared: u64,
    failure: FirstFailure,
}

impl Commits {
    pub(super) fn new(replica_count: u8) -> Self {
        Self {
            chain: Vec::new(),
            executed: vec![0; usize::from(replica_count)],
            compared: 0,
            failure: FirstFailure::default(),
        }
    }

    /// The process ended: the executor of the next one begins before op 1, or behind a checkpoint.
    pub(super) fn on_restart(&mut self, replica: u8) {
        self.executed[usize::from(replica)] = 0;
    }

    /// What everybody executed at `op`, if somebody was seen to.
    pub(super) fn executed(&self, op: Op) -> Option<PrepareId> {
        self.chain.get(usize::try_from(op).ok()?.checked_sub(1)?).copied()
    }

    /// The last op that anybody executed.
    pub(super) fn op_executed_max(&self) -> Op {
        self.chain.len() as u64
    }

    pub(super) fn on_commit(&mut self, replica: u8, commit: &Commit) -> Result<(), String> {
        let result = self.check_commit(replica, commit);
        self.failure.note(result)
    }

    fn check_commit(&mut self, replica: u8, commit: &Commit) -> Result<(), String> {
        let Commit { op, id, parent, checkpoint, .. } = *commit;
        let executed = &mut self.executed[usize::from(replica)];
        let expected = *executed + 1;
        *executed = op;
        // Whoever has taken over the state of a checkpoint goes on behind it.
        let is_taken_over = op > expected && op == checkpoint.op + 1;
        if op != expected && !is_taken_over {
            return Err(format!("replica {replica} executed op {op} where {expected} is next"));
        }
        if id.op != op {
            return Err(format!("replica {replica} executed op {op} with a prepare of {id:?}"));
        }
        let index = usize::try_from(op - 1).expect("ops of one run");
        assert!(index <= self.chain.len(), "an op after one that is in the chain");
        if let Some(before) = index.checked_sub(1).map(|index| self.chain[index]) {
            self.compared += 1;
            if parent != before.as_parent() {
                return Err(format!(
                    "replica {replica} executed {id:?} with parent {parent:?} behind {before:?}"
                ));
            }
            if id.view < before.view {
                return Err(format!(
                    "replica {replica} executed {id:?}, of an older view than {before:?}"
                ));
            }
        }
        match self.chain.get(index) {
            None => self.chain.push(id),
            Some(known) => {
                self.compared += 1;
                if *known != id {
                    return Err(format!(
                        "replica {replica} executed {id:?} where {known:?} was executed"
                    ));
                }
            }
        }
        Ok(())
    }

    /// What a replica says it has executed is what it was seen to execute. (This is how a driver
    /// that forgets to report is found.)
    pub(super) fn on_state(&mut self, replica: u8, state: &ReplicaState) -> Result<(), String> {
        let executed = self.executed[usize::from(replica)];
        let is_known = state.commit_min == executed || state.commit_min == state.op_checkpoint;
        let result = if is_known {
            Ok(())
        } else {
            Err(format!(
                "replica {replica} says commit_min {} and was seen to execute up to {executed}",
                state.commit_min
            ))
        };
        self.failure.note(result)
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "commits",
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
    use vsr::wire::{BlockRef, Parent, View};

    fn id(op: Op, checksum: u32) -> PrepareId {
        PrepareId { op, view: View(3), checksum, checksum_body: 0 }
    }

    fn commit(op: Op) -> Commit {
        let checksum = u32::try_from(op).unwrap();
        let parent = if op == 1 { Parent::default() } else { id(op - 1, checksum - 1).as_parent() };
        let checkpoint = BlockRef::NONE;
        Commit { op, id: id(op, checksum), parent, digest: None, checkpoint }
    }

    fn state(commit_min: Op) -> ReplicaState {
        ReplicaState { commit_min, ..ReplicaState::default() }
    }

    /// Replica 0 has executed ops 1 to 4, replica 1 ops 1 to 2.
    fn commits() -> Commits {
        let mut commits = Commits::new(2);
        (1..=4).for_each(|op| commits.on_commit(0, &commit(op)).unwrap());
        (1..=2).for_each(|op| commits.on_commit(1, &commit(op)).unwrap());
        commits
    }

    #[test]
    fn one_chain_passes() {
        let mut commits = commits();
        commits.on_state(1, &state(2)).unwrap();
        commits.on_restart(0);
        commits.on_state(0, &state(0)).unwrap();
        (1..=5).for_each(|op| commits.on_commit(0, &commit(op)).unwrap());
        let report = commits.report();
        // Parents: 3, 1, 4. Known ops: 2, 4.
        assert_eq!((report.compared, report.vacuous, report.failure), (14, false, None));
        assert!(Commits::new(3).report().vacuous);
    }

    #[test]
    fn what_contradicts_the_chain_is_told() {
        let wrong = |commit: Commit, reason: &str| {
            let mut commits = commits();
            let error = commits.on_commit(1, &commit).unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert_eq!(commits.report().failure, Some(error));
        };
        let three = commit(3);
        wrong(Commit { id: id(3, 33), ..three }, "where");
        wrong(Commit { id: PrepareId { view: View(4), ..three.id }, ..three }, "where");
        wrong(Commit { id: PrepareId { view: View(2), ..three.id }, ..three }, "older view");
        wrong(Commit { id: id(4, 3), ..three }, "with a prepare of");
        wrong(Commit { parent: Parent::default(), ..three }, "parent");
        wrong(commit(4), "where 3 is next");
        wrong(commit(2), "where 3 is next");
    }

    #[test]
    fn a_restart_begins_at_op_1_and_executes_the_same() {
        let mut commits = commits();
        commits.on_restart(1);
        assert!(commits.on_commit(1, &commit(3)).is_err());
        let mut commits = self::commits();
        commits.on_restart(1);
        assert!(commits.on_commit(1, &Commit { id: id(1, 7), ..commit(1) }).is_err());
    }

    #[test]
    fn what_is_said_and_what_was_seen_agree() {
        assert!(commits().on_state(0, &state(5)).is_err());
        assert!(commits().on_state(0, &state(3)).is_err());
    }
}
