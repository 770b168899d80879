//! Disks that lose power: each replica's data file lies in an ext4 of its own, on a loop device
//! whose backing file is served by this test over FUSE, so that every write and every flush of the
//! block layer passes through here.
//!
//! ```text
//!   vsr: O_DIRECT | O_DSYNC ──► ext4 ──► loop ──► FUSE (direct I/O) ──► Device
//!                                 │ write ─────► in the volatile cache
//!                                 │ flush ─────► all of it is durable
//!                                 └ cut ───────► of each sector written since the last flush: any
//!                                                one of its contents, old or new; then only errors
//! ```
//!
//! What the kernel had not written, or had written and not flushed, is really gone: whoever told a
//! client of it has lied. The file system replays its journal when it is mounted again, as after a
//! real power cut; nothing is assumed about what `O_DSYNC` does.
//!
//! **Invariants:** a device that was cut answers with errors for ever; its successor begins with
//! what survived; the same random numbers and the same writes leave the same bytes.
//!
//! **Not here:** disks that lie about flushes: no software survives those alone. Needs root and
//! loop devices; [`Disks::new`] says why where there are none.

use crate::harness::{DEADLINE, now, pass, run};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vsr::stdx::Prng;

/// What a disk writes whole, or not.
const SECTOR_SIZE: usize = 512;
/// The most bytes of one write from the kernel.
const WRITE_SIZE_MAX: u32 = 128 << 10;

/// What there is instead of a file that is filled up.
const BALLAST: &str = "ballast";

/// The disks of a cluster.
#[derive(Debug)]
pub(crate) struct Disks {
    shared: Arc<Mutex<Shared>>,
    folder: PathBuf,
    /// Of each disk: how often it was replaced by its successor.
    generations: Vec<u32>,
    mounted: Vec<bool>,
}

#[derive(Debug, Default)]
struct Shared {
    /// By FUSE node: 2 and up.
    devices: BTreeMap<u64, Device>,
    node_next: u64,
}

/// One block device.
#[derive(Debug)]
struct Device {
    name: String,
    /// What is read.
    content: Vec<u8>,
    /// Of each sector written since the last flush: what it had then, and after each write but the
    /// last.
    earlier: BTreeMap<usize, Vec<[u8; SECTOR_SIZE]>>,
    is_cut: bool,
    /// So many writes are taken, and then the power fails: before any flush that may follow.
    writes_left: Option<u32>,
    flushes: u64,
}

