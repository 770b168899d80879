//! F6: puts a new data file in the place of a replica's lost one: `vsr recover`, as a value over an
//! [`IO`].
//!
//! ```text
//!   Looking ──► Preparing ──► Looking ──► Asking ──────► Confirming ──────► Writing ──► Recovered
//!     ▲  status    the file,     ▲           │  register,   │  status           its superblock:
//!     │  of all    all but its   │           │  recover     │  of a view-change view v + 2
//!     │            superblock    └───────────┘              │  quorum: v
//!     └ nothing is there yet    refused, evicted: look      └ from here on the old file is no
//!                               again, with another           member any more
//!                               incarnation
//! ```
//!
//! *Looking*: a view-change quorum of the other replicas works together, and has not heard the one
//! whose file is lost. Its primary tells the geometry and the table of incarnations. *Preparing*:
//! the file is created and written, down to its last block, but has no superblock and so is no
//! data file: whatever a disk or a folder may refuse, it refuses before the cluster was asked for
//! anything. *Asking*: a client like any other has `recover` committed. *Confirming*: v is at least
//! the view in which that was: the quorum that is asked meets the one that acknowledged it, whose
//! views were v or more from then on. *Writing*: the superblock, in a place that is there already:
//! the file begins in view v + 2, without a log, and knows the table that names it
//! (`replica::incarnations` tells why).
//!
//! Whatever happens in between, the command may be run again: then another incarnation takes the
//! place of one that never had a file.
//!
//! **Invariants:** no file has a superblock before its incarnation is committed, and none is
//! overwritten; nothing is asked of the cluster that changes it before the file has all its room;
//! each attempt draws an incarnation of its own, so that no two files ever have the same.
//!
//! **Not here:** waiting (the owner's), what is said to a person, what is left of a file after a
//! recovery that failed.

use crate::client::{Endpoint, Outcome};
use crate::constants::TICK_NS;
use crate::io::{Event, FileId, FileToken, IO, OpenError, OpenMode};
use crate::replica::Quorums;
use crate::stdx::Prng;
use crate::storage::{Format, Geometry, Request, SuperblockState, Token};
use crate::wire::{
    ClusterId, IncarnationTable, Op, Recover, RejectReason, ReplicaIndex, ReplicaStatus,
    StatusReport, View,
};
use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long the session may take to be closed, ns.
const LEAVE_NS: u64 = 50 * TICK_NS;
/// How long one wait for the disk may be; only a bound for the loop.
const WAIT: Duration = Duration::from_millis(100);
/// How often all replicas are asked how they are, ns.
const LOOK_NS: u64 = 20 * TICK_NS;

/// What is to be recovered.
#[derive(Debug, Clone)]
pub struct RecoveryConfig {
    /// The data file to write.
    pub path: PathBuf,
    /// Whose.
    pub replica: ReplicaIndex,
    /// The cluster.
    pub cluster: ClusterId,
    /// The addresses of all replicas by index, 3 to 6.
    pub addresses: Vec<SocketAddr>,
    /// How long to try until the recovery is committed and confirmed; the time that the file takes
    /// to be written does not count.
    pub timeout: Duration,
}

/// How far it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// For a cluster that can and may recover the replica.
    Looking,
    /// The data file, without its superblock.
    Preparing,
    /// The primary, until the recovery is committed.
    Asking,
    /// In which view that was, at most.
    Confirming,
    /// The superblock.
    Writing,
}

/// What the cluster makes of the file that was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldFile {
    /// It is a member as it was.
    Member,
    /// A recovery was asked for, and may be committed by now or later.
    Unknown,
    /// It is no member any more.
    Replaced,
}

/// What stands in the way, as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// So many of the others answer and are in one view with a primary, of so many that are needed.
    TooFew(u8, u8),
    /// The cluster has not been born: nothing was ever answered.
    NotBorn,
    /// The primary heard the replica a moment ago.
    Heard,
    /// The addresses are of a cluster of so many replicas.
    OtherCount(u8),
    /// The geometry is not the one that the file was prepared with.
    OtherGeometry,
    /// Another recovery is under way, or came in between.
    OtherRecovery,
    /// The primary refused for this reason.
    Rejected(RejectReason),
    /// There is a primary, and it does not answer.
    NoAnswer,
}

