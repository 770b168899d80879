//! Checkpoints: taking them over, whatever happens meanwhile, and blocks that rot. With 64 slots
//! and 8 in flight a checkpoint is taken each 32 ops, and the ring has room for 64 above one.

use super::Target;
use super::dsl::*;
use super::script::{Rule, Step};
use vsr::replica::Status;
use vsr::wire::{Block, Command, Prepare, PrepareOk, Reply, RequestBlocks, StartView};

fn small() -> Scenario {
    Scenario::with(3, |options| options.slots = 64)
}

/// Replica 2 was left behind by the ring, is back, and gets no block.
fn syncing() -> (Scenario, usize) {
    let mut t = small();
    t.request(5);
    t.on(R2).stop();
    t.request(200);
    let rule = t.rule(Rule::drop(Block::CODE), R_, R2);
    t.on(R2).start();
    t.run_until("it takes over a checkpoint", |t| t.syncing(R2).is_some() && t.hits(rule) > 0);
    (t, rule)
}

#[test]
fn sync_goes_on_through_a_view_change() {
    let (mut t, rule) = syncing();
    let old = t.by_index(A0);
    t.on(old).stop();
    t.run_until("the others have a view", |t| t.view(R1) > 0 && t.is(R1, Status::Normal));
    assert!(t.syncing(R2).is_some());
    t.request(3);
    t.end(rule);
    t.run();
    assert_eq!((t.syncing(R2), t.answered(C0)), (None, 208));
    t.on(old).start();
    t.finish();
}

#[test]
fn sync_of_a_replica_that_missed_views_goes_to_the_newest() {
    let mut t = small();
    t.request(5);
    t.on(R2).cut(Both);
    t.request(100);
    for _ in 0..2 {
        let primary = t.by_index(A0);
        t.on(primary).restart();
        t.run_until("another leads", |t| t.by_index(A0) != primary && t.is(A0, Status::Normal));
        t.request(50);
    }
    let view = t.view(A0);
    assert!(view > 0);
    t.on(R2).join();
    t.run();
    assert_eq!((t.view(R2), t.log_view(R2), t.syncing(R2)), (t.view(A0), t.log_view(A0), None));
    assert!(t.view(R2) >= view && t.cluster.repairs_total().syncs >= 1);
    t.finish();
}

#[test]
fn sync_cut_off_in_the_middle_takes_over_a_newer_checkpoint() {
    let (mut t, rule) = syncing();
    let before = t.syncing(R2).expect("it is taking one over");
    t.on(R2).cut(Both);
    t.request(200);
    t.end(rule);
    t.on(R2).join();
    t.run();
    assert!(t.checkpoint(R2) > before + 64);
    assert!(t.cluster.repairs_total().syncs >= 2);
    assert_eq!((t.syncing(R2), t.to_repair(R2)), (None, 0));
    t.finish();
}

#[test]
fn sync_killed_in_the_middle_knows_that_it_is_not_complete() {
    let (mut t, rule) = syncing();
    let op = t.syncing(R2);
    for _ in 0..3 {
        t.on(R2).restart();
        t.run_for(500);
        assert_eq!(t.syncing(R2), op);
        assert!(!t.is_whole(R2));
    }
    t.end(rule);
    t.run();
    assert_eq!(t.syncing(R2), None);
    assert!(t.is_whole(R2));
    t.finish();
}

#[test]
fn sync_messages_lost_are_said_again() {
    for (command, from, to) in [
        (RequestBlocks::CODE, R2, R_),
        (Block::CODE, R_, R2),
        (StartView::CODE, R_, R2),
        (Prepare::CODE, R_, R2),
    ] {
        let mut t = small();
        t.request(5);
        t.on(R2).stop();
        t.request(150);
        t.rule(Rule::drop(command).times(3), from, to);
        t.on(R2).start();
        t.run_until("it has the checkpoint", |t| t.commit(R2) > 0 && t.syncing(R2).is_none());
        t.run();
        assert_eq!((t.commit(R_), t.to_repair(R_)), (157, 0));
        t.finish();
    }
}

#[test]
fn checkpoint_new_primary_too_far_behind_lets_another_lead() {
    let mut t = small();
    t.request(5);
    t.on(R1).cut(Both);
    t.request(200);
    t.run_until("the other has all", |t| t.has(R2, 207));
    t.on(R0).stop();
    t.on(R1).join();
    t.request(3);
    assert_eq!((t.by_index(A0), t.view(A0)), (R2, 2));
    t.run();
    assert_eq!((t.commit(R1), t.syncing(R1)), (t.commit(R2), None));
    t.finish();
}

