//! F6: `vsr inspect checkpoint`: the root of the newest checkpoint, what is in its tables, and what
//! of the grid is in use.
//!
//! A replica that takes a checkpoint over from the others has not got all of its blocks. Which of
//! them are not here yet and which are damaged cannot be told apart, and is no matter: it looks for
//! all of them when it starts. So they are counted, and not called damaged.
//!
//! **Not here:** what a sound checkpoint is (`store::survey`); where two differ (`against`).

use super::report::{Place, Report, Section};
use super::{Disk, answer, mended_by, words};
use vsr::storage::SuperblockState;
use vsr::storage::block::BlockKind;
use vsr::store::survey::{CheckpointSurvey, Fault, RootSurvey, TableSurvey, Visit};
use vsr::wire::BlockRef;

/// The kinds of blocks, and the names of their counts.
const KINDS: [(BlockKind, &str, &str); 7] = [
    (BlockKind::Checkpoint, "blocks_root", "root"),
    (BlockKind::FreeSet, "blocks_free_set", "free set"),
    (BlockKind::FreeSetIndex, "blocks_free_set_index", "free set index"),
    (BlockKind::Leaf, "blocks_leaf", "leaf"),
    (BlockKind::Inner, "blocks_inner", "inner node"),
    (BlockKind::Value, "blocks_value", "part of a large value"),
    (BlockKind::ValueIndex, "blocks_value_index", "index of a large value"),
];

/// What a block of this kind is, as text.
pub(super) fn kind_name(kind: BlockKind) -> &'static str {
    KINDS.iter().find(|(of, _, _)| *of == kind).expect("all kinds have a name").2
}

/// What the faults of a checkpoint amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// The one that a replica goes on from.
    Current,
    /// The one before it, which others may still want.
    Before,
    /// The same, when nobody wants it any more.
    BeforeUnneeded,
}

/// Reads a checkpoint to the end, and tells of its faults; how many of them are no damage.
pub(super) fn read<D: Disk>(
    disk: &mut D,
    survey: &mut CheckpointSurvey<'_>,
    state: &SuperblockState,
    role: Role,
    report: &mut Report,
) -> u64 {
    read_each(disk, survey, state, role, report, |_| {})
}

/// The same, and `visit` is told of each block that it comes to.
pub(super) fn read_each<D: Disk>(
    disk: &mut D,
    survey: &mut CheckpointSurvey<'_>,
    state: &SuperblockState,
    role: Role,
    report: &mut Report,
    mut visit: impl FnMut(&Visit),
) -> u64 {
    let mut faults_silent = 0;
    let mut read_count = 0;
    let estimate = survey.blocks_count();
    loop {
        let request = survey.next_read();
        for fault in survey.take_faults() {
            let is_expected =
                role == Role::BeforeUnneeded || role == Role::Current && state.is_syncing();
            if is_expected {
                faults_silent += 1;
            } else {
                tell_fault(survey, &fault, state, role, report);
            }
        }
        let Some(request) = request else { break };
        visit(&survey.visit().expect("its read is in flight"));
        let result = answer(disk, &request);
        survey.on_read_done(result);
        read_count += 1;
        disk.progress("grid", read_count, estimate);
    }
    faults_silent
}

fn tell_fault(
    survey: &CheckpointSurvey<'_>,
    fault: &Fault,
    state: &SuperblockState,
    role: Role,
    report: &mut Report,
) {
    let BlockRef { index, op, .. } = fault.reference;
    let name = kind_name(fault.kind);
    let of = if role == Role::Current { "checkpoint" } else { "checkpoint before, " };
    let place = Place {
        zone: "grid",
        what: format!("block {index} ({name} of op {op}, {of} {})", survey.checkpoint().op),
        offset: survey.offset_of(index),
    };
    let meaning = match role {
        Role::Current => mended_by(state),
        Role::Before | Role::BeforeUnneeded => {
            "only a replica that takes over that checkpoint needs it: it asks another one"
        }
    };
    report.damage(place, fault.what, meaning);
}

