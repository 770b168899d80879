//! Tests of the executor: each rule of at-most-once, each way an attempt can end, and random logs.

use super::*;
use crate::state_machine::kv::{self, Kv};
use crate::state_machine::{Direction, InvalidRequest, Table};
use crate::stdx::{Prng, Ratio};
use crate::storage::Layout;
use crate::wire::{Author, ClusterId, Parent, Prepare, ReplicaIndex, View};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};

#[path = "executor_suspend_tests.rs"]
mod suspend;

const AUTHOR: Author =
    Author { cluster: ClusterId(1), view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
const A: ClientId = ClientId(0xa);
const B: ClientId = ClientId(0xb);

/// Small, so that the limits are near.
const GEOMETRY: Geometry = Geometry {
    message_size: 8192,
    journal_slots: 64,
    block_size: 4096,
    pipeline: 8,
    clients_max: 3,
};

/// A state machine that does what the first byte of the request says.
#[derive(Debug)]
struct Probe;

const COUNT: Table = Table(3);

impl StateMachine for Probe {
    fn validate(&self, request: &[u8]) -> Result<(), InvalidRequest> {
        match request.first() {
            Some(b'c' | b'x' | b'l' | b's' | b'w' | b'p' | b'r') if request.len() >= 5 => Ok(()),
            _ => Err(InvalidRequest("not a command of the probe")),
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        context: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop> {
        let (command, argument) = (request[0], &request[1..]);
        let number = u32::from_le_bytes(argument[..4].try_into().unwrap());
        match command {
            // Counts the argument, and remembers when it was counted last.
            b'c' => {
                let count = store.get(COUNT, argument)?.map_or(0, |row| row[0]) + 1;
                store.put(COUNT, argument, &[count])?;
                store.put(COUNT, b"last", &context.timestamp.to_le_bytes())?;
                reply.bytes.push(count);
                reply.bytes.extend_from_slice(&context.op.to_le_bytes());
                reply.bytes.extend_from_slice(&context.timestamp.to_le_bytes());
            }
            b'x' => {
                store.put(COUNT, argument, b"rejected")?;
                return Err(Stop::Reject(number));
            }
            b'l' => {
                store.put(COUNT, argument, b"large")?;
                reply.bytes = vec![7; number as usize];
            }
            b's' => {
                store.put(COUNT, argument, b"suspended")?;
                return Err(Stop::Suspend);
            }
            // Makes light of a suspension, and answers by it.
            b'w' => {
                let known = store.get(COUNT, argument);
                let _ = store.put(COUNT, argument, &[9]);
                reply.bytes.push(u8::from(known.is_ok()));
            }
            b'p' => store.put(COUNT, b"long", &vec![7; number as usize])?,
            b'r' => {
                store.put(COUNT, b"read", argument)?;
                read_often(store, number);
            }
            _ => unreachable!("validated"),
        }
        Ok(())
    }

    fn query(&self, store: &Store, request: &[u8], reply: &mut Reply) -> Result<(), Stop> {
        let number = u32::from_le_bytes(request[1..5].try_into().unwrap());
        match request[0] {
            b'r' => read_often(store, number),
            b'c' => {
                let row = store.get(COUNT, &request[1..])?;
                reply.bytes.push(row.map_or(0, |row| row[0]));
            }
            b'l' => reply.bytes = vec![7; number as usize],
            _ => return Err(Stop::Reject(number)),
        }
        Ok(())
    }
}

/// Reads the long value again and again, and makes light of it when that is too much.
fn read_often(store: &Store, count: u32) {
    for number in 0..count {
        let all = (Bound::Unbounded, Bound::Unbounded);
        let _ = if number % 2 == 0 {
            store.get(COUNT, b"long").map(|value| assert_eq!(value.unwrap().len(), 1020))
        } else {
            store.scan(COUNT, all.0, all.1, Direction::Forward, |key, value| {
                assert_eq!(key.len() + value.len(), 4 + 1020);
                ControlFlow::Break(())
            })
        };
    }
}

/// One executor and what it is given: numbers ops and timestamps.
struct Fixture<S: StateMachine = Probe> {
    executor: Executor<S>,
    timestamp: u64,
}

impl Fixture {
    fn new() -> Self {
        Self { executor: Executor::new(Probe, &GEOMETRY), timestamp: 1000 }
    }

    /// With a session of `A`, which is 1, and one of `B`, which is 1 too.
    fn with_sessions() -> Self {
        let mut fixture = Self::new();
        let replies = fixture.commit(&[register(A), register(B)]);
        assert_eq!(replies.len(), 2);
        fixture
    }
}

impl<S: StateMachine> Fixture<S> {
    /// Commits a batch as the next op.
    fn commit(&mut self, batch: &[Asked]) -> Vec<ClientReply> {
        let mut replies = Vec::new();
        let prepare = prepare(self.executor.op() + 1, self.timestamp, batch);
        self.timestamp += 100;
        assert_eq!(self.executor.commit(&prepare, &mut replies), CommitOutcome::Done);
        replies
    }

    /// Commits a batch of one that is answered.
    fn reply(&mut self, asked: Asked) -> StoredReply {
        match self.commit(&[asked]).as_slice() {
            [ClientReply::Reply(reply)] => reply.clone(),
            other => panic!("a reply was expected, not {other:?}"),
        }
    }

    fn admit(&mut self, asked: &Asked) -> Admission {
        let Asked { client, session, request, operation, body } = asked;
        let command = Request {
            client: *client,
            session: *session,
            request: *request,
            operation: *operation as u8,
        };
        self.executor.admit(&Header::seal(&AUTHOR, command, body), body)
    }
}

/// A request, as a client would send it.
#[derive(Debug, Clone)]
struct Asked {
    client: ClientId,
    session: u64,
    request: u64,
    operation: Operation,
    body: Vec<u8>,
}

#[test]
fn recovery_is_answered_once_and_its_table_is_part_of_the_state() {
    let genesis =
        IncarnationTable { op: 1, incarnations: [4, 5, 6, 0, 0, 0], ..Default::default() };
    let recover = |table: IncarnationTable, incarnation: u64| {
        Recover { replica: ReplicaIndex(1), incarnation, table }.encode().to_vec()
    };
    let asked = |session: u64, request: u64, body: Vec<u8>| Asked {
        client: A,
        session,
        request,
        operation: Operation::Recover,
        body,
    };
    let mut fixture = Fixture::with_sessions();
    assert!(matches!(fixture.executor.table_kept(), Ok(None)));
    let digest = fixture.executor.digest();
    let first = asked(1, 1, recover(genesis, 7));
    assert_eq!(fixture.admit(&first), Admission::Accept);
    let broken = asked(1, 1, vec![1; Recover::SIZE]);
    assert_eq!(fixture.admit(&broken), Admission::Reject(RejectReason::Invalid));
    let reply = fixture.reply(first.clone());
    assert_eq!((reply.op, reply.result, reply.request, reply.body.len()), (2, RESULT_OK, 1, 0));
    let table = IncarnationTable { op: 2, incarnations: [4, 7, 6, 0, 0, 0], ..Default::default() };
    assert_eq!(fixture.executor.table_kept().ok().flatten(), Some(table));
    assert_ne!(fixture.executor.digest(), digest);
    assert_eq!(fixture.admit(&first), Admission::Reply(Box::new(reply)));
    // What is in the log counts, whether the session is there or not; the client is told.
    let replies = fixture.commit(&[asked(9, 1, recover(table, 8))]);
    assert_eq!(replies, []);
    let kept = fixture.executor.table_kept().ok().flatten();
    assert_eq!(kept.map(|table| table.incarnations[1]), Some(8));
}

#[test]
fn register_opens_a_session_named_by_its_op() {
    let mut fixture = Fixture::new();
    fixture.commit(&[noop()]);
    assert_eq!(fixture.admit(&register(A)), Admission::Accept);
    let reply = fixture.reply(register(A));
    assert_eq!((reply.session, reply.request, reply.op), (2, 0, 2));
    assert_eq!((reply.result, reply.body.len()), (RESULT_OK, 0));
    assert_eq!(reply.timestamp, 1100);
    assert_eq!(fixture.executor.sessions_count(), 1);
}

#[test]
fn register_again_answers_with_the_first_reply_also_after_requests() {
    let mut fixture = Fixture::new();
    // Twice in one batch, then again, then again after a request.
    let replies = fixture.commit(&[register(A), register(A)]);
    assert_eq!(replies[0], replies[1]);
    let first = fixture.reply(register(A));
    assert_eq!(ClientReply::Reply(first.clone()), replies[0]);
    fixture.reply(count(A, 1, 1, "once"));
    assert_eq!(fixture.reply(register(A)), first);
    assert_eq!(fixture.admit(&register(A)), Admission::Reply(Box::new(first)));
    assert_eq!(fixture.executor.sessions_count(), 1);
}

#[test]
fn request_sent_again_is_answered_and_not_executed() {
    let mut fixture = Fixture::with_sessions();
    let asked = count(A, 1, 1, "once");
    assert_eq!(fixture.admit(&asked), Admission::Accept);
    let first = fixture.reply(asked.clone());
    assert_eq!(first.body[0], 1);
    let digest = content(&fixture);
    assert_eq!(fixture.admit(&asked), Admission::Reply(Box::new(first.clone())));
    assert_eq!(fixture.reply(asked.clone()), first);
    assert_eq!(fixture.commit(&[asked.clone(), asked]).len(), 2);
    assert_eq!(content(&fixture), digest);
    assert_eq!(fixture.reply(count(A, 1, 2, "once")).body[0], 2);
}

#[test]
fn duplicate_within_a_batch_is_executed_once() {
    let mut fixture = Fixture::with_sessions();
    let asked = count(A, 1, 1, "once");
    let replies = fixture.commit(&[asked.clone(), asked, count(A, 1, 2, "once")]);
    assert_eq!(replies.len(), 3);
    assert_eq!(replies[0], replies[1]);
    let bodies: Vec<u8> = replies.iter().map(|reply| body(reply)[0]).collect();
    assert_eq!(bodies, [1, 1, 2]);
}

#[test]
fn request_out_of_order_is_ignored() {
    let mut fixture = Fixture::with_sessions();
    fixture.reply(count(A, 1, 1, "a"));
    fixture.reply(count(A, 1, 2, "b"));
    for asked in [
        count(A, 1, 1, "a"),
        count(A, 1, 4, "c"),
        count(A, 1, 2, "another body"),
        count(A, 2, 3, "a session that is not yet"),
    ] {
        assert!(matches!(fixture.admit(&asked), Admission::Ignore(_)), "{asked:?}");
        let digest = content(&fixture);
        assert_eq!(fixture.commit(&[asked]), []);
        assert_eq!(content(&fixture), digest);
    }
}

#[test]
fn request_without_its_session_is_evicted() {
    let mut fixture = Fixture::with_sessions();
    let no_session = EvictionReason::NoSession;
    let stranger = count(ClientId(9), 1, 1, "x");
    assert_eq!(fixture.admit(&stranger), Admission::Evict(no_session));
    let evicted = ClientReply::Evicted { client: ClientId(9), session: 1, reason: no_session };
    assert_eq!(fixture.commit(&[stranger]), [evicted]);

    fixture.commit(&[deregister(A, 1, 1), register(A)]);
    let too_low = EvictionReason::SessionTooLow;
    let old = count(A, 1, 1, "x");
    assert_eq!(fixture.admit(&old), Admission::Evict(too_low));
    let evicted = ClientReply::Evicted { client: A, session: 1, reason: too_low };
    assert_eq!(fixture.commit(&[old]), [evicted]);
}

#[test]
fn sessions_that_are_open_and_those_that_can_be() {
    let mut fixture = Fixture::with_sessions();
    let executor = &fixture.executor;
    assert_eq!((executor.sessions_count(), executor.sessions_left()), (2, 1));
    assert!(executor.has_session(A) && !executor.has_session(ClientId(9)));
    fixture.commit(&[register(ClientId(9))]);
    let executor = &fixture.executor;
    assert_eq!((executor.sessions_count(), executor.sessions_left()), (3, 0));
    assert!(executor.has_session(ClientId(9)));
}

/// What is recorded of a session is part of it: a retry is judged by it.
#[test]
fn digests_differ_where_sessions_do() {
    let digests: Vec<u64> = [count(A, 1, 1, "k"), count(A, 1, 1, "m"), count(B, 1, 1, "k")]
        .into_iter()
        .map(|asked| {
            let mut fixture = Fixture::with_sessions();
            fixture.reply(asked);
            let mut digest = Digest::new();
            fixture.executor.sessions.digest(&mut digest);
            digest.finish()
        })
        .collect();
    assert!(digests[0] != digests[1] && digests[0] != digests[2] && digests[1] != digests[2]);
}

#[test]
fn deregister_ends_the_session_and_again_finds_none() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    let replies = fixture.commit(&[deregister(A, 1, 1), deregister(A, 1, 1)]);
    let ClientReply::Reply(reply) = &replies[0] else {
        panic!("{replies:?}");
    };
    assert_eq!((reply.session, reply.request, reply.result), (1, 1, RESULT_OK));
    let reason = EvictionReason::NoSession;
    assert_eq!(replies[1], ClientReply::Evicted { client: A, session: 1, reason });
    assert_eq!(fixture.executor.sessions_count(), 1);
    assert_eq!(content(&fixture), digest);
}

#[test]
fn register_in_a_full_table_evicts_the_longest_unused() {
    let mut fixture = Fixture::with_sessions();
    let (c, d) = (ClientId(0xc), ClientId(0xd));
    fixture.commit(&[register(c)]);
    fixture.commit(&[count(A, 1, 1, "a")]);
    // B is told only when it sends again: here in the same batch, behind its eviction.
    let replies = fixture.commit(&[register(d), count(B, 1, 1, "b")]);
    assert_eq!(replies.len(), 2);
    assert!(matches!(&replies[0], ClientReply::Reply(reply) if reply.client == d));
    let reason = EvictionReason::NoSession;
    assert_eq!(replies[1], ClientReply::Evicted { client: B, session: 1, reason });
    assert_eq!(fixture.executor.sessions_count(), 3);
    // Before its eviction it would have been executed, and then another is the longest unused.
    let mut other = Fixture::with_sessions();
    other.commit(&[register(c)]);
    other.commit(&[count(A, 1, 1, "a")]);
    let replies = other.commit(&[count(B, 1, 1, "b"), register(d), count(c, 2, 1, "c")]);
    assert_eq!(body(&replies[0])[0], 1);
    assert_eq!(replies[2], ClientReply::Evicted { client: c, session: 2, reason });
}

#[test]
fn admit_refuses_what_cannot_be_a_request() {
    let mut fixture = Fixture::with_sessions();
    let invalid = Admission::Reject(RejectReason::Invalid);
    assert_eq!(fixture.admit(&Asked { body: b"?".to_vec(), ..count(A, 1, 1, "") }), invalid);
    assert_eq!(fixture.admit(&Asked { body: b"?".to_vec(), ..query("") }), invalid);
    assert_eq!(fixture.admit(&Asked { body: b"?".to_vec(), ..register(ClientId(9)) }), invalid);
    assert_eq!(fixture.admit(&Asked { body: b"?".to_vec(), ..deregister(A, 1, 1) }), invalid);
    assert_eq!(fixture.admit(&noop()), Admission::Ignore("a request of nobody"));
    assert_eq!(fixture.admit(&Asked { client: A, ..noop() }), invalid);
    assert_eq!(fixture.admit(&query("key")), Admission::Accept);
    let sized = |size| Asked { body: vec![b'c'; size as usize], ..count(A, 1, 1, "") };
    assert_eq!(fixture.admit(&sized(GEOMETRY.request_size_max())), Admission::Accept);
    let too_large = Admission::Reject(RejectReason::TooLarge);
    assert_eq!(fixture.admit(&sized(GEOMETRY.request_size_max() + 1)), too_large);
    let unknown = Request { client: A, session: 1, request: 1, operation: 77 };
    assert_eq!(fixture.executor.admit(&Header::seal(&AUTHOR, unknown, &[]), &[]), invalid);
}

#[test]
fn rejected_request_leaves_its_code_and_nothing_else() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    let codes = [
        (1, 1),
        (RESULT_RESERVED_MIN - 1, RESULT_RESERVED_MIN - 1),
        (0, RESULT_STOP_INVALID),
        (RESULT_RESERVED_MIN, RESULT_STOP_INVALID),
        (u32::MAX, RESULT_STOP_INVALID),
    ];
    for (number, (code, result)) in (1..).zip(codes) {
        let asked = Asked { body: command(b'x', code), ..count(A, 1, number, "") };
        let reply = fixture.reply(asked.clone());
        assert_eq!((reply.result, reply.body.len(), reply.request), (result, 0, number));
        assert_eq!(fixture.reply(asked), reply);
        let asked = Asked { body: command(b'x', code), ..query("") };
        assert_eq!(fixture.reply(asked).result, result);
    }
    assert_eq!(content(&fixture), digest);
}

#[test]
fn reply_that_is_too_large_leaves_a_code_and_nothing_else() {
    let size_max = GEOMETRY.message_size - HEADER_SIZE;
    let mut fixture = Fixture::with_sessions();
    let large = |number, size| Asked { body: command(b'l', size), ..count(A, 1, number, "") };
    let digest = content(&fixture);
    let reply = fixture.reply(large(1, size_max + 1));
    assert_eq!((reply.result, reply.body.len()), (RESULT_REPLY_TOO_LARGE, 0));
    assert_eq!(content(&fixture), digest);
    let reply = fixture.reply(large(2, size_max));
    assert_eq!((reply.result, reply.body.len()), (RESULT_OK, size_max as usize));
    assert_eq!(reply.to_message(&AUTHOR).header().size, GEOMETRY.message_size);
    assert_ne!(content(&fixture), digest);

    // With large messages stored replies are bounded by themselves, replies to queries are not.
    let geometry = Geometry::default();
    fixture = Fixture { executor: Executor::new(Probe, &geometry), timestamp: 1 };
    fixture.commit(&[register(A)]);
    assert_eq!(fixture.reply(large(1, REPLY_BODY_SIZE_MAX)).result, RESULT_OK);
    let reply = fixture.reply(large(2, REPLY_BODY_SIZE_MAX + 1));
    assert_eq!(reply.result, RESULT_REPLY_TOO_LARGE);
    let size_max = geometry.message_size - HEADER_SIZE;
    for (size, result) in [(size_max, RESULT_OK), (size_max + 1, RESULT_REPLY_TOO_LARGE)] {
        let asked = Asked { body: command(b'l', size), ..query("") };
        assert_eq!(fixture.reply(asked).result, result);
    }
}

/// 16 messages of 8 KiB, in pairs of 1020 bytes and 1024.
#[test]
fn request_that_reads_too_much_leaves_a_code_and_nothing_else() {
    let mut fixture = Fixture::with_sessions();
    let asked = |request, letter, number| Asked {
        body: command(letter, number),
        ..count(A, 1, request, "")
    };
    assert_eq!(fixture.reply(asked(1, b'p', 1020)).result, RESULT_OK);
    for request in 2..4 {
        assert_eq!(fixture.reply(asked(request, b'r', 128)).result, RESULT_OK);
    }
    let tree = content(&fixture);
    let query = |number| Asked { body: command(b'r', number), ..query("") };
    assert_eq!(fixture.reply(query(128)).result, RESULT_OK);
    assert_eq!(fixture.executor.take_query_read_size(), 16 * 8192 - 128 / 2 * 4);
    assert_eq!(fixture.executor.take_query_read_size(), 0);
    assert_eq!(fixture.reply(query(129)).result, RESULT_READ_TOO_LARGE);
    assert_eq!(fixture.executor.take_query_read_size(), 16 * 8192);
    assert_eq!(content(&fixture), tree);
    let too_much = fixture.reply(asked(4, b'r', 129));
    assert_eq!((too_much.result, too_much.body.len()), (RESULT_READ_TOO_LARGE, 0));
    let of_probe = |rows: Vec<(u8, Vec<u8>, Bytes)>| -> Vec<_> {
        rows.into_iter().filter(|(table, ..)| *table == COUNT.0).collect()
    };
    assert_eq!(of_probe(content(&fixture)), of_probe(tree));
    assert_eq!(fixture.reply(asked(5, b'r', 128)).result, RESULT_OK, "the next one may again");
}

#[test]
fn invalid_entry_in_the_log_gets_a_code() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    let invalid = |asked: Asked| Asked { body: b"?".to_vec(), ..asked };
    for asked in [
        invalid(count(A, 1, 1, "")),
        invalid(query("")),
        invalid(deregister(A, 1, 2)),
        invalid(register(ClientId(9))),
        invalid(Asked { operation: Operation::Recover, ..count(A, 1, 3, "") }),
    ] {
        let reply = fixture.reply(asked.clone());
        assert_eq!((reply.result, reply.body.len()), (RESULT_INVALID, 0), "{asked:?}");
    }
    assert_eq!(fixture.executor.sessions_count(), 2);
    assert_eq!(content(&fixture), digest);
    // The invalid ones of the session took their numbers.
    assert_eq!(fixture.reply(count(A, 1, 4, "x")).body[0], 1);
}

