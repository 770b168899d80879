//! F4: what an author of a replicated state machine writes: plain functions over an ordered map.
//!
//! ```text
//!   request ──► validate ──► the log ──► validate, apply | query ──► (result, reply)
//!                  │                              │
//!               reject(invalid)                Store: all state there is
//! ```
//!
//! **Invariants:** `apply` is a pure function of the store, the context and the request: the same
//! on every replica. All state is in the [`Store`]; `&self` is configuration.
//!
//! **Not here:** networks, disks, logs, snapshots: the author never sees them.

pub mod kv;

pub use crate::store::{
    Direction, KEY_SIZE_MAX, RESULT_READ_TOO_LARGE, RESULT_RESERVED_MIN, START_SIZE_MAX, Start,
    Stop, Store, Table,
};
use crate::wire::Op;

/// The result of a request that was carried out.
pub const RESULT_OK: u32 = 0;
/// The reply would have been longer than may be; nothing was written.
pub const RESULT_REPLY_TOO_LARGE: u32 = RESULT_RESERVED_MIN + 1;
/// `validate` refused the request, though it is in the log; nothing was written.
pub const RESULT_INVALID: u32 = RESULT_RESERVED_MIN + 2;
/// The state machine stopped with a code that is not its own to use; nothing was written.
pub const RESULT_STOP_INVALID: u32 = RESULT_RESERVED_MIN + 3;

/// A replicated state machine.
pub trait StateMachine {
    /// Whether `request` is well formed. Total: asked of arbitrary bytes, by the primary before
    /// anything is logged and by every replica before `apply` or `query`.
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
    /// What the store stops with is passed on; [`Stop::Reject`] abandons all writes of this
    /// request and answers with its code. A request may read 16 messages of the largest size
    /// (`--message-size`), then the store says [`RESULT_READ_TOO_LARGE`].
    fn apply(
        &self,
        store: &mut Store,
        context: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop>;

    /// Answers `request`, which `validate` accepted, without changing anything.
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
    pub keys: Vec<(Table, Vec<u8>)>,
}

/// The reply under construction.
#[derive(Debug)]
pub struct Reply {
    /// The bytes the client gets.
    pub bytes: Vec<u8>,
    size_max: usize,
}

impl Reply {
    /// An empty reply that may grow to `size_max` bytes.
    pub fn new(size_max: u32) -> Self {
        Self { bytes: Vec::new(), size_max: size_max as usize }
    }

    /// The most bytes the reply may have. Longer, it is replaced by [`RESULT_REPLY_TOO_LARGE`] and
    /// what the request wrote is abandoned.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// How many more bytes fit.
    pub fn room(&self) -> usize {
        self.size_max.saturating_sub(self.bytes.len())
    }

    /// Whether the reply is longer than it may be. Nothing that is added can mend that.
    pub fn is_too_large(&self) -> bool {
        self.bytes.len() > self.size_max
    }
}
