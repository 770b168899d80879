//! Strangers who say to be replicas: beside the replicas that they name, and in their places.
//!
//! ```text
//!   replica 2 runs:    stranger ── any message "of 2" ──► 0, 1    closed: 2 is there
//!   replica 2 is down: stranger ── ping "of 2" ─────────► 0, 1    taken for it, and doubted
//!                               ── any message "of 2" ──► 0, 1    changes nothing
//!                      replica 2 comes back ────────────► 0, 1    the stranger gives way
//! ```
//!
//! **Invariants:** a stranger has an incarnation of his own: the table of the cluster names him
//! nowhere. What he sends is counted by kind, so that none is left out unseen.
//!
//! **Not here:** strangers before the birth of a cluster: nothing is promised of it.

use super::cursor::Cursor;
use super::forgery::{self, KINDS, Target};
use super::harness::load::Load;
use super::harness::raw::{Incoming, Raw};
use super::harness::{Cluster, DEADLINE, pass, wait_for};
use super::{GEOMETRY, Siege, StopAtEnd, author, besiege, cluster, offer, one_at_a_time};
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vsr::stdx::Prng;
use vsr::wire::{
    ClientId, ClusterId, Command, Header, HeaderSet, IncarnationTable, Message, Op, Prepare,
    ReplicaIndex, RequestHeaders, RequestStatus, StartView, StatusReport, decode_headers,
};

/// The place that strangers take: its replica dials, so whoever dials may say to be it.
const PLACE: usize = 2;
const STRANGER: ReplicaIndex = ReplicaIndex(2);
/// The incarnation of strangers.
const INCARNATION: u64 = 4711;
/// Each kind of message was sent at least so often, or the attack was none.
const SENT_MIN: u64 = 50;

/// What has been sent of each kind.
#[derive(Default)]
struct Sent([AtomicU64; KINDS.len()]);

impl Sent {
    fn assert_all(&self) {
        for (kind, count) in KINDS.iter().zip(&self.0) {
            let name = Command::LAYOUTS.iter().find(|(code, ..)| code == kind).expect("known").1;
            let count = count.load(Ordering::Relaxed);
            println!("limits: {count} times {name}");
            assert!(count >= SENT_MIN, "{name} was sent {count} times");
        }
    }
}

/// A stranger at work.
struct Stranger<'a> {
    prng: Prng,
    target: Target,
    sent: &'a Sent,
    /// The kind that is next.
    kind: usize,
}

impl<'a> Stranger<'a> {
    fn new(seed: u64, sent: &'a Sent) -> Self {
        let target = Target {
            cluster: ClusterId(0),
            replica_count: 3,
            geometry: GEOMETRY,
            view: 0,
            op: 0,
            log: Vec::new(),
            incarnations: Vec::new(),
        };
        Self { prng: Prng::from_seed(seed), target, sent, kind: 0 }
    }

    /// Asks how a replica is, as anybody may.
    fn look(&mut self, address: SocketAddr) -> Option<()> {
        let client = 1 + self.prng.next_u128() / 2;
        let mut raw = Raw::try_connect(address, client)?;
        let request = RequestStatus { client: ClientId(client) };
        raw.send(Message::new(&author(0, 0, 0), request, &[]).as_bytes());
        let Incoming::Message(message) = raw.receive(Duration::from_secs(2)) else { return None };
        let report = StatusReport::decode(message.body()).ok()?;
        (self.target.view, self.target.op) = (report.view.0, report.op);
        Some(())
    }

    /// Asks for the headers of the log, as a replica.
    fn read_log(&mut self, address: SocketAddr) -> Option<()> {
        let mut raw = Raw::try_connect(address, 1)?;
        let author = author(STRANGER.0, self.target.view, INCARNATION);
        let (op_min, op_max) = (self.target.op.saturating_sub(8).max(1), self.target.op.max(1));
        raw.send(forgery::ping(&self.target, STRANGER).as_bytes());
        raw.send(Message::new(&author, RequestHeaders { op_min, op_max }, &[]).as_bytes());
        for _ in 0..20 {
            let Incoming::Message(message) = raw.receive(Duration::from_secs(2)) else { break };
            if let Ok(headers) = decode_headers(&message) {
                self.target.log = headers;
                return Some(());
            }
        }
        None
    }

