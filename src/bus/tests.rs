//! F5: tests of the bus over sockets in memory ([`super::test_io`]).

use super::connection::{
    ALIVE_TICKS_MAX, CONNECT_TICKS_MAX, FRAME_TICKS_MAX, IDLE_TICKS_MIN, SILENCE_TICKS_MAX,
};
use super::test_io::{CALM, Faults, TestIo, World};
use super::test_process::*;
use super::*;
use crate::wire::{Block, Commit, Prepare};

#[test]
fn replicas_and_clients_meet_and_talk() {
    let world = World::new(1);
    let mut processes = cluster(&world);
    processes.push(Process::client(&world, 3, 77));
    for index in 0..3 {
        let dialled = processes[usize::from(index)].bus.counters().dialled;
        assert_eq!(dialled, u64::from(index), "the higher index dials the lower");
        assert_eq!(processes[3].bus.send(replica(index), &request(77, 5, 100)), Ok(()));
    }
    turn_all(&mut processes, 5);
    for index in 0..3u8 {
        let process = &mut processes[usize::from(index)];
        assert_eq!(process.received.len(), 1);
        assert_eq!(process.received[0].peer, Some(client(77)));
        assert_eq!(process.take_numbers(), [5]);
        assert_eq!(process.bus.send(client(77), &reply(index, 77, 6, 200)), Ok(()));
        for other in (0..3).filter(|other| *other != index) {
            assert_eq!(process.bus.send(replica(other), &ping(index, 7)), Ok(()));
        }
    }
    turn_all(&mut processes, 5);
    assert_eq!(processes[3].take_numbers(), [6, 6, 6]);
    for process in &mut processes[..3] {
        assert_eq!(process.take_numbers(), [7, 7]);
    }
}

#[test]
fn chopped_streams_arrive_once_and_in_order() {
    for seed in 0..6 {
        let world = World::new(seed);
        world.borrow_mut().faults = Faults { is_choppy: true, ..CALM };
        let mut processes = cluster(&world);
        processes.push(Process::client(&world, 3, 77));
        let (mut sent, mut arrived) = ([0u64; 3], [0u64; 3]);
        for _ in 0..600 {
            let size = world.borrow_mut().prng.index(30_000);
            // Replica 2 to 0, the client to 1, and 1 back to the client.
            let client_message = request(77, sent[1], size);
            let reply_message = reply(1, 77, sent[2], size);
            for (index, from, to, message) in [
                (0, 2, replica(0), block(sent[0], size)),
                (1, 3, replica(1), client_message),
                (2, 1, client(77), reply_message),
            ] {
                // A client that has something to take is not read.
                let waits = index == 2 && sent[2] > arrived[2];
                if !waits && processes[from].bus.send(to, &message).is_ok() {
                    sent[index] += 1;
                }
            }
            turn_all(&mut processes, 1);
            for (index, to) in [(0, 0), (1, 1), (2, 3)] {
                for got in processes[to].take_numbers() {
                    assert_eq!(got, arrived[index], "seed {seed}");
                    arrived[index] += 1;
                }
            }
        }
        assert!(arrived.iter().all(|count| *count > 50), "{arrived:?}");
        for _ in 0..3000 {
            if sent == arrived {
                break;
            }
            // Whoever is never answered would be given up.
            let _ = processes[0].bus.send(replica(2), &ping(0, 0));
            turn_all(&mut processes, 1);
            for (index, to) in [(0, 0), (1, 1), (2, 3)] {
                for got in processes[to].take_numbers() {
                    assert_eq!(got, arrived[index], "seed {seed}");
                    arrived[index] += 1;
                }
            }
        }
        assert_eq!(sent, arrived, "seed {seed}");
    }
}

#[test]
fn frames_may_come_in_any_pieces() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    let mut bytes = Vec::new();
    for number in 0..40 {
        bytes.extend_from_slice(
            request(7, number, 10 * usize::try_from(number).unwrap()).as_bytes(),
        );
    }
    raw.send_raw(socket, &bytes);
    process.turn();
    assert_eq!(process.take_numbers(), (0..40).collect::<Vec<u64>>(), "many frames at once");
    for byte in request(7, 40, 300).as_bytes() {
        assert!(process.received.is_empty());
        raw.send_raw(socket, &[*byte]);
        process.turn();
    }
    assert_eq!(process.take_numbers(), [40], "one frame in many pieces");
}

