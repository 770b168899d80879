//! Histories made from a model, right and wrong, against the checkers of histories.
//!
//! ```text
//!   model (one map, one counter) ◄── execute at a random moment ── open and abandoned calls
//!        └──► results ──► Checkers ──► reports: all pass, or the right ones bite
//! ```
//!
//! **Invariants:** without a fault a generated history is linearizable, because each call takes
//! effect at one moment between its invocation and its return; with one, it happens at least once.

use super::*;
use bytes::Bytes;
use std::collections::BTreeMap;
use vsr::client::Answer;
use vsr::state_machine::kv::Kv;
use vsr::state_machine::{Context, RESULT_OK, Reply, StateMachine, Store};
use vsr::stdx::Prng;

/// What kv should do, said once more in few words.
#[derive(Debug, Clone, Default)]
struct Model {
    rows: BTreeMap<Bytes, Record>,
    revision: u64,
}

impl Model {
    fn execute(&mut self, call: &Call) -> (u64, Observed) {
        let current = call.key().and_then(|key| self.rows.get(key)).cloned();
        let observed = match call {
            Call::Put { .. } => Observed::Put,
            Call::Get { .. } => Observed::Get(current),
            Call::Delete { .. } => Observed::Delete { found: current.is_some() },
            Call::Cas { old, .. } => match current {
                current if current.as_ref().map(|it| &it.value) == old.as_ref() => {
                    Observed::CasDone
                }
                None => Observed::CasFailed(Current::Absent),
                Some(record) => Observed::CasFailed(Current::Found(record)),
            },
            Call::Scan { start, end, limit } => {
                let rows = self.rows.range(start.clone()..);
                let rows = rows.filter(|(key, _)| end.is_empty() || *key < end);
                let rows = rows.map(|(key, it)| Row { key: key.clone(), record: it.clone() });
                let mut rows: Vec<Row> = rows.collect();
                let more = rows.len() > *limit as usize;
                rows.truncate(*limit as usize);
                Observed::Scan { rows, more }
            }
        };
        if observed.wrote() {
            self.revision += 1;
            let key = call.key().expect("a write").clone();
            match call.value_written() {
                Some(value) => {
                    let record = Record { revision: self.revision, value: value.clone() };
                    self.rows.insert(key, record);
                }
                None => drop(self.rows.remove(&key)),
            }
        }
        (self.revision, observed)
    }

    fn final_state(&self, replica: u8) -> FinalState {
        let rows = self.rows.iter().map(|(key, it)| Row { key: key.clone(), record: it.clone() });
        FinalState { replica, op: 1_000_000, revision: self.revision, rows: rows.collect() }
    }
}

/// What is wrong with a generated history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Reads are answered from an older state.
    StaleRead,
    /// A write is acknowledged and forgotten.
    LostWrite,
    /// A write is executed again, later.
    Twice,
    /// A write that is executed is reported as not done.
    DoneNotDone,
    /// A value is not what was written.
    WrongValue,
}

struct Open {
    call: Call,
    done: Option<Done>,
}

struct Generator {
    prng: Prng,
    fault: Fault,
    checkers: Checkers,
    model: Model,
    old: Model,
    open: BTreeMap<u64, Open>,
    abandoned: Vec<Call>,
    executed: Vec<Call>,
    op: u64,
    timestamp: u64,
    time: u64,
    values: u64,
    faults: u64,
}

const CLIENTS: u64 = 5;
const KEYS: u64 = 3;

impl Generator {
    fn new(seed: u64, fault: Fault) -> Self {
        Self {
            prng: Prng::from_seed(seed),
            fault,
            checkers: Checkers::new(3),
            model: Model::default(),
            old: Model::default(),
            open: BTreeMap::new(),
            abandoned: Vec::new(),
            executed: Vec::new(),
            op: 1,
            timestamp: 0,
            time: 0,
            values: 0,
            faults: 0,
        }
    }

