//! `IO` for a process of the simulated world: every call goes to the world at once, nothing blocks.
//!
//! **Invariants:** [`IO::run`] hands over what is pending and returns; time goes on between turns
//! only. While a server opens its file, which is one call, its disk takes no time, and the process
//! may be told to end in the middle of it.
//!
//! **Not here:** what the calls do (`network`, `disk`).

use super::network::address_of;
use super::world::SharedWorld;
use bytes::Bytes;
use std::io::{IoSlice, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use vsr::io::{Event, FileId, FileToken, IO, OpenError, OpenMode, SocketId};
use vsr::stdx::AlignedBuffer;

/// See the module.
#[derive(Debug)]
pub(crate) struct FaultyIO {
    world: SharedWorld,
    process: usize,
    is_opening: bool,
    /// Calls of `run` until the process is told to end while it opens.
    ends_after: Option<u32>,
    was_ended: bool,
}

impl FaultyIO {
    /// The handle of `process`.
    pub(crate) fn new(world: SharedWorld, process: usize) -> Self {
        Self { world, process, is_opening: false, ends_after: None, was_ended: false }
    }

    /// A server is about to be opened; if `ends_after`, it is told to end in that call of `run`.
    pub(crate) fn begin_opening(&mut self, ends_after: Option<u32>) {
        self.is_opening = true;
        self.ends_after = ends_after;
    }

    /// It is open, or not. True if it was told to end.
    pub(crate) fn end_opening(&mut self) -> bool {
        self.is_opening = false;
        self.ends_after = None;
        std::mem::take(&mut self.was_ended)
    }
}

impl IO for FaultyIO {
    fn listen(&mut self, address: SocketAddr) -> Result<(SocketId, SocketAddr)> {
        assert_eq!(address, address_of(self.process));
        let socket = self.world.borrow_mut().network.listen(self.process, address)?;
        Ok((socket, address))
    }

    fn connect(&mut self, address: SocketAddr) -> Result<SocketId> {
        let world = &mut *self.world.borrow_mut();
        world.network.connect(&mut world.scheduler, self.process, address)
    }

    fn connected(&mut self, socket: SocketId) -> Result<bool> {
        self.world.borrow_mut().network.connected(self.process, socket)
    }

    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr)> {
        let world = &mut *self.world.borrow_mut();
        world.network.accept(&mut world.scheduler, self.process, listener)
    }

    fn recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> Result<usize> {
        let world = &mut *self.world.borrow_mut();
        world.network.recv(&mut world.scheduler, self.process, socket, buffer)
    }

    fn send(&mut self, socket: SocketId, slices: &[IoSlice<'_>]) -> Result<usize> {
        let world = &mut *self.world.borrow_mut();
        world.network.send(&mut world.scheduler, self.process, socket, slices)
    }

    fn close(&mut self, socket: SocketId) {
        let world = &mut *self.world.borrow_mut();
        world.network.close(&mut world.scheduler, self.process, socket);
    }

    fn open_file(&mut self, _: &Path, mode: OpenMode) -> std::result::Result<FileId, OpenError> {
        self.world.borrow_mut().open_file(self.process, mode)?;
        Ok(FileId(0))
    }

    fn file_size(&mut self, _: FileId) -> Result<u64> {
        Ok(self.world.borrow().disks[self.process].size())
    }

    fn read(&mut self, _: FileId, offset: u64, buffer: AlignedBuffer, token: FileToken) {
        let world = &mut *self.world.borrow_mut();
        world.disks[self.process].read(&mut world.scheduler, offset, buffer, token);
    }

    fn write(&mut self, _: FileId, offset: u64, sectors: Bytes, token: FileToken) {
        let world = &mut *self.world.borrow_mut();
        world.disks[self.process].write(&mut world.scheduler, offset, sectors, token);
    }

    fn run(&mut self, _: Duration, events: &mut Vec<Event>) {
        if self.is_opening && self.ends_after == Some(0) {
            self.ends_after = None;
            self.was_ended = true;
            events.push(Event::Terminate);
            return;
        }
        if let Some(calls) = &mut self.ends_after {
            *calls = calls.saturating_sub(1);
        }
        self.world.borrow_mut().run(self.process, self.is_opening, events);
    }

    fn monotonic(&mut self) -> u64 {
        let scheduler = &self.world.borrow().scheduler;
        scheduler.processes[self.process].clock.monotonic(scheduler.now())
    }

    fn realtime(&mut self) -> u64 {
        let scheduler = &self.world.borrow().scheduler;
        scheduler.processes[self.process].clock.realtime(scheduler.now())
    }

    fn entropy(&mut self) -> u64 {
        self.world.borrow_mut().scheduler.processes[self.process].entropy.next_u64()
    }
}
