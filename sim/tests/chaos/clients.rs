//! Clients that put, get, delete, compare and set, and scan, a few keys at once, and record what
//! they asked and were told.
//!
//! ```text
//!   client thread ──► on_invoke ──► call ──► on_return          one lock, so the record has the
//!   client thread ──► on_invoke ──► call ──► on_return          order in which it really happened
//!                          └──────► Checkers ◄──────┘
//! ```
//!
//! A few hot keys are fought for by everybody; fresh keys are written once and never again, so
//! that the store, its checkpoints and the file grow.
//!
//! **Invariants:** no value is written twice; after an unknown outcome the client goes on under
//! another number, because the call may still be carried out.
//!
//! **Not here:** judging (`sim/checkers`).

use crate::checkers::{Call, CallResult, CheckerReport, Checkers, FinalState, Observed};
use crate::harness::{now, pass, wait_for};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsr::client::{Answer, Client, ClientConfig, ClientError};
use vsr::io::{MioIO, MioOptions};
use vsr::state_machine::kv::Reply;
use vsr::stdx::Prng;
use vsr::wire::ClusterId;

/// How long a client waits for an answer before it gives up: then the outcome is unknown.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the end of a run may be read for, once a cluster is whole again.
const PATIENCE_AT_THE_END: Duration = Duration::from_secs(60);
/// Keys that all clients fight for.
const HOT_KEYS: usize = 6;
/// Rows of one query at the end of a run.
const PAGE_ROWS: u32 = 100;
/// The checkers that judge what clients saw; the others are told of replicas' insides.
const JUDGES: [&str; 4] = ["order", "linearizability", "acknowledged", "at_most_once"];

/// What came of the calls so far.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) done: u64,
    pub(crate) not_done: u64,
    pub(crate) unknown: u64,
}

/// All that the clients of a run asked and were told.
#[derive(Debug)]
pub(crate) struct Recorder {
    checkers: Checkers,
    start: Instant,
    counts: Counts,
}

#[derive(Debug)]
struct Shared {
    recorder: Mutex<Recorder>,
    stop: AtomicBool,
    number_next: AtomicU64,
    /// Answers to each worker.
    answers: Vec<AtomicU64>,
    value_size: usize,
    addresses: Vec<SocketAddr>,
}

/// Clients at work.
#[derive(Debug)]
pub(crate) struct Clients {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Recorder {
    pub(crate) fn new(replica_count: usize) -> Self {
        let replica_count = u8::try_from(replica_count).expect("a handful");
        Self { checkers: Checkers::new(replica_count), start: now(), counts: Counts::default() }
    }

    fn time(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("a run of less than 584 years")
    }

    pub(crate) fn on_invoke(&mut self, client: u64, call: Call) {
        self.checkers.on_invoke(client, self.time(), call);
    }

    pub(crate) fn on_return(&mut self, client: u64, result: CallResult) {
        match &result {
            CallResult::Done(_) => self.counts.done += 1,
            CallResult::NotDone => self.counts.not_done += 1,
            CallResult::Unknown => self.counts.unknown += 1,
        }
        self.checkers.on_return(client, self.time(), result);
    }

    /// The verdicts on everything that was recorded, given what was there at the end.
    pub(crate) fn finish(mut self, finals: &[FinalState]) -> (Counts, Vec<CheckerReport>) {
        let reports = self.checkers.finish(finals).into_iter();
        let judges = reports.filter(|report| JUDGES.contains(&report.name)).collect();
        (self.counts, judges)
    }
}

impl Clients {
    /// Starts `count` clients of the cluster at `addresses`; fresh values have `value_size` bytes.
    pub(crate) fn start(
        replica_count: usize,
        addresses: Vec<SocketAddr>,
        count: usize,
        value_size: usize,
        prng: &mut Prng,
    ) -> Self {
        let shared = Arc::new(Shared {
            recorder: Mutex::new(Recorder::new(replica_count)),
            stop: AtomicBool::new(false),
            number_next: AtomicU64::new(0),
            answers: (0..count).map(|_| AtomicU64::new(0)).collect(),
            value_size,
            addresses,
        });
        let threads = (0..count)
            .map(|worker| {
                let (shared, prng) = (Arc::clone(&shared), prng.fork());
                spawn(move || Worker::new(&shared, worker, prng).run())
            })
            .collect();
        Self { shared, threads }
    }

