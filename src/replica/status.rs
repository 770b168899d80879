//! F5: what an operator is told.

use super::{Replica, Status};
use crate::store::{Store, SyncProgress};
use crate::wire::{ClientId, Message, ReplicaStatus, StatusReport};

impl Replica {
    /// The answer to `request_status`; `sessions_count` and `store` are the executor's to say.
    pub fn status_message(&self, client: ClientId, sessions_count: u32, store: &Store) -> Message {
        let body = self.status_report(sessions_count, store).encode();
        let status = crate::wire::Status { client };
        Message::new(&self.author_for_clients(), status, &body)
    }

    fn status_report(&self, sessions_count: u32, store: &Store) -> StatusReport {
        let syncing = self.syncing();
        let sync = store.sync_progress();
        let blocks_missing = u32::try_from(sync.blocks_missing).unwrap_or(u32::MAX);
        let sync = if syncing.is_some() { sync } else { SyncProgress::default() };
        let counters = store.counters();
        let (op_diverged, diverged) = self.diverged().unwrap_or((0, 0));
        let (op_sync, sync_ticks) = syncing.unwrap_or((0, 0));
        let offset = self.clock.offset(self.now.monotonic, self.now.realtime);
        let op_checkpoint = self.superblock.state().op_checkpoint();
        let log_end = self.geometry.op_prepare_ok_max(op_checkpoint);
        StatusReport {
            replica: self.replica,
            replica_count: self.replica_count,
            status: match self.status {
                Status::Normal => ReplicaStatus::Normal,
                Status::ViewChange => ReplicaStatus::ViewChange,
                Status::Recovering => ReplicaStatus::Recovering,
                Status::RecoveringHead => ReplicaStatus::RecoveringHead,
            },
            born: self.is_born(),
            primary: self.primary_of_view(),
            clock_synchronized: offset.is_some(),
            view: self.view,
            log_view: self.log_view,
            op: self.op,
            commit_min: self.commit_min,
            commit_max: self.commit_max,
            op_checkpoint,
            incarnation: self.incarnation,
            clock_offset_ns: offset.unwrap_or(0),
            prepares_repaired: self.counters.prepares_repaired,
            headers_repaired: self.counters.headers_repaired,
            journal_dirty: self.ops_to_repair(),
            journal_faulty: self.journal.faulty_count(),
            journal_slots: self.geometry.journal_slots,
            sessions_count,
            log_capacity_left: log_end.saturating_sub(self.op),
            requests_committed: self.counters.requests_committed,
            ops_committed: self.counters.ops_committed,
            uptime_ticks: self.tick,
            op_sync,
            sync_ticks,
            sync_blocks_found: sync.blocks_found,
            sync_blocks_fetched: sync.blocks_fetched,
            sync_blocks_missing: sync.blocks_missing,
            message_size: self.geometry.message_size,
            block_size: self.geometry.block_size,
            pipeline: self.geometry.pipeline,
            clients_max: self.geometry.clients_max,
            table_op: self.table.op,
            incarnations: self.table.incarnations,
            heard: self.heard_bits(),
            store_full: self.store_full,
            awaits_block: self.awaits_block(),
            diverged,
            blocks_missing,
            blocks_bad: counters.blocks_bad,
            blocks_repaired: counters.blocks_repaired,
            scrub_laps: counters.scrub_laps,
            op_diverged,
            ..StatusReport::default()
        }
    }
}
