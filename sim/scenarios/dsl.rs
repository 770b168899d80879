//! The language of scenarios: a cluster in which nothing happens by chance, names for its replicas
//! by their roles, and what can be done to them and asked of them.
//!
//! ```text
//!   let mut t = Scenario::new(3);
//!   t.request(3);
//!   t.on(B1).cut(Incoming);
//!   t.rule(drop(Prepare::CODE).times(1), A0, B1);
//!   t.run_until("the backup has it", |t| t.op(B1) == 5);
//!   t.finish();
//! ```
//!
//! **Invariants:** every scenario ends in [`Scenario::finish`] or a sibling, where the checkers of
//! the simulator judge all of it; every wait has a bound in virtual time; a rule that was never hit
//! fails the scenario.
//!
//! **Not here:** what happens.

use super::script::{Packet, Rule, Step};
use super::{Call, CallResult, Image, Survives, Target};
use crate::sim::cluster::Cluster;
use crate::sim::options::Options;
use crate::sim::report::entry_line;
use crate::sim::run::Failure;
use crate::sim::scheduler::{MS, SECOND};
use bytes::Bytes;
use vsr::recovery::{Obstacle, OldFile, Recovery, Stage};
use vsr::replica::{Replica, Status};
use vsr::wire::{CommandPart, Op, StatusReport};

/// The seed of all scenarios: only delays depend on it.
const SEED: u64 = 7;
/// The longest wait, virtual ns.
const WAIT_NS: u64 = 40 * SECOND;
/// How long what is on its way may take, virtual ms.
const SETTLE_MS: u64 = 300;

/// Replicas, by index or by role at the time of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// By index.
    R(usize),
    /// The primary; while there is none, that of the newest view.
    A,
    /// So many places behind the primary.
    B(usize),
    /// All of them.
    All,
    /// All but the primary.
    Backups,
    /// A client, by index.
    C(usize),
    /// All processes.
    Everybody,
}

pub(super) const R0: Who = Who::R(0);
pub(super) const R1: Who = Who::R(1);
pub(super) const R2: Who = Who::R(2);
pub(super) const R_: Who = Who::All;
pub(super) const A0: Who = Who::A;
pub(super) const B1: Who = Who::B(1);
pub(super) const B_: Who = Who::Backups;
pub(super) const C0: Who = Who::C(0);
pub(super) const C1: Who = Who::C(1);
pub(super) const __: Who = Who::Everybody;

/// The ways of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Incoming,
    Outgoing,
    Both,
}
pub(super) use Direction::{Both, Incoming, Outgoing};

/// See the module.
pub(super) struct Scenario {
    pub(super) cluster: Cluster,
    calls: u64,
    is_finished: bool,
    /// By replica: it is gone for good.
    lost: Vec<bool>,
}

/// Some replicas, and what can be done to them.
pub(super) struct On<'a> {
    t: &'a mut Scenario,
    who: Vec<usize>,
}

fn quiet(replicas: u64) -> Options {
    Options {
        replicas,
        clients: 2,
        requests: 1,
        sessions: 8,
        slots: 128,
        message_size: 4096,
        block_size: 4096,
        pipeline: 8,
        value_size: 100,
        call_timeout: 60_000_000,
        turn_time: 20,
        delay_min: 50,
        delay_mean: 100,
        read_mean: 50,
        write_mean: 100,
        window: 32,
        ..Options::default()
    }
}

impl Scenario {
    /// So many replicas and two clients; the cluster is born.
    pub(super) fn new(replicas: u64) -> Self {
        Self::with(replicas, |_| {})
    }

    /// The same, with other knobs.
    pub(super) fn with(replicas: u64, tune: impl FnOnce(&mut Options)) -> Self {
        let mut scenario = Self::unborn_with(replicas, tune);
        scenario.run_until("the cluster is born", Self::is_born);
        scenario
    }

    /// So many blank replicas, which start soon.
    pub(super) fn unborn(replicas: u64) -> Self {
        Self::unborn_with(replicas, |_| {})
    }

    pub(super) fn unborn_with(replicas: u64, tune: impl FnOnce(&mut Options)) -> Self {
        let mut options = quiet(replicas);
        tune(&mut options);
        assert_eq!(options.geometry().invalid(), None);
        let cluster = Cluster::new_scripted(SEED, options);
        let lost = vec![false; cluster.replica_count()];
        Self { cluster, calls: 0, is_finished: false, lost }
    }

