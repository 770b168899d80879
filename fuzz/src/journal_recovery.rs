//! Fuzz target `journal_recovery`: arbitrary contents of the two rings, and journals that crash
//! while they are written.
//!
//! ```text
//!   byte 0 even: contents                        odd: a history
//!   a log that is whole up to some op, then      │ write, flush, complete, crash, checkpoint, cut
//!   slots that hold what the input says: for     │ in a new view, rot: each step a byte; after
//!   the entry and for the prepare a choice       │ each crash the file is opened and judged
//! ```
//!
//! Asserted of contents: a replica with peers always opens; what is in its log lies on the disk as
//! a whole prepare (nothing is invented); what a valid header of the ring says was complete is
//! either clean or not nackable (nothing acknowledged is forgotten); a second opening gives up
//! no more of it. A lone replica opens so, or names an op that is lost.
//!
//! Asserted of histories: an acknowledged prepare that did not rot is clean after every crash; one
//! that did is not nackable; nothing is in the log that is not of the newest view's log, unless the
//! marker of its cut rotted and the superblock's head covers its op; without rot and gaps nothing
//! is faulty, and a lone replica opens.
//!
//! Planted: of contents, a slot that held a whole prepare and its header is formatted; of a
//! history, the write of a body is lost and reported as done.
//!
//! **Not here:** what a replica makes of an uncertain log (`sim`), the superblock (`superblock`).

use super::Plant;
use super::cursor::{CLUSTER, Cursor};
use super::disk::{Completion, Disk};
use std::collections::{BTreeMap, BTreeSet};
use vsr::constants::SECTOR_SIZE;
use vsr::fatal::FatalKind;
use vsr::stdx::Ratio;
use vsr::storage::slot::{Redundant, formatted_sector};
use vsr::storage::superblock::superblock_zone;
use vsr::storage::{Geometry, Journal, Layout, Opened, Request, SuperblockState, Token};
use vsr::wire::{
    Author, BlockRef, Header, HeaderSet, Message, Op, Prepare, PrepareId, ReplicaIndex, View,
};

const SLOTS: u64 = 64;
const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 8,
};

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many prepares were found where they belong.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    if cursor.bool() {
        History::new(&mut cursor, plant).run(&mut cursor)
    } else {
        contents(&mut cursor, plant)
    }
}

fn layout() -> Layout {
    Layout::new(GEOMETRY)
}

fn entry_offset(slot: u32) -> u64 {
    layout().headers_offset(slot / 32) + u64::from(slot % 32) * 128
}

/// The prepare of `op` in `view` on top of `parent`; its body is of a size of its own.
fn prepare(op: Op, view: u32, parent: &PrepareId) -> Message {
    let author =
        Author { cluster: CLUSTER, view: View(view), replica: ReplicaIndex(0), incarnation: 1 };
    let parent = parent.as_parent();
    let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
    let size = 64 + (op * 997 + u64::from(view) * 131) % 3800;
    Message::new(&author, command, &vec![1; usize::try_from(size).expect("below a sector")])
}

/// What a replica with this checkpoint and this log of its last view has in its superblock.
fn superblock(
    replica_count: u8,
    op_checkpoint: Op,
    view: u32,
    head: Header<Prepare>,
) -> SuperblockState {
    let checkpoint = |op: Op| BlockRef { op, index: 1, checksum: 2, checksum_body: 3 };
    let formatted =
        SuperblockState::formatted(CLUSTER, ReplicaIndex(0), replica_count, 9, GEOMETRY);
    let table = formatted.head.table;
    SuperblockState {
        view: View(view),
        log_view: View(view),
        checkpoint: if op_checkpoint == 0 { BlockRef::NONE } else { checkpoint(op_checkpoint) },
        checkpoint_previous: match op_checkpoint.saturating_sub(SLOTS / 2) {
            0 => BlockRef::NONE,
            op => checkpoint(op),
        },
        op_complete: op_checkpoint,
        commit_max: op_checkpoint,
        head: HeaderSet { table, op: head.op(), headers: vec![Some(head)] },
        ..formatted
    }
}

