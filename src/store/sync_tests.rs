//! F3, tests only: what is not on the disk: state sync, rot and the scrub, blocks for peers
//! (`test_node`).

use super::grid::READS_MAX;
use super::page::Value;
use super::test_node::*;
use super::*;
use crate::stdx::{Prng, Ratio};
use crate::storage::block::BlockKind;
use crate::storage::test_disk::TestDisk;

#[test]
fn sync_fetches_what_is_newer_and_nothing_else() {
    for seed in 50..56 {
        let history = History::random(seed);
        let mut peer = Node::new(history, 4096, 1000, seed);
        let mut node = Node::new(history, 4096, 8, seed + 1);
        let behind = 32 * (seed % 4);
        node.advance_to(behind);
        node.settle();
        peer.advance_to(32 * 7);
        peer.settle();
        let target = peer.superblock;
        let complete = node.superblock.op;
        let newer = peer.reachable(target);
        let newer: Vec<_> = newer.values().filter(|block| block.op > complete).collect();
        let mut disk = TestDisk::new(seed);
        disk.bytes.clone_from(&peer.disk.bytes);
        node.peer = Some(disk);
        node.protected.clear();
        node.superblock = target;
        let mut crashes = node.prng.below(3);
        // The store may have writes in flight when it is told to jump.
        for _ in 0..node.prng.below(4) {
            node.turn();
        }
        node.load(target);
        node.store.sync(complete);
        let mut fetched = 0;
        while node.store.is_syncing() {
            node.step();
            if crashes > 0 && node.prng.below(100) == 0 {
                crashes -= 1;
                fetched += node.store.sync_progress().blocks_fetched;
                node.crash();
                node.store.sync(complete);
            }
        }
        let progress = node.store.sync_progress();
        fetched += progress.blocks_fetched;
        assert!(fetched <= newer.len() as u64 + 3 * 64, "seed {seed}: {fetched}");
        let seen = progress.blocks_fetched + progress.blocks_found;
        assert_eq!(seen, newer.len() as u64, "seed {seed}");
        node.peer = None;
        node.reopen();
        node.protected = node.reachable(target);
        let model = history.model(target.op);
        node.check(&model);
        node.advance_to(32 * 10);
        node.settle();
        peer.advance_to(32 * 10);
        peer.settle();
        assert_eq!(node.superblock, peer.superblock);
    }
}

#[test]
fn a_sync_goes_on_where_it_was_when_a_newer_checkpoint_is_to_be_taken_over() {
    for (seed, steps, crash_every) in
        [(80, 60, 1000), (81, 100, 1000), (82, 180, 1000), (83, 150, 4), (84, 120, 7)]
    {
        let mut peer = node_to_scrub(seed);
        let mut prng = Prng::from_seed(seed);
        let mut node = Node::new(peer.history, 4096, 8, seed + 1);
        // A bound for what is visited: each block once, and for each target what is new in it, the
        // ways to where the last one came to, and what was on its way to the disk.
        let (mut visited_before, mut bound, mut targets) = (0, 0, 0);
        let mut before = BTreeMap::new();
        loop {
            targets += 1;
            let target = peer.superblock;
            let blocks = peer.reachable(target);
            let is_new = |entry: &(&u32, &BlockRef)| before.get(entry.0) != Some(entry.1);
            bound += blocks.iter().filter(is_new).count() as u64;
            bound += 10 + 64 + u64::from(peer.store.tree.root.height);
            before = blocks;
            let mut disk = TestDisk::new(seed);
            disk.bytes.clone_from(&peer.disk.bytes);
            (node.peer, node.superblock) = (Some(disk), target);
            node.protected.clear();
            node.load(target);
            node.store.sync(0);
            let is_crash = targets % crash_every == 0;
            for _ in 0..steps {
                node.step();
                if !node.store.is_syncing() {
                    break;
                }
            }
            let progress = node.store.sync_progress();
            let visited_last = progress.blocks_fetched + progress.blocks_found;
            let visited = visited_before + visited_last;
            assert!(
                visited <= bound,
                "seed {seed}: {visited} blocks of {bound}, {targets} targets"
            );
            if !node.store.is_syncing() {
                break;
            }
            if is_crash {
                // What was on the disk is found there, and read once more.
                node.crash();
                bound += visited;
                visited_before = visited;
            }
            delete_or_insert_many(&mut peer, &mut prng);
            change_and_checkpoint(&mut peer, &mut prng);
            assert!(targets < 100, "seed {seed}: no end of it");
        }
        assert!(targets > 2, "seed {seed}: {targets}");
        node.peer = None;
        assert_eq!(node.reachable(peer.superblock), before);
        node.reopen();
        assert_eq!(node.store.digest(), peer.store.digest());
    }
}

