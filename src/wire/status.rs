//! F1: the body of `status`: what a replica says of itself to an operator.
//!
//! ```text
//! 0       1       2       3       4       5       6       8       12      16
//! +-------+-------+-------+-------+-------+-------+-------+-------+-------+---
//! |replica| count |status | born  |primary|synced | zero  | view  |logview| op …
//! +-------+-------+-------+-------+-------+-------+-------+-------+-------+---
//! ... one field after the other as in `StatusReport`, up to 280; zero up to 320
//! ```
//!
//! **Invariants:** the size and the order are fixed by the version of the protocol; decoding is
//! total; flags are 0 or 1; what is reserved is zero.
//!
//! **Not here:** what follows from the numbers: whether the cluster is available is judged by who
//! asked all replicas.

use super::header::Invalid;
use super::types::{Field, Op, Place, ReplicaIndex, View, layout};
use crate::constants::REPLICAS_MAX;

/// The status of a replica (VRR §4), as an operator sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum ReplicaStatus {
    /// Takes part in the view.
    Normal = 1,
    /// Between two views.
    ViewChange = 2,
    /// Opening its data file.
    #[default]
    Recovering = 3,
    /// Its file cannot tell where its log ends; it waits for a `start_view`.
    RecoveringHead = 4,
}

impl ReplicaStatus {
    /// The status with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Normal, Self::ViewChange, Self::Recovering, Self::RecoveringHead]
            .into_iter()
            .find(|status| *status as u8 == code)
    }

    /// The name as the documents and `vsr status` write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::ViewChange => "view_change",
            Self::Recovering => "recovering",
            Self::RecoveringHead => "recovering_head",
        }
    }
}

/// A value of the report: as [`Field`], but not all bytes are one.
trait StatusField: Copy {
    const SIZE: usize;
    fn put(self, bytes: &mut [u8]);
    fn get(bytes: &[u8]) -> Option<Self>;
}

macro_rules! status_field {
    ($($type:ty),*) => {$(
        impl StatusField for $type {
            const SIZE: usize = <$type as Field>::SIZE;
            fn put(self, bytes: &mut [u8]) {
                Field::put(self, bytes);
            }
            fn get(bytes: &[u8]) -> Option<Self> {
                Some(<$type as Field>::get(bytes))
            }
        }
    )*};
}
status_field!(u8, u32, u64, i64, View, ReplicaIndex);

impl StatusField for bool {
    const SIZE: usize = 1;
    fn put(self, bytes: &mut [u8]) {
        bytes[0] = u8::from(self);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        (bytes[0] <= 1).then_some(bytes[0] == 1)
    }
}

/// By replica index.
impl StatusField for [u64; REPLICAS_MAX as usize] {
    const SIZE: usize = 8 * REPLICAS_MAX as usize;
    fn put(self, bytes: &mut [u8]) {
        for (number, place) in self.into_iter().zip(bytes.chunks_exact_mut(8)) {
            Field::put(number, place);
        }
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Some(std::array::from_fn(|index| Field::get(&bytes[8 * index..8 * index + 8])))
    }
}

impl StatusField for ReplicaStatus {
    const SIZE: usize = 1;
    fn put(self, bytes: &mut [u8]) {
        bytes[0] = self as u8;
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        Self::from_code(bytes[0])
    }
}

/// Zero; keeps what follows on natural boundaries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved16;

