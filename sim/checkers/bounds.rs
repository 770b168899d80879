//! Queues and memory are bounded: after each turn of a replica each of its queues, pools and sets
//! of dirty blocks has no more in it than the product says that there may be.
//!
//! **Invariants:** the bounds are the product's own words.
//!
//! **Not here:** why a bound is what it is (`Replica::bounds` and its like).

use super::{CheckerReport, FirstFailure};
use vsr::stdx::Bound;

#[derive(Debug, Default)]
pub(super) struct Bounds {
    compared: u64,
    failure: FirstFailure,
}

impl Bounds {
    /// So full is everything of `replica`.
    pub(super) fn on_turn(&mut self, replica: u8, bounds: &[Bound]) -> Result<(), String> {
        self.compared += bounds.len() as u64;
        let result = match bounds.iter().find(|bound| !bound.is_kept()) {
            None => Ok(()),
            Some(Bound { name, count, max }) => {
                Err(format!("replica {replica} has {count} {name}, and at most {max} there may be"))
            }
        };
        self.failure.note(result)
    }

    pub(super) fn report(&self) -> CheckerReport {
        CheckerReport {
            name: "bounds",
            compared: self.compared,
            undecided: 0,
            vacuous: self.compared == 0,
            failure: self.failure.get(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_full_is_named() {
        let mut bounds = Bounds::default();
        assert!(bounds.report().vacuous);
        let full = Bound::new("requests", 4, 4);
        assert!(bounds.on_turn(0, &[full, full]).is_ok());
        assert_eq!((bounds.report().compared, bounds.report().failure), (2, None));
        assert!(bounds.on_turn(1, &[full, Bound::new("prepares", 5, 4)]).is_err());
        let failure = bounds.report().failure.expect("it was found");
        assert!(failure.contains("replica 1 has 5 prepares"), "{failure}");
    }
}
