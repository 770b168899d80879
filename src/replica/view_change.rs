//! F5: the view change (VRR §4.2), with durable views and nacks.
//!
//! ```text
//!   backup: primary overdue ──► start_view_change(v), again and again
//!   anyone: a view-change quorum of votes for v, or any message of a higher view
//!        ──► view = v+1, durable with the log's suffix ──► do_view_change(v+1) to all
//!   primary of v+1: a quorum of logs ──► select ──► log_view = v+1, durable ──► start_view(v+1)
//!        ──► repair every op up to the head ──► execute what is committed ──► normal
//!   backup: start_view(v+1) ──► log replaced above the commit point, durable ──► normal
//! ```
//!
//! **Invariants:** the headers in the `do_view_change` of one view are the same each time it is
//! sent, also after a restart: they are stored with the view. `log_view` and the log change
//! together. A log is never cut before the log that replaces it is at hand.
//!
//! **Not here:** the selection itself (`select.rs`).

use super::checkpoint::Offer;
use super::{InFlight, MemberLog, Replica, Status, ViewLog};
use crate::constants::REPLICAS_MAX;
use crate::replica::Effects;
use crate::replica::queries::Queries;
use crate::replica::select::{Selection, select};
use crate::stdx::defect;
use crate::wire::{
    DoViewChange, Header, HeaderSet, IncarnationTable, Message, Op, Prepare, ReplicaIndex,
    RequestStartView, StartView, StartViewChange, View,
};

impl Replica {
    // ---- leaving a view

    /// A backup judges its primary, once a tick.
    pub(super) fn backup_judge_primary(&mut self, effects: &mut Effects) {
        let backup = self.status == Status::Normal && self.primary_of_view() != self.replica;
        if !backup || !self.may_vote() || !self.view_is_durable() {
            return;
        }
        if self.votes >> self.replica.0 & 1 == 1 {
            return;
        }
        if self.detector.is_suspect(self.logical_ns()) {
            log::info!("{self}: the primary is silent: voting to leave the view");
            self.vote(effects);
        }
    }

    /// Votes to leave the current view. A lone vote changes nothing.
    pub(super) fn vote(&mut self, effects: &mut Effects) {
        if !self.may_vote() || !self.view_is_durable() || self.solo() {
            return;
        }
        assert!(!self.solo());
        assert_eq!(self.superblock.state().view, self.view);
        self.votes |= 1 << self.replica.0;
        self.timeouts.vote.start_if_stopped(&mut self.prng);
        let message = Message::new(&self.author(), StartViewChange {}, &[]);
        self.broadcast(&message, effects);
        self.leave_view_if_agreed(effects);
    }

    pub(super) fn on_vote_timeout(&mut self, effects: &mut Effects) {
        if self.votes >> self.replica.0 & 1 == 0 {
            return self.timeouts.vote.stop();
        }
        self.timeouts.vote.back_off(&mut self.prng);
        self.vote(effects);
    }

    /// Votes of others go stale; the own one stands as long as its reason.
    pub(super) fn on_vote_window_timeout(&mut self) {
        self.timeouts.vote_window.start(&mut self.prng);
        self.votes &= 1 << self.replica.0;
    }

    pub(super) fn on_start_view_change(&mut self, header: &Header, effects: &mut Effects) {
        if header.view < self.view {
            return self.ignore("on_start_view_change", "older view");
        }
        self.on_view_heard(header.replica, header.view, header.incarnation, effects);
        if header.view != self.view || !self.may_vote() {
            return;
        }
        assert_ne!(header.replica, self.replica);
        assert!(header.replica.0 < self.replica_count);
        self.votes |= 1 << header.replica.0;
        self.leave_view_if_agreed(effects);
    }

    fn leave_view_if_agreed(&mut self, effects: &mut Effects) {
        let votes = u8::try_from(self.votes.count_ones()).expect("8 bits");
        if votes < self.quorums.view_change || !self.view_is_durable() {
            return;
        }
        if self.status == Status::RecoveringHead || !self.may_vote() {
            return;
        }
        self.transition_to_view_change(self.view.next(), effects);
    }

