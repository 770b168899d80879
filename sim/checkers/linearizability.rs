//! Every call seems to take effect at one moment between its invocation and its return.
//!
//! A search in the manner of Wing and Gong with the improvements of Lowe ("Testing for
//! linearizability", 2017). Calls on different keys commute, so each key is searched by itself; a
//! scan counts as a read of each key that it covers (that all its rows are of one moment is checked
//! by `order`). It trusts no op, revision or timestamp: values only.
//!
//! ```text
//!   moment ──►  invoke a   invoke b   return a            return b
//!   a put 1     ├───────────────────────┤
//!   b get 1                ├────────────────────────────────┤
//!                                       ▲                   ▲
//!               configurations: {what the key has, which open calls have taken effect}
//!               only a return forces anything: in each configuration in which the call that
//!               returns has not taken effect, open calls do, one after the other, until it has;
//!               configurations in which it cannot are dropped; none left: not linearizable
//! ```
//!
//! What keeps the configurations few:
//! * A read that fits takes effect at once: it changes nothing for others.
//! * A write with an unknown outcome stays open for ever, but it matters only until the last call
//!   that saw its value has returned (or saw a value that it led to). After that, leaving it out is
//!   as good.
//! * Of those whose value nobody saw, a put or a cas of an absent key can still be why a delete
//!   found something: a *maker*. A cas of a present key is left out: as good without it. All makers
//!   of a key are alike, and so are all unknown deletes, so they are counted and not named; having
//!   used fewer is better.
//!
//! A search that would take too long is given up, and counted as undecided.
//!
//! **Invariants:** never fails a history that is linearizable; passes none that is not, key by key,
//! except those it counts as undecided.
//!
//! **Not here:** several keys at once (`order`).

use super::call::{Call, CallResult, Current, Observed};
use super::effects::in_range;
use super::history::{Entry, History};
use super::{CheckerReport, FinalState};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// How many configurations may be looked at for all keys of a run.
const BUDGET: u64 = 2_000_000;
/// How many configurations may be looked at for one return.
const BUDGET_RETURN: u64 = 20_000;

/// A value, by the order in which it was first met. A key's values are written once each.
type Value = u32;

/// What the key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Absent,
    Value(Value),
    /// A value that nobody saw.
    Anonymous,
}

/// What a call does to the key, and what it requires of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ReadAbsent,
    Read(Value),
    /// Some value, but not this one.
    ReadOther(Option<Value>),
    Put(Value),
    /// A delete that found something, or whose outcome is unknown: then it is left out where there
    /// is nothing.
    Delete,
    /// A cas that was done, or whose outcome is unknown: then it is left out where it would fail.
    Cas(Option<Value>, Value),
}

/// A call on the key. Only those that are done have an end.
#[derive(Debug, Clone, Copy)]
struct Step {
    kind: Kind,
    invoked: u64,
    returned: Option<u64>,
    /// In the history; `None` for the state at the end.
    entry: Option<usize>,
}

/// What happens next on a key.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The step of this index begins.
    Invoke(usize),
    /// It ends; one with an unknown outcome: it does not matter any more.
    End(usize),
    /// There is one more unknown delete.
    Delete,
    /// There is one more maker.
    Maker,
}

/// What may be the case at a moment: the key's state, and a bit for each open step that has taken
/// effect.
type Config = (State, u128);
/// How many unknown deletes and makers were needed to get there.
type Used = (u32, u32);

/// The search on one key.
struct Search<'a> {
    steps: &'a [Step],
    /// The bits of open steps.
    open: BTreeMap<usize, u32>,
    configs: Configs,
    deletes: u32,
    makers: u32,
}

/// Configurations, each with the least that it takes to get there.
#[derive(Debug, Default, Clone)]
struct Configs(BTreeMap<Config, Vec<Used>>);

enum Verdict {
    Linearizable,
    /// The step that cannot have taken effect, and the states the key may have had.
    Not(usize, BTreeSet<State>),
    Undecided,
}

pub(super) fn report(history: &History, finals: &[FinalState]) -> CheckerReport {
    let mut compared = 0;
    let mut undecided = 0;
    let mut failure = None;
    let mut budget = BUDGET;
    for (key, steps) in steps_by_key(history, finals) {
        let Steps { steps, values, .. } = &steps;
        match linearize(steps, &mut budget) {
            Verdict::Linearizable => {
                compared += steps.iter().filter(|step| step.returned.is_some()).count() as u64;
            }
            Verdict::Undecided => undecided += 1,
            Verdict::Not(step, states) => {
                failure = Some(describe(history, key, &steps[step], &states, values));
                break;
            }
        }
    }
    let vacuous = compared == 0;
    CheckerReport { name: "linearizability", compared, undecided, vacuous, failure }
}

