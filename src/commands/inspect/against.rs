//! F6: `vsr inspect checkpoint PATH --against OTHER_PATH`: where the checkpoint of one replica
//! differs from that of another, down to the block and the key.
//!
//! ```text
//!   newest and before, here ──┐   the newest op that both have a checkpoint of
//!   newest and before, there ─┴─► else the newest of each: what both still have at one place
//!                                      │
//!              survey, Outline ◄───────┤ each file, all blocks verified
//!              survey, Outline ◄───────┘
//!                 └► compare ──► causes: told one by one, with what differs in them
//!   of one op: both trees, record by record ──► the first of them as a table
//! ```
//!
//! Checkpoints of one op that differ have one cause, as a rule, and many blocks above it. If the
//! two gave out places differently, they have little in common at the same place, and the records
//! tell more than the blocks.
//!
//! The checkpoint before the newest one loses its blocks when the newest is proven: what is gone is
//! no damage, and if its root is gone it is not compared at all.
//!
//! **Invariants:** nothing is written; without damage and with the same identity nothing differs;
//! two identities of one op are a difference, whatever can be read.
//!
//! **Not here:** what differs (`store::difference`, `store::tree_difference`); which of the two is
//! right: the checksums of both are.

use super::checkpoint::{self, Role, kind_name};
use super::report::{Place, Report, Section, Value};
use super::{Disk, answer, fatal_of, superblock, words};
use crate::commands::Exit;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vsr::fatal::{Fatal, FatalKind};
use vsr::storage::block::{BlockKind, StoredBlock};
use vsr::storage::{Layout, ReadResult, SuperblockState};
use vsr::store::difference::{self, Comparison, Contrast, Outline, RecordContrast};
use vsr::store::survey::CheckpointSurvey;
use vsr::store::tree_difference::TreeDifference;
use vsr::wire::BlockRef;

/// What the two files are called in what is told.
const SIDES: [&str; 2] = ["here", "there"];
/// Causes that are looked into.
const CAUSES_MAX: usize = 1000;
/// Records that are told one by one.
const RECORDS_MAX: usize = 20;

/// Which checkpoints are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pair {
    checkpoints: [BlockRef; 2],
    /// Not the newest of its file.
    is_before: [bool; 2],
}

impl Pair {
    fn is_of_one_op(&self) -> bool {
        self.checkpoints[0].op == self.checkpoints[1].op
    }
}

/// A checkpoint that was read to the end.
struct Seen {
    survey: CheckpointSurvey<'static>,
    outline: Outline,
    /// Faults that are no damage.
    gone_count: u64,
}

/// The records in which two trees differ.
#[derive(Debug, Default)]
struct Records {
    count: u64,
    /// The first of them.
    first: Vec<RecordContrast>,
    /// The first of each leaf that is a cause.
    by_leaf: BTreeMap<u32, RecordContrast>,
    gaps_count: u64,
}

/// Compares the newest checkpoint of the first file with that of the second.
pub(super) fn inspect<D: Disk>(
    mut disks: [&mut D; 2],
    paths: [&Path; 2],
    report: &mut Report,
) -> Result<Exit, Fatal> {
    let states = [
        read_state(disks[0], SIDES[0], paths[0], report)?,
        read_state(disks[1], SIDES[1], paths[1], report)?,
    ];
    if let Some(text) = mismatch([&states[0], &states[1]]) {
        let [here, there] = paths.map(Path::display);
        let text = format!("{here} and {there} cannot be compared: {text}");
        return Err(Fatal::new(FatalKind::Mismatch, text));
    }
    match choose(&mut disks, &states) {
        None => {
            let mut section = Section::new("comparison");
            let remark = "(not each of the files has a checkpoint)";
            section.remarked("op_compared", Value::None, remark);
            show_files(&states, paths, &mut section);
            report.section(section);
        }
        Some(pair) => compare(&mut disks, &states, paths, &pair, report),
    }
    let is_clean = report.damages_count() == 0 && report.differences_count() == 0;
    Ok(if is_clean { Exit::Done } else { Exit::Damaged })
}

