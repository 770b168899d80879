//! Small things the standard library does not have. The ground floor: it knows nothing of
//! replication, and every floor may use it.

mod aligned_buffer;
mod prng;

pub use aligned_buffer::AlignedBuffer;
pub(crate) use aligned_buffer::is_sectors;
pub use prng::{Prng, Ratio};
