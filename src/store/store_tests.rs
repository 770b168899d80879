//! F3, tests only: stores that live differently, crash and fill up, against plain maps and each
//! other (`test_node`).

use super::test_node::*;
use super::*;
use crate::stdx::{Prng, Ratio};

#[test]
fn an_attempt_that_discards_its_writes_keeps_what_it_loaded() {
    let history =
        History { seed: 3, keys_count: 300, key_size_max: 60, value_size_max: 3000, batch_max: 20 };
    let mut node = Node::new(history, 4096, 1, 1);
    node.advance_to(64);
    node.settle();
    node.reopen();
    let records = node.store.counters().records;
    let read_all = |store: &Store| {
        let (mut count, all) = (0, (Bound::Unbounded, Bound::Unbounded));
        for table in (0..TABLES).map(Table) {
            store.scan(table, all.0, all.1, Direction::Forward, |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })?;
        }
        Ok(count)
    };
    let (before, after) = node.attempt(|store| {
        store.put(Table(0), b"discarded", b"value")?;
        let before = read_all(store)?;
        store.discard_writes();
        Ok((before, read_all(store)?))
    });
    assert_eq!((before, after), (records + 1, records));
    assert!(node.suspends_count > 0, "not all was in memory");
}

#[test]
fn checkpoints_after_idle_intervals_hold_everything() {
    for cache_blocks in [1, 1000] {
        let history = History::random(1);
        let mut node = Node::new(history, 4096, cache_blocks, 1);
        node.advance_to(20);
        let mut model = history.model(20);
        for _ in 0..5 {
            node.idle();
            node.check(&model);
        }
        // With little memory, pages are missed when they are to be changed, and all is undone.
        node.advance();
        apply(&mut model, &history.batch(node.op));
        node.check(&model);
        for _ in 0..2 {
            node.idle();
            node.crash();
            node.check(&model);
        }
    }
}

#[test]
fn stores_that_live_differently_write_the_same_checkpoints() {
    let mut suspends_count = 0;
    for seed in 0..12 {
        let history = History::random(seed);
        let block_size = [4096, 4096, 8192][usize::try_from(seed % 3).unwrap()];
        let mut quiet = Node::new(history, block_size, 1 << 20, seed);
        let mut small = Node::new(history, block_size, 1 + seed, seed + 1);
        let op_end = 32 * 7;
        quiet.advance_to(op_end);
        quiet.settle();
        while small.op < op_end {
            small.advance();
            if small.prng.below(60) == 0 {
                small.crash();
            }
        }
        small.settle();
        assert_eq!(quiet.checkpoints, small.checkpoints, "seed {seed}");
        assert_eq!(quiet.checkpoints.len(), 7);
        assert_eq!(quiet.suspends_count, 0);
        let model = history.model(op_end);
        assert_eq!(quiet.store.digest(), small.store.digest());
        quiet.check(&model);
        small.check(&model);
        small.crash();
        small.check(&model);
        suspends_count += small.suspends_count;
    }
    assert!(suspends_count > 1000, "{suspends_count}");
}

#[test]
fn checkpoints_of_intervals_without_a_write_can_be_loaded() {
    for op in [32, 40, 64 + 5] {
        let history = History::random(op);
        let mut node = Node::new(history, 4096, 50, op);
        node.advance_to(op);
        let model = history.model(op);
        node.is_reading = true;
        for checkpoint in 3..9 {
            node.advance_to(checkpoint * 32);
            node.settle();
            node.protect();
            node.check(&model);
        }
        node.crash();
        node.check(&model);
    }
}

#[test]
fn what_a_checkpoint_uses_is_what_it_refers_to() {
    for seed in 20..26 {
        let history = History::random(seed);
        let mut node = Node::new(history, 4096, 50, seed);
        for checkpoint in 1..10 {
            node.advance_to(checkpoint * 32);
            node.settle();
            node.reopen();
            let reachable = node.reachable(node.superblock);
            let free_set = &node.store.tree.free_set;
            for index in 0..free_set.required() {
                let is_reachable = reachable.contains_key(&index);
                assert_eq!(free_set.is_used(index), is_reachable, "block {index}");
            }
            assert!(reachable.keys().all(|index| *index < free_set.required()));
        }
    }
}

#[test]
fn a_crash_after_any_write_loads_the_superblocks_checkpoint() {
    let history =
        History { seed: 30, keys_count: 300, key_size_max: 60, value_size_max: 3000, batch_max: 8 };
    let mut node = Node::new(history, 4096, 30, 30);
    let mut writes_count = 0;
    while node.op < 32 * 6 {
        node.advance();
        if node.disk.writes_count > writes_count + 5 {
            let model = history.model(node.superblock.op);
            node.crash();
            writes_count = node.disk.writes_count;
            node.check(&model);
            // On to where it was, and a little further.
            node.advance_to(node.op + 40);
        }
    }
    assert!(node.checkpoints.len() >= 5);
}

