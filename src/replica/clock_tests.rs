//! Tests of the cluster clock: a cluster of clocks in a world whose true time is known.

use super::*;
use crate::stdx::Prng;

const MS: u64 = 1_000_000;
const SECOND: u64 = 1000 * MS;
/// In November 2026.
const TRUE_REALTIME: u64 = 1_795_000_000 * SECOND;
/// About 174 years.
const TO_YEAR_2200: i64 = 5_490_000_000 * 1_000_000_000;

/// The clocks of a cluster. All monotonic clocks are the true time plus a start of their own.
struct World {
    now_ns: u64,
    /// Wall clock minus true time, by replica.
    wrong_ns: Vec<i64>,
    /// Whether a replica answers.
    up: Vec<bool>,
    clocks: Vec<ClusterClock>,
    prng: Prng,
    delay_ns_max: u64,
}

impl World {
    fn new(wrong_ns: &[i64]) -> Self {
        let count = u8::try_from(wrong_ns.len()).unwrap();
        let clock = |own| ClusterClock::new(count, ReplicaIndex(own), count / 2 + 1);
        Self {
            now_ns: 0,
            wrong_ns: wrong_ns.to_vec(),
            up: vec![true; wrong_ns.len()],
            clocks: (0..count).map(clock).collect(),
            prng: Prng::from_seed(47),
            delay_ns_max: 2 * MS,
        }
    }

    fn monotonic(&self, replica: usize) -> u64 {
        self.now_ns + 1000 * SECOND * replica as u64
    }

    fn realtime(&self, replica: usize) -> u64 {
        (TRUE_REALTIME + self.now_ns).saturating_add_signed(self.wrong_ns[replica])
    }

    /// Runs the clocks for `seconds`, a round of pings in each.
    fn run(&mut self, seconds: u64) {
        for _ in 0..seconds {
            for replica in 0..self.clocks.len() {
                self.round_of(replica);
            }
            self.now_ns += SECOND / 2;
        }
    }

    /// One replica pings all others; true time moves on while the messages travel.
    fn round_of(&mut self, replica: usize) {
        let (monotonic, realtime) = (self.monotonic(replica), self.realtime(replica));
        self.clocks[replica].tick(monotonic, realtime);
        for other in 0..self.clocks.len() {
            if other == replica || !self.up[other] || !self.up[replica] {
                continue;
            }
            let ping = self.monotonic(replica);
            self.now_ns += self.prng.range_inclusive(0, self.delay_ns_max);
            let theirs = self.realtime(other);
            self.now_ns += self.prng.range_inclusive(0, self.delay_ns_max);
            let now = self.monotonic(replica);
            let from = ReplicaIndex(u8::try_from(other).unwrap());
            self.clocks[replica].on_pong(from, ping, theirs, now);
        }
        let (monotonic, realtime) = (self.monotonic(replica), self.realtime(replica));
        self.clocks[replica].tick(monotonic, realtime);
    }

    /// The synchronized time of `replica` minus the true time, ns.
    fn error(&self, replica: usize) -> Option<i64> {
        let (monotonic, realtime) = (self.monotonic(replica), self.realtime(replica));
        let synchronized = self.clocks[replica].realtime_synchronized(monotonic, realtime)?;
        assert!(self.clocks[replica].offset(monotonic, realtime).is_some());
        let error = i128::from(synchronized) - i128::from(TRUE_REALTIME + self.now_ns);
        Some(i64::try_from(error).unwrap())
    }

    fn assert_all_within(&self, bound_ns: u64) {
        for replica in 0..self.clocks.len() {
            let error = self.error(replica).expect("synchronized");
            assert!(error.unsigned_abs() <= bound_ns, "replica {replica}: {error}");
        }
    }
}

#[test]
fn good_clocks_agree_at_once_and_stay() {
    for count in 2..=6 {
        let mut world = World::new(&vec![0; count]);
        assert!((0..count).all(|replica| world.error(replica).is_none()));
        world.run(1);
        world.assert_all_within(10 * MS);
        for _ in 0..200 {
            world.run(1);
            world.assert_all_within(10 * MS);
        }
    }
}

#[test]
fn one_replica_has_its_own_clock() {
    let mut world = World::new(&[TO_YEAR_2200]);
    world.run(1);
    assert_eq!(world.error(0), Some(TO_YEAR_2200));
    assert_eq!(world.clocks[0].offset(0, 0), Some(0));
}

#[test]
fn the_year_2200_is_outvoted_everywhere() {
    for liar in 0..3 {
        for wrong_ns in [TO_YEAR_2200, -TO_YEAR_2200, i64::MAX, 3600 * 1_000_000_000] {
            let mut wrong = vec![0, 3_000_000, -3_000_000];
            wrong[liar] = wrong_ns;
            let mut world = World::new(&wrong);
            for _ in 0..100 {
                world.run(1);
                world.assert_all_within(20 * MS);
            }
            let (monotonic, realtime) = (world.monotonic(liar), world.realtime(liar));
            let offset = world.clocks[liar].offset(monotonic, realtime).unwrap();
            let error = i128::from(realtime) + i128::from(offset)
                - i128::from(TRUE_REALTIME + world.now_ns);
            assert!(error.unsigned_abs() < u128::from(20 * MS), "{error}");
        }
    }
}

