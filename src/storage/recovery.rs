//! F2: what a slot is worth whose two rings were read: the decision table of recovery.
//!
//! The redundant header (ring of headers) is written after its prepare (ring of prepares) is
//! durable, and a prepare is acknowledged after both. So:
//!
//! * the header is there, the prepare is not: it was, and it may have been acknowledged: *damaged*;
//! * the prepare is there, the header is older: a crash came in between: *fix*;
//! * the prepare is bad and the header older: *torn*, if it is at the end of the log; nobody was
//!   promised anything, so the replica may say so, and the cluster can give it up;
//! * anything that contradicts this order is a disk that lied: *damaged*.
//!
//! *Stale* is what the superblock excludes: an op above its head of a view below its `log_view` was
//! cut when the log of that view was taken over. It proves nothing about the end of the log, and
//! where it is found whole it is dropped.
//!
//! Each row of [`TABLE`] says for which values of the columns it stands, what a replica with peers
//! decides, and what a lone one does, which has nobody to ask.
//!
//! **Invariants:** every case matches exactly one row; a slot whose acknowledged prepare is damaged
//! is never empty; a prepare that was not found whole never appears.
//!
//! **Not here:** which of two prepares of an op below the superblock's head belongs to the log.

use super::slot::{Redundant, Stored};
use super::{Geometry, SuperblockState};
use crate::constants::JOURNAL_WRITES_MAX;
use crate::stdx::defect;
use crate::wire::{ClusterId, Header, Op, Prepare, View};

/// Column: the entry of the headers ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Not an entry of this slot.
    Bad,
    /// The marker.
    Invalidated,
    /// The marker.
    Formatted,
    /// The marker.
    Truncated,
    /// A header of this slot.
    Header,
}

/// Column: the slot of the prepares ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// Nothing intact.
    Bad,
    /// The marker.
    Formatted,
    /// A whole prepare of this slot.
    Whole,
}

/// Column: the prepare that the entry names, compared with the whole one in the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// One of them names none.
    None,
    /// The same prepare.
    Same,
    /// The entry is of a lower op.
    Older,
    /// The entry is of a higher op.
    Newer,
    /// The same op, another prepare.
    Other,
}

/// The columns' values for one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The entry of the headers ring.
    pub entry: Entry,
    /// The slot of the prepares ring.
    pub body: Body,
    /// How they relate.
    pub relation: Relation,
    /// One of them is of an op that the checkpoint does not permit yet.
    pub beyond: bool,
    /// The whole prepare is not stale, and no header in either ring that is not is of a higher op.
    pub newest: bool,
}

/// What to make of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The prepare is there and clean.
    Keep,
    /// The prepare is there; its redundant header is to be written.
    Fix,
    /// The slot is empty.
    Nothing,
    /// The slot is empty; its marker is to be written.
    Reset,
    /// The slot is empty if it is beyond the end of the log, damaged if not.
    Torn,
    /// The slot is faulty. A lone replica cannot go on.
    Damaged,
}

/// One row of the table: the values for which it stands, and the decisions.
#[derive(Debug)]
pub struct Row {
    /// Its name.
    pub letter: char,
    entry: &'static [Entry],
    body: &'static [Body],
    relation: &'static [Relation],
    beyond: &'static [bool],
    newest: &'static [bool],
    /// With peers.
    pub many: Decision,
    /// Alone.
    pub one: Decision,
}

const ANY: &[bool] = &[false, true];
const NO: &[bool] = &[false];
const YES: &[bool] = &[true];
const ALL_ENTRIES: &[Entry] =
    &[Entry::Bad, Entry::Invalidated, Entry::Formatted, Entry::Truncated, Entry::Header];
const ALL_RELATIONS: &[Relation] =
    &[Relation::None, Relation::Same, Relation::Older, Relation::Newer, Relation::Other];
const DIFFERENT: &[Relation] = &[Relation::Older, Relation::Newer, Relation::Other];

macro_rules! row {
    ($letter:literal $entry:expr, $body:ident, $relation:expr, $beyond:ident, $newest:ident,
     $many:ident, $one:ident) => {
        Row {
            letter: $letter,
            entry: $entry,
            body: &[Body::$body],
            relation: $relation,
            beyond: $beyond,
            newest: $newest,
            many: Decision::$many,
            one: Decision::$one,
        }
    };
}