#[test]
fn a_crash_at_every_step_of_a_checkpoint() {
    let history = History {
        seed: 35,
        keys_count: 200,
        key_size_max: 60,
        value_size_max: 3000,
        batch_max: 12,
    };
    let mut undisturbed = Node::new(history, 4096, 1000, 35);
    undisturbed.advance_to(32 * 4);
    undisturbed.settle();
    let models = [history.model(32), history.model(64)];
    let mut loaded = BTreeMap::new();
    for steps in 0.. {
        let mut node = Node::new(history, 4096, 6, 36);
        node.advance_to(63);
        node.settle();
        node.advance();
        let mut left = steps;
        while left > 0 && !node.store.can_freeze() {
            node.step();
            left -= 1;
        }
        let is_settled = node.store.can_freeze();
        node.crash();
        *loaded.entry(node.op).or_insert(0) += 1;
        node.check(&models[usize::try_from(node.op / 32 - 1).unwrap()]);
        node.advance_to(32 * 4);
        node.settle();
        for (op, checkpoint) in &node.checkpoints {
            assert_eq!(undisturbed.checkpoints[op], *checkpoint);
        }
        assert_eq!(node.superblock, undisturbed.superblock);
        if is_settled {
            break;
        }
    }
    assert!(loaded[&32] > 10, "{loaded:?}");
    assert!(loaded[&64] >= 1, "{loaded:?}");
}

#[test]
fn a_full_disk_stops_checkpoints_and_nothing_else() {
    let history =
        History { keys_count: 3000, value_size_max: 3000, batch_max: 20, ..History::random(40) };
    let mut undisturbed = Node::new(history, 4096, 100, 40);
    let mut node = Node::new(history, 4096, 2000, 41);
    undisturbed.advance_to(64);
    undisturbed.settle();
    node.advance_to(32);
    node.growth_fails = Ratio::new(1, 1);
    while !node.store.is_full() {
        node.advance();
        assert!(node.op < 60, "there is more than the grid has room for");
    }
    node.advance_to(60);
    let model = history.model(60);
    node.check(&model);
    node.growth_fails = Ratio::new(1, 2);
    node.advance_to(64);
    node.settle();
    assert!(!node.store.is_full());
    assert_eq!(node.checkpoints, undisturbed.checkpoints);
}

#[test]
fn memory_is_bounded_while_the_disk_is_full() {
    let history = History {
        seed: 45,
        keys_count: 3000,
        key_size_max: 60,
        value_size_max: 1000,
        batch_max: 60,
    };
    let mut undisturbed = Node::new(history, 4096, 2000, 45);
    undisturbed.advance_to(96);
    undisturbed.settle();
    for cache_blocks in [1, 160] {
        let mut node = Node::new(history, 4096, cache_blocks, 46);
        node.advance_to(32);
        node.settle();
        node.growth_fails = Ratio::new(1, 1);
        let (mut blocks_max, mut filled_count) = (0, 0);
        let bound = cache_blocks.max(128);
        loop {
            // What there is a place for is written.
            for _ in 0..300 {
                node.step();
            }
            if node.store.is_full() && node.store.is_congested() {
                break;
            }
            node.advance();
            filled_count += u64::from(node.store.is_filled());
            assert!(node.op < 95, "there is more than memory may hold");
        }
        assert!(filled_count > 0, "a warning comes first");
        for _ in 0..1000 {
            // An attempt suspends, and reading does not.
            let put = node.store.put(Table(0), b"more", b"");
            assert!(put.is_err() || node.store.commit_overlay().is_err());
            node.store.abandon_overlay();
            node.step();
            blocks_max = blocks_max.max(node.store.unwritten_count() as u64);
        }
        // A batch that is under way when the bound is met ends.
        assert!(blocks_max <= bound + 130, "{blocks_max} blocks in memory, of {cache_blocks}");
        assert!(node.store.is_filled() && node.op < 96);
        node.growth_fails = Ratio::new(1, 3);
        node.advance_to(96);
        node.settle();
        assert!(!node.store.is_full() && !node.store.is_filled());
        assert_eq!(node.checkpoints, undisturbed.checkpoints);
    }
}

#[test]
fn at_the_size_limit_the_grid_is_full() {
    let history = History { value_size_max: 3000, batch_max: 20, ..History::random(42) };
    let mut node = Node::new(history, 4096, 20, 42);
    node.options.size_limit = node.options.file_size + (1 << 20);
    node.store = Store::open(&node.options);
    while !node.store.is_full() {
        node.advance();
        assert!(node.op < 31, "the limit is reached in the first interval");
    }
    let model = history.model(node.op);
    node.check(&model);
    assert!(node.disk.bytes.len() as u64 <= node.options.size_limit);
}

