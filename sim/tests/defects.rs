//! Each defect on purpose is caught: `vsr sim SEED --defect NAME` fails within some seeds, while
//! the same seeds pass without it; and each checker is among those that catch one.
//!
//! ```text
//!   CASES ──► for each: seeds from 1 on, one after the other ──► the first that fails ──► caught
//!             as many cases at a time as there are cores          the same without it ──► passes
//! ```
//!
//! The knobs of a case narrow the seeds to what the defect needs to show: without them it takes
//! more of them.
//!
//! **Invariants:** a defect is caught if the run ends with status 127, 128 or 129; every name of
//! [`DEFECTS`] has a case; runs are functions of their arguments, so that a case is caught by the
//! same seed each time.
//!
//! **Not here:** what the defects do: they are at their points in `src`.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use vsr::stdx::defect::DEFECTS;

/// Seeds after which a defect counts as not caught.
const SEEDS_MAX: u64 = 1000;
/// The checkers of `sim/checkers`, by their names in the report.
const CHECKERS: &[&str] = &[
    "commits",
    "digests",
    "checkpoints",
    "blocks",
    "journal",
    "bounds",
    "monotonic",
    "promises",
    "replies",
    "order",
    "linearizability",
    "acknowledged",
    "at_most_once",
    "ledger",
];

/// Where the first seed that catches a defect may not show all that is to be shown: the checker
/// that must be among those that catch it.
const SHOWN_BY: &[(&str, &str)] = &[
    ("retry_executed_twice", "acknowledged"),
    ("reply_not_stored", "replies"),
    ("write_cut_short", "journal"),
];

/// A defect and the knobs that are set to show it.
struct Case {
    name: &'static str,
    knobs: &'static [&'static str],
}

/// Small files, so that a start is quick.
const SMALL: &[&str] = &["machine=0", "slots=256", "message_size=4096", "pipeline=8"];

macro_rules! cases {
    ($($name:literal: $($knob:literal)*;)*) => {
        /// In the order of [`DEFECTS`].
        const CASES: &[Case] = &[$(Case { name: $name, knobs: &[$($knob,)*] },)*];
    };
}

