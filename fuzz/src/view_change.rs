//! Fuzz target `view_change`: which log a new view begins with.
//!
//! ```text
//!   byte 0 even: an abstract cluster          odd: a do_view_change or start_view of garbage
//!   prepare, receive, complete, commit, rot,  │ sealed again after the damage, through the decoder
//!   change the view with `select` itself:     │ of messages and that of header sets
//!   each step a byte or two
//! ```
//!
//! The logs that are handed to `select` are those that the cluster is left with, after a journey
//! through the codec; so they are possible ones, and the truth is known.
//!
//! Asserted, of each set of replicas that may be asked: nothing committed is cut or replaced; what
//! is kept has a copy somewhere; the answer is that of the two tables in the documentation of
//! `select`, applied op by op; the order of the logs does not matter; it waits or is stuck only
//! where enough copies are damaged. Of garbage: what decodes, encodes to the same bytes.
//!
//! Planted: nacks of one replica fewer than the quorum count as all.
//!
//! **Not here:** logs that contradict each other, which no correct replicas have: `select` ends the
//! process for them, and the messages of other incarnations do not reach it.

use super::Plant;
use super::cursor::{self, CLUSTER, Cursor};
use bytes::Bytes;
use std::collections::BTreeMap;
use vsr::replica::{Quorums, Selection, ViewLog, select};
use vsr::wire::{
    Author, Command, DoViewChange, Header, HeaderSet, IncarnationTable, Message, Op, Prepare,
    ReplicaIndex, StartView, View,
};

/// Prepares in flight.
const PIPELINE: u32 = 3;
/// The longest log.
const OP_MAX: Op = 8;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many selections were compared, or sets decoded.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    if cursor.bool() {
        return garbage(&mut cursor);
    }
    let replica_count = 1 + cursor.u8() % 5;
    let tolerated = Quorums::new(replica_count).replication - 1;
    let rot_max = cursor.u8() % (tolerated + 1);
    let mut model = Model::new(replica_count, rot_max, plant);
    for _ in 0..200 {
        if cursor.is_empty() {
            break;
        }
        model.step(&mut cursor);
    }
    model.change_view(0, &[0; 16]);
    model.compared
}

// ---- garbage

fn garbage(cursor: &mut Cursor<'_>) -> u32 {
    let (set, mut body) = cursor::header_set(cursor);
    for _ in 0..cursor.u8() % 4 {
        let at = usize::from(cursor.u16()) % body.len();
        body[at] = cursor.u8();
        let start = at - at % 128;
        if start > 0 && !cursor.u8().is_multiple_of(4) {
            cursor::seal_header(&mut body[start..]);
        }
    }
    let (view, log_view) = (View(u32::from(cursor.u8())), View(u32::from(cursor.u8() % 8)));
    let bits = (1u64 << set.headers.len()) - 1;
    let command: Command = if cursor.bool() {
        let (commit_min, commit_max) = (cursor.number(), cursor.number());
        let (present, nack) = (cursor.number() & bits, cursor.number() & bits);
        let (op, checkpoint) = (set.op, cursor::block_ref(cursor));
        DoViewChange { op, commit_min, commit_max, checkpoint, log_view, present, nack }.into()
    } else {
        StartView { op: set.op, commit_max: cursor.number(), ..StartView::default() }.into()
    };
    let replica = ReplicaIndex(0);
    let author = Author { cluster: CLUSTER, view, replica, incarnation: 1 };
    let header = Header::seal(&author, command, &body);
    let bytes = [&header.encode()[..], &body].concat();
    let Ok(message) = Message::decode(Bytes::from(bytes)) else { return 0 };
    let (decoded, alone) = (HeaderSet::decode(&message), HeaderSet::decode_body(&body));
    let Ok(decoded) = decoded else { return 0 };
    assert_eq!(Ok(&decoded), alone.as_ref());
    assert_eq!(decoded.encode(), body);
    assert!(decoded.headers[0].is_some());
    for (op, header) in (0..=decoded.op).rev().zip(&decoded.headers) {
        assert_eq!(decoded.header(op), header.as_ref());
        assert!(header.is_none_or(|header| header.op() == op && header.cluster == CLUSTER));
    }
    assert!(decoded.op.checked_add(1).is_none_or(|op| decoded.header(op).is_none()));
    1
}

// ---- the tables, op by op

