//! Disks that lie: damage of every kind at every place that others can make good, and damage that
//! nobody can, which must not be hidden.

use super::dsl::*;
use super::script::{Packet, Step};
use super::{Call, CallResult, Survives, Target};
use bytes::Bytes;
use vsr::replica::Status;
use vsr::wire::Request;

/// Damages replica 2 while it is dead, and lets it come back to an idle cluster.
fn damage_of_one(damage: impl FnOnce(&mut Scenario)) -> Scenario {
    let mut t = Scenario::new(3);
    t.request(10);
    t.run();
    t.on(R2).stop();
    damage(&mut t);
    t.on(R2).start();
    t
}

fn is_repaired(mut t: Scenario) {
    t.run();
    assert_eq!((t.view(R_), t.op(R_), t.commit(R_), t.to_repair(R_)), (0, 12, 12, 0));
    assert_eq!(t.report(R2).journal_faulty, 0);
    t.finish();
}

#[test]
fn disk_prepare_damaged_left_of_the_head_is_fetched() {
    for target in [Target::Prepare(5), Target::Body(5)] {
        let t = damage_of_one(|t| t.on(R2).corrupt(target));
        // The head is certain: it takes part at once.
        assert_eq!((t.status(R2), t.to_repair(R2)), (Status::Normal, 1));
        is_repaired(t);
    }
}

#[test]
fn disk_prepare_unreadable_is_fetched() {
    let t = damage_of_one(|t| t.on(R2).lose_sector(Target::Prepare(5)));
    assert_eq!((t.status(R2), t.to_repair(R2)), (Status::Normal, 1));
    is_repaired(t);
}

#[test]
fn disk_genesis_damaged_is_fetched() {
    is_repaired(damage_of_one(|t| t.on(R2).corrupt(Target::Prepare(1))));
}

#[test]
fn disk_head_damaged_waits_for_a_start_view() {
    let t = damage_of_one(|t| t.on(R2).corrupt(Target::Prepare(12)));
    assert_eq!(t.status(R2), Status::RecoveringHead);
    is_repaired(t);
}

#[test]
fn disk_slot_right_of_the_head_damaged_waits_for_a_start_view() {
    let t = damage_of_one(|t| t.on(R2).corrupt(Target::Header(20)));
    assert_eq!(t.status(R2), Status::RecoveringHead);
    is_repaired(t);
}

#[test]
fn disk_redundant_header_damaged_is_fetched() {
    is_repaired(damage_of_one(|t| t.on(R2).corrupt(Target::Header(5))));
}

#[test]
fn disk_sector_of_headers_damaged_is_fetched() {
    is_repaired(damage_of_one(|t| t.on(R2).corrupt(Target::HeaderSector(5))));
}

#[test]
fn disk_sector_of_headers_unreadable_is_fetched() {
    is_repaired(damage_of_one(|t| t.on(R2).lose_sector(Target::HeaderSector(5))));
}

#[test]
fn disk_both_rings_damaged_are_fetched() {
    is_repaired(damage_of_one(|t| {
        t.on(R2).corrupt(Target::Prepare(5));
        t.on(R2).corrupt(Target::Header(5));
    }));
}

#[test]
fn disk_write_lost_is_noticed_and_fetched() {
    let mut t = Scenario::new(3);
    let before = t.on(R2).image();
    t.request(10);
    t.run();
    t.on(R2).stop();
    t.on(R2).lose_prepare_write(5, &before);
    t.on(R2).start();
    assert_eq!(t.to_repair(R2), 1);
    is_repaired(t);
}

#[test]
fn disk_write_misdirected_is_noticed_and_both_are_fetched() {
    let mut t = Scenario::new(3);
    let before = t.on(R2).image();
    t.request(10);
    t.run();
    t.on(R2).stop();
    t.on(R2).misdirect_prepare_write(5, 8, &before);
    t.on(R2).start();
    assert_eq!(t.to_repair(R2), 2);
    is_repaired(t);
}

#[test]
fn disk_damage_on_all_at_different_places_is_repaired() {
    let mut t = Scenario::new(3);
    t.request(20);
    t.run();
    t.on(R_).stop();
    for op in 1..=21 {
        let index = usize::try_from(op % 3).expect("small");
        t.on(Who::R(index)).corrupt(Target::Prepare(op));
    }
    t.on(R_).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (22, 22, 0));
    t.finish();
}

#[test]
fn disk_one_good_copy_is_enough() {
    let mut t = Scenario::new(5);
    t.request(10);
    t.run();
    t.on(R_).stop();
    for op in 2..=11 {
        let keeper = usize::try_from(op % 5).expect("small");
        for index in (0..5).filter(|index| *index != keeper) {
            t.on(Who::R(index)).corrupt(Target::Body(op));
        }
    }
    t.on(R_).start();
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.to_repair(R_)), (12, 12, 0));
    t.finish();
}