/// Why there is no new file.
#[derive(Debug)]
pub enum RecoveryError {
    /// Of fewer than three replicas none can be recovered: there is no quorum without it.
    TooFewReplicas(u8),
    /// The replica itself answers: its file is not lost.
    Alive,
    /// Time is up. Nothing was done.
    Obstacle(Obstacle),
    /// Time is up, or the session was lost, after the primary was asked: the old file may have been
    /// replaced, and nothing is in its place yet.
    Unknown,
    /// Time is up: the old file is replaced, and nothing is in its place yet.
    NotConfirmed,
    /// The file cannot be created. Nothing was done.
    Open(OpenError),
    /// The file cannot be written. [`Recovery::old_file`] tells whether anything was done.
    Write(std::io::Error),
    /// The process was asked to end.
    Terminated,
}

/// A recovery that has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// Of the new file.
    pub incarnation: u64,
    /// Where in the log it was.
    pub op: Op,
    /// The view that the file begins in.
    pub view: View,
    /// Bytes of the file.
    pub size: u64,
}

/// The new file.
#[derive(Debug)]
struct Writing {
    file: FileId,
    format: Format,
    tokens: BTreeMap<FileToken, Token>,
    token_next: FileToken,
}

/// A recovery that was answered.
#[derive(Debug, Clone, Copy)]
struct Committed {
    recover: Recover,
    op: Op,
    /// The highest that was heard of.
    view: View,
}

#[derive(Debug)]
enum State {
    Looking,
    /// Since then, ns.
    Preparing {
        since_ns: u64,
    },
    Registering(Recover),
    Asking(Recover),
    /// The session is closed, until then; the answer is kept.
    Leaving {
        committed: Committed,
        until_ns: u64,
    },
    Confirming(Committed),
    Writing(Recovered),
}

/// See the module.
#[derive(Debug)]
pub struct Recovery {
    config: RecoveryConfig,
    quorums: Quorums,
    prng: Prng,
    endpoint: Endpoint,
    state: State,
    geometry: Geometry,
    obstacle: Obstacle,
    /// A request that may yet be committed was given up.
    is_unknown: bool,
    /// When all are asked again, ns.
    look_at_ns: u64,
    deadline_ns: u64,
    /// The new file, once it was created.
    writing: Option<Box<Writing>>,
    is_terminated: bool,
}

impl Recovery {
    /// Begins to recover.
    ///
    /// # Errors
    /// [`RecoveryError::TooFewReplicas`].
    pub fn new<I: IO>(io: &mut I, config: RecoveryConfig) -> Result<Self, RecoveryError> {
        let replica_count = u8::try_from(config.addresses.len()).expect("at most 6 replicas");
        assert!(config.replica.0 < replica_count);
        if replica_count < 3 {
            return Err(RecoveryError::TooFewReplicas(replica_count));
        }
        let quorums = Quorums::new(replica_count);
        let mut prng = Prng::from_seed(io.entropy());
        let now_ns = io.monotonic();
        let endpoint = Endpoint::new(config.cluster, &config.addresses, &mut prng, now_ns);
        let timeout_ns = u64::try_from(config.timeout.as_nanos()).unwrap_or(u64::MAX);
        Ok(Self {
            config,
            quorums,
            prng,
            endpoint,
            state: State::Looking,
            geometry: Geometry::default(),
            obstacle: Obstacle::TooFew(0, quorums.view_change),
            is_unknown: false,
            look_at_ns: now_ns,
            deadline_ns: now_ns.saturating_add(timeout_ns),
            writing: None,
            is_terminated: false,
        })
    }