#[test]
fn rot_is_found_and_repaired() {
    for seed in 60..64 {
        let history = History::random(seed);
        let mut node = Node::new(history, 4096, 8, seed);
        node.advance_to(32 * 6);
        node.settle();
        node.reopen();
        let blocks = node.reachable(node.superblock);
        let mut peer = TestDisk::new(seed);
        peer.bytes.clone_from(&node.disk.bytes);
        node.peer = Some(peer);
        let indexes: Vec<u32> = blocks.keys().copied().collect();
        let grid_offset = Layout::new(node.options.geometry).grid_offset();
        for _ in 0..10 {
            let index = indexes[node.prng.index(indexes.len())];
            node.disk.rot(grid_offset + u64::from(index) * 4096);
        }
        if seed % 2 == 0 {
            // By what reads it first.
            node.reopen();
            let model = history.model(node.op);
            node.check(&model);
        }
        let laps = node.store.counters().scrub_laps;
        while node.store.counters().scrub_laps < laps + 3 || node.store.missing().count() > 0 {
            node.store.scrub(&mut node.requests);
            node.step();
            if seed % 3 == 0 && node.prng.below(50) == 0 && node.store.can_freeze() {
                // The scrub goes on over a new checkpoint.
                node.advance();
            }
        }
        node.settle();
        assert!(node.store.counters().blocks_repaired > 0);
        node.reachable(node.superblock);
    }
}

/// A store with a wide leaf of large values, one value of two levels, and many small ones.
fn node_to_scrub(seed: u64) -> Node {
    let history = History { value_size_max: 3000, key_size_max: 60, ..History::random(seed) };
    let mut node = Node::new(history, 4096, 1 << 20, seed);
    let (value, many) = (vec![3; 9000], vec![4; 198 * 3968 + 20_000]);
    for number in 0..30_u8 {
        node.attempt(|store| store.put(Table(4), &[number], &value));
    }
    node.attempt(|store| store.put(Table(4), &[15, 1], &many));
    for number in 0..700_u32 {
        let key = number.to_be_bytes();
        node.attempt(|store| store.put(Table([2, 6][number as usize % 2]), &key, &[5; 100]));
    }
    node.idle();
    node.protect();
    node
}

/// Scrubs one more block, and what is on the way to it.
fn scrub_one(node: &mut Node) {
    let read_before = node.store.counters().scrub_blocks_read;
    node.store.scrub(&mut node.requests);
    loop {
        node.step();
        let walk = node.store.walk.as_ref().unwrap();
        let is_reading = !walk.outstanding.is_empty() || !node.requests.is_empty();
        let next = walk.stack.last();
        if !is_reading && next.is_none_or(|next| walk.is_paced(next)) {
            break;
        }
    }
    assert!(node.store.counters().scrub_blocks_read > read_before);
}

/// Changes a few records, and makes a checkpoint of it.
fn change_and_checkpoint(node: &mut Node, prng: &mut Prng) {
    for _ in 0..prng.below(3) {
        let table = Table(u8::try_from(prng.below(9)).unwrap());
        let key = [u8::try_from(prng.below(70)).unwrap()];
        let value = vec![6; prng.index(6) * 1500];
        node.attempt(|store| store.put(table, &key, &value));
    }
    node.idle();
}