    fn is_born(&self) -> bool {
        self.living().all(|(_, replica)| replica.may_vote() && replica.status() == Status::Normal)
            && self.living().count() == self.cluster.replica_count()
    }

    fn living(&self) -> impl Iterator<Item = (usize, &Replica)> {
        let all = 0..self.cluster.replica_count();
        all.filter_map(|index| Some((index, self.cluster.replica(index)?)))
    }

    // ---- who

    fn primary(&self) -> usize {
        let newest = self
            .living()
            .max_by_key(|(_, replica)| (replica.is_primary(), replica.view()))
            .map(|(_, replica)| replica.view())
            .expect("somebody lives");
        let count = u8::try_from(self.cluster.replica_count()).expect("at most six");
        newest.primary(count).index()
    }

    pub(super) fn resolve(&self, who: Who) -> Vec<usize> {
        let count = self.cluster.replica_count();
        let processes = count + self.cluster.client_count();
        match who {
            Who::R(index) => vec![index],
            Who::A => vec![self.primary()],
            Who::B(place) => vec![(self.primary() + place) % count],
            Who::All => (0..count).collect(),
            Who::Backups => (0..count).filter(|index| *index != self.primary()).collect(),
            Who::C(index) => vec![count + index],
            Who::Everybody => (0..processes).collect(),
        }
    }

    /// Who has this role now: it stays the same one.
    pub(super) fn by_index(&self, who: Who) -> Who {
        let [index] = self.resolve(who)[..] else { panic!("one is meant") };
        Who::R(index)
    }

