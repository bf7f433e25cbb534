//! Fuzz target: `fuzz::subnet_env`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::subnet_env(data));
