//! F5: one bare replica for tests: what goes in, what comes out. Its peers are messages made by
//! hand, its disk is a vector whose requests complete when the test says so.

use super::cluster_tests::{Disk, format, open};
use super::*;
use crate::constants::ENTRY_SIZE;
use crate::storage::{Request, SuperblockState};
use crate::wire::{
    BlockRef, Commit, DoViewChange, Entry, Header, MessageBuilder, Operation, Prepare, StartView,
    StartViewChange,
};

pub(super) const CLUSTER: ClusterId = ClusterId(7);

pub(super) fn incarnation(replica: u8) -> u64 {
    100 + u64::from(replica)
}

pub(super) fn author(replica: u8, view: u32) -> Author {
    let replica_index = ReplicaIndex(replica);
    let view = View(view);
    Author { cluster: CLUSTER, view, replica: replica_index, incarnation: incarnation(replica) }
}

pub(super) fn table(replica_count: u8) -> IncarnationTable {
    let mut table = IncarnationTable { op: 1, ..IncarnationTable::default() };
    for replica in 0..replica_count {
        table.incarnations[usize::from(replica)] = incarnation(replica);
    }
    table
}

pub(super) fn message(replica: u8, view: u32, command: impl Into<Command>) -> Message {
    Message::new(&author(replica, view), command, &[])
}

pub(super) fn id(message: &Message) -> PrepareId {
    message.prepare_header().id()
}

/// A prepare with one entry, by the primary of `view` among `replica_count`.
pub(super) fn prepare(
    view: u32,
    parent: &Header<Prepare>,
    commit: Op,
    entry: &Entry,
    body: &[u8],
) -> Message {
    let mut builder = MessageBuilder::new(ENTRY_SIZE + entry.size);
    builder.append(&entry.encode());
    builder.append(body);
    let command = Prepare {
        parent: parent.id().as_parent(),
        op: parent.op() + 1,
        commit,
        timestamp: parent.op() * 10,
        checkpoint_id: 0,
        entry_count: 1,
    };
    let primary = View(view).primary(3);
    builder.seal(&author(primary.0, view), command)
}

pub(super) fn genesis(table: &IncarnationTable) -> Message {
    let body = table.encode();
    let entry = Entry {
        client: ClientId(0),
        session: 0,
        request: 0,
        size: u32::try_from(body.len()).unwrap(),
        checksum: crc32c::crc32c(&body),
        operation: Operation::Genesis,
    };
    let mut builder = MessageBuilder::new(ENTRY_SIZE + entry.size);
    builder.append(&entry.encode());
    builder.append(&body);
    let parent = Header::root(CLUSTER).id().as_parent();
    let command = Prepare { parent, op: 1, entry_count: 1, ..Prepare::default() };
    builder.seal(&author(0, 0), command)
}

/// `parent` and a prepare of `view` after it, of client `client`.
pub(super) fn next(view: u32, parent: &Message, commit: Op, client: u128) -> Message {
    let body = [5; 8];
    let entry = Entry {
        client: ClientId(client),
        session: 1,
        request: 1,
        size: 8,
        checksum: crc32c::crc32c(&body),
        operation: Operation::Apply,
    };
    prepare(view, &parent.prepare_header(), commit, &entry, &body)
}

/// The log of `views`, op 1 being the genesis: `log[op - 1]`. Each was prepared with the pipeline
/// full.
pub(super) fn log_of(views: &[u32]) -> Vec<Message> {
    let mut log = vec![genesis(&table(3))];
    for (client, view) in (1..).zip(views) {
        let commit = (log.len() as Op + 1).saturating_sub(u64::from(GEOMETRY.pipeline));
        log.push(next(*view, &log[log.len() - 1], commit, client));
    }
    log
}

pub(super) fn set_of(log: &[Message], count: usize) -> HeaderSet {
    let headers: Vec<_> =
        log.iter().rev().take(count).map(|message| Some(message.prepare_header())).collect();
    HeaderSet { table: table(3), op: log.len() as Op, headers }
}

