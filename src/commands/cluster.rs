//! F6: a cluster of three replicas on this machine, made for `demo` and `benchmark`: child
//! processes of this binary in a temporary folder.
//!
//! **Invariants:** whichever way the owner ends, short of being killed itself, every child is
//! killed and waited for before the folder is removed.
//!
//! **Not here:** clusters that matter: their replicas are started by whoever looks after them.

use super::{Failure, Result, format, operating_system};
use crate::cli;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use vsr::client::{Client, ClientConfig};
use vsr::fatal::{Fatal, FatalKind};
use vsr::io::{IO, MioIO};
use vsr::storage::Geometry;
use vsr::wire::{ClusterId, ReplicaIndex};

/// Replicas of a cluster of our own.
pub(super) const REPLICA_COUNT: u8 = 3;
/// How often ports are chosen anew if somebody else was faster.
const PORT_ATTEMPTS: u32 = 5;
/// How long a new cluster may take until it answers.
const READY_TIMEOUT_NS: u64 = 30_000_000_000;
/// How often a cluster is asked whether it is ready.
const READY_PERIOD: Duration = Duration::from_millis(20);

/// A folder that is removed with everything in it.
#[derive(Debug)]
struct TemporaryFolder {
    path: PathBuf,
}

impl TemporaryFolder {
    fn new(io: &mut MioIO, name: &str) -> Result<Self> {
        let random = io.entropy();
        let name = format!("vsr-{name}-{}-{random:016x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        match fs::create_dir(&path) {
            Ok(()) => Ok(Self { path }),
            Err(error) => Err(Failure::Fatal(Fatal::new(
                FatalKind::OperatingSystem,
                format!("{}: cannot be created: {error}; set TMPDIR", path.display()),
            ))),
        }
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            let path = self.path.display();
            super::tell(&format!("{path}: cannot be removed: {error}; remove it by hand"));
        }
    }
}

/// A process that does not outlive this value.
#[derive(Debug)]
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        // Neither can fail in a way that leaves the child alive: it may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Three replicas. Fields are dropped in order: the children before their folder.
#[derive(Debug)]
pub(super) struct LocalCluster {
    children: Vec<Option<Guard>>,
    addresses: Vec<SocketAddr>,
    folder: TemporaryFolder,
}

impl LocalCluster {
    /// Formats three data files and starts their replicas, without waiting for them.
    pub(super) fn new(io: &mut MioIO, name: &str, geometry: Geometry) -> Result<Self> {
        assert_eq!(geometry.invalid(), None);
        let folder = TemporaryFolder::new(io, name)?;
        let children = (0..REPLICA_COUNT).map(|_| None).collect();
        let cluster = Self { children, addresses: Vec::new(), folder };
        for index in 0..REPLICA_COUNT {
            let arguments = cli::Format {
                path: cluster.data_path(ReplicaIndex(index)),
                cluster: ClusterId(0),
                replica: ReplicaIndex(index),
                replica_count: REPLICA_COUNT,
                geometry,
                development: true,
            };
            format::run_quietly(&arguments)?;
        }
        Ok(cluster)
    }

    /// Starts all replicas and waits until they are a cluster. Returns a client of it, which knows
    /// whether the process is to end: then it may not be one yet.
    pub(super) fn start_all(&mut self, mut io: MioIO) -> Result<Client<MioIO>> {
        for _ in 0..PORT_ATTEMPTS {
            self.children.iter_mut().for_each(|child| *child = None);
            self.addresses = free_addresses().map_err(operating_system)?;
            for index in 0..REPLICA_COUNT {
                self.start(ReplicaIndex(index))?;
            }
            let config = ClientConfig { addresses: self.addresses.clone(), ..Default::default() };
            let mut client = Client::connect(io, config);
            if self.wait_ready(&mut client)? {
                return Ok(client);
            }
            io = client.close();
        }
        Err(Failure::Fatal(Fatal::new(
            FatalKind::Listen,
            format!("no three free ports on 127.0.0.1 in {PORT_ATTEMPTS} attempts; try again"),
        )))
    }

    /// By replica index.
    pub(super) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// As `VSR_ADDRESSES` and `--addresses` take them.
    pub(super) fn addresses_text(&self) -> String {
        let texts: Vec<String> = self.addresses.iter().map(SocketAddr::to_string).collect();
        texts.join(",")
    }

    /// Where data files and logs are.
    pub(super) fn folder(&self) -> &Path {
        &self.folder.path
    }