/// Deletes or inserts records of one range, so that pages merge, split, and lose neighbours.
fn delete_or_insert_many(node: &mut Node, prng: &mut Prng) {
    let (table, first) = (Table([2, 4, 6][prng.index(3)]), prng.below(700));
    let is_delete = prng.below(2) == 0;
    let count = prng.below(if is_delete { 60 } else { 10 });
    for number in first..first + count {
        let mut key = u32::try_from(number).unwrap().to_be_bytes().to_vec();
        if table == Table(4) {
            key = vec![key[3] % 30];
        }
        node.attempt(|store| match is_delete {
            true => store.delete(table, &key),
            false => store.put(table, &key, &[7; 100]),
        });
    }
}

#[test]
fn a_lap_of_the_scrub_ends_and_sees_all_however_often_checkpoints_come() {
    for (seed, blocks_between, laps_count) in [(200, 1, 2), (201, 3, 2), (202, 60, 3)] {
        let mut node = node_to_scrub(seed);
        node.peer = Some(TestDisk::new(seed));
        let mut prng = Prng::from_seed(seed);
        let mut seen = BTreeSet::new();
        for laps in 0..laps_count {
            let read_before = node.store.counters().scrub_blocks_read;
            // In use all the time, and what a lap may read.
            let mut stable = node.reachable(node.superblock);
            let in_use = stable.len() as u64;
            let mut bound = in_use;
            'lap: loop {
                for _ in 0..blocks_between {
                    scrub_one(&mut node);
                    seen.append(&mut node.reads.clone());
                    if node.store.counters().scrub_laps > laps {
                        break 'lap;
                    }
                    node.reads.clear();
                }
                change_and_checkpoint(&mut node, &mut prng);
                let after = node.reachable(node.superblock);
                let is_new = |block: &&BlockRef| block.op == node.superblock.op;
                bound += after.values().filter(is_new).count() as u64;
                // The root, of the free set and of a value two, and the tree.
                bound += 5 + u64::from(node.store.tree.root.height);
                stable.retain(|index, block| after.get(index) == Some(block));
                let read = node.store.counters().scrub_blocks_read - read_before;
                assert!(read <= bound, "{read} blocks read in a lap, of {in_use}");
                if node.store.counters().scrub_laps > laps {
                    break;
                }
            }
            seen.extend(&node.reads);
            let missed = stable.keys().filter(|index| !seen.contains(index)).count();
            assert_eq!(missed, 0, "seed {seed}, of {} that were in use all the time", stable.len());
            assert!(stable.len() as u64 > in_use / 2, "{} of {in_use}", stable.len());
            // The next lap may have begun with the last block of this one.
            seen = std::mem::take(&mut node.reads);
        }
    }
}

#[test]
fn the_scrub_reads_no_block_twice_in_a_quiet_lap() {
    let mut node = node_to_scrub(210);
    let in_use = node.reachable(node.superblock);
    node.reads.clear();
    while node.store.counters().scrub_laps == 0 {
        scrub_one(&mut node);
    }
    assert!(in_use.keys().all(|index| node.reads.contains(index)));
    let read = node.store.counters().scrub_blocks_read;
    // The first of the next lap, and the pages on the way to the second.
    assert!(read <= in_use.len() as u64 + 8, "{read} of {}", in_use.len());
}

