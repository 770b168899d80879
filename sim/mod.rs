//! The simulator: the production code in a world that breaks everything.
//!
//! **Not here:** anything of the library's inside: only its public API is used.

pub(crate) mod checkers;