    /// Somebody is in `view`: an existing view is adopted.
    pub(super) fn on_view_heard(
        &mut self,
        from: ReplicaIndex,
        view: View,
        incarnation: u64,
        effects: &mut Effects,
    ) {
        if view <= self.view {
            return;
        }
        if self.is_born() && !self.counts(from, incarnation) {
            return self.ignore("on_view_heard", "another incarnation");
        }
        if self.solo() {
            return;
        }
        if !self.may_vote() || self.status == Status::RecoveringHead {
            return self.request_start_view_of(view, effects);
        }
        self.transition_to_view_change(view, effects);
    }

    pub(super) fn transition_to_view_change(&mut self, view: View, effects: &mut Effects) {
        assert!(view > self.view);
        assert!(self.may_vote());
        assert!(self.status == Status::Normal || self.status == Status::ViewChange);
        log::info!("{self}: view change: {} -> {view}", self.view);
        if self.log_view == self.view {
            self.head = self.suffix(true);
        }
        self.view = view;
        self.enter_view_change();
        self.timeouts.view_change_status.start_as_before(&mut self.prng);
        self.persist(effects);
        self.invariants();
    }

    /// What both ways into the status have in common: leaving a view, and restarting as a primary.
    pub(super) fn enter_view_change(&mut self) {
        self.status = Status::ViewChange;
        self.counters.view_changes += 1;
        self.leave_primary();
        self.votes = 0;
        self.view_logs = Default::default();
        self.selected = false;
        self.heartbeat_last = 0;
        self.timeouts.vote.stop();
        self.timeouts.view_change_message.start(&mut self.prng);
        self.timeouts.view_change_status.start_if_stopped(&mut self.prng);
    }

    /// What a primary has in hand is dropped: clients will ask again.
    fn leave_primary(&mut self) {
        if defect!("deposed_primary_replies") && !self.pipeline.is_empty() {
            self.commit_max = self.op;
        }
        self.pipeline.clear();
        self.gathered.clear();
        self.gathered_size = 0;
        self.recover = None;
        self.requests_in_flight.clear();
        self.requests_refused.clear();
        self.queries = Queries::default();
        self.abdicating = false;
        self.timeouts.heartbeat.stop();
        self.timeouts.prepare.stop();
        self.timeouts.abdicate.stop();
    }

    /// The log's suffix: the head and what may not be committed below it, at most P ops.
    fn suffix(&self, for_view_change: bool) -> HeaderSet {
        let pipeline = u64::from(self.geometry.pipeline);
        let op_min = self.op.saturating_sub(pipeline).max(self.commit_max.min(self.op));
        let op_min = if for_view_change { op_min } else { self.op.saturating_sub(pipeline) };
        let headers: Vec<_> = (op_min..=self.op)
            .rev()
            .map(|op| {
                // Below the chain only what was prepared in this very view is certain, and what its
                // start_view named.
                let begun_with = self.head.header(op);
                self.journal
                    .header(op)
                    .filter(|header| {
                        op >= self.chain_min
                            || header.view == self.log_view
                            || begun_with == Some(header)
                    })
                    .copied()
            })
            .collect();
        assert!(headers[0].is_some(), "the head is never blank");
        assert!(headers.len() <= self.geometry.pipeline as usize + 1);
        HeaderSet { table: self.table, op: self.op, headers }
    }

    // ---- do_view_change

    /// The own log as the others may rely on it, with what is certain of each op in it.
    pub(super) fn own_view_log(&self) -> ViewLog {
        assert!(self.log_view < self.view);
        let set = self.head_filled();
        let (mut present, mut nack) = (0u64, 0u64);
        for (index, header) in set.headers.iter().enumerate() {
            let op = set.op - index as u64;
            // What is blank has a name all the same if its successor is known.
            let above = index.checked_sub(1).and_then(|above| set.headers[above].as_ref());
            let id = header.as_ref().map(Header::id).or_else(|| above.map(Header::parent_id));
            if self.journal.may_nack(op, id.as_ref()) {
                nack |= 1 << index;
            }
            if header.is_some_and(|header| self.has_prepare(&header)) {
                present |= 1 << index;
            }
        }
        ViewLog { log_view: self.log_view, commit_max: self.commit_max, set, present, nack }
    }

