//! F4: kv, the shipped state machine: an ordered key-value store with revisions and transactions.
//!
//! A request is a list of independent transactions. A transaction is compares, then operations: if
//! all compares hold, all operations are carried out, otherwise none. Later transactions of a
//! request see what earlier ones wrote. A request that writes gets the next *revision* from one
//! counter, and each key keeps the revision that wrote it last; one request has one revision.
//! Deleting a key that is not there writes nothing.
//!
//! # Encoding of a request
//!
//! All numbers are little-endian; nothing is aligned; *zero* bytes are zero and checked; nothing
//! follows the last transaction. Keys are 1 to 1,024 bytes, values at most 512 KiB. A request has
//! at least one transaction, a transaction at least one compare or operation, and all transactions
//! together at most 4,096 compares and operations.
//!
//! ```text
//! request          0        1      2                   4
//!                  +--------+------+-------------------+--------------
//!                  |format 1| zero | transaction_count | transactions…
//!                  +--------+------+-------------------+--------------
//!
//! transaction      0               2                   4
//!                  +---------------+-------------------+-----------------------
//!                  | compare_count | operation_count   | compares…, operations…
//!                  +---------------+-------------------+-----------------------
//!
//! compare,         0      1        2            4            8
//! operation        +------+--------+------------+------------+------+--------
//!                  | kind | flags  | key_size   | value_size | key… | value…
//!                  +------+--------+------------+------------+------+--------
//! ```
//!
//! | compare, kind | holds if | value |
//! |---|---|---|
//! | 1 absent | the key is not there | none |
//! | 2 present | the key is there | none |
//! | 3 value | the key is there and has this value | the value |
//! | 4 revision | the key is there and this revision wrote it last | the revision, 8 bytes |
//!
//! | operation, kind | does | value | flags |
//! |---|---|---|---|
//! | 1 get | reads the key | none | |
//! | 2 put | stores the value under the key | the value | |
//! | 3 delete | deletes the key | none | |
//! | 4 scan | reads a range of keys | limit, 4 bytes, then `end` | 1 backward, 2 start excluded |
//!
//! Flags that are not listed are zero. The key of a scan is `start`; it and `end` are up to 1,024
//! bytes. An empty `start` is before all keys (and is not excluded), an empty `end` after all keys;
//! a key equal to `start` belongs to the range unless flag 2 is set, a key equal to `end` never
//! does. `limit` is the most rows wanted; 0, or more than 1,000, is 1,000. A scan answers with
//! fewer when the reply is full, but always with one if there is one. If it says that there are
//! *more*, the key of its last row is the continuation key: the same scan with `start` set to it
//! and flag 2 (forward), or with `end` set to it (backward), continues.
//!
//! # Encoding of a reply
//!
//! ```text
//! reply            0        1      2               4             8                  16
//!                  +--------+------+---------------+-------------+------------------+----------
//!                  |format 1| zero | outcome_count | zero        | revision         | outcomes…
//!                  +--------+------+---------------+-------------+------------------+----------
//!
//! outcome          0        1      2               4             8
//!                  +--------+------+---------------+-------------+---------
//!                  | kind   | zero | count         | zero        | records…
//!                  +--------+------+---------------+-------------+---------
//!
//! record           0        1      2               4             8                  16
//!                  +--------+------+---------------+-------------+------------------+------+------
//!                  | kind   | flags| key_size      | value_size  | revision         | key… | value
//!                  +--------+------+---------------+-------------+------------------+------+------
//! ```
//!
//! One outcome for each transaction, in order. `revision` of the reply is the counter after the
//! request: the request's own revision if it wrote.
//!
//! | outcome, kind | count | records |
//! |---|---|---|
//! | 0 done | operations | one for each operation, a scan's followed by its rows |
//! | 1 compare failed | which compare failed first, from 0 | one *current* |
//!
//! | record, kind | flags | what else it has |
//! |---|---|---|
//! | 0 current | 1 found, 4 value omitted | if found: revision, and the value unless omitted |
//! | 1 get | 1 found | if found: revision, value |
//! | 2 put | | |
//! | 3 delete | 1 found | |
//! | 4 scan | 2 more | `value_size` is the number of rows that follow |
//! | 5 row | | key, revision, value |
//!
//! Everything else in a record is zero. The reply to a request in a session is at most 64 KiB, to a
//! query (which must not write) as long as a message, and never longer than that; a longer one is
//! replaced by result `0xffff_0001`, and nothing is written. Any value that a request could carry,
//! a query of its own can read. A compare reads the value only if it is as long as the one in the
//! request, or to tell it; a delete reads none. Who reads more than 16 messages all the same, by
//! scans, gets `0xffff_0004`. A query with a put or a delete gets result 1
//! ([`CODE_QUERY_WRITES`]).
//!
//! **Invariants:** a request or reply that decodes, encodes to the same bytes; `apply` and `query`
//! never panic on what `validate` accepted; they read and write the two tables below and nothing
//! else.
//!
//! **Not here:** watches and expiry.

mod reader;
mod reply;
mod request;