#[test]
fn query_is_answered_each_time_anew_and_changes_nothing() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    assert_eq!(fixture.reply(query("key1")).body[0], 0);
    assert_eq!(content(&fixture), digest);
    fixture.reply(count(A, 1, 1, "key1"));
    let reply = fixture.reply(query("key1"));
    assert_eq!((reply.body[0], reply.session, reply.request), (1, 0, 5));
    assert_eq!(fixture.reply(count(A, 1, 2, "key1")).body[0], 2);
    assert_eq!(fixture.executor.sessions_count(), 2);
}

#[test]
fn entries_of_nobody_do_nothing() {
    let mut fixture = Fixture::with_sessions();
    let digest = content(&fixture);
    let genesis = Asked { operation: Operation::Genesis, body: vec![1; 48], ..noop() };
    let nobody = |asked: Asked| Asked { client: ClientId(0), ..asked };
    let batch = [
        genesis,
        noop(),
        nobody(query("key")),
        nobody(register(A)),
        nobody(count(A, 1, 1, "key")),
        Asked { client: A, ..noop() },
    ];
    assert_eq!(fixture.commit(&batch), []);
    assert_eq!(content(&fixture), digest);
    assert_eq!((fixture.executor.op(), fixture.executor.sessions_count()), (2, 2));
}

