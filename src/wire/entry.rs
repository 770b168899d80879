//! F1: the body of a prepare is a batch of entries, one for each request in it (VRR §6.2).
//!
//! ```text
//! 0                16       24       32   36   40   41          64
//! +----------------+--------+--------+----+----+----+-----------+------- … -+----------
//! | client         |session | request|size|csum| op | zero      | size bytes| next entry
//! +----------------+--------+--------+----+----+----+-----------+------- … -+----------
//! ```
//!
//! **Invariants:** entries follow each other without gaps and fill the body exactly; `checksum` is
//! the CRC-32C of the entry's bytes, which is the request's own body checksum; there are exactly
//! `entry_count` of them; client, session and number fit the operation by the same rule as in a
//! request; a recovery is the only entry of its prepare.
//!
//! **Not here:** what an entry does: that is decided when it commits, from the table of sessions.

use super::Recover;
use super::types::{ClientId, Field};
use crate::constants::ENTRY_SIZE;

/// What an entry asks for. Below 128: the protocol's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Operation {
    /// Open a session.
    Register = 1,
    /// Close the session.
    Deregister = 2,
    /// Nothing; fills the log.
    Noop = 3,
    /// Op 1: the table of incarnations.
    Genesis = 4,
    /// Another data file takes the place of one that was lost: a [`super::Recover`].
    Recover = 5,
    /// `StateMachine::apply`.
    Apply = 128,
    /// `StateMachine::query`.
    Query = 129,
}

impl Operation {
    /// The operation with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [
            Self::Register,
            Self::Deregister,
            Self::Noop,
            Self::Genesis,
            Self::Recover,
            Self::Apply,
            Self::Query,
        ]
        .into_iter()
        .find(|operation| *operation as u8 == code)
    }

    /// Whether a client may ask for it; the others are the primary's own.
    pub fn from_client(self) -> bool {
        !matches!(self, Self::Noop | Self::Genesis)
    }

    /// Why no correct author asks for this with `size` bytes under this client, session and number.
    pub(super) fn invalid(
        self,
        client: ClientId,
        session: u64,
        request: u64,
        size: u32,
    ) -> Option<&'static str> {
        if (client.0 != 0) != self.from_client() {
            return Some("an operation of a client without one, or the other way round");
        }
        if matches!(self, Self::Register | Self::Deregister | Self::Noop) && size != 0 {
            return Some("a body where none belongs");
        }
        if self == Self::Recover && size as usize != Recover::SIZE {
            return Some("not the size of a recovery");
        }
        let valid = match self {
            Self::Register | Self::Noop | Self::Genesis => session == 0 && request == 0,
            Self::Deregister | Self::Apply | Self::Recover => session != 0 && request != 0,
            Self::Query => session == 0,
        };
        (!valid).then_some("a session or a number that does not fit the operation")
    }
}

/// One request inside a prepare. Its bytes are beside it in [`Entries`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Who asked; 0 for the protocol's own entries.
    pub client: ClientId,
    /// The session; 0 for register, queries and the protocol's own.
    pub session: u64,
    /// The number of the request.
    pub request: u64,
    /// The bytes that follow.
    pub size: u32,
    /// Their CRC-32C.
    pub checksum: u32,
    /// What is asked.
    pub operation: Operation,
}

/// Why a body is not a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EntryInvalid(pub &'static str);

impl Entry {
    /// The 64 bytes of the entry's header.
    pub fn encode(&self) -> [u8; ENTRY_SIZE as usize] {
        let mut bytes = [0; ENTRY_SIZE as usize];
        self.client.put(&mut bytes[0..16]);
        self.session.put(&mut bytes[16..24]);
        self.request.put(&mut bytes[24..32]);
        self.size.put(&mut bytes[32..36]);
        self.checksum.put(&mut bytes[36..40]);
        bytes[40] = self.operation as u8;
        bytes
    }