    /// The headers with which the last view was left, and where one was not known then, the one
    /// that came since and that its successor names: without it the log would be silent of an op
    /// that it has, and no longer certain never to have had it.
    fn head_filled(&self) -> HeaderSet {
        let mut set = self.head.clone();
        for index in 1..set.headers.len() {
            let op = set.op - index as u64;
            let (Some(successor), None) = (set.headers[index - 1], set.headers[index]) else {
                continue;
            };
            let before = set.headers.get(index + 1).copied().flatten();
            set.headers[index] = self
                .journal
                .header(op)
                .filter(|header| header.id() == successor.parent_id())
                .filter(|header| before.is_none_or(|before| header.parent_id() == before.id()))
                .copied();
        }
        set
    }

    fn has_prepare(&self, header: &Header<Prepare>) -> bool {
        let id = header.id();
        self.journal.has_body(&id)
            || self.cache.get(&id.op).is_some_and(|own| own.prepare_header().id() == id)
    }

    pub(super) fn send_do_view_change(&mut self, effects: &mut Effects) {
        assert_eq!(self.status, Status::ViewChange);
        if !self.view_is_durable() || !self.may_vote() {
            return;
        }
        assert!(self.log_view < self.view);
        assert_eq!(self.head.table, self.table);
        let log = self.own_view_log();
        assert!(log.set.headers.len() <= self.geometry.pipeline as usize + 1);
        let command = DoViewChange {
            op: log.set.op,
            commit_min: self.commit_min,
            commit_max: log.commit_max,
            checkpoint: self.checkpoint_offered(),
            log_view: log.log_view,
            present: log.present,
            nack: log.nack,
        };
        let message = Message::new(&self.author(), command, &log.set.encode());
        self.broadcast(&message, effects);
    }

    pub(super) fn record_own_view_log(&mut self, effects: &mut Effects) {
        assert_eq!(self.primary_of_view(), self.replica);
        assert!(self.view_is_durable());
        let log = self.own_view_log();
        self.view_logs[self.replica.index()] =
            Some(MemberLog { incarnation: self.incarnation, log });
        self.primary_select(effects);
    }

    /// Whether neighbours, op descending, name each other as far as they are known.
    fn is_chain(headers: &[Option<Header<Prepare>>]) -> bool {
        headers.windows(2).all(|pair| match pair {
            [Some(header), Some(before)] => header.parent_id() == before.id(),
            _ => true,
        })
    }

    pub(super) fn on_do_view_change(
        &mut self,
        header: &Header<DoViewChange>,
        message: &Message,
        effects: &mut Effects,
    ) {
        if header.view < self.view {
            return self.ignore("on_do_view_change", "older view");
        }
        let set = match HeaderSet::decode(message) {
            Ok(set) => set,
            Err(reason) => {
                return self.ignore_undecoded("on_do_view_change", header.replica, &reason);
            }
        };
        let command = header.command;
        let coherent = command.op == set.op
            && command.log_view < header.view
            && set.headers.iter().flatten().all(|own| own.view <= command.log_view)
            && set.headers.len() <= self.geometry.pipeline as usize + 1
            && (set.table == set.table.up_to(set.op) || defect!("recovered_votes_at_once"))
            && Self::is_chain(&set.headers);
        if !coherent {
            return self.ignore("on_do_view_change", "it contradicts itself");
        }
        // The sender's own table must name it; which table decides is settled in the quorum: that
        // of the newest log, which the own one may not be.
        if !set.table.names(header.replica, header.incarnation) {
            return self.ignore("on_do_view_change", "not a member by its own table");
        }
        let is_newer = (command.log_view, set.table.op) > (self.log_view, self.table.op);
        let is_heir = is_newer && set.table.names(self.replica, self.incarnation);
        if !is_heir && !self.counts(header.replica, header.incarnation) {
            return self.ignore("on_do_view_change", "another incarnation");
        }
        self.on_view_heard(header.replica, header.view, header.incarnation, effects);
        let log = ViewLog {
            log_view: command.log_view,
            commit_max: command.commit_max,
            set,
            present: command.present,
            nack: command.nack,
        };
        self.on_log_of_member(header, &log, effects);
        if header.view != self.view || self.primary_of_view() != self.replica {
            return;
        }
        if self.log_view == self.view {
            // Selected already: this one missed the start_view.
            if self.selected || self.status == Status::Normal {
                self.send_start_view(header.replica, 0, effects);
            }
            return;
        }
        self.view_logs[header.replica.index()] =
            Some(MemberLog { incarnation: header.incarnation, log });
        self.primary_select(effects);
    }