/// The survey of the newest checkpoint, not begun; `None` if there is none.
pub(super) fn survey(state: &SuperblockState, file_size: u64) -> Option<CheckpointSurvey<'static>> {
    let (checkpoint, before) = (state.checkpoint, state.checkpoint_previous);
    (!checkpoint.is_none()).then(|| {
        CheckpointSurvey::new(state.cluster, state.geometry, file_size, checkpoint, before)
    })
}

/// Tells of the newest checkpoint.
pub(super) fn show<D: Disk>(disk: &mut D, state: &SuperblockState, report: &mut Report) {
    let Some(mut survey) = survey(state, disk.size()) else {
        let mut section = Section::new("checkpoint");
        section.remarked("op_checkpoint", 0_u32, "(none yet)");
        return report.section(section);
    };
    let missing = read(disk, &mut survey, state, Role::Current, report);
    report.section(section(&survey));
    note_missing(&survey, missing, report);
}

/// What is still to be fetched by a replica that takes a checkpoint over.
pub(super) fn note_missing(survey: &CheckpointSurvey<'_>, missing: u64, report: &mut Report) {
    if missing == 0 {
        return;
    }
    let BlockRef { index, op, .. } = survey.checkpoint();
    let place =
        Place { zone: "grid", what: format!("checkpoint {op}"), offset: survey.offset_of(index) };
    let what = format!("{missing} of its blocks are not here, and what is beneath them");
    report.note(place, what, "it is being taken over: the replica fetches them from the others");
}

/// A checkpoint that was read to the end.
pub(super) fn section(survey: &CheckpointSurvey<'_>) -> Section {
    let mut section = Section::new("checkpoint");
    let checkpoint = survey.checkpoint();
    section.fact("op_checkpoint", checkpoint.op);
    section.fact("checkpoint_id", format!("{:032x}", checkpoint.checkpoint_id()));
    let offset = survey.offset_of(checkpoint.index);
    section.remarked("root_block", checkpoint.index, format_args!("(byte {offset})"));
    if let Some(root) = survey.root() {
        show_root(root, &mut section);
    }
    for (kind, name, _) in KINDS {
        section.fact(name, survey.blocks_sound(kind));
    }
    let block_size = u64::from(survey.block_size());
    let bytes = |blocks: u64| format!("({} KiB)", (blocks * block_size) >> 10);
    let sound = survey.blocks_sound_all();
    section.remarked("blocks_sound", sound, bytes(sound));
    section.fact("faults", survey.faults_count());
    let blocks = survey.blocks_count();
    section.remarked("grid_blocks", blocks, bytes(blocks));
    if let Some(free_set) = survey.free_set() {
        let used = u64::from(free_set.used_count());
        section.remarked("grid_blocks_used", used, bytes(used));
        let free = blocks.saturating_sub(used);
        section.remarked("grid_blocks_free", free, bytes(free));
    }
    let rows = survey.tables().map(|(table, counts)| {
        let TableSurvey { records_count, key_bytes, value_bytes, large_count } = *counts;
        vec![
            table.0.into(),
            words::table_name(table.0).into(),
            records_count.into(),
            key_bytes.into(),
            value_bytes.into(),
            large_count.into(),
        ]
    });
    let columns = &["table", "name", "records", "key_bytes", "value_bytes", "large_values"];
    section.table("tables", columns, rows.collect());
    section
}

fn show_root(root: &RootSurvey, section: &mut Section) {
    if let Some(header) = &root.header {
        section.remarked("header_op", header.op(), format_args!("of view {}", header.view));
        let timestamp = header.command.timestamp;
        section.remarked("timestamp", timestamp, format_args!("({})", words::time(timestamp)));
    }
    if let Some(before) = root.extra.first_chunk().map(BlockRef::decode) {
        let known = (!before.is_none()).then(|| format!("{:032x}", before.checkpoint_id()));
        section.fact("op_checkpoint_previous", before.op);
        section.fact("checkpoint_id_previous", known);
    }
    section.fact("tree_block", (root.height > 0).then_some(root.tree.index));
    section.remarked("tree_height", root.height, "levels");
    section.fact("free_set_block", root.free_set.index);
    section.fact("records", root.records_count);
    section.fact("digest", format!("{:016x}", root.digest));
}
