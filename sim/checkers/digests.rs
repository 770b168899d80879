//! Replicas that have executed the same log are in the same state.
//!
//! ```text
//!   op           1    2    3    4        digests are optional: one may be taken after each op,
//!   replica 0    a    b    c    d        or only after each turn, and those that fall on the same
//!   replica 1    a    ·    c             op are compared, also with those of earlier lives
//! ```
//!
//! **Invariants:** the first digest of an op is the one all others are compared with.
//!
//! **Not here:** whether the log is the same (`commits`), or the state right (`order`).

use super::{CheckerReport, FirstFailure};
use std::collections::BTreeMap;
use vsr::wire::Op;

#[derive(Debug)]
pub(super) struct Digests {
    replica_count: u8,
    /// The first digest of each op, and whose it is.
    digests: BTreeMap<Op, (u64, u8)>,
    compared: u64,
    failure: FirstFailure,
}

impl Digests {
    pub(super) fn new(replica_count: u8) -> Self {
        let failure = FirstFailure::default();
        Self { replica_count, digests: BTreeMap::new(), compared: 0, failure }
    }

    pub(super) fn on_digest(&mut self, replica: u8, op: Op, digest: u64) -> Result<(), String> {
        let (known, author) = *self.digests.entry(op).or_insert((digest, u8::MAX));
        if author == u8::MAX {
            self.digests.insert(op, (digest, replica));
            return Ok(());
        }
        self.compared += 1;
        let result = if known == digest {
            Ok(())
        } else {
            Err(format!(
                "at op {op} replica {replica} has digest {digest:016x} \
                 and replica {author} had {known:016x}"
            ))
        };
        self.failure.note(result)
    }

    /// A single replica has nobody to compare with.
    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "digests",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0 && (self.replica_count > 1 || self.digests.is_empty()),
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_digests_pass_and_others_do_not() {
        let mut digests = Digests::new(3);
        assert!(digests.report().vacuous);
        digests.on_digest(0, 1, 10).unwrap();
        assert!(digests.report().vacuous, "nobody to compare with");
        digests.on_digest(0, 2, 20).unwrap();
        digests.on_digest(1, 2, 20).unwrap();
        assert_eq!((digests.report().compared, digests.report().vacuous), (1, false));
        // Also of an earlier life of the same replica.
        assert!(digests.on_digest(0, 1, 11).is_err());
        let error = digests.on_digest(2, 2, 21).unwrap_err();
        assert!(error.contains("replica 2") && error.contains("replica 0"), "{error}");
        assert!(digests.report().failure.is_some());
    }

    #[test]
    fn a_single_replica_need_not_compare() {
        let mut digests = Digests::new(1);
        assert!(digests.report().vacuous);
        digests.on_digest(0, 1, 10).unwrap();
        assert!(!digests.report().vacuous);
    }
}
