//! `vsr sim`: one seed in this process, or many in child processes.
//!
//! **Invariants:** stdout is a function of the arguments; progress goes to stderr; a panic ends the
//! process with status 127 after a report of where the run was.
//!
//! **Not here:** the run (`run`), the text of its report (`report`).

use super::report;
use super::run::{self, context, options_of};
use super::scheduler::MS;
use super::speed::Speed;
use crate::cli::Sim;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use vsr::constants::TICK_NS;
use vsr::io::{IO, MioIO, MioOptions};
use vsr::stdx::defect;

/// The exit status of a usage error.
const STATUS_USAGE: u8 = 2;
/// The exit status of a batch whose children could not be run.
const STATUS_SYSTEM: u8 = 24;
/// The exit status of a crash.
const STATUS_CRASH: i32 = 127;

/// `vsr sim`.
pub(crate) fn main(arguments: &Sim) -> ExitCode {
    let result = match (switch_on(arguments), arguments.seeds) {
        (Err(reason), _) => Err((STATUS_USAGE, reason)),
        (Ok(()), Some(count)) => many(arguments, count),
        (Ok(()), None) => one(arguments),
    };
    match result {
        Ok(status) => ExitCode::from(status),
        Err((status, reason)) => {
            eprintln!("error: {reason}");
            ExitCode::from(status)
        }
    }
}

/// Switches the defect on that the run is to show, in this thread, which is the one of the run.
fn switch_on(arguments: &Sim) -> Result<(), String> {
    arguments.defect.as_deref().map_or(Ok(()), defect::switch_on)
}

fn one(arguments: &Sim) -> Result<u8, (u8, String)> {
    let seed = match arguments.seed {
        Some(seed) => seed,
        None => draw_seed().map_err(|error| (STATUS_SYSTEM, error.to_string()))?,
    };
    let options = options_of(seed, &arguments.settings).map_err(|reason| (STATUS_USAGE, reason))?;
    env_logger::Builder::from_default_env().format_timestamp(None).format_target(false).init();
    report_panics(seed);
    report::say(report::head(seed, arguments, &options).trim_end());
    let outcome = run::run(seed, options, arguments.log);
    report::say(report::tail(&outcome).trim_end());
    Ok(outcome.failure.map_or(0, |failure| failure.status()))
}

/// Lets a panic end the process with a report, and status 127.
fn report_panics(seed: u64) {
    std::panic::set_hook(Box::new(move |panic| {
        let (now, process, lines) = context();
        for line in lines {
            report::say(&line);
        }
        report::say(&panic.to_string());
        let (ms, tick) = (now / MS, now / TICK_NS);
        report::say(&format!(
            "FAILED seed {seed}: crash in process {process} at {ms} ms, tick {tick} of virtual time"
        ));
        let _ = std::io::stdout().flush();
        std::process::exit(STATUS_CRASH);
    }));
}

fn draw_seed() -> std::io::Result<u64> {
    Ok(MioIO::new(MioOptions { development: true, ..MioOptions::default() })?.entropy())
}

/// How a child ended.
struct Ended {
    seed: u64,
    status: i32,
    /// All that it said.
    text: String,
    /// Real, ns.
    took: u64,
}

/// What many runs came to.
#[derive(Default)]
struct Tally {
    done: u64,
    speed: Speed,
    failed: Vec<(u64, i32, String)>,
    excused: Vec<(u64, String)>,
}

