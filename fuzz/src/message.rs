//! Fuzz target `message`: whole messages, header and body, through their codec and through the
//! codecs of the bodies.
//!
//! | first byte | the rest is |
//! |---|---|
//! | even | a description: a command with any fields and a body that may fit it, sealed |
//! | odd | the bytes themselves; with bit 1, the size that they have, and sealed |
//!
//! Asserted: a sealed message decodes exactly if its header is not `invalid`; it is the same bytes
//! again, also as sectors and in parts; a missing byte and a flipped bit are seen; a body that its
//! own decoder takes, encodes to the same bytes, and what it says is in order.
//!
//! Planted: a message of which the last byte of the body was lost on the way.
//!
//! **Not here:** streams of messages (`framing`).

use super::Plant;
use super::cursor::{self, Cursor, frame, seal};
use bytes::Bytes;
use vsr::constants::{HEADER_SIZE, PIPELINE_MAX, SECTOR_SIZE};
use vsr::storage::block::{StoredBlock, block_reference};
use vsr::wire::{
    BlockRef, Command, Entries, Header, HeaderSet, IncarnationTable, Invalid, Message,
    StatusReport, decode_headers,
};

const HEADER: usize = HEADER_SIZE as usize;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many messages were decoded.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let flags = cursor.u8();
    let (expected, bytes) = if flags & 1 == 0 {
        let (header, bytes) = cursor::message(&mut cursor);
        (Some(header), bytes)
    } else {
        (None, garbage(&mut cursor, flags & 2 != 0))
    };
    let mut received = bytes.clone();
    if plant == Plant::Error && received.len() > HEADER {
        received.pop();
    }
    let decoded = Message::decode(Bytes::from(received));
    if let Some(header) = expected {
        assert_eq!(decoded.is_ok(), header.invalid().is_none(), "{header:?} {decoded:?}");
    }
    body_codecs(bytes.get(HEADER..).unwrap_or_default());
    match decoded {
        Ok(message) => {
            accepted(&message, &bytes, usize::from(cursor.u16()));
            1
        }
        Err(invalid) => {
            assert!(!invalid.to_string().is_empty());
            0
        }
    }
}

/// Bytes of the input's own, with a header that is right as far as `is_sealed` says.
fn garbage(cursor: &mut Cursor<'_>, is_sealed: bool) -> Vec<u8> {
    let mut bytes = cursor.bytes(1 << 14).to_vec();
    if is_sealed && bytes.len() >= HEADER {
        let code = bytes[34] % 24;
        frame(&mut bytes, code);
        let size = u32::try_from(bytes.len()).expect("at most 16 KiB");
        bytes[24..28].copy_from_slice(&size.to_le_bytes());
        seal(&mut bytes);
    }
    bytes
}

fn accepted(message: &Message, bytes: &[u8], at: usize) {
    let header = message.header();
    let size = header.size as usize;
    assert_eq!(message.as_bytes(), &bytes[..size]);
    assert_eq!(message.body(), &bytes[HEADER..size]);
    assert_eq!(message.bytes(), &bytes[..size]);
    assert_eq!(header.invalid(), None);
    let again = Message::decode(message.bytes()).expect("decoded once");
    assert_eq!(again.header(), header);
    let sectors = message.sectors();
    assert!(sectors.len().is_multiple_of(SECTOR_SIZE as usize));
    assert!(sectors.len() - size < SECTOR_SIZE as usize);
    let padded = Message::from_parts(*header, sectors.clone()).expect("padded with zeros");
    assert_eq!(padded.as_bytes(), message.as_bytes());
    assert_eq!(padded.sectors().as_ptr(), sectors.as_ptr(), "sectors are not copied");
    if sectors.len() > size {
        let mut dirty = sectors.to_vec();
        dirty[size] = 1;
        assert!(Message::decode(Bytes::from(dirty)).is_err(), "padding that is not zero");
    }
    let cut = message.bytes().slice(..size - 1);
    assert!(matches!(Message::decode(cut), Err(Invalid::Size(_))));
    if size > HEADER {
        let mut damaged = message.as_bytes().to_vec();
        damaged[HEADER + at % (size - HEADER)] ^= 0x20;
        let decoded = Message::decode(Bytes::from(damaged));
        assert_eq!(decoded.err(), Some(Invalid::ChecksumBody));
    }
    body_of(message);
}

