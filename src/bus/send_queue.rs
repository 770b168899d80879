//! F5: the messages that wait to be sent over one connection.
//!
//! ```text
//!    front                                  back
//!   [ sent | unsent ] [ message ] [ message ]   <- push: refused when full
//!          ^ offset
//! ```
//!
//! Full: the *new* message is refused and the protocol sends again. What is queued is shared, not
//! copied.
//!
//! **Invariants:** a message that was begun is sent whole before the next one; `offset` is less
//! than the size of the front; `size` is the sum of all queued messages, the front in full.

use crate::wire::Message;
use bytes::Bytes;
use std::collections::VecDeque;
use std::io::IoSlice;

/// The most slices of one vectored send.
pub(super) const SLICES_MAX: usize = 64;

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Messages.
    pub(super) count_max: usize,
    /// Their bytes, together.
    pub(super) size_max: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct SendQueue {
    messages: VecDeque<Bytes>,
    offset: usize,
    size: usize,
}

impl SendQueue {
    /// Appends `message`; false if there is no room for it.
    #[must_use]
    pub(super) fn push(&mut self, message: &Message, limits: &Limits) -> bool {
        let bytes = message.bytes();
        if self.messages.len() >= limits.count_max || self.size + bytes.len() > limits.size_max {
            return false;
        }
        assert!(!bytes.is_empty());
        self.size += bytes.len();
        self.messages.push_back(bytes);
        true
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// How many messages wait.
    pub(super) fn count(&self) -> usize {
        self.messages.len()
    }

    /// The bytes of memory that are held.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// What to send next, in order.
    pub(super) fn slices<'a>(
        &'a self,
        slices: &'a mut [IoSlice<'a>; SLICES_MAX],
    ) -> &'a [IoSlice<'a>] {
        let mut count = 0;
        let mut offset = self.offset;
        for (message, slice) in self.messages.iter().zip(slices.iter_mut()) {
            assert!(offset < message.len());
            *slice = IoSlice::new(&message[offset..]);
            offset = 0;
            count += 1;
        }
        &slices[..count]
    }

    /// `size` bytes were sent. Returns how many messages they complete.
    pub(super) fn advance(&mut self, size: usize) -> u64 {
        let mut rest = size;
        let mut completed = 0;
        while rest > 0 {
            let front = self.messages.front().expect("no more is sent than was queued").len();
            let step = rest.min(front - self.offset);
            self.offset += step;
            rest -= step;
            if self.offset == front {
                self.messages.pop_front();
                self.offset = 0;
                self.size -= front;
                completed += 1;
            }
        }
        assert_eq!(self.messages.is_empty(), self.size == 0);
        completed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::Prng;
    use crate::wire::{Author, Block, ClusterId, ReplicaIndex, View};

    const LIMITS: Limits = Limits { count_max: 3, size_max: 1000 };

    fn message(size: usize) -> Message {
        let author = Author {
            cluster: ClusterId(0),
            view: View(0),
            replica: ReplicaIndex(0),
            incarnation: 0,
        };
        Message::new(&author, Block::default(), &vec![u8::try_from(size % 251).unwrap(); size])
    }

    #[test]
    fn is_bounded_in_messages_and_bytes() {
        let mut queue = SendQueue::default();
        assert!(queue.push(&message(100), &LIMITS));
        assert!(!queue.push(&message(1000 - 128), &LIMITS), "too many bytes");
        assert!(queue.push(&message(1), &LIMITS));
        assert!(queue.push(&message(2), &LIMITS));
        assert!(!queue.push(&message(3), &LIMITS), "too many messages");
        assert_eq!(queue.size(), 3 * 128 + 103);
        assert_eq!(queue.advance(128 + 99), 0);
        assert!(!queue.push(&message(3), &LIMITS), "the front is still there");
        assert_eq!(queue.advance(1), 1);
        assert!(queue.push(&message(3), &LIMITS));
    }

    #[test]
    fn any_pieces_make_the_same_stream() {
        for seed in 0..50 {
            let mut prng = Prng::from_seed(seed);
            let limits = Limits { count_max: 200, size_max: 1 << 20 };
            let mut queue = SendQueue::default();
            let mut expected = Vec::new();
            for _ in 0..100 {
                let message = message(prng.index(300));
                assert!(queue.push(&message, &limits));
                expected.extend_from_slice(message.as_bytes());
            }
            let mut sent = Vec::new();
            while !queue.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let available = queue.slices(&mut slices).concat_bytes();
                let size = 1 + prng.index(available.len());
                sent.extend_from_slice(&available[..size]);
                queue.advance(size);
            }
            assert!(sent == expected);
            assert_eq!(queue.size(), 0);
        }
    }

    trait ConcatBytes {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl ConcatBytes for &[IoSlice<'_>] {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|slice| slice.iter().copied()).collect()
        }
    }
}
