//! A zeroed byte buffer whose first byte lies on a sector boundary and whose length is whole
//! sectors: what direct I/O wants. Ground floor.
//!
//! ```text
//! vec:  [....padding....|=========== the buffer ===========|..rest..]
//!                       ^ offset, aligned to SECTOR_SIZE
//! ```
//!
//! The memory of large buffers is kept by the thread that drops them and used again: the system
//! takes much longer to give a mebibyte anew, page by page, than it takes to fill it with zeros. Of
//! a buffer that was only written with [`AlignedBuffer::put`], no more is filled than was written.
//!
//! **Invariants:** the vector never grows after creation, so the aligned offset stays true; what is
//! not in `written` is zero; a thread keeps at most [`SPARE_BYTES_MAX`].
//!
//! **Not here:** `unsafe`. One sector of slack per buffer is the price for not needing it.

use crate::constants::SECTOR_SIZE;
use bytes::Bytes;
use std::cell::RefCell;
use std::ops::Range;

/// Smaller buffers are the allocator's business, bytes.
const SPARE_SIZE_MIN: usize = 64 << 10;
/// What a thread keeps at most, bytes.
const SPARE_BYTES_MAX: usize = 16 << 20;
/// With more writes than these, a buffer counts as written everywhere.
const PUTS_MAX: usize = 512;

thread_local! {
    /// The vectors of large buffers that were dropped.
    static SPARE: RefCell<Spare> = const { RefCell::new(Spare { vecs: Vec::new(), bytes: 0 }) };
}

struct Spare {
    vecs: Vec<(Vec<u8>, Written)>,
    /// In all of them.
    bytes: usize,
}

/// Where a vector may hold something other than zeros.
enum Written {
    Ranges(Vec<Range<usize>>),
    Everywhere,
}

impl Spare {
    /// One of this very length, all zeros.
    fn take(&mut self, len: usize) -> Option<Vec<u8>> {
        let index = self.vecs.iter().rposition(|(vec, _)| vec.len() == len)?;
        let (mut vec, written) = self.vecs.swap_remove(index);
        self.bytes -= len;
        match written {
            Written::Ranges(ranges) => ranges.into_iter().for_each(|range| vec[range].fill(0)),
            Written::Everywhere => vec.fill(0),
        }
        Some(vec)
    }

    fn keep(&mut self, vec: Vec<u8>, written: Written) {
        if self.bytes + vec.len() <= SPARE_BYTES_MAX {
            self.bytes += vec.len();
            self.vecs.push((vec, written));
        }
    }
}

/// An owned, zero-initialized, sector-aligned buffer of whole sectors.
pub struct AlignedBuffer {
    vec: Vec<u8>,
    offset: usize,
    size: usize,
    written: Written,
}

impl AlignedBuffer {
    /// A zeroed buffer of at least `size` bytes, rounded up to whole sectors. `size` > 0.
    pub fn zeroed(size: u32) -> Self {
        assert!(size > 0);
        let sector = SECTOR_SIZE as usize;
        let size = (size as usize).next_multiple_of(sector);
        let vec = zeros(size + sector - 1);
        let offset = vec.as_ptr().align_offset(sector);
        assert!(offset < sector);
        Self { vec, offset, size, written: Written::Ranges(Vec::new()) }
    }

    /// A buffer that holds a copy of `bytes`, zero padded to whole sectors.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let size = u32::try_from(bytes.len()).expect("buffers are bounded by the message size");
        let mut buffer = Self::zeroed(size.max(1));
        buffer.put(0, bytes);
        buffer
    }

    /// Writes `bytes` at `offset`, bytes. They must fit.
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.size);
        let range = self.offset + offset..self.offset + offset + bytes.len();
        self.vec[range.clone()].copy_from_slice(bytes);
        match &mut self.written {
            Written::Ranges(ranges) if ranges.len() < PUTS_MAX => ranges.push(range),
            written => *written = Written::Everywhere,
        }
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

fn zeros(len: usize) -> Vec<u8> {
    let spare = || SPARE.try_with(|spare| spare.borrow_mut().take(len)).ok().flatten();
    let spare = if len >= SPARE_SIZE_MIN { spare() } else { None };
    spare.unwrap_or_else(|| vec![0; len])
}

impl Drop for AlignedBuffer {
    fn drop(&mut self) {
        if self.vec.len() >= SPARE_SIZE_MIN {
            let vec = std::mem::take(&mut self.vec);
            let written = std::mem::replace(&mut self.written, Written::Everywhere);
            // A thread that is ending keeps nothing.
            let _ = SPARE.try_with(|spare| spare.borrow_mut().keep(vec, written));
        }
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
        self.written = Written::Everywhere;
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
    fn large_buffers_are_used_again_zeroed_and_kept_within_bounds() {
        for round in 0..4 {
            let mut buffers: Vec<_> = (0..20).map(|_| AlignedBuffer::zeroed(1 << 20)).collect();
            for (index, buffer) in buffers.iter_mut().enumerate() {
                assert!(is_sectors(buffer.as_ref()));
                assert!(buffer.as_ref().iter().all(|byte| *byte == 0));
                match (index + round) % 3 {
                    0 => buffer.as_mut().fill(7),
                    // Some, or more than are remembered.
                    kind => (0..kind * 400).for_each(|put| buffer.put(put * 1000, &[9; 900])),
                }
            }
            drop(buffers);
            SPARE.with_borrow(|spare| {
                assert_eq!(spare.bytes, spare.vecs.iter().map(|(vec, _)| vec.len()).sum::<usize>());
                assert!(spare.bytes <= SPARE_BYTES_MAX);
                assert!(spare.vecs.len() >= 15);
            });
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
