//! A bank ledger: a state machine of one's own, served as `vsr start` serves kv, and its client.
//!
//! ```text
//!   for i in 0 1 2; do vsr format --replica=$i --replica-count=3; done
//!   cargo run --example ledger -- serve 0 3000,3001,3002           (and 1, and 2)
//!   cargo run --example ledger -- ask 3000,3001,3002 open 7 100
//!   cargo run --example ledger -- ask 3000,3001,3002 transfer 7 8 30
//! ```
//!
//! **Invariants:** no account is overdrawn, and a transfer makes no money: the total is what the
//! accounts were opened with. That a request is done once is the framework's promise.
//!
//! **Not here:** networks, disks, the log, snapshots: the framework has all of that.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Bound, ControlFlow};
use vsr::client::{Client, ClientConfig};
use vsr::io::{MioIO, MioOptions};
use vsr::server::{ServerConfig, serve};
use vsr::state_machine::{
    Context, Direction, InvalidRequest, Keys, Reply, StateMachine, Stop, Store, Table,
};
use vsr::wire::ReplicaIndex;

/// Balances by account, both big-endian.
const ACCOUNTS: Table = Table(0);

/// The codes of refusals.
pub(crate) const NO_ACCOUNT: u32 = 1;
pub(crate) const ACCOUNT_EXISTS: u32 = 2;
pub(crate) const OVERDRAWN: u32 = 3;
pub(crate) const NOT_A_QUERY: u32 = 4;

/// On the wire: `open 7 100`, `transfer 7 8 30`, `balance 7`, `total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Open { account: u32, balance: u32 },
    Transfer { from: u32, to: u32, amount: u32 },
    Balance { account: u32 },
    Total,
}

impl Request {
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(bytes).ok()?.split(' ');
        let kind = words.next()?;
        let numbers = words.map(str::parse).collect::<Result<Vec<u32>, _>>().ok()?;
        match (kind, &numbers[..]) {
            ("open", &[account, balance]) => Some(Self::Open { account, balance }),
            ("transfer", &[from, to, amount]) => Some(Self::Transfer { from, to, amount }),
            ("balance", &[account]) => Some(Self::Balance { account }),
            ("total", []) => Some(Self::Total),
            _ => None,
        }
    }
}

/// It has no state of its own: that is in the store.
#[derive(Debug, Default)]
pub(crate) struct Ledger;

fn balance(store: &Store, account: u32) -> Result<u64, Stop> {
    let bytes = store.get(ACCOUNTS, &account.to_be_bytes())?.ok_or(Stop::Reject(NO_ACCOUNT))?;
    Ok(u64::from_be_bytes(bytes[..].try_into().expect("as it was put")))
}

fn set_balance(store: &mut Store, account: u32, balance: u64) -> Result<(), Stop> {
    store.put(ACCOUNTS, &account.to_be_bytes(), &balance.to_be_bytes())
}

impl StateMachine for Ledger {
    fn validate(&self, request: &[u8]) -> Result<(), InvalidRequest> {
        Request::decode(request).map(|_| ()).ok_or(InvalidRequest("no request of a ledger"))
    }

    fn keys(&self, request: &[u8], keys: &mut Keys) {
        if let Some(Request::Transfer { from, to, .. }) = Request::decode(request) {
            keys.keys.extend([from, to].map(|account| (ACCOUNTS, account.to_be_bytes().to_vec())));
        }
    }

    fn apply(
        &self,
        store: &mut Store,
        _: &Context,
        request: &[u8],
        reply: &mut Reply,
    ) -> Result<(), Stop> {
        match Request::decode(request).expect("validated") {
            Request::Open { account, balance: opening } => match balance(store, account) {
                Ok(_) => Err(Stop::Reject(ACCOUNT_EXISTS)),
                Err(Stop::Reject(_)) => set_balance(store, account, opening.into()),
                Err(Stop::Suspend) => Err(Stop::Suspend),
            },
            Request::Transfer { from, to, amount } => {
                let rest = balance(store, from)?.checked_sub(amount.into());
                set_balance(store, from, rest.ok_or(Stop::Reject(OVERDRAWN))?)?;
                // Read after the write, which a refusal takes back: `to` may be `from`.
                let target = balance(store, to)?;
                set_balance(store, to, target + u64::from(amount))
            }
            Request::Balance { .. } | Request::Total => self.query(store, request, reply),
        }
    }

    fn query(&self, store: &Store, request: &[u8], reply: &mut Reply) -> Result<(), Stop> {
        let mut sum = 0;
        match Request::decode(request).expect("validated") {
            Request::Balance { account } => sum = balance(store, account)?,
            Request::Total => {
                let (all, forward) = (Bound::Unbounded, Direction::Forward);
                store.scan(ACCOUNTS, all, all, forward, |_, balance| {
                    sum += u64::from_be_bytes(balance[..].try_into().expect("as it was put"));
                    ControlFlow::Continue(())
                })?;
            }
            _ => return Err(Stop::Reject(NOT_A_QUERY)),
        }
        reply.bytes.extend_from_slice(sum.to_string().as_bytes());
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let addresses = |ports: &str| -> Result<Vec<SocketAddr>, std::num::ParseIntError> {
        ports.split(',').map(|port| Ok((Ipv4Addr::LOCALHOST, port.parse()?).into())).collect()
    };
    match words[..] {
        ["serve", replica, ports] => {
            let config = ServerConfig::new(ReplicaIndex(replica.parse()?), addresses(ports)?);
            serve(config, MioOptions::default(), Ledger, |_| {}).map_err(|fatal| fatal.text)?;
        }
        ["ask", ports, ..] => {
            let config = ClientConfig { addresses: addresses(ports)?, ..ClientConfig::default() };
            let mut client = Client::connect(MioIO::new(MioOptions::default())?, config);
            let answer = client.request(words[2..].join(" ").as_bytes())?;
            println!("code {} {}", answer.result, String::from_utf8_lossy(&answer.body));
            client.close();
        }
        _ => return Err("usage: ledger serve REPLICA PORTS | ledger ask PORTS REQUEST".into()),
    }
    Ok(())
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