#[test]
fn a_flood_is_served_fairly_and_up_to_a_bound() {
    let (_world, mut process, mut raw) = alone(|_| {});
    for id in 1..=3 {
        let flood = raw.connect_raw(address(1));
        let bytes: Vec<Message> = (0..500).map(|number| request(id, number, 0)).collect();
        let bytes: Vec<u8> = bytes.iter().flat_map(|message| message.bytes()).collect();
        raw.send_raw(flood, &bytes);
    }
    let modest = raw.connect_raw(address(1));
    raw.send_raw(modest, request(8, 0, 0).as_bytes());
    process.events();
    assert!(process.bus.receive(&mut process.io, &mut process.received), "there is more");
    let position = process.received.iter().position(|r| r.peer == Some(client(8))).unwrap();
    assert!(position < 64 * 4, "{position}");
    assert!(process.received.len() < 1100);
    while process.bus.receive(&mut process.io, &mut process.received) {}
    assert_eq!(process.received.len(), 1501);
}

#[test]
fn a_replica_that_comes_late_or_back_is_found() {
    let world = World::new(4);
    let mut one = Process::replica(&world, 1);
    one.turns(500);
    let dialled = one.bus.counters().dialled;
    assert!((6..=14).contains(&dialled), "it backs off: {dialled}");
    assert_eq!(one.bus.send(replica(0), &ping(1, 1)), Err(Dropped::NotConnected));
    for round in 0..3 {
        let mut zero = Process::replica(&world, 0);
        let mut heard = false;
        for turn in 0..150 {
            one.turn();
            zero.turn();
            if one.bus.is_connected(replica(0)) {
                let _ = one.bus.send(replica(0), &ping(1, 2));
                let _ = zero.bus.send(replica(1), &ping(0, 3));
            }
            let is_late = round > 0 && turn > 20;
            assert!(!is_late || one.bus.is_connected(replica(0)), "it was heard, so no back-off");
            heard |= one.take_numbers().contains(&3) && zero.take_numbers().contains(&2);
        }
        assert!(heard);
        zero.kill();
        one.turns(3);
        assert!(!one.bus.is_connected(replica(0)));
    }
}

#[test]
fn a_peer_that_accepts_and_closes_is_not_dialled_in_a_storm() {
    let world = World::new(4);
    let mut one = Process::replica(&world, 1);
    let mut raw = TestIo::new(&world, RAW);
    let (listener, _) = raw.listen(address(0)).unwrap();
    for _ in 0..1000 {
        one.turn();
        while let Ok((socket, _)) = raw.accept(listener) {
            raw.close(socket);
        }
    }
    let dialled = one.bus.counters().dialled;
    assert!((10..=25).contains(&dialled), "{dialled}");
}

#[test]
fn who_dialled_is_told_that_it_can_speak() {
    let world = World::new(6);
    let mut zero = Process::replica(&world, 0);
    let mut one = Process::replica(&world, 1);
    for _ in 0..10 {
        one.turn();
        zero.turn();
    }
    // The one that accepted does not know yet who is there.
    assert_eq!(zero.bus.send(replica(1), &ping(0, 1)), Err(Dropped::NotConnected));
    assert_eq!(zero.bus.take_connected().count(), 0);
    assert_eq!(one.bus.take_connected().collect::<Vec<_>>(), [ReplicaIndex(0)]);
    assert_eq!(one.bus.take_connected().count(), 0, "told once");
    assert_eq!(one.bus.send(replica(0), &ping(1, 1)), Ok(()));
    for _ in 0..3 {
        one.turn();
        zero.turn();
    }
    assert_eq!(zero.bus.send(replica(1), &ping(0, 2)), Ok(()));
}

#[test]
fn a_client_dials_when_it_has_something_to_send() {
    let world = World::new(5);
    let mut zero = Process::replica(&world, 0);
    let mut process = Process::client(&world, 3, 77);
    process.turns(100);
    assert_eq!(process.bus.counters().dialled, 0);
    let messages: Vec<Message> = (0..10).map(|number| request(77, number, 50)).collect();
    for message in &messages {
        assert_eq!(process.bus.send(replica(0), message), Ok(()), "queued while connecting");
    }
    for _ in 0..5 {
        process.turn();
        zero.turn();
    }
    assert_eq!(zero.take_numbers(), (0..10).collect::<Vec<u64>>());
    assert_eq!(process.bus.counters().dialled, 1);
    // Nobody is at replica 2: what was queued is dropped, and it is tried again when asked to.
    assert_eq!(process.bus.send(replica(2), &messages[0]), Ok(()));
    process.turns(2);
    assert_eq!(process.bus.send(replica(2), &messages[0]), Err(Dropped::NotConnected));
    process.turns(200);
    let dialled = process.bus.counters().dialled;
    assert_eq!(dialled, 3, "once more for the second send, and then no more");
    let mut two = Process::replica(&world, 2);
    assert_eq!(process.bus.send(replica(2), &messages[3]), Ok(()));
    for _ in 0..5 {
        process.turn();
        two.turn();
    }
    assert_eq!(two.take_numbers(), [3]);
}

