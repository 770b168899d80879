//! F2: writes a fresh data file, every byte of it.
//!
//! ```text
//!   1. headers ring: root | formatted | formatted | …   2. prepares ring: the same, then zeros
//!   3. superblock, when all else is durable: a file that is not finished is no data file
//! ```
//!
//! Really writing it means that the disk has the room, that the file system will not have to find
//! it later, and that no sector is read for the first time in an emergency.
//!
//! What the superblock says may be known only later ([`Format::prepared`]): then zeros take its
//! place first, so that the last write needs no room that is not there already.
//!
//! **Invariants:** at most `WRITES_MAX` writes of at most `CHUNK_SIZE` bytes in flight; the
//! superblock is the last write, alone.
//!
//! **Not here:** creating the file, its directory, whether there is one already.

use super::layout::{Geometry, Layout, SUPERBLOCK_COPIES, SUPERBLOCK_COPY_SIZE};
use super::slot::Redundant;
use super::superblock::{SuperblockState, superblock_zone};
use super::{Request, Token};
use crate::constants::{HEADER_SIZE, HEADERS_PER_SECTOR, SECTOR_SIZE};
use crate::stdx::AlignedBuffer;
use crate::wire::{ClusterId, Header};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Writes in flight at most.
const WRITES_MAX: usize = 8;
/// The largest write, bytes.
const CHUNK_SIZE: u64 = 1 << 20;
/// The superblock zone, bytes.
const ZONE_SIZE: u64 = SUPERBLOCK_COPY_SIZE as u64 * SUPERBLOCK_COPIES as u64;

/// A data file being written.
#[derive(Debug)]
pub struct Format {
    cluster: ClusterId,
    /// What the superblock is to say, once that is known.
    state: Option<SuperblockState>,
    layout: Layout,
    /// Zeros are to be written where the superblock will be.
    is_place_due: bool,
    /// Where the next chunk begins.
    offset: u64,
    superblock_issued: bool,
    /// By write id: bytes, but for those of the zeros in the superblock's place.
    in_flight: BTreeMap<u32, u64>,
    write_next: u32,
    done: u64,
    /// A chunk without any marker in it, shared.
    zeros: Bytes,
}

impl Format {
    /// Of a file whose superblock says `state`.
    pub fn new(state: &SuperblockState) -> Self {
        assert_eq!(state.invalid(), None);
        let format = Self::prepared(state.cluster, state.geometry);
        Self { state: Some(state.clone()), is_place_due: false, ..format }
    }

    /// Of a file that has everything but a superblock, until [`Self::complete`] says what that is.
    /// Without one it is no data file, and is refused by whoever opens it.
    pub fn prepared(cluster: ClusterId, geometry: Geometry) -> Self {
        let layout = Layout::new(geometry);
        let size = u32::try_from(CHUNK_SIZE).expect("1 MiB");
        Self {
            cluster,
            state: None,
            layout,
            is_place_due: true,
            offset: layout.headers_offset(0),
            superblock_issued: false,
            in_flight: BTreeMap::new(),
            write_next: 0,
            done: 0,
            zeros: AlignedBuffer::zeroed(size).freeze(),
        }
    }

    /// From here on it is known what the superblock says.
    pub fn complete(&mut self, state: &SuperblockState) {
        assert_eq!(state.invalid(), None);
        assert_eq!((state.cluster, state.geometry), (self.cluster, self.layout.geometry));
        assert!(self.is_prepared() && self.state.is_none());
        self.state = Some(state.clone());
    }

    /// Whether everything but the superblock is durable.
    pub fn is_prepared(&self) -> bool {
        let is_issued = self.offset == self.layout.grid_offset() && !self.is_place_due;
        is_issued && (self.in_flight.is_empty() || self.superblock_issued)
    }

