//! One order explains everything: that of the revisions, the ops, the timestamps and real time.
//!
//! kv's counter of writes puts all calls in one order, over all keys. That order is replayed, and
//! each result compared with what must have been there; it must be the order of the log; and what
//! had ended before something else began must come before it.
//!
//! ```text
//!   done calls, by (revision, writes first, op):
//!
//!   revision    4          4        4        5          7          7
//!               put a ───► get a ─► scan ──► delete b   cas a ───► get b     sees writes <= 7
//!   op          31    <=   31   <=  33   <=  33     <=  40    <=   41        never less
//!   timestamp   …10   <                      …15    <   …21                  of the log's: more
//!
//!   moment ────► whoever begins after a return with revision r: at least r, a write more
//! ```
//!
//! It is quick and covers reads of many keys at once, but trusts the counter.
//!
//! **Invariants:** compares every done call; stops at the first contradiction.
//!
//! **Not here:** histories without trust in the counter (`linearizability`).

use super::CheckerReport;
use super::call::{Call, Current, Done, Observed};
use super::effects::{Effects, Seen, in_range, sights};
use super::history::{Entry, History};
use bytes::Bytes;
use std::collections::BTreeSet;

pub(super) fn report(history: &History, effects: &Effects<'_>) -> CheckerReport {
    let mut order = Order { effects, compared: 0 };
    let failure = effects.contradiction().or_else(|| order.check(history).err());
    let compared = order.compared;
    CheckerReport { name: "order", compared, undecided: 0, vacuous: compared == 0, failure }
}

struct Order<'a> {
    effects: &'a Effects<'a>,
    compared: u64,
}

impl Order<'_> {
    fn check(&mut self, history: &History) -> Result<(), String> {
        self.check_real_time(history)?;
        self.check_log(history)?;
        let keys: BTreeSet<&Bytes> = self.effects.keys().collect();
        for (entry, done) in history.done() {
            check_shape(entry, done)?;
            self.check_sights(entry, done, &keys)?;
        }
        Ok(())
    }

    /// What ended before something else began comes before it.
    fn check_real_time(&mut self, history: &History) -> Result<(), String> {
        let floors = history.floors();
        for (entry, done) in history.done() {
            self.compared += 1;
            let (revision, op) = floors.at(entry.invoked);
            let revision_min = revision + u64::from(done.observed.wrote());
            if done.revision < revision_min || done.op < op {
                return Err(format!(
                    "revision {revision} and op {op} were known before it began: {}",
                    entry.describe()
                ));
            }
        }
        for (entry, seen) in self.effects.seen() {
            self.compared += 1;
            let (revision, _) = floors.at(entry.invoked);
            if seen <= revision {
                return Err(format!(
                    "it has revision {seen}, and {revision} was known before it began: {}",
                    entry.describe()
                ));
            }
        }
        Ok(())
    }

    /// The order of the revisions is that of the log.
    fn check_log(&mut self, history: &History) -> Result<(), String> {
        let mut calls: Vec<(&Entry, &Done)> = history.done().collect();
        calls.sort_by_key(|(_, done)| {
            (done.revision, !done.observed.wrote(), done.op, done.timestamp)
        });
        for pair in calls.windows(2) {
            self.compared += 1;
            let [(before, before_done), (after, after_done)] = pair else { unreachable!("two") };
            if before_done.op > after_done.op {
                return Err(format!(
                    "the log has them the other way round: {}; {}",
                    before.describe(),
                    after.describe()
                ));
            }
        }
        calls.retain(|(entry, _)| !entry.call.is_read());
        for pair in calls.windows(2) {
            self.compared += 1;
            let [(before, before_done), (after, after_done)] = pair else { unreachable!("two") };
            if before_done.timestamp >= after_done.timestamp {
                return Err(format!(
                    "timestamps do not increase: {}; {}",
                    before.describe(),
                    after.describe()
                ));
            }
        }
        Ok(())
    }

    /// What the call saw was there.
    fn check_sights(
        &mut self,
        entry: &Entry,
        done: &Done,
        keys: &BTreeSet<&Bytes>,
    ) -> Result<(), String> {
        let revision = done.revision - u64::from(done.observed.wrote());
        for (key, seen) in sights(entry, &done.observed, keys) {
            self.compared += 1;
            let result = self.effects.check(key, revision, &seen, entry.returned);
            result.map_err(|reason| format!("{reason}: {}", entry.describe()))?;
        }
        let (Call::Scan { start, end, .. }, Observed::Scan { rows, more: true }) =
            (&entry.call, &done.observed)
        else {
            return Ok(());
        };
        let last = &rows.last().expect("checked by check_shape").key;
        let beyond = keys.iter().filter(|key| **key > last && in_range(key, start, end));
        let more = beyond
            .into_iter()
            .any(|key| self.effects.check(key, revision, &Seen::Present, entry.returned).is_ok());
        if more { Ok(()) } else { Err(format!("there was no more: {}", entry.describe())) }
    }
}

/// Whether a result makes sense by itself.
fn check_shape(entry: &Entry, done: &Done) -> Result<(), String> {
    let wrong = match (&entry.call, &done.observed) {
        (Call::Cas { old, .. }, Observed::CasFailed(current)) => match (current, old) {
            (Current::Absent, None) => Some("it was absent, as it should be"),
            (Current::Found(record), Some(old)) if record.value == old => {
                Some("it had the value that it should have")
            }
            _ => None,
        },
        (Call::Scan { start, end, limit }, Observed::Scan { rows, more }) => {
            let mut keys = rows.iter().map(|row| &row.key);
            if rows.len() > *limit as usize {
                Some("more rows than wanted")
            } else if *more && rows.is_empty() {
                Some("no row, but more")
            } else if !keys.clone().is_sorted_by(|a, b| a < b) {
                Some("the rows are not in order")
            } else if keys.any(|key| !in_range(key, start, end)) {
                Some("a row outside of the range")
            } else {
                None
            }
        }
        _ => None,
    };
    wrong.map_or(Ok(()), |reason| Err(format!("{reason}: {}", entry.describe())))
}
