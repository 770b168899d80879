//! Which log a view begins with, against a brute-force model: the logs are not made up, they are
//! what an abstract cluster is left with that prepares, acknowledges, commits, changes views with
//! `select` itself, crashes and rots; and whatever quorum of it is asked, the truth of the model
//! must come out.

use super::super::quorums::Quorums;
use super::*;
use crate::stdx::{Prng, Ratio};
use crate::wire::{Author, ClusterId, IncarnationTable, ReplicaIndex};
use std::collections::BTreeMap;

const CLUSTER: ClusterId = ClusterId(3);
const P: u32 = 3;

/// The header of `op` prepared in `view` on top of `parent`.
fn prepare(op: Op, view: u32, parent: &Header<Prepare>, commit: Op) -> Header<Prepare> {
    let author =
        Author { cluster: CLUSTER, view: View(view), replica: ReplicaIndex(0), incarnation: 1 };
    let parent = parent.id().as_parent();
    let command = Prepare { parent, op, commit, entry_count: 1, ..Prepare::default() };
    Header::seal(&author, command, &[0; 64])
}

/// A chain of ops 1.. with the given views and commits.
fn chain(views: &[u32]) -> Vec<Header<Prepare>> {
    let mut headers = vec![Header::root(CLUSTER)];
    for (op, view) in (1..).zip(views) {
        let parent = headers[headers.len() - 1];
        headers.push(prepare(op, *view, &parent, 0));
    }
    headers
}

/// What one log says of an op.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    /// Intact.
    Clean,
    /// Known, never complete: nacked. Its bytes may be at hand all the same.
    Dirty { present: bool },
    /// Damaged, the header known from the superblock.
    Rotten,
    /// Damaged, and nobody here knows what it was.
    Blank,
    /// Never heard of it.
    Hole,
}

/// A log from `slots` (op ascending, the last is the head) over the headers of `known`.
fn log(log_view: u32, commit_max: Op, known: &[Header<Prepare>], slots: &[Slot]) -> ViewLog {
    let op = known.len() as Op - 1;
    let (mut present, mut nack) = (0, 0);
    let mut headers = Vec::new();
    for (index, slot) in slots.iter().rev().enumerate() {
        let header = known[known.len() - 1 - index];
        let is_known = !matches!(slot, Slot::Blank | Slot::Hole);
        headers.push(is_known.then_some(header));
        if matches!(slot, Slot::Clean | Slot::Dirty { present: true }) {
            present |= 1 << index;
        }
        if matches!(slot, Slot::Dirty { .. } | Slot::Hole) {
            nack |= 1 << index;
        }
    }
    let set = HeaderSet { table: IncarnationTable::default(), op, headers };
    ViewLog { log_view: View(log_view), commit_max, set, present, nack }
}

fn select_of(logs: &[ViewLog], replica_count: u8) -> Selection {
    let logs: Vec<&ViewLog> = logs.iter().collect();
    select(&logs, &Quorums::new(replica_count), replica_count, P)
}

fn head(selection: &Selection) -> Op {
    match selection {
        Selection::Complete { op, .. } => *op,
        other => panic!("{other:?}"),
    }
}

// ---- the rows of the first table

#[test]
fn select_nack_quorum_cuts_before_the_op() {
    use Slot::{Clean, Dirty};
    let all = chain(&[1, 1, 1]);
    let dirty = Dirty { present: true };
    let logs = [
        log(1, 2, &all, &[Clean, dirty]),
        log(1, 2, &all, &[Clean, dirty]),
        log(1, 2, &all, &[Clean, Clean]),
    ];
    assert_eq!(head(&select_of(&logs, 3)), 2, "although all have its bytes");
    assert_eq!(head(&select_of(&logs[1..], 3)), 3, "one nack is none");
}