cases! {
    "prepare_ok_early":;
    "view_spoken_early": "crash=1000" "write_mean=30000";
    "start_view_lower": "crash=1000" "reorder=1" "duplicate=500000" "delay_mean=30000";
    "replication_quorum_small":
        "replicas=3" "crash=5000" "restart_mean=300000" "loss=100000";
    "view_change_quorum_small": "replicas=3" "crash=1000" "loss=20000";
    "nack_quorum_small": "replicas=3" "crash=5000" "restart_mean=300000" "delay_mean=30000";
    "head_nack_quorum_small":
        "replicas=3" "restart_mean=300000" "unreadable=100000" "write_corrupt=100000"
        "requests=1000" "file_lost=0" "disk_full=0" "crash=5000" "loss=100000" "think_mean=50000"
        "clients=4" "delay_mean=30000" "partition=30000";
    "nack_corrupt":
        "replicas=3" "pipeline=29" "crash=5000" "rolling=10000" "restart_mean=300000" "loss=20000"
        "delay_mean=100000" "write_mean=500" "write_corrupt=100000" "write_lost=100000"
        "write_misdirected=100000" "unreadable=100000" "clients=12" "think_mean=1000"
        "requests=1000" "session_calls=1000" "vanish=0" "slots=512" "partition=0" "pause=0"
        "clog=0";
    "torn_taken_for_valid":
        "message_size=16384" "value_size=3000" "whole_at_crash=0" "write_mean=200000"
        "think_mean=1000" "clients=12" "crash=5000" "rolling=10000" "read_percent=10"
        "delay_mean=1000" "session_calls=1000" "requests=1000";
    "uncertain_head_votes":
        "replicas=3" "write_corrupt=100000" "unreadable=100000" "rolling=10000" "crash=5000"
        "restart_mean=300000" "slots=64" "requests=1000" "think_mean=1000" "disk_full=0";
    "restart_forgets_uncommitted": "replicas=3" "crash=5000" "restart_mean=300000";
    "commit_is_op":
        "crash=1000" "partition=5000" "partition_isolate=1" "delay_mean=30000" "think_mean=1000";
    "commit_off_chain": "loss=100000";
    "batch_reversed": "replicas=3" "clients=12" "think_mean=1000";
    "deposed_primary_replies": "crash=1000" "partition=5000" "delay_mean=30000";
    "deposed_primary_reads":
        "partition=30000" "partition_symmetric=1" "partition_one_way=0" "partition_isolate=0"
        "partition_mean=5000000" "query_percent=100" "read_percent=50" "replicas=3" "clients=12"
        "session_calls=1000" "slots=512" "write_mean=500" "delay_min=0" "delay_mean=1000"
        "vanish=0" "loss=0" "crash=0" "pause=0" "clog=0" "requests=1000" "keys=3"
        "think_mean=50000" "call_timeout=10000000";
    "table_at_prepare": "replicas=3";
    "retry_executed_twice": "replicas=3" "loss=100000" "clients=12";
    "reply_not_stored": "replicas=3" "loss=100000";
    "own_wall_clock": "clock_jump=10000" "clock_jump_max=10000000";
    "timeout_is_not_done": "call_timeout=500000" "loss=100000" "crash=1000";
    "lost_file_let_in":
        "file_lost=300000" "crash=5000" "replicas=3" "restart_mean=300000" "think_mean=1000"
        "requests=1000" "loss=300000" "delay_mean=5000" "write_mean=500";
    "genesis_by_quorum":
        "file_lost=1000000" "crash=20000" "restart_mean=20000" "write_mean=200000" "replicas=3"
        "loss=0" "clients=1" "delay_mean=100000";
    "recovered_votes_at_once":
        "file_lost=1000000" "recover=1000000" "crash=1000" "replicas=3" "restart_mean=300000"
        "requests=1000" "think_mean=50000" "delay_mean=1000" "write_mean=500";
    "second_genesis":
        "file_lost=1000000" "recover=0" "crash=5000" "crash_opening=0" "replicas=3"
        "restart_mean=20000" "delay_min=0" "delay_mean=100" "write_mean=50" "loss=0" "refuse=0"
        "slow=0" "unanswered=0" "half_open=0" "accept_fail=0" "accept_late=0";
    "block_reused_early":
        "slots=64" "replicas=1" "requests=1000" "think_mean=1000" "read_percent=10" "keys=100"
        "value_size=1000" "crash=5000" "restart_mean=20000" "write_mean=5000" "disk_full=0"
        "clients=12" "session_calls=1000" "vanish=0" "cache=16";
    "superblock_early":
        "slots=64" "replicas=1" "requests=1000" "think_mean=1000" "read_percent=10" "keys=100"
        "value_size=1000" "crash=20000" "restart_mean=20000" "write_mean=30000" "disk_full=0"
        "clients=12" "session_calls=1000" "vanish=0" "cache=16" "whole_at_crash=0";
    "sync_unproven":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "crash=1000"
        "restart_mean=3000000" "write_mean=5000" "clients=12" "session_calls=1000" "vanish=0"
        "sessions=64" "disk_full=200000" "file_lost=0";
    "sync_without_sessions":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "crash=1000"
        "restart_mean=3000000" "write_mean=500" "clients=12" "session_calls=1000" "vanish=0"
        "sessions=64" "disk_full=0" "file_lost=0";
    "checkpoint_elsewhere":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "read_percent=10" "keys=100"
        "value_size=1000" "cache=16" "clients=12" "session_calls=1000" "disk_full=0";
    "suspend_leaves_writes":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "read_percent=10" "keys=100"
        "value_size=3000" "cache=16" "clients=12" "session_calls=1000" "vanish=0" "sessions=4096"
        "disk_full=0";
    "prepare_ok_before_header":;
    "prepare_ok_beyond":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "crash=1000"
        "restart_mean=3000000" "write_mean=5000" "clients=12" "session_calls=1000" "vanish=0"
        "sessions=64" "disk_full=800000" "file_lost=0";
    "nack_corrupt_named":
        "replicas=3" "pipeline=29" "crash=5000" "rolling=10000" "restart_mean=300000" "loss=20000"
        "delay_mean=100000" "write_mean=500" "write_corrupt=100000" "write_lost=100000"
        "write_misdirected=100000" "unreadable=100000" "clients=12" "think_mean=1000"
        "requests=1000" "session_calls=1000" "vanish=0" "slots=512" "partition=0" "pause=0"
        "clog=0";
    "lost_log_kept":
        "replicas=3" "pipeline=29" "crash=5000" "restart_mean=300000" "write_mean=200000"
        "delay_mean=30000" "clients=12" "think_mean=1000" "requests=1000" "session_calls=1000"
        "vanish=0" "partition=30000" "partition_isolate=1" "partition_mean=500000";
    "sync_complete_early":
        "slots=64" "replicas=3" "requests=1000" "think_mean=1000" "crash=5000"
        "restart_mean=300000" "write_mean=30000" "clients=12" "session_calls=1000" "vanish=0"
        "sessions=64" "disk_full=0" "file_lost=0";
    "timestamp_forgotten":
        "slots=64" "replicas=1" "requests=1000" "think_mean=50000" "crash=20000"
        "restart_mean=20000" "write_mean=50" "read_mean=50" "clock_jump=10000"
        "clock_jump_max=10000000" "disk_full=0";
    "gathers_without_end":
        "replicas=3" "clients=64" "sessions=2" "think_mean=0" "pipeline=1" "write_mean=200000"
        "turn_time=1000" "session_calls=1000";
    "write_cut_short":
        "replicas=1" "message_size=16384" "value_size=3000" "read_percent=10" "clients=12"
        "think_mean=1000" "crash=0" "rolling=0" "file_lost=0" "loss=0" "partition=0" "pause=0"
        "clog=0" "reset=0" "corrupt=0" "path_capacity=0" "write_mean=5000" "delay_mean=1000"
        "slots=1024";
    "header_coalesced":
        "replicas=1" "pipeline=29" "clients=12" "think_mean=1000" "write_mean=30000"
        "delay_mean=1000" "crash=0" "rolling=0" "file_lost=0";
    "refusal_leaves_writes": "machine=1";
}

