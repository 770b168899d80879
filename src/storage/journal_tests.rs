//! The journal: rules one by one, then a random life with crashes, rot and truncation on a disk in
//! memory, against a model of what was promised.

use super::*;
use crate::fatal::FatalKind;
use crate::stdx::{Prng, Ratio};
use crate::storage::superblock::superblock_zone;
use crate::storage::test_disk::{Completion, TestDisk};
use crate::storage::{Geometry, Opened, SuperblockState};
use crate::wire::{Author, BlockRef, ReplicaIndex, View};

const CLUSTER: ClusterId = ClusterId(5);

fn geometry() -> Geometry {
    Geometry { message_size: 12288, journal_slots: 64, pipeline: 8, ..Geometry::default() }
}

fn message(view: u32, op: Op, parent: &PrepareId, body: &[u8]) -> Message {
    let author =
        Author { cluster: CLUSTER, view: View(view), replica: ReplicaIndex(0), incarnation: 1 };
    let parent = parent.as_parent();
    let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
    // An entry has 64 bytes.
    let mut body = body.to_vec();
    body.resize(body.len().max(64), 0);
    Message::new(&author, command, &body)
}

fn formatted_disk(replica_count: u8) -> TestDisk {
    let state = SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 1, geometry());
    TestDisk::formatted(&state)
}

/// An empty journal and its disk.
struct Bench {
    disk: TestDisk,
    journal: Journal,
    requests: Vec<Request>,
    durable: Vec<PrepareId>,
}

impl Bench {
    fn new() -> Self {
        let mut disk = formatted_disk(3);
        let journal = disk.open().unwrap().journal;
        Self { disk, journal, requests: Vec::new(), durable: Vec::new() }
    }

    /// Ops 1 to `count` of view 1, written and clean.
    fn with_ops(count: Op) -> (Self, Vec<Message>) {
        let mut bench = Self::new();
        let mut messages: Vec<Message> = Vec::new();
        let mut parent = Header::root(CLUSTER).id();
        for op in 1..=count {
            let next = message(1, op, &parent, &[7; 5000]);
            parent = next.prepare_header().id();
            bench.journal.write_prepare(&next, &mut bench.requests);
            bench.settle();
            messages.push(next);
        }
        assert_eq!(bench.durable.len() as u64, count);
        (bench, messages)
    }

    fn done(&mut self, token: Token) {
        self.journal.on_write_done(token, &mut self.durable);
    }

    /// Takes the one request there is, which must be a write, off to nowhere.
    fn write_token(&mut self) -> Token {
        assert_eq!(self.requests.len(), 1);
        match self.requests.pop() {
            Some(Request::Write { token, .. }) => token,
            other => panic!("a write was expected: {other:?}"),
        }
    }

    /// Completes all there is to complete.
    fn settle(&mut self) {
        loop {
            self.journal.flush_headers(&mut self.requests);
            self.disk.submit(&mut self.requests);
            match self.disk.complete() {
                Some(Completion::Write(token)) => self.done(token),
                Some(Completion::Read(Token::ReadPrepare { id }, result)) => {
                    self.journal.on_read_done(id, result);
                }
                Some(other) => panic!("not of the journal: {other:?}"),
                None => break,
            }
        }
        assert!(self.journal.is_idle());
    }
}

fn id_of(message: &Message) -> PrepareId {
    message.prepare_header().id()
}

#[test]
fn a_prepare_is_durable_after_body_and_header() {
    let mut bench = Bench::new();
    let first = message(1, 1, &Header::root(CLUSTER).id(), &[1; 100]);
    let id = id_of(&first);
    assert!(bench.journal.may_nack(1, Some(&first.prepare_header().id())));
    bench.journal.write_prepare(&first, &mut bench.requests);
    assert!(bench.journal.is_dirty(1) && !bench.journal.is_faulty(1));
    assert!(bench.journal.has_body(&id) && bench.journal.is_writing(&id));
    assert!(!bench.journal.can_write(1));
    assert!(bench.journal.read_prepare(&id, &mut Vec::new()).is_none());
    bench.journal.flush_headers(&mut bench.requests);
    let body = bench.write_token();
    assert_eq!(body, Token::WritePrepare { op: 1, slot: 1 });
    bench.done(body);
    assert!(bench.durable.is_empty());
    assert!(bench.journal.is_dirty(1) && bench.journal.is_writing(&id));
    assert!(!bench.journal.may_nack(1, Some(&id)), "it is whole");
    bench.journal.flush_headers(&mut bench.requests);
    let headers = bench.write_token();
    assert_eq!(headers, Token::WriteHeaders { sector: 0 });
    bench.done(headers);
    assert_eq!(bench.durable, [id]);
    assert!(bench.journal.is_clean(&id) && !bench.journal.is_writing(&id));
    assert!(!bench.journal.may_nack(1, Some(&first.prepare_header().id())));
    assert_eq!(bench.journal.op_max(), 1);
}

