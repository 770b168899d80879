//! F3: a 64-bit checksum over a sequence of values, to compare replicas by.
//!
//! FNV-1a: no tables, no seed, the same on every machine. Each run of bytes goes in with its size
//! behind it, so that moving a border between two runs changes the digest.
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
    const PRIME: u64 = 0x0000_0100_0000_01b3;

    pub(crate) fn new() -> Self {
        Self { state: Self::OFFSET }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes);
        self.u64(bytes.len() as u64);
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.mix(&value.to_le_bytes());
    }

    pub(crate) fn u128(&mut self, value: u128) {
        self.mix(&value.to_le_bytes());
    }

    pub(crate) fn finish(self) -> u64 {
        self.state
    }

    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = (self.state ^ u64::from(*byte)).wrapping_mul(Self::PRIME);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(Digest::new().finish(), 0xcbf2_9ce4_8422_2325);
        let mut digest = Digest::new();
        digest.mix(b"foobar");
        assert_eq!(digest.finish(), 0x8594_4171_f739_67e8);
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