pub use reply::{Current, InvalidReply, OperationResult, Outcome, Record, Reply, Row};
pub use request::{Compare, Condition, Operation, Request, Scan, Transaction, prefix_end};

use super::{
    Context, InvalidRequest, Keys, Reply as ReplyBytes, Start, StateMachine, Stop, Store, Table,
};
use bytes::Bytes;
use std::ops::{Bound, ControlFlow};

/// The longest key, in bytes. The shortest is one byte.
pub const KEY_SIZE_MAX: usize = 1024;
/// The longest value, in bytes: half a message of the default size. Where messages are smaller,
/// they are the bound.
pub const VALUE_SIZE_MAX: usize = 512 * 1024;
/// The most rows of one scan.
pub const SCAN_ROWS_MAX: u32 = 1000;
/// The most compares and operations of one request, all transactions together. Bounds how long a
/// request can occupy the replica, together with what one may read.
pub const STEPS_MAX: usize = 4096;
/// The result of a query with a put or a delete in it.
pub const CODE_QUERY_WRITES: u32 = 1;

/// The first byte of every request and reply.
const FORMAT: u8 = 1;

/// One row: under the empty key the revision of the last request that wrote, 8 bytes.
const TABLE_COUNTER: Table = Table(0);
/// The keys. A value is the revision that wrote it, 8 bytes, and then the client's value.
const TABLE_ROWS: Table = Table(1);

const REVISION_SIZE: usize = 8;

const _: () = {
    use crate::constants::ENTRY_SIZE;
    assert!(KEY_SIZE_MAX <= super::KEY_SIZE_MAX);
    // A scan that may answer with a whole message always has room for one row, because what
    // surrounds a row in a reply is not more than what surrounded it in the request that put it.
    let around_put = ENTRY_SIZE as usize + request::AROUND_PUT;
    let around_row = reply::AROUND_ROW;
    assert!(around_row <= around_put);
};

/// The key-value state machine.
#[derive(Debug, Clone, Copy, Default)]
pub struct Kv {}

impl Kv {
    /// The state machine. It has no configuration.
    pub fn new() -> Self {
        Self {}
    }
}

impl StateMachine for Kv {
    fn validate(&self, request: &[u8]) -> Result<(), InvalidRequest> {
        Request::decode(request).map(|_| ())
    }

