//! Fuzz target: `fuzz::vtep`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::vtep(data));