#[test]
fn timestamps_are_the_entries_own() {
    let mut fixture = Fixture::with_sessions();
    let batch = [noop(), count(A, 1, 1, "a"), count(B, 1, 1, "b")];
    for (index, reply) in (1..).zip(fixture.commit(&batch)) {
        let ClientReply::Reply(stored) = &reply else {
            panic!("{reply:?}");
        };
        assert_eq!(stored.timestamp, 1100 + index);
        assert_eq!(body(&reply)[1..9], 2u64.to_le_bytes());
        assert_eq!(body(&reply)[9..17], stored.timestamp.to_le_bytes());
    }
}

#[test]
fn order_within_a_batch_matters() {
    let digest = |batch: &[Asked]| {
        let mut fixture = Fixture::with_sessions();
        fixture.commit(batch);
        fixture.executor.digest()
    };
    let (a, b) = (count(A, 1, 1, "same"), count(B, 1, 1, "same"));
    let one = digest(&[a.clone(), b.clone()]);
    assert_eq!(one, digest(&[a.clone(), b.clone()]));
    assert_ne!(one, digest(&[b, a]));
}

#[test]
fn value_that_fits_a_request_can_be_read_by_get_and_scan() {
    let mut fixture = Fixture { executor: Executor::new(Kv::new(), &GEOMETRY), timestamp: 1 };
    fixture.commit(&[register(A)]);
    let around = kv::Request::put(b"k", b"").encode().len();
    let value = vec![5; GEOMETRY.request_size_max() as usize - around];
    let put = kv::Request::put(b"k", &value).encode();
    let asked = Asked { body: put, ..count(A, 1, 1, "") };
    assert_eq!(fixture.admit(&asked), Admission::Accept);
    assert_eq!(fixture.reply(asked).result, RESULT_OK);
    for request in [kv::Request::get(b"k"), kv::Request::scan(kv::Scan::all())] {
        let reply = fixture.reply(Asked { body: request.encode(), ..query("") });
        assert_eq!(reply.result, RESULT_OK);
        assert!(reply.body.len() > value.len());
    }
}

