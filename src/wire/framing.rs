//! F1: turns a stream of bytes, in whatever pieces it comes, into messages.
//!
//! ```text
//!                  space / advance                        next
//!   socket --> [ small buffer, 4 KiB ] --- frame <= 4 KiB ---> Message (copied out)
//!                       |
//!                       | the header of a larger frame is valid: `wants`, then `grant`
//!                       v
//!   socket --> [ large buffer, of exactly that frame ] ------> Message (moved out)
//! ```
//!
//! A receiver owns [`RECEIVE_BUFFER_SIZE`] bytes and nothing more until a valid header of its own
//! cluster announced a larger frame *and* its owner granted the memory for it, so the owner decides
//! how much all its connections may hold together. The rest of a large frame is received straight
//! into its final place.
//!
//! How to use it, after the socket became readable:
//!
//! ```text
//! loop:  while let Some(message) = receiver.next()? { handle(message) }
//!        if let Some(header) = receiver.wants() {
//!            if the budget has no room for header.size { stop reading until it has }
//!            receiver.grant();
//!        }
//!        size = socket.read(receiver.space())?;  receiver.advance(size);
//! ```
//!
//! **Invariants:** nothing in a header is believed before its checksum is verified, nor its size
//! before it is compared with the largest; the first thing that is wrong ends the stream for good;
//! a prepare always lies at the start of a sector-aligned buffer that is padded with zeros, so that
//! [`Message::sectors`] does not copy it.
//!
//! **Not here:** sockets, budgets, who the peer is, whether a message makes sense.

use super::commands::Command;
use super::header::{Header, Invalid};
use super::message::Message;
use super::types::ClusterId;
use crate::constants::HEADER_SIZE;
use crate::stdx::AlignedBuffer;
use bytes::Bytes;

/// The bytes a receiver owns before anything valid came, and the largest frame that needs no grant.
pub const RECEIVE_BUFFER_SIZE: u32 = 4096;

const SMALL: usize = RECEIVE_BUFFER_SIZE as usize;

/// The receiving end of one connection.
#[derive(Debug)]
pub struct Receiver {
    cluster: ClusterId,
    message_size_max: u32,
    small: Box<[u8; SMALL]>,
    /// The bytes of `small` that were received and not consumed are `start..end`.
    start: usize,
    end: usize,
    /// The header at `start`, once it is there and valid.
    header: Option<Header>,
    large: Option<Large>,
    failed: Option<Invalid>,
}

/// A frame larger than `small` under way into its own buffer.
#[derive(Debug)]
struct Large {
    header: Header,
    buffer: LargeBuffer,
    /// The bytes that are there, from the start of the frame.
    filled: usize,
}

#[derive(Debug)]
enum LargeBuffer {
    Aligned(AlignedBuffer),
    Exact(Vec<u8>),
}

impl LargeBuffer {
    fn for_frame(header: &Header) -> Self {
        if matches!(header.command, Command::Prepare(_)) {
            Self::Aligned(AlignedBuffer::zeroed(header.size))
        } else {
            Self::Exact(vec![0; header.size as usize])
        }
    }

    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Aligned(buffer) => buffer.as_mut(),
            Self::Exact(buffer) => buffer,
        }
    }

    fn freeze(self) -> Bytes {
        match self {
            Self::Aligned(buffer) => buffer.freeze(),
            Self::Exact(buffer) => Bytes::from(buffer),
        }
    }
}

impl Receiver {
    /// A receiver for messages of `cluster` of at most `message_size_max` bytes, header included.
    pub fn new(cluster: ClusterId, message_size_max: u32) -> Self {
        assert!(message_size_max >= HEADER_SIZE);
        Self {
            cluster,
            message_size_max,
            small: Box::new([0; SMALL]),
            start: 0,
            end: 0,
            header: None,
            large: None,
            failed: None,
        }
    }

    /// Where the stream goes on: write from its start and say how much with [`Self::advance`].
    /// Never empty.
    ///
    /// Only when [`Self::next`] has nothing more to give and [`Self::wants`] is `None`.
    pub fn space(&mut self) -> &mut [u8] {
        assert_eq!(self.failed, None);
        assert!(self.wants().is_none());
        if let Some(large) = &mut self.large {
            let size = large.header.size as usize;
            assert!(large.filled < size);
            return &mut large.buffer.as_mut()[large.filled..size];
        }
        // What is left is a part of one frame: less than the buffer, so this makes room.
        self.small.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        assert!(self.end < SMALL);
        &mut self.small[self.end..]
    }