#[test]
fn prepares_that_complete_together_share_a_sector_and_lower_ones_go_first() {
    let mut bench = Bench::new();
    let mut parent = Header::root(CLUSTER).id();
    for op in 1..=4 {
        let next = message(1, op, &parent, &[]);
        parent = id_of(&next);
        bench.journal.write_prepare(&next, &mut bench.requests);
    }
    assert_eq!(bench.journal.writes_in_flight(), 4);
    bench.requests.clear();
    for op in [4, 2, 3] {
        bench.done(Token::WritePrepare { op, slot: u32::try_from(op).unwrap() });
        bench.journal.flush_headers(&mut bench.requests);
        assert!(bench.requests.is_empty(), "the body of op 1 is still on its way");
    }
    bench.done(Token::WritePrepare { op: 1, slot: 1 });
    bench.journal.flush_headers(&mut bench.requests);
    bench.journal.flush_headers(&mut bench.requests);
    let headers = bench.write_token();
    bench.done(headers);
    assert_eq!(bench.durable.len(), 4);
    assert!(bench.journal.is_idle());
}

#[test]
fn one_header_sector_is_never_in_flight() {
    let (mut bench, messages) = Bench::with_ops(31);
    let mut parent = id_of(&messages[30]);
    for op in 32..=33 {
        let next = message(1, op, &parent, &[]);
        parent = id_of(&next);
        bench.journal.write_prepare(&next, &mut bench.requests);
        bench.requests.clear();
        bench.done(Token::WritePrepare { op, slot: u32::try_from(op).unwrap() });
    }
    bench.journal.truncate(32);
    // Op 33 was cut and op 30 is cut too: both sectors want to be written, of two.
    bench.journal.truncate(29);
    bench.journal.flush_headers(&mut bench.requests);
    let first = bench.write_token();
    bench.journal.flush_headers(&mut bench.requests);
    assert!(bench.requests.is_empty());
    bench.done(first);
    bench.journal.flush_headers(&mut bench.requests);
    let second = bench.write_token();
    assert_ne!(first, second);
    bench.done(second);
    assert!(bench.journal.is_idle());
}

#[test]
fn damage_found_by_a_read_is_faulty_until_the_body_is_durable_again() {
    let (mut bench, messages) = Bench::with_ops(3);
    let header = messages[1].prepare_header();
    let id = header.id();
    let read = bench.journal.read_prepare(&id, &mut bench.requests).unwrap();
    let Some(Request::Read { offset, size, .. }) = bench.requests.pop() else { panic!() };
    assert_eq!(size, 8192);
    let (found, whole) = bench.journal.on_read_done(read, bench.disk.read(offset, size));
    assert_eq!(found, id);
    assert_eq!(whole.unwrap().as_bytes(), messages[1].as_bytes());

    // One byte of the padding is enough.
    bench.disk.bytes[usize::try_from(offset).unwrap() + 8191] = 1;
    let read = bench.journal.read_prepare(&id, &mut bench.requests).unwrap();
    bench.requests.clear();
    let (_, damaged) = bench.journal.on_read_done(read, bench.disk.read(offset, size));
    assert!(damaged.is_none());
    assert!(bench.journal.is_faulty(2) && bench.journal.is_dirty(2));
    assert!(!bench.journal.has_body(&id) && !bench.journal.is_clean(&id));
    assert!(!bench.journal.may_nack(2, Some(&header.id())));
    assert!(bench.journal.read_prepare(&id, &mut bench.requests).is_none());

    bench.durable.clear();
    bench.journal.write_prepare(&messages[1], &mut bench.requests);
    assert!(!bench.journal.may_nack(2, Some(&header.id())));
    bench.settle();
    assert_eq!(bench.durable, [id]);
    assert!(bench.journal.is_clean(&id) && !bench.journal.is_faulty(2));
}

#[test]
fn a_truncated_prepare_stays_readable_and_comes_back_without_a_write_of_its_body() {
    let (mut bench, messages) = Bench::with_ops(5);
    bench.journal.truncate(3);
    assert_eq!(bench.journal.op_max(), 3);
    let id = id_of(&messages[4]);
    assert!(bench.journal.header(5).is_none() && !bench.journal.is_dirty(5));
    assert!(bench.journal.has_body(&id) && !bench.journal.is_clean(&id));
    let other = PrepareId { checksum: id.checksum + 1, ..id };
    assert!(bench.journal.may_nack(5, Some(&other)) && bench.journal.may_nack(5, None));
    assert!(!bench.journal.may_nack(5, Some(&id)), "it is whole");
    bench.settle();
    let mut opened = bench.disk.open().unwrap();
    assert_eq!((opened.journal.op_max(), opened.faulty_count), (3, 0));
    assert!(opened.journal.read_prepare(&id, &mut Vec::new()).is_some());

    bench.durable.clear();
    bench.journal.insert_header(&messages[4].prepare_header());
    assert!(bench.journal.is_writing(&id) && bench.journal.is_dirty(5));
    assert!(!bench.journal.can_write(5));
    bench.settle();
    assert_eq!(bench.durable, [id]);
    assert!(bench.disk.open().unwrap().journal.is_clean(&id));
}

