//! Sockets in memory, for the tests of the bus: a world of pipes that does to its users whatever a
//! real one may do, as a seed decides.
//!
//! ```text
//!   bus --- &mut TestIo (one process) ---+
//!   bus --- &mut TestIo (another) -------+--- World: listeners, pipes, events, faults
//! ```
//!
//! Readiness is edge triggered and meanly so: an edge is reported once, when something changes,
//! never again for what was left unread.
//!
//! **Invariants:** a `WouldBlock` out of whim is followed by an edge; bytes come in order; a reset
//! loses what was under way.

use crate::io::{Event, FileId, FileToken, IO, OpenError, OpenMode, SocketId};
use crate::stdx::{AlignedBuffer, Prng, Ratio};
use bytes::Bytes;
use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// How mean the world is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Faults {
    /// Reads and writes of fewer bytes than there are, edges out of nothing, `WouldBlock` likewise.
    pub(super) is_choppy: bool,
    /// A connect is refused.
    pub(super) refuse: Ratio,
    /// A send or receive ends the connection on both sides.
    pub(super) reset: Ratio,
    /// An attempt to accept fails.
    pub(super) accept_fail: Ratio,
}

const NEVER: Ratio = Ratio::new(0, 1);
pub(super) const CALM: Faults =
    Faults { is_choppy: false, refuse: NEVER, reset: NEVER, accept_fail: NEVER };

/// Bytes that a pipe holds.
const PIPE_SIZE: usize = 64 << 10;

#[derive(Debug)]
struct Socket {
    process: usize,
    /// The other end; `None` while connecting, or when it is closed.
    other: Option<SocketId>,
    /// A connect that is not reported yet.
    connect: Option<Result<()>>,
    inbound: VecDeque<u8>,
    /// The other end closed: after the bytes comes the end.
    is_ended: bool,
    is_reset: bool,
}

#[derive(Debug)]
struct Listener {
    socket: SocketId,
    process: usize,
    backlog: VecDeque<(SocketId, SocketAddr)>,
}

/// Everything outside of the processes.
#[derive(Debug)]
pub(super) struct World {
    pub(super) prng: Prng,
    pub(super) faults: Faults,
    /// Attempts to accept fail with this, for want of descriptors.
    pub(super) are_descriptors_gone: bool,
    socket_next: u32,
    sockets: BTreeMap<SocketId, Socket>,
    listeners: BTreeMap<SocketAddr, Listener>,
    /// By process.
    events: BTreeMap<usize, BTreeMap<SocketId, (bool, bool)>>,
    pub(super) closed_count: usize,
}

impl World {
    pub(super) fn new(seed: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            prng: Prng::from_seed(seed),
            faults: CALM,
            are_descriptors_gone: false,
            socket_next: 1,
            sockets: BTreeMap::new(),
            listeners: BTreeMap::new(),
            events: BTreeMap::new(),
            closed_count: 0,
        }))
    }

    fn socket(&mut self, process: usize, other: Option<SocketId>) -> SocketId {
        let id = SocketId(self.socket_next);
        self.socket_next += 1;
        let socket = Socket {
            process,
            other,
            connect: None,
            inbound: VecDeque::new(),
            is_ended: false,
            is_reset: false,
        };
        self.sockets.insert(id, socket);
        id
    }

    fn edge(&mut self, socket: SocketId, readable: bool, writable: bool) {
        let Some(process) = self.sockets.get(&socket).map(|socket| socket.process).or_else(|| {
            let mut listeners = self.listeners.values();
            listeners.find(|listener| listener.socket == socket).map(|listener| listener.process)
        }) else {
            return;
        };
        let event = self.events.entry(process).or_default().entry(socket).or_default();
        event.0 |= readable;
        event.1 |= writable;
    }

    fn whim(&mut self) -> bool {
        self.faults.is_choppy && self.prng.chance(Ratio::new(1, 4))
    }

    /// Ends a connection for both sides; what is under way is lost.
    fn reset(&mut self, id: SocketId) {
        let other = self.sockets.get(&id).and_then(|socket| socket.other);
        for id in [Some(id), other].into_iter().flatten() {
            if let Some(socket) = self.sockets.get_mut(&id) {
                socket.is_reset = true;
                socket.inbound.clear();
            }
            self.edge(id, true, true);
        }
    }

    /// Resets a connection that `choice` picks.
    pub(super) fn reset_one(&mut self, choice: usize) {
        let ids: Vec<SocketId> = self.sockets.keys().copied().collect();
        if !ids.is_empty() {
            self.reset(ids[choice % ids.len()]);
        }
    }

    /// Sockets that `process` has open.
    pub(super) fn open_count(&self, process: usize) -> usize {
        self.sockets.values().filter(|socket| socket.process == process).count()
    }

    fn close(&mut self, id: SocketId) {
        self.closed_count += 1;
        for events in self.events.values_mut() {
            events.remove(&id);
        }
        let address = self.listeners.iter().find(|(_, l)| l.socket == id).map(|(a, _)| *a);
        if let Some(address) = address {
            let listener = self.listeners.remove(&address).unwrap();
            for (waiting, _) in listener.backlog {
                self.reset(waiting);
                self.sockets.remove(&waiting);
            }
            return;
        }
        let socket = self.sockets.remove(&id).expect("closed once");
        for listener in self.listeners.values_mut() {
            listener.backlog.retain(|(waiting, _)| *waiting != id);
        }
        if let Some(other) = socket.other
            && let Some(end) = self.sockets.get_mut(&other)
        {
            end.other = None;
            end.is_ended = true;
            self.edge(other, true, true);
        }
    }
}

