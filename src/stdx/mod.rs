//! Small things the standard library does not have. The ground floor: it knows nothing of
//! replication, and every floor may use it.

mod aligned_buffer;
mod bound;
mod prng;

pub mod defect;

pub use aligned_buffer::AlignedBuffer;
pub(crate) use aligned_buffer::is_sectors;
pub use bound::Bound;
pub(crate) use defect::defect;
pub use prng::{Prng, Ratio};

/// Whether all bytes are zero.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    // In pieces of which the processor takes many bytes at a time.
    let is_zero = |chunk: &[u8]| chunk.iter().fold(0, |all, byte| all | byte) == 0;
    let (chunks, rest) = bytes.as_chunks::<256>();
    chunks.iter().all(|chunk| is_zero(chunk)) && is_zero(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_that_is_not_zero_is_found() {
        for size in [0, 1, 255, 256, 257, 4000] {
            let mut bytes = vec![0; size];
            assert!(is_zero(&bytes));
            for index in 0..size {
                bytes[index] = 0x10;
                assert!(!is_zero(&bytes), "{index} of {size}");
                bytes[index] = 0;
            }
        }
    }
}
