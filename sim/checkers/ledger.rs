//! The ledger: a plain map of balances is led by the log that was committed, and every reply, read
//! or write, is the one that this map gives at that place of the log.
//!
//! ```text
//!   committed entries, in order ──► sessions: is it executed? ──► balances, and the expected reply
//!   a reply on its way to a client ──────────────────────────────► the same?
//!   a client's answer ── its op ──► not before anything that was answered before it asked
//!   at the end, of each replica ──► every balance, and their total: what accounts were opened with
//! ```
//!
//! The log is one order; each reply is right in it; and the order agrees with time. So each
//! account, and the whole, is linearizable.
//!
//! **Invariants:** an op is played once, by the first replica that executes it; whatever is told of
//! it later is compared.
//!
//! **Not here:** whether all replicas execute the same log (`commits`).

use super::super::ledger::{ACCOUNT_EXISTS, NO_ACCOUNT, NOT_A_QUERY, OVERDRAWN, Request};
use super::{CheckerReport, FirstFailure};
use bytes::Bytes;
use std::collections::BTreeMap;
use vsr::wire::{ClientId, Command, Entries, Message, Op, Operation, Reply};

type Balances = BTreeMap<u32, u64>;
/// Code and body.
type Answer = (u32, String);

#[derive(Debug)]
struct Session {
    number: u64,
    request: u64,
    /// Of its last entry: op, and index in the batch.
    age: (Op, usize),
}

#[derive(Debug)]
pub(super) struct Ledger {
    clients_max: usize,
    sessions: BTreeMap<ClientId, Session>,
    /// After each op.
    balances: BTreeMap<Op, Balances>,
    /// What accounts were opened with.
    opened: u64,
    /// By client, session and number.
    expected: BTreeMap<(ClientId, u64, u64), (Op, Answer)>,
    /// Of queries in the log, by client, number and timestamp: a copy may be in the same batch.
    expected_queries: BTreeMap<(ClientId, u64, u64), Answer>,
    /// Bodies that were asked, by their checksums.
    bodies: BTreeMap<u32, Bytes>,
    /// By client: the newest op that anybody knew when it asked.
    open: BTreeMap<u64, Op>,
    /// The newest op that anybody was told.
    told: Op,
    compared: u64,
    failure: FirstFailure,
}

impl Ledger {
    pub(super) fn new(clients_max: u64) -> Self {
        Self {
            clients_max: usize::try_from(clients_max).expect("at most 65536"),
            sessions: BTreeMap::new(),
            balances: BTreeMap::from([(0, Balances::new())]),
            opened: 0,
            expected: BTreeMap::new(),
            expected_queries: BTreeMap::new(),
            bodies: BTreeMap::new(),
            open: BTreeMap::new(),
            told: 0,
            compared: 0,
            failure: FirstFailure::default(),
        }
    }

    /// A replica has executed this prepare.
    pub(super) fn on_commit(&mut self, prepare: &Message) {
        let header = prepare.prepare_header();
        let op = header.op();
        let (last, balances) = self.balances.last_key_value().expect("there is always one");
        if op <= *last {
            return;
        }
        assert_eq!(op, last + 1, "somebody executes each op first");
        let mut balances = balances.clone();
        for (index, item) in Entries::new(prepare.body()).enumerate() {
            let (entry, body) = item.expect("what is executed was checked");
            let (client, request) = (entry.client, entry.request);
            match entry.operation {
                Operation::Register => self.register(client, op, index),
                Operation::Query => {
                    let answer = carry_out(&mut balances, &mut 0, body, true);
                    let timestamp = header.command.timestamp + index as u64;
                    self.expected_queries.insert((client, request, timestamp), answer);
                }
                Operation::Apply | Operation::Deregister | Operation::Recover => {
                    let session = self.sessions.get_mut(&client);
                    let is_next = |session: &&mut Session| {
                        session.number == entry.session && session.request + 1 == request
                    };
                    let Some(session) = session.filter(is_next) else { continue };
                    (session.request, session.age) = (request, (op, index));
                    if entry.operation == Operation::Deregister {
                        self.sessions.remove(&client);
                    }
                    if entry.operation != Operation::Apply {
                        continue;
                    }
                    let answer = carry_out(&mut balances, &mut self.opened, body, false);
                    self.expected.insert((client, entry.session, request), (op, answer));
                }
                _ => {}
            }
        }
        self.balances.insert(op, balances);
    }

