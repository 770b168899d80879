//! Fuzz target `kv`: requests of any bytes to the key-value machine, against a plain map.
//!
//! ```text
//!   each request: flags, then   bit 0: a description of transactions   else: the bytes themselves
//!                               bit 1: as a query                      else: in the session
//! ```
//!
//! Asserted: `validate`, the decoder and the admission of the executor agree; what decodes, encodes
//! to the same bytes; the reply is byte by byte the one that a map gives, with its revisions, its
//! rows cut where the reply is full, its failed compares; a request that is refused, too long in
//! its reply or a query that writes leaves everything as it was; all keys that a request touches
//! are announced by `keys`.
//!
//! Planted: a map that counts every request as a revision.
//!
//! **Not here:** the store beneath (`store`), sessions.

use super::Plant;
use super::cursor::{CLUSTER, Cursor};
use std::collections::BTreeMap;
use vsr::replica::executor::{Admission, ClientReply, CommitOutcome, Executor};
use vsr::state_machine::kv::{
    self, CODE_QUERY_WRITES, Compare, Condition, Current, Kv, OperationResult, Outcome, Record,
    Row, Scan, Transaction,
};
use vsr::state_machine::{
    Direction, Keys, RESULT_INVALID, RESULT_REPLY_TOO_LARGE, StateMachine, Table,
};
use vsr::storage::Geometry;
use vsr::wire::{
    Author, ClientId, Entry, Message, Op, Operation, Prepare, RejectReason, ReplicaIndex, Request,
    View,
};

const CLIENT: ClientId = ClientId(5);
const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 4,
    clients_max: 4,
};
/// The longest reply, in a session or not: a message without its header.
const REPLY_SIZE_MAX: usize = 4096 - 128;
/// The longest request.
const REQUEST_SIZE_MAX: usize = 4096 - 128 - 64;

/// By key: the revision that wrote it, and the value.
type Model = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many valid requests were compared.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let mut cursor = Cursor::new(data);
    let mut world = World::new(plant);
    let mut compared = 0;
    for _ in 0..64 {
        if cursor.is_empty() {
            break;
        }
        let flags = cursor.u8();
        let is_query = flags & 2 != 0;
        if flags & 1 == 0 {
            let size = usize::from(cursor.u16()) % (REQUEST_SIZE_MAX + 1);
            compared += u32::from(world.request(cursor.bytes(size), is_query));
            continue;
        }
        let described = describe(&mut cursor);
        let request = described.request();
        if request.invalid().is_some() {
            continue;
        }
        let bytes = request.encode();
        assert_eq!(kv::Request::decode(&bytes).as_ref(), Ok(&request));
        if bytes.len() <= REQUEST_SIZE_MAX {
            assert!(world.request(&bytes, is_query));
            compared += 1;
        }
    }
    compared
}

// ---- descriptions

/// A request that owns its bytes.
struct Described {
    keys: Vec<Vec<u8>>,
    values: Vec<Vec<u8>>,
    transactions: Vec<(Vec<Choice>, Vec<Choice>)>,
}

/// What is compared or done, and where its key, value and end are.
#[derive(Clone, Copy)]
struct Choice {
    kind: u8,
    key: usize,
    end: usize,
    value: usize,
    number: u8,
}

fn describe(cursor: &mut Cursor<'_>) -> Described {
    let mut described =
        Described { keys: Vec::new(), values: Vec::new(), transactions: Vec::new() };
    for _ in 0..=cursor.u8() % 3 {
        let counts = cursor.u8();
        let compares = (0..counts % 3).map(|_| described.choice(cursor)).collect();
        let operations = (0..counts / 3 % 5).map(|_| described.choice(cursor)).collect();
        described.transactions.push((compares, operations));
    }
    described
}

impl Described {
    fn choice(&mut self, cursor: &mut Cursor<'_>) -> Choice {
        let kind = cursor.u8();
        let (key, end, number) = (cursor.u8(), cursor.u8(), cursor.u8());
        let value = usize::from(cursor.u8());
        let size = if value < 200 { value } else { (value - 199) * 60 };
        self.keys.extend([self::key(key), self::key(end)]);
        self.values.push(vec![number; size]);
        let (key, end) = (self.keys.len() - 2, self.keys.len() - 1);
        Choice { kind, key, end, value: self.values.len() - 1, number }
    }

