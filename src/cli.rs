//! The command line: what was typed ([`Raw`], by clap) and what is meant ([`Command`], validated)
//! are two types. Whoever gets a `Command` need not check it again.
//!
//! ```text
//!   argv ──clap──► Raw ──valid──► Command ──► commands::*
//!            │              │
//!            └── exit 2 ────┘      what, which value, what to do
//! ```
//!
//! **Invariants:** nothing that two replicas must agree on is defaulted differently by two
//! commands; every number in a `Command` is within its bounds, every address is resolved.
//!
//! **Not here:** what the commands do; exit statuses (`commands`).

use clap::{Args, Parser, Subcommand};
use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;
use vsr::constants::REPLICAS_MAX;
use vsr::state_machine::kv::VALUE_SIZE_MAX;
use vsr::storage::Geometry;
use vsr::wire::{ClusterId, ReplicaIndex};

/// Most clients of `benchmark`: each has a connection to each replica.
const BENCHMARK_CLIENTS_MAX: u32 = 1000;

const AFTER_HELP: &str = "\
Exit status:
  0      done
  1      not found, or the comparison failed
  2      usage
  3      unavailable: nothing was done
  4      outcome unknown: it may have been done, or may still be
  5      inspect: the data file is damaged, or differs from another
  10-26  a replica cannot go on; docs/operating.md says why and what to do
  126-129  sim: vacuous, crash, liveness, correctness; docs/simulator.md says more

Addresses are HOST:PORT, [IPV6]:PORT, or PORT for 127.0.0.1.";

/// What was typed. Keys and values are bytes, and need not be text.
#[derive(Debug, Parser)]
#[command(
    name = "vsr",
    version,
    about = "A replicated, durable, fault-tolerant key-value store (Viewstamped Replication)",
    after_help = AFTER_HELP,
    disable_help_subcommand = true,
    propagate_version = false
)]
pub(crate) struct Raw {
    #[command(subcommand)]
    command: RawCommand,
}

#[derive(Debug, Subcommand)]
enum RawCommand {
    /// Create the data file of a replica; never overwrites
    Format(RawFormat),
    /// Run a replica
    Start(RawStart),
    /// Rebuild the lost data file of a replica from the living others; never overwrites
    Recover(RawRecover),
    /// Write a value
    Put {
        /// The key
        key: OsString,
        /// The value
        value: OsString,
        #[command(flatten)]
        client: RawClient,
    },
    /// Print a value; exit status 1 if there is none
    Get {
        /// The key
        key: OsString,
        #[command(flatten)]
        client: RawClient,
    },
    /// Delete a key; exit status 1 if it is not there
    Delete {
        /// The key
        key: OsString,
        #[command(flatten)]
        client: RawClient,
    },
    /// Write NEW if the value is OLD (compare and set); exit status 1 if it is not
    Cas {
        /// The key
        key: OsString,
        /// The value that must be there
        old: OsString,
        /// The value to write
        new: OsString,
        #[command(flatten)]
        client: RawClient,
    },
    /// Print the keys that begin with PREFIX, and their values, in order
    Scan {
        /// What the keys begin with; all keys without it
        #[arg(default_value = "")]
        prefix: OsString,
        /// Rows at most
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        limit: Option<u64>,
        #[command(flatten)]
        client: RawClient,
    },
    /// Show every replica; exit status 3 if the cluster is not available
    Status {
        #[command(flatten)]
        client: RawClient,
    },
    /// Measure requests per second and latencies
    Benchmark(RawBenchmark),
    /// Explain a data file, also a damaged one; reads only
    #[command(subcommand)]
    Inspect(RawInspect),
    /// Run three replicas in a temporary folder, kill the primary, show that nothing is lost
    Demo {
        /// Keep the replicas running until Ctrl-C, also without a terminal
        #[arg(long)]
        keep: bool,
    },
    /// Run the whole system in a simulated world that breaks everything
    Sim(RawSim),
    /// Print version, protocol and build
    Version,
}

