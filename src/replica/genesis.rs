//! F5: how a cluster is born, and what a file that was not there may not do.
//!
//! ```text
//!   blank files ping ──► replica 0 has heard all R ──► prepares op 1 = genesis{incarnations}
//!     ──► all R acknowledge it ──► committed ──► table durable: born, votes from here on
//! ```
//!
//! **Invariants:** a blank file acknowledges nothing but an op 1 that names it, and never votes.
//! The genesis is prepared by replica 0 in view 0 only, is the same bytes each time (so a restart
//! may prepare it again), commits only when all have acknowledged it, and no op 2 exists before
//! that. Two different geneses therefore never both commit: each needs every replica of view 0.
//!
//! **Not here:** replacing a lost file (`incarnations.rs`).

use super::{InFlight, Replica, Status};
use crate::fatal::{Fatal, FatalKind};
use crate::replica::Effects;
use crate::stdx::defect;
use crate::wire::{
    Author, ClientId, Entries, Entry, Header, IncarnationTable, Message, MessageBuilder, Operation,
    Ping, Prepare, PrepareId, PrepareOk, ReplicaIndex, RequestHeaders, RequestPrepare, View,
};

/// Every so many pings an unborn replica says what it waits for.
const PINGS_PER_COMPLAINT: u64 = 50;

impl Replica {
    /// What a ping says of this file, and of its author's.
    pub(super) fn on_ping_incarnation(&mut self, header: &Header<Ping>, effects: &mut Effects) {
        let known_as = header.command.incarnation_target;
        assert_ne!(header.replica, self.replica);
        if known_as != 0 && defect!("lost_file_let_in") {
            self.incarnation = known_as;
        }
        if self.is_born() {
            return;
        }
        let is_stranger = known_as != 0 && known_as != self.incarnation;
        if known_as == 0 || (is_stranger && defect!("second_genesis")) {
            self.heard[header.replica.index()] = header.incarnation;
            self.primary_prepare_genesis(effects);
        } else if is_stranger {
            effects.fatal = Some(self.fatal_replaced());
        } else if self.op == 0 {
            self.named_by |= 1 << header.replica.0;
            if !header.command.checkpoint.is_none() {
                // A primary gives its log, which is more.
                self.request_start_view_of(header.view, effects);
            }
            let request = RequestHeaders { op_min: 1, op_max: 1 };
            self.send_command(header.replica, request, effects);
        } else if self.commit_max == 0 {
            // The sender is born, and its genesis names this file: it is the one acknowledged here,
            // and the one that a replica 0 which restarted meanwhile has prepared again.
            self.pipeline.clear();
            self.primary_progressed();
            self.backup_learn_commit(1);
            self.progress(effects);
        }
    }

    pub(super) fn fatal_replaced(&self) -> Fatal {
        Fatal::new(
            FatalKind::Replaced,
            format!(
                "replica {}: the cluster knows this replica by another data file (incarnation \
                 {:016x} is not a member): a lost file must not be formatted again, it has \
                 forgotten what it promised; bring the old file back, or run `vsr recover \
                 --replica={}`",
                self.replica, self.incarnation, self.replica
            ),
        )
    }

    /// Replica 0, once it has heard everybody.
    pub(super) fn primary_prepare_genesis(&mut self, effects: &mut Effects) {
        if self.is_born() || self.replica != ReplicaIndex(0) || self.status != Status::Normal {
            return;
        }
        // One replica raises its view at every open.
        if (self.view != View(0) && !self.solo()) || !self.pipeline.is_empty() {
            return;
        }
        if self.commit_max > 0 {
            return;
        }
        self.heard[0] = self.incarnation;
        let incarnations = self.heard;
        if incarnations[..usize::from(self.replica_count)].contains(&0) {
            return;
        }
        assert_eq!(self.commit_min, 0);
        assert_eq!(self.primary_of_view(), self.replica);
        let message =
            self.genesis(IncarnationTable { op: 1, incarnations, ..IncarnationTable::default() });
        let id = message.prepare_header().id();
        self.genesis_named = Some(id);
        if self.op == 0 {
            if !self.journal.can_write(1) {
                return self.ignore("prepare_genesis", "its slot is being written");
            }
            log::info!(
                "{self}: all {} replicas have met: preparing the genesis",
                self.replica_count
            );
            return self.primary_prepare(message, effects);
        }
        assert_eq!(self.op, 1, "no op 2 before the genesis is committed");
        if self.journal.header(1).map(Header::id) != Some(id) {
            log::error!(
                "{self}: the genesis in the log names other data files: a file was lost before the \
                 cluster was born; nothing was acknowledged: format all replicas anew"
            );
            return;
        }
        self.pipeline.push_back(InFlight { id, oks: 0 });
        self.take_prepare(&message, effects);
        self.broadcast(&message, effects);
        self.timeouts.prepare.start_if_stopped(&mut self.prng);
        self.acknowledge(&id, effects);
    }

    /// The genesis, also where the journal has forgotten it: unless a file was replaced since.
    pub(super) fn genesis_known(&self) -> Option<Message> {
        (self.table.op == 1 && !self.solo()).then(|| self.genesis(self.table))
    }

