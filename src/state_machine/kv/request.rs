//! F4: a kv request as a value, and as bytes. The layout is drawn in [`super`].
//!
//! **Invariants:** decoding is total, allocates in proportion to the bytes that are there, and
//! accepts exactly what `encode` can produce.
//!
//! **Not here:** what the store says to it.

use super::reader::Reader;
use super::{FORMAT, KEY_SIZE_MAX, SCAN_ROWS_MAX, STEPS_MAX, VALUE_SIZE_MAX};
use crate::state_machine::{Direction, InvalidRequest};

const REQUEST_HEAD_SIZE: usize = 4;
const TRANSACTION_HEAD_SIZE: usize = 4;
const STEP_HEAD_SIZE: usize = 8;
/// The bytes around key and value in a request with a single put.
pub(super) const AROUND_PUT: usize = REQUEST_HEAD_SIZE + TRANSACTION_HEAD_SIZE + STEP_HEAD_SIZE;

const FLAG_BACKWARD: u8 = 1;
const FLAG_START_EXCLUDED: u8 = 2;

/// Independent transactions, carried out in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// At least one.
    pub transactions: Vec<Transaction<'a>>,
}

/// If all compares hold, all operations; else none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction<'a> {
    /// What must hold. With none, the operations are carried out.
    pub compares: Vec<Compare<'a>>,
    /// What is to be done, in order. May be none if there is a compare.
    pub operations: Vec<Operation<'a>>,
}

/// A condition on one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compare<'a> {
    /// Which key, 1 to [`KEY_SIZE_MAX`] bytes.
    pub key: &'a [u8],
    /// What must hold for it.
    pub condition: Condition<'a>,
}

/// What must hold for a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition<'a> {
    /// It is not there.
    Absent,
    /// It is there.
    Present,
    /// It has this value, at most [`VALUE_SIZE_MAX`] bytes.
    Value(&'a [u8]),
    /// The request with this revision wrote it last.
    Revision(u64),
}

/// One thing to do. Keys are 1 to [`KEY_SIZE_MAX`] bytes, values at most [`VALUE_SIZE_MAX`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation<'a> {
    /// Reads a key.
    Get {
        /// Which.
        key: &'a [u8],
    },
    /// Stores a value.
    Put {
        /// Under which key.
        key: &'a [u8],
        /// In place of any other.
        value: &'a [u8],
    },
    /// Deletes a key, if it is there.
    Delete {
        /// Which.
        key: &'a [u8],
    },
    /// Reads a range of keys.
    Scan(Scan<'a>),
}

/// A range of keys, and how much of it from which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan<'a> {
    /// The first key of the range, at most [`KEY_SIZE_MAX`] bytes; empty: before all keys.
    pub start: &'a [u8],
    /// Whether a key equal to `start` is left out. Not with an empty `start`.
    pub start_excluded: bool,
    /// Where the range ends, at most [`KEY_SIZE_MAX`] bytes: a key equal to it is left out; empty:
    /// after all keys.
    pub end: &'a [u8],
    /// From which end.
    pub direction: Direction,
    /// The most rows wanted; 0 or more than [`SCAN_ROWS_MAX`] is [`SCAN_ROWS_MAX`].
    pub limit: u32,
}

impl<'a> Request<'a> {
    /// A request with one transaction.
    pub fn transaction(compares: Vec<Compare<'a>>, operations: Vec<Operation<'a>>) -> Self {
        Self { transactions: vec![Transaction { compares, operations }] }
    }

    /// A request with one operation.
    pub fn operation(operation: Operation<'a>) -> Self {
        Self::transaction(Vec::new(), vec![operation])
    }

    /// Reads a key.
    pub fn get(key: &'a [u8]) -> Self {
        Self::operation(Operation::Get { key })
    }

    /// Stores a value under a key.
    pub fn put(key: &'a [u8], value: &'a [u8]) -> Self {
        Self::operation(Operation::Put { key, value })
    }

    /// Deletes a key.
    pub fn delete(key: &'a [u8]) -> Self {
        Self::operation(Operation::Delete { key })
    }

    /// Stores `new` under a key that has the value `old`.
    pub fn compare_and_set(key: &'a [u8], old: &'a [u8], new: &'a [u8]) -> Self {
        let compare = Compare { key, condition: Condition::Value(old) };
        Self::transaction(vec![compare], vec![Operation::Put { key, value: new }])
    }

    /// Reads a range of keys.
    pub fn scan(scan: Scan<'a>) -> Self {
        Self::operation(Operation::Scan(scan))
    }

    /// Whether it has neither put nor delete, and so may be a query.
    pub fn is_read_only(&self) -> bool {
        let operations = self.transactions.iter().flat_map(|transaction| &transaction.operations);
        operations.into_iter().all(Operation::is_read)
    }