#[test]
fn the_newer_connection_of_a_client_wins() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let older = raw.connect_raw(address(1));
    raw.send_raw(older, request(7, 1, 0).as_bytes());
    process.turn();
    let newer = raw.connect_raw(address(1));
    process.turn();
    assert!(!raw.is_closed_raw(older), "it is not known yet who the newer is");
    raw.send_raw(newer, request(7, 2, 0).as_bytes());
    process.turn();
    assert!(raw.is_closed_raw(older));
    assert!(!raw.is_closed_raw(newer));
    assert_eq!(process.take_numbers(), [1, 2]);
    assert!(process.bus.is_connected(client(7)));
    assert_eq!(process.bus.counters().superseded, 1);
}

#[test]
fn a_replica_that_is_there_keeps_its_place() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let older = raw.connect_raw(address(1));
    raw.send_raw(older, ping(2, 1).as_bytes());
    process.turns(100);
    let mut claim = |process: &mut Process, number| {
        let newer = raw.connect_raw(address(1));
        raw.send_raw(newer, ping(2, number).as_bytes());
        process.turn();
        (raw.is_closed_raw(older), raw.is_closed_raw(newer))
    };
    assert_eq!(claim(&mut process, 2), (false, true));
    assert_eq!(process.bus.counters().usurpers, 1);
    process.turns(ALIVE_TICKS_MAX);
    assert_eq!(claim(&mut process, 3), (true, false), "the older has been silent for long");
    assert_eq!(process.take_numbers(), [1, 3]);
    assert_eq!(process.bus.counters().superseded, 1);
}

#[test]
fn a_replica_that_is_not_believed_gives_way_at_once() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let older = raw.connect_raw(address(1));
    raw.send_raw(older, ping(2, 1).as_bytes());
    process.turn();
    let id = process.received[0].connection;
    process.bus.set_doubted(id, true);
    let newer = raw.connect_raw(address(1));
    raw.send_raw(newer, ping(2, 2).as_bytes());
    process.turn();
    assert!(raw.is_closed_raw(older));
    assert!(!raw.is_closed_raw(newer));
    assert_eq!(process.take_numbers(), [1, 2]);
    // It is gone: nothing happens.
    process.bus.set_doubted(id, true);
}

#[test]
fn what_an_older_connection_says_late_does_not_end_the_newer() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let older = raw.connect_raw(address(1));
    let newer = raw.connect_raw(address(1));
    raw.send_raw(newer, ping(2, 2).as_bytes());
    process.turn();
    raw.send_raw(older, ping(2, 1).as_bytes());
    process.turn();
    assert!(raw.is_closed_raw(older));
    assert!(!raw.is_closed_raw(newer));
    assert_eq!(process.take_numbers(), [2]);
}

#[test]
fn a_client_that_does_not_take_its_answers_is_not_read() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 1, 0).as_bytes());
    process.turn();
    assert_eq!(process.take_numbers(), [1]);
    // The first fills what the sockets hold, the second waits.
    for number in 1..=2 {
        assert_eq!(process.bus.send(client(7), &reply(1, 7, number, 65_000)), Ok(()));
    }
    process.turn();
    for number in 2..=8 {
        raw.send_raw(socket, request(7, number, 0).as_bytes());
    }
    process.turns(5);
    assert_eq!(process.take_numbers(), [0; 0], "there is no room for its answers");
    let mut buffer = vec![0; 64 << 10];
    let mut size = 0;
    while size < 2 * (65_000 + HEADER_SIZE as usize) {
        size += raw.recv(socket, &mut buffer).unwrap_or_default();
        process.turn();
    }
    process.turns(5);
    assert_eq!(process.take_numbers(), (2..=8).collect::<Vec<u64>>());
}

#[test]
fn a_client_takes_no_more_of_a_turn_than_its_answers_have_room() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let greedy = raw.connect_raw(address(1));
    raw.send_raw(greedy, request(7, 0, 0).as_bytes());
    let modest = raw.connect_raw(address(1));
    raw.send_raw(modest, request(8, 0, 0).as_bytes());
    process.turn();
    assert_eq!(process.take_numbers(), [0, 0]);
    for number in 1..=40 {
        raw.send_raw(greedy, request(7, number, 0).as_bytes());
    }
    raw.send_raw(modest, request(8, 100, 0).as_bytes());
    process.turn();
    let numbers = process.take_numbers();
    assert_eq!(numbers.len(), 41);
    let place = numbers.iter().position(|number| *number == 100).unwrap();
    assert!(place <= CLIENT_QUEUE_COUNT_MAX, "{numbers:?}");
}

