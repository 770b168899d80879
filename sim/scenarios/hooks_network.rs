//! What scenarios need of the network beyond its faults: frames sent by hand.
//!
//! **Invariants:** a frame that is sent by hand travels like any other.

use super::{Network, Progress};
use crate::sim::scheduler::Scheduler;
use bytes::Bytes;

impl Network {
    /// Sends a frame over a connection that stands. False if there is none.
    pub(crate) fn inject(
        &mut self,
        scheduler: &mut Scheduler,
        from: usize,
        to: usize,
        frame: &Bytes,
    ) -> bool {
        let standing = self.connections.iter().find_map(|(id, connection)| {
            let is_open = connection.ends.iter().all(|end| {
                let is_up = end.progress == Progress::Connected && end.socket.is_some();
                is_up && !end.is_closed && !end.is_reset && end.outbox.is_empty()
            });
            let side = connection.ends.iter().position(|end| end.process == from)?;
            let is_wanted = connection.ends[1 - side].process == to;
            (is_open && is_wanted && !connection.is_half_open).then_some((*id, side))
        });
        let Some((connection, side)) = standing else { return false };
        self.transmit(scheduler, connection, side, frame.clone(), true);
        true
    }

    /// Drops what the checkers have not heard.
    pub(crate) fn forget_spoken(&mut self) {
        self.spoken.clear();
    }
}
