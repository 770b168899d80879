//! F3: loading a checkpoint, and how blocks that were read or fetched reach whoever waits for them.
//!
//! ```text
//!   load(checkpoint) ──► root block ──► root of the free set ──► … ──► chunks ──► loaded
//!                           each from the disk; where it is bad, from a peer
//! ```
//!
//! The pages of the tree are not loaded: they come when they are missed. A peer's block is verified
//! by its reference, and so is the whole state by the reference of the checkpoint.
//!
//! **Invariants:** a loaded store goes on exactly as the one that froze the checkpoint; a block is
//! delivered to each reader that waits for it once; before writes of the time before `load` are
//! done, nothing is read.
//!
//! **Not here:** whether the other blocks of the checkpoint are here (`walk`).

use super::cache::{Content, Entry};
use super::checkpoint::CheckpointRoot;
use super::grid::{READS_MAX, Reader, Writer};
use super::page::Page;
use super::tree::Tree;
use super::{PeerBlock, Store, SyncProgress};
use crate::constants::HEADER_SIZE;
use crate::storage::block::{BlockKind, StoredBlock, block_body_size_max};
use crate::storage::free_set::PageAddress;
use crate::storage::{FreeSet, ReadResult, Request, Token};
use crate::wire::{BlockRef, Op};

/// A checkpoint being loaded.
#[derive(Debug)]
pub(super) struct Load {
    /// To be read.
    pending: Vec<(Reader, BlockRef)>,
    /// Being read, or missing.
    outstanding: usize,
    free_set: FreeSet,
    root: Option<CheckpointRoot>,
}

impl Store {
    /// Forgets everything and begins to load `checkpoint`; [`BlockRef::NONE`] is the empty state.
    /// Then [`Self::take_reads`] until [`Self::is_loaded`]. Requests in flight are still to be
    /// answered. `op_complete` is the op of the newest checkpoint that was complete here: of a
    /// newer one, blocks that are missing are not bad.
    pub fn load(&mut self, checkpoint: BlockRef, op_complete: Op) {
        assert!(!self.is_in_memory);
        let cache_count_max = self.tree.cache.count_max();
        let op = checkpoint.op + self.interval;
        self.tree = Tree::new(self.grid.cluster, self.grid.block_size, op, cache_count_max);
        self.sync_leave();
        self.grid.reset();
        self.grid.is_incomplete = op_complete < checkpoint.op;
        self.is_draining = self.grid.has_repairs_due();
        self.abandon_overlay();
        (self.freezing, self.written, self.walk) = (None, None, None);
        self.peer_blocks.clear();
        self.early_cursor = (0, 0);
        self.checkpoint = checkpoint;
        self.header = [0; HEADER_SIZE as usize];
        self.extra.clear();
        if self.known.is_none() {
            self.synced = SyncProgress::default();
        }
        self.load = (!checkpoint.is_none()).then(|| Load {
            pending: vec![(Reader::LoadRoot, checkpoint)],
            outstanding: 0,
            free_set: FreeSet::new(self.grid.block_size),
            root: None,
        });
    }

    /// Whether there is a state: nothing is being loaded.
    pub fn is_loaded(&self) -> bool {
        self.load.is_none()
    }

    /// The header of the op of the checkpoint that was loaded; zeros of the empty one.
    pub fn loaded_header(&self) -> &[u8; HEADER_SIZE as usize] {
        assert!(self.is_loaded());
        &self.header
    }

    /// What the caller of `freeze` kept in the checkpoint that was loaded.
    pub fn loaded_extra(&self) -> &[u8] {
        assert!(self.is_loaded());
        &self.extra
    }

    /// Asks for the blocks that attempts, a load or a sync wait for. To be called each turn.
    pub fn take_reads(&mut self, requests: &mut Vec<Request>) {
        if self.is_draining {
            return;
        }
        self.take_load_reads(requests);
        self.take_page_reads(requests);
        self.take_walk_reads(requests);
        if self.walk.is_some() {
            self.take_scrub_reads(requests);
        }
    }

