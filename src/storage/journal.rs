//! F2: the journal: the log on disk, in two rings, and what is known of it in memory.
//!
//! ```text
//!  write_prepare ──► body in its slot ──► durable? ──► header in its sector ──► durable? ──► clean
//!                    WritePrepare        on_write_done  flush_headers,          on_write_done
//!                                                       WriteHeaders
//!
//!           insert_header          write_prepare        both durable
//!  empty ──────────────────► dirty ─────────────► dirty ─────────────► clean
//!    ▲                         │                                         │  a read finds damage
//!    └───── truncate ──────────┴──────────────── dirty + faulty ◄────────┘  (or the recovery)
//! ```
//!
//! The redundant header is written *after* its prepare is durable. So a prepare that is bad while
//! its redundant header is there was complete once, and perhaps acknowledged: it is *faulty*, and
//! only its exact body makes it clean again. A prepare that is bad while the redundant header is
//! still the one of the lap before was never complete: it may be forgotten.
//!
//! A sector of the headers ring is built from what each of its slots knows to be true on disk
//! (`Slot::durable`), and never from the headers in memory: a header whose body is not durable must
//! not be written because its neighbour's is.
//!
//! *Order.* The header of an op is not written while the body of a lower op whose write began
//! earlier is in flight. So a torn body below a redundant header is never an accident of timing,
//! and after a power failure of all replicas what was torn on all of them can be given up by all.
//!
//! *Truncation* ([`Journal::truncate`], [`Journal::remove`], and `insert_header` of another prepare
//! of the same op) changes memory at once and the disk in two steps that protect each other:
//!
//! 1. **The superblock** protects against what is on disk still: it names `log_view` and the head,
//!    so a replica that opens drops prepares that are above the head and of an older view.
//!    **Rule:** truncate only what the durable superblock excludes already, and within one view
//!    never below an op that was acknowledged in it.
//! 2. **The marker** `truncated(id)` takes the place of the redundant header with the next write of
//!    the sector. It protects when the head has moved on and no longer speaks of that op; and since
//!    it is durable *before* another body goes into the slot (the write waits for it inside the
//!    journal), a torn write of the successor reads as torn and not as damage.
//!
//! The bytes of a truncated prepare stay readable until the slot is written again: another replica
//! may need them to decide.
//!
//! **Invariants:** faulty implies dirty; a faulty slot becomes nackable only by truncation; at most
//! one write in flight per slot and per header sector, at least one header sector never in flight;
//! the entry on disk names a prepare only if its body was durable first.
//!
//! **Not here:** which prepare belongs to the log; repair; what recovery makes of a disk.

use super::slot::{Place, Redundant, prepare_decode};
use super::{Layout, ReadResult, Request, Token};
use crate::constants::{HEADER_SIZE, HEADERS_PER_SECTOR, JOURNAL_WRITES_MAX, SECTOR_SIZE};
use crate::stdx::{AlignedBuffer, defect};
use crate::wire::{ClusterId, Header, Message, Op, Prepare, PrepareId};
use std::collections::{BTreeMap, BTreeSet};

/// Reads of prepares in flight at most.
pub const READS_MAX: usize = 16;

/// The log of one replica.
#[derive(Debug)]
pub struct Journal {
    cluster: ClusterId,
    layout: Layout,
    op_checkpoint: Op,
    op_max: Op,
    slots: Vec<Slot>,
    /// The number of the last write of a body, from 1.
    sequence: u64,
    /// By slot: bodies in flight, and those that wait for a marker.
    writes: BTreeMap<u32, Write>,
    /// By slot: the body is durable, the header is not. True once the sector may carry it.
    written: BTreeMap<u32, bool>,
    /// Sectors of the headers ring that differ from what the slots know.
    sectors_pending: BTreeSet<u32>,
    /// By sector: the write in flight.
    flights: BTreeMap<u32, Flight>,
    /// Where the next look for a pending sector begins, so that none waits forever.
    sector_next: u32,
    /// By read id.
    reads: BTreeMap<u32, Read>,
    read_next: u32,
}

