//! F5: repair from the logs of others: headers that bind the log to its head, then prepares.
//!
//! ```text
//!   commit_min            chain_min                 op
//!   ──┼──────── ? ────────────┼══════ hash chain ═══┤
//!     └ request_headers ◄─────┘   request_prepare for what is dirty in the chain
//! ```
//!
//! Now and then also what is executed is looked over, down to where no peer can need it: what was
//! damaged there, and whose header went with it, a peer may lack too. A header whose prepare lies
//! here whole is taken from that, once the chain names it.
//!
//! **Invariants:** repair never advances or replaces the head, except by a `start_view`; a header
//! is accepted only at `chain_min - 1` and only if the header above names it as parent; a prepare
//! only if its header is in the log already. So an answer can be stale, repeated or from anybody.
//!
//! **Not here:** asking for a better head (`view_change.rs`).

use super::{ReadPurpose, Replica, Status};
use crate::constants::HEADER_SIZE;
use crate::replica::Effects;
use crate::wire::{
    Header, Headers, Message, Op, Prepare, RequestHeaders, RequestPrepare, decode_headers,
};

/// Prepares asked for at once.
pub(super) const PREPARES_WANTED_MAX: usize = 16;
/// Ticks until a prepare may be asked for again.
const PREPARE_WANTED_TICKS: u64 = 20;
/// Headers in one answer.
const HEADERS_MAX: u64 = 1024;
/// Every so many rounds the whole log is looked over, and uncommitted ops are asked for too:
/// replication usually brings them by itself.
const ROUNDS_FULL: u64 = 20;

impl Replica {
    pub(super) fn on_repair_timeout(&mut self, effects: &mut Effects) {
        self.timeouts.repair.start(&mut self.prng);
        self.repair_rounds += 1;
        if self.status == Status::RecoveringHead {
            return;
        }
        self.write_deferred(effects);
        self.repair_headers(effects);
        self.repair_prepares(effects);
        self.judge_progress(effects);
        self.progress(effects);
    }

    // ---- headers

    /// The chain from a head that was found or given: empty if its header is not known.
    pub(super) fn begin_chain(&mut self) {
        self.chain_min = self.op + u64::from(self.journal.header(self.op).is_none());
        self.extend_chain();
    }

    /// The head moves up: what its slot held is gone from the chain.
    pub(super) fn advance_head(&mut self, op: Op) {
        assert!(op > self.op);
        self.op = op;
        self.chain_min = self.chain_min.max((op + 1).saturating_sub(self.geometry_slots()));
    }

    /// Extends the chain downwards over the headers at hand.
    pub(super) fn extend_chain(&mut self) {
        while self.chain_min > 1 && self.chain_min <= self.op {
            let parent = self.journal.header(self.chain_min).expect("in the chain").parent_id();
            if self.journal.header(parent.op).map(Header::id) != Some(parent) {
                // Its header was lost, and its body was not.
                let lost = self.journal.header_of_body(&parent);
                let Some(lost) = lost.filter(|lost| self.may_insert(lost)) else { return };
                self.journal.insert_header(&lost);
            }
            self.chain_min -= 1;
        }
    }

    /// Whether a header that the chain names may be taken into the journal.
    fn may_insert(&self, header: &Header<Prepare>) -> bool {
        let op = header.op();
        assert!(op < self.op, "repair never touches the head");
        // What is damaged below the checkpoint may be an op a lap later, of which nothing may be
        // said.
        let is_doubtful = op <= self.op_checkpoint() && self.journal.is_faulty(op);
        op >= self.chain_min_wanted() && !is_doubtful
    }

    /// Whether the chain does not reach down to what is executed.
    fn chain_is_broken(&self) -> bool {
        self.chain_min > self.commit_min + 1
    }

    /// The lowest op whose header is wanted: of what is executed here, also below the checkpoint,
    /// as much as a peer may still ask for and the log leaves room for.
    pub(super) fn chain_min_wanted(&self) -> Op {
        let op_ring = (self.op + 1).saturating_sub(self.geometry_slots());
        self.op_repair_min().max(op_ring).clamp(1, self.commit_min + 1)
    }

    /// Asks for the headers between what is executed and the chain.
    pub(super) fn repair_headers(&mut self, effects: &mut Effects) {
        if self.solo() {
            return;
        }
        self.extend_chain();
        if self.chain_is_broken() {
            self.request_headers(self.commit_min + 1, effects);
        }
    }