#[test]
fn select_copy_and_header_keep_the_op() {
    use Slot::{Clean, Rotten};
    let all = chain(&[1, 1, 1]);
    let logs = [log(1, 2, &all, &[Clean, Rotten]), log(0, 2, &all, &[Clean, Clean])];
    let Selection::Complete { op, commit_max, headers } = select_of(&logs, 3) else { panic!() };
    assert_eq!((op, commit_max), (3, 2));
    assert_eq!(headers[..2], [Some(all[3]), Some(all[2])]);
}

#[test]
fn select_neither_waits_and_is_stuck_when_all_have_spoken() {
    use Slot::{Clean, Hole, Rotten};
    let all = chain(&[1, 1, 1]);
    let rotten = || log(1, 2, &all, &[Clean, Rotten]);
    let none = || log(1, 2, &all[..3], &[Clean]);
    let hole = {
        let next = prepare(4, 1, &all[3], 2);
        let known: Vec<_> = all.iter().copied().chain([next]).collect();
        log(1, 2, &known, &[Clean, Hole, Slot::Dirty { present: false }])
    };
    assert_eq!(select_of(&[rotten(), none()], 3), Selection::AwaitingRepair { op: 3 });
    assert_eq!(select_of(&[rotten(), rotten(), none()], 3), Selection::Stuck { op: 3 });
    assert_eq!(head(&select_of(&[rotten(), none(), none()], 3)), 2);
    assert_eq!(head(&select_of(&[rotten(), none(), hole], 3)), 2, "a hole nacks");
}

#[test]
fn select_too_few_logs_wait() {
    for replica_count in 1..=6 {
        let all = chain(&[1]);
        let quorum = usize::from(Quorums::new(replica_count).view_change);
        let logs: Vec<_> = (0..quorum).map(|_| log(1, 1, &all, &[Slot::Clean])).collect();
        for count in 0..quorum {
            assert_eq!(select_of(&logs[..count], replica_count), Selection::AwaitingQuorum);
        }
        assert_eq!(head(&select_of(&logs, replica_count)), 1);
    }
}

// ---- the rows of the second table

#[test]
fn select_counts_as_the_table_says() {
    use Slot::{Blank, Clean, Dirty, Hole, Rotten};
    let all = chain(&[1, 1, 2]);
    let canonical = log(2, 2, &all, &[Clean, Rotten]);
    let other = {
        let mut known = all[..3].to_vec();
        known.push(prepare(3, 1, &all[2], 0));
        known
    };
    let beyond = {
        let mut known = all.clone();
        known.push(prepare(4, 2, &all[3], 2));
        known
    };
    let dirty = Dirty { present: false };
    let nacks = [
        ("ends before", log(1, 2, &all[..3], &[Clean])),
        ("explicit bit", log(2, 2, &all, &[Clean, dirty])),
        ("explicit bit, blank", log(2, 2, &beyond, &[Clean, Hole, dirty])),
        ("another header", log(1, 2, &other, &[Clean, Clean])),
    ];
    let silent = [
        ("damaged", log(2, 2, &all, &[Clean, Rotten])),
        ("blank", log(2, 2, &beyond, &[Clean, Blank, dirty])),
        ("not covered", log(1, 2, &chain(&[1, 1, 1, 1]), &[Clean])),
    ];
    for (name, log) in nacks {
        assert!(log.nacks(3, canonical.set.header(3)), "{name}");
        assert_eq!(head(&select_of(&[canonical.clone(), log.clone(), log], 3)), 2, "{name}");
    }
    for (name, log) in silent {
        assert!(!log.nacks(3, canonical.set.header(3)), "{name}");
    }
}

#[test]
fn select_header_where_canonical_logs_have_none_nacks() {
    use Slot::{Blank, Clean};
    let all = chain(&[1, 1, 2, 2]);
    let canonical = log(2, 2, &all, &[Clean, Blank, Clean]);
    let mut known = all[..3].to_vec();
    known.push(prepare(3, 1, &all[2], 0));
    let older = log(1, 2, &known, &[Clean, Clean]);
    assert!(older.nacks(3, None));
    assert_eq!(
        select_of(&[canonical.clone(), older.clone()], 3),
        Selection::AwaitingRepair { op: 3 }
    );
    assert_eq!(head(&select_of(&[canonical, older.clone(), older], 3)), 2);
}

