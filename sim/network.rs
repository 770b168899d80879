//! The network: connections as mio shows them, whole frames as VSR must survive them.
//!
//! ```text
//!   send ─► outbox ── a whole frame ──► fate ──► queue ──► inbox of the other end ─► recv
//!           (what is not a frame yet)     │ lost, twice, late, a bit flipped, a reset midway
//!                                         │ path cut, clogged, or full
//! ```
//!
//! A *path* leads from one process to another and is cut or clogged in its own right, so partitions
//! may be one way. A stream stays a stream of whole frames: what arrives of it is framed rightly,
//! unless bits were flipped.
//!
//! **Invariants:** readiness is reported at edges alone; a connection holds at most `window` bytes
//! in each direction, duplicates aside; a socket id is never used twice by one process; between two
//! healed processes nothing is lost.
//!
//! **Not here:** which paths are cut when (`cluster`).

use super::fault::Fault;
use super::random::{Delay, Ppm};
use super::scheduler::{MS, SECOND, Scheduler, Transit, What};
use bytes::{Buf, Bytes, BytesMut};
use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use vsr::constants::HEADER_SIZE;
use vsr::io::SocketId;
use vsr::stdx::Prng;

#[cfg(test)]
#[path = "scenarios/hooks_network.rs"]
mod hooks;

/// Connections that may wait to be accepted.
const BACKLOG_MAX: usize = 64;
/// The port of all listeners.
const PORT: u16 = 7000;
/// One way between healed processes.
const DELAY_HEALED: Delay = Delay { min: MS / 10, mean: MS };

/// How bad the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NetworkOptions {
    /// One way.
    pub(crate) delay: Delay,
    /// Of each frame.
    pub(crate) loss: Ppm,
    /// Of each frame.
    pub(crate) duplicate: Ppm,
    /// Of each frame.
    pub(crate) corrupt: Ppm,
    /// Of each frame.
    pub(crate) reset: Ppm,
    /// Frames may overtake each other.
    pub(crate) reorder: bool,
    /// Frames under way on one path at most; 0 for any number.
    pub(crate) path_capacity: u32,
    /// Calls that take or send fewer bytes than they could.
    pub(crate) short: Ppm,
    /// Edges without reason, of those that have one.
    pub(crate) spurious: Ppm,
    /// Of each connect.
    pub(crate) refuse: Ppm,
    /// Of each connect.
    pub(crate) slow: Ppm,
    /// Of each connect.
    pub(crate) unanswered: Ppm,
    /// Of each connect.
    pub(crate) half_open: Ppm,
    /// Of each accept.
    pub(crate) accept_fail: Ppm,
    /// A listener is told late of who has come.
    pub(crate) accept_late: Ppm,
    /// Bytes a connection holds in each direction.
    pub(crate) window: usize,
}

#[derive(Debug)]
enum Socket {
    Listener { backlog: VecDeque<u64> },
    Stream { connection: u64, side: usize },
}

/// How far the dialler's side has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Progress {
    Connecting,
    Refused,
    Connected,
}

#[derive(Debug)]
struct End {
    process: usize,
    /// `None` until it is accepted, and when it is closed.
    socket: Option<SocketId>,
    progress: Progress,
    /// It was closed here, or its process died.
    is_closed: bool,
    /// Sent and not a whole frame yet.
    outbox: BytesMut,
    /// Bytes sent that the other end has not taken.
    unread: usize,
    /// When the latest of what was sent arrives.
    arrival_last: u64,
    /// A send found no room.
    wants_room: bool,
    inbox: VecDeque<Bytes>,
    is_ended: bool,
    is_reset: bool,
}

