//! F6: `vsr inspect integrity`: everything that counts, every byte of it.
//!
//! ```text
//!   superblock ─► journal, all bodies ─► checkpoint ─► the one before ─► free set ─► the rest
//!                                        all blocks    those not shared  agrees?    of the grid
//! ```
//!
//! The checkpoint before the newest one is kept for replicas that are taking it over, until the
//! newest is proven: from then on its blocks may be used again, at any time, and so are not damage.
//!
//! In the rest of the grid lies what was written since the checkpoint, and what older ones left
//! behind. It is counted, and nothing there counts.
//!
//! **Not here:** what each part has to be (`journal`, `checkpoint`).

use super::checkpoint::{self, Role};
use super::report::{Place, Report, Section};
use super::{Disk, journal};
use vsr::constants::{HEADER_SIZE, SECTOR_SIZE};
use vsr::storage::SuperblockState;
use vsr::storage::recovery::Outcome;
use vsr::store::survey::{CheckpointSurvey, Disagreement};
use vsr::wire::{Command, Header, Op};

/// The largest read of the rest of the grid, bytes.
const READ_SIZE: u32 = 1 << 20;

/// What lies where no checkpoint has anything.
#[derive(Debug, Default)]
struct Rest {
    /// Blocks of the interval since the newest checkpoint.
    newer: u64,
    /// Blocks of older checkpoints.
    older: u64,
    /// Never written.
    zero: u64,
    /// Anything else.
    other: u64,
}

/// Verifies all that the superblock `state` speaks of. The superblock itself was.
pub(super) fn show<D: Disk>(disk: &mut D, state: &SuperblockState, report: &mut Report) {
    let journal = journal::read(disk, state, true);
    let commit_known = journal.commit_known();
    show_journal(&journal, state, report);
    let mut section = Section::new("grid");
    let Some(mut survey) = checkpoint::survey(state, disk.size()) else {
        section.remarked("op_checkpoint", 0_u32, "(none yet)");
        return report.section(section);
    };
    let missing = checkpoint::read(disk, &mut survey, state, Role::Current, report);
    section.fact("op_checkpoint", state.checkpoint.op);
    section.fact("blocks_sound", survey.blocks_sound_all());
    section.fact("blocks_missing", missing);
    let rest = rest(disk, &survey, state.checkpoint.op);
    show_before(disk, &survey, state, commit_known, &mut section, report);
    if let Some(rest) = rest {
        section.remarked("unused_newer", rest.newer, "(blocks written since the checkpoint)");
        section.remarked("unused_older", rest.older, "(blocks that older checkpoints left)");
        section.remarked("unused_zero", rest.zero, "(blocks never written)");
        section.remarked("unused_other", rest.other, "(torn writes of such blocks)");
    }
    report.section(section);
    checkpoint::note_missing(&survey, missing, report);
}

fn show_journal(journal: &journal::Journal<'_>, state: &SuperblockState, report: &mut Report) {
    let log = journal.log();
    let broken = journal::chain_breaks(&log);
    let mut section = Section::new("journal");
    section.fact("journal_slots", state.geometry.journal_slots);
    section.fact("op_min", log.keys().next().copied());
    section.fact("op_max", log.keys().last().copied());
    section.fact("slots_in_log", log.len() as u64);
    let outcomes = journal.survey.slots.iter().filter(|slot| slot.outcome == Some(Outcome::Faulty));
    section.fact("slots_faulty", outcomes.count() as u64);
    report.section(section);
    journal.find(&broken, report);
}

/// The checkpoint before, and whether the free set agrees with both.
fn show_before<D: Disk>(
    disk: &mut D,
    survey: &CheckpointSurvey<'_>,
    state: &SuperblockState,
    commit_known: Op,
    section: &mut Section,
    report: &mut Report,
) {
    let before = state.checkpoint_previous;
    let is_proven = state.geometry.is_proven(state.checkpoint.op, commit_known);
    let role = if is_proven { Role::BeforeUnneeded } else { Role::Before };
    let mut disagreements = 0;
    if before.is_none() {
        survey.compare(None, |index, what| {
            disagreements += u64::from(tell_disagreement(survey, index, what, true, report));
        });
    } else {
        let mut of_before = CheckpointSurvey::of_before(survey, before);
        let gone = checkpoint::read(disk, &mut of_before, state, role, report);
        let remark = if is_proven { "(no longer needed)" } else { "" };
        section.remarked("op_checkpoint_previous", before.op, remark);
        section.remarked("blocks_previous", of_before.blocks_sound_all(), "(not shared)");
        section.fact("blocks_previous_gone", gone);
        survey.compare(Some(&of_before), |index, what| {
            let told = tell_disagreement(survey, index, what, !is_proven, report);
            disagreements += u64::from(told);
        });
    }
    section.fact("free_set_disagreements", disagreements);
}

/// Whether it is damage. What is kept for the checkpoint before matters only while that is needed.
fn tell_disagreement(
    survey: &CheckpointSurvey<'_>,
    index: u32,
    what: Disagreement,
    is_before_needed: bool,
    report: &mut Report,
) -> bool {
    let text = match what {
        Disagreement::ReferencedAndFree => "the checkpoint refers to it, and its place is free",
        Disagreement::Leaked => "leaked: its place is in use, and nothing refers to it",
        Disagreement::FreedTooEarly | Disagreement::KeptInVain if !is_before_needed => {
            return false;
        }
        Disagreement::FreedTooEarly => "the checkpoint before refers to it, and its place is free",
        Disagreement::KeptInVain => {
            "leaked: its place is kept for the checkpoint before, which does not refer to it"
        }
    };
    let place =
        Place { zone: "grid", what: format!("block {index}"), offset: survey.offset_of(index) };
    report.damage(place, text, "no disk does this: keep the file and report it");
    true
}

/// Reads what is free in the checkpoint; `None` without its free set.
fn rest<D: Disk>(disk: &mut D, survey: &CheckpointSurvey<'_>, op: Op) -> Option<Rest> {
    let free_set = survey.free_set()?;
    let block_size = survey.block_size();
    let run_max = READ_SIZE / block_size;
    let end = u32::try_from(survey.blocks_count()).unwrap_or(u32::MAX);
    let mut rest = Rest::default();
    let mut index = 0;
    while index < end {
        if !free_set.is_free(index) {
            index += 1;
            continue;
        }
        let run = (index..end).take(run_max as usize).take_while(|index| free_set.is_free(*index));
        let count = u32::try_from(run.count()).expect("at most a mebibyte of blocks");
        let result = disk.read(survey.offset_of(index), count * block_size);
        for block in result.buffer.as_ref().chunks_exact(block_size as usize) {
            rest.count(block, op);
        }
        index += count;
        disk.progress("rest of the grid", u64::from(index), u64::from(end));
    }
    Some(rest)
}

impl Rest {
    fn count(&mut self, block: &[u8], op: Op) {
        assert!(block.len() >= SECTOR_SIZE as usize);
        let first: &[u8; HEADER_SIZE as usize] = block.first_chunk().expect("a sector or more");
        match Header::decode(first).map(|header| header.command) {
            Ok(Command::Block(header)) if header.checkpoint_op > op => self.newer += 1,
            Ok(Command::Block(_)) => self.older += 1,
            _ if block.iter().all(|byte| *byte == 0) => self.zero += 1,
            _ => self.other += 1,
        }
    }
}
