//! F6: the commands of the `vsr` binary. Each takes its validated arguments, writes its result to
//! stdout, and returns how it ended.
//!
//! ```text
//!   cli::Command ──► run ──► Ok(Exit)       0 done, 1 not found or compare failed,
//!                       │                   3 not available, 5 inspected and found damaged
//!                       └──► Err(Failure)   one line on stderr, and the exit status it stands for
//! ```
//!
//! **Invariants:** results go to stdout and everything else to stderr; a reader of stdout that goes
//! away is no failure; statuses 3 and 4 differ by whether anything may have been done.
//!
//! **Not here:** parsing (`cli`), the end of the process (`main`).

mod benchmark;
mod cluster;
mod demo;
mod format;
mod histogram;
mod inspect;
mod json;
mod kv;
mod recover;
mod start;
mod status;

use crate::cli::{self, Command};
use std::fmt;
use std::io::{self, Write};
use vsr::client::{Client, ClientConfig, ClientError};
use vsr::constants::PROTOCOL;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{MioIO, MioOptions};
use vsr::wire::RejectReason;

/// How a command ended that did what it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Done,
    /// A key that is not there, or a value that is not the expected one.
    Not,
    /// `status`: the cluster is not available. `benchmark`: nothing could be measured.
    Unavailable,
    /// `inspect`: what was looked at is damaged.
    Damaged,
}

/// Why a command could not do what it is for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// What was asked for is not possible.
    Usage(String),
    /// No answer, or a refusal.
    Client(ClientError),
    /// No answer, nothing was done, and it is known why.
    Estranged(&'static str),
    /// Not possible as things are; nothing was done.
    Refused(String),
    /// Something may have been done, and what to do now.
    Unknown(String),
    /// A replica cannot go on, or cannot begin.
    Fatal(Fatal),
    /// The result could not be written.
    Output(io::Error),
}

type Result<T = Exit> = std::result::Result<T, Failure>;

/// Carries a command out.
pub(crate) fn run(command: Command) -> Result {
    // What `--log-level` says counts for `start` alone; clients log what RUST_LOG says.
    let log_level = match &command {
        Command::Start(start) => {
            Some(start.log_level.unwrap_or(log::LevelFilter::Info)).filter(|_| {
                start.log_level.is_some()
                    || std::env::var_os(env_logger::DEFAULT_FILTER_ENV).is_none()
            })
        }
        _ => None,
    };
    log_to_stderr(log_level);
    match command {
        Command::Format(arguments) => format::run(&arguments),
        Command::Start(arguments) => start::run(arguments),
        Command::Recover(arguments) => recover::run(&arguments),
        Command::Put { key, value, client } => kv::put(&key, &value, &client),
        Command::Get { key, client } => kv::get(&key, &client),
        Command::Delete { key, client } => kv::delete(&key, &client),
        Command::Cas { key, old, new, client } => kv::cas(&key, &old, &new, &client),
        Command::Scan { prefix, limit, client } => kv::scan(&prefix, limit, &client),
        Command::Status { client } => status::run(&client),
        Command::Benchmark(arguments) => benchmark::run(arguments),
        Command::Inspect(arguments) => inspect::run(&arguments),
        Command::Demo { keep } => demo::run(keep),
        Command::Sim(_) => unreachable!("the simulator is no command over a real world"),
        Command::Version => version(),
    }
}

fn version() -> Result {
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    print(&format!(
        "vsr {}, protocol {PROTOCOL}, {build} build for {} on {}\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH,
        std::env::consts::OS,
    ))?;
    Ok(Exit::Done)
}

fn log_to_stderr(level: Option<log::LevelFilter>) {
    let mut builder = env_logger::Builder::new();
    match level {
        Some(level) => builder.filter_level(level),
        None => builder.filter_level(log::LevelFilter::Error).parse_default_env(),
    };
    builder.format_target(false).init();
}

/// Writes a result to stdout, at once.
fn print(text: &str) -> Result<()> {
    print_bytes(text.as_bytes())
}

/// Writes a result to stdout, byte by byte as it is.
fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(Failure::Output)
}

/// Writes a line to stderr. That nobody can read it is no reason to end otherwise: `eprintln` would
/// panic, and the exit status be lost.
pub(crate) fn tell(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}

