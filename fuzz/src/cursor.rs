//! Bytes of a fuzzer as small values, and what most targets make of them: sealed messages.
//!
//! **Invariants:** reading is total: behind the end all is zero; the first bytes are the first
//! values, so that a mutation of the end leaves the beginning of what happens as it was.
//!
//! **Not here:** what the values mean to a target.

use vsr::constants::{HEADER_SIZE, PROTOCOL};
use vsr::stdx::Prng;
use vsr::wire::{
    Author, Block, BlockRef, ClientId, ClusterId, Command, Commit, CommitOk, DoViewChange, Entry,
    Eviction, Header, HeaderSet, Headers, IncarnationTable, Operation, Parent, Ping, PingClient,
    Pong, PongClient, Prepare, PrepareId, PrepareOk, Reject, ReplicaIndex, Reply, Request,
    RequestBlocks, RequestHeaders, RequestPrepare, RequestStartView, RequestStatus, StartView,
    StartViewChange, Status, View,
};

/// The cluster that most messages belong to.
pub const CLUSTER: ClusterId = ClusterId(7);

/// Reads values from the bytes of an input.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Of all of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Whether all bytes are read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `N` bytes, zeros behind the end.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let taken = self.bytes(N);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// Up to `size` bytes, fewer at the end.
    pub fn bytes(&mut self, size: usize) -> &'a [u8] {
        let (taken, rest) = self.rest.split_at(size.min(self.rest.len()));
        self.rest = rest;
        taken
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    /// Two bytes, little-endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// Four bytes, little-endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    /// Eight bytes, little-endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Sixteen bytes, little-endian.
    pub fn u128(&mut self) -> u128 {
        u128::from_le_bytes(self.array())
    }

    /// True for an odd byte.
    pub fn bool(&mut self) -> bool {
        self.u8() & 1 == 1
    }

    /// An index below `count`, from one byte. `count` > 0.
    pub fn index(&mut self, count: usize) -> usize {
        usize::from(self.u8()) % count
    }

    /// A number that is mostly small, sometimes any, sometimes near the largest.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            255 => self.u64(),
            254 => u64::MAX - u64::from(self.u8()),
            small => u64::from(small),
        }
    }

    /// As [`Self::number`], of 32 bits.
    pub fn number_u32(&mut self) -> u32 {
        let [a, b, c, d, ..] = self.number().to_le_bytes();
        u32::from_le_bytes([a, b, c, d])
    }

    /// A stream of random numbers that this input alone decides.
    pub fn prng(&mut self) -> Prng {
        Prng::from_seed(u64::from(self.u16()))
    }
}

/// Writes right checksums into `bytes`, a header and its body. Fewer bytes stay as they are.
pub fn seal(bytes: &mut [u8]) {
    let Some((header, body)) = bytes.split_at_mut_checked(HEADER_SIZE as usize) else { return };
    header[4..8].copy_from_slice(&crc32c::crc32c(body).to_le_bytes());
    seal_header(header);
}

/// Writes the right checksum into a header alone.
pub fn seal_header(header: &mut [u8]) {
    let checksum = crc32c::crc32c(&header[4..HEADER_SIZE as usize]);
    header[0..4].copy_from_slice(&checksum.to_le_bytes());
}

/// Writes what any header of `code` has in the frame: version, command, zeros where they belong.
pub fn frame(header: &mut [u8], code: u8) {
    header[32..34].copy_from_slice(&PROTOCOL.to_le_bytes());
    header[34] = code;
    header[35] %= 6;
    header[36..40].fill(0);
}

/// Somebody who could have written a message.
pub fn author(cursor: &mut Cursor<'_>, command: &Command) -> Author {
    let view = View(cursor.number_u32());
    let (replica, incarnation) = if command.from_client() && cursor.u8() < 250 {
        (ReplicaIndex(0), 0)
    } else {
        (ReplicaIndex(cursor.u8() % 7), u64::from(cursor.u8()))
    };
    Author { cluster: CLUSTER, view, replica, incarnation }
}

