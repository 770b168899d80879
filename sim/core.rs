//! The second phase: a core that must suffice is chosen and healed, and when it may be stuck.
//!
//! ```text
//!   a view-change quorum ──► what of its members the disks have hurt ──► more members,
//!   or more, drawn           against what the others in it have          until it suffices
//! ```
//!
//! **Invariants:** all that was committed lies intact in the core; what is not certain there was
//! not acknowledged by a replication quorum.
//!
//! **Not here:** what the core must then do (`run`).

use super::super::disk::Disk;
use super::operator::FileFate;
use super::{CLUSTER, ClientSlot, Cluster};
use vsr::replica::Status;
use vsr::wire::{BlockRef, Op};

impl Cluster {
    /// Chooses a core that must suffice, heals it, and leaves the rest as it is, cut off.
    /// Returns which replicas are in it.
    pub(crate) fn heal_core(&mut self) -> Vec<usize> {
        let core = self.choose_core();
        self.is_calm = true;
        self.rolling.clear();
        self.cut_all(false);
        // What a client asks of a core that is well must have the time to be answered.
        self.options.call_timeout = self.options.call_timeout.max(10_000_000);
        self.options.think_mean = self.options.think_mean.min(50_000);
        self.options.read_percent = self.options.read_percent.min(50);
        // More clients than sessions evict each other for ever.
        let sessions = usize::try_from(self.options.sessions).expect("a few");
        self.clients.iter_mut().skip(sessions).for_each(ClientSlot::retire);
        let clients: Vec<usize> = (self.replicas.len()..self.paused_until.len()).collect();
        {
            let network = &mut self.world.borrow_mut().network;
            for process in core.iter().chain(&clients) {
                network.heal(*process);
            }
            for rest in (0..self.replicas.len()).filter(|replica| !core.contains(replica)) {
                for inside in core.iter().chain(&clients) {
                    network.cut(rest, *inside, true);
                    network.cut(*inside, rest, true);
                }
            }
        }
        for replica in 0..self.replicas.len() {
            if core.contains(&replica) {
                self.world.borrow_mut().disks[replica].heal();
                self.replicas[replica].restart_at = 0;
            } else {
                self.replicas[replica].is_abandoned = true;
            }
        }
        for process in core.iter().chain(&clients) {
            self.paused_until[*process] = 0;
        }
        core
    }

