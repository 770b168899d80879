//! F1: the header, 128 bytes in front of every message, prepare and block.
//!
//! ```text
//!   0        4        8                                          24       28       32
//!   +--------+--------+-------------------------------------------+--------+--------+
//!   |checksum|ck body | cluster                                   | size   | view   |
//!   +--------+---+----+--------+----------------------------------+--------+--------+
//!   |protocol|cmd|repl|reserved| incarnation       | command specific, 80 bytes ...
//!   +--------+---+----+--------+-------------------+
//!  32       34  35   36       40                  48                              128
//! ```
//!
//! `checksum` covers bytes 4 to 128, and so the body's checksum, and so everything.
//!
//! **Invariants:** [`Header::decode`] of [`Header::encode`] is the identity; what decodes has a
//! right checksum, this protocol version, a known command, zero reserved bytes and no `invalid`
//! reason. The places of `checksum` and `protocol` are the same in every version, so that a peer of
//! another one can be named.
//!
//! **Not here:** what the fields of a command mean; the largest size and the right cluster, which
//! only a receiver knows.

use super::commands::{Command, CommandPart};
use super::types::{ClusterId, Field, PrepareId, ReplicaIndex, View};
use crate::constants::{HEADER_SIZE, PROTOCOL};
use std::fmt;

/// The offset of the command-specific part of a header.
pub(super) const COMMAND_OFFSET: usize = 48;
/// The size of the command-specific part of a header.
pub(super) const COMMAND_SIZE: usize = HEADER_SIZE as usize - COMMAND_OFFSET;

/// A header with the command part `C`: [`Command`] when any may come, one command's struct when the
/// type already says which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<C = Command> {
    /// CRC-32C of bytes 4..128 of the encoded header.
    pub checksum: u32,
    /// CRC-32C of the body; 0 without one.
    pub checksum_body: u32,
    /// The cluster this belongs to.
    pub cluster: ClusterId,
    /// Header and body, in bytes.
    pub size: u32,
    /// The author's view; its meaning depends on the command.
    pub view: View,
    /// The author, never a forwarder. 0 if a client is the author.
    pub replica: ReplicaIndex,
    /// The author's incarnation. 0 if a client is the author.
    pub incarnation: u64,
    /// The command and its fields.
    pub command: C,
}

/// What all headers of one author have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Author {
    /// The cluster.
    pub cluster: ClusterId,
    /// The view to stamp.
    pub view: View,
    /// The replica; 0 for a client.
    pub replica: ReplicaIndex,
    /// The incarnation; 0 for a client.
    pub incarnation: u64,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invalid {
    /// The header's checksum does not match: torn, rotten, or not a header at all.
    ChecksumHeader,
    /// The body's checksum does not match.
    ChecksumBody,
    /// The peer speaks this other version of the protocol.
    Protocol(u16),
    /// A command code this version does not know.
    CommandUnknown(u8),
    /// The message belongs to another cluster.
    Cluster {
        /// The cluster it names.
        theirs: ClusterId,
        /// The cluster of whoever received it.
        ours: ClusterId,
    },
    /// A field has a value no correct author writes.
    Field(&'static str),
    /// The header claims this size, which is impossible or not what is there.
    Size(u32),
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChecksumHeader => write!(f, "header checksum mismatch"),
            Self::ChecksumBody => write!(f, "body checksum mismatch"),
            Self::Protocol(theirs) => {
                write!(f, "peer speaks protocol {theirs}, this is {PROTOCOL}")
            }
            Self::CommandUnknown(code) => write!(f, "unknown command {code}"),
            Self::Cluster { theirs, ours } => {
                write!(f, "peer belongs to cluster {theirs}, this is {ours}")
            }
            Self::Field(reason) => write!(f, "{reason}"),
            Self::Size(size) => write!(f, "impossible size {size}"),
        }
    }
}

impl<C: CommandPart> Header<C> {
    /// The bytes of this header, with its stored checksum.
    pub fn encode(&self) -> [u8; HEADER_SIZE as usize] {
        let mut bytes = [0; HEADER_SIZE as usize];
        self.checksum.put(&mut bytes[0..4]);
        self.checksum_body.put(&mut bytes[4..8]);
        self.cluster.put(&mut bytes[8..24]);
        self.size.put(&mut bytes[24..28]);
        self.view.put(&mut bytes[28..32]);
        bytes[32..34].copy_from_slice(&PROTOCOL.to_le_bytes());
        bytes[34] = self.command.code();
        self.replica.put(&mut bytes[35..36]);
        self.incarnation.put(&mut bytes[40..48]);
        self.command.put(&mut bytes[COMMAND_OFFSET..]);
        bytes
    }