#[test]
fn select_blank_at_the_commit_point_is_filled_by_an_older_log() {
    use Slot::{Blank, Clean};
    let all = chain(&[1, 1, 1, 2]);
    let canonical = log(2, 3, &all, &[Blank, Clean]);
    let older = log(1, 3, &all[..4], &[Clean]);
    let Selection::Complete { op, headers, .. } = select_of(&[canonical.clone(), older], 3) else {
        panic!()
    };
    assert_eq!(op, 4);
    assert_eq!(headers[1], Some(all[3]));
    // One that does not know it to be committed may hold a prepare that lost.
    // Nor need it, if the successor names it.
    let unaware = log(1, 2, &all[..4], &[Clean, Clean]);
    let Selection::Complete { headers, .. } = select_of(&[canonical.clone(), unaware], 3) else {
        panic!()
    };
    assert_eq!(headers[1], Some(all[3]));
    let mut lost = all[..3].to_vec();
    lost.push(prepare(3, 0, &all[2], 0));
    let unaware = log(1, 2, &lost, &[Clean, Clean]);
    let Selection::Complete { headers, .. } = select_of(&[canonical, unaware], 3) else { panic!() };
    assert_eq!(headers[..2], [Some(all[4]), None]);
}

#[test]
fn select_highest_log_view_wins_over_the_longest_log() {
    use Slot::Clean;
    let long = chain(&[1, 1, 1, 1]);
    let mut short = long[..3].to_vec();
    short.push(prepare(3, 2, &long[2], 2));
    let logs = [log(1, 2, &long, &[Clean, Clean, Clean]), log(2, 2, &short, &[Clean, Clean])];
    let Selection::Complete { op, headers, .. } = select_of(&logs, 3) else { panic!() };
    assert_eq!((op, headers[0]), (3, Some(short[3])));
}

// ---- the model

/// The head, the commit point, the headers from the head down.
type Selected = (Op, Op, Vec<Option<Header<Prepare>>>);

/// One replica of the model: its log by op.
#[derive(Debug, Clone)]
struct Member {
    log_view: u32,
    commit_max: Op,
    op: Op,
    slots: BTreeMap<Op, (Option<Header<Prepare>>, Slot)>,
    /// The headers that its superblock holds: never blank.
    stored: BTreeMap<Op, Header<Prepare>>,
}

/// An abstract cluster, with the truth of what is committed.
struct Model {
    replica_count: u8,
    quorums: Quorums,
    members: Vec<Member>,
    committed: BTreeMap<Op, Header<Prepare>>,
    view: u32,
    primary: usize,
    /// The primary's log, and who has acknowledged what in this view.
    log: Vec<Header<Prepare>>,
    acks: BTreeMap<Op, u8>,
    commit_max: Op,
    /// By op: damaged copies.
    damaged: BTreeMap<Op, u8>,
    rot_max: u8,
}

impl Model {
    fn new(replica_count: u8, rot_max: u8) -> Self {
        let member = Member {
            log_view: 0,
            commit_max: 0,
            op: 0,
            slots: BTreeMap::new(),
            stored: BTreeMap::from([(0, Header::root(CLUSTER))]),
        };
        Self {
            replica_count,
            quorums: Quorums::new(replica_count),
            members: vec![member; usize::from(replica_count)],
            committed: BTreeMap::from([(0, Header::root(CLUSTER))]),
            view: 0,
            primary: 0,
            log: vec![Header::root(CLUSTER)],
            acks: BTreeMap::new(),
            commit_max: 0,
            damaged: BTreeMap::new(),
            rot_max,
        }
    }

    fn op(&self) -> Op {
        self.log.len() as Op - 1
    }

