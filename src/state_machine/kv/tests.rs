//! Tests of kv: its bytes, its rules one by one, and random requests against a plain map.

use super::*;
use crate::state_machine::Direction;
use crate::stdx::{Prng, Ratio};
use std::collections::BTreeMap;

const CONTEXT: Context = Context { op: 9, timestamp: 900 };
const SIZE_MAX: u32 = 1 << 20;

/// Key to revision and value; and the counter.
#[derive(Debug, Default, Clone)]
struct Model {
    rows: BTreeMap<Vec<u8>, (u64, Vec<u8>)>,
    counter: u64,
}

#[test]
fn request_bytes_are_pinned() {
    let compares = vec![
        Compare { key: b"k", condition: Condition::Absent },
        Compare { key: b"k", condition: Condition::Present },
        Compare { key: b"k", condition: Condition::Value(b"old") },
        Compare { key: b"k", condition: Condition::Revision(0x0102) },
    ];
    let scan = Scan {
        start: b"a",
        start_excluded: true,
        end: b"zz",
        direction: Direction::Backward,
        limit: 3,
    };
    let operations = vec![
        Operation::Get { key: b"k" },
        Operation::Put { key: b"k", value: b"new" },
        Operation::Delete { key: b"k" },
        Operation::Scan(scan),
    ];
    let request = Request::transaction(compares, operations);
    let expected = [
        b"\x01\0\x01\0\x04\0\x04\0".as_slice(),
        b"\x01\0\x01\0\0\0\0\0k",
        b"\x02\0\x01\0\0\0\0\0k",
        b"\x03\0\x01\0\x03\0\0\0kold",
        b"\x04\0\x01\0\x08\0\0\0k\x02\x01\0\0\0\0\0\0",
        b"\x01\0\x01\0\0\0\0\0k",
        b"\x02\0\x01\0\x03\0\0\0knew",
        b"\x03\0\x01\0\0\0\0\0k",
        b"\x04\x03\x01\0\x06\0\0\0a\x03\0\0\0zz",
    ]
    .concat();
    assert_eq!(request.encode(), expected);
    assert_eq!(Request::decode(&expected), Ok(request));
}

#[test]
fn reply_bytes_are_pinned() {
    let record = Record { revision: 5, value: b"v" };
    let done = Outcome::Done(vec![
        OperationResult::Get(Some(record)),
        OperationResult::Get(None),
        OperationResult::Put,
        OperationResult::Delete { found: true },
        OperationResult::Scan { rows: vec![Row { key: b"key", record }], more: true },
    ]);
    let failed = |index, current| Outcome::CompareFailed { index, current };
    let reply = Reply {
        revision: 0x0201,
        outcomes: vec![
            done,
            failed(3, Current::Absent),
            failed(0, Current::Found(record)),
            failed(1, Current::Omitted { revision: 6 }),
        ],
    };
    let expected = [
        b"\x01\0\x04\0\0\0\0\0\x01\x02\0\0\0\0\0\0".as_slice(),
        b"\0\0\x05\0\0\0\0\0",
        b"\x01\x01\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0v",
        b"\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x03\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x04\x02\0\0\x01\0\0\0\0\0\0\0\0\0\0\0",
        b"\x05\0\x03\0\x01\0\0\0\x05\0\0\0\0\0\0\0keyv",
        b"\x01\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x01\0\0\0\0\0\0\0\0\x01\0\0\x01\0\0\0\x05\0\0\0\0\0\0\0v",
        b"\x01\0\x01\0\0\0\0\0\0\x05\0\0\0\0\0\0\x06\0\0\0\0\0\0\0",
    ]
    .concat();
    assert_eq!(reply.encode(), expected);
    assert_eq!(Reply::decode(&expected), Ok(reply));
}

