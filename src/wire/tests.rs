//! Tests over all commands: round trips, pinned bytes, flipped bits, garbage, and that
//! `docs/protocol.md` draws what the code writes.

use super::*;
use crate::constants::HEADER_SIZE;
use crate::stdx::Prng;
use bytes::Bytes;

pub(super) const CLUSTER: ClusterId = ClusterId(0x0102_0304_0506_0708_090a_0b0c_0d0e_0f10);

/// The author of what replicas write here.
pub(super) fn replica() -> Author {
    let (view, replica) = (View(7), ReplicaIndex(1));
    Author { cluster: CLUSTER, view, replica, incarnation: 0x1122_3344_5566_7788 }
}

/// The author of what clients write here.
pub(super) fn client() -> Author {
    let (view, replica) = (View(7), ReplicaIndex(0));
    Author { cluster: CLUSTER, view, replica, incarnation: 0 }
}

fn entry() -> Vec<u8> {
    let entry = Entry {
        client: ClientId(0xc1),
        session: 5,
        request: 3,
        size: 5,
        checksum: crc32c::crc32c(b"hello"),
        operation: Operation::Apply,
    };
    [&entry.encode()[..], b"hello"].concat()
}

fn prepare() -> (Prepare, Vec<u8>) {
    let parent = Parent { view: View(6), checksum: 0xaaaa_bbbb, checksum_body: 0xcccc_dddd };
    let (timestamp, checkpoint_id) = (0x1234_5678_9abc_def0, 0xfeed_0000_0000_0000_0000_beef);
    let prepare = Prepare { parent, op: 42, commit: 40, timestamp, checkpoint_id, entry_count: 1 };
    (prepare, entry())
}

fn header_set() -> Vec<u8> {
    let (command, body) = prepare();
    let table =
        IncarnationTable { op: 1, incarnations: [11, 12, 13, 0, 0, 0], ..Default::default() };
    let head = Header::seal(&replica(), command, &body);
    HeaderSet { table, op: 42, headers: vec![Some(head), None] }.encode()
}

/// One message of each command, in the order of the codes, every field with a value of its own.
pub(super) fn examples() -> Vec<Message> {
    let mut messages = Vec::new();
    of_clients(&mut messages);
    of_normal_operation(&mut messages);
    of_view_changes(&mut messages);
    of_repair(&mut messages);
    of_pings(&mut messages);
    messages.sort_by_key(|message| message.header().command.code());
    messages
}

fn of_clients(messages: &mut Vec<Message>) {
    let (client_id, session, request) = (ClientId(0xc1), 5, 3);
    let operation = Operation::Apply as u8;
    let command = Request { client: client_id, session, request, operation };
    messages.push(Message::new(&client(), command, b"hello"));
    let reply = Reply {
        client: client_id,
        session,
        request,
        op: 42,
        timestamp: 0x1234_5678_9abc_def0,
        request_checksum: crc32c::crc32c(b"hello"),
        result: 9,
        operation,
    };
    messages.push(Message::new(&replica(), reply, b"world"));
    let reason = EvictionReason::SessionTooLow as u8;
    messages.push(Message::new(&replica(), Eviction { client: client_id, session, reason }, b""));
    let reason = RejectReason::Busy as u8;
    messages.push(Message::new(&replica(), Reject { client: client_id, request, reason }, b""));
    messages.push(Message::new(&client(), RequestStatus { client: client_id }, b""));
    let report = StatusReport { replica_count: 3, view: View(7), ..StatusReport::default() };
    messages.push(Message::new(&replica(), Status { client: client_id }, &report.encode()));
}

fn checkpoint() -> BlockRef {
    BlockRef { index: 6, op: 32, checksum: 0xfeed, checksum_body: 0xbeef }
}

fn of_normal_operation(messages: &mut Vec<Message>) {
    let (command, body) = prepare();
    let message = Message::new(&replica(), command, &body);
    let id = message.prepare_header().id();
    messages.push(message);
    let checkpoint_id = 0xfeed;
    let prepare_ok = PrepareOk { prepare: id, commit_min: 39, checkpoint_id };
    messages.push(Message::new(&replica(), prepare_ok, b""));
    let checkpoint = checkpoint();
    let commit = Commit { commit: id, checkpoint, round: 77, timestamp_monotonic: 88, answer: 1 };
    messages.push(Message::new(&replica(), commit, b""));
    messages.push(Message::new(&replica(), CommitOk { round: 77 }, b""));
}