    fn call(&mut self) -> Call {
        let key = Bytes::from(format!("k{}", self.prng.below(KEYS)));
        self.values += 1;
        let value = Bytes::from(format!("v{}", self.values));
        match self.prng.below(9) {
            0..=2 => Call::Put { key, value },
            3..=4 => Call::Get { key },
            5 => Call::Delete { key },
            6..=7 => {
                let now = self.model.rows.get(&key).map(|record| record.value.clone());
                let old = if self.prng.below(4) == 0 { None } else { now };
                Call::Cas { key, old, new: value }
            }
            _ => {
                let limit = 1 + u32::try_from(self.prng.below(3)).unwrap();
                Call::Scan { start: Bytes::new(), end: Bytes::new(), limit }
            }
        }
    }

    fn execute(&mut self, call: &Call) -> Done {
        self.op += self.prng.below(2);
        self.timestamp += 1;
        let faulty = self.prng.below(4) == 0;
        let (revision, observed) = match self.fault {
            Fault::StaleRead if faulty && call.is_read() => self.old.clone().execute(call),
            Fault::LostWrite if faulty => self.model.clone().execute(call),
            _ => self.model.execute(call),
        };
        let wrote = observed.wrote();
        self.faults += u64::from(match self.fault {
            Fault::StaleRead => faulty && call.is_read() && self.old.rows != self.model.rows,
            Fault::LostWrite => faulty && wrote,
            _ => false,
        });
        if wrote {
            self.executed.push(call.clone());
        }
        let mut done = Done { op: self.op, timestamp: self.timestamp, revision, observed };
        if let (Fault::WrongValue, true, Observed::Get(Some(record))) =
            (self.fault, faulty, &mut done.observed)
        {
            record.value = Bytes::from_static(b"v1");
            self.faults += u64::from(!matches!(call, Call::Put { value, .. } if value == "v1"));
        }
        done
    }

    fn step(&mut self) {
        self.time += self.prng.below(2);
        let client = self.prng.below(CLIENTS);
        let Some(mut open) = self.open.remove(&client) else {
            if self.prng.below(20) == 0 {
                self.old = self.model.clone();
            }
            let call = self.call();
            self.checkers.on_invoke(client, self.time, call.clone());
            self.open.insert(client, Open { call, done: None });
            return;
        };
        match (self.prng.below(12), &open.done) {
            (0..=5, None) => {
                open.done = Some(self.execute(&open.call));
                self.open.insert(client, open);
            }
            (0..=8, Some(done)) => {
                let deny = self.fault == Fault::DoneNotDone
                    && done.observed.wrote()
                    && self.prng.below(4) == 0;
                self.faults += u64::from(deny);
                let result =
                    if deny { CallResult::NotDone } else { CallResult::Done(done.clone()) };
                self.checkers.on_return(client, self.time, result);
            }
            (9, done) => {
                if done.is_none() {
                    self.abandoned.push(open.call);
                }
                // Some never come back at all; their clients go on under another name.
                self.checkers.on_return(client, self.time, CallResult::Unknown);
            }
            (10, None) => self.checkers.on_return(client, self.time, CallResult::NotDone),
            _ => drop(self.open.insert(client, open)),
        }
        self.extra();
    }

    /// Abandoned calls take effect late or never; faulty ones once more.
    fn extra(&mut self) {
        if !self.abandoned.is_empty() && self.prng.below(8) == 0 {
            let index = self.prng.index(self.abandoned.len());
            let call = self.abandoned.swap_remove(index);
            let _ = self.execute(&call);
        }
        if self.fault == Fault::Twice && !self.executed.is_empty() && self.prng.below(16) == 0 {
            let index = self.prng.index(self.executed.len());
            let call = self.executed.swap_remove(index);
            let revision = self.model.revision;
            let _ = self.model.execute(&call);
            self.faults += u64::from(self.model.revision > revision);
        }
    }

    fn run(mut self, steps: u64) -> (Vec<CheckerReport>, u64) {
        for _ in 0..steps {
            self.step();
        }
        let finals = [self.model.final_state(0), self.model.final_state(2)];
        (self.checkers.finish(&finals), self.faults)
    }
}