#[derive(Debug)]
struct Connection {
    /// 0 dialled, 1 accepted.
    ends: [End; 2],
    /// The accepting process has never heard of it.
    is_half_open: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Path {
    is_cut: bool,
    clogged_until: u64,
    in_flight: u32,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Network {
    options: NetworkOptions,
    prng: Prng,
    process_count: usize,
    sockets: Vec<BTreeMap<SocketId, Socket>>,
    socket_next: u32,
    listeners: BTreeMap<usize, SocketId>,
    connections: BTreeMap<u64, Connection>,
    connection_next: u64,
    /// By `from * process_count + to`.
    paths: Vec<Path>,
    is_healed: Vec<bool>,
    /// Frames of replicas, for the checkers.
    spoken: Vec<(usize, usize, Bytes)>,
    replica_count: usize,
    /// What a scenario does to single frames.
    #[cfg(test)]
    pub(crate) script: super::scenarios::Script,
}

/// Where a process listens, or seems to come from.
pub(crate) fn address_of(process: usize) -> SocketAddr {
    let last = u8::try_from(process + 1).expect("fewer than 255 processes");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), PORT)
}

fn process_of(address: SocketAddr) -> usize {
    let IpAddr::V4(address) = address.ip() else { panic!("{address} is not of this world") };
    usize::from(address.octets()[3]) - 1
}

impl End {
    fn new(process: usize, socket: Option<SocketId>, progress: Progress) -> Self {
        Self {
            process,
            socket,
            progress,
            is_closed: false,
            outbox: BytesMut::new(),
            unread: 0,
            arrival_last: 0,
            wants_room: false,
            inbox: VecDeque::new(),
            is_ended: false,
            is_reset: false,
        }
    }

    fn is_readable(&self) -> bool {
        !self.inbox.is_empty() || self.is_ended || self.is_reset
    }
}

impl Network {
    pub(crate) fn new(
        options: NetworkOptions,
        replica_count: usize,
        process_count: usize,
        prng: Prng,
    ) -> Self {
        Self {
            options,
            prng,
            process_count,
            sockets: (0..process_count).map(|_| BTreeMap::new()).collect(),
            socket_next: 0,
            listeners: BTreeMap::new(),
            connections: BTreeMap::new(),
            connection_next: 0,
            paths: vec![Path::default(); process_count * process_count],
            is_healed: vec![false; process_count],
            spoken: Vec::new(),
            replica_count,
            #[cfg(test)]
            script: super::scenarios::Script::default(),
        }
    }

    // ---- paths

    /// Cuts the path or joins it.
    pub(crate) fn cut(&mut self, from: usize, to: usize, is_cut: bool) {
        self.path(from, to).is_cut = is_cut;
    }

    /// Nothing arrives over the path before `until`.
    pub(crate) fn clog(&mut self, from: usize, to: usize, until: u64) {
        self.path(from, to).clogged_until = until;
    }

    /// Between healed processes nothing goes wrong any more.
    pub(crate) fn heal(&mut self, process: usize) {
        self.is_healed[process] = true;
        for other in 0..self.process_count {
            if self.is_healed[other] {
                for (from, to) in [(process, other), (other, process)] {
                    let path = self.path(from, to);
                    path.is_cut = false;
                    path.clogged_until = 0;
                }
            }
        }
    }

    fn path(&mut self, from: usize, to: usize) -> &mut Path {
        &mut self.paths[from * self.process_count + to]
    }

    fn is_exempt(&self, from: usize, to: usize) -> bool {
        self.is_healed[from] && self.is_healed[to]
    }

    /// Whether a fault happens to what goes from one process to another.
    fn happens(&mut self, from: usize, to: usize, chance: Ppm) -> bool {
        !self.is_exempt(from, to) && chance.happens(&mut self.prng)
    }

    fn delay(&mut self, from: usize, to: usize) -> u64 {
        let delay = if self.is_exempt(from, to) { DELAY_HEALED } else { self.options.delay };
        delay.draw(&mut self.prng)
    }

    /// The frames that replicas have sent since the last call, with their senders and receivers.
    pub(crate) fn take_spoken(&mut self, spoken: &mut Vec<(usize, usize, Bytes)>) {
        assert!(spoken.is_empty());
        std::mem::swap(&mut self.spoken, spoken);
    }

    // ---- calls of processes

    fn socket_id(&mut self) -> SocketId {
        self.socket_next += 1;
        SocketId(self.socket_next)
    }

