//! What a run says on stdout: the lines of `--log`, and the report at the end.
//!
//! **Invariants:** a function of the seed alone; columns are fixed, so that tools can cut them.
//!
//! **Not here:** progress of many runs, which goes to stderr.

use super::cluster::is_status;
use super::fault::Fault;
use super::options::Options;
use super::run::Outcome;
use super::scheduler::MS;
use super::trace::Entry;
use crate::cli::Sim;
use std::fmt::Write as _;
use std::io::Write as _;

/// A line on stdout. Whoever reads it may be gone: the exit status says how the run went.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// One line of `--log`:
///
/// ```text
/// time_us      process what                 a                    b
///      1234567       2 frame_lost           0                    128
/// ```
pub(crate) fn log_entry(entry: &Entry) {
    say(&entry_line(entry));
}

/// The text of [`log_entry`].
pub(crate) fn entry_line(entry: &Entry) -> String {
    let Entry { time, process, what, a, b } = *entry;
    let time = time / 1000;
    if is_status(what) {
        let b = format!("{}/{}", b >> 32, b & u64::from(u32::MAX));
        return format!("{time:>12} {process:>3} {what:<20} {a:>20} {b:>20}");
    }
    format!("{time:>12} {process:>3} {what:<20} {a:>20} {b:>20}")
}

/// The first lines of a run: the seed, how to run it again, the knobs.
pub(crate) fn head(seed: u64, arguments: &Sim, options: &Options) -> String {
    let mut text = format!("seed {seed}: vsr sim {seed}{}", flags(arguments));
    text.push_str("\noptions");
    for (name, value) in options.values() {
        write!(text, " {name}={value}").expect("a string takes all");
    }
    text.push('\n');
    text
}

/// What was set on the command line beyond the seed, to set it again.
pub(crate) fn flags(arguments: &Sim) -> String {
    let mut text = String::new();
    for (name, value) in &arguments.settings {
        write!(text, " --set {name}={value}").expect("a string takes all");
    }
    if let Some(name) = &arguments.defect {
        write!(text, " --defect {name}").expect("a string takes all");
    }
    text
}

/// The last lines of a run: what happened, what was compared, how it ended.
pub(crate) fn tail(outcome: &Outcome) -> String {
    let mut lines = outcome.last.clone();
    for fault in Fault::ALL {
        let count = outcome.counts.count(*fault);
        if count > 0 {
            lines.push(format!("fault    {:<20} {count:>10}", fault.name()));
        }
    }
    for (name, count) in outcome.repairs.counts() {
        lines.push(format!("repair   {name:<20} {count:>10}"));
    }
    for report in &outcome.reports {
        let (name, compared, undecided) = (report.name, report.compared, report.undecided);
        let failed = if report.failure.is_some() { ", FAILED" } else { "" };
        lines.push(format!(
            "checker  {name:<20} {compared:>10} compared, {undecided} undecided{failed}"
        ));
    }
    if let Some(excuse) = outcome.excuse {
        lines.push(format!("excused  {excuse}"));
    }
    let Outcome { seed, hash, events, time, core, ops, answered, unknown, .. } = outcome;
    lines.push(format!(
        "ran      {} ms, {events} events, {ops} ops, {answered} answers, {unknown} unknown, \
         core {core:?}",
        time / MS
    ));
    lines.push(format!("hash     {hash:016x}"));
    lines.push(match &outcome.failure {
        None => "PASSED".to_owned(),
        Some(failure) => format!("FAILED seed {seed}: {failure}"),
    });
    lines.join("\n") + "\n"
}