    /// Asks for headers from `op_min` on, up to the chain.
    fn request_headers(&mut self, op_min: Op, effects: &mut Effects) {
        assert!(op_min < self.chain_min);
        let op_max = self.chain_min - 1;
        let op_min = op_min.max(op_max.saturating_sub(HEADERS_MAX - 1));
        assert!(op_max < self.op);
        let to = self.random_other();
        self.send_command(to, RequestHeaders { op_min, op_max }, effects);
    }

    pub(super) fn on_request_headers(
        &mut self,
        header: &Header<RequestHeaders>,
        effects: &mut Effects,
    ) {
        let RequestHeaders { op_min, op_max } = header.command;
        let room = u64::from(self.geometry.message_size / HEADER_SIZE - 1).min(HEADERS_MAX);
        let mut body = Vec::new();
        // Who asks takes only what its own chain names, so a hole of the own one above is no reason
        // to keep what lies beneath it.
        for op in (op_min.max(1)..=op_max.min(self.op)).rev() {
            let Some(header) = self.journal.header(op) else { break };
            if body.len() as u64 >= room * u64::from(HEADER_SIZE) {
                break;
            }
            body.extend_from_slice(&header.encode());
        }
        if body.is_empty() && (op_min, op_max) == (1, 1) {
            let genesis = self.genesis_known().map(|genesis| genesis.prepare_header().encode());
            body.extend(genesis.into_iter().flatten());
        }
        assert!(body.len() < self.geometry.message_size as usize);
        if body.is_empty() {
            return self.ignore("on_request_headers", "none of them here");
        }
        self.send(header.replica, Message::new(&self.author(), Headers {}, &body), effects);
    }

    pub(super) fn on_headers(&mut self, message: &Message, effects: &mut Effects) {
        if self.status == Status::RecoveringHead {
            return self.ignore("on_headers", "the head is uncertain");
        }
        let headers = match decode_headers(message) {
            Ok(headers) => headers,
            Err(reason) => {
                return self.ignore_undecoded("on_headers", message.header().replica, &reason);
            }
        };
        if !self.is_born() {
            if let Some(header) = headers.first() {
                self.want_genesis(message.header().replica, header, effects);
            }
            return;
        }
        let before = self.chain_min;
        for header in headers {
            self.repair_header(&header);
        }
        if self.chain_min == before {
            return self.ignore("on_headers", "nothing that is missing");
        }
        self.repair_headers(effects);
        self.repair_prepares(effects);
        self.progress(effects);
    }

    fn repair_header(&mut self, header: &Header<Prepare>) {
        if self.chain_min <= 1 {
            return;
        }
        if header.op() != self.chain_min - 1 || !self.may_insert(header) {
            return;
        }
        let above = self.journal.header(self.chain_min).expect("in the chain");
        if above.parent_id() != header.id() {
            return;
        }
        let known = self.journal.header(header.op()).is_some_and(|own| own.id() == header.id());
        if !known {
            self.journal.insert_header(header);
            self.counters.headers_repaired += 1;
        }
        self.chain_min = header.op();
        self.extend_chain();
    }

    // ---- prepares

    /// Asks for prepares whose headers are in the chain and whose bodies are missing or damaged:
    /// first what execution waits for.
    pub(super) fn repair_prepares(&mut self, effects: &mut Effects) {
        if self.solo() || !self.view_is_durable() {
            return;
        }
        let full_round = self.repair_rounds.is_multiple_of(ROUNDS_FULL);
        let op_max = if self.selected || full_round { self.op } else { self.commit_max };
        let op_max = op_max.min(self.op).min(self.commit_min + self.geometry_slots());
        let op_min = self.chain_min.max(self.commit_min + 1);
        assert!(op_max <= self.op);
        for op in op_min..=op_max {
            if self.prepares_wanted.len() >= PREPARES_WANTED_MAX {
                self.forget_overdue();
                if self.prepares_wanted.len() >= PREPARES_WANTED_MAX {
                    return;
                }
            }
            self.want_prepare(op, effects);
        }
        if full_round && !self.chain_is_broken() {
            self.repair_executed(effects);
        }
    }

    fn geometry_slots(&self) -> u64 {
        u64::from(self.geometry.journal_slots)
    }

