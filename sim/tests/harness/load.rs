//! Clients under test conditions: each writes its own keys, remembers what it was promised, and is
//! able to tell afterwards whether a promise was broken.
//!
//! ```text
//!   step i of generation g of client c: one transaction, and each third time a blind put
//!     if   c/g/counter = i-1            (absent for i = 1)
//!     then c/g/counter := i,  c/g/log/i := i
//! ```
//!
//! What must hold afterwards, for each generation with n acknowledged steps:
//! * the counter is n, or n + 1 if the last outcome is unknown; the log has exactly 1 to counter;
//! * each acknowledged write has the revision it was acknowledged with;
//! * all acknowledged writes together moved the revision counter by exactly their number, plus at
//!   most the number of unknown ones: none was carried out twice.
//!
//! **Invariants:** after an unknown outcome the generation is over and its keys are never written
//! again, because the undecided request may still be carried out.
//!
//! **Not here:** faults: the test makes them while a load runs.

use super::{DEADLINE, now, pass, wait_for};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use vsr::client::{Client, ClientConfig, ClientError};
use vsr::io::{MioIO, MioOptions};
use vsr::state_machine::kv::{
    Compare, Condition, Operation, OperationResult, Outcome, Reply, Request, Scan, prefix_end,
};
use vsr::wire::ClusterId;

/// How long a client tries before it calls an outcome unknown.
pub(crate) const PATIENCE: Duration = Duration::from_secs(25);

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Certainly not done.
    NotDone(String),
    /// Perhaps done.
    Unknown(String),
}

/// A key's revision and value.
pub(crate) type Record = (u64, Vec<u8>);

/// A client of the key-value store.
pub(crate) struct Kv {
    client: Client<MioIO>,
}

impl Kv {
    pub(crate) fn connect(addresses: &[SocketAddr], timeout: Duration) -> Self {
        let io = MioIO::new(MioOptions::default());
        let config = ClientConfig { cluster: ClusterId(0), addresses: addresses.to_vec(), timeout };
        Self { client: Client::connect(io.expect("the system has descriptors"), config) }
    }

