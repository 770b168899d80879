//! F5: which logs of others make an uncertain head certain, and which say nothing of it. Replica 2,
//! whose log of view 0 ends at op 3, knows that op 2 is committed; the slot of op 4 is damaged.

use super::replica_tests::uncertain;
use super::test_bench::*;
use super::*;
use crate::wire::{BlockRef, DoViewChange, Header, StartViewChange};

/// The log `log` of `log_view` as replica `from` shows it in view 3.
fn shown(log: &[Message], from: u8, log_view: u32, commit_max: Op) -> Message {
    do_view_change(log, from, 3, log_view, commit_max)
}

fn shown_set(set: &HeaderSet, from: u8, log_view: u32) -> Message {
    let command = DoViewChange {
        op: set.op,
        commit_max: 2,
        log_view: View(log_view),
        present: 1,
        ..DoViewChange::default()
    };
    Message::new(&author(from, 3), command, &set.encode())
}

fn is_certain(bench: &Bench) -> bool {
    bench.replica.status() != Status::RecoveringHead
}

#[test]
fn two_that_never_acknowledged_it_make_the_head_certain() {
    let (mut bench, log) = uncertain();
    assert_eq!(bench.replica.ops_uncertain().collect::<Vec<_>>(), [4]);
    for _ in 0..3 {
        bench.receive(&shown(&log, 0, 0, 2));
        assert!(!is_certain(&bench), "one replica three times is one");
    }
    bench.receive(&shown(&log, 1, 0, 2));
    bench.settle();
    let replica = &bench.replica;
    assert_eq!((replica.status(), replica.view()), (Status::ViewChange, View(3)));
    assert_eq!((replica.op(), replica.log_view()), (3, View(0)));
}

#[test]
fn a_log_that_reaches_the_damaged_slot_is_no_word_against_it() {
    let (mut bench, log) = uncertain();
    let longer = [&log[..], &[next(0, &log[2], 2, 70)]].concat();
    // It contradicts itself, so it does not take the place of the own one.
    bench.receive(&shown(&longer, 0, 0, 9));
    bench.receive(&shown(&log, 1, 0, 2));
    bench.settle();
    assert!(!is_certain(&bench));
}

#[test]
fn a_longer_log_of_the_same_view_goes_on_where_the_own_one_ends() {
    let (mut bench, log) = uncertain();
    let longer = [&log[..], &[next(0, &log[2], 2, 70)]].concat();
    bench.receive(&shown(&longer, 0, 0, 2));
    bench.settle();
    assert!(is_certain(&bench));
    assert_eq!((bench.replica.op(), bench.replica.log_view()), (4, View(0)));
    // Another op 3 is none of that view.
    let (mut bench, log) = uncertain();
    let other = next(0, &log[1], 2, 71);
    let other = [&log[..2], &[other.clone(), next(0, &other, 2, 72)]].concat();
    bench.receive(&shown(&other, 0, 0, 2));
    bench.settle();
    assert!(!is_certain(&bench));
    assert_eq!(bench.replica.op(), 3);
}

#[test]
fn a_recovery_in_the_longer_log_is_known_with_it() {
    let (mut bench, log) = uncertain();
    let mut recovered = IncarnationTable {
        op: 4,
        op_before: 1,
        incarnations_before: table(3).incarnations,
        ..table(3)
    };
    recovered.incarnations[0] = 999;
    let longer = [&log[..], &[next(0, &log[2], 2, 70)]].concat();
    bench.receive(&shown_set(&HeaderSet { table: recovered, ..set_of(&longer, 4) }, 1, 0));
    bench.settle();
    assert!(is_certain(&bench));
    assert_eq!((bench.replica.op(), bench.replica.table), (4, recovered));
    assert_eq!(bench.replica.head.table, recovered);
}

#[test]
fn a_log_of_a_newer_view_takes_the_place_of_the_own_one() {
    let (mut bench, log) = uncertain();
    let newer = [&log[..2], &[next(1, &log[1], 2, 71)]].concat();
    bench.receive(&shown(&newer, 0, 1, 2));
    bench.settle();
    assert!(is_certain(&bench));
    assert_eq!((bench.replica.op(), bench.replica.log_view()), (3, View(1)));
    assert_eq!(bench.replica.journal.header(3).map(Header::id), Some(id(&newer[2])));
}

