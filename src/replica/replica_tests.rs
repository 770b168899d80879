//! F5: one bare replica, on its bench: durability, views, uncertain heads, normal operation.

use super::test_bench::*;
use super::*;
use crate::constants::{NUMBER_MAX, VIEW_MAX};
use crate::wire::{
    Commit, DoViewChange, Header, Headers, Operation, Prepare, PrepareOk, RequestHeaders,
    RequestPrepare, RequestStartView, StartView, StartViewChange,
};

// ---- durability

#[test]
fn view_change_superblock_pending_sends_nothing_of_the_view() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    bench.votes_of_others(2);
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    loop {
        assert_eq!(bench.count_sent("do_view_change"), 0);
        assert!(bench.sent.iter().all(|(_, message)| message.header().view == View(0)));
        assert!(bench.complete(is_superblock));
        if bench.replica.view_is_durable() {
            break;
        }
    }
    assert_eq!(bench.drain_sent("do_view_change"), 2);
}

#[test]
fn start_view_superblock_pending_sends_no_ok() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&start_view(&log, 1, 2, 0));
    bench.tick();
    assert_eq!(bench.count_sent("prepare_ok"), 0);
    bench.settle();
    assert_eq!(bench.drain_sent("prepare_ok"), 1, "op 3 is durable here since view 0");
}

#[test]
fn prepare_one_write_pending_sends_no_ok() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.receive(&next(0, &log[1], 2, 9));
    assert_eq!(bench.count_sent("prepare_ok"), 0);
    assert!(bench.complete(|_| true), "the body");
    assert_eq!(bench.count_sent("prepare_ok"), 0);
    bench.act(Replica::on_turn_end);
    assert!(bench.complete(|_| true), "the header");
    assert_eq!(bench.drain_sent("prepare_ok"), 1);
}

#[test]
fn restart_primary_never_resumes_its_view() {
    let (bench, log) = primary();
    let mut bench = bench.restart();
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    assert!(!bench.replica.is_primary());
    bench.receive(&message(2, 1, RequestStartView { nonce: 4 }));
    bench.receive(&do_view_change(&log, 2, 1, 0, 3));
    bench.receive(&do_view_change(&log, 0, 1, 0, 3));
    bench.settle();
    assert_eq!(bench.count_sent("start_view"), 0);
    assert_eq!(bench.replica.status(), Status::ViewChange);
    bench.ticks(20);
    assert!(bench.drain_sent("start_view_change") > 0, "it votes to leave");
}

#[test]
fn restart_sends_the_same_do_view_change() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    let find = |bench: &Bench| {
        let command = |message: &Message| message.header().command.name() == "do_view_change";
        let (_, found) = bench.sent.iter().find(|(_, message)| command(message)).unwrap();
        found.as_bytes().to_vec()
    };
    let before = find(&bench);
    let mut bench = bench.restart();
    bench.settle();
    // What is executed differs: it is not part of what the others rely on.
    let header_size = 128;
    assert_eq!(find(&bench)[header_size..], before[header_size..]);
}

// ---- views

#[test]
fn start_view_of_a_lower_view_is_ignored() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(2, &log, 3, 3);
    for view in 0..3 {
        bench.receive(&start_view(&log[..2], view, 2, 0));
        bench.receive(&do_view_change(&log[..2], 0, view, 0, 2));
        bench.receive(&message(0, view, StartViewChange {}));
    }
    bench.settle();
    let replica = &bench.replica;
    assert_eq!((replica.view(), replica.log_view(), replica.op()), (View(3), View(3), 4));
    assert_eq!((replica.commit_min(), replica.commit_max()), (3, 3));
    assert_eq!(replica.votes, 0);
}

#[test]
fn start_view_of_the_same_view_with_a_lower_head_cuts_nothing() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(2, &log, 3, 2);
    bench.receive(&start_view(&log[..3], 3, 2, 0));
    bench.settle();
    assert_eq!(bench.replica.op(), 4);
    assert!(bench.replica.journal.is_clean(&id(&log[3])));
}

#[test]
fn start_view_below_what_is_committed_is_ignored() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 4);
    bench.receive(&start_view(&log[..3], 1, 3, 0));
    bench.settle();
    assert_eq!((bench.replica.view(), bench.replica.op()), (View(0), 4));
}