    fn keys(&self, request: &[u8], keys: &mut Keys) {
        let Ok(request) = Request::decode(request) else {
            return;
        };
        keys.keys.push((TABLE_COUNTER, Vec::new()));
        for transaction in &request.transactions {
            let compared = transaction.compares.iter().map(|compare| compare.key);
            let operated = transaction.operations.iter().map(Operation::key);
            for key in compared.chain(operated) {
                keys.keys.push((TABLE_ROWS, key.to_vec()));
            }
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        _: &Context,
        request: &[u8],
        reply: &mut ReplyBytes,
    ) -> Result<(), Stop> {
        let request = Request::decode(request).expect("validated");
        let counter = counter(store)?;
        let mut attempt =
            Attempt { revision: counter.checked_add(1).expect("2^64 writes"), wrote: false };
        reply::put_head(&mut reply.bytes, request.transactions.len());
        for transaction in &request.transactions {
            if compares_hold(store, &transaction.compares, reply)? {
                reply::put_outcome_done(&mut reply.bytes, transaction.operations.len());
                for operation in &transaction.operations {
                    attempt.operate(store, operation, reply)?;
                    if reply.is_too_large() {
                        return Ok(());
                    }
                }
            }
        }
        if attempt.wrote {
            store.put(TABLE_COUNTER, &[], &attempt.revision.to_le_bytes())?;
        }
        let revision = if attempt.wrote { attempt.revision } else { counter };
        reply::set_revision(&mut reply.bytes, revision);
        Ok(())
    }

    fn query(&self, store: &Store, request: &[u8], reply: &mut ReplyBytes) -> Result<(), Stop> {
        let request = Request::decode(request).expect("validated");
        if !request.is_read_only() {
            return Err(Stop::Reject(CODE_QUERY_WRITES));
        }
        let counter = counter(store)?;
        reply::put_head(&mut reply.bytes, request.transactions.len());
        for transaction in &request.transactions {
            if compares_hold(store, &transaction.compares, reply)? {
                reply::put_outcome_done(&mut reply.bytes, transaction.operations.len());
                for operation in &transaction.operations {
                    let read = read(store, operation, reply)?;
                    assert!(read, "a read-only request reads");
                    if reply.is_too_large() {
                        return Ok(());
                    }
                }
            }
        }
        reply::set_revision(&mut reply.bytes, counter);
        Ok(())
    }
}

/// What a request that may write has come to.
struct Attempt {
    /// The revision of the request, if it writes.
    revision: u64,
    wrote: bool,
}

impl Attempt {
    fn operate(
        &mut self,
        store: &mut Store,
        operation: &Operation<'_>,
        reply: &mut ReplyBytes,
    ) -> Result<(), Stop> {
        match *operation {
            Operation::Get { .. } | Operation::Scan(_) => {
                let read = read(store, operation, reply)?;
                assert!(read);
            }
            Operation::Put { key, value } => {
                assert!(value.len() <= VALUE_SIZE_MAX);
                let mut row = Vec::with_capacity(REVISION_SIZE + value.len());
                row.extend_from_slice(&self.revision.to_le_bytes());
                row.extend_from_slice(value);
                store.put(TABLE_ROWS, key, &row)?;
                self.wrote = true;
                reply::put_put(&mut reply.bytes);
            }
            Operation::Delete { key } => {
                let found = store.get_start(TABLE_ROWS, key, 0)?.is_some();
                if found {
                    store.delete(TABLE_ROWS, key)?;
                    self.wrote = true;
                }
                reply::put_delete(&mut reply.bytes, found);
            }
        }
        Ok(())
    }
}

/// Answers a get or a scan; false for an operation that is neither.
fn read(store: &Store, operation: &Operation<'_>, reply: &mut ReplyBytes) -> Result<bool, Stop> {
    match operation {
        Operation::Get { key } => {
            let row = store.get(TABLE_ROWS, key)?;
            reply::put_get(&mut reply.bytes, row.as_ref().map(record));
            Ok(true)
        }
        Operation::Scan(scan) => {
            scan_rows(store, scan, reply)?;
            Ok(true)
        }
        Operation::Put { .. } | Operation::Delete { .. } => Ok(false),
    }
}

fn scan_rows(store: &Store, scan: &Scan<'_>, reply: &mut ReplyBytes) -> Result<(), Stop> {
    let start = match (scan.start.is_empty(), scan.start_excluded) {
        (true, _) => Bound::Unbounded,
        (false, true) => Bound::Excluded(scan.start),
        (false, false) => Bound::Included(scan.start),
    };
    let end = if scan.end.is_empty() { Bound::Unbounded } else { Bound::Excluded(scan.end) };
    let rows_max = scan.rows_max();
    let head = reply::put_scan(&mut reply.bytes);
    let mut row_count = 0;
    let mut more = false;
    store.scan(TABLE_ROWS, start, end, scan.direction, |key, row| {
        let row = Row { key, record: record(row) };
        // The first row goes in even if it makes the reply too large: a scan that can answer with
        // no row at all would never end.
        if row_count == rows_max || (row_count > 0 && row.size() > reply.room()) {
            more = true;
            return ControlFlow::Break(());
        }
        reply::put_row(&mut reply.bytes, &row);
        row_count += 1;
        ControlFlow::Continue(())
    })?;
    assert!(row_count <= SCAN_ROWS_MAX);
    reply::set_scan(&mut reply.bytes[head..], row_count, more);
    Ok(())
}

/// Whether all compares hold; if not, the outcome is in the reply.
fn compares_hold(
    store: &Store,
    compares: &[Compare<'_>],
    reply: &mut ReplyBytes,
) -> Result<bool, Stop> {
    for (index, compare) in compares.iter().enumerate() {
        let head = store.get_start(TABLE_ROWS, compare.key, 8)?;
        let head = head.map(|Start { size, bytes }| {
            let bytes = bytes.as_ref().try_into().expect("written with a revision");
            (u64::from_le_bytes(bytes), size as usize - REVISION_SIZE)
        });
        let holds = match (compare.condition, head) {
            (Condition::Absent, head) => head.is_none(),
            (Condition::Present, head) => head.is_some(),
            (Condition::Revision(expected), Some((revision, _))) => revision == expected,
            // Only what is as long as the value in the request is read.
            (Condition::Value(value), Some((_, size))) if size == value.len() => {
                let row = store.get(TABLE_ROWS, compare.key)?.expect("it was there");
                record(&row).value == value
            }
            (Condition::Value(_) | Condition::Revision(_), _) => false,
        };
        if !holds {
            put_compare_failed(store, index, compare.key, head, reply)?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// Says what there is under a key, by revision and size of its value, instead of what a compare
/// wanted.
fn put_compare_failed(
    store: &Store,
    index: usize,
    key: &[u8],
    head: Option<(u64, usize)>,
    reply: &mut ReplyBytes,
) -> Result<(), Stop> {
    let row;
    let current = match head {
        None => Current::Absent,
        Some((revision, size)) if size + reply::AROUND_CURRENT > reply.room() => {
            Current::Omitted { revision }
        }
        Some(_) => {
            row = store.get(TABLE_ROWS, key)?.expect("it was there");
            Current::Found(record(&row))
        }
    };
    reply::put_outcome_compare_failed(&mut reply.bytes, index, &current);
    Ok(())
}

/// The revision of the last request that wrote; 0 before the first.
fn counter(store: &Store) -> Result<u64, Stop> {
    let counter = store.get(TABLE_COUNTER, &[])?;
    Ok(counter.map_or(0, |bytes| {
        u64::from_le_bytes(bytes.as_ref().try_into().expect("written with this size"))
    }))
}

/// Takes apart what `TABLE_ROWS` holds.
fn record(row: &Bytes) -> Record<'_> {
    let (revision, value) = row.split_first_chunk().expect("written with a revision");
    Record { revision: u64::from_le_bytes(*revision), value }
}

#[cfg(test)]
mod tests;
