//! F6: `put`, `get`, `delete`, `cas`, `scan`: one request of the key-value store each.
//!
//! A write opens a session, is applied at most once, and closes the session; a read is a query
//! outside of any session. Values go to stdout as they are, with a newline behind them; with
//! `--json`, one object on one line (`json.rs` says how bytes that are not text look).
//!
//! **Invariants:** what was not found and a comparison that failed are exit status 1, whatever else
//! is printed; a scan is several queries, each answered in one piece, all together in key order.
//!
//! **Not here:** the encoding (`vsr::state_machine::kv`).

use super::json::{self, Object};
use super::{Exit, Failure, Result, connect, failure, print, print_bytes, tell};
use crate::cli;
use vsr::client::{Answer, Client};
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::MioIO;
use vsr::state_machine::kv::{
    Current, OperationResult, Outcome, Record, Reply, Request, Row, SCAN_ROWS_MAX, Scan, prefix_end,
};
use vsr::state_machine::{RESULT_OK, RESULT_READ_TOO_LARGE, RESULT_REPLY_TOO_LARGE};

/// `vsr put`.
pub(super) fn put(key: &[u8], value: &[u8], arguments: &cli::Client) -> Result {
    let answer = write(&Request::put(key, value), arguments)?;
    let reply = decode(&answer)?;
    if arguments.json {
        print_object(of_answer(Object::default().bytes("key", key), reply.revision, &answer))?;
    }
    Ok(Exit::Done)
}

/// `vsr get`.
pub(super) fn get(key: &[u8], arguments: &cli::Client) -> Result {
    let request = encode(&Request::get(key))?;
    let mut client = connect(arguments)?;
    let answer = client.query(&request).map_err(|error| failure(&client, error))?;
    client.close();
    let reply = decode(&answer)?;
    let [Outcome::Done(results)] = &reply.outcomes[..] else { return Err(strange(&answer)) };
    let [OperationResult::Get(record)] = results[..] else { return Err(strange(&answer)) };
    print_record(key, record, &answer, arguments.json)?;
    Ok(if record.is_some() { Exit::Done } else { Exit::Not })
}

/// `vsr delete`.
pub(super) fn delete(key: &[u8], arguments: &cli::Client) -> Result {
    let answer = write(&Request::delete(key), arguments)?;
    let reply = decode(&answer)?;
    let [Outcome::Done(results)] = &reply.outcomes[..] else { return Err(strange(&answer)) };
    let [OperationResult::Delete { found }] = results[..] else { return Err(strange(&answer)) };
    if arguments.json {
        print_object(delete_json(key, found, reply.revision, &answer))?;
    } else if !found {
        tell("not found");
    }
    Ok(if found { Exit::Done } else { Exit::Not })
}

/// `vsr cas`.
pub(super) fn cas(key: &[u8], old: &[u8], new: &[u8], arguments: &cli::Client) -> Result {
    let answer = write(&Request::compare_and_set(key, old, new), arguments)?;
    let reply = decode(&answer)?;
    match &reply.outcomes[..] {
        [Outcome::Done(_)] => {
            if arguments.json {
                let object = Object::default().bytes("key", key).bytes("value", new);
                let object = object.raw("done", true);
                print_object(of_answer(object, reply.revision, &answer))?;
            }
            Ok(Exit::Done)
        }
        [Outcome::CompareFailed { current, .. }] => {
            print_compare_failed(key, current, &answer, arguments.json)?;
            Ok(Exit::Not)
        }
        _ => Err(strange(&answer)),
    }
}

/// `vsr scan`.
pub(super) fn scan(prefix: &[u8], limit: Option<u64>, arguments: &cli::Client) -> Result {
    let end = prefix_end(prefix);
    let mut client = connect(arguments)?;
    let mut left = limit.unwrap_or(u64::MAX);
    let mut last: Vec<u8> = Vec::new();
    let mut rows_json = Vec::new();
    let mut position = Object::default();
    while left > 0 {
        let mut scan = Scan::prefix(prefix, &end);
        scan.limit = u32::try_from(left).map_or(SCAN_ROWS_MAX, |left| left.min(SCAN_ROWS_MAX));
        if !last.is_empty() {
            scan = scan.after(&last);
        }
        let request = encode(&Request::scan(scan))?;
        let answer = client.query(&request).map_err(|error| failure(&client, error))?;
        let reply = decode(&answer)?;
        let [Outcome::Done(results)] = &reply.outcomes[..] else { return Err(strange(&answer)) };
        let [OperationResult::Scan { rows, more }] = &results[..] else {
            return Err(strange(&answer));
        };
        if arguments.json {
            rows_json.extend(rows.iter().map(row_json));
        } else {
            print_bytes(&rows.iter().flat_map(row_line).collect::<Vec<u8>>())?;
        }
        position = Object::default().raw("op", answer.op).raw("view", answer.view);
        left = left.saturating_sub(rows.len() as u64);
        match rows.last() {
            Some(row) if *more => last = row.key.to_vec(),
            _ => break,
        }
    }
    client.close();
    if arguments.json {
        print_object(position.raw("rows", json::array(rows_json)))?;
    }
    Ok(Exit::Done)
}

fn encode(request: &Request<'_>) -> Result<Vec<u8>> {
    match request.invalid() {
        Some(reason) => Err(Failure::Usage(format!(
            "the request is not possible: {reason}; a key is 1 byte to 1 KiB, a value up to half \
             of the message size, at most 512 KiB"
        ))),
        None => Ok(request.encode()),
    }
}

