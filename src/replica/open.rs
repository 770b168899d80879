//! F5: recovery from the own data file: where the log ends, and what this replica may do with it.
//!
//! ```text
//!   one replica            view + 1, durable; execute everything ──► normal
//!   in place of a lost file    the head is known to the others ──► recovering_head
//!   log_view < view        the head is the stored do_view_change's ──► view_change
//!   log_view = view        the head is the newest prepare of this view in the journal, and
//!       head uncertain         ──► recovering_head
//!       primary of the view    ──► view_change, in its own view: it votes to leave
//!       backup                 ──► normal
//! ```
//!
//! **Invariants:** what was acknowledged is in the log, or the head is uncertain and the replica
//! does not vote. An entry above the stored head is of this view, or it is of a log that lost and
//! is forgotten.

use super::checkpoint::Checkpoints;
use super::clock::ClusterClock;
use super::fault_detector::FaultDetector;
use super::queries::Queries;
use super::{Counters, Effects, Now, Quorums, Replica, Status, Timeouts};
use crate::stdx::{Prng, defect};
use crate::storage::Opened;
use crate::wire::{Header, Op, View};
use std::collections::{BTreeMap, VecDeque};

/// The heartbeat interval that a primary is first judged by, ns.
const HEARTBEAT_NS: u64 = 50_000_000;

impl Replica {
    /// A replica over a data file that was read.
    pub fn open(opened: Opened, now: Now, prng: Prng, effects: &mut Effects) -> Self {
        let Opened { superblock, journal, .. } = opened;
        let state = superblock.state().clone();
        let quorums = Quorums::new(state.replica_count);
        let born = state.head.table.op > 0;
        let mut replica = Self {
            cluster: state.cluster,
            replica: state.replica,
            replica_count: state.replica_count,
            incarnation: state.incarnation,
            geometry: state.geometry,
            quorums,
            superblock,
            journal,
            status: Status::Recovering,
            view: state.view,
            log_view: state.log_view,
            op: 0,
            checkpoints: Checkpoints::new(&state),
            commit_min: state.op_checkpoint(),
            commit_max: state.commit_max,
            chain_min: 0,
            table: state.head.table,
            head: state.head,
            cache: BTreeMap::new(),
            committing: None,
            reads: BTreeMap::new(),
            gathered: VecDeque::new(),
            gathered_size: 0,
            recover: None,
            requests_in_flight: BTreeMap::new(),
            requests_refused: BTreeMap::new(),
            queries: Queries::default(),
            session_tick: 0,
            view_op: 0,
            relied_on: Default::default(),
            pipeline: VecDeque::new(),
            timestamp_next: 0,
            timestamp_monotonic: now.monotonic,
            round: 0,
            heartbeat_last: 0,
            store_full: false,
            store_filled: false,
            stores_full: 0,
            abdicating: false,
            votes: 0,
            view_logs: Default::default(),
            selected: false,
            head_nacks: 0,
            nonce: 0,
            view_heard: state.view,
            named_by: 0,
            genesis_wanted: None,
            genesis_named: None,
            heard: Default::default(),
            heard_at: Default::default(),
            foreign: 0,
            complain_at: Default::default(),
            prepares_wanted: BTreeMap::new(),
            repair_rounds: 0,
            pings: 0,
            now,
            tick: 0,
            prng,
            clock: ClusterClock::new(state.replica_count, state.replica, quorums.majority),
            detector: FaultDetector::new(HEARTBEAT_NS),
            counters: Counters::default(),
            timeouts: Timeouts::new(born),
        };
        replica.recover(effects);
        replica
    }