fn disk_with(state: &SuperblockState) -> Disk {
    let formatted =
        SuperblockState::formatted(CLUSTER, ReplicaIndex(0), state.replica_count, 9, GEOMETRY);
    let mut disk = Disk::formatted(&formatted);
    disk.write(0, superblock_zone(state).as_ref());
    disk
}

// ---- arbitrary contents

/// What lies on a disk, as it was put there.
#[derive(Default)]
struct Contents {
    entries: BTreeMap<u32, Header<Prepare>>,
    whole: BTreeMap<u32, Header<Prepare>>,
}

fn contents(cursor: &mut Cursor<'_>, plant: Plant) -> u32 {
    let replica_count = if cursor.u8().is_multiple_of(4) { 1 } else { 3 };
    let op_checkpoint = u64::from(cursor.u8() % 4) * (SLOTS / 2);
    let op_whole = op_checkpoint + u64::from(cursor.u8()) % (SLOTS + 1);
    let (view, op_head) = (u32::from(cursor.u8() % 3), op_checkpoint + u64::from(cursor.u8() % 80));
    let head = match op_head {
        0 => Header::root(CLUSTER),
        op => prepare(op, 0, &PrepareId::default()).prepare_header(),
    };
    let state = superblock(replica_count, op_checkpoint, view, head);
    let mut disk = disk_with(&state);
    let mut contents = Contents::default();
    let mut parent = Header::root(CLUSTER).id();
    for op in 1..=op_whole {
        let message = prepare(op, 0, &parent);
        parent = message.prepare_header().id();
        let slot = GEOMETRY.slot(op);
        put_entry(
            &mut disk,
            &mut contents,
            slot,
            Some(Redundant::Header(message.prepare_header())),
        );
        put_prepare(&mut disk, &mut contents, slot, Some(&message));
    }
    while !cursor.is_empty() {
        patch(cursor, &mut disk, &mut contents, op_checkpoint);
    }
    let mut certain: Vec<u32> = Vec::new();
    for (slot, header) in &contents.entries {
        let is_stale = header.op() > op_head && header.view < View(view);
        let is_permitted = (op_checkpoint + 1..=op_checkpoint + SLOTS).contains(&header.op());
        if is_permitted && !is_stale {
            certain.push(*slot);
        }
    }
    if plant == Plant::Error {
        let victim = certain.iter().find(|slot| contents.whole.contains_key(slot));
        let Some(slot) = victim.copied() else { return 0 };
        disk.write(entry_offset(slot), &Redundant::Formatted.encode(CLUSTER, slot));
        disk.write(layout().prepare_offset(slot), formatted_sector(CLUSTER, slot).as_ref());
    }
    judge(&mut disk, &contents, &certain, replica_count)
}

/// Opens twice, and judges: what the first opening writes must not make the second forget.
fn judge(disk: &mut Disk, contents: &Contents, certain: &[u32], replica_count: u8) -> u32 {
    let mut found = 0;
    for opening in 0..2 {
        let opened = match disk.open() {
            Ok(opened) => opened,
            Err(fatal) => {
                assert_eq!((fatal.kind, replica_count), (FatalKind::JournalLost, 1), "{fatal}");
                assert_eq!(opening, 0, "it opened once");
                return 0;
            }
        };
        let journal = &opened.journal;
        for op in 1..=journal.op_prepare_max() {
            let Some(header) = journal.header(op) else { continue };
            let on_disk = contents.whole.get(&GEOMETRY.slot(op));
            assert_eq!(Some(header), on_disk, "op {op} was never written");
            found += 1;
        }
        for slot in certain {
            let header = &contents.entries[slot];
            let is_clean = journal.is_clean(&header.id());
            let may_nack = journal.may_nack(header.op(), Some(&header.id()));
            assert!(is_clean || !may_nack, "op {} was complete, and is given up", header.op());
            if contents.whole.get(slot) == Some(header) {
                assert!(is_clean, "op {} is complete on the disk", header.op());
            }
        }
    }
    found
}

