//! One run: a cluster of its own, a plan, and the verdict.
//!
//! ```text
//!   format, start, clients ──► the plan's steps, each at its time ──► heal everything
//!      ──► every client is answered ──► clients end ──► all replicas agree
//!      ──► read everything, by two different quorums ──► the checkers judge
//! ```
//!
//! **Invariants:** a replica ends only when it is made to; nothing is judged before the cluster is
//! whole and all its replicas have executed the same.
//!
//! **Not here:** what the plan is (`schedule`).

use crate::clients::{Clients, Counts, read_all};
use crate::disk::Disks;
use crate::harness::{Cluster, Folder, Status, now, pass, signal};
use crate::proxy::Network;
use crate::schedule::{Action, Plan};
use std::fmt;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Once;
use std::time::Duration;
use vsr::constants::SECTOR_SIZE;
use vsr::stdx::Prng;
use vsr::storage::Layout;

/// The longest that a healed cluster may take to be whole. Only a failure reaches it.
const WHOLE: Duration = Duration::from_secs(180);
/// How long a rolling restart waits for one replica; other faults may keep it from coming back.
const ROLLING: Duration = Duration::from_secs(1);
/// How long a loss of power waits for a write that it can hit.
const WRITE_WAIT: Duration = Duration::from_millis(500);
/// A disk, in bytes: the largest journal of a plan, and room for the grid.
const DISK_SIZE: usize = 40 << 20;

/// What runs add up to.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Totals {
    steps: u64,
    calls: Counts,
    compared: u64,
    undecided: u64,
    /// How often a replica had no room for a checkpoint.
    full: u64,
    power_losses: u64,
    sectors_lost: u64,
    flushes: u64,
}

impl Totals {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.calls.done += other.calls.done;
        self.calls.not_done += other.calls.not_done;
        self.calls.unknown += other.calls.unknown;
        self.compared += other.compared;
        self.undecided += other.undecided;
        self.full += other.full;
        self.power_losses += other.power_losses;
        self.sectors_lost += other.sectors_lost;
        self.flushes += other.flushes;
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { done, not_done, unknown } = self.calls;
        write!(
            f,
            "{} steps; calls: {done} done, {not_done} not done, {unknown} unknown; {} comparisons, \
             {} keys undecided; {} times a full disk; {} disks lost power and {} sectors, after {} \
             flushes",
            self.steps,
            self.compared,
            self.undecided,
            self.full,
            self.power_losses,
            self.sectors_lost,
            self.flushes
        )
    }
}

/// Says how to do it again, if the run fails.
struct Described {
    seed: u64,
    plan: Plan,
}

impl Drop for Described {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self { seed, plan } = self;
            let seconds = 2 * plan.duration.as_secs();
            eprintln!("chaos failed; again: scripts/chaos.sh {seconds} {seed}");
            eprintln!(
                "seed {seed}, {} replicas, {:?}, {} clients; steps:",
                plan.replica_count, plan.geometry, plan.clients
            );
            for step in &plan.steps {
                eprintln!("{step}");
            }
        }
    }
}

/// Everything of a run. Dropped in this order: processes before the disks they use.
struct World {
    cluster: Cluster,
    network: Network,
    disks: Option<Disks>,
    _disks_folder: Folder,
    clocks: Vec<File>,
    paused: Vec<bool>,
    totals: Totals,
}