#[test]
fn a_client_that_asks_in_vain_takes_one_turn_of_a_tick() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let greedy = raw.connect_raw(address(1));
    raw.send_raw(greedy, request(7, 0, 0).as_bytes());
    let modest = raw.connect_raw(address(1));
    raw.send_raw(modest, request(8, 0, 0).as_bytes());
    process.turn();
    assert_eq!(process.take_numbers(), [0, 0]);
    for number in 1..=20 {
        raw.send_raw(greedy, request(7, number, 0).as_bytes());
        raw.send_raw(modest, request(8, 100 + number, 0).as_bytes());
    }
    let mut greedy_numbers = Vec::new();
    for tick in 0..5 {
        process.events();
        // A tick is many turns of the loop.
        for _ in 0..50 {
            process.bus.receive(&mut process.io, &mut process.received);
            process.bus.flush(&mut process.io);
            // All that one of them asks for is refused.
            process.bus.rest(ClientId(7));
        }
        let numbers = process.take_numbers();
        let (modest, greedy): (Vec<u64>, _) = numbers.iter().partition(|number| **number > 100);
        assert_eq!(modest.len(), if tick == 0 { 20 } else { 0 }, "{numbers:?}");
        assert!(greedy.len() <= CLIENT_QUEUE_COUNT_MAX, "{numbers:?}");
        greedy_numbers.extend(greedy);
        process.bus.tick(&mut process.io);
        assert!(process.bus.has_more() || tick == 4);
    }
    assert_eq!(greedy_numbers, (1..=20).collect::<Vec<u64>>(), "late, and all of them");
    raw.close(greedy);
    process.bus.rest(ClientId(7));
    process.turns(3);
    process.bus.rest(ClientId(7));
    assert!(process.bus.resting.is_empty(), "it is gone");
}

#[test]
fn queues_are_bounded() {
    let (_world, mut process, mut raw) = alone(|_| {});
    assert_eq!(process.bus.send(client(7), &reply(1, 7, 0, 0)), Err(Dropped::NotConnected));
    assert_eq!(process.bus.send(replica(2), &ping(1, 0)), Err(Dropped::NotConnected));
    let other = raw.connect_raw(address(1));
    raw.send_raw(other, ping(2, 0).as_bytes());
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    process.turn();
    for number in 0..4 {
        assert_eq!(process.bus.send(client(7), &reply(1, 7, number, 10)), Ok(()));
    }
    assert_eq!(process.bus.send(client(7), &reply(1, 7, 4, 10)), Err(Dropped::Full));
    for number in 0..96 {
        assert_eq!(process.bus.send(replica(2), &block(number, 60_000)), Ok(()));
    }
    assert_eq!(process.bus.send(replica(2), &block(96, 0)), Err(Dropped::Full));
    assert_eq!(process.bus.counters().dropped_full, 2);
    assert_eq!(process.bus.counters().dropped_not_connected, 2);
    process.turn();
    assert_eq!(process.bus.send(client(7), &reply(1, 7, 5, 10)), Ok(()), "it was sent");
}

#[test]
fn the_queues_of_all_clients_are_bounded_together() {
    let (_world, mut process, mut raw) = alone(|config| config.queue_size_max = 5 << 16);
    let mut sockets = Vec::new();
    for id in 1..=20 {
        let socket = raw.connect_raw(address(1));
        raw.send_raw(socket, request(id, 0, 0).as_bytes());
        sockets.push(socket);
    }
    process.turn();
    let fill = |process: &mut Process| {
        let mut send = |id| process.bus.send(client(id), &reply(1, id, 0, 60_000)).is_ok();
        (1..=20).filter(|id| send(*id)).count()
    };
    assert_eq!(fill(&mut process), 5);
    for socket in sockets {
        raw.close(socket);
    }
    process.turn();
    assert_eq!(process.bus.client_queues.used, 0);
}

#[test]
fn who_does_not_read_is_closed() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    process.turn();
    for number in 0..900 {
        let _ = process.bus.send(client(7), &reply(1, 7, number, 20_000));
        process.turn();
    }
    assert!(!raw.is_closed_raw(socket));
    assert!(process.bus.counters().dropped_full > 100);
    process.turns(300);
    assert!(raw.is_closed_raw(socket));
    assert_eq!(process.bus.counters().timed_out, 1);
}

