//! F5: data files: opening them so that what they say can be believed, and the queue of reads and
//! writes that [`super::MioIO`] carries out between two polls.
//!
//! ```text
//!   open: exists? kind? ─► O_DIRECT | O_DSYNC ─► exclusive lock ─► fsync file, directory ─► probe
//!
//!   read(), write() ─► | operation | operation | … |  ─► carry_out() ─► ReadDone, WriteDone
//!                        queue, first in first out       a bounded amount of them at a time
//! ```
//!
//! The kernel's own cache plays no part: with `O_DIRECT` a read asks the device, and with `O_DSYNC`
//! a write that has returned is on it. A process that died between a write and its completion may
//! have left dirty pages or a directory that is not yet on the device, so both are synced *before*
//! the first byte is believed: else it could be acted upon and then vanish.
//!
//! **Invariants:** every queued operation completes exactly once, or the process ends before; at
//! most one process has a file open for writing; a file that this code did not make is never
//! removed; after `Create` the directory entry is durable.
//!
//! **Not here:** how a single transfer is made whole (`transfer.rs`); what the bytes mean; a bound
//! on the queue, which the owners of the zones of the data file keep (so many journal writes, …).

use super::transfer::{read_isolating, write_whole};
use super::{Event, FileId, FileToken, OpenError, OpenMode};
use crate::constants::SECTOR_SIZE;
use crate::stdx::{AlignedBuffer, is_sectors};
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Error, ErrorKind, Result, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

/// How much [`Files::carry_out`] moves before it lets the sockets have a turn, in bytes.
const CARRY_SIZE_MAX: usize = 4 * 1024 * 1024;

/// How long [`Files::carry_out`] works before it lets the sockets have a turn. One operation always
/// goes through, however long it takes.
const CARRY_TIME_MAX: Duration = Duration::from_millis(2);

/// How often a held lock is tried again, and how far apart: a process that was killed may keep its
/// descriptors for a moment while the kernel takes it down.
const LOCK_RETRIES_MAX: u32 = 5;
const LOCK_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The open files, and what is to be done with them.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<OpenFile>,
    queue: VecDeque<Operation>,
    development: bool,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    writable: bool,
}

#[derive(Debug)]
enum Operation {
    Read { file: FileId, offset: u64, buffer: AlignedBuffer, token: FileToken },
    Write { file: FileId, offset: u64, sectors: Bytes, token: FileToken },
}

impl Files {
    /// No files. With `development`, a file system without direct I/O will do.
    pub(super) fn new(development: bool) -> Self {
        Self { files: Vec::new(), queue: VecDeque::new(), development }
    }

    /// See [`super::IO::open_file`].
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(super) fn open(
        &mut self,
        path: &Path,
        mode: OpenMode,
    ) -> std::result::Result<FileId, OpenError> {
        let id = FileId(u32::try_from(self.files.len()).expect("few files are ever opened"));
        let (file, direct) = open(path, mode, self.development)?;
        if !direct && mode != OpenMode::ReadOnly {
            log::warn!(
                "open_file: without direct I/O, for development only (the file system has none) \
                 path={}",
                path.display()
            );
        }
        self.files.push(OpenFile { file, writable: mode != OpenMode::ReadOnly });
        Ok(id)
    }

    /// The size of the file, or of the block device, in bytes.
    ///
    /// # Errors
    /// The file system's.
    pub(super) fn size(&self, file: FileId) -> Result<u64> {
        // The metadata of a block device says 0; nothing else uses the position in the file.
        let mut file = &self.open_file(file).file;
        file.seek(SeekFrom::End(0))
    }

    /// Queues a read. See [`super::IO::read`].
    pub(super) fn read(
        &mut self,
        file: FileId,
        offset: u64,
        buffer: AlignedBuffer,
        token: FileToken,
    ) {
        assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
        assert!((file.0 as usize) < self.files.len());
        self.queue.push_back(Operation::Read { file, offset, buffer, token });
    }