#[test]
fn start_view_uncommitted_tail_is_not_executed_and_executed_ops_stay() {
    let log = log_of(&[0, 0, 0, 0]);
    let mut bench = Bench::with_log(2, &log[..3], 0, 2);
    let executed = bench.executed.clone();
    assert_eq!(executed, [1, 2]);
    bench.receive(&start_view(&log, 1, 4, 0));
    bench.receive(&log[3]);
    bench.receive(&log[4]);
    bench.settle();
    assert_eq!(bench.executed, [1, 2, 3, 4], "from the own commit on, and not op 5");
    bench.receive(&start_view(&log, 1, 4, 0));
    bench.receive(&commit(1, &log[4], 1));
    bench.settle();
    assert_eq!(bench.executed, [1, 2, 3, 4, 5]);
}

#[test]
fn start_view_resent_while_the_primary_repairs_is_a_sign_of_life() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 1, 2);
    for _ in 0..20 {
        bench.ticks(5);
        bench.receive(&start_view(&log, 1, 2, 0));
        assert_eq!(bench.replica.votes, 0);
    }
    bench.ticks(60);
    assert_ne!(bench.replica.votes, 0);
}

#[test]
fn vote_alone_raises_no_view_and_a_quorum_does() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    bench.ticks(100);
    assert!(bench.drain_sent("start_view_change") > 1, "said again and again");
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::Normal, View(0)));
    bench.receive(&commit(0, &log_of(&[0])[1], 1));
    assert_eq!(bench.replica.votes, 0, "a heartbeat takes it back");
    for _ in 0..3 {
        bench.receive(&message(0, 0, StartViewChange {}));
    }
    assert_eq!(bench.replica.view(), View(0), "one vote three times is one vote");
    bench.receive(&message(1, 0, StartViewChange {}));
    assert_eq!(bench.replica.view(), View(1));
}

#[test]
fn do_view_change_counts_once_per_replica_and_not_without_the_own() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.receive(&do_view_change(&log, 2, 1, 0, 2));
    bench.receive(&do_view_change(&log, 0, 1, 0, 2));
    assert!(!bench.replica.selected, "two others, and the own log is not durable yet");
    bench.settle();
    assert_eq!(bench.replica.log_view(), View(1));

    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 0, 0, 2));
    assert!(!bench.replica.selected, "of an older view");
    bench.ticks(100);
    assert_eq!(bench.replica.log_view(), View(0), "the own one alone is no quorum");
}

#[test]
fn do_view_change_keeps_the_own_log() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log[..2], 2, 1, 0, 2));
    bench.settle();
    assert!(bench.replica.is_primary());
    assert_eq!((bench.replica.op(), bench.replica.commit_max()), (4, 2));
    assert_eq!(bench.executed, [1, 2]);
    bench.receive(&message(2, 1, PrepareOk { prepare: id(&log[2]), ..PrepareOk::default() }));
    assert_eq!(bench.executed, [1, 2, 3]);
}

/// The own log held a prepare that lost, and was certain of it in its own view.
#[test]
fn start_view_names_only_what_the_selection_named() {
    let mut log = log_of(&[0, 0]);
    let lost = next(0, &log[2], 2, 50);
    let own: Vec<_> = log.iter().chain([&lost]).cloned().collect();
    let right = next(2, &log[2], 3, 60);
    log.push(right);
    log.push(next(2, &log[3], 4, 61));
    // Replica 1 votes with `lost` at op 4 for view 4; the view that won was 2.
    let mut bench = Bench::with_log(1, &own, 0, 3);
    bench.receive(&message(2, 4, StartViewChange {}));
    bench.settle();
    let mut set = set_of(&log, 2);
    set.headers[1] = None;
    let command = DoViewChange {
        op: 5,
        commit_min: 3,
        commit_max: 4,
        log_view: View(2),
        present: 1,
        ..DoViewChange::default()
    };
    bench.receive(&Message::new(&author(2, 4), command, &set.encode()));
    assert!(bench.replica.selected);
    assert_eq!(bench.replica.head.header(5).map(Header::id), Some(id(&log[4])));
    assert_eq!(bench.replica.head.header(4), None, "what is there lost in view 2");
    bench.settle();
    for (_, sent) in &bench.sent {
        if let Command::StartView(_) = sent.header().command {
            assert_eq!(HeaderSet::decode(sent).unwrap().header(4), None);
        }
    }
}

#[test]
fn ping_of_a_higher_view_raises_the_view_and_not_the_log_view() {
    for view in [1, 255, 256, 1 << 20, VIEW_MAX - 2] {
        let log = log_of(&[0]);
        let mut bench = Bench::with_log(2, &log, 0, 2);
        bench.receive(&ping(&author(0, view), GEOMETRY, incarnation(2)));
        bench.settle();
        let replica = &bench.replica;
        assert_eq!((replica.view(), replica.log_view()), (View(view), View(0)));
        assert_eq!(u32::from(replica.primary_of_view().0), view % 3);
        assert_eq!(bench.drain_sent("do_view_change"), 2);
    }
}