#[test]
fn disk_acknowledged_op_damaged_is_waited_for() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    // Answered by replicas 0 and 1; then 1 has lost it, and 2 never had it.
    t.on(R2).cut(Both);
    t.request(1);
    t.run_until("a backup has it", |t| t.has(R1, 4));
    t.on(R_).stop();
    t.on(R2).join();
    t.on(R1).corrupt(Target::Prepare(4));
    t.on(R1).start();
    t.on(R2).start();
    t.run_for(5000);
    assert_eq!((t.status(R1), t.op(R2), t.log_view(R2)), (Status::RecoveringHead, 3, 0));
    t.on(R0).start();
    t.run();
    assert_eq!((t.commit(R_), t.to_repair(R_)), (4, 0));
    t.finish();
}

#[test]
fn disk_acknowledged_op_damaged_everywhere_stops_the_cluster() {
    let mut t = Scenario::new(3);
    t.request(1);
    t.run();
    t.on(R2).cut(Both);
    t.request(1);
    t.run_until("a backup has it", |t| t.has(R1, 4));
    t.on(R_).stop();
    t.on(R0).corrupt(Target::Prepare(4));
    t.on(R1).corrupt(Target::Prepare(4));
    t.on(R_).start();
    t.run_for(5000);
    assert_eq!((t.status(R0), t.status(R1)), (Status::RecoveringHead, Status::RecoveringHead));
    t.finish_stuck();
}

#[test]
fn disk_committed_op_lost_everywhere_stops_the_cluster() {
    let mut t = Scenario::new(3);
    t.request(5);
    t.run();
    t.on(R_).stop();
    t.on(R_).corrupt(Target::Prepare(4));
    t.on(R_).start();
    t.run_for(5000);
    // What is before it is there; nothing behind it is executed without it.
    assert!([R0, R1, R2].iter().all(|who| t.commit(*who) <= 3));
    t.finish_stuck();
}

#[test]
fn disk_superblock_copies_damaged_are_repaired() {
    for copy in 0..4 {
        is_repaired(damage_of_one(|t| t.on(R2).corrupt(Target::Superblock(copy))));
    }
}

#[test]
fn disk_superblock_lost_is_refused() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).stop();
    for copy in 0..4 {
        t.on(R2).corrupt(Target::Superblock(copy));
    }
    t.on(R2).refuses_to_start("superblock");
    t.finish();
}

#[test]
fn disk_of_one_backup_slow_slows_nobody() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).slow_writes(3000);
    let before = t.cluster.now();
    t.request(20);
    assert!(t.cluster.now() - before < 1_000_000_000);
    t.run_for(2000);
    assert_eq!((t.view(R_), t.commit(R0), t.commit(R1)), (0, 24, 24));
    t.on(R2).slow_writes(0);
    t.finish();
}

#[test]
fn disk_old_image_is_behind_and_catches_up() {
    // A disk that lost all its writes of one moment on: nothing of it was acknowledged alone.
    let mut t = Scenario::new(5);
    t.request(3);
    t.run();
    let before = t.on(Who::R(4)).image();
    t.on(Who::R(4)).cut(Both);
    t.request(10);
    t.on(Who::R(4)).stop();
    t.on(Who::R(4)).restore(&before);
    t.on(Who::R(4)).join();
    t.on(Who::R(4)).start();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, 15, 0));
    t.finish();
}

#[test]
fn disk_torn_prepare_is_cut_and_not_taken_for_rot() {
    for survives in [Survives::Nothing, Survives::PrepareTails, Survives::Prepares, Survives::All] {
        let mut t = Scenario::with(3, |options| options.message_size = 8192);
        t.request(5);
        t.run();
        t.on(R2).slow_writes(1000);
        t.ask(C0, 1);
        let is_writing = |t: &Scenario| t.cluster.world.borrow().disks[2].writes_in_flight() > 0;
        t.run_until("it is written", is_writing);
        t.on(R2).stop_leaving(survives);
        t.on(R2).start();
        t.on(R2).slow_writes(0);
        assert_eq!((t.status(R2), t.report(R2).journal_faulty), (Status::Normal, 0));
        t.run();
        assert_eq!((t.view(R_), t.commit(R_), t.to_repair(R_)), (0, 8, 0));
        t.finish();
    }
}

/// Nobody has room for a checkpoint, and the log is full: both clients have a session, and have
/// been answered.
fn full() -> Scenario {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.on(R_).fill(true);
    t.ask(C1, 1);
    t.run();
    t.ask(C0, 1);
    t.run();
    t.request(64 - 8 - t.op(R_));
    t.run();
    assert_eq!((t.op(R_), t.commit(R_), t.checkpoint(R_)), (56, 56, 0));
    t
}

