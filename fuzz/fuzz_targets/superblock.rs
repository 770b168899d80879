//! The fuzz target `superblock` for libFuzzer. Its body is in `fuzz/src/superblock.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::superblock::target(data));