#[test]
fn view_that_does_not_come_about_is_left_and_patience_grows() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    bench.votes_of_others(2);
    let mut waited = Vec::new();
    for _ in 0..5 {
        bench.settle();
        let ticks = (1..5000).find(|_| {
            bench.tick();
            bench.settle();
            bench.replica.votes != 0
        });
        waited.push(ticks.unwrap());
        assert!(bench.count_sent("do_view_change") > 2, "said again");
        let view = bench.replica.view();
        bench.votes_of_others(1);
        assert_eq!(bench.replica.view(), view.next());
    }
    assert!(waited[0] <= 51, "{waited:?}");
    assert!(waited.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2), "{waited:?}");
}

#[test]
fn heartbeat_of_a_higher_view_asks_its_primary_for_the_log() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    bench.receive(&commit(4, &log[1], 1));
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::Normal, View(0)));
    let asked: Vec<_> = bench.sent.iter().map(|(to, message)| (*to, message.header())).collect();
    assert_eq!(asked.len(), 1);
    assert_eq!((asked[0].0, asked[0].1.view), (ReplicaIndex(1), View(4)));
    assert!(matches!(asked[0].1.command, Command::RequestStartView(_)));
}

// ---- an uncertain head

/// Replica 2, which acknowledged op 3 in view 0 and cannot read it any more.
pub(super) fn uncertain() -> (Bench, Vec<Message>) {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    let layout = crate::storage::Layout::new(GEOMETRY);
    bench.disk.write(layout.prepare_offset(3), &[0xAA; 4096]);
    bench.disk.write(layout.headers_offset(0) + 3 * 128, &[0xAA; 128]);
    // The start_view of `with_log` named op 3: as if it had come by replication.
    let mut bench = bench.restart();
    bench.settle();
    if bench.replica.status() != Status::RecoveringHead {
        let layout = crate::storage::Layout::new(GEOMETRY);
        bench.disk.write(layout.prepare_offset(4), &[0xAA; 4096]);
        bench.disk.write(layout.headers_offset(0) + 4 * 128, &[0xAA; 128]);
        bench = bench.restart();
        bench.settle();
    }
    assert_eq!(bench.replica.status(), Status::RecoveringHead);
    bench.sent.clear();
    (bench, log)
}

/// The headers of slots in which no acknowledged op can lie, the root's among them, say nothing of
/// the head.
#[test]
fn head_is_certain_when_what_is_damaged_above_it_was_never_acknowledged() {
    let op_prepare_ok_max = GEOMETRY.op_prepare_ok_max(0);
    for op in 4..=GEOMETRY.op_prepare_max(0) {
        let mut bench = Bench::with_log(2, &log_of(&[0, 0]), 0, 2);
        let layout = crate::storage::Layout::new(GEOMETRY);
        let slot = GEOMETRY.slot(op);
        let (sector, entry) = (slot / 32, u64::from(slot % 32));
        bench.disk.write(layout.headers_offset(sector) + entry * 128, &[0xAA; 128]);
        let mut bench = bench.restart();
        let is_certain = bench.replica.status() == Status::Normal;
        assert_eq!(is_certain, op > op_prepare_ok_max, "op {op}");
        // The header of the root is written anew, and that is all.
        bench.settle();
        bench.ticks(300);
        assert_eq!(bench.replica.op(), 3);
        let count = u32::from(!is_certain);
        assert_eq!(bench.replica.journal.faulty_count(), count, "op {op}");
    }
}

#[test]
fn recovering_head_takes_no_part() {
    let (mut bench, log) = uncertain();
    bench.votes_of_others(2);
    bench.receive(&ping(&author(0, 2), GEOMETRY, incarnation(2)));
    bench.receive(&do_view_change(&log, 0, 2, 0, 2));
    bench.receive(&next(0, &log[2], 2, 70));
    bench.receive(&log[2]);
    bench.receive(&commit(0, &log[2], 5));
    bench.ticks(300);
    for name in ["start_view_change", "do_view_change", "start_view", "prepare_ok"] {
        assert_eq!(bench.count_sent(name), 0, "{name}");
    }
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::RecoveringHead, View(0)));
}

