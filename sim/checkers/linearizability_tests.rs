//! The search against a naive one, on histories small enough for that.

use super::*;
use vsr::stdx::Prng;

/// Tries every order of the steps that are left.
fn naive(steps: &[Step], left: u32, state: State) -> bool {
    let of = |index: usize| left & (1 << index) != 0;
    let ends = (0..steps.len()).filter(|index| of(*index)).filter_map(|it| steps[it].returned);
    let Some(end) = ends.min() else { return true };
    (0..steps.len()).filter(|index| of(*index)).any(|index| {
        let step = &steps[index];
        let after = step.kind.apply(state).filter(|_| step.invoked < end);
        after.is_some_and(|after| naive(steps, left & !(1 << index), after))
    })
}

fn random_steps(prng: &mut Prng) -> Vec<Step> {
    let count = 1 + prng.index(7);
    let mut moments: Vec<u64> = (0..2 * count as u64).collect();
    for index in (1..moments.len()).rev() {
        moments.swap(index, prng.index(index + 1));
    }
    let spread = prng.below(2) == 0;
    let exact = prng.below(4) == 0;
    let values = count as u64;
    (0..count)
        .map(|index| {
            let own = Value::try_from(index).unwrap();
            let any = Value::try_from(prng.below(values)).unwrap();
            let kind = match prng.below(9) {
                0..=1 => Kind::Put(own),
                2 => Kind::Cas(None, own),
                3 => Kind::Cas(Some(any).filter(|any| *any != own), own),
                4 => Kind::Delete,
                5 => Kind::ReadAbsent,
                6 if exact => Kind::ReadOther((prng.below(2) == 0).then_some(any)),
                _ => Kind::Read(any),
            };
            let (a, b) = (moments[2 * index], moments[2 * index + 1]);
            // Half of the histories are nearly sequential, half very concurrent.
            let (a, b) = if spread { (a, b) } else { (2 * index as u64, 2 * index as u64 + 1 + a) };
            let known = kind.is_read() || prng.below(3) > 0;
            // Moments are distinct: odd for ends, even for beginnings.
            let (a, b) = (2 * a.min(b), 2 * a.max(b) + 1);
            let entry = Some(index);
            Step { kind, invoked: a * 8, returned: known.then_some(b * 8 + index as u64), entry }
        })
        .collect()
}

#[test]
fn agrees_with_the_naive_search() {
    let mut prng = Prng::from_seed(1);
    let (mut right, mut wrong) = (0, 0);
    for round in 0..200_000 {
        let steps = random_steps(&mut prng);
        let expected = naive(&steps, (1 << steps.len()) - 1, State::Absent);
        let mut budget = BUDGET;
        match linearize(&steps, &mut budget) {
            Verdict::Linearizable => assert!(expected, "round {round}: {steps:#?}"),
            Verdict::Not(..) => assert!(!expected, "round {round}: {steps:#?}"),
            Verdict::Undecided => panic!("round {round}: {steps:#?}"),
        }
        if expected { right += 1 } else { wrong += 1 }
    }
    assert!(right > 20_000, "{right}");
    assert!(wrong > 20_000, "{wrong}");
}

/// A put that takes from moment 0 to `end`.
fn put(index: u32, end: Option<u64>) -> Step {
    let entry = Some(index as usize);
    Step { kind: Kind::Put(index), invoked: u64::from(index), returned: end, entry }
}

#[test]
fn gives_up_and_says_so() {
    let mut steps: Vec<Step> = (0..24).map(|it| put(it, Some(1000 + u64::from(it)))).collect();
    let read = Step { kind: Kind::Read(99), invoked: 50, returned: Some(60), entry: Some(24) };
    steps.push(read);
    let mut budget = BUDGET;
    assert!(matches!(linearize(&steps, &mut budget), Verdict::Undecided));
    assert_eq!(budget, BUDGET - BUDGET_RETURN - 1);
    assert!(matches!(linearize(&steps, &mut 5), Verdict::Undecided));
    // More open calls than there are bits.
    let steps: Vec<Step> = (0..129).map(|it| put(it, Some(1000 + u64::from(it)))).collect();
    assert!(matches!(linearize(&steps, &mut budget), Verdict::Undecided));
}

#[test]
fn unknown_writes_that_nobody_saw_cost_nothing() {
    let mut steps: Vec<Step> = (0..500).map(|it| put(it, None)).collect();
    for index in 0..500 {
        let invoked = 1000 + 4 * index;
        let kind = if index % 2 == 0 { Kind::Delete } else { Kind::ReadAbsent };
        steps.push(Step { kind, invoked, returned: Some(invoked + 1), entry: Some(0) });
    }
    let mut budget = BUDGET;
    assert!(matches!(linearize(&steps, &mut budget), Verdict::Linearizable));
    assert!(budget > BUDGET - 2000, "{budget}");
    // One delete more than there are writes.
    let mut steps: Vec<Step> = (0..3).map(|it| put(it, None)).collect();
    for index in 0..4 {
        let invoked = 1000 + 4 * index;
        let kind = Kind::Delete;
        steps.push(Step { kind, invoked, returned: Some(invoked + 1), entry: Some(0) });
    }
    assert!(matches!(linearize(&steps, &mut budget), Verdict::Not(6, _)));
}