    /// `size` bytes were written to the start of the last [`Self::space`].
    pub fn advance(&mut self, size: usize) {
        assert_eq!(self.failed, None);
        if let Some(large) = &mut self.large {
            large.filled += size;
            assert!(large.filled <= large.header.size as usize);
        } else {
            self.end += size;
            assert!(self.end <= SMALL);
        }
    }

    /// The next complete message, if there is one. Call it until it returns `None`, after each
    /// [`Self::advance`] and after [`Self::grant`].
    ///
    /// # Errors
    /// Those of [`Header::decode`] and [`Message::from_parts`], another cluster, a message that is
    /// too large. The stream is lost: end the connection. Every later call returns the same.
    #[expect(clippy::should_implement_trait, reason = "None is not the end of a stream")]
    pub fn next(&mut self) -> Result<Option<Message>, Invalid> {
        if let Some(invalid) = self.failed {
            return Err(invalid);
        }
        let result = self.next_message();
        self.failed = result.as_ref().err().copied();
        self.invariants();
        result
    }

    fn next_message(&mut self) -> Result<Option<Message>, Invalid> {
        if let Some(large) = self.large.take_if(|large| large.is_complete()) {
            return Message::from_parts(large.header, large.buffer.freeze()).map(Some);
        }
        if self.large.is_some() {
            return Ok(None);
        }
        let header = match self.header {
            Some(header) => header,
            None => match self.small[self.start..self.end].first_chunk() {
                Some(bytes) => *self.header.insert(self.check(Header::decode(bytes)?)?),
                None => return Ok(None),
            },
        };
        let size = header.size as usize;
        if self.end - self.start < size {
            return Ok(None);
        }
        let frame = &self.small[self.start..self.start + size];
        let buffer = if matches!(header.command, Command::Prepare(_)) {
            AlignedBuffer::copy_of(frame).freeze()
        } else {
            Bytes::copy_from_slice(frame)
        };
        self.start += size;
        self.header = None;
        Message::from_parts(header, buffer).map(Some)
    }

    /// What only a receiver can refuse in a header.
    fn check(&self, header: Header) -> Result<Header, Invalid> {
        if header.cluster != self.cluster {
            return Err(Invalid::Cluster { theirs: header.cluster, ours: self.cluster });
        }
        if header.size > self.message_size_max {
            return Err(Invalid::Size(header.size));
        }
        Ok(header)
    }

    /// The valid header of a frame larger than [`RECEIVE_BUFFER_SIZE`] that waits for its memory.
    /// Until [`Self::grant`] the connection must not be read.
    pub fn wants(&self) -> Option<&Header> {
        self.header.as_ref().filter(|header| header.size > RECEIVE_BUFFER_SIZE)
    }

    /// Allocates the memory for the frame that [`Self::wants`] it. It is held until
    /// [`Self::next`] moves it out with the message, or the receiver is dropped.
    pub fn grant(&mut self) {
        let header = *self.wants().expect("a grant answers a want");
        assert!(self.large.is_none());
        let mut buffer = LargeBuffer::for_frame(&header);
        let filled = self.end - self.start;
        // The small buffer ends before the frame does, so nothing of a next one is in it.
        assert!(filled < header.size as usize);
        buffer.as_mut()[..filled].copy_from_slice(&self.small[self.start..self.end]);
        self.large = Some(Large { header, buffer, filled });
        self.header = None;
        self.start = 0;
        self.end = 0;
        self.invariants();
    }

    /// The size of the granted frame that is still incomplete, bytes; 0 without one. What a budget
    /// counts for this connection.
    pub fn granted(&self) -> u32 {
        self.large.as_ref().map_or(0, |large| large.header.size)
    }

    /// Bytes received that are not part of a message given out yet: 0 exactly between two frames.
    pub fn buffered(&self) -> u32 {
        let filled = self.large.as_ref().map_or(0, |large| large.filled);
        u32::try_from(self.end - self.start + filled).expect("bounded by the message size")
    }

    fn invariants(&self) {
        assert!(self.start <= self.end);
        assert!(self.end <= SMALL);
        if let Some(large) = &self.large {
            assert_eq!((self.start, self.end), (0, 0));
            assert!(self.header.is_none());
            assert!(large.header.size > RECEIVE_BUFFER_SIZE);
            assert!(large.header.size <= self.message_size_max);
        }
    }
}

impl Large {
    fn is_complete(&self) -> bool {
        self.filled == self.header.size as usize
    }
}

#[cfg(test)]
#[path = "framing_tests.rs"]
mod tests;