/// Runs the plan of `seed` and judges it.
#[track_caller]
pub(crate) fn run(seed: u64, replica_count: usize, duration: Duration) -> Totals {
    let plan = Plan::draw(seed, replica_count, duration);
    let described = Described { seed, plan: plan.clone() };
    println!(
        "chaos: seed {seed}: {replica_count} replicas, {} clients, {} steps",
        plan.clients,
        plan.steps.len()
    );
    let mut prng = Prng::from_seed(seed ^ 0x9e37_79b9);
    let mut world = World::new(&plan, &mut prng);
    world.cluster.start_all();
    world.cluster.wait_available();
    let addresses = world.network.addresses_of_clients();
    let clients =
        Clients::start(replica_count, addresses, plan.clients, plan.value_size, &mut prng);
    let start = now();
    for step in &plan.steps {
        pass(step.at.saturating_sub(start.elapsed()));
        world.check_alive(&format!("before {step}"));
        let at = start.elapsed().as_millis();
        world.act(&step.action);
        let took = start.elapsed().as_millis() - at;
        if std::env::var_os("VSR_CHAOS_LOG").is_some() {
            println!("{at:>6} + {took} ms  {:?}  {:?}", step.action, clients.counts());
        }
        world.totals.steps += 1;
    }
    world.heal();
    clients.wait_answered(WHOLE);
    let recorder = clients.finish();
    let finals = world.finals();
    world.check_alive("at the end");
    let (calls, reports) = recorder.finish(&finals);
    world.totals.calls = calls;
    for report in reports {
        assert_eq!(report.failure, None, "{} of seed {seed}", report.name);
        assert!(!report.vacuous, "{} compared nothing", report.name);
        world.totals.compared += report.compared;
        world.totals.undecided += report.undecided;
    }
    for replica in 0..replica_count {
        let log = world.cluster.log(replica);
        assert!(!log.contains("panicked"), "replica {replica} panicked");
        world.totals.full += log.matches("the store is full").count() as u64;
    }
    world.totals.flushes = world.disks.as_ref().map_or(0, Disks::flushes);
    println!("chaos: seed {seed}: {}", world.totals);
    let totals = world.totals;
    drop(world);
    drop(described);
    totals
}

impl World {
    fn new(plan: &Plan, prng: &mut Prng) -> Self {
        static SAY_ONCE: Once = Once::new();
        let replica_count = plan.replica_count;
        let mut cluster = Cluster::unformatted(replica_count, plan.geometry);
        let network = Network::new(&cluster.addresses(), prng);
        let disks_folder = Folder::new();
        let disks = match Disks::new(disks_folder.path("disks"), replica_count, DISK_SIZE) {
            Ok(disks) => Some(disks),
            Err(reason) => {
                SAY_ONCE.call_once(|| {
                    println!(
                        "chaos: no disks that lose power here ({reason}): SIGKILL and --size-limit \
                         take their place"
                    );
                });
                None
            }
        };
        let library = clock_library(&cluster.folder);
        let own = cluster.addresses();
        let mut clocks = Vec::new();
        for (replica, own) in own.into_iter().enumerate() {
            let clock = cluster.folder.path(&format!("clock-{replica}"));
            fs::write(&clock, 0i64.to_ne_bytes()).expect("a file of the test");
            clocks.push(File::options().write(true).open(&clock).expect("it was just made"));
            let launch = &mut cluster.launches[replica];
            launch.addresses = Some(network.addresses_of_replica(replica, own));
            launch.environment.push(("LD_PRELOAD".into(), library.display().to_string()));
            launch.environment.push(("VSR_CLOCK_FILE".into(), clock.display().to_string()));
            let name = format!("replica-{replica}.vsr");
            launch.data = disks.as_ref().map(|disks| disks.mount_point(replica).join(name));
            crate::harness::run(&mut cluster.format_command(replica)).exits(0);
        }
        let paused = vec![false; replica_count];
        let totals = Totals::default();
        Self { cluster, network, disks, _disks_folder: disks_folder, clocks, paused, totals }
    }

    /// No replica may have ended by itself.
    #[track_caller]
    fn check_alive(&mut self, when: &str) {
        for replica in 0..self.cluster.replica_count() {
            let ended = self.cluster.ended(replica);
            assert_eq!(ended, None, "replica {replica} ended by itself {when}");
        }
    }

    fn act(&mut self, action: &Action) {
        match action {
            Action::Kill(replicas) => self.kill(replicas),
            Action::Start(replicas) => self.start(replicas),
            Action::Pause(replica) => {
                if self.cluster.runs(*replica) && !self.paused[*replica] {
                    self.cluster.pause(*replica);
                    self.paused[*replica] = true;
                }
            }
            Action::Resume(replica) => self.resume(*replica),
            Action::Rolling => self.rolling(),
            Action::Rot(replica, places, seed) => {
                self.kill(&[*replica]);
                self.rot(*replica, *places, &mut Prng::from_seed(*seed));
                self.start(&[*replica]);
            }
            Action::Fill(replica) => self.fill(*replica),
            Action::Empty(replica) => self.empty(*replica),
            Action::PowerLoss(replicas, seed) => {
                self.lose_power(replicas, &mut Prng::from_seed(*seed));
            }
            Action::Clock(replica, seconds) => self.set_clock(*replica, *seconds),
            _ => self.act_on_network(action),
        }
    }