fn prepare_id(cursor: &mut Cursor<'_>) -> PrepareId {
    PrepareId {
        op: cursor.number(),
        view: View(cursor.number_u32()),
        checksum: cursor.number_u32(),
        checksum_body: cursor.number_u32(),
    }
}

/// Any reference.
pub(super) fn block_ref(cursor: &mut Cursor<'_>) -> BlockRef {
    BlockRef {
        index: cursor.number_u32(),
        op: cursor.number(),
        checksum: cursor.number_u32(),
        checksum_body: cursor.number_u32(),
    }
}

fn client(cursor: &mut Cursor<'_>) -> ClientId {
    ClientId(u128::from(cursor.number()))
}

/// The code of an operation, mostly one that there is.
fn operation(cursor: &mut Cursor<'_>) -> u8 {
    let byte = cursor.u8();
    match byte % 8 {
        0 => byte,
        1 => Operation::Register as u8,
        2 => Operation::Deregister as u8,
        3 => Operation::Noop as u8,
        4 => Operation::Genesis as u8,
        5 | 6 => Operation::Apply as u8,
        _ => Operation::Query as u8,
    }
}

/// A prepare whose fields may be any.
pub fn prepare(cursor: &mut Cursor<'_>) -> Prepare {
    Prepare {
        parent: Parent {
            view: View(cursor.number_u32()),
            checksum: cursor.number_u32(),
            checksum_body: cursor.number_u32(),
        },
        op: cursor.number(),
        commit: cursor.number(),
        timestamp: cursor.number(),
        checkpoint_id: u128::from(cursor.number()),
        entry_count: cursor.number_u32(),
    }
}

/// A command with any fields, which need not be valid ones.
pub fn command(cursor: &mut Cursor<'_>) -> Command {
    let selector = cursor.u8();
    match selector % 23 + 1 {
        code @ 1..=7 => command_of_log(cursor, code),
        code @ 8..=13 => command_of_view(cursor, code),
        code => command_of_others(cursor, code),
    }
}

fn command_of_log(cursor: &mut Cursor<'_>, code: u8) -> Command {
    match code {
        Request::CODE => Request {
            client: client(cursor),
            session: cursor.number(),
            request: cursor.number(),
            operation: operation(cursor),
        }
        .into(),
        Prepare::CODE => prepare(cursor).into(),
        PrepareOk::CODE => PrepareOk {
            prepare: prepare_id(cursor),
            commit_min: cursor.number(),
            checkpoint_id: u128::from(cursor.number()),
        }
        .into(),
        Reply::CODE => Reply {
            client: client(cursor),
            session: cursor.number(),
            request: cursor.number(),
            op: cursor.number(),
            timestamp: cursor.number(),
            request_checksum: cursor.number_u32(),
            result: cursor.number_u32(),
            operation: operation(cursor),
        }
        .into(),
        Commit::CODE => Commit {
            commit: prepare_id(cursor),
            checkpoint: block_ref(cursor),
            round: cursor.number(),
            timestamp_monotonic: cursor.number(),
            answer: u8::from(cursor.bool()),
        }
        .into(),
        CommitOk::CODE => CommitOk { round: cursor.number() }.into(),
        _ => StartViewChange {}.into(),
    }
}

fn command_of_view(cursor: &mut Cursor<'_>, code: u8) -> Command {
    match code {
        DoViewChange::CODE => DoViewChange {
            op: cursor.number(),
            commit_min: cursor.number(),
            commit_max: cursor.number(),
            checkpoint: block_ref(cursor),
            log_view: View(cursor.number_u32()),
            present: cursor.number(),
            nack: cursor.number(),
        }
        .into(),
        StartView::CODE => StartView {
            op: cursor.number(),
            commit_max: cursor.number(),
            checkpoint: block_ref(cursor),
            nonce: cursor.number(),
        }
        .into(),
        RequestStartView::CODE => RequestStartView { nonce: cursor.number() }.into(),
        RequestHeaders::CODE => {
            RequestHeaders { op_min: cursor.number(), op_max: cursor.number() }.into()
        }
        Headers::CODE => Headers {}.into(),
        _ => RequestPrepare { prepare: prepare_id(cursor) }.into(),
    }
}

