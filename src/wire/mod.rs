//! F1: what travels between processes and what lies in the data file: commands, headers, messages,
//! batch entries, framing. Pure functions of bytes.
//!
//! ```text
//! +--------------------+---------------------------------------------+
//! | header, 128 bytes  | body, 0 .. message_size - 128 bytes         |
//! +--------------------+---------------------------------------------+
//! ```
//!
//! **Invariants:** little-endian everywhere; every reserved byte is zero and checked; a header's
//! checksum is verified before anything in it is believed; decoding is total: bytes that do not
//! validate are an [`Invalid`] with a reason, never a panic and never an allocation by their word.
//!
//! **Not here:** sockets, time, the meaning of a message.

mod commands;
mod entry;
mod framing;
mod header;
mod message;
mod status;
mod table;
mod types;

pub use commands::*;
pub use entry::{Entries, Entry, EntryInvalid, Operation};
pub use framing::{RECEIVE_BUFFER_SIZE, Receiver};
pub use header::{Author, Header, Invalid};
pub use message::{Message, MessageBuilder};
pub use status::{ReplicaStatus, StatusReport};
pub use table::{HeaderSet, IncarnationTable, Recover, decode_headers};
pub use types::{BlockRef, ClientId, ClusterId, Op, Parent, Place, PrepareId, ReplicaIndex, View};

#[cfg(test)]
mod tests;
