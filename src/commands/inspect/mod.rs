//! F6: `vsr inspect`: what a data file holds, what of it is damaged, what that means, and whether a
//! replica would repair it by itself. For files of replicas that have ended, and damaged ones.
//!
//! ```text
//!   superblock ── the copies, which one counts ──► all else needs what it says
//!                         │ none counts: told, then the error that a replica would end with
//!   journal, op ── storage::survey ──┐
//!   checkpoint  ── store::survey ────┼──► Report ──► text or JSON
//!   integrity   ── both, and all ────┤
//!   checkpoint, against another ─────┘  two files
//! ```
//!
//! The surveys are the product's own: a slot, a page, a block is judged here by the very code by
//! which a replica judges it.
//!
//! *A file in use* may be looked at. What is then read of it may be of two moments, so that sound
//! things can look damaged: it is said in front, and no second flag is asked for, because a look
//! does no harm.
//!
//! **Invariants:** nothing is written, no lock is held, no byte of a file makes this end otherwise
//! than with a report or a [`Fatal`]; memory is bounded however large and damaged the file is;
//! status 5 if and only if there is damage in what was looked at, or two files differ.
//!
//! **Not here:** repairing: replicas do.

mod against;
#[cfg(test)]
mod against_tests;
mod checkpoint;
mod integrity;
mod journal;
mod op;
mod report;
mod superblock;
#[cfg(test)]
mod tests;
mod words;

use super::json::Object;
use super::{Exit, Failure, Result, io_new, print, tell};
use crate::cli::{self, Part};
use report::Report;
use std::fs::{File, TryLockError};
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{Event, FileId, IO, MioIO, OpenError, OpenMode};
use vsr::stdx::AlignedBuffer;
use vsr::storage::{ReadResult, Request, SuperblockState};

/// How long one wait for the disk may be; only a bound for the loop.
const WAIT: Duration = Duration::from_millis(100);

/// `vsr inspect`.
pub(super) fn run(arguments: &cli::Inspect) -> Result {
    let is_long = arguments.part == Part::Integrity || arguments.against.is_some();
    let is_told = is_long && std::io::stderr().is_terminal();
    let mut disk = FileDisk::open(&arguments.path, is_told)?;
    let other = arguments.against.as_deref();
    let mut other = other.map(|path| FileDisk::open(path, is_told)).transpose()?;
    let (inspected, report) = match &mut other {
        None => {
            let mut report = Report::default();
            let inspected = inspect(&mut disk, arguments.part, &mut report);
            (inspected.map_err(|fatal| fatal_of(&arguments.path, &fatal)), report)
        }
        Some(other) => {
            assert_eq!(arguments.part, Part::Checkpoint);
            let mut report = Report::of_comparison();
            let paths = [disk.path.clone(), other.path.clone()];
            let paths = [paths[0].as_path(), paths[1].as_path()];
            (against::inspect([&mut disk, other], paths, &mut report), report)
        }
    };
    disk.close()?;
    if let Some(other) = &mut other {
        other.close()?;
    }
    if arguments.json {
        let mut head = disk.describe(Object::default());
        if let Some(other) = &other {
            head = head.raw("against", other.describe(Object::default()).finish());
        }
        print(&(report.json(head) + "\n"))?;
    } else {
        print(&report.text())?;
    }
    inspected.map_err(Failure::Fatal)
}

/// The same, of the file at `path`.
fn fatal_of(path: &Path, fatal: &Fatal) -> Fatal {
    Fatal::new(fatal.kind, format!("{}: {}", path.display(), fatal.text))
}

/// What an inspection reads from.
trait Disk {
    /// Bytes.
    fn size(&self) -> u64;
    /// Reads whole sectors; what is not there is unreadable.
    fn read(&mut self, offset: u64, size: u32) -> ReadResult;
    /// Tells whoever waits how far it is, of how much.
    fn progress(&mut self, what: &'static str, done: u64, all: u64);
}

fn inspect<D: Disk>(
    disk: &mut D,
    part: Part,
    report: &mut Report,
) -> std::result::Result<Exit, Fatal> {
    let superblock = superblock::read(disk);
    let selected = superblock.selected();
    // Whatever else is asked for, the copies are what everything hangs on.
    if part == Part::Superblock || part == Part::Integrity || selected.is_err() {
        superblock.show(disk.size(), part == Part::Superblock, report);
    }
    let state = selected?.clone();
    superblock::find_truncated(&state, disk.size(), report);
    let mut found = true;
    match part {
        Part::Superblock => {}
        Part::Journal { all } => {
            journal::read(disk, &state, true).show(all, report);
        }
        Part::Checkpoint => checkpoint::show(disk, &state, report),
        Part::Op(op) => found = op::show(disk, &state, op, report),
        Part::Integrity => integrity::show(disk, &state, report),
    }
    Ok(match (report.damages_count(), found) {
        (0, true) => Exit::Done,
        (0, false) => Exit::Not,
        _ => Exit::Damaged,
    })
}

/// Carries out a read that a survey wants.
fn answer<D: Disk>(disk: &mut D, request: &Request) -> ReadResult {
    let Request::Read { offset, size, .. } = request else {
        unreachable!("a survey does not write")
    };
    disk.read(*offset, *size)
}

/// Who would mend damage of what all replicas have, as text.
fn mended_by(state: &SuperblockState) -> &'static str {
    if state.replica_count == 1 {
        "a lone replica has nobody to ask: restore a backup"
    } else {
        "a replica fetches it from the others by itself"
    }
}

