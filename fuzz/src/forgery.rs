//! Messages of a stranger: of every command that a replica writes, with right checksums, valid in
//! every field, and of an incarnation that no replica of the cluster has.
//!
//! ```text
//!   bytes ──► Cursor ──► message(kind): fields near what the target has, small, extreme, or any
//!                          │ bodies: tables of the stranger's own, chains of headers, of which
//!                          │ the lower ones may be the log's, batches, references, blocks
//!                          └ header().invalid() is none, or this panics
//! ```
//!
//! Used by the fuzz target `hostile`, and by `sim/tests/limits.rs` against real processes.
//!
//! **Invariants:** any bytes are a message; no author, and no table, has an incarnation of the
//! cluster: whoever knows those can forge, and nothing is promised then.
//!
//! **Not here:** messages that a receiver refuses to decode: other targets make those.

use super::cursor::Cursor;
use vsr::constants::{ENTRY_SIZE, HEADER_SIZE, NUMBER_MAX, PIPELINE_MAX, REPLICAS_MAX, VIEW_MAX};
use vsr::storage::Geometry;
use vsr::wire::{
    Author, Block, BlockRef, ClientId, ClusterId, Command, Commit, CommitOk, DoViewChange, Entry,
    Eviction, Header, HeaderSet, Headers, IncarnationTable, Message, Op, Operation, Parent, Ping,
    Pong, PongClient, Prepare, PrepareId, PrepareOk, Recover, Reject, ReplicaIndex, Reply,
    RequestBlocks, RequestHeaders, RequestPrepare, RequestStartView, StartView, StartViewChange,
    Status, StatusReport, View,
};

/// The codes of the commands that a replica writes.
pub const KINDS: [u8; 20] = [
    Prepare::CODE,
    PrepareOk::CODE,
    Reply::CODE,
    Commit::CODE,
    CommitOk::CODE,
    StartViewChange::CODE,
    DoViewChange::CODE,
    StartView::CODE,
    RequestStartView::CODE,
    RequestHeaders::CODE,
    Headers::CODE,
    RequestPrepare::CODE,
    Ping::CODE,
    Pong::CODE,
    PongClient::CODE,
    Eviction::CODE,
    Reject::CODE,
    RequestBlocks::CODE,
    Block::CODE,
    Status::CODE,
];

/// The incarnation that the stranger mostly says to be.
const INCARNATION: u64 = 4711;

/// What a stranger may know of those whom he writes to.
#[derive(Debug, Clone)]
pub struct Target {
    /// Their cluster.
    pub cluster: ClusterId,
    /// Replicas in it.
    pub replica_count: u8,
    /// Its geometry.
    pub geometry: Geometry,
    /// Its view, more or less.
    pub view: u32,
    /// The head of its log, more or less.
    pub op: Op,
    /// Headers that are in its log: it gives them to everybody.
    pub log: Vec<Header<Prepare>>,
    /// The incarnations of its replicas, which no message says to be of; none if they are random
    /// and not to be hit by chance.
    pub incarnations: Vec<u64>,
}

/// A message of the command with code `kind`, which says to be of `replica`.
pub fn message(
    cursor: &mut Cursor<'_>,
    target: &Target,
    kind: u8,
    replica: ReplicaIndex,
) -> Message {
    assert!(target.replica_count > 0);
    let mut stranger = Stranger { cursor, target };
    let incarnation = stranger.incarnation();
    let view = stranger.view_of(replica);
    let author = Author { cluster: target.cluster, view, replica, incarnation };
    let (command, body) = stranger.command(kind, &author);
    let message = Message::new(&author, command, &body);
    assert!(message.as_bytes().len() <= target.geometry.message_size as usize);
    message
}

/// The ping with which a replica of this geometry begins a connection, but of a stranger.
pub fn ping(target: &Target, replica: ReplicaIndex) -> Message {
    let author = Author {
        cluster: target.cluster,
        view: View(target.view),
        replica,
        incarnation: INCARNATION,
    };
    Message::new(&author, plain_ping(target), &[])
}

