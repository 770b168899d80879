//! Clusters of real processes over loopback, for tests: formats small data files, starts, kills,
//! pauses and restarts replicas, asks them for their status, and leaves nothing behind.
//!
//! ```text
//!   test ──► Cluster ──► child processes `vsr start` ──► data files and logs in its own folder
//!               └─────► `vsr status --json`, polled until a condition holds or a deadline passes
//! ```
//!
//! **Invariants:** every wait has a deadline and says what it waited for; every child is killed and
//! waited for when its cluster is dropped, also by a panic; the folder of a failed test stays, and
//! the ends of its logs are printed.
//!
//! **Not here:** what a cluster must do: the tests say that.

pub(crate) mod json;
pub(crate) mod load;
pub(crate) mod raw;

use json::Json;
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use vsr::stdx::Prng;
use vsr::storage::Geometry;

/// The longest that anything which must happen may take. Long, because it is only ever reached by
/// a failure: tests wait for conditions.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(10);

/// The moment, by a clock that never goes back.
#[expect(clippy::disallowed_methods, reason = "a test of real processes measures real time")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Lets time pass: between two looks at a condition, or to pace a load. Never to order events.
#[expect(clippy::disallowed_methods, reason = "a test of real processes waits in real time")]
pub(crate) fn pass(duration: Duration) {
    std::thread::sleep(duration);
}

/// Looks until `condition` gives something. Panics with `what` after `deadline`.
#[track_caller]
pub(crate) fn wait_for<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < deadline, "waited {deadline:?} in vain: {what}");
        pass(POLL);
    }
}

/// A folder of one test, on the disk that holds the build: direct I/O needs a real file system.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
}

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("process-{}-{count}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).expect("a folder for the test");
        Self { path }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("kept for inspection: {}", self.path.display());
        } else {
            fs::remove_dir_all(&self.path).expect("the folder of the test can be removed");
        }
    }
}

/// Free ports of 127.0.0.1 that no other test of this process has. They lie below the range from
/// which the kernel takes the ports of outgoing connections: a port of that range could be taken
/// while its replica is down, or even connect to itself.
pub(crate) fn free_ports(count: usize) -> Vec<u16> {
    static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ephemeral = range.split_whitespace().next().and_then(|low| low.parse().ok());
    let end: u64 = ephemeral.filter(|low| *low > 8192).unwrap_or(32768);
    let mut entropy = [0; 8];
    let mut source = File::open("/dev/urandom").expect("a source of entropy");
    source.read_exact(&mut entropy).expect("a source of entropy");
    let mut prng = Prng::from_seed(u64::from_le_bytes(entropy));
    let mut ports = Vec::new();
    let mut taken = TAKEN.lock().expect("no test panics in here");
    for _ in 0..10_000 {
        if ports.len() == count {
            break;
        }
        let port = u16::try_from(prng.range_inclusive(4096, end - 1)).expect("below 65536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && taken.insert(port) {
            ports.push(port);
        }
    }
    assert_eq!(ports.len(), count, "not enough free ports");
    ports
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Finished {
    #[expect(dead_code, reason = "for whoever reads a failed assertion")]
    command: String,
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// Asserts the exit status. Returns itself for more.
    #[track_caller]
    pub(crate) fn exits(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "{self:#?}");
        assert!(!self.stderr.contains("panicked"), "{self:#?}");
        self
    }

    /// Asserts that one line on stderr contains every one of `parts`, whatever their case.
    #[track_caller]
    pub(crate) fn says(self, parts: &[&str]) -> Self {
        let said = self.stderr.lines().any(|line| {
            let line = line.to_lowercase();
            parts.iter().all(|part| line.contains(&part.to_lowercase()))
        });
        assert!(said, "no line says {parts:?}: {self:#?}");
        self
    }

    /// Asserts that stdout is exactly this line.
    #[track_caller]
    pub(crate) fn prints(self, line: &str) -> Self {
        assert_eq!(self.stdout, format!("{line}\n"), "{self:#?}");
        self
    }

    /// Stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Json {
        Json::parse(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }
}

/// The binary under test, without the caller's environment for it.
pub(crate) fn vsr() -> Command {
    on_its_own(Command::new(env!("CARGO_BIN_EXE_vsr")))
}

/// The binary under test in a process in which a shell did `prelude` first: the signals that it
/// ignores stay ignored.
fn vsr_after(prelude: &str) -> Command {
    let mut command = on_its_own(Command::new("sh"));
    command.arg("-c").arg(format!("{prelude}; exec \"$0\" \"$@\""));
    command.arg(env!("CARGO_BIN_EXE_vsr"));
    command
}

