//! Tests over all commands: round trips, pinned bytes, flipped bits, garbage, and that
//! `docs/protocol.md` draws what the code writes.

use super::*;
use crate::constants::{HEADER_SIZE, NUMBER_MAX, VIEW_MAX};
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
        checkpoint: checkpoint(),
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
fn ops_and_views_that_are_never_reached_are_refused() {
    let invalid = |command: Command| Header::seal(&replica(), command, b"").invalid();
    let (largest, over) = (NUMBER_MAX, NUMBER_MAX + 1);
    let id = |op| PrepareId { op, ..PrepareId::default() };
    let block = |op| BlockRef { op, ..BlockRef::NONE };
    let commands: [fn(u64, PrepareId, BlockRef) -> Command; 10] = [
        |_, id, _| PrepareOk { prepare: id, ..PrepareOk::default() }.into(),
        |op, id, _| {
            PrepareOk { prepare: PrepareId { op: 1, ..id }, commit_min: op, checkpoint_id: 0 }
                .into()
        },
        |_, id, _| Commit { commit: id, ..Commit::default() }.into(),
        |_, _, checkpoint| Commit { checkpoint, ..Commit::default() }.into(),
        |op, _, _| RequestHeaders { op_min: 0, op_max: op }.into(),
        |op, _, _| RequestHeaders { op_min: op, op_max: op }.into(),
        |_, id, _| RequestPrepare { prepare: id }.into(),
        |_, _, checkpoint| Ping { checkpoint, replica_count: 3, ..Ping::default() }.into(),
        |op, _, _| Block { checkpoint_op: op, ..Block::default() }.into(),
        |_, _, _| StartViewChange {}.into(),
    ];
    let (names_none, naming) = commands.split_last().unwrap();
    for command in naming {
        assert_eq!(invalid(command(largest, id(largest), block(largest))), None);
        let wrong = command(over, id(over), block(over));
        assert_eq!(invalid(wrong), Some("an op that is never reached"), "{wrong:?}");
    }
    let set = header_set();
    let invalid = |command: Command| Header::seal(&replica(), command, &set).invalid();
    for wrong in [
        DoViewChange { op: over, ..DoViewChange::default() },
        DoViewChange { commit_max: over, ..DoViewChange::default() },
        DoViewChange { checkpoint: block(over), ..DoViewChange::default() },
    ] {
        assert!(invalid(wrong.into()).is_some(), "{wrong:?}");
    }
    assert!(invalid(StartView { op: over, ..StartView::default() }.into()).is_some());
    let checkpoint = block(over);
    assert!(invalid(StartView { checkpoint, ..StartView::default() }.into()).is_some());
    let (prepare, body) = prepare();
    let wrong = Prepare { op: over, ..prepare };
    assert!(Header::seal(&replica(), Command::from(wrong), &body).invalid().is_some());
    for (view, reason) in [(VIEW_MAX, None), (VIEW_MAX + 1, Some("a view that is never reached"))] {
        let author = Author { view: View(view), ..replica() };
        let command = names_none(0, id(0), block(0));
        assert_eq!(Header::seal(&author, command, b"").invalid(), reason);
    }
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

fn names(examples: &[Message], choose: impl Fn(&Header<Command>) -> bool) -> Vec<&'static str> {
    let chosen = examples.iter().map(Message::header).filter(|header| choose(header));
    chosen.map(|header| header.command.name()).collect()
}

