//! The knobs of a run. A seed draws all of them once ("swarm testing"): which kinds of faults there
//! are at all, and how hard each of them is. Any can be set by `--set NAME=VALUE`, to narrow a run
//! down; what the others draw stays the same.
//!
//! **Invariants:** every draw is made whatever is set, so that setting one knob moves no other;
//! drawn knobs and set ones obey the same bounds.
//!
//! **Not here:** what the knobs do (`network`, `disk`, `cluster`, `workload`).

use super::disk::DiskOptions;
use super::network::NetworkOptions;
use super::random::{Delay, Ppm};
use vsr::stdx::Prng;
use vsr::storage::Geometry;

macro_rules! knobs {
    ($($(#[$doc:meta])* $knob:ident in $min:literal ..= $max:literal,)*) => {
        /// The knobs of a run. Times are microseconds, chances parts of a million, sizes bytes.
        #[derive(Debug, Clone, PartialEq, Eq, Default)]
        pub(crate) struct Options {
            $($(#[$doc])* pub(crate) $knob: u64,)*
        }

        impl Options {
            /// Sets a knob by its name.
            ///
            /// # Errors
            /// There is no such knob, or the value is out of its bounds.
            pub(crate) fn set(&mut self, name: &str, value: u64) -> Result<(), String> {
                match name {
                    $(stringify!($knob) => {
                        let bounds: std::ops::RangeInclusive<u64> = $min..=$max;
                        if !bounds.contains(&value) {
                            let (min, max) = bounds.into_inner();
                            return Err(format!("{name}={value}: {name} is {min} to {max}"));
                        }
                        self.$knob = value;
                        Ok(())
                    })*
                    _ => Err(format!(
                        "{name}: no such knob; there are {}", Self::NAMES.join(", ")
                    )),
                }
            }

            /// The names of all knobs.
            pub(crate) const NAMES: &[&str] = &[$(stringify!($knob),)*];

            /// All knobs with their values.
            pub(crate) fn values(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($knob), self.$knob),)*]
            }
        }
    };
}

knobs! {
    /// What is replicated: 0 is kv, 1 the ledger.
    machine in 0 ..= 1,
    /// Replicas.
    replicas in 1 ..= 6,
    /// Clients at a time.
    clients in 1 ..= 64,
    /// Calls of all clients together.
    requests in 1 ..= 10000,
    /// Sessions.
    sessions in 1 ..= 65536,
    /// Slots of the journal.
    slots in 64 ..= 8192,
    /// Memory for blocks of the store, KiB.
    cache in 16 ..= 65536,
    /// Blocks of the store.
    block_size in 4096 ..= 65536,
    /// The largest message.
    message_size in 4096 ..= 65536,
    /// Prepares in flight.
    pipeline in 1 ..= 32,
    /// Keys that calls are about.
    keys in 1 ..= 10000,
    /// The longest value.
    value_size in 32 ..= 3000,
    /// Calls that read, in percent.
    read_percent in 0 ..= 100,
    /// Reads that go as queries, in percent.
    query_percent in 0 ..= 100,
    /// Calls of one session in the mean.
    session_calls in 1 ..= 1000,
    /// Of each session that ends: that it just vanishes.
    vanish in 0 ..= 1000000,
    /// Between two calls of a client, mean.
    think_mean in 0 ..= 10000000,
    /// A client gives a call up after it.
    call_timeout in 10000 ..= 60000000,
    /// What a turn of a process takes.
    turn_time in 1 ..= 1000,

    /// One-way delay, least.
    delay_min in 0 ..= 30000,
    /// One-way delay, mean on top.
    delay_mean in 0 ..= 100000,
    /// Of each frame.
    loss in 0 ..= 300000,
    /// Of each frame.
    duplicate in 0 ..= 500000,
    /// Of each frame: a bit flips, which costs the connection.
    corrupt in 0 ..= 100000,
    /// Of each frame: a reset of its connection.
    reset in 0 ..= 100000,
    /// Whether frames overtake each other.
    reorder in 0 ..= 1,
    /// Frames under way on a path; 0 is any number.
    path_capacity in 0 ..= 1000,
    /// Of each call to a socket.
    short in 0 ..= 1000000,
    /// Of each edge.
    spurious in 0 ..= 500000,
    /// Of each connect.
    refuse in 0 ..= 900000,
    /// Of each connect.
    slow in 0 ..= 900000,
    /// Of each connect.
    unanswered in 0 ..= 900000,
    /// Of each connect.
    half_open in 0 ..= 900000,
    /// Of each accept.
    accept_fail in 0 ..= 900000,
    /// Of each connection: its listener hears late of it.
    accept_late in 0 ..= 1000000,
    /// What a connection holds in each direction, in messages of the largest size.
    window in 1 ..= 64,
    /// Of each 10 ms: a path is clogged.
    clog in 0 ..= 200000,
    /// How long, mean.
    clog_mean in 0 ..= 5000000,
    /// Of each 10 ms without one: a partition begins.
    partition in 0 ..= 30000,
    /// How long it lasts, mean.
    partition_mean in 0 ..= 10000000,
    /// Whether there are partitions that cut both ways.
    partition_symmetric in 0 ..= 1,
    /// Whether there are partitions that cut one way.
    partition_one_way in 0 ..= 1,
    /// Whether there are partitions that isolate one process.
    partition_isolate in 0 ..= 1,
    /// Whether there are partitions of which each size is as likely as any other.
    partition_sizes in 0 ..= 1,

    /// Latency of reads, mean.
    read_mean in 0 ..= 100000,
    /// Latency of writes, mean.
    write_mean in 0 ..= 1000000,
    /// Of each write.
    write_corrupt in 0 ..= 100000,
    /// Of each write.
    write_lost in 0 ..= 100000,
    /// Of each write.
    write_misdirected in 0 ..= 100000,
    /// Of each read.
    read_corrupt in 0 ..= 100000,
    /// Of each read and write.
    unreadable in 0 ..= 100000,
    /// Of each start of a replica.
    rot in 0 ..= 1000000,
    /// Of each write in flight at a crash: all of it is done, or none.
    whole_at_crash in 0 ..= 1000000,
    /// Of each write that makes the file longer: there is no room.
    disk_full in 0 ..= 1000000,
    /// Of each crash of one of the replicas: its file is lost.
    file_lost in 0 ..= 1000000,
    /// Of each file that is lost, or was formatted anew and refused: it is recovered; else it is
    /// formatted anew.
    recover in 0 ..= 1000000,

    /// Of each replica and 10 ms.
    crash in 0 ..= 100000,
    /// Of each crash: nobody is told.
    crash_silent in 0 ..= 1000000,
    /// Of each start: the process is killed while it opens its file.
    crash_opening in 0 ..= 900000,
    /// Until a dead replica is started again, mean.
    restart_mean in 0 ..= 30000000,
    /// Of each 10 ms: all replicas are restarted, one after the other.
    rolling in 0 ..= 10000,
    /// Of each process and 10 ms.
    pause in 0 ..= 10000,
    /// How long, mean.
    pause_mean in 0 ..= 10000000,
    /// How much a clock may run wrong.
    drift in 0 ..= 200000,
    /// Of each replica and 10 ms: its wall clock jumps.
    clock_jump in 0 ..= 100000,
    /// How far at most.
    clock_jump_max in 1 ..= 100000000000000,
}

/// How a run is drawn: which share of the kinds of faults is there.
#[derive(Debug, Clone, Copy)]
struct Mood {
    /// Of each kind of fault: that it is there.
    share: Ppm,
}

impl Mood {
    fn draw(prng: &mut Prng) -> Self {
        // From all quiet to all at once.
        let shares = [0, 100_000, 250_000, 500_000, 500_000, 750_000, 750_000, 1_000_000];
        Self { share: Ppm(shares[prng.index(shares.len())]) }
    }

    /// 0, or one of the levels. Draws the same number of times either way.
    fn fault<const N: usize>(self, prng: &mut Prng, levels: [u64; N]) -> u64 {
        let is_there = prng.below(1_000_000) < u64::from(self.share.0);
        let level = levels[prng.index(N)];
        if is_there { level } else { 0 }
    }
}

fn one_of<const N: usize>(prng: &mut Prng, choices: [u64; N]) -> u64 {
    choices[prng.index(N)]
}

impl Options {
    /// The knobs of a seed.
    pub(crate) fn draw(prng: &mut Prng) -> Self {
        let mut options = Self::default();
        let mood = Mood::draw(prng);
        options.draw_cluster(prng);
        options.draw_network(mood, prng);
        options.draw_disks(mood, prng);
        options.draw_processes(mood, prng);
        options.machine = one_of(prng, [0, 0, 0, 1]);
        options.partition_sizes = one_of(prng, [0, 1]);
        options
    }

    fn draw_cluster(&mut self, prng: &mut Prng) {
        self.replicas = one_of(prng, [1, 1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 6]);
        self.clients = prng.range_inclusive(1, 12);
        self.requests = one_of(prng, [100, 1000, 1000, 3000, 3000, 3000]);
        self.sessions = one_of(prng, [2, 8, 64, 4096]);
        self.slots = one_of(prng, [64, 64, 64, 64, 64, 64, 128, 256, 1024]);
        self.message_size = one_of(prng, [4096, 8192, 16384]);
        self.block_size = one_of(prng, [4096, 4096, 4096, 16384]).min(self.message_size);
        self.cache = one_of(prng, [16, 16, 64, 256, 65536]);
        self.pipeline = one_of(prng, [1, 2, 4, 8, 8, 16, 29]).min(self.slots / 8);
        self.keys = one_of(prng, [1, 3, 10, 100, 1000]);
        self.value_size = one_of(prng, [32, 100, 1000, 3000, 3000]);
        self.read_percent = one_of(prng, [10, 50, 80]);
        self.query_percent = one_of(prng, [0, 50, 100]);
        self.session_calls = one_of(prng, [1, 3, 20, 1000]);
        self.vanish = one_of(prng, [0, 300_000, 1_000_000]);
        self.think_mean = one_of(prng, [0, 1000, 1000, 1000, 50_000]);
        self.call_timeout = one_of(prng, [500_000, 3_000_000, 10_000_000]);
        self.turn_time = one_of(prng, [1, 20, 200]);
    }

    fn draw_network(&mut self, mood: Mood, prng: &mut Prng) {
        self.delay_min = one_of(prng, [0, 50, 1000, 30_000]);
        self.delay_mean = one_of(prng, [20, 100, 1000, 5000, 30_000, 100_000]);
        self.loss = mood.fault(prng, [1000, 20_000, 100_000, 300_000]);
        self.duplicate = mood.fault(prng, [1000, 50_000, 500_000]);
        self.corrupt = mood.fault(prng, [100, 1000, 10_000]);
        self.reset = mood.fault(prng, [500, 2000, 20_000]);
        self.reorder = mood.fault(prng, [1]);
        self.path_capacity = mood.fault(prng, [2, 3, 6, 20]);
        self.short = mood.fault(prng, [1000, 100_000, 800_000]);
        self.spurious = mood.fault(prng, [10_000, 200_000]);
        self.refuse = mood.fault(prng, [50_000, 500_000]);
        self.slow = mood.fault(prng, [50_000, 500_000]);
        self.unanswered = mood.fault(prng, [50_000, 300_000]);
        self.half_open = mood.fault(prng, [50_000, 300_000]);
        self.accept_fail = mood.fault(prng, [50_000, 500_000]);
        self.accept_late = mood.fault(prng, [100_000, 1_000_000]);
        self.window = one_of(prng, [1, 1, 2, 8, 32]);
        self.clog = mood.fault(prng, [2000, 20_000, 100_000]);
        self.clog_mean = one_of(prng, [50_000, 500_000, 5_000_000]);
        self.partition = mood.fault(prng, [1000, 5000, 30_000]);
        self.partition_mean = one_of(prng, [200_000, 1_000_000, 5_000_000]);
        self.partition_symmetric = one_of(prng, [0, 1]);
        self.partition_one_way = one_of(prng, [0, 1]);
        self.partition_isolate = one_of(prng, [0, 1]);
    }

    fn draw_disks(&mut self, mood: Mood, prng: &mut Prng) {
        self.read_mean = one_of(prng, [50, 1000, 20_000, 100_000]);
        self.write_mean = one_of(prng, [50, 500, 500, 5000, 5000, 30_000, 200_000, 1_000_000]);
        self.write_corrupt = mood.fault(prng, [2000, 20_000, 100_000]);
        self.write_lost = mood.fault(prng, [2000, 20_000, 100_000]);
        self.write_misdirected = mood.fault(prng, [50_000, 100_000]);
        self.read_corrupt = mood.fault(prng, [2000, 20_000, 100_000]);
        self.unreadable = mood.fault(prng, [1000, 20_000, 50_000]);
        self.rot = mood.fault(prng, [200_000, 1_000_000]);
        self.whole_at_crash = one_of(prng, [0, 100_000, 500_000, 1_000_000]);
    }

    fn draw_processes(&mut self, mood: Mood, prng: &mut Prng) {
        self.crash = mood.fault(prng, [500, 2000, 5000]);
        self.crash_silent = mood.fault(prng, [300_000, 1_000_000]);
        self.crash_opening = mood.fault(prng, [100_000, 500_000]);
        self.restart_mean = one_of(prng, [20_000, 300_000, 3_000_000]);
        self.rolling = mood.fault(prng, [300, 1000]);
        self.pause = mood.fault(prng, [500, 1000, 5000]);
        self.pause_mean = one_of(prng, [50_000, 500_000, 3_000_000]);
        self.drift = mood.fault(prng, [100, 5000, 100_000]);
        self.clock_jump = mood.fault(prng, [500, 10_000]);
        self.clock_jump_max = one_of(prng, [50_000, 10_000_000, 3_600_000_000, 30_000_000_000_000]);
        self.file_lost = mood.fault(prng, [50_000, 300_000, 1_000_000]);
        self.disk_full = mood.fault(prng, [200_000, 800_000, 1_000_000]);
        self.recover = one_of(prng, [0, 500_000, 1_000_000, 1_000_000]);
        if self.file_lost > 0 {
            // A file is lost at a crash: there must be some.
            self.crash = self.crash.max(1000);
        }
    }

    /// The geometry of the data files.
    pub(crate) fn geometry(&self) -> Geometry {
        Geometry {
            message_size: to_u32(self.message_size),
            journal_slots: to_u32(self.slots),
            block_size: to_u32(self.block_size),
            pipeline: to_u32(self.pipeline),
            clients_max: to_u32(self.sessions),
        }
    }

    /// For the network.
    pub(crate) fn network(&self) -> NetworkOptions {
        NetworkOptions {
            delay: delay(self.delay_min, self.delay_mean),
            loss: ppm(self.loss),
            duplicate: ppm(self.duplicate),
            corrupt: ppm(self.corrupt),
            reset: ppm(self.reset),
            reorder: self.reorder == 1,
            path_capacity: to_u32(self.path_capacity),
            short: ppm(self.short),
            spurious: ppm(self.spurious),
            refuse: ppm(self.refuse),
            slow: ppm(self.slow),
            unanswered: ppm(self.unanswered),
            half_open: ppm(self.half_open),
            accept_fail: ppm(self.accept_fail),
            accept_late: ppm(self.accept_late),
            window: usize::try_from(self.window * self.message_size).expect("some MiB"),
        }
    }

    /// For the disks.
    pub(crate) fn disk(&self) -> DiskOptions {
        DiskOptions {
            read: delay(20, self.read_mean),
            write: delay(20, self.write_mean),
            write_corrupt: ppm(self.write_corrupt),
            write_lost: ppm(self.write_lost),
            write_misdirected: ppm(self.write_misdirected),
            read_corrupt: ppm(self.read_corrupt),
            unreadable: ppm(self.unreadable),
            rot: ppm(self.rot),
            whole_at_crash: ppm(self.whole_at_crash),
            full: ppm(self.disk_full),
        }
    }
}

/// A knob of a chance.
pub(crate) fn ppm(value: u64) -> Ppm {
    assert!(value <= 1_000_000);
    Ppm(to_u32(value))
}

/// Knobs of a delay, in microseconds.
pub(crate) fn delay(min: u64, mean: u64) -> Delay {
    Delay { min: min * 1000, mean: mean * 1000 }
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).expect("knobs are bounded")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_drawn_is_within_the_bounds_of_its_knob() {
        for seed in 0..300 {
            let options = Options::draw(&mut Prng::from_seed(seed));
            let mut again = Options::default();
            for (name, value) in options.values() {
                again.set(name, value).expect("a drawn value is one that can be set");
            }
            assert_eq!(options, again);
            assert_eq!(options.geometry().invalid(), None);
        }
    }

    #[test]
    fn wrong_knobs_are_named() {
        let mut options = Options::default();
        let no_knob = options.set("lose", 1).expect_err("there is no such knob");
        assert!(no_knob.contains("loss"), "{no_knob}");
        let out = options.set("replicas", 7).expect_err("at most six");
        assert_eq!(out, "replicas=7: replicas is 1 to 6");
        assert_eq!(options.set("loss", 300_000), Ok(()));
    }
}
