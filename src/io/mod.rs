//! F5: the seam to the world: sockets, the data file, clocks, entropy. Everything above this trait
//! runs unchanged in production ([`MioIO`]) and in the simulator.
//!
//! ```text
//!   Server / Client ── &mut io ──►  trait IO  ◄── MioIO      sockets by readiness (mio),
//!                                             ◄── FaultyIO   files by completion
//! ```
//!
//! *Sockets* are readiness based and edge triggered, exactly as mio is: after an event, `recv`,
//! `send` or `accept` until `WouldBlock`; spurious events happen; a close or an error shows as
//! readable and is found by the call. A socket that was just opened or accepted is announced too,
//! with what it is ready for. *Files* are completion based: the call queues, the result comes as an
//! event out of a later [`IO::run`], never inside the call.
//!
//! **Invariants:** no callback, so no reentrancy; ids are never reused while the program runs (or
//! not before billions of others); every queued file operation completes exactly once, in any
//! order; time and entropy enter the program here and nowhere else. To name a socket that is not
//! open, or is of the other kind, is a defect of the caller: a panic.
//!
//! **Not here:** messages, peers, retries.

mod file;
mod mio;
mod socket;
#[cfg(test)]
mod test_directory;
mod transfer;

pub use self::mio::{MioIO, MioOptions};

use crate::stdx::AlignedBuffer;
use bytes::Bytes;
use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

/// A socket or listener. A closed one is never mistaken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u32);

/// An open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u32);

/// The caller's name for one file operation, given back with its result.
pub type FileToken = u64;

/// What [`IO::run`] reports.
#[derive(Debug)]
pub enum Event {
    /// A listener has connections to accept, or a socket may have become ready. Edge triggered.
    Socket {
        /// Which.
        socket: SocketId,
        /// Bytes, an end of stream, an error, or (for a listener) a connection may be there.
        readable: bool,
        /// Room to send, or the end of a connect: see [`IO::connect`].
        writable: bool,
    },
    /// A read is complete. What could not be read is zero in the buffer and listed.
    ReadDone {
        /// The caller's token.
        token: FileToken,
        /// The bytes.
        buffer: AlignedBuffer,
        /// Byte ranges of the buffer that the device could not deliver (EIO, end of file): whole
        /// sectors, ascending, neither overlapping nor adjacent.
        unreadable: Vec<Range<u32>>,
    },
    /// A write is complete and durable, or failed for good.
    WriteDone {
        /// The caller's token.
        token: FileToken,
        /// `StorageFull` is the only error a caller may survive. After any error, what the sectors
        /// hold is not known: the old, the new, or some of each.
        result: Result<()>,
    },
    /// The process was asked to end (SIGTERM, SIGINT).
    Terminate,
}

/// How to open a data file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Must not exist yet; read and write, exclusively locked. It is empty, and that it exists is
    /// durable. When this fails, nothing is left behind.
    Create,
    /// Must exist; read and write, exclusively locked; file and directory are synced first.
    Existing,
    /// Must exist; read only, not locked, so that the file of a running replica can be looked at.
    /// Direct I/O where there is any.
    ReadOnly,
}

/// Why a data file could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// There is no such file, or for `Create` no such directory.
    NotFound,
    /// `Create` and it is there already.
    Exists,
    /// No permission, for the file or for its directory.
    Permission,
    /// Another process holds its lock.
    Locked,
    /// The file system does not support direct I/O, and `development` was not set.
    NoDirectIO,
    /// Not a regular file or block device.
    NotAFile,
    /// Anything else.
    Other(std::io::Error),
}

/// The world, as the server and the client see it.
pub trait IO {
    /// Listens on `address`; port 0 takes a free one. Returns the address in force.
    ///
    /// # Errors
    /// The address is in use or not of this machine.
    fn listen(&mut self, address: SocketAddr) -> Result<(SocketId, SocketAddr)>;

    /// Begins to connect. A `writable` event ends it; then [`IO::connected`] tells how.
    ///
    /// # Errors
    /// The attempt could not even begin, or failed at once. There is no socket to close.
    fn connect(&mut self, address: SocketAddr) -> Result<SocketId>;

    /// After a `writable` event of a connecting socket: true when it is connected, false when it is
    /// still connecting (a spurious event).
    ///
    /// # Errors
    /// The connection was refused, or timed out. The socket is still to be closed.
    fn connected(&mut self, socket: SocketId) -> Result<bool>;

    /// Accepts one connection.
    ///
    /// # Errors
    /// `WouldBlock` when there is none, for now. Anything else concerns this one connection or the
    /// moment (no descriptors left): the listener stays good and is announced again. The caller may
    /// wait for that or go on to `WouldBlock`, which comes soon.
    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr)>;

    /// Receives into `buffer`, which is not empty. 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; else the connection is dead.
    fn recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> Result<usize>;

    /// Sends some of `slices`, which are not empty; returns how many bytes, at least 1.
    ///
    /// # Errors
    /// `WouldBlock` when there is no room; else the connection is dead.
    fn send(&mut self, socket: SocketId, slices: &[IoSlice<'_>]) -> Result<usize>;

    /// Closes a socket or listener. No later [`IO::run`] reports an event of it; what `run` has
    /// reported and the caller has not looked at may still name it. What was sent is still
    /// delivered, unless there are received bytes that nobody took: then the peer sees a reset.
    fn close(&mut self, socket: SocketId);

    /// Opens a data file for whole, aligned sectors. Writes are durable when they complete. It
    /// stays open, and locked, as long as the IO lives. May block for part of a second while
    /// another process holds the lock.
    ///
    /// # Errors
    /// See [`OpenError`].
    fn open_file(&mut self, path: &Path, mode: OpenMode) -> std::result::Result<FileId, OpenError>;

    /// The size of the file, or of the block device, in bytes. Not necessarily whole sectors.
    ///
    /// # Errors
    /// The file system's.
    fn file_size(&mut self, file: FileId) -> Result<u64>;

    /// Queues a read that fills `buffer` from `offset` bytes, a multiple of the sector size. Reads
    /// and writes of the same sectors in flight together see each other or do not.
    fn read(&mut self, file: FileId, offset: u64, buffer: AlignedBuffer, token: FileToken);

    /// Queues a write of `sectors` (aligned, whole sectors) at `offset` bytes, a multiple of the
    /// sector size, to a file that was not opened `ReadOnly`. It may be past the end, which grows
    /// the file. The queue is not bounded here: its users have bounds of their own.
    fn write(&mut self, file: FileId, offset: u64, sectors: Bytes, token: FileToken);

    /// Waits at most `timeout` for something to happen, carries queued file operations forward, and
    /// appends what happened to `events`. Returns early as soon as there is an event, and may
    /// return early without one (a signal). May oversleep by a millisecond or so, and by the time
    /// that one file operation takes.
    fn run(&mut self, timeout: Duration, events: &mut Vec<Event>);

    /// Nanoseconds on a clock that never goes back, from an arbitrary start. Not comparable between
    /// two instances.
    fn monotonic(&mut self) -> u64;

    /// Nanoseconds since 1970 on the wall clock, which may be wrong and may jump.
    fn realtime(&mut self) -> u64;

    /// 64 random bits: for seeds, client ids, incarnations.
    fn entropy(&mut self) -> u64;
}
