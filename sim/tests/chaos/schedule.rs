//! What goes wrong, and when: drawn from the seed before anything runs.
//!
//! ```text
//!   seed ──► Plan { replicas, geometry, clients, which kinds of faults } ──► Step { at, action }
//!
//!   0 s      ├ kill 1 ┤   ├ hold 0→2 ┤        each fault has a beginning and an end, and they
//!              ├ pause 2    ┤      ├ rot 0    overlap as they are drawn
//! ```
//!
//! Rot only ever hits a minority that is drawn once: every acknowledged prepare is then whole on
//! somebody who was not hit. All else hits anybody, all at once too.
//!
//! **Invariants:** the same seed gives the same plan; every fault that is begun is also ended by
//! the plan, at the latest by the end of it.
//!
//! **Not here:** carrying it out (`run`); how the processes and the network interleave, which no
//! seed decides.

use std::fmt;
use std::time::Duration;
use vsr::stdx::Prng;
use vsr::storage::Geometry;

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// SIGKILL.
    Kill(Vec<usize>),
    Start(Vec<usize>),
    /// SIGSTOP, SIGCONT.
    Pause(usize),
    Resume(usize),
    /// SIGTERM and a start of all, one after the other.
    Rolling,
    /// What each of the first sends to each of the second is held.
    Hold(Vec<(usize, usize)>),
    /// The same goes on; if true, what was held is lost with its connections instead.
    Release(Vec<(usize, usize)>, bool),
    /// Connections between each pair are refused.
    Refuse(Vec<(usize, usize)>),
    Accept(Vec<(usize, usize)>),
    /// The clients' paths to a replica.
    HoldClients(usize),
    ReleaseClients(usize),
    /// Each piece takes so many milliseconds longer.
    Delay(Vec<(usize, usize)>, u64),
    /// Connections are reset.
    Reset(Vec<(usize, usize)>),
    ResetClients(usize),
    /// A bit is flipped in each of so many pieces.
    Corrupt(usize, usize, u32),
    CorruptClients(usize, u32),
    /// A stopped replica's file rots in so many places, and it is started.
    Rot(usize, u32, u64),
    /// The disk is filled up, and has room again.
    Fill(usize),
    Empty(usize),
    /// The power fails: what was not flushed is gone. They start again.
    PowerLoss(Vec<usize>, u64),
    /// A wall clock is so many seconds off.
    Clock(usize, i64),
}

/// An action and its time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// Since the beginning of the plan.
    pub(crate) at: Duration,
    pub(crate) action: Action,
}

/// A run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) replica_count: usize,
    pub(crate) geometry: Geometry,
    pub(crate) clients: usize,
    pub(crate) value_size: usize,
    pub(crate) duration: Duration,
    pub(crate) steps: Vec<Step>,
}

/// The kinds of faults.
const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::KillMany,
    Kind::Pause,
    Kind::Rolling,
    Kind::Partition,
    Kind::OneWay,
    Kind::Clients,
    Kind::Delay,
    Kind::Reset,
    Kind::Corrupt,
    Kind::Rot,
    Kind::Disk,
    Kind::Clock,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Kill,
    KillMany,
    Pause,
    Rolling,
    Partition,
    OneWay,
    Clients,
    Delay,
    Reset,
    Corrupt,
    Rot,
    Disk,
    Clock,
}

/// The longest that one fault lasts, ms.
const FAULT_MS_MAX: u64 = 5000;
/// From the beginning of one fault to that of the next, ms, at most.
const GAP_MS_MAX: u64 = 1200;

