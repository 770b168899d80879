//! F3: a 64-bit checksum over a sequence of values, to compare replicas by.
//!
//! Multiplication and shifts over words of eight bytes: no tables, no seed, the same on every
//! machine. Each run of bytes goes in with its size behind it, so that moving a border between two
//! runs changes the digest.
//!
//! **Invariants:** the digest is a function of the sequence of calls alone.
//!
//! **Not here:** protection of what lies on a disk or crosses a network (CRC-32C, in `wire`).

/// A checksum under construction.
#[derive(Debug, Clone)]
pub(crate) struct Digest {
    state: u64,
}

impl Digest {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    pub(crate) fn new() -> Self {
        Self { state: Self::OFFSET }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for word in words {
            self.u64(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.u64(u64::from_le_bytes(last));
        self.u64(bytes.len() as u64);
    }

    /// One step: a product carries differences upwards, the shift carries them down again. Each
    /// step can be undone, so two states that differ stay different under equal values.
    pub(crate) fn u64(&mut self, value: u64) {
        let product = (self.state ^ value).wrapping_mul(Self::FACTOR);
        self.state = product ^ (product >> 32);
    }

    pub(crate) fn u128(&mut self, value: u128) {
        for word in value.to_le_bytes().as_chunks().0 {
            self.u64(u64::from_le_bytes(*word));
        }
    }

    pub(crate) fn finish(self) -> u64 {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(Digest::new().finish(), 0xcbf2_9ce4_8422_2325);
        let mut digest = Digest::new();
        digest.bytes(b"foobarbaz");
        assert_eq!(digest.finish(), 0x1f6d_9d29_7979_1a4f);
    }

    #[test]
    fn borders_count() {
        let of = |parts: &[&[u8]]| {
            let mut digest = Digest::new();
            parts.iter().for_each(|part| digest.bytes(part));
            digest.finish()
        };
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b""]), of(&[]));
    }
}