    /// The primary of a new view, at every new log.
    fn primary_select(&mut self, effects: &mut Effects) {
        if self.status != Status::ViewChange || self.selected || !self.view_is_durable() {
            return;
        }
        if self.view_logs[self.replica.index()].is_none() {
            return; // The own log counts only once it is durable.
        }
        assert!(self.log_view < self.view);
        let table = self
            .view_logs
            .iter()
            .flatten()
            .map(|member| &member.log)
            .max_by_key(|log| (log.log_view, log.set.table.op))
            .map(|log| log.set.table)
            .expect("the own log is there");
        if !table.names(self.replica, self.incarnation) {
            return self.ignore("primary_select", "the newest log has another file in my place");
        }
        // The table of the newest log decides who counts.
        let logs: Vec<&ViewLog> = (0..)
            .zip(&self.view_logs)
            .filter_map(|(index, member)| Some((ReplicaIndex(index), member.as_ref()?)))
            .filter(|(replica, member)| table.names(*replica, member.incarnation))
            .map(|(_, member)| &member.log)
            .collect();
        match select(&logs, &self.quorums, self.replica_count, self.geometry.pipeline) {
            Selection::AwaitingQuorum => {}
            Selection::AwaitingRepair { op } => {
                log::info!("{self}: view change: op {op} is damaged, waiting for more replicas");
            }
            Selection::Stuck { op } => {
                log::error!(
                    "{self}: view change: op {op} is damaged on every replica that had it, and too \
                     few are certain that it was never acknowledged: the cluster cannot go on"
                );
            }
            Selection::Complete { op, .. } if !self.may_lead(op) => {
                log::info!("{self}: view change: too far behind to lead, voting for the next view");
                self.vote(effects);
            }
            Selection::Complete { op, commit_max, headers } => {
                // A recovery that is cut with the log was none.
                self.primary_install(op, commit_max, &headers, table.up_to(op));
                self.persist(effects);
                self.repair_headers(effects);
            }
        }
    }

    /// Whether this replica can be the primary of a log with head `op`.
    fn may_lead(&self, op: Op) -> bool {
        !self.is_syncing() && op <= self.geometry.op_prepare_max(self.op_checkpoint())
    }

    fn primary_install(
        &mut self,
        op: Op,
        commit_max: Op,
        headers: &[Option<Header<Prepare>>],
        table: IncarnationTable,
    ) {
        log::info!("{self}: view change: log selected, head {op}, committed {commit_max}");
        assert!(table.names(self.replica, self.incarnation));
        self.install_log(op, commit_max, headers);
        self.table = table;
        self.log_view = self.view;
        // What the own log was certain of in its view says nothing about this one.
        self.head = HeaderSet { table, op, headers: headers.to_vec() };
        self.head = self.suffix(false);
        self.selected = true;
        self.pipeline = (self.commit_max + 1..=self.op)
            .map(|op| {
                let id = self.journal.header(op).expect("selected").id();
                InFlight { id, oks: 0 }
            })
            .collect();
        assert!(self.pipeline.len() <= self.geometry.pipeline as usize);
        assert!(self.commit_max <= self.op);
        self.timeouts.view_change_message.start(&mut self.prng);
        self.timeouts.view_change_status.start_as_before(&mut self.prng);
        self.extend_chain();
    }