    fn request(&self) -> kv::Request<'_> {
        let transactions = self.transactions.iter().map(|(compares, operations)| Transaction {
            compares: compares.iter().map(|choice| self.compare(choice)).collect(),
            operations: operations.iter().map(|choice| self.operation(choice)).collect(),
        });
        kv::Request { transactions: transactions.collect() }
    }

    fn compare(&self, choice: &Choice) -> Compare<'_> {
        let condition = match choice.kind % 4 {
            0 => Condition::Absent,
            1 => Condition::Present,
            2 => Condition::Value(&self.values[choice.value]),
            _ => Condition::Revision(u64::from(choice.number % 8)),
        };
        Compare { key: &self.keys[choice.key], condition }
    }

    fn operation(&self, choice: &Choice) -> kv::Operation<'_> {
        let key = &self.keys[choice.key][..];
        match choice.kind % 8 {
            0..=2 => kv::Operation::Put { key, value: &self.values[choice.value] },
            3 => kv::Operation::Delete { key },
            4 | 5 => kv::Operation::Get { key },
            _ => kv::Operation::Scan(Scan {
                start: key,
                start_excluded: choice.kind & 16 != 0,
                end: &self.keys[choice.end],
                direction: if choice.kind & 32 == 0 {
                    Direction::Forward
                } else {
                    Direction::Backward
                },
                limit: u32::from(choice.number % 8),
            }),
        }
    }
}

/// One of a few keys; the first is empty, which only a scan may name.
fn key(number: u8) -> Vec<u8> {
    match number % 16 {
        0 => Vec::new(),
        15 => vec![0xff; 1024],
        short => vec![b'a' + short % 5; 1 + usize::from(short / 5)],
    }
}

// ---- the world

struct World {
    executor: Executor<Kv>,
    model: Model,
    revision: u64,
    op: Op,
    request: u64,
    plant: Plant,
}

impl World {
    fn new(plant: Plant) -> Self {
        let executor = Executor::new(Kv::new(), &GEOMETRY);
        let (model, revision, op, request) = (Model::new(), 0, 0, 0);
        let mut world = Self { executor, model, revision, op, request, plant };
        world.commit(Operation::Register, &[]);
        world
    }

    /// Executes an entry: the result and the reply.
    fn commit(&mut self, operation: Operation, body: &[u8]) -> (u32, Vec<u8>) {
        self.op += 1;
        let has_session = operation == Operation::Apply;
        self.request += u64::from(has_session);
        let entry = Entry {
            client: CLIENT,
            session: u64::from(has_session),
            request: if has_session { self.request } else { 0 },
            size: u32::try_from(body.len()).expect("at most a message"),
            checksum: crc32c::crc32c(body),
            operation,
        };
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
        let (op, commit) = (self.op, self.op - 1);
        let command = Prepare { op, commit, timestamp: op, entry_count: 1, ..Prepare::default() };
        let body = [&entry.encode()[..], body].concat();
        let prepare = Message::new(&author, command, &body);
        let mut replies = Vec::new();
        let outcome = self.executor.commit(&prepare, &mut replies);
        assert_eq!(outcome, CommitOutcome::Done, "a store in memory has all it needs");
        match replies.as_slice() {
            [ClientReply::Reply(reply)] => (reply.result, reply.body.to_vec()),
            other => panic!("one reply, not {other:?}"),
        }
    }

    /// One request, judged. Whether it was valid.
    fn request(&mut self, bytes: &[u8], is_query: bool) -> bool {
        let operation = if is_query { Operation::Query } else { Operation::Apply };
        let decoded = kv::Request::decode(bytes);
        assert_eq!(Kv::new().validate(bytes).is_ok(), decoded.is_ok());
        assert_eq!(self.is_admitted(operation, bytes), decoded.is_ok());
        let before = self.executor.store().digest();
        let mut keys = Keys::default();
        Kv::new().keys(bytes, &mut keys);
        let Ok(request) = decoded else {
            assert!(keys.keys.is_empty());
            assert_eq!(self.commit(operation, bytes), (RESULT_INVALID, Vec::new()));
            self.check_unchanged(is_query, before);
            return false;
        };
        assert_eq!(request.encode(), bytes);
        check_keys(&request, &keys);
        let (result, reply) = self.commit(operation, bytes);
        if is_query && !request.is_read_only() {
            assert_eq!((result, reply), (CODE_QUERY_WRITES, Vec::new()));
            self.check_unchanged(true, before);
            return true;
        }
        let model_before = self.model.clone();
        match self.run(&request) {
            Some((expected, revision)) => {
                assert_eq!(result, 0);
                assert_eq!(kv::Reply::decode(&reply).expect("a reply").encode(), reply);
                assert_eq!(reply, expected, "{request:?}");
                self.revision = revision;
                if self.plant == Plant::Error {
                    self.revision += 1;
                }
            }
            None => {
                assert_eq!((result, reply), (RESULT_REPLY_TOO_LARGE, Vec::new()), "{request:?}");
                self.model = model_before;
                self.check_unchanged(is_query, before);
            }
        }
        true
    }

    /// In a session at least the session changes.
    fn check_unchanged(&self, is_query: bool, before: u64) {
        assert!(!is_query || self.executor.store().digest() == before);
    }

