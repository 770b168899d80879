//! F6: one replica as a running process: the loop that joins the replica, the executor, the bus and
//! the data file over an [`IO`]. One thread owns everything.
//!
//! ```text
//!   ┌─► run: wait for events until the next tick
//!   │     file results ──► replica          sockets ──► marks in the bus
//!   │   receive all that is there ──► replica / requests
//!   │   tick, if it is due
//!   │   end of the turn: the primary seals what has gathered
//!   │   flush: one vectored send per connection
//!   └──
//!   after each input the effects are drained: reads and writes to IO, messages to the bus,
//!   committed prepares to the executor, whose replies go to the bus
//! ```
//!
//! **Invariants:** gather, think, act: nothing is sent before everything that arrived has been
//! seen. Ticks never bunch: a turn that took long is followed by one tick. A request is answered
//! with what was executed by a normal primary, and by the backup that handed it on.
//!
//! **Not here:** decisions. The protocol is the replica's, what a request does the executor's.

mod blocks;
mod missing;
mod opening;
mod requests;
mod serve;

pub use serve::serve;

use blocks::Blocks;

use crate::bus::{BusConfig, Identity, MessageBus, Peer, Received};
use crate::constants::TICK_NS;
use crate::fatal::{Fatal, FatalKind};
use crate::io::{Event, FileId, FileToken, IO};
use crate::replica::executor::{ClientReply, CommitOutcome, Executor};
use crate::replica::{Effects, Now, Replica};
use crate::state_machine::StateMachine;
use crate::stdx::{AlignedBuffer, Bound, Prng, defect};
use crate::storage::{ReadResult, Request, Token};
use crate::wire::{
    Author, ClusterId, Command, Entries, Header, Message, MessageBuilder, ReplicaIndex,
};
use requests::{Asked, Forwarded};
use std::collections::{BTreeMap, VecDeque};
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// What `start` needs to know.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// The data file.
    pub path: PathBuf,
    /// Which replica this is; must be the file's.
    pub replica: ReplicaIndex,
    /// The cluster, if the caller insists on one; must be the file's.
    pub cluster: Option<ClusterId>,
    /// Where the replicas listen, by index.
    pub addresses: Vec<SocketAddr>,
    /// Where this one listens, if not at its own address in `addresses`.
    pub listen: Option<SocketAddr>,
    /// Bytes of the store's blocks in memory, more or less.
    pub cache_size: u64,
    /// Bytes that the data file may grow to.
    pub size_limit: u64,
}

/// How a turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Go on.
    Continue,
    /// The process was asked to end.
    Terminate,
}

/// A replica with everything around it.
#[derive(Debug)]
pub struct Server<S: StateMachine> {
    replica: Replica,
    executor: Executor<S>,
    blocks: Blocks,
    bus: MessageBus,
    file: FileId,
    address: SocketAddr,
    /// What each file operation in flight is for.
    tokens: BTreeMap<FileToken, Token>,
    token_next: FileToken,
    /// The monotonic time of the next tick, ns.
    tick_next: u64,
    /// There is more to receive than one turn takes.
    more: bool,
    forwarded: Forwarded,
    /// Queries that the executed state may answer, in the order in which they came.
    queries: VecDeque<Message>,
    asked: Asked,
    /// Ticks since it began.
    ticks: u64,
    // Kept to keep their memory.
    effects: Effects,
    events: Vec<Event>,
    received: Vec<Received>,
    replies: Vec<ClientReply>,
}

/// Is told of every prepare that a server executes: for whoever must see the log itself.
pub trait Observer<S: StateMachine> {
    /// `prepare` has been executed; `executor` is as it left it.
    fn on_commit(&mut self, prepare: &Message, executor: &Executor<S>);
}

/// Nobody looks.
impl<S: StateMachine> Observer<S> for () {
    fn on_commit(&mut self, _: &Message, _: &Executor<S>) {}
}

/// What one input may ask of the data file, or send: more is a bug.
const EFFECTS_MAX: usize = 4096;