fn read_state<D: Disk>(
    disk: &mut D,
    side: &'static str,
    path: &Path,
    report: &mut Report,
) -> Result<SuperblockState, Fatal> {
    let superblock = superblock::read(disk);
    let selected = superblock.selected().cloned();
    let mut own = Report::default();
    match &selected {
        Ok(state) => superblock::find_truncated(state, disk.size(), &mut own),
        Err(_) => superblock.show(disk.size(), false, &mut own),
    }
    report.absorb(own, side);
    selected.map_err(|fatal| fatal_of(path, &fatal))
}

/// Why two files are not of one cluster.
fn mismatch([here, there]: [&SuperblockState; 2]) -> Option<String> {
    const REMEDY: &str = "only files of one cluster can be: check the paths";
    if here.cluster != there.cluster {
        let (here, there) = (here.cluster, there.cluster);
        return Some(format!("the cluster is {here} here and {there} there; {REMEDY}"));
    }
    if here.replica_count != there.replica_count {
        let (here, there) = (here.replica_count, there.replica_count);
        return Some(format!("there are {here} replicas here and {there} there; {REMEDY}"));
    }
    let fields = [
        ("message size", here.geometry.message_size, there.geometry.message_size),
        ("number of journal slots", here.geometry.journal_slots, there.geometry.journal_slots),
        ("block size", here.geometry.block_size, there.geometry.block_size),
        ("pipeline", here.geometry.pipeline, there.geometry.pipeline),
        ("number of sessions", here.geometry.clients_max, there.geometry.clients_max),
    ];
    if let Some((name, here, there)) = fields.iter().find(|(_, here, there)| here != there) {
        return Some(format!("the {name} is {here} here and {there} there; {REMEDY}"));
    }
    assert_eq!(here.geometry, there.geometry);
    let tables = [&here.head.table, &there.head.table];
    let [one, other] = tables.map(|table| &table.incarnations[..usize::from(here.replica_count)]);
    let is_known = tables.iter().all(|table| table.op > 0);
    let is_stranger = one.iter().zip(other).all(|(one, other)| one != other);
    (is_known && is_stranger).then(|| {
        format!(
            "they know no incarnation of any replica in common (of replica 0: {:016x} here and \
             {:016x} there); {REMEDY}",
            one[0], other[0]
        )
    })
}

/// Which checkpoints to compare; `None` if a file has none.
fn choose<D: Disk>(disks: &mut [&mut D; 2], states: &[SuperblockState; 2]) -> Option<Pair> {
    let newest = Pair {
        checkpoints: [states[0].checkpoint, states[1].checkpoint],
        is_before: [false, false],
    };
    if newest.checkpoints.iter().any(BlockRef::is_none) {
        return None;
    }
    let mut pairs = vec![newest];
    for is_before in [[true, false], [false, true], [true, true]] {
        let checkpoint = |side: usize| {
            let SuperblockState { checkpoint, checkpoint_previous, .. } = states[side];
            if is_before[side] { checkpoint_previous } else { checkpoint }
        };
        pairs.push(Pair { checkpoints: [checkpoint(0), checkpoint(1)], is_before });
    }
    pairs.retain(|pair| pair.is_of_one_op() && !pair.checkpoints[0].is_none());
    pairs.sort_by_key(|pair| std::cmp::Reverse(pair.checkpoints[0].op));
    let mut is_there = |pair: &Pair, side: usize| {
        let reference = &pair.checkpoints[side];
        !pair.is_before[side] || read_block(disks[side], &states[side], reference).is_some()
    };
    let found = pairs.into_iter().find(|pair| is_there(pair, 0) && is_there(pair, 1));
    Some(found.unwrap_or(newest))
}

/// The block, if it is there.
fn read_block<D: Disk>(
    disk: &mut D,
    state: &SuperblockState,
    reference: &BlockRef,
) -> Option<StoredBlock> {
    let size = state.geometry.block_size;
    let offset = offset_of(state, reference.index);
    if offset + u64::from(size) > disk.size() {
        return None;
    }
    let result: ReadResult = disk.read(offset, size);
    StoredBlock::decode_read(state.cluster, reference, result).ok()
}

/// Where a block lies, bytes from the start of the file.
fn offset_of(state: &SuperblockState, index: u32) -> u64 {
    let size = u64::from(state.geometry.block_size);
    Layout::new(state.geometry).grid_offset() + u64::from(index) * size
}

