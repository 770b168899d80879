//! Tests of [`MioIO`] with real sockets on the loopback interface, real files and real signals.

use super::*;
use crate::constants::SECTOR_SIZE;
use crate::io::test_directory::TestDirectory;
use crate::stdx::Prng;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Shutdown};
use std::ops::Range;
use std::process::Command;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// How often a test calls `run` for one thing to happen. With the timeout below it gives a slow
/// machine a minute.
const RUNS_MAX: u32 = 600;
const RUN_TIMEOUT: Duration = Duration::from_millis(100);

const SECTOR: usize = SECTOR_SIZE as usize;

fn new() -> MioIO {
    MioIO::new(MioOptions { development: true, ..MioOptions::default() }).unwrap()
}

/// Runs until `found` finds something in one of the events.
fn run_until<T>(io: &mut MioIO, mut found: impl FnMut(&mut MioIO, Event) -> Option<T>) -> T {
    let mut events = Vec::new();
    for _ in 0..RUNS_MAX {
        io.run(RUN_TIMEOUT, &mut events);
        let mut result = None;
        for event in events.drain(..) {
            result = result.or(found(io, event));
        }
        if let Some(result) = result {
            return result;
        }
    }
    panic!("it did not happen");
}

fn run_until_readable(io: &mut MioIO, wanted: SocketId) {
    run_until(io, |_, event| match event {
        Event::Socket { socket, readable: true, .. } if socket == wanted => Some(()),
        _ => None,
    });
}

/// Takes the events that are there, until a `run` has none.
fn settle(io: &mut MioIO) -> Vec<Event> {
    let mut events = Vec::new();
    loop {
        let count_before = events.len();
        io.run(Duration::from_millis(1), &mut events);
        if events.len() == count_before {
            return events;
        }
    }
}

fn listen(io: &mut MioIO) -> (SocketId, SocketAddr) {
    io.listen(ANY).unwrap()
}

/// A connection from a plain socket, accepted.
fn accept_plain(io: &mut MioIO) -> (std::net::TcpStream, SocketId) {
    let (listener, address) = listen(io);
    let peer = std::net::TcpStream::connect(address).unwrap();
    run_until_readable(io, listener);
    let (socket, peer_address) = io.accept(listener).unwrap();
    assert_eq!(peer_address, peer.local_addr().unwrap());
    io.close(listener);
    (peer, socket)
}

fn is_would_block<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