/// The world as one process sees it.
#[derive(Debug, Clone)]
pub(super) struct TestIo {
    world: Rc<RefCell<World>>,
    process: usize,
}

impl TestIo {
    pub(super) fn new(world: &Rc<RefCell<World>>, process: usize) -> Self {
        Self { world: Rc::clone(world), process }
    }

    /// The process dies: its sockets close.
    pub(super) fn kill(&mut self) {
        let mut world = self.world.borrow_mut();
        let process = self.process;
        let of = |sockets: &BTreeMap<SocketId, Socket>| -> Vec<SocketId> {
            sockets.iter().filter(|(_, s)| s.process == process).map(|(id, _)| *id).collect()
        };
        let listeners: Vec<SocketId> =
            world.listeners.values().filter(|l| l.process == process).map(|l| l.socket).collect();
        for id in listeners {
            world.close(id);
        }
        for id in of(&world.sockets) {
            world.close(id);
        }
        world.events.remove(&process);
    }

    /// Connects at once, past any fault: for tests that speak without a bus.
    pub(super) fn connect_raw(&mut self, address: SocketAddr) -> SocketId {
        let socket = self.connect(address).expect("it can begin");
        assert!(matches!(self.connected(socket), Ok(true)), "nobody listens");
        socket
    }

    /// Sends all of `bytes`; they must fit the pipe.
    pub(super) fn send_raw(&mut self, socket: SocketId, bytes: &[u8]) {
        let mut sent = 0;
        while sent < bytes.len() {
            match self.send(socket, &[IoSlice::new(&bytes[sent..])]) {
                Ok(size) => sent += size,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }

    /// Whether the other end is gone.
    pub(super) fn is_closed_raw(&mut self, socket: SocketId) -> bool {
        let world = self.world.borrow();
        let socket = &world.sockets[&socket];
        socket.is_ended || socket.is_reset
    }
}

impl IO for TestIo {
    fn listen(&mut self, address: SocketAddr) -> Result<(SocketId, SocketAddr)> {
        let mut world = self.world.borrow_mut();
        if world.listeners.contains_key(&address) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let socket = SocketId(world.socket_next);
        world.socket_next += 1;
        let listener = Listener { socket, process: self.process, backlog: VecDeque::new() };
        world.listeners.insert(address, listener);
        Ok((socket, address))
    }

    fn connect(&mut self, address: SocketAddr) -> Result<SocketId> {
        let mut world = self.world.borrow_mut();
        let refuse = world.faults.refuse;
        if world.prng.chance(refuse) && world.prng.chance(Ratio::new(1, 4)) {
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let refused = world.prng.chance(refuse) || !world.listeners.contains_key(&address);
        let id = world.socket(self.process, None);
        if refused {
            let result = Err(ErrorKind::ConnectionRefused.into());
            world.sockets.get_mut(&id).unwrap().connect = Some(result);
        } else {
            let process = world.listeners[&address].process;
            let other = world.socket(process, Some(id));
            let socket = world.sockets.get_mut(&id).unwrap();
            socket.other = Some(other);
            socket.connect = Some(Ok(()));
            let listener = world.listeners.get_mut(&address).unwrap();
            let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 50_000));
            listener.backlog.push_back((other, from));
            let socket = listener.socket;
            world.edge(socket, true, false);
        }
        world.edge(id, refused, true);
        Ok(id)
    }

    fn connected(&mut self, socket: SocketId) -> Result<bool> {
        let mut world = self.world.borrow_mut();
        if world.whim() {
            world.edge(socket, false, true);
            return Ok(false);
        }
        let end = world.sockets.get_mut(&socket).expect("open");
        if end.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        match end.connect.take() {
            Some(Ok(())) | None => Ok(true),
            Some(Err(error)) => Err(error),
        }
    }

    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr)> {
        let mut world = self.world.borrow_mut();
        let fail = world.faults.accept_fail;
        if world.prng.chance(fail) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        if world.are_descriptors_gone {
            // EMFILE has no kind of its own.
            return Err(Error::other("too many open files"));
        }
        if world.whim() {
            world.edge(listener, true, false);
            return Err(ErrorKind::WouldBlock.into());
        }
        let listener = world.listeners.values_mut().find(|l| l.socket == listener).expect("open");
        listener.backlog.pop_front().ok_or(ErrorKind::WouldBlock.into())
    }

