//! F6: `vsr format`: creates the data file of a replica, every byte of it.
//!
//! ```text
//!   create, exclusively ──► write all, durably ──► done: one line
//!          │                      │ failed
//!          └── there already:     └──► remove what was created, fatal
//!              fatal, untouched
//! ```
//!
//! **Invariants:** a file that was there before is never written to and never removed; after a
//! failure nothing is left behind.
//!
//! **Not here:** what is written (`vsr::storage`).

use super::{Exit, Result, io_new, operating_system, print};
use crate::cli;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{Event, FileId, FileToken, IO, MioIO, MioOptions, OpenError, OpenMode};
use vsr::storage::Format;
use vsr::storage::SuperblockState;
use vsr::storage::{Request, Token};

/// `vsr format`.
pub(super) fn run(arguments: &cli::Format) -> Result {
    let options =
        MioOptions { development: arguments.development, signals: true, ..MioOptions::default() };
    let mut io = MioIO::new(options).map_err(operating_system)?;
    let made = create(&mut io, arguments)?;
    print(&format!(
        "formatted {}: replica {} of {}, cluster {}, {} MiB, incarnation {:016x}\n",
        arguments.path.display(),
        arguments.replica,
        arguments.replica_count,
        arguments.cluster,
        made.size >> 20,
        made.incarnation,
    ))?;
    Ok(Exit::Done)
}

/// The same for the clusters that other commands make, without a word.
pub(super) fn run_quietly(arguments: &cli::Format) -> Result<()> {
    // A world of its own, whose end gives the lock back that the replica will want.
    let mut io = io_new(false)?;
    create(&mut io, arguments)?;
    Ok(())
}

/// What was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made {
    /// Bytes.
    size: u64,
    incarnation: u64,
}

fn create<I: IO>(io: &mut I, arguments: &cli::Format) -> std::result::Result<Made, Fatal> {
    let path = &arguments.path;
    let file = io.open_file(path, OpenMode::Create).map_err(|error| open_fatal(path, &error))?;
    // 0 is the incarnation of nobody.
    let incarnation = io.entropy().max(1);
    let state = SuperblockState::formatted(
        arguments.cluster,
        arguments.replica,
        arguments.replica_count,
        incarnation,
        arguments.geometry,
    );
    let mut format = Format::new(&state);
    match pump(io, file, &mut format) {
        Ok(()) => Ok(Made { size: format.progress().1, incarnation }),
        Err(error) => {
            let removed = remove(path).err().unwrap_or_else(|| "nothing was left behind".into());
            Err(write_fatal(path, &error, &removed))
        }
    }
}

/// Carries the writes of a format to the file until it is done, or the first has failed.
fn pump<I: IO>(io: &mut I, file: FileId, format: &mut Format) -> std::io::Result<()> {
    let mut requests = Vec::new();
    let mut in_flight: Vec<Option<Token>> = Vec::new();
    let mut events = Vec::new();
    while !format.is_done() {
        format.advance(&mut requests);
        for request in requests.drain(..) {
            let Request::Write { token, offset, sectors } = request else {
                unreachable!("a format does not read");
            };
            let place = in_flight.iter().position(Option::is_none).unwrap_or_else(|| {
                in_flight.push(None);
                in_flight.len() - 1
            });
            in_flight[place] = Some(token);
            io.write(file, offset, sectors, place as FileToken);
        }
        io.run(Duration::from_millis(100), &mut events);
        for event in events.drain(..) {
            match event {
                Event::WriteDone { token, result } => {
                    result?;
                    let place = usize::try_from(token).expect("a place in a small table");
                    format.on_write_done(in_flight[place].take().expect("it was in flight"));
                }
                Event::Terminate => return Err(ErrorKind::Interrupted.into()),
                Event::Socket { .. } | Event::ReadDone { .. } => {}
            }
        }
    }
    assert!(in_flight.iter().all(Option::is_none));
    Ok(())
}

/// Removes what a failure leaves.
///
/// # Errors
/// What is to be said if it cannot be removed.
pub(super) fn remove(path: &Path) -> std::result::Result<(), String> {
    std::fs::remove_file(path)
        .map_err(|error| format!("remove the file by hand, it is of no use ({error})"))
}

fn write_fatal(path: &Path, error: &std::io::Error, removed: &str) -> Fatal {
    let path = path.display();
    match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            let text = format!(
                "{path}: the disk is full ({error}); free some space, or choose a smaller \
                 --journal-slots or --message-size; {removed}"
            );
            Fatal::new(FatalKind::DiskFull, text)
        }
        ErrorKind::Interrupted => {
            let text = format!("{path}: interrupted by a signal; {removed}");
            Fatal::new(FatalKind::OperatingSystem, text)
        }
        _ => Fatal::new(
            FatalKind::WriteFailed,
            format!("{path}: a write failed: {error}; {removed}"),
        ),
    }
}

pub(super) fn open_fatal(path: &Path, error: &OpenError) -> Fatal {
    let path = path.display();
    match error {
        OpenError::Exists => Fatal::new(
            FatalKind::Exists,
            format!("{path} exists, and is never overwritten; choose another --data"),
        ),
        OpenError::NotFound => Fatal::new(
            FatalKind::NotFound,
            format!("{path}: its folder is not there; create it, or choose another --data"),
        ),
        OpenError::Permission => Fatal::new(
            FatalKind::Permission,
            format!("{path}: no permission to create it; choose another --data, or another user"),
        ),
        OpenError::NoDirectIO => Fatal::new(
            FatalKind::NoDirectIO,
            format!(
                "{path}: its file system has no direct I/O, without which a disk's faults are \
                 hidden; choose another --data, or add --development if the data does not matter"
            ),
        ),
        OpenError::Locked => Fatal::new(
            FatalKind::Locked,
            format!("{path}: another process holds its lock; choose another --data"),
        ),
        OpenError::NotAFile => Fatal::new(
            FatalKind::NotADataFile,
            format!("{path} is not a regular file; choose another --data"),
        ),
        OpenError::Other(error) if error.kind() == ErrorKind::StorageFull => {
            Fatal::new(FatalKind::DiskFull, format!("{path}: the disk is full; free some space"))
        }
        OpenError::Other(error) => {
            Fatal::new(FatalKind::OperatingSystem, format!("{path} cannot be created: {error}"))
        }
    }
}