/// The log of view 1 is blank at op 3, which is damaged where it comes from; its op 4 names another
/// op 3 than the one that lies here. Nobody else could say that too few ever had that one.
#[test]
fn a_blank_op_whose_successor_names_another_than_the_own_one_was_never_acknowledged() {
    for (own_is_of_log, nack) in [(false, 0b10), (true, 0)] {
        let log = log_of(&[0, 0]);
        let mut bench = Bench::with_log(2, &log, 0, 2);
        for prepare in &log {
            bench.receive(prepare);
            bench.settle();
        }
        assert_eq!(bench.replica.ops_to_repair(), 0);
        let layout = crate::storage::Layout::new(GEOMETRY);
        bench.disk.write(layout.prepare_offset(5), &[0xAA; 4096]);
        bench.disk.write(layout.headers_offset(0) + 5 * 128, &[0xAA; 128]);
        let mut bench = bench.restart();
        bench.settle();
        assert_eq!(bench.replica.ops_uncertain().collect::<Vec<_>>(), [5]);
        bench.sent.clear();
        let third = if own_is_of_log { log[2].clone() } else { next(1, &log[1], 2, 71) };
        let newer = [&log[..2], &[third.clone(), next(1, &third, 2, 72)]].concat();
        let mut set = set_of(&newer, 3);
        assert_eq!((set.op, set.headers.len()), (4, 3));
        set.headers[1] = None;
        bench.receive(&shown_set(&set, 0, 1));
        bench.settle();
        assert!(is_certain(&bench));
        assert_eq!((bench.replica.op(), bench.replica.log_view()), (4, View(1)));
        let log = bench.replica.own_view_log();
        assert_eq!((log.set.headers.len(), log.nack), (3, nack | 0b1));
        let names: Vec<_> =
            log.set.headers.iter().map(|header| header.map(|own| own.id())).collect();
        let own = own_is_of_log.then(|| id(&third));
        assert_eq!(names[..2], [Some(id(&newer[3])), own], "blank, but for the one that it names");
        assert_eq!(log.present, if own_is_of_log { 0b110 } else { 0b100 });
    }
}

#[test]
fn a_log_that_cannot_be_this_replicas_does_not_take_its_place() {
    let log = log_of(&[0; 64]);
    let newer = |count: usize, view: u32| {
        [&log[..count - 1], &[next(view, &log[count - 2], 2, 71)]].concat()
    };
    for (what, log) in [
        ("no room for its head", shown(&newer(65, 1), 0, 1, 2)),
        ("it ends below what is committed here", shown(&log[..1], 0, 1, 1)),
        ("it ends below what it says is committed", shown(&newer(4, 1), 0, 1, 5)),
    ] {
        let (mut bench, _) = uncertain();
        bench.receive(&log);
        bench.settle();
        assert!(!is_certain(&bench), "{what}");
        assert_eq!((bench.replica.op(), bench.replica.log_view()), (3, View(0)), "{what}");
    }
    let (mut bench, log) = uncertain();
    let mut stranger = table(3);
    stranger.incarnations[2] = 999;
    let set =
        HeaderSet { table: stranger, ..set_of(&[&log[..], &[next(1, &log[2], 2, 7)]].concat(), 4) };
    bench.receive(&shown_set(&set, 0, 1));
    bench.settle();
    assert!(!is_certain(&bench), "another file is in its place");
    bench.receive(&shown(&newer(64, 1), 0, 1, 62));
    assert!(is_certain(&bench), "room for op 64");
}

/// All wait for this one, whose journal ends a checkpoint before the log that they want to go on
/// with: so it takes the checkpoint over with the log, or nobody would ever go on.
#[test]
fn a_log_of_a_newer_view_that_has_no_room_comes_with_its_checkpoint() {
    let (bench, _) = uncertain();
    assert_eq!(bench.replica.geometry.op_prepare_max(0), 64);
    let long = log_of(&[1; 65]);
    let set = set_of(&long, 4);
    assert_eq!(set.op, 66);
    let shown = |commit_max: Op, op_checkpoint: Op, log_view: u32| {
        let checkpoint = BlockRef { index: 7, op: op_checkpoint, checksum: 1, checksum_body: 2 };
        let command = DoViewChange {
            op: set.op,
            commit_max,
            checkpoint: if op_checkpoint == 0 { BlockRef::NONE } else { checkpoint },
            log_view: View(log_view),
            ..DoViewChange::default()
        };
        Message::new(&author(0, 3), command, &set.encode())
    };
    for useless in [shown(64, 0, 1), shown(61, 32, 1), shown(64, 31, 1)] {
        let (mut bench, _) = uncertain();
        bench.receive(&useless);
        bench.settle();
        assert!(!is_certain(&bench));
        assert!(!bench.replica.is_syncing());
    }
    let (mut bench, _) = uncertain();
    bench.receive(&shown(64, 32, 1));
    assert!(is_certain(&bench));
    takes_the_checkpoint_over(bench, &long, View(1));
}