    /// One request; the function is given the decoded reply.
    fn request<T>(
        &mut self,
        request: &Request<'_>,
        take: impl FnOnce(Reply<'_>) -> T,
    ) -> Result<T, Failure> {
        let body = request.encode();
        let reply = if request.is_read_only() {
            self.client.query(&body)
        } else {
            self.client.request(&body)
        };
        let reply = reply.map_err(failure)?;
        assert_eq!(reply.result, 0, "the store took a valid request for a wrong one");
        Ok(take(Reply::decode(&reply.body).expect("a reply of kv")))
    }

    /// Puts; returns the revision.
    pub(crate) fn put(&mut self, key: &str, value: &[u8]) -> Result<u64, Failure> {
        let request = Request::put(key.as_bytes(), value);
        self.request(&request, |reply| reply.revision)
    }

    pub(crate) fn get(&mut self, key: &str) -> Result<Option<Record>, Failure> {
        let request = Request::get(key.as_bytes());
        self.request(&request, |reply| match &reply.outcomes[..] {
            [Outcome::Done(results)] => match &results[..] {
                [OperationResult::Get(record)] => {
                    record.map(|record| (record.revision, record.value.to_vec()))
                }
                other => panic!("not a get: {other:?}"),
            },
            other => panic!("not a get: {other:?}"),
        })
    }

    /// The revision of the last write of anyone.
    pub(crate) fn revision(&mut self) -> Result<u64, Failure> {
        self.request(&Request::get(b"any"), |reply| reply.revision)
    }

    /// All keys that begin with `prefix`.
    pub(crate) fn scan(&mut self, prefix: &str) -> Result<BTreeMap<String, Record>, Failure> {
        let end = prefix_end(prefix.as_bytes());
        let mut all = BTreeMap::new();
        let mut last = Vec::new();
        loop {
            let mut scan = Scan::prefix(prefix.as_bytes(), &end);
            if !last.is_empty() {
                scan = scan.after(&last);
            }
            let (rows, more) = self.request(&Request::scan(scan), |reply| {
                let [Outcome::Done(results)] = &reply.outcomes[..] else { panic!("{reply:?}") };
                let [OperationResult::Scan { rows, more }] = &results[..] else {
                    panic!("{reply:?}")
                };
                let rows: Vec<(Vec<u8>, Record)> = rows
                    .iter()
                    .map(|row| {
                        let record = (row.record.revision, row.record.value.to_vec());
                        (row.key.to_vec(), record)
                    })
                    .collect();
                (rows, *more)
            })?;
            for (key, record) in rows {
                last.clone_from(&key);
                all.insert(String::from_utf8(key).expect("keys of tests are text"), record);
            }
            if !more {
                return Ok(all);
            }
        }
    }

    /// A transaction that moves a counter and appends to a log; returns its revision.
    fn step(&mut self, prefix: &str, step: u64) -> Result<u64, Failure> {
        let counter = format!("{prefix}counter");
        let log = log_key(prefix, step);
        let (old, new) = ((step - 1).to_string(), step.to_string());
        let condition =
            if step == 1 { Condition::Absent } else { Condition::Value(old.as_bytes()) };
        let request = Request::transaction(
            vec![Compare { key: counter.as_bytes(), condition }],
            vec![
                Operation::Put { key: counter.as_bytes(), value: new.as_bytes() },
                Operation::Put { key: log.as_bytes(), value: new.as_bytes() },
            ],
        );
        self.request(&request, |reply| match &reply.outcomes[..] {
            [Outcome::Done(_)] => reply.revision,
            other => panic!("{prefix} step {step}: carried out twice, or lost: {other:?}"),
        })
    }

    pub(crate) fn close(self) {
        self.client.close();
    }
}

fn log_key(prefix: &str, step: u64) -> String {
    format!("{prefix}log/{step:08}")
}

fn failure(error: ClientError) -> Failure {
    let text = error.to_string();
    match error {
        ClientError::OutcomeUnknown(_) => Failure::Unknown(text),
        ClientError::Unavailable | ClientError::Rejected(_) => Failure::NotDone(text),
    }
}

/// What one client was promised in one generation.
#[derive(Debug, Default)]
struct Generation {
    prefix: String,
    /// Revisions of the acknowledged steps 1, 2, ….
    steps: Vec<u64>,
    /// The last acknowledged blind put: value and revision.
    blind: Option<(u64, u64)>,
    blind_count: u64,
    /// What has an unknown outcome: a step, or a blind put of this value.
    unknown_step: bool,
    unknown_blind: Option<u64>,
}

/// What one client did.
#[derive(Debug, Default)]
struct Worker {
    generations: Vec<Generation>,
    /// Requests that failed, for any reason.
    errors: Vec<String>,
    /// When each acknowledged request was sent and acknowledged.
    times: Vec<(Instant, Instant)>,
    /// When the request in flight was sent.
    in_flight: Option<Instant>,
}

/// Clients at work in threads of their own.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    workers: Vec<Arc<Mutex<Worker>>>,
    threads: Vec<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    revision_start: u64,
}

/// What a load was promised, after its end.
#[derive(Debug)]
pub(crate) struct History {
    workers: Vec<Worker>,
    revision_start: u64,
    pub(crate) acknowledged: u64,
    pub(crate) unknown: u64,
    pub(crate) errors: Vec<String>,
}

impl Load {
    /// Starts `clients` clients, which pause for `pace` after each acknowledgement. One load at a
    /// time for each cluster, `name` its own: all writes of a cluster are counted.
    #[track_caller]
    pub(crate) fn start(
        addresses: Vec<SocketAddr>,
        name: &str,
        clients: u32,
        pace: Duration,
    ) -> Self {
        let mut kv = Kv::connect(&addresses, PATIENCE);
        let revision_start = kv.revision().expect("a cluster that is available");
        kv.close();
        let stop = Arc::new(AtomicBool::new(false));
        let mut load =
            Self { stop, workers: Vec::new(), threads: Vec::new(), addresses, revision_start };
        for client in 0..clients {
            let worker = Arc::new(Mutex::new(Worker::default()));
            load.workers.push(Arc::clone(&worker));
            let prefix = format!("{name}/{client}/");
            let (stop, addresses) = (Arc::clone(&load.stop), load.addresses.clone());
            load.threads.push(spawn(move || work(&worker, &stop, &addresses, &prefix, pace)));
        }
        load
    }

    /// Waits until every client has had `count` more acknowledgements.
    #[track_caller]
    pub(crate) fn wait_acknowledged(&self, count: usize) {
        let acknowledged = |worker: &Arc<Mutex<Worker>>| lock(worker).times.len();
        let start: Vec<usize> = self.workers.iter().map(acknowledged).collect();
        wait_for(&format!("{count} more acknowledgements for each client"), DEADLINE, || {
            let mut all = self.workers.iter().zip(&start);
            all.all(|(worker, start)| acknowledged(worker) >= start + count).then_some(())
        });
    }