#[test]
fn a_drip_reader_is_closed_though_it_reads() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    process.turn();
    for number in 0..1500 {
        let _ = process.bus.send(client(7), &reply(1, 7, number, 20_000));
        process.turn();
        if raw.is_closed_raw(socket) {
            break;
        }
        let _ = raw.recv(socket, &mut [0; 10]);
    }
    assert!(raw.is_closed_raw(socket));
}

#[test]
fn who_claims_to_be_somebody_else_is_closed() {
    let wrong: [&[Message]; 8] = [
        &[ping(1, 0)],
        &[ping(3, 0)],
        &[ping(0, 0)],
        &[ping(2, 0), ping(0, 0)],
        &[request(7, 0, 0), request(8, 0, 0)],
        &[request(7, 0, 0), ping(2, 0)],
        &[block(1, 1), ping(1, 0)],
        &[ping(2, 0), Message::new(&author(5), Commit::default(), &[])],
    ];
    for (index, messages) in wrong.iter().enumerate() {
        let (_world, mut process, mut raw) = alone(|_| {});
        let bystander = raw.connect_raw(address(1));
        raw.send_raw(bystander, request(1000, 0, 0).as_bytes());
        let socket = raw.connect_raw(address(1));
        for message in *messages {
            assert!(!raw.is_closed_raw(socket), "{index}");
            raw.send_raw(socket, message.as_bytes());
            process.turn();
        }
        assert!(raw.is_closed_raw(socket), "{index}");
        assert!(!raw.is_closed_raw(bystander), "{index}");
        assert_eq!(process.bus.counters().misidentified, 1);
        assert_eq!(process.received.len(), messages.len(), "all but the last, and the bystander's");
    }
}

#[test]
fn another_replica_than_the_one_dialled_is_closed() {
    let world = World::new(1);
    let mut one = Process::replica(&world, 1);
    let mut raw = TestIo::new(&world, RAW);
    let (listener, _) = raw.listen(address(0)).unwrap();
    one.turns(3);
    let (socket, _) = raw.accept(listener).unwrap();
    raw.send_raw(socket, ping(0, 1).as_bytes());
    raw.send_raw(socket, ping(2, 2).as_bytes());
    raw.send_raw(socket, ping(0, 3).as_bytes());
    one.turns(3);
    assert_eq!(one.take_numbers(), [1]);
    assert!(raw.is_closed_raw(socket));
    one.turns(20);
    assert!(raw.accept(listener).is_ok(), "it dials again");
}

#[test]
fn a_replica_may_forward_requests() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    for message in [ping(2, 1), request(7, 2, 30), request(8, 3, 0), ping(2, 4)] {
        raw.send_raw(socket, message.as_bytes());
    }
    process.turn();
    assert!(process.received.iter().all(|received| received.peer == Some(replica(2))));
    assert_eq!(process.take_numbers(), [1, 2, 3, 4]);
    assert!(!process.bus.is_connected(client(7)));
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let good = raw.connect_raw(address(1));
    let mut other_cluster = author(2);
    other_cluster.cluster = ClusterId(10);
    let other_cluster = Message::new(&other_cluster, Commit::default(), &[]);
    let mut other_protocol = ping(2, 0).as_bytes().to_vec();
    other_protocol[32] += 1;
    let checksum = crc32c::crc32c(&other_protocol[4..128]);
    other_protocol[..4].copy_from_slice(&checksum.to_le_bytes());
    let mut torn = request(7, 0, 5000).as_bytes().to_vec();
    torn[4000] ^= 1;
    let huge = Message::new(&author(0), Block::default(), &[0; MESSAGE_SIZE_MAX as usize]);
    let garbage = [b"GET / HTTP/1.1\r\n".repeat(20), other_cluster.as_bytes().to_vec()];
    let garbage = garbage.into_iter().chain([other_protocol, torn, huge.as_bytes().to_vec()]);
    for (index, bytes) in garbage.enumerate() {
        let socket = raw.connect_raw(address(1));
        raw.send_raw(socket, &bytes[..bytes.len().min(60_000)]);
        process.turn();
        assert!(raw.is_closed_raw(socket), "{index}");
        raw.send_raw(good, request(1, index as u64, 10).as_bytes());
        process.turn();
        assert_eq!(process.take_numbers(), [index as u64]);
    }
    assert_eq!(process.bus.counters().invalid, 5);
    assert_eq!(process.bus.unknown_bodies.used, 0);
}