    fn in_view(&self, index: usize) -> bool {
        self.members[index].log_view == self.view
    }

    fn prepare(&mut self) {
        if self.op() >= self.commit_max + u64::from(P) || self.op() >= 8 {
            return;
        }
        let parent = self.log[self.log.len() - 1];
        self.log.push(prepare(self.op() + 1, self.view, &parent, self.commit_max));
        let op = self.op();
        self.receive(self.primary, op);
    }

    /// A member in the view hears of an op: the head may jump over a gap.
    fn receive(&mut self, index: usize, op: Op) {
        if !self.in_view(index) || op > self.op() {
            return;
        }
        let header = self.log[usize::try_from(op).unwrap()];
        let member = &mut self.members[index];
        let known = member.slots.get(&op).is_some_and(|(own, _)| *own == Some(header));
        if !known && !member.slots.contains_key(&op) {
            member.slots.insert(op, (Some(header), Slot::Dirty { present: true }));
        }
        member.op = member.op.max(op);
        member.commit_max = member.commit_max.max(header.command.commit);
    }

    /// Its write is complete: it acknowledges.
    fn complete(&mut self, index: usize, op: Op) {
        let header = self.log.get(usize::try_from(op).unwrap()).copied();
        let Some((own, slot)) = self.members[index].slots.get_mut(&op) else { return };
        if header.is_none() || *own != header {
            return;
        }
        if matches!(slot, Slot::Rotten) {
            self.damaged.entry(op).and_modify(|count| *count -= 1);
        }
        *slot = Slot::Clean;
        if !self.in_view(index) {
            return;
        }
        *self.acks.entry(op).or_default() |= 1 << index;
        while let Some(acks) = self.acks.get(&(self.commit_max + 1)) {
            if acks.count_ones() < u32::from(self.quorums.replication) {
                break;
            }
            self.commit_max += 1;
            let header = self.log[usize::try_from(self.commit_max).unwrap()];
            let before = self.committed.insert(self.commit_max, header);
            assert!(before.is_none_or(|before| before == header), "two at op {}", self.commit_max);
        }
    }

    /// A copy rots, its header too unless the superblock holds it; and a dirty write is torn.
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

