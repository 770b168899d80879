//! The fuzz target `hostile` for libFuzzer. Its body is in `fuzz/src/hostile.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::hostile::target(data));