    /// Issues as many writes as may be in flight.
    pub fn advance(&mut self, requests: &mut Vec<Request>) {
        let end = self.layout.grid_offset();
        assert!(self.offset <= end);
        if self.is_place_due {
            self.is_place_due = false;
            let zeros = self.zeros.slice(..to_usize(ZONE_SIZE));
            self.push(0, zeros, 0, requests);
        }
        while self.in_flight.len() < WRITES_MAX && self.offset < end {
            let size = CHUNK_SIZE.min(end - self.offset);
            let sectors = self.chunk(self.offset, size);
            self.push(self.offset, sectors, size, requests);
            self.offset += size;
        }
        if let Some(state) = self.state.as_ref().filter(|_| self.is_prepared())
            && !self.superblock_issued
        {
            let zone = superblock_zone(state).freeze();
            self.superblock_issued = true;
            self.push(0, zone, ZONE_SIZE, requests);
        }
    }

    fn push(&mut self, offset: u64, sectors: Bytes, counted: u64, requests: &mut Vec<Request>) {
        assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
        assert!(offset + sectors.len() as u64 <= self.layout.grid_offset());
        assert!(crate::stdx::is_sectors(&sectors));
        let id = self.write_next;
        self.write_next += 1;
        self.in_flight.insert(id, counted);
        requests.push(Request::Write { token: Token::Scan { id }, offset, sectors });
    }

    /// A write is complete.
    pub fn on_write_done(&mut self, token: Token) {
        let Token::Scan { id } = token else { panic!("not a write of a format: {token:?}") };
        self.done += self.in_flight.remove(&id).expect("a write was in flight");
        assert!(self.done <= self.layout.grid_offset());
    }

    /// Whether the file is complete and durable.
    pub fn is_done(&self) -> bool {
        self.done == self.layout.grid_offset()
    }

    /// Bytes written, of how many.
    pub fn progress(&self) -> (u64, u64) {
        (self.done, self.layout.grid_offset())
    }

    /// The bytes of the file from `offset` on.
    fn chunk(&self, offset: u64, size: u64) -> Bytes {
        assert!(offset >= ZONE_SIZE);
        let prepares = self.layout.prepare_offset(0);
        let slot_size = u64::from(self.layout.geometry.message_size);
        let sector_size = u64::from(SECTOR_SIZE);
        let has_slot = offset.next_multiple_of_from(prepares, slot_size) < offset + size;
        if offset >= prepares && !has_slot {
            return self.zeros.slice(..to_usize(size));
        }
        let mut buffer = AlignedBuffer::zeroed(u32::try_from(size).expect("at most CHUNK_SIZE"));
        let mut at = offset;
        while at < offset + size {
            let start = to_usize(at - offset);
            if at < prepares {
                let index = (at - self.layout.headers_offset(0)) / sector_size;
                let index = u32::try_from(index).expect("a sector of the ring");
                buffer.put(start, &self.headers(index));
                at += sector_size;
            } else {
                let next = at.next_multiple_of_from(prepares, slot_size);
                if next == at {
                    let slot = u32::try_from((at - prepares) / slot_size).expect("a slot");
                    buffer.put(start, &first_header(self.cluster, slot));
                }
                at = (at + 1).next_multiple_of_from(prepares, slot_size);
            }
        }
        buffer.freeze()
    }

    /// Sector `index` of the headers ring.
    fn headers(&self, index: u32) -> [u8; SECTOR_SIZE as usize] {
        let mut sector = [0; SECTOR_SIZE as usize];
        let (entries, _) = sector.as_chunks_mut::<{ HEADER_SIZE as usize }>();
        for (slot, entry) in (index * HEADERS_PER_SECTOR..).zip(entries) {
            *entry = first_header(self.cluster, slot);
        }
        sector
    }
}

/// What a fresh slot begins with, in both rings: the root in slot 0, else the marker.
fn first_header(cluster: ClusterId, slot: u32) -> [u8; HEADER_SIZE as usize] {
    match slot {
        0 => Redundant::Header(Header::root(cluster)).encode(cluster, slot),
        _ => Redundant::Formatted.encode(cluster, slot),
    }
}

trait NextMultiple {
    /// The lowest `base` + k * `step` that is not below `self`; `self` itself if that is one.
    fn next_multiple_of_from(self, base: u64, step: u64) -> u64;
}

impl NextMultiple for u64 {
    fn next_multiple_of_from(self, base: u64, step: u64) -> u64 {
        base + self.saturating_sub(base).next_multiple_of(step)
    }
}

fn to_usize(size: u64) -> usize {
    usize::try_from(size).expect("at most CHUNK_SIZE")
}

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
