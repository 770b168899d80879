//! F4: a kv reply as a value, and as bytes. The layout is drawn in [`super`].
//!
//! The state machine writes a reply piece by piece, because it does not know beforehand how many
//! rows will fit; [`Reply::encode`] is made of the same pieces.
//!
//! **Invariants:** decoding is total, allocates in proportion to the bytes that are there, and
//! accepts exactly what `encode` can produce.
//!
//! **Not here:** replies of the framework, which have a result other than 0 and no body.

use super::FORMAT;
use super::reader::Reader;
use std::fmt;

const REPLY_HEAD_SIZE: usize = 16;
const OUTCOME_HEAD_SIZE: usize = 8;
const RECORD_HEAD_SIZE: usize = 16;
/// The bytes around key and value in a reply with a single row.
pub(super) const AROUND_ROW: usize = REPLY_HEAD_SIZE + OUTCOME_HEAD_SIZE + 2 * RECORD_HEAD_SIZE;
/// The bytes around the value in the outcome of a failed compare.
pub(super) const AROUND_CURRENT: usize = OUTCOME_HEAD_SIZE + RECORD_HEAD_SIZE;

const REVISION_OFFSET: usize = 8;

const OUTCOME_DONE: u8 = 0;
const OUTCOME_COMPARE_FAILED: u8 = 1;

const KIND_CURRENT: u8 = 0;
const KIND_GET: u8 = 1;
const KIND_PUT: u8 = 2;
const KIND_DELETE: u8 = 3;
const KIND_SCAN: u8 = 4;
const KIND_ROW: u8 = 5;

const FLAG_FOUND: u8 = 1;
const FLAG_MORE: u8 = 2;
const FLAG_OMITTED: u8 = 4;

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply<'a> {
    /// The revision of the request if it wrote, else of the last one before it that did.
    pub revision: u64,
    /// One for each transaction.
    pub outcomes: Vec<Outcome<'a>>,
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome<'a> {
    /// All compares held: one result for each operation.
    Done(Vec<OperationResult<'a>>),
    /// Nothing was done.
    CompareFailed {
        /// The first compare that did not hold, from 0.
        index: u16,
        /// What its key had.
        current: Current<'a>,
    },
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperationResult<'a> {
    /// The record, if the key is there.
    Get(Option<Record<'a>>),
    /// It is stored, with the reply's revision.
    Put,
    /// It is not there (any more).
    Delete {
        /// Whether it was there.
        found: bool,
    },
    /// Keys of the range.
    Scan {
        /// In the order of the scan's direction.
        rows: Vec<Row<'a>>,
        /// Whether the range holds more: [`super::Scan::after`] the last row's key continues.
        more: bool,
    },
}

/// What a key had when a compare failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Current<'a> {
    /// It was not there.
    Absent,
    /// This.
    Found(Record<'a>),
    /// A value too large for this reply.
    Omitted {
        /// The revision that wrote it.
        revision: u64,
    },
}

/// A value and the revision that wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// The request that wrote it.
    pub revision: u64,
    /// The client's bytes.
    pub value: &'a [u8],
}

/// A key and its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row<'a> {
    /// The key.
    pub key: &'a [u8],
    /// What it has.
    pub record: Record<'a>,
}

/// Why bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidReply(pub &'static str);

impl fmt::Display for InvalidReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not a reply of kv: {}", self.0)
    }
}

impl<'a> Reply<'a> {
    /// The reply as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        put_head(&mut bytes, self.outcomes.len());
        set_revision(&mut bytes, self.revision);
        for outcome in &self.outcomes {
            match outcome {
                Outcome::Done(results) => {
                    put_outcome_done(&mut bytes, results.len());
                    results.iter().for_each(|result| result.put(&mut bytes));
                }
                Outcome::CompareFailed { index, current } => {
                    put_outcome_compare_failed(&mut bytes, usize::from(*index), current);
                }
            }
        }
        bytes
    }

    /// Takes bytes apart. Total: any bytes are a reply or a reason.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, InvalidReply> {
        Self::read(Reader::new(bytes)).map_err(InvalidReply)
    }

    fn read(mut reader: Reader<'a>) -> Result<Self, &'static str> {
        reader.format()?;
        let outcome_count = reader.u16()?;
        reader.zeros(4)?;
        let mut reply = Self { revision: reader.u64()?, outcomes: Vec::new() };
        for _ in 0..outcome_count {
            reply.outcomes.push(Outcome::read(&mut reader)?);
        }
        reader.end()?;
        Ok(reply)
    }
}

