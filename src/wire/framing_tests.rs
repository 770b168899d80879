//! Tests of framing: any pieces give the same messages, garbage is an error, memory is bounded.

use super::super::tests::{CLUSTER, examples, replica};
use super::super::{Headers, Operation, Prepare, Request};
use super::*;
use crate::stdx::Prng;
use crate::wire::{ClientId, Entry};

const SIZE_MAX: u32 = 64 * 1024;

/// Feeds `stream` in pieces of at most `piece()` bytes and gathers what comes out.
fn receive(
    receiver: &mut Receiver,
    mut stream: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<Vec<Message>, Invalid> {
    let mut messages = Vec::new();
    loop {
        while let Some(message) = receiver.next()? {
            messages.push(message);
        }
        if let Some(header) = receiver.wants() {
            assert!(header.size > RECEIVE_BUFFER_SIZE);
            let size = header.size;
            assert_eq!(receiver.granted(), 0);
            receiver.grant();
            assert_eq!(receiver.granted(), size);
        }
        if stream.is_empty() {
            return Ok(messages);
        }
        let space = receiver.space();
        assert!(!space.is_empty());
        let size = piece().clamp(1, stream.len()).min(space.len());
        space[..size].copy_from_slice(&stream[..size]);
        receiver.advance(size);
        stream = &stream[size..];
    }
}

fn prepare(op: u64, size: usize) -> Message {
    let bytes = vec![0x5a; size];
    let entry = Entry {
        client: ClientId(1),
        session: 1,
        request: 1,
        size: u32::try_from(size).unwrap(),
        checksum: crc32c::crc32c(&bytes),
        operation: Operation::Apply,
    };
    let body = [&entry.encode()[..], &bytes].concat();
    Message::new(&replica(), Prepare { op, entry_count: 1, ..Prepare::default() }, &body)
}

/// Messages around every size at which the receiver does something else.
fn stream_of_all_sizes() -> Vec<Message> {
    let mut messages = examples();
    let small = RECEIVE_BUFFER_SIZE as usize;
    for size in [1, small - 193, small - 192, small - 191, small, 3 * small, 60_000] {
        messages.push(prepare(9, size));
        let body = vec![prepare(7, 1).header().encode(); 1 + size / 128].concat();
        messages.push(Message::new(&replica(), Headers {}, &body));
        messages.push(prepare(10, 1));
    }
    messages
}

fn bytes_of(messages: &[Message]) -> Vec<u8> {
    messages.iter().flat_map(|message| message.as_bytes().to_vec()).collect()
}

fn assert_same(messages: &[Message], expected: &[Message]) {
    assert_eq!(messages.len(), expected.len());
    for (message, expected) in messages.iter().zip(expected) {
        assert_eq!(message.header(), expected.header());
        assert_eq!(message.as_bytes(), expected.as_bytes());
    }
}

#[test]
fn any_pieces_equal_the_whole() {
    let expected = stream_of_all_sizes();
    let stream = bytes_of(&expected);
    for piece in [1, 2, 127, 128, 129, 4095, 4096, 4097, usize::MAX] {
        let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
        assert_same(&receive(&mut receiver, &stream, || piece).unwrap(), &expected);
        assert_eq!(receiver.buffered(), 0);
        assert_eq!(receiver.granted(), 0);
    }
    let mut prng = Prng::from_seed(17);
    for _ in 0..50 {
        let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
        let size_max = prng.range_inclusive(1, 9000);
        let piece = || usize::try_from(prng.range_inclusive(1, size_max)).unwrap();
        assert_same(&receive(&mut receiver, &stream, piece).unwrap(), &expected);
    }
}

#[test]
fn prepares_need_no_copy_for_the_journal() {
    let expected = stream_of_all_sizes();
    let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
    let mut prepares = 0;
    for message in receive(&mut receiver, &bytes_of(&expected), || 1000).unwrap() {
        if !matches!(message.header().command, Command::Prepare(_)) {
            continue;
        }
        prepares += 1;
        let sectors = message.sectors();
        assert_eq!(sectors.as_ptr(), message.as_bytes().as_ptr());
        assert!(crate::stdx::is_sectors(&sectors));
        let size = message.header().size as usize;
        assert!(sectors.len() - size < RECEIVE_BUFFER_SIZE as usize);
        assert!(sectors[size..].iter().all(|byte| *byte == 0));
    }
    assert_eq!(prepares, 15);
}

#[test]
fn counts_what_it_holds() {
    let message = prepare(9, 10_000);
    let bytes = message.as_bytes();
    let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
    let mut taken = 0;
    while receiver.wants().is_none() {
        receiver.space()[0] = bytes[taken];
        receiver.advance(1);
        taken += 1;
        assert!(receiver.next().unwrap().is_none());
        assert_eq!(receiver.buffered() as usize, taken);
    }
    assert_eq!(taken, 128);
    assert!(receiver.next().unwrap().is_none());
    assert_eq!(receiver.granted(), 0);
    receiver.grant();
    assert_eq!(receiver.granted(), message.header().size);
    assert_eq!(receiver.buffered(), 128);
    // A large frame's space ends with the frame.
    assert_eq!(receiver.space().len(), bytes.len() - 128);
}

#[test]
fn strangers_and_giants_are_refused_at_the_header() {
    let mut receiver = Receiver::new(ClusterId(99), SIZE_MAX);
    let bytes = prepare(9, 10_000).bytes();
    let invalid = Invalid::Cluster { theirs: CLUSTER, ours: ClusterId(99) };
    assert_eq!(receive(&mut receiver, &bytes[..128], || 128).unwrap_err(), invalid);
    assert_eq!(receiver.next().unwrap_err(), invalid);
    assert!(invalid.to_string().contains("99"), "{invalid}");

    let mut receiver = Receiver::new(CLUSTER, 8192);
    let message = prepare(9, 8192 - 192);
    assert_eq!(message.header().size, 8192);
    assert_same(&receive(&mut receiver, message.as_bytes(), || 128).unwrap(), &[message]);
    let bytes = prepare(9, 8192 - 191).bytes();
    let invalid = Invalid::Size(8193);
    assert_eq!(receive(&mut receiver, &bytes[..128], || 128).unwrap_err(), invalid);
}

#[test]
fn the_first_error_is_final() {
    let good = prepare(1, 10).bytes();
    for size in [10, 10_000] {
        let mut bad = prepare(2, size).bytes().to_vec();
        *bad.last_mut().unwrap() ^= 1;
        let stream = [&good[..], &bad, &good].concat();
        let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
        let result = receive(&mut receiver, &stream, || 4096);
        assert_eq!(result.unwrap_err(), Invalid::ChecksumBody);
        for _ in 0..3 {
            assert_eq!(receiver.next().unwrap_err(), Invalid::ChecksumBody);
        }
        assert_eq!(receiver.granted(), 0);
    }
}

#[test]
fn garbage_never_panics_nor_grows() {
    let mut prng = Prng::from_seed(23);
    let valid = stream_of_all_sizes();
    let (mut refused, mut accepted) = (0, 0);
    for _ in 0..3000 {
        let mut stream = Vec::new();
        for _ in 0..prng.range_inclusive(1, 3) {
            let mut bytes = valid[prng.index(valid.len())].as_bytes().to_vec();
            for _ in 0..prng.below(3) {
                let index = prng.index(bytes.len().min(160));
                bytes[index] = u8::try_from(prng.below(256)).unwrap();
            }
            if prng.below(4) > 0 {
                let body_checksum = crc32c::crc32c(&bytes[128..]);
                bytes[4..8].copy_from_slice(&body_checksum.to_le_bytes());
                let checksum = crc32c::crc32c(&bytes[4..128]);
                bytes[..4].copy_from_slice(&checksum.to_le_bytes());
            }
            bytes.truncate(prng.index(bytes.len() * 4));
            stream.extend_from_slice(&bytes);
        }
        let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
        let piece = || usize::try_from(prng.range_inclusive(1, 5000)).unwrap();
        match receive(&mut receiver, &stream, piece) {
            Ok(_) => accepted += 1,
            Err(_) => refused += 1,
        }
        assert!(receiver.granted() <= SIZE_MAX);
    }
    assert!(refused > 300 && accepted > 300, "{refused} {accepted}");
    let mut noise = vec![0; 10_000];
    for _ in 0..3000 {
        prng.fill(&mut noise);
        let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
        assert_eq!(receive(&mut receiver, &noise, || 777).unwrap_err(), Invalid::ChecksumHeader);
        assert_eq!(receiver.granted(), 0);
    }
}

#[test]
fn requests_of_a_client_come_out_exact() {
    let client = super::super::tests::client();
    let command =
        Request { client: ClientId(4), session: 2, request: 1, operation: Operation::Apply as u8 };
    let message = Message::new(&client, command, &[7; 5000]);
    let mut receiver = Receiver::new(CLUSTER, SIZE_MAX);
    let received = receive(&mut receiver, message.as_bytes(), || 4096).unwrap();
    assert_eq!(received[0].body(), [7; 5000]);
    assert_same(&received, &[message]);
}