    /// The genesis: the same bytes for the same table.
    fn genesis(&self, table: IncarnationTable) -> Message {
        let body = table.encode();
        let entry = Entry {
            client: ClientId(0),
            session: 0,
            request: 0,
            size: u32::try_from(body.len()).expect("128"),
            checksum: crc32c::crc32c(&body),
            operation: Operation::Genesis,
        };
        let mut builder = MessageBuilder::new(crate::constants::ENTRY_SIZE + entry.size);
        builder.append(&entry.encode());
        builder.append(&body);
        assert!(table.names(self.replica, self.incarnation));
        let prepare = Prepare {
            parent: Header::root(self.cluster).id().as_parent(),
            op: 1,
            commit: 0,
            timestamp: 0,
            checkpoint_id: 0,
            entry_count: 1,
        };
        // Of a cluster it is replica 0 in view 0 that prepares it; one alone raises its view.
        let view = if self.solo() { self.author().view } else { View(0) };
        let author = Author {
            view,
            replica: ReplicaIndex(0),
            incarnation: table.incarnations[0],
            ..self.author()
        };
        builder.seal(&author, prepare)
    }

    /// The table in a genesis.
    fn genesis_table(message: &Message) -> Option<IncarnationTable> {
        let (entry, bytes) = Entries::new(message.body()).next()?.ok()?;
        if entry.operation != Operation::Genesis {
            return None;
        }
        IncarnationTable::decode(bytes.first_chunk()?).ok().filter(|table| table.op == 1)
    }

    /// Whether the message is a genesis with this very file in it; remembered for `acknowledge`.
    pub(super) fn genesis_names_me(&mut self, message: &Message) -> bool {
        let header = message.prepare_header();
        let named = header.op() == 1
            && Self::genesis_table(message)
                .is_some_and(|table| table.names(self.replica, self.incarnation));
        if named {
            self.genesis_named = Some(header.id());
        }
        named
    }

    /// The defect `second_genesis`: acknowledges another genesis than that of the log.
    pub(super) fn acknowledge_any_genesis(&self, message: &Message, effects: &mut Effects) {
        let header = message.prepare_header();
        let is_first = self.journal.header(1).map(Header::id) == Some(header.id());
        if defect!("second_genesis") && header.op() == 1 && self.is_born() && !is_first {
            let ok = PrepareOk { prepare: header.id(), ..PrepareOk::default() };
            self.send_command(header.replica, ok, effects);
        }
    }

    /// The one thing a blank file may acknowledge.
    pub(super) fn may_acknowledge_genesis(&self, id: &PrepareId) -> bool {
        let primary_of_one = self.solo() || self.view == View(0);
        id.op == 1 && primary_of_one && self.genesis_named == Some(*id)
    }

    /// The genesis was lost here before it was known to be committed; a member says which it is.
    pub(super) fn want_genesis(
        &mut self,
        from: ReplicaIndex,
        header: &Header<Prepare>,
        effects: &mut Effects,
    ) {
        assert!(!self.is_born());
        if self.op > 0 || header.op() != 1 || self.named_by >> from.0 & 1 == 0 {
            return self.ignore("on_headers", "not the genesis of a member that names me");
        }
        self.genesis_wanted = Some(header.id());
        self.send_command(from, RequestPrepare { prepare: header.id() }, effects);
    }

    /// Whether `message` is the genesis that was lost here; then it is the log.
    pub(super) fn take_lost_genesis(&mut self, message: &Message, effects: &mut Effects) -> bool {
        let id = message.prepare_header().id();
        if self.is_born() || self.op > 0 || self.genesis_wanted != Some(id) {
            return false;
        }
        if !self.genesis_names_me(message) {
            return false;
        }
        assert_eq!(id.op, 1);
        assert!(self.pipeline.is_empty());
        log::info!("{self}: the genesis was lost here, and is back");
        self.op = 1;
        self.chain_min = 1;
        self.take_prepare(message, effects);
        self.backup_learn_commit(1);
        self.progress(effects);
        true
    }

    /// Op 1 was executed: the cluster is born, as soon as that is durable.
    pub(super) fn on_genesis_committed(&mut self, message: &Message, effects: &mut Effects) {
        assert_eq!(message.prepare_header().op(), 1);
        assert!(self.commit_min >= 1);
        let table = Self::genesis_table(message).expect("op 1 is the genesis");
        assert_eq!(table.op, 1);
        if self.is_born() {
            return; // Executed again after a restart.
        }
        if !table.names(self.replica, self.incarnation) {
            effects.fatal = Some(self.fatal_replaced());
            return;
        }
        log::info!("{self}: the cluster is born");
        self.table = table;
        self.head.table = table;
        self.persist(effects);
    }

    /// Whom an unborn replica waits for, said now and then.
    pub(super) fn complain_unborn(&self, pings: u64) {
        if self.is_born() || !pings.is_multiple_of(PINGS_PER_COMPLAINT) {
            return;
        }
        if self.replica == ReplicaIndex(0) && self.status == Status::Normal {
            let missing: Vec<_> = self
                .others()
                .filter(|replica| self.heard[replica.index()] == 0)
                .map(|replica| replica.to_string())
                .collect();
            log::warn!(
                "{self}: the cluster is born when all {} replicas have met; not heard yet: {}",
                self.replica_count,
                if missing.is_empty() { "none".to_owned() } else { missing.join(", ") }
            );
        } else {
            log::warn!("{self}: not a member yet: waiting for replica 0 and all others");
        }
    }
}
