//! What all clients asked and were told, in the order in which it happened.
//!
//! ```text
//!   moment     0    1    2    3    4    5                 a moment is one invocation or return:
//!   client 7   ├────Put──────┤    ├────── … (unknown)     the world is one thread, so moments
//!   client 9        ├───Get──────────┤                    are strictly ordered even when the
//!                                                         virtual time stands still
//! ```
//!
//! **Invariants:** a client has one call at a time; moments increase; a call that is not `Done` has
//! no end, because what it did may still be about to happen; what was never returned is unknown; no
//! value is written twice under one key.
//!
//! **Not here:** judging.

use super::call::{Call, CallResult, Done};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use vsr::wire::Op;

/// The moment at which a call without a known end ends.
pub(super) const NEVER: u64 = u64::MAX;

/// One call of one client.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) client: u64,
    pub(super) call: Call,
    /// The moment of its invocation.
    pub(super) invoked: u64,
    /// The moment of its return; [`NEVER`] unless it is done.
    pub(super) returned: u64,
    /// The virtual times of both, ns, for messages.
    pub(super) invoked_at: u64,
    pub(super) returned_at: u64,
    pub(super) result: CallResult,
}

/// The highest revision and op that anybody had been told, after each return.
#[derive(Debug)]
pub(super) struct Floors(BTreeMap<u64, (u64, Op)>);

/// All calls.
#[derive(Debug, Default)]
pub(super) struct History {
    /// By invocation.
    entries: Vec<Entry>,
    /// The open call of each client that has one.
    open: BTreeMap<u64, usize>,
    /// Of all writes, with their keys.
    values: BTreeSet<(Bytes, Bytes)>,
    moment_next: u64,
    time: u64,
}

impl History {
    pub(super) fn on_invoke(&mut self, client: u64, time: u64, call: Call) {
        let invoked = self.moment(time);
        let open = self.open.insert(client, self.entries.len());
        assert_eq!(open, None, "client {client} has one call at a time");
        if let (Some(key), Some(value)) = (call.key(), call.value_written()) {
            let unique = self.values.insert((key.clone(), value.clone()));
            assert!(unique, "{value:?} is written twice under {key:?}");
        }
        let result = CallResult::Unknown;
        self.entries.push(Entry {
            client,
            call,
            invoked,
            returned: NEVER,
            invoked_at: time,
            returned_at: NEVER,
            result,
        });
    }

    pub(super) fn on_return(&mut self, client: u64, time: u64, result: CallResult) {
        let returned = self.moment(time);
        let index = self.open.remove(&client).expect("what returns was invoked");
        let entry = &mut self.entries[index];
        assert!(entry.invoked < returned);
        if let CallResult::Done(done) = &result {
            assert!(entry.call.can_observe(&done.observed), "{done:?} of {:?}", entry.call);
            entry.returned = returned;
        }
        entry.returned_at = time;
        entry.result = result;
    }

    /// All calls, by invocation.
    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The calls that are done.
    pub(super) fn done(&self) -> impl Iterator<Item = (&Entry, &Done)> {
        self.entries.iter().filter_map(|entry| Some((entry, entry.done()?)))
    }

    /// The calls that may have changed something, nobody knows.
    pub(super) fn unknown_writes(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().filter(|(_, entry)| entry.is_unknown_write())
    }

    /// What was known at each moment.
    pub(super) fn floors(&self) -> Floors {
        let mut returns: Vec<(u64, u64, Op)> =
            self.done().map(|(entry, done)| (entry.returned, done.revision, done.op)).collect();
        returns.sort_unstable();
        let mut floor = (0, 0);
        let mut floors = BTreeMap::from([(0, floor)]);
        for (returned, revision, op) in returns {
            floor = (floor.0.max(revision), floor.1.max(op));
            floors.insert(returned, floor);
        }
        Floors(floors)
    }

    /// The moment after all others.
    pub(super) fn end(&self) -> u64 {
        self.moment_next
    }

    fn moment(&mut self, time: u64) -> u64 {
        assert!(time >= self.time, "virtual time never goes back");
        self.time = time;
        self.moment_next += 1;
        self.moment_next - 1
    }
}

impl Floors {
    /// What somebody had been told before `moment`: a revision and an op.
    pub(super) fn at(&self, moment: u64) -> (u64, Op) {
        *self.0.range(..=moment).next_back().expect("one at 0").1
    }
}

impl Entry {
    pub(super) fn done(&self) -> Option<&Done> {
        match &self.result {
            CallResult::Done(done) => Some(done),
            CallResult::NotDone | CallResult::Unknown => None,
        }
    }

    pub(super) fn is_unknown_write(&self) -> bool {
        self.result == CallResult::Unknown && !self.call.is_read()
    }

    /// For messages: who, what, when and what came of it.
    pub(super) fn describe(&self) -> String {
        let Self { client, call, invoked_at, returned_at, result, .. } = self;
        let end = if *returned_at == NEVER { "…".into() } else { returned_at.to_string() };
        format!("client {client} [{invoked_at}, {end}] {call:?}: {result:?}")
    }
}
