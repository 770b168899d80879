//! The writes of a run, each at its revision: what all results together say that happened.
//!
//! kv counts its writes, and every reply tells the count: one order over all keys. A done write
//! names its own revision; a write whose caller was told nothing is known when somebody saw its
//! record; the rest are *holes*.
//!
//! ```text
//!   revision    1        2        3        4        5        6
//!   known       put a    put b    ·        delete a ·        put b
//!   by          done     done     hole     done     hole     unknown, its record was seen
//! ```
//!
//! A result is compared with the last known write before it. Where that does not fit, a hole
//! between the two must explain it, by an unknown call that can have made the difference. A record
//! that was seen needs no such grace: it is in the table itself.
//!
//! **Invariants:** a revision has one effect; an unknown call has at most one; the table never
//! holds what contradicts it: the first contradiction is kept beside it.
//!
//! **Not here:** which holes explain what all at once (`linearizability` is exact, key by key).

use super::call::{Call, CallResult, Current, Observed, Record, Row};
use super::history::{Entry, History, NEVER};
use super::{FinalState, FirstFailure};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// What was written under a key: a value, or `None` by a delete.
type Written = Option<Bytes>;

/// What a call saw of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    Absent,
    /// The record.
    Record(Record),
    /// The value, without its revision.
    Value(Bytes),
    /// The revision, without its value.
    Revision(u64),
    /// Something.
    Present,
}

/// All that is known of the writes of a run.
#[derive(Debug)]
pub(super) struct Effects<'a> {
    history: &'a History,
    by_revision: BTreeMap<u64, Bytes>,
    by_key: BTreeMap<Bytes, BTreeMap<u64, Written>>,
    /// The unknown writes that may explain a key, by key: indexes of entries.
    unknown: BTreeMap<Bytes, Vec<usize>>,
    /// The unknown writes of which a record was seen, with its revision.
    seen: BTreeMap<usize, u64>,
    revision_max: u64,
    contradiction: FirstFailure,
}

impl<'a> Effects<'a> {
    pub(super) fn new(history: &'a History, finals: &[FinalState]) -> Self {
        let mut effects = Self {
            history,
            by_revision: BTreeMap::new(),
            by_key: BTreeMap::new(),
            unknown: BTreeMap::new(),
            seen: BTreeMap::new(),
            revision_max: 0,
            contradiction: FirstFailure::default(),
        };
        for (index, entry) in history.unknown_writes() {
            let key = entry.call.key().expect("writes have one key").clone();
            effects.unknown.entry(key).or_default().push(index);
        }
        for entry in history.entries() {
            if let Some(key) = entry.call.key() {
                effects.by_key.entry(key.clone()).or_default();
            }
        }
        for (entry, done) in history.done().filter(|(_, done)| done.observed.wrote()) {
            let result = effects.add_done(entry, done.revision);
            let _ = effects.contradiction.note(result);
        }
        for (entry, done) in history.done() {
            effects.revision_max = effects.revision_max.max(done.revision);
            for (key, record) in records(entry, &done.observed) {
                let result = effects.add_record(key, record, entry.returned);
                let result = result.map_err(|reason| format!("{reason}: {}", entry.describe()));
                let _ = effects.contradiction.note(result);
            }
        }
        for state in finals {
            effects.revision_max = effects.revision_max.max(state.revision);
            for Row { key, record } in &state.rows {
                let result = effects.add_record(key, record, NEVER);
                let replica = state.replica;
                let result = result.map_err(|reason| format!("{reason}: at replica {replica}"));
                let _ = effects.contradiction.note(result);
            }
        }
        effects
    }

    /// The first thing that cannot be.
    pub(super) fn contradiction(&self) -> Option<String> {
        self.contradiction.get()
    }

