//! What scenarios need of a cluster: to start, stop and damage its processes by name, and to look
//! at them.
//!
//! **Invariants:** nothing happens by chance: the driver of the faults sleeps.

use super::operator::FileFate;
use super::{CLUSTER, Cluster, Failure, format};
use crate::sim::disk::Disk;
use crate::sim::machine::Machine;
use crate::sim::options::Options;
use crate::sim::scenarios::{ClientScript, Image, Survives};
use crate::sim::workload::ClientSlot;
use vsr::recovery::Recovery;
use vsr::replica::Replica;
use vsr::server::Server;
use vsr::stdx::Prng;
use vsr::storage::{Geometry, SuperblockState};
use vsr::wire::{ClientId, ClusterId, ReplicaIndex, StatusReport};

impl Cluster {
    /// A cluster in which nothing happens by chance. Its replicas start by themselves.
    pub(crate) fn new_scripted(seed: u64, options: Options) -> Self {
        let mut cluster = Self::new(seed, options, false, &mut Prng::from_seed(seed));
        cluster.is_calm = true;
        cluster.budget.max = 0;
        for client in &mut cluster.clients {
            client.script = Some(ClientScript::default());
        }
        cluster
    }

    pub(crate) fn replica_count(&self) -> usize {
        self.replicas.len()
    }

    pub(crate) fn client_count(&self) -> usize {
        self.clients.len()
    }

    pub(crate) fn client(&mut self, index: usize) -> &mut ClientSlot {
        &mut self.clients[index]
    }

    pub(crate) fn is_client_busy(&self, index: usize) -> bool {
        self.clients[index].is_busy()
    }

    pub(crate) fn is_client_registered(&self, index: usize) -> bool {
        self.clients[index].is_registered()
    }

    /// The client's process dies with whatever it has in flight.
    pub(crate) fn vanish_client(&mut self, index: usize) {
        self.clients[index].vanish_now(&mut self.budget, &mut self.checkers);
    }

    pub(crate) fn server(&self, replica: usize) -> Option<&Server<Machine>> {
        self.replicas[replica].server.as_ref()
    }

    pub(crate) fn replica(&self, replica: usize) -> Option<&Replica> {
        self.server(replica).map(Server::replica)
    }

    /// Whether all of the checkpoint that the replica stands on lies on its disk.
    pub(crate) fn is_whole(&self, replica: usize) -> bool {
        let root = self.replica(replica).and_then(Replica::checkpoint_complete_durable);
        root.is_some_and(|root| self.world.borrow().disks[replica].is_whole(CLUSTER, root))
    }

    /// What the replica tells an operator.
    pub(crate) fn report(&self, replica: usize) -> Option<StatusReport> {
        let server = self.server(replica)?;
        let sessions = server.executor().sessions_count();
        let store = server.executor().store();
        let message = server.replica().status_message(ClientId(1), sessions, store);
        Some(StatusReport::decode(message.body()).expect("its own report"))
    }

    /// Kills a replica for good; what is in flight to its disk ends as told.
    pub(crate) fn stop(&mut self, replica: usize, survives: Survives) {
        self.world.borrow_mut().network.forget_spoken();
        self.world.borrow_mut().disks[replica].settle_in_flight(survives);
        self.crash(replica);
        self.replicas[replica].restart_at = u64::MAX;
    }

    /// It stands still until it is told to go on.
    pub(crate) fn pause_for_good(&mut self, process: usize) {
        self.paused_until[process] = u64::MAX;
        self.world.borrow_mut().scheduler.pause(process, true);
    }

    /// It is not to start by itself.
    pub(crate) fn hold(&mut self, replica: usize) {
        assert!(self.replicas[replica].server.is_none());
        self.replicas[replica].restart_at = u64::MAX;
    }

    /// Starts a dead replica, now.
    ///
    /// # Errors
    /// It cannot be started; it is dead then.
    pub(crate) fn start_now(&mut self, replica: usize) -> Result<(), Failure> {
        self.replicas[replica].restart_at = 0;
        let result = self.start(replica);
        if result.is_err() && self.replicas[replica].server.is_none() {
            self.kill(replica, false);
            self.replicas[replica].restart_at = u64::MAX;
        }
        result
    }

    /// Its file is lost, and nobody does anything about it.
    pub(crate) fn lose(&mut self, replica: usize) {
        let slot = &mut self.replicas[replica];
        assert!(slot.server.is_none(), "its process is dead");
        slot.file = FileFate::Missing;
        slot.is_member = false;
        slot.restart_at = u64::MAX;
        self.checkers.on_file_lost(u8::try_from(replica).expect("at most six"));
        self.world.borrow_mut().disks[replica].lose();
    }

    /// The file that it had before is there again.
    pub(crate) fn bring_back(&mut self, replica: usize, image: &Image) {
        self.lose(replica);
        self.replicas[replica].file = FileFate::Whole;
        self.world.borrow_mut().disks[replica].bring_back(image);
    }

    /// Begins to recover its lost file, as soon as the driver looks.
    pub(crate) fn recover(&mut self, replica: usize) {
        assert_eq!(self.replicas[replica].file, FileFate::Missing);
        self.replicas[replica].restart_at = 0;
    }

    /// The recovery that is under way.
    pub(crate) fn recovery(&self, replica: usize) -> Option<&Recovery> {
        self.replicas[replica].recovery.as_ref()
    }

    /// Its file is lost, and formatted anew as the operator of a run does it.
    pub(crate) fn lose_and_format(&mut self, replica: usize) {
        assert!(self.replicas[replica].server.is_none(), "its process is dead");
        self.mistake(replica);
    }

    /// Its file is lost, and an operator formats it anew.
    pub(crate) fn reformat(&mut self, replica: usize, cluster: Option<u128>) {
        let geometry = self.options.geometry();
        self.reformat_as(replica, replica, cluster, geometry);
    }

    /// The file of `replica` is formatted as that of another.
    pub(crate) fn reformat_as(
        &mut self,
        replica: usize,
        index: usize,
        cluster: Option<u128>,
        geometry: Geometry,
    ) {
        assert!(self.replicas[replica].server.is_none(), "its process is dead");
        let replica_count = u8::try_from(self.replicas.len()).expect("at most six");
        let incarnation = self.prng.next_u64().max(1);
        let index = ReplicaIndex(u8::try_from(index).expect("at most six"));
        let cluster = cluster.map_or(CLUSTER, ClusterId);
        let state =
            SuperblockState::formatted(cluster, index, replica_count, incarnation, geometry);
        let disk: &mut Disk = &mut self.world.borrow_mut().disks[replica];
        disk.erase();
        format(disk, None, &state);
    }
}