/// What a log says of an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Nack,
    Copy,
    Silence,
}

/// The second table.
fn word(log: &ViewLog, op: Op, canonical: Option<&Header<Prepare>>) -> Word {
    let is_covered = op <= log.set.op && log.set.op - op < log.set.headers.len() as u64;
    let bit = |bits: u64| is_covered && bits & (1 << (log.set.op - op)) != 0;
    if log.set.op < op || bit(log.nack) {
        return Word::Nack;
    }
    match (log.set.header(op), canonical) {
        (Some(own), Some(canonical)) if own.id() == canonical.id() => {
            if bit(log.present) {
                Word::Copy
            } else {
                Word::Silence
            }
        }
        (Some(_), _) => Word::Nack,
        (None, _) => Word::Silence,
    }
}

/// Whether a log has the body of the canonical header: also one that it nacks.
fn has_body(log: &ViewLog, op: Op, canonical: &Header<Prepare>) -> bool {
    op <= log.set.op
        && log.set.header(op).is_some_and(|own| own.id() == canonical.id())
        && log.present & (1 << (log.set.op - op)) != 0
}

/// The head by the first table, and whether it is undecided there.
fn plain_head(logs: &[ViewLog], quorum_nack: u8) -> (Op, bool) {
    let log_view = logs.iter().map(|log| log.log_view).max().expect("a quorum");
    let canonical: Vec<_> = logs.iter().filter(|log| log.log_view == log_view).collect();
    let op_max = canonical.iter().map(|log| log.set.op).max().expect("there is one");
    let known = |op: Op| canonical.iter().find_map(|log| log.set.header(op));
    let named = |op: Op| {
        let id = known(op + 1)?.parent_id();
        logs.iter().filter_map(|log| log.set.header(op)).find(|header| header.id() == id)
    };
    let committed = logs.iter().map(|log| {
        let by_head = log.set.headers[0].map_or(0, |head| head.command.commit);
        log.commit_max.max(by_head).max(log.set.op.saturating_sub(u64::from(PIPELINE)))
    });
    let mut head = committed.max().expect("a quorum");
    while head < op_max {
        let op = head + 1;
        let header = known(op).or_else(|| named(op));
        let nacks = logs.iter().filter(|log| word(log, op, header) == Word::Nack).count();
        if nacks >= usize::from(quorum_nack) {
            break;
        }
        if !header.is_some_and(|header| logs.iter().any(|log| has_body(log, op, header))) {
            return (op, true);
        }
        head = op;
    }
    (head, false)
}

// ---- the model

/// What a replica has at an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Intact.
    Clean,
    /// Known, never complete; its bytes may be at hand all the same.
    Dirty { present: bool },
    /// Damaged, the header known from the superblock.
    Rotten,
    /// Damaged, and nobody here knows what it was.
    Blank,
    /// Never heard of it.
    Hole,
}

/// One replica: its log by op.
#[derive(Debug, Clone)]
struct Member {
    log_view: u32,
    commit_max: Op,
    op: Op,
    slots: BTreeMap<Op, (Option<Header<Prepare>>, Slot)>,
    /// The headers that its superblock holds: never blank.
    stored: BTreeMap<Op, Header<Prepare>>,
}

/// The head, the commit point, the headers from the head down.
type Selected = (Op, Op, Vec<Option<Header<Prepare>>>);

/// A cluster, with the truth of what is committed.
struct Model {
    replica_count: u8,
    quorums: Quorums,
    members: Vec<Member>,
    committed: Vec<Header<Prepare>>,
    view: u32,
    primary: usize,
    /// The primary's log, and who has acknowledged what in this view.
    log: Vec<Header<Prepare>>,
    acks: BTreeMap<Op, u8>,
    commit_max: Op,
    /// By op: damaged copies.
    damaged: BTreeMap<Op, u8>,
    rot_max: u8,
    plant: Plant,
    compared: u32,
}

fn prepare(op: Op, view: u32, parent: &Header<Prepare>, commit: Op) -> Header<Prepare> {
    let author =
        Author { cluster: CLUSTER, view: View(view), replica: ReplicaIndex(0), incarnation: 1 };
    let parent = parent.id().as_parent();
    let command = Prepare { parent, op, commit, entry_count: 1, ..Prepare::default() };
    Header::seal(&author, command, &[0; 64])
}

