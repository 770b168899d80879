//! F2, tests only: a disk in memory that completes requests in any order, loses and tears what is
//! in flight when it crashes, rots, and cannot read what it was told not to.

use super::{Format, Opened, Opening, ReadResult, Request, SuperblockState, Token};
use crate::constants::SECTOR_SIZE;
use crate::fatal::Fatal;
use crate::stdx::{AlignedBuffer, Prng, Ratio};
use std::collections::BTreeSet;

/// The unit of which any subset survives when a write is torn, bytes: smaller than a sector, since
/// there are disks that write sectors in pieces.
const TEAR_SIZE: usize = 512;

#[derive(Debug)]
pub(crate) struct TestDisk {
    pub(crate) bytes: Vec<u8>,
    pub(crate) pending: Vec<Request>,
    pub(crate) unreadable: BTreeSet<u64>,
    pub(crate) prng: Prng,
    pub(crate) writes_count: u64,
    pub(crate) reads_max: usize,
}

#[derive(Debug)]
pub(crate) enum Completion {
    Write(Token),
    Read(Token, ReadResult),
}

impl TestDisk {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            bytes: Vec::new(),
            pending: Vec::new(),
            unreadable: BTreeSet::new(),
            prng: Prng::from_seed(seed),
            writes_count: 0,
            reads_max: 0,
        }
    }

    /// A freshly formatted data file.
    pub(crate) fn formatted(state: &SuperblockState) -> Self {
        let mut disk = Self::new(0);
        let mut format = Format::new(state);
        let mut requests = Vec::new();
        while !format.is_done() {
            format.advance(&mut requests);
            disk.submit(&mut requests);
            match disk.complete().expect("a format waits for its writes") {
                Completion::Write(token) => format.on_write_done(token),
                Completion::Read(..) => panic!("format does not read"),
            }
        }
        disk
    }

    pub(crate) fn submit(&mut self, requests: &mut Vec<Request>) {
        for request in requests.drain(..) {
            let (offset, size) = match &request {
                Request::Read { offset, size, .. } => (*offset, u64::from(*size)),
                Request::Write { offset, sectors, .. } => {
                    assert!(crate::stdx::is_sectors(sectors));
                    let end = offset + sectors.len() as u64;
                    for other in &self.pending {
                        if let Request::Write { offset: start, sectors, .. } = other {
                            let apart = *start >= end || start + sectors.len() as u64 <= *offset;
                            assert!(apart, "two writes of one place in flight");
                        }
                    }
                    (*offset, sectors.len() as u64)
                }
            };
            assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
            assert!(size > 0 && size.is_multiple_of(u64::from(SECTOR_SIZE)));
            self.pending.push(request);
        }
        let reads = self.pending.iter().filter(|request| matches!(request, Request::Read { .. }));
        self.reads_max = self.reads_max.max(reads.count());
    }

    fn apply(&mut self, offset: u64, sectors: &[u8]) {
        let start = usize::try_from(offset).unwrap();
        let end = start + sectors.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(sectors);
        for sector in (offset..offset + sectors.len() as u64).step_by(SECTOR_SIZE as usize) {
            self.unreadable.remove(&sector);
        }
    }

    /// Completes one request, any.
    pub(crate) fn complete(&mut self) -> Option<Completion> {
        if self.pending.is_empty() {
            return None;
        }
        let index = self.prng.index(self.pending.len());
        match self.pending.swap_remove(index) {
            Request::Write { token, offset, sectors } => {
                self.writes_count += 1;
                self.apply(offset, &sectors);
                Some(Completion::Write(token))
            }
            Request::Read { token, offset, size } => {
                Some(Completion::Read(token, self.read(offset, size)))
            }
        }
    }

    pub(crate) fn read(&self, offset: u64, size: u32) -> ReadResult {
        let mut buffer = AlignedBuffer::zeroed(size);
        let mut unreadable = Vec::new();
        let sectors = buffer.as_mut().chunks_exact_mut(SECTOR_SIZE as usize);
        for (start, sector) in (0..).step_by(SECTOR_SIZE as usize).zip(sectors) {
            let at = offset + u64::from(start);
            let from = usize::try_from(at).unwrap();
            match self.bytes.get(from..from + SECTOR_SIZE as usize) {
                Some(bytes) if !self.unreadable.contains(&at) => sector.copy_from_slice(bytes),
                _ => unreadable.push(start..start + SECTOR_SIZE),
            }
        }
        ReadResult { buffer, unreadable }
    }

    /// A crash: of the writes in flight, any subset of their pieces is on the disk.
    pub(crate) fn crash(&mut self) {
        let survive = [Ratio::new(0, 1), Ratio::new(1, 2), Ratio::new(1, 1), Ratio::new(9, 10)];
        for request in std::mem::take(&mut self.pending) {
            let Request::Write { offset, sectors, .. } = request else { continue };
            let ratio = survive[self.prng.index(survive.len())];
            let whole = self.prng.chance(Ratio::new(1, 2));
            let size = if whole { SECTOR_SIZE as usize } else { TEAR_SIZE };
            for (index, piece) in sectors.chunks_exact(size).enumerate() {
                if self.prng.chance(ratio) {
                    self.apply(offset + (index * size) as u64, piece);
                }
            }
        }
    }

    /// Damages one sector: flips a bit, zeroes it, or makes it unreadable.
    pub(crate) fn rot(&mut self, offset: u64) {
        let start = usize::try_from(offset).unwrap();
        assert!(start.is_multiple_of(SECTOR_SIZE as usize));
        let sector = &mut self.bytes[start..start + SECTOR_SIZE as usize];
        match self.prng.index(3) {
            0 => {
                // In the first header, so that the damage always matters.
                let bit = self.prng.index(128 * 8);
                sector[bit / 8] ^= 1 << (bit % 8);
            }
            1 => sector.fill(0),
            _ => {
                self.unreadable.insert(offset);
            }
        }
    }

    /// Opens the file to the end.
    pub(crate) fn open(&mut self) -> Result<Opened, Fatal> {
        assert!(self.pending.is_empty());
        let mut requests = Vec::new();
        let mut opening = Opening::new(self.bytes.len() as u64, &mut requests);
        loop {
            self.submit(&mut requests);
            if let Some(opened) = opening.finish() {
                assert!(self.pending.is_empty());
                assert!(opening.finish().is_none());
                return Ok(opened);
            }
            let result = match self.complete().expect("an opening waits for something") {
                Completion::Write(token) => opening.on_write_done(token, &mut requests),
                Completion::Read(token, result) => {
                    opening.on_read_done(token, result, &mut requests)
                }
            };
            if let Err(fatal) = result {
                self.pending.clear();
                return Err(fatal);
            }
        }
    }

    /// Opens the file and crashes on the way, after `steps` completions at most.
    pub(crate) fn open_and_crash(&mut self, steps: u64) {
        let mut requests = Vec::new();
        let mut opening = Opening::new(self.bytes.len() as u64, &mut requests);
        for _ in 0..steps {
            self.submit(&mut requests);
            let result = match self.complete() {
                None => break,
                Some(Completion::Write(token)) => opening.on_write_done(token, &mut requests),
                Some(Completion::Read(token, result)) => {
                    opening.on_read_done(token, result, &mut requests)
                }
            };
            if result.is_err() {
                break;
            }
        }
        self.submit(&mut requests);
        self.crash();
    }
}