    fn recover(&mut self, effects: &mut Effects) {
        let mut certain = self.recover_log();
        if self.superblock.state().is_recovered() {
            certain = false;
        } else if certain {
            self.recover_table();
        }
        if self.op < self.op_checkpoint() {
            // What is in the checkpoint was executed from memory and never written, or it rotted.
            self.op = self.op_checkpoint();
            certain = false;
        }
        self.begin_chain();
        match self.journal.header(self.op) {
            Some(head) => self.commit_max = self.commit_max.max(head.command.commit),
            None => assert!(!certain, "a head that is certain is known"),
        }
        self.timeouts.ping.start(&mut self.prng);
        self.timeouts.repair.start(&mut self.prng);
        self.timeouts.vote_window.start(&mut self.prng);
        self.detector.reset(self.logical_ns());
        if self.solo() {
            self.recover_solo(effects);
        } else if !certain {
            self.status = Status::RecoveringHead;
            self.timeouts.request_start_view.start(&mut self.prng);
        } else if !self.is_born() {
            self.status = Status::Normal;
        } else if self.log_view < self.view || self.primary_of_view() == self.replica {
            self.enter_view_change();
        } else {
            self.status = Status::Normal;
        }
        self.on_checkpoint_durable(effects);
        log::info!(
            "{self}: opened: {:?}, view {}, log_view {}, head {}{}, committed {}",
            self.status,
            self.view,
            self.log_view,
            self.op,
            if certain { "" } else { " (uncertain)" },
            self.commit_max
        );
        if self.view_is_durable() {
            self.on_durable(effects);
        } else {
            self.persist(effects);
        }
        if !self.solo() {
            self.send_pings(effects);
        }
        self.progress(effects);
        self.invariants();
    }

    /// Finds the head, and forgets what is not of this log. False if the head is uncertain.
    fn recover_log(&mut self) -> bool {
        if self.solo() {
            self.op = self.journal.op_max();
            return true;
        }
        let head_op = self.head.op;
        if self.log_view < self.view {
            self.journal.truncate(head_op);
            self.op = head_op;
            self.recover_head_set();
            return true;
        }
        let op_min = (head_op + 1).max(self.op_checkpoint());
        let above: Vec<(Op, View)> = (op_min..=self.journal.op_max())
            .filter_map(|op| self.journal.header(op).map(|header| (op, header.view)))
            .collect();
        self.op = head_op;
        for (op, view) in above {
            if view == self.log_view || defect!("lost_log_kept") {
                self.op = op;
            } else if op > self.op_checkpoint() {
                self.journal.remove(op);
            }
        }
        self.recover_head_set();
        if defect!("restart_forgets_uncommitted")
            && let Some(head) = self.journal.header(self.op)
        {
            self.op = head.command.commit.max(head_op);
            self.journal.truncate(self.op);
        }
        if !self.is_born() {
            // It acknowledged nothing but a genesis, which is the same each time.
            self.journal.truncate(self.op.max(1));
            return true;
        }
        if defect!("uncertain_head_votes") {
            return true;
        }
        // What lies beyond, the slot of the root in the first lap with it, may have been written
        // here for a primary that was ahead, but was not acknowledged.
        let op_max = self.geometry.op_prepare_ok_max(self.op_checkpoint());
        let is_hurt = (self.op + 1..=op_max).any(|op| self.journal.is_faulty(op));
        if is_hurt || self.op < self.op_checkpoint() {
            return false;
        }
        // So what is damaged there is no loss.
        self.journal.truncate(self.op);
        true
    }

    /// The stored headers stand: the journal may have been damaged, or hold a log that lost.
    fn recover_head_set(&mut self) {
        let op_checkpoint = self.op_checkpoint();
        let headers: Vec<_> = self.head.headers.iter().rev().flatten().copied().collect();
        assert!(self.op >= self.head.op);
        assert!(headers.iter().all(|header| header.op() <= self.head.op));
        for header in headers {
            let current = self.journal.header(header.op()).map(Header::id);
            if header.op() >= op_checkpoint && current != Some(header.id()) {
                self.journal.insert_header(&header);
            }
        }
    }

    // ---- one replica

    /// Everything in the log of a cluster of one was acknowledged, or may as well have been. The
    /// view is raised so that no op of it is ever prepared twice in one view.
    fn recover_solo(&mut self, effects: &mut Effects) {
        assert_eq!(self.log_view, self.view);
        self.view = self.view.next();
        self.log_view = self.view;
        self.commit_max = self.op;
        assert!(self.solo());
        assert!(!self.view_is_durable(), "no op is prepared twice in one view");
        let (op, table) = (self.op, self.table);
        let headers = vec![self.journal.header(op).copied()];
        self.head = crate::wire::HeaderSet { table, op, headers };
        self.persist(effects);
    }

    /// A cluster of one works once its view is durable and its log executed.
    pub(super) fn solo_transition_to_normal(&mut self, effects: &mut Effects) {
        if self.status != Status::Recovering || !self.view_is_durable() {
            return;
        }
        assert!(self.solo());
        if self.commit_min < self.commit_max || self.is_loading() {
            return;
        }
        self.status = Status::Normal;
        self.view_op = self.op;
        log::info!("{self}: ready");
        self.primary_prepare_genesis(effects);
    }
}