impl Device {
    fn new(name: String, content: Vec<u8>) -> Self {
        assert!(content.len().is_multiple_of(SECTOR_SIZE));
        let earlier = BTreeMap::new();
        Self { name, content, earlier, is_cut: false, writes_left: None, flushes: 0 }
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) -> Result<(), i32> {
        if self.is_cut || offset + bytes.len() > self.content.len() {
            return Err(libc::EIO);
        }
        let first = offset / SECTOR_SIZE;
        let end = (offset + bytes.len()).div_ceil(SECTOR_SIZE);
        for sector in first..end {
            let at = sector * SECTOR_SIZE;
            let old = self.content[at..at + SECTOR_SIZE].try_into().expect("a sector");
            self.earlier.entry(sector).or_default().push(old);
        }
        self.content[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.writes_left = self.writes_left.map(|left| left.saturating_sub(1));
        if self.writes_left == Some(0) {
            self.is_cut = true;
            return Err(libc::EIO);
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), i32> {
        if self.is_cut {
            return Err(libc::EIO);
        }
        self.earlier.clear();
        self.flushes += 1;
        Ok(())
    }

    /// The power is gone. Returns what the disk has when it comes back, and how many sectors lost
    /// their newest content.
    fn cut(&mut self, prng: &mut Prng) -> (Vec<u8>, usize) {
        self.is_cut = true;
        let mut content = self.content.clone();
        // Half of the time each sector by itself, else all that was not flushed, or none of it.
        let how = prng.below(4);
        let mut lost = 0;
        for (sector, contents) in &self.earlier {
            let choice = match how {
                0 => 0,
                1 => contents.len(),
                _ => prng.index(contents.len() + 1),
            };
            if let Some(old) = contents.get(choice) {
                let at = sector * SECTOR_SIZE;
                content[at..at + SECTOR_SIZE].copy_from_slice(old);
                lost += 1;
            }
        }
        (content, lost)
    }
}

impl Disks {
    /// `count` disks of `size` bytes each, formatted and mounted below `folder`.
    ///
    /// # Errors
    /// Why this machine, or this user, cannot have such disks.
    pub(crate) fn new(folder: PathBuf, count: usize, size: usize) -> Result<Self, String> {
        fs::create_dir_all(folder.join("fuse")).expect("a folder of the test");
        let fuse = File::options().read(true).write(true).open("/dev/fuse");
        let fuse = fuse.map_err(|error| format!("/dev/fuse: {error}"))?;
        let shared = Arc::new(Mutex::new(Shared { devices: BTreeMap::new(), node_next: 2 }));
        // The kernel wants an open descriptor of the device: standard input is one.
        let stdin = fuse.try_clone().expect("a descriptor");
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "chaos"]);
        let mounted = mount.arg(folder.join("fuse")).stdin(Stdio::from(stdin)).output();
        let mounted = mounted.map_err(|error| format!("mount: {error}"))?;
        if !mounted.status.success() {
            return Err(String::from_utf8_lossy(&mounted.stderr).trim().to_string());
        }
        let serving = Arc::clone(&shared);
        spawn(move || serve(fuse, &serving));
        let generations = vec![0; count];
        let mut disks = Self { shared, folder, generations, mounted: vec![false; count] };
        for disk in 0..count {
            fs::create_dir_all(disks.mount_point(disk)).expect("a folder of the test");
            disks.insert(disk, vec![0; size]);
            let mut format = Command::new("mkfs.ext4");
            format.args(["-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0"]);
            succeed(format.args(["-m", "0"]).arg(disks.backing(disk)))?;
            disks.mount(disk)?;
        }
        Ok(disks)
    }

    /// Where the files of a disk lie.
    pub(crate) fn mount_point(&self, disk: usize) -> PathBuf {
        self.folder.join(format!("disk-{disk}"))
    }

    /// Cuts the power of a disk: whoever uses it sees errors from here on. Returns what has
    /// survived, for [`Disks::restore`].
    pub(crate) fn cut(&self, disk: usize, prng: &mut Prng) -> (Vec<u8>, usize) {
        self.with_device(disk, |device| device.cut(prng))
    }

    /// Lets the power of a disk fail in the middle of one of its next writes, the `count`th.
    /// [`Disks::cut`] is still to be called.
    pub(crate) fn cut_in_write(&self, disk: usize, count: u32) {
        assert!(count > 0);
        self.with_device(disk, |device| device.writes_left = Some(count));
    }

    /// Whether the power of a disk has failed.
    pub(crate) fn is_cut(&self, disk: usize) -> bool {
        self.with_device(disk, |device| device.is_cut)
    }

    /// Puts a disk with what survived in place of the one that was cut, which nobody uses any more.
    #[track_caller]
    pub(crate) fn restore(&mut self, disk: usize, survived: Vec<u8>) {
        self.unmount(disk);
        self.generations[disk] += 1;
        self.insert(disk, survived);
        self.mount(disk).expect("a file system survives the loss of power");
    }

    /// Fills the file system up to its last block.
    pub(crate) fn fill(&self, disk: usize) {
        let mut ballast = File::create(self.mount_point(disk).join(BALLAST)).expect("a file");
        let zeros = vec![0; 64 << 10];
        for size in [zeros.len(), 4096] {
            while ballast.write_all(&zeros[..size]).is_ok() {}
        }
        ballast.sync_all().expect("what was accepted has its room");
    }