fn command_of_others(cursor: &mut Cursor<'_>, code: u8) -> Command {
    match code {
        Ping::CODE => Ping {
            timestamp_monotonic: cursor.number(),
            incarnation_target: cursor.number(),
            checkpoint: block_ref(cursor),
            message_size: cursor.number_u32(),
            journal_slots: cursor.number_u32(),
            block_size: cursor.number_u32(),
            pipeline: cursor.number_u32(),
            clients_max: cursor.number_u32(),
            replica_count: cursor.u8() % 8,
            store_full: cursor.u8() % 3,
        }
        .into(),
        Pong::CODE => {
            Pong { ping_timestamp_monotonic: cursor.number(), timestamp_realtime: cursor.number() }
                .into()
        }
        PingClient::CODE => {
            PingClient { client: client(cursor), timestamp_monotonic: cursor.number() }.into()
        }
        PongClient::CODE => PongClient {
            client: client(cursor),
            ping_timestamp_monotonic: cursor.number(),
            message_size: cursor.number_u32(),
            replica_count: cursor.u8() % 8,
        }
        .into(),
        Eviction::CODE => {
            let (client, session) = (client(cursor), cursor.number());
            Eviction { client, session, reason: cursor.u8() % 4 }.into()
        }
        Reject::CODE => {
            let (client, request) = (client(cursor), cursor.number());
            Reject { client, request, reason: cursor.u8() % 8 }.into()
        }
        RequestBlocks::CODE => RequestBlocks {}.into(),
        Block::CODE => Block {
            index: cursor.number_u32(),
            checkpoint_op: cursor.number(),
            kind: cursor.u8() % 9,
        }
        .into(),
        RequestStatus::CODE => RequestStatus { client: client(cursor) }.into(),
        _ => Status { client: client(cursor) }.into(),
    }
}

/// A body that fits `command` more often than arbitrary bytes would, and the command with what it
/// must say of that body.
pub fn body(cursor: &mut Cursor<'_>, command: Command) -> (Command, Vec<u8>) {
    if cursor.u8() % 8 == 7 {
        let size = usize::from(cursor.u8());
        return (command, cursor.bytes(size).to_vec());
    }
    match command {
        Command::Prepare(prepare) => {
            let (body, entry_count) = entries(cursor);
            let is_right = cursor.u8() < 240;
            let entry_count = if is_right { entry_count } else { prepare.entry_count };
            (Prepare { entry_count, ..prepare }.into(), body)
        }
        Command::DoViewChange(message) => {
            let (set, body) = header_set(cursor);
            let op = if cursor.u8() < 240 { set.op } else { message.op };
            let bits = (1u64 << set.headers.len().min(63)) - 1;
            let (present, nack) = (message.present & bits, message.nack & bits);
            (DoViewChange { op, present, nack, ..message }.into(), body)
        }
        Command::StartView(message) => {
            let (set, body) = header_set(cursor);
            let op = if cursor.u8() < 240 { set.op } else { message.op };
            (StartView { op, ..message }.into(), body)
        }
        Command::Headers(_) => {
            let (set, _) = header_set(cursor);
            let headers = set.headers.iter().flatten();
            (command, headers.flat_map(Header::encode).collect())
        }
        Command::RequestBlocks(_) => {
            let count = cursor.u8() % 4;
            (command, (0..count).flat_map(|_| block_ref(cursor).encode()).collect())
        }
        Command::Status(_) => {
            let mut body = vec![0; 256];
            body[..8].copy_from_slice(&[2, 3, 1 + cursor.u8() % 5, 1, 1, 0, 0, 0]);
            let fields = cursor.bytes(120);
            body[8..8 + fields.len()].copy_from_slice(fields);
            (command, body)
        }
        Command::Request(_) | Command::Reply(_) | Command::Block(_) => {
            let size = usize::from(cursor.u8());
            (command, cursor.bytes(size).to_vec())
        }
        _ => (command, Vec::new()),
    }
}