/// The data file through the IO, read by read.
struct FileDisk<I: IO> {
    path: PathBuf,
    io: I,
    file: FileId,
    size: u64,
    /// A replica has it open.
    in_use: bool,
    /// There is somebody to tell how far it is.
    is_told: bool,
    /// What was told last: of what, and percent.
    shown: Option<(&'static str, u64)>,
    terminated: bool,
}

impl FileDisk<MioIO> {
    /// Opens the file, to be read.
    fn open(path: &Path, is_told: bool) -> Result<Self> {
        let mut io = io_new(true)?;
        let file =
            io.open_file(path, OpenMode::ReadOnly).map_err(|error| open_fatal(path, &error))?;
        let size = io.file_size(file).map_err(|error| {
            let text = format!("cannot tell its size: {error}");
            fatal_of(path, &Fatal::new(FatalKind::OperatingSystem, text))
        })?;
        let in_use = is_in_use(path);
        if in_use {
            warn_in_use(path);
        }
        let (path, shown, terminated) = (path.to_owned(), None, false);
        Ok(Self { path, io, file, size, in_use, is_told, shown, terminated })
    }
}

impl<I: IO> FileDisk<I> {
    /// All that was wanted was read, or not, if the process was asked to end.
    fn close(&mut self) -> Result<()> {
        if self.shown.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
        if self.terminated {
            let fatal = Fatal::new(FatalKind::OperatingSystem, "asked to end while reading it");
            return Err(Failure::Fatal(fatal_of(&self.path, &fatal)));
        }
        if !self.in_use && is_in_use(&self.path) {
            self.in_use = true;
            warn_in_use(&self.path);
        }
        Ok(())
    }

    fn describe(&self, object: Object) -> Object {
        object
            .text("path", &self.path.display().to_string())
            .raw("file_size", self.size)
            .raw("in_use", self.in_use)
    }
}

impl<I: IO> Disk for FileDisk<I> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, size: u32) -> ReadResult {
        let lost = |size: u32| {
            let unreadable = std::iter::once(0..size).collect();
            ReadResult { buffer: AlignedBuffer::zeroed(size), unreadable }
        };
        if self.terminated {
            return lost(size);
        }
        self.io.read(self.file, offset, AlignedBuffer::zeroed(size), 0);
        let mut events = Vec::new();
        loop {
            self.io.run(WAIT, &mut events);
            for event in events.drain(..) {
                match event {
                    Event::ReadDone { buffer, unreadable, .. } => {
                        return ReadResult { buffer, unreadable };
                    }
                    Event::Terminate => self.terminated = true,
                    Event::Socket { .. } | Event::WriteDone { .. } => {}
                }
            }
        }
    }

    fn progress(&mut self, what: &'static str, done: u64, all: u64) {
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
        if self.is_told && self.shown != Some((what, percent)) {
            self.shown = Some((what, percent));
            let _ = write!(std::io::stderr(), "\r\x1b[Kreading the {what}: {percent}%");
        }
    }
}

/// Whether a replica has the file. It is asked for a moment's share of the lock, which a replica
/// that starts in this very moment tries again to get.
fn is_in_use(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
}

fn warn_in_use(path: &Path) {
    tell(&format!(
        "warning: {}: a replica has this file open: what is read may be of two moments, and sound \
         things may look damaged; to be sure, end the replica first",
        path.display()
    ));
}

fn open_fatal(path: &Path, error: &OpenError) -> Fatal {
    let path = path.display();
    let (kind, text) = match error {
        OpenError::NotFound => {
            (FatalKind::NotFound, "there is no such file: check the path".to_owned())
        }
        OpenError::Permission => {
            let text = "no permission to read it: use the user that runs the replica";
            (FatalKind::Permission, text.to_owned())
        }
        OpenError::NotAFile => {
            let text = "not a regular file or block device: name a data file";
            (FatalKind::NotADataFile, text.to_owned())
        }
        OpenError::Exists | OpenError::Locked | OpenError::NoDirectIO => {
            (FatalKind::OperatingSystem, format!("cannot be opened: {error:?}"))
        }
        OpenError::Other(error) => {
            (FatalKind::OperatingSystem, format!("cannot be opened: {error}"))
        }
    };
    Fatal::new(kind, format!("{path}: {text}"))
}