/// Runs `count` seeds, as many at a time as there are cores.
fn many(arguments: &Sim, count: u64) -> Result<u8, (u8, String)> {
    let fail = |error: std::io::Error| (STATUS_SYSTEM, format!("child processes: {error}"));
    let from = arguments.from;
    let Some(end) = from.checked_add(count) else {
        return Err((STATUS_USAGE, format!("--from {from} --seeds {count}: more than there are")));
    };
    // What no seed takes is said once.
    options_of(from, &arguments.settings).map_err(|reason| (STATUS_USAGE, reason))?;
    let program = std::env::current_exe().map_err(fail)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let flags = report::flags(arguments);
    report::say(&format!(
        "seeds {from} to {}: vsr sim --seeds {count} --from {from}{flags}",
        end - 1
    ));
    let next = AtomicU64::new(from);
    let (sender, receiver) = mpsc::channel();
    let result: std::io::Result<Tally> = std::thread::scope(|scope| {
        for _ in 0..cores {
            let (sender, next, program) = (sender.clone(), &next, &program);
            scope.spawn(move || run_children(program, arguments, next, end, &sender));
        }
        drop(sender);
        let mut tally = Tally::default();
        for ended in receiver {
            tally.note(ended?, count);
        }
        Ok(tally)
    });
    let tally = result.map_err(fail)?;
    eprintln!("\n{}", tally.speed.line());
    assert_eq!(tally.done, count, "each seed was run");
    report::say(&format!("hash     {:016x}", tally.speed.hash()));
    Ok(judge_many(count, tally.failed, tally.excused, &flags))
}

/// Runs seeds, one after the other, until there is none below `end`, or nobody wants to hear of it.
fn run_children(
    program: &Path,
    arguments: &Sim,
    next: &AtomicU64,
    end: u64,
    sender: &mpsc::Sender<std::io::Result<Ended>>,
) {
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end || sender.send(run_child(program, seed, arguments)).is_err() {
            return;
        }
    }
}

/// Runs a seed in a process of its own. What it says is read as it comes, however much it is.
fn run_child(program: &Path, seed: u64, arguments: &Sim) -> std::io::Result<Ended> {
    let mut clock = MioIO::new(MioOptions { development: true, ..MioOptions::default() })?;
    let start = clock.monotonic();
    let output = command(program, seed, arguments).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = output.status.code().unwrap_or(STATUS_CRASH);
    Ok(Ended { seed, status, text, took: clock.monotonic() - start })
}

impl Tally {
    /// Takes in how one of `count` runs ended.
    fn note(&mut self, ended: Ended, count: u64) {
        let Ended { seed, status, text, took } = ended;
        self.speed.note(seed, &text, took);
        if let Some(line) = text.lines().find(|line| line.starts_with("excused ")) {
            self.excused.push((seed, line.to_owned()));
        }
        if status != 0 {
            let last = text.lines().last().unwrap_or("no output");
            // A run that was ended has not said which it was.
            let mut words = last.split(|it: char| !it.is_ascii_alphanumeric());
            let is_named = words.any(|word| word == seed.to_string());
            let last = if is_named { last.to_owned() } else { format!("seed {seed}: {last}") };
            eprintln!("\r{status} {last}");
            self.failed.push((seed, status, last));
        }
        self.done += 1;
        let Self { done, failed, excused, .. } = self;
        if std::io::stderr().is_terminal() {
            eprint!("\r{done} of {count}, {} failed, {} excused ", failed.len(), excused.len());
        }
    }
}

/// What many runs came to, on stdout, and as an exit status.
fn judge_many(
    count: u64,
    mut failed: Vec<(u64, i32, String)>,
    mut excused: Vec<(u64, String)>,
    flags: &str,
) -> u8 {
    failed.sort();
    for (_, status, last) in &failed {
        report::say(&format!("{status} {last}"));
    }
    excused.sort();
    for (seed, line) in &excused {
        report::say(&format!("seed {seed}: {line}"));
    }
    report::say(&format!("excused {}", excused.len()));
    if failed.is_empty() {
        report::say(&format!("PASSED {count} seeds{flags}"));
        return 0;
    }
    report::say(&format!("FAILED {} of {count} seeds{flags}", failed.len()));
    let status = failed.iter().map(|(_, status, _)| *status).max().unwrap_or(STATUS_CRASH);
    u8::try_from(status).unwrap_or(u8::MAX)
}

fn command(program: &Path, seed: u64, arguments: &Sim) -> Command {
    let mut command = Command::new(program);
    command.arg("sim").arg(seed.to_string());
    for (name, value) in &arguments.settings {
        command.arg("--set").arg(format!("{name}={value}"));
    }
    if let Some(name) = &arguments.defect {
        command.arg("--defect").arg(name);
    }
    command.stdin(Stdio::null()).stderr(Stdio::null());
    command
}
