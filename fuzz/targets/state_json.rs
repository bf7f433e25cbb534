//! Fuzz target: `fuzz::state_json`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::state_json(data));