fn of_view_changes(messages: &mut Vec<Message>) {
    messages.push(Message::new(&replica(), StartViewChange {}, b""));
    let do_view_change = DoViewChange {
        op: 42,
        commit_min: 39,
        commit_max: 40,
        checkpoint_op: 32,
        log_view: View(7),
        present: 1,
        nack: 2,
    };
    messages.push(Message::new(&replica(), do_view_change, &header_set()));
    let start_view = StartView { op: 42, commit_max: 40, checkpoint: checkpoint(), nonce: 99 };
    messages.push(Message::new(&replica(), start_view, &header_set()));
    messages.push(Message::new(&replica(), RequestStartView { nonce: 99 }, b""));
}

fn of_repair(messages: &mut Vec<Message>) {
    let (command, body) = prepare();
    let header = Header::seal(&replica(), command, &body);
    let (op_min, op_max) = (30, 42);
    messages.push(Message::new(&replica(), RequestHeaders { op_min, op_max }, b""));
    messages.push(Message::new(&replica(), Headers {}, &header.encode()));
    messages.push(Message::new(&replica(), RequestPrepare { prepare: header.id() }, b""));
    messages.push(Message::new(&replica(), RequestBlocks {}, &checkpoint().encode()));
    let block = Block { index: 6, checkpoint_op: 32, kind: 1 };
    messages.push(Message::new(&replica(), block, b"block"));
}

fn of_pings(messages: &mut Vec<Message>) {
    let ping = Ping {
        timestamp_monotonic: 88,
        incarnation_target: 0x99,
        checkpoint: checkpoint(),
        message_size: 1 << 20,
        journal_slots: 1024,
        block_size: 4096,
        pipeline: 8,
        clients_max: 4095,
        replica_count: 3,
        store_full: 1,
    };
    messages.push(Message::new(&replica(), ping, b""));
    let pong = Pong { ping_timestamp_monotonic: 88, timestamp_realtime: 0x1234 };
    messages.push(Message::new(&replica(), pong, b""));
    let client_id = ClientId(0xc1);
    let ping_client = PingClient { client: client_id, timestamp_monotonic: 88 };
    messages.push(Message::new(&client(), ping_client, b""));
    let pong_client = PongClient {
        client: client_id,
        ping_timestamp_monotonic: 88,
        message_size: 1 << 20,
        replica_count: 3,
    };
    messages.push(Message::new(&replica(), pong_client, b""));
}

fn reseal(bytes: &mut [u8]) {
    let checksum = crc32c::crc32c(&bytes[128..]);
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[4..128]);
    bytes[..4].copy_from_slice(&checksum.to_le_bytes());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_command_round_trips() {
    let messages = examples();
    assert_eq!(messages.len(), Command::LAYOUTS.len());
    for (message, (code, name, _)) in messages.iter().zip(Command::LAYOUTS) {
        assert_eq!(message.header().command.code(), *code);
        assert_eq!(message.header().command.name(), *name);
        let again = Message::decode(message.bytes()).unwrap();
        assert_eq!(again.header(), message.header());
        assert_eq!(again.body(), message.body());
        assert_eq!(again.header().encode(), message.header().encode());
        assert_eq!(again.header().checksum, again.header().checksum_computed());
    }
}

/// The whole messages of [`examples`], pinned: another implementation must produce these bytes.
const GOLDEN: &str = include_str!("golden.txt");

#[test]
fn bytes_are_pinned() {
    let mut lines = GOLDEN.lines().filter(|line| !line.starts_with('#'));
    for message in examples() {
        let line = format!("{} {}", message.header().command.name(), hex(message.as_bytes()));
        assert_eq!(lines.next(), Some(line.as_str()));
    }
    assert_eq!(lines.next(), None);
}

#[test]
fn every_flipped_bit_is_noticed() {
    for message in examples() {
        for bit in 0..message.as_bytes().len() * 8 {
            let mut bytes = message.as_bytes().to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let result = Message::decode(Bytes::from(bytes));
            assert!(result.is_err(), "{} bit {bit}", message.header().command.name());
        }
    }
}

#[test]
fn reserved_bytes_are_checked_beyond_the_checksum() {
    for (message, (_, name, fields)) in examples().iter().zip(Command::LAYOUTS) {
        let end = fields.last().map_or(48, |(_, offset, size)| offset + size);
        for offset in (36..40).chain(end..128) {
            let mut bytes = message.as_bytes().to_vec();
            bytes[offset] = 1;
            reseal(&mut bytes);
            let result = Message::decode(Bytes::from(bytes));
            assert!(matches!(result, Err(Invalid::Field(_))), "{name} byte {offset}");
        }
    }
}

