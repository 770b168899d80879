//! F2: what lies in one slot of the journal's two rings, as bytes and as values.
//!
//! An entry of the headers ring is the header of a prepare or a *marker*, 128 bytes each:
//!
//! ```text
//! 0        4        8                24               32       40       44      48      68    128
//! +--------+--------+----------------+----------------+--------+--------+-------+-------+------+
//! |checksum| zero   | cluster        | "vsr mark"     | zero   | slot   | kind  | id    | zero |
//! +--------+--------+----------------+----------------+--------+--------+-------+-------+------+
//! ```
//!
//! | marker | says | written by |
//! |---|---|---|
//! | formatted | nothing was ever here | `format` alone |
//! | invalidated | something was here and nobody here can say what | a sector write while faulty |
//! | truncated | the prepare `id` that may lie here does not count any more | truncation |
//!
//! A slot of the prepares ring begins with the `formatted` marker (and zeros to the end of its
//! first sector), or with a prepare, padded with zeros to whole sectors.
//!
//! **Invariants:** decoding is total; a marker never decodes as a header (its protocol is 0) nor a
//! header as a marker; what belongs to another slot or another cluster is bad, so a misdirected
//! write never counts. Zeros are bad: `format` leaves none where an entry belongs.
//!
//! **Not here:** what follows from the two rings disagreeing (`recovery`).

use super::{Geometry, ReadResult};
use crate::constants::{HEADER_SIZE, SECTOR_SIZE};
use crate::stdx::{AlignedBuffer, defect, is_zero};
use crate::wire::{ClusterId, Header, Message, Op, Prepare, PrepareId, View};
use std::ops::Range;

const MAGIC: [u8; 8] = *b"vsr mark";
const KIND_FORMATTED: u32 = 1;
const KIND_INVALIDATED: u32 = 2;
const KIND_TRUNCATED: u32 = 3;

/// An entry of the headers ring that is not bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redundant {
    /// Nothing was ever here.
    Formatted,
    /// The slot was faulty when its sector was written.
    Invalidated,
    /// The prepare with this id was cut from the log. A zero id: whatever was here.
    Truncated(PrepareId),
    /// The body of this prepare was durable before this was written.
    Header(Header<Prepare>),
}

/// What a slot of the prepares ring holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// Neither of the others: torn, rotten, unreadable, misdirected.
    Bad,
    /// Never written since `format`.
    Formatted,
    /// A prepare of this slot. `whole`: its body and padding were read and are right.
    Prepare {
        /// Its header, valid.
        header: Header<Prepare>,
        /// Whether its body was verified too.
        whole: bool,
    },
}

/// The place of a slot, which its bytes must agree with.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// The cluster of the data file.
    pub cluster: ClusterId,
    /// The geometry of the data file.
    pub geometry: Geometry,
    /// The slot.
    pub slot: u32,
}

impl Place {
    /// Whether `header` may lie in this slot.
    fn admits(&self, header: &Header<Prepare>) -> bool {
        header.cluster == self.cluster
            && header.size <= self.geometry.message_size
            && self.geometry.slot(header.op()) == self.slot
    }
}

