//! F3: 64-bit checksums to compare replicas by: of a sequence of values, and of a record of the
//! tree.
//!
//! A sequence: multiplication and shifts over words of eight bytes: no tables, no seed, the same on
//! every machine. Each run of bytes goes in with its size behind it, so that moving a border
//! between two runs changes the digest.
//!
//! A record: a product for each word, which is several times as fast. The digest of a tree is the
//! sum over its records, so that it follows each change at the cost of that change. For a record
//! that goes, the hash of its value must be known: a leaf holds small values themselves, and next
//! to the reference of a large one its hash.
//!
//! **Invariants:** a digest is a function of the sequence of calls alone, that of a record of its
//! key and value.
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

/// The hash of a value, and what its record adds to the digest of a tree.
pub(super) fn record_hash(key: &[u8], value: &[u8]) -> (u64, u64) {
    let size = u32::try_from(value.len()).expect("a value is smaller than a message");
    let hash = hash(VALUE_SEED, value);
    (hash, record_hash_of(key, size, hash))
}

/// What a record adds to the digest of a tree, from the hash of its value.
pub(super) fn record_hash_of(key: &[u8], value_size: u32, value_hash: u64) -> u64 {
    let of_key = hash(KEY_SEED, key);
    mix(mix(of_key, value_hash), u64::from(value_size))
}

const KEY_SEED: u64 = 0x243f_6a88_85a3_08d3;
const VALUE_SEED: u64 = 0x1319_8a2e_0370_7344;

fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let mut words = bytes.chunks_exact(8);
    let mut state = seed;
    for word in &mut words {
        state = mix(state, u64::from_le_bytes(*word.first_chunk().expect("a word")));
    }
    let mut last = [0; 8];
    last[..words.remainder().len()].copy_from_slice(words.remainder());
    mix(mix(state, u64::from_le_bytes(last)), bytes.len() as u64)
}

fn mix(state: u64, word: u64) -> u64 {
    let product = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ product >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_differ_have_other_hashes() {
        let mut hashes = std::collections::BTreeSet::new();
        let texts: [&[u8]; 8] = [b"", b"\0", b"a", b"aa", b"aaaaaaaa", b"aaaaaaaa\0", b"b", b"ab"];
        for key in texts {
            for value in texts {
                let (hash, record) = record_hash(key, value);
                let size = u32::try_from(value.len()).unwrap();
                assert_eq!(record, record_hash_of(key, size, hash));
                assert!(hashes.insert(record));
            }
        }
        assert_eq!(hashes.len(), 64);
    }

    #[test]
    fn known_values() {
        assert_eq!(Digest::new().finish(), 0xcbf2_9ce4_8422_2325);
        let mut digest = Digest::new();
        digest.bytes(b"foobarbaz");
        assert_eq!(digest.finish(), 0x1f6d_9d29_7979_1a4f);
    }

    /// Files hold hashes of values, and replicas compare digests.
    #[test]
    fn hashes_of_records_stay_what_they_are() {
        let found = record_hash(b"a key", b"a value of more than a word");
        assert_eq!(found, (0x2c04_ffc6_89f6_1dc8, 0x6ad2_147b_5a8c_793f));
    }

    #[test]
    fn both_halves_of_a_wide_number_count() {
        let of = |number: u128| {
            let mut digest = Digest::new();
            digest.u128(number);
            digest.finish()
        };
        assert_ne!(of(1), of(2));
        assert_ne!(of(1), of(1 | 1 << 64));
        assert_ne!(of(1), Digest::new().finish());
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