/// Random batches of some clients that send again, send old requests, leave, come back and are
/// evicted, against a model of what each request must come to; and two more executors with the same
/// log, one of which is suspended at random accesses.
#[test]
fn random_logs_execute_at_most_once_and_the_same_everywhere() {
    let mut totals = Totals::default();
    for seed in 0..30 {
        random_log(seed, &mut totals);
    }
    for (what, count) in [
        ("executed", totals.executed),
        ("repeated", totals.repeated),
        ("evicted", totals.evicted),
        ("silent", totals.silent),
        ("suspended", totals.suspended),
    ] {
        assert!(count > 300, "{what}: only {count}");
    }
}

#[derive(Default)]
struct Totals {
    executed: u32,
    repeated: u32,
    evicted: u32,
    silent: u32,
    suspended: u32,
}

fn random_log(seed: u64, totals: &mut Totals) {
    let mut prng = Prng::from_seed(seed);
    let mut executors = [0; 3].map(|_| Executor::new(Probe, &GEOMETRY));
    let mut model = Model::default();
    let mut sent: Vec<Asked> = vec![register(A)];
    for op in 1..=100 {
        let batch: Vec<Asked> = (0..prng.range_inclusive(1, 8))
            .map(|_| random_request(&mut prng, &model, &mut sent))
            .collect();
        let prepare = prepare(op, op * 1000, &batch);
        let expected = model.commit(op, &batch, totals);
        let replies = [0, 1, 2].map(|index| {
            let mut replies = Vec::new();
            if index == 2 {
                executors[2].store.suspend_after(prng.below(20));
            }
            while executors[index].commit(&prepare, &mut replies) == CommitOutcome::Suspended {
                totals.suspended += 1;
                executors[2].store.suspend_after(prng.below(20));
            }
            replies
        });
        executors[2].store = disarmed(std::mem::take(&mut executors[2].store));
        assert_eq!(replies[0], replies[1]);
        assert_eq!(replies[0], replies[2]);
        model.check(&batch, &expected, &replies[0]);
        assert_eq!(executors[0].digest(), executors[1].digest());
        assert_eq!(executors[0].digest(), executors[2].digest());
        assert_eq!(executors[0].sessions_count() as usize, model.sessions.len());
    }
    // The store itself is the witness: each request counted its own key.
    let counts = &executors[0].store;
    for key in &model.executed {
        let count = counts.get(COUNT, key).unwrap().unwrap();
        assert_eq!(count, [1].as_slice(), "{key:?} was not executed exactly once");
    }
}

