//! A peer that does on the wire exactly what a test says: hand-built messages, in any pieces.
//!
//! **Invariants:** what it receives is validated by the product's decoder; every wait is bounded.
//!
//! **Not here:** resending, choosing a replica: the library's client does so.

use super::{DEADLINE, now};
use bytes::Bytes;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use vsr::constants::HEADER_SIZE;
use vsr::wire::{
    Author, ClientId, ClusterId, Command, Header, Message, Operation, ReplicaIndex, Reply, Request,
    View,
};

/// A connection to one replica, and the client id that speaks on it.
#[derive(Debug)]
pub(crate) struct Raw {
    pub(crate) stream: TcpStream,
    client: ClientId,
    /// The newest view that was heard of: a primary takes a request in the view it names alone.
    view: View,
}

/// What came, or did not.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Box<Message>),
    /// Nothing in the given time; the connection is open.
    Silence,
    /// The replica closed the connection.
    Closed,
}

impl Raw {
    /// Connects to a replica that listens.
    #[track_caller]
    pub(crate) fn connect(address: SocketAddr, client: u128) -> Self {
        Self::try_connect(address, client).expect("a replica listens")
    }

    /// The same, or `None` if the replica does not listen, or takes nobody.
    pub(crate) fn try_connect(address: SocketAddr, client: u128) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self { stream, client: ClientId(client), view: View(0) })
    }

    /// A request of this client.
    pub(crate) fn request(
        &self,
        session: u64,
        request: u64,
        operation: Operation,
        body: &[u8],
    ) -> Message {
        let author = Author {
            cluster: ClusterId(0),
            view: self.view,
            replica: ReplicaIndex(0),
            incarnation: 0,
        };
        let command = Request { client: self.client, session, request, operation: operation as u8 };
        Message::new(&author, command, body)
    }

    /// Sends bytes. An error is fine: the replica may have closed the connection.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next message within `timeout`.
    #[track_caller]
    pub(crate) fn receive(&mut self, timeout: Duration) -> Incoming {
        let mut head = [0; HEADER_SIZE as usize];
        match self.read_exact(&mut head, timeout) {
            None => return Incoming::Silence,
            Some(false) => return Incoming::Closed,
            Some(true) => {}
        }
        let header = Header::decode(&head).expect("a replica sends valid headers");
        let mut bytes = head.to_vec();
        bytes.resize(header.size as usize, 0);
        match self.read_exact(&mut bytes[HEADER_SIZE as usize..], DEADLINE) {
            Some(true) => {}
            other => panic!("a message without its end: {other:?}"),
        }
        let message = Message::decode(Bytes::from(bytes)).expect("a replica sends valid messages");
        self.view = self.view.max(header.view);
        Incoming::Message(Box::new(message))
    }

    /// The next reply, whatever else comes before it.
    #[track_caller]
    pub(crate) fn reply(&mut self) -> (Reply, Bytes) {
        let start = now();
        while start.elapsed() < DEADLINE {
            match self.receive(DEADLINE) {
                Incoming::Message(message) => {
                    if let Command::Reply(reply) = message.header().command {
                        return (reply, Bytes::copy_from_slice(message.body()));
                    }
                }
                other => panic!("a reply was expected, not {other:?}"),
            }
        }
        panic!("no reply within {DEADLINE:?}");
    }

    /// Opens a session and returns its number.
    #[track_caller]
    pub(crate) fn register(&mut self) -> u64 {
        self.ask(0, 0, Operation::Register, &[]).0.session
    }

    /// Sends a request to a primary, again if it names an older view, and returns the reply.
    #[track_caller]
    pub(crate) fn ask(
        &mut self,
        session: u64,
        request: u64,
        operation: Operation,
        body: &[u8],
    ) -> (Reply, Bytes) {
        let start = now();
        while start.elapsed() < DEADLINE {
            let message = self.request(session, request, operation, body);
            assert!(self.send(message.as_bytes()));
            match self.receive(DEADLINE) {
                Incoming::Message(message) => {
                    if let Command::Reply(reply) = message.header().command {
                        return (reply, Bytes::copy_from_slice(message.body()));
                    }
                }
                other => panic!("a reply was expected, not {other:?}"),
            }
        }
        panic!("no reply within {DEADLINE:?}");
    }

    /// Whether the replica closes this connection within `timeout`; what it says before is ignored.
    pub(crate) fn is_closed_within(&mut self, timeout: Duration) -> bool {
        let start = now();
        let mut sink = [0; 4096];
        while start.elapsed() < timeout {
            self.set_timeout(timeout.saturating_sub(start.elapsed()));
            match self.stream.read(&mut sink) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => return true,
            }
        }
        false
    }

    fn set_timeout(&self, timeout: Duration) {
        let timeout = timeout.max(Duration::from_millis(1));
        self.stream.set_read_timeout(Some(timeout)).expect("a socket option");
    }

    /// `Some(true)`: filled; `Some(false)`: closed before the first byte; `None`: nothing came.
    #[track_caller]
    fn read_exact(&mut self, buffer: &mut [u8], timeout: Duration) -> Option<bool> {
        let start = now();
        let mut size = 0;
        while size < buffer.len() {
            let bound = if size == 0 { timeout } else { DEADLINE };
            if start.elapsed() >= bound {
                assert_eq!(size, 0, "a part of a message, then silence");
                return None;
            }
            self.set_timeout(bound.saturating_sub(start.elapsed()));
            match self.stream.read(&mut buffer[size..]) {
                Ok(0) => return Some(false),
                Ok(read) => size += read,
                Err(error) if is_timeout(error.kind()) => {}
                Err(_) => return Some(false),
            }
        }
        Some(true)
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}
