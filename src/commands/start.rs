//! F6: `vsr start`: runs a replica until it is asked to end (SIGTERM, SIGINT) or cannot go on.
//!
//! **Invariants:** nothing is on stdout but, where a port was left to the system (port 0), the one
//! line `listening on ADDRESS`; SIGTERM and SIGINT end it with status 0.
//!
//! **Not here:** what a replica does (`vsr::server`).

use super::{Exit, Result, print};
use crate::cli;
use vsr::io::MioOptions;
use vsr::server::{ServerConfig, serve};
use vsr::state_machine::kv::Kv;

/// `vsr start`.
pub(super) fn run(arguments: cli::Start) -> Result {
    let options = MioOptions { development: arguments.development, ..MioOptions::default() };
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
    serve(config, options, Kv::new(), |address| {
        if own.port() == 0 {
            // Whoever does not read it does not need it.
            let _ = print(&format!("listening on {address}\n"));
        }
    })?;
    Ok(Exit::Done)
}