#[derive(Debug, Args)]
struct RawFormat {
    /// Which replica, from 0
    #[arg(long, value_name = "I")]
    replica: u8,
    /// Replicas in the cluster, 1 to 6; the same for all
    #[arg(long, value_name = "N")]
    replica_count: u8,
    /// The cluster's number, the same for all its replicas and clients
    #[arg(long, value_name = "ID", value_parser = cluster, default_value = "0")]
    cluster: ClusterId,
    /// The data file [default: replica-I.vsr]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Slots in the journal, a multiple of 64; the same for all
    #[arg(long, value_name = "SLOTS", default_value_t = Geometry::default().journal_slots)]
    journal_slots: u32,
    /// The largest message, 4KiB to 16MiB; the same for all
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "1MiB")]
    message_size: u32,
    /// Sessions, 1 to 65536; the same for all
    #[arg(long, value_name = "N", default_value_t = Geometry::default().clients_max)]
    clients_max: u32,
    /// The size of a block of the store, 4KiB to 64KiB; the same for all
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4KiB")]
    block_size: u32,
    /// Prepares in flight, 1 to 32; the same for all
    #[arg(long, value_name = "N", default_value_t = Geometry::default().pipeline)]
    pipeline: u32,
    /// Accept a file system without direct I/O
    #[arg(long)]
    development: bool,
}

#[derive(Debug, Args)]
struct RawStart {
    /// Which replica, from 0
    #[arg(long, value_name = "I")]
    replica: u8,
    /// The addresses of all replicas, in order, separated by commas
    #[arg(long, value_name = "A0,A1,…", env = "VSR_ADDRESSES")]
    addresses: String,
    /// Where to listen, if not at the own address among `--addresses`
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The data file [default: replica-I.vsr]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// Memory for blocks of the store
    #[arg(long, value_name = "SIZE", value_parser = size_large, default_value = "128MiB")]
    cache_size: u64,
    /// What the data file may grow to [default: what the disk has]
    #[arg(long, value_name = "SIZE", value_parser = size_large)]
    size_limit: Option<u64>,
    /// Refuse the data file if it belongs to another cluster [default: take the file's word]
    #[arg(long, value_name = "ID", value_parser = cluster)]
    cluster: Option<ClusterId>,
    /// Accept a file system without direct I/O
    #[arg(long)]
    development: bool,
    /// What to log on stderr: error, warn, info, debug or trace [default: RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level)]
    log_level: Option<log::LevelFilter>,
}

#[derive(Debug, Args)]
struct RawRecover {
    /// Which replica, from 0
    #[arg(long, value_name = "I")]
    replica: u8,
    /// The addresses of all replicas, in order, separated by commas
    #[arg(long, value_name = "A0,A1,…", env = "VSR_ADDRESSES")]
    addresses: String,
    /// The data file to write [default: replica-I.vsr]
    #[arg(long, value_name = "PATH")]
    data: Option<PathBuf>,
    /// The cluster's number
    #[arg(long, value_name = "ID", value_parser = cluster, default_value = "0")]
    cluster: ClusterId,
    /// How long to try, such as 500ms or 5s; writing the file is not counted
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "30s")]
    timeout: Duration,
    /// Accept a file system without direct I/O
    #[arg(long)]
    development: bool,
}

