//! The blocking client against replicas that are a function: an IO in memory, with a clock that
//! jumps to the end of each wait.

use super::core::{RESEND_TICKS_MIN, RESEND_TICKS_SLOW};
use super::*;
use crate::constants::{HEADER_SIZE, TICK_NS};
use crate::io::{FileId, FileToken, OpenError, OpenMode, SocketId};
use crate::stdx::AlignedBuffer;
use crate::wire::{
    Author, Command, Eviction, Message, Operation, PongClient, Reject, Reply, Request, Status, View,
};
use std::collections::{BTreeMap, VecDeque};
use std::io::{ErrorKind, IoSlice};
use std::path::Path;

/// What replica `0` answers to a message, given how many requests it has seen.
type Script = Box<dyn FnMut(ReplicaIndex, &Message) -> Vec<Message>>;

struct Socket {
    replica: ReplicaIndex,
    sent: Vec<u8>,
    inbox: VecDeque<u8>,
}

struct ScriptIO {
    now_ns: u64,
    entropy: u64,
    sockets: BTreeMap<SocketId, Socket>,
    socket_next: u32,
    events: Vec<Event>,
    /// A bit for each replica that refuses connections.
    down: u8,
    script: Script,
}

impl ScriptIO {
    fn new(script: impl FnMut(ReplicaIndex, &Message) -> Vec<Message> + 'static) -> Self {
        Self {
            now_ns: 1_000_000_000,
            entropy: 7,
            sockets: BTreeMap::new(),
            socket_next: 0,
            events: Vec::new(),
            down: 0,
            script: Box::new(script),
        }
    }

    /// Hands whole frames that were sent to the script, and its answers back.
    fn answer(&mut self, id: SocketId) {
        let socket = self.sockets.get_mut(&id).expect("an open socket");
        while socket.sent.len() >= HEADER_SIZE as usize {
            let size = u32::from_le_bytes(*socket.sent[24..28].first_chunk().expect("4 bytes"));
            let Some(frame) = socket.sent.get(..size as usize) else { return };
            let message = Message::decode(Bytes::copy_from_slice(frame)).expect("a valid message");
            socket.sent.drain(..size as usize);
            for answer in (self.script)(socket.replica, &message) {
                socket.inbox.extend(answer.as_bytes());
                self.events.push(Event::Socket { socket: id, readable: true, writable: false });
            }
        }
    }
}

impl IO for ScriptIO {
    fn listen(&mut self, _: SocketAddr) -> std::io::Result<(SocketId, SocketAddr)> {
        unreachable!("a client does not listen")
    }

    fn connect(&mut self, address: SocketAddr) -> std::io::Result<SocketId> {
        let id = SocketId(self.socket_next);
        self.socket_next += 1;
        let replica = ReplicaIndex(u8::try_from(address.port()).expect("a port below 256"));
        self.sockets.insert(id, Socket { replica, sent: Vec::new(), inbox: VecDeque::new() });
        self.events.push(Event::Socket { socket: id, readable: false, writable: true });
        Ok(id)
    }