    fn take_load_reads(&mut self, requests: &mut Vec<Request>) {
        let Some(load) = &mut self.load else { return };
        while load.outstanding < READS_MAX {
            let Some((reader, reference)) = load.pending.pop() else { return };
            load.outstanding += 1;
            if !self.grid.read(&reference, reader, requests) {
                self.grid.miss(&reference, Some(reader));
            }
        }
    }

    fn take_page_reads(&mut self, requests: &mut Vec<Request>) {
        let mut left = READS_MAX - self.grid.reads_count(|reader| *reader == Reader::Page);
        while left > 0 {
            let Some(reference) = self.tree.wanted.borrow_mut().pop_first() else { return };
            if self.tree.cache.peek(reference.index, reference.op).is_some()
                || self.grid.is_reading(&reference, Reader::Page)
            {
                continue;
            }
            left -= 1;
            if !self.grid.read(&reference, Reader::Page, requests) {
                self.grid.miss(&reference, Some(Reader::Page));
            }
        }
    }

    /// The result of a request with [`Token::ReadBlock`].
    pub fn on_read_done(&mut self, token: Token, result: ReadResult) {
        let Token::ReadBlock { id } = token else { panic!("{token:?} is not a read of the store") };
        let Some((reference, reader, block)) = self.grid.on_read_done(id, result) else { return };
        match block {
            Ok(block) => {
                // What was bad a while ago may have been so on its way only.
                for waiting in self.grid.found(&reference).into_iter().filter(|it| *it != reader) {
                    self.deliver(waiting, &block, false);
                }
                self.deliver(reader, &block, false);
            }
            Err(_) => self.on_bad_block(&reference, reader),
        }
    }

    /// A request with [`Token::WriteBlock`] or [`Token::GrowGrid`] is durable.
    pub fn on_write_done(&mut self, token: Token) {
        match token {
            Token::GrowGrid => self.grid.on_growth_done(true),
            Token::WriteBlock { id } => {
                if self.grid.on_write_done(id) == Writer::CheckpointRoot {
                    self.on_root_written();
                }
                self.is_draining = self.is_draining && self.grid.has_repairs_due();
                self.trim();
            }
            other => panic!("{other:?} is not a write of the store"),
        }
    }

    /// A block came from a peer: verified to be the one that its reference names. It is taken if it
    /// is [`Self::missing`].
    pub fn on_block(&mut self, block: &StoredBlock) {
        let Some(readers) = self.grid.on_block(block) else { return };
        for reader in readers {
            self.deliver(reader, block, true);
        }
    }

