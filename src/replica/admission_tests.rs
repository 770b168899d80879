//! F5: what a primary takes from clients: the bounds of a request, of the queue and of the log, and
//! what it does while the store is full.

use super::test_bench::{Bench, CLUSTER, author, commit, do_view_change, log_of, request};
use super::*;
use crate::wire::{CommitOk, Header, Operation, RejectReason};

/// Replica 1, primary of view 1, that has executed `count` ops of view 0 and has no checkpoint. Op
/// 61 is the last that may be acknowledged.
pub(super) fn primary_with_ops(count: usize) -> Bench {
    let log = log_of(&vec![0; count - 1]);
    let mut bench = Bench::with_log(1, &log[..3], 0, 3);
    for prepare in &log[3..] {
        bench.receive(prepare);
        bench.settle();
    }
    bench.receive(&commit(0, &log[count - 1], 1));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.commit_min()), (count as Op, count as Op));
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, count as Op));
    bench.settle();
    assert!(bench.replica.is_primary());
    bench.sent.clear();
    bench
}

fn request_of(client: u128, operation: Operation, size: usize) -> Message {
    let author =
        Author { cluster: CLUSTER, view: View(1), replica: ReplicaIndex(0), incarnation: 0 };
    let is_query = operation == Operation::Query;
    let command = crate::wire::Request {
        client: ClientId(client),
        session: u64::from(!is_query),
        request: u64::from(!is_query),
        operation: operation as u8,
    };
    Message::new(&author, command, &vec![1; size])
}

fn gather(bench: &mut Bench, request: &Message) -> Result<(), NotGathered> {
    bench.replica.gather(request)
}

fn turn_end(bench: &mut Bench) -> Effects {
    let mut effects = Effects::default();
    bench.replica.on_turn_end(&mut effects);
    effects
}

#[test]
fn a_request_that_does_not_fit_a_message_is_told_so() {
    let bench = primary_with_ops(3);
    let route = |size: usize, view: u32| {
        let message = request_of(1, Operation::Apply, size);
        let Command::Request(command) = message.header().command else { panic!() };
        let header: Header<crate::wire::Request> = message.header().with(command);
        bench.replica.route(&Header { view: View(view), ..header })
    };
    // A message of 4096 bytes, less its header and the entry's.
    assert_eq!(route(3904, 1), Route::Primary);
    assert_eq!(route(3905, 1), Route::Reject(RejectReason::TooLarge));
    assert_eq!(route(3968, 1), Route::Reject(RejectReason::TooLarge));
    assert_eq!(route(16, 0), Route::Reject(RejectReason::NotPrimary));
    assert!(matches!(route(16, 2), Route::Ignore(_)));
}

#[test]
fn the_queue_takes_four_messages_worth_of_bytes_or_twice_the_clients() {
    let mut bench = primary_with_ops(3);
    for client in 1..=5 {
        assert!(!bench.replica.is_gathering_full());
        assert_eq!(gather(&mut bench, &request_of(client, Operation::Apply, 3904)), Ok(()));
    }
    assert!(bench.replica.is_gathering_full());
    let refused = gather(&mut bench, &request_of(6, Operation::Apply, 16));
    assert_eq!(refused, Err(NotGathered::Ignore("the queue is full")));

    let mut bench = primary_with_ops(3);
    for client in 1..=128 {
        assert_eq!(gather(&mut bench, &request(client, 1)), Ok(()), "{client}");
    }
    assert!(bench.replica.is_gathering_full());
    assert!(gather(&mut bench, &request(129, 1)).is_err());
}

#[test]
fn the_log_takes_ops_up_to_the_last_that_may_be_acknowledged() {
    let mut bench = primary_with_ops(60);
    assert!(!bench.replica.log_is_full());
    assert!(!bench.replica.wants_turn());
    assert_eq!(gather(&mut bench, &request(1000, 1)), Ok(()));
    assert!(bench.replica.wants_turn());
    bench.act(Replica::on_turn_end);
    assert_eq!(bench.replica.op(), 61);
    assert!(bench.replica.log_is_full());
    assert_eq!(gather(&mut bench, &request(1001, 1)), Ok(()));
    assert!(!bench.replica.wants_turn());
    bench.act(Replica::on_turn_end);
    assert_eq!(bench.replica.op(), 61);
}