fn plain_ping(target: &Target) -> Ping {
    let Geometry { message_size, journal_slots, block_size, pipeline, clients_max } =
        target.geometry;
    let replica_count = target.replica_count;
    let geometry = Ping { message_size, journal_slots, block_size, pipeline, ..Ping::default() };
    Ping { timestamp_monotonic: 1, clients_max, replica_count, ..geometry }
}

/// Writes one message.
struct Stranger<'a, 'b> {
    cursor: &'a mut Cursor<'b>,
    target: &'a Target,
}

impl Stranger<'_, '_> {
    // ---- numbers

    /// A number up to `max`: mostly near `centre`, else small, near `max`, or any.
    fn number(&mut self, centre: u64, max: u64) -> u64 {
        let byte = self.cursor.u8();
        let low = u64::from(byte & 15);
        match byte >> 4 {
            0..=4 => centre.saturating_add(low / 2).min(max),
            5..=7 => centre.saturating_sub(low / 2).min(max),
            8..=10 => low.min(max),
            11..=13 => max - low.min(max),
            _ => self.cursor.u64() % max.saturating_add(1).max(1),
        }
    }

    fn number_u32(&mut self, centre: u32, max: u32) -> u32 {
        let number = self.number(u64::from(centre), u64::from(max));
        u32::try_from(number).expect("at most a u32")
    }

    fn op(&mut self) -> Op {
        self.number(self.target.op, NUMBER_MAX)
    }

    /// A number of nothing in particular.
    fn any(&mut self) -> u64 {
        self.number(0, u64::MAX)
    }

    fn any_u32(&mut self) -> u32 {
        self.number_u32(0, u32::MAX)
    }

    /// A view; mostly one in which `replica` is primary.
    fn view_of(&mut self, replica: ReplicaIndex) -> View {
        let view = self.number_u32(self.target.view, VIEW_MAX);
        if self.cursor.u8().is_multiple_of(4) {
            return View(view);
        }
        let count = self.target.replica_count;
        let primary = |view: &u32| View(*view).primary(count).0 == replica.0 % count;
        let up = (view..=VIEW_MAX).take(usize::from(count)).find(primary);
        View(up.unwrap_or(view))
    }

    fn view_up_to(&mut self, max: View) -> View {
        View(self.number_u32(self.target.view.min(max.0), max.0))
    }

    /// One that is not of the cluster; never 0 unless that is asked for.
    fn incarnation(&mut self) -> u64 {
        let mut incarnation = match self.cursor.u8() {
            0..=199 => INCARNATION,
            200..=219 => 0,
            220..=239 => u64::MAX,
            _ => self.cursor.u64(),
        };
        while self.target.incarnations.contains(&incarnation) {
            incarnation = incarnation.wrapping_add(1);
        }
        incarnation
    }

    fn client(&mut self) -> ClientId {
        ClientId(u128::from(self.any()).max(1))
    }

    fn prepare_id(&mut self, view_max: View) -> PrepareId {
        let index = usize::from(self.cursor.u8());
        let known = self.target.log.get(index % self.target.log.len().max(1));
        match known.map(Header::id) {
            Some(id) if index.is_multiple_of(2) && id.view <= view_max && id.op > 0 => id,
            _ => PrepareId {
                op: self.op().max(1),
                view: self.view_up_to(view_max),
                checksum: self.any_u32(),
                checksum_body: self.any_u32(),
            },
        }
    }

    fn block_ref(&mut self) -> BlockRef {
        if self.cursor.u8().is_multiple_of(4) {
            return BlockRef::NONE;
        }
        BlockRef {
            index: self.any_u32(),
            op: self.op(),
            checksum: self.any_u32(),
            checksum_body: self.any_u32(),
        }
    }

    // ---- commands

    fn command(&mut self, kind: u8, author: &Author) -> (Command, Vec<u8>) {
        match kind {
            Prepare::CODE => self.prepare(author.view),
            DoViewChange::CODE => self.do_view_change(author),
            StartView::CODE => self.start_view(author),
            Headers::CODE => (Headers {}.into(), self.headers()),
            RequestBlocks::CODE => (RequestBlocks {}.into(), self.references()),
            Block::CODE => self.block(),
            Reply::CODE => (self.reply(), self.bytes()),
            Status::CODE => {
                let client = self.client();
                (Status { client }.into(), vec![0; StatusReport::SIZE as usize])
            }
            PrepareOk::CODE
            | Commit::CODE
            | CommitOk::CODE
            | StartViewChange::CODE
            | RequestStartView::CODE
            | RequestHeaders::CODE
            | RequestPrepare::CODE => (self.protocol(kind, author.view), Vec::new()),
            _ => (self.others(kind), Vec::new()),
        }
    }

