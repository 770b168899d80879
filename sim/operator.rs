//! What the operator does about a lost file: formats a new one, which is a mistake, or recovers it.
//!
//! ```text
//!   lost ──► formatted ──► started ──► refused by the cluster ──► (seen the mistake) ──┐
//!     │          └──► the cluster is born with it: whole
//!     └────► missing ──► Recovery, in the replica's process ──► recovered ──► started ◄─┘
//!               ▲             │ killed, refused, time is up: what it wrote is removed
//!               └─────────────┘
//! ```
//!
//! **Invariants:** it is the code of `vsr recover` that recovers; its writes meet no faults but a
//! crash and a disk without room, because a file that was never whole holds no promise; for want of
//! room nothing changes in the cluster.
//!
//! **Not here:** when files are lost.

use super::{CLUSTER, Cluster, Failure, format};
use crate::sim::fault::Fault;
use crate::sim::network::address_of;
use crate::sim::options::ppm;
use crate::sim::scheduler::MS;
use std::time::Duration;
use vsr::io::IO;
use vsr::recovery::{OldFile, Recovered, Recovery, RecoveryConfig, RecoveryError};
use vsr::replica::{Replica, Status};
use vsr::storage::SuperblockState;
use vsr::wire::{BlockRef, Op, ReplicaIndex};

/// How long one recovery is tried.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What became of the file that a replica was born with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FileFate {
    /// It is there.
    Whole,
    /// It was lost, and a blank one is in its place.
    Formatted,
    /// It was lost, and nothing is in its place.
    Missing,
    /// It was lost, and the cluster took another one for it, by this op.
    Recovered {
        op: Op,
        /// It has taken over a log.
        has_joined: bool,
        /// It has everything that the lost one helped to commit.
        is_complete: bool,
    },
}

impl FileFate {
    /// Whether there is no file that the cluster knows, or none of which it can go on.
    pub(super) fn is_lost(self) -> bool {
        matches!(self, Self::Formatted | Self::Missing)
    }

    /// Whether the file takes part in view changes.
    pub(super) fn has_joined(self) -> bool {
        matches!(self, Self::Whole | Self::Recovered { has_joined: true, .. })
    }

    /// Whether what was acknowledged under the replica's name is in the file.
    pub(super) fn is_complete(self) -> bool {
        matches!(self, Self::Whole | Self::Recovered { is_complete: true, .. })
    }

    /// What a turn of the replica shows.
    pub(super) fn note(&mut self, replica: &Replica) {
        if *self == Self::Formatted && replica.may_vote() {
            // It was lost before the birth: the cluster was born with the blank one.
            *self = Self::Whole;
        }
        let Self::Recovered { op, has_joined, is_complete } = self else { return };
        *has_joined |= replica.log_view_durable().0 > 0;
        *is_complete |= replica.status() == Status::Normal
            && replica.commit_min() >= *op
            && replica.ops_to_repair() == 0
            && !replica.is_loading()
            && !replica.is_syncing();
    }
}

impl Cluster {
    /// A dead replica loses its file.
    pub(super) fn lose_file(&mut self, replica: usize) {
        assert!(self.replicas[replica].server.is_none());
        self.replicas[replica].is_member = false;
        self.replicas[replica].complete = BlockRef::NONE;
        self.replicas[replica].syncing = BlockRef::NONE;
        self.world.borrow_mut().scheduler.fault(replica, Fault::FileLost, 0, 0);
        self.checkers.on_file_lost(index_of(replica));
        // Before the birth there is nobody to recover it from.
        if self.is_born() && ppm(self.options.recover).happens(&mut self.prng) {
            self.replicas[replica].file = FileFate::Missing;
            self.world.borrow_mut().disks[replica].lose();
        } else {
            self.mistake(replica);
        }
    }

    /// Somebody formats a new file.
    pub(super) fn mistake(&mut self, replica: usize) {
        self.replicas[replica].file = FileFate::Formatted;
        let incarnation = self.prng.next_u64().max(1);
        let replica_count = u8::try_from(self.replicas.len()).expect("at most six");
        let index = ReplicaIndex(index_of(replica));
        let geometry = self.options.geometry();
        let state =
            SuperblockState::formatted(CLUSTER, index, replica_count, incarnation, geometry);
        let disk = &mut self.world.borrow_mut().disks[replica];
        disk.lose();
        format(disk, None, &state);
    }

