//! The fuzz target `sim` for libFuzzer. Its body is in `fuzz/src/sim.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::sim::target(data));