fn put_entry(disk: &mut Disk, contents: &mut Contents, slot: u32, entry: Option<Redundant>) {
    let bytes = entry.map_or([0xDA; 128], |entry| entry.encode(CLUSTER, slot));
    disk.write(entry_offset(slot), &bytes);
    match entry {
        Some(Redundant::Header(header)) => contents.entries.insert(slot, header),
        _ => contents.entries.remove(&slot),
    };
}

fn put_prepare(disk: &mut Disk, contents: &mut Contents, slot: u32, message: Option<&Message>) {
    let offset = layout().prepare_offset(slot);
    match message {
        Some(message) => {
            disk.write(offset, &message.sectors());
            contents.whole.insert(slot, message.prepare_header());
        }
        None => {
            disk.write(offset, formatted_sector(CLUSTER, slot).as_ref());
            contents.whole.remove(&slot);
        }
    }
}

/// Gives one slot other contents.
fn patch(cursor: &mut Cursor<'_>, disk: &mut Disk, contents: &mut Contents, op_checkpoint: Op) {
    let slot = u32::from(cursor.u8()) % GEOMETRY.journal_slots;
    let choice = |cursor: &mut Cursor<'_>| {
        let byte = cursor.u8();
        // This lap, the one before, the one after; and of two views.
        let lap = (op_checkpoint / SLOTS + u64::from(byte >> 4 & 3)).saturating_sub(1);
        let op = (lap * SLOTS + u64::from(slot)).max(u64::from(slot));
        let view = u32::from(byte >> 6 & 1);
        let message = (op > 0).then(|| {
            let parent = contents.whole.get(&GEOMETRY.slot(op - 1)).map(Header::id);
            let parent = parent.filter(|parent| byte >> 7 == 0 && parent.view.0 <= view);
            prepare(op, view, &parent.unwrap_or_default())
        });
        (byte % 8, message)
    };
    let (kind, message) = choice(cursor);
    let header = message.as_ref().map(Message::prepare_header);
    let (body_kind, body) = choice(cursor);
    match (kind, header) {
        (0, _) => {}
        (1, _) => put_entry(disk, contents, slot, None),
        (2, _) => put_entry(disk, contents, slot, Some(Redundant::Invalidated)),
        (3, _) => put_entry(disk, contents, slot, Some(Redundant::Formatted)),
        (4, Some(header)) => {
            put_entry(disk, contents, slot, Some(Redundant::Truncated(header.id())));
        }
        (5, _) => {
            put_entry(disk, contents, slot, None);
            let raw: [u8; 128] = cursor.array();
            disk.write(entry_offset(slot), &raw);
        }
        (_, Some(header)) => put_entry(disk, contents, slot, Some(Redundant::Header(header))),
        (_, None) => {}
    }
    let offset = layout().prepare_offset(slot);
    match (body_kind, body) {
        (0, _) => {}
        (1, _) => put_prepare(disk, contents, slot, None),
        (2, Some(message)) => {
            put_prepare(disk, contents, slot, Some(&message));
            let at = offset + 128 + u64::from(cursor.u8() % 64);
            disk.write(at, &[0xDA]);
            contents.whole.remove(&slot);
        }
        (3, _) => {
            disk.write(offset, &[0xDA; SECTOR_SIZE as usize]);
            contents.whole.remove(&slot);
        }
        (_, Some(message)) => put_prepare(disk, contents, slot, Some(&message)),
        (_, None) => {}
    }
}

// ---- histories