/// What is known of one slot.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    /// The prepare that belongs here.
    pub(super) header: Option<Header<Prepare>>,
    /// The prepare whose bytes are on disk intact as far as known, or are being written.
    pub(super) body: Option<Header<Prepare>>,
    /// What the redundant header must say when its sector is written next.
    pub(super) durable: Redundant,
    /// `header` is there and not durable in both rings.
    pub(super) dirty: bool,
    /// Something that may have been acknowledged is damaged. Implies dirty.
    pub(super) faulty: bool,
    /// `durable` is a marker that is not known to be on disk yet.
    pub(super) unmarked: bool,
    /// The number of the last write of the body.
    pub(super) sequence: u64,
}

/// A write of a body.
#[derive(Debug)]
struct Write {
    id: PrepareId,
    sequence: u64,
    /// Waits in here for the marker of its slot; `None` once it is in flight.
    waiting: Option<Message>,
}

/// What the write of a header sector in flight carries that somebody waits for.
#[derive(Debug, Default)]
struct Flight {
    headers: Vec<(u32, PrepareId)>,
    markers: Vec<(u32, PrepareId)>,
}

#[derive(Debug)]
struct Read {
    id: PrepareId,
    slot: u32,
    /// The write whose bytes are read.
    sequence: u64,
}

impl Slot {
    fn holds(&self, id: &PrepareId) -> bool {
        self.header.is_some_and(|header| header.id() == *id)
    }

    fn op(&self) -> Option<Op> {
        self.header.map(|header| header.op())
    }
}

impl Journal {
    /// The journal that recovery found: one state for each slot. Slots in `written` have their body
    /// durable and want their header rewritten; those in `sectors` want to be written too.
    pub(super) fn recovered(
        cluster: ClusterId,
        layout: Layout,
        op_checkpoint: Op,
        slots: Vec<Slot>,
        written: &[u32],
        sectors: BTreeSet<u32>,
    ) -> Self {
        assert_eq!(slots.len(), layout.geometry.journal_slots as usize);
        let mut journal = Self {
            cluster,
            layout,
            op_checkpoint,
            op_max: 0,
            slots,
            sequence: 0,
            writes: BTreeMap::new(),
            written: written.iter().map(|slot| (*slot, false)).collect(),
            sectors_pending: sectors,
            flights: BTreeMap::new(),
            sector_next: 0,
            reads: BTreeMap::new(),
            read_next: 0,
        };
        if journal.slot(0).header.is_none() && !journal.slot(0).faulty {
            journal.restore_root();
        }
        journal.op_max = journal.op_max_scanned();
        for slot in &journal.slots {
            assert!(!slot.faulty || slot.dirty);
            assert!(slot.op().is_none_or(|op| op <= journal.op_prepare_max()));
        }
        journal
    }

    fn slot_of(&self, op: Op) -> u32 {
        self.layout.geometry.slot(op)
    }

    fn slot(&self, slot: u32) -> &Slot {
        &self.slots[slot as usize]
    }

    fn slot_mut(&mut self, slot: u32) -> &mut Slot {
        &mut self.slots[slot as usize]
    }

    /// The highest op that may be written on top of the checkpoint.
    pub fn op_prepare_max(&self) -> Op {
        self.layout.geometry.op_prepare_max(self.op_checkpoint)
    }

    /// The highest op with a header; 0 without any.
    pub fn op_max(&self) -> Op {
        self.op_max
    }

    /// In memory, for exactly this op.
    pub fn header(&self, op: Op) -> Option<&Header<Prepare>> {
        self.slot(self.slot_of(op)).header.as_ref().filter(|header| header.op() == op)
    }

    /// Whether the slot of `op` waits for a body, or is faulty.
    pub fn is_dirty(&self, op: Op) -> bool {
        self.slot(self.slot_of(op)).dirty
    }