fn describe(
    history: &History,
    key: &Bytes,
    step: &Step,
    states: &BTreeSet<State>,
    values: &BTreeMap<&Bytes, Value>,
) -> String {
    let states: Vec<String> = states
        .iter()
        .map(|state| match state {
            State::Absent => "nothing".to_string(),
            State::Anonymous => "a value that nobody saw".to_string(),
            State::Value(value) => {
                let bytes = values.iter().find(|(_, number)| *number == value);
                format!("{:?}", bytes.expect("a value that was met").0)
            }
        })
        .collect();
    let entry = step.entry.map(|index| history.entries()[index].describe());
    let entry = entry.unwrap_or_else(|| format!("the state at the end, {:?}", step.kind));
    format!("{key:?} may have had {}, and none of it explains: {entry}", states.join(", "))
}

/// The calls on a key.
#[derive(Debug, Default)]
struct Steps<'a> {
    steps: Vec<Step>,
    values: BTreeMap<&'a Bytes, Value>,
}

impl<'a> Steps<'a> {
    fn value(&mut self, value: &'a Bytes) -> Value {
        let next = Value::try_from(self.values.len()).expect("values of one run");
        *self.values.entry(value).or_insert(next)
    }

    fn push(&mut self, kind: Kind, entry: &Entry, index: usize) {
        let returned = entry.done().map(|_| entry.returned);
        self.steps.push(Step { kind, invoked: entry.invoked, returned, entry: Some(index) });
    }

    /// A read of the state that the run ended with.
    fn push_end(&mut self, kind: Kind, moment: u64) {
        self.steps.push(Step { kind, invoked: moment, returned: Some(moment + 1), entry: None });
    }

    fn push_call(&mut self, index: usize, entry: &'a Entry) {
        let unknown = entry.result == CallResult::Unknown;
        let kind = match (&entry.call, entry.done().map(|done| &done.observed)) {
            (Call::Put { value, .. }, Some(_)) => Kind::Put(self.value(value)),
            (Call::Put { value, .. }, None) if unknown => Kind::Put(self.value(value)),
            (Call::Delete { .. }, Some(Observed::Delete { found: false })) => Kind::ReadAbsent,
            (Call::Delete { .. }, Some(_)) => Kind::Delete,
            (Call::Delete { .. }, None) if unknown => Kind::Delete,
            (Call::Cas { old, .. }, Some(Observed::CasFailed(current))) => match current {
                Current::Absent => Kind::ReadAbsent,
                Current::Found(record) => Kind::Read(self.value(&record.value)),
                Current::Omitted { .. } => Kind::ReadOther(old.as_ref().map(|old| self.value(old))),
            },
            (Call::Cas { old, new, .. }, done) if done.is_some() || unknown => {
                let old = old.as_ref().map(|old| self.value(old));
                Kind::Cas(old, self.value(new))
            }
            (Call::Get { .. }, Some(Observed::Get(record))) => match record {
                None => Kind::ReadAbsent,
                Some(record) => Kind::Read(self.value(&record.value)),
            },
            // Not done, or a read that nobody was told the result of, or a scan.
            _ => return,
        };
        self.push(kind, entry, index);
    }
}

fn steps_by_key<'a>(
    history: &'a History,
    finals: &'a [FinalState],
) -> BTreeMap<&'a Bytes, Steps<'a>> {
    let mut keys: BTreeMap<&Bytes, Steps<'_>> = BTreeMap::new();
    for (index, entry) in history.entries().iter().enumerate() {
        if let Some(key) = entry.call.key() {
            keys.entry(key).or_default().push_call(index, entry);
        }
        if let Some(Observed::Scan { rows, .. }) = entry.done().map(|done| &done.observed) {
            for row in rows {
                keys.entry(&row.key).or_default();
            }
        }
    }
    let end = finals.iter().max_by_key(|state| state.op);
    for row in end.iter().flat_map(|state| &state.rows) {
        keys.entry(&row.key).or_default();
    }
    for (index, entry) in history.entries().iter().enumerate() {
        let done = entry.done().map(|done| &done.observed);
        let (Call::Scan { start, end, .. }, Some(Observed::Scan { rows, more })) =
            (&entry.call, done)
        else {
            continue;
        };
        let found: BTreeMap<&Bytes, &Bytes> =
            rows.iter().map(|row| (&row.key, &row.record.value)).collect();
        let last = rows.last().map(|row| &row.key);
        for (key, steps) in &mut keys {
            let kind = match found.get(key) {
                Some(value) => Kind::Read(steps.value(value)),
                None if !in_range(key, start, end) => continue,
                None if *more && last.is_none_or(|last| *key > last) => continue,
                None => Kind::ReadAbsent,
            };
            steps.push(kind, entry, index);
        }
    }
    let Some(end) = end else { return keys };
    let rows: BTreeMap<&Bytes, &Bytes> =
        end.rows.iter().map(|row| (&row.key, &row.record.value)).collect();
    for (key, steps) in &mut keys {
        let kind = match rows.get(key) {
            Some(value) => Kind::Read(steps.value(value)),
            None => Kind::ReadAbsent,
        };
        steps.push_end(kind, history.end());
    }
    keys
}

