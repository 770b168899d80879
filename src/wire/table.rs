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
//! **Invariants:** headers are of consecutive ops, descending; the first is never blank; none is of
//! a later view than its messenger's log, nor of another cluster.
//!
//! **Not here:** which of several sets is the log: that is the view change's to decide.

use super::header::{Header, Invalid};
use super::types::{Field, Op, ReplicaIndex};
use super::{Command, Message, Prepare};
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
        assert!(!self.headers.is_empty());
        self.op - (self.headers.len() as u64 - 1)
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

    /// Decodes the body of `message`, a `do_view_change` or `start_view`, whose header is valid.
    ///
    /// # Errors
    /// Another command; a header that is neither blank nor a prepare's; ops that are not
    /// consecutive, or do not start at the `op` of the message; a blank head; a header of another
    /// cluster, or of a later view than the log can be.
    pub fn decode(message: &Message) -> Result<Self, Invalid> {
        let (op, log_view) = match &message.header().command {
            Command::DoViewChange(command) => (command.op, command.log_view),
            Command::StartView(command) => (command.op, message.header().view),
            _ => return Err(Invalid::Field("not a message with a set of headers")),
        };
        let set = Self::decode_body(message.body())?;
        if set.op != op {
            return Err(Invalid::Field("headers from another op on than the message says"));
        }
        let ours = message.header().cluster;
        for header in set.headers.iter().flatten() {
            if header.cluster != ours {
                return Err(Invalid::Cluster { theirs: header.cluster, ours });
            }
            if header.view > log_view {
                return Err(Invalid::Field("a header of a later view than the log's"));
            }
        }
        Ok(set)
    }

    /// The same from a body alone, so without what only the message's header says.
    ///
    /// # Errors
    /// As far as the body alone can tell, as above.
    pub fn decode_body(body: &[u8]) -> Result<Self, Invalid> {
        let (table, headers) =
            body.split_first_chunk().ok_or(Invalid::Field("a body without a table"))?;
        let table = IncarnationTable::decode(table)?;
        let (chunks, rest) = headers.as_chunks::<{ HEADER_SIZE as usize }>();
        if !rest.is_empty() {
            return Err(Invalid::Field("a part of a header"));
        }
        let head = chunks.first().ok_or(Invalid::Field("a set without a head"))?;
        let op = Header::decode_prepare(head)?.op();
        let mut set = Self { table, op, headers: Vec::with_capacity(chunks.len()) };
        for (index, chunk) in chunks.iter().enumerate() {
            let Some(op) = op.checked_sub(index as u64) else {
                return Err(Invalid::Field("headers below op 0"));
            };
            if chunk.iter().all(|byte| *byte == 0) {
                set.headers.push(None);
                continue;
            }
            let header = Header::decode_prepare(chunk)?;
            if header.op() != op {
                return Err(Invalid::Field("headers that are not consecutive"));
            }
            set.headers.push(Some(header));
        }
        assert!(set.headers[0].is_some());
        Ok(set)
    }
}

