//! F1: the body of `do_view_change` and `start_view`: the table of incarnations, then prepare
//! headers, op descending.
//!
//! ```text
//! 0        8               56       64              112    128
//! +--------+---------------+--------+---------------+------+----------------+---
//! | op     | incarnations, | op     | incarnations  | zero | header of head | …
//! |        | 6 x 8 bytes   | before | before it     |      |                |
//! +--------+---------------+--------+---------------+------+----------------+---
//! ```
//!
//! The table that was in force before is kept as long as the op that changed it may yet be cut from
//! the log. A recovery is asked for by a [`Recover`], which names the table that it changes, so
//! that its prepare alone tells the table from its op on:
//!
//! ```text
//! 0              8         9        16                 144
//! +--------------+---------+--------+------------------+
//! | incarnation  | replica | zero   | table it changes |
//! +--------------+---------+--------+------------------+
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
use super::{Command, Entries, Message, Operation, Prepare};
use crate::constants::{HEADER_SIZE, REPLICAS_MAX};

/// Which incarnation of each replica belongs to the cluster: written by the genesis, changed by a
/// recovery. The newest table is the one with the highest `op`; `op` 0 is no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IncarnationTable {
    /// The op that wrote it last: 1 for the genesis.
    pub op: Op,
    /// By replica index; 0 beyond the replica count.
    pub incarnations: [u64; REPLICAS_MAX as usize],
    /// The op of the table before it; 0 without one, as in the genesis.
    pub op_before: Op,
    /// That table's incarnations.
    pub incarnations_before: [u64; REPLICAS_MAX as usize],
}

impl IncarnationTable {
    /// Bytes on the wire and in the superblock, padding included.
    pub const SIZE: usize = HEADER_SIZE as usize;

    /// Whether `incarnation` is the one of `replica`.
    pub fn names(&self, replica: ReplicaIndex, incarnation: u64) -> bool {
        self.op > 0 && incarnation != 0 && self.incarnations[replica.index()] == incarnation
    }

    /// The table of the same log if it ended at `op`. A genesis is never cut: it is no table before
    /// it is committed.
    pub fn up_to(&self, op: Op) -> Self {
        if self.op <= op || self.op_before == 0 {
            return *self;
        }
        assert!(self.op_before < self.op);
        Self { op: self.op_before, incarnations: self.incarnations_before, ..Self::default() }
    }

    /// The same without what was before it: what a [`Recover`] names.
    pub fn alone(&self) -> Self {
        Self { op: self.op, incarnations: self.incarnations, ..Self::default() }
    }

    /// The table as bytes.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        for (number, place) in self.numbers().iter().zip(bytes.chunks_exact_mut(8)) {
            number.put(place);
        }
        bytes
    }

    fn numbers(&self) -> [u64; 2 * (REPLICAS_MAX as usize + 1)] {
        let mut numbers = [0; 2 * (REPLICAS_MAX as usize + 1)];
        let (now, before) = numbers.split_at_mut(REPLICAS_MAX as usize + 1);
        now[0] = self.op;
        now[1..].copy_from_slice(&self.incarnations);
        before[0] = self.op_before;
        before[1..].copy_from_slice(&self.incarnations_before);
        numbers
    }

    /// # Errors
    /// Padding that is not zero, or a table before it that is not.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Result<Self, Invalid> {
        let number = |index: usize| u64::get(&bytes[8 * index..8 * index + 8]);
        let numbers = |first: usize| std::array::from_fn(|index| number(first + index));
        let table = Self {
            op: number(0),
            incarnations: numbers(1),
            op_before: number(7),
            incarnations_before: numbers(8),
        };
        if bytes[112..].iter().any(|byte| *byte != 0) {
            return Err(Invalid::Field("padding of the table is not zero"));
        }
        let none_before = table.op_before == 0;
        if !none_before && table.op_before >= table.op {
            return Err(Invalid::Field("a table before that is not before"));
        }
        if none_before && table.incarnations_before != Self::default().incarnations_before {
            return Err(Invalid::Field("incarnations of no table"));
        }
        Ok(table)
    }
}

/// What a `recover` asks for: from its op on, another data file is a replica's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recover {
    /// Whose file is lost.
    pub replica: ReplicaIndex,
    /// The incarnation of the file in its place; not 0, and in no table.
    pub incarnation: u64,
    /// The table that it changes, without what was before that.
    pub table: IncarnationTable,
}

impl Recover {
    /// Bytes in an entry.
    pub const SIZE: usize = 16 + IncarnationTable::SIZE;

