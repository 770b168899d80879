//! Normal operation: one message is lost, late, or said again, and nothing else is wrong.

use super::Call;
use super::dsl::*;
use super::script::Rule;
use super::script::{ANY, Step};
use bytes::Bytes;
use vsr::wire::{Commit, Prepare, PrepareOk, Reply, Request};

#[test]
fn normal_no_fault_all_execute_all() {
    for replicas in 1..=6 {
        let mut t = Scenario::new(replicas);
        t.request(20);
        t.run();
        // The genesis, the session, and the calls, each in a prepare of its own.
        assert_eq!((t.view(R_), t.op(R_), t.commit(R_)), (u32::from(replicas == 1), 22, 22));
        assert_eq!(t.answered(C0), 20);
        assert_eq!(t.repaired(R_), 0);
        t.finish();
    }
}

#[test]
fn normal_many_clients_share_prepares() {
    let mut t = Scenario::with(3, |options| {
        (options.clients, options.sessions, options.slots) = (20, 64, 512);
    });
    for client in 0..20 {
        t.ask(Who::C(client), 10);
    }
    t.run();
    assert_eq!((0..20).map(|client| t.answered(Who::C(client))).sum::<usize>(), 200);
    assert!(t.commit(R_) < 221, "some of 220 requests shared a prepare");
    t.finish();
}

#[test]
fn normal_request_lost_client_sends_it_again() {
    let mut t = Scenario::new(3);
    t.request(1);
    let lost = t.rule(Rule::drop(Request::CODE).times(1), C0, A0);
    t.request(1);
    assert_eq!(t.hits(lost), 1);
    assert_eq!((t.answered(C0), t.commit(A0)), (2, 4));
    t.finish();
}

#[test]
fn normal_reply_lost_answers_from_the_table() {
    let mut t = Scenario::new(3);
    t.request(1);
    let lost = t.rule(Rule::drop(Reply::CODE).times(1), R_, C0);
    t.request(1);
    t.run();
    assert_eq!(t.hits(lost), 1);
    assert_eq!((t.answered(C0), t.op(R_)), (2, 4));
    t.finish();
}

#[test]
fn normal_prepare_lost_is_sent_again() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.rule(Rule::drop(Prepare::CODE).op(4).times(2), A0, B_);
    t.request(1);
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.answered(C0)), (0, 4, 2));
    t.finish();
}

#[test]
fn normal_prepare_lost_on_one_path_is_fetched() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.rule(Rule::drop(Prepare::CODE).op(4).times(1), A0, B1);
    t.request(3);
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (0, 6));
    assert!(t.repaired(B1) > 0);
    t.finish();
}

#[test]
fn normal_prepare_ok_lost_is_said_again() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.rule(Rule::drop(PrepareOk::CODE).op(4).times(2), B_, A0);
    t.request(1);
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.answered(C0)), (0, 4, 2));
    t.finish();
}

#[test]
fn normal_commit_lost_backups_execute_at_the_next() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    let lost = t.rule(Rule::drop(Commit::CODE).op(4).times(1), A0, B1);
    t.request(1);
    t.run_until("the heartbeat was lost", |t| t.hits(lost) == 1);
    assert_eq!((t.op(B1), t.commit(B1)), (4, 3));
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (0, 4));
    t.finish();
}

#[test]
fn normal_prepares_overtaking_leave_a_gap_that_is_filled() {
    let mut t = Scenario::new(3);
    t.push(C1, Step::Register);
    t.request(1);
    t.run();
    let (head, held) = (t.op(R_), Rule::hold(Prepare::CODE).op(t.op(R_) + 1).times(1));
    t.rule(held, A0, B1);
    t.ask(C0, 1);
    t.run_until("the first is prepared", |t| t.op(A0) == head + 1);
    t.ask(C1, 1);
    t.run_until("the second overtakes the first", |t| t.op(B1) == head + 2);
    assert_eq!(t.commit(B1), head);
    t.release();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_)), (head + 2, head + 2));
    t.finish();
}

#[test]
fn normal_everything_twice_happens_once() {
    let mut t = Scenario::with(3, |options| options.duplicate = 500_000);
    t.request(30);
    t.run();
    assert_eq!((t.view(R_), t.op(R_)), (0, 32));
    t.finish();
}

#[test]
fn normal_heartbeat_says_what_is_committed() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.rule(Rule::drop(PrepareOk::CODE), B_, A0);
    t.ask(C0, 1);
    t.run_for(500);
    assert_eq!((t.op(R_), t.commit_max(R_), t.commit(R_)), (4, 3, 3));
    t.end_all();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (0, 4));
    t.finish();
}

#[test]
fn normal_prepare_oks_out_of_order_commit_in_order() {
    let mut t = Scenario::new(3);
    t.push(C1, Step::Register);
    t.request(1);
    t.run();
    let head = t.op(R_);
    t.rule(Rule::hold(PrepareOk::CODE).op(head + 1), B_, A0);
    t.ask(C0, 1);
    t.run_until("the first is prepared", |t| t.op(A0) == head + 1);
    t.ask(C1, 1);
    t.run_for(500);
    assert_eq!((t.op(R_), t.commit(R_)), (head + 2, head));
    t.end_all();
    t.release();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (0, head + 2));
    t.finish();
}