/// A journal and what is promised of it.
struct History {
    replica_count: u8,
    disk: Disk,
    journal: Journal,
    view: u32,
    op_checkpoint: Op,
    op_head_view: Op,
    /// The log of the newest view, the root first.
    log: Vec<Message>,
    acknowledged: BTreeSet<Op>,
    /// Slots of which the prepare rotted, or the entry, since it was written.
    rotten_bodies: BTreeSet<u32>,
    rotten_entries: BTreeSet<u32>,
    /// Acknowledged ops that rot has taken, and that are not written anew yet.
    lost: BTreeSet<Op>,
    /// Ops of which a prepare that was cut is back, because its marker rotted.
    unmarked: BTreeSet<Op>,
    /// Something rotted, or was written in another order than that of the log.
    has_gaps: bool,
    requests: Vec<Request>,
    plant: Plant,
    found: u32,
}

impl History {
    fn new(cursor: &mut Cursor<'_>, plant: Plant) -> Self {
        let replica_count = if cursor.u8().is_multiple_of(4) { 1 } else { 3 };
        let state = superblock(replica_count, 0, 0, Header::root(CLUSTER));
        let mut disk = disk_with(&state);
        let opened = disk.open().expect("a formatted file");
        assert_eq!(opened.faulty_count, 0);
        Self {
            replica_count,
            disk,
            journal: opened.journal,
            view: 0,
            op_checkpoint: 0,
            op_head_view: 0,
            log: Vec::new(),
            acknowledged: BTreeSet::new(),
            rotten_bodies: BTreeSet::new(),
            rotten_entries: BTreeSet::new(),
            lost: BTreeSet::new(),
            unmarked: BTreeSet::new(),
            has_gaps: false,
            requests: Vec::new(),
            plant,
            found: 0,
        }
    }

    fn op(&self) -> Op {
        self.log.len() as Op
    }

    fn message(&self, op: Op) -> &Message {
        &self.log[usize::try_from(op - 1).expect("a small log")]
    }

    fn id(&self, op: Op) -> PrepareId {
        match op {
            0 => Header::root(CLUSTER).id(),
            op => self.message(op).prepare_header().id(),
        }
    }

    fn run(mut self, cursor: &mut Cursor<'_>) -> u32 {
        for _ in 0..400 {
            if cursor.is_empty() {
                break;
            }
            let byte = cursor.u8();
            match byte % 16 {
                0..=4 => self.write(byte >> 4),
                5..=7 => self.journal.flush_headers(&mut self.requests),
                8..=11 => self.complete(usize::from(byte >> 4)),
                12 => self.settle(),
                13 => self.checkpoint(),
                14 if byte >> 4 < 4 => self.begin_view(u64::from(cursor.u8())),
                14 => self.rot(cursor),
                _ => self.crash(cursor),
            }
            self.disk.submit(&mut self.requests);
        }
        self.settle();
        self.crash(cursor);
        self.found
    }

    /// Writes the next op, or one after a gap, or one that is missing.
    fn write(&mut self, choice: u8) {
        let op_max = self.journal.op_prepare_max();
        let missing = (self.op_checkpoint + 1..=self.op())
            .find(|op| !self.journal.is_clean(&self.id(*op)) && !self.is_under_way(*op));
        let mut op = missing.unwrap_or(self.op() + 1);
        if choice > 12 && self.replica_count > 1 {
            op = self.op() + 2;
        }
        if op > op_max || !self.journal.can_write(op) {
            return;
        }
        while self.op() < op {
            let parent = self.id(self.op());
            self.log.push(prepare(self.op() + 1, self.view, &parent));
        }
        self.has_gaps |= missing.is_some_and(|first| first < op || first < self.op());
        let gap = (self.op_checkpoint + 1..op)
            .any(|before| !self.journal.is_clean(&self.id(before)) && !self.is_under_way(before));
        self.has_gaps |= gap;
        let message = self.message(op).clone();
        self.journal.write_prepare(&message, &mut self.requests);
    }

    fn is_under_way(&self, op: Op) -> bool {
        self.journal.is_writing(&self.id(op))
    }