#[test]
fn what_waits_for_a_missing_block_is_let_go_or_goes_on_when_it_reads_well() {
    let mut node = Node::new(History::random(70), 4096, 8, 70);
    node.advance_to(32);
    node.settle();
    node.reopen();
    let disk = node.disk.bytes.clone();
    let offset = usize::try_from(Layout::new(node.options.geometry).grid_offset()).unwrap();
    node.disk.bytes[offset..].fill(0);
    // Not by the steps of the others, which expect somebody to have it.
    let miss = |node: &mut Node| {
        assert_eq!(node.store.get(Table(0), b"key"), Err(Stop::Suspend));
        node.store.abandon_overlay();
        node.store.take_reads(&mut node.requests);
        node.submit();
        node.complete();
        assert!(!node.store.is_ready());
        node.store.awaited().expect("the first page of the tree")
    };
    let block = miss(&mut node);
    assert_eq!(node.store.missing().collect::<Vec<_>>(), [block]);
    assert!(block.op == 32 && !node.store.is_lost(), "others have the checkpoint too");
    node.store.release_attempts();
    assert_eq!(node.store.awaited(), None);
    assert!(node.store.is_ready(), "others may be tried");
    assert_eq!(node.store.missing().count(), 1, "it is asked for all the same");
    assert_eq!(miss(&mut node), block, "who cannot do without it waits again");
    assert_eq!(node.store.counters().blocks_bad, 1);

    let again = |node: &mut Node| {
        node.store.read_missing_again(&mut node.requests);
        node.store.read_missing_again(&mut node.requests);
        assert_eq!(node.requests.len(), 1, "once at a time");
        node.submit();
        node.complete();
    };
    again(&mut node);
    assert_eq!(node.store.awaited(), Some(block));
    node.disk.bytes = disk;
    again(&mut node);
    assert_eq!((node.store.awaited(), node.store.missing().count()), (None, 0));
    assert!(node.store.is_ready());
    let model = node.history.model(node.op);
    node.check(&model);
    assert_eq!(node.store.counters().blocks_repaired, 0, "there was nothing to write");
}

#[test]
fn a_block_that_was_written_early_and_rots_is_lost() {
    let history = History { keys_count: 3000, value_size_max: 300, ..History::random(68) };
    let mut node = Node::new(history, 4096, 1, 68);
    node.peer = Some(TestDisk::new(68));
    node.advance_to(32);
    node.settle();
    assert!(!node.store.is_lost());
    node.attempt(|store| store.put(Table(0), b"new", &[1; 10_000]));
    for index in 0..2000 {
        node.attempt(|store| {
            store.put(Table(1), &[1, u8::try_from(index % 250).unwrap()], &[2; 800])
        });
    }
    for _ in 0..200 {
        node.step();
    }
    assert!(node.store.tree.dirty.len() < 10);
    let offset = usize::try_from(Layout::new(node.options.geometry).grid_offset()).unwrap();
    let checkpoint = node.reachable(node.superblock);
    for (index, block) in node.disk.bytes[offset..].chunks_exact_mut(4096).enumerate() {
        if !checkpoint.contains_key(&u32::try_from(index).unwrap()) {
            block.fill(0);
        }
    }
    assert_eq!(node.store.get(Table(0), b"new"), Err(Stop::Suspend));
    node.store.abandon_overlay();
    for _ in 0..10 {
        node.store.take_reads(&mut node.requests);
        node.submit();
        node.complete();
    }
    assert!(node.store.is_lost() && !node.store.is_ready());
    // Deleting asks for what is lost too; loading the checkpoint is the way out.
    node.reopen();
    assert!(!node.store.is_lost());
    let model = history.model(32);
    node.check(&model);
}

#[test]
fn peers_are_served() {
    let history = History::random(70);
    let mut node = Node::new(history, 4096, 50, 70);
    node.advance_to(64);
    node.settle();
    let blocks = node.reachable(node.superblock);
    let mut left: BTreeSet<BlockRef> = blocks.values().copied().collect();
    for reference in blocks.values() {
        node.store.read_for_peer(reference, 3, &mut node.requests);
        node.step();
        for PeerBlock { requester, block } in node.store.take_peer_blocks() {
            assert_eq!(requester, 3);
            left.remove(&block.reference);
        }
    }
    for _ in 0..100 {
        node.step();
    }
    for PeerBlock { block, .. } in node.store.take_peer_blocks() {
        left.remove(&block.reference);
    }
    assert_eq!(left, BTreeSet::new());
    let other = BlockRef { checksum: 1, ..node.superblock };
    node.store.read_for_peer(&other, 3, &mut node.requests);
    for _ in 0..10 {
        node.step();
    }
    assert!(node.store.take_peer_blocks().is_empty());
}

