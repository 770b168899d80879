//! A network that a test can break: every path between two replicas, and from the clients to each
//! replica, leads through a proxy of its own on the loopback.
//!
//! ```text
//!   replica 2 ──► Link 2─0 ──► replica 0        the higher index dials the lower, so one link
//!   replica 2 ──► Link 2─1 ──► replica 1        carries both directions of a pair
//!   clients   ──► Link c─1 ──► replica 1
//!
//!   one connection:  dialler ──► pump ──► target        a thread for each direction: reads, is
//!                            ◄── pump ◄──               held, delayed or corrupted, writes
//! ```
//!
//! What is held is not lost: it arrives when the link is released, however old it is by then,
//! unless the connections are reset. So a partition ends with old traffic or with a loss, as it is
//! drawn.
//!
//! **Invariants:** bytes that are neither corrupted nor reset arrive as they are and in order;
//! every thread ends when its network is dropped.
//!
//! **Not here:** when what is broken (`schedule`).

use crate::harness::pass;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vsr::stdx::Prng;

/// Who may dial through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dialler {
    /// The replica of a higher index than the target.
    Replica(usize),
    /// All clients.
    Clients,
}

/// Which way bytes flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    ToTarget,
    ToDialler,
}

/// How long a connect to a replica on the same machine may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What is wrong with one direction.
#[derive(Debug, Default, Clone)]
struct Trouble {
    held: bool,
    delay: Duration,
    /// How many of the next pieces have a bit flipped.
    corrupt: u32,
}

#[derive(Debug)]
struct Control {
    to_target: Trouble,
    to_dialler: Trouble,
    refusing: bool,
    /// Both ends of each connection, to reset them.
    connections: BTreeMap<u64, [TcpStream; 2]>,
    connection_next: u64,
    closed: bool,
    prng: Prng,
    /// The first bytes that each connection carried, each way, while there is room for them.
    recorded: BTreeMap<(u64, Way), Vec<u8>>,
    record_left: usize,
}

/// One path.
#[derive(Debug)]
struct Link {
    target: SocketAddr,
    address: SocketAddr,
    control: Mutex<Control>,
    changed: Condvar,
}

/// All paths of a cluster.
#[derive(Debug)]
pub(crate) struct Network {
    replica_count: usize,
    links: BTreeMap<(Dialler, usize), Arc<Link>>,
}

impl Network {
    /// Links to replicas that listen at `targets`, or will.
    pub(crate) fn new(targets: &[SocketAddr], prng: &mut Prng) -> Self {
        let mut links = BTreeMap::new();
        for (target, address) in targets.iter().enumerate() {
            for dialler in target + 1..targets.len() {
                links.insert((Dialler::Replica(dialler), target), Link::open(*address, prng));
            }
            links.insert((Dialler::Clients, target), Link::open(*address, prng));
        }
        Self { replica_count: targets.len(), links }
    }

    /// The addresses of all replicas as one of them sees them: `own` is where it listens.
    pub(crate) fn addresses_of_replica(&self, replica: usize, own: SocketAddr) -> Vec<SocketAddr> {
        let of = |target: usize| match target {
            _ if target == replica => own,
            // Replicas of a higher index dial; any address will do for them.
            _ if target > replica => self.links[&(Dialler::Clients, target)].address,
            _ => self.links[&(Dialler::Replica(replica), target)].address,
        };
        (0..self.replica_count).map(of).collect()
    }

    /// The addresses of all replicas as clients see them.
    pub(crate) fn addresses_of_clients(&self) -> Vec<SocketAddr> {
        (0..self.replica_count)
            .map(|target| self.links[&(Dialler::Clients, target)].address)
            .collect()
    }

    /// The link between two replicas, and the way of what `from` sends.
    fn between(&self, from: usize, to: usize) -> (&Arc<Link>, Way) {
        assert_ne!(from, to);
        let way = if from > to { Way::ToTarget } else { Way::ToDialler };
        (&self.links[&(Dialler::Replica(from.max(to)), from.min(to))], way)
    }

    /// Holds what `from` sends to `to`, or lets it go.
    pub(crate) fn hold(&self, from: usize, to: usize, held: bool) {
        let (link, way) = self.between(from, to);
        link.change(|control| control.trouble(way).held = held);
    }

