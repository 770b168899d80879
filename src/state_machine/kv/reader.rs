//! F4: takes a kv request or reply apart from front to back.
//!
//! **Invariants:** total: whatever the bytes say, a read stays within them or is an error, and
//! nothing is allocated here.
//!
//! **Not here:** what the fields mean.

/// The bytes that are still to be read. Errors say what is wrong.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn bytes(&mut self, size: usize) -> Result<&'a [u8], &'static str> {
        let (bytes, rest) = self.rest.split_at_checked(size).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], &'static str> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or("it ends too early")?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self) -> Result<u8, &'static str> {
        self.array().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Result<u16, &'static str> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, &'static str> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, &'static str> {
        self.array().map(u64::from_le_bytes)
    }

    /// The format byte and the zero behind it, with which both requests and replies begin.
    pub(super) fn format(&mut self) -> Result<(), &'static str> {
        if self.u8()? != super::FORMAT {
            return Err("unknown format");
        }
        self.zeros(1)
    }

    /// `size` bytes that are zero.
    pub(super) fn zeros(&mut self, size: usize) -> Result<(), &'static str> {
        let zeros = self.bytes(size)?;
        if zeros.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err("reserved bytes are not zero")
        }
    }

    pub(super) fn end(self) -> Result<(), &'static str> {
        if self.rest.is_empty() { Ok(()) } else { Err("bytes after the end") }
    }
}