#[test]
fn a_longer_log_of_the_same_view_that_has_no_room_comes_with_its_checkpoint() {
    let long = log_of(&[0; 65]);
    let set = set_of(&long, 4);
    let checkpoint = BlockRef { index: 7, op: 32, checksum: 1, checksum_body: 2 };
    let shown = |checkpoint: BlockRef| {
        let command =
            DoViewChange { op: set.op, commit_max: 64, checkpoint, ..DoViewChange::default() };
        Message::new(&author(0, 3), command, &set.encode())
    };
    let (mut bench, _) = uncertain();
    bench.receive(&shown(BlockRef::NONE));
    bench.settle();
    assert!(!is_certain(&bench));
    bench.receive(&shown(checkpoint));
    assert!(is_certain(&bench));
    takes_the_checkpoint_over(bench, &long, View(0));
}

/// Replica 2 has taken the log of 66 ops over with the checkpoint of op 32.
fn takes_the_checkpoint_over(mut bench: Bench, log: &[Message], log_view: View) {
    assert_eq!(bench.count_sent("do_view_change"), 0, "the checkpoint is not durable");
    bench.settle();
    let replica = &bench.replica;
    assert_eq!((replica.status(), replica.view()), (Status::ViewChange, View(3)));
    assert_eq!((replica.op(), replica.log_view(), replica.commit_min()), (66, log_view, 32));
    assert!(replica.is_syncing());
    assert_eq!(replica.superblock.state().op_checkpoint(), 32);
    assert_eq!(bench.drain_sent("do_view_change"), 2);
    // It has promised nothing of what has no room above its own checkpoint.
    for message in log.iter().skip_while(|message| id(message).op < 63) {
        let header = message.prepare_header();
        assert!(bench.replica.journal.may_nack(header.op(), Some(&header.id())));
    }
}

/// A recovery above what is committed is of this view's log, and may have been cut from a newer
/// one's.
#[test]
fn an_older_table_is_not_of_the_same_view() {
    let recovered = |bench: &mut Bench| {
        let mut newer = IncarnationTable {
            op: 3,
            op_before: 1,
            incarnations_before: table(3).incarnations,
            ..table(3)
        };
        newer.incarnations[1] = 999;
        bench.replica.table = newer;
        bench.replica.head.table = newer;
    };
    let (mut bench, log) = uncertain();
    recovered(&mut bench);
    let longer = [&log[..], &[next(0, &log[2], 2, 70)]].concat();
    bench.act(|replica, effects| {
        let header = shown(&longer, 0, 0, 2);
        let Command::DoViewChange(command) = header.header().command else { panic!() };
        let set = set_of(&longer, 4);
        let log = ViewLog { log_view: View(0), commit_max: 2, set, present: 1, nack: 0 };
        // Its own table is not durable in this test: what comes of it is looked at alone.
        assert!(!replica.may_install(&log, 0));
        replica.table = table(3);
        replica.head.table = table(3);
        replica.on_log_of_member(&header.header().with(command), &log, effects);
    });
    assert!(is_certain(&bench));
    let (mut bench, _) = uncertain();
    recovered(&mut bench);
    let newer = [&log[..], &[next(1, &log[2], 2, 70)]].concat();
    let set = set_of(&newer, 4);
    let log = ViewLog { log_view: View(1), commit_max: 2, set, present: 1, nack: 0 };
    assert!(bench.replica.may_install(&log, 0));
}

#[test]
fn a_log_that_ends_below_what_is_committed_stays_uncertain() {
    let (mut bench, log) = uncertain();
    bench.replica.commit_max = 5;
    bench.receive(&shown(&log, 0, 0, 2));
    bench.receive(&shown(&log, 1, 0, 2));
    bench.settle();
    assert!(!is_certain(&bench));
}

#[test]
fn votes_for_another_view_are_not_remembered() {
    let (mut bench, _) = uncertain();
    for from in [0, 1] {
        bench.receive(&message(from, 5, StartViewChange {}));
    }
    assert_eq!(bench.replica.votes, 0);
}