    /// Whether the slot of `op` held something that may have been acknowledged and is damaged.
    pub fn is_faulty(&self, op: Op) -> bool {
        self.slot(self.slot_of(op)).faulty
    }

    /// Whether exactly this prepare is in memory and durable in both rings, not known to be
    /// damaged.
    pub fn is_clean(&self, id: &PrepareId) -> bool {
        let slot = self.slot(self.slot_of(id.op));
        slot.holds(id) && !slot.dirty
    }

    /// Whether the body of exactly this prepare is durable, and its redundant header is not yet.
    pub fn is_header_due(&self, id: &PrepareId) -> bool {
        let slot = self.slot_of(id.op);
        self.written.contains_key(&slot) && self.slot(slot).holds(id)
    }

    /// Whether the body of exactly this prepare is on disk as far as known, or is being written.
    /// Stays true for a truncated prepare until its slot is written again.
    pub fn has_body(&self, id: &PrepareId) -> bool {
        let slot = self.slot_of(id.op);
        let waits = self.writes.get(&slot).is_some_and(|write| write.id == *id);
        waits || self.slot(slot).body.is_some_and(|body| body.id() == *id)
    }

    /// The header of exactly this prepare, if its body is on disk as far as known and nothing is on
    /// its way to the slot: it is known also where the header was lost in both memory and ring.
    pub fn header_of_body(&self, id: &PrepareId) -> Option<Header<Prepare>> {
        let slot = self.slot_of(id.op);
        let body = self.slot(slot).body.filter(|body| body.id() == *id);
        body.filter(|_| !self.writes.contains_key(&slot))
    }

    /// Whether it is certain that this replica never acknowledged, in a view that still counts,
    /// prepare `id` of `op`; without `id`: anything at `op`. Damage is never certain, and what lies
    /// here whole is not: its redundant header may have been durable, by a write that was lost.
    pub fn may_nack(&self, op: Op, id: Option<&PrepareId>) -> bool {
        assert!(id.is_none_or(|id| id.op == op));
        if op <= self.op_checkpoint {
            return false;
        }
        if op > self.op_prepare_max() {
            return true;
        }
        let slot = self.slot(self.slot_of(op));
        let is_faulty = slot.faulty && !defect!("nack_corrupt");
        let is_whole = id.is_some_and(|id| slot.body.is_some_and(|body| body.id() == *id));
        match &slot.header {
            Some(ours) if ours.op() == op => {
                let different = id.is_some_and(|id| *id != ours.id());
                let is_kept = is_faulty && !defect!("nack_corrupt_named");
                different || (slot.dirty && !is_kept && !is_whole)
            }
            Some(ours) => {
                assert!(ours.op() < op, "op {} where only {op} may be", ours.op());
                !is_faulty && !is_whole
            }
            None => !is_faulty && !is_whole,
        }
    }

    /// Takes `header` into the log; its body is wanted. A slot that is faulty stays so until
    /// exactly this body is durable. Nothing happens if it is there already, or a newer op is.
    ///
    /// If the body lies in the slot intact (it was truncated once, or only its redundant header was
    /// damaged), it is taken as it is: the header goes out with the next flush, and the prepare is
    /// reported durable then. Until then [`Journal::is_writing`].
    ///
    /// In place of another prepare of the same op it is a truncation of that one, with its rule.
    pub fn insert_header(&mut self, header: &Header<Prepare>) {
        let op = header.op();
        assert!(op <= self.op_prepare_max(), "op {op} above {}", self.op_prepare_max());
        assert_eq!(header.cluster, self.cluster);
        assert!(header.size <= self.layout.geometry.message_size);
        let slot = self.slot_of(op);
        if let Some(ours) = &self.slot(slot).header {
            if ours.op() > op || ours.id() == header.id() {
                return;
            }
            // A header of the lap before may stay on disk: its op is at or below the checkpoint.
            let replaced = ours.op() == op;
            self.drop_header(slot, replaced);
        }
        let slots = u64::from(self.layout.geometry.journal_slots);
        assert!(op + slots > self.op_checkpoint, "op {op}, checkpoint {}", self.op_checkpoint);
        let root = Header::root(self.cluster);
        let place = self.slot_mut(slot);
        place.header = Some(*header);
        place.dirty = true;
        if op == 0 && header.id() == root.id() && !place.faulty {
            place.dirty = false;
        } else if place.body == Some(*header) && !self.writes.contains_key(&slot) {
            self.written.insert(slot, false);
        }
        if op > self.op_max {
            self.op_max = op;
        } else {
            self.op_max = self.op_max_scanned_if_gone();
        }
    }