#[derive(Debug, Args)]
struct RawClient {
    /// The addresses of all replicas, in order, separated by commas
    #[arg(long, value_name = "A0,A1,…", env = "VSR_ADDRESSES")]
    addresses: String,
    /// The cluster's number
    #[arg(long, value_name = "ID", value_parser = cluster, default_value = "0")]
    cluster: ClusterId,
    /// How long to try, such as 500ms or 5s
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    timeout: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RawBenchmark {
    /// Clients, each with one request in flight, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 32)]
    clients: u32,
    /// The size of a value
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "128")]
    value_size: u32,
    /// How long to measure, after a warm-up
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10s")]
    duration: Duration,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 10_000,
        value_parser = clap::value_parser!(u64).range(1..))]
    keys: u64,
    /// How many of 100 requests are reads
    #[arg(long, value_name = "PERCENT", value_parser = percent, default_value = "0%")]
    read_ratio: u32,
    /// The addresses of all replicas [default: a cluster of its own, in a temporary folder]
    #[arg(long, value_name = "A0,A1,…", env = "VSR_ADDRESSES")]
    addresses: Option<String>,
    /// The cluster's number
    #[arg(long, value_name = "ID", value_parser = cluster, default_value = "0")]
    cluster: ClusterId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum RawInspect {
    /// The four copies, which one counts, and all that it says
    Superblock(RawInspected),
    /// Both rings of the log: what is held, what is damaged, what a replica makes of it
    Journal {
        #[command(flatten)]
        inspected: RawInspected,
        /// Show every slot
        #[arg(long)]
        all: bool,
    },
    /// The newest checkpoint: its root, its tables, the use of the grid
    Checkpoint {
        #[command(flatten)]
        inspected: RawInspected,
        /// Tell where it differs from that of another replica's file; exit status 5 if it does
        #[arg(long, value_name = "OTHER_PATH")]
        against: Option<PathBuf>,
    },
    /// One op of the log with all its requests; exit status 1 if it is not held
    Op {
        /// Which
        #[arg(value_name = "N")]
        op: u64,
        #[command(flatten)]
        inspected: RawInspected,
    },
    /// Verify every byte that counts; exit status 5 if any is damaged
    Integrity(RawInspected),
}

#[derive(Debug, Args)]
struct RawInspected {
    /// The data file
    path: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RawSim {
    /// A number, or a commit id of 40 hex digits [default: a random one]
    #[arg(value_parser = seed)]
    seed: Option<u64>,
    /// Run so many seeds, over all cores
    #[arg(long, value_name = "N", conflicts_with = "seed",
        value_parser = clap::value_parser!(u64).range(1..))]
    seeds: Option<u64>,
    /// The first of them [default: 1]
    #[arg(long, value_name = "SEED", conflicts_with = "seed", requires = "seeds")]
    from: Option<u64>,
    /// Print a line for each event
    #[arg(long, conflicts_with = "seeds")]
    log: bool,
    /// Set a knob that the seed would draw; may be given again for others
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<(String, u64)>,
    /// Make the product wrong in this way, in a build with the feature `defects`
    #[arg(long, value_name = "NAME")]
    defect: Option<String>,
}

/// What is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    Format(Format),
    Start(Start),
    Recover(Recover),
    Put { key: Vec<u8>, value: Vec<u8>, client: Client },
    Get { key: Vec<u8>, client: Client },
    Delete { key: Vec<u8>, client: Client },
    Cas { key: Vec<u8>, old: Vec<u8>, new: Vec<u8>, client: Client },
    Scan { prefix: Vec<u8>, limit: Option<u64>, client: Client },
    Status { client: Client },
    Benchmark(Benchmark),
    Inspect(Inspect),
    Demo { keep: bool },
    Sim(Sim),
    Version,
}

/// `vsr format`. The replica is below the count, the geometry valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Format {
    pub(crate) path: PathBuf,
    pub(crate) cluster: ClusterId,
    pub(crate) replica: ReplicaIndex,
    pub(crate) replica_count: u8,
    pub(crate) geometry: Geometry,
    pub(crate) development: bool,
}

/// `vsr start`. The replica is one of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) path: PathBuf,
    pub(crate) replica: ReplicaIndex,
    pub(crate) cluster: Option<ClusterId>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) listen: Option<SocketAddr>,
    pub(crate) cache_size: u64,
    pub(crate) size_limit: u64,
    pub(crate) development: bool,
    pub(crate) log_level: Option<log::LevelFilter>,
}

/// `vsr recover`. The replica is one of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Recover {
    pub(crate) path: PathBuf,
    pub(crate) replica: ReplicaIndex,
    pub(crate) cluster: ClusterId,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) development: bool,
}

