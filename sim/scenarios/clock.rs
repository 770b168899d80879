//! Clocks: they decide nothing, and one that is wrong changes nothing.

use super::CallResult;
use super::dsl::*;

const YEAR: i64 = 365 * 24 * 3600;

fn timestamps(t: &mut Scenario) -> Vec<u64> {
    let done = |result| match result {
        CallResult::Done(done) => done.timestamp,
        other => panic!("{other:?}"),
    };
    t.results(C0).into_iter().map(done).collect()
}

fn assert_increase(timestamps: &[u64]) {
    assert!(timestamps.windows(2).all(|pair| pair[0] < pair[1]), "{timestamps:?}");
}

#[test]
fn clock_one_far_ahead_poisons_no_timestamp() {
    for index in 0..3 {
        let mut t = Scenario::new(3);
        t.run_for(5000);
        t.request(3);
        t.on(Who::R(index)).jump_clock(170 * YEAR);
        t.run_for(5000);
        t.request(3);
        t.on(R0).stop();
        t.request(3);
        t.run_for(5000);
        t.request(3);
        let all = timestamps(&mut t);
        assert_increase(&all);
        assert!(all[11] - all[0] < 60_000_000_000, "{all:?}");
        t.finish();
    }
}

#[test]
fn clock_all_go_back_timestamps_do_not() {
    let mut t = Scenario::new(3);
    t.run_for(5000);
    t.request(3);
    t.on(R_).jump_clock(-YEAR);
    t.request(3);
    t.run_for(5000);
    t.request(3);
    t.on(R0).stop();
    t.request(3);
    let all = timestamps(&mut t);
    assert_increase(&all);
    assert!(all[11] - all[0] < 60_000_000_000, "{all:?}");
    t.finish();
}

#[test]
fn clock_without_agreement_the_cluster_is_available() {
    let mut t = Scenario::new(3);
    t.on(R0).jump_clock(YEAR);
    t.on(R1).jump_clock(-YEAR);
    // What they agreed on before holds for a minute.
    t.run_for(70_000);
    assert!(!t.report(R0).clock_synchronized);
    t.request(5);
    t.on(R0).stop();
    t.request(5);
    let all = timestamps(&mut t);
    assert_increase(&all);
    t.finish();
}

#[test]
fn clock_agreed_is_the_time_of_the_majority() {
    let mut t = Scenario::new(3);
    t.run_for(20_000);
    assert!(t.report(R0).clock_synchronized);
    t.on(R0).jump_clock(3600);
    t.run_for(20_000);
    t.request(2);
    let offset = t.report(R0).clock_offset_ns;
    assert!((-3_601_000_000_000..-3_599_000_000_000).contains(&offset), "{offset}");
    t.finish();
}