/// A store of `count` records of 100 bytes, and what its checkpoint costs after a change of
/// `changed` neighbours, or of as many anywhere: blocks, and blocks in all.
fn cost_of_change(count: u32, changed: u32, are_neighbours: bool) -> (u64, u64) {
    let history = History::random(80);
    let mut node = Node::new(history, 4096, 1 << 20, 80);
    let put = |store: &mut Store, number: u32, value: u8| {
        store.put(Table(1), &number.to_be_bytes(), &[value; 90])
    };
    let freeze = |node: &mut Node| {
        let op = node.store.op_freeze();
        node.store.freeze(op, &header(op), &extra(op));
        node.settle();
        node.store.counters()
    };
    for start in (0..count).step_by(1000) {
        for number in start..start + 1000 {
            put(&mut node.store, number, 1).unwrap();
        }
        node.store.commit_overlay().unwrap();
    }
    freeze(&mut node);
    let before = freeze(&mut node);
    let mut prng = Prng::from_seed(81);
    for neighbour in count / 2..count / 2 + changed {
        let anywhere = u32::try_from(prng.below(u64::from(count))).unwrap();
        let number = if are_neighbours { neighbour } else { anywhere };
        put(&mut node.store, number, 2).unwrap();
    }
    node.store.commit_overlay().unwrap();
    let after = freeze(&mut node);
    (after.checkpoint_blocks_written - before.checkpoint_blocks_written, after.grid_blocks_used)
}

#[test]
fn a_checkpoint_costs_what_changed() {
    for (count, changed, are_neighbours) in [
        (100_000, 1000, true),
        (400_000, 4000, true),
        (400_000, 1000, true),
        (400_000, 4000, false),
        (400_000, 400, false),
    ] {
        let (cost, blocks) = cost_of_change(count, changed, are_neighbours);
        println!(
            "{changed} of {count} records changed, {}: {} bytes written, of {} bytes in use",
            if are_neighbours { "neighbours" } else { "anywhere" },
            cost * 4096,
            blocks * 4096
        );
    }
    let (cost, blocks) = cost_of_change(100_000, 1000, true);
    assert!(blocks > 2500, "{blocks} blocks");
    // The leaves, the way to them, the free set and its tree, the root.
    assert!(cost <= blocks / 100 + 16, "{cost} of {blocks} blocks for 1%");
    let (of_smaller, _) = cost_of_change(20_000, 1000, true);
    assert!(cost <= of_smaller + 4, "{cost} and {of_smaller}");
    // Anywhere: at most a leaf for each record, and all inner pages.
    let (cost, blocks) = cost_of_change(100_000, 100, false);
    assert!(cost <= 100 + blocks / 20 + 16, "{cost} of {blocks} blocks for 100 records");
}

#[test]
fn values_of_all_sizes_come_back() {
    let page = 4096 - 128;
    let mut node = Node::new(History::random(90), 4096, 10, 90);
    let sizes = [0, 1, 28, 29, 900, 985, 986, 987, page - 1, page, page + 1];
    let large = [page * 198, page * 198 + 1, 8 << 20];
    for key_size in [0, 1, 100, 1024] {
        for size in sizes.into_iter().chain(large).filter(|size| *size < 2000 || key_size == 1) {
            let value = vec![u8::try_from(size % 250).unwrap(); size];
            let key = vec![9; key_size];
            node.attempt(|store| store.put(Table(0), &key, &value));
            let found = node.attempt(|store| store.get(Table(0), &key));
            assert_eq!(found.unwrap().len(), size);
            for size_max in [0, 8, START_SIZE_MAX] {
                let start = node.attempt(|store| store.get_start(Table(0), &key, size_max));
                let start = start.expect("it is there");
                assert_eq!(start.size as usize, size);
                assert_eq!(start.bytes, value[..size.min(size_max as usize)]);
            }
            for _ in 0..20 {
                node.step();
            }
        }
        node.attempt(|store| store.delete(Table(0), &vec![9; key_size]));
    }
    assert_eq!(node.store.counters().records, 0);
    assert_eq!(node.store.tree.root, tree::Root::default());
    assert_eq!(node.store.digest(), Store::new().digest());
}

