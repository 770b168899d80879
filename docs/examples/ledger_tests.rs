//! The ledger by itself: an executor over a store in memory, without a cluster.
//!
//! **Not here:** the ledger in a cluster that everything happens to: `vsr sim --set machine=1`.

use super::*;

const CONTEXT: Context = Context { op: 1, timestamp: 1 };

/// What a request is answered with, or the code that it is refused with.
fn ask(store: &mut Store, request: &str) -> Result<String, u32> {
    assert_eq!(Ledger.validate(request.as_bytes()), Ok(()), "{request}");
    // What is refused is taken back by whoever asks, as the framework does.
    let mut attempt = Vec::new();
    all(store, &mut attempt);
    let mut reply = Reply::new(100);
    match Ledger.apply(store, &CONTEXT, request.as_bytes(), &mut reply) {
        Ok(()) => Ok(String::from_utf8(reply.bytes).expect("a number")),
        Err(Stop::Reject(code)) => {
            for (account, before) in attempt {
                set_balance(store, account, before).expect("in memory");
            }
            Err(code)
        }
        Err(Stop::Suspend) => panic!("a store in memory never suspends"),
    }
}

fn all(store: &Store, into: &mut Vec<(u32, u64)>) {
    let (all, forward) = (Bound::Unbounded, Direction::Forward);
    store
        .scan(ACCOUNTS, all, all, forward, |account, balance| {
            let account = u32::from_be_bytes(account.try_into().expect("as it was put"));
            into.push((account, u64::from_be_bytes(balance[..].try_into().expect("the same"))));
            ControlFlow::Continue(())
        })
        .expect("in memory");
}

#[test]
fn transfers_balance_and_overdraw_nothing() {
    let mut store = Store::in_memory();
    let done = Ok(String::new());
    assert_eq!(ask(&mut store, "open 7 100"), done);
    assert_eq!(ask(&mut store, "open 8 0"), done);
    assert_eq!(ask(&mut store, "open 7 5"), Err(ACCOUNT_EXISTS));
    assert_eq!(ask(&mut store, "transfer 7 8 30"), done);
    assert_eq!(ask(&mut store, "transfer 7 8 71"), Err(OVERDRAWN));
    assert_eq!(ask(&mut store, "transfer 7 9 1"), Err(NO_ACCOUNT));
    assert_eq!(ask(&mut store, "transfer 9 7 1"), Err(NO_ACCOUNT));
    assert_eq!(ask(&mut store, "transfer 8 8 30"), done);
    assert_eq!(ask(&mut store, "balance 7"), Ok("70".to_owned()));
    assert_eq!(ask(&mut store, "balance 8"), Ok("30".to_owned()));
    assert_eq!(ask(&mut store, "balance 9"), Err(NO_ACCOUNT));
    assert_eq!(ask(&mut store, "total"), Ok("100".to_owned()));
}

#[test]
fn a_query_that_writes_is_refused() {
    let mut reply = Reply::new(100);
    let refused = Ledger.query(&Store::in_memory(), b"open 7 100", &mut reply);
    assert_eq!(refused, Err(Stop::Reject(NOT_A_QUERY)));
}

#[test]
fn anything_else_is_no_request() {
    let wrong: [&[u8]; 9] = [
        b"",
        b"open 7",
        b"open 7 100 1",
        b"open 7 -1",
        b"open 7  1",
        b"transfer 1 2 4294967296",
        b"total ",
        b"totals",
        b"balance \xff",
    ];
    for request in wrong {
        assert!(Ledger.validate(request).is_err(), "{request:?}");
    }
}