    /// Whether a write of `op` may begin: a write is free, and nothing is on its way to the slot.
    pub fn can_write(&self, op: Op) -> bool {
        let slot = self.slot_of(op);
        self.writes_in_flight() < JOURNAL_WRITES_MAX
            && !self.writes.contains_key(&slot)
            && !self.written.contains_key(&slot)
            && self.slot(slot).op().is_none_or(|ours| ours <= op)
    }

    /// Takes the header of a prepare into the log and begins to write the prepare, which must be
    /// neither clean nor being written.
    pub fn write_prepare(&mut self, message: &Message, requests: &mut Vec<Request>) {
        let header = message.prepare_header();
        let id = header.id();
        assert!(self.can_write(id.op));
        assert!(!self.is_clean(&id), "op {} is durable already", id.op);
        self.insert_header(&header);
        let slot = self.slot_of(id.op);
        assert!(self.slot(slot).holds(&id));
        // The body that is there already needs no second write, but the caller has one, and wants
        // it.
        self.written.remove(&slot);
        assert!(self.slot(slot).dirty);
        self.sequence += 1;
        let sequence = self.sequence;
        let waits = self.slot(slot).unmarked;
        let waiting = waits.then(|| message.clone());
        self.writes.insert(slot, Write { id, sequence, waiting });
        if !waits {
            self.push_body(slot, message, requests);
        }
    }

    /// Issues the write of a body, whose slot is free for it.
    fn push_body(&mut self, slot: u32, message: &Message, requests: &mut Vec<Request>) {
        let header = message.prepare_header();
        let sequence = self.writes[&slot].sequence;
        let offset = self.layout.prepare_offset(slot);
        let place = self.slot_mut(slot);
        assert!(place.holds(&header.id()));
        assert!(!place.unmarked);
        place.body = Some(header);
        place.sequence = sequence;
        let mut sectors = message.sectors();
        if defect!("write_cut_short") {
            sectors.truncate(SECTOR_SIZE as usize);
        }
        assert!(sectors.len().is_multiple_of(SECTOR_SIZE as usize));
        let token = Token::WritePrepare { op: header.op(), slot };
        requests.push(Request::Write { token, offset, sectors });
    }

    /// A write is complete. Pushes to `durable` the prepares that became clean by it.
    pub fn on_write_done(&mut self, token: Token, durable: &mut Vec<PrepareId>) {
        match token {
            Token::WritePrepare { op, slot } => self.on_body_done(op, slot),
            Token::WriteHeaders { sector } => self.on_headers_done(sector, durable),
            _ => panic!("not a write of the journal: {token:?}"),
        }
    }

    fn on_body_done(&mut self, op: Op, slot: u32) {
        let write = self.writes.remove(&slot).expect("a write was in flight");
        assert_eq!(write.id.op, op);
        assert!(write.waiting.is_none());
        let place = self.slot(slot);
        assert_eq!(place.body.map(|body| body.id()), Some(write.id));
        if place.holds(&write.id) {
            assert!(place.dirty);
            self.written.insert(slot, false);
        } else if !place.faulty && place.op().is_none_or(|ours| ours <= op) {
            // It was truncated or replaced while it was being written.
            self.mark_truncated(slot, write.id);
        }
    }