    /// Queues a write. See [`super::IO::write`].
    pub(super) fn write(&mut self, file: FileId, offset: u64, sectors: Bytes, token: FileToken) {
        assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
        assert!(is_sectors(&sectors));
        assert!(self.open_file(file).writable);
        self.queue.push_back(Operation::Write { file, offset, sectors, token });
    }

    /// Whether nothing is queued.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Carries out a bounded amount of what is queued and appends the results to `events`.
    /// `elapsed` tells the time since this call began.
    pub(super) fn carry_out(&mut self, elapsed: impl Fn() -> Duration, events: &mut Vec<Event>) {
        let mut moved = 0;
        while moved < CARRY_SIZE_MAX
            && (moved == 0 || elapsed() < CARRY_TIME_MAX)
            && let Some(operation) = self.queue.pop_front()
        {
            moved += operation.size();
            events.push(self.complete(operation));
        }
    }

    fn complete(&self, operation: Operation) -> Event {
        match operation {
            Operation::Read { file, offset, mut buffer, token } => {
                let file = &self.open_file(file).file;
                let read = |bytes: &mut [u8], offset| file.read_at(bytes, offset);
                let unreadable = read_isolating(read, buffer.as_mut(), offset);
                Event::ReadDone { token, buffer, unreadable }
            }
            Operation::Write { file, offset, sectors, token } => {
                let file = &self.open_file(file).file;
                let write = |bytes: &[u8], offset| file.write_at(bytes, offset);
                let result = write_whole(write, &sectors, offset);
                Event::WriteDone { token, result }
            }
        }
    }

    fn open_file(&self, file: FileId) -> &OpenFile {
        &self.files[file.0 as usize]
    }
}

impl Operation {
    /// The bytes it moves.
    fn size(&self) -> usize {
        match self {
            Self::Read { buffer, .. } => buffer.len(),
            Self::Write { sectors, .. } => sectors.len(),
        }
    }
}

/// Opens a data file, with direct I/O where that can be had, and says whether it could. Without it,
/// `development` accepts the file, and so does `ReadOnly`: durability is no matter for a reader.
fn open(
    path: &Path,
    mode: OpenMode,
    development: bool,
) -> std::result::Result<(File, bool), OpenError> {
    let attempt = |direct: bool| match mode {
        OpenMode::Create => create(path, direct),
        OpenMode::Existing => open_existing(path, direct),
        OpenMode::ReadOnly => open_read_only(path, direct),
    };
    match attempt(true) {
        Err(OpenError::NoDirectIO) if development || mode == OpenMode::ReadOnly => {
            Ok((attempt(false)?, false))
        }
        result => Ok((result?, true)),
    }
}

/// Makes the file, locked and with a durable name, or leaves nothing behind.
fn create(path: &Path, direct: bool) -> std::result::Result<File, OpenError> {
    // O_EXCL decides, but a file system of little care may judge O_DIRECT first, and what is there
    // must not be mistaken for something that this call left behind.
    if path.symlink_metadata().is_ok() {
        return Err(OpenError::Exists);
    }
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags(direct) | libc::O_DSYNC)
        .open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            let error = classify(error, direct);
            if matches!(error, OpenError::NoDirectIO) {
                // Linux refuses the flag only after it made the file.
                remove_if_empty(path);
            }
            return Err(error);
        }
    };
    let prepared = lock(&file).and_then(|()| {
        if direct {
            probe_write(&file)?;
        }
        sync(&file, path)
    });
    match prepared {
        Ok(()) => Ok(file),
        Err(OpenError::Locked) => Err(OpenError::Locked),
        Err(error) => {
            remove_if_empty(path);
            Err(error)
        }
    }
}

