//! F6: a replica as the whole business of a process: what `vsr start` does for kv, for any state
//! machine.
//!
//! **Invariants:** SIGTERM and SIGINT end it without an error; nothing is printed.
//!
//! **Not here:** flags and exit statuses: they are the program's.

use super::{Server, ServerConfig};
use crate::fatal::{Fatal, FatalKind};
use crate::io::{MioIO, MioOptions};
use crate::state_machine::StateMachine;
use crate::wire::ReplicaIndex;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The memory for blocks of the store, if nobody says otherwise, bytes.
const CACHE_SIZE_DEFAULT: u64 = 128 << 20;

impl ServerConfig {
    /// Replica `replica` of those that listen at `addresses`, with the data file that `vsr format`
    /// makes for it in the current folder, which may grow as far as there is room.
    pub fn new(replica: ReplicaIndex, addresses: Vec<SocketAddr>) -> Self {
        Self {
            path: PathBuf::from(format!("replica-{replica}.vsr")),
            replica,
            cluster: None,
            addresses,
            listen: None,
            cache_size: CACHE_SIZE_DEFAULT,
            size_limit: u64::MAX,
        }
    }
}

/// Runs a replica of `state_machine` in this thread, until the process is asked to end (SIGTERM,
/// SIGINT). `on_ready` is told where it listens. All replicas of a cluster run the same state
/// machine over files of the same format.
///
/// # Errors
/// What makes it impossible to begin, or to go on: a line for people, and an exit status.
pub fn serve<S: StateMachine>(
    config: ServerConfig,
    options: MioOptions,
    state_machine: S,
    on_ready: impl FnOnce(SocketAddr),
) -> Result<(), Fatal> {
    assert!(config.replica.index() < config.addresses.len(), "each replica has its address");
    let mut io = MioIO::new(MioOptions { signals: true, ..options }).map_err(|error| {
        let text = format!("the operating system refused: {error}");
        Fatal::new(FatalKind::OperatingSystem, text)
    })?;
    let replica = config.replica;
    let mut server = Server::open(&mut io, config, state_machine)?;
    let address = server.address();
    log::info!("replica {replica} listening on {address}");
    on_ready(address);
    server.run(&mut io)?;
    log::info!("replica {replica} ends, as it was asked to");
    Ok(())
}