    fn complete(&mut self, choice: usize) {
        if self.disk.pending.is_empty() {
            return;
        }
        let index = choice % self.disk.pending.len();
        let lost = match &self.disk.pending[index] {
            Request::Write { token: Token::WritePrepare { op, slot }, .. } => {
                self.rotten_bodies.remove(slot);
                (self.plant == Plant::Error && *op == 2).then_some(*slot)
            }
            Request::Write { token: Token::WriteHeaders { sector }, .. } => {
                self.rotten_entries.retain(|slot| slot / 32 != *sector);
                None
            }
            _ => None,
        };
        let before = lost.map(|slot| self.disk.read(layout().prepare_offset(slot), SECTOR_SIZE));
        let Completion::Write(token) = self.disk.complete(index) else { panic!("nothing is read") };
        if let (Some(slot), Some(before)) = (lost, before) {
            self.disk.write(layout().prepare_offset(slot), before.buffer.as_ref());
        }
        let mut durable = Vec::new();
        self.journal.on_write_done(token, &mut durable);
        for id in durable {
            assert_eq!(id, self.id(id.op), "a prepare of another log");
            self.acknowledged.insert(id.op);
            self.lost.remove(&id.op);
            self.unmarked.remove(&id.op);
        }
    }

    /// Everything that is under way comes to its end.
    fn settle(&mut self) {
        for _ in 0..1000 {
            self.journal.flush_headers(&mut self.requests);
            self.disk.submit(&mut self.requests);
            if self.disk.pending.is_empty() {
                break;
            }
            self.complete(0);
        }
        assert!(self.journal.is_idle(), "the journal stands still");
    }

    /// Half a lap is executed and written elsewhere, if all of it is here.
    fn checkpoint(&mut self) {
        let op = self.op_checkpoint + SLOTS / 2;
        let is_whole = |op: Op| self.journal.is_clean(&self.id(op));
        if op > self.op() || op >= 3 * SLOTS || !(self.op_checkpoint + 1..=op).all(is_whole) {
            return;
        }
        self.op_checkpoint = op;
        self.persist();
        self.journal.set_checkpoint(op);
    }

    /// The superblock is durable at once.
    fn persist(&mut self) {
        let head = match self.op_head_view {
            0 => Header::root(CLUSTER),
            op => self.message(op).prepare_header(),
        };
        let state = superblock(self.replica_count, self.op_checkpoint, self.view, head);
        self.disk.write(0, superblock_zone(&state).as_ref());
    }

    /// A view whose log ends somewhere above the checkpoint: the rest is cut. The markers of the
    /// cut before are durable by then: which of two prepares below the head of the superblock is
    /// the right one is not the journal's to say.
    fn begin_view(&mut self, choice: u64) {
        if self.replica_count == 1 || self.view == 200 {
            return;
        }
        self.settle();
        let op = self.op_checkpoint + choice % (self.op() - self.op_checkpoint + 1);
        self.view += 1;
        self.log.truncate(usize::try_from(op).expect("a small log"));
        self.op_head_view = op;
        self.acknowledged.retain(|own| *own <= op);
        self.persist();
        self.journal.truncate(op);
        self.has_gaps = true;
    }

    fn rot(&mut self, cursor: &mut Cursor<'_>) {
        let slot = u32::from(cursor.u8()) % GEOMETRY.journal_slots;
        let is_written = self.disk.pending.iter().any(|request| {
            let Request::Write { token, .. } = request else { return false };
            match token {
                Token::WritePrepare { slot: own, .. } => *own == slot,
                Token::WriteHeaders { sector } => *sector == slot / 32,
                _ => false,
            }
        });
        if self.replica_count == 1 || is_written {
            return;
        }
        if cursor.bool() {
            self.rotten_bodies.insert(slot);
            self.disk.write(layout().prepare_offset(slot) + 40, &[0xDA; 8]);
        } else {
            self.rotten_entries.insert(slot);
            self.disk.write(entry_offset(slot) + 40, &[0xDA; 8]);
        }
    }