#[test]
fn commands_without_a_body_refuse_one_and_clients_are_named_by_theirs() {
    let with_body = |header: &Header<Command>| {
        let author = if header.command.from_client() { client() } else { replica() };
        Header::seal(&author, header.command, &[0; 7]).invalid()
    };
    let examples = examples();
    let reason = Some("a body where none belongs");
    assert_eq!(
        names(&examples, |header| with_body(header) == reason),
        [
            "prepare_ok",
            "commit",
            "commit_ok",
            "start_view_change",
            "request_start_view",
            "request_headers",
            "request_prepare",
            "ping",
            "pong",
            "ping_client",
            "pong_client",
            "eviction",
            "reject",
            "request_status",
        ]
    );
    assert_eq!(
        names(&examples, |header| header.command.client().is_some()),
        [
            "request",
            "reply",
            "ping_client",
            "pong_client",
            "eviction",
            "reject",
            "request_status",
            "status",
        ]
    );
    assert_eq!(
        names(&examples, |header| header.command.from_client()),
        ["request", "ping_client", "request_status"]
    );
}

#[test]
fn frames_that_no_author_writes_are_refused() {
    for message in examples() {
        let header = *message.header();
        assert_eq!(header.invalid(), None);
        let name = header.command.name();
        let beyond = Header { replica: ReplicaIndex(6), ..header };
        assert_eq!(beyond.invalid(), Some("replica index out of range"), "{name}");
        if header.command.from_client() {
            let reason = Some("a client that claims to be a replica");
            assert_eq!(Header { replica: ReplicaIndex(1), ..header }.invalid(), reason);
            assert_eq!(Header { incarnation: 1, ..header }.invalid(), reason);
        }
        if header.size == HEADER_SIZE {
            let reason = Some("a body checksum without a body");
            assert_eq!(Header { checksum_body: 1, ..header }.invalid(), reason, "{name}");
        }
    }
}

#[test]
fn fields_that_no_author_writes_are_refused() {
    let refused = |command: Command, body: &[u8]| {
        let author = if command.from_client() { client() } else { replica() };
        Header::seal(&author, command, body).invalid().is_some()
    };
    let of = |name: &str| {
        *examples().iter().find(|message| message.header().command.name() == name).unwrap().header()
    };
    let Command::PrepareOk(ok) = of("prepare_ok").command else { panic!() };
    assert!(!refused(ok.into(), b""));
    let later = PrepareId { view: View(8), ..ok.prepare };
    assert!(refused(PrepareOk { prepare: later, ..ok }.into(), b""));
    let root = PrepareId { op: 0, ..ok.prepare };
    assert!(refused(PrepareOk { prepare: root, ..ok }.into(), b""));
    assert!(refused(RequestPrepare { prepare: root }.into(), b""));
    let Command::Commit(commit) = of("commit").command else { panic!() };
    assert!(!refused(Commit { answer: 0, ..commit }.into(), b""));
    assert!(refused(Commit { answer: 2, ..commit }.into(), b""));
    assert!(refused(Commit { commit: later, ..commit }.into(), b""));
    assert!(refused(RequestStartView { nonce: 0 }.into(), b""));
    assert!(!refused(RequestHeaders { op_min: 3, op_max: 3 }.into(), b""));
    assert!(refused(RequestHeaders { op_min: 4, op_max: 3 }.into(), b""));
    let Command::Ping(ping) = of("ping").command else { panic!() };
    let Command::PongClient(pong) = of("pong_client").command else { panic!() };
    for replica_count in 0..=u8::MAX {
        let is_wrong = !(1..=6).contains(&replica_count);
        assert_eq!(refused(Ping { replica_count, ..ping }.into(), b""), is_wrong);
        assert_eq!(refused(PongClient { replica_count, ..pong }.into(), b""), is_wrong);
    }
    let client = ClientId(1);
    for reason in 0..=u8::MAX {
        let eviction = Eviction { client, session: 1, reason };
        assert_eq!(refused(eviction.into(), b""), !(1..=2).contains(&reason));
        let reject = Reject { client, request: 1, reason };
        assert_eq!(refused(reject.into(), b""), !(1..=7).contains(&reason));
    }
}