    fn choose_core(&mut self) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.replicas.len()).collect();
        // A blank file is in the place of a lost one for ever, if a cluster knows of that.
        if self.is_born() {
            all.retain(|replica| self.replicas[*replica].file != FileFate::Formatted);
        }
        let least = usize::from(self.quorums().view_change);
        let count = least + self.prng.index(all.len() - least + 1);
        let mut rest = all.clone();
        let mut core: Vec<usize> =
            (0..count).map(|_| rest.swap_remove(self.prng.index(rest.len()))).collect();
        core.sort_unstable();
        // A core in which nobody knows that the genesis was committed is not born: all must meet.
        if !core.iter().any(|replica| self.replicas[*replica].is_member) {
            return all;
        }
        // A file in the place of a lost one votes only once the others have begun a view with it.
        let voters = |core: &[usize]| {
            core.iter().filter(|replica| self.replicas[**replica].file.has_joined()).count()
        };
        while !rest.is_empty() && (!self.is_sufficient(&core) || voters(&core) < least) {
            core.push(rest.swap_remove(self.prng.index(rest.len())));
            core.sort_unstable();
        }
        core
    }

    /// Whether, of every op, the replicas that are not in the core and those in it on whose disk it
    /// is hurt are together fewer than a replication quorum. Then whatever was committed lies
    /// intact in the core; and of what does not, a nack quorum of the core is certain. And whether
    /// the core has all blocks of the checkpoints of its members, and of those they take over.
    fn is_sufficient(&self, core: &[usize]) -> bool {
        let disks = &self.world.borrow().disks;
        let missing = |slot: u32| {
            let is_missing = |replica: &usize| {
                !core.contains(replica)
                    || disks[*replica].is_hurt(slot)
                    || !self.replicas[*replica].file.is_complete()
            };
            (0..self.replicas.len()).filter(is_missing).count()
        };
        if core.len() == self.replicas.len() {
            return true;
        }
        let quorum = usize::from(self.quorums().replication);
        let slots = 0..self.options.geometry().journal_slots;
        slots.into_iter().all(|slot| missing(slot) < quorum)
            && core.iter().all(|replica| self.has_blocks(core, *replica))
            && self.has_ops(core)
    }

    /// Whether each op that a member of the core may have to execute lies whole on a disk of the
    /// core: those above its checkpoint, or above the newest that it may take over.
    fn has_ops(&self, core: &[usize]) -> bool {
        let geometry = self.options.geometry();
        let disks = &self.world.borrow().disks;
        let op_max = self.checkers.op_executed_max();
        let complete = || core.iter().map(|replica| self.replicas[*replica].complete.op);
        let proven = complete().filter(|op| geometry.is_proven(*op, op_max)).max();
        let least = complete().min().max(proven).expect("a core has members");
        let is_there = |op: Op| {
            let slot = geometry.slot(op);
            let expected = self.checkers.executed(op);
            let has = |replica: &usize| {
                !disks[*replica].is_hurt(slot) && disks[*replica].slot_of(op).prepare == expected
            };
            expected.is_none() || core.iter().any(has)
        };
        (least + 1..=op_max).all(is_there)
    }

    /// Whether nothing that was executed is lost: the newest checkpoint of the core has all of its
    /// blocks, and each op above it lies whole on a disk. Also of a core that may be stuck.
    pub(crate) fn keeps_executed(&self, core: &[usize]) -> bool {
        let disks = &self.world.borrow().disks;
        let newest = core.iter().copied().max_by_key(|replica| self.replicas[*replica].complete.op);
        let newest = newest.expect("a core has members");
        let has = |replica: &usize, op: Op| {
            let slot = self.options.geometry().slot(op);
            let prepare = disks[*replica].slot_of(op).prepare;
            let expected = self.checkers.executed(op);
            expected.is_none() || !disks[*replica].is_prepare_hurt(slot) && prepare == expected
        };
        let mut ops = self.replicas[newest].complete.op + 1..=self.checkers.op_executed_max();
        self.has_blocks(core, newest) && ops.all(|op| core.iter().any(|replica| has(replica, op)))
    }

    /// Whether each block of the checkpoint of a replica, or of the one that it takes over, lies
    /// intact on a disk of the core.
    fn has_blocks(&self, core: &[usize], replica: usize) -> bool {
        let disks = &self.world.borrow().disks;
        let others: Vec<&Disk> = core.iter().map(|member| &disks[*member]).collect();
        let slot = &self.replicas[replica];
        let has = |root| disks[replica].is_repairable(CLUSTER, root, &others);
        [slot.complete, slot.syncing].into_iter().all(|root| root == BlockRef::NONE || has(root))
    }

    /// Why the core may be stuck for ever, if a proven reason is seen.
    ///
    /// `core_recovering_head`: a log is begun by a view-change quorum of replicas whose head is
    /// certain. There are not as many, and no primary is left whose log the others could take. Each
    /// head that is uncertain is so for slots above it that the replica takes for damaged, and
    /// that the disk has hurt: one replica alone is within what the atlas allows; more than one,
    /// in different chunks, is not always.
    pub(crate) fn excuse(&self, core: &[usize]) -> Option<&'static str> {
        // Nothing after the genesis was ever committed, since nobody may acknowledge it.
        if !self.is_born() && self.replicas.iter().any(|slot| slot.file.is_lost()) {
            return Some("file_lost_before_birth");
        }
        let mut certain = 0;
        for &index in core {
            if !self.replicas[index].file.has_joined() {
                continue; // It waits for a primary, as those whose head is uncertain do.
            }
            let replica = self.replicas[index].server.as_ref()?.replica();
            if replica.is_primary() {
                return None;
            }
            if replica.status() != Status::RecoveringHead {
                certain += 1;
                continue;
            }
            let disk = &self.world.borrow().disks[index];
            let geometry = self.options.geometry();
            if !replica.ops_uncertain().all(|op| disk.is_hurt(geometry.slot(op))) {
                return None;
            }
        }
        let is_stuck = certain < usize::from(self.quorums().view_change);
        is_stuck.then_some("core_recovering_head")
    }
}
