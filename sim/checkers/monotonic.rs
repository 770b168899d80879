//! What may only grow: views, the log's view, commits.
//!
//! ```text
//!                       within a process life      across a restart
//!   view                never less                 at least the durable one, and any spoken one
//!   log_view            never less, <= view        at least the durable one
//!   commit_max          never less                 free (what is not durable is learnt again)
//!   commit_min          never less, <= commit_max  free (executed again)
//!   durable view,
//!   durable log_view    never less, <= the one in memory
//! ```
//!
//! **Invariants:** a state is compared with the one before it of the same replica, and with nothing
//! else; the first state of a life with what the lives before it left.
//!
//! A replica whose file was lost begins anew: what it may do then is not judged here.
//!
//! **Not here:** agreement between replicas (`commits`).

use super::{CheckerReport, FirstFailure, ReplicaState};
use vsr::wire::View;

#[derive(Debug, Default)]
struct Known {
    /// The last state of the present life.
    state: Option<ReplicaState>,
    /// What must survive: it was on disk.
    view_durable: View,
    log_view_durable: View,
    /// What must survive: others heard it.
    view_spoken: View,
}

#[derive(Debug)]
pub(super) struct Monotonic {
    replicas: Vec<Known>,
    compared: u64,
    failure: FirstFailure,
}

impl Monotonic {
    pub(super) fn new(replica_count: u8) -> Self {
        let replicas = (0..replica_count).map(|_| Known::default()).collect();
        Self { replicas, compared: 0, failure: FirstFailure::default() }
    }

    pub(super) fn on_restart(&mut self, replica: u8) {
        self.replicas[usize::from(replica)].state = None;
    }

    /// The replica's file is another one, which has promised nothing.
    pub(super) fn on_file_lost(&mut self, replica: u8) {
        self.replicas[usize::from(replica)] = Known::default();
    }

    /// The replica sent a message of `view` that only a participant of it may send. Judged with the
    /// next state: what is durable at this moment is not known yet.
    pub(super) fn on_view_spoken(&mut self, replica: u8, view: View) {
        let known = &mut self.replicas[usize::from(replica)];
        known.view_spoken = known.view_spoken.max(view);
    }

    pub(super) fn on_state(&mut self, replica: u8, state: &ReplicaState) -> Result<(), String> {
        let known = &mut self.replicas[usize::from(replica)];
        let mut wrong = inside(state);
        self.compared += 1;
        if state.view_durable.is_some_and(|durable| known.view_spoken > durable) {
            wrong = wrong.or(Some("it spoke of a view that is not durable"));
        }
        if let Some(before) = &known.state {
            wrong = wrong.or(between(before, state));
        } else if state.view < known.view_durable {
            wrong = wrong.or(Some("view is less than was durable before the restart"));
        } else if state.view < known.view_spoken {
            wrong = wrong.or(Some("view is less than was spoken before the restart"));
        } else if state.log_view < known.log_view_durable {
            wrong = wrong.or(Some("log_view is less than was durable before the restart"));
        }
        let result = match wrong {
            None => Ok(()),
            Some(reason) => Err(format!(
                "replica {replica}: {reason}: {state:?}, before {:?}, durable view {} and \
                 log_view {}, spoken view {}",
                known.state, known.view_durable.0, known.log_view_durable.0, known.view_spoken.0
            )),
        };
        let durable = (state.view_durable, state.log_view_durable);
        known.view_durable = known.view_durable.max(durable.0.unwrap_or_default());
        known.log_view_durable = known.log_view_durable.max(durable.1.unwrap_or_default());
        known.state = Some(state.clone());
        self.failure.note(result)
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "monotonic",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0,
            failure: self.failure.get(),
        }
    }
}

/// What is wrong with a state by itself.
fn inside(state: &ReplicaState) -> Option<&'static str> {
    let ReplicaState { view, log_view, op, commit_min, commit_max, .. } = *state;
    let rules = [
        (log_view <= view, "log_view is beyond view"),
        (commit_min <= commit_max, "commit_min is beyond commit_max"),
        (commit_min <= op, "commit_min is beyond op"),
        (state.view_durable.is_none_or(|durable| durable <= view), "a durable view is beyond view"),
        (
            state.log_view_durable.is_none_or(|durable| durable <= log_view),
            "a durable log_view is beyond log_view",
        ),
    ];
    broken(&rules)
}

