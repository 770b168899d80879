//! F5: what of a replica takes memory, and how much of it there may be.
//!
//! | | bound |
//! |---|---|
//! | requests that gather | two for each session, and four messages' worth of bytes and one more |
//! | prepares in memory | what the ring holds: so many, if the execution of a primary waits long |
//! | requests in flight | what gathers, and what fits in the prepares in memory |
//! | writes, reads, repairs under way | constants |
//!
//! **Invariants:** a bound follows from the geometry alone.
//!
//! **Not here:** what happens when something is full: at its place.

use super::Replica;
use super::commit::READ_AHEAD;
use super::normal::GATHERED_MESSAGES_MAX;
use super::queries::WAITING_MESSAGES_MAX;
use super::repair::PREPARES_WANTED_MAX;
use crate::constants::{ENTRY_SIZE, JOURNAL_WRITES_MAX};
use crate::stdx::Bound;
use crate::storage::journal::READS_MAX;

impl Replica {
    /// How full all queues are.
    pub fn bounds(&self) -> Vec<Bound> {
        let message_size = u64::from(self.geometry.message_size);
        let clients = u64::from(self.geometry.clients_max);
        let cache_max = self.cache_ops_max().max(READ_AHEAD + 1);
        let gathered_max = 2 * clients;
        let in_prepares_max = cache_max * (message_size / u64::from(ENTRY_SIZE));
        let gathered_size_max = (GATHERED_MESSAGES_MAX + 1) * message_size;
        let (waiting_size, asked_size) = self.queries.sizes();
        let queries_size_max = WAITING_MESSAGES_MAX * message_size;
        let size = |name, count, max| Bound { name, count, max };
        vec![
            Bound::new("pipeline", self.pipeline.len(), u64::from(self.geometry.pipeline)),
            Bound::new("gathered", self.gathered.len(), gathered_max),
            size("gathered_bytes", self.gathered_size, gathered_size_max),
            size("queries_waiting_bytes", waiting_size, queries_size_max),
            size("queries_asked_bytes", asked_size, queries_size_max),
            Bound::new(
                "requests_in_flight",
                self.requests_in_flight.len(),
                gathered_max + in_prepares_max,
            ),
            Bound::new("requests_refused", self.requests_refused.len(), gathered_max + clients + 1),
            Bound::new("prepares_in_memory", self.cache.len(), cache_max),
            Bound::new("prepares_wanted", self.prepares_wanted.len(), PREPARES_WANTED_MAX as u64),
            Bound::new("prepares_read", self.reads.len(), READS_MAX as u64),
            size(
                "prepares_written",
                u64::from(self.journal.writes_in_flight()),
                u64::from(JOURNAL_WRITES_MAX),
            ),
        ]
    }
}
