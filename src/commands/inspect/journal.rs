//! F6: `vsr inspect journal`: what both rings of the log hold, what a replica makes of each slot,
//! which ops are there, and whether they are a chain.
//!
//! ```text
//!   outcome of recovery     told as                         damage?
//!   keep                    intact, or body damaged         no, or yes
//!   fix                     header to be written            only if the entry is damaged
//!   empty, reset            empty, torn or cut              only if the entry is damaged
//!   drop                    cut                             no
//!   faulty                  damaged                         yes
//! ```
//!
//! *Torn* and *cut* is what a crash leaves of writes that nobody was promised, so it is a note.
//!
//! **Not here:** the decisions (`storage::recovery`).

use super::report::{Place, Report, Section, Value};
use super::{Disk, answer, mended_by};
use std::collections::BTreeMap;
use vsr::constants::{HEADER_SIZE, JOURNAL_WRITES_MAX};
use vsr::storage::recovery::{Decision, Frame, Outcome};
use vsr::storage::slot::{Redundant, Stored};
use vsr::storage::survey::{JournalSurvey, SlotSurvey, Survey};
use vsr::storage::{Layout, SuperblockState};
use vsr::wire::{Header, Op, Prepare};

/// A journal as it was read.
pub(super) struct Journal<'a> {
    pub(super) survey: Survey,
    state: &'a SuperblockState,
    layout: Layout,
    /// The newest op in the log; 0 without any.
    op_max: Op,
}

/// What a slot is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotState {
    Intact,
    HeaderMissing,
    BodyDamaged,
    Empty,
    Torn,
    Cut,
    Damaged,
}

/// Reads the journal; all of it, if that is wanted.
pub(super) fn read<'a, D: Disk>(
    disk: &mut D,
    state: &'a SuperblockState,
    thorough: bool,
) -> Journal<'a> {
    let mut survey = JournalSurvey::new(state, thorough);
    while let Some(request) = survey.next_read() {
        let result = answer(disk, &request);
        survey.on_read_done(&result);
        let (done, all) = survey.progress();
        disk.progress("journal", done, all);
    }
    let layout = Layout::new(state.geometry);
    let mut journal = Journal { survey: survey.finish(), state, layout, op_max: 0 };
    journal.op_max = journal.log().keys().last().copied().unwrap_or(0);
    journal
}

impl SlotState {
    /// `op_checkpoint` tells a prepare that is lost from one of the lap before, where a lone
    /// replica does not open the file and so decides nothing.
    fn of(slot: &SlotSurvey, op_checkpoint: Op) -> Self {
        if let (None, Stored::Bad, Some(Redundant::Header(header))) =
            (slot.outcome, slot.stored, &slot.redundant)
            && header.op() > op_checkpoint
        {
            return Self::Damaged;
        }
        let empty = match slot.stored {
            Stored::Bad => Self::Torn,
            Stored::Formatted => Self::Empty,
            Stored::Prepare { .. } => Self::Cut,
        };
        match (slot.outcome, slot.row.one) {
            (Some(Outcome::Keep), _) | (None, Decision::Keep) => {
                if slot.is_body_damaged {
                    Self::BodyDamaged
                } else {
                    Self::Intact
                }
            }
            (Some(Outcome::Fix), _) | (None, Decision::Fix) => Self::HeaderMissing,
            (Some(Outcome::Empty | Outcome::Reset | Outcome::Drop), _)
            | (None, Decision::Nothing | Decision::Reset | Decision::Torn) => empty,
            (Some(Outcome::Faulty), _) | (None, Decision::Damaged) => Self::Damaged,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Intact => "intact",
            Self::HeaderMissing => "intact, header to be written",
            Self::BodyDamaged => "body damaged",
            Self::Empty => "empty",
            Self::Torn => "torn",
            Self::Cut => "cut",
            Self::Damaged => "damaged",
        }
    }

    /// Whether its prepare is in the log.
    pub(super) fn is_in_log(self) -> bool {
        matches!(self, Self::Intact | Self::HeaderMissing | Self::BodyDamaged)
    }
}

/// The prepare in a slot, verified as far as it was read.
pub(super) fn prepare(slot: &SlotSurvey) -> Option<&Header<Prepare>> {
    match &slot.stored {
        Stored::Prepare { header, .. } => Some(header),
        _ => None,
    }
}