impl Redundant {
    /// The entry as bytes.
    pub fn encode(&self, cluster: ClusterId, slot: u32) -> [u8; HEADER_SIZE as usize] {
        let (kind, id) = match self {
            Self::Header(header) => {
                assert_eq!(header.cluster, cluster);
                return header.encode();
            }
            Self::Formatted => (KIND_FORMATTED, PrepareId::default()),
            Self::Invalidated => (KIND_INVALIDATED, PrepareId::default()),
            Self::Truncated(id) => (KIND_TRUNCATED, *id),
        };
        let mut bytes = [0; HEADER_SIZE as usize];
        bytes[8..24].copy_from_slice(&cluster.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&MAGIC);
        bytes[40..44].copy_from_slice(&slot.to_le_bytes());
        bytes[44..48].copy_from_slice(&kind.to_le_bytes());
        bytes[48..56].copy_from_slice(&id.op.to_le_bytes());
        bytes[56..60].copy_from_slice(&id.view.0.to_le_bytes());
        bytes[60..64].copy_from_slice(&id.checksum.to_le_bytes());
        bytes[64..68].copy_from_slice(&id.checksum_body.to_le_bytes());
        assert_ne!(kind, 0);
        let checksum = crc32c::crc32c(&bytes[4..]);
        bytes[0..4].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// The entry that `bytes` are, at `place`; `None` for a bad one.
    pub fn decode(bytes: &[u8; HEADER_SIZE as usize], place: &Place) -> Option<Self> {
        if bytes[24..32] == MAGIC {
            return Self::decode_marker(bytes, place);
        }
        let header = Header::decode_prepare(bytes).ok()?;
        place.admits(&header).then_some(Self::Header(header))
    }

    fn decode_marker(bytes: &[u8; HEADER_SIZE as usize], place: &Place) -> Option<Self> {
        let u32_at = |offset: usize| {
            u32::from_le_bytes(*bytes[offset..].first_chunk().expect("inside a header"))
        };
        if u32_at(0) != crc32c::crc32c(&bytes[4..]) {
            return None;
        }
        let id = PrepareId {
            op: Op::from_le_bytes(*bytes[48..].first_chunk().expect("inside a header")),
            view: View(u32_at(56)),
            checksum: u32_at(60),
            checksum_body: u32_at(64),
        };
        let marker = match u32_at(44) {
            KIND_FORMATTED => Self::Formatted,
            KIND_INVALIDATED => Self::Invalidated,
            KIND_TRUNCATED => Self::Truncated(id),
            _ => return None,
        };
        // The bytes of a marker follow from its meaning, so anything else in them is damage.
        (marker.encode(place.cluster, place.slot) == *bytes).then_some(marker)
    }
}

impl Stored {
    /// What the slot at `place` holds, judged by the first `bytes` of it, at least one sector. A
    /// range of `unreadable` (in bytes from the start of `bytes`) is damage where it matters.
    pub fn decode(bytes: &[u8], unreadable: &[Range<u32>], place: &Place) -> Self {
        assert!(bytes.len() >= SECTOR_SIZE as usize);
        let readable = |size: u32| unreadable.iter().all(|range| range.start >= size);
        if !readable(SECTOR_SIZE) {
            return Self::Bad;
        }
        let (head, rest) = bytes[..SECTOR_SIZE as usize]
            .split_first_chunk()
            .expect("a sector is longer than a header");
        match Redundant::decode(head, place) {
            Some(Redundant::Formatted) if is_zero(rest) => Self::Formatted,
            Some(Redundant::Header(header)) => {
                let size = header.size.next_multiple_of(SECTOR_SIZE);
                if (size as usize) > bytes.len() {
                    return Self::Prepare { header, whole: false };
                }
                let is_whole = body_is_whole(&header, &bytes[..size as usize]);
                if readable(size) && (is_whole || defect!("torn_taken_for_valid")) {
                    Self::Prepare { header, whole: true }
                } else {
                    Self::Bad
                }
            }
            _ => Self::Bad,
        }
    }
}

/// Whether body and padding in `sectors`, which begin with the valid `header`, are right.
fn body_is_whole(header: &Header<Prepare>, sectors: &[u8]) -> bool {
    assert!(sectors.len() >= header.size as usize);
    assert!(sectors.len().is_multiple_of(SECTOR_SIZE as usize));
    let (message, padding) = sectors.split_at(header.size as usize);
    let body = &message[HEADER_SIZE as usize..];
    is_zero(padding) && crc32c::crc32c(body) == header.checksum_body
}

/// The prepare `id` in what was read from its slot, if it is there intact.
pub fn prepare_decode(id: &PrepareId, result: ReadResult, place: &Place) -> Option<Message> {
    let ReadResult { buffer, unreadable } = result;
    match Stored::decode(buffer.as_ref(), &unreadable, place) {
        Stored::Prepare { header, whole: true } if header.id() == *id => {
            let message = Message::decode(buffer.freeze()).expect("verified just above");
            Some(message)
        }
        _ => None,
    }
}

/// The first sector of a freshly formatted slot of the prepares ring.
pub fn formatted_sector(cluster: ClusterId, slot: u32) -> AlignedBuffer {
    AlignedBuffer::copy_of(&Redundant::Formatted.encode(cluster, slot))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;
    use crate::wire::{Author, Invalid, ReplicaIndex};

    const CLUSTER: ClusterId = ClusterId(11);

    fn place(slot: u32) -> Place {
        Place { cluster: CLUSTER, geometry: Geometry::default(), slot }
    }

    fn message(op: Op, body: &[u8]) -> Message {
        let author =
            Author { cluster: CLUSTER, view: View(3), replica: ReplicaIndex(1), incarnation: 5 };
        let command = Prepare { op, commit: op - 1, entry_count: 1, ..Prepare::default() };
        Message::new(&author, command, body)
    }

    #[test]
    fn another_prepare_of_the_slot_is_not_the_one_that_was_asked_for() {
        let (asked, other) = (message(1029, &[1; 90]), message(1029, &[2; 90]));
        let read = |id: &PrepareId, message: &Message| {
            let buffer = AlignedBuffer::copy_of(&message.sectors());
            prepare_decode(id, ReadResult { buffer, unreadable: Vec::new() }, &place(5))
        };
        let id = asked.prepare_header().id();
        assert_eq!(read(&id, &asked).map(|found| found.prepare_header().id()), Some(id));
        assert!(read(&id, &other).is_none());
        assert!(read(&id, &message(5, &[1; 90])).is_none());
    }

    #[test]
    fn entries_encode_and_decode_in_their_own_slot_alone() {
        let header = message(1029, &[1; 90]).prepare_header();
        let entries = [
            Redundant::Formatted,
            Redundant::Invalidated,
            Redundant::Truncated(PrepareId::default()),
            Redundant::Truncated(header.id()),
            Redundant::Header(header),
        ];
        let mut prng = Prng::from_seed(1);
        for entry in entries {
            let bytes = entry.encode(CLUSTER, 5);
            assert_eq!(Redundant::decode(&bytes, &place(5)), Some(entry));
            assert_eq!(Redundant::decode(&bytes, &place(6)), None);
            let elsewhere = Place { cluster: ClusterId(12), ..place(5) };
            assert_eq!(Redundant::decode(&bytes, &elsewhere), None);
            for _ in 0..200 {
                let mut damaged = bytes;
                let bit = prng.index(128 * 8);
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(Redundant::decode(&damaged, &place(5)), None, "bit {bit}");
            }
        }
        assert_eq!(Redundant::decode(&[0; 128], &place(0)), None);
    }

    #[test]
    fn a_marker_is_never_a_header() {
        for slot in [0, 1, 5, 0x0002_0001] {
            let bytes = Redundant::Formatted.encode(CLUSTER, slot);
            assert_eq!(Header::decode(&bytes), Err(Invalid::Protocol(0)));
        }
    }

    #[test]
    fn a_slot_is_judged_by_all_that_was_read_of_it() {
        let message = message(5, &[7; 5000]);
        let header = message.prepare_header();
        let mut sectors = message.sectors().to_vec();
        let whole = Stored::Prepare { header, whole: true };
        assert_eq!(Stored::decode(&sectors, &[], &place(5)), whole);
        assert_eq!(Stored::decode(&sectors, &[], &place(6)), Stored::Bad);
        let head = Stored::Prepare { header, whole: false };
        assert_eq!(Stored::decode(&sectors[..4096], &[], &place(5)), head);
        assert_eq!(
            Stored::decode(&sectors, std::slice::from_ref(&(4096..8192)), &place(5)),
            Stored::Bad
        );
        sectors.resize(12288, 1);
        let beyond = 8192..12288;
        assert_eq!(Stored::decode(&sectors, &[beyond], &place(5)), whole, "not of this prepare");
        for byte in [0, 127, 128, 5127, 5128, 8191] {
            let mut damaged = sectors.clone();
            damaged[byte] ^= 0x10;
            assert_eq!(Stored::decode(&damaged, &[], &place(5)), Stored::Bad, "byte {byte}");
        }
    }

    #[test]
    fn a_formatted_slot_is_zero_to_the_end_of_its_sector() {
        let sector = formatted_sector(CLUSTER, 5);
        assert_eq!(Stored::decode(sector.as_ref(), &[], &place(5)), Stored::Formatted);
        assert_eq!(Stored::decode(sector.as_ref(), &[], &place(4)), Stored::Bad);
        let mut bytes = sector.as_ref().to_vec();
        bytes[4095] = 1;
        assert_eq!(Stored::decode(&bytes, &[], &place(5)), Stored::Bad);
    }
}