    /// The body of the request, and of its entry.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.incarnation.put(&mut bytes[0..8]);
        self.replica.put(&mut bytes[8..9]);
        bytes[16..].copy_from_slice(&self.table.encode());
        bytes
    }

    /// # Errors
    /// Another size, bytes that are not zero, or something that no recovery asks for: a replica
    /// that the table does not know, an incarnation that it does.
    pub fn decode(body: &[u8]) -> Result<Self, Invalid> {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let bytes: &[u8; Self::SIZE] = body.try_into().map_err(|_| Invalid::Size(size))?;
        let table = IncarnationTable::decode(bytes[16..].first_chunk().expect("the rest"))?;
        let (incarnation, replica) = (u64::get(&bytes[0..8]), ReplicaIndex(bytes[8]));
        if bytes[9..16].iter().any(|byte| *byte != 0) {
            return Err(Invalid::Field("reserved bytes of a recovery are not zero"));
        }
        let known = table.incarnations.get(replica.index()).copied().unwrap_or(0);
        if table.op == 0 || table != table.alone() || known == 0 {
            return Err(Invalid::Field("a recovery of no replica of a table"));
        }
        if incarnation == 0 || table.incarnations.contains(&incarnation) {
            return Err(Invalid::Field("a recovery with an incarnation that is not new"));
        }
        Ok(Self { replica, incarnation, table })
    }

    /// The table of a log whose `op` is this recovery.
    pub fn table_at(&self, op: Op) -> IncarnationTable {
        assert!(op > self.table.op);
        assert!(!self.table.incarnations.contains(&self.incarnation));
        let mut table = IncarnationTable {
            op,
            op_before: self.table.op,
            incarnations_before: self.table.incarnations,
            ..self.table
        };
        table.incarnations[self.replica.index()] = self.incarnation;
        table
    }

    /// The table that the prepare `message` writes, if it is a recovery: its one entry.
    pub fn table_of(message: &Message) -> Option<IncarnationTable> {
        let header = message.prepare_header();
        if header.command.entry_count != 1 {
            return None;
        }
        let (entry, body) = Entries::new(message.body()).next()?.ok()?;
        let recover = Self::decode(body).ok().filter(|_| entry.operation == Operation::Recover)?;
        (header.op() > recover.table.op).then(|| recover.table_at(header.op()))
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
    use crate::constants::NUMBER_MAX;
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
        let table =
            IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0], ..Default::default() };
        HeaderSet { table, op, headers: vec![Some(prepare(op, 2)), None, Some(prepare(op - 2, 1))] }
    }

    fn do_view_change(op: Op, log_view: u32, body: &[u8]) -> Message {
        let command = DoViewChange { op, log_view: View(log_view), ..DoViewChange::default() };
        Message::new(&author(5), command, body)
    }

    #[test]
    fn sets_round_trip() {
        for op in [3, 100, NUMBER_MAX] {
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
            assert_eq!(set.header(op + 1), None);
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
        assert!(with(&[prepare(5, 1).encode(), prepare(NUMBER_MAX, 1).encode()]).is_err());
        assert!(with(&[prepare(NUMBER_MAX, 1).encode(), prepare(5, 1).encode()]).is_err());
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
        let table =
            IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0], ..Default::default() };
        assert_eq!(IncarnationTable::decode(&table.encode()), Ok(table));
        assert!(table.names(ReplicaIndex(1), 5));
        assert!(!table.names(ReplicaIndex(1), 4));
        assert!(!table.names(ReplicaIndex(3), 0));
        assert!(!IncarnationTable { op: 0, ..table }.names(ReplicaIndex(1), 5));
        let mut bytes = table.encode();
        bytes[56] = 1;
        assert!(IncarnationTable::decode(&bytes).is_err());
    }

    #[test]
    fn a_recovery_tells_its_table_and_the_one_before() {
        let base =
            IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0], ..Default::default() };
        let recover = Recover { replica: ReplicaIndex(1), incarnation: 7, table: base };
        let body = recover.encode();
        assert_eq!(Recover::decode(&body), Ok(recover));
        let table = recover.table_at(9);
        assert_eq!(table.incarnations, [4, 7, 6, 0, 0, 0]);
        assert_eq!(IncarnationTable::decode(&table.encode()), Ok(table));
        assert_eq!((table.up_to(9), table.up_to(8)), (table, base));
        assert_eq!(base.up_to(0), base, "a genesis is never cut");
        let wrong = |change: fn(&mut Recover)| {
            let mut recover = recover;
            change(&mut recover);
            Recover::decode(&recover.encode()).unwrap_err();
        };
        wrong(|recover| recover.incarnation = 0);
        wrong(|recover| recover.incarnation = 6);
        wrong(|recover| recover.replica = ReplicaIndex(3));
        wrong(|recover| recover.replica = ReplicaIndex(200));
        wrong(|recover| recover.table.op = 0);
        wrong(|recover| recover.table.op_before = 1);
        wrong(|recover| (recover.table.op, recover.table.op_before) = (9, 1));
        Recover::decode(&body[1..]).unwrap_err();
        for index in 9..16 {
            let mut body = body;
            body[index] = 1;
            Recover::decode(&body).unwrap_err();
        }
    }
}