    /// Replaces the log above the commit point.
    pub(super) fn install_log(
        &mut self,
        op: Op,
        commit_max: Op,
        headers: &[Option<Header<Prepare>>],
    ) {
        assert!(op >= commit_max);
        assert!(op >= self.commit_min, "an executed op is never cut");
        self.commit_max = self.commit_max.max(commit_max);
        assert!(op >= self.commit_max, "a committed op is never cut");
        self.journal.truncate(op);
        self.cache.retain(|cached, _| *cached <= op);
        self.op = op;
        for header in headers.iter().rev().flatten() {
            if header.op() < self.op_checkpoint() {
                continue; // Its slot may be wanted for an op a lap later.
            }
            let current = self.journal.header(header.op()).map(Header::id);
            if current == Some(header.id()) {
                continue;
            }
            if header.op() <= self.commit_min {
                // Executed: then it is the same, and only damaged here. Or not by this replica.
                let taken_over = header.op() == self.op_checkpoint() && self.is_syncing();
                assert!(current.is_none() || taken_over, "an executed op is never replaced");
            }
            self.journal.insert_header(header);
        }
        let journal = &self.journal;
        self.cache.retain(|cached, message| {
            let id = message.prepare_header().id();
            journal.header(*cached).is_some_and(|header| header.id() == id)
        });
        self.prepares_wanted.clear();
        self.begin_chain();
        assert!(self.journal.header(self.op).is_some(), "the head is known");
        assert!(self.commit_min <= self.commit_max);
    }

    /// The new primary goes to work when its log is whole and everything committed is executed.
    pub(super) fn primary_finish_view_change(&mut self, effects: &mut Effects) {
        if !self.selected || !self.view_is_durable() || self.status != Status::ViewChange {
            return;
        }
        if self.commit_min < self.commit_max || self.chain_min > self.commit_max + 1 {
            return;
        }
        if self.is_loading() {
            return; // The sessions say nothing yet.
        }
        let missing: Vec<_> = self
            .pipeline
            .iter()
            .map(|in_flight| in_flight.id)
            .filter(|id| !self.cached(id))
            .collect();
        for id in &missing {
            self.read_own(id, effects);
        }
        if missing.is_empty() {
            self.primary_transition_to_normal(effects);
        }
    }

    pub(super) fn cached(&self, id: &crate::wire::PrepareId) -> bool {
        self.cache.get(&id.op).is_some_and(|message| message.prepare_header().id() == *id)
    }

    fn primary_transition_to_normal(&mut self, effects: &mut Effects) {
        assert_eq!(self.commit_min, self.commit_max);
        assert_eq!(self.log_view, self.view);
        assert!(self.may_vote());
        assert!(self.pipeline.iter().all(|in_flight| self.cached(&in_flight.id)));
        assert!(self.gathered.is_empty());
        assert!(!self.is_loading(), "the sessions are those of the checkpoint");
        self.selected = false;
        self.status = Status::Normal;
        self.view_op = self.op;
        // Who acknowledged what in the views before is not known.
        self.relied_on = [self.op; REPLICAS_MAX as usize];
        self.votes = 0;
        self.timeouts.vote.stop();
        self.timeouts.view_change_message.stop();
        self.timeouts.view_change_status.stop();
        self.timeouts.request_start_view.stop();
        for op in self.commit_max + 1..=self.op {
            let message = &self.cache[&op];
            let header = message.prepare_header();
            let end = header.command.timestamp + u64::from(header.command.entry_count);
            self.timestamp_next = self.timestamp_next.max(end);
            for (client, request) in Self::clients_of(message.body()) {
                self.requests_in_flight.insert(client, request);
            }
        }
        self.timestamp_monotonic = self.now.monotonic;
        log::info!("{self}: primary of view {}, {} in flight", self.view, self.pipeline.len());
        if !self.pipeline.is_empty() {
            self.timeouts.prepare.start(&mut self.prng);
            self.timeouts.abdicate.start(&mut self.prng);
        }
        self.timeouts.heartbeat.start(&mut self.prng);
        self.primary_send_commit(effects);
        self.send_prepare_oks(effects);
        self.primary_advance_commit(effects);
        self.invariants();
    }

    // ---- start_view

    fn start_view_message(&self, nonce: u64) -> Message {
        assert_eq!(self.primary_of_view(), self.replica);
        assert_eq!(self.superblock.state().log_view, self.view);
        let set = self.suffix(false);
        let command = StartView {
            op: set.op,
            commit_max: self.commit_max,
            checkpoint: self.checkpoint_offered(),
            nonce,
        };
        Message::new(&self.author(), command, &set.encode())
    }