impl<S: StateMachine> Server<S> {
    /// Opens the data file, reads it, and listens.
    ///
    /// # Errors
    /// A data file that cannot be had, is not this replica's, or is damaged beyond what this
    /// replica may decide alone; an address that cannot be listened on.
    pub fn open<I: IO>(io: &mut I, config: ServerConfig, state_machine: S) -> Result<Self, Fatal> {
        let mut prng = Prng::from_seed(io.entropy());
        let (file, opened) = opening::open(io, &config)?;
        let state = opened.superblock.state();
        let file_size = io.file_size(file).map_err(|error| opening::fatal_size(&config, &error))?;
        let store_options = crate::store::Options {
            cluster: state.cluster,
            geometry: state.geometry,
            cache_size: config.cache_size,
            file_size,
            size_limit: config.size_limit,
        };
        let executor = Executor::open(state_machine, &store_options);
        let bus_config = BusConfig::new(
            Identity::Replica(state.replica),
            state.cluster,
            config.addresses.clone(),
            state.geometry.message_size,
        );
        let mut bus = MessageBus::new(bus_config, prng.fork());
        let listen = config.listen.unwrap_or(config.addresses[state.replica.index()]);
        let address = bus.listen(io, listen).map_err(|error| {
            Fatal::new(
                FatalKind::Listen,
                format!(
                    "cannot listen on {listen}: {error}; is another replica running there? \
                     choose another address with --listen"
                ),
            )
        })?;
        let mut effects = Effects::default();
        let now = Now { monotonic: io.monotonic(), realtime: io.realtime() };
        let replica = Replica::open(opened, now, prng, &mut effects);
        let mut server = Self {
            replica,
            executor,
            blocks: Blocks::default(),
            bus,
            file,
            address,
            tokens: BTreeMap::new(),
            token_next: 0,
            tick_next: now.monotonic + TICK_NS,
            more: false,
            forwarded: Forwarded::default(),
            queries: VecDeque::new(),
            asked: Asked::default(),
            ticks: 0,
            effects,
            events: Vec::new(),
            received: Vec::new(),
            replies: Vec::new(),
        };
        server.drain(io, &mut ())?;
        // Nothing is executed before its prepare was read, so no observer misses anything.
        assert_eq!(server.executor.op(), server.replica.commit_min());
        Ok(server)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How full all queues are.
    pub fn bounds(&self) -> Vec<Bound> {
        let mut bounds = self.replica.bounds();
        bounds.extend(self.executor.store().bounds());
        bounds.extend(self.bus.bounds());
        bounds.push(self.forwarded.bound());
        bounds.push(self.asked.bound());
        bounds
    }

    /// The protocol's state.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// The sessions and the store.
    pub fn executor(&self) -> &Executor<S> {
        &self.executor
    }

    /// The same, for whoever looks deeper than a client can.
    pub fn executor_mut(&mut self) -> &mut Executor<S> {
        &mut self.executor
    }

    /// Runs until the process is asked to end.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub fn run<I: IO>(&mut self, io: &mut I) -> Result<(), Fatal> {
        while self.turn(io)? == Turn::Continue {}
        self.bus.close_all(io);
        Ok(())
    }

