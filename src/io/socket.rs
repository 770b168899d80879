//! F5: sockets with the options that a replica wants, before they are handed to mio.
//!
//! ```text
//!   option             value            why
//!   TCP_NODELAY        on               whole messages are sent with one call; none waits for more
//!   SO_KEEPALIVE       5 s + 3 × 4 s    an idle peer whose machine is gone is noticed after 17 s
//!   TCP_USER_TIMEOUT   17 s             and one that leaves sent bytes unacknowledged, as soon
//!   SO_REUSEADDR       listeners        a restarted replica can have its address again at once
//!   SO_SNDBUF, RCVBUF  the kernel's     a fixed size would end the kernel's own tuning, and be cut
//!                                       to net.core.wmem_max, less than the tuning goes up to
//! ```
//!
//! **Invariants:** every socket that leaves this file is non-blocking and closed on exec; buffer
//! sizes are set before the handshake, which fixes the scale of the window.
//!
//! **Not here:** ids and readiness (`mio.rs`); when to dial again (`bus`).

use mio::net::{TcpListener, TcpStream};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::time::Duration;

/// How many connections may wait to be accepted. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG_MAX: i32 = 4096;

const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(4);
const KEEPALIVE_COUNT: u32 = 3;

/// How long sent bytes may stay unacknowledged before the connection is dead.
const USER_TIMEOUT: Duration = Duration::from_secs(17);

const _: () = assert!(
    USER_TIMEOUT.as_secs()
        == KEEPALIVE_IDLE.as_secs() + KEEPALIVE_COUNT as u64 * KEEPALIVE_INTERVAL.as_secs()
);

/// What an error of `accept` says about the next call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AcceptError {
    /// Nobody waits.
    Empty,
    /// The call was interrupted.
    Interrupted,
    /// One connection died before it was accepted; others may wait behind it.
    Connection,
    /// There are no descriptors or no memory: connections wait, and wait on.
    Resources,
}

impl AcceptError {
    /// Sorts an error of `accept`. What is not known is taken for a lack of resources, which leads
    /// to a pause and never to a busy loop.
    pub(super) fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock => return Self::Empty,
            ErrorKind::Interrupted => return Self::Interrupted,
            ErrorKind::ConnectionAborted => return Self::Connection,
            _ => {}
        }
        // Linux hands errors of the network that are pending on the new socket to `accept`.
        match error.raw_os_error() {
            Some(
                libc::ECONNRESET
                | libc::EPROTO
                | libc::EPERM
                | libc::ETIMEDOUT
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET,
            ) => Self::Connection,
            _ => Self::Resources,
        }
    }
}

/// A listener on `address`. `buffer_size` in bytes, for the connections that it accepts.
///
/// # Errors
/// The address is in use or not of this machine, or may not be had.
pub(super) fn listen(address: SocketAddr, buffer_size: Option<u32>) -> Result<TcpListener> {
    let socket = new(address, buffer_size)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG_MAX)?;
    Ok(TcpListener::from_std(socket.into()))
}

/// A socket that is connecting to `address`, or is connected already.
///
/// # Errors
/// The attempt failed at once.
pub(super) fn connect(address: SocketAddr, buffer_size: Option<u32>) -> Result<TcpStream> {
    let socket = new(address, buffer_size)?;
    tune(SockRef::from(&socket))?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        // An interrupted connect goes on by itself.
        Err(error) if error.kind() == ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Whether a connecting socket is connected.
///
/// # Errors
/// The attempt failed.
pub(super) fn connected(stream: &TcpStream) -> Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    let peer = match stream.peer_addr() {
        Ok(peer) => peer,
        Err(error) if error.kind() == ErrorKind::NotConnected => return Ok(false),
        Err(error) => return Err(error),
    };
    // TCP lets a socket connect to itself when the kernel picks the very port that is dialled while
    // nobody listens there. It would hold the port against the peer that is yet to come.
    if stream.local_addr()? == peer {
        return Err(Error::new(ErrorKind::ConnectionRefused, "connected to itself"));
    }
    Ok(true)
}

/// The options of a connection, dialled or accepted.
///
/// # Errors
/// The connection has died meanwhile.
pub(super) fn tune(socket: SockRef<'_>) -> Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_IDLE)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_COUNT),
    )?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn new(address: SocketAddr, buffer_size: Option<u32>) -> Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    if let Some(size) = buffer_size {
        socket.set_send_buffer_size(size as usize)?;
        socket.set_recv_buffer_size(size as usize)?;
    }
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

    #[test]
    fn options_are_in_force() {
        let listener = listen(ANY, Some(16 * 1024)).unwrap();
        let stream = connect(listener.local_addr().unwrap(), Some(16 * 1024)).unwrap();
        let socket = SockRef::from(&stream);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE_IDLE);
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), KEEPALIVE_COUNT);
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(USER_TIMEOUT));
        assert!(socket.nonblocking().unwrap());
        // Linux doubles what it is asked for.
        assert_eq!(socket.send_buffer_size().unwrap(), 32 * 1024);
        assert_eq!(socket.recv_buffer_size().unwrap(), 32 * 1024);
        let socket = SockRef::from(&listener);
        assert!(socket.reuse_address().unwrap());
        assert!(socket.nonblocking().unwrap());
    }

    #[test]
    fn a_socket_does_not_connect_to_itself() {
        // Bound to the port that it dials, a socket meets itself.
        let socket = new(ANY, None).unwrap();
        socket.bind(&ANY.into()).unwrap();
        let address = socket.local_addr().unwrap();
        let _ = socket.connect(&address);
        let stream = TcpStream::from_std(socket.into());
        assert_eq!(stream.peer_addr().unwrap(), address.as_socket().unwrap());
        assert_eq!(connected(&stream).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    #[test]
    fn errors_of_accept_are_sorted() {
        let of = |errno| AcceptError::of(&Error::from_raw_os_error(errno));
        assert_eq!(of(libc::EAGAIN), AcceptError::Empty);
        assert_eq!(of(libc::EINTR), AcceptError::Interrupted);
        assert_eq!(of(libc::ECONNABORTED), AcceptError::Connection);
        assert_eq!(of(libc::EMFILE), AcceptError::Resources);
        assert_eq!(of(libc::ENFILE), AcceptError::Resources);
        assert_eq!(of(libc::ENOMEM), AcceptError::Resources);
    }
}