fn compare<D: Disk>(
    disks: &mut [&mut D; 2],
    states: &[SuperblockState; 2],
    paths: [&Path; 2],
    pair: &Pair,
    report: &mut Report,
) {
    let seen = [0, 1].map(|side| see(disks[side], &states[side], pair, side, report));
    let comparison = difference::compare([&seen[0].outline, &seen[1].outline]);
    let is_same = pair.checkpoints[0] == pair.checkpoints[1];
    let causes = &comparison.causes[..comparison.causes.len().min(CAUSES_MAX)];
    let records = if pair.is_of_one_op() && !is_same {
        compare_records(disks, states, &seen, causes)
    } else {
        None
    };
    report.section(section(states, paths, pair, &seen, &comparison, records.as_ref()));
    for index in causes {
        let place = place_of(&states[0], &seen[0].outline, *index);
        let (what, meaning) = look_into(disks, states, &seen, records.as_ref(), *index);
        report.difference(place, what, meaning);
    }
    report.differences_more((comparison.causes.len() - causes.len()) as u64);
    if pair.is_of_one_op() && !is_same && comparison.causes.is_empty() {
        let [here, there] = pair.checkpoints;
        let place = Place {
            zone: "grid",
            what: format!("checkpoint {}", here.op),
            offset: offset_of(&states[0], here.index),
        };
        let what = format!("its root is block {} here and {} there", here.index, there.index);
        let meaning = "places were given out differently, so no block at one place tells more";
        report.difference(place, what, meaning);
    }
}

/// Reads one of the checkpoints, and tells of its damage.
fn see<D: Disk>(
    disk: &mut D,
    state: &SuperblockState,
    pair: &Pair,
    side: usize,
    report: &mut Report,
) -> Seen {
    let (cluster, geometry) = (state.cluster, state.geometry);
    let checkpoint = pair.checkpoints[side];
    let mut survey =
        CheckpointSurvey::new(cluster, geometry, disk.size(), checkpoint, BlockRef::NONE);
    let role = if pair.is_before[side] { Role::BeforeUnneeded } else { Role::Current };
    let (mut own, mut outline) = (Report::default(), Outline::default());
    let gone_count = checkpoint::read_each(disk, &mut survey, state, role, &mut own, |visit| {
        outline.note(visit);
    });
    if role == Role::Current {
        checkpoint::note_missing(&survey, gone_count, &mut own);
    } else if gone_count > 0 {
        let BlockRef { index, op, .. } = checkpoint;
        let place = Place {
            zone: "grid",
            what: format!("checkpoint before, {op}"),
            offset: survey.offset_of(index),
        };
        let what = format!("{gone_count} of its blocks are gone, and what is beneath them");
        own.note(place, what, "a newer one is here: they could not be compared");
    }
    report.absorb(own, SIDES[side]);
    Seen { survey, outline, gone_count }
}

/// Goes through both trees. `None` if one of them has no root that can be read.
fn compare_records<D: Disk>(
    disks: &mut [&mut D; 2],
    states: &[SuperblockState; 2],
    seen: &[Seen; 2],
    causes: &[u32],
) -> Option<Records> {
    let roots = [seen[0].survey.root()?, seen[1].survey.root()?];
    let SuperblockState { cluster, geometry, .. } = states[0];
    let blocks_counts = [0, 1].map(|side| seen[side].survey.blocks_count());
    let mut trees = TreeDifference::new(cluster, geometry, roots, blocks_counts);
    let causes: BTreeSet<u32> = causes.iter().copied().collect();
    let mut records = Records::default();
    loop {
        let request = trees.next_read();
        for record in trees.take_found() {
            records.count += 1;
            for leaf in record.leaves.iter().flatten() {
                if causes.contains(leaf) {
                    records.by_leaf.entry(*leaf).or_insert_with(|| record.clone());
                }
            }
            if records.first.len() < RECORDS_MAX {
                records.first.push(record);
            }
        }
        let Some((side, request)) = request else { break };
        let result = answer(disks[side], &request);
        trees.on_read_done(result);
    }
    records.gaps_count = trees.gaps_count();
    Some(records)
}

