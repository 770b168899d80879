//! The fuzz target `message` for libFuzzer. Its body is in `fuzz/src/message.rs`.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| vsr_fuzz::message::target(data));