    fn is_admitted(&mut self, operation: Operation, body: &[u8]) -> bool {
        let has_session = operation == Operation::Apply;
        let command = Request {
            client: CLIENT,
            session: u64::from(has_session),
            request: if has_session { self.request + 1 } else { 0 },
            operation: operation as u8,
        };
        let author =
            Author { cluster: CLUSTER, view: View(0), replica: ReplicaIndex(0), incarnation: 0 };
        let message = Message::new(&author, command, body);
        match self.executor.admit(&message.header().with(command), body) {
            Admission::Accept => true,
            Admission::Reject(RejectReason::Invalid) => false,
            other => panic!("{other:?}"),
        }
    }

    /// What the map makes of it: the reply and the revision after it; `None` if that is too long.
    fn run(&mut self, request: &kv::Request<'_>) -> Option<(Vec<u8>, u64)> {
        let mut replied = Replied { revision: 0, outcomes: Vec::new() };
        let mut wrote = false;
        for transaction in &request.transactions {
            if self.fails(&transaction.compares, &mut replied) {
                continue;
            }
            replied.outcomes.push(Replies::Done(Vec::new()));
            for operation in &transaction.operations {
                wrote |= self.operate(operation, &mut replied);
                if replied.size() > REPLY_SIZE_MAX {
                    return None;
                }
            }
        }
        let revision = self.revision + u64::from(wrote);
        replied.revision = revision;
        let bytes = replied.encode();
        (bytes.len() <= REPLY_SIZE_MAX).then_some((bytes, revision))
    }

    fn fails(&self, compares: &[Compare<'_>], replied: &mut Replied) -> bool {
        for (index, compare) in (0..).zip(compares) {
            let current = self.model.get(compare.key);
            let holds = match compare.condition {
                Condition::Absent => current.is_none(),
                Condition::Present => current.is_some(),
                Condition::Value(value) => current.is_some_and(|(_, own)| own == value),
                Condition::Revision(revision) => current.is_some_and(|(own, _)| *own == revision),
            };
            if !holds {
                replied.outcomes.push(Replies::Failed(index, current.cloned(), false));
                if replied.size() > REPLY_SIZE_MAX {
                    replied.outcomes.pop();
                    replied.outcomes.push(Replies::Failed(index, current.cloned(), true));
                }
                return true;
            }
        }
        false
    }

    /// Whether it wrote.
    fn operate(&mut self, operation: &kv::Operation<'_>, replied: &mut Replied) -> bool {
        let revision = self.revision + 1;
        let (wrote, result) = match *operation {
            kv::Operation::Get { key } => (false, Result::Get(self.model.get(key).cloned())),
            kv::Operation::Put { key, value } => {
                self.model.insert(key.to_vec(), (revision, value.to_vec()));
                (true, Result::Put)
            }
            kv::Operation::Delete { key } => {
                let found = self.model.remove(key).is_some();
                (found, Result::Delete(found))
            }
            kv::Operation::Scan(scan) => {
                self.scan(&scan, replied);
                return false;
            }
        };
        replied.push(result);
        wrote
    }

    fn scan(&self, scan: &Scan<'_>, replied: &mut Replied) {
        let in_range = |key: &[u8]| {
            let from = if scan.start_excluded { key > scan.start } else { key >= scan.start };
            (scan.start.is_empty() || from) && (scan.end.is_empty() || key < scan.end)
        };
        let mut rows: Vec<_> =
            self.model.iter().filter(|(key, _)| in_range(key.as_slice())).collect();
        if scan.direction == Direction::Backward {
            rows.reverse();
        }
        let limit = if scan.limit == 0 { 1000 } else { scan.limit.min(1000) as usize };
        replied.push(Result::Scan(Vec::new(), false));
        for (index, (key, record)) in rows.into_iter().enumerate() {
            let before = replied.outcomes.clone();
            replied.last_scan(|rows, _| rows.push((key.clone(), record.clone())));
            if index == limit || (index > 0 && replied.size() > REPLY_SIZE_MAX) {
                replied.outcomes = before;
                replied.last_scan(|_, more| *more = true);
                break;
            }
        }
    }
}

/// What a request may touch is announced.
fn check_keys(request: &kv::Request<'_>, keys: &Keys) {
    let touched: Vec<&[u8]> = request
        .transactions
        .iter()
        .flat_map(|transaction| {
            let compared = transaction.compares.iter().map(|compare| compare.key);
            compared.chain(transaction.operations.iter().map(kv::Operation::key))
        })
        .collect();
    for key in &touched {
        assert!(keys.keys.iter().any(|(_, own)| own == key), "{key:?} is not announced");
    }
    assert!(keys.keys.len() <= touched.len() + 1);
    assert!(keys.keys.iter().all(|(table, _)| *table < Table(2)));
}

// ---- a reply that owns its bytes

type Stored = (u64, Vec<u8>);

#[derive(Clone)]
enum Result {
    Get(Option<Stored>),
    Put,
    Delete(bool),
    Scan(Vec<(Vec<u8>, Stored)>, bool),
}

#[derive(Clone)]
enum Replies {
    Done(Vec<Result>),
    /// Which compare, what was there, and whether its value has no room.
    Failed(u16, Option<Stored>, bool),
}

struct Replied {
    revision: u64,
    outcomes: Vec<Replies>,
}

fn record(stored: &Stored) -> Record<'_> {
    Record { revision: stored.0, value: &stored.1 }
}