    /// The cluster does not take the new file for the lost one: the process has ended itself.
    pub(super) fn refuse(&mut self, replica: usize) {
        self.replicas[replica].server = None;
        self.repairs.files_refused += 1;
        self.world.borrow_mut().scheduler.note(replica, "refused", 0, 0);
        self.kill(replica, false);
        if ppm(self.options.recover).happens(&mut self.prng) {
            self.replicas[replica].file = FileFate::Missing;
            self.world.borrow_mut().disks[replica].lose();
        }
    }

    /// Begins to recover the file of a dead replica.
    pub(super) fn begin_recovery(&mut self, replica: usize) {
        let slot = &mut self.replicas[replica];
        assert!(slot.server.is_none() && slot.recovery.is_none());
        assert_eq!(slot.file, FileFate::Missing);
        {
            let scheduler = &mut self.world.borrow_mut().scheduler;
            scheduler.start(replica);
            scheduler.note(replica, "recover", 0, 0);
        }
        let config = RecoveryConfig {
            path: format!("replica-{replica}.vsr").into(),
            replica: ReplicaIndex(index_of(replica)),
            cluster: CLUSTER,
            addresses: (0..self.replicas.len()).map(address_of).collect(),
            timeout: TIMEOUT,
        };
        let slot = &mut self.replicas[replica];
        let recovery = Recovery::new(&mut slot.io, config).expect("three replicas at least");
        slot.recovery = Some(recovery);
    }

    /// A turn of the process that recovers.
    pub(super) fn turn_recovery(&mut self, replica: usize) -> Result<(), Failure> {
        let slot = &mut self.replicas[replica];
        let recovery = slot.recovery.as_mut().expect("it is being recovered");
        let mut events = Vec::new();
        slot.io.run(Duration::ZERO, &mut events);
        let result = events
            .into_iter()
            .try_for_each(|event| recovery.on_event(&mut slot.io, event))
            .and_then(|()| recovery.turn(&mut slot.io));
        let wait = recovery.wait(slot.io.monotonic());
        // What a client says promises nothing.
        self.world.borrow_mut().network.take_spoken(&mut self.spoken);
        self.spoken.clear();
        match result {
            Ok(None) => {
                let wait = u64::try_from(wait.as_nanos()).expect("a tick");
                self.world.borrow_mut().scheduler.end_turn(replica, wait);
                Ok(())
            }
            Ok(Some(recovered)) => {
                self.end_recovery(replica, &recovered);
                Ok(())
            }
            Err(
                RecoveryError::Obstacle(_) | RecoveryError::Unknown | RecoveryError::NotConfirmed,
            ) => {
                self.world.borrow_mut().scheduler.note(replica, "not_recovered", 0, 0);
                self.abandon_recovery(replica);
                Ok(())
            }
            Err(RecoveryError::Write(_)) if recovery.old_file() == OldFile::Member => {
                self.world.borrow_mut().scheduler.note(replica, "not_recovered", 1, 0);
                self.abandon_recovery(replica);
                Ok(())
            }
            Err(error) => {
                Err(Failure::Crash(format!("replica {replica} cannot be recovered: {error:?}")))
            }
        }
    }

    fn end_recovery(&mut self, replica: usize, recovered: &Recovered) {
        let Recovered { op, view, .. } = *recovered;
        self.repairs.files_recovered += 1;
        {
            let world = &mut *self.world.borrow_mut();
            world.disks[replica].end_creation();
            world.scheduler.note(replica, "recovered", u64::from(view.0), op);
        }
        let slot = &mut self.replicas[replica];
        slot.recovery = None;
        slot.file = FileFate::Recovered { op, has_joined: false, is_complete: false };
        self.kill(replica, false);
    }

    /// The process that recovers ends, or is killed; nothing is left of the file.
    pub(super) fn abandon_recovery(&mut self, replica: usize) {
        let recovery = self.replicas[replica].recovery.take();
        assert!(recovery.is_some());
        self.kill(replica, false);
        self.world.borrow_mut().disks[replica].lose();
        let pause = self.prng.range_inclusive(10 * MS, 500 * MS);
        self.replicas[replica].restart_at = self.now() + pause;
    }
}

fn index_of(replica: usize) -> u8 {
    u8::try_from(replica).expect("at most six")
}
