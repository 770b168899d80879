//! The fuzz target `kv` for libFuzzer. Its body is in `fuzz/src/kv.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::kv::target(data));
