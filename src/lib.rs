//! vsr: Viewstamped Replication (VRR) as one small binary and one library.
//!
//! The modules are the floors of a tower, from the ground up; each uses only those below it.
//! `docs/architecture.md` is the guide.

pub mod constants;
pub mod fatal;
pub mod stdx;

pub mod wire;

pub mod storage;

pub mod store;

pub mod state_machine;

pub mod replica;

pub mod io;

pub mod client;

pub mod bus;

pub mod server;

pub mod recovery;