fn row((key, stored): &(Vec<u8>, Stored)) -> Row<'_> {
    Row { key, record: record(stored) }
}

fn decoded(result: &Result) -> OperationResult<'_> {
    match result {
        Result::Get(stored) => OperationResult::Get(stored.as_ref().map(record)),
        Result::Put => OperationResult::Put,
        Result::Delete(found) => OperationResult::Delete { found: *found },
        Result::Scan(rows, more) => {
            OperationResult::Scan { rows: rows.iter().map(row).collect(), more: *more }
        }
    }
}

impl Replied {
    fn push(&mut self, result: Result) {
        let Some(Replies::Done(results)) = self.outcomes.last_mut() else {
            panic!("operations follow compares that hold")
        };
        results.push(result);
    }

    fn last_scan(&mut self, change: impl FnOnce(&mut Vec<(Vec<u8>, Stored)>, &mut bool)) {
        if let Some(Replies::Done(results)) = self.outcomes.last_mut()
            && let Some(Result::Scan(rows, more)) = results.last_mut()
        {
            change(rows, more);
        }
    }

    fn size(&self) -> usize {
        self.encode().len()
    }

    fn encode(&self) -> Vec<u8> {
        let outcomes = self.outcomes.iter().map(|outcome| match outcome {
            Replies::Done(results) => Outcome::Done(results.iter().map(decoded).collect()),
            Replies::Failed(index, current, is_omitted) => Outcome::CompareFailed {
                index: *index,
                current: match (current, is_omitted) {
                    (None, _) => Current::Absent,
                    (Some(stored), true) => Current::Omitted { revision: stored.0 },
                    (Some(stored), false) => Current::Found(record(stored)),
                },
            },
        });
        kv::Reply { revision: self.revision, outcomes: outcomes.collect() }.encode()
    }
}

/// Requests of all kinds, described and as bytes.
pub fn seeds() -> Vec<Vec<u8>> {
    let step = |kind: u8, key: u8, value: u8| [kind, key, 4, 2, value];
    let write = |key: u8, value: u8| [&[1, 0, 3][..], &step(0, key, value)].concat();
    let read = |kind: u8, key: u8| [&[3, 0, 3][..], &step(kind, key, 0)].concat();
    let scan =
        |kind: u8| [&[1, 0, 3, kind, 0, 0, 0, 0][..], &[3, 0, 3, kind, 2, 12, 3, 0]].concat();
    let compare = |kind: u8, key: u8| {
        [
            &[1, 1, 7][..],
            &step(kind, key, 3),
            &step(0, key, 9),
            &step(3, 5, 0),
            &[3],
            &step(4, 1, 0),
        ]
        .concat()
    };
    let fill: Vec<u8> = (1..15).flat_map(|key| write(key, 10 * key)).collect();
    let large: Vec<u8> = (1..8).flat_map(|key| write(key, 240)).collect();
    let raw = |bytes: &[u8]| {
        let size = u16::try_from(bytes.len()).expect("short").to_le_bytes();
        [&[0][..], &size, bytes, &[2], &size, bytes].concat()
    };
    let end = kv::prefix_end(b"a");
    vec![
        [&fill[..], &scan(6), &scan(38)].concat(),
        [&fill[..], &read(4, 3), &read(3, 3), &compare(0, 3), &compare(2, 4)].concat(),
        [&large[..], &scan(7), &scan(39), &compare(1, 9), &compare(3, 1), &read(5, 1)].concat(),
        [
            raw(&kv::Request::put(b"a", b"1").encode()),
            raw(&kv::Request::get(b"a").encode()),
            raw(&kv::Request::compare_and_set(b"a", b"1", b"2").encode()),
            raw(&kv::Request::scan(Scan::prefix(b"a", &end)).encode()),
            raw(&kv::Request::delete(b"a").encode()),
        ]
        .concat(),
        [&write(1, 1)[..], &raw(&[1, 0, 1, 0, 0, 0, 1, 0, 9, 0, 1, 0, 0, 0, 0, 0, 97])].concat(),
    ]
}