#[test]
fn a_peer_that_asks_for_nothing_or_for_too_much_is_not_served() {
    let mut node = node_to_scrub(71);
    node.requests.clear();
    let block = node.superblock;
    node.store.read_for_peer(&BlockRef::NONE, 1, &mut node.requests);
    assert!(node.requests.is_empty());
    for requester in 0..READS_MAX as u64 + 9 {
        node.store.read_for_peer(&block, requester, &mut node.requests);
    }
    assert_eq!(node.requests.len(), READS_MAX);
    node.begin_load();
    node.requests.clear();
    node.store.is_draining = true;
    node.store.read_for_peer(&block, 1, &mut node.requests);
    assert!(node.requests.is_empty(), "what is there is being written over");
}

/// A store with three values of a block each, in the present interval.
fn node_with_values(seed: u64) -> Node {
    let mut node = Node::new(History::random(seed), 4096, 1 << 20, seed);
    for key in [b"a", b"b", b"c"] {
        node.store.put(Table(0), key, &[1; 2000]).unwrap();
        node.store.commit_overlay().unwrap();
    }
    assert_eq!(node.store.tree.root.height, 1);
    node
}

fn value_block(node: &Node, key: u8) -> BlockRef {
    let leaf = node.store.tree.page(&node.store.tree.root.reference, 0).unwrap();
    match leaf.value(leaf.search(&[0, key]).unwrap()) {
        Value::Large { reference, .. } => reference,
        Value::Inline(_) => panic!("a small value"),
    }
}

fn delete(node: &mut Node, key: u8) {
    node.store.delete(Table(0), &[key]).unwrap();
    node.store.commit_overlay().unwrap();
}

#[test]
fn what_nothing_refers_to_any_more_is_not_waited_for() {
    let mut node = node_with_values(72);
    for key in *b"abc" {
        // As if it had been written early.
        let (index, tree) = (value_block(&node, key).index, &mut node.store.tree);
        let slot = tree.cache.peek(index, tree.op).unwrap();
        tree.cache.entry_mut(slot).dirty = false;
        assert!(tree.dirty.remove(&(0, index)) && tree.cache.remove(index).is_some());
    }
    let miss = |node: &mut Node, key: u8| {
        assert_eq!(node.store.get(Table(0), &[key]), Err(Stop::Suspend));
        node.store.abandon_overlay();
        assert!(!node.store.is_ready());
    };
    miss(&mut node, b'a');
    // The file does not have it: it is missing at once.
    node.store.take_reads(&mut node.requests);
    assert!(node.store.is_lost() && !node.store.is_ready());
    delete(&mut node, b'a');
    assert!(!node.store.is_lost() && node.store.is_ready());
    miss(&mut node, b'b');
    miss(&mut node, b'c');
    let last = value_block(&node, b'c');
    delete(&mut node, b'b');
    assert!(node.store.tree.wanted.borrow().iter().eq([&last]));
    delete(&mut node, b'c');
    assert!(node.store.is_ready() && node.store.missing().count() == 0);
}

#[test]
fn a_missing_block_is_not_asked_for_when_its_place_has_another_one() {
    let mut node = node_with_values(73);
    node.checkpoint_alone();
    let block = value_block(&node, b'c');
    assert!(block.index > 1);
    node.store.grid.miss(&block, None);
    delete(&mut node, b'c');
    assert!(node.store.missing().eq([block]), "the checkpoint refers to it");
    node.checkpoint_alone();
    node.checkpoint_alone();
    assert!(node.store.tree.free_set.is_free(block.index));
    for number in 0..20 {
        node.store.put(Table(1), &[number], &[2; 2000]).unwrap();
        node.store.commit_overlay().unwrap();
    }
    assert_eq!(node.store.tree.cache.op_at(block.index), Some(node.store.tree.op));
    assert_eq!(node.store.missing().count(), 0);
}