pub(super) fn start_view_of(
    set: &HeaderSet,
    replica: u8,
    view: u32,
    commit_max: Op,
    nonce: u64,
) -> Message {
    let command = StartView { op: set.op, commit_max, nonce, ..StartView::default() };
    Message::new(&author(replica, view), command, &set.encode())
}

pub(super) fn start_view(log: &[Message], view: u32, commit_max: Op, nonce: u64) -> Message {
    let primary = View(view).primary(3).0;
    start_view_of(&set_of(log, log.len().min(4)), primary, view, commit_max, nonce)
}

pub(super) fn do_view_change(
    log: &[Message],
    replica: u8,
    view: u32,
    log_view: u32,
    commit_max: Op,
) -> Message {
    let set = set_of(log, log.len().min(4));
    let command = DoViewChange {
        op: set.op,
        commit_min: 0,
        commit_max,
        checkpoint: BlockRef::NONE,
        log_view: View(log_view),
        present: (1 << set.headers.len()) - 1,
        nack: 0,
    };
    Message::new(&author(replica, view), command, &set.encode())
}

pub(super) fn commit(view: u32, prepare: &Message, round: u64) -> Message {
    let command = Commit { commit: id(prepare), round, ..Commit::default() };
    message(View(view).primary(3).0, view, command)
}

pub(super) fn ping(from: &Author, geometry: Geometry, incarnation_target: u64) -> Message {
    let Geometry { message_size, journal_slots, block_size, pipeline, clients_max } = geometry;
    let command = Ping {
        timestamp_monotonic: 1,
        incarnation_target,
        checkpoint: BlockRef::NONE,
        message_size,
        journal_slots,
        block_size,
        pipeline,
        clients_max,
        replica_count: 3,
        store_full: 0,
    };
    Message::new(from, command, &[])
}

pub(super) const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 3,
    clients_max: 64,
};

pub(super) struct Bench {
    pub(super) disk: Disk,
    pub(super) replica: Replica,
    /// Not complete yet.
    pub(super) pending: Vec<Request>,
    pub(super) sent: Vec<(ReplicaIndex, Message)>,
    pub(super) executed: Vec<Op>,
    pub(super) fatal: bool,
    pub(super) starts: u64,
}

impl Bench {
    /// Replica `index` of three, with a file that was just formatted.
    pub(super) fn blank(index: u8) -> Self {
        Self::formatted(index, IncarnationTable::default(), 0)
    }

    pub(super) fn formatted(index: u8, table: IncarnationTable, view: u32) -> Self {
        let mut state = SuperblockState::formatted(
            CLUSTER,
            ReplicaIndex(index),
            3,
            incarnation(index),
            GEOMETRY,
        );
        state.head.table = table;
        (state.view, state.log_view) = (View(view), View(view));
        let mut disk = Disk::default();
        format(&state, &mut disk);
        Self::start(disk, 1)
    }

    pub(super) fn start(mut disk: Disk, starts: u64) -> Self {
        let opened = open(&mut disk).unwrap();
        let mut effects = Effects::default();
        let replica = Replica::open(opened, Now::default(), Prng::from_seed(starts), &mut effects);
        let mut bench = Self {
            disk,
            replica,
            pending: Vec::new(),
            sent: Vec::new(),
            executed: Vec::new(),
            fatal: false,
            starts,
        };
        bench.take(&mut effects);
        bench
    }

    /// Replica `index`, born, its log `log` executed up to `commit_max`, normal in `view`.
    pub(super) fn with_log(index: u8, log: &[Message], view: u32, commit_max: Op) -> Self {
        let mut bench = Self::formatted(index, table(3), 0);
        bench.receive(&start_view(log, view, commit_max, 0));
        for message in log {
            bench.receive(message);
        }
        bench.settle();
        assert_eq!(bench.replica.status(), Status::Normal);
        assert_eq!((bench.replica.view(), bench.replica.op()), (View(view), log.len() as Op));
        assert_eq!(bench.replica.commit_min(), commit_max);
        bench.sent.clear();
        bench
    }