#[test]
fn bodies_that_no_author_writes_are_refused() {
    let refused = |command: Command, body: &[u8]| {
        let author = if command.from_client() { client() } else { replica() };
        Header::seal(&author, command, body).invalid().is_some()
    };
    let client = ClientId(1);
    for (size, whole) in [(0, false), (100, false), (128, true), (200, false), (256, true)] {
        assert_eq!(refused(Headers {}.into(), &vec![0; size]), !whole, "{size}");
    }
    for (size, whole) in [(0, false), (19, false), (20, true), (30, false), (40, true)] {
        assert_eq!(refused(RequestBlocks {}.into(), &vec![0; size]), !whole, "{size}");
    }
    for (size, whole) in [(StatusReport::SIZE as usize, true), (0, false), (128, false)] {
        assert_eq!(refused(Status { client }.into(), &vec![0; size]), !whole, "{size}");
    }
    // The table and 1 to 33 headers.
    let view_change = DoViewChange { op: 42, log_view: View(7), ..DoViewChange::default() };
    let start_view = StartView { op: 42, ..StartView::default() };
    for (count, whole) in [(0, false), (1, false), (2, true), (34, true), (35, false)] {
        let body = vec![0; count * 128];
        assert_eq!(refused(view_change.into(), &body), !whole, "{count}");
        assert_eq!(refused(start_view.into(), &body), !whole, "{count}");
    }
    assert!(refused(view_change.into(), &[0; 300]));
    let both = DoViewChange { present: 4, nack: 4, ..view_change };
    assert!(refused(both.into(), &header_set()));
    // What the primary alone writes into the log.
    for operation in [Operation::Noop, Operation::Genesis] {
        let code = operation as u8;
        let request = Request { client, session: 1, request: 1, operation: code };
        assert!(refused(request.into(), b""), "{operation:?}");
        let reply = Reply { client, session: 1, operation: code, ..Reply::default() };
        assert!(refused(reply.into(), b""), "{operation:?}");
    }
    let apply = Request { client, session: 1, request: 1, operation: Operation::Apply as u8 };
    assert!(!refused(apply.into(), b"x"));
    assert!(refused(Request { session: 0, ..apply }.into(), b"x"));
    assert!(refused(Request { operation: 77, ..apply }.into(), b"x"));
}

#[test]
fn a_checkpoint_is_known_by_its_op_and_both_checksums() {
    assert_eq!(checkpoint().checkpoint_id(), 32 << 64 | 0xfeed << 32 | 0xbeef);
    assert_eq!(BlockRef::NONE.checkpoint_id(), 0);
}

#[test]
fn names_are_written_as_the_documents_write_them() {
    assert_eq!(format!("{} {}", ReplicaIndex(3), View(7)), "3 7");
    assert_eq!(format!("{}", ClientId(0xc1)), "000000000000000000000000000000c1");
    let names = [1, 2, 3, 4].map(|code| ReplicaStatus::from_code(code).unwrap().name());
    assert_eq!(names, ["normal", "view_change", "recovering", "recovering_head"]);
}

#[test]
fn a_recovery_of_a_table_that_is_yet_to_be_written_is_none() {
    let incarnations = [11, 12, 13, 0, 0, 0];
    let message_at = |op: Op, table_op: Op| {
        let table = IncarnationTable { op: table_op, incarnations, ..Default::default() };
        let recover = Recover { replica: ReplicaIndex(2), incarnation: 99, table };
        let bytes = recover.encode();
        let entry = Entry {
            client: ClientId(1),
            session: 1,
            request: 1,
            size: u32::try_from(bytes.len()).unwrap(),
            checksum: crc32c::crc32c(&bytes),
            operation: Operation::Recover,
        };
        let body = [&entry.encode()[..], &bytes].concat();
        let (command, _) = prepare();
        Message::new(&replica(), Prepare { op, commit: op - 1, ..command }, &body)
    };
    assert_eq!(Recover::table_of(&message_at(42, 41)).map(|table| table.op), Some(42));
    assert_eq!(Recover::table_of(&message_at(42, 42)), None);
    assert_eq!(Recover::table_of(&message_at(42, 43)), None);
}
