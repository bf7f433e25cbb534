//! Fuzz target: `fuzz::lease_value`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::lease_value(data));