    /// Refuses and resets all connections between two replicas, or accepts again.
    pub(crate) fn refuse(&self, a: usize, b: usize, refusing: bool) {
        let (link, _) = self.between(a, b);
        link.change(|control| control.refusing = refusing);
        if refusing {
            link.reset();
        }
    }

    /// Holds both ways between the clients and a replica, or lets go.
    pub(crate) fn hold_clients(&self, replica: usize, held: bool) {
        self.links[&(Dialler::Clients, replica)].change(|control| {
            control.to_target.held = held;
            control.to_dialler.held = held;
        });
    }

    /// Delays each piece that `from` sends to `to`.
    pub(crate) fn delay(&self, from: usize, to: usize, delay: Duration) {
        let (link, way) = self.between(from, to);
        link.change(|control| control.trouble(way).delay = delay);
    }

    /// Flips a bit in each of the next `count` pieces that `from` sends to `to`.
    pub(crate) fn corrupt(&self, from: usize, to: usize, count: u32) {
        let (link, way) = self.between(from, to);
        link.change(|control| control.trouble(way).corrupt += count);
    }

    /// The same, both ways between the clients and a replica.
    pub(crate) fn corrupt_clients(&self, replica: usize, count: u32) {
        self.links[&(Dialler::Clients, replica)].change(|control| {
            control.to_target.corrupt += count;
            control.to_dialler.corrupt += count;
        });
    }

    /// Resets the connections between two replicas: what is on the way is lost.
    pub(crate) fn reset(&self, a: usize, b: usize) {
        self.between(a, b).0.reset();
    }

    /// Resets the connections of all clients to a replica.
    pub(crate) fn reset_clients(&self, replica: usize) {
        self.links[&(Dialler::Clients, replica)].reset();
    }

    /// Keeps the first `size` bytes of connections that are yet to be made, for each link.
    pub(crate) fn record(&self, size: usize) {
        for link in self.links.values() {
            link.change(|control| control.record_left = size);
        }
    }

    /// What `from` has sent to `to`, a stream for each connection.
    pub(crate) fn recorded(&self, from: usize, to: usize) -> Vec<Vec<u8>> {
        let (link, way) = self.between(from, to);
        let control = link.lock();
        let of_way = control.recorded.iter().filter(|((_, of), _)| *of == way);
        of_way.map(|(_, stream)| stream.clone()).collect()
    }

    /// No more trouble. What was held goes on.
    pub(crate) fn heal(&self) {
        for link in self.links.values() {
            link.change(|control| {
                control.to_target = Trouble::default();
                control.to_dialler = Trouble::default();
                control.refusing = false;
            });
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for link in self.links.values() {
            link.change(|control| control.closed = true);
            link.reset();
            // Wakes the thread that accepts.
            let _ = TcpStream::connect_timeout(&link.address, CONNECT_TIMEOUT);
        }
    }
}

impl Control {
    fn trouble(&mut self, way: Way) -> &mut Trouble {
        match way {
            Way::ToTarget => &mut self.to_target,
            Way::ToDialler => &mut self.to_dialler,
        }
    }
}

impl Link {
    fn open(target: SocketAddr, prng: &mut Prng) -> Arc<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let control = Control {
            to_target: Trouble::default(),
            to_dialler: Trouble::default(),
            refusing: false,
            connections: BTreeMap::new(),
            connection_next: 0,
            closed: false,
            prng: prng.fork(),
            recorded: BTreeMap::new(),
            record_left: 0,
        };
        let control = Mutex::new(control);
        let link = Arc::new(Self { target, address, control, changed: Condvar::new() });
        let accepting = Arc::clone(&link);
        spawn(move || accepting.accept(&listener));
        link
    }