fn open_existing(path: &Path, direct: bool) -> std::result::Result<File, OpenError> {
    let exclusive = match kind(path)? {
        Kind::Regular => 0,
        // Without O_CREAT this is the kernel's lock of a block device, against mounts too.
        Kind::BlockDevice => libc::O_EXCL,
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags(direct) | libc::O_DSYNC | exclusive)
        .open(path)
        .map_err(|error| classify(error, direct))?;
    lock(&file)?;
    sync(&file, path)?;
    if direct {
        probe_read(&file)?;
    }
    Ok(file)
}

fn open_read_only(path: &Path, direct: bool) -> std::result::Result<File, OpenError> {
    kind(path)?;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags(direct))
        .open(path)
        .map_err(|error| classify(error, direct))?;
    if direct {
        probe_read(&file)?;
    }
    Ok(file)
}

fn flags(direct: bool) -> i32 {
    if direct { libc::O_DIRECT } else { 0 }
}

enum Kind {
    Regular,
    BlockDevice,
}

/// Looks before the file is opened: to open a pipe or a device can block or have effects.
fn kind(path: &Path) -> std::result::Result<Kind, OpenError> {
    let metadata = path.metadata().map_err(|error| classify(error, false))?;
    if metadata.is_file() {
        Ok(Kind::Regular)
    } else if metadata.file_type().is_block_device() {
        Ok(Kind::BlockDevice)
    } else {
        Err(OpenError::NotAFile)
    }
}

fn lock(file: &File) -> std::result::Result<(), OpenError> {
    for retry in 0..=LOCK_RETRIES_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(OpenError::Other(error)),
            Err(TryLockError::WouldBlock) if retry < LOCK_RETRIES_MAX => {
                #[expect(clippy::disallowed_methods, reason = "opening may block, and is bounded")]
                std::thread::sleep(LOCK_RETRY_INTERVAL);
            }
            Err(TryLockError::WouldBlock) => {}
        }
    }
    Err(OpenError::Locked)
}

/// Makes durable what the file holds, and its name in the directory where it really lies.
fn sync(file: &File, path: &Path) -> std::result::Result<(), OpenError> {
    let sync_both = || -> Result<()> {
        file.sync_all()?;
        let path = path.canonicalize()?;
        let directory = path.parent().expect("the path of a file has a parent");
        File::open(directory)?.sync_all()
    };
    sync_both().map_err(|error| classify(error, false))
}

/// Some file systems accept the flag and refuse the access. What the sector holds, or whether it can
/// be read, is no matter here.
fn probe_read(file: &File) -> std::result::Result<(), OpenError> {
    let mut sector = AlignedBuffer::zeroed(SECTOR_SIZE);
    match file.read_at(sector.as_mut(), 0) {
        Err(error) if is_invalid(&error) => Err(OpenError::NoDirectIO),
        _ => Ok(()),
    }
}

/// As [`probe_read`], for a file that was just made; it is empty again afterwards. A full disk is
/// for the first real write to find.
fn probe_write(file: &File) -> std::result::Result<(), OpenError> {
    let sector = AlignedBuffer::zeroed(SECTOR_SIZE);
    let probed = file.write_at(sector.as_ref(), 0);
    file.set_len(0).map_err(OpenError::Other)?;
    match probed {
        Err(error) if is_invalid(&error) => Err(OpenError::NoDirectIO),
        _ => Ok(()),
    }
}

fn remove_if_empty(path: &Path) {
    if path.symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == 0)
        && let Err(error) = std::fs::remove_file(path)
    {
        log::warn!("create: cannot remove what was begun ({error}) path={}", path.display());
    }
}

fn is_invalid(error: &Error) -> bool {
    error.raw_os_error() == Some(libc::EINVAL)
}

fn classify(error: Error, direct: bool) -> OpenError {
    match error.kind() {
        _ if direct && is_invalid(&error) => OpenError::NoDirectIO,
        ErrorKind::NotFound => OpenError::NotFound,
        ErrorKind::AlreadyExists => OpenError::Exists,
        ErrorKind::PermissionDenied => OpenError::Permission,
        ErrorKind::IsADirectory => OpenError::NotAFile,
        _ => OpenError::Other(error),
    }
}