    /// Reads the header of an entry.
    ///
    /// # Errors
    /// An unknown operation, or padding that is not zero.
    pub fn decode(bytes: &[u8; ENTRY_SIZE as usize]) -> Result<Self, EntryInvalid> {
        if bytes[41..].iter().any(|byte| *byte != 0) {
            return Err(EntryInvalid("padding of an entry is not zero"));
        }
        Ok(Self {
            client: ClientId::get(&bytes[0..16]),
            session: u64::get(&bytes[16..24]),
            request: u64::get(&bytes[24..32]),
            size: u32::get(&bytes[32..36]),
            checksum: u32::get(&bytes[36..40]),
            operation: Operation::from_code(bytes[40]).ok_or(EntryInvalid("unknown operation"))?,
        })
    }
}

/// Iterates the entries of a prepare's body. Yields an error once and then ends.
#[derive(Debug, Clone)]
pub struct Entries<'a> {
    rest: &'a [u8],
}

impl<'a> Entries<'a> {
    /// The entries of `body`.
    pub fn new(body: &'a [u8]) -> Self {
        Self { rest: body }
    }

    /// Checks the whole body: its entries fill it exactly, are `entry_count`, have right checksums
    /// and keep the rules of their operations.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(body: &'a [u8], entry_count: u32) -> Result<(), EntryInvalid> {
        let mut count = 0u32;
        for entry in Self::new(body) {
            let (entry, bytes) = entry?;
            let Entry { client, session, request, size, checksum, operation } = entry;
            if let Some(reason) = operation.invalid(client, session, request, size) {
                return Err(EntryInvalid(reason));
            }
            if crc32c::crc32c(bytes) != checksum {
                return Err(EntryInvalid("the checksum of an entry does not match"));
            }
            if operation == Operation::Recover && entry_count != 1 {
                return Err(EntryInvalid("a recovery that is not alone"));
            }
            count += 1;
        }
        if count == entry_count { Ok(()) } else { Err(EntryInvalid("another number of entries")) }
    }

    fn split(&mut self) -> Result<(Entry, &'a [u8]), EntryInvalid> {
        let (head, rest) =
            self.rest.split_first_chunk().ok_or(EntryInvalid("a part of an entry"))?;
        let entry = Entry::decode(head)?;
        let (bytes, rest) = rest
            .split_at_checked(entry.size as usize)
            .ok_or(EntryInvalid("an entry beyond the body"))?;
        self.rest = rest;
        Ok((entry, bytes))
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = Result<(Entry, &'a [u8]), EntryInvalid>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let item = self.split();
        if item.is_err() {
            self.rest = &[];
        }
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;

    fn entry(operation: Operation, client: u128, session: u64, request: u64) -> Entry {
        let client = ClientId(client);
        Entry { client, session, request, size: 0, checksum: 0, operation }
    }

    fn append(body: &mut Vec<u8>, mut entry: Entry, bytes: &[u8]) {
        entry.size = u32::try_from(bytes.len()).unwrap();
        entry.checksum = crc32c::crc32c(bytes);
        body.extend_from_slice(&entry.encode());
        body.extend_from_slice(bytes);
    }

    fn example() -> Vec<u8> {
        let mut body = Vec::new();
        append(&mut body, entry(Operation::Register, 7, 0, 0), b"");
        append(&mut body, entry(Operation::Apply, 8, 5, 1), b"put");
        append(&mut body, entry(Operation::Query, 9, 0, 3), &[9; 300]);
        append(&mut body, entry(Operation::Deregister, 8, 5, 2), b"");
        append(&mut body, entry(Operation::Noop, 0, 0, 0), b"");
        body
    }

    #[test]
    fn entries_round_trip() {
        let body = example();
        assert_eq!(Entries::check(&body, 5), Ok(()));
        let mut again = Vec::new();
        for item in Entries::new(&body) {
            let (entry, bytes) = item.unwrap();
            append(&mut again, entry, bytes);
        }
        assert_eq!(again, body);
        assert_eq!(Entries::check(&[], 0), Ok(()));
        assert_eq!(Entries::check(&body, 4), Err(EntryInvalid("another number of entries")));
    }

    #[test]
    fn layout_is_pinned() {
        let bytes = Entry {
            client: ClientId(0x0f0e_0d0c_0b0a_0908_0706_0504_0302_0100),
            session: 0x1716_1514_1312_1110,
            request: 0x1f1e_1d1c_1b1a_1918,
            size: 0x2322_2120,
            checksum: 0x2726_2524,
            operation: Operation::Apply,
        }
        .encode();
        assert!(bytes[..40].iter().enumerate().all(|(index, byte)| index == usize::from(*byte)));
        assert_eq!(bytes[40], 128);
        assert!(bytes[41..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn operations_keep_their_rules() {
        for (valid, entry) in [
            (true, entry(Operation::Register, 1, 0, 0)),
            (false, entry(Operation::Register, 0, 0, 0)),
            (false, entry(Operation::Register, 1, 1, 0)),
            (false, entry(Operation::Register, 1, 0, 1)),
            (true, entry(Operation::Apply, 1, 1, 1)),
            (false, entry(Operation::Apply, 1, 1, 0)),
            (false, entry(Operation::Apply, 1, 0, 1)),
            (false, entry(Operation::Apply, 0, 1, 1)),
            (true, entry(Operation::Deregister, 1, 1, 1)),
            (false, entry(Operation::Deregister, 1, 0, 0)),
            (true, entry(Operation::Query, 1, 0, 0)),
            (false, entry(Operation::Query, 1, 1, 0)),
            (true, entry(Operation::Genesis, 0, 0, 0)),
            (false, entry(Operation::Genesis, 1, 0, 0)),
            (false, entry(Operation::Noop, 0, 1, 0)),
            (false, entry(Operation::Recover, 1, 1, 1)),
        ] {
            assert_eq!(Entries::check(&entry.encode(), 1).is_ok(), valid, "{entry:?}");
        }
        let mut body = Vec::new();
        append(&mut body, entry(Operation::Register, 1, 0, 0), b"body");
        assert!(Entries::check(&body, 1).is_err());
    }

    #[test]
    fn every_bit_flip_beyond_the_names_is_noticed() {
        let operation = 40;
        let body = example();
        let mut start = 0;
        for item in Entries::new(&body) {
            let (_, bytes) = item.unwrap();
            let end = start + ENTRY_SIZE as usize + bytes.len();
            // Who asks what has no checksum of its own: the body's covers it.
            let bits = ((start + 32) * 8..end * 8).filter(|bit| bit / 8 != start + operation);
            for bit in bits {
                let mut body = body.clone();
                body[bit / 8] ^= 1 << (bit % 8);
                assert!(Entries::check(&body, 5).is_err(), "bit {bit}");
            }
            start = end;
        }
        assert_eq!(start, body.len());
    }

    #[test]
    fn garbage_ends_with_one_error() {
        let mut prng = Prng::from_seed(11);
        for _ in 0..10_000 {
            let mut body = example();
            body.truncate(prng.index(body.len() + 1));
            for _ in 0..prng.below(4) {
                if !body.is_empty() {
                    let index = prng.index(body.len());
                    body[index] = u8::try_from(prng.below(256)).unwrap();
                }
            }
            let items: Vec<_> = Entries::new(&body).collect();
            let errors = items.iter().filter(|item| item.is_err()).count();
            assert!(errors <= 1);
            assert!(errors == 0 || items.last().is_some_and(Result::is_err));
            let size: usize = items.iter().flatten().map(|(_, bytes)| 64 + bytes.len()).sum();
            assert!(size == body.len() || errors == 1);
        }
        // A size that would wrap around the end.
        let mut bytes = entry(Operation::Noop, 0, 0, 0).encode();
        bytes[32..36].fill(0xff);
        assert_eq!(Entries::check(&bytes, 1), Err(EntryInvalid("an entry beyond the body")));
    }
}