    fn protocol(&mut self, kind: u8, view: View) -> Command {
        match kind {
            PrepareOk::CODE => PrepareOk {
                prepare: self.prepare_id(view),
                commit_min: self.op(),
                checkpoint_id: u128::from(self.any()),
            }
            .into(),
            Commit::CODE => Commit {
                commit: self.prepare_id(view),
                checkpoint: self.block_ref(),
                round: self.any(),
                timestamp_monotonic: self.any(),
                answer: self.cursor.u8() & 1,
            }
            .into(),
            CommitOk::CODE => CommitOk { round: self.any() }.into(),
            StartViewChange::CODE => StartViewChange {}.into(),
            RequestStartView::CODE => RequestStartView { nonce: self.any().max(1) }.into(),
            RequestHeaders::CODE => {
                let op_min = self.op();
                RequestHeaders { op_min, op_max: self.op().max(op_min) }.into()
            }
            _ => RequestPrepare { prepare: self.prepare_id(View(VIEW_MAX)) }.into(),
        }
    }

    fn others(&mut self, kind: u8) -> Command {
        match kind {
            Ping::CODE => self.ping().into(),
            Pong::CODE => {
                Pong { ping_timestamp_monotonic: self.any(), timestamp_realtime: self.any() }.into()
            }
            PongClient::CODE => PongClient {
                client: self.client(),
                ping_timestamp_monotonic: self.any(),
                message_size: self.any_u32(),
                replica_count: 1 + self.cursor.u8() % REPLICAS_MAX,
            }
            .into(),
            Eviction::CODE => Eviction {
                client: self.client(),
                session: self.any(),
                reason: 1 + self.cursor.u8() % 2,
            }
            .into(),
            Reject::CODE => Reject {
                client: self.client(),
                request: self.any(),
                reason: 1 + self.cursor.u8() % 7,
            }
            .into(),
            other => panic!("no replica writes command {other}"),
        }
    }

    /// Mostly of the right geometry: another one is not listened to.
    fn ping(&mut self) -> Ping {
        let mut ping = Ping {
            timestamp_monotonic: self.any(),
            incarnation_target: self.incarnation(),
            checkpoint: self.block_ref(),
            store_full: self.cursor.u8() & 1,
            ..plain_ping(self.target)
        };
        if self.cursor.u8().is_multiple_of(8) {
            ping.replica_count = 1 + self.cursor.u8() % REPLICAS_MAX;
            ping.message_size = self.any_u32();
            ping.pipeline = self.any_u32();
        }
        ping
    }

    fn reply(&mut self) -> Command {
        Reply {
            client: self.client(),
            session: self.any(),
            request: self.any(),
            op: self.any(),
            timestamp: self.any(),
            request_checksum: self.any_u32(),
            result: self.any_u32(),
            operation: Operation::Apply as u8,
        }
        .into()
    }

    // ---- bodies

    /// Up to 255 bytes, whatever comes.
    fn bytes(&mut self) -> Vec<u8> {
        let size = usize::from(self.cursor.u8());
        self.cursor.bytes(size).to_vec()
    }

    fn block(&mut self) -> (Command, Vec<u8>) {
        let (index, checkpoint_op) = (self.any_u32(), self.op());
        let block = Block { index, checkpoint_op, kind: self.cursor.u8() % 9 };
        (block.into(), self.bytes())
    }

    /// References of blocks: a few, or as many as a message holds.
    fn references(&mut self) -> Vec<u8> {
        let room = (self.target.geometry.message_size - HEADER_SIZE) as usize / BlockRef::SIZE;
        let byte = self.cursor.u8();
        let count = if byte == 255 { room } else { 1 + usize::from(byte % 4) };
        let first = self.block_ref();
        let next = |index: usize| {
            let index = first.index.wrapping_add(u32::try_from(index).expect("a few thousand"));
            BlockRef { index, ..first }.encode()
        };
        (0..count).flat_map(next).collect()
    }