    fn view_log(&self, index: usize) -> ViewLog {
        let member = &self.members[index];
        let op_min = member.op.saturating_sub(u64::from(P)).max(member.commit_max.min(member.op));
        let (mut present, mut nack, mut headers) = (0, 0, Vec::new());
        for (bit, op) in (op_min..=member.op).rev().enumerate() {
            let unknown = (None, if op == 0 { Slot::Clean } else { Slot::Hole });
            let (mut header, mut slot) = *member.slots.get(&op).unwrap_or(&unknown);
            let stored = member.stored.get(&op).copied();
            let above = headers.last().copied().flatten();
            let is_linked = header.is_some_and(|own| {
                above.is_some_and(|above: Header<Prepare>| above.parent_id() == own.id())
            });
            let is_certain = header.is_some_and(|own| own.view.0 == member.log_view) || is_linked;
            if header != stored && !is_certain && header.is_some() {
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
        let (log_view, commit_max) = (View(member.log_view), member.commit_max);
        ViewLog { log_view, commit_max, set, present, nack }
    }

    /// Asks these members, checks the answer against the truth; `None` without a log.
    fn select(&self, members: &[usize]) -> Option<Selected> {
        let logs: Vec<_> = members.iter().map(|index| self.view_log(*index)).collect();
        let selection = select_of(&logs, self.replica_count);
        if members.len() < usize::from(self.quorums.view_change) {
            assert_eq!(selection, Selection::AwaitingQuorum);
            return None;
        }
        let everybody = members.len() == usize::from(self.replica_count);
        match selection {
            Selection::Complete { op, commit_max, headers } => {
                assert!(op >= *self.committed.last_key_value().unwrap().0, "a committed op is cut");
                assert!(commit_max <= *self.committed.last_key_value().unwrap().0);
                for (op, header) in (0..=op).rev().zip(&headers) {
                    if let (Some(header), Some(committed)) = (header, self.committed.get(&op)) {
                        assert_eq!(header, committed, "a committed op is replaced");
                    }
                    let somewhere = self.members.iter().any(|member| {
                        member.slots.get(&op).is_some_and(|(own, slot)| {
                            *own == *header
                                && matches!(slot, Slot::Clean | Slot::Dirty { present: true })
                        })
                    });
                    assert!(op <= commit_max || (header.is_some() && somewhere), "nobody has it");
                }
                Some((op, commit_max, headers))
            }
            Selection::AwaitingRepair { op } => {
                assert!(!everybody);
                assert!(self.damaged.get(&op).is_some_and(|count| *count > 0), "op {op}");
                None
            }
            Selection::Stuck { op } => {
                let damaged = *self.damaged.get(&op).unwrap_or(&0);
                let lost = everybody && damaged >= self.quorums.replication;
                assert!(lost, "op {op} is not lost: {:#?}", self.members);
                None
            }
            Selection::AwaitingQuorum => panic!("a quorum spoke"),
        }
    }

    /// Whoever is asked, the truth comes out; then one of them begins a view, and some learn of it.
    fn change_view(&mut self, prng: &mut Prng) {
        let count = usize::from(self.replica_count);
        for subset in 0u32..1 << count {
            let members: Vec<_> = (0..count).filter(|index| subset >> index & 1 == 1).collect();
            self.select(&members);
        }
        let primary = prng.index(count);
        let members: Vec<_> =
            (0..count).filter(|index| *index == primary || prng.chance(Ratio::new(2, 3))).collect();
        let Some((op, commit_max, headers)) = self.select(&members) else { return };
        self.view += 1;
        self.primary = primary;
        self.commit_max = commit_max.max(self.members[primary].commit_max);
        self.acks.clear();
        // What is blank in the selection is committed: the new primary repairs it.
        self.log = (0..=op).map(|op| *self.committed.get(&op).unwrap_or(&self.log[0])).collect();
        for (op, header) in (0..=op).rev().zip(&headers) {
            if let Some(header) = header {
                self.log[usize::try_from(op).unwrap()] = *header;
            }
        }
        for index in 0..count {
            if index == primary || prng.chance(Ratio::new(1, 2)) {
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
                let faulty = matches!(slot.1, Slot::Rotten | Slot::Blank);
                let dirty = Slot::Dirty { present: false };
                *slot = (Some(*header), if faulty { Slot::Rotten } else { dirty });
            }
        }
        member.log_view = view;
        member.op = head;
        member.commit_max = member.commit_max.max(commit_max);
    }

    fn step(&mut self, prng: &mut Prng) {
        let count = usize::from(self.replica_count);
        let (index, op) = (prng.index(count), prng.range_inclusive(1, self.op().max(1)));
        match prng.below(16) {
            0..=3 => self.prepare(),
            4..=8 => self.receive(index, op),
            9..=12 => self.complete(index, op),
            13 => {
                if self.in_view(index) {
                    let member = &mut self.members[index];
                    member.commit_max = self.commit_max.max(member.commit_max);
                }
            }
            14 => self.rot(index, op),
            _ => self.change_view(prng),
        }
    }
}

#[test]
fn select_finds_the_truth_in_every_quorum_of_drawn_histories() {
    for seed in 0..3000 {
        let mut prng = Prng::from_seed(seed);
        let replica_count = u8::try_from(prng.range_inclusive(1, 5)).unwrap();
        let tolerated = u64::from(Quorums::new(replica_count).replication - 1);
        let rot_max = u8::try_from(prng.below(tolerated + 1)).unwrap();
        let mut model = Model::new(replica_count, rot_max);
        for _ in 0..prng.range_inclusive(5, 80) {
            model.step(&mut prng);
        }
        model.change_view(&mut prng);
    }
}
