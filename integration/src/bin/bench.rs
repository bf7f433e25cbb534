//! `make bench`: what we take, beside what others take in the same run.
//! Arguments choose rows; docs/benchmarks.md explains them.

use std::io::Write;

fn main() -> anyhow::Result<()> {
    let rows: Vec<_> = std::env::args().skip(1).collect();
    let mut out = std::io::stdout();
    integration::bench::run(&rows, &mut |line| {
        let _ = writeln!(out, "{line}");
    })
}
