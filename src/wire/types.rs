//! F1: the small values of the protocol's vocabulary, and how they lie in a header.
//!
//! `Op` is an alias and not a new type: op and commit numbers live in arithmetic with each other
//! and with constants of the geometry, and wrapping would hide the formulas. Whatever must not be
//! mixed up (a view is not a replica) is a type of its own.
//!
//! **Invariants:** a field has one fixed size; integers are little-endian; any bytes of that size
//! are a value, so that reading cannot fail and every rule about values is in `invalid`.
//!
//! **Not here:** which fields a command has (`commands`), and in which order.

use std::fmt;

/// The position of a prepare in the log. 0 is the root, 1 the genesis.
pub type Op = u64;

/// A replica's place in the cluster, from 0. Also names the author of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ReplicaIndex(pub u8);

/// A view number (VRR §4): which replica is primary, by [`View::primary`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct View(pub u32);

/// The identity of a client process, random for each start. 0 is nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClientId(pub u128);

/// The identity of a cluster, chosen at `format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub u128);

/// What identifies a prepare. 32 bits of checksum are an error detector and not an identity, so
/// every comparison starts with `(op, view)`, which is already unique: a primary that restarts
/// never resumes its view. The checksums catch disks and bugs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PrepareId {
    /// The position in the log.
    pub op: Op,
    /// The view in which it was prepared first.
    pub view: View,
    /// The header's checksum.
    pub checksum: u32,
    /// The body's checksum.
    pub checksum_body: u32,
}

/// The link of the hash chain: the identity of the prepare before this one, whose op is implied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parent {
    /// The view of the predecessor.
    pub view: View,
    /// The checksum of the predecessor's header.
    pub checksum: u32,
    /// The checksum of the predecessor's body.
    pub checksum_body: u32,
}

/// What identifies a block of the grid. An index is given out at most once in an interval between
/// two checkpoints, so `(index, op)` is already unique among the blocks a checkpoint may refer to;
/// the checksums catch disks and bugs. `op` 0 is no block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct BlockRef {
    /// Its place in the grid, from 0.
    pub index: u32,
    /// The checkpoint whose interval it was allocated in.
    pub op: Op,
    /// The header's checksum.
    pub checksum: u32,
    /// The body's checksum.
    pub checksum_body: u32,
}

impl BlockRef {
    /// The bytes it takes in headers and in blocks.
    pub const SIZE: usize = 20;
    /// No block, and the checkpoint of a cluster that has none yet.
    pub const NONE: Self = Self { index: 0, op: 0, checksum: 0, checksum_body: 0 };

    /// Whether there is no block.
    pub fn is_none(&self) -> bool {
        self.op == 0
    }

    /// Of the root of a checkpoint: the identity of the checkpoint. 0 for none.
    pub fn checkpoint_id(&self) -> u128 {
        u128::from(self.op) << 64 | u128::from(self.checksum) << 32 | u128::from(self.checksum_body)
    }

    /// As it lies in headers, blocks and the superblock.
    pub fn encode(&self) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        self.put(&mut bytes);
        bytes
    }

    /// Of [`BlockRef::encode`]; any bytes are a reference.
    pub fn decode(bytes: &[u8; Self::SIZE]) -> Self {
        Self::get(bytes)
    }
}

impl View {
    /// The primary of this view in a cluster of `replica_count`.
    pub fn primary(self, replica_count: u8) -> ReplicaIndex {
        assert!(replica_count > 0);
        let index = self.0 % u32::from(replica_count);
        ReplicaIndex(u8::try_from(index).expect("below a u8"))
    }

    /// The view after this one.
    pub fn next(self) -> Self {
        Self(self.0.checked_add(1).expect("4 billion view changes"))
    }
}

impl ReplicaIndex {
    /// For indexing arrays.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl PrepareId {
    /// The chain link a successor of this prepare carries.
    pub fn as_parent(&self) -> Parent {
        Parent { view: self.view, checksum: self.checksum, checksum_body: self.checksum_body }
    }
}

impl fmt::Display for ReplicaIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A value with a fixed little-endian place in the command part of a header.
pub(super) trait Field: Copy {
    const SIZE: usize;
    /// Writes exactly `SIZE` bytes.
    fn put(self, bytes: &mut [u8]);
    /// Reads exactly `SIZE` bytes.
    fn get(bytes: &[u8]) -> Self;
}

/// Where a field lies: its name, its offset from the start of what it lies in, and its size, bytes.
pub type Place = (&'static str, usize, usize);

/// The places of fields of these names and sizes that lie one after the other from `offset` on.
pub(super) const fn layout<const N: usize>(
    mut offset: usize,
    fields: [(&'static str, usize); N],
) -> [Place; N] {
    let mut places = [("", 0, 0); N];
    let mut index = 0;
    while index < N {
        let (name, size) = fields[index];
        places[index] = (name, offset, size);
        offset += size;
        index += 1;
    }
    places
}

macro_rules! field_integer {
    ($($integer:ty),*) => {$(
        impl Field for $integer {
            const SIZE: usize = size_of::<Self>();
            fn put(self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            fn get(bytes: &[u8]) -> Self {
                Self::from_le_bytes(*bytes.first_chunk().expect("sliced to SIZE"))
            }
        }
    )*};
}
field_integer!(u8, u32, u64, i64, u128);

macro_rules! field_wrapper {
    ($($wrapper:ident($integer:ty)),*) => {$(
        impl Field for $wrapper {
            const SIZE: usize = <$integer as Field>::SIZE;
            fn put(self, bytes: &mut [u8]) {
                self.0.put(bytes);
            }
            fn get(bytes: &[u8]) -> Self {
                Self(<$integer>::get(bytes))
            }
        }
    )*};
}
field_wrapper!(View(u32), ClientId(u128), ClusterId(u128), ReplicaIndex(u8));

impl Field for Parent {
    const SIZE: usize = 12;
    fn put(self, bytes: &mut [u8]) {
        self.view.put(&mut bytes[0..4]);
        self.checksum.put(&mut bytes[4..8]);
        self.checksum_body.put(&mut bytes[8..12]);
    }
    fn get(bytes: &[u8]) -> Self {
        Self {
            view: View::get(&bytes[0..4]),
            checksum: u32::get(&bytes[4..8]),
            checksum_body: u32::get(&bytes[8..12]),
        }
    }
}

impl Field for BlockRef {
    const SIZE: usize = Self::SIZE;
    fn put(self, bytes: &mut [u8]) {
        self.index.put(&mut bytes[0..4]);
        self.op.put(&mut bytes[4..12]);
        self.checksum.put(&mut bytes[12..16]);
        self.checksum_body.put(&mut bytes[16..20]);
    }
    fn get(bytes: &[u8]) -> Self {
        Self {
            index: u32::get(&bytes[0..4]),
            op: Op::get(&bytes[4..12]),
            checksum: u32::get(&bytes[12..16]),
            checksum_body: u32::get(&bytes[16..20]),
        }
    }
}

impl Field for PrepareId {
    const SIZE: usize = 20;
    fn put(self, bytes: &mut [u8]) {
        self.op.put(&mut bytes[0..8]);
        self.as_parent().put(&mut bytes[8..20]);
    }
    fn get(bytes: &[u8]) -> Self {
        let op = Op::get(&bytes[0..8]);
        let Parent { view, checksum, checksum_body } = Parent::get(&bytes[8..20]);
        Self { op, view, checksum, checksum_body }
    }
}
