//! No call takes effect twice.
//!
//! ```text
//!   a value ──► its revisions           at most one for each call that may have written it
//!   a value ──► cas that replaced it    at most one for each time it was there
//!   the counter of writes               holes <= unknown calls that nobody saw the record of,
//!                                       each begun before the hole
//! ```
//!
//! The last is what finds a second execution that a later write has covered: the counter has moved
//! once more than calls can account for.
//!
//! **Invariants:** a call that was not done may not have taken effect once.
//!
//! **Not here:** replies to requests that were sent again (`replies`).

use super::call::{Call, Observed};
use super::effects::{Effects, is_not_done, records};
use super::history::{Entry, History};
use super::{CheckerReport, FinalState};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// A key and a value.
type Pair<'a> = (&'a Bytes, &'a Bytes);

pub(super) fn report(
    history: &History,
    effects: &Effects<'_>,
    finals: &[FinalState],
) -> CheckerReport {
    let mut compared = 0;
    let failure = check_values(history, finals, &mut compared)
        .and_then(|()| check_replaced(history, &mut compared))
        .and_then(|()| check_holes(history, effects, &mut compared))
        .err();
    let vacuous = compared == 0;
    CheckerReport { name: "at_most_once", compared, undecided: 0, vacuous, failure }
}

/// The calls that may have written each value.
fn authors(history: &History) -> BTreeMap<Pair<'_>, Vec<&Entry>> {
    let mut authors: BTreeMap<Pair<'_>, Vec<&Entry>> = BTreeMap::new();
    for entry in history.entries() {
        let failed = entry.done().is_some_and(|done| !done.observed.wrote());
        if let (Some(key), Some(value)) = (entry.call.key(), entry.call.value_written()) {
            let list = authors.entry((key, value)).or_default();
            if !failed && !is_not_done(entry) {
                list.push(entry);
            }
        }
    }
    authors
}

fn check_values(
    history: &History,
    finals: &[FinalState],
    compared: &mut u64,
) -> Result<(), String> {
    let authors = authors(history);
    let mut revisions: BTreeMap<Pair<'_>, BTreeSet<u64>> = BTreeMap::new();
    for (entry, done) in history.done() {
        let own = entry.call.key().zip(entry.call.value_written());
        if let Some(pair) = own.filter(|_| done.observed.wrote()) {
            revisions.entry(pair).or_default().insert(done.revision);
        }
        for (key, record) in records(entry, &done.observed) {
            revisions.entry((key, &record.value)).or_default().insert(record.revision);
        }
    }
    for row in finals.iter().flat_map(|state| &state.rows) {
        let pair = (&row.key, &row.record.value);
        revisions.entry(pair).or_default().insert(row.record.revision);
    }
    for (pair, revisions) in revisions {
        *compared += 1;
        let authors = authors.get(&pair).map_or(&[][..], Vec::as_slice);
        if revisions.len() > authors.len() {
            let authors: Vec<String> = authors.iter().map(|entry| entry.describe()).collect();
            return Err(format!(
                "{:?} became {:?} at revisions {revisions:?}, by {} calls: {authors:?}",
                pair.0,
                pair.1,
                authors.len()
            ));
        }
    }
    Ok(())
}

/// A value that is written once can be replaced by one cas.
fn check_replaced(history: &History, compared: &mut u64) -> Result<(), String> {
    let authors = authors(history);
    let mut replaced: BTreeMap<Pair<'_>, Vec<&Entry>> = BTreeMap::new();
    for (entry, done) in history.done() {
        if let (Call::Cas { key, old: Some(old), .. }, Observed::CasDone) =
            (&entry.call, &done.observed)
        {
            replaced.entry((key, old)).or_default().push(entry);
        }
    }
    for (pair, entries) in replaced {
        *compared += 1;
        if entries.len() > authors.get(&pair).map_or(0, Vec::len) {
            let entries: Vec<String> = entries.iter().map(|entry| entry.describe()).collect();
            return Err(format!("{:?} was replaced too often: {entries:?}", pair.1));
        }
    }
    Ok(())
}

/// Each hole needs a call of its own, which began before the counter was known to be there.
fn check_holes(history: &History, effects: &Effects<'_>, compared: &mut u64) -> Result<(), String> {
    let floors = history.floors();
    // The revisions that were taken when each unknown call began, least first.
    let mut taken: Vec<u64> = effects.unseen().map(|entry| floors.at(entry.invoked).0).collect();
    taken.sort_unstable();
    // The calls that can fill the least hole can fill all others, and so on: whether each hole has
    // its own is seen by counting.
    for (count, hole) in effects.holes().into_iter().enumerate() {
        *compared += 1;
        let able = taken.partition_point(|floor| *floor < hole);
        if able <= count {
            return Err(format!(
                "{} writes up to revision {hole} are nobody's, and only {able} calls with an \
                 unknown outcome began before",
                count + 1
            ));
        }
    }
    Ok(())
}
