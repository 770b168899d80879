//! F6: blocks that are bad here and that nobody has sent: who waits for them, for how long, and
//! what comes of it.
//!
//! ```text
//!   bad ──► missing ──► a peer sends it, or it reads well after all ──► on
//!             │ nobody has it
//!             ├── one replica: nobody ever will ──────────► fatal, once something waits for it
//!             ├── a query waits: given up, so that others are answered, in the log or past it
//!             └── a prepare or a load waits: so it must. The replica says so; as a primary it
//!                 lets another one lead, as a backup it asks for a newer checkpoint
//! ```
//!
//! **Invariants:** what is missing is asked for as long as it is; what waits for a block that does
//! not come keeps nothing waiting that can do without it, but for the ops behind it in the log.
//!
//! **Not here:** asking and sending (`blocks`); which blocks are bad (`store`).

use super::Server;
use super::blocks::LOST_TICKS;
use crate::constants::TICK_NS;
use crate::fatal::{Fatal, FatalKind};
use crate::state_machine::StateMachine;
use crate::wire::{BlockRef, Op};
use std::collections::BTreeMap;

/// Ticks until a query that waits for a block which is missing is given up: its client asks again.
const QUERY_TICKS: u64 = 100;
/// Ticks between two attempts at a prepare that waits for one.
const ATTEMPT_TICKS: u64 = 20;
/// Ticks between two looks of a lone replica whether what is bad is bad still.
const AGAIN_TICKS: u64 = 100;
/// Ticks after which a block that nobody sends is spoken of; then after twice as many, and so on.
const LOG_TICKS: u64 = 300;

/// Since when which blocks are missing.
#[derive(Debug, Default)]
pub(super) struct Missing {
    since: BTreeMap<BlockRef, u64>,
    /// The age of the oldest, in ticks, that was spoken of last; 0 for none.
    told_ticks: u64,
    /// What was executed when execution was last seen to wait for one, while it is no further.
    waiting_at: Option<Op>,
}

impl Missing {
    fn note(&mut self, missing: impl Iterator<Item = BlockRef>, ticks: u64) {
        let before = std::mem::take(&mut self.since);
        self.since =
            missing.map(|block| (block, before.get(&block).copied().unwrap_or(ticks))).collect();
        assert!(self.since.values().all(|since| *since <= ticks));
    }

    /// Whether execution waits for a block that is missing, behind op `executed`. Between two
    /// attempts, when nothing is awaited for a moment, it still does.
    fn judge_waiting(&mut self, is_awaited: bool, is_executing: bool, executed: Op) -> bool {
        let is_waiting = !self.since.is_empty() && self.waiting_at == Some(executed);
        self.waiting_at = (is_executing && (is_awaited || is_waiting)).then_some(executed);
        self.waiting_at.is_some()
    }

    /// For how many ticks the block is missing.
    fn age(&self, block: &BlockRef, ticks: u64) -> u64 {
        self.since.get(block).map_or(0, |since| ticks - since)
    }

    /// The block that is missing for longest and for how many ticks, if it is time to speak of it.
    fn take_news(&mut self, ticks: u64) -> Option<(BlockRef, u64)> {
        let oldest = self.since.iter().min_by_key(|(_, since)| **since);
        let Some((block, since)) = oldest.map(|(block, since)| (*block, *since)) else {
            self.told_ticks = 0;
            return None;
        };
        let age = ticks - since;
        if age < self.told_ticks {
            // Another one is the oldest by now.
            self.told_ticks = 0;
        }
        if age < LOG_TICKS.max(2 * self.told_ticks) {
            return None;
        }
        self.told_ticks = age;
        Some((block, age))
    }
}

impl<S: StateMachine> Server<S> {
    /// Once a tick.
    ///
    /// # Errors
    /// A lone replica cannot go on without a block that is bad.
    pub(super) fn missing_tick(&mut self) -> Result<(), Fatal> {
        let ticks = self.ticks;
        self.blocks.missing.note(self.executor.store().missing(), ticks);
        let awaited = self.executor.store().awaited();
        let is_executing = self.blocks.suspended.is_some() || self.replica.is_loading();
        let executed = self.replica.commit_min();
        let is_waiting =
            self.blocks.missing.judge_waiting(awaited.is_some(), is_executing, executed);
        self.replica.set_awaits_block(is_waiting);
        if let Some((block, age)) = self.blocks.missing.take_news(ticks) {
            self.log_missing(&block, age, awaited.as_ref());
        }
        let is_alone = self.replica.replica_count() == 1;
        if is_alone && ticks.is_multiple_of(AGAIN_TICKS) {
            self.executor.store_mut().read_missing_again(&mut self.effects.requests);
        }
        let Some(block) = awaited else { return Ok(()) };
        let age = self.blocks.missing.age(&block, ticks);
        if is_alone && age >= LOST_TICKS {
            return Err(self.fatal_missing(&block));
        }
        if !is_alone && age >= QUERY_TICKS {
            self.release_attempts();
        }
        Ok(())
    }

