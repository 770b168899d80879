//! The fuzz target `header` for libFuzzer. Its body is in `fuzz/src/header.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::header::target(data));