    /// The next message, which says to be of `replica`; and its kind.
    fn message(&mut self, replica: ReplicaIndex) -> (usize, Message) {
        let mut bytes = [0; 1024];
        self.prng.fill(&mut bytes);
        let kind = self.kind;
        self.kind = (kind + 1) % KINDS.len();
        (kind, forgery::message(&mut Cursor::new(&bytes), &self.target, KINDS[kind], replica))
    }

    /// Sends the next message, and takes what came. False: the connection is over.
    fn speak(&mut self, siege: &Siege, stream: &mut TcpStream, replica: ReplicaIndex) -> bool {
        let (kind, message) = self.message(replica);
        let size = message.as_bytes().len();
        if offer(stream, message.as_bytes()) != Some(size) {
            return false;
        }
        siege.count(1);
        self.sent.0[kind].fetch_add(1, Ordering::Relaxed);
        take(stream).is_some()
    }
}

/// Throws away what came; returns how many bytes that was. `None`: the connection is over.
fn take(stream: &mut TcpStream) -> Option<usize> {
    let (mut sink, mut total) = ([0; 16 << 10], 0);
    loop {
        match stream.read(&mut sink) {
            Ok(0) => return None,
            Ok(size) => total += size,
            Err(error) => return (error.kind() == ErrorKind::WouldBlock).then_some(total),
        }
    }
}