    fn register(&mut self, client: ClientId, op: Op, index: usize) {
        if self.sessions.contains_key(&client) {
            return;
        }
        if self.sessions.len() == self.clients_max {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.age);
            let oldest = *oldest.expect("there are some").0;
            self.sessions.remove(&oldest);
        }
        self.sessions.insert(client, Session { number: op, request: 0, age: (op, index) });
    }

    /// A replica sent a reply.
    pub(super) fn on_reply(&mut self, message: &Message) -> Result<(), String> {
        let Command::Reply(reply) = message.header().command else { return Ok(()) };
        let expected = match Operation::from_code(reply.operation) {
            Some(Operation::Apply) => {
                let key = (reply.client, reply.session, reply.request);
                let found = self.expected.get(&key);
                found.filter(|(op, _)| *op == reply.op).map(|(_, answer)| answer.clone())
            }
            Some(Operation::Query) => self.expected_query(&reply),
            _ => return Ok(()),
        };
        self.compared += 1;
        let text = String::from_utf8_lossy(message.body()).into_owned();
        let result = match expected {
            Some(answer) if answer == (reply.result, text.clone()) => Ok(()),
            other => Err(format!("{reply:?} has {text:?}, but the log has {other:?}")),
        };
        self.failure.note(result)
    }

    /// At its place in the log; or past the log, of the state after the op that it names.
    fn expected_query(&self, reply: &Reply) -> Option<Answer> {
        let key = (reply.client, reply.request, reply.timestamp);
        if let Some(answer) = self.expected_queries.get(&key) {
            return Some(answer.clone());
        }
        let mut balances = self.balances.get(&reply.op)?.clone();
        let body = self.bodies.get(&reply.request_checksum)?;
        Some(carry_out(&mut balances, &mut 0, body, true))
    }

    pub(super) fn on_invoke(&mut self, client: u64, body: &Bytes) {
        self.bodies.insert(crc32c::crc32c(body), body.clone());
        let before = self.open.insert(client, self.told);
        assert_eq!(before, None, "client {client} has one call at a time");
    }

    /// The call has ended; with an answer from this op.
    pub(super) fn on_return(&mut self, client: u64, op: Option<Op>) {
        let floor = self.open.remove(&client).expect("a call has ended");
        let Some(op) = op else { return };
        self.compared += 1;
        self.told = self.told.max(op);
        let result = if op >= floor {
            Ok(())
        } else {
            Err(format!("client {client} was answered from op {op}, and {floor} was known before"))
        };
        let _ = self.failure.note(result);
    }

    /// At the end a replica says that it has these balances, and this total.
    pub(super) fn on_final(&mut self, replica: usize, op: Op, seen: &Balances, total: u64) {
        self.compared += 1;
        let result = match self.balances.get(&op) {
            Some(balances) if balances == seen && total == self.opened => Ok(()),
            known => Err(format!(
                "replica {replica} at op {op}: {seen:?}, in total {total}, but the log has \
                 {known:?}, opened with {}",
                self.opened
            )),
        };
        let _ = self.failure.note(result);
    }

    /// All accounts that were ever opened.
    pub(super) fn accounts(&self) -> Vec<u32> {
        let (_, balances) = self.balances.last_key_value().expect("there is always one");
        balances.keys().copied().collect()
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "ledger",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0,
            failure: self.failure.get(),
        }
    }
}