/// The moment at which the last call returns that saw each value, or one that it led to.
fn seen_until(steps: &[Step]) -> BTreeMap<Value, u64> {
    let mut until: BTreeMap<Value, u64> = BTreeMap::new();
    let see = |until: &mut BTreeMap<Value, u64>, value, moment| {
        let before = until.entry(value).or_default();
        let later = *before < moment;
        *before = moment.max(*before);
        later
    };
    for step in steps {
        let Some(returned) = step.returned else { continue };
        match step.kind {
            Kind::Read(value) | Kind::Cas(Some(value), _) => {
                see(&mut until, value, returned);
            }
            _ => {}
        }
    }
    loop {
        let mut changed = false;
        for step in steps.iter().filter(|step| step.returned.is_none()) {
            if let Kind::Cas(Some(old), new) = step.kind {
                let led_to = until.get(&new).copied();
                changed |= led_to.is_some_and(|moment| see(&mut until, old, moment));
            }
        }
        if !changed {
            return until;
        }
    }
}

/// What happens on the key, in order.
fn events(steps: &[Step]) -> Vec<Event> {
    let until = seen_until(steps);
    // Where somebody saw that the value was not a certain one, nobody-saw-it is not enough to know.
    let exact = steps.iter().any(|step| matches!(step.kind, Kind::ReadOther(_)));
    let makers_matter =
        steps.iter().any(|step| step.kind == Kind::Delete && step.returned.is_some());
    // An unknown step ends at the moment, and after the end, of the last one that saw it.
    let mut events: Vec<(u64, bool, Event)> = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let unknown = step.returned.is_none();
        let mut invoke = |end: Option<u64>| {
            events.push((step.invoked, false, Event::Invoke(index)));
            events.extend(end.map(|end| (end, unknown, Event::End(index))));
        };
        match (step.returned, step.kind) {
            (Some(returned), _) => invoke(Some(returned)),
            (None, Kind::Put(_) | Kind::Cas(..)) if exact => invoke(None),
            (None, Kind::Delete) => events.push((step.invoked, false, Event::Delete)),
            (None, Kind::Put(value) | Kind::Cas(_, value)) => match until.get(&value) {
                Some(end) if *end > step.invoked => invoke(Some(*end)),
                // Seen before it began: whoever saw it will not be explained.
                Some(_) => {}
                None if !makers_matter || matches!(step.kind, Kind::Cas(Some(_), _)) => {}
                None => events.push((step.invoked, false, Event::Maker)),
            },
            (None, Kind::ReadAbsent | Kind::Read(_) | Kind::ReadOther(_)) => {
                unreachable!("a read with an unknown outcome is no step")
            }
        }
    }
    events.sort_by_key(|(moment, last, _)| (*moment, *last));
    events.into_iter().map(|(_, _, event)| event).collect()
}

fn linearize(steps: &[Step], budget: &mut u64) -> Verdict {
    let mut configs = Configs::default();
    configs.add((State::Absent, 0), (0, 0));
    let mut search = Search { steps, open: BTreeMap::new(), configs, deletes: 0, makers: 0 };
    for event in events(steps) {
        match event {
            Event::Delete => search.deletes += 1,
            Event::Maker => search.makers += 1,
            Event::Invoke(step) => {
                let Some(bit) = search.free_bit() else { return Verdict::Undecided };
                search.open.insert(step, bit);
                search.settle_all();
            }
            Event::End(step) => {
                if steps[step].returned.is_some() {
                    let states = search.configs.0.keys().map(|(state, _)| *state).collect();
                    if search.force(step, budget).is_none() {
                        return Verdict::Undecided;
                    }
                    if search.configs.0.is_empty() {
                        return Verdict::Not(step, states);
                    }
                }
                search.close(step);
            }
        }
    }
    Verdict::Linearizable
}