    pub(super) fn on(&mut self, who: Who) -> On<'_> {
        let who = self.resolve(who);
        On { t: self, who }
    }

    fn each(&self, who: Who) -> impl Iterator<Item = &Replica> {
        self.resolve(who)
            .into_iter()
            .map(|index| self.cluster.replica(index).unwrap_or_else(|| panic!("{index} is dead")))
    }

    /// The value that all of them have.
    fn agreed<V: PartialEq + std::fmt::Debug>(&self, who: Who, what: impl Fn(&Replica) -> V) -> V {
        let mut values = self.each(who).map(what);
        let first = values.next().expect("somebody is meant");
        for value in values {
            assert_eq!(value, first, "{}", self.summary());
        }
        first
    }

    pub(super) fn op(&self, who: Who) -> Op {
        self.agreed(who, Replica::op)
    }

    /// What is executed.
    pub(super) fn commit(&self, who: Who) -> Op {
        self.agreed(who, Replica::commit_min)
    }

    /// What is known to be committed.
    pub(super) fn commit_max(&self, who: Who) -> Op {
        self.agreed(who, Replica::commit_max)
    }

    /// The op of the checkpoint that the log stands on.
    pub(super) fn checkpoint(&self, who: Who) -> Op {
        self.agreed(who, Replica::op_checkpoint)
    }

    pub(super) fn view(&self, who: Who) -> u32 {
        self.agreed(who, |replica| replica.view().0)
    }

    pub(super) fn log_view(&self, who: Who) -> u32 {
        self.agreed(who, |replica| replica.log_view().0)
    }

    pub(super) fn status(&self, who: Who) -> Status {
        self.agreed(who, Replica::status)
    }

    /// Whether all of them live and are in this status.
    pub(super) fn is(&self, who: Who, status: Status) -> bool {
        self.all(who, |replica| replica.status() == status)
    }

    /// Whether all of them live and have this head, durably.
    pub(super) fn has(&self, who: Who, op: Op) -> bool {
        self.all(who, |replica| replica.op() == op && replica.ops_to_repair() == 0)
    }

    /// Whether all of them live and take over a checkpoint from others.
    pub(super) fn is_syncing(&self, who: Who) -> bool {
        self.all(who, Replica::is_syncing)
    }

    /// Whether all of them live, and have this checkpoint or a later one in full.
    pub(super) fn has_at_least(&self, who: Who, op: Op) -> bool {
        self.all(who, |replica| replica.op_complete_durable() >= op)
    }

    fn all(&self, who: Who, what: impl Fn(&Replica) -> bool) -> bool {
        let mut replicas = self.resolve(who).into_iter().map(|index| self.cluster.replica(index));
        replicas.all(|replica| replica.is_some_and(&what))
    }

    /// How far the recovery of its file is, while there is one.
    pub(super) fn stage(&self, who: Who) -> Option<Stage> {
        let [index] = self.resolve(who)[..] else { panic!("one is meant") };
        self.cluster.recovery(index).map(Recovery::stage)
    }

    /// What its recovery knows of the file that was lost.
    pub(super) fn old_file(&self, who: Who) -> Option<OldFile> {
        let [index] = self.resolve(who)[..] else { panic!("one is meant") };
        self.cluster.recovery(index).map(Recovery::old_file)
    }

    /// What stands in the way of the recovery of its file.
    pub(super) fn obstacle(&self, who: Who) -> Option<Obstacle> {
        let [index] = self.resolve(who)[..] else { panic!("one is meant") };
        self.cluster.recovery(index).map(Recovery::obstacle)
    }

    /// The checkpoint that it takes over from others, by its superblock.
    pub(super) fn syncing(&self, who: Who) -> Option<Op> {
        self.agreed(who, |replica| replica.checkpoint_syncing_durable().map(|root| root.op))
    }

    /// Whether all of the checkpoint that it stands on lies on its disk.
    pub(super) fn is_whole(&self, who: Who) -> bool {
        self.resolve(who).into_iter().all(|index| self.cluster.is_whole(index))
    }

    pub(super) fn to_repair(&self, who: Who) -> u64 {
        self.each(who).map(|replica| replica.ops_to_repair() as u64).sum()
    }

    /// Prepares that they fetched from others in this life.
    pub(super) fn repaired(&self, who: Who) -> u64 {
        self.each(who).map(|replica| replica.counters().prepares_repaired).sum()
    }

    pub(super) fn report(&self, who: Who) -> StatusReport {
        let [index] = self.resolve(who)[..] else { panic!("one is meant") };
        self.cluster.report(index).unwrap_or_else(|| panic!("{index} is dead"))
    }

    /// All that is known of the replicas, for messages.
    pub(super) fn summary(&self) -> String {
        let mut lines = vec![format!("at {} ms", self.cluster.now() / MS)];
        for index in 0..self.cluster.replica_count() {
            lines.push(match self.cluster.replica(index) {
                None => format!("{index} is dead"),
                Some(replica) => format!(
                    "{replica} {:?} log_view {} to_repair {}",
                    replica.status(),
                    replica.log_view(),
                    replica.ops_to_repair()
                ),
            });
        }
        lines.join("\n")
    }

    // ---- time

    fn step(&mut self) {
        if let Err(failure) = self.cluster.step() {
            panic!("{failure}\n{}", self.summary());
        }
    }

    pub(super) fn run_for(&mut self, ms: u64) {
        let end = self.cluster.now() + ms * MS;
        while self.cluster.now() < end {
            self.step();
        }
    }

    pub(super) fn run_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = self.cluster.now() + WAIT_NS;
        while !is_so(self) {
            assert!(self.cluster.now() < end, "never: {what}\n{}", self.summary());
            self.step();
        }
    }

    /// Until the clients have their answers, and the living agree on everything.
    pub(super) fn run(&mut self) {
        self.run_until("all calls have an end", |t| !t.is_busy());
        // What is on its way may yet change something.
        self.run_for(SETTLE_MS);
        self.run_until("the living agree", Self::is_agreed);
    }

    fn is_agreed(&self) -> bool {
        let mut states = self.living().map(|(_, replica)| {
            let is_whole = replica.ops_to_repair() == 0 && replica.commit_min() == replica.op();
            let state = (replica.view(), replica.op());
            (replica.status() == Status::Normal && is_whole).then_some(state)
        });
        let Some(first) = states.next() else { return true };
        first.is_some() && states.all(|state| state == first)
    }

    fn is_busy(&self) -> bool {
        (0..self.cluster.client_count()).any(|index| self.cluster.is_client_busy(index))
    }

    // ---- clients

    /// Lets the first client make so many calls, and waits for the answers.
    pub(super) fn request(&mut self, count: u64) {
        self.ask(C0, count);
        self.run_until("the calls are answered", |t| !t.is_busy());
    }

    /// Lets a client make so many calls: writes, and reads that go through the log.
    pub(super) fn ask(&mut self, who: Who, count: u64) {
        for _ in 0..count {
            let call = self.draw_call();
            self.push(who, Step::Call { call, is_query: false });
        }
    }

    /// Lets a client read a key that others write.
    pub(super) fn query(&mut self, who: Who) {
        let call = Call::Get { key: Bytes::from_static(b"k0") };
        self.push(who, Step::Call { call, is_query: true });
    }

    pub(super) fn push(&mut self, who: Who, step: Step) {
        let Who::C(index) = who else { panic!("a client is meant") };
        let client = self.cluster.client(index);
        client.script.as_mut().expect("it is scripted").steps.push_back(step);
    }

    /// Writes, mostly, to a few keys.
    fn draw_call(&mut self) -> Call {
        let number = self.calls;
        self.calls += 1;
        let key = Bytes::from(format!("k{}", number % 3));
        let value = Bytes::from(format!("v{number}"));
        match number % 5 {
            2 => Call::Get { key },
            3 => Call::Cas { key, old: None, new: value },
            _ => Call::Put { key, value },
        }
    }

    /// What came of the calls of a client.
    pub(super) fn results(&mut self, who: Who) -> Vec<CallResult> {
        let Who::C(index) = who else { panic!("a client is meant") };
        self.cluster.client(index).script.as_ref().expect("it is scripted").results.clone()
    }

    /// How many calls of a client were answered.
    pub(super) fn answered(&mut self, who: Who) -> usize {
        let results = self.results(who);
        results.iter().filter(|result| matches!(result, CallResult::Done(_))).count()
    }

    /// A client's process dies with what it has in flight.
    pub(super) fn vanish(&mut self, who: Who) {
        let Who::C(index) = who else { panic!("a client is meant") };
        self.cluster.vanish_client(index);
    }

    // ---- the network

    /// A rule for what goes from some to others. Returns its number.
    pub(super) fn rule(&mut self, mut rule: Rule, from: Who, to: Who) -> usize {
        rule.from = Some(self.resolve(from));
        rule.to = Some(self.resolve(to));
        let script = &mut self.cluster.world.borrow_mut().network.script;
        script.rule_next += 1;
        script.rules.push((script.rule_next, rule));
        script.rule_next
    }

    /// How often a rule was hit.
    pub(super) fn hits(&self, number: usize) -> u64 {
        let script = &self.cluster.world.borrow().network.script;
        let found = script.rules.iter().find(|(own, _)| *own == number);
        found.expect("the rule is in force").1.hits
    }

    /// Ends a rule, which must have been hit.
    pub(super) fn end(&mut self, number: usize) {
        self.end_rules(|own| own == number);
    }

    /// Ends all rules, each of which must have been hit.
    pub(super) fn end_all(&mut self) {
        self.end_rules(|_| true);
    }

    fn end_rules(&mut self, is_meant: impl Fn(usize) -> bool) {
        let script = &mut self.cluster.world.borrow_mut().network.script;
        for (_, rule) in script.rules.extract_if(.., |(own, _)| is_meant(*own)) {
            let shows = rule.hits > 0 || rule.is_optional;
            assert!(shows, "a rule that was never hit shows nothing: {rule:?}");
        }
    }

    /// Lets what was held go, in the order in which it was sent.
    pub(super) fn release(&mut self) {
        let held = std::mem::take(&mut self.cluster.world.borrow_mut().network.script.held);
        assert!(!held.is_empty(), "nothing was held");
        for packet in held {
            self.inject(&packet);
        }
    }

    /// From now on what is said is written down.
    pub(super) fn record(&mut self) {
        self.cluster.world.borrow_mut().network.script.is_recording = true;
    }

    /// What was said of this command, or of any, from some to others. Goes on recording.
    pub(super) fn recorded(&self, command: u8, from: Who, to: Who) -> Vec<Packet> {
        let (from, to) = (self.resolve(from), self.resolve(to));
        let script = &self.cluster.world.borrow().network.script;
        let is_wanted = |packet: &&Packet| {
            (command == super::ANY || packet.header.command.code() == command)
                && from.contains(&packet.from)
                && to.contains(&packet.to)
        };
        script.recorded.iter().filter(is_wanted).cloned().collect()
    }

    /// Says again what was said. Returns how much of it found a connection.
    pub(super) fn replay(&mut self, packets: &[Packet]) -> usize {
        assert!(!packets.is_empty(), "nothing was said");
        packets.iter().filter(|packet| self.inject(packet)).count()
    }

    pub(super) fn inject(&mut self, packet: &Packet) -> bool {
        let world = &mut *self.cluster.world.borrow_mut();
        world.network.inject(&mut world.scheduler, packet.from, packet.to, &packet.frame)
    }

    /// Cuts what goes from some to others.
    pub(super) fn cut(&mut self, from: Who, to: Who) {
        self.set_cut(from, to, true);
    }

    pub(super) fn join(&mut self, from: Who, to: Who) {
        self.set_cut(from, to, false);
    }

    fn set_cut(&mut self, from: Who, to: Who, is_cut: bool) {
        let (from, to) = (self.resolve(from), self.resolve(to));
        let network = &mut self.cluster.world.borrow_mut().network;
        for from in from {
            for to in to.iter().filter(|to| **to != from) {
                network.cut(from, *to, is_cut);
            }
        }
    }

    // ---- the end

    /// Everything works again; all replicas but those that are gone for good agree, a client is
    /// answered, and the checkers have nothing to say.
    pub(super) fn finish(mut self) {
        self.end_all();
        self.join(__, __);
        self.resume_all();
        for index in 0..self.cluster.replica_count() {
            if self.cluster.server(index).is_none() && !self.lost[index] {
                self.cluster.start_now(index).unwrap_or_else(|failure| panic!("{failure}"));
            }
        }
        // Whoever lost its client may be Away; the log need not be full.
        self.request(5);
        self.agree();
        self.judge(true);
    }

    /// The same, but no client can be answered any more: the log is full.
    pub(super) fn finish_full(mut self) {
        self.end_all();
        self.agree();
        self.judge(true);
    }

    /// The cluster cannot go on, though everything else works again: no call is answered, and
    /// nothing is executed. The checkers have nothing to say.
    pub(super) fn finish_stuck(mut self) {
        self.end_all();
        self.join(__, __);
        let (before, executed) = (self.answered(C0), self.executed());
        self.ask(C0, 1);
        self.run_for(10_000);
        assert_eq!((self.answered(C0), self.executed()), (before, executed), "{}", self.summary());
        self.judge(false);
    }

    fn executed(&self) -> Op {
        self.living().map(|(_, replica)| replica.commit_min()).max().unwrap_or(0)
    }

    fn resume_all(&mut self) {
        for index in 0..self.cluster.replica_count() {
            let is_paused = self.cluster.world.borrow().scheduler.processes[index].is_paused;
            if is_paused {
                self.on(Who::R(index)).resume();
            }
        }
    }

    fn core(&self) -> Vec<usize> {
        (0..self.cluster.replica_count()).filter(|index| !self.lost[*index]).collect()
    }

    fn agree(&mut self) {
        let core = self.core();
        let end = self.cluster.now() + WAIT_NS;
        while let Some(reason) = self.cluster.pending(&core) {
            assert!(self.cluster.now() < end, "no agreement: {reason}\n{}", self.summary());
            self.step();
        }
    }

    fn judge(&mut self, has_agreed: bool) {
        self.is_finished = true;
        let core = self.core();
        let mut finals = Vec::new();
        if has_agreed {
            self.cluster.show_disks(&core);
            finals = self.cluster.finals(&core).unwrap_or_else(|failure| panic!("{failure:?}"));
        }
        for report in self.cluster.checkers.finish(&finals) {
            assert_eq!(report.failure, None, "{}", report.name);
            assert!(!has_agreed || !report.vacuous, "{} compared nothing", report.name);
        }
    }
}