/// The ledger, once more, in the plainest way.
fn carry_out(balances: &mut Balances, opened: &mut u64, body: &[u8], is_query: bool) -> Answer {
    let refused = |code: u32| (code, String::new());
    match Request::decode(body).expect("clients ask what there is") {
        Request::Open { .. } | Request::Transfer { .. } if is_query => refused(NOT_A_QUERY),
        Request::Open { account, .. } if balances.contains_key(&account) => refused(ACCOUNT_EXISTS),
        Request::Open { account, balance } => {
            balances.insert(account, balance.into());
            *opened += u64::from(balance);
            (0, String::new())
        }
        Request::Transfer { from, to, amount } => {
            let amount = u64::from(amount);
            let Some(source) = balances.get(&from) else { return refused(NO_ACCOUNT) };
            if *source < amount {
                return refused(OVERDRAWN);
            }
            if !balances.contains_key(&to) {
                return refused(NO_ACCOUNT);
            }
            *balances.get_mut(&from).expect("seen above") -= amount;
            *balances.get_mut(&to).expect("seen above") += amount;
            (0, String::new())
        }
        Request::Balance { account } => match balances.get(&account) {
            Some(balance) => (0, balance.to_string()),
            None => refused(NO_ACCOUNT),
        },
        Request::Total => (0, balances.values().sum::<u64>().to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr::wire::{Author, ClusterId, Entry, Prepare, ReplicaIndex, View};

    #[test]
    fn a_final_state_that_is_not_the_logs_is_found() {
        let mut ledger = Ledger::new(8);
        assert!(ledger.report().vacuous);
        ledger.on_final(0, 0, &Balances::new(), 0);
        assert!(ledger.report().failure.is_none());
        ledger.on_final(1, 0, &Balances::from([(7, 1)]), 1);
        assert!(ledger.report().failure.is_some());
    }

    #[test]
    fn an_answer_from_the_past_is_found() {
        let mut ledger = Ledger::new(8);
        let body = Bytes::from_static(b"total");
        ledger.on_invoke(1, &body);
        ledger.on_invoke(2, &body);
        ledger.on_return(1, Some(5));
        ledger.on_return(2, Some(4));
        assert!(ledger.report().failure.is_none(), "both asked before");
        ledger.on_invoke(2, &body);
        ledger.on_return(2, Some(4));
        assert!(ledger.report().failure.is_some());
    }

    #[test]
    fn each_request_of_a_session_counts() {
        let cluster = ClusterId(1);
        let author = Author { cluster, view: View(0), replica: ReplicaIndex(0), incarnation: 1 };
        let mut ledger = Ledger::new(2);
        let mut play = |op: Op, client, session, request, operation| {
            let client = ClientId(client);
            let entry = Entry { client, session, request, size: 0, checksum: 0, operation };
            let command = Prepare { op, commit: op - 1, entry_count: 1, ..Prepare::default() };
            ledger.on_commit(&Message::new(&author, command, &entry.encode()));
            ledger.sessions.keys().map(|client| client.0).collect::<Vec<u128>>()
        };
        play(1, 7, 0, 0, Operation::Register);
        play(2, 8, 0, 0, Operation::Register);
        assert_eq!(play(3, 7, 1, 1, Operation::Recover), [7, 8]);
        assert_eq!(play(4, 9, 0, 0, Operation::Register), [7, 9], "the longest unused ends");
        assert_eq!(play(5, 7, 1, 2, Operation::Deregister), [9]);
    }

    #[test]
    fn the_model_is_a_ledger() {
        let (mut balances, mut opened) = (Balances::new(), 0);
        let mut ask = |body: &str| carry_out(&mut balances, &mut opened, body.as_bytes(), false);
        assert_eq!(ask("open 7 10"), (0, String::new()));
        assert_eq!(ask("transfer 7 8 1"), (NO_ACCOUNT, String::new()));
        assert_eq!(ask("transfer 7 7 11"), (OVERDRAWN, String::new()));
        assert_eq!(ask("transfer 7 7 10"), (0, String::new()));
        assert_eq!(ask("balance 7"), (0, "10".to_owned()));
        assert_eq!(ask("total"), (0, "10".to_owned()));
    }
}