/// The disk is full, and has been for so long that the others would have said that they have room;
/// or it is not.
fn set_store_full(bench: &mut Bench, full: bool) {
    bench.replica.set_store_full(full, false);
    bench.replica.tick += 400;
}

#[test]
fn a_full_store_refuses_when_the_log_is_full_and_remembers_whom() {
    let refused = Err(NotGathered::Reject(RejectReason::StoreFull));
    let mut bench = primary_with_ops(60);
    set_store_full(&mut bench, true);
    assert_eq!(gather(&mut bench, &request(1000, 1)), Ok(()), "the log has room");
    bench.act(Replica::on_turn_end);
    assert_eq!(bench.replica.op(), 61);
    assert_eq!(gather(&mut bench, &request(1001, 1)), refused);
    set_store_full(&mut bench, false);
    assert_eq!(gather(&mut bench, &request(1001, 1)), refused, "a copy that comes late");
    assert_eq!(gather(&mut bench, &request(1001, 2)), Ok(()));
    assert_eq!(gather(&mut bench, &request(1002, 1)), Ok(()));

    // What gathered before is answered, and is not done.
    set_store_full(&mut bench, true);
    let effects = turn_end(&mut bench);
    let answers: Vec<_> = (effects.client_sends.iter())
        .map(|(client, message)| match message.header().command {
            Command::Reject(reject) => (client.0, reject.client.0, reject.request, reject.reason),
            command => panic!("{command:?}"),
        })
        .collect();
    let reason = RejectReason::StoreFull as u8;
    assert_eq!(answers, [(1001, 1001, 2, reason), (1002, 1002, 1, reason)]);
    assert!(turn_end(&mut bench).client_sends.is_empty());
    assert_eq!(gather(&mut bench, &request(1002, 1)), refused);
    set_store_full(&mut bench, false);
    assert_eq!(gather(&mut bench, &request(1002, 2)), Ok(()));
}

#[test]
fn refusals_of_clients_without_a_session_are_forgotten_when_they_are_many() {
    let mut bench = primary_with_ops(61);
    set_store_full(&mut bench, true);
    for client in 1..=64 {
        assert!(gather(&mut bench, &request(client, 1)).is_err());
    }
    bench.replica.forget_refused(|_| false);
    set_store_full(&mut bench, false);
    assert!(gather(&mut bench, &request(1, 1)).is_err(), "no more than there are sessions");
    set_store_full(&mut bench, true);
    assert!(gather(&mut bench, &request(65, 1)).is_err());
    bench.replica.forget_refused(|client| client.0 == 7);
    set_store_full(&mut bench, false);
    assert!(gather(&mut bench, &request(7, 1)).is_err());
    assert_eq!(gather(&mut bench, &request(1, 1)), Ok(()));
}

/// The rounds of the heartbeats that want an answer.
fn rounds_asked(effects: &Effects) -> Vec<u64> {
    let heartbeats =
        effects.sends.iter().filter_map(|(_, message)| match message.header().command {
            Command::Commit(commit) => Some((commit.answer, commit.round)),
            _ => None,
        });
    heartbeats.filter(|(answer, _)| *answer == 1).map(|(_, round)| round).collect()
}

fn answered(bench: &mut Bench, replica: u8, view: u32, round: u64) -> Vec<Message> {
    let mut effects = Effects::default();
    let ok = Message::new(&author(replica, view), CommitOk { round }, &[]);
    bench.replica.on_message(&ok, &mut effects);
    effects.queries
}

#[test]
fn a_query_that_finds_no_room_waits_for_a_quorum_of_a_round_begun_after_it() {
    let mut bench = primary_with_ops(61);
    set_store_full(&mut bench, true);
    let (first, second) =
        (request_of(50, Operation::Query, 16), request_of(51, Operation::Query, 16));
    assert_eq!(gather(&mut bench, &first), Ok(()));
    let effects = turn_end(&mut bench);
    let rounds = rounds_asked(&effects);
    assert_eq!(rounds.len(), 2, "both others are asked");
    assert!(effects.queries.is_empty() && rounds[0] == rounds[1]);
    let round = rounds[0];

    // The second one waits until the round is over.
    assert_eq!(gather(&mut bench, &second), Ok(()));
    assert_eq!(rounds_asked(&turn_end(&mut bench)), []);
    assert!(answered(&mut bench, 2, 1, round - 1).is_empty(), "of an earlier round");
    assert!(answered(&mut bench, 2, 1, round + 1).is_empty(), "of a round never begun");
    assert!(answered(&mut bench, 2, 0, round).is_empty(), "of another view");
    let queries = answered(&mut bench, 2, 1, round);
    assert_eq!(queries.len(), 1);
    assert_eq!(queries[0].bytes(), first.bytes());
    assert!(answered(&mut bench, 0, 1, round).is_empty(), "it is answered once");

    let rounds = rounds_asked(&turn_end(&mut bench));
    assert!(rounds.len() == 2 && rounds[0] > round);
    assert_eq!(answered(&mut bench, 0, 1, rounds[0]).len(), 1);
}