/// What all client commands have in common. 1 to 6 addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) cluster: ClusterId,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) timeout: Duration,
    pub(crate) json: bool,
}

/// `vsr benchmark`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Benchmark {
    pub(crate) clients: u32,
    /// Bytes.
    pub(crate) value_size: u32,
    pub(crate) duration: Duration,
    pub(crate) keys: u64,
    /// 0 to 100.
    pub(crate) read_percent: u32,
    /// `None`: a cluster of its own.
    pub(crate) addresses: Option<Vec<SocketAddr>>,
    pub(crate) cluster: ClusterId,
    pub(crate) json: bool,
}

/// `vsr inspect`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inspect {
    pub(crate) part: Part,
    pub(crate) path: PathBuf,
    /// Of a checkpoint: the file to compare with.
    pub(crate) against: Option<PathBuf>,
    pub(crate) json: bool,
}

/// What of a data file is to be inspected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Superblock,
    Journal { all: bool },
    Checkpoint,
    Op(u64),
    Integrity,
}

/// `vsr sim`. Whether a setting names a knob is the simulator's to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sim {
    /// `None`: a random one.
    pub(crate) seed: Option<u64>,
    /// Run so many in place of one.
    pub(crate) seeds: Option<u64>,
    pub(crate) from: u64,
    pub(crate) log: bool,
    pub(crate) settings: Vec<(String, u64)>,
    pub(crate) defect: Option<String>,
}

impl Raw {
    /// What is meant by what was typed.
    ///
    /// # Errors
    /// One sentence for a person: what, which value, what to do.
    pub(crate) fn valid(self) -> Result<Command, String> {
        Ok(match self.command {
            RawCommand::Format(raw) => Command::Format(raw.valid()?),
            RawCommand::Start(raw) => Command::Start(raw.valid()?),
            RawCommand::Recover(raw) => Command::Recover(raw.valid()?),
            RawCommand::Put { key, value, client } => Command::Put {
                key: key.into_vec(),
                value: value.into_vec(),
                client: client.valid()?,
            },
            RawCommand::Get { key, client } => {
                Command::Get { key: key.into_vec(), client: client.valid()? }
            }
            RawCommand::Delete { key, client } => {
                Command::Delete { key: key.into_vec(), client: client.valid()? }
            }
            RawCommand::Cas { key, old, new, client } => Command::Cas {
                key: key.into_vec(),
                old: old.into_vec(),
                new: new.into_vec(),
                client: client.valid()?,
            },
            RawCommand::Scan { prefix, limit, client } => {
                Command::Scan { prefix: prefix.into_vec(), limit, client: client.valid()? }
            }
            RawCommand::Status { client } => Command::Status { client: client.valid()? },
            RawCommand::Benchmark(raw) => Command::Benchmark(raw.valid()?),
            RawCommand::Inspect(raw) => Command::Inspect(raw.valid()),
            RawCommand::Demo { keep } => Command::Demo { keep },
            RawCommand::Sim(RawSim { seed, seeds, from, log, settings, defect }) => {
                let from = from.unwrap_or(1);
                Command::Sim(Sim { seed, seeds, from, log, settings, defect })
            }
            RawCommand::Version => Command::Version,
        })
    }
}

impl RawFormat {
    fn valid(self) -> Result<Format, String> {
        let count = self.replica_count;
        if !(1..=REPLICAS_MAX).contains(&count) {
            return Err(format!("--replica-count={count}: a cluster has 1 to {REPLICAS_MAX}"));
        }
        let replica = ReplicaIndex(self.replica);
        if replica.0 >= count {
            let last = count - 1;
            return Err(format!(
                "--replica={replica}: the replicas of a cluster of {count} are 0 to {last}"
            ));
        }
        let geometry = Geometry {
            message_size: self.message_size,
            journal_slots: self.journal_slots,
            block_size: self.block_size,
            pipeline: self.pipeline,
            clients_max: self.clients_max,
        };
        if let Some(reason) = geometry.invalid() {
            return Err(reason);
        }
        Ok(Format {
            path: self.data.unwrap_or_else(|| data_path(replica)),
            cluster: self.cluster,
            replica,
            replica_count: count,
            geometry,
            development: self.development,
        })
    }
}

