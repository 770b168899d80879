//! What comes over a port: frames in any pieces, clients that leave, garbage, silence, crowds.

use crate::harness::load::{Kv, Load, PATIENCE};
use crate::harness::raw::{Incoming, Raw};
use crate::harness::{Cluster, DEADLINE};
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;
use vsr::constants::{HEADER_SIZE, PROTOCOL};
use vsr::state_machine::kv::Request;
use vsr::stdx::Prng;
use vsr::wire::{
    Author, ClientId, ClusterId, Command, Message, Operation, PingClient, RejectReason,
    ReplicaIndex, RequestStatus, View,
};

fn author(cluster: u128) -> Author {
    Author { cluster: ClusterId(cluster), view: View(0), replica: ReplicaIndex(0), incarnation: 0 }
}

/// A connection to the primary, and the cluster.
fn primary() -> (Cluster, usize) {
    let cluster = Cluster::new(3);
    let primary = cluster.wait_all().primary.expect("available");
    (cluster, primary)
}

#[track_caller]
fn assert_serves(cluster: &mut Cluster) {
    cluster.assert_alive();
    cluster.vsr(&["put", "still", "serving"]).exits(0);
    cluster.vsr(&["get", "still"]).exits(0).prints("serving");
}

#[test]
fn client_that_leaves_before_its_reply_hurts_nobody() {
    let (mut cluster, primary) = primary();
    let address = cluster.addresses()[primary];
    for client in 1..=40 {
        let mut raw = Raw::connect(address, 1000 + client);
        if client % 2 == 0 {
            let register = raw.request(0, 0, Operation::Register, &[]);
            raw.send(register.as_bytes());
            continue;
        }
        let session = raw.register();
        let key = format!("left-{client}");
        let put = Request::put(key.as_bytes(), b"1").encode();
        let put = raw.request(session, 1, Operation::Apply, &put);
        raw.send(put.as_bytes());
        if client % 3 == 0 {
            // Not even an orderly end: what was received and not read makes it a reset.
            let status =
                Message::new(&author(0), RequestStatus { client: ClientId(1000 + client) }, &[]);
            raw.send(status.as_bytes());
        }
    }
    assert_serves(&mut cluster);
    let mut kv = Kv::connect(&cluster.addresses(), PATIENCE);
    for (key, (_, value)) in kv.scan("left-").expect("available") {
        assert_eq!(value, b"1", "{key}");
    }
    kv.close();
    cluster.wait_all();
}

#[test]
fn frames_in_one_segment_are_all_answered() {
    let (mut cluster, primary) = primary();
    let mut raw = Raw::connect(cluster.addresses()[primary], 5);
    let client = ClientId(5);
    // Three and one: as many answers as may wait in the queue of a client that does not read.
    let mut segment = Vec::new();
    for timestamp_monotonic in 1..=3 {
        let ping = PingClient { client, timestamp_monotonic };
        segment.extend_from_slice(Message::new(&author(0), ping, &[]).as_bytes());
    }
    let register = raw.request(0, 0, Operation::Register, &[]);
    segment.extend_from_slice(register.as_bytes());
    assert!(raw.send(&segment));
    let mut pongs = Vec::new();
    let mut session = None;
    while pongs.len() < 3 || session.is_none() {
        match raw.receive(DEADLINE) {
            Incoming::Message(message) => match message.header().command {
                Command::PongClient(pong) => pongs.push(pong.ping_timestamp_monotonic),
                Command::Reply(reply) => session = Some(reply.session),
                other => panic!("{other:?}"),
            },
            other => panic!("{} pongs, then {other:?}", pongs.len()),
        }
    }
    assert_eq!(pongs, [1, 2, 3]);
    assert_serves(&mut cluster);
}

#[test]
fn frame_in_many_segments_is_one_request() {
    let (mut cluster, primary) = primary();
    let mut raw = Raw::connect(cluster.addresses()[primary], 6);
    let session = raw.register();
    let body = Request::put(b"slowly", b"but surely").encode();
    let put = raw.request(session, 1, Operation::Apply, &body);
    for byte in put.as_bytes() {
        assert!(raw.send(&[*byte]));
    }
    let (reply, _) = raw.reply();
    assert_eq!((reply.request, reply.result), (1, 0));
    cluster.vsr(&["get", "slowly"]).exits(0).prints("but surely");
    // The same bytes again: the stored reply, and no second execution.
    assert!(raw.send(put.as_bytes()));
    let (again, _) = raw.reply();
    assert_eq!(again, reply);
    assert_serves(&mut cluster);
}

#[test]
fn malformed_request_is_rejected_and_not_logged() {
    let (mut cluster, primary) = primary();
    let mut raw = Raw::connect(cluster.addresses()[primary], 7);
    let session = raw.register();
    let op = cluster.wait_all().replicas[primary].op;
    for body in [&b"garbage"[..], &[], &[0xff; 3000]] {
        let request = raw.request(session, 1, Operation::Apply, body);
        assert!(raw.send(request.as_bytes()));
        loop {
            match raw.receive(DEADLINE) {
                Incoming::Message(message) => {
                    if let Command::Reject(reject) = message.header().command {
                        assert_eq!(reject.reason, RejectReason::Invalid as u8);
                        break;
                    }
                }
                other => panic!("a reject was expected, not {other:?}"),
            }
        }
    }
    assert_eq!(cluster.wait_all().replicas[primary].op, op);
    assert_serves(&mut cluster);
}