    /// How far it is.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Looking => Stage::Looking,
            State::Preparing { .. } => Stage::Preparing,
            State::Registering(_) | State::Asking(_) => Stage::Asking,
            State::Leaving { .. } | State::Confirming(_) => Stage::Confirming,
            State::Writing(_) => Stage::Writing,
        }
    }

    /// What the cluster makes of the old file, as far as is known here: also after an error.
    pub fn old_file(&self) -> OldFile {
        match self.state {
            State::Leaving { .. } | State::Confirming(_) | State::Writing(_) => OldFile::Replaced,
            State::Asking(_) => OldFile::Unknown,
            _ if self.is_unknown => OldFile::Unknown,
            State::Looking | State::Preparing { .. } | State::Registering(_) => OldFile::Member,
        }
    }

    /// What stands in the way while it looks, as far as it has seen.
    pub fn obstacle(&self) -> Obstacle {
        self.obstacle
    }

    /// Whether a file was created, which is of no use unless the recovery came to its end.
    pub fn is_file_created(&self) -> bool {
        self.writing.is_some()
    }

    /// See [`Endpoint::is_dismissed`].
    pub fn is_dismissed(&self) -> bool {
        self.endpoint.is_dismissed()
    }

    /// See [`Endpoint::is_misdirected`].
    pub fn is_misdirected(&self) -> bool {
        self.endpoint.is_misdirected()
    }

    /// How long the owner may wait for events before the next [`Recovery::turn`].
    pub fn wait(&self, now_ns: u64) -> Duration {
        match self.state {
            // For the disk alone.
            State::Preparing { .. } | State::Writing(_) => WAIT,
            _ => self.endpoint.wait(now_ns),
        }
    }

    /// An event of the owner's IO.
    ///
    /// # Errors
    /// [`RecoveryError::Write`]. Then it is over.
    pub fn on_event<I: IO>(&mut self, io: &mut I, event: Event) -> Result<(), RecoveryError> {
        match event {
            Event::Socket { socket, readable, writable } => {
                if self.endpoint.owns(socket) {
                    self.endpoint.on_event(io, socket, readable, writable);
                }
            }
            Event::WriteDone { token, result } => {
                result.map_err(RecoveryError::Write)?;
                let writing = self.writing.as_mut().expect("nothing is written before it is there");
                let token = writing.tokens.remove(&token).expect("a write that was begun");
                writing.format.on_write_done(token);
            }
            Event::ReadDone { .. } => unreachable!("a recovery reads no file"),
            Event::Terminate => self.is_terminated = true,
        }
        Ok(())
    }

    /// Gets on; the result once the file is durable.
    ///
    /// # Errors
    /// See [`RecoveryError`]. Then it is over.
    pub fn turn<I: IO>(&mut self, io: &mut I) -> Result<Option<Recovered>, RecoveryError> {
        if self.is_terminated {
            return Err(RecoveryError::Terminated);
        }
        if let Some(writing) = &mut self.writing {
            writing.advance(io);
            match self.state {
                State::Writing(recovered) => {
                    return Ok(writing.format.is_done().then_some(recovered));
                }
                State::Preparing { since_ns } if writing.format.is_prepared() => {
                    self.end_preparing(io, since_ns);
                }
                State::Preparing { .. } => return Ok(None),
                _ => {}
            }
        }
        let now_ns = io.monotonic();
        let outcome = self.endpoint.turn(io, now_ns);
        if let Some(outcome) = outcome {
            self.on_outcome(io, outcome);
        }
        if now_ns >= self.deadline_ns {
            let error = self.error_at_deadline();
            self.endpoint.close(io);
            return Err(error);
        }
        match self.state {
            State::Looking => self.look(io)?,
            State::Leaving { committed, until_ns } if now_ns >= until_ns => {
                // As another client: what was answered to the one before may be older.
                self.renew(io);
                self.state = State::Confirming(committed);
            }
            State::Confirming(committed) => self.confirm(io, &committed)?,
            _ => {}
        }
        Ok(None)
    }

    fn error_at_deadline(&self) -> RecoveryError {
        match self.state {
            State::Asking(_) => RecoveryError::Unknown,
            State::Leaving { .. } | State::Confirming(_) => RecoveryError::NotConfirmed,
            _ if self.is_unknown => RecoveryError::Unknown,
            State::Registering(_) => RecoveryError::Obstacle(Obstacle::NoAnswer),
            _ => RecoveryError::Obstacle(self.obstacle),
        }
    }

    // ---- looking

    /// Asks all replicas how they are, now and then.
    fn ask_all(&mut self, now_ns: u64) {
        if now_ns < self.look_at_ns {
            return;
        }
        self.look_at_ns = now_ns + LOOK_NS;
        for index in 0..self.config.addresses.len() {
            self.endpoint.request_status(index_of(index));
        }
    }

    /// What the others say of themselves.
    fn reports(&self) -> impl Iterator<Item = &StatusReport> {
        let others = (0..self.config.addresses.len()).map(index_of);
        others
            .filter(|replica| *replica != self.config.replica)
            .filter_map(|replica| self.endpoint.report(replica))
    }

    fn look<I: IO>(&mut self, io: &mut I) -> Result<(), RecoveryError> {
        if self.endpoint.report(self.config.replica).is_some() {
            self.endpoint.close(io);
            return Err(RecoveryError::Alive);
        }
        match self.judge() {
            Ok((geometry, _)) if self.writing.is_none() => {
                self.geometry = geometry;
                self.begin_preparing(io)?;
            }
            Ok((_, table)) => {
                let incarnation = io.entropy().max(1);
                let recover = Recover { replica: self.config.replica, incarnation, table };
                self.endpoint.register();
                self.state = State::Registering(recover);
            }
            Err(obstacle) => {
                // Between two answers there are none: what was seen before stands.
                if self.reports().count() >= usize::from(self.quorums.view_change)
                    || io.monotonic() >= self.look_at_ns
                {
                    self.obstacle = obstacle;
                }
                let now_ns = io.monotonic();
                self.ask_all(now_ns);
            }
        }
        Ok(())
    }

    /// Whether the others can recover the replica: then what its file has to agree with.
    fn judge(&self) -> Result<(Geometry, IncarnationTable), Obstacle> {
        let replica_count = self.config.addresses.len();
        if let Some(other) =
            self.reports().find(|report| usize::from(report.replica_count) != replica_count)
        {
            return Err(Obstacle::OtherCount(other.replica_count));
        }
        if self.reports().count() > 0 && !self.reports().any(|report| report.born) {
            return Err(Obstacle::NotBorn);
        }
        let working = || self.reports().filter(|report| is_working(report));
        let view = working().map(|report| report.view).max().unwrap_or(View(0));
        let members = working().filter(|report| report.view == view).count();
        let members = u8::try_from(members).expect("at most six");
        let primary = working().find(|report| report.view == view && is_primary(report));
        let primary = primary.filter(|_| members >= self.quorums.view_change);
        let primary = primary.ok_or(Obstacle::TooFew(members, self.quorums.view_change))?;
        if primary.heard >> self.config.replica.0 & 1 == 1 {
            return Err(Obstacle::Heard);
        }
        if primary.table_op > primary.commit_max {
            return Err(Obstacle::OtherRecovery);
        }
        let geometry = Geometry {
            message_size: primary.message_size,
            journal_slots: primary.journal_slots,
            block_size: primary.block_size,
            pipeline: primary.pipeline,
            clients_max: primary.clients_max,
        };
        let incarnations = primary.incarnations;
        let table =
            IncarnationTable { op: primary.table_op, incarnations, ..IncarnationTable::default() };
        match geometry.invalid() {
            None if self.writing.is_some() && geometry != self.geometry => {
                Err(Obstacle::OtherGeometry)
            }
            None => Ok((geometry, table)),
            Some(_) => Err(Obstacle::TooFew(0, self.quorums.view_change)),
        }
    }

    // ---- asking

    fn on_outcome<I: IO>(&mut self, io: &mut I, outcome: Outcome) {
        match (outcome, &self.state) {
            (Outcome::Registered, State::Registering(recover)) => {
                let recover = *recover;
                self.endpoint.recover(&recover);
                self.state = State::Asking(recover);
            }
            (Outcome::Answered(answer), State::Asking(recover)) => {
                if answer.result != 0 || answer.op <= recover.table.op {
                    return self.look_again(io, Obstacle::Rejected(RejectReason::Invalid));
                }
                let view = answer.view.max(self.endpoint.core().view());
                let committed = Committed { recover: *recover, op: answer.op, view };
                // It makes room; whether it is heard is of little importance.
                self.endpoint.deregister();
                self.state = State::Leaving { committed, until_ns: io.monotonic() + LEAVE_NS };
            }
            (_, State::Leaving { committed, .. }) => {
                self.state = State::Leaving { committed: *committed, until_ns: 0 };
            }
            (Outcome::Rejected(reason), State::Registering(_) | State::Asking(_)) => {
                let obstacle = match reason {
                    RejectReason::ReplicaHeard => Obstacle::Heard,
                    RejectReason::TableChanged => Obstacle::OtherRecovery,
                    other => Obstacle::Rejected(other),
                };
                self.look_again(io, obstacle);
            }
            (Outcome::Evicted(_), State::Registering(_) | State::Asking(_)) => {
                self.is_unknown = true;
                self.look_again(io, Obstacle::NoAnswer);
            }
            _ => {}
        }
    }

    /// Begins anew, as another client.
    fn look_again<I: IO>(&mut self, io: &mut I, obstacle: Obstacle) {
        self.obstacle = obstacle;
        self.renew(io);
        // Not at once: what was in the way a moment ago still is.
        self.look_at_ns += LOOK_NS;
        self.state = State::Looking;
    }

    fn renew<I: IO>(&mut self, io: &mut I) {
        self.endpoint.close(io);
        let now_ns = io.monotonic();
        let RecoveryConfig { cluster, addresses, .. } = &self.config;
        self.endpoint = Endpoint::new(*cluster, addresses, &mut self.prng, now_ns);
        self.look_at_ns = now_ns;
    }

    // ---- confirming

    fn confirm<I: IO>(&mut self, io: &mut I, committed: &Committed) -> Result<(), RecoveryError> {
        if self.reports().count() < usize::from(self.quorums.view_change) {
            let now_ns = io.monotonic();
            self.ask_all(now_ns);
            return Ok(());
        }
        let reported = self.reports().map(|report| report.view).max();
        let view = committed.view.max(reported.expect("a quorum is not empty"));
        self.endpoint.close(io);
        let recovered = Recovered {
            incarnation: committed.recover.incarnation,
            op: committed.op,
            view: view.next().next(),
            size: 0,
        };
        self.begin_writing(io, recovered, committed.recover.table_at(committed.op));
        Ok(())
    }

    // ---- the file

    /// Creates the file, and begins to write all of it but the superblock.
    fn begin_preparing<I: IO>(&mut self, io: &mut I) -> Result<(), RecoveryError> {
        assert!(self.writing.is_none());
        assert_eq!(self.old_file(), OldFile::Member);
        self.endpoint.close(io);
        let file = io.open_file(&self.config.path, OpenMode::Create);
        let file = file.map_err(RecoveryError::Open)?;
        let format = Format::prepared(self.config.cluster, self.geometry);
        let mut writing = Writing { file, format, tokens: BTreeMap::new(), token_next: 0 };
        writing.advance(io);
        self.writing = Some(Box::new(writing));
        self.state = State::Preparing { since_ns: io.monotonic() };
        Ok(())
    }

    /// Looks again: what was seen before it is old.
    fn end_preparing<I: IO>(&mut self, io: &mut I, since_ns: u64) {
        let now_ns = io.monotonic();
        assert!(now_ns >= since_ns);
        self.deadline_ns = self.deadline_ns.saturating_add(now_ns - since_ns);
        self.renew(io);
        self.state = State::Looking;
    }

    fn begin_writing<I: IO>(&mut self, io: &mut I, recovered: Recovered, table: IncarnationTable) {
        let replica_count = u8::try_from(self.config.addresses.len()).expect("at most 6 replicas");
        let formatted = SuperblockState::formatted(
            self.config.cluster,
            self.config.replica,
            replica_count,
            recovered.incarnation,
            self.geometry,
        );
        let state = SuperblockState::recovered(formatted, recovered.view, table);
        let writing = self.writing.as_mut().expect("nothing is asked before it is there");
        writing.format.complete(&state);
        let recovered = Recovered { size: writing.format.progress().1, ..recovered };
        writing.advance(io);
        self.state = State::Writing(recovered);
    }
}