    fn on_headers_done(&mut self, sector: u32, durable: &mut Vec<PrepareId>) {
        let mut flight = self.flights.remove(&sector).expect("a write was in flight");
        if defect!("header_coalesced") && self.sectors_pending.remove(&sector) {
            let first = sector * HEADERS_PER_SECTOR;
            let due = self.written.range(first..first + HEADERS_PER_SECTOR);
            let due = due.filter_map(|(slot, _)| Some((*slot, self.slot(*slot).header?.id())));
            flight.headers = due.collect();
        }
        for (slot, id) in flight.headers {
            let place = &mut self.slots[slot as usize];
            if self.written.get(&slot) == Some(&true) && place.holds(&id) {
                assert!(place.dirty);
                assert_eq!(place.body.map(|body| body.id()), Some(id));
                place.dirty = false;
                place.faulty = false;
                self.written.remove(&slot);
                durable.push(id);
            }
        }
        for (slot, id) in flight.markers {
            let place = self.slot_mut(slot);
            if place.durable == Redundant::Truncated(id) {
                place.unmarked = false;
            }
        }
    }

    /// Issues what is due: redundant headers and markers, as many to a sector as there are, and
    /// bodies whose marker is durable. To be called once per turn.
    pub fn flush_headers(&mut self, requests: &mut Vec<Request>) {
        self.push_bodies_waiting(requests);
        let ready: Vec<u32> = self
            .written
            .iter()
            .filter(|(slot, carried)| !**carried && self.is_in_order(**slot))
            .map(|(slot, _)| *slot)
            .collect();
        for slot in ready {
            let place = self.slot_mut(slot);
            let header = place.header.expect("what is written has a header");
            assert_eq!(place.body, Some(header));
            place.durable = Redundant::Header(header);
            place.unmarked = false;
            self.written.insert(slot, true);
            self.sectors_pending.insert(slot / HEADERS_PER_SECTOR);
        }
        // One sector is never in flight, so that no crash can tear all of them.
        let flights_max = self.layout.header_sectors() as usize - 1;
        let next = self.sector_next;
        let (before, after): (Vec<u32>, Vec<u32>) = self
            .sectors_pending
            .iter()
            .filter(|sector| !self.flights.contains_key(sector))
            .partition(|sector| **sector < next);
        for sector in after.into_iter().chain(before) {
            if self.flights.len() == flights_max {
                break;
            }
            self.push_sector(sector, requests);
            self.sector_next = sector + 1;
        }
    }

    fn push_bodies_waiting(&mut self, requests: &mut Vec<Request>) {
        let ready: Vec<u32> = self
            .writes
            .iter()
            .filter(|(slot, write)| write.waiting.is_some() && !self.slot(**slot).unmarked)
            .map(|(slot, _)| *slot)
            .collect();
        for slot in ready {
            let write = self.writes.get_mut(&slot).expect("found just above");
            let message = write.waiting.take().expect("found just above");
            self.push_body(slot, &message, requests);
        }
    }

    /// Whether no body of a lower op whose write began earlier is still on its way.
    fn is_in_order(&self, slot: u32) -> bool {
        let place = self.slot(slot);
        let op = place.op().expect("what is written has a header");
        !self.writes.values().any(|write| write.id.op < op && write.sequence < place.sequence)
    }

    fn push_sector(&mut self, sector: u32, requests: &mut Vec<Request>) {
        assert!(!self.flights.contains_key(&sector));
        assert!(self.sectors_pending.remove(&sector));
        let mut buffer = AlignedBuffer::zeroed(SECTOR_SIZE);
        let mut flight = Flight::default();
        let (entries, _) = buffer.as_mut().as_chunks_mut::<{ HEADER_SIZE as usize }>();
        for (slot, entry) in (sector * HEADERS_PER_SECTOR..).zip(entries) {
            let place = self.slot(slot);
            *entry = place.durable.encode(self.cluster, slot);
            match place.durable {
                Redundant::Header(header) if self.written.get(&slot) == Some(&true) => {
                    flight.headers.push((slot, header.id()));
                }
                Redundant::Truncated(id) if place.unmarked => flight.markers.push((slot, id)),
                _ => {}
            }
        }
        self.flights.insert(sector, flight);
        requests.push(Request::Write {
            token: Token::WriteHeaders { sector },
            offset: self.layout.headers_offset(sector),
            sectors: buffer.freeze(),
        });
    }