    fn act_on_network(&self, action: &Action) {
        let network = &self.network;
        match action {
            Action::Hold(pairs) => pairs.iter().for_each(|(a, b)| network.hold(*a, *b, true)),
            Action::Release(pairs, lost) => {
                for (a, b) in pairs {
                    if *lost {
                        network.reset(*a, *b);
                    }
                    network.hold(*a, *b, false);
                }
            }
            Action::Refuse(pairs) => pairs.iter().for_each(|(a, b)| network.refuse(*a, *b, true)),
            Action::Accept(pairs) => pairs.iter().for_each(|(a, b)| network.refuse(*a, *b, false)),
            Action::HoldClients(replica) => network.hold_clients(*replica, true),
            Action::ReleaseClients(replica) => network.hold_clients(*replica, false),
            Action::Delay(pairs, delay_ms) => {
                let delay = Duration::from_millis(*delay_ms);
                pairs.iter().for_each(|(a, b)| network.delay(*a, *b, delay));
            }
            Action::Reset(pairs) => pairs.iter().for_each(|(a, b)| network.reset(*a, *b)),
            Action::ResetClients(replica) => network.reset_clients(*replica),
            Action::Corrupt(from, to, count) => network.corrupt(*from, *to, *count),
            Action::CorruptClients(replica, count) => network.corrupt_clients(*replica, *count),
            other => unreachable!("{other:?} is not of the network"),
        }
    }

    fn kill(&mut self, replicas: &[usize]) {
        for replica in replicas {
            if self.cluster.runs(*replica) {
                self.cluster.kill(*replica);
                self.paused[*replica] = false;
            }
        }
    }

    fn start(&mut self, replicas: &[usize]) {
        for replica in replicas {
            if !self.cluster.runs(*replica) {
                self.cluster.start(*replica);
            }
        }
    }

    fn resume(&mut self, replica: usize) {
        if self.paused[replica] {
            self.cluster.resume(replica);
            self.paused[replica] = false;
        }
    }

    /// One after the other ends as it is asked to, and comes back.
    fn rolling(&mut self) {
        for replica in 0..self.cluster.replica_count() {
            self.resume(replica);
            if self.cluster.runs(replica) {
                signal(self.cluster.pid(replica), "TERM");
                let status = self.cluster.wait_exit(replica);
                assert!(is_clean(status, &self.cluster.log(replica)), "{status:?} after SIGTERM");
            }
            self.start(&[replica]);
            let start = now();
            while start.elapsed() < ROLLING {
                if self.cluster.status().replicas[replica].status == "normal" {
                    break;
                }
            }
        }
    }

    /// Noise in the file of a replica that is down.
    fn rot(&mut self, replica: usize, places: u32, prng: &mut Prng) {
        let path = self.cluster.data(replica);
        let layout = Layout::new(self.cluster.geometry);
        let mut file = File::options().write(true).open(path).expect("the data file");
        let size = file.metadata().expect("the data file").len();
        for _ in 0..places {
            let sector = u64::from(SECTOR_SIZE);
            let message_size = u64::from(layout.geometry.message_size);
            let slot = prng.index(layout.geometry.journal_slots as usize);
            let slot = layout.prepare_offset(u32::try_from(slot).expect("a slot"));
            let headers = prng.index(layout.header_sectors() as usize);
            let headers = layout.headers_offset(u32::try_from(headers).expect("a sector"));
            let (offset, length) = match prng.below(10) {
                0 => (layout.superblock_offset(2), sector),
                1..=2 => (headers, sector),
                3..=5 => (slot, message_size.min(sector)),
                6..=7 => (slot + prng.below(1024), 1),
                _ => {
                    let grid = layout.grid_offset();
                    (grid + prng.below((size - grid).max(1) / sector + 1) * sector, sector)
                }
            };
            // The file is not made longer.
            let length = length.min(size.saturating_sub(offset));
            let mut noise = vec![0; usize::try_from(length).expect("a sector")];
            prng.fill(&mut noise);
            file.seek(SeekFrom::Start(offset)).expect("an offset in the file");
            file.write_all(&noise).expect("the data file can be written");
        }
        file.sync_all().expect("the data file can be synced");
    }

