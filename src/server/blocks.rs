//! F6: the traffic of the store's blocks: between its requests and the disk, and between replicas.
//!
//! ```text
//!   store ── take_reads, write_behind ──► IO ──► on_read_done, on_write_done ──► store
//!     │ missing                                                                    ▲
//!     └──► request_blocks ──► a peer: read_for_peer ──► take_peer_blocks ──► block ┘
//!   written in full ──► replica: superblock          suspended prepare, store ready ──► again
//! ```
//!
//! **Invariants:** a prepare that was suspended is tried again when what it missed is there, and no
//! other is executed before; a budget of bytes a turn leaves the disk to the journal; a block is
//! asked for again only after a while.
//!
//! **Not here:** which blocks there are (`store`), and which checkpoint counts (`replica`).

use super::missing::Missing;
use super::{Observer, Server};
use crate::bus::Peer;
use crate::fatal::{Fatal, FatalKind};
use crate::io::IO;
use crate::replica::BLOCKS_WANTED_MAX;
use crate::state_machine::StateMachine;
use crate::storage::block::{StoredBlock, block_reference};
use crate::wire::{Block, BlockRef, Command, Message, ReplicaIndex};
use std::collections::BTreeMap;

/// Bytes of blocks written in one turn at most.
const WRITE_BUDGET: u32 = 1 << 20;
/// Ticks until a block is asked for again.
const WANTED_TICKS: u64 = 20;
/// Ticks between two looks whether a full disk has room again.
const GROWTH_TICKS: u64 = 100;
/// Ticks that a peer has to bring a block that is in no checkpoint here.
pub(super) const LOST_TICKS: u64 = 300;
/// Ticks between two lines of the log on how far a sync has come.
const SYNC_LOG_TICKS: u64 = 100;

/// What is going on with blocks.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// A prepare that waits for blocks.
    pub(super) suspended: Option<Message>,
    /// Blocks asked for, and the tick from which they may be asked for again.
    wanted: BTreeMap<BlockRef, u64>,
    ticks: u64,
    /// The tick since which a block is lost, or now.
    lost_since: u64,
    pub(super) missing: Missing,
}

impl<S: StateMachine> Server<S> {
    /// Lets the store get on: to be called when blocks may have come, and once a turn.
    pub(super) fn blocks_advance<I: IO, O: Observer<S>>(
        &mut self,
        io: &mut I,
        observer: &mut O,
    ) -> Result<(), Fatal> {
        if let Some(loaded) = self.executor.take_loaded() {
            self.replica.on_checkpoint_loaded(&loaded, &mut self.effects);
            self.drain(io, observer)?;
        }
        if self.replica.is_loading() {
            // What waits is in the checkpoint that is being taken over.
            self.blocks.suspended = None;
        }
        // One attempt for each load that is complete: an attempt that misses again waits again.
        self.executor.store_mut().take_reads(&mut self.effects.requests);
        while self.blocks.suspended.is_some() && self.executor.store().is_ready() {
            let prepare = self.blocks.suspended.take().expect("seen just above");
            self.execute(&prepare, observer);
            self.drain(io, observer)?;
            self.executor.store_mut().take_reads(&mut self.effects.requests);
        }
        if self.blocks.suspended.is_none() && !self.queries.is_empty() {
            self.advance_queries();
        }
        self.drain(io, observer)
    }

    /// The same for queries that have no place in the log.
    fn advance_queries(&mut self) {
        assert!(self.blocks.suspended.is_none());
        if self.executor.store().is_ready() && !self.replica.is_loading() {
            self.answer_queries();
            self.executor.store_mut().take_reads(&mut self.effects.requests);
        }
    }