/// What each request of a log must come to, said in another way than the table of sessions does.
#[derive(Default)]
struct Model {
    /// Client, session and last number, the longest unused first.
    sessions: Vec<(ClientId, u64, u64)>,
    /// The last request of each of them that was executed.
    last: BTreeMap<ClientId, (Operation, Vec<u8>)>,
    /// The bodies that must have been executed.
    executed: BTreeSet<Vec<u8>>,
    /// The first reply to each request.
    replies: BTreeMap<(ClientId, u64, u64), StoredReply>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// With the session in the reply.
    Reply(u64),
    /// The same, to a register that opens the session. Twice within one op if the session was
    /// evicted between.
    Opened(u64),
    Evicted(EvictionReason),
    Nothing,
}

impl Model {
    fn commit(&mut self, op: Op, batch: &[Asked], totals: &mut Totals) -> Vec<Expected> {
        batch.iter().map(|asked| self.commit_one(op, asked, totals)).collect()
    }

    fn commit_one(&mut self, op: Op, asked: &Asked, totals: &mut Totals) -> Expected {
        let place = self.sessions.iter().position(|(client, ..)| *client == asked.client);
        if asked.operation == Operation::Register {
            if let Some(place) = place {
                totals.repeated += 1;
                return Expected::Reply(self.sessions[place].1);
            }
            if self.sessions.len() == GEOMETRY.clients_max as usize {
                self.sessions.remove(0);
            }
            self.sessions.push((asked.client, op, 0));
            return Expected::Opened(op);
        }
        let Some(place) = place else {
            totals.evicted += 1;
            return Expected::Evicted(EvictionReason::NoSession);
        };
        let (client, session, last) = self.sessions[place];
        if asked.session < session {
            totals.evicted += 1;
            return Expected::Evicted(EvictionReason::SessionTooLow);
        }
        assert_eq!(asked.session, session, "no client knows a session that is not yet");
        if asked.request == last && last > 0 {
            if self.last[&client] != (asked.operation, asked.body.clone()) {
                totals.silent += 1;
                return Expected::Nothing;
            }
            totals.repeated += 1;
            return Expected::Reply(session);
        }
        if asked.request != last + 1 {
            totals.silent += 1;
            return Expected::Nothing;
        }
        totals.executed += 1;
        self.sessions.remove(place);
        self.last.insert(client, (asked.operation, asked.body.clone()));
        if asked.operation == Operation::Apply {
            self.executed.insert(asked.body[1..].to_vec());
            self.sessions.push((client, session, last + 1));
        }
        Expected::Reply(session)
    }