impl Writing {
    fn advance<I: IO>(&mut self, io: &mut I) {
        let mut requests = Vec::new();
        self.format.advance(&mut requests);
        for request in requests {
            let Request::Write { token, offset, sectors } = request else {
                unreachable!("a format does not read");
            };
            self.tokens.insert(self.token_next, token);
            io.write(self.file, offset, sectors, self.token_next);
            self.token_next += 1;
        }
    }
}

fn index_of(index: usize) -> ReplicaIndex {
    ReplicaIndex(u8::try_from(index).expect("at most 6 replicas"))
}

fn is_working(report: &StatusReport) -> bool {
    report.born && report.status == ReplicaStatus::Normal
}

fn is_primary(report: &StatusReport) -> bool {
    report.primary == report.replica
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Looking => "looking for a view-change quorum of the other replicas",
            Self::Asking => "asking the primary to put another data file in its place",
            Self::Confirming => "committed; asking in which view",
            Self::Preparing => "preparing the data file",
            Self::Writing => "writing its superblock",
        })
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooFew(found, needed) => write!(
                f,
                "{found} of the other replicas are normal in one view with its primary, and \
                 {needed} are needed (a view-change quorum): start the others first"
            ),
            Self::NotBorn => f.write_str(
                "the cluster is not born, so nothing was ever answered: format all replicas anew",
            ),
            Self::Heard => f.write_str(
                "the primary heard the replica within the last 3 s (replica_heard), so its data \
                 file is not lost: end it first, or let it live",
            ),
            Self::OtherCount(count) => write!(
                f,
                "the cluster has {count} replicas: name each of them once in --addresses, in order"
            ),
            Self::OtherGeometry => f.write_str(
                "the replicas are of another cluster than a moment ago: their geometry differs \
                 from the one that the file was prepared with",
            ),
            Self::OtherRecovery => {
                f.write_str("another recovery is under way (table_changed): try again")
            }
            Self::Rejected(reason) => write!(f, "the primary refused it ({reason:?})"),
            Self::NoAnswer => f.write_str("the primary does not answer"),
        }
    }
}
