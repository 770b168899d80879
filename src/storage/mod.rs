//! F2: the data file of a replica: its layout, the superblock, the journal. Sans-IO: everything
//! here asks for sectors by pushing a [`Request`] and is told the result later.
//!
//! ```text
//! | superblock, 4 copies | wal headers ring | wal prepares ring | grid … |
//!
//!   format ──► a file ──► opening ──► Superblock + Journal ──► the replica owns them
//!                           │ recovery: the two rings compared, a table
//!                           │ slot: bytes of one slot
//! ```
//!
//! **Invariants:** all access is whole, aligned sectors; a zone is never written by another zone's
//! owner; nothing is durable before its `on_write_done`.
//!
//! **Not here:** files, threads, time; what a prepare means.

pub mod block;
pub mod format;
pub mod free_set;
#[cfg(test)]
mod geometry_tests;
pub mod journal;
pub mod layout;
pub mod opening;
pub mod recovery;
pub mod slot;
pub mod superblock;
pub mod survey;
#[cfg(test)]
pub(crate) mod test_disk;

use crate::stdx::AlignedBuffer;
use crate::wire::Op;
use bytes::Bytes;
use std::ops::Range;

pub use format::Format;
pub use free_set::FreeSet;
pub use journal::Journal;
pub use layout::{Geometry, Layout};
pub use opening::{Opened, Opening};
pub use superblock::{Superblock, SuperblockState};

/// What a sector request is for. Unique among the requests in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Token {
    /// Write of the prepare in this slot.
    WritePrepare {
        /// The op being written.
        op: Op,
        /// Its slot.
        slot: u32,
    },
    /// Write of this sector of the headers ring.
    WriteHeaders {
        /// From 0.
        sector: u32,
    },
    /// Read of a prepare; `id` tells reads apart.
    ReadPrepare {
        /// A running number.
        id: u32,
    },
    /// Write of a superblock copy.
    WriteSuperblock {
        /// Which, from 0.
        copy: u8,
    },
    /// Read back of a superblock copy.
    ReadSuperblock {
        /// Which, from 0.
        copy: u8,
    },
    /// A read while opening or a write while formatting; a running number.
    Scan {
        /// A running number.
        id: u32,
    },
    /// Write of one or more blocks of the grid.
    WriteBlock {
        /// A running number.
        id: u32,
    },
    /// Read of a block of the grid.
    ReadBlock {
        /// A running number.
        id: u32,
    },
    /// Write of zeros beyond the end of the grid. The one write that may fail, for want of space.
    GrowGrid,
}

/// A demand on the data file.
#[derive(Debug, Clone)]
pub enum Request {
    /// Fill `size` bytes from `offset`; answered by `on_read_done`.
    Read {
        /// For the answer.
        token: Token,
        /// Bytes from the start of the file, a multiple of the sector size.
        offset: u64,
        /// Bytes, a multiple of the sector size.
        size: u32,
    },
    /// Make `sectors` durable at `offset`; answered by `on_write_done`.
    Write {
        /// For the answer.
        token: Token,
        /// Bytes from the start of the file, a multiple of the sector size.
        offset: u64,
        /// Aligned, whole sectors.
        sectors: Bytes,
    },
}

/// The result of a read: bytes, and what of them the device could not deliver (zeroed).
#[derive(Debug)]
pub struct ReadResult {
    /// The bytes.
    pub buffer: AlignedBuffer,
    /// Ranges of the buffer that are not what the disk holds.
    pub unreadable: Vec<Range<u32>>,
}