#[test]
fn request_limits_are_checked() {
    let (key_long, value_long) = (vec![1; KEY_SIZE_MAX + 1], vec![1; VALUE_SIZE_MAX + 1]);
    let (key_max, value_max) = (&key_long[1..], &value_long[1..]);
    let compare = |key, condition| Request::transaction(vec![Compare { key, condition }], vec![]);
    let steps = |count| Request::transaction(vec![], vec![Operation::Get { key: b"k" }; count]);
    let scan = |start, start_excluded, end| {
        Request::scan(Scan { start, start_excluded, end, ..Scan::all() })
    };
    for valid in [
        Request::put(key_max, value_max),
        Request::put(b"k", b""),
        compare(key_max, Condition::Value(value_max)),
        scan(key_max, true, key_max),
        scan(b"", false, b""),
        steps(STEPS_MAX),
    ] {
        assert_eq!(Kv::new().validate(&valid.encode()), Ok(()));
    }
    for invalid in [
        Request { transactions: vec![] },
        Request { transactions: vec![Transaction::default()] },
        Request::get(b""),
        Request::get(&key_long),
        Request::put(b"k", &value_long),
        Request::delete(b""),
        compare(b"", Condition::Absent),
        compare(&key_long, Condition::Revision(1)),
        compare(b"k", Condition::Value(&value_long)),
        scan(&key_long, false, b""),
        scan(b"", false, &key_long),
        scan(b"", true, b""),
        steps(STEPS_MAX + 1),
    ] {
        assert!(invalid.invalid().is_some(), "{invalid:?}");
    }
}

#[test]
fn malformed_bytes_are_refused_each_for_its_reason() {
    let refuse = |bytes: &[u8], reason| {
        assert_eq!(Kv::new().validate(bytes), Err(InvalidRequest(reason)), "{bytes:?}");
    };
    refuse(b"", "it ends too early");
    refuse(b"\x02\0\x01\0", "unknown format");
    refuse(b"\x01\x01\x01\0", "reserved bytes are not zero");
    refuse(b"\x01\0\0\0", "no transaction");
    refuse(b"\x01\0\x01\0\0\0\0\0", "an empty transaction");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x01\0\x02\0\0\0\0\0k", "it ends too early");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x01\0\x01\0\0\0\0\0kk", "bytes after the end");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x01\0\0\0\0\0\0\0", "an empty key");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x05\0\x01\0\0\0\0\0k", "unknown operation");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x01\x01\x01\0\0\0\0\0k", "flags of an operation");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x04\x04\x01\0\x04\0\0\0k\0\0\0\0", "flags of a scan");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x04\0\x01\0\x03\0\0\0k\0\0\0", "a scan without a limit");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x03\0\x01\0\x01\0\0\0kv", "a value where none belongs");
    refuse(b"\x01\0\x01\0\x01\0\0\0\x05\0\x01\0\0\0\0\0k", "unknown compare");
    refuse(b"\x01\0\x01\0\x01\0\0\0\x01\x01\x01\0\0\0\0\0k", "flags of a compare");
    refuse(b"\x01\0\x01\0\x01\0\0\0\x02\0\x01\0\x01\0\0\0kv", "a value where none belongs");
    refuse(b"\x01\0\x01\0\x01\0\0\0\x04\0\x01\0\x01\0\0\0kv", "a revision is 8 bytes");
    refuse(b"\x01\0\x01\0\0\0\x01\0\x02\0\x01\0\xff\xff\xff\xffk", "it ends too early");
}

