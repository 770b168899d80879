//! What was acknowledged is there at the end, and what was refused is not.
//!
//! ```text
//!   acknowledged writes of a key ──► the last one ──► the row of each live replica
//!                                        │
//!                                        └── or something later that explains the row
//!   values of calls that were not done ──► in no row
//! ```
//!
//! **Invariants:** every replica is compared by itself, and with all others that have executed as
//! much.
//!
//! **Not here:** what clients saw on the way (`order`, `linearizability`).

use super::call::Record;
use super::effects::{Effects, Seen, is_not_done};
use super::history::{History, NEVER};
use super::{CheckerReport, FinalState};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

pub(super) fn report(
    history: &History,
    effects: &Effects<'_>,
    finals: &[FinalState],
) -> CheckerReport {
    let mut compared = 0;
    let alike = finals.windows(2).find_map(|pair| differ(&pair[0], &pair[1]));
    let failure = alike.or_else(|| {
        finals.iter().find_map(|state| {
            check(history, effects, state, &mut compared)
                .map_err(|reason| format!("replica {}: {reason}", state.replica))
                .err()
        })
    });
    let vacuous = compared == 0;
    CheckerReport { name: "acknowledged", compared, undecided: 0, vacuous, failure }
}

/// How two replicas differ that should not.
fn differ(a: &FinalState, b: &FinalState) -> Option<String> {
    if a.op != b.op || (a.revision == b.revision && a.rows == b.rows) {
        return None;
    }
    let of = |state: &FinalState| -> BTreeMap<Bytes, Record> {
        state.rows.iter().map(|row| (row.key.clone(), row.record.clone())).collect()
    };
    let (rows_a, rows_b) = (of(a), of(b));
    let mut keys = rows_a.keys().chain(rows_b.keys());
    let key = keys.find(|key| rows_a.get(*key) != rows_b.get(*key));
    let what = key.map_or("the counter".into(), |key| {
        format!("{key:?}: {:?} and {:?}", rows_a.get(key), rows_b.get(key))
    });
    let (op, a, b) = (a.op, a.replica, b.replica);
    Some(format!("at op {op} replicas {a} and {b} differ in {what}"))
}

fn check(
    history: &History,
    effects: &Effects<'_>,
    state: &FinalState,
    compared: &mut u64,
) -> Result<(), String> {
    let rows: BTreeMap<&Bytes, &Record> =
        state.rows.iter().map(|row| (&row.key, &row.record)).collect();
    for key in effects.keys() {
        let seen = rows.get(key).map_or(Seen::Absent, |record| Seen::Record((*record).clone()));
        effects.check(key, state.revision, &seen, NEVER)?;
    }
    for (entry, done) in history.done().filter(|(_, done)| done.observed.wrote()) {
        *compared += 1;
        let key = entry.call.key().expect("writes have one key");
        let at = rows.get(key).map(|record| record.revision);
        if done.revision > state.revision {
            return Err(format!("only {} writes happened: {}", state.revision, entry.describe()));
        }
        if at.is_some_and(|at| at < done.revision) {
            return Err(format!("{key:?} has an older record: {}", entry.describe()));
        }
    }
    // A value counts as refused only if nobody else was allowed to write it.
    let (refused, allowed): (Vec<_>, Vec<_>) =
        history.entries().iter().partition(|entry| is_not_done(entry));
    let allowed: BTreeSet<_> =
        allowed.iter().map(|it| (it.call.key(), it.call.value_written())).collect();
    for entry in refused {
        *compared += 1;
        let (key, value) = (entry.call.key(), entry.call.value_written());
        let row = key.and_then(|key| rows.get(key)).map(|record| &record.value);
        if value.is_some() && row == value && !allowed.contains(&(key, value)) {
            return Err(format!("it was not done, and is there: {}", entry.describe()));
        }
    }
    Ok(())
}