    fn crash(&mut self, cursor: &mut Cursor<'_>) {
        self.disk.submit(&mut self.requests);
        let mut prng = cursor.prng();
        let ratio = [Ratio::new(0, 1), Ratio::new(1, 2), Ratio::new(9, 10), Ratio::new(1, 1)];
        let ratio = ratio[prng.index(4)];
        self.disk.crash(|| prng.chance(ratio));
        let opened = match self.disk.open() {
            Ok(opened) => opened,
            Err(fatal) => panic!("{} replicas, no rot: {fatal}", self.replica_count),
        };
        self.judge(&opened);
        self.journal = opened.journal;
        // What was cut is no part of the log any more.
        let op = (self.op_checkpoint..=self.op())
            .rev()
            .find(|op| self.journal.header(*op).is_some() || self.journal.is_faulty(*op));
        let op = op.unwrap_or(self.op_checkpoint).max(self.op_head_view);
        assert!(self.acknowledged.iter().all(|own| *own <= op), "the log ends at {op}");
    }

    fn judge(&mut self, opened: &Opened) {
        let journal = &opened.journal;
        for op in self.op_checkpoint + 1..=journal.op_prepare_max() {
            if let Some(header) = journal.header(op) {
                assert!(op <= self.op(), "op {op} is not in the log");
                let is_other = header.id() != self.id(op);
                let lost_marker = self.rotten_entries.contains(&GEOMETRY.slot(op));
                if is_other && (lost_marker || self.unmarked.contains(&op)) {
                    // Its marker rotted, and the superblock names the one that counts.
                    assert!(op <= self.op_head_view && header.view.0 < self.view, "op {op}");
                    self.unmarked.insert(op);
                } else {
                    assert!(!is_other, "op {op} of another log: {:?}", header.id());
                }
            }
            if self.acknowledged.contains(&op) {
                let header = self.message(op).prepare_header();
                let is_clean = journal.is_clean(&header.id());
                let slot = GEOMETRY.slot(op);
                let is_rotten =
                    self.rotten_bodies.contains(&slot) || self.rotten_entries.contains(&slot);
                let may_nack = journal.may_nack(op, Some(&header.id()));
                let is_lost = is_rotten || self.lost.contains(&op);
                assert!(is_clean || is_lost, "op {op} was acknowledged, and is not there");
                if !is_clean {
                    self.lost.insert(op);
                }
                assert!(is_clean || !may_nack, "op {op} was acknowledged, and is given up");
                self.found += 1;
            }
        }
        let is_rotten = !self.rotten_bodies.is_empty() || !self.rotten_entries.is_empty();
        self.has_gaps |= is_rotten;
        if !self.has_gaps {
            assert_eq!(opened.faulty_count, 0, "faults of nothing");
        }
    }
}

/// Logs of all lengths with single faults, and histories of all steps.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, body) in [(1, 0), (0, 3), (2, 3), (3, 5), (4, 21), (6, 2), (20, 0), (0, 1), (5, 69)]
    {
        seeds.push(vec![0, 1, 0, 20, 0, 20, 19, kind, body, 20, 0, 3]);
        seeds.push(vec![0, 0, 2, 40, 1, 70, 38, kind, body]);
    }
    let round = [0, 5, 8, 5, 8, 0, 0, 5, 24, 8, 8, 12];
    for replica_count in [0, 1] {
        let mut seed = vec![1, replica_count];
        for crash in 0..6 {
            seed.extend_from_slice(&round);
            seed.extend_from_slice(&[0, 0, 5, 8, 0, 15, crash, 0]);
        }
        seeds.push(seed);
    }
    let mut laps = vec![1, 1];
    for _ in 0..24 {
        laps.extend([0, 0, 0, 0, 12, 13]);
    }
    laps.extend([0, 0, 5, 8, 15, 2, 0, 94, 3, 1, 15, 1, 0]);
    seeds.push(laps);
    seeds.push(vec![1, 1, 0, 0, 0, 12, 0, 0, 14, 1, 0, 12, 15, 0, 0, 0, 208, 12, 0, 15, 1, 0]);
    seeds
}