/// How a run ended.
struct Ended {
    status: i32,
    /// The checkers that failed.
    checkers: Vec<String>,
    /// What failed.
    reason: String,
    /// All that it said.
    text: String,
}

fn run(seed: u64, case: &Case, with_defect: bool) -> Ended {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vsr"));
    command.arg("sim").arg(seed.to_string());
    for knob in SMALL.iter().chain(case.knobs) {
        command.arg("--set").arg(knob);
    }
    if with_defect {
        command.arg("--defect").arg(case.name);
    }
    let output =
        command.stdin(Stdio::null()).stderr(Stdio::null()).output().expect("the simulator runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let failed =
        text.lines().filter(|line| line.starts_with("checker ") && line.ends_with("FAILED"));
    let checkers = failed.filter_map(|line| line.split_whitespace().nth(1)).map(str::to_owned);
    let panicked = text.lines().find(|line| line.contains("panicked at"));
    let reason = panicked.or(text.lines().last()).unwrap_or("no output").to_owned();
    let status = output.status.code().unwrap_or(-1);
    let (checkers, text) = (checkers.collect(), text.clone().into_owned());
    Ended { status, checkers, reason, text }
}

/// Runs seeds until one catches the defect, by the checker of [`SHOWN_BY`] where there is one;
/// returns the checkers that did.
fn check(case: &Case) -> Result<Vec<String>, String> {
    let name = case.name;
    for seed in 1..=SEEDS_MAX {
        let Ended { status, checkers, reason, .. } = run(seed, case, true);
        match status {
            0 | 126 => continue,
            127..=129 => {}
            _ => return Err(format!("{name}: seed {seed}: status {status}: {reason}")),
        }
        let wanted = SHOWN_BY.iter().find(|(defect, _)| *defect == name);
        if wanted.is_some_and(|(_, checker)| !checkers.iter().any(|caught| caught == checker)) {
            continue;
        }
        let whole = run(seed, case, false);
        if whole.status != 0 {
            let Ended { status, reason, .. } = whole;
            return Err(format!("{name}: seed {seed} fails without it: {status}: {reason}"));
        }
        let by = if checkers.is_empty() { "the replica".to_owned() } else { checkers.join(", ") };
        println!("{name}: caught by {by} ({status}) at seed {seed}: {reason}");
        return Ok(checkers);
    }
    Err(format!("{name}: not caught by {SEEDS_MAX} seeds"))
}

#[test]
fn every_defect_has_a_case() {
    let cases: Vec<&str> = CASES.iter().map(|case| case.name).collect();
    let names: Vec<&str> = DEFECTS.iter().map(|defect| defect.name).collect();
    assert_eq!(cases, names);
}

#[test]
fn every_defect_is_caught_and_every_checker_catches_one() {
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(case) = CASES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = check(case);
                    results.lock().expect("nobody panics with it").push(result);
                }
            });
        }
    });
    let (mut caught_by, mut errors) = (BTreeSet::new(), Vec::new());
    for result in results.into_inner().expect("nobody panics with it") {
        match result {
            Ok(checkers) => caught_by.extend(checkers),
            Err(error) => errors.push(error),
        }
    }
    errors.extend(
        CHECKERS
            .iter()
            .filter(|checker| !caught_by.contains(**checker))
            .map(|checker| format!("checker {checker} catches nothing")),
    );
    assert_eq!(errors, Vec::<String>::new());
}

/// What a panic inside a replica tells: the seed, where the run was, its last events.
#[test]
fn a_panic_is_reported_with_where_it_was() {
    let case = CASES.iter().find(|case| case.name == "start_view_lower").expect("there is one");
    let text = (1..=SEEDS_MAX).find_map(|seed| {
        let Ended { status, text, reason, .. } = run(seed, case, true);
        (status == 127 && reason.contains("panicked at")).then_some((seed, text))
    });
    let (seed, text) = text.expect("an assertion of a replica sees it");
    let line = text.lines().last().expect("it says something");
    assert!(line.starts_with(&format!("FAILED seed {seed}: crash in process ")), "{line}");
    assert!(line.contains(" ms, tick "), "{line}");
    let is_event = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next().is_some_and(|word| word.parse::<u64>().is_ok())
            && words.next().is_some_and(|word| word.parse::<u64>().is_ok())
    };
    let events = text.lines().filter(is_event).count();
    assert!(events >= 10, "{events} of the last events:\n{text}");
}

#[test]
fn unknown_defects_are_usage_errors() {
    let case = Case { name: "no_such", knobs: &[] };
    assert_eq!(run(1, &case, true).status, 2);
}
