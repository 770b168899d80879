//! F6: `vsr inspect superblock`: the four copies side by side, which of them a replica would go on
//! with, and all that it says.
//!
//! **Not here:** which copy counts: `superblock_select` decides, as when a replica starts.

use super::report::{Place, Report, Section, Value};
use super::{Disk, mended_by};
use vsr::fatal::Fatal;
use vsr::storage::layout::{SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use vsr::storage::superblock::{CopyInvalid, SuperblockCopies, SuperblockCopy, superblock_select};
use vsr::storage::{Layout, SuperblockState};
use vsr::wire::BlockRef;

/// The copies as they were read.
pub(super) struct Superblock {
    copies: SuperblockCopies,
    selected: Result<u8, Fatal>,
}

/// Reads all copies.
pub(super) fn read<D: Disk>(disk: &mut D) -> Superblock {
    let copies = std::array::from_fn(|copy| {
        let result = disk.read(offset(copy), SUPERBLOCK_COPY_SIZE);
        SuperblockCopy::decode_read(&result, u8::try_from(copy).expect("one of 4"))
    });
    Superblock { selected: superblock_select(&copies), copies }
}

fn offset(copy: usize) -> u64 {
    assert!(copy < usize::from(SUPERBLOCK_COPIES));
    copy as u64 * u64::from(SUPERBLOCK_COPY_SIZE)
}

impl Superblock {
    /// What the copy that counts says.
    pub(super) fn selected(&self) -> Result<&SuperblockState, Fatal> {
        let number = self.selected.clone()?;
        Ok(&self.copy(number).state)
    }

    fn copy(&self, number: u8) -> &SuperblockCopy {
        self.copies[usize::from(number)].as_ref().expect("a valid copy was selected")
    }

    /// Tells of the copies, and of everything in the one that counts if `all` is wanted.
    pub(super) fn show(&self, file_size: u64, all: bool, report: &mut Report) {
        let mut section = Section::new("superblock");
        if let Ok(number) = self.selected {
            let copy = self.copy(number);
            show_identity(copy, &mut section);
            if all {
                show_state(&copy.state, &mut section);
                show_zones(&copy.state, file_size, &mut section);
            }
        }
        section.table("copies", &["copy", "offset", "sequence", "state"], self.rows());
        if let (Ok(number), true) = (&self.selected, all) {
            show_head(&self.copy(*number).state, &mut section);
        }
        report.section(section);
        self.find(report);
    }

    fn rows(&self) -> Vec<Vec<Value>> {
        let selected = self.selected.as_ref().ok().map(|number| self.copy(*number));
        let row = |(number, copy): (u8, &Result<SuperblockCopy, CopyInvalid>)| {
            let sequence = copy.as_ref().ok().map(|copy| copy.sequence);
            let state = match copy {
                Err(reason) => describe(*reason),
                Ok(copy) if Some(copy) == selected => "intact, counts".to_owned(),
                Ok(_) => "intact, another update".to_owned(),
            };
            let offset = offset(usize::from(number));
            vec![number.into(), offset.into(), sequence.into(), state.into()]
        };
        (0..).zip(&self.copies).map(row).collect()
    }

    fn find(&self, report: &mut Report) {
        let selected = self.selected.as_ref().ok().map(|number| self.copy(*number));
        let rewritten = if selected.is_some() {
            "a replica writes it anew when it starts"
        } else {
            "too few copies are left"
        };
        for (number, copy) in self.copies.iter().enumerate() {
            let place = Place {
                zone: "superblock",
                what: format!("copy {number}"),
                offset: offset(number),
            };
            match (copy, selected) {
                (Err(reason), _) => report.damage(place, describe(*reason), rewritten),
                (Ok(copy), Some(selected)) if copy != selected => {
                    let what =
                        format!("is of update {}, and {} counts", copy.sequence, selected.sequence);
                    if copy.sequence.abs_diff(selected.sequence) == 1 {
                        let meaning =
                            "an update was interrupted: it is completed at the next start";
                        report.note(place, what, meaning);
                    } else {
                        report.damage(place, format!("{what}: writes to it were lost"), rewritten);
                    }
                }
                (Ok(copy), None) => {
                    let what =
                        format!("is intact, of update {}, and cannot be relied on", copy.sequence);
                    report.damage(place, what, rewritten);
                }
                (Ok(_), Some(_)) => {}
            }
        }
    }
}

fn describe(reason: CopyInvalid) -> String {
    match reason {
        CopyInvalid::Magic => "does not begin with \"vsr data\"".to_owned(),
        CopyInvalid::Blank => "zeros: the file was begun and not finished".to_owned(),
        CopyInvalid::Version(version) => format!("of version {version} of the data file"),
        CopyInvalid::Protocol(protocol) => format!("of version {protocol} of the protocol"),
        CopyInvalid::Misdirected(copy) => format!("holds copy {copy}: a misdirected write"),
        CopyInvalid::Damaged => "damaged: torn, rotten or unreadable".to_owned(),
    }
}

fn show_identity(copy: &SuperblockCopy, section: &mut Section) {
    let SuperblockState { cluster, replica, replica_count, incarnation, .. } = &copy.state;
    section.fact("cluster", cluster.to_string());
    section.remarked("replica", replica.0, format_args!("of {replica_count}"));
    section.fact("replica_count", *replica_count);
    section.fact("incarnation", format!("{incarnation:016x}"));
    section.remarked("sequence", copy.sequence, "updates since format, which is the first");
}

fn show_state(state: &SuperblockState, section: &mut Section) {
    let primary = state.view.primary(state.replica_count);
    section.remarked("view", state.view.0, format_args!("(its primary is replica {primary})"));
    section.fact("log_view", state.log_view.0);
    section.fact("commit_max", state.commit_max);
    let geometry = &state.geometry;
    section.remarked("message_size", geometry.message_size, "bytes");
    section.fact("journal_slots", geometry.journal_slots);
    section.remarked("block_size", geometry.block_size, "bytes");
    section.remarked("pipeline", geometry.pipeline, "prepares in flight");
    section.remarked("clients_max", geometry.clients_max, "sessions");
    show_checkpoint(
        ["op_checkpoint", "checkpoint_id", "checkpoint_block"],
        &state.checkpoint,
        section,
    );
    let names = ["op_checkpoint_previous", "checkpoint_id_previous", "checkpoint_block_previous"];
    show_checkpoint(names, &state.checkpoint_previous, section);
    section.fact("op_complete", state.op_complete);
    let remark = if state.is_syncing() {
        format!(
            "(checkpoint {} is being taken over from the others; {} was the last complete one)",
            state.checkpoint.op, state.op_complete
        )
    } else {
        String::new()
    };
    section.remarked("syncing", state.is_syncing(), remark);
}

fn show_checkpoint(names: [&'static str; 3], checkpoint: &BlockRef, section: &mut Section) {
    let [op, id, block] = names;
    let known = !checkpoint.is_none();
    section.remarked(op, checkpoint.op, if known { "" } else { "(none)" });
    section.fact(id, known.then(|| format!("{:032x}", checkpoint.checkpoint_id())));
    section.fact(block, known.then_some(checkpoint.index));
}

fn show_zones(state: &SuperblockState, file_size: u64, section: &mut Section) {
    let layout = Layout::new(state.geometry);
    let blocks =
        file_size.saturating_sub(layout.grid_offset()) / u64::from(state.geometry.block_size);
    section.remarked("headers_offset", layout.headers_offset(0), "(the headers ring)");
    section.remarked("prepares_offset", layout.prepare_offset(0), "(the prepares ring)");
    section.remarked("grid_offset", layout.grid_offset(), format_args!("({blocks} blocks)"));
    section.remarked("file_size", file_size, "bytes");
}

fn show_head(state: &SuperblockState, section: &mut Section) {
    let table = &state.head.table;
    let count = if table.op > 0 { state.replica_count } else { 0 };
    let rows = (0..count).zip(&table.incarnations).map(|(replica, incarnation)| {
        vec![replica.into(), format!("{incarnation:016x}").into(), table.op.into()]
    });
    section.table("incarnations", &["replica", "incarnation", "op"], rows.collect());
    let headers = state.head.headers.iter().enumerate().map(|(index, header)| {
        let op = state.head.op - index as u64;
        let Some(header) = header else {
            return vec![op.into(), Value::None, Value::None, "blank: unknown".into()];
        };
        let id = format!("{:08x} {:08x}", header.checksum, header.checksum_body);
        vec![op.into(), header.view.0.into(), header.size.into(), id.into()]
    });
    section.table("headers", &["op", "view", "size", "checksums"], headers.collect());
}

/// Tells if the file ends where it must not.
pub(super) fn find_truncated(state: &SuperblockState, file_size: u64, report: &mut Report) {
    let needed = Layout::new(state.geometry).grid_offset();
    if file_size < needed {
        let place = Place { zone: "file", what: "the end".to_owned(), offset: file_size };
        let what = format!("the file ends here, its geometry needs {needed} bytes");
        report.damage(place, what, format_args!("no replica opens it; {}", whole(state)));
    }
}

fn whole(state: &SuperblockState) -> &'static str {
    if state.replica_count == 1 { mended_by(state) } else { "treat it as a lost file" }
}
