//! F4: what an author of a replicated state machine writes: plain functions over an ordered map.
//!
//! **Invariants:** `apply` is a pure function of the store, the context and the request: the same on
//! every replica. All state is in the [`Store`]; `&self` is configuration.
//!
//! **Not here:** networks, disks, logs, snapshots: the author never sees them.

pub use crate::store::{Stop, Store};
use crate::wire::Op;

/// A replicated state machine.
pub trait StateMachine {
    /// Whether `request` is well formed. Asked by the primary before anything is logged.
    ///
    /// # Errors
    /// Why not, for the log of the server. The client is told `reject(invalid)`.
    fn validate(&self, request: &[u8]) -> Result<(), InvalidRequest>;

    /// A hint which keys a request will touch. Wrong is only slow.
    fn keys(&self, request: &[u8], keys: &mut Keys) {
        let _ = (request, keys);
    }

    /// Carries out `request`, which `validate` accepted.
    ///
    /// # Errors
    /// [`Stop::Suspend`] of the store is passed on; [`Stop::Reject`] abandons all writes of this
    /// request and answers with its code.
    fn apply(
        &self,
        store: &mut Store,
        context: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop>;

    /// Answers `request` without changing anything.
    ///
    /// # Errors
    /// As for `apply`.
    fn query(&self, store: &Store, request: &[u8], reply: &mut Reply) -> Result<(), Stop>;
}

/// Why a request is not well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidRequest(pub &'static str);

/// What `apply` may know beside the request. The same on every replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// The op that carries the request.
    pub op: Op,
    /// Strictly increasing over all requests, ns since 1970 as far as the cluster's clocks agree.
    pub timestamp: u64,
}

/// Keys a request will touch.
#[derive(Debug, Default)]
pub struct Keys {
    /// In any order.
    pub keys: Vec<Vec<u8>>,
}

/// The reply under construction. Longer than
/// [`REPLY_BODY_SIZE_MAX`](crate::constants::REPLY_BODY_SIZE_MAX) it is replaced by a code.
#[derive(Debug, Default)]
pub struct Reply {
    /// The bytes the client gets.
    pub bytes: Vec<u8>,
}