    fn fill(&mut self, replica: usize) {
        if let Some(disks) = &self.disks {
            disks.fill(replica);
            return;
        }
        let size = fs::metadata(self.cluster.data(replica)).expect("the data file").len();
        self.restart_with(replica, vec![format!("--size-limit={size}")]);
    }

    fn empty(&mut self, replica: usize) {
        match &self.disks {
            Some(disks) => disks.empty(replica),
            None => self.restart_with(replica, Vec::new()),
        }
    }

    fn restart_with(&mut self, replica: usize, arguments: Vec<String>) {
        self.cluster.launches[replica].arguments = arguments;
        if self.cluster.runs(replica) {
            self.kill(&[replica]);
            self.start(&[replica]);
        }
    }

    /// The power of these replicas fails, as near to at once as it goes.
    fn lose_power(&mut self, replicas: &[usize], prng: &mut Prng) {
        let Some(disks) = &mut self.disks else {
            self.kill(replicas);
            self.start(replicas);
            return;
        };
        // In the middle of a write of the first, if it writes: then most is under way.
        let count = 1 + u32::try_from(prng.below(40)).expect("less than 40");
        disks.cut_in_write(replicas[0], count);
        let start = now();
        while !disks.is_cut(replicas[0]) && start.elapsed() < WRITE_WAIT {
            pass(Duration::from_millis(1));
        }
        let survived: Vec<(Vec<u8>, usize)> =
            replicas.iter().map(|replica| disks.cut(*replica, prng)).collect();
        for replica in replicas {
            if self.cluster.runs(*replica) {
                self.cluster.kill(*replica);
                self.paused[*replica] = false;
            }
        }
        for (replica, (content, lost)) in replicas.iter().zip(survived) {
            self.totals.power_losses += 1;
            self.totals.sectors_lost += lost as u64;
            disks.restore(*replica, content);
        }
        self.start(replicas);
    }

    fn set_clock(&self, replica: usize, seconds: i64) {
        let written = self.clocks[replica].write_all_at(&seconds.to_ne_bytes(), 0);
        written.expect("the file of the clock can be written");
    }

    /// Everything is well again.
    fn heal(&mut self) {
        self.network.heal();
        for replica in 0..self.cluster.replica_count() {
            self.set_clock(replica, 0);
            self.resume(replica);
            self.empty(replica);
            self.start(&[replica]);
        }
    }

    /// Waits until all replicas agree.
    #[track_caller]
    fn wait_whole(&self) -> Status {
        let all: Vec<usize> = (0..self.cluster.replica_count()).collect();
        let start = now();
        loop {
            let status = self.cluster.status();
            if status.agree(&all) {
                return status;
            }
            assert!(start.elapsed() < WHOLE, "healed {WHOLE:?} ago, and not whole: {status:#?}");
            pass(Duration::from_millis(50));
        }
    }

    /// What is there, read from the whole cluster and then from one that misses its primary.
    fn finals(&mut self) -> Vec<crate::checkers::FinalState> {
        let primary = self.wait_whole().primary.expect("a whole cluster has a primary");
        let first = read_all(&self.cluster.addresses(), 0);
        self.kill(&[primary]);
        self.cluster.wait_available();
        let second = read_all(&self.cluster.addresses(), 1);
        self.start(&[primary]);
        self.wait_whole();
        vec![first, second]
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let Some(disks) = self.disks.as_ref().filter(|_| std::thread::panicking()) else { return };
        // The disks are gone with this process: their data files are what can be looked at.
        for replica in 0..self.cluster.replica_count() {
            let name = format!("replica-{replica}.vsr");
            let from = disks.mount_point(replica).join(&name);
            let copied = fs::copy(from, self.cluster.folder.path(&name));
            eprintln!("replica {replica}: data file kept: {copied:?}");
        }
    }
}

/// Whether a replica that was sent SIGTERM ended as it should: with status 0, or, if it was just
/// about to begin, by the signal itself or by saying that it was asked to.
fn is_clean(status: Option<i32>, log: &str) -> bool {
    match status {
        Some(0) | None => true,
        Some(_) => log.lines().last().is_some_and(|line| line.contains("asked to end")),
    }
}

/// The library that sets clocks wrong, built from `clock.c` by the compiler that links Rust.
fn clock_library(folder: &Folder) -> PathBuf {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/sim/tests/chaos/clock.c");
    let library = folder.path("clock.so");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    crate::harness::run(&mut compile).exits(0);
    library
}