#[test]
fn a_successor_of_the_same_op_waits_for_the_marker() {
    let (mut bench, messages) = Bench::with_ops(5);
    let successor = message(2, 5, &id_of(&messages[3]), &[2; 9000]);
    let id = id_of(&successor);
    bench.journal.write_prepare(&successor, &mut bench.requests);
    assert!(bench.requests.is_empty(), "the old header is on disk");
    assert!(bench.journal.has_body(&id) && bench.journal.is_writing(&id));
    assert!(bench.journal.may_nack(5, Some(&messages[4].prepare_header().id())));
    bench.journal.flush_headers(&mut bench.requests);
    let marker = bench.write_token();
    assert_eq!(marker, Token::WriteHeaders { sector: 0 });
    bench.done(marker);
    bench.journal.flush_headers(&mut bench.requests);
    let body = bench.write_token();
    assert_eq!(body, Token::WritePrepare { op: 5, slot: 5 });
    bench.done(body);
    assert!(!bench.journal.has_body(&id_of(&messages[4])));
    bench.settle();
    assert!(bench.journal.is_clean(&id));
}

#[test]
fn truncation_while_writing_is_not_reported_and_is_marked_afterwards() {
    let (mut bench, messages) = Bench::with_ops(2);
    let third = message(1, 3, &id_of(&messages[1]), &[3; 100]);
    bench.journal.write_prepare(&third, &mut bench.requests);
    bench.journal.truncate(2);
    assert!(!bench.journal.can_write(3));
    bench.durable.clear();
    bench.settle();
    assert!(bench.durable.is_empty());
    let opened = bench.disk.open().unwrap();
    assert_eq!(opened.journal.op_max(), 2);
    assert!(opened.journal.has_body(&id_of(&third)));
}

#[test]
fn a_faulty_slot_is_not_nackable_whatever_header_comes_until_it_is_truncated() {
    let (mut bench, messages) = Bench::with_ops(5);
    let offset = bench.journal.layout.prepare_offset(4);
    bench.disk.bytes[usize::try_from(offset).unwrap() + 20] ^= 1;
    let mut journal = bench.disk.open().unwrap().journal;
    assert!(journal.is_faulty(4) && journal.header(4).is_none());
    assert!(!journal.may_nack(4, None));
    assert!(!journal.may_nack(4, Some(&messages[3].prepare_header().id())));
    journal.insert_header(&messages[3].prepare_header());
    assert!(journal.is_faulty(4) && journal.is_dirty(4));
    assert!(!journal.may_nack(4, Some(&messages[3].prepare_header().id())));
    journal.truncate(3);
    assert!(!journal.is_faulty(4) && journal.may_nack(4, None));
}

#[test]
fn a_newer_op_is_never_replaced_and_an_older_one_is() {
    let (mut bench, messages) = Bench::with_ops(40);
    bench.journal.set_checkpoint(32);
    let mut parent = id_of(&messages[39]);
    let mut last = Vec::new();
    for op in 41..=96 {
        let next = message(1, op, &parent, &[]);
        parent = id_of(&next);
        bench.journal.write_prepare(&next, &mut bench.requests);
        bench.settle();
        last.push(next);
    }
    assert_eq!(bench.journal.op_max(), 96);
    assert!(bench.journal.header(32).is_none());
    bench.journal.insert_header(&messages[31].prepare_header());
    assert!(bench.journal.header(32).is_none());
    assert!(bench.journal.is_clean(&parent));
    assert!(!bench.journal.can_write(32));
    assert!(!bench.journal.may_nack(32, None));
}

// ---------------------------------------------------------------------------------------------
// The random life.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Appends in order, on a replica with peers; truncation; no rot.
    InOrder,
    /// The same, and headers before bodies, repair in any order, rot.
    Anything,
    /// A lone replica; rot.
    Lone,
}

/// One replica's journal, and what it and its cluster know to be true of it.
struct World {
    mode: Mode,
    disk: TestDisk,
    journal: Journal,
    requests: Vec<Request>,
    prng: Prng,
    superblock: SuperblockState,
    /// The log this replica should have, from op 1.
    log: Vec<Message>,
    /// Suffixes that were cut from the log, which may come back.
    branches: Vec<Vec<Message>>,
    /// All that was ever handed to the journal.
    known: BTreeMap<PrepareId, Message>,
    /// What the journal reported durable and no view has excluded since.
    durable: BTreeMap<Op, PrepareId>,
    /// Slots where rot struck since their body was written.
    rotten_slots: BTreeSet<u32>,
    /// Header sectors where rot struck since they were written.
    rotten_sectors: BTreeSet<u32>,
    /// Ops that were durable and are known to be damaged.
    damaged: BTreeSet<Op>,
    reads: BTreeMap<u32, PrepareId>,
    counts: Counts,
}

/// What was seen: a life in which nothing happened proves nothing.
#[derive(Debug, Default)]
struct Counts {
    durable: u64,
    cut_torn: u64,
    faulty: u64,
    truncated: u64,
    lost: u64,
    reads: u64,
    laps: u64,
    returned: u64,
}