impl Plan {
    /// The plan of `seed`, which takes `duration`.
    pub(crate) fn draw(seed: u64, replica_count: usize, duration: Duration) -> Self {
        let mut prng = Prng::from_seed(seed);
        let small = |values: &[u32], prng: &mut Prng| values[prng.index(values.len())];
        let geometry = Geometry {
            message_size: small(&[8 << 10, 16 << 10, 32 << 10], &mut prng),
            journal_slots: small(&[64, 64, 128, 256], &mut prng),
            block_size: small(&[4096, 4096, 8192], &mut prng),
            pipeline: small(&[1, 4, 8], &mut prng),
            clients_max: small(&[32, 64, 256], &mut prng),
        };
        let clients = 4 + prng.index(5);
        let value_size = [64, 500, 2000][prng.index(3)];
        // Each plan has some kinds only: where everything happens, little gets far.
        let kinds: Vec<Kind> = loop {
            let kinds: Vec<Kind> = KINDS.into_iter().filter(|_| prng.below(3) > 0).collect();
            if kinds.len() >= 4 {
                break kinds;
            }
        };
        let mut drawing = Drawing { prng, replica_count, duration, steps: Vec::new() };
        if kinds.contains(&Kind::Disk) {
            // Before there is a grid: the first checkpoint finds no room.
            let replica = drawing.replica();
            let until = 2000 + drawing.prng.below(6000);
            drawing.push(0, Action::Fill(replica));
            drawing.push(until, Action::Empty(replica));
        }
        let mut at = 500;
        while at < millis(duration) {
            let kind = kinds[drawing.prng.index(kinds.len())];
            drawing.fault(at, kind);
            at += 50 + drawing.prng.below(GAP_MS_MAX);
        }
        let mut steps = drawing.steps;
        steps.sort_by_key(|step| step.at);
        Self { replica_count, geometry, clients, value_size, duration, steps }
    }
}

struct Drawing {
    prng: Prng,
    replica_count: usize,
    duration: Duration,
    steps: Vec<Step>,
}

impl Drawing {
    fn push(&mut self, at: u64, action: Action) {
        let at = Duration::from_millis(at).min(self.duration);
        self.steps.push(Step { at, action });
    }

    /// Something that begins and ends.
    fn span(&mut self, at: u64, begin: Action, end: Action) {
        // Most are short, some long.
        let max = if self.prng.below(4) == 0 { FAULT_MS_MAX } else { FAULT_MS_MAX / 5 };
        let ends = at + 50 + self.prng.below(max);
        self.push(at, begin);
        self.push(ends, end);
    }

    fn replica(&mut self) -> usize {
        self.prng.index(self.replica_count)
    }

    fn pair(&mut self) -> (usize, usize) {
        let a = self.replica();
        let b = (a + 1 + self.prng.index(self.replica_count - 1)) % self.replica_count;
        (a, b)
    }

    /// Some replicas, at least one; all of them in one of four cases.
    fn several(&mut self) -> Vec<usize> {
        if self.prng.below(4) == 0 {
            return (0..self.replica_count).collect();
        }
        let one = self.replica();
        (0..self.replica_count).filter(|it| *it == one || self.prng.below(3) == 0).collect()
    }

    /// Two sides, neither empty; each pair between them.
    fn partition(&mut self) -> Vec<(usize, usize)> {
        let one = self.replica();
        let sides: Vec<bool> =
            (0..self.replica_count).map(|it| it == one || self.prng.below(3) == 0).collect();
        let mut pairs = Vec::new();
        for a in (0..self.replica_count).filter(|it| sides[*it]) {
            pairs.extend((0..self.replica_count).filter(|it| !sides[*it]).map(|b| (a, b)));
        }
        if pairs.is_empty() { vec![self.pair()] } else { pairs }
    }