    /// What came of the calls so far.
    pub(crate) fn counts(&self) -> Counts {
        self.shared.recorder().counts
    }

    /// Waits until every client has had an answer to something it asked after this began.
    #[track_caller]
    pub(crate) fn wait_answered(&self, deadline: Duration) {
        let of = |answers: &AtomicU64| answers.load(Ordering::Relaxed);
        let before: Vec<u64> = self.shared.answers.iter().map(of).collect();
        wait_for("an answer for each client", deadline, || {
            // One may have been on its way; two may not.
            let mut all = self.shared.answers.iter().zip(&before);
            all.all(|(answers, before)| of(answers) >= before + 2).then_some(())
        });
    }

    /// Ends the clients, each with its call.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Recorder {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that found nothing wrong");
        }
        let fresh = Recorder::new(1);
        std::mem::replace(&mut *self.shared.recorder(), fresh)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One client after the other, in one thread.
struct Worker<'a> {
    shared: &'a Shared,
    worker: usize,
    prng: Prng,
    client: Client<MioIO>,
    /// Of the client.
    number: u64,
    /// Calls so far, to tell values apart.
    count: u64,
    /// What hot keys had when this client last looked.
    seen: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared, worker: usize, prng: Prng) -> Self {
        let client = connect(&shared.addresses, PATIENCE);
        let number = shared.number_next.fetch_add(1, Ordering::Relaxed);
        Self { shared, worker, prng, client, number, count: 0, seen: BTreeMap::new() }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.count += 1;
            let call = self.draw();
            self.shared.recorder().on_invoke(self.number, call.clone());
            let result = perform(&mut self.client, &call);
            self.shared.recorder().on_return(self.number, result.clone());
            match result {
                CallResult::Done(done) => {
                    self.shared.answers[self.worker].fetch_add(1, Ordering::Relaxed);
                    self.note(&call, &done.observed);
                }
                CallResult::NotDone => {}
                CallResult::Unknown => {
                    self.number = self.shared.number_next.fetch_add(1, Ordering::Relaxed);
                }
            }
            pass(Duration::from_millis(self.prng.below(12)));
        }
        self.client.close();
    }

    fn draw(&mut self) -> Call {
        let key = Bytes::from(format!("hot/{}", self.prng.index(HOT_KEYS)));
        let value = Bytes::from(format!("{}.{}", self.number, self.count));
        match self.prng.below(100) {
            0..28 => Call::Put { key, value },
            28..56 => Call::Get { key },
            56..64 => Call::Delete { key },
            64..82 => {
                let old = self.seen.get(&key).cloned().flatten();
                Call::Cas { key, old, new: value }
            }
            82..88 => Call::Scan {
                start: Bytes::from_static(b"hot/"),
                end: Bytes::from_static(b"hot0"),
                limit: 1 + u32::try_from(self.prng.below(8)).expect("less than 8"),
            },
            _ => {
                let key = Bytes::from(format!("fresh/{}/{}", self.number, self.count));
                let mut value = value.to_vec();
                value.push(b' ');
                value.resize(self.shared.value_size.max(value.len()), b'.');
                Call::Put { key, value: Bytes::from(value) }
            }
        }
    }

    fn note(&mut self, call: &Call, observed: &Observed) {
        let Some(key) = call.key().filter(|key| key.starts_with(b"hot/")) else { return };
        let value = match observed {
            Observed::Put | Observed::CasDone => call.value_written().cloned(),
            Observed::Get(record) => record.as_ref().map(|record| record.value.clone()),
            Observed::Delete { .. } | Observed::CasFailed(_) | Observed::Scan { .. } => None,
        };
        self.seen.insert(key.clone(), value);
    }
}

fn connect(addresses: &[SocketAddr], timeout: Duration) -> Client<MioIO> {
    let io = MioIO::new(MioOptions::default()).expect("the system has descriptors");
    let config = ClientConfig { cluster: ClusterId(0), addresses: addresses.to_vec(), timeout };
    Client::connect(io, config)
}

