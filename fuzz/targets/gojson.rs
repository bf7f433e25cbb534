//! Fuzz target: `fuzz::gojson`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::gojson(data));