#[test]
fn other_protocols_and_commands_are_named() {
    let with = |offset: usize, value: u8| {
        let mut bytes = examples()[0].as_bytes().to_vec();
        bytes[offset] = value;
        reseal(&mut bytes);
        Message::decode(Bytes::from(bytes)).unwrap_err()
    };
    assert_eq!(with(32, 3), Invalid::Protocol(3));
    assert_eq!(with(32, 3).to_string(), "peer speaks protocol 3, this is 1");
    assert_eq!(with(34, 0), Invalid::CommandUnknown(0));
    assert_eq!(with(34, 24), Invalid::CommandUnknown(24));
    assert_eq!(with(24, 1), Invalid::Size(1));
}

#[test]
fn garbage_is_an_error_also_with_right_checksums() {
    let mut prng = Prng::from_seed(29);
    let examples = examples();
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..50_000 {
        let mut bytes = examples[prng.index(examples.len())].as_bytes().to_vec();
        if prng.below(8) == 0 {
            // Fields at random, behind a frame that is right.
            prng.fill(&mut bytes[48..128]);
        }
        for _ in 0..prng.range_inclusive(1, 4) {
            let index = prng.index(bytes.len());
            let edge = [0, 1, 0x7f, 0x80, 0xff][prng.index(5)];
            bytes[index] = edge;
        }
        if prng.below(8) > 0 {
            reseal(&mut bytes);
        }
        let Ok(message) = Message::decode(Bytes::from(bytes.clone())) else {
            refused += 1;
            continue;
        };
        accepted += 1;
        assert_eq!(message.header().encode(), bytes[..128]);
        // Bodies: total as well.
        match &message.header().command {
            Command::Prepare(prepare) => {
                let _ = Entries::check(message.body(), prepare.entry_count);
                assert_eq!(message.prepare_header().op(), prepare.op);
                assert_eq!(message.sectors().len() % 4096, 0);
            }
            Command::DoViewChange(_) | Command::StartView(_) => {
                if let Ok(set) = HeaderSet::decode(&message) {
                    assert!(set.op_min() <= set.op);
                }
            }
            Command::Headers(_) => drop(decode_headers(&message)),
            Command::Status(_) => drop(StatusReport::decode(message.body())),
            _ => {}
        }
    }
    assert!(accepted > 5000 && refused > 5000, "{accepted} {refused}");
    for _ in 0..50_000 {
        let mut bytes = [0; HEADER_SIZE as usize];
        prng.fill(&mut bytes);
        bytes[32..36].copy_from_slice(&[1, 0, u8::try_from(prng.below(26)).unwrap(), 1]);
        bytes[36..40].fill(0);
        let checksum = crc32c::crc32c(&bytes[4..]);
        bytes[..4].copy_from_slice(&checksum.to_le_bytes());
        if let Ok(header) = Header::decode(&bytes) {
            assert_eq!(header.encode(), bytes);
        }
    }
}

#[test]
fn headers_that_no_author_writes_are_refused() {
    let author = replica();
    let invalid = |command: Command, body: &[u8]| Header::seal(&author, command, body).invalid();
    let (prepare, body) = prepare();
    assert_eq!(invalid(prepare.into(), &body), None);
    for wrong in [
        Prepare { entry_count: 0, ..prepare },
        Prepare { entry_count: 2, ..prepare },
        Prepare { entry_count: u32::MAX, ..prepare },
        Prepare { commit: 42, ..prepare },
        Prepare { op: 0, ..prepare },
        Prepare { timestamp: u64::MAX, ..prepare },
        Prepare { parent: Parent { view: View(8), ..prepare.parent }, ..prepare },
    ] {
        assert!(invalid(wrong.into(), &body).is_some(), "{wrong:?}");
    }
    let set = header_set();
    let right = DoViewChange { op: 42, present: 3, ..DoViewChange::default() };
    assert_eq!(invalid(right.into(), &set), None);
    assert!(invalid(DoViewChange { present: 4, ..right }.into(), &set).is_some());
    assert!(invalid(DoViewChange { nack: 1 << 63, ..right }.into(), &set).is_some());
    assert!(invalid(DoViewChange { log_view: View(8), ..right }.into(), &set).is_some());
    assert!(invalid(DoViewChange { commit_min: 1, ..right }.into(), &set).is_some());
    assert!(invalid(right.into(), &set[..128]).is_some());
    assert!(invalid(right.into(), &[0; 128 * 35]).is_some());
    assert!(
        invalid(StartView { op: 1, commit_max: 2, ..StartView::default() }.into(), &set).is_some()
    );
    let mut small = Header::seal(&author, Command::from(StartViewChange {}), b"");
    small.size = 0;
    assert!(small.invalid().is_some());
    let root = Header::root(CLUSTER);
    assert_eq!(root.with(Command::from(root.command)).invalid(), None);
    assert_eq!(Header::decode_prepare(&root.encode()), Ok(root));
}

