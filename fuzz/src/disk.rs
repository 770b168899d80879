//! A data file in memory whose requests are completed, torn or lost as a target decides.
//!
//! **Invariants:** what is read is what was written; of a write in flight at a crash any subset of
//! its sectors survives, each as a whole; nothing happens that was not asked for.
//!
//! **Not here:** which faults are allowed: the targets know what they must survive.

use std::cell::RefCell;
use std::collections::BTreeMap;
use vsr::constants::SECTOR_SIZE;
use vsr::fatal::Fatal;
use vsr::stdx::AlignedBuffer;
use vsr::storage::{Format, Layout, Opened, Opening, ReadResult, Request, SuperblockState, Token};

const SECTOR: usize = SECTOR_SIZE as usize;

/// A file and what is under way to it.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    /// What is on it. Reads beyond the end are unreadable, writes make it longer.
    pub bytes: Vec<u8>,
    /// Queued and not done, in the order in which they came.
    pub pending: Vec<Request>,
}

/// A request that is done.
#[derive(Debug)]
pub enum Completion {
    /// A write.
    Write(Token),
    /// A read, and what it found.
    Read(Token, ReadResult),
}

thread_local! {
    /// Formatted files by replica, count and incarnation; made once.
    static FORMATTED: RefCell<BTreeMap<(u8, u8, u64), Vec<u8>>> =
        const { RefCell::new(BTreeMap::new()) };
}

impl Disk {
    /// A freshly formatted file. Those of one replica, replica count and incarnation are the same.
    pub fn formatted(state: &SuperblockState) -> Self {
        let key = (state.replica.0, state.replica_count, state.incarnation);
        let bytes = FORMATTED.with_borrow_mut(|formatted| {
            formatted.entry(key).or_insert_with(|| format(state)).clone()
        });
        assert_eq!(bytes.len() as u64, Layout::new(state.geometry).grid_offset());
        Self { bytes, pending: Vec::new() }
    }

    /// Queues what was asked for.
    pub fn submit(&mut self, requests: &mut Vec<Request>) {
        self.pending.append(requests);
    }

    /// Completes the request at `index` of those that are pending.
    pub fn complete(&mut self, index: usize) -> Completion {
        match self.pending.remove(index) {
            Request::Write { token, offset, sectors } => {
                self.write(offset, &sectors);
                Completion::Write(token)
            }
            Request::Read { token, offset, size } => {
                Completion::Read(token, self.read(offset, size))
            }
        }
    }

    /// Writes at once.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(offset).expect("a small file");
        let end = start + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bytes[start..end].copy_from_slice(bytes);
    }

    /// Reads at once.
    pub fn read(&self, offset: u64, size: u32) -> ReadResult {
        let start = usize::try_from(offset).expect("a small file");
        let there = self.bytes.get(start..).unwrap_or_default();
        let there = &there[..there.len().min(size as usize)];
        let mut buffer = AlignedBuffer::zeroed(size);
        buffer.as_mut()[..there.len()].copy_from_slice(there);
        let readable = u32::try_from(there.len()).expect("at most the size");
        let unreadable = (readable < size).then_some(readable..size).into_iter().collect();
        ReadResult { buffer, unreadable }
    }

    /// The process dies: of each write in flight the sectors survive that `survives` says.
    pub fn crash(&mut self, mut survives: impl FnMut() -> bool) {
        for request in std::mem::take(&mut self.pending) {
            let Request::Write { offset, sectors, .. } = request else { continue };
            for (index, sector) in sectors.chunks_exact(SECTOR).enumerate() {
                if survives() {
                    self.write(offset + (index * SECTOR) as u64, sector);
                }
            }
        }
    }

    /// Opens the file to the end.
    ///
    /// # Errors
    /// The replica cannot go on with it.
    pub fn open(&mut self) -> Result<Opened, Fatal> {
        assert!(self.pending.is_empty());
        let mut requests = Vec::new();
        let mut opening = Opening::new(self.bytes.len() as u64, &mut requests);
        loop {
            self.submit(&mut requests);
            if let Some(opened) = opening.finish() {
                assert!(self.pending.is_empty());
                return Ok(opened);
            }
            assert!(!self.pending.is_empty(), "an opening waits for something");
            let result = match self.complete(0) {
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
}

fn format(state: &SuperblockState) -> Vec<u8> {
    let mut disk = Disk::default();
    let mut format = Format::new(state);
    let mut requests = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        disk.submit(&mut requests);
        let Completion::Write(token) = disk.complete(0) else { panic!("a format does not read") };
        format.on_write_done(token);
    }
    disk.bytes
}