impl StatusField for Reserved16 {
    const SIZE: usize = 2;
    fn put(self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
    fn get(bytes: &[u8]) -> Option<Self> {
        (bytes == [0, 0]).then_some(Self)
    }
}

macro_rules! report {
    ($(#[$doc:meta])* $name:ident { $( $(#[$field_doc:meta])* $field:ident: $type:ty, )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct $name { $( $(#[$field_doc])* pub $field: $type, )* }

        impl $name {
            /// Its fields as they lie in the body: name, offset and size in bytes.
            pub const FIELDS: &'static [Place] =
                &layout(0, [$( (stringify!($field), <$type as StatusField>::SIZE), )*]);

            /// The report as bytes.
            pub fn encode(&self) -> [u8; Self::SIZE as usize] {
                let mut bytes = [0; Self::SIZE as usize];
                let rest = &mut bytes[..];
                $( let (place, rest) = rest.split_at_mut(<$type as StatusField>::SIZE);
                StatusField::put(self.$field, place); )*
                debug_assert!(rest.iter().all(|byte| *byte == 0));
                bytes
            }

            fn get(bytes: &[u8; Self::SIZE as usize]) -> Result<Self, Invalid> {
                let rest = &bytes[..];
                $( let (place, rest) = rest.split_at(<$type as StatusField>::SIZE);
                let $field = <$type as StatusField>::get(place)
                    .ok_or(Invalid::Field(concat!("status report: ", stringify!($field))))?; )*
                if rest.iter().any(|byte| *byte != 0) {
                    return Err(Invalid::Field("reserved bytes of the report are not zero"));
                }
                Ok(Self { $($field,)* })
            }
        }
    };
}

report! {
    /// What a replica says of itself.
    StatusReport {
        /// Who reports.
        replica: ReplicaIndex,
        /// Replicas in the cluster.
        replica_count: u8,
        /// Its status.
        status: ReplicaStatus,
        /// Whether it knows that the genesis committed.
        born: bool,
        /// The primary of `view`.
        primary: ReplicaIndex,
        /// Whether the clocks of a majority agree, as seen from here.
        clock_synchronized: bool,
        /// Zero.
        reserved: Reserved16,
        /// Its view.
        view: View,
        /// The last view in which its head was defined.
        log_view: View,
        /// The head of its log.
        op: Op,
        /// What it has executed.
        commit_min: Op,
        /// What it knows to be committed.
        commit_max: Op,
        /// Its checkpoint.
        op_checkpoint: Op,
        /// The incarnation of its data file.
        incarnation: u64,
        /// The middle of the agreed interval minus its own wall clock, ns; 0 without one.
        clock_offset_ns: i64,
        /// Prepares it replaced by those of its peers since it started.
        prepares_repaired: u64,
        /// Headers it replaced by those of its peers since it started.
        headers_repaired: u64,
        /// Ops that a peer may still ask for (above the newest proven checkpoint) whose prepare is
        /// not known here or not durable.
        journal_dirty: u32,
        /// Slots of the journal whose prepare is damaged or lost.
        journal_faulty: u32,
        /// Slots of the journal.
        journal_slots: u32,
        /// Sessions that are open.
        sessions_count: u32,
        /// Ops that fit into the log before the next checkpoint must be durable.
        log_capacity_left: u64,
        /// Requests it has executed since it started.
        requests_committed: u64,
        /// Prepares it has executed since it started.
        ops_committed: u64,
        /// Ticks since it started.
        uptime_ticks: u64,
        /// The checkpoint that it is taking over from others; 0 while it is not.
        op_sync: Op,
        /// Ticks since it began to, or since it started.
        sync_ticks: u64,
        /// Blocks of that checkpoint that were found here.
        sync_blocks_found: u64,
        /// Blocks of it that came from others.
        sync_blocks_fetched: u64,
        /// Blocks of it that are known to be missing: what is beneath them is not known yet.
        sync_blocks_missing: u64,
        /// Geometry: message size, bytes.
        message_size: u32,
        /// Geometry: block size, bytes.
        block_size: u32,
        /// Geometry: prepares in flight.
        pipeline: u32,
        /// Geometry: sessions.
        clients_max: u32,
        /// The op that wrote the table of incarnations in its log; 0 without one.
        table_op: Op,
        /// That table, by replica index.
        incarnations: [u64; REPLICAS_MAX as usize],
        /// Bit r: it is replica r, or heard it within the last 3 s.
        heard: u8,
        /// Whether the grid cannot grow, so that the next checkpoint does not come about.
        store_full: bool,
        /// Whether execution waits for a block that is bad here and that nobody has sent yet.
        awaits_block: bool,
        /// Bit r: replica r has another checkpoint of the same op.
        diverged: u8,
        /// Blocks that are bad here, or not here yet, and that others are asked for.
        blocks_missing: u32,
        /// Blocks that were found bad since it started.
        blocks_bad: u64,
        /// Blocks that were bad and were written anew since it started.
        blocks_repaired: u64,
        /// How often everything in the newest checkpoint was read, to see whether it is good.
        scrub_laps: u64,
        /// The op of the checkpoint that others have otherwise; 0 if there is none.
        op_diverged: Op,
    }
}

impl StatusReport {
    /// Bytes on the wire, the reserved ones included.
    pub const SIZE: u32 = 320;

    /// Reads the body of a `status`. Total.
    ///
    /// # Errors
    /// Another size, an unknown status, a flag that is neither 0 nor 1, reserved bytes that are not
    /// zero, a replica outside of its own cluster.
    pub fn decode(body: &[u8]) -> Result<Self, Invalid> {
        let size = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let report = Self::get(body.try_into().map_err(|_| Invalid::Size(size))?)?;
        if !(1..=REPLICAS_MAX).contains(&report.replica_count) {
            return Err(Invalid::Field("status report: replica_count"));
        }
        if report.replica.0 >= report.replica_count || report.primary.0 >= report.replica_count {
            return Err(Invalid::Field("status report: a replica outside of the cluster"));
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;

    fn example() -> StatusReport {
        StatusReport {
            replica: ReplicaIndex(2),
            replica_count: 3,
            status: ReplicaStatus::Normal,
            born: true,
            primary: ReplicaIndex(1),
            clock_synchronized: true,
            reserved: Reserved16,
            view: View(7),
            log_view: View(6),
            op: 1 << 40,
            commit_min: 1 << 39,
            commit_max: 1 << 39 | 1,
            op_checkpoint: 512,
            incarnation: 0xdead_beef,
            clock_offset_ns: -5,
            prepares_repaired: 3,
            headers_repaired: 4,
            journal_dirty: 5,
            journal_faulty: 6,
            journal_slots: 1024,
            sessions_count: 8,
            log_capacity_left: 9,
            requests_committed: 10,
            ops_committed: 11,
            uptime_ticks: 12,
            op_sync: 1024,
            sync_ticks: 13,
            sync_blocks_found: 14,
            sync_blocks_fetched: 15,
            sync_blocks_missing: 16,
            message_size: 4096,
            block_size: 8192,
            pipeline: 13,
            clients_max: 14,
            table_op: 1,
            incarnations: [15, 16, 17, 0, 0, 0],
            heard: 0b110,
            store_full: true,
            awaits_block: true,
            diverged: 0b010,
            blocks_missing: 17,
            blocks_bad: 18,
            blocks_repaired: 19,
            scrub_laps: 20,
            op_diverged: 512,
        }
    }

    #[test]
    fn round_trip() {
        let report = example();
        assert_eq!(StatusReport::decode(&report.encode()), Ok(report));
        let (_, offset, size) = *StatusReport::FIELDS.last().expect("there are fields");
        assert_eq!(offset + size, 280);
    }

    #[test]
    fn what_no_replica_reports_is_refused() {
        let valid = example().encode();
        let with = |offset: usize, value: u8| {
            let mut bytes = valid;
            bytes[offset] = value;
            StatusReport::decode(&bytes)
        };
        assert!(with(0, 2).is_ok());
        for (offset, value) in [
            (0, 3),
            (1, 0),
            (1, 7),
            (2, 0),
            (2, 5),
            (3, 2),
            (4, 3),
            (5, 2),
            (6, 1),
            (241, 2),
            (280, 1),
        ] {
            assert!(with(offset, value).is_err(), "{offset} {value}");
        }
        for size in [0, 256, 319] {
            let error = Invalid::Size(u32::try_from(size).expect("small"));
            assert_eq!(StatusReport::decode(&valid[..size]), Err(error));
        }
    }

    #[test]
    fn decoding_is_total() {
        let mut prng = Prng::from_seed(3);
        let mut accepted = 0;
        for _ in 0..10_000 {
            let mut bytes = example().encode();
            for _ in 0..prng.range_inclusive(1, 8) {
                let index = prng.index(bytes.len());
                bytes[index] = u8::try_from(prng.below(256)).expect("a byte");
            }
            if let Ok(report) = StatusReport::decode(&bytes) {
                assert_eq!(report.encode(), bytes);
                accepted += 1;
            }
        }
        assert!(accepted > 100);
    }
}
