//! Fuzz target: `fuzz::net_conf`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz::net_conf(data));