impl<'a> Outcome<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let kind = reader.u8()?;
        reader.zeros(1)?;
        let count = reader.u16()?;
        reader.zeros(4)?;
        match kind {
            OUTCOME_DONE => {
                let mut results = Vec::new();
                for _ in 0..count {
                    results.push(OperationResult::read(reader)?);
                }
                Ok(Self::Done(results))
            }
            OUTCOME_COMPARE_FAILED => {
                Ok(Self::CompareFailed { index: count, current: Current::read(reader)? })
            }
            _ => Err("unknown outcome"),
        }
    }
}

impl<'a> OperationResult<'a> {
    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Get(record) => put_get(bytes, *record),
            Self::Put => put_put(bytes),
            Self::Delete { found } => put_delete(bytes, *found),
            Self::Scan { rows, more } => {
                let head = put_scan(bytes);
                rows.iter().for_each(|row| put_row(bytes, row));
                let row_count = u32::try_from(rows.len()).expect("bounded by SCAN_ROWS_MAX");
                set_scan(&mut bytes[head..], row_count, *more);
            }
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let head = RecordHead::read(reader)?;
        match head.kind {
            KIND_GET => {
                head.check(FLAG_FOUND)?;
                if head.flags & FLAG_FOUND == 0 {
                    head.check_empty()?;
                    return Ok(Self::Get(None));
                }
                Ok(Self::Get(Some(head.record(reader)?)))
            }
            KIND_PUT => {
                head.check(0)?;
                head.check_empty()?;
                Ok(Self::Put)
            }
            KIND_DELETE => {
                head.check(FLAG_FOUND)?;
                head.check_empty()?;
                Ok(Self::Delete { found: head.flags & FLAG_FOUND != 0 })
            }
            KIND_SCAN => {
                head.check(FLAG_MORE)?;
                if head.revision != 0 {
                    return Err("a revision where none belongs");
                }
                let mut rows = Vec::new();
                for _ in 0..head.value_size {
                    rows.push(Row::read(reader)?);
                }
                Ok(Self::Scan { rows, more: head.flags & FLAG_MORE != 0 })
            }
            _ => Err("unknown result"),
        }
    }
}

impl<'a> Current<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let head = RecordHead::read(reader)?;
        if head.kind != KIND_CURRENT {
            return Err("a failed compare without the current value");
        }
        head.check(FLAG_FOUND | FLAG_OMITTED)?;
        match (head.flags & FLAG_FOUND != 0, head.flags & FLAG_OMITTED != 0) {
            (true, false) => Ok(Self::Found(head.record(reader)?)),
            (true, true) if head.value_size == 0 => Ok(Self::Omitted { revision: head.revision }),
            (true, true) => Err("a value that is omitted and there"),
            (false, false) => {
                head.check_empty()?;
                Ok(Self::Absent)
            }
            (false, true) => Err("a value that is omitted and absent"),
        }
    }
}

impl<'a> Row<'a> {
    /// What it takes of a reply, in bytes.
    pub(super) fn size(&self) -> usize {
        RECORD_HEAD_SIZE + self.key.len() + self.record.value.len()
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let head = RecordHead::read(reader)?;
        if head.kind != KIND_ROW || head.flags != 0 {
            return Err("a row was expected");
        }
        let key = reader.bytes(usize::from(head.key_size))?;
        Ok(Self { key, record: head.record(reader)? })
    }
}

/// A record as it lies in the reply, without what follows it.
struct RecordHead {
    kind: u8,
    flags: u8,
    key_size: u16,
    value_size: u32,
    revision: u64,
}

impl RecordHead {
    fn read(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        Ok(Self {
            kind: reader.u8()?,
            flags: reader.u8()?,
            key_size: reader.u16()?,
            value_size: reader.u32()?,
            revision: reader.u64()?,
        })
    }

    /// Only a row has a key.
    fn check(&self, flags: u8) -> Result<(), &'static str> {
        if self.flags & !flags != 0 {
            return Err("unknown flags");
        }
        if self.key_size == 0 { Ok(()) } else { Err("a key where none belongs") }
    }

    fn check_empty(&self) -> Result<(), &'static str> {
        let empty = self.value_size == 0 && self.revision == 0;
        if empty { Ok(()) } else { Err("a value or revision where none belongs") }
    }

    fn record<'a>(&self, reader: &mut Reader<'a>) -> Result<Record<'a>, &'static str> {
        let value = reader.bytes(self.value_size as usize)?;
        Ok(Record { revision: self.revision, value })
    }
}

