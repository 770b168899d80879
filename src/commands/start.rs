//! F6: `vsr start`: runs a replica until it is asked to end (SIGTERM, SIGINT) or cannot go on.
//!
//! **Invariants:** nothing is on stdout but, where a port was left to the system (port 0), the one
//! line `listening on ADDRESS`; SIGTERM and SIGINT end it with status 0.
//!
//! **Not here:** what a replica does (`vsr::server`).

use super::{Exit, Result, operating_system, print};
use crate::cli;
use vsr::io::{MioIO, MioOptions};
use vsr::server::{Server, ServerConfig};
use vsr::state_machine::kv::Kv;

/// `vsr start`.
pub(super) fn run(arguments: cli::Start) -> Result {
    let options =
        MioOptions { development: arguments.development, signals: true, ..MioOptions::default() };
    let mut io = MioIO::new(options).map_err(operating_system)?;
    let own = arguments.listen.unwrap_or(arguments.addresses[arguments.replica.index()]);
    let config = ServerConfig {
        path: arguments.path,
        replica: arguments.replica,
        cluster: arguments.cluster,
        addresses: arguments.addresses,
        listen: arguments.listen,
        cache_size: arguments.cache_size,
        size_limit: arguments.size_limit,
    };
    let mut server = Server::open(&mut io, config, Kv::new())?;
    let address = server.address();
    log::info!("replica {} listening on {address}", arguments.replica);
    if own.port() == 0 {
        print(&format!("listening on {address}\n"))?;
    }
    server.run(&mut io)?;
    log::info!("replica {} ends, as it was asked to", arguments.replica);
    Ok(Exit::Done)
}