    /// Compares what was said with what was to be said, and each reply with the first of its
    /// request.
    fn check(&mut self, batch: &[Asked], expected: &[Expected], replies: &[ClientReply]) {
        let mut replies = replies.iter();
        for (asked, expected) in batch.iter().zip(expected) {
            match expected {
                Expected::Nothing => {}
                Expected::Evicted(reason) => {
                    let Asked { client, session, .. } = *asked;
                    let evicted = ClientReply::Evicted { client, session, reason: *reason };
                    assert_eq!(replies.next(), Some(&evicted));
                }
                Expected::Reply(session) | Expected::Opened(session) => {
                    let Some(ClientReply::Reply(reply)) = replies.next() else {
                        panic!("no reply to {asked:?}");
                    };
                    let id = (reply.client, reply.session, reply.request);
                    assert_eq!(id, (asked.client, *session, asked.request));
                    assert_eq!(reply.operation, asked.operation);
                    assert_eq!(reply.request_checksum, crc32c::crc32c(&asked.body));
                    if matches!(expected, Expected::Opened(_)) {
                        self.replies.remove(&id);
                    }
                    let first = self.replies.entry(id).or_insert_with(|| reply.clone());
                    assert_eq!(first, reply);
                }
            }
        }
        assert_eq!(replies.next(), None);
    }
}

