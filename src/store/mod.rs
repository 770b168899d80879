//! F3: the ordered map that holds all state of a state machine, and the sessions.

/// Why a request ended before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The store must load something first; the request will be applied again.
    Suspend,
    /// The state machine refuses, with its own code (> 0, < `0xffff_0000`). Nothing is written.
    Reject(u32),
}

/// An ordered map of bytes to bytes.
#[derive(Debug, Default)]
pub struct Store {}