    fn connected(&mut self, socket: SocketId) -> std::io::Result<bool> {
        let replica = self.sockets[&socket].replica;
        if self.down & (1 << replica.0) != 0 {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        Ok(true)
    }

    fn accept(&mut self, _: SocketId) -> std::io::Result<(SocketId, SocketAddr)> {
        unreachable!("a client does not listen")
    }

    fn recv(&mut self, socket: SocketId, buffer: &mut [u8]) -> std::io::Result<usize> {
        let inbox = &mut self.sockets.get_mut(&socket).expect("an open socket").inbox;
        if inbox.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let size = buffer.len().min(inbox.len());
        buffer[..size].iter_mut().for_each(|byte| *byte = inbox.pop_front().expect("counted"));
        Ok(size)
    }

    fn send(&mut self, socket: SocketId, slices: &[IoSlice<'_>]) -> std::io::Result<usize> {
        let sent = &mut self.sockets.get_mut(&socket).expect("an open socket").sent;
        let before = sent.len();
        slices.iter().for_each(|slice| sent.extend_from_slice(slice));
        let size = sent.len() - before;
        self.answer(socket);
        Ok(size)
    }

    fn close(&mut self, socket: SocketId) {
        self.sockets.remove(&socket).expect("closed once");
    }

    fn open_file(&mut self, _: &Path, _: OpenMode) -> Result<FileId, OpenError> {
        unreachable!("a client has no files")
    }

    fn file_size(&mut self, _: FileId) -> std::io::Result<u64> {
        unreachable!("a client has no files")
    }

    fn read(&mut self, _: FileId, _: u64, _: AlignedBuffer, _: FileToken) {
        unreachable!("a client has no files")
    }

    fn write(&mut self, _: FileId, _: u64, _: Bytes, _: FileToken) {
        unreachable!("a client has no files")
    }

    fn run(&mut self, timeout: Duration, events: &mut Vec<Event>) {
        if self.events.is_empty() {
            self.now_ns += u64::try_from(timeout.as_nanos()).expect("a short wait");
        }
        events.append(&mut self.events);
        // Every look at the world takes time, or a client that never waits would never time out.
        self.now_ns += 1000;
    }

    fn monotonic(&mut self) -> u64 {
        self.now_ns
    }

    fn realtime(&mut self) -> u64 {
        self.now_ns
    }

    fn entropy(&mut self) -> u64 {
        self.entropy += 1;
        self.entropy
    }
}

fn client(io: ScriptIO) -> Client<ScriptIO> {
    let addresses = (0..3).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect();
    let timeout = Duration::from_secs(5);
    Client::connect(io, ClientConfig { cluster: ClusterId(3), addresses, timeout })
}

fn author(replica: ReplicaIndex, view: u32) -> Author {
    Author { cluster: ClusterId(3), view: View(view), replica, incarnation: 9 }
}

fn as_request(message: &Message) -> Option<Request> {
    match message.header().command {
        Command::Request(request) => Some(request),
        _ => None,
    }
}

/// The right reply, which echoes the body. Sessions are 100 plus how many there were.
fn reply(replica: ReplicaIndex, message: &Message, session: u64) -> Vec<Message> {
    let Some(request) = as_request(message) else { return Vec::new() };
    let reply = Reply {
        client: request.client,
        session: if request.operation == Operation::Register as u8 {
            session
        } else {
            request.session
        },
        request: request.request,
        op: 5,
        timestamp: 0,
        request_checksum: message.header().checksum_body,
        result: 0,
        operation: request.operation,
    };
    vec![Message::new(&author(replica, 0), reply, message.body())]
}

fn reject(replica: ReplicaIndex, message: &Message, reason: RejectReason) -> Vec<Message> {
    let Some(request) = as_request(message) else { return Vec::new() };
    let reject = Reject { client: request.client, request: request.request, reason: reason as u8 };
    vec![Message::new(&author(replica, 0), reject, &[])]
}

fn is(message: &Message, operation: Operation) -> bool {
    as_request(message).is_some_and(|request| request.operation == operation as u8)
}

#[test]
fn request_and_query_are_answered() {
    let mut client = client(ScriptIO::new(|replica, message| reply(replica, message, 100)));
    for body in [&b"one"[..], b"two"] {
        assert_eq!(client.request(body).expect("an answer").body, body);
        assert_eq!(client.query(body).expect("an answer").body, body);
    }
    let io = client.close();
    assert!(io.sockets.is_empty(), "close leaves nothing open");
}

#[test]
fn close_deregisters() {
    use std::cell::Cell;
    use std::rc::Rc;
    let count = Rc::new(Cell::new(0));
    let seen = Rc::clone(&count);
    let mut client = client(ScriptIO::new(move |replica, message| {
        if is(message, Operation::Deregister) {
            seen.set(seen.get() + 1);
        }
        reply(replica, message, 100)
    }));
    client.query(b"x").expect("an answer");
    let io = client.close();
    assert_eq!(count.get(), 0, "no session, nothing to close");
    let mut client = Client::connect(io, self::client(ScriptIO::new(reply_100)).config);
    client.request(b"x").expect("an answer");
    client.close();
    assert_eq!(count.get(), 1);
}

fn reply_100(replica: ReplicaIndex, message: &Message) -> Vec<Message> {
    reply(replica, message, 100)
}

#[test]
fn nobody_there_is_unavailable_within_the_timeout() {
    let mut io = ScriptIO::new(|_, _| unreachable!("nobody is there"));
    io.down = 0b111;
    let start_ns = io.now_ns;
    let mut client = client(io);
    assert_eq!(client.request(b"x"), Err(ClientError::Unavailable));
    assert_eq!(client.query(b"x"), Err(ClientError::Unavailable));
    let elapsed_ns = client.io().now_ns - start_ns;
    assert!((10_000_000_000..10_100_000_000).contains(&elapsed_ns), "{elapsed_ns}");
}

#[test]
fn silence_is_unknown_for_a_request_and_unavailable_before_and_for_a_query() {
    let mut client = client(ScriptIO::new(|replica, message| {
        let register = is(message, Operation::Register);
        if register { reply(replica, message, 100) } else { Vec::new() }
    }));
    let unknown = Err(ClientError::OutcomeUnknown(Unknown::Timeout));
    assert_eq!(client.request(b"x"), unknown);
    assert_eq!(client.query(b"x"), Err(ClientError::Unavailable));
    assert_eq!(client.request(b"x"), unknown, "in a session of its own");

    let mut silent = self::client(ScriptIO::new(|_, _| Vec::new()));
    assert_eq!(silent.request(b"x"), Err(ClientError::Unavailable), "no session, not sent");
}

#[test]
fn eviction_in_flight_is_unknown_and_the_next_request_has_a_session_of_its_own() {
    let mut sessions = 100;
    let mut clients = Vec::new();
    let mut client = client(ScriptIO::new(move |replica, message| {
        let Some(request) = as_request(message) else { return Vec::new() };
        if is(message, Operation::Register) {
            sessions += 1;
            assert!(!clients.contains(&request.client), "an id for each session");
            clients.push(request.client);
            return reply(replica, message, sessions);
        }
        if request.session == 101 {
            let reason = EvictionReason::NoSession as u8;
            let eviction = Eviction { client: request.client, session: 101, reason };
            return vec![Message::new(&author(replica, 0), eviction, &[])];
        }
        assert_eq!(message.body(), b"second", "the first is never sent again");
        reply(replica, message, sessions)
    }));
    let reason = Unknown::Evicted(EvictionReason::NoSession);
    assert_eq!(client.request(b"first"), Err(ClientError::OutcomeUnknown(reason)));
    assert_eq!(client.request(b"second").expect("an answer").body, &b"second"[..]);
}

#[test]
fn refusals_are_told_apart() {
    for reason in [RejectReason::StoreFull, RejectReason::Invalid, RejectReason::TooLarge] {
        let mut client = client(ScriptIO::new(move |replica, message| {
            let register = is(message, Operation::Register);
            if register { reply(replica, message, 100) } else { reject(replica, message, reason) }
        }));
        for _ in 0..3 {
            assert_eq!(client.request(b"x"), Err(ClientError::Rejected(reason)));
            assert_eq!(client.query(b"x"), Err(ClientError::Rejected(reason)));
        }
    }
}

#[test]
fn two_dead_replicas_do_not_hide_the_third() {
    for alive in 0..3_u8 {
        let mut io = ScriptIO::new(reply_100);
        io.down = 0b111 & !(1 << alive);
        let start_ns = io.now_ns;
        let mut client = client(io);
        client.request(b"x").expect("an answer");
        let elapsed_ns = client.io().now_ns - start_ns;
        assert!(elapsed_ns < 3_000_000_000, "replica {alive}: {elapsed_ns} ns");
    }
}

#[test]
fn message_is_resent_at_its_pace_until_somebody_answers() {
    let mut copies = 0;
    let mut client = client(ScriptIO::new(move |replica, message| {
        copies += u32::from(is(message, Operation::Apply));
        let answer = is(message, Operation::Register) || copies == 4;
        if answer { reply(replica, message, 100) } else { Vec::new() }
    }));
    let start_ns = client.io().now_ns;
    client.request(b"x").expect("an answer");
    let elapsed_ns = client.io().now_ns - start_ns;
    assert!(elapsed_ns > 6 * RESEND_TICKS_MIN * TICK_NS, "{elapsed_ns}");
    assert!(elapsed_ns < RESEND_TICKS_SLOW * TICK_NS, "{elapsed_ns}");
}

#[test]
fn large_body_asks_for_the_message_size_first() {
    let mut client = client(ScriptIO::new(|replica, message| match message.header().command {
        Command::PingClient(ping) => {
            let pong = PongClient {
                client: ping.client,
                ping_timestamp_monotonic: ping.timestamp_monotonic,
                message_size: 64 << 10,
                replica_count: 3,
            };
            vec![Message::new(&author(replica, 0), pong, &[])]
        }
        _ => reply(replica, message, 100),
    }));
    let fits = vec![1; (64 << 10) - 192];
    assert_eq!(client.request(&fits).expect("an answer").body, fits);
    let too_large = vec![1; fits.len() + 1];
    let refused = Err(ClientError::Rejected(RejectReason::TooLarge));
    assert_eq!(client.request(&too_large), refused);
    assert_eq!(client.query(&too_large), refused);
    assert_eq!(client.request(b"small").expect("an answer").body, &b"small"[..]);
}

#[test]
fn status_of_all_is_bounded_by_its_timeout() {
    let mut io = ScriptIO::new(|replica, message| {
        let Command::RequestStatus(request) = message.header().command else { return Vec::new() };
        if replica.0 == 2 {
            return Vec::new();
        }
        let report = StatusReport { replica, replica_count: 3, op: 77, ..StatusReport::default() };
        let status = Status { client: request.client };
        vec![Message::new(&author(replica, 0), status, &report.encode())]
    });
    io.down = 0b010;
    let start_ns = io.now_ns;
    let mut client = client(io);
    let reports = client.status_all(Duration::from_secs(1));
    assert_eq!(reports[0].expect("a report").op, 77);
    assert_eq!(reports[1..], [None, None], "one refuses, one is silent");
    let elapsed_ns = client.io().now_ns - start_ns;
    assert!((1_000_000_000..1_050_000_000).contains(&elapsed_ns), "{elapsed_ns}");
    assert!(client.status(ReplicaIndex(0), Duration::from_secs(1)).is_some());
    assert!(client.status(ReplicaIndex(2), Duration::from_millis(10)).is_none());
    client.pause(Duration::from_secs(2));
    let start_ns = client.io().now_ns;
    assert!(client.status(ReplicaIndex(1), Duration::from_secs(1)).is_none());
    let elapsed_ns = client.io().now_ns - start_ns;
    assert!(elapsed_ns < 50_000_000, "a port that refuses is not waited for: {elapsed_ns}");
}

#[test]
fn signal_ends_a_wait_early() {
    let mut io = ScriptIO::new(|_, _| Vec::new());
    io.events.push(Event::Terminate);
    let start_ns = io.now_ns;
    let mut client = client(io);
    assert_eq!(client.query(b"x"), Err(ClientError::Unavailable));
    assert!(client.is_terminated());
    assert!(client.io().now_ns - start_ns < 100_000_000);
}
