//! F5: who is at the other end of a connection, judged by what it says.
//!
//! There is no greeting. A dialled connection is known from the start: it leads to the replica that
//! was dialled. An accepted one is unknown until a validated message shows who its author is and
//! the author must be the sender:
//!
//! ```text
//!   message                              evidence
//!   request, ping_client, request_status the client in the command
//!   prepare, reply, block, headers       none: their authors are often not their senders
//!   every other                          the replica in the header
//!
//!   known so far     client c            replica r              none
//!   unknown          -> client c         -> replica r           stays
//!   client k         c = k, else close   close                  stays
//!   replica k        a request: stays    r = k, else close      stays
//!                    else close
//! ```
//!
//! A `request` from a replica is one that it forwards, and says nothing about the connection.
//!
//! **Invariants:** who is identified once is never anybody else on that connection.
//!
//! **Not here:** which of two connections of one peer stays.

use crate::wire::{ClientId, Command, Header, ReplicaIndex};
use std::fmt;

/// Who this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    /// A replica: it listens, and dials the replicas of lower index.
    Replica(ReplicaIndex),
    /// A client: it dials any replica it has something for, and never listens.
    Client(ClientId),
}

/// Who is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    /// A replica of the cluster.
    Replica(ReplicaIndex),
    /// A client.
    Client(ClientId),
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(replica) => write!(f, "replica {replica}"),
            Self::Client(client) => write!(f, "client {client}"),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(replica) => write!(f, "replica {replica}"),
            Self::Client(client) => write!(f, "client {client}"),
        }
    }
}

/// What a header says about the sender of its message.
fn evidence(header: &Header) -> Option<Peer> {
    match &header.command {
        Command::Request(request) => Some(Peer::Client(request.client)),
        Command::PingClient(ping) => Some(Peer::Client(ping.client)),
        Command::RequestStatus(request) => Some(Peer::Client(request.client)),
        Command::Prepare(_) | Command::Reply(_) | Command::Block(_) | Command::Headers(_) => None,
        Command::PrepareOk(_)
        | Command::Commit(_)
        | Command::CommitOk(_)
        | Command::StartViewChange(_)
        | Command::DoViewChange(_)
        | Command::StartView(_)
        | Command::RequestStartView(_)
        | Command::RequestHeaders(_)
        | Command::RequestPrepare(_)
        | Command::Ping(_)
        | Command::Pong(_)
        | Command::PongClient(_)
        | Command::Eviction(_)
        | Command::Reject(_)
        | Command::RequestBlocks(_)
        | Command::Status(_) => Some(Peer::Replica(header.replica)),
    }
}