fn on_its_own(mut command: Command) -> Command {
    command.env_remove("VSR_ADDRESSES").env_remove("RUST_LOG").env("RUST_BACKTRACE", "1");
    command.stdin(Stdio::null());
    command
}

/// Runs a command to its end. Panics if that takes longer than [`DEADLINE`].
#[track_caller]
pub(crate) fn run(command: &mut Command) -> Finished {
    let text = format!("{command:?}");
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut stdout = child.stdout.take().expect("piped");
    let mut stderr = child.stderr.take().expect("piped");
    let (status, out, err) = std::thread::scope(|scope| {
        let out = scope.spawn(move || read_all(&mut stdout));
        let err = scope.spawn(move || read_all(&mut stderr));
        let start = now();
        let status = loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                break status.code();
            }
            if start.elapsed() > DEADLINE {
                child.kill().expect("a child can be killed");
                child.wait().expect("a child can be waited for");
                break None;
            }
            pass(Duration::from_millis(2));
        };
        (status, out.join().expect("no panic"), err.join().expect("no panic"))
    });
    Finished { command: text, status, stdout: out, stderr: err }
}

fn text(addresses: &[SocketAddr]) -> String {
    let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    addresses.join(",")
}

fn read_all(source: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    source.read_to_end(&mut bytes).expect("a pipe can be read");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Sends a signal by name (`STOP`, `CONT`, `TERM`).
pub(crate) fn signal(pid: u32, name: &str) {
    // `kill` is built into the shell; calling the system directly would need `unsafe`.
    run(Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}"))).exits(0);
}

/// What `vsr status --json` says of one replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplicaStatus {
    pub(crate) reachable: bool,
    pub(crate) status: String,
    pub(crate) view: u64,
    pub(crate) op: u64,
    pub(crate) commit_min: u64,
    pub(crate) commit_max: u64,
    pub(crate) journal_dirty: u64,
}

/// What `vsr status --json` says.
#[derive(Debug, Clone)]
pub(crate) struct Status {
    pub(crate) available: bool,
    pub(crate) primary: Option<usize>,
    pub(crate) view: u64,
    pub(crate) replicas: Vec<ReplicaStatus>,
}

impl Status {
    fn parse(json: &Json) -> Self {
        let replicas = json.member("replicas").array().iter().map(|replica| ReplicaStatus {
            reachable: replica.member("reachable").bool(),
            status: replica.get("status").and_then(Json::as_string).unwrap_or_default(),
            view: replica.get("view").and_then(Json::as_u64).unwrap_or_default(),
            op: replica.get("op").and_then(Json::as_u64).unwrap_or_default(),
            commit_min: replica.get("commit_min").and_then(Json::as_u64).unwrap_or_default(),
            commit_max: replica.get("commit_max").and_then(Json::as_u64).unwrap_or_default(),
            journal_dirty: replica.get("journal_dirty").and_then(Json::as_u64).unwrap_or_default(),
        });
        let primary = json.get("primary").and_then(Json::as_u64);
        Self {
            available: json.member("available").bool(),
            primary: primary.map(|index| usize::try_from(index).expect("a replica index")),
            view: json.get("view").and_then(Json::as_u64).unwrap_or_default(),
            replicas: replicas.collect(),
        }
    }

    /// Whether all these replicas answer, are normal, in one view, and have executed the same ops
    /// and have them on their disks: a slow disk may be behind what others have made certain.
    pub(crate) fn agree(&self, replicas: &[usize]) -> bool {
        let mut of = replicas.iter().map(|index| &self.replicas[*index]);
        let first = of.next().expect("at least one replica");
        let normal = |replica: &ReplicaStatus| {
            let committed = [replica.commit_min, replica.commit_max] == [replica.op; 2];
            replica.reachable
                && replica.status == "normal"
                && committed
                && replica.journal_dirty == 0
        };
        normal(first)
            && of.all(|replica| {
                normal(replica) && replica.view == first.view && replica.op == first.op
            })
    }
}

/// Formatted replicas with their ports, running or not.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) folder: Folder,
    pub(crate) ports: Vec<u16>,
    pub(crate) geometry: Geometry,
    /// How each replica is started, where that is not the usual way.
    pub(crate) launches: Vec<Launch>,
    children: Vec<Option<Child>>,
}