fn section(
    states: &[SuperblockState; 2],
    paths: [&Path; 2],
    pair: &Pair,
    seen: &[Seen; 2],
    comparison: &Comparison,
    records: Option<&Records>,
) -> Section {
    let mut section = Section::new("comparison");
    let [here, there] = pair.checkpoints;
    if pair.is_of_one_op() {
        let remark = match pair.is_before {
            [false, false] => "(the newest checkpoint of both)",
            [true, true] => "(the checkpoint before the newest of both)",
            [true, false] => "(the newest there, the one before here)",
            [false, true] => "(the newest here, the one before there)",
        };
        section.remarked("op_compared", here.op, remark);
        let is_same = here == there;
        let remark = if is_same { "(nothing differs)" } else { "" };
        section.remarked("same", is_same, remark);
    } else {
        let remark = format!(
            "(the files have no checkpoint of one op: of {} here and {} there is compared what \
             both still have at one place)",
            here.op, there.op
        );
        section.remarked("op_compared", Value::None, remark);
        section.fact("same", Value::None);
    }
    section.remarked("blocks_compared", comparison.shared_count, "(at one place, of one op)");
    section.fact("blocks_differing", comparison.differing_count);
    let causes = comparison.causes.len() as u64;
    section.remarked("blocks_cause", causes, "(which differ while nothing beneath them does)");
    section.fact("blocks_only_here", comparison.only_counts[0]);
    section.fact("blocks_only_there", comparison.only_counts[1]);
    let oldest = comparison.causes.first().and_then(|index| seen[0].outline.reference(*index));
    let oldest = oldest.map(|reference| reference.op);
    let remark = oldest.map(|op| {
        let interval = states[0].geometry.checkpoint_interval();
        format!("(written by an op from {} to {op})", op.saturating_sub(interval) + 1)
    });
    section.remarked("op_difference_min", oldest, remark.unwrap_or_default());
    let gaps = records.map_or(0, |records| records.gaps_count);
    let remark = if gaps > 0 { "(as far as both can be read)" } else { "" };
    section.remarked("records_differing", records.map(|records| records.count), remark);
    show_files(states, paths, &mut section);
    show_seen(pair, seen, &mut section);
    show_records(records, &mut section);
    section
}

fn show_files(states: &[SuperblockState; 2], paths: [&Path; 2], section: &mut Section) {
    let id = |checkpoint: &BlockRef| {
        (!checkpoint.is_none()).then(|| format!("{:032x}", checkpoint.checkpoint_id()))
    };
    let rows = states.iter().zip(paths).zip(SIDES).map(|((state, path), side)| {
        vec![
            side.into(),
            state.replica.0.into(),
            state.checkpoint.op.into(),
            id(&state.checkpoint).into(),
            state.checkpoint_previous.op.into(),
            id(&state.checkpoint_previous).into(),
            path.display().to_string().into(),
        ]
    });
    let columns = &[
        "file",
        "replica",
        "op_checkpoint",
        "checkpoint_id",
        "op_checkpoint_previous",
        "checkpoint_id_previous",
        "path",
    ];
    section.table("files", columns, rows.collect());
}

/// What was read of the two checkpoints.
fn show_seen(pair: &Pair, seen: &[Seen; 2], section: &mut Section) {
    let rows = [0, 1].map(|side| {
        let Seen { survey, gone_count, .. } = &seen[side];
        let root = survey.root();
        vec![
            SIDES[side].into(),
            pair.checkpoints[side].op.into(),
            survey.blocks_sound_all().into(),
            survey.faults_count().into(),
            (*gone_count).into(),
            root.map(|root| root.records_count).into(),
            root.map(|root| format!("{:016x}", root.digest)).into(),
        ]
    });
    let columns = &["file", "op", "blocks_sound", "faults", "blocks_missing", "records", "digest"];
    section.table("checkpoints", columns, rows.into());
}

fn show_records(records: Option<&Records>, section: &mut Section) {
    let rows = records.map_or(&[][..], |records| &records.first).iter().map(|record| {
        let [here, there] = words::values(record);
        vec![words::key(&record.key).into(), here.into(), there.into()]
    });
    section.table("records_first", &["key", "here", "there"], rows.collect());
}

fn place_of(state: &SuperblockState, outline: &Outline, index: u32) -> Place {
    let reference = outline.reference(index).expect("a cause is in both outlines");
    let name = kind_name(outline.kind(index).expect("a cause is in both outlines"));
    Place {
        zone: "grid",
        what: format!("block {index} ({name} of op {})", reference.op),
        offset: offset_of(state, index),
    }
}