#[test]
fn clocks_that_all_differ_agree_on_nothing() {
    let hour = 3600 * 1_000_000_000;
    let mut world = World::new(&[0, hour, TO_YEAR_2200]);
    world.run(100);
    assert!((0..3).all(|replica| world.error(replica).is_none()));
    // Two of five are no majority.
    let mut world = World::new(&[0, 0, hour, 2 * hour, 3 * hour]);
    world.run(100);
    assert!((0..5).all(|replica| world.error(replica).is_none()));
    let mut world = World::new(&[0, hour]);
    world.run(100);
    assert!((0..2).all(|replica| world.error(replica).is_none()));
    // It comes back by itself when the clocks are set right.
    world.wrong_ns = vec![0, 0];
    world.run(25);
    world.assert_all_within(10 * MS);
}

#[test]
fn clocks_seconds_apart_agree_on_the_middle() {
    let mut world = World::new(&[0, 8_000_000_000]);
    world.run(10);
    for replica in 0..2 {
        let error = world.error(replica).unwrap();
        assert!((2_900_000_000..=5_100_000_000).contains(&error), "{error}");
    }
}

#[test]
fn a_jump_moves_nothing_and_is_outvoted() {
    for jump_ns in [-TO_YEAR_2200 / 10, -60_000_000_000, 60_000_000_000, TO_YEAR_2200] {
        for jumper in 0..3 {
            let mut world = World::new(&[0, 0, 0]);
            world.run(10);
            world.wrong_ns[jumper] = jump_ns;
            for _ in 0..100 {
                world.assert_all_within(50 * MS);
                world.run(1);
            }
            world.wrong_ns[jumper] = 0;
            for _ in 0..30 {
                world.assert_all_within(50 * MS);
                world.run(1);
            }
        }
    }
}

#[test]
fn an_agreement_expires_without_a_majority() {
    let mut world = World::new(&[0, 0, 0]);
    world.run(10);
    world.up = vec![true, false, false];
    world.run(40);
    assert!(world.error(0).is_some());
    world.run(100);
    assert_eq!(world.error(0), None);
    world.up = vec![true, true, false];
    world.run(25);
    assert!(world.error(0).unwrap().unsigned_abs() < 10 * MS);
    assert!(world.error(1).unwrap().unsigned_abs() < 10 * MS);
}

#[test]
fn an_asymmetric_path_errs_by_half_a_round_trip_at_most() {
    for (there_ns, back_ns) in [(0, 200 * MS), (200 * MS, 0), (0, 0), (1, 0), (15 * SECOND, 0)] {
        let mut clock = ClusterClock::new(3, ReplicaIndex(0), 2);
        // The own clock is right, and so is the peer's: both in true time.
        clock.tick(0, TRUE_REALTIME);
        let theirs = TRUE_REALTIME + there_ns;
        let now = there_ns + back_ns;
        assert!(clock.on_pong(ReplicaIndex(1), 0, theirs, now));
        clock.tick(now, TRUE_REALTIME + now);
        let synchronized = clock.realtime_synchronized(now, TRUE_REALTIME + now).unwrap();
        let error = synchronized.abs_diff(TRUE_REALTIME + now);
        assert!(error <= now.div_ceil(2), "{there_ns} {back_ns}: {error}");
        // And a tick at the same moment changes nothing.
        clock.tick(now, TRUE_REALTIME + now);
        let again = clock.realtime_synchronized(now, TRUE_REALTIME + now);
        assert_eq!(again, Some(synchronized));
    }
}

#[test]
fn a_symmetric_path_is_measured_exactly() {
    let hour = 3600 * SECOND;
    let mut clock = ClusterClock::new(3, ReplicaIndex(0), 2);
    clock.tick(0, TRUE_REALTIME - hour);
    for from in [1, 2] {
        let theirs = TRUE_REALTIME + 100 * MS;
        assert!(clock.on_pong(ReplicaIndex(from), 0, theirs, 200 * MS));
    }
    let (now, realtime) = (200 * MS, TRUE_REALTIME - hour + 200 * MS);
    clock.tick(now, realtime);
    assert_eq!(clock.offset(now, realtime), Some(i64::try_from(hour).unwrap()));
    // Moved into the agreed interval, and no further: its end that is nearer to the own clock.
    let synchronized = clock.realtime_synchronized(now, realtime);
    assert_eq!(synchronized, Some(TRUE_REALTIME + 200 * MS - 100 * MS));
}