    /// Why this cannot be a request; `None` if it can.
    pub fn invalid(&self) -> Option<&'static str> {
        if self.transactions.is_empty() {
            return Some("no transaction");
        }
        let mut steps = 0;
        for transaction in &self.transactions {
            let count = transaction.compares.len() + transaction.operations.len();
            if count == 0 {
                return Some("an empty transaction");
            }
            steps += count;
            if steps > STEPS_MAX {
                return Some("more than 4096 compares and operations");
            }
            let compares = transaction.compares.iter().filter_map(Compare::invalid);
            let operations = transaction.operations.iter().filter_map(Operation::invalid);
            if let Some(reason) = compares.chain(operations).next() {
                return Some(reason);
            }
        }
        None
    }

    /// The request as bytes. It must not be [`Self::invalid`].
    pub fn encode(&self) -> Vec<u8> {
        assert_eq!(self.invalid(), None);
        let mut bytes = vec![FORMAT, 0];
        bytes.extend_from_slice(&count_u16(self.transactions.len()).to_le_bytes());
        for transaction in &self.transactions {
            bytes.extend_from_slice(&count_u16(transaction.compares.len()).to_le_bytes());
            bytes.extend_from_slice(&count_u16(transaction.operations.len()).to_le_bytes());
            transaction.compares.iter().for_each(|compare| compare.put(&mut bytes));
            transaction.operations.iter().for_each(|operation| operation.put(&mut bytes));
        }
        bytes
    }

    /// Takes bytes apart. Total: any bytes are a request or a reason.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, InvalidRequest> {
        Self::read(Reader::new(bytes)).map_err(InvalidRequest)
    }

    fn read(mut reader: Reader<'a>) -> Result<Self, &'static str> {
        reader.format()?;
        let mut request = Self { transactions: Vec::new() };
        for _ in 0..reader.u16()? {
            let (compare_count, operation_count) = (reader.u16()?, reader.u16()?);
            let mut transaction = Transaction::default();
            for _ in 0..compare_count {
                transaction.compares.push(Compare::read(&mut reader)?);
            }
            for _ in 0..operation_count {
                transaction.operations.push(Operation::read(&mut reader)?);
            }
            request.transactions.push(transaction);
        }
        reader.end()?;
        match request.invalid() {
            Some(reason) => Err(reason),
            None => Ok(request),
        }
    }
}

impl<'a> Compare<'a> {
    fn invalid(&self) -> Option<&'static str> {
        match self.condition {
            Condition::Value(value) => invalid_key(self.key).or_else(|| invalid_value(value)),
            Condition::Absent | Condition::Present | Condition::Revision(_) => {
                invalid_key(self.key)
            }
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self.condition {
            Condition::Absent => put_step(bytes, 1, 0, self.key, &[]),
            Condition::Present => put_step(bytes, 2, 0, self.key, &[]),
            Condition::Value(value) => put_step(bytes, 3, 0, self.key, &[value]),
            Condition::Revision(revision) => {
                put_step(bytes, 4, 0, self.key, &[&revision.to_le_bytes()]);
            }
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let Step { kind, flags, key, value } = Step::read(reader)?;
        let condition = match kind {
            1 => Condition::Absent,
            2 => Condition::Present,
            3 => Condition::Value(value),
            4 => Condition::Revision(u64::from_le_bytes(
                value.try_into().map_err(|_| "a revision is 8 bytes")?,
            )),
            _ => return Err("unknown compare"),
        };
        if flags != 0 {
            return Err("flags of a compare");
        }
        if kind < 3 && !value.is_empty() {
            return Err("a value where none belongs");
        }
        Ok(Self { key, condition })
    }
}

impl<'a> Operation<'a> {
    /// The key it touches; of a scan the start.
    pub fn key(&self) -> &'a [u8] {
        match *self {
            Self::Get { key } | Self::Put { key, .. } | Self::Delete { key } => key,
            Self::Scan(scan) => scan.start,
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(self, Self::Get { .. } | Self::Scan(_))
    }

    fn invalid(&self) -> Option<&'static str> {
        match *self {
            Self::Get { key } | Self::Delete { key } => invalid_key(key),
            Self::Put { key, value } => invalid_key(key).or_else(|| invalid_value(value)),
            Self::Scan(scan) => scan.invalid(),
        }
    }