impl World {
    fn new(mode: Mode, seed: u64, base: &TestDisk, counts: Counts) -> Self {
        let mut disk = TestDisk::new(seed);
        disk.bytes.clone_from(&base.bytes);
        let opened = disk.open().unwrap();
        Self {
            mode,
            journal: opened.journal,
            superblock: opened.superblock.state().clone(),
            prng: disk.prng.fork(),
            disk,
            requests: Vec::new(),
            log: Vec::new(),
            branches: Vec::new(),
            known: BTreeMap::new(),
            durable: BTreeMap::new(),
            rotten_slots: BTreeSet::new(),
            rotten_sectors: BTreeSet::new(),
            damaged: BTreeSet::new(),
            reads: BTreeMap::new(),
            counts,
        }
    }

    fn chance(&mut self, numerator: u32, denominator: u32) -> bool {
        self.prng.chance(Ratio::new(numerator, denominator))
    }

    fn head(&self) -> Op {
        self.log.len() as u64
    }

    fn message(&self, op: Op) -> &Message {
        &self.log[usize::try_from(op).unwrap() - 1]
    }

    fn id(&self, op: Op) -> PrepareId {
        if op == 0 { Header::root(CLUSTER).id() } else { id_of(self.message(op)) }
    }

    fn checkpoint(&self) -> Op {
        self.superblock.op_checkpoint()
    }

    /// The superblock's own crashes are its own tests' affair: here it is durable at once.
    fn write_superblock(&mut self) {
        assert_eq!(self.superblock.invalid(), None);
        let zone = superblock_zone(&self.superblock);
        self.disk.bytes[..zone.len()].copy_from_slice(zone.as_ref());
    }

    fn new_message(&mut self, op: Op, parent: &PrepareId) -> Message {
        let size_max = geometry().message_size - HEADER_SIZE;
        let mut body = vec![0; self.prng.index(size_max as usize + 1)];
        self.prng.fill(&mut body);
        let next = message(self.superblock.view.0, op, parent, &body);
        self.known.insert(id_of(&next), next.clone());
        next
    }

    fn append(&mut self) {
        let op = self.head() + 1;
        if op > self.journal.op_prepare_max() {
            return self.checkpoint_forward();
        }
        let parent = self.id(op - 1);
        if self.mode == Mode::Anything && self.chance(1, 5) {
            let next = self.new_message(op, &parent);
            self.journal.insert_header(&next.prepare_header());
            self.log.push(next);
        } else if self.journal.can_write(op) {
            let next = self.new_message(op, &parent);
            self.journal.write_prepare(&next, &mut self.requests);
            self.log.push(next);
        }
    }