    /// All keys that anybody named or saw.
    pub(super) fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.by_key.keys()
    }

    /// The unknown calls of which a record was seen, and its revision.
    pub(super) fn seen(&self) -> impl Iterator<Item = (&Entry, u64)> {
        self.seen.iter().map(|(index, revision)| (&self.history.entries()[*index], *revision))
    }

    /// The unknown writes that nobody saw the record of.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &Entry> {
        let unknown = self.history.unknown_writes();
        unknown.filter(|(index, _)| !self.seen.contains_key(index)).map(|(_, entry)| entry)
    }

    /// The revisions that no known write has.
    pub(super) fn holes(&self) -> Vec<u64> {
        (1..=self.revision_max).filter(|it| !self.by_revision.contains_key(it)).collect()
    }

    /// Whether `key` can have been as it was `seen`, when all writes up to `revision` and no others
    /// were done, by somebody who was told so at the moment `returned`.
    pub(super) fn check(
        &self,
        key: &Bytes,
        revision: u64,
        seen: &Seen,
        returned: u64,
    ) -> Result<(), String> {
        let known = self.by_key.get(key).expect("a key somebody named");
        let last = known.range(..=revision).next_back();
        let (at, written) = last.map_or((0, &None), |(at, written)| (*at, written));
        let fits = match (seen, written) {
            (Seen::Absent, None) | (Seen::Present, Some(_)) => true,
            (Seen::Record(record), Some(value)) => record.revision == at && record.value == value,
            (Seen::Value(seen), Some(value)) => seen == value,
            (Seen::Revision(seen), Some(_)) => *seen == at,
            _ => false,
        };
        if fits || self.explained(key, (at, revision), seen, returned) {
            return Ok(());
        }
        Err(format!(
            "at revision {revision} key {key:?} was seen {seen:?}, \
             and the last known write is {written:?} at {at}"
        ))
    }

    /// Whether a write that nobody saw the record of can have made `key` what was seen: one in a
    /// hole of `after.0 < hole <= after.1`.
    fn explained(&self, key: &Bytes, after: (u64, u64), seen: &Seen, returned: u64) -> bool {
        let (at, revision) = after;
        let hole = match seen {
            // What was seen with its revision is in the table; where it is not, it is the hole.
            Seen::Record(_) => return false,
            Seen::Revision(hole) => {
                at < *hole && *hole <= revision && !self.by_revision.contains_key(hole)
            }
            Seen::Absent | Seen::Value(_) | Seen::Present => {
                (at + 1..=revision).any(|it| !self.by_revision.contains_key(&it))
            }
        };
        let Some(unknown) = self.unknown.get(key).filter(|_| hole) else { return false };
        unknown.iter().any(|index| {
            let entry = &self.history.entries()[*index];
            let wrote = entry.call.value_written();
            let suits = match seen {
                Seen::Absent => wrote.is_none(),
                Seen::Value(value) => wrote == Some(value),
                Seen::Present | Seen::Revision(_) => wrote.is_some(),
                Seen::Record(_) => false,
            };
            suits && entry.invoked < returned && !self.seen.contains_key(index)
        })
    }

    fn add_done(&mut self, entry: &Entry, revision: u64) -> Result<(), String> {
        let key = entry.call.key().expect("writes have one key");
        if revision == 0 {
            return Err(format!("a write without a revision: {}", entry.describe()));
        }
        if let Some(other) = self.by_revision.get(&revision) {
            return Err(format!(
                "revision {revision} is also that of a write of {other:?}: {}",
                entry.describe()
            ));
        }
        self.insert(key, revision, entry.call.value_written().cloned());
        Ok(())
    }

    fn add_record(&mut self, key: &Bytes, record: &Record, returned: u64) -> Result<(), String> {
        let Record { revision, value } = record;
        self.revision_max = self.revision_max.max(*revision);
        if self.by_revision.contains_key(revision) {
            let known = self.by_key.get(key).and_then(|writes| writes.get(revision));
            return match known {
                Some(Some(known)) if known == value => Ok(()),
                _ => Err(format!("the record {record:?} of {key:?} is not what was written")),
            };
        }
        let candidates = self.unknown.get(key).map_or(&[][..], Vec::as_slice);
        let author = candidates.iter().copied().find(|index| {
            let entry = &self.history.entries()[*index];
            let writes = entry.call.value_written() == Some(value);
            writes && entry.invoked < returned && !self.seen.contains_key(index)
        });
        let Some(author) = author else {
            return Err(format!(
                "nobody can have written the record {record:?} of {key:?}{}",
                self.blame(key, value)
            ));
        };
        self.seen.insert(author, *revision);
        self.insert(key, *revision, Some(value.clone()));
        Ok(())
    }

    fn insert(&mut self, key: &Bytes, revision: u64, written: Written) {
        assert!(revision > 0);
        let before = self.by_revision.insert(revision, key.clone());
        assert_eq!(before, None, "a revision has one effect");
        self.by_key.entry(key.clone()).or_default().insert(revision, written);
        self.revision_max = self.revision_max.max(revision);
    }

    /// For messages: the calls that name the value, though they cannot have written the record.
    fn blame(&self, key: &Bytes, value: &Bytes) -> String {
        let entries = self.history.entries().iter();
        let named = entries.filter(|entry| {
            entry.call.key() == Some(key) && entry.call.value_written() == Some(value)
        });
        named.map(|entry| format!("; it is the value of {}", entry.describe())).collect()
    }
}