fn failed<'a>(reports: &'a [CheckerReport]) -> Vec<&'a str> {
    reports.iter().filter(|it| it.failure.is_some()).map(|it| it.name).collect()
}

#[test]
fn right_histories_pass_every_checker() {
    for seed in 0..400 {
        let (reports, _) = Generator::new(seed, Fault::None).run(300);
        for report in &reports {
            let history =
                ["order", "linearizability", "acknowledged", "at_most_once"].contains(&report.name);
            assert_eq!(report.failure, None, "seed {seed} {}", report.name);
            assert_eq!(report.undecided, 0, "seed {seed} {}", report.name);
            assert_eq!(report.vacuous, !history, "seed {seed} {}", report.name);
            assert_eq!(report.compared > 0, history, "seed {seed} {}", report.name);
        }
    }
}

/// How often each checker bites, over seeds in which the fault happened at all.
fn bites(fault: Fault, steps: u64) -> (u64, BTreeMap<&'static str, u64>) {
    let mut seeds = 0;
    let mut bites = BTreeMap::new();
    for seed in 0..100 {
        let (reports, faults) = Generator::new(seed, fault).run(steps);
        if faults == 0 {
            continue;
        }
        seeds += 1;
        *bites.entry("any").or_default() += u64::from(!failed(&reports).is_empty());
        for report in reports.iter().filter(|report| report.failure.is_some()) {
            *bites.entry(report.name).or_default() += 1;
        }
    }
    println!("{fault:?} in {seeds} seeds: {bites:?}");
    (seeds, bites)
}

#[test]
fn wrong_histories_fail_the_checkers_that_are_for_them() {
    let expected: [(Fault, &[&str]); 5] = [
        (Fault::StaleRead, &["order", "linearizability"]),
        (Fault::LostWrite, &["order", "linearizability", "acknowledged"]),
        (Fault::Twice, &["order", "linearizability", "acknowledged", "at_most_once"]),
        (Fault::DoneNotDone, &["order", "linearizability", "at_most_once"]),
        (Fault::WrongValue, &["order", "linearizability", "at_most_once"]),
    ];
    for (fault, names) in expected {
        let (seeds, bites) = bites(fault, 300);
        assert!(seeds > 80, "{fault:?} happens");
        assert!(bites["any"] * 10 >= seeds * 9, "{fault:?}: {bites:?}");
        for name in names {
            assert!(bites.get(name).is_some_and(|it| *it * 2 > seeds), "{fault:?}: {bites:?}");
        }
    }
}

#[test]
fn calls_say_to_kv_what_they_say_to_the_model() {
    let mut generator = Generator::new(7, Fault::None);
    let mut store = Store::new();
    for op in 1..1000 {
        let call = generator.call();
        let request = call.request();
        assert!(Kv::new().validate(&request).is_ok());
        let mut reply = Reply::new(1 << 16);
        let context = Context { op, timestamp: op };
        Kv::new().apply(&mut store, &context, &request, &mut reply).unwrap();
        let body = Bytes::from(reply.bytes);
        let view = View(0);
        let answer = Answer { op, view, timestamp: op, result: RESULT_OK, body };
        let (revision, observed) = generator.model.execute(&call);
        let expected = CallResult::Done(Done { op, timestamp: op, revision, observed });
        assert_eq!(call.result(&answer), Ok(expected), "{call:?}");
        let other = Call::Put { key: Bytes::from_static(b"k"), value: Bytes::new() };
        if !matches!(call, Call::Put { .. } | Call::Cas { .. }) {
            assert!(other.result(&answer).is_err(), "{call:?}");
        }
        let rejected = Answer { result: 1, body: Bytes::new(), ..answer.clone() };
        assert_eq!(call.result(&rejected), Ok(CallResult::NotDone));
        assert!(call.result(&Answer { result: 1, ..answer }).is_err());
    }
}
