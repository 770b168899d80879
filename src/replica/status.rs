//! F5: what an operator is told.

use super::{Counters, Replica, Status};
use crate::wire::{ClientId, Message, ReplicaStatus, StatusReport};

impl Replica {
    /// The answer to `request_status`; `sessions_count` is the executor's to say.
    pub fn status_message(&self, client: ClientId, sessions_count: u32) -> Message {
        let body = self.status_report(sessions_count).encode();
        let status = crate::wire::Status { client };
        Message::new(&self.author_for_clients(), status, &body)
    }

    fn status_report(&self, sessions_count: u32) -> StatusReport {
        let Counters { prepares_repaired, headers_repaired, requests_committed, .. } =
            self.counters;
        let offset = self.clock.offset(self.now.monotonic, self.now.realtime);
        let op_checkpoint = self.superblock.state().op_checkpoint;
        StatusReport::default()
    }
}