impl Search<'_> {
    fn free_bit(&self) -> Option<u32> {
        let taken = self.open.values().fold(0u128, |taken, bit| taken | 1 << bit);
        let bit = taken.trailing_ones();
        (bit < u128::BITS).then_some(bit)
    }

    /// Leaves the configurations in which the step has taken effect. `None` if that takes too long.
    fn force(&mut self, step: usize, budget: &mut u64) -> Option<()> {
        let bit = 1u128 << self.open[&step];
        let mut forced = Configs::default();
        let mut reached = Configs::default();
        let mut work = Vec::new();
        for ((state, mask), used) in std::mem::take(&mut self.configs.0) {
            for used in used {
                if mask & bit != 0 {
                    forced.add((state, mask), used);
                } else if reached.add((state, mask), used) {
                    work.push(((state, mask), used));
                }
            }
        }
        let mut looked_at = 0;
        while let Some((config, used)) = work.pop() {
            looked_at += 1;
            if looked_at > BUDGET_RETURN || looked_at > *budget {
                *budget -= looked_at.min(*budget);
                return None;
            }
            for (config, used) in self.successors(config, used) {
                if config.1 & bit != 0 {
                    forced.add(config, used);
                } else if reached.add(config, used) {
                    work.push((config, used));
                }
            }
        }
        *budget -= looked_at;
        self.configs = forced;
        Some(())
    }

    /// All configurations that one more effect leads to.
    fn successors(&self, (state, mask): Config, used: Used) -> Vec<(Config, Used)> {
        let mut successors = Vec::new();
        for (step, bit) in &self.open {
            if mask & (1 << bit) != 0 {
                continue;
            }
            if let Some(after) = self.steps[*step].kind.apply(state).filter(|it| *it != state) {
                successors.push((self.settle((after, mask | 1 << bit)), used));
            }
        }
        if used.0 < self.deletes && state != State::Absent {
            successors.push((self.settle((State::Absent, mask)), (used.0 + 1, used.1)));
        }
        if used.1 < self.makers && state == State::Absent {
            successors.push((self.settle((State::Anonymous, mask)), (used.0, used.1 + 1)));
        }
        successors
    }

    /// Lets every open read take effect that fits.
    fn settle(&self, (state, mut mask): Config) -> Config {
        for (step, bit) in &self.open {
            let kind = self.steps[*step].kind;
            if kind.is_read() && kind.apply(state).is_some() {
                mask |= 1 << bit;
            }
        }
        (state, mask)
    }

    fn settle_all(&mut self) {
        let mut settled = Configs::default();
        for (config, used) in std::mem::take(&mut self.configs.0) {
            let config = self.settle(config);
            for used in used {
                settled.add(config, used);
            }
        }
        self.configs = settled;
    }

    /// The step is over, whether it has taken effect or not; its bit is free.
    fn close(&mut self, step: usize) {
        let bit = self.open.remove(&step).expect("what ends has begun");
        let mut closed = Configs::default();
        for ((state, mask), used) in std::mem::take(&mut self.configs.0) {
            for used in used {
                closed.add((state, mask & !(1 << bit)), used);
            }
        }
        self.configs = closed;
    }
}

impl Configs {
    /// Adds a configuration, unless it is known at no higher cost. True if it was added.
    fn add(&mut self, config: Config, used: Used) -> bool {
        let known = self.0.entry(config).or_default();
        if known.iter().any(|it| it.0 <= used.0 && it.1 <= used.1) {
            return false;
        }
        known.retain(|it| it.0 < used.0 || it.1 < used.1);
        known.push(used);
        true
    }
}

impl Kind {
    fn is_read(self) -> bool {
        matches!(self, Self::ReadAbsent | Self::Read(_) | Self::ReadOther(_))
    }

    /// What the key has after it; `None` where it cannot be.
    fn apply(self, state: State) -> Option<State> {
        match (self, state) {
            (Self::ReadAbsent, State::Absent) | (Self::ReadOther(_), State::Anonymous) => {
                Some(state)
            }
            (Self::Read(value), State::Value(it)) => (value == it).then_some(state),
            (Self::ReadOther(value), State::Value(it)) => (value != Some(it)).then_some(state),
            (Self::Put(value), _) => Some(State::Value(value)),
            (Self::Delete, State::Value(_) | State::Anonymous) => Some(State::Absent),
            (Self::Cas(None, new), State::Absent) => Some(State::Value(new)),
            (Self::Cas(Some(old), new), State::Value(it)) => {
                (old == it).then_some(State::Value(new))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "linearizability_tests.rs"]
mod tests;
