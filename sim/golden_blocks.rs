//! The blocks of the stores of the golden traces: between a store and its disk, and between
//! replicas. What a server does with them, without its clocks: nothing is asked for twice.
//!
//! **Invariants:** what is asked for, and what comes, is mail like all other.
//!
//! **Not here:** which blocks there are (`store`).

use super::{CLUSTER, Party, World};
use std::collections::BTreeSet;
use vsr::replica::{BLOCKS_WANTED_MAX, Effects};
use vsr::storage::block::{StoredBlock, block_reference};
use vsr::wire::{BlockRef, Command, Message};

/// Bytes of blocks written in one turn at most.
const WRITE_BUDGET: u32 = 1 << 20;

impl World {
    /// Lets the store of a replica get on, at the end of its turn.
    pub(super) fn blocks_advance(&mut self, replica: u8, effects: &mut Effects) {
        let Some(process) = &mut self.nodes[usize::from(replica)].process else { return };
        if let Some(loaded) = process.executor.take_loaded() {
            process.replica.on_checkpoint_loaded(&loaded, effects);
        }
        let store = process.executor.store_mut();
        store.take_reads(&mut effects.requests);
        let is_late = process.replica.checkpoint_is_late();
        store.write_behind(WRITE_BUDGET, is_late, &mut effects.requests);
        let found = store.take_peer_blocks();
        if let Some(checkpoint) = store.take_written_checkpoint() {
            process.replica.on_checkpoint_written(checkpoint, effects);
        }
        let missing: BTreeSet<BlockRef> = process.executor.store().missing().collect();
        process.wanted.retain(|block| missing.contains(block));
        let new = missing.difference(&process.wanted).take(BLOCKS_WANTED_MAX);
        let asked: Vec<BlockRef> = new.copied().collect();
        if !asked.is_empty() {
            process.wanted.extend(&asked);
            process.replica.request_blocks(&asked, effects);
        }
        for block in found {
            let to = u8::try_from(block.requester).expect("a replica");
            self.post(Party::Replica(replica), Party::Replica(to), block.block.message().clone());
        }
    }

    /// A peer asks for blocks, or brings one.
    pub(super) fn on_blocks(&mut self, replica: u8, message: &Message) {
        let mut effects = Effects::default();
        let process = self.nodes[usize::from(replica)].process.as_mut().expect("it is up");
        let store = process.executor.store_mut();
        let header = message.header();
        match header.command {
            Command::Block(block) => {
                let reference = block_reference(header, &block);
                let block = StoredBlock::of_message(CLUSTER, &reference, message.clone());
                store.on_block(&block.expect("what a replica sends is valid"));
            }
            _ => {
                let (references, _) = message.body().as_chunks::<{ BlockRef::SIZE }>();
                for bytes in references {
                    let requester = u64::from(header.replica.0);
                    let reference = BlockRef::decode(bytes);
                    store.read_for_peer(&reference, requester, &mut effects.requests);
                }
            }
        }
        self.drain(replica, &mut effects);
        self.act(replica, |_, _| {});
    }
}