#[test]
fn builders_make_the_same_message_in_place() {
    let (command, body) = prepare();
    let mut builder = MessageBuilder::new(8192);
    builder.append(&body[..10]);
    builder.append(&body[10..]);
    assert_eq!(builder.body_size() as usize, body.len());
    let message = builder.seal(&replica(), command);
    let expected = Message::new(&replica(), command, &body);
    assert_eq!(message.as_bytes(), expected.as_bytes());
    assert_eq!(message.sectors(), expected.sectors());
    assert_eq!(message.sectors().as_ptr(), message.as_bytes().as_ptr());
    assert_ne!(expected.sectors().as_ptr(), expected.as_bytes().as_ptr());
    // As it is read back from the journal, padding included.
    let read = Message::decode(message.sectors()).unwrap();
    assert_eq!(read.as_bytes(), message.as_bytes());
    let mut padded = message.sectors().to_vec();
    *padded.last_mut().unwrap() = 1;
    assert!(matches!(Message::decode(Bytes::from(padded)), Err(Invalid::Field(_))));
}

const DOCUMENT: &str = include_str!("../../docs/protocol.md");

/// The rows, split into cells, of all tables of the section of `heading` up to the next heading.
fn rows(heading: &str) -> Vec<Vec<&'static str>> {
    let mut lines = DOCUMENT.lines().skip_while(|line| *line != heading);
    assert_eq!(lines.next(), Some(heading), "not in docs/protocol.md");
    lines
        .take_while(|line| !line.starts_with("##"))
        .filter(|line| line.starts_with("| "))
        .map(|line| line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`')))
        .map(Iterator::collect)
        .collect()
}

/// The places that the document gives to fields, without the head of the table.
fn documented(heading: &str) -> Vec<(&'static str, usize, usize)> {
    let number = |cell: &str| cell.parse().expect("a number");
    let fields = rows(heading).into_iter().skip(1);
    fields.map(|row| (row[2], number(row[0]), number(row[1]))).collect()
}

#[test]
fn the_document_draws_every_field_where_it_is() {
    for (code, name, fields) in Command::LAYOUTS {
        assert_eq!(documented(&format!("### `{name}` ({code})")), *fields, "{name}");
    }
    assert_eq!(DOCUMENT.matches("\n### `").count(), Command::LAYOUTS.len());
    assert_eq!(documented("### Status report"), StatusReport::FIELDS);
    let size = |places: Vec<Place>| places.iter().map(|(_, _, size)| size).sum::<usize>();
    assert_eq!(size(documented("### The header")), 48);
    assert_eq!(size(documented("### Entries")), 64);
    assert_eq!(size(documented("### Table of incarnations")), IncarnationTable::SIZE);
}

#[test]
fn the_document_names_every_code() {
    let codes = |heading: &str| -> Vec<(u8, String)> {
        let rows = rows(heading).into_iter().skip(1);
        rows.map(|row| (row[0].parse().expect("a code"), row[1].replace('_', ""))).collect()
    };
    fn known<T: std::fmt::Debug>(from_code: fn(u8) -> Option<T>) -> Vec<(u8, String)> {
        let name = |code| Some((code, format!("{:?}", from_code(code)?).to_lowercase()));
        (0..=u8::MAX).filter_map(name).collect()
    }
    assert_eq!(codes("### Operations"), known(Operation::from_code));
    assert_eq!(codes("### Eviction reasons"), known(EvictionReason::from_code));
    assert_eq!(codes("### Reject reasons"), known(RejectReason::from_code));
}

#[test]
fn the_document_shows_a_request_as_it_is() {
    let bytes = examples()[0].as_bytes().to_vec();
    let mut shown = String::new();
    for (index, row) in bytes.chunks(16).enumerate() {
        let row: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        shown.push_str(&format!("{:4}  {}\n", index * 16, row.join(" ")));
    }
    assert!(DOCUMENT.contains(&shown), "{shown}");
}