    /// The longest any client has waited for a request that was not answered before `since`.
    pub(crate) fn longest_wait(&self, since: Instant) -> Duration {
        let mut longest = Duration::ZERO;
        for worker in &self.workers {
            let worker = lock(worker);
            let done = worker.times.iter().filter(|(_, acknowledged)| *acknowledged >= since);
            let done = done.map(|(sent, acknowledged)| *acknowledged - *sent).max();
            let in_flight = worker.in_flight.map(|sent| sent.elapsed());
            longest = longest.max(done.unwrap_or_default()).max(in_flight.unwrap_or_default());
        }
        longest
    }

    /// The requests acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.workers.iter().map(|worker| lock(worker).times.len()).sum()
    }

    /// Ends the load: every client finishes its request.
    #[track_caller]
    pub(crate) fn finish(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client that found nothing wrong");
        }
        let take = |worker: &Arc<Mutex<Worker>>| std::mem::take(&mut *lock(worker));
        let workers: Vec<Worker> = self.workers.iter().map(take).collect();
        let mut history = History {
            workers,
            revision_start: self.revision_start,
            acknowledged: 0,
            unknown: 0,
            errors: Vec::new(),
        };
        for worker in &history.workers {
            history.errors.extend(worker.errors.iter().cloned());
            for generation in &worker.generations {
                history.acknowledged += generation.steps.len() as u64 + generation.blind_count;
                history.unknown += u64::from(generation.unknown_step);
                history.unknown += u64::from(generation.unknown_blind.is_some());
            }
        }
        history
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Written to by its own thread alone; a panic in between leaves nothing half done that matters.
fn lock(worker: &Arc<Mutex<Worker>>) -> std::sync::MutexGuard<'_, Worker> {
    worker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "clients of a test run beside it")]
fn spawn(work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::spawn(work)
}

/// What to do next, and what came of it.
#[derive(Clone, Copy)]
enum Step {
    Move(u64),
    Blind(u64),
}

fn work(
    worker: &Mutex<Worker>,
    stop: &AtomicBool,
    addresses: &[SocketAddr],
    prefix: &str,
    pace: Duration,
) {
    let lock = || worker.lock().expect("this thread alone writes");
    for number in 0.. {
        let prefix = format!("{prefix}{number}/");
        let mut kv = Kv::connect(addresses, PATIENCE);
        lock().generations.push(Generation { prefix: prefix.clone(), ..Generation::default() });
        let blind_key = format!("{prefix}blind");
        let mut count = 0;
        let mut step_next = 1;
        let alive = loop {
            if stop.load(Ordering::Relaxed) {
                break false;
            }
            count += 1;
            let step = if count % 3 == 0 { Step::Blind(count) } else { Step::Move(step_next) };
            let sent = now();
            lock().in_flight = Some(sent);
            let result = match step {
                Step::Move(step) => kv.step(&prefix, step),
                Step::Blind(value) => kv.put(&blind_key, value.to_string().as_bytes()),
            };
            step_next += u64::from(matches!((step, &result), (Step::Move(_), Ok(_))));
            if !lock().note(step, sent, result) {
                break true;
            }
            pass(pace);
        };
        if !alive {
            kv.close();
            return;
        }
    }
}

impl Worker {
    /// Notes what came of a request. False if this generation is over.
    fn note(&mut self, step: Step, sent: Instant, result: Result<u64, Failure>) -> bool {
        self.in_flight = None;
        let generation = self.generations.last_mut().expect("one is at work");
        match result {
            Ok(revision) => {
                self.times.push((sent, now()));
                match step {
                    Step::Move(_) => generation.steps.push(revision),
                    Step::Blind(value) => {
                        generation.blind = Some((value, revision));
                        generation.blind_count += 1;
                    }
                }
                true
            }
            Err(Failure::NotDone(text)) => {
                self.errors.push(format!("{}: {text}", generation.prefix));
                false
            }
            Err(Failure::Unknown(text)) => {
                self.errors.push(format!("{}: unknown: {text}", generation.prefix));
                match step {
                    Step::Move(_) => generation.unknown_step = true,
                    Step::Blind(value) => generation.unknown_blind = Some(value),
                }
                false
            }
        }
    }
}

