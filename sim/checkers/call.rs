//! Calls of kv clients and what came of them, as the checkers compare them.
//!
//! ```text
//!   Call ── request() ──► bytes ──► client ──► cluster ──► Answer ── result() ──► CallResult
//! ```
//!
//! | result | the call was executed |
//! |---|---|
//! | `Done` | once, between invocation and return |
//! | `NotDone` | never, and never will be |
//! | `Unknown` | at most once, at any time after its invocation, or never |
//!
//! **Invariants:** a `Done` has an observation of the kind of its call; bytes that are no reply to
//! the call are a reason, which the driver reports as a failure of the cluster.
//!
//! **Not here:** whether what was observed is right.

use bytes::Bytes;
use vsr::client::Answer;
use vsr::state_machine::kv::{
    self, Compare, Condition, Operation, OperationResult, Outcome, Reply, Request, Scan,
};
use vsr::state_machine::{Direction, RESULT_OK};
use vsr::wire::Op;

/// What a client asks. Keys are not empty. No two calls write the same value under the same key:
/// let each value contain its client and a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// Stores `value`.
    Put {
        /// Under this key.
        key: Bytes,
        /// In place of any other.
        value: Bytes,
    },
    /// Reads a key.
    Get {
        /// Which.
        key: Bytes,
    },
    /// Deletes a key.
    Delete {
        /// Which.
        key: Bytes,
    },
    /// Stores `new` if the key has `old`.
    Cas {
        /// Which key.
        key: Bytes,
        /// What it must have; `None`: it must be absent.
        old: Option<Bytes>,
        /// What it has then.
        new: Bytes,
    },
    /// Reads keys of `start..end`, forward.
    Scan {
        /// The first key; empty: before all keys.
        start: Bytes,
        /// The first key behind the range; empty: after all keys.
        end: Bytes,
        /// The most rows, 1 to `SCAN_ROWS_MAX`.
        limit: u32,
    },
}

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallResult {
    /// It was executed.
    Done(Done),
    /// It was not executed and will not be: rejected, never sent, or executed without any effect
    /// (a reply that is too large).
    NotDone,
    /// Nobody knows.
    Unknown,
}

/// The answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Done {
    /// The op that carried it; for a query, at which it was answered.
    pub(crate) op: Op,
    /// The timestamp of its entry, ns. Not looked at for `Get` and `Scan`, which may be queries.
    pub(crate) timestamp: u64,
    /// The counter of writes after it: its own revision if it wrote.
    pub(crate) revision: u64,
    /// What it saw.
    pub(crate) observed: Observed,
}

/// What a call saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Observed {
    /// `Put`: it is stored.
    Put,
    /// `Get`: the record, if the key is there.
    Get(Option<Record>),
    /// `Delete`: whether there was something to delete.
    Delete {
        /// If not, nothing was written.
        found: bool,
    },
    /// `Cas`: `new` is stored.
    CasDone,
    /// `Cas`: nothing is stored.
    CasFailed(Current),
    /// `Scan`.
    Scan {
        /// In the order of keys.
        rows: Vec<Row>,
        /// Whether the range holds more behind the last row.
        more: bool,
    },
}

/// What the key of a failed `Cas` had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Current {
    /// Nothing.
    Absent,
    /// This.
    Found(Record),
    /// A value too large for the reply.
    Omitted {
        /// The write it is of.
        revision: u64,
    },
}

/// A value and the write it is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The write.
    pub(crate) revision: u64,
    /// The value.
    pub(crate) value: Bytes,
}

/// A key and its record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    /// The key.
    pub(crate) key: Bytes,
    /// What it has.
    pub(crate) record: Record,
}

impl Call {
    /// The request of kv that says the same.
    pub(crate) fn request(&self) -> Vec<u8> {
        match self {
            Self::Put { key, value } => Request::put(key, value),
            Self::Get { key } => Request::get(key),
            Self::Delete { key } => Request::delete(key),
            Self::Cas { key, old, new } => {
                let condition = old.as_deref().map_or(Condition::Absent, Condition::Value);
                let put = Operation::Put { key, value: new };
                Request::transaction(vec![Compare { key, condition }], vec![put])
            }
            Self::Scan { start, end, limit } => {
                assert!((1..=kv::SCAN_ROWS_MAX).contains(limit));
                let direction = Direction::Forward;
                Request::scan(Scan { start, start_excluded: false, end, direction, limit: *limit })
            }
        }
        .encode()
    }