/// The decision table. The entry, the body, how they relate, beyond the checkpoint's reach, newest;
/// then what a replica with peers decides and what a lone one does.
#[rustfmt::skip]
pub const TABLE: &[Row] = {
    use Entry::{Bad, Formatted, Header, Invalidated, Truncated};
    use Relation::{Newer, None, Older, Other, Same};
    &[
        // Nothing is known; or what is known is that something was lost.
        row!('A' &[Bad, Invalidated],      Bad,       &[None],  ANY, ANY, Damaged, Damaged),
        // No header since the last truncation, or since format.
        row!('B' &[Formatted, Truncated],  Bad,       &[None],  ANY, ANY, Torn,    Torn),
        // Torn if the header is of the lap before, rotten if it is the slot's own.
        row!('C' &[Header],                Bad,       &[None],  NO,  ANY, Torn,    Torn),
        // An empty slot with a rotten header, or a lost write under one.
        row!('D' &[Bad],                   Formatted, &[None],  ANY, ANY, Damaged, Reset),
        row!('E' &[Invalidated],           Formatted, &[None],  ANY, ANY, Damaged, Damaged),
        // The header may have named another prepare; a lone replica has the hash chain to judge by.
        row!('F' &[Bad],                   Whole,     &[None],  NO,  NO,  Damaged, Fix),
        // The crash came while the header of the newest prepare was being written.
        row!('G' &[Bad],                   Whole,     &[None],  NO,  YES, Fix,     Fix),
        // The whole prepare may be the one before the one that was lost: never by itself.
        row!('H' &[Invalidated],           Whole,     &[None],  NO,  ANY, Damaged, Fix),
        // The crash came before the header.
        row!('I' &[Formatted],             Whole,     &[None],  NO,  ANY, Fix,     Fix),
        row!('J' &[Truncated],             Whole,     DIFFERENT, NO, ANY, Fix,     Fix),
        row!('K' &[Header],                Whole,     &[Older], NO,  ANY, Fix,     Fix),
        // Cut from the log.
        row!('L' &[Truncated],             Whole,     &[Same],  NO,  ANY, Nothing, Nothing),
        // Empty.
        row!('M' &[Formatted, Truncated],  Formatted, &[None],  ANY, ANY, Nothing, Nothing),
        // The header came after a prepare that is not there: a lost or misdirected write.
        row!('N' &[Header],                Formatted, &[None],  NO,  ANY, Damaged, Damaged),
        row!('O' &[Header],                Whole,     &[Newer], NO,  ANY, Damaged, Damaged),
        row!('P' &[Header],                Whole,     &[Other], NO,  ANY, Damaged, Damaged),
        // As it should be.
        row!('Q' &[Header],                Whole,     &[Same],  NO,  ANY, Keep,    Keep),
        // What no replica with this checkpoint wrote.
        row!('R' ALL_ENTRIES,              Whole,     ALL_RELATIONS, YES, ANY, Damaged, Damaged),
        Row {
            letter: 'S', entry: &[Header], body: &[Body::Bad, Body::Formatted], relation: &[None],
            beyond: YES, newest: ANY, many: Decision::Damaged, one: Decision::Damaged,
        },
    ]
};

impl Case {
    /// Whether such a slot can be: the columns are not independent.
    fn is_possible(&self) -> bool {
        let named = matches!(self.entry, Entry::Header | Entry::Truncated);
        let whole = self.body == Body::Whole;
        (self.relation != Relation::None) == (named && whole)
            && (!self.beyond || self.entry == Entry::Header || whole)
            && (!self.newest || whole)
    }

    /// The one row that stands for this case.
    pub fn row(&self) -> &'static Row {
        assert!(self.is_possible(), "{self:?}");
        TABLE.iter().find(|row| row.matches(self)).expect("the table is complete")
    }
}

impl Row {
    fn matches(&self, case: &Case) -> bool {
        self.entry.contains(&case.entry)
            && self.body.contains(&case.body)
            && self.relation.contains(&case.relation)
            && self.beyond.contains(&case.beyond)
            && self.newest.contains(&case.newest)
    }
}

