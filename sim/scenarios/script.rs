//! What a scenario does to single frames: rules that drop or hold what matches, and a record of
//! what was said, to say it again.
//!
//! ```text
//!   frame ──► recorded? ──► the first rule that matches ──► dropped, or held until it is released
//!                                 └── none ──► goes on
//! ```
//!
//! **Invariants:** rules count what they hit, so that a scenario can tell that it happened.

use super::Call;
use super::CallResult;
use bytes::Bytes;
use std::collections::VecDeque;
use vsr::wire::{Command, CommandPart, Header, Op};

/// Any command.
pub(crate) const ANY: u8 = 0;

/// What becomes of a frame that a rule matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Drop,
    Hold,
}

/// Which frames, and what becomes of them.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    action: Action,
    command: u8,
    pub(super) from: Option<Vec<usize>>,
    pub(super) to: Option<Vec<usize>>,
    op: Option<Op>,
    times: u64,
    pub(super) hits: u64,
    /// It shows something though it is never hit.
    pub(super) is_optional: bool,
}

/// A frame on its way.
#[derive(Debug, Clone)]
pub(crate) struct Packet {
    pub(crate) from: usize,
    pub(crate) to: usize,
    pub(crate) header: Header,
    pub(crate) frame: Bytes,
}

/// The rules of a network.
#[derive(Debug, Default)]
pub(crate) struct Script {
    pub(super) rules: Vec<(usize, Rule)>,
    pub(super) rule_next: usize,
    pub(super) held: Vec<Packet>,
    pub(super) recorded: Vec<Packet>,
    pub(super) is_recording: bool,
}

/// What a client is to do next.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Opens its session.
    Register,
    /// Asks.
    Call { call: Call, is_query: bool },
    /// Closes its session.
    Leave,
}

/// What a client is to do, and what came of its calls.
#[derive(Debug, Default)]
pub(crate) struct ClientScript {
    pub(crate) steps: VecDeque<Step>,
    pub(crate) results: Vec<CallResult>,
}

impl Rule {
    fn new(action: Action, command: u8) -> Self {
        let times = u64::MAX;
        let (from, to) = (None, None);
        Self { action, command, from, to, op: None, times, hits: 0, is_optional: false }
    }

    /// Drops every frame of this command, or of [`ANY`].
    pub(super) fn drop(command: u8) -> Self {
        Self::new(Action::Drop, command)
    }

    /// Holds every frame of this command back until it is released.
    pub(super) fn hold(command: u8) -> Self {
        Self::new(Action::Hold, command)
    }

    /// Only those about this op.
    pub(super) fn op(mut self, op: Op) -> Self {
        self.op = Some(op);
        self
    }

    /// Only so many of them.
    pub(super) fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// It depends on chance whether there is something to hit.
    pub(super) fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    fn matches(&self, from: usize, to: usize, header: &Header) -> bool {
        self.from.as_ref().is_none_or(|all| all.contains(&from))
            && self.to.as_ref().is_none_or(|all| all.contains(&to))
            && (self.command == ANY || self.command == header.command.code())
            && self.op.is_none_or(|op| op_of(&header.command) == Some(op))
    }

    /// Whether this frame, which matches, is hit.
    fn hits(&mut self) -> bool {
        let is_hit = self.hits < self.times;
        self.hits += u64::from(is_hit);
        is_hit
    }
}

/// The op that a message is about.
fn op_of(command: &Command) -> Option<Op> {
    match command {
        Command::Prepare(prepare) => Some(prepare.op),
        Command::PrepareOk(ok) => Some(ok.prepare.op),
        Command::RequestPrepare(request) => Some(request.prepare.op),
        Command::Reply(reply) => Some(reply.op),
        Command::Commit(commit) => Some(commit.commit.op),
        Command::DoViewChange(log) => Some(log.op),
        Command::StartView(start) => Some(start.op),
        _ => None,
    }
}

impl Script {
    /// The frame, if it goes on.
    pub(crate) fn fate(&mut self, from: usize, to: usize, frame: Bytes) -> Option<Bytes> {
        let head = frame.first_chunk().expect("a frame has a header");
        let header = Header::decode(head).expect("what is sent is valid");
        let packet = || Packet { from, to, header, frame: frame.clone() };
        if self.is_recording {
            self.recorded.push(packet());
        }
        for (_, rule) in &mut self.rules {
            if rule.matches(from, to, &header) && rule.hits() {
                if rule.action == Action::Hold {
                    self.held.push(packet());
                }
                return None;
            }
        }
        Some(frame)
    }
}
