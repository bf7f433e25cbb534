//! Fuzz target: `fuzz::lease_key`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::lease_key(data));