impl Drop for Scenario {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert!(self.is_finished, "a scenario ends in a judgement");
            return;
        }
        eprintln!("{}", self.summary());
        if let Ok(world) = self.cluster.world.try_borrow() {
            for entry in world.scheduler.trace.last() {
                eprintln!("{}", entry_line(entry));
            }
        }
    }
}

impl On<'_> {
    // ---- processes

    /// Dies; nothing of what is in flight to its disk is done.
    pub(super) fn stop(self) {
        self.stop_leaving(Survives::Nothing);
    }

    pub(super) fn stop_leaving(self, survives: Survives) {
        for index in self.who {
            self.t.cluster.stop(index, survives);
        }
    }

    /// They do not start by themselves.
    pub(super) fn hold(self) {
        for index in self.who {
            self.t.cluster.hold(index);
        }
    }

    pub(super) fn start(self) {
        for index in self.who {
            if let Err(failure) = self.t.cluster.start_now(index) {
                panic!("{failure}\n{}", self.t.summary());
            }
        }
    }

    /// Dies, and comes back at once.
    pub(super) fn restart(self) {
        let who = self.who.clone();
        let t = self.t;
        On { t, who: who.clone() }.stop();
        On { t, who }.start();
    }

    /// It refuses to start, and says why.
    pub(super) fn refuses_to_start(self, why: &str) {
        let [index] = self.who[..] else { panic!("one is meant") };
        match self.t.cluster.start_now(index) {
            Err(Failure::Crash(text)) => assert!(text.contains(why), "{text}"),
            other => panic!("{index} started: {other:?}"),
        }
        self.t.lost[index] = true;
    }

    /// It ends by itself, and says why.
    pub(super) fn dies(self, why: &str) {
        let [index] = self.who[..] else { panic!("one is meant") };
        let end = self.t.cluster.now() + WAIT_NS;
        loop {
            assert!(self.t.cluster.now() < end, "it lives\n{}", self.t.summary());
            match self.t.cluster.step() {
                Ok(_) => {}
                Err(Failure::Crash(text)) => {
                    assert!(text.contains(&format!("replica {index} ")), "{text}");
                    assert!(text.contains(why), "{text}");
                    break;
                }
                Err(other) => panic!("{other}"),
            }
        }
        self.t.cluster.stop(index, Survives::Nothing);
        self.t.lost[index] = true;
    }

    pub(super) fn pause(self) {
        for index in self.who {
            self.t.cluster.pause_for_good(index);
        }
    }

    pub(super) fn resume(self) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().scheduler.pause(index, false);
        }
    }

    /// Its wall clock jumps by so many seconds.
    pub(super) fn jump_clock(self, seconds: i64) {
        for index in self.who {
            let scheduler = &mut self.t.cluster.world.borrow_mut().scheduler;
            let clock = &mut scheduler.processes[index].clock;
            let jump = seconds * 1_000_000_000;
            clock.wall_ahead = clock.wall_ahead.checked_add_signed(jump).expect("after 1970");
        }
    }

    // ---- paths

    /// Cuts it from everybody else.
    pub(super) fn cut(self, direction: Direction) {
        self.set_cut(direction, true);
    }

    fn set_cut(self, direction: Direction, is_cut: bool) {
        for index in self.who {
            if direction != Incoming {
                self.t.set_cut(Who::R(index), __, is_cut);
            }
            if direction != Outgoing {
                self.t.set_cut(__, Who::R(index), is_cut);
            }
        }
    }

    /// Joins it to everybody again.
    pub(super) fn join(self) {
        self.set_cut(Both, false);
    }

    // ---- disks

    /// Damages what lies on its disk.
    pub(super) fn corrupt(self, target: Target) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].corrupt(target);
        }
    }

    /// A sector can no longer be read.
    pub(super) fn lose_sector(self, target: Target) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].lose_sector(target);
        }
    }

    /// How long its disk takes for a write, ms; reads stay fast.
    pub(super) fn slow_writes(self, ms: u64) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].set_latency(50_000, ms * MS + 100_000);
        }
    }

    /// How long its disk takes for a read, ms.
    pub(super) fn slow_reads(self, ms: u64) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].set_read_latency(ms * MS + 50_000);
        }
    }

    /// There is no room on its disk for a longer file, or there is again.
    pub(super) fn fill(self, is_full: bool) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].set_full(is_full);
        }
    }

    pub(super) fn image(self) -> Image {
        let [index] = self.who[..] else { panic!("one is meant") };
        self.t.cluster.world.borrow().disks[index].image()
    }

    /// Its disk holds what it held in `image`.
    pub(super) fn restore(self, image: &Image) {
        let [index] = self.who[..] else { panic!("one is meant") };
        self.t.cluster.world.borrow_mut().disks[index].restore(image);
    }

    pub(super) fn lose_prepare_write(self, op: Op, image: &Image) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].lose_prepare_write(op, image);
        }
    }

    pub(super) fn lose_header_write(self, op: Op, image: &Image) {
        for index in self.who {
            self.t.cluster.world.borrow_mut().disks[index].lose_header_write(op, image);
        }
    }

    pub(super) fn misdirect_prepare_write(self, op: Op, target: Op, image: &Image) {
        for index in self.who {
            let disks = &mut self.t.cluster.world.borrow_mut().disks;
            disks[index].misdirect_prepare_write(op, target, image);
        }
    }

    /// The dead one's file is lost.
    pub(super) fn lose_file(self) {
        for index in self.who {
            self.t.cluster.lose(index);
        }
    }

    /// Somebody recovers its lost file, and starts it.
    pub(super) fn recover(self) {
        for index in self.who {
            self.t.cluster.recover(index);
        }
    }

    /// The file that was taken for lost is there again.
    pub(super) fn bring_back(self, image: &Image) {
        for index in self.who {
            self.t.cluster.bring_back(index, image);
        }
    }

    /// Its file is lost, and somebody formats it anew.
    pub(super) fn reformat(self) {
        for index in self.who {
            self.t.cluster.reformat(index, None);
        }
    }
}