#[test]
fn recovering_head_wants_an_answer_to_its_own_nonce() {
    let (mut bench, log) = uncertain();
    bench.ticks(20);
    let nonce = bench.replica.nonce;
    assert_ne!(nonce, 0);
    for stale in [0, nonce ^ 1] {
        bench.receive(&start_view(&log, 0, 2, stale));
        bench.settle();
        assert_eq!(bench.replica.status(), Status::RecoveringHead);
    }
    bench.receive(&start_view(&log, 0, 2, nonce));
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.op()), (Status::Normal, 3));
    assert!(!bench.replica.journal.is_faulty(4), "what is above the head is known to be nothing");
}

#[test]
fn recovering_head_believes_the_start_view_of_a_newer_view() {
    let (mut bench, log) = uncertain();
    bench.receive(&start_view(&log, 1, 2, 0));
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::Normal, View(1)));
}

/// Somebody was heard in view 9 and is gone: the cluster lives on in view 1.
#[test]
fn recovering_head_asks_whoever_may_be_primary() {
    let (mut bench, _) = uncertain();
    bench.receive(&ping(&author(1, 9), GEOMETRY, incarnation(2)));
    bench.ticks(60);
    let mut asked = [false; 3];
    for (to, message) in &bench.sent {
        if let Command::RequestStartView(_) = message.header().command {
            asked[to.index()] |= message.header().view <= View(1);
        }
    }
    assert_eq!(asked, [true, true, false]);
}

// ---- normal operation

#[test]
fn heartbeat_announces_what_is_committed() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.commit_max()), (4, 3));
    bench.sent.clear();
    bench.ticks(20);
    let commits: Vec<_> = bench
        .sent
        .iter()
        .filter_map(|(_, message)| match message.header().command {
            Command::Commit(commit) => Some(commit.commit.op),
            _ => None,
        })
        .collect();
    assert!(commits.len() >= 4);
    assert!(commits.iter().all(|op| *op == 3));
}

#[test]
fn request_in_flight_is_prepared_once() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.replica.gather(&request(1, 1)).unwrap_err();
    bench.settle();
    assert_eq!(bench.replica.op(), 4);
    bench.replica.gather(&request(1, 1)).unwrap_err();
    bench.replica.gather(&request(2, 1)).unwrap();
    bench.settle();
    assert_eq!(bench.replica.op(), 5);
    let id = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&message(2, 1, PrepareOk { prepare: id, ..PrepareOk::default() }));
    assert_eq!(bench.executed.last(), Some(&4));
    bench.replica.gather(&request(1, 2)).unwrap();
    bench.replica.gather(&request(2, 1)).unwrap_err();
}

#[test]
fn newcomers_end_one_session_a_tick_and_take_what_is_free_at_once() {
    let (mut bench, _) = primary();
    bench.tick();
    let register = |client: u128| {
        let operation = Operation::Register as u8;
        let client = ClientId(client);
        let command = crate::wire::Request { client, session: 0, request: 0, operation };
        Message::new(&Author { incarnation: 0, ..author(0, 0) }, command, &[])
    };
    // Three places are free: two that are on their way leave one.
    for client in 1..=2 {
        assert!(bench.replica.admits_session(3));
        bench.replica.gather(&register(client)).unwrap();
    }
    bench.replica.gather(&request(7, 1)).unwrap();
    assert!(bench.replica.admits_session(3));
    bench.replica.gather(&register(3)).unwrap();
    assert!(bench.replica.admits_session(3), "the first that ends another's");
    for _ in 0..10 {
        assert!(!bench.replica.admits_session(3));
    }
    bench.tick();
    assert!(bench.replica.admits_session(0));
    assert!(!bench.replica.admits_session(0));
}

#[test]
fn request_uncommitted_is_remembered_by_the_next_primary() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.votes_of_others(2);
    bench.settle();
    bench.receive(&do_view_change(&log, 2, 1, 0, 2));
    bench.settle();
    assert!(bench.replica.is_primary());
    bench.replica.gather(&request(2, 1)).unwrap_err();
    bench.replica.gather(&request(3, 1)).unwrap();
}

#[test]
fn prepare_oks_out_of_order_commit_in_order() {
    let (mut bench, _) = primary();
    for client in 1..=3 {
        bench.replica.gather(&request(client, 1)).unwrap();
        bench.settle();
    }
    let ids: Vec<_> = (4..=6).map(|op| bench.replica.journal.header(op).unwrap().id()).collect();
    let ok = |prepare: PrepareId| message(2, 1, PrepareOk { prepare, ..PrepareOk::default() });
    bench.receive(&ok(ids[2]));
    bench.receive(&ok(ids[1]));
    bench.receive(&ok(ids[1]));
    assert_eq!(bench.replica.commit_max(), 3);
    bench.receive(&ok(ids[0]));
    assert_eq!(bench.replica.commit_max(), 6);
    assert_eq!(bench.executed, [1, 2, 3, 4, 5, 6]);
    bench.receive(&ok(ids[0]));
}

