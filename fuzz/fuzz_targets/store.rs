//! The fuzz target `store` for libFuzzer. Its body is in `fuzz/src/store.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::store::target(data));
