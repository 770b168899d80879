//! F5: whole transfers out of single system calls. A `pread` or `pwrite` may be interrupted, may
//! stop short, and may fail for the sake of one bad sector; what callers of [`super::IO`] see is a
//! buffer that is full, with a list of what is missing, and a write that is whole or has failed.
//!
//! ```text
//!  a read of 8 sectors, sector 5 is bad           calls            result
//!  |0|1|2|3|4|X|6|7|                              0..8  EIO        unreadable = [sector 5]
//!                                                 0..4  ok         sector 5 is zero
//!                                                 4..8  EIO
//!                                                 4..6  EIO
//!                                                 4..5  ok
//!                                                 5..7  EIO, 5..6 EIO: lost
//!                                                 6..7  ok, 7..8 ok
//! ```
//!
//! After a failure the step halves, down to one sector; after a success it doubles, so the cost is
//! some calls for each bad sector and not one call for each sector.
//!
//! **Invariants:** every byte of the buffer is either what the device delivered or zero and listed;
//! the listed ranges are whole sectors, ascending, disjoint and not adjacent; every call begins on
//! a sector boundary, as direct I/O demands; a failed write is never tried again.
//!
//! **Not here:** descriptors and queues (`file.rs`); checksums, which find what the device delivers
//! without knowing that it is wrong.

use crate::constants::SECTOR_SIZE;
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;

const SECTOR: usize = SECTOR_SIZE as usize;

/// How often in a row a call may move less than a sector before the sector counts as lost (read) or
/// the transfer as failed (write). The end of a file that is not whole sectors reads like this, and
/// so might a file system that was interrupted: once more is cheap, for ever is not.
const STALLS_MAX: u32 = 4;