/// Decodes the body of a `headers` message: prepare headers, op strictly descending, gaps allowed.
///
/// # Errors
/// Another command; a header that is not a prepare's or of another cluster; another order.
pub fn decode_headers(message: &Message) -> Result<Vec<Header<Prepare>>, Invalid> {
    let Command::Headers(_) = &message.header().command else {
        return Err(Invalid::Field("not headers"));
    };
    let (chunks, rest) = message.body().as_chunks::<{ HEADER_SIZE as usize }>();
    assert!(rest.is_empty());
    let ours = message.header().cluster;
    let mut headers: Vec<Header<Prepare>> = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let header = Header::decode_prepare(chunk)?;
        if header.cluster != ours {
            return Err(Invalid::Cluster { theirs: header.cluster, ours });
        }
        if headers.last().is_some_and(|above| above.op() <= header.op()) {
            return Err(Invalid::Field("headers that do not descend"));
        }
        headers.push(header);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::super::{Author, ClusterId, DoViewChange, Headers, StartView, View};
    use super::*;
    use crate::stdx::Prng;

    const CLUSTER: ClusterId = ClusterId(9);

    fn author(view: u32) -> Author {
        let (view, replica) = (View(view), ReplicaIndex(1));
        Author { cluster: CLUSTER, view, replica, incarnation: 3 }
    }

    fn prepare(op: Op, view: u32) -> Header<Prepare> {
        let prepare = Prepare { op, entry_count: 1, commit: op - 1, ..Prepare::default() };
        Header::seal(&author(view), prepare, &[1; 64])
    }

    fn example(op: Op) -> HeaderSet {
        let table = IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0] };
        HeaderSet { table, op, headers: vec![Some(prepare(op, 2)), None, Some(prepare(op - 2, 1))] }
    }

    fn do_view_change(op: Op, log_view: u32, body: &[u8]) -> Message {
        let command = DoViewChange { op, log_view: View(log_view), ..DoViewChange::default() };
        Message::new(&author(5), command, body)
    }

    #[test]
    fn sets_round_trip() {
        for op in [3, 100, u64::MAX] {
            let set = example(op);
            assert_eq!(HeaderSet::decode_body(&set.encode()).as_ref(), Ok(&set));
            assert_eq!(HeaderSet::decode(&do_view_change(op, 2, &set.encode())), Ok(set.clone()));
            let start_view = StartView { op, ..StartView::default() };
            let message = Message::new(&author(2), start_view, &set.encode());
            assert_eq!(HeaderSet::decode(&message), Ok(set.clone()));
            assert_eq!(set.op_min(), op - 2);
            assert_eq!(set.header(op), set.headers[0].as_ref());
            assert_eq!(set.header(op - 1), None);
            assert_eq!(set.header(op - 3), None);
            assert_eq!(set.header(op.saturating_add(1)).is_some(), op == u64::MAX);
        }
        let root = HeaderSet {
            table: IncarnationTable::default(),
            op: 0,
            headers: vec![Some(Header::root(CLUSTER))],
        };
        assert_eq!(HeaderSet::decode_body(&root.encode()), Ok(root));
    }

    #[test]
    fn sets_that_contradict_themselves_are_refused() {
        let set = example(10);
        assert!(HeaderSet::decode(&do_view_change(10, 2, &set.encode())).is_ok());
        assert!(HeaderSet::decode(&do_view_change(11, 2, &set.encode())).is_err());
        assert!(HeaderSet::decode(&do_view_change(10, 1, &set.encode())).is_err());
        let bytes = set.encode();
        for size in [0, 128, 200, 300] {
            assert!(HeaderSet::decode_body(&bytes[..size]).is_err(), "{size}");
        }
        let with = |headers: &[[u8; 128]]| {
            let mut body = IncarnationTable::default().encode().to_vec();
            headers.iter().for_each(|header| body.extend_from_slice(header));
            HeaderSet::decode_body(&body)
        };
        let blank = [0; 128];
        assert!(with(&[prepare(5, 1).encode(), blank, prepare(3, 1).encode()]).is_ok());
        assert!(with(&[blank, prepare(5, 1).encode()]).is_err());
        assert!(with(&[prepare(5, 1).encode(), prepare(3, 1).encode()]).is_err());
        assert!(with(&[prepare(5, 1).encode(), prepare(u64::MAX, 1).encode()]).is_err());
        assert!(with(&[prepare(u64::MAX, 1).encode(), prepare(5, 1).encode()]).is_err());
        assert!(with(&[prepare(1, 1).encode(), blank, blank]).is_err());
        let stranger = Author { cluster: ClusterId(8), ..author(1) };
        let command = Prepare { op: 5, entry_count: 1, ..Prepare::default() };
        let foreign = Header::seal(&stranger, command, &[1; 64]).encode();
        let mut body = IncarnationTable::default().encode().to_vec();
        body.extend_from_slice(&foreign);
        assert_eq!(
            HeaderSet::decode(&do_view_change(5, 2, &body)),
            Err(Invalid::Cluster { theirs: ClusterId(8), ours: CLUSTER })
        );
    }

    #[test]
    fn garbage_is_an_error_also_with_right_checksums() {
        let mut prng = Prng::from_seed(5);
        let mut accepted = 0;
        for _ in 0..10_000 {
            let mut bytes = example(prng.range_inclusive(3, 6)).encode();
            for _ in 0..prng.range_inclusive(1, 4) {
                let index = prng.index(bytes.len());
                bytes[index] = u8::try_from(prng.below(256)).unwrap();
            }
            for chunk in bytes[128..].chunks_exact_mut(128) {
                if prng.below(2) == 0 && chunk.iter().any(|byte| *byte != 0) {
                    let checksum = crc32c::crc32c(&chunk[4..]);
                    chunk[..4].copy_from_slice(&checksum.to_le_bytes());
                }
            }
            if let Ok(set) = HeaderSet::decode_body(&bytes) {
                assert_eq!(set.encode(), bytes);
                accepted += 1;
            }
        }
        assert!(accepted > 100, "{accepted}");
    }

    #[test]
    fn headers_descend() {
        let message = |ops: &[Op]| {
            let body: Vec<u8> = ops.iter().flat_map(|op| prepare(*op, 1).encode()).collect();
            Message::new(&author(1), Headers {}, &body)
        };
        let headers = decode_headers(&message(&[9, 7, 6])).unwrap();
        assert_eq!(headers.iter().map(Header::op).collect::<Vec<_>>(), [9, 7, 6]);
        assert!(decode_headers(&message(&[6, 7])).is_err());
        assert!(decode_headers(&message(&[6, 6])).is_err());
        assert!(decode_headers(&do_view_change(10, 2, &example(10).encode())).is_err());
    }

    #[test]
    fn the_table_names_only_what_it_holds() {
        let table = IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0] };
        assert_eq!(IncarnationTable::decode(&table.encode()), Ok(table));
        assert!(table.names(ReplicaIndex(1), 5));
        assert!(!table.names(ReplicaIndex(1), 4));
        assert!(!table.names(ReplicaIndex(3), 0));
        assert!(!IncarnationTable { op: 0, ..table }.names(ReplicaIndex(1), 5));
        let mut bytes = table.encode();
        bytes[56] = 1;
        assert!(IncarnationTable::decode(&bytes).is_err());
    }
}