/// One request in a session of its own.
fn write(request: &Request<'_>, arguments: &cli::Client) -> Result<Answer> {
    let body = encode(request)?;
    let mut client: Client<MioIO> = connect(arguments)?;
    let result = client.request(&body).map_err(|error| failure(&client, error));
    client.close();
    result
}

/// The kv reply, if the state machine took the request.
fn decode(answer: &Answer) -> Result<Reply<'_>> {
    match answer.result {
        RESULT_OK => Reply::decode(&answer.body).map_err(|_| strange(answer)),
        RESULT_REPLY_TOO_LARGE => Err(Failure::Usage(
            "refused, not done: the reply would be too large; ask for less at once".into(),
        )),
        RESULT_READ_TOO_LARGE => Err(Failure::Usage(
            "refused, not done: it would read too much; ask for less at once".into(),
        )),
        result => Err(Failure::Usage(format!(
            "refused, not done: the state machine answered with result {result:#x}"
        ))),
    }
}

/// An answer that no kv of this version gives.
fn strange(answer: &Answer) -> Failure {
    Failure::Fatal(Fatal::new(
        FatalKind::OperatingSystem,
        format!(
            "the answer of op {} is not one of this version's key-value store; compare \
             `vsr version` here with that of the replicas",
            answer.op
        ),
    ))
}

fn of_answer(object: Object, revision: u64, answer: &Answer) -> Object {
    object.raw("revision", revision).raw("op", answer.op).raw("view", answer.view)
}

/// Where nothing was deleted nothing was written, so there is no revision.
fn delete_json(key: &[u8], found: bool, revision: u64, answer: &Answer) -> Object {
    let object = Object::default().bytes("key", key).raw("found", found);
    if found {
        of_answer(object, revision, answer)
    } else {
        object.raw("op", answer.op).raw("view", answer.view)
    }
}

fn print_object(object: Object) -> Result<()> {
    print(&(object.finish() + "\n"))
}

fn print_record(key: &[u8], record: Option<Record<'_>>, answer: &Answer, json: bool) -> Result<()> {
    let object = Object::default().bytes("key", key);
    match record {
        Some(record) if json => {
            print_object(of_answer(object.bytes("value", record.value), record.revision, answer))
        }
        Some(record) => print_bytes(&[record.value, b"\n"].concat()),
        None if json => {
            print_object(object.raw("value", "null").raw("op", answer.op).raw("view", answer.view))
        }
        None => {
            tell("not found");
            Ok(())
        }
    }
}

fn print_compare_failed(
    key: &[u8],
    current: &Current<'_>,
    answer: &Answer,
    json: bool,
) -> Result<()> {
    let object = Object::default().bytes("key", key);
    match (current, json) {
        (Current::Found(record), true) => {
            let object = object.bytes("value", record.value).raw("done", false);
            print_object(of_answer(object, record.revision, answer))
        }
        (Current::Found(record), false) => {
            tell("compare failed: the value is");
            print_bytes(&[record.value, b"\n"].concat())
        }
        (Current::Omitted { revision }, true) => {
            print_object(of_answer(object.raw("done", false), *revision, answer))
        }
        (Current::Omitted { .. }, false) => {
            tell("compare failed: the value is another, and too long for this answer");
            Ok(())
        }
        (Current::Absent, true) => {
            let object = object.raw("value", "null").raw("done", false);
            print_object(object.raw("op", answer.op).raw("view", answer.view))
        }
        (Current::Absent, false) => {
            tell("compare failed: not found");
            Ok(())
        }
    }
}

fn row_json(row: &Row<'_>) -> String {
    let object = Object::default().bytes("key", row.key).bytes("value", row.record.value);
    object.raw("revision", row.record.revision).finish()
}

/// Key, tab, value, newline.
fn row_line(row: &Row<'_>) -> Vec<u8> {
    [row.key, b"\t", row.record.value, b"\n"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use vsr::wire::View;

    fn answer(result: u32, body: Vec<u8>) -> Answer {
        Answer { op: 9, view: View(2), timestamp: 0, result, body: Bytes::from(body) }
    }

    #[test]
    fn requests_beyond_the_limits_are_usage() {
        let long = vec![b'k'; 1025];
        for request in [Request::get(b""), Request::get(&long), Request::put(&long, b"")] {
            assert_eq!(encode(&request).expect_err("refused").status(), 2);
        }
        assert!(encode(&Request::put(b"k", b"")).is_ok());
    }

    #[test]
    fn rows_are_key_tab_value() {
        let record = Record { revision: 5, value: b"v\xff" };
        let row = Row { key: b"k", record };
        assert_eq!(row_line(&row), b"k\tv\xff\n");
        assert_eq!(row_json(&row), r#"{"key": "k", "value_base64": "dv8=", "revision": 5}"#);
    }

    #[test]
    fn delete_of_nothing_has_no_revision() {
        let answer = answer(0, Vec::new());
        let json = |found| delete_json(b"k", found, 3, &answer).finish();
        assert_eq!(json(false), r#"{"key": "k", "found": false, "op": 9, "view": 2}"#);
        assert_eq!(json(true), r#"{"key": "k", "found": true, "revision": 3, "op": 9, "view": 2}"#);
    }

    #[test]
    fn answers_that_are_not_kv_are_named() {
        assert!(decode(&answer(RESULT_OK, vec![1, 2, 3])).is_err());
        assert_eq!(decode(&answer(7, Vec::new())).expect_err("refused").status(), 2);
        let object = of_answer(Object::default(), 3, &answer(0, Vec::new())).finish();
        assert_eq!(object, r#"{"revision": 3, "op": 9, "view": 2}"#);
    }
}
