//! `make demo`: the main job, shown working. An argument of `v4`, `v6` or
//! `dual` (the default) chooses the families.

use std::io::Write;

use anyhow::{Result, bail};
use integration::demo::{Stack, run};

fn main() -> Result<()> {
    let stack = match std::env::args().nth(1).as_deref() {
        None | Some("dual") => Stack::Dual,
        Some("v4") => Stack::V4,
        Some("v6") => Stack::V6,
        Some(other) => bail!("{other:?} is not v4, v6 or dual"),
    };
    let mut out = std::io::stdout();
    let mut say = |line: &str| {
        let _ = writeln!(out, "{line}");
    };
    run(stack, &mut say)?;
    say("demo: works");
    Ok(())
}