#[test]
fn a_load_goes_on_when_what_was_missing_reads_well() {
    let mut node = node_with_values(74);
    node.checkpoint_alone();
    let (disk, root) = (node.disk.bytes.clone(), node.superblock);
    let at = Layout::new(node.options.geometry).grid_offset() + u64::from(root.index) * 4096;
    let at = usize::try_from(at).unwrap();
    node.disk.bytes[at..at + 4096].fill(0);
    node.begin_load();
    for _ in 0..4 {
        node.step_alone();
    }
    assert_eq!(node.store.awaited(), Some(root));
    node.disk.bytes = disk;
    node.store.read_missing_again(&mut node.requests);
    for _ in 0..20 {
        node.step_alone();
    }
    assert!(node.store.is_loaded() && node.store.is_ready());
    assert_eq!(node.store.loaded_extra(), extra(root.op));
}

// ---- the scrub, step by step

#[test]
fn the_scrub_reads_one_block_at_a_time_when_it_is_due() {
    let mut node = node_to_scrub(211);
    node.requests.clear();
    let mut ticks = 0;
    while node.requests.is_empty() {
        node.store.scrub_tick(&mut node.requests);
        ticks += 1;
        assert!(ticks < 10, "128 KiB in a second");
    }
    assert!(ticks > 1);
    for _ in 0..100 {
        node.store.scrub_tick(&mut node.requests);
    }
    assert_eq!(node.requests.len(), 1);
}

#[test]
fn the_scrub_waits_for_repairs_when_much_is_bad() {
    let mut node = node_to_scrub(212);
    node.requests.clear();
    let bad = |number: u32| BlockRef { index: 1 << 20 | number, ..node.superblock };
    let (first, all) = (bad(0), (0..64).map(bad).collect::<Vec<_>>());
    for block in &all {
        node.store.grid.miss(block, None);
    }
    node.store.scrub(&mut node.requests);
    assert!(node.requests.is_empty());
    node.store.grid.found(&first);
    node.store.scrub(&mut node.requests);
    assert_eq!(node.requests.len(), 1);
}

#[test]
fn a_lap_has_a_turn_for_each_leaf_part_of_a_value_and_chunk_and_ends_with_the_next() {
    let mut node = node_to_scrub(213);
    let blocks = node.reachable(node.superblock);
    let is_counted = |block: &&BlockRef| {
        let block = read_block(&node.disk, &node.options.geometry, block).unwrap();
        !matches!(block.kind, BlockKind::FreeSetIndex | BlockKind::Inner | BlockKind::ValueIndex)
    };
    let turns = blocks.values().filter(is_counted).count();
    for _ in 0..turns {
        scrub_one(&mut node);
        node.step();
        assert_eq!(node.store.counters().scrub_laps, 0);
    }
    assert_eq!(node.store.counters().scrub_blocks_read, blocks.len() as u64);
    scrub_one(&mut node);
    assert_eq!(node.store.counters().scrub_laps, 1);
}

#[test]
fn a_read_of_a_walk_that_was_begun_anew_finds_nobody() {
    let mut node = node_to_scrub(214);
    node.requests.clear();
    node.store.scrub(&mut node.requests);
    node.store.scrub_restart();
    assert_eq!(node.store.counters().scrub_laps, 0, "it goes on where it was");
    node.store.scrub(&mut node.requests);
    assert_eq!(node.requests.len(), 2);
    node.submit();
    while !node.disk.pending.is_empty() {
        node.complete();
    }
    let walk = node.store.walk.as_ref().unwrap();
    assert!(walk.outstanding.is_empty() && !walk.stack.is_empty());
}

