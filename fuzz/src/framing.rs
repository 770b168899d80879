//! Fuzz target `framing`: a stream of messages, damaged messages and garbage, received in arbitrary
//! pieces.
//!
//! ```text
//!   byte 0: n | n bytes: sizes of pieces, over and over | frames: kind, …
//!
//!   kind % 8 | 0 to 4: a message | 5: one with a flipped bit | 6: bytes | 7: a large prepare
//! ```
//!
//! Asserted: what comes out is what a plain decoder finds in the whole stream, message by message
//! and in the end the same error, however the stream is cut; a receiver holds no more than its
//! small buffer before a valid header of its own cluster announced more, never more than the
//! largest message, and counts what it holds; after the first error it says nothing else; prepares
//! lie in aligned sectors.
//!
//! Planted: the byte in the middle of the stream is received twice.
//!
//! **Not here:** sockets, budgets.

use super::Plant;
use super::cursor::{self, CLUSTER, Cursor};
use bytes::Bytes;
use vsr::constants::HEADER_SIZE;
use vsr::wire::{
    Author, ClusterId, Command, Header, Invalid, Message, Prepare, Receiver, ReplicaIndex, View,
};

const HEADER: usize = HEADER_SIZE as usize;
const SIZE_MAX: u32 = 16 << 10;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many messages came out.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let count = usize::from(cursor.u8() % 16);
    let pieces: Vec<usize> = cursor.bytes(count).iter().map(|size| piece(*size)).collect();
    let is_stranger = cursor.u8() == 255;
    let cluster = if is_stranger { ClusterId(8) } else { CLUSTER };
    let mut stream = Vec::new();
    while !cursor.is_empty() && stream.len() < 64 << 10 {
        frame(&mut cursor, &mut stream);
    }
    let (expected, end) = plain(&stream, cluster);
    if plant == Plant::Error && !stream.is_empty() {
        let middle = stream.len() / 2;
        stream.insert(middle, stream[middle]);
    }
    let (received, found) = receive(&stream, cluster, &pieces);
    assert_eq!(received, expected);
    assert_eq!(found, end);
    u32::try_from(received.len()).expect("a stream is short")
}

/// The bytes of a piece: many small ones, some large.
fn piece(byte: u8) -> usize {
    match byte {
        0..=199 => 1 + usize::from(byte),
        _ => usize::from(byte - 199) * 150,
    }
}

fn frame(cursor: &mut Cursor<'_>, stream: &mut Vec<u8>) {
    match cursor.u8() % 8 {
        0..=4 => stream.extend_from_slice(&cursor::message(cursor).1),
        5 => {
            let (_, mut bytes) = cursor::message(cursor);
            let bit = usize::from(cursor.u16()) % (bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            stream.extend_from_slice(&bytes);
        }
        6 => {
            let size = usize::from(cursor.u8());
            stream.extend_from_slice(cursor.bytes(size));
        }
        _ => {
            let author = Author {
                cluster: CLUSTER,
                view: View(3),
                replica: ReplicaIndex(1),
                incarnation: 5,
            };
            let size = 64 + usize::from(cursor.u16()) % (SIZE_MAX as usize + 100);
            let body = vec![cursor.u8(); size];
            let command =
                Command::from(Prepare { op: 9, commit: 7, entry_count: 1, ..Prepare::default() });
            let header = Header::seal(&author, command, &body);
            stream.extend_from_slice(&header.encode());
            stream.extend_from_slice(&body);
        }
    }
}

/// The messages in a stream that is there as a whole, and what ends it.
fn plain(stream: &[u8], cluster: ClusterId) -> (Vec<Vec<u8>>, Option<Invalid>) {
    let mut messages = Vec::new();
    let mut rest = stream;
    let end = loop {
        let Some(head) = rest.first_chunk::<HEADER>() else { break None };
        let header = match Header::decode(head) {
            Ok(header) => header,
            Err(invalid) => break Some(invalid),
        };
        if header.cluster != cluster {
            break Some(Invalid::Cluster { theirs: header.cluster, ours: cluster });
        }
        if header.size > SIZE_MAX {
            break Some(Invalid::Size(header.size));
        }
        let Some((frame, behind)) = rest.split_at_checked(header.size as usize) else { break None };
        match Message::decode(Bytes::copy_from_slice(frame)) {
            Ok(message) => messages.push(message.as_bytes().to_vec()),
            Err(invalid) => break Some(invalid),
        }
        rest = behind;
    };
    (messages, end)
}

/// The same through a receiver, in pieces of these sizes.
fn receive(stream: &[u8], cluster: ClusterId, pieces: &[usize]) -> (Vec<Vec<u8>>, Option<Invalid>) {
    let mut receiver = Receiver::new(cluster, SIZE_MAX);
    let (mut received, mut given, mut taken) = (Vec::new(), 0, 0);
    for turn in 0.. {
        loop {
            match receiver.next() {
                Ok(None) => break,
                Ok(Some(message)) => {
                    given += message.as_bytes().len();
                    if matches!(message.header().command, Command::Prepare(_)) {
                        let start = message.as_bytes().as_ptr();
                        assert_eq!(message.sectors().as_ptr(), start, "a prepare is not copied");
                    }
                    received.push(message.as_bytes().to_vec());
                }
                Err(invalid) => {
                    assert_eq!(receiver.next().err(), Some(invalid), "the first error is final");
                    return (received, Some(invalid));
                }
            }
        }
        assert_eq!(receiver.buffered() as usize, taken - given);
        assert!(receiver.granted() <= SIZE_MAX);
        if let Some(header) = receiver.wants().copied() {
            assert_eq!(receiver.granted(), 0, "nothing is held before it is granted");
            assert_eq!(header.cluster, cluster);
            receiver.grant();
            assert_eq!(receiver.granted(), header.size);
            continue;
        }
        let space = receiver.space();
        assert!(!space.is_empty() && space.len() <= SIZE_MAX as usize);
        let size = pieces.get(turn % pieces.len().max(1)).copied().unwrap_or(4096);
        let size = size.min(space.len()).min(stream.len() - taken);
        if size == 0 {
            break;
        }
        space[..size].copy_from_slice(&stream[taken..taken + size]);
        receiver.advance(size);
        taken += size;
    }
    (received, None)
}

/// Streams of all commands, in three ways of cutting them; of large messages; of damage.
pub fn seeds() -> Vec<Vec<u8>> {
    let messages = |selectors: std::ops::Range<u8>| -> Vec<u8> {
        selectors
            .flat_map(|selector| {
                let mut frame = vec![0, selector];
                frame.extend((0..70).map(|index| [1, 2, 1, 0, 3, 1][index % 6]));
                frame
            })
            .collect()
    };
    let large = [[7, 0, 30, 1], [7, 200, 15, 2], [7, 64, 0, 3]].concat();
    vec![
        [&[0, 0][..], &messages(0..6)].concat(),
        [&[1, 0, 0][..], &messages(6..12)].concat(),
        [&[3, 99, 126, 255, 0][..], &messages(12..23)].concat(),
        [&[2, 127, 250, 0][..], &large].concat(),
        [&[1, 127, 0][..], &large, &messages(0..2), &[5, 1, 1, 1], &messages(3..4)].concat(),
        [&[1, 50, 0, 6, 200][..], &[9; 200]].concat(),
        [&[0, 255][..], &messages(0..1)].concat(),
        vec![0, 0, 7, 255, 255, 1],
    ]
}
