//! F5: the replica.

pub mod executor;
pub mod sessions;
