//! A zeroed byte buffer whose first byte lies on a sector boundary and whose length is whole
//! sectors: what direct I/O wants. Ground floor.
//!
//! ```text
//! vec:  [....padding....|=========== the buffer ===========|..rest..]
//!                       ^ offset, aligned to SECTOR_SIZE
//! ```
//!
//! **Invariants:** the vector never grows after creation, so the aligned offset stays true.
//!
//! **Not here:** `unsafe`. One sector of slack per buffer is the price for not needing it.

use crate::constants::SECTOR_SIZE;
use bytes::Bytes;

/// An owned, zero-initialized, sector-aligned buffer of whole sectors.
pub struct AlignedBuffer {
    vec: Vec<u8>,
    offset: usize,
    size: usize,
}

impl AlignedBuffer {
    /// A zeroed buffer of at least `size` bytes, rounded up to whole sectors. `size` > 0.
    pub fn zeroed(size: u32) -> Self {
        assert!(size > 0);
        let sector = SECTOR_SIZE as usize;
        let size = (size as usize).next_multiple_of(sector);
        let vec = vec![0; size + sector - 1];
        let offset = vec.as_ptr().align_offset(sector);
        assert!(offset < sector);
        Self { vec, offset, size }
    }

    /// A buffer that holds a copy of `bytes`, zero padded to whole sectors.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let size = u32::try_from(bytes.len()).expect("buffers are bounded by the message size");
        let mut buffer = Self::zeroed(size.max(1));
        buffer.as_mut()[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// The size in bytes, a multiple of the sector size.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Always false: an aligned buffer has at least one sector.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Turns the buffer into shared, immutable bytes without copying.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

/// Whether `bytes` can be handed to direct I/O as they are: aligned and of whole sectors.
pub(crate) fn is_sectors(bytes: &[u8]) -> bool {
    let sector = SECTOR_SIZE as usize;
    !bytes.is_empty()
        && bytes.len().is_multiple_of(sector)
        && (bytes.as_ptr() as usize).is_multiple_of(sector)
}

impl AsRef<[u8]> for AlignedBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.vec[self.offset..self.offset + self.size]
    }
}

impl AsMut<[u8]> for AlignedBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.vec[self.offset..self.offset + self.size]
    }
}

impl std::fmt::Debug for AlignedBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AlignedBuffer({} bytes)", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_zeroed_and_whole_sectors() {
        for size in [1, 127, 4096, 4097, 1 << 20] {
            let buffer = AlignedBuffer::zeroed(size);
            assert!(is_sectors(buffer.as_ref()));
            assert!(buffer.len() >= size as usize);
            assert!(buffer.len() < size as usize + SECTOR_SIZE as usize);
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
            let frozen = buffer.freeze();
            assert!(is_sectors(&frozen));
        }
    }

    #[test]
    fn copies_and_pads() {
        let buffer = AlignedBuffer::copy_of(b"hello");
        assert_eq!(&buffer.as_ref()[..5], b"hello");
        assert!(buffer.as_ref()[5..].iter().all(|byte| *byte == 0));
        assert!(!is_sectors(&[0; 4096][1..]));
    }
}
