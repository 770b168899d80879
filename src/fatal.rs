//! The ways a replica ends that are neither success nor a contradiction of its own: a hopeless
//! environment, one clear line, a numbered exit status. `docs/operating.md` lists them.
//!
//! **Invariants:** a status is never reused; the line says what, which value, and what to do.

use std::fmt;

/// Why the process must end. The text is the one line a person reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal {
    /// The kind, which is the exit status.
    pub kind: FatalKind,
    /// What, which value, what to do.
    pub text: String,
}

/// The exit statuses of fatal ends. 0 to 5 belong to the other commands, 126 to 129 to `vsr sim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum FatalKind {
    /// The data file is not there.
    NotFound = 10,
    /// `format`: the data file is there already.
    Exists = 11,
    /// No permission for the data file.
    Permission = 12,
    /// Another process has the data file.
    Locked = 13,
    /// The file system has no direct I/O.
    NoDirectIO = 14,
    /// Not a data file, or of another version.
    NotADataFile = 15,
    /// The data file is shorter than its geometry says.
    Truncated = 16,
    /// Too few good copies of the superblock.
    SuperblockLost = 17,
    /// The journal is damaged and nobody else could know what was in it.
    JournalLost = 18,
    /// The data file is another replica's, or another cluster's, or of another replica count.
    Mismatch = 19,
    /// The listen address cannot be had.
    Listen = 20,
    /// A write failed: after that nothing is known.
    WriteFailed = 21,
    /// The disk is full.
    DiskFull = 22,
    /// The cluster knows this replica by another incarnation: its file was lost or replaced.
    Replaced = 23,
    /// Any other failure of the operating system.
    OperatingSystem = 24,
    /// The others have another state at the same op.
    CheckpointDiverged = 25,
    /// A block is damaged that only this replica had: a restart computes it again.
    BlockLost = 26,
}

impl Fatal {
    /// A fatal end with its line.
    pub fn new(kind: FatalKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// The exit status of the process.
    pub fn exit_status(&self) -> u8 {
        self.kind as u8
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