/// What the headers ring says of a slot.
pub(super) fn entry_text(slot: &SlotSurvey) -> String {
    match &slot.redundant {
        None => "damaged".to_owned(),
        Some(Redundant::Formatted) => "formatted".to_owned(),
        Some(Redundant::Invalidated) => "invalidated".to_owned(),
        Some(Redundant::Truncated(id)) if id.op == 0 => "truncated".to_owned(),
        Some(Redundant::Truncated(id)) => format!("truncated op {} view {}", id.op, id.view),
        Some(Redundant::Header(header)) => format!("op {} view {}", header.op(), header.view),
    }
}

/// What the prepares ring holds in a slot.
pub(super) fn stored_text(slot: &SlotSurvey) -> String {
    match &slot.stored {
        Stored::Bad => "damaged".to_owned(),
        Stored::Formatted => "formatted".to_owned(),
        Stored::Prepare { header, .. } => format!("op {} view {}", header.op(), header.view),
    }
}

impl Journal<'_> {
    /// The state of a slot.
    pub(super) fn state(&self, index: u32) -> SlotState {
        let slot = &self.survey.slots[index as usize];
        let op_checkpoint = self.state.op_checkpoint();
        let state = SlotState::of(slot, op_checkpoint);
        // What is further ahead than can be in flight was not being written: then what lay there
        // before is damaged. To a replica both are one, and nothing is lost by either.
        let op_torn_max = self.op_max.max(op_checkpoint) + u64::from(JOURNAL_WRITES_MAX);
        let is_ahead = Frame::of(self.state).op_of_lap(index) > op_torn_max;
        if state == SlotState::Torn && is_ahead { SlotState::Damaged } else { state }
    }

    fn slots(&self) -> impl Iterator<Item = (u32, &SlotSurvey)> {
        (0..).zip(&self.survey.slots)
    }

    /// The prepares in the log, by op.
    pub(super) fn log(&self) -> BTreeMap<Op, (u32, &Header<Prepare>)> {
        self.slots()
            .filter(|(index, _)| self.state(*index).is_in_log())
            .filter_map(|(index, slot)| prepare(slot).map(|header| (header.op(), (index, header))))
            .collect()
    }

    /// The highest op that this file proves to be committed.
    pub(super) fn commit_known(&self) -> Op {
        let log = self.log();
        let commits = log.values().map(|(_, header)| header.command.commit);
        commits.max().unwrap_or(0).max(self.state.commit_max)
    }

    /// The op that a slot is for, as far as it can be told.
    fn op(&self, index: u32) -> Op {
        let slot = &self.survey.slots[index as usize];
        match (&slot.redundant, prepare(slot)) {
            (_, Some(header)) | (Some(Redundant::Header(header)), None) => header.op(),
            _ => Frame::of(self.state).op_of_lap(index),
        }
    }

    /// Ops that follow each other and are in the same state, as `(first, last, state)`.
    pub(super) fn ranges(&self) -> Vec<(Op, Op, SlotState)> {
        let mut ops: Vec<(Op, SlotState)> = self
            .slots()
            .map(|(index, _)| (self.op(index), self.state(index)))
            .filter(|(_, state)| state.is_in_log() || *state == SlotState::Damaged)
            .collect();
        ops.sort_unstable_by_key(|(op, _)| *op);
        let mut ranges: Vec<(Op, Op, SlotState)> = Vec::new();
        for (op, state) in ops {
            match ranges.last_mut() {
                Some((_, last, of)) if *last + 1 == op && *of == state => *last = op,
                _ => ranges.push((op, op, state)),
            }
        }
        ranges
    }

    /// Tells of the journal, slot by slot if `all` are wanted.
    pub(super) fn show(&self, all: bool, report: &mut Report) {
        let log = self.log();
        let count = |state: SlotState| {
            self.slots().filter(|(index, _)| self.state(*index) == state).count() as u64
        };
        let op_checkpoint = self.state.op_checkpoint();
        let op_prepare_max = self.state.geometry.op_prepare_max(op_checkpoint);
        let mut section = Section::new("journal");
        section.fact("journal_slots", self.state.geometry.journal_slots);
        section.fact("op_checkpoint", op_checkpoint);
        section.remarked("op_prepare_max", op_prepare_max, "(what fits above the checkpoint)");
        section.remarked("op_head", self.state.head.op, "(of the superblock)");
        section.remarked("op_max", log.keys().last().copied(), "(the newest in the log)");
        section.fact("commit_max", self.commit_known());
        section.fact("slots_in_log", log.len() as u64);
        section.fact("slots_empty", count(SlotState::Empty));
        section.fact("slots_cut", count(SlotState::Torn) + count(SlotState::Cut));
        let damaged = count(SlotState::Damaged) + count(SlotState::BodyDamaged);
        section.fact("slots_damaged", damaged);
        let broken = chain_breaks(&log);
        let links = log.keys().filter(|op| log.contains_key(&(*op + 1))).count() as u64;
        section.remarked("chain_links", links, "(each op with the one before it)");
        section.fact("chain_breaks", broken.len() as u64);
        let rows = self.ranges().into_iter().map(|(first, last, state)| {
            vec![first.into(), last.into(), (last - first + 1).into(), state.name().into()]
        });
        section.table("ranges", &["op_min", "op_max", "count", "state"], rows.collect());
        if all {
            let columns = &["slot", "offset", "headers_ring", "prepares_ring", "row", "state"];
            section.table("slots", columns, self.slots().map(|slot| self.row(slot)).collect());
        }
        report.section(section);
        self.find(&broken, report);
    }

    fn row(&self, (index, slot): (u32, &SlotSurvey)) -> Vec<Value> {
        vec![
            index.into(),
            self.layout.prepare_offset(index).into(),
            entry_text(slot).into(),
            stored_text(slot).into(),
            slot.row.letter.to_string().into(),
            self.state(index).name().into(),
        ]
    }

    fn place(&self, index: u32, of_entry: bool) -> Place {
        let op = self.op(index);
        let offset = if of_entry {
            self.layout.headers_offset(0) + u64::from(index) * u64::from(HEADER_SIZE)
        } else {
            self.layout.prepare_offset(index)
        };
        Place { zone: "journal", what: format!("slot {index} (op {op})"), offset }
    }

    /// Tells of damages, and of what a crash left behind.
    pub(super) fn find(&self, chain_breaks: &[Op], report: &mut Report) {
        if let Some(lost) = &self.survey.lost {
            let what =
                format!("op {} is damaged ({}) and may have been acknowledged", lost.op, lost.what);
            report.damage(self.place(lost.slot, false), what, mended_by(self.state));
        }
        for (index, slot) in self.slots() {
            if self.survey.lost.as_ref().is_none_or(|lost| lost.slot != index) {
                self.find_in_slot(index, slot, report);
            }
        }
        for op in chain_breaks {
            let place = self.place(self.state.geometry.slot(*op), false);
            let what = format!("does not follow op {} of this log", op - 1);
            let meaning = "one of them is of an older view: replaced from the others";
            report.note(place, what, meaning);
        }
    }

    fn find_in_slot(&self, index: u32, slot: &SlotSurvey, report: &mut Report) {
        let is_in_checkpoint = self.op(index) <= self.state.op_checkpoint();
        match self.state(index) {
            SlotState::Damaged => {
                let (entry, stored) = (entry_text(slot), stored_text(slot));
                let what = format!(
                    "the headers ring says {entry}, the prepares ring {stored} (row {})",
                    slot.row.letter
                );
                let is_void =
                    matches!(slot.redundant, Some(Redundant::Formatted | Redundant::Truncated(_)));
                let meaning = if is_in_checkpoint {
                    "not needed here, the checkpoint has it"
                } else if is_void {
                    "nothing of the log was in it: nothing is lost"
                } else {
                    mended_by(self.state)
                };
                report.damage(self.place(index, slot.redundant.is_none()), what, meaning);
                return;
            }
            SlotState::BodyDamaged => {
                let meaning = "not needed here, the checkpoint has it";
                report.damage(self.place(index, false), "its body is damaged", meaning);
            }
            SlotState::Torn => {
                let what = "holds no whole prepare";
                let meaning = "a write that a crash interrupted: cut, nobody was promised it";
                report.note(self.place(index, false), what, meaning);
            }
            SlotState::HeaderMissing if slot.redundant.is_some() => {
                let what = "its header is not in the headers ring yet";
                let meaning = "a crash came between the two: written at the next start";
                report.note(self.place(index, true), what, meaning);
            }
            SlotState::Cut => {
                let what = format!("holds {}, which is not in the log", stored_text(slot));
                let meaning = "cut: it was never committed";
                report.note(self.place(index, false), what, meaning);
            }
            SlotState::Intact | SlotState::HeaderMissing | SlotState::Empty => {}
        }
        if slot.redundant.is_none() {
            let what = "its entry in the headers ring is damaged";
            report.damage(self.place(index, true), what, "a replica writes it anew at its start");
        }
    }
}

/// Ops whose parent is not the op before them.
pub(super) fn chain_breaks(log: &BTreeMap<Op, (u32, &Header<Prepare>)>) -> Vec<Op> {
    let broken = log.iter().filter(|(op, (_, header))| {
        let before = op.checked_sub(1).and_then(|before| log.get(&before));
        before.is_some_and(|(_, before)| header.parent_id() != before.id())
    });
    broken.map(|(op, _)| *op).collect()
}
