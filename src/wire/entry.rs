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
//! `entry_count` of them.

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
    /// `StateMachine::apply`.
    Apply = 128,
    /// `StateMachine::query`.
    Query = 129,
}

impl Operation {
    /// The operation with this code.
    pub fn from_code(code: u8) -> Option<Self> {
        [Self::Register, Self::Deregister, Self::Noop, Self::Genesis, Self::Apply, Self::Query]
            .into_iter()
            .find(|operation| *operation as u8 == code)
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

    /// Checks the whole body: its entries fill it exactly and are `entry_count`.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check(body: &'a [u8], entry_count: u32) -> Result<(), EntryInvalid> {
        let mut count = 0u32;
        for entry in Self::new(body) {
            entry?;
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
