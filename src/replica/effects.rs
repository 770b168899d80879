//! F5: what the replica wants done, as data. The server drains it after every input.
//!
//! There is no order between the kinds, and none is needed: nothing is *sent* here that must wait
//! for something *written* here. What must wait is only pushed when the write has come back, so
//! "durable before sent" can be read off the handlers.
//!
//! **Invariants:** the lengths are bounded by what one input can cause, asserted by the server.

use crate::fatal::Fatal;
use crate::storage::Request;
use crate::wire::{ClientId, Message, Op, ReplicaIndex};

use super::checkpoint::CheckpointLoad;

/// The outputs of one input.
#[derive(Debug, Default)]
pub struct Effects {
    /// Reads and writes of the data file.
    pub requests: Vec<Request>,
    /// Messages to other replicas; sharing, not copying.
    pub sends: Vec<(ReplicaIndex, Message)>,
    /// Messages to clients.
    pub client_sends: Vec<(ClientId, Message)>,
    /// A committed prepare to execute, at most one: answered by `Replica::on_commit_done`.
    pub commit: Option<Message>,
    /// Queries that the state as it is executed now may answer.
    pub queries: Vec<Message>,
    /// The executor is to take over the state of this checkpoint, in place of any it has, and to
    /// drop what it has in hand: answered by `Replica::on_checkpoint_loaded`.
    pub load: Option<CheckpointLoad>,
    /// The superblock names the checkpoint of this op: the executor may let the one before the last
    /// go.
    pub checkpoint_durable: Option<Op>,
    /// The process must end.
    pub fatal: Option<Fatal>,
}

impl Effects {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
            && self.sends.is_empty()
            && self.client_sends.is_empty()
            && self.commit.is_none()
            && self.queries.is_empty()
            && self.load.is_none()
            && self.checkpoint_durable.is_none()
            && self.fatal.is_none()
    }
}