    /// Whether a write of exactly this prepare is under way, its redundant header included.
    pub fn is_writing(&self, id: &PrepareId) -> bool {
        let slot = self.slot_of(id.op);
        self.writes.get(&slot).is_some_and(|write| write.id == *id) || self.is_header_due(id)
    }

    /// Bodies being written.
    pub fn writes_in_flight(&self) -> u32 {
        u32::try_from(self.writes.len()).expect("bounded by JOURNAL_WRITES_MAX")
    }

    /// Whether nothing is being written and nothing waits to be.
    pub fn is_idle(&self) -> bool {
        self.writes.is_empty()
            && self.written.is_empty()
            && self.sectors_pending.is_empty()
            && self.flights.is_empty()
    }

    /// Begins to read a prepare; the result goes to [`Journal::on_read_done`] with the id returned.
    /// `None`: it is not on disk as far as known, is being written, or too many reads are in
    /// flight.
    pub fn read_prepare(&mut self, id: &PrepareId, requests: &mut Vec<Request>) -> Option<u32> {
        let slot = self.slot_of(id.op);
        let body = self.slot(slot).body.filter(|body| body.id() == *id)?;
        let in_flight = self.writes.get(&slot).is_some_and(|write| write.waiting.is_none());
        if in_flight || self.reads.len() >= READS_MAX {
            return None;
        }
        let read = self.read_next;
        self.read_next = self.read_next.wrapping_add(1);
        let sequence = self.slot(slot).sequence;
        let previous = self.reads.insert(read, Read { id: *id, slot, sequence });
        assert!(previous.is_none());
        requests.push(Request::Read {
            token: Token::ReadPrepare { id: read },
            offset: self.layout.prepare_offset(slot),
            size: body.size.next_multiple_of(SECTOR_SIZE),
        });
        Some(read)
    }

    /// A read is complete. Without a message the prepare is damaged or was overwritten meanwhile;
    /// if it still should be in its slot, the slot is faulty now.
    pub fn on_read_done(&mut self, read: u32, result: ReadResult) -> (PrepareId, Option<Message>) {
        let Read { id, slot, sequence } = self.reads.remove(&read).expect("a read was in flight");
        let geometry = self.layout.geometry;
        let message = prepare_decode(&id, result, &Place { cluster: self.cluster, geometry, slot });
        if message.is_none() && self.slot(slot).sequence == sequence {
            self.on_damage(slot, &id);
        }
        (id, message)
    }

    /// The bytes of prepare `id` in `slot` turned out to be damaged.
    fn on_damage(&mut self, slot: u32, id: &PrepareId) {
        let place = &mut self.slots[slot as usize];
        if place.body.is_none_or(|body| body.id() != *id) {
            return;
        }
        place.body = None;
        if place.holds(id) {
            place.dirty = true;
            place.faulty = true;
            // The sector need not be written for it: on disk the header stands over a bad body.
            place.durable = Redundant::Invalidated;
            place.unmarked = false;
            self.written.remove(&slot);
        }
    }

    /// Forgets all ops above `op_max`: their slots are empty and nackable, also those that were
    /// faulty. See the module's documentation for the rule and for what protects the disk.
    pub fn truncate(&mut self, op_max: Op) {
        assert!(op_max >= self.op_checkpoint);
        for op in op_max + 1..=self.op_prepare_max() {
            let slot = self.slot(self.slot_of(op));
            if slot.faulty || slot.op() == Some(op) {
                self.empty(self.slot_of(op));
            }
        }
        self.op_max = self.op_max_scanned();
        assert!(self.op_max <= op_max);
    }