    /// Writes one body that is wanted.
    fn repair(&mut self) {
        let dirty: Vec<Op> = (self.checkpoint() + 1..=self.head())
            .filter(|op| !self.journal.is_clean(&self.id(*op)) && self.journal.can_write(*op))
            .collect();
        if let Some(op) = self.pick(&dirty) {
            let message = self.message(op).clone();
            self.journal.write_prepare(&message, &mut self.requests);
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.prng.index(from.len())])
    }

    fn checkpoint_forward(&mut self) {
        let next = self.checkpoint() + 32;
        if next <= self.head() && (1..=next).all(|op| self.is_clean_or_older(op)) {
            self.superblock.checkpoint = BlockRef { op: next, ..BlockRef::NONE };
            self.superblock.op_complete = next;
            self.superblock.commit_max = self.superblock.commit_max.max(next);
            self.write_superblock();
            self.journal.set_checkpoint(next);
            self.counts.laps += 1;
        }
    }

    fn is_clean_or_older(&self, op: Op) -> bool {
        op <= self.checkpoint() || self.journal.is_clean(&self.id(op))
    }

    /// A log is taken over in a new view: up to `op_keep` the one that was, then nothing, another
    /// branch, or one that was cut before; `fresh` ops of it are of the new view.
    fn start_view(&mut self, op_keep: Op) {
        assert!(op_keep >= self.checkpoint());
        let keep = usize::try_from(op_keep).unwrap();
        let cut = self.log.split_off(keep);
        self.counts.truncated += cut.len() as u64;
        let parent = self.id(op_keep).as_parent();
        self.superblock.view = self.superblock.view.next();
        self.superblock.log_view = self.superblock.view;
        let returning: Vec<usize> = (0..self.branches.len())
            .filter(|index| {
                let first = self.branches[*index][0].prepare_header();
                first.op() == op_keep + 1 && first.command.parent == parent
            })
            .collect();
        let whole = |index: &usize| {
            let branch = &self.branches[*index];
            branch.iter().all(|message| self.journal.has_body(&id_of(message)))
        };
        let returning: Vec<usize> = match self.mode {
            Mode::Anything => returning,
            Mode::InOrder => returning.into_iter().filter(whole).collect(),
            Mode::Lone => Vec::new(),
        };
        if let Some(index) = self.pick(&returning).filter(|_| self.prng.chance(Ratio::new(1, 2))) {
            let branch = self.branches[index].clone();
            self.counts.returned += branch.len() as u64;
            self.log.extend(branch);
        } else if self.mode == Mode::Anything && self.chance(1, 2) {
            let count = self.prng.below(6).min(self.journal.op_prepare_max() - op_keep);
            for op in op_keep + 1..=op_keep + count {
                let parent = self.id(op - 1);
                let next = self.new_message(op, &parent);
                self.log.push(next);
            }
        }
        if !cut.is_empty() {
            self.branches.push(cut);
        }
        self.durable.retain(|op, _| *op <= op_keep);
        self.damaged.retain(|op| *op <= op_keep);
        self.install();
    }

    /// The superblock with the head of the log, then the journal.
    fn install(&mut self) {
        let head = self.head();
        self.superblock.head.op = head;
        let header =
            if head == 0 { Header::root(CLUSTER) } else { self.message(head).prepare_header() };
        self.superblock.head.headers = vec![Some(header)];
        self.write_superblock();
        let truncate_first = self.chance(1, 2);
        if truncate_first {
            self.journal.truncate(head);
        }
        for op in self.checkpoint() + 1..=head {
            let header = self.message(op).prepare_header();
            self.journal.insert_header(&header);
        }
        if !truncate_first {
            self.journal.truncate(head);
        }
        assert!(self.journal.op_max() <= head.max(self.checkpoint()));
        assert!(
            (head + 1..=self.journal.op_prepare_max())
                .all(|op| { !self.journal.is_faulty(op) && self.journal.may_nack(op, None) })
        );
    }

    fn read(&mut self) {
        let known: Vec<PrepareId> =
            self.known.keys().filter(|id| self.journal.has_body(id)).copied().collect();
        if let Some(id) = self.pick(&known)
            && let Some(read) = self.journal.read_prepare(&id, &mut self.requests)
        {
            self.reads.insert(read, id);
        }
    }

    fn complete(&mut self) {
        self.disk.submit(&mut self.requests);
        match self.disk.complete() {
            Some(Completion::Write(token)) => self.on_write_done(token),
            Some(Completion::Read(Token::ReadPrepare { id: read }, result)) => {
                let id = self.reads.remove(&read).unwrap();
                let wanted = self.journal.has_body(&id) && !self.journal.is_writing(&id);
                let slot = geometry().slot(id.op);
                let (found, message) = self.journal.on_read_done(read, result);
                assert_eq!(found, id);
                self.counts.reads += 1;
                if self.is_rotten(slot) && self.journal.is_faulty(id.op) {
                    self.damaged.insert(id.op);
                }
                match message {
                    Some(message) => assert_eq!(message.as_bytes(), self.known[&id].as_bytes()),
                    // Damaged, or overwritten while it was read.
                    None => assert!(!wanted || self.is_rotten(slot) || !self.journal.has_body(&id)),
                }
            }
            Some(other) => panic!("not of the journal: {other:?}"),
            None => {}
        }
    }

    fn is_rotten(&self, slot: u32) -> bool {
        self.rotten_slots.contains(&slot) || self.rotten_sectors.contains(&(slot / 32))
    }

    fn has_rot(&self) -> bool {
        !self.rotten_slots.is_empty() || !self.rotten_sectors.is_empty()
    }

    fn on_write_done(&mut self, token: Token) {
        match token {
            Token::WritePrepare { slot, .. } => self.rotten_slots.remove(&slot),
            Token::WriteHeaders { sector } => self.rotten_sectors.remove(&sector),
            _ => panic!("not of the journal: {token:?}"),
        };
        let mut durable = Vec::new();
        self.journal.on_write_done(token, &mut durable);
        for id in durable {
            assert_eq!(id, self.id(id.op), "reported what is not in the log");
            assert!(self.journal.is_clean(&id) && self.journal.has_body(&id));
            self.durable.insert(id.op, id);
            self.damaged.remove(&id.op);
            self.counts.durable += 1;
        }
    }

    fn step(&mut self) {
        match self.prng.below(20) {
            0..=5 => self.append(),
            6..=11 => self.complete(),
            12..=15 => self.journal.flush_headers(&mut self.requests),
            16 => self.read(),
            17 if self.mode == Mode::Anything => self.repair(),
            18 if self.mode != Mode::Lone && self.chance(1, 10) => {
                let low = self.checkpoint().max(self.head().saturating_sub(8));
                let op_keep = self.prng.range_inclusive(low, self.head());
                self.start_view(op_keep);
            }
            19 if self.mode == Mode::Anything && self.chance(1, 20) => self.rot_body(),
            _ => {}
        }
        self.check();
    }

    fn rot_body(&mut self) {
        let slot = u32::try_from(self.prng.below(64)).unwrap();
        self.disk.rot(self.journal.layout.prepare_offset(slot));
        self.rotten_slots.insert(slot);
    }

    fn rot_headers(&mut self) {
        let sector = u32::try_from(self.prng.below(2)).unwrap();
        self.disk.rot(self.journal.layout.headers_offset(sector));
        self.rotten_sectors.insert(sector);
    }

    /// What holds at any moment.
    fn check(&self) {
        for (op, id) in &self.durable {
            if *op > self.checkpoint() {
                let header = self.message(*op).prepare_header();
                assert_eq!(self.journal.header(*op).map(|header| header.id()), Some(*id));
                assert!(!self.journal.may_nack(*op, Some(&header.id())), "op {op}");
                assert!(self.journal.is_clean(id) || self.damaged.contains(op));
            }
        }
        for op in self.checkpoint() + 1..=self.journal.op_prepare_max() {
            assert!(self.journal.is_dirty(op) || !self.journal.is_faulty(op));
        }
        assert!(self.journal.writes_in_flight() <= JOURNAL_WRITES_MAX);
    }

    /// A crash, perhaps rot, perhaps a crash while opening, then what must be true of what is
    /// found.
    fn crash(&mut self) -> bool {
        self.disk.submit(&mut self.requests);
        self.disk.crash();
        self.reads.clear();
        if self.mode != Mode::InOrder && self.chance(1, 4) {
            if self.chance(1, 2) { self.rot_body() } else { self.rot_headers() }
        }
        if self.chance(1, 4) {
            let steps = self.prng.below(60);
            self.disk.open_and_crash(steps);
        }
        match self.disk.open() {
            Ok(opened) => {
                assert_eq!(opened.superblock.state(), &self.superblock);
                self.on_opened(opened);
                true
            }
            Err(fatal) => {
                assert_eq!(fatal.kind, FatalKind::JournalLost, "{fatal}");
                assert_eq!(self.mode, Mode::Lone);
                assert!(self.has_rot(), "{fatal}");
                self.counts.lost += 1;
                false
            }
        }
    }

    fn on_opened(&mut self, opened: Opened) {
        self.journal = opened.journal;
        self.counts.cut_torn += opened.cut_torn.len() as u64;
        self.counts.faulty += u64::from(opened.faulty_count);
        if !self.has_rot() && self.mode != Mode::Anything {
            assert_eq!(opened.faulty_count, 0);
        }
        for op in self.checkpoint() + 1..=self.journal.op_prepare_max() {
            let Some(header) = self.journal.header(op).copied() else { continue };
            let id = header.id();
            assert!(self.known.contains_key(&id), "out of thin air: {id:?}");
            assert!(self.journal.is_clean(&id) && self.journal.has_body(&id));
            assert!(op <= self.superblock.head.op || header.view >= self.superblock.log_view);
            let mut requests = Vec::new();
            let read = self.journal.read_prepare(&id, &mut requests).unwrap();
            let Some(Request::Read { offset, size, .. }) = requests.pop() else { panic!() };
            let (_, message) = self.journal.on_read_done(read, self.disk.read(offset, size));
            assert_eq!(message.unwrap().as_bytes(), self.known[&id].as_bytes());
        }
        for (op, id) in &self.durable {
            if *op <= self.checkpoint() {
                continue;
            }
            let header = self.known[id].prepare_header();
            assert!(!self.journal.may_nack(*op, Some(&header.id())), "op {op} was acknowledged");
            let slot = geometry().slot(*op);
            if !self.journal.is_clean(id) {
                assert!(self.is_rotten(slot) || self.damaged.contains(op), "op {op} was durable");
                assert!(self.journal.is_faulty(*op));
                self.damaged.insert(*op);
            }
        }
        assert!(self.journal.is_idle());
        self.take_over();
    }

    /// After opening: a lone replica goes on with what it found; another is told by its peers, who
    /// know the log at least as far as it was acknowledged.
    fn take_over(&mut self) {
        let op_durable = self.durable.keys().max().copied().unwrap_or(0).max(self.checkpoint());
        let op_keep = if self.mode == Mode::Lone {
            assert!(self.journal.op_max() >= op_durable);
            let op_max = self.journal.op_max();
            for op in self.checkpoint() + 1..=op_max {
                let id = self.id(op);
                assert!(self.journal.is_clean(&id));
                self.durable.insert(op, id);
            }
            op_max
        } else {
            // In order means: nothing is taken over whose body is missing.
            let all = op_durable + 1..=self.head();
            let op_max = match self.mode {
                Mode::InOrder => all
                    .take_while(|op| self.journal.is_clean(&self.id(*op)))
                    .last()
                    .unwrap_or(op_durable),
                _ => self.head().max(op_durable),
            };
            self.prng.range_inclusive(op_durable, op_max)
        };
        self.start_view(op_keep);
    }

    /// Without further faults everything becomes clean.
    fn finish(&mut self) {
        for _ in 0..10_000 {
            self.repair();
            self.journal.flush_headers(&mut self.requests);
            self.complete();
            if self.journal.is_idle() && self.disk.pending.is_empty() && self.requests.is_empty() {
                let all = self.checkpoint() + 1..=self.head();
                if all.clone().all(|op| self.journal.is_clean(&self.id(op))) {
                    return;
                }
            }
        }
        panic!("something never became clean");
    }
}