#[test]
fn the_quickest_answer_of_the_window_counts() {
    let mut clock = ClusterClock::new(3, ReplicaIndex(0), 2);
    assert!(!clock.on_pong(ReplicaIndex(1), 0, 0, 0));
    clock.tick(SECOND, TRUE_REALTIME);
    // Its ping is older than the window, or from the future; nobody we know; ourselves.
    assert!(!clock.on_pong(ReplicaIndex(1), SECOND - 1, TRUE_REALTIME, SECOND + 1));
    assert!(!clock.on_pong(ReplicaIndex(1), SECOND + 2, TRUE_REALTIME, SECOND + 1));
    assert!(!clock.on_pong(ReplicaIndex(3), SECOND, TRUE_REALTIME, SECOND + 1));
    assert!(!clock.on_pong(ReplicaIndex(0), SECOND, TRUE_REALTIME, SECOND + 1));
    assert!(clock.on_pong(ReplicaIndex(1), SECOND, TRUE_REALTIME, SECOND + 10 * MS));
    assert!(!clock.on_pong(ReplicaIndex(1), SECOND, TRUE_REALTIME, SECOND + 11 * MS));
    let later = SECOND + 20 * MS;
    assert!(clock.on_pong(ReplicaIndex(1), later, TRUE_REALTIME + 20 * MS, later));
    clock.tick(later, TRUE_REALTIME + 20 * MS);
    assert_eq!(clock.offset(later, TRUE_REALTIME + 20 * MS), Some(0));
}

#[test]
fn any_answers_do_not_panic() {
    let mut prng = Prng::from_seed(53);
    for _ in 0..200 {
        let count = u8::try_from(prng.range_inclusive(1, 6)).unwrap();
        let own = ReplicaIndex(u8::try_from(prng.below(u64::from(count))).unwrap());
        let mut clock = ClusterClock::new(count, own, count / 2 + 1);
        let edges = [0, 1, TRUE_REALTIME, u64::MAX - 1, u64::MAX];
        let mut now = [0, u64::MAX / 2][prng.index(2)];
        for _ in 0..200 {
            now += prng.below(SECOND);
            let realtime = edges[prng.index(5)];
            clock.tick(now, realtime);
            let from = ReplicaIndex(u8::try_from(prng.below(256)).unwrap());
            let ping = [0, now, now - prng.below(now.min(SECOND) + 1), u64::MAX][prng.index(4)];
            clock.on_pong(from, ping, edges[prng.index(5)], now);
            clock.offset(now, realtime);
            clock.realtime_synchronized(now, realtime);
        }
    }
}

#[test]
fn timestamps_increase_strictly_and_never_follow_an_unconfirmed_clock() {
    // Agreed: that time; or the least allowed, if that is behind.
    assert_eq!(timestamp_next(100, 0, 5, Some(1000)), 1000);
    assert_eq!(timestamp_next(100, 0, 5, Some(50)), 100);
    // Not agreed: the previous and what passed.
    assert_eq!(timestamp_next(100, 10, 15, None), 105);
    assert_eq!(timestamp_next(0, 10, 10, None), 1);
    assert_eq!(timestamp_next(u64::MAX - 1, 0, 5, None), u64::MAX);

    let mut prng = Prng::from_seed(59);
    let (mut previous_end, mut previous, mut now) = (0, 0, 0);
    for _ in 0..10_000 {
        now += prng.below(10);
        let agreed = (prng.below(2) == 0).then(|| prng.below(20_000));
        let timestamp = timestamp_next(previous_end, previous, now, agreed);
        assert!(timestamp >= previous_end && timestamp > 0);
        assert!(agreed.is_some() || timestamp - previous_end <= (now - previous).max(1));
        previous_end = timestamp + prng.range_inclusive(1, 5);
        previous = now;
    }
}

#[test]
fn a_window_takes_the_place_of_the_last_one_when_it_is_long_enough() {
    let mut clock = ClusterClock::new(3, ReplicaIndex(0), 2);
    let realtime = |now: u64| TRUE_REALTIME + now;
    clock.tick(0, realtime(0));
    assert!(clock.on_pong(ReplicaIndex(1), 0, realtime(0), 0));
    clock.tick(MS, realtime(MS));
    let offset = |clock: &ClusterClock, now: u64| clock.offset(now, realtime(now)).unwrap();
    assert_eq!(offset(&clock, MS), 0);
    // The other one's clock is put forward.
    let ahead = 2 * MS;
    assert!(clock.on_pong(ReplicaIndex(1), MS, realtime(MS) + ahead, MS));
    let due = MS + WINDOW_NS_MIN;
    for now in [2 * MS, due - 1] {
        clock.tick(now, realtime(now));
        assert_eq!(offset(&clock, now), 0);
    }
    clock.tick(due, realtime(due));
    assert!((1..=ahead).contains(&offset(&clock, due).unsigned_abs()));
}