/// What is particular to the process of one replica.
#[derive(Debug, Clone, Default)]
pub(crate) struct Launch {
    /// The addresses as it sees them, if there is something between it and the others.
    pub(crate) addresses: Option<Vec<SocketAddr>>,
    /// Its data file, if that does not lie in the folder of the cluster.
    pub(crate) data: Option<PathBuf>,
    /// Environment variables.
    pub(crate) environment: Vec<(String, String)>,
    /// More arguments of `vsr start`.
    pub(crate) arguments: Vec<String>,
    /// What a shell does in its process before it becomes a replica.
    pub(crate) prelude: Option<String>,
}

/// Enough for every load here, and formatted in a moment: 64 MiB for each replica.
pub(crate) const GEOMETRY: Geometry = Geometry {
    message_size: 4096,
    journal_slots: 16384,
    block_size: 4096,
    pipeline: 8,
    clients_max: 256,
};

impl Cluster {
    /// A running, available cluster.
    #[track_caller]
    pub(crate) fn new(replica_count: usize) -> Self {
        let mut cluster = Self::formatted(replica_count, GEOMETRY);
        cluster.start_all();
        cluster.wait_available();
        cluster
    }

    /// Data files, and no process yet.
    #[track_caller]
    pub(crate) fn formatted(replica_count: usize, geometry: Geometry) -> Self {
        let cluster = Self::unformatted(replica_count, geometry);
        for replica in 0..replica_count {
            run(&mut cluster.format_command(replica)).exits(0);
        }
        cluster
    }

    /// A folder and ports, and no data files yet.
    pub(crate) fn unformatted(replica_count: usize, geometry: Geometry) -> Self {
        let folder = Folder::new();
        let ports = free_ports(replica_count);
        let launches = vec![Launch::default(); replica_count];
        let children = (0..replica_count).map(|_| None).collect();
        Self { folder, ports, geometry, launches, children }
    }

    pub(crate) fn replica_count(&self) -> usize {
        self.children.len()
    }

    pub(crate) fn format_command(&self, replica: usize) -> Command {
        let mut command = vsr();
        command
            .arg("format")
            .arg(format!("--replica={replica}"))
            .arg(format!("--replica-count={}", self.replica_count()))
            .arg(format!("--journal-slots={}", self.geometry.journal_slots))
            .arg(format!("--message-size={}", self.geometry.message_size))
            .arg(format!("--pipeline={}", self.geometry.pipeline))
            .arg(format!("--block-size={}", self.geometry.block_size))
            .arg(format!("--clients-max={}", self.geometry.clients_max))
            .arg("--data")
            .arg(self.data(replica));
        command
    }

    pub(crate) fn start_command(&self, replica: usize) -> Command {
        let launch = &self.launches[replica];
        let addresses = launch.addresses.clone().unwrap_or_else(|| self.addresses());
        let mut command = launch.prelude.as_deref().map_or_else(vsr, vsr_after);
        command
            .arg("start")
            .arg(format!("--replica={replica}"))
            .arg(format!("--addresses={}", text(&addresses)))
            .args(&launch.arguments)
            .envs(launch.environment.iter().cloned())
            .arg("--data")
            .arg(self.data(replica));
        command
    }

    pub(crate) fn data(&self, replica: usize) -> PathBuf {
        let own = self.launches[replica].data.clone();
        own.unwrap_or_else(|| self.folder.path(&format!("replica-{replica}.vsr")))
    }

    fn log_path(&self, replica: usize) -> PathBuf {
        self.folder.path(&format!("replica-{replica}.log"))
    }

