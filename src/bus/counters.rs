//! F5: what happened on the bus, in numbers, and how often a line of it is logged.
//!
//! **Invariants:** numbers only grow.

/// Counts since the bus began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages sent in full.
    pub messages_sent: u64,
    /// Valid messages received and delivered.
    pub messages_received: u64,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Messages dropped because too much waited already.
    pub dropped_full: u64,
    /// Messages dropped because there was no connection.
    pub dropped_not_connected: u64,
    /// Connections accepted.
    pub accepted: u64,
    /// Connections begun.
    pub dialled: u64,
    /// Connections closed, for whatever reason.
    pub closed: u64,
    /// Of them: for bytes that are not a message.
    pub invalid: u64,
    /// Of them: for a message of somebody else.
    pub misidentified: u64,
    /// Of them: dialled, and closed by the replica in answer to the first that was sent.
    pub dismissed: u64,
    /// Of them: for a newer connection of the same peer.
    pub superseded: u64,
    /// Of them: said to be a replica that was there already.
    pub usurpers: u64,
    /// Of them: to make room for others.
    pub reclaimed: u64,
    /// Of them: clients for whom there was no room.
    pub refused: u64,
    /// Of them: for having let this process wait.
    pub timed_out: u64,
    /// Clients not read for a while for want of memory.
    pub stalled: u64,
    /// Clients not read in what was left of a tick, for having asked in vain.
    pub rested: u64,
    /// Failed attempts to accept.
    pub accept_failed: u64,
}

/// Lets one line a second through.
#[derive(Debug, Default)]
pub(super) struct LogLimit {
    next_tick: u64,
    suppressed: u64,
}

/// A second, in ticks.
const INTERVAL_TICKS: u64 = 100;

impl LogLimit {
    /// Whether a line may be logged at `tick`: then how many could not since the last.
    pub(super) fn admit(&mut self, tick: u64) -> Option<u64> {
        if tick < self.next_tick {
            self.suppressed += 1;
            return None;
        }
        self.next_tick = tick + INTERVAL_TICKS;
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second() {
        let mut limit = LogLimit::default();
        assert_eq!(limit.admit(5), Some(0));
        assert_eq!(limit.admit(5), None);
        assert_eq!(limit.admit(104), None);
        assert_eq!(limit.admit(105), Some(2));
        assert_eq!(limit.admit(300), Some(0));
    }
}