    /// Makes room again.
    pub(crate) fn empty(&self, disk: usize) {
        // It is not there if the disk lost it with its power.
        let _ = fs::remove_file(self.mount_point(disk).join(BALLAST));
    }

    /// Flushes that all disks were asked for, those of the past included.
    pub(crate) fn flushes(&self) -> u64 {
        lock(&self.shared).devices.values().map(|device| device.flushes).sum()
    }

    fn with_device<T>(&self, disk: usize, of: impl FnOnce(&mut Device) -> T) -> T {
        let name = self.name(disk);
        let mut shared = lock(&self.shared);
        let device = shared.devices.values_mut().find(|device| device.name == name);
        of(device.expect("it was inserted"))
    }

    fn name(&self, disk: usize) -> String {
        format!("disk-{disk}-{}", self.generations[disk])
    }

    fn backing(&self, disk: usize) -> PathBuf {
        self.folder.join("fuse").join(self.name(disk))
    }

    fn insert(&self, disk: usize, content: Vec<u8>) {
        let mut shared = lock(&self.shared);
        let node = shared.node_next;
        shared.node_next += 1;
        shared.devices.insert(node, Device::new(self.name(disk), content));
    }

    fn mount(&mut self, disk: usize) -> Result<(), String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,errors=continue"]);
        succeed(mount.arg(self.backing(disk)).arg(self.mount_point(disk)))?;
        self.mounted[disk] = true;
        Ok(())
    }

    /// Takes a file system away. The loop device goes with it. A process that was killed may hold
    /// it for a moment longer.
    fn unmount(&mut self, disk: usize) {
        let start = now();
        while std::mem::replace(&mut self.mounted[disk], false) {
            let mut unmount = Command::new("umount");
            if run(unmount.arg(self.mount_point(disk))).status != Some(0) {
                assert!(start.elapsed() < DEADLINE, "disk {disk} cannot be unmounted");
                self.mounted[disk] = true;
                pass(Duration::from_millis(20));
            }
        }
        self.with_device(disk, |device| {
            device.content = Vec::new();
            device.is_cut = true;
        });
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        let mut points: Vec<PathBuf> = Vec::new();
        let mounted = |disk: &usize| self.mounted[*disk];
        points.extend((0..self.mounted.len()).filter(mounted).map(|disk| self.mount_point(disk)));
        points.push(self.folder.join("fuse"));
        for point in points {
            unmount_lazily(&point);
        }
    }
}