/// Fills `buffer` from `offset` with `read`, a `pread`. Returns the ranges of the buffer that could
/// not be read, zeroed: bad sectors one by one, everything from the end of the file on, and the
/// rest of the buffer after an error that is not of the medium.
pub(super) fn read_isolating(
    mut read: impl FnMut(&mut [u8], u64) -> Result<usize>,
    buffer: &mut [u8],
    offset: u64,
) -> Vec<Range<u32>> {
    let size = buffer.len();
    assert_transfer(size, offset);

    let mut unreadable = Vec::new();
    let mut done = 0;
    let mut step = size;
    let mut stalls = 0;
    while done < size {
        let end = size.min(done + step);
        match read(&mut buffer[done..end], offset + done as u64) {
            Ok(0) => {
                lose(buffer, done..size, &mut unreadable);
                done = size;
            }
            Ok(count) => {
                assert!(count <= end - done);
                let count_whole = count - count % SECTOR;
                if count_whole > 0 {
                    stalls = 0;
                    done += count_whole;
                    step = size.min(step * 2);
                } else {
                    stalls += 1;
                    step = SECTOR;
                    if stalls == STALLS_MAX {
                        stalls = 0;
                        lose(buffer, done..done + SECTOR, &mut unreadable);
                        done += SECTOR;
                    }
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if is_medium_error(&error) => {
                let sectors = (end - done) / SECTOR;
                if sectors > 1 {
                    step = sectors.div_ceil(2) * SECTOR;
                } else {
                    log_first(&unreadable, offset + done as u64, &error);
                    lose(buffer, done..end, &mut unreadable);
                    done = end;
                }
            }
            Err(error) => {
                log_first(&unreadable, offset + done as u64, &error);
                lose(buffer, done..size, &mut unreadable);
                done = size;
            }
        }
        assert!(done.is_multiple_of(SECTOR));
        assert!(step.is_multiple_of(SECTOR) && step > 0);
    }
    assert_eq!(done, size);
    assert!(unreadable.iter().all(|range| range.start < range.end));
    unreadable
}

/// Writes all of `sectors` at `offset` with `write`, a `pwrite`.
///
/// # Errors
/// `StorageFull` when there is no room, on the device or in the quota; anything else as it came.
/// Some of the sectors may have been written.
pub(super) fn write_whole(
    mut write: impl FnMut(&[u8], u64) -> Result<usize>,
    sectors: &[u8],
    offset: u64,
) -> Result<()> {
    assert_transfer(sectors.len(), offset);

    let mut done = 0;
    let mut stalls = 0;
    while done < sectors.len() {
        match write(&sectors[done..], offset + done as u64) {
            Ok(count) => {
                assert!(count <= sectors.len() - done);
                let count_whole = count - count % SECTOR;
                done += count_whole;
                stalls = if count_whole > 0 { 0 } else { stalls + 1 };
                if count == 0 || stalls == STALLS_MAX {
                    return Err(ErrorKind::WriteZero.into());
                }
            }
            // Interrupted means that nothing was written: this is not a failed write.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::QuotaExceeded => {
                return Err(Error::new(ErrorKind::StorageFull, error));
            }
            Err(error) => return Err(error),
        }
        assert!(done.is_multiple_of(SECTOR));
    }
    Ok(())
}

/// What is true of every transfer, read or write.
fn assert_transfer(size: usize, offset: u64) {
    assert!(size > 0);
    assert!(size.is_multiple_of(SECTOR));
    assert!(u32::try_from(size).is_ok());
    assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
    assert!(i64::try_from(offset + size as u64).is_ok());
}

/// Zeroes `range` of the buffer and lists it, merged with the range before it where they touch.
fn lose(buffer: &mut [u8], range: Range<usize>, unreadable: &mut Vec<Range<u32>>) {
    assert!(range.start < range.end);
    buffer[range.clone()].fill(0);
    let start = u32::try_from(range.start).expect("a buffer is smaller than 4 GiB");
    let end = u32::try_from(range.end).expect("a buffer is smaller than 4 GiB");
    match unreadable.last_mut() {
        Some(last) if last.end == start => last.end = end,
        last => {
            assert!(last.is_none_or(|last| last.end < start));
            unreadable.push(start..end);
        }
    }
}

/// One line for each buffer with a read error, not one for each of its sectors.
fn log_first(unreadable: &[Range<u32>], offset: u64, error: &Error) {
    if unreadable.is_empty() {
        log::warn!("read_isolating: unreadable ({error}) offset={offset}");
    }
}

/// Whether `error` may concern some sectors and not others. `EIO` is the classic; direct I/O hands
/// through what the block layer says, and there a bad sector of a drive is `ENODATA`, a failed
/// integrity check `EILSEQ` or `EBADMSG`, and a fault of the target device `EREMOTEIO`.
fn is_medium_error(error: &Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::ENODATA | libc::EILSEQ | libc::EBADMSG | libc::EREMOTEIO)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stdx::{Prng, Ratio};

    /// A device of whole sectors, some of them bad, that is interrupted and stops short at random.
    struct Device {
        bytes: Vec<u8>,
        bad: Vec<bool>,
        errno: i32,
        interrupted: Ratio,
        short: Ratio,
        prng: Prng,
        calls: u32,
    }

    impl Device {
        fn new(seed: u64, sectors: usize) -> Self {
            let mut prng = Prng::from_seed(seed);
            let mut bytes = vec![0; sectors * SECTOR];
            prng.fill(&mut bytes);
            let never = Ratio::new(0, 1);
            let bad = vec![false; sectors];
            Self { bytes, bad, errno: libc::EIO, interrupted: never, short: never, prng, calls: 0 }
        }

        fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<usize> {
            self.calls += 1;
            let offset = usize::try_from(offset).unwrap();
            assert!(offset.is_multiple_of(SECTOR));
            assert!(buffer.len().is_multiple_of(SECTOR) && !buffer.is_empty());
            if self.prng.chance(self.interrupted) {
                return Err(ErrorKind::Interrupted.into());
            }
            let available = self.bytes.len().saturating_sub(offset);
            let mut count = buffer.len().min(available);
            if count == 0 {
                return Ok(0);
            }
            if self.prng.chance(self.short) {
                count = self.prng.index(count / SECTOR + 1).max(1) * SECTOR;
                count = count.min(available);
            }
            let sectors = offset / SECTOR..(offset + count).div_ceil(SECTOR);
            if sectors.clone().any(|sector| self.bad[sector]) {
                // What a failed transfer leaves in the buffer is anything.
                self.prng.fill(buffer);
                return Err(Error::from_raw_os_error(self.errno));
            }
            buffer[..count].copy_from_slice(&self.bytes[offset..offset + count]);
            Ok(count)
        }
    }

    /// What a read must give, found sector by sector.
    fn expected(device: &Device, offset: usize, size: usize) -> (Vec<u8>, Vec<Range<u32>>) {
        let mut bytes = vec![0; size];
        let mut lost = Vec::new();
        for start in (0..size).step_by(SECTOR) {
            let sector = (offset + start) / SECTOR;
            if sector < device.bad.len() && !device.bad[sector] {
                let source = &device.bytes[sector * SECTOR..][..SECTOR];
                bytes[start..start + SECTOR].copy_from_slice(source);
            } else {
                lost.push(start);
            }
        }
        let mut ranges: Vec<Range<u32>> = Vec::new();
        for start in lost {
            let start = u32::try_from(start).unwrap();
            match ranges.last_mut() {
                Some(last) if last.end == start => last.end += SECTOR_SIZE,
                _ => ranges.push(start..start + SECTOR_SIZE),
            }
        }
        (bytes, ranges)
    }

    fn one(range: Range<u32>) -> Vec<Range<u32>> {
        std::iter::once(range).collect()
    }

    #[test]
    fn isolates_random_bad_sectors_like_brute_force() {
        for seed in 0..500 {
            let mut prng = Prng::from_seed(seed);
            let sectors = 1 + prng.index(40);
            let mut device = Device::new(seed, sectors);
            let density = Ratio::new(u32::try_from(prng.below(12)).unwrap(), 12);
            for sector in 0..sectors {
                device.bad[sector] = prng.chance(density);
            }
            device.interrupted = Ratio::new(u32::try_from(prng.below(3)).unwrap(), 4);
            device.short = Ratio::new(u32::try_from(prng.below(4)).unwrap(), 4);
            let errnos = [libc::EIO, libc::ENODATA, libc::EILSEQ, libc::EBADMSG, libc::EREMOTEIO];
            device.errno = errnos[prng.index(errnos.len())];

            // The range may end, or begin, behind the end of the device.
            let offset = prng.index(sectors + 2) * SECTOR;
            let size = (1 + prng.index(48)) * SECTOR;
            let (bytes, ranges) = expected(&device, offset, size);
            let mut buffer = vec![0xAA; size];
            let unreadable = read_isolating(
                |buffer, offset| device.read(buffer, offset),
                &mut buffer,
                offset as u64,
            );
            assert_eq!(unreadable, ranges, "seed {seed}");
            assert!(buffer == bytes, "seed {seed}");
        }
    }

    #[test]
    fn one_bad_sector_costs_few_calls() {
        let mut device = Device::new(1, 256);
        device.bad[171] = true;
        let mut buffer = vec![0; 256 * SECTOR];
        let unreadable =
            read_isolating(|buffer, offset| device.read(buffer, offset), &mut buffer, 0);
        assert_eq!(unreadable, one(171 * SECTOR_SIZE..172 * SECTOR_SIZE));
        assert!(device.calls < 50, "{}", device.calls);

        let mut sound = Device::new(2, 256);
        read_isolating(|buffer, offset| sound.read(buffer, offset), &mut buffer, 0);
        assert_eq!(sound.calls, 1);
    }

    #[test]
    fn a_partial_sector_at_the_end_is_lost_whole() {
        let mut device = Device::new(3, 3);
        device.bytes.truncate(2 * SECTOR + 100);
        let mut buffer = vec![0xAA; 4 * SECTOR];
        let unreadable =
            read_isolating(|buffer, offset| device.read(buffer, offset), &mut buffer, 0);
        assert_eq!(unreadable, one(2 * SECTOR_SIZE..4 * SECTOR_SIZE));
        assert!(buffer[..2 * SECTOR] == device.bytes[..2 * SECTOR]);
        assert!(buffer[2 * SECTOR..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn less_than_a_sector_now_and_then_loses_nothing() {
        let mut device = Device::new(4, 16);
        let mut turn = 0;
        let mut buffer = vec![0; 16 * SECTOR];
        let unreadable = read_isolating(
            |buffer, offset| {
                turn += 1;
                let count = device.read(buffer, offset)?;
                Ok(if turn % 3 == 0 { 512 } else { count.min(SECTOR + 512) })
            },
            &mut buffer,
            0,
        );
        assert!(unreadable.is_empty());
        assert!(buffer == device.bytes);
    }

    #[test]
    fn any_other_error_loses_the_rest() {
        let mut device = Device::new(5, 8);
        let mut buffer = vec![0xAA; 8 * SECTOR];
        let mut calls = 0;
        let unreadable = read_isolating(
            |buffer, offset| {
                calls += 1;
                if calls > 1 {
                    return Err(Error::from_raw_os_error(libc::EBADF));
                }
                device.read(&mut buffer[..3 * SECTOR], offset)
            },
            &mut buffer,
            0,
        );
        assert_eq!(calls, 2);
        assert_eq!(unreadable, one(3 * SECTOR_SIZE..8 * SECTOR_SIZE));
        assert!(buffer[..3 * SECTOR] == device.bytes[..3 * SECTOR]);
        assert!(buffer[3 * SECTOR..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn writes_on_through_interruptions_and_short_writes() {
        for seed in 0..100 {
            let mut prng = Prng::from_seed(seed);
            let mut sectors = vec![0; (1 + prng.index(20)) * SECTOR];
            prng.fill(&mut sectors);
            let mut written = vec![0; sectors.len()];
            let mut stalled = false;
            let result = write_whole(
                |bytes, offset| {
                    assert!(offset.is_multiple_of(u64::from(SECTOR_SIZE)));
                    if prng.chance(Ratio::new(1, 3)) {
                        return Err(ErrorKind::Interrupted.into());
                    }
                    // Less than a sector, but not often enough in a row to be a failure.
                    let count = if stalled || prng.chance(Ratio::new(1, 2)) {
                        (1 + prng.index(bytes.len() / SECTOR)) * SECTOR
                    } else {
                        1 + prng.index(SECTOR - 1)
                    };
                    stalled = count < SECTOR;
                    let offset = usize::try_from(offset).unwrap();
                    written[offset..offset + count].copy_from_slice(&bytes[..count]);
                    Ok(count)
                },
                &sectors,
                0,
            );
            assert!(result.is_ok());
            assert!(written == sectors);
        }
    }

    #[test]
    fn a_failed_write_is_not_tried_again() {
        for (errno, kind) in [
            (libc::ENOSPC, ErrorKind::StorageFull),
            (libc::EDQUOT, ErrorKind::StorageFull),
            (libc::EBADF, Error::from_raw_os_error(libc::EBADF).kind()),
            (libc::EIO, Error::from_raw_os_error(libc::EIO).kind()),
        ] {
            let mut calls = 0;
            let result = write_whole(
                |_, _| {
                    calls += 1;
                    // The first sector goes, then it fails.
                    if calls == 1 { Ok(SECTOR) } else { Err(Error::from_raw_os_error(errno)) }
                },
                &[0; 4 * SECTOR],
                0,
            );
            assert_eq!(result.unwrap_err().kind(), kind);
            assert_eq!(calls, 2);
        }
    }

    #[test]
    fn a_write_that_does_not_move_fails() {
        for count in [0, 1] {
            let mut calls = 0;
            let result = write_whole(
                |_, _| {
                    calls += 1;
                    Ok(count)
                },
                &[0; SECTOR],
                0,
            );
            assert_eq!(result.unwrap_err().kind(), ErrorKind::WriteZero);
            assert!(calls <= STALLS_MAX);
        }
    }
}
