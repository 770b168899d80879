//! F2: a block of the grid: one header, one body, one place, never changed while a checkpoint
//! refers to it.
//!
//! ```text
//! 0            128                    header.size          block_size
//! +------------+----------------------+--------------------+
//! | header     | body                 | zeros              |
//! +------------+----------------------+--------------------+
//! ```
//!
//! The header is that of the `block` message, and a block travels between replicas as it lies on
//! disk. Of the author it holds nothing (view, replica and incarnation are 0): the blocks of a
//! checkpoint are the same bytes on every replica.
//!
//! **Invariants:** decoding is total; what is decoded is the very block that the reference names,
//! or it is refused, so a lost or misdirected write is never taken for the block that belongs
//! there.
//!
//! **Not here:** what the kinds mean (`store`); which indexes are free (`free_set`).

use super::ReadResult;
use crate::constants::HEADER_SIZE;
use crate::stdx::AlignedBuffer;
use crate::wire::{
    Author, Block, BlockRef, ClusterId, Command, Header, Message, Op, ReplicaIndex, View,
};

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum BlockKind {
    /// The root of a checkpoint.
    Checkpoint = 1,
    /// A part of the free set.
    FreeSet = 2,
    /// References to blocks of the free set.
    FreeSetIndex = 3,
    /// Keys and values.
    Leaf = 4,
    /// Keys and references to nodes.
    Inner = 5,
    /// A part of a large value.
    Value = 6,
    /// References to parts of a large value.
    ValueIndex = 7,
}

impl BlockKind {
    /// The kind of this code.
    pub fn from_code(code: u8) -> Option<Self> {
        let kinds = [
            Self::Checkpoint,
            Self::FreeSet,
            Self::FreeSetIndex,
            Self::Leaf,
            Self::Inner,
            Self::Value,
            Self::ValueIndex,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == code)
    }
}

/// The bytes of a block of `block_size` that can be body.
pub fn block_body_size_max(block_size: u32) -> u32 {
    block_size - HEADER_SIZE
}

/// Seals a block: its reference, and its sectors, ready to be written and sent.
pub fn block_seal(
    cluster: ClusterId,
    index: u32,
    op: Op,
    kind: BlockKind,
    body: &[u8],
    block_size: u32,
) -> (BlockRef, AlignedBuffer) {
    let mut sectors = AlignedBuffer::zeroed(block_size);
    let reference = block_seal_into(cluster, index, op, kind, body, sectors.as_mut());
    (reference, sectors)
}

/// Seals a block into zeroed `sectors` of its size.
pub fn block_seal_into(
    cluster: ClusterId,
    index: u32,
    op: Op,
    kind: BlockKind,
    body: &[u8],
    sectors: &mut [u8],
) -> BlockRef {
    assert!(HEADER_SIZE as usize + body.len() <= sectors.len());
    let header = block_header(cluster, index, op, kind, body);
    sectors[..HEADER_SIZE as usize].copy_from_slice(&header.encode());
    sectors[HEADER_SIZE as usize..header.size as usize].copy_from_slice(body);
    let Header { checksum, checksum_body, .. } = header;
    BlockRef { index, op, checksum, checksum_body }
}

/// The reference that [`block_seal`] would give.
pub fn block_seal_reference(
    cluster: ClusterId,
    index: u32,
    op: Op,
    kind: BlockKind,
    body: &[u8],
) -> BlockRef {
    let Header { checksum, checksum_body, .. } = block_header(cluster, index, op, kind, body);
    BlockRef { index, op, checksum, checksum_body }
}

