//! Fuzz target `header`: 128 arbitrary bytes, mostly with a right checksum, as a header.
//!
//! | bit of the first byte | makes of the rest |
//! |---|---|
//! | 0 | a sealed header |
//! | 1 | of this version of the protocol, of a command that there is |
//! | 2 | with zeros behind the fields of its command |
//! | 3 | of a client |
//!
//! Asserted: what decodes, encodes to the same bytes, is not `invalid`, and is zero wherever the
//! table of layouts names no field; what does not, is refused for a reason that is true; the
//! decoder of prepares agrees with that of all commands; one flipped bit is always seen.
//!
//! Planted: a decoder that does not look at the last byte.
//!
//! **Not here:** bodies (`message`).

use super::Plant;
use super::cursor::{Cursor, frame, seal_header};
use vsr::constants::{HEADER_SIZE, PROTOCOL};
use vsr::wire::{Command, Header, Invalid};

const SIZE: usize = HEADER_SIZE as usize;
/// Where the fields of a command begin.
const FIELDS_AT: usize = 48;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many headers were decoded.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let flags = cursor.u8();
    let mut bytes: [u8; SIZE] = cursor.array();
    if flags & 2 != 0 {
        let code = bytes[34] % 23 + 1;
        frame(&mut bytes, code);
    }
    if flags & 4 != 0 {
        let end = fields(bytes[34]).map_or(FIELDS_AT, |(_, end)| end);
        bytes[end..].fill(0);
    }
    if flags & 8 != 0 {
        bytes[35] = 0;
        bytes[40..48].fill(0);
    }
    if flags & 1 != 0 {
        seal_header(&mut bytes);
    }
    let decoded = decode(&bytes, plant);
    match &decoded {
        Ok(header) => accepted(header, &bytes, usize::from(cursor.u16())),
        Err(invalid) => refused(*invalid, &bytes),
    }
    let as_prepare = Header::decode_prepare(&bytes);
    let is_prepare = decoded.is_ok_and(|header| matches!(header.command, Command::Prepare(_)));
    if plant == Plant::Nothing {
        assert_eq!(as_prepare.is_ok(), is_prepare);
    }
    if let Ok(prepare) = as_prepare {
        assert_eq!(prepare.encode(), bytes);
    }
    u32::from(decoded.is_ok())
}

fn decode(bytes: &[u8; SIZE], plant: Plant) -> Result<Header, Invalid> {
    if plant == Plant::Nothing {
        return Header::decode(bytes);
    }
    let mut blind = *bytes;
    blind[SIZE - 1] = 0;
    seal_header(&mut blind);
    Header::decode(&blind)
}

/// The name of the command with this code, and where its fields end.
fn fields(code: u8) -> Option<(&'static str, usize)> {
    let (_, name, places) = Command::LAYOUTS.iter().find(|(known, ..)| *known == code)?;
    let end = places.last().map_or(FIELDS_AT, |(_, offset, size)| offset + size);
    Some((name, end))
}

fn accepted(header: &Header, bytes: &[u8; SIZE], bit: usize) {
    assert_eq!(header.encode(), *bytes);
    assert_eq!(header.invalid(), None);
    assert_eq!(header.checksum, header.checksum_computed());
    assert_eq!(header.checksum, crc32c::crc32c(&bytes[4..]));
    let (name, end) = fields(bytes[34]).expect("a command that there is");
    assert_eq!(header.command.name(), name);
    assert!(bytes[end..].iter().all(|byte| *byte == 0), "something behind the fields of {name}");
    assert_eq!(bytes[36..40], [0; 4]);
    assert_eq!(header.size.to_le_bytes(), bytes[24..28]);
    assert!(header.size >= HEADER_SIZE);
    assert_eq!(header.body_size(), header.size - HEADER_SIZE);
    let mut damaged = *bytes;
    let bit = bit % (SIZE * 8);
    damaged[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(Header::decode(&damaged), Err(Invalid::ChecksumHeader), "bit {bit}");
}

fn refused(invalid: Invalid, bytes: &[u8; SIZE]) {
    let is_sealed = crc32c::crc32c(&bytes[4..]).to_le_bytes() == bytes[..4];
    let protocol = u16::from_le_bytes([bytes[32], bytes[33]]);
    match invalid {
        Invalid::ChecksumHeader => return assert!(!is_sealed),
        Invalid::Protocol(theirs) => {
            assert_eq!(theirs, protocol);
            assert_ne!(theirs, PROTOCOL);
        }
        Invalid::CommandUnknown(code) => {
            assert_eq!(code, bytes[34]);
            assert_eq!(fields(code), None);
        }
        Invalid::Size(size) => assert!(size < HEADER_SIZE),
        Invalid::Field(reason) => assert!(!reason.is_empty()),
        Invalid::Cluster { .. } | Invalid::ChecksumBody => {
            panic!("{invalid}: not for a header alone to say")
        }
    }
    assert!(is_sealed, "{invalid} of bytes that were not verified");
    assert!(!invalid.to_string().is_empty());
}

/// A header of each command, with its fields in use.
pub fn seeds() -> Vec<Vec<u8>> {
    (0..23)
        .map(|selector| {
            let mut fields = vec![selector];
            fields.extend((0..60).map(|index| 1 + index % 3));
            let mut cursor = Cursor::new(&fields);
            let (_, bytes) = super::cursor::message(&mut cursor);
            let mut seed = vec![3];
            seed.extend_from_slice(&bytes[..SIZE]);
            // What the frame makes of the code again.
            seed[1 + 34] -= 1;
            seed
        })
        .collect()
}