fn at(op: Op) -> usize {
    usize::try_from(op).expect("a small log")
}

impl Model {
    fn new(replica_count: u8, rot_max: u8, plant: Plant) -> Self {
        let root = Header::root(CLUSTER);
        let member = Member {
            log_view: 0,
            commit_max: 0,
            op: 0,
            slots: BTreeMap::new(),
            stored: BTreeMap::from([(0, root)]),
        };
        Self {
            replica_count,
            quorums: Quorums::new(replica_count),
            members: vec![member; usize::from(replica_count)],
            committed: vec![root],
            view: 0,
            primary: 0,
            log: vec![root],
            acks: BTreeMap::new(),
            commit_max: 0,
            damaged: BTreeMap::new(),
            rot_max,
            plant,
            compared: 0,
        }
    }

    fn op(&self) -> Op {
        self.log.len() as Op - 1
    }

    fn op_committed(&self) -> Op {
        self.committed.len() as Op - 1
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) {
        let byte = cursor.u8();
        let index = usize::from(byte >> 4) % self.members.len();
        match byte % 16 {
            0..=3 => self.prepare(),
            kind @ 4..=12 => {
                let op = 1 + u64::from(cursor.u8()) % self.op().max(1);
                if kind < 9 { self.receive(index, op) } else { self.complete(index, op) }
            }
            13 => {
                if self.members[index].log_view == self.view {
                    let member = &mut self.members[index];
                    member.commit_max = self.commit_max.max(member.commit_max);
                }
            }
            14 => {
                let op = 1 + u64::from(cursor.u8()) % self.op().max(1);
                self.rot(index, op);
            }
            _ => {
                let choices: [u8; 16] = cursor.array();
                self.change_view(index, &choices);
            }
        }
    }

    fn prepare(&mut self) {
        if self.op() >= self.commit_max + u64::from(PIPELINE) || self.op() >= OP_MAX {
            return;
        }
        let parent = self.log[self.log.len() - 1];
        self.log.push(prepare(self.op() + 1, self.view, &parent, self.commit_max));
        self.receive(self.primary, self.op());
    }

    /// A member in the view hears of an op: the head may jump over a gap.
    fn receive(&mut self, index: usize, op: Op) {
        if self.members[index].log_view != self.view || op > self.op() {
            return;
        }
        let header = self.log[at(op)];
        let member = &mut self.members[index];
        member.slots.entry(op).or_insert((Some(header), Slot::Dirty { present: true }));
        member.op = member.op.max(op);
        member.commit_max = member.commit_max.max(header.command.commit);
    }

    /// Its write is complete: it acknowledges.
    fn complete(&mut self, index: usize, op: Op) {
        let header = self.log.get(at(op)).copied();
        let Some((own, slot)) = self.members[index].slots.get_mut(&op) else { return };
        if header.is_none() || *own != header {
            return;
        }
        if *slot == Slot::Rotten {
            self.damaged.entry(op).and_modify(|count| *count -= 1);
        }
        *slot = Slot::Clean;
        if self.members[index].log_view != self.view {
            return;
        }
        *self.acks.entry(op).or_default() |= 1 << index;
        while let Some(acks) = self.acks.get(&(self.commit_max + 1)) {
            if acks.count_ones() < u32::from(self.quorums.replication) {
                break;
            }
            self.commit_max += 1;
            let header = self.log[at(self.commit_max)];
            match self.committed.get(at(self.commit_max)) {
                Some(before) => assert_eq!(*before, header, "two at op {}", self.commit_max),
                None => self.committed.push(header),
            }
        }
    }

    /// A copy rots, its header too unless the superblock holds it; or a dirty write is torn.
    fn rot(&mut self, index: usize, op: Op) {
        let count = *self.damaged.get(&op).unwrap_or(&0);
        let member = &mut self.members[index];
        let Some((header, slot)) = member.slots.get_mut(&op) else { return };
        match slot {
            Slot::Clean if count < self.rot_max && member.op > op => {
                *self.damaged.entry(op).or_default() += 1;
                *slot = Slot::Rotten;
                if !member.stored.contains_key(&op) {
                    (*header, *slot) = (None, Slot::Blank);
                }
            }
            Slot::Dirty { present } => *present = false,
            _ => {}
        }
    }