#[test]
fn prepare_oks_without_the_own_write_commit() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.act(Replica::on_turn_end);
    let prepare = bench.replica.journal.header(4).unwrap().id();
    bench.receive(&message(0, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.commit_max(), 3, "the own copy does not count before it is durable");
    bench.receive(&message(2, 1, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.commit_max(), 4);
    bench.settle();
}

#[test]
fn prepare_lost_is_sent_again() {
    let (mut bench, _) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    assert_eq!(bench.drain_sent("prepare"), 2);
    bench.ticks(30);
    assert!(bench.drain_sent("prepare") >= 2);
}

#[test]
fn prepare_again_is_acknowledged_again() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    bench.receive(&log[2]);
    bench.receive(&log[2]);
    bench.settle();
    assert_eq!(bench.drain_sent("prepare_ok"), 2);
    assert_eq!(bench.replica.op(), 3);
}

#[test]
fn prepare_of_the_root_is_ignored() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    let by = Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
    bench.receive(&Message::new(&by, Prepare::default(), &[]));
    assert_eq!(bench.sent.len(), 0);
}

#[test]
fn headers_again_change_nothing() {
    let log = log_of(&[0, 0, 0, 0, 0]);
    let mut bench = Bench::with_log(1, &log[..2], 0, 2);
    bench.receive(&log[5]);
    assert_eq!((bench.replica.op(), bench.replica.chain_min), (6, 6));
    let body: Vec<u8> =
        log[2..5].iter().rev().flat_map(|message| message.prepare_header().encode()).collect();
    let headers = Message::new(&author(2, 0), Headers {}, &body);
    for _ in 0..3 {
        bench.receive(&headers);
        assert_eq!((bench.replica.op(), bench.replica.chain_min), (6, 1));
    }
    assert_eq!(bench.replica.counters.headers_repaired, 3);
    for message in &log[2..5] {
        bench.receive(message);
    }
    bench.settle();
    assert_eq!(bench.executed, [1, 2, 3], "op 4 is not known to be committed");
}

#[test]
fn commit_beyond_a_broken_chain_waits() {
    let log = log_of(&[0, 0, 0]);
    let mut bench = Bench::with_log(1, &log[..2], 0, 2);
    bench.receive(&log[3]);
    bench.receive(&commit(0, &log[3], 1));
    bench.settle();
    assert_eq!(bench.executed, [1, 2]);
    bench.receive(&log[2]);
    bench.settle();
    assert_eq!(bench.executed, [1, 2, 3, 4]);
}

// ---- who is who

#[test]
fn blank_file_neither_votes_nor_acknowledges() {
    let log = log_of(&[0]);
    let mut bench = Bench::blank(2);
    bench.ticks(300);
    bench.votes_of_others(2);
    bench.receive(&log[1]);
    bench.receive(&do_view_change(&log, 0, 2, 0, 1));
    bench.ticks(30);
    let mut foreign = table(3);
    foreign.incarnations[2] = 999;
    bench.receive(&genesis(&foreign));
    bench.settle();
    for name in ["start_view_change", "do_view_change", "start_view", "prepare_ok", "commit"] {
        assert_eq!(bench.count_sent(name), 0, "{name}");
    }
    assert_eq!((bench.replica.op(), bench.replica.view()), (0, View(0)));
    bench.receive(&log[0]);
    bench.settle();
    assert_eq!(bench.drain_sent("prepare_ok"), 1, "the genesis that names it");
    assert!(!bench.replica.is_born());
    bench.votes_of_others(2);
    assert_eq!(bench.replica.view(), View(0));
    bench.receive(&commit(0, &log[0], 1));
    assert!(!bench.replica.may_vote(), "not before that is durable");
    bench.settle();
    assert!(bench.replica.may_vote());
}

#[test]
fn genesis_known_to_be_committed_leaves_the_pipeline() {
    let log = log_of(&[]);
    let mut bench = Bench::blank(0);
    for other in [1, 2] {
        bench.receive(&ping(&author(other, 0), GEOMETRY, 0));
    }
    bench.settle();
    assert_eq!(bench.replica.journal.header(1).map(Header::id), Some(id(&log[0])));
    let mut bench = bench.restart();
    bench.receive(&ping(&author(1, 0), GEOMETRY, 0));
    bench.receive(&ping(&author(2, 0), GEOMETRY, 0));
    assert_eq!(bench.replica.pipeline.len(), 1);
    bench.receive(&ping(&author(1, 0), GEOMETRY, incarnation(0)));
    bench.settle();
    bench.ticks(5);
    assert!(bench.replica.is_primary() && bench.replica.is_born());
    assert_eq!(bench.executed, [1]);
}

