//! What has happened: a rolling hash of every event and of the bytes that arrived at processes and
//! disks, the last events for the report of a failure, and the lines of `--log`.
//!
//! **Invariants:** the hash is a function of integers alone, the same in every build and on every
//! machine; whether lines are written changes nothing else.
//!
//! **Not here:** what the events mean.

use std::collections::VecDeque;

/// How many events a report of a crash shows.
const LAST_MAX: usize = 24;

/// One event: when, to which process, what, and two numbers that say more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Virtual time, ns.
    pub(crate) time: u64,
    /// Which process.
    pub(crate) process: usize,
    /// What: a fixed name.
    pub(crate) what: &'static str,
    /// The meaning depends on `what`.
    pub(crate) a: u64,
    /// The meaning depends on `what`.
    pub(crate) b: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<Entry>,
}

impl Trace {
    pub(crate) fn new(seed: u64) -> Self {
        let mut trace = Self { hash: 0, events: 0, last: VecDeque::with_capacity(LAST_MAX) };
        trace.mix(seed);
        trace
    }

    /// Takes an event in.
    pub(crate) fn note(&mut self, entry: Entry) {
        self.events += 1;
        self.mix(entry.time);
        self.mix(entry.process as u64);
        // Names are the same in every build; a few of their bytes tell them apart.
        let name =
            entry.what.bytes().fold(0, |sum: u64, byte| (sum << 5) ^ (sum >> 59) ^ u64::from(byte));
        self.mix(name);
        self.mix(entry.a);
        self.mix(entry.b);
        if self.last.len() == LAST_MAX {
            self.last.pop_front();
        }
        self.last.push_back(entry);
    }

    /// Takes a number into the hash alone.
    pub(crate) fn mix(&mut self, number: u64) {
        self.hash = (self.hash.rotate_left(23) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// The hash of everything so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash ^ (self.hash >> 29)
    }

    /// How many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The last events, the oldest first.
    pub(crate) fn last(&self) -> impl Iterator<Item = &Entry> {
        self.last.iter()
    }
}