#[test]
fn garbage_never_panics_and_what_decodes_encodes_the_same() {
    let mut prng = Prng::from_seed(3);
    let (mut accepted, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let keys = random_keys(&mut prng);
        let request = random_request(&mut prng, &keys);
        let mut bytes = request.encode();
        assert_eq!(Request::decode(&bytes).as_ref(), Ok(&request));
        mutate(&mut prng, &mut bytes);
        match Request::decode(&bytes) {
            Ok(decoded) => {
                assert_eq!(decoded.encode(), bytes);
                // What is accepted is also carried out, whatever it says.
                apply_bytes(&mut Store::new(), &bytes).unwrap();
                Kv::new().keys(&bytes, &mut Keys::default());
                accepted += 1;
            }
            Err(InvalidRequest(reason)) => {
                assert!(!reason.is_empty());
                Kv::new().keys(&bytes, &mut Keys::default());
                refused += 1;
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}

#[test]
fn garbage_replies_never_panic_and_what_decodes_encodes_the_same() {
    let mut prng = Prng::from_seed(4);
    let (mut accepted, mut refused) = (0, 0);
    let (mut store, mut model) = (Store::new(), Model::default());
    for _ in 0..10_000 {
        let keys = random_keys(&mut prng);
        let request = random_request(&mut prng, &keys);
        let mut bytes = apply(&mut store, &request).unwrap();
        assert_eq!(bytes, model.apply(&request));
        mutate(&mut prng, &mut bytes);
        match Reply::decode(&bytes) {
            Ok(decoded) => {
                assert_eq!(decoded.encode(), bytes);
                accepted += 1;
            }
            Err(error) => {
                assert!(error.to_string().len() > 20);
                refused += 1;
            }
        }
    }
    assert!(accepted > 1000 && refused > 1000, "{accepted} {refused}");
}

#[test]
fn random_requests_match_the_model() {
    for seed in 0..20 {
        let mut prng = Prng::from_seed(seed);
        let (mut store, mut model) = (Store::new(), Model::default());
        let mut compares_failed = 0;
        for _ in 0..300 {
            let keys = random_keys(&mut prng);
            let request = random_request(&mut prng, &keys);
            if prng.chance(Ratio::new(1, 4)) {
                // An attempt that is given up.
                let size_max = u32::try_from(prng.below(64)).unwrap();
                let mut reply = ReplyBytes::new(size_max);
                let _ = Kv::new().apply(&mut store, &CONTEXT, &request.encode(), &mut reply);
                store.abandon_overlay();
            }
            let queried = query(&store, &request);
            let applied = apply(&mut store, &request).unwrap();
            assert_eq!(applied, model.apply(&request), "{request:?}");
            if request.is_read_only() {
                assert_eq!(queried.unwrap(), applied);
            } else {
                assert_eq!(queried, Err(Stop::Reject(CODE_QUERY_WRITES)));
            }
            let reply = Reply::decode(&applied).unwrap();
            assert_eq!(reply.encode(), applied);
            let failed = |outcome: &&Outcome<'_>| matches!(outcome, Outcome::CompareFailed { .. });
            compares_failed += reply.outcomes.iter().filter(failed).count();
        }
        assert!(compares_failed > 10 && model.counter > 10, "the model saw too little");
    }
}

#[test]
fn revision_is_one_for_a_request_and_none_for_what_writes_nothing() {
    let mut store = Store::new();
    let mut revision = |request: &Request<'_>| {
        let bytes = apply(&mut store, request).unwrap();
        Reply::decode(&bytes).unwrap().revision
    };
    assert_eq!(revision(&Request::get(b"k")), 0);
    assert_eq!(revision(&Request::put(b"k", b"1")), 1);
    assert_eq!(revision(&Request::delete(b"other")), 1);
    assert_eq!(revision(&Request::compare_and_set(b"k", b"wrong", b"2")), 1);
    assert_eq!(revision(&Request::compare_and_set(b"k", b"1", b"2")), 2);
    let mut several = Request::put(b"a", b"1");
    several.transactions.extend(Request::put(b"b", b"1").transactions);
    assert_eq!(revision(&several), 3);
    assert_eq!(revision(&Request::delete(b"k")), 4);
    let compare = Compare { key: b"b", condition: Condition::Revision(3) };
    let put = Operation::Put { key: b"b", value: b"2" };
    assert_eq!(revision(&Request::transaction(vec![compare], vec![put])), 5);
    assert_eq!(revision(&Request::transaction(vec![compare], vec![put])), 5);
}

#[test]
fn compare_and_set_that_fails_says_what_is_there() {
    let mut store = Store::new();
    let request = Request::compare_and_set(b"k", b"old", b"new");
    let failed = |current| vec![Outcome::CompareFailed { index: 0, current }];
    let reply = apply(&mut store, &request).unwrap();
    assert_eq!(Reply::decode(&reply).unwrap().outcomes, failed(Current::Absent));

    apply(&mut store, &Request::put(b"k", b"other")).unwrap();
    let reply = apply(&mut store, &request).unwrap();
    let current = Current::Found(Record { revision: 1, value: b"other" });
    assert_eq!(Reply::decode(&reply).unwrap().outcomes, failed(current));

    // 16 bytes of the reply's head, 8 of the outcome's, 16 of the record's, 5 of the value.
    let sized = |size_max| {
        let mut reply = ReplyBytes::new(size_max);
        Kv::new().query(&store, &read_compare().encode(), &mut reply).unwrap();
        assert!(!reply.is_too_large());
        reply.bytes
    };
    assert_eq!(Reply::decode(&sized(45)).unwrap().outcomes, failed(current));
    let omitted = Current::Omitted { revision: 1 };
    assert_eq!(Reply::decode(&sized(44)).unwrap().outcomes, failed(omitted));
}

#[test]
fn scan_continues_until_all_rows_were_seen_once() {
    let mut store = Store::new();
    let key = |index: u32| format!("key-{index:05}").into_bytes();
    for index in 0..2500 {
        apply(&mut store, &Request::put(&key(index), b"value")).unwrap();
    }
    apply(&mut store, &Request::put(b"kex", b"below")).unwrap();
    apply(&mut store, &Request::put(b"kez", b"above")).unwrap();
    let end = prefix_end(b"key-");
    for direction in [Direction::Forward, Direction::Backward] {
        // By the limit, by the most rows, and by the size of the reply.
        for (limit, size_max, pages) in
            [(999, SIZE_MAX, 3), (0, SIZE_MAX, 3), (u32::MAX, SIZE_MAX, 3), (500, SIZE_MAX, 5)]
                .into_iter()
                .chain([(0, 40 + 30 * 250, 10), (0, 40 + 30 * 250 - 1, 11), (0, 70, 2500)])
        {
            let scan = Scan { direction, limit, ..Scan::prefix(b"key-", &end) };
            let (rows, page_count) = scan_pages(&store, scan, size_max);
            let mut expected: Vec<_> = (0..2500).map(key).collect();
            if direction == Direction::Backward {
                expected.reverse();
            }
            assert_eq!(rows, expected);
            assert_eq!(page_count, pages, "limit {limit} size_max {size_max}");
        }
    }
}

#[test]
fn scan_whose_first_row_does_not_fit_is_too_large() {
    let mut store = Store::new();
    apply(&mut store, &Request::put(b"k", &[1; 100])).unwrap();
    let mut reply = ReplyBytes::new(100);
    Kv::new().query(&store, &Request::scan(Scan::all()).encode(), &mut reply).unwrap();
    assert!(reply.is_too_large());
}

#[test]
fn request_whose_reply_is_too_large_stops_early() {
    let mut store = Store::new();
    apply(&mut store, &Request::put(b"k", &[1; 10_000])).unwrap();
    let request = Request::transaction(vec![], vec![Operation::Scan(Scan::all()); STEPS_MAX]);
    let mut reply = ReplyBytes::new(50_000);
    Kv::new().apply(&mut store, &CONTEXT, &request.encode(), &mut reply).unwrap();
    assert!(reply.is_too_large());
    assert!(reply.bytes.len() < 70_000);
}

/// As many as fit, of a value that is a thousand times as long as each of them.
#[test]
fn compares_and_deletes_read_no_more_than_they_need() {
    let mut store = Store::new();
    let value = vec![5; 100_000];
    for number in 0..1000_u32 {
        apply(&mut store, &Request::put(&number.to_le_bytes(), &value)).unwrap();
    }
    let keys: Vec<_> = (0..1000_u32).map(u32::to_le_bytes).collect();
    let compares = |condition: Condition<'static>| -> Vec<Compare<'_>> {
        keys.iter().map(|key| Compare { key, condition }).collect()
    };
    let delete = Operation::Delete { key: &keys[0] };
    let absent = Operation::Delete { key: b"absent" };
    for (compares, operations, size_max) in [
        (compares(Condition::Present), vec![absent; 1000], 8 * 1000),
        (compares(Condition::Revision(1))[..1].to_vec(), vec![delete], 8 + 8),
        (compares(Condition::Value(b"short"))[..1].to_vec(), vec![], 8 + 8 + 100_000),
        (vec![], keys.iter().map(|key| Operation::Delete { key }).collect(), 0),
    ] {
        let request = Request::transaction(compares, operations);
        store.limit_reads(8 + size_max);
        apply(&mut store, &request).unwrap();
        assert!(store.lift_read_limit().is_some());
    }
    assert_eq!(store.counters().records, 1, "the counter");
}

#[test]
fn prefix_end_is_the_first_key_behind() {
    assert_eq!(prefix_end(b""), b"");
    assert_eq!(prefix_end(b"a"), b"b");
    assert_eq!(prefix_end(b"a\xff"), b"b");
    assert_eq!(prefix_end(b"\xff\xff"), b"");
    assert_eq!(prefix_end(b"\xfe\xff"), b"\xff");
}

#[test]
fn keys_names_all_that_is_touched() {
    let request = Request::compare_and_set(b"k", b"1", b"2");
    let mut keys = Keys::default();
    Kv::new().keys(&request.encode(), &mut keys);
    assert!(keys.keys.contains(&(TABLE_COUNTER, vec![])));
    assert!(keys.keys.contains(&(TABLE_ROWS, b"k".to_vec())));
}

impl Model {
    /// The reply, as bytes.
    fn apply(&mut self, request: &Request<'_>) -> Vec<u8> {
        let mut wrote = false;
        // Owned, because a reply borrows and the rows change.
        let mut outcomes = Vec::new();
        for transaction in &request.transactions {
            let outcome = match self.compares_hold(&transaction.compares) {
                Err((index, current)) => ModelOutcome::CompareFailed(index, current),
                Ok(()) => ModelOutcome::Done(
                    transaction
                        .operations
                        .iter()
                        .map(|operation| self.operate(operation, &mut wrote))
                        .collect(),
                ),
            };
            outcomes.push(outcome);
        }
        self.counter += u64::from(wrote);
        let outcomes = outcomes.iter().map(ModelOutcome::borrowed).collect();
        Reply { revision: self.counter, outcomes }.encode()
    }

    fn compares_hold(&self, compares: &[Compare<'_>]) -> Result<(), (u16, Option<ModelRecord>)> {
        for (index, compare) in compares.iter().enumerate() {
            let row = self.rows.get(compare.key);
            let holds = match compare.condition {
                Condition::Absent => row.is_none(),
                Condition::Present => row.is_some(),
                Condition::Value(value) => row.is_some_and(|row| row.1 == value),
                Condition::Revision(revision) => row.is_some_and(|row| row.0 == revision),
            };
            if !holds {
                return Err((u16::try_from(index).unwrap(), row.cloned()));
            }
        }
        Ok(())
    }

    fn operate(&mut self, operation: &Operation<'_>, wrote: &mut bool) -> ModelResult {
        match *operation {
            Operation::Get { key } => ModelResult::Get(self.rows.get(key).cloned()),
            Operation::Put { key, value } => {
                *wrote = true;
                self.rows.insert(key.to_vec(), (self.counter + 1, value.to_vec()));
                ModelResult::Put
            }
            Operation::Delete { key } => {
                let found = self.rows.remove(key).is_some();
                *wrote |= found;
                ModelResult::Delete(found)
            }
            Operation::Scan(scan) => {
                let mut rows: Vec<_> = self
                    .rows
                    .iter()
                    .filter(|(key, _)| {
                        let key = key.as_slice();
                        (key > scan.start || (key == scan.start && !scan.start_excluded))
                            && (scan.end.is_empty() || key < scan.end)
                    })
                    .map(|(key, record)| (key.clone(), record.clone()))
                    .collect();
                if scan.direction == Direction::Backward {
                    rows.reverse();
                }
                let limit = if scan.limit == 0 { 1000 } else { scan.limit as usize };
                let more = rows.len() > limit;
                rows.truncate(limit);
                ModelResult::Scan(rows, more)
            }
        }
    }
}

type ModelRecord = (u64, Vec<u8>);

enum ModelOutcome {
    Done(Vec<ModelResult>),
    CompareFailed(u16, Option<ModelRecord>),
}

enum ModelResult {
    Get(Option<ModelRecord>),
    Put,
    Delete(bool),
    Scan(Vec<(Vec<u8>, ModelRecord)>, bool),
}

impl ModelOutcome {
    fn borrowed(&self) -> Outcome<'_> {
        match self {
            Self::CompareFailed(index, current) => Outcome::CompareFailed {
                index: *index,
                current: current.as_ref().map_or(Current::Absent, |row| Current::Found(of(row))),
            },
            Self::Done(results) => {
                Outcome::Done(results.iter().map(ModelResult::borrowed).collect())
            }
        }
    }
}

impl ModelResult {
    fn borrowed(&self) -> OperationResult<'_> {
        match self {
            Self::Get(row) => OperationResult::Get(row.as_ref().map(of)),
            Self::Put => OperationResult::Put,
            Self::Delete(found) => OperationResult::Delete { found: *found },
            Self::Scan(rows, more) => OperationResult::Scan {
                rows: rows.iter().map(|(key, row)| Row { key, record: of(row) }).collect(),
                more: *more,
            },
        }
    }
}

fn of(row: &ModelRecord) -> Record<'_> {
    Record { revision: row.0, value: &row.1 }
}

