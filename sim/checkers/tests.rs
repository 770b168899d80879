//! Histories made from a model, right and wrong, against the checkers of histories.
//!
//! ```text
//!   model (one map, one counter) ◄── execute at a random moment ── open and abandoned calls
//!        └──► results ──► Checkers ──► reports: all pass, or the right ones bite
//! ```
//!
//! **Invariants:** without a fault a generated history is linearizable, because each call takes
//! effect at one moment between its invocation and its return; with one, it happens at least once.

use super::call::{Current, Done};
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

fn failed(reports: &[CheckerReport]) -> Vec<&'static str> {
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
            assert_eq!(
                report.vacuous,
                !history && !["journal", "blocks", "checkpoints"].contains(&report.name),
                "seed {seed} {}",
                report.name
            );
            assert_eq!(report.compared > 0, history, "seed {seed} {}", report.name);
        }
    }
}

#[test]
fn long_histories_are_decided() {
    let (reports, _) = Generator::new(1, Fault::None).run(50_000);
    assert_eq!(failed(&reports), [""; 0]);
    assert!(reports.iter().all(|report| report.undecided == 0));
    let linearizability = reports.iter().find(|it| it.name == "linearizability").unwrap();
    assert!(linearizability.compared > 10_000, "{linearizability:?}");
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
        (Fault::Twice, &["order", "linearizability", "at_most_once"]),
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

/// A history written by hand: each call begins and ends where it says so.
#[derive(Default)]
struct Script {
    history: Vec<(u64, Result<Call, CallResult>)>,
    op: u64,
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn put(key: &str, value: &str) -> Call {
    Call::Put { key: bytes(key), value: bytes(value) }
}

fn get(key: &str) -> Call {
    Call::Get { key: bytes(key) }
}

fn delete(key: &str) -> Call {
    Call::Delete { key: bytes(key) }
}

fn cas(key: &str, old: Option<&str>, new: &str) -> Call {
    Call::Cas { key: bytes(key), old: old.map(bytes), new: bytes(new) }
}

fn scan(limit: u32) -> Call {
    Call::Scan { start: Bytes::new(), end: bytes("y"), limit }
}

fn record(revision: u64, value: &str) -> Record {
    Record { revision, value: bytes(value) }
}

fn row(key: &str, revision: u64, value: &str) -> Row {
    Row { key: bytes(key), record: record(revision, value) }
}

fn found(revision: u64, value: &str) -> Observed {
    Observed::Get(Some(record(revision, value)))
}

fn rows(rows: &[Row], more: bool) -> Observed {
    Observed::Scan { rows: rows.to_vec(), more }
}

impl Script {
    fn begin(mut self, client: u64, call: Call) -> Self {
        self.history.push((client, Ok(call)));
        self
    }

    /// Done, by the next op.
    fn done(mut self, client: u64, revision: u64, observed: Observed) -> Self {
        self.op += 1;
        let op = self.op;
        self.done_at(client, op, revision, observed)
    }

    fn done_at(mut self, client: u64, op: u64, revision: u64, observed: Observed) -> Self {
        let done = Done { op, timestamp: 1000 + op, revision, observed };
        self.history.push((client, Err(CallResult::Done(done))));
        self
    }

    fn ends(mut self, client: u64, result: CallResult) -> Self {
        self.history.push((client, Err(result)));
        self
    }

    fn call(self, call: Call, revision: u64, observed: Observed) -> Self {
        self.begin(9, call).done(9, revision, observed)
    }

    /// The checkers that fail, with these states at the end.
    fn failed(self, finals: &[FinalState]) -> Vec<&'static str> {
        let mut checkers = Checkers::new(3);
        for (time, (client, event)) in self.history.into_iter().enumerate() {
            match event {
                Ok(call) => checkers.on_invoke(client, time as u64, call),
                Err(result) => checkers.on_return(client, time as u64, result),
            }
        }
        failed(&checkers.finish(finals))
    }
}

fn at_end(replica: u8, revision: u64, rows: &[Row]) -> FinalState {
    FinalState { replica, op: 99, revision, rows: rows.to_vec() }
}

fn script() -> Script {
    Script::default()
}

#[test]
fn order_compares_all_keys_at_once() {
    let base = || {
        let script = script().call(put("a", "1"), 1, Observed::Put);
        script.call(put("b", "2"), 2, Observed::Put).begin(1, scan(9)).begin(2, put("a", "3"))
    };
    let (a1, b2) = (row("a", 1, "1"), row("b", 2, "2"));
    let right = || base().done(1, 2, rows(&[a1.clone(), b2.clone()], false));
    assert!(right().failed(&[]).is_empty());
    // Each row is of some moment, but they are of different ones.
    let torn = base().begin(3, put("b", "4")).done(2, 3, Observed::Put);
    let torn = torn.done(3, 4, Observed::Put);
    let torn = torn.done(1, 4, rows(&[a1.clone(), row("b", 4, "4")], false));
    assert_eq!(torn.failed(&[]), ["order"]);
    // What is wrong with it by itself.
    let order_only = |observed| {
        let failed = base().done(1, 2, observed).failed(&[]);
        assert!(failed.contains(&"order"), "{failed:?}");
    };
    order_only(rows(&[b2.clone(), a1.clone()], false));
    order_only(rows(std::slice::from_ref(&a1), false));
    order_only(rows(&[a1.clone(), b2.clone()], true));
    order_only(rows(&[], true));
    order_only(rows(&[a1.clone(), b2.clone(), row("z", 1, "1")], false));
    // More rows than wanted; fewer with more behind them is right.
    let base =
        || script().call(put("a", "1"), 1, Observed::Put).call(put("b", "2"), 2, Observed::Put);
    assert!(base().call(scan(1), 2, rows(std::slice::from_ref(&a1), true)).failed(&[]).is_empty());
    assert_eq!(base().call(scan(1), 2, rows(&[a1, b2], false)).failed(&[]), ["order"]);
}

#[test]
fn order_agrees_with_the_log_and_real_time() {
    let two = |first: (u64, u64), second: (u64, u64)| {
        let script = script().begin(1, put("a", "1")).begin(2, put("b", "2"));
        let script = script.done_at(1, first.0, first.1, Observed::Put);
        script.done_at(2, second.0, second.1, Observed::Put).failed(&[])
    };
    assert!(two((5, 1), (6, 2)).is_empty());
    assert!(two((6, 2), (5, 1)).is_empty());
    // Revisions and ops disagree; the same revision; the same timestamp.
    assert_eq!(two((5, 2), (6, 1)), ["order"]);
    assert!(two((5, 1), (6, 1)).contains(&"order"));
    assert_eq!(two((5, 1), (5, 2)), ["order"]);
    // A write without a revision.
    assert_eq!(script().call(put("a", "1"), 0, Observed::Put).failed(&[]), ["order"]);
    // The first has ended before the second begins.
    let script = script().begin(1, put("a", "1")).done_at(1, 6, 2, Observed::Put);
    let script = script.begin(2, put("b", "2")).done_at(2, 5, 1, Observed::Put);
    assert_eq!(script.failed(&[]), ["order"]);
    // An unknown write of which a record was seen, older than what was known before it began.
    let script = self::script().call(put("a", "1"), 2, Observed::Put).begin(1, put("b", "2"));
    let script = script.ends(1, CallResult::Unknown).call(get("b"), 2, found(1, "2"));
    assert!(script.failed(&[]).contains(&"order"));
}

#[test]
fn reads_are_compared_too() {
    let base = || script().call(put("a", "1"), 1, Observed::Put);
    let both = ["order", "linearizability"];
    assert!(base().call(get("a"), 1, found(1, "1")).failed(&[]).is_empty());
    assert_eq!(base().call(get("a"), 1, Observed::Get(None)).failed(&[]), both);
    assert_eq!(base().call(get("a"), 0, Observed::Get(None)).failed(&[]), both);
    assert_eq!(
        base().call(get("a"), 1, found(1, "2")).failed(&[]),
        ["order", "linearizability", "at_most_once"]
    );
    let base = || base().call(put("a", "2"), 2, Observed::Put);
    assert_eq!(base().call(get("a"), 2, found(1, "1")).failed(&[]), both);
    assert_eq!(base().call(delete("a"), 2, Observed::Delete { found: false }).failed(&[]), both);
    assert_eq!(base().call(delete("b"), 3, Observed::Delete { found: true }).failed(&[]), both);
    assert_eq!(base().call(cas("a", Some("1"), "3"), 3, Observed::CasDone).failed(&[]), both);
    let kept = |current| base().call(cas("a", Some("2"), "3"), 2, Observed::CasFailed(current));
    assert_eq!(kept(Current::Found(record(2, "2"))).failed(&[]), ["order"]);
    assert_eq!(kept(Current::Omitted { revision: 2 }).failed(&[]), ["linearizability"]);
    let base = || {
        base().call(
            cas("a", Some("1"), "3"),
            2,
            Observed::CasFailed(Current::Found(record(2, "2"))),
        )
    };
    assert!(base().failed(&[]).is_empty());
    let omitted = Observed::CasFailed(Current::Omitted { revision: 1 });
    assert_eq!(base().call(cas("a", Some("9"), "4"), 2, omitted).failed(&[]), ["order"]);
}

#[test]
fn unknown_calls_may_have_happened_late_or_never() {
    let base = || {
        let script = script().call(put("a", "1"), 1, Observed::Put);
        let script = script.begin(1, put("a", "2")).ends(1, CallResult::Unknown);
        script.begin(2, delete("a")).call(get("a"), 1, found(1, "1"))
    };
    assert!(base().failed(&[at_end(0, 1, &[row("a", 1, "1")])]).is_empty());
    assert!(base().failed(&[at_end(0, 2, &[row("a", 2, "2")])]).is_empty());
    assert!(base().failed(&[at_end(0, 2, &[])]).is_empty());
    assert!(base().failed(&[at_end(0, 3, &[])]).is_empty());
    // Deleted, and then put: the delete is nobody's but it is there.
    assert!(base().failed(&[at_end(0, 3, &[row("a", 3, "2")])]).is_empty());
    // Three writes by two calls.
    assert_eq!(base().failed(&[at_end(0, 4, &[])]), ["at_most_once"]);
    // A hole that was there before the call that could fill it.
    let script = script().call(put("a", "1"), 2, Observed::Put).begin(1, put("a", "2"));
    assert_eq!(script.failed(&[]), ["at_most_once"]);
    // Not done is not unknown.
    let script = self::script().begin(1, put("a", "1")).ends(1, CallResult::NotDone);
    let script = script.call(get("a"), 1, found(1, "1"));
    assert_eq!(
        script.failed(&[at_end(0, 1, &[row("a", 1, "1")])]),
        ["order", "linearizability", "acknowledged", "at_most_once"]
    );
}

#[test]
fn acknowledged_looks_at_the_end() {
    let base = || {
        let script = script().call(put("a", "1"), 1, Observed::Put);
        script.call(put("b", "2"), 2, Observed::Put).call(put("a", "3"), 3, Observed::Put)
    };
    let (a1, a3, b2) = (row("a", 1, "1"), row("a", 3, "3"), row("b", 2, "2"));
    let right = at_end(0, 3, &[a3.clone(), b2.clone()]);
    assert!(base().failed(&[right.clone(), FinalState { replica: 1, ..right.clone() }]).is_empty());
    for wrong in [
        at_end(1, 3, &[a1.clone(), b2.clone()]),
        at_end(1, 3, std::slice::from_ref(&a3)),
        at_end(1, 2, &[a1, b2.clone()]),
        at_end(1, 3, &[]),
    ] {
        let failed = base().failed(std::slice::from_ref(&wrong));
        assert!(failed.contains(&"acknowledged"), "{failed:?}");
        // Also if another replica, by itself, is right.
        let failed = base().failed(&[right.clone(), wrong]);
        assert!(failed.contains(&"acknowledged"), "{failed:?}");
    }
    let differ = [right.clone(), at_end(1, 4, &[a3, b2])];
    assert!(base().failed(&differ).contains(&"acknowledged"));
}

#[test]
fn at_most_once_counts_effects() {
    let base = || script().call(put("a", "1"), 1, Observed::Put);
    // The same put once more, and its second record is seen.
    let twice = base().call(get("a"), 2, found(2, "1"));
    assert!(twice.failed(&[]).contains(&"at_most_once"));
    // Once more, and covered by the next.
    let twice = base().call(put("a", "2"), 3, Observed::Put);
    assert_eq!(twice.failed(&[]), ["at_most_once"]);
    // Two increments of the same count.
    let counted = base().begin(1, cas("a", Some("1"), "2-1")).begin(2, cas("a", Some("1"), "2-2"));
    let counted = counted.done(1, 2, Observed::CasDone).done(2, 3, Observed::CasDone);
    assert_eq!(counted.failed(&[]), ["order", "linearizability", "at_most_once"]);
}

#[test]
fn checkers_of_the_log_fail_at_once_and_in_the_report() {
    let mut checkers = Checkers::new(2);
    let id = |checksum| PrepareId { op: 1, checksum, ..PrepareId::default() };
    let commit = |checksum, digest| Commit {
        op: 1,
        id: id(checksum),
        parent: Parent::default(),
        digest: Some(digest),
        checkpoint: BlockRef::NONE,
    };
    checkers.on_commit(0, commit(1, 1), 7).unwrap();
    let error = checkers.on_commit(1, commit(1, 2), 8).unwrap_err();
    assert!(error.starts_with("tick 8: "), "{error}");
    checkers.on_restart(1);
    assert!(checkers.on_commit(1, commit(2, 1), 9).is_err());
    let state = ReplicaState { commit_min: 1, op: 1, commit_max: 0, ..ReplicaState::default() };
    assert!(checkers.on_state(1, state).is_err());
    let nothing = Some(SlotOnDisk::default());
    assert!(checkers.on_prepare_ok(1, View(0), id(1), nothing).is_err());
    let log = LogTold { log_view: View(0), op: 0, prepares: &[], nacks: &[] };
    assert!(checkers.on_log_told(1, &log).is_err());
    let reports = checkers.finish(&[]);
    assert_eq!(failed(&reports), ["commits", "digests", "monotonic", "promises"]);
    let names: Vec<&str> = reports.iter().map(|report| report.name).collect();
    let of_log = [
        "commits",
        "digests",
        "checkpoints",
        "blocks",
        "journal",
        "bounds",
        "monotonic",
        "promises",
    ];
    let of_clients = ["replies", "order", "linearizability", "acknowledged", "at_most_once"];
    assert_eq!(names, [&of_log[..], &of_clients[..]].concat());
}

#[test]
fn messages_do_not_carry_whole_values() {
    let long = "x".repeat(5000);
    assert_eq!(shorten(&format!("a {:?}: b", bytes("v\"1"))), "a b\"v\\\"1\": b");
    let short = shorten(&format!("{:?} and {:?}", bytes(&long), bytes("v")));
    assert_eq!(short, format!("b\"{}…\" and b\"v\"", "x".repeat(TEXT_CHARS_MAX - 1)));
}