    /// The process dies, with everything that was in flight; then it starts again.
    pub(super) fn restart(self) -> Self {
        Self::start(self.disk, self.starts + 1)
    }

    pub(super) fn take(&mut self, effects: &mut Effects) {
        while !effects.is_empty() {
            self.fatal |= effects.fatal.take().is_some();
            self.pending.append(&mut effects.requests);
            self.sent.append(&mut effects.sends);
            effects.client_sends.clear();
            effects.checkpoint_durable = None;
            effects.load = None;
            if let Some(prepare) = effects.commit.take() {
                let op = prepare.prepare_header().op();
                self.executed.push(op);
                self.replica.on_commit_done(op, effects);
            }
        }
    }

    pub(super) fn act(&mut self, act: impl FnOnce(&mut Replica, &mut Effects)) {
        let mut effects = Effects::default();
        act(&mut self.replica, &mut effects);
        self.take(&mut effects);
    }

    pub(super) fn receive(&mut self, message: &Message) {
        // What a receiver would refuse to decode proves nothing.
        let decoded = Message::decode(message.bytes()).unwrap();
        self.act(|replica, effects| replica.on_message(&decoded, effects));
        self.act(Replica::on_turn_end);
    }

    pub(super) fn tick(&mut self) {
        self.act(|replica, effects| {
            replica.set_now(Now { monotonic: (replica.tick + 1) * TICK_NS, realtime: 1 << 60 });
            replica.on_tick(effects);
        });
        self.act(Replica::on_turn_end);
    }

    /// Completes the oldest request for which `choose` holds; false if there is none.
    pub(super) fn complete(&mut self, choose: impl Fn(&Request) -> bool) -> bool {
        let Some(index) = self.pending.iter().position(choose) else { return false };
        match self.pending.remove(index) {
            Request::Read { token, offset, size } => {
                let result = self.disk.read(offset, size);
                self.act(|replica, effects| replica.on_read_done(token, result, effects));
            }
            Request::Write { token, offset, sectors } => {
                self.disk.write(offset, &sectors);
                self.act(|replica, effects| replica.on_write_done(token, effects));
            }
        }
        true
    }

    pub(super) fn settle(&mut self) {
        self.act(Replica::on_turn_end);
        while self.complete(|_| true) {
            self.act(Replica::on_turn_end);
        }
    }

    pub(super) fn ticks(&mut self, count: u64) {
        for _ in 0..count {
            self.tick();
            self.settle();
        }
    }

    /// How many messages with this name went out, and forgets all.
    pub(super) fn drain_sent(&mut self, name: &str) -> usize {
        let sent = std::mem::take(&mut self.sent);
        sent.iter().filter(|(_, message)| message.header().command.name() == name).count()
    }

    pub(super) fn count_sent(&self, name: &str) -> usize {
        self.sent.iter().filter(|(_, message)| message.header().command.name() == name).count()
    }

    /// Votes of replicas 0.. to leave the current view, except the own.
    pub(super) fn votes_of_others(&mut self, count: usize) {
        let view = self.replica.view().0;
        for other in self.replica.others().take(count).collect::<Vec<_>>() {
            self.receive(&message(other.0, view, StartViewChange {}));
        }
    }
}

pub(super) fn is_superblock(request: &Request) -> bool {
    matches!(
        request,
        Request::Write { token: Token::WriteSuperblock { .. }, .. }
            | Request::Read { token: Token::ReadSuperblock { .. }, .. }
    )
}

pub(super) fn request(client: u128, number: u64) -> Message {
    let author =
        Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
    let command = crate::wire::Request {
        client: ClientId(client),
        session: 1,
        request: number,
        operation: Operation::Apply as u8,
    };
    Message::new(&author, command, &[1; 16])
}

/// Replica 1, primary of view 1 with the log of view 0, everything committed.
pub(super) fn primary() -> (Bench, Vec<Message>) {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 3);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, 3));
    bench.settle();
    assert!(bench.replica.is_primary());
    bench.sent.clear();
    (bench, log)
}
