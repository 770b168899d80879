//! The fixed numbers of the system, each with its unit and the reason for its value.
//!
//! What two replicas must agree on and what is not here is the *geometry*
//! ([`crate::storage::Geometry`]): it is chosen at `format` and compared in every `ping`.

/// The version of the wire protocol and of every structure that carries a [`crate::wire::Header`].
pub const PROTOCOL: u16 = 1;

/// The size of a header, in bytes: on the wire, in the journal, in front of a grid block.
pub const HEADER_SIZE: u32 = 128;

/// The size of a sector, in bytes: the unit of every access to the data file.
pub const SECTOR_SIZE: u32 = 4096;

/// Headers in one sector of the journal's headers ring.
pub const HEADERS_PER_SECTOR: u32 = SECTOR_SIZE / HEADER_SIZE;

/// The size of the header of one entry in the body of a prepare, in bytes.
pub const ENTRY_SIZE: u32 = 64;

/// The most replicas in a cluster.
pub const REPLICAS_MAX: u8 = 6;

/// The most prepares in flight, over all geometries. A `do_view_change` carries one header for
/// each of them and one more, and a bit for each in two 64-bit sets.
pub const PIPELINE_MAX: u32 = 32;

/// The largest op, and the largest sequence of a superblock. Neither comes near it, and what says
/// that it does is refused, so that what is counted on from there never overflows.
pub const NUMBER_MAX: u64 = u64::MAX / 2;

/// The largest view: the same of views.
pub const VIEW_MAX: u32 = u32::MAX / 2;

/// The length of a tick of the logical clock, in nanoseconds.
pub const TICK_NS: u64 = 10_000_000;

/// The journal writes a replica has in flight at most. Smaller than the sectors of the headers
/// ring of the smallest geometry would allow to tear at once (see `storage::journal`).
pub const JOURNAL_WRITES_MAX: u32 = 32;

/// The longest stored reply body, in bytes; a longer one is answered with a code instead.
pub const REPLY_BODY_SIZE_MAX: u32 = 64 * 1024;

const _: () = {
    assert!(SECTOR_SIZE.is_multiple_of(HEADER_SIZE));
    assert!(HEADERS_PER_SECTOR == 32);
    assert!(PIPELINE_MAX < 64);
    assert!(HEADER_SIZE.is_multiple_of(ENTRY_SIZE));
};