/// The records that a call saw, with their keys.
pub(super) fn records<'a>(
    entry: &'a Entry,
    observed: &'a Observed,
) -> Vec<(&'a Bytes, &'a Record)> {
    match observed {
        Observed::Get(Some(record)) | Observed::CasFailed(Current::Found(record)) => {
            vec![(entry.call.key().expect("one key"), record)]
        }
        Observed::Scan { rows, .. } => rows.iter().map(|row| (&row.key, &row.record)).collect(),
        Observed::Get(None)
        | Observed::Put
        | Observed::Delete { .. }
        | Observed::CasDone
        | Observed::CasFailed(Current::Absent | Current::Omitted { .. }) => Vec::new(),
    }
}

/// What a call saw of each key, among `keys` for a scan. A put sees nothing.
pub(super) fn sights<'a>(
    entry: &'a Entry,
    observed: &'a Observed,
    keys: &BTreeSet<&'a Bytes>,
) -> Vec<(&'a Bytes, Seen)> {
    let key = entry.call.key();
    let one = |seen| vec![(key.expect("one key"), seen)];
    match (&entry.call, observed) {
        (_, Observed::Put) => Vec::new(),
        (_, Observed::Get(None) | Observed::Delete { found: false }) => one(Seen::Absent),
        (_, Observed::Get(Some(record))) => one(Seen::Record(record.clone())),
        (_, Observed::Delete { found: true }) => one(Seen::Present),
        (Call::Cas { old, .. }, Observed::CasDone) => {
            one(old.clone().map_or(Seen::Absent, Seen::Value))
        }
        (_, Observed::CasFailed(current)) => one(match current {
            Current::Absent => Seen::Absent,
            Current::Found(record) => Seen::Record(record.clone()),
            Current::Omitted { revision } => Seen::Revision(*revision),
        }),
        (Call::Scan { start, end, .. }, Observed::Scan { rows, more }) => {
            let last = rows.last().map(|row| &row.key);
            let found: BTreeMap<&Bytes, &Record> =
                rows.iter().map(|row| (&row.key, &row.record)).collect();
            let covered = keys.iter().copied().filter(|key| {
                in_range(key, start, end) && (!*more || last.is_some_and(|last| *key <= last))
            });
            let absent = covered.filter(|key| !found.contains_key(key));
            let absent = absent.map(|key| (key, Seen::Absent));
            let present = found.iter().map(|(key, it)| (*key, Seen::Record((*it).clone())));
            present.chain(absent).collect()
        }
        (call, observed) => unreachable!("{observed:?} of {call:?}"),
    }
}

/// Whether a key belongs to `start..end`, where an empty end is none.
pub(super) fn in_range(key: &Bytes, start: &Bytes, end: &Bytes) -> bool {
    key >= start && (end.is_empty() || key < end)
}

/// Whether a call was not executed, and never will be.
pub(super) fn is_not_done(entry: &Entry) -> bool {
    entry.result == CallResult::NotDone
}
