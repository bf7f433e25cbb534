//! Fuzz target: `fuzz::cli`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::cli(data));