fn live(mode: Mode, seeds: std::ops::Range<u64>) -> Counts {
    let replica_count = if mode == Mode::Lone { 1 } else { 3 };
    let base = formatted_disk(replica_count);
    let mut counts = Counts::default();
    for seed in seeds {
        let mut world = World::new(mode, seed, &base, counts);
        let mut alive = true;
        for _ in 0..8 {
            for _ in 0..world.prng.below(400) {
                world.step();
            }
            alive = world.crash();
            if !alive {
                break;
            }
        }
        if alive {
            world.finish();
        }
        counts = world.counts;
    }
    counts
}

#[test]
fn a_life_in_order_is_never_faulty() {
    let counts = live(Mode::InOrder, 0..100);
    assert!(counts.durable > 1000 && counts.cut_torn > 50 && counts.truncated > 100, "{counts:?}");
    assert!(counts.laps > 20 && counts.reads > 100 && counts.returned > 10, "{counts:?}");
    assert_eq!(counts.faulty, 0);
}

#[test]
fn a_life_with_rot_never_forgets_what_was_durable() {
    let counts = live(Mode::Anything, 1000..1100);
    assert!(counts.durable > 1000 && counts.cut_torn > 20 && counts.faulty > 100, "{counts:?}");
    assert!(counts.laps > 20 && counts.reads > 100 && counts.returned > 10, "{counts:?}");
}