    /// All a replica ever logged.
    pub(crate) fn log(&self, replica: usize) -> String {
        let bytes = fs::read(self.log_path(replica)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    pub(crate) fn addresses_text(&self) -> String {
        text(&self.addresses())
    }

    /// Starts a replica that is not running.
    #[track_caller]
    pub(crate) fn start(&mut self, replica: usize) {
        assert!(!self.runs(replica), "replica {replica} runs already");
        let log = File::options().create(true).append(true).open(self.log_path(replica));
        let log = log.expect("a log file");
        let child = self
            .start_command(replica)
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log)
            .spawn()
            .expect("the binary under test starts");
        self.children[replica] = Some(child);
    }

    #[track_caller]
    pub(crate) fn start_all(&mut self) {
        for replica in 0..self.replica_count() {
            self.start(replica);
        }
    }

    /// Whether a replica was started and not ended since by the test.
    pub(crate) fn runs(&self, replica: usize) -> bool {
        self.children[replica].is_some()
    }

    pub(crate) fn pid(&self, replica: usize) -> u32 {
        self.children[replica].as_ref().expect("it runs").id()
    }

    /// SIGKILL: what a replica must survive at any moment.
    pub(crate) fn kill(&mut self, replica: usize) {
        let mut child = self.children[replica].take().expect("it runs");
        child.kill().expect("a child can be killed");
        child.wait().expect("a child can be waited for");
    }

    /// SIGKILL to all, as near to at once as it goes.
    pub(crate) fn kill_all(&mut self) {
        for child in self.children.iter_mut().flatten() {
            child.kill().expect("a child can be killed");
        }
        for child in self.children.iter_mut().filter_map(Option::take) {
            let mut child = child;
            child.wait().expect("a child can be waited for");
        }
    }

    /// SIGSTOP: a pause that the replica does not see coming.
    pub(crate) fn pause(&self, replica: usize) {
        signal(self.pid(replica), "STOP");
    }

    pub(crate) fn resume(&self, replica: usize) {
        signal(self.pid(replica), "CONT");
    }

    /// SIGTERM, and the end it leads to.
    #[track_caller]
    pub(crate) fn terminate(&mut self, replica: usize) -> Option<i32> {
        signal(self.pid(replica), "TERM");
        self.wait_exit(replica)
    }

    /// Waits until a replica has ended by itself.
    #[track_caller]
    pub(crate) fn wait_exit(&mut self, replica: usize) -> Option<i32> {
        let child = self.children[replica].as_mut().expect("it runs");
        let status = wait_for(&format!("replica {replica} ends"), DEADLINE, || {
            child.try_wait().expect("a child can be waited for")
        });
        self.children[replica] = None;
        status.code()
    }

    /// How a replica ended that should be running, if it did.
    pub(crate) fn ended(&mut self, replica: usize) -> Option<std::process::ExitStatus> {
        let child = self.children[replica].as_mut()?;
        child.try_wait().expect("a child can be waited for")
    }

    /// Asserts that every replica which should be running still does.
    #[track_caller]
    pub(crate) fn assert_alive(&mut self) {
        for replica in 0..self.replica_count() {
            assert_eq!(self.ended(replica), None, "replica {replica} ended");
        }
    }

    /// A client command against this cluster.
    pub(crate) fn client(&self, arguments: &[&str]) -> Command {
        let mut command = vsr();
        command.args(arguments).env("VSR_ADDRESSES", self.addresses_text());
        command
    }

    /// Runs a client command to its end.
    #[track_caller]
    pub(crate) fn vsr(&self, arguments: &[&str]) -> Finished {
        run(&mut self.client(arguments))
    }

    #[track_caller]
    pub(crate) fn status(&self) -> Status {
        // Replicas that are down are waited for: not for the default's full second each time.
        let finished = self.vsr(&["status", "--json", "--timeout=300ms"]);
        assert!(matches!(finished.status, Some(0 | 3)), "{finished:#?}");
        let status = Status::parse(&finished.json());
        assert_eq!(status.replicas.len(), self.replica_count(), "{finished:#?}");
        assert_eq!(status.available, finished.status == Some(0), "{finished:#?}");
        status
    }

    /// Polls the status until `condition` holds.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, condition: impl Fn(&Status) -> bool) -> Status {
        let start = now();
        loop {
            let status = self.status();
            if condition(&status) {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "waited in vain: {what}; last: {status:#?}");
            pass(POLL);
        }
    }

    /// Until a primary is there and a quorum with it. Returns the primary.
    #[track_caller]
    pub(crate) fn wait_available(&self) -> usize {
        let status = self.wait("available", |status| status.available);
        status.primary.expect("an available cluster has a primary")
    }

    /// Until all these replicas are normal in one view and have executed the same ops.
    #[track_caller]
    pub(crate) fn wait_agreement(&self, replicas: &[usize]) -> Status {
        self.wait(&format!("{replicas:?} agree"), |status| status.agree(replicas))
    }

    /// Until the cluster is available and all replicas are normal, while ops come and go.
    #[track_caller]
    pub(crate) fn wait_all_normal(&self) -> Status {
        self.wait("all are normal, and near the head", |status| {
            let head = status.replicas.iter().map(|replica| replica.op).max();
            let near = |replica: &ReplicaStatus| Some(replica.commit_min + 64) >= head;
            let normal = |replica: &ReplicaStatus| replica.status == "normal" && near(replica);
            status.available && status.replicas.iter().all(normal)
        })
    }

    /// Until all replicas agree.
    #[track_caller]
    pub(crate) fn wait_all(&self) -> Status {
        let all: Vec<usize> = (0..self.replica_count()).collect();
        self.wait_agreement(&all)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            // It may have ended already; then there is nothing to kill, but still to wait for.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for replica in 0..self.replica_count() {
                let log = self.log(replica);
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(40)..];
                eprintln!("--- replica {replica}, end of its log:\n{}", tail.join("\n"));
            }
        }
    }
}
