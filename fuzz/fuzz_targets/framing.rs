//! The fuzz target `framing` for libFuzzer. Its body is in `fuzz/src/framing.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::framing::target(data));
