//! `make soak`: chaos, one seed after the other. Arguments are the seeds; 1 to
//! 10 without.

use std::io::Write;

use anyhow::{Context, Result};
use integration::chaos::soak;

/// Faults of each seed.
const FAULTS: usize = 120;

fn main() -> Result<()> {
    let mut seeds = Vec::new();
    for word in std::env::args().skip(1) {
        seeds.push(word.parse().with_context(|| format!("seed {word:?}"))?);
    }
    if seeds.is_empty() {
        seeds.extend(1..=10);
    }
    let mut out = std::io::stdout();
    soak(&seeds, FAULTS, &mut |line| {
        let _ = writeln!(out, "{line}");
    })
}
