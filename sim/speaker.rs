//! What replicas say is shown to the checkers, frame by frame, with what is on the speaker's disk.
//!
//! ```text
//!   prepare_ok ─────► promises (with the slot of its op), monotonic
//!   do_view_change ─► promises, monotonic
//!   reply ──────────► replies, ledger
//!   other frames of a view, to replicas ─► monotonic
//! ```
//!
//! **Invariants:** a frame is heard in the turn in which it leaves; it may have been made in an
//! earlier one.
//!
//! **Not here:** whether it arrives (`network`).

use super::checkers::{Checkers, LogTold, ReplicaState, SlotOnDisk};
use super::disk::Disk;
use bytes::Bytes;
use vsr::storage::Geometry;
use vsr::wire::{Command, Header, HeaderSet, Message, Op, PrepareId, View};

/// What a replica is when a frame of it is heard.
#[derive(Debug, Clone, Copy)]
pub(super) struct Speaker {
    index: u8,
    log_view: View,
    /// The ops of its log whose slots nothing of a later op may have overwritten: first and last.
    op_min: Op,
    op_max: Op,
    geometry: Geometry,
}

impl Speaker {
    pub(super) fn new(index: u8, state: &ReplicaState, geometry: Geometry) -> Self {
        let wrapped = state.op.saturating_sub(u64::from(geometry.journal_slots));
        let op_min = state.op_checkpoint.max(wrapped) + 1;
        Self { index, log_view: state.log_view, op_min, op_max: state.op, geometry }
    }

    /// Shows a frame that the replica has sent to the checkers.
    pub(super) fn hear(
        &self,
        checkers: &mut Checkers,
        disk: &Disk,
        is_to_replica: bool,
        frame: &Bytes,
    ) -> Result<(), String> {
        let head = frame.first_chunk().expect("a frame has a header");
        let header: Header = Header::decode(head).map_err(|error| format!("sent: {error}"))?;
        let message = || Message::decode(frame.clone()).map_err(|error| format!("sent: {error}"));
        match header.command {
            // Written by others, or promising nothing: whoever asks for a view need not be in it.
            Command::Prepare(_) | Command::Request(_) | Command::RequestStartView(_) => {
                return Ok(());
            }
            Command::Reply(_) => return checkers.on_reply(&message()?),
            _ if !is_to_replica => return Ok(()),
            Command::PrepareOk(ok) => {
                let on_disk = self.slot_of(disk, header.view, ok.prepare.op);
                checkers.on_prepare_ok(self.index, header.view, ok.prepare, on_disk)?;
            }
            Command::DoViewChange(log) => {
                let message = message()?;
                let set = HeaderSet::decode(&message).map_err(|error| format!("sent: {error}"))?;
                let prepares: Vec<PrepareId> =
                    set.headers.iter().flatten().map(Header::id).collect();
                let ops = (0..u64::BITS).filter(|bit| log.nack >> bit & 1 == 1);
                let nacks: Vec<Op> = ops.map(|bit| set.op - u64::from(bit)).collect();
                let log_view = log.log_view;
                let told = LogTold { log_view, op: set.op, prepares: &prepares, nacks: &nacks };
                checkers.on_log_told(self.index, &told)?;
            }
            _ => {}
        }
        checkers.on_view_spoken(self.index, header.view);
        Ok(())
    }

    /// What the disk has in the slot of `op`, if the op is of the log that was begun in `view`, and
    /// nothing has hurt it. A frame may have waited while the log went on.
    fn slot_of(&self, disk: &Disk, view: View, op: Op) -> Option<SlotOnDisk> {
        let is_of_log = view == self.log_view && (self.op_min..=self.op_max).contains(&op);
        let is_judged = is_of_log && !disk.is_hurt(self.geometry.slot(op));
        is_judged.then(|| disk.slot_of(op))
    }
}