    pub(crate) fn listen(&mut self, process: usize, address: SocketAddr) -> Result<SocketId> {
        assert_eq!(process_of(address), process);
        if self.listeners.contains_key(&process) {
            return Err(ErrorKind::AddrInUse.into());
        }
        let socket = self.socket_id();
        self.sockets[process].insert(socket, Socket::Listener { backlog: VecDeque::new() });
        self.listeners.insert(process, socket);
        Ok(socket)
    }

    pub(crate) fn connect(
        &mut self,
        scheduler: &mut Scheduler,
        process: usize,
        address: SocketAddr,
    ) -> Result<SocketId> {
        let target = process_of(address);
        assert!(target < self.process_count);
        let connection = self.connection_next;
        self.connection_next += 1;
        if self.happens(process, target, self.options.refuse) && self.prng.below(4) == 0 {
            scheduler.fault(process, Fault::ConnectFailed, target as u64, connection);
            return Err(ErrorKind::NetworkUnreachable.into());
        }
        let socket = self.socket_id();
        let ends = [
            End::new(process, Some(socket), Progress::Connecting),
            End::new(target, None, Progress::Connected),
        ];
        self.connections.insert(connection, Connection { ends, is_half_open: false });
        self.sockets[process].insert(socket, Socket::Stream { connection, side: 0 });
        scheduler.note(process, "connect", target as u64, connection);

        let mut delay = self.delay(process, target);
        if self.happens(process, target, self.options.slow) {
            delay += self.prng.range_inclusive(200 * MS, 4 * SECOND);
            scheduler.fault(process, Fault::ConnectSlow, target as u64, delay / MS);
        }
        if self.happens(process, target, self.options.unanswered) {
            scheduler.fault(process, Fault::ConnectUnanswered, target as u64, connection);
        } else {
            scheduler.after(delay, What::Transit { connection, side: 1, transit: Transit::Syn });
        }
        Ok(socket)
    }

    pub(crate) fn connected(&mut self, process: usize, socket: SocketId) -> Result<bool> {
        let (connection, side) = self.stream(process, socket);
        let end = &self.connections[&connection].ends[side];
        match end.progress {
            Progress::Connecting => Ok(false),
            Progress::Refused => Err(ErrorKind::ConnectionRefused.into()),
            Progress::Connected if end.is_reset => Err(ErrorKind::ConnectionReset.into()),
            Progress::Connected => Ok(true),
        }
    }

    pub(crate) fn accept(
        &mut self,
        scheduler: &mut Scheduler,
        process: usize,
        listener: SocketId,
    ) -> Result<(SocketId, SocketAddr)> {
        let Some(Socket::Listener { backlog }) = self.sockets[process].get_mut(&listener) else {
            panic!("process {process}: {listener:?} does not listen");
        };
        let waiting = backlog.len();
        let Some(&connection) = backlog.front() else { return Err(ErrorKind::WouldBlock.into()) };
        let dialler = self.connections[&connection].ends[0].process;
        if self.happens(dialler, process, self.options.accept_fail) {
            scheduler.fault(process, Fault::AcceptFailed, dialler as u64, connection);
            scheduler.after(MS, What::Spurious { process, socket: listener });
            return Err(Error::other("no descriptors left, says the simulation"));
        }
        if waiting > 1 {
            scheduler.fault(process, Fault::AcceptBurst, waiting as u64, connection);
        }
        let socket = self.socket_id();
        let Some(Socket::Listener { backlog }) = self.sockets[process].get_mut(&listener) else {
            unreachable!("it was there");
        };
        backlog.pop_front();
        self.sockets[process].insert(socket, Socket::Stream { connection, side: 1 });
        let end = &mut self.connections.get_mut(&connection).expect("it waited").ends[1];
        end.socket = Some(socket);
        let readable = end.is_readable();
        scheduler.mark(process, socket, readable, true);
        scheduler.note(process, "accept", dialler as u64, connection);
        Ok((socket, address_of(dialler)))
    }