/// Receives all that is there. The flag: the end of the stream.
fn recv_all(io: &mut MioIO, socket: SocketId, bytes: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 3000];
    loop {
        match io.recv(socket, &mut buffer) {
            Ok(0) => return true,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Sends `bytes` from `sent` on, in two slices at a time, until there is no room. Returns how many
/// calls took less than they were given.
fn send_all(io: &mut MioIO, socket: SocketId, bytes: &[u8], sent: &mut usize) -> u32 {
    let mut short = 0;
    while *sent < bytes.len() {
        let rest = &bytes[*sent..];
        let (first, second) = rest.split_at(rest.len() / 3);
        match io.send(socket, &[IoSlice::new(first), IoSlice::new(second)]) {
            Ok(count) => {
                assert!(count > 0);
                short += u32::from(count < rest.len());
                *sent += count;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    short
}

#[test]
fn echoes_a_mebibyte_through_short_writes() {
    let mut io =
        MioIO::new(MioOptions { socket_buffer_size: Some(8 * 1024), ..MioOptions::default() })
            .unwrap();
    let (listener, address) = listen(&mut io);
    let client = io.connect(address).unwrap();
    let mut request = vec![0; 1 << 20];
    Prng::from_seed(1).fill(&mut request);

    let mut server = None;
    let mut connected = false;
    let (mut requested, mut replied, mut short) = (0, 0, 0);
    let (mut received, mut reply) = (Vec::new(), Vec::new());
    run_until(&mut io, |io, event| {
        let Event::Socket { socket, readable, writable } = event else { panic!("{event:?}") };
        if socket == listener {
            assert!(readable);
            server = Some(io.accept(listener).unwrap().0);
            assert!(is_would_block(&io.accept(listener)));
        } else if socket == client {
            if writable && !connected {
                connected = io.connected(client).unwrap();
            }
            if connected {
                short += send_all(io, client, &request, &mut requested);
                assert!(!recv_all(io, client, &mut reply));
            }
        } else {
            assert_eq!(Some(socket), server);
            assert!(!recv_all(io, socket, &mut received));
            short += send_all(io, socket, &received, &mut replied);
        }
        (reply.len() == request.len()).then_some(())
    });
    assert!(reply == request);
    assert!(short > 0);
}

#[test]
fn a_refused_connect_surfaces() {
    let mut io = new();
    // Bound, so that nobody else listens there, but not listening.
    let held = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    held.bind(&ANY.into()).unwrap();
    let address = held.local_addr().unwrap().as_socket().unwrap();
    let error = match io.connect(address) {
        Err(error) => error,
        Ok(socket) => {
            let error = run_until(&mut io, |io, event| match event {
                Event::Socket { socket: of, writable: true, .. } if of == socket => {
                    io.connected(socket).err()
                }
                _ => None,
            });
            io.close(socket);
            error
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    assert!(settle(&mut io).is_empty());
}

#[test]
fn a_connecting_socket_becomes_connected() {
    let mut io = new();
    let (_listener, address) = listen(&mut io);
    let socket = io.connect(address).unwrap();
    run_until(&mut io, |io, event| match event {
        Event::Socket { socket: of, writable: true, .. } if of == socket => {
            io.connected(socket).unwrap().then_some(())
        }
        _ => None,
    });
    // To ask again does no harm.
    assert!(io.connected(socket).unwrap());
}

#[test]
fn an_address_in_use_is_an_error() {
    let mut io = new();
    let (listener, address) = listen(&mut io);
    assert_eq!(io.listen(address).unwrap_err().kind(), ErrorKind::AddrInUse);
    // And at once free again, in spite of a connection that was closed from this side.
    let peer = std::net::TcpStream::connect(address).unwrap();
    run_until_readable(&mut io, listener);
    let (socket, _) = io.accept(listener).unwrap();
    io.close(socket);
    io.close(listener);
    assert_eq!(io.listen(address).unwrap().1, address);
    drop(peer);
}

#[test]
fn half_closed_is_half_open() {
    let mut io = new();
    let (mut peer, socket) = accept_plain(&mut io);
    peer.write_all(b"question").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let mut received = Vec::new();
    run_until(&mut io, |io, event| match event {
        Event::Socket { readable: true, .. } => recv_all(io, socket, &mut received).then_some(()),
        _ => None,
    });
    assert_eq!(received, b"question");
    assert_eq!(io.send(socket, &[IoSlice::new(b"answer")]).unwrap(), 6);
    io.close(socket);
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"answer");
}

#[test]
fn a_dead_peer_is_an_error_and_no_signal() {
    let mut io = new();
    let (peer, socket) = accept_plain(&mut io);
    assert_eq!(io.send(socket, &[IoSlice::new(b"unread")]).unwrap(), 6);
    // Closed with bytes unread: a reset.
    let mut byte = [0];
    assert_eq!(peer.peek(&mut byte).unwrap(), 1);
    drop(peer);
    run_until_readable(&mut io, socket);
    let error = io.recv(socket, &mut byte).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = io.send(socket, &[IoSlice::new(b"into the void")]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    io.close(socket);
}

#[test]
fn readiness_comes_in_edges() {
    let mut io = new();
    let (mut peer, socket) = accept_plain(&mut io);
    let mut received = Vec::new();
    for round in 1..=3 {
        peer.write_all(&[7; 5000]).unwrap();
        while received.len() < round * 5000 {
            run_until_readable(&mut io, socket);
            recv_all(&mut io, socket, &mut received);
        }
        assert!(is_would_block(&io.recv(socket, &mut [0; 1])));
        // What was drained is not announced again.
        settle(&mut io);
        assert!(settle(&mut io).is_empty());
    }
    // However long the sleep may be, an edge ends it.
    peer.shutdown(Shutdown::Write).unwrap();
    let mut events = Vec::new();
    while events.is_empty() {
        io.run(Duration::MAX, &mut events);
    }
    assert!(recv_all(&mut io, socket, &mut received));
}

#[test]
fn accepts_a_burst() {
    let mut io = new();
    let (listener, address) = listen(&mut io);
    let mut peers = BTreeSet::new();
    let mut streams = Vec::new();
    for _ in 0..200 {
        let stream = std::net::TcpStream::connect(address).unwrap();
        peers.insert(stream.local_addr().unwrap());
        streams.push(stream);
    }
    run_until_readable(&mut io, listener);
    let mut accepted = BTreeSet::new();
    let mut sockets = BTreeSet::new();
    for _ in 0..200 {
        let (socket, peer) = io.accept(listener).unwrap();
        accepted.insert(peer);
        sockets.insert(socket);
    }
    assert!(is_would_block(&io.accept(listener)));
    assert_eq!(accepted, peers);
    assert_eq!(sockets.len(), 200);
    // Each is announced, and each speaks for itself.
    let mut announced = BTreeSet::new();
    run_until(&mut io, |_, event| {
        let Event::Socket { socket, writable: true, .. } = event else { return None };
        announced.insert(socket);
        (announced == sockets).then_some(())
    });
    streams[77].write_all(b"!").unwrap();
    let from = streams[77].local_addr().unwrap();
    let socket = run_until(&mut io, |_, event| match event {
        Event::Socket { socket, readable: true, .. } => Some(socket),
        _ => None,
    });
    assert_eq!(io.stream(socket).peer_addr().unwrap(), from);
}

#[test]
fn a_closed_socket_is_forgotten() {
    let mut io = new();
    let (mut peer, socket) = accept_plain(&mut io);
    settle(&mut io);
    peer.write_all(b"too late").unwrap();
    io.close(socket);
    assert!(settle(&mut io).is_empty());
    let (listener, address) = listen(&mut io);
    assert!(listener != socket);
    let _waiting = std::net::TcpStream::connect(address).unwrap();
    io.announcements.insert(listener, 0);
    io.close(listener);
    assert!(settle(&mut io).is_empty());
}

#[test]
fn ids_are_not_given_twice() {
    let mut io = new();
    let (first, _) = listen(&mut io);
    io.close(first);
    let (second, _) = listen(&mut io);
    assert!(first != second);
    // After a whole lap, those in use are passed over.
    io.socket_next = u32::MAX - 1;
    let (last, _) = listen(&mut io);
    assert_eq!(last, SocketId(u32::MAX - 1));
    let (lapped, _) = listen(&mut io);
    assert_eq!(lapped, SocketId(0));
    let (passed, _) = listen(&mut io);
    assert_eq!(passed, SocketId(second.0 + 1));
}

/// The limit of descriptors is the process's, so this test runs itself in a process of its own.
#[test]
fn a_listener_survives_the_lack_of_descriptors() {
    const NAME: &str = "VSR_TEST_DESCRIPTORS_MAX";
    if std::env::var_os(NAME).is_none() {
        let output = Command::new("sh")
            .args(["-c", "ulimit -n 64 && exec \"$0\" \"$@\""])
            .arg(std::env::current_exe().unwrap())
            .arg("a_listener_survives_the_lack_of_descriptors")
            .env(NAME, "64")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        return;
    }

    let mut io = new();
    let (listener, address) = listen(&mut io);
    let peer = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    peer.connect(&address.into()).unwrap();
    run_until_readable(&mut io, listener);
    let error = io.accept(listener).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
    // A caller that goes on until it would block comes to an end.
    assert!(is_would_block(&io.accept(listener)));

    // As long as nothing changes it is announced again and again, but not without a pause.
    for _ in 0..3 {
        let begin = io.monotonic();
        run_until_readable(&mut io, listener);
        assert!(io.monotonic() - begin > ACCEPT_PAUSE_NS / 2);
        assert_eq!(io.accept(listener).unwrap_err().raw_os_error(), Some(libc::EMFILE));
    }
    drop(hoard);
    run_until_readable(&mut io, listener);
    let (_, from) = io.accept(listener).unwrap();
    assert_eq!(Some(from), peer.local_addr().unwrap().as_socket());
    assert!(is_would_block(&io.accept(listener)));
    assert!(
        settle(&mut io)
            .iter()
            .all(|event| matches!(event, Event::Socket { socket, .. } if *socket != listener))
    );
}

#[test]
fn an_idle_run_sleeps() {
    let mut io = new();
    let (_listener, _) = listen(&mut io);
    let (_peer, _socket) = accept_plain(&mut io);
    settle(&mut io);
    // A signal of another test may interrupt a sleep: hence the slack.
    for (timeout, span_ns, runs_max) in
        [(Duration::from_millis(10), 200_000_000, 30), (Duration::from_micros(100), 50_000_000, 60)]
    {
        let begin = io.monotonic();
        let mut runs = 0;
        let mut events = Vec::new();
        while io.monotonic() - begin < span_ns {
            io.run(timeout, &mut events);
            runs += 1;
        }
        assert!(events.is_empty());
        assert!(runs <= runs_max, "{runs} runs of {timeout:?}");
    }
}

#[test]
fn signals_ask_to_end() {
    let mut io = MioIO::new(MioOptions { signals: true, ..MioOptions::default() }).unwrap();
    assert!(settle(&mut io).is_empty());
    let terminated = |_: &mut MioIO, event: Event| matches!(event, Event::Terminate).then_some(());
    low_level::raise(SIGTERM).unwrap();
    run_until(&mut io, terminated);
    assert!(settle(&mut io).is_empty());
    low_level::raise(SIGINT).unwrap();
    run_until(&mut io, terminated);
    // From outside, in the middle of a sleep.
    let mut kill = Command::new("sh")
        .args(["-c", "kill -TERM $0", &std::process::id().to_string()])
        .spawn()
        .unwrap();
    run_until(&mut io, terminated);
    assert!(kill.wait().unwrap().success());
    drop(io);
}

#[test]
fn clocks_and_entropy() {
    let mut io = new();
    let mut last = 0;
    for _ in 0..1000 {
        let now = io.monotonic();
        assert!(now >= last);
        last = now;
    }
    assert!(io.realtime() > 0);
    let bits: BTreeSet<u64> = (0..100).map(|_| io.entropy()).collect();
    assert_eq!(bits.len(), 100);
}

/// The result of the read with this token.
fn run_read(io: &mut MioIO, wanted: FileToken) -> (AlignedBuffer, Vec<Range<u32>>) {
    run_until(io, |_, event| match event {
        Event::ReadDone { token, buffer, unreadable } if token == wanted => {
            Some((buffer, unreadable))
        }
        _ => None,
    })
}

fn one(range: Range<u32>) -> Vec<Range<u32>> {
    std::iter::once(range).collect()
}

fn run_write(io: &mut MioIO, wanted: FileToken) -> Result<()> {
    run_until(io, |_, event| match event {
        Event::WriteDone { token, result } if token == wanted => Some(result),
        _ => None,
    })
}

#[test]
fn writes_are_read_back() {
    let directory = TestDirectory::new();
    let path = directory.path("data");
    let mut io = new();
    let file = io.open_file(&path, OpenMode::Create).unwrap();
    assert_eq!(io.file_size(file).unwrap(), 0);
    let mut prng = Prng::from_seed(2);
    let mut model = vec![0; 64 * SECTOR];
    for token in 0..40 {
        let first = prng.index(60);
        let mut bytes = vec![0; (1 + prng.index(64 - first)) * SECTOR];
        prng.fill(&mut bytes);
        model[first * SECTOR..first * SECTOR + bytes.len()].copy_from_slice(&bytes);
        let sectors = AlignedBuffer::copy_of(&bytes).freeze();
        io.write(file, (first * SECTOR) as u64, sectors, token);
        run_write(&mut io, token).unwrap();
    }
    let size = usize::try_from(io.file_size(file).unwrap()).unwrap();
    assert!(size > 0 && size.is_multiple_of(SECTOR));
    drop(io);

    for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
        let mut io = new();
        let file = io.open_file(&path, mode).unwrap();
        for token in 0..40 {
            let first = prng.index(size / SECTOR);
            let count = 1 + prng.index(size / SECTOR - first);
            let range = first * SECTOR..(first + count) * SECTOR;
            let buffer = AlignedBuffer::zeroed(u32::try_from(range.len()).unwrap());
            io.read(file, range.start as u64, buffer, token);
            let (buffer, unreadable) = run_read(&mut io, token);
            assert!(unreadable.is_empty());
            assert!(buffer.as_ref() == &model[range]);
        }
    }
}

#[test]
fn behind_the_end_nothing_is_readable() {
    let directory = TestDirectory::new();
    let mut io = new();
    let file = io.open_file(&directory.path("data"), OpenMode::Create).unwrap();
    let sectors = AlignedBuffer::copy_of(&[9; 2 * SECTOR]).freeze();
    io.write(file, 0, sectors, 1);
    run_write(&mut io, 1).unwrap();

    let mut buffer = AlignedBuffer::zeroed(4 * SECTOR_SIZE);
    buffer.as_mut().fill(0xAA);
    io.read(file, u64::from(SECTOR_SIZE), buffer, 2);
    let (buffer, unreadable) = run_read(&mut io, 2);
    assert_eq!(unreadable, one(SECTOR_SIZE..4 * SECTOR_SIZE));
    assert!(buffer.as_ref()[..SECTOR].iter().all(|byte| *byte == 9));
    assert!(buffer.as_ref()[SECTOR..].iter().all(|byte| *byte == 0));

    io.read(file, 1 << 40, AlignedBuffer::zeroed(SECTOR_SIZE), 3);
    let (_, unreadable) = run_read(&mut io, 3);
    assert_eq!(unreadable, one(0..SECTOR_SIZE));
}

#[test]
fn file_work_completes_once_and_sockets_live_beside_it() {
    let directory = TestDirectory::new();
    let mut io = new();
    let file = io.open_file(&directory.path("data"), OpenMode::Create).unwrap();
    let (mut peer, socket) = accept_plain(&mut io);
    settle(&mut io);
    let sectors = AlignedBuffer::zeroed(1 << 20).freeze();
    for token in 0..32 {
        io.write(file, token << 20, sectors.clone(), token);
    }
    peer.write_all(b"?").unwrap();

    let mut completed = BTreeSet::new();
    let mut heard_after = None;
    let mut events = Vec::new();
    while completed.len() < 32 {
        let count_before = completed.len();
        io.run(Duration::from_secs(10), &mut events);
        for event in events.drain(..) {
            match event {
                Event::WriteDone { token, result } => {
                    result.unwrap();
                    assert!(completed.insert(token));
                }
                Event::Socket { socket: of, readable: true, .. } if of == socket => {
                    heard_after = heard_after.or(Some(completed.len()));
                }
                Event::Socket { .. } => {}
                event => panic!("{event:?}"),
            }
        }
        assert!(completed.len() > count_before);
    }
    assert!(heard_after.is_some_and(|count| count < 32), "{heard_after:?}");
    assert!(settle(&mut io).is_empty());
    assert_eq!(io.file_size(file).unwrap(), 32 << 20);
}