/// Something a client might send: new, again, old, or from a session that is over.
fn random_request(prng: &mut Prng, model: &Model, sent: &mut Vec<Asked>) -> Asked {
    if prng.chance(Ratio::new(2, 5)) {
        return sent[sent.len() - 1 - prng.index(sent.len().min(20))].clone();
    }
    let client = ClientId(u128::from(prng.range_inclusive(1, 5)));
    let session = model.sessions.iter().find(|(other, ..)| *other == client);
    let asked = match session {
        None => register(client),
        Some((_, session, last)) => {
            // One request in flight, so sometimes the one after the next leaves out a number.
            let request = last + 1 + u64::from(prng.chance(Ratio::new(1, 8)));
            if prng.chance(Ratio::new(1, 10)) {
                deregister(client, *session, request)
            } else {
                let key = format!("{client}/{session}/{request}");
                count(client, *session, request, &key)
            }
        }
    };
    sent.push(asked.clone());
    asked
}

/// The same store with no suspension pending.
fn disarmed(mut store: Store) -> Store {
    store.abandon_overlay();
    store.suspend_after(u64::MAX);
    store
}

fn prepare(op: Op, timestamp: u64, batch: &[Asked]) -> Message {
    let mut body = Vec::new();
    for asked in batch {
        let entry = Entry {
            client: asked.client,
            session: asked.session,
            request: asked.request,
            size: u32::try_from(asked.body.len()).unwrap(),
            checksum: crc32c::crc32c(&asked.body),
            operation: asked.operation,
        };
        body.extend_from_slice(&entry.encode());
        body.extend_from_slice(&asked.body);
    }
    let command = Prepare {
        parent: Parent::default(),
        op,
        commit: op - 1,
        timestamp,
        checkpoint_id: 0,
        entry_count: u32::try_from(batch.len()).unwrap(),
    };
    Message::new(&AUTHOR, command, &body)
}