    /// Starts a replica that does not run.
    pub(super) fn start(&mut self, replica: ReplicaIndex) -> Result<()> {
        assert!(self.children[replica.index()].is_none());
        let child = self.spawn(replica).map_err(|error| {
            Failure::Fatal(Fatal::new(
                FatalKind::OperatingSystem,
                format!("replica {replica} cannot be started as a child process: {error}"),
            ))
        })?;
        self.children[replica.index()] = Some(Guard(child));
        Ok(())
    }

    /// Ends a replica with SIGKILL, as a power cut would.
    pub(super) fn kill(&mut self, replica: ReplicaIndex) {
        let killed = self.children[replica.index()].take();
        assert!(killed.is_some(), "replica {replica} runs");
    }

    fn spawn(&self, replica: ReplicaIndex) -> std::io::Result<Child> {
        let log = File::options().create(true).append(true).open(self.log_path(replica))?;
        Command::new(std::env::current_exe()?)
            .arg("start")
            .arg(format!("--replica={replica}"))
            .arg(format!("--addresses={}", self.addresses_text()))
            .arg("--data")
            .arg(self.data_path(replica))
            .arg("--development")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    fn data_path(&self, replica: ReplicaIndex) -> PathBuf {
        self.folder.path.join(cli::data_path(replica))
    }

    fn log_path(&self, replica: ReplicaIndex) -> PathBuf {
        self.folder.path.join(format!("replica-{replica}.log"))
    }

    /// False if a port was taken meanwhile.
    fn wait_ready(&mut self, client: &mut Client<MioIO>) -> Result<bool> {
        let deadline_ns = client.io().monotonic() + READY_TIMEOUT_NS;
        loop {
            let reports = client.status_all(Duration::from_millis(200));
            let all = reports.iter().flatten().filter(|report| report.born).count();
            if super::status::primary(&reports).is_some() && all == usize::from(REPLICA_COUNT) {
                return Ok(true);
            }
            if client.is_terminated() {
                return Ok(true);
            }
            if let Some((replica, status)) = self.ended().map_err(operating_system)? {
                if status.code() == Some(i32::from(FatalKind::Listen as u8)) {
                    return Ok(false);
                }
                return Err(self.broken(&format!("replica {replica} ended early ({status})")));
            }
            if client.io().monotonic() >= deadline_ns {
                return Err(self.broken("the replicas did not become a cluster in 30 s"));
            }
            client.pause(READY_PERIOD);
        }
    }

    /// A replica that ended by itself.
    fn ended(&mut self) -> std::io::Result<Option<(ReplicaIndex, ExitStatus)>> {
        for (index, child) in (0..).zip(&mut self.children) {
            if let Some(Guard(child)) = child
                && let Some(status) = child.try_wait()?
            {
                return Ok(Some((ReplicaIndex(index), status)));
            }
        }
        Ok(None)
    }

    /// What went wrong, with the ends of the replicas' logs, whose folder is about to go.
    fn broken(&self, what: &str) -> Failure {
        let mut text = String::from(what);
        for index in 0..REPLICA_COUNT {
            let log = fs::read_to_string(self.log_path(ReplicaIndex(index))).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            for line in &lines[lines.len().saturating_sub(5)..] {
                text.push_str(&format!("\n  replica {index}: {line}"));
            }
        }
        Failure::Fatal(Fatal::new(FatalKind::OperatingSystem, text))
    }
}

/// Addresses that nobody listens on right now.
fn free_addresses() -> std::io::Result<Vec<SocketAddr>> {
    // All at once: a port that was given back may be given out again.
    let listeners: Vec<TcpListener> = (0..REPLICA_COUNT)
        .map(|_| TcpListener::bind(("127.0.0.1", 0)))
        .collect::<std::io::Result<_>>()?;
    listeners.iter().map(TcpListener::local_addr).collect()
}

#[cfg(test)]
mod tests {
    use super::super::io_new;
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn free_addresses_differ() {
        let addresses = free_addresses().expect("free ports");
        assert_eq!(addresses.iter().collect::<BTreeSet<_>>().len(), usize::from(REPLICA_COUNT));
    }

    #[test]
    fn folder_goes_with_its_value() {
        let mut io = io_new(false).expect("a world");
        let folder = TemporaryFolder::new(&mut io, "test").expect("a folder");
        let path = folder.path.clone();
        fs::write(path.join("file"), b"x").expect("room for a byte");
        drop(folder);
        assert!(!path.exists());
    }

    #[test]
    fn guarded_process_ends_with_its_guard() {
        let child = Command::new("sleep").arg("1000").spawn().expect("a process");
        let pid = child.id();
        drop(Guard(child));
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "killed and waited for");
    }
}