impl Generation {
    /// What is wrong with what the store has of this generation.
    fn check(&self, rows: &BTreeMap<String, Record>) -> Vec<String> {
        let prefix = &self.prefix;
        let mut wrong = Vec::new();
        let of = |key: &str| rows.get(key).map(|(revision, value)| (*revision, number(value)));
        let promised = self.steps.len() as u64;
        let counter = of(&format!("{prefix}counter")).map_or(0, |(_, value)| value);
        if counter < promised || counter > promised + u64::from(self.unknown_step) {
            wrong.push(format!("{prefix}counter is {counter}, {promised} were acknowledged"));
        }
        for (index, revision) in self.steps.iter().enumerate() {
            let step = index as u64 + 1;
            if of(&log_key(prefix, step)) != Some((*revision, step)) {
                let found = of(&log_key(prefix, step));
                wrong.push(format!("{prefix} step {step} revision {revision}: found {found:?}"));
            }
        }
        let logged = rows.keys().filter(|key| key.starts_with(&format!("{prefix}log/"))).count();
        if logged as u64 != counter {
            wrong.push(format!("{prefix}: {logged} in the log, the counter is {counter}"));
        }
        let blind = of(&format!("{prefix}blind"));
        let acknowledged = self.blind.map(|(value, revision)| (revision, value));
        let undecided =
            blind.map(|(_, value)| value) == self.unknown_blind && self.unknown_blind.is_some();
        if blind != acknowledged && !undecided {
            wrong.push(format!("{prefix}blind is {blind:?}, not {acknowledged:?}"));
        }
        wrong
    }
}

fn number(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("a load writes text");
    text.parse().expect("a load writes numbers")
}

impl History {
    /// Asserts that no request failed or was left undecided.
    #[track_caller]
    pub(crate) fn no_errors(self) -> Self {
        assert!(self.errors.is_empty(), "{:#?}", self.errors);
        assert_eq!(self.unknown, 0);
        self
    }

    /// Counts a write that was acknowledged to somebody else since the load began.
    pub(crate) fn and_one_more_write(mut self) -> Self {
        self.acknowledged += 1;
        self
    }

    /// Reads everything back and asserts that nothing is lost, doubled or invented. No writes that
    /// are not counted may have happened since the load began.
    #[track_caller]
    pub(crate) fn verify(&self, addresses: &[SocketAddr]) {
        assert!(self.acknowledged > 0, "a load that was promised nothing proves nothing");
        let mut kv = Kv::connect(addresses, PATIENCE);
        let mut wrong = Vec::new();
        for generation in self.workers.iter().flat_map(|worker| &worker.generations) {
            let rows = kv.scan(&generation.prefix).expect("a cluster that is available");
            wrong.extend(generation.check(&rows));
        }
        let revision = kv.revision().expect("a cluster that is available");
        let moved = revision - self.revision_start;
        if moved < self.acknowledged || moved > self.acknowledged + self.unknown {
            wrong.push(format!(
                "{moved} writes were carried out, {} acknowledged, {} unknown",
                self.acknowledged, self.unknown
            ));
        }
        kv.close();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

#[test]
fn a_broken_promise_is_found() {
    let record = |revision: u64, value: u64| (revision, value.to_string().into_bytes());
    let rows = |rows: &[(&str, u64, u64)]| -> BTreeMap<String, Record> {
        rows.iter()
            .map(|(key, revision, value)| ((*key).into(), record(*revision, *value)))
            .collect()
    };
    let right = [("p/counter", 3, 2), ("p/log/00000001", 2, 1), ("p/log/00000002", 3, 2)];
    let generation = |steps: &[u64], unknown_step: bool| Generation {
        prefix: "p/".into(),
        steps: steps.to_vec(),
        unknown_step,
        ..Generation::default()
    };
    assert!(generation(&[2, 3], false).check(&rows(&right)).is_empty());
    assert!(generation(&[2], true).check(&rows(&right)).is_empty());
    assert!(generation(&[2, 3], true).check(&rows(&right)).is_empty());
    assert!(!generation(&[2], false).check(&rows(&right)).is_empty(), "invented");
    assert!(!generation(&[2, 3, 4], false).check(&rows(&right)).is_empty(), "lost");
    assert!(!generation(&[2, 4], false).check(&rows(&right)).is_empty(), "written again");
    assert!(!generation(&[2, 3], false).check(&rows(&right[..2])).is_empty(), "half lost");
    let mut blind = generation(&[], false);
    blind.blind = Some((6, 9));
    assert!(blind.check(&rows(&[("p/blind", 9, 6)])).is_empty());
    assert!(!blind.check(&rows(&[("p/blind", 10, 6)])).is_empty(), "twice");
    assert!(!blind.check(&rows(&[("p/blind", 8, 3)])).is_empty(), "lost");
    blind.unknown_blind = Some(7);
    assert!(blind.check(&rows(&[("p/blind", 10, 7)])).is_empty());
}