    /// Prepare headers with gaps, op descending.
    fn headers(&mut self) -> Vec<u8> {
        let mut op = self.op();
        let mut headers = Vec::new();
        for _ in 0..1 + self.cursor.u8() % 8 {
            let parent = Parent::default();
            headers.extend_from_slice(&self.header_at(op, View(VIEW_MAX), parent).encode());
            let Some(below) = op.checked_sub(1 + u64::from(self.cursor.u8() / 64)) else { break };
            op = below;
        }
        headers
    }

    fn is_real(&self, op: Op) -> Option<Header<Prepare>> {
        self.target.log.iter().find(|header| header.op() == op).copied()
    }

    /// The header of the prepare at `op`: that of the log, or one of the stranger's.
    fn header_at(&mut self, op: Op, view_max: View, parent: Parent) -> Header<Prepare> {
        if op == 0 {
            return Header::root(self.target.cluster);
        }
        let byte = self.cursor.u8();
        if let Some(real) = self.is_real(op)
            && byte.is_multiple_of(2)
        {
            return real;
        }
        let view = View(self.number_u32(parent.view.0.max(self.target.view), VIEW_MAX));
        let view = view.min(view_max).max(parent.view);
        let replica = view.primary(self.target.replica_count);
        let incarnation = self.incarnation();
        let author = Author { cluster: self.target.cluster, view, replica, incarnation };
        let command = Prepare {
            parent,
            op,
            commit: op - 1 - u64::from(byte / 64).min(op - 1),
            entry_count: 1,
            ..Prepare::default()
        };
        Header::seal(&author, command, &[0; ENTRY_SIZE as usize])
    }

    /// A table of the stranger's own, which mostly names him.
    fn table(&mut self, author: &Author, op_max: Op) -> IncarnationTable {
        let mut table = IncarnationTable { op: 1, ..IncarnationTable::default() };
        for index in 0..usize::from(self.target.replica_count) {
            table.incarnations[index] = self.incarnation();
        }
        let byte = self.cursor.u8();
        if byte < 224 {
            table.incarnations[author.replica.index()] = author.incarnation;
        }
        if byte & 1 == 1 {
            table.op = self.number(op_max, NUMBER_MAX);
        }
        if byte & 6 == 6 && table.op > 1 {
            table.op_before = 1 + self.cursor.u64() % (table.op - 1);
            for index in 0..usize::from(self.target.replica_count) {
                table.incarnations_before[index] = self.incarnation();
            }
        }
        table
    }

    /// Headers from `op` down, mostly a chain that the log's own may carry, and the table.
    fn header_set(&mut self, author: &Author, op: Op, view_max: View) -> HeaderSet {
        let byte = self.cursor.u8();
        let pipeline = u64::from(self.target.geometry.pipeline);
        let room = u64::from(self.target.geometry.message_size / HEADER_SIZE - 2);
        let count = if byte == 255 {
            u64::from(PIPELINE_MAX + 1)
        } else {
            1 + u64::from(byte) % (pipeline + 1)
        };
        let count = count.min(room).min(op.saturating_add(1));
        let mut headers: Vec<Option<Header<Prepare>>> = Vec::new();
        for op in op - (count - 1)..=op {
            let byte = self.cursor.u8();
            let below = headers.last().copied().flatten().map(|header| header.id().as_parent());
            let real = self.is_real(op.saturating_sub(1)).map(|header| header.id().as_parent());
            let parent = if byte < 240 {
                below.or(real).unwrap_or_default()
            } else {
                real.unwrap_or_default()
            };
            let header = self.header_at(op, view_max, parent);
            headers.push((byte >= 16).then_some(header));
            if headers.len() as u64 == count {
                *headers.last_mut().expect("just pushed") = Some(header);
            }
        }
        headers.reverse();
        HeaderSet { table: self.table(author, op), op, headers }
    }