fn apply(store: &mut Store, request: &Request<'_>) -> Result<Vec<u8>, Stop> {
    apply_bytes(store, &request.encode())
}

fn apply_bytes(store: &mut Store, request: &[u8]) -> Result<Vec<u8>, Stop> {
    assert_eq!(Kv::new().validate(request), Ok(()));
    let mut reply = ReplyBytes::new(SIZE_MAX);
    Kv::new().apply(store, &CONTEXT, request, &mut reply)?;
    store.commit_overlay()?;
    assert!(!reply.is_too_large());
    Ok(reply.bytes)
}

fn query(store: &Store, request: &Request<'_>) -> Result<Vec<u8>, Stop> {
    let mut reply = ReplyBytes::new(SIZE_MAX);
    Kv::new().query(store, &request.encode(), &mut reply)?;
    Ok(reply.bytes)
}

/// A compare that fails on `k`, and no operation.
fn read_compare() -> Request<'static> {
    Request::transaction(vec![Compare { key: b"k", condition: Condition::Absent }], vec![])
}

/// All keys of the scan, page by page, and how many pages there were.
fn scan_pages(store: &Store, scan: Scan<'_>, size_max: u32) -> (Vec<Vec<u8>>, usize) {
    let mut keys: Vec<Vec<u8>> = Vec::new();
    let mut page_count = 0;
    loop {
        let last = keys.last().cloned();
        let page = last.as_ref().map_or(scan, |last| scan.after(last));
        let mut reply = ReplyBytes::new(size_max);
        Kv::new().query(store, &Request::scan(page).encode(), &mut reply).unwrap();
        assert!(!reply.is_too_large());
        let outcomes = Reply::decode(&reply.bytes).unwrap().outcomes;
        let [Outcome::Done(results)] = outcomes.as_slice() else {
            panic!("{outcomes:?}");
        };
        let [OperationResult::Scan { rows, more }] = results.as_slice() else {
            panic!("{results:?}");
        };
        keys.extend(rows.iter().map(|row| row.key.to_vec()));
        page_count += 1;
        if !more {
            return (keys, page_count);
        }
    }
}