#[test]
fn queries_that_wait_are_bounded_by_their_bytes() {
    let mut bench = primary_with_ops(61);
    set_store_full(&mut bench, true);
    for client in 1..=4 {
        assert_eq!(gather(&mut bench, &request_of(client, Operation::Query, 3968)), Ok(()));
    }
    let refused = gather(&mut bench, &request_of(5, Operation::Query, 16));
    assert_eq!(refused, Err(NotGathered::Ignore("the queue of queries is full")));
    turn_end(&mut bench);
    assert_eq!(gather(&mut bench, &request_of(5, Operation::Query, 16)), Ok(()));
}

#[test]
fn whoever_asks_for_the_primary_is_answered_in_normal_operation_alone() {
    let mut bench = primary_with_ops(3);
    let pong = bench.replica.pong_client(ClientId(9), 77).unwrap();
    let Command::PongClient(command) = pong.header().command else { panic!() };
    assert_eq!((command.client, command.ping_timestamp_monotonic), (ClientId(9), 77));
    assert_eq!((command.message_size, command.replica_count), (4096, 3));
    assert_eq!(pong.header().view, View(1));
    bench.votes_of_others(2);
    assert_eq!(bench.replica.status(), Status::ViewChange);
    assert!(bench.replica.pong_client(ClientId(9), 77).is_none());
    assert!(Bench::blank(1).replica.pong_client(ClientId(9), 77).is_none(), "not born");
}

#[test]
fn a_query_waits_for_what_was_in_flight_when_the_view_began() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, 2));
    bench.settle();
    assert_eq!((bench.replica.view_op, bench.replica.commit_min()), (3, 2));
    bench.replica.queries_gather(&request_of(50, Operation::Query, 16)).unwrap();
    let rounds = rounds_asked(&turn_end(&mut bench));
    assert!(answered(&mut bench, 2, 1, rounds[0]).is_empty());
    let mut effects = Effects::default();
    let prepare = log[2].prepare_header().id();
    let ok = crate::wire::PrepareOk { prepare, ..Default::default() };
    bench.replica.on_message(&Message::new(&author(2, 1), ok, &[]), &mut effects);
    assert!(effects.commit.take().is_some() && effects.queries.is_empty());
    bench.replica.on_commit_done(3, &mut effects);
    assert_eq!(effects.queries.len(), 1);
}

#[test]
fn queues_say_how_full_they_are_and_may_be() {
    let mut bench = primary_with_ops(3);
    for client in 1..=2 {
        gather(&mut bench, &request_of(client, Operation::Apply, 16)).unwrap();
    }
    bench.replica.queries_gather(&request_of(50, Operation::Query, 16)).unwrap();
    let found = |bench: &Bench, name: &str| {
        let bounds = bench.replica.bounds();
        let bound = bounds.iter().find(|bound| bound.name == name).unwrap();
        (bound.count, bound.max)
    };
    // 64 sessions and slots, messages of 4096 bytes, entries of 64.
    assert_eq!(found(&bench, "gathered"), (2, 128));
    assert_eq!(found(&bench, "gathered_bytes"), (2 * (64 + 16), 5 * 4096));
    assert_eq!(found(&bench, "queries_waiting_bytes"), (144, 4 * 4096));
    assert_eq!(found(&bench, "queries_asked_bytes"), (0, 4 * 4096));
    // Four pipelines of prepares in memory.
    assert_eq!(found(&bench, "requests_in_flight"), (2, 128 + 4 * 3 * 64));
    turn_end(&mut bench);
    assert_eq!(found(&bench, "pipeline"), (1, 3));
    assert_eq!(found(&bench, "queries_waiting_bytes").0, 0);
    assert_eq!(found(&bench, "queries_asked_bytes").0, 144);
    assert_eq!(found(&bench, "prepares_in_memory"), (1, 12));
}