    /// Once at the end of a turn: what is frozen is written on, what is missing is asked for.
    pub(super) fn blocks_turn_end<I: IO, O: Observer<S>>(
        &mut self,
        io: &mut I,
        observer: &mut O,
    ) -> Result<(), Fatal> {
        self.blocks_advance(io, observer)?;
        let is_late = self.replica.checkpoint_is_late();
        let store = self.executor.store_mut();
        store.write_behind(WRITE_BUDGET, is_late, &mut self.effects.requests);
        let written = store.take_written_checkpoint();
        let (full, filled) = (store.is_full(), store.is_filled());
        if let Some(checkpoint) = written {
            self.replica.on_checkpoint_written(checkpoint, &mut self.effects);
        }
        self.replica.set_store_full(full, filled);
        self.request_missing();
        for found in self.executor.store_mut().take_peer_blocks() {
            let to = ReplicaIndex(u8::try_from(found.requester).expect("a replica's index"));
            let _ = self.bus.send(Peer::Replica(to), found.block.message());
        }
        self.drain(io, observer)
    }

    /// Once a tick.
    ///
    /// # Errors
    /// A block that was written since the newest checkpoint is bad, and nobody else has it.
    pub(super) fn blocks_tick(&mut self) -> Result<(), Fatal> {
        self.blocks.ticks += 1;
        if !self.executor.store().is_lost() {
            self.blocks.lost_since = self.blocks.ticks;
        } else if self.blocks.ticks - self.blocks.lost_since >= LOST_TICKS {
            return Err(Fatal::new(
                FatalKind::BlockLost,
                format!(
                    "{}: a block that was written since the newest checkpoint is damaged, and no \
                     other replica has it yet: start this one again, it computes the block from \
                     its log; if this comes again, replace the disk",
                    self.replica
                ),
            ));
        }
        self.missing_tick()?;
        let ticks = self.blocks.ticks;
        if ticks.is_multiple_of(SYNC_LOG_TICKS) {
            self.log_sync();
        }
        self.blocks.wanted.retain(|_, again| *again > ticks);
        let store = self.executor.store_mut();
        if store.is_full() && ticks.is_multiple_of(GROWTH_TICKS) {
            store.retry_growth();
        }
        store.scrub_tick(&mut self.effects.requests);
        Ok(())
    }

    fn log_sync(&self) {
        let Some((op, ticks)) = self.replica.syncing() else { return };
        let progress = self.executor.store().sync_progress();
        log::info!(
            "{}: taking over checkpoint {op} for {ticks} ticks: {} blocks were here, {} came from \
             others, {} are known to be missing",
            self.replica,
            progress.blocks_found,
            progress.blocks_fetched,
            progress.blocks_missing
        );
    }

    fn request_missing(&mut self) {
        let again = self.blocks.ticks + WANTED_TICKS;
        let wanted = &mut self.blocks.wanted;
        let asked: Vec<BlockRef> = self
            .executor
            .store()
            .missing()
            .filter(|missing| !wanted.contains_key(missing))
            .take(BLOCKS_WANTED_MAX)
            .collect();
        if asked.is_empty() {
            return;
        }
        wanted.extend(asked.iter().map(|block| (*block, again)));
        self.replica.request_blocks(&asked, &mut self.effects);
    }

    /// A peer asks for blocks.
    pub(super) fn on_request_blocks(&mut self, message: &Message) {
        let from = message.header().replica;
        if from == self.replica.replica() {
            return;
        }
        let (references, rest) = message.body().as_chunks::<{ BlockRef::SIZE }>();
        assert!(rest.is_empty(), "validated");
        for bytes in references.iter().take(BLOCKS_WANTED_MAX) {
            let requester = u64::from(from.0);
            let reference = BlockRef::decode(bytes);
            let store = self.executor.store_mut();
            store.read_for_peer(&reference, requester, &mut self.effects.requests);
        }
    }

    /// A block of a peer: taken if it is missing here, whoever sent it.
    pub(super) fn on_block(&mut self, message: &Message) {
        let header = message.header();
        let Command::Block(block @ Block { .. }) = header.command else {
            panic!("routed by its command");
        };
        let reference = block_reference(header, &block);
        self.blocks.wanted.remove(&reference);
        match StoredBlock::of_message(self.replica.cluster(), &reference, message.clone()) {
            Ok(block) => self.executor.store_mut().on_block(&block),
            Err(reason) => log::debug!("{}: on_block: ignoring ({reason})", self.replica),
        }
    }
}