/// What is wrong with a state after another of the same life.
fn between(before: &ReplicaState, after: &ReplicaState) -> Option<&'static str> {
    let rules = [
        (before.view <= after.view, "view went back"),
        (before.log_view <= after.log_view, "log_view went back"),
        (before.commit_min <= after.commit_min, "commit_min went back"),
        (before.commit_max <= after.commit_max, "commit_max went back"),
        (before.view_durable <= after.view_durable, "the durable view went back"),
        (before.log_view_durable <= after.log_view_durable, "the durable log_view went back"),
    ];
    broken(&rules)
}

fn broken(rules: &[(bool, &'static str)]) -> Option<&'static str> {
    rules.iter().find(|(holds, _)| !holds).map(|(_, reason)| *reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ReplicaState {
        ReplicaState {
            view: View(5),
            log_view: View(4),
            op: 30,
            commit_min: 10,
            commit_max: 20,
            op_checkpoint: 0,
            view_durable: Some(View(5)),
            log_view_durable: Some(View(3)),
            ..ReplicaState::default()
        }
    }

    /// Whether `after` passes behind [`state`], in the same life or the next.
    fn check(restart: bool, after: &ReplicaState) -> Result<(), String> {
        let mut monotonic = Monotonic::new(2);
        monotonic.on_view_spoken(0, View(5));
        monotonic.on_state(0, &state()).unwrap();
        if restart {
            monotonic.on_restart(0);
        }
        let result = monotonic.on_state(0, after);
        assert_eq!(monotonic.report().compared, 2);
        assert_eq!(monotonic.report().failure, result.clone().err());
        // Another replica is another matter.
        monotonic.on_state(1, &ReplicaState::default()).unwrap();
        result
    }

    #[test]
    fn what_grows_passes() {
        assert!(Monotonic::new(1).report().vacuous);
        check(false, &state()).unwrap();
        let view = View(6);
        check(false, &ReplicaState { view, log_view: view, op: 25, ..state() }).unwrap();
        let after = ReplicaState {
            commit_min: 0,
            commit_max: 0,
            op: 0,
            log_view: View(3),
            view_durable: None,
            log_view_durable: None,
            ..state()
        };
        check(true, &after).unwrap();
    }

    #[test]
    fn what_goes_back_does_not() {
        let wrong = [
            ReplicaState { view: View(4), view_durable: None, ..state() },
            ReplicaState { log_view: View(3), ..state() },
            ReplicaState { commit_min: 9, ..state() },
            ReplicaState { commit_max: 19, ..state() },
            ReplicaState { view_durable: Some(View(4)), ..state() },
            ReplicaState { log_view_durable: Some(View(2)), ..state() },
        ];
        wrong.iter().for_each(|state| assert!(check(false, state).is_err(), "{state:?}"));
        let wrong = [
            ReplicaState { view: View(4), view_durable: None, ..state() },
            ReplicaState { log_view: View(2), log_view_durable: None, ..state() },
        ];
        wrong.iter().for_each(|state| assert!(check(true, state).is_err(), "{state:?}"));
    }

    #[test]
    fn what_does_not_fit_together_does_not() {
        let wrong = [
            ReplicaState { log_view: View(6), ..state() },
            ReplicaState { commit_max: 9, ..state() },
            ReplicaState { op: 9, ..state() },
            ReplicaState { view_durable: Some(View(6)), ..state() },
            ReplicaState { log_view_durable: Some(View(5)), ..state() },
        ];
        for state in &wrong {
            assert!(Monotonic::new(1).on_state(0, state).is_err(), "{state:?}");
        }
    }

    #[test]
    fn what_is_spoken_is_durable_and_remembered() {
        let mut monotonic = Monotonic::new(1);
        monotonic.on_view_spoken(0, View(6));
        assert!(monotonic.on_state(0, &ReplicaState { view: View(6), ..state() }).is_err());
        let mut monotonic = Monotonic::new(1);
        monotonic.on_view_spoken(0, View(6));
        monotonic.on_restart(0);
        assert!(monotonic.on_state(0, &ReplicaState { view_durable: None, ..state() }).is_err());
    }
}
