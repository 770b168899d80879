//! F1: a whole message: a validated header and the shared bytes it was read from.
//!
//! Cloning shares; nothing is copied between the socket, the journal and the sockets of the
//! backups. A message that is meant for the journal lies in a sector-aligned buffer, padded with
//! zeros to whole sectors, so that direct I/O takes it as it is.
//!
//! **Invariants:** `buffer[..128]` encodes `header`; `header.size <= buffer.len()`; the body's
//! checksum is right; what follows in the buffer up to the end of the sector is zero.
//!
//! **Not here:** the structure of bodies. Whoever uses one asks [`super::Entries::check`],
//! [`super::HeaderSet::decode`] or [`super::StatusReport::decode`].

use super::commands::Command;
use super::header::{Author, Header, Invalid};
use crate::constants::{HEADER_SIZE, SECTOR_SIZE};
use crate::stdx::{self, AlignedBuffer};
use bytes::Bytes;

/// A validated message.
#[derive(Debug, Clone)]
pub struct Message {
    header: Header,
    buffer: Bytes,
}

impl Message {
    /// A message of `author` with a copy of `body`.
    pub fn new(author: &Author, command: impl Into<Command>, body: &[u8]) -> Self {
        let header = Header::seal(author, command.into(), body);
        assert_eq!(header.invalid(), None, "{}", header.command.name());
        let mut bytes = Vec::with_capacity(header.size as usize);
        bytes.extend_from_slice(&header.encode());
        bytes.extend_from_slice(body);
        Self { header, buffer: Bytes::from(bytes) }
    }

    /// Takes bytes that begin with a header, and validates header and body. More bytes may follow:
    /// up to the end of the message's last sector they must be zero, beyond it they are not looked
    /// at.
    ///
    /// # Errors
    /// Those of [`Header::decode`]; fewer bytes than the header says; a wrong body checksum;
    /// padding that is not zero.
    pub fn decode(buffer: Bytes) -> Result<Self, Invalid> {
        let head = buffer.first_chunk().ok_or(Invalid::Size(0))?;
        let header = Header::decode(head)?;
        Self::from_parts(header, buffer)
    }

    /// Completes a message whose header was decoded from the first 128 bytes of `buffer` already.
    ///
    /// # Errors
    /// Fewer bytes than the header says; a wrong body checksum; padding that is not zero.
    pub fn from_parts(header: Header, buffer: Bytes) -> Result<Self, Invalid> {
        let size = header.size as usize;
        let body = buffer.get(HEADER_SIZE as usize..size).ok_or(Invalid::Size(header.size))?;
        debug_assert_eq!(buffer[..HEADER_SIZE as usize], header.encode());
        if crc32c::crc32c(body) != header.checksum_body {
            return Err(Invalid::ChecksumBody);
        }
        let padding_end = size.next_multiple_of(SECTOR_SIZE as usize).min(buffer.len());
        if !stdx::is_zero(&buffer[size..padding_end]) {
            return Err(Invalid::Field("padding up to the end of the sector is not zero"));
        }
        Ok(Self { header, buffer })
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Header and body, exactly.
    pub fn as_bytes(&self) -> &[u8] {
        &self.buffer[..self.header.size as usize]
    }

    /// Header and body, exactly, sharing the memory.
    pub fn bytes(&self) -> Bytes {
        self.buffer.slice(..self.header.size as usize)
    }

    /// The body alone.
    pub fn body(&self) -> &[u8] {
        &self.buffer[HEADER_SIZE as usize..self.header.size as usize]
    }

    /// The message padded with zeros to whole sectors and aligned, as the journal writes it:
    /// the buffer itself if it is so already, else a copy.
    pub fn sectors(&self) -> Bytes {
        let size = (self.header.size).next_multiple_of(SECTOR_SIZE) as usize;
        if self.buffer.len() >= size && stdx::is_sectors(&self.buffer[..size]) {
            debug_assert!(
                self.buffer[self.header.size as usize..size].iter().all(|byte| *byte == 0)
            );
            return self.buffer.slice(..size);
        }
        AlignedBuffer::copy_of(self.as_bytes()).freeze()
    }

    /// The prepare's header. The message must be a prepare.
    pub fn prepare_header(&self) -> Header<super::Prepare> {
        match self.header.command {
            Command::Prepare(prepare) => self.header.with(prepare),
            other => panic!("a prepare was expected, not {}", other.name()),
        }
    }
}

/// Gathers a body in a sector-aligned buffer and seals it: how a prepare comes into being.
#[derive(Debug)]
pub struct MessageBuilder {
    buffer: AlignedBuffer,
    size: usize,
}

impl MessageBuilder {
    /// Room for a header and `body_size_max` bytes.
    pub fn new(body_size_max: u32) -> Self {
        let buffer = AlignedBuffer::zeroed(HEADER_SIZE + body_size_max);
        Self { buffer, size: HEADER_SIZE as usize }
    }

    /// Bytes in the body.
    pub fn body_size(&self) -> u32 {
        u32::try_from(self.size).expect("bounded by the message size") - HEADER_SIZE
    }

    /// Appends to the body. It must fit.
    pub fn append(&mut self, bytes: &[u8]) {
        self.buffer.as_mut()[self.size..self.size + bytes.len()].copy_from_slice(bytes);
        self.size += bytes.len();
    }

    /// Writes the header in front and freezes the whole.
    pub fn seal(mut self, author: &Author, command: impl Into<Command>) -> Message {
        let body = &self.buffer.as_ref()[HEADER_SIZE as usize..self.size];
        let header = Header::seal(author, command.into(), body);
        assert_eq!(header.size as usize, self.size);
        assert_eq!(header.invalid(), None, "{}", header.command.name());
        self.buffer.as_mut()[..HEADER_SIZE as usize].copy_from_slice(&header.encode());
        Message { header, buffer: self.buffer.freeze() }
    }
}
