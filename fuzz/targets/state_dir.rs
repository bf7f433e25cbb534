//! Fuzz target: `fuzz::state_dir`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::state_dir(data));