#[test]
fn silence_of_who_has_to_speak_ends_the_connection() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let mute = raw.connect_raw(address(1));
    let half = raw.connect_raw(address(1));
    raw.send_raw(half, request(7, 0, 0).as_bytes());
    raw.send_raw(half, &request(7, 1, 20_000).as_bytes()[..7000]);
    let idle = raw.connect_raw(address(1));
    raw.send_raw(idle, request(8, 0, 0).as_bytes());
    process.turns(SILENCE_TICKS_MAX - 100);
    assert!(!raw.is_closed_raw(mute));
    assert!(!raw.is_closed_raw(half));
    process.turns(200);
    assert!(raw.is_closed_raw(mute));
    assert!(raw.is_closed_raw(half));
    assert!(!raw.is_closed_raw(idle), "a client may be silent between requests");
    assert_eq!(process.bus.client_bodies.used, 0);
}

#[test]
fn a_message_that_drips_in_is_given_up() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    let message = request(7, 1, 20_000);
    let mut drops = message.as_bytes().iter();
    let mut ticks = 0;
    while !raw.is_closed_raw(socket) {
        raw.send_raw(socket, &[*drops.next().unwrap()]);
        process.turns(SILENCE_TICKS_MAX / 2);
        ticks += SILENCE_TICKS_MAX / 2;
    }
    assert!((FRAME_TICKS_MAX..2 * FRAME_TICKS_MAX).contains(&ticks));
}

#[test]
fn a_replica_that_never_answers_is_dialled_anew() {
    let world = World::new(1);
    let mut one = Process::replica(&world, 1);
    let mut raw = TestIo::new(&world, RAW);
    let (listener, _) = raw.listen(address(0)).unwrap();
    one.turns(3);
    let (first, _) = raw.accept(listener).unwrap();
    for _ in 0..SILENCE_TICKS_MAX + 200 {
        let _ = one.bus.send(replica(0), &ping(1, 1));
        // It is read, so only the missing answer tells.
        let _ = raw.recv(first, &mut [0; 4096]);
        one.turn();
    }
    assert!(raw.is_closed_raw(first));
    assert!(raw.accept(listener).is_ok());
    assert_eq!(one.bus.counters().timed_out, 1);
}

#[test]
fn clients_wait_for_memory_in_turn() {
    let (_world, mut process, mut raw) = alone(|config| config.body_size_max = 0);
    let sockets: Vec<SocketId> = (0..4).map(|_| raw.connect_raw(address(1))).collect();
    let messages: Vec<Message> = (0..4).map(|id| request(100 + id, 7, 40_000)).collect();
    for (socket, id) in sockets.iter().zip(100..) {
        raw.send_raw(*socket, request(id, 0, 0).as_bytes());
    }
    process.turn();
    process.received.clear();
    for (socket, message) in sockets.iter().zip(&messages) {
        raw.send_raw(*socket, &message.as_bytes()[..30_000]);
    }
    process.turns(10);
    assert!(process.received.is_empty());
    assert_eq!(process.bus.client_bodies.used, 40_128, "the memory is for one of them");
    assert_eq!(process.bus.stalled.len(), 3);
    // The last one's body is complete, but its turn comes after the others'.
    for index in [3, 2, 1, 0] {
        raw.send_raw(sockets[index], &messages[index].as_bytes()[30_000..]);
        process.turns(2);
    }
    let order: Vec<Option<Peer>> = process.received.iter().map(|received| received.peer).collect();
    assert_eq!(order, (100..104).map(|id| Some(client(id))).collect::<Vec<_>>());
    assert_eq!(process.bus.client_bodies.used, 0);
    assert_eq!(process.bus.counters().stalled, 3);
}

#[test]
fn a_small_body_does_not_overtake_a_large_one_that_waits() {
    let (_world, mut process, mut raw) = alone(|config| config.body_size_max = 0);
    let sockets: Vec<SocketId> = (0..3).map(|_| raw.connect_raw(address(1))).collect();
    for ((socket, id), size) in sockets.iter().zip(1..).zip([40_000, 40_000, 10_000]) {
        raw.send_raw(*socket, request(id, 0, 0).as_bytes());
        process.turn();
        raw.send_raw(*socket, &request(id, 1, size).as_bytes()[..9000]);
        process.turn();
    }
    assert_eq!(process.bus.stalled.len(), 2);
    assert_eq!(process.bus.client_bodies.used, 40_128);
    raw.send_raw(sockets[0], &request(1, 1, 40_000).as_bytes()[9000..]);
    process.turn();
    assert!(process.bus.stalled.is_empty());
    assert_eq!(process.bus.client_bodies.used, 40_128 + 10_128);
}

