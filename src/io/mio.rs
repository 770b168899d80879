//! F5: [`MioIO`]: the world as it is. Sockets and signals by readiness through mio (epoll), files
//! by completion, carried out inline.
//!
//! ```text
//!   run(timeout):
//!     1. file operations, until 4 MiB or 2 ms        ─► ReadDone, WriteDone
//!     2. listeners whose pause is over               ─► Socket { readable }
//!     3. poll: 0 when there is an event already or   ─► Socket { readable, writable }
//!        file work is left; else until the timeout      Terminate
//!        or the end of a pause, what is earlier
//! ```
//!
//! A listener that cannot accept, because descriptors or memory are short, is a trap for edge
//! triggered readiness: the connection still waits, and no new edge will tell. So it pauses and is
//! announced again:
//!
//! ```text
//!                 out of descriptors                   0.1 s later
//!   accepting ──────────────────────────► pausing ─────────────────► announced ──► accepting
//!       │         `accept` fails with it   `accept` is `WouldBlock`      ▲
//!       └──────── one connection was lost ───────────────────────────────┘
//! ```
//!
//! **Invariants:** an id is given to no other socket before 2³² − 1 others were opened; a socket
//! that was closed is named by no later event; when nothing is queued and nothing happens, `run`
//! sleeps its whole timeout; the wall clock, the monotonic clock and the entropy of the operating
//! system are read here and nowhere else.
//!
//! **Not here:** how a file is opened and read (`file.rs`, `transfer.rs`); socket options
//! (`socket.rs`). Dropping a `MioIO` abandons what is queued, as a crash would.

use super::file::Files;
use super::socket::{self, AcceptError};
use super::{Event, FileId, FileToken, IO, OpenError, OpenMode, SocketId};
use crate::stdx::AlignedBuffer;
use bytes::Bytes;
use mio::event::Source;
use mio::net::{TcpListener, TcpStream, UnixStream};
use mio::{Events, Interest, Poll, Token};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::low_level;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Error, ErrorKind, IoSlice, Read, Result, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How many sockets one poll reports at most; the others are reported by the next.
const READY_COUNT_MAX: usize = 1024;

/// How long a listener pauses when descriptors or memory are short, in nanoseconds.
const ACCEPT_PAUSE_NS: u64 = 100_000_000;

/// The longest sleep of one poll, well inside what the kernel's 32-bit milliseconds hold. To wake
/// early is allowed.
const POLL_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

/// Where signals arrive. No [`SocketId`] is as large.
const SIGNALS: Token = Token(u32::MAX as usize);

/// How a [`MioIO`] is set up.
#[derive(Debug, Clone, Copy, Default)]
pub struct MioOptions {
    /// Accept a file system without direct I/O, where a read may come out of the kernel's cache.
    pub development: bool,
    /// Turn SIGTERM and SIGINT into [`Event::Terminate`] instead of the end of the process. From
    /// then on, to the end of the process: when the `MioIO` is dropped they are ignored.
    pub signals: bool,
    /// The size of the send and of the receive buffer of each socket, in bytes; `None` leaves it to
    /// the kernel, which tunes them by itself and better.
    pub socket_buffer_size: Option<u32>,
}

/// [`IO`] on the operating system.
#[derive(Debug)]
pub struct MioIO {
    poll: Poll,
    ready: Events,
    sockets: BTreeMap<SocketId, Socket>,
    socket_next: u32,
    /// When to announce a listener again, in nanoseconds of the clock.
    announcements: BTreeMap<SocketId, u64>,
    socket_buffer_size: Option<u32>,
    files: Files,
    signals: Option<Signals>,
    clock: Clock,
    urandom: File,
}

#[derive(Debug)]
enum Socket {
    Listener(TcpListener),
    Stream(TcpStream),
}

impl MioIO {
    /// A world without sockets and files.
    ///
    /// # Errors
    /// The operating system refused a descriptor.
    pub fn new(options: MioOptions) -> Result<Self> {
        let poll = Poll::new()?;
        let signals = if options.signals { Some(Signals::new(&poll)?) } else { None };
        Ok(Self {
            poll,
            ready: Events::with_capacity(READY_COUNT_MAX),
            sockets: BTreeMap::new(),
            socket_next: 0,
            announcements: BTreeMap::new(),
            socket_buffer_size: options.socket_buffer_size,
            files: Files::new(options.development),
            signals,
            clock: Clock::new(),
            urandom: File::open("/dev/urandom")?,
        })
    }