    fn fault(&mut self, at: u64, kind: Kind) {
        match kind {
            Kind::Kill => {
                let replicas = vec![self.replica()];
                self.span(at, Action::Kill(replicas.clone()), Action::Start(replicas));
            }
            Kind::KillMany => {
                let replicas = self.several();
                self.span(at, Action::Kill(replicas.clone()), Action::Start(replicas));
            }
            Kind::Pause => {
                let replica = self.replica();
                self.span(at, Action::Pause(replica), Action::Resume(replica));
            }
            Kind::Rolling if self.prng.below(3) == 0 => self.push(at, Action::Rolling),
            Kind::Rolling => self.fault(at, Kind::Kill),
            Kind::Partition => self.fault_partition(at),
            Kind::OneWay => {
                let pairs = self.partition();
                let lost = self.prng.below(2) == 0;
                self.span(at, Action::Hold(pairs.clone()), Action::Release(pairs, lost));
            }
            Kind::Clients => {
                let replica = self.replica();
                self.span(at, Action::HoldClients(replica), Action::ReleaseClients(replica));
            }
            Kind::Delay | Kind::Reset | Kind::Corrupt => self.fault_of_links(at, kind),
            Kind::Rot => {
                let minority = (self.replica_count - 1) / 2;
                let replica = self.prng.index(minority);
                let places = 1 + u32::try_from(self.prng.below(8)).expect("less than 8");
                let seed = self.prng.next_u64();
                self.push(at, Action::Rot(replica, places, seed));
            }
            Kind::Disk if self.prng.below(3) == 0 => {
                let replica = self.replica();
                self.span(at, Action::Fill(replica), Action::Empty(replica));
            }
            Kind::Disk => {
                let replicas = self.several();
                let seed = self.prng.next_u64();
                self.push(at, Action::PowerLoss(replicas, seed));
            }
            Kind::Clock => {
                let replica = self.replica();
                let size = [1, 60, 86_400, 6_000_000_000][self.prng.index(4)];
                let seconds = if self.prng.below(2) == 0 { size } else { -size.min(1_000_000_000) };
                self.span(at, Action::Clock(replica, seconds), Action::Clock(replica, 0));
            }
        }
    }

    /// What happens to bytes that do arrive, or to connections.
    fn fault_of_links(&mut self, at: u64, kind: Kind) {
        match kind {
            Kind::Delay => {
                let pairs = self.partition();
                let delay = 1 + self.prng.below(60);
                self.span(at, Action::Delay(pairs.clone(), delay), Action::Delay(pairs, 0));
            }
            Kind::Reset => {
                let replica = self.replica();
                let pairs = self.partition();
                let clients = self.prng.below(3) == 0;
                self.push(
                    at,
                    if clients { Action::ResetClients(replica) } else { Action::Reset(pairs) },
                );
            }
            Kind::Corrupt => {
                let (from, to) = self.pair();
                let count = 1 + u32::try_from(self.prng.below(20)).expect("less than 20");
                let clients = self.prng.below(4) == 0;
                self.push(
                    at,
                    if clients {
                        Action::CorruptClients(to, count)
                    } else {
                        Action::Corrupt(from, to, count)
                    },
                );
            }
            other => unreachable!("{other:?} is not of links"),
        }
    }

    fn fault_partition(&mut self, at: u64) {
        let pairs = self.partition();
        if self.prng.below(2) == 0 {
            self.span(at, Action::Refuse(pairs.clone()), Action::Accept(pairs));
            return;
        }
        let both: Vec<_> = pairs.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]).collect();
        let lost = self.prng.below(2) == 0;
        self.span(at, Action::Hold(both.clone()), Action::Release(both, lost));
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).expect("a run is not that long")
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>6} ms  {:?}", self.at.as_millis(), self.action)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_plan_and_every_kind_is_drawn() {
        let duration = Duration::from_secs(30);
        let mut names = std::collections::BTreeSet::new();
        for seed in 0..50 {
            for replica_count in [3, 5] {
                let plan = Plan::draw(seed, replica_count, duration);
                assert_eq!(plan, Plan::draw(seed, replica_count, duration));
                assert_eq!(plan.geometry.invalid(), None);
                assert!(plan.steps.iter().all(|step| step.at <= duration));
                assert!(plan.steps.is_sorted_by_key(|step| step.at));
                for step in &plan.steps {
                    if let Action::Rot(replica, ..) = step.action {
                        assert!(replica < (replica_count - 1) / 2);
                    }
                    let text = format!("{:?}", step.action);
                    names.insert(text.split('(').next().expect("a name").to_string());
                }
            }
        }
        assert_eq!(names.len(), 21, "{names:?}");
        assert_ne!(Plan::draw(1, 3, duration), Plan::draw(2, 3, duration));
    }
}
