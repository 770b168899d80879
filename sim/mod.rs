//! The simulator: the production code in a world that breaks everything, the same way every time
//! for the same seed. `docs/simulator.md` is its guide.
//!
//! ```text
//!   run ──► Cluster ── turns ──► Server, Endpoint ── calls ──► FaultyIO ──────┐
//!    │         │                                                              ▼
//!    │         ├── faults of processes, partitions ────────────────────► World { scheduler,
//!    │         └── what happened ──► checkers                               network, disks }
//!    └── options, phases, report
//! ```
//!
//! **Invariants:** only the library's public API is used; one thread, no clock, no entropy but the
//! seed, no floating point.
//!
//! **Not here:** anything of the product.

mod checkers;
mod cluster;
mod command;
mod disk;
mod fault;
mod faulty_io;
#[path = "../docs/examples/ledger.rs"]
#[expect(dead_code, reason = "serving it, and asking it, is the example's own")]
mod ledger;
mod machine;
mod network;
mod options;
mod partition;
mod random;
mod report;
mod run;
mod scheduler;
mod speaker;
mod speed;
mod trace;
mod workload;
mod world;

#[cfg(test)]
mod golden;
#[cfg(test)]
mod golden_scenarios;
#[cfg(test)]
mod golden_world;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod tests;

pub(crate) use command::main;
