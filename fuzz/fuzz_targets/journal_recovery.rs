//! The fuzz target `journal_recovery` for libFuzzer. Its body is in `fuzz/src/journal_recovery.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::journal_recovery::target(data));
