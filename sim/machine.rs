//! What the replicas of a run replicate: kv, or the author's example, the ledger.
//!
//! **Invariants:** all replicas of a run have the same one; each is the code that is shipped.
//!
//! **Not here:** what clients ask of it (`workload`), and what is right (`checkers`).

use super::ledger::Ledger;
use vsr::state_machine::kv::Kv;
use vsr::state_machine::{Context, InvalidRequest, Keys, Reply, StateMachine, Stop, Store};

#[derive(Debug)]
pub(crate) enum Machine {
    Kv(Kv),
    Ledger(Ledger),
}

impl Machine {
    /// By the knob `machine`.
    pub(crate) fn new(number: u64) -> Self {
        match number {
            0 => Self::Kv(Kv::new()),
            _ => Self::Ledger(Ledger),
        }
    }
}

impl StateMachine for Machine {
    fn validate(&self, request: &[u8]) -> Result<(), InvalidRequest> {
        match self {
            Self::Kv(machine) => machine.validate(request),
            Self::Ledger(machine) => machine.validate(request),
        }
    }

    fn keys(&self, request: &[u8], keys: &mut Keys) {
        match self {
            Self::Kv(machine) => machine.keys(request, keys),
            Self::Ledger(machine) => machine.keys(request, keys),
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        context: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop> {
        match self {
            Self::Kv(machine) => machine.apply(store, context, request, reply),
            Self::Ledger(machine) => machine.apply(store, context, request, reply),
        }
    }

    fn query(&self, store: &Store, request: &[u8], reply: &mut Reply) -> Result<(), Stop> {
        match self {
            Self::Kv(machine) => machine.query(store, request, reply),
            Self::Ledger(machine) => machine.query(store, request, reply),
        }
    }
}
