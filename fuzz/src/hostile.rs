//! Fuzz target `hostile`: a stranger among replicas that are born: he sends them valid messages of
//! every command that a replica writes, and says to be any of them.
//!
//! ```text
//!   byte 0: how many replicas │ byte 1: whose head may rot
//!   then steps:  byte % 4 = 0   a step of the target `sim`: mail, disks, ticks, crashes, requests
//!                = 1 to 3       a message of the stranger to replica (byte / 4):
//!                               whose it says to be, which command, its fields (`forgery`)
//!   at the end: everything heals, he is silent, and the cluster must agree
//! ```
//!
//! The replicas are backups, primaries, between two views, just started, or uncertain of the end of
//! their logs, as the steps have it. The stranger has an incarnation of his own, and so have the
//! tables that he brings; he knows the view, the head, and the headers of the log, which replicas
//! give to everybody.
//!
//! Asserted: what `sim` asserts: no panic, no replica ends, no two execute different prepares at
//! one op, what is acknowledged is on the disk and is never lost, and the healed cluster takes a
//! new request.
//!
//! Planted: the stranger knows the incarnations of the replicas.
//!
//! **Not here:** a cluster that is not born (nothing is promised of it); sockets, which turn most
//! of such messages away (`limits`).

use super::Plant;
use super::cursor::{CLUSTER, Cursor};
use super::forgery::{self, KINDS, Target};
use super::sim::{GEOMETRY, World, born};
use vsr::replica::Replica;
use vsr::storage::Layout;
use vsr::wire::{Author, Header, Message, Op, Prepare, ReplicaIndex};

/// Headers below the head that the stranger knows.
const HEADERS_KNOWN: u64 = 6;
/// Steps of one input at most.
const STEPS_MAX: u32 = 400;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many executions were compared.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let replica_count = [3, 3, 3, 5][cursor.index(4)];
    let rotten = cursor.u8() % replica_count;
    let mut world = World::new(born(replica_count), Plant::Nothing);
    world.rounds_until("agree", |world| world.agreed());
    let mut has_rotted = false;
    for _ in 0..STEPS_MAX {
        if cursor.is_empty() {
            break;
        }
        let byte = cursor.u8();
        let index = (byte / 4) % replica_count;
        if !byte.is_multiple_of(4) {
            speak(&mut world, &mut cursor, index, plant);
        } else if byte < 240 || has_rotted {
            world.step(&mut cursor);
        } else {
            has_rotted = rot_head(&mut world, rotten);
        }
    }
    world.heal();
    world.compared
}

/// The stranger sends one message to a replica.
fn speak(world: &mut World, cursor: &mut Cursor<'_>, to: u8, plant: Plant) {
    let replica = ReplicaIndex(cursor.u8() % world.count());
    let kind = KINDS[cursor.index(KINDS.len())];
    let target = target_of(world, to);
    let mut message = forgery::message(cursor, &target, kind, replica);
    if plant == Plant::Error {
        let Header { cluster, view, command, .. } = *message.header();
        let incarnation = target.incarnations[replica.index()];
        let author = Author { cluster, view, replica, incarnation };
        message = Message::new(&author, command, message.body());
    }
    // What a receiver would refuse proves nothing.
    let message = Message::decode(message.bytes()).expect("a forgery is valid");
    world.act(to, |core, effects| {
        if plant == Plant::Nothing {
            assert_ne!(core.believes(message.header()), Some(true), "{:?}", message.header());
        }
        core.on_message(&message, effects);
    });
    world.act(to, Replica::on_turn_end);
}

/// What the stranger knows.
fn target_of(world: &World, to: u8) -> Target {
    let alive = || world.nodes.iter().filter_map(|node| node.replica.as_ref());
    let view = alive().map(|replica| replica.view().0).max().unwrap_or(0);
    let op = alive().map(Replica::op).max().unwrap_or(1);
    let known = op.saturating_sub(HEADERS_KNOWN)..=op;
    let log = known.filter_map(|op| header_on_disk(world, to, op)).collect();
    let incarnations = (0..world.count()).map(|index| u64::from(index) + 10).collect();
    let replica_count = world.count();
    Target { cluster: CLUSTER, replica_count, geometry: GEOMETRY, view, op, log, incarnations }
}