    /// Blocks that are bad here, to be fetched from peers.
    pub fn missing(&self) -> impl Iterator<Item = BlockRef> + '_ {
        self.grid.missing()
    }

    /// The first of the [`Self::missing`] without which an attempt cannot go on, or a load; what a
    /// sync misses is not among them.
    pub fn awaited(&self) -> Option<BlockRef> {
        self.grid.missing_for(|reader| {
            matches!(reader, Reader::Page | Reader::LoadRoot | Reader::LoadFreeSet(_))
        })
    }

    /// Attempts wait for blocks that are missing no longer: those that cannot do without one miss
    /// it again when they are made again.
    pub fn release_attempts(&mut self) {
        self.grid.release_pages();
    }

    /// Reads what is missing again: for whoever has nobody to ask.
    pub fn read_missing_again(&mut self, requests: &mut Vec<Request>) {
        let left = READS_MAX - self.grid.reads_count(|reader| *reader == Reader::Again);
        let missing: Vec<_> = self.grid.missing().take(left).collect();
        for reference in missing.into_iter().filter(|_| !self.is_draining) {
            if !self.grid.is_reading(&reference, Reader::Again) {
                self.grid.read(&reference, Reader::Again, requests);
            }
        }
    }

    /// The block is not what it should be.
    fn on_bad_block(&mut self, reference: &BlockRef, reader: Reader) {
        match reader {
            Reader::Peer(_) | Reader::Again => {}
            Reader::Walk { .. } => self.on_walk_bad(reference, reader),
            Reader::Page | Reader::LoadRoot | Reader::LoadFreeSet(_) => {
                self.grid.miss(reference, Some(reader));
            }
        }
    }

    fn deliver(&mut self, reader: Reader, block: &StoredBlock, is_fetched: bool) {
        let taken = match reader {
            Reader::Page => self.on_page(block),
            Reader::LoadRoot => self.on_load_root(block),
            Reader::LoadFreeSet(address) => self.on_load_free_set(address, block),
            Reader::Walk { item, .. } => self.on_walk_block(reader, item, block, is_fetched),
            Reader::Peer(requester) => {
                self.peer_blocks.push(PeerBlock { requester, block: block.clone() });
                Ok(())
            }
            Reader::Again => Ok(()),
        };
        if let Err(reason) = taken {
            // Its checksums are right and it makes no sense: somebody wrote it so. A peer may have
            // another one of the same name.
            log::error!("block {:?}: {reason}", block.reference);
            self.on_bad_block(&block.reference, reader);
        }
    }

    /// A block of the tree or of a large value.
    fn on_page(&mut self, block: &StoredBlock) -> Result<(), &'static str> {
        let reference = &block.reference;
        let page_size = block_body_size_max(self.grid.block_size);
        let content = match block.kind {
            BlockKind::Leaf => Content::Page(Page::decode(block.body(), 0, page_size)?),
            BlockKind::Inner => {
                let level = block.body().get(2).copied().filter(|level| *level > 0);
                let level = level.ok_or("an inner page of no level")?;
                Content::Page(Page::decode(block.body(), level, page_size)?)
            }
            BlockKind::Value | BlockKind::ValueIndex => Content::Value(block.body().to_vec()),
            BlockKind::Checkpoint | BlockKind::FreeSet | BlockKind::FreeSetIndex => {
                return Err("no block of the tree");
            }
        };
        if self.tree.cache.op_at(reference.index).is_none_or(|op| op < reference.op) {
            let slot = self.tree.cache.insert(Entry::new(reference, block.kind, content));
            self.tree.cache.pin(slot);
            self.trim();
        }
        Ok(())
    }

    fn on_load_root(&mut self, block: &StoredBlock) -> Result<(), &'static str> {
        let load = self.load.as_mut().expect("its reader");
        if block.kind != BlockKind::Checkpoint {
            return Err("no root block");
        }
        let root = CheckpointRoot::decode(block.body())?;
        let address = load.free_set.root_address();
        load.pending.push((Reader::LoadFreeSet(address), root.free_set));
        load.root = Some(root);
        self.load_advance();
        Ok(())
    }

    fn on_load_free_set(
        &mut self,
        address: PageAddress,
        block: &StoredBlock,
    ) -> Result<(), &'static str> {
        let load = self.load.as_mut().expect("its reader");
        let kind = if address.0 == 0 { BlockKind::FreeSet } else { BlockKind::FreeSetIndex };
        if block.kind != kind {
            return Err("no block of the free set");
        }
        let mut beneath = Vec::new();
        load.free_set.load_page(address, &block.reference, block.body(), &mut beneath)?;
        for (address, reference) in beneath.into_iter().rev() {
            load.pending.push((Reader::LoadFreeSet(address), reference));
        }
        self.load_advance();
        Ok(())
    }

    fn load_advance(&mut self) {
        let load = self.load.as_mut().expect("a block of it was delivered");
        assert!(load.outstanding > 0);
        load.outstanding -= 1;
        if load.outstanding > 0 || !load.pending.is_empty() {
            return;
        }
        let Load { mut free_set, root, .. } = self.load.take().expect("just used");
        let root = root.expect("the free set comes after it");
        free_set.load_finish();
        self.tree.start_from(root.tree, free_set);
        self.header = root.header;
        self.extra = root.extra;
        assert_eq!(self.tree.op, self.checkpoint.op + self.interval);
    }
}
