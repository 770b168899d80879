//! The fuzz target `addresses` for libFuzzer. Its body is in `fuzz/src/addresses.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::addresses::target(data));
