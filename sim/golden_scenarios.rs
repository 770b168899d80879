//! What the golden traces show: one scenario for each sequence diagram of docs/protocol.md.
//!
//! **Invariants:** a scenario is a straight line: it asks for things and waits for states, and
//! draws nothing.
//!
//! **Not here:** how a replica is driven (`golden_world`).

use super::golden_world::{ClientRequest, Party, World, genesis_table};
use vsr::replica::Status;
use vsr::wire::{Operation, Recover, ReplicaIndex, View};

/// A sub-protocol, shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scenario {
    /// Of the trace's file.
    pub(super) name: &'static str,
    /// Commands that the diagram leaves out.
    pub(super) omits: &'static [&'static str],
    /// Plays it; returns the text.
    pub(super) play: fn() -> String,
}

/// What follows from a request that is taken.
const LOG: &[&str] = &["prepare", "prepare_ok", "commit"];
/// What goes on all the time.
const GOSSIP: &[&str] = &["ping", "pong", "commit"];

/// What follows from a log that was missed, and what goes on all the time.
const REPAIR: &[&str] = &[
    "ping",
    "pong",
    "commit",
    "request_headers",
    "headers",
    "request_prepare",
    "prepare",
    "prepare_ok",
];

pub(super) const ALL: &[Scenario] = &[
    Scenario { name: "client_session", omits: LOG, play: client_session },
    Scenario { name: "client_eviction", omits: LOG, play: client_eviction },
    Scenario { name: "client_query", omits: &["commit"], play: client_query },
    Scenario { name: "client_backup", omits: LOG, play: client_backup },
    Scenario { name: "normal_batch", omits: &[], play: normal_batch },
    Scenario { name: "normal_pipeline", omits: &["commit"], play: normal_pipeline },
    Scenario { name: "normal_resend", omits: &["commit"], play: normal_resend },
    Scenario { name: "normal_abdication", omits: GOSSIP, play: abdication },
    Scenario { name: "clock", omits: &["commit"], play: clock },
    Scenario { name: "view_change", omits: &["commit"], play: view_change },
    Scenario { name: "view_change_nack", omits: &["commit"], play: view_change_nack },
    Scenario { name: "view_change_repair", omits: &["commit"], play: view_change_repair },
    Scenario { name: "repair", omits: &[], play: repair },
    Scenario { name: "genesis", omits: &["pong"], play: genesis },
    Scenario { name: "genesis_replaced", omits: &["pong"], play: genesis_replaced },
    Scenario { name: "recover", omits: GOSSIP, play: recover },
    Scenario { name: "restart_backup", omits: GOSSIP, play: restart_backup },
    Scenario { name: "restart_primary", omits: GOSSIP, play: restart_primary },
    Scenario { name: "restart_head", omits: GOSSIP, play: restart_head },
    Scenario { name: "state_sync", omits: REPAIR, play: state_sync },
    Scenario { name: "blocks", omits: GOSSIP, play: blocks },
];

/// All paths between a replica and its peers.
fn cut_off(world: &mut World, replica: u8, is_cut: bool) {
    for other in (0..3).filter(|other| *other != replica) {
        let (one, other) = (Party::Replica(replica), Party::Replica(other));
        world.cut(one, other, is_cut);
        world.cut(other, one, is_cut);
    }
}

fn client_session() -> String {
    let mut world = World::born(0);
    world.record();
    world.say("Replica 1 is a backup, and replica 0 primary: the reject says so by its view.");
    world.ping_client(1, 1);
    world.settle();
    world.register(1, 0);
    world.settle();
    world.say("The session is 2. The reply to its first request is lost.");
    world.cut(Party::Replica(0), Party::Client(1), true);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.cut(Party::Replica(0), Party::Client(1), false);
    world.say("The same request again: it is not prepared again.");
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.say("The session is closed.");
    let operation = Operation::Deregister;
    world.request(1, 0, &ClientRequest { view: 0, session: 2, request: 2, operation, body: &[] });
    world.settle();
    world.finish()
}

fn client_eviction() -> String {
    let mut world = World::born(6);
    world.record();
    world.say("There is room for six sessions: a seventh evicts the one that is silent longest.");
    world.register(7, 0);
    world.settle();
    world.say("Client 1 learns of it when it asks.");
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.finish()
}

fn client_query() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("A client writes, and another reads, without a session.");
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    let body = vsr::state_machine::kv::Request::get(b"key").encode();
    let operation = Operation::Query;
    let query = ClientRequest { view: 0, session: 0, request: 1 << 63, operation, body: &body };
    world.request(9, 0, &query);
    world.settle();
    world.say("What the state machine cannot read is rejected, and not prepared.");
    world.request(9, 0, &ClientRequest { request: (1 << 63) + 1, body: b"?", ..query });
    world.settle();
    world.finish()
}

