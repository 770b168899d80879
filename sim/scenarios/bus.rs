//! Connections: streams that split, break and lie, and processes that stand still or die.

use super::dsl::*;
use crate::sim::options::Options;
use vsr::replica::Status;
use vsr::wire::StartViewChange;

fn is_served(tune: impl FnOnce(&mut Options)) {
    let mut t = Scenario::unborn_with(3, tune);
    t.request(40);
    t.ask(C1, 10);
    t.run();
    assert_eq!((t.answered(C0), t.answered(C1)), (40, 10));
    t.finish();
}

#[test]
fn bus_streams_in_small_pieces_lose_nothing() {
    is_served(|options| (options.short, options.window) = (1_000_000, 2));
}

#[test]
fn bus_edges_without_reason_change_nothing() {
    is_served(|options| options.spurious = 500_000);
}

#[test]
fn bus_resets_in_mid_frame_lose_only_what_was_under_way() {
    is_served(|options| options.reset = 30_000);
}

#[test]
fn bus_bits_flipped_cost_the_connection_only() {
    is_served(|options| options.corrupt = 10_000);
}

#[test]
fn bus_connects_that_fail_are_tried_again() {
    is_served(|options| {
        options.reset = 10_000;
        (options.refuse, options.unanswered, options.half_open) = (300_000, 30_000, 30_000);
        (options.accept_fail, options.accept_late) = (300_000, 500_000);
    });
}

#[test]
fn bus_frames_lost_and_overtaking_each_other_change_nothing() {
    is_served(|options| {
        (options.loss, options.reorder, options.duplicate) = (100_000, 1, 100_000);
        options.delay_mean = 5000;
    });
}

#[test]
fn bus_process_killed_takes_no_other_down() {
    for index in 0..5 {
        let mut t = Scenario::new(5);
        t.request(2);
        t.on(Who::R(index)).stop();
        t.request(2);
        t.run_for(1000);
        let lives: Vec<u32> = {
            let world = t.cluster.world.borrow();
            world.scheduler.processes[..5].iter().map(|process| process.life).collect()
        };
        assert_eq!(lives, [1; 5]);
        t.finish();
    }
}

#[test]
fn bus_backup_restarted_hears_its_primary_at_once() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.run();
    t.record();
    for who in [R1, R2] {
        t.on(who).restart();
        t.run_for(100);
        assert_eq!(t.commit(who), 4);
    }
    // Both at once: if each of them missed the primary, that would be votes enough.
    t.on(B_).restart();
    t.run_for(1000);
    assert_eq!((t.view(R_), t.commit(R_)), (0, 4));
    assert!(t.recorded(StartViewChange::CODE, __, __).is_empty(), "nobody missed the primary");
    t.finish();
}

#[test]
fn bus_backup_paused_catches_up() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R2).pause();
    t.request(30);
    t.run_for(5000);
    t.on(R2).resume();
    t.run();
    assert_eq!(t.commit(R_), 34);
    t.finish();
}

#[test]
fn bus_primary_paused_is_deposed_and_joins() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R0).pause();
    t.request(10);
    assert_eq!((t.view(R1), t.status(R1)), (1, Status::Normal));
    t.on(R0).resume();
    t.run();
    assert_eq!((t.view(R_), t.commit(R_)), (1, 14));
    t.finish();
}

#[test]
fn bus_all_paused_go_on() {
    let mut t = Scenario::new(3);
    t.request(2);
    t.on(R_).pause();
    t.ask(C0, 3);
    t.run_for(20_000);
    t.on(R_).resume();
    t.run();
    assert_eq!(t.answered(C0), 5);
    t.finish();
}