    /// Damage below `commit_min`: nobody here waits for it, but a peer might.
    fn repair_executed(&mut self, effects: &mut Effects) {
        self.forget_overdue();
        let op_min = self.op_repair_min().max(self.chain_min);
        assert!(self.chain_min <= self.commit_min + 1);
        assert!(self.commit_min <= self.op);
        if self.chain_min_wanted() < self.chain_min && self.chain_min <= self.op {
            self.request_headers(self.chain_min_wanted(), effects);
        }
        for op in op_min..=self.commit_min {
            if self.prepares_wanted.len() >= PREPARES_WANTED_MAX {
                return;
            }
            if self.journal.is_dirty(op) {
                self.want_prepare(op, effects);
            }
        }
    }

    fn forget_overdue(&mut self) {
        let tick = self.tick;
        self.prepares_wanted.retain(|_, again| *again > tick);
    }

    fn want_prepare(&mut self, op: Op, effects: &mut Effects) {
        assert!(!self.solo());
        assert!(op > 0 && op <= self.op);
        let Some(header) = self.journal.header(op) else { return };
        let id = header.id();
        let at_hand = self.cache.get(&op).is_some_and(|own| own.prepare_header().id() == id);
        if !self.journal.is_dirty(op) || at_hand || self.journal.is_writing(&id) {
            return;
        }
        if self.prepares_wanted.get(&op).is_some_and(|again| *again > self.tick) {
            return;
        }
        self.prepares_wanted.insert(op, self.tick + PREPARE_WANTED_TICKS);
        assert!(self.prepares_wanted.len() <= PREPARES_WANTED_MAX);
        let request = RequestPrepare { prepare: id };
        if self.status == Status::ViewChange {
            // Somebody has it, or it would have been cut: time matters more than bytes.
            let message = Message::new(&self.author(), request, &[]);
            self.broadcast(&message, effects);
        } else {
            let to = self.random_other();
            self.send_command(to, request, effects);
        }
    }

    pub(super) fn on_request_prepare(
        &mut self,
        header: &Header<RequestPrepare>,
        effects: &mut Effects,
    ) {
        let id = header.command.prepare;
        let cached = self.cache.get(&id.op).filter(|own| own.prepare_header().id() == id);
        if let Some(message) = cached {
            return self.send(header.replica, message.clone(), effects);
        }
        let wanted = (id, ReadPurpose::Peer(header.replica));
        if self.reads.values().any(|read| *read == wanted) {
            return self.ignore("on_request_prepare", "being read");
        }
        match self.journal.read_prepare(&id, &mut effects.requests) {
            Some(read) => {
                self.reads.insert(read, wanted);
            }
            None => match self.genesis_known().filter(|own| own.prepare_header().id() == id) {
                Some(genesis) => self.send(header.replica, genesis, effects),
                None => self.ignore("on_request_prepare", "not here, or too many reads"),
            },
        }
    }

    /// A prepare that is not replication: it must be one that is missing here.
    pub(super) fn on_prepare_wanted(
        &mut self,
        message: &Message,
        header: &Header<Prepare>,
        effects: &mut Effects,
    ) {
        let (op, id) = (header.op(), header.id());
        if !self.is_born() && !self.genesis_names_me(message) {
            return self.ignore("on_prepare", "not born, and this is no genesis that names me");
        }
        if self.status == Status::RecoveringHead {
            return self.ignore("on_prepare", "the head is uncertain");
        }
        if op > self.op {
            return self.ignore("on_prepare", "above the head");
        }
        // A prepare of this very view in a gap: the primary's log of one view is one chain.
        let in_gap = op < self.chain_min
            && op > self.commit_min
            && self.is_prepared_in_view(header)
            && self.log_view == self.view
            && self.journal.header(op).is_none();
        let known = self.journal.header(op).is_some_and(|own| own.id() == id);
        if !known && !in_gap {
            return self.ignore("on_prepare", "not in the log");
        }
        if known && !self.journal.is_dirty(op) {
            // Sent again: the acknowledgement was lost.
            return self.acknowledge(&id, effects);
        }
        if self.journal.is_writing(&id) {
            return self.ignore("on_prepare", "being written");
        }
        if op < self.op_repair_min() {
            return self.ignore("on_prepare", "in a checkpoint that a quorum has");
        }
        if op <= self.commit_min && !self.journal.can_write(op) {
            return self.ignore("on_prepare", "no write is free");
        }
        assert!(op <= self.op);
        assert!(in_gap || self.journal.is_dirty(op));
        if self.prepares_wanted.remove(&op).is_some() {
            self.counters.prepares_repaired += 1;
        }
        self.take_prepare(message, effects);
        if in_gap {
            self.extend_chain();
        }
        self.repair_prepares(effects);
        self.progress(effects);
    }
}