    /// A free id: the next one, past those that are still in use after a lap of 2³² − 1.
    fn socket_id(&mut self) -> SocketId {
        loop {
            let id = SocketId(self.socket_next);
            self.socket_next = (self.socket_next + 1) % u32::MAX;
            assert!(token(id) != SIGNALS);
            if !self.sockets.contains_key(&id) {
                return id;
            }
        }
    }

    fn register(&mut self, source: &mut impl Source, interest: Interest) -> Result<SocketId> {
        let id = self.socket_id();
        self.poll.registry().register(source, token(id), interest)?;
        Ok(id)
    }

    fn add_stream(&mut self, mut stream: TcpStream) -> Result<SocketId> {
        let id = self.register(&mut stream, Interest::READABLE | Interest::WRITABLE)?;
        let previous = self.sockets.insert(id, Socket::Stream(stream));
        assert!(previous.is_none());
        Ok(id)
    }

    fn stream(&mut self, socket: SocketId) -> &mut TcpStream {
        match self.sockets.get_mut(&socket) {
            Some(Socket::Stream(stream)) => stream,
            other => panic!("{socket:?} is not an open connection but {other:?}"),
        }
    }

    fn listener(&self, socket: SocketId) -> &TcpListener {
        match self.sockets.get(&socket) {
            Some(Socket::Listener(listener)) => listener,
            other => panic!("{socket:?} is not an open listener but {other:?}"),
        }
    }

    /// One connection out of the backlog, set up and registered.
    fn try_accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr)> {
        let (stream, address) = self.listener(listener).accept()?;
        socket::tune(SockRef::from(&stream))
            .map_err(|error| Error::new(ErrorKind::ConnectionAborted, error))?;
        Ok((self.add_stream(stream)?, address))
    }

    /// Announces the listeners whose time has come. Returns how long the next one has to wait.
    fn announce_listeners(&mut self, events: &mut Vec<Event>) -> Option<Duration> {
        let now = self.clock.monotonic();
        self.announcements.retain(|&socket, &mut at| {
            if at <= now {
                events.push(Event::Socket { socket, readable: true, writable: false });
            }
            at > now
        });
        let wait_ns = self.announcements.values().map(|at| at - now).min();
        wait_ns.map(Duration::from_nanos)
    }

    /// Waits for readiness.
    fn poll(&mut self, timeout: Duration) {
        let mut timeout = timeout.min(POLL_TIMEOUT_MAX);
        while let Err(error) = self.poll.poll(&mut self.ready, Some(timeout)) {
            // A signal, whose event may just have been missed: look again, without a sleep.
            assert!(error.kind() == ErrorKind::Interrupted, "poll: {error}");
            timeout = Duration::ZERO;
        }
    }

    /// Appends what the last poll found.
    fn report_ready(&mut self, events: &mut Vec<Event>) {
        for event in &self.ready {
            if event.token() == SIGNALS {
                let signals = self.signals.as_mut().expect("registered together with the token");
                if signals.drain() {
                    events.push(Event::Terminate);
                }
                continue;
            }
            let socket = SocketId(u32::try_from(event.token().0).expect("made from an id"));
            assert!(self.sockets.contains_key(&socket));
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            if readable || writable {
                events.push(Event::Socket { socket, readable, writable });
            }
        }
        self.ready.clear();
    }
}

impl IO for MioIO {
    fn listen(&mut self, address: SocketAddr) -> Result<(SocketId, SocketAddr)> {
        let mut listener = socket::listen(address, self.socket_buffer_size)?;
        let address = listener.local_addr()?;
        assert!(address.port() > 0);
        let id = self.register(&mut listener, Interest::READABLE)?;
        let previous = self.sockets.insert(id, Socket::Listener(listener));
        assert!(previous.is_none());
        Ok((id, address))
    }

    fn connect(&mut self, address: SocketAddr) -> Result<SocketId> {
        let stream = socket::connect(address, self.socket_buffer_size)?;
        self.add_stream(stream)
    }

    fn connected(&mut self, socket: SocketId) -> Result<bool> {
        socket::connected(self.stream(socket))
    }

    fn accept(&mut self, listener: SocketId) -> Result<(SocketId, SocketAddr)> {
        let now = self.clock.monotonic();
        if self.announcements.get(&listener).is_some_and(|&at| at > now) {
            return Err(ErrorKind::WouldBlock.into());
        }
        loop {
            let error = match self.try_accept(listener) {
                Ok(accepted) => return Ok(accepted),
                Err(error) => error,
            };
            let announce_at = match AcceptError::of(&error) {
                AcceptError::Interrupted => continue,
                AcceptError::Empty => return Err(error),
                AcceptError::Connection => now,
                AcceptError::Resources => now + ACCEPT_PAUSE_NS,
            };
            self.announcements.insert(listener, announce_at);
            return Err(error);
        }
    }