#[test]
fn a_lone_life_keeps_all_or_refuses() {
    let counts = live(Mode::Lone, 2000..2100);
    assert!(counts.durable > 1000 && counts.cut_torn > 50 && counts.lost > 20, "{counts:?}");
    assert!(counts.laps > 5, "{counts:?}");
}

/// Op 5 of view 1 after the ops of `bench`, and another of view 2 in its place.
fn two_of_op_5(messages: &[Message]) -> (Message, Message) {
    let parent = id_of(&messages[3]);
    (message(1, 5, &parent, &[1; 100]), message(2, 5, &parent, &[2; 100]))
}

/// Makes a slot faulty by a read of its damaged body.
fn damage(bench: &mut Bench, message: &Message) {
    let id = id_of(message);
    let read = bench.journal.read_prepare(&id, &mut bench.requests).unwrap();
    let Some(Request::Read { offset, size, .. }) = bench.requests.pop() else { panic!() };
    bench.disk.bytes[usize::try_from(offset).unwrap() + 200] ^= 1;
    let (_, found) = bench.journal.on_read_done(read, bench.disk.read(offset, size));
    assert!(found.is_none() && bench.journal.is_faulty(id.op));
}

#[test]
fn what_the_checkpoint_does_not_permit_was_never_acknowledged_whatever_its_slot_holds() {
    let (mut bench, messages) = Bench::with_ops(64);
    damage(&mut bench, &messages[0]);
    damage(&mut bench, &messages[63]);
    assert_eq!(bench.journal.op_prepare_max(), 64);
    assert!(!bench.journal.may_nack(1, None) && !bench.journal.may_nack(64, None));
    assert!(bench.journal.may_nack(65, None));
}

#[test]
fn the_slot_of_the_root_is_faulty_until_it_is_cut_and_then_the_root_again() {
    let (mut bench, _) = Bench::with_ops(3);
    let entry = usize::try_from(bench.journal.layout.headers_offset(0)).unwrap();
    bench.disk.bytes[entry] ^= 1;
    let mut journal = bench.disk.open().unwrap().journal;
    assert!(journal.is_faulty(0) && journal.header(0).is_none());
    let root = Header::root(CLUSTER);
    journal.insert_header(&root);
    assert!(journal.is_faulty(0) && journal.is_dirty(0));
    journal.truncate(3);
    assert_eq!(journal.header(0), Some(&root));
    assert!(!journal.is_faulty(0) && !journal.is_dirty(0));
    assert_eq!(journal.op_max(), 3);
}

#[test]
fn the_root_does_not_come_back_above_a_checkpoint() {
    let (mut bench, _) = Bench::with_ops(64);
    bench.journal.set_checkpoint(32);
    bench.journal.truncate(63);
    assert!(bench.journal.header(64).is_none() && bench.journal.header(0).is_none());
    assert_eq!(bench.journal.op_max(), 63);
    assert!(bench.journal.may_nack(64, None));
}

#[test]
fn one_op_is_removed_below_others_that_stay() {
    let (mut bench, messages) = Bench::with_ops(5);
    bench.journal.remove(3);
    assert!(bench.journal.header(3).is_none());
    assert!(!bench.journal.may_nack(3, Some(&messages[2].prepare_header().id())));
    assert_eq!(bench.journal.op_max(), 5);
    bench.settle();
    assert!(bench.disk.open().unwrap().journal.header(3).is_none());
    bench.journal.insert_header(&messages[2].prepare_header());
    assert_eq!(bench.journal.op_max(), 5);
    bench.journal.remove(5);
    assert_eq!(bench.journal.op_max(), 4);
    bench.journal.remove(5);
    assert_eq!(bench.journal.op_max(), 4);
}

