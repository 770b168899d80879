//! Fuzz target `addresses`: an arbitrary command line, through clap and through validation.
//!
//! The input is text; each line is a word. Words without a command of their own are given to
//! `start` as its addresses, so that most inputs reach the parser of addresses.
//!
//! Asserted: a line is a command or one reason, and never a panic; a command keeps every bound that
//! its documentation states; addresses that were accepted, written out, are accepted again and are
//! the same; without a name to resolve they are what the standard library makes of them.
//!
//! Planted: the addresses are read backwards.
//!
//! **Not here:** names of hosts. To resolve one is to ask the network, so inputs with any are left
//! out.

#[path = "../../src/cli.rs"]
mod cli;

use super::Plant;
use clap::Parser;
use cli::{Command, Raw};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use vsr::constants::REPLICAS_MAX;

/// The body.
pub fn target(data: &[u8]) {
    check(data, Plant::Nothing);
}

/// The body, and how many commands were accepted.
pub fn check(data: &[u8], plant: Plant) -> u32 {
    let Ok(text) = std::str::from_utf8(data) else { return 0 };
    let words: Vec<&str> = text.lines().collect();
    if words.iter().any(|word| names_a_host(word)) {
        return 0;
    }
    let mut compared = u32::from(line(&words, plant));
    if let Some(addresses) = words.first() {
        let option = format!("--addresses={addresses}");
        compared += u32::from(line(&["start", "--replica=0", &option], plant));
    }
    compared
}

/// Whether the resolver would be asked for any part of a word.
fn names_a_host(word: &str) -> bool {
    word.split([',', '=']).map(str::trim).any(|part| {
        let Some((host, port)) = part.rsplit_once(':') else { return false };
        let is_plain = part.parse::<SocketAddr>().is_ok();
        !is_plain && !host.is_empty() && !host.contains(':') && port.parse::<u16>().is_ok()
    })
}

/// One command line. Whether it is one.
fn line(words: &[&str], plant: Plant) -> bool {
    let raw = match Raw::try_parse_from(std::iter::once("vsr").chain(words.iter().copied())) {
        Ok(raw) => raw,
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    match raw.valid() {
        Ok(command) => {
            accepted(&command, words, plant);
            true
        }
        Err(reason) => {
            assert!(!reason.is_empty());
            false
        }
    }
}

fn accepted(command: &Command, words: &[&str], plant: Plant) {
    match command {
        Command::Format(format) => {
            assert_eq!(format.geometry.invalid(), None);
            assert!((1..=REPLICAS_MAX).contains(&format.replica_count));
            assert!(format.replica.0 < format.replica_count);
        }
        Command::Start(start) => {
            assert!(start.replica.index() < start.addresses.len());
            check_addresses(&start.addresses, words, plant);
        }
        Command::Put { client, .. }
        | Command::Get { client, .. }
        | Command::Delete { client, .. }
        | Command::Cas { client, .. }
        | Command::Scan { client, .. }
        | Command::Status { client } => {
            assert!(!client.timeout.is_zero());
            assert!(client.timeout.as_secs() <= 24 * 3600);
            check_addresses(&client.addresses, words, plant);
        }
        Command::Benchmark(benchmark) => {
            assert!((1..=1000).contains(&benchmark.clients));
            assert!(benchmark.read_percent <= 100);
            assert!(benchmark.keys > 0 && !benchmark.duration.is_zero());
        }
        _ => {}
    }
}

fn check_addresses(addresses: &[SocketAddr], words: &[&str], plant: Plant) {
    assert!((1..=usize::from(REPLICAS_MAX)).contains(&addresses.len()));
    for (index, address) in addresses.iter().enumerate() {
        assert!(address.port() == 0 || !addresses[..index].contains(address), "{address} twice");
    }
    let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let words_again = ["vsr", "status", "--addresses", &list];
    let again = Raw::try_parse_from(words_again).expect("addresses as they are printed").valid();
    let Ok(Command::Status { client }) = again else { panic!("{list} is refused") };
    assert_eq!(client.addresses, addresses);
    // Where the list is one word of its own, its parts can be read without the parser.
    let written = words.iter().find_map(|word| word.strip_prefix("--addresses="));
    if let Some(written) = written.filter(|_| words.len() == 3 && words[0] == "start") {
        let mut expected: Vec<SocketAddr> = written.split(',').map(plain).collect();
        if plant == Plant::Error {
            expected.reverse();
        }
        assert_eq!(addresses, expected);
    }
}

/// An address without a name, as the standard library reads it.
fn plain(text: &str) -> SocketAddr {
    let text = text.trim();
    match text.parse::<u16>() {
        Ok(port) => SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port),
        Err(_) => text.parse().expect("what was accepted is an address"),
    }
}

/// A line of each command, and lists of addresses.
pub fn seeds() -> Vec<Vec<u8>> {
    [
        "3000,3001,3002",
        "127.0.0.1:3000,[::1]:3001, 3002 ,10.0.0.1:65535",
        "0,0,0",
        "3000,127.0.0.1:3000",
        "1,2,3,4,5,6,7",
        "[fe80::1%3]:1,::1:2,65536,:3,a:b",
        "format\n--replica=2\n--replica-count=3\n--cluster=0xff\n--message-size=64KiB",
        "format\n--replica\n0\n--replica-count\n1\n--journal-slots=64\n--pipeline=8",
        "start\n--replica=1\n--addresses=1,2,3\n--listen=[::]:9\n--cache-size=1GiB",
        "put\nkey\nvalue\n--addresses\n1,2,3\n--timeout=500ms\n--json",
        "get\nk\n--addresses=1\n--cluster=7",
        "delete\nk\n--addresses=1,2",
        "cas\nk\na\nb\n--addresses=1\n--timeout=24h",
        "scan\np\n--limit=3\n--addresses=1",
        "status\n--addresses=1,2,3",
        "benchmark\n--clients=1000\n--value-size=1KiB\n--read-ratio=50%\n--duration=2m",
        "sim\n42\n--log\n--set\nreplicas=3",
        "sim\n--seeds=9\n--from=3",
        "demo\n--keep",
        "version",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}