fn block_header(cluster: ClusterId, index: u32, op: Op, kind: BlockKind, body: &[u8]) -> Header {
    assert!(op > 0, "no block is allocated before the first interval");
    let author = Author { cluster, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
    let command = Command::Block(Block { index, checkpoint_op: op, kind: kind as u8 });
    Header::seal(&author, command, body)
}

/// A block as it was read or received, verified to be the one that was asked for.
#[derive(Debug, Clone)]
pub struct StoredBlock {
    /// Which.
    pub reference: BlockRef,
    /// What it holds.
    pub kind: BlockKind,
    message: Message,
}

impl StoredBlock {
    /// The block that `reference` names, if it was read.
    ///
    /// # Errors
    /// What is there instead, for the log.
    pub fn decode_read(
        cluster: ClusterId,
        reference: &BlockRef,
        result: ReadResult,
    ) -> Result<Self, &'static str> {
        if !result.unreadable.is_empty() {
            return Err("unreadable");
        }
        let bytes = result.buffer.freeze();
        let first = bytes.first_chunk().expect("at least a sector");
        let Ok(header) = Header::decode(first) else { return Err("damaged") };
        let size = header.size as usize;
        if size > bytes.len() || bytes[size..].iter().any(|byte| *byte != 0) {
            return Err("damaged");
        }
        match Message::decode(bytes.slice(..size)) {
            Ok(message) => Self::of_message(cluster, reference, message),
            Err(_) => Err("damaged"),
        }
    }

    /// The block that `reference` names, if `message` is that.
    ///
    /// # Errors
    /// What it is instead, for the log.
    pub fn of_message(
        cluster: ClusterId,
        reference: &BlockRef,
        message: Message,
    ) -> Result<Self, &'static str> {
        let header = message.header();
        let Command::Block(block) = header.command else { return Err("not a block") };
        let found = block_reference(header, &block);
        if header.cluster != cluster {
            return Err("of another cluster");
        }
        if found != *reference {
            return Err("another block");
        }
        let kind = BlockKind::from_code(block.kind).ok_or("of an unknown kind")?;
        Ok(Self { reference: found, kind, message })
    }

    /// What it holds.
    pub fn body(&self) -> &[u8] {
        self.message.body()
    }

    /// As a message to a peer.
    pub fn message(&self) -> &Message {
        &self.message
    }
}

/// The reference that names the block with this header.
pub fn block_reference(header: &Header, block: &Block) -> BlockRef {
    BlockRef {
        index: block.index,
        op: block.checkpoint_op,
        checksum: header.checksum,
        checksum_body: header.checksum_body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;

    const CLUSTER: ClusterId = ClusterId(7);

    fn read(buffer: AlignedBuffer) -> ReadResult {
        ReadResult { buffer, unreadable: Vec::new() }
    }

    #[test]
    fn is_read_as_it_was_sealed() {
        for size in [0, 1, 100, 4096 - 128] {
            let body = vec![0xab; size];
            let (reference, sectors) = block_seal(CLUSTER, 9, 32, BlockKind::Leaf, &body, 4096);
            assert_eq!(BlockRef::decode(&reference.encode()), reference);
            let block = StoredBlock::decode_read(CLUSTER, &reference, read(sectors)).unwrap();
            assert_eq!((block.kind, block.body()), (BlockKind::Leaf, &body[..]));
            let message = block.message().clone();
            assert!(StoredBlock::of_message(CLUSTER, &reference, message).is_ok());
        }
    }

    #[test]
    fn no_other_block_is_taken_for_it() {
        let (reference, _) = block_seal(CLUSTER, 9, 32, BlockKind::Leaf, b"body", 4096);
        let others = [
            block_seal(CLUSTER, 8, 32, BlockKind::Leaf, b"body", 4096),
            block_seal(CLUSTER, 9, 64, BlockKind::Leaf, b"body", 4096),
            block_seal(CLUSTER, 9, 32, BlockKind::Inner, b"body", 4096),
            block_seal(CLUSTER, 9, 32, BlockKind::Leaf, b"bodx", 4096),
            block_seal(ClusterId(8), 9, 32, BlockKind::Leaf, b"body", 4096),
        ];
        for (_, sectors) in others {
            assert!(StoredBlock::decode_read(CLUSTER, &reference, read(sectors)).is_err());
        }
    }

    #[test]
    fn any_flipped_bit_is_seen() {
        let (reference, sectors) = block_seal(CLUSTER, 9, 32, BlockKind::Leaf, b"body", 4096);
        let mut prng = Prng::from_seed(1);
        let bits =
            (0..(128 + 8) * 8).chain((0..200).map(|_| prng.range_inclusive(0, 4096 * 8 - 1)));
        for bit in bits {
            let bit = usize::try_from(bit).unwrap();
            let mut damaged = AlignedBuffer::copy_of(sectors.as_ref());
            damaged.as_mut()[bit / 8] ^= 1 << (bit % 8);
            assert!(StoredBlock::decode_read(CLUSTER, &reference, read(damaged)).is_err(), "{bit}");
        }
    }
}