#[test]
fn writes_in_flight_are_bounded_and_idle_is_when_nothing_is_left_to_do() {
    let mut bench = Bench::new();
    assert!(bench.journal.is_idle());
    let mut parent = Header::root(CLUSTER).id();
    for op in 1..=u64::from(JOURNAL_WRITES_MAX) {
        assert!(bench.journal.can_write(op));
        let next = message(1, op, &parent, &[]);
        parent = id_of(&next);
        bench.journal.write_prepare(&next, &mut bench.requests);
        assert!(!bench.journal.is_idle());
    }
    let op_next = u64::from(JOURNAL_WRITES_MAX) + 1;
    assert!(!bench.journal.can_write(op_next));
    assert_eq!(bench.journal.dirty_count(), JOURNAL_WRITES_MAX);
    bench.requests.clear();
    for op in 1..op_next {
        bench.done(Token::WritePrepare { op, slot: u32::try_from(op).unwrap() });
        assert!(bench.journal.can_write(op_next));
    }
    assert!(!bench.journal.is_idle(), "the headers are to be written");
    bench.journal.flush_headers(&mut bench.requests);
    let headers = bench.write_token();
    assert!(!bench.journal.is_idle(), "they are being written");
    bench.done(headers);
    assert!(!bench.journal.is_idle(), "one sector of two is never in flight");
    bench.journal.flush_headers(&mut bench.requests);
    let headers = bench.write_token();
    bench.done(headers);
    assert!(bench.journal.is_idle());
    assert_eq!(bench.journal.dirty_count(), 0);
    bench.journal.truncate(3);
    assert!(!bench.journal.is_idle(), "what was cut is to be marked");
}

#[test]
fn a_prepare_that_is_replaced_while_it_is_written_does_not_come_back() {
    let (mut bench, messages) = Bench::with_ops(4);
    let (first, second) = two_of_op_5(&messages);
    bench.journal.write_prepare(&first, &mut bench.requests);
    bench.disk.submit(&mut bench.requests);
    bench.journal.insert_header(&second.prepare_header());
    bench.durable.clear();
    bench.settle();
    assert_eq!(bench.durable, []);
    assert!(bench.journal.is_dirty(5));
    let opened = bench.disk.open().unwrap();
    assert_eq!((opened.journal.op_max(), opened.faulty_count), (4, 0));
    assert!(opened.journal.header(5).is_none());
}

#[test]
fn a_faulty_slot_whose_repair_is_overtaken_stays_faulty() {
    let (mut bench, messages) = Bench::with_ops(4);
    let (first, second) = two_of_op_5(&messages);
    bench.journal.write_prepare(&first, &mut bench.requests);
    bench.settle();
    damage(&mut bench, &first);
    bench.journal.write_prepare(&first, &mut bench.requests);
    bench.disk.submit(&mut bench.requests);
    bench.journal.insert_header(&second.prepare_header());
    bench.settle();
    assert!(bench.journal.is_faulty(5) && bench.journal.is_dirty(5));
    assert!(!bench.journal.may_nack(5, Some(&second.prepare_header().id())));
}

#[test]
fn a_faulty_slot_that_was_cut_is_empty_after_a_restart() {
    let (mut bench, messages) = Bench::with_ops(5);
    damage(&mut bench, &messages[4]);
    assert_eq!(bench.journal.faulty_count(), 1);
    bench.journal.truncate(4);
    assert_eq!(bench.journal.faulty_count(), 0);
    bench.settle();
    let opened = bench.disk.open().unwrap();
    assert_eq!((opened.journal.op_max(), opened.faulty_count), (4, 0));
    assert!(opened.journal.may_nack(5, Some(&messages[4].prepare_header().id())));
}

#[test]
fn a_header_that_was_cut_while_it_was_written_and_came_back_is_written_again() {
    let (mut bench, messages) = Bench::with_ops(4);
    let (fifth, _) = two_of_op_5(&messages);
    bench.journal.write_prepare(&fifth, &mut bench.requests);
    bench.requests.clear();
    bench.done(Token::WritePrepare { op: 5, slot: 5 });
    bench.journal.flush_headers(&mut bench.requests);
    let headers = bench.write_token();
    bench.journal.truncate(4);
    bench.journal.insert_header(&fifth.prepare_header());
    bench.durable.clear();
    bench.done(headers);
    assert_eq!(bench.durable, []);
    assert!(bench.journal.is_dirty(5) && bench.journal.is_writing(&id_of(&fifth)));
    bench.journal.flush_headers(&mut bench.requests);
    let again = bench.write_token();
    bench.done(again);
    assert_eq!(bench.durable, [id_of(&fifth)]);
}

#[test]
fn a_header_waits_for_lower_ops_that_began_earlier_and_for_no_others() {
    let (mut bench, messages) = Bench::with_ops(2);
    let third = message(1, 3, &id_of(&messages[1]), &[]);
    let fourth = message(1, 4, &id_of(&third), &[]);
    bench.journal.write_prepare(&fourth, &mut bench.requests);
    bench.journal.write_prepare(&third, &mut bench.requests);
    bench.requests.clear();
    bench.done(Token::WritePrepare { op: 4, slot: 4 });
    bench.journal.flush_headers(&mut bench.requests);
    assert_eq!(bench.write_token(), Token::WriteHeaders { sector: 0 });
}

#[test]
fn what_a_lap_leaves_behind_is_overwritten_without_a_marker() {
    let (mut bench, messages) = Bench::with_ops(64);
    bench.journal.set_checkpoint(32);
    let next = message(1, 65, &id_of(&messages[63]), &[]);
    bench.journal.write_prepare(&next, &mut bench.requests);
    assert_eq!(bench.write_token(), Token::WritePrepare { op: 65, slot: 1 });
}