    /// Lets others by who wait behind what cannot go on. A query changes nothing, also one that has
    /// a place in the log: it can be left out. An op cannot.
    fn release_attempts(&mut self) {
        let is_query = match &self.blocks.suspended {
            Some(prepare) => self.executor.give_up_query(prepare),
            None if self.replica.is_loading() => return,
            None => self.queries.pop_front().is_some(),
        };
        if is_query {
            log::debug!("{}: giving a query up: a block is missing", self.replica);
        }
        // Now and then an op is tried again: it may wait for what a query had missed.
        let is_op = self.blocks.suspended.is_some() && !is_query;
        if !is_op || self.ticks.is_multiple_of(ATTEMPT_TICKS) {
            self.executor.store_mut().release_attempts();
        }
    }

    fn log_missing(&self, block: &BlockRef, age: u64, awaited: Option<&BlockRef>) {
        let seconds = age * TICK_NS / 1_000_000_000;
        let waiting = match awaited {
            _ if self.replica.awaits_block() => "execution is waiting",
            Some(_) => "a query is waiting",
            None => "nothing is waiting",
        };
        let others = if self.replica.replica_count() == 1 {
            "there is nobody to fetch it from"
        } else {
            "no other replica has sent it yet"
        };
        log::warn!(
            "{}: {} is damaged here for {seconds} s, and {others} ({} in all): {waiting} for \
             block {}",
            self.replica,
            name_of(block),
            self.blocks.missing.since.len(),
            awaited.unwrap_or(block).index,
        );
    }

    fn fatal_missing(&self, block: &BlockRef) -> Fatal {
        let op_checkpoint = self.executor.store().checkpoint().op;
        let remedy = if block.op > op_checkpoint {
            "start it again: it computes the block from its log"
        } else {
            "restore the data file from a backup; `vsr inspect integrity` tells what else is \
             damaged"
        };
        Fatal::new(
            FatalKind::BlockLost,
            format!(
                "{}: {} of checkpoint {op_checkpoint} is damaged, and a lone replica has nobody \
                 to fetch it from: {remedy}",
                self.replica,
                name_of(block)
            ),
        )
    }
}

/// A block as a person reads it.
fn name_of(block: &BlockRef) -> String {
    let BlockRef { index, op, checksum, checksum_body } = *block;
    format!("block {index} (op {op}, checksums {checksum:08x} {checksum_body:08x})")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(index: u32) -> BlockRef {
        BlockRef { index, op: 32, checksum: 1, checksum_body: 2 }
    }

    #[test]
    fn what_is_missing_is_told_at_growing_intervals() {
        let mut missing = Missing::default();
        let mut told = Vec::new();
        for ticks in 10..5000 {
            // A second one comes later and is the oldest when the first is there.
            let first = (ticks < 3000).then(|| block(1));
            let second = (ticks >= 2800).then(|| block(2));
            missing.note(first.into_iter().chain(second), ticks);
            told.extend(missing.take_news(ticks).map(|(block, age)| (block.index, age)));
        }
        assert_eq!(told, [(1, 300), (1, 600), (1, 1200), (1, 2400), (2, 300), (2, 600), (2, 1200)]);
        assert_eq!(missing.age(&block(2), 5000), 2200);
        assert_eq!(missing.age(&block(1), 5000), 0);
        missing.note(std::iter::empty(), 5000);
        assert_eq!(missing.take_news(5000), None);
    }

    #[test]
    fn execution_waits_until_it_gets_on() {
        let mut missing = Missing::default();
        missing.note([block(1)].into_iter(), 1);
        assert!(!missing.judge_waiting(false, true, 40), "it reads");
        assert!(!missing.judge_waiting(true, false, 40), "a query waits");
        assert!(missing.judge_waiting(true, true, 40));
        assert!(missing.judge_waiting(false, true, 40), "it is tried again");
        assert!(!missing.judge_waiting(false, true, 41), "it got on");
        assert!(missing.judge_waiting(true, true, 41));
        assert!(!missing.judge_waiting(false, false, 41), "it has executed all there is");
        assert!(missing.judge_waiting(true, true, 41));
        missing.note(std::iter::empty(), 2);
        assert!(!missing.judge_waiting(false, true, 41), "it is there");
    }
}
