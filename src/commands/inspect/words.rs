//! F6: what bytes mean, in words: times, and the requests of the shipped state machine.
//!
//! **Invariants:** any bytes have words; these are short, and printable on any terminal.
//!
//! **Not here:** what a request did: only the state knows.

use vsr::state_machine::Direction;
use vsr::state_machine::kv::{Compare, Condition, Operation, Request, Scan};

/// Bytes of a key or a value that are shown.
const SHOWN_MAX: usize = 40;
/// Steps of a request that are shown.
const STEPS_MAX: usize = 8;
const NS_PER_SECOND: u64 = 1_000_000_000;
const SECONDS_PER_DAY: u64 = 86_400;

/// A request of the key-value store; or what else the bytes are.
pub(super) fn request(bytes: &[u8]) -> String {
    let request = match Request::decode(bytes) {
        Ok(request) => request,
        Err(reason) => return format!("{} bytes, no request of kv ({})", bytes.len(), reason.0),
    };
    let mut steps = Vec::new();
    for transaction in &request.transactions {
        steps.extend(transaction.compares.iter().map(compare));
        steps.extend(transaction.operations.iter().map(operation));
    }
    let left = steps.len().saturating_sub(STEPS_MAX);
    steps.truncate(STEPS_MAX);
    if left > 0 {
        steps.push(format!("and {left} more"));
    }
    steps.join("; ")
}

fn compare(compare: &Compare<'_>) -> String {
    let key = shown(compare.key);
    match compare.condition {
        Condition::Absent => format!("if {key} is absent"),
        Condition::Present => format!("if {key} is present"),
        Condition::Value(value) => format!("if {key} is {}", shown(value)),
        Condition::Revision(revision) => format!("if {key} has revision {revision}"),
    }
}

fn operation(operation: &Operation<'_>) -> String {
    match operation {
        Operation::Get { key } => format!("get {}", shown(key)),
        Operation::Put { key, value } => format!("put {} = {}", shown(key), shown(value)),
        Operation::Delete { key } => format!("delete {}", shown(key)),
        Operation::Scan(scan) => {
            let Scan { start, end, direction, limit, .. } = scan;
            let way = if *direction == Direction::Backward { " backward" } else { "" };
            format!("scan{way} from {} to {}, limit {limit}", shown(start), shown(end))
        }
    }
}

/// Bytes in quotes, the first of many.
fn shown(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN_MAX) {
        Some(first) if bytes.len() > SHOWN_MAX => {
            format!("\"{}\"... ({} bytes)", first.escape_ascii(), bytes.len())
        }
        _ => format!("\"{}\"", bytes.escape_ascii()),
    }
}

/// Nanoseconds since 1970 as a date and a time of day, UTC.
pub(super) fn time(ns: u64) -> String {
    let (seconds, fraction) = (ns / NS_PER_SECOND, ns % NS_PER_SECOND);
    let (days, second) = (seconds / SECONDS_PER_DAY, seconds % SECONDS_PER_DAY);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{fraction:09} UTC")
}

/// Days since 1970 as a date. Years are counted from March on, so that the leap day is their last:
/// then the length of a month follows from its place in five that have 153 days.
fn date(days: u64) -> (u64, u64, u64) {
    const DAYS_BEFORE_1970: u64 = 719_468;
    const DAYS_PER_ERA: u64 = 146_097;
    let days = days + DAYS_BEFORE_1970;
    let (era, day_of_era) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_in_words() {
        let words = |put: &Request<'_>| request(&put.encode());
        assert_eq!(words(&Request::put(b"key", b"va\"\xff")), r#"put "key" = "va\"\xff""#);
        let cas = words(&Request::compare_and_set(b"k", b"old", &[b'x'; 100]));
        let long = "x".repeat(40);
        assert_eq!(cas, format!("if \"k\" is \"old\"; put \"k\" = \"{long}\"... (100 bytes)"));
        assert_eq!(words(&Request::get(b"k")), "get \"k\"");
        assert_eq!(words(&Request::delete(b"k")), "delete \"k\"");
        let scan = words(&Request::scan(Scan { start: b"a", ..Scan::all() }));
        assert_eq!(scan, "scan from \"a\" to \"\", limit 0");
        let many = (0..20).map(|_| Operation::Get { key: b"k" }).collect();
        assert!(words(&Request::transaction(vec![], many)).ends_with("; and 12 more"));
        assert!(request(b"garbage").starts_with("7 bytes, no request of kv ("));
        assert!(request(b"").starts_with("0 bytes"));
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00.000000000 UTC");
        assert_eq!(time(951_782_400 * NS_PER_SECOND), "2000-02-29 00:00:00.000000000 UTC");
        assert_eq!(time(1_709_251_199_000_000_007), "2024-02-29 23:59:59.000000007 UTC");
        assert_eq!(time(1_735_689_600 * NS_PER_SECOND), "2025-01-01 00:00:00.000000000 UTC");
        assert_eq!(time(u64::MAX), "2554-07-21 23:34:33.709551615 UTC");
    }
}
