//! How full something is, and how full it may be: what the simulator asks of all queues and pools,
//! after each turn. Ground floor.
//!
//! **Invariants:** none: it is what is found, not what should be.

/// A queue, a pool, or whatever else takes memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// What it is.
    pub name: &'static str,
    /// How much there is: entries, or bytes where the name says so.
    pub count: u64,
    /// How much there may be.
    pub max: u64,
}

impl Bound {
    /// Of a thing that is counted.
    pub fn new(name: &'static str, count: usize, max: u64) -> Self {
        Self { name, count: count as u64, max }
    }

    /// Whether there is not more than there may be.
    pub fn is_kept(&self) -> bool {
        self.count <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_more_than_there_may_be_is_too_many() {
        assert!(Bound::new("queue", 3, 3).is_kept());
        assert!(!Bound::new("queue", 4, 3).is_kept());
    }
}