/// What differs in a block, and what that means.
fn look_into<D: Disk>(
    disks: &mut [&mut D; 2],
    states: &[SuperblockState; 2],
    seen: &[Seen; 2],
    records: Option<&Records>,
    index: u32,
) -> (String, &'static str) {
    let blocks = [0, 1].map(|side| {
        let reference = seen[side].outline.reference(index).expect("a cause is in both outlines");
        read_block(disks[side], &states[side], &reference)
    });
    let (here, there) = match blocks {
        [Some(here), Some(there)] => (here, there),
        [here, there] => {
            let sides = match (here, there) {
                (Some(_), _) => "there",
                (_, Some(_)) => "here",
                _ => "in both",
            };
            let what = format!("the checksums that it should have differ, and it is bad {sides}");
            return (what, "what differs in it, or beneath it, cannot be told");
        }
    };
    let contrast = difference::contrast(&here, &there, states[0].geometry.block_size);
    let what = match contrast {
        Contrast::Record(found) => record_words(&found, records, index),
        Contrast::Byte(at) if here.kind == BlockKind::Value => {
            match owner_of(disks[0], &states[0], &seen[0].outline, index) {
                Some(key) => format!("byte {at} of this part of the value of {}", words::key(&key)),
                None => format!("byte {at} of this part of a value"),
            }
        }
        Contrast::Place { at, codes } => place_words(at, codes, seen, index),
        other => contrast_words(&other),
    };
    (what, "the checksums of both are right, so one of the two replicas computed it wrong")
}

/// `found` is what differs between two leaves of one place, which may be for different keys.
fn record_words(found: &RecordContrast, records: Option<&Records>, index: u32) -> String {
    let words = |record: &RecordContrast| {
        let [here, there] = words::values(record);
        format!("{}: {here} here, {there} there", words::key(&record.key))
    };
    match (records, records.and_then(|records| records.by_leaf.get(&index))) {
        (_, Some(record)) => words(record),
        (None, None) => format!("as to what is in this block, {}", words(found)),
        (Some(_), None) => format!(
            "as to what is in this block, {}; but no record in it differs in the trees as a whole",
            words(found)
        ),
    }
}

fn place_words(at: u32, codes: [u8; 2], seen: &[Seen; 2], index: u32) -> String {
    let [here, there] = codes.map(|code| match code {
        0 => "free",
        1 => "in use",
        3 => "kept for the checkpoint before",
        _ => "of an unknown code",
    });
    let starts = [0, 1].map(|side| {
        let free_set = seen[side].survey.free_set();
        free_set.and_then(|free_set| free_set.chunk_start(index))
    });
    let place = match starts {
        [Some(start), Some(other)] if start == other => format!("block {}", start + at),
        _ => format!("the block at place {at} of this chunk"),
    };
    format!("{place} is {here} here and {there} there")
}

fn contrast_words(contrast: &Contrast) -> String {
    let name = |reference: &Option<BlockRef>| match reference {
        None => "nothing".to_owned(),
        Some(reference) if reference.is_none() => "nothing".to_owned(),
        Some(BlockRef { index, op, .. }) => format!("block {index} of op {op}"),
    };
    match contrast {
        Contrast::Kind([here, there]) => {
            format!("it is a {} here and a {} there", kind_name(*here), kind_name(*there))
        }
        Contrast::Child { at, references: [here, there] } => {
            let (here, there) = (name(here), name(there));
            if here == there {
                format!("reference {at}: {here}, with other checksums, which could not be compared")
            } else {
                format!("reference {at}: {here} here, {there} there")
            }
        }
        Contrast::Root(fields) => format!("{} differ", fields.join(", ")),
        Contrast::Byte(at) => format!("byte {at} of its body"),
        Contrast::Header => "its header".to_owned(),
        Contrast::Record(_) | Contrast::Place { .. } => {
            unreachable!("told together with what else is known of it")
        }
    }
}

/// The key whose value the block at `index` is a part of.
fn owner_of<D: Disk>(
    disk: &mut D,
    state: &SuperblockState,
    outline: &Outline,
    index: u32,
) -> Option<Vec<u8>> {
    let mut top = index;
    loop {
        let parent = outline.parent(top)?;
        if outline.kind(parent)? == BlockKind::Leaf {
            let leaf = read_block(disk, state, &outline.reference(parent)?)?;
            return difference::owner_of_value(&leaf, state.geometry.block_size, top);
        }
        top = parent;
    }
}
