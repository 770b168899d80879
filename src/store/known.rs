//! F3: what a sync that was left for a newer checkpoint has brought here, place by place.
//!
//! A walk over the checkpoint C (see `walk`) is left for one over C', and that for one over C''. At
//! each place something else is known to be here: up to which op.
//!
//! ```text
//!               START                                            END
//!   of C        | C          | K   | C     | K                     |    K: it had not come there
//!   then of C'  | C'    | C  | K   | C     | K                     |
//! ```
//!
//! A block of C'' is here, with all beneath it, if its op is none above those of its whole range
//! and no block beneath it is *lost*: fetched, and not written when the sync was left. Proof, for
//! the last walk, over C': the block is one of C' (*that is here*, in `walk`). Its range was no
//! wider there: a page is written anew when it gives up keys, and is not when a neighbour goes and
//! leaves it some. If it was visited, it was durable or is lost, and the same is true of those
//! that it refers to and that were come to. If it was left out, or one above it, it was here. If
//! it was not come to, then all of its range was not: there `Known` is what it was before, by
//! which the block is here; and a block that was lost before stays lost there. (C' led to C'', as
//! proven checkpoints do; of two that contradict each other nothing of this holds.)
//!
//! **Invariants:** bounded, and what does not fit is forgotten, never invented; segments are in
//! order and the last one ends at the end.
//!
//! **Not here:** how a walk comes to its places.

use super::walk::{Place, Range, SYNC_WINDOW};
use crate::wire::Op;

/// Ranges of different ops in [`Known`].
const SEGMENTS_MAX: usize = 256;

/// Lost blocks in [`Known`].
const LOST_MAX: usize = 4 * SYNC_WINDOW;

/// What is here, of blocks that the next checkpoint may have too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// Up to the place, from that of the one before on: what is here is up to this op. The last one
    /// ends at the end.
    segments: Vec<(Place, Op)>,
    /// The ranges of blocks that were fetched and are not here.
    lost: Vec<Range>,
}

impl Known {
    /// All of a checkpoint.
    pub(super) fn all_of(op: Op) -> Self {
        Self { segments: vec![(Place::End, op)], lost: Vec::new() }
    }

    /// All up to `op` is here, whatever else is.
    pub(super) fn raise(&mut self, op: Op) {
        for (_, known) in &mut self.segments {
            *known = (*known).max(op);
        }
    }

    /// The newest op up to which something is here.
    pub(super) fn op_max(&self) -> Op {
        self.segments.iter().map(|(_, op)| *op).max().expect("there is a last one")
    }

    /// Whether the block of `op` from `place` to `range_end` is here, with all that is beneath it.
    pub(super) fn has(&self, op: Op, place: &Place, range_end: &Place) -> bool {
        let after = self.segments.partition_point(|(end, _)| end <= place);
        let mut ops = self.segments[after..].iter();
        loop {
            let (end, known) = ops.next().expect("the last one ends at the end");
            if op > *known {
                return false;
            }
            if range_end <= end {
                break;
            }
        }
        !self.lost.iter().any(|(lost, end)| place <= lost && end <= range_end)
    }