fn random_keys(prng: &mut Prng) -> Vec<Vec<u8>> {
    (0..8).map(|_| (0..=prng.below(2)).map(|_| b"abc\xff"[prng.index(4)]).collect()).collect()
}

fn random_request<'a>(prng: &mut Prng, keys: &'a [Vec<u8>]) -> Request<'a> {
    let transactions = (0..prng.range_inclusive(1, 3))
        .map(|_| {
            let compare_count = prng.below(3);
            let operation_count = prng.range_inclusive(u64::from(compare_count == 0), 4);
            Transaction {
                compares: (0..compare_count).map(|_| random_compare(prng, keys)).collect(),
                operations: (0..operation_count).map(|_| random_operation(prng, keys)).collect(),
            }
        })
        .collect();
    Request { transactions }
}

fn random_compare<'a>(prng: &mut Prng, keys: &'a [Vec<u8>]) -> Compare<'a> {
    let condition = match prng.below(4) {
        0 => Condition::Absent,
        1 => Condition::Present,
        2 => Condition::Value(&keys[prng.index(keys.len())]),
        _ => Condition::Revision(prng.below(200)),
    };
    Compare { key: &keys[prng.index(keys.len())], condition }
}

fn random_operation<'a>(prng: &mut Prng, keys: &'a [Vec<u8>]) -> Operation<'a> {
    let key = &keys[prng.index(keys.len())];
    let other = &keys[prng.index(keys.len())];
    match prng.below(5) {
        0 => Operation::Get { key },
        // Values are like keys, so that compares of values hold now and then.
        1 | 2 => Operation::Put { key, value: other },
        3 => Operation::Delete { key },
        _ => {
            let start: &[u8] = if prng.chance(Ratio::new(1, 4)) { b"" } else { key };
            Operation::Scan(Scan {
                start,
                start_excluded: !start.is_empty() && prng.chance(Ratio::new(1, 2)),
                end: if prng.chance(Ratio::new(1, 4)) { b"" } else { other },
                direction: [Direction::Forward, Direction::Backward][prng.index(2)],
                limit: u32::try_from(prng.below(4)).unwrap(),
            })
        }
    }
}

fn mutate(prng: &mut Prng, bytes: &mut Vec<u8>) {
    match prng.below(8) {
        0 => bytes.truncate(prng.index(bytes.len())),
        1 => bytes.push(0),
        _ => {
            let index = prng.index(bytes.len());
            bytes[index] = if prng.chance(Ratio::new(1, 2)) {
                u8::try_from(prng.below(6)).unwrap()
            } else {
                bytes[index] ^ (1 << prng.below(8))
            };
        }
    }
}
