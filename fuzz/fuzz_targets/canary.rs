//! The fuzz target `canary` for libFuzzer. Its body is in `fuzz/src/canary.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::canary::target(data));