/// One slot as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Scanned {
    /// The entry of the headers ring; `None` for a bad one.
    pub redundant: Option<Redundant>,
    /// The slot of the prepares ring. A prepare counts as whole, verified or not: the caller
    /// verifies all bodies that could decide anything.
    pub stored: Stored,
}

/// What becomes of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Clean.
    Keep,
    /// In the log; the redundant header is to be written.
    Fix,
    /// Empty; the disk stays as it is.
    Empty,
    /// Empty; the formatted marker is to be written.
    Reset,
    /// Empty, although a whole prepare is there, stale or above a torn one: the truncated marker is
    /// to be written.
    Drop,
    /// Faulty.
    Faulty,
}

/// What recovery made of a journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// For each slot.
    pub outcomes: Vec<Outcome>,
    /// Ops of writes that were torn, or lie above one that was, and were cut. None of them was
    /// ever acknowledged.
    pub cut_torn: Vec<Op>,
}

/// A lone replica's journal is damaged where it must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLost {
    /// The op that is lost.
    pub op: Op,
    /// Its slot.
    pub slot: u32,
    /// How it shows.
    pub what: String,
}

/// The frame in which slots are judged.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Of the data file.
    pub cluster: ClusterId,
    /// Of the data file.
    pub geometry: Geometry,
    /// The durable checkpoint.
    pub op_checkpoint: Op,
    /// The op of the superblock's head.
    pub op_head: Op,
    /// The superblock's.
    pub log_view: View,
}

impl Scanned {
    fn entry(&self) -> Option<&Header<Prepare>> {
        match &self.redundant {
            Some(Redundant::Header(header)) => Some(header),
            _ => None,
        }
    }

    /// The prepare that lies in the slot.
    pub fn prepare(&self) -> Option<&Header<Prepare>> {
        match &self.stored {
            Stored::Prepare { header, .. } => Some(header),
            _ => None,
        }
    }

    fn relation(&self) -> Relation {
        let named = match &self.redundant {
            Some(Redundant::Header(header)) => header.id(),
            Some(Redundant::Truncated(id)) => *id,
            _ => return Relation::None,
        };
        let Some(prepare) = self.prepare() else { return Relation::None };
        match named.op.cmp(&prepare.op()) {
            std::cmp::Ordering::Less => Relation::Older,
            std::cmp::Ordering::Greater => Relation::Newer,
            std::cmp::Ordering::Equal if named == prepare.id() => Relation::Same,
            std::cmp::Ordering::Equal => Relation::Other,
        }
    }

    fn case(&self, op_newest: Op, op_prepare_max: Op) -> Case {
        let entry = match &self.redundant {
            None => Entry::Bad,
            Some(Redundant::Invalidated) => Entry::Invalidated,
            Some(Redundant::Formatted) => Entry::Formatted,
            Some(Redundant::Truncated(_)) => Entry::Truncated,
            Some(Redundant::Header(_)) => Entry::Header,
        };
        let body = match &self.stored {
            Stored::Bad => Body::Bad,
            Stored::Formatted => Body::Formatted,
            Stored::Prepare { .. } => Body::Whole,
        };
        let beyond = |header: Option<&Header<Prepare>>| {
            header.is_some_and(|header| header.op() > op_prepare_max)
        };
        Case {
            entry,
            body,
            relation: self.relation(),
            beyond: beyond(self.entry()) || beyond(self.prepare()),
            newest: self.prepare().is_some_and(|header| header.op() == op_newest),
        }
    }
}

impl Frame {
    /// The frame that a superblock sets.
    pub fn of(state: &SuperblockState) -> Self {
        Self {
            cluster: state.cluster,
            geometry: state.geometry,
            op_checkpoint: state.op_checkpoint(),
            op_head: state.head.op,
            log_view: state.log_view,
        }
    }

    fn op_prepare_max(&self) -> Op {
        self.geometry.op_prepare_max(self.op_checkpoint)
    }

    /// Whether the superblock excludes this prepare.
    fn is_stale(&self, header: &Header<Prepare>) -> bool {
        let is_cut = header.op() > self.op_head && header.view < self.log_view;
        is_cut && !defect!("lost_log_kept")
    }