    pub(crate) fn recv(
        &mut self,
        scheduler: &mut Scheduler,
        process: usize,
        socket: SocketId,
        buffer: &mut [u8],
    ) -> Result<usize> {
        assert!(!buffer.is_empty());
        let (connection, side) = self.stream(process, socket);
        let state = self.connections.get_mut(&connection).expect("a socket has a connection");
        let other = state.ends[1 - side].process;
        let end = &mut state.ends[side];
        assert_eq!(end.progress, Progress::Connected, "received before it was connected");
        if end.is_reset {
            return Err(ErrorKind::ConnectionReset.into());
        }
        let available: usize = end.inbox.iter().map(Bytes::len).sum();
        let mut take = available.min(buffer.len());
        if take == 0 {
            return if end.is_ended { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
        }
        let exempt = self.is_healed[process] && self.is_healed[other];
        if take > 1 && !exempt && self.options.short.happens(&mut self.prng) {
            take = 1 + self.prng.index(take - 1);
            scheduler.fault(process, Fault::ReadShort, take as u64, available as u64);
        }
        let mut filled = 0;
        while filled < take {
            let front = end.inbox.front_mut().expect("there are more bytes");
            let size = front.len().min(take - filled);
            buffer[filled..filled + size].copy_from_slice(&front[..size]);
            front.advance(size);
            filled += size;
            if front.is_empty() {
                end.inbox.pop_front();
            }
        }
        self.release(scheduler, connection, 1 - side, take);
        Ok(take)
    }

    pub(crate) fn send(
        &mut self,
        scheduler: &mut Scheduler,
        process: usize,
        socket: SocketId,
        slices: &[IoSlice<'_>],
    ) -> Result<usize> {
        let (connection, side) = self.stream(process, socket);
        let state = self.connections.get_mut(&connection).expect("a socket has a connection");
        let other = state.ends[1 - side].process;
        let end = &mut state.ends[side];
        assert_eq!(end.progress, Progress::Connected, "sent before it was connected");
        if end.is_reset {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(total > 0);
        let room = self.options.window.saturating_sub(end.unread + end.outbox.len());
        let mut take = total.min(room);
        if take < total {
            end.wants_room = true;
        }
        if take == 0 {
            scheduler.fault(process, Fault::WriteFull, other as u64, connection);
            return Err(ErrorKind::WouldBlock.into());
        }
        let exempt = self.is_healed[process] && self.is_healed[other];
        if take > 1 && !exempt && self.options.short.happens(&mut self.prng) {
            take = 1 + self.prng.index(take - 1);
            scheduler.fault(process, Fault::WriteShort, take as u64, total as u64);
        }
        let mut rest = take;
        for slice in slices {
            let size = slice.len().min(rest);
            end.outbox.extend_from_slice(&slice[..size]);
            rest -= size;
        }
        while let Some(frame) = take_frame(&mut self.end(connection, side).outbox) {
            self.dispatch(scheduler, connection, side, frame);
        }
        Ok(take)
    }

    pub(crate) fn close(&mut self, scheduler: &mut Scheduler, process: usize, socket: SocketId) {
        scheduler.unmark(process, socket);
        let closed = self.sockets[process].remove(&socket).expect("an open socket is closed");
        match closed {
            Socket::Listener { backlog } => {
                self.listeners.remove(&process);
                for connection in backlog {
                    self.close_end(scheduler, connection, 1, true);
                }
            }
            Socket::Stream { connection, side } => {
                let is_unread = !self.end(connection, side).inbox.is_empty();
                self.close_end(scheduler, connection, side, is_unread);
            }
        }
    }

    /// The process is gone, with all its sockets. Its peers see resets, or nothing.
    pub(crate) fn crash(&mut self, scheduler: &mut Scheduler, process: usize, is_silent: bool) {
        while let Some((socket, _)) = self.sockets[process].first_key_value() {
            let socket = *socket;
            let gone = self.sockets[process].remove(&socket).expect("it was found");
            let ends: Vec<(u64, usize)> = match gone {
                Socket::Listener { backlog } => {
                    self.listeners.remove(&process);
                    backlog.into_iter().map(|connection| (connection, 1)).collect()
                }
                Socket::Stream { connection, side } => vec![(connection, side)],
            };
            for (connection, side) in ends {
                if is_silent {
                    self.forget_end(connection, side);
                } else {
                    self.close_end(scheduler, connection, side, true);
                }
            }
        }
        assert!(self.sockets[process].is_empty());
    }

    // ---- what arrives

    pub(crate) fn on_transit(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        transit: Transit,
    ) {
        if let Transit::Bytes { path, .. } = transit {
            self.paths[path].in_flight -= 1;
        }
        let Some(state) = self.connections.get(&connection) else {
            return;
        };
        let (from, to) = (state.ends[1 - side].process, state.ends[side].process);
        if self.path(from, to).is_cut {
            scheduler.fault(to, Fault::PathCut, from as u64, connection);
            if let Transit::Bytes { bytes, charged: true, .. } = transit {
                self.release(scheduler, connection, 1 - side, bytes.len());
            }
            return;
        }
        match transit {
            Transit::Syn => self.on_syn(scheduler, connection),
            Transit::SynAck { accepted } => self.on_syn_ack(scheduler, connection, accepted),
            Transit::Bytes { bytes, charged, .. } => {
                self.on_bytes(scheduler, connection, side, bytes, charged);
            }
            Transit::Fin => {
                self.end(connection, side).is_ended = true;
                self.mark(scheduler, connection, side, true, false);
            }
            Transit::Reset => {
                let end = self.end(connection, side);
                end.is_reset = true;
                end.inbox.clear();
                if end.progress == Progress::Connecting {
                    end.progress = Progress::Refused;
                }
                self.mark(scheduler, connection, side, true, true);
            }
        }
    }

    fn on_syn(&mut self, scheduler: &mut Scheduler, connection: u64) {
        let [dialler, acceptor] =
            [0, 1].map(|side| self.connections[&connection].ends[side].process);
        let delay = self.delay(dialler, acceptor);
        let answer =
            |accepted| What::Transit { connection, side: 0, transit: Transit::SynAck { accepted } };
        if self.happens(dialler, acceptor, self.options.half_open) {
            scheduler.fault(dialler, Fault::ConnectHalfOpen, acceptor as u64, connection);
            let state = self.connections.get_mut(&connection).expect("it is connecting");
            state.is_half_open = true;
            state.ends[1].is_closed = true;
            return scheduler.after(delay, answer(true));
        }
        let refused = self.happens(dialler, acceptor, self.options.refuse);
        let listener = self.listeners.get(&acceptor).copied();
        let backlog = listener.and_then(|listener| self.sockets[acceptor].get_mut(&listener));
        let (Some(listener), Some(Socket::Listener { backlog }), false) =
            (listener, backlog, refused)
        else {
            scheduler.fault(dialler, Fault::ConnectRefused, acceptor as u64, connection);
            self.connections.get_mut(&connection).expect("it is connecting").ends[1].is_closed =
                true;
            return scheduler.after(delay, answer(false));
        };
        if backlog.len() < BACKLOG_MAX {
            backlog.push_back(connection);
            if self.happens(dialler, acceptor, self.options.accept_late) {
                let delay = self.prng.range_inclusive(MS, 100 * MS);
                scheduler.after(delay, What::Spurious { process: acceptor, socket: listener });
            } else {
                scheduler.mark(acceptor, listener, true, false);
            }
            scheduler.after(delay, answer(true));
        }
    }

    fn on_syn_ack(&mut self, scheduler: &mut Scheduler, connection: u64, accepted: bool) {
        let end = self.end(connection, 0);
        if end.progress != Progress::Connecting {
            return;
        }
        end.progress = if accepted { Progress::Connected } else { Progress::Refused };
        self.mark(scheduler, connection, 0, !accepted, true);
    }

    fn on_bytes(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        bytes: Bytes,
        charged: bool,
    ) {
        let state = self.connections.get_mut(&connection).expect("it was found");
        let is_half_open = state.is_half_open;
        let end = &mut state.ends[side];
        if end.is_closed || end.is_reset {
            let is_up = scheduler.processes[end.process].is_alive && !is_half_open;
            let (from, to) = (end.process, state.ends[1 - side].process);
            if charged {
                self.release(scheduler, connection, 1 - side, bytes.len());
            }
            if is_up {
                let delay = self.delay(from, to);
                let transit = Transit::Reset;
                scheduler.after(delay, What::Transit { connection, side: 1 - side, transit });
            }
            return;
        }
        if !charged {
            // A duplicate takes room like any other.
            state.ends[1 - side].unread += bytes.len();
        }
        scheduler.trace.mix(u64::from(crc32c::crc32c(&bytes)));
        state.ends[side].inbox.push_back(bytes);
        self.mark(scheduler, connection, side, true, false);
    }

    pub(crate) fn on_spurious(
        &mut self,
        scheduler: &mut Scheduler,
        process: usize,
        socket: SocketId,
    ) {
        if self.sockets[process].contains_key(&socket) {
            scheduler.mark(process, socket, true, true);
        }
    }

    // ---- helpers

    fn stream(&self, process: usize, socket: SocketId) -> (u64, usize) {
        match self.sockets[process].get(&socket) {
            Some(Socket::Stream { connection, side }) => (*connection, *side),
            other => panic!("process {process}: {socket:?} is {other:?}"),
        }
    }

    fn end(&mut self, connection: u64, side: usize) -> &mut End {
        &mut self.connections.get_mut(&connection).expect("it is known").ends[side]
    }

    fn mark(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        readable: bool,
        writable: bool,
    ) {
        let end = &self.connections[&connection].ends[side];
        let Some(socket) = end.socket else { return };
        let process = end.process;
        let other = self.connections[&connection].ends[1 - side].process;
        let is_spurious = self.happens(process, other, self.options.spurious);
        if is_spurious {
            scheduler.fault(process, Fault::EdgeSpurious, u64::from(socket.0), connection);
            let delay = self.prng.range_inclusive(1, 20 * MS);
            scheduler.after(delay, What::Spurious { process, socket });
        }
        scheduler.mark(process, socket, readable || is_spurious, writable || is_spurious);
    }

    /// Bytes that `side` has sent have been taken, or are gone.
    fn release(&mut self, scheduler: &mut Scheduler, connection: u64, side: usize, size: usize) {
        let end = self.end(connection, side);
        assert!(size <= end.unread);
        end.unread -= size;
        if end.wants_room && !end.is_closed {
            end.wants_room = false;
            self.mark(scheduler, connection, side, false, true);
        }
    }

    /// Decides what becomes of a frame.
    fn dispatch(&mut self, scheduler: &mut Scheduler, connection: u64, side: usize, frame: Bytes) {
        let state = &self.connections[&connection];
        let (from, to) = (state.ends[side].process, state.ends[1 - side].process);
        if from < self.replica_count {
            self.spoken.push((from, to, frame.clone()));
        }
        #[cfg(test)]
        let Some(frame) = self.script.fate(from, to, frame) else { return };
        if self.path(from, to).is_cut {
            return scheduler.fault(from, Fault::PathCut, to as u64, connection);
        }
        if self.happens(from, to, self.options.loss) {
            return scheduler.fault(from, Fault::FrameLost, to as u64, frame.len() as u64);
        }
        let capacity = self.options.path_capacity;
        if capacity > 0 && !self.is_exempt(from, to) && self.path(from, to).in_flight >= capacity {
            return scheduler.fault(from, Fault::PathOverflow, to as u64, frame.len() as u64);
        }
        if self.happens(from, to, self.options.reset) {
            return self.reset_within(scheduler, connection, side, &frame);
        }
        if self.happens(from, to, self.options.duplicate) {
            scheduler.fault(from, Fault::FrameDuplicated, to as u64, frame.len() as u64);
            self.transmit(scheduler, connection, side, frame.clone(), false);
        }
        let frame = if self.happens(from, to, self.options.corrupt) {
            scheduler.fault(from, Fault::FrameCorrupted, to as u64, frame.len() as u64);
            let mut bytes = frame.to_vec();
            let place = self.prng.index(bytes.len());
            bytes[place] ^= 1 << self.prng.below(8);
            Bytes::from(bytes)
        } else {
            frame
        };
        self.transmit(scheduler, connection, side, frame, true);
    }

    /// The other end gets a part of the frame, and then both are told that it is over.
    fn reset_within(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        frame: &Bytes,
    ) {
        let from = self.connections[&connection].ends[side].process;
        // Some fall between two frames.
        let (kept, between) = (self.prng.index(frame.len()), self.prng.below(4) == 0);
        let kept = if between { 0 } else { kept };
        let fault = if kept > 0 { Fault::ResetMidFrame } else { Fault::Reset };
        scheduler.fault(from, fault, connection, kept as u64);
        if kept > 0 {
            self.transmit(scheduler, connection, side, frame.slice(..kept), true);
        }
        let arrival = self.end(connection, side).arrival_last.max(scheduler.now());
        for side in [0, 1] {
            let transit = Transit::Reset;
            scheduler.at(arrival + 1, What::Transit { connection, side, transit });
        }
    }

    /// Sends bytes on their way to the end opposite of `side`.
    fn transmit(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        bytes: Bytes,
        charged: bool,
    ) {
        let state = &self.connections[&connection];
        let (from, to) = (state.ends[side].process, state.ends[1 - side].process);
        let mut arrival = scheduler.now() + self.delay(from, to);
        let clogged_until = self.path(from, to).clogged_until;
        if arrival < clogged_until {
            scheduler.fault(from, Fault::PathClogged, to as u64, clogged_until);
            arrival = clogged_until;
        }
        let latest = self.connections[&connection].ends[side].arrival_last;
        if arrival < latest {
            if self.options.reorder && !self.is_exempt(from, to) {
                scheduler.fault(from, Fault::FrameReordered, to as u64, latest - arrival);
            } else {
                arrival = latest;
            }
        }
        self.path(from, to).in_flight += 1;
        let end = self.end(connection, side);
        end.arrival_last = end.arrival_last.max(arrival);
        if charged {
            end.unread += bytes.len();
        }
        let path = from * self.process_count + to;
        let transit = Transit::Bytes { path, bytes, charged };
        scheduler.at(arrival, What::Transit { connection, side: 1 - side, transit });
    }

    /// One end is closed in order, or with a reset.
    fn close_end(
        &mut self,
        scheduler: &mut Scheduler,
        connection: u64,
        side: usize,
        is_reset: bool,
    ) {
        let state = &self.connections[&connection];
        let (from, to) = (state.ends[side].process, state.ends[1 - side].process);
        let delay = self.delay(from, to);
        let end = self.end(connection, side);
        let was_reset = end.is_reset;
        let is_connected = end.progress == Progress::Connected;
        let rest = std::mem::take(&mut end.outbox).freeze();
        if is_connected && !was_reset {
            if !rest.is_empty() && !is_reset {
                self.transmit(scheduler, connection, side, rest, true);
            }
            let end = self.end(connection, side);
            // Never before what was sent.
            let arrival = (end.arrival_last + 1).max(scheduler.now() + delay);
            let transit = if is_reset { Transit::Reset } else { Transit::Fin };
            scheduler.at(arrival, What::Transit { connection, side: 1 - side, transit });
        }
        self.forget_end(connection, side);
    }

    fn forget_end(&mut self, connection: u64, side: usize) {
        let end = self.end(connection, side);
        end.is_closed = true;
        end.socket = None;
        end.inbox.clear();
        end.outbox.clear();
        let state = &self.connections[&connection];
        // The other end may yet hear of this one; a connection that nobody holds is gone.
        let is_waited_for = |end: &End| end.socket.is_some();
        let in_backlog = side == 0 && !state.ends[1].is_closed;
        if !state.ends.iter().any(is_waited_for) && !in_backlog {
            self.connections.remove(&connection);
        }
    }
}

/// The next whole frame that was sent: its header says how long it is.
fn take_frame(outbox: &mut BytesMut) -> Option<Bytes> {
    let header = outbox.first_chunk::<{ HEADER_SIZE as usize }>()?;
    let size = u32::from_le_bytes(*header[24..].first_chunk().expect("within the header")) as usize;
    assert!(size >= HEADER_SIZE as usize, "a process sent something that is not a frame");
    (outbox.len() >= size).then(|| outbox.split_to(size).freeze())
}