/// The body of a prepare, mostly right, and how many entries it has.
pub fn entries(cursor: &mut Cursor<'_>) -> (Vec<u8>, u32) {
    let count = 1 + u32::from(cursor.u8() % 4);
    let mut body = Vec::new();
    for _ in 0..count {
        let operation = Operation::from_code(operation(cursor)).unwrap_or(Operation::Noop);
        let (mut client, session, request) = (client(cursor), cursor.number(), cursor.number());
        if !operation.from_client() {
            client = ClientId(0);
        }
        let has_session = matches!(operation, Operation::Apply | Operation::Deregister);
        let is_plain = cursor.u8() < 240;
        let (session, request) = match (is_plain, has_session) {
            (true, true) => (session.max(1), request.max(1)),
            (true, false) => (0, 0),
            (false, _) => (session, request),
        };
        let size = if has_session { usize::from(cursor.u8() % 32) } else { 0 };
        let bytes = cursor.bytes(size);
        let entry = Entry {
            client,
            session,
            request,
            size: u32::try_from(bytes.len()).expect("below 32"),
            checksum: crc32c::crc32c(bytes),
            operation,
        };
        body.extend_from_slice(&entry.encode());
        body.extend_from_slice(bytes);
    }
    (body, count)
}

/// A set of headers whose ops descend, some blank, and its bytes, perhaps damaged and sealed again.
pub fn header_set(cursor: &mut Cursor<'_>) -> (HeaderSet, Vec<u8>) {
    let op = cursor.number();
    let count = 1 + u64::from(cursor.u8() % 5);
    let mut headers = Vec::new();
    for op in (op.saturating_sub(count - 1)..=op).rev() {
        let is_blank = !headers.is_empty() && cursor.u8().is_multiple_of(4);
        headers.push((!is_blank).then(|| prepare_of(cursor, op)));
    }
    let table = IncarnationTable {
        op: cursor.number(),
        incarnations: [1, 2, 3, 0, 0, 0],
        ..IncarnationTable::default()
    };
    let set = HeaderSet { table, op, headers };
    let mut bytes = set.encode();
    if cursor.u8().is_multiple_of(4) {
        let at = usize::from(cursor.u16()) % bytes.len();
        bytes[at] ^= cursor.u8();
        let start = at - at % HEADER_SIZE as usize;
        if start > 0 {
            seal_header(&mut bytes[start..]);
        }
    }
    (set, bytes)
}

/// The header of a valid prepare of `op`.
pub fn prepare_of(cursor: &mut Cursor<'_>, op: u64) -> Header<Prepare> {
    if op == 0 {
        return Header::root(CLUSTER);
    }
    let view = View(u32::from(cursor.u8() % 8));
    let author = Author { cluster: CLUSTER, view, replica: ReplicaIndex(0), incarnation: 1 };
    let commit = op - 1 - u64::from(cursor.u8() % 4).min(op - 1);
    let command = Prepare { op, commit, entry_count: 1, ..Prepare::default() };
    Header::seal(&author, command, &[0; 64])
}

/// A sealed message as bytes; it need not be a valid one.
pub fn message(cursor: &mut Cursor<'_>) -> (Header, Vec<u8>) {
    let command = command(cursor);
    let author = author(cursor, &command);
    let (command, body) = body(cursor, command);
    let header = Header::seal(&author, command, &body);
    let mut bytes = header.encode().to_vec();
    bytes.extend_from_slice(&body);
    (header, bytes)
}