    /// The row of the table that stands for each slot.
    pub fn rows(&self, slots: &[Scanned]) -> Vec<&'static Row> {
        assert_eq!(slots.len(), self.geometry.journal_slots as usize);
        let headers = slots.iter().flat_map(|slot| [slot.entry(), slot.prepare()]);
        let counted = headers.flatten().filter(|header| !self.is_stale(header));
        let op_newest = counted.map(Header::op).max().unwrap_or(0);
        let op_prepare_max = self.op_prepare_max();
        assert!(self.op_checkpoint < op_prepare_max);
        slots.iter().map(|slot| slot.case(op_newest, op_prepare_max).row()).collect()
    }

    /// The op that slot `slot` may hold in the current lap: in (checkpoint, checkpoint + S].
    pub fn op_of_lap(&self, slot: u32) -> Op {
        let slots = u64::from(self.geometry.journal_slots);
        let base = self.op_checkpoint + 1;
        let distance = (u64::from(slot) + slots - base % slots) % slots;
        let op = base + distance;
        assert!(op <= self.op_prepare_max());
        assert_eq!(self.geometry.slot(op), slot);
        op
    }

    /// Judges all slots of a replica that has peers.
    pub fn recover_many(&self, slots: &[Scanned]) -> Recovery {
        let rows = self.rows(slots);
        // A prepare whose entry is bad may have been acknowledged before the entry was damaged, so
        // what is torn below it is not beyond the end of the log.
        let op_doubtful = (slots.iter().zip(&rows))
            .filter(|(slot, row)| slot.redundant.is_none() && row.many == Decision::Fix)
            .filter_map(|(slot, _)| slot.prepare().filter(|prepare| !self.is_stale(prepare)))
            .map(Header::op)
            .max();
        let op_trusted = self.op_trusted(slots, &[]).max(op_doubtful.unwrap_or(0));
        let range = op_trusted + 1..=self.op_prepare_max();
        let decision = |op: Op| rows[self.geometry.slot(op) as usize].many;
        let torn: Vec<Op> = range.clone().filter(|op| decision(*op) == Decision::Torn).collect();
        // Another fault up there may hide the true end of the log, so that what looks torn may lie
        // below it. More than can be in flight cannot have been torn by one crash.
        let certain = !range.clone().any(|op| decision(op) == Decision::Damaged)
            && torn.len() <= JOURNAL_WRITES_MAX as usize;
        let mut cut_torn = if certain { torn } else { Vec::new() };
        let mut outcomes: Vec<Outcome> =
            rows.iter().map(|row| outcome(row.many, Outcome::Faulty)).collect();
        for op in &cut_torn {
            outcomes[self.geometry.slot(*op) as usize] = Outcome::Empty;
        }
        for (slot, outcome) in slots.iter().zip(&mut outcomes) {
            let is_in_log = matches!(outcome, Outcome::Keep | Outcome::Fix);
            if is_in_log && slot.prepare().is_some_and(|prepare| self.is_stale(prepare)) {
                *outcome = Outcome::Drop;
            }
        }
        // With their headers written, the whole prepares above a torn one would make it look like
        // damage inside of the log the next time. They were not acknowledged, and their bodies
        // stay.
        if let Some(op_torn) = cut_torn.first() {
            for op in op_torn + 1..=self.op_prepare_max() {
                let slot = self.geometry.slot(op) as usize;
                let prepare = slots[slot].prepare().filter(|prepare| prepare.op() == op);
                if outcomes[slot] == Outcome::Fix && prepare.is_some() {
                    outcomes[slot] = Outcome::Drop;
                    cut_torn.push(op);
                }
            }
            cut_torn.sort_unstable();
        }
        self.assert_cut(&outcomes, &cut_torn, op_trusted);
        Recovery { outcomes, cut_torn }
    }

    /// What is cut lies above everything that is known to have been complete, and is gone.
    fn assert_cut(&self, outcomes: &[Outcome], cut_torn: &[Op], op_trusted: Op) {
        assert_eq!(outcomes.len(), self.geometry.journal_slots as usize);
        assert!(cut_torn.is_sorted());
        for op in cut_torn {
            assert!(*op > op_trusted);
            assert!(*op <= self.op_prepare_max());
            let outcome = outcomes[self.geometry.slot(*op) as usize];
            assert!(matches!(outcome, Outcome::Empty | Outcome::Drop | Outcome::Reset));
        }
    }

    /// Judges all slots of a lone replica. Its log ends where the hash chain of whole prepares
    /// ends, and that must not be below what the headers ring proves.
    ///
    /// # Errors
    /// Something that may have been acknowledged is damaged.
    pub fn recover_one(&self, slots: &[Scanned]) -> Result<Recovery, JournalLost> {
        let rows = self.rows(slots);
        let lost = |slot: u32, op: Op, what: String| Err(JournalLost { op, slot, what });
        for (slot, row) in (0..).zip(&rows) {
            if row.one == Decision::Damaged {
                let scanned = &slots[slot as usize];
                let op = scanned.entry().or(scanned.prepare()).map(Header::op);
                let op = op.unwrap_or(self.op_of_lap(slot));
                return lost(slot, op, format!("row {} of the recovery table", row.letter));
            }
        }
        let op_trusted = self.op_trusted(slots, &rows);
        let mut outcomes: Vec<Outcome> =
            rows.iter().map(|row| outcome(row.one, Outcome::Empty)).collect();
        let mut cut_torn = Vec::new();
        let mut previous = self.first_header(slots);
        let mut op_end = None;
        for op in self.op_checkpoint + 1..=self.op_prepare_max() {
            let slot = self.geometry.slot(op);
            let row = rows[slot as usize];
            let is_in_log = matches!(row.one, Decision::Keep | Decision::Fix);
            let found = slots[slot as usize].prepare().filter(|prepare| prepare.op() == op);
            let next = found.filter(|prepare| {
                let linked = previous.is_none_or(|last| prepare.parent_id() == last.id());
                is_in_log && linked && op_end.is_none() && !self.is_stale(prepare)
            });
            match next {
                Some(prepare) => previous = Some(*prepare),
                None if op <= op_trusted => {
                    let what = if row.one == Decision::Torn {
                        format!("row {} of the recovery table, inside the log", row.letter)
                    } else {
                        "the chain of prepares breaks".to_owned()
                    };
                    return lost(slot, op, what);
                }
                None => {
                    op_end.get_or_insert(op);
                    let is_cut = is_in_log && found.is_some();
                    if is_cut {
                        outcomes[slot as usize] = Outcome::Drop;
                    }
                    if is_cut || row.one == Decision::Torn {
                        cut_torn.push(op);
                    }
                }
            }
        }
        self.assert_cut(&outcomes, &cut_torn, op_trusted);
        assert!(!outcomes.contains(&Outcome::Faulty), "a lone replica has no faults");
        Ok(Recovery { outcomes, cut_torn })
    }

    /// The highest op that the headers ring proves to have been complete. Where the ring is bad
    /// (`rows` of a lone replica) the whole prepare beneath counts: it may have been.
    fn op_trusted(&self, slots: &[Scanned], rows: &[&Row]) -> Op {
        let entries = slots.iter().filter_map(Scanned::entry);
        let beneath = slots
            .iter()
            .zip(rows)
            .filter(|(slot, _)| matches!(slot.redundant, None | Some(Redundant::Invalidated)))
            .filter_map(|(slot, _)| slot.prepare());
        entries
            .chain(beneath)
            .filter(|header| !self.is_stale(header))
            .map(Header::op)
            .filter(|op| *op <= self.op_prepare_max())
            .max()
            .unwrap_or(0)
            .max(self.op_checkpoint)
    }

    /// The header of the checkpoint's op, as far as it is known.
    fn first_header(&self, slots: &[Scanned]) -> Option<Header<Prepare>> {
        if self.op_checkpoint == 0 {
            return Some(Header::root(self.cluster));
        }
        let slot = self.geometry.slot(self.op_checkpoint);
        let prepare = slots[slot as usize].prepare()?;
        (prepare.op() == self.op_checkpoint).then_some(*prepare)
    }
}

/// The outcome of a decision that needs no second look.
fn outcome(decision: Decision, torn: Outcome) -> Outcome {
    match decision {
        Decision::Keep => Outcome::Keep,
        Decision::Fix => Outcome::Fix,
        Decision::Nothing => Outcome::Empty,
        Decision::Reset => Outcome::Reset,
        Decision::Torn => torn,
        Decision::Damaged => Outcome::Faulty,
    }
}

#[cfg(test)]
#[path = "recovery_tests.rs"]
mod tests;
