//! The recovery table against all cases, and the two ways to judge a whole journal.

use super::*;
use crate::wire::{Author, PrepareId, ReplicaIndex};

const BODIES: [Body; 3] = [Body::Bad, Body::Formatted, Body::Whole];

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entry in ALL_ENTRIES {
        for body in BODIES {
            for relation in ALL_RELATIONS {
                for beyond in [false, true] {
                    for newest in [false, true] {
                        let (entry, relation) = (*entry, *relation);
                        let case = Case { entry, body, relation, beyond, newest };
                        if case.is_possible() {
                            cases.push(case);
                        }
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn every_possible_case_matches_exactly_one_row() {
    let cases = cases();
    for case in &cases {
        let rows = TABLE.iter().filter(|row| row.matches(case)).count();
        assert_eq!(rows, 1, "{case:?}");
    }
    for row in TABLE {
        assert!(cases.iter().any(|case| row.matches(case)), "row {} is dead", row.letter);
    }
}

#[test]
fn the_decisions_are_safe() {
    for case in cases() {
        let row = case.row();
        for decision in [row.many, row.one] {
            if matches!(decision, Decision::Keep | Decision::Fix) {
                assert_eq!(case.body, Body::Whole, "{case:?}: a prepare out of nothing");
            }
            if decision == Decision::Keep {
                assert_eq!(case.relation, Relation::Same, "{case:?}");
            }
            if matches!(decision, Decision::Nothing | Decision::Reset | Decision::Torn)
                && case.body != Body::Bad
            {
                assert_ne!(case.entry, Entry::Header, "{case:?}: forgets what was complete");
            }
            if case.beyond {
                assert_eq!(decision, Decision::Damaged, "{case:?}");
            }
        }
        if case.entry == Entry::Invalidated {
            assert_eq!(row.many, Decision::Damaged, "{case:?}: forgets that it was faulty");
        }
        if case.entry == Entry::Bad && !case.newest {
            assert_eq!(row.many, Decision::Damaged, "{case:?}");
        }
    }
}

/// A journal of 64 slots under construction: what the two rings hold.
struct Rings {
    frame: Frame,
    slots: Vec<Scanned>,
    chain: Vec<Header<Prepare>>,
}

impl Rings {
    fn new() -> Self {
        let cluster = ClusterId(3);
        let geometry =
            Geometry { message_size: 4096, journal_slots: 64, pipeline: 8, ..Geometry::default() };
        let frame = Frame { cluster, geometry, op_checkpoint: 0, op_head: 0, log_view: View(0) };
        let empty = Scanned { redundant: Some(Redundant::Formatted), stored: Stored::Formatted };
        let mut rings = Self { frame, slots: vec![empty; 64], chain: vec![Header::root(cluster)] };
        rings.put(0, true, true);
        for op in 1..=200 {
            let header = prepare(cluster, View(1), op, &rings.chain[rings.chain.len() - 1]);
            rings.chain.push(header);
        }
        rings
    }

    fn put(&mut self, op: usize, entry: bool, body: bool) {
        let header = self.chain[op];
        let slot = &mut self.slots[op % 64];
        if entry {
            slot.redundant = Some(Redundant::Header(header));
        }
        if body {
            slot.stored = Stored::Prepare { header, whole: true };
        }
    }

    fn fill(&mut self, op_max: usize) {
        for op in 1..=op_max {
            self.put(op, true, true);
        }
    }

    fn bad_body(&mut self, slot: usize) {
        self.slots[slot].stored = Stored::Bad;
    }

    fn bad_entry(&mut self, slot: usize) {
        self.slots[slot].redundant = None;
    }

    fn many(&self) -> Recovery {
        self.frame.recover_many(&self.slots)
    }

    fn one(&self) -> Result<Recovery, JournalLost> {
        self.frame.recover_one(&self.slots)
    }
}

fn prepare(cluster: ClusterId, view: View, op: Op, parent: &Header<Prepare>) -> Header<Prepare> {
    let author = Author { cluster, view, replica: ReplicaIndex(0), incarnation: 9 };
    let parent = parent.id().as_parent();
    let command = Prepare { op, parent, commit: op - 1, entry_count: 1, ..Prepare::default() };
    Header::seal(&author, command, &[1])
}

#[test]
fn a_whole_prepare_under_a_bad_entry_is_not_cut_above_a_torn_one() {
    let mut rings = Rings::new();
    rings.fill(9);
    // Op 10 was repaired when the power failed; op 11 was acknowledged, and its entry is rotten.
    rings.bad_body(10);
    rings.put(11, true, true);
    rings.bad_entry(11);
    let recovery = rings.many();
    assert_eq!(recovery.cut_torn, []);
    assert_eq!(recovery.outcomes[11], Outcome::Fix);
    assert_eq!(recovery.outcomes[10], Outcome::Faulty);
}

#[test]
fn torn_in_the_first_lap_is_cut() {
    let mut rings = Rings::new();
    rings.fill(9);
    rings.bad_body(10);
    rings.put(11, false, true);
    for recovery in [rings.many(), rings.one().unwrap()] {
        assert_eq!(recovery.cut_torn, [10, 11]);
        assert_eq!(recovery.outcomes[10], Outcome::Empty);
        assert_eq!(recovery.outcomes[11], Outcome::Drop);
    }
    // What never began is not torn: the one above it stays, with peers.
    rings.slots[10].stored = Stored::Formatted;
    assert_eq!(rings.many().outcomes[11], Outcome::Fix);
    assert_eq!(rings.one().unwrap().outcomes[11], Outcome::Drop);
}

#[test]
fn torn_in_a_later_lap_is_cut() {
    let mut rings = Rings::new();
    rings.fill(80);
    rings.frame.op_checkpoint = 64;
    rings.bad_body(81 % 64);
    for recovery in [rings.many(), rings.one().unwrap()] {
        assert_eq!(recovery.cut_torn, [81]);
        assert_eq!(recovery.outcomes[17], Outcome::Empty);
    }
}

#[test]
fn rot_inside_the_log_is_faulty_or_fatal() {
    let mut rings = Rings::new();
    rings.fill(20);
    rings.bad_body(20);
    let many = rings.many();
    assert_eq!(many.cut_torn, []);
    assert_eq!(many.outcomes[20], Outcome::Faulty);
    let lost = rings.one().unwrap_err();
    assert_eq!((lost.op, lost.slot), (20, 20));
}

#[test]
fn a_body_that_was_never_there_below_the_trusted_end_is_faulty_or_fatal() {
    let mut rings = Rings::new();
    rings.fill(20);
    let empty = Scanned { redundant: Some(Redundant::Formatted), stored: Stored::Bad };
    rings.slots[12] = empty;
    assert_eq!(rings.many().outcomes[12], Outcome::Faulty);
    let lost = rings.one().unwrap_err();
    assert_eq!((lost.op, lost.slot), (12, 12));
}

#[test]
fn a_rotten_header_sector_is_faulty_but_not_for_a_lone_replica() {
    let mut rings = Rings::new();
    rings.fill(20);
    for slot in 0..32 {
        rings.bad_entry(slot);
    }
    let many = rings.many();
    assert!(many.outcomes[0..20].iter().all(|outcome| *outcome == Outcome::Faulty));
    assert_eq!(many.outcomes[20], Outcome::Fix);
    assert!(many.outcomes[21..32].iter().all(|outcome| *outcome == Outcome::Faulty));
    let one = rings.one().unwrap();
    assert!(one.outcomes[0..=20].iter().all(|outcome| *outcome == Outcome::Fix));
    assert!(one.outcomes[21..32].iter().all(|outcome| *outcome == Outcome::Reset));
    // A body under a rotten header counts as complete: a gap below it is not a torn write.
    rings.bad_body(15);
    assert_eq!(rings.one().unwrap_err().op, 15);
}

#[test]
fn another_fault_beyond_the_end_makes_torn_writes_uncertain() {
    let mut rings = Rings::new();
    rings.fill(9);
    rings.bad_body(10);
    rings.bad_entry(40);
    let many = rings.many();
    assert_eq!(many.cut_torn, []);
    assert_eq!(many.outcomes[10], Outcome::Faulty);
    assert_eq!(many.outcomes[40], Outcome::Faulty);
}

#[test]
fn more_torn_writes_than_can_be_in_flight_are_damage() {
    let mut rings = Rings::new();
    rings.fill(9);
    for slot in 10..10 + JOURNAL_WRITES_MAX as usize {
        rings.bad_body(slot);
    }
    assert_eq!(rings.many().cut_torn.len(), JOURNAL_WRITES_MAX as usize);
    rings.bad_body(10 + JOURNAL_WRITES_MAX as usize);
    assert_eq!(rings.many().cut_torn, []);
}

#[test]
fn what_the_superblock_excludes_is_dropped_and_proves_nothing() {
    let mut rings = Rings::new();
    rings.fill(12);
    rings.frame.op_head = 8;
    rings.frame.log_view = View(2);
    rings.slots[9] =
        Scanned { redundant: Some(Redundant::Truncated(rings.chain[9].id())), stored: Stored::Bad };
    let many = rings.many();
    assert_eq!(many.cut_torn, [9]);
    assert!(many.outcomes[10..=12].iter().all(|outcome| *outcome == Outcome::Drop));
    assert_eq!(many.outcomes[8], Outcome::Keep);
}

#[test]
fn a_lone_replica_cuts_what_does_not_chain() {
    let mut rings = Rings::new();
    rings.fill(10);
    // Op 11 was torn once; op 12 of that time lies there still; then op 11 was written anew.
    let other = prepare(rings.frame.cluster, View(2), 11, &rings.chain[10]);
    rings.put(12, false, true);
    rings.slots[11] = Scanned {
        redundant: Some(Redundant::Header(other)),
        stored: Stored::Prepare { header: other, whole: true },
    };
    let one = rings.one().unwrap();
    assert_eq!(one.outcomes[11], Outcome::Keep);
    assert_eq!(one.outcomes[12], Outcome::Drop);
    assert_eq!(one.cut_torn, [12]);
}

#[test]
fn a_truncated_prepare_stays_away_and_its_successor_counts() {
    let mut rings = Rings::new();
    rings.fill(10);
    rings.slots[11] = Scanned {
        redundant: Some(Redundant::Truncated(rings.chain[11].id())),
        stored: Stored::Prepare { header: rings.chain[11], whole: true },
    };
    rings.slots[12] = Scanned {
        redundant: Some(Redundant::Truncated(PrepareId::default())),
        stored: Stored::Prepare { header: rings.chain[12], whole: true },
    };
    let many = rings.many();
    assert_eq!(many.outcomes[11], Outcome::Empty);
    assert_eq!(many.outcomes[12], Outcome::Fix);
}

/// The rows of the table that stand for the slots, by their letters.
fn letters(rings: &Rings) -> Vec<char> {
    rings.frame.rows(&rings.slots).iter().map(|row| row.letter).collect()
}

#[test]
fn a_prepare_of_the_same_op_that_the_entry_does_not_name_is_another_one() {
    let mut rings = Rings::new();
    rings.fill(20);
    let other = prepare(rings.frame.cluster, View(2), 5, &rings.chain[4]);
    assert_eq!(letters(&rings)[5], 'Q');
    rings.slots[5].stored = Stored::Prepare { header: other, whole: true };
    assert_eq!(letters(&rings)[5], 'P');
    rings.slots[5].redundant = Some(Redundant::Truncated(rings.chain[5].id()));
    assert_eq!(letters(&rings)[5], 'J');
    rings.slots[5].redundant = Some(Redundant::Truncated(other.id()));
    assert_eq!(letters(&rings)[5], 'L');
}

#[test]
fn only_what_the_checkpoint_permits_is_taken_from_either_ring() {
    let mut rings = Rings::new();
    rings.fill(64);
    assert_eq!(letters(&rings)[0], 'Q', "op 64 is the last on top of checkpoint 0");
    assert_eq!(rings.many().outcomes[0], Outcome::Keep);
    for (entry, body) in [(true, true), (true, false), (false, true)] {
        let mut rings = Rings::new();
        rings.put(65, entry, body);
        let row = if body { 'R' } else { 'S' };
        assert_eq!(letters(&rings)[1], row, "{entry} {body}");
        assert_eq!(rings.many().outcomes[1], Outcome::Faulty);
        assert!(rings.one().is_err());
    }
    // Over a prepare that is permitted, an entry that is not.
    rings.put(65, true, false);
    assert_eq!(letters(&rings)[1], 'R');
}

#[test]
fn what_lies_below_a_torn_write_is_not_cut_with_it() {
    let mut rings = Rings::new();
    rings.fill(8);
    rings.put(9, false, true);
    rings.bad_body(10);
    let many = rings.many();
    assert_eq!(many.cut_torn, [10]);
    assert_eq!(many.outcomes[9], Outcome::Fix);
    assert_eq!(many.outcomes[10], Outcome::Empty);
}

#[test]
fn the_op_of_a_slot_is_the_one_above_the_checkpoint() {
    let mut rings = Rings::new();
    for op_checkpoint in [0, 32, 64, 96] {
        rings.frame.op_checkpoint = op_checkpoint;
        for op in op_checkpoint + 1..=op_checkpoint + 64 {
            assert_eq!(rings.frame.op_of_lap(u32::try_from(op % 64).unwrap()), op);
        }
    }
}

#[test]
fn the_log_of_a_lone_replica_hangs_on_its_checkpoint() {
    let mut rings = Rings::new();
    rings.fill(70);
    rings.frame.op_checkpoint = 64;
    assert!(rings.one().is_ok());
    let stranger = prepare(rings.frame.cluster, View(1), 65, &rings.chain[9]);
    rings.slots[1] = Scanned {
        redundant: Some(Redundant::Header(stranger)),
        stored: Stored::Prepare { header: stranger, whole: true },
    };
    let lost = rings.one().unwrap_err();
    assert_eq!((lost.op, lost.slot), (65, 1));
    assert!(lost.what.contains("the chain of prepares breaks"), "{}", lost.what);
    // The slot of the checkpoint's op may hold the op a lap later: it says nothing of op 65.
    let mut rings = Rings::new();
    rings.fill(128);
    rings.frame.op_checkpoint = 64;
    assert!(rings.one().unwrap().outcomes.iter().all(|outcome| *outcome == Outcome::Keep));
}

#[test]
fn a_lone_replica_says_how_the_loss_shows() {
    let mut rings = Rings::new();
    rings.fill(20);
    rings.slots[12] = Scanned { redundant: Some(Redundant::Formatted), stored: Stored::Bad };
    let lost = rings.one().unwrap_err();
    assert!(lost.what.contains("row B") && lost.what.contains("inside the log"), "{}", lost.what);
    rings.slots[12].stored = Stored::Formatted;
    let lost = rings.one().unwrap_err();
    assert!(lost.what.contains("the chain of prepares breaks"), "{}", lost.what);
}