/// The world of a process that is no replica. With `signals`, it is told when it is to end.
fn io_new(signals: bool) -> Result<MioIO> {
    let options = MioOptions { development: true, signals, ..MioOptions::default() };
    MioIO::new(options).map_err(operating_system)
}

fn operating_system(error: io::Error) -> Failure {
    Failure::Fatal(Fatal::new(
        FatalKind::OperatingSystem,
        format!("the operating system refused: {error}"),
    ))
}

/// A client as the flags describe it.
fn connect(arguments: &cli::Client) -> Result<Client<MioIO>> {
    let config = ClientConfig {
        cluster: arguments.cluster,
        addresses: arguments.addresses.clone(),
        timeout: arguments.timeout,
    };
    Ok(Client::connect(io_new(false)?, config))
}

const DISMISSED: &str = "the replicas close the connection without an answer, so they are of \
    another cluster or version: compare --cluster with that of `vsr format`, and `vsr version`";
const MISDIRECTED: &str = "a replica answered at the address of another: give --addresses in the \
    order of the replicas, as `vsr start` has them";

/// Why replicas that are there do not answer, if that is known.
fn estranged(client: &Client<MioIO>) -> Option<&'static str> {
    if client.is_dismissed() {
        return Some(DISMISSED);
    }
    client.is_misdirected().then_some(MISDIRECTED)
}

/// What to tell of an error of `client`.
fn failure(client: &Client<MioIO>, error: ClientError) -> Failure {
    match (error, estranged(client)) {
        (ClientError::Unavailable, Some(why)) => Failure::Estranged(why),
        _ => Failure::Client(error),
    }
}

impl Exit {
    /// The exit status of the process.
    pub(crate) fn status(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Not => 1,
            Self::Unavailable => 3,
            Self::Damaged => 5,
        }
    }
}

impl Failure {
    /// The exit status of the process.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Client(ClientError::Rejected(RejectReason::Invalid | RejectReason::TooLarge)) => {
                2
            }
            Self::Client(ClientError::Unavailable | ClientError::Rejected(_))
            | Self::Estranged(_)
            | Self::Refused(_) => 3,
            Self::Client(ClientError::OutcomeUnknown(_)) | Self::Unknown(_) => 4,
            Self::Fatal(fatal) => fatal.exit_status(),
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Output(_) => FatalKind::OperatingSystem as u8,
        }
    }

    /// Whether nobody needs to be told: the reader of stdout has all it wanted (`vsr scan | head`),
    /// and Rust, which ignores SIGPIPE, shows that as an error of the write.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => f.write_str(text),
            Self::Client(error) => error.fmt(f),
            Self::Estranged(why) => write!(f, "unavailable, nothing was done: {why}"),
            Self::Refused(why) => write!(f, "refused, nothing was done: {why}"),
            Self::Unknown(why) => write!(f, "outcome unknown: {why}"),
            Self::Fatal(fatal) => fatal.fmt(f),
            Self::Output(error) => write!(f, "stdout: {error}"),
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Client(error)
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vsr::client::Unknown;

    #[test]
    fn statuses_tell_not_done_from_unknown() {
        let rejected = |reason| Failure::Client(ClientError::Rejected(reason)).status();
        assert_eq!(rejected(RejectReason::Invalid), 2);
        assert_eq!(rejected(RejectReason::TooLarge), 2);
        assert_eq!(rejected(RejectReason::StoreFull), 3);
        assert_eq!(Failure::Client(ClientError::Unavailable).status(), 3);
        let unknown = ClientError::OutcomeUnknown(Unknown::Timeout);
        assert_eq!(Failure::Client(unknown).status(), 4);
        assert_eq!(Failure::Usage(String::new()).status(), 2);
        let fatal = Fatal::new(FatalKind::Listen, "x");
        assert_eq!(Failure::Fatal(fatal).status(), 20);
        let exits = [Exit::Done, Exit::Not, Exit::Unavailable, Exit::Damaged];
        assert_eq!(exits.map(Exit::status), [0, 1, 3, 5]);
    }

    #[test]
    fn broken_pipe_is_success() {
        let failure = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!((failure.status(), failure.is_silent()), (0, true));
        let failure = Failure::Output(io::ErrorKind::StorageFull.into());
        assert_eq!((failure.status(), failure.is_silent()), (24, false));
    }
}