    pub(super) fn primary_send_start_view(&mut self, effects: &mut Effects) {
        assert_eq!(self.log_view, self.view);
        if self.view_is_durable() {
            let message = self.start_view_message(0);
            self.broadcast(&message, effects);
        }
    }

    fn send_start_view(&mut self, to: ReplicaIndex, nonce: u64, effects: &mut Effects) {
        if self.view_is_durable() && self.may_vote() {
            let message = self.start_view_message(nonce);
            self.send(to, message, effects);
        }
    }

    pub(super) fn on_request_start_view(
        &mut self,
        header: &Header<RequestStartView>,
        effects: &mut Effects,
    ) {
        let primary = self.primary_of_view() == self.replica && self.log_view == self.view;
        if !primary || !(self.selected || self.status == Status::Normal) {
            return self.ignore("on_request_start_view", "not the primary of a log");
        }
        if header.view > self.view {
            return self.ignore("on_request_start_view", "a newer view");
        }
        self.send_start_view(header.replica, header.command.nonce, effects);
    }

    pub(super) fn on_start_view(
        &mut self,
        header: &Header<StartView>,
        message: &Message,
        effects: &mut Effects,
    ) {
        if header.view < self.view && !defect!("start_view_lower") {
            return self.ignore("on_start_view", "older view");
        }
        if header.replica != header.view.primary(self.replica_count) {
            return self.ignore("on_start_view", "not from the primary");
        }
        let set = match HeaderSet::decode(message) {
            Ok(set) => set,
            Err(reason) => {
                return self.ignore_undecoded("on_start_view", header.replica, &reason);
            }
        };
        let command = header.command;
        if command.op != set.op || command.commit_max > command.op || !Self::is_chain(&set.headers)
        {
            return self.ignore("on_start_view", "it contradicts itself");
        }
        if set.headers.len() > self.geometry.pipeline as usize + 1 {
            return self.ignore("on_start_view", "more headers than a pipeline");
        }
        if set.table != set.table.up_to(set.op)
            || !set.table.names(header.replica, header.incarnation)
        {
            return self.ignore("on_start_view", "not a member by its own table");
        }
        // One that is not committed may have been cut; in one view a log is never cut.
        let op_table = self.table.up_to(self.commit_max).op;
        if set.table.op < op_table || (header.view == self.log_view && set.table.op < self.table.op)
        {
            return self.ignore("on_start_view", "an older table");
        }
        if defect!("lost_file_let_in") {
            self.incarnation = set.table.incarnations[self.replica.index()];
        }
        if !self.judge_table(header, &set.table, effects) {
            return self.ignore("on_start_view", "another file is in my place");
        }
        if self.status == Status::Normal && header.view == self.view {
            self.backup_heard_primary();
        }
        if self.ignore_start_view(header) {
            return;
        }
        if command.op < self.commit_max {
            return self.ignore("on_start_view", "it ends below what is committed");
        }
        let offer = Offer::from(&command);
        let sync = self.wants_sync(&offer);
        let op_checkpoint = if sync { command.checkpoint.op } else { self.op_checkpoint() };
        if command.op > self.geometry.op_prepare_max(op_checkpoint) {
            return self.ignore("on_start_view", "its head has no room in the journal");
        }
        if sync {
            self.begin_sync(&offer);
        }
        self.backup_install(header, set, effects);
    }

    fn ignore_start_view(&self, header: &Header<StartView>) -> bool {
        let command = &header.command;
        if header.view > self.view {
            return false;
        }
        assert_eq!(header.view, self.view);
        assert_ne!(self.primary_of_view(), self.replica, "my own view is mine to start");
        match self.status {
            Status::RecoveringHead => {
                // An answer that was on its way before the crash may lack what was acknowledged.
                let fresh = command.nonce != 0 && command.nonce == self.nonce;
                if !fresh {
                    self.ignore("on_start_view", "not an answer to this process");
                }
                !fresh
            }
            Status::Normal => {
                // In one view a log is never cut: what lies above a late one may be acknowledged.
                let is_late = command.op < self.op;
                if self.is_born()
                    && (is_late || command.op == self.op && !self.wants_sync(&command.into()))
                {
                    self.ignore("on_start_view", "nothing new");
                    return true;
                }
                false
            }
            Status::ViewChange => false,
            Status::Recovering => true,
        }
    }