    fn recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> Result<usize> {
        assert!(!buffer.is_empty());
        let mut world = self.world.borrow_mut();
        assert_eq!(world.sockets[&socket].process, self.process);
        let reset = world.faults.reset;
        if world.prng.chance(reset) {
            world.reset(socket);
        }
        if world.whim() {
            world.edge(socket, true, false);
            return Err(ErrorKind::WouldBlock.into());
        }
        let max = if world.whim() { 1 + world.prng.index(700) } else { usize::MAX };
        let end = world.sockets.get_mut(&socket).expect("open");
        if end.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        if end.inbound.is_empty() {
            return if end.is_ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let size = buffer.len().min(end.inbound.len()).min(max);
        for (to, from) in buffer[..size].iter_mut().zip(end.inbound.drain(..size)) {
            *to = from;
        }
        if let Some(other) = end.other {
            world.edge(other, false, true);
        }
        Ok(size)
    }

    fn send(&mut self, socket: SocketId, slices: &[IoSlice<'_>]) -> Result<usize> {
        assert!(slices.iter().all(|slice| !slice.is_empty()));
        assert!(!slices.is_empty());
        let mut world = self.world.borrow_mut();
        assert_eq!(world.sockets[&socket].process, self.process);
        let reset = world.faults.reset;
        if world.prng.chance(reset) {
            world.reset(socket);
        }
        if world.whim() {
            world.edge(socket, false, true);
            return Err(ErrorKind::WouldBlock.into());
        }
        let max = if world.whim() { 1 + world.prng.index(700) } else { usize::MAX };
        let end = &world.sockets[&socket];
        if end.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let Some(other) = end.other else { return Err(ErrorKind::BrokenPipe.into()) };
        let inbound = &mut world.sockets.get_mut(&other).expect("open").inbound;
        let room = (PIPE_SIZE - inbound.len()).min(max);
        let before = inbound.len();
        inbound.extend(slices.iter().flat_map(|slice| slice.iter()).take(room));
        let size = inbound.len() - before;
        if size == 0 {
            return Err(ErrorKind::WouldBlock.into());
        }
        world.edge(other, true, false);
        Ok(size)
    }

    fn close(&mut self, socket: SocketId) {
        self.world.borrow_mut().close(socket);
    }

    fn run(&mut self, _timeout: Duration, events: &mut Vec<Event>) {
        let mut world = self.world.borrow_mut();
        for (socket, (readable, writable)) in world.events.remove(&self.process).unwrap_or_default()
        {
            events.push(Event::Socket { socket, readable, writable });
        }
        if world.whim() {
            let process = self.process;
            let own: Vec<SocketId> = world
                .sockets
                .iter()
                .filter(|(_, s)| s.process == process)
                .map(|(i, _)| *i)
                .collect();
            if !own.is_empty() {
                let socket = own[world.prng.index(own.len())];
                events.push(Event::Socket { socket, readable: true, writable: true });
            }
        }
    }

    fn open_file(
        &mut self,
        _path: &Path,
        _mode: OpenMode,
    ) -> std::result::Result<FileId, OpenError> {
        unreachable!("the bus has no files")
    }

    fn file_size(&mut self, _file: FileId) -> Result<u64> {
        unreachable!("the bus has no files")
    }

    fn read(&mut self, _file: FileId, _offset: u64, _buffer: AlignedBuffer, _token: FileToken) {
        unreachable!("the bus has no files")
    }

    fn write(&mut self, _file: FileId, _offset: u64, _sectors: Bytes, _token: FileToken) {
        unreachable!("the bus has no files")
    }

    fn monotonic(&mut self) -> u64 {
        unreachable!("the bus has no clock")
    }

    fn realtime(&mut self) -> u64 {
        unreachable!("the bus has no clock")
    }

    fn entropy(&mut self) -> u64 {
        unreachable!("the bus has no entropy")
    }
}
