//! F6: what bytes mean, in words: times, and the requests and records of the shipped state machine.
//!
//! **Invariants:** any bytes have words; these are short, and printable on any terminal.
//!
//! **Not here:** what a request did: only the state knows.

use vsr::state_machine::Direction;
use vsr::state_machine::kv::{Compare, Condition, Operation, Request, Scan};
use vsr::store::difference::{Held, RecordContrast};

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

/// A key of the store, its table in front.
pub(super) fn key(key: &[u8]) -> String {
    let Some((table, key)) = key.split_first() else { return "a key of no table".to_owned() };
    format!("table {table} ({}), key {}", table_name(*table), shown(key))
}

/// What the framework and the shipped state machine keep where.
pub(super) fn table_name(table: u8) -> &'static str {
    match table {
        0 => "kv: the revision",
        1 => "kv: keys",
        255 => "sessions and their replies",
        _ => "of another state machine",
    }
}

/// The two values of a record that is not the same in two places: of the one here, and the other.
pub(super) fn values(record: &RecordContrast) -> [String; 2] {
    let table = record.key.first().copied().unwrap_or(0);
    let [here, there] = &record.held;
    let texts = [here, there].map(|held| match held {
        None => "absent".to_owned(),
        Some(held) => value(table, held),
    });
    let [Some(Held::Inline(here)), Some(Held::Inline(there))] = [here, there] else { return texts };
    if texts[0] != texts[1] {
        return texts;
    }
    // What is shown of them is the same.
    let same = here.iter().zip(there).take_while(|(byte, other)| byte == other).count();
    texts.map(|text| format!("{text}, another from byte {same} of the record on"))
}

/// A value of the store. That of a key begins with the revision that wrote it.
fn value(table: u8, held: &Held) -> String {
    match (table, held) {
        (_, Held::Large { size, hash, .. }) => format!("{size} bytes, hash {hash:016x}"),
        (0 | 1, Held::Inline(bytes)) => match bytes.split_first_chunk() {
            Some((revision, [])) if table == 0 => format!("{}", u64::from_le_bytes(*revision)),
            Some((revision, rest)) if table == 1 => {
                format!("{} of revision {}", shown(rest), u64::from_le_bytes(*revision))
            }
            _ => shown(bytes),
        },
        (_, Held::Inline(bytes)) => shown(bytes),
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
    use vsr::wire::BlockRef;

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
    fn records_in_words() {
        assert_eq!(key(b"\x01a\xff"), r#"table 1 (kv: keys), key "a\xff""#);
        assert_eq!(key(b"\x07"), r#"table 7 (of another state machine), key """#);
        assert_eq!(key(b""), "a key of no table");
        let words = |table: u8, held: [Option<Held>; 2]| {
            values(&RecordContrast { key: vec![table], held, leaves: [None; 2] })
        };
        let inline = |bytes: &[u8]| Some(Held::Inline(bytes.to_vec()));
        let of_key = |revision: u64, value: &[u8]| [&revision.to_le_bytes(), value].concat();
        let found = words(1, [inline(&of_key(7, b"a")), None]);
        assert_eq!(found, [r#""a" of revision 7"#, "absent"]);
        let found = words(0, [inline(&9_u64.to_le_bytes()), inline(b"short")]);
        assert_eq!(found, ["9", r#""short""#]);
        assert_eq!(words(255, [inline(b"1234567890"), None])[0], r#""1234567890""#);
        let reference = BlockRef::NONE;
        let large = Held::Large { size: 5000, hash: 0xab, reference };
        let found = words(1, [Some(large), inline(b"short")]);
        assert_eq!(found, ["5000 bytes, hash 00000000000000ab", r#""short""#]);
        // They differ where nothing of them is shown any more, and where the first of it is.
        for (same, is_told) in [(39, false), (40, true), (99, true)] {
            let (one, mut other) = (vec![b'x'; 100], vec![b'x'; 100]);
            other[same] = b'y';
            let [here, there] = words(9, [inline(&one), inline(&other)]);
            assert_eq!(here == there, is_told);
            let end = format!("(100 bytes), another from byte {same} of the record on");
            assert_eq!(here.ends_with(&end), is_told, "{here}");
        }
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