/// Where the redundant header of `op` lies, and the prepare.
fn places(op: Op) -> [usize; 2] {
    let (layout, slot) = (Layout::new(GEOMETRY), GEOMETRY.slot(op));
    let entry = layout.headers_offset(slot / 32) + u64::from(slot % 32) * 128;
    [entry, layout.prepare_offset(slot)].map(|place| usize::try_from(place).expect("a small file"))
}

fn header_on_disk(world: &World, replica: u8, op: Op) -> Option<Header<Prepare>> {
    let bytes = &world.nodes[usize::from(replica)].disk.bytes;
    let header = Header::decode_prepare(bytes[places(op)[0]..].first_chunk()?).ok()?;
    (header.op() == op && op > 0).then_some(header)
}

/// The newest prepare on the disk of a replica that is down rots, and its header: it starts
/// uncertain of the end of its log. One replica of the cluster at most: then a copy is left.
fn rot_head(world: &mut World, replica: u8) -> bool {
    let node = &world.nodes[usize::from(replica)];
    if node.replica.is_some() {
        return false;
    }
    let slots = Op::from(GEOMETRY.journal_slots);
    let Some(op) = (2..slots).rev().find(|op| header_on_disk(world, replica, *op).is_some()) else {
        return false;
    };
    for place in places(op) {
        world.nodes[usize::from(replica)].disk.bytes[place..place + 128].fill(0xDA);
    }
    world.start(replica);
    true
}

/// Each command to each replica, as whoever is primary of a near view and as another, while they
/// are busy, between views, just started, and uncertain of their logs.
pub fn seeds() -> Vec<Vec<u8>> {
    let kinds = || 0..u8::try_from(KINDS.len()).expect("a few");
    let steps = |steps: &[u8]| steps.iter().flat_map(|step| [0, *step]).collect::<Vec<u8>>();
    let round = [0, 14];
    let busy = [steps(&[12, 12]), vec![0, 30], steps(&[12]), vec![0, 46]].concat();
    let say = |kind: u8, salt: u8| -> Vec<u8> {
        let says = |to: u8, of: u8| {
            let mut bytes = vec![1 + 4 * to, of, kind, salt];
            bytes.extend((0..20).map(|index| salt.wrapping_mul(index ^ 7) ^ (index << 4)));
            bytes
        };
        [says(0, 1), says(0, 2), says(1, 0), says(1, 2), says(2, 0), says(2, 1)].concat()
    };
    let leave_view = [&[0, 13, 3][..], &[0, 9 | 16, 60, 0, 9 | 32, 60], &[0, 46]].concat();
    let restart = |index: u8| vec![0, 10 | index << 4, index, 3, 0, 11 | index << 4];
    let uncertain = |index: u8| vec![0, 10 | index << 4, index, 3, 240];
    let mut seeds = Vec::new();
    for salt in 1..4 {
        let mut seed = vec![salt - 1, salt % 3];
        for kind in kinds().skip(usize::from(salt - 1)).step_by(3) {
            seed.extend(say(kind, salt * 5));
            seed.extend(if kind % 2 == 0 { &busy[..] } else { &round[..] });
        }
        seeds.push(seed);
    }
    for (index, chosen) in [[0, 6, 7], [1, 6, 7], [5, 10, 12]].into_iter().enumerate() {
        let index = u8::try_from(index).expect("below 3");
        let mut seed = vec![index, index];
        seed.extend(&busy);
        for prelude in [leave_view.clone(), restart(index), uncertain(index)] {
            seed.extend(prelude);
            chosen.into_iter().for_each(|kind| seed.extend(say(kind, 16 * index + 3)));
            seed.extend(round);
        }
        seeds.push(seed);
    }
    seeds
}