#[test]
fn a_pause_does_not_age_the_message_it_interrupts() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    let message = request(7, 5, 20_000);
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    raw.send_raw(socket, &message.as_bytes()[..6000]);
    process.turn();
    process.bus.pause_clients(true);
    raw.send_raw(socket, &message.as_bytes()[6000..7000]);
    process.turn();
    // The edge of the bytes is remembered also when another event says nothing of it.
    let id = process.bus.clients[&ClientId(7)];
    let own = process.bus.connections[&id].socket().unwrap();
    process.bus.on_event(&mut process.io, own, false, true);
    process.turns(FRAME_TICKS_MAX + 100);
    process.bus.pause_clients(false);
    process.turns(100);
    assert_eq!(process.bus.connections[&id].receiver.buffered(), 7000);
    raw.send_raw(socket, &message.as_bytes()[7000..]);
    process.turn();
    assert_eq!(process.take_numbers(), [0, 5]);
}

#[test]
fn memory_of_who_is_gone_is_given_to_others() {
    let (_world, mut process, mut raw) = alone(|config| config.body_size_max = 0);
    let holder = raw.connect_raw(address(1));
    let waiting = raw.connect_raw(address(1));
    let gone = raw.connect_raw(address(1));
    for (socket, id) in [(holder, 1), (gone, 2), (waiting, 3)] {
        raw.send_raw(socket, request(id, 0, 0).as_bytes());
        process.turn();
        raw.send_raw(socket, &request(id, 1, 40_000).as_bytes()[..5000]);
        process.turn();
    }
    assert_eq!(process.bus.stalled.len(), 2);
    raw.close(gone);
    raw.close(holder);
    raw.send_raw(waiting, &request(3, 1, 40_000).as_bytes()[5000..]);
    process.turns(3);
    assert!(process.received.iter().any(|received| received.message.header().size == 40_128));
    // Who stalls is not read, so its end is found when its turn comes.
    assert_eq!(process.bus.client_bodies.used, 0);
    assert!(process.bus.stalled.is_empty());
}

#[test]
fn clients_that_are_paused_wait_and_go_on() {
    let (_world, mut process, mut raw) = alone(|_| {});
    let socket = raw.connect_raw(address(1));
    raw.send_raw(socket, request(7, 0, 0).as_bytes());
    process.turn();
    process.bus.pause_clients(true);
    raw.send_raw(socket, &[request(7, 1, 9000).as_bytes(), request(7, 2, 0).as_bytes()].concat());
    let newcomer = raw.connect_raw(address(1));
    let two = [request(8, 0, 0), request(8, 9, 0)];
    raw.send_raw(newcomer, &[two[0].as_bytes(), two[1].as_bytes()].concat());
    let comrade = raw.connect_raw(address(1));
    raw.send_raw(comrade, &[ping(2, 3).as_bytes(), ping(2, 4).as_bytes()].concat());
    process.turns(2 * SILENCE_TICKS_MAX);
    assert_eq!(process.take_numbers(), [0, 0, 3, 4], "a replica is heard, a client up to its name");
    assert!(!raw.is_closed_raw(socket), "it is not the one who is silent");
    process.bus.pause_clients(false);
    assert!(process.bus.has_more());
    process.turn();
    let mut numbers = process.take_numbers();
    numbers.sort_unstable();
    assert_eq!(numbers, [1, 2, 9]);
}

#[test]
fn no_flood_keeps_a_replica_out() {
    let (_world, mut process, mut raw) = alone(|config| {
        config.connections_max = 16;
        config.body_size_max = 0;
    });
    let mut sockets = Vec::new();
    for id in 1..=40 {
        let socket = raw.connect_raw(address(1));
        // Each is busy with a body, so that none is idle and all memory is wanted.
        raw.send_raw(socket, request(id, 0, 0).as_bytes());
        raw.send_raw(socket, &request(id, 1, 60_000).as_bytes()[..9000]);
        sockets.push(socket);
        process.turn();
    }
    assert_eq!(process.bus.clients.len(), 14);
    assert_eq!(process.bus.counters().refused, 26);
    process.bus.pause_clients(true);
    for _ in 0..30 {
        let socket = raw.connect_raw(address(1));
        raw.send_raw(socket, &block(1, 60_000).as_bytes()[..9000]);
    }
    process.turn();
    let comrade = raw.connect_raw(address(1));
    raw.send_raw(comrade, block(5, 40_000).as_bytes());
    raw.send_raw(comrade, ping(2, 6).as_bytes());
    process.received.clear();
    process.turn();
    assert_eq!(process.take_numbers(), [5, 6]);
    assert!(process.bus.is_connected(replica(2)));
    for _ in 0..100 {
        raw.connect_raw(address(1));
        process.turn();
    }
    assert!(process.bus.is_connected(replica(2)), "and nothing puts it out again");
    assert!(!raw.is_closed_raw(comrade));
    assert_eq!(process.bus.clients.len(), 14, "nor the clients that work");
}