    /// The `do_view_change` of a member, as it arrives.
    fn view_log(&self, index: usize) -> ViewLog {
        let member = &self.members[index];
        let op_min =
            member.op.saturating_sub(u64::from(PIPELINE)).max(member.commit_max.min(member.op));
        let (mut present, mut nack, mut headers) = (0, 0, Vec::new());
        for (bit, op) in (op_min..=member.op).rev().enumerate() {
            let unknown = (None, if op == 0 { Slot::Clean } else { Slot::Hole });
            let (mut header, mut slot) = *member.slots.get(&op).unwrap_or(&unknown);
            let stored = member.stored.get(&op).copied();
            let above: Option<Header<Prepare>> = headers.last().copied().flatten();
            let is_linked =
                header.is_some_and(|own| above.is_some_and(|above| above.parent_id() == own.id()));
            let is_certain = header.is_some_and(|own| own.view.0 == member.log_view) || is_linked;
            if header.is_some() && header != stored && !is_certain {
                // A leftover of a log that lost, below what the view began with.
                (header, slot) = (None, Slot::Blank);
            }
            if op == 0 {
                header = Some(Header::root(CLUSTER));
            }
            headers.push(header);
            if matches!(slot, Slot::Clean | Slot::Dirty { present: true }) {
                present |= 1 << bit;
            }
            if matches!(slot, Slot::Dirty { .. } | Slot::Hole) {
                nack |= 1 << bit;
            }
        }
        let set = HeaderSet { table: IncarnationTable::default(), op: member.op, headers };
        arrive(member, set, present, nack)
    }

    /// Asks these members, checks the answer against tables and truth; `None` without a log.
    fn select(&mut self, members: &[usize]) -> Option<Selected> {
        let logs: Vec<ViewLog> = members.iter().map(|index| self.view_log(*index)).collect();
        let mut quorums = self.quorums;
        if self.plant == Plant::Error {
            quorums.nack -= 1;
        }
        let answer = |logs: &[&ViewLog]| select(logs, &quorums, self.replica_count, PIPELINE);
        let references: Vec<&ViewLog> = logs.iter().collect();
        let selection = answer(&references);
        let reversed: Vec<&ViewLog> = logs.iter().rev().collect();
        assert_eq!(selection, answer(&reversed), "the order of the logs decides");
        if members.len() < usize::from(self.quorums.view_change) {
            assert_eq!(selection, Selection::AwaitingQuorum);
            return None;
        }
        self.compared += 1;
        let (head, is_undecided) = plain_head(&logs, self.quorums.nack);
        let everybody = members.len() == usize::from(self.replica_count);
        let damaged = |op: Op| *self.damaged.get(&op).unwrap_or(&0);
        match selection {
            Selection::Complete { op, commit_max, headers } => {
                assert!(!is_undecided, "op {head} is not decided");
                assert_eq!(op, head);
                self.check_truth(op, commit_max, &headers);
                Some((op, commit_max, headers))
            }
            Selection::AwaitingRepair { op } => {
                assert!(!everybody);
                assert_eq!(op, head);
                assert!(damaged(op) > 0, "op {op} is not damaged");
                None
            }
            Selection::Stuck { op } => {
                assert_eq!(op, head);
                assert!(everybody && damaged(op) >= self.quorums.replication, "op {op} is there");
                None
            }
            Selection::AwaitingQuorum => panic!("a quorum spoke"),
        }
    }

    fn check_truth(&self, head: Op, commit_max: Op, headers: &[Option<Header<Prepare>>]) {
        assert!(head >= self.op_committed(), "a committed op is cut");
        assert!(commit_max <= self.op_committed(), "op {commit_max} is not committed");
        assert!(headers[0].is_some());
        for (op, header) in (0..=head).rev().zip(headers) {
            if let (Some(header), Some(committed)) = (header, self.committed.get(at(op))) {
                assert_eq!(header, committed, "a committed op is replaced");
            }
            let somewhere = self.members.iter().any(|member| {
                member.slots.get(&op).is_some_and(|(own, slot)| {
                    own == header && matches!(slot, Slot::Clean | Slot::Dirty { present: true })
                })
            });
            assert!(op <= commit_max || (header.is_some() && somewhere), "nobody has op {op}");
        }
    }

