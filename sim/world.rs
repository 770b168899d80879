//! The world of a run: time, network and disks together, behind the handles of its processes.
//!
//! ```text
//!   Cluster ── step ──► World { scheduler, network, disks } ◄── Rc ── FaultyIO of each process
//! ```
//!
//! **Invariants:** one thread; every collection has one order; each part draws from a stream of its
//! own, so that a draw more in one of them changes no other.
//!
//! **Not here:** who runs in it, and when processes die (`cluster`).

use super::disk::Disk;
use super::network::Network;
use super::scheduler::{Scheduler, What};
use std::cell::RefCell;
use std::rc::Rc;
use vsr::io::{Event, OpenError, OpenMode};

/// The world, as its processes hold it.
pub(crate) type SharedWorld = Rc<RefCell<World>>;

/// See the module.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) scheduler: Scheduler,
    pub(crate) network: Network,
    /// By replica.
    pub(crate) disks: Vec<Disk>,
}

/// What the driver is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A process has its turn.
    Turn(usize),
    /// The driver may change the world.
    Driver,
    /// Something happened that concerns nobody yet.
    Nothing,
}

impl World {
    /// Goes on to the next event.
    pub(crate) fn step(&mut self) -> Step {
        let what = self.scheduler.pop().expect("the driver always has something ahead");
        match what {
            What::Wake { process } => {
                if self.scheduler.begin_turn(process) {
                    return Step::Turn(process);
                }
            }
            What::Transit { connection, side, transit } => {
                self.network.on_transit(&mut self.scheduler, connection, side, transit);
            }
            What::Spurious { process, socket } => {
                self.network.on_spurious(&mut self.scheduler, process, socket);
            }
            What::Disk { process, life, operation } => {
                if self.scheduler.processes[process].life == life {
                    self.disks[process].on_done(&mut self.scheduler, operation);
                }
            }
            What::Driver => return Step::Driver,
        }
        Step::Nothing
    }

    /// Opens the one file of a replica.
    pub(super) fn open_file(&mut self, process: usize, mode: OpenMode) -> Result<(), OpenError> {
        let Some(disk) = self.disks.get_mut(process) else { return Err(OpenError::NotFound) };
        match mode {
            OpenMode::Create => disk.create(),
            OpenMode::Existing | OpenMode::ReadOnly => disk.open(),
        }
    }

    /// Hands over what waits for a process. While it `is_opening`, its disk takes no time.
    pub(super) fn run(&mut self, process: usize, is_opening: bool, events: &mut Vec<Event>) {
        if is_opening {
            while self.disks[process].complete_any(&mut self.scheduler) {}
        }
        self.scheduler.take(process, events);
    }
}