#[test]
fn garbage_on_the_port_closes_only_that_connection() {
    let (mut cluster, primary) = primary();
    let mut prng = Prng::from_seed(8);
    let load = Load::start(cluster.addresses(), "garbage", 2, Duration::from_millis(5));
    for round in 0..60 {
        let mut raw = Raw::connect(cluster.addresses()[round % 3], 8);
        let mut noise = vec![0; 1 + prng.index(8192)];
        prng.fill(&mut noise);
        if round % 3 == 1 {
            // Half of a right message first.
            let whole = raw.request(0, 0, Operation::Register, &[]);
            noise.splice(0..0, whole.as_bytes().to_vec());
        }
        let sent = raw.send(&noise);
        if sent && noise.len() >= 128 && round < 6 {
            assert!(raw.is_closed_within(DEADLINE), "garbage was taken");
        }
    }
    load.wait_acknowledged(5);
    load.finish().no_errors().verify(&cluster.addresses());
    assert_serves(&mut cluster);
    assert!(cluster.log(primary).contains("checksum"), "garbage is not logged");
}

#[test]
fn oversized_frame_is_refused_before_its_body() {
    let (mut cluster, primary) = primary();
    for size in [64 << 20, 4097, u32::MAX] {
        let mut raw = Raw::connect(cluster.addresses()[primary], 9);
        let request = raw.request(0, 0, Operation::Register, &[]);
        let mut header = *request.header();
        header.size = size;
        header.checksum_body = 1;
        header.checksum = header.checksum_computed();
        assert!(raw.send(&header.encode()));
        assert!(raw.is_closed_within(DEADLINE), "a frame of {size} bytes was waited for");
    }
    assert_serves(&mut cluster);
}

#[test]
fn other_protocol_and_other_cluster_are_refused_by_name() {
    let (mut cluster, primary) = primary();
    let mut raw = Raw::connect(cluster.addresses()[primary], 10);
    let ping = PingClient { client: ClientId(10), timestamp_monotonic: 1 };
    let mut bytes = Message::new(&author(0), ping, &[]).as_bytes().to_vec();
    bytes[32..34].copy_from_slice(&(PROTOCOL + 7).to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[4..HEADER_SIZE as usize]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
    assert!(raw.send(&bytes));
    assert!(raw.is_closed_within(DEADLINE));
    let named = format!("protocol {}", PROTOCOL + 7);
    let log = cluster.log(primary);
    assert!(log.contains(&named) && log.contains(&PROTOCOL.to_string()), "{log}");

    cluster.vsr(&["put", "key", "value", "--cluster=4711", "--timeout=1s"]).exits(3);
    let logged = (0..3).any(|replica| cluster.log(replica).contains("4711"));
    assert!(logged, "a client of another cluster is not logged");
    cluster.vsr(&["get", "key"]).exits(1);
    assert_serves(&mut cluster);
}

#[test]
fn half_a_frame_and_silence_is_closed_in_its_time() {
    let (mut cluster, primary) = primary();
    let mut half = Raw::connect(cluster.addresses()[primary], 11);
    let register = half.request(0, 0, Operation::Register, &[]);
    assert!(half.send(&register.as_bytes()[..64]));
    let mut silent = Raw::connect(cluster.addresses()[primary], 12);
    assert_serves(&mut cluster);
    assert!(half.is_closed_within(DEADLINE), "half a frame is waited for for ever");
    assert!(silent.is_closed_within(DEADLINE), "a silent connection stays for ever");
    assert_serves(&mut cluster);
}

#[test]
fn crowd_of_connections_keeps_nobody_out() {
    let (mut cluster, primary) = primary();
    let address = cluster.addresses()[primary];
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("it listens");
        // Some say something, none says enough.
        let _ = stream.write_all(&[0; 3]);
        crowd.push(stream);
    }
    assert_serves(&mut cluster);
    // A replica that comes back while the crowd stays is let in.
    let backup = (primary + 1) % 3;
    cluster.kill(backup);
    cluster.start(backup);
    cluster.wait_all();
    drop(crowd);
    assert_serves(&mut cluster);
}

#[test]
fn request_larger_than_a_message_is_refused_with_its_bound() {
    let (mut cluster, _) = primary();
    let value = "v".repeat(4096);
    let put = cluster.vsr(&["put", "large", &value]);
    assert!(matches!(put.status, Some(2 | 3)), "{put:#?}");
    put.says(&["large"]);
    // The largest that fits: message, header, entry, and what kv puts around key and value.
    let fits = "v".repeat(4096 - 128 - 64 - 16 - "large".len());
    cluster.vsr(&["put", "large", &fits]).exits(0);
    cluster.vsr(&["get", "large"]).exits(0).prints(&fits);
    assert_serves(&mut cluster);
}