impl RawStart {
    fn valid(self) -> Result<Start, String> {
        let addresses = addresses(&self.addresses)?;
        let replica = replica_among(self.replica, &addresses)?;
        let listen = match self.listen {
            Some(text) => Some(address(&text).map_err(|reason| format!("--listen: {reason}"))?),
            None => None,
        };
        Ok(Start {
            path: self.data.unwrap_or_else(|| data_path(replica)),
            replica,
            cluster: self.cluster,
            addresses,
            listen,
            cache_size: self.cache_size,
            size_limit: self.size_limit.unwrap_or(u64::MAX),
            development: self.development,
            log_level: self.log_level,
        })
    }
}

impl RawRecover {
    fn valid(self) -> Result<Recover, String> {
        let addresses = addresses(&self.addresses)?;
        let replica = replica_among(self.replica, &addresses)?;
        Ok(Recover {
            path: self.data.unwrap_or_else(|| data_path(replica)),
            replica,
            cluster: self.cluster,
            addresses,
            timeout: self.timeout,
            development: self.development,
        })
    }
}

/// The replica of this index, which must have one of the addresses.
fn replica_among(index: u8, addresses: &[SocketAddr]) -> Result<ReplicaIndex, String> {
    let replica = ReplicaIndex(index);
    if replica.index() >= addresses.len() {
        let (count, last) = (addresses.len(), addresses.len() - 1);
        return Err(format!(
            "--replica={replica}: --addresses names {count}, for replicas 0 to {last}"
        ));
    }
    Ok(replica)
}

impl RawClient {
    fn valid(self) -> Result<Client, String> {
        let addresses = addresses(&self.addresses)?;
        Ok(Client { cluster: self.cluster, addresses, timeout: self.timeout, json: self.json })
    }
}

impl RawBenchmark {
    fn valid(self) -> Result<Benchmark, String> {
        if !(1..=BENCHMARK_CLIENTS_MAX).contains(&self.clients) {
            let clients = self.clients;
            return Err(format!("--clients={clients}: choose 1 to {BENCHMARK_CLIENTS_MAX}"));
        }
        if self.value_size as usize > VALUE_SIZE_MAX {
            let size = self.value_size;
            return Err(format!("--value-size={size}: a value is at most {VALUE_SIZE_MAX} bytes"));
        }
        let addresses = match self.addresses {
            Some(text) => Some(addresses(&text)?),
            None => None,
        };
        Ok(Benchmark {
            clients: self.clients,
            value_size: self.value_size,
            duration: self.duration,
            keys: self.keys,
            read_percent: self.read_ratio,
            addresses,
            cluster: self.cluster,
            json: self.json,
        })
    }
}

impl RawInspect {
    fn valid(self) -> Inspect {
        let mut other = None;
        let (part, RawInspected { path, json }) = match self {
            Self::Superblock(inspected) => (Part::Superblock, inspected),
            Self::Journal { inspected, all } => (Part::Journal { all }, inspected),
            Self::Checkpoint { inspected, against } => {
                other = against;
                (Part::Checkpoint, inspected)
            }
            Self::Op { op, inspected } => (Part::Op(op), inspected),
            Self::Integrity(inspected) => (Part::Integrity, inspected),
        };
        Inspect { part, path, against: other, json }
    }
}

/// The data file of a replica whose path was not given.
pub(crate) fn data_path(replica: ReplicaIndex) -> PathBuf {
    PathBuf::from(format!("replica-{replica}.vsr"))
}

