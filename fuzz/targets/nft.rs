//! Fuzz target: `fuzz::nft`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::nft(data));
