//! The fuzz target `view_change` for libFuzzer. Its body is in `fuzz/src/view_change.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::view_change::target(data));
