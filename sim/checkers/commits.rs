//! One commit chain: every op is executed with the same prepare by everyone, always.
//!
//! ```text
//!   chain        1 ── 2 ── 3 ── 4 ── 5        the first execution of an op anywhere extends it
//!   replica 0    1 ── 2 ── 3                  every other must match, one op at a time,
//!   replica 1    1 ── 2 ── 3 ── 4 ── 5        from where the process life began
//!   replica 2    1 ──   (restarted) 1 ── 2
//! ```
//!
//! **Invariants:** a link that contradicts the chain never becomes part of it, so that one replica's
//! error is not reported of all others.
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

    /// The process ended: its executor begins again before op 1.
    pub(super) fn on_restart(&mut self, replica: u8) {
        self.executed[usize::from(replica)] = 0;
    }

    /// The executor took over a state that includes all ops up to `op`.
    pub(super) fn on_state_loaded(&mut self, replica: u8, op: Op) -> Result<(), String> {
        self.compared += 1;
        let result = if op <= self.chain.len() as u64 {
            Ok(())
        } else {
            Err(format!("replica {replica} loaded a state of op {op}, which nobody executed"))
        };
        self.executed[usize::from(replica)] = op;
        self.failure.note(result)
    }

    pub(super) fn on_commit(&mut self, replica: u8, commit: &Commit) -> Result<(), String> {
        let result = self.check_commit(replica, commit);
        self.failure.note(result)
    }

    fn check_commit(&mut self, replica: u8, commit: &Commit) -> Result<(), String> {
        let Commit { op, id, parent, .. } = *commit;
        let executed = &mut self.executed[usize::from(replica)];
        let expected = *executed + 1;
        *executed = op;
        if op != expected {
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
        let result = if state.commit_min == executed {
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