fn client_backup() -> String {
    let mut world = World::born(1);
    world.tick_some_until(&[1, 2], |world| world.replica(1).view() == View(1));
    world.tick_until(World::is_level);
    world.record();
    world.say("Replica 1 is primary of view 1. A client that does not know it is told.");
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.say("A client that does, and cannot reach it, is helped.");
    world.apply(1, 0, 1, 2, 1);
    world.settle();
    world.say("A backup that has executed it answers by itself.");
    world.tick_until(World::is_level);
    world.apply(1, 2, 1, 2, 1);
    world.settle();
    world.finish()
}

fn normal_batch() -> String {
    let mut world = World::born(3);
    world.record();
    world.say("Three requests are there in one turn.");
    for client in 1..=3 {
        world.apply(client, 0, 0, 1 + u64::try_from(client).expect("small"), 1);
    }
    world.settle();
    world.say("Nothing else comes: the backups hear of the commit by a heartbeat.");
    world.tick_until(World::is_level);
    world.finish()
}

fn normal_pipeline() -> String {
    let mut world = World::born(6);
    world.record();
    world.say("The disk of the backups is slow: prepares follow each other without waiting.");
    world.stall(1, true);
    world.stall(2, true);
    for client in 1..=3 {
        world.apply(client, 0, 0, 1 + u64::try_from(client).expect("small"), 1);
        world.settle();
    }
    world.say("Three are in flight, which is the most: what comes gathers.");
    for client in 4..=6 {
        world.apply(client, 0, 0, 1 + u64::try_from(client).expect("small"), 1);
        world.settle();
    }
    world.say("The disks go on.");
    world.stall(1, false);
    world.stall(2, false);
    world.settle();
    world.finish()
}

fn normal_resend() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("The prepare is lost on its way to both; nobody acknowledges it.");
    for backup in [1, 2] {
        world.cut(Party::Replica(0), Party::Replica(backup), true);
    }
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    for backup in [1, 2] {
        world.cut(Party::Replica(0), Party::Replica(backup), false);
    }
    world.say("Ticks pass.");
    world.tick_until(|world| world.replica(0).commit_min() == 3);
    world.finish()
}

fn abdication() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("Nothing reaches the primary; what it sends arrives.");
    for backup in [1, 2] {
        world.cut(Party::Replica(backup), Party::Replica(0), true);
    }
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.say("It sends its heartbeats, and the prepare again.");
    world.skip(190);
    world.say("After two seconds it falls silent, and votes to leave.");
    world.tick_until(|world| world.replica(1).is_primary() && world.replica(2).view() == View(1));
    world.say("The paths are well again: it follows.");
    for backup in [1, 2] {
        world.cut(Party::Replica(backup), Party::Replica(0), false);
    }
    world.tick_until(World::is_level);
    world.finish()
}

fn clock() -> String {
    let mut world = World::born(1);
    world.set_clock_ahead(0, 3_000_000_000);
    world.record();
    world.say("The wall clock of the primary jumps ahead by 3 s.");
    world.skip(95);
    world.say("The pings of a second.");
    (0..30).for_each(|_| world.tick());
    world.say("The timestamp is that of the two that agree.");
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.finish()
}

fn view_change() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("A prepare reaches replica 1 alone, and the primary dies.");
    world.cut(Party::Replica(0), Party::Replica(2), true);
    world.apply(1, 0, 0, 2, 1);
    world.step();
    world.step();
    world.cut(Party::Replica(0), Party::Replica(2), false);
    world.crash(0);
    world.settle();
    world.say("Nothing is heard of it.");
    world.tick_until(|world| world.replica(1).view() == View(1));
    world.say("The log with the prepare is the longer one: it stays, and is committed.");
    world.tick_until(|world| world.replica(1).commit_min() == 3);
    world.finish()
}

fn view_change_nack() -> String {
    let mut world = World::born(2);
    world.record();
    world.say(
        "Op 4 reaches nobody. Replica 1 gets op 5, and the header of op 4; replica 2 nothing.",
    );
    let (primary, one, two) = (Party::Replica(0), Party::Replica(1), Party::Replica(2));
    world.cut(primary, two, true);
    world.cut(primary, one, true);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.cut(primary, one, false);
    world.apply(2, 0, 0, 3, 1);
    world.settle();
    world.say("The primary dies.");
    world.crash(0);
    world.cut(primary, two, false);
    world.tick_until(|world| world.replica(1).is_primary() && world.is_level());
    world.finish()
}

fn view_change_repair() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("Op 3 reaches replica 2 alone, and is committed. The primary dies.");
    let (primary, one) = (Party::Replica(0), Party::Replica(1));
    world.cut(primary, one, true);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.crash(0);
    world.cut(primary, one, false);
    world.say("The next primary has never heard of op 3.");
    world.tick_until(|world| world.replica(1).is_primary() && world.is_level());
    world.finish()
}

