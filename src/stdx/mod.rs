//! Small things the standard library does not have. The ground floor: it knows nothing of
//! replication, and every floor may use it.

mod aligned_buffer;
mod prng;

pub mod defect;

pub use aligned_buffer::AlignedBuffer;
pub(crate) use aligned_buffer::is_sectors;
pub(crate) use defect::defect;
pub use prng::{Prng, Ratio};