    fn backup_install(
        &mut self,
        header: &Header<StartView>,
        set: HeaderSet,
        effects: &mut Effects,
    ) {
        let command = header.command;
        assert!(command.op >= self.commit_max);
        log::info!(
            "{self}: start_view: view {}, head {}, committed {}",
            header.view,
            command.op,
            command.commit_max
        );
        if header.view > self.view {
            self.heartbeat_last = 0;
        }
        self.leave_primary();
        self.selected = false;
        self.view = header.view;
        self.log_view = header.view;
        self.install_log(command.op, command.commit_max, &set.headers);
        self.table = set.table;
        self.head = set;
        self.status = Status::Normal;
        self.votes = 0;
        self.view_logs = Default::default();
        self.nonce = 0;
        self.head_nacks = 0;
        self.timeouts.vote.stop();
        self.timeouts.view_change_message.stop();
        self.timeouts.view_change_status.pause();
        self.timeouts.request_start_view.stop();
        self.detector.reset(self.logical_ns());
        if self.view_is_durable() {
            self.on_durable(effects);
        } else {
            self.persist(effects);
        }
        self.repair_headers(effects);
        self.progress(effects);
        self.invariants();
    }

    // ---- request_start_view

    /// Asks the primary of `view`, in which somebody is, for its log.
    pub(super) fn request_start_view_of(&mut self, view: View, effects: &mut Effects) {
        let newer = view > self.view_heard;
        self.view_heard = self.view_heard.max(view);
        if self.timeouts.request_start_view.is_running() && !newer {
            return; // Asked a moment ago.
        }
        self.timeouts.request_start_view.start(&mut self.prng);
        let primary = view.primary(self.replica_count);
        if primary == self.replica {
            return self.ignore("request_start_view", "I am the primary of that view");
        }
        let message = self.request_start_view_message(view);
        self.send(primary, message, effects);
    }

    /// The one message of a view that need not be durable here: it promises nothing.
    fn request_start_view_message(&mut self, view: View) -> Message {
        if self.nonce == 0 {
            self.nonce = self.prng.next_u64().max(1);
        }
        let request = RequestStartView { nonce: self.nonce };
        Message::new(&self.author_of(view), request, &[])
    }

    pub(super) fn on_request_start_view_timeout(&mut self, effects: &mut Effects) {
        self.timeouts.request_start_view.stop();
        if self.status != Status::RecoveringHead {
            return;
        }
        self.timeouts.request_start_view.start(&mut self.prng);
        // Whoever was heard in the highest view may be gone, and its view with it: any primary will
        // do.
        let message = self.request_start_view_message(self.view);
        self.broadcast(&message, effects);
    }

    // ---- patience in a view change

    pub(super) fn on_view_change_message_timeout(&mut self, effects: &mut Effects) {
        if self.status != Status::ViewChange {
            return self.timeouts.view_change_message.stop();
        }
        self.timeouts.view_change_message.back_off(&mut self.prng);
        if self.selected {
            self.primary_repeat_start_view(effects);
        } else if self.log_view < self.view {
            self.send_do_view_change(effects);
        } else {
            // A primary that restarted in its own view never resumes it: on to the next.
            self.vote(effects);
        }
        if self.primary_of_view() == self.replica
            && self.log_view < self.view
            && self.view_is_durable()
        {
            self.record_own_view_log(effects);
        }
    }

    /// A primary that still repairs its log shows that it lives, but not for longer than it would
    /// wait for another.
    fn primary_repeat_start_view(&mut self, effects: &mut Effects) {
        if self.votes >> self.replica.0 & 1 == 1 {
            return;
        }
        self.timeouts.view_change_message.start(&mut self.prng);
        self.primary_send_start_view(effects);
    }

    pub(super) fn on_view_change_status_timeout(&mut self, effects: &mut Effects) {
        if self.status != Status::ViewChange {
            return self.timeouts.view_change_status.stop();
        }
        self.timeouts.view_change_status.back_off(&mut self.prng);
        log::info!("{self}: view {} does not come about: voting for the next", self.view);
        self.vote(effects);
    }
}
