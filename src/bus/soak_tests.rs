//! F5: everybody sends to everybody through every fault of the sockets; what arrives is whole, in
//! order, once, and of whom it says.

use super::test_io::{CALM, Faults, World};
use super::test_process::*;
use super::*;
use crate::stdx::Ratio;

/// What a soak run saw, to be compared between runs of one seed.
type Trace = Vec<(usize, u64)>;

/// Everybody sends to everybody through every fault there is; then the faults stop.
fn soak(seed: u64) -> Trace {
    let world = World::new(seed);
    let mut prng = Prng::from_seed(seed ^ 0x5eed);
    let mut processes: Vec<Process> = (0..3).map(|index| Process::replica(&world, index)).collect();
    processes.extend((3..6).map(|process| Process::client(&world, process, process as u128)));
    world.borrow_mut().faults = Faults {
        is_choppy: true,
        refuse: Ratio::new(1, 3),
        reset: Ratio::new(1, 1 + u32::try_from(prng.below(400)).unwrap()),
        accept_fail: Ratio::new(1, 3),
    };
    let mut soak = Soak { newest: BTreeMap::new(), trace: Vec::new(), sent: 0 };
    for _ in 0..800 {
        if prng.chance(Ratio::new(1, 100)) {
            let choice = prng.index(1000);
            world.borrow_mut().reset_one(choice);
        }
        if prng.chance(Ratio::new(1, 200)) {
            let index = u8::try_from(prng.index(3)).unwrap();
            let place = usize::from(index);
            processes[place].io.kill();
            processes[place] = Process::replica(&world, index);
        }
        let index = prng.index(3);
        processes[index].bus.pause_clients(prng.chance(Ratio::new(1, 3)));
        soak.step(&mut processes, &mut prng);
    }
    world.borrow_mut().faults = Faults { is_choppy: true, ..CALM };
    assert!(world.borrow().closed_count > 50, "the faults bite");
    processes[..3].iter_mut().for_each(|process| process.bus.pause_clients(false));
    for _ in 0..300 {
        soak.step(&mut processes, &mut prng);
    }
    soak.settle(&mut processes, 500);
    // Whoever is to be connected is; and what is sent from here on arrives, all of it.
    soak.trace.clear();
    let sent_before = soak.sent;
    for _ in 0..30 {
        for from in 0..6 {
            for to in 0..6 {
                soak.send(&mut processes, from, to, 500, true);
            }
        }
        soak.settle(&mut processes, 60);
    }
    soak.settle(&mut processes, 500);
    assert_eq!(soak.trace.len() as u64, soak.sent - sent_before, "seed {seed}");
    for process in &processes {
        assert_eq!(process.bus.counters().invalid, 0, "no frame is ever torn");
        assert_eq!(process.bus.counters().misidentified, 0);
    }
    soak.trace
}

struct Soak {
    /// By receiver and connection: the number that came last.
    newest: BTreeMap<(usize, ConnectionId), u64>,
    trace: Trace,
    sent: u64,
}

impl Soak {
    fn send(&mut self, processes: &mut [Process], from: usize, to: usize, size: usize, must: bool) {
        let is_pair = from != to && (from < 3 || to < 3);
        if !is_pair {
            return;
        }
        // The number names sender and receiver, so that nothing can be taken for another's.
        let number = (self.sent * 6 + from as u64) * 6 + to as u64;
        let message = if from >= 3 {
            request(from as u128, number, size)
        } else if to >= 3 {
            reply(u8::try_from(from).unwrap(), to as u128, number, size)
        } else if self.sent.is_multiple_of(3) {
            block(number, size)
        } else {
            ping(u8::try_from(from).unwrap(), number)
        };
        let peer = if to < 3 { replica(u8::try_from(to).unwrap()) } else { client(to as u128) };
        let result = processes[from].bus.send(peer, &message);
        if must {
            assert_eq!(result, Ok(()), "{from} to {to}");
        }
        self.sent += u64::from(result.is_ok());
    }

    fn step(&mut self, processes: &mut [Process], prng: &mut Prng) {
        for _ in 0..6 {
            let size = prng.index(9000);
            self.send(processes, prng.index(6), prng.index(6), size, false);
        }
        self.settle(processes, 1);
    }

    fn settle(&mut self, processes: &mut [Process], turns: u64) {
        for _ in 0..turns {
            for (to, process) in processes.iter_mut().enumerate() {
                process.turn();
                for received in std::mem::take(&mut process.received) {
                    let number = number(&received.message);
                    let from = usize::try_from(number / 6 % 6).unwrap();
                    assert_eq!(number % 6, to as u64, "delivered to whom it was sent");
                    let sender = if from < 3 {
                        replica(u8::try_from(from).unwrap())
                    } else {
                        client(from as u128)
                    };
                    assert!(received.peer.is_none_or(|peer| peer == sender), "misattributed");
                    let key = (to, received.connection);
                    let before = self.newest.insert(key, number);
                    assert!(
                        before.is_none_or(|before| before / 36 < number / 36),
                        "twice, or late"
                    );
                    self.trace.push((to, number));
                }
            }
        }
    }
}

#[test]
fn soak_through_all_faults() {
    for seed in 0..15 {
        let trace = soak(seed);
        assert!(trace.len() >= 600, "{}", trace.len());
    }
}

#[test]
fn the_same_seed_does_the_same() {
    assert_eq!(soak(1000), soak(1000));
}