/// What the decoder of its body says of a message.
fn body_of(message: &Message) {
    let (header, body) = (message.header(), message.body());
    let set = HeaderSet::decode(message);
    let headers = decode_headers(message);
    match &header.command {
        Command::Prepare(prepare) => {
            let checked = Entries::check(body, prepare.entry_count);
            assert!(checked.is_err() || entries_sum(body) == body.len());
        }
        Command::DoViewChange(_) | Command::StartView(_) => {
            if let Ok(set) = set {
                assert_eq!(set.encode(), body);
                assert!(set.headers.len() <= PIPELINE_MAX as usize + 1);
                assert!(set.headers.iter().flatten().all(|own| own.cluster == header.cluster));
            }
            return;
        }
        Command::Headers(_) => {
            if let Ok(headers) = headers {
                assert!(headers.windows(2).all(|pair| pair[0].op() > pair[1].op()));
                let encoded: Vec<u8> = headers.iter().flat_map(Header::encode).collect();
                assert_eq!(encoded, body);
            }
            return;
        }
        Command::Block(block) => {
            let reference = block_reference(header, block);
            let stored = StoredBlock::of_message(header.cluster, &reference, message.clone());
            if let Ok(stored) = stored {
                assert_eq!(stored.body(), body);
                assert_eq!(stored.kind as u8, block.kind);
                let other = BlockRef { index: reference.index ^ 1, ..reference };
                let other = StoredBlock::of_message(header.cluster, &other, message.clone());
                assert!(other.is_err(), "a block that was not asked for");
            }
        }
        Command::RequestBlocks(_) => {
            let (references, rest) = body.as_chunks::<{ BlockRef::SIZE }>();
            assert!(rest.is_empty() && !references.is_empty());
        }
        _ => {}
    }
    assert!(set.is_err(), "a set of headers in {}", header.command.name());
    assert!(headers.is_err(), "headers in {}", header.command.name());
}

/// The bytes of all entries up to the first that is none.
fn entries_sum(body: &[u8]) -> usize {
    Entries::new(body).flatten().map(|(_, bytes)| 64 + bytes.len()).sum()
}

/// The decoders that are asked of bytes alone.
fn body_codecs(body: &[u8]) {
    let mut rebuilt = Vec::new();
    let mut errors = 0;
    for item in Entries::new(body) {
        match item {
            Ok((entry, bytes)) => {
                assert_eq!(entry.size as usize, bytes.len());
                rebuilt.extend_from_slice(&entry.encode());
                rebuilt.extend_from_slice(bytes);
            }
            Err(_) => errors += 1,
        }
    }
    assert!(errors <= 1, "an iterator of entries ends with its first error");
    assert!(body.starts_with(&rebuilt));
    assert_eq!(errors == 0, rebuilt.len() == body.len());
    if let Ok(set) = HeaderSet::decode_body(body) {
        assert_eq!(set.encode(), body);
        assert_eq!(set.header(set.op), set.headers[0].as_ref());
        assert_eq!(set.op - set.op_min() + 1, set.headers.len() as u64);
    }
    if let Ok(report) = StatusReport::decode(body) {
        assert_eq!(report.encode(), body);
        assert!(report.replica.0 < report.replica_count);
    }
    if let Some(table) = body.first_chunk()
        && let Ok(decoded) = IncarnationTable::decode(table)
    {
        assert_eq!(decoded.encode(), *table);
    }
    if let Some(reference) = body.first_chunk() {
        assert_eq!(BlockRef::decode(reference).encode(), *reference);
    }
}

/// A message of each command with the body it wants, and one of them as plain bytes.
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = (0..23).map(described).collect();
    for selector in [0, 1, 7, 11] {
        let described = described(selector);
        let (_, bytes) = cursor::message(&mut Cursor::new(&described[1..]));
        seeds.push([&[3], bytes.as_slice()].concat());
    }
    seeds
}

/// The description of a message of the command with this selector.
fn described(selector: u8) -> Vec<u8> {
    let mut seed = vec![0, selector];
    seed.extend((0..120).map(|index| [1, 2, 1, 0, 3, 1][index % 6]));
    seed
}