/// Messages of every command that say to be of another replica, of the receiver itself, and of
/// none, while all replicas are there.
#[test]
fn messages_that_claim_to_be_of_replicas() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let sent = Sent::default();
    besiege("claims", &mut cluster, 2, 50, |siege, attacker| {
        let mut stranger = Stranger::new(10 + attacker as u64, &sent);
        let (mut connections, mut said) = (0, false);
        while siege.goes_on() {
            let to = stranger.prng.index(3);
            if connections % 200 == 0 {
                stranger.look(siege.addresses[to]);
            }
            let Some(mut stream) = siege.connect(to) else { continue };
            connections += 1;
            let replica = ReplicaIndex(u8::try_from(stranger.prng.below(5)).expect("below 5"));
            for _ in 0..1 + stranger.prng.below(4) {
                if !stranger.speak(siege, &mut stream, replica) {
                    break;
                }
            }
            if connections > 1000 && !std::mem::replace(&mut said, true) {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    sent.assert_all();
    cluster.wait_all();
}

/// The same in the place of a replica that is down: what the stranger says is read, and changes
/// nothing.
#[test]
fn messages_in_the_place_of_a_replica_that_is_down() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    assert_ne!(cluster.status().primary, Some(PLACE));
    cluster.kill(PLACE);
    let sent = Sent::default();
    besiege("a place taken", &mut cluster, 2, 50, |siege, attacker| {
        let mut stranger = Stranger::new(20 + attacker as u64, &sent);
        let (mut messages, mut received, mut said) = (0u64, 0, false);
        while siege.goes_on() {
            let address = siege.addresses[attacker];
            stranger.look(address);
            stranger.read_log(address);
            let Some(mut stream) = siege.connect(attacker) else { continue };
            let ping = forgery::ping(&stranger.target, STRANGER);
            if offer(&mut stream, ping.as_bytes()) != Some(ping.as_bytes().len()) {
                continue;
            }
            for number in 0..2000 {
                // Prepares and what else is handed on may be of any author.
                let (is_other, other) = (stranger.prng.below(8) == 0, stranger.prng.below(3));
                let other = u8::try_from(other).expect("below 3");
                let is_handed_on = matches!(KINDS[stranger.kind], 2 | 4 | 12 | 21);
                let replica = if is_other && is_handed_on { ReplicaIndex(other) } else { STRANGER };
                if !siege.goes_on() || !stranger.speak(siege, &mut stream, replica) {
                    break;
                }
                messages += 1;
                if number % 20 == 0 {
                    // What he is told proves that he is listened to.
                    pass(Duration::from_millis(1));
                    let Some(size) = take(&mut stream) else { break };
                    received += size;
                }
            }
            let is_listened_to =
                messages > 2000 && received > 100 * 128 && !stranger.target.log.is_empty();
            if is_listened_to && !std::mem::replace(&mut said, true) {
                siege.in_force.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    sent.assert_all();
    cluster.start(PLACE);
    cluster.wait_all();
    cluster.assert_alive();
}

/// The `start_view` of a view whose primary would be the stranger, who brings a table in which
/// those who are told of it have no place.
fn start_view_of_stranger(view: u64) -> Message {
    let view = (view + 1..).find(|view| view % 3 == 2).expect("one of three");
    let view = u32::try_from(view).expect("a few views");
    let incarnations = [9, 9, INCARNATION, 0, 0, 0];
    let table = IncarnationTable { op: 1, incarnations, ..IncarnationTable::default() };
    let op: Op = 1;
    let prepare = Prepare { op, entry_count: 1, ..Prepare::default() };
    let head = Header::seal(&author(0, 0, 0), prepare, &[0; 64]);
    let set = HeaderSet { table, op, headers: vec![Some(head)] };
    let command = StartView { op, commit_max: op, ..StartView::default() };
    Message::new(&author(STRANGER.0, view, INCARNATION), command, &set.encode())
}

/// Sends `message` to a replica as the first of a connection, until its sender is taken for the
/// replica that it names: he is pinged. Returns the connection.
#[track_caller]
fn insinuate(cluster: &mut Cluster, to: usize, message: &Message) -> Raw {
    wait_for(&format!("replica {to} takes a stranger in"), DEADLINE, || {
        cluster.assert_alive();
        let mut raw = Raw::try_connect(cluster.addresses()[to], 1)?;
        raw.send(message.as_bytes());
        for _ in 0..100 {
            match raw.receive(Duration::from_secs(2)) {
                Incoming::Message(message) => {
                    if matches!(message.header().command, Command::Ping(_)) {
                        return Some(raw);
                    }
                }
                Incoming::Silence => {}
                Incoming::Closed => break,
            }
        }
        None
    })
}

/// One message to each of the others in the name of a replica that is down.
#[test]
fn table_of_a_stranger_ends_nobody() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let view = cluster.status().view;
    cluster.kill(PLACE);
    let message = start_view_of_stranger(view);
    let _connections = [0, 1].map(|to| insinuate(&mut cluster, to, &message));
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.assert_alive();
    assert_eq!(cluster.wait_agreement(&[0, 1]).view, view);
    cluster.start(PLACE);
    cluster.wait_all();
    cluster.assert_alive();
}

/// Nobody is down: a replica is paused for long enough that its place is another's for a while.
#[test]
fn table_of_a_stranger_ends_nobody_while_a_replica_is_paused() {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let view = cluster.status().view;
    let message = start_view_of_stranger(view);
    cluster.pause(PLACE);
    let _connections = [0, 1].map(|to| insinuate(&mut cluster, to, &message));
    cluster.vsr(&["put", "key", "value"]).exits(0);
    cluster.resume(PLACE);
    cluster.wait_all();
    cluster.assert_alive();
    let load = Load::start(cluster.addresses(), "paused", 2, Duration::from_millis(5));
    load.wait_acknowledged(100);
    load.finish().no_errors().verify(&cluster.addresses());
    cluster.assert_alive();
}

/// What a stranger who keeps a place says all the time.
#[derive(Debug, Clone, Copy)]
enum Refrain {
    /// Pings of an incarnation that is not the replica's.
    Pings,
    /// A ping, and then only what replicas hand on for others, which tells nothing of its sender.
    HandedOn,
    /// Both.
    Both,
}

impl Refrain {
    fn messages(self, target: &Target, prng: &mut Prng) -> Vec<Message> {
        let mut handed_on = Vec::new();
        for kind in KINDS.into_iter().filter(|kind| matches!(kind, 2 | 4 | 12 | 21)) {
            let mut bytes = [0; 512];
            prng.fill(&mut bytes);
            handed_on.push(forgery::message(&mut Cursor::new(&bytes), target, kind, STRANGER));
        }
        match self {
            Self::Pings => vec![forgery::ping(target, STRANGER)],
            Self::HandedOn => handed_on,
            Self::Both => handed_on.into_iter().chain([forgery::ping(target, STRANGER)]).collect(),
        }
    }
}

/// Keeps the place at both of the others, and says the same there for ever.
fn keep_place(siege: &Siege, view: u32, refrain: Refrain) {
    let sent = Sent::default();
    let mut stranger = Stranger::new(30, &sent);
    stranger.target.view = view;
    let ping = forgery::ping(&stranger.target, STRANGER);
    let mut streams: [Option<TcpStream>; 2] = [None, None];
    while siege.goes_on() {
        for (replica, stream) in streams.iter_mut().enumerate() {
            if stream.is_none() {
                *stream = siege.connect(replica);
                let begun = stream.as_mut().and_then(|stream| offer(stream, ping.as_bytes()));
                if begun != Some(ping.as_bytes().len()) {
                    *stream = None;
                }
            }
            for message in refrain.messages(&stranger.target, &mut stranger.prng) {
                let Some(open) = stream else { break };
                let size = message.as_bytes().len();
                let alive = offer(open, message.as_bytes()) == Some(size) && take(open).is_some();
                if !alive {
                    *stream = None;
                }
                siege.count(1);
            }
        }
        pass(Duration::from_millis(20));
    }
}

#[track_caller]
fn replica_comes_back(refrain: Refrain) {
    let _turn = one_at_a_time();
    let mut cluster = cluster();
    let view = cluster.status().view;
    assert_ne!(cluster.status().primary, Some(PLACE));
    cluster.kill(PLACE);
    let siege = Siege::new(&cluster);
    std::thread::scope(|scope| {
        let _stop = StopAtEnd(&siege);
        let view_now = u32::try_from(view).expect("a few views");
        let siege = &siege;
        scope.spawn(move || keep_place(siege, view_now, refrain));
        wait_for("the stranger has spoken", DEADLINE, || {
            (siege.count.load(Ordering::Relaxed) > 20).then_some(())
        });
        cluster.start(PLACE);
        cluster.wait_all();
        // It stays.
        let load = Load::start(cluster.addresses(), "stranger", 2, Duration::from_millis(5));
        load.wait_acknowledged(100);
        load.finish().no_errors().verify(&cluster.addresses());
        assert_eq!(cluster.wait_all().view, view, "{refrain:?}");
        // And it is there for the others: with it, each of them can do without the third.
        cluster.kill(1);
        cluster.wait_available();
        cluster.vsr(&["put", "without", "the third"]).exits(0);
    });
    cluster.start(1);
    cluster.wait_all();
    cluster.assert_alive();
}

/// The place of a replica that is down is not lost to a stranger.
#[test]
fn replica_whose_place_a_stranger_took_comes_back() {
    replica_comes_back(Refrain::Pings);
}

#[test]
fn replica_comes_back_to_a_stranger_who_hands_on() {
    replica_comes_back(Refrain::HandedOn);
}

#[test]
fn replica_comes_back_to_a_stranger_who_pings_and_hands_on() {
    replica_comes_back(Refrain::Both);
}