fn unmount_lazily(point: &Path) {
    let _ = Command::new("umount").arg("-l").arg(point).stderr(Stdio::null()).status();
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let finished = run(command);
    match finished.status {
        Some(0) => Ok(()),
        _ => Err(finished.stderr.trim().to_string()),
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "the kernel asks while the test waits for it")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

/// Opcodes of FUSE, as in `linux/fuse.h`.
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const SETATTR: u32 = 4;
    pub(super) const OPEN: u32 = 14;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FSYNC: u32 = 20;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// Sizes of the kernel's structures, in bytes.
const IN_HEADER_SIZE: usize = 40;
const IN_WRITE_SIZE: usize = 40;
/// The node of the folder.
const ROOT: u64 = 1;
/// Every read and write comes here, none out of a cache of the kernel.
const FOPEN_DIRECT_IO: u32 = 1;
const FUSE_BIG_WRITES: u32 = 1 << 5;
const FUSE_MAX_PAGES: u32 = 1 << 22;

/// Answers the kernel until the file system is unmounted.
fn serve(mut fuse: File, shared: &Mutex<Shared>) {
    let mut request = vec![0; WRITE_SIZE_MAX as usize + 4096];
    loop {
        let size = match fuse.read(&mut request) {
            Ok(size) => size,
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return,
            // An operation that was interrupted before it was read.
            Err(_) => continue,
        };
        let request = &request[..size];
        let Some(result) = answer(request, shared) else { continue };
        let (error, body) = match result {
            Ok(body) => (0, body),
            Err(error) => (-error, Vec::new()),
        };
        let size = u32::try_from(16 + body.len()).expect("the answer to one request");
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend_from_slice(&size.to_le_bytes());
        reply.extend_from_slice(&error.to_le_bytes());
        reply.extend_from_slice(&request[8..16]);
        reply.extend_from_slice(&body);
        // Whoever asked may have been interrupted.
        let _ = fuse.write(&reply);
    }
}

fn word(bytes: &[u8], offset: usize) -> u32 {
    u32::from_le_bytes(bytes[offset..offset + 4].try_into().expect("4 bytes"))
}

fn long(bytes: &[u8], offset: usize) -> u64 {
    u64::from_le_bytes(bytes[offset..offset + 8].try_into().expect("8 bytes"))
}

fn position(bytes: &[u8], offset: usize) -> usize {
    usize::try_from(long(bytes, offset)).expect("an offset in a device")
}

/// The answer to a request, or `None` where none is expected.
fn answer(request: &[u8], shared: &Mutex<Shared>) -> Option<Result<Vec<u8>, i32>> {
    let opcode = word(request, 4);
    let node = long(request, 16);
    let body = &request[IN_HEADER_SIZE..];
    let mut shared = lock(shared);
    let device = shared.devices.get_mut(&node);
    Some(match opcode {
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
        opcode::INIT => Ok(init(body)),
        opcode::LOOKUP => {
            let name = body.split(|byte| *byte == 0).next().unwrap_or_default();
            let found = shared.devices.iter().find(|(_, it)| it.name.as_bytes() == name);
            found.ok_or(libc::ENOENT).map(|(node, device)| entry(*node, device.content.len()))
        }
        opcode::GETATTR | opcode::SETATTR if node == ROOT || device.is_some() => {
            let size = device.map_or(0, |device| device.content.len());
            Ok([&[0; 16][..], &attributes(node, size)].concat())
        }
        opcode::OPEN => {
            let mut out = [0; 16];
            out[8..12].copy_from_slice(&FOPEN_DIRECT_IO.to_le_bytes());
            Ok(out.to_vec())
        }
        opcode::RELEASE | opcode::FLUSH => Ok(Vec::new()),
        _ => match device {
            Some(device) => transfer(device, opcode, body),
            None => Err(libc::ENOSYS),
        },
    })
}

fn transfer(device: &mut Device, opcode: u32, body: &[u8]) -> Result<Vec<u8>, i32> {
    match opcode {
        opcode::READ if device.is_cut => Err(libc::EIO),
        opcode::READ => {
            let start = position(body, 8).min(device.content.len());
            let end = (start + word(body, 16) as usize).min(device.content.len());
            Ok(device.content[start..end].to_vec())
        }
        opcode::WRITE => {
            let size = word(body, 16);
            let bytes = &body[IN_WRITE_SIZE..][..size as usize];
            device.write(position(body, 8), bytes)?;
            Ok([size.to_le_bytes(), [0; 4]].concat())
        }
        opcode::FSYNC => device.flush().map(|()| Vec::new()),
        _ => Err(libc::ENOSYS),
    }
}

/// `fuse_init_out`, for protocol 7.31.
fn init(body: &[u8]) -> Vec<u8> {
    let mut out = vec![0; 64];
    let words = [
        (0, 7),
        (4, 31),
        (8, word(body, 8)),
        (12, word(body, 12) & (FUSE_BIG_WRITES | FUSE_MAX_PAGES)),
        (20, WRITE_SIZE_MAX),
        (24, 1),
    ];
    for (offset, word) in words {
        out[offset..offset + 4].copy_from_slice(&u32::to_le_bytes(word));
    }
    out[16..18].copy_from_slice(&16u16.to_le_bytes());
    out[18..20].copy_from_slice(&12u16.to_le_bytes());
    let pages = u16::try_from(WRITE_SIZE_MAX / 4096).expect("few pages");
    out[28..30].copy_from_slice(&pages.to_le_bytes());
    out
}

/// `fuse_entry_out`: nothing is valid for longer than the moment.
fn entry(node: u64, size: usize) -> Vec<u8> {
    let mut out = vec![0; 40];
    out[0..8].copy_from_slice(&node.to_le_bytes());
    out.extend_from_slice(&attributes(node, size));
    out
}

/// `fuse_attr`.
fn attributes(node: u64, size: usize) -> Vec<u8> {
    let mode: u32 = if node == ROOT { 0o40_700 } else { 0o100_600 };
    let mut out = vec![0; 88];
    out[0..8].copy_from_slice(&node.to_le_bytes());
    out[8..16].copy_from_slice(&(size as u64).to_le_bytes());
    out[16..24].copy_from_slice(&(size as u64 / 512).to_le_bytes());
    out[60..64].copy_from_slice(&mode.to_le_bytes());
    out[64..68].copy_from_slice(&1u32.to_le_bytes());
    out[80..84].copy_from_slice(&4096u32.to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::Folder;
    use std::os::unix::fs::OpenOptionsExt;

    #[test]
    fn a_cut_leaves_any_of_what_was_written_since_the_flush_and_nothing_else() {
        let mut seen = std::collections::BTreeSet::new();
        for seed in 0..200 {
            let mut device = Device::new("disk".into(), vec![0; 3 * SECTOR_SIZE]);
            device.write(0, &[1; 2 * SECTOR_SIZE]).unwrap();
            device.flush().unwrap();
            device.write(SECTOR_SIZE, &[2; SECTOR_SIZE]).unwrap();
            device.write(SECTOR_SIZE, &[3; 2 * SECTOR_SIZE]).unwrap();
            let (content, _) = device.cut(&mut Prng::from_seed(seed));
            let sectors: Vec<u8> = content.chunks(SECTOR_SIZE).map(|sector| sector[0]).collect();
            assert!(content.chunks(SECTOR_SIZE).all(|it| it.iter().all(|byte| *byte == it[0])));
            assert_eq!(sectors[0], 1, "it was flushed");
            seen.insert((sectors[1], sectors[2]));
            assert_eq!(device.write(0, &[9; SECTOR_SIZE]), Err(libc::EIO));
            assert_eq!(device.flush(), Err(libc::EIO));
        }
        let possible = [1, 2, 3].map(|a| [0, 3].map(|b| (a, b)));
        assert_eq!(seen, possible.into_iter().flatten().collect());
    }

    /// The proof that the loss of power is one: the same write, with and without `O_DSYNC`.
    #[test]
    fn what_was_not_synced_is_lost_and_what_was_synced_is_not() {
        let folder = Folder::new();
        let mut disks = match Disks::new(folder.path("disks"), 1, 16 << 20) {
            Ok(disks) => disks,
            Err(reason) => {
                println!("no disks that lose power here: {reason}");
                return;
            }
        };
        let path = |disks: &Disks, name: &str| disks.mount_point(0).join(name);
        for name in ["synced", "unsynced"] {
            let mut file = File::create(path(&disks, name)).unwrap();
            file.write_all(&[1; 8192]).unwrap();
            file.sync_all().unwrap();
        }
        File::open(disks.mount_point(0)).unwrap().sync_all().unwrap();
        for (name, flags) in [("unsynced", 0), ("synced", libc::O_DSYNC)] {
            let mut file =
                File::options().write(true).custom_flags(flags).open(path(&disks, name)).unwrap();
            file.write_all(&[2; 8192]).unwrap();
        }
        let (survived, _) = disks.cut(0, &mut Prng::from_seed(1));
        assert!(File::create(path(&disks, "after")).and_then(|file| file.sync_all()).is_err());
        disks.restore(0, survived);
        assert_eq!(fs::read(path(&disks, "synced")).unwrap(), [2; 8192]);
        assert_eq!(fs::read(path(&disks, "unsynced")).unwrap(), [1; 8192]);
        assert!(!path(&disks, "after").exists());
    }
}