    /// Forgets one op, as [`Journal::truncate`] does: for a prepare of a view that the superblock
    /// excludes, below others that stay. Nothing happens if there is no header for `op`.
    pub fn remove(&mut self, op: Op) {
        assert!(op > self.op_checkpoint);
        if self.header(op).is_some() {
            self.empty(self.slot_of(op));
            self.op_max = self.op_max_scanned_if_gone();
        }
    }

    fn empty(&mut self, slot: u32) {
        let place = self.slot_mut(slot);
        let was_faulty = std::mem::take(&mut place.faulty);
        let id = place.header.map(|header| header.id());
        self.drop_header(slot, true);
        let in_flight = self.writes.contains_key(&slot);
        let place = self.slot(slot);
        if was_faulty && !in_flight && !matches!(place.durable, Redundant::Truncated(_)) {
            let id = place.body.map(|body| body.id()).or(id).unwrap_or_default();
            self.mark_truncated(slot, id);
        }
        let place = self.slot_mut(slot);
        place.dirty = false;
        assert!(place.header.is_none());
        if slot == 0 {
            self.restore_root();
        }
    }

    /// The header of a slot goes; `mark`: what it stands for must not come back.
    fn drop_header(&mut self, slot: u32, mark: bool) {
        if self.writes.get(&slot).is_some_and(|write| write.waiting.is_some()) {
            self.writes.remove(&slot);
        }
        self.written.remove(&slot);
        let in_flight = self.writes.contains_key(&slot);
        let place = self.slot_mut(slot);
        let Some(header) = place.header.take() else { return };
        let on_disk = place.body.is_some_and(|body| body.id() == header.id());
        // What is being written is marked when it is complete; what is faulty stays invalidated.
        if mark && on_disk && !in_flight && !place.faulty {
            self.mark_truncated(slot, header.id());
        }
    }

    fn mark_truncated(&mut self, slot: u32, id: PrepareId) {
        let place = self.slot_mut(slot);
        assert!(!place.faulty);
        place.durable = Redundant::Truncated(id);
        place.unmarked = true;
        self.sectors_pending.insert(slot / HEADERS_PER_SECTOR);
    }

    /// The root needs no disk: it is the same in all logs, and op 0 is never asked for.
    fn restore_root(&mut self) {
        if self.op_checkpoint > 0 {
            return;
        }
        let root = Header::root(self.cluster);
        let place = self.slot_mut(0);
        assert!(place.header.is_none());
        assert!(!place.faulty);
        place.header = Some(root);
        place.dirty = false;
    }

    fn op_max_scanned(&self) -> Op {
        self.slots.iter().filter_map(Slot::op).max().unwrap_or(0)
    }

    /// The highest op, when the one known may have gone.
    fn op_max_scanned_if_gone(&self) -> Op {
        if self.header(self.op_max).is_some() { self.op_max } else { self.op_max_scanned() }
    }

    /// Slots whose prepare is not durable here.
    pub fn dirty_count(&self) -> u32 {
        self.count(|slot| slot.dirty)
    }

    /// Slots whose prepare is damaged.
    pub fn faulty_count(&self) -> u32 {
        self.count(|slot| slot.faulty)
    }

    fn count(&self, predicate: impl Fn(&Slot) -> bool) -> u32 {
        let count = self.slots.iter().filter(|slot| predicate(slot)).count();
        u32::try_from(count).expect("at most the slots of a geometry")
    }

    /// The op of the durable checkpoint.
    pub fn op_checkpoint(&self) -> Op {
        self.op_checkpoint
    }

    /// The checkpoint of `op` is durable: the slots of the ops up to it may be written anew.
    pub fn set_checkpoint(&mut self, op: Op) {
        assert!(op >= self.op_checkpoint);
        self.op_checkpoint = op;
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