#[test]
fn the_start_of_a_value_costs_one_block() {
    let mut node = Node::new(History::random(91), 4096, 4000, 91);
    for (key, size) in [(1, 1 << 20), (2, 100)] {
        node.attempt(|store| store.put(Table(0), &[key], &vec![key; size]));
    }
    node.checkpoint_alone();
    node.settle();
    node.reopen();
    let mut blocks_read = |read: &dyn Fn(&Store) -> Result<Option<Start>, Stop>| {
        let before = node.store.counters().blocks_read;
        let start = node.attempt(|store| read(store));
        (start, node.store.counters().blocks_read - before)
    };
    let start = |size, bytes: &[u8]| Some(Start { size, bytes: Bytes::copy_from_slice(bytes) });
    // On the way: a leaf, of the large value two levels of references.
    let (found, reads) = blocks_read(&|store| store.get_start(Table(0), &[2], 3));
    assert_eq!((found, reads), (start(100, &[2; 3]), 1));
    let (found, reads) = blocks_read(&|store| store.get_start(Table(0), &[1], 0));
    assert_eq!((found, reads), (start(1 << 20, &[]), 0));
    let (found, reads) = blocks_read(&|store| store.get_start(Table(0), &[1], 8));
    assert_eq!((found, reads), (start(1 << 20, &[1; 8]), 3));
    let (found, _) = blocks_read(&|store| store.get_start(Table(0), &[3], 8));
    assert_eq!(found, None);
}

#[test]
fn memory_is_bounded() {
    let history = History {
        seed: 100,
        keys_count: 20_000,
        key_size_max: 8,
        value_size_max: 900,
        batch_max: 40,
    };
    let mut node = Node::new(history, 4096, 200, 100);
    let mut blocks_max = 0;
    while node.op < 32 * 6 {
        node.advance();
        blocks_max = blocks_max.max(node.store.counters().cache_blocks);
    }
    assert!(node.store.counters().grid_blocks_used > 400);
    assert!(blocks_max < 200 + 200, "{blocks_max} blocks in memory");
}

#[test]
fn queues_say_how_full_they_are_and_may_be() {
    let found = |store: &Store| -> Vec<(&'static str, u64, u64)> {
        store.bounds().iter().map(|bound| (bound.name, bound.count, bound.max)).collect()
    };
    assert_eq!(found(&Store::in_memory()), [("writes_of_blocks", 0, 16)]);
    let node = Node::new(History::random(1), 4096, 100, 1);
    let max = node.store.unwritten_max() as u64 + 1024;
    let expected = [("writes_of_blocks", 0, 16), ("blocks_unwritten", 0, max)];
    assert_eq!(found(&node.store), expected);
}

#[test]
fn prefetch_brings_all_paths_together() {
    let history = History { value_size_max: 300, batch_max: 20, ..History::random(2) };
    let mut node = Node::new(history, 4096, 4000, 110);
    node.advance_to(64);
    node.settle();
    node.reopen();
    let model = history.model(64);
    let mut rounds = 0;
    while !node.store.prefetch(model.keys().map(|(table, key)| (Table(*table), key.as_slice()))) {
        rounds += 1;
        node.step();
        while !node.store.is_ready() {
            node.step();
        }
    }
    assert!(rounds <= u64::from(node.store.tree.root.height), "a level at a time");
}

#[test]
fn the_systems_table_has_its_own_door() {
    let mut store = Store::new();
    store.table_put(TABLE_SYSTEM, b"k", b"v").unwrap();
    store.put(Table(254), b"k", b"w").unwrap();
    store.commit_overlay().unwrap();
    assert_eq!(store.table_get(TABLE_SYSTEM, b"k").unwrap().unwrap(), b"v".as_slice());
    let mut rows = Vec::new();
    let all = (Bound::Unbounded, Bound::Unbounded);
    let visit = |key: &[u8], _: &Bytes| {
        rows.push(key.to_vec());
        Ok(ControlFlow::Continue(()))
    };
    store.table_scan(TABLE_SYSTEM, all.0, all.1, Direction::Backward, visit).unwrap();
    assert_eq!(rows, [b"k"]);
}

/// A chunk of the free set has 15872 places.
#[test]
fn a_store_of_more_than_one_chunk_of_places_is_loaded_whole() {
    let mut node = Node::new(History::random(43), 4096, 1 << 20, 43);
    for number in 0..5_u8 {
        node.store.put(Table(0), &[number], &vec![number; VALUE_SIZE_MAX]).unwrap();
        node.store.commit_overlay().unwrap();
    }
    node.checkpoint_alone();
    let places = |node: &Node| {
        let free_set = &node.store.tree.free_set;
        (free_set.used_count(), free_set.required())
    };
    let before = places(&node);
    assert!(before.0 > 15_872 && before.1 < 2 * 15_872);
    node.begin_load();
    while !node.store.is_loaded() {
        assert!(!node.store.is_ready());
        node.step_alone();
    }
    assert!(node.store.is_ready());
    assert_eq!(places(&node), before);
}