#[test]
fn normal_messages_of_older_views_change_nothing() {
    let mut t = Scenario::new(3);
    t.record();
    t.request(20);
    let a0 = t.by_index(A0);
    t.on(a0).stop();
    t.request(5);
    t.on(a0).start();
    t.run();
    let a1 = t.by_index(A0);
    assert_ne!(a0, a1);
    t.on(a1).restart();
    t.run();
    let (view, op) = (t.view(R_), t.op(R_));
    assert!(view >= 2);
    let mut old = t.recorded(ANY, __, __);
    old.retain(|packet| packet.header.view.0 < view);
    assert!(old.len() > 200);
    assert!(t.replay(&old) > 100);
    t.run();
    assert_eq!((t.view(R_), t.op(R_), t.commit(R_)), (view, op, op));
    t.finish();
}

#[test]
fn normal_ring_goes_round_and_checkpoints_let_go_of_it() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.request(53);
    t.rule(Rule::drop(Reply::CODE).op(56).times(2), R_, C0);
    t.request(1);
    t.request(150);
    assert_eq!(t.answered(C0), 204);
    t.run();
    assert_eq!((t.op(R_), t.commit(R_)), (206, 206));
    t.finish_full();
}

#[test]
fn normal_replica_left_behind_by_the_ring_takes_over_a_checkpoint() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.request(5);
    t.on(R2).stop();
    t.request(200);
    t.on(R2).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_)), (207, 207));
    assert_eq!(t.cluster.repairs_total().syncs, 1);
    t.finish_full();
}

#[test]
fn normal_all_restart_behind_a_checkpoint_and_know_what_was_answered() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.request(100);
    for who in [R0, R1, R2] {
        t.on(who).stop();
    }
    for who in [R0, R1, R2] {
        t.on(who).start();
    }
    t.request(100);
    t.run();
    assert_eq!(t.answered(C0), 200);
    t.finish_full();
}

#[test]
fn normal_primary_with_a_slow_disk_commits_by_its_backups() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.on(A0).slow_writes(2000);
    let before = t.cluster.now();
    t.request(1);
    assert!(t.cluster.now() - before < 1_000_000_000);
    assert_eq!((t.commit(A0), t.to_repair(A0)), (4, 1));
    t.finish();
}

#[test]
fn normal_two_replicas_need_each_other() {
    let mut t = Scenario::new(2);
    t.request(1);
    t.on(B1).stop();
    t.ask(C0, 1);
    t.run_for(2000);
    assert_eq!((t.commit(R0), t.answered(C0)), (3, 1));
    t.on(R1).start();
    t.run();
    assert_eq!(t.answered(C0), 2);
    t.finish();
}

#[test]
fn normal_replication_quorum_suffices() {
    for (replicas, dead) in [(3, 1), (4, 2), (5, 2), (6, 3)] {
        let mut t = Scenario::new(replicas);
        t.request(1);
        for place in 1..=dead {
            t.on(Who::R(place)).stop();
        }
        t.request(5);
        assert_eq!((t.view(R0), t.commit(R0)), (0, 8));
        t.finish();
    }
}

#[test]
fn normal_fewer_than_a_replication_quorum_commit_nothing() {
    for (replicas, dead) in [(3, 2), (4, 3), (5, 3), (6, 4)] {
        let mut t = Scenario::new(replicas);
        t.request(1);
        t.run();
        for place in 1..=dead {
            t.on(Who::R(place)).stop();
        }
        t.ask(C0, 1);
        t.run_for(3000);
        assert_eq!((t.commit(R0), t.answered(C0)), (3, 1));
        t.finish();
    }
}

/// What a primary executes may wait for its disk. Meanwhile it commits, but only so far ahead as it
/// keeps in memory; whoever asks for more waits with it.
#[test]
fn normal_primary_that_waits_for_blocks_seals_only_so_far_ahead() {
    let clients = 12;
    let mut t = Scenario::with(3, |options| {
        options.slots = 64;
        options.pipeline = 1;
        options.cache = 16;
        options.clients = clients;
        options.sessions = 64;
    });
    // Five of them are in a leaf, and four blocks in memory.
    let put = |number: u64, round: u64| {
        let value = Bytes::from(format!("{round} {number:0>700}"));
        let call = Call::Put { key: Bytes::from(format!("key{number}")), value };
        Step::Call { call, is_query: false }
    };
    let own = |client: u64| Who::C(usize::try_from(client).expect("a few"));
    for client in 0..clients {
        t.push(own(client), Step::Register);
    }
    for number in 0..120 {
        t.push(C0, put(number, 0));
    }
    t.run();
    let head = t.op(R_);
    t.on(R0).slow_reads(5000);
    for client in 0..clients {
        t.push(own(client), put(client * 10, 1));
        t.run_for(50);
    }
    assert_eq!(t.op(R0) - t.commit(R0), 4, "{}", t.summary());
    assert_eq!((t.commit_max(R0), t.view(R_)), (t.op(R0), 0));
    assert!(t.op(R0) < head + clients, "some are not sealed");
    t.on(R0).slow_reads(0);
    t.run();
    let answered: usize = (0..clients).map(|client| t.answered(own(client))).sum();
    assert_eq!((answered, t.view(R_)), (132, 0));
    t.finish();
}