/// Begins a reply; its revision comes later.
pub(super) fn put_head(bytes: &mut Vec<u8>, outcome_count: usize) {
    assert!(bytes.is_empty());
    bytes.extend_from_slice(&[FORMAT, 0]);
    bytes.extend_from_slice(&count_u16(outcome_count).to_le_bytes());
    bytes.extend_from_slice(&[0; REPLY_HEAD_SIZE - 4]);
}

/// Completes the head of a reply.
pub(super) fn set_revision(bytes: &mut [u8], revision: u64) {
    bytes[REVISION_OFFSET..REPLY_HEAD_SIZE].copy_from_slice(&revision.to_le_bytes());
}

pub(super) fn put_outcome_done(bytes: &mut Vec<u8>, result_count: usize) {
    put_outcome(bytes, OUTCOME_DONE, result_count);
}

pub(super) fn put_outcome_compare_failed(bytes: &mut Vec<u8>, index: usize, current: &Current<'_>) {
    put_outcome(bytes, OUTCOME_COMPARE_FAILED, index);
    match *current {
        Current::Absent => put_record(bytes, KIND_CURRENT, 0, &[], 0, &[]),
        Current::Found(record) => {
            put_record(bytes, KIND_CURRENT, FLAG_FOUND, &[], record.revision, record.value);
        }
        Current::Omitted { revision } => {
            put_record(bytes, KIND_CURRENT, FLAG_FOUND | FLAG_OMITTED, &[], revision, &[]);
        }
    }
}

pub(super) fn put_get(bytes: &mut Vec<u8>, record: Option<Record<'_>>) {
    match record {
        Some(record) => put_record(bytes, KIND_GET, FLAG_FOUND, &[], record.revision, record.value),
        None => put_record(bytes, KIND_GET, 0, &[], 0, &[]),
    }
}

pub(super) fn put_put(bytes: &mut Vec<u8>) {
    put_record(bytes, KIND_PUT, 0, &[], 0, &[]);
}

pub(super) fn put_delete(bytes: &mut Vec<u8>, found: bool) {
    put_record(bytes, KIND_DELETE, if found { FLAG_FOUND } else { 0 }, &[], 0, &[]);
}

/// Begins the result of a scan, and says where its head is, for [`set_scan`].
pub(super) fn put_scan(bytes: &mut Vec<u8>) -> usize {
    let head = bytes.len();
    put_record(bytes, KIND_SCAN, 0, &[], 0, &[]);
    head
}

pub(super) fn put_row(bytes: &mut Vec<u8>, row: &Row<'_>) {
    let size_before = bytes.len();
    put_record(bytes, KIND_ROW, 0, row.key, row.record.revision, row.record.value);
    assert_eq!(bytes.len() - size_before, row.size());
}

/// Completes the head of a scan's result.
pub(super) fn set_scan(head: &mut [u8], row_count: u32, more: bool) {
    assert_eq!(head[0], KIND_SCAN);
    head[1] = if more { FLAG_MORE } else { 0 };
    head[4..8].copy_from_slice(&row_count.to_le_bytes());
}

fn put_outcome(bytes: &mut Vec<u8>, kind: u8, count: usize) {
    bytes.extend_from_slice(&[kind, 0]);
    bytes.extend_from_slice(&count_u16(count).to_le_bytes());
    bytes.extend_from_slice(&[0; 4]);
}

fn put_record(bytes: &mut Vec<u8>, kind: u8, flags: u8, key: &[u8], revision: u64, value: &[u8]) {
    let value_size = u32::try_from(value.len()).expect("bounded by VALUE_SIZE_MAX");
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&count_u16(key.len()).to_le_bytes());
    bytes.extend_from_slice(&value_size.to_le_bytes());
    bytes.extend_from_slice(&revision.to_le_bytes());
    bytes.extend_from_slice(key);
    bytes.extend_from_slice(value);
}

fn count_u16(count: usize) -> u16 {
    u16::try_from(count).expect("bounded by STEPS_MAX or KEY_SIZE_MAX")
}