/// Judges a validated `header` that came over a connection to `known`, at the process `identity`
/// of a cluster of `replica_count`. Returns who is known to be there after it.
///
/// # Errors
/// Why the connection must be closed.
pub(super) fn identify(
    known: Option<Peer>,
    header: &Header,
    identity: Identity,
    replica_count: u8,
) -> Result<Option<Peer>, &'static str> {
    assert!(replica_count > 0);
    if !header.command.from_client() && header.replica.0 >= replica_count {
        return Err("a replica index beyond the cluster");
    }
    let Some(claimed) = evidence(header) else { return Ok(known) };
    if let (Peer::Replica(claimed), Identity::Replica(own)) = (claimed, identity) {
        if claimed == own {
            return Err("a peer that claims to be this replica");
        }
        if known.is_none() && claimed < own {
            return Err("a replica that dials though it is to be dialled");
        }
    }
    match (known, claimed) {
        (None, claimed) => Ok(Some(claimed)),
        (Some(known), claimed) if known == claimed => Ok(Some(known)),
        (Some(Peer::Replica(_)), Peer::Client(_)) => match header.command {
            Command::Request(_) => Ok(known),
            _ => Err("a replica that speaks as a client"),
        },
        (Some(Peer::Replica(_)), Peer::Replica(_)) => {
            Err("another replica than expected: is the order of the addresses the replicas'?")
        }
        (Some(Peer::Client(_)), Peer::Client(_)) => Err("two clients on one connection"),
        (Some(Peer::Client(_)), Peer::Replica(_)) => Err("a client that speaks as a replica"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{
        Author, Block, ClusterId, Commit, Headers, Message, Operation, Ping, PingClient, Reply,
        Request, RequestStatus, View,
    };

    const COUNT: u8 = 3;
    const OWN: Identity = Identity::Replica(ReplicaIndex(1));
    const CLIENT: ClientId = ClientId(77);
    const OTHER: ClientId = ClientId(78);

    fn header(replica: u8, command: impl Into<Command>, body: &[u8]) -> Header {
        let author = Author {
            cluster: ClusterId(0),
            view: View(0),
            replica: ReplicaIndex(replica),
            incarnation: 0,
        };
        let message = Message::new(&author, command, body);
        Message::decode(message.bytes()).expect("valid").header().to_owned()
    }

    fn request(client: ClientId) -> Header {
        let operation = Operation::Query as u8;
        header(0, Request { client, operation, ..Request::default() }, &[])
    }

    fn ping(replica: u8) -> Header {
        header(replica, Ping { replica_count: COUNT, ..Ping::default() }, &[])
    }

    fn judge(known: Option<Peer>, header: &Header) -> Result<Option<Peer>, &'static str> {
        identify(known, header, OWN, COUNT)
    }

    const fn replica(index: u8) -> Option<Peer> {
        Some(Peer::Replica(ReplicaIndex(index)))
    }

    const fn client(client: ClientId) -> Option<Peer> {
        Some(Peer::Client(client))
    }

    #[test]
    fn unknown_becomes_what_it_says() {
        assert_eq!(judge(None, &request(CLIENT)), Ok(client(CLIENT)));
        let ping_client = PingClient { client: CLIENT, ..PingClient::default() };
        assert_eq!(judge(None, &header(0, ping_client, &[])), Ok(client(CLIENT)));
        let status = RequestStatus { client: CLIENT };
        assert_eq!(judge(None, &header(0, status, &[])), Ok(client(CLIENT)));
        assert_eq!(judge(None, &ping(2)), Ok(replica(2)));
        assert_eq!(judge(None, &header(2, Commit::default(), &[])), Ok(replica(2)));
    }

    #[test]
    fn what_others_may_have_written_is_no_evidence() {
        let operation = Operation::Query as u8;
        let reply = Reply { client: CLIENT, operation, ..Reply::default() };
        for known in [None, client(CLIENT), replica(0), replica(2)] {
            assert_eq!(judge(known, &header(0, reply, &[])), Ok(known));
            assert_eq!(judge(known, &header(1, Block::default(), &[1])), Ok(known));
            assert_eq!(judge(known, &header(0, Headers {}, &[0; 128])), Ok(known));
        }
    }

    #[test]
    fn nobody_is_this_replica_or_beyond_the_cluster() {
        for known in [None, client(CLIENT), replica(0), replica(2)] {
            assert!(judge(known, &ping(1)).is_err());
            assert!(judge(known, &ping(3)).is_err());
            assert!(judge(known, &header(5, Block::default(), &[1])).is_err());
        }
        assert!(judge(None, &ping(0)).is_err(), "replica 0 is dialled, it does not dial");
        assert_eq!(judge(replica(0), &ping(0)), Ok(replica(0)));
    }

    #[test]
    fn an_identified_peer_stays_who_it_is() {
        assert_eq!(judge(client(CLIENT), &request(CLIENT)), Ok(client(CLIENT)));
        assert!(judge(client(CLIENT), &request(OTHER)).is_err());
        assert!(judge(client(CLIENT), &ping(2)).is_err());
        assert!(judge(replica(2), &ping(0)).is_err());
        assert_eq!(judge(replica(2), &request(CLIENT)), Ok(replica(2)), "forwarded");
        assert!(judge(replica(2), &header(0, RequestStatus { client: CLIENT }, &[])).is_err());
    }
}