    fn put(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Get { key } => put_step(bytes, 1, 0, key, &[]),
            Self::Put { key, value } => put_step(bytes, 2, 0, key, &[value]),
            Self::Delete { key } => put_step(bytes, 3, 0, key, &[]),
            Self::Scan(scan) => {
                let mut flags = 0;
                if scan.direction == Direction::Backward {
                    flags |= FLAG_BACKWARD;
                }
                if scan.start_excluded {
                    flags |= FLAG_START_EXCLUDED;
                }
                put_step(bytes, 4, flags, scan.start, &[&scan.limit.to_le_bytes(), scan.end]);
            }
        }
    }

    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let Step { kind, flags, key, value } = Step::read(reader)?;
        if kind != 4 && flags != 0 {
            return Err("flags of an operation");
        }
        if (kind == 1 || kind == 3) && !value.is_empty() {
            return Err("a value where none belongs");
        }
        match kind {
            1 => Ok(Self::Get { key }),
            2 => Ok(Self::Put { key, value }),
            3 => Ok(Self::Delete { key }),
            4 => {
                if flags & !(FLAG_BACKWARD | FLAG_START_EXCLUDED) != 0 {
                    return Err("flags of a scan");
                }
                let (limit, end) = value.split_first_chunk().ok_or("a scan without a limit")?;
                let backward = flags & FLAG_BACKWARD != 0;
                Ok(Self::Scan(Scan {
                    start: key,
                    start_excluded: flags & FLAG_START_EXCLUDED != 0,
                    end,
                    direction: if backward { Direction::Backward } else { Direction::Forward },
                    limit: u32::from_le_bytes(*limit),
                }))
            }
            _ => Err("unknown operation"),
        }
    }
}

impl<'a> Scan<'a> {
    /// All keys, forward.
    pub fn all() -> Self {
        Self {
            start: &[],
            start_excluded: false,
            end: &[],
            direction: Direction::Forward,
            limit: 0,
        }
    }

    /// The keys that begin with `prefix`, forward. `end` must be [`prefix_end`] of it.
    pub fn prefix(prefix: &'a [u8], end: &'a [u8]) -> Self {
        assert_eq!(prefix_end(prefix), end);
        Self { start: prefix, end, ..Self::all() }
    }

    /// What is left of the range after a reply whose last row had this key.
    pub fn after(self, key: &'a [u8]) -> Self {
        match self.direction {
            Direction::Forward => Self { start: key, start_excluded: true, ..self },
            Direction::Backward => Self { end: key, ..self },
        }
    }

    /// The most rows it answers with.
    pub fn rows_max(&self) -> u32 {
        if self.limit == 0 { SCAN_ROWS_MAX } else { self.limit.min(SCAN_ROWS_MAX) }
    }

    fn invalid(&self) -> Option<&'static str> {
        if self.start.len() > KEY_SIZE_MAX || self.end.len() > KEY_SIZE_MAX {
            return Some("a bound longer than a key");
        }
        (self.start.is_empty() && self.start_excluded).then_some("an excluded start that is empty")
    }
}

/// The end of the range of keys that begin with `prefix`: empty if it is open.
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    // Whatever follows a byte 0xff at the end cannot be raised; the byte before it can.
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if let Some(next) = last.checked_add(1) {
            end.push(next);
            break;
        }
    }
    end
}

/// A compare or an operation as it lies in the request.
struct Step<'a> {
    kind: u8,
    flags: u8,
    key: &'a [u8],
    value: &'a [u8],
}

impl<'a> Step<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<Self, &'static str> {
        let (kind, flags) = (reader.u8()?, reader.u8()?);
        let (key_size, value_size) = (reader.u16()?, reader.u32()?);
        let key = reader.bytes(usize::from(key_size))?;
        let value = reader.bytes(value_size as usize)?;
        Ok(Self { kind, flags, key, value })
    }
}

fn put_step(bytes: &mut Vec<u8>, kind: u8, flags: u8, key: &[u8], value_parts: &[&[u8]]) {
    let value_size: usize = value_parts.iter().map(|part| part.len()).sum();
    let value_size = u32::try_from(value_size).expect("bounded by VALUE_SIZE_MAX");
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&count_u16(key.len()).to_le_bytes());
    bytes.extend_from_slice(&value_size.to_le_bytes());
    bytes.extend_from_slice(key);
    value_parts.iter().for_each(|part| bytes.extend_from_slice(part));
}

fn count_u16(count: usize) -> u16 {
    u16::try_from(count).expect("bounded by STEPS_MAX or KEY_SIZE_MAX")
}

fn invalid_key(key: &[u8]) -> Option<&'static str> {
    if key.is_empty() {
        return Some("an empty key");
    }
    (key.len() > KEY_SIZE_MAX).then_some("a key longer than 1 KiB")
}

fn invalid_value(value: &[u8]) -> Option<&'static str> {
    (value.len() > VALUE_SIZE_MAX).then_some("a value longer than 512 KiB")
}