fn repair() -> String {
    let mut world = World::born(1);
    cut_off(&mut world, 2, true);
    for request in 1..=5 {
        world.apply(1, 0, 0, 2, request);
        world.settle();
    }
    world.tick_some_until(&[0, 1], |world| world.replica(1).commit_min() == 7);
    cut_off(&mut world, 2, false);
    world.record();
    world.say("Replica 2 was cut off for a while, and hears a heartbeat.");
    world.tick_until(|world| world.is_level() && world.replica(2).ops_to_repair() == 0);
    world.finish()
}

fn genesis() -> String {
    let mut world = World::new();
    world.record();
    world.start(0);
    world.start(1);
    world.settle();
    world.start(2);
    world.settle();
    world.tick_until(|world| (0..3).all(|replica| world.replica(replica).is_born()));
    world.finish()
}

fn genesis_replaced() -> String {
    let mut world = World::born(0);
    world.record();
    world.say("The file of replica 2 is lost. Formatted again, it has forgotten its promises.");
    world.crash(2);
    world.format_again(2);
    world.start(2);
    world.settle();
    world.say("What a member says of the view tells it whom the cluster knows.");
    world.tick_until(|world| !world.is_up(2));
    world.finish()
}

fn recover() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("The file of replica 1 is lost. It is not heard for 3 s.");
    world.crash(1);
    world.lose(1);
    world.skip(320);
    world.say("The operator, a client: do the others work together, and is it really gone?");
    world.request_status(9, 0);
    world.request_status(9, 2);
    world.settle();
    world.say("The new file is there but for its superblock. Now it asks.");
    world.register(9, 0);
    world.settle();
    let replica = ReplicaIndex(1);
    let recover = Recover { replica, incarnation: 301, table: genesis_table() };
    let body = recover.encode();
    let operation = Operation::Recover;
    let request = ClientRequest { view: 0, session: 3, request: 1, operation, body: &body };
    world.request(9, 0, &request);
    world.settle();
    let op = world.replica(0).op();
    let request = 2;
    let operation = Operation::Deregister;
    world.request(9, 0, &ClientRequest { view: 0, session: 3, request, operation, body: &[] });
    world.settle();
    world.say("In which view was that? A view-change quorum of the others knows.");
    world.request_status(9, 0);
    world.request_status(9, 2);
    world.settle();
    world.say("In view 0 at most: the superblock says view 2. Replica 1 starts.");
    world.recovered(&recover, op, 2);
    world.start(1);
    world.settle();
    world.tick_until(|world| {
        world.replica(1).status() == Status::Normal
            && world.is_level()
            && world.replica(1).ops_to_repair() == 0
    });
    world.finish()
}

fn restart_backup() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("Replica 2 misses op 3 while it is down.");
    world.crash(2);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.start(2);
    world.settle();
    world.tick_until(|world| world.is_level() && world.replica(2).ops_to_repair() == 0);
    world.finish()
}

fn restart_primary() -> String {
    let mut world = World::born(1);
    world.record();
    world.say("The primary dies with a prepare that only its own disk has, and is back at once.");
    cut_off(&mut world, 0, true);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.crash(0);
    cut_off(&mut world, 0, false);
    world.start(0);
    world.settle();
    world.tick_until(|world| world.replica(1).is_primary() && world.is_level());
    world.finish()
}

fn restart_head() -> String {
    let mut world = World::born(1);
    world.apply(1, 0, 0, 2, 1);
    world.settle();
    world.tick_until(World::is_level);
    world.record();
    world.say("The head of replica 2 rots while it is down.");
    world.crash(2);
    world.damage(2, 3);
    world.start(2);
    world.settle();
    world.tick_until(|world| world.is_level() && world.replica(2).ops_to_repair() == 0);
    world.finish()
}

fn state_sync() -> String {
    let mut world = World::born(1);
    world.crash(2);
    for request in 1..=64 {
        world.apply(1, 0, 0, 2, request);
        world.settle();
    }
    world.tick_some_until(&[0, 1], |world| world.replica(1).commit_min() == 66);
    world.record();
    world.say("Replica 2 was down while the ring went round: its slots have no room for op 66.");
    world.say("The others have checkpoint 32, which is proven, since op 62 is committed.");
    world.start(2);
    world.settle();
    world.tick_until(|world| world.is_level() && world.replica(2).ops_to_repair() == 0);
    world.finish()
}

fn blocks() -> String {
    let mut world = World::born(1);
    for request in 1..=40 {
        world.apply(1, 0, 0, 2, request);
        world.settle();
    }
    world.tick_until(|world| world.is_level() && world.replica(2).op_checkpoint() == 32);
    world.crash(2);
    world.record();
    world.say("Replica 2 is down, and what it has written of checkpoint 32 rots.");
    world.damage_blocks(2);
    world.start(2);
    world.settle();
    world.tick_until(|world| world.is_level() && world.blocks_repaired(2) >= 3);
    world.finish()
}