#[test]
fn checkpoint_of_the_primary_while_a_backup_dies() {
    let mut t = small();
    t.request(29);
    t.run();
    assert_eq!(t.op(R_), 31);
    t.on(R1).slow_writes(300);
    t.request(4);
    t.on(R1).stop();
    t.run_until("the primary has its checkpoint", |t| t.checkpoint(R0) == 32);
    t.on(R1).slow_writes(0);
    t.on(R1).start();
    assert_eq!(t.checkpoint(R1), 0);
    t.request(40);
    t.run();
    assert_eq!((t.checkpoint(R_), t.to_repair(R_)), (64, 0));
    t.finish();
}

#[test]
fn checkpoint_of_one_of_two_is_late() {
    let mut t = Scenario::with(2, |options| options.slots = 64);
    t.on(R1).fill(true);
    t.request(50);
    t.run_until("the primary has its checkpoint", |t| t.checkpoint(R0) == 32);
    assert_eq!(t.checkpoint(R1), 0);
    t.on(R1).restart();
    // What the other may not acknowledge is not committed.
    t.ask(C0, 20);
    t.run_for(5000);
    assert_eq!((t.checkpoint(R1), t.commit_max(R0)), (0, 56));
    t.on(R1).fill(false);
    t.request(40);
    t.run();
    assert_eq!((t.answered(C0), t.checkpoint(R_)), (110, 96));
    t.finish();
}

#[test]
fn checkpoint_late_backup_neither_writes_nor_acknowledges_beyond_it() {
    let mut t = small();
    t.on(R2).fill(true);
    t.record();
    let rule = t.rule(Rule::drop(StartView::CODE), R_, R2);
    t.request(100);
    t.run_for(2000);
    assert_eq!((t.checkpoint(R2), t.commit(R0)), (0, 102));
    assert!(t.op(R2) <= 64);
    let oks = t.recorded(PrepareOk::CODE, R2, R_);
    let ops = oks.iter().filter_map(|packet| match packet.header.command {
        Command::PrepareOk(ok) => Some(ok.prepare.op),
        _ => None,
    });
    assert_eq!(ops.max(), Some(56));
    t.end(rule);
    t.on(R2).fill(false);
    t.run();
    assert_eq!((t.commit(R2), t.to_repair(R2)), (102, 0));
    t.finish();
}

#[test]
fn blocks_rotten_on_a_dead_replica_come_from_the_others() {
    let mut t = small();
    t.request(100);
    t.run();
    t.on(R2).stop();
    t.on(R2).corrupt(Target::Blocks);
    t.on(R2).start();
    t.request(50);
    t.run();
    t.run_until("all of it is there again", |t| t.is_whole(R2));
    assert!(t.cluster.repairs_total().blocks > 0);
    t.finish();
}

/// Every replica has lost blocks, and no block all of its copies: roots and what leads to others
/// are among them.
#[test]
fn blocks_rotten_on_all_replicas_each_on_one_come_from_the_others() {
    let mut t = small();
    t.request(100);
    t.run();
    for who in [R0, R1, R2] {
        t.on(who).stop();
    }
    for (who, rest) in [R0, R1, R2].into_iter().zip(0..) {
        t.on(who).corrupt(Target::BlocksThird(rest));
        assert!(!t.is_whole(who));
    }
    t.on(R_).start();
    t.request(50);
    t.run();
    for who in [R0, R1, R2] {
        t.run_until("all of it is there again", |t| t.is_whole(who));
    }
    t.finish();
}

#[test]
fn blocks_rotten_at_rest_are_found_by_scrubbing() {
    let mut t = small();
    t.request(100);
    t.run();
    // Nobody asks for anything, and nobody is started: only a look at each block finds it.
    for who in [R0, R1] {
        t.on(who).corrupt(Target::Blocks);
        assert!(!t.is_whole(who));
        t.run_until("it is found and repaired", |t| t.is_whole(who));
    }
    t.finish();
}

#[test]
fn blocks_with_a_stored_reply_rotten_on_all_but_one_answer_all_the_same() {
    let mut t = small();
    t.push(C0, Step::Register);
    t.run();
    // The answer is lost, and what is left of it lies in a checkpoint when all restart.
    t.rule(Rule::drop(Reply::CODE), R_, C0);
    t.ask(C0, 1);
    t.ask(C1, 100);
    t.run_until("others were answered", |t| t.commit(R0) >= 100);
    t.run_for(1000);
    for who in [R0, R1, R2] {
        t.on(who).stop();
    }
    t.on(R0).corrupt(Target::Blocks);
    t.on(R1).corrupt(Target::Blocks);
    t.on(R_).start();
    t.end_all();
    t.run();
    assert_eq!((t.answered(C0), t.answered(C1)), (1, 100));
    t.finish();
}