    /// How long the next [`Server::turn`] may wait for events, at `now` ns on the monotonic clock.
    pub fn wait(&self, now: u64) -> Duration {
        if self.more || self.replica.wants_turn() {
            return Duration::ZERO;
        }
        Duration::from_nanos(self.tick_next.saturating_sub(now))
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub fn turn<I: IO>(&mut self, io: &mut I) -> Result<Turn, Fatal> {
        self.turn_observed(io, &mut ())
    }

    /// One turn of the loop, of which `observer` is told what it executes.
    ///
    /// # Errors
    /// What makes it impossible to go on.
    pub fn turn_observed<I: IO, O: Observer<S>>(
        &mut self,
        io: &mut I,
        observer: &mut O,
    ) -> Result<Turn, Fatal> {
        let wait = self.wait(io.monotonic());
        let mut events = std::mem::take(&mut self.events);
        io.run(wait, &mut events);
        let now = Now { monotonic: io.monotonic(), realtime: io.realtime() };
        self.replica.set_now(now);
        let mut turn = Turn::Continue;
        for event in events.drain(..) {
            if matches!(event, Event::Terminate) {
                turn = Turn::Terminate;
            }
            self.on_event(io, event, observer)?;
        }
        self.events = events;
        for replica in self.bus.take_connected() {
            self.replica.on_connected(replica, &mut self.effects);
            self.drain(io, observer)?;
        }

        let mut received = std::mem::take(&mut self.received);
        self.more = self.bus.receive(io, &mut received);
        for Received { message, peer, connection } in received.drain(..) {
            if matches!(peer, Some(Peer::Replica(_)))
                && let Some(is_believed) = self.replica.believes(message.header())
            {
                self.bus.set_doubted(connection, !is_believed);
            }
            self.on_message(&message, peer);
            self.drain(io, observer)?;
        }
        self.received = received;

        if now.monotonic >= self.tick_next {
            self.ticks += 1;
            self.forwarded.on_tick();
            self.asked.on_tick(self.ticks);
            self.replica.on_tick(&mut self.effects);
            self.drain(io, observer)?;
            self.blocks_tick()?;
            self.bus.tick(io);
            self.tick_next = (self.tick_next + TICK_NS).max(now.monotonic + TICK_NS / 2);
        }
        self.replica.on_turn_end(&mut self.effects);
        self.drain(io, observer)?;
        self.blocks_turn_end(io, observer)?;
        self.bus.pause_clients(self.replica.is_gathering_full());
        self.bus.flush(io);
        // Clients that have taken their answers are read again.
        self.more |= self.bus.has_more();
        Ok(turn)
    }

    fn on_event<I: IO, O: Observer<S>>(
        &mut self,
        io: &mut I,
        event: Event,
        observer: &mut O,
    ) -> Result<(), Fatal> {
        match event {
            Event::Socket { socket, readable, writable } => {
                self.bus.on_event(io, socket, readable, writable);
            }
            Event::ReadDone { token, buffer, unreadable } => {
                let token = self.tokens.remove(&token).expect("a read that was begun");
                let result = ReadResult { buffer, unreadable };
                if matches!(token, Token::ReadBlock { .. }) {
                    self.executor.store_mut().on_read_done(token, result);
                } else {
                    self.replica.on_read_done(token, result, &mut self.effects);
                }
            }
            Event::WriteDone { token, result } => {
                let token = self.tokens.remove(&token).expect("a write that was begun");
                match result {
                    Err(error)
                        if token == Token::GrowGrid && error.kind() == ErrorKind::StorageFull =>
                    {
                        self.executor.store_mut().on_growth_failed();
                    }
                    Err(error) => return Err(opening::fatal_write(&error)),
                    Ok(()) if matches!(token, Token::WriteBlock { .. } | Token::GrowGrid) => {
                        self.executor.store_mut().on_write_done(token);
                    }
                    Ok(()) => self.replica.on_write_done(token, &mut self.effects),
                }
            }
            Event::Terminate => log::info!("{}: asked to end", self.replica),
        }
        self.drain(io, observer)
    }

    fn on_message(&mut self, message: &Message, peer: Option<Peer>) {
        let header = message.header();
        match header.command {
            Command::Request(request) => self.on_request(&header.with(request), message),
            Command::PingClient(ping) => self.on_ping_client(&ping),
            Command::RequestStatus(request) => self.on_request_status(&request),
            Command::Reply(_)
            | Command::PongClient(_)
            | Command::Eviction(_)
            | Command::Reject(_)
            | Command::Status(_) => {
                log::debug!("{}: ignoring {} (for clients)", self.replica, header.command.name());
            }
            // A replica is known by the ping that it begins with.
            _ if !matches!(peer, Some(Peer::Replica(_))) => {
                log::debug!("{}: ignoring {} of no replica", self.replica, header.command.name());
            }
            Command::RequestBlocks(_) => self.on_request_blocks(message),
            Command::Block(_) => self.on_block(message),
            _ => self.replica.on_message(message, &mut self.effects),
        }
    }

    /// Carries out what the replica wants, until it wants nothing more.
    fn drain<I: IO, O: Observer<S>>(&mut self, io: &mut I, observer: &mut O) -> Result<(), Fatal> {
        while !self.effects.is_empty() {
            if let Some(fatal) = self.effects.fatal.take() {
                if fatal.kind == FatalKind::CheckpointDiverged {
                    self.tell_last(io);
                }
                return Err(fatal);
            }
            assert!(self.effects.requests.len() <= EFFECTS_MAX);
            assert!(self.effects.sends.len() <= EFFECTS_MAX);
            for request in self.effects.requests.drain(..) {
                let token = self.token_next;
                self.token_next += 1;
                let purpose = submit(io, self.file, token, request);
                self.tokens.insert(token, purpose);
            }
            for (to, message) in self.effects.sends.drain(..) {
                if let Err(dropped) = self.bus.send(Peer::Replica(to), &message) {
                    log::trace!("{}: dropped for replica {to}: {dropped:?}", self.replica);
                }
            }
            for (client, message) in self.effects.client_sends.drain(..) {
                let _ = self.bus.send(Peer::Client(client), &message);
            }
            if self.effects.checkpoint_durable.take().is_some() {
                self.executor.store_mut().on_checkpoint_durable();
            }
            self.queries.extend(self.effects.queries.drain(..));
            if let Some(load) = self.effects.load.take() {
                self.blocks.suspended = None;
                self.queries.clear();
                self.replies.clear();
                self.executor.load(&load);
            }
            if let Some(prepare) = self.effects.commit.take() {
                self.execute(&prepare, observer);
            }
        }
        Ok(())
    }

    /// This replica ends, and the others are to know why.
    fn tell_last<I: IO>(&mut self, io: &mut I) {
        for (to, message) in self.effects.sends.drain(..) {
            let _ = self.bus.send(Peer::Replica(to), &message);
        }
        self.bus.flush(io);
    }

    fn execute<O: Observer<S>>(&mut self, prepare: &Message, observer: &mut O) {
        let op = prepare.prepare_header().op();
        assert!(self.blocks.suspended.is_none());
        let is_reversed = defect!("batch_reversed") && self.replica.replica() == ReplicaIndex(1);
        let reversed = is_reversed.then(|| reversed(prepare));
        let executed = reversed.as_ref().unwrap_or(prepare);
        if self.executor.commit(executed, &mut self.replies) == CommitOutcome::Suspended {
            self.blocks.suspended = Some(prepare.clone());
            return;
        }
        assert_eq!(self.executor.op(), op);
        observer.on_commit(prepare, &self.executor);
        let mut replies = std::mem::take(&mut self.replies);
        let primary = self.replica.is_primary() || defect!("deposed_primary_replies");
        let read_size = self.executor.take_query_read_size();
        for reply in replies.drain(..) {
            self.asked.take(&reply, read_size);
            let is_owed = self.forwarded.take(&reply);
            if primary || is_owed {
                self.send_client_reply(&reply);
            }
        }
        self.replies = replies;
        self.replica.on_commit_done(op, &mut self.effects);
    }
}

/// The defect `batch_reversed`: the prepare with its last entry first.
fn reversed(prepare: &Message) -> Message {
    let mut entries: Vec<_> = Entries::new(prepare.body()).map_while(Result::ok).collect();
    entries.reverse();
    let header = prepare.prepare_header();
    let mut builder = MessageBuilder::new(header.body_size());
    for (entry, body) in entries {
        builder.append(&entry.encode());
        builder.append(body);
    }
    let Header { cluster, view, replica, incarnation, command, .. } = header;
    builder.seal(&Author { cluster, view, replica, incarnation }, command)
}

/// Queues a demand on the data file; returns what it is for.
fn submit<I: IO>(io: &mut I, file: FileId, token: FileToken, request: Request) -> Token {
    match request {
        Request::Read { token: purpose, offset, size } => {
            io.read(file, offset, AlignedBuffer::zeroed(size), token);
            purpose
        }
        Request::Write { token: purpose, offset, sectors } => {
            io.write(file, offset, sectors, token);
            purpose
        }
    }
}