    /// A header for `body` with both checksums computed.
    pub fn seal(author: &Author, command: C, body: &[u8]) -> Self {
        let size = HEADER_SIZE as usize + body.len();
        let mut header = Self {
            checksum: 0,
            checksum_body: crc32c::crc32c(body),
            cluster: author.cluster,
            size: u32::try_from(size).expect("bounded by the message size"),
            view: author.view,
            replica: author.replica,
            incarnation: author.incarnation,
            command,
        };
        header.checksum = header.checksum_computed();
        header
    }

    /// The checksum this header must have.
    pub fn checksum_computed(&self) -> u32 {
        crc32c::crc32c(&self.encode()[4..])
    }

    /// The same header with the command part `command`, of which it is made.
    pub fn with<D: CommandPart>(&self, command: D) -> Header<D> {
        assert_eq!(self.command.code(), command.code());
        let Self { checksum, checksum_body, cluster, size, view, replica, incarnation, .. } = *self;
        Header { checksum, checksum_body, cluster, size, view, replica, incarnation, command }
    }

    /// The size of the body, in bytes.
    pub fn body_size(&self) -> u32 {
        assert!(self.size >= HEADER_SIZE);
        self.size - HEADER_SIZE
    }
}

impl Header<Command> {
    /// Decodes and validates. Total: any 128 bytes are a header or a reason.
    ///
    /// # Errors
    /// In this order: checksum, protocol, command, reserved bytes, size, then the command's own
    /// rules.
    pub fn decode(bytes: &[u8; HEADER_SIZE as usize]) -> Result<Self, Invalid> {
        let checksum = u32::get(&bytes[0..4]);
        if checksum != crc32c::crc32c(&bytes[4..]) {
            return Err(Invalid::ChecksumHeader);
        }
        let protocol = u16::from_le_bytes([bytes[32], bytes[33]]);
        if protocol != PROTOCOL {
            return Err(Invalid::Protocol(protocol));
        }
        if bytes[36..40] != [0; 4] {
            return Err(Invalid::Field("reserved bytes of the frame are not zero"));
        }
        let command = Command::get(bytes[34], &bytes[COMMAND_OFFSET..])?;
        let header = Self {
            checksum,
            checksum_body: u32::get(&bytes[4..8]),
            cluster: ClusterId::get(&bytes[8..24]),
            size: u32::get(&bytes[24..28]),
            view: View::get(&bytes[28..32]),
            replica: ReplicaIndex::get(&bytes[35..36]),
            incarnation: u64::get(&bytes[40..48]),
            command,
        };
        if header.size < HEADER_SIZE {
            return Err(Invalid::Size(header.size));
        }
        match header.invalid() {
            Some(reason) => Err(Invalid::Field(reason)),
            None => Ok(header),
        }
    }
}

impl Header<super::Prepare> {
    /// Decodes a header that must be a prepare's.
    ///
    /// # Errors
    /// Those of [`Header::decode`], and another command.
    pub fn decode_prepare(bytes: &[u8; HEADER_SIZE as usize]) -> Result<Self, Invalid> {
        let header = Header::decode(bytes)?;
        match header.command {
            Command::Prepare(prepare) => Ok(header.with(prepare)),
            _ => Err(Invalid::Field("not a prepare")),
        }
    }

    /// What identifies this prepare.
    pub fn id(&self) -> PrepareId {
        PrepareId {
            op: self.command.op,
            view: self.view,
            checksum: self.checksum,
            checksum_body: self.checksum_body,
        }
    }

    /// The identity of the prepare before this one. Not for the root.
    pub fn parent_id(&self) -> PrepareId {
        assert!(self.command.op > 0);
        let super::Parent { view, checksum, checksum_body } = self.command.parent;
        PrepareId { op: self.command.op - 1, view, checksum, checksum_body }
    }

    /// The position in the log.
    pub fn op(&self) -> super::Op {
        self.command.op
    }

    /// The root of every log: op 0, the same for all replicas of a cluster.
    pub fn root(cluster: ClusterId) -> Self {
        let author = Author { cluster, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        Self::seal(&author, super::Prepare::default(), &[])
    }
}