#[test]
fn the_checkpoint_of_an_empty_store_is_scrubbed() {
    let mut node = Node::new(History::random(215), 4096, 8, 215);
    node.checkpoint_alone();
    while node.store.counters().scrub_laps == 0 {
        node.store.scrub(&mut node.requests);
        node.step_alone();
    }
    // The root, the way to the only chunk, and it; then the root once more.
    assert_eq!(node.store.counters().scrub_blocks_read, 6);
}

// ---- syncs, step by step

/// Begins to take over the checkpoint of `peer`.
fn take_over(node: &mut Node, peer: &Node) {
    let mut disk = TestDisk::new(85);
    disk.bytes.clone_from(&peer.disk.bytes);
    (node.peer, node.superblock) = (Some(disk), peer.superblock);
    node.protected.clear();
    node.load(peer.superblock);
}

#[test]
fn a_sync_finds_what_its_load_has_fetched() {
    let peer = node_to_scrub(87);
    let mut node = Node::new(peer.history, 4096, 8, 88);
    node.disk.bytes.resize(peer.disk.bytes.len(), 0);
    node.options.file_size = peer.disk.bytes.len() as u64;
    node.store = Store::open(&node.options);
    take_over(&mut node, &peer);
    node.store.sync(0);
    assert!(node.store.grid.has_repairs_due());
    node.store.take_reads(&mut node.requests);
    assert!(node.requests.is_empty(), "it is written before it is read");
    let mut outstanding_max = 0;
    while node.store.is_syncing() {
        node.step();
        let progress = node.store.sync_progress();
        assert_eq!(progress.blocks_missing, node.store.missing().count() as u64);
        outstanding_max = outstanding_max.max(progress.blocks_outstanding);
    }
    assert!(outstanding_max > 0);
    let progress = node.store.sync_progress();
    let blocks = peer.reachable(peer.superblock).len() as u64;
    // The root, the way to the only chunk, and it.
    assert_eq!((progress.blocks_found, progress.blocks_fetched), (5, blocks - 5));
    node.store.scrub(&mut node.requests);
    assert_eq!(node.store.sync_progress(), progress, "a scrub is none");
    node.store.sync(node.superblock.op);
    assert!(!node.store.is_syncing(), "there is nothing to do");
}

#[test]
fn what_a_sync_had_no_room_for_is_fetched_again_by_the_next() {
    let mut peer = node_to_scrub(85);
    let mut prng = Prng::from_seed(85);
    let mut node = Node::new(peer.history, 4096, 8, 86);
    node.growth_fails = Ratio::new(1, 1);
    take_over(&mut node, &peer);
    node.store.sync(0);
    let mut busy_max = 0;
    for _ in 0..2000 {
        node.step();
        let outstanding = node.store.walk.as_ref().unwrap().outstanding.len();
        busy_max = busy_max.max(outstanding + node.store.grid.repairs_count());
    }
    let fetched = node.store.sync_progress().blocks_fetched;
    assert!(fetched > 50, "{fetched}");
    assert_eq!(busy_max, READS_MAX, "no more than a peer reads at once");
    change_and_checkpoint(&mut peer, &mut prng);
    node.growth_fails = Ratio::new(0, 1);
    take_over(&mut node, &peer);
    node.store.sync(0);
    while node.store.sync_progress().blocks_outstanding < 5 {
        node.step();
    }
    change_and_checkpoint(&mut peer, &mut prng);
    take_over(&mut node, &peer);
    let progress = node.store.sync_progress();
    assert!(progress.blocks_fetched > fetched && progress.blocks_outstanding == 0);
    node.store.sync(0);
    while node.store.is_syncing() {
        node.step();
    }
    node.peer = None;
    assert_eq!(node.reachable(node.superblock), peer.reachable(peer.superblock));
}