/// A disk that lies may lose the genesis of a file that does not know yet that it was committed. A
/// member says which one it is; any other is refused, also if it names this file.
#[test]
fn genesis_lost_before_birth_is_fetched_from_a_member() {
    let log = log_of(&[]);
    for own in [0, 1] {
        let mut bench = Bench::blank(own);
        let mut other = table(3);
        other.incarnations[2] = 999;
        bench.receive(&ping(&author(2, 0), GEOMETRY, incarnation(own)));
        assert_eq!(bench.count_sent("request_headers"), 1, "it asks the member");
        let header = log[0].prepare_header().encode();
        bench.receive(&Message::new(&author(2, 0), Headers {}, &header));
        assert_eq!(bench.replica.op(), 0);
        if own == 0 {
            bench.receive(&genesis(&other));
            assert_eq!(bench.replica.op(), 0, "not the one that the member named");
        }
        bench.receive(&log[0]);
        bench.settle();
        bench.ticks(1);
        bench.settle();
        assert!(bench.replica.is_born());
        assert_eq!(bench.executed, [1]);
    }
}

#[test]
fn genesis_commits_only_when_all_have_it() {
    let mut bench = Bench::blank(0);
    bench.receive(&ping(&author(1, 0), GEOMETRY, 0));
    bench.settle();
    assert_eq!(bench.replica.op(), 0);
    bench.receive(&ping(&author(2, 0), GEOMETRY, 0));
    bench.settle();
    assert_eq!((bench.replica.op(), bench.replica.commit_max()), (1, 0));
    let prepare = bench.replica.journal.header(1).unwrap().id();
    bench.receive(&message(1, 0, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.commit_max(), 0, "two of three");
    bench.receive(&message(2, 0, PrepareOk { prepare, ..PrepareOk::default() }));
    assert_eq!(bench.replica.commit_max(), 1);
}

#[test]
fn incarnation_that_is_not_in_the_table_does_not_count() {
    let (mut bench, log) = primary();
    bench.replica.gather(&request(1, 1)).unwrap();
    bench.settle();
    let prepare = bench.replica.journal.header(4).unwrap().id();
    let stranger = Author { incarnation: 999, ..author(2, 1) };
    let say = |command: Command| Message::new(&stranger, command, &[]);
    bench.receive(&say(PrepareOk { prepare, ..PrepareOk::default() }.into()));
    bench.receive(&say(StartViewChange {}.into()));
    assert_eq!((bench.replica.commit_max(), bench.replica.votes), (3, 0));
    let ahead = Author { incarnation: 999, ..author(2, 5) };
    bench.receive(&ping(&ahead, GEOMETRY, incarnation(1)));
    bench.receive(&Message::new(&ahead, StartViewChange {}, &[]));
    let set = set_of(&log, 3);
    let command = DoViewChange { op: 3, commit_max: 3, present: 7, ..DoViewChange::default() };
    bench.receive(&Message::new(&ahead, command, &set.encode()));
    assert_eq!(bench.replica.view(), View(1));
    bench.settle();
    // And no prepare of such a primary.
    let mut backup = Bench::with_log(2, &log, 0, 3);
    let right = next(0, &log[2], 3, 80);
    let Command::Prepare(command) = right.header().command else { panic!() };
    let by = Author { incarnation: 999, ..author(0, 0) };
    backup.receive(&Message::new(&by, command, right.body()));
    assert_eq!(backup.replica.op(), 3);
    backup.receive(&right);
    assert_eq!(backup.replica.op(), 4);
}

#[test]
fn incarnation_replaced_is_fatal() {
    let mut bench = Bench::blank(2);
    bench.receive(&ping(&author(0, 0), GEOMETRY, 999));
    assert!(bench.fatal);
}

#[test]
fn start_view_that_takes_this_file_out_is_of_a_member_or_knows_whom_it_takes_out() {
    let log = log_of(&[0, 0]);
    let taken_out = |by: u64, before: u64| {
        let mut table = table(3);
        table.incarnations[1] = by;
        let mut incarnations_before = table.incarnations;
        incarnations_before[2] = before;
        table.incarnations[2] = 999;
        table = IncarnationTable { op: 2, op_before: 1, incarnations_before, ..table };
        let set = HeaderSet { table, ..set_of(&log, 2) };
        let command = StartView { op: set.op, commit_max: 2, ..StartView::default() };
        Message::new(&Author { incarnation: by, ..author(1, 1) }, command, &set.encode())
    };
    for (by, before, is_fatal) in [
        (4711, 4712, false),
        (incarnation(1), 4712, true),
        (4711, incarnation(2), true),
        (incarnation(1), incarnation(2), true),
    ] {
        let mut bench = Bench::with_log(2, &log, 0, 2);
        bench.receive(&taken_out(by, before));
        assert_eq!(bench.fatal, is_fatal, "{by} {before}");
        assert_eq!(bench.replica.view(), View(0), "not taken in any case");
        let mut blank = Bench::blank(2);
        blank.receive(&taken_out(by, before));
        assert!(blank.fatal, "a blank file knows no members");
    }
}

#[test]
fn log_of_a_stranger_does_not_decide_who_counts() {
    let log = log_of(&[0, 0]);
    let mut bench = Bench::with_log(1, &log, 0, 2);
    let stranger = Author { incarnation: 4711, ..author(2, 1) };
    let mut own = table(3);
    own.incarnations = [9, 9, 4711, 0, 0, 0];
    bench.receive(&message(2, 1, StartViewChange {}));
    bench.receive(&message(0, 1, StartViewChange {}));
    bench.settle();
    assert_eq!((bench.replica.status(), bench.replica.view()), (Status::ViewChange, View(1)));
    for table in [own, IncarnationTable { op: 3, ..own }] {
        let set = HeaderSet { table, ..set_of(&log, 2) };
        let command = DoViewChange { op: set.op, log_view: View(0), ..DoViewChange::default() };
        bench.receive(&Message::new(&stranger, command, &set.encode()));
        assert!(bench.replica.view_logs[2].is_none());
    }
    bench.receive(&do_view_change(&log, 0, 1, 0, 2));
    bench.settle();
    assert_eq!(bench.replica.status(), Status::Normal);
}

#[test]
fn author_of_another_incarnation_is_not_believed_but_for_what_it_passes_on() {
    let (bench, log) = primary();
    let own = message(1, 0, Commit::default());
    let believes = |message: &Message| bench.replica.believes(message.header());
    assert_eq!(believes(&own), Some(true));
    let stranger = Author { incarnation: 4711, ..author(1, 0) };
    assert_eq!(believes(&Message::new(&stranger, Commit::default(), &[])), Some(false));
    assert_eq!(believes(&ping(&stranger, GEOMETRY, 0)), Some(false));
    // What is passed on says nothing of who passes it on, neither for nor against him.
    assert_eq!(believes(&Message::new(&stranger, crate::wire::Block::default(), &[1])), None);
    assert_eq!(believes(&log[1]), None);
    let blank = Bench::blank(0);
    assert_eq!(blank.replica.believes(own.header()), None, "nobody is known yet");
}

#[test]
fn geometry_that_differs_is_not_listened_to() {
    let log = log_of(&[0]);
    let mut bench = Bench::with_log(2, &log, 0, 2);
    let foreign = Geometry { pipeline: 4, ..GEOMETRY };
    bench.receive(&ping(&author(0, 8), foreign, incarnation(2)));
    assert_eq!((bench.sent.len(), bench.replica.view()), (0, View(0)));
    bench.receive(&next(0, &log[1], 2, 80));
    bench.receive(&message(0, 6, StartViewChange {}));
    bench.receive(&start_view(&log, 3, 2, 0));
    assert_eq!((bench.replica.op(), bench.replica.view()), (2, View(0)));
    bench.receive(&ping(&author(0, 0), GEOMETRY, incarnation(2)));
    bench.receive(&next(0, &log[1], 2, 80));
    assert_eq!(bench.replica.op(), 3);
}

#[test]
fn one_line_a_second_complains_of_a_replica() {
    let mut bench = Bench::with_log(2, &log_of(&[0]), 0, 2);
    let from = ReplicaIndex(0);
    assert!(bench.replica.may_complain_of(from));
    assert!(!bench.replica.may_complain_of(from));
    assert!(bench.replica.may_complain_of(ReplicaIndex(1)), "each has its own");
    bench.ticks(COMPLAIN_TICKS - 1);
    assert!(!bench.replica.may_complain_of(from));
    bench.ticks(1);
    assert!(bench.replica.may_complain_of(from));
}

// ---- anything at any time

/// What a peer that keeps to the protocol may have sent at some time: old, repeated, out of order,
/// from anybody, of any view. The log of view 0 is `log`, its first `committed` ops are committed.
fn stray(prng: &mut Prng, log: &[Message], committed: usize, bench: &Bench) -> Message {
    let own = bench.replica.view().0;
    let from = u8::try_from(prng.below(3)).unwrap();
    let view = match prng.below(8) {
        0..=3 => own,
        4 => own + 1,
        5 => own + u32::try_from(prng.below(4)).unwrap(),
        _ => u32::try_from(prng.below(u64::from(own) + 1)).unwrap(),
    };
    let primary = View(view).primary(3).0;
    let by = match prng.below(20) {
        0 => Author { incarnation: prng.next_u64(), ..author(from, view) },
        _ => author(from, view),
    };
    let len = committed + prng.index(log.len() - committed + 1);
    let any = &log[prng.index(log.len())];
    let known = &log[prng.index(committed)];
    let op = if prng.below(10) == 0 { NUMBER_MAX - 1 - prng.below(3) } else { prng.below(80) };
    let small = |prng: &mut Prng| prng.below(6);
    let other = PrepareId { op: op + 1, view: View(0), checksum: 1, checksum_body: 2 };
    let command: Command = match prng.below(17) {
        0..=2 => return any.clone(),
        3 => return start_view(&log[..len], view, committed as Op, small(prng)),
        4 => return do_view_change(&log[..len], from, view.max(1), 0, committed as Op),
        5 => return ping(&by, GEOMETRY, incarnation(bench.replica.replica().0)),
        6 => {
            let body: Vec<u8> =
                log[..len].iter().rev().flat_map(|own| own.prepare_header().encode()).collect();
            return Message::new(&by, Headers {}, &body[..body.len().min(128 * 20)]);
        }
        7 => {
            let round = prng.below(50);
            return message(
                primary,
                view,
                Commit { commit: id(known), round, ..Commit::default() },
            );
        }
        8 => PrepareOk { prepare: id(known), ..PrepareOk::default() }.into(),
        9 => PrepareOk { prepare: other, commit_min: op, checkpoint_id: 0 }.into(),
        10 => StartViewChange {}.into(),
        11 => RequestStartView { nonce: 1 + op }.into(),
        12 => {
            let op_max = (op + small(prng) * (prng.next_u64() >> 20)).min(NUMBER_MAX);
            RequestHeaders { op_min: op, op_max }.into()
        }
        13 => RequestPrepare { prepare: if op < 40 { id(any) } else { other } }.into(),
        14 => Pong { ping_timestamp_monotonic: op, timestamp_realtime: prng.next_u64() }.into(),
        15 => crate::wire::CommitOk { round: op }.into(),
        _ => crate::wire::CommitOk { round: 7 }.into(),
    };
    Message::new(&by, command, &[])
}

#[test]
fn messages_at_any_time_never_panic_and_never_undo() {
    let mut statuses = [0u64; 4];
    for seed in 0..40 {
        let mut prng = Prng::from_seed(seed);
        let log = log_of(&[0; 9]);
        let committed = 7;
        let mut bench = match prng.below(8) {
            0 => Bench::blank(u8::try_from(1 + prng.below(2)).unwrap()),
            1..=5 => uncertain().0,
            _ => Bench::with_log(u8::try_from(1 + prng.below(2)).unwrap(), &log[..5], 0, 3),
        };
        let (mut view, mut log_view, mut commit_max) = (View(0), View(0), 0);
        for _ in 0..1500 {
            match prng.below(100) {
                0..=1 => bench.ticks(1 + prng.below(60)),
                2 => {
                    bench = bench.restart();
                    commit_max = 0;
                }
                3..=9 => bench.settle(),
                10..=19 => {
                    bench.complete(|_| true);
                }
                20..=22 if bench.replica.is_primary() && !bench.replica.abdicating => {
                    let _ = bench.replica.gather(&request(prng.next_u128() | 1, 1));
                }
                _ => {
                    let stray = stray(&mut prng, &log, committed, &bench);
                    bench.receive(&stray);
                }
            }
            let replica = &bench.replica;
            replica.invariants();
            assert!(replica.view() >= view && replica.log_view() >= log_view || commit_max == 0);
            assert!(replica.commit_max() >= commit_max);
            assert!(bench.executed.windows(2).all(|pair| pair[1] == pair[0] + 1));
            (view, log_view) = (replica.view(), replica.log_view());
            commit_max = replica.commit_max();
            let status = replica.status();
            statuses[match status {
                Status::Normal if replica.is_primary() => 0,
                Status::Normal => 1,
                Status::ViewChange => 2,
                Status::RecoveringHead | Status::Recovering => 3,
            }] += 1;
            bench.sent.clear();
            assert!(!bench.fatal);
        }
    }
    assert!(statuses.iter().all(|count| *count > 500), "every status was met: {statuses:?}");
}
