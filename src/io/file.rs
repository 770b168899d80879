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

/// Some file systems accept the flag and refuse the access. What the sector holds, or whether it
/// can be read, is no matter here.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::test_directory::TestDirectory;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    const DEVELOPMENT: bool = true;

    fn create_file(path: &Path) -> File {
        open(path, OpenMode::Create, DEVELOPMENT).unwrap().0
    }

    #[test]
    fn create_makes_an_empty_private_locked_file_once() {
        let directory = TestDirectory::new();
        let path = directory.path("data");
        let file = create_file(&path);
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 0);
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600);

        let again = open(&path, OpenMode::Create, DEVELOPMENT);
        assert!(matches!(again, Err(OpenError::Exists)), "{again:?}");
        let locked = open(&path, OpenMode::Existing, DEVELOPMENT);
        assert!(matches!(locked, Err(OpenError::Locked)), "{locked:?}");
        open(&path, OpenMode::ReadOnly, DEVELOPMENT).unwrap();

        drop(file);
        let file = open(&path, OpenMode::Existing, DEVELOPMENT).unwrap().0;
        let locked = open(&path, OpenMode::Existing, DEVELOPMENT);
        assert!(matches!(locked, Err(OpenError::Locked)), "{locked:?}");
        drop(file);
        let again = open(&path, OpenMode::Create, DEVELOPMENT);
        assert!(matches!(again, Err(OpenError::Exists)), "{again:?}");
    }

    #[test]
    fn a_lock_that_is_released_in_time_is_had() {
        let directory = TestDirectory::new();
        let path = directory.path("data");
        drop(create_file(&path));
        // `flock` holds the lock and lets go of it when its standard input ends.
        let mut holder = std::process::Command::new("flock")
            .arg(&path)
            .args(["-c", "echo locked; exec cat"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0; 7];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"locked\n");
        let locked = open(&path, OpenMode::Existing, DEVELOPMENT);
        assert!(matches!(locked, Err(OpenError::Locked)), "{locked:?}");
        // It is still on its way out when the first attempt is made, and on a machine that is very
        // busy it outlasts some.
        drop(holder.stdin.take());
        let opened = (0..100).find_map(|_| match open(&path, OpenMode::Existing, DEVELOPMENT) {
            Err(OpenError::Locked) => None,
            result => Some(result),
        });
        opened.unwrap().unwrap();
        assert!(holder.wait().unwrap().success());
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let directory = TestDirectory::new();
        for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
            let result = open(&directory.path("data"), mode, DEVELOPMENT);
            assert!(matches!(result, Err(OpenError::NotFound)), "{mode:?} {result:?}");
        }
        for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
            let result = open(&directory.path("none/data"), mode, DEVELOPMENT);
            assert!(matches!(result, Err(OpenError::NotFound)), "{mode:?} {result:?}");
        }
        assert_eq!(std::fs::read_dir(directory.path("")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_not_a_file_is_refused() {
        let directory = TestDirectory::new();
        for path in [directory.path("").as_path(), Path::new("/dev/null")] {
            for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
                let result = open(path, mode, DEVELOPMENT);
                assert!(matches!(result, Err(OpenError::NotAFile)), "{mode:?} {result:?}");
            }
            let result = open(path, OpenMode::Create, DEVELOPMENT);
            assert!(matches!(result, Err(OpenError::Exists)), "{result:?}");
        }
    }

    #[test]
    fn a_dangling_link_is_neither_followed_nor_removed() {
        let directory = TestDirectory::new();
        let path = directory.path("link");
        std::os::unix::fs::symlink(directory.path("target"), &path).unwrap();
        let result = open(&path, OpenMode::Create, DEVELOPMENT);
        assert!(matches!(result, Err(OpenError::Exists)), "{result:?}");
        assert!(path.symlink_metadata().is_ok());
        // Through a link that leads somewhere, the file and the directory where it lies are synced.
        drop(create_file(&directory.path("target")));
        open(&path, OpenMode::Existing, DEVELOPMENT).unwrap();
    }

    #[test]
    fn permission_is_asked_for() {
        for errno in [libc::EACCES, libc::EPERM] {
            let error = classify(Error::from_raw_os_error(errno), true);
            assert!(matches!(error, OpenError::Permission), "{error:?}");
        }
        let directory = TestDirectory::new();
        let path = directory.path("data");
        let file = create_file(&path);
        file.set_permissions(std::fs::Permissions::from_mode(0o000)).unwrap();
        let root = file.metadata().unwrap().uid() == 0;
        drop(file);
        for mode in [OpenMode::Existing, OpenMode::ReadOnly] {
            let result = open(&path, mode, DEVELOPMENT);
            // Root may open what it likes.
            assert_eq!(matches!(result, Err(OpenError::Permission)), !root, "{result:?}");
        }
    }

    #[test]
    fn without_direct_io_only_development_and_readers_go_on() {
        // No file of this file system has direct I/O.
        let path = Path::new("/proc/self/comm");
        let result = open(path, OpenMode::Existing, false);
        assert!(matches!(result, Err(OpenError::NoDirectIO)), "{result:?}");
        let result = open(path, OpenMode::Existing, true);
        // It goes on, up to the sync, which this file system has not either.
        assert!(matches!(result, Err(OpenError::Other(_))), "{result:?}");
        let (_, direct) = open(path, OpenMode::ReadOnly, false).unwrap();
        assert!(!direct);
    }

    #[test]
    fn a_refused_create_leaves_nothing_behind() {
        let directory = TestDirectory::new();
        let path = directory.path("data");
        let direct = match open(&path, OpenMode::Create, false) {
            Ok((file, direct)) => {
                assert_eq!(file.metadata().unwrap().len(), 0);
                direct
            }
            Err(error) => {
                assert!(matches!(error, OpenError::NoDirectIO), "{error:?}");
                assert!(path.symlink_metadata().is_err());
                false
            }
        };
        let again = open(&path, OpenMode::Create, DEVELOPMENT);
        assert_eq!(matches!(again, Err(OpenError::Exists)), direct, "{again:?}");
        // What others have written there is not taken for a leftover.
        let path = directory.path("other");
        std::fs::write(&path, b"precious").unwrap();
        remove_if_empty(&path);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn the_flags_are_in_force() {
        let directory = TestDirectory::new();
        let path = directory.path("data");
        for mode in [OpenMode::Create, OpenMode::Existing, OpenMode::ReadOnly] {
            let (file, direct) = open(&path, mode, DEVELOPMENT).unwrap();
            let info = format!("/proc/self/fdinfo/{}", file.as_raw_fd());
            let info = std::fs::read_to_string(info).unwrap();
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
            assert_eq!(flags & libc::O_DIRECT != 0, direct);
            assert_eq!(flags & libc::O_DSYNC != 0, mode != OpenMode::ReadOnly);
            assert!(flags & libc::O_CLOEXEC != 0);
        }
    }

    #[test]
    fn carries_out_a_bounded_amount_at_a_time() {
        let directory = TestDirectory::new();
        let mut files = Files::new(DEVELOPMENT);
        let file = files.open(&directory.path("data"), OpenMode::Create).unwrap();
        let read_all = |files: &mut Files| {
            for token in 0..12 {
                files.read(file, 0, AlignedBuffer::zeroed(1024 * 1024), token);
            }
        };
        let tokens = |events: &[Event]| {
            let token = |event: &Event| match event {
                Event::ReadDone { token, .. } => *token,
                event => panic!("{event:?}"),
            };
            events.iter().map(token).collect::<Vec<_>>()
        };

        // Bounded by bytes when the time stands still.
        read_all(&mut files);
        let mut events = Vec::new();
        for count in [4, 8, 12, 12] {
            files.carry_out(|| Duration::ZERO, &mut events);
            assert_eq!(events.len(), count);
            assert_eq!(files.is_idle(), count == 12);
        }
        assert_eq!(tokens(&events), (0..12).collect::<Vec<_>>());

        // Bounded by time, but never to nothing at all.
        read_all(&mut files);
        let mut events = Vec::new();
        for count in 1..=12 {
            files.carry_out(|| CARRY_TIME_MAX, &mut events);
            assert_eq!(events.len(), count);
        }
        assert!(files.is_idle());
    }

    #[test]
    fn a_failed_write_is_reported() {
        let directory = TestDirectory::new();
        let path = directory.path("data");
        drop(create_file(&path));
        let mut files = Files::new(DEVELOPMENT);
        let file = files.open(&path, OpenMode::ReadOnly).unwrap();
        // The descriptor refuses what the queue is made to believe.
        files.files[file.0 as usize].writable = true;
        files.write(file, 0, AlignedBuffer::zeroed(SECTOR_SIZE).freeze(), 7);
        let mut events = Vec::new();
        files.carry_out(|| Duration::ZERO, &mut events);
        assert!(
            matches!(events[..], [Event::WriteDone { token: 7, result: Err(_) }]),
            "{events:?}"
        );
    }
}