/// All that the state machine has stored, in order.
fn content(fixture: &Fixture) -> Vec<(u8, Vec<u8>, Bytes)> {
    let mut rows = Vec::new();
    for table in 0..u8::MAX {
        let (start, end) = (Bound::Unbounded, Bound::Unbounded);
        let scanned = fixture.executor.store.scan(
            Table(table),
            start,
            end,
            Direction::Forward,
            |key, value| {
                rows.push((table, key.to_vec(), value.clone()));
                ControlFlow::Continue(())
            },
        );
        scanned.unwrap();
    }
    rows
}

fn body(reply: &ClientReply) -> &[u8] {
    match reply {
        ClientReply::Reply(reply) => &reply.body,
        ClientReply::Evicted { .. } => panic!("{reply:?}"),
    }
}

fn register(client: ClientId) -> Asked {
    Asked { client, session: 0, request: 0, operation: Operation::Register, body: vec![] }
}

fn deregister(client: ClientId, session: u64, request: u64) -> Asked {
    Asked { client, session, request, operation: Operation::Deregister, body: vec![] }
}

fn count(client: ClientId, session: u64, request: u64, key: &str) -> Asked {
    let body = format!("c{key:_<4}").into_bytes();
    Asked { client, session, request, operation: Operation::Apply, body }
}

fn query(key: &str) -> Asked {
    Asked { operation: Operation::Query, ..count(A, 0, 5, key) }
}

fn noop() -> Asked {
    let client = ClientId(0);
    Asked { client, session: 0, request: 0, operation: Operation::Noop, body: vec![] }
}

fn command(command: u8, argument: u32) -> Vec<u8> {
    let mut body = vec![command];
    body.extend_from_slice(&argument.to_le_bytes());
    body
}