    /// Whether it changes nothing, and so may be a query.
    pub(crate) fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan { .. })
    }

    /// Its one key; `None` for a scan.
    pub(crate) fn key(&self) -> Option<&Bytes> {
        match self {
            Self::Put { key, .. }
            | Self::Get { key }
            | Self::Delete { key }
            | Self::Cas { key, .. } => Some(key),
            Self::Scan { .. } => None,
        }
    }

    /// The value it writes if it takes effect.
    pub(crate) fn value_written(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } | Self::Cas { new: value, .. } => Some(value),
            Self::Get { .. } | Self::Delete { .. } | Self::Scan { .. } => None,
        }
    }

    /// Takes the answer to this call apart.
    ///
    /// # Errors
    /// Why it is no answer to this call: then the cluster, or the client, is broken.
    pub(crate) fn result(&self, answer: &Answer) -> Result<CallResult, String> {
        if answer.result != RESULT_OK {
            if answer.body.is_empty() {
                return Ok(CallResult::NotDone);
            }
            return Err(format!("result {} with a body, for {self:?}", answer.result));
        }
        let reply = Reply::decode(&answer.body).map_err(|error| error.to_string())?;
        let [outcome] = &reply.outcomes[..] else {
            return Err(format!("{} outcomes for {self:?}", reply.outcomes.len()));
        };
        let observed = self.observed(outcome);
        let observed = observed.ok_or_else(|| format!("{outcome:?} for {self:?}"))?;
        let Answer { op, timestamp, .. } = *answer;
        Ok(CallResult::Done(Done { op, timestamp, revision: reply.revision, observed }))
    }

    fn observed(&self, outcome: &Outcome<'_>) -> Option<Observed> {
        let results = match outcome {
            Outcome::Done(results) => results,
            Outcome::CompareFailed { index: 0, current } if matches!(self, Self::Cas { .. }) => {
                return Some(Observed::CasFailed(Current::of(current)));
            }
            Outcome::CompareFailed { .. } => return None,
        };
        let [result] = &results[..] else { return None };
        match (self, result) {
            (Self::Put { .. }, OperationResult::Put) => Some(Observed::Put),
            (Self::Cas { .. }, OperationResult::Put) => Some(Observed::CasDone),
            (Self::Get { .. }, OperationResult::Get(record)) => {
                Some(Observed::Get(record.as_ref().map(Record::of)))
            }
            (Self::Delete { .. }, OperationResult::Delete { found }) => {
                Some(Observed::Delete { found: *found })
            }
            (Self::Scan { .. }, OperationResult::Scan { rows, more }) => {
                Some(Observed::Scan { rows: rows.iter().map(Row::of).collect(), more: *more })
            }
            _ => None,
        }
    }

    /// Whether `observed` is an observation that this call can make.
    pub(crate) fn can_observe(&self, observed: &Observed) -> bool {
        matches!(
            (self, observed),
            (Self::Put { .. }, Observed::Put)
                | (Self::Get { .. }, Observed::Get(_))
                | (Self::Delete { .. }, Observed::Delete { .. })
                | (Self::Cas { .. }, Observed::CasDone | Observed::CasFailed(_))
                | (Self::Scan { .. }, Observed::Scan { .. })
        )
    }
}

impl Observed {
    /// Whether the call that saw this wrote, and so has a revision of its own.
    pub(crate) fn wrote(&self) -> bool {
        match self {
            Self::Put | Self::CasDone | Self::Delete { found: true } => true,
            Self::Get(_)
            | Self::Delete { found: false }
            | Self::CasFailed(_)
            | Self::Scan { .. } => false,
        }
    }
}

impl Current {
    fn of(current: &kv::Current<'_>) -> Self {
        match current {
            kv::Current::Absent => Self::Absent,
            kv::Current::Found(record) => Self::Found(Record::of(record)),
            kv::Current::Omitted { revision } => Self::Omitted { revision: *revision },
        }
    }
}

impl Record {
    fn of(record: &kv::Record<'_>) -> Self {
        Self { revision: record.revision, value: Bytes::copy_from_slice(record.value) }
    }
}

impl Row {
    fn of(row: &kv::Row<'_>) -> Self {
        Self { key: Bytes::copy_from_slice(row.key), record: Record::of(&row.record) }
    }
}