    fn recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> Result<usize> {
        assert!(!buffer.is_empty());
        let stream = self.stream(socket);
        let count = uninterrupted(|| stream.read(buffer))?;
        assert!(count <= buffer.len());
        Ok(count)
    }

    fn send(&mut self, socket: SocketId, slices: &[IoSlice<'_>]) -> Result<usize> {
        assert!(slices.iter().any(|slice| !slice.is_empty()));
        let stream = self.stream(socket);
        match uninterrupted(|| stream.write_vectored(slices))? {
            0 => Err(ErrorKind::WriteZero.into()),
            count => Ok(count),
        }
    }

    fn close(&mut self, socket: SocketId) {
        self.announcements.remove(&socket);
        let closed = self.sockets.remove(&socket);
        let result = match closed.expect("a socket is closed once") {
            Socket::Listener(mut listener) => self.poll.registry().deregister(&mut listener),
            Socket::Stream(mut stream) => self.poll.registry().deregister(&mut stream),
        };
        result.expect("an open socket is registered");
    }

    fn open_file(&mut self, path: &Path, mode: OpenMode) -> std::result::Result<FileId, OpenError> {
        self.files.open(path, mode)
    }

    fn file_size(&mut self, file: FileId) -> Result<u64> {
        self.files.size(file)
    }

    fn read(&mut self, file: FileId, offset: u64, buffer: AlignedBuffer, token: FileToken) {
        self.files.read(file, offset, buffer, token);
    }

    fn write(&mut self, file: FileId, offset: u64, sectors: Bytes, token: FileToken) {
        self.files.write(file, offset, sectors, token);
    }

    fn run(&mut self, timeout: Duration, events: &mut Vec<Event>) {
        let count_before = events.len();
        let begin = self.clock.monotonic();
        let elapsed = || Duration::from_nanos(self.clock.monotonic() - begin);
        self.files.carry_out(elapsed, events);
        let wait = self.announce_listeners(events);
        let timeout = if events.len() > count_before || !self.files.is_idle() {
            Duration::ZERO
        } else {
            wait.map_or(timeout, |wait| wait.min(timeout))
        };
        self.poll(timeout);
        self.report_ready(events);
    }

    fn monotonic(&mut self) -> u64 {
        self.clock.monotonic()
    }

    fn realtime(&mut self) -> u64 {
        self.clock.realtime()
    }

    fn entropy(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.urandom.read_exact(&mut bytes).expect("/dev/urandom can always be read");
        u64::from_le_bytes(bytes)
    }
}

fn token(socket: SocketId) -> Token {
    Token(socket.0 as usize)
}

/// Calls again as long as a signal interrupts the call.
fn uninterrupted(mut call: impl FnMut() -> Result<usize>) -> Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// The clocks of the machine. The monotonic one stands still while the machine is suspended.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    #[expect(clippy::disallowed_methods, reason = "time enters the program here")]
    fn new() -> Self {
        Self { start: Instant::now() }
    }

    /// Nanoseconds since this clock was made.
    fn monotonic(&self) -> u64 {
        nanoseconds(self.start.elapsed())
    }

    /// Nanoseconds since 1970; 0 before that.
    #[expect(clippy::disallowed_methods, reason = "time enters the program here")]
    fn realtime(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
    }
}

/// 64 bits of nanoseconds last for 584 years.
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// SIGTERM and SIGINT as bytes in a pipe that is polled: a handler may do little more than that.
#[derive(Debug)]
struct Signals {
    pipe: UnixStream,
    handlers: Vec<SigId>,
}

impl Signals {
    fn new(poll: &Poll) -> Result<Self> {
        let (mut pipe, writer) = UnixStream::pair()?;
        poll.registry().register(&mut pipe, SIGNALS, Interest::READABLE)?;
        let writer = std::os::unix::net::UnixStream::from(writer);
        let mut signals = Self { pipe, handlers: Vec::new() };
        for signal in [SIGTERM, SIGINT] {
            signals.handlers.push(low_level::pipe::register(signal, writer.try_clone()?)?);
        }
        Ok(signals)
    }

    /// Empties the pipe; true when there was a signal in it.
    fn drain(&mut self) -> bool {
        let mut bytes = [0; 64];
        let mut count_total = 0;
        // At the end of the stream every handler is gone, and that happens in `drop` alone.
        while let Ok(count) = uninterrupted(|| self.pipe.read(&mut bytes))
            && count > 0
        {
            count_total += count;
        }
        count_total > 0
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            low_level::unregister(handler);
        }
    }
}

#[cfg(test)]
#[path = "mio_tests.rs"]
mod tests;