#[test]
fn an_idle_client_makes_room_for_another() {
    let (_world, mut process, mut raw) = alone(|config| config.connections_max = 4);
    let sockets: Vec<SocketId> = (1..=3)
        .map(|id| {
            let socket = raw.connect_raw(address(1));
            raw.send_raw(socket, request(id, 0, 0).as_bytes());
            process.turn();
            socket
        })
        .collect();
    process.turns(IDLE_TICKS_MIN);
    raw.send_raw(sockets[0], request(1, 1, 0).as_bytes());
    process.turn();
    let newcomer = raw.connect_raw(address(1));
    raw.send_raw(newcomer, request(9, 0, 0).as_bytes());
    process.turn();
    assert!(process.bus.is_connected(client(9)));
    assert_eq!(sockets.map_closed(&mut raw), [false, true, false]);
}

trait MapClosed {
    fn map_closed(&self, raw: &mut TestIo) -> Vec<bool>;
}

impl MapClosed for Vec<SocketId> {
    fn map_closed(&self, raw: &mut TestIo) -> Vec<bool> {
        self.iter().map(|socket| raw.is_closed_raw(*socket)).collect()
    }
}

#[test]
fn without_descriptors_room_is_made_and_accepting_goes_on() {
    let (world, mut process, mut raw) = alone(|_| {});
    let mute = raw.connect_raw(address(1));
    let busy = raw.connect_raw(address(1));
    raw.send_raw(busy, request(7, 0, 0).as_bytes());
    process.turns(200);
    world.borrow_mut().are_descriptors_gone = true;
    let comrade = raw.connect_raw(address(1));
    raw.send_raw(comrade, ping(2, 1).as_bytes());
    process.turns(1);
    assert!(raw.is_closed_raw(mute), "the unknown first");
    process.turns(40);
    assert!(raw.is_closed_raw(busy), "then the client");
    let more = process.bus.receive(&mut process.io, &mut process.received);
    assert!(!more, "it rests until the next tick");
    world.borrow_mut().are_descriptors_gone = false;
    process.turns(3);
    assert!(process.bus.is_connected(replica(2)), "without another edge");
}

#[test]
fn an_accept_burst_is_taken_in_bounded_steps() {
    let (_world, mut process, mut raw) = alone(|config| config.connections_max = 1000);
    for id in 1..=300 {
        let socket = raw.connect_raw(address(1));
        raw.send_raw(socket, request(id, 0, 0).as_bytes());
    }
    process.events();
    assert!(process.bus.receive(&mut process.io, &mut process.received));
    assert_eq!(process.bus.counters().accepted, 64);
    process.turn();
    assert_eq!(process.received.len(), 300);
}

#[test]
fn a_connect_that_hangs_is_given_up() {
    let world = World::new(1);
    // Nobody takes the events of this connect: for the bus, it never ends.
    let mut one = Process::replica(&world, 1);
    let mut raw = TestIo::new(&world, RAW);
    raw.listen(address(0)).unwrap();
    for _ in 0..CONNECT_TICKS_MAX + 300 {
        one.bus.tick(&mut one.io);
        one.bus.flush(&mut one.io);
    }
    assert_eq!(one.bus.counters().timed_out, 1);
    assert_eq!(one.bus.counters().dialled, 2);
}

#[test]
fn closing_all_leaves_nothing_open() {
    let world = World::new(1);
    let mut processes = cluster(&world);
    for process in &mut processes {
        process.bus.close_all(&mut process.io);
        process.turns(100);
        assert!(!process.bus.has_more());
    }
    for process in 0..3 {
        assert_eq!(world.borrow().open_count(process), 0);
    }
}

#[test]
fn a_prepare_arrives_as_sectors() {
    let world = World::new(1);
    let mut processes = cluster(&world);
    let prepare = Prepare { op: 3, entry_count: 1, ..Prepare::default() };
    let message = Message::new(&author(2), prepare, &[7; 30_000]);
    processes[2].bus.send(replica(0), &message).unwrap();
    turn_all(&mut processes, 3);
    let received = &processes[0].received[0].message;
    assert_eq!(received.as_bytes(), message.as_bytes());
    assert_eq!(received.sectors().as_ptr(), received.bytes().as_ptr(), "without a copy");
}