    /// Whoever is asked, the truth comes out; then one of them begins a view, and some learn of it.
    fn change_view(&mut self, primary: usize, choices: &[u8; 16]) {
        let count = self.members.len();
        for subset in 0u32..1 << count {
            let members: Vec<_> = (0..count).filter(|index| subset >> index & 1 == 1).collect();
            self.select(&members);
        }
        let members: Vec<_> = (0..count)
            .filter(|index| *index == primary || !choices[*index].is_multiple_of(3))
            .collect();
        let Some((op, commit_max, headers)) = self.select(&members) else { return };
        self.view += 1;
        self.primary = primary;
        self.commit_max = commit_max.max(self.members[primary].commit_max);
        self.acks.clear();
        // What is blank in the selection is committed: the new primary repairs it.
        let root = self.log[0];
        self.log = (0..=op).map(|op| *self.committed.get(at(op)).unwrap_or(&root)).collect();
        for (op, header) in (0..=op).rev().zip(&headers) {
            if let Some(header) = header {
                self.log[at(op)] = *header;
            }
        }
        for (index, choice) in (0..count).zip(&choices[8..]) {
            if index == primary || choice & 1 == 0 {
                self.install(index, &headers);
            }
        }
    }

    fn install(&mut self, index: usize, headers: &[Option<Header<Prepare>>]) {
        let (view, head, commit_max) = (self.view, self.op(), self.commit_max);
        let member = &mut self.members[index];
        for (op, (_, slot)) in &mut member.slots {
            if *op > head && matches!(slot, Slot::Rotten | Slot::Blank) {
                self.damaged.entry(*op).and_modify(|count| *count -= 1);
                *slot = Slot::Hole;
            }
        }
        member.slots.retain(|op, _| *op <= head);
        member.stored = (0..=head)
            .rev()
            .zip(headers)
            .filter_map(|(op, header)| Some((op, (*header)?)))
            .collect();
        for (op, header) in member.stored.iter().filter(|(op, _)| **op > 0) {
            let slot = member.slots.entry(*op).or_insert((None, Slot::Hole));
            if slot.0 != Some(*header) {
                // Damage stays damage: it may have been this very prepare.
                let is_faulty = matches!(slot.1, Slot::Rotten | Slot::Blank);
                let dirty = Slot::Dirty { present: false };
                *slot = (Some(*header), if is_faulty { Slot::Rotten } else { dirty });
            }
        }
        member.log_view = view;
        member.op = head;
        member.commit_max = member.commit_max.max(commit_max);
    }
}

/// Through the codec and back.
fn arrive(member: &Member, set: HeaderSet, present: u64, nack: u64) -> ViewLog {
    let log_view = View(member.log_view);
    let author = Author {
        cluster: CLUSTER,
        view: log_view.next(),
        replica: ReplicaIndex(1),
        incarnation: 2,
    };
    let commit_max = member.commit_max;
    let command = DoViewChange {
        op: set.op,
        commit_min: commit_max,
        commit_max,
        log_view,
        present,
        nack,
        ..DoViewChange::default()
    };
    let message = Message::new(&author, command, &set.encode());
    let message = Message::decode(message.bytes()).expect("what is sent is valid");
    let decoded = HeaderSet::decode(&message).expect("what is sent is valid");
    assert_eq!(decoded, set);
    let Command::DoViewChange(sent) = message.header().command else { panic!("sent as one") };
    assert_eq!(sent, command);
    let DoViewChange { log_view, commit_max, present, nack, .. } = sent;
    ViewLog { log_view, commit_max, set: decoded, present, nack }
}

/// Clusters of all sizes that commit, cut, rot and change views; and sets of garbage.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let change = |member: u8, byte: u8| {
        let mut step = vec![15 | member << 4];
        step.extend([byte; 16]);
        step
    };
    for replica_count in 0..5 {
        let mut seed = vec![0, replica_count, replica_count % 3];
        for round in 0..4u8 {
            seed.extend([0, 0, 0]);
            for op in 0..6 {
                seed.extend([4 | 16, op, 5 | 32, op, 9, op, 10 | 16, op]);
            }
            seed.extend([13, 14 | 16, round, 11 | 32, 2, 14, 1]);
            seed.extend(change(round, round + 1));
        }
        seeds.push(seed);
    }
    for kind in 0..4 {
        seeds.push(vec![1, 5, 4, 1, 1, 0, 2, 0, 3, 1, 1, kind, 9, 9, 9, 1, 0, 7, 3, 1, 2, 3]);
    }
    seeds
}