    /// All of the checkpoint of `op` is here, but for what is in the gaps and for lost blocks.
    pub(super) fn learn(&mut self, op: Op, gaps: &[Range], lost: impl Iterator<Item = Range>) {
        let is_open =
            |(place, end): &Range| gaps.iter().any(|(gap, gap_end)| place < gap_end && gap < end);
        // The others were visited again.
        let mut lost: Vec<Range> =
            self.lost.iter().filter(|range| is_open(range)).cloned().chain(lost).collect();
        lost.sort();
        lost.dedup();
        if lost.len() > LOST_MAX {
            return;
        }
        let mut segments: Vec<(Place, Op)> = Vec::new();
        let mut push = |end: &Place, op: Op| match segments.last_mut() {
            Some(last) if last.1 == op => last.0 = end.clone(),
            _ => segments.push((end.clone(), op)),
        };
        let mut done = &Place::START;
        for (place, gap_end) in gaps {
            assert!(done <= place && place < gap_end);
            if done < place {
                push(place, op);
            }
            let after = self.segments.partition_point(|(end, _)| end <= place);
            for (end, op_before) in &self.segments[after..] {
                push(end.min(gap_end), *op_before);
                if end >= gap_end {
                    break;
                }
            }
            done = gap_end;
        }
        if *done < Place::End {
            push(&Place::End, op);
        }
        while segments.len() > SEGMENTS_MAX {
            // Those that differ least.
            let pairs = (1..segments.len()).map(|at| segments[at - 1].1.abs_diff(segments[at].1));
            let (at, _) = pairs.enumerate().min_by_key(|(_, diff)| *diff).expect("many");
            let (_, op) = segments.remove(at);
            segments[at].1 = segments[at].1.min(op);
        }
        assert!(segments.is_sorted_by(|a, b| a.0 < b.0));
        assert!(segments.last().is_some_and(|(end, _)| *end == Place::End));
        *self = Self { segments, lost };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;

    #[test]
    fn what_is_known_after_syncs_that_were_left_is_known_place_by_place() {
        const PLACES: usize = 40;
        let place = |at: usize| if at == PLACES { Place::End } else { Place::FreeSet(at as u64) };
        let range = |(at, end): &(usize, usize)| (place(*at), place(*end));
        let is_in = |range: &(usize, usize), at: usize| range.0 <= at && at < range.1;
        let mut prng = Prng::from_seed(1);
        for _ in 0..200 {
            let mut known = Known::all_of(5);
            let (mut ops, mut lost) = ([5; PLACES], Vec::<(usize, usize)>::new());
            for op in (10..).take(8) {
                let mut gaps = Vec::new();
                let mut at = prng.index(4);
                while at < PLACES && gaps.len() < 6 {
                    let end = (at + 1 + prng.index(9)).min(PLACES);
                    gaps.push((at, end));
                    at = end + 1 + prng.index(9);
                }
                let mut lost_new = Vec::new();
                for _ in 0..prng.below(3) {
                    let at = prng.index(PLACES);
                    lost_new.push((at, at + 1 + prng.index((PLACES - at).min(10))));
                }
                let is_gap = |at: usize| gaps.iter().any(|gap| is_in(gap, at));
                for at in (0..PLACES).filter(|at| !is_gap(*at)) {
                    ops[at] = op;
                }
                lost.retain(|lost| (lost.0..lost.1).any(is_gap));
                lost.extend(&lost_new);
                let gaps: Vec<Range> = gaps.iter().map(range).collect();
                known.learn(op, &gaps, lost_new.iter().map(range));
            }
            for _ in 0..100 {
                let at = prng.index(PLACES);
                let end = at + 1 + prng.index(PLACES - at);
                let op = prng.below(20);
                let is_lost = lost.iter().any(|lost| at <= lost.0 && lost.1 <= end);
                let is_known = ops[at..end].iter().all(|known| op <= *known);
                assert_eq!(known.has(op, &place(at), &place(end)), is_known && !is_lost);
            }
        }
    }

    #[test]
    fn what_is_known_is_bounded_and_forgets_only() {
        let place = |at: u64| Place::FreeSet(at);
        let mut known = Known::all_of(0);
        for op in 1..100 {
            let gaps: Vec<Range> =
                (0..50).map(|at| (place(at * 200 + op), place(at * 200 + op + 1))).collect();
            known.learn(op, &gaps, (0..10).map(|at| (place(at * 200 + op), place(at * 200 + 199))));
            assert!(known.segments.len() <= SEGMENTS_MAX && known.lost.len() <= LOST_MAX);
            let (segments, gap) = (known.segments.clone(), 200 + op);
            let at_gap = segments[segments.partition_point(|(end, _)| *end <= place(gap))].1;
            assert!(at_gap < op, "what was not come to is not known");
        }
        let before = known.clone();
        let many = |count: usize| (0..).map(|at| (place(at), place(at + 1))).take(count);
        known.learn(100, &[], many(LOST_MAX + 1));
        assert_eq!(known, before, "so much is not worth it");
        known.learn(100, &[], many(LOST_MAX));
        assert_eq!((known.op_max(), known.lost.len()), (100, LOST_MAX));
        known.learn(101, &[], std::iter::empty());
        assert_eq!(known, Known::all_of(101));
    }

    #[test]
    fn neighbours_of_one_op_are_one_segment() {
        let mut known = Known::all_of(5);
        known.learn(5, &[(Place::FreeSet(3), Place::FreeSet(4))], std::iter::empty());
        assert_eq!(known, Known::all_of(5));
        known.learn(9, &[(Place::START, Place::End)], std::iter::empty());
        assert_eq!(known, Known::all_of(5));
    }

    /// Of place `at` what is known is up to op `10 * at`, but for one.
    #[test]
    fn of_too_many_segments_those_that_differ_least_become_one() {
        let op_of = |at: u64| if at == 100 { 991 } else { 10 * at };
        let mut known = Known::all_of(0);
        for at in 1..=SEGMENTS_MAX as u64 {
            if at == SEGMENTS_MAX as u64 {
                assert_eq!(known.segments.len(), SEGMENTS_MAX);
            }
            let gap = (Place::START, Place::FreeSet(at));
            known.learn(op_of(at), &[gap], std::iter::empty());
        }
        assert_eq!(known.segments.len(), SEGMENTS_MAX);
        for at in 0..SEGMENTS_MAX as u64 {
            let (place, end) = (Place::FreeSet(at), Place::FreeSet(at + 1));
            let op = if at == 100 { 990 } else { op_of(at) };
            assert!(known.has(op, &place, &end) && !known.has(op + 1, &place, &end), "{at}");
        }
    }
}