    fn lock(&self) -> MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Control)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }

    fn reset(&self) {
        let connections = std::mem::take(&mut self.lock().connections);
        for stream in connections.into_values().flatten() {
            // Unsent bytes are thrown away and the peer sees a reset.
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.changed.notify_all();
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let accepted = listener.accept();
            if self.lock().closed {
                return;
            }
            let Ok((dialler, _)) = accepted else { continue };
            if self.lock().refusing {
                let _ = SockRef::from(&dialler).set_linger(Some(Duration::ZERO));
                continue;
            }
            let Ok(target) = TcpStream::connect_timeout(&self.target, CONNECT_TIMEOUT) else {
                continue;
            };
            // A connection that died meanwhile has no clones; its dialler will try again.
            let _ = self.join(dialler, target);
        }
    }

    fn join(self: &Arc<Self>, dialler: TcpStream, target: TcpStream) -> std::io::Result<()> {
        dialler.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let clones = [dialler.try_clone()?, target.try_clone()?];
        let (dialler_out, target_out) = (dialler.try_clone()?, target.try_clone()?);
        let id = {
            let mut control = self.lock();
            let id = control.connection_next;
            control.connection_next += 1;
            control.connections.insert(id, clones);
            id
        };
        let link = Arc::clone(self);
        spawn(move || link.pump(id, Way::ToTarget, dialler, target_out));
        let link = Arc::clone(self);
        spawn(move || link.pump(id, Way::ToDialler, target, dialler_out));
        Ok(())
    }

    /// Carries bytes one way, until an end of the connection is over.
    fn pump(&self, id: u64, way: Way, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let size = match from.read(&mut buffer) {
                Ok(0) | Err(_) => break,
                Ok(size) => size,
            };
            let Some(delay) = self.hold_and_corrupt(id, way, &mut buffer[..size]) else { break };
            if !delay.is_zero() {
                pass(delay);
            }
            if to.write_all(&buffer[..size]).is_err() {
                break;
            }
        }
        let _ = from.shutdown(Shutdown::Both);
        let _ = to.shutdown(Shutdown::Both);
        self.lock().connections.remove(&id);
    }

    /// Waits while the way is held. The delay, or `None` if the connection was reset meanwhile.
    fn hold_and_corrupt(&self, id: u64, way: Way, piece: &mut [u8]) -> Option<Duration> {
        let mut control = self.lock();
        loop {
            if control.closed || !control.connections.contains_key(&id) {
                return None;
            }
            if !control.trouble(way).held {
                break;
            }
            control = self.changed.wait(control).unwrap_or_else(PoisonError::into_inner);
        }
        if control.trouble(way).corrupt > 0 {
            control.trouble(way).corrupt -= 1;
            let byte = control.prng.index(piece.len());
            piece[byte] ^= 1 << control.prng.index(8);
        }
        let size = piece.len().min(control.record_left);
        if size > 0 {
            control.record_left -= size;
            control.recorded.entry((id, way)).or_default().extend_from_slice(&piece[..size]);
        }
        Some(control.trouble(way).delay)
    }
}

#[expect(clippy::disallowed_methods, reason = "a proxy waits for many things at once")]
fn spawn(work: impl FnOnce() + Send + 'static) {
    std::thread::spawn(work);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::DEADLINE;

    /// A server that sends back what it gets, behind a link.
    fn echo() -> (Network, TcpStream) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let target = listener.local_addr().unwrap();
        spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut buffer = [0; 64];
                while let Ok(size) = stream.read(&mut buffer)
                    && size > 0
                {
                    if stream.write_all(&buffer[..size]).is_err() {
                        break;
                    }
                }
            }
        });
        let network = Network::new(&[target, target], &mut Prng::from_seed(1));
        let address = network.addresses_of_replica(1, target)[0];
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        (network, stream)
    }

    #[test]
    fn passes_holds_corrupts_and_resets() {
        let (network, mut stream) = echo();
        let mut buffer = [0; 4];
        stream.write_all(b"pass").unwrap();
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"pass");

        network.hold(0, 1, true);
        stream.write_all(b"held").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert!(stream.read(&mut buffer).is_err(), "it was not held");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        network.heal();
        stream.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"held");

        network.corrupt(1, 0, 1);
        stream.write_all(b"flip").unwrap();
        stream.read_exact(&mut buffer).unwrap();
        let flipped: u32 = buffer.iter().zip(b"flip").map(|(a, b)| (a ^ b).count_ones()).sum();
        assert_eq!(flipped, 1);

        network.reset(0, 1);
        assert!(matches!(stream.read(&mut buffer), Ok(0) | Err(_)));
    }
}