/// There is room again.
fn is_emptied(mut t: Scenario) {
    t.on(R_).fill(false);
    t.run_until("the checkpoint is durable", |t| t.checkpoint(R0) == 32);
    t.finish();
}

#[test]
fn disk_full_refuses_writes_by_name_and_goes_on_reading() {
    let mut t = full();
    t.query(C1);
    t.run();
    t.ask(C0, 1);
    t.run();
    assert_eq!(t.results(C0).last(), Some(&CallResult::NotDone));
    t.query(C1);
    t.run();
    assert_eq!((t.answered(C1), t.op(R_), t.view(R_)), (3, 56, 0));
    is_emptied(t);
}

#[test]
fn disk_full_of_one_backup_stops_nobody() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.on(R2).fill(true);
    t.request(150);
    assert!(t.checkpoint(R0) >= 96);
    t.on(R2).fill(false);
    t.run();
    assert!(t.checkpoint(R2) >= 96);
    t.finish();
}

#[test]
fn disk_full_of_the_primary_alone_writes_go_on_under_another() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.on(R0).fill(true);
    t.request(200);
    assert!(!t.results(C0).contains(&CallResult::NotDone));
    assert!(t.checkpoint(R1) >= 160);
    assert_eq!((t.view(R_), t.has_at_least(R0, 64)), (1, false));
    t.on(R0).fill(false);
    t.run();
    assert!(t.has_at_least(R0, 160));
    t.finish();
}

#[test]
fn disk_full_of_the_next_primary_too_writes_go_on_under_the_one_after() {
    let mut t = Scenario::with(5, |options| options.slots = 64);
    t.on(R0).fill(true);
    t.on(R1).fill(true);
    t.request(200);
    assert!(!t.results(C0).contains(&CallResult::NotDone));
    t.run_for(20_000);
    assert_eq!(t.view(R_), 2, "views come to an end");
    for who in [R0, R1] {
        t.on(who).fill(false);
    }
    t.run();
    assert!(t.has_at_least(R_, 160));
    t.finish();
}

#[test]
fn disk_full_of_two_of_three_the_refusal_stands_and_the_primary_too() {
    let mut t = Scenario::with(3, |options| options.slots = 64);
    t.on(R0).fill(true);
    t.on(R1).fill(true);
    t.ask(C1, 1);
    t.run();
    t.ask(C0, 1);
    t.run();
    t.request(64 - 8 - t.op(R_));
    t.ask(C0, 1);
    t.run();
    assert_eq!(t.results(C0).last(), Some(&CallResult::NotDone));
    t.query(C1);
    t.run();
    assert_eq!(t.answered(C1), 2);
    t.run_for(20_000);
    assert_eq!((t.view(R_), t.op(R_)), (0, 56));
    for who in [R0, R1] {
        t.on(who).fill(false);
    }
    t.run_until("the checkpoint is durable", |t| t.checkpoint(R0) == 32);
    t.finish();
}

#[test]
fn disk_full_and_primary_cut_off_no_read_is_answered() {
    let mut t = full();
    t.cut(A0, B_);
    t.cut(B_, A0);
    t.cut(C1, B_);
    t.cut(B_, C1);
    t.query(C1);
    t.run_for(3000);
    assert_eq!(t.answered(C1), 1);
    t.join(__, __);
    t.run();
    assert_eq!(t.answered(C1), 2);
    is_emptied(t);
}

#[test]
fn disk_full_request_refused_is_not_taken_when_a_copy_comes_late() {
    for fails_over in [false, true] {
        let mut t = full();
        t.record();
        t.push(C0, Step::Call { call: put(b"late"), is_query: false });
        t.run();
        assert_eq!(t.results(C0).last(), Some(&CallResult::NotDone));
        let copies = t.recorded(Request::CODE, C0, R0);
        // It waits a little for what the others say of their disks.
        assert!(!copies.is_empty());
        t.on(R_).fill(false);
        if fails_over {
            t.on(R0).pause();
            t.run_until("the next works", |t| t.is(R1, Status::Normal) && t.view(R1) == 1);
        }
        t.run_until("the checkpoint is durable", |t| t.checkpoint(R1) == 32);
        // The client has a new session; its connections take copies of the old one along.
        t.push(C0, Step::Call { call: put(b"next"), is_query: false });
        t.run_until("it is answered", |t| !t.cluster.is_client_busy(0));
        let head = t.op(A0);
        let to = t.resolve(A0)[0];
        let copies: Vec<_> = copies.into_iter().map(|copy| Packet { to, ..copy }).collect();
        assert_eq!(t.replay(&copies), copies.len());
        t.run_for(1000);
        assert_eq!(t.op(A0), head, "the copy was taken");
        if fails_over {
            t.on(R0).resume();
        }
        t.finish();
    }
}

fn put(value: &'static [u8]) -> Call {
    Call::Put { key: Bytes::from_static(b"k0"), value: Bytes::from_static(value) }
}
