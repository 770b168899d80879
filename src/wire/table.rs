//! F1: the body of `do_view_change` and `start_view`: the table of incarnations, then prepare
//! headers, op descending.
//!
//! ```text
//! 0        8                              56       64              128
//! +--------+------------------------------+--------+---------------+----------------+---
//! | op     | incarnations, 6 x 8 bytes    | zero   | zero          | header of head | …
//! +--------+------------------------------+--------+---------------+----------------+---
//! ```
//!
//! A header may be *blank*, 128 zero bytes:
//! "there was something at this op and I cannot say what".
//!
//! **Invariants:** headers are of consecutive ops, descending; the first is never blank.

use super::header::{Header, Invalid};
use super::types::{Field, Op, ReplicaIndex};
use super::{Message, Prepare};
use crate::constants::{HEADER_SIZE, REPLICAS_MAX};

/// Which incarnation of each replica belongs to the cluster: written by the genesis, changed by a
/// recovery. The newest table is the one with the highest `op`; `op` 0 is no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IncarnationTable {
    /// The op that wrote it last: 1 for the genesis.
    pub op: Op,
    /// By replica index; 0 beyond the replica count.
    pub incarnations: [u64; REPLICAS_MAX as usize],
}

impl IncarnationTable {
    /// Bytes on the wire and in the superblock, padding included.
    pub const SIZE: usize = HEADER_SIZE as usize;

    /// Whether `incarnation` is the one of `replica`.
    pub fn names(&self, replica: ReplicaIndex, incarnation: u64) -> bool {
        self.op > 0 && incarnation != 0 && self.incarnations[replica.index()] == incarnation
    }

    /// The table as bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.op.put(&mut bytes[0..8]);
        for (incarnation, place) in self.incarnations.iter().zip(bytes[8..].chunks_exact_mut(8)) {
            incarnation.put(place);
        }
        bytes
    }

    /// # Errors
    /// Padding that is not zero.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, Invalid> {
        let mut table = Self { op: Op::get(&bytes[0..8]), ..Self::default() };
        for (incarnation, place) in table.incarnations.iter_mut().zip(bytes[8..].chunks_exact(8)) {
            *incarnation = u64::get(place);
        }
        if bytes[56..].iter().any(|byte| *byte != 0) {
            return Err(Invalid::Field("padding of the table is not zero"));
        }
        Ok(table)
    }
}

/// The decoded body of a `do_view_change` or `start_view`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeaderSet {
    /// The sender's table.
    pub table: IncarnationTable,
    /// The op of the first header.
    pub op: Op,
    /// Consecutive ops, descending from `op`; `None` where blank. The first is `Some`.
    pub headers: Vec<Option<Header<Prepare>>>,
}

impl HeaderSet {
    /// The header at `op`, if it is covered and not blank.
    pub fn header(&self, op: Op) -> Option<&Header<Prepare>> {
        let index = usize::try_from(self.op.checked_sub(op)?).ok()?;
        self.headers.get(index)?.as_ref()
    }

    /// The lowest op covered.
    pub fn op_min(&self) -> Op {
        self.op + 1 - self.headers.len() as u64
    }

    /// The body as bytes.
    pub fn encode(&self) -> Vec<u8> {
        assert!(!self.headers.is_empty());
        assert_eq!(self.headers[0].expect("the head is known").op(), self.op);
        let mut bytes = self.table.encode().to_vec();
        for (index, header) in self.headers.iter().enumerate() {
            match header {
                Some(header) => {
                    assert_eq!(header.op(), self.op - index as u64);
                    bytes.extend_from_slice(&header.encode());
                }
                None => bytes.extend_from_slice(&[0; HEADER_SIZE as usize]),
            }
        }
        bytes
    }

    /// Decodes the body of `message`, whose header is valid.
    ///
    /// # Errors
    /// A header that is neither blank nor a prepare's, ops that are not consecutive, a blank head.
    pub fn decode(message: &Message) -> Result<Self, Invalid> {
        Self::decode_body(message.body())
    }

    /// The same from a body alone.
    ///
    /// # Errors
    /// As above.
    pub fn decode_body(body: &[u8]) -> Result<Self, Invalid> {
        let (table, headers) =
            body.split_first_chunk().ok_or(Invalid::Field("a body without a table"))?;
        let table = IncarnationTable::decode(table)?;
        let mut set = Self { table, op: 0, headers: Vec::with_capacity(headers.len() / 128) };
        let (chunks, rest) = headers.as_chunks::<{ HEADER_SIZE as usize }>();
        if !rest.is_empty() {
            return Err(Invalid::Field("a part of a header"));
        }
        for chunk in chunks {
            if set.headers.is_empty() {
                let header = Header::decode_prepare(chunk)?;
                set.op = header.op();
                set.headers.push(Some(header));
            } else if chunk.iter().all(|byte| *byte == 0) {
                set.headers.push(None);
            } else {
                let header = Header::decode_prepare(chunk)?;
                if header.op() + set.headers.len() as u64 != set.op {
                    return Err(Invalid::Field("headers that are not consecutive"));
                }
                set.headers.push(Some(header));
            }
        }
        if set.headers.is_empty() || set.headers.len() as u64 > set.op + 1 {
            return Err(Invalid::Field("no head, or headers below op 0"));
        }
        Ok(set)
    }
}
