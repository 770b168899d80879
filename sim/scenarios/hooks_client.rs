//! Clients that do what a scenario tells them, one step after the other, instead of drawing calls.
//!
//! **Invariants:** what came of each call is kept, in order; every call goes to the checkers.

use super::{Budget, CallResult, Checkers, ClientSlot, Options, Phase};
use crate::sim::scenarios::Step;
use crate::sim::scheduler::MS;

impl ClientSlot {
    /// Whether a step of its script is left, or a call has no end.
    pub(crate) fn is_busy(&self) -> bool {
        let is_left = self.script.as_ref().is_some_and(|script| !script.steps.is_empty());
        is_left || self.call.is_some() || matches!(self.phase, Phase::Leaving { .. })
    }

    /// Whether its session is open.
    pub(crate) fn is_registered(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.core().is_registered())
    }

    pub(super) fn note_result(&mut self, result: &CallResult) {
        if let Some(script) = &mut self.script {
            script.results.push(result.clone());
        }
    }

    /// Does what is due by the script. False if there is none, or something is in flight.
    pub(super) fn on_time_scripted(
        &mut self,
        now: u64,
        options: &Options,
        budget: &mut Budget,
        checkers: &mut Checkers,
    ) -> bool {
        let Some(script) = &mut self.script else { return false };
        match self.phase {
            Phase::Away { until } if now >= until => {
                if script.steps.is_empty() {
                    self.phase = Phase::Away { until: now + 5 * MS };
                } else {
                    self.come(now, options);
                }
                true
            }
            Phase::Idle { until } if now >= until => {
                match script.steps.pop_front() {
                    None => self.phase = Phase::Idle { until: now + 5 * MS },
                    Some(Step::Register) => {}
                    Some(Step::Leave) => self.end_session(now, options, budget, checkers),
                    Some(Step::Call { call, is_query }) => {
                        budget.max += 1;
                        self.invoke(call, is_query, now, options, budget, checkers);
                    }
                }
                true
            }
            Phase::Away { .. } | Phase::Idle { .. } => true,
            Phase::Registering { .. } | Phase::InFlight { .. } | Phase::Leaving { .. } => false,
        }
    }

    /// The process dies at once, whatever it has in flight.
    pub(crate) fn vanish_now(&mut self, budget: &mut Budget, checkers: &mut Checkers) {
        let now = self.world.borrow().scheduler.now();
        self.vanish();
        self.leave(now, CallResult::Unknown, budget, checkers);
    }
}