    fn do_view_change(&mut self, author: &Author) -> (Command, Vec<u8>) {
        let below =
            View(author.view.0.saturating_sub(u32::from(!self.cursor.u8().is_multiple_of(8))));
        let log_view = self.view_up_to(below);
        let op = self.op();
        let set = self.header_set(author, op, log_view);
        let bits = (1u64 << set.headers.len()) - 1;
        let commit_max = self.number(op, NUMBER_MAX);
        let command = DoViewChange {
            op: set.op,
            commit_min: self.number(commit_max, commit_max),
            commit_max,
            checkpoint: self.block_ref(),
            log_view,
            present: self.any() & bits,
            nack: self.any() & bits,
        };
        (command.into(), set.encode())
    }

    fn start_view(&mut self, author: &Author) -> (Command, Vec<u8>) {
        let op = self.op();
        let set = self.header_set(author, op, author.view);
        let command = StartView {
            op: set.op,
            commit_max: self.number(op, op),
            checkpoint: self.block_ref(),
            nonce: self.any(),
        };
        (command.into(), set.encode())
    }

    /// A batch that is in order, as the next in the log if it can be.
    fn prepare(&mut self, view: View) -> (Command, Vec<u8>) {
        let op = self.op().max(1);
        let real = self.is_real(op - 1).map(|header| header.id().as_parent());
        let parent = match real.filter(|parent| parent.view <= view) {
            Some(parent) if !self.cursor.u8().is_multiple_of(8) => parent,
            _ => Parent {
                view: self.view_up_to(view),
                checksum: self.any_u32(),
                checksum_body: self.any_u32(),
            },
        };
        let (body, entry_count) = self.batch();
        let command = Prepare {
            parent,
            op,
            commit: self.number(op - 1, op - 1),
            timestamp: self.number(0, u64::MAX - u64::from(entry_count)),
            checkpoint_id: u128::from(self.any()),
            entry_count,
        };
        (command.into(), body)
    }

    /// The body of a prepare and how many entries it has.
    fn batch(&mut self) -> (Vec<u8>, u32) {
        let byte = self.cursor.u8();
        if byte < 64 {
            return (self.alone(byte < 32), 1);
        }
        let count = 1 + u32::from(byte % 4);
        let mut body = Vec::new();
        for _ in 0..count {
            let byte = self.cursor.u8();
            let (operation, has_body, has_session) = match byte % 4 {
                0 => (Operation::Noop, false, false),
                1 => (Operation::Register, false, false),
                2 => (Operation::Deregister, false, true),
                _ => (Operation::Apply, true, true),
            };
            let client = if operation == Operation::Noop { ClientId(0) } else { self.client() };
            let number = if has_session { self.any().max(1) } else { 0 };
            let bytes = if has_body { self.cursor.bytes(usize::from(byte) / 8) } else { &[] };
            append(&mut body, entry(operation, client, number), bytes);
        }
        (body, count)
    }

    /// A recovery, or a genesis, of the stranger's.
    fn alone(&mut self, is_recovery: bool) -> Vec<u8> {
        let mut body = Vec::new();
        let index = ReplicaIndex(self.cursor.u8() % self.target.replica_count);
        let incarnation = self.incarnation();
        let author = Author {
            cluster: self.target.cluster,
            view: View(0),
            replica: index,
            incarnation: self.incarnation(),
        };
        let table = self.table(&author, self.target.op).alone();
        if is_recovery {
            let recover = Recover { replica: index, incarnation, table };
            let client = self.client();
            append(&mut body, entry(Operation::Recover, client, 1), &recover.encode());
        } else {
            let table = IncarnationTable { op: 1, ..table };
            append(&mut body, entry(Operation::Genesis, ClientId(0), 0), &table.encode());
        }
        body
    }
}

fn entry(operation: Operation, client: ClientId, number: u64) -> Entry {
    Entry { client, session: number, request: number, size: 0, checksum: 0, operation }
}

fn append(body: &mut Vec<u8>, entry: Entry, bytes: &[u8]) {
    let size = u32::try_from(bytes.len()).expect("a few bytes");
    let entry = Entry { size, checksum: crc32c::crc32c(bytes), ..entry };
    body.extend_from_slice(&entry.encode());
    body.extend_from_slice(bytes);
}
