//! The built binary as a user has it: real processes, real sockets, real files, real signals.
//!
//! ```text
//!   normal       commands and their results; start orders; clean ends
//!   crash        SIGKILL under load: one, all, in clusters of 1 to 6
//!   checkpoint   SIGKILL in the middle of a checkpoint, and of taking one over
//!   pause        SIGSTOP: a primary that was deposed while it slept
//!   disk         rot in the journal, a full log, a full disk
//!   connections  clients that leave, frames in pieces, garbage, half-open connections
//!   input        everything a person can get wrong
//!   inspect      data files of replicas that ended, and of one that takes over a checkpoint
//!   recover      data files that are gone
//!   store        blocks that nobody has, and replicas whose states differ
//!   resources    CPU, memory and start time of an idle replica
//!   numbers      latency around checkpoints, memory under load: printed
//! ```
//!
//! **Invariants:** no test depends on how long something takes, except where that is what is
//! claimed; every wait is bounded; ports and folders are each test's own; each test leaves no
//! process behind.
//!
//! **Not here:** what a simulation reaches better: lost and reordered messages, torn writes.

mod checkpoint;
mod connections;
mod crash;
mod disk;
mod harness;
mod input;
mod inspect;
mod normal;
mod numbers;
mod pause;
mod recover;
mod resources;
mod store;
