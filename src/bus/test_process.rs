//! F5: a bus and its sockets in memory ([`super::test_io`]), for tests.

use super::test_io::{TestIo, World};
use super::*;
use crate::io::Event;
use crate::wire::{Author, Block, Command, Operation, Ping, Reply, Request, View};
use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

pub(super) const CLUSTER: ClusterId = ClusterId(9);
pub(super) const MESSAGE_SIZE_MAX: u32 = 64 << 10;
/// The process that speaks to a bus without being one.
pub(super) const RAW: usize = 99;

pub(super) fn address(replica: u8) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, 3000 + u16::from(replica)))
}

pub(super) fn author(replica: u8) -> Author {
    Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(replica), incarnation: 0 }
}

/// A message that shows replica `replica` and carries `number`.
pub(super) fn ping(replica: u8, number: u64) -> Message {
    let ping = Ping { timestamp_monotonic: number, replica_count: 3, ..Ping::default() };
    Message::new(&author(replica), ping, &[])
}

/// The same from a client, with a body.
pub(super) fn request(client: u128, number: u64, body_size: usize) -> Message {
    let client = ClientId(client);
    let operation = Operation::Query as u8;
    let request = Request { client, session: 0, request: number, operation };
    Message::new(&author(0), request, &body(number, body_size))
}

pub(super) fn reply(replica: u8, client: u128, number: u64, body_size: usize) -> Message {
    let client = ClientId(client);
    let operation = Operation::Query as u8;
    let reply = Reply { client, request: number, operation, ..Reply::default() };
    Message::new(&author(replica), reply, &body(number, body_size))
}

/// A message of no evidence that carries `number` and a body.
pub(super) fn block(number: u64, body_size: usize) -> Message {
    Message::new(
        &author(0),
        Block { checkpoint_op: number, ..Block::default() },
        &body(number, body_size),
    )
}

pub(super) fn body(number: u64, size: usize) -> Vec<u8> {
    (0..size).map(|index| ((index as u64 * 31 + number) % 251) as u8).collect()
}

/// The number a test message carries; checks that its body is what was sent.
pub(super) fn number(message: &Message) -> u64 {
    let number = match &message.header().command {
        Command::Ping(ping) => ping.timestamp_monotonic,
        Command::Request(request) => request.request,
        Command::Reply(reply) => reply.request,
        Command::Block(block) => block.checkpoint_op,
        Command::Commit(commit) => commit.round,
        other => panic!("not a test's: {}", other.name()),
    };
    assert!(message.body() == body(number, message.body().len()));
    number
}

pub(super) fn replica(index: u8) -> Peer {
    Peer::Replica(ReplicaIndex(index))
}

pub(super) fn client(id: u128) -> Peer {
    Peer::Client(ClientId(id))
}

pub(super) struct Process {
    pub(super) io: TestIo,
    pub(super) bus: MessageBus,
    pub(super) received: Vec<Received>,
}

impl Process {
    pub(super) fn with(world: &Rc<RefCell<World>>, process: usize, config: BusConfig) -> Self {
        let mut io = TestIo::new(world, process);
        let seed = world.borrow_mut().prng.next_u64();
        let mut bus = MessageBus::new(config, Prng::from_seed(seed));
        if let Identity::Replica(own) = bus.config.identity {
            bus.listen(&mut io, address(own.0)).unwrap();
        }
        Self { io, bus, received: Vec::new() }
    }

    pub(super) fn replica(world: &Rc<RefCell<World>>, index: u8) -> Self {
        Self::with(world, usize::from(index), config(Identity::Replica(ReplicaIndex(index))))
    }

    pub(super) fn client(world: &Rc<RefCell<World>>, process: usize, id: u128) -> Self {
        Self::with(world, process, config(Identity::Client(ClientId(id))))
    }

    pub(super) fn events(&mut self) {
        let mut events = Vec::new();
        self.io.run(Duration::ZERO, &mut events);
        for event in events {
            let Event::Socket { socket, readable, writable } = event else { panic!("no files") };
            if self.bus.owns(socket) {
                self.bus.on_event(&mut self.io, socket, readable, writable);
            }
        }
    }

    /// One turn of the loop.
    pub(super) fn turn(&mut self) {
        self.events();
        while self.bus.receive(&mut self.io, &mut self.received) {}
        self.bus.tick(&mut self.io);
        self.bus.flush(&mut self.io);
    }

    pub(super) fn turns(&mut self, count: u64) {
        for _ in 0..count {
            self.turn();
        }
    }

    pub(super) fn take_numbers(&mut self) -> Vec<u64> {
        self.received.drain(..).map(|received| number(&received.message)).collect()
    }

    pub(super) fn kill(mut self) {
        self.io.kill();
    }
}

pub(super) fn config(identity: Identity) -> BusConfig {
    let addresses = (0..3).map(address).collect();
    BusConfig {
        connections_max: 64,
        ..BusConfig::new(identity, CLUSTER, addresses, MESSAGE_SIZE_MAX)
    }
}

pub(super) fn turn_all(processes: &mut [Process], count: u64) {
    for _ in 0..count {
        processes.iter_mut().for_each(Process::turn);
    }
}

/// Three replicas that know each other.
pub(super) fn cluster(world: &Rc<RefCell<World>>) -> Vec<Process> {
    let mut processes: Vec<Process> = (0..3).map(|index| Process::replica(world, index)).collect();
    introduce(&mut processes);
    processes
}

/// Lets everybody speak to everybody it dials until all are connected.
pub(super) fn introduce(processes: &mut [Process]) {
    for _ in 0..200 {
        turn_all(processes, 1);
        for own in 1..3 {
            for other in 0..own {
                let index = processes.iter().position(|p| is_replica(p, own)).unwrap();
                let _ = processes[index].bus.send(replica(other), &ping(own, 0));
            }
        }
    }
    turn_all(processes, 200);
    for process in processes.iter_mut() {
        if let Identity::Replica(own) = process.bus.config.identity {
            for other in (0..3).filter(|other| *other != own.0) {
                assert!(process.bus.is_connected(replica(other)), "{own} to {other}");
            }
        }
        process.received.clear();
    }
}

pub(super) fn is_replica(process: &Process, index: u8) -> bool {
    process.bus.config.identity == Identity::Replica(ReplicaIndex(index))
}

/// A bus of replica 1, and the other end for whatever a test says to it.
pub(super) fn alone(change: impl FnOnce(&mut BusConfig)) -> (Rc<RefCell<World>>, Process, TestIo) {
    let world = World::new(1);
    let mut config = config(Identity::Replica(ReplicaIndex(1)));
    change(&mut config);
    let process = Process::with(&world, 1, config);
    let raw = TestIo::new(&world, RAW);
    (world, process, raw)
}
