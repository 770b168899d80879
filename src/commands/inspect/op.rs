//! F6: `vsr inspect op N`: where an op is, what its header says, and every request in it.
//!
//! **Not here:** what the requests did; an op that only a checkpoint holds has no place of its own
//! any more.

use super::journal::{self, Journal, SlotState};
use super::report::{Place, Report, Section, Value};
use super::{Disk, words};
use vsr::constants::SECTOR_SIZE;
use vsr::storage::slot::{self, Redundant};
use vsr::storage::{Layout, SuperblockState};
use vsr::wire::{Entries, Entry, Header, Message, Op, Operation, Prepare, Recover};

/// Tells of op `op`. Whether it is held.
pub(super) fn show<D: Disk>(
    disk: &mut D,
    state: &SuperblockState,
    op: Op,
    report: &mut Report,
) -> bool {
    let journal = journal::read(disk, state, false);
    let slot = state.geometry.slot(op);
    let offset = Layout::new(state.geometry).prepare_offset(slot);
    let survey = &journal.survey.slots[slot as usize];
    let mut section = Section::new("op");
    section.fact("op", op);
    section.fact("slot", slot);
    section.remarked("offset", offset, "bytes");
    section.fact("op_checkpoint", state.op_checkpoint());
    section.fact("headers_ring", journal::entry_text(survey));
    section.fact("prepares_ring", journal::stored_text(survey));
    section.fact("state", journal.state(slot).name());
    let held = journal::prepare(survey).filter(|header| header.op() == op).copied();
    section.fact("held", held.is_some());
    section.fact("explanation", explain(&journal, state, op));
    let place = Place { zone: "journal", what: format!("slot {slot} (op {op})"), offset };
    let is_named =
        matches!(&survey.redundant, Some(Redundant::Header(header)) if header.op() == op);
    let Some(header) = held else {
        report.section(section);
        if is_named && journal.state(slot) == SlotState::Damaged {
            let what = "the headers ring says that it was here, and it is not";
            report.damage(place, what, super::mended_by(state));
        }
        return false;
    };
    show_header(&header, state, &mut section);
    match read(disk, &header, state) {
        Some(message) => show_entries(&message, &mut section),
        None => report.damage(place, "its body is damaged", super::mended_by(state)),
    }
    report.section(section);
    true
}

/// Where the op stands.
fn explain(journal: &Journal<'_>, state: &SuperblockState, op: Op) -> String {
    let log = journal.log();
    let (Some(first), Some(last)) = (log.keys().next(), log.keys().last()) else {
        return "the journal holds no op".to_owned();
    };
    let slot_state = journal.state(state.geometry.slot(op));
    let is_in_checkpoint = op <= state.op_checkpoint();
    if log.contains_key(&op) {
        let checkpoint = state.op_checkpoint();
        return if is_in_checkpoint {
            format!("in the log, and in the checkpoint of op {checkpoint}")
        } else {
            "in the log, above the checkpoint".to_owned()
        };
    }
    if op > *last {
        return format!("not there yet: the journal holds ops {first} to {last}");
    }
    match slot_state {
        SlotState::Damaged => "damaged".to_owned(),
        SlotState::Torn | SlotState::Cut => "cut: it was never committed".to_owned(),
        _ if is_in_checkpoint => {
            let checkpoint = state.op_checkpoint();
            format!(
                "overwritten, and in the checkpoint of op {checkpoint}: the journal holds ops \
                 {first} to {last}"
            )
        }
        _ => format!("not here: the journal holds ops {first} to {last}"),
    }
}

fn show_header(header: &Header<Prepare>, state: &SuperblockState, section: &mut Section) {
    let Prepare { parent, commit, timestamp, checkpoint_id, entry_count, .. } = header.command;
    section.remarked("view", header.view.0, "(in which it was prepared)");
    section.remarked("replica", header.replica.0, format_args!("of {}", state.replica_count));
    section.fact("incarnation", format!("{:016x}", header.incarnation));
    section.remarked("size", header.size, "bytes, with its header");
    section.fact("checksum", format!("{:08x}", header.checksum));
    section.fact("checksum_body", format!("{:08x}", header.checksum_body));
    let checksums = format!("{:08x} {:08x}", parent.checksum, parent.checksum_body);
    section.fact("parent_view", parent.view.0);
    section.fact("parent_checksums", checksums);
    section.remarked("commit", commit, "(known to be committed then)");
    section.remarked("timestamp", timestamp, format_args!("({})", words::time(timestamp)));
    let named = if header.op() > 0 { state.geometry.checkpoint_named_by(header.op()) } else { 0 };
    let remark = format!("(of the checkpoint of op {named})");
    section.remarked("checkpoint_id", format!("{checkpoint_id:032x}"), remark);
    section.fact("entry_count", entry_count);
}

/// The whole prepare, if it is there intact.
fn read<D: Disk>(
    disk: &mut D,
    header: &Header<Prepare>,
    state: &SuperblockState,
) -> Option<Message> {
    let slot = state.geometry.slot(header.op());
    let offset = Layout::new(state.geometry).prepare_offset(slot);
    let result = disk.read(offset, header.size.next_multiple_of(SECTOR_SIZE));
    let place = slot::Place { cluster: state.cluster, geometry: state.geometry, slot };
    slot::prepare_decode(&header.id(), result, &place)
}

fn show_entries(message: &Message, section: &mut Section) {
    let header = message.prepare_header();
    let check = Entries::check(message.body(), header.command.entry_count);
    let verdict = check.map_or_else(|invalid| invalid.0, |()| "sound");
    section.fact("entries_state", verdict);
    let entries = Entries::new(message.body()).map_while(Result::ok);
    let rows = (0_u64..).zip(entries).map(|(index, (entry, bytes))| {
        let Entry { client, session, request, size, operation, .. } = entry;
        let is_client = client.0 != 0;
        vec![
            Value::from(index),
            header.command.timestamp.saturating_add(index).into(),
            is_client.then(|| client.to_string()).into(),
            session.into(),
            request.into(),
            format!("{operation:?}").to_lowercase().into(),
            size.into(),
            entry_words(operation, bytes).into(),
        ]
    });
    let columns =
        &["index", "timestamp", "client", "session", "request", "operation", "size", "words"];
    section.table("entries", columns, rows.collect());
}

fn entry_words(operation: Operation, bytes: &[u8]) -> String {
    match operation {
        Operation::Apply | Operation::Query => words::request(bytes),
        Operation::Register => "opens a session".to_owned(),
        Operation::Deregister => "closes the session".to_owned(),
        Operation::Noop => "nothing".to_owned(),
        Operation::Genesis => "the birth of the cluster".to_owned(),
        Operation::Recover => match Recover::decode(bytes) {
            Ok(recover) => format!("another data file for replica {}", recover.replica.0),
            Err(_) => "no recovery".to_owned(),
        },
    }
}
