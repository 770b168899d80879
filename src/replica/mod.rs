//! F5: the replica. Sans-IO: inputs are calls, outputs are data.

pub mod clock;
pub mod fault_detector;
pub mod marzullo;
