//! F5: how many replicas it takes (flexible quorums).
//!
//! | R | replication | view change | nack |
//! |---|---|---|---|
//! | 1 | 1 | 1 | 1 |
//! | 2 | 2 | 2 | 1 |
//! | 3 | 2 | 2 | 2 |
//! | 4 | 2 | 3 | 3 |
//! | 5 | 3 | 3 | 3 |
//! | 6 | 3 | 4 | 4 |
//!
//! **Invariants:** every replication quorum meets every view-change quorum, and every nack quorum:
//! what is committed is seen by every view change and can never be nacked away.

use crate::constants::REPLICAS_MAX;

/// The quorums of a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quorums {
    /// Durable copies that commit a prepare.
    pub replication: u8,
    /// Votes that leave a view, and logs that begin one.
    pub view_change: u8,
    /// Replicas certain never to have acknowledged a prepare, which allow to drop it.
    pub nack: u8,
    /// More than half.
    pub majority: u8,
}

impl Quorums {
    /// The quorums of `replica_count` replicas.
    pub const fn new(replica_count: u8) -> Self {
        assert!(replica_count > 0);
        assert!(replica_count <= REPLICAS_MAX);
        let replication = match replica_count {
            1 => 1,
            2..=4 => 2,
            _ => 3,
        };
        let view_change = if replica_count == 2 { 2 } else { replica_count - replication + 1 };
        let nack = replica_count - replication + 1;
        let majority = replica_count / 2 + 1;
        assert!(replication + view_change > replica_count);
        assert!(nack + replication > replica_count);
        Self { replication, view_change, nack, majority }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_of_the_design() {
        let table = [(1, 1, 1), (2, 2, 1), (2, 2, 2), (2, 3, 3), (3, 3, 3), (3, 4, 4)];
        for (replica_count, expected) in (1..).zip(table) {
            let quorums = Quorums::new(replica_count);
            assert_eq!((quorums.replication, quorums.view_change, quorums.nack), expected);
        }
    }
}