/// The addresses of a cluster, in the order of its replicas.
fn addresses(text: &str) -> Result<Vec<SocketAddr>, String> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for part in text.split(',') {
        let one = address(part).map_err(|reason| format!("--addresses={text}: {reason}"))?;
        // Port 0 is a free port of the system's choice, so two of them are not the same address.
        if one.port() != 0 && found.contains(&one) {
            return Err(format!("--addresses={text}: {one} is named twice"));
        }
        found.push(one);
    }
    if found.len() > usize::from(REPLICAS_MAX) {
        let count = found.len();
        return Err(format!(
            "--addresses={text}: {count} addresses, but a cluster has at most {REPLICAS_MAX}"
        ));
    }
    assert!(!found.is_empty());
    Ok(found)
}

/// `host:port`, `[v6]:port`, or `port` of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("an address is empty: write HOST:PORT, [IPV6]:PORT or PORT".into());
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let port = text.parse().map_err(|_| format!("port {text}: a port is 0 to 65535"))?;
        return Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    }
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(format!("`{text}` has no port: write HOST:PORT"));
    };
    if host.contains(':') {
        return Err(format!("`{text}`: write an IPv6 address in brackets, [IPV6]:PORT"));
    }
    let port: u16 = port.parse().map_err(|_| format!("`{text}`: a port is 0 to 65535"))?;
    if host.is_empty() {
        return Err(format!("`{text}` has no host: write HOST:PORT, or PORT for 127.0.0.1"));
    }
    let mut found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("`{text}`: the name {host} cannot be resolved ({error})"))?;
    found.next().ok_or_else(|| format!("`{text}`: the name {host} has no address"))
}

/// A number with a unit behind it; the units with how many of the smallest they are.
fn quantity(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// `4096`, `16KiB`, `1MiB`.
fn size(text: &str) -> Result<u32, String> {
    const UNITS: [(&str, u64); 4] = [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)];
    quantity(text, &UNITS)
        .and_then(|size| u32::try_from(size).ok())
        .ok_or_else(|| "write bytes, or a number and KiB or MiB, such as 16KiB".into())
}

/// As [`size`], and GiB and TiB.
fn size_large(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 6] =
        [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];
    quantity(text, &UNITS).ok_or_else(|| {
        "write bytes, or a number and KiB, MiB, GiB or TiB, such as 10GiB".to_owned()
    })
}

/// `500ms`, `5s`, `2m`; not 0, at most a day.
fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000)];
    const DAY_MS: u64 = 24 * 3_600_000;
    quantity(text, &UNITS)
        .filter(|milliseconds| (1..=DAY_MS).contains(milliseconds))
        .map(Duration::from_millis)
        .ok_or_else(|| "write a number and ms, s, m or h, such as 500ms or 5s".into())
}

/// `50%` or `50`.
fn percent(text: &str) -> Result<u32, String> {
    quantity(text, &[("", 1), ("%", 1)])
        .and_then(|percent| u32::try_from(percent).ok())
        .filter(|percent| *percent <= 100)
        .ok_or_else(|| "write 0% to 100%".into())
}

/// A decimal number, or a commit id, of which the first 16 digits count.
fn seed(text: &str) -> Result<u64, String> {
    let is_commit = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = if is_commit { u64::from_str_radix(&text[..16], 16) } else { text.parse() };
    number.map_err(|_| "write a number below 2^64, or a commit id of 40 hex digits".into())
}

/// `NAME=VALUE`.
fn setting(text: &str) -> Result<(String, u64), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("{value}: write a number"))?;
    Ok((name.to_owned(), value))
}

/// `warn` and the like.
fn log_level(text: &str) -> Result<log::LevelFilter, String> {
    text.parse().map_err(|_| "write error, warn, info, debug, trace or off".into())
}

/// Decimal, or hexadecimal after `0x`.
fn cluster(text: &str) -> Result<ClusterId, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map(ClusterId).map_err(|_| "write a number below 2^128, or 0x and hex digits".into())
}

#[cfg(test)]
#[path = "cli_tests.rs"]
mod tests;