fn ask(client: &mut Client<MioIO>, call: &Call) -> Result<Answer, ClientError> {
    if call.is_read() { client.query(&call.request()) } else { client.request(&call.request()) }
}

fn perform(client: &mut Client<MioIO>, call: &Call) -> CallResult {
    match ask(client, call) {
        Ok(answer) => call.result(&answer).expect("an answer to the call"),
        Err(ClientError::Unavailable | ClientError::Rejected(_)) => CallResult::NotDone,
        Err(ClientError::OutcomeUnknown(_)) => CallResult::Unknown,
    }
}

/// Everything that the cluster at `addresses` has, while nobody writes; `replica` names it.
pub(crate) fn read_all(addresses: &[SocketAddr], replica: u8) -> FinalState {
    let mut client = connect(addresses, PATIENCE_AT_THE_END);
    let mut rows = Vec::new();
    let mut start = Bytes::new();
    loop {
        let call = Call::Scan { start, end: Bytes::new(), limit: PAGE_ROWS };
        let answer = ask(&mut client, &call).expect("a cluster that is whole answers");
        let revision = Reply::decode(&answer.body).expect("a reply of kv").revision;
        let result = call.result(&answer).expect("an answer to the call");
        let CallResult::Done(done) = result else { panic!("a scan that was not done: {result:?}") };
        let Observed::Scan { rows: page, more } = done.observed else { unreachable!("a scan") };
        rows.extend(page);
        if !more {
            client.close();
            return FinalState { replica, op: done.op, revision, rows };
        }
        // The least key behind the last one.
        let last = &rows.last().expect("a page has rows").key;
        start = Bytes::from([last, &b"\0"[..]].concat());
    }
}

#[expect(clippy::disallowed_methods, reason = "clients of a test run beside it")]
fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(work)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::call::Done;
    use crate::checkers::{Record, Row};

    const KEY: Bytes = Bytes::from_static(b"hot/0");

    /// What a client is told of an op that carried its call.
    fn done(op: u64, revision: u64, observed: Observed) -> CallResult {
        CallResult::Done(Done { op, timestamp: op * 10, revision, observed })
    }

    fn record(revision: u64, value: &'static str) -> Record {
        Record { revision, value: Bytes::from_static(value.as_bytes()) }
    }

    /// Two puts, and reads of them; what each of two reads saw, and what was there at the end.
    fn judge(first: Record, second: Record, end: Record) -> Vec<&'static str> {
        let mut recorder = Recorder::new(3);
        let mut call = |call: Call, result: CallResult| {
            recorder.on_invoke(1, call);
            recorder.on_return(1, result);
        };
        let put = |value: &'static [u8]| Call::Put { key: KEY, value: Bytes::from_static(value) };
        let get = || Call::Get { key: KEY };
        call(put(b"a"), done(5, 1, Observed::Put));
        call(get(), done(5, first.revision, Observed::Get(Some(first))));
        call(put(b"b"), done(6, 2, Observed::Put));
        call(get(), done(6, second.revision, Observed::Get(Some(second))));
        let revision = end.revision;
        let rows = vec![Row { key: KEY, record: end }];
        let state = FinalState { replica: 0, op: 9, revision, rows };
        let (counts, reports) = recorder.finish(&[state]);
        assert_eq!(counts, Counts { done: 4, not_done: 0, unknown: 0 });
        assert_eq!(reports.len(), JUDGES.len());
        reports.iter().filter(|report| report.failure.is_some()).map(|report| report.name).collect()
    }

    #[test]
    fn a_stale_read_and_a_lost_write_are_found() {
        assert_eq!(judge(record(1, "a"), record(2, "b"), record(2, "b")), [""; 0]);
        let stale = judge(record(1, "a"), record(1, "a"), record(2, "b"));
        assert!(stale.contains(&"linearizability") && stale.contains(&"order"), "{stale:?}");
        let lost = judge(record(1, "a"), record(2, "b"), record(1, "a"));
        assert!(lost.contains(&"acknowledged") && lost.contains(&"linearizability"), "{lost:?}");
    }
}
